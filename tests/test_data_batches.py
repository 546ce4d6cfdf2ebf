"""Batches and augmentation: reproducible, resumable, and equal to a plain loop over samples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

import kdlab.data as kd
from kdlab.data import augment
from kdlab.data.augment import PadCrop
from kdlab.data.resident import epoch_seed
from kdlab.errors import ConfigError, UnknownNameError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def split(count: int, size: int = 12, channels: int = 3) -> kd.Split:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    # the index is not the position, so that a mix-up shows
    return kd.Split(images, torch.arange(count) % 7, 1000 + 3 * torch.arange(count))


def batches(count: int = 50, batch_size: int = 8, seed: int = 0, **options: object) -> kd.Batches:
    options = {"augment": "crop_flip", **options}
    return kd.Batches(split(count), batch_size=batch_size, seed=seed, mean=MEAN, std=STD, **options)


def equal(a: kd.Batch, b: kd.Batch) -> bool:
    return all(x.equal(y) for x, y in zip(a, b, strict=True))


# ---- augmentation ----------------------------------------------------------------------------------


def plain_pad_crop(
    image: np.ndarray, pad: int, row: int, column: int, mirror: int, reflect: bool
) -> np.ndarray:
    """One (C, H, W) image, the obvious way."""
    margin = ((0, 0), (pad, pad), (pad, pad))
    padded = np.pad(image, margin, mode="reflect") if reflect else np.pad(image, margin)
    window = padded[:, row : row + image.shape[1], column : column + image.shape[2]]
    return window[:, :, ::-1] if mirror else window


@pytest.mark.parametrize("name", ["shift", "crop", "flip", "crop_flip", "crop_flip_8", "crop_flip_reflect"])
@pytest.mark.parametrize("shape", [(3, 12, 12), (1, 9, 14)])
def test_equals_a_loop_over_samples(name: str, shape: tuple[int, int, int]) -> None:
    how = augment.get(name)
    assert isinstance(how, PadCrop)
    images = torch.randint(0, 256, (200, *shape), dtype=torch.uint8)
    before = images.clone()
    params = how.draw(200, torch.Generator().manual_seed(1))
    got = how.apply(images, params)
    assert got.dtype == torch.uint8 and got.shape == images.shape
    for k, (row, column, mirror) in enumerate(params.tolist()):
        expected = plain_pad_crop(images[k].numpy(), how.pad, row, column, mirror, how.reflect)
        np.testing.assert_array_equal(got[k].numpy(), expected)
    assert images.equal(before)  # the resident images are never changed


def test_draws_are_even_and_per_sample() -> None:
    params = PadCrop(4, flip=True).draw(81_000, torch.Generator().manual_seed(0))
    windows = torch.bincount(params[:, 0] * 9 + params[:, 1], minlength=81)
    assert len(windows) == 81 and (windows - 1000).abs().max() < 160  # 5 standard deviations
    assert abs(params[:, 2].double().mean() - 0.5) < 0.01
    assert PadCrop(4).draw(100, torch.Generator().manual_seed(0))[:, 2].eq(0).all()
    together = np.corrcoef(params.double().T.numpy())
    assert np.abs(together - np.eye(3)).max() < 0.02


def test_draws_do_not_touch_the_global_generator() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    next(iter(batches().epoch(0)))
    assert torch.get_rng_state().equal(before)


def test_registry() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'crop_flip'"):
        augment.get("crop_flop")
    with pytest.raises(ConfigError, match=r"has \.draw"):
        augment.get(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="augmentation named 'crop' already"):
        augment.register("crop", PadCrop(2))
    with pytest.raises(ConfigError, match="too small to be reflected"):
        images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
        how = augment.get("crop_flip_reflect")
        how.apply(images, how.draw(2, torch.Generator()))


class Darken:
    """An augmentation of one's own: brightness divided by 1, 2 or 4."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randint(0, 3, (n, 1), generator=generator)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        return images >> params.to(torch.uint8).view(-1, 1, 1, 1)


def test_an_augmentation_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "_REGISTRY", dict(augment._REGISTRY))
    augment.register("darken", Darken())
    assert "darken" in augment.names()
    named = list(batches(augment="darken").epoch(2))
    given = list(batches(augment=Darken()).epoch(2))
    assert all(equal(a, b) for a, b in zip(named, given, strict=True))
    plain = list(batches(augment="none").epoch(2))
    assert not equal(named[0], plain[0])
    with pytest.raises(ConfigError, match=r"has \.draw"):
        augment.register("class", Darken)  # type: ignore[arg-type]


# ---- batches ---------------------------------------------------------------------------------------


def test_an_epoch_holds_every_image_once() -> None:
    source = split(50)
    found = batches(augment="none")
    assert found.steps_per_epoch == 7
    steps = list(found.epoch(3))
    assert [len(batch.labels) for batch in steps] == [8] * 6 + [2]
    index = torch.cat([batch.index for batch in steps])
    assert sorted(index.tolist()) == source.index.tolist()
    assert index.tolist() != source.index.tolist()  # shuffled
    position = (index - 1000) // 3
    assert torch.cat([batch.labels for batch in steps]).equal(source.labels[position])
    expected = kd.normalize(source.images[position], MEAN, STD)
    assert torch.cat([batch.images for batch in steps]).equal(expected)
    images, labels, _ = steps[0]
    assert images.dtype == torch.float32 and labels.dtype == torch.int64


def test_same_seed_same_batches_in_any_order() -> None:
    first, second = batches(seed=4), batches(seed=4)
    late = [list(second.epoch(e)) for e in (5, 1, 0)]
    early = [list(first.epoch(e)) for e in (0, 1, 5)]
    for a, b in zip(early, reversed(late), strict=True):
        assert all(equal(x, y) for x, y in zip(a, b, strict=True))


def test_epochs_and_seeds_differ() -> None:
    orders = set()
    for seed in range(4):
        for epoch in range(4):
            found = list(batches(seed=seed).epoch(epoch))
            orders.add(tuple(torch.cat([batch.index for batch in found]).tolist()))
    assert len(orders) == 16
    assert len({epoch_seed(s, e) for s in range(30) for e in range(30)}) == 900
    # the same image is cut differently in another epoch
    one, two = (batches(count=20, batch_size=20) for _ in range(2))
    a, b = next(one.epoch(0)), next(two.epoch(1))
    same = a.images[a.index.argsort()].eq(b.images[b.index.argsort()]).flatten(1).all(1)
    assert same.sum() <= 3


def test_epoch_seed_is_pinned() -> None:
    # another rule would give other batches: runs begun before could not be resumed exactly
    assert epoch_seed(0, 1) == 7298418721042213308
    assert 0 <= epoch_seed(2**62, 10**6) < 2**63


@pytest.mark.parametrize("start", [0, 1, 4, 6, 7])
def test_resume_within_an_epoch(start: int) -> None:
    whole = list(batches().epoch(2))
    rest = list(batches().epoch(2, start=start))
    assert len(rest) == 7 - start
    assert all(equal(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_a_lone_last_image_is_dropped() -> None:
    lone = batches(count=49)
    assert lone.steps_per_epoch == 6
    assert [len(batch.labels) for batch in lone.epoch(0)] == [8] * 6
    dropped = [
        set(split(49).index.tolist()) - {int(i) for b in lone.epoch(e) for i in b.index} for e in range(6)
    ]
    assert all(len(d) == 1 for d in dropped) and len(set.union(*dropped)) > 1  # not always the same one
    assert batches(count=50, drop_last=True).steps_per_epoch == 6
    assert [len(b.labels) for b in batches(count=50, drop_last=True).epoch(0)] == [8] * 6
    assert batches(count=48).steps_per_epoch == 6
    assert [len(b.labels) for b in batches(count=5).epoch(0)] == [5]


def test_bad_batches_are_refused_at_once() -> None:
    for size in (1, 0, 2.5, True):
        with pytest.raises(ConfigError, match="batch_size must be a whole number of at least 2"):
            batches(batch_size=size)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="5 training images make no batch of 8.*drop_last=False"):
        batches(count=5, drop_last=True)
    with pytest.raises(ConfigError, match=r"steps 0\.\.7; it cannot start at 8"):
        batches().epoch(0, start=8)
    with pytest.raises(UnknownNameError):
        batches(augment="corp")


def test_memory_format_changes_no_value() -> None:
    plain = next(batches().epoch(1)).images
    last = next(batches(memory_format=torch.channels_last).epoch(1)).images
    assert last.is_contiguous(memory_format=torch.channels_last) and last.equal(plain)


def test_eval_batches_are_in_order_and_whole() -> None:
    source = split(49)
    steps = list(kd.eval_batches(source, MEAN, STD, 8, "cpu"))
    assert [len(batch.labels) for batch in steps] == [8] * 6 + [1]  # nothing is dropped
    assert torch.cat([batch.index for batch in steps]).equal(source.index)
    assert torch.cat([batch.images for batch in steps]).equal(kd.normalize(source.images, MEAN, STD))
    assert list(kd.eval_batches(source.take([]), MEAN, STD, 8)) == []


# ---- fixed views, second views -----------------------------------------------------------------------


def by_row(found: list[kd.Batch], what: str = "images") -> Tensor:
    """What all batches of an epoch show, in the order of the split."""
    order = torch.cat([batch.rows for batch in found]).argsort()
    return torch.cat([getattr(batch, what) for batch in found])[order]


def test_rows_are_positions_in_the_split() -> None:
    source = split(50)
    for batch in [*batches().epoch(3), *kd.eval_batches(source, MEAN, STD, 8)]:
        assert batch.rows.dtype == torch.int64 and batch.view == 0 and batch.second is None
        assert source.index[batch.rows].equal(batch.index)
        assert source.labels[batch.rows].equal(batch.labels)


def test_images_of_an_epoch_are_pinned() -> None:
    """Another rule would give other batches: runs begun before could not be resumed exactly."""
    first = next(batches().epoch(1))
    assert first.index.tolist() == [1135, 1096, 1126, 1051, 1042, 1024, 1066, 1054]
    generator = torch.Generator().manual_seed(epoch_seed(0, 1))
    order = torch.randperm(50, generator=generator)
    params = PadCrop(4, flip=True).draw(50, generator)
    images = augment.get("crop_flip").apply(split(50).images[order[:8]], params[:8])
    assert first.images.equal(kd.normalize(images, MEAN, STD))


@pytest.mark.parametrize("views", [1, 3])
def test_a_view_shows_the_very_same_pictures_again(views: int) -> None:
    fixed = batches(views=views)
    seen = {epoch: list(fixed.epoch(epoch)) for epoch in range(1, 2 * views + 1)}
    shown = {epoch: by_row(found) for epoch, found in seen.items()}
    for epoch, found in seen.items():
        assert {batch.view for batch in found} == {(epoch - 1) % views}
        for other in seen:
            assert shown[epoch].equal(shown[other]) == ((epoch - other) % views == 0)
    once, again = seen[1], seen[1 + views]
    assert not once[0].rows.equal(again[0].rows)  # the same pictures in another order
    assert all(equal(a, b) for a, b in zip(once, batches(views=views).epoch(1), strict=True))
    assert not by_row(list(batches(views=views, seed=1).epoch(1))).equal(shown[1])


def test_views_leave_the_order_as_it_is() -> None:
    for epoch in (1, 2, 7):
        for fixed, free in zip(batches(views=2).epoch(epoch), batches().epoch(epoch), strict=True):
            assert fixed.index.equal(free.index) and fixed.labels.equal(free.labels)
    # the batch size moves pictures between batches; what is seen of each is the same
    assert by_row(list(batches(views=2).epoch(1))).equal(
        by_row(list(batches(views=2, batch_size=25).epoch(1)))
    )


def test_resume_within_an_epoch_of_views() -> None:
    options = {"views": 2, "second": "flip"}
    whole = list(batches(**options).epoch(4))
    rest = list(batches(**options).epoch(4, start=3))
    assert all(equal(a, b) for a, b in zip(whole[3:], rest, strict=True))
    assert all(a.second.equal(b.second) for a, b in zip(whole[3:], rest, strict=True))


@pytest.mark.parametrize("size", [7, 50, 64])
def test_a_whole_view_is_what_epochs_show(size: int) -> None:
    fixed = batches(views=2, second="shift", memory_format=torch.channels_last)
    for view in (0, 1):
        whole = list(fixed.whole_view(view, size))
        epoch = list(fixed.epoch(view + 3))
        assert torch.cat([batch.rows for batch in whole]).equal(torch.arange(50))
        assert {batch.view for batch in whole} == {view}
        for what in ("images", "second", "labels", "index"):
            assert torch.cat([getattr(b, what) for b in whole]).equal(by_row(epoch, what))
        assert whole[0].images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("views", [None, 2])
def test_a_second_view_changes_nothing_of_the_first(views: int | None) -> None:
    for epoch in (1, 2, 3):
        alone = list(batches(views=views).epoch(epoch))
        both = list(batches(views=views, second="crop_flip").epoch(epoch))
        assert all(equal(a, b) for a, b in zip(alone, both, strict=True))
        for batch in both:
            assert batch.second is not None and batch.second.shape == batch.images.shape
            assert not batch.second.equal(batch.images)
    plain = list(batches(views=views, second="none").epoch(2))
    source = kd.normalize(split(50).images, MEAN, STD)
    assert by_row(plain, "second").equal(source)  # the same pictures, under the augmentation asked for


def test_second_views_change_with_the_epoch_or_the_view() -> None:
    free, fixed = batches(second="crop_flip"), batches(second="crop_flip", views=2)
    shown = [by_row(list(free.epoch(e)), "second") for e in (1, 2, 3)]
    assert not any(a.equal(b) for a, b in itertools.combinations(shown, 2))
    shown = [by_row(list(fixed.epoch(e)), "second") for e in (1, 2, 3)]
    assert shown[0].equal(shown[2]) and not shown[0].equal(shown[1])


def test_an_augmentation_that_writes_in_place_harms_nothing() -> None:
    class Blacken(Darken):
        def apply(self, images: Tensor, params: Tensor) -> Tensor:
            return images.zero_()

    harmful = batches(augment=Blacken(), second="none", views=1)
    before = harmful.split.images.clone()
    for batch in [*harmful.whole_view(0, 16), *harmful.epoch(1)]:
        assert batch.second.equal(kd.normalize(before[batch.rows], MEAN, STD))
    assert harmful.split.images.equal(before)


def test_wrong_views_are_refused() -> None:
    for views in (0, -1, True, 1.5):
        with pytest.raises(ConfigError, match="views must be None or a whole number of at least 1"):
            batches(views=views)
    with pytest.raises(ConfigError, match=r"views 0\.\.1; there is no view 2"):
        batches(views=2).whole_view(2, 8)
    with pytest.raises(ConfigError, match="no fixed views"):
        batches().whole_view(0, 8)
    with pytest.raises(UnknownNameError, match="did you mean 'crop_flip'"):
        batches(second="crop_flop")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["none", "shift", "crop_flip", "crop_flip_reflect"])
def test_a_gpu_sees_the_same_batches(name: str) -> None:
    for here, there in zip(
        batches(augment=name).epoch(1), batches(augment=name, device="cuda").epoch(1), strict=True
    ):
        assert there.images.is_cuda
        torch.testing.assert_close(there.images.cpu(), here.images, rtol=0, atol=1e-6)
        assert there.index.cpu().equal(here.index) and there.labels.cpu().equal(here.labels)

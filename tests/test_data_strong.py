"""The strong view: torchvision's operations, one picture at a time, are what whole batches must equal."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

import kdlab
from kdlab.data import augment
from kdlab.data.augment import Augmentation, PadCrop
from kdlab.data.strong import OPERATIONS, Strong, _between, _operate
from kdlab.errors import ConfigError
from tests.small_study import same, small, weights
from tests.test_data_batches import batches, equal, split

NAMES = list(OPERATIONS)
SHAPES = [(3, 32, 32), (1, 28, 28), (3, 17, 24)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Smooth pictures with noise, not of full range; so that every operation changes something."""
    base = torch.rand((count, shape[0], 4, 4), generator=generator(seed)) * 170 + 20
    smooth = torch.nn.functional.interpolate(base, shape[1:], mode="bilinear")
    noise = torch.rand(smooth.shape, generator=generator(seed + 1)) * 40
    return (smooth + noise).to(torch.uint8)


def expected(name: str, picture: Tensor, strength: float) -> Tensor:
    """torchvision's own operation on one picture."""
    blends = {
        "brightness": vision.adjust_brightness,
        "color": vision.adjust_saturation,
        "contrast": vision.adjust_contrast,
        "sharpness": vision.adjust_sharpness,
    }
    if name in blends:
        return blends[name](picture, strength)
    if name == "posterize":
        return vision.posterize(picture, int(strength))
    if name == "solarize":
        return vision.solarize(picture, strength)
    if name == "rotate":
        return vision.rotate(picture, strength)
    if name in ("autocontrast", "equalize"):
        return getattr(vision, name)(picture)
    if name == "identity":
        return picture
    # shears and shifts as the released code gives them: by Pillow, from the top left corner
    height, width = picture.shape[1:]
    matrix = {
        "shear_x": (1, strength, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, strength, 1, 0),
        "translate_x": (1, 0, strength * width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, strength * height),
    }[name]
    planes = [Image.fromarray(p.numpy()).transform((width, height), Image.AFFINE, matrix) for p in picture]
    return torch.stack([vision.pil_to_tensor(plane)[0] for plane in planes])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_each_operation_is_torchvisions(name: str, shape: tuple[int, int, int]) -> None:
    images = pictures(60, shape)
    before = images.clone()
    level = torch.randint(0, 2**15, (60,), generator=generator(3))
    got = _operate(images, torch.full((60,), NAMES.index(name)), level)
    assert images.equal(before) and got.dtype == torch.uint8 and got.shape == images.shape
    strengths = (_between(*OPERATIONS[name], level) / 2**16).tolist()
    low, high = OPERATIONS[name]
    assert low <= min(strengths) <= low + 0.1 * (high - low)
    assert high >= max(strengths) >= low + 0.9 * (high - low)
    theirs = torch.stack([expected(name, p, s) for p, s in zip(images, strengths, strict=True)])
    apart = (got.int() - theirs.int()).abs()
    if name in ("brightness", "color", "contrast", "sharpness"):
        assert apart.max() <= 1  # roundings of a mean
    elif name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
        assert (apart > 0).float().mean() < 0.002  # where a centre falls on the border of two pixels
    else:
        assert apart.max() == 0
    if name == "identity" or (name == "color" and shape[0] == 1):
        assert got.equal(images)
    else:
        changed = (got != images).flatten(1).any(1).float().mean()
        assert changed > 0.75, "an operation that does nothing would pass as well"


def test_directions_of_moves() -> None:
    images = torch.zeros(1, 1, 27, 27, dtype=torch.uint8)
    images[0, 0, 2:7, 11:16] = 200  # a spot above the centre, at (4, 13)

    def moved(name: str, level: int) -> tuple[float, float]:
        spot = _operate(images, torch.tensor([NAMES.index(name)]), torch.tensor([level]))[0, 0].nonzero()
        return tuple(spot.double().mean(0).tolist())

    most, none = 2**15 - 1, 2**14
    assert moved("rotate", most) == pytest.approx((13 - 9 * 0.866, 13 - 9 * 0.5), abs=0.6)  # to the left
    assert moved("rotate", none) == moved("shear_x", none) == moved("translate_y", none) == (4, 13)
    assert moved("translate_x", 0) == pytest.approx((4, 13 + 0.3 * 27), abs=0.6)
    assert moved("translate_y", 0) == pytest.approx((4 + 0.3 * 27, 13), abs=0.6)
    assert moved("shear_x", most) == pytest.approx((4, 13 - 0.3 * 4.5), abs=0.6)
    assert moved("shear_y", 0) == pytest.approx((4 + 0.3 * 13.5, 13), abs=0.6)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_picture_gets_the_same_view_in_any_batch(shape: tuple[int, int, int]) -> None:
    how = Strong(PadCrop(4, flip=True))
    images, params = pictures(96, shape), how.draw(96, generator(1))
    before = images.clone()
    whole = how.apply(images, params)
    assert whole.dtype == torch.uint8 and whole.shape == images.shape and images.equal(before)
    alone = torch.cat([how.apply(images[i : i + 1], params[i : i + 1]) for i in range(96)])
    assert alone.equal(whole)
    mixed = torch.randperm(96, generator=generator(2))[:50]
    assert how.apply(images[mixed], params[mixed]).equal(whole[mixed])
    last = images.contiguous(memory_format=torch.channels_last)
    assert how.apply(last, params).equal(whole)


def test_draws_come_from_the_generator_alone_and_everything_occurs() -> None:
    how = augment.get("strong")
    assert isinstance(how, Augmentation)
    params = how.draw(28_000, generator(4))
    torch.rand(1)
    assert params.equal(how.draw(28_000, generator(4))) and not params.equal(how.draw(28_000, generator(5)))
    assert not params.is_floating_point() and params.device.type == "cpu"
    for slot in (0, 1):
        count = params[:, slot].bincount(minlength=len(NAMES))
        assert len(count) == len(NAMES) and (count - 2000).abs().max() < 250  # 5.8 standard deviations
    pairs = params[:, 0] * len(NAMES) + params[:, 1]
    assert len(pairs.unique()) == len(NAMES) ** 2  # each with each, also one operation twice
    levels = params[:, 2:].double() / 2**15
    assert ((levels.mean(0) - 0.5).abs() < 0.01).all() and levels.min() >= 0 and levels.max() < 1
    assert torch.corrcoef(levels.T).fill_diagonal_(0).abs().max() < 0.03


def test_operations_follow_one_another_and_the_cut_comes_last() -> None:
    how = Strong(cutout=0.0)  # one pixel is cut
    images, params = pictures(300, (3, 16, 16)), how.draw(300, generator(1))
    once = _operate(images, params[:, 0].long(), params[:, 2].long())
    twice = _operate(once, params[:, 1].long(), params[:, 3].long())
    differ = (how.apply(images, params) != twice).any(1).flatten(1).sum(1)
    assert differ.max() == 1 and (differ == 1).sum() > 290


@pytest.mark.parametrize(("channels", "fill"), [(3, (125, 123, 114)), (1, (121,))])
def test_the_cut_is_a_grey_square_of_at_most_half_the_width(channels: int, fill: tuple[int, ...]) -> None:
    how = Strong()
    images = torch.zeros(4000, channels, 20, 32, dtype=torch.uint8)
    params = how.draw(4000, generator())
    params[:, :2] = NAMES.index("identity")
    got = how.apply(images, params)
    cut = got.any(1)
    assert (got == (cut[:, None] * torch.tensor(fill).view(1, -1, 1, 1))).all()
    tall, wide = cut.any(2).sum(1), cut.any(1).sum(1)
    assert (cut.flatten(1).sum(1) == tall * wide).all()  # a rectangle
    assert wide.min() == tall.min() == 1 and wide.max() == 16  # 0.5 * 32, the ends included
    inside = (wide == tall).float().mean()
    assert 0.5 < inside < 0.95  # others stick out to the right or below
    assert cut.any(0).all()  # any place
    size = params[:, 4].double() / 2**15 * 16
    kept = (cut[:, :-1].any(2).sum(1) == tall) & (cut[:, :, :-1].any(1).sum(1) == wide)
    assert ((wide - size)[kept].abs() <= 1).all()


def test_first_view_and_grey_scale_decide_what_comes_before() -> None:
    mirrored = Strong(PadCrop(0, flip=True))
    params = mirrored.draw(200, generator())
    params[:, 3:5] = NAMES.index("identity")
    images = pictures(200, (1, 8, 8))
    plain = replace(mirrored, first=None).apply(images, params[:, -7:])
    same_side = (mirrored.apply(images, params) == plain).flatten(1).float().mean(1) > 0.99
    assert (same_side == (params[:, 2] == 0)).float().mean() > 0.99
    assert Strong().after(PadCrop(1)).first == PadCrop(1)
    assert mirrored.after(PadCrop(1)) is mirrored
    with pytest.raises(ConfigError, match="1 or 3 channels, not 4"):
        Strong().apply(torch.zeros(2, 4, 8, 8, dtype=torch.uint8), Strong().draw(2, generator()))


def test_batches_show_a_strong_second_view() -> None:
    plain = batches()
    both = batches(second="strong")
    assert both.second_augment == Strong(PadCrop(4, flip=True))  # that of the first view
    assert batches(second="strong", augment="shift").second_augment == Strong(PadCrop(1))
    for epoch in (1, 2):
        first = list(both.epoch(epoch))
        assert all(equal(a, b) for a, b in zip(first, plain.epoch(epoch), strict=True))
        again = list(batches(second="strong").epoch(epoch))
        assert all(a.second.equal(b.second) for a, b in zip(first, again, strict=True))
        rest = list(both.epoch(epoch, start=2))
        assert all(a.second.equal(b.second) for a, b in zip(first[2:], rest, strict=True))
    one, two = next(both.epoch(1)), next(both.epoch(2))
    assert not one.second.equal(one.images) and not one.second.equal(two.second)
    grey = kdlab.data.Batches(
        split(20, channels=1), batch_size=8, seed=0, mean=(0.5,), std=(0.2,), second="strong"
    )
    assert next(grey.epoch(1)).second.shape == (8, 1, 12, 12)


@pytest.mark.parametrize("size", [32, 224])
def test_speed_is_printed(size: int) -> None:
    how = Strong(PadCrop(4, flip=True))
    images, params = pictures(64, (3, size, size)), how.draw(64, generator())
    how.apply(images, params)
    start = time.perf_counter()
    for _ in range(3):
        how.apply(images, params)
    print(
        f"\nstrong view of 64 pictures of {size} x {size}: {(time.perf_counter() - start) / 3 * 1e3:.1f} ms"
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_shows_the_same_pictures_without_waiting() -> None:
    how = Strong(PadCrop(4, flip=True))
    images, params = pictures(256, (3, 32, 32)), how.draw(256, generator())
    there = images.cuda(), params.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = how.apply(*there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    apart = (got.cpu().int() - how.apply(images, params).int()).abs()
    assert (apart > 0).float().mean() < 0.001 and (apart > 1).float().mean() < 0.0001


# ---- MLKD, which needs it ---------------------------------------------------------------------------


@pytest.mark.slow
def test_mlkd_trains_on_digits_and_is_resumed_exactly(tmp_path) -> None:
    students = {"alone": "ce", "MLKD": "mlkd"}
    whole = small(tmp_path, folder=tmp_path / "whole", students=students, epochs=6).fit(progress=False)
    lone = small(tmp_path, folder=tmp_path / "lone", students={"MLKD": "mlkd"}, epochs=6)
    lone.start(paused=True)
    while lone._run is None or lone._run.position < 4:  # into the second epoch
        before = 0 if lone._run is None else lone._run.position
        lone.step(1)
        lone.call(lambda: None).result(60)
        assert lone.error is None and (lone._run is None or lone._run.position >= before)
    lone.stop()
    assert lone.wait(30)
    again = kdlab.load_study(lone.folder, device="cpu")
    assert again.state == "stopped"
    again.fit(progress=False)
    assert same(weights(again, "MLKD"), weights(whole, "MLKD"))  # nor does company change it
    history = whole.history()
    mine = history[history["student"] == "MLKD"]
    for term in ("ce", "instance", "batch", "class"):
        values = mine[f"term/{term}"].to_numpy()
        assert len(values) == 6 and (values > 0).all()
    assert mine["term/ce"].iloc[-1] < mine["term/ce"].iloc[0]
    assert mine["term/instance"].iloc[-1] < mine["term/instance"].iloc[0]
    plain = small(tmp_path, folder=tmp_path / "plain", students={"alone": "ce"}, epochs=6)
    assert same(weights(plain.fit(progress=False), "alone"), weights(whole, "alone"))


@pytest.mark.parametrize("option", [{"teacher_views": 2}, {"micro_batch": 20}])
def test_mlkd_with_fixed_views_and_with_parts_of_batches(tmp_path, option) -> None:
    study = small(tmp_path, students={"MLKD": "mlkd"}, epochs=3, **option).fit(progress=False)
    rows = study.history()
    assert len(rows) == 3 and rows["term/batch"].notna().all()
    assert rows["term/instance"].iloc[-1] < rows["term/instance"].iloc[0]

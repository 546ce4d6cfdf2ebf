"""The teachers' side of a step: the same values folded, in low precision, cached and compiled."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from models_nets import InPlace
from torch import Tensor, nn

import kdlab.data as kd
from kdlab.errors import ConfigError, StudyError
from kdlab.models import Features, StagedNet, build, tap
from kdlab.training import teacher_cache, teacher_pass
from kdlab.training.options import Options
from kdlab.training.teacher_cache import free_memory, named_tensors
from kdlab.training.teacher_pass import TeacherPass

COUNT = 70


def pictures() -> kd.ImageData:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (COUNT, 3, 12, 12), dtype=torch.uint8, generator=generator)
    split = kd.Split(images, torch.arange(COUNT) % 5, 7 + torch.arange(COUNT))
    names = tuple("abcde")
    return kd.ImageData("noise", split, split.take([]), split, names, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def stirred(net: StagedNet) -> StagedNet:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.normal_(0, 0.3, generator=generator)
                m.running_var.uniform_(0.5, 2.0, generator=generator)
                m.weight.uniform_(0.5, 1.5, generator=generator)
                m.bias.normal_(0, 0.3, generator=generator)
    return net.eval()


def teacher(name: str = "resnet8", seed: int = 0) -> StagedNet:
    torch.manual_seed(seed)
    return stirred(build(name, 5))


def made(
    *teachers: StagedNet, seed: int = 0, second: str = "", batch_size: int = 8, **options: Any
) -> tuple[TeacherPass, kd.Batches]:
    data, chosen = pictures(), Options(**options)
    batches = kd.Batches(
        data.train,
        batch_size=batch_size,
        seed=seed,
        mean=data.mean,
        std=data.std,
        augment="crop_flip",
        memory_format=torch.channels_last,
        views=chosen.teacher_views,
        second=second,
    )
    return TeacherPass(teachers or (teacher(),), data, chosen, torch.device("cpu"), batches), batches


def plain(net: StagedNet, images: Tensor) -> Features:
    with torch.no_grad():
        return net.features(images)


def check_close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    assert got.shape == expected.shape
    scale = float(expected.abs().max())
    torch.testing.assert_close(got.float(), expected, rtol=0, atol=tolerance * scale)


EVERYTHING = {f"teacher.{f}" for f in ("logits", "embedding", "stages", "preacts", "stem", "final")}


# ---- at once ----------------------------------------------------------------------------------------


def test_shows_what_the_teachers_show() -> None:
    first, other = teacher(), stirred(tap(InPlace())).train()
    passing, batches = made(first, other)
    batch = next(batches.epoch(1))
    seen = passing.features(batch)
    other.eval()
    for net, features in zip((first, other), seen, strict=True):
        expected = named_tensors(plain(net, batch.images))
        got = named_tensors(features)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            check_close(got[name], value, 2e-5)
            assert got[name].dtype is torch.float32
            assert not got[name].requires_grad and not got[name].is_inference()
    assert passing.classifiers[0] is first.classifier
    assert not any(isinstance(m, nn.BatchNorm2d) for net in passing.nets for m in net.modules())


def test_the_teachers_are_left_alone() -> None:
    net = teacher().train()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    passing, batches = made(net, teacher_precision="bf16", teacher_views=1)
    passing.reads(EVERYTHING)
    passing.features(next(batches.epoch(1)))
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(v, state[k]) and v.dtype is state[k].dtype for k, v in net.state_dict().items())


def test_gradient_reaches_what_a_method_puts_behind() -> None:
    """Not inference mode: autograd may keep these tensors, and reads classifiers with their weights."""
    passing, batches = made()
    (seen,) = passing.features(next(batches.epoch(1)))
    projector = nn.Conv2d(seen.stages[0].shape[1], 4, 1)
    projector(seen.stages[0]).square().mean().backward()
    assert float(projector.weight.grad.abs().sum()) > 0
    mine = torch.randn(8, seen.embedding.shape[1], requires_grad=True)
    passing.classifiers[0](mine).sum().backward()
    assert float(mine.grad.abs().sum()) > 0


@pytest.mark.parametrize("surrounding", ["fp32", "bf16"])
def test_precision_is_that_of_the_teacher_whatever_is_around(surrounding: str) -> None:
    passing, batches = made(precision="bf16", teacher_precision="fp32")
    batch = next(batches.epoch(1))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=surrounding == "bf16"):
        (seen,) = passing.features(batch)
    check_close(seen.logits, plain(teacher(), batch.images).logits, 2e-5)
    assert {t.dtype for t in named_tensors(seen).values()} == {torch.float32}


@pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_2", "vgg8", "in place"])
def test_bf16_is_close_to_fp32(name: str) -> None:
    torch.manual_seed(0)
    net = stirred(tap(InPlace())) if name == "in place" else teacher(name)
    passing, batches = made(net, precision="bf16")
    batch = next(batches.epoch(1))
    expected = plain(net, batch.images)
    (seen,) = passing.features(batch)
    for field, value in named_tensors(expected).items():
        got = named_tensors(seen)[field]
        head = field in ("logits", "embedding")
        assert got.dtype is (torch.float32 if head else torch.bfloat16), field
        check_close(got, value, 0.02 if head else 0.04)
        assert not got.float().equal(value), "computed in fp32"
    # the head is computed in float32 from what the maps are
    with torch.no_grad():
        torch.testing.assert_close(seen.logits, net.classifier(seen.embedding))
    assert seen.logits.bfloat16().float().sub(seen.logits).abs().max() > 0


def test_maps_suit_students_in_float32() -> None:
    passing, batches = made(precision="fp32", teacher_precision="bf16")
    low, _ = made(precision="bf16")
    batch = next(batches.epoch(1))
    (seen,), (same,) = passing.features(batch), low.features(batch)
    for name, value in named_tensors(seen).items():
        assert value.dtype is torch.float32
        assert value.equal(named_tensors(same)[name].float())
    assert seen.final is seen.stages[-1]


def test_casting_weights_once_equals_autocast() -> None:
    passing, batches = made(precision="bf16")
    batch = next(batches.epoch(1))
    (seen,) = passing.features(batch)
    folded = teacher_pass.fold_batchnorm(teacher(), (3, 12, 12)).to(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = folded.features(batch.images)
    for a, b in zip((*seen.stages, *seen.preacts), (*expected.stages, *expected.preacts), strict=True):
        assert a.equal(b)


def test_a_head_with_rules_of_its_own_is_believed() -> None:
    """Logits that are not classifier(embedding), and an embedding that is no average of `final`."""

    class Odd(StagedNet):
        stage_names = ("conv",)

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)

        @property
        def classifier(self) -> nn.Linear:
            return self.fc

        def features(self, x: Tensor) -> Features:
            stage = self.conv(x).relu()
            embedding = stage.amax((2, 3))
            return Features(3 * self.fc(embedding), embedding, (stage,), final=stage)

    torch.manual_seed(0)
    net = Odd()
    passing, batches = made(net, teacher_precision="bf16")
    batch = next(batches.epoch(1))
    (seen,), expected = passing.features(batch), plain(net, batch.images)
    check_close(seen.logits, expected.logits, 0.02)
    check_close(seen.embedding, expected.embedding, 0.02)
    assert seen.logits.dtype is torch.float32


# ---- fixed views ------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_cache_equals_the_direct_pass(precision: str) -> None:
    nets = teacher(), teacher("wrn_16_1", 1)
    passing, batches = made(*nets, teacher_views=2, precision=precision)
    direct, _ = made(*nets, precision=precision)
    passing.reads(EVERYTHING)
    tolerance = 2e-6 if precision == "fp32" else 0.02  # sums in another order may round a map the other way
    for epoch in (1, 2, 3):
        for batch in batches.epoch(epoch):
            for kept, seen in zip(passing.features(batch), direct.features(batch), strict=True):
                a, b = named_tensors(kept), named_tensors(seen)
                assert a.keys() == b.keys()
                for name, value in b.items():
                    assert a[name].dtype is value.dtype and a[name].shape == value.shape
                    check_close(a[name], value.float(), tolerance)
                assert kept.stages[0].is_contiguous(memory_format=torch.channels_last)


def test_each_view_is_computed_once_and_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_pass, "_BLOCK", 32)
    passing, batches = made(teacher_views=2)
    passing.reads({"teacher.logits", "student.stages"})
    told: list[tuple[int, int]] = []
    passing.watch = lambda done, count: told.append((done, count))
    blocks = [(32, COUNT), (64, COUNT), (COUNT, COUNT)]
    assert told == []
    list(map(passing.features, batches.epoch(1)))
    assert told == blocks
    list(map(passing.features, batches.epoch(3)))
    assert told == blocks
    list(map(passing.features, batches.epoch(2)))
    assert told == 2 * blocks


def test_the_cache_is_the_same_bits_whoever_comes_first() -> None:
    """Whatever batch size, order and epoch it is first asked with: a resumed run goes on with the same."""
    passing, batches = made(teacher_views=2)
    again, others = made(teacher_views=2, batch_size=25)
    for one in (passing, again):
        one.reads({"teacher.logits", "teacher.stages"})
    wanted = {int(row): b for b in batches.epoch(1) for row in b.rows}
    for batch in [*others.epoch(2), *others.epoch(5)]:  # the views come in another order too
        (late,) = again.features(batch)
        for place, row in enumerate(batch.rows.tolist()):
            if batch.view == 0:
                mine = wanted[row]
                (early,) = passing.features(mine)
                where = mine.rows.tolist().index(row)
                assert early.logits[where].equal(late.logits[place])
                assert early.stages[1][where].equal(late.stages[1][place])
    (seen,) = passing.features(next(batches.epoch(1)))
    assert not seen.logits[0].equal(seen.logits[1])  # so the above says something


def test_an_interrupted_view_is_made_anew() -> None:
    passing, batches = made(teacher_views=1)
    passing.reads({"teacher.logits"})

    def stop(done: int, count: int) -> None:
        raise KeyboardInterrupt

    passing.watch = stop
    batch = next(batches.epoch(1))
    with pytest.raises(KeyboardInterrupt):
        passing.features(batch)
    passing.watch = None
    check_close(passing.features(batch)[0].logits, plain(teacher(), batch.images).logits, 2e-5)


def test_reading_what_is_not_kept_says_so() -> None:
    passing, batches = made(teacher_views=1)
    passing.reads({"student.logits", "teacher.logits", "teacher.stages[-1]", "teacher.classifier", "target"})
    (seen,) = passing.features(next(batches.epoch(1)))
    assert isinstance(seen, Features) and len(seen.stages) == 3
    assert seen.logits.shape == (8, 5) and seen.stages[2].dim() == 4
    assert seen.stages[-1].equal(seen.stages[2]) and seen.stages[2:][0].equal(seen.stages[2])
    assert seen.detach() is seen and "logits: (8, 5)" in repr(seen)
    for read, name in (
        (lambda: seen.embedding, "embedding"),
        (lambda: seen.final, "final"),
        (lambda: seen.stem, "stem"),
        (lambda: seen.stages[0], r"stages\[0\]"),
        (lambda: seen.stages[-2], r"stages\[1\]"),
        (lambda: list(seen.stages), r"stages\[0\]"),
        (lambda: seen.preacts[1], r"preacts\[1\]"),
    ):
        with pytest.raises(StudyError, match=f"teacher's {name} is read, and no term declares it.*'teacher"):
            read()
    passing.reads({"teacher.embedding"})
    with pytest.raises(StudyError, match="logits is read"):
        _ = passing.features(next(batches.epoch(1)))[0].logits


def test_what_a_teacher_does_not_have_is_none_as_ever() -> None:
    class Bare(StagedNet):
        stage_names = ("conv",)

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)

        @property
        def classifier(self) -> nn.Linear:
            return self.fc

        def features(self, x: Tensor) -> Features:
            stage = self.conv(x)
            embedding = stage.mean((2, 3))
            return Features(self.fc(embedding), embedding, (stage,))

    passing, batches = made(Bare(), teacher_views=1)
    passing.reads({"teacher.logits"})
    (seen,) = passing.features(next(batches.epoch(1)))
    assert seen.preacts is None and seen.stem is None and seen.final is None
    with pytest.raises(ConfigError, match=r"shows nothing for the tap 'teacher.preacts\[0\]'"):
        passing.reads({"teacher.preacts[0]"})


def test_more_taps_make_the_cache_anew_and_fewer_do_not() -> None:
    passing, batches = made(teacher_views=1)
    filled: list[int] = []
    passing.watch = lambda done, count: filled.append(done)
    batch = next(batches.epoch(1))
    for taps, fills in (
        ({"teacher.logits"}, 1),
        ({"teacher.logits", "teacher.final"}, 2),
        ({"teacher.final"}, 2),
        ({"teacher.logits"}, 2),
        ({"teacher.stages"}, 3),
    ):
        passing.reads(taps)
        passing.features(batch)
        assert len(filled) == fills, taps
    expected = plain(teacher(), batch.images)
    for got, stage in zip(passing.features(batch)[0].stages, expected.stages, strict=True):
        check_close(got, stage, 2e-5)


def test_taps_of_one_teacher_of_several() -> None:
    passing, batches = made(teacher(), teacher(seed=1), teacher_views=1)
    passing.reads({"teachers[1].logits", "teacher.embedding"})
    first, second = passing.features(next(batches.epoch(1)))
    assert second.logits.shape == (8, 5) and first.embedding.shape == second.embedding.shape
    with pytest.raises(StudyError, match="logits is read"):
        _ = first.logits


def test_unknown_taps_are_refused() -> None:
    passing, _ = made()
    for tap_name in ("teacher.logit", "teacher", "teacher.stages[x]", "teacher.logits[0]x"):
        with pytest.raises(ConfigError, match="There is no tap"):
            passing.reads({tap_name})
    with pytest.raises(ConfigError, match="shows nothing for the tap"):
        passing.reads({"teacher.stages[3]"})
    passing.reads(EVERYTHING)


def test_bytes_are_those_that_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    taps = {"teacher.logits", "teacher.stages", "teacher.final"}
    for options, second in (({}, ""), ({"precision": "bf16"}, ""), ({}, "flip")):
        passing, batches = made(teacher_views=2, second=second, **options)
        passing.reads(taps)
        for epoch in (1, 2):
            passing.features(next(batches.epoch(epoch)))
            if second:
                passing.second(next(batches.epoch(epoch)))
        held = [t for row in passing._shelves.values() for s in row for t in s.tensors.values()]
        assert passing.cache_bytes(taps) == sum(t.untyped_storage().nbytes() for t in held)
    # resnet8 at 12 pixels: 5 logits; 16, 32, 64 channels; `final` is the last stage and costs nothing more
    passing, _ = made(teacher_views=3)
    assert passing.cache_bytes(taps) == 3 * COUNT * 4 * (5 + 16 * 144 + 32 * 36 + 64 * 9)
    assert made()[0].cache_bytes(taps) == 0


def test_too_large_a_cache_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    passing, batches = made(teacher_views=3)
    needed = passing.cache_bytes({"teacher.stages"})
    monkeypatch.setattr(teacher_pass, "free_memory", lambda device: 2 * needed - 2)
    with pytest.raises(StudyError, match=r"3 fixed view\(s\) of 70 pictures take .* GB.*fewer views.*=None"):
        passing.reads({"teacher.stages"})
    passing.reads({"teacher.logits"})  # a small one is taken
    passing.features(next(batches.epoch(1)))
    monkeypatch.setattr(teacher_pass, "free_memory", lambda device: 2 * needed)
    passing.reads({"teacher.stages"})


def test_free_memory_is_that_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1e7 < free_memory(torch.device("cpu")) < 1e14
    monkeypatch.setattr(teacher_cache, "_free_host", lambda: 5)
    assert free_memory(torch.device("cpu")) == 5  # a container cannot have more than its machine


def test_views_must_be_the_same_on_both_sides() -> None:
    passing, batches = made()
    with pytest.raises(ConfigError, match="teacher_views is 2 and the batches have views=None"):
        TeacherPass((), pictures(), Options(teacher_views=2), "cpu", batches)
    with pytest.raises(ConfigError, match="no second view"):
        passing.second(next(batches.epoch(1)))


@pytest.mark.parametrize("views", [None, 2])
def test_second_views(views: int | None) -> None:
    passing, batches = made(teacher_views=views, second="crop_flip")
    passing.reads({"teacher.logits", "teacher.stages"})
    for epoch in (1, 2, 3):
        batch = next(batches.epoch(epoch))
        (first,), (second,) = passing.features(batch), passing.second(batch)
        check_close(first.logits, plain(teacher(), batch.images).logits, 2e-5)
        check_close(second.logits, plain(teacher(), batch.second).logits, 2e-5)
        check_close(second.stages[0], plain(teacher(), batch.second).stages[0], 2e-5)
        assert not first.logits.equal(second.logits)


def test_a_second_view_may_come_later() -> None:
    """A student that wants one may be added when the first view is cached already."""
    passing, batches = made(teacher_views=1)
    passing.reads({"teacher.logits"})
    before = passing.features(next(batches.epoch(1)))[0].logits
    passing.batches = made(teacher_views=1, second="flip")[1]
    batch = next(passing.batches.epoch(1))
    assert passing.features(batch)[0].logits.equal(before)
    check_close(passing.second(batch)[0].logits, plain(teacher(), batch.second).logits, 2e-5)


def test_no_teachers_no_work() -> None:
    data = pictures()
    for views in (None, 1):
        batches = kd.Batches(data.train, batch_size=8, seed=0, mean=data.mean, std=data.std, views=views)
        passing = TeacherPass((), data, Options(teacher_views=views), "cpu", batches)
        passing.reads({"student.logits", "target"})
        assert passing.features(next(batches.epoch(1))) == () and passing.cache_bytes(set()) == 0


# ---- compiled, on a GPU -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_equals_eager() -> None:
    torch.manual_seed(0)
    net = stirred(tap(InPlace()))
    passing, batches = made(net, compile="default", precision="bf16")  # the longer way through the code
    eager, _ = made(net, precision="bf16")
    for batch in list(batches.epoch(1))[-2:]:  # the last one is smaller
        got = named_tensors(passing.features(batch)[0])
        for name, value in named_tensors(eager.features(batch)[0]).items():
            assert got[name].dtype is value.dtype
            check_close(got[name], value.float(), 0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"precision": "fp16"}, {"compile": "graphs"}])
@pytest.mark.parametrize("views", [None, 2])
def test_a_gpu_shows_the_same(options: dict[str, Any], views: int | None) -> None:
    data, chosen = pictures(), Options(**options, teacher_views=views)
    batches = kd.Batches(
        data.train, batch_size=8, seed=0, mean=data.mean, std=data.std, device="cuda", views=views
    )
    passing = TeacherPass((teacher(),), data, chosen, "cuda", batches)
    passing.reads(EVERYTHING)
    tolerance = 0.02 if "precision" in options else 3e-3  # convolutions may use TF32
    kept = []
    for epoch in (1, 2, 3):
        for batch in batches.epoch(epoch):
            torch.cuda.set_sync_debug_mode("error" if epoch == 3 else "default")
            (seen,) = passing.features(batch)
            torch.cuda.set_sync_debug_mode("default")
            kept.append((seen.logits, batch.images.cpu()))
    for logits, images in kept:  # checked late: nothing may have been written over
        check_close(logits.cpu(), plain(teacher(), images).logits, tolerance)

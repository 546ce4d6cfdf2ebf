"""Forward passes and losses on a GPU that is only imagined: no tensor stays behind, nothing waits for it.

PyTorch's fake tensors have shapes, types and devices, but no values. A CPU tensor that meets one of a GPU
is an error, as it is on a real one; so is whatever needs a value on the host (`.item()`, `if loss > 0`),
which on a real GPU would work but wait. Backward passes and half precision cannot be imagined without a GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from kdlab import methods
from kdlab.data import Batches, Split, load
from kdlab.methods import Step
from kdlab.methods.practice import CLASSES, EPOCH, PAIRS, SHAPE, Bench, PracticeNet
from kdlab.models import build
from kdlab.training.options import Options
from kdlab.training.recipes import get_recipe
from kdlab.training.student import StepInputs, StudentRun
from kdlab.training.teacher_pass import TeacherPass

GPU = torch.device("cuda", 0)


class Seen(Exception):
    """Ends a step before its backward pass, with what the method gave."""


def lifted(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    """The same on the imagined GPU."""
    fake = mode.from_tensor(tensor)
    with mode:
        return fake.to(GPU)


def moved(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """What `module.to(device)` moves: parameters and buffers, nothing else."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                held = lifted(value.detach(), mode)
                part._parameters[name] = nn.Parameter(held, requires_grad=value.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = lifted(buffer, mode)
    return module


def values_of_a_step(method: methods.Method, pair: str) -> dict[str, Tensor]:
    """What each term of a method gives in a step of a student on the imagined GPU."""
    mode = FakeTensorMode()  # strict: not even a forgotten attribute may be a real tensor
    stages, of_teachers = PAIRS[pair]
    student, teachers = PracticeNet(stages), [PracticeNet(one) for one in of_teachers]
    bench = Bench(pair, method, student, teachers[: max(1, method.min_teachers)], SHAPE)
    bench.prepare()
    for module in (student, *bench.teachers, bench.method):
        moved(module, mode)
    with mode:
        run = StudentRun("student", student, bench.method, get_recipe("lab_small"), Options(), GPU)
        images = torch.empty(8, *SHAPE, device=GPU)
        target, index = (torch.zeros(8, dtype=torch.long, device=GPU) for _ in range(2))
        shown = tuple(teacher.features(images) for teacher in bench.teachers)
        heads = tuple(teacher.classifier for teacher in bench.teachers)
        inputs = StepInputs(images, target, index, EPOCH, shown, heads)
        if bench.method.second_view:
            inputs = dataclasses.replace(inputs, second_images=images, second_teachers=shown)

        def end(values: dict[str, Tensor]) -> None:
            raise Seen(values)

        run._check = end  # type: ignore[method-assign]
        run.refresh(EPOCH)
        with pytest.raises(Seen) as seen:
            run._backward(inputs, 1.0)
    return seen.value.args[0]


@pytest.mark.parametrize("name", methods.names())
def test_a_step_stays_on_the_device(name: str) -> None:
    method = methods.make(name)
    values = values_of_a_step(method, "equal sizes")
    assert set(values) == set(method.active(EPOCH))
    assert {(value.device, value.shape) for value in values.values()} == {(GPU, torch.Size([]))}


class Stray(methods.KD):
    """Has a part that `to` does not move, or looks at a value."""

    key = "stray_"
    looks = False

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = super().losses(step, active)
        if self.looks:
            return values if values["kd"].detach() > 0 else {}
        return values | {"kd": values["kd"] + (step.student.logits - torch.ones(CLASSES)).mean()}


def test_what_would_fail_or_wait_on_a_gpu_fails_here() -> None:
    with pytest.raises(Exception, match=r"cuda:0.*cpu|cpu.*cuda:0"):
        values_of_a_step(Stray(), "equal sizes")
    Stray.looks = True
    try:
        with pytest.raises(DataDependentOutputException):
            values_of_a_step(Stray(), "equal sizes")
    finally:
        Stray.looks = False


@pytest.fixture(scope="module")
def shapes() -> Any:
    return load("shapes")


def on_gpu(split: Split, mode: FakeTensorMode) -> Split:
    """The tensors of a split there, as `ImageData.to` has them."""
    tensors = {f.name: getattr(split, f.name) for f in dataclasses.fields(split)}
    return dataclasses.replace(
        split, **{name: lifted(t, mode) for name, t in tensors.items() if isinstance(t, Tensor)}
    )


def batches_on_gpu(data: Any, mode: FakeTensorMode, **more: Any) -> Batches:
    """As the loop makes them."""
    split = on_gpu(data.train, mode)
    about = dict(batch_size=8, seed=0, mean=data.mean, std=data.std, augment="crop_flip")
    with mode:
        return Batches(split, device=GPU, **about, **more)


@pytest.mark.parametrize("more", [{}, {"second": "strong"}, {"second": "crop"}, {"views": 2}], ids=str)
def test_batches_are_made_there(shapes: Any, more: dict[str, Any]) -> None:
    """Order and augmentation are drawn on the host, as they are the same everywhere, and then go over."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    batches = batches_on_gpu(shapes, mode, **more)
    with mode:
        batch = next(iter(batches.epoch(1)))
    seen = [batch.images, batch.labels, batch.index, *([batch.second] if "second" in more else [])]
    assert {tensor.device for tensor in seen} == {GPU}


def test_teachers_look_there(shapes: Any) -> None:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    batches = batches_on_gpu(shapes, mode, second="crop")
    nets = [build(name, num_classes=shapes.num_classes) for name in ("resnet8", "wrn_16_1")]
    teachers = TeacherPass(nets, shapes, Options(), "cpu", batches)
    for one in teachers._teachers:
        moved(one.net, mode)
    with mode:
        batch = next(iter(batches.epoch(1)))
        for features in (*teachers.features(batch), *teachers.second(batch)):
            assert {t.device for t in (features.logits, features.embedding, *features.stages)} == {GPU}

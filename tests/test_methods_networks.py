"""Methods refuse networks they cannot work with, and work with the real ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from methods_nets import (
    PAIRS,
    SHAPE,
    RecordedStep,
    TinyNet,
    make_step,
    pair,
    specs,
    weighted,
)
from methods_rehearsal import FACTS, Rehearsal
from torch import nn

from kdlab.errors import ConfigError
from kdlab.methods import AT, CE, CMKD, KD, SRRL, FitNet, Method, Step, make, names
from kdlab.models.features import inspect_net


def test_a_missing_teacher_is_refused() -> None:
    student, _ = pair()
    for name in names():
        method = make(name)
        if method.needs_teacher():
            message = rf"needs {method.min_teachers} teacher\(s\) and the study has 0"
            with pytest.raises(ConfigError, match=message):
                method.build(inspect_net(student, SHAPE), [])
    CE().build(inspect_net(student, SHAPE), [])
    with pytest.raises(ConfigError, match="needs 1 teacher"):
        (CE() + KD()).build(inspect_net(student, SHAPE), [])


def test_other_class_counts_are_refused() -> None:
    student, _ = pair()
    teacher = TinyNet(PAIRS["equal sizes"][1], classes=7)
    for name in names():
        if make(name).needs_teacher():
            with pytest.raises(ConfigError, match=r"student has 5 classes and the teacher teacher has 7"):
                own, others = specs(student, teacher)
                make(name).build(own, others * make(name).min_teachers)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            AT(stages=(3,)),
            r"AT is to read stage 3 of the student, but student has stages 0 to 2 \(stage1, stage2",
        ),
        (AT(stages=(2,), teacher_stages=(-4,)), r"stage -4 of the teacher.* -3 to -1"),
        (FitNet(stage=5), "stage 5 of the student"),
        (FitNet(teacher_stage=3), "stage 3 of the teacher"),
        (FitNet(stage=2, teacher_stage=0), "cannot regress a 4x4 student map onto a 16x16 teacher map"),
        (CMKD(taps=(-1, 7)), "stage 7 of the student"),
        (CMKD(taps=(-1, 2)), "names a stage of student twice"),
        (CMKD(factor=4), "factor 4 must divide the teacher's 9 channels"),
    ],
)
def test_impossible_choices_are_refused(method: Method, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method.fresh().build(*specs(*pair()))


def test_teachers_that_cannot_serve_are_refused() -> None:
    student, teacher = pair()
    no_map = TinyNet(PAIRS["equal sizes"][1], hidden=9)
    with pytest.raises(ConfigError, match="CMKD needs the teacher's map whose average enters its classifier"):
        CMKD().build(*specs(student, no_map))
    teacher.fc = nn.Sequential(nn.Linear(9, 5), nn.Identity())  # type: ignore[assignment]
    for method in (CMKD(), SRRL()):
        with pytest.raises(ConfigError, match=r"linear classifier, and teacher shows none \(9 -> 5\)"):
            method.build(*specs(student, teacher))


@pytest.mark.parametrize("method", [AT(), FitNet(), SRRL(), CMKD()], ids=lambda m: m.key)
def test_use_before_build_is_refused(method: Method) -> None:
    step = make_step(*pair())
    with pytest.raises(ConfigError, match="must be built for a student and its teachers first"):
        method.fresh().losses(step, [n for n in method.terms if n not in ("ce", "kd")])


@pytest.mark.parametrize(
    ("student_name", "teacher_name"),
    [("resnet8", "resnet14"), ("wrn_16_1", "wrn_16_2"), ("vgg8", "resnet8x4"), ("MobileNetV2", "ShuffleV1")],
)
def test_with_networks_of_the_zoo(student_name: str, teacher_name: str) -> None:
    from kdlab import models

    student = models.build(student_name, num_classes=10).train()
    teacher = models.build(teacher_name, num_classes=10).eval().requires_grad_(False)
    shape = (3, 32, 32)
    x = torch.randn(2, *shape)
    with torch.no_grad():
        seen = teacher.features(x)
    for name in names():
        method = FitNet(stage=-1) if name == "fitnet" else make(name)
        count = method.min_teachers
        spec = inspect_net(teacher, shape, teacher_name)
        method.build(inspect_net(student, shape, student_name), [spec] * count)
        method.attach(FACTS)
        method.prepare(Rehearsal([teacher] * count, epochs=1, shape=shape, classes=10))
        target = torch.tensor([1, 2])
        heads = (teacher.classifier,) * count
        step = Step(student.features(x), target, (seen,) * count, heads, index=target)
        step = replace(step, second=step)
        recorded = RecordedStep(step)
        values = method.losses(recorded, list(method.terms))  # type: ignore[arg-type]
        assert recorded.read == {tap for term in method.terms.values() for tap in term.taps}
        total = weighted(method, values)
        total.backward()
        assert total.isfinite()
        projected = method.project(step)
        assert projected is None or projected.shape == seen.embedding.shape

"""Small networks, recorded steps and plain helpers for the tests of kdlab.methods."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlab.methods import AT, CE, CMKD, KD, SRRL, FitNet, Method, Step
from kdlab.models.features import Features, NetSpec, StagedNet, inspect_net

CLASSES = 5
SHAPE = (3, 16, 16)
Stages = Sequence[tuple[int, int]]


class TinyNet(StagedNet):
    """Stages of any width and size: convolution, BN, ReLU, pooled to the size asked for.

    With `hidden` the embedding is a layer behind the pooling, so that there is no final map.
    """

    def __init__(self, stages: Stages, classes: int = CLASSES, hidden: int | None = None) -> None:
        super().__init__()
        widths = [SHAPE[0], *(c for c, _ in stages)]
        self.sizes = [size for _, size in stages]
        self.stage_names = tuple(f"stage{i + 1}" for i in range(len(stages)))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.bns = nn.ModuleList(nn.BatchNorm2d(c) for c in widths[1:])
        self.hidden = None if hidden is None else nn.Linear(widths[-1], hidden)
        self.fc = nn.Linear(hidden or widths[-1], classes)

    def features(self, x: Tensor) -> Features:
        stages = []
        for conv, bn, size in zip(self.convs, self.bns, self.sizes):
            x = F.relu(F.adaptive_avg_pool2d(bn(conv(x)), size))
            stages.append(x)
        embedding = x.mean((2, 3))
        if self.hidden is not None:
            embedding = F.relu(self.hidden(embedding))
        final = x if self.hidden is None else None
        return Features(self.fc(embedding), embedding, tuple(stages), final=final)

    @property
    def classifier(self) -> nn.Linear:
        return self.fc


PAIRS: dict[str, tuple[Stages, Stages]] = {
    "equal sizes": ([(4, 16), (6, 8), (8, 4)], [(5, 16), (7, 8), (9, 4)]),
    "student larger": ([(4, 16), (6, 16), (8, 8)], [(5, 16), (7, 8), (9, 4)]),
    "teacher larger": ([(4, 16), (6, 8), (8, 4)], [(5, 16), (7, 16), (9, 8)]),
    "other depth": ([(4, 16), (6, 4)], [(5, 16), (7, 8), (9, 8), (11, 4)]),
}


def pair(name: str = "equal sizes", classes: int = CLASSES) -> tuple[TinyNet, TinyNet]:
    """A student in train mode and a frozen teacher in eval mode."""
    torch.manual_seed(3)
    student, teacher = (TinyNet(stages, classes) for stages in PAIRS[name])
    with torch.no_grad():
        for bn in teacher.bns:
            bn.running_mean.normal_(0, 0.1)  # type: ignore[union-attr, operator]
    return student.train(), teacher.eval().requires_grad_(False)


def specs(student: nn.Module, teacher: nn.Module) -> tuple[NetSpec, list[NetSpec]]:
    return inspect_net(student, SHAPE, "student"), [inspect_net(teacher, SHAPE, "teacher")]


def built(method: Method, student: nn.Module, teacher: nn.Module, seed: int = 11) -> Method:
    torch.manual_seed(seed)
    method.build(*specs(student, teacher))
    return method.train()


def images(batch: int = 6, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(batch, *SHAPE, generator=generator).to(dtype)
    return x, torch.arange(batch) % CLASSES


def make_step(student: Any, teacher: Any, batch: int = 6, dtype: torch.dtype = torch.float32) -> Step:
    """What the engine hands to a method for one batch."""
    x, y = images(batch, dtype)
    with torch.no_grad():
        seen = teacher.features(x)
    return Step(student.features(x), y, (seen,), (teacher.classifier,), torch.arange(batch), 1)


# ---- methods to try

VARIANTS: dict[str, Method] = {
    "ce": CE(),
    "kd": KD(),
    "at": AT(kd=0.5),
    "at-one": AT(stages=(-1,), teacher_stages=(0,)),
    "fitnet": FitNet(kd=0.5),
    "fitnet-last": FitNet(stage=-1, teacher_stage=-1),
    "srrl": SRRL(kd=0.5),
    "srrl-kl-pooled": SRRL(sr_form="kl", connector="pooled"),
    "cmkd": CMKD(),
    "cmkd-one": CMKD(taps=(-1,), factor=1),
    "cmkd-stage": CMKD(branch2_target="stage"),
    "cmkd-detached": CMKD(pseudo_detach=True, warmup=3),
    "sum": KD() + AT(weight=500) + CMKD(),
    "sum-modules": SRRL() + FitNet(kd=0.5) + KD(temperature=2),
}


def ready(variant: str, nets: str = "equal sizes") -> tuple[Method, TinyNet, TinyNet]:
    student, teacher = pair(nets)
    return built(VARIANTS[variant].fresh(), student, teacher), student, teacher


def weighted(method: Method, values: dict[str, Tensor], epoch: int = 5) -> Tensor:
    return sum((method.terms[name].factor(epoch) * value for name, value in values.items()), torch.zeros(()))


# ---- recording what is read -----------------------------------------------------------------------


class _Stages:
    def __init__(self, stages: Sequence[Tensor], name: str, read: set[str]) -> None:
        self._stages, self._name, self._read = stages, name, read

    def __getitem__(self, index: int) -> Tensor:
        value = self._stages[index]
        self._read.add(f"{self._name}[{index % len(self._stages)}]")
        return value

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self._stages)))


class RecordedFeatures:
    """Stands in for `Features` and notes every tensor that is taken out."""

    def __init__(self, features: Features, side: str, read: set[str]) -> None:
        self._features, self._side, self._read = features, side, read

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._features, name)
        if name in ("stages", "preacts"):
            return _Stages(value, f"{self._side}.{name}", self._read)
        self._read.add(f"{self._side}.{name}")
        return value


class RecordedStep:
    """Stands in for `Step`; `read` holds the taps that were used."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self.read: set[str] = set()
        self.student = RecordedFeatures(step.student, "student", self.read)
        self.teachers = tuple(RecordedFeatures(t, "teacher", self.read) for t in step.teachers)
        self.teacher = self.teachers[0]

    @property
    def classifiers(self) -> Any:
        self.read.add("teacher.classifier")
        return self._step.classifiers

    @property
    def classifier(self) -> Any:
        return self.classifiers[0]

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(self._step, name)

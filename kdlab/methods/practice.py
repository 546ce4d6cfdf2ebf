"""Small networks and batches on which a method is tried out: what `kdlab.methods.check` runs it on."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlab.methods.base import Method
from kdlab.methods.step import DataFacts, Step
from kdlab.models.features import Features, StagedNet, inspect_net

Stages = Sequence[tuple[int, int]]
"""Channels and size of each stage."""

SHAPE = (3, 16, 16)
CLASSES = 5
EPOCH = 10
"""The epoch of a step: the last one, when every warm-up is over."""

# Unequal widths in all; then equal sizes, a larger student, and other depths and sizes. Teachers are as
# deep as the student or not; their last widths are multiples of 4, which projectors may divide.
PAIRS: dict[str, tuple[Stages, Sequence[Stages]]] = {
    "equal sizes": (
        ((4, 16), (6, 8), (8, 4)),
        (((5, 16), (7, 8), (12, 4)), ((6, 16), (10, 8), (8, 4)), ((4, 16), (8, 8), (16, 4))),
    ),
    "larger student": (
        ((4, 16), (6, 16), (8, 8)),
        (((5, 16), (7, 8), (16, 4)), ((6, 16), (9, 8), (12, 2)), ((4, 16), (8, 4), (20, 4))),
    ),
    "other depths": (
        ((4, 16), (6, 8)),
        (((5, 16), (7, 8), (9, 8), (12, 4)), ((6, 16), (7, 8), (16, 4)), ((4, 16), (8, 8), (20, 4))),
    ),
}


class PracticeNet(StagedNet):
    """A stage is a convolution with stride, BN and ReLU; then average pooling and a linear classifier."""

    def __init__(self, stages: Stages, classes: int = CLASSES, channels: int = SHAPE[0]) -> None:
        super().__init__()
        self.stage_names = tuple(f"stage{i + 1}" for i in range(len(stages)))
        convs, before, size = [], channels, SHAPE[1]
        for width, goal in stages:
            convs.append(nn.Conv2d(before, width, 3, stride=size // goal, padding=1, bias=False))
            before, size = width, goal
        self.convs = nn.ModuleList(convs)
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for width, _ in stages)
        self.fc = nn.Linear(before, classes)

    def features(self, x: Tensor) -> Features:
        preacts, stages = [], []
        for conv, bn in zip(self.convs, self.bns):
            preacts.append(bn(conv(x)))
            x = F.relu(preacts[-1])
            stages.append(x)
        embedding = x.mean((2, 3))
        return Features(self.fc(embedding), embedding, tuple(stages), tuple(preacts), final=x)

    @property
    def classifier(self) -> nn.Linear:
        return self.fc


class Practice:
    """`Preparation` on a few pictures, a noisy prototype for each class."""

    device = torch.device("cpu")
    epochs = 1

    def __init__(self, teachers: Sequence[StagedNet], shape: Sequence[int], classes: int) -> None:
        self.teachers = teachers
        self._shared: dict[str, dict[str, Tensor]] = {}
        generator = torch.Generator().manual_seed(8)
        self.labels = torch.arange(6 * classes) % classes
        prototypes = torch.randn(classes, *shape, generator=generator)
        noise = torch.randn(len(self.labels), *shape, generator=generator)
        self.images = prototypes[self.labels] + 0.5 * noise
        self.facts = DataFacts(
            size=len(self.labels), labels=self.labels, num_classes=classes, steps_per_epoch=2, epochs=EPOCH
        )

    def batches(
        self, part: Literal["train", "val"], epoch: int = 0
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        split = 4 * int(self.facts.num_classes)
        rows = torch.arange(split) if part == "train" else torch.arange(split, len(self.labels))
        if epoch:
            rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(epoch))]
        for chosen in rows.split(2 * int(self.facts.num_classes)):
            yield self.images[chosen], self.labels[chosen], chosen

    def shared(self, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if key not in self._shared:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(zlib.crc32(key.encode()))
                self._shared[key] = make()
        return {name: value.clone() for name, value in self._shared[key].items()}


@dataclass
class Bench:
    """A method between a student and its teachers, and the means to run it again from the same state.

    Attributes:
        name: of the pair, for messages.
        method: a fresh copy of the user's, built, attached and prepared.
        student: in train mode.
        teachers: in eval mode, frozen.
        batch: how many pictures a step has.
    """

    name: str
    method: Method
    student: StagedNet
    teachers: Sequence[StagedNet]
    shape: tuple[int, int, int]
    batch: int = 8

    def __post_init__(self) -> None:
        self.student.train()
        for teacher in self.teachers:
            teacher.eval().requires_grad_(False)
        self.spec = inspect_net(self.student, self.shape, "student")
        self.practice = Practice(self.teachers, self.shape, self.spec.num_classes)
        self.held = [*self.student.parameters(), *self.student.buffers()]
        self.start = [tensor.detach().clone() for tensor in self.held]
        self._seen: dict[tuple[str, bool], tuple[Features, ...]] = {}  # by the teachers, which stay the same

    def ready(self, seed: int = 11) -> Method:
        """A fresh copy of the method, as it is before the first step."""
        method = self.method.fresh()
        torch.default_generator.manual_seed(seed)
        method.build(self.spec, [inspect_net(net, self.shape, "teacher") for net in self.teachers])
        method.attach(self.practice.facts)
        method.prepare(self.practice)
        for epoch in (1, EPOCH):
            if method.revisits(epoch):
                method.revisit(self.practice, self.student, epoch)
        return method.train()

    def prepare(self) -> None:
        """Make the method ready and remember its state."""
        self.method = self.ready()
        self.before = copy.deepcopy(self.method.state_dict())

    def step(self) -> Step:
        """One batch; the student sees it anew, from the state it began in."""
        with torch.no_grad():
            for tensor, value in zip(self.held, self.start):
                tensor.copy_(value)
        for module in (self.student, self.method):
            module.zero_grad(set_to_none=True)
        images, labels = self.practice.images, self.practice.labels
        index = torch.arange(self.batch) % len(labels)
        first = self._view(images[index], labels[index], index)
        if not self.method.second_view:
            return first
        return replace(first, second=self._view(images[index].flip(3) + 0.1, labels[index], index, "second"))

    def _view(self, images: Tensor, target: Tensor, index: Tensor, name: str = "first") -> Step:
        key = name, torch.is_autocast_enabled("cpu")
        if key not in self._seen:
            with torch.no_grad():
                self._seen[key] = tuple(teacher.features(images) for teacher in self.teachers)
        seen = copy.deepcopy(self._seen[key])  # a method might change them
        heads = tuple(teacher.classifier for teacher in self.teachers)
        return Step(self.student.features(images), target, seen, heads, index, EPOCH, images=images)

    def losses(
        self, active: Collection[str], step: Step | None = None, method: Method | None = None
    ) -> dict[str, Tensor]:
        """What the method gives for `active` on its first step (or on `step`), whatever ran before."""
        if method is None:
            method = self.method
            method.load_state_dict(self.before)
        torch.default_generator.manual_seed(5)
        return method.train().losses(self.step() if step is None else step, list(active))

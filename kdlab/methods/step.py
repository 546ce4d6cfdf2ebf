"""What a method is given: batches (`Step`), and before the first one `DataFacts` and `Preparation`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from kdlab.models.features import Features, StagedNet


@dataclass(frozen=True)
class Step:
    """What a method sees of one batch.

    Attributes:
        student: features of the student, in train mode, with gradient.
        teachers: features of each teacher, in eval mode, without gradient.
        classifiers: each teacher's frozen linear classifier; gradient flows *through* it.
        target: (B,) int64 labels.
        index: (B,) int64 position of each sample in the original data set.
        epoch: from 1.
        second: the same pictures under another augmentation, for methods that ask for it
            (`Method.second_view`); None otherwise.
        images: (B, C, H, W) the pictures themselves, for methods that have a network of their own.

    >>> student, teacher = kdlab.models.build("resnet8", 10), kdlab.models.build("resnet14", 10)
    >>> x, y = torch.zeros(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    >>> step = kdlab.methods.Step(student.features(x), y, (teacher.features(x).detach(),))
    >>> sorted(kdlab.methods.KD().losses(step, active=["ce", "kd"]))
    ['ce', 'kd']
    """

    student: Features
    target: Tensor
    teachers: tuple[Features, ...] = ()
    classifiers: tuple[nn.Module, ...] = ()
    index: Tensor | None = None
    epoch: int = 1
    second: Step | None = None
    images: Tensor | None = None

    @property
    def teacher(self) -> Features:
        """The first (often the only) teacher."""
        return self.teachers[0]

    @property
    def classifier(self) -> nn.Module:
        """The first teacher's classifier."""
        return self.classifiers[0]


@dataclass(frozen=True)
class DataFacts:
    """What a method may know of the training data before the first step.

    Attributes:
        size: one more than the largest value of `Step.index`; the length of a bank by sample.
        labels: (size,) int64 label by `Step.index`; -1 where a picture is not trained on.
        num_classes: K.
        steps_per_epoch, epochs: of the training.
        milestones: epochs after which the learning rate drops by a step.

    >>> labels = torch.tensor([0, 1, -1, 1])  # picture 2 is kept for validation
    >>> facts = kdlab.methods.DataFacts(4, labels, num_classes=2, steps_per_epoch=1, epochs=30)
    >>> method = kdlab.methods.GPAC()
    >>> method.attach(facts)
    >>> method.term("attention").factor(epoch=11)  # 1000 times the second level of three
    500.0
    """

    size: int
    labels: Tensor
    num_classes: int
    steps_per_epoch: int
    epochs: int
    milestones: tuple[int, ...] = ()


class Preparation(Protocol):
    """What `Method.prepare` may use: the frozen teachers and the data, before the first step.

    >>> class Counted(kdlab.methods.KD):
    ...     def prepare(self, preparation):  # called once, before the first step
    ...         self.held_out = sum(len(labels) for _, labels, _ in preparation.batches("val"))
    >>> Counted().overrides("prepare")
    True
    """

    teachers: Sequence[StagedNet]
    device: torch.device
    epochs: int
    """Length of the students' training, for work that is scaled with it."""

    def batches(
        self, part: Literal["train", "val"], epoch: int = 0
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Images, labels and index, batch by batch, on the device.

        Args:
            part: "train": shuffled and augmented as in training, differently for each `epoch` (from 1),
                or once in order and as they are for epoch 0; "val": the held-out pictures in order.
        """
        ...

    def shared(self, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """`make()`, computed once for all students that ask under the same `key`, under a seed made
        from the key; the tensors are copies."""
        ...

"""What methods do before their first step (training a teacher's exits, tables of probes), and with what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from kdlab.data import Batches, eval_batches
from kdlab.models.features import StagedNet
from kdlab.training.control import Control
from kdlab.training.plan import RunPlan
from kdlab.training.seeds import derive, seeded
from kdlab.training.student import StudentRun


class Stopped(Exception):
    """Training was asked to stop while a method was being prepared."""


class Workshop:
    """The `Preparation` of one seed: pauses and stops as training does, and remembers what is shared.

    Args:
        plan: of the seed.
        batches: of the training images, in another order than the training's own.
        control: asked before each batch.
    """

    def __init__(self, plan: RunPlan, batches: Batches, control: Control) -> None:
        self.teachers: Sequence[StagedNet] = plan.teachers
        self.device: torch.device = plan.device
        self.epochs: int = plan.recipe.epochs
        self._plan, self._batches, self._control = plan, batches, control
        self._shared: dict[str, dict[str, Tensor]] = {}

    def look_after(self, student: StudentRun) -> bool:
        """Let a student's method prepare itself before its first step, and look at the student before
        the epochs for which it asks; whether there was something to do.

        Raises:
            Stopped: the control said stop; it is begun again when the run is gone on with.
        """
        busy = not student.prepared
        if busy:
            with seeded(derive(self._plan.seed, "prepare"), self.device):
                student.method.prepare(self)
            student.prepared = True
        if student.visited < student.epoch:
            if student.method.revisits(student.epoch):
                with seeded(derive(self._plan.seed, "revisit", student.epoch), self.device):
                    student.method.revisit(self, student.net, student.epoch)
                busy = True
            student.visited = student.epoch
        return busy

    def batches(
        self, part: Literal["train", "val"], epoch: int = 0
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """See `kdlab.methods.Preparation`."""
        data = self._plan.data
        if part == "train" and epoch:
            source = self._batches.epoch(epoch)
        else:
            split = data.train if part == "train" else data.val
            source = eval_batches(split, data.mean, data.std, 256, self.device)
        for batch in source:
            if not self._control.tick(count=False):
                raise Stopped
            yield batch.images, batch.labels, batch.index

    def shared(self, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """See `kdlab.methods.Preparation`."""
        if key not in self._shared:
            with seeded(derive(self._plan.seed, "shared", key), self.device):
                self._shared[key] = {k: v.detach().clone() for k, v in make().items()}
        return {k: v.clone() for k, v in self._shared[key].items()}

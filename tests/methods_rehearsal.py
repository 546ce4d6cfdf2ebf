"""What the engine gives to methods before the first step, in small: facts, batches, shared results."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kdlab.methods import DataFacts

CLASSES = 5
SHAPE = (3, 16, 16)
FACTS = DataFacts(
    size=64, labels=torch.arange(64) % CLASSES, num_classes=CLASSES, steps_per_epoch=2, epochs=30
)


class Rehearsal:
    """A `Preparation` with pictures that can be told apart: a prototype for each class, and noise.

    Attributes:
        made: keys under which something was computed, in order.

    Args:
        memory: what was computed before for the same teachers and pictures.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        teachers: Sequence[Any],
        epochs: int = 3,
        train: int = 40,
        val: int = 20,
        shape: Sequence[int] = SHAPE,
        classes: int = CLASSES,
        memory: dict[str, dict[str, Tensor]] | None = None,
    ) -> None:
        self.teachers = tuple(teachers)
        self.epochs = epochs
        generator = torch.Generator().manual_seed(8)
        count = train + val
        self.labels = torch.arange(count) % classes
        prototypes = torch.randn(classes, *shape, generator=generator)
        noise = torch.randn(count, *shape, generator=generator)
        self.images = prototypes[self.labels] + 0.7 * noise
        self.parts = {"train": torch.arange(train), "val": torch.arange(train, count)}
        self.asked: list[tuple[str, int]] = []
        self.made: list[str] = []
        self._memory: dict[str, dict[str, Tensor]] = {} if memory is None else memory

    def batches(self, part: str, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        self.asked.append((part, epoch))
        rows = self.parts[part]
        if epoch:
            rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(epoch))]
        for chosen in rows.split(20):
            yield self.images[chosen], self.labels[chosen], chosen

    def shared(self, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if key not in self._memory:
            state = torch.get_rng_state()
            torch.manual_seed(zlib.crc32(key.encode()))
            self._memory[key] = make()
            torch.set_rng_state(state)
            self.made.append(key)
        return {name: value.clone() for name, value in self._memory[key].items()}

"""Schedules of a term's weight: a factor for each epoch, written as short text such as "warmup:20".

Epochs count from 1. The text form goes into study files, records and widgets; `parse_schedule`
reads it back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kdlab.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """A factor by which a term's weight is multiplied in each epoch; this one is always 1."""

    def factor(self, epoch: int) -> float:
        """The factor in `epoch` (from 1)."""
        return 1.0

    def __str__(self) -> str:
        return "constant"


@dataclass(frozen=True)
class Warmup(Schedule):
    """Linear warm-up min(epoch / epochs, 1): the first epoch has factor 1/epochs."""

    epochs: int

    def __post_init__(self) -> None:
        _at_least_one(self.epochs)

    def factor(self, epoch: int) -> float:
        return min(epoch / self.epochs, 1.0)

    def __str__(self) -> str:
        return f"warmup:{self.epochs}"


@dataclass(frozen=True)
class CosineDecay(Schedule):
    """Half a cosine from 1 in the first epoch to 0 in epoch `epochs`, and 0 after it."""

    epochs: int

    def __post_init__(self) -> None:
        _at_least_one(self.epochs)

    def factor(self, epoch: int) -> float:
        if self.epochs <= 1:
            return 1.0 if epoch <= 1 else 0.0
        done = min((epoch - 1) / (self.epochs - 1), 1.0)
        return 0.5 * (1.0 + math.cos(math.pi * done))

    def __str__(self) -> str:
        return f"cosine:{self.epochs}"


@dataclass(frozen=True)
class Piecewise(Schedule):
    """Factor 1 until the first of `steps`, then each step's factor *from* its epoch on."""

    steps: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        if not self.steps or any(start < 1 or not math.isfinite(factor) for start, factor in self.steps):
            raise ConfigError(f"A piecewise schedule needs pairs (epoch from 1, factor), not {self.steps!r}.")
        object.__setattr__(self, "steps", tuple(sorted(self.steps)))

    def factor(self, epoch: int) -> float:
        value = 1.0
        for start, factor in self.steps:
            if epoch >= start:
                value = factor
        return value

    def __str__(self) -> str:
        return "piecewise:" + ",".join(f"{start}={float(factor)!r}" for start, factor in self.steps)


def _at_least_one(epochs: int) -> None:
    if epochs < 1:
        raise ConfigError(f"A schedule needs at least one epoch, not {epochs!r}.")


def parse_schedule(text: str | Schedule) -> Schedule:
    """Read a schedule from its text: "constant", "warmup:20", "cosine:30", "piecewise:60=0.9,160=0.8".

    Raises:
        ConfigError: the text is none of these, or a `Schedule` of one's own whose text does not give it
            back (it could not be recorded).
    """
    if isinstance(text, Schedule):
        if parse_schedule(str(text)) != text:
            raise ConfigError(f"The schedule {text!r} cannot be recorded: {str(text)!r} is another one.")
        return text
    kind, _, rest = str(text).strip().partition(":")
    try:
        if kind == "constant" and not rest:
            return Schedule()
        if kind == "warmup":
            return Warmup(int(rest))
        if kind == "cosine":
            return CosineDecay(int(rest))
        if kind == "piecewise":
            pairs = [pair.split("=") for pair in rest.split(",")]
            return Piecewise(tuple((int(start), float(factor)) for start, factor in pairs))
    except ValueError:  # also what the schedules themselves refuse
        pass
    raise ConfigError(
        f"{text!r} is no schedule; write 'constant', 'warmup:EPOCHS', 'cosine:EPOCHS' or "
        "'piecewise:EPOCH=FACTOR,...'."
    )

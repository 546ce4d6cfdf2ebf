"""Schedules of a term's weight: a factor for each epoch, written as short text such as "warmup:20".

Epochs count from 1. The text form goes into study files, records and widgets; `parse_schedule`
reads it back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kdlab.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """A factor by which a term's weight is multiplied in each epoch; this one is always 1.

    >>> kdlab.methods.Schedule().factor(epoch=7)
    1.0
    """

    def factor(self, epoch: int) -> float:
        """The factor in `epoch` (from 1)."""
        return 1.0

    def over(self, epochs: int, milestones: Sequence[int] = ()) -> Schedule:
        """This schedule for a training of that length; only those that follow the training differ.

        Args:
            epochs: of the training.
            milestones: epochs after which its learning rate drops.

        Raises:
            ConfigError: it follows something that this training does not have.
        """
        return self

    def __str__(self) -> str:
        return "constant"


@dataclass(frozen=True)
class Warmup(Schedule):
    """Linear warm-up min(epoch / epochs, 1): the first epoch has factor 1/epochs.

    Raises:
        ConfigError: fewer than one epoch.

    >>> rise = kdlab.methods.Warmup(4)
    >>> [rise.factor(epoch) for epoch in (1, 2, 4, 5)]
    [0.25, 0.5, 1.0, 1.0]
    """

    epochs: int

    def __post_init__(self) -> None:
        _at_least_one(self.epochs)

    def factor(self, epoch: int) -> float:
        return min(epoch / self.epochs, 1.0)

    def __str__(self) -> str:
        return f"warmup:{self.epochs}"


@dataclass(frozen=True)
class CosineDecay(Schedule):
    """Half a cosine from 1 in the first epoch to 0 in epoch `epochs`, and 0 after it.

    Raises:
        ConfigError: fewer than one epoch.

    >>> fall = kdlab.methods.CosineDecay(5)
    >>> [round(fall.factor(epoch), 2) for epoch in (1, 3, 5, 6)]
    [1.0, 0.5, 0.0, 0.0]
    """

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
    """Factor 1 until the first of `steps`, then each step's factor *from* its epoch on.

    Raises:
        ConfigError: no steps, an epoch below 1, or a factor that is not finite.

    >>> steps = kdlab.methods.Piecewise(((3, 0.5), (5, 0.1)))
    >>> [steps.factor(epoch) for epoch in (2, 3, 4, 5)]
    [1.0, 0.5, 0.5, 0.1]
    >>> str(steps)  # as it is written in records
    'piecewise:3=0.5,5=0.1'
    """

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


@dataclass(frozen=True)
class Levels(Schedule):
    """As many equal parts of the training as there are factors; part i has the i-th factor.

    With three: the first for e <= E/3, the second for E/3 < e <= 2E/3, then the third. Before the length
    E of the training is known (see `over`), the first.

    Raises:
        ConfigError: no factors, or one that is not finite.

    >>> thirds = kdlab.methods.Levels((1.0, 0.5, 0.1)).over(epochs=6)
    >>> [thirds.factor(epoch) for epoch in range(1, 7)]
    [1.0, 1.0, 0.5, 0.5, 0.1, 0.1]
    """

    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.factors or not all(map(math.isfinite, self.factors)):
            raise ConfigError(f"A schedule in levels needs finite factors, not {self.factors!r}.")

    def factor(self, epoch: int) -> float:
        return self.factors[0]

    def over(self, epochs: int, milestones: Sequence[int] = ()) -> Schedule:
        count = len(self.factors)
        starts = {part * epochs // count + 1: factor for part, factor in enumerate(self.factors)}
        return Piecewise(tuple(starts.items()))

    def __str__(self) -> str:
        return "levels:" + ",".join(repr(float(factor)) for factor in self.factors)


@dataclass(frozen=True)
class Drops(Levels):
    """Goes on to the next factor where the learning rate drops, instead of after equal parts.

    Raises:
        ConfigError: no factors, or one that is not finite; from `over`, fewer drops than it needs.

    >>> drops = kdlab.methods.Drops((1.0, 0.5)).over(epochs=6, milestones=[4])
    >>> [drops.factor(epoch) for epoch in range(1, 7)]
    [1.0, 1.0, 1.0, 1.0, 0.5, 0.5]
    """

    def over(self, epochs: int, milestones: Sequence[int] = ()) -> Schedule:
        needed = len(self.factors) - 1
        if len(milestones) < needed:
            raise ConfigError(
                f"The schedule {str(self)!r} follows {needed} drops of the learning rate, and this recipe "
                f"has {len(milestones)}; write 'levels:...' for equal parts of the training."
            )
        later = zip(milestones, self.factors[1:])
        return Piecewise(((1, self.factors[0]), *((epoch + 1, factor) for epoch, factor in later)))

    def __str__(self) -> str:
        return super().__str__().replace("levels", "drops")


@dataclass(frozen=True)
class WholeCosine(Schedule):
    """`CosineDecay` over the whole training; 1 before its length is known (see `over`)."""

    def over(self, epochs: int, milestones: Sequence[int] = ()) -> Schedule:
        return CosineDecay(epochs)

    def __str__(self) -> str:
        return "cosine"


def _at_least_one(epochs: int) -> None:
    if epochs < 1:
        raise ConfigError(f"A schedule needs at least one epoch, not {epochs!r}.")


def parse_schedule(text: str | Schedule) -> Schedule:
    """Read a schedule from its text: "constant", "warmup:20", "cosine:30", "piecewise:60=0.9,160=0.8".

    Some follow the training: "cosine" over all of it, "levels:1,0.5,0.1" in equal parts, and
    "drops:1,0.5,0.1" from one drop of the learning rate to the next.

    Raises:
        ConfigError: the text is none of these, or a `Schedule` of one's own whose text does not give it
            back (it could not be recorded).

    >>> kdlab.methods.parse_schedule("warmup:20").factor(epoch=5)
    0.25
    >>> kdlab.methods.parse_schedule("piecewise:60=0.9,160=0.8").factor(epoch=100)
    0.9
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
            return CosineDecay(int(rest)) if rest else WholeCosine()
        if kind in ("levels", "drops"):
            factors = tuple(float(factor) for factor in rest.split(","))
            return Levels(factors) if kind == "levels" else Drops(factors)
        if kind == "piecewise":
            pairs = [pair.split("=") for pair in rest.split(",")]
            return Piecewise(tuple((int(start), float(factor)) for start, factor in pairs))
    except ValueError:  # also what the schedules themselves refuse
        pass
    raise ConfigError(
        f"{text!r} is no schedule; write 'constant', 'warmup:EPOCHS', 'cosine:EPOCHS', 'cosine', "
        "'levels:FACTOR,FACTOR,...', 'drops:FACTOR,FACTOR,...' or 'piecewise:EPOCH=FACTOR,...'."
    )

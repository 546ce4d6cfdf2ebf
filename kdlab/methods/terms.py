"""`Term`: one named, weighted, schedulable, switchable part of a loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from kdlab.errors import ConfigError
from kdlab.methods.schedules import Schedule, parse_schedule


@dataclass
class Term:
    """One named part of a loss: total = sum over terms of weight * schedule(epoch) * value.

    Attributes:
        name: the field's short name ("kd").
        weight: finite; 0 switches the term off as `enabled=False` does.
        taps: the tensors the term reads, and nothing else; its diagram is drawn from them. Written as
            "student.logits", "student.embedding", "student.stages[2]", "teacher.final",
            "teacher.preacts[0]", "teacher.classifier", "target", "index", and of the other view
            "second.student.logits" (with several teachers, "teacher" is all of them). Before `build` an
            index may be negative (from the deepest stage), or be left out where all stages are meant.
        doc: one sentence: what the term asks of the student.
        schedule: the weight's factor per epoch; text such as "warmup:20" is read.
        enabled: the switch.
        optional: an addition that a method offers at weight 0. In a sum of methods it gives way to
            another operand's term of the same name.

    >>> term = kdlab.methods.Term("kd", 0.9, ("student.logits", "teacher.logits"), schedule="warmup:10")
    >>> print(term, term.factor(epoch=5), term.needs_teacher)
    kd=0.9 warmup:10 0.45 True
    >>> term.set(enabled=False)
    >>> term.factor(epoch=5)
    0.0
    """

    name: str
    weight: float
    taps: tuple[str, ...]
    doc: str = ""
    schedule: Schedule = field(default_factory=Schedule)
    enabled: bool = True
    optional: bool = False

    def __post_init__(self) -> None:
        self.weight = self._finite(self.weight)
        self.schedule = parse_schedule(self.schedule)

    def _finite(self, weight: Any) -> float:
        if not isinstance(weight, Real) or isinstance(weight, bool) or not math.isfinite(weight):
            raise ConfigError(f"The weight of term {self.name!r} must be a finite number, not {weight!r}.")
        return float(weight)

    def factor(self, epoch: int) -> float:
        """The number the raw value is multiplied by in `epoch`; 0 when switched off."""
        return self.weight * self.schedule.factor(epoch) if self.enabled else 0.0

    @property
    def needs_teacher(self) -> bool:
        """Whether the term reads anything of a teacher."""
        return any(tap.removeprefix("second.").startswith("teacher") for tap in self.taps)

    def set(
        self,
        weight: float | None = None,
        enabled: bool | None = None,
        schedule: str | Schedule | None = None,
    ) -> None:
        """Change what is given; everything is checked before anything is changed.

        Raises:
            ConfigError: a weight that is not a finite number, an unreadable schedule, or a switch that is
                neither True nor False.
        """
        if enabled is not None and not isinstance(enabled, bool):
            raise ConfigError(f"enabled of term {self.name!r} must be True or False, not {enabled!r}.")
        new_weight = self.weight if weight is None else self._finite(weight)
        new_schedule = self.schedule if schedule is None else parse_schedule(schedule)
        self.weight, self.schedule = new_weight, new_schedule
        if enabled is not None:
            self.enabled = enabled

    def state(self) -> dict[str, Any]:
        """What can be changed while training runs, as plain values for records."""
        return {"weight": self.weight, "enabled": self.enabled, "schedule": str(self.schedule)}

    def __str__(self) -> str:
        schedule = "" if str(self.schedule) == "constant" else f" {self.schedule}"
        return f"{self.name}={self.weight:g}{schedule}{'' if self.enabled else ' off'}"

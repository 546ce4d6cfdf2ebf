"""A learner's function beside kdlab's: both on all inputs, and how outcomes are compared and shown."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdlab.exercises.exercise import Case, Exercise, Mistake, build
from kdlab.exercises.running import Outcome, run

_SMALL = 12  # elements of a tensor that are written out


@dataclass(frozen=True)
class Fault:
    """The first thing that is wrong: property, sentence, and the input on which it shows."""

    property: str
    says: str
    case: Case | None = None
    expected: str = ""
    got: str = ""
    mistake: str = ""


class Trial:
    """Outcomes of an answer and of the reference on every case of an exercise.

    Attributes:
        exercise, function: what was asked and what was answered.
        cases: the inputs, the smallest first.
        mine: what the answer gave on each.
        truth: what kdlab gave on each.
        arguments: names of the arguments.
    """

    def __init__(self, exercise: Exercise, function: Callable[..., Any]) -> None:
        self.exercise, self.function = exercise, function
        self.arguments, self.cases, self.truth = _prepared(exercise)
        self.mine = [run(function, case.args, _has_graph(exercise)) for case in self.cases]

    def wrong(self, mistake: Mistake) -> list[Outcome]:
        """What a known mistake gives on each case."""
        return _mistaken(self.exercise, self.exercise.mistakes.index(mistake))

    def close(self, mine: Tensor | None, other: Tensor | None, case: Case) -> bool:
        """Whether two values are equal, as far as the precision of the case's inputs allows."""
        if mine is None or other is None or mine.shape != other.shape:
            return mine is None and other is None
        e = self.exercise
        return torch.allclose(mine.double(), other.double(), rtol=e.rtol, atol=e.atol, equal_nan=True)

    def right(self, place: int) -> bool:
        """Whether the answer's value is right on a case."""
        mine, case = self.mine[place], self.cases[place]
        return self.close(mine.tensor, self.truth[place].tensor, case) or (mine.finite and not case.exact)

    def same_slopes(self, mine: Outcome, other: Outcome, case: Case, places: Sequence[int]) -> bool:
        """Whether the gradients with respect to the arguments at `places` are equal (none counts as 0)."""
        for place in places:
            here, there = mine.slopes.get(place, []), other.slopes.get(place, [])
            for a, b in zip(here or [None] * len(there), there or [None] * len(here)):
                if a is None and b is None:
                    continue
                a = torch.zeros_like(b) if a is None and b is not None else a
                b = torch.zeros_like(a) if b is None and a is not None else b
                assert a is not None and b is not None
                # Of large gradients the small entries are rounding.
                largest = b[b.isfinite()].abs().max().item() if b.isfinite().any() else 0.0
                atol = 1e-3 * largest + max(1e-6, self.exercise.atol)
                if not torch.allclose(a.double(), b.double(), 1e-2, atol, equal_nan=True):
                    return False
        return True

    def slope_size(self, outcome: Outcome, place: int) -> float:
        """Largest entry of the gradient that arrives at an argument; 0 where none does."""
        arrived = [g for g in outcome.slopes.get(place, []) if g is not None]
        return max((g.abs().nan_to_num(torch.inf).max().item() for g in arrived), default=0.0)

    def fault(
        self, property: str, says: str, place: int, expected: str = "", got: str = "", mistake: str = ""
    ) -> Fault:
        """A fault that shows on a case; what is not said otherwise is the true and the given value."""
        expected = expected or show(self.truth[place].tensor)
        got = got or show(self.mine[place].value)
        return Fault(property, says, self.cases[place], expected, got, mistake)

    def example(self, case: Case) -> str:
        """The arguments of a case as text, with their names."""
        shown = ", ".join(f"{name} = {show(arg)}" for name, arg in zip(self.arguments, case.args))
        return f"{case.label}: {shown}"


@functools.lru_cache(maxsize=64)  # an exercise is tried more than once
def _prepared(exercise: Exercise) -> tuple[tuple[str, ...], list[Case], list[Outcome]]:
    """Names of the arguments, the cases, and what the reference gives on each."""
    cases = exercise.cases()
    truth = [run(exercise.reference, case.args, _has_graph(exercise)) for case in cases]
    return tuple(exercise.signature.parameters), cases, truth


@functools.lru_cache(maxsize=512)
def _mistaken(exercise: Exercise, place: int) -> list[Outcome]:
    function = build(exercise, exercise.mistakes[place])
    return [run(function, case.args, _has_graph(exercise)) for case in _prepared(exercise)[1]]


def _has_graph(exercise: Exercise) -> bool:
    """Whether gradients matter; elsewhere tensors may go to numpy."""
    return bool(exercise.learns or exercise.frozen)


def show(value: Any) -> str:
    """A number, a small tensor or the shape of a large one, in few characters."""
    if isinstance(value, list) and value and isinstance(value[0], Tensor):
        return "[" + ", ".join(show(x) for x in value) + "]"
    if isinstance(value, Tensor):
        if value.numel() > _SMALL:
            return f"a tensor of shape {tuple(value.shape)}"
        return _nested(value.detach().tolist())
    if isinstance(value, float | int) and not isinstance(value, bool):
        return _nested(value)
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _nested(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_nested(x) for x in value) + "]"
    return f"{value:.5g}" if isinstance(value, float) else str(value)

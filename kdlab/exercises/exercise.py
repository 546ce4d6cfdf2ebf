"""What an exercise consists of: data alone; `kdlab.exercises.catalogue` holds the exercises themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kdlab.errors import ConfigError

HEADER = "import torch\nimport torch.nn.functional as F\n\n\n"


@dataclass(frozen=True)
class Case:
    """Arguments to try a function on.

    Attributes:
        label: what is special about them, to go after "for".
        args: in the order of the exercise's signature: tensors, lists of tensors, numbers.
        sizes: what wrong factors are made of: "B", "C", "tau", "M", as far as the exercise has them.
        plain: whether it is an ordinary input; the others are edges, looked at when these are right.
        property: what is broken where the answer fails on this edge alone.
        exact: whether the value must be kdlab's; False where a finite value and gradient will do.
    """

    label: str
    args: tuple[Any, ...]
    sizes: Mapping[str, float] = field(default_factory=dict)
    plain: bool = True
    property: str = "value"
    exact: bool = True


@dataclass(frozen=True)
class Mistake:
    """A typical wrong version: the solution with some text of it replaced.

    Attributes:
        property: the first property it breaks.
        says: what was done, and what to do instead.
        edits: (text of the solution, what stands there instead).
    """

    property: str
    says: str
    edits: tuple[tuple[str, str], ...]


def wrong(property: str, says: str, *edits: tuple[str, str]) -> Mistake:
    """A `Mistake`, with its edits one after the other."""
    return Mistake(property, says, edits)


@dataclass(frozen=True)
class Invariance:
    """A change of the arguments that must leave the result as it is.

    Attributes:
        says: the rule, as a sentence.
        change: the changed arguments.
    """

    says: str
    change: Callable[[tuple[Any, ...]], tuple[Any, ...]]


@dataclass(frozen=True)
class Exercise:
    """A function to write.

    Attributes:
        name: the key, and the name of the function in `source`.
        notebook: number of the tutorial.
        title: what it is about.
        task: what is to be written.
        reference: kdlab's own function, with the exercise's signature.
        cases: makes the arguments, the smallest first.
        source: the solution, a function of the name `name`.
        hints: three, from gentle to nearly the solution.
        mistakes: known ones, as edits of `source`.
        learns: places of the arguments that gradient must reach.
        frozen: places of the arguments that gradient must not reach.
        invariances: rules that the result keeps.
        kind: "loss" (a scalar tensor), "tensor", or "number" (also a plain float).
        public: the function of kdlab behind `reference`, if it is one.
        rtol, atol: how close is close enough.
    """

    name: str
    notebook: int
    title: str
    task: str
    reference: Callable[..., Any]
    cases: Callable[[], list[Case]]
    source: str
    hints: tuple[str, str, str]
    mistakes: tuple[Mistake, ...]
    learns: tuple[int, ...] = ()
    frozen: tuple[int, ...] = ()
    invariances: tuple[Invariance, ...] = ()
    kind: Literal["loss", "tensor", "number"] = "loss"
    public: Callable[..., Any] | None = None
    rtol: float = 1e-3
    atol: float = 1e-5

    @property
    def signature(self) -> inspect.Signature:
        """The arguments, as the solution names them."""
        return inspect.signature(build(self))


@dataclass(frozen=True)
class Question:
    """A number or a choice to work out.

    Attributes:
        name, notebook, title: as of an `Exercise`.
        task: the question.
        source: Python that works it out and calls it `answer`: the solution, and the truth.
        hints: three, from gentle to nearly the solution.
        mistakes: wrong answers: (Python of one expression, what was done and what to do instead).
        options: what can be chosen; empty for a number.
        tolerance: share of the truth that a number may be off.
    """

    name: str
    notebook: int
    title: str
    task: str
    source: str
    hints: tuple[str, str, str]
    mistakes: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = ()
    tolerance: float = 0.01


def build(exercise: Exercise, mistake: Mistake | None = None) -> Callable[..., Any]:
    """The solution as a function, or the wrong version of it.

    Raises:
        ConfigError: an edit's text does not stand in the solution.
    """
    source = exercise.source
    for old, new in mistake.edits if mistake else ():
        if old not in source:
            raise ConfigError(f"The solution of {exercise.name!r} has no {old!r} that could be replaced.")
        source = source.replace(old, new)
    names: dict[str, Any] = {}
    exec(HEADER + source, names)
    return names[exercise.name]


def answer_of(question: Question, expression: str = "answer") -> Any:
    """The truth of a question, or the value of an expression in its terms."""
    names: dict[str, Any] = {}
    exec(HEADER + question.source, names)
    return eval(expression, names)

"""What is looked at in an answer, in the order in which it is best told."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdlab.exercises.diagnosis import named, sharpen
from kdlab.exercises.running import run
from kdlab.exercises.trial import Fault, Trial, show


@dataclass(frozen=True)
class Property:
    """One thing that must hold.

    Attributes:
        title: what it is about.
        holds: in words, to go into a list of what is right.
        applies: whether an exercise has it.
        test: the fault, or None; None in place of a test: told apart from a wrong value by `named`.
    """

    title: str
    holds: str
    applies: Callable[[Trial], bool]
    test: Callable[[Trial], Fault | None] | None


def first_fault(trial: Trial) -> tuple[Fault | None, tuple[str, ...]]:
    """The first broken property, if any, and what holds of those before it."""
    held: list[str] = []
    untested: set[str] = set()  # what only a name for the mistake could have told
    explained: Fault | None = None
    for key, kind in PROPERTIES.items():
        if key == "invariance":  # from here on a name for the mistake says more than the rule it breaks
            explained = named(trial)
        if not kind.applies(trial):
            continue
        fault = kind.test(trial) if kind.test else None
        if explained is not None and (key == explained.property or fault is not None):
            return explained, tuple(held)
        if fault is not None:
            return sharpen(trial, fault), tuple(text for text in held if text not in untested)
        held.append(kind.holds)
        if kind.test is None:
            untested.add(kind.holds)
    return explained, tuple(held)


def bound(function: Callable[..., Any], trial_arguments: tuple[str, ...]) -> str:
    """Why a function cannot be called with the exercise's arguments; "" if it can."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(*trial_arguments)
    except TypeError:
        return (
            f"Your function takes ({', '.join(signature.parameters)}), and is called with "
            f"{len(trial_arguments)} arguments in this order: ({', '.join(trial_arguments)})."
        )
    return ""


def _arguments(trial: Trial) -> Fault | None:
    if says := bound(trial.function, trial.arguments):
        return Fault("arguments", says)
    for place, (mine, case) in enumerate(zip(trial.mine, trial.cases)):
        if mine.error:
            right = any(c.plain and trial.right(i) for i, c in enumerate(trial.cases))
            but = " works for ordinary inputs, and" if right and not case.plain else ""
            says = f"Your function{but} does not come to its end for {case.label}: {mine.error}."
            return trial.fault("arguments", says, place, got="no result")
    return None


def _result(trial: Trial) -> Fault | None:
    kind = trial.exercise.kind
    for place, (mine, truth) in enumerate(zip(trial.mine, trial.truth)):
        assert truth.tensor is not None
        wanted = "a scalar tensor" if kind == "loss" else f"a tensor of shape {tuple(truth.tensor.shape)}"
        wanted = "a number" if kind == "number" else wanted
        if mine.value is None:
            return trial.fault("result", "Your function gives None back: is the `return` missing?", place)
        if mine.tensor is None or (kind != "number" and not isinstance(mine.value, Tensor)):
            says = f"Your function must return {wanted}, and returns a {type(mine.value).__name__}."
            if isinstance(mine.value, float | int):
                says += " A plain number (as `.item()` makes it) has no gradient: return the tensor."
            elif isinstance(mine.value, list | tuple) and kind == "tensor":
                says += " `torch.stack` makes one tensor of several."
            return trial.fault("result", says, place)
        if mine.tensor.shape != truth.tensor.shape:
            says = f"Your function must return {wanted}, and returns one of shape {tuple(mine.tensor.shape)}."
            per_sample = trial.cases[place].sizes.get("B")
            if kind == "loss" and mine.tensor.shape == (per_sample,):
                says += " That is one value for each picture: take their mean."
            elif mine.tensor.numel() == 1:
                says += " It is one number, but still in brackets: `.squeeze()` takes them away."
            return trial.fault("result", says, place)
    return None


def _inputs(trial: Trial) -> Fault | None:
    for place, mine in enumerate(trial.mine):
        if mine.changed is not None:
            name = trial.arguments[mine.changed]
            says = (
                f"Your function changes its argument `{name}` in place (as `{name} /= ...` does); "
                "whoever uses it afterwards gets other numbers. Make a new tensor instead."
            )
            return trial.fault("inputs", says, place, expected=f"`{name}` as it was", got="other numbers")
    return None


def _finite(trial: Trial) -> Fault | None:
    for place, (mine, case) in enumerate(zip(trial.mine, trial.cases)):
        if case.plain and not mine.finite:
            says = f"The value is not finite for {case.label}. Look for a division by 0 or the log of 0."
            return trial.fault("finite", says, place)
    return None


def _gradient(trial: Trial) -> Fault | None:
    for place, mine in enumerate(trial.mine):
        if mine.slope_error:
            return trial.fault(
                "gradient", f"The backward pass fails: {mine.slope_error}.", place, got="error"
            )
    for argument in trial.exercise.learns:
        places = [
            i
            for i, (truth, case) in enumerate(zip(trial.truth, trial.cases))
            if case.plain and trial.slope_size(truth, argument) > 1e-6
        ]
        # None anywhere: what arrives on some inputs alone is a matter of the value.
        if places and all(trial.slope_size(trial.mine[i], argument) == 0 for i in places):
            name = trial.arguments[argument]
            says = (
                f"No gradient reaches `{name}`, so nothing would be learned. Look for `.detach()`, "
                "`.item()`, `torch.no_grad()`, `torch.tensor(...)` or `argmax` on its way."
            )
            return trial.fault("gradient", says, places[0], expected="a gradient", got="none")
    return None


def _teacher(trial: Trial) -> Fault | None:
    for place, mine in enumerate(trial.mine):
        for argument in trial.exercise.frozen:
            if trial.slope_size(mine, argument) > 0:
                name = trial.arguments[argument]
                says = f"A gradient reaches `{name}`. The teacher gives and is not changed: use " + (
                    f"`[t.detach() for t in {name}]`." if _is_list(trial, argument) else f"`{name}.detach()`."
                )
                return trial.fault("teacher", says, place, expected="no gradient", got="a gradient")
    return None


def _is_list(trial: Trial, argument: int) -> bool:
    return isinstance(trial.cases[0].args[argument], list)


def _invariance(trial: Trial) -> Fault | None:
    for place, (mine, case) in enumerate(zip(trial.mine, trial.cases)):
        for rule in trial.exercise.invariances if case.plain else ():
            changed = run(trial.function, rule.change(case.args), graph=False)
            if changed.error or not trial.close(changed.tensor, mine.tensor, case):
                says = f"{rule.says}; with your function it does change the result."
                before, after = show(mine.value), changed.error or show(changed.value)
                return trial.fault("invariance", says, place, expected=f"{before}, as before", got=after)
    return None


def _stability(trial: Trial) -> Fault | None:
    if _wrong_anyway(trial):
        return None
    for place, (mine, truth, case) in enumerate(zip(trial.mine, trial.truth, trial.cases)):
        edge = not case.plain  # ordinary values are right by now, but not yet their gradients
        if edge and (not mine.finite or (case.property == "stability" and not trial.right(place))):
            what = "is wrong" if mine.finite else "is not finite"
            says = (
                f"The value is right for ordinary inputs, and {what} for {case.label}. Numbers overflow, "
                "or the log of 0 is taken: use `F.log_softmax`, `logsumexp` or a small constant in a "
                "denominator."
            )
            return trial.fault("stability", says, place)
        for argument in trial.exercise.learns:
            if _steep(mine.slopes.get(argument, [])) and not _steep(truth.slopes.get(argument, [])):
                name = trial.arguments[argument]
                says = (
                    f"The value is finite for {case.label}, but the gradient with respect to `{name}` is "
                    "not: look for the root, the log or the division whose slope at 0 is infinite."
                )
                return trial.fault("stability", says, place, expected="a finite gradient", got="inf or NaN")
    return None


def _steep(gradients: list[Tensor | None]) -> bool:
    return any(g is not None and not bool(torch.isfinite(g).all()) for g in gradients)


def _value(trial: Trial) -> Fault | None:
    plain_wrong = _wrong_anyway(trial)
    for place, case in enumerate(trial.cases):
        if not trial.right(place):
            says = f"The value is wrong for {case.label}."
            if not plain_wrong:
                says = f"The value is right for ordinary inputs, and wrong for {case.label}."
            return trial.fault("value" if plain_wrong else case.property, says, place)
    return None


def _wrong_anyway(trial: Trial) -> bool:
    """Whether the value is wrong for an ordinary input."""
    return any(case.plain and not trial.right(i) for i, case in enumerate(trial.cases))


def _slope(trial: Trial) -> Fault | None:
    for place, (mine, truth, case) in enumerate(zip(trial.mine, trial.truth, trial.cases)):
        for argument in trial.exercise.learns if case.exact else ():
            steep = _steep(truth.slopes.get(argument, []))
            if not steep and not trial.same_slopes(mine, truth, case, [argument]):
                name = trial.arguments[argument]
                says = (
                    f"The value is right, but not its gradient with respect to `{name}`: a part on its way "
                    "is detached that the gradient should pass through."
                )
                return trial.fault("slope", says, place, expected="the slope of the value", got="another")
    return None


def _tau(trial: Trial) -> bool:
    return any("temperature" in name for name in trial.arguments)


def _about(property: str) -> Callable[[Trial], bool]:
    return lambda trial: any(m.property == property for m in trial.exercise.mistakes)


PROPERTIES: dict[str, Property] = {
    "arguments": Property("arguments", "takes the arguments", lambda t: True, _arguments),
    "result": Property("shape of the result", "returns the right shape", lambda t: True, _result),
    "inputs": Property("side effects", "leaves its arguments as they are", lambda t: True, _inputs),
    "finite": Property("finite values", "is finite", lambda t: True, _finite),
    "gradient": Property("gradient", "passes a gradient on", lambda t: bool(t.exercise.learns), _gradient),
    "teacher": Property(
        "gradient to the teacher",
        "gives no gradient to the teacher",
        lambda t: bool(t.exercise.frozen),
        _teacher,
    ),
    "invariance": Property(
        "invariance", "keeps its invariances", lambda t: bool(t.exercise.invariances), _invariance
    ),
    "reduction": Property("sum and mean", "sums and averages rightly", _about("reduction"), None),
    "temperature": Property("temperature", "scales with the temperature", _tau, None),
    "order": Property("order in the KL", "has teacher and student in order", _about("order"), None),
    "masking": Property("true class", "treats the true class rightly", _about("masking"), None),
    "stability": Property("stability", "is stable for extreme inputs", lambda t: True, _stability),
    "value": Property("value", "has the right value", lambda t: True, _value),
    "slope": Property(
        "value of the gradient", "has the right gradient", lambda t: bool(t.exercise.learns), _slope
    ),
}
"""Key -> property, in the order in which they are looked at."""

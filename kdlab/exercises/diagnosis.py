"""What a wrong value tells: known mistakes by their behaviour, and factors by the ratio to the truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from kdlab.exercises.exercise import Mistake
from kdlab.exercises.running import Outcome
from kdlab.exercises.trial import Fault, Trial

BY_VALUE = ("invariance", "reduction", "temperature", "order", "masking", "value")
"""Properties whose known mistakes are recognised by the values that they give."""


@dataclass(frozen=True)
class Factor:
    """A value that is wrong by a factor everywhere.

    Attributes:
        property: what is broken.
        needs: sizes it is made of.
        of: the factor, from the sizes of a case.
        says: what was probably done, and what to do instead.
    """

    property: str
    needs: str
    of: Callable[[Mapping[str, float]], float]
    says: str


FACTORS = (
    Factor(
        "reduction",
        "C",
        lambda n: 1 / n["C"],
        "Your value is C times too small, C the number of classes: it was averaged over the classes too "
        "(`reduction='mean'` and `.mean()` do that). Sum over the classes and average over the batch: "
        "`reduction='batchmean'`.",
    ),
    Factor(
        "reduction",
        "B",
        lambda n: n["B"],
        "Your value is B times too large, B the batch size: it was summed over the batch. Take the mean "
        "over the batch.",
    ),
    Factor(
        "reduction",
        "M",
        lambda n: n["M"],
        "Your value is M times too large, M the number of teachers: the teachers were summed. Take their "
        "mean.",
    ),
    Factor(
        "reduction",
        "B",
        lambda n: 1 / n["B"],
        "Your value is B times too small, B the batch size: it was divided by the batch size once too often.",
    ),
    Factor(
        "reduction",
        "C",
        lambda n: n["C"],
        "Your value is C times too large, C the number of classes: take the mean over the classes too.",
    ),
    Factor(
        "reduction",
        "P",
        lambda n: n["P"],
        "Your value is too large by the number of positions of the map: they were summed. Take the mean "
        "over the positions.",
    ),
    Factor(
        "reduction",
        "D",
        lambda n: n["D"],
        "Your value is too large by the number of features of a picture: they were summed. Take the mean "
        "over all elements.",
    ),
    Factor(
        "reduction",
        "BD",
        lambda n: n["B"] * n["D"],
        "Your value is too large by the number of all elements: it is a sum. Take the mean.",
    ),
    Factor(
        "reduction",
        "BC",
        lambda n: n["B"] * n["C"],
        "Your value is too large by batch size times classes: it is a sum over both. Take the mean.",
    ),
    Factor(
        "temperature",
        "tau",
        lambda n: n["tau"] ** -2,
        "Your value is tau^2 times too small: the factor tau^2 is missing. It keeps the size of the "
        "gradient the same at every temperature.",
    ),
    Factor(
        "temperature",
        "tau",
        lambda n: 1 / n["tau"],
        "Your value is tau times too small: multiply by tau^2, not by tau. Softening divides the gradient "
        "by tau twice: in the student's softmax, and in the distance of the two probabilities.",
    ),
    Factor(
        "temperature",
        "tau",
        lambda n: n["tau"] ** 2,
        "Your value is tau^2 times too large: the factor tau^2 stands there although it does not belong "
        "there, or twice.",
    ),
    Factor(
        "value",
        "",
        lambda n: -1.0,
        "Your value has the wrong sign.",
    ),
    Factor(
        "value",
        "",
        lambda n: 1 / math.log(2),
        "You used logarithms to base 2. Use natural logarithms (`torch.log`).",
    ),
    Factor(
        "value",
        "",
        lambda n: 100.0,
        "Your value is 100 times too large: a percentage where a share from 0 to 1 is asked for.",
    ),
    Factor(
        "value",
        "",
        lambda n: 2.0,
        "Your value is twice too large: look for a part that is counted twice.",
    ),
    Factor(
        "value",
        "",
        lambda n: 0.5,
        "Your value is half of what it should be: look for a factor 1/2 or a mean over two things that "
        "should be a sum.",
    ),
)


def named(trial: Trial) -> Fault | None:
    """The known mistake or the wrong factor that explains the values; None if all are right or none does."""
    plain = [i for i, case in enumerate(trial.cases) if case.plain]
    first = next((i for i in plain if not trial.right(i)), None)
    if first is None:
        return None
    everywhere = range(len(trial.cases))
    for places in (everywhere, plain):
        for mistake in trial.exercise.mistakes:
            if mistake.property in BY_VALUE and _behaves_like(trial, mistake, places):
                return trial.fault(mistake.property, mistake.says, first, mistake=mistake.says)
    single = [(factor,) for factor in FACTORS]
    for factors in itertools.chain(single, itertools.combinations(FACTORS[:12], 2)):
        if _explained(trial, factors, plain):
            says = factors[0].says + (" Then there is a second factor to find." if factors[1:] else "")
            return trial.fault(factors[0].property, says, first, mistake=factors[0].says)
    return None


def sharpen(trial: Trial, fault: Fault) -> Fault:
    """The fault in the words of a known mistake that breaks the same property in the same way."""
    for mistake in trial.exercise.mistakes:
        if mistake.property != fault.property:
            continue
        wrong = trial.wrong(mistake)
        if _behaves_like(trial, mistake, range(len(trial.cases))) and all(
            _same_graph(trial, place, wrong[place]) for place in range(len(trial.cases))
        ):
            return Fault(fault.property, mistake.says, fault.case, fault.expected, fault.got, mistake.says)
    return fault


def _behaves_like(trial: Trial, mistake: Mistake, places: Iterable[int]) -> bool:
    wrong = trial.wrong(mistake)
    return all(_same_value(trial, place, wrong[place]) for place in places)


def _same_value(trial: Trial, place: int, wrong: Outcome) -> bool:
    mine = trial.mine[place]
    if mine.error or wrong.error:
        return bool(mine.error) and bool(wrong.error)
    if not mine.finite and not wrong.finite:
        return True
    return trial.close(mine.tensor, wrong.tensor, trial.cases[place])


def _same_graph(trial: Trial, place: int, wrong: Outcome) -> bool:
    case, mine = trial.cases[place], trial.mine[place]
    if not mine.finite:
        return True  # of what is no number there is no slope to compare
    asked = (*trial.exercise.learns, *trial.exercise.frozen)
    return mine.changed == wrong.changed and trial.same_slopes(mine, wrong, case, asked)


def _explained(trial: Trial, factors: tuple[Factor, ...], places: list[int]) -> bool:
    seen = set()
    for place in places:
        case, mine, truth = trial.cases[place], trial.mine[place].tensor, trial.truth[place].tensor
        needs = [name for factor in factors for name in _names(factor.needs)]
        if not all(name in case.sizes for name in needs) or mine is None or truth is None:
            return False
        product = math.prod(factor.of(case.sizes) for factor in factors)
        # A truth near 0 says nothing of a factor: there any value would do.
        if truth.abs().max() * min(1.0, abs(product)) <= 10 * trial.exercise.atol:
            continue
        if mine.shape != truth.shape or not torch.allclose(mine, product * truth, trial.exercise.rtol, 0.0):
            return False
        seen.add(place)
    return len(seen) >= 2


def _names(needs: str) -> list[str]:
    return [needs] if needs == "tau" else list(needs)

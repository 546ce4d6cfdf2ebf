"""What the numbers allow to be said: paired comparisons over seeds, in honest words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdlab.probes.words import listed, percent, plural, points, signed


@dataclass(frozen=True)
class Comparison:
    """One student against the baseline, paired by seed; accuracies in 0..1.

    Attributes:
        name, baseline: who is compared with whom.
        differences: (n,) student minus baseline, one a seed.
        low, high: 95 % interval of the mean difference (Student's t); NaN for fewer than two seeds.
    """

    name: str
    baseline: str
    differences: np.ndarray
    low: float
    high: float

    @property
    def mean(self) -> float:
        """Mean difference over seeds."""
        return float(self.differences.mean())

    @property
    def wins(self) -> int:
        """Seeds in which the student was better."""
        return int((self.differences > 0).sum())

    @property
    def losses(self) -> int:
        """Seeds in which the student was worse."""
        return int((self.differences < 0).sum())

    @property
    def kind(self) -> str:
        """ "better" or "worse" where the interval leaves 0 out, "ahead" or "behind" where every one of at
        least three seeds agrees but the interval does not, "level" otherwise, "unknown" for one seed."""
        n = len(self.differences)
        if n < 2:
            return "unknown"
        if self.low > 0 or self.high < 0:
            return "better" if self.mean > 0 else "worse"
        if n >= 3 and self.wins == n:
            return "ahead"
        if n >= 3 and self.losses == n:
            return "behind"
        return "level"

    def sentence(self) -> str:
        """The comparison in words."""
        n, size = len(self.differences), points(self.mean)
        interval = f"95 % interval {signed(self.low)} to {signed(self.high)}"
        kind = self.kind
        if kind == "better":
            return f"{self.name} beat {self.baseline} by {size} (in {self.wins} of {n} seeds; {interval})."
        if kind == "worse":
            return (
                f"{self.name} was worse than {self.baseline} by {size} "
                f"(worse in {self.losses} of {n} seeds; {interval})."
            )
        if kind in ("ahead", "behind"):
            side = "ahead of" if kind == "ahead" else "behind"
            return (
                f"{self.name} was {side} {self.baseline} in all {n} seeds, by {size} on average, but "
                f"{n} seeds are too few to be sure ({interval})."
            )
        if kind == "level":
            return (
                f"{self.name} did not differ from {self.baseline} beyond the spread over seeds "
                f"({signed(self.mean)} points on average, better in {self.wins} of {n} seeds; {interval})."
            )
        level = f"{size} {'above' if self.mean > 0 else 'below'}" if self.mean else "level with"
        return (
            f"{self.name} ended {level} {self.baseline}, in a single seed: how much of this is chance is not "
            "known."
        )


def compare(accuracies: Mapping[str, Mapping[int, float]], baseline: str) -> list[Comparison]:
    """Each student against `baseline`, over the seeds that both have.

    Args:
        accuracies: student -> seed -> accuracy, 0..1.
        baseline: one of them.
    """
    out = []
    for name, own in accuracies.items():
        seeds = [seed for seed in own if seed in accuracies[baseline]]
        if name == baseline or not seeds:
            continue
        difference = np.array([own[seed] - accuracies[baseline][seed] for seed in seeds])
        low = high = float("nan")
        if len(seeds) > 1:
            reach = _t_quantile(len(seeds) - 1) * difference.std(ddof=1) / np.sqrt(len(seeds))
            low, high = float(difference.mean() - reach), float(difference.mean() + reach)
        out.append(Comparison(name, baseline, difference, low, high))
    return out


def in_short(
    comparisons: Sequence[Comparison],
    accuracies: Mapping[str, Mapping[int, float]],
    baseline: str,
    teachers: Mapping[str, float],
    baseline_is_plain: bool,
) -> str:
    """The verdict in one to three sentences.

    Args:
        comparisons: from `compare`.
        accuracies: as there.
        baseline: what the others are compared with.
        teachers: name -> accuracy.
        baseline_is_plain: whether the baseline learns from labels alone.
    """
    own = np.array(list(accuracies[baseline].values()))
    what = f"plain training ({baseline})" if baseline_is_plain else baseline
    start = f"{what[0].upper()}{what[1:]} reached {percent(own.mean())} test accuracy"
    if teachers:
        start += f", the teacher {listed([f'{name} {percent(value)}' for name, value in teachers.items()])}"
    groups: dict[str, list[Comparison]] = {}
    for one in sorted(comparisons, key=lambda c: -c.mean):
        groups.setdefault(one.kind, []).append(one)

    def named(kind: str) -> str:
        return listed([f"{c.name} ({signed(c.mean)} points)" for c in groups[kind]])

    count = max((len(one.differences) for one in comparisons), default=0)

    few = f"in every seed, but {count} seeds are too few to be sure"
    said = []
    if "better" in groups:
        said.append(f"Beyond the spread over seeds, {named('better')} beat it")
    if "ahead" in groups:
        said.append(f"{named('ahead')} {_were(groups['ahead'])} ahead {few}")
    if "level" in groups:
        said.append(f"{named('level')} did not differ from it beyond the spread over seeds")
    if "behind" in groups:
        said.append(f"{named('behind')} {_were(groups['behind'])} behind {few}")
    if "worse" in groups:
        said.append(f"Beyond the spread over seeds, {named('worse')} {_were(groups['worse'])} worse")
    if "unknown" in groups:
        said.append(f"After the one seed that was trained: {named('unknown')}; its spread is not known")
    if not said:
        return f"{start}. There is nothing to compare it with."
    return f"{start}. " + ". ".join(said) + "."


def cut_short(
    students: Sequence[str],
    failed: Mapping[str, Sequence[str]],
    unfinished: Mapping[str, Sequence[int]],
    notes: Mapping[str, str],
    seeds: int,
) -> list[str]:
    """A sentence on each student that a guard stopped or that was dropped: its accuracy is no result.

    Args:
        students: in the order of the study.
        failed: student -> sentences of guards, one a seed.
        unfinished: student -> seeds in which it did not go its whole way.
        notes: student -> what happened to it.
        seeds: of the study.
    """
    said = []
    for name in students:
        short = len(unfinished.get(name, ()))
        if not short:
            continue
        where = "" if seeds == 1 else f" in {'all' if short == seeds else f'{short} of'} {seeds} seeds"
        if name in failed:
            counts = "it has no result" if short == seeds else "those seeds do not count"
            said.append(
                f"{name} was stopped by a guard{where}, because its training went wrong with these settings; "
                f"{counts}, and this says nothing about how well its method works. {' '.join(failed[name])}"
            )
        else:
            said.append(f"{name} is not compared where it was cut short ({notes.get(name, 'dropped')}).")
    return said


def method_note(seeds: int) -> str:
    """How the verdict is made, for the reader who wants to know."""
    if seeds < 2:
        return "With one seed there is no spread; train more seeds before believing a difference."
    return (
        f"Differences are paired by seed ({plural(seeds, 'seed')}; within a seed all students see the same "
        "pictures in the same order). “Beyond the spread” means that the 95 % interval of the mean "
        "difference "
        "(Student's t) leaves 0 out; with several students compared at once, one in twenty such intervals "
        "misleads. It covers chance in training, not the choice of test pictures."
    )


def _were(items: Sequence[Comparison]) -> str:
    return "was" if len(items) == 1 else "were"


def _t_quantile(degrees: int) -> float:
    from scipy.stats import t  # comes with scikit-learn

    return float(t.ppf(0.975, degrees))

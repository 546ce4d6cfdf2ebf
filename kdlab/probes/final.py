"""Where each student of a study ended: test accuracies of every seed, beside teacher and chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdlab.errors import StudyError, unknown_name
from kdlab.probes.result import Result
from kdlab.probes.words import listed, mean_over_seeds, percent, spread_over_seeds

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class FinalAccuracies(Result):
    """Test accuracies (0..1) of S students in R seeds; NaN where a seed has no finished epoch of a student.

    Attributes:
        students: shown here; roster: all of the study, from which figures take their colours.
        methods: student -> its loss in words; notes: student -> whether it was forked, dropped or failed.
        seeds: those that have a finished epoch.
        last: (S, R) after the last finished epoch; epoch: (S, R) which that is, 0 for none.
        best: (S, R) at the epoch with the highest *validation* accuracy; best_epoch: (S, R).
        gain: (S, R) `last` minus that of `baseline`, paired by seed, where both were trained equally long.
        baseline: the first student of the study.
        epochs: length of the whole training.
        teachers: name -> accuracy; chance: accuracy of always naming the most frequent class.

    >>> found = kdlab.probes.final_accuracies(study)
    >>> found.last.shape, found.epoch.tolist(), bool((found.best <= 1).all())
    ((2, 1), [[3], [3]], True)
    """

    figure: ClassVar[str] = "final_accuracies"

    students: tuple[str, ...]
    roster: tuple[str, ...]
    methods: Mapping[str, str]
    notes: Mapping[str, str]
    seeds: tuple[int, ...]
    last: np.ndarray
    epoch: np.ndarray
    best: np.ndarray
    best_epoch: np.ndarray
    gain: np.ndarray
    baseline: str
    epochs: int
    teachers: Mapping[str, float]
    chance: float

    @property
    def protocol(self) -> str:
        """How it was measured."""
        return (
            "Test accuracy on all test pictures. Last: after the last finished epoch. Best: at the epoch "
            "with the highest validation accuracy; test pictures select nothing. Mean and sample standard "
            f"deviation over seeds; gains over {self.baseline} are paired by seed."
        )

    def to_frame(self) -> pd.DataFrame:
        """One row for each teacher, and for each student and seed."""
        import pandas as pd

        rows: list[dict[str, Any]] = [
            {"network": name, "role": "teacher", "last": accuracy} for name, accuracy in self.teachers.items()
        ]
        for s, r in np.argwhere(np.isfinite(self.last)):
            name = self.students[s]
            rows.append(
                {
                    "network": name,
                    "role": "student",
                    "method": self.methods[name],
                    "seed": self.seeds[r],
                    "epoch": int(self.epoch[s, r]),
                    "last": self.last[s, r],
                    "best_epoch": int(self.best_epoch[s, r]),
                    "best": self.best[s, r],
                    f"gain over {self.baseline}": self.gain[s, r],
                    "note": self.notes[name],
                }
            )
        return pd.DataFrame(rows)

    def order(self) -> list[int]:
        """Places of the students, the highest mean of `last` first; those without a number at the end."""
        means = [mean_over_seeds(row) for row in self.last]
        return sorted(range(len(means)), key=lambda s: -means[s] if np.isfinite(means[s]) else np.inf)

    @property
    def summary(self) -> str:
        """Where each student ended, in order, beside teacher and chance."""
        said = [
            f"{self.students[s]} {plus_minus(self.last[s])} %"
            for s in self.order()
            if np.isfinite(self.last[s]).any()
        ]
        done = self.epoch[np.isfinite(self.last)]
        when = (
            f"after epoch {int(done[0])}"
            if len(set(done.tolist())) == 1
            else f"after the last finished epoch ({int(done.min())} to {int(done.max())})"
        )
        of = "" if int(done.min()) == self.epochs else f" of {self.epochs}"
        seeds = f" (mean ± s.d. of {len(self.seeds)} seeds)" if len(self.seeds) > 1 else ""
        beside = [f"{name} {percent(accuracy)}" for name, accuracy in self.teachers.items()]
        teachers = f"; teacher{'s' if len(beside) > 1 else ''} {listed(beside)}" if beside else ""
        mixed = " These means mix trainings of different length." if len(set(done.tolist())) > 1 else ""
        single = " One seed says nothing of the spread." if len(self.seeds) == 1 else ""
        return (
            f"Test accuracy {when}{of}{seeds}: {listed(said)}{teachers}; chance {percent(self.chance)}."
            f"{mixed}{single}"
        )


def plus_minus(values: np.ndarray, *, signed: bool = False) -> str:
    """Mean and sample standard deviation of shares over seeds in percent: "93.1 ± 0.4"; "–" for none."""
    mean, spread = 100 * mean_over_seeds(values), 100 * spread_over_seeds(values)
    if not np.isfinite(mean):
        return "–"
    text = f"{mean:+.1f}" if signed else f"{mean:.1f}"
    text = text.replace("-", "−") if float(text) else text.lstrip("+-")
    return text + (f" ± {spread:.1f}" if np.isfinite(spread) else "")


def final_accuracies(
    study: Any, students: str | Iterable[str] | None = None, seeds: Iterable[int] | None = None
) -> FinalAccuracies:
    """Where the students stand: what `study.table()` says, for every seed.

    Args:
        study: a study, live, finished or killed.
        students: which; None means all.
        seeds: which; None means all.

    Raises:
        StudyError: no epoch has been finished yet.
        UnknownNameError: no such student.

    >>> found = kdlab.probes.final_accuracies(study)
    >>> found.students, found.baseline, found.gain[0]  # the first gains nothing on itself
    (('alone', 'KD'), 'alone', array([0.]))
    """
    roster = tuple(study.names)
    chosen = roster if students is None else (students,) if isinstance(students, str) else tuple(students)
    for name in chosen:
        if name not in roster:
            raise unknown_name("student", name, roster)
    found, table = study.results(), study.table().set_index("network")
    wanted = list(study.seeds) if seeds is None else list(seeds)
    there = tuple(seed for seed in wanted if any(seed in found[name]["seed"] for name in chosen))
    if not there:
        whose = f" of {listed(chosen, 'or')}" if students is not None else ""
        raise StudyError(f"No epoch{whose} has been finished yet; train the study first (study.fit()).")

    def column(name: str, key: str, missing: float = np.nan) -> np.ndarray:
        own = dict(zip(found[name]["seed"].tolist(), found[name][key].tolist(), strict=True))
        return np.array([own.get(seed, missing) for seed in there], dtype=np.float64)

    first = roster[0]
    last = np.array([column(name, "last") for name in chosen])
    epoch = np.array([column(name, "epoch", 0) for name in chosen])
    paired = epoch == column(first, "epoch", 0)
    return FinalAccuracies(
        students=chosen,
        roster=roster,
        methods={name: str(table["method"][name]) for name in chosen},
        notes={name: str(table["note"][name]) for name in chosen},
        seeds=there,
        last=last,
        epoch=epoch.astype(np.int64),
        best=np.array([column(name, "best") for name in chosen]),
        best_epoch=np.array([column(name, "best_epoch", 0) for name in chosen]).astype(np.int64),
        gain=np.where(paired, last - column(first, "last"), np.nan),
        baseline=first,
        epochs=int(study.epochs),
        teachers={teacher.name: float(teacher.accuracy) for teacher in study.teachers},
        chance=float(study.data.chance),
    )

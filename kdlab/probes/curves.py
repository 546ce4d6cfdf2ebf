"""Learning curves of a study: one series per student and seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdlab.errors import StudyError, unknown_name
from kdlab.probes.result import Result
from kdlab.probes.words import listed, mean_over_seeds, percent

if TYPE_CHECKING:
    import pandas as pd

KEYS = {
    "test_accuracy": "test accuracy",
    "val_accuracy": "validation accuracy",
    "train_accuracy": "training accuracy",
    "train_loss": "training loss",
}


@dataclass(frozen=True)
class LearningCurves(Result):
    """Values per epoch: S students x R seeds x E epochs, NaN where nothing was recorded.

    Attributes:
        key: what was measured; label: the same in words.
        students: shown here; roster: all of the study, from which figures take their colours.
        seeds, epochs.
        values: (S, R, E); accuracies in 0..1.
        teachers: name -> accuracy on the test split, 0..1.
        chance: accuracy of always naming the most frequent class.
        marks: commands given while training: dicts with kind, seed, epoch, student and text; forks also
            with parent. A fork has values from the epoch on in which it was made.

    >>> found = kdlab.probes.learning_curves(study, "term/kd", students=["KD"])
    >>> found.students, found.roster, found.is_accuracy
    (('KD',), ('alone', 'KD'), False)
    """

    figure: ClassVar[str] = "curves"

    key: str
    label: str
    students: tuple[str, ...]
    roster: tuple[str, ...]
    seeds: tuple[int, ...]
    epochs: np.ndarray
    values: np.ndarray
    teachers: Mapping[str, float]
    chance: float
    marks: tuple[Mapping[str, Any], ...] = ()

    @property
    def is_accuracy(self) -> bool:
        """Whether the values are shares from 0 to 1."""
        return self.key.endswith("accuracy")

    def to_frame(self) -> pd.DataFrame:
        """One row for each student, seed and epoch."""
        import pandas as pd

        rows = [
            {
                "network": self.students[s],
                "seed": self.seeds[r],
                "epoch": int(self.epochs[e]),
                self.key: self.values[s, r, e],
            }
            for s, r, e in np.argwhere(np.isfinite(self.values))
        ]
        return pd.DataFrame(rows)

    @property
    def summary(self) -> str:
        """One sentence: where each student ended."""
        said = []
        for s, name in enumerate(self.students):
            ends = [row[np.isfinite(row)][-1] for row in self.values[s] if np.isfinite(row).any()]
            if ends:
                value = mean_over_seeds(np.asarray(ends))
                said.append(f"{name} {percent(value) if self.is_accuracy else f'{value:.3g}'}")
        seeds = f" (mean of {len(self.seeds)} seeds)" if len(self.seeds) > 1 else ""
        last = int(self.epochs[-1]) if len(self.epochs) else 0
        return (
            f"{self.label[0].upper()}{self.label[1:]} over {last} epochs; at the end{seeds}: {listed(said)}."
        )


def learning_curves(
    study: Any, key: str = "test_accuracy", students: Iterable[str] | None = None
) -> LearningCurves:
    """The recorded `key` of every epoch, student and seed.

    Args:
        study: a study, live, finished or killed.
        key: "test_accuracy", "val_accuracy", "train_accuracy", "train_loss", "term/NAME", "detail/NAME",
            or another column of `study.history()`.
        students: which; None means all.

    Raises:
        StudyError: nothing was recorded under `key` yet.
        UnknownNameError: no such student.

    >>> found = kdlab.probes.learning_curves(study)
    >>> found.epochs, found.values.shape  # students, seeds, epochs
    (array([1, 2, 3]), (2, 1, 3))
    """
    roster = tuple(study.names)
    chosen = roster if students is None else tuple([students] if isinstance(students, str) else students)
    for name in chosen:
        if name not in roster:
            raise unknown_name("student", name, roster)
    series = {
        (name, seed): study.record.epoch_series(name, key, seed=seed)
        for name in chosen
        for seed in study.seeds
    }
    seeds = tuple(seed for seed in study.seeds if any(len(series[name, seed][0]) for name in chosen))
    if not seeds:
        raise StudyError(f"No epoch with {key!r} has been recorded yet.")
    epochs = np.unique(
        np.concatenate([series[name, seed][0] for name in chosen for seed in seeds]).astype(np.int64)
    )
    values = np.full((len(chosen), len(seeds), len(epochs)), np.nan)
    for s, name in enumerate(chosen):
        for r, seed in enumerate(seeds):
            own, measured = series[name, seed]
            values[s, r, np.searchsorted(epochs, np.asarray(own, dtype=np.int64))] = measured
    return LearningCurves(
        key=key,
        label=KEYS.get(key, key.replace("term/", "term ").removeprefix("detail/")),
        students=chosen,
        roster=roster,
        seeds=seeds,
        epochs=epochs,
        values=values,
        teachers={teacher.name: float(teacher.accuracy) for teacher in study.teachers},
        chance=float(study.data.chance),
        marks=tuple(study.record.marks()),
    )


def learning_details(study: Any, student: str, group: str) -> LearningCurves:
    """What a student's method says of itself, epoch by epoch: a curve for each detail of a group.

    Such as the weight of each teacher (group "weight" of CA-MKD), or the guards of SKD ("simplifier"). A
    detail is that of the last batch of an epoch.

    Args:
        study: a study, live, finished or killed.
        student: its name.
        group: what stands before the "/" of the details.

    Returns:
        curves whose "students" are the details, without the group's name.

    Raises:
        StudyError: nothing of this group was recorded yet.
        UnknownNameError: no such student.

    >>> kdlab.probes.learning_details(study, "KD", "weight")
    Traceback (most recent call last):
    ...
    kdlab.errors.StudyError: No detail of the group 'weight' has been recorded of 'KD'; its method tells none.
    """
    prefix = f"detail/{group}/"
    if student not in study.names:
        raise unknown_name("student", student, study.names)
    rows = [r for run in study.record.runs.values() for r in run.rows if r["student"] == student]
    keys = list(dict.fromkeys(key for row in rows for key in row if key.startswith(prefix)))
    if not keys:
        known = sorted({key.split("/")[1] for row in rows for key in row if key.startswith("detail/")})
        there = f"there are {', '.join(map(repr, known))}" if known else "its method tells none"
        raise StudyError(f"No detail of the group {group!r} has been recorded of {student!r}; {there}.")
    parts = [learning_curves(study, key, [student]) for key in keys]
    epochs = np.unique(np.concatenate([part.epochs for part in parts]))
    seeds = tuple(seed for seed in study.seeds if any(seed in part.seeds for part in parts))
    values = np.full((len(keys), len(seeds), len(epochs)), np.nan)
    for k, part in enumerate(parts):
        place = np.searchsorted(epochs, part.epochs)
        for r, seed in enumerate(part.seeds):
            values[k, seeds.index(seed), place] = part.values[0, r]
    names = tuple(key.removeprefix(prefix) for key in keys)
    return replace(
        parts[0],
        key=prefix.rstrip("/"),
        label=f"{group} in {student}",
        students=names,
        roster=names,
        seeds=seeds,
        epochs=epochs,
        values=values,
        teachers={},
    )

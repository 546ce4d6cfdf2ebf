"""Learning curves of a study: one series per student and seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
        key: "test_accuracy", "val_accuracy", "train_accuracy", "train_loss", "term/NAME", or another
            column of `study.history()`.
        students: which; None means all.

    Raises:
        StudyError: nothing was recorded under `key` yet.
        UnknownNameError: no such student.
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
        label=KEYS.get(key, key.replace("term/", "term ")),
        students=chosen,
        roster=roster,
        seeds=seeds,
        epochs=epochs,
        values=values,
        teachers={teacher.name: float(teacher.accuracy) for teacher in study.teachers},
        chance=float(study.data.chance),
        marks=tuple(study.record.marks()),
    )

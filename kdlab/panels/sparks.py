"""Sparklines of the mixing desk: how each term's value went lately, in a few small whole numbers."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from kdlab.panels.series import thin

POINTS = 40
HEIGHT = 20  # values are drawn as 0 ... HEIGHT
SHORTEST = 60  # steps; else the latest half of what was recorded
_GAP = 1.0  # seconds between two messages

Lines = dict[str, dict[str, list[int | None]]]
"""Student -> term -> heights, None where the term was off."""


class Sparks:
    """The sparklines of a study, made anew at most once a second and only after news.

    Args:
        study: a `Study`.
    """

    def __init__(self, study: Any) -> None:
        self.study = study
        self._shown: tuple[Any, ...] = ()
        self._due = 0.0

    def take(self, seed: int | None) -> tuple[Lines | None, float | None]:
        """(sparklines, or None if they need not be sent; seconds until there are new ones, or None)."""
        record = self.study.record
        counts = {name: len(record.series(name, "loss", seed)[0]) for name in self.study.names}
        key = (seed, id(record.run(seed)), *counts.items())
        if key == self._shown:
            return None, None
        wait = self._due - time.monotonic()
        if wait > 0 and key[0] == (self._shown or key)[0]:  # another seed is shown at once
            return None, wait
        self._shown, self._due = key, time.monotonic() + _GAP
        run = record.run(seed)
        return {name: {} if run is None else self._of(run, name) for name in counts}, None

    def _of(self, run: Any, student: str) -> dict[str, list[int | None]]:
        names = [column for column in run.columns(student) if column.startswith("term/")]
        return {name.removeprefix("term/"): heights(run.series(student, name)[1]) for name in names}


def heights(values: np.ndarray) -> list[int | None]:
    """The latest half of (n,) values, at least `SHORTEST`, as at most `POINTS` heights from 0 to `HEIGHT`.

    Each is the mean of equally many neighbours, None where all of them are NaN. The scale reaches from the
    least to the greatest, and is logarithmic where all are positive.
    """
    latest = np.asarray(values[-max(SHORTEST, len(values) // 2) :])
    means = thin(np.arange(len(latest), dtype=np.float32), latest, POINTS)[1].astype(np.float64)
    known = np.isfinite(means)
    if not known.any():
        return []
    if (means[known] > 0).all():
        means[known] = np.log10(means[known])
    low, high = means[known].min(), means[known].max()
    if high > low:
        scaled = HEIGHT * (means - low) / (high - low)
    else:
        scaled = np.where(known, HEIGHT / 2, np.nan)
    return [round(value) if np.isfinite(value) else None for value in scaled.tolist()]

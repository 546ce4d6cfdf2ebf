"""All predictors of one student: its own answer beside those of exits, reused heads and pseudo-teachers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from kdlab.errors import StudyError
from kdlab.probes.curves import LearningCurves, learning_curves

_SIDE = "side/"


def predictor_curves(study: Any, student: str) -> LearningCurves:
    """Test accuracy over the epochs of every predictor of one student.

    Such as the exits of BYOT and MTKD-SSR (a staircase), SimKD's own head beside the reused one, or the
    pseudo-teacher of CMKD. The student's own answer is the one that is deployed.

    Args:
        study: a study, live, finished or killed.
        student: its name.

    Returns:
        curves whose "students" are the student itself and then its further predictors.

    Raises:
        StudyError: nothing was recorded yet, or the student has no further predictor.
        UnknownNameError: no such student.

    >>> kdlab.probes.predictor_curves(study, "KD")
    Traceback (most recent call last):
    ...
    kdlab.errors.StudyError: 'KD' has no predictor but its own answer; look at test_accuracy.
    """
    own = learning_curves(study, "test_accuracy", [student])
    rows = [(seed, row) for seed in own.seeds for row in study.record.runs[seed].rows]
    rows = [(seed, row) for seed, row in rows if row["student"] == student]
    further = list(dict.fromkeys(key for _, row in rows for key in row if key.startswith(_SIDE)))
    if not further:
        raise StudyError(f"{student!r} has no predictor but its own answer; look at test_accuracy.")
    values = np.full((1 + len(further), len(own.seeds), len(own.epochs)), np.nan)
    values[0] = own.values[0]
    for seed, row in rows:
        for k, key in enumerate(further, start=1):
            if key in row:
                place = np.searchsorted(own.epochs, row["epoch"])
                values[k, own.seeds.index(seed), place] = row[key]
    names = (student, *(key.removeprefix(_SIDE) for key in further))
    marks = tuple(mark for mark in own.marks if mark.get("student") == student)
    label = f"test accuracy of each predictor of {student}"
    return replace(own, label=label, students=names, roster=names, values=values, marks=marks)

"""Curves of all predictors of one student."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_study import small

import kdlab
from kdlab import plots, probes
from kdlab.errors import StudyError, UnknownNameError


def test_every_predictor_of_a_student_is_a_curve(tmp_path: Path) -> None:
    study = small(tmp_path, students={"KD": "kd", "CMKD": "cmkd"}, epochs=2, seeds=2)
    study.fit(progress=False)
    curves = probes.predictor_curves(kdlab.load_study(study.folder), "CMKD")
    assert curves.students == curves.roster == ("CMKD", "pseudo-teacher", "stage logits 2")
    assert curves.values.shape == (3, 2, 2) and curves.is_accuracy
    rows = study.history(1)
    rows = rows[rows.student == "CMKD"].sort_values("epoch")
    assert np.allclose(curves.values[0, 1], rows["test_accuracy"])
    assert np.allclose(curves.values[1, 1], rows["side/pseudo-teacher"])
    assert np.allclose(curves.values[2, 1], rows["side/stage logits 2"])
    assert "pseudo-teacher" in curves.summary and "of each predictor of CMKD" in curves.summary
    drawn = {trace.name for trace in plots.curves(curves).data if trace.name}
    assert drawn == {"CMKD", "pseudo-teacher", "stage logits 2"}
    with pytest.raises(StudyError, match="no predictor but its own"):
        probes.predictor_curves(study, "KD")
    with pytest.raises(UnknownNameError):
        probes.predictor_curves(study, "CMDK")

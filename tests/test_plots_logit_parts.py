"""Answers at a temperature, KD in its parts, and the logits behind them, by themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_study import FakeStudy

from kdlab import plots, probes
from kdlab.errors import ConfigError, UnknownNameError
from kdlab.probes.logits import LogitDecomposition, logit_decomposition


def test_students_that_came_and_went() -> None:
    study = FakeStudy(students=("alone", "late", "gone"), late={"late": 1}, gone={"gone": 2}, seeds=(0,))
    result = probes.logit_history(study)
    for show in ("target", "means"):
        figure = plots.logits_over_epochs(result, show=show)
        own = next(t for t in figure.data if t.name == "late")
        assert list(own.x) == [2, 6]
    one = logit_decomposition(study, epoch=0)
    assert one.students == ("alone", "gone") and "late" in one.summary


def test_numbers_of_epochs_do_not_run_into_each_other() -> None:
    result = replace(probes.logit_history(FakeStudy(seeds=(0,))), epochs=(0, 1, 2, 4, 8, 16, 32, 40))
    filled = {
        name: np.zeros((*value.shape[:1], 8, *value.shape[2:]))
        for name, value in vars(result).items()
        if isinstance(value, np.ndarray) and value.ndim >= 3
    }
    figure = plots.logits_over_epochs(replace(result, **filled))
    assert list(figure.layout.xaxis.tickvals) == [0, 4, 8, 16, 32, 40]


def two(n: int = 12, classes: int = 2, seed: int = 1) -> LogitDecomposition:
    generator = np.random.default_rng(seed)
    tables = {name: generator.normal(size=(n, classes)) * 3 for name in ("A", "B", "T")}
    return logit_decomposition(tables, target=np.arange(n) % classes, teacher="T")


def test_the_same_logits_at_another_temperature() -> None:
    result = two(classes=6)
    tables = {"A": result.student_logits[0], "B": result.student_logits[1], "T": result.teacher_logits}
    for tau, places in ((2.0, None), (7.0, [4, 1]), (None, [3])):
        found = result.at(tau, places, sweep=[1.0, 3.0])
        keep = np.arange(12) if places is None else places
        wanted = logit_decomposition(
            {name: table[keep] for name, table in tables.items()},
            target=result.target[keep],
            teacher="T",
            temperature=4.0 if tau is None else tau,
            sweep=[1.0, 3.0],
        )
        for field in ("kd", "tckd", "nckd", "weight", "quadrant", "sweep_share", "sweep_kd", "sweep_classes"):
            np.testing.assert_allclose(getattr(found, field), getattr(wanted, field), err_msg=field)
    np.testing.assert_array_equal(result.at(9.0).sweep_kd, result.sweep_kd)  # of no one temperature
    for bad in ({"temperature": 0}, {"places": []}, {"places": [12]}, {"sweep": [-1.0]}):
        with pytest.raises(ConfigError):
            result.at(**bad)


def test_places_of_pictures_by_what_is_said_of_them() -> None:
    result = two(classes=6)
    said, theirs = result.student_logits[0].argmax(1), result.teacher_logits.argmax(1)
    assert result.where().tolist() == list(range(12))
    assert result.where(label=2).tolist() == [2, 8]
    assert result.where(wrong="A").tolist() == np.flatnonzero(said != result.target).tolist()
    assert result.where(wrong="T").tolist() == np.flatnonzero(theirs != result.target).tolist()
    assert result.where(differs="A").tolist() == np.flatnonzero(said != theirs).tolist()
    both = set(result.where(wrong="A")) & set(result.where(differs="A")) & {2, 8}
    assert set(result.where(label=2, wrong="A", differs="A")) == both
    with pytest.raises(UnknownNameError, match="network"):
        result.where(wrong="C")


@pytest.mark.parametrize("classes", [2, 3, 40])
def test_distribution_and_parts_of_few_and_of_many_classes(classes: int) -> None:
    result = two(classes=classes)
    place = 5
    one = plots.logit_distribution(result, place)
    teacher = result.probabilities()[0][place]
    shown = np.asarray(one.data[0].y, dtype=float)
    assert shown.sum() == pytest.approx(1.0, abs=1e-4)
    assert len(shown) == (classes if classes <= 10 else 11)
    true = [text.endswith("★") for text in one.layout.xaxis.ticktext]
    assert sum(true) == 1 and shown[true.index(True)] == pytest.approx(
        teacher[result.target[place]], abs=1e-5
    )
    if classes == 40:
        assert one.layout.xaxis.ticktext[-1] == "other 30"
    figure = plots.logit_parts(result, place)
    bars = [np.asarray(t.x, dtype=float) for t in figure.data if t.type == "bar" and t.orientation == "h"]
    np.testing.assert_allclose(sum(bars), result.kd[:, place], atol=1e-5)
    if classes == 2:
        assert not bars[1].any(), "with two classes KD is all about the true one"
    with pytest.raises(ConfigError, match="sample must lie in 0"):
        plots.logit_parts(result, 99)
    with pytest.raises(UnknownNameError):
        plots.logit_distribution(result, scale="loud")


def test_two_classes_have_no_dark_knowledge() -> None:
    with pytest.raises(ConfigError, match="two classes"):
        plots.dark_knowledge(two())

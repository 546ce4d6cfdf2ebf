"""Plain lines and bars, and what a method says of itself, as curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_study import small

import kdlab
from kdlab import plots, probes
from kdlab.errors import ConfigError, StudyError, UnknownNameError
from kdlab.methods import SKD


def named(fig: object) -> dict[str, object]:
    return {trace.name: trace for trace in fig.data if trace.name}


def test_lines_draw_the_mean_and_a_band_from_the_lowest_to_the_highest() -> None:
    rows = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 7.0]])
    fig = plots.lines([1, 4, 16], {"KD": rows, "alone": [0.0, 1.0, 2.0]}, log_x=True, marks={"here": 4})
    assert np.allclose(named(fig)["KD"].y, rows.mean(0)) and np.allclose(named(fig)["alone"].y, [0, 1, 2])
    (band,) = [trace for trace in fig.data if trace.name is None]
    assert list(band.y) == [3.0, 2.0, 7.0, 3.0, 2.0, 1.0]
    assert list(fig.layout.xaxis.ticktext) == ["1", "4", "16"]
    (note,) = fig.layout.annotations
    assert note.text == "here" and note.x == pytest.approx(np.log10(4))


def test_bars_stand_side_by_side_and_show_their_spread() -> None:
    fig = plots.grouped_bars(["a", "b"], {"one": [1.0, 2.0], "two": [[1.0, 4.0], [3.0, 4.0]]})
    assert fig.layout.barmode == "group" and list(named(fig)["two"].y) == [2.0, 4.0]
    assert named(fig)["one"].error_y.array is None
    assert list(named(fig)["two"].error_y.array) == [1.0, 0.0]
    looks = {(trace.marker.color, trace.marker.pattern.shape) for trace in fig.data}
    assert {trace.marker.pattern.fillmode for trace in fig.data} == {"overlay"}  # hatch over the colour
    assert len({color for color, _ in looks}) == len({shape for _, shape in looks}) == 2


def test_four_teachers_are_told_apart_without_colour() -> None:
    looks = plots.styles(["KD"], ["a", "b", "c", "d"])
    assert len({(looks[name].dash, looks[name].symbol) for name in "abcd"}) == 4


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'KD'.*place on the x axis \(3\)"):
        plots.lines([1, 2, 3], {"KD": [1.0, 2.0]})
    with pytest.raises(ConfigError, match="one finite number a name"):
        plots.grouped_bars(["a"], {"KD": [np.nan]})
    with pytest.raises(ConfigError, match=r"'here' must be a positive number.*not 0"):
        plots.lines([1, 2], {"KD": [1.0, 2.0]}, log_x=True, marks={"here": 0})
    with pytest.raises(ConfigError, match=r"needs positive numbers; `x` has 0"):
        plots.lines([0, 2], {"KD": [1.0, 2.0]}, log_x=True)
    for marks in ({"here": "there"}, {"here": np.nan}, [1.0]):
        with pytest.raises(ConfigError, match="mark"):
            plots.histogram({"KD": [1.0, 2.0]}, marks=marks)
    plots.histogram({"KD": [1.0, 2.0]}, marks={"number of another library": torch.tensor(1.5)})
    for empty in (lambda: plots.lines([1], {}), lambda: plots.grouped_bars(["a"], {})):
        with pytest.raises(ConfigError, match="no series"):
            empty()


def test_what_a_method_says_of_itself_is_a_curve_a_detail(tmp_path: Path) -> None:
    study = small(tmp_path, students={"alone": "ce", "SKD": SKD()}, epochs=2, seeds=2)
    study.fit(progress=False)
    guards = probes.learning_details(study, "SKD", "simplifier")
    assert guards.students == ("entropy", "batch variance", "agreement", "distance")
    assert guards.values.shape == (4, 2, 2) and guards.seeds == (0, 1)
    rows = kdlab.load_study(study.folder).history()
    rows = rows[(rows.student == "SKD") & (rows.seed == 1)].sort_values("epoch")
    assert np.allclose(guards.values[0, 1], rows["detail/simplifier/entropy"])
    assert "entropy" in guards.summary and len(named(guards.plot())) == 4
    assert probes.learning_curves(study, "detail/simplifier/entropy", ["SKD"]).label == "simplifier/entropy"
    with pytest.raises(StudyError, match="there are 'simplifier'"):
        probes.learning_details(study, "SKD", "weight")
    with pytest.raises(UnknownNameError):
        probes.learning_details(study, "SDK", "simplifier")

"""Where students ended: values over seeds, gains, refusals, the figure; and results at an earlier epoch."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import kdlab
from kdlab import plots, probes
from kdlab.errors import ConfigError, StudyError, UnknownNameError
from kdlab.probes.final import plus_minus
from tests.small_study import small

SEEDS = [3, 4, 5]


def trained(last: dict[str, list[float]], epochs: dict[str, list[int]] | None = None) -> Any:
    """A stand-in for a study whose students ended at these test accuracies in the first seeds."""
    epochs = epochs or {}

    def column(name: str) -> dict[str, np.ndarray]:
        values = np.asarray(last[name])
        return {
            "seed": np.asarray(SEEDS[: len(values)]),
            "epoch": np.asarray(epochs.get(name, [10] * len(values))),
            "last": values,
            "best": values + 0.01,
            "best_epoch": np.asarray([7] * len(values)),
            "val": values,
        }

    return SimpleNamespace(
        names=list(last),
        seeds=SEEDS,
        epochs=10,
        results=lambda: {name: column(name) for name in last},
        table=lambda: pd.DataFrame(
            {"network": list(last), "method": [f"loss of {name}" for name in last], "note": ""}
        ),
        teachers=[SimpleNamespace(name="big", accuracy=0.9)],
        data=SimpleNamespace(chance=0.1),
    )


THREE = {"alone": [0.70, 0.72, 0.74], "KD": [0.75, 0.76, 0.80], "AT": [0.60]}


def test_values_are_those_of_the_study_by_seed() -> None:
    result = probes.final_accuracies(trained(THREE))
    assert result.students == ("alone", "KD", "AT") and result.seeds == (3, 4, 5)
    assert np.array_equal(result.last[1], THREE["KD"]) and np.array_equal(result.best[0], [0.71, 0.73, 0.75])
    assert np.isnan(result.last[2, 1:]).all() and result.epoch[2].tolist() == [10, 0, 0]
    assert np.allclose(result.gain[1], [0.05, 0.04, 0.06]) and np.isclose(result.gain[2, 0], -0.10)
    assert result.order() == [1, 0, 2] and result.best_epoch[1].tolist() == [7, 7, 7]
    text = result.summary
    assert "KD 77.0 ± 2.6 %, alone 72.0 ± 2.0 % and AT 60.0 %" in text
    assert "after epoch 10" in text and "teacher big 90.0 %" in text and "chance 10.0 %" in text


def test_gains_are_of_equally_long_trainings_and_mixtures_are_told() -> None:
    result = probes.final_accuracies(trained(THREE, {"KD": [10, 10, 4]}))
    assert np.isfinite(result.gain[1]).tolist() == [True, True, False]
    assert "(4 to 10)" in result.summary and "different length" in result.summary


def test_students_and_seeds_are_chosen_and_one_seed_is_told() -> None:
    result = probes.final_accuracies(trained(THREE), ["KD"], seeds=[4])
    assert result.students == ("KD",) and result.last.tolist() == [[0.76]] and result.roster[0] == "alone"
    assert np.isclose(result.gain[0, 0], 0.04) and "One seed says nothing of the spread" in result.summary
    assert probes.final_accuracies(trained(THREE), "AT").seeds == (3,)


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="student"):
        probes.final_accuracies(trained(THREE), ["nobody"])
    with pytest.raises(StudyError, match="No epoch has been finished yet"):
        probes.final_accuracies(trained({"alone": [], "KD": []}))
    with pytest.raises(StudyError, match="No epoch of AT has been finished yet"):
        probes.final_accuracies(trained(THREE), ["AT"], seeds=[5])


def test_as_table_file_and_figure(tmp_path: Path) -> None:
    result = probes.final_accuracies(trained(THREE))
    table = result.to_frame()
    assert len(table) == 1 + 3 + 3 + 1 and table["role"][0] == "teacher" and table["last"][0] == 0.9
    assert np.isclose(table.set_index(["network", "seed"])["gain over alone"]["KD", 5], 0.06)
    again = probes.load_result(result.save(tmp_path / "r.npz"))
    assert again.summary == result.summary and np.array_equal(again.last, result.last, equal_nan=True)
    fig = plots.final_accuracies(result)
    assert fig.layout.yaxis.ticktext == (
        "big<br>(teacher)",
        "<b>KD</b>",
        "<b>alone</b>",
        "<b>AT</b><br>(1 seed)",
    )
    mean = next(t for t in fig.data if (t.hovertemplate or "").startswith("KD, last epoch"))
    assert np.isclose(mean.x[0], 77.0) and np.isclose(
        mean.error_x.array[0], np.std(THREE["KD"], ddof=1) * 100
    )
    texts = next(t for t in fig.data if t.mode == "text").text
    assert texts[:3] == ("90.0", "", "") and texts[3:6] == ("<b>77.0 ± 2.6</b>", "78.0 ± 2.6", "+5.0 ± 1.0")
    assert texts[11] == "−10.0" and fig.layout.meta["summary"] == result.summary
    lines = [shape.x0 for shape in fig.layout.shapes]
    assert 90.0 in lines, "the teacher's line"


@pytest.mark.parametrize(
    ("values", "signed", "text"),
    [
        ([0.5], False, "50.0"),
        ([0.5, 0.7], False, "60.0 ± 14.1"),
        ([-0.021], True, "−2.1"),
        ([0.0001, -0.0001], True, "0.0 ± 0.0"),
        ([np.nan], False, "–"),
    ],
)
def test_means_with_their_spread(values: list[float], signed: bool, text: str) -> None:
    assert plus_minus(np.array(values), signed=signed) == text


# ---- results at an earlier epoch -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> kdlab.Study:
    folder, data = tmp_path_factory.mktemp("until"), kdlab.data.shapes.make(400, 100)
    common = dict(data=data, epochs=2, teacher_epochs=1, probe_size=120, snapshots=[1, 2], seeds=2)
    return small(folder, **common).fit(progress=False)


MEASURED = {
    "linear_probe": dict(probe="ridge", control=True, purity=True),
    "factor_probe": dict(probe="ridge"),
    "similarity": {},
    "geometry": {},
    "calibration": {},
    "fidelity": {},
}
OF_THE_LAST = {"chance", "untrained", "permuted"}  # controls that are measured once


@pytest.mark.parametrize("probe", MEASURED)
def test_a_result_until_an_epoch_is_what_was_measured_until_then(study: kdlab.Study, probe: str) -> None:
    measure = getattr(probes, probe)
    whole = measure(study, epochs="all", **MEASURED[probe])
    cut, early = probes.until(whole, 1), measure(study, epochs=[0, 1], **MEASURED[probe])
    assert cut.epochs == (0, 1) and probes.until(whole, 2) is whole and probes.until(whole, None) is whole
    assert probes.until(whole, -5).epochs == (0,), "the first stays in any case"
    for field in fields(early):
        if field.name in OF_THE_LAST:
            continue
        ours, theirs = getattr(cut, field.name), getattr(early, field.name)
        if not isinstance(theirs, dict):
            ours, theirs = {"": ours}, {"": theirs}
        for key in theirs:
            if isinstance(theirs[key], np.ndarray):
                assert np.allclose(ours[key], theirs[key], equal_nan=True), (field.name, key)
            else:
                assert ours[key] == theirs[key], (field.name, key)


def test_a_result_without_epochs_is_refused() -> None:
    with pytest.raises(ConfigError, match="FinalAccuracies has no epochs"):
        probes.until(probes.final_accuracies(trained(THREE)), 1)


def test_as_many_components_as_the_narrowest_layer_has(study: kdlab.Study) -> None:
    common: dict[str, Any] = dict(probe="ridge", epochs="last", seeds=0)
    narrow = probes.linear_probe(study, dimension="narrowest", **common)
    assert narrow.dimension == 16 and "16 principal components" in narrow.protocol
    named = probes.linear_probe(study, dimension=16, **common)
    assert np.array_equal(narrow.accuracy, named.accuracy, equal_nan=True)
    with pytest.raises(ConfigError, match="from 1 to 16.*or 'narrowest', not 'widest'"):
        probes.linear_probe(study, dimension="widest", **common)

"""Relations among pictures: the tables are those that the losses compare, and the figures show them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdlab import losses, plots, probes
from kdlab.errors import ConfigError, UnknownNameError
from tests.fake_study import FakeStudy

RNG = np.random.default_rng(0)
TARGET = np.arange(40) % 4
TEACHER = RNG.normal(size=(40, 6)) + 3 * np.eye(4, 6)[TARGET]
STUDENT = RNG.normal(size=(40, 3)) + np.eye(4, 3)[TARGET]


def found(kind: str, **students: np.ndarray) -> probes.Relations:
    return probes.relations({"t": TEACHER, **students}, kind, target=TARGET, teacher="t")


def test_tables_are_those_of_the_losses() -> None:
    for kind, loss in {
        "similarity": lambda t, s: np.square(t - s).sum() / t.size,
        "distance": lambda t, s: np.where(abs(t - s) < 1, 0.5 * (t - s) ** 2, abs(t - s) - 0.5).mean(),
        "probability": lambda t, s: (t * np.log((t + 1e-7) / (s + 1e-7))).mean(),
    }.items():
        result = found(kind, s=STUDENT)
        assert result.tables["s"].shape == (20, 20)
        assert result.loss["s"] == pytest.approx(loss(result.tables["t"], result.tables["s"]), rel=1e-6)
        assert set(result.loss) == {"s"}
    sp = losses.similarity_preserving(*(torch.tensor(x[result.index]) for x in (STUDENT, TEACHER)))
    assert found("similarity", s=STUDENT).loss["s"] == pytest.approx(float(sp))


def test_pictures_stand_in_order_of_their_classes() -> None:
    result = found("distance", s=STUDENT)
    assert (np.diff(result.labels) >= 0).all()
    np.testing.assert_array_equal(result.labels, TARGET[result.index])
    frame = result.to_frame().set_index("network")
    assert frame.loc["t", "same_class"] < frame.loc["t", "other_class"]
    alike = result.tables["t"][result.labels[:, None] == result.labels[None]]
    assert result.pairs("t")[result.same_class].mean() == pytest.approx(alike[alike > 0].mean())


def test_another_space_with_the_same_arrangement_is_equal() -> None:
    turned = np.linalg.qr(RNG.normal(size=(9, 9)))[0][:6]
    for kind, moved in (("distance", 5.0), ("similarity", 0.0), ("probability", 0.0)):
        result = found(kind, s=3 * TEACHER @ turned + moved, other=RNG.permutation(TEACHER))
        assert result.correlation["s"] == pytest.approx(1)
        assert result.loss["s"] == pytest.approx(0, abs=1e-9)
        assert abs(result.correlation["other"]) < 0.3
    assert "s 1.00" in result.summary


def test_a_study_is_looked_at_by_epoch_seed_and_layer(tmp_path: Path) -> None:
    study = FakeStudy()
    last = probes.relations(study, n=12)
    assert last.networks[0] == study.teacher_names[0] and len(last.labels) == 12
    first = probes.relations(study, n=12, epoch=0, students=study.names[0])
    assert first.epoch == 0 and list(first.loss) == [study.names[0]]
    stage = next(iter(study.snapshot(study.names[0]).stages))
    assert probes.relations(study, n=12, layer=stage).layer == stage
    again = probes.load_result(last.save(tmp_path / "relations"))
    assert again.summary == last.summary and again.to_frame().equals(last.to_frame())


def test_what_cannot_be_related_is_said() -> None:
    with pytest.raises(UnknownNameError, match="distance"):
        found("distances", s=STUDENT)
    with pytest.raises(UnknownNameError, match="layer of t"):
        probes.relations({"t": TEACHER}, target=TARGET, layer="stage9")
    with pytest.raises(ConfigError, match="from 3 on"):
        probes.relations({"t": TEACHER}, target=TARGET, n=2)
    with pytest.raises(ConfigError, match="NaN or infinite"):
        found("distance", s=np.full((40, 2), np.nan))
    alone = probes.relations({"t": TEACHER}, target=TARGET)
    assert not alone.loss and "Relations" in alone.summary
    with pytest.raises(ConfigError, match="needs a teacher"):
        alone.plot(show="difference")


def test_figures_show_tables_differences_and_pairs() -> None:
    result = found("distance", s=STUDENT)
    tables = result.plot()
    assert [note.text for note in tables.layout.annotations] == ["t", "s"]
    drawn = np.array(tables.data[0].z, dtype=float)
    assert np.isnan(np.diag(drawn)).all()
    off = ~np.eye(20, dtype=bool)
    np.testing.assert_allclose(drawn[off], result.tables["t"][off])
    difference = result.plot(show="difference")
    assert [trace.coloraxis for trace in difference.data] == ["coloraxis", "coloraxis2"]
    np.testing.assert_allclose(
        np.array(difference.data[1].z, dtype=float)[off], (result.tables["s"] - result.tables["t"])[off]
    )
    assert difference.layout.coloraxis2.cmin == -difference.layout.coloraxis2.cmax
    pairs = result.plot(show="pairs", dark=True)
    points = [trace for trace in pairs.data if trace.mode == "markers"]
    assert [len(trace.x) for trace in points] == [150, 40]  # 20 19 / 2, of which 4 * 5 4 / 2 are of a class
    with pytest.raises(UnknownNameError):
        result.plot(show="lines")


def test_matrices_share_a_scale_and_name_groups() -> None:
    fig = plots.matrices(
        {"a": [[0, 1], [1, 5]], "b": [[2, 2], [3, 4]], "b − a": [[2, 1], [2, -1]]},
        signed=["b − a"],
        groups=["cat", "dog"],
    )
    assert (fig.layout.coloraxis.cmin, fig.layout.coloraxis.cmax) == (0, 5)
    assert (fig.layout.coloraxis2.cmin, fig.layout.coloraxis2.cmax) == (-2, 2)
    assert fig.layout.yaxis.ticktext == ("cat", "dog") and fig.layout.yaxis.autorange == "reversed"
    assert fig.data[0].customdata[0][1].tolist() == ["cat", "dog"]
    with pytest.raises(ConfigError, match="at least one"):
        plots.matrices({})
    with pytest.raises(ConfigError, match="3 groups"):
        plots.matrices({"a": np.eye(2)}, groups=["x", "y", "z"])
    with pytest.raises(ConfigError, match="shape"):
        plots.matrices({"a": np.ones(3)})
    with pytest.raises(UnknownNameError):
        plots.matrices({"a": np.eye(2)}, signed=["b"])


def test_a_histogram_shows_shares_on_common_bins() -> None:
    fig = plots.histogram({"a": [0.0, 0.1, 0.9, 1.0], "b": [0.55]}, bins=2, marks={"margin": 0.5})
    np.testing.assert_allclose(fig.data[0].x, [0, 0, 0.5, 1])
    np.testing.assert_allclose(fig.data[0].y, [0, 50, 50, 0])
    np.testing.assert_allclose(fig.data[1].y, [0, 0, 100, 0])
    assert fig.layout.shapes[0].x0 == 0.5 and fig.layout.annotations[0].text == "margin"
    for groups in ({}, {"a": []}, {"a": [np.nan]}):
        with pytest.raises(ConfigError):
            plots.histogram(groups)

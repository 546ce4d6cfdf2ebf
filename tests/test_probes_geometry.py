"""Class geometry: known arrangements, agreement with the metrics, controls, refusals, figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_study import FakeStudy

from kdlab.errors import ConfigError, StudyError, UnknownNameError
from kdlab.plots import theme
from kdlab.plots.bars import over_seeds
from kdlab.plots.geometry import geometry as draw
from kdlab.probes import Representation, load_result, metrics
from kdlab.probes.geometry import MEASURES, WITHOUT_LABELS, Geometry, geometry
from tests.small_study import small

LABELS = np.arange(120) % 4


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    study = small(tmp_path_factory.mktemp("geometry"), probe_size=160, seeds=2)
    return study.fit(progress=False)


@pytest.fixture(scope="module")
def measured(fitted: Any) -> Geometry:
    return geometry(fitted)


@pytest.fixture(scope="module")
def of_fake() -> Geometry:
    return geometry(FakeStudy(snapshots=(0, 2, 6), late={"KD": 0}, gone={"CMKD": 2}))


def collapsed(spread: float, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Features `spread` around a simplex, and the rows of its classifier."""
    simplex = np.zeros((4, width))
    simplex[:, :4] = np.eye(4) - 0.25
    noise = np.random.default_rng(0).normal(size=(len(LABELS), width))
    return simplex[LABELS] + spread * noise, simplex


# ---- what is measured --------------------------------------------------------------------------------


def test_collapse_is_seen_as_such() -> None:
    x, rows = collapsed(1e-4)
    view = Representation("net", embedding=x, logits=x @ rows.T, classifier=(rows, np.zeros(4)))
    found = geometry({"net": view}, target=LABELS)
    assert found.layers == ("embedding",) and found.classes == 4 and (found.n_fit, found.n_test) == (60, 60)
    for name in ("nc1", "nc2_equinorm", "nc2_max_angle", "nc2_etf", "nc3", "nc3_duality", "nc4"):
        assert np.nanmax(found.values[name]) < 1e-3, name
    for name in ("class_separation", "silhouette"):
        assert np.nanmin(found.values[name]) > 0.999, name
    assert found.values["effective_rank"][0, 0, 0, 0, 1] == pytest.approx(3.0, abs=0.01), "K - 1 directions"
    assert found.values["mean_norm"][0, 0, 0, 0, 1] == pytest.approx(np.sqrt(0.75), rel=1e-3)
    assert found.values["norm_spread"][0, 0, 0, 0, 1] < 1e-3
    assert found.permuted["nc1"][0, 0, 0, 1] > 1.0 and found.permuted["class_separation"][0, 0, 0, 1] < 0.2


def test_numbers_are_those_of_the_metrics() -> None:
    x, rows = collapsed(0.4)
    bias = np.linspace(-0.1, 0.1, 4)
    fit = np.arange(120) < 80
    view = Representation("net", embedding=x, classifier=(rows, bias))
    found = geometry({"net": view}, target=LABELS, fit=fit)
    means = np.stack([x[fit & (c == LABELS)].mean(axis=0) for c in range(4)])
    for part, where in enumerate((fit, ~fit)):
        wanted = metrics.neural_collapse(x[where], LABELS[where], rows, bias, means)
        wanted |= {
            name: getattr(metrics, name)(x[where], LABELS[where])
            for name in ("class_separation", "fisher_ratio", "fisher_shrinkage", "silhouette")
        }
        wanted |= {
            name: getattr(metrics, name)(x[where]) for name in ("effective_rank", "participation_ratio")
        }
        assert len(wanted) == len(MEASURES) - 2
        for name, value in wanted.items():
            assert found.values[name][0, 0, 0, 0, part] == pytest.approx(value, rel=1e-9), name


def test_nc4_takes_the_means_of_the_fitting_part() -> None:
    """Test pictures of two classes change places: only the fitting part's means see it."""
    x, rows = collapsed(0.01)
    fit = np.arange(120) < 60
    swapped = np.where(fit, LABELS, np.array([1, 0, 2, 3])[LABELS])
    moved = rows[swapped] + (x - rows[LABELS])
    view = Representation("net", embedding=moved, classifier=(rows, np.zeros(4)))
    found = geometry({"net": view}, target=LABELS, fit=fit).values["nc4"][0, 0, 0, 0]
    assert found.tolist() == [0.0, 0.0], "classifier and fitting means still agree on each picture"
    other = metrics.neural_collapse(moved[~fit], LABELS[~fit], rows, np.zeros(4))["nc4"]
    assert other == pytest.approx(0.5), "with the test part's own means they would not"


def test_permuted_labels_are_a_floor_for_random_features() -> None:
    """Few pictures a class make random features look separated; the control shows as much."""
    x = np.random.default_rng(1).normal(size=(400, 40))
    found = geometry({"net": x}, target=np.arange(400) % 40)
    own = found.values["class_separation"][0, 0, 0, 0, 1]
    assert own > 0.1, "5 pictures a class: 1/5 by chance"
    assert found.permuted["class_separation"][0, 0, 0, 1] == pytest.approx(own, abs=0.04)
    for name in WITHOUT_LABELS:
        assert np.isnan(found.permuted[name]).all()


def test_a_simplex_that_does_not_fit_is_told_of() -> None:
    x = np.random.default_rng(1).normal(size=(400, 5))
    found = geometry({"small": x}, target=np.arange(400) % 20)
    assert "(K > p + 1)" in found.summary and "20 classes do not fit" in found.summary
    floor = metrics.etf_floor(20, 5)
    assert found.floors[0, 0] == pytest.approx(floor) and f"at least {floor:.2f}" in found.summary
    assert (found.values["nc2_etf"] >= floor).all()
    fits = geometry({"wide": np.random.default_rng(1).normal(size=(400, 30))}, target=np.arange(400) % 20)
    assert "(K > p + 1)" not in fits.summary and fits.floors[0, 0] == 0.0


def test_a_study_becomes_more_separated(measured: Geometry, fitted: Any) -> None:
    assert measured.networks == ("resnet8", "alone", "KD") and measured.epochs[0] == 0
    assert measured.layers[-1] == "embedding" and len(measured.layers) >= 2
    separation = measured.values["class_separation"][:, :, -1, :, 1]
    assert (separation[1:, -1] > separation[1:, 0]).all(), "more than before training"
    assert (separation[1:, -1] > measured.permuted["class_separation"][1:, -1, :, 1] + 0.1).all()
    assert np.isfinite(measured.values["nc3"][1:, :, -1]).all(), "snapshots know their classifier"
    assert np.isnan(measured.values["nc3"][:, :, 0]).all(), "which reads the embedding alone"
    teacher = measured.values["nc1"][0]
    assert (teacher[:, -1, 0] == teacher[0, -1, 0]).all() and np.isnan(teacher[:, :, 1]).all()
    view = fitted.snapshot("KD", epoch=3, seed=fitted.seeds[1])
    test = ~np.asarray(fitted.probe_set.fit)
    wanted = metrics.effective_rank(view.embedding[test])
    assert measured.values["effective_rank"][2, -1, -1, 1, 1] == pytest.approx(wanted, rel=1e-9)


def test_gaps_where_students_come_and_go(of_fake: Geometry) -> None:
    known = np.isfinite(of_fake.values["mean_norm"][:, :, -1, 0, 1])
    names = list(of_fake.networks)
    assert known[names.index("KD")].tolist() == [False, True, True]
    assert known[names.index("CMKD")].tolist() == [True, True, False]
    assert "There is no snapshot of CMKD" in of_fake.summary
    assert np.isfinite(of_fake.permuted["nc1"][names.index("CMKD"), -1, 0]).all(), "at its own last epoch"
    assert any("have no direction" in note for note in of_fake.notes), "why a measure is missing is said"


def test_measures_that_are_not_defined_are_gaps_with_a_reason() -> None:
    x = np.random.default_rng(0).normal(size=(40, 3))
    x[::2, :] = 0.0
    found = geometry({"net": {"a": x, "b": np.ones((40, 3))}}, target=np.arange(40) % 2)
    assert np.isnan(found.values["class_separation"]).all()
    assert np.isnan(found.values["effective_rank"][0, 0, 1]).all()
    assert found.values["mean_norm"][0, 0, 1, 0].tolist() == pytest.approx([np.sqrt(3)] * 2)
    assert any("all zero" in note for note in found.notes) and any("constant" in note for note in found.notes)


def test_classes_of_one_part_alone_are_left_out() -> None:
    x, _ = collapsed(0.2)
    labels = LABELS.copy()
    fit = np.arange(120) < 60
    labels[fit & (labels == 3)] = 2  # class 3 is shown by the test part alone
    found = geometry({"net": x}, target=labels, fit=fit)
    assert found.classes == 3 and found.n_test == 45
    keep = ~fit & (labels != 3)
    wanted = metrics.neural_collapse(x[keep], labels[keep])["nc1"]
    assert found.values["nc1"][0, 0, 0, 0, 1] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: geometry(FakeStudy(), layers="stage9"), UnknownNameError, "layer named 'stage9'"),
        (lambda: geometry(FakeStudy(), students="nobody"), UnknownNameError, "student named"),
        (lambda: geometry(FakeStudy(), epochs=1), ConfigError, "no snapshot of epoch 1"),
        (lambda: geometry(FakeStudy(trained=False)), StudyError, "no snapshot"),
        (lambda: geometry({"a": np.ones((8, 2))}, target=np.zeros(8, int)), ConfigError, "needs two"),
        (
            lambda: geometry({"a": np.ones((8, 2))}, target=np.arange(8) % 4),
            ConfigError,
            "more pictures than",
        ),
        (
            lambda: geometry({"a": np.full((40, 2), np.nan)}, target=np.arange(40) % 4),
            ConfigError,
            "diverged",
        ),
        (lambda: geometry({"a": np.ones((8, 2))}, target=np.arange(9) % 2), ConfigError, "same samples"),
    ],
)
def test_geometry_refuses(call: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_modules_can_be_given() -> None:
    from kdlab import models

    net = models.build("resnet8", 4, 1)
    images = torch.randn(40, 1, 16, 16)
    found = geometry({"net": net}, images=images, target=np.arange(40) % 4, layers="embedding")
    assert found.layers == ("embedding",) and np.isfinite(found.values["nc3"]).all()


def test_results_are_kept_and_tabled(of_fake: Geometry, tmp_path: Path) -> None:
    again = load_result(of_fake.save(tmp_path / "geometry"))
    assert isinstance(again, Geometry)
    assert again.summary == of_fake.summary and again.to_frame().equals(of_fake.to_frame())
    frame = of_fake.to_frame()
    row = frame[
        (frame.network == "alone")
        & (frame.epoch == 2)
        & (frame.layer == "embedding")
        & (frame.seed == 1)
        & (frame.part == "test part")
        & (frame.measure == "nc1")
    ]
    n = of_fake.networks.index("alone")
    assert row.value.item() == of_fake.values["nc1"][n, 1, -1, 1, 1]
    assert row.permuted_labels.item() == of_fake.permuted["nc1"][n, -1, 1, 1]


# ---- the figure --------------------------------------------------------------------------------------


def test_the_figure_shows_both_parts_and_the_controls(measured: Geometry) -> None:
    figure = measured.plot(measures=["nc1", "class_separation"])
    line = next(t for t in figure.data if t.name == "KD")
    assert np.allclose(line.y, measured.values["nc1"][2, :, -1, :, 1].mean(axis=1))
    open_ones = next(t for t in figure.data if t.legendgroup == "KD" and t.marker.symbol == "square-open")
    assert np.allclose(open_ones.y, measured.values["nc1"][2, :, -1, :, 0].mean(axis=1))
    assert np.allclose(np.add(line.y, line.error_y.array), measured.values["nc1"][2, :, -1, :, 1].max(axis=1))
    control = next(t for t in figure.data if "labels permuted" in (t.hovertemplate or ""))
    assert control.y[0] == pytest.approx(np.nanmean(measured.permuted["nc1"][:, -1, :, 1]))
    assert {"labels permuted", "open: fitting part"} <= {t.name for t in figure.data}
    assert figure.layout.meta["summary"].startswith(measured.summary)


def test_bars_reach_from_the_lowest_to_the_highest_seed() -> None:
    mean, minus, plus = over_seeds(np.array([[1.0, 2.0, 6.0], [4.0, np.nan, np.nan], [np.nan] * 3]))
    assert np.array_equal(mean, [3.0, 4.0, np.nan], equal_nan=True)
    assert np.array_equal(minus, [2.0, 0.0, np.nan], equal_nan=True)
    assert np.array_equal(plus, [3.0, 0.0, np.nan], equal_nan=True)


def test_the_least_possible_value_is_drawn() -> None:
    x = np.random.default_rng(1).normal(size=(400, 5))
    figure = geometry({"small": x}, target=np.arange(400) % 20).plot()
    floor = next(t for t in figure.data if "least possible" in (t.hovertemplate or ""))
    assert floor.y[0] == pytest.approx(metrics.etf_floor(20, 5))
    assert not [t for t in figure.data if t.legendgroup == "small" and t.mode == "lines+markers"]


@pytest.mark.parametrize("by", ["epoch", "layer", "network"])
@pytest.mark.parametrize("dark", [False, True])
def test_every_view_can_be_drawn(of_fake: Geometry, by: str, dark: bool) -> None:
    figure = draw(of_fake, by=by, dark=dark, title="t")
    assert figure.layout.paper_bgcolor == (theme.DARK[theme.PAPER] if dark else theme.PAPER)
    points = [t for t in draw(of_fake, by=by).data if t.legendgroup == "KD" and len(t.y)]
    assert points and all(np.isfinite(t.y).all() for t in points)


def test_the_figure_refuses(of_fake: Geometry) -> None:
    with pytest.raises(UnknownNameError, match="measure named 'nc9'"):
        draw(of_fake, measures=["nc9"])
    with pytest.raises(UnknownNameError, match="layer named"):
        draw(of_fake, layer="stage9")
    with pytest.raises(ConfigError, match="by must be"):
        draw(of_fake, by="seed")
    with pytest.raises(ConfigError, match="None of these measures"):
        draw(of_fake, measures=["nc3"])  # the networks of the fake study have no classifier

"""Calibration: simulators of known calibration, agreement with the metrics, controls, figures."""

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
from kdlab.plots.calibration import calibration as draw
from kdlab.plots.calibration import reliability
from kdlab.probes import load_result, metrics
from kdlab.probes.calibration import MEASURES, Calibration, calibration
from tests.small_study import small

N = 4000


def simulated(n: int = N, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the true distribution of the labels."""
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits.numpy(), torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0].numpy()


LOGITS, TARGET = simulated()
HALF = np.arange(N) < N // 2


@pytest.fixture(scope="module")
def simulators() -> Calibration:
    """A calibrated network, one that is too sure, and one that is not sure enough."""
    nets = {"fair": LOGITS, "bold": 3 * LOGITS, "shy": LOGITS / 4}
    return calibration(nets, target=TARGET, fit=HALF, teacher="fair")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    study = small(tmp_path_factory.mktemp("calibration"), probe_size=160, seeds=2)
    return calibration(study.fit(progress=False))


@pytest.fixture(scope="module")
def of_fake() -> Calibration:
    return calibration(FakeStudy(snapshots=(0, 2, 6), late={"KD": 0}, gone={"CMKD": 2}), bins=10)


# ---- what is measured --------------------------------------------------------------------------------


def test_simulators_are_told_apart(simulators: Calibration) -> None:
    before, after = np.moveaxis(simulators.values["ece"][:, 0, 0], 1, 0)
    control = simulators.values["ece_if_calibrated"][:, 0, 0, 0]
    assert before[0] < 2 * control[0] and before[1] > 0.1 and before[2] > 0.1
    assert (after < 2 * control.max()).all(), "one temperature puts all of them right"
    assert simulators.temperature[:, 0, 0] == pytest.approx([1.0, 3.0, 0.25], rel=0.06)
    assert simulators.temperature[1] == pytest.approx(3 * simulators.temperature[0])
    assert not simulators.at_limit.any()
    assert "bold" in simulators.summary and "too sure" in simulators.summary
    assert "not sure enough" in simulators.summary
    gap = simulators.values["confidence"] - simulators.values["accuracy"]
    assert gap[1, 0, 0, 0] > 0.1 and gap[2, 0, 0, 0] < -0.1


def test_scaling_changes_no_prediction_and_helps_the_likelihood(measured: Calibration) -> None:
    accuracy, nll = measured.values["accuracy"], measured.values["nll"]
    assert np.array_equal(accuracy[..., 0], accuracy[..., 1], equal_nan=True)
    assert np.isfinite(nll[1:]).all()
    trained = nll[1:, -1]
    assert (trained[..., 1] <= trained[..., 0] + 0.05).all(), "fitted elsewhere, so a little worse at most"


def test_numbers_are_those_of_the_metrics_on_the_test_part(simulators: Calibration) -> None:
    test = ~HALF
    for n, logits in enumerate((LOGITS, 3 * LOGITS, LOGITS / 4)):
        tau = metrics.optimal_temperature(logits[HALF], TARGET[HALF])
        assert simulators.temperature[n, 0, 0] == tau
        for scaling, by in enumerate((1.0, tau)):
            own, labels = logits[test] / by, TARGET[test]
            wanted = {
                "accuracy": float((own.argmax(1) == labels).mean()),
                "nll": metrics.negative_log_likelihood(own, labels),
                "brier": metrics.brier_score(own, labels),
                "ece": metrics.expected_calibration_error(own, labels, 15),
                "adaptive_ece": metrics.adaptive_calibration_error(own, labels, 15),
            }
            for key, value in wanted.items():
                assert simulators.values[key][n, 0, 0, scaling] == pytest.approx(value, rel=1e-12), key


def test_the_temperature_does_not_know_the_test_part() -> None:
    other = TARGET.copy()
    other[~HALF] = np.random.default_rng(0).permutation(other[~HALF])
    one = calibration({"net": LOGITS}, target=TARGET, fit=HALF)
    two = calibration({"net": LOGITS}, target=other, fit=HALF)
    assert one.temperature == two.temperature
    assert two.values["ece"][0, 0, 0, 1] > one.values["ece"][0, 0, 0, 1] + 0.1


def test_bins_add_up(simulators: Calibration) -> None:
    assert (simulators.counts.sum(axis=-1) == N // 2).all()
    assert np.allclose(simulators.hits.sum(axis=-1) / (N // 2), simulators.values["accuracy"])
    gap = np.abs(simulators.accuracy - simulators.sureness) * simulators.counts / (N // 2)
    assert np.allclose(np.nansum(gap, axis=-1), simulators.values["ece"])
    low, high = simulators.interval()
    filled = simulators.counts > 0
    assert (low[filled] <= simulators.accuracy[filled]).all() and np.isnan(low[~filled]).all()
    fair = filled[0, 0, 0, 0] & (simulators.counts[0, 0, 0, 0] > 20)
    inside = (low <= simulators.sureness) & (simulators.sureness <= high)
    assert inside[0, 0, 0, 0][fair].mean() > 0.8, "95 % intervals of a calibrated network hold the diagonal"
    assert inside[1, 0, 0, 0][filled[1, 0, 0, 0]].mean() < 0.5


def test_the_control_is_what_few_pictures_give() -> None:
    """The ECE of a calibrated network is not 0, and the control says how large it is."""
    errors, controls = [], []
    for start in range(0, N, 200):
        part = slice(start, start + 200)
        found = calibration({"net": LOGITS[part]}, target=TARGET[part], fit=np.arange(200) < 100)
        errors.append(found.values["ece"][0, 0, 0, 0])
        controls.append(found.values["ece_if_calibrated"][0, 0, 0, 0])
    assert np.mean(controls) == pytest.approx(np.mean(errors), rel=0.2)
    whole = calibration({"net": LOGITS}, target=TARGET, fit=HALF).values["ece_if_calibrated"][0, 0, 0, 0]
    assert whole < np.mean(controls) / 3


def test_there_may_be_no_best_temperature() -> None:
    labels = np.arange(40) % 4
    found = calibration({"sure": np.eye(4)[labels]}, target=labels)
    assert found.at_limit.all() and found.temperature[0, 0, 0] == 0.01
    assert "no best temperature" in found.summary


def test_gaps_where_students_come_and_go(of_fake: Calibration) -> None:
    known = np.isfinite(of_fake.values["ece"][..., 0])
    names = list(of_fake.networks)
    assert known[names.index("KD"), :, 0].tolist() == [False, True, True]
    assert known[names.index("CMKD"), :, 0].tolist() == [True, True, False]
    assert not known[names.index("CMKD"), :, 1].any(), "it was dropped before the second seed"
    assert known[0, :, 0].all() and not known[0, :, 1:].any(), "a teacher is one network"
    assert "There is no snapshot of CMKD" in of_fake.summary and "10 bins" in of_fake.summary


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: calibration(FakeStudy(), bins=0), ConfigError, "bins must be a whole number from 1 on"),
        (lambda: calibration(FakeStudy(), epochs=1), ConfigError, "no snapshot of epoch 1"),
        (lambda: calibration(FakeStudy(), students="x"), UnknownNameError, "student named"),
        (lambda: calibration(FakeStudy(trained=False)), StudyError, "no snapshot"),
        (lambda: calibration({"a": np.zeros((8, 2))}, target=np.zeros(8, int)), ConfigError, "1 class"),
        (
            lambda: calibration({"a": np.zeros((18, 2))}, target=np.arange(18) % 3),
            ConfigError,
            "Labels run from 0 to 2",
        ),
        (lambda: calibration({"a": np.zeros((8, 2))}, target=np.arange(9) % 2), ConfigError, "same samples"),
        (
            lambda: calibration({"a": np.full((8, 2), np.inf)}, target=np.arange(8) % 2),
            ConfigError,
            "diverged",
        ),
        (lambda: calibration({"a": np.zeros(8)}, target=np.arange(8) % 2), ConfigError, "samples, classes"),
        (lambda: calibration({"a": [["x", "y"]]}, target=[0]), ConfigError, "table of numbers"),
        (
            lambda: calibration({"a": {"layer": np.zeros((8, 2))}}, target=np.arange(8) % 2),
            ConfigError,
            "not known",
        ),
    ],
)
def test_calibration_refuses(call: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_results_are_kept_and_tabled(of_fake: Calibration, tmp_path: Path) -> None:
    again = load_result(of_fake.save(tmp_path / "calibration"))
    assert isinstance(again, Calibration)
    assert again.summary == of_fake.summary and again.to_frame().equals(of_fake.to_frame())
    frame = of_fake.to_frame()
    row = frame[
        (frame.network == "alone")
        & (frame.epoch == 2)
        & (frame.seed == 1)
        & (frame.scaling == "temperature scaled")
    ]
    n = of_fake.networks.index("alone")
    assert row.ece.item() == of_fake.values["ece"][n, 1, 1, 1]
    assert row.temperature.item() == of_fake.temperature[n, 1, 1]
    bins = of_fake.bin_frame()
    own = bins[
        (bins.network == "alone") & (bins.epoch == 6) & (bins.seed == 0) & (bins.scaling == "as it is")
    ]
    assert own.pictures.sum() == of_fake.n_test and (own.wilson_low <= own.accuracy).all()


# ---- figures -----------------------------------------------------------------------------------------


def test_reliability_shows_counts_intervals_and_the_diagonal(simulators: Calibration) -> None:
    figure = simulators.plot()
    diagonals = [t for t in figure.data if t.name == "as sure as right"]
    assert len(diagonals) == 3 and all(list(t.x) == list(t.y) == [0, 1] for t in diagonals)
    points = [t for t in figure.data if "sure of" in (t.hovertemplate or "")]
    assert len(points) == 6
    bold = points[2]
    filled = simulators.counts[1, 0, 0, 0] > 0
    assert np.allclose(bold.x, simulators.sureness[1, 0, 0, 0][filled])
    low, high = (side[1, 0, 0, 0][filled] for side in simulators.interval())
    assert np.allclose(np.add(bold.y, bold.error_y.array), high)
    assert np.allclose(np.subtract(bold.y, bold.error_y.arrayminus), low)
    bars = [t for t in figure.data if t.type == "bar"]
    assert len(bars) == 6 and sum(bars[2].y) == N // 2
    texts = " ".join(note.text for note in figure.layout.annotations)
    assert f"T {simulators.temperature[1, 0, 0]:.2f}" in texts and "(teacher)" in texts


def test_the_slider_goes_through_epochs_with_gaps(of_fake: Calibration) -> None:
    figure = reliability(of_fake)
    assert [frame.name for frame in figure.frames] == ["0", "2", "6"]
    assert all(len(frame.data) == len(frame.traces) for frame in figure.frames)
    for frame in figure.frames:
        for place, trace in zip(frame.traces, frame.data, strict=True):
            assert figure.data[place].type == trace.type
    texts = " ".join(note.text for note in figure.frames[2].layout.annotations)
    assert "no snapshot of this epoch" in texts
    dark = reliability(of_fake, dark=True, epoch_slider=False)
    assert dark.layout.paper_bgcolor == theme.DARK[theme.PAPER] and not dark.frames
    with pytest.raises(ConfigError, match="no seed 9"):
        reliability(of_fake, seed=9)


@pytest.mark.parametrize("measure", [*MEASURES, "temperature"])
def test_every_measure_can_be_drawn_over_epochs(measured: Calibration, measure: str) -> None:
    figure = draw(measured, measure)
    line = next(t for t in figure.data if t.name == "KD")
    table = measured.temperature if measure == "temperature" else measured.values[measure][..., 0]
    factor = 1 if measure in ("nll", "brier", "temperature") else 100
    assert np.allclose(line.y, factor * table[2].mean(axis=1))
    control = [t for t in figure.data if t.name == "a calibrated network"]
    assert len(control) == (measure in ("ece", "adaptive_ece"))


def test_one_epoch_is_drawn_by_network(simulators: Calibration) -> None:
    figure = draw(simulators, "ece")
    assert list(figure.layout.xaxis.ticktext) == ["fair", "bold", "shy"]
    bold = next(t for t in figure.data if t.name == "bold")
    assert list(bold.x) == [1] and bold.y[0] == pytest.approx(100 * simulators.values["ece"][1, 0, 0, 0])
    with pytest.raises(UnknownNameError, match="measure named"):
        draw(simulators, "sharpness")

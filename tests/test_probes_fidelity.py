"""Fidelity: tables by hand, agreement with the metrics, ensembles, controls, figures."""

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
from kdlab.plots.fidelity import MEASURES, fidelity_epochs
from kdlab.plots.fidelity import fidelity as draw
from kdlab.probes import load_result, metrics
from kdlab.probes.fidelity import ENSEMBLE, Fidelity, fidelity
from tests.small_study import small

K = 12
TARGET = np.arange(240) % K
FIT = np.arange(240) < 120


def noisy(seed: int, strength: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(240, K)) + strength * np.eye(K)[TARGET]


NETS = {"T1": noisy(1), "T2": 2 * noisy(2), "A": noisy(3), "B": noisy(4, 1.0)}


@pytest.fixture(scope="module")
def pairs() -> Fidelity:
    return fidelity(NETS, target=TARGET, fit=FIT, teacher=["T1", "T2"], plain="B")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return small(tmp_path_factory.mktemp("fidelity"), probe_size=160, seeds=2).fit(progress=False)


@pytest.fixture(scope="module")
def measured(fitted: Any) -> Fidelity:
    return fidelity(fitted)


@pytest.fixture(scope="module")
def of_fake() -> Fidelity:
    return fidelity(FakeStudy(snapshots=(0, 2, 6), late={"KD": 0}, gone={"CMKD": 2}))


# ---- what is measured --------------------------------------------------------------------------------


def test_small_table_by_hand() -> None:
    says = {"T": [0, 1, 0, 1, 0, 1, 0, 1], "S": [0, 1, 1, 1, 0, 1, 1, 0]}
    target = np.array([0, 1, 1, 0, 0, 1, 1, 0])
    nets = {name: 5.0 * np.eye(2)[row] for name, row in says.items()}
    fit = np.arange(8) < 4
    found = fidelity(nets, target=target, fit=fit, teacher="T")
    assert found.networks == ("T", "S") and found.references == ("T",)
    assert found.agreement[0, 0, :, 0, 1].tolist() == [3 / 4, 2 / 4]
    assert found.accuracy[0, 0].tolist() == [[2 / 4, 3 / 4], [2 / 4, 4 / 4]]
    assert found.quadrants[0, 0, :, 0, 1].tolist() == [[2, 0, 1, 1], [2, 0, 2, 0]]
    assert found.quadrants[0, 0, 0, 1, 0].tolist() == [2, 1, 0, 1], "the other way round"
    assert found.right[0, 0, :, 0, 1].tolist() == [1.0, 1.0]
    assert found.wrong[0, 0, :, 0, 1].tolist() == [1 / 2, 0.0]
    # T says each class on half of them, so by chance half agree, whatever S says
    assert found.by_chance[0, 0, :, 0, 1].tolist() == [1 / 2, 1 / 2]
    assert found.top is None, "two classes"


def test_every_pair_is_what_the_metrics_say(pairs: Fidelity) -> None:
    logits = dict(NETS)
    mean = np.mean([torch.from_numpy(NETS[name]).softmax(1).numpy() for name in ("T1", "T2")], axis=0)
    logits[ENSEMBLE] = np.log(mean)
    assert pairs.networks == ("T1", "T2", ENSEMBLE, "A", "B")
    for p, part in enumerate((FIT, ~FIT)):
        for i, row in enumerate(pairs.networks):
            for j, column in enumerate(pairs.networks):
                theirs, own = logits[row][part], logits[column][part]
                at = (0, 0, p, i, j)
                split = metrics.agreement_by_correctness(own, theirs, TARGET[part])
                assert pairs.agreement[at] == pytest.approx(split["agreement"])
                assert pairs.right[at] == pytest.approx(split["teacher_right"], nan_ok=True)
                assert pairs.wrong[at] == pytest.approx(split["teacher_wrong"], nan_ok=True)
                names = ("both_right", "student_wrong", "student_right", "both_wrong")
                assert (pairs.quadrants[at] / part.sum()).tolist() == pytest.approx(
                    [split[name] for name in names]
                )
                assert pairs.kl[(0, *at)] == pytest.approx(metrics.fidelity_kl(own, theirs), abs=1e-12)
                assert pairs.top is not None
                assert pairs.top[at] == pytest.approx(metrics.topk_overlap(own, theirs), abs=1e-6)
    found = pairs.kl[1, 0, 0, 1, 0, 3]  # temperature 4, test part, T1 against A
    wanted = metrics.fidelity_kl(NETS["A"][~FIT], NETS["T1"][~FIT], 4.0)
    assert found == pytest.approx(wanted, rel=1e-9)


def test_the_ensemble_averages_probabilities_at_each_temperature(pairs: Fidelity) -> None:
    e, a = pairs.networks.index(ENSEMBLE), pairs.networks.index("A")
    p = np.mean([torch.from_numpy(NETS[n][~FIT] / 4).softmax(1).numpy() for n in ("T1", "T2")], axis=0)
    q = torch.from_numpy(NETS["A"][~FIT] / 4).log_softmax(1).numpy()
    wanted = (p * (np.log(p) - q)).sum(axis=1).mean()
    assert pairs.kl[1, 0, 0, 1, e, a] == pytest.approx(wanted, rel=1e-9)
    assert pairs.accuracy[0, 0, 1, e] >= pairs.accuracy[0, 0, 1, :2].max() - 0.05
    assert ENSEMBLE not in fidelity({"T": NETS["T1"], "A": NETS["A"]}, target=TARGET, teacher="T").networks


def test_large_logits_do_not_lose_their_divergence() -> None:
    labels = np.arange(40) % 3
    nets = {"T": 2000.0 * np.eye(3)[labels], "S": 2000.0 * np.eye(3)[(labels + 1) % 3]}
    found = fidelity(nets, target=labels, teacher="T")
    assert found.kl[0, 0, 0, 1, 0, 1] == pytest.approx(2000.0)
    assert found.kl[0, 0, 0, 1, 0, 0] == 0.0


def test_independent_predictions_agree_by_chance() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(4000) % 4
    nets = {"a": generator.normal(size=(4000, 4)) + np.eye(4)[0], "b": generator.normal(size=(4000, 4))}
    found = fidelity(nets, target=labels)
    assert found.agreement[0, 0, 1, 0, 1] == pytest.approx(found.by_chance[0, 0, 1, 0, 1], abs=0.03)
    assert "There is no teacher" in found.summary


def test_two_seeds_are_the_control(measured: Fidelity, fitted: Any) -> None:
    test = ~np.asarray(fitted.probe_set.fit)
    one, two = (fitted.snapshot("KD", epoch=3, seed=seed).logits[test] for seed in fitted.seeds)
    j = measured.networks.index("KD")
    assert measured.seed_agreement[-1, 1, j] == pytest.approx(metrics.top1_agreement(one, two))
    both = (metrics.fidelity_kl(one, two) + metrics.fidelity_kl(two, one)) / 2
    assert measured.seed_kl[0, -1, 1, j] == pytest.approx(both, rel=1e-6)
    assert np.isnan(measured.seed_agreement[:, :, 0]).all(), "a teacher has one seed"
    assert measured.plain == ("alone",) and "alone learned without a teacher" in measured.summary
    assert "Two seeds of the same student agree on" in measured.summary
    assert np.isnan(fidelity(fitted, seeds=0).seed_agreement).all()


def test_a_study_agrees_more_and_more(measured: Fidelity) -> None:
    agreement = measured.agreement[:, :, 1, 0, 1:]
    assert (agreement[-1] > agreement[0]).all() and measured.epochs[0] == 0
    assert np.allclose(measured.agreement[..., 0, 1], measured.agreement[..., 1, 0])
    total = measured.quadrants[-1, 0, 1, 0, 1].sum()
    assert total == measured.n_test


def test_accuracy_without_fidelity_is_said() -> None:
    """Teacher and student err on different pictures, ten each of a hundred test pictures."""
    labels = np.arange(200) % 4
    said = {"teacher": labels.copy(), "KD": labels.copy()}
    said["teacher"][100:110] = (said["teacher"][100:110] + 1) % 4
    said["KD"][110:120] = (said["KD"][110:120] + 1) % 4
    nets = {name: 4.0 * np.eye(4)[row] for name, row in said.items()}
    fit = np.arange(200) < 100
    found = fidelity(nets, target=labels, fit=fit, teacher="teacher")
    assert "KD (90.0 % right) agrees with the labels more often than with teacher" in found.summary
    assert "agreement with teacher" in found.summary.lower() and "80.0 %" in found.summary
    assert "more often" not in fidelity(nets, target=labels, fit=fit, teacher="teacher", plain="KD").summary
    nets["KD"] = nets["teacher"]
    assert "more often" not in fidelity(nets, target=labels, fit=fit, teacher="teacher").summary


def test_gaps_where_students_come_and_go(of_fake: Fidelity) -> None:
    kd, cmkd = of_fake.networks.index("KD"), of_fake.networks.index("CMKD")
    assert np.isfinite(of_fake.agreement[:, 0, 1, 0, kd]).tolist() == [False, True, True]
    assert np.isfinite(of_fake.agreement[:, 0, 1, 0, cmkd]).tolist() == [True, True, False]
    assert (of_fake.quadrants[0, 0, :, 0, kd] == -1).all()
    assert np.isnan(of_fake.seed_agreement[:, :, cmkd]).all(), "it has a single seed"
    assert np.isfinite(of_fake.seed_agreement[1:, :, kd]).all()
    assert "There is no snapshot of CMKD" in of_fake.summary


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: fidelity(FakeStudy(), temperatures=0.0), ConfigError, "must be a positive number"),
        (lambda: fidelity(FakeStudy(), temperatures=()), ConfigError, "at least one temperature"),
        (lambda: fidelity(FakeStudy(), epochs=1), ConfigError, "no snapshot of epoch 1"),
        (lambda: fidelity(FakeStudy(), plain="x"), UnknownNameError, "student named"),
        (lambda: fidelity(FakeStudy(trained=False)), StudyError, "no snapshot"),
        (lambda: fidelity(NETS["A"], target=TARGET), ConfigError, "at least two"),
        (
            lambda: fidelity({"a": NETS["A"], "b": np.zeros((240, 13))}, target=TARGET),
            ConfigError,
            "'a' has 12 classes and 'b' has 13",
        ),
        (lambda: fidelity({"a": NETS["A"], "b": NETS["A"] * np.nan}, target=TARGET), ConfigError, "diverged"),
        (lambda: fidelity({"a": NETS["A"], "b": NETS["B"][:-1]}, target=TARGET), ConfigError, "same samples"),
        (lambda: fidelity(NETS, target=TARGET * 0), ConfigError, "1 class"),
        (lambda: fidelity(NETS, target=TARGET, teacher="T3"), UnknownNameError, "network named"),
    ],
)
def test_fidelity_refuses(call: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_results_are_kept_and_tabled(pairs: Fidelity, of_fake: Fidelity, tmp_path: Path) -> None:
    for result in (pairs, of_fake):
        again = load_result(result.save(tmp_path / "fidelity"))
        assert isinstance(again, Fidelity)
        assert again.summary == result.summary and again.to_frame().equals(result.to_frame())
    frame = pairs.to_frame()
    assert len(frame) == 2 * 5 * 4
    row = frame[(frame.reference == "T1") & (frame.network == "A") & (frame.part == "test part")]
    assert row.agreement.item() == pairs.agreement[0, 0, 1, 0, 3]
    counts = row[["both_right", "network_wrong", "network_right", "both_wrong"]].to_numpy()[0]
    assert counts.tolist() == pairs.quadrants[0, 0, 1, 0, 3].tolist()
    assert {"kl_1", "kl_4", "top5_overlap"} <= set(frame.columns)


# ---- figures -----------------------------------------------------------------------------------------


def test_the_matrix_has_numbers_and_the_control_on_its_diagonal(measured: Fidelity) -> None:
    figure = measured.plot()
    matrix = figure.data[0]
    z = np.asarray(matrix.z, dtype=float)
    assert z[0, 2] == pytest.approx(100 * measured.agreement[-1, :, 1, 0, 2].mean())
    assert z[2, 2] == pytest.approx(100 * measured.seed_agreement[-1, 1, 2]) and np.isnan(z[0, 0])
    assert matrix.text[0][2] == f"{z[0, 2]:.1f}"
    split = next(t for t in figure.data if t.name == "reference right")
    wanted = 100 * np.nanmean(measured.right[-1, :, 1, 0, 1:], axis=0)
    assert np.allclose(np.asarray(split.x, dtype=float), wanted)
    assert {"two seeds of the student", "independent predictions"} <= {t.name for t in figure.data}
    right = round(float(measured.accuracy[-1, 0, 1, 0]) * measured.n_test)
    notes = " ".join(note.text for note in figure.layout.annotations)
    assert f"right on {right}, wrong on {measured.n_test - right} pictures" in notes
    assert [frame.name for frame in figure.frames] == [str(e) for e in measured.epochs]


@pytest.mark.parametrize("dark", [False, True])
def test_gaps_and_pairs_without_teacher_can_be_drawn(of_fake: Fidelity, dark: bool) -> None:
    figure = draw(of_fake, dark=dark, title="t", part="fitting part")
    assert figure.layout.paper_bgcolor == (theme.DARK[theme.PAPER] if dark else theme.PAPER)
    alone = fidelity({"a": NETS["A"], "b": NETS["B"]}, target=TARGET)
    assert list(draw(alone, dark=dark).layout.yaxis2.ticktext) == ["b"]
    assert alone.top is not None
    assert fidelity_epochs(alone, "top").data[0].y[0] == pytest.approx(100 * alone.top[0, 0, 1, 0, 1])


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_can_be_drawn_over_epochs(measured: Fidelity, measure: str) -> None:
    figure = fidelity_epochs(measured, measure)
    line = next(t for t in figure.data if t.name == "KD")
    if measure == "kl":
        wanted = measured.kl[0, :, :, 1, 0, 2].mean(axis=1)
    else:
        table = getattr(measured, measure)[:, :, 1, 0, 2]
        there = np.isfinite(table).any(axis=1)
        wanted = 100 * np.nanmean(table[there], axis=1)
    assert np.allclose(line.y, wanted)
    assert any(t.name == "alone (labels alone)" for t in figure.data)
    controls = [t for t in figure.data if "two of its seeds" in (t.hovertemplate or "")]
    assert len(controls) == (2 if measure in ("agreement", "kl") else 0)


def test_the_figures_refuse(of_fake: Fidelity) -> None:
    for function in (draw, fidelity_epochs):
        with pytest.raises(UnknownNameError, match="network named 'x'"):
            function(of_fake, reference="x")
        with pytest.raises(ConfigError, match="part must be"):
            function(of_fake, part="training part")
    with pytest.raises(UnknownNameError, match="measure named"):
        fidelity_epochs(of_fake, "kappa")
    with pytest.raises(ConfigError, match="10 classes or more"):
        fidelity_epochs(of_fake, "top")

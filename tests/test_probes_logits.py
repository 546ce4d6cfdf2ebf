"""Logits over epochs, gradients at the logits, dark knowledge, temperatures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_study import FakeStudy

from kdlab import losses, plots
from kdlab.errors import ConfigError, StudyError, UnknownNameError
from kdlab.probes.gradients import CLOSED, OTHERS, LogitGradients, closed_gradients, logit_gradients
from kdlab.probes.logit_history import LogitHistory, logit_history
from kdlab.probes.logits import QUADRANTS, logit_decomposition
from kdlab.probes.result import load_result

E1 = {
    "S": np.array([[2, 1, 0, -1], [0.5, 1.5, 0, 1], [3, -1, 0.5, 0]], dtype=float),
    "T": np.array([[4, 1, 0.5, -2], [0, 3, 1, 2], [1, 2, -0.5, 0]], dtype=float),
}
LABELS = [0, 1, 0]
ROW = {  # gradients of the first picture of E1
    1.0: {
        "kd": [-0.279905, 0.190889, 0.059247, 0.029769],
        "kd: true class": [-0.279905, 0.186204, 0.068501, 0.025200],
        "nckd": [0, 0.061492, -0.121464, 0.059972],
    },
    4.0: {
        "kd": [-0.493890, 0.195628, 0.059601, 0.238661],
        "kd: true class": [-0.493890, 0.207053, 0.161253, 0.125584],
        "nckd": [0, -0.021696, -0.193037, 0.214733],
    },
}


def random_logits(
    n: int = 9, classes: int = 6, scale: float = 2.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    labels = generator.integers(0, classes, n)
    labels[:classes] = np.arange(classes)
    return generator.normal(size=(n, classes)) * scale, generator.normal(size=(n, classes)) * scale, labels


# ---- gradients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradients_of_the_worked_picture(temperature: float) -> None:
    found = closed_gradients(E1["S"], E1["T"], np.array(LABELS), temperature)
    for name, wanted in ROW[temperature].items():
        np.testing.assert_allclose(found[name][0], wanted, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 4.0])
def test_closed_forms_are_what_autograd_finds(temperature: float) -> None:
    own, theirs, labels = random_logits()
    found = closed_gradients(own, theirs, labels, temperature)
    teacher, target = torch.from_numpy(theirs), torch.from_numpy(labels)

    def gradient(loss: str) -> np.ndarray:
        student = torch.from_numpy(own).requires_grad_(True)
        parts = losses.decompose(student, teacher, target, temperature)
        value = {
            "ce": lambda: losses.cross_entropy(student, target) * len(labels),
            "kd": lambda: parts.kd.sum(),
            "kd: true class": lambda: parts.tckd.sum(),
            "kd: other classes": lambda: parts.product.sum(),
            "nckd": lambda: parts.nckd.sum(),
        }[loss]()
        return np.asarray(torch.autograd.grad(value, student)[0])

    for name, table in found.items():
        np.testing.assert_allclose(table, gradient(name), atol=1e-12, err_msg=name)
        np.testing.assert_allclose(table.sum(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(found["kd"], found["kd: true class"] + found["kd: other classes"], atol=1e-12)
    assert (found["nckd"][np.arange(len(labels)), labels] == 0).all()


def test_gradients_stay_finite_at_large_logits() -> None:
    own, theirs, labels = random_logits(scale=200.0)
    result = logit_gradients({"S": own, "T": theirs}, target=labels, teacher="T")
    assert np.isfinite(result.gradient).all() and np.isfinite(result.norm).all()


def test_result_agrees_with_the_losses_of_training() -> None:
    own, theirs, labels = random_logits()
    result = logit_gradients({"S": own, "T": theirs}, target=labels, teacher="T", temperature=2.0)
    assert result.losses == (*CLOSED, *OTHERS)
    s, t, y = torch.from_numpy(own), torch.from_numpy(theirs), torch.from_numpy(labels)
    wanted = {
        "ce": losses.cross_entropy(s, y),
        "kd": losses.kd(s, t, 2.0),
        "kd: true class": losses.tckd(s, t, y, 2.0),
        "kd: other classes": losses.decompose(s, t, y, 2.0).product.mean(),
        "dkd": losses.dkd(s, t, y, temperature=2.0),
        "nkd": losses.nkd(s, t, y, temperature=2.0),
        "dist": losses.dist(s, t, temperature=2.0),
        "dckd": losses.hybrid_target(s, t, y, temperature=2.0),
        # SKD before it has learnt: its teacher stands at its own 2 times the temperature
        "skd: softened": 4.0 * (torch.softmax(t / 4, 1) * (t / 4).log_softmax(1)).sum(1).mean()
        - 4.0 * (torch.softmax(t / 4, 1) * (s / 2).log_softmax(1)).sum(1).mean(),
    }
    np.testing.assert_allclose(result.value[0], [float(wanted[name]) for name in result.losses], rtol=1e-12)
    # DKD's gradient is that of its parts: alpha 1, beta 8
    parts = closed_gradients(own, theirs, labels, 2.0)
    dkd = result.gradient[0, result.losses.index("dkd")]
    np.testing.assert_allclose(dkd, parts["kd: true class"] + 8 * parts["nckd"], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(dkd, axis=1), result.norm[0, result.losses.index("dkd")])
    # DCKD leaves pictures alone on which the student is surer, and follows TCKD elsewhere
    dckd = result.gradient[0, result.losses.index("dckd")]
    surer = result.p_t_student[0] >= result.p_t_teacher
    assert surer.any() and not surer.all()
    assert (dckd[surer] == 0).all()
    np.testing.assert_allclose(dckd[~surer], parts["kd: true class"][~surer], atol=1e-12)


def test_skd_begins_as_its_worked_case_without_a_correction() -> None:
    def g(rows: int, classes: int, a: float, b: float, scale: float) -> np.ndarray:
        i = np.arange(rows * classes)
        return (scale * np.sin(a * i + b + 0.1 * i**2)).reshape(rows, classes)

    own, theirs = g(6, 10, 0.7, 0.1, 3), g(6, 10, 0.9, 0.2, 4)
    result = logit_gradients({"S": own, "T": theirs}, target=range(6), teacher="T", losses="skd: softened")
    assert result.value[0, 0] == pytest.approx(3.794313, abs=1e-6)
    whole = np.linalg.norm(result.gradient[0, 0]) / 6  # of the batch mean
    assert whole == pytest.approx(0.353209, abs=1e-6)


def test_arrows_show_what_a_small_step_does() -> None:
    own, theirs, labels = random_logits()
    result = logit_gradients({"S": own, "T": theirs}, target=labels, teacher="T", temperature=3.0)
    y, step = torch.from_numpy(labels), 1e-6
    before = losses.decompose(torch.from_numpy(own), torch.from_numpy(theirs), y, 3.0)
    for i, name in enumerate(result.losses):
        moved = torch.from_numpy(own - step * result.gradient[0, i])
        after = losses.decompose(moved, torch.from_numpy(theirs), y, 3.0)
        for axis, field in enumerate(("student_target", "nckd")):
            wanted = (getattr(after, field) - getattr(before, field)).numpy() / step
            np.testing.assert_allclose(
                result.motion[0, i, :, axis], wanted, rtol=1e-3, atol=1e-4, err_msg=name
            )
    other = result.losses.index("kd: other classes")
    assert (result.motion[0, other, :, 1] <= 1e-12).all()  # its own loss never rises
    true = result.losses.index("kd: true class")
    gap = result.p_t_teacher - result.p_t_student[0]
    assert (np.sign(result.motion[0, true, :, 0]) == np.sign(gap)).all()  # towards the teacher's p_t


def test_cosines_of_known_cases() -> None:
    own, theirs, labels = random_logits()
    result = logit_gradients({"S": own, "T": theirs}, target=labels, teacher="T")
    cosine = result.cosine[0]
    np.testing.assert_allclose(np.diag(cosine), 1.0)
    np.testing.assert_allclose(cosine, cosine.T)
    same = logit_gradients({"S": theirs, "T": theirs}, target=labels, teacher="T", losses=("ce", "kd"))
    assert same.norm[0, 1].max() == 0 and np.isnan(same.cosine[0, 0, 1])  # no pull, no angle
    # a teacher that is always certain: the target part of KD is cross-entropy
    certain = np.full_like(theirs, -40.0)
    certain[np.arange(len(labels)), labels] = 40.0
    sure = logit_gradients({"S": own, "T": certain}, target=labels, teacher="T", temperature=1.0)
    np.testing.assert_allclose(sure.gradient[0, 0], sure.gradient[0, 2], atol=1e-9)
    assert sure.cosine[0, 0, 2] == pytest.approx(1.0)
    assert sure.norm[0, 3].max() < 1e-9  # and silences the other classes


def test_a_loss_of_ones_own_stands_beside_them() -> None:
    own, theirs, labels = random_logits()
    result = logit_gradients(
        {"S": own, "T": theirs},
        target=labels,
        teacher="T",
        losses="kd",
        more={"half": lambda s, t, y: losses.kd(s, t, 4.0) / 2, "nothing": lambda s, t, y: t.sum()},
    )
    assert result.losses == ("kd", "half", "nothing") and result.closed == ("kd",)
    np.testing.assert_allclose(result.gradient[0, 1], result.gradient[0, 0] / 2, atol=1e-12)
    assert (result.gradient[0, 2] == 0).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"losses": ["skd"]}, "loss of logits named 'skd'"),
        ({"temperature": -1}, "positive"),
        ({"samples": [99]}, "0 .. 8"),
        ({"detail": 0}, "detail"),
        ({"losses": ()}, "no loss"),
        ({"more": {"kd": lambda s, t, y: s.sum()}}, "here already"),
        ({"more": {"rows": lambda s, t, y: s.sum(1)}}, "one number"),
        ({"teacher": None}, "no teacher"),
        ({"students": "X"}, "student named"),
        ({"target": [7] * 9}, "Labels run from 7 to 7; with the 6 logits"),
    ],
)
def test_gradients_refuse(options: dict[str, Any], says: str) -> None:
    own, theirs, labels = random_logits()
    with pytest.raises(ConfigError, match=says):
        logit_gradients({"S": own, "T": theirs}, **{"target": labels, "teacher": "T", **options})


# ---- over epochs ---------------------------------------------------------------------------------------


def test_history_is_the_decomposition_of_every_epoch_and_seed() -> None:
    study = FakeStudy()
    result = logit_history(study, temperature=2.0)
    assert result.epochs == (0, 2, 6) and result.seeds == (0, 1, 2) and result.kd.shape == (3, 3, 3)
    np.testing.assert_allclose(result.kd, result.tckd + result.product, atol=1e-12)
    np.testing.assert_allclose(result.quadrants.sum(axis=-1), 1.0)
    one = logit_decomposition(study, temperature=2.0, epoch=2, seed=1)
    np.testing.assert_allclose(result.kd[:, 1, 1], one.kd.mean(axis=1))
    np.testing.assert_allclose(result.nckd[:, 1, 1], one.nckd.mean(axis=1))
    np.testing.assert_allclose(result.share[:, 1, 1], one.share)
    for q in range(len(QUADRANTS)):
        np.testing.assert_allclose(result.quadrants[:, 1, 1, q], (one.quadrant == q).mean(axis=1))
    table = one.by_class()
    own = table[(table.network == "KD") & (table.label == 3)].iloc[0]
    assert result.class_tckd[1, 1, 1, 3] == pytest.approx(own.tckd)
    assert result.class_product[1, 1, 1, 3] == pytest.approx(own["product"])
    assert len(result.to_frame()) == 27 and len(result.by_class()) == 27 * 4
    assert (result.kd[:, -1] < result.kd[:, 0]).all()  # the fake students come nearer to the teacher
    assert "mean of 3 seeds" in result.summary and "±" in result.summary


def test_history_has_gaps_where_students_came_late_or_went() -> None:
    study = FakeStudy(students=("alone", "late", "gone"), late={"late": 1}, gone={"gone": 2}, seeds=(0, 1))
    result = logit_history(study)
    late, gone = (result.students.index(name) for name in ("late", "gone"))
    assert np.isnan(result.kd[late, 0]).all() and np.isfinite(result.kd[late, 1:]).all()
    assert np.isnan(result.kd[gone, :, 1]).all() and np.isnan(result.kd[gone, 2, 0])
    assert "late" in result.summary and "nan" not in result.summary
    assert len(result.to_frame()) == 6 + 4 + 2
    for show in ("means", "classes"):
        figure = plots.logits_over_epochs(result, show=show)
        json.loads(figure.to_json())


def test_history_refuses() -> None:
    with pytest.raises(ConfigError, match="positive"):
        logit_history(FakeStudy(), temperature=0)
    with pytest.raises(ConfigError, match="no snapshot of epoch 5"):
        logit_history(FakeStudy(), epochs=5)
    with pytest.raises(StudyError):
        logit_history(FakeStudy(trained=False))
    with pytest.raises(ConfigError, match="2 classes and the teacher has 3"):
        logit_history({"S": [[1.0, 2]], "T": [[1.0, 2, 3]]}, target=[0], teacher="T")
    with pytest.raises(ConfigError, match="at least two classes"):
        logit_history({"S": [[1.0]], "T": [[1.0]]}, target=[0], teacher="T")


# ---- temperatures and dark knowledge -----------------------------------------------------------------------


def test_entropy_and_effective_classes() -> None:
    classes = 5
    flat, peaked = np.zeros((4, classes)), np.eye(classes)[:4] * 60
    result = logit_decomposition({"S": flat, "T": peaked}, target=range(4), teacher="T", sweep=(1.0, 1e6))
    assert result.sweep_classes is not None and result.sweep_entropy is not None
    np.testing.assert_allclose(result.sweep_classes[0], [1.0, classes], rtol=1e-4)  # the teacher's row first
    np.testing.assert_allclose(result.sweep_classes[1], classes)
    np.testing.assert_allclose(result.sweep_entropy[1], np.log(classes))
    some = logit_decomposition(FakeStudy())
    assert some.sweep_entropy is not None
    assert np.all(np.diff(some.sweep_entropy, axis=1) > 0)  # entropy rises with the temperature
    from scipy.stats import entropy

    teacher, _ = some.probabilities(4.0)
    assert some.sweep_entropy[0, 2] == pytest.approx(entropy(teacher, axis=1).mean())


def test_high_temperature_limit() -> None:
    own, theirs, labels = random_logits()
    result = logit_decomposition({"S": own, "T": theirs}, target=labels, teacher="T", temperature=1e4)
    gap = own - theirs
    wanted = np.square(gap - gap.mean(axis=1, keepdims=True)).sum(axis=1) / (2 * own.shape[1])
    np.testing.assert_allclose(result.kd[0], wanted, rtol=1e-3)
    np.testing.assert_allclose(result.weight, 1 - 1 / own.shape[1], rtol=1e-3)


def test_classes_without_pictures_have_a_name() -> None:
    own, theirs, _ = random_logits(classes=6)
    result = logit_decomposition({"S": own, "T": theirs}, target=[0] * 5 + [1] * 4, teacher="T")
    assert len(result.class_names) == 6
    json.loads(plots.logits(result).to_json())


def test_dark_knowledge_figure_shows_the_difference() -> None:
    own, theirs, labels = random_logits()
    result = logit_decomposition({"S": own, "T": theirs}, target=labels, teacher="T")
    teacher, students = result.confusion()
    maps = [trace for trace in plots.dark_knowledge(result).data if trace.type == "heatmap"]
    assert len(maps) == 3 and maps[-1].coloraxis == "coloraxis2"
    off = ~np.eye(6, dtype=bool)
    np.testing.assert_allclose(np.asarray(maps[-1].z)[off], (students[0] - teacher)[off], atol=1e-4)
    assert np.isnan(np.diag(np.asarray(maps[0].z))).all()
    assert len(plots.dark_knowledge(result, difference=False).data) == 2
    two = logit_decomposition({"S": own[:, :2], "T": theirs[:, :2]}, target=labels % 2, teacher="T")
    with pytest.raises(ConfigError, match="two classes"):
        plots.dark_knowledge(two)


def test_results_come_back_and_figures_go_dark(tmp_path: Path) -> None:
    study = FakeStudy()
    history, gradients = logit_history(study), logit_gradients(study)
    for result, kind in ((history, LogitHistory), (gradients, LogitGradients)):
        again = load_result(result.save(tmp_path / kind.__name__))
        assert isinstance(again, kind) and again.summary == result.summary
        assert again.to_frame().equals(result.to_frame())
        figure = again.plot(dark=True)
        assert len(figure.layout.meta["summary"]) > 60
        json.loads(figure.to_json())
    figure = plots.logit_gradients(gradients, student="KD", samples=[2, 5])
    assert [frame.name for frame in figure.frames] == ["1", "2"]
    pulls = [trace for trace in figure.data if trace.type == "scatter" and trace.xaxis == "x2"]
    assert [trace.name for trace in pulls] == list(gradients.losses)
    kd = next(trace for trace in pulls if trace.name == "kd")
    pull = -gradients.gradient[1, gradients.losses.index("kd"), 2]
    np.testing.assert_allclose(kd.y, pull / np.linalg.norm(pull), atol=1e-4)
    with pytest.raises(ConfigError, match="0 .. 11"):
        plots.logit_gradients(gradients, samples=[12])
    with pytest.raises(UnknownNameError):
        plots.logit_gradients(gradients, student="teacher")
    lines = [t for t in plots.logits_over_epochs(history).data if t.name == "CMKD"]
    np.testing.assert_allclose(lines[0].y, history.kd[2].mean(axis=1), atol=1e-4)
    with pytest.raises(UnknownNameError):
        plots.logits_over_epochs(history, show="medians")

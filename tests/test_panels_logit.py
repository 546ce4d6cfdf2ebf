"""LogitPanel on a small trained study, and the figures it draws. No browser."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdlab
from kdlab import losses
from kdlab.panels import AttentionPanel, LogitPanel, Shared
from kdlab.probes.gradients import closed_gradients
from kdlab.probes.logits import LogitDecomposition
from kdlab.probes.result import load_result
from tests.panels_hands import ask, choose, control, opened, options, same_figure, until
from tests.small_study import run_to, small

Make = Callable[..., LogitPanel]
VIEWS = ("answers", "parts", "sweep", "epochs", "gradients", "classes", "dark")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> kdlab.Study:
    folder = tmp_path_factory.mktemp("answered")
    students = {"alone": "ce", "KD": "kd", "SKD": "skd"}
    return small(folder, students=students, seeds=2, keep=[1], snapshots=[1, 2, 3]).fit(progress=False)


@pytest.fixture
def make(study: kdlab.Study) -> Iterator[Make]:
    with opened(LogitPanel, study) as panel:
        yield panel


def logits(study: kdlab.Study, name: str, epoch: int = 3, seed: int = 1) -> np.ndarray:
    rows = np.flatnonzero(~study.probe_set.fit)
    return np.asarray(study.snapshot(name, epoch, seed).logits, dtype=np.float64)[rows]


def labels(study: kdlab.Study) -> np.ndarray:
    return np.asarray(study.probe_set.labels)[~study.probe_set.fit]


def softmax(z: np.ndarray, tau: float) -> np.ndarray:
    e = np.exp((z - z.max(-1, keepdims=True)) / tau)
    return e / e.sum(-1, keepdims=True)


def heights(panel: LogitPanel) -> dict[str, np.ndarray]:
    assert panel.fig is not None
    return {trace.name: np.asarray(trace.y, dtype=float) for trace in panel.fig.data}


def taken(panel: LogitPanel, place: int | None, tau: float, seed: int = 1, epoch: int = 3) -> Any:
    """KD's parts by the losses of training: (3 students, pictures)."""
    own = np.stack([logits(panel.study, n, epoch, seed) for n in ("alone", "KD", "SKD")])
    chosen = slice(None) if place is None else slice(place, place + 1)
    theirs, y = logits(panel.study, "resnet8", epoch, seed)[chosen], labels(panel.study)[chosen]
    return [
        losses.decompose(torch.from_numpy(o[chosen]), torch.from_numpy(theirs), torch.from_numpy(y), tau)
        for o in own
    ]


# ---- answers and temperature ---------------------------------------------------------------------------


def test_bars_are_the_softmax_of_the_logits_at_the_temperature(study: kdlab.Study, make: Make) -> None:
    panel = make()
    measured = len(panel.jobs._kept)
    for tau, place in ((4.0, 0), (1.0, 7), (16.0, 7)):
        choose(panel, temperature=tau, sample=place)
        order = np.argsort(-logits(study, "resnet8")[place], kind="stable")
        found = heights(panel)
        assert list(found) == ["resnet8 (teacher)", "alone", "KD", "SKD"]
        for name in ("resnet8", "alone", "KD", "SKD"):
            shown = found["resnet8 (teacher)" if name == "resnet8" else name]
            np.testing.assert_allclose(shown, softmax(logits(study, name)[place], tau)[order], atol=1e-5)
        names = list(panel.fig.layout.xaxis.ticktext)
        assert names[list(order).index(labels(study)[place])].endswith("★")
        share = softmax(logits(study, "resnet8")[place], tau)[labels(study)[place]]
        assert f"gives the true class {100 * share:.0f} %" in panel.live["said"]
    assert len(panel.jobs._kept) == measured, "a temperature only draws anew"
    choose(panel, log=True)
    assert panel.fig.layout.yaxis.type == "log" and min(heights(panel)["KD"]) >= 1e-4


def test_of_all_pictures_places_are_ranks(study: kdlab.Study, make: Make) -> None:
    panel = make()
    choose(panel, unit="pool", temperature=2.0)
    y, theirs = labels(study), logits(study, "resnet8")
    rows = np.arange(len(y))
    sure = softmax(logits(study, "KD"), 2.0)
    ranked = np.where(np.arange(10) == y[:, None], np.inf, theirs)
    order = np.argsort(-ranked, axis=1, kind="stable")
    np.testing.assert_allclose(heights(panel)["KD"], sure[rows[:, None], order].mean(axis=0), atol=1e-5)
    assert panel.fig.layout.xaxis.ticktext[0] == "true class ★"
    assert f"Means over all {len(y)} evaluation pictures" in panel.live["said"]


def test_parts_add_up_to_kd_as_in_training(study: kdlab.Study, make: Make) -> None:
    panel = make()
    for unit, place in (("one", 5), ("pool", None)):
        choose(panel, view="parts", sample=5, unit=unit, temperature=3.0)
        wanted = taken(panel, place, 3.0)
        bars = {trace.name: np.asarray(trace.x) for trace in panel.fig.data if trace.type == "bar"}
        tckd, product = (bars[n] for n in ("true class (TCKD)", "other classes (weight × NCKD)"))
        np.testing.assert_allclose(tckd, [p.tckd.mean() for p in wanted], atol=1e-5)
        np.testing.assert_allclose(tckd + product, [p.kd.mean() for p in wanted], atol=1e-5)
        text = next(trace.text for trace in panel.fig.data if trace.text is not None)
        assert text[1].startswith(f" KD {float(wanted[1].kd.mean()):.3g} = ")
        assert f"KD {float(wanted[1].kd.mean()):.2f} (" in panel.live["said"]
    own = taken(panel, 5, 3.0)[1]
    choose(panel, unit="one")
    assert (
        f"+ {float(own.weight):.2f} × {float(own.nckd):.3g}"
        in [t for trace in panel.fig.data if trace.text is not None for t in trace.text][1]
    )


def test_the_share_of_the_true_class_at_every_temperature(make: Make) -> None:
    panel = make()
    choose(panel, view="sweep", sample=3, temperature=5.6)
    shown = {t.name: (np.asarray(t.x), np.asarray(t.y)) for t in panel.fig.data if t.xaxis == "x"}
    for tau, share in zip(*shown["KD"], strict=True):
        part = taken(panel, 3, float(tau))[1]
        assert share == pytest.approx(100 * float(part.tckd / part.kd), abs=0.01)
    lines = [shape.x0 for shape in panel.fig.layout.shapes if shape.x0 == shape.x1]
    assert set(lines) == {5.6}, "the chosen temperature is marked"


def test_curves_over_the_epochs(study: kdlab.Study, make: Make) -> None:
    panel = make()
    choose(panel, view="epochs", sample=8, temperature=2.0, seed=0)
    y = labels(study)[8]
    curves = {t.name: t for t in panel.fig.data if t.xaxis == "x"}
    wanted = [softmax(logits(study, "KD", e, 0)[8], 2.0)[y] for e in (0, 1, 2, 3)]
    np.testing.assert_allclose(curves["KD"].y, wanted, atol=1e-5)
    theirs = softmax(logits(study, "resnet8", 3, 0)[8], 2.0)[y]
    np.testing.assert_allclose(curves["resnet8 (teacher)"].y, [theirs] * 2, atol=1e-5)
    tckd = next(t for t in panel.fig.data if t.name == "KD" and t.xaxis == "x2")
    np.testing.assert_allclose(
        tckd.y, [float(taken(panel, 8, 2.0, 0, e)[1].tckd) for e in (0, 1, 2, 3)], atol=1e-5
    )
    assert f"KD from {100 * wanted[0]:.0f} % to {100 * wanted[-1]:.0f} %" in panel.live["said"]
    assert control(panel, "epoch")["hidden"]
    assert "classes" not in options(panel, "curve"), "one picture has one class"
    choose(panel, unit="pool", curve="classes")
    assert panel.fig.data[0].type == "heatmap" and same_figure(panel)


# ---- gradients -------------------------------------------------------------------------------------------


def test_what_each_loss_would_do_to_the_picture(study: kdlab.Study, make: Make) -> None:
    panel = make()
    choose(panel, view="gradients", student="KD", sample=4, temperature=2.0)
    result = panel.result
    assert result.students == ("KD",) and result.temperature == 2.0
    own, theirs, y = logits(study, "KD"), logits(study, "resnet8"), labels(study)
    parts = closed_gradients(own[4:5], theirs[4:5], y[4:5], 2.0)
    wanted = {
        "ce": parts["ce"],
        "kd": parts["kd"],
        "dkd": parts["kd: true class"] + 8 * parts["nckd"],
        "dckd": parts["kd: true class"] * (softmax(theirs[4], 2.0)[y[4]] > softmax(own[4], 2.0)[y[4]]),
    }
    pulls = {t.name: np.asarray(t.customdata) for t in panel.fig.data if t.xaxis == "x2"}
    for loss, gradient in wanted.items():
        np.testing.assert_allclose(pulls[loss], -gradient[0], atol=1e-5, err_msg=loss)
    assert set(pulls) == {
        "ce", "kd", "kd: true class", "kd: other classes", "dkd", "nkd", "dckd", "skd: softened",
        "skd: learnt by SKD",
    }  # fmt: skip
    z = torch.from_numpy(own[4:5]).requires_grad_(True)
    losses.nkd(z, torch.from_numpy(theirs[4:5]), torch.from_numpy(y[4:5]), temperature=2.0).backward()
    np.testing.assert_allclose(pulls["nkd"], -z.grad[0].numpy(), atol=1e-5)
    said = panel.live["said"]
    assert "ce" in said.split("would raise it")[0] and "Nothing is trained here" in said
    assert "reconstructed from the abstract" in said
    assert "KD" in said.split("Over")[0] and f"Over {len(y)} pictures" in said


def test_the_simplifier_is_there_where_its_weights_are(make: Make) -> None:
    panel = make()
    choose(panel, view="gradients", epoch=2)
    assert "skd: softened" in panel.result.losses
    assert not any("learnt" in loss for loss in panel.result.losses), "no weights of epoch 2 were kept"
    choose(panel, epoch=1)
    assert panel.result.losses[-1] == "skd: learnt by SKD" and same_figure(panel)


# ---- classes ---------------------------------------------------------------------------------------------


def test_class_by_class_and_which_wrong_classes(study: kdlab.Study, make: Make) -> None:
    panel = make()
    choose(panel, view="classes", temperature=2.0)
    parts, y = taken(panel, None, 2.0)[1], labels(study)
    own = next(t for t in panel.fig.data if t.name == "KD" and t.yaxis == "y")
    wanted = [float(parts.tckd[torch.from_numpy(y == c)].mean()) for c in np.unique(y)]
    np.testing.assert_allclose(own.y, wanted, atol=1e-4)
    choose(panel, view="dark")
    sure = softmax(logits(study, "resnet8"), 2.0)
    sure[np.arange(len(y)), y] = 0
    sure /= sure.sum(axis=1, keepdims=True)
    table = np.array([sure[y == c].mean(axis=0) for c in range(10)])
    shown = np.asarray(panel.fig.data[0].z, dtype=float)
    off = ~np.eye(10, dtype=bool)
    np.testing.assert_allclose(shown[off], table[off], atol=1e-4)
    choose(panel, pictures="class:3")
    assert f"{(y == 3).sum()} pictures of 3" in panel.live["said"]


# ---- Python, files, hints ----------------------------------------------------------------------------------


def test_the_lines_of_python_give_the_figure(study: kdlab.Study, make: Make) -> None:
    shared = Shared()
    panel = make(shared=shared)
    shared.select([2, 5, 11])
    theirs, y = logits(study, "resnet8").argmax(axis=1), labels(study)
    assert (logits(study, "alone").argmax(axis=1) != y).any(), "the small study makes mistakes"
    assert (logits(study, "KD").argmax(axis=1) != theirs).any()
    kinds = dict(
        zip(VIEWS, ("wrong:alone", "differ:KD", "chosen", "class:3", "wrong:alone", "all", "differ:KD"))
    )
    for view, kind in kinds.items():
        choose(panel, temperature=2.5, view=view, unit="pool", pictures=kind)
        assert not panel.live["hint"] and not panel.live["errors"]
        assert same_figure(panel), view
        assert len(panel.live["code"]) < 900
    choose(panel, students=["KD"], epoch=1, seed=0)
    for view in VIEWS[:5]:
        choose(panel, view=view, unit="one")
        assert not panel.live["hint"] and same_figure(panel), view


def test_files_hold_what_is_shown(make: Make, tmp_path: Path) -> None:
    panel = make()
    sent: list[tuple[Any, Any]] = []
    panel.send = lambda content, buffers=None: sent.append((content, buffers))  # type: ignore[method-assign]
    choose(panel, view="parts", sample=6, temperature=2.0)
    ask(panel, do="export", format="csv")
    ask(panel, do="export", format="npz")
    table = gzip.decompress(sent[0][1][0]).decode().splitlines()
    assert len(table) == 4 and table[0].startswith("network,index,label")
    (tmp_path / "one.npz").write_bytes(gzip.decompress(sent[1][1][0]))
    again = load_result(tmp_path / "one.npz")
    assert isinstance(again, LogitDecomposition) and again.temperature == 2.0 and again.kd.shape == (3, 1)
    np.testing.assert_allclose(again.kd[:, 0], [float(p.kd) for p in taken(panel, 6, 2.0)])


def test_without_a_teacher_it_says_what_is_missing(tmp_path: Path, make: Make) -> None:
    study = small(tmp_path, students={"alone": "ce"}, teacher=None, epochs=1)
    panel = make(study)
    assert "Nothing has been trained yet" in panel.live["hint"]
    study.fit(progress=False)
    for view in VIEWS:
        choose(panel, view=view)
        assert "has no teacher" in panel.live["hint"] and "Study(teacher=...)" in panel.live["hint"]
    assert not panel.live["errors"] and panel.figure == ""


def test_no_picture_of_a_kind_is_a_hint(make: Make) -> None:
    panel = make()
    teacher = panel.shown("resnet8")
    assert teacher is not None
    panel._seen["resnet8", 0, 0] = replace(teacher, said=panel.labels)  # one without mistakes
    choose(panel, pictures="wrong:resnet8", unit="pool", view="parts")
    assert "0 pictures that resnet8 has wrong" in panel.live["hint"] and not panel.live["errors"]
    ask(panel, do="control", name="next", value=True)
    assert "no picture of this kind" in panel.live["errors"][0]


def test_two_classes_two_teachers_and_wide_pictures_in_colour(tmp_path: Path, make: Make) -> None:
    generator = np.random.default_rng(0)
    y = np.arange(160) % 2
    lighter = (120 * y)[:, None, None, None] * (np.arange(12) > 5)
    x = (generator.integers(0, 90, (160, 3, 8, 12)) + lighter).astype(np.uint8)
    study = small(
        tmp_path,
        data=(x, y, x[:80], y[:80]),
        teacher=["resnet8", "resnet14"],
        epochs=1,
        labels_per_class=None,
    ).fit(progress=False)
    panel = make(study)
    for view in VIEWS[:-1]:
        choose(panel, view=view)
        assert not panel.live["hint"] and not panel.live["errors"] and same_figure(panel), view
    choose(panel, view="dark")
    assert "one wrong class" in panel.live["hint"]
    wall = AttentionPanel(study, in_cell=True)
    try:
        assert "resnet14" in wall.figure and not wall.live["hint"]
        assert wall.fig.layout.images[0].sizey == pytest.approx(8 / 12)
    finally:
        wall.close()


def test_a_panel_follows_a_training(tmp_path: Path, make: Make) -> None:
    study = small(tmp_path)
    panel = make(study, in_cell=False, hz=50)
    until(lambda: "Nothing has been trained" in panel.live["hint"])
    run_to(study, study.steps_per_epoch + 1)
    until(lambda: "After epoch 1" in panel.live["said"])
    choose(panel, view="gradients")
    until(lambda: "Nothing is trained here" in panel.live["said"])
    study.play()
    study.wait()
    until(lambda: "After epoch 3" in panel.live["said"])
    assert not panel.live["errors"]

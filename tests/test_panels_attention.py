"""AttentionPanel and the choice of pictures, on a small trained study. No browser."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdlab
from kdlab import probes
from kdlab.panels import AttentionPanel, Shared
from kdlab.plots.map_reading import MapReading
from kdlab.probes.agreement import TEACHER, UNTRAINED
from kdlab.probes.result import load_result
from tests.panels_hands import ask, choose, control, opened, options, same_figure, until
from tests.small_study import run_to, small

Make = Callable[..., AttentionPanel]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> kdlab.Study:
    """Snapshots of epochs 0, 1, 2 and 3; weights of 0, 1 and 3."""
    folder = tmp_path_factory.mktemp("looked-at")
    return small(folder, seeds=2, keep=[1], snapshots=[1, 2, 3]).fit(progress=False)


@pytest.fixture
def make(study: kdlab.Study) -> Iterator[Make]:
    with opened(AttentionPanel, study) as panel:
        yield panel


def maps(panel: AttentionPanel) -> list[np.ndarray]:
    assert panel.fig is not None
    return [np.asarray(trace.z, dtype=float) for trace in panel.fig.data]


def evaluation(study: kdlab.Study) -> np.ndarray:
    return np.flatnonzero(~study.probe_set.fit)


# ---- what is shown ---------------------------------------------------------------------------------------


def test_activation_maps_of_one_picture_at_every_stage(study: kdlab.Study, make: Make) -> None:
    panel = make()
    result = probes.attention_maps(study, epochs=[0, 3], seed=1)
    wanted = [
        result.relative(name, 3, stage)[0]
        for name in ("resnet8", "alone", "KD")
        for stage in result.stages[name]
    ]
    assert len(maps(panel)) == 9
    for found, own in zip(maps(panel), wanted, strict=True):
        np.testing.assert_allclose(found, own, atol=6e-4)
    assert len({trace.coloraxis for trace in panel.fig.data}) == 1, "one colour scale"
    read = MapReading.of(result)
    told = {
        name: np.mean([read.score(name, depth, "spearman")[0] for depth in read.depths])
        for name in ("alone", "KD")
    }
    for name, value in told.items():
        assert f"{name} {value:.2f}".replace("-", "−") in panel.live["said"]
    before = np.mean([result.scores["KD", 0, s, "spearman"][0] for s in result.stages["KD"]])
    assert f"before training {before:.2f}".replace("-", "−") in panel.live["said"]
    assert "epoch 3, seed 1" in panel.live["said"] and "not evidence of equal reasoning" in panel.live["said"]
    choose(panel, control=False)
    assert "before training" not in panel.live["said"]


@pytest.mark.parametrize(
    ("method", "layout", "show", "sample"),
    [
        ("attention", "picture", "maps", 3),
        ("attention", "pictures", "difference", 21),
        ("gradcam", "pictures", "difference", 21),
        ("integrated_gradients", "picture", "difference", 21),
        ("occlusion", "picture", "maps", 2),
    ],
)
def test_the_lines_of_python_give_the_figure(
    make: Make, method: str, layout: str, show: str, sample: int
) -> None:
    panel = make(active=False)
    panel.values |= dict(layout=layout, show=show, opacity=0.5, control=method == "gradcam", method=method)
    panel.active = True
    choose(panel, sample=sample, students=["KD"], seed=0)
    assert panel.live["hint"] == "" and not panel.live["errors"]
    assert same_figure(panel)
    assert "seed 0" in panel.live["said"] and "students=['KD']" in panel.live["code"]


def test_grad_cam_at_the_stages_with_its_control(study: kdlab.Study, make: Make) -> None:
    panel = make()
    choose(panel, method="gradcam", sample=5)
    part = probes.attributions(study, range(8), method="gradcam", stage="layer2", epoch=3, seed=1)
    np.testing.assert_allclose(maps(panel)[4], part.relative("alone", 3)[5], atol=6e-4)
    whole = panel.result
    values = [part.agreement.scores["alone", 3, UNTRAINED, "spearman"] for part in whole.parts.values()]
    both = [part.agreement.scores["KD", 3, UNTRAINED, "spearman"] for part in whole.parts.values()]
    own = np.array([[v[5] for v in values], [v[5] for v in both]])
    own = own[np.isfinite(own).any(axis=1)]
    assert (
        f"an untrained network {np.nanmean(own, axis=1).mean():.2f}".replace("-", "−") in panel.live["said"]
    )
    choose(panel, **{"class": "teacher"})
    np.testing.assert_array_equal(panel.result.deepest.asked, panel.result.deepest.predicted["resnet8", 3])


def test_a_difference_is_student_less_teacher(study: kdlab.Study, make: Make) -> None:
    panel = make()
    choose(panel, show="difference")
    result = probes.attention_maps(study, epochs=3, seed=1)
    assert len(maps(panel)) == 6
    for found, (name, stage) in zip(
        maps(panel), [(n, s) for n in ("alone", "KD") for s in result.stages[n]], strict=True
    ):
        theirs = result.relative("resnet8", 3, stage)[0]
        np.testing.assert_allclose(found, result.relative(name, 3, stage)[0] - theirs, atol=1e-3)
    scale = panel.fig.layout.coloraxis
    assert scale.cmin == -scale.cmax
    assert "student minus teacher" in panel.live["said"]


def test_opacity_and_pictures_with_kept_maps_only_draw_anew(make: Make) -> None:
    panel = make()
    measured = len(panel.jobs._kept)
    choose(panel, opacity=0.3)
    assert {trace.opacity for trace in panel.fig.data} == {0.3}
    choose(panel, sample=7, show="difference")
    choose(panel, layout="pictures", stage=-2)
    assert len(panel.jobs._kept) == measured and not panel.live["errors"]


# ---- epochs ----------------------------------------------------------------------------------------------


def test_epochs_without_weights_are_not_offered_and_it_is_told_why(make: Make) -> None:
    panel = make()
    assert list(options(panel, "epoch")) == [0, 1, 2, 3]
    choose(panel, epoch=2)
    assert "after epoch 2" in panel.live["said"]
    choose(panel, method="gradcam")
    assert list(options(panel, "epoch")) == [0, 1, 3]
    assert "none were kept of epoch 2" in panel.live["said"]
    assert "none were kept of epoch 2" in control(panel, "epoch")["title"]
    assert "after epoch 1" in panel.live["said"], "the nearest there is"
    choose(panel, method="attention", sample=30)
    assert list(options(panel, "epoch")) == [0, 1, 3], "no maps of this picture were kept"
    choose(panel, sample=3)
    assert list(options(panel, "epoch")) == [0, 1, 2, 3] and "after epoch 2" in panel.live["said"]


def test_before_training_there_is_a_hint(tmp_path: Path, make: Make) -> None:
    panel = make(small(tmp_path))
    assert "Nothing has been trained yet" in panel.live["hint"] and not panel.live["errors"]
    assert panel.figure == ""
    choose(panel, method="gradcam")
    ask(panel, do="control", name="next", value=True)
    ask(panel, do="export", format="csv")
    assert "nothing to save" in panel.live["errors"][0]


def test_without_a_teacher_there_are_maps_and_no_difference(tmp_path: Path, make: Make) -> None:
    panel = make(small(tmp_path, students={"alone": "ce"}, teacher=None, epochs=1).fit(progress=False))
    assert len(maps(panel)) == 3
    assert control(panel, "show")["hidden"] and control(panel, "control")["hidden"]
    assert "correlation" not in panel.live["said"] and "teacher" not in panel.live["said"]
    choose(panel, show="difference", method="gradcam")
    assert len(maps(panel)) == 3 and not panel.live["hint"]
    assert {"all", "wrong:alone"} <= set(options(panel, "pictures"))
    assert not any(kind.startswith("differ") for kind in options(panel, "pictures"))


def test_a_student_that_came_late_is_left_out_before(tmp_path: Path, make: Make) -> None:
    study = small(tmp_path, epochs=2, keep="all")
    run_to(study, 3)
    study.fork("KD", name="late", method="ce")
    study.play()
    study.wait()
    panel = make(study)
    assert len(maps(panel)) == 12
    choose(panel, epoch=0)
    assert len(maps(panel)) == 9 and "late" not in panel.live["said"] and same_figure(panel)
    choose(panel, students=["late"])
    assert "nothing of late at epoch 0" in panel.live["hint"] and not panel.live["errors"]
    choose(panel, epoch=2)
    assert len(maps(panel)) == 6 and not panel.live["hint"] and "before training" not in panel.live["said"]


def test_a_panel_follows_a_training(tmp_path: Path, make: Make) -> None:
    study = small(tmp_path)
    panel = make(study, in_cell=False, hz=50)
    until(lambda: "Nothing has been trained" in panel.live["hint"])
    run_to(study, study.steps_per_epoch + 1)
    until(lambda: "after epoch 1" in panel.live["said"])
    choose(panel, method="gradcam")
    until(lambda: "Grad-CAM" in panel.live["said"] and not panel.live["work"])
    assert "after epoch 1" in panel.live["said"] and not panel.live["errors"]
    study.play()
    study.wait()
    until(lambda: "after epoch 3" in panel.live["said"])


def test_a_slow_measurement_tells_how_far_it_is_and_ends_when_asked(make: Make) -> None:
    panel = make(in_cell=False, hz=50)
    until(lambda: panel.figure)
    told = set()
    panel.observe(lambda change: told.add(tuple(change["new"]["work"])), "live")
    choose(panel, control=False, method="occlusion")
    until(lambda: "Occlusion" in panel.live["said"])
    shares = sorted(work[1] for work in told if work and work[1])
    assert len(shares) > 3 and 0 < shares[0] < shares[-1] <= 1
    assert any("KD" in str(work[0]) for work in told if work), "it says whose maps are made"
    choose(panel, method="integrated_gradients")
    until(lambda: panel.live["work"] and panel.live["work"][1])
    ask(panel, do="cancel")
    until(lambda: "cancelled" in panel.live["hint"])
    assert "Occlusion" in panel.live["said"], "the last figure stays"
    assert panel.live["work"] == ["", None], "it can be tried again"
    ask(panel, do="retry")
    until(lambda: "Integrated gradients" in panel.live["said"])


# ---- pictures --------------------------------------------------------------------------------------------


def test_pictures_are_chosen_by_class_by_who_is_wrong_and_by_who_differs(
    study: kdlab.Study, make: Make
) -> None:
    panel = make()
    rows = evaluation(study)
    labels = np.asarray(study.probe_set.labels)[rows]
    said = {
        name: study.snapshot(name, 3, 1).logits[rows].argmax(axis=1) for name in ("resnet8", "alone", "KD")
    }
    wanted = {
        "all": np.arange(len(rows)),
        "class:3": np.flatnonzero(labels == 3),
        "wrong:KD": np.flatnonzero(said["KD"] != labels),
        "wrong:resnet8": np.flatnonzero(said["resnet8"] != labels),
        "differ:alone": np.flatnonzero(said["alone"] != said["resnet8"]),
    }
    offered = options(panel, "pictures")
    for kind, places in wanted.items():
        assert offered[kind].endswith(f"({len(places)})"), kind
        choose(panel, pictures=kind)
        assert panel.places().tolist() == places.tolist()
        assert [p["id"] for p in panel.live["pictures"]] == panel.page(40)
        if len(places):
            assert panel.sample() in places and set(p["id"] for p in panel.live["pictures"]) <= set(places)
    choose(panel, pictures="all", epoch=0)
    untrained = study.snapshot("KD", 0, 1).logits[rows].argmax(axis=1)
    assert options(panel, "pictures")["wrong:KD"].endswith(f"({(untrained != labels).sum()})")


def test_buttons_go_round_the_chosen_pictures(study: kdlab.Study, make: Make) -> None:
    panel = make()
    choose(panel, pictures="class:2")
    places = panel.places().tolist()
    seen = [panel.sample()]
    for _ in places:
        ask(panel, do="control", name="next", value=True)
        seen.append(panel.sample())
    assert seen == [*places, places[0]]
    ask(panel, do="control", name="previous", value=True)
    assert panel.sample() == places[-1]
    assert f"Picture {places[-1]}, true class 2" in panel.live["said"]
    choose(panel, sample=10_000)
    assert panel.sample() == len(evaluation(study)) - 1, "there are no more"
    assert same_figure(panel)


def test_what_is_selected_elsewhere_can_be_chosen_here(make: Make) -> None:
    shared = Shared()
    panel = make(shared=shared)
    assert "chosen" not in options(panel, "pictures")
    shared.select([4, 17, 9])
    assert options(panel, "pictures")["chosen"].endswith("(3)") and panel.sample() == 4
    choose(panel, pictures="chosen", layout="pictures")
    assert [p["id"] for p in panel.live["pictures"]] == [4, 9, 17]
    assert len(maps(panel)) == 9 and "3 of 3 selected pictures" in panel.live["said"] and same_figure(panel)
    shared.select([])
    assert panel.kind() == "all", "nothing is selected any more"
    assert not panel.live["errors"]


def test_a_click_on_a_map_or_a_thumbnail_puts_the_picture_under_the_microscope(make: Make) -> None:
    shared = Shared()
    panel = make(shared=shared)
    choose(panel, layout="pictures", sample=12)
    place = panel.page(6)[1]
    ask(panel, do="click", points=[[3, 0]])  # the first map of the second picture
    assert shared.sample == place
    ask(panel, do="picture", place=2)
    assert shared.sample == 2 and [p["id"] for p in panel.live["pictures"] if p["chosen"]] == [2]
    assert not panel.live["errors"]


def test_pictures_say_who_is_right(study: kdlab.Study, make: Make) -> None:
    panel = make()
    row, label = evaluation(study)[6], int(study.probe_set.labels[evaluation(study)[6]])
    right, wrong = [], []
    for name, words in (("resnet8", "the teacher"), ("alone", "alone"), ("KD", "KD")):
        logits = torch.as_tensor(study.snapshot(name, 3, 1).logits[row]).double()
        sure, said = logits.softmax(0).max(0)
        text = (
            f"{words} says {int(said)} ({100 * sure:.0f} %"
            if said != label
            else f"{words} ({100 * sure:.0f} %"
        )
        (right if said == label else wrong).append(text)
    told = panel.told(6)
    assert told.startswith(f"Picture 6, true class {label}.")
    head, _, tail = told.partition("Wrong:")
    assert all(text in head for text in right) and all(text in tail for text in wrong)


# ---- files -----------------------------------------------------------------------------------------------


def test_files_hold_the_maps_and_their_agreement(study: kdlab.Study, make: Make, tmp_path: Path) -> None:
    panel = make()
    sent: list[tuple[Any, Any]] = []
    panel.send = lambda content, buffers=None: sent.append((content, buffers))  # type: ignore[method-assign]
    choose(panel, method="gradcam", control=False)
    for kind in ("csv", "npz", "html"):
        ask(panel, do="export", format=kind)
    assert [c["name"].rpartition(".")[2] for c, _ in sent] == ["csv", "npz", "html"] and not panel.live[
        "errors"
    ]
    table = gzip.decompress(sent[0][1][0]).decode()
    assert "depth" in table.splitlines()[0] and "layer2" in table
    (tmp_path / "maps.npz").write_bytes(gzip.decompress(sent[1][1][0]))
    again = load_result(tmp_path / "maps.npz")
    key = ("KD", 3, TEACHER, "spearman")
    np.testing.assert_array_equal(
        again.parts[-2].agreement.scores[key], panel.result.parts[-2].agreement.scores[key]
    )

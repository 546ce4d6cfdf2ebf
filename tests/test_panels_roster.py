"""Students that come, fork and go in a StudyPanel; without a browser, messages as the page sends them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panels_fake import FakeStudy
from test_panels_study import ask, make_panel, shown_step, until

import kdlab
from kdlab.panels import StudyPanel, desk_state, marks, wording
from kdlab.panels.standing import Standings
from kdlab.plots import theme
from tests.small_study import small

__all__ = ["make_panel"]  # a fixture


def trace(panel: StudyPanel, name: str, right: bool = False) -> Any:
    """A student's loss curve, or its accuracy curve (right)."""
    found = [t for t in panel.curves.figure.fig.data if t.legendgroup == name and (t.xaxis == "x2") == right]
    return found[0] if found else None


def names(panel: StudyPanel) -> list[str]:
    return [student["name"] for student in panel.desk.spec["students"]]


def done(panel: StudyPanel, do: str, **rest: Any) -> bool:
    """Ask as the page does, and wait for how it ended."""
    number = str(ask(panel, do, **rest))
    return until(lambda: number in panel.desk.live["outcomes"] and [panel.desk.live["outcomes"][number]])[0]


# ---- fork, add, drop -------------------------------------------------------------------------------


def test_a_fork_appears_everywhere_and_changes_nobodys_look(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(4000, delay=0.001)
    panel = make_panel(study)
    ask(panel, "play")
    until(lambda: shown_step(panel) > 45)
    before = {name: (trace(panel, name).line.color, trace(panel, name).line.dash) for name in study.names}
    assert done(panel, "fork", student="KD", method="srrl", name=None, at_epoch=None)
    assert until(lambda: names(panel) == ["alone", "KD", "KD, then SRRL"] and panel.desk.live["code"]) == (
        'study.fork("KD", method="srrl")'
    )
    new = panel.desk.spec["students"][2]
    mark = study.record.marks()[0]
    assert new["origin"] == f"forked from KD in epoch {mark['epoch']}" and "sr" in new["terms"]
    until(lambda: "KD, then SRRL" in panel.desk.live["cells"])
    assert ["term/sr", "sr: value"] in panel.desk.spec["curves"]
    fork = until(lambda: trace(panel, "KD, then SRRL"))
    until(lambda: len(fork.x) > 5)
    assert fork.x[0] == mark["step"] + 1, "its own curve begins at the fork"
    assert {name: (trace(panel, name).line.color, trace(panel, name).line.dash) for name in before} == before
    assert fork.line.color not in {color for color, _ in before.values()}
    assert new["look"]["color"] == fork.line.color
    until(lambda: len(panel.embedding.figure.fig.data) == 4 + 4)  # three networks and a fork, four classes
    until(lambda: len(panel.embedding.figure.fig.data[-1].x) == 40)
    assert "KD, then SRRL" in panel.embedding.figure.fig.layout.annotations[3].text
    domains = [panel.embedding.figure.fig.layout[f"xaxis{n}"].domain for n in ("", 2, 3, 4)]
    assert all(a[1] < b[0] for a, b in pairwise(domains)), "plots do not lie over each other"


def test_a_ring_stands_on_the_parents_curve(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(4000, delay=0.001)
    panel = make_panel(study)
    ask(panel, "play")
    until(lambda: shown_step(panel) > 90)
    assert done(panel, "fork", student="KD", at_epoch=2, name="late")
    assert panel.desk.live["code"] == 'study.fork("KD", at_epoch=2, name="late")'
    left, right = [t for t in panel.curves.figure.fig.data if t.name == "forks"]
    until(lambda: len(left.x) and len(right.x))
    _, losses = study.record.series("KD", "loss")
    assert left.x[0] == 40 and left.y[0] == pytest.approx(losses[39])
    assert right.x[0] == 2 and right.y[0] == pytest.approx(
        study.record.epoch_series("KD", "val_accuracy")[1][1]
    )
    assert left.marker.color[0] == theme.of_study(study)["late"].color
    assert "late: forked from KD after step 40" in left.customdata[0]
    assert any("late: forked from KD" in note.text for note in panel.curves.figure.fig.layout.annotations)


def test_a_student_is_added_and_one_is_dropped(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(4000, delay=0.001)
    panel = make_panel(study)
    ask(panel, "play")
    until(lambda: shown_step(panel) > 30)
    assert (
        done(panel, "add", name="third", method="kd")
        and panel.desk.live["code"] == 'study.add("third", "kd")'
    )
    until(lambda: "third" in panel.desk.live["students"])
    assert panel.desk.live["students"]["third"]["drop"] is True
    assert done(panel, "drop", student="alone") and panel.desk.live["code"] == 'study.drop("alone")'
    state = until(
        lambda: (
            panel.desk.live["students"]["alone"]["kind"] == "dropped" and panel.desk.live["students"]["alone"]
        )
    )
    mark = study.record.marks()[-1]
    assert (
        state["badge"] == f"dropped in epoch {mark['epoch']}" and not state["editable"] and not state["drop"]
    )
    assert state["why"] in panel.desk.live["notes"] and "what it has done is kept" in state["why"]
    until(lambda: trace(panel, "alone").opacity < 1)
    assert trace(panel, "alone", right=True).name == "alone (dropped)" and len(trace(panel, "alone").x)
    assert trace(panel, "KD").opacity == 1.0
    until(lambda: "(dropped)" in panel.embedding.figure.fig.layout.annotations[1].text)
    texts = [note.text for note in panel.curves.figure.fig.layout.annotations]
    assert "third: added" in texts and "alone: dropped" in texts


def test_a_guard_that_stops_a_student_is_told(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(4000, delay=0.001)
    study.fault_at = {"KD": 25}
    panel = make_panel(study)
    ask(panel, "play")
    until(lambda: panel.desk.live["notes"])
    state = until(
        lambda: panel.desk.live["students"]["KD"]["kind"] == "failed" and panel.desk.live["students"]["KD"]
    )
    assert state["badge"] == "stopped: gradient of its loss not finite, step 26"
    assert panel.desk.live["notes"] == [state["why"]] and state["why"].startswith("Student 'KD' was stopped")
    assert not panel.desk.live["students"]["alone"]["drop"], "the last one left cannot be dropped"
    until(lambda: trace(panel, "KD", right=True).name == "KD (stopped)")
    assert not panel.desk.live["errors"] and study.state == "training"


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"do": "add", "name": "KD", "method": "kd"}, "There is a network named 'KD' already"),
        ({"do": "add", "name": "x", "method": "kdd"}, "did you mean 'kd'"),
        ({"do": "fork", "student": "KD"}, "has not been trained yet"),
        ({"do": "fork", "student": "KD", "name": "alone", "at_epoch": 1}, "already; choose another name"),
    ],
)
def test_what_is_refused_shows_as_one_sentence(
    make_panel: Callable[..., StudyPanel], message: dict[str, Any], says: str
) -> None:
    study = FakeStudy()
    panel = make_panel(study)
    message = dict(message)
    assert not done(panel, message.pop("do"), **message)
    (error,) = until(lambda: panel.desk.live["errors"])
    assert says in error and "Error" not in error.split(":")[0]
    assert not study.record.commands and study.names == ["alone", "KD"]


def test_the_last_student_cannot_be_dropped(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(4000)
    panel = make_panel(study)
    assert done(panel, "drop", student="alone") and not done(panel, "drop", student="KD")
    assert "only student left" in until(lambda: panel.desk.live["errors"])[0]


def test_the_gradient_norm_can_be_chosen(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(100, delay=0.0)
    panel = make_panel(study)
    ask(panel, "play")
    until(lambda: panel.desk.live["state"] == "finished")
    assert ["grad_norm", "norm of the gradient"] in panel.desk.spec["curves"]
    panel.desk.curve = "grad_norm"
    wanted = study.record.series("KD", "grad_norm")[1]
    until(lambda: len(trace(panel, "KD").y) == len(wanted) and np.allclose(trace(panel, "KD").y, wanted))
    until(lambda: "norm of the gradient" in panel.curves.figure.fig.layout.annotations[0].text)
    assert panel.curves.figure.fig.layout.yaxis.type == "log"


# ---- pure ------------------------------------------------------------------------------------------


def test_python_of_the_actions_says_the_same() -> None:
    calls: list[Any] = []

    class Study:
        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: calls.append((name, args, kwargs))

    for text in (
        wording.fork_code('the "best"', at_epoch=3, name="x", method="kd"),
        wording.fork_code("KD"),
        wording.add_code("new", "cmkd"),
        wording.drop_code("KD"),
    ):
        eval(text, {"study": Study()})
    assert calls == [
        ("fork", ('the "best"',), {"at_epoch": 3, "name": "x", "method": "kd"}),
        ("fork", ("KD",), {}),
        ("add", ("new", "cmkd"), {}),
        ("drop", ("KD",), {}),
    ]


def test_only_methods_that_can_work_are_offered() -> None:
    every = [name for name, _ in desk_state.method_choices(teacher=True)]
    assert every == kdlab.methods.names()
    alone = [name for name, _ in desk_state.method_choices(teacher=False)]
    assert "ce" in alone and "kd" not in alone


def test_students_keep_their_colours_when_many_come() -> None:
    few, many = theme.styles(["a", "b", "c"]), theme.styles([*"abcdefghijklmnop"])
    assert all(many[name] == few[name] for name in few)
    assert len({(style.color, style.dash, style.symbol) for style in many.values()}) == 16
    assert len({style.color for style in list(many.values())[:10]}) == 10


def test_who_catches_up_is_told() -> None:
    progress = dict(phase="students", seed=0, epoch=3, epochs=30, step=637, steps=3000)
    text = wording.progress_text("training", progress, behind=["late"])
    assert "late catches up" in text
    assert "a and b catch up" in wording.progress_text("paused", progress, behind=["a", "b"])


def test_a_fork_point_lies_on_what_is_drawn() -> None:
    study = FakeStudy()
    study.step_number = 50
    study.fork("KD", name="f").result(1)
    x = np.arange(1, 101, dtype=np.float32)
    ((name, at, value, text),) = marks.fork_points(study, {"KD": (x, 2 * x)})
    assert (name, at, value) == ("f", 50.0, 100.0) and "after step 50" in text
    assert marks.fork_points(study, {"KD": (x[:30], x[:30])}) == [], "the parent has not come there"
    gap = np.where((x > 45) & (x < 55), np.nan, x)
    assert marks.fork_points(study, {"KD": (x, gap)}) == [], "nothing is drawn there"
    ((_, at, value, _),) = marks.fork_points(study, {"KD": (np.arange(1.0, 6), np.arange(1.0, 6))}, 20)
    assert (at, value) == (2.5, 2.5)


# ---- a real study ----------------------------------------------------------------------------------


def test_a_real_study_with_all_of_it(tmp_path: Path, make_panel: Callable[..., StudyPanel]) -> None:
    study = small(
        tmp_path,
        students={"alone": "ce", "KD": "kd", "wild": kdlab.Student("kd", lr=1e18)},
        epochs=4,
    )
    panel = make_panel(study)
    ask(panel, "step", n=4)
    until(lambda: len(study.record.series("KD", "loss")[0]) == 4, 60)
    until(lambda: panel.desk.live["students"]["wild"]["kind"] == "failed")
    assert panel.desk.live["students"]["wild"]["badge"].startswith("stopped: ")
    assert panel.desk.spec["students"][2]["differs"] == "lr 1e+18"
    assert done(panel, "fork", student="KD", method="srrl", name="F")
    assert done(panel, "add", name="late", method="at")
    until(lambda: names(panel) == ["alone", "KD", "wild", "F", "late"])
    assert done(panel, "drop", student="alone")
    ask(panel, "play")
    until(lambda: panel.desk.live["label"] == "finished", 60)
    assert not panel.desk.live["errors"]
    until(lambda: len(trace(panel, "F").x) == 8 and trace(panel, "F").x[0] == 5)
    until(lambda: len(trace(panel, "late").x) == 12)
    assert len(trace(panel, "alone").x) == 4 and len(panel.desk.live["notes"]) == 2
    until(lambda: all(len(t.x) == 40 for t in panel.embedding.figure.fig.data[:4]))
    assert not any(one["drop"] for one in panel.desk.live["students"].values())

    loaded = make_panel(kdlab.load_study(study.folder, device="cpu"))
    until(lambda: len(trace(loaded, "late").x) == 12 and len(trace(loaded, "F").x) == 8)
    live = loaded.desk.live["students"]
    assert [live[name]["kind"] for name in names(loaded)] == ["dropped", "going", "failed", "going", "going"]
    assert done(loaded, "add", name="after the end", method="kd")
    until(lambda: loaded.desk.live["buttons"]["play"])
    ask(loaded, "play")
    until(lambda: loaded.desk.live["label"] == "finished", 60)
    assert len(trace(loaded, "after the end").x) == 12 and not loaded.desk.live["errors"]


def test_a_fork_that_is_planned_and_one_that_is_never_made(tmp_path: Path) -> None:
    study = small(tmp_path, epochs=3)
    study.fork("KD", at_epoch=2, name="f").result(10)
    standing = Standings(study).of()["f"]
    assert (standing.kind, standing.badge) == ("waiting", "to be forked at step 6")
    assert desk_state.live(study, progress={})["students"]["f"]["drop"] is False
    study.drop("KD", at_step=4).result(10)
    study.fit(progress=False)
    assert Standings(study).of()["f"].badge == "never forked"
    assert "'KD' ended before step 6" in Standings(study).of()["f"].why


def test_a_student_left_out_of_a_later_seed_leaves_its_plot_empty(
    tmp_path: Path, make_panel: Callable[..., StudyPanel]
) -> None:
    study = small(tmp_path, epochs=2, seeds=2)
    study.drop("alone", at_step=4).result(10)
    standing = Standings(study).of()["alone"]
    assert standing.kind == "going" and standing.badge == "ends in epoch 2 (seed 0)"
    study.fit(progress=False)
    panel = make_panel(study)
    until(lambda: len(panel.embedding.figure.fig.data[2].x))
    assert len(panel.embedding.figure.fig.data[1].x) == 0, "nothing of it in the seed that is shown"
    assert "not here yet" in panel.embedding.figure.fig.layout.annotations[1].text
    panel.desk.seed = "0"
    until(lambda: len(trace(panel, "alone").x) == 4 and len(trace(panel, "KD").x) == 6)
    assert panel.desk.live["students"]["alone"]["badge"] == "dropped in epoch 2 (seed 0)"
    assert not panel.desk.live["errors"]

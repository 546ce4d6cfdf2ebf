"""StudyPanel without a browser: messages as the page sends them, on a stand-in and on real studies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from panels_fake import FakeStudy, PlainMethod

import kdlab
from kdlab.errors import ConfigError
from kdlab.panels import StudyPanel


@pytest.fixture
def make_panel() -> Iterator[Callable[..., StudyPanel]]:
    """Panels without a page: nobody answers the pulse, so it is taken out."""
    panels: list[StudyPanel] = []

    def make(study: Any) -> StudyPanel:
        panel = StudyPanel(study, hz=50)
        panel.painter._pulse = None
        panels.append(panel)
        return panel

    yield make
    for panel in panels:
        panel.study.stop()
        panel.study.wait(10)
        panel.close()


def ask(panel: StudyPanel, do: str, **rest: Any) -> int:
    """What a gesture on the page sends; returns the number of the message."""
    number = panel._answered + 1
    panel.desk._handle_custom_msg({"do": do, "id": number, **rest}, [])
    return number


def whole(view: Any) -> go.Figure:
    """The figure of a view as it is between two drawings."""
    with view.figure.lock:
        return go.Figure(view.figure.fig)


def same_values(a: Any, b: Any) -> bool:
    return len(a) == len(b) and np.allclose(a, b)


def until(condition: Callable[[], Any], timeout: float = 30.0) -> Any:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def shown_step(panel: StudyPanel) -> int:
    return int(panel.desk.live["progress"]["step"])


# ---- transport -------------------------------------------------------------------------------------


def test_play_pause_step_stop_and_play_again(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(2000, delay=0.001)
    panel = make_panel(study)
    assert panel.desk.live["buttons"] == {"play": True, "pause": False, "step": True, "stop": False}
    ask(panel, "play")
    until(lambda: shown_step(panel) > 20)
    assert panel.desk.live["buttons"] == {"play": False, "pause": True, "step": False, "stop": True}
    ask(panel, "pause")
    until(lambda: panel.desk.live["label"] == "paused")
    time.sleep(0.1)
    held = study.step_number
    time.sleep(0.2)
    assert study.step_number == held == until(lambda: shown_step(panel))
    ask(panel, "step", n=1)
    ask(panel, "step", n=10)
    until(lambda: shown_step(panel) == held + 11)
    time.sleep(0.1)
    assert study.step_number == held + 11
    assert panel.desk.live["code"] == "study.step(10)"
    ask(panel, "stop")
    until(lambda: panel.desk.live["state"] == "stopped")
    assert panel.desk.live["buttons"]["play"] and not panel.desk.live["buttons"]["stop"]
    ask(panel, "play")
    until(lambda: shown_step(panel) > held + 30)


def test_stepping_starts_a_new_study_on_hold(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy()
    panel = make_panel(study)
    ask(panel, "step", n=3)
    until(lambda: shown_step(panel) == 3)
    time.sleep(0.1)
    assert study.step_number == 3 and panel.desk.live["state"] == "paused"


def test_a_request_shows_at_once_even_if_the_study_is_slow(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(2000, delay=3.0)
    panel = make_panel(study)
    ask(panel, "play")
    until(lambda: study.state == "training")
    ask(panel, "stop")
    until(lambda: panel.desk.live["label"] == "stopping…", 2)
    ask(panel, "set", student="KD", term="kd", enabled=False)
    until(lambda: panel.desk.live["cells"]["KD"]["kd"]["enabled"] is False, 2)
    assert study.state == "training", "it has not been done yet"
    until(lambda: panel.desk.live["label"] == "stopped")


def test_the_last_frame_is_painted(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(200, delay=0.0)
    panel = make_panel(study)
    ask(panel, "play")
    until(lambda: panel.desk.live["label"] == "finished" and shown_step(panel) == 200)
    assert panel.desk.live["progress"]["value"] == 1.0
    assert not any(panel.desk.live["buttons"].values())
    until(lambda: len(whole(panel.curves).data[0].x) == 200)
    until(lambda: len(whole(panel.curves).data[1].x) == 10)
    until(lambda: len(whole(panel.embedding).data[0].x) == 40)


def test_python_and_a_second_panel_are_followed(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(2000)
    first, second = make_panel(study), make_panel(study)
    study.play()
    until(lambda: shown_step(first) > 5 and shown_step(second) > 5)
    ask(first, "set", student="KD", term="ce", weight=0.25)
    until(lambda: second.desk.live["cells"]["KD"]["ce"]["weight"] == 0.25)
    study.stop()
    until(lambda: second.desk.live["state"] == "stopped")
    study.play()  # from Python, after the end: the painters wake
    until(lambda: second.desk.live["state"] == "training")


# ---- switches and weights --------------------------------------------------------------------------


def test_switch_and_weight_become_commands_with_their_python(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(2000)
    panel = make_panel(study)
    ask(panel, "play")
    until(lambda: shown_step(panel) > 10)
    ask(panel, "set", student="KD", term="kd", enabled=False)
    until(lambda: len(study.record.commands) == 1)
    until(lambda: panel.desk.live["code"] == 'study.set("KD", "kd", enabled=False)')
    ask(panel, "set", student="KD", term="ce", weight=0.5)
    until(lambda: len(study.record.commands) == 2)
    until(lambda: panel.desk.live["code"] == 'study.set("KD", "ce", weight=0.5)')
    assert [(c["student"], c["term"], c["change"]) for c in study.record.commands] == [
        ("KD", "kd", {"enabled": False}),
        ("KD", "ce", {"weight": 0.5}),
    ]
    cell = until(
        lambda: panel.desk.live["cells"]["KD"]["kd"]["value"] == "off" and panel.desk.live["cells"]["KD"]
    )
    assert cell["kd"]["enabled"] is False and cell["kd"]["share"] == 0.0
    assert cell["ce"]["weight"] == 0.5 and cell["ce"]["share"] == 1.0


def test_a_change_leaves_a_mark_on_the_curves(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(2000)
    panel = make_panel(study)
    ask(panel, "play")
    until(lambda: shown_step(panel) > 50)
    ask(panel, "set", student="KD", term="kd", enabled=False)
    until(lambda: len(shapes := whole(panel.curves).layout.shapes) == 2 and shapes[1].x0 is not None)
    layout = whole(panel.curves).layout
    step = study.record.commands[0]["step"]
    assert layout.shapes[0].x0 == step + 0.5 and layout.shapes[1].x0 == step / study.steps_per_epoch
    assert any("KD: kd" in note.text for note in layout.annotations)
    until(lambda: len(whole(panel.curves).data[2].y) > step + 10)
    loss = whole(panel.curves).data[2]
    assert loss.name == "KD"
    assert loss.y[step] < 0.5 * loss.y[step - 1], "the total falls when a term goes"


def test_what_cannot_be_is_refused_shown_and_dismissed(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy()
    panel = make_panel(study)
    ask(panel, "set", student="KD", term="kd", weight=float("nan"))
    until(lambda: panel.desk.live["errors"])
    assert "must be a finite number" in panel.desk.live["errors"][0]
    assert panel.desk.live["cells"]["KD"]["kd"]["weight"] == 2.0 and not study.record.commands
    ask(panel, "set", student="KD", term="kdd", enabled=True)
    until(lambda: len(panel.desk.live["errors"]) == 2)
    assert "did you mean 'kd'" in panel.desk.live["errors"][1]
    ask(panel, "dismiss", index=0)
    until(lambda: len(panel.desk.live["errors"]) == 1)
    assert "kdd" in panel.desk.live["errors"][0]


def test_nonsense_from_the_page_does_no_harm(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy()
    panel = make_panel(study)
    for content in ("text", None, {}, {"do": 3}, {"do": "explode", "id": 1}, {"do": "close", "id": 2}):
        panel.desk._handle_custom_msg(content, [])
    ask(panel, "set")
    until(lambda: panel.desk.live["errors"])
    assert study.state == "new" and not study.record.commands


# ---- errors ----------------------------------------------------------------------------------------


def test_a_failed_training_is_shown_and_can_be_played_again(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(200, fail_at=30)
    panel = make_panel(study)
    ask(panel, "play")
    until(lambda: panel.desk.live["state"] == "failed")
    until(lambda: any("the loss is not finite" in text for text in panel.desk.live["errors"]))
    assert panel.desk.live["buttons"] == {"play": True, "pause": False, "step": False, "stop": False}
    study.fail_at = None
    ask(panel, "play")
    until(lambda: panel.desk.live["state"] == "finished")


def test_a_broken_view_is_shown_and_the_desk_lives_on(
    make_panel: Callable[..., StudyPanel], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = FakeStudy(2000)
    panel = make_panel(study)
    monkeypatch.setattr(study.record, "epoch_series", lambda *a, **k: 1 / 0)
    ask(panel, "play")
    until(lambda: any("ZeroDivisionError" in text for text in panel.desk.live["errors"]))
    monkeypatch.undo()
    before = shown_step(panel)
    until(lambda: shown_step(panel) > before + 10)
    assert len(panel.desk.live["errors"]) <= 2, "one message, not one a frame"


# ---- threads ---------------------------------------------------------------------------------------


def test_only_the_painter_writes_to_widgets(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(2000, delay=0.0005)
    panel = make_panel(study)
    writers: set[str] = set()
    for widget, name in (
        (panel.desk, "live"),
        (panel.caption, "value"),
        (panel.curves.figure, "spec"),
    ):
        widget.observe(lambda change: writers.add(threading.current_thread().name), name)
    ask(panel, "play")

    def fiddle(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(20):
            ask(panel, "set", student="KD", term="kd", weight=float(rng.uniform(0.1, 3)))
            ask(panel, "set", student="alone", term="ce", enabled=bool(rng.integers(2)))

    threads = [threading.Thread(target=fiddle, args=(i,), name=f"callback-{i}") for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    panel.desk.curve = "term/kd"
    until(lambda: len(study.record.commands) == 160)
    until(lambda: panel.caption.value)
    assert writers == {"kdlab-painter"} and panel.painter.error is None
    term = study.terms("KD")["kd"]
    until(lambda: panel.desk.live["cells"]["KD"]["kd"]["weight"] == term.weight)


def test_live_snapshots_take_a_small_share_of_the_time(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(100_000, delay=0.001)
    measure = study.snapshot

    def slow(name: str, *rest: Any) -> Any:
        if threading.current_thread().name == "kdlab-train":
            time.sleep(0.15)
        return measure(name, *rest)

    study.snapshot = slow  # type: ignore[method-assign]
    panel = make_panel(study)
    ask(panel, "play")
    until(lambda: panel.embedding.snapshots.gap > 1.0)  # two students: 0.3 s each time
    assert 0.3 / 0.08 * 0.8 < panel.embedding.snapshots.gap < 15


def test_nobody_is_held_up_by_a_panel_that_nobody_sees(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(100_000, delay=0.001)
    panel = make_panel(study)
    panel.painter.lags = [float("inf")]  # the page did not answer
    ask(panel, "play")
    until(lambda: study.step_number > 200)
    assert study.snapshots_taken == 0
    panel.painter.lags = [0.02]  # it is back
    until(lambda: study.snapshots_taken > 0)


# ---- choices and looks -----------------------------------------------------------------------------


def test_the_chosen_term_is_drawn(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(100, delay=0.0)
    panel = make_panel(study)
    ask(panel, "play")
    until(lambda: panel.desk.live["state"] == "finished")
    options = [key for key, _ in panel.desk.spec["curves"]]
    assert options == ["loss", "term/ce", "term/kd", "weighted/ce", "weighted/kd", "grad_norm"]
    for key in ("term/kd", "weighted/kd"):
        panel.desk.curve = key
        wanted = study.record.series("KD", key)[1]
        until(lambda w=wanted: same_values(whole(panel.curves).data[2].y, w))
        assert len(whole(panel.curves).data[0].x) == 0, "alone has no such term"
    until(lambda: "kd: value × weight" in whole(panel.curves).layout.annotations[0].text)
    full = list(whole(panel.curves).layout.yaxis2.range)
    panel.desk.zoom = True
    until(lambda: list(whole(panel.curves).layout.yaxis2.range) != full)
    low, high = whole(panel.curves).layout.yaxis2.range
    accuracy = study.record.epoch_series("KD", "val_accuracy")[1]
    assert full == [0.0, 1.02] and 0.5 < low < accuracy[-1] < high
    panel.desk.log = False
    until(lambda: whole(panel.curves).layout.yaxis.type == "linear")


def test_dark_pages_get_the_themes_colours_for_dark_paper(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(100, delay=0.0)
    panel = make_panel(study)
    ask(panel, "play")
    until(lambda: len(whole(panel.embedding).data[0].x) == 40)
    light = (whole(panel.curves).data[0].line.color, whole(panel.embedding).data[0].marker.color[0])
    panel.desk.dark = True
    until(lambda: whole(panel.curves).data[0].line.color != light[0])
    until(lambda: whole(panel.embedding).data[0].marker.color[0] != light[1])


def test_a_page_that_turns_dark_while_it_is_drawn_is_drawn_again(
    make_panel: Callable[..., StudyPanel], monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = make_panel(FakeStudy(20, delay=0.0))
    ask(panel, "play")
    until(lambda: len(whole(panel.embedding).data[0].x) == 40)
    panel.painter.close()
    view, drawn = panel.embedding, []

    def draw(*what: Any) -> None:
        drawn.append(what[-1])
        view.dark = True  # the page says so just now

    monkeypatch.setattr(view.snapshots, "poll", lambda: (None, None))  # nothing new comes
    monkeypatch.setattr(view._plots, "draw", draw)
    assert view._redraw is not None
    view._redraw()
    view.paint({})
    view.paint({})
    assert drawn == [False, True]


def test_the_desk_says_what_each_term_is_and_how_sure_its_definition_is(
    make_panel: Callable[..., StudyPanel],
) -> None:
    spec = make_panel(FakeStudy()).desk.spec
    alone, guided = spec["students"]
    assert alone["status_text"] == "published" and guided["status_text"] == "reconstruction"

    class Mine(PlainMethod):
        status = kdlab.methods.Method.status  # what a method has that says nothing of it

    study = FakeStudy()
    study.students["alone"] = type(study.students["alone"])(Mine())
    (mine, _) = make_panel(study).desk.spec["students"]
    assert mine["status_text"] == "own method" and "not from a publication" in mine["status_hint"]
    assert guided["terms"]["kd"] == {
        "doc": "Match the teacher's softened logits.",
        **{"weight": 2.0, "enabled": True, "schedule": "constant"},
    }
    assert list(guided["terms"]) == ["ce", "kd"] and list(alone["terms"]) == ["ce"]
    assert "invented" in spec["title"] and "teacher teaches small" in spec["title"]


# ---- real studies ----------------------------------------------------------------------------------


def small(folder: Path, **changes: Any) -> kdlab.Study:
    options: dict[str, Any] = dict(
        data="digits", teacher="resnet8", student="resnet8", students={"alone": "ce", "CMKD": "cmkd"},
        epochs=3, batch_size=32, labels_per_class=8, teacher_epochs=2, device="cpu", probe_size=80,
        folder=folder,
    )  # fmt: skip
    return kdlab.Study(**options | changes)


def test_a_real_study_from_play_to_the_end(tmp_path: Path, make_panel: Callable[..., StudyPanel]) -> None:
    study = small(tmp_path / "study")
    panel = study.panel()
    panel.painter._pulse = None
    try:
        ask(panel, "step", n=2)
        until(lambda: panel.desk.live["label"] == "paused" and shown_step(panel) == 2, 60)
        ask(panel, "set", student="CMKD", term="feature", enabled=False)
        until(lambda: study.record.marks())
        ask(panel, "play")
        until(lambda: panel.desk.live["label"] == "finished", 60)
        assert not panel.desk.live["errors"]
        assert study.record.marks()[0]["step"] == 2
        steps = study.steps_per_epoch * study.epochs
        until(lambda: whole(panel.curves).data[0].x[-1] == steps)
        until(lambda: len(whole(panel.curves).data[1].x) == 3)
        until(lambda: "epoch 3, seed 0" in panel.caption.value)
        assert "CMKD: by the method's own projector" in panel.caption.value.replace("&#x27;", "'")
        assert panel.desk.live["cells"]["CMKD"]["feature"]["value"] == "off"
        assert "val\N{NO-BREAK SPACE}" in panel.desk.live["numbers"]["alone"]
        accuracy = f"{100 * study.teachers[0].val_accuracy:.1f} %"
        assert f"teacher resnet8, {accuracy}" in [trace.name for trace in whole(panel.curves).data]
    finally:
        panel.close()

    again = kdlab.load_study(tmp_path / "study")
    loaded = make_panel(again)
    until(lambda: loaded.desk.live["state"] == "finished" and len(whole(loaded.curves).data[0].x) == steps)
    until(lambda: len(whole(loaded.embedding).data[0].x) == 40)
    assert not any(loaded.desk.live["buttons"].values())
    assert (
        loaded.desk.live["cells"]["CMKD"]["feature"]["enabled"] is False and not loaded.desk.live["editable"]
    )
    ask(loaded, "set", student="alone", term="ce", enabled=False)
    until(lambda: any("finished" in text for text in loaded.desk.live["errors"]))


def test_a_stopped_study_goes_on_from_its_folder(
    tmp_path: Path, make_panel: Callable[..., StudyPanel]
) -> None:
    first = small(tmp_path / "study", students={"alone": "ce"}, teacher=None)
    first.start(paused=True)
    first.step(4)
    until(lambda: (first.board.latest("progress") or {}).get("step") == 4, 60)
    first.stop()
    assert first.wait(30)
    panel = make_panel(kdlab.load_study(tmp_path / "study"))
    until(lambda: panel.desk.live["state"] == "stopped" and len(whole(panel.curves).data[0].x) == 4)
    assert panel.desk.live["buttons"] == {"play": True, "pause": False, "step": True, "stop": False}
    ask(panel, "play")
    until(lambda: panel.desk.live["label"] == "finished", 60)
    assert panel.study.error is None


# ---- drawn from within a cell ------------------------------------------------------------------------


def test_a_panel_is_kept_up_to_date_from_within_the_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where widgets cannot be written to from a thread: nothing but the cell's thread draws."""
    shown: list[StudyPanel] = []
    painting: set[int] = set()
    monkeypatch.setattr("IPython.display.display", shown.append)
    paint = StudyPanel.paint

    def watched(panel: StudyPanel, news: dict[str, Any]) -> float | None:
        painting.add(threading.get_ident())
        return paint(panel, news)

    monkeypatch.setattr(StudyPanel, "paint", watched)
    study = small(tmp_path / "study")
    study.fit(live="cell", progress=False)
    (panel,) = shown
    assert study.state == "finished" and painting == {threading.get_ident()}
    assert panel.desk.live["state"] == "finished" and panel.painter.frames > 1
    assert any(len(trace.y) > 1 for trace in whole(panel.curves).data if trace.y is not None)
    ask(panel, "set", student="CMKD", term="feature", weight=0.5)  # after the end: refused, and that is shown
    assert panel.desk.live["errors"] and painting == {threading.get_ident()}
    panel.close()
    with pytest.raises(ConfigError, match="live must be 'cell'"):
        study.fit(live="thread")

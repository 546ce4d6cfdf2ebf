"""What all panels of probes share: measuring beside the page, drawing, sharing, export. No browser."""

from __future__ import annotations

import gc
import gzip
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from kdlab import panels, plots
from kdlab.errors import ConfigError, StudyError, UnknownNameError
from kdlab.panels import controls
from kdlab.panels.analysis import AnalysisPanel, Want
from kdlab.panels.jobs import Jobs
from kdlab.panels.shared import Shared
from kdlab.probes.progress import steps
from kdlab.probes.result import Result
from tests.panels_fake import FakeStudy


@dataclass(frozen=True)
class Counted(Result):
    """What `Counter` measures."""

    figure: ClassVar[str] = "curves"
    number: int = 0

    summary = property(lambda self: f"It is {self.number}.")

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({"number": [self.number]})


class Counter(AnalysisPanel):
    """Measures `number` in `tenths` tenths of a second; number 13 cannot be."""

    heading, purpose = "Counter", "Counts."
    defaults = {"number": 1, "tenths": 0, "color": "black", "broken": False}
    measured: list[int]

    def controls(self) -> list[controls.Control]:
        numbers = [(n, str(n)) for n in (1, 2, 3, 13)]
        return [
            controls.select("number", "Number", numbers, self.value("number", numbers)),
            controls.button("again", "Again"),
            self.epoch_control(),
            self.students_control(),
        ]

    def want(self) -> Want:
        if self.seed() is None:
            raise StudyError("Nothing has been trained yet.")
        number, tenths, broken = (self.values[key] for key in ("number", "tenths", "broken"))

        def compute() -> Counted:
            self.__dict__.setdefault("measured", []).append(number)
            for _ in steps(range(tenths), "counting"):
                time.sleep(0.1)
            if broken:
                raise ZeroDivisionError("no such luck")
            if number == 13:
                raise StudyError("Not 13, please; take another number.")
            return Counted(number)

        return Want((number, tenths, broken), compute, f"count({number})")

    def look(self) -> Any:
        return self.values["color"], self.epoch()

    def draw(self, result: Counted) -> go.Figure:
        fig = go.Figure(go.Scatter(y=[result.number], line_color=self.values["color"]))
        fig.layout.meta = {"summary": result.summary, "dark": self.dark}
        return fig

    def pressed(self, name: str) -> None:
        self.values = {**self.values, "number": 3}


class Trained(FakeStudy):
    """A study that has snapshots of two students, the second from epoch 2 on."""

    folder = Path("fake")

    def __init__(self, epochs: tuple[int, ...] = (0, 1, 2)) -> None:
        super().__init__()
        self.known, self.asked_files = list(epochs), 0

    def snapshot_epochs(self, seed: int | None = None, network: str | None = None) -> list[int]:
        self.asked_files += 1
        return [epoch for epoch in self.known if network != "KD" or epoch >= 2]


def until(condition: Callable[[], Any], timeout: float = 10.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def make() -> Iterator[Callable[..., Counter]]:
    made: list[Counter] = []

    def panel(study: Any = None, **options: Any) -> Counter:
        made.append(Counter(Trained() if study is None else study, **options))
        made[-1].observe(lambda sent, one=made[-1]: one.set_trait("seen", sent["new"]), "sent")  # the page
        return made[-1]

    yield panel
    for one in made:
        one.close()


def page(panel: AnalysisPanel) -> dict[str, Any]:
    return json.loads(panel.figure) if panel.figure else {}


def shown(panel: AnalysisPanel) -> str:
    return str(panel.live["said"])


def ask(panel: AnalysisPanel, **message: Any) -> None:
    """What the page sends."""
    panel._handle_custom_msg({"id": panel.live["answered"] + 1, **message}, [])


def control(panel: AnalysisPanel, name: str) -> dict[str, Any]:
    return next(c for c in panel.live["controls"] if c["name"] == name)


def test_a_value_is_measured_drawn_said_and_given_in_python(make: Callable[..., Counter]) -> None:
    panel = make()
    until(lambda: shown(panel) == "It is 1.")
    ask(panel, do="control", name="number", value=2)
    until(lambda: shown(panel) == "It is 2.")
    assert page(panel)["alt"] == "It is 2." and panel.live["code"] == "count(2)"
    assert control(panel, "number")["value"] == 2 and panel.live["work"] == []
    assert (
        page(panel)["layout"]["paper_bgcolor"] == "rgba(0,0,0,0)" and panel.fig.layout.paper_bgcolor is None
    )


def test_what_was_measured_is_not_measured_again_and_looks_only_redraw(make: Callable[..., Counter]) -> None:
    panel = make()
    for number in (1, 2, 1):
        panel.set("number", number)
        until(lambda number=number: shown(panel) == f"It is {number}.")
    panel.set("color", "red")
    until(lambda: page(panel)["data"][0]["line"]["color"] == "red")
    panel.dark = True
    until(lambda: page(panel)["layout"]["meta"]["dark"])
    assert panel.measured == [1, 2]


def test_the_last_wish_wins_and_what_nobody_wants_is_ended(make: Callable[..., Counter]) -> None:
    panel = make()
    until(lambda: shown(panel) == "It is 1.")
    panel.values = {**panel.values, "tenths": 100}
    panel.set("number", 2)
    until(lambda: panel.live["work"] and panel.live["work"][1] > 0)
    assert panel.live["work"][0] == "counting" and shown(panel) == "It is 1.", "the old figure stays"
    panel.values = {**panel.values, "tenths": 0}
    panel.set("number", 3)
    until(lambda: shown(panel) == "It is 3.", 3.0)


def test_a_measurement_can_be_cancelled_and_tried_again(make: Callable[..., Counter]) -> None:
    panel = make(values={"tenths": 100})
    until(lambda: panel.live["work"] and panel.live["work"][1] > 0)
    ask(panel, do="cancel")
    until(lambda: "cancelled" in panel.live["hint"])
    time.sleep(0.3)
    assert panel.measured.count(1) == 1, "it does not begin again by itself"
    ask(panel, do="retry")
    until(lambda: panel.measured.count(1) == 2)


def test_what_cannot_be_is_a_hint_and_a_fault_is_a_message(make: Callable[..., Counter]) -> None:
    panel = make()
    panel.set("number", 13)
    until(lambda: panel.live["hint"] == "Not 13, please; take another number.")
    assert panel.live["errors"] == []
    panel.set("broken", True)
    until(lambda: panel.live["errors"] == ["ZeroDivisionError: no such luck"])
    ask(panel, do="dismiss", index=0)
    panel.values = {**panel.values, "broken": False}
    panel.set("number", 2)
    until(lambda: shown(panel) == "It is 2." and panel.live["hint"] == "" and panel.live["errors"] == [])


def test_a_fault_in_drawing_is_a_message_too(make: Callable[..., Counter]) -> None:
    panel = make()
    until(lambda: shown(panel) == "It is 1.")

    def broken() -> list[controls.Control]:
        raise KeyError("no control")

    panel.controls = broken  # type: ignore[method-assign]
    panel.set("number", 2)
    until(lambda: any("KeyError" in text for text in panel.live["errors"]))
    assert panel.live["hint"] == "This could not be drawn." and panel.painter.error is None
    ask(panel, do="dismiss", index=0)
    del panel.controls
    panel.set("number", 3)
    until(lambda: shown(panel) == "It is 3." and panel.live["hint"] == "" and panel.live["errors"] == [])


def test_before_training_it_says_what_to_do_and_follows_what_comes(make: Callable[..., Counter]) -> None:
    study = Trained(epochs=())
    panel = make(study)
    until(lambda: panel.live["hint"] == "Nothing has been trained yet.")
    study.known = [0, 1]
    study.board.post(snapshot=1)
    until(lambda: shown(panel) == "It is 1.")
    assert panel.epoch() == 1
    study.known.append(2)
    study.board.post(snapshot=2)
    until(lambda: control(panel, "epoch")["value"] == 2)


def test_an_epoch_that_was_chosen_stays_and_the_newest_is_followed(make: Callable[..., Counter]) -> None:
    study = Trained()
    panel = make(study)
    until(lambda: shown(panel))
    ask(panel, do="control", name="epoch", value=1)
    study.known.append(4)
    study.board.post(snapshot=4)
    until(lambda: len(control(panel, "epoch")["options"]) == 4)
    assert control(panel, "epoch")["value"] == 1
    ask(panel, do="control", name="epoch", value=4)  # the newest: from now on followed
    study.known.append(8)
    study.board.post(snapshot=8)
    until(lambda: control(panel, "epoch")["value"] == 8)


def test_panels_share_epoch_students_and_pictures(make: Callable[..., Counter]) -> None:
    study, shared = Trained(), Shared()
    one, two = make(study, shared=shared), make(study, shared=shared)
    until(lambda: shown(one) and shown(two))
    ask(one, do="control", name="epoch", value=1)
    ask(one, do="control", name="students", value=["alone"])
    until(lambda: control(two, "epoch")["value"] == 1 and control(two, "students")["value"] == ["alone"])
    ask(two, do="picture", place=7)
    assert shared.sample == 7
    shared.select([9, 3, 3])
    assert shared.samples == (3, 9) and shared.sample == 3
    shared.select([3, 5])
    assert shared.sample == 3, "it is among them still"


def test_what_nobody_sees_is_not_measured(make: Callable[..., Counter]) -> None:
    panel = make(active=False)
    panel.set("number", 2)
    time.sleep(0.4)
    assert not hasattr(panel, "measured") and panel.figure == ""
    panel.active = True
    panel.study.board.post(turned=1)
    until(lambda: shown(panel) == "It is 2.")


def test_files_hold_what_is_shown(make: Callable[..., Counter], tmp_path: Path) -> None:
    panel = make()
    sent: list[tuple[Any, Any]] = []
    panel.send = lambda content, buffers=None: sent.append((content, buffers))  # type: ignore[method-assign]
    until(lambda: shown(panel) == "It is 1.")
    for kind in ("csv", "npz", "html"):
        ask(panel, do="export", format=kind)
    names = [content["name"] for content, _ in sent]
    assert names == ["fake-counter.csv", "fake-counter.npz", "fake-counter.html"]
    table, whole, text = (gzip.decompress(buffers[0]) for _, buffers in sent)
    assert table.decode().split() == ["number", "1"]
    (tmp_path / "r.npz").write_bytes(whole)
    assert Counted.load(tmp_path / "r.npz") == Counted(1)
    assert "It is 1." in text.decode() and max(len(buffers[0]) for _, buffers in sent) < 2_500_000
    ask(panel, do="export", format="doc")
    until(lambda: panel.live["errors"])
    assert "not 'doc'" in panel.live["errors"][0] and plots.to_html


def test_a_button_does_something_and_files_are_asked_for_seldom(make: Callable[..., Counter]) -> None:
    study = Trained()
    panel = make(study)
    until(lambda: shown(panel) == "It is 1.")
    ask(panel, do="control", name="again", value=True)
    until(lambda: shown(panel) == "It is 3.")
    before = study.asked_files
    for color in "abcdefgh":
        panel.set("color", f"#{color}")
    time.sleep(0.5)
    assert study.asked_files == before, "the folder is read only when something came"


def test_in_a_cell_everything_happens_on_the_callers_thread(make: Callable[..., Counter]) -> None:
    panel = make(in_cell=True)
    assert shown(panel) == "It is 1."
    threads = {thread.name for thread in threading.enumerate()}
    ask(panel, do="control", name="number", value=2)
    assert shown(panel) == "It is 2." and panel.painter._thread.ident is None
    assert {thread.name for thread in threading.enumerate()} <= threads


def test_jobs_of_several_owners_take_turns() -> None:
    jobs, told, gate = Jobs(), threading.Event(), threading.Event()
    order: list[str] = []

    def work(name: str) -> Callable[[], str]:
        def compute() -> str:
            gate.wait(5)
            order.append(name)
            return name

        return compute

    for name in ("a", "b"):
        assert jobs.ask(name, name, work(name), told.set) is None
    assert jobs.progress("b") == (0.0, "waiting for another panel")
    gate.set()
    until(lambda: jobs.ask("b", "b", work("b"), told.set) is not None)
    assert order == ["a", "b"] and jobs.ask("a", "a", work("a"), told.set).value == "a"
    assert jobs.progress("a") is None and told.is_set()


ENDS_EARLY = """
import threading, torch
from kdlab.panels.jobs import Jobs
from kdlab.probes.progress import steps

def long():
    for _ in steps(range(10_000)):  # would take minutes, most of the time inside PyTorch
        torch.randn(500, 500) @ torch.randn(500, 500)
        under_way.set()

under_way, jobs = threading.Event(), Jobs()
jobs.ask("panel", "key", long, lambda: None)
jobs.ask("another", "its key", long, lambda: None)
assert under_way.wait(60)
print("the last line")
"""


def test_python_ends_in_peace_while_a_panel_measures() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS_EARLY], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "the last line\n", "")


@pytest.mark.parametrize("thing", ["runs/new", None, np.zeros((3, 3))], ids=["path", "None", "array"])
def test_what_is_no_study_is_refused(thing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sentence, and without a traceback of the half that was made."""
    after: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", after.append)
    for make in (panels.Lab, *(partial(panels.open_panel, kind=kind) for kind in panels.KINDS)):
        with pytest.raises(ConfigError, match=r"is no study; open the folder of one by kdlab\.load_study"):
            make(thing)
    gc.collect()
    assert not after


def test_what_panels_cannot_have_in_common_is_refused(make: Callable[..., Counter]) -> None:
    with pytest.raises(ConfigError, match=r"kdlab\.panels\.Shared, not 3"):
        make(shared=3)
    lab = panels.Lab(FakeStudy(), in_cell=True)
    with pytest.raises(UnknownNameError, match="no tab named 'logit'; did you mean 'logits'"):
        lab.show("logit")
    lab.close()

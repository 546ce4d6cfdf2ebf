"""LiveFigure, Pulse and Painter without a browser."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from plotly.basedatatypes import Undefined

from kdlab.panels.live import LiveFigure, Pulse, answer_while_busy
from kdlab.panels.painter import Painter
from kdlab.training.events import Board


def figure(traces: int = 2) -> LiveFigure:
    line = {"color": "#00ff00"}
    return LiveFigure(
        [{"type": "scatter", "y": [1.0, 2.0], "name": f"t{i}", "line": line} for i in range(traces)]
    )


class Listener:
    """A view that remembers what it was given."""

    def __init__(self, react: Callable[[dict[str, Any]], float | None] = lambda news: None) -> None:
        self.seen: list[dict[str, Any]] = []
        self.react = react

    def paint(self, news: dict[str, Any]) -> float | None:
        self.seen.append(news)
        return self.react(news)

    def last(self, key: str) -> Any:
        return next((news[key] for news in reversed(self.seen) if key in news), None)


def wait_for(condition: Callable[[], Any], timeout: float = 5.0) -> bool:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


# ---- LiveFigure ------------------------------------------------------------------------------------


def test_a_reloaded_page_gets_the_present_state() -> None:
    """This is what plotly alone does not do; it also guards the parts of plotly that are relied on."""
    fig = figure()
    with fig.drawing():
        fig.data[0].y = np.asarray([5, 6, 7], np.float32)
        fig.data[1].name = "renamed"
        fig.layout.title.text = "now"
    state = fig.get_state()
    buffer = state["_widget_data"][0]["y"]
    assert np.frombuffer(buffer["buffer"], buffer["dtype"]).tolist() == [5, 6, 7]
    assert state["_widget_data"][1]["name"] == "renamed"
    assert state["_widget_layout"]["title"]["text"] == "now"


def test_asking_for_single_entries_is_left_as_it_is() -> None:
    fig = figure()
    assert set(fig.get_state(key="_view_count")) == {"_view_count"}


def test_the_state_is_never_taken_from_a_half_made_change() -> None:
    fig = figure()
    inside, states = threading.Event(), []

    def reload() -> None:
        inside.wait(5)
        states.append([trace["name"] for trace in fig.get_state()["_widget_data"]])

    thread = threading.Thread(target=reload)
    thread.start()
    with fig.drawing():
        fig.data[0].name = "a"
        inside.set()
        time.sleep(0.1)  # the other thread asks for the state now
        fig.data[1].name = "b"
    thread.join(5)
    assert states == [["a", "b"]]


def test_a_click_on_the_legend_waits_for_the_drawing() -> None:
    fig = figure()
    inside, order = threading.Event(), []

    def click() -> None:
        inside.wait(5)
        fig.plotly_restyle({"visible": "legendonly"}, 0)
        order.append("click")

    thread = threading.Thread(target=click)
    thread.start()
    with fig.drawing():
        inside.set()
        time.sleep(0.1)
        fig.data[0].y = [0.0]
        order.append("drawing")
    thread.join(5)
    assert order == ["drawing", "click"]
    assert fig.data[0].visible == "legendonly" and list(fig.data[0].y) == [0.0]


def test_a_drawing_sends_no_holes_for_properties_that_have_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hole would make a page that is still loading drop the property (names and colours vanish)."""
    fig = figure(3)
    sent: list[Any] = []
    monkeypatch.setattr(fig, "_send_update_msg", lambda restyle_data, **rest: sent.append(restyle_data))
    with fig.drawing():
        fig.data[0].y = [3.0]
        fig.data[2].name = "new"
        fig.data[2].line.color = "#ff0000"
    (style,) = sent
    assert style["name"] == ["t0", "new"]
    assert style["line.color"] == ["#00ff00", "#ff0000"]
    assert not any(value is Undefined for values in style.values() for value in values)


def test_updates_from_two_threads_are_all_kept() -> None:
    fig = figure()
    fig.update_traces(y=np.zeros(50, np.float32))

    def count(trace: int) -> None:
        for i in range(50):
            with fig.drawing():
                values = np.array(fig.data[trace].y)
                values[i] = 1
                fig.data[trace].y = values

    threads = [threading.Thread(target=count, args=(trace,)) for trace in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [float(np.sum(trace.y)) for trace in fig.data] == [50, 50]


# ---- Pulse -----------------------------------------------------------------------------------------


def test_pulse_waits_for_the_echo_of_this_beat() -> None:
    pulse = Pulse()
    threading.Timer(0.1, lambda: setattr(pulse, "seen", pulse.sent)).start()
    assert 0.05 < pulse.wait(5.0) < 5.0
    pulse.sent += 1  # an echo of the beat before does not count
    threading.Timer(0.05, lambda: setattr(pulse, "seen", pulse.sent - 1)).start()
    assert pulse.wait(0.3) == float("inf")


def test_pulse_gives_up_without_a_page() -> None:
    start = time.monotonic()
    assert Pulse().wait(0.2) == float("inf")
    assert time.monotonic() - start < 2


def test_messages_go_where_the_page_sends_them() -> None:
    """Guards the one private name of ipykernel that is relied on; elsewhere nothing happens."""
    comm = pytest.importorskip("ipykernel.comm.comm").BaseComm

    class Widget:
        comm = None

    answer_while_busy(Widget())
    widget = Widget()
    widget.comm = comm(target_name="test", primary=False)
    answer_while_busy(widget)
    assert getattr(widget.comm, "_reply_subshell_for", None) is None


# ---- Painter ---------------------------------------------------------------------------------------


def test_many_posts_coalesce_and_the_last_one_is_painted() -> None:
    board, view = Board(), Listener()
    painter = Painter(board.subscribe(), [view], hz=50).start()
    for step in range(2000):
        board.post(step=step)
        time.sleep(0.0002)
    assert painter.close() and view.last("step") == 1999
    assert 2 <= painter.frames < 200


def test_frames_keep_the_rate() -> None:
    board, view = Board(), Listener()
    painter = Painter(board.subscribe(), [view], hz=10).start()
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        board.post(step=1)
        time.sleep(0.005)
    painter.close()
    assert painter.frames <= 13


def test_a_slow_page_slows_the_frames_and_not_the_poster() -> None:
    class SlowPage:
        def wait(self, timeout: float) -> float:
            time.sleep(0.2)
            return 0.2

    board, view = Board(), Listener()
    painter = Painter(board.subscribe(), [view], hz=100, pulse=SlowPage()).start()  # type: ignore[arg-type]
    start = time.monotonic()
    for step in range(1000):
        board.post(step=step)
    assert time.monotonic() - start < 0.2, "posting must not wait for the page"
    time.sleep(0.7)
    painter.close()
    assert painter.frames <= 6 and view.last("step") == 999
    assert painter.lags and all(lag == 0.2 for lag in painter.lags)


def test_an_error_in_a_view_is_reported_and_the_others_go_on() -> None:
    board, reports = Board(), []

    def fail(news: dict[str, Any]) -> float | None:
        raise ValueError("no such colour")

    bad, good = Listener(fail), Listener()
    painter = Painter(board.subscribe(), [bad, good], hz=100, on_error=reports.append).start()
    board.post(step=1)
    assert wait_for(lambda: good.last("step") == 1)
    board.post(step=2)
    assert wait_for(lambda: good.last("step") == 2), "the painter died with the first error"
    painter.close()
    assert "Listener" in reports[0] and "ValueError: no such colour" in reports[0]
    assert painter.error is None


def test_it_rests_without_news_and_wakes_for_them() -> None:
    board, view = Board(), Listener()
    painter = Painter(board.subscribe(), [view], hz=100).start()
    board.post(step=1, done=True)
    assert wait_for(lambda: view.last("step") == 1)
    frames = painter.frames
    time.sleep(0.4)
    assert painter.frames == frames, "frames without news"
    start = time.monotonic()
    board.post(step=2, done=False)
    assert wait_for(lambda: view.last("step") == 2) and time.monotonic() - start < 0.3
    painter.close()


def test_a_view_can_ask_to_be_called_again() -> None:
    board = Board()
    calls: list[float] = []

    def react(news: dict[str, Any]) -> float | None:
        calls.append(time.monotonic())
        return 0.1 if len(calls) < 3 else None

    painter = Painter(board.subscribe(), [Listener(react)], hz=100).start()
    board.post(step=1)
    assert wait_for(lambda: len(calls) == 3)
    time.sleep(0.3)
    painter.close()
    assert len(calls) <= 4  # one more frame may close the show
    assert calls[1] - calls[0] >= 0.09


def test_close_ends_the_thread() -> None:
    painter = Painter(Board().subscribe(), []).start()
    assert not painter.ended
    assert painter.close() and painter.ended

"""LiveFigure, Pulse and Painter without a browser."""

from __future__ import annotations

import base64
import gzip
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

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


def on_page(fig: LiveFigure) -> dict[str, Any]:
    """What a page draws, also one that is loaded now: the widget's state."""
    return json.loads(fig.get_state()["spec"])


def test_the_state_is_the_figure_as_it_is_now() -> None:
    fig = figure()
    with fig.drawing() as now:
        now.data[0].y = np.asarray([5, 6, 7], np.float32)
        now.data[1].name = "renamed"
        now.layout.title.text = "now"
        now.layout.meta = {"summary": "Two lines."}
    page = on_page(fig)
    packed = page["data"][0]["y"]
    assert packed["dtype"] == "f4", "single precision travels as such"
    assert np.frombuffer(base64.b64decode(packed["bdata"]), np.float32).tolist() == [5, 6, 7]
    assert page["data"][1]["name"] == "renamed" and page["layout"]["title"]["text"] == "now"
    assert page["alt"] == "Two lines." and page["config"]["displayModeBar"] is False


def test_one_drawing_is_one_message_and_never_half_of_it() -> None:
    fig = figure()
    sent: list[list[str]] = []
    fig.observe(lambda _: sent.append([trace["name"] for trace in on_page(fig)["data"]]), "spec")
    with fig.drawing() as now:
        now.data[0].name = "a"
        assert not sent
        now.data[1].name = "b"
    assert sent == [["a", "b"]]


def test_plotly_is_sent_to_a_page_that_asks_and_is_no_part_of_the_state() -> None:
    fig = figure()
    sent: list[tuple[Any, Any]] = []
    fig.send = lambda content, buffers=None: sent.append((content, buffers))  # type: ignore[method-assign]
    assert len(json.dumps(fig.get_state(), default=str)) < 20_000
    fig._handle_custom_msg({"do": "plotly"}, [])
    ((content, buffers),) = sent
    assert content == {"do": "plotly"} and len(buffers[0]) < 2_000_000, "below the server's rate limit"
    code = gzip.decompress(buffers[0]).decode()
    assert get_plotlyjs() in code and code.rstrip().endswith("export default module.exports;")


def test_clicks_and_selections_reach_who_listens() -> None:
    fig, heard = figure(), []
    fig._handle_custom_msg({"do": "click", "points": [[0, 1]]}, [])  # nobody listens yet
    fig.on_points = lambda what, points: heard.append((what, points))
    fig._handle_custom_msg({"do": "click", "points": [[0, 1]]}, [])
    fig._handle_custom_msg({"do": "select", "points": [[0, 1], [1, 0]]}, [])
    fig._handle_custom_msg({"do": "select", "points": None}, [])
    assert heard == [("click", [(0, 1)]), ("select", [(0, 1), (1, 0)]), ("select", None)]


def test_updates_from_two_threads_are_all_kept() -> None:
    fig = figure()
    with fig.drawing() as now:
        now.update_traces(y=np.zeros(50, np.float32))

    def count(trace: int) -> None:
        for i in range(50):
            with fig.drawing() as now:
                values = np.array(now.data[trace].y)
                values[i] = 1
                now.data[trace].y = values

    threads = [threading.Thread(target=count, args=(trace,)) for trace in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [float(np.sum(trace.y)) for trace in fig.fig.data] == [50, 50]


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


def test_painter_at_rest_draws_nothing_and_then_the_news_of_the_meantime() -> None:
    board, view = Board(), Listener()
    painter = Painter(board.subscribe(), [view], hz=100).start()
    board.post(step=1)
    assert wait_for(lambda: view.last("step") == 1)
    painter.rest()
    time.sleep(0.6)  # what it was waiting for has ended
    board.post(step=2)
    board.post(other=3)
    time.sleep(0.3)
    assert view.last("step") == 1
    painter.wake()
    assert wait_for(lambda: view.last("step") == 2 and view.last("other") == 3)
    painter.rest()
    assert painter.close(), "a resting painter can be closed"


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

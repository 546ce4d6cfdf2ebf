"""Live drawing from a thread: figures that a page draws when it can, and the page's pulse.

Training never touches a widget and never waits for one. It posts to a board; a single `Painter`
thread, the only writer of widgets, takes what is new and draws it, at most a few times a second and
never faster than the page can follow (`Pulse`).
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import plotly.graph_objects as go
import traitlets
from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs

_HERE = Path(__file__).parent

Points = list[tuple[int, int]]  # (trace, point) of what was touched in a plot


def module(*names: str) -> str:
    """The page's side of a widget: several files of this folder as one module."""
    return "\n".join((_HERE / name).read_text(encoding="utf-8") for name in names)


@cache
def plotly_module() -> bytes:
    """plotly.js as a module of its own, compressed: a quarter of what plotly sends for each figure."""
    start = "const module = { exports: {} };\n"
    return gzip.compress((start + get_plotlyjs() + "\nexport default module.exports;").encode(), 6)


def to_page(fig: go.Figure, paper: str | None = None, **config: Any) -> str:
    """A figure as the page's plots take it: JSON, arrays in binary form, and its text alternative.

    Args:
        fig: any figure; the sentence in `layout.meta["summary"]` is what a screen reader says of it.
        paper: another colour of the paper; the figure's own if not given.
        config: of plotly.js, such as displayModeBar.
    """
    meta = fig.layout.meta
    alt = meta.get("summary", "") if isinstance(meta, dict) else ""
    about = json.dumps({"config": config, "alt": alt})
    figure = fig.to_dict()
    if paper is not None:
        figure["layout"] |= {"paper_bgcolor": paper, "plot_bgcolor": paper}
    return f"{about[:-1]}, {to_json_plotly(figure)[1:]}"


class DrawsPlots:
    """For widgets with plots: hands plotly.js to a page that asks, and tells what the pointer did.

    Attributes:
        on_points: called with "click" or "select" and the points (None: the selection was undone), on
            whichever thread hears the page.
    """

    on_points: Callable[[str, Points | None], None] | None = None

    def answer_plots(self, content: Any) -> bool:
        """Deal with a message of a plot; False if it was none."""
        what = content.get("do") if isinstance(content, dict) else None
        if what == "plotly":
            self.send({"do": "plotly"}, [plotly_module()])  # type: ignore[attr-defined]
        elif what in ("click", "select"):
            if self.on_points is not None:
                points = content.get("points")
                self.on_points(what, None if points is None else [(int(t), int(p)) for t, p in points])
        else:
            return False
        return True


class LiveFigure(anywidget.AnyWidget, DrawsPlots):
    """A plotly figure as a widget, for figures that change while they are shown.

    Plotly's own FigureWidget shows a page that is loaded again, or that comes later, the figure as it
    was when it was made, and sends 5 MB of plotly.js with each. Here the present figure is the widget's
    state, and the page is sent plotly.js once. Change it with

        with figure.drawing() as fig:
            fig.data[0].y = values        # a float32 array travels in binary form

    which holds the figure's lock and sends everything changed inside as one message.

    Args:
        data, layout: as of `plotly.graph_objects.Figure`.
        config: of plotly.js, such as displayModeBar.

    Attributes:
        fig: the figure; change it inside `drawing` only.

    >>> figure = kdlab.panels.LiveFigure([{"type": "scatter", "y": [1.0, 2.0]}])
    >>> with figure.drawing() as fig:
    ...     fig.data[0].y = [1.0, 2.0, 4.0]
    >>> len(figure.fig.data[0].y)
    3
    """

    _esm = module("plot.js", "figure.js")
    spec = traitlets.Unicode("").tag(sync=True)

    def __init__(self, data: Any = None, layout: Any = None, **config: Any) -> None:
        self.lock = threading.RLock()
        self._config = {"displayModeBar": False} | config
        self.fig = go.Figure(data, layout)
        super().__init__(spec=to_page(self.fig, **self._config))
        self.on_msg(lambda _widget, content, _buffers: self.answer_plots(content))

    @contextmanager
    def drawing(self) -> Iterator[go.Figure]:
        """Hold the lock; all changes made inside are sent as one message."""
        with self.lock:
            yield self.fig
            self.spec = to_page(self.fig, **self._config)

    def extend(self, traces: Sequence[dict[str, Any]]) -> None:
        """Add traces behind those that are there, as when a student comes."""
        with self.drawing() as fig:
            fig.add_traces(list(traces))


class Paced(anywidget.AnyWidget):
    """A widget that can be asked whether the page has drawn; its page's side calls `keepPace`."""

    sent = traitlets.Int(0).tag(sync=True)
    seen = traitlets.Int(0).tag(sync=True)

    def __init__(self, **kwargs: Any) -> None:
        self._beat = threading.Event()
        super().__init__(**kwargs)
        self.observe(self._on_seen, "seen")

    def _on_seen(self, change: Any) -> None:
        if change["new"] >= self.sent:
            self._beat.set()

    def wait(self, timeout: float = 1.0) -> float:
        """Ask the page and wait for its answer.

        The page answers in the order of the messages, after an animation frame, so an answer means
        that everything sent before has been drawn.

        Returns:
            The seconds it took, or infinity if nothing came within `timeout`: no page is open, its
            tab is hidden, or it is busy.
        """
        self._beat.clear()
        start = time.perf_counter()
        self.sent += 1
        return time.perf_counter() - start if self._beat.wait(timeout) else float("inf")


class Pulse(Paced):
    """An invisible `Paced` widget, to be shown beside figures.

    >>> kdlab.panels.Pulse().wait(timeout=0.01)  # seconds until a page answers; here there is none
    inf
    """

    _esm = module("parts.js", "pulse.js")


def answer_while_busy(widget: Any) -> None:
    """Let messages of the page to `widget` be handled while a cell runs, where the kernel can do that.

    JupyterLab sends widget messages to a thread of their own (a subshell). ipykernel 7.4 sends them
    on to the shell that wrote to the widget last; for a widget that a thread writes to, that is the
    main shell, which is busy as long as a cell runs (`study.fit()`). Without its rule the message goes
    where the page sent it, as in ipykernel 7.1 to 7.3.
    """
    comm = getattr(widget, "comm", None)
    if comm is not None and hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = None

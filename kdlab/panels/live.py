"""Live drawing from a thread: a figure that survives a page reload, and the page's pulse.

Training never touches a widget and never waits for one. It posts to a board; a single `Painter`
thread, the only writer of widgets, takes what is new and draws it, at most a few times a second and
never faster than the page can follow (`Pulse`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import anywidget
import plotly.graph_objects as go
import traitlets
from plotly.basedatatypes import Undefined


class LiveFigure(go.FigureWidget):
    """A `FigureWidget` for figures that change while they are shown.

    Plotly sends a figure's state to the page as it was when the figure was made; a page that is
    loaded again would show that old state, usually nothing. Here the present state is put together
    whenever a page asks for it. Give the traces to the constructor (later ones to `extend`) and change
    them with

        with figure.drawing():
            figure.data[0].y = values        # a float32 array travels in binary form

    which holds the figure's lock, so that a reload, a zoom or a click on the legend in between
    cannot meet a half-made change.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Plotly guards plain attribute assignment, and asks for the state before it is built.
        self.__dict__["lock"] = threading.RLock()
        super().__init__(*args, **kwargs)

    @contextmanager
    def drawing(self) -> Iterator[LiveFigure]:
        """Hold the lock and send all changes made inside as one message."""
        with self.lock, self.batch_update():
            yield self

    def extend(self, traces: list[dict[str, Any]]) -> None:
        """Add traces behind those that are there, as when a student comes; not inside `drawing`."""
        with self.lock:
            self.add_traces(traces)

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """The widget's state, with the traces and the layout as they are now."""
        with self.lock:
            if key is None and hasattr(self, "_data") and hasattr(self, "_layout_obj"):
                # Assigning the traits would send a message; the values alone are wanted here.
                self._trait_values["_widget_data"] = deepcopy(self._data)
                self._trait_values["_widget_layout"] = deepcopy(self._layout_obj._props)
            return super().get_state(key=key, drop_defaults=drop_defaults)

    def _build_update_params_from_batch(self) -> Any:
        """What one `drawing` sends: for each changed property a value for each changed trace.

        Plotly leaves a hole where a trace's value of that property did not change. A page that is
        still setting the figure up takes a hole for "remove this property", and names and colours
        would be lost; so the present value is sent instead.
        """
        restyle, relayout, traces = super()._build_update_params_from_batch()
        for path, values in restyle.items():
            for position, number in enumerate(traces):
                if values[position] is Undefined:
                    values[position] = _value_at(self._data[number], path)
        return restyle, relayout, traces

    # Zooming, panning and clicks on the legend arrive through these, on whichever thread handles them.

    def plotly_restyle(self, *args: Any, **kwargs: Any) -> None:
        """As in plotly, under the figure's lock."""
        with self.lock:
            super().plotly_restyle(*args, **kwargs)

    def plotly_relayout(self, *args: Any, **kwargs: Any) -> None:
        """As in plotly, under the figure's lock."""
        with self.lock:
            super().plotly_relayout(*args, **kwargs)

    def plotly_update(self, *args: Any, **kwargs: Any) -> None:
        """As in plotly, under the figure's lock."""
        with self.lock:
            super().plotly_update(*args, **kwargs)


def _value_at(trace: dict[str, Any], path: str) -> Any:
    """The value of a property such as "line.color" in a trace's plain dictionary."""
    value: Any = trace
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            return Undefined
        value = value[key]
    return value


_PULSE_JS = """
export default {
  render({ model, el }) {
    el.style.display = "none";
    const echo = () => requestAnimationFrame(() => {
      model.set("seen", model.get("sent"));
      model.save_changes();
    });
    model.on("change:sent", echo);
    return () => model.off("change:sent", echo);
  },
};
"""


class Pulse(anywidget.AnyWidget):
    """An invisible widget that tells when the page has drawn.

    It must be shown beside the figures. The page answers in the order of the messages, after an
    animation frame, so an answer means that everything sent before has been drawn.
    """

    _esm = _PULSE_JS
    sent = traitlets.Int(0).tag(sync=True)
    seen = traitlets.Int(0).tag(sync=True)

    def __init__(self, **kwargs: Any) -> None:
        self._answered = threading.Event()
        super().__init__(**kwargs)
        self.observe(self._on_seen, "seen")

    def _on_seen(self, change: Any) -> None:
        if change["new"] >= self.sent:
            self._answered.set()

    def wait(self, timeout: float = 1.0) -> float:
        """Ask the page and wait for its answer.

        Returns:
            The seconds it took, or infinity if nothing came within `timeout`: no page is open, its
            tab is hidden, or it is busy.
        """
        self._answered.clear()
        start = time.perf_counter()
        self.sent += 1
        return time.perf_counter() - start if self._answered.wait(timeout) else float("inf")


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

"""The mixing desk: one widget with the transport buttons, a card for each student, and messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anywidget
import traitlets

from kdlab.panels.live import module

Command = Callable[[dict[str, Any]], None]


class Desk(anywidget.AnyWidget):
    """The controls of a study as one widget. It shows and asks; it decides nothing.

    Args:
        spec: what stays until a student comes (see `desk_state.spec`); replaced by the painter then.
        live: what changes (see `desk_state.live`); replaced by the painter.
        on_command: called with each message of the page, on whichever thread handles it:
            {"do": "play" | "pause" | "step" | "stop" | "set" | "solo" | "reset" | "fork" | "add" | "drop" |
            "dismiss" | "card" | "preview", "id": int, ...}. The last two are answered by `send`.

    Attributes:
        sparks: the sparkline of each term (see `sparks.Lines`); replaced by the painter, seldom.
        curve, log, zoom, seed: what the curves show: key of the record, logarithmic or not, only
            the upper part of the accuracy axis, and the seed as text ("" is the latest). Page and
            Python may set them.
        dark: whether the page's theme is dark; the page sets it.
    """

    _esm = module("parts.js", "desk.js", "desk_forms.js", "desk_terms.js", "desk_students.js")
    _css = module("desk.css")
    spec = traitlets.Dict().tag(sync=True)
    live = traitlets.Dict().tag(sync=True)
    sparks = traitlets.Dict().tag(sync=True)
    curve = traitlets.Unicode("loss").tag(sync=True)
    log = traitlets.Bool(True).tag(sync=True)
    zoom = traitlets.Bool(False).tag(sync=True)
    seed = traitlets.Unicode("").tag(sync=True)
    dark = traitlets.Bool(False).tag(sync=True)

    def __init__(self, spec: Mapping[str, Any], live: Mapping[str, Any], on_command: Command) -> None:
        super().__init__(spec=dict(spec), live=dict(live))
        self._on_command = on_command
        self.on_msg(self._receive)

    def _receive(self, _widget: Any, content: Any, _buffers: Any) -> None:
        if isinstance(content, dict) and isinstance(content.get("do"), str):
            self._on_command(content)

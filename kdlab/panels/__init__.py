"""Widgets for notebooks: controls and live figures over a `Study`.

Every action of a panel is one plain Python call on the study, which the panel shows; nothing in
kdlab imports this package, and ipywidgets and plotly are loaded on first use of a name below.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdlab.panels.live import LiveFigure, Pulse
    from kdlab.panels.painter import Painter
    from kdlab.panels.study_panel import StudyPanel

_NAMES = {
    "LiveFigure": "kdlab.panels.live",
    "Painter": "kdlab.panels.painter",
    "Pulse": "kdlab.panels.live",
    "StudyPanel": "kdlab.panels.study_panel",
}

__all__ = ["LiveFigure", "Painter", "Pulse", "StudyPanel"]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'kdlab.panels' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

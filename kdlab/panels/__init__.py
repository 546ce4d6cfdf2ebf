"""Widgets for notebooks: controls and live figures over a `Study`.

`StudyPanel` steers a training; `RepresentationPanel`, `ProbePanel`, `AttentionPanel`, `LogitPanel` and
`ComparePanel` look at it, while it goes on and afterwards; `Lab` has them all on tabs. Every action of a
panel is one plain Python call, which the panel shows; nothing in kdlab imports this package, and
ipywidgets and plotly are loaded on first use of a name below.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kdlab.errors import unknown_name

if TYPE_CHECKING:
    from kdlab.panels.analysis import AnalysisPanel, Want
    from kdlab.panels.attention_panel import AttentionPanel
    from kdlab.panels.compare_panel import ComparePanel
    from kdlab.panels.lab import Lab
    from kdlab.panels.live import LiveFigure, Pulse
    from kdlab.panels.logit_panel import LogitPanel
    from kdlab.panels.painter import Painter
    from kdlab.panels.probe_panel import ProbePanel
    from kdlab.panels.representation import RepresentationPanel
    from kdlab.panels.shared import Shared
    from kdlab.panels.study_panel import StudyPanel

_NAMES = {
    "AnalysisPanel": "kdlab.panels.analysis",
    "AttentionPanel": "kdlab.panels.attention_panel",
    "ComparePanel": "kdlab.panels.compare_panel",
    "Lab": "kdlab.panels.lab",
    "LiveFigure": "kdlab.panels.live",
    "LogitPanel": "kdlab.panels.logit_panel",
    "Painter": "kdlab.panels.painter",
    "ProbePanel": "kdlab.panels.probe_panel",
    "Pulse": "kdlab.panels.live",
    "RepresentationPanel": "kdlab.panels.representation",
    "Shared": "kdlab.panels.shared",
    "StudyPanel": "kdlab.panels.study_panel",
    "Want": "kdlab.panels.analysis",
}
KINDS = {
    "study": "StudyPanel",
    "representations": "RepresentationPanel",
    "probes": "ProbePanel",
    "attention": "AttentionPanel",
    "logits": "LogitPanel",
    "compare": "ComparePanel",
}

__all__ = [
    "AnalysisPanel",
    "AttentionPanel",
    "ComparePanel",
    "Lab",
    "LiveFigure",
    "LogitPanel",
    "Painter",
    "ProbePanel",
    "Pulse",
    "RepresentationPanel",
    "Shared",
    "StudyPanel",
    "Want",
    "open_panel",
]


def open_panel(study: Any, kind: str = "study", **options: Any) -> Any:
    """A panel of a study: what `study.panel(kind)` gives.

    Args:
        study: a `kdlab.Study`, new, running, finished or loaded.
        kind: "study", "representations", "probes", "attention", "logits" or "compare".
        options: of the panel's class, such as `shared`, so that panels share epoch and selection.

    Returns:
        the panel, a widget.

    Raises:
        ConfigError: no study.
        UnknownNameError: there is no such panel.

    >>> panel = kdlab.panels.open_panel(study, "logits", in_cell=True)
    >>> type(panel).__name__, type(panel.result).__name__
    ('LogitPanel', 'LogitDecomposition')
    >>> panel.close()
    """
    if kind not in KINDS:
        raise unknown_name("panel", kind, KINDS)
    made = __getattr__(KINDS[kind])(study, **options)
    return made


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'kdlab.panels' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""How students and classes look in live plots and on the desk; colours, dashes and markers of the theme."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdlab.plots import theme

NEUTRAL = "#808080"  # lines and text that must be readable on any paper
FRAME = "rgba(128,128,128,0.3)"
CLEAR = "rgba(0,0,0,0)"
OTHER_CLASSES = ("rgba(128,128,128,0.4)", "circle")
COLOURED_CLASSES = 10

# The theme's dashes and markers as SVG of 34 by 12 units, for the desk.
_DASHARRAYS = {
    "dash": "6 4",
    "dot": "2 3",
    "dashdot": "6 3 2 3",
    "longdash": "10 4",
    "longdashdot": "10 3 2 3",
}
_MARKERS = {
    "circle": "M17 2a4 4 0 1 1 0 8a4 4 0 1 1 0-8z",
    "square": "M13.5 2.5h7v7h-7z",
    "diamond": "M17 1l5 5l-5 5l-5-5z",
    "triangle-up": "M17 1.5l4.7 8h-9.4z",
    "cross": "M15.5 2h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z",
    "x": "M13 3.4l1.4-1.4 2.6 2.6 2.6-2.6 1.4 1.4-2.6 2.6 2.6 2.6-1.4 1.4-2.6-2.6-2.6 2.6-1.4-1.4 2.6-2.6z",
    "triangle-down": "M17 10.5l-4.7-8h9.4z",
    "star": "M17 1l1.4 3.3l3.6.3l-2.7 2.4l.8 3.5l-3.1-1.9l-3.1 1.9l.8-3.5l-2.7-2.4l3.6-.3z",
}


def on_paper(color: str, dark: bool) -> str:
    """The form of a theme colour for light or dark paper."""
    return theme.DARK.get(color, color) if dark else color


def for_desk(style: theme.Style) -> dict[str, str]:
    """A style as the desk draws it."""
    return {
        "color": on_paper(style.color, False),
        "dark": on_paper(style.color, True),
        "dasharray": _DASHARRAYS.get(style.dash, "none"),
        "marker": _MARKERS.get(style.symbol, _MARKERS["circle"]),
    }


def class_legend(class_names: Sequence[str]) -> list[tuple[str, str, str]]:
    """(name, colour, marker) of the first ten classes, and one grey entry for the rest."""
    shown = [(str(name), *theme.class_style(i)) for i, name in enumerate(class_names[:COLOURED_CLASSES])]
    rest = len(class_names) - len(shown)
    return [*shown, (f"the other {rest} classes", *OTHER_CLASSES)] if rest > 0 else shown


def class_marks(labels: np.ndarray, dark: bool) -> tuple[list[str], list[str]]:
    """Colours and markers of (n,) labels."""
    chosen = [theme.class_style(int(i)) if i < COLOURED_CLASSES else OTHER_CLASSES for i in labels]
    return [on_paper(color, dark) for color, _ in chosen], [symbol for _, symbol in chosen]


def layout() -> dict[str, Any]:
    """The part of a figure's layout that all live figures share. The page's style sheet colours the text."""
    return dict(
        autosize=True,
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        font=dict(family=theme.FONT, size=12, color=NEUTRAL),
        uirevision="keep",  # a zoom by hand outlives the next frame
        hovermode="closest",
    )

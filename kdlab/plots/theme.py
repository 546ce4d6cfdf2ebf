"""How all figures look: colours, dashes, markers, text; light and dark.

Every colour that a figure may use comes in a pair, one for light and one for dark paper, so that a
finished figure is turned from one into the other by exchanging colours (`recolour`; the report does
the same in the browser). Nothing is told apart by colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import plotly.graph_objects as go

PAPER = "#ffffff"
INK = "#1b1f24"
MUTED = "#5b636e"
GRID = "#e2e5e9"
FAINT = "#b4bac2"

# Okabe and Ito (2008), without black, which is the teacher's
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#F0E442")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star")
STUDENT_COLORS = (*OKABE_ITO, "#8C564B", "#7D55C7")
CLASS_COLORS = (*OKABE_ITO[:6], "#B5A600", "#8C564B", "#7D55C7", "#808080")
CLASS_SYMBOLS = (*SYMBOLS, "pentagon", "hexagram")

_AXIS = {
    "gridcolor": GRID,
    "zerolinecolor": GRID,
    "linecolor": FAINT,
    "showline": True,
    "ticks": "outside",
    "tickcolor": FAINT,
    "ticklen": 4,
    "automargin": True,
}

# light -> dark; what is not listed is readable on both
DARK: Mapping[str, str] = {
    PAPER: "#171a1f",
    INK: "#eceff3",
    MUTED: "#a5adb8",
    GRID: "#31363e",
    FAINT: "#5a626d",
    "#0072B2": "#3D9BE0",
    "#8C564B": "#B57F73",
    "#7D55C7": "#A98AE6",
    "#B5A600": "#F0E442",
    "#F0E442": "#F0E443",  # already light; a value of its own keeps the way back unambiguous
}

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
WIDTH = 900  # the narrowest page on which everything must be readable
SLIDER_HEIGHT = 90  # pixels that a slider adds to a figure
SEQUENTIAL = "Cividis"  # made for colour-blind readers, even in lightness
DIVERGING = ((0.0, "rgb(0,90,170)"), (0.5, "rgb(245,245,245)"), (1.0, "rgb(200,80,0)"))  # below, 0, above


@dataclass(frozen=True)
class Style:
    """Colour, dash and marker of one network, in plotly's words.

    >>> look = kdlab.plots.styles(["alone", "KD"])["KD"]
    >>> look.dash, look.symbol
    ('dash', 'square')
    >>> look.line() == {"color": look.color, "dash": look.dash, "width": look.width}
    True
    """

    color: str
    dash: str
    symbol: str
    width: float = 2.4

    def line(self) -> dict[str, Any]:
        """For `line=` of a trace."""
        return {"color": self.color, "dash": self.dash, "width": self.width}

    def marker(self, size: float = 8) -> dict[str, Any]:
        """For `marker=` of a trace; a thin rim of paper keeps markers apart."""
        return {
            "color": self.color,
            "symbol": self.symbol,
            "size": size,
            "line": {"color": PAPER, "width": 1},
        }


_TEACHERS = (
    Style(INK, "dash", "hexagon", 2.0),
    Style(MUTED, "dot", "pentagon", 2.0),
    Style(INK, "dashdot", "star", 2.0),
    Style(MUTED, "longdash", "bowtie", 2.0),
)


def styles(students: Sequence[str], teachers: Sequence[str] = ()) -> dict[str, Style]:
    """A style for each network, fixed by its place in the study; teachers are neutral and dashed.

    Args:
        students: all students of the study in their order, also those that are not drawn; or other
            things that are told apart, as terms of a loss.
        teachers: names of the teachers.

    Returns:
        name -> style, teachers too.

    >>> looks = kdlab.plots.styles(["alone", "KD"], teachers=["resnet8"])
    >>> looks["resnet8"].dash, looks["alone"].color != looks["KD"].color
    ('dash', True)
    >>> kdlab.plots.styles(["alone", "KD", "new"])["KD"] == looks["KD"]  # whoever comes later
    True
    """
    out = {name: _TEACHERS[i % len(_TEACHERS)] for i, name in enumerate(teachers)}
    for i, name in enumerate(students):
        out[name] = numbered(i)
    return out


def numbered(number: int) -> Style:
    """The style of a place in a list, counted from 0."""
    return Style(
        STUDENT_COLORS[number % len(STUDENT_COLORS)],
        DASHES[number % len(DASHES)],
        SYMBOLS[number % len(SYMBOLS)],
    )


def of_study(study: Any) -> dict[str, Style]:
    """The styles of a study's networks as they are now; those who come later do not change them."""
    return styles(study.names, study.teacher_names)


def class_style(label: int) -> tuple[str, str]:
    """Colour and marker of a class; the first 30 all differ in at least one of them."""
    return (
        CLASS_COLORS[label % len(CLASS_COLORS)],
        CLASS_SYMBOLS[(label + label // len(CLASS_COLORS)) % len(CLASS_SYMBOLS)],
    )


def apply(
    fig: go.Figure | dict[str, Any],
    *,
    summary: str,
    title: str | None = None,
    height: int = 430,
    legend: bool = True,
    dark: bool = False,
    **layout: Any,
) -> go.Figure:
    """A new figure: `fig` with the common look and its text alternative; `fig` itself stays as it is.

    Args:
        fig: or the description of one, {"data": ..., "layout": ...}, known to be right (see `unchecked`),
            which is used up.
        summary: what the figure shows in one or two sentences, kept in `layout.meta["summary"]`.
        title: short; figures in a report have their heading outside.
        height: in pixels; the width follows the page.
        legend: below the plot.
        dark: light lines on dark paper.
        layout: anything else of plotly's layout.
    """
    import plotly.graph_objects as go

    description = fig if isinstance(fig, dict) else _described(fig)
    own = description["layout"]
    own["template"] = {}  # else plotly's own look would be merged with this one
    for name in {"xaxis", "yaxis"} | {key for key in own if key.startswith(("xaxis", "yaxis"))}:
        axis = own.setdefault(name, {})
        for key, value in _AXIS.items():  # what the figure has chosen stays
            axis.setdefault(key, dict(value) if isinstance(value, dict) else value)
        axis["title"] = axis.get("title", {}) | {"standoff": 8}
    _merge(own, _common(summary, height, margin_top=56 if title else 28, legend=legend))
    if title:
        _merge(own, {"title": {"text": title, **_TITLE}})
    if legend:
        _merge(own, {"legend": _LEGEND})
    _merge(own, go.Layout(**layout).to_plotly_json())
    for note in own.get("annotations", ()):
        font = note.setdefault("font", {})
        font["color"] = font.get("color") or INK
    return unchecked(_exchanged(description, DARK) if dark else description)


_TITLE = dict(
    font=dict(size=17, color=INK),
    **dict(x=0, xref="paper", xanchor="left"),
    **dict(y=1, yref="container", yanchor="top", pad=dict(t=12)),  # above the legend
)
_LEGEND = dict(
    orientation="h",
    x=0,
    xanchor="left",
    y=1.02,
    yanchor="bottom",
    font=dict(size=13, color=INK),
    itemwidth=44,  # wide enough to tell the dashes apart
    traceorder="normal",
    bgcolor="rgba(0,0,0,0)",
)


def _common(summary: str, height: int, margin_top: int, legend: bool) -> dict[str, Any]:
    """The layout that all figures share."""
    return dict(
        meta={"summary": summary},
        height=height,
        autosize=True,
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        font=dict(family=FONT, size=14, color=INK),
        margin=dict(l=60, r=24, t=margin_top, b=52),
        hoverlabel=dict(
            font=dict(family=FONT, size=13, color=INK), bgcolor=PAPER, bordercolor=FAINT, namelength=-1
        ),
        showlegend=legend,
    )


def _described(fig: go.Figure) -> dict[str, Any]:
    """A copy of all that a figure says, as plain values; arrays stay arrays."""
    out: dict[str, Any] = {"data": [trace.to_plotly_json() for trace in fig.data]}
    out["layout"] = fig.layout.to_plotly_json()
    return out | {"frames": [frame.to_plotly_json() for frame in fig.frames]}


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Put `more` into a description; what is a mapping in both is merged."""
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def small_titles(fig: go.Figure) -> None:
    """Axis titles as large as the numbers, for figures of several plots."""
    for axis in (*fig.select_xaxes(), *fig.select_yaxes()):
        axis.title.font = dict(size=14, color=INK)


def recolour(fig: go.Figure, dark: bool) -> go.Figure:
    """A copy of `fig` for dark (or back for light) paper; every paired colour is exchanged.

    >>> fig = kdlab.plots.curves(study)
    >>> night = kdlab.plots.recolour(fig, dark=True)
    >>> fig.layout.paper_bgcolor, night.layout.paper_bgcolor
    ('#ffffff', '#171a1f')
    >>> kdlab.plots.recolour(night, dark=False) == fig
    True
    """
    pairs = DARK if dark else {night: day for day, night in DARK.items()}
    return unchecked(_exchanged(_described(fig), pairs))


def _exchanged(value: Any, pairs: Mapping[str, str]) -> Any:
    """A copy of a description in which each colour of `pairs` is the other one."""
    lower = {one.lower(): other for one, other in pairs.items()}

    def exchange(value: Any) -> Any:
        if isinstance(value, str):
            return lower.get(value.lower(), value) if value.startswith("#") else value
        if isinstance(value, Mapping):
            return {key: exchange(v) for key, v in value.items()}
        if isinstance(value, list | tuple):
            return [exchange(v) for v in value]
        if isinstance(value, np.ndarray) and value.dtype.kind in "OU":
            return [exchange(v) for v in value.tolist()]
        return value

    return exchange(value)


def unchecked(description: Mapping[str, Any]) -> go.Figure:
    """A figure of a description that is known to be right.

    plotly checks every single colour and marker of a long list, which takes seven times as long as all the
    rest of a figure of 2000 points. What is changed afterwards is checked as ever.
    """
    import plotly.graph_objects as go

    fig = go.Figure(description, _validate=False)
    for part in (fig, fig.layout, *fig.data):
        part._validate = True
    return fig


def log_axis(values: Any, *, factor: float = 30.0) -> dict[str, Any]:
    """A logarithmic axis where positive values span more than `factor`; {} where a linear one shows them all.

    Not more labels than there is room for, and powers of ten where plain numbers would be long.

    >>> kdlab.plots.theme.log_axis([0.5, 200])
    {'type': 'log', 'dtick': 1, 'tickformat': '~g'}
    """
    seen = np.ravel(np.asarray(values, dtype=np.float64))
    seen = seen[np.isfinite(seen)]
    if not len(seen) or seen.min() <= 0 or seen.max() <= factor * seen.min():
        return {}
    low, high = np.log10([seen.min(), seen.max()])
    step: Any = "D2" if high - low < 1.5 else max(1, int(np.ceil((high - low) / 8)))
    short = low > -4.5 and high < 4.5
    return {"type": "log", "dtick": step, **({"tickformat": "~g"} if short else {"exponentformat": "power"})}


def faint(color: str, alpha: float = 0.16) -> str:
    """`color` (#rrggbb) as a translucent fill, readable on both papers."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def shortened(text: str, most: int = 14) -> str:
    """`text`, cut with an ellipsis where it would not fit."""
    return text if len(text) <= most else text[: most - 1] + "…"


def slider(labels: Sequence[str], prefix: str, active: int, *, redraw: bool = False) -> dict[str, Any]:
    """A slider that goes through the frames named `labels`, for `layout.sliders`."""
    how = {"mode": "immediate", "frame": {"duration": 350, "redraw": redraw}, "transition": {"duration": 300}}
    return {
        "active": active,
        "currentvalue": {"prefix": prefix, "font": {"size": 14, "color": INK}},
        "font": {"size": 12, "color": MUTED},
        "pad": {"t": 36, "b": 6},
        "len": 0.96,
        "x": 0.02,
        "bgcolor": GRID,
        "bordercolor": FAINT,
        "activebgcolor": FAINT,
        "tickcolor": FAINT,
        "steps": [{"label": label, "method": "animate", "args": [[label], how]} for label in labels],
    }

"""Plain lines and bars in the look of all figures, for numbers that are no result of a probe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError
from kdlab.plots import theme
from kdlab.plots.bars import error_bars, over_seeds

if TYPE_CHECKING:
    import plotly.graph_objects as go


def lines(
    x: Any,
    series: Mapping[str, Any],
    *,
    x_title: str = "",
    y_title: str = "",
    log_x: bool = False,
    marks: Mapping[str, float] | None = None,
    summary: str = "",
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw a line for each series, with a band from its lowest to its highest row where it has several.

    Args:
        x: (n,) numbers, increasing.
        series: name -> (n,) numbers, or (R, n): R repetitions (seeds), of which the mean is drawn.
        x_title, y_title: of the axes, with units.
        log_x: a logarithmic axis, with ticks at `x`.
        marks: name -> a place on the x axis to be marked by a dotted line.
        summary: a sentence on what the figure shows.
        title: of the figure.
        dark: light lines on dark paper.

    Raises:
        ConfigError: no series, or one that does not fit `x`; a mark or an x that is no place on the axis.

    >>> from kdlab import plots
    >>> fig = plots.lines([1, 2, 4], {"KD": [[3.0, 2.0, 1.0], [5.0, 4.0, 3.0]]}, x_title="temperature")
    >>> [float(y) for y in fig.data[1].y]  # the mean; the band comes before it
    [4.0, 3.0, 2.0]
    """
    import plotly.graph_objects as go

    at = np.asarray(x, dtype=np.float64)
    if log_x and not (at > 0).all():
        raise ConfigError(f"A logarithmic axis needs positive numbers; `x` has {at.min():g}.")
    tables = {name: _rows(name, values, len(at), "place on the x axis") for name, values in series.items()}
    if not tables:
        raise ConfigError("There is no series to draw; give at least one.")
    looks = theme.styles(list(tables))
    fig = go.Figure()
    for name, table in tables.items():
        mean, minus, plus = over_seeds(table.T)
        if len(table) > 1:
            fig.add_scatter(
                x=np.concatenate([at, at[::-1]]),
                y=np.concatenate([mean + plus, (mean - minus)[::-1]]),
                fill="toself",
                fillcolor=theme.faint(looks[name].color),
                line=dict(width=0),
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
                legendgroup=name,
            )
        fig.add_scatter(
            x=at,
            y=mean,
            name=name,
            legendgroup=name,
            mode="lines+markers",
            line=looks[name].line(),
            marker={**looks[name].marker(), "maxdisplayed": 9},
            hovertemplate=f"{name}, %{{x:.4g}}: %{{y:.4g}}<extra></extra>",
        )
    add_marks(fig, marks, log_x)
    fig.update_xaxes(title=x_title, zeroline=False)
    if log_x:
        fig.update_xaxes(type="log", tickvals=at, ticktext=[f"{value:g}" for value in at])
    fig.update_yaxes(title=y_title, zeroline=False)
    return theme.apply(
        fig, summary=summary or f"Lines of {', '.join(tables)}.", title=title, height=390, dark=dark
    )


def add_marks(fig: go.Figure, marks: Mapping[str, float] | None, log_x: bool = False) -> None:
    """A dotted line with its name at each of these places of the x axis.

    Raises:
        ConfigError: something that is no place on this axis.
    """
    if marks is not None and not isinstance(marks, Mapping):
        raise ConfigError(f"`marks` names places, such as {{'here': 4}}, and is not {marks!r}.")
    for text, place in (marks or {}).items():
        at = _number(place)
        if not math.isfinite(at) or (log_x and at <= 0):
            wanted = "a positive number, as the axis is logarithmic" if log_x else "a finite number"
            raise ConfigError(f"The place of the mark {text!r} must be {wanted}, not {place!r}.")
        fig.add_vline(x=at, line=dict(color=theme.MUTED, dash="dot", width=1.5))
        fig.add_annotation(
            x=float(np.log10(at)) if log_x else at,
            y=1.0,
            yref="y domain",
            text=text,
            showarrow=False,
            xanchor="left",
            yanchor="top",
            xshift=4,
            font=dict(size=12, color=theme.MUTED),
        )


def _number(value: Any) -> float:
    """As a float, also from a tensor of one number; NaN if it is no number."""
    try:
        return float("nan") if isinstance(value, str) else float(value)
    except (TypeError, ValueError, RuntimeError):
        return float("nan")


def grouped_bars(
    names: Sequence[str],
    series: Mapping[str, Any],
    *,
    x_title: str = "",
    y_title: str = "",
    summary: str = "",
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw a group of bars for each name, one bar a series, with strokes from its lowest to its highest row.

    Args:
        names: of the groups, in order.
        series: name -> a number for each group, or (R, groups): R repetitions (seeds), of which the mean
            is drawn.
        x_title, y_title: of the axes, with units.
        summary: a sentence on what the figure shows.
        title: of the figure.
        dark: light text on dark paper.

    Raises:
        ConfigError: no series, or one that does not fit `names`.

    >>> from kdlab import plots
    >>> fig = plots.grouped_bars(["cat", "dog"], {"teacher": [0.9, 0.1], "student": [0.6, 0.4]})
    >>> [(trace.name, float(trace.y[1])) for trace in fig.data]
    [('teacher', 0.1), ('student', 0.4)]
    """
    import plotly.graph_objects as go

    tables = {name: _rows(name, values, len(names), "name") for name, values in series.items()}
    if not tables:
        raise ConfigError("There is no series to draw; give at least one.")
    looks = theme.styles(list(tables))
    hatches = ("", "/", "x", ".", "\\", "-", "+", "|")
    fig = go.Figure()
    for number, (name, table) in enumerate(tables.items()):
        mean, minus, plus = over_seeds(table.T)
        several = error_bars(minus, plus, theme.INK) if len(table) > 1 else None
        fig.add_bar(
            x=[str(one) for one in names],
            y=mean,
            name=name,
            error_y=several,
            marker=dict(
                color=looks[name].color,
                line=dict(color=theme.PAPER, width=1),
                pattern=dict(
                    shape=hatches[number % len(hatches)],
                    fillmode="overlay",  # else the bar's own colour gives way to the hatch
                    **dict(fgcolor=theme.PAPER, size=6, solidity=0.25),
                ),
            ),
            hovertemplate=f"{name}, %{{x}}: %{{y:.4g}}<extra></extra>",
        )
    fig.update_xaxes(title=x_title, type="category", showgrid=False)
    fig.update_yaxes(title=y_title, zeroline=True)
    return theme.apply(
        fig,
        summary=summary or f"Bars of {', '.join(tables)}.",
        title=title,
        height=360,
        dark=dark,
        barmode="group",
        bargap=0.25,
        bargroupgap=0.05,
    )


def _rows(name: str, values: Any, wanted: int, each: str) -> np.ndarray:
    """(R, wanted) numbers."""
    table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if table.ndim != 2 or table.shape[1] != wanted or not np.isfinite(table).any():
        raise ConfigError(
            f"{name!r} has the shape {np.shape(values)}; it needs one finite number a {each} ({wanted})."
        )
    return table

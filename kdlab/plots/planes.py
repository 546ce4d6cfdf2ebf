"""Maps in the plane side by side: the same points placed in several ways, or several sets of points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError
from kdlab.plots import theme
from kdlab.plots.points import MOST_LEGEND_CLASSES, grid_columns

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ROW_HEIGHT = 290  # pixels


def planes(
    maps: Mapping[str, Any],
    values: Any,
    *,
    names: Sequence[str] = (),
    notes: Mapping[str, str] | None = None,
    summary: str = "",
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw maps of points side by side, each on a scale of its own, with some text below it.

    Args:
        maps: name -> (n, 2) places; at least one map.
        values: (n,) what the points are coloured by: whole numbers are groups, with a marker each (up to
            20); anything else is a scale.
        names: of the groups, by number.
        notes: name of a map -> what stands below it, such as numbers that judge it; "<br>" begins a line.
        summary: a sentence on what the figure shows.
        title: of the figure.
        dark: light text on dark paper.

    Raises:
        ConfigError: no map, or places and values that do not fit.

    >>> from kdlab import plots
    >>> square = [[0, 0], [0, 1], [1, 1], [1, 0]]
    >>> fig = plots.planes({"square": square, "line": [[0, 0], [1, 0], [2, 0], [3, 0]]}, [0, 0, 1, 1])
    >>> [note.text for note in fig.layout.annotations]
    ['square', 'line']
    """
    from plotly.subplots import make_subplots

    values = np.asarray(values)
    shown = {name: _places(name, places, len(values)) for name, places in maps.items()}
    if not shown:
        raise ConfigError("There is no map to draw; give at least one.")
    across = grid_columns(len(shown))
    rows = -(-len(shown) // across)
    below = 18 * max((text.count("<br>") + 1 for text in (notes or {}).values()), default=0)
    fig = make_subplots(
        rows,
        across,
        subplot_titles=[theme.shortened(name, 96 // across) for name in shown],
        horizontal_spacing=0.03,
        vertical_spacing=min(0.12 + below / _ROW_HEIGHT, 0.8) / rows,
    )
    groups = values.dtype.kind in "iu" and len(np.unique(values)) <= MOST_LEGEND_CLASSES
    for place, (name, flat) in enumerate(shown.items()):
        fig.add_scatter(
            x=np.round(flat[:, 0], 3),
            y=np.round(flat[:, 1], 3),
            mode="markers",
            name=name,
            showlegend=False,
            marker=_markers(values, groups),
            text=[names[v] if groups and len(names) else f"{v:.3g}" for v in values],
            hovertemplate=f"{name}: %{{text}}<extra></extra>",
            row=place // across + 1,
            col=place % across + 1,
        )
        text = (notes or {}).get(name)
        if text:
            axis = str(place + 1) if place else ""
            where = dict(x=0.5, xref=f"x{axis} domain", y=0, yref=f"y{axis} domain", yanchor="top", yshift=-6)
            fig.add_annotation(text=text, showarrow=False, **where)
    for note in fig.layout.annotations:
        note.font = dict(size=13, color=theme.INK)
    for number, axis in enumerate(fig.select_yaxes()):
        anchor = f"x{number + 1 if number else ''}"
        axis.update(scaleanchor=anchor, constrain="domain", constraintoward="top")
    bare = dict(showticklabels=False, ticks="", showgrid=False, zeroline=False, mirror=True)
    fig.update_xaxes(constrain="domain", **bare)
    fig.update_yaxes(**bare)
    for value in np.unique(values) if groups and len(names) else ():
        look = _markers(np.array([value]), True) | {"size": 9}
        fig.add_scatter(x=[None], y=[None], mode="markers", name=names[value], marker=look)
    keyed = groups and len(names) > 0
    return theme.apply(
        fig,
        summary=summary or f"Maps of {len(values)} points: {', '.join(shown)}.",
        title=title,
        height=(_ROW_HEIGHT + below) * rows + (28 if title else 0) + (40 if keyed else 0),
        legend=keyed,
        dark=dark,
        margin=dict(l=16, r=16, t=(56 if title else 28) + (40 if keyed else 0), b=16 + below),
        **({"legend_y": 1.1} if keyed else {}),
    )


def _places(name: str, places: Any, count: int) -> np.ndarray:
    found = np.asarray(places, dtype=np.float64)
    if found.shape != (count, 2) or not np.isfinite(found).all():
        raise ConfigError(
            f"{name!r} has the shape {found.shape}; it needs a finite place in the plane for each of the "
            f"{count} values."
        )
    return found


def _markers(values: np.ndarray, groups: bool) -> dict[str, Any]:
    common = {"size": 6, "opacity": 0.9, "line": {"width": 0.4, "color": theme.PAPER}}
    if not groups:
        return {**common, "color": values, "colorscale": theme.SEQUENTIAL, "showscale": False}
    looks = [theme.class_style(int(value)) for value in values]
    return {**common, "color": [look[0] for look in looks], "symbol": [look[1] for look in looks]}

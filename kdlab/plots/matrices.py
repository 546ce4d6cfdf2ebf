"""Tables side by side as heat maps: similarities of pictures, correlations of channels, small maps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.plots import theme

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ROW_HEIGHT = 200  # pixels


def matrices(
    tables: Mapping[str, Any],
    *,
    signed: Collection[str] = (),
    groups: Sequence[str] | None = None,
    unit: str = "",
    columns: int = 5,
    summary: str = "",
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw tables as heat maps of square cells under their names, all on one colour scale.

    Args:
        tables: name -> (rows, columns) numbers, row 0 at the top; at least one table.
        signed: names of tables of differences, which get a scale of their own: blue below 0, orange above.
        groups: what each row and column belongs to (the class of each picture), in order; thin lines
            part the groups and their names stand at the first column of plots. Then tables are square.
        unit: what the colour means.
        columns: plots in a row.
        summary: a sentence on what the figure shows.
        title: of the figure.
        dark: light text on dark paper.

    Raises:
        ConfigError: no table, or shapes that do not fit.
        UnknownNameError: `signed` names no table.

    >>> fig = kdlab.plots.matrices({"alone": [[1, 0.2], [0.2, 1]], "KD": [[1, 0.6], [0.6, 1]]}, unit="cosine")
    >>> [note.text for note in fig.layout.annotations]
    ['alone', 'KD']
    """
    from plotly.subplots import make_subplots

    shown = {name: _table(name, table, groups) for name, table in tables.items()}
    if not shown:
        raise ConfigError("There is no table to draw; give at least one.")
    for name in signed:
        if name not in shown:
            raise unknown_name("table", name, shown)
    across = min(columns, len(shown))
    rows = -(-len(shown) // across)
    fig = make_subplots(
        rows,
        across,
        subplot_titles=[theme.shortened(name, 96 // across) for name in shown],
        horizontal_spacing=0.03,
        vertical_spacing=0.16 / rows,
    )
    for place, (name, table) in enumerate(shown.items()):
        where = {"row": place // across + 1, "col": place % across + 1}
        axis = "coloraxis2" if name in signed else "coloraxis"
        words = _hover(name, groups)
        said = None if groups is None else np.array([[(a, b) for b in groups] for a in groups])
        fig.add_heatmap(z=table, coloraxis=axis, customdata=said, hovertemplate=words, **where)
        for start in _starts(groups)[1:]:
            line = dict(color=theme.PAPER, width=0.6)
            fig.add_hline(y=start - 0.5, line=line, **where)
            fig.add_vline(x=start - 0.5, line=line, **where)
    for note in fig.layout.annotations:
        note.font = dict(size=13, color=theme.INK)
    _axes(fig, groups, across)
    theme.small_titles(fig)
    return theme.apply(
        fig,
        summary=summary or f"Heat maps of {', '.join(shown)}.",
        title=title,
        height=_ROW_HEIGHT * rows + (76 if title else 46),
        legend=False,
        dark=dark,
        margin=dict(l=44 if groups is not None else 16, r=16, t=70 if title else 40, b=16),
        **_scales(shown, signed, unit, rows),
    )


def _table(name: str, table: Any, groups: Sequence[str] | None) -> np.ndarray:
    found = np.asarray(table, dtype=np.float64)
    if found.ndim != 2 or not found.size:
        raise ConfigError(f"A table of rows and columns is drawn; {name!r} has the shape {found.shape}.")
    if groups is not None and found.shape != (len(groups), len(groups)):
        raise ConfigError(f"{name!r} has the shape {found.shape}, and there are {len(groups)} groups.")
    return found


def _starts(groups: Sequence[str] | None) -> list[int]:
    """Where each run of equal groups begins."""
    if groups is None:
        return []
    return [i for i, group in enumerate(groups) if i == 0 or group != groups[i - 1]]


def _hover(name: str, groups: Sequence[str] | None) -> str:
    if groups is None:
        return f"row %{{y}}, column %{{x}}: %{{z:.3f}}<extra>{name}</extra>"
    return f"%{{customdata[0]}} and %{{customdata[1]}}: %{{z:.3f}}<extra>{name}</extra>"


def _axes(fig: go.Figure, groups: Sequence[str] | None, across: int) -> None:
    """Square cells, row 0 at the top; names of the groups at the left."""
    bare = dict(showgrid=False, zeroline=False, showline=False, ticks="", constrain="domain")
    fig.update_xaxes(showticklabels=False, **bare)
    for number, axis in enumerate(fig.select_yaxes()):
        first = number % across == 0
        axis.update(scaleanchor=f"x{number + 1 if number else ''}", autorange="reversed", **bare)
        axis.update(showticklabels=first and groups is not None)
        if first and groups is not None:
            starts = [*_starts(groups), len(groups)]
            middles = [(a + b - 1) / 2 for a, b in pairwise(starts)]
            names = [theme.shortened(str(groups[start]), 6) for start in starts[:-1]]
            axis.update(tickvals=middles, ticktext=names, tickfont=dict(size=11))


def _scales(shown: Mapping[str, np.ndarray], signed: Collection[str], unit: str, rows: int) -> dict[str, Any]:
    """One colour scale for the tables, another around 0 for the differences: below it where there is room."""
    plain = [table for name, table in shown.items() if name not in signed]
    layout: dict[str, Any] = {}
    both = bool(plain and signed)
    half = 0.48 if both and rows > 1 else 1.0
    bar = dict(thickness=12, outlinewidth=0, len=half, yanchor="top")
    other = dict(x=1.12, y=1.0) if both and rows == 1 else dict(y=half)
    heading = dict(side="right", font=dict(size=12))
    if plain:
        layout["coloraxis"] = dict(
            colorscale=theme.SEQUENTIAL,
            cmin=min(float(np.nanmin(t)) for t in plain),
            cmax=max(float(np.nanmax(t)) for t in plain),
            colorbar={**bar, "y": 1.0, "title": {**heading, "text": unit}},
        )
    if signed:
        most = max(max(float(np.nanmax(np.abs(shown[name]))) for name in signed), 1e-12)
        layout["coloraxis2"] = dict(
            colorscale=[list(stop) for stop in theme.DIVERGING],
            cmin=-most,
            cmax=most,
            colorbar={**bar, **other, "title": {**heading, "text": "difference"}},
        )
    return layout

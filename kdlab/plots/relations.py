"""Relations among pictures: the tables of teacher and students, their differences, or pair against pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.plots import theme
from kdlab.plots.matrices import matrices
from kdlab.probes.relations import KINDS, Relations

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MOST_POINTS = 1500  # of a plot: more would hide each other


def relations(
    result: Relations,
    *,
    show: str = "tables",
    columns: int = 5,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw how networks relate the same pictures.

    Args:
        result: from `kdlab.probes.relations`.
        show: "tables" (a heat map for each network, pictures in order of their classes), "difference"
            (each student minus the teacher, and the teacher itself first) or "pairs" (for each student a
            point for each pair of pictures: across the teacher's number, up the student's).
        columns: plots in a row.
        title: of the figure.
        dark: light text on dark paper.

    Raises:
        ConfigError: an unknown option, or no teacher to compare with.

    >>> fig = kdlab.plots.relations(kdlab.probes.relations(study, n=20), show="difference")
    >>> [note.text for note in fig.layout.annotations][1:]
    ['alone − resnet8', 'KD − resnet8']
    """
    if show not in ("tables", "difference", "pairs"):
        raise unknown_name("value of show", show, ("tables", "difference", "pairs"))
    if show != "tables" and not result.correlation:
        raise ConfigError("This needs a teacher and a student; give one: teacher=...")
    if show == "pairs":
        return _pairs(result, columns, title, dark)
    # The diagonal, a picture with itself, is the same for all networks and would hide the rest.
    bare = np.where(np.eye(len(result.labels), dtype=bool), np.nan, 0.0)
    tables = {name: result.tables[name] + bare for name in result.networks}
    signed: list[str] = []
    if show == "difference":
        first = result.teachers[0]
        signed = [f"{name} − {first}" for name in result.correlation]
        tables = {first: tables[first]} | {
            f"{name} − {first}": tables[name] - tables[first] for name in result.correlation
        }
    groups = [result.class_names[label] for label in result.labels]
    return matrices(
        tables,
        signed=signed,
        groups=groups,
        unit=KINDS[result.kind],
        columns=columns,
        summary=result.summary,
        title=title,
        dark=dark,
    )


def _pairs(result: Relations, columns: int, title: str | None, dark: bool) -> go.Figure:
    from plotly.subplots import make_subplots

    names, first = list(result.correlation), result.teachers[0]
    across = min(columns, 4, len(names))
    rows = -(-len(names) // across)
    heads = [f"{theme.shortened(n, 60 // across)} (ρ {result.correlation[n]:.2f})" for n in names]
    fig = make_subplots(
        rows,
        across,
        subplot_titles=[head.replace("-", "−") for head in heads],
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=0.2 / rows,
    )
    n = len(result.labels)
    upper = np.array([(i, j) for i in range(n) for j in range(n) if (i < j if _mirrored(result) else i != j)])
    alike = result.labels[upper[:, 0]] == result.labels[upper[:, 1]]
    looks = theme.styles(["same class", "two classes"])
    for place, name in enumerate(names):
        where = {"row": place // across + 1, "col": place % across + 1}
        for kind, chosen in (("two classes", ~alike), ("same class", alike)):
            drawn = _thinned(upper[chosen])
            fig.add_scatter(
                x=np.round(result.tables[first][drawn[:, 0], drawn[:, 1]], 4),
                y=np.round(result.tables[name][drawn[:, 0], drawn[:, 1]], 4),
                mode="markers",
                name=f"pictures of {kind if kind != 'same class' else 'the same class'}",
                legendgroup=kind,
                showlegend=place == 0,
                marker=dict(color=looks[kind].color, symbol=looks[kind].symbol, size=5, opacity=0.6),
                hovertemplate=f"{first} %{{x:.2f}}, {name} %{{y:.2f}}<extra></extra>",
                **where,
            )
        ends = [float(f(result.pairs(first))) for f in (np.min, np.max)]
        line = dict(color=theme.MUTED, dash="dot", width=1.2)
        fig.add_scatter(x=ends, y=ends, mode="lines", line=line, showlegend=False, hoverinfo="skip", **where)
    for note in fig.layout.annotations:
        note.font = dict(size=13, color=theme.INK)
    fig.update_xaxes(title=f"{theme.shortened(first, 24)} (teacher)", row=rows)
    fig.update_yaxes(title=KINDS[result.kind], col=1)
    theme.small_titles(fig)
    height = 250 * rows + 110
    fig = theme.apply(fig, summary=result.summary, title=title, height=height)
    fig.update_layout(legend=dict(y=1.0 + 40 / (height - 150)), margin=dict(t=78 + (30 if title else 0)))
    return theme.recolour(fig, dark=True) if dark else fig


def _mirrored(result: Relations) -> bool:
    """Whether a pair of pictures has one number and not two."""
    return result.kind == "distance"


def _thinned(pairs: Sequence[Sequence[int]] | np.ndarray) -> np.ndarray:
    """At most `_MOST_POINTS` pairs, evenly chosen."""
    found = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    return found[:: max(1, -(-len(found) // _MOST_POINTS))]

"""What figures of maps have in common: categories of points, texts on hover, the grid of small plots."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from kdlab.plots import theme
from kdlab.probes.embedding import Embedding

MOST_LEGEND_CLASSES = 20
YES, NO = (theme.OKABE_ITO[0], "circle"), (theme.OKABE_ITO[1], "x")


def grid_columns(count: int) -> int:
    """Plots in a row, of `count` small plots."""
    return count if count <= 3 else 2 if count == 4 else 3 if count <= 6 else 4


def grid(
    count: int, columns: int, height: float, title: float = 28.0, gap: float = 0.02
) -> list[tuple[list[float], list[float]]]:
    """Where small plots stand: for each its [left, right] and [bottom, top] in shares of the plotting area.

    Args:
        count: plots, row by row.
        columns: in a row.
        height: of a row in pixels, with its titles.
        title: pixels above each plot that its title takes.
        gap: between two columns, in shares of the width.
    """
    rows = -(-count // columns)
    width, above = (1 - gap * (columns - 1)) / columns, title / (height * rows)
    out = []
    for number in range(count):
        row, column = divmod(number, columns)
        left, top = column * (width + gap), 1 - row / rows - above
        out.append(([left, left + width], [max(1 - (row + 1) / rows, 0.0), top]))
    return out


def categories(result: Embedding, color: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """(n,) what points are coloured by, and the names of its values."""
    if color == "coarse" and result.coarse is not None:
        values, names = result.coarse, result.coarse_names
    elif color in result.factors:
        raw = np.asarray(result.factors[color])
        names = result.factor_names.get(color, ())
        if names and raw.dtype.kind in "iu":
            return raw, names
        known, values = np.unique(raw, return_inverse=True)
        if len(known) > MOST_LEGEND_CLASSES:  # a measure: fifths of it
            edges = np.quantile(raw, [0.2, 0.4, 0.6, 0.8])
            ends = [float(raw.min()), *edges, float(raw.max())]
            return np.searchsorted(edges, raw), tuple(f"{a:.3g} to {b:.3g}" for a, b in pairwise(ends))
        return values, tuple(str(value) for value in known)
    else:
        values, names = result.labels, result.class_names
    return values, names or tuple(map(str, range(int(values.max()) + 1)))


def joined_lines(result: Embedding, epoch: int, n: int, look: theme.Style) -> Any:
    """Faint lines from the teacher's points to network n's of the same pictures."""
    import plotly.graph_objects as go

    flat = pair_ends(result, epoch, n)
    return go.Scatter(
        x=flat[:, 0],
        y=flat[:, 1],
        mode="lines",
        line=dict(color=theme.faint(look.color, 0.25), width=1),
        hoverinfo="skip",
        showlegend=False,
        legendgroup=result.networks[n],
    )


def pair_ends(result: Embedding, epoch: int, n: int) -> np.ndarray:
    """(3n, 2) teacher's point, student's point, a gap, and so on."""
    ends = np.full((len(result.labels), 3, 2), np.nan)
    ends[:, 0], ends[:, 1] = result.coordinates[epoch, 0], result.coordinates[epoch, n]
    return np.round(ends.reshape(-1, 2), 3)


def hover_texts(result: Embedding, epoch: int, n: int) -> list[str]:
    """(n,) class, what it is taken for, and the most probable classes for network n and the teacher."""
    names = result.class_names
    own = _likely(result, epoch, n)
    teachers = _likely(result, epoch, 0) if result.teachers and n > 0 else [""] * len(own)
    out = []
    for index, label, said, here, there in zip(
        result.index, result.labels, result.predicted[epoch, n], own, teachers, strict=True
    ):
        told = "" if said < 0 or said == label else f", taken for {names[said]}"
        out.append(f"{names[label]}{told} (picture {index}){here}{there}")
    return out


def _likely(result: Embedding, epoch: int, n: int) -> list[str]:
    """(n,) the most probable classes of each picture with their probabilities, or "" if not known."""
    if result.top is None or result.top_share is None:
        return [""] * len(result.labels)
    head = f"<br>{theme.shortened(result.networks[n], 24)}: "
    rows = zip(result.top[epoch, n].tolist(), result.top_share[epoch, n].tolist(), strict=True)
    return [
        head + ", ".join(f"{result.class_names[c]} {p:.2f}" for c, p in zip(top, shares) if c >= 0)
        if top[0] >= 0
        else ""
        for top, shares in rows
    ]

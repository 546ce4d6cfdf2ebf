"""Several groups of numbers as histograms on one axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError
from kdlab.plots import theme
from kdlab.plots.plain import add_marks

if TYPE_CHECKING:
    import plotly.graph_objects as go


def histogram(
    groups: Mapping[str, Any],
    *,
    unit: str = "",
    marks: Mapping[str, float] | None = None,
    bins: int = 40,
    summary: str = "",
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw the share of the numbers of each group that falls into each bin, as steps on common bins.

    Args:
        groups: name -> numbers of any shape, all finite; groups may differ in size.
        unit: what the numbers are, for the axis.
        marks: name -> a place on the axis to be marked by a dotted line.
        bins: of equal width, from the smallest number to the largest.
        summary: a sentence on what the figure shows.
        title: of the figure.
        dark: light lines on dark paper.

    Raises:
        ConfigError: no group, an empty one, or numbers that are not finite.

    >>> fig = kdlab.plots.histogram({"positive": [0.8, 0.9], "negative": [-0.1, 0.1, 0.0]}, bins=5)
    >>> [trace.name for trace in fig.data]
    ['positive', 'negative']
    >>> float(sum(fig.data[1].y[1:-1]))
    100.0
    """
    import plotly.graph_objects as go

    numbers = {name: np.asarray(values, dtype=np.float64).ravel() for name, values in groups.items()}
    for name, values in numbers.items():
        if not values.size or not np.isfinite(values).all():
            raise ConfigError(f"A histogram needs finite numbers, at least one; {name!r} has none or others.")
    if not numbers:
        raise ConfigError("There is nothing to draw; give at least one group of numbers.")
    whole = np.concatenate(list(numbers.values()))
    edges = np.histogram_bin_edges(whole, bins=bins)
    looks = theme.styles(list(numbers))
    fig = go.Figure()
    for name, values in numbers.items():
        share = 100 * np.histogram(values, edges)[0] / values.size
        fig.add_scatter(
            x=np.concatenate([edges[:1], edges]),
            y=np.round(np.concatenate([[0.0], share, [0.0]]), 4),
            name=name,
            mode="lines",
            line=dict(color=looks[name].color, dash=looks[name].dash, width=2, shape="hv"),
            fill="tozeroy",
            fillcolor=theme.faint(looks[name].color),
            hovertemplate=f"{name}, from %{{x:.3g}}: %{{y:.1f}} %<extra></extra>",
        )
    add_marks(fig, marks)
    fig.update_xaxes(title=unit, zeroline=False)
    highest = max(float(np.max(trace.y)) for trace in fig.data)
    room = 1.18 if marks else 1.05  # the names of the marks stand above the steps
    fig.update_yaxes(title="share of the numbers (%)", range=[0, room * highest])
    return theme.apply(
        fig, summary=summary or f"Histograms of {', '.join(numbers)}.", title=title, height=330, dark=dark
    )

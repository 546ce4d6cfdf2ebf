"""The nearest pictures of one picture, a row a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kdlab.plots import theme
from kdlab.plots.pictures import png
from kdlab.probes.neighbours import Neighbours

if TYPE_CHECKING:
    import plotly.graph_objects as go


def neighbours(result: Neighbours, *, title: str | None = None, dark: bool = False) -> go.Figure:
    """Draw the picture and its neighbours in the features, a row for each network, nearest first.

    Pictures of another class have a dashed frame of another colour; a star marks those that are also
    neighbours in the first network.

    Args:
        result: from `kdlab.probes.neighbours`.
        title: of the figure.
        dark: on dark paper.

    >>> fig = kdlab.plots.neighbours(kdlab.probes.neighbours(study, place=0, k=3))
    >>> fig.layout.xaxis.title.text, len(fig.layout.images)  # the picture, and 3 for each of 3 networks
    ('nearest first', 10)
    """
    import plotly.graph_objects as go

    rows, k = result.places.shape
    fig = go.Figure()
    cell = (theme.WIDTH - 190) / (k + 1)
    letters = max(int(cell / 8), 4)
    for r in range(rows):
        told = []
        for c in range(k):
            same = result.labels[r, c] == result.label
            shared = r > 0 and result.places[r, c] in result.places[0]
            name = result.class_names[result.labels[r, c]]
            gap = "" if np.isnan(result.distance[r, c]) else f", distance {result.distance[r, c]:.2f}"
            told.append(f"{name} (picture {result.indices[r, c]}){gap}")
            image = None if result.images is None else result.images[r, c]
            text = theme.shortened(name, letters) + (" ★" if shared else "")
            _tile(fig, c + 1, r, image, theme.OKABE_ITO[0 if same else 1], "solid" if same else "dash", text)
        fig.add_scatter(
            x=list(range(1, k + 1)),
            y=[r] * k,
            mode="markers",
            marker=dict(size=max(cell * 0.8, 8), opacity=0, symbol="square"),
            text=told,
            hovertemplate=f"{result.networks[r]}: %{{text}}<extra></extra>",
            showlegend=False,
        )
    _tile(
        fig,
        0,
        0,
        result.image,
        theme.INK,
        "solid",
        theme.shortened(result.class_names[result.label], letters),
    )
    for word, color, dash in (
        ("same class", theme.OKABE_ITO[0], "solid"),
        ("another class", theme.OKABE_ITO[1], "dash"),
    ):
        fig.add_scatter(
            x=[None], y=[None], mode="lines", name=word, line=dict(color=color, dash=dash, width=2)
        )
    if rows > 1:
        fig.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=f"neighbour in {theme.shortened(result.networks[0], 20)} too",
            marker=dict(symbol="star", color=theme.INK, size=9),
        )
    names = [
        theme.shortened(name, 16) + ("<br>(teacher)" if name in result.teachers else "")
        for name in result.networks
    ]
    bare = dict(showgrid=False, zeroline=False, ticks="", showline=False)
    fig.update_yaxes(tickvals=list(range(rows)), ticktext=names, range=[rows - 0.35, -0.5], **bare)
    fig.update_xaxes(
        tickvals=list(range(k + 1)),
        ticktext=["picture", *(str(c) for c in range(1, k + 1))],
        range=[-0.5, k + 0.5],
        side="bottom",
        title="nearest first",
        **bare,
    )
    height = int((cell + 26) * rows + 130 + (30 if title else 0))
    return theme.apply(
        fig,
        summary=result.summary,
        title=title,
        height=height,
        dark=dark,
        margin=dict(l=110, r=12, t=76 if title else 44, b=48),
    )


def _tile(fig: go.Figure, x: int, y: int, image: np.ndarray | None, color: str, dash: str, text: str) -> None:
    """One picture with its frame, and its class below."""
    if image is not None:
        fig.add_layout_image(
            source=png(image),
            x=x,
            y=y,
            xref="x",
            yref="y",
            sizex=0.84,
            sizey=0.7,
            xanchor="center",
            yanchor="middle",
            layer="below",
        )
    fig.add_shape(
        type="rect",
        x0=x - 0.43,
        x1=x + 0.43,
        y0=y - 0.37,
        y1=y + 0.37,
        line=dict(color=color, dash=dash, width=2),
    )
    fig.add_annotation(x=x, y=y + 0.38, text=text, showarrow=False, yanchor="top", font=dict(size=12))

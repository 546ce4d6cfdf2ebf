"""Maps of teacher and students, with an epoch slider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError
from kdlab.plots import theme
from kdlab.probes.embedding import METHODS, Embedding
from kdlab.probes.representation import AS_GIVEN

if TYPE_CHECKING:
    import plotly.graph_objects as go

_COLORS = ("class", "network", "correct")
_MOST_LEGEND_CLASSES = 20


def embedding(
    result: Embedding,
    *,
    color: str = "class",
    epoch_slider: bool = True,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw a map. All plots have the same axes and one unit is as long up as it is across.

    Args:
        result: from `kdlab.probes.embed`.
        color: "class" (a plot per network, colour and marker by class), "correct" (a plot per network,
            right and wrong predictions), or "network" (one plot; faint lines join a student's point
            to the teacher's point of the same picture).
        epoch_slider: a slider over epochs; else the last epoch alone.
        title: of the figure.
        dark: light points on dark paper.

    Raises:
        ConfigError: an unknown `color`, or "correct" where predictions are not known.
    """
    import plotly.graph_objects as go

    if color not in _COLORS:
        raise ConfigError(f"color must be one of {', '.join(_COLORS)}, not {color!r}.")
    if color == "correct" and (result.predicted < 0).all():
        raise ConfigError(
            "Which predictions are right is not known here; give snapshots or modules with logits."
        )
    last = len(result.epochs) - 1
    build = _overlay if color == "network" else _small_multiples
    fig, moving = build(result, color, last)
    layout: dict[str, Any] = {}
    with_slider = epoch_slider and last > 0
    if with_slider:
        labels = [str(epoch) for epoch in result.epochs]
        fig.frames = [
            go.Frame(data=_moved(result, color, e), traces=moving, name=label)
            for e, label in enumerate(labels)
        ]
        # paths of joined lines and arrays of colours are only drawn anew with redraw
        layout["sliders"] = [theme.slider(labels, "epoch ", last, redraw=color == "correct")]
    rows = 1 if color == "network" else -(-len(result.networks) // _columns(result))
    panel = (theme.WIDTH - 90) // _columns(result)  # square where the page is at its narrowest
    height = 620 if color == "network" else 100 + (panel + 30) * rows
    when = " The slider goes through the epochs." if with_slider and result.epochs[-1] != AS_GIVEN else ""
    theme.apply(
        fig,
        summary=result.summary + when,
        title=title,
        height=height + (theme.SLIDER_HEIGHT if with_slider else 0),
        hovermode="closest",
        **layout,
    )
    top = (68 if color != "network" else 40) + (36 if title else 0)  # plot titles stand under the legend
    fig.update_layout(margin=dict(l=8, r=8, t=top, b=30), legend=dict(itemwidth=30))
    if color != "network":
        fig.update_layout(
            legend=dict(yref="container", y=1 - (44 if title else 6) / fig.layout.height, yanchor="top")
        )
    return theme.recolour(fig, dark=True) if dark else fig


def _columns(result: Embedding) -> int:
    count = len(result.networks)
    return count if count <= 3 else 2 if count == 4 else 3 if count <= 6 else 4


def _small_multiples(result: Embedding, color: str, epoch: int) -> tuple[go.Figure, list[int]]:
    from plotly.subplots import make_subplots

    columns = _columns(result)
    rows = -(-len(result.networks) // columns)
    fits = 80 // columns  # letters above a plot
    names = [
        theme.shortened(name, fits - 10) + " (teacher)"
        if name in result.teachers
        else theme.shortened(name, fits)
        for name in result.networks
    ]
    fig = make_subplots(
        rows, columns, subplot_titles=names, horizontal_spacing=0.02, vertical_spacing=0.15 / rows
    )
    for n, trace in enumerate(_points(result, color, epoch)):
        fig.add_trace(trace, row=n // columns + 1, col=n % columns + 1)
    moving = list(range(len(result.networks)))
    for note in fig.layout.annotations:
        note.font = dict(size=14, color=theme.INK)
    _axes(fig, result)
    for label, marker in _legend(result, color):
        fig.add_scatter(
            x=[None], y=[None], mode="markers", name=label, marker={**marker, "size": 9}, hoverinfo="skip"
        )
    fig.update_layout(legend=dict(itemclick=False, itemdoubleclick=False))
    return fig, moving


def _overlay(result: Embedding, color: str, epoch: int) -> tuple[go.Figure, list[int]]:
    import plotly.graph_objects as go

    fig = go.Figure(_points(result, color, epoch))
    _axes(fig, result)
    return fig, list(range(len(fig.data)))


def _points(result: Embedding, color: str, epoch: int) -> list[Any]:
    """The traces that move: one a network, and in the overlay one of joining lines a student."""
    import plotly.graph_objects as go

    looks = theme.styles(result.students, result.teachers)
    out: list[Any] = []
    for n, name in enumerate(result.networks):
        x, y = (np.round(result.coordinates[epoch, n, :, axis], 3) for axis in (0, 1))
        if color == "network":
            if result.teachers and name not in result.teachers:
                out.append(_joined(result, epoch, n, looks[name]))
            marker: dict[str, Any] = {**looks[name].marker(7), "opacity": 0.85}
        elif color == "class":
            kinds = [theme.class_style(int(label)) for label in result.labels]
            marker = _marker([k[0] for k in kinds], [k[1] for k in kinds], 7)
        else:
            marker = _right_wrong(result, epoch, n)
        out.append(
            go.Scatter(
                x=x,
                y=y,
                mode="markers",
                name=f"{name} (teacher)" if name in result.teachers else name,
                marker=marker,
                showlegend=color == "network",
                legendgroup=name if color == "network" else None,
                text=_texts(result, epoch, n),
                hovertemplate=f"{name}: %{{text}}<extra></extra>",
            )
        )
    return out


def _moved(result: Embedding, color: str, epoch: int) -> list[Any]:
    """What changes from frame to frame in the traces of `_points`; plotly keeps the rest."""
    import plotly.graph_objects as go

    out = []
    for n, name in enumerate(result.networks):
        if color == "network" and result.teachers and name not in result.teachers:
            flat = _ends(result, epoch, n)
            out.append(go.Scatter(x=flat[:, 0], y=flat[:, 1]))
        x, y = (np.round(result.coordinates[epoch, n, :, axis], 3) for axis in (0, 1))
        more = {"marker": _right_wrong(result, epoch, n)} if color == "correct" else {}
        out.append(go.Scatter(x=x, y=y, text=_texts(result, epoch, n), **more))
    return out


def _right_wrong(result: Embedding, epoch: int, n: int) -> dict[str, Any]:
    right = result.predicted[epoch, n] == result.labels
    colors = [theme.OKABE_ITO[0] if r else theme.OKABE_ITO[1] for r in right]
    return _marker(colors, ["circle" if r else "x" for r in right], [6 if r else 9 for r in right])


def _marker(colors: list[str], symbols: list[str], size: Any) -> dict[str, Any]:
    return {
        "color": colors,
        "symbol": symbols,
        "size": size,
        "opacity": 0.9,
        "line": {"width": 0.6, "color": theme.PAPER},
    }


def _joined(result: Embedding, epoch: int, n: int, look: theme.Style) -> Any:
    import plotly.graph_objects as go

    flat = _ends(result, epoch, n)
    return go.Scatter(
        x=flat[:, 0],
        y=flat[:, 1],
        mode="lines",
        line=dict(color=theme.faint(look.color, 0.25), width=1),
        hoverinfo="skip",
        showlegend=False,
        legendgroup=result.networks[n],
    )


def _ends(result: Embedding, epoch: int, n: int) -> np.ndarray:
    """(3n, 2) teacher's point, student's point, a gap, and so on."""
    ends = np.full((len(result.labels), 3, 2), np.nan)
    ends[:, 0], ends[:, 1] = result.coordinates[epoch, 0], result.coordinates[epoch, n]
    return np.round(ends.reshape(-1, 2), 3)


def _texts(result: Embedding, epoch: int, n: int) -> list[str]:
    names = result.class_names
    out = []
    for index, label, said in zip(result.index, result.labels, result.predicted[epoch, n], strict=True):
        told = "" if said < 0 or said == label else f", taken for {names[said]}"
        out.append(f"{names[label]}{told} (picture {index})")
    return out


def _legend(result: Embedding, color: str) -> list[tuple[str, dict[str, Any]]]:
    if color == "correct":
        return [
            ("right", {"color": theme.OKABE_ITO[0], "symbol": "circle"}),
            ("wrong", {"color": theme.OKABE_ITO[1], "symbol": "x"}),
        ]
    shown = np.unique(result.labels)
    if len(shown) > _MOST_LEGEND_CLASSES:
        return []  # the class is told on hover
    return [
        (
            result.class_names[label],
            dict(zip(("color", "symbol"), theme.class_style(int(label)), strict=True)),
        )
        for label in shown
    ]


def _axes(fig: go.Figure, result: Embedding) -> None:
    """The same square range everywhere; t-SNE axes have no unit, so they carry no numbers."""
    points = result.coordinates.reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]  # not of epochs of which a network has no snapshot
    centre = (points.max(axis=0) + points.min(axis=0)) / 2
    reach = float((points.max(axis=0) - points.min(axis=0)).max()) * 0.52
    for number, axis in enumerate(fig.select_yaxes()):
        axis.update(scaleanchor=f"x{number + 1 if number else ''}", scaleratio=1, constrain="domain")
    bare = dict(showticklabels=False, ticks="", showgrid=False, zeroline=False, mirror=True)
    fig.update_xaxes(range=[centre[0] - reach, centre[0] + reach], constrain="domain", **bare)
    fig.update_yaxes(range=[centre[1] - reach, centre[1] + reach], **bare)
    note = f"{METHODS[result.method]}: distances between far clusters and cluster sizes mean nothing"
    if result.method == "tsne":
        fig.add_annotation(
            x=0,
            y=0,
            xref="paper",
            yref="paper",
            text=note,
            showarrow=False,
            xanchor="left",
            yanchor="top",
            yshift=-4,
            font=dict(size=12, color=theme.MUTED),
        )

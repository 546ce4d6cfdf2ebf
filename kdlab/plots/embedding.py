"""Maps of teacher and students, with an epoch slider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError
from kdlab.plots import theme
from kdlab.plots.points import (
    MOST_LEGEND_CLASSES,
    NO,
    YES,
    categories,
    grid_columns,
    hover_texts,
    joined_lines,
    pair_ends,
)
from kdlab.probes.embedding import METHODS, Embedding
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.words import listed, percent

if TYPE_CHECKING:
    import plotly.graph_objects as go

_COLORS = ("class", "network", "correct", "coarse", "agreement", "confidence")
_UNRELIABLE = 0.2  # share of neighbours kept, below which a point is marked


@dataclass(frozen=True)
class _Way:
    """How points are coloured and what is added to them."""

    color: str
    reliability: float | None
    lines: bool

    @property
    def redraw(self) -> bool:
        """Whether colours or markers change from frame to frame, which plotly only draws anew."""
        return self.color in ("correct", "agreement", "confidence") or self.reliability is not None


def embedding(
    result: Embedding,
    *,
    color: str = "class",
    reliability: bool | float = False,
    lines: bool | None = None,
    epoch_slider: bool = True,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw a map. All plots have the same axes and one unit is as long up as it is across.

    On hover stand the class and the three most probable classes of the network and the teacher. Plotly
    draws no pictures there; panels show them beside the map.

    Args:
        result: from `kdlab.probes.embed`.
        color: "class", "coarse" (super-class) or the name of a factor (a plot per network, colour and
            marker by value), "correct" (right and wrong predictions), "agreement" (the same prediction as
            the teacher or not), "confidence" (probability of the predicted class), or "network" (one
            plot; faint lines join a student's point to the teacher's point of the same picture).
        reliability: hollow markers for points whose place is not to be trusted, as the map keeps less
            than this share of their neighbours; True is 0.2.
        lines: join each student's point to the teacher's; None does so where all are in one plot.
        epoch_slider: a slider over epochs; else the last epoch alone.
        title: of the figure.
        dark: light points on dark paper.

    Raises:
        ConfigError: an unknown `color`, or one that is not known of these networks or pictures.

    >>> space = kdlab.probes.embed(study, "pca", n=20)
    >>> fig = kdlab.plots.embedding(space, color="correct")
    >>> [note.text for note in fig.layout.annotations], len(fig.layout.sliders[0].steps)
    (['resnet8 (teacher)', 'alone', 'KD'], 4)
    """
    import plotly.graph_objects as go

    way = _way(result, color, reliability, lines)
    last = len(result.epochs) - 1
    build = _overlay if color == "network" else _small_multiples
    fig, moving = build(result, way, last)
    layout: dict[str, Any] = {}
    with_slider = epoch_slider and last > 0
    if with_slider:
        labels = [str(epoch) for epoch in result.epochs]
        fig.frames = [
            go.Frame(data=_moved(result, way, e), traces=moving, name=label) for e, label in enumerate(labels)
        ]
        # paths of joined lines and arrays of colours are only drawn anew with redraw
        layout["sliders"] = [theme.slider(labels, "epoch ", last, redraw=way.redraw)]
    if color == "confidence":
        layout["coloraxis"] = dict(
            colorscale=theme.SEQUENTIAL,
            cmin=0.0,
            cmax=1.0,
            colorbar=dict(title=dict(text="confidence", side="right"), thickness=14, outlinewidth=0),
        )
    columns = grid_columns(len(result.networks))
    rows = 1 if color == "network" else -(-len(result.networks) // columns)
    panel = (theme.WIDTH - 90) // columns  # square where the page is at its narrowest
    height = 620 if color == "network" else 100 + (panel + 30) * rows
    when = " The slider goes through the epochs." if with_slider and result.epochs[-1] != AS_GIVEN else ""
    fig = theme.apply(
        fig,
        summary=result.summary + _told(result, way) + when,
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


def _way(result: Embedding, color: str, reliability: bool | float, lines: bool | None) -> _Way:
    """What is asked for, refused where it is not known."""
    if color not in _COLORS and color not in result.factors:
        known = [*_COLORS, *result.factors]
        raise ConfigError(f"color must be one of {', '.join(known)}, not {color!r}.")
    if color == "correct" and (result.predicted < 0).all():
        raise ConfigError(
            "Which predictions are right is not known here; give snapshots or modules with logits."
        )
    if color == "coarse" and result.coarse is None:
        raise ConfigError("This data set has no super-classes; use color='class'.")
    if color == "agreement" and (not result.teachers or (result.predicted[:, 0] < 0).all()):
        raise ConfigError(
            "Agreement needs the predictions of a teacher; give snapshots or modules with logits."
        )
    shares = result.top_share
    if color == "confidence" and (shares is None or not np.isfinite(shares).any()):
        raise ConfigError("Confidence is not known here; give snapshots or modules with logits.")
    limit = None if reliability is False else _UNRELIABLE if reliability is True else float(reliability)
    if limit is not None and not 0.0 < limit <= 1.0:
        raise ConfigError(f"reliability must be a share above 0 and at most 1, not {reliability!r}.")
    if limit is not None and result.kept_each is None:
        raise ConfigError("This map does not tell which neighbours it keeps; make it anew with embed(...).")
    if lines and not result.teachers:
        raise ConfigError("There is no teacher that points could be joined to; use lines=False.")
    joined = color == "network" if lines is None else lines
    return _Way(color, limit, joined and bool(result.teachers))


def _told(result: Embedding, way: _Way) -> str:
    """What the colours and hollow markers add, for the text alternative."""
    said = ""
    if way.color == "agreement":
        predicted = result.predicted[-1]
        same = [(name, own == predicted[0]) for name, own in zip(result.networks, predicted, strict=True)]
        shares = [
            f"{name} {percent(v.mean(), 0)}" for n, (name, v) in enumerate(same) if predicted[n, 0] >= 0
        ]
        shares = shares[1:]
        said = f" Same prediction as {result.teachers[0]}: {listed(shares)}."
    if way.color == "confidence" and result.top_share is not None:
        means = [(name, result.top_share[-1, n, :, 0]) for n, name in enumerate(result.networks)]
        shares = [f"{name} {v.mean():.2f}" for name, v in means if np.isfinite(v).all()]
        said = f" Mean confidence: {listed(shares)}."
    if way.reliability is not None and result.kept_each is not None:
        known = result.kept_each[-1][np.isfinite(result.kept_each[-1])]
        share = float((known < way.reliability).mean())
        said += (
            f" Hollow: {percent(share, 0)} of all points keep fewer than {percent(way.reliability, 0)} of "
            "their neighbours."
        )
    return said


def _small_multiples(result: Embedding, way: _Way, epoch: int) -> tuple[go.Figure, list[int]]:
    from plotly.subplots import make_subplots

    columns = grid_columns(len(result.networks))
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
    for n, traces in enumerate(_points(result, way, epoch)):
        for trace in traces:
            fig.add_trace(trace, row=n // columns + 1, col=n % columns + 1)
    moving = list(range(len(fig.data)))
    for note in fig.layout.annotations:
        note.font = dict(size=14, color=theme.INK)
    _axes(fig, result)
    for label, marker in _legend(result, way):
        fig.add_scatter(
            x=[None], y=[None], mode="markers", name=label, marker={**marker, "size": 9}, hoverinfo="skip"
        )
    fig.update_layout(legend=dict(itemclick=False, itemdoubleclick=False))
    return fig, moving


def _overlay(result: Embedding, way: _Way, epoch: int) -> tuple[go.Figure, list[int]]:
    import plotly.graph_objects as go

    fig = go.Figure([trace for traces in _points(result, way, epoch) for trace in traces])
    moving = list(range(len(fig.data)))
    _axes(fig, result)
    for label, marker in _legend(result, way):
        fig.add_scatter(x=[None], y=[None], mode="markers", name=label, marker={**marker, "size": 9})
    return fig, moving


def _points(result: Embedding, way: _Way, epoch: int) -> list[list[Any]]:
    """Per network the traces that move: joining lines where wanted, and the points."""
    import plotly.graph_objects as go

    looks = theme.styles(result.students, result.teachers)
    out: list[list[Any]] = []
    for n, name in enumerate(result.networks):
        x, y = (np.round(result.coordinates[epoch, n, :, axis], 3) for axis in (0, 1))
        own = []
        if way.lines and name not in result.teachers:
            own.append(joined_lines(result, epoch, n, looks[name]))
        own.append(
            go.Scatter(
                x=x,
                y=y,
                mode="markers",
                name=f"{name} (teacher)" if name in result.teachers else name,
                marker=_markers(result, way, epoch, n),
                showlegend=way.color == "network",
                legendgroup=name if way.color == "network" else None,
                text=hover_texts(result, epoch, n),
                hovertemplate=f"{name}: %{{text}}<extra></extra>",
            )
        )
        out.append(own)
    return out


def _moved(result: Embedding, way: _Way, epoch: int) -> list[Any]:
    """What changes from frame to frame in the traces of `_points`; plotly keeps the rest."""
    import plotly.graph_objects as go

    out = []
    for n, name in enumerate(result.networks):
        if way.lines and name not in result.teachers:
            flat = pair_ends(result, epoch, n)
            out.append(go.Scatter(x=flat[:, 0], y=flat[:, 1]))
        x, y = (np.round(result.coordinates[epoch, n, :, axis], 3) for axis in (0, 1))
        more = {"marker": _markers(result, way, epoch, n)} if way.redraw else {}
        out.append(go.Scatter(x=x, y=y, text=hover_texts(result, epoch, n), **more))
    return out


def _markers(result: Embedding, way: _Way, epoch: int, n: int) -> dict[str, Any]:
    """Markers of one network's points."""
    count = len(result.labels)
    if way.color == "network":
        look = theme.styles(result.students, result.teachers)[result.networks[n]]
        marker: dict[str, Any] = {**look.marker(7), "opacity": 0.85}
        if way.reliability is not None:
            marker["symbol"] = [look.symbol] * count
    elif way.color == "confidence" and result.top_share is not None:
        marker = _marker(["#000000"], ["circle"] * count, 7)
        marker.update(color=np.round(result.top_share[epoch, n, :, 0], 3), coloraxis="coloraxis")
    elif way.color in ("correct", "agreement"):
        goal = result.labels if way.color == "correct" else result.predicted[epoch, 0]
        good = result.predicted[epoch, n] == goal
        kinds = [YES if g else NO for g in good]
        marker = _marker([k[0] for k in kinds], [k[1] for k in kinds], [6 if g else 9 for g in good])
    else:
        kinds = [theme.class_style(int(value)) for value in categories(result, way.color)[0]]
        marker = _marker([k[0] for k in kinds], [k[1] for k in kinds], 7)
    if way.reliability is not None and result.kept_each is not None:
        bad = result.kept_each[epoch, n] < way.reliability
        marker["symbol"] = [
            f"{symbol}-open" if poor else symbol for symbol, poor in zip(marker["symbol"], bad, strict=True)
        ]
        marker["line"] = {"width": np.where(bad, 1.6, 0.6), "color": theme.PAPER}
    return marker


def _marker(colors: list[str], symbols: list[str], size: Any) -> dict[str, Any]:
    return {
        "color": colors,
        "symbol": symbols,
        "size": size,
        "opacity": 0.9,
        "line": {"width": 0.6, "color": theme.PAPER},
    }


def _legend(result: Embedding, way: _Way) -> list[tuple[str, dict[str, Any]]]:
    out: list[tuple[str, dict[str, Any]]] = []
    if way.color in ("correct", "agreement"):
        words = ("right", "wrong") if way.color == "correct" else ("as the teacher", "another class")
        out = [
            (word, {"color": look[0], "symbol": look[1]}) for word, look in zip(words, (YES, NO), strict=True)
        ]
    elif way.color not in ("network", "confidence"):
        values, names = categories(result, way.color)
        shown = np.unique(values)
        if len(shown) <= MOST_LEGEND_CLASSES:  # else it is told on hover
            looks = [theme.class_style(int(value)) for value in shown]
            out = [
                (theme.shortened(names[value], 18), {"color": color, "symbol": symbol})
                for value, (color, symbol) in zip(shown, looks, strict=True)
            ]
    if way.reliability is not None:
        text = f"hollow: under {percent(way.reliability, 0)} of neighbours kept"
        out.append((text, {"color": theme.MUTED, "symbol": "circle-open", "line": {"width": 1.6}}))
    return out


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
    if result.method == "lda":
        note = "LDA: axes chosen with the labels of other pictures; a unit is the spread inside classes"
    if result.method != "pca":
        where = dict(x=0, y=0, xref="paper", yref="paper", xanchor="left", yanchor="top", yshift=-4)
        fig.add_annotation(text=note, showarrow=False, font=dict(size=12, color=theme.MUTED), **where)

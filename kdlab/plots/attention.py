"""Attention maps: picture and stages down, networks across, one colour scale for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.plots import theme
from kdlab.plots.pictures import png
from kdlab.plots.theme import shortened
from kdlab.probes.attention import AttentionMaps

if TYPE_CHECKING:
    import plotly.graph_objects as go


def attention(
    result: AttentionMaps,
    *,
    samples: Sequence[int] | None = None,
    epoch: int | None = None,
    show: str = "maps",
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw teacher's and students' maps side by side, with a slider over pictures.

    One colour scale holds for all maps: 1 is what a cell would have if attention were spread evenly.
    Under each student's map stands its cosine to the teacher's.

    Args:
        result: from `kdlab.probes.attention_maps`.
        samples: places of the pictures; the first eight if not given.
        epoch: one of the result's; the last if not given.
        show: "maps", or "difference": each student minus the teacher, the students alone.
        title: of the figure.
        dark: light text on dark paper.

    Raises:
        ConfigError: no such epoch or picture, an unknown option, or a difference without a teacher.

    >>> fig = kdlab.plots.attention(kdlab.probes.attention_maps(study, [0, 1]))
    >>> len(fig.layout.sliders[0].steps)  # two pictures
    2
    >>> fig.layout.annotations[0].text
    '<b>resnet8</b><br>(teacher)'
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    when = result.epochs[-1] if epoch is None else epoch
    if when not in result.epochs:
        raise ConfigError(
            f"There is no epoch {when} in this result; there are {', '.join(map(str, result.epochs))}."
        )
    if show not in ("maps", "difference"):
        raise unknown_name("value of show", show, ("maps", "difference"))
    names = result.networks_at(when)
    if show == "difference":
        names = tuple(name for name in names if any((name, s) in result.partner for s in result.stages[name]))
        if not names:
            raise ConfigError("A difference needs a teacher and a student; give one: teacher=...")
    places = list(range(min(8, len(result.labels)))) if samples is None else [int(i) for i in samples]
    if not places or min(places) < 0 or max(places) >= len(result.labels):
        raise ConfigError(f"samples must lie in 0 .. {len(result.labels) - 1}.")
    depth = max(len(result.stages[name]) for name in names)
    first = 0 if result.images is None else 1
    columns = len(names)
    rows = depth + first
    values = _values(result, names, when, show)
    fig = make_subplots(
        rows, columns, horizontal_spacing=0.012, vertical_spacing=0.22 / max(rows - 1, 1) / 1.25
    )
    heads = list(fig.select_xaxes())
    for trace, row, column in _traces(result, names, values, places[0], depth, first):
        fig.add_trace(trace, row=row, col=column)
    for number, axis in enumerate(fig.select_yaxes()):
        axis.update(scaleanchor=f"x{number + 1 if number else ''}", constrain="domain", autorange="reversed")
    bare = dict(showticklabels=False, ticks="", showgrid=False, zeroline=False, showline=False)
    fig.update_xaxes(constrain="domain", **bare)
    fig.update_yaxes(**bare)
    top = max(max(float(np.abs(table).max()) for table in values.values()), 1e-9)
    signed = show == "difference"
    domains = [axis.domain for axis in heads], [axis.domain for axis in fig.select_yaxes()]
    notes = {place: _notes(result, names, place, when, depth, first, domains) for place in places}
    fig.update_layout(
        annotations=notes[places[0]],
        coloraxis=dict(
            colorscale=[list(stop) for stop in theme.DIVERGING] if signed else theme.SEQUENTIAL,
            cmin=-top if signed else 0,
            cmax=top,
            colorbar=dict(
                title=dict(
                    text=f"{'difference' if signed else 'attention'}<br>(1 = even)", font=dict(size=12)
                ),
                thickness=12,
                len=0.8,
                tickfont=dict(size=12),
            ),
        ),
    )
    layout: dict[str, Any] = {}
    if len(places) > 1:
        count = len(fig.data)
        fig.frames = [
            go.Frame(
                name=str(number + 1),
                data=[trace for trace, _, _ in _traces(result, names, values, place, depth, first)],
                traces=list(range(count)),
                layout={"annotations": notes[place]},
            )
            for number, place in enumerate(places)
        ]
        layout["sliders"] = [
            theme.slider([str(i + 1) for i in range(len(places))], "picture ", 0, redraw=True)
        ]
    cell = min(130, (theme.WIDTH - 210) // columns)  # square where the page is at its narrowest
    fig = theme.apply(
        fig,
        summary=result.summary,
        title=title,
        height=int((cell + 30) * (depth + first) + 100 + (theme.SLIDER_HEIGHT if layout else 0)),
        legend=False,
        **layout,
    )
    fig.update_layout(margin=dict(t=64 if title is None else 92, l=74, b=30))
    return theme.recolour(fig, dark=True) if dark else fig


def _values(
    result: AttentionMaps, names: Sequence[str], epoch: int, show: str
) -> dict[tuple[str, str], np.ndarray]:
    """(network, stage) -> (m, h, w) what is drawn."""
    take = result.relative if show == "maps" else result.difference
    return {(name, stage): take(name, epoch, stage) for name in names for stage in result.stages[name]}


def _traces(
    result: AttentionMaps,
    names: Sequence[str],
    values: Mapping[tuple[str, str], np.ndarray],
    place: int,
    depth: int,
    first: int,
) -> list[tuple[Any, int, int]]:
    import plotly.graph_objects as go

    out: list[tuple[Any, int, int]] = []
    for column, name in enumerate(names, 1):
        if result.images is not None:
            out.append((go.Image(source=png(result.images[place]), hoverinfo="skip"), 1, column))
        own = result.stages[name]
        for row, stage in enumerate(own, depth - len(own) + 1):  # the deepest stages stand side by side
            z = np.round(values[name, stage][place], 3)
            hover = f"{name}, {stage}: %{{z:.2f}}<extra></extra>"
            out.append((go.Heatmap(z=z, coloraxis="coloraxis", hovertemplate=hover), row + first, column))
    return out


def _notes(
    result: AttentionMaps,
    names: Sequence[str],
    place: int,
    epoch: int,
    depth: int,
    first: int,
    domains: tuple[list[Any], list[Any]],
) -> list[dict[str, Any]]:
    """Names above the columns, stages beside the rows, predictions and cosines under the cells."""
    columns = len(names)
    rows = depth + first
    fits = max(6, 96 // columns)  # letters above a cell
    xs, ys = domains
    notes: list[dict[str, Any]] = []

    def write(x: float, y: float, text: str, size: int = 12, **more: Any) -> None:
        color = more.pop("color", theme.INK)
        more = {"xanchor": "center", "yanchor": "middle", **more}
        notes.append(
            dict(
                x=x,
                y=y,
                xref="paper",
                yref="paper",
                text=text,
                showarrow=False,
                font=dict(size=size, color=color),
                **more,
            )
        )

    e = result.epochs.index(epoch)
    truth = result.class_names[result.labels[place]]
    for column, name in enumerate(names):
        centre = (xs[column][0] + xs[column][1]) / 2
        role = "<br>(teacher)" if name in result.teachers else "<br> "
        write(centre, 1.0, f"<b>{shortened(name, fits)}</b>{role}", 13, yanchor="bottom", yshift=4)
        if first and name in result.predicted:
            said = result.predicted[name][e, place]
            right = said == result.labels[place]
            text = (
                f"✓ {shortened(truth, fits)}" if right else f"✗ {shortened(result.class_names[said], fits)}"
            )
            write(centre, ys[column][0], text, yanchor="top", color=theme.INK)
        own = result.stages[name]
        for row, stage in enumerate(own, depth - len(own) + first):
            cosine = result.cosine.get((name, epoch, stage))
            if cosine is not None:
                write(
                    centre, ys[row * columns][0], f"cos {cosine[place]:.2f}", yanchor="top", color=theme.MUTED
                )
    widest = max((result.stages[name] for name in names), key=len)
    for row in range(rows):
        middle = sum(ys[row * columns]) / 2
        text = f"class<br>{shortened(truth)}" if row < first else widest[row - first]
        write(0, middle, text, 13, xanchor="right", xshift=-8)
    return notes

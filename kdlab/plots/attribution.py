"""Attributions as a wall of pictures, and how far networks agree about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.plots import theme
from kdlab.plots.pictures import muted, png
from kdlab.plots.theme import shortened
from kdlab.probes.agreement import (
    COMPARISONS,
    MEASURES,
    SEED,
    SHUFFLED,
    STUDENTS,
    TEACHER,
    UNTRAINED,
    MapAgreement,
    relative,
    resized,
)
from kdlab.probes.attribution import Attributions
from kdlab.probes.representation import AS_GIVEN

if TYPE_CHECKING:
    import plotly.graph_objects as go

_FINEST = 48  # cells a side that are drawn

_SYMBOLS = {TEACHER: "circle", SHUFFLED: "x", UNTRAINED: "cross", SEED: "diamond", STUDENTS: "square"}


def attribution(
    result: Attributions,
    *,
    samples: Sequence[int] | None = None,
    show: str = "maps",
    scale: str = "relative",
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw pictures down and networks across, each map over the picture in grey, on one colour scale.

    A slider goes through the epochs where there are several. Values beyond the highest half per cent
    of all shown are drawn in the last colour.

    Args:
        result: from `kdlab.probes.attributions`.
        samples: places of the pictures; the first four if not given.
        show: "maps", or "difference": each student minus the teacher, in place of the students' maps.
        scale: "relative" (each map in units of its root mean square, so that networks with small and
            large logits compare) or "raw" (in logits, as computed).
        title: of the figure.
        dark: light text on dark paper.

    Raises:
        ConfigError: no such picture, an unknown option, or a difference without a teacher.

    >>> found = kdlab.probes.attributions(study, [0, 1], method="attention", controls=False)
    >>> fig = kdlab.plots.attribution(found)
    >>> [note.text for note in fig.layout.annotations][:3]
    ['picture<br> ', '<b>resnet8</b><br>(teacher)', '<b>alone</b><br> ']
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    for value, known, what in ((show, ("maps", "difference"), "show"), (scale, ("relative", "raw"), "scale")):
        if value not in known:
            raise unknown_name(f"value of {what}", value, known)
    places = list(range(min(4, len(result.labels)))) if samples is None else [int(i) for i in samples]
    if not places or min(places) < 0 or max(places) >= len(result.labels):
        raise ConfigError(f"samples must lie in 0 .. {len(result.labels) - 1}.")
    if show == "difference":
        if not result.teachers or len(result.networks) < 2:
            raise ConfigError("A difference needs a teacher and a student; give one: teacher=...")
        names = tuple(name for name in result.networks if name not in result.teachers)
    else:
        names = result.networks
    drawn = {
        (name, epoch): _drawn(result, name, epoch, places, show, scale)
        for epoch in result.epochs
        for name in names
        if (name, epoch) in result.maps
    }
    top = max(float(np.quantile(np.abs(np.stack(list(drawn.values()))), 0.995)), 1e-9)
    signed = show == "difference" or result.signed
    rows, columns = len(places), len(names) + 1
    fig = make_subplots(
        rows, columns, horizontal_spacing=0.012, vertical_spacing=0.3 / max(rows - 1, 1) / 1.5
    )
    heads, sides = list(fig.select_xaxes()), list(fig.select_yaxes())
    for row, place in enumerate(places, 1):
        for column in range(1, columns + 1):
            fig.add_trace(_picture(result.images[place], grey=column > 1), row=row, col=column)
    still = len(fig.data)
    last = result.epochs[-1]
    maps = _heatmaps(result, drawn, names, places, last)
    for number, trace in enumerate(maps):
        fig.add_trace(trace, row=number // len(names) + 1, col=number % len(names) + 2)
    height, width = result.images.shape[2:]
    bare = dict(showticklabels=False, ticks="", showgrid=False, zeroline=False, showline=False)
    for number, axis in enumerate(sides):
        axis.update(scaleanchor=f"x{number + 1 if number else ''}", constrain="domain", **bare)
        axis.update(range=[height - 0.5, -0.5])
    fig.update_xaxes(constrain="domain", range=[-0.5, width - 0.5], **bare)
    domains = [axis.domain for axis in heads], [axis.domain for axis in sides]
    notes = {e: _notes(result, names, places, e, show, domains) for e in result.epochs}
    unit = "difference" if show == "difference" else "attribution"
    fig.update_layout(
        annotations=notes[last],
        coloraxis=dict(
            colorscale=[list(stop) for stop in theme.DIVERGING] if signed else theme.SEQUENTIAL,
            cmin=-top if signed else 0,
            cmax=top,
            colorbar=dict(
                title=dict(text=f"{unit}<br>({_unit(result, scale)})", font=dict(size=12)),
                thickness=12,
                len=0.8,
                tickfont=dict(size=12),
            ),
        ),
    )
    layout: dict[str, Any] = {}
    if len(result.epochs) > 1:
        labels = [str(epoch) for epoch in result.epochs]
        fig.frames = [
            go.Frame(
                name=label,
                data=_heatmaps(result, drawn, names, places, epoch),
                traces=list(range(still, still + len(maps))),
                layout={"annotations": notes[epoch]},
            )
            for label, epoch in zip(labels, result.epochs, strict=True)
        ]
        layout["sliders"] = [theme.slider(labels, "epoch ", len(labels) - 1, redraw=True)]
    cell = min(140, (theme.WIDTH - 200) // columns)
    fig = theme.apply(
        fig,
        summary=result.summary,
        title=title,
        height=int((cell + 44) * rows + 96 + (theme.SLIDER_HEIGHT if layout else 0)),
        legend=False,
        **layout,
    )
    fig.update_layout(margin=dict(t=60 if title is None else 92, l=104, b=44))
    return theme.recolour(fig, dark=True) if dark else fig


def _unit(result: Attributions, scale: str) -> str:
    if scale == "relative":
        return "1 = r.m.s."
    return "squared activation" if result.method == "attention" else "logits"


def _drawn(
    result: Attributions, name: str, epoch: int, places: list[int], show: str, scale: str
) -> np.ndarray:
    """(rows, h, w) values in the size of the picture, or a little less for large ones."""
    if show == "difference" and scale == "relative":
        maps = result.difference(name, epoch)[places]
    elif show == "difference":
        size = result.maps[name, epoch].shape[1:]
        theirs = resized(result.maps[result.teachers[0], epoch][places], (size[0], size[1]))
        maps = result.maps[name, epoch][places] - theirs
    else:
        maps = result.maps[name, epoch][places]
        maps = relative(maps) if scale == "relative" else np.asarray(maps, dtype=np.float64)
    height, width = result.images.shape[2:]
    return resized(maps, (min(height, _FINEST), min(width, _FINEST)))


def _picture(image: np.ndarray, grey: bool) -> Any:
    """The picture with one unit of the axes for each of its pixels."""
    import plotly.graph_objects as go

    factor = max(1, -(-96 // min(image.shape[1:])))
    return go.Image(
        source=png(muted(image) if grey else image),
        dx=1 / factor,
        dy=1 / factor,
        x0=-0.5 + 0.5 / factor,
        y0=-0.5 + 0.5 / factor,
        hoverinfo="skip",
    )


def _heatmaps(
    result: Attributions,
    drawn: dict[tuple[str, int], np.ndarray],
    names: Sequence[str],
    places: Sequence[int],
    epoch: int,
) -> list[Any]:
    import plotly.graph_objects as go

    height, width = result.images.shape[2:]
    out = []
    for row in range(len(places)):
        for name in names:
            z = drawn.get((name, epoch))
            cells = (min(height, _FINEST), min(width, _FINEST)) if z is None else z.shape[1:]
            out.append(
                go.Heatmap(
                    z=np.full(cells, np.nan) if z is None else np.round(z[row], 3),
                    x0=-0.5 + 0.5 * width / cells[1],
                    dx=width / cells[1],
                    y0=-0.5 + 0.5 * height / cells[0],
                    dy=height / cells[0],
                    coloraxis="coloraxis",
                    opacity=0.72,
                    hovertemplate=f"{name}: %{{z:.2f}}<extra></extra>",
                )
            )
    return out


def _notes(
    result: Attributions,
    names: Sequence[str],
    places: Sequence[int],
    epoch: int,
    show: str,
    domains: tuple[list[Any], list[Any]],
) -> list[dict[str, Any]]:
    """Names above, the class explained at the left, predictions and agreement under the cells."""
    columns = len(names) + 1
    fits = max(7, 76 // columns)  # letters in the width of a cell
    xs, ys = domains
    notes: list[dict[str, Any]] = []

    def write(x: float, y: float, text: str, **more: Any) -> None:
        font = dict(size=more.pop("size", 12), color=more.pop("color", theme.INK))
        place = {"xanchor": "center", "yanchor": "top", "xref": "paper", "yref": "paper", **more}
        notes.append(dict(x=x, y=y, text=text, showarrow=False, font=font, **place))

    classes = result.class_names
    for column, name in enumerate(("picture", *names)):
        centre = (xs[column][0] + xs[column][1]) / 2
        role = "<br>(teacher)" if name in result.teachers else "<br> "
        if show == "difference" and column:
            role = "<br>− teacher"
        hover = {"hovertext": name} if len(name) > fits else {}
        head = f"<b>{shortened(name, fits)}</b>{role}" if column else "picture<br> "
        write(centre, 1.0, head, size=13, yanchor="bottom", yshift=2, **hover)
    for row, place in enumerate(places):
        asked, truth = classes[result.asked[place]], classes[result.labels[place]]
        text = f"<b>{shortened(asked, 12)}</b>"
        if result.method == "attention":
            text = f"true<br><b>{shortened(truth, 12)}</b>"
        elif result.asked[place] == result.labels[place]:
            text = f"explained:<br>{text} ★"
        else:
            text = f"explained:<br>{text}<br>true: {shortened(truth, 8)}"
        write(0, sum(ys[row * columns]) / 2, text, xanchor="right", yanchor="middle", xshift=-8)
        for column, name in enumerate(names, 1):
            centre, foot = sum(xs[column]) / 2, ys[row * columns][0]
            if (name, epoch) not in result.maps:
                write(centre, foot, "no weights", color=theme.MUTED)
                continue
            said = int(result.predicted[name, epoch][place])
            mark = "✓" if said == result.labels[place] else "✗"
            lines = [f"{mark} {shortened(classes[said], fits - 2)}"]
            scores = result.agreement.scores if result.agreement else {}
            rank = scores.get((name, epoch, TEACHER, "spearman"))
            if rank is not None:
                told = f"ρ {rank[place]:.2f}".replace("-", "−")
                lines.append(told if np.isfinite(rank[place]) else "empty map")
            write(centre, foot, "<br>".join(lines), hovertext=_told(result, name, epoch, place))
    return notes


def _told(result: Attributions, name: str, epoch: int, place: int) -> str:
    key = name, epoch
    classes = result.class_names
    text = (
        f"{name}: predicts {classes[int(result.predicted[key][place])]}; logit of "
        f"{classes[int(result.asked[place])]} {result.logit[key][place]:.2f}, probability "
        f"{result.probability[key][place]:.2f}"
    )
    if key in result.delta:
        text += f"; convergence delta {result.delta[key][place]:.3f} of {result.change[key][place]:.2f}"
    return text


def attribution_agreement(
    result: MapAgreement | Attributions,
    *,
    measure: str = "spearman",
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw each student's agreement with the teacher, picture by picture, beside its controls.

    A box spans the quartiles; every picture is a point; the dashed line is chance. A slider goes
    through the epochs where there are several.

    Args:
        result: from `kdlab.probes.attributions`, or its `agreement`.
        measure: "spearman", "cosine", "iou", "same_peak" or "peak_distance".
        title: of the figure.
        dark: light points on dark paper.

    Raises:
        ConfigError: an unknown measure, or nothing was compared.

    >>> found = kdlab.probes.attributions(study, method="attention")
    >>> fig = kdlab.plots.attribution_agreement(found)
    >>> fig.data[0].name, fig.data[1].name  # what is looked at, and its first control
    ('student and teacher', 'student and teacher, another picture')
    """
    import plotly.graph_objects as go

    found = result.agreement if isinstance(result, Attributions) else result
    if found is None or not found.scores:
        raise ConfigError("No agreement was measured; it needs a teacher and a student: teacher=...")
    if measure not in MEASURES:
        raise unknown_name("measure of agreement", measure, MEASURES)
    last = found.epochs[-1]
    fig = go.Figure(_boxes(found, measure, last))
    moving = list(range(len(fig.data)))
    level = np.array([v for (_, m), v in found.chance.items() if m == measure])
    if level.size:
        look = dict(color=theme.MUTED, width=1.4, dash="dash")
        fig.add_hline(y=float(level.mean()), line=look)
        fig.add_scatter(x=[None], y=[None], mode="lines", line=look, name="chance", hoverinfo="skip")
    fig.update_xaxes(
        type="category",
        categoryorder="array",
        categoryarray=list(found.students),
        tickvals=list(found.students),
        ticktext=[shortened(name, max(8, 84 // len(found.students))) for name in found.students],
        showgrid=False,
    )
    low = {"spearman": [-1.05, 1.05], "cosine": None}.get(measure, [-0.04, 1.04])
    fig.update_yaxes(title=f"{MEASURES[measure]} of {found.method}", range=low)
    fig.update_layout(boxmode="group", boxgap=0.24, boxgroupgap=0.12)
    layout: dict[str, Any] = {}
    if len(found.epochs) > 1 and last != AS_GIVEN:
        labels = [str(epoch) for epoch in found.epochs]
        fig.frames = [
            go.Frame(name=label, data=_boxes(found, measure, epoch), traces=moving)
            for label, epoch in zip(labels, found.epochs, strict=True)
        ]
        layout["sliders"] = [theme.slider(labels, "epoch ", len(labels) - 1, redraw=True)]
    return theme.apply(
        fig,
        summary=found.summary,
        title=title,
        height=460 + (theme.SLIDER_HEIGHT if layout else 0),
        dark=dark,
        **layout,
    )


def _boxes(result: MapAgreement, measure: str, epoch: int) -> list[Any]:
    """One trace a comparison; the student's own colour for the one with the teacher, neutral controls."""
    import plotly.graph_objects as go

    colors = {
        TEACHER: theme.OKABE_ITO[0],
        SHUFFLED: theme.MUTED,
        UNTRAINED: theme.OKABE_ITO[1],
        SEED: theme.OKABE_ITO[2],
        STUDENTS: theme.OKABE_ITO[3],
    }
    out = []
    for comparison in result.comparisons:
        x: list[str] = []
        y: list[float] = []
        for name in result.students:
            values = result.scores.get((name, epoch, comparison, measure))
            own = [] if values is None else [float(v) for v in values if np.isfinite(v)]
            x += [name] * max(len(own), 1)
            y += own or [float("nan")]
        out.append(
            go.Box(
                x=x,
                y=np.round(y, 4),
                name=COMPARISONS[comparison],
                boxpoints="all",
                jitter=0.5,
                pointpos=0,
                fillcolor=theme.faint(colors[comparison]) if comparison == TEACHER else "rgba(0,0,0,0)",
                line=dict(color=colors[comparison], width=1.6),
                marker=dict(color=colors[comparison], symbol=_SYMBOLS[comparison], size=5, opacity=0.6),
                hovertemplate=f"%{{x}}, {COMPARISONS[comparison]}: %{{y:.2f}}<extra></extra>",
            )
        )
    return out

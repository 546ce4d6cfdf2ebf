"""What each loss asks for at the logits: arrows, classes, sizes, and who agrees with whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.plots import theme
from kdlab.plots.theme import shortened
from kdlab.probes.gradients import LogitGradients

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MOST_CLASSES = 12
_LENGTH = 0.2  # of an arrow, in units of the plane's sides


def logit_gradients(
    result: LogitGradients,
    *,
    student: str | None = None,
    samples: Sequence[int] | None = None,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw one student's pulls: picture by picture above, means over all pictures below.

    Above left, the plane of p_t (probability of the true class) and NCKD (how far the ranking of the
    other classes is from the teacher's). Arrows have one length: they tell the direction of a small
    step, sizes stand below. Above right, the pull on each logit, likewise at one length.

    Args:
        result: from `kdlab.probes.logit_gradients`.
        student: which; the first if not given.
        samples: numbers of kept pictures (of `result.detailed`), gone through by a slider; six if not given.
        title: of the figure.
        dark: light marks on dark paper.

    Raises:
        ConfigError: no such student or picture.

    >>> found = kdlab.probes.logit_gradients(study, losses=["ce", "kd"])
    >>> fig = kdlab.plots.logit_gradients(found, student="KD")
    >>> fig.layout.annotations[0].text
    'where a small step leads'
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    name = result.students[0] if student is None else student
    if name not in result.students:
        raise unknown_name("student", name, result.students)
    s = result.students.index(name)
    count = len(result.detailed)
    places = list(range(min(6, count))) if samples is None else [int(i) for i in samples]
    if not places or min(places) < 0 or max(places) >= count:
        raise ConfigError(f"Gradients of {count} pictures were kept; samples must lie in 0 .. {count - 1}.")
    fig = make_subplots(
        2,
        2,
        subplot_titles=(
            "where a small step leads",
            "pull on each logit, every loss at length 1",
            f"mean norm, {len(result.target)} pictures",
            "mean cosine between two pulls",
        ),
        vertical_spacing=0.2,
        horizontal_spacing=0.11,
        column_widths=[0.46, 0.54],
        row_heights=[0.55, 0.45],
    )
    plane = _plane(result, s, places)
    moving = []
    for trace, column in _sample_traces(result, s, places[0], plane):
        fig.add_trace(trace, row=1, col=column)
        moving.append(len(fig.data) - 1)
    looks = theme.styles(result.losses)
    norms = result.norm[s].mean(axis=1)
    there = norms[norms > 0]
    least, most = (float(there.min()), float(there.max())) if there.size else (1.0, 1.0)
    fig.add_scatter(
        x=np.where(norms > 0, np.round(norms, 6), np.nan),
        y=list(result.losses),
        mode="markers+text",
        marker=dict(
            color=[looks[loss].color for loss in result.losses],
            symbol=[looks[loss].symbol for loss in result.losses],
            size=12,
        ),
        text=[f"{v:.2g}" for v in norms],
        textposition="middle right",
        textfont=dict(size=12, color=theme.INK),
        cliponaxis=False,
        showlegend=False,
        hovertemplate="%{y}: %{x:.3g}<extra></extra>",
        row=2,
        col=1,
    )
    zero = [loss for loss, norm in zip(result.losses, norms, strict=True) if norm == 0]
    cosine = np.round(result.cosine[s], 3)
    fig.add_heatmap(
        x=list(result.losses),
        y=list(result.losses),
        z=cosine,
        text=[[_short(v) for v in row] for row in cosine],
        texttemplate="%{text}",
        textfont=dict(size=10.5, color="#111111"),
        colorscale=[list(stop) for stop in theme.DIVERGING],
        zmin=-1.6,  # so that black figures are readable on the colours of -1 and 1
        zmax=1.6,
        showscale=False,
        hovertemplate="%{y} and %{x}: %{z:.2f}<extra></extra>",
        row=2,
        col=2,
    )
    fig.update_xaxes(title=f"p<sub>t</sub> at τ = {result.temperature:g}", range=plane[0], row=1, col=1)
    fig.update_yaxes(title="NCKD × τ²", range=plane[1], row=1, col=1)
    fig.update_xaxes(type="category", showgrid=False, row=1, col=2)
    fig.update_yaxes(title="−gradient / its norm", range=[-1.05, 1.05], row=1, col=2)
    fig.update_xaxes(
        title=f"0: {', '.join(zero)}" if zero else "logits (log scale)",
        range=[np.log10(least / 1.6), np.log10(most * 3)],
        **theme.log_axis([least / 1.6, most * 3], factor=1),
        row=2,
        col=1,
    )
    rows = [len(result.losses) - 0.5, -0.5]  # one row for each loss, the same in both plots
    fig.update_yaxes(
        type="category", categoryorder="array", categoryarray=list(result.losses), range=rows, row=2, col=1
    )
    fig.update_yaxes(range=rows, showgrid=False, showticklabels=False, ticks="", row=2, col=2)
    fig.update_xaxes(
        showgrid=False,
        tickangle=-35,
        tickvals=list(result.losses),
        ticktext=[shortened(loss, 9) for loss in result.losses],
        row=2,
        col=2,
    )
    for note in fig.layout.annotations:
        note.update(font=dict(size=13, color=theme.INK))
    heads = list(fig.layout.annotations)
    fig.update_layout(annotations=[*heads, _told(result, s, places[0])])
    layout: dict[str, Any] = {}
    if len(places) > 1:
        fig.frames = [
            go.Frame(
                name=str(number),
                data=[trace for trace, _ in _sample_traces(result, s, place, plane)],
                traces=moving,
                layout={"annotations": [*heads, _told(result, s, place)]},
            )
            for number, place in enumerate(places, 1)
        ]
        layout["sliders"] = [
            theme.slider([str(i + 1) for i in range(len(places))], "picture ", 0, redraw=True)
            | {"pad": {"t": 64, "b": 6}}  # below the slanted names
        ]
    fig = theme.apply(
        fig,
        summary=result.summary,
        title=title,
        height=790 + (theme.SLIDER_HEIGHT if layout else 0),
        **layout,
    )
    theme.small_titles(fig)
    fig.update_layout(
        margin=dict(t=150 + (30 if title else 0), r=16, l=90),
        legend=dict(y=1.06, itemwidth=30, font=dict(size=12)),
    )
    return theme.recolour(fig, dark=True) if dark else fig


def _short(cosine: float) -> str:
    """In few letters: "−.31"; "" where there is none."""
    text = "" if np.isnan(cosine) else f"{cosine + 0.0:.2f}"
    return text.replace("0.", ".").replace("-", "−").replace("−.00", ".00")


def _plane(result: LogitGradients, s: int, places: Sequence[int]) -> tuple[list[float], list[float]]:
    """Ranges of p_t and NCKD that hold the student, the teacher and the arrows of all shown pictures."""
    rows = result.detailed[list(places)]
    sure = np.concatenate([result.p_t_student[s, rows], result.p_t_teacher[rows]])
    width = max(float(np.ptp(sure)), 0.1)
    height = max(float(result.nckd[s, rows].max()), 1e-3)
    low, high = float(sure.min()), float(sure.max())
    return [low - 0.35 * width, high + 0.35 * width], [-0.4 * height, 1.35 * height]


def _sample_traces(
    result: LogitGradients, s: int, number: int, plane: tuple[list[float], list[float]]
) -> list[tuple[Any, int]]:
    import plotly.graph_objects as go

    place = int(result.detailed[number])
    x, y = float(result.p_t_student[s, place]), float(result.nckd[s, place])
    looks = theme.styles(result.losses)
    sides = np.array([side[1] - side[0] for side in plane])
    shown = _classes(result, s, number)
    names = [_class(result, c) + (" ★" if c == result.target[place] else "") for c in shown]
    out: list[tuple[Any, int]] = []
    for i, loss in enumerate(result.losses):
        move = result.motion[s, i, place] / sides
        size = float(np.linalg.norm(move))
        step = move / size * _LENGTH * sides if size > 1e-9 else np.zeros(2)
        look = looks[loss]
        out.append(
            (
                go.Scatter(
                    x=[x, x + step[0]],
                    y=[y, y + step[1]],
                    mode="lines+markers",
                    line=dict(color=look.color, dash=look.dash, width=2.6),
                    marker=dict(symbol="arrow", angleref="previous", size=[0, 13], color=look.color),
                    legendgroup=loss,  # a click in the legend hides the arrow too
                    showlegend=False,
                    hovertemplate=f"{loss}: p<sub>t</sub> {result.motion[s, i, place, 0]:+.3f}, NCKD "
                    f"{result.motion[s, i, place, 1]:+.3f} per unit step<extra></extra>",
                ),
                1,
            )
        )
    for at, text, symbol, side in (
        ((x, y), result.students[s], "circle", "top"),
        ((float(result.p_t_teacher[place]), 0.0), f"{result.teacher} (teacher)", "star", "bottom"),
    ):
        out.append(
            (
                go.Scatter(
                    x=[at[0]],
                    y=[at[1]],
                    mode="markers+text",
                    text=[shortened(text, 20)],
                    textposition=f"{side} {'left' if at[0] > sum(plane[0]) / 2 else 'right'}",
                    textfont=dict(size=12, color=theme.INK),
                    marker=dict(symbol=symbol, size=11, color=theme.INK),
                    showlegend=False,
                    hovertemplate=f"{text}: p<sub>t</sub> %{{x:.3f}}, NCKD %{{y:.3f}}<extra></extra>",
                ),
                1,
            )
        )
    for i, loss in enumerate(result.losses):
        pull = -result.gradient[s, i, number]
        norm = float(np.linalg.norm(pull))
        out.append(
            (
                go.Scatter(
                    x=names,
                    y=np.round(pull[shown] / max(norm, 1e-300), 5),
                    customdata=np.round(pull[shown], 6),
                    name=loss,
                    legendgroup=loss,
                    mode="lines+markers",
                    line=dict(color=theme.faint(looks[loss].color, 0.45), dash=looks[loss].dash, width=1),
                    marker=looks[loss].marker(9),
                    hovertemplate=f"{loss}, %{{x}}: %{{customdata:.3g}} logits<extra></extra>",
                ),
                2,
            )
        )
    return out


def _classes(result: LogitGradients, s: int, number: int) -> list[int]:
    """All classes, or of many those that are pulled most and the true one, in their order."""
    strength = np.abs(result.gradient[s, :, number]).max(axis=0)
    if len(strength) <= _MOST_CLASSES:
        return list(range(len(strength)))
    best = [int(c) for c in np.argsort(-strength)[: _MOST_CLASSES - 1]]
    return sorted({*best, int(result.target[result.detailed[number]])})


def _class(result: LogitGradients, label: int) -> str:
    return result.class_names[label] if label < len(result.class_names) else str(label)


def _told(result: LogitGradients, s: int, number: int) -> dict[str, Any]:
    """Above all: whose picture this is and what is said of it."""
    place = int(result.detailed[number])
    truth = _class(result, int(result.target[place]))
    own = _class(result, int(result.student_logits[s, number].argmax()))
    theirs = _class(result, int(result.teacher_logits[number].argmax()))
    text = (
        f"<b>{shortened(result.students[s], 24)}</b>, a picture of <b>{shortened(truth)}</b> ★: it says "
        f"{shortened(own)}, the teacher {shortened(theirs)} (p<sub>t</sub> {result.p_t_teacher[place]:.2f})"
    )
    return dict(
        x=0,
        y=1,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        yshift=112,
        showarrow=False,
        text=text,
        font=dict(size=14, color=theme.INK),
        align="left",
    )

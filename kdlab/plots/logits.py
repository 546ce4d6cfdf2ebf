"""The KD loss taken apart: one picture, classes, temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError
from kdlab.plots import theme
from kdlab.plots.pictures import png
from kdlab.plots.theme import shortened
from kdlab.probes.logits import LogitDecomposition

if TYPE_CHECKING:
    import plotly.graph_objects as go

TARGET, OTHERS = "true class (TCKD)", "other classes (weight × NCKD)"
_MOST_CLASSES = 12


def logits(
    result: LogitDecomposition,
    *,
    samples: Sequence[int] | None = None,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw pictures one at a time: all networks' probabilities, and each student's KD loss split in two.

    Args:
        result: from `kdlab.probes.logit_decomposition`.
        samples: places of the pictures, gone through by a slider; a few telling ones if not given.
        title: of the figure.
        dark: light bars on dark paper.

    Raises:
        ConfigError: no such picture.

    >>> fig = kdlab.plots.logits(kdlab.probes.logit_decomposition(study), samples=[0, 5])
    >>> len(fig.layout.sliders[0].steps), len(fig.frames)
    (2, 2)
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    places = result.interesting() if samples is None else [int(i) for i in samples]
    if not places or min(places) < 0 or max(places) >= len(result.target):
        raise ConfigError(f"samples must lie in 0 .. {len(result.target) - 1}.")
    fig = make_subplots(1, 3, column_widths=[0.2, 0.43, 0.37], horizontal_spacing=0.095)
    for trace, column in _sample_traces(result, places[0]):
        fig.add_trace(trace, row=1, col=column)
    bare = dict(
        showticklabels=False, showgrid=False, zeroline=False, showline=False, ticks="", constrain="domain"
    )
    fig.update_xaxes(constraintoward="left", **bare, row=1, col=1)
    fig.update_yaxes(
        scaleanchor="x", constraintoward="top", domain=[0.5, 1.0], autorange="reversed", **bare, row=1, col=1
    )
    fig.update_xaxes(title="class", type="category", showgrid=False, row=1, col=2)
    fig.update_yaxes(title=f"probability at τ = {result.temperature:g}", rangemode="tozero", row=1, col=2)
    fig.update_xaxes(title="KD loss × τ² (nats)", rangemode="tozero", row=1, col=3)
    fig.update_yaxes(
        autorange="reversed",
        type="category",
        tickvals=list(result.students),
        ticktext=[shortened(name, 12) for name in result.students],
        showgrid=False,
        row=1,
        col=3,
    )
    fig.update_layout(barmode="stack", bargap=0.35, annotations=[_sample_note(result, places[0])])
    layout: dict[str, Any] = {}
    if len(places) > 1:
        fig.frames = [
            go.Frame(
                name=str(number),
                data=[trace for trace, _ in _sample_traces(result, place)],
                traces=list(range(len(fig.data))),
                layout={"annotations": [_sample_note(result, place)]},
            )
            for number, place in enumerate(places, 1)
        ]
        layout["sliders"] = [
            theme.slider([str(i + 1) for i in range(len(places))], "picture ", 0, redraw=True)
        ]
    fig = theme.apply(
        fig,
        summary=result.summary,
        title=title,
        height=420 + (theme.SLIDER_HEIGHT if layout else 0),
        **layout,
    )
    fig.update_layout(margin=dict(l=16, t=100), legend=dict(itemwidth=30))
    return theme.recolour(fig, dark=True) if dark else fig


def logit_sample(
    result: LogitDecomposition, sample: int, *, title: str | None = None, dark: bool = False
) -> go.Figure:
    """One picture of `logits`, without slider.

    Args:
        result: from `kdlab.probes.logit_decomposition`.
        sample: place of the picture.
        title: of the figure.
        dark: light bars on dark paper.

    Raises:
        ConfigError: no such picture.

    >>> fig = kdlab.plots.logit_sample(kdlab.probes.logit_decomposition(study), sample=3)
    >>> [trace.name for trace in fig.data if trace.name][:3]
    ['resnet8 (teacher)', 'alone', 'KD']
    """
    return logits(result, samples=[sample], title=title, dark=dark)


def _sample_traces(result: LogitDecomposition, place: int) -> list[tuple[Any, int]]:
    import plotly.graph_objects as go

    teacher, students = result.probabilities()
    shown = _classes(result, teacher, students, place)
    names = [result.class_names[c] + (" ★" if c == result.target[place] else "") for c in shown]
    looks = theme.styles(result.roster, (result.teacher,))
    out: list[tuple[Any, int]] = []
    if result.images is not None:
        out.append((go.Image(source=png(result.images[place]), hoverinfo="skip"), 1))
    out.append(
        (
            go.Bar(
                x=names,
                y=np.round(teacher[place, shown], 5),
                name=f"{result.teacher} (teacher)",
                marker=dict(color=theme.FAINT, line=dict(color=theme.INK, width=1)),
                hovertemplate=f"{result.teacher}, %{{x}}: %{{y:.3f}}<extra></extra>",
            ),
            2,
        )
    )
    for s, name in enumerate(result.students):
        out.append(
            (
                go.Scatter(
                    x=names,
                    y=np.round(students[s, place, shown], 5),
                    name=name,
                    mode="markers",
                    marker=looks[name].marker(10),
                    hovertemplate=f"{name}, %{{x}}: %{{y:.3f}}<extra></extra>",
                ),
                2,
            )
        )
    for part, values in ((TARGET, result.tckd), (OTHERS, result.product)):
        out.append((part_bar(result.students, np.round(values[:, place], 5), part), 3))
    return out


def part_bar(students: Sequence[str], values: np.ndarray, part: str, **more: Any) -> Any:
    """Bars of one part of the KD loss, `TARGET` or `OTHERS` (hatched), a row a student."""
    import plotly.graph_objects as go

    return go.Bar(
        y=list(students),
        x=values,
        orientation="h",
        name=part,
        marker=dict(
            color=theme.MUTED if part == TARGET else theme.OKABE_ITO[5],
            line=dict(color=theme.INK, width=1),
            pattern=dict(shape="" if part == TARGET else "/", fgcolor=theme.INK, size=6),
        ),
        hovertemplate=f"%{{y}}, {part}: %{{x:.4f}}<extra></extra>",
        **more,
    )


def _classes(result: LogitDecomposition, teacher: np.ndarray, students: np.ndarray, place: int) -> list[int]:
    """All classes, or of many the likeliest ones and the true one, in their order."""
    count = teacher.shape[1]
    if count <= _MOST_CLASSES:
        return list(range(count))
    strength = teacher[place] + students[:, place].max(axis=0)
    best = [int(c) for c in np.argsort(-strength)[: _MOST_CLASSES - 1]]
    return sorted({*best, int(result.target[place])})


def _sample_note(result: LogitDecomposition, place: int) -> dict[str, Any]:
    """Under the picture: what it is, what the teacher says, who is right."""
    names = result.class_names
    said = names[int(result.teacher_logits[place].argmax())]
    right = int(np.isin(result.quadrant[:, place], (0, 2)).sum())
    text = (
        f"true <b>{shortened(names[result.target[place]], 12)}</b> ★<br>"
        f"teacher <b>{shortened(said, 10)}</b><br>"
        f"p<sub>t</sub> = {result.p_t_teacher[place]:.2f}<br>weight = {result.weight[place]:.2f}<br>"
        f"{right} of {len(result.students)} students<br>right"
    )
    top = 1.0 if result.images is None else 0.46
    font = dict(size=13, color=theme.INK)
    return dict(
        x=0,
        y=top,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="top",
        align="left",
        showarrow=False,
        text=text,
        font=font,
    )


def logit_classes(result: LogitDecomposition, *, title: str | None = None, dark: bool = False) -> go.Figure:
    """Class means of both parts of the KD loss: true class above, other classes below, one axis for both.

    Args:
        result: from `kdlab.probes.logit_decomposition`.
        title: of the figure.
        dark: light bars on dark paper.

    >>> fig = kdlab.plots.logit_classes(kdlab.probes.logit_decomposition(study))
    >>> [note.text for note in fig.layout.annotations]
    ['true class (TCKD)', 'other classes (weight × NCKD)']
    """
    from plotly.subplots import make_subplots

    labels = np.unique(result.target)
    looks = theme.styles(result.roster, (result.teacher,))
    fig = make_subplots(
        2, 1, shared_xaxes=True, shared_yaxes="all", vertical_spacing=0.12, subplot_titles=(TARGET, OTHERS)
    )
    names = [result.class_names[label] for label in labels]
    for row, values in enumerate((result.tckd, result.product), 1):
        for s, name in enumerate(result.students):
            means = [values[s, result.target == label].mean() for label in labels]
            fig.add_scatter(
                x=names,
                y=np.round(means, 5),
                name=name,
                legendgroup=name,
                showlegend=row == 1,
                mode="markers+lines" if len(labels) <= 20 else "markers",
                line=dict(color=theme.faint(looks[name].color, 0.5), width=1, dash=looks[name].dash),
                marker=looks[name].marker(9),
                hovertemplate=f"{name}, class %{{x}}: %{{y:.3f}}<extra></extra>",
                row=row,
                col=1,
            )
    fig.update_xaxes(type="category", showgrid=False)
    fig.update_xaxes(title="true class", row=2, col=1)
    fig.update_yaxes(title="loss × τ² (nats)", rangemode="tozero")
    for note in fig.layout.annotations:
        note.update(font=dict(size=13, color=theme.INK), x=0, xanchor="left")
    hardest = labels[int(np.argmax([result.kd[:, result.target == label].mean() for label in labels]))]
    summary = (
        f"Class means of the two parts of the KD loss at temperature {result.temperature:g}; the "
        f"largest loss, mean over students, is on class {result.class_names[hardest]}."
    )
    fig = theme.apply(fig, summary=summary, title=title, height=560)
    theme.small_titles(fig)
    fig.update_layout(legend=dict(y=1.06), margin=dict(t=80))
    return theme.recolour(fig, dark=True) if dark else fig


def logit_sweep(result: LogitDecomposition, *, title: str | None = None, dark: bool = False) -> go.Figure:
    """What temperature does: the share of KD that is about the true class, and how many classes speak.

    Args:
        result: from `kdlab.probes.logit_decomposition`.
        title: of the figure.
        dark: light lines on dark paper.

    >>> fig = kdlab.plots.logit_sweep(kdlab.probes.logit_decomposition(study))
    >>> fig.data[0].x.tolist(), fig.layout.xaxis.title.text
    ([1.0, 2.0, 4.0, 8.0, 16.0], 'temperature τ')
    """
    from plotly.subplots import make_subplots

    looks = theme.styles(result.roster, (result.teacher,))
    both = result.sweep_classes is not None
    fig = make_subplots(1, 2 if both else 1, horizontal_spacing=0.1)
    for s, name in enumerate(result.students):
        fig.add_scatter(
            x=result.sweep,
            y=100 * result.sweep_share[s],
            name=name,
            legendgroup=name,
            mode="lines+markers",
            line=looks[name].line(),
            marker=looks[name].marker(9),
            customdata=result.sweep_kd[s],
            hovertemplate=f"{name}, τ = %{{x:g}}: %{{y:.0f}} % of KD = %{{customdata:.3f}}<extra></extra>",
            row=1,
            col=1,
        )
    if result.sweep_classes is not None and result.sweep_entropy is not None:
        for n, name in enumerate((result.teacher, *result.students)):
            fig.add_scatter(
                x=result.sweep,
                y=np.round(result.sweep_classes[n], 4),
                name=f"{name} (teacher)" if n == 0 else name,
                legendgroup=name if n else "the teacher",
                showlegend=n == 0,
                mode="lines+markers",
                line=looks[name].line(),
                marker=looks[name].marker(9),
                customdata=result.sweep_entropy[n],
                hovertemplate=f"{name}, τ = %{{x:g}}: %{{y:.2f}} classes, entropy %{{customdata:.2f}} nats"
                "<extra></extra>",
                row=1,
                col=2,
            )
        classes = result.teacher_logits.shape[1]
        fig.add_hline(
            y=classes,
            line=dict(color=theme.MUTED, width=1.2, dash="dot"),
            annotation=dict(text="all classes alike", font=dict(size=12, color=theme.MUTED)),
            annotation_position="top left",
            row=1,
            col=2,
        )
        fig.update_yaxes(title="effective number of classes", range=[0, 1.14 * classes], row=1, col=2)
    fig.add_vline(x=result.temperature, line=dict(color=theme.MUTED, width=1.2, dash="dash"))
    told = result.sweep[:: -(-len(result.sweep) // 6)]  # as many numbers as fit
    fig.update_xaxes(
        title="temperature τ", type="log", tickvals=told, ticktext=[f"{t:g}" for t in told], tickangle=0
    )
    fig.update_yaxes(title="share of TCKD in the KD loss (%)", range=[0, 102], row=1, col=1)
    order = ", ".join(
        f"{t:g}: {100 * v:.0f} %" for t, v in zip(result.sweep, result.sweep_share.mean(axis=0), strict=True)
    )
    summary = (
        f"Share of the KD loss that is about the true class, mean over students, by temperature: {order}."
    )
    if result.sweep_classes is not None:
        first, last = result.sweep_classes[0, [0, -1]]
        summary += (
            f" The teacher spreads over {first:.1f} of {result.teacher_logits.shape[1]} classes at "
            f"temperature {result.sweep[0]:g} and over {last:.1f} at {result.sweep[-1]:g}."
        )
    theme.small_titles(fig)
    return theme.apply(fig, summary=summary, title=title, height=400, dark=dark)

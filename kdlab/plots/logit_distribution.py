"""What networks answer beside each other, and the same split into true class and other classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.plots import theme
from kdlab.plots.logits import OTHERS, TARGET, part_bar
from kdlab.plots.pictures import png
from kdlab.plots.theme import shortened
from kdlab.probes.logits import LogitDecomposition
from kdlab.probes.words import listed, percent, plural

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MOST = 10  # classes that are named
_LEAST = 1e-4  # probabilities below are drawn there on a logarithmic axis


@dataclass(frozen=True)
class _Profile:
    """Probabilities of a few classes (or ranks), the teacher's likeliest first.

    Attributes:
        names: of the classes. whole: the same in full, for the pointer. axis: what they are.
        teacher: (k,). students: (S, k).
        true: place of the true class, or None.
    """

    names: list[str]
    whole: list[str]
    teacher: np.ndarray
    students: np.ndarray
    true: int | None
    axis: str = ""


def logit_distribution(
    result: LogitDecomposition,
    sample: int | None = None,
    *,
    scale: str = "linear",
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw the probabilities of teacher (bars) and students (markers), classes in the teacher's order.

    The true class has a star. Of many classes the ten that the teacher finds likeliest are named (the true
    one always), the others are summed. For several pictures of different classes, places are ranks: the
    true class, then the others of each picture in the teacher's order; means are shown.

    Args:
        result: from `kdlab.probes.logit_decomposition`.
        sample: place of one picture; None for the mean of all.
        scale: "linear", or "log", on which unlikely classes can be told apart.
        title: of the figure.
        dark: light marks on dark paper.

    Raises:
        ConfigError: no such picture, or an unknown scale.

    >>> fig = kdlab.plots.logit_distribution(kdlab.probes.logit_decomposition(study), sample=0)
    >>> [trace.name for trace in fig.data], fig.layout.yaxis.title.text
    (['resnet8 (teacher)', 'alone', 'KD'], 'probability at τ = 4')
    >>> round(float(sum(fig.data[0].y)), 4)
    1.0
    """
    import plotly.graph_objects as go

    if scale not in ("linear", "log"):
        raise unknown_name("scale", scale, ("linear", "log"))
    one = _chosen(result, sample)
    profile = _profile(one)
    fig = go.Figure(_traces(one, profile, "x", "y", scale == "log"))
    picture = _has_picture(one)
    fig.update_xaxes(domain=[0.27 if picture else 0.0, 1.0], title=profile.axis)
    _class_axis(fig.layout.xaxis, profile)
    _probability_axis(fig.layout.yaxis, one, profile, scale)
    if picture:
        _show_picture(fig, one)
    theme.small_titles(fig)
    margin = dict(t=60 + (30 if title else 0), l=56, b=84)
    return theme.apply(fig, summary=_summary(one), title=title, height=450, dark=dark, margin=margin)


def logit_parts(
    result: LogitDecomposition,
    sample: int | None = None,
    *,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw KD = TCKD + weight x NCKD in numbers (above), and what the two parts compare (below).

    Below left the probability of the true class, which TCKD compares; below right the probabilities of the
    other classes among themselves, which NCKD compares.

    Args:
        result: from `kdlab.probes.logit_decomposition`.
        sample: place of one picture; None for the mean of all.
        title: of the figure.
        dark: light bars on dark paper.

    Raises:
        ConfigError: no such picture.

    >>> fig = kdlab.plots.logit_parts(kdlab.probes.logit_decomposition(study))
    >>> fig.data[0].name, fig.layout.xaxis.title.text
    ('true class (TCKD)', 'KD loss × τ² (nats)')
    """
    from plotly.subplots import make_subplots

    one = _chosen(result, sample)
    rows = len(one.students)
    above = 30 + 36 * rows
    fig = make_subplots(
        2,
        2,
        specs=[[{"colspan": 2}, None], [{}, {}]],
        row_heights=[above, 230],
        column_widths=[0.3, 0.7],
        vertical_spacing=112 / (above + 230 + 112),
        horizontal_spacing=0.09,
        subplot_titles=("", "what TCKD compares: the true class", "what NCKD compares: the others alone"),
    )
    for trace in _bars(one):
        fig.add_trace(trace, row=1, col=1)
    profile = _profile(one, rest=True)
    sure = _Profile(["true class"], ["true class"], *_sure(one), true=0)
    for trace in _traces(one, sure, "x2", "y2", False, legend=False):
        fig.add_trace(trace)
    for trace in _traces(one, profile, "x3", "y3", False):
        fig.add_trace(trace.update(legend="legend2"))
    reach = float(one.kd.mean(axis=1).max())
    fig.update_xaxes(title="KD loss × τ² (nats)", range=[0, 1.75 * max(reach, 1e-6)], row=1, col=1)
    fig.update_yaxes(
        autorange="reversed",
        type="category",
        tickvals=list(one.students),
        ticktext=[shortened(name, 14) for name in one.students],
        showgrid=False,
        row=1,
        col=1,
    )
    _class_axis(fig.layout.xaxis2, sure)
    _class_axis(fig.layout.xaxis3, profile)
    fig.update_yaxes(title=f"probability at τ = {one.temperature:g}", range=[0, 1.02], row=2, col=1)
    fig.update_yaxes(rangemode="tozero", row=2, col=2)
    fig.update_xaxes(title=profile.axis, row=2, col=2)
    for note in fig.layout.annotations:
        note.update(font=dict(size=13, color=theme.INK))
    fig.update_layout(barmode="stack", bargap=0.3)
    fig = theme.apply(fig, summary=_summary(one), title=title, height=int(above + 230 + 112 + 130))
    theme.small_titles(fig)
    below = fig.layout.legend.to_plotly_json() | dict(y=-(96 / (above + 230 + 112)), yanchor="top")
    fig.update_layout(margin=dict(t=44 + (30 if title else 0), b=86), legend2=below)
    return theme.recolour(fig, dark=True) if dark else fig


def _chosen(result: LogitDecomposition, sample: int | None) -> LogitDecomposition:
    if sample is None:
        return result
    if not 0 <= sample < len(result.target):
        raise ConfigError(f"sample must lie in 0 .. {len(result.target) - 1}.")
    return result.at(places=[sample])


def _profile(result: LogitDecomposition, rest: bool = False) -> _Profile:
    """The classes of one kind of picture, or ranks; with `rest` the true class is left out."""
    teacher, students = result.probabilities()
    every = np.concatenate([teacher[None], students])  # (1 + S, n, K)
    rows, classes = np.arange(len(result.target)), every.shape[2]
    labels = np.unique(result.target)
    true: int | None
    if len(labels) == 1:
        true = int(labels[0])
        table = every.mean(axis=1) if not rest else _others(every, result.target).mean(axis=1)
        order = [int(c) for c in np.argsort(-table[0], kind="stable") if not (rest and c == true)]
        names, axis = list(result.class_names), "class, in the teacher's order"
    else:  # the true class first, then the others of each picture as the teacher ranks them
        shown = _others(every, result.target) if rest else every
        ranked = np.where(np.arange(classes) == result.target[:, None], np.inf, teacher)
        places = np.argsort(-ranked, axis=1, kind="stable")
        table = shown[:, rows[:, None], places].mean(axis=1)
        true, order = 0, list(range(1 if rest else 0, classes))
        names = ["true class", *(f"{_ordinal(k)} other" for k in range(1, classes))]
        axis = "classes of each picture, the others in the teacher's order"
    kept = order[:_MOST]
    if not rest and true not in kept:
        kept = [*kept[: _MOST - 1], true]
    left = [c for c in order if c not in kept]
    texts = [shortened(names[c], 12) + (" ★" if c == true else "") for c in kept]
    whole = [names[c] for c in kept]
    values = table[:, kept]
    if left:
        texts, whole = [*texts, f"other {len(left)}"], [*whole, f"the other {len(left)} together"]
        values = np.concatenate([values, table[:, left].sum(axis=1, keepdims=True)], axis=1)
    return _Profile(texts, whole, values[0], values[1:], None if rest else kept.index(true), axis)


def _others(every: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N, n, K) probabilities of the other classes among themselves; 0 at the true one."""
    out = every.copy()
    out[:, np.arange(len(target)), target] = 0.0
    return out / np.maximum(out.sum(axis=2, keepdims=True), 1e-300)


def _sure(result: LogitDecomposition) -> tuple[np.ndarray, np.ndarray]:
    """(1,) and (S, 1) mean probability of the true class."""
    return result.p_t_teacher.mean(keepdims=True), result.p_t_student.mean(axis=1, keepdims=True)


def _ordinal(number: int) -> str:
    ending = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _traces(
    result: LogitDecomposition, profile: _Profile, x: str, y: str, log: bool, legend: bool = True
) -> list[Any]:
    """The teacher's bars, and one row of markers for each student, side by side over each bar."""
    import plotly.graph_objects as go

    looks = theme.styles(result.roster, (result.teacher,))
    place = np.arange(len(profile.names), dtype=float)
    least = _LEAST if log else 0.0
    out: list[Any] = [
        go.Bar(
            x=place,
            y=np.maximum(np.round(profile.teacher, 6), least),
            width=0.8,
            customdata=np.stack([np.array(profile.whole, dtype=object), profile.teacher], axis=1),
            name=f"{result.teacher} (teacher)",
            marker=dict(color=theme.FAINT, line=dict(color=theme.INK, width=1)),
            hovertemplate=f"{result.teacher}, %{{customdata[0]}}: %{{customdata[1]:.4f}}<extra></extra>",
            showlegend=legend,
            xaxis=x,
            yaxis=y,
        )
    ]
    count = len(result.students)
    for s, name in enumerate(result.students):
        values = profile.students[s]
        out.append(
            go.Scatter(
                x=place + ((s + 0.5) / count - 0.5) * 0.66,
                y=np.maximum(np.round(values, 6), least),
                customdata=np.stack([np.array(profile.whole, dtype=object), values], axis=1),
                mode="markers",
                name=name,
                marker=looks[name].marker(9),
                cliponaxis=False,
                hovertemplate=f"{name}, %{{customdata[0]}}: %{{customdata[1]:.4f}}<extra></extra>",
                showlegend=legend,
                xaxis=x,
                yaxis=y,
            )
        )
    return out


def _bars(result: LogitDecomposition) -> list[Any]:
    """TCKD and weight x NCKD of each student, with the sum in numbers."""

    tckd, product, kd, nckd = (
        getattr(result, part).mean(axis=1) for part in ("tckd", "product", "kd", "nckd")
    )
    weight = float(result.weight.mean())
    single = len(result.target) == 1
    text = [
        f" KD {kd[s]:.3g} = {tckd[s]:.3g} + "
        + (f"{weight:.2f} × {nckd[s]:.3g}" if single else f"{product[s]:.3g}")
        for s in range(len(result.students))
    ]
    told = dict(text=text, textposition="outside", textfont=dict(size=12, color=theme.INK))
    return [
        part_bar(result.students, np.round(tckd, 6), TARGET, cliponaxis=False),
        part_bar(result.students, np.round(product, 6), OTHERS, cliponaxis=False, **told),
    ]


def _class_axis(axis: Any, profile: _Profile) -> None:
    count = len(profile.names)
    axis.update(
        tickvals=list(range(count)),
        ticktext=profile.names,
        range=[-0.6, count - 0.4],
        showgrid=False,
        zeroline=False,
    )
    axis.tickangle = -35 if max(map(len, profile.names)) * count > 56 else 0


def _probability_axis(axis: Any, result: LogitDecomposition, profile: _Profile, scale: str) -> None:
    axis.title = f"probability at τ = {result.temperature:g}"
    if scale == "log":
        axis.update(type="log", range=[np.log10(_LEAST * 0.7), 0.05], dtick=1, tickformat="~g")
    else:
        top = max(float(profile.teacher.max()), float(profile.students.max(initial=0.0)))
        axis.update(range=[0, 1.06 * top])


def _has_picture(result: LogitDecomposition) -> bool:
    return result.images is not None and len(result.target) == 1


def _show_picture(fig: go.Figure, result: LogitDecomposition) -> None:
    """The picture at the left, and below it what it is."""
    assert result.images is not None
    place: dict[str, Any] = dict(x=-0.05, xref="paper", yref="paper", xanchor="left", yanchor="top")
    fig.add_layout_image(place | dict(y=1, source=png(result.images[0]), sizex=0.2, sizey=0.56))
    truth = shortened(result.class_names[int(result.target[0])], 16)
    fig.add_annotation(
        **place,
        y=0.42,
        align="left",
        showarrow=False,
        text=f"true class<br><b>{truth}</b> ★",
        font=dict(size=13),
    )


def _summary(result: LogitDecomposition) -> str:
    """What is likely, and how far the students are from the teacher."""
    names = result.class_names
    far = [f"{name} {kd:.2f}" for name, kd in zip(result.students, result.kd.mean(axis=1), strict=True)]
    loss = f"KD loss at temperature {result.temperature:g}: {listed(far)} nats."
    if len(result.target) > 1:
        return (
            f"Mean of {plural(len(result.target), 'picture')}. Probability of the true class: "
            f"{result.teacher} {percent(result.p_t_teacher.mean(), 0)}, "
            + listed(
                [
                    f"{name} {percent(p, 0)}"
                    for name, p in zip(result.students, result.p_t_student.mean(axis=1), strict=True)
                ]
            )
            + f" (at that temperature). {loss}"
        )
    own: Sequence[np.ndarray] = [result.teacher_logits[0], *result.student_logits[:, 0]]
    said = [
        f"{name} says {names[int(logits.argmax())]}"
        for name, logits in zip((result.teacher, *result.students), own, strict=True)
    ]
    return f"A picture of {names[int(result.target[0])]}: {listed(said)}. {loss}"

"""How sure student and teacher are of the true class, picture by picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.plots import theme
from kdlab.plots.theme import shortened
from kdlab.probes.logits import QUADRANTS, LogitDecomposition

if TYPE_CHECKING:
    import plotly.graph_objects as go

_COLUMNS = 3
_SYMBOLS = ("circle", "x", "diamond", "square")


def sureness(result: LogitDecomposition, *, title: str | None = None, dark: bool = False) -> go.Figure:
    """Draw p_t of each student against the teacher's, a point a picture, a plot a student.

    p_t is the probability of the true class at the temperature of the result. Below the diagonal the
    teacher is surer, and KD, TCKD and DCKD pull the student up. Above it (shaded) the student is surer:
    KD and TCKD pull it down, DCKD with the fusion "max" leaves it alone. Colours and markers tell who
    is right.

    Args:
        result: from `kdlab.probes.logit_decomposition`.
        title: of the figure.
        dark: light text on dark paper.

    >>> logits = {"T": [[4.0, 0.0], [0.0, 2.0]], "S": [[1.0, 0.0], [0.0, 3.0]]}
    >>> parts = kdlab.probes.logit_decomposition(logits, target=[0, 1], teacher="T")
    >>> kdlab.plots.sureness(parts).layout.meta["summary"]
    'Probability of the true class at temperature 4. Surer of it than the teacher: S on 50 % of the pictures.'
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    count = len(result.students)
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    surer = (result.p_t_student > result.p_t_teacher).mean(axis=1)
    heads = [
        f"{shortened(name, 20)}: {100 * share:.0f} % surer than the teacher"
        for name, share in zip(result.students, surer, strict=True)
    ]
    fig = make_subplots(rows, columns, subplot_titles=heads, horizontal_spacing=0.07, vertical_spacing=0.22)
    for s in range(count):
        at: dict[str, Any] = dict(row=s // columns + 1, col=s % columns + 1)
        fig.add_scatter(
            **dict(x=[0, 1, 0, 0], y=[0, 1, 1, 0], mode="lines", fill="toself", showlegend=False),
            fillcolor=theme.faint(theme.MUTED, 0.12),
            line=dict(color=theme.MUTED, width=1, dash="dot"),
            hoverinfo="skip",
            **at,
        )
        for q, said in enumerate(QUADRANTS):
            fig.add_trace(_points(result, s, q, said), **at)
    fig.update_xaxes(range=[0, 1.02], title=f"{result.teacher}: p<sub>t</sub> at τ = {result.temperature:g}")
    fig.update_yaxes(range=[0, 1.02])
    fig.update_yaxes(title="student: p<sub>t</sub>", col=1)
    for note in fig.layout.annotations:
        note.update(font=dict(size=13, color=theme.INK))
    fig.add_trace(
        go.Scatter(
            **dict(x=[None], y=[None], mode="markers", name="student surer than the teacher"),
            marker=dict(symbol="square", size=13, color=theme.faint(theme.MUTED, 0.3)),
        ),
        row=1,
        col=1,
    )
    told = ", ".join(f"{n} on {100 * x:.0f} %" for n, x in zip(result.students, surer, strict=True))
    summary = (
        f"Probability of the true class at temperature {result.temperature:g}. Surer of it than the teacher: "
        f"{told} of the pictures."
    )
    theme.small_titles(fig)
    fig = theme.apply(fig, summary=summary, title=title, height=340 * rows + 90)
    fig.update_layout(legend=dict(y=1.0 + 0.16 / rows), margin=dict(t=110 if title else 90))
    return theme.recolour(fig, dark=True) if dark else fig


def _points(result: LogitDecomposition, s: int, quadrant: int, said: str) -> Any:
    """The pictures of one quadrant; a trace without points keeps the legend the same for all students."""
    import plotly.graph_objects as go

    here = np.flatnonzero(result.quadrant[s] == quadrant)
    labels = [result.class_names[label] for label in result.target[here]]
    return go.Scatter(
        x=np.round(result.p_t_teacher[here], 4),
        y=np.round(result.p_t_student[s, here], 4),
        mode="markers",
        name=said,
        legendgroup=said,
        showlegend=s == 0,
        marker=dict(
            color=theme.OKABE_ITO[quadrant],
            symbol=_SYMBOLS[quadrant],
            size=5 if quadrant == 0 else 8,
            opacity=0.55 if quadrant == 0 else 0.95,
        ),
        customdata=np.stack([result.index[here].astype(str), labels], axis=1) if len(here) else None,
        hovertemplate="picture %{customdata[0]}, class %{customdata[1]}<br>teacher %{x:.2f}, "
        f"{result.students[s]} %{{y:.2f}}<extra>{said}</extra>",
    )

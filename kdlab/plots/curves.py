"""Learning curves: mean over seeds, their spread, the teacher, chance, and the commands given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.plots import theme
from kdlab.probes.curves import LearningCurves, learning_curves
from kdlab.probes.words import mean_over_seeds

if TYPE_CHECKING:
    import plotly.graph_objects as go


def curves(
    result: LearningCurves | Any, key: str = "test_accuracy", *, title: str | None = None, dark: bool = False
) -> go.Figure:
    """Draw `result` over epochs: a line per student, its band from the lowest to the highest seed.

    Args:
        result: from `kdlab.probes.learning_curves`; a study is measured first, with `key`.
        key: for a study, what to draw.
        title: of the figure.
        dark: light lines on dark paper.

    Raises:
        StudyError, UnknownNameError: as `kdlab.probes.learning_curves`, where a study is given.

    >>> fig = kdlab.plots.curves(study)
    >>> [line.name for line in fig.data], fig.layout.yaxis.title.text
    (['alone', 'KD'], 'test accuracy (%)')
    >>> fig.layout.meta["summary"].split(";")[0]
    'Test accuracy over 3 epochs'
    """
    import plotly.graph_objects as go

    if not isinstance(result, LearningCurves):
        result = learning_curves(result, key)
    fig = go.Figure()
    factor = 100.0 if result.is_accuracy else 1.0
    unit = " %" if result.is_accuracy else ""
    looks = theme.styles(result.roster, tuple(result.teachers))
    for s, name in enumerate(result.students):
        look = looks[name]
        values = result.values[s] * factor
        there = np.isfinite(values).any(axis=0)
        x = result.epochs[there]
        count = np.isfinite(values[:, there]).sum(axis=0)
        mean = np.nanmean(values[:, there], axis=0)
        if count.max(initial=0) > 1:
            low, high = np.nanmin(values[:, there], axis=0), np.nanmax(values[:, there], axis=0)
            fig.add_scatter(
                x=np.concatenate([x, x[::-1]]),
                y=np.concatenate([high, low[::-1]]),
                fill="toself",
                fillcolor=theme.faint(look.color),
                line=dict(width=0),
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
                legendgroup=name,
            )
        every = max(len(x) // 8, 1)
        fig.add_scatter(
            x=x,
            y=mean,
            name=name,
            legendgroup=name,
            mode="lines+markers",
            line=look.line(),
            marker={**look.marker(), "maxdisplayed": int(np.ceil(len(x) / every))},
            customdata=count,
            hovertemplate=f"{name}, epoch %{{x}}: %{{y:.4g}}{unit} (%{{customdata}} seed(s))<extra></extra>",
        )
    _forks(fig, result, factor, looks)
    if result.is_accuracy:
        for name, accuracy in result.teachers.items():
            level(fig, 100 * accuracy, f"teacher {name}", looks[name])
        level(fig, 100 * result.chance, "chance", None)
        if len(result.epochs):
            values = result.values[np.isfinite(result.values)]
            floor = min(100 * values.min(initial=1.0), 100 * result.chance)
            fig.update_yaxes(range=[max(floor - 4, 0), 101.5])
    else:
        fig.update_yaxes(**theme.log_axis(result.values))
    _marks(fig, result)
    fig.update_xaxes(title="epoch")
    fig.update_yaxes(title=f"{result.label}{' (%)' if result.is_accuracy else ''}")
    return theme.apply(fig, summary=result.summary, title=title, dark=dark, hovermode="closest")


def _forks(fig: go.Figure, result: LearningCurves, factor: float, looks: Mapping[str, theme.Style]) -> None:
    """A ring on the parent's curve where a fork left it, and a dotted line to the fork's first point."""
    for mark in result.marks:
        fork, parent = mark.get("student"), mark.get("parent")
        if mark.get("kind") != "fork" or fork not in result.students or parent not in result.students:
            continue
        theirs, own = (
            np.array([mean_over_seeds(column) for column in result.values[result.students.index(n)].T])
            for n in (parent, fork)
        )
        before = np.flatnonzero(np.isfinite(theirs) & (result.epochs < mark["epoch"]))
        after = np.flatnonzero(np.isfinite(own))
        if not len(before) or not len(after):
            continue
        at, first = before[-1], after[0]
        fig.add_scatter(
            x=result.epochs[[at, first]],
            y=np.array([theirs[at], own[first]]) * factor,
            mode="lines+markers",
            line=dict(color=looks[fork].color, dash="dot", width=1.2),
            marker=dict(
                symbol="circle-open", size=[13, 0], opacity=1, color=looks[fork].color, line=dict(width=2)
            ),
            text=[f"{fork}: {mark['text']} after epoch {result.epochs[at]}", ""],
            hovertemplate="%{text}<extra></extra>",
            name=f"{fork} forks",
            legendgroup=fork,
            showlegend=False,
        )


def level(fig: go.Figure, y: float, text: str, look: theme.Style | None, side: str = "right") -> None:
    """A horizontal reference line with its name on it, at the left or right end."""
    color = theme.MUTED if look is None else look.color
    fig.add_hline(y=y, line=dict(color=color, dash="dot" if look is None else look.dash, width=1.5))
    fig.add_annotation(
        x=0.995 if side == "right" else 0.005,
        xref="x domain",
        y=y,
        text=f"{text} {y:.1f} %",
        showarrow=False,
        xanchor=side,
        yanchor="bottom",
        font=dict(size=12, color=color),
    )


def _marks(fig: go.Figure, result: LearningCurves) -> None:
    """Dotted lines where something was commanded by hand; what it was is told on hover."""
    seen: dict[float, list[str]] = {}
    for mark in result.marks:
        if mark.get("student") in result.students:
            text = f"{mark['student']}: {mark.get('text', mark.get('term', ''))}"
            texts = seen.setdefault(float(mark["epoch"]), [])
            if text not in texts:
                texts.append(text)
    for epoch in seen:
        fig.add_vline(x=epoch, line=dict(color=theme.MUTED, dash="dot", width=1))
    if seen:
        fig.add_scatter(
            x=list(seen),
            y=[1.0] * len(seen),
            yaxis="y2",
            mode="markers",
            name="changed by hand",
            marker=dict(symbol="triangle-down", size=11, color=theme.MUTED),
            text=["<br>".join(texts) for texts in seen.values()],
            hovertemplate="epoch %{x}: %{text}<extra></extra>",
        )
        fig.update_layout(yaxis2=dict(overlaying="y", range=[0, 1.02], visible=False))

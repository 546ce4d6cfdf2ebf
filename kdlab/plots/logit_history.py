"""The parts of the KD loss over epochs: means of all pictures, or class by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.plots import theme
from kdlab.plots.bars import error_bars, over_seeds
from kdlab.plots.theme import shortened
from kdlab.probes.logit_history import LogitHistory
from kdlab.probes.logits import QUADRANTS
from kdlab.probes.representation import AS_GIVEN

if TYPE_CHECKING:
    import plotly.graph_objects as go

_PARTS = {"tckd": "true class (TCKD)", "product": "other classes (weight × NCKD)"}


def logits_over_epochs(
    result: LogitHistory,
    *,
    show: str = "means",
    part: str = "product",
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw how the KD loss and its parts change over the epochs.

    Args:
        result: from `kdlab.probes.logit_history`.
        show: "means" (KD, the share of its target part, NCKD without its weight, and pictures that the
            teacher has right and the student wrong; points are means over seeds, bars go from the lowest to
            the highest), "target" (the probability of the true class, the teacher's as a line, and both
            parts of KD; likewise) or "classes" (a heat map of class and epoch for each student).
        part: for "classes": "tckd" or "product".
        title: of the figure.
        dark: light lines on dark paper.

    Raises:
        ConfigError: an unknown option.

    >>> fig = kdlab.plots.logits_over_epochs(kdlab.probes.logit_history(study))
    >>> [note.text for note in fig.layout.annotations][:2]
    ['KD loss × τ² (nats)', 'of it about the true class (%)']
    """
    if show not in ("means", "target", "classes"):
        raise unknown_name("value of show", show, ("means", "target", "classes"))
    if part not in _PARTS:
        raise unknown_name("part of the KD loss", part, _PARTS)
    if not np.isfinite(result.kd).any():
        raise ConfigError("None of the students has a snapshot at these epochs; choose others.")
    if show == "classes":
        return _classes(result, part, title, dark)
    return _target(result, title, dark) if show == "target" else _means(result, title, dark)


def _target(result: LogitHistory, title: str | None, dark: bool) -> go.Figure:
    plots = (
        (f"probability of the true class at τ = {result.temperature:g}", result.p_t_student, 1.0),
        ("true class: TCKD × τ² (nats)", result.tckd, 1.0),
        ("other classes: weight × NCKD × τ² (nats)", result.product, 1.0),
    )
    fig = _curves(result, plots, specs=[[{"colspan": 2}, None], [{}, {}]], row_heights=[0.55, 0.45])
    look = theme.styles(result.roster, (result.teacher,))[result.teacher]
    ends = [min(result.epochs), max(result.epochs)]
    fig.add_scatter(
        x=ends,
        y=[round(result.p_t_teacher, 5)] * 2,
        name=f"{result.teacher} (teacher)",
        mode="lines+markers",
        line=look.line(),
        marker=look.marker(8),
        hovertemplate=f"{result.teacher}: %{{y:.3f}}<extra>{plots[0][0]}</extra>",
        row=1,
        col=1,
    )
    return _finished(fig, result, title, dark)


def _means(result: LogitHistory, title: str | None, dark: bool) -> go.Figure:
    plots = (
        ("KD loss × τ² (nats)", result.kd, 1.0),
        ("of it about the true class (%)", result.share, 100.0),
        ("NCKD × τ² without its weight (nats)", result.nckd, 1.0),
        (f"{QUADRANTS[1]} (% of pictures)", result.quadrants[..., 1], 100.0),
    )
    return _finished(_curves(result, plots), result, title, dark)


def _curves(result: LogitHistory, plots: Sequence[tuple[str, np.ndarray, float]], **layout: Any) -> go.Figure:
    """Curves of all students over the epochs in two rows; the (S, E, R) tables are multiplied by a number."""
    from plotly.subplots import make_subplots

    looks = theme.styles(result.roster, (result.teacher,))
    fig = make_subplots(
        2,
        2,
        subplot_titles=[p[0] for p in plots],
        vertical_spacing=0.17,
        horizontal_spacing=0.09,
        **layout,
    )
    where = [(1, 1), (1, 2), (2, 1), (2, 2)] if len(plots) == 4 else [(1, 1), (2, 1), (2, 2)]
    for number, (what, table, scale) in enumerate(plots):
        for s, name in enumerate(result.students):
            own = scale * table[s]
            mean, low, high = over_seeds(own)
            there = np.isfinite(mean)
            fig.add_scatter(
                x=np.array(result.epochs)[there],
                y=np.round(mean[there], 5),
                name=name,
                legendgroup=name,
                showlegend=number == 0,
                mode="lines+markers",
                line=looks[name].line(),
                marker=looks[name].marker(8),
                error_y=error_bars(low[there], high[there], looks[name].color),
                customdata=np.isfinite(own[there]).sum(axis=1),
                hovertemplate=f"{name}, epoch %{{x}}: %{{y:.3g}} (%{{customdata}} seed(s))"
                f"<extra>{what}</extra>",
                row=where[number][0],
                col=where[number][1],
            )
    fig.update_yaxes(rangemode="tozero")
    return fig


def _finished(fig: go.Figure, result: LogitHistory, title: str | None, dark: bool) -> go.Figure:
    for note in fig.layout.annotations:
        note.update(font=dict(size=13, color=theme.INK))
    if result.epochs[-1] == AS_GIVEN:
        fig.update_xaxes(showticklabels=False, ticks="")
    else:
        fig.update_xaxes(title="epoch (0 is before training)", row=2)
        if len(result.epochs) <= 8:
            fig.update_xaxes(tickvals=_apart(result.epochs), tickangle=0)
    fig = theme.apply(fig, summary=result.summary, title=title, height=600)
    theme.small_titles(fig)
    fig.update_layout(legend=dict(y=1.07), margin=dict(t=92 + (30 if title else 0), r=16))
    return theme.recolour(fig, dark=True) if dark else fig


def _apart(epochs: Sequence[int]) -> list[int]:
    """The epochs whose numbers do not run into each other below a plot, the last one among them."""
    kept = [epochs[-1]]
    for epoch in reversed(epochs):
        if kept[-1] - epoch >= (epochs[-1] - epochs[0]) / 13:
            kept.append(epoch)
    return kept[::-1]


def _classes(result: LogitHistory, part: str, title: str | None, dark: bool) -> go.Figure:
    from plotly.subplots import make_subplots

    table = result.class_tckd if part == "tckd" else result.class_product
    count = np.isfinite(table).sum(axis=2)
    mean = np.where(count > 0, np.nansum(table, axis=2) / np.maximum(count, 1), np.nan)  # (S, E, C)
    columns = min(len(result.students), 4)
    rows = -(-len(result.students) // columns)
    fig = make_subplots(
        rows,
        columns,
        shared_yaxes=True,
        subplot_titles=[shortened(name, 88 // columns) for name in result.students],
        horizontal_spacing=0.015,
        vertical_spacing=0.2 / rows,
    )
    names = [result.class_names[label] for label in result.classes]
    many = len(names) > 24
    for s, name in enumerate(result.students):
        fig.add_heatmap(
            x=[str(epoch) for epoch in result.epochs],
            y=np.arange(len(names)),
            z=np.round(mean[s].T, 4),
            customdata=np.repeat(np.array(names)[:, None], len(result.epochs), axis=1),
            coloraxis="coloraxis",
            hovertemplate=f"{name}, epoch %{{x}}, %{{customdata}}: %{{z:.3f}}<extra></extra>",
            row=s // columns + 1,
            col=s % columns + 1,
        )
    fig.update_xaxes(type="category", showgrid=False)
    for column in range(1, columns + 1):
        fig.update_xaxes(title="epoch", row=rows, col=column)
    labels: dict[str, Any] = {"title": "class", "col": 1}
    ticks = [] if many else list(range(len(names)))
    fig.update_yaxes(autorange="reversed", showgrid=False, tickvals=ticks)
    fig.update_yaxes(ticktext=[shortened(names[i]) for i in ticks], **labels)
    for note in fig.layout.annotations:
        note.update(font=dict(size=13, color=theme.INK))
    bar = dict(title=dict(text="loss × τ²", font=dict(size=12)), thickness=12, tickfont=dict(size=12))
    fig.update_layout(coloraxis=dict(colorscale=theme.SEQUENTIAL, cmin=0, colorbar=bar))
    last = mean[:, -1]
    known = np.isfinite(last).any(axis=0)
    hardest = ""
    if known.any():
        worst = int(np.nanargmax(np.where(known, np.nansum(last, axis=0), np.nan)))
        hardest = f"; at the last epoch the largest is that of class {names[worst]}"
    summary = (
        f"Part of the KD loss about the {_PARTS[part]}, mean over the pictures of each class and over seeds, "
        f"by epoch, temperature {result.temperature:g}{hardest}."
    )
    tall = max(220, min(16 * len(names), 460))
    return theme.apply(fig, summary=summary, title=title, height=rows * tall + 110, legend=False, dark=dark)

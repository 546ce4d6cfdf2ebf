"""Where the students of a study ended: points with their spread, and the exact numbers beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.plots import theme
from kdlab.probes.final import FinalAccuracies, plus_minus
from kdlab.probes.words import mean_over_seeds, plural, spread_over_seeds

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ROW = 50  # pixels


def final_accuracies(result: FinalAccuracies, *, title: str | None = None, dark: bool = False) -> go.Figure:
    """Draw test accuracies, a row a network, best student first; the numbers stand beside them.

    Full markers are the mean over seeds after the last epoch, with bars of one standard deviation; strokes
    are the seeds; open markers the epoch that was best on validation pictures. Lines are teachers, and
    chance where it is near.

    Args:
        result: from `kdlab.probes.final_accuracies`.
        title: of the figure.
        dark: light lines on dark paper.

    >>> fig = kdlab.plots.final_accuracies(kdlab.probes.final_accuracies(study))
    >>> fig.layout.xaxis.title.text, fig.layout.meta["summary"][:27]
    ('test accuracy (%)', 'Test accuracy after epoch 3')
    """
    import plotly.graph_objects as go

    looks = theme.styles(result.roster, tuple(result.teachers))
    order = result.order()
    rows = [*result.teachers, *(result.students[s] for s in order)]
    fig = go.Figure()
    for y, (name, accuracy) in enumerate(result.teachers.items()):
        _teacher(fig, name, 100 * accuracy, y, looks[name])
    for y, s in enumerate(order, len(result.teachers)):
        _student(fig, result, s, y, looks[result.students[s]])
    _keys(fig, result)
    _numbers(fig, result, order)
    low, high = _range(result)
    chance = 100 * result.chance
    if low <= chance:
        fig.add_vline(x=chance, line=dict(color=theme.MUTED, dash="dot", width=1.5))
    fig.add_annotation(
        x=chance if low <= chance else low,
        y=0.01,
        yref="y domain",
        text=f"chance {chance:.1f} %" if low <= chance else f"← chance {chance:.1f} %",
        showarrow=False,
        xanchor="left",
        yanchor="bottom",
        xshift=4,
        font=dict(size=12, color=theme.MUTED),
    )
    names = [_label(name, result) for name in rows]
    fig.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=names,
        range=[len(rows) - 0.05, -0.6],
        showgrid=False,
        zeroline=False,
    )
    fig.update_layout(
        xaxis=dict(title="test accuracy (%)", range=[low, high], domain=[0, 0.5], zeroline=False),
        xaxis2=dict(
            domain=[0.51, 1],
            range=[-0.5, 2.5],
            side="top",
            tickvals=[0, 1, 2],
            ticktext=[
                "<b>last<br>epoch</b>",
                "best on<br>validation",
                f"gain over<br>{theme.shortened(result.baseline, 12)}",
            ],
            zeroline=False,
            showgrid=False,
            showline=False,
            ticks="",
        ),
    )
    theme.small_titles(fig)
    fig = theme.apply(fig, summary=result.summary, title=title, height=150 + _ROW * len(rows))
    fig.update_layout(
        margin=dict(t=96 + (36 if title else 0)),
        legend=dict(
            yref="container", y=1 - (44 if title else 6) / fig.layout.height, yanchor="top", itemwidth=30
        ),
    )
    return theme.recolour(fig, dark=True) if dark else fig


def _teacher(fig: go.Figure, name: str, accuracy: float, y: int, look: theme.Style) -> None:
    fig.add_vline(x=accuracy, line=dict(color=look.color, dash=look.dash, width=1.5))
    fig.add_scatter(
        x=[accuracy],
        y=[y],
        mode="markers",
        marker=look.marker(12),
        showlegend=False,
        hovertemplate=f"{name} (teacher): %{{x:.2f}} %<extra></extra>",
    )


def _student(fig: go.Figure, result: FinalAccuracies, s: int, y: int, look: theme.Style) -> None:
    name, last = result.students[s], 100 * result.last[s]
    there = np.isfinite(last)
    if not there.any():
        return
    mean, spread = mean_over_seeds(last), spread_over_seeds(last)
    fig.add_scatter(
        x=last[there],
        y=np.full(int(there.sum()), y + 0.22),
        mode="markers",
        marker=dict(symbol="line-ns-open", size=9, color=look.color, line=dict(width=1.6, color=look.color)),
        text=[f"seed {seed}, epoch {e}" for seed, e in zip(result.seeds, result.epoch[s], strict=True)],
        hovertemplate=f"{name}, %{{text}}: %{{x:.2f}} %<extra></extra>",
        showlegend=False,
    )
    fig.add_scatter(
        x=[100 * mean_over_seeds(result.best[s])],
        y=[y - 0.2],
        mode="markers",
        marker=dict(
            symbol=f"{look.symbol}-open", size=10, color=look.color, line=dict(width=1.6, color=look.color)
        ),
        hovertemplate=f"{name}, best on validation pictures: %{{x:.2f}} %<extra></extra>",
        showlegend=False,
    )
    fig.add_scatter(
        x=[mean],
        y=[y],
        mode="markers",
        marker=look.marker(12),
        error_x=dict(
            type="data",
            array=[spread if np.isfinite(spread) else 0.0],
            thickness=1.6,
            width=5,
            color=look.color,
        ),
        hovertemplate=f"{name}, last epoch: %{{x:.2f}} %, {plural(int(there.sum()), 'seed')}<extra></extra>",
        showlegend=False,
    )


def _keys(fig: go.Figure, result: FinalAccuracies) -> None:
    """What the marks are; whose they are stands at the row."""
    bars = " (mean, bar: s.d. over seeds)" if len(result.seeds) > 1 else ""
    keys: list[tuple[str, dict[str, Any]]] = [
        (f"last epoch{bars}", dict(symbol="circle", size=12)),
        ("best on validation pictures", dict(symbol="circle-open", size=10)),
    ]
    if len(result.seeds) > 1:
        keys.append(("one seed", dict(symbol="line-ns-open", size=9, line=dict(width=1.6))))
    for name, marker in keys:
        fig.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=name,
            marker={"color": theme.MUTED, **marker},
            hoverinfo="skip",
        )


def _numbers(fig: go.Figure, result: FinalAccuracies, order: list[int]) -> None:
    """The exact numbers, in columns on an axis of their own."""
    texts = [(f"{100 * accuracy:.1f}", "", "") for accuracy in result.teachers.values()]
    for s in order:
        first = result.students[s] == result.baseline
        gain = "" if first else plus_minus(result.gain[s], signed=True)
        texts.append((f"<b>{plus_minus(result.last[s])}</b>", plus_minus(result.best[s]), gain))
    fig.add_scatter(
        x=np.tile([0, 1, 2], len(texts)),
        y=np.repeat(np.arange(len(texts)), 3),
        mode="text",
        text=[text for row in texts for text in row],
        textfont=dict(size=12, color=theme.INK),
        xaxis="x2",
        hoverinfo="skip",
        showlegend=False,
    )


def _range(result: FinalAccuracies) -> tuple[float, float]:
    """Ends of the axis: everything drawn, and chance where it does not squeeze the rest."""
    spread = np.nan_to_num([spread_over_seeds(row) for row in result.last])[:, None]
    drawn = 100 * np.concatenate(
        [
            (result.last - spread).ravel(),
            (result.last + spread).ravel(),
            result.best.ravel(),
            np.array(list(result.teachers.values())),
        ]
    )
    drawn = drawn[np.isfinite(drawn)]
    low, high = float(drawn.min()), float(drawn.max())
    if low - 100 * result.chance < 2 * (high - low):
        low = min(low, 100 * result.chance)
    edge = max(0.08 * (high - low), 0.5)
    return low - edge, min(high + edge, 101.0)


def _label(name: str, result: FinalAccuracies) -> str:
    """The name, and how many seeds there are of it where there are fewer than of others."""
    if name in result.teachers:
        return f"{theme.shortened(name, 20)}<br>(teacher)"
    count = int(np.isfinite(result.last[result.students.index(name)]).sum())
    few = f"<br>({plural(count, 'seed')})" if count < len(result.seeds) else ""
    return f"<b>{theme.shortened(name, 22)}</b>{few}"

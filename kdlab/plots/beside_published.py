"""Own accuracies beside published ones; or, where none fits, of which networks there are published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import unknown_name
from kdlab.plots import theme
from kdlab.probes.final import plus_minus
from kdlab.probes.published import BesidePublished
from kdlab.probes.words import mean_over_seeds, percent, spread_over_seeds

if TYPE_CHECKING:
    import plotly.graph_objects as go

METHODS = ("own", "all")
_ROW = 32  # pixels
_OPEN = tuple(f"{symbol}-open" for symbol in theme.SYMBOLS if symbol not in ("cross", "x"))


def beside_published(
    result: BesidePublished, *, methods: str = "own", title: str | None = None, dark: bool = False
) -> go.Figure:
    """Draw own test accuracies (full markers, mean and s.d. over seeds) and published ones (open, grey).

    Each source has a marker of its own. Where nothing published is comparable, the figure shows instead
    what has been published of which networks: lowest to highest accuracy.

    Args:
        result: from `kdlab.probes.beside_published`.
        methods: "own": the methods of the study; "all": everything published of these networks.
        title: of the figure.
        dark: light lines on dark paper.

    Raises:
        UnknownNameError: another word for methods.

    >>> fig = kdlab.plots.beside_published(kdlab.probes.beside_published(study))
    >>> fig.data[0].name  # nothing published of these networks on digits
    'published accuracies, lowest to highest'
    """
    if methods not in METHODS:
        raise unknown_name("choice of methods", methods, METHODS)
    fig, rows, columns = _beside(result, methods) if result.comparable else _pairs(result)
    fig.update_layout(
        xaxis=dict(title="test accuracy (%)", domain=[0, 0.62], zeroline=False),
        xaxis2=dict(
            domain=[0.64, 1],
            range=[-0.5, 1.5],
            side="top",
            tickvals=[0, 1],
            ticktext=columns,
            **dict(showgrid=False, showline=False, zeroline=False, ticks=""),
        ),
    )
    fig.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=rows,
        range=[len(rows) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
    )
    theme.small_titles(fig)
    entries = sum(trace.showlegend is not False for trace in fig.data)
    top = 58 + 20 * -(-entries // 2) + (36 if title else 0)
    fig = theme.apply(fig, summary=result.summary, title=title, height=top + 60 + _ROW * len(rows))
    fig.update_layout(
        margin=dict(t=top),
        legend=dict(
            yref="container", y=1 - (44 if title else 6) / fig.layout.height, yanchor="top", itemwidth=30
        ),
    )
    return theme.recolour(fig, dark=True) if dark else fig


def _beside(result: BesidePublished, methods: str) -> tuple[go.Figure, list[str], list[str]]:
    import plotly.graph_objects as go

    fig = go.Figure()
    looks = theme.styles(result.students)
    own = sorted(result.own, key=lambda one: -mean_over_seeds(one["last"]))
    labels = [f"<b>{theme.shortened(one['student'], 20)}</b>" for one in own]
    found = [result.matches(one) for one in own]
    if methods == "all":
        used = {id(row) for some in found for row in some}
        others: dict[str, list[Mapping[str, Any]]] = {}
        for row in result.rows:
            if id(row) not in used and row["method"] != "teacher":
                name = "alone" if row["method"] == "student" else row["method"]
                others.setdefault(name, []).append(row)
        ordered = sorted(others.items(), key=lambda one: -max(row["accuracy"] for row in one[1]))
        labels += [theme.shortened(name, 20) for name, _ in ordered]
        found += [some for _, some in ordered]
    for y, one in enumerate(own):
        _own(fig, one, y, looks[one["student"]])
    _published(fig, found)
    for row in result.rows:
        if row["method"] == "teacher":
            fig.add_vline(x=100 * row["accuracy"], line=dict(color=theme.MUTED, dash="dot", width=1.5))
            text = f"teacher {result.teacher}, {row['source']} {percent(row['accuracy'], 2)}"
            _key(fig, "lines", text, line=dict(color=theme.MUTED, dash="dot", width=1.5))
    here = [f"<b>{plus_minus(one['last'])}</b>" for one in own] + [""] * (len(found) - len(own))
    _columns(fig, here, [_quoted(some) for some in found])
    return fig, labels, ["<b>here,<br>last epoch</b>", "published<br>(numbers)"]


def _own(fig: go.Figure, one: Mapping[str, Any], y: int, look: theme.Style) -> None:
    spread = spread_over_seeds(one["last"])
    fig.add_scatter(
        x=[100 * mean_over_seeds(one["last"])],
        y=[y],
        mode="markers",
        marker=look.marker(12),
        error_x=dict(
            type="data",
            array=[100 * spread if np.isfinite(spread) else 0.0],
            thickness=1.6,
            width=5,
            color=look.color,
        ),
        hovertemplate=f"{one['student']}, here: %{{x:.2f}} %<extra></extra>",
        showlegend=False,
    )


def _published(fig: go.Figure, found: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """An open marker for each number, a trace for each source."""
    _key(fig, "markers", "measured here", marker=dict(symbol="circle", size=11, color=theme.MUTED))
    placed = [(y, row) for y, some in enumerate(found) for row in some]
    sources = list(dict.fromkeys(row["source"] for _, row in placed))
    for number, source in enumerate(sources):
        some = [(y, row) for y, row in placed if row["source"] == source]
        first = some[0][1]
        venue = " ".join(filter(None, [first["venue"], str(first["year"] or "")]))
        fig.add_scatter(
            x=[100 * row["accuracy"] for _, row in some],
            y=[y for y, _ in some],
            mode="markers",
            name=f"published, {source}" + (f" ({venue})" if venue else ""),
            marker=dict(
                symbol=_OPEN[number % len(_OPEN)],
                size=10 + 3 * (number // len(_OPEN)),
                color=theme.MUTED,
                line=dict(width=1.6, color=theme.MUTED),
            ),
            text=[_told(row) for _, row in some],
            hovertemplate="%{text}<extra></extra>",
        )


def _told(row: Mapping[str, Any]) -> str:
    epoch = {"last": "last epoch", "best on test": "epoch best on test pictures"}.get(row["epoch"], "")
    length = f"{row['epochs']} epochs" if row["epochs"] else ""
    more = ", ".join(filter(None, [row["where"], epoch, length]))
    note = f"<br>{row['note']}" if row["note"] else ""
    return f"published: {row['method']} {percent(row['accuracy'], 2)}, {row['source']}<br>{more}{note}"


def _quoted(rows: Sequence[Mapping[str, Any]]) -> str:
    values = sorted({100 * row["accuracy"] for row in rows})
    if not values:
        return "–"
    ends = f"{values[0]:.2f}" if len(values) == 1 else f"{values[0]:.2f} to {values[-1]:.2f}"
    return f"{ends} ({len(rows)})" if len(rows) > 1 else ends


def _pairs(result: BesidePublished) -> tuple[go.Figure, list[str], list[str]]:
    """What has been published of which networks."""
    import plotly.graph_objects as go

    fig = go.Figure()
    x: list[float | None] = []
    y: list[int | None] = []
    for place, pair in enumerate(result.pairs):
        x += [100 * pair["lowest"], 100 * pair["highest"], None]
        y += [place, place, None]
    fig.add_scatter(
        x=x,
        y=y,
        mode="lines+markers",
        name="published accuracies, lowest to highest",
        line=dict(color=theme.MUTED, width=2),
        marker=dict(symbol="circle-open", size=9, color=theme.MUTED, line=dict(width=1.6)),
        hovertemplate="published: %{x:.2f} %<extra></extra>",
    )
    _columns(fig, [pair["data"] for pair in result.pairs], [str(pair["count"]) for pair in result.pairs])
    labels = [f"{_several(pair['teacher'])} → {pair['student']}" for pair in result.pairs]
    return fig, labels, ["<b>data</b>", "published<br>numbers"]


def _several(teacher: str) -> str:
    """Equal teachers are counted: "a + a + a" is "3 × a"."""
    names = teacher.split(" + ")
    return f"{len(names)} × {names[0]}" if len(names) > 1 and len(set(names)) == 1 else teacher


def _columns(fig: go.Figure, left: Sequence[str], right: Sequence[str]) -> None:
    """Two columns of text beside the rows, on an axis of their own."""
    fig.add_scatter(
        x=[0, 1] * len(left),
        y=[y for y in range(len(left)) for _ in (0, 1)],
        mode="text",
        text=[text for pair in zip(left, right, strict=True) for text in pair],
        textfont=dict(size=13, color=theme.INK),
        xaxis="x2",
        hoverinfo="skip",
        showlegend=False,
    )


def _key(fig: go.Figure, mode: str, name: str, **look: Any) -> None:
    fig.add_scatter(x=[None], y=[None], mode=mode, name=name, hoverinfo="skip", **look)

"""What linear probes read as training goes on: lines over epochs, and maps of layers by epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import unknown_name
from kdlab.plots import theme
from kdlab.plots.bars import error_bars, over_seeds
from kdlab.plots.probe_depth import VALUES, chance_of, kind_of, table_of
from kdlab.probes.linear import LinearProbeResult
from kdlab.probes.words import mean_over_seeds, plural

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MOST_NUMBERS = 12  # epochs of a map up to which numbers are written into it
_COLUMNS = 3
_FAR = 30.0  # points


def probe_epochs(
    result: LinearProbeResult,
    *,
    layer: str | None = None,
    value: str = "accuracy",
    epoch: int | None = None,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw what is read from a layer over epochs: a plot a layer, a line a network.

    Points are means over seeds, bars go from the lowest to the highest (of a single seed: the 95 %
    interval of the accuracy over test pictures). A teacher does not change; one without a layer of that
    name is drawn at its own layer of the same relative depth, which the legend names.

    Args:
        result: from `kdlab.probes.linear_probe`, of several epochs.
        layer: one of the result's; all if not given.
        value: "accuracy"; "selectivity" or "purity" where they were measured.
        epoch: marked by a line, where it was measured.
        title: of the figure.
        dark: light lines on dark paper.

    Raises:
        ConfigError: an unknown layer, or the value was not measured.

    >>> found = kdlab.probes.linear_probe(study, probe="ridge")
    >>> fig = kdlab.plots.probe_epochs(found, layer="layer3")
    >>> next(line.x for line in fig.data if line.name == "KD").tolist()
    [0, 1, 2, 3]
    """
    from plotly.subplots import make_subplots

    table = table_of(result, value)
    if layer is not None and layer not in result.layers:
        raise unknown_name("layer", layer, result.layers)
    students = [n for n, name in enumerate(result.networks) if name not in result.teachers]
    shown = [
        k
        for k, name in enumerate(result.layers)
        if (layer is None and np.isfinite(table[students or slice(None), :, k]).any()) or name == layer
    ]
    columns = min(len(shown), _COLUMNS)
    rows = -(-len(shown) // columns)
    fig = make_subplots(
        rows,
        columns,
        subplot_titles=[theme.shortened(result.layers[k], 24) for k in shown] if len(shown) > 1 else None,
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.14 / rows,
    )
    for number, k in enumerate(shown):
        place = dict(row=number // columns + 1, col=number % columns + 1)
        for n in range(len(result.networks)):
            for trace in _lines(result, table, value, n, k, named=number == 0):
                fig.add_trace(trace, **place)
    if epoch in result.epochs:
        fig.add_vline(x=epoch, line=dict(color=theme.MUTED, width=1))
    for note in fig.layout.annotations:
        note.font = dict(size=13, color=theme.INK)
    low, high = _ends(fig)
    for number in range(len(shown)):
        place = dict(row=number // columns + 1, col=number % columns + 1)
        _references(fig, result, value, place, low, named=number == 0)
    low, high = _ends(fig)
    edge = max(0.06 * (high - low), 1.0)
    fig.update_yaxes(range=[max(low - edge, 0 if value != "selectivity" else low - edge), high + edge])
    fig.update_xaxes(showticklabels=True, showgrid=False)
    kind = "" if value == "purity" else f"<br>{kind_of(result)}"
    for row in range(1, rows + 1):
        fig.update_yaxes(title=f"{VALUES[value]}{kind}", row=row, col=1)
    for column in range(1, columns + 1):
        fig.update_xaxes(title=f"epoch{_bars_said(result, value)}", row=rows, col=column)
    theme.small_titles(fig)
    height = 120 + (300 if len(shown) == 1 else 260) * rows
    where = f" Drawn is {result.layers[shown[0]]}." if len(shown) == 1 else ""
    fig = theme.apply(fig, summary=result.summary + where, title=title, height=height)
    entries = sum(trace.showlegend is not False for trace in fig.data)
    top = 40 + 20 * -(-entries // 4) + (36 if title else 0) + (14 if len(shown) > 1 else 0)
    fig.update_layout(
        margin=dict(t=top),
        legend=dict(yref="container", y=1 - (44 if title else 6) / height, yanchor="top", itemwidth=30),
    )
    return theme.recolour(fig, dark=True) if dark else fig


def probe_maps(
    result: LinearProbeResult,
    *,
    value: str = "accuracy",
    epoch: int | None = None,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw a map for each network: epochs across, layers down, means over seeds, all on one colour scale.

    A teacher does not change and has a single column.

    Args:
        result: from `kdlab.probes.linear_probe`.
        value: "accuracy"; "selectivity" or "purity" where they were measured.
        epoch: framed in the maps.
        title: of the figure.
        dark: light text on dark paper.

    Raises:
        ConfigError: the value was not measured.

    >>> fig = kdlab.plots.probe_maps(kdlab.probes.linear_probe(study, probe="ridge"))
    >>> [map_.z.shape for map_ in fig.data if map_.type == "heatmap"]  # a teacher has one column
    [(3, 1), (3, 4), (3, 4)]
    """
    from plotly.subplots import make_subplots

    table = 100 * table_of(result, value)
    teachers = [n for n, name in enumerate(result.networks) if name in result.teachers]
    students = [n for n in range(len(result.networks)) if n not in teachers]
    wide = min(len(students), 2 if len(result.epochs) > 6 else _COLUMNS) or 1
    columns = wide + len(teachers)
    rows = max(-(-len(students) // wide), 1)
    narrow = 1.6 / (len(result.epochs) + 1.0)
    places = {n: (1, 1 + i) for i, n in enumerate(teachers)}
    places |= {n: (1 + i // wide, len(teachers) + 1 + i % wide) for i, n in enumerate(students)}
    titles = {place: _head(result, n) for n, place in places.items()}
    fig = make_subplots(
        rows,
        columns,
        subplot_titles=[titles.get((r + 1, c + 1), "") for r in range(rows) for c in range(columns)],
        column_widths=[narrow] * len(teachers) + [1.0] * wide,
        shared_yaxes=True,
        horizontal_spacing=0.025,
        vertical_spacing=0.28 / rows,
    )
    known = table[np.isfinite(table)]
    low, high = float(known.min(initial=100.0)), float(known.max(initial=0.0))
    for n, (row, column) in places.items():
        epochs = table[n, -1:] if n in teachers else table[n]
        own = np.array([[mean_over_seeds(cell) for cell in line] for line in epochs])
        for trace in _map(result, n, own.T, low, high):
            fig.add_trace(trace, row=row, col=column)
        if epoch in result.epochs and n not in teachers:
            at = result.epochs.index(epoch)
            frame = dict(x0=at - 0.5, x1=at + 0.5, y0=-0.5, y1=len(result.layers) - 0.5)
            fig.add_shape(type="rect", line=dict(color=theme.INK, width=2), **frame, row=row, col=column)
    for note in fig.layout.annotations:
        note.font = dict(size=13, color=theme.INK)
    fig.update_yaxes(
        tickvals=list(range(len(result.layers))),
        ticktext=[theme.shortened(layer, 14) for layer in result.layers],
        autorange="reversed",
        showgrid=False,
        zeroline=False,
    )
    for n, (row, column) in places.items():
        ticks = ["any"] if n in teachers else [str(epoch) for epoch in result.epochs]
        fig.update_xaxes(
            tickvals=list(range(len(ticks))),
            ticktext=ticks,
            **dict(title="epoch", showgrid=False, zeroline=False, row=row, col=column),
        )
    theme.small_titles(fig)
    words = dict(text=VALUES[value], side="right", font=dict(size=13))
    bar = dict(title=words, tickfont=dict(size=12), thickness=14, outlinewidth=0)
    fig.update_layout(coloraxis=dict(colorscale=theme.SEQUENTIAL, cmin=low, cmax=high, colorbar=bar))
    height = 110 + rows * (96 + 34 * len(result.layers))
    fig = theme.apply(fig, summary=result.summary, title=title, height=height, legend=False, dark=dark)
    fig.update_layout(margin=dict(t=52 + (36 if title else 0)))
    return fig


def _lines(
    result: LinearProbeResult, table: np.ndarray, value: str, n: int, k: int, named: bool
) -> list[go.Scatter]:
    """A network's line; a teacher's without markers, as nothing changes."""
    import plotly.graph_objects as go

    name = result.networks[n]
    teacher = name in result.teachers
    at = _same_depth(table[n], k) if teacher else k
    if at is None:
        return []
    own = 100 * table[n, :, at]
    mean, minus, plus = over_seeds(own)
    if len(result.seeds) == 1 and value == "accuracy":
        minus, plus = mean - 100 * result.low[n, :, at, 0], 100 * result.high[n, :, at, 0] - mean
    there = np.isfinite(mean)
    if not there.any():
        return []
    look = theme.styles(result.students, result.teachers)[name]
    role = " (teacher)" if teacher else ""
    label = f"{theme.shortened(name, 24)}{role}" + (f", {result.layers[at]}" if at != k else "")
    hover = f"{name}{role}, {result.layers[at]}, epoch %{{x}}: %{{y:.1f}} % (%{{customdata}} seed(s))"
    return [
        go.Scatter(
            x=np.asarray(result.epochs)[there],
            y=mean[there],
            name=label,
            legendgroup=label,
            showlegend=named,
            mode="lines" if teacher else "lines+markers",
            line=look.line(),
            marker=look.marker(9),
            error_y=error_bars(minus[there], plus[there], look.color, visible=not teacher),
            customdata=np.isfinite(own[there]).sum(axis=1),
            hovertemplate=f"{hover}<extra></extra>",
        )
    ]


def _same_depth(own: np.ndarray, k: int) -> int | None:
    """The place of layer k in (E, L, S) values of a network, or of the layer as deep beside its others."""
    there = np.flatnonzero(np.isfinite(own).any(axis=(0, 2)))
    if not len(there):
        return None
    if k in there:
        return k
    return int(there[round(k / max(own.shape[1] - 1, 1) * (len(there) - 1))])


def _ends(fig: go.Figure) -> tuple[float, float]:
    """The lowest and the highest value drawn, with the bars that are."""
    drawn = [np.ravel(trace.y).astype(float) for trace in fig.data]
    for trace in fig.data:
        if trace.error_y.visible:
            y = np.asarray(trace.y, dtype=float)
            drawn += [y - trace.error_y.arrayminus, y + trace.error_y.array]
    every = np.concatenate(drawn)
    every = every[np.isfinite(every)]
    return float(every.min()), float(every.max())


def _references(
    fig: go.Figure, result: LinearProbeResult, value: str, place: Any, low: float, named: bool
) -> None:
    """Thin lines for chance and raw pixels; what lies far below is only told, not drawn."""
    lines = [("chance", chance_of(result, value), "dot")] if value != "selectivity" else []
    if value == "accuracy" and np.isfinite(result.pixels):
        lines.append(("raw pixels", 100 * result.pixels, "longdash"))
    for name, y, dash in lines:
        far = low - y > _FAR
        fig.add_scatter(
            x=[None] if far else [result.epochs[0], result.epochs[-1]],
            y=[None] if far else [y, y],
            mode="lines",
            name=f"{name} {y:.1f} %" + (" (below)" if far else ""),
            legendgroup=name,
            showlegend=named,
            line=dict(color=theme.MUTED, dash=dash, width=1.4),
            hovertemplate=f"{name}: %{{y:.1f}} %<extra></extra>",
            **place,
        )


def _bars_said(result: LinearProbeResult, value: str) -> str:
    if len(result.seeds) > 1:
        return f" (bars: {len(result.seeds)} seeds)"
    return f" (bars: 95 %, {plural(result.n_test, 'picture')})" if value == "accuracy" else ""


def _head(result: LinearProbeResult, n: int) -> str:
    name = result.networks[n]
    if name in result.teachers:
        return f"<b>{theme.shortened(name, 10)}</b><br>(teacher)"
    return f"<b>{theme.shortened(name, 24)}</b>"


def _map(result: LinearProbeResult, n: int, z: np.ndarray, low: float, high: float) -> list[Any]:
    """The map (L, E) of a network and the numbers in it."""
    import plotly.graph_objects as go

    name = result.networks[n]
    epochs = ["any epoch"] if name in result.teachers else [f"epoch {epoch}" for epoch in result.epochs]
    told = [[f"{name}, {layer}, {epoch}" for epoch in epochs] for layer in result.layers]
    heat = go.Heatmap(
        z=z,
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
        customdata=told,
        hovertemplate="%{customdata}: %{z:.1f} %<extra></extra>",
        hoverongaps=False,
    )
    if z.shape[1] > _MOST_NUMBERS:
        return [heat]
    k, e = np.nonzero(np.isfinite(z))
    share = (z[k, e] - low) / max(high - low, 1e-9)
    numbers = go.Scatter(
        x=e,
        y=k,
        mode="text",
        text=[f"{v:.0f}" for v in z[k, e]],
        # by name, as the numbers stand on the colour scale and not on the paper
        textfont=dict(size=12, color=["black" if v > 0.45 else "white" for v in share]),
        hoverinfo="skip",
        showlegend=False,
    )
    return [heat, numbers]

"""Class geometry: a small plot for each measure, over epochs, layers or networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.plots import theme
from kdlab.plots.bars import error_bars, over_seeds
from kdlab.probes.geometry import MEASURES, PARTS, Geometry
from kdlab.probes.representation import AS_GIVEN

if TYPE_CHECKING:
    import plotly.graph_objects as go

DEFAULT = ("nc1", "nc2_etf", "nc3", "nc4", "class_separation", "effective_rank")
_INSTEAD = ("silhouette", "fisher_ratio", "participation_ratio", "nc1_quotient")
_BY = ("epoch", "layer", "network")


def geometry(
    result: Geometry,
    *,
    measures: Sequence[str] | None = None,
    layer: str | None = None,
    by: str | None = None,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw measures of class geometry: mean over seeds, bars from the lowest to the highest seed.

    Full markers are the test part, open ones the fitting part. Dotted: the same with permuted labels
    (mean over networks, last epoch); where the classes cannot form a simplex, the least value possible.

    Args:
        result: from `kdlab.probes.geometry`.
        measures: names in `kdlab.probes.geometry.MEASURES`; six common ones if not given.
        layer: one of the result's; the deepest if not given. Not used by layer.
        by: "epoch", "layer" (at the last epoch) or "network" (at the last epoch); epochs where there
            are several, else layers, else networks.
        title: of the figure.
        dark: light lines on dark paper.

    Raises:
        ConfigError: unknown measures, layers or axes, or nothing known of them.

    >>> found = kdlab.probes.geometry(study, epochs=[0, 3], students="KD")
    >>> fig = kdlab.plots.geometry(found, measures=["class_separation"])
    >>> [note.text for note in fig.layout.annotations], fig.layout.xaxis.title.text
    (['class separation R²<br>(1 at collapse)'], 'epoch')
    """
    from plotly.subplots import make_subplots

    for name in measures or ():
        if name not in MEASURES:
            raise unknown_name("measure", name, MEASURES)
    if layer is not None and layer not in result.layers:
        raise unknown_name("layer", layer, result.layers)
    if by is None:
        by = "epoch" if len(result.epochs) > 1 else "layer" if len(result.layers) > 1 else "network"
    if by not in _BY:
        raise ConfigError(f"by must be one of {', '.join(_BY)}, not {by!r}.")
    k = len(result.layers) - 1 if layer is None else result.layers.index(layer)
    shown = _known(result, measures, k, by)
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    fig = make_subplots(
        rows,
        columns,
        subplot_titles=[
            MEASURES[name].replace(" (", "<br>(").replace(", shrunk", ",<br>shrunk") for name in shown
        ],
        horizontal_spacing=0.085,
        vertical_spacing=0.34 / rows,
    )
    for place, name in enumerate(shown):
        _panel(fig, result, name, k, by, place // columns + 1, place % columns + 1, first=place == 0)
    for note in fig.layout.annotations:
        note.font = dict(size=13, color=theme.INK)
    _axes(fig, result, by, rows)
    theme.small_titles(fig)
    _legend(fig, result, shown, k)
    where = "" if by == "layer" else f" Drawn is {result.layers[k]}."
    fig = theme.apply(fig, summary=result.summary + where, title=title, height=90 + 275 * rows)
    entries = sum(trace.showlegend is not False for trace in fig.data)
    top = 78 + 20 * -(-entries // 3) + (36 if title else 0)  # three in a row where the page is narrowest
    fig.update_layout(
        height=fig.layout.height + top - 118,
        margin=dict(t=top, l=48, b=48),
        legend=dict(
            yref="container", y=1 - (44 if title else 6) / fig.layout.height, yanchor="top", itemwidth=30
        ),
    )
    return theme.recolour(fig, dark=True) if dark else fig


def _known(result: Geometry, measures: Sequence[str] | None, k: int, by: str) -> list[str]:
    def is_known(name: str) -> bool:
        table = result.values[name]
        if by == "layer":  # of six, none with a single point
            layers = np.isfinite(table[:, -1]).any(axis=(0, 2, 3)).sum()
            return bool(layers >= (1 if measures or len(result.layers) == 1 else 2))
        return bool(np.isfinite(table[:, :, k]).any())

    wanted = DEFAULT if measures is None else measures
    shown = [name for name in wanted if is_known(name)]
    if measures is None:
        spare = [name for name in _INSTEAD if is_known(name)]
        shown += spare[: len(DEFAULT) - len(shown)]
    if not shown:
        raise ConfigError("None of these measures is known at this layer; result.notes tells why.")
    return shown


def _series(result: Geometry, name: str, n: int, k: int, by: str) -> np.ndarray:
    """(X, S, 2) of one network along the x axis."""
    table = result.values[name][n]
    if by == "epoch":
        return table[:, k]
    if by == "layer":
        return table[-1]
    out = np.full((len(result.networks), *table.shape[2:]), np.nan)
    out[n] = table[-1, k]
    return out


def _panel(
    fig: go.Figure, result: Geometry, name: str, k: int, by: str, row: int, column: int, first: bool
) -> None:
    looks = theme.styles(result.students, result.teachers)
    x = (
        np.asarray(result.epochs)
        if by == "epoch"
        else np.arange(len(result.layers if by == "layer" else result.networks))
    )
    for n, network in enumerate(result.networks):
        look, series = looks[network], _series(result, name, n, k, by)
        mean, low, high = over_seeds(series[..., 1])
        there = np.isfinite(mean)
        other = over_seeds(series[..., 0])[0]
        label = f"{network} (teacher)" if network in result.teachers else network
        fig.add_scatter(
            x=x[there],
            y=mean[there],
            name=theme.shortened(label, 28),
            legendgroup=network,
            showlegend=first,
            mode="lines+markers" if by != "network" else "markers",
            line=look.line(),
            marker=look.marker(8),
            error_y=error_bars(low[there], high[there], look.color),
            customdata=np.isfinite(series[there][..., 1]).sum(axis=1),
            hovertemplate=f"{network}, {PARTS[1]}: %{{y:.4g}} (%{{customdata}} seed(s))<extra></extra>",
            row=row,
            col=column,
        )
        fig.add_scatter(
            x=x[np.isfinite(other)],
            y=other[np.isfinite(other)],
            legendgroup=network,
            showlegend=False,
            mode="markers",
            marker=dict(
                symbol=f"{look.symbol}-open", size=11, color=look.color, line=dict(color=look.color, width=1)
            ),
            hovertemplate=f"{network}, {PARTS[0]}: %{{y:.4g}}<extra></extra>",
            row=row,
            col=column,
        )
    ends = [float(x[0]), float(x[-1])] if len(x) > 1 else [float(x[0]) - 0.4, float(x[0]) + 0.4]
    for value, text, dash in _levels(result, name, k, by):
        fig.add_scatter(
            x=ends,
            y=[value, value],
            mode="lines",
            line=dict(color=theme.MUTED, dash=dash, width=1.5),
            showlegend=False,
            hovertemplate=f"{text}: {value:.4g}<extra></extra>",
            row=row,
            col=column,
        )
    drawn = np.concatenate([np.ravel(t.y) for t in fig.select_traces(row=row, col=column)]).astype(float)
    fig.update_yaxes(**theme.log_axis(drawn), row=row, col=column)


def _levels(result: Geometry, name: str, k: int, by: str) -> list[tuple[float, str, str]]:
    """Horizontal lines: the control with permuted labels, and what cannot be gone below."""
    out = []
    where = slice(None) if by == "layer" else k
    control = result.permuted[name][:, where, :, 1]
    if np.isfinite(control).any():
        out.append((float(np.nanmean(control)), "labels permuted", "dot"))
    if name in ("nc2_etf", "nc3_duality"):
        floors = result.floors[:, where]
        if np.nanmax(floors) > 0:
            out.append((float(np.nanmin(floors[floors > 0])), "least possible, K > p + 1", "longdash"))
    return out


def _axes(fig: go.Figure, result: Geometry, by: str, rows: int) -> None:
    if by == "epoch":
        fig.update_xaxes(showgrid=False)
        fig.update_xaxes(title="epoch", row=rows)
        return
    names = result.layers if by == "layer" else result.networks
    fits = 30 // len(names)  # letters below a plot; where there is no room, the legend tells networks
    fig.update_xaxes(
        tickvals=list(range(len(names))),
        ticktext=[theme.shortened(name, max(fits, 5)) for name in names],
        showticklabels=by == "layer" or fits > 4,
        tickangle=0 if fits > 4 else -45,
        range=[-0.5, len(names) - 0.5],
        showgrid=False,
    )
    if result.epochs[-1] != AS_GIVEN:
        fig.update_xaxes(title=f"{by}, epoch {result.epochs[-1]}", row=rows)


def _legend(fig: go.Figure, result: Geometry, shown: Sequence[str], k: int) -> None:
    keys: list[tuple[str, dict[str, Any]]] = [
        (
            f"open: {PARTS[0]}",
            dict(
                mode="markers",
                marker=dict(symbol="circle-open", size=10, color=theme.MUTED, line=dict(width=1)),
            ),
        )
    ]
    kinds = {text: dash for name in shown for _, text, dash in _levels(result, name, k, "epoch")}
    keys += [
        (text, dict(mode="lines", line=dict(color=theme.MUTED, dash=dash, width=1.5)))
        for text, dash in kinds.items()
    ]
    for name, look in keys:
        fig.add_scatter(x=[None], y=[None], name=name, hoverinfo="skip", **look)

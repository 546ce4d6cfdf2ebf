"""Linear probe accuracy by depth, with an epoch slider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.plots import theme
from kdlab.plots.curves import level
from kdlab.probes.linear import LinearProbeResult
from kdlab.probes.representation import AS_GIVEN

if TYPE_CHECKING:
    import plotly.graph_objects as go


def probe_depth(
    result: LinearProbeResult,
    *,
    value: str = "accuracy",
    epoch_slider: bool = True,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw what a linear classifier reads from each layer, shallow to deep, per network.

    Points are means over seeds with bars from the lowest to the highest seed; thin lines show the
    same networks before training; chance and raw pixels are drawn in.

    Args:
        result: from `kdlab.probes.linear_probe`.
        value: "accuracy", or "selectivity" where the control was measured.
        epoch_slider: a slider over epochs; else the last epoch alone.
        title: of the figure.
        dark: light lines on dark paper.
    """
    import plotly.graph_objects as go

    table = result.accuracy if value == "accuracy" else result.selectivity
    if table is None:
        from kdlab.errors import ConfigError

        raise ConfigError("Selectivity was not measured; use linear_probe(..., control=True).")
    looks = theme.styles(result.students, result.teachers)
    x = np.arange(len(result.layers))
    spread = 0.045

    def traces(e: int) -> list[Any]:
        out = []
        for n, name in enumerate(result.networks):
            own = 100 * table[n, e]
            there = np.isfinite(own).any(axis=1)
            mean = np.full(len(x), np.nan)
            mean[there] = np.nanmean(own[there], axis=1)
            low, high = np.zeros(len(x)), np.zeros(len(x))
            low[there] = mean[there] - np.nanmin(own[there], axis=1)
            high[there] = np.nanmax(own[there], axis=1) - mean[there]
            shift = (n - (len(result.networks) - 1) / 2) * spread
            look = looks[name]
            out.append(
                go.Scatter(
                    x=x + shift,
                    y=mean,
                    name=f"{name} (teacher)" if name in result.teachers else name,
                    mode="lines+markers",
                    line=look.line(),
                    marker=look.marker(10),
                    connectgaps=True,
                    error_y=dict(
                        type="data",
                        symmetric=False,
                        array=high,
                        arrayminus=low,
                        thickness=1.4,
                        width=3,
                        color=look.color,
                    ),
                    customdata=np.stack([np.isfinite(own).sum(axis=1), low, high], axis=1),
                    text=list(result.layers),
                    hovertemplate=f"{name}, %{{text}}: %{{y:.1f}} % (%{{customdata[0]}} seed(s), "
                    "-%{customdata[1]:.1f} +%{customdata[2]:.1f})<extra></extra>",
                )
            )
        return out

    last = len(result.epochs) - 1
    fig = go.Figure(traces(last))
    if 0 in result.epochs and last > 0:
        _untrained(fig, result, table, x)
    if value == "accuracy":
        finite = 100 * table[np.isfinite(table)]
        if np.isfinite(result.pixels):
            level(
                fig, 100 * result.pixels, "raw pixels", theme.Style(theme.MUTED, "longdash", "circle"), "left"
            )
            finite = np.append(finite, 100 * result.pixels)
        floor = float(finite.min(initial=100.0))
        if floor - 100 * result.chance > 30:  # chance would push all points together at the top
            fig.update_yaxes(range=[floor - 6, 101.5])
            fig.add_annotation(
                x=0.995,
                xref="x domain",
                y=0.01,
                yref="y domain",
                xanchor="right",
                yanchor="bottom",
                showarrow=False,
                text=f"↓ chance {100 * result.chance:.1f} %",
                font=dict(size=12, color=theme.MUTED),
            )
        else:
            level(fig, 100 * result.chance, "chance", None)
            fig.update_yaxes(range=[max(min(floor, 100 * result.chance) - 4, 0), 102])
    fig.update_xaxes(
        title="layer, shallow to deep",
        tickvals=x,
        ticktext=list(result.layers),
        range=[-0.35, len(x) - 0.65],
        showgrid=False,
    )
    kind = "softmax probe" if result.probe == "softmax" else "closed-form ridge probe"
    what = "held-out accuracy (%)" if value == "accuracy" else "selectivity (points)"
    fig.update_yaxes(title=f"{what}, {kind}")
    layout: dict[str, Any] = {}
    with_slider = epoch_slider and last > 0
    if with_slider:
        labels = [str(epoch) for epoch in result.epochs]
        moving = list(range(len(result.networks)))
        fig.frames = [go.Frame(data=traces(e), traces=moving, name=label) for e, label in enumerate(labels)]
        layout = {"sliders": [theme.slider(labels, "epoch ", last, redraw=True)]}
    when = "" if result.epochs[-1] == AS_GIVEN or not with_slider else " The slider goes through the epochs."
    return theme.apply(
        fig,
        summary=result.summary + when,
        title=title,
        height=430 + (theme.SLIDER_HEIGHT if with_slider else 0),
        dark=dark,
        **layout,
    )


def _untrained(fig: go.Figure, result: LinearProbeResult, table: np.ndarray, x: np.ndarray) -> None:
    """One thin line: the mean of all students before training (they start from the same weights)."""
    rows = [n for n, name in enumerate(result.networks) if name not in result.teachers]
    values = 100 * table[rows, result.epochs.index(0)]
    there = np.isfinite(values).any(axis=(0, 2))
    if not there.any():
        return
    fig.add_scatter(
        x=x[there],
        y=np.nanmean(values[:, there], axis=(0, 2)),
        name="students before training",
        mode="lines+markers",
        line=dict(color=theme.FAINT, width=1.5, dash="solid"),
        marker=dict(symbol="line-ew-open", size=12, color=theme.FAINT),
        hovertemplate="before training: %{y:.1f} %<extra></extra>",
    )

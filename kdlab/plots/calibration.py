"""Calibration: reliability diagrams with their counts, and errors over epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.plots import theme
from kdlab.plots.bars import error_bars, over_seeds
from kdlab.probes.calibration import MEASURES, SCALINGS, Calibration
from kdlab.probes.representation import AS_GIVEN

if TYPE_CHECKING:
    import plotly.graph_objects as go

_SHARES = ("accuracy", "ece", "adaptive_ece", "confidence", "ece_if_calibrated")


def reliability(
    result: Calibration,
    *,
    seed: int | None = None,
    epoch_slider: bool = True,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw how often each network is right where it is so and so sure, and how many pictures that is.

    On the diagonal it is as sure as it is right; below it is too sure. Full markers are the network as
    it is, with Wilson's 95 % intervals, open ones the same after temperature scaling. Bars below count
    the pictures.

    Args:
        result: from `kdlab.probes.calibration`.
        seed: one of the result's; the first if not given. Teachers are the same at all.
        epoch_slider: a slider over epochs; else the last epoch alone.
        title: of the figure.
        dark: light lines on dark paper.

    Raises:
        ConfigError: no such seed.

    >>> fig = kdlab.plots.reliability(kdlab.probes.calibration(study, epochs="last"))
    >>> fig.data[0].name, fig.layout.yaxis.title.text
    ('as sure as right', 'accuracy')
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    if seed is not None and seed not in result.seeds:
        raise ConfigError(f"There is no seed {seed}; there are {', '.join(map(str, result.seeds))}.")
    s = 0 if seed is None else result.seeds.index(seed)
    count = len(result.networks)
    columns = count if count <= 4 else 3 if count <= 6 else 4
    blocks = -(-count // columns)
    last = len(result.epochs) - 1
    fig = make_subplots(
        2 * blocks,
        columns,
        row_heights=[0.72, 0.28] * blocks,
        shared_yaxes=True,
        horizontal_spacing=0.03,
    )
    _rows(fig, blocks, columns)
    for n in range(count):
        row, column = 2 * (n // columns) + 1, n % columns + 1
        fig.add_scatter(
            x=[0, 1],
            y=[0, 1],
            mode="lines",
            line=dict(color=theme.MUTED, dash="dot", width=1.5),
            name="as sure as right",
            showlegend=n == 0,
            hoverinfo="skip",
            row=row,
            col=column,
        )
    still = len(fig.data)
    for trace, row, column in _diagrams(result, last, s, columns):
        fig.add_trace(trace, row=row, col=column)
    for name, symbol in ((SCALINGS[0], "circle"), (SCALINGS[1], "circle-open")):
        fig.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            marker=dict(symbol=symbol, size=9, color=theme.MUTED),
            name=name,
            hoverinfo="skip",
        )
    moving = list(range(still, len(fig.data) - 2))
    tops = [axis.domain for axis in fig.select_yaxes()]
    lefts = [axis.domain for axis in fig.select_xaxes()]
    notes = [_notes(result, e, s, columns, lefts, tops) for e in range(last + 1)]
    fig.update_layout(annotations=notes[last], barmode="overlay", bargap=0.08)
    _axes(fig, result, blocks, columns)
    theme.small_titles(fig)
    layout: dict[str, Any] = {}
    with_slider = epoch_slider and last > 0
    if with_slider:
        labels = [str(epoch) for epoch in result.epochs]
        fig.frames = [
            go.Frame(
                data=[trace for trace, _, _ in _diagrams(result, e, s, columns)],
                traces=moving,
                name=label,
                layout={"annotations": notes[e]},
            )
            for e, label in enumerate(labels)
        ]
        slider = theme.slider(labels, "epoch ", last, redraw=True)
        layout["sliders"] = [{**slider, "pad": {"t": 56, "b": 6}}]
    which = f" Drawn is seed {result.seeds[s]}." if len(result.seeds) > 1 else ""
    fig = theme.apply(
        fig,
        summary=result.summary + which,
        title=title,
        height=110 + 330 * blocks + (theme.SLIDER_HEIGHT + 20 if with_slider else 0),
        **layout,
    )
    fig.update_layout(
        margin=dict(t=98 + (36 if title else 0), b=48),
        legend=dict(
            yref="container", y=1 - (44 if title else 6) / fig.layout.height, yanchor="top", itemwidth=30
        ),
    )
    return theme.recolour(fig, dark=True) if dark else fig


def _rows(fig: go.Figure, blocks: int, columns: int) -> None:
    """Heights of diagrams and counts, with room for tick labels below and two lines above each block."""
    gap, between, total = 78.0, 14.0, 330.0 * blocks - 40.0  # in pixels
    block = (total - gap * (blocks - 1)) / blocks
    for place, axis in enumerate(fig.select_yaxes()):
        row = place // columns
        top = total - (row // 2) * (block + gap)
        high, low = (top, top - 0.72 * block) if row % 2 == 0 else (top - 0.72 * block - between, top - block)
        axis.domain = [max(low / total, 0.0), min(high / total, 1.0)]


def _diagrams(result: Calibration, e: int, s: int, columns: int) -> list[tuple[Any, int, int]]:
    import plotly.graph_objects as go

    looks = theme.styles(result.students, result.teachers)
    low, high = result.interval()
    accuracy = result.accuracy
    middles = (result.edges[:-1] + result.edges[1:]) / 2
    out: list[tuple[Any, int, int]] = []
    for n, name in enumerate(result.networks):
        row, column = 2 * (n // columns) + 1, n % columns + 1
        seed = 0 if name in result.teachers else s
        color, symbol = looks[name].color, looks[name].symbol
        for scaling, said in enumerate(SCALINGS):
            at = (n, e, seed, scaling)
            filled = result.counts[at] > 0
            x, y = result.sureness[at][filled], accuracy[at][filled]
            share = result.counts[at][filled] / max(int(result.counts[at].max()), 1)
            marker: dict[str, Any] = dict(
                color=color, size=5 + 8 * np.sqrt(share), symbol=f"{symbol}-open" if scaling else symbol
            )
            out.append(
                (
                    go.Scatter(
                        x=x,
                        y=y,
                        mode="markers",
                        marker=marker,
                        error_y=error_bars(
                            y - low[at][filled], high[at][filled] - y, color, visible=not scaling
                        ),
                        customdata=np.stack([result.counts[at], low[at], high[at]], axis=1)[filled],
                        hovertemplate=f"{name}, {said}<br>sure of %{{x:.1%}}, right on %{{y:.1%}} "
                        "(%{customdata[1]:.1%} to %{customdata[2]:.1%})<br>%{customdata[0]} pictures"
                        "<extra></extra>",
                        showlegend=False,
                    ),
                    row,
                    column,
                )
            )
            outline = dict(color="rgba(0,0,0,0)", line=dict(color=color, width=1.5))
            out.append(
                (
                    go.Bar(
                        x=middles,
                        y=result.counts[at],
                        width=1 / result.bins,
                        marker=outline if scaling else dict(color=theme.faint(color, 0.45)),
                        hovertemplate=f"{name}, {said}: %{{y}} pictures<extra></extra>",
                        showlegend=False,
                    ),
                    row + 1,
                    column,
                )
            )
    return out


def _notes(
    result: Calibration, e: int, s: int, columns: int, lefts: list[Any], tops: list[Any]
) -> list[dict[str, Any]]:
    """Above each diagram: whose it is, its errors and its temperature."""
    notes = []
    fits = max(10, 84 // columns)
    for n, name in enumerate(result.networks):
        seed = 0 if name in result.teachers else s
        error = 100 * result.values["ece"][n, e, seed]
        place = 2 * (n // columns) * columns + n % columns
        role = " (teacher)" if name in result.teachers else ""
        text = f"<b>{theme.shortened(name, fits - len(role))}</b>{role}<br>"
        if np.isfinite(error[0]):
            best = "none best" if result.at_limit[n, e, seed] else f"{result.temperature[n, e, seed]:.2f}"
            text += f"ECE {error[0]:.1f} → {error[1]:.1f} %, T {best}"
        else:
            text += "no snapshot of this epoch"
        notes.append(
            dict(
                x=lefts[place][0],
                y=tops[place][1],
                xref="paper",
                yref="paper",
                xanchor="left",
                yanchor="bottom",
                yshift=3,
                align="left",
                text=text,
                showarrow=False,
                font=dict(size=13, color=theme.INK),
            )
        )
    return notes


def _axes(fig: go.Figure, result: Calibration, blocks: int, columns: int) -> None:
    fig.update_xaxes(range=[-0.02, 1.02], tickvals=[0, 0.5, 1], showgrid=False)
    most = max(int(result.counts.max()), 1)
    for block in range(blocks):
        upper, lower = 2 * block + 1, 2 * block + 2
        fig.update_xaxes(showticklabels=False, row=upper)
        fig.update_yaxes(range=[-0.02, 1.03], tickvals=[0, 0.5, 1], row=upper)
        fig.update_yaxes(range=[0, 1.05 * most], nticks=3, row=lower)
        fig.update_yaxes(title="accuracy", row=upper, col=1)
        fig.update_yaxes(title="pictures", row=lower, col=1)
    fig.update_xaxes(title="confidence", row=2 * blocks)


def calibration(
    result: Calibration, measure: str = "ece", *, title: str | None = None, dark: bool = False
) -> go.Figure:
    """Draw one measure over epochs, as it is (full markers) and after temperature scaling (open ones).

    Points are means over seeds with bars from the lowest to the highest. Dotted, for calibration
    errors: what networks with the same confidences would show if they were perfectly calibrated.

    Args:
        result: from `kdlab.probes.calibration`.
        measure: a name in `kdlab.probes.calibration.MEASURES`, or "temperature".
        title: of the figure.
        dark: light lines on dark paper.

    Raises:
        ConfigError: an unknown measure.

    >>> fig = kdlab.plots.calibration(kdlab.probes.calibration(study))
    >>> fig.layout.yaxis.title.text
    'expected calibration error (%), 15 bins'
    """
    import plotly.graph_objects as go

    if measure not in (*MEASURES, "temperature"):
        raise unknown_name("measure", measure, (*MEASURES, "temperature"))
    single = len(result.epochs) == 1
    factor = 100.0 if measure in _SHARES else 1.0
    looks = theme.styles(result.students, result.teachers)
    fig = go.Figure()
    for n, name in enumerate(result.networks):
        look = looks[name]
        for scaling, said in enumerate(SCALINGS):
            if (measure, scaling) in (("temperature", 0), ("accuracy", 1)):
                continue  # 1, and the same again
            table = result.temperature if measure == "temperature" else result.values[measure][..., scaling]
            mean, low, high = over_seeds(factor * table[n])
            there = np.isfinite(mean)
            own = not scaling or measure == "temperature"
            fig.add_scatter(
                x=[n] * int(there.sum()) if single else np.asarray(result.epochs)[there],
                y=mean[there],
                name=theme.shortened(f"{name} (teacher)" if name in result.teachers else name, 28),
                legendgroup=name,
                showlegend=own,
                mode="markers" if single else "lines+markers",
                line=look.line() if own else {**look.line(), "width": 1.2},
                marker=look.marker(9)
                if own
                else dict(symbol=f"{look.symbol}-open", size=9, color=look.color),
                error_y=error_bars(low[there], high[there], look.color),
                hovertemplate=f"{name}, {said}: %{{y:.3g}}<extra></extra>",
            )
    if measure in ("ece", "adaptive_ece"):
        control = factor * result.values["ece_if_calibrated"][..., 0]
        mean = over_seeds(control.transpose(1, 0, 2).reshape(len(result.epochs), -1))[0]
        x = [-0.4, len(result.networks) - 0.6] if single else list(result.epochs)
        fig.add_scatter(
            x=x,
            y=np.repeat(mean, 2) if single else mean,
            name="a calibrated network",
            mode="lines",
            line=dict(color=theme.MUTED, dash="dot", width=1.5),
            hovertemplate="if perfectly calibrated: %{y:.3g}<extra></extra>",
        )
    if measure not in ("temperature", "accuracy"):
        fig.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            marker=dict(symbol="circle-open", size=9, color=theme.MUTED),
            name=f"open: {SCALINGS[1]}",
            hoverinfo="skip",
        )
    if single:
        fig.update_xaxes(
            tickvals=list(range(len(result.networks))),
            ticktext=[theme.shortened(name) for name in result.networks],
            range=[-0.5, len(result.networks) - 0.5],
        )
        if result.epochs[-1] != AS_GIVEN:
            fig.update_xaxes(title=f"network, epoch {result.epochs[-1]}")
    else:
        fig.update_xaxes(title="epoch")
    label = "fitted temperature" if measure == "temperature" else MEASURES[measure]
    bins = f", {result.bins} bins" if measure in ("ece", "adaptive_ece") else ""
    fig.update_yaxes(title=f"{label}{' (%)' if factor > 1 else ''}{bins}")
    theme.small_titles(fig)
    if measure not in ("temperature", "nll"):
        fig.update_yaxes(rangemode="tozero")
    return theme.apply(fig, summary=result.summary, title=title, dark=dark, hovermode="closest")

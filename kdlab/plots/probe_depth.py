"""Linear probe accuracy by depth, with its controls and an epoch slider."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.plots import theme
from kdlab.plots.bars import error_bars, over_seeds
from kdlab.plots.curves import level
from kdlab.probes.linear import LinearProbeResult
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.words import plural

if TYPE_CHECKING:
    import plotly.graph_objects as go

VALUES = {
    "accuracy": "held-out accuracy (%)",
    "selectivity": "selectivity (points)",
    "purity": "purity of neighbours (%)",
}
CONTROLS = ("untrained", "random labels", "pixels", "chance")
_MISSING = {
    "selectivity": "Selectivity was not measured; use linear_probe(..., control=True).",
    "purity": "Purity was not measured; use linear_probe(..., purity=True).",
}


def probe_depth(
    result: LinearProbeResult,
    *,
    value: str = "accuracy",
    controls: str | Iterable[str] = "all",
    bars: str = "auto",
    epoch_slider: bool = True,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw what a linear classifier reads from each layer, shallow to deep, per network.

    Points are means over seeds. Thin grey lines are controls: untrained twins where they were probed,
    else the students before training; random labels; raw pixels; chance.

    Args:
        result: from `kdlab.probes.linear_probe`.
        value: "accuracy"; "selectivity" or "purity" where they were measured.
        controls: "all", or some of "untrained", "random labels", "pixels", "chance"; those that were
            not measured are left out.
        bars: "seeds", from the lowest to the highest; "interval", the 95 % interval of the accuracy over
            test pictures (widest ends of the seeds); "auto": seeds where there are several, else the
            interval. The axis says which.
        epoch_slider: a slider over epochs; else the last epoch alone.
        title: of the figure.
        dark: light lines on dark paper.

    Raises:
        ConfigError: the value was not measured, or an unknown value, control or kind of bars.

    >>> fig = kdlab.plots.probe_depth(kdlab.probes.linear_probe(study, probe="ridge"))
    >>> [line.name for line in fig.data]
    ['resnet8 (teacher)', 'alone', 'KD', 'students before training']
    """
    import plotly.graph_objects as go

    table = table_of(result, value)
    shown = set(CONTROLS if controls == "all" else [controls] if isinstance(controls, str) else controls)
    for name in sorted(shown - set(CONTROLS)):
        raise unknown_name("control", name, CONTROLS)
    bars = _bars(result, value, bars)
    looks = theme.styles(result.students, result.teachers)
    x = np.arange(len(result.layers))
    spread = 0.045
    random = result.control if value == "accuracy" and "random labels" in shown else None

    chosen = f"random labels (chance {100 * result.control_chance:.0f} %)"

    def traces(e: int) -> list[Any]:
        out = []
        for n, name in enumerate(result.networks):
            own = 100 * table[n, e]
            mean, low, high = over_seeds(own)
            if not bars:
                low, high = np.zeros(len(x)), np.zeros(len(x))
            elif bars == "interval":
                ends = 100 * np.concatenate([result.low[n, e], result.high[n, e]], axis=1)
                centre, below, above = over_seeds(ends)
                low, high = mean - (centre - below), centre + above - mean
            shift = (n - (len(result.networks) - 1) / 2) * spread
            look = looks[name]
            out.append(
                go.Scatter(
                    x=x + shift,
                    y=mean,
                    name=f"{theme.shortened(name, 24)} (teacher)"
                    if name in result.teachers
                    else theme.shortened(name, 24),
                    mode="lines+markers",
                    line=look.line(),
                    marker=look.marker(10),
                    connectgaps=True,
                    error_y=error_bars(low, high, look.color),
                    customdata=np.stack([np.isfinite(own).sum(axis=1), low, high], axis=1),
                    text=list(result.layers),
                    hovertemplate=f"{name}, %{{text}}: %{{y:.1f}} % (%{{customdata[0]}} seed(s), "
                    "-%{customdata[1]:.1f} +%{customdata[2]:.1f})<extra></extra>",
                )
            )
        if random is not None:
            out.append(_thin(x, 100 * random[:, e], chosen, "dot", "asterisk-open", (0, 2)))
        return [trace for trace in out if trace is not None]

    last = len(result.epochs) - 1
    fig = go.Figure(traces(last))
    moving = list(range(len(fig.data)))
    if "untrained" in shown:
        _untrained(fig, result, table, x, value)
    _levels(fig, result, table, value, shown)
    what = "" if not bars else _said(result, bars)
    fig.update_xaxes(
        title=f"layer, shallow to deep{what}",
        tickvals=x,
        ticktext=[theme.shortened(layer, 18) for layer in result.layers],
        range=[-0.35, len(x) - 0.65],
        showgrid=False,
    )
    kind = "" if value == "purity" else f"<br>{kind_of(result)}"
    fig.update_yaxes(title=dict(text=f"{VALUES[value]}{kind}", font=dict(size=13)))
    theme.small_titles(fig)
    layout: dict[str, Any] = {}
    with_slider = epoch_slider and last > 0
    if with_slider:
        labels = [str(epoch) for epoch in result.epochs]
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


def table_of(result: LinearProbeResult, value: str) -> np.ndarray:
    """(N, E, L, S) of a name in `VALUES`; refuses what was not measured."""
    if value not in VALUES:
        raise unknown_name("value", value, VALUES)
    table: np.ndarray | None = getattr(result, value)
    if table is None:
        raise ConfigError(_MISSING[value])
    return table


def kind_of(result: LinearProbeResult) -> str:
    """Which probe it was, for an axis."""
    kind = "softmax probe" if result.probe == "softmax" else "closed-form ridge probe"
    return kind + (f", {plural(result.dimension, 'component')}" if result.dimension else "")


def chance_of(result: LinearProbeResult, value: str) -> float:
    """What chance gives, in percent."""
    return 100 * (result.purity_chance if value == "purity" else result.chance)


def _bars(result: LinearProbeResult, value: str, bars: str) -> str:
    """ "seeds", "interval", or "" where there is nothing to draw."""
    if bars not in ("auto", "seeds", "interval"):
        raise unknown_name("kind of bars", bars, ("auto", "seeds", "interval"))
    if bars == "interval" and value != "accuracy":
        raise ConfigError("The 95 % interval is known of the accuracy alone; draw bars='seeds' instead.")
    if bars == "auto":
        bars = "seeds" if len(result.seeds) > 1 else "interval"
    if bars == "interval":
        return bars if value == "accuracy" else ""
    return bars if len(result.seeds) > 1 else ""


def _said(result: LinearProbeResult, bars: str) -> str:
    if bars == "seeds":
        return f" (bars: lowest to highest of {len(result.seeds)} seeds)"
    return f" (bars: 95 % interval over {plural(result.n_test, 'test picture')})"


def _thin(
    x: np.ndarray, values: np.ndarray, name: str, dash: str, symbol: str, over: tuple[int, ...]
) -> go.Scatter | None:
    """A thin grey line with the mean of `values` over some axes; the layers' axis is left."""
    import plotly.graph_objects as go

    there = np.isfinite(values).any(axis=over)
    if not there.any():
        return None
    mean = np.full(len(x), np.nan)
    mean[there] = np.nanmean(np.compress(there, values, axis=1), axis=over)
    return go.Scatter(
        x=x,
        y=mean,
        name=name,
        mode="lines+markers",
        connectgaps=True,
        line=dict(color=theme.MUTED, width=1.5, dash=dash),
        marker=dict(symbol=symbol, size=10, color=theme.MUTED, line=dict(width=1.6, color=theme.MUTED)),
        hovertemplate=f"{name}: %{{y:.1f}} %<extra></extra>",
    )


def _untrained(
    fig: go.Figure, result: LinearProbeResult, table: np.ndarray, x: np.ndarray, value: str
) -> None:
    """Untrained twins; without them the students before training, who start from the same weights."""
    own = [n for n, name in enumerate(result.networks) if name not in result.teachers]
    others = [n for n, name in enumerate(result.networks) if name in result.teachers]
    if value == "accuracy" and result.untrained is not None:
        single = len(result.networks) == 1
        lines = [
            (own, "untrained twin" if single else "students untrained", "solid", "line-ew-open"),
            (
                others,
                "teacher untrained" if len(others) == 1 else "teachers untrained",
                "dash",
                "circle-open",
            ),
        ]
        for rows, name, dash, symbol in lines:
            trace = _thin(x, 100 * result.untrained[rows], name, dash, symbol, (0, 2)) if rows else None
            if trace is not None:
                fig.add_trace(trace)
    elif 0 in result.epochs and len(result.epochs) > 1 and own:
        before = 100 * table[own, result.epochs.index(0)]
        trace = _thin(x, before, "students before training", "solid", "line-ew-open", (0, 2))
        if trace is not None:
            fig.add_trace(trace)


def _levels(
    fig: go.Figure, result: LinearProbeResult, table: np.ndarray, value: str, shown: set[str]
) -> None:
    """Raw pixels and chance, and the range of the axis."""
    if value == "selectivity":
        return
    drawn = [100 * table[np.isfinite(table)]]
    if value == "accuracy":
        if "pixels" in shown and np.isfinite(result.pixels):
            look = theme.Style(theme.MUTED, "longdash", "circle")
            level(fig, 100 * result.pixels, "raw pixels", look, "left")
            drawn.append(np.array([100 * result.pixels]))
        drawn += [
            100 * one[np.isfinite(one)]
            for one, name in ((result.untrained, "untrained"), (result.control, "random labels"))
            if one is not None and name in shown
        ]
        drawn += [100 * ends[np.isfinite(ends)] for ends in (result.low, result.high)]
    floor = float(np.concatenate(drawn).min(initial=100.0))
    highest = float(np.concatenate(drawn).max(initial=0.0))
    top = 102.0 if highest > 60 else 1.1 * highest + 4
    chance = chance_of(result, value)
    if "chance" not in shown:
        fig.update_yaxes(range=[max(floor - 4, 0), top])
    elif floor - chance > 30:  # chance would push all points together at the top
        fig.update_yaxes(range=[floor - 6, 101.5])
        fig.add_annotation(
            x=0.995,
            xref="x domain",
            y=0.01,
            yref="y domain",
            xanchor="right",
            yanchor="bottom",
            showarrow=False,
            text=f"↓ chance {chance:.1f} %",
            font=dict(size=12, color=theme.MUTED),
        )
    else:
        level(fig, chance, "chance", None)
        fig.update_yaxes(range=[max(min(floor, chance) - 4, 0), top])

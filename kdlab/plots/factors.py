"""Factors by layer: what each network shows of the pictures, and what it shows more or less than another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.plots import theme
from kdlab.probes.factors import FactorProbe
from kdlab.probes.representation import AS_GIVEN

if TYPE_CHECKING:
    import plotly.graph_objects as go

VALUES = {
    "decodability": "decodability<br>(0 chance,<br>1 no error)",
    "accuracy": "held-out<br>accuracy (%)",
    "difference": "decodability<br>beside<br>{}",
}
_DIVERGING = "PuOr_r"  # orange above, purple below: told apart with any colour vision
_COLUMNS = 4  # maps beside one another at most
_CELL = 48  # pixels that a number needs
_ROOM = 670  # pixels for cells on the narrowest page


def factors(
    result: FactorProbe,
    *,
    value: str = "decodability",
    epoch_slider: bool = True,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw layers across and factors down, one map for each network; means over seeds, as numbers too.

    Args:
        result: from `kdlab.probes.factor_probe`.
        value: "decodability", (accuracy - chance) / (1 - chance); "accuracy" with the chance of each
            factor beside its name; "difference", decodability minus that of the baseline: what this
            loss made the network keep (+) or drop (−).
        epoch_slider: a slider over epochs; else the last epoch alone.
        title: of the figure.
        dark: light text on dark paper.

    Raises:
        ConfigError: no such value, or no baseline to compare with.

    >>> y, colour = np.arange(200) % 4, np.arange(200) // 8 % 2
    >>> found = kdlab.probes.factor_probe({"net": np.eye(4)[y]}, y, factors={"colour": colour})
    >>> fig = kdlab.plots.factors(found)
    >>> fig.layout.yaxis.ticktext, fig.data[1].text[0]  # the class can be read without error
    (('<b>class</b>', 'colour'), '1.00')
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    if value not in VALUES:
        raise unknown_name("value", value, VALUES)
    table = getattr(result, value)
    if table is None:
        raise ConfigError("There is no baseline; use factor_probe(..., baseline=name of a student).")
    table = 100 * table if value == "accuracy" else table
    shown = [n for n, name in enumerate(result.networks) if value != "difference" or name != result.baseline]
    if not shown:
        raise ConfigError("The baseline is the only network here; there is nothing to compare it with.")
    columns = max(1, min(_COLUMNS, len(shown), _ROOM // (_CELL * len(result.layers))))
    rows = -(-len(shown) // columns)
    fig = make_subplots(
        rows,
        columns,
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=0.30 / rows if rows > 1 else 0.0,
        subplot_titles=[_head(result, n, 72 // columns) for n in shown],
    )
    last = len(result.epochs) - 1
    colours = _colours(result, table[shown], value)
    for number, trace in enumerate(_traces(result, table, shown, last, value, colours)):
        place = number % len(shown)
        fig.add_trace(trace, row=place // columns + 1, col=place % columns + 1)
    names = [_factor(result, f, value) for f in range(len(result.factors))]
    ticks = list(range(len(names)))
    fig.update_yaxes(autorange="reversed", tickvals=ticks, ticktext=names, showgrid=False, zeroline=False)
    fig.update_xaxes(
        tickvals=list(range(len(result.layers))),
        ticktext=[
            theme.shortened(layer, max(6, 60 // columns // len(result.layers))) for layer in result.layers
        ],
        showgrid=False,
        zeroline=False,
    )
    fig.update_layout(coloraxis=colours)
    layout: dict[str, Any] = {}
    with_slider = epoch_slider and last > 0
    if with_slider:
        labels = [str(epoch) for epoch in result.epochs]
        fig.frames = [
            go.Frame(
                data=_traces(result, table, shown, e, value, colours),
                traces=list(range(len(fig.data))),
                name=label,
            )
            for e, label in enumerate(labels)
        ]
        layout = {"sliders": [theme.slider(labels, "epoch ", last, redraw=True)]}
    when = "" if result.epochs[-1] == AS_GIVEN or not with_slider else " The slider goes through the epochs."
    for note in fig.layout.annotations:
        note.font = dict(size=14, color=theme.INK)
    body = rows * (30 * len(names) + 64)
    fig = theme.apply(
        fig,
        summary=result.summary + when,
        title=title,
        height=body + 60 + (28 if title else 0) + (theme.SLIDER_HEIGHT if with_slider else 0),
        legend=False,
        **layout,
    )
    fig.update_layout(margin=dict(t=44 if title is None else 84, l=120))
    return theme.recolour(fig, dark=True) if dark else fig


def _traces(
    result: FactorProbe, table: np.ndarray, shown: list[int], e: int, value: str, colours: dict[str, Any]
) -> list[Any]:
    """The maps of all networks, then the numbers in their cells."""
    import plotly.graph_objects as go

    out, numbers = [], []
    for n in shown:
        own = table[n, e]
        count = np.isfinite(own).sum(axis=2)
        total = np.nansum(own, axis=2)
        mean = np.where(count > 0, total / np.maximum(count, 1), np.nan).T  # factors down, layers across
        spread = np.full(mean.shape, np.nan)
        several = (count > 1).T
        spread[several] = np.nanstd(own.transpose(1, 0, 2)[several], axis=1, ddof=1)
        said = "accuracy" if value == "accuracy" else ""

        def hover(f: int, k: int) -> str:
            where = f"{result.networks[n]}, {result.layers[k]}, {result.factors[f]}"  # noqa: B023
            range_ = f" ± {_number(spread[f, k], said)}" if several[f, k] else ""  # noqa: B023
            seeds = f"{count[k, f]} seed(s); chance {100 * result.chance[f]:.1f} %"  # noqa: B023
            return f"{where}: {_number(mean[f, k], value)}{range_}<br>{seeds}"  # noqa: B023

        places = range(len(result.layers))
        out.append(
            go.Heatmap(
                z=mean.tolist(),
                coloraxis="coloraxis",
                xgap=2,
                ygap=2,
                customdata=[[hover(f, k) for k in places] for f in range(len(result.factors))],
                hovertemplate="%{customdata}<extra></extra>",
                hoverongaps=False,
            )
        )
        f, k = np.nonzero(np.isfinite(mean))
        numbers.append(
            go.Scatter(
                x=k.tolist(),
                y=f.tolist(),
                mode="text",
                text=[_number(z, value) for z in mean[f, k]],
                textfont=dict(size=12, color=_readable(mean[f, k], colours)),
                hoverinfo="skip",
                showlegend=False,
            )
        )
    return [*out, *numbers]


def _readable(values: np.ndarray, colours: dict[str, Any]) -> list[str]:
    """White on dark cells, near black on light ones; plotly's own choice is weak in the middle."""
    from plotly.colors import sample_colorscale

    low, high = colours["cmin"], colours["cmax"]
    out = []
    for share in np.clip((values - low) / (high - low), 0, 1):
        (cell,) = sample_colorscale(colours["colorscale"], [float(share)], colortype="tuple")
        light = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in cell]
        out.append(
            "rgb(10,10,10)"
            if 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2] > 0.179
            else "rgb(255,255,255)"
        )
    return out


def _number(z: float, value: str) -> str:
    if not np.isfinite(z):
        return ""
    if value == "accuracy":
        return f"{z:.0f}"
    z = round(z, 2) + 0.0  # no negative zero
    text = f"{z:+.2f}" if value == "difference" and z else f"{z:.2f}"
    return text.replace("-", "−")


def _head(result: FactorProbe, n: int, fits: int) -> str:
    name = result.networks[n]
    if name in result.teachers:
        return f"<b>{theme.shortened(name, max(fits - 9, 6))}</b> (teacher)"
    return f"<b>{theme.shortened(name, fits)}</b>"


def _factor(result: FactorProbe, f: int, value: str) -> str:
    """The name of a row: the class label in bold, what goes with the class with a mark."""
    name = theme.shortened(result.factors[f], 16)
    if result.factors[f] == result.label:
        name = f"<b>{name}</b>" if name == "class" else f"<b>{name}</b> = class"
    elif result.tied[f].max() > 0.1:
        name += " ⚠"
    return f"{name} ({100 * result.chance[f]:.0f} %)" if value == "accuracy" else name


def _colours(result: FactorProbe, table: np.ndarray, value: str) -> dict[str, Any]:
    finite = table[np.isfinite(table)]
    bar = dict(thickness=12, len=0.9, tickfont=dict(size=12))
    title = dict(text=VALUES[value].format(theme.shortened(result.baseline, 14)), font=dict(size=12))
    if value == "difference":
        most = max(float(np.abs(finite).max(initial=0.0)), 0.05)
        return dict(colorscale=_DIVERGING, cmin=-most, cmax=most, colorbar=dict(title=title, **bar))
    top = 100.0 if value == "accuracy" else 1.0
    return dict(colorscale=theme.SEQUENTIAL, cmin=0, cmax=top, colorbar=dict(title=title, **bar))

"""Fidelity: who agrees with whom, split by who is right, and over epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.plots import theme
from kdlab.plots.bars import error_bars, over_seeds
from kdlab.probes.fidelity import ENSEMBLE, PARTS, Fidelity

if TYPE_CHECKING:
    import plotly.graph_objects as go

MEASURES = {
    "agreement": "agreement",
    "right": "agreement where the reference is right",
    "wrong": "agreement where the reference is wrong",
    "kl": "KL(reference ‖ student)",
    "top": "overlap of the 5 highest classes",
}
_SPLITS = (
    ("all pictures", "agreement", "circle", "#0072B2"),
    ("reference right", "right", "triangle-up", "#009E73"),
    ("reference wrong", "wrong", "x", "#D55E00"),
)


def fidelity(
    result: Fidelity,
    *,
    reference: str | None = None,
    part: str = PARTS[1],
    epoch_slider: bool = True,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw the agreement of all pairs of networks, and that with the reference by whether it is right.

    All numbers are means over seeds. On the diagonal of the matrix stands the agreement of two seeds of
    the same student, which is the control; on the right it is a dark tick, and a faint tick is what
    independent predictions would agree on.

    Args:
        result: from `kdlab.probes.fidelity`.
        reference: whom students are compared with on the right; the ensemble of the teachers or the
            teacher if not given, else the first network.
        part: "fitting part" or "test part".
        epoch_slider: a slider over epochs; else the last epoch alone.
        title: of the figure.
        dark: light lines on dark paper.

    Raises:
        ConfigError: no such network or part.

    >>> fig = kdlab.plots.fidelity(kdlab.probes.fidelity(study))
    >>> [bars.name for bars in fig.data][1:4]
    ['all pictures', 'reference right', 'reference wrong']
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    who, p = _chosen(result, reference, part)
    names = [theme.shortened(_label(name), 12) for name in result.networks]
    others = [
        j for j in range(len(names)) if result.networks[j] not in (*result.references, result.networks[who])
    ]
    others = others or [j for j in range(len(names)) if j != who]
    fig = make_subplots(
        1,
        2,
        column_widths=[0.5, 0.5],
        horizontal_spacing=0.17,
        subplot_titles=(
            f"agreement (%), {part};<br>diagonal: two seeds of the same student",
            f"agreement with {theme.shortened(_label(result.networks[who]), 20)}:<br>it is "
            f"{_right(result, p, who)}",
        ),
    )
    last = len(result.epochs) - 1
    for trace, column in _traces(result, last, p, who, others, names):
        fig.add_trace(trace, row=1, col=column)
    for note in fig.layout.annotations:
        note.update(font=dict(size=13, color=theme.INK), align="left")
    count = len(names)
    fig.update_xaxes(
        tickvals=list(range(count)),
        ticktext=names,
        showgrid=False,
        zeroline=False,
        tickangle=-40 if count > 3 else 0,
        row=1,
        col=1,
    )
    fig.update_yaxes(
        tickvals=list(range(count)),
        ticktext=names,
        showgrid=False,
        zeroline=False,
        autorange="reversed",
        row=1,
        col=1,
    )
    fig.update_xaxes(title="agreement (%)", range=[-2, 102], row=1, col=2)
    fig.update_yaxes(
        tickvals=list(range(len(others))),
        ticktext=[names[j] for j in others],
        range=[len(others) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
        row=1,
        col=2,
    )
    theme.small_titles(fig)
    fig.update_layout(
        coloraxis=dict(colorscale=theme.SEQUENTIAL, cmin=0, cmax=100, showscale=False),
    )
    layout: dict[str, Any] = {}
    with_slider = epoch_slider and last > 0
    if with_slider:
        labels = [str(epoch) for epoch in result.epochs]
        fig.frames = [
            go.Frame(
                data=[trace for trace, _ in _traces(result, e, p, who, others, names)],
                traces=list(range(len(fig.data))),
                name=label,
            )
            for e, label in enumerate(labels)
        ]
        slider = theme.slider(labels, "epoch ", last, redraw=True)
        layout["sliders"] = [{**slider, "pad": {"t": 92, "b": 6}}]
    fig = theme.apply(
        fig,
        summary=result.summary,
        title=title,
        height=290 + 42 * max(count, 4) + (theme.SLIDER_HEIGHT if with_slider else 0),
        **layout,
    )
    fig.update_layout(
        margin=dict(t=118 + (36 if title else 0), l=100, b=100),
        legend=dict(
            yref="container", y=1 - (44 if title else 6) / fig.layout.height, yanchor="top", itemwidth=30
        ),
    )
    return theme.recolour(fig, dark=True) if dark else fig


def fidelity_epochs(
    result: Fidelity,
    measure: str = "agreement",
    *,
    reference: str | None = None,
    part: str = PARTS[1],
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw one measure of students against a reference over epochs, with its controls.

    Points are means over seeds with bars from the lowest to the highest. Dotted lines in a student's
    colour: two seeds of this student; grey, long dashes: independent predictions.

    Args:
        result: from `kdlab.probes.fidelity`.
        measure: "agreement", "right", "wrong", "top", or "kl" (at the first temperature).
        reference: as in `fidelity`.
        part: "fitting part" or "test part".
        title: of the figure.
        dark: light lines on dark paper.

    Raises:
        ConfigError: no such measure, network or part, or no top 5 with so few classes.

    >>> fig = kdlab.plots.fidelity_epochs(kdlab.probes.fidelity(study))
    >>> [line.name for line in fig.data], fig.layout.yaxis.title.text
    (['alone (labels alone)', 'KD', 'independent predictions'], 'agreement (%)')
    """
    import plotly.graph_objects as go

    if measure not in MEASURES:
        raise unknown_name("measure", measure, MEASURES)
    if measure == "top" and result.top is None:
        raise ConfigError("The overlap of the 5 highest classes is measured for 10 classes or more.")
    who, p = _chosen(result, reference, part)
    table: np.ndarray = result.kl[0] if measure == "kl" else getattr(result, measure)
    factor = 1.0 if measure == "kl" else 100.0
    looks = theme.styles(result.students, result.teachers)
    epochs = np.asarray(result.epochs)
    fig = go.Figure()
    single = len(epochs) == 1
    shown = [j for j, name in enumerate(result.networks) if name not in result.references and j != who]
    for place, j in enumerate(shown):
        name = result.networks[j]
        look = looks[name]
        mean, low, high = over_seeds(factor * table[:, :, p, who, j])
        there = np.isfinite(mean)
        x = np.full(int(there.sum()), place) if single else epochs[there]
        learns = " (labels alone)" if name in result.plain else ""
        fig.add_scatter(
            x=x,
            y=mean[there],
            name=theme.shortened(f"{name}{learns}", 30),
            legendgroup=name,
            mode="markers" if single else "lines+markers",
            line=look.line(),
            marker=look.marker(9),
            error_y=error_bars(low[there], high[there], look.color),
            hovertemplate=f"{name}, {MEASURES[measure]}: %{{y:.3g}}<extra></extra>",
        )
        own = result.seed_kl[0] if measure == "kl" else result.seed_agreement
        ceiling = factor * own[:, p, j]
        known = np.isfinite(ceiling)
        if measure in ("agreement", "kl") and known.any():
            fig.add_scatter(
                x=np.full(int(known.sum()), place) if single else epochs[known],
                y=ceiling[known],
                legendgroup=name,
                showlegend=False,
                mode="markers" if single else "lines",
                line=dict(color=look.color, dash="dot", width=1.2),
                marker=dict(symbol="line-ew-open", size=14, color=look.color, line=dict(width=2)),
                hovertemplate=f"{name}, two of its seeds: %{{y:.3g}}<extra></extra>",
            )
    if measure == "agreement":
        chance = 100 * over_seeds(result.by_chance[:, :, p, who][..., shown].reshape(len(epochs), -1))[0]
        fig.add_scatter(
            x=[-0.4, len(shown) - 0.6] if single else epochs,
            y=np.repeat(chance, 2) if single else chance,
            name="independent predictions",
            mode="lines",
            line=dict(color=theme.MUTED, dash="longdash", width=1.2),
            hovertemplate="independent predictions: %{y:.3g}<extra></extra>",
        )
    if measure in ("agreement", "kl") and np.isfinite(result.seed_agreement).any():
        fig.add_scatter(
            x=[None],
            y=[None],
            name="dotted: two seeds of the same student",
            mode="lines",
            line=dict(color=theme.INK, dash="dot", width=1.2),
            hoverinfo="skip",
        )
    if single:
        fig.update_xaxes(
            tickvals=list(range(len(shown))),
            ticktext=[theme.shortened(result.networks[j]) for j in shown],
            range=[-0.5, len(shown) - 0.5],
        )
    else:
        fig.update_xaxes(title="epoch")
    unit = f" at temperature {result.temperatures[0]:g} (nats)" if measure == "kl" else " (%)"
    fig.update_yaxes(title=f"{MEASURES[measure]}{unit}", rangemode="tozero")
    theme.small_titles(fig)
    told = f" Drawn against {result.networks[who]}, {part}."
    return theme.apply(fig, summary=result.summary + told, title=title, dark=dark, hovermode="closest")


def _chosen(result: Fidelity, reference: str | None, part: str) -> tuple[int, int]:
    if part not in PARTS:
        raise ConfigError(f"part must be {' or '.join(map(repr, PARTS))}, not {part!r}.")
    name = reference or (*result.networks[:1], *result.references)[-1]
    if name not in result.networks:
        raise unknown_name("network", name, result.networks)
    return result.networks.index(name), PARTS.index(part)


def _right(result: Fidelity, p: int, who: int) -> str:
    """On how many pictures the reference is right at the last epoch; of several seeds the first known."""
    total = (result.n_fit, result.n_test)[p]
    known = result.accuracy[-1, :, p, who]
    known = known[np.isfinite(known)]
    if not len(known):
        return "not there at the last epoch"
    right = round(float(known[0]) * total)
    return f"right on {right:,}, wrong on {total - right:,} pictures"


def _label(name: str) -> str:
    return "ensemble" if name == ENSEMBLE else name


def _traces(
    result: Fidelity, e: int, p: int, who: int, others: list[int], names: list[str]
) -> list[tuple[Any, int]]:
    import plotly.graph_objects as go

    def mean(table: np.ndarray) -> np.ndarray:
        flat = table.reshape(len(table), -1).T
        return over_seeds(flat)[0].reshape(table.shape[1:])

    z = 100 * mean(result.agreement[e, :, p])
    np.fill_diagonal(z, 100 * result.seed_agreement[e, p])
    counts = mean(np.where(result.quadrants[e, :, p] < 0, np.nan, result.quadrants[e, :, p]))
    digits = 1 if len(names) <= 8 else 0
    text = [["" if np.isnan(v) else f"{v:.{0 if v >= 99.95 else digits}f}" for v in row] for row in z]
    hover = [
        [
            ""
            if np.isnan(z[i, j])
            else _told(result.networks[i], result.networks[j], z[i, j], counts[i, j], i == j)
            for j in range(len(names))
        ]
        for i in range(len(names))
    ]
    out: list[tuple[Any, int]] = [
        (
            go.Heatmap(
                z=z,
                text=text,
                texttemplate="%{text}",
                textfont=dict(size=13 if len(names) <= 7 else 11),
                customdata=hover,
                coloraxis="coloraxis",
                xgap=2,
                ygap=2,
                hoverongaps=False,
                hovertemplate="%{customdata}<extra></extra>",
            ),
            1,
        )
    ]
    y = np.arange(len(others))
    for shift, (label, key, symbol, color) in zip((0.0, -0.2, 0.2), _SPLITS, strict=True):
        x = 100 * mean(getattr(result, key)[e, :, p, who][:, others])
        out.append(
            (
                go.Scatter(
                    x=x,
                    y=y + shift,
                    name=label,
                    mode="markers",
                    marker=dict(symbol=symbol, size=12, color=color, line=dict(color=theme.PAPER, width=1)),
                    text=[result.networks[j] for j in others],
                    hovertemplate=f"%{{text}}, {label}: %{{x:.1f}} %<extra></extra>",
                ),
                2,
            )
        )
    for label, x, color in (
        ("two seeds of the student", result.seed_agreement[e, p][others], theme.INK),
        ("independent predictions", mean(result.by_chance[e, :, p, who][:, others]), theme.FAINT),
    ):
        out.append(
            (
                go.Scatter(
                    x=100 * x,
                    y=y,
                    name=label,
                    mode="markers",
                    marker=dict(
                        symbol="line-ns-open", size=20, color=color, line=dict(color=color, width=2.5)
                    ),
                    text=[result.networks[j] for j in others],
                    hovertemplate=f"%{{text}}, {label}: %{{x:.1f}} %<extra></extra>",
                ),
                2,
            )
        )
    return out


def _told(row: str, column: str, value: float, counts: np.ndarray, same: bool) -> str:
    if same:
        return f"two seeds of {row} agree on {value:.1f} %"
    both, only_row, only_column, neither = counts
    return (
        f"{row} and {column} agree on {value:.1f} %<br>both right {both:.0f}, only {row} {only_row:.0f},<br>"
        f"only {column} {only_column:.0f}, both wrong {neither:.0f}"
    )

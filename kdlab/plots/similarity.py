"""How alike the layers of two networks are: matrices beside their controls, and lines over the epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.plots import theme
from kdlab.plots.bars import error_bars, over_seeds
from kdlab.probes.layer_pairs import Pair
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.similarity import Similarity

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MOST_CELLS = 12  # layers of a matrix up to which numbers are written into it
_TOP = {"procrustes": 2.0, "procrustes_angular": float(np.pi / 2)}


def similarity(
    result: Similarity, *, epoch_slider: bool = True, title: str | None = None, dark: bool = False
) -> go.Figure:
    """Draw a matrix of layers by layers for each pair of networks, its controls beside it on one scale.

    Args:
        result: from `kdlab.probes.similarity`.
        epoch_slider: a slider over epochs; else the last epoch alone.
        title: of the figure.
        dark: light text on dark paper.

    >>> fig = kdlab.plots.similarity(kdlab.probes.similarity(study, control=False))
    >>> [note.text for note in fig.layout.annotations], fig.data[0].z.shape
    (['alone and resnet8', 'KD and resnet8'], (3, 3))
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    columns = ["measured"]
    if result.untrained:
        columns.append("untrained")
    if result.second_seed:
        columns.append("seeds")
    elif result.chance:
        columns.append("chance")
    rows = len(result.pairs)
    names = [_heading(result, pair, kind) for pair in result.pairs for kind in columns]
    tall = 56 + 34 * max(len(result.layers[left]) for left, _ in result.pairs)
    tall = max(tall, 170)
    height = (tall + 66) * rows + 60
    fig = make_subplots(
        rows,
        len(columns),
        subplot_titles=names,
        horizontal_spacing=0.12,
        vertical_spacing=min(66 / max(height - 80, 1), 0.9 / max(rows - 1, 1)),
    )
    moving: list[int] = []
    last = len(result.epochs) - 1
    for row, pair in enumerate(result.pairs):
        for column, kind in enumerate(columns):
            for trace in _heat(result, pair, kind, last):
                if kind in ("measured", "seeds"):
                    moving.append(len(fig.data))
                fig.add_trace(trace, row=row + 1, col=column + 1)
    for note in fig.layout.annotations:
        note.font = dict(size=13, color=theme.INK)
    fig.update_yaxes(autorange="reversed", showgrid=False)
    fig.update_xaxes(showgrid=False, tickangle=0 if _short(result) else -30, tickfont=dict(size=12))
    for row, (left, _) in enumerate(result.pairs):
        fig.update_yaxes(title=theme.shortened(left, 22), row=row + 1, col=1)
    theme.small_titles(fig)
    layout: dict[str, Any] = {
        "coloraxis": dict(
            colorscale=theme.SEQUENTIAL,
            reversescale=result.is_distance,
            cmin=0.0,
            cmax=_TOP.get(result.metric, 1.0),
            colorbar=dict(
                title=dict(text=_axis(result), side="right", font=dict(size=13)),
                **dict(thickness=14, outlinewidth=0),
            ),
        )
    }
    slider = epoch_slider and last > 0
    if slider:
        labels = [str(epoch) for epoch in result.epochs]
        fig.frames = [
            go.Frame(
                name=label,
                traces=moving,
                data=[
                    trace
                    for pair in result.pairs
                    for kind in columns
                    if kind in ("measured", "seeds")
                    for trace in _heat(result, pair, kind, e)
                ],
            )
            for e, label in enumerate(labels)
        ]
        layout["sliders"] = [theme.slider(labels, "epoch ", last, redraw=True)]
        height += theme.SLIDER_HEIGHT
    when = " The slider goes through the epochs." if slider else ""
    return theme.apply(
        fig,
        summary=result.summary + when,
        title=title,
        height=height,
        legend=False,
        dark=dark,
        **{"margin": dict(l=70, r=24, t=76 if title else 44, b=48), **layout},
    )


def similarity_epochs(
    result: Similarity, *, layer: str | None = None, title: str | None = None, dark: bool = False
) -> go.Figure:
    """Draw how alike corresponding layers are over the epochs: a plot a layer, a line a network.

    Points are means over seeds with bars from the lowest to the highest. The thin line of the same look is
    the same layer in two seeds of that student; grey dots are the chance level.

    Args:
        result: from `kdlab.probes.similarity`, of several epochs.
        layer: of the right network; all if not given.
        title: of the figure.
        dark: light lines on dark paper.

    Raises:
        ConfigError: a single epoch, or an unknown layer.

    >>> fig = kdlab.plots.similarity_epochs(kdlab.probes.similarity(study, control=False))
    >>> [note.text for note in fig.layout.annotations], fig.layout.yaxis.title.text
    (['layer1', 'layer2', 'layer3'], 'linear CKA (1 is equal)')
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    if len(result.epochs) < 2 or result.epochs == (AS_GIVEN,):
        raise ConfigError("There is a single epoch; draw the matrices instead: plots.similarity(result).")
    order = list(dict.fromkeys(name for _, right in result.pairs for name in result.layers[right]))
    if layer is not None and layer not in order:
        raise unknown_name("layer", layer, order)
    shown = [
        name
        for name in ([layer] if layer is not None else order)
        if any(_at(result, pair, name) is not None for pair in result.pairs)
    ]
    columns = min(len(shown), 3)
    rows = -(-len(shown) // columns)
    height = 300 * rows + 90
    fig = make_subplots(
        rows,
        columns,
        subplot_titles=[theme.shortened(name, 24) for name in shown],
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.14 / rows,
    )
    looks = theme.styles(result.students, result.teachers)
    controls: set[str] = set()
    for k, name in enumerate(shown):
        place = {"row": k // columns + 1, "col": k % columns + 1}
        chances = []
        for number, pair in enumerate(result.pairs):
            at = _at(result, pair, name)
            if at is None:
                continue
            look = _look(result, pair, number, looks)
            fig.add_trace(_line(result, pair, at, look, show=k == 0), **place)
            if pair[1] in result.second_seed:
                controls.add("seeds")
                y = result.second_seed[pair[1]][:, at[1], at[1]]
                fig.add_trace(_control(result, pair, y, look), **place)
            if pair in result.chance:
                chances.append(float(result.chance[pair][at]))
        if chances:
            controls.add("chance")
            fig.add_trace(
                go.Scatter(
                    x=[result.epochs[0], result.epochs[-1]],
                    y=[float(np.nanmean(chances))] * 2,
                    mode="lines",
                    line=dict(color=theme.MUTED, width=1.6, dash="dot"),
                    name="shuffled pictures (chance)",
                    showlegend=k == 0,
                    hovertemplate="shuffled pictures: %{y:.2f}<extra></extra>",
                ),
                **place,
            )
    if "seeds" in controls:
        fig.add_scatter(
            x=[None],
            y=[None],
            mode="lines",
            line=dict(color=theme.MUTED, width=1.1),
            name="thin: two seeds of the same student",
        )
    for note in fig.layout.annotations:
        note.font = dict(size=13, color=theme.INK)
    top = _TOP.get(result.metric, 1.0)
    everything = [_mean_line(result, pair) for pair in result.pairs]
    low = min((float(np.nanmin(v)) for v in everything if np.isfinite(v).any()), default=0.0)
    fig.update_yaxes(range=[min(low, 0.0) - 0.03 * top, 1.03 * top])
    fig.update_xaxes(showticklabels=True)
    for row in range(1, rows + 1):
        fig.update_yaxes(title=_axis(result), row=row, col=1)
    for column in range(1, columns + 1):
        fig.update_xaxes(title="epoch", row=rows, col=column)
    theme.small_titles(fig)
    fig = theme.apply(fig, summary=result.summary, title=title, height=height, dark=dark)
    fig.update_layout(legend_y=1 + 30 / height, margin_t=110 if title else 82)
    return fig


def _heading(result: Similarity, pair: Pair, kind: str) -> str:
    right = theme.shortened(pair[1], 16)
    if kind == "untrained":
        return f"{right}, untrained"
    if kind == "seeds":
        return f"two seeds of {right}" if pair[1] in result.second_seed else " "
    if kind == "chance":
        return f"{right}, pictures shuffled"
    first = {"first": "at its first epoch", "last": "at its last epoch"}.get(result.against)
    if pair[0] == pair[1]:
        return f"{right} and itself" + (f" {first}" if first else "")
    return f"{right} and {theme.shortened(pair[0], 14)}"


def _heat(result: Similarity, pair: Pair, kind: str, epoch: int) -> list[Any]:
    """The matrix, and the numbers in it where there is room."""
    import plotly.graph_objects as go

    left, right = result.layers[pair[0]], result.layers[pair[1]]
    blank = np.full((len(left), len(right)), np.nan)
    if kind == "measured":
        table, below = result.mean(pair)[epoch], f"{pair[0]}, %{{y}}<br>{pair[1]}, %{{x}}"
    elif kind == "seeds":
        found = result.second_seed.get(pair[1])
        table, left = (blank if found is None else found[epoch]), right
        below = f"two seeds of {pair[1]}<br>%{{y}} and %{{x}}"
    else:
        table = (result.untrained if kind == "untrained" else result.chance).get(pair, blank)
        word = "untrained" if kind == "untrained" else "pictures shuffled"
        below = f"{pair[0]}, %{{y}}<br>{pair[1]}, %{{x}} ({word})"
    x, y = ([theme.shortened(name, 11) for name in names] for names in (right, left))
    heat = go.Heatmap(
        z=table,
        x=x,
        y=y,
        coloraxis="coloraxis",
        xgap=2,
        ygap=2,
        hovertemplate=below + ": %{z:.3f}<extra></extra>",
        hoverongaps=False,
    )
    if max(table.shape) > _MOST_CELLS:
        return [heat]
    shade = table / _TOP.get(result.metric, 1.0)
    shade = 1.0 - shade if result.is_distance else shade
    numbers = go.Scatter(
        x=np.tile(x, len(y)),
        y=np.repeat(y, len(x)),
        mode="text",
        text=[f"{v:.2f}".replace("-0.00", "0.00") if np.isfinite(v) else "" for v in table.ravel()],
        # by name, as the numbers stand on the colour scale and not on the paper
        textfont=dict(size=13, color=["black" if v > 0.45 else "white" for v in shade.ravel()]),
        hoverinfo="skip",
        showlegend=False,
    )
    return [heat, numbers]


def _axis(result: Similarity) -> str:
    return f"{result.title} ({0 if result.is_distance else 1} is equal)"


def _short(result: Similarity) -> bool:
    return max(len(name) for names in result.layers.values() for name in names) <= 7 and all(
        len(names) <= 5 for names in result.layers.values()
    )


def _at(result: Similarity, pair: Pair, layer: str) -> tuple[int, int] | None:
    """Place of the layer of the right network and of the left one that answers it."""
    names = result.layers[pair[1]]
    return next(((i, j) for i, j in result.corresponding(pair) if names[j] == layer), None)


def _look(result: Similarity, pair: Pair, number: int, looks: dict[str, theme.Style]) -> theme.Style:
    """The student's own look; where a student stands in several pairs, one for each pair."""
    if sum(pair[1] == right for _, right in result.pairs) == 1:
        return looks[pair[1]]
    return theme.numbered(number)


def _mean_line(result: Similarity, pair: Pair) -> np.ndarray:
    return np.array([result.mean(pair)[:, i, j] for i, j in result.corresponding(pair)])


def _line(result: Similarity, pair: Pair, at: tuple[int, int], look: theme.Style, show: bool) -> Any:
    import plotly.graph_objects as go

    mean, low, high = over_seeds(result.values[pair][:, :, at[0], at[1]])
    name = pair[1] if pair[0] in (*result.teachers, pair[1]) else f"{pair[1]} and {pair[0]}"
    return go.Scatter(
        x=list(result.epochs),
        y=mean,
        name=theme.shortened(name, 34),
        legendgroup=name,
        showlegend=show,
        mode="lines+markers",
        line=look.line(),
        marker=look.marker(9),
        error_y=error_bars(low, high, look.color, visible=len(result.seeds) > 1),
        hovertemplate=f"{pair[1]} and {pair[0]}, {result.layers[pair[1]][at[1]]}, epoch %{{x}}: %{{y:.3f}}"
        "<extra></extra>",
    )


def _control(result: Similarity, pair: Pair, y: np.ndarray, look: theme.Style) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        x=list(result.epochs),
        y=y,
        mode="lines",
        line=dict(color=look.color, dash=look.dash, width=1.1),
        opacity=0.7,
        showlegend=False,
        legendgroup=pair[1],
        hovertemplate=f"two seeds of {pair[1]}, epoch %{{x}}: %{{y:.3f}}<extra></extra>",
    )

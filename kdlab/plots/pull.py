"""The pull of each term: how strong where, who fights whom, and arrows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.plots import theme
from kdlab.probes.arrows import TOTAL, PullArrows
from kdlab.probes.pull import Pull
from kdlab.probes.term_gradients import EMBEDDING

if TYPE_CHECKING:
    import plotly.graph_objects as go

_VALUES = {
    "norm": "mean gradient norm of a picture",
    "share": "share of the total pull",
}
_LONGEST = 0.16  # of the longest arrow, in spans of the cloud; all are drawn on that scale
_SHORT = {EMBEDDING: "embed."}  # on the axis of a narrow panel


def pull(
    result: Pull,
    *,
    value: str = "norm",
    epoch_slider: bool = True,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw how strongly each weighted term pulls, from the first stage to the logits, per student.

    Args:
        result: from `kdlab.probes.pull`.
        value: "norm" (on a logarithmic scale) or "share" (of the total; below 0 it works against it).
        epoch_slider: a slider over epochs; else the last epoch alone.
        title: of the figure.
        dark: light lines on dark paper.

    >>> fig = kdlab.plots.pull(kdlab.probes.pull(study, n=20))
    >>> sorted({line.name for line in fig.data}), fig.layout.yaxis.type
    (['ce', 'kd'], 'log')
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    if value not in _VALUES:
        raise unknown_name("value of a pull", value, _VALUES)
    names = result.students
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    looks = theme.styles(_all_terms(result))
    fig = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes="all",
        subplot_titles=[theme.shortened(name, 26) for name in names],
        horizontal_spacing=0.03,
        vertical_spacing=0.3 / rows,
    )
    epochs = result.epochs

    def traces(epoch: int) -> list[tuple[Any, int]]:
        out = []
        for s, name in enumerate(names):
            table = (result.norm if value == "norm" else result.share).get((name, epoch))
            for t, term in enumerate(result.terms[name]):
                y = np.full(len(result.places[name]), np.nan) if table is None else table[t].astype(float)
                if value == "norm":
                    y = np.where(y > 0, y, np.nan)  # nothing to show on a logarithmic scale
                look = looks[term]
                first = next(n for n in names if term in result.terms[n]) == name
                out.append(
                    (
                        go.Scatter(
                            x=[_SHORT.get(place, place) for place in result.places[name]],
                            y=y,
                            name=term,
                            legendgroup=term,
                            showlegend=first,
                            mode="lines+markers",
                            line=look.line(),
                            marker=look.marker(9),
                            hovertemplate=f"{name}, {term} at %{{x}}: %{{y:.3g}}<extra></extra>",
                        ),
                        s,
                    )
                )
        return out

    for trace, s in traces(epochs[-1]):
        fig.add_trace(trace, row=s // columns + 1, col=s % columns + 1)
    _scale(fig, result, value)
    fig.update_xaxes(tickangle=0, tickfont=dict(size=11))
    if value == "share":
        fig.add_hline(y=0, line=dict(color=theme.FAINT, width=1))
    for row in range(1, rows + 1):
        fig.update_yaxes(title=_VALUES[value], row=row, col=1)
    height = 300 * rows + 110
    sliders: dict[str, Any] = {}
    if epoch_slider and len(epochs) > 1:
        fig.frames = [
            go.Frame(name=str(epoch), data=[trace for trace, _ in traces(epoch)]) for epoch in epochs
        ]
        sliders["sliders"] = [theme.slider(list(map(str, epochs)), "epoch ", len(epochs) - 1)]
        height += theme.SLIDER_HEIGHT
    fig = theme.apply(fig, summary=result.summary, title=title, height=height, dark=dark, **sliders)
    fig.update_layout(legend_y=1 + 26 / height, margin_t=96 if title else 72)  # clear of the panels' names
    return fig


def _scale(fig: go.Figure, result: Pull, value: str) -> None:
    """One scale for all students and epochs, so that heights compare and a slider shows change."""
    tables = (result.norm if value == "norm" else result.share).values()
    seen = np.concatenate([table.ravel() for table in tables])
    seen = seen[np.isfinite(seen) & ((seen > 0) | (value == "share"))]
    if not len(seen):
        return
    low, high = float(seen.min()), float(seen.max())
    if value == "norm":
        low, high = low / 1.4, high * 1.4
        fig.update_yaxes(range=np.log10([low, high]).tolist(), **theme.log_axis([low, high], factor=1))
    else:
        edge = 0.06 * max(high - low, 0.1)
        fig.update_yaxes(range=[min(low, 0) - edge, max(high, 1) + edge])


def _all_terms(result: Pull) -> list[str]:
    return list(dict.fromkeys(term for name in result.students for term in result.terms[name]))


def pull_conflicts(
    result: Pull,
    *,
    place: str | None = None,
    epoch_slider: bool = True,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw the cosine between the pulls of each pair of terms: +1 they agree, -1 they fight.

    Args:
        result: from `kdlab.probes.pull`.
        place: a stage, "embedding" or "logits"; each student's last stage if not given.
        epoch_slider: a slider over epochs; else the last epoch alone.
        title: of the figure.
        dark: light lines on dark paper.

    Raises:
        ConfigError: no student has such a place, or two terms that reach it.

    >>> fig = kdlab.plots.pull_conflicts(kdlab.probes.pull(study, n=20, students="KD"))
    >>> fig.data[0].x, fig.data[0].z.shape
    (('ce', 'kd'), (2, 2))
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    known = dict.fromkeys(p for n in result.students for p in result.places[n])
    if place is not None and place not in known:
        raise unknown_name("place", place, known)
    where = {name: place or result.deepest(name) for name in result.students}
    reaching = {name: _reaching(result, name, where[name]) for name in result.students}
    names = [name for name in result.students if len(reaching[name]) > 1]
    if not names:
        raise ConfigError(f"No student has two terms that reach {place or 'its last stage'}.")
    columns = min(len(names), 2)
    rows = -(-len(names) // columns)
    fig = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[theme.shortened(name, 26) for name in names],
        horizontal_spacing=0.16,
        vertical_spacing=0.26 / rows,
    )

    def heat(name: str, epoch: int) -> Any:
        at, terms = result.places[name].index(where[name]), reaching[name]
        own = [result.terms[name].index(term) for term in terms]
        found = result.cosine.get((name, epoch))
        table = np.full((len(terms), len(terms)), np.nan)
        if found is not None:
            table = found[at][np.ix_(own, own)].copy()
        np.fill_diagonal(table, np.nan)
        text = [[f"{v:+.2f}" if np.isfinite(v) else "" for v in row] for row in table]
        return go.Heatmap(
            z=table,
            x=list(terms),
            y=list(terms),
            text=text,
            texttemplate="%{text}",
            textfont=dict(size=13),  # no colour: plotly then takes one that can be read on the cell
            colorscale=[list(stop) for stop in theme.DIVERGING],
            zmin=-1,
            zmax=1,
            xgap=2,
            ygap=2,
            showscale=name == names[0],
            colorbar=dict(title=dict(text="cosine", side="right"), thickness=14, tickvals=[-1, 0, 1]),
            hovertemplate=f"{name}: %{{x}} and %{{y}} %{{z:+.2f}}<extra></extra>",
        )

    for s, name in enumerate(names):
        fig.add_trace(heat(name, result.epochs[-1]), row=s // columns + 1, col=s % columns + 1)
    fig.update_yaxes(autorange="reversed")
    height = 290 * rows + 60
    sliders: dict[str, Any] = {}
    if epoch_slider and len(result.epochs) > 1:
        fig.frames = [go.Frame(name=str(e), data=[heat(n, e) for n in names]) for e in result.epochs]
        sliders = {
            "sliders": [
                theme.slider(list(map(str, result.epochs)), "epoch ", len(result.epochs) - 1, redraw=True)
            ]
        }
        height += theme.SLIDER_HEIGHT
    at = place or "last stage"
    summary = f"Cosine between the pulls of each pair of terms at the {at}. {result.summary}"
    return theme.apply(fig, summary=summary, title=title, height=height, legend=False, dark=dark, **sliders)


def _reaching(result: Pull, name: str, place: str) -> list[str]:
    """Terms of a student that pull at a place at one of the epochs."""
    if place not in result.places[name]:
        return []
    at = result.places[name].index(place)
    return [
        term
        for t, term in enumerate(result.terms[name])
        if any(norms[t, at] > 0 for (n, _), norms in result.norm.items() if n == name)
    ]


def pull_arrows(
    result: PullArrows, *, by: str = "class", most: int = 80, title: str | None = None, dark: bool = False
) -> go.Figure:
    """Draw where each term would move the pictures, or the mean of each class.

    Args:
        result: from `kdlab.probes.pull_arrows`.
        by: "class": an arrow from the mean of each class; "picture": one from every picture.
        most: pictures with arrows, for "picture"; the others are shown as points.
        title: of the figure.
        dark: light lines on dark paper.

    >>> arrows = kdlab.probes.pull_arrows(kdlab.probes.pull(study, n=20), "KD")
    >>> fig = kdlab.plots.pull_arrows(arrows)
    >>> [trace.name for trace in fig.data if trace.name]
    ['all together', 'ce', 'kd']
    """
    import plotly.graph_objects as go

    if by not in ("class", "picture"):
        raise unknown_name("kind of arrows", by, ("class", "picture"))
    fig = go.Figure()
    shown = [theme.class_style(int(label)) for label in result.labels]
    fig.add_trace(
        go.Scatter(
            x=result.base[:, 0],
            y=result.base[:, 1],
            mode="markers",
            marker=dict(
                color=[color for color, _ in shown],
                symbol=[symbol for _, symbol in shown],
                size=7,
                opacity=0.5 if by == "class" else 0.8,
            ),
            text=[result.class_names[int(label)] for label in result.labels],
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
    )
    classes, means, moved = result.by_class()
    if by == "class":
        start, ends = means, moved
    else:
        place = np.linspace(0, len(result.base) - 1, min(most, len(result.base))).round().astype(int)
        start, ends = result.base[place], {term: arrows[place] for term, arrows in result.arrows.items()}
    longest = max(float(np.linalg.norm(arrows, axis=1).max()) for arrows in ends.values())
    span = float(np.ptp(result.base, axis=0).max())
    grown = _LONGEST * span / max(longest, 1e-300)
    ends = {  # those that do not reach the embedding have nothing to show
        term: arrows * grown
        for term, arrows in ends.items()
        if np.linalg.norm(arrows, axis=1).max() > 1e-6 * longest
    }
    looks = theme.styles([term for term in result.terms if term != TOTAL])
    looks[TOTAL] = theme.Style(theme.FAINT, "solid", "circle", 6)
    for term, arrows in sorted(ends.items(), key=lambda pair: pair[0] != TOTAL):  # the sum lies below
        look = looks[term]
        thin, head = (1, 11) if by == "class" else (2, 7)
        line = dict(color=look.color, dash=look.dash, width=look.width / thin)
        fig.add_trace(arrow_trace(start, start + arrows, line, head, term))
    if by == "class":
        for label, (x0, y0) in zip(classes, means, strict=True):
            fig.add_annotation(
                x=x0,
                y=y0,
                text=theme.shortened(result.class_names[int(label)]),
                showarrow=False,
                yshift=12,
                font=dict(size=13),
            )
    fig.update_xaxes(showticklabels=False, zeroline=False)
    fig.update_yaxes(showticklabels=False, zeroline=False, scaleanchor="x", scaleratio=1)
    return theme.apply(fig, summary=result.summary, title=title, height=560, dark=dark)


def arrow_trace(start: np.ndarray, ends: np.ndarray, line: dict[str, Any], head: float, name: str) -> Any:
    """Arrows as one trace.

    Args:
        start, ends: (n, 2).
        line: of plotly, with a color.
        head: length of the arrow heads in pixels.
        name: of the trace.
    """
    import plotly.graph_objects as go

    flat = np.stack([start, ends, np.full_like(ends, np.nan)], axis=1).reshape(-1, 2)
    return go.Scatter(
        x=flat[:, 0],
        y=flat[:, 1],
        name=name,
        mode="lines+markers",
        line=line,
        marker=dict(
            symbol="arrow",
            angleref="previous",
            size=np.tile([1, head, 1], len(start)),
            opacity=np.tile([0.0, 1.0, 0.0], len(start)),  # a head at the end alone
            line=dict(width=0),
            color=line["color"],
        ),
        hovertemplate=f"{name}<extra></extra>",
    )

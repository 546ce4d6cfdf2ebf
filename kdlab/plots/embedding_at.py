"""One moment of a map, as one looks at it closely: chosen networks, pictures, neighbours, pulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.plots import theme
from kdlab.plots.point_looks import PointLooks
from kdlab.plots.points import grid, hover_texts, pair_ends
from kdlab.plots.pull import arrow_trace
from kdlab.probes.arrows import PullArrows
from kdlab.probes.embedding import METHODS, Embedding
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.words import listed, percent

if TYPE_CHECKING:
    import plotly.graph_objects as go

_CELLS = {1: 560, 2: 420, 3: 350, 4: 265}  # pixels of a small plot with its title, by plots in a row
_LEGEND_HEIGHT = 64
_SHORT = 12  # letters of a name above a narrow plot
_FADED = 0.14  # opacity of pictures that are not selected
_MOST_ARROWS = 120  # of all terms together
_LEAST_PICTURES = 16  # that have arrows where there are more
_LONGEST = 0.12  # of nearly the longest arrow, in widths of a plot
_OUTLIERS = 0.01  # share of a network's points that may lie outside of the plots of a linear map
_WIDEST = 2.5  # widths of the teacher's cloud

Frame = tuple[float, float, float]  # centre x, y and half the side of every plot


def frame_of(result: Embedding) -> Frame:
    """The same part of the plane for all networks and epochs, so that only points move.

    A linear map may have points far outside, as of networks before training: there nearly all points of
    each network are shown, as far as that is no more than a few times the teacher's cloud.
    """
    points = result.coordinates.reshape(-1, *result.coordinates.shape[2:])
    points = points[np.isfinite(points[:, 0, 0])]
    home = result.coordinates[-1, 0] if result.teachers else points.reshape(-1, 2)
    flat = points.reshape(-1, 2) if result.method == "tsne" else home
    centre = (flat.max(axis=0) + flat.min(axis=0)) / 2
    reach = np.abs(points - centre).max(axis=2)
    if result.method == "tsne":
        half = float(reach.max())
    else:
        own = float(np.abs(home - centre).max())
        half = min(max(own, float(np.quantile(reach, 1 - _OUTLIERS, axis=1).max())), _WIDEST * own)
    return float(centre[0]), float(centre[1]), 1.06 * half or 1.0


def embedding_at(
    result: Embedding,
    epoch: int = -1,
    *,
    networks: Sequence[str] | None = None,
    color: str = "class",
    classes: Sequence[int] = (),
    overlay: bool = False,
    lines: bool = False,
    selected: Sequence[int] | None = None,
    sample: int | None = None,
    neighbours: int = 0,
    arrows: Mapping[str, PullArrows] | None = None,
    term: str | None = None,
    frame: Frame | None = None,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw a map at one epoch. The axes are those of all epochs; `layout.meta["clouds"]` names the
    networks of the first traces, whose points are the pictures in the order of the result, and "pulls"
    is what the arrows show, in words.

    Args:
        result: from `kdlab.probes.embed`.
        epoch: one of the result; negative counts from the last.
        networks: that are shown; all if not given.
        color: "class", "coarse", "correct", "agreement" (the teacher's answer or another), "quadrant" (is
            the teacher right, is the student), "confidence", "network", or a factor of the pictures.
        classes: labels that are coloured, the others are grey; the first ten of more than ten if not given.
        overlay: all networks in one plot, told apart by markers, the teacher's are hollow; else a plot each.
        lines: in an overlay, join each student's point to the teacher's of the same picture.
        selected: places of pictures in the result; the others fade. None fades nothing.
        sample: place of a picture that is ringed everywhere.
        neighbours: join the sample to so many of its nearest in each network's own features.
        arrows: student -> where its terms pull (`kdlab.probes.pull_arrows(..., onto=result)`), drawn from
            the selected pictures, at most 120 of all terms together (of 16 pictures at least).
        term: whose arrows; all that each student has if not given.
        frame: centre x, y and half the side of every plot; `frame_of(result)` if not given.
        title: of the figure.
        dark: light points on dark paper.

    Raises:
        ConfigError: something that this map does not know.

    >>> space = kdlab.probes.embed(study, "pca", epochs="last", n=20)
    >>> fig = kdlab.plots.embedding_at(space, networks=["KD"], selected=[0, 1])
    >>> fig.layout.meta["clouds"], len(fig.data[0].x)
    (['KD'], 20)
    """
    e = _place_of(result, epoch)
    shown = _places(result, networks)
    looks = PointLooks(result, e, shown, color, tuple(classes), overlay)
    count = len(result.labels)
    for place in (*(selected or ()), *(() if sample is None else (sample,))):
        if not 0 <= place < count:
            raise ConfigError(f"The map shows {count} pictures; there is no place {place}.")
    columns = 1 if overlay else 3 if len(shown) in (5, 6) else min(len(shown), 4)
    rows = 1 if overlay else -(-len(shown) // columns)
    height = _CELLS[columns]
    axes = {n: "" if overlay or place == 0 else str(place + 1) for place, n in enumerate(shown)}
    size = 7.0 if columns < 3 else 6.0 if columns == 3 else 5.0
    data = [_cloud(looks, n, axes[n], size, selected) for n in shown]
    below: list[Any] = []  # traces that nothing can be selected in
    if overlay and lines and result.teachers:
        below += [_lines(looks, n) for n in shown if result.networks[n] not in result.teachers]
    if sample is not None:
        below += [t for n in shown for t in _ring(looks, n, axes[n], sample, neighbours)]
    x, y, half = frame or frame_of(result)
    pulls = _pulls(arrows or {}, term, result, shown, selected)
    below += [t for name, own in pulls.items() for t in _arrows(own, axes[result.networks.index(name)], half)]
    data += below
    for text, marker in looks.legend():
        data.append(
            dict(type="scatter", mode="markers", x=[None], y=[None], name=text, marker={**marker, "size": 9})
        )
    bare = dict(showgrid=False, zeroline=False, showticklabels=False, ticks="", showline=False)
    layout: dict[str, Any] = {}
    notes, frames = [], []
    for place, (across, up) in enumerate(grid(1 if overlay else len(shown), columns, height)):
        me = "" if place == 0 else str(place + 1)
        same = {} if place == 0 else {"matches": "x"}
        layout[f"xaxis{me}"] = bare | dict(domain=across, anchor=f"y{me}", range=[x - half, x + half]) | same
        # a square, so that distances may be compared; at the left, below its name
        layout[f"xaxis{me}"] |= dict(constrain="domain", constraintoward="left")
        same = {"scaleanchor": "x"} if place == 0 else {"matches": "y"}
        layout[f"yaxis{me}"] = bare | dict(domain=up, anchor=f"x{me}", range=[y - half, y + half]) | same
        layout[f"yaxis{me}"] |= dict(constrain="domain", constraintoward="top")
        frames.append(_frame(me))
        text = (
            _at_words(result, e)
            if overlay
            else _heading(result, e, shown[place], _SHORT if columns > 2 else 26)
        )
        notes.append(_note(text, across[0], up[1], "bottom"))
        if not overlay and not np.isfinite(result.coordinates[e, shown[place], 0, 0]):
            middle = sum(across) / 2
            notes.append(_note(f"not there {_at_words(result, e)}", middle, sum(up) / 2, "middle", "center"))
    if color == "confidence":
        bar = dict(orientation="h", x=0, xanchor="left", y=-0.01, yanchor="top", len=0.5, thickness=10)
        bar |= dict(title=dict(text="confidence", side="top"), outlinewidth=0, tickformat=".0%")
        layout["coloraxis"] = dict(colorscale=theme.SEQUENTIAL, cmin=0.0, cmax=1.0, colorbar=bar)
    about_pulls = _pulls_told(pulls, term)
    return theme.apply(
        {"data": data, "layout": {**layout, "annotations": notes, "shapes": frames}},
        summary=" ".join(filter(None, [told(result, e, shown), about_pulls])),
        title=title,
        height=height * rows + _LEGEND_HEIGHT + (36 if title else 0),
        hovermode="closest",
        dark=dark,
        meta={"clouds": [result.networks[n] for n in shown], "pulls": about_pulls},
        margin=dict(l=4, r=4, t=40 if title else 4, b=_LEGEND_HEIGHT - 4),
        legend_y=-0.01,
        legend_yanchor="top",
        legend_itemwidth=30,
        legend_itemclick=False,
        legend_itemdoubleclick=False,
    )


def _place_of(result: Embedding, epoch: int) -> int:
    if epoch in result.epochs and epoch != AS_GIVEN:
        return result.epochs.index(epoch)
    if not -len(result.epochs) <= epoch < 0:
        raise ConfigError(f"The map has no epoch {epoch}; it has {', '.join(map(str, result.epochs))}.")
    return epoch % len(result.epochs)


def _places(result: Embedding, networks: Sequence[str] | None) -> tuple[int, ...]:
    for name in networks or ():
        if name not in result.networks:
            raise unknown_name("network of the map", name, result.networks)
    return tuple(n for n, name in enumerate(result.networks) if networks is None or name in networks)


def _note(text: str, x: float, y: float, anchor: str, across: str = "left") -> dict[str, Any]:
    place = dict(x=x, y=y, xref="paper", yref="paper", xanchor=across, yanchor=anchor, showarrow=False)
    return place | dict(text=text, font=dict(size=13, color=theme.INK if across == "left" else theme.MUTED))


def _frame(axis: str) -> dict[str, Any]:
    """A line around a plot; plotly's own is lost where traces lie in several layers."""
    where = dict(xref=f"x{axis} domain", yref=f"y{axis} domain", x0=0, x1=1, y0=0, y1=1)
    return dict(type="rect", line=dict(color=theme.FAINT, width=1), layer="below", **where)


def _heading(result: Embedding, e: int, n: int, most: int) -> str:
    """Name of a network in so many letters, and how many of these pictures it classifies right."""
    name, said = result.networks[n], result.predicted[e, n]
    text = f"<b>{escape(theme.shortened(name, most))}</b>" + (" teacher" if name in result.teachers else "")
    if (said < 0).any():
        return text
    right = percent(float((said == result.labels).mean()), 0)
    return f"{text} {right}" + (" right" if most > _SHORT else "")


def _at_words(result: Embedding, e: int) -> str:
    epoch = result.epochs[e]
    return "" if epoch == AS_GIVEN else "before training" if epoch == 0 else f"after epoch {epoch}"


# ---- traces ------------------------------------------------------------------------------------------------


def _cloud(
    looks: PointLooks, n: int, axis: str, size: float, selected: Sequence[int] | None
) -> dict[str, Any]:
    result = looks.result
    at = result.coordinates[looks.e, n]
    trace = dict(
        type="scatter",
        mode="markers",
        x=at[:, 0],
        y=at[:, 1],
        xaxis=f"x{axis}",
        yaxis=f"y{axis}",
        name=result.networks[n],
        showlegend=False,
        marker=looks.marker(n, size),
        text=hover_texts(result, looks.e, n),
        hovertemplate=f"{escape(result.networks[n])}: %{{text}}<extra></extra>",
        unselected=dict(marker=dict(opacity=_FADED)),
        selected=dict(marker=dict(opacity=1.0)),
    )
    return trace if selected is None else trace | dict(selectedpoints=list(selected))


def _lines(looks: PointLooks, n: int) -> dict[str, Any]:
    """Faint lines from the teacher's points to those of network n."""
    ends = pair_ends(looks.result, looks.e, n)
    own = theme.styles(looks.result.students, looks.result.teachers)[looks.result.networks[n]]
    line = dict(color=theme.faint(own.color if looks.color == "network" else theme.MUTED, 0.2), width=1)
    return _quiet(ends, mode="lines", line=line, zorder=-1)


def _ring(looks: PointLooks, n: int, axis: str, sample: int, neighbours: int) -> list[dict[str, Any]]:
    """A ring around the sample of network n, and lines to its neighbours."""
    result, e = looks.result, looks.e
    at = result.coordinates[e, n]
    ring = dict(symbol="circle-open", size=16, color=theme.INK, line=dict(width=2.4))
    out = [_quiet(at[[sample]], axis, mode="markers", marker=ring, zorder=2)]
    if neighbours and result.nearest is not None:
        near = result.nearest[e, n, sample, :neighbours]
        near = near[near >= 0]
        ends = np.full((len(near), 3, 2), np.nan)
        ends[:, 0], ends[:, 1] = at[sample], at[near]
        line = dict(color=theme.INK, width=1)
        out.append(_quiet(ends.reshape(-1, 2), axis, mode="lines", line=line, zorder=1))
        around = dict(symbol="circle-open", size=11, color=theme.INK, line=dict(width=1.2))
        out.append(_quiet(at[near], axis, mode="markers", marker=around, zorder=2))
    return out


def _quiet(points: np.ndarray, axis: str = "", **trace: Any) -> dict[str, Any]:
    """A trace that the pointer does not notice."""
    look: dict[str, Any] = dict(type="scatter", hoverinfo="skip", showlegend=False)
    if trace["mode"] == "markers":
        look["unselected"] = dict(marker=dict(opacity=1.0))
    return look | dict(x=points[:, 0], y=points[:, 1], xaxis=f"x{axis}", yaxis=f"y{axis}") | trace


def _pulls(
    arrows: Mapping[str, PullArrows],
    term: str | None,
    result: Embedding,
    shown: Sequence[int],
    selected: Sequence[int] | None,
) -> dict[str, dict[str, Any]]:
    """Student -> what is drawn of its pulls: the arrows, the terms, and the pictures they start from."""
    names = [result.networks[n] for n in shown]
    wanted = None if not selected else set(result.index[list(selected)].tolist())
    out: dict[str, dict[str, Any]] = {}
    for name, own in arrows.items():
        terms = [t for t in own.terms if t in own.arrows and (term is None or t == term)]
        if name not in names or not terms:
            continue
        rows = np.array(
            [i for i, index in enumerate(own.index) if wanted is None or int(index) in wanted], int
        )
        most = max(_MOST_ARROWS // len(terms), _LEAST_PICTURES)
        if len(rows) > most:
            rows = rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
        if len(rows):
            out[name] = {"own": own, "terms": terms, "rows": rows}
    every = list(dict.fromkeys(t for own in out.values() for t in own["terms"]))
    for name in out:
        out[name] |= {"every": every, "first": name == next(iter(out))}
    return out


def _arrows(drawn: Mapping[str, Any], axis: str, half: float) -> list[Any]:
    """Arrows of a student's terms on one scale; ink where there is one term, else a style for each."""
    own, rows = drawn["own"], drawn["rows"]
    looks = theme.styles(drawn["every"])
    lengths = [np.linalg.norm(own.arrows[t][rows], axis=1) for t in drawn["terms"]]
    longest = max(float(np.quantile(one, 0.95)) for one in lengths)
    if longest == 0:
        return []
    grown = 2 * half * _LONGEST / longest
    out = []
    for term in drawn["terms"]:
        alone = len(drawn["every"]) == 1
        line = dict(color=theme.INK, width=1.2) if alone else {**looks[term].line(), "width": 1.3}
        start = own.base[rows]
        trace = arrow_trace(start, start + grown * own.arrows[term][rows], line, 7, f"pull of {term}")
        trace.update(
            xaxis=f"x{axis}", yaxis=f"y{axis}", hoverinfo="skip", hovertemplate=None, zorder=1,
            showlegend=drawn["first"], legendgroup=term, selectedpoints=None,
        )  # fmt: skip
        out.append(trace.to_plotly_json())
    return out


# ---- words -------------------------------------------------------------------------------------------------


def told(result: Embedding, e: int, shown: Sequence[int]) -> str:
    """What one sees at one epoch, with numbers.

    Args:
        e: place of the epoch. shown: places of the networks.
    """

    def each(values: np.ndarray, which: Sequence[int] = shown) -> str:
        pairs = [(result.networks[n], float(values[e, n])) for n in which]
        return listed([f"{name} {value:.2f}" for name, value in pairs if np.isfinite(value)])

    students = [n for n in shown if result.networks[n] not in result.teachers]
    when = _at_words(result, e)
    seed = f", seed {result.seed}" if when else ""
    said = [f"{METHODS[result.method]} of {len(result.labels)} test pictures{' ' * bool(when)}{when}{seed}."]
    if purity := each(result.purity):
        said.append(f"Of a picture's {result.k} nearest in the features so many are of its class: {purity}.")
    if result.teachers and (gaps := each(result.residual, students)):
        said.append(f"Distance to {result.teachers[0]} (0: equal, 1: as far as its mean): {gaps}.")
    if moved := each(result.displacement, students):
        said.append(f"Moved since the epoch before, in radii of the map: {moved}.")
    trust = float(result.trustworthiness[e])
    if result.method == "tsne":
        price = f"KL divergence {result.divergence[e]:.2f}"
        if result.pull > 0 and result.divergence_free is not None:
            price += f" ({result.divergence_free[e]:.2f} without calming)"
        said.append(
            f"Trustworthiness of the map {trust:.3f}, {price}; how far apart groups lie and how large they "
            "are means little in t-SNE."
        )
    elif np.isfinite(trust):
        said.append(f"Trustworthiness of the map {trust:.3f}: a plane hides the other directions.")
    return " ".join(said)


def _pulls_told(pulls: Mapping[str, Mapping[str, Any]], term: str | None) -> str:
    if not pulls:
        return ""
    exact = [
        f"{name} {percent(drawn['own'].visible[drawn['terms'][-1]], 0)}"
        for name, drawn in pulls.items()
        if drawn["own"].exact
    ]
    rough = [name for name, drawn in pulls.items() if not drawn["own"].exact]
    count = max(len(drawn["rows"]) for drawn in pulls.values())
    said = f"Arrows: where {'each term' if term is None else term} would move {count} of the pictures; "
    said += "lengths may be compared within a plot."
    if exact:
        said += f" They are exact; of the gradient the plane shows: {listed(exact)}."
    if rough:
        said += f" Of {listed(rough)} they are interpolated between neighbours: directions are rough."
    return said

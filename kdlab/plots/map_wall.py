"""A wall of maps: one picture at all stages of all networks, or several pictures at one stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.plots import theme
from kdlab.plots.map_reading import MapReading, Maps
from kdlab.plots.pictures import muted, png
from kdlab.plots.theme import shortened
from kdlab.probes.attention import AttentionMaps

if TYPE_CHECKING:
    import plotly.graph_objects as go

_SIDE, _HEAD, _LINE = 124, 42, 15  # pixels: names at the left, names above, a line of text
_ROOM = 760  # pixels of the narrowest page on which all cells must be readable
_LARGEST, _GAP = 150, 0.07  # of a cell, in pixels; between two cells, in cells
_TALLEST = 800  # pixels of all cells below each other
_LETTER = 6.2  # pixels, of the text below a cell
_FINEST = 48  # cells of a map a side that are drawn


@dataclass(frozen=True)
class _Cell:
    """One place of the wall: a picture alone where `network` is empty."""

    place: int
    network: str = ""
    depth: int = -1
    foot: tuple[str, ...] = ()


def map_wall(
    result: Maps,
    *,
    layout: str = "picture",
    sample: int = 0,
    samples: Sequence[int] | None = None,
    stage: int = -1,
    epoch: int | None = None,
    show: str = "maps",
    opacity: float = 0.8,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw maps over their pictures, teacher and students on one colour scale, the picture itself first.

    Every map is in units of its own root mean square, so that 1 is what an even map has. The scale is
    that of all pictures in the result. Under a student's map stands its agreement with the teacher's: the
    rank correlation ρ (1 is equal order, 0 is chance), beside it, where it was measured, that of an
    untrained network or of the student before training.

    Args:
        result: from `kdlab.probes.attention_maps`, `stage_attributions` or `attributions`.
        layout: "picture" (one picture, networks down, stages across; where the method looks at pixels,
            networks across) or "pictures" (pictures down, networks across, at one stage).
        sample: the place of the picture, for "picture".
        samples: the places of the pictures, for "pictures"; the first four if not given.
        stage: for "pictures": -1 for the deepest of each network, -2 for the one before, and so on.
        epoch: one of the result's; the last if not given.
        show: "maps", or "difference": each student minus the teacher, the students alone.
        opacity: of the maps, 0..1; below 1 the picture, in grey, shines through.
        title: of the figure.
        dark: light text on dark paper.

    Raises:
        ConfigError: no such epoch, picture or stage, an unknown option, or a difference without a teacher.

    >>> fig = kdlab.plots.map_wall(kdlab.probes.attention_maps(study, [0, 1]), sample=1)
    >>> [note.text for note in fig.layout.annotations][:4]
    ['picture', 'layer1', 'layer2', 'layer3']
    """

    _check(layout, show, opacity)
    read = MapReading.of(result, epoch)
    names = read.networks
    if show == "difference":
        names = read.students if read.about.teachers else ()
        if not names:
            raise ConfigError("A difference needs a teacher and a student; give one: teacher=...")
    if read.about.images is None:
        raise ConfigError("There are no pictures to show; give images=... or data=... to the probe.")
    by_network = layout == "picture" and read.by_stage
    columns = 1 + (len(read.depths) if by_network else len(names))
    tallest = max(_TALLEST / len(names), 84) if by_network else _LARGEST
    cell = min(_LARGEST, tallest, (_ROOM - _SIDE) / (columns * (1 + _GAP)))
    letters = int(cell / _LETTER)
    if by_network:
        place = read.places([sample], 1)[0]
        heads = ["picture", *(_stage_name(read, depth) for depth in read.depths)]
        sides = [_network(read, name, place) for name in names]
        rows = [_row_of_network(read, name, place, letters) for name in names]
    else:
        if stage not in read.depths:
            raise ConfigError(f"stage must be one of {', '.join(map(str, read.depths))}, not {stage!r}.")
        places = read.places([sample] if layout == "picture" else samples, 4)
        heads = ["picture", *(_head(read, name, show, letters) for name in names)]
        sides = [_picture_name(read, place) for place in places]
        rows = [_row_of_picture(read, names, place, stage, letters) for place in places]
    drawn = _values(read, rows, show)
    top = max(float(np.quantile(np.abs(np.concatenate([v.ravel() for v in drawn.values()])), 0.998)), 1e-9)
    signed = show == "difference" or read.signed()
    tall = read.about.images.shape[2] / read.about.images.shape[3]
    lines = max(len(one.foot) for row in rows for one in row)
    pitch = tall + (lines * _LINE + 12) / cell
    maps: list[dict[str, Any]] = []
    notes = [
        _note(c * (1 + _GAP) + 0.5, 0.03, text, yanchor="bottom", size=13) for c, text in enumerate(heads)
    ]
    backs: list[dict[str, Any]] = []
    for r, row in enumerate(rows):
        y = -r * pitch
        notes.append(_note(-0.06, y - tall / 2, sides[r], xanchor="right", align="right", size=13))
        for c, one in enumerate(row):
            x = c * (1 + _GAP)
            image = read.about.images[one.place]
            back = dict(x=x, y=y, sizex=1, sizey=tall, xref="x", yref="y", xanchor="left", yanchor="top")
            back |= dict(sizing="stretch", layer="below")
            z = drawn.get((one.network, one.depth, one.place))
            if not one.network:
                backs.append(back | {"source": png(image)})
            elif z is None:
                notes.append(_note(x + 0.5, y - tall / 2, "no such<br>stage", color=theme.MUTED))
            else:
                if opacity < 1:
                    backs.append(back | {"source": png(muted(image))})
                maps.append(_heatmap(read, one, z, x, y, tall, opacity))
                foot = "<br>".join(one.foot)
                notes.append(_note(x + 0.5, y - tall, foot, yanchor="top", yshift=-1, size=11))
    bare = dict(visible=False, constrain="domain", fixedrange=True)
    right, low = columns * (1 + _GAP), -len(rows) * pitch
    drawn_on: dict[str, Any] = dict(
        xaxis=bare | dict(range=[-_SIDE / cell, right], constraintoward="left"),
        yaxis=bare | dict(range=[low, _HEAD / cell], scaleanchor="x", constraintoward="top"),
        annotations=[note for note in notes if note["text"]],
        images=backs,
        coloraxis=dict(
            colorscale=[list(stop) for stop in theme.DIVERGING] if signed else theme.SEQUENTIAL,
            cmin=-top if signed else 0,
            cmax=top,
            colorbar=_colorbar(read, show),
        ),
    )
    head, bottom = 8 + (34 if title else 0), 66
    return theme.apply(
        {"data": maps, "layout": drawn_on},
        summary=result.summary,
        title=title,
        height=int(head + bottom + _HEAD - low * cell),
        legend=False,
        dark=dark,
        hovermode="closest",
        margin=dict(t=head, l=8, r=8, b=bottom),
    )


def _check(layout: str, show: str, opacity: float) -> None:
    for value, known, what in (
        (layout, ("picture", "pictures"), "layout"),
        (show, ("maps", "difference"), "value of show"),
    ):
        if value not in known:
            raise unknown_name(what, value, known)
    if not 0 <= opacity <= 1:
        raise ConfigError(f"opacity lies between 0 and 1, not {opacity!r}.")


def _row_of_network(read: MapReading, name: str, place: int, letters: int) -> list[_Cell]:
    """The picture, then a network's map at every depth."""
    cells = [_Cell(place)]
    for depth in read.depths:
        cells.append(_Cell(place, name, depth, _told(read, name, depth, place, letters)))
    return cells


def _row_of_picture(
    read: MapReading, names: Sequence[str], place: int, depth: int, letters: int
) -> list[_Cell]:
    """The picture, then every network's map at one depth, with its answer."""
    cells = [_Cell(place)]
    for name in names:
        answer = _answer(read, name, place, letters - 2)
        foot = (answer, *_told(read, name, depth, place, letters))
        cells.append(_Cell(place, name, depth, tuple(filter(None, foot))))
    return cells


def _told(read: MapReading, name: str, depth: int, place: int, letters: int) -> tuple[str, ...]:
    """Agreement with the teacher as lines of so many letters; what does not fit is left out."""
    if read.stage(name, depth) is None:
        return ()
    lines = read.told(name, depth, place)
    if sum(len(line.replace("−", "")) + 1 for line in lines[:2]) + 2 <= letters:  # with room for a minus
        lines = [", ".join(lines[:2]), *lines[2:]]
    return tuple(line for line in lines if len(line) <= letters)


def _values(read: MapReading, rows: Sequence[Sequence[_Cell]], show: str) -> dict[Any, np.ndarray]:
    """(network, depth, place) -> (h, w) what is drawn."""
    from kdlab.probes.agreement import resized

    cells = [
        one for row in rows for one in row if one.network and read.stage(one.network, one.depth) is not None
    ]
    tables: dict[tuple[str, int], np.ndarray] = {}
    for key in dict.fromkeys((one.network, one.depth) for one in cells):
        table = read.maps(*key) if show == "maps" else read.difference(*key)
        size = (min(table.shape[1], _FINEST), min(table.shape[2], _FINEST))
        tables[key] = resized(table, size)
    return {(one.network, one.depth, one.place): tables[one.network, one.depth][one.place] for one in cells}


def _heatmap(
    read: MapReading, one: _Cell, z: np.ndarray, x: float, y: float, tall: float, opacity: float
) -> dict[str, Any]:
    height, width = z.shape
    stage = read.stage(one.network, one.depth)
    where = f"{one.network}, {stage}" if stage else one.network
    return dict(
        type="heatmap",
        z=np.round(z, 3),
        x0=x + 0.5 / width,
        dx=1 / width,
        y0=y - 0.5 * tall / height,
        dy=-tall / height,
        coloraxis="coloraxis",
        opacity=opacity,
        meta={"place": one.place},
        hovertemplate=f"{where}: %{{z:.2f}}<extra></extra>",
    )


def _stage_name(read: MapReading, depth: int) -> str:
    """Of the networks that have so many stages, as the first calls it."""
    return next(stage for name in read.networks if (stage := read.stage(name, depth)) is not None)


def _head(read: MapReading, name: str, show: str, letters: int) -> str:
    below = "(teacher)" if name in read.about.teachers else "− teacher" if show == "difference" else " "
    return f"<b>{shortened(name, letters - 2)}</b><br>{below}"


def _network(read: MapReading, name: str, place: int) -> str:
    role = "<br>(teacher)" if name in read.about.teachers else ""
    answer = _answer(read, name, place, 14)
    return f"<b>{shortened(name, 15)}</b>{role}" + (f"<br>{answer}" if answer else "")


def _answer(read: MapReading, name: str, place: int, letters: int) -> str:
    """What a network says of a picture, and whether it is right."""
    said = read.predicted(name)
    if said is None or said[place] < 0:
        return ""
    mark = "✓" if said[place] == read.about.labels[place] else "✗"
    return f"{mark} {shortened(read.about.class_names[int(said[place])], letters)}"


def _picture_name(read: MapReading, place: int) -> str:
    """The true class of a picture, and the one that is explained."""
    about = read.about
    truth = shortened(about.class_names[int(about.labels[place])], 15)
    if isinstance(about, AttentionMaps) or about.method == "attention":
        return f"<b>{truth}</b>"
    asked = int(about.asked[place])
    if asked == about.labels[place]:
        return f"<b>{truth}</b><br>(explained)"
    return f"<b>{truth}</b><br>explained:<br>{shortened(about.class_names[asked], 15)}"


def _colorbar(read: MapReading, show: str) -> dict[str, Any]:
    """Below the wall, where the wall begins."""
    what = "attention" if isinstance(read.about, AttentionMaps) else "evidence"
    unit = "1 = as in an even map" if isinstance(read.about, AttentionMaps) else "1 = root mean square"
    text = f"student − teacher ({unit})" if show == "difference" else f"{what} ({unit})"
    return dict(
        orientation="h",
        lenmode="pixels",
        len=300,
        thickness=12,
        x=0,
        xanchor="left",
        y=0,
        yanchor="top",
        title=dict(text=text, font=dict(size=12), side="top"),
        tickfont=dict(size=12),
    )


def _note(x: float, y: float, text: str, **more: Any) -> dict[str, Any]:
    font = dict(size=more.pop("size", 12), color=more.pop("color", theme.INK))
    place = {"xanchor": "center", "yanchor": "middle", "xref": "x", "yref": "y", **more}
    return dict(x=x, y=y, text=text, showarrow=False, font=font, **place)

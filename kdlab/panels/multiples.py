"""The figure of the live embedding: one small square plot per network, all with the same axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdlab.panels import looks
from kdlab.panels.live import LiveFigure
from kdlab.plots.points import grid

MOST_COLUMNS = 4
ROW_HEIGHT = 250
_LEGEND_HEIGHT = 60
_NOTHING = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Cloud:
    """What one small plot shows: (n, 2) points, (n,) texts for the pointer, and a note for its title."""

    points: np.ndarray
    hover: np.ndarray
    note: str


class SmallMultiples:
    """A `LiveFigure` of clouds that share one frame.

    Args:
        titles: of the plots, in order; may contain plotly's markup.
        names: plain names for the pointer.
        class_names: for the legend.

    Attributes:
        figure: to be placed in a panel.
    """

    def __init__(self, titles: Sequence[str], names: Sequence[str], class_names: Sequence[str]) -> None:
        self._titles, self._names, self._class_names = list(titles), list(names), list(class_names)
        self._limit, self._dark = 0.0, False
        self._labels = _NOTHING
        self._places = list(range(len(self._names)))  # of the clouds among the traces
        self._drawn = 0  # clouds that have their colours
        legend = [_legend_entry(*entry) for entry in looks.class_legend(self._class_names)]
        clouds = [self._cloud(number) for number in self._places]
        self.figure = LiveFigure([*clouds, *legend], self._layout())

    def extend(self, titles: Sequence[str], names: Sequence[str]) -> None:
        """Plots for networks that have come; the others make room."""
        first = len(self._names)
        self._titles, self._names = [*self._titles, *titles], [*self._names, *names]
        layout = self._layout()
        titles = layout.pop("annotations")
        with self.figure.drawing() as figure:
            figure.update_layout(layout)
            figure.layout.annotations = titles
            self._places += range(len(figure.data), len(figure.data) + len(names))
            figure.add_traces([self._cloud(number) for number in range(first, len(self._names))])
        self._limit = 0.0  # the new axes have no range yet

    def _cloud(self, number: int) -> dict[str, Any]:
        """The empty trace of plot `number`."""
        name = self._names[number]
        return dict(
            type="scatter",
            mode="markers",
            x=_NOTHING,
            y=_NOTHING,
            xaxis=f"x{_axis(number)}",
            yaxis=f"y{_axis(number)}",
            name=name,
            marker=dict(size=6, line=dict(width=0)),
            showlegend=False,
            hovertemplate=f"{name}<br>%{{customdata}}<extra></extra>",
        )

    def _layout(self) -> dict[str, Any]:
        count = len(self._titles)
        columns = 3 if count in (5, 6) else min(count, MOST_COLUMNS)
        rows = -(-count // columns)
        height = ROW_HEIGHT * rows
        legend = dict(orientation="h", x=0, y=-0.01, yanchor="top", itemclick=False, itemdoubleclick=False)
        layout = looks.layout() | dict(
            height=height + _LEGEND_HEIGHT, margin=dict(l=4, r=4, t=6, b=_LEGEND_HEIGHT - 6), legend=legend
        )
        frame: dict[str, Any] = dict(
            showticklabels=False, zeroline=False, showgrid=False, showline=True, mirror=True
        )
        frame |= dict(linecolor=looks.FRAME, range=[-1, 1], fixedrange=True)
        titles = []
        places = grid(count, columns, ROW_HEIGHT)
        for number, (title, (across, up)) in enumerate(zip(self._titles, places, strict=True)):
            me = _axis(number)
            layout[f"xaxis{me}"] = frame | dict(domain=across, anchor=f"y{me}")
            # one unit is as long upwards as sideways: distances may be compared
            layout[f"yaxis{me}"] = frame | dict(domain=up, anchor=f"x{me}", scaleanchor=f"x{me}")
            place = dict(x=across[0], y=up[1], xref="paper", yref="paper", xanchor="left", yanchor="bottom")
            titles.append(place | dict(text=title, showarrow=False, font=dict(size=13)))
        return layout | dict(annotations=titles)

    def draw(self, clouds: Sequence[Cloud], labels: np.ndarray, limit: float, dark: bool) -> None:
        """Show one cloud in each plot.

        Args:
            clouds: in the order of the titles; one without points leaves its plot empty.
            labels: (n,) class of each point, the same in all plots.
            limit: the plots show at least -limit..limit in both directions.
            dark: whether the paper is.
        """
        recolour = dark != self._dark or len(self._labels) != len(labels) or self._drawn != len(clouds)
        colours, symbols = looks.class_marks(labels, dark)
        with self.figure.drawing() as figure:
            for number, cloud in enumerate(clouds):
                trace, me = figure.data[self._places[number]], _axis(number)
                trace.update(x=cloud.points[:, 0], y=cloud.points[:, 1], customdata=cloud.hover)
                if recolour:
                    trace.marker.update(color=colours, symbol=symbols)
                if limit != self._limit:
                    figure.layout[f"xaxis{me}"].range = [-limit, limit]
                    figure.layout[f"yaxis{me}"].range = [-limit, limit]
                figure.layout.annotations[number].text = f"{self._titles[number]} {cloud.note}"
            if recolour:
                entries = [t for n, t in enumerate(figure.data) if n not in self._places]
                for trace, entry in zip(entries, looks.class_legend(self._class_names)):
                    trace.marker.color = looks.on_paper(entry[1], dark)
        self._labels, self._limit, self._dark, self._drawn = labels, limit, dark, len(clouds)


def _legend_entry(name: str, color: str, symbol: str) -> dict[str, Any]:
    marker = dict(color=color, symbol=symbol, size=8)
    return dict(type="scatter", mode="markers", x=[None], y=[None], name=name, marker=marker)


def _axis(number: int) -> str:
    """Plotly's suffix of the axes of plot `number` (from 0)."""
    return "" if number == 0 else str(number + 1)

"""Live curves: the loss (or one term of it) of every student by step, and validation accuracy by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kdlab.panels import looks, wording
from kdlab.panels.desk_state import all_terms, loss_choices
from kdlab.panels.live import LiveFigure
from kdlab.panels.marks import MOST_LABELS, fork_points, joints, label, lines, shown_marks
from kdlab.panels.series import bin_width, thin
from kdlab.panels.standing import Standing, Standings
from kdlab.plots import theme

_RIGHT = 0.55  # where the right plot begins, as a share of the width
_LOG_TICKS = [float(f"{m}e{e}") for e in range(-6, 7) for m in (1, 3)]
_NOTHING, _NOWHERE = np.zeros(0, np.float32), np.full(1, np.nan, np.float32)
_RING = dict(symbol="circle", size=11, opacity=1, line=dict(color=looks.NEUTRAL, width=2))
_RIGHT_PLOT: dict[str, Any] = dict(xaxis="x2", yaxis="y2")


class CurvesView:
    """A figure with two plots: loss by step (left), validation accuracy by epoch (right).

    Students that come later get traces of their own; those that went are drawn fainter.

    Args:
        study: a `Study`.
        standings: tells who went; None makes its own.

    Attributes:
        figure: to be placed in a panel.
        key: which loss curve is shown (see `desk_state.loss_choices`).
        seed: whose run is shown; None for the latest.
        log: whether the loss axis is logarithmic.
        zoom: whether the accuracy axis shows only where the students are now.
        dark: whether the paper is.
    """

    def __init__(self, study: Any, standings: Standings | None = None) -> None:
        self.study = study
        self._standings = standings or Standings(study)
        self.key, self.log, self.zoom, self.dark = "loss", True, False, False
        self.seed: int | None = None
        self._styles = theme.of_study(study)
        self._places = {name: 2 * number for number, name in enumerate(study.names)}  # of the loss curve
        self._teacher_style = self._styles.get(study.teacher_name, theme.Style(theme.INK, "dash", "hexagon"))
        self._shown: tuple[Any, ...] = ()
        self._marks_shown: tuple[Any, ...] = ()
        self._looks_shown: tuple[Any, ...] = ()
        curves = [trace for name in self._places for trace in self._curves_of(name)]
        self._fixed = len(curves)  # where the traces begin that belong to no student
        self.figure = LiveFigure([*curves, *self._references()], self._layout())

    # ---- the empty figure --------------------------------------------------------------------------------

    def _curves_of(self, name: str) -> list[dict[str, Any]]:
        """A student's loss and accuracy curve."""
        style = self._styles[name]
        common: dict[str, Any] = dict(type="scatter", name=name, legendgroup=name, x=_NOTHING, y=_NOTHING)
        common["line"] = style.line()
        hover = f"{name}<br>step %{{x:.0f}}: %{{y:.4g}}<extra></extra>"
        loss = common | dict(mode="lines", showlegend=False, hovertemplate=hover)
        hover = f"{name}<br>epoch %{{x}}: %{{y:.1%}}<extra></extra>"
        marker = dict(symbol=style.symbol, size=7, maxdisplayed=25)
        return [loss, common | _RIGHT_PLOT | dict(mode="lines+markers", marker=marker, hovertemplate=hover)]

    def _references(self) -> list[dict[str, Any]]:
        """The teacher's line, chance, and the points where forks begin, in each plot."""
        last = dict(legendrank=2000)  # behind all students, also those still to come
        line = dict(type="scatter", mode="lines", x=_NOTHING, y=_NOTHING, hoverinfo="name", **last)
        teacher = dict(dash=self._teacher_style.dash, width=1.6)
        level = line | _RIGHT_PLOT
        fork: dict[str, Any] = dict(
            type="scatter", mode="lines+markers", name="forks", x=_NOTHING, y=_NOTHING
        )
        fork |= dict(showlegend=False, line=dict(color=looks.NEUTRAL, dash="dot", width=1))
        fork |= dict(hovertemplate="%{customdata}<extra></extra>", marker=_RING)
        return [
            {**level, "name": "teacher", "line": teacher, "visible": bool(self.study.teacher_name)},
            level | dict(name="chance", line=dict(color=looks.NEUTRAL, dash="dot", width=1.4)),
            fork,
            fork | _RIGHT_PLOT,
        ]

    def _layout(self) -> dict[str, Any]:
        axis = dict(showline=False, zeroline=False, gridcolor=looks.FRAME, automargin=True)
        steps = axis | dict(domain=[0.0, _RIGHT - 0.09], title="step", rangemode="tozero")
        end = min(self.study.epochs, 40) + 0.3
        epochs = axis | dict(domain=[_RIGHT, 1.0], title="epoch", anchor="y2", range=[0, end])
        return looks.layout() | dict(
            height=330,
            margin=dict(l=44, r=10, t=64, b=42),
            legend=dict(orientation="h", x=0, y=1.13, xanchor="left", yanchor="bottom"),
            xaxis=steps,
            yaxis=axis | dict(type="log", tickvals=_LOG_TICKS, tickformat="~g"),
            xaxis2=epochs,
            yaxis2=axis | dict(tickformat=".0%", range=[0, 1.02], anchor="x2"),
            annotations=[_heading("total loss", 0.0), _heading("validation accuracy", _RIGHT)],
            shapes=[],
        )

    # ---- drawing -----------------------------------------------------------------------------------------

    def paint(self, news: dict[str, Any]) -> None:
        """Draw what was recorded since the last frame; nothing if nothing was."""
        self._admit()
        standings = self._standings.of(self.seed)
        now = self._fingerprint(standings)
        if now == self._shown:
            return
        record, seed = self.study.record, self.seed
        last_step, last_epoch, mean_of = 0.0, 0.0, 1
        losses, accuracies = {}, {}
        with self.figure.drawing() as figure:
            for name, place in self._places.items():
                steps, values = record.series(name, self.key, seed)
                if len(steps):
                    last_step, mean_of = max(last_step, float(steps[-1])), max(mean_of, bin_width(len(steps)))
                losses[name] = x, y = thin(steps, values)
                figure.data[place].update(x=x, y=y)
                accuracies[name] = x, y = record.epoch_series(name, "val_accuracy", seed)
                # a point that is nowhere keeps a student without an accuracy in the legend
                figure.data[place + 1].update(x=x if len(x) else _NOWHERE, y=y if len(y) else _NOWHERE)
                last_epoch = max(last_epoch, float(x[-1]) if len(x) else 0.0)
            self._draw_references(figure)
            self._draw_forks(figure, losses, accuracies)
            self._draw_epochs(figure, last_epoch)
            self._draw_marks(figure, last_step, mean_of)
            self._draw_axis(figure)
            self._draw_accuracy_axis(figure, accuracies)
            self._draw_looks(figure, standings)
        self._shown = now

    def _admit(self) -> None:
        """Traces for students that have come; those of the others stay as they are."""
        new = [name for name in self.study.names if name not in self._places]
        if not new:
            return
        self._styles = theme.of_study(self.study)
        first = len(self.figure.fig.data)
        self.figure.extend([trace for name in new for trace in self._curves_of(name)])
        self._places |= {name: first + 2 * number for number, name in enumerate(new)}

    def _fingerprint(self, standings: Mapping[str, Standing]) -> tuple[Any, ...]:
        """Changes whenever there is something new to draw."""
        study, record = self.study, self.study.record
        run = record.run(self.seed)
        return (
            (self.key, self.seed, self.log, self.zoom, self.dark),
            tuple((name, len(record.series(name, "loss", self.seed)[0])) for name in self._places),
            (id(run), len(run.rows) if run else 0, len(record.marks())),
            (len(study.teachers), study.state),
            tuple(one.badge for one in standings.values()),
        )

    def _draw_references(self, figure: go.Figure) -> None:
        """The teacher's and the chance line, once they are known."""
        ends = np.asarray([0, self.study.epochs + 0.3], np.float32)
        teacher, chance = figure.data[self._fixed], figure.data[self._fixed + 1]
        if self.study.teachers and not len(teacher.x):
            value = self.study.teachers[0].val_accuracy
            name = f"teacher {self.study.teacher_name}, {wording.percent(value)}"
            teacher.update(x=ends, y=np.full(2, value, np.float32), name=name)
        if not len(chance.x):
            value = self.study.data.chance
            chance.update(x=ends, y=np.full(2, value, np.float32), name=f"chance, {wording.percent(value)}")

    def _draw_forks(
        self, figure: go.Figure, losses: Mapping[str, Any], accuracies: Mapping[str, Any]
    ) -> None:
        """A ring on the parent's curve where a fork left it; a dotted line leads to the fork's own."""
        per_epoch = max(self.study.steps_per_epoch, 1)
        for number, curves, scale in ((2, losses, 1), (3, accuracies, per_epoch)):
            points = fork_points(self.study, curves, scale)
            style = [self._styles[name].color for name, *_ in points for _ in range(3)]
            colours = [looks.on_paper(colour, self.dark) for colour in style]
            sizes = [size for _ in points for size in (11, 0, 0)]
            drawn = joints(points, curves)
            if not points and not len(figure.data[self._fixed + number].x):
                continue
            figure.data[self._fixed + number].update(**drawn, marker_color=colours, marker_size=sizes)

    def _draw_epochs(self, figure: go.Figure, done: float) -> None:
        """The whole way where it is short; otherwise the axis grows with what is done."""
        end = min(float(self.study.epochs), 40.0 * 2 ** max(0, math.ceil(math.log2(max(done, 1) / 40)))) + 0.3
        if figure.layout.xaxis2.range[1] != end:
            figure.layout.xaxis2.range = [0, end]

    def _draw_axis(self, figure: go.Figure) -> None:
        kind = "log" if self.log else "linear"
        if figure.layout.yaxis.type != kind:
            mode, start = ("array", "normal") if self.log else ("auto", "tozero")
            figure.layout.yaxis.update(type=kind, autorange=True, tickmode=mode, rangemode=start)

    def _draw_accuracy_axis(self, figure: go.Figure, accuracies: Mapping[str, Any]) -> None:
        """From 0 to 1, or, zoomed, from the lowest accuracy of the later epochs to the highest."""
        late = [y[len(y) // 2 :] for _, y in accuracies.values()]
        values = np.concatenate([*late, figure.data[self._fixed].y[:1]])
        low, high = 0.0, 1.0
        if self.zoom and len(values):
            low, high = float(values.min()), float(values.max())
        ends = [low - 0.1 * (high - low) * self.zoom, high + 0.02 + 0.05 * (high - low) * self.zoom]
        if list(figure.layout.yaxis2.range) != ends:
            figure.layout.yaxis2.range = ends

    def _draw_looks(self, figure: go.Figure, standings: Mapping[str, Standing]) -> None:
        """Colours for the paper; who went is fainter and says so in the legend."""
        wanted = (self.dark, tuple((name, standings[name].ended) for name in self._places))
        if self._looks_shown == wanted:
            return
        for name, place in self._places.items():
            colour = looks.on_paper(self._styles[name].color, self.dark)
            one = standings[name]
            how = {"dropped": " (dropped)", "failed": " (stopped)"}.get(one.kind, "")
            for trace in figure.data[place : place + 2]:
                trace.update(line_color=colour, marker_color=colour, opacity=0.55 if one.ended else 1.0)
            figure.data[place + 1].name = name + how
        figure.data[self._fixed].line.color = looks.on_paper(self._teacher_style.color, self.dark)
        self._looks_shown = wanted

    # ---- marks where something was commanded ---------------------------------------------------------------

    def _draw_marks(self, figure: go.Figure, last_step: float, mean_of: int) -> None:
        given = shown_marks(self.study, self.seed)
        left = [m["step"] < 0.6 * last_step for m in given]  # a label near the right end goes to the left
        key = (self.key, mean_of, tuple((m["step"], m["student"], m["text"]) for m in given), tuple(left))
        if key == self._marks_shown:
            return
        self._marks_shown = key
        choices = loss_choices(all_terms(self.study.methods))
        text = next((text for text, known in choices if known == self.key), self.key)
        text += f" (mean of {mean_of} steps)" if mean_of > 1 else ""
        headings = [_heading(text, 0.0), _heading("validation accuracy", _RIGHT)]
        named = list(zip(given, left))[-MOST_LABELS:]
        figure.layout.annotations = headings + [label(m, n, here) for n, (m, here) in enumerate(named)]
        figure.layout.shapes = [line for m in given for line in lines(m, self.study.steps_per_epoch)]


def _heading(text: str, x: float) -> dict[str, Any]:
    place = dict(x=x, y=1.0, xref="paper", yref="paper", xanchor="left", yanchor="bottom")
    return place | dict(text=f"<b>{text}</b>", showarrow=False, font=dict(size=13))

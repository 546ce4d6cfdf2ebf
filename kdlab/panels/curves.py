"""Live curves: the loss (or one term of it) of every student by step, and validation accuracy by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdlab.panels import looks, wording
from kdlab.panels.desk_state import all_terms, loss_choices
from kdlab.panels.live import LiveFigure
from kdlab.panels.series import bin_width, thin
from kdlab.plots import theme

MOST_MARKS = 12
MOST_LABELS = 4
_RIGHT = 0.55  # where the right plot begins, as a share of the width
_LOG_TICKS = [float(f"{m}e{e}") for e in range(-6, 7) for m in (1, 3)]
_NOTHING = np.zeros(0, np.float32)


class CurvesView:
    """A figure with two plots: loss by step (left), validation accuracy by epoch (right).

    Args:
        study: a `Study`.
        styles: network -> `theme.Style`, the teacher's included.

    Attributes:
        figure: to be placed in a panel.
        key: which loss curve is shown (see `desk_state.loss_choices`).
        seed: whose run is shown; None for the latest.
        log: whether the loss axis is logarithmic.
        zoom: whether the accuracy axis shows only where the students are now.
        dark: whether the paper is.
    """

    def __init__(self, study: Any, styles: Mapping[str, theme.Style]) -> None:
        self.study = study
        self.key, self.log, self.zoom, self.dark = "loss", True, False, False
        self.seed: int | None = None
        self._choices = loss_choices(all_terms(study.methods))
        self._styles = [(name, styles[name]) for name in study.names]
        self._teacher_style = styles.get(study.teacher_name, theme.Style(theme.INK, "dash", "hexagon"))
        self._shown: tuple[Any, ...] = ()
        self._marks_shown: tuple[Any, ...] = ()
        self._colours_shown: bool | None = None
        self.figure = LiveFigure(data=self._traces(), layout=self._layout())
        self.figure._config = {"displayModeBar": False, "responsive": True}

    # ---- the empty figure --------------------------------------------------------------------------------

    def _traces(self) -> list[dict[str, Any]]:
        """For each student a loss and an accuracy curve; then the teacher's line and chance."""
        right = dict(xaxis="x2", yaxis="y2")
        traces: list[dict[str, Any]] = []
        for name, style in self._styles:
            common = dict(
                type="scatter", name=name, legendgroup=name, x=_NOTHING, y=_NOTHING, line=style.line()
            )
            hover = f"{name}<br>step %{{x:.0f}}: %{{y:.4g}}<extra></extra>"
            traces.append(common | dict(mode="lines", showlegend=False, hovertemplate=hover))
            hover = f"{name}<br>epoch %{{x}}: %{{y:.1%}}<extra></extra>"
            marker = dict(symbol=style.symbol, size=7, maxdisplayed=25)
            traces.append(common | right | dict(mode="lines+markers", marker=marker, hovertemplate=hover))
        line = dict(type="scatter", mode="lines", x=_NOTHING, y=_NOTHING, hoverinfo="name", **right)
        teacher = dict(dash=self._teacher_style.dash, width=1.6)
        traces.append(line | dict(name="teacher", line=teacher, visible=bool(self.study.teacher_name)))
        traces.append(line | dict(name="chance", line=dict(color=looks.NEUTRAL, dash="dot", width=1.4)))
        return traces

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
        now = self._fingerprint()
        if now == self._shown:
            return
        record, seed = self.study.record, self.seed
        last_step, last_epoch, mean_of = 0.0, 0.0, 1
        with self.figure.drawing() as figure:
            for number, (name, _) in enumerate(self._styles):
                steps, values = record.series(name, self.key, seed)
                if len(steps):
                    last_step, mean_of = max(last_step, float(steps[-1])), bin_width(len(steps))
                x, y = thin(steps, values)
                figure.data[2 * number].update(x=x, y=y)
                x, y = record.epoch_series(name, "val_accuracy", seed)
                figure.data[2 * number + 1].update(x=x, y=y)
                last_epoch = max(last_epoch, float(x[-1]) if len(x) else 0.0)
            self._draw_references(figure)
            self._draw_epochs(figure, last_epoch)
            self._draw_marks(figure, last_step, mean_of)
            self._draw_axis(figure)
            self._draw_accuracy_axis(figure)
            self._draw_colours(figure)
        self._shown = now

    def _fingerprint(self) -> tuple[Any, ...]:
        """Changes whenever there is something new to draw."""
        study, board = self.study, self.study.board
        rows = board.latest("epoch") or [{}]
        recorded = (
            board.latest("curves"),
            rows[0].get("seed"),
            rows[0].get("epoch"),
            len(study.record.marks()),
        )
        return (
            self.key,
            self.seed,
            self.log,
            self.zoom,
            self.dark,
            *recorded,
            len(study.teachers),
            study.state,
        )

    def _draw_references(self, figure: LiveFigure) -> None:
        """The teacher's and the chance line, once they are known."""
        ends = np.asarray([0, self.study.epochs + 0.3], np.float32)
        teacher, chance = figure.data[-2], figure.data[-1]
        if self.study.teachers and not len(teacher.x):
            value = self.study.teachers[0].val_accuracy
            name = f"teacher {self.study.teacher_name}, {wording.percent(value)}"
            teacher.update(x=ends, y=np.full(2, value, np.float32), name=name)
        if not len(chance.x):
            value = self.study.data.chance
            chance.update(x=ends, y=np.full(2, value, np.float32), name=f"chance, {wording.percent(value)}")

    def _draw_epochs(self, figure: LiveFigure, done: float) -> None:
        """The whole way where it is short; otherwise the axis grows with what is done."""
        end = min(float(self.study.epochs), 40.0 * 2 ** max(0, math.ceil(math.log2(max(done, 1) / 40)))) + 0.3
        if figure.layout.xaxis2.range[1] != end:
            figure.layout.xaxis2.range = [0, end]

    def _draw_axis(self, figure: LiveFigure) -> None:
        kind = "log" if self.log else "linear"
        if figure.layout.yaxis.type != kind:
            mode, start = ("array", "normal") if self.log else ("auto", "tozero")
            figure.layout.yaxis.update(type=kind, autorange=True, tickmode=mode, rangemode=start)

    def _draw_accuracy_axis(self, figure: LiveFigure) -> None:
        """From 0 to 1, or, zoomed, from the lowest accuracy of the later epochs to the highest."""
        late = [trace.y[len(trace.y) // 2 :] for trace in figure.data[1 : 2 * len(self._styles) : 2]]
        values = np.concatenate([*late, figure.data[-2].y[:1]])
        low, high = 0.0, 1.0
        if self.zoom and len(values):
            low, high = float(values.min()), float(values.max())
        ends = [low - 0.1 * (high - low) * self.zoom, high + 0.02 + 0.05 * (high - low) * self.zoom]
        if list(figure.layout.yaxis2.range) != ends:
            figure.layout.yaxis2.range = ends

    def _draw_colours(self, figure: LiveFigure) -> None:
        if self._colours_shown == self.dark:
            return
        for number, (_, style) in enumerate(self._styles):
            colour = looks.on_paper(style.color, self.dark)
            for trace in figure.data[2 * number : 2 * number + 2]:
                trace.update(line_color=colour, marker_color=colour)
        figure.data[-2].line.color = looks.on_paper(self._teacher_style.color, self.dark)
        self._colours_shown = self.dark

    # ---- marks where a term was changed ------------------------------------------------------------------

    def _draw_marks(self, figure: LiveFigure, last_step: float, mean_of: int) -> None:
        marks = self._marks()
        left = [m["step"] < 0.6 * last_step for m in marks]  # a label near the right end goes to the left
        key = (self.key, mean_of, tuple((m["step"], m["student"], m["text"]) for m in marks), tuple(left))
        if key == self._marks_shown:
            return
        self._marks_shown = key
        label = next((text for text, known in self._choices if known == self.key), self.key)
        label += f" (mean of {mean_of} steps)" if mean_of > 1 else ""
        headings = [_heading(label, 0.0), _heading("validation accuracy", _RIGHT)]
        named = list(zip(marks, left))[-MOST_LABELS:]
        figure.layout.annotations = headings + [_mark_label(m, n, here) for n, (m, here) in enumerate(named)]
        figure.layout.shapes = [line for m in marks for line in self._mark_lines(m)]

    def _marks(self) -> list[dict[str, Any]]:
        """Changes that hold for the shown seed: those given in it or in an earlier one."""
        seeds = list(self.study.seeds)
        shown = self.seed if self.seed is not None else next(reversed(self.study.record.runs), seeds[0])
        given = [m for m in self.study.record.marks() if seeds.index(m["seed"]) <= seeds.index(shown)]
        return given[-MOST_MARKS:]

    def _mark_lines(self, mark: Mapping[str, Any]) -> list[dict[str, Any]]:
        line = dict(color=looks.NEUTRAL, width=1, dash="dot")
        step = mark["step"] + 0.5  # the first step with the change is the next one
        epoch = mark["step"] / max(self.study.steps_per_epoch, 1)
        return [
            dict(type="line", x0=x, x1=x, y0=0, y1=1, xref=xref, yref=yref, line=line)
            for x, xref, yref in ((step, "x", "y domain"), (epoch, "x2", "y2 domain"))
        ]


def _heading(text: str, x: float) -> dict[str, Any]:
    place = dict(x=x, y=1.0, xref="paper", yref="paper", xanchor="left", yanchor="bottom")
    return place | dict(text=f"<b>{text}</b>", showarrow=False, font=dict(size=13))


def _mark_label(mark: Mapping[str, Any], number: int, left: bool) -> dict[str, Any]:
    place = dict(x=mark["step"] + 0.5, y=0.99 - 0.08 * number, xref="x", yref="y domain", yanchor="top")
    side = dict(xanchor="left", xshift=3) if left else dict(xanchor="right", xshift=-3)
    return place | side | dict(text=f"{mark['student']}: {mark['text']}", showarrow=False, font=dict(size=11))

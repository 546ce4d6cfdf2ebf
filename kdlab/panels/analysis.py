"""What all panels but the study's own are made of: controls, one figure, a sentence, pictures, export."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import plotly.graph_objects as go
import traitlets

from kdlab.errors import KDLabError, require_study
from kdlab.panels import controls, exports, looks
from kdlab.panels.controls import Control, Options
from kdlab.panels.jobs import Jobs, Outcome
from kdlab.panels.live import DrawsPlots, Paced, Points, answer_while_busy, module, to_page
from kdlab.panels.painter import Painter
from kdlab.panels.shared import Shared
from kdlab.panels.stock import Stock
from kdlab.plots import theme
from kdlab.probes import Cancelled


@dataclass(frozen=True)
class Want:
    """A measurement that a panel needs for what it is asked to show.

    Attributes:
        key: what identifies the result; equal keys, equal results.
        compute: measures it, on a thread of its own.
        code: the same in Python.
        known: the result, where it is there without measuring.

    >>> kdlab.panels.Want("a sum", compute=lambda: 1 + 1, code="1 + 1").compute()
    2
    """

    key: Hashable
    compute: Callable[[], Any]
    code: str
    known: Any = None


class AnalysisPanel(Paced, DrawsPlots):
    """A panel that measures and shows; works on new, running, finished and loaded studies.

    A subclass says which `controls` there are, what it `want`s measured for their values, and how to
    `draw` the result. Callbacks only change values and wake the painter, which alone writes to the
    widget; measuring is done on a thread of its own and can be cancelled.

    Args:
        study: a `kdlab.Study`, new, running, finished or loaded.
        shared: epoch, seed and selection in common with other panels; None makes its own.
        jobs: measures; None makes its own.
        hz: most frames a second.
        in_cell: draw and measure on the thread of whoever uses the panel, for notebooks where widgets
            cannot be written to from a thread.
        active: whether it is seen from the start.
        values: of controls, where they are not to begin with their defaults.

    Attributes:
        values: name of a control -> value; change it with `set`.

    >>> panel = kdlab.panels.LogitPanel(study, in_cell=True)  # one of the subclasses
    >>> panel.set("view", "gradients")
    >>> type(panel.result).__name__
    'LogitGradients'
    >>> panel.close()
    """

    heading: ClassVar[str] = ""
    purpose: ClassVar[str] = ""
    """What the panel shows, in a sentence."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    common: ClassVar[frozenset[str]] = frozenset({"epoch", "seed", "students", "sample"})
    """Controls whose values are those of `shared`."""
    redraws: bool = False
    """Whether an older result can be drawn for new values, so that the panel reacts while it measures."""

    _esm = module("parts.js", "plot.js", "controls.js", "panel.js")
    _css = module("desk.css", "panel.css")
    spec = traitlets.Dict().tag(sync=True)
    live = traitlets.Dict().tag(sync=True)
    figure = traitlets.Unicode("").tag(sync=True)
    dark = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self,
        study: Any,
        *,
        shared: Shared | None = None,
        jobs: Jobs | None = None,
        hz: float = 8.0,
        in_cell: bool = False,
        active: bool = True,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        require_study(study)
        self.study = study
        self.stock = Stock(study)
        self.shared = Shared.of(shared)
        self.jobs = jobs or Jobs(inline=in_cell)
        self.values: dict[str, Any] = {**self.defaults, **(values or {})}
        self._active, self._in_cell = active, in_cell
        self.fig: go.Figure | None = None
        self.result: Any = None
        self._lock = threading.Lock()
        self._errors: list[str] = []
        self._answered = 0
        self._drawn: Hashable = None
        self._wanted: Want | None = None
        self._shown: Want | None = None
        self._said, self._code = "", ""
        self._pictures: list[dict[str, Any]] = []
        super().__init__(spec={"heading": self.heading, "purpose": self.purpose}, live=self._live("", []))
        self.on_msg(self._receive)
        self.observe(self._changed, "dark")
        self.shared.observe(self._changed)
        answer_while_busy(self)
        news, pulse = study.board.subscribe(), None if in_cell else self
        self.painter = Painter(news, [self], hz=hz, pulse=pulse, on_error=self._failed)
        self.active = active
        if in_cell:
            self.painter.draw()
        else:
            self.painter.start()

    @property
    def active(self) -> bool:
        """Whether the panel is seen; what nobody sees is neither measured nor drawn."""
        return self._active

    @active.setter
    def active(self, seen: bool) -> None:
        self._active = seen
        if seen:
            self.painter.wake()
            self._changed(None)
        else:
            self.painter.rest()
            self.jobs.drop(self)

    # ---- for subclasses ----------------------------------------------------------------------------------

    def controls(self) -> list[Control]:
        """The controls as they are now, with their values (see `kdlab.panels.controls`)."""
        raise NotImplementedError

    def want(self) -> Want:
        """What must be measured for the present values.

        Raises:
            KDLabError: it cannot be shown; the sentence is.
        """
        raise NotImplementedError

    def draw(self, result: Any) -> go.Figure:
        """The figure of a result."""
        raise NotImplementedError

    def look(self) -> Hashable:
        """What the drawing depends on beside the result; a change draws anew without measuring."""
        return None

    def say(self, result: Any) -> str:
        """What one sees, in a sentence or two."""
        return str(result.summary)

    def pictures(self, result: Any) -> list[dict[str, Any]]:
        """Small pictures under the figure: {"id": place, "src": data URL, "text": label, "chosen": bool}."""
        return []

    def exported(self, result: Any) -> Any:
        """The part of the result whose numbers are saved as a table or a file."""
        return result

    def code(self, want: Want, result: Any) -> str:
        """The Python of what is shown."""
        return want.code

    def touched(self, what: str, points: Points | None) -> None:
        """The pointer did something in the figure: "click" or "select" (see `DrawsPlots`)."""

    def pressed(self, name: str) -> None:
        """A button of `controls` was pressed."""

    # ---- values ------------------------------------------------------------------------------------------

    def set(self, name: str, value: Any) -> None:
        """Give a control a value, as the page does."""
        if isinstance(value, list):
            value = tuple(value)
        if name == "epoch" and value in self.epochs()[-1:]:
            value = None  # follow the newest
        if name in self.common:
            self.shared.set_trait(name, value)
        else:
            self.values = {**self.values, name: value}
        self._poke()
        self._draw_at_once()

    def value(self, name: str, options: Options) -> Any:
        """The value of a control, or its first option where that is not among them (any more)."""
        known = [option[0] for option in options]
        value = getattr(self.shared, name) if name in self.common else self.values.get(name)
        return value if value in known else (known[0] if known else None)

    def seed(self) -> int | None:
        """The seed that is shown: the chosen one, or the one trained last; None before training."""
        return self.shared.seed if self.shared.seed in self.stock.seeds() else self.stock.latest_seed()

    def epochs(self, network: str | None = None) -> list[int]:
        """Epochs of which there are snapshots in the shown seed."""
        seed = self.seed()
        return [] if seed is None else self.stock.epochs(seed, network)

    def epoch(self) -> int | None:
        """The epoch that is shown: the newest where none was chosen, else the nearest one there is."""
        known, chosen = self.epochs(), self.shared.epoch
        if not known:
            return None
        return known[-1] if chosen is None else min(known, key=lambda epoch: (abs(epoch - chosen), epoch))

    def students(self) -> tuple[str, ...]:
        """The shown students that have a snapshot in the shown seed."""
        there = [name for name in self.study.names if self.epochs(name)]
        chosen = [name for name in there if name in self.shared.students]
        return tuple(chosen or there)

    # ---- controls that several panels have ---------------------------------------------------------------

    def epoch_control(self, play: bool = True) -> Control:
        """A slider over the epochs of which there are snapshots."""
        known, last = self.epochs(), self.study.epochs
        options = [(epoch, f"{epoch} of {last}") for epoch in known]
        return controls.stops("epoch", "Epoch", options, self.epoch(), play=play, hidden=len(known) < 2)

    def seed_control(self) -> Control:
        """A menu of the seeds that have been trained."""
        seeds = [(seed, str(seed)) for seed in self.stock.seeds()]
        return controls.select("seed", "Seed", seeds, self.seed(), hidden=len(seeds) < 2)

    def students_control(self) -> Control:
        """Switches for the students to show."""
        styles = theme.of_study(self.study)
        options = [(name, name, looks.for_desk(styles[name])) for name in self.study.names]
        return controls.chips("students", "Students", options, self.students(), hidden=len(options) < 2)

    # ---- what the page asks for (any thread) -------------------------------------------------------------

    def _receive(self, _widget: Any, content: Any, _buffers: Any) -> None:
        if not isinstance(content, dict):
            return
        try:
            if not self.answer_plots(content):
                self._do(content)
        except Exception as error:
            self.show_error(error)
        finally:
            with self._lock:
                self._answered = max(self._answered, int(content.get("id", 0)))
            self._poke()
            self._draw_at_once()

    def on_points(self, what: str, points: Points | None) -> None:  # type: ignore[override]
        """What the pointer did in the figure."""
        self.touched(what, points)

    def _do(self, message: Mapping[str, Any]) -> None:
        action = message.get("do")
        if action == "control":
            name, value = str(message["name"]), message["value"]
            self.pressed(name) if value is True and self._is_button(name) else self.set(name, value)
        elif action == "picture":
            self.shared.sample = int(message["place"])
        elif action == "cancel":
            self.jobs.cancel(self)
        elif action == "retry" and self._wanted is not None:
            self.jobs.retry(self._wanted.key)
        elif action == "export":
            exports.send(self, str(message["format"]))
        elif action == "dismiss":
            with self._lock:
                del self._errors[int(message["index"]) : int(message["index"]) + 1]

    def _is_button(self, name: str) -> bool:
        return any(c["name"] == name and c["kind"] == "button" for c in self.live.get("controls", ()))

    def _changed(self, _change: Any) -> None:
        self._poke()
        self._draw_at_once()

    def _poke(self) -> None:
        """Wake the painter."""
        self.study.board.post(poke=time.monotonic())

    def _draw_at_once(self) -> None:
        if self._in_cell and hasattr(self, "painter"):
            self.painter.draw()

    def show_error(self, error: BaseException | str) -> None:
        """Show a message that stays until it is dismissed."""
        if isinstance(error, BaseException) and not isinstance(error, KDLabError):
            error = f"{type(error).__name__}: {error}"
        with self._lock:
            if str(error) in self._errors:
                return
            self._errors = [*self._errors[-4:], str(error)]
        self._poke()

    def _failed(self, message: str) -> None:
        """Drawing failed, so that no later drawing would tell of it."""
        self.show_error(message)
        with self._lock:
            errors = list(self._errors)
        self.live = {**self.live, "errors": errors, "hint": self.live["hint"] or "This could not be drawn."}

    # ---- what the painter draws --------------------------------------------------------------------------

    def paint(self, news: dict[str, Any]) -> float | None:
        """Bring the panel up to date: measure what is wanted, draw what is measured."""
        if not self.active:
            return None
        try:
            offered = self.controls()
            self._wanted = want = self.want()
            outcome = self._ask(want)
        except KDLabError as error:  # nothing to be measured yet, or not this way
            self._wanted, want, outcome = None, None, Outcome(error=error)
        with self.hold_sync():  # the figure and what is said of it reach the page together
            try:
                if outcome is not None and outcome.error is None and want is not None:
                    self._show(want, outcome.value)
                elif self.redraws and self._shown is not None:
                    self._show(self._shown, self.result)
            except KDLabError as error:  # it cannot be drawn this way
                outcome = Outcome(error=error)
            self.live = self._live(*self._standing(outcome), offered=offered)
        return None

    def _ask(self, want: Want) -> Outcome | None:
        """What is known of it; measuring begins where nothing is."""
        if want.known is None:
            return self.jobs.ask(self, want.key, want.compute, self._poke)
        self.jobs.drop(self)
        return Outcome(want.known)

    def _show(self, want: Want, result: Any) -> None:
        """Draw a result unless it is drawn already."""
        key = (want.key, self.look(), self.dark)
        if key == self._drawn:
            return
        fig = self.draw(result)
        self._drawn, self._shown, self.result, self.fig = key, want, result, fig
        self._said, self._code = self.say(result), self.code(want, result)
        self._pictures = self.pictures(result)
        self.figure = to_page(fig, paper=looks.CLEAR, displayModeBar=False)

    def _standing(self, outcome: Outcome | None) -> tuple[str, Sequence[Any]]:
        """A hint in place of a result, and ["what is done", fraction] while something is measured."""
        if outcome is None:
            under_way = self.jobs.progress(self)
            return "", [under_way[1] or "measuring", under_way[0]] if under_way else ["measuring", 0.0]
        error = outcome.error
        if error is None:
            return "", []
        if isinstance(error, Cancelled):
            return "The measurement was cancelled.", ["", None]
        if isinstance(error, KDLabError):
            return str(error), []
        self.show_error(error)
        return "This could not be measured.", ["", None]

    def _live(
        self, hint: str, work: Sequence[Any], offered: Sequence[Control] | None = None
    ) -> dict[str, Any]:
        with self._lock:
            errors, answered = list(self._errors), self._answered
        return {
            "controls": list(self.live.get("controls", ())) if offered is None else list(offered),
            "hint": hint,
            "work": list(work),
            "said": self._said,
            "code": self._code,
            "pictures": list(self._pictures),
            "errors": errors,
            "answered": answered,
        }

    def close(self) -> None:
        """End the painter and close the widget; the study goes on."""
        if hasattr(self, "painter"):  # else it was refused before it was made
            with contextlib.suppress(ValueError):  # closed before
                self.shared.unobserve(self._changed)
            self.jobs.cancel(self)
            self.painter.close(timeout=2.0)
        super().close()

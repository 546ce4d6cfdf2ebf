"""The panel of a study: mixing desk, live curves and live embedding."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from html import escape
from typing import Any

import ipywidgets as widgets

from kdlab.errors import KDLabError, require_study
from kdlab.methods import describe
from kdlab.panels import desk_state, mixing, wording
from kdlab.panels.curves import CurvesView
from kdlab.panels.desk import Desk
from kdlab.panels.embedding import EmbeddingView
from kdlab.panels.live import Pulse, answer_while_busy
from kdlab.panels.painter import Painter, View
from kdlab.panels.sparks import Sparks
from kdlab.panels.standing import Standings
from kdlab.plots import theme

_FORGET = 5.0  # seconds after which a request that the study did not take up is no longer shown
_REACHED = {
    "play": ("training", "preparing", "finished", "failed"),
    "pause": ("paused", "finished", "failed", "stopped"),
    "step": ("paused", "finished", "failed"),
    "stop": ("stopped", "finished", "failed"),
}


class StudyPanel(widgets.VBox):
    """Controls and live figures of a study: `study.panel()`.

    A switch, a weight and a schedule for every term of every student, solo and reset, play / pause /
    step / stop, new students, forks and drops, progress, loss and accuracy curves with a mark at each
    change, and the students' representations in the teacher's plane. It works on a new, running,
    paused, stopped, finished or failed study, several panels may show one study, and what is done in
    Python shows here too.

    Callbacks may run on any thread: they call the study and leave a note for the painter, which
    alone writes to widgets.

    Args:
        study: a `kdlab.Study`, new or loaded.
        hz: most frames a second.
        in_cell: draw only in `watch` and when the panel is used, on the thread that does so, and never
            on a thread of its own: for notebooks where widgets cannot be written to from a thread.

    >>> panel = kdlab.panels.StudyPanel(study, in_cell=True)
    >>> panel.watch()  # no longer than the training, and this one is finished
    >>> [line.name for line in panel.curves.figure.fig.data if line.name in study.names][::2]
    ['alone', 'KD']
    >>> panel.close()
    """

    def __init__(self, study: Any, *, hz: float = 8.0, in_cell: bool = False) -> None:
        require_study(study)
        self.study = study
        self._in_cell, self._watching, self._active = in_cell, False, True
        self._lock = threading.Lock()  # guards the notes of the callbacks below
        self._requested: tuple[str, float] | None = None
        self._asked: dict[tuple[str, str], tuple[dict[str, Any], float]] = {}
        self._soloed: dict[str, tuple[str, frozenset[str]]] = {}  # student -> (term, what was on before)
        self._errors: list[str] = []
        self._code = "study.panel()"
        self._answered = 0
        self._outcomes: dict[int, bool] = {}
        self._standings = Standings(study)
        self._sparks = Sparks(study)
        self._described: tuple[Any, ...] = ()
        self._defaults = mixing.Defaults(study)
        self._later: float | None = None  # seconds until something is to be drawn also without news
        self._progress: dict[str, Any] = dict(study.board.latest("progress") or {})

        self.curves = CurvesView(study, self._standings)
        self.embedding = EmbeddingView(study, self._standings, watched=self._watched)
        self.desk = Desk(self._spec(), self._live(), self._receive)
        self.desk.observe(self._choose, ["curve", "log", "zoom", "seed", "dark"])
        self.caption = widgets.HTML()
        self.caption.add_class("kd-caption")
        self.pulse = Pulse()
        figures = [self.curves.figure, self.embedding.figure]
        super().__init__(
            [self.desk, *figures, self.caption, self.pulse],
            layout=widgets.Layout(width="100%", max_width="1400px"),
        )
        for part in (self.desk, self.pulse, *figures):
            answer_while_busy(part)
        views: list[View] = [self.curves, self.embedding, self]
        # a page cannot answer while a cell is at work on the thread that hears answers
        pulse = None if in_cell else self.pulse
        self.painter = Painter(study.board.subscribe(), views, hz=hz, pulse=pulse, on_error=self._show_error)
        if not in_cell:
            self.painter.start()

    @property
    def active(self) -> bool:
        """Whether the panel is seen; nothing is drawn, and no snapshot is asked for, while it is not."""
        return self._active

    @active.setter
    def active(self, seen: bool) -> None:
        self._active = seen
        self.painter.wake() if seen else self.painter.rest()
        self._draw_at_once()

    def watch(self) -> None:
        """Draw on this thread until the training ends; of a panel made with `in_cell`."""
        self._watching = True
        try:
            self.painter.draw(until=self.study.control.finished.is_set)
        finally:
            self._watching = False

    def _draw_at_once(self) -> None:
        """What a gesture changed, where there is no thread that draws."""
        if self._in_cell and not self._watching:
            self.painter.draw()

    # ---- what the page asks for (any thread) -------------------------------------------------------------

    def _receive(self, message: dict[str, Any]) -> None:
        """Do what the page asks for; an error is shown in the panel."""
        try:
            self._do(message)
        except Exception as error:
            self._requested = None
            self._refuse(error, int(message.get("id", 0)))
        finally:
            with self._lock:
                self._answered = max(self._answered, int(message.get("id", 0)))
            self._poke()
            self._draw_at_once()

    def _do(self, message: dict[str, Any]) -> None:
        action = message["do"]
        if action == "dismiss":
            with self._lock:
                del self._errors[int(message["index"]) : int(message["index"]) + 1]
        elif action == "set":
            given = {key: message.get(key) for key in ("weight", "enabled", "schedule")}
            change = {key: value for key, value in given.items() if value is not None}
            self._change(message["student"], [(message["term"], change)], int(message.get("id", 0)))
        elif action in ("solo", "reset"):
            self._regulate(action, message)
        elif action in ("fork", "add", "drop"):
            self._change_roster(action, message)
        elif action in ("card", "preview"):
            self._answer(action, message)
        elif action == "step" and message.get("n") == "epoch":
            self.study.call(self._step_to_epochs_end).add_done_callback(self._after)
        elif action in _REACHED:
            count = int(message.get("n", 1))
            self._note(action, f"study.step({count})" if action == "step" else f"study.{action}()")
            self.study.step(count) if action == "step" else getattr(self.study, action)()

    def _step_to_epochs_end(self) -> None:
        """Between two steps, where it is known how many are left."""
        count = mixing.rest_of_epoch(self.study)
        self._note("step", f"study.step({count})")
        self.study.step(count)

    def _note(self, action: str, code: str) -> None:
        with self._lock:
            self._requested, self._code = (action, time.monotonic()), code

    def set(self, student: str, term: str, **change: Any) -> None:
        """Change a term as the desk does: at once in what is shown, before the next step in training."""
        self._change(student, [(term, change)])

    def _change(self, student: str, changes: mixing.Changes, number: int = 0) -> None:
        """Give commands that change terms of a student, in this order."""
        if number and not changes:  # it is so already
            self._settle(number, True)
        for term, change in changes:
            future = self.study.set(student, term, **change)
            with self._lock:
                before = self._asked.get((student, term), ({}, 0.0))[0]
                self._asked[student, term] = ({**before, **change}, time.monotonic())
                self._code = wording.changes_code(student, changes)
            future.add_done_callback(lambda done: self._after(done, number))
        self._poke()

    def _regulate(self, action: str, message: Mapping[str, Any]) -> None:
        """Let one term of a student work alone, or as before if it does; or put all back to the defaults."""
        student, number = message["student"], int(message.get("id", 0))
        with self._lock:
            now = mixing.states(self.study, student, self._asked_for())
        default = self._defaults[student]
        if action == "reset":
            self._change(student, mixing.resetting(self.study, now, default), number)
            return
        term = self.study.methods[student].term(message["term"]).name
        on = mixing.switched_on(now)
        soloed, before = self._soloed.get(student, ("", frozenset[str]()))
        if on == {term}:
            wanted = before if soloed == term else mixing.switched_on(default)
            self._soloed.pop(student, None)
        else:
            wanted = frozenset({term})
            self._soloed[student] = (term, before if on == {soloed} else on)
        self._change(student, mixing.switching(now, wanted), number)

    def _answer(self, action: str, message: Mapping[str, Any]) -> None:
        """Tell the page a method's card, or how a schedule would run."""
        student = message["student"]
        if action == "card":
            card = describe(self.study.students[student].method)
            self.desk.send({**message, "text": str(card), "diagrams": list(card.diagrams)})
            with self._lock:
                self._code = wording.card_code(student)
        else:
            self.desk.send({**message, **mixing.preview(self.study, student, str(message["schedule"]))})

    def _change_roster(self, action: str, message: Mapping[str, Any]) -> None:
        """Fork, add or drop a student as the page asks; what is refused shows as a sentence."""
        number = int(message.get("id", 0))
        if action == "fork":
            given = {key: message[key] for key in ("at_epoch", "name", "method") if message.get(key)}
            future = self.study.fork(message["student"], **given)
            code = wording.fork_code(message["student"], **given)
        elif action == "add":
            future = self.study.add(message["name"], message["method"])
            code = wording.add_code(message["name"], message["method"])
        else:
            future = self.study.drop(message["student"])
            code = wording.drop_code(message["student"])
        with self._lock:
            self._code = code
        future.add_done_callback(lambda done: self._after(done, number))

    def _after(self, future: Any, number: int = 0) -> None:
        """A command was carried out or refused, on the training thread."""
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._refuse(error, number)
        elif number:
            self._settle(number, True)

    def _refuse(self, error: BaseException, number: int) -> None:
        # kdlab's own errors are sentences; others are told with their kind
        self._show_error(str(error) if isinstance(error, KDLabError) else f"{type(error).__name__}: {error}")
        if number:
            self._settle(number, False)

    def _settle(self, number: int, done: bool) -> None:
        with self._lock:
            known = self._outcomes  # of several commands one may have been refused
            self._outcomes = {**dict(list(known.items())[-7:]), number: done and known.get(number, True)}
        self._poke()

    def _choose(self, change: Any) -> None:
        desk, curves = self.desk, self.curves
        if change["name"] == "curve":
            with self._lock:
                self._code = wording.curve_code(desk.curve, self._seed())
        curves.key, curves.log, curves.zoom, curves.seed = desk.curve, desk.log, desk.zoom, self._seed()
        curves.dark = self.embedding.dark = desk.dark
        self._poke()
        self._draw_at_once()

    def _seed(self) -> int | None:
        """The seed that is shown; None for the latest."""
        return int(self.desk.seed) if self.desk.seed else None

    def _show_error(self, text: str) -> None:
        with self._lock:
            if text in self._errors:
                return
            self._errors = [*self._errors[-4:], text]
        self._poke()

    def _poke(self) -> None:
        """Wake the painter."""
        self.study.board.post(poke=time.monotonic())

    def _watched(self) -> bool:
        """Whether the page answered the last frame (or has not been asked yet)."""
        return not self.painter.lags or self.painter.lags[-1] != float("inf")

    # ---- what the painter draws ----------------------------------------------------------------------------

    def paint(self, news: dict[str, Any]) -> float | None:
        """Bring the desk and the caption up to date."""
        if news.get("progress"):
            self._progress = dict(news["progress"])
        if news.get("error"):
            self._show_error(f"Training failed. {news['error']}")
        try:
            self._update_desk()
        except Exception as error:  # the rest of the desk stays as it was
            self._show_error(f"The desk cannot be brought up to date: {type(error).__name__}: {error}")
            with self._lock:
                self.desk.live = self.desk.live | {"errors": list(self._errors), "answered": self._answered}
        caption = escape(self.embedding.caption)
        if self.caption.value != caption:
            self.caption.value = caption
        return 0.3 if self._requested or self._asked else self._later

    def _update_desk(self) -> None:
        live = self._live(self._seed())
        sparks, self._later = self._sparks.take(self._seed())
        with self.desk.hold_sync():  # a new student's card and its values reach the page together
            if self._described != self._description():
                self.desk.spec = self._spec()
            self.desk.live = live
            if sparks is not None:
                self.desk.sparks = sparks

    def _description(self) -> tuple[Any, ...]:
        """Changes when a student comes."""
        return tuple(self.study.names)

    def _spec(self) -> dict[str, Any]:
        study, self._described = self.study, self._description()
        return desk_state.spec(study, theme.of_study(study))

    def _live(self, seed: int | None = None) -> dict[str, Any]:
        study, now = self.study, time.monotonic()
        with self._lock:
            if self._requested and (
                study.state in _REACHED[self._requested[0]] or now - self._requested[1] > _FORGET
            ):
                self._requested = None
            for key, (change, at) in list(self._asked.items()):
                state = study.terms(key[0])[key[1]].state()
                if now - at > _FORGET or not mixing.differing(study, state, change):
                    del self._asked[key]
            asked = self._asked_for()
            requested = self._requested[0] if self._requested else None
            errors, code, answered = list(self._errors), self._code, self._answered
            outcomes = dict(self._outcomes)
        return desk_state.live(
            study,
            progress=self._progress,
            requested=requested,
            asked=asked,
            seed=seed,
            standings=self._standings.of(seed),
            notes=self._standings.notes(),
            code=code,
            errors=errors,
            answered=answered,
            outcomes=outcomes,
            defaults=self._defaults,
        )

    def _asked_for(self) -> dict[tuple[str, str], dict[str, Any]]:
        """(student, term) -> changes that are not made yet; to be called with the lock."""
        return {key: change for key, (change, _) in self._asked.items()}

    def close(self) -> None:
        """End the painter and close the widgets; the study goes on."""
        if hasattr(self, "painter"):  # else it was refused before it was made
            self.painter.close(timeout=2.0)
        super().close()

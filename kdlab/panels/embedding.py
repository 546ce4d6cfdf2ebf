"""A live picture of the representations: teacher and students in the teacher's plane."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from kdlab.errors import StudyError
from kdlab.panels import wording
from kdlab.panels.multiples import Cloud, SmallMultiples
from kdlab.panels.plane import TeacherPlane
from kdlab.panels.standing import Standings

POINTS = 300
UNWATCHED_SECONDS = 2.0  # until the next look whether a page is there
LEAST_SECONDS, MOST_SECONDS, PAUSED_SECONDS = 1.0, 15.0, 0.25  # between two snapshots
SHARE_OF_TIME = 0.08  # of training time that may go into live snapshots
_NOWHERE, _NOTHING = np.zeros((0, 2), np.float32), np.zeros(0, object)


@dataclass(frozen=True)
class _Pending:
    """A snapshot that was asked for, with the times just before and after it on the training thread."""

    before: Future[float]
    taken: Future[dict[str, Any]]
    after: Future[float]

    @staticmethod
    def ask(study: Any, at_work: bool, recorded: Callable[[], dict[str, Any]]) -> _Pending:
        before = study.call(time.monotonic)
        taken = study.live_snapshot(count=POINTS) if at_work else study.call(recorded)
        return _Pending(before, taken, study.call(time.monotonic))

    def done(self) -> bool:
        return self.taken.done() and self.after.done()

    def cost(self) -> float:
        """Seconds that training was held up."""
        return self.after.result() - self.before.result()


class EmbeddingView:
    """Small plots of teacher and students in one plane, measured anew about once a second.

    Snapshots are taken by the training thread between two steps. The time they take is measured, and
    the next one is asked for so late that training loses no more than a few percent; while training
    is paused, every step shows at once.

    Args:
        study: a `Study`.
        standings: tells who went; None makes its own.
        watched: whether somebody looks; while nobody does, training is not held up by snapshots.

    Attributes:
        figure: to be placed in a panel.
        caption: what one sees, and when it was measured.
        dark: whether the paper is.
    """

    def __init__(
        self,
        study: Any,
        standings: Standings | None = None,
        watched: Callable[[], bool] = lambda: True,
    ) -> None:
        self.study = study
        self._standings = standings or Standings(study)
        self._watched = watched
        self.caption = ""
        self.dark = False
        self._teacher_name: str = study.teacher_name
        self._networks = [*([study.teacher_name] if study.teacher_name else []), *study.names]
        titles = [self._title(name) for name in self._networks]
        self._plots = SmallMultiples(titles, self._networks, study.data.class_names)
        self.figure = self._plots.figure
        self._plane: TeacherPlane | None = None
        self._pending: _Pending | None = None
        self._asked_at, self._gap = 0.0, LEAST_SECONDS
        self._asked_for: tuple[Any, ...] = ()
        self._limit = 0.0
        self._redraw: Callable[[], None] | None = None
        self._dark_shown = False

    # ---- when to measure -----------------------------------------------------------------------------------

    def paint(self, news: dict[str, Any]) -> float | None:
        """Draw a snapshot that has come; ask for the next one when it is time."""
        self._admit()
        again = self._ask()
        pending = self._pending
        if pending is not None and pending.done():
            self._pending = None
            self._gap = min(max(LEAST_SECONDS, pending.cost() / SHARE_OF_TIME), MOST_SECONDS)
            try:
                taken = pending.taken.result()
            except StudyError:  # the students' training has not begun
                return 0.5 if self.study.state in ("preparing", "training", "paused") else None
            self._redraw = lambda: self._draw(taken)
            self._redraw()
        elif self._redraw is not None and self.dark != self._dark_shown:
            self._redraw()
        return again

    def _title(self, name: str) -> str:
        return f"<b>teacher</b> {name}" if name == self._teacher_name else f"<b>{escape(name)}</b>"

    def _admit(self) -> None:
        """Plots for students that have come."""
        new = [name for name in self.study.names if name not in self._networks]
        if new:
            self._networks += new
            self._plots.extend([self._title(name) for name in new], new)

    def _ask(self) -> float | None:
        """Ask for a snapshot if something changed and the last is old enough; seconds to the next try."""
        study, board = self.study, self.study.board
        at_work = study.state in ("training", "paused")
        now_at = ("" if at_work else study.state, board.latest("curves"), board.latest("snapshot"))
        if self._pending is not None or now_at == self._asked_for:
            return None
        gap = self._gap if study.state == "training" else PAUSED_SECONDS
        wait = self._asked_at + gap - time.monotonic()
        if at_work and wait > 0:
            return wait
        if study.state in ("new", "preparing") or not study.record.runs:
            return None
        if at_work and not self._watched():
            return UNWATCHED_SECONDS
        self._asked_for, self._asked_at = now_at, time.monotonic()
        self._pending = _Pending.ask(study, at_work, self._recorded)
        self._pending.after.add_done_callback(lambda _: board.post(poke=time.monotonic()))
        return None

    def _recorded(self) -> dict[str, Any]:
        """The last snapshots in the folder, of the seed that was trained last; of those who have one."""
        study = self.study
        seed = next(reversed(study.record.runs))
        there = [name for name in study.names if study.snapshot_epochs(seed, network=name)]
        if not there:
            raise StudyError("There is no snapshot yet; the training of the students has not begun.")
        return {name: study.snapshot(name, -1, seed) for name in there}

    # ---- what to draw --------------------------------------------------------------------------------------

    def _draw(self, students: Mapping[str, Any]) -> None:
        plane, teacher = self._teacher(students)
        shown = np.flatnonzero(~self.study.probe_set.fit)[:POINTS]
        labels = self.study.probe_set.labels.numpy()[shown]
        standings, latest = self._standings.of(), max(s.epoch for s in students.values())
        clouds, projected = [], []
        for name in self._networks:
            if name != self._teacher_name and name not in students:
                clouds.append(Cloud(_NOWHERE, _NOTHING, "not here yet"))
                continue
            snapshot = teacher if name == self._teacher_name else students[name]
            rows = self._rows(snapshot)
            if name == self._teacher_name:
                points = plane.points()
            elif snapshot.projected is not None and self._teacher_name:
                points = plane.project(snapshot.projected[rows])
                projected.append(name)
            else:
                points = plane.turn(snapshot.embedding[rows])
            predicted = snapshot.logits[rows].argmax(axis=1)
            note = wording.percent(float((predicted == labels).mean()))
            if name in standings and standings[name].ended:
                note += " (dropped)" if standings[name].kind == "dropped" else " (stopped)"
            elif name != self._teacher_name and snapshot.epoch != latest:
                note += f" (epoch {snapshot.epoch})"
            clouds.append(Cloud(points, self._hover(labels, predicted), note))
        centre, self._limit = self._frame(plane, [cloud.points for cloud in clouds if len(cloud.points)])
        shifted = [Cloud(cloud.points - centre, cloud.hover, cloud.note) for cloud in clouds]
        self._plots.draw(shifted, labels, self._limit, self.dark)
        self._dark_shown = self.dark
        newest = max(students.values(), key=lambda snapshot: snapshot.epoch)
        self.caption = self._say(len(labels), newest, projected)

    def _rows(self, snapshot: Any) -> np.ndarray | slice:
        """The shown pictures among the rows of a snapshot: of the whole probe set, or of them alone."""
        fit = self.study.probe_set.fit
        whole = len(snapshot.embedding) == len(fit)
        return np.flatnonzero(~fit)[:POINTS] if whole else slice(None, POINTS)

    def _teacher(self, students: Mapping[str, Any]) -> tuple[TeacherPlane, Any]:
        """The plane, and the teacher's snapshot (without a teacher: those of the first student)."""
        if not self._teacher_name:
            snapshot = next(students[name] for name in self.study.names if name in students)
            return TeacherPlane.of(snapshot.embedding[self._rows(snapshot)]), snapshot
        snapshot = self.study.snapshot(self._teacher_name)
        if self._plane is None:  # frozen, so the same for ever
            self._plane = TeacherPlane.of(snapshot.embedding[self._rows(snapshot)])
        return self._plane, snapshot

    def _frame(self, plane: TeacherPlane, points: list[np.ndarray]) -> tuple[np.ndarray, float]:
        """Centre (2,) and half the side of every plot: room for the teacher, and within reason for students.

        The centre is the teacher's and stays; the side changes only when it has to.
        """
        low, high = np.quantile(plane.points(), [0.005, 0.995], axis=0)
        centre = ((low + high) / 2).astype(np.float32)
        own = float((high - low).max()) / 2 or 1.0
        needed = max(float(np.quantile(np.abs(p - centre), 0.99)) for p in points)
        wanted = 1.12 * min(max(own, needed), 2.0 * own)
        keep = 0.8 * self._limit <= wanted <= self._limit
        return centre, self._limit if keep else wanted

    def _hover(self, labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        names = self.study.data.class_names
        return np.asarray([f"class {names[a]}, taken for {names[b]}" for a, b in zip(labels, predicted)])

    def _say(self, count: int, snapshot: Any, projected: list[str]) -> str:
        through = f" ({', '.join(projected)}: by the method's own projector)" if projected else ""
        plane = "the plane in which the teacher's features vary most"
        if self._teacher_name:
            plane += f"; students are turned into it without bending{through}"
        return (
            f"Each mark is one of {count} test pictures at the classifier's input; colour and shape show "
            f"its class. All plots share {plane}. Groups that are tight and apart are easy to classify. The "
            "number is the share of these pictures classified right "
            f"(epoch {snapshot.epoch}, seed {snapshot.seed})."
        )

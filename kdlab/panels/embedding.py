"""A live picture of the representations: teacher and students in the teacher's plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import numpy as np

from kdlab.panels import wording
from kdlab.panels.live_map import LiveSnapshots, StudyPlane
from kdlab.panels.multiples import Cloud, SmallMultiples
from kdlab.panels.plane import TeacherPlane
from kdlab.panels.standing import Standings

_NOWHERE, _NOTHING = np.zeros((0, 2), np.float32), np.zeros(0, object)


class EmbeddingView:
    """Small plots of teacher and students in one plane, measured anew about once a second.

    Args:
        study: a `Study`.
        standings: tells who went; None makes its own.
        watched: whether somebody looks; while nobody does, training is not held up by snapshots.

    Attributes:
        figure: to be placed in a panel.
        snapshots: what is shown.
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
        self.snapshots = LiveSnapshots(study, watched)
        self.caption = ""
        self.dark = False
        self._teacher_name: str = study.teacher_name
        self._networks = [*([study.teacher_name] if study.teacher_name else []), *study.names]
        titles = [self._title(name) for name in self._networks]
        self._plots = SmallMultiples(titles, self._networks, study.data.class_names)
        self.figure = self._plots.figure
        self._where: StudyPlane | None = None
        self._limit = 0.0
        self._redraw: Callable[[], None] | None = None
        self._dark_shown = False

    # ---- when to measure -----------------------------------------------------------------------------------

    def paint(self, news: dict[str, Any]) -> float | None:
        """Draw a snapshot that has come; ask for the next one when it is time."""
        self._admit()
        taken, again = self.snapshots.poll()
        if taken is not None:
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

    # ---- what to draw --------------------------------------------------------------------------------------

    def _draw(self, students: Mapping[str, Any]) -> None:
        where = self._where = self._where or StudyPlane(self.study)
        plane, labels = where.plane(students), where.labels
        standings, latest = self._standings.of(), max(s.epoch for s in students.values())
        clouds, projected = [], []
        for name in self._networks:
            if name != self._teacher_name and name not in students:
                clouds.append(Cloud(_NOWHERE, _NOTHING, "not here yet"))
                continue
            if name == self._teacher_name:
                snapshot, points = where.teacher(), plane.points()
            else:
                snapshot = students[name]
                points, own = where.points(plane, snapshot)
                projected += [name] if own else []
            predicted = snapshot.logits[where.rows(snapshot)].argmax(axis=1)
            note = wording.percent(float((predicted == labels).mean()))
            if name in standings and standings[name].ended:
                note += " (dropped)" if standings[name].kind == "dropped" else " (stopped)"
            elif name != self._teacher_name and snapshot.epoch != latest:
                note += f" (epoch {snapshot.epoch})"
            clouds.append(Cloud(points, self._hover(labels, predicted), note))
        centre, self._limit = self._frame(plane, [cloud.points for cloud in clouds if len(cloud.points)])
        shifted = [Cloud(cloud.points - centre, cloud.hover, cloud.note) for cloud in clouds]
        self._dark_shown = self.dark  # before, as it may change while this is drawn
        self._plots.draw(shifted, labels, self._limit, self._dark_shown)
        newest = max(students.values(), key=lambda snapshot: snapshot.epoch)
        self.caption = self._say(len(labels), newest, projected)

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

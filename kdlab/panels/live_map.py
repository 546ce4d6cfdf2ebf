"""The representations as they are now: snapshots taken while training goes on, and where they lie."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kdlab.errors import StudyError
from kdlab.panels.plane import TeacherPlane
from kdlab.probes import Embedding, as_source
from kdlab.probes.frames import top_three
from kdlab.probes.maps import neighbours_kept
from kdlab.probes.metrics import knn_purity
from kdlab.probes.metrics.classes import nearest

POINTS = 300
UNWATCHED_SECONDS = 2.0  # until the next look whether a page is there
LEAST_SECONDS, MOST_SECONDS, PAUSED_SECONDS = 1.0, 15.0, 0.25  # between two snapshots
SHARE_OF_TIME = 0.08  # of training time that may go into live snapshots


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


class LiveSnapshots:
    """Snapshots of all students, about one a second.

    They are taken by the training thread between two steps. The time that takes is measured, and the
    next one is asked for so late that training loses no more than a few percent; while training is
    paused, every step shows at once. Where nothing is trained, those in the folder are given.

    Args:
        study: a `Study`.
        watched: whether somebody looks; while nobody does, training is not held up.

    Attributes:
        gap: seconds between two snapshots.
    """

    def __init__(self, study: Any, watched: Callable[[], bool] = lambda: True) -> None:
        self.study = study
        self.gap = LEAST_SECONDS
        self._watched = watched
        self._pending: _Pending | None = None
        self._asked_at = 0.0
        self._asked_for: tuple[Any, ...] = ()

    def poll(self) -> tuple[dict[str, Any] | None, float | None]:
        """A snapshot of each student if new ones have come, and seconds until it is worth asking again."""
        again = self._ask()
        pending = self._pending
        if pending is None or not pending.done():
            return None, again
        self._pending = None
        self.gap = min(max(LEAST_SECONDS, pending.cost() / SHARE_OF_TIME), MOST_SECONDS)
        try:
            return pending.taken.result(), again
        except StudyError:  # the students' training has not begun
            return None, 0.5 if self.study.state in ("preparing", "training", "paused") else None

    def _ask(self) -> float | None:
        """Ask for a snapshot if something changed and the last is old enough; seconds to the next try."""
        study, board = self.study, self.study.board
        at_work = study.state in ("training", "paused")
        now_at = ("" if at_work else study.state, board.latest("curves"), board.latest("snapshot"))
        if self._pending is not None or now_at == self._asked_for:
            return None
        gap = self.gap if study.state == "training" else PAUSED_SECONDS
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


class StudyPlane:
    """The first evaluation pictures in the teacher's plane; without a teacher in the first student's.

    Args:
        study: a `Study`.

    Attributes:
        shown: (n,) places of the pictures in the probe set.
        labels: (n,) their classes.
    """

    def __init__(self, study: Any) -> None:
        self.study = study
        probe = study.probe_set
        self.shown = np.flatnonzero(~probe.fit)[:POINTS]
        self.labels: np.ndarray = probe.labels.numpy()[self.shown]
        self._teacher: tuple[TeacherPlane, Any] | None = None

    def rows(self, snapshot: Any) -> np.ndarray:
        """The shown pictures among the rows of a snapshot: of the whole probe set, or of them alone."""
        whole = len(snapshot.embedding) == len(self.study.probe_set.fit)
        return self.shown if whole else np.arange(len(self.shown))

    def plane(self, students: Mapping[str, Any]) -> TeacherPlane:
        """The plane that all networks are shown in."""
        if self.study.teacher_name:
            return self._of_teacher()[0]
        first = next(students[name] for name in self.study.names if name in students)
        return TeacherPlane.of(first.embedding[self.rows(first)])

    def teacher(self) -> Any:
        """The teacher's snapshot."""
        return self._of_teacher()[1]

    def _of_teacher(self) -> tuple[TeacherPlane, Any]:
        if self._teacher is None:  # frozen, so the same for ever
            snapshot = self.study.snapshot(self.study.teacher_name)
            self._teacher = TeacherPlane.of(snapshot.embedding[self.rows(snapshot)]), snapshot
        return self._teacher

    def points(self, plane: TeacherPlane, snapshot: Any) -> tuple[np.ndarray, bool]:
        """(n, 2) of a student, and whether they come from its method's own projector."""
        rows = self.rows(snapshot)
        if snapshot.projected is not None and self.study.teacher_name:
            return plane.project(snapshot.projected[rows]), True
        return plane.turn(snapshot.embedding[rows]), False


def live_map(where: StudyPlane, students: Mapping[str, Any], k: int = 10) -> Embedding:
    """A map of one moment: the teacher's plane, students turned into it.

    Unlike that of `kdlab.probes.embed`, it is made of the shown pictures alone, so that little must be
    measured while training goes on; distances to the teacher are not known.

    Args:
        where: of the study.
        students: name -> a snapshot of each.
        k: neighbours that are counted.
    """
    study, labels = where.study, where.labels
    src = as_source(study)
    plane = where.plane(students)
    names = [name for name in study.names if name in students]
    snapshots = {name: students[name] for name in names}
    if study.teacher_name:
        snapshots = {study.teacher_name: where.teacher(), **snapshots}
    newest = max(students.values(), key=lambda snapshot: snapshot.epoch)
    k = min(k, len(labels) - 1)
    found: dict[str, list[Any]] = {
        key: [] for key in ("at", "purity", "purity_map", "kept", "near", "top", "share", "kind")
    }
    for name, snapshot in snapshots.items():
        rows = where.rows(snapshot)
        own = np.asarray(snapshot.embedding[rows], np.float64)
        if name == study.teacher_name:
            at, projected = plane.points(), None
        else:
            at, projected = where.points(plane, snapshot)
        near = nearest(torch.from_numpy(own), k).numpy()
        top, share = top_three(snapshot.logits, rows)
        new = (at, knn_purity(own, labels, k), knn_purity(at, labels, k), neighbours_kept(near, at), near)
        kind = "none" if projected is None else "projector" if projected else "procrustes"
        for key, value in zip(found, (*new, top, share, kind), strict=True):
            found[key].append(value)
    unknown, count = np.full((1, len(snapshots)), np.nan), len(labels)

    def stacked(key: str, kind: type) -> np.ndarray:
        return np.asarray(found[key], dtype=kind)[None]

    return Embedding(
        method="pca",
        align="joint",
        mapping=tuple(found["kind"]),
        networks=tuple(snapshots),
        teachers=(study.teacher_name,) if study.teacher_name else (),
        students=tuple(study.names),
        epochs=(newest.epoch,),
        seed=newest.seed,
        coordinates=stacked("at", np.float32),
        labels=labels,
        index=src.index[where.shown],
        class_names=src.class_names,
        images=None if src.images is None else src.images[where.shown],
        predicted=stacked("top", np.int64)[..., 0],
        displacement=unknown,
        residual=unknown,
        purity=stacked("purity", np.float64),
        purity_map=stacked("purity_map", np.float64),
        trustworthiness=np.full(1, np.nan),
        divergence=np.full(1, np.nan),
        k=k,
        perplexity=float("nan"),
        protocol=f"{count} test pictures as the networks see them now; the plane in which the first "
        "network's features vary most, the others turned into it by their 10 main directions.",
        kept_each=stacked("kept", np.float32),
        nearest=stacked("near", np.int32),
        top=stacked("top", np.int32),
        top_share=stacked("share", np.float32),
        coarse=None if src.coarse is None else src.coarse[where.shown],
        coarse_names=src.coarse_names,
        factors={name: np.asarray(values)[where.shown] for name, values in src.factors.items()},
        factor_names={name: tuple(names) for name, names in src.factor_names.items()},
    )

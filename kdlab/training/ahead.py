"""The inputs of an epoch's steps; teachers look at coming batches while students train on those before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial

from kdlab.data import Batch
from kdlab.models.features import Features
from kdlab.training.crew import Crew
from kdlab.training.student import StepInputs, StudentRun
from kdlab.training.teacher_pass import TeacherPass

_Shown = tuple[tuple[Features, ...], tuple[Features, ...]]  # of the first and of the second view


class Ahead:
    """Iterates over functions that give the inputs of one step each, to be called when it is due.

    With a crew, and teachers that are `steady`, `fill` has teachers look at coming batches meanwhile. What
    they fail with is raised where the step is due.

    Args:
        batches: of the rest of an epoch.
        teachers: what they show is a function of the batch alone.
        group: the students who will be trained; whether they read teachers is asked ever again.
        epoch: from 1.
        crew: None has teachers look when a step is due.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        teachers: TeacherPass,
        group: Sequence[StudentRun],
        epoch: int,
        crew: Crew | None,
    ) -> None:
        self._batches, self._teachers, self._group, self._epoch = batches, teachers, group, epoch
        self._crew = crew if teachers.steady else None
        self._two_views = any(student.method.second_view for student in group)
        self._coming: deque[tuple[Batch, Future[_Shown] | None]] = deque()

    def __iter__(self) -> Iterator[Callable[[], StepInputs]]:
        while self._coming or self._fetch():
            yield partial(self._inputs, *self._coming.popleft())

    def fill(self) -> None:
        """Have teachers look at as many batches as the crew has lanes; returns at once."""
        if self._crew is not None:
            while len(self._coming) < self._crew.lanes and self._fetch():
                pass

    def close(self) -> None:
        """Forget the coming batches."""
        for _, looking in self._coming:
            if looking is not None:
                looking.cancel()
        self._coming.clear()

    def _fetch(self) -> bool:
        batch = next(self._batches, None)
        if batch is None:
            return False
        looking = None
        if self._crew is not None and self._needed():
            looking = self._crew.start(partial(self._look, batch))
        self._coming.append((batch, looking))
        return True

    def _needed(self) -> bool:
        return any(student.needs_teacher() for student in self._group)

    def _look(self, batch: Batch) -> _Shown:
        second = self._two_views and batch.second is not None
        return self._teachers.features(batch), self._teachers.second(batch) if second else ()

    def _inputs(self, batch: Batch, looking: Future[_Shown] | None) -> StepInputs:
        shown: _Shown = ((), ())
        if self._needed():
            shown = self._look(batch) if looking is None else looking.result()
        return StepInputs(
            batch.images,
            batch.labels,
            batch.index,
            self._epoch,
            shown[0],
            self._teachers.classifiers,
            batch.second if self._two_views else None,
            shown[1],
        )

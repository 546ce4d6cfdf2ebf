"""Maps and pulls of a study for a panel: each measured once, and not chased while training goes on."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from kdlab import probes
from kdlab.errors import KDLabError
from kdlab.probes import Embedding, Pull

_KEPT = 6  # of each kind
_REST = 2.0  # pause between two measurements in training, in durations of the last


@dataclass(frozen=True)
class Mapped:
    """A map, and the pulls on one student where they are shown; `why` there are none.

    Attributes:
        live: whether it is of this moment, made by `live_map`.
    """

    space: Embedding
    pulls: Pull | None = None
    why: str = ""
    live: bool = False


@dataclass(frozen=True)
class Asked:
    """What identifies a map: options of `kdlab.probes.embed`, all of them plain values."""

    method: str
    seed: int
    epochs: tuple[int, ...]
    students: tuple[str, ...]
    pull: float

    def measure(self, study: Any) -> Embedding:
        """Make the map."""
        return probes.embed(
            study,
            self.method,
            epochs=self.epochs,
            students=self.students,
            seed=self.seed,
            pull=self.pull,
        )


class Maps:
    """Measured maps and pulls, the latest few of each.

    Args:
        study: a `Study`.
    """

    def __init__(self, study: Any) -> None:
        self.study = study
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._held: tuple[Hashable, tuple[int, ...]] = ((), ())
        self._rest_until = 0.0

    def known(self, asked: Asked, pulled: tuple[str, tuple[int, ...]] | None) -> Mapped | None:
        """The map, with the pulls on a student at some epochs, where they are measured already."""
        space = self._kept.get(asked)
        if space is None or pulled is None:
            return None if space is None else Mapped(space)
        found = self._kept.get((asked, *pulled))
        return None if found is None else self._with(space, found)

    def measure(self, asked: Asked, pulled: tuple[str, tuple[int, ...]] | None) -> Mapped:
        """The same, measured now where it is not known; tells its progress."""
        start = time.monotonic()
        space = self._once(asked, lambda: asked.measure(self.study))
        found = None
        if pulled is not None:
            student, epochs = pulled
            found = self._once((asked, *pulled), lambda: self._pulls(asked, student, epochs, space))
        self._rest_until = time.monotonic() + _REST * (time.monotonic() - start)
        return Mapped(space) if found is None else self._with(space, found)

    @staticmethod
    def _with(space: Embedding, found: Pull | str) -> Mapped:
        return Mapped(space, why=found) if isinstance(found, str) else Mapped(space, found)

    def _pulls(self, asked: Asked, student: str, epochs: Sequence[int], space: Embedding) -> Pull | str:
        """The pulls, or why there are none: the map is shown in any case."""
        try:
            return probes.pull(
                self.study, students=student, epochs=list(epochs), seed=asked.seed, n=len(space.labels)
            )
        except KDLabError as error:
            return str(error)

    def _once(self, key: Hashable, measure: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = measure()
            while len(self._kept) > 2 * _KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]

    def epochs(self, kind: Hashable, known: Sequence[int], busy: bool) -> tuple[int, ...]:
        """The epochs to measure while training brings more of them.

        A map of all epochs is made anew when there is one more. If that were begun with every new epoch, a
        quick training would never let one be finished; so a measurement that is under way is left to end,
        and in training the next one waits twice as long as the last one took.

        Args:
            kind: all other options; where they change, all epochs are measured at once.
            known: all epochs that there are.
            busy: whether a measurement is under way.
        """
        held_kind, held = self._held
        resting = self.study.state == "training" and time.monotonic() < self._rest_until
        if kind != held_kind or not (busy or resting):
            self._held = kind, tuple(known)
        return self._held[1] or held

"""Long measurements beside the page: one at a time, with progress, dropped when nobody wants them."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from kdlab.probes import Cancelled, watched
from kdlab.training.runtime import start_thread

KEPT = 48  # results
_AT_WORK: weakref.WeakSet[Jobs] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """When Python ends, measurements end between two of their steps instead of being torn down in one."""
    for jobs in list(_AT_WORK):
        jobs.end()


@dataclass(frozen=True)
class Outcome:
    """What a measurement came to: its value, or the error that ended it."""

    value: Any = None
    error: BaseException | None = None


@dataclass
class _Job:
    owner: Hashable
    key: Hashable
    compute: Callable[[], Any]
    tell: Callable[[], None]
    fraction: float = 0.0
    what: str = ""
    unwanted: bool = False


class Jobs:
    """Measures on one thread what panels ask for, and keeps the latest results.

    Each owner (a panel) wants one thing at a time: what it asked for before is dropped, also when it is
    under way. The thread comes with the first question and goes when there is nothing to do.

    Args:
        inline: measure at once on the thread that asks, for notebooks where widgets cannot be written
            to from a thread.
    """

    def __init__(self, inline: bool = False) -> None:
        self._inline = inline
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Outcome] = OrderedDict()
        self._waiting: OrderedDict[Hashable, _Job] = OrderedDict()
        self._running: _Job | None = None
        self._thread: threading.Thread | None = None

    def ask(
        self, owner: Hashable, key: Hashable, compute: Callable[[], Any], tell: Callable[[], None]
    ) -> Outcome | None:
        """The result under `key` if it is known; else None, and it will be measured.

        Args:
            owner: who wants it.
            key: what identifies the result.
            compute: gives it; a probe inside tells its progress and can be cancelled.
            tell: called when there is progress or a result, on the measuring thread.
        """
        with self._lock:
            known = self._kept.get(key)
            if known is not None:
                self._kept.move_to_end(key)
                self._drop(owner, but=None)
                return known
            running = self._running
            if running is not None and running.key == key and not running.unwanted:
                self._waiting.pop(owner, None)
                return None
            self._drop(owner, but=key)
            if owner not in self._waiting:
                self._waiting[owner] = _Job(owner, key, compute, tell)
            if not self._inline and self._thread is None:
                _AT_WORK.add(self)
                self._thread = start_thread(self._work, "kdlab-measure")
        if self._inline:
            self._work()
        with self._lock:
            return self._kept.get(key) if self._inline else None

    def cancel(self, owner: Hashable) -> None:
        """Drop what `owner` waits for; it counts as cancelled until it is asked for with `retry`."""
        with self._lock:
            jobs = [self._waiting.get(owner), self._running]
            for job in jobs:
                if job is not None and job.owner == owner and not job.unwanted:
                    self._keep(job.key, Outcome(error=Cancelled("Cancelled.")))
            self._drop(owner, but=None)

    def retry(self, key: Hashable) -> None:
        """Forget the outcome under `key`, so that it is measured anew when asked for."""
        with self._lock:
            self._kept.pop(key, None)

    def knows(self, key: Hashable) -> bool:
        """Whether there is a result under `key`, and no error."""
        with self._lock:
            known = self._kept.get(key)
        return known is not None and known.error is None

    def progress(self, owner: Hashable) -> tuple[float, str] | None:
        """Fraction done and what is being done for `owner`; (0, "waiting") behind others; None: nothing."""
        with self._lock:
            running = self._running
            if running is not None and running.owner == owner and not running.unwanted:
                return running.fraction, running.what
            return (0.0, "waiting for another panel") if owner in self._waiting else None

    def drop(self, owner: Hashable) -> None:
        """Forget what `owner` waits for, as when nobody sees it."""
        with self._lock:
            self._drop(owner, but=None)

    def end(self, seconds: float = 10.0) -> None:
        """Drop everything, and wait until the measurement under way has noticed, `seconds` at most."""
        with self._lock:
            self._waiting.clear()
            if self._running is not None:
                self._running.unwanted = True
            thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def _drop(self, owner: Hashable, but: Hashable) -> None:
        """Forget what `owner` asked for, except under the key `but`."""
        waiting = self._waiting.get(owner)
        if waiting is not None and (but is None or waiting.key != but):
            del self._waiting[owner]
        running = self._running
        if running is not None and running.owner == owner and (but is None or running.key != but):
            running.unwanted = True

    def _keep(self, key: Hashable, outcome: Outcome) -> None:
        self._kept[key] = outcome
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                _, job = self._waiting.popitem(last=False)
                self._running = job
            job.tell()

            def listen(fraction: float, what: str, job: _Job = job) -> None:
                if job.unwanted:
                    raise Cancelled("Cancelled.")
                job.fraction, job.what = fraction, what
                job.tell()

            try:
                with watched(listen):
                    outcome = Outcome(job.compute())
            except Exception as error:  # travels as a value; the panel says it
                outcome = Outcome(error=error)
            with self._lock:
                self._running = None
                if not isinstance(outcome.error, Cancelled):
                    self._keep(job.key, outcome)
            job.tell()

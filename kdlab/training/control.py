"""The way in to a running training: pause, step, stop, and calls made between two steps.

Any thread may use a `Control`; only the training thread calls `tick`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Control:
    """Flags and a queue of calls, read by the training thread before each step.

    Attributes:
        finished: set whenever no training thread is at work. Wait on this, never on
            `Thread.join`, which an interrupt can leave in a wrong state.

    >>> control = kdlab.training.Control()
    >>> control.open()  # a training begins
    >>> control.step(2)
    >>> control.tick(), control.paused, control.owed  # one of two steps is done
    (True, True, 1)
    >>> control.play()
    >>> control.tick(), control.paused
    (True, False)
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._paused = False
        self._stopped = False
        self._steps = 0
        self._calls: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()
        self._open = False
        self.finished = threading.Event()
        self.finished.set()

    # ---- for everybody ---------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether training is asked to hold (it may still owe some single steps)."""
        with self._condition:
            return self._paused

    @property
    def owed(self) -> int:
        """Single steps that the training at work was asked for and has not done yet; 0 while none is."""
        with self._condition:
            return self._steps if self._open else 0

    @property
    def stopping(self) -> bool:
        """Whether the training that is (or was last) at work has been asked to stop."""
        with self._condition:
            return self._stopped

    def play(self) -> None:
        """Go on; single steps that were asked for are forgotten."""
        self._change(paused=False, steps=0)

    def pause(self) -> None:
        """Hold before the next step."""
        self._change(paused=True, steps=0)

    def step(self, n: int = 1) -> None:
        """Do `n` more steps, then hold."""
        with self._condition:
            self._paused, self._steps = True, self._steps + n
            self._condition.notify_all()

    def stop(self) -> None:
        """Leave the loop before the next step."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def call(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run `function(*args)` between two steps on the training thread, also while paused.

        With no training thread at work it runs at once in the caller's thread.
        """
        future: Future[Any] = Future()
        with self._condition:
            if self._open:
                self._calls.append((future, function, args))
                self._condition.notify_all()
                return future
        _run(future, function, args)
        return future

    def _change(self, *, paused: bool, steps: int) -> None:
        with self._condition:
            self._paused, self._steps = paused, steps
            self._condition.notify_all()

    # ---- for the training thread -------------------------------------------------------------------

    def open(self) -> None:
        """A training thread begins: calls are queued for it from now on."""
        with self._condition:
            self._open, self._stopped = True, False
            self.finished.clear()

    def close(self) -> None:
        """The training thread ends: what is still queued is run by it now, later calls by their callers."""
        while True:
            with self._condition:
                if not self._calls:
                    self._open = False
                    break
                work = self._calls.popleft()
            _run(*work)
        self.finished.set()

    def tick(self, count: bool = True) -> bool:
        """To be called before each step; blocks while paused. False: leave the loop.

        Args:
            count: whether this step is one of those asked for by `step`; preparations (a teacher's
                training) go on while single steps are owed, and do not use them up.
        """
        while True:
            with self._condition:
                if self._calls:
                    work = self._calls.popleft()
                elif self._stopped:
                    return False
                elif not self._paused:
                    return True
                elif self._steps:
                    self._steps -= count
                    return True
                else:
                    self._condition.wait()
                    continue
            _run(*work)


def _run(future: Future[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function(*args))
    except BaseException as error:
        future.set_exception(error)

"""One painter: the only thread that writes to widgets, at the pace that the page can follow."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kdlab.panels.live import Pulse


class Source(Protocol):
    """Where news come from: `kdlab.training.events.Subscription`, or anything that takes like it."""

    def take(self, timeout: float | None = 0.0) -> dict[str, Any]:
        """What changed since the last call; waits up to `timeout` seconds for a change."""
        ...


class View(Protocol):
    """Something that a `Painter` keeps up to date."""

    def paint(self, news: dict[str, Any]) -> float | None:
        """Draw what changed. Called by the painter alone.

        Returns:
            Seconds after which to be called again even without news, or None.
        """
        ...


class Painter:
    """One thread that is the only writer of its views' widgets.

    It draws at most `hz` times a second, and less often if the page (through `pulse`) or the
    drawing itself is slow; news that arrive meanwhile coalesce. An error in one view is handed to
    `on_error` and neither ends the painter nor disturbs the other views. The painter rests without
    using the processor while nothing happens, goes on when the study is played again, from the
    panel or from Python, and ends with `close`. Where widgets cannot be written to from a thread,
    `draw` does the same on the thread that calls it.

    Args:
        source: where news come from, such as a subscription to a study's board.
        views: things with `paint(news)`.
        hz: most frames a second.
        pulse: tells how fast the page is; None does not ask it.
        on_error: called with a traceback in words.

    Attributes:
        frames: how many frames were drawn.
        lags: seconds that the page took for each of the latest frames.
        error: what ended the painter itself, else None.

    >>> class Shown:
    ...     def paint(self, news):
    ...         print(news)
    >>> board = kdlab.training.Board()
    >>> painter = kdlab.panels.Painter(board.subscribe(), [Shown()])
    >>> board.post(epoch=2)
    >>> board.post(epoch=3)
    >>> painter.draw()  # on this thread; `start` draws on one of its own
    {'epoch': 3}
    """

    def __init__(
        self,
        source: Source,
        views: Sequence[View],
        *,
        hz: float = 8.0,
        pulse: Pulse | None = None,
        on_error: Callable[[str], None] | None = None,
    ) -> None:
        self.frames = 0
        self.lags: list[float] = []
        self.error: BaseException | None = None
        self._source, self._views = source, list(views)
        self._gap, self._pulse, self._on_error = 1.0 / hz, pulse, on_error
        self._due: dict[int, float] = {}
        self._awake = threading.Event()
        self._awake.set()
        self._closing = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="kdlab-painter")

    def start(self) -> Painter:
        """Begin to draw, on a thread of its own."""
        self._thread.start()
        return self

    def draw(self, until: Callable[[], bool] = lambda: True) -> None:
        """Draw on the calling thread instead, until `until()` says so and everything posted is drawn."""
        while True:
            last = until()
            news = self._source.take(0.0 if last else min(self._patience(), 0.1))
            if news or self._is_due():
                self._frame(news, rest=not last)
            if last:
                return

    def close(self, timeout: float = 5.0) -> bool:
        """Ask the painter to end and wait for it; True if it did within `timeout` seconds.

        What was posted before is still drawn.
        """
        self._closing.set()
        return self._thread.ident is None or self._ended.wait(timeout)

    def rest(self) -> None:
        """Draw nothing until `wake`; news are kept."""
        self._awake.clear()

    def wake(self) -> None:
        """Go on drawing after `rest`."""
        self._awake.set()

    @property
    def ended(self) -> bool:
        """Whether the thread has left."""
        return self._ended.is_set()

    def _run(self) -> None:
        try:
            while True:
                last = self._closing.is_set()
                if not last and not self._awake.wait(0.5):
                    continue
                news = self._source.take(0.0 if last else self._patience())
                if news or self._is_due():
                    self._frame(news)
                if last:
                    break
        except BaseException as error:
            self.error = error
            self._report("the painter", error)
        finally:
            self._ended.set()

    def _patience(self) -> float:
        """Seconds to wait for news: until the next view is due, and short enough to notice `close`."""
        wait = min(self._due.values(), default=float("inf")) - time.monotonic()
        return min(max(wait, 0.0), 0.5)

    def _is_due(self) -> bool:
        return any(at <= time.monotonic() for at in self._due.values())

    def _frame(self, news: dict[str, Any], rest: bool = True) -> None:
        start = time.monotonic()
        for number, view in enumerate(self._views):
            self._due.pop(number, None)
            try:
                again = view.paint(news)
            except Exception as error:
                self._report(type(view).__name__, error)
                again = None
            if again is not None:
                self._due[number] = time.monotonic() + again
        self.frames += 1
        if self._pulse is not None and not self._closing.is_set():
            self.lags = [*self.lags[-99:], self._pulse.wait(1.0)]
        if not rest:
            return
        spent = time.monotonic() - start
        pause = self._gap - spent
        if self._pulse is None:  # no page to ask: let drawing take at most a third of the time
            pause = max(pause, 2 * spent)
        self._closing.wait(max(0.0, pause))

    def _report(self, where: str, error: BaseException) -> None:
        if self._on_error is None:
            return
        frame = traceback.extract_tb(error.__traceback__)[-1:]
        at = f" ({frame[0].filename.rsplit('/', 1)[-1]}, line {frame[0].lineno})" if frame else ""
        try:
            self._on_error(f"Drawing failed in {where}: {type(error).__name__}: {error}{at}")
        except Exception:  # the reporter itself is broken; there is nobody left to tell
            traceback.print_exc()

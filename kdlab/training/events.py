"""The way out of a running training: a board of latest values that never blocks the trainer."""

from __future__ import annotations

import threading
import time
from typing import Any


class Board:
    """Latest value per key. The trainer posts; each subscriber takes what changed since it last looked.

    >>> board = kdlab.training.Board()
    >>> reader = board.subscribe()
    >>> board.post(loss=0.9)
    >>> board.post(loss=0.7, epoch=1)
    >>> reader.take()
    {'loss': 0.7, 'epoch': 1}
    >>> board.latest("epoch"), reader.take()  # nothing new
    (1, {})
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._values: dict[str, tuple[int, Any]] = {}
        self._version = 0

    def post(self, **values: Any) -> None:
        """Replace the value of each key; a subscriber that is slow sees only the latest."""
        with self._condition:
            self._version += 1
            for key, value in values.items():
                self._values[key] = (self._version, value)
            self._condition.notify_all()

    def latest(self, key: str, default: Any = None) -> Any:
        """The value last posted under `key`."""
        with self._condition:
            return self._values.get(key, (0, default))[1]

    def subscribe(self) -> Subscription:
        """A reader of one's own; the first `take` hands over all that was posted so far."""
        return Subscription(self)


class Subscription:
    """One reader of a board. Not to be shared between threads.

    >>> board = kdlab.training.Board()
    >>> board.post(epoch=3)
    >>> board.subscribe().take()  # the first time, all that is there
    {'epoch': 3}
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._seen = 0

    def take(self, timeout: float | None = 0.0) -> dict[str, Any]:
        """What changed since the last call; waits up to `timeout` seconds (None: for ever) for a change."""
        board = self._board
        deadline = None if timeout is None else time.monotonic() + timeout
        with board._condition:
            while board._version <= self._seen:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return {}
                board._condition.wait(left)
            changed = {k: value for k, (version, value) in board._values.items() if version > self._seen}
            self._seen = board._version
            return changed

"""What a running sweep says: a moving line on a terminal or in a notebook, and a line for each point."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Self, TextIO

from kdlab.training.progress import format_seconds, redraws

_LONGEST = 118


class Reporter:
    """A `Watcher` that prints, and hands outcomes on.

    Args:
        total: number of points.
        done: how many of them were finished before.
        enabled: False prints nothing.
        note: is handed every outcome.
        stream: where to print; standard output if None.
    """

    def __init__(
        self,
        total: int,
        done: int,
        enabled: bool,
        note: Callable[[dict[str, Any]], None],
        stream: TextIO | None = None,
    ) -> None:
        self.total, self.done, self.enabled, self.note = total, done, enabled, note
        self._out = stream or sys.stdout
        self._moving = redraws(self._out)
        self._running: dict[str, str] = {}
        self._since: dict[str, float] = {}
        self._width = 0

    def __enter__(self) -> Self:
        if self.enabled and self.done:
            self._line(f"{self.done} of {self.total} points were finished before.")
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled and self._width:
            self._out.write("\r" + " " * self._width + "\r")
            self._out.flush()

    def begun(self, name: str) -> None:
        """A point is being trained."""
        self._running[name] = "begins"
        self._since[name] = time.monotonic()
        self._show()

    def progress(self, name: str, progress: Mapping[str, Any]) -> None:
        """How far it is."""
        teacher = f"teacher {progress.get('teacher', '')} " if progress.get("phase") == "teacher" else ""
        self._running[name] = f"{teacher}epoch {progress['epoch']}/{progress['epochs']}"
        self._show()

    def ended(self, outcome: dict[str, Any]) -> None:
        """A point is finished, stopped or failed."""
        name = outcome["point"]
        self._running.pop(name, None)
        seconds = time.monotonic() - self._since.pop(name, time.monotonic())
        self.note(outcome)
        if outcome["state"] == "finished":
            self.done += 1
        if self.enabled:
            said = f": {outcome['error']}" if outcome["state"] == "failed" else ""
            scores = ", ".join(f"{row['student']} {row['last']:.2%}" for row in outcome.get("rows", ()))
            said += f": {scores}" if scores else ""
            said += "".join(f"\n  {note}" for note in outcome.get("notes", ()))
            state = f"{outcome['state']} after {format_seconds(seconds)}"
            self._line(f"[{self.done}/{self.total}] {name} {state}{said}")
        self._show()

    def _line(self, text: str) -> None:
        self._out.write(("\r" + text.ljust(self._width) if self._width else text) + "\n")
        self._out.flush()
        self._width = 0

    def _show(self) -> None:
        if not (self.enabled and self._moving and self._running):
            return
        line = f"{self.done} of {self.total} points finished; "
        line += ", ".join(f"{name} {where}" for name, where in self._running.items())
        line = line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."
        self._out.write("\r" + line.ljust(self._width))
        self._out.flush()
        self._width = len(line)

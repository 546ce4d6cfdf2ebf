"""A progress bar in plain text, fed by a board; quiet where nobody watches."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from kdlab.training.events import Board

_WIDTH = 24


def format_progress(progress: dict[str, Any]) -> str:
    """One line: what is trained, a bar, epoch, speed, time left."""
    share = progress["step"] / max(progress["steps"], 1)
    filled = int(_WIDTH * share)
    what = f"teacher {progress.get('teacher', '')}" if progress["phase"] == "teacher" else "students"
    if progress.get("seeds", 1) > 1:
        what += f", seed {progress['seed_number']} of {progress['seeds']}"
    line = (
        f"{what:<24} [{'#' * filled}{'.' * (_WIDTH - filled)}] epoch {progress['epoch']}/{progress['epochs']}"
    )
    line += f"  {progress['rate']:,.0f} images/s"
    return line if progress["eta"] is None else f"{line}  {format_seconds(progress['eta'])} left"


def format_seconds(seconds: float) -> str:
    """Seconds as people say them: "8 s", "3 min 05 s", "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def redraws(stream: TextIO) -> bool:
    """Whether a line can be written over: on a terminal, or as the output of a notebook's cell."""
    return stream.isatty() or type(stream).__module__.startswith("ipykernel.")


@contextmanager
def show_progress(board: Board, enabled: bool = True, stream: TextIO | None = None) -> Iterator[None]:
    """Show progress while the body runs: a moving line on a terminal or in a notebook, otherwise
    one line for each tenth of the way."""
    if not enabled:
        yield
        return
    out = stream or sys.stdout
    moving = redraws(out)
    done = threading.Event()
    worker = threading.Thread(
        target=_paint, args=(board, out, moving, done), daemon=True, name="kdlab-progress"
    )
    worker.start()
    try:
        yield
    finally:
        done.set()
        worker.join(timeout=2.0)


def _paint(board: Board, out: TextIO, moving: bool, done: threading.Event) -> None:
    subscription = board.subscribe()
    shown, width, last = None, 0, ""
    while True:
        ending = done.wait(0.0)
        progress = subscription.take(0.2).get("progress")
        if progress is not None:
            line = format_progress(progress)
            part = (progress["phase"], progress.get("teacher"), progress["seed"])
            tenth = (*part, 10 * progress["step"] // max(progress["steps"], 1))
            if moving:
                if last and shown is not None and shown[:3] != part:
                    out.write("\n")
                out.write("\r" + line.ljust(width))
                width, last, shown = len(line), line, tenth
            elif tenth != shown:
                out.write(line + "\n")
                shown = tenth
            out.flush()
        if ending:
            break
        done.wait(0.05)
    if moving and last:
        out.write("\n")
        out.flush()

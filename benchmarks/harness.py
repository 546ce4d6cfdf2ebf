"""What the benchmarks share: sides measured in turn, medians, a table, a description of the machine.

Every side of a comparison lives in a process of its own, so that an allocator or thread setting of
one does not reach the other, and is asked for short windows of work in turn: textbook, kdlab,
textbook, kdlab, ... So a busy moment of the machine hits all sides alike, and the ratio of the
medians over the rounds means something where seconds do not. A library; nothing happens when it is run.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from machine import Others

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Window:
    """Work done in one window: pictures (times students, where there are several) and seconds."""

    pictures: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.pictures / self.seconds


class Side(Protocol):
    """One side of a comparison; made and used in a process of its own."""

    def run(self, seconds: float) -> Window:
        """Train for at least so long, whole steps only."""
        ...

    def close(self) -> None: ...


class SideFailed(RuntimeError):
    """A side could not be made, raised an error, or died; the message is fit for a table."""


class Child:
    """A side in a process of its own. `ask` calls one of its methods there and waits for the answer.

    Args:
        make: makes the side; a function or class that can be imported.
        options: keyword arguments for it.
        threads: of torch in that process; None leaves the default.
    """

    def __init__(self, make: Callable[..., Any], threads: int | None = None, **options: Any) -> None:
        context = _processes()
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far, make, threads, options))
        self._process.start()
        far.close()
        try:
            self._answer()
        except SideFailed:
            self.close()
            raise

    def ask(self, method: str, *args: Any) -> Any:
        """Result of `side.method(*args)`, or the attribute of that name."""
        try:
            self._pipe.send((method, args))
        except OSError as error:
            raise SideFailed("its process died") from error
        return self._answer()

    def run(self, seconds: float) -> Window:
        """A window of work."""
        window = self.ask("run", seconds)
        assert isinstance(window, Window)
        return window

    def _answer(self) -> Any:
        try:
            good, value = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise SideFailed("its process died") from error
        if not good:
            raise SideFailed(value)
        return value

    def close(self) -> None:
        """End the process; killed where it does not listen."""
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()


@functools.cache
def _processes() -> Any:
    """Where new processes come from: forks of a process that has only imported what all need, if possible."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torchvision", "sklearn.datasets", "kdlab"])
    return context


def _serve(pipe: Any, make: Callable[..., Any], threads: int | None, options: dict[str, Any]) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    side: Any = None
    try:
        side = make(**options)
        pipe.send((True, None))
        while (asked := pipe.recv()) is not None:
            method, args = asked
            found = getattr(side, method)
            pipe.send((True, found(*args) if callable(found) else found))
    except (EOFError, KeyboardInterrupt):
        pass
    except BaseException as error:
        if os.environ.get("KDLAB_BENCH_TRACE"):
            traceback.print_exc()
        pipe.send((False, _message(error)))
    finally:
        if side is not None:
            side.close()


def _message(error: BaseException) -> str:
    text = (str(error).splitlines() or [""])[0]
    return text if isinstance(error, SideFailed) else f"{type(error).__name__}: {text}"


def in_turn(
    sides: Mapping[str, Side], rounds: int, seconds: float, patience: float = 0.0
) -> dict[str, list[float]]:
    """Pictures a second of every side in every round, after one round that does not count.

    Args:
        sides, rounds, seconds: what is measured, how often, and the least length of a window.
        patience: seconds to spend on repeating windows in which others used over a tenth of the machine.
    """
    rates: dict[str, list[float]] = {name: [] for name in sides}
    others, worst = Others(), 0.0
    for number in range(rounds + 1):
        for name, side in sides.items():
            while True:
                started = time.monotonic()
                others.begin()
                window = side.run(seconds if number else min(seconds, 1.0))
                share = others.share()
                if not number or patience <= 0 or share < 0.1:
                    break
                patience -= time.monotonic() - started
            if number:
                rates[name].append(window.rate)
                worst = max(worst, share)
    if worst > 0.1:
        print(f"(others used up to {worst:.0%} of the processors in a window)")
    return rates


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def ratio(rates: Mapping[str, Sequence[float]], side: str, base: str) -> float:
    """Median of `side` over median of `base`."""
    return median(rates[side]) / median(rates[base])


def spread(rates: Mapping[str, Sequence[float]], side: str, base: str) -> str:
    """Smallest and largest ratio within one round, as text."""
    each = [a / b for a, b in zip(rates[side], rates[base])]
    return f"{min(each):.2f} to {max(each):.2f}"


# ---- printing ---------------------------------------------------------------------------------------


def arguments(doc: str | None, rounds: int = 0, windows: bool = False) -> argparse.ArgumentParser:
    """A parser with --quick, --json and --threads; --rounds (with its default) and --seconds if wanted."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seconds, not minutes: only tries the code")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of torch in every process")
    if rounds:
        parser.add_argument("--rounds", type=int, default=rounds, metavar="N")
        parser.add_argument(
            "--patience",
            type=float,
            default=0.0,
            metavar="S",
            help="seconds to spend on repeating windows that others disturbed",
        )
    if windows:
        parser.add_argument("--seconds", type=float, metavar="S", help="length of a window; else by the case")
    return parser


def table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """Rows as aligned text; numbers to the right. `columns`: which, in that order; None: all."""
    names = list(columns) if columns is not None else list(dict.fromkeys(k for row in rows for k in row))
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]
    right = [any(isinstance(row.get(name), int | float) for row in rows) for name in names]
    lines = []
    for line in [names, *cells]:
        parts = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right)]
        lines.append("  ".join(parts).rstrip())
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return str(value)


def write(path: Path | None, about: Mapping[str, Any], **results: Any) -> None:
    """The figures as JSON, with machine and command, where a file was named."""
    if path is None:
        return
    command = " ".join(["python", "benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]])
    when = time.strftime("%Y-%m-%d %H:%M")
    text = json.dumps({"command": command, "date": when, "machine": dict(about), **results}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")

"""A record that TensorBoard shows while a study trains: one run for each student and seed."""

from __future__ import annotations

import math
import re
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdlab.errors import ConfigError

_FLUSH_SECONDS = 10  # how long a value may wait before it can be seen
_PLAIN = ("loss", "grad_norm", "lr")  # step columns under their own names; terms are named below
_UNSAFE = re.compile(r'[\x00-\x1f<>:"/\\|?*]')  # in a file name, on some system


class TensorBoardListener:
    """Writes what a run records to event files, beside kdlab's own record, which stays the truth.

    Each student is a run of its own in `folder/STUDENT`, with the same tags, so that all students lie in
    one chart: "loss", "grad_norm", "lr", "term/NAME" (raw value) and "weighted/NAME"
    by step; "train/accuracy", "train/loss", "val/...", "test/...", "side/NAME" and "epoch" at the step
    that ends the epoch. Steps are counted from 1. Commands are texts in the run `folder` itself.

    A run that is resumed begins its steps again where its checkpoint was; what an earlier process
    wrote from there on is then hidden by TensorBoard, so nothing is shown twice. A value that is not
    a finite number, such as that of a term that is switched off, is left out.

    Look at all seeds of a study: `tensorboard --logdir STUDY/tensorboard`.

    Args:
        folder: of the run, `STUDY/tensorboard/seed-N`.
        every: write every so many steps. None writes each of the first 1,000 steps, then every tenth up
            to 10,000, every hundredth up to 100,000 and so on: TensorBoard shows about a thousand
            points of a curve, and writing costs time on the training thread.

    Raises:
        ConfigError: the package tensorboard is not installed, or `every` cannot be.
    """

    def __init__(self, folder: str | Path, every: int | None = None) -> None:
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise ConfigError(f"every must be a whole number of steps, at least 1, not {every!r}.")
        self._make = require_tensorboard()
        self.folder = Path(folder)
        self.every = every
        self._writers: dict[str, Any] = {}
        self._last: dict[str, int] = {}
        self._commands: Any = None
        self._texts: dict[tuple[str, int], list[str]] = {}

    # ---- what a record tells its listeners -----------------------------------------------------------

    def steps(self, student: str, columns: Sequence[str], first: int, block: np.ndarray) -> None:
        """Rows of the steps `first`, `first` + 1, ... (counted from 0); `block`: (steps, columns)."""
        if not len(block):
            return
        writer = self._writer(student, first + 1)
        places = {name: columns.index(name) for name in _PLAIN if name in columns}
        terms = {c.removeprefix("term/"): i for i, c in enumerate(columns) if c.startswith("term/")}
        factors = {c.removeprefix("factor/"): i for i, c in enumerate(columns) if c.startswith("factor/")}
        for number, row in enumerate(np.asarray(block, dtype=np.float64), first + 1):
            if number % (self.every or _stride(number)):
                continue
            values = [(name, row[place]) for name, place in places.items()]
            values += [(f"term/{name}", row[place]) for name, place in terms.items()]
            values += [
                (f"weighted/{name}", row[place] * row[factors[name]])
                for name, place in terms.items()
                if name in factors
            ]
            _write(writer, values, number)
        self._last[student] = first + len(block)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """One row of an epoch's results."""
        student, step = str(row["student"]), int(row["step"])
        values = [(tag, row[key]) for key in row if (tag := _tag(key))]
        _write(self._writer(student, step, rewinds=False), values, step)
        self._last[student] = max(step, self._last.get(student, 0))

    def command(self, mark: Mapping[str, Any]) -> None:
        """A command that was given; to be told once for each, and not again when a run is resumed."""
        if self._commands is None:
            self._commands = self._make(str(self.folder), flush_secs=_FLUSH_SECONDS)
        place = (str(mark["student"]), int(mark["step"]) + 1)
        # TensorBoard keeps one text a step, so a second one is told together with the first
        said = self._texts.setdefault(place, [])
        said.append(f"- epoch {mark['epoch']}, step {place[1]}: {mark['text']}")
        self._commands.add_text(f"commands/{place[0]}", "\n".join(said), place[1])

    def close(self) -> None:
        """Write what is waiting and close the files; whatever comes later opens new ones."""
        for writer in (*self._writers.values(), *filter(None, [self._commands])):
            writer.close()
        self._writers.clear()
        self._commands = None

    # ---- files ---------------------------------------------------------------------------------------

    def _writer(self, student: str, step: int, rewinds: bool = True) -> Any:
        """The writer of a student; a new one that hides all from `step` on where a run begins again."""
        if rewinds and student in self._writers and step <= self._last.get(student, 0):
            self._writers.pop(student).close()
        if student not in self._writers:
            folder = self.folder / run_name(student)
            _wait_for_a_later_name(folder)
            self._writers[student] = self._make(str(folder), purge_step=step, flush_secs=_FLUSH_SECONDS)
        return self._writers[student]


def _wait_for_a_later_name(folder: Path) -> None:
    """Files are read in the order of their names, which begin with the second they were made in."""
    while any(f".tfevents.{int(time.time())}." in path.name for path in folder.glob("events.*")):
        time.sleep(0.05)


def require_tensorboard() -> Any:
    """The class that writes event files, `torch.utils.tensorboard.SummaryWriter`.

    Raises:
        ConfigError: the package tensorboard is not installed here.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:  # torch raises it, too, where the version is too old
        raise ConfigError(
            "The package tensorboard is not installed here; get it with: pip install 'tensorboard>=2.15'"
        ) from error
    return SummaryWriter


def run_name(student: str) -> str:
    """A student's name as the name of a folder; one that had to be changed gets a mark of its own."""
    safe = _UNSAFE.sub("_", student).strip(". ")
    return safe if safe == student else f"{safe}-{zlib.crc32(student.encode()):08x}"


def _stride(number: int) -> int:
    return int(10 ** max(len(str(number - 1)) - 3, 0))


def _tag(key: str) -> str:
    """What an entry of an epoch's row is called, or "" where it is not shown."""
    part, _, what = key.partition("_")
    if part in ("train", "sample", "val", "test") and what:
        return f"{part}/{what}"
    return key if key.startswith("side/") or key == "epoch" else ""


def _write(writer: Any, values: Iterable[tuple[str, Any]], step: int) -> None:
    """All values of a step as one event, which costs far less than an `add_scalar` for each."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    kept = [(tag, float(value)) for tag, value in values if value is not None and math.isfinite(value)]
    if kept:
        entries = [Summary.Value(tag=tag, simple_value=value) for tag, value in kept]
        writer.file_writer.add_summary(Summary(value=entries), step)

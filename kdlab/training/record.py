"""What happened, per step and per epoch: in memory for live views, in the study folder for ever.

Step values are appended to one plain file per student (little-endian float32, a row a step), epoch
rows and commands to files of JSON lines; a record read from the folder of a killed run is the same
object that live views use.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kdlab.errors import StudyError
from kdlab.training.files import (
    append_bytes,
    append_json_line,
    read_json,
    read_json_lines,
    rewrite_json_lines,
    write_json,
)

_ROW = np.dtype("<f4")


class Listener(Protocol):
    """Somebody who wants every value, such as a TensorBoard writer; called on the training thread."""

    def steps(self, student: str, columns: Sequence[str], first: int, block: np.ndarray) -> None:
        """Rows of the steps `first`, `first` + 1, ... (counted from 0)."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """One row of an epoch's results."""

    def command(self, mark: Mapping[str, Any]) -> None:
        """A command that was given."""

    def close(self) -> None:
        """The training ends or is interrupted."""


class _Series:
    """Step values of one student, from its first step on without a gap."""

    def __init__(self, columns: Sequence[str], first: int, file: str) -> None:
        self.columns, self.first, self.file = list(columns), first, file
        self.chunks: list[np.ndarray] = []
        self.count = 0
        self.written = 0  # rows in the file

    def add(self, block: np.ndarray) -> None:
        self.chunks.append(np.ascontiguousarray(block, dtype=_ROW))
        self.count += len(block)

    def values(self) -> np.ndarray:
        if len(self.chunks) != 1:  # join once, so that reading again is cheap
            empty = np.zeros((0, len(self.columns)), dtype=_ROW)
            self.chunks = [np.concatenate(self.chunks) if self.chunks else empty]
        return self.chunks[0]

    def cut(self, rows: int) -> None:
        self.chunks, self.count = [self.values()[:rows]], min(rows, self.count)


class RunRecord:
    """The record of one seed. Written by the training thread alone; read from any thread.

    Step columns of a student are "loss" (weighted total), "train_correct" (share of the batch),
    "grad_norm" (2-norm of the gradient of the total), "lr", and for each term "term/NAME" (raw value,
    NaN while off) and "factor/NAME".

    Attributes:
        rows: of finished epochs, one a student.
        listeners: told of everything that is added.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self.listeners: list[Listener] = []
        self._lock = threading.Lock()
        self._series: dict[str, _Series] = {}

    # ---- writing -------------------------------------------------------------------------------------

    def declare(self, student: str, columns: Sequence[str], first: int = 0) -> None:
        """Announce a student's step columns and its first step, before its first block.

        Raises:
            StudyError: it is known already with other columns.
        """
        with self._lock:
            known = self._series.get(student)
            if known is not None and known.columns != list(columns):
                raise StudyError(
                    f"Student {student!r} was recorded with other terms ({_terms(known.columns)}) than its "
                    f"method has now ({_terms(columns)}); its code has changed since. Use the code of then."
                )
            if known is None:
                self._series[student] = series = _Series(columns, first, self._free_file())
        if known is None and self.folder is not None:
            # of a student whom a killed run had begun to record, and whom no checkpoint knows
            (self.folder / "steps" / series.file).unlink(missing_ok=True)
            self._write_index()

    def _free_file(self) -> str:
        taken = {series.file for series in self._series.values()}
        return next(file for n in range(len(taken) + 1) if (file := f"{n}.f32") not in taken)

    def _write_index(self) -> None:
        index = {
            name: {"file": s.file, "first": s.first, "columns": s.columns} for name, s in self._series.items()
        }
        assert self.folder is not None
        write_json(self.folder / "steps" / "index.json", index)

    def add_steps(self, student: str, first: int, block: np.ndarray) -> None:
        """Add rows for the steps `first`, `first` + 1, ...; `block`: (steps, columns)."""
        with self._lock:
            series = self._series[student]
            if first != series.first + series.count:
                raise StudyError(f"The record of {student!r} has a gap before step {first}.")
            series.add(block)
        for listener in self.listeners:
            listener.steps(student, series.columns, first, block)

    def add_epoch(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add the rows of one finished epoch (one a student) and write them and their steps down."""
        with self._lock:
            self.rows.extend(rows)
        self.write_steps()
        if self.folder is not None and rows:
            append_json_line(self.folder / "epochs.jsonl", *rows)
        for listener in self.listeners:
            for row in rows:
                listener.epoch(row)

    def write_steps(self) -> None:
        """Append all steps that are not in the files yet."""
        if self.folder is None:
            return
        for series in self._series.values():
            if series.count > series.written:
                with self._lock:
                    rows = series.values()[series.written : series.count]
                append_bytes(self.folder / "steps" / series.file, rows.tobytes())
                series.written = series.count

    # ---- reading -------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read what the folder holds, to be looked at."""
        if self.folder is None or not (self.folder / "steps" / "index.json").exists():
            return
        self.rows = read_json_lines(self.folder / "epochs.jsonl")
        for name, known in read_json(self.folder / "steps" / "index.json").items():
            series = _Series(known["columns"], known["first"], known["file"])
            path = self.folder / "steps" / series.file
            flat = np.fromfile(path, dtype=_ROW) if path.exists() else np.zeros(0, dtype=_ROW)
            width = len(series.columns)
            series.add(flat[: len(flat) // width * width].reshape(-1, width))
            series.written = series.count
            self._series[name] = series

    def go_back(self, positions: Mapping[str, tuple[int, int]]) -> None:
        """Drop what lies behind a checkpoint, in memory and in the folder.

        Args:
            positions: student -> (next step, last finished epoch); students that are not named go.
        """
        kept = [r for r in self.rows if r["epoch"] <= positions.get(r["student"], (0, 0))[1]]
        if self.folder is not None and len(kept) < len(self.rows):
            rewrite_json_lines(self.folder / "epochs.jsonl", kept)
        self.rows = kept
        gone = [name for name in self._series if name not in positions]
        for name in gone:
            del self._series[name]
        for name, series in self._series.items():
            rows = max(positions[name][0] - series.first, 0)
            if series.count < rows:
                warnings.warn(
                    f"The record of {name!r} in {self.folder} was cut short: its values from step "
                    f"{series.first + series.count} to the checkpoint at step {positions[name][0]} are lost. "
                    "Weights are not affected.",
                    stacklevel=2,
                )
                series.add(np.full((rows - series.count, len(series.columns)), np.nan))
            series.cut(rows)
            if self.folder is not None:
                path = self.folder / "steps" / series.file
                size = min(series.written, series.count) * len(series.columns) * _ROW.itemsize
                if path.exists() and path.stat().st_size > size:  # also the half of a row
                    os.truncate(path, size)
                series.written = min(series.written, series.count)
        if gone and self.folder is not None:
            self._write_index()

    def series(self, student: str, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps (from 1) and values of one column; "weighted/NAME" is raw times factor."""
        nothing = np.zeros(0, dtype=np.float32)
        with self._lock:
            series = self._series.get(student)
            if series is None:
                return nothing, nothing
            values = series.values()
        columns = series.columns
        kind, _, name = key.partition("/")
        if kind == "weighted" and f"term/{name}" in columns:
            column = values[:, columns.index(f"term/{name}")] * values[:, columns.index(f"factor/{name}")]
        elif key in columns:
            column = values[:, columns.index(key)]
        else:
            return nothing, nothing
        return np.arange(series.first + 1, series.first + 1 + len(column), dtype=np.float32), column

    def tail(self, student: str, key: str, first: int) -> np.ndarray:
        """Values of one column from step `first` (counted from 0) on."""
        steps, values = self.series(student, key)
        return values[max(first - int(steps[0]) + 1, 0) :] if len(steps) else values

    def epoch_series(self, student: str, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Epochs and values of one entry of the epoch rows ("val_accuracy", "side/pseudo", ...)."""
        with self._lock:
            pairs = [
                (r["epoch"], r[key]) for r in self.rows if r["student"] == student and r.get(key) is not None
            ]
        array = np.asarray(pairs, dtype=np.float32).reshape(-1, 2)
        return array[:, 0], array[:, 1]

    def columns(self, student: str) -> list[str]:
        """Names of the step columns of a student."""
        with self._lock:
            return list(self._series[student].columns) if student in self._series else []


def _terms(columns: Sequence[str]) -> str:
    return ", ".join(c.removeprefix("term/") for c in columns if c.startswith("term/")) or "none"


class Record:
    """The records of all seeds of a study behind one interface; seed None means the latest started."""

    def __init__(self) -> None:
        self.runs: dict[int, RunRecord] = {}
        self.commands: list[dict[str, Any]] = []
        self.latest: int | None = None

    def run(self, seed: int | None = None) -> RunRecord | None:
        """The record of `seed`, or of the seed started last; None where nothing was recorded."""
        if seed is None:
            seed = self.latest if self.latest is not None else next(reversed(self.runs), None)
        return None if seed is None else self.runs.get(seed)

    def series(self, student: str, key: str, seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `RunRecord.series`; empty arrays where nothing was recorded."""
        run = self.run(seed)
        return run.series(student, key) if run else (np.zeros(0, np.float32), np.zeros(0, np.float32))

    def epoch_series(self, student: str, key: str, seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `RunRecord.epoch_series`; empty arrays where nothing was recorded."""
        run = self.run(seed)
        return run.epoch_series(student, key) if run else (np.zeros(0, np.float32), np.zeros(0, np.float32))

    def marks(self, seed: int | None = None) -> list[dict[str, Any]]:
        """Commands given, each with kind, seed, step, epoch, student and a short text."""
        return [dict(c) for c in list(self.commands) if seed is None or c["seed"] == seed]

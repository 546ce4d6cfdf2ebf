"""What happened, per step and per epoch: in memory for live views, in the study folder for ever.

Step series go into one small file per epoch, epoch rows and commands into JSON lines; a record
read from the folder of a killed run is the same object that live views use.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdlab.training.files import append_json_line, read_json_lines, read_tensors, write_atomic, write_tensors


class RunRecord:
    """The record of one seed. Written by the training thread alone; read from any thread.

    Step columns of a student are "loss" (weighted total), "train_correct" (share of the batch),
    "lr", and for each term "term/NAME" (raw value, NaN while off) and "factor/NAME".
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._columns: dict[str, list[str]] = {}
        self._chunks: dict[str, list[np.ndarray]] = {}
        self._steps: dict[str, list[np.ndarray]] = {}
        self.rows: list[dict[str, Any]] = []

    def set_columns(self, student: str, columns: Sequence[str]) -> None:
        """Declare the step columns of a student before its first block."""
        with self._lock:
            if self._columns.get(student) != list(columns):
                self._columns[student] = list(columns)
                self._chunks[student], self._steps[student] = [], []

    def add_steps(self, student: str, first: int, block: np.ndarray) -> None:
        """Add rows for the steps `first`, `first` + 1, ...; `block`: (steps, columns)."""
        with self._lock:
            self._chunks[student].append(np.asarray(block, dtype=np.float32))
            self._steps[student].append(np.arange(first, first + len(block), dtype=np.int64))

    def add_epoch(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add the rows of one finished epoch (one a student) and write them down."""
        with self._lock:
            self.rows.extend(rows)
        if self.folder is not None:
            for row in rows:
                append_json_line(self.folder / "epochs.jsonl", row)

    def save_steps(self, epoch: int, first: int) -> None:
        """Write all steps from `first` on as the block of `epoch`."""
        if self.folder is None:
            return
        tensors = {}
        for student, (steps, values) in self._all().items():
            keep = steps >= first
            tensors[f"{student}|steps"] = torch.from_numpy(steps[keep])
            tensors[f"{student}|values"] = torch.from_numpy(values[keep])
        with self._lock:
            columns = {student: list(names) for student, names in self._columns.items()}
        write_tensors(self.folder / "steps" / f"{epoch:05d}.safetensors", tensors, {"columns": columns})

    def _all(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        with self._lock:
            joined = {}
            for student, columns in self._columns.items():
                steps, chunks = self._steps[student], self._chunks[student]
                if len(steps) > 1:  # join once, so that reading again is cheap
                    self._steps[student] = steps = [np.concatenate(steps)]
                    self._chunks[student] = chunks = [np.concatenate(chunks)]
                empty = np.zeros((0, len(columns)), dtype=np.float32)
                joined[student] = (
                    steps[0] if steps else np.zeros(0, dtype=np.int64),
                    chunks[0] if chunks else empty,
                )
            return joined

    def series(self, student: str, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps (from 1) and values of one column; "weighted/NAME" is raw times factor."""
        steps, values = self._all().get(student, (np.zeros(0, np.int64), np.zeros((0, 0), np.float32)))
        columns = self._columns.get(student, [])
        kind, _, name = key.partition("/")
        if kind == "weighted" and f"term/{name}" in columns:
            column = values[:, columns.index(f"term/{name}")] * values[:, columns.index(f"factor/{name}")]
        elif key in columns:
            column = values[:, columns.index(key)]
        else:
            return np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.float32)
        return (steps + 1).astype(np.float32), column

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
            return list(self._columns.get(student, []))

    def load(self, *, before_step: int, to_epoch: int) -> None:
        """Read the folder, dropping what lies behind a checkpoint (steps and epochs done after it)."""
        if self.folder is None:
            return
        every = read_json_lines(self.folder / "epochs.jsonl")
        self.rows = [row for row in every if row["epoch"] <= to_epoch]
        if len(self.rows) < len(every):
            rewrite_json_lines(self.folder / "epochs.jsonl", self.rows)
        for path in sorted((self.folder / "steps").glob("*.safetensors")):
            tensors, info = read_tensors(path)
            for student, columns in info["columns"].items():
                self.set_columns(student, columns)
                steps = tensors[f"{student}|steps"].numpy()
                keep = steps < before_step
                if keep.any():
                    self.add_steps(student, int(steps[keep][0]), tensors[f"{student}|values"].numpy()[keep])


def rewrite_json_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace a file of JSON lines by `rows`, atomically."""
    import json

    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomic(path, write)


class Record:
    """The records of all seeds of a study behind one interface; seed None means the latest started."""

    def __init__(self) -> None:
        self.runs: dict[int, RunRecord] = {}
        self.commands: list[dict[str, Any]] = []

    def run(self, seed: int | None = None) -> RunRecord | None:
        """The record of `seed`, or of the seed started last; None where nothing was recorded."""
        if seed is None:
            return next(reversed(self.runs.values()), None)
        return self.runs.get(seed)

    def series(self, student: str, key: str, seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `RunRecord.series`; empty arrays where nothing was recorded."""
        run = self.run(seed)
        return run.series(student, key) if run else (np.zeros(0, np.float32), np.zeros(0, np.float32))

    def epoch_series(self, student: str, key: str, seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `RunRecord.epoch_series`; empty arrays where nothing was recorded."""
        run = self.run(seed)
        return run.epoch_series(student, key) if run else (np.zeros(0, np.float32), np.zeros(0, np.float32))

    def marks(self, seed: int | None = None) -> list[dict[str, Any]]:
        """Commands given, each with seed, step, epoch, student, term and a short text."""
        return [dict(c) for c in list(self.commands) if seed is None or c["seed"] == seed]

"""The files of one seed that training goes on from: the last checkpoint, the best weights, kept states.

`last.safetensors` holds everything of all students at one instant, plain values in its header, so
weights and positions cannot disagree. `best.safetensors` holds each student's weights at its best
epoch. `kept/step-N.safetensors` holds the states of students that were at step N, for forks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from kdlab.errors import CheckpointError
from kdlab.training.files import merge_tensors, read_info, read_tensors, write_tensors
from kdlab.training.student import StudentRun, joined, of_student

CHECKPOINT_FORMAT = 2


class Checkpoints:
    """Writes and reads the checkpoints of one seed; does nothing where there is no folder."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._best_written: dict[str, int] = {}

    # ---- the last one --------------------------------------------------------------------------------

    def save(self, students: Sequence[StudentRun], roster: Sequence[str], complete: bool) -> None:
        """Write the state of all students.

        Args:
            roster: names of all who take part, also of forks that were not made.
            complete: whether there is nothing left to train.
        """
        if self.folder is None:
            return
        best = {s.name: s.best.epoch for s in students if s.best.weights}
        if best != self._best_written:
            weights = joined([(s.name, s.best.weights) for s in students if s.best.weights])
            write_tensors(self.folder / "best.safetensors", weights, {"epochs": best})
            self._best_written = best
        states = [(s.name, *s.state()) for s in students]
        info = {
            "format": CHECKPOINT_FORMAT,
            "roster": list(roster),
            "complete": complete,
            "students": {name: plain for name, _, plain in states},
        }
        tensors = joined([(name, own) for name, own, _ in states])
        write_tensors(self.folder / "last.safetensors", tensors, info)

    def load(self) -> Saved | None:
        """The last checkpoint, or None.

        Raises:
            CheckpointError: it is damaged, or another version of kdlab wrote it.
        """
        if self.folder is None or not (self.folder / "last.safetensors").exists():
            return None
        tensors, info = read_tensors(self.folder / "last.safetensors")
        check_format(self.folder / "last.safetensors", info)
        best: dict[str, Tensor] = {}
        epochs: dict[str, int] = {}
        if (self.folder / "best.safetensors").exists():
            best, best_info = read_tensors(self.folder / "best.safetensors")
            epochs = best_info["epochs"]
        self._best_written = {}
        return Saved(tensors, info["students"], best, epochs)

    # ---- kept states ---------------------------------------------------------------------------------

    def keep(self, students: Sequence[StudentRun]) -> None:
        """Keep the states of students, all at one step, beside what is kept of that step already."""
        if self.folder is None or not students:
            return
        states = [(s.name, *s.state()) for s in students]
        path = self.folder / "kept" / f"step-{students[0].step:08d}.safetensors"
        plain = {name: plain for name, _, plain in states}
        merge_tensors(path, joined([(name, own) for name, own, _ in states]), "students", plain)

    def kept_steps(self, name: str) -> list[int]:
        """Steps at which a state of this student is kept."""
        steps = []
        for path in sorted((self.folder / "kept").glob("step-*.safetensors")) if self.folder else []:
            found = re.fullmatch(r"step-(\d+)\.safetensors", path.name)
            if found and name in read_info(path)["students"]:
                steps.append(int(found.group(1)))
        return steps

    def kept(self, name: str, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A kept state, as `StudentRun.load_state` takes it."""
        assert self.folder is not None
        path = self.folder / "kept" / f"step-{step:08d}.safetensors"
        tensors, info = read_tensors(path, prefix=f"{name}|")
        return of_student(tensors, name), info["students"][name]


class Saved:
    """A checkpoint that was read."""

    def __init__(
        self,
        tensors: dict[str, Tensor],
        students: Mapping[str, dict[str, Any]],
        best: dict[str, Tensor],
        best_epochs: Mapping[str, int],
    ) -> None:
        self._tensors, self.students, self._best, self._best_epochs = tensors, students, best, best_epochs

    def restore(self, student: StudentRun) -> None:
        """Bring a student back to where it was."""
        student.load_state(of_student(self._tensors, student.name), self.students[student.name])
        if self._best_epochs.get(student.name) == student.best.epoch:
            weights = of_student(self._best, student.name)
            student.best.weights = {k: v.to(student.device) for k, v in weights.items()}


def check_format(path: Path, info: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that another version of kdlab wrote."""
    if info.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {info.get('format')!r} and this kdlab reads "
            f"{CHECKPOINT_FORMAT}; go on with the version of kdlab that wrote it."
        )

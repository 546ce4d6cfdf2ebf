"""What the halves of a study share: its state, and what is compared in it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdlab import models
from kdlab.data import ImageData
from kdlab.errors import ConfigError, StudyError, unknown_name
from kdlab.methods import Method
from kdlab.models.features import StagedNet
from kdlab.training.control import Control
from kdlab.training.events import Board
from kdlab.training.files import read_info
from kdlab.training.loop import Run
from kdlab.training.recipes import Recipe
from kdlab.training.record import Record
from kdlab.training.snapshots import ProbeSet
from kdlab.training.teacher_specs import TeacherSpec
from kdlab.training.teachers import TeacherInfo

EVER = 2**62  # a step after every other


class StudyState:
    """Attributes of a `Study`, and the questions about them that all its parts ask.

    Attributes:
        folder: where the study lives.
        asked: what was asked for, as plain values.
        data: the data set the students see; `whole_data` before `labels_per_class` cut it.
        seeds, recipe, device: as in `Study`.
        record: what happened so far.
        board: latest values, for live views.
        control: the way in to the training thread.
        teachers: known once they are prepared.
        error: what made the training fail.
    """

    folder: Path
    asked: dict[str, Any]
    data: ImageData
    whole_data: ImageData
    seeds: list[int]
    recipe: Recipe
    device: torch.device
    record: Record
    board: Board
    control: Control
    teachers: list[TeacherInfo]
    error: Exception | None
    _methods: dict[str, Method]
    _specs: Sequence[TeacherSpec]
    _student: str | dict[str, Any] | nn.Module | Callable[[], nn.Module]
    _probe_set: ProbeSet | None
    _run: Run | None
    _state: str
    _views_only: bool
    _lock: threading.RLock

    def _start_empty(self, folder: Path, asked: dict[str, Any]) -> None:
        self.folder = folder
        self.asked = asked
        self.record = Record()
        self.board = Board()
        self.control = Control()
        self.error: Exception | None = None
        self.teachers: list[TeacherInfo] = []
        self._probe_set: ProbeSet | None = None
        self._run: Run | None = None
        self._lock = threading.RLock()
        self._state = "new"
        self.board.post(state="new")

    @property
    def names(self) -> list[str]:
        """Names of the students, in the order given."""
        return list(self._methods)

    @property
    def methods(self) -> dict[str, Method]:
        """The methods as asked for, by student; see `terms` for what holds now."""
        return dict(self._methods)

    @property
    def teacher_name(self) -> str:
        """Name of the first teacher, or "" without one."""
        return self._specs[0].name if self._specs else ""

    @property
    def epochs(self) -> int:
        """Length of the training of each seed."""
        return self.recipe.epochs

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch."""
        whole, rest = divmod(len(self.data.train), self.recipe.batch_size)
        return whole + (rest > 1 and not self.recipe.drop_last)

    @property
    def probe_set(self) -> ProbeSet:
        """The held-out pictures every snapshot looks at."""
        if self._probe_set is None:
            raise StudyError(f"{self.folder} holds no probe set; the study was stopped before it began.")
        return self._probe_set

    def _new_student(self) -> StagedNet:
        return student_net(self._student, self.data)

    def _seed_folder(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}"

    def _seed_position(self, seed: int) -> tuple[bool, int]:
        """Whether a seed is done, and its next step, by its last checkpoint."""
        path = self._seed_folder(seed) / "last.safetensors"
        if not path.exists():
            return False, 0
        info = read_info(path)
        return info["epoch"] > self.epochs, info["step"]

    def _position(self) -> tuple[int, int]:
        """(number of the present seed from 1, next step in it)."""
        run = self._run
        if run is not None:
            return self.seeds.index(run.plan.seed) + 1, run.step
        for number, seed in enumerate(self.seeds, 1):
            done, step = self._seed_position(seed)
            if not done:
                return number, step
        return len(self.seeds), EVER

    def _require_student(self, student: str) -> None:
        if student not in self._methods:
            raise unknown_name("student", student, self._methods)


def student_net(student: Any, data: ImageData) -> StagedNet:
    if isinstance(student, str):
        return models.build(student, num_classes=data.num_classes, in_channels=data.channels)
    if isinstance(student, dict):
        raise StudyError(
            f"The student of this study was a module ({student.get('module')}); "
            "give kdlab.load_study(folder, student=...)."
        )
    net = student
    if isinstance(student, nn.Module):
        net = copy.deepcopy(student)
    elif callable(student):
        net = student()
    if not isinstance(net, nn.Module):
        raise ConfigError(
            f"A student is a name, a module or a function that returns one, not {type(net).__name__}."
        )
    return net if isinstance(net, StagedNet) else models.tap(net, input_shape=data.input_shape)

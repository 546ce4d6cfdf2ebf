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
from kdlab.data import ImageData, ProbeSet
from kdlab.errors import ConfigError, StudyError, unknown_name
from kdlab.methods import Method
from kdlab.models.features import StagedNet
from kdlab.training.commands import Cast, everybody
from kdlab.training.control import Control
from kdlab.training.events import Board
from kdlab.training.files import read_info
from kdlab.training.loop import Run
from kdlab.training.options import Options
from kdlab.training.recipes import Recipe
from kdlab.training.record import Record
from kdlab.training.teacher_specs import TeacherSpec
from kdlab.training.teachers import TeacherInfo
from kdlab.training.variants import Student


class StudyState:
    """Attributes of a `Study`, and the questions about them that all its parts ask.

    Attributes:
        folder: where the study lives.
        asked: what was asked for, as plain values.
        data: the data set the students see; `whole_data` before `labels_per_class` cut it.
        seeds, recipe, device: as in `Study`.
        options: how the engine computes.
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
    options: Options
    record: Record
    board: Board
    control: Control
    teachers: list[TeacherInfo]
    error: Exception | None
    _asked_students: dict[str, Student]
    _networks: dict[str, Any]
    _everybody: tuple[int, dict[str, Student]]
    _specs: Sequence[TeacherSpec]
    _student: str | dict[str, Any] | nn.Module | Callable[[], nn.Module]
    _probe_set: ProbeSet | None
    _run: Run | None
    _state: str
    _train_images: int
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
        self._networks = {}
        self._train_images = 0
        self._everybody = (-1, {})
        self._lock = threading.RLock()
        self._state = "new"
        self.board.post(state="new")

    @property
    def students(self) -> dict[str, Student]:
        """Who is compared: those asked for, then those added and forked."""
        count = len(self.record.commands)
        if self._everybody[0] != count:
            known = everybody(self._asked_students, self.record.commands, self._networks)
            self._everybody = (count, known)
        return dict(self._everybody[1])

    @property
    def names(self) -> list[str]:
        """Names of the students, in the order in which they came."""
        return list(self.students)

    @property
    def methods(self) -> dict[str, Method]:
        """The methods as asked for, by student; see `terms` for what holds now."""
        return {name: student.method for name, student in self.students.items()}

    @property
    def teacher_name(self) -> str:
        """Name of the first teacher, or "" without one."""
        return self._specs[0].name if self._specs else ""

    @property
    def teacher_names(self) -> list[str]:
        """Names of all teachers."""
        return [spec.name for spec in self._specs]

    @property
    def epochs(self) -> int:
        """Length of the training of each seed."""
        return self.recipe.epochs

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch."""
        whole, rest = divmod(self._train_images or len(self.data.train), self.recipe.batch_size)
        return whole + (rest > 1 and not self.recipe.drop_last)

    @property
    def probe_set(self) -> ProbeSet:
        """The held-out pictures every snapshot looks at."""
        if self._probe_set is None:
            raise StudyError(f"{self.folder} holds no probe set; the study was stopped before it began.")
        return self._probe_set

    def _new_student(self, network: Any = None) -> StagedNet:
        """An untrained student; `network` None is the study's own."""
        return student_net(self._student if network is None else network, self.data)

    def _seed_folder(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}"

    def _checkpoint_info(self, seed: int) -> dict[str, Any]:
        """The plain values of a seed's last checkpoint; empty where there is none."""
        path = self._seed_folder(seed) / "last.safetensors"
        return read_info(path) if path.exists() else {}

    def _seed_done(self, seed: int) -> bool:
        """Whether nothing is left to train in a seed."""
        info = self._checkpoint_info(seed)
        return bool(info) and info["complete"] and set(self.names) <= {*info["roster"], *self._dropped()}

    def _seed_at_work(self) -> int:
        """The number (from 1) of the seed in training, or the first that is not done; 1 if all are."""
        run = self._run
        if run is not None:
            return run.plan.number
        return next((n for n, seed in enumerate(self.seeds, 1) if not self._seed_done(seed)), 1)

    def _position(self, student: str) -> tuple[int, int]:
        """(number of the present seed from 1, next step of this student in it)."""
        number, run = self._seed_at_work(), self._run
        fork = Cast(self.students, self.record.commands, number).fork(student)
        start = fork["step"] if fork is not None else 0
        if run is not None:
            live = run.roster.find(student)
            return number, start if live is None else max(live.step, start)
        known = self._checkpoint_info(self.seeds[number - 1]).get("students", {})
        return number, max(known[student]["step"], start) if student in known else start

    def _dropped(self) -> set[str]:
        return {c["student"] for c in self.record.commands if c["kind"] == "drop"}

    def ended(self, student: str) -> dict[str, Any] | None:
        """Why a student is not trained to the end, or None: "kind" ("dropped" or "failed"), "step",
        "epoch" and "text"; in the seed at work."""
        self._require_student(student)
        for command in self.record.commands:
            if command["kind"] == "drop" and command["student"] == student:
                return {k: command[k] for k in ("step", "epoch", "text")} | {"kind": "dropped"}
        seed = self.seeds[self._seed_at_work() - 1]
        return next((f for f in self.failures() if f["student"] == student and f["seed"] == seed), None)

    def failures(self) -> list[dict[str, Any]]:
        """Students that a guard stopped: "student", "seed", "step", "epoch", "text"."""
        run, out = self._run, []
        for seed in self.seeds:
            if run is not None and run.plan.seed == seed:
                ended = {s.name: s.ended for s in run.students}
            else:
                known = self._checkpoint_info(seed).get("students", {})
                ended = {name: one["ended"] for name, one in known.items()}
            out += [
                {**why, "student": name, "seed": seed}
                for name, why in ended.items()
                if why is not None and why["kind"] == "failed"
            ]
        return out

    def _require_student(self, student: str) -> None:
        if student not in self.students:
            raise unknown_name("student", student, self.students)


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

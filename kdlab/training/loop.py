"""The lockstep loop: one seed, all students on the same batches, one pass of each teacher.

It runs on whatever thread calls `Run.train`, asks a `Control` before each step, posts to a `Board`
and writes to a `RunRecord`; it knows neither widgets nor files of other runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdlab.data import Batches, ImageData
from kdlab.errors import StudyError
from kdlab.methods import Method
from kdlab.models.features import NetSpec, StagedNet, inspect_net
from kdlab.training.allocator import keep_freed_memory
from kdlab.training.control import Control
from kdlab.training.evaluate import evaluate
from kdlab.training.events import Board
from kdlab.training.files import read_tensors, write_tensors
from kdlab.training.recipes import Recipe
from kdlab.training.record import RunRecord
from kdlab.training.seeds import derive, seeded
from kdlab.training.snapshots import ProbeSet, measure, save_snapshots
from kdlab.training.student import StepInputs, StudentRun, make_students

_POST_EVERY = 0.1  # seconds between progress posts
_EPOCH_CHECKPOINT_EVERY = 2.0  # seconds; shorter epochs share a checkpoint
CHECKPOINT_FORMAT = 1
MEMORY_FORMAT = torch.channels_last  # faster for convolutions on CPUs and GPUs alike


@dataclass
class RunPlan:
    """What one seed of a study needs; see `Study` for the meaning of each field."""

    data: ImageData
    make_student: Callable[[], StagedNet]
    methods: dict[str, Method]
    recipe: Recipe
    seed: int
    device: torch.device
    teachers: Sequence[StagedNet] = ()
    folder: Path | None = None
    probe: ProbeSet | None = None
    snapshot_epochs: Sequence[int] = ()
    phase: str = "students"
    checkpoint_seconds: float = 30.0
    evaluate_every: int = 1
    progress: dict[str, Any] = field(default_factory=dict)


class Run:
    """One seed under training. `train` returns True at the end, False when it was stopped before."""

    def __init__(
        self,
        plan: RunPlan,
        record: RunRecord,
        control: Control,
        board: Board,
        commands: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.plan, self.record, self.control, self.board = plan, record, control, board
        keep_freed_memory()
        self.epoch, self.step_in_epoch, self.step = 1, 0, 0  # the next step to do
        self.pending = sorted(commands, key=lambda c: c["step"])
        self.data = plan.data.to(plan.device)
        self.students = self._make_students()
        self._last_checkpoint = self._last_post = time.monotonic()
        self._rate_from = (time.monotonic(), 0)
        self._buffer: dict[str, list[Tensor]] = {s.name: [] for s in self.students}
        self._host: dict[str, list[list[float]]] = {s.name: [] for s in self.students}
        self._buffer_first = 0
        self._epoch_first = 0
        recipe = plan.recipe
        self.batches = Batches(
            self.data.train,
            batch_size=recipe.batch_size,
            seed=derive(plan.seed, "batches"),
            mean=self.data.mean,
            std=self.data.std,
            augment=recipe.augment or self.data.augment,
            drop_last=recipe.drop_last,
            device=plan.device,
            memory_format=MEMORY_FORMAT,
        )

    def _make_students(self) -> Sequence[StudentRun]:
        plan = self.plan
        with seeded(derive(plan.seed, "student"), torch.device("cpu")):
            first = plan.make_student()
        shape = plan.data.input_shape
        spec = inspect_net(first, shape)
        teacher_specs = [inspect_net(teacher, shape) for teacher in plan.teachers]
        for method in plan.methods.values():
            build_method(method, spec, teacher_specs, plan.seed)
            method.to(plan.device).to(memory_format=MEMORY_FORMAT)
        first = first.to(plan.device).to(memory_format=MEMORY_FORMAT)
        students = make_students(first, plan.methods, plan.methods, plan.recipe)
        for student in students:
            student.refresh(1)
            self.record.set_columns(student.name, student.columns)
        return students

    # ---- the loop -----------------------------------------------------------------------------------

    def train(self) -> bool:
        """Train to the last epoch, or until the control says stop."""
        plan = self.plan
        if self.step == 0:
            self._snapshot(0)
        while self.epoch <= plan.recipe.epochs:
            self._refresh()
            self._epoch_first = self._buffer_first - self.step_in_epoch
            started = time.monotonic()
            for batch in self.batches.epoch(self.epoch, start=self.step_in_epoch):
                self._apply_pending()
                if not self.control.tick(count=plan.phase == "students"):
                    self.checkpoint()
                    return False
                self._step(batch)
                self._housekeeping()
            self._finish_epoch(time.monotonic() - started)
        self.checkpoint()
        return True

    def _step(self, batch: Any) -> None:
        plan = self.plan
        rate = plan.recipe.rate(self.epoch, self.step_in_epoch, self.batches.steps_per_epoch)
        teachers: tuple[Any, ...] = ()
        if any(student.needs_teacher() for student in self.students):
            with torch.no_grad():
                teachers = tuple(teacher.features(batch.images) for teacher in plan.teachers)
        classifiers = tuple(teacher.classifier for teacher in plan.teachers)
        inputs = StepInputs(batch.labels, batch.index, self.epoch, teachers, classifiers)
        noise = derive(plan.seed, "noise", self.step)  # the same dropout for every student
        for student in self.students:
            with seeded(noise, plan.device):
                values = student.train_step(batch.images, inputs, rate)
            self._buffer[student.name].append(values)
            factors = [student.factors[term] for term in student.method.terms]
            self._host[student.name].append([rate, *factors])
        self.step += 1
        self.step_in_epoch += 1

    def _housekeeping(self) -> None:
        now = time.monotonic()
        if now - self._last_post >= _POST_EVERY or self.control.paused:
            self.flush()
            self._post_progress(now)
        if now - self._last_checkpoint >= self.plan.checkpoint_seconds:
            self.checkpoint()

    def _finish_epoch(self, seconds: float) -> None:
        self.flush()
        rows = self._evaluate(seconds)
        self.record.save_steps(self.epoch, self._epoch_first)
        self.record.add_epoch(rows)
        epoch = self.epoch
        self.epoch, self.step_in_epoch = epoch + 1, 0
        if epoch in self.plan.snapshot_epochs:
            self._snapshot(epoch)
        self.board.post(epoch=rows)
        self._post_progress(time.monotonic())
        if time.monotonic() - self._last_checkpoint >= _EPOCH_CHECKPOINT_EVERY:
            self.checkpoint()

    # ---- commands -----------------------------------------------------------------------------------

    def apply(self, command: dict[str, Any]) -> None:
        """Apply one recorded command to its student; to be called on the training thread."""
        for student in self.students:
            if student.name == command["student"]:
                student.method.term(command["term"]).set(**command["change"])
        self._refresh()

    def _apply_pending(self) -> None:
        while self.pending and self.pending[0]["step"] <= self.step:
            self.apply(self.pending.pop(0))

    def _refresh(self) -> None:
        for student in self.students:
            student.refresh(min(self.epoch, self.plan.recipe.epochs))

    # ---- measuring ----------------------------------------------------------------------------------

    def _evaluate(self, seconds: float) -> list[dict[str, Any]]:
        plan = self.plan
        measured = self.epoch % plan.evaluate_every == 0 or self.epoch == plan.recipe.epochs
        scores = (
            evaluate(self.students, plan.teachers, self.data, plan.device, self.epoch) if measured else {}
        )
        rows = []
        for student in self.students:
            _, loss = self.record.series(student.name, "loss")
            mine = slice(self._epoch_first, None)
            row: dict[str, Any] = {
                "seed": self.plan.seed,
                "epoch": self.epoch,
                "step": self.step,
                "student": student.name,
                "seconds": round(seconds, 3),
                "lr": float(self.record.series(student.name, "lr")[1][-1]),
                "train_loss": _mean(loss[mine]),
                "train_accuracy": _mean(self.record.series(student.name, "train_correct")[1][mine]),
                **scores.get(student.name, {}),
            }
            for term in student.method.terms:
                row[f"term/{term}"] = _mean(self.record.series(student.name, f"term/{term}")[1][mine])
            rows.append(row)
            if "val_accuracy" in row:
                student.keep_best(self.epoch, row["val_accuracy"], row["test_accuracy"])
        return rows

    def flush(self) -> None:
        """Bring the buffered step values to the host, check that they are finite, record them."""
        self._last_post = time.monotonic()
        if self._buffer_first == self.step:
            return
        for student in self.students:
            seen = torch.stack(self._buffer[student.name]).float().cpu().numpy()
            host = np.asarray(self._host[student.name], dtype=np.float32)
            count = len(student.method.terms)
            block = np.empty((len(seen), len(student.columns)), dtype=np.float32)
            block[:, :2], block[:, 2] = seen[:, :2], host[:, 0]
            block[:, 3 : 3 + count], block[:, 3 + count :] = seen[:, 2:], host[:, 1:]
            self.record.add_steps(student.name, self._buffer_first, block)
            self._buffer[student.name].clear()
            self._host[student.name].clear()
            if not np.isfinite(block[:, 0]).all():
                self._refuse_non_finite(student, block)
        self._buffer_first = self.step
        self.board.post(curves=self.step)

    def _refuse_non_finite(self, student: StudentRun, block: np.ndarray) -> None:
        row = int(np.flatnonzero(~np.isfinite(block[:, 0]))[0])
        terms = list(student.method.terms)
        guilty = [
            t for i, t in enumerate(terms) if t in student.active and not np.isfinite(block[row, 3 + i])
        ]
        what = f"term {guilty[0]!r}" if guilty else "the weighted sum of the terms"
        raise StudyError(
            f"The loss of student {student.name!r} is not finite from step {self._buffer_first + row + 1} "
            f"(epoch {self.epoch}) on: {what}. Lower its weight or the learning rate; "
            "the last checkpoint is as it was."
        )

    def _post_progress(self, now: float) -> None:
        started, first = self._rate_from
        per_epoch = self.batches.steps_per_epoch
        steps = per_epoch * self.plan.recipe.epochs
        speed = (self.step - first) / max(now - started, 1e-9)
        self.board.post(
            progress={
                "phase": self.plan.phase,
                "seed": self.plan.seed,
                "epoch": min(self.epoch, self.plan.recipe.epochs),
                "epochs": self.plan.recipe.epochs,
                "step": self.step,
                "steps": steps,
                "rate": speed * len(self.data.train) / per_epoch,
                "eta": (steps - self.step) / speed if speed > 0 else None,
                **self.plan.progress,
            }
        )
        if now - started > 20:  # a recent rate, not the mean since the beginning
            self._rate_from = (now, self.step)

    def measure_now(self, names: Sequence[str] | None = None, count: int | None = None) -> dict[str, Any]:
        """Snapshots of students as they are now, on the first `count` evaluation pictures (all if None)."""
        if self.plan.probe is None:
            raise StudyError("This training keeps no probe set, so there is nothing to measure.")
        chosen = [s for s in self.students if names is None or s.name in names]
        probe = self.plan.probe if count is None else self.plan.probe.evaluation_part(count)
        taken = self._measure(chosen, probe, min(self.epoch, self.plan.recipe.epochs))
        return {snapshot.network: snapshot for snapshot in taken}

    def _measure(self, students: Sequence[StudentRun], probe: ProbeSet, epoch: int) -> list[Any]:
        return measure(
            {s.name: (s.net, s.method) for s in students},
            self.plan.teachers,
            self.plan.data,
            probe,
            device=self.plan.device,
            epoch=epoch,
            seed=self.plan.seed,
        )

    def _snapshot(self, epoch: int) -> None:
        plan = self.plan
        if plan.probe is None or plan.folder is None or epoch not in plan.snapshot_epochs:
            return
        snapshots = self._measure(self.students, plan.probe, epoch)
        save_snapshots(plan.folder / "snapshots" / f"epoch-{epoch:05d}.safetensors", snapshots)
        self.board.post(snapshot=(plan.seed, epoch))

    # ---- checkpoints --------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Write everything needed to go on exactly from the next step."""
        self._last_checkpoint = time.monotonic()
        folder = self.plan.folder
        if folder is None:
            return
        self.flush()
        if self.step_in_epoch:
            self.record.save_steps(self.epoch, self._epoch_first)
        tensors: dict[str, Tensor] = {}
        best: dict[str, Tensor] = {}
        info: dict[str, Any] = {
            "format": CHECKPOINT_FORMAT,
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "step": self.step,
            "students": {},
        }
        for student in self.students:
            own, plain = student.state()
            tensors |= {f"{student.name}|{k}": v for k, v in own.items()}
            info["students"][student.name] = plain
            best |= {f"{student.name}|{k}": v for k, v in student.best.weights.items()}
        if best:
            epochs = {s.name: s.best.epoch for s in self.students}
            write_tensors(folder / "best.safetensors", best, {"epochs": epochs})
        write_tensors(folder / "last.safetensors", tensors, info)

    def resume(self) -> None:
        """Go back to the last checkpoint of the folder, if there is one."""
        path = None if self.plan.folder is None else self.plan.folder / "last.safetensors"
        if path is None or not path.exists():
            self.record.load(before_step=0, to_epoch=0)
            return
        tensors, info = read_tensors(path)
        if info.get("format") != CHECKPOINT_FORMAT:
            raise StudyError(
                f"{path} has checkpoint format {info.get('format')!r} and this kdlab reads "
                f"{CHECKPOINT_FORMAT}; resume with the version that wrote it."
            )
        best, best_info = (
            read_tensors(path.with_name("best.safetensors"))
            if path.with_name("best.safetensors").exists()
            else ({}, {"epochs": {}})
        )
        for student in self.students:
            prefix = f"{student.name}|"
            own = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            student.load_state(own, info["students"][student.name])
            if best_info["epochs"].get(student.name) == student.best.epoch:
                weights = {k[len(prefix) :]: v for k, v in best.items() if k.startswith(prefix)}
                student.best.weights = {k: v.to(self.plan.device) for k, v in weights.items()}
        self.epoch, self.step_in_epoch, self.step = info["epoch"], info["step_in_epoch"], info["step"]
        self._buffer_first = self.step
        self._rate_from = (time.monotonic(), self.step)
        self.pending = [c for c in self.pending if c["step"] >= self.step]
        self.record.load(before_step=self.step, to_epoch=self.epoch - 1)


def build_method(method: Method, student: NetSpec, teachers: Sequence[NetSpec], seed: int) -> None:
    """Let a method make its parts; the same method starts from the same parts in every student."""
    with seeded(derive(seed, "method"), torch.device("cpu")):
        method.build(student, teachers)


def _mean(values: np.ndarray) -> float | None:
    seen = values[np.isfinite(values)]
    return float(seen.mean(dtype=np.float64)) if len(seen) else None

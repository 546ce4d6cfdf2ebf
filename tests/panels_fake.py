"""A stand-in for a Study with the real control, board and record, and steps that cost nothing.

It lets tests of panels choose what a study never does on command: slow steps, failures, a chosen
number of steps, or a training thread that does not answer.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from kdlab.errors import ConfigError, StudyError, unknown_name
from kdlab.methods import make
from kdlab.methods.base import Method, Term
from kdlab.training.control import Control
from kdlab.training.events import Board
from kdlab.training.record import Record, RunRecord
from kdlab.training.variants import Student

CLASSES, POINTS, WIDTH = 4, 40, 8


class PlainMethod(Method):
    key, title, paper, family, status = "plain", "Cross-entropy", "textbook", "baseline", "paper"

    def __init__(self) -> None:
        super().__init__(Term("ce", 1.0, ("student.logits", "target"), "Match the label."))


class GuidedMethod(Method):
    key, title, paper, family, status = "guided", "Guided", "reconstructed for this test", "logit", "recon"

    def __init__(self) -> None:
        super().__init__(
            Term("ce", 1.0, ("student.logits", "target"), "Match the label."),
            Term("kd", 2.0, ("student.logits", "teacher.logits"), "Match the teacher's softened logits."),
        )


class FakeStudy:
    """Two students on invented curves. `delay` seconds a step; `fail_at` raises in that step, and
    `fault_at` (student -> step) has a guard stop that student alone."""

    teacher_name = "teacher"
    teacher_names = ("teacher",)
    seeds = [0]
    steps_per_epoch = 20

    def __init__(self, steps: int = 200, delay: float = 0.002, fail_at: int | None = None) -> None:
        self.epochs = steps // self.steps_per_epoch
        self.delay, self.fail_at, self.step_number = delay, fail_at, 0
        self.fault_at: dict[str, int] = {}
        self.students = {"alone": Student(PlainMethod()), "KD": Student(GuidedMethod())}
        self._live = {name: student.method.fresh() for name, student in self.students.items()}
        self._ended: dict[str, dict[str, Any]] = {}
        self._first = {name: 0 for name in self.students}
        self.control, self.board, self.record = Control(), Board(), Record()
        self.teachers = [SimpleNamespace(name="teacher", accuracy=0.95, val_accuracy=0.94)]
        names = tuple(f"class {i}" for i in range(CLASSES))
        self.data = SimpleNamespace(
            name="invented",
            image_size=(8, 8),
            num_classes=CLASSES,
            class_names=names,
            chance=0.25,
            train=range(640),
        )
        self.asked = {"student": "small"}
        self.recipe = SimpleNamespace(drops=())
        labels = torch.arange(POINTS) % CLASSES
        self.probe_set = SimpleNamespace(fit=np.zeros(POINTS, bool), labels=labels)
        self.error: Exception | None = None
        self._state = "new"
        self.snapshots_taken = 0
        self.board.post(state="new")

    names = property(lambda self: list(self.students))
    methods = property(lambda self: {name: one.method for name, one in self.students.items()})

    @property
    def state(self) -> str:
        if self.control.finished.is_set():
            return self._state
        return "paused" if self.control.paused else "training"

    def terms(self, student: str) -> dict[str, Term]:
        return dict(self._live[student].terms)

    def start(self, paused: bool = False, *, tensorboard: bool = False) -> Any:
        if self.control.finished.is_set() and self._state != "finished":
            self.control.open()
            self.control.pause() if paused else self.control.play()
            self.board.post(state=self.state, error=None)
            threading.Thread(target=self._work, daemon=True, name="kdlab-train").start()
        return self

    def play(self) -> None:
        self.start()
        self.control.play()
        self.board.post(state=self.state)

    def pause(self) -> None:
        self.control.pause()
        self.board.post(state=self.state)

    def step(self, n: int = 1) -> None:
        self.start(paused=True)
        self.control.step(n)
        self.board.post(state=self.state)

    def stop(self) -> None:
        self.control.stop()

    def wait(self, timeout: float | None = None) -> bool:
        return self.control.finished.wait(timeout)

    def call(self, function: Any, *args: Any) -> Future[Any]:
        return self.control.call(function, *args)

    # ---- commands ------------------------------------------------------------------------------------

    def set(
        self,
        student: str,
        term: str,
        *,
        weight: float | None = None,
        enabled: bool | None = None,
        schedule: str | None = None,
        at_step: int | None = None,
        from_seed: int | None = None,
    ) -> Future[Any]:
        if student not in self.students:
            raise unknown_name("student", student, self.students)
        given = (("weight", weight), ("enabled", enabled), ("schedule", schedule))
        change = {key: value for key, value in given if value is not None}
        self._live[student].fresh().term(term).set(**change)
        text = f"{term} " + ", ".join(f"{key} {value}" for key, value in change.items())
        command = {"kind": "set", "student": student, "term": term, "change": change, "text": text}
        return self.control.call(self._give, command)

    def add(self, name: str, method: Any) -> Future[Any]:
        student = Student.of(method)
        self._require_new(name)
        command = {"kind": "add", "student": name, "method": student.method.config(), "own": {}}
        return self.control.call(self._give, command | {"text": "added"}, student)

    def fork(
        self,
        student: str,
        at_epoch: int | None = None,
        *,
        name: str | None = None,
        method: Any = None,
        at_step: int | None = None,
    ) -> Future[Any]:
        name = name or f"{student}, then {'again' if method is None else make(method).title}"
        self._require_new(name)
        new = self.students[student] if method is None else Student(method)
        command = {"kind": "fork", "student": name, "parent": student, "text": f"forked from {student}"}
        command["method"] = None if method is None else new.method.config()
        return self.control.call(self._give, command, new, at_epoch)

    def drop(self, student: str, *, at_step: int | None = None, from_seed: int | None = None) -> Future[Any]:
        if len(self.names) - len(self._ended) < 2:
            raise StudyError(f"{student!r} is the only student left; use stop() to end the training.")
        command = {"kind": "drop", "student": student, "text": "dropped"}
        return self.control.call(self._give, command)

    def _require_new(self, name: str) -> None:
        if name in self.students:
            raise ConfigError(f"There is a network named {name!r} already; choose another name.")

    def _give(
        self, command: dict[str, Any], student: Student | None = None, at_epoch: int | None = None
    ) -> None:
        name, kind = command["student"], command["kind"]
        step = self.step_number if at_epoch is None else at_epoch * self.steps_per_epoch
        if kind == "fork" and step == 0:
            raise StudyError(f"{command['parent']!r} has not been trained yet, so there is nothing to fork.")
        epoch = step // self.steps_per_epoch + 1
        dated = {"seed": 0, "seed_number": 1, "step": step, "epoch": epoch} | command
        if kind == "set":
            self._live[name].term(command["term"]).set(**command["change"])
        elif kind == "drop":
            self._ended[name] = {"kind": "dropped", "step": step, "epoch": epoch, "text": "dropped"}
        elif student is not None:
            first = step if kind == "fork" else 0
            self._live[name], self._first[name] = student.method.fresh(), first
            self.students = {**self.students, name: student}
            if self.record.runs:
                self._declare(name)
                for number in range(first, self.step_number):  # it catches up at once
                    self._record_step(name, number)
        self.record.commands.append(dated)
        self.board.post(mark=dated, roster=self.names)

    def ended(self, student: str) -> dict[str, Any] | None:
        return self._ended.get(student)

    def failures(self) -> list[dict[str, Any]]:
        failed = {n: e for n, e in self._ended.items() if e["kind"] == "failed"}
        return [{**why, "student": name, "seed": 0} for name, why in failed.items()]

    # ---- training ------------------------------------------------------------------------------------

    def _work(self) -> None:
        self._state = "failed"
        try:
            self.record.runs.setdefault(0, RunRecord(None))
            for name in self.names:
                self._declare(name)
            while self.step_number < self.epochs * self.steps_per_epoch and self.control.tick():
                time.sleep(self.delay)
                self._one_step(self.record.runs[0])
            whole = self.step_number >= self.epochs * self.steps_per_epoch
            self._state = "finished" if whole else "stopped"
        except Exception as error:
            self.error = error
            self.board.post(error=f"{type(error).__name__}: {error}")
        finally:
            self.control.close()
            self.board.post(state=self._state, done=True)

    def _declare(self, name: str) -> None:
        terms = self._live[name].terms
        pairs = [f"{kind}/{term}" for kind in ("term", "factor") for term in terms]
        self.record.runs[0].declare(name, ["loss", "grad_norm", *pairs], self._first[name])

    def _record_step(self, name: str, number: int) -> None:
        factors = [term.factor(1) for term in self._live[name].terms.values()]
        raw = [np.nan if f == 0 else 2.0 / (1 + number / 50) for f in factors]
        total = float(np.nansum(np.asarray(raw) * factors))
        self.record.runs[0].add_steps(name, number, np.asarray([[total, 0.5 * total, *raw, *factors]]))

    def _one_step(self, run: RunRecord) -> None:
        if self.step_number == self.fail_at:
            raise RuntimeError("the loss is not finite")
        going = [name for name in self.names if name not in self._ended]
        for name in going:
            if self.fault_at.get(name) == self.step_number:
                self._fault(name)
            else:
                self._record_step(name, self.step_number)
        self.step_number += 1
        epoch = (self.step_number - 1) // self.steps_per_epoch + 1
        if self.step_number % self.steps_per_epoch == 0:
            accuracy = 1 - 0.75 / (1 + epoch)
            going = [name for name in self.names if name not in self._ended]
            rows = [{"seed": 0, "epoch": epoch, "student": n, "val_accuracy": accuracy} for n in going]
            run.add_epoch(rows)
            self.board.post(epoch=rows)
        steps = self.epochs * self.steps_per_epoch
        progress = dict(phase="students", seed=0, seed_number=1, seeds=1, epoch=epoch, epochs=self.epochs)
        self.board.post(
            curves=self.step_number,
            progress=progress | dict(step=self.step_number, steps=steps, rate=1000.0, eta=3.0),
        )

    def _fault(self, name: str) -> None:
        step, epoch = self.step_number + 1, self.step_number // self.steps_per_epoch + 1
        what = "the gradient of its loss is not finite"
        text = (
            f"Student {name!r} was stopped at step {step} (batch 1 of epoch {epoch}): {what}. "
            "Its weights are those of step 0. Lower the learning rate."
        )
        self._ended[name] = {"kind": "failed", "step": step, "epoch": epoch, "what": what, "text": text}
        self.board.post(note=text)

    # ---- snapshots -----------------------------------------------------------------------------------

    def snapshot_epochs(self, seed: int | None = None, network: str | None = None) -> list[int]:
        return [1]

    def snapshot(self, network: str, epoch: int = -1, seed: int | None = None) -> Any:
        generator = np.random.default_rng(sum(map(ord, network)))
        centres = generator.normal(size=(CLASSES, WIDTH)).astype(np.float32)
        labels = self.probe_set.labels.numpy()
        cloud = centres[labels] + generator.normal(size=(POINTS, WIDTH)).astype(np.float32) * 0.3
        logits = np.eye(CLASSES, dtype=np.float32)[labels]
        return SimpleNamespace(
            network=network, epoch=1, seed=0, embedding=cloud, logits=logits, projected=None
        )

    def live_snapshot(self, networks: Any = None, count: int | None = None) -> Future[dict[str, Any]]:
        def measure() -> dict[str, Any]:
            self.snapshots_taken += 1
            return {name: self.snapshot(name) for name in networks or self.names}

        return self.control.call(measure)

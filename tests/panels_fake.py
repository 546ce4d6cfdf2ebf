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

from kdlab.errors import unknown_name
from kdlab.methods.base import Method, Term
from kdlab.training.control import Control
from kdlab.training.events import Board
from kdlab.training.record import Record, RunRecord

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
    """Two students on invented curves. `delay` seconds a step; `fail_at` raises in that step."""

    teacher_name = "teacher"
    seeds = (0,)
    steps_per_epoch = 20

    def __init__(self, steps: int = 200, delay: float = 0.002, fail_at: int | None = None) -> None:
        self.epochs = steps // self.steps_per_epoch
        self.delay, self.fail_at, self.step_number = delay, fail_at, 0
        self._methods: dict[str, Method] = {"alone": PlainMethod(), "KD": GuidedMethod()}
        self._live = {name: method.fresh() for name, method in self._methods.items()}
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
        labels = torch.arange(POINTS) % CLASSES
        self.probe_set = SimpleNamespace(fit=np.zeros(POINTS, bool), labels=labels)
        self.error: Exception | None = None
        self._state = "new"
        self.snapshots_taken = 0
        self.board.post(state="new")

    names = property(lambda self: list(self._methods))
    methods = property(lambda self: dict(self._methods))

    @property
    def state(self) -> str:
        if self.control.finished.is_set():
            return self._state
        return "paused" if self.control.paused else "training"

    def terms(self, student: str) -> dict[str, Term]:
        return dict(self._live[student].terms)

    def start(self, paused: bool = False) -> None:
        if self.control.finished.is_set() and self._state != "finished":
            self.control.open()
            self.control.pause() if paused else self.control.play()
            self.board.post(state=self.state, error=None)
            threading.Thread(target=self._work, daemon=True, name="kdlab-train").start()

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

    def set(self, student: str, term: str, **change: Any) -> Future[Any]:
        if student not in self._methods:
            raise unknown_name("student", student, self._methods)
        self._methods[student].fresh().term(term).set(**change)
        return self.control.call(self._apply, student, term, change)

    def _apply(self, student: str, term: str, change: dict[str, Any]) -> None:
        self._live[student].term(term).set(**change)
        text = ", ".join(f"{key} {value}" for key, value in change.items())
        self.record.commands.append(
            {
                "seed": 0,
                "step": self.step_number,
                "epoch": 1,
                "student": student,
                "term": term,
                "change": change,
                "text": f"{term} {text}",
            }
        )
        self.board.post(mark=self.record.commands[-1])

    def _work(self) -> None:
        self._state = "failed"
        try:
            run = self.record.runs.setdefault(0, RunRecord(None))
            for name, method in self._live.items():
                run.set_columns(
                    name, ["loss", *(f"{k}/{t}" for k in ("term", "factor") for t in method.terms)]
                )
            while self.step_number < self.epochs * self.steps_per_epoch and self.control.tick():
                time.sleep(self.delay)
                self._one_step(run)
            whole = self.step_number >= self.epochs * self.steps_per_epoch
            self._state = "finished" if whole else "stopped"
        except Exception as error:
            self.error = error
            self.board.post(error=f"{type(error).__name__}: {error}")
        finally:
            self.control.close()
            self.board.post(state=self._state, done=True)

    def _one_step(self, run: RunRecord) -> None:
        if self.step_number == self.fail_at:
            raise RuntimeError("the loss is not finite")
        for name, method in self._live.items():
            factors = [term.factor(1) for term in method.terms.values()]
            raw = [np.nan if f == 0 else 2.0 / (1 + self.step_number / 50) for f in factors]
            total = float(np.nansum(np.asarray(raw) * factors))
            run.add_steps(name, self.step_number, np.asarray([[total, *raw, *factors]]))
        self.step_number += 1
        epoch = (self.step_number - 1) // self.steps_per_epoch + 1
        if self.step_number % self.steps_per_epoch == 0:
            accuracy = 1 - 0.75 / (1 + epoch)
            rows = [{"seed": 0, "epoch": epoch, "student": n, "val_accuracy": accuracy} for n in self.names]
            run.add_epoch(rows)
            self.board.post(epoch=rows)
        steps = self.epochs * self.steps_per_epoch
        progress = dict(phase="students", seed=0, seed_number=1, seeds=1, epoch=epoch, epochs=self.epochs)
        self.board.post(
            curves=self.step_number,
            progress=progress | dict(step=self.step_number, steps=steps, rate=1000.0, eta=3.0),
        )

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

"""A study in memory that offers what probes and reports read, with synthetic but meaningful data.

Every picture has a class; a network at "quality" q shows features in which the classes lie q apart.
Qualities rise over the epochs and differ between students, so that all probes have something to find.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from kdlab.errors import StudyError, unknown_name
from kdlab.probes import Representation

STAGES = {"stage1": 8, "stage2": 12, "stage3": 16}
QUALITY = {"teacher": 3.0, "alone": 0.9, "KD": 1.6, "CMKD": 1.5}


@dataclass
class FakeRecord:
    """Epoch series made from the same qualities."""

    series_of: dict[tuple[str, str, int], tuple[np.ndarray, np.ndarray]]
    commands: list[dict[str, Any]] = field(default_factory=list)

    def epoch_series(self, student: str, key: str, seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        return self.series_of.get((student, key, 0 if seed is None else seed), (np.zeros(0), np.zeros(0)))

    def marks(self, seed: int | None = None) -> list[dict[str, Any]]:
        return [c for c in self.commands if seed is None or c["seed"] == seed]


class FakeStudy:
    """See the module.

    Args:
        projects: the student whose method brings its own projector.
        late: student -> epoch after which it was forked from the first student.
        gone: student -> epoch after which it was dropped.
    """

    def __init__(
        self,
        folder: Path | str = ".",
        *,
        students: tuple[str, ...] = ("alone", "KD", "CMKD"),
        seeds: tuple[int, ...] = (0, 1, 2),
        snapshots: tuple[int, ...] = (0, 2, 6),
        classes: int = 4,
        per_class: int = 24,
        channels: int = 1,
        projects: str = "CMKD",
        trained: bool = True,
        teacher: str = "teacher",
        late: Mapping[str, int] | None = None,
        gone: Mapping[str, int] | None = None,
    ) -> None:
        generator = np.random.default_rng(5)
        n = 2 * classes * per_class
        labels = np.arange(n) % classes
        self.late, self.gone = dict(late or {}), dict(gone or {})
        self.students = {name: _FakeStudent(name) for name in students}
        self.seeds = list(seeds)
        self.epochs = snapshots[-1]
        self.folder = Path(folder)
        self.teacher_name = teacher
        self.teacher_names = [teacher] if teacher else []
        self.steps_per_epoch = 10
        self.state = "finished" if trained else "new"
        self.error = None
        self.projects = projects
        self._snapshots = list(snapshots) if trained else []
        self._centres = generator.normal(size=(classes, 24))
        self._noise = generator.normal(size=(n, 24))
        pictures = 110 + 60 * self._centres[labels, :16] + 40 * generator.normal(size=(n, 16))
        images = np.clip(pictures, 0, 255).astype(np.uint8).reshape(n, 1, 4, 4).repeat(channels, axis=1)
        fit = np.arange(n) < n // 2
        self.probe_set = SimpleNamespace(
            images=torch.from_numpy(images),
            labels=torch.from_numpy(labels),
            index=torch.arange(n),
            fit=fit,
            attention_count=6,
        )
        self.data = SimpleNamespace(
            name="fake digits",
            num_classes=classes,
            class_names=tuple(f"class {c}" for c in range(classes)),
            chance=1.0 / classes,
            channels=channels,
            image_size=(4, 4),
            describe=lambda: f"fake digits: {n} pictures of 4x4, {classes} classes",
            train=range(200),
            val=range(n // 2),
            test=range(n // 2),
        )
        # what a study offers about its teachers, settings and methods
        self.teachers = (
            [
                SimpleNamespace(
                    name=teacher,
                    accuracy=0.97,
                    val_accuracy=0.975,
                    source="trained by kdlab",
                    architecture="resnet20",
                    hash="0" * 64,
                )
            ]
            if teacher
            else []
        )
        self.asked = {"student": "resnet8", "labels_per_class": 10, "data": "fake", "recipe": {}}
        self.recipe = SimpleNamespace(name="fake", epochs=self.epochs, batch_size=32, lr=0.05)
        self.record = FakeRecord(self._series() if trained else {})
        if trained:
            self.record.commands.append(
                self._command(30, "set", students[-1], "kd off", term="kd", change={"enabled": False})
            )
        for name, epoch in self.late.items():
            text = f"forked from {students[0]}"
            self.record.commands.append(
                self._command(10 * epoch, "fork", name, text, parent=students[0], method=None)
            )
        for name, epoch in self.gone.items():
            self.record.commands.append(self._command(10 * epoch, "drop", name, "dropped"))
        self._failures: list[dict[str, Any]] = []

    names = property(lambda self: list(self.students))
    methods = property(lambda self: {name: one.method for name, one in self.students.items()})

    def _command(self, step: int, kind: str, student: str, text: str, **more: Any) -> dict[str, Any]:
        when = {"seed": self.seeds[0], "seed_number": 1, "step": step, "epoch": step // 10 + 1}
        return {"kind": kind, **when, "student": student, "text": text, **more}

    def failures(self) -> list[dict[str, Any]]:
        """Students that a guard stopped; see `fail`."""
        return list(self._failures)

    def fail(self, student: str, step: int, seed: int) -> None:
        """Have a guard stop a student: nothing is recorded of it in that seed after that step."""
        text = (
            f"Student {student!r} was stopped at step {step} (batch 1 of epoch {step // 10 + 1}): term 'kd' "
            "is not finite. Its weights are those of step 0. Lower the term's weight or the learning rate."
        )
        self._failures.append(
            {
                "kind": "failed",
                "student": student,
                "seed": seed,
                "step": step,
                "epoch": step // 10 + 1,
                "what": "term 'kd' is not finite",
                "text": text,
            }
        )
        for (name, key, own), (epochs, values) in list(self.record.series_of.items()):
            if (name, own) == (student, seed):
                kept = epochs <= step // 10
                self.record.series_of[name, key, own] = (epochs[kept], values[kept])

    def quality(self, network: str, epoch: int, seed: int) -> float:
        """How far apart the classes lie in the features of `network`."""
        if network == self.teacher_name:
            return QUALITY["teacher"]
        final = QUALITY.get(network, 1.0) + 0.05 * seed
        return final * (1.0 - math.exp(-(epoch + 0.1) / 2.0))

    def snapshot_epochs(self, seed: int | None = None, network: str | None = None) -> list[int]:
        first, last = self.late.get(network or "", -1), self.gone.get(network or "", 10**9)
        later_seed = seed not in (None, self.seeds[0])
        if network in self.gone and later_seed:
            return []
        return [epoch for epoch in self._snapshots if first < epoch <= last]

    def snapshot(self, network: str, epoch: int = -1, seed: int | None = None) -> Representation:
        if network not in (*self.names, self.teacher_name):
            raise unknown_name("network", network, self.names)
        if not self._snapshots:
            raise StudyError("There is no snapshot yet; the training of the students has not begun.")
        if network != self.teacher_name:
            known = self.snapshot_epochs(seed, network)
            epoch = known[epoch] if epoch < 0 else epoch
            if epoch not in known:
                raise StudyError(f"There is no snapshot of {network!r} at epoch {epoch}; there are {known}.")
        seed = self.seeds[0] if seed is None else seed
        quality = self.quality(network, epoch, seed)
        labels = self.probe_set.labels.numpy()
        generator = np.random.default_rng([seed, len(network), sum(map(ord, network))])
        stages = {}
        for depth, (name, width) in enumerate(STAGES.items(), 1):
            mix = generator.normal(size=(24, width)) / 5
            signal = quality * depth / 3 * self._centres[labels] + self._noise
            stages[name] = np.maximum(signal @ mix, 0).astype(np.float32)
        signal = quality * self._centres[labels] + self._noise
        logits = (signal @ self._centres.T * 0.15 * quality).astype(np.float32)
        kept = int(self.probe_set.attention_count)
        attention = {
            name: (
                generator.random((kept, size, size)) + quality * np.linspace(0, 1, size)[None, None]
            ).astype(np.float32)
            for name, size in zip(STAGES, (4, 4, 2), strict=True)
        }
        embedding = stages["stage3"]
        projected = embedding * 1.1 + 0.05 if network == self.projects else None
        return Representation(network, epoch, seed, stages, embedding, logits, projected, attention)

    def code(self) -> str:
        """The snippet that makes the study again."""
        return 'import kdlab\n\nstudy = kdlab.Study(data="fake", epochs=6, seeds=3)\nstudy.fit()'

    def _series(self) -> dict[tuple[str, str, int], tuple[np.ndarray, np.ndarray]]:
        epochs = np.arange(1, self.epochs + 1, dtype=np.float32)
        out = {}
        for name in self.names:
            for seed in self.seeds:
                quality = np.array([self.quality(name, int(e), seed) for e in epochs])
                accuracy = (0.25 + 0.7 * np.tanh(0.7 * quality)).astype(np.float32)
                if name in self.gone and seed != self.seeds[0]:
                    continue
                there = (epochs > self.late.get(name, 0)) & (epochs <= self.gone.get(name, 10**9))
                for key, values in (
                    ("test_accuracy", accuracy),
                    ("val_accuracy", accuracy - 0.01),
                    ("train_loss", (2.0 * np.exp(-quality)).astype(np.float32)),
                ):
                    out[name, key, seed] = (epochs[there], values[there])
        return out


class _FakeStudent:
    """Student `name`; one called "wide" has a network of its own."""

    def __init__(self, name: str) -> None:
        self.method = _FakeMethod(name)
        self.network = "resnet14" if name == "wide" else None

    def label(self) -> str:
        return self.network or ""


class _FakeMethod:
    def __init__(self, name: str) -> None:
        self.title = {"alone": "Cross-entropy", "KD": "Knowledge distillation"}.get(name, name)
        self.paper = "A paper"
        self.status = "recon" if name == "CMKD" else "code"
        self.key = {"alone": "ce"}.get(name, name.lower())
        self.terms: dict[str, Any] = {
            "ce": SimpleNamespace(
                name="ce", weight=1.0, doc="learn the labels", schedule="constant", enabled=True
            )
        }

    def needs_teacher(self) -> bool:
        return self.key != "ce"

    def code(self) -> str:
        return f"kdlab.methods.{self.key.upper()}()"

    def __repr__(self) -> str:
        return f"{self.key}[...]"

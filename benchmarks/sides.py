"""The two sides that the benchmarks compare: the textbook loop, and a `kdlab.Study` as users run it.

Both train the same networks from the same start on the same pictures. A study is measured from
outside, by its public face: it runs freely between `play` and `pause`, and the clock is read on its
own training thread by `study.call`, so that recording, live control, checkpoints and the board are
all part of what is timed. A library; nothing happens when it is run.
"""

from __future__ import annotations

import copy
import functools
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import SideFailed, Window
from machine import forget_peak, peak_resident, resident
from textbook import DISTILLERS, Trainer, make_loader

import kdlab
from kdlab.data import ImageData
from kdlab.errors import DataError
from kdlab.models import StagedNet, build

Pair = tuple[str, str]
PAIRS: dict[str, Pair] = {
    "resnet20 -> resnet8": ("resnet20", "resnet8"),
    "resnet32x4 -> resnet8x4": ("resnet32x4", "resnet8x4"),
    "wrn_40_2 -> wrn_16_2": ("wrn_40_2", "wrn_16_2"),
}
BATCH = 64
EPOCHS = 240  # of the public recipe; no benchmark gets there
TRAIN = 19_200  # pictures: whole batches, so that none of another size falls into a window


@functools.lru_cache(maxsize=2)
def pictures(train: int = TRAIN, held_out: int = 100) -> tuple[ImageData, str]:
    """32x32 colour pictures in 100 classes, and what they are: CIFAR-100 where it is at hand."""
    limit = {"train": train, "val": held_out, "test": held_out}
    try:
        return kdlab.data.load("cifar100", limit=limit), "CIFAR-100"
    except DataError:
        random = np.random.RandomState(0)
        spare = max(held_out, 100) + 100  # for the validation part, with room for rounding
        x = random.randint(0, 256, (train + spare + held_out, 32, 32, 3)).astype(np.uint8)
        y = np.arange(len(x)) % 100
        arrays = {"x_train": x[:-held_out], "y_train": y[:-held_out]}
        arrays |= {"x_test": x[-held_out:], "y_test": y[-held_out:]}
        data = kdlab.data.load(arrays, val_fraction=spare / (train + spare), limit=limit)
        return data, "random pictures"


def networks(pair: Pair, data: ImageData) -> tuple[StagedNet, StagedNet]:
    """Teacher and student, the same ones in every process.

    The teacher is untrained, which costs as much time as a trained one; the statistics of its
    BatchNorm layers are those of the data, so that its logits are of an ordinary size.
    """
    torch.manual_seed(1)
    teacher = build(pair[0], num_classes=data.num_classes, in_channels=data.channels)
    student = build(pair[1], num_classes=data.num_classes, in_channels=data.channels)
    norms = [m for m in teacher.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a plain mean over the batches
    with torch.no_grad():
        teacher.train()
        for start in range(0, min(256, len(data.train)), 64):
            teacher(data.normalize(data.train.images[start : start + 64]))
    for norm in norms:
        norm.momentum = 0.1
    return teacher.eval(), student


class TextbookSide:
    """The loop of `textbook.py`."""

    def __init__(
        self,
        pair: Pair,
        method: str = "kd",
        *,
        workers: int = 2,
        device: str = "cpu",
        batch: int = BATCH,
        quick: bool = False,
    ) -> None:
        data, self.source = pictures(2_000 if quick else TRAIN)
        teacher, student = networks(pair, data)
        torch.manual_seed(2)
        distiller = DISTILLERS[method](student, teacher)
        self.device = torch.device(device)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # as the public code sets it
        loader = make_loader(data, batch, workers, device)
        self._steps = Trainer(distiller, loader, device).steps()
        self._prefetched = 2 * workers

    def run(self, seconds: float) -> Window:
        """Train for `seconds`; batches that the workers made while this side was idle do not count."""
        if self.device.type == "cpu" and seconds < 2:
            next(self._steps)
        else:
            for _ in range(self._prefetched):
                next(self._steps)
        done, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds or not done:
            done += next(self._steps)
        return Window(done, spent)

    def close(self) -> None:
        self._steps.close()  # type: ignore[attr-defined]


class StudySide:
    """A study of one or several students with one method, under way.

    Args:
        pair, method: what is trained.
        students: how many, in lockstep.
        options: further keyword arguments of `Study`, such as precision="bf16".
        train, held_out: training pictures, and those of validation and test part.
        setup: further keyword arguments that only the benchmark wants (snapshots, probe_size, ...).
    """

    def __init__(
        self,
        pair: Pair,
        method: str = "kd",
        *,
        students: int = 1,
        options: Mapping[str, Any] | None = None,
        train: int = TRAIN,
        held_out: int = 100,
        device: str = "cpu",
        batch: int = BATCH,
        setup: Mapping[str, Any] | None = None,
        quick: bool = False,
    ) -> None:
        if method not in kdlab.methods.names():
            raise SideFailed(f"this kdlab has no method {method!r}")
        data, self.source = pictures(min(train, 2_000) if quick else train, held_out)
        teacher, student = networks(pair, data)
        self._folder = tempfile.TemporaryDirectory(prefix="kdlab-bench-", ignore_cleanup_errors=True)
        self.students = students
        self.study = kdlab.Study(
            data=data,
            teacher=teacher,
            student=student,
            students={f"s{i}": method for i in range(students)},
            **{  # type: ignore[arg-type]
                "recipe": "cifar_240",
                "epochs": EPOCHS,
                "batch_size": batch,
                "device": device,
                "folder": Path(self._folder.name) / "study",
                "snapshots": "ends",
                "probe_size": 64,
                "evaluate_every": EPOCHS,
                **(setup or {}),
                **(options or {}),
            },
        )
        forget_peak()
        self.began = time.perf_counter()
        self.study.start(paused=True)
        self._clock()  # answered before the first step, when the teacher is ready
        if self.study.error is not None:
            raise SideFailed(str(self.study.error))

    @property
    def steps(self) -> int:
        """Steps on record; all that were done, while the study is paused."""
        return len(self.study.record.series("s0", "loss")[0])

    def _clock(self) -> float:
        """The time on the training thread, between two steps, with nothing left for a GPU to do."""
        return float(self.study.call(_now, str(self.study.device)).result())

    def run(self, seconds: float) -> Window:
        """Let the study play for `seconds` and to the end of the step it is in."""
        before, start = self.steps, self._clock()
        while (done := self.steps - before) == 0:  # a long step, or a cache that is being filled
            self._play(seconds)
        return Window(done * self.study.recipe.batch_size * self.students, self._clock() - start)

    def _play(self, seconds: float) -> None:
        self.study.play()
        finished = self.study.wait(seconds)
        self.study.pause()
        self._clock()  # when that is answered, the step at work is done
        if finished or self.study.error is not None:
            raise SideFailed(f"the study ended: {self.study.error or 'all epochs are done'}")

    def until(self, step: int, seconds: float = 0.05) -> float:
        """Play, `seconds` at a time, to at least `step` steps in all; seconds that took."""
        start = self._clock()
        while self.steps < step:
            self._play(seconds)
        return self._clock() - start

    def since_start(self) -> float:
        """Seconds since `Study.start` was called."""
        return time.perf_counter() - self.began

    @property
    def steps_per_epoch(self) -> int:
        return self.study.steps_per_epoch

    def memory(self) -> tuple[int, int]:
        """Bytes in memory now, and at most."""
        return resident(), peak_resident()

    def close(self) -> None:
        self.study.stop()
        self.study.wait(60)
        self._folder.cleanup()


class Idle:
    """A process that has loaded what both sides load, and does nothing: the ground level of memory."""

    def __init__(self, pair: Pair, train: int = TRAIN) -> None:
        data, _ = pictures(train)
        teacher, student = networks(pair, data)
        self._kept = data, teacher, copy.deepcopy(student)
        forget_peak()

    def run(self, seconds: float) -> Window:
        return Window(1, seconds)

    def memory(self) -> tuple[int, int]:
        return resident(), peak_resident()

    def close(self) -> None:
        pass


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()

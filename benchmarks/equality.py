"""The losses of a study and of the textbook loop, step by step, on the same pictures.

The study draws its batches; an augmentation that keeps what it is given tells which pictures were
cut and mirrored how, and the textbook loop makes the same of them with PIL, one picture at a time.
Both start from the same weights, so the losses differ by rounding alone, which training amplifies
from step to step: how much is shown by a second textbook run whose first weights are off by one bit
in the last place. A library; `throughput.py` prints the outcome.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sides import Pair, networks, pictures
from textbook import DISTILLERS, Distiller, Trainer
from torch import Tensor
from torchvision.transforms import functional as TF

import kdlab
from kdlab.data import augment
from kdlab.methods import Method, Step

NAME = "crop_flip, kept"
PAD = 4


class Kept:
    """The augmentation "crop_flip", with pictures and draws of every batch kept."""

    def __init__(self) -> None:
        self.inner = augment.get("crop_flip")
        self.seen: list[tuple[Tensor, Tensor]] = []

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        return self.inner.draw(n, generator)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        self.seen.append((images.clone().cpu(), params.clone().cpu()))
        return self.inner.apply(images, params)


KEPT = Kept()
LABELS: list[Tensor] = []


def keeping_labels(method: str) -> Method:
    """A fresh method of that name, which also keeps the labels of every batch."""
    base: Any = kdlab.methods.get(method)

    class Keeping(base):  # type: ignore[misc]
        def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
            LABELS.append(step.target.clone().cpu())
            return super().losses(step, active)

    return Keeping()


def one_by_one(images: Tensor, params: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """What torchvision's transforms make of PIL pictures with given draws. (B, C, H, W) uint8 -> float."""
    out = []
    for pixels, (top, left, mirror) in zip(images, params.tolist()):
        height, width = pixels.shape[1:]
        picture = TF.pad(Image.fromarray(pixels.permute(1, 2, 0).numpy()), [PAD])
        picture = TF.crop(picture, top, left, height, width)
        picture = TF.hflip(picture) if mirror else picture
        out.append(TF.normalize(TF.to_tensor(picture), mean, std))
    return torch.stack(out)


class EqualitySide:
    """Trains a study and then the textbook loop for a few steps."""

    def __init__(
        self,
        pair: Pair,
        method: str = "kd",
        *,
        steps: int = 20,
        batch: int = 16,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.pair, self.method, self.steps, self.batch = pair, method, steps, batch
        self.options = dict(options or {})
        augment.register(NAME, KEPT)

    def differences(self) -> dict[str, float]:
        """Relative differences of the losses to those of the textbook loop.

        Returns:
            "first": at the first step; "largest": over all steps; "rounding": the largest of a textbook
            loop that begins with the student's weights changed in the last bit.
        """
        data, _ = pictures(2_000)
        teacher, student = networks(self.pair, data)
        KEPT.seen.clear()
        LABELS.clear()
        with tempfile.TemporaryDirectory(prefix="kdlab-bench-") as folder:
            study = kdlab.Study(
                data=data,
                teacher=teacher,
                student=student,
                students={"student": keeping_labels(self.method)},
                recipe="cifar_240",
                epochs=240,
                batch_size=self.batch,
                augment=NAME,
                device="cpu",
                folder=Path(folder) / "study",
                snapshots="ends",
                probe_size=64,
                **self.options,
            )
            study.start(paused=True)
            distiller = DISTILLERS[self.method](student, teacher)
            _same_start(study, distiller)
            while len(study.record.series("student", "loss")[0]) < self.steps:
                study.play()
                study.wait(0.1)
                study.pause()
                study.call(int).result()
                if study.error is not None:
                    raise study.error
            study.stop()
            study.wait()
            ours = study.record.series("student", "loss")[1][: self.steps]
        batches = [
            (one_by_one(images, params, data.mean, data.std), labels)
            for (images, params), labels in zip(KEPT.seen[: self.steps], LABELS)
        ]
        off = _off_by_a_bit(distiller)
        theirs, others = _losses(distiller, batches), _losses(off, batches)
        relative = np.abs(ours - theirs) / np.abs(theirs)
        return {
            "first": float(relative[0]),
            "largest": float(relative.max()),
            "rounding": float((np.abs(others - theirs) / np.abs(theirs)).max()),
        }

    def close(self) -> None:
        pass


def _losses(distiller: Distiller, batches: Sequence[tuple[Tensor, Tensor]]) -> NDArray[np.float64]:
    """The losses of the textbook loop on these batches."""
    trainer = Trainer(distiller, [])
    distiller.train()
    for images, labels in batches:
        trainer.step(images, labels, epoch=1)
    return np.asarray(trainer.losses)


def _off_by_a_bit(distiller: Distiller) -> Distiller:
    """A copy with every weight of the student moved to the next number, up or down at random."""
    other = copy.deepcopy(distiller)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in other.student.parameters():
            away = torch.randint(0, 2, parameter.shape, generator=generator) * 2.0 - 1.0
            parameter.copy_(torch.nextafter(parameter, away * torch.inf))
    return other


def _same_start(study: kdlab.Study, distiller: Distiller) -> None:
    """Give the textbook's trained parts (besides the student) the weights of the study's."""
    mine = [p for name, p in distiller.named_parameters() if not name.startswith(("student.", "teacher."))]
    if not mine:
        return

    def parts() -> list[Tensor]:
        (run,) = study._run.students if study._run is not None else ()
        return [p.detach().clone() for p in run.method.parameters() if p.requires_grad]

    theirs = study.call(parts).result()
    for parameter in mine:
        # by shape and order, since names are the implementation's own business
        match = next((i for i, t in enumerate(theirs) if t.shape == parameter.shape), None)
        if match is None:
            raise ValueError("The trained parts of the two implementations differ in shape.")
        parameter.data.copy_(theirs.pop(match))

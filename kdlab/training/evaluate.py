"""Accuracy of a student's deployed predictor, and of plain networks, on held-out pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlab.data import Batch, ImageData, Split, eval_batches
from kdlab.methods import Step
from kdlab.models.features import StagedNet
from kdlab.training.crew import Crew
from kdlab.training.student import StudentRun


@torch.no_grad()
def evaluate(
    students: Sequence[StudentRun],
    teachers: Sequence[StagedNet],
    data: ImageData,
    sample: Split,
    device: torch.device,
    epoch: int,
    crew: Crew | None = None,
) -> dict[str, dict[str, float]]:
    """What every student scores on the validation and the test split, in eval mode.

    Args:
        sample: training images, looked at without augmentation (see `train_sample`).
        crew: looks at several students at once.

    Returns:
        For each student "sample_accuracy", "sample_loss", "val_accuracy", "val_loss", "test_accuracy",
        "test_loss" of its deployed predictor (accuracies 0..1, losses the mean cross-entropy), and
        "side/NAME", the test accuracy of each further predictor of its method. Empty splits are left out.
    """
    for student in students:
        student.net.eval()
        student.method.eval()
    classifiers = tuple(teacher.classifier for teacher in teachers)
    scores: dict[str, dict[str, float]] = {student.name: {} for student in students}
    for part, split in (("sample", sample), ("val", data.val), ("test", data.test)):
        reading = ("predict", "side_logits") if part == "test" else ("predict",)
        share = any(student.method.overrides(name) for student in students for name in reading)
        sums: dict[tuple[str, str], Tensor] = {}
        for batch in eval_batches(split, data.mean, data.std, 512, device):
            seen = tuple(teacher.features(batch.images) for teacher in teachers) if share else ()

            @torch.no_grad()
            def one(
                student: StudentRun, batch: Batch = batch, seen: Any = seen, part: str = part
            ) -> dict[str, Tensor]:
                features = student.net.features(batch.images)
                step = Step(features, batch.labels, seen, classifiers, batch.index, epoch)
                return _scores(student, step, part)

            found = {} if crew is None else crew.run(students, one)
            for student in students:
                own = found[student.name] if student.name in found else one(student)
                for key, value in own.items():
                    place = (student.name, key)
                    sums[place] = sums[place] + value if place in sums else value
        for (name, key), value in sums.items():
            scores[name][key] = float(value) / len(split)
    return scores


def train_sample(split: Split, size: int = 1000) -> Split:
    """A fixed sample of training images, to see how well they are learnt without augmentation."""
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:size]
    return split.take(chosen.sort().values.to(split.labels.device))


def _scores(student: StudentRun, step: Step, part: str) -> dict[str, Tensor]:
    """Sums over one batch."""
    logits = student.method.predict(step)
    out = {
        f"{part}_accuracy": (logits.argmax(dim=1) == step.target).sum(),
        f"{part}_loss": F.cross_entropy(logits.float(), step.target, reduction="sum"),
    }
    if part == "test":
        for name, side in student.method.side_logits(step).items():
            out[f"side/{name}"] = (side.argmax(dim=1) == step.target).sum()
    return out


@torch.no_grad()
def accuracy(net: StagedNet, split: Split, data: ImageData, device: torch.device) -> float:
    """Share of right answers of a plain network on a split, in eval mode."""
    net.eval()
    right = torch.zeros((), device=device)
    for batch in eval_batches(split, data.mean, data.std, 512, device):
        right += (net(batch.images).argmax(dim=1) == batch.labels).sum()
    return float(right) / len(split)

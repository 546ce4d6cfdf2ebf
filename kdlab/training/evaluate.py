"""Accuracy of a student's deployed predictor, and of plain networks, on held-out pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlab.data import ImageData, Split, eval_batches
from kdlab.methods import Step
from kdlab.models.features import StagedNet
from kdlab.training.student import StudentRun


@torch.no_grad()
def evaluate(
    student: StudentRun, teachers: Sequence[StagedNet], data: ImageData, device: torch.device, epoch: int
) -> dict[str, float]:
    """Accuracy and cross-entropy of the deployed predictor on validation and test split, eval mode."""
    student.net.eval()
    student.method.eval()
    own = student.method.overrides("predict") or student.method.overrides("side_logits")
    out: dict[str, float] = {}
    for part, split in (("val", data.val), ("test", data.test)):
        sums: dict[str, Tensor] = {}
        for batch in eval_batches(split, data.mean, data.std, 512, device):
            features = student.net.features(batch.images)
            seen = tuple(t.features(batch.images) for t in teachers) if own else ()
            classifiers = tuple(t.classifier for t in teachers)
            step = Step(features, batch.labels, seen, classifiers, batch.index, epoch)
            logits = student.method.predict(step)
            _add(sums, f"{part}_accuracy", (logits.argmax(dim=1) == batch.labels).sum())
            _add(sums, f"{part}_loss", F.cross_entropy(logits.float(), batch.labels, reduction="sum"))
            if part == "test":
                for name, side in student.method.side_logits(step).items():
                    _add(sums, f"side/{name}", (side.argmax(dim=1) == batch.labels).sum())
        out |= {key: float(value) / len(split) for key, value in sums.items()}
    return out


@torch.no_grad()
def accuracy(net: StagedNet, split: Split, data: ImageData, device: torch.device) -> float:
    """Share of right answers of a plain network on a split, in eval mode."""
    net.eval()
    right = torch.zeros((), device=device)
    for batch in eval_batches(split, data.mean, data.std, 512, device):
        right += (net(batch.images).argmax(dim=1) == batch.labels).sum()
    return float(right) / len(split)


def _add(sums: dict[str, Tensor], key: str, value: Tensor) -> None:
    sums[key] = sums[key] + value if key in sums else value

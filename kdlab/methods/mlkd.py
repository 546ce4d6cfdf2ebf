"""MLKD: predictions are aligned one by one, over the batch and over the classes, at several temperatures."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.losses import (
    batch_alignment,
    class_alignment,
    cross_entropy,
    instance_alignment,
    rare_classes,
    unsure_samples,
)
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.checks import choice, number, same_classes
from kdlab.methods.registry import register
from kdlab.models.features import NetSpec

LOGITS = ("student.logits", "teacher.logits")
SECOND = ("second.student.logits", "second.teacher.logits")


@register
class MLKD(Method):
    """Multi-level logit distillation on two views of each picture: weak (w) and strong (s).

    P_T = softmax(z/T) (B, C); m_b = 1 for samples whose largest teacher probability (of w, at T = 1) is
    at most the batch median; n_c = 1 for classes whose summed teacher probability is at most the median.

        instance_T = (T^2 / B) sum_b m_b KL(P_T^T[b] || P_T^S[b])
        batch_T    = (1/B) sum_b m_b |row b of P^T P^T' - P^S P^S'|^2
        class_T    = (1/C) sum_c n_c |row c of P^T' P^T - P^S' P^S|^2

        ce       = CE(z_s(w), y) + CE(z_s(s), y)
        instance = sum_T instance_T(w) + sum_T instance_T(s) without the mask
        batch    = sum_T batch_T(w),      class = sum_T class_T(w)        T in {tau, 3, 5, 2, 6}
        L        = 0.1 ce + 0.9 (instance + batch + class)

    The released code reduces each loss to a scalar before it is masked, so its masks merely multiply by
    f_B = ceil(B/2)/B and f_C = ceil(C/2)/C, and it takes w in place of s from the fourth temperature on
    (`masks="as_released"`, both included). Masks per sample and class are what the paper describes; where
    exactly they go is ours. No T^2 in batch and class.

    Look at: the two Gram matrices of teacher and student side by side.

    Args:
        temperature: tau; CIFAR 4, ImageNet 1.
        temperatures: the further ones.
        masks: "per_sample" (and class), "as_released", or "none".
        ce, instance, batch, classes: weights; ImageNet 0.5 each. `classes` is that of the term `class`.

    >>> kdlab.methods.MLKD()
    MLKD[ce=0.1, instance=0.9, batch=0.9, class=0.9]
    >>> kdlab.methods.MLKD().second_view  # how the second picture is augmented
    'strong'
    """

    key = "mlkd"
    title = "MLKD"
    paper = "Jin, Wang, Lin, CVPR 2023, doi 10.1109/CVPR52729.2023.02325"
    family = "logit"
    status = "code"
    status_note = "masks act per sample and class, as in the paper's text but not in its code (as_released)"
    second_view = "strong"
    presets = {
        "CIFAR-100": {"temperature": 4.0, "ce": 0.1, "instance": 0.9, "batch": 0.9, "classes": 0.9},
        "ImageNet": {"temperature": 1.0, "ce": 0.5, "instance": 0.5, "batch": 0.5, "classes": 0.5},
        "CIFAR-100, as released": {"masks": "as_released"},
    }

    def __init__(
        self,
        temperature: float = 4.0,
        temperatures: Sequence[float] = (3.0, 5.0, 2.0, 6.0),
        masks: Literal["per_sample", "as_released", "none"] = "per_sample",
        ce: float = 0.1,
        instance: float = 0.9,
        batch: float = 0.9,
        classes: float = 0.9,
    ) -> None:
        labels = ("student.logits", "second.student.logits", "target")
        super().__init__(
            Term("ce", ce, labels, "give the labelled class a high probability, in both views"),
            Term("instance", instance, (*LOGITS, *SECOND), "match each softened prediction, in both views"),
            Term("batch", batch, LOGITS, "find the same samples alike as the teacher does"),
            Term("class", classes, LOGITS, "confuse the same classes as the teacher does"),
        )
        if not isinstance(temperatures, list | tuple):
            raise ConfigError(f"MLKD(temperatures=...) must be a list such as (3, 5), not {temperatures!r}.")
        self.temperatures = tuple(
            number(self, name, value, above=0)
            for name, value in [("temperature", temperature), *(("temperatures", t) for t in temperatures)]
        )
        self.masks = choice(self, "masks", masks, ("per_sample", "as_released", "none"))

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        same_classes(self, student, teachers[0])

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = {}
        if "ce" in active:
            strong = cross_entropy(self._second(step).student.logits, step.target)
            values["ce"] = cross_entropy(step.student.logits, step.target) + strong
        if not {"instance", "batch", "class"} & set(active):
            return values
        z_s, z_t = step.student.logits, step.teacher.logits
        samples = classes = None
        if self.masks == "per_sample":
            samples = unsure_samples(z_t) if {"instance", "batch"} & set(active) else None
            classes = rare_classes(z_t) if "class" in active else None
        f_b, f_c = map(_half, z_s.shape) if self.masks == "as_released" else (1.0, 1.0)
        if "instance" in active:
            second = self._second(step)
            weak = [instance_alignment(z_s, z_t, t, samples) for t in self.temperatures]
            released = self.masks == "as_released"
            again = [
                instance_alignment(seen.student.logits, seen.teacher.logits, t)
                for i, t in enumerate(self.temperatures)
                for seen in [step if released and i >= 3 else second]
            ]
            values["instance"] = f_b * torch.stack(weak).sum() + torch.stack(again).sum()
        if "batch" in active:
            per_t = [batch_alignment(z_s, z_t, t, samples) for t in self.temperatures]
            values["batch"] = f_b * torch.stack(per_t).sum()
        if "class" in active:
            per_t = [class_alignment(z_s, z_t, t, classes) for t in self.temperatures]
            values["class"] = f_c * torch.stack(per_t).sum()
        return values

    def _second(self, step: Step) -> Step:
        if step.second is None:
            raise ConfigError(
                "MLKD needs a second, strongly augmented view of each batch (Step.second), which is missing."
            )
        return step.second


def _half(count: int) -> float:
    """The share of what is at most the median: ceil(count / 2) / count."""
    return -(-count // 2) / count

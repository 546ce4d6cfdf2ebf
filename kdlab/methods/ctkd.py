"""CTKD: a temperature that learns to make the task harder, little by little."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdlab.errors import ConfigError
from kdlab.losses import cross_entropy, kd, nckd, tckd
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.ce_kd import ce_term, kd_term
from kdlab.methods.checks import choice, enough_classes, number, require_built, same_classes, whole
from kdlab.methods.dkd import TAPS as DKD_TAPS
from kdlab.methods.registry import register
from kdlab.methods.schedules import Warmup
from kdlab.models.features import NetSpec


@register
class CTKD(Method):
    """Curriculum temperature: theta ascends the distillation loss that the student descends.

        T         = t_start + t_end sigmoid(theta)                    theta = 1 at the start, T = 15.62
        kd        = T^2 mean_b KL(softmax(z_t/T) || softmax(z_s/T))   z_s, z_t (B, C)
        L         = 0.1 CE(z_s, y) + 0.9 kd
        dL/dtheta is multiplied by lambda(e) = -strength (1 - cos(pi min(e, E)/E)) / 2

    The gradient is reversed for theta alone, first hardly at all (-0.024), from epoch E on in full
    (-1): from easy to hard. theta is in the student's optimiser, without weight decay (decay would pull
    T to the middle of its range).

    Look at: T over the epochs (`details["temperature/mean"]`) and the term beside that of plain KD.

    Args:
        host: "kd", or "dkd": alpha tckd + beta nckd at T, with DKD's warm-up of 20 epochs (ours).
        t_start, t_end: T lies between t_start and t_start + t_end.
        epochs: E; 10, and 5 on ImageNet.
        adversarial: False: lambda = +1, theta descends the loss along with the student (ablation). A
            fixed temperature is plain KD.
        strength: the largest |lambda|, in 0..1.
        per_sample: a temperature for each sample from a small network (2C -> 256 -> 1, ReLU) on the
            detached probabilities of teacher and student; it starts at theta = 1 for all. The network's
            shape is ours.
        ce, kd: weights with the host "kd"; ImageNet 1 and 1.
        alpha, beta: weights with the host "dkd", where `ce` is 1 unless given.

    >>> curriculum = kdlab.methods.CTKD()
    >>> curriculum
    CTKD[ce=0.1, kd=0.9]
    >>> [round(curriculum.reversal(epoch), 3) for epoch in (1, 5, 10)]
    [-0.024, -0.5, -1.0]
    """

    key = "ctkd"
    title = "CTKD"
    paper = "Li et al., AAAI 2023, arXiv 2211.16231"
    family = "logit"
    status = "code"
    status_note = "the network of the per-sample variant, and that theta has no weight decay, are ours"
    trained = {"temperature": "one scalar, or a small network on both probabilities (per_sample)"}
    presets = {
        "CIFAR-100": {"ce": 0.1, "kd": 0.9, "epochs": 10},
        "ImageNet": {"ce": 1.0, "kd": 1.0, "epochs": 5},
        "DKD": {"host": "dkd", "alpha": 1.0, "beta": 2.0},
    }

    def __init__(
        self,
        host: Literal["kd", "dkd"] = "kd",
        t_start: float = 1.0,
        t_end: float = 20.0,
        epochs: int = 10,
        adversarial: bool = True,
        strength: float = 1.0,
        per_sample: bool = False,
        ce: float | None = None,
        kd: float = 0.9,
        alpha: float = 1.0,
        beta: float = 2.0,
    ) -> None:
        if choice(self, "host", host, ("kd", "dkd")) == "kd":
            super().__init__(ce_term(0.1 if ce is None else ce), kd_term(kd))
        else:
            super().__init__(
                ce_term(1.0 if ce is None else ce),
                Term("tckd", alpha, DKD_TAPS, "be as sure of the labelled class as the teacher, at T"),
                Term("nckd", beta, DKD_TAPS, "rank the other classes as the teacher does, at T"),
            )
            for name in ("tckd", "nckd"):
                self.terms[name].schedule = Warmup(20)
        self.t_start = number(self, "t_start", t_start, above=0)
        self.t_end = number(self, "t_end", t_end, above=0)
        self.epochs = whole(self, "epochs", epochs, minimum=1)
        self.strength = number(self, "strength", strength, minimum=0)
        if self.strength > 1:
            raise ConfigError(f"CTKD(strength=...) must be a number from 0 to 1, not {strength!r}.")
        self.adversarial, self.per_sample = bool(adversarial), bool(per_sample)

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        classes = same_classes(self, student, teachers[0])
        if "nckd" in self.terms and self.terms["nckd"].weight:
            enough_classes(self, student, 3, "one other class has nothing to rank; use host='kd'.")
        self.temperature = SampleTemperature(classes) if self.per_sample else ScalarTemperature()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "weight_decay": 0.0}]

    def reversal(self, epoch: int) -> float:
        """lambda(e): what the gradient of the temperature is multiplied by."""
        if not self.adversarial:
            return 1.0
        return -self.strength * (1 - math.cos(math.pi * min(epoch, self.epochs) / self.epochs)) / 2

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        self.details = {}
        values = {}
        if "ce" in active:
            values["ce"] = cross_entropy(step.student.logits, step.target)
        if not {"kd", "tckd", "nckd"} & set(active):
            return values
        require_built(self)
        z_s, z_t = step.student.logits, step.teacher.logits
        theta = _scale_gradient(self.temperature(z_t, z_s), self.reversal(step.epoch))
        temperature = self.t_start + self.t_end * torch.sigmoid(theta)
        self.details = {"temperature/mean": temperature.detach().mean()}
        if "kd" in active:
            values["kd"] = kd(z_s, z_t, temperature)
        if "tckd" in active:
            values["tckd"] = tckd(z_s, z_t, step.target, temperature)
        if "nckd" in active:
            values["nckd"] = nckd(z_s, z_t, step.target, temperature)
        return values


class ScalarTemperature(nn.Module):
    """One theta for all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(()))

    def forward(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return self.theta


class SampleTemperature(nn.Module):
    """(B, 1) theta from the probabilities of both networks; 1 for every sample before training."""

    def __init__(self, classes: int, width: int = 256) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * classes, width)
        self.out = nn.Linear(width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.ones_(self.out.bias)

    def forward(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        with torch.autocast(teacher_logits.device.type, enabled=False):
            both = [z.detach().to(self.out.weight.dtype).softmax(1) for z in (teacher_logits, student_logits)]
            return self.out(torch.relu(self.hidden(torch.cat(both, dim=1))))


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * gradients[0], None


def _scale_gradient(value: Tensor, factor: float) -> Tensor:
    """`value` itself; its gradient is multiplied by `factor`."""
    return _ScaledGradient.apply(value, factor)

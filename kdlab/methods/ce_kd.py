"""CE, the control that every comparison needs, and KD, the method that all others start from."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.losses import cross_entropy, kd
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.checks import number, same_classes
from kdlab.methods.registry import register
from kdlab.models.features import NetSpec


def ce_term(weight: float = 1.0) -> Term:
    """Hard-label cross-entropy, the term that nearly every method has."""
    return Term("ce", weight, ("student.logits", "target"), "give the labelled class a high probability")


def kd_term(weight: float, optional: bool = False) -> Term:
    """Plain KD; `optional` where a method merely offers it."""
    taps = ("student.logits", "teacher.logits")
    return Term("kd", weight, taps, "match the teacher's softened probabilities", optional=optional)


def ce_and_kd(step: Step, active: Collection[str], temperature: float) -> dict[str, Tensor]:
    """Values of those of the terms `ce` and `kd` that are active."""
    values = {}
    if "ce" in active:
        values["ce"] = cross_entropy(step.student.logits, step.target)
    if "kd" in active:
        values["kd"] = kd(step.student.logits, step.teacher.logits, temperature)
    return values


@register
class CE(Method):
    """Plain training with labels: L = CE(z_s, y). No teacher.

    Terms: ce 1.

    >>> kdlab.methods.CE()
    CE[ce=1]
    >>> kdlab.methods.CE().needs_teacher()
    False
    """

    key = "ce"
    title = "CE"
    paper = "plain supervised training (control)"
    family = "logit"
    status = "paper"

    def __init__(self, ce: float = 1.0) -> None:
        super().__init__(ce_term(ce))

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        return {"ce": cross_entropy(step.student.logits, step.target)} if "ce" in active else {}


@register
class KD(Method):
    """Knowledge distillation: the student matches the teacher's softened probabilities.

        L  = w_ce * CE(z_s, y) + w_kd * kd
        kd = tau^2 * mean_b KL(softmax(z_t / tau) || softmax(z_s / tau))

    z_s, z_t: (B, C) logits. CIFAR-100 in the public code: 0.1 ce + 0.9 kd, tau 4 (the defaults);
    ImageNet: 0.5 ce + 0.5 kd, tau 1. No warm-up.

    Args:
        temperature: tau > 0.
        ce: weight of the cross-entropy.
        kd: weight of the distillation term.
        weight: the same as `kd`; give one of the two.

    >>> kdlab.methods.KD()
    KD[ce=0.1, kd=0.9]
    >>> kdlab.methods.KD(temperature=2, ce=1).code()
    'kdlab.methods.KD(temperature=2, ce=1)'
    """

    key = "kd"
    title = "KD"
    paper = "Hinton, Vinyals, Dean, 2015, arXiv 1503.02531"
    family = "logit"
    status = "paper"
    presets = {"ImageNet": {"temperature": 1.0, "ce": 0.5, "kd": 0.5}}

    def __init__(
        self, temperature: float = 4.0, ce: float = 0.1, kd: float = 0.9, weight: float | None = None
    ) -> None:
        if weight is not None and kd not in (0.9, weight):
            raise ConfigError(f"KD got kd={kd!r} and weight={weight!r}, which name one weight; give one.")
        super().__init__(ce_term(ce), kd_term(kd if weight is None else weight))
        self.temperature = number(self, "temperature", temperature, above=0)

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        same_classes(self, student, teachers[0])

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        return ce_and_kd(step, active, self.temperature)

"""NKD: the target part of soft cross-entropy as it is, the other classes normalised."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from kdlab.losses import cross_entropy, nkd_non_target, nkd_target
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.ce_kd import ce_term
from kdlab.methods.checks import enough_classes, number, same_classes
from kdlab.methods.registry import register
from kdlab.models.features import NetSpec

TAPS = ("student.logits", "teacher.logits", "target")


@register
class NKD(Method):
    """Normalised knowledge distillation: soft labels split at the labelled class.

    p_t = softmax(z)_y at tau = 1; phat_i = softmax over i != y of z_i/tau; z_s, z_t (B, C).

        target    = - mean_b p_t^T log p_t^S
        nontarget = - tau^2 mean_b sum_{i != y} phat_i^T log phat_i^S
        L         = CE(z_s, y) + target + gamma nontarget

    Both are soft cross-entropies: equal logits do not give 0, only the smallest value. With `ce` the
    labelled class has weight 1 + p_t^T, so a sure teacher teaches it more. Gradient of `nontarget`:
    tau (phat^S - phat^T) / B, and 0 for z_y. The target is really left out of phat (C - 1 classes).

    Look at: p_t^T per class (where labels count more), phat^T against phat^S of one sample; DKD beside it.

    Args:
        gamma: weight of `nontarget`. CIFAR-100 (ResNet-34 -> ResNet-18): 3.5 at tau 3, the defaults;
            ImageNet: 1.5 at tau 1.
        temperature: tau of `nontarget`.
        target: weight of `target`.
        ce: weight of the cross-entropy.

    >>> kdlab.methods.NKD()
    NKD[ce=1, target=1, nontarget=3.5]
    >>> kdlab.methods.NKD.presets["ImageNet"]
    {'gamma': 1.5, 'temperature': 1.0}
    """

    key = "nkd"
    title = "NKD"
    paper = "Yang et al., ICCV 2023, arXiv 2303.13005"
    family = "logit"
    status = "code"
    presets = {
        "CIFAR-100, ResNet-34 -> ResNet-18": {"gamma": 3.5, "temperature": 3.0},
        "ImageNet": {"gamma": 1.5, "temperature": 1.0},
    }

    def __init__(
        self, gamma: float = 3.5, temperature: float = 3.0, target: float = 1.0, ce: float = 1.0
    ) -> None:
        super().__init__(
            ce_term(ce),
            Term("target", target, TAPS, "give the labelled class probability where the teacher does"),
            Term("nontarget", gamma, TAPS, "share out the rest among the other classes as the teacher does"),
        )
        self.temperature = number(self, "temperature", temperature, above=0)

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        same_classes(self, student, teachers[0])
        if self.terms["nontarget"].weight:
            enough_classes(self, student, 3, "one other class gets all of the rest; use KD, or NKD(gamma=0).")

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = {}
        if "ce" in active:
            values["ce"] = cross_entropy(step.student.logits, step.target)
        if "target" in active:
            values["target"] = nkd_target(step.student.logits, step.teacher.logits, step.target)
        if "nontarget" in active:
            values["nontarget"] = nkd_non_target(
                step.student.logits, step.teacher.logits, step.target, self.temperature
            )
        return values

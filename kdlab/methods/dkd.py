"""DKD: knowledge distillation taken apart, so that its two halves can be weighed freely."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from kdlab.losses import cross_entropy, nckd, tckd
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.ce_kd import ce_term
from kdlab.methods.checks import enough_classes, number, same_classes, whole
from kdlab.methods.registry import register
from kdlab.methods.schedules import Warmup
from kdlab.models.features import NetSpec

TAPS = ("student.logits", "teacher.logits", "target")


@register
class DKD(Method):
    """Decoupled knowledge distillation: how sure, and what else it looks like, as two terms.

    p_t = softmax(z/tau)_y, phat_i = p_i / (1 - p_t) for i != y; z_s, z_t (B, C). KD is, per sample,

        KL(p^T || p^S) = KL([p_t, 1-p_t]^T || [p_t, 1-p_t]^S) + (1 - p_t^T) KL(phat^T || phat^S)

    so that a sure teacher switches the second part off. DKD replaces its weight by a constant:

        tckd = tau^2 mean_b KL([p_t, 1-p_t]^T || [p_t, 1-p_t]^S)
        nckd = tau^2 mean_b KL(phat^T || phat^S)
        L    = CE(z_s, y) + w(e) (alpha tckd + beta nckd)        w(e) = min(e / warmup, 1)

    Rows of both gradients sum to 0; nckd does not depend on z_y at all. Needs labels and C >= 3.

    Look at: the share of tckd in KD over tau, the bars of phat^T against phat^S of one sample, and
    samples of a sure teacher, whose nckd KD would ignore.

    Args:
        alpha, beta: weights of `tckd` and `nckd`; beta depends on the pair (see `presets`).
        temperature: tau of both.
        ce: weight of the cross-entropy.
        warmup: epochs of the linear warm-up of both terms; 0: none.

    >>> kdlab.methods.DKD()
    DKD[ce=1, tckd=1 warmup:20, nckd=8 warmup:20]
    >>> [round(kdlab.methods.DKD().term("nckd").factor(epoch), 1) for epoch in (1, 10, 20)]  # of 8
    [0.4, 4.0, 8.0]
    """

    key = "dkd"
    title = "DKD"
    paper = "Zhao, Cui, Song, Qiu, Liang, CVPR 2022, arXiv 2203.08679"
    family = "logit"
    status = "code"
    presets = {
        "resnet56 -> resnet20, resnet110 -> resnet32": {"beta": 2.0},
        "wrn_40_2 -> wrn_16_2 or wrn_40_1, vgg13 -> vgg8 or MobileNetV2": {"beta": 6.0},
        "resnet32x4 -> resnet8x4, ResNet50 -> MobileNetV2, all ShuffleNets": {"beta": 8.0},
        "ImageNet, ResNet-34 -> ResNet-18": {"beta": 0.5, "temperature": 1.0, "warmup": 1},
        "ImageNet, ResNet-50 -> MobileNet": {"beta": 2.0, "temperature": 1.0, "warmup": 1},
    }

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        ce: float = 1.0,
        warmup: int = 20,
    ) -> None:
        super().__init__(
            ce_term(ce),
            Term("tckd", alpha, TAPS, "be as sure of the labelled class as the teacher"),
            Term("nckd", beta, TAPS, "rank the other classes as the teacher does"),
        )
        self.temperature = number(self, "temperature", temperature, above=0)
        if epochs := whole(self, "warmup", warmup, minimum=0):
            for name in ("tckd", "nckd"):
                self.terms[name].schedule = Warmup(epochs)

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        same_classes(self, student, teachers[0])
        if self.terms["nckd"].weight:
            enough_classes(self, student, 3, "one other class has nothing to rank; use KD, or DKD(beta=0).")

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = {}
        if "ce" in active:
            values["ce"] = cross_entropy(step.student.logits, step.target)
        if "tckd" in active:
            values["tckd"] = tckd(step.student.logits, step.teacher.logits, step.target, self.temperature)
        if "nckd" in active:
            values["nckd"] = nckd(step.student.logits, step.teacher.logits, step.target, self.temperature)
        return values

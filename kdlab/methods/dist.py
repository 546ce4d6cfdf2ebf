"""DIST: predictions need not equal the teacher's, only correlate with them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from kdlab.losses import cross_entropy, dist_inter, dist_intra
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.ce_kd import ce_term
from kdlab.methods.checks import enough_classes, number, same_classes
from kdlab.methods.registry import register
from kdlab.models.features import NetSpec

TAPS = ("student.logits", "teacher.logits")


@register
class DIST(Method):
    """Distillation from a stronger teacher: correlation in place of divergence.

    P = softmax(z/tau), (B, C); rho(a, b) = <a - mean a, b - mean b> / (||.|| ||.|| + 1e-8).

        inter = tau^2 (1 - mean_b rho(P^S[b], P^T[b]))          relations between classes, row by row
        intra = tau^2 (1 - mean_c rho(P^S[:, c], P^T[:, c]))    relations within a class, over the batch
        L     = CE(z_s, y) + weight (beta inter + gamma intra)

    0 wherever the rows (columns) of P^S are affine functions of the teacher's: a student need not
    become as sure as a strong teacher. No labels in either term. `intra` depends on the batch size; a
    column that is constant, and so a batch of one, gives 1 and no gradient.

    Look at: the two correlations, sample by sample and class by class.

    Args:
        weight: factor of both terms; 2 in the published code.
        beta, gamma: weights of `inter` and `intra` within it.
        temperature: tau. CIFAR-100: 4 (the default); ImageNet: 1.
        ce: weight of the cross-entropy.

    >>> kdlab.methods.DIST()
    DIST[ce=1, inter=2, intra=2]
    >>> kdlab.methods.DIST(weight=1, gamma=0)  # relations between classes alone
    DIST[ce=1, inter=1, intra=0]
    """

    key = "dist"
    title = "DIST"
    paper = "Huang, You, Wang, Qian, Xu, NeurIPS 2022, arXiv 2205.10536"
    family = "logit"
    status = "code"
    presets = {"CIFAR-100": {"temperature": 4.0}, "ImageNet": {"temperature": 1.0}}

    def __init__(
        self,
        weight: float = 2.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float = 4.0,
        ce: float = 1.0,
    ) -> None:
        factor = number(self, "weight", weight)
        super().__init__(
            ce_term(ce),
            Term("inter", factor * number(self, "beta", beta), TAPS, "rank the classes of a sample alike"),
            Term(
                "intra", factor * number(self, "gamma", gamma), TAPS, "rank the samples by each class alike"
            ),
        )
        self.temperature = number(self, "temperature", temperature, above=0)

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        same_classes(self, student, teachers[0])
        if self.terms["inter"].weight:
            reason = "of two numbers the correlation is always 1 or -1; use KD, or DIST(beta=0)."
            enough_classes(self, student, 3, reason)

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = {}
        if "ce" in active:
            values["ce"] = cross_entropy(step.student.logits, step.target)
        if "inter" in active:
            values["inter"] = dist_inter(step.student.logits, step.teacher.logits, self.temperature)
        if "intra" in active:
            values["intra"] = dist_intra(step.student.logits, step.teacher.logits, self.temperature)
        return values

"""TTM and WTTM: the teacher is softened, the student is not."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from kdlab.losses import cross_entropy, ttm, wttm
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.ce_kd import ce_term
from kdlab.methods.checks import number, same_classes
from kdlab.methods.registry import register
from kdlab.models.features import NetSpec

TAPS = ("student.logits", "teacher.logits")


@register
class TTM(Method):
    """Transformed teacher matching: KD without the student's temperature.

        q   = (p^T)^gamma / U = softmax(gamma z_t),    p^S = softmax(z_s)     both (B, C)
        ttm = mean_b KL(q || p^S)
        L   = CE(z_s, y) + weight ttm

    A power transform of the teacher is a temperature 1/gamma. Leaving it away on the student's side
    adds a Renyi-entropy bonus to KD, which keeps the student less sure. No factor tau^2, hence the large
    weight. At gamma = 1 it is KD at tau = 1.

    Look at: entropies of teacher, softened teacher and student over epochs.

    Args:
        weight: of `ttm`. 45 in the published command for CIFAR-100; 4 together with CRD.
        gamma: the exponent; 0.1, or 0.2 together with CRD.
        ce: weight of the cross-entropy.

    >>> kdlab.methods.TTM()
    TTM[ce=1, ttm=45]
    >>> kdlab.methods.TTM(weight=4, gamma=0.2) + kdlab.methods.CRD()
    TTM + CRD (contrastive)[ce=1, ttm=4, crd=0.8, kd=0; left out: CRD (contrastive)'s ce=1]
    """

    key = "ttm"
    title = "TTM"
    paper = "Zheng, Yang, ICLR 2024, arXiv 2402.11148"
    family = "logit"
    status = "code"
    presets = {"CIFAR-100": {"weight": 45.0, "gamma": 0.1}, "with CRD": {"weight": 4.0, "gamma": 0.2}}

    main = "ttm"
    asks = "match the softened teacher, itself unsoftened"
    compare = staticmethod(ttm)

    def __init__(self, weight: float = 45.0, gamma: float = 0.1, ce: float = 1.0) -> None:
        super().__init__(ce_term(ce), Term(self.main, weight, TAPS, self.asks))
        self.gamma = number(self, "gamma", gamma, above=0)

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        same_classes(self, student, teachers[0])

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = {}
        if "ce" in active:
            values["ce"] = cross_entropy(step.student.logits, step.target)
        if self.main in active:
            values[self.main] = self.compare(step.student.logits, step.teacher.logits, self.gamma)
        return values


@register
class WTTM(TTM):
    """Weighted TTM: samples that the teacher is unsure of count more.

        U_b  = sum_c (p_c^T)^gamma,    q = (p^T)^gamma / U
        wttm = mean_b U_b KL(q || p^S)
        L    = CE(z_s, y) + weight wttm

    U is 1 where the teacher is certain and C^(1 - gamma) where it is uniform. (B, C) as in TTM.

    Look at: U against the teacher's entropy; which pictures weigh most.

    Args:
        weight: of `wttm`; 45, or 4 together with CRD.
        gamma: the exponent; 0.1, or 0.2 together with CRD.
        ce: weight of the cross-entropy.

    >>> kdlab.methods.WTTM()
    WTTM[ce=1, wttm=45]
    >>> uniform, student = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    >>> plain = kdlab.methods.TTM.compare(student, uniform)
    >>> kdlab.methods.WTTM.compare(student, uniform) / plain  # U = 2^0.9
    tensor(1.8661)
    """

    key = "wttm"
    title = "WTTM"
    main = "wttm"
    asks = "match the softened teacher, above all where the teacher is unsure"
    compare = staticmethod(wttm)

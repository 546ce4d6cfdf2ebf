"""How GPAC makes each of several teachers easier to follow: a learnt scale, or a weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlab.losses import corrected_kd, kd_per_teacher

FORMS = ("scale", "none", "kl_weight", "softmax_weight", "argmax_bonus")


class Corrector(nn.Module):
    """w = softplus(u) for each teacher, 1 at first, kept within 0.1 and 10.

    u is projected back onto that interval before each use, rather than clamped in the graph, where its
    gradient would be zero outside and it would be stuck.

    Args:
        teachers: M.
        shape: () for one scale per teacher, (C,) by class, (N,) by picture.
    """

    LEAST, MOST = 0.1, 10.0

    def __init__(self, teachers: int, shape: Sequence[int] = ()) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.full((teachers, *shape), math.log(math.e - 1)))

    def project(self) -> None:
        """Bring u back to where w is within its bounds."""
        low, high = (math.log(math.expm1(bound)) for bound in (self.LEAST, self.MOST))
        self.u.data.clamp_(low, high)  # .data: two calls before one backward pass must not disturb it

    def scales(self) -> Tensor:
        """(M, ...) the scales w as they are used next."""
        return F.softplus(self.u).clamp(self.LEAST, self.MOST)

    def forward(self, index: Tensor | None = None) -> list[Tensor]:
        """w of each teacher as it multiplies (B, C) logits; `index` (B,) picks from scales by picture."""
        self.project()
        w = F.softplus(self.u)
        return list(w if index is None else w[:, index, None])


def corrected(student: Tensor, teachers: Sequence[Tensor], scales: Sequence[Tensor], tau: float) -> Tensor:
    """(M,) kd_k / M with the student's logits scaled for each teacher; their sum is the term."""
    parts = [corrected_kd(student, z, w, tau) for z, w in zip(teachers, scales, strict=True)]
    return torch.stack(parts) / len(parts)


def reweighted(student: Tensor, teachers: Sequence[Tensor], form: str, tau: float) -> Tensor:
    """(M,) contributions of the teachers with unscaled logits; their sum is the term.

    Args:
        form: "none": kd_k / M. "kl_weight": (1 + sg(kd_k)/tau^2) kd_k / M, more of the teacher that is far.
            "softmax_weight": softmax_k(-sg(kd_k)) kd_k, more of the one that is near. "argmax_bonus": a
            sample counts twice for a teacher that predicts the student's class.
    """
    by_sample = kd_per_teacher(student, teachers, tau)
    if form == "argmax_bonus":
        same = torch.stack([z.argmax(1) == student.argmax(1) for z in teachers])
        by_sample = by_sample * (1 + same.to(by_sample.dtype))
    kd = by_sample.mean(1)
    if form == "softmax_weight":
        return F.softmax(-kd.detach(), dim=0) * kd
    if form == "kl_weight":
        kd = (1 + kd.detach() / tau**2) * kd
    return kd / len(kd)

"""Logit losses with several teachers: how much each teacher counts for each sample.

M teachers with logits z_k (B, C); kd_k(b) = tau^2 KL(softmax(z_k/tau) || softmax(z_s/tau)) of sample b.
The weights carry no gradient. `normalise=True`: they sum to 1 for each sample and the sum is divided
by B, so strengths compare across methods. `normalise=False`: as released by the CA-MKD code (divided
by B*M, and EBKD's weights sum to M-1). One teacher gives plain KD in both modes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.losses._inputs import check_logits, full_precision
from kdlab.losses.logits import kd, kd_per_sample


def average_teachers(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    target: Tensor | None = None,
    temperature: float = 4.0,
    normalise: bool = True,
) -> Tensor:
    """Mean of the M losses KD_k. `target` and `normalise` are here for a common signature alone.

    Source: You, Xu, Xu, Tao, KDD 2017, doi 10.1145/3097983.3098135, in the form of the CA-MKD code.
    """
    _check(student_logits, teacher_logits, None)
    return torch.stack([kd(student_logits, t, temperature) for t in teacher_logits]).mean()


@full_precision
def entropy_weighted(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    target: Tensor | None = None,
    temperature: float = 4.0,
    normalise: bool = True,
) -> Tensor:
    """EBKD: w_k = 1 - H_k / sum_j H_j, H_k = entropy of softmax(z_k) at tau = 1: a sure teacher counts more.

    Where every teacher's entropy is 0 the weights are uniform. `target` is not used.

    Source: Kwon, Na, Lee, Kim, ICASSP 2020, in the form of the CA-MKD code.
    """
    _check(student_logits, teacher_logits, None)
    count = len(teacher_logits)
    if count == 1:
        return kd(student_logits, teacher_logits[0], temperature)
    with torch.no_grad():
        logs = F.log_softmax(torch.stack(list(teacher_logits)), dim=2)
        entropy = -(logs.exp() * logs).sum(2)
        total = entropy.sum(0)
        share = torch.where(total > 0, entropy / total.clamp_min(torch.finfo(total.dtype).tiny), 1 / count)
        weights = 1 - share
    scale = 1 / (count - 1) if normalise else 1 / count
    return scale * _weighted(student_logits, teacher_logits, weights, temperature)


@full_precision
def confidence_weighted(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    target: Tensor,
    temperature: float = 4.0,
    normalise: bool = True,
) -> Tensor:
    """CA-MKD's logit term: w_k = (1 - softmax_k(l)) / (M - 1), l_k = CE(z_k, y).

    A teacher that is right about a sample counts more for it.

    Source: Zhang, Chen, Wang, ICASSP 2022, arXiv 2201.00007.
    """
    _check(student_logits, teacher_logits, target)
    count = len(teacher_logits)
    if count == 1:
        return kd(student_logits, teacher_logits[0], temperature)
    with torch.no_grad():
        errors = torch.stack([F.cross_entropy(t, target, reduction="none") for t in teacher_logits])
        weights = (1 - F.softmax(errors, dim=0)) / (count - 1)
    scale = 1.0 if normalise else 1 / count
    return scale * _weighted(student_logits, teacher_logits, weights, temperature)


def _weighted(student: Tensor, teachers: Sequence[Tensor], weights: Tensor, temperature: float) -> Tensor:
    """(1/B) sum_b sum_k w_k(b) kd_k(b); `weights` is (M, B)."""
    losses = torch.stack([kd_per_sample(student, t, temperature) for t in teachers])
    return (weights * losses).sum(0).mean()


def _check(student: Tensor, teachers: Sequence[Tensor], target: Tensor | None) -> None:
    """At least one teacher, all of the student's shape; raises ValueError otherwise."""
    if isinstance(teachers, Tensor) or not teachers:
        raise ValueError("teacher_logits must be a list of at least one (batch, classes) tensor.")
    for teacher in teachers:
        check_logits(student, teacher, target)

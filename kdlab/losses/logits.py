"""Logit losses without labels: KD, DIST, TTM and WTTM, logit standardisation; and cross-entropy.

z_s, z_t are (B, C) logits. KL(a || b) = sum_c a_c (log a_c - log b_c) with the teacher first, divided
by B alone (never by B*C, which would make the loss C times weaker). All in log space: logits of
+-200 give finite values and gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm

from kdlab.losses._inputs import check_logits, check_temperature, full_precision


@full_precision
def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Hard-label cross-entropy, mean over the batch. `logits`: (B, C); `target`: (B,) int64."""
    return F.cross_entropy(logits, target)


@full_precision
def kd_per_sample(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 4.0
) -> Tensor:
    """(B,) tau^2 KL(softmax(z_t/tau) || softmax(z_s/tau)) of each sample; `kd` is its mean.

    Raises:
        ValueError: unequal shapes, or a temperature that is not positive.
    """
    check_logits(student_logits, teacher_logits)
    check_temperature(temperature)
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1, keepdim=True)
    return (temperature**2 * divergence).squeeze(1)


def kd(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 4.0) -> Tensor:
    """Knowledge distillation: tau^2 mean_b KL(softmax(z_t/tau) || softmax(z_s/tau)).

    The factor tau^2 keeps the gradient's size nearly independent of tau:
    d/dz_s = tau (p_s - p_t) / B. Gradient also flows into the teacher's logits if they ask for it
    (CMKD's pseudo-teacher does).

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        temperature: tau > 0: a number, a scalar tensor, or one per sample as (B, 1).

    Returns:
        scalar >= 0.

    Raises:
        ValueError: unequal shapes, or a temperature that is not positive.

    Source: Hinton, Vinyals, Dean, 2015, arXiv 1503.02531.
    """
    return kd_per_sample(student_logits, teacher_logits, temperature).mean()


@full_precision
def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """DIST: tau^2 (beta * inter + gamma * intra), correlations instead of a divergence.

    With P = softmax(z/tau): inter = 1 - mean over samples of rho(P_s[n], P_t[n]) (relations between
    classes), intra = 1 - mean over classes of rho(P_s[:, c], P_t[:, c]) (relations within a class,
    over the batch), rho = Pearson correlation. A constant column, and so a batch of one, has
    rho = 0: its intra term is 1 and gives no gradient. Depends on the batch size.

    Source: Huang, You, Wang, Qian, Xu, NeurIPS 2022, arXiv 2205.10536.
    """
    inter = dist_inter(student_logits, teacher_logits, temperature)
    return beta * inter + gamma * dist_intra(student_logits, teacher_logits, temperature)


@full_precision
def dist_inter(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """DIST's relations between classes: tau^2 (1 - mean over samples of rho(P_s[n], P_t[n]))."""
    return _uncorrelated(student_logits, teacher_logits, temperature, dim=1)


@full_precision
def dist_intra(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """DIST's relations within a class: tau^2 (1 - mean over classes of rho(P_s[:, c], P_t[:, c]))."""
    return _uncorrelated(student_logits, teacher_logits, temperature, dim=0)


def _uncorrelated(student_logits: Tensor, teacher_logits: Tensor, temperature: float, dim: int) -> Tensor:
    check_logits(student_logits, teacher_logits)
    check_temperature(temperature)
    student = F.softmax(student_logits / temperature, dim=1)
    teacher = F.softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * (1.0 - _pearson(student, teacher, dim).mean())


def _pearson(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """<a - mean, b - mean> / (||.|| ||.|| + 1e-8); 0 without gradient where one of them is constant."""
    a_centred = a - a.mean(dim, keepdim=True)
    b_centred = b - b.mean(dim, keepdim=True)
    a_norm, b_norm = vector_norm(a_centred, dim=dim), vector_norm(b_centred, dim=dim)
    rho = (a_centred * b_centred).sum(dim) / (a_norm * b_norm + 1e-8)
    # What rounding leaves of a constant would pass on a gradient of size 1e8.
    rounding = 4 * torch.finfo(a.dtype).eps
    constant = a_norm <= rounding * vector_norm(a, dim=dim)
    return rho.masked_fill(constant | (b_norm <= rounding * vector_norm(b, dim=dim)), 0.0)


@full_precision
def ttm(student_logits: Tensor, teacher_logits: Tensor, gamma: float = 0.1) -> Tensor:
    """Transformed teacher matching: mean_b KL(q || p_s), q = softmax(gamma z_t), p_s = softmax(z_s).

    Only the teacher is softened (gamma = 1/tau). No tau^2 factor, therefore large weights (45).

    Source: Zheng, Yang, ICLR 2024, arXiv 2402.11148.
    """
    return _transformed_matching(student_logits, teacher_logits, gamma).mean()


@full_precision
def wttm(student_logits: Tensor, teacher_logits: Tensor, gamma: float = 0.1) -> Tensor:
    """Weighted TTM: mean_b U_b KL(q || p_s), U_b = sum_c softmax(z_t)_c^gamma.

    U grows with the smoothness of the teacher's output: a sample the teacher is unsure of counts more.

    Source: Zheng, Yang, ICLR 2024, arXiv 2402.11148.
    """
    power_sum = (gamma * F.log_softmax(teacher_logits, dim=1)).logsumexp(1).exp()
    return (power_sum * _transformed_matching(student_logits, teacher_logits, gamma)).mean()


def _transformed_matching(student_logits: Tensor, teacher_logits: Tensor, gamma: float) -> Tensor:
    """(B,) KL(softmax(gamma z_t) || softmax(z_s))."""
    check_logits(student_logits, teacher_logits)
    student = F.log_softmax(student_logits, dim=1)
    teacher = F.log_softmax(gamma * teacher_logits, dim=1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)


@full_precision
def standardize_logits(logits: Tensor, eps: float = 1e-7) -> Tensor:
    """(B, C) row z-scores (z - mean) / (std + eps), std unbiased; gradient flows through both.

    A host loss on z-scores is that loss with the temperature tau * std(z) of each sample.

    Raises:
        ValueError: fewer than two classes.

    Source: Sun, Ren, Li, Wang, Cao, CVPR 2024, arXiv 2403.01427.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must be (batch, classes >= 2), not {tuple(logits.shape)}.")
    centred = logits - logits.mean(1, keepdim=True)
    return centred / (logits.std(1, keepdim=True) + eps)

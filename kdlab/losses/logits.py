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
    """Hard-label cross-entropy, mean over the batch. `logits`: (B, C); `target`: (B,) int64.

    >>> kdlab.losses.cross_entropy(torch.zeros(1, 2), torch.tensor([0]))  # two classes, no idea: log 2
    tensor(0.6931)
    """
    return F.cross_entropy(logits, target)


@full_precision
def kd_per_sample(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 4.0
) -> Tensor:
    """(B,) tau^2 KL(softmax(z_t/tau) || softmax(z_s/tau)) of each sample; `kd` is its mean.

    Raises:
        ValueError: unequal shapes, or a temperature that is not positive.

    >>> teacher = torch.tensor([[3.0, 1.0], [1.0, 1.0]]).log()
    >>> kdlab.losses.kd_per_sample(torch.zeros(2, 2), teacher, temperature=1)  # they agree on the second
    tensor([0.1308, 0.0000])
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

    >>> teacher = torch.tensor([[3.0, 1.0]]).log()  # probabilities 3/4 and 1/4
    >>> student = torch.zeros(1, 2)  # 1/2 and 1/2
    >>> kdlab.losses.kd(student, teacher, temperature=1)  # 3/4 log(3/2) + 1/4 log(1/2)
    tensor(0.1308)
    >>> kdlab.losses.kd(teacher, teacher)
    tensor(0.)
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

    Returns:
        scalar in 0..2 tau^2 (beta + gamma).

    Raises:
        ValueError: unequal shapes, or a temperature that is not positive.

    Source: Huang, You, Wang, Qian, Xu, NeurIPS 2022, arXiv 2205.10536.

    >>> z = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> kdlab.losses.dist(z, z) < 1e-6  # fully correlated
    tensor(True)
    >>> round(kdlab.losses.dist(z, -z).item(), 4)  # the opposite: 2 between classes, 2 within them
    4.0
    """
    inter = dist_inter(student_logits, teacher_logits, temperature)
    return beta * inter + gamma * dist_intra(student_logits, teacher_logits, temperature)


@full_precision
def dist_inter(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """DIST's relations between classes: tau^2 (1 - mean over samples of rho(P_s[n], P_t[n])).

    >>> z = torch.tensor([[2.0, 1.0, 0.0]])
    >>> kdlab.losses.dist_inter(z, z + 5) < 1e-6  # equal probabilities
    tensor(True)
    >>> round(kdlab.losses.dist_inter(-z[:, :2], z[:, :2]).item(), 4)  # rho = -1
    2.0
    """
    return _uncorrelated(student_logits, teacher_logits, temperature, dim=1)


@full_precision
def dist_intra(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """DIST's relations within a class: tau^2 (1 - mean over classes of rho(P_s[:, c], P_t[:, c])).

    >>> teacher = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> kdlab.losses.dist_intra(student, teacher) < 1e-6  # the same sample is more of class 0
    tensor(True)
    >>> round(kdlab.losses.dist_intra(student.flip(0), teacher).item(), 4)  # the other one: rho = -1
    2.0
    """
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

    Raises:
        ValueError: unequal shapes.

    Source: Zheng, Yang, ICLR 2024, arXiv 2402.11148.

    >>> student, teacher = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
    >>> kdlab.losses.ttm(student, teacher, gamma=1)  # nothing softened: KD at temperature 1
    tensor(0.1308)
    >>> kdlab.losses.ttm(student, teacher, gamma=0)  # a uniform teacher, like this student
    tensor(0.)
    """
    return _transformed_matching(student_logits, teacher_logits, gamma).mean()


@full_precision
def wttm(student_logits: Tensor, teacher_logits: Tensor, gamma: float = 0.1) -> Tensor:
    """Weighted TTM: mean_b U_b KL(q || p_s), U_b = sum_c softmax(z_t)_c^gamma.

    U grows with the smoothness of the teacher's output: a sample the teacher is unsure of counts more.

    Raises:
        ValueError: unequal shapes.

    Source: Zheng, Yang, ICLR 2024, arXiv 2402.11148.

    >>> student, teacher = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
    >>> kdlab.losses.wttm(student, teacher, gamma=1)  # U = 3/4 + 1/4, so that it is TTM
    tensor(0.1308)
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

    >>> kdlab.losses.standardize_logits(torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]))
    tensor([[-1.0000,  0.0000,  1.0000],
            [-1.0000,  0.0000,  1.0000]])
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must be (batch, classes >= 2), not {tuple(logits.shape)}.")
    centred = logits - logits.mean(1, keepdim=True)
    return centred / (logits.std(1, keepdim=True) + eps)

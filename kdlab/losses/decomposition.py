"""The target / non-target decomposition of KD, and the losses built on it: DKD and NKD.

For one sample with label y and temperature tau: p_t = softmax(z/tau)_y, b = [p_t, 1 - p_t], and
phat_i = p_i / (1 - p_t) for i != y. Exactly, per sample,

    KL(p^T || p^S) = KL(b^T || b^S) + (1 - p_t^T) KL(phat^T || phat^S)
                   = TCKD           + (1 - p_t^T) NCKD.

Everything follows from the margin u = z_y - tau logsumexp_{i != y}(z_i / tau): p_t = sigmoid(u/tau),
so log p_t and log(1 - p_t) are two log-sigmoids and nothing under- or overflows. The target is really
taken out of the (C - 1) non-target logits, not masked by a large number.

Source: Zhao, Cui, Song, Qiu, Liang, CVPR 2022, arXiv 2203.08679.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.losses._inputs import check_logits, check_temperature, full_precision
from kdlab.losses.logits import kd_per_sample


@dataclass(frozen=True)
class Decomposition:
    """KD of each sample, taken apart; every field is (B,). Losses are multiplied by tau^2.

    Attributes:
        student_target: p_t of the student, in 0..1.
        teacher_target: p_t of the teacher.
        student_margin: u of the student, in logits.
        teacher_margin: u of the teacher.
        tckd: target-class part, KL between the two binary distributions.
        nckd: non-target part, KL between the distributions over the other classes.
        weight: 1 - p_t of the teacher, what KD multiplies `nckd` by.
        product: weight * nckd.
        kd: the whole KD loss, computed on its own; equals tckd + product.

    >>> student, teacher = torch.zeros(1, 3), torch.tensor([[2.0, 1.0, 1.0]]).log()
    >>> parts = kdlab.losses.decompose(student, teacher, torch.tensor([0]), temperature=1)
    >>> parts.teacher_target, parts.weight  # p_t of the teacher and what is left of 1
    (tensor([0.5000]), tensor([0.5000]))
    >>> torch.allclose(parts.kd, parts.tckd + parts.weight * parts.nckd)
    True
    """

    student_target: Tensor
    teacher_target: Tensor
    student_margin: Tensor
    teacher_margin: Tensor
    tckd: Tensor
    nckd: Tensor
    weight: Tensor
    product: Tensor
    kd: Tensor


@full_precision
def decompose(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float = 4.0
) -> Decomposition:
    """Take the KD loss of every sample apart into its target and non-target parts.

    Args:
        student_logits: (B, C), C >= 2.
        teacher_logits: (B, C).
        target: (B,) int64 labels.
        temperature: tau > 0.

    Raises:
        ValueError: unequal shapes, one class, or a temperature that is not positive.

    Returns:
        every part by sample, (B,).

    >>> student, teacher = torch.zeros(1, 3), torch.tensor([[2.0, 1.0, 1.0]]).log()
    >>> parts = kdlab.losses.decompose(student, teacher, torch.tensor([0]), temperature=1)
    >>> parts.tckd  # 1/2 against 1/3: 1/2 log(3/2) + 1/2 log(3/4)
    tensor([0.0589])
    >>> parts.nckd.abs() < 1e-6  # among the others, both know nothing
    tensor([True])
    """
    check_logits(student_logits, teacher_logits, target, classes=2)
    check_temperature(temperature)
    student = _margin(student_logits, target, temperature)
    teacher = _margin(teacher_logits, target, temperature)
    nckd_values = temperature**2 * _non_target_kl(student_logits, teacher_logits, target, temperature)
    weight = torch.sigmoid(-teacher)
    return Decomposition(
        student_target=torch.sigmoid(student),
        teacher_target=torch.sigmoid(teacher),
        student_margin=temperature * student,
        teacher_margin=temperature * teacher,
        tckd=temperature**2 * _binary_kl(student, teacher),
        nckd=nckd_values,
        weight=weight,
        product=weight * nckd_values,
        kd=kd_per_sample(student_logits, teacher_logits, temperature),
    )


@full_precision
def tckd(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float | Tensor = 4.0
) -> Tensor:
    """Target-class part of KD: tau^2 mean_b KL([p_t, 1 - p_t]^T || [p_t, 1 - p_t]^S). Scalar; C >= 2.

    As in `kd`, the temperature may be a scalar tensor, or one for each sample as (B, 1).

    Raises:
        ValueError: unequal shapes, one class, or a temperature that is not positive.

    Source: Zhao et al., CVPR 2022, arXiv 2203.08679.

    >>> student, teacher = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
    >>> kdlab.losses.tckd(student, teacher, torch.tensor([0]), temperature=1)  # two classes: all of KD
    tensor(0.1308)
    """
    check_logits(student_logits, teacher_logits, target, classes=2)
    check_temperature(temperature)
    student = _margin(student_logits, target, temperature)
    teacher = _margin(teacher_logits, target, temperature)
    return (_squared(temperature) * _binary_kl(student, teacher)).mean()


@full_precision
def nckd(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float | Tensor = 4.0
) -> Tensor:
    """Non-target part of KD: tau^2 mean_b KL(phat^T || phat^S). Scalar; 0 for two classes.

    The temperature may be a scalar tensor, or one for each sample as (B, 1).

    Raises:
        ValueError: unequal shapes, one class, or a temperature that is not positive.

    Source: Zhao et al., CVPR 2022, arXiv 2203.08679.

    >>> student, teacher = torch.zeros(1, 3), torch.tensor([[9.0, 3.0, 1.0]]).log()
    >>> kdlab.losses.nckd(student, teacher, torch.tensor([0]), temperature=1)  # 3/4 log(3/2) + 1/4 log(1/2)
    tensor(0.1308)
    """
    check_logits(student_logits, teacher_logits, target, classes=2)
    check_temperature(temperature)
    divergence = _non_target_kl(student_logits, teacher_logits, target, temperature)
    return (_squared(temperature) * divergence).mean()


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """Decoupled KD: alpha * tckd + beta * nckd, both tau^2-scaled batch means.

    KD's coupling 1 - p_t^T, which a confident teacher drives to 0, is replaced by the constant beta.

    Args:
        student_logits, teacher_logits: (B, C), C >= 2.
        target: (B,) int64 labels.
        alpha, beta: weights of the two parts.
        temperature: tau > 0.

    Raises:
        ValueError: unequal shapes, one class, or a temperature that is not positive.

    Source: Zhao et al., CVPR 2022, arXiv 2203.08679.

    >>> student, teacher = torch.zeros(1, 3), torch.tensor([[2.0, 3.0, 1.0]]).log()
    >>> target = torch.tensor([0])
    >>> kdlab.losses.dkd(student, teacher, target, alpha=0, beta=1, temperature=1)  # NCKD alone
    tensor(0.1308)
    >>> kdlab.losses.dkd(student, teacher, target, beta=1 - 2 / 6, temperature=1)  # beta = 1 - p_t is KD
    tensor(0.0872)
    >>> kdlab.losses.kd(student, teacher, temperature=1)
    tensor(0.0872)
    """
    target_part = tckd(student_logits, teacher_logits, target, temperature)
    return alpha * target_part + beta * nckd(student_logits, teacher_logits, target, temperature)


def nkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    gamma: float = 1.5,
    temperature: float = 1.0,
) -> Tensor:
    """Normalised KD: -mean p_t^T log p_t^S - gamma tau^2 mean_b sum_{i != y} phat_i^T log phat_i^S.

    The target part is at tau = 1, phat at `temperature`. Both are soft cross-entropies: equal logits
    do not give 0.

    Raises:
        ValueError: unequal shapes, one class, or a temperature that is not positive.

    Source: Yang et al., ICCV 2023, arXiv 2303.13005.

    >>> z, target = torch.zeros(1, 3), torch.tensor([0])
    >>> kdlab.losses.nkd(z, z, target, gamma=0)  # 1/3 log 3
    tensor(0.3662)
    >>> kdlab.losses.nkd(z, z, target)  # and 1.5 log 2 for the two other classes
    tensor(1.4059)
    """
    target_part = nkd_target(student_logits, teacher_logits, target)
    return target_part + gamma * nkd_non_target(student_logits, teacher_logits, target, temperature)


@full_precision
def nkd_target(student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
    """NKD's target part: -mean_b p_t^T log p_t^S at tau = 1. Scalar; C >= 2.

    Source: Yang et al., ICCV 2023, arXiv 2303.13005.

    >>> z = torch.zeros(1, 2)
    >>> kdlab.losses.nkd_target(z, z, torch.tensor([0]))  # 1/2 log 2
    tensor(0.3466)
    """
    check_logits(student_logits, teacher_logits, target, classes=2)
    teacher_target = torch.sigmoid(_margin(teacher_logits, target, 1.0))
    return -(teacher_target * F.logsigmoid(_margin(student_logits, target, 1.0))).mean()


@full_precision
def nkd_non_target(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float = 1.0
) -> Tensor:
    """NKD's non-target part: -tau^2 mean_b sum_{i != y} phat_i^T log phat_i^S. Scalar; C >= 2.

    Source: Yang et al., ICCV 2023, arXiv 2303.13005.

    >>> z = torch.tensor([[9.0, 0.0, 0.0]])
    >>> kdlab.losses.nkd_non_target(z, z, torch.tensor([0]))  # two equal others: log 2, whatever the target
    tensor(0.6931)
    """
    check_logits(student_logits, teacher_logits, target, classes=2)
    check_temperature(temperature)
    student = F.log_softmax(_non_target(student_logits, target) / temperature, dim=1)
    teacher = F.softmax(_non_target(teacher_logits, target) / temperature, dim=1)
    return -(temperature**2 * (teacher * student).sum(1)).mean()


def _non_target(logits: Tensor, target: Tensor) -> Tensor:
    """(B, C - 1) the logits of every class but the sample's own."""
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, others + (others >= target[:, None]).long())


def _squared(temperature: float | Tensor) -> float | Tensor:
    """tau^2, for each sample (B,) where the temperature is (B, 1)."""
    per_sample = isinstance(temperature, Tensor) and temperature.ndim == 2
    return temperature[:, 0] ** 2 if per_sample else temperature**2  # type: ignore[index]


def _margin(logits: Tensor, target: Tensor, temperature: float | Tensor) -> Tensor:
    """(B,) u/tau = z_y/tau - logsumexp_{i != y}(z_i/tau)."""
    scaled = logits / temperature
    return scaled.gather(1, target[:, None]).squeeze(1) - _non_target(scaled, target).logsumexp(1)


def _binary_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """(B,) KL between Bernoulli distributions given by their margins u/tau."""
    hit, miss = F.logsigmoid(teacher), F.logsigmoid(-teacher)
    return hit.exp() * (hit - F.logsigmoid(student)) + miss.exp() * (miss - F.logsigmoid(-student))


def _non_target_kl(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float | Tensor
) -> Tensor:
    """(B,) KL(phat^T || phat^S)."""
    student = F.log_softmax(_non_target(student_logits, target) / temperature, dim=1)
    teacher = F.log_softmax(_non_target(teacher_logits, target) / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)

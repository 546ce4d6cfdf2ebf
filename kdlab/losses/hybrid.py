"""DCKD's losses: the student's target probability is pulled towards a mass fused from both networks.

p_t = softmax(z/tau)_y of a network, phat_i = p_i / (1 - p_t) for i != y. The fused mass m in (0, 1)
carries no gradient and gives the hybrid target q: q_y = m, q_i = (1 - m) phat_i^S for i != y. Then

    KL(q || p^S) = KL([m, 1 - m] || [p_t^S, 1 - p_t^S])

since the two agree on the other classes. As in kdlab.losses.decomposition everything is computed from
the margin u = z_y/tau - logsumexp_{i != y}(z_i/tau), p_t = sigmoid(u), so nothing under- or overflows.

Reconstructed from the abstract of Wang, Dong, Zhu, Li, PLoS ONE 20(2) e0314267 (2025): the fusion rules
are not the paper's words.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.losses._inputs import check_logits, check_temperature, full_precision
from kdlab.losses.decomposition import _margin, _non_target_kl

Fusion = Literal["max", "teacher", "mean", "logit"]


@full_precision
def hybrid_target(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    fusion: Fusion = "max",
    temperature: float = 4.0,
    freeze: bool = False,
) -> Tensor:
    """DCKD's target term: tau^2 mean_b KL(q || p^S) for the hybrid target q.

    Args:
        student_logits: (B, C), C >= 2.
        teacher_logits: (B, C).
        target: (B,) int64 labels.
        fusion: how m is made. "max": max(p_t^T, p_t^S), which leaves a student alone that is surer
            than the teacher (loss and gradient exactly 0); "teacher": p_t^T, which is TCKD; "mean":
            (p_t^T + p_t^S) / 2, half of TCKD's gradient; "logit": the teacher's z_y among the student's
            other logits.
        temperature: tau > 0.
        freeze: let gradient reach the student's z_y alone. The value is the same.

    Raises:
        ValueError: unequal shapes, one class, a temperature that is not positive, an unknown fusion.

    >>> sure, unsure = torch.tensor([[3.0, 1.0]]).log(), torch.zeros(1, 2)
    >>> kdlab.losses.hybrid_target(unsure, sure, torch.tensor([0]), temperature=1)  # a teacher that is surer
    tensor(0.1308)
    >>> kdlab.losses.hybrid_target(sure, unsure, torch.tensor([0]), temperature=1)  # nothing to learn from it
    tensor(0.)
    """
    check_logits(student_logits, teacher_logits, target, classes=2)
    check_temperature(temperature)
    margin = _margin(student_logits, target, temperature)
    log_hit, log_miss = _fused(student_logits, teacher_logits, target, fusion, temperature)
    if freeze:
        own = student_logits.gather(1, target[:, None]).squeeze(1) / temperature
        margin = own - (own - margin).detach()
    divergence = log_hit.exp() * (log_hit - F.logsigmoid(margin))
    divergence = divergence + log_miss.exp() * (log_miss - F.logsigmoid(-margin))
    if fusion == "max":  # rounding must not move a student that is already surer
        surer_student = ~surer_teacher(student_logits, teacher_logits, target, temperature)
        divergence = divergence.masked_fill(surer_student, 0.0)
    return temperature**2 * divergence.mean()


@torch.no_grad()
def _fused(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, fusion: Fusion, temperature: float
) -> tuple[Tensor, Tensor]:
    """log m and log(1 - m), each (B,)."""
    student = _margin(student_logits, target, temperature)
    teacher = _margin(teacher_logits, target, temperature)
    if fusion == "mean":
        hit = torch.logaddexp(F.logsigmoid(student), F.logsigmoid(teacher))
        miss = torch.logaddexp(F.logsigmoid(-student), F.logsigmoid(-teacher))
        return hit - math.log(2), miss - math.log(2)
    if fusion == "max":
        fused = torch.maximum(student, teacher)
    elif fusion == "teacher":
        fused = teacher
    elif fusion == "logit":
        own = (teacher_logits - student_logits).gather(1, target[:, None]).squeeze(1)
        fused = student + own / temperature
    else:
        raise ValueError(f"fusion must be 'max', 'teacher', 'mean' or 'logit', not {fusion!r}.")
    return F.logsigmoid(fused), F.logsigmoid(-fused)


@full_precision
@torch.no_grad()
def surer_teacher(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float = 4.0
) -> Tensor:
    """(B,) bool: where p_t^T > p_t^S, which is where the "max" fusion moves the student.

    Logits (B, C), C >= 2; `target` (B,) int64.

    >>> student, teacher = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> kdlab.losses.surer_teacher(student, teacher, torch.tensor([0, 0]))
    tensor([ True, False])
    """
    teacher = _margin(teacher_logits, target, temperature)
    return teacher > _margin(student_logits, target, temperature)


@full_precision
def gated_nckd(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float = 4.0
) -> Tensor:
    """NCKD of the samples that the student gets wrong: tau^2 mean_b 1[argmax z^S != y] KL(phat^T || phat^S).

    The mean is over the whole batch. Scalar; 0 for two classes and where every sample is right.

    Raises:
        ValueError: unequal shapes, one class, or a temperature that is not positive.

    >>> teacher, target = torch.tensor([[9.0, 3.0, 1.0]]).log(), torch.tensor([0])
    >>> kdlab.losses.gated_nckd(torch.tensor([[1.0, 0.0, 0.0]]), teacher, target, temperature=1)  # right
    tensor(0.)
    >>> kdlab.losses.gated_nckd(torch.tensor([[-1.0, 0.0, 0.0]]), teacher, target, temperature=1)  # wrong
    tensor(0.1308)
    """
    check_logits(student_logits, teacher_logits, target, classes=2)
    check_temperature(temperature)
    wrong = student_logits.argmax(1) != target
    divergence = _non_target_kl(student_logits, teacher_logits, target, temperature)
    return temperature**2 * (wrong * divergence).mean()

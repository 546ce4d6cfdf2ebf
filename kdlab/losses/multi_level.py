"""MLKD's three alignments: of each prediction, of the batch, and of the classes.

P = softmax(z/tau), (B, C). Rows of P P' say which samples of the batch are predicted alike, rows of
P' P which classes are predicted together. A mask restricts a loss to some samples or classes; the
divisor stays that of the whole batch, so that a mask takes away and rescales nothing.

Source: Jin, Wang, Lin, CVPR 2023, doi 10.1109/CVPR52729.2023.02325.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.losses._inputs import check_logits, check_temperature, full_precision
from kdlab.losses.logits import kd_per_sample


@full_precision
def instance_alignment(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0, samples: Tensor | None = None
) -> Tensor:
    """(tau^2 / B) sum over the `samples` of KL(P_t || P_s). `samples`: (B,) bool; all if None.

    Raises:
        ValueError: unequal shapes, or a temperature that is not positive.

    >>> student, teacher = torch.zeros(2, 2), torch.tensor([[3.0, 1.0], [3.0, 1.0]]).log()
    >>> kdlab.losses.instance_alignment(student, teacher, temperature=1)  # KD
    tensor(0.1308)
    >>> kdlab.losses.instance_alignment(student, teacher, 1, samples=torch.tensor([True, False]))  # half
    tensor(0.0654)
    """
    values = kd_per_sample(student_logits, teacher_logits, temperature)
    return (values if samples is None else values * samples).mean()


@full_precision
def batch_alignment(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0, samples: Tensor | None = None
) -> Tensor:
    """||P_t P_t' - P_s P_s'||_F^2 / B over the rows of `samples` ((B,) bool; all if None). No tau^2.

    Logits (B, C).

    Raises:
        ValueError: unequal shapes, or a temperature that is not positive.

    >>> student, teacher = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
    >>> kdlab.losses.batch_alignment(student, teacher, temperature=1)  # (10/16 - 8/16)^2
    tensor(0.0156)
    """
    student, teacher = _probabilities(student_logits, teacher_logits, temperature)
    return _rows(teacher @ teacher.T - student @ student.T, samples)


@full_precision
def class_alignment(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0, classes: Tensor | None = None
) -> Tensor:
    """||P_t' P_t - P_s' P_s||_F^2 / C over the rows of `classes` ((C,) bool; all if None). No tau^2.

    Logits (B, C).

    Raises:
        ValueError: unequal shapes, or a temperature that is not positive.

    >>> student, teacher = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
    >>> kdlab.losses.class_alignment(student, teacher, temperature=1)  # (5^2 + 1 + 1 + 3^2) / 16^2 / 2
    tensor(0.0703)
    """
    student, teacher = _probabilities(student_logits, teacher_logits, temperature)
    return _rows(teacher.T @ teacher - student.T @ student, classes)


def _probabilities(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    check_logits(student, teacher)
    check_temperature(temperature)
    return F.softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)


def _rows(difference: Tensor, rows: Tensor | None) -> Tensor:
    """Mean over all rows of the squared length of those that count."""
    lengths = difference.square().sum(1)
    return (lengths if rows is None else lengths * rows).mean()


@full_precision
@torch.no_grad()
def unsure_samples(teacher_logits: Tensor) -> Tensor:
    """(B,) bool: where the teacher's largest probability (tau 1) is at most the median of the batch.

    Logits (B, C).

    >>> kdlab.losses.unsure_samples(torch.tensor([[5.0, 0.0], [1.0, 0.0], [0.0, 0.5]]))
    tensor([False,  True,  True])
    """
    confidence = F.softmax(teacher_logits, dim=1).amax(1)
    return confidence <= confidence.median()


@full_precision
@torch.no_grad()
def rare_classes(teacher_logits: Tensor) -> Tensor:
    """(C,) bool: where the teacher's probability (tau 1), summed over the batch, is at most the median.

    Logits (B, C).

    >>> kdlab.losses.rare_classes(torch.tensor([[5.0, 0.0, 1.0], [5.0, 0.0, 1.0]]))
    tensor([False,  True,  True])
    """
    share = F.softmax(teacher_logits, dim=1).sum(0)
    return share <= share.median()

"""Losses among the exits of one network: deep exits as teachers of shallow ones."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdlab.losses._inputs import check_logits, check_temperature, full_precision


@full_precision
def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 3.0) -> Tensor:
    """tau^2 mean_b CE(softmax(z_t/tau), softmax(z_s/tau)): `kd` plus tau^2 times the teacher's entropy.

    Raises:
        ValueError: unequal shapes, or a temperature that is not positive.

    Source: Zhang et al., ICCV 2019, arXiv 1905.08094, in the form of a public reproduction.

    >>> z = torch.zeros(1, 2)
    >>> kdlab.losses.soft_cross_entropy(z, z, temperature=1)  # KD is 0, the teacher's entropy log 2
    tensor(0.6931)
    """
    check_logits(student_logits, teacher_logits)
    check_temperature(temperature)
    log_student = F.log_softmax(student_logits / temperature, dim=1)
    return temperature**2 * -(F.softmax(teacher_logits / temperature, dim=1) * log_student).sum(1).mean()


@full_precision
def active_difference(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """BYOT's hint: sum of (g_s - g_t)^2 over all elements where g_s > 0 or g_t > 0; not divided by anything.

    Both of one shape, (B, d) or (B, d, 1, 1).

    Source: Zhang et al., ICCV 2019, arXiv 1905.08094, in the form of a public reproduction.

    Raises:
        ValueError: unequal shapes.

    >>> student, teacher = torch.tensor([[1.0, -1.0]]), torch.tensor([[3.0, -5.0]])
    >>> kdlab.losses.active_difference(student, teacher)  # (1 - 3)^2; both cut the other one off
    tensor(4.)
    """
    if student_features.shape != teacher_features.shape:
        shapes = f"{tuple(student_features.shape)} and {tuple(teacher_features.shape)}"
        raise ValueError(f"features of two exits must have one shape, not {shapes}.")
    active = (student_features > 0) | (teacher_features > 0)
    return ((student_features - teacher_features).square() * active).sum()

"""KD from those samples alone that the teacher gets right."""

from __future__ import annotations

from torch import Tensor

from kdlab.losses._inputs import check_logits, full_precision
from kdlab.losses.logits import kd_per_sample


@full_precision
def guided_kd(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float = 1.0
) -> Tensor:
    """Guided KD: tau^2 KL(softmax(z_t/tau) || softmax(z_s/tau)), mean over samples the teacher gets right.

    0, without gradient, where it gets none right.

    Raises:
        ValueError: unequal shapes, or a temperature that is not positive.

    Source: Zhou, Zhuge, Guan, Liu, 2020, arXiv 2006.01683.

    >>> student, teacher = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
    >>> kdlab.losses.guided_kd(student, teacher, torch.tensor([0]))  # as KD at temperature 1
    tensor(0.1308)
    >>> kdlab.losses.guided_kd(student, teacher, torch.tensor([1]))  # the teacher is wrong
    tensor(0.)
    """
    check_logits(student_logits, teacher_logits, target)
    right = teacher_logits.argmax(1) == target
    divergence = kd_per_sample(student_logits, teacher_logits, temperature)
    return (divergence * right).sum() / right.sum().clamp_min(1)

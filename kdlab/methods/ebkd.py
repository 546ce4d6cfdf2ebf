"""EBKD: of several teachers, the one that is surest about a picture counts most for it."""

from __future__ import annotations

from torch import Tensor

from kdlab.losses import entropy_weights
from kdlab.losses.teachers import released_entropy_scale
from kdlab.methods.base import Step
from kdlab.methods.checks import number
from kdlab.methods.registry import register
from kdlab.methods.several import WeighedTeachers, teacher_logits


@register
class EBKD(WeighedTeachers):
    """Entropy-based weights of M teachers, for each sample.

        H_k(b) = entropy of softmax(z_k(b) / tau_H),  tau_H = 1
        w_k(b) = (1 - H_k(b) / sum_j H_j(b)) / (M - 1)
        kd     = mean_b sum_k w_k(b) tau^2 KL(softmax(z_k(b)/tau) || softmax(z_s(b)/tau))
        L      = CE(z_s, y) + kd

    z_s, z_k: (B, C) logits. The weights sum to 1 and are constants; all teachers certain of a sample
    count the same. Labels are not used: a teacher that is certain *and wrong* counts as much as one that
    is right, which is what CA-MKD changes.

    Published in the CA-MKD code's re-implementation: the weights (without the division by M - 1) and a
    sum divided by B M, so (M - 1)/M times weaker. Ours: weights that sum to 1 (so that strengths
    compare across methods), and what happens where every entropy is 0.

    Look at: the weight of each teacher against whether it is right, sample by sample.

    Args:
        entropy_temperature: tau_H; 1 as published.
        as_released: use the weaker scale of the released code.
        temperature: tau.
        ce, kd: weights.

    >>> kdlab.methods.EBKD()
    EBKD[ce=1, kd=1]
    >>> kdlab.methods.EBKD().term("kd").taps  # no labels
    ('student.logits', 'teacher.logits')
    """

    key = "ebkd"
    title = "EBKD"
    paper = "Kwon, Na, Lee, Kim, ICASSP 2020, doi 10.1109/ICASSP40776.2020.9054698"
    family = "multi-teacher"
    status = "code"
    status_note = "CA-MKD's re-implementation; weights that sum to 1 are ours (preset: as released)"
    presets = {"CA-MKD's re-implementation": {"as_released": True}}

    def __init__(
        self,
        entropy_temperature: float = 1.0,
        as_released: bool = False,
        temperature: float = 4.0,
        ce: float = 1.0,
        kd: float = 1.0,
    ) -> None:
        super().__init__(ce, kd, temperature)
        self.entropy_temperature = number(self, "entropy_temperature", entropy_temperature, above=0)
        self.as_released = bool(as_released)

    def weights(self, step: Step) -> Tensor:
        return entropy_weights(teacher_logits(step), self.entropy_temperature)

    def scale(self, teachers: int) -> float:
        return released_entropy_scale(teachers, not self.as_released)

"""AVER: learn from several teachers, each counting the same."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from kdlab.losses import average_teachers
from kdlab.methods.base import Step
from kdlab.methods.checks import choice
from kdlab.methods.registry import register
from kdlab.methods.several import WeighedTeachers, even_weights, teacher_logits


@register
class AverageTeachers(WeighedTeachers):
    """The mean of the KD losses to M teachers: the control for every idea of weighing them.

        kd_k(b) = tau^2 KL(softmax(z_k(b)/tau) || softmax(z_s(b)/tau))
        kd      = (1/M) sum_k mean_b kd_k(b)
        L       = CE(z_s, y) + kd

    z_s, z_k: (B, C) logits of the student and of teacher k. With one teacher this is KD. To learn from
    the mean of the softened probabilities instead gives the same gradient and a value that is lower by
    what the teachers disagree about; the mean of the logits is another target.

    Look at: how far the teachers agree with each other ("kd/teacher N" in the details), and the accuracy
    of the teachers' mean of probabilities, which a good student approaches.

    Args:
        aim: "losses" (each teacher a loss of its own), "probabilities" or "logits" (one loss, to the mean
            of the teachers' softened probabilities, or of their logits).
        temperature: tau.
        ce, kd: weights.

    >>> kdlab.methods.AverageTeachers()
    AverageTeachers[ce=1, kd=1]
    >>> kdlab.methods.AverageTeachers(aim="logits").params["aim"]
    'logits'
    """

    key = "aver"
    title = "AVER"
    paper = "You, Xu, Xu, Tao, KDD 2017, doi 10.1145/3097983.3098135"
    family = "multi-teacher"
    status = "code"
    status_note = "in the form of the CA-MKD code"

    def __init__(
        self,
        aim: Literal["losses", "probabilities", "logits"] = "losses",
        temperature: float = 4.0,
        ce: float = 1.0,
        kd: float = 1.0,
    ) -> None:
        super().__init__(ce, kd, temperature)
        self.aim: Literal["losses", "probabilities", "logits"] = choice(
            self, "aim", aim, ("losses", "probabilities", "logits")
        )  # type: ignore[assignment]

    def weights(self, step: Step) -> Tensor:
        return even_weights(step)

    def weighed_kd(self, step: Step) -> Tensor:
        if self.aim == "losses":
            return super().weighed_kd(step)
        logits = step.student.logits
        return average_teachers(logits, teacher_logits(step), None, self.temperature, aim=self.aim)

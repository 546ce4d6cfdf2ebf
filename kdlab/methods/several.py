"""What methods with several teachers share: a KD loss for each, its weight, and maps of its shape."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlab.losses import cross_entropy, kd_per_teacher, pool_to
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.ce_kd import ce_term
from kdlab.methods.checks import number, same_classes
from kdlab.methods.projectors import conv_bn_relu
from kdlab.models.features import Features, NetSpec


def teacher_logits(step: Step) -> list[Tensor]:
    """The (B, C) logits of every teacher."""
    return [teacher.logits for teacher in step.teachers]


class WeighedTeachers(Method):
    """Base of methods with a KD loss to each of M teachers, weighed by sample; not a method by itself.

        kd = scale (1/B) sum_b sum_k w_k(b) tau^2 KL(softmax(z_k(b)/tau) || softmax(z_s(b)/tau))
        L  = CE(z_s, y) + kd

    A subclass says in `weights` what w is. Teachers may differ in everything but their classes.

    Attributes:
        details: "kd/teacher N": what each teacher contributes to `kd`; "weight/teacher N": its mean
            weight in the batch. N counts from 1, in the order of the study.
    """

    def __init__(
        self,
        ce: float,
        kd: float,
        temperature: float,
        more: Sequence[Term] = (),
        taps: tuple[str, ...] = (),
    ) -> None:
        reads = ("student.logits", "teacher.logits", *taps)
        super().__init__(
            ce_term(ce),
            Term("kd", kd, reads, "match the softened probabilities of several teachers"),
            *more,
        )
        self.temperature = number(self, "temperature", temperature, above=0)

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        for teacher in teachers:
            same_classes(self, student, teacher)

    def weights(self, step: Step) -> Tensor:
        """(M, B) how much each teacher counts for each sample: at least 0, sum 1 over teachers, constant."""
        raise NotImplementedError

    def scale(self, teachers: int) -> float:
        """Strength of the whole term; not 1 only where a released code weakens it."""
        return 1.0

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        self.details = {}
        values = {}
        if "ce" in active:
            values["ce"] = cross_entropy(step.student.logits, step.target)
        if "kd" in active:
            values["kd"] = self.weighed_kd(step)
        return values

    def weighed_kd(self, step: Step) -> Tensor:
        """The term `kd`."""
        divergences = kd_per_teacher(step.student.logits, teacher_logits(step), self.temperature)
        weights = self.weights(step)
        self.tell("weight", weights.mean(1))
        return self.total("kd", self.scale(len(weights)) * (weights * divergences).mean(1))

    def total(self, name: str, per_teacher: Tensor) -> Tensor:
        """The sum of (M,) contributions to a term, each of which is shown in `details`."""
        self.tell(name, per_teacher)
        return per_teacher.sum()

    def tell(self, name: str, per_teacher: Tensor | Sequence[Tensor]) -> None:
        """Show a number for each teacher."""
        for number_, value in enumerate(per_teacher, start=1):
            self.details[f"{name}/teacher {number_}"] = value.detach()


def even_weights(step: Step) -> Tensor:
    """(M, B) weights 1/M."""
    logits = step.student.logits
    count = len(step.teachers)
    dtype = logits.dtype if logits.dtype == torch.float64 else torch.float32
    return logits.new_full((count, len(logits)), 1 / count, dtype=dtype)


class LastMap(nn.Sequential):
    """The student's last map, resized and regressed to a teacher's: 1x1 convolution, BN, ReLU.

    Resized from the original map for every teacher: average-pooled where it is larger, bilinearly enlarged
    where it is smaller.

    Args:
        student: whose final map is read, or its deepest stage where it has none.
        shape: (c, h, w) of the teacher's map.

    Attributes:
        tap: what is read, as `Term.taps` writes it.
    """

    def __init__(self, student: NetSpec, shape: tuple[int, int, int]) -> None:
        source = student.final or student.stages[-1]
        super().__init__(*conv_bn_relu(source[0], shape[0]))
        self.size = shape[1:]
        self.stage = None if student.final else len(student.stages) - 1
        self.tap = "student.final" if self.stage is None else f"student.stages[{self.stage}]"

    def of(self, student: Features) -> Tensor:
        """(B, c, h, w) in the teacher's shape."""
        last = student.final if self.stage is None else student.stages[self.stage]
        assert last is not None  # `build` looked at the same network
        return self(resize(last, self.size))


def resize(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    """A map at exactly `size`: average-pooled down, bilinearly enlarged; untouched where it fits."""
    pooled = pool_to(feature_map, size)
    if pooled.shape[2:] == size:
        return pooled
    return F.interpolate(pooled, size=size, mode="bilinear", align_corners=False)


def final_of(teacher: Features) -> Tensor:
    """The teacher's final map, where `build` has seen that there is one."""
    assert teacher.final is not None
    return teacher.final

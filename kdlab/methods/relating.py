"""Base of methods that compare how two networks arrange one batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.losses import gap
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.ce_kd import ce_and_kd, ce_term, kd_term
from kdlab.methods.checks import number, require_built, same_classes, stage_index, whole
from kdlab.models.features import Features, NetSpec


class BatchRelation(Method):
    """Base of methods whose terms compare the student's vectors of a batch with the teacher's.

    The vectors are the embeddings, or a stage's map, pooled or (`flat`) flattened. A subclass implements
    `relate`. It is not a method by itself.

    Class attributes:
        flat: whether a map is taken as it is, without pooling.
        samples: how many samples can be related at least; a smaller batch (the last of an epoch) gives 0.
    """

    flat: bool = False
    samples: int = 1

    def __init__(
        self,
        main: Sequence[tuple[str, float, str]],
        stage: int | None,
        teacher_stage: int | None,
        ce: float,
        kd: float,
        temperature: float,
    ) -> None:
        if stage is None and teacher_stage is not None:
            raise ConfigError(
                f"{type(self).__name__}(teacher_stage={teacher_stage!r}) names a stage of the teacher, and "
                "stage=None means the embeddings of both; give stage= too."
            )
        self.stage = None if stage is None else whole(self, "stage", stage, minimum=-99)
        self.teacher_stage = (
            self.stage if teacher_stage is None else whole(self, "teacher_stage", teacher_stage, minimum=-99)
        )
        self.main = [name for name, _, _ in main]
        terms = [Term(name, weight, self._taps(), asks) for name, weight, asks in main]
        super().__init__(ce_term(ce), *terms, kd_term(kd, optional=True))
        self.temperature = number(self, "temperature", temperature, above=0)

    def _taps(self) -> tuple[str, str]:
        own = "embedding" if self.stage is None else f"stages[{self.stage}]"
        other = "embedding" if self.teacher_stage is None else f"stages[{self.teacher_stage}]"
        return (f"student.{own}", f"teacher.{other}")

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        same_classes(self, student, teachers[0])
        if self.stage is not None and self.teacher_stage is not None:
            self.stage = stage_index(self, student, self.stage, "student")
            self.teacher_stage = stage_index(self, teachers[0], self.teacher_stage, "teacher")
        for name in self.main:
            self.terms[name].taps = self._taps()

    def relate(self, term: str, student: Tensor, teacher: Tensor) -> Tensor:
        """Scalar value of `term`; `student` (B, d_s) or, if `flat`, (B, c, h, w); `teacher` likewise."""
        raise NotImplementedError

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = ce_and_kd(step, active, self.temperature)
        wanted = [name for name in self.main if name in active]
        if wanted:
            require_built(self)
            student = self._vectors(step.student, self.stage)
            teacher = self._vectors(step.teacher, self.teacher_stage)
            for name in wanted:
                if len(student) < self.samples:
                    values[name] = 0.0 * student.float().sum()
                else:
                    values[name] = self.relate(name, student, teacher)
        return values

    def _vectors(self, features: Features, stage: int | None) -> Tensor:
        if stage is None:
            return features.embedding
        return features.stages[stage] if self.flat else gap(features.stages[stage])

    def width(self, net: NetSpec, stage: int | None) -> int:
        """d, the length of the network's vectors (of maps: their channels)."""
        return net.embedding_dim if stage is None else net.stages[stage][0]

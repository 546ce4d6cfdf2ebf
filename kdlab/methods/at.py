"""AT: the student looks where the teacher looks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.losses import attention_transfer
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.ce_kd import ce_and_kd, ce_term, kd_term
from kdlab.methods.checks import choice, number, require_built, same_classes, stage_index, stage_list
from kdlab.methods.registry import register
from kdlab.models.features import NetSpec


@register
class AT(Method):
    """Attention transfer between stages: where a map is active, whatever its channels mean.

        A(F) = vec(mean_c |F|^p) / max(||.||_2, 1e-12)
        at   = sum over stages of mean_{b,h,w} (A(F_s) - A(F_t))^2
        L    = CE(z_s, y) + 1000 * at

    F: the last map (B, c, h, w) of a stage; the larger of two maps is average-pooled to the smaller
    *before* it is raised to the power p. Widths may differ. The published formula has an unsquared
    norm and a factor 1/2; this is the form of the official code, the one that the weight 1000 (CIFAR
    and ImageNet) belongs to. Relative to a squared norm that weight is 1000 / (h w) for each stage, so
    small, deep maps count more; `form="sum"` takes that away (then choose a smaller weight).

    Args:
        weight: weight of `at`.
        stages: the student's stages, counted from 0 or, if negative, from the deepest; None pairs the
            stages of both networks from the deepest upwards, as many as both have.
        teacher_stages: the teacher's stages in the same order; None: the same numbers.
        p: the exponent, at least 1; larger looks at the strongest activations.
        channels: "mean" or "max" over channels.
        form: "mean" or "sum" over h, w.
        ce, kd: weights of the cross-entropy and of an optional KD term.
        temperature: tau of the KD term.
    """

    key = "at"
    title = "AT"
    paper = "Zagoruyko, Komodakis, ICLR 2017, arXiv 1612.03928"
    family = "feature"
    status = "code"

    def __init__(
        self,
        weight: float = 1000.0,
        stages: Sequence[int] | None = None,
        teacher_stages: Sequence[int] | None = None,
        p: float = 2.0,
        channels: Literal["mean", "max"] = "mean",
        form: Literal["mean", "sum"] = "mean",
        ce: float = 1.0,
        kd: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        own = None if stages is None else stage_list(self, "stages", stages)
        other = own if teacher_stages is None else stage_list(self, "teacher_stages", teacher_stages)
        if other is not None and (own is None or len(own) != len(other)):
            raise ConfigError(
                f"AT pairs stages one to one; it got stages={stages!r} and teacher_stages={teacher_stages!r}."
            )
        super().__init__(
            ce_term(ce),
            Term("at", weight, _taps(own, other), "look where the teacher looks, at every stage"),
            kd_term(kd, optional=True),
        )
        self.stages, self.teacher_stages = own, other
        self.p = number(self, "p", p, minimum=1)
        self.channels: Literal["mean", "max"] = choice(self, "channels", channels, ("mean", "max"))  # type: ignore[assignment]
        self.form: Literal["mean", "sum"] = choice(self, "form", form, ("mean", "sum"))  # type: ignore[assignment]
        self.temperature = number(self, "temperature", temperature, above=0)
        self.pairs: list[tuple[int, int]] = []
        self.names: list[str] = []

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        teacher = teachers[0]
        same_classes(self, student, teacher)
        both = range(-min(len(student.stages), len(teacher.stages)), 0)
        own = self.stages or both
        other = self.teacher_stages or both
        self.pairs = [
            (stage_index(self, student, s, "student"), stage_index(self, teacher, t, "teacher"))
            for s, t in zip(own, other, strict=True)
        ]
        self.names = [student.stage_names[s] for s, _ in self.pairs]
        self.terms["at"].taps = _taps([s for s, _ in self.pairs], [t for _, t in self.pairs])

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        self.details = {}
        values = ce_and_kd(step, active, self.temperature)
        if "at" in active:
            require_built(self)
            per_stage = [
                attention_transfer(
                    step.student.stages[s], step.teacher.stages[t], self.p, self.channels, self.form
                )
                for s, t in self.pairs
            ]
            self.details = {f"at/{name}": value.detach() for name, value in zip(self.names, per_stage)}
            values["at"] = torch.stack(per_stage).sum()
        return values


def _taps(own: Sequence[int] | None, other: Sequence[int] | None) -> tuple[str, ...]:
    """The maps read; without numbers where all stages are meant."""
    if own is None or other is None:
        return ("student.stages", "teacher.stages")
    return tuple(f"student.stages[{s}]" for s in own) + tuple(f"teacher.stages[{t}]" for t in other)

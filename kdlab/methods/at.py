"""AT: the student looks where the teacher looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from kdlab.losses import attention_transfer
from kdlab.methods.checks import choice, number
from kdlab.methods.pairing import StageByStage
from kdlab.methods.registry import register


@register
class AT(StageByStage):
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

    >>> kdlab.methods.AT()
    AT[ce=1, at=1000, kd=0]
    >>> kdlab.methods.AT(weight=500) + kdlab.methods.KD()
    AT + KD[ce=1, at=500, kd=0.9; left out: AT's kd=0, KD's ce=0.1]
    """

    key = "at"
    title = "AT"
    paper = "Zagoruyko, Komodakis, ICLR 2017, arXiv 1612.03928"
    family = "feature"
    status = "code"
    main = "at"
    asks = "look where the teacher looks, at every stage"

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
        super().__init__(weight, stages, teacher_stages, ce, kd, temperature)
        self.p = number(self, "p", p, minimum=1)
        self.channels: Literal["mean", "max"] = choice(self, "channels", channels, ("mean", "max"))  # type: ignore[assignment]
        self.form: Literal["mean", "sum"] = choice(self, "form", form, ("mean", "sum"))  # type: ignore[assignment]

    def compare(self, pair: int, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        return attention_transfer(student_map, teacher_map, self.p, self.channels, self.form)

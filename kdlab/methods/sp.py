"""SP: pictures that are alike to the teacher are alike to the student."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from kdlab.losses import similarity_preserving
from kdlab.methods.checks import choice
from kdlab.methods.registry import register
from kdlab.methods.relating import BatchRelation


@register
class SP(BatchRelation):
    """Similarity-preserving distillation: the B x B matrix of similarities within a batch.

        G  = X X',  X = the map flattened to (B, c h w);  rows of G L2-normalised
        sp = sum (G_t - G_s)^2 / B^2
        L  = CE(z_s, y) + 3000 sp

    Maps of any width and size, of the last stage by default. Blind to a rotation of either space and to
    the scale of a map. Of one sample it is 0. Nothing is trained besides the student.

    Look at both matrices G, sorted by class, and at their difference.

    Args:
        weight: weight of `sp`.
        stage: the student's stage, counted from 0 or, if negative, from the deepest; None: the embedding.
        teacher_stage: the teacher's stage; None: the same number.
        normalise: "rows" of G as published, or the whole "matrix".
        ce, kd: weights of the cross-entropy and of an optional KD term.
        temperature: tau of the KD term.

    >>> kdlab.methods.SP()
    SP[ce=1, sp=3000, kd=0]
    >>> kdlab.methods.SP(stage=None).term("sp").taps
    ('student.embedding', 'teacher.embedding')
    """

    key = "sp"
    title = "SP"
    paper = "Tung, Mori, ICCV 2019, arXiv 1907.09682"
    family = "relation"
    status = "paper"
    status_note = "in the form of RepDistiller, which the paper's author has verified"
    flat = True

    def __init__(
        self,
        weight: float = 3000.0,
        stage: int | None = -1,
        teacher_stage: int | None = None,
        normalise: Literal["rows", "matrix"] = "rows",
        ce: float = 1.0,
        kd: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        asks = "find the same pictures of a batch alike"
        super().__init__([("sp", weight, asks)], stage, teacher_stage, ce, kd, temperature)
        self.normalise: Literal["rows", "matrix"] = choice(self, "normalise", normalise, ("rows", "matrix"))  # type: ignore[assignment]

    def relate(self, term: str, student: Tensor, teacher: Tensor) -> Tensor:
        return similarity_preserving(student, teacher, self.normalise)

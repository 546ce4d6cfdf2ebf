"""PKT: the probability with which one picture of a batch would choose another as its neighbour."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from kdlab.losses import pkt
from kdlab.methods.checks import choice
from kdlab.methods.registry import register
from kdlab.methods.relating import BatchRelation


@register
class PKT(BatchRelation):
    """Probabilistic knowledge transfer: cosine similarities of a batch, made into probabilities.

        u   = v / (||v|| + 1e-7),  k = (u u' + 1) / 2,  P = rows of k divided by their sums
        pkt = mean over B^2 of P_t log((P_t + 1e-7) / (P_s + 1e-7))
        L   = CE(z_s, y) + 30000 pkt

    v: embeddings (B, d_s), (B, d_t). The large weight belongs to the mean over B^2 entries, each about
    1/B. The diagonal, 1 in both, is included. Blind to rotation and to the scale of each row. Of one
    sample it is 0. Nothing is trained besides the student.

    Look at P_t and P_s, sorted by class.

    Args:
        weight: weight of `pkt`.
        form: "mean" over B^2, or "rows": the KL divergence of each row, averaged over the rows; it is B
            times as large, so divide the weight by the batch size.
        diagonal: whether a picture is its own neighbour, as in the public code.
        stage: a stage whose pooled map is compared in place of the embedding, counted from 0 or, if
            negative, from the deepest (ours).
        teacher_stage: the teacher's stage; None: the same number.
        ce, kd: weights of the cross-entropy and of an optional KD term.
        temperature: tau of the KD term.

    >>> kdlab.methods.PKT()
    PKT[ce=1, pkt=30000, kd=0]
    >>> kdlab.methods.PKT(weight=30000 / 64, form="rows")  # the same strength at 64 pictures a batch
    PKT[ce=1, pkt=468.75, kd=0]
    """

    key = "pkt"
    title = "PKT"
    paper = "Passalis, Tefas, ECCV 2018, arXiv 1803.10837"
    family = "relation"
    status = "paper"
    status_note = "in the form of RepDistiller"

    def __init__(
        self,
        weight: float = 30000.0,
        form: Literal["mean", "rows"] = "mean",
        diagonal: bool = True,
        stage: int | None = None,
        teacher_stage: int | None = None,
        ce: float = 1.0,
        kd: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        asks = "choose the same neighbours within a batch"
        super().__init__([("pkt", weight, asks)], stage, teacher_stage, ce, kd, temperature)
        self.form: Literal["mean", "rows"] = choice(self, "form", form, ("mean", "rows"))  # type: ignore[assignment]
        self.diagonal = bool(diagonal)

    def relate(self, term: str, student: Tensor, teacher: Tensor) -> Tensor:
        return pkt(student, teacher, self.form, self.diagonal)

"""NST: the student's channels respond to the same places as the teacher's, as a set."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kdlab.losses import nst
from kdlab.methods.pairing import StageByStage
from kdlab.methods.registry import register


@register
class NST(StageByStage):
    """Neuron selectivity transfer: the channels of two maps as samples from one distribution of places.

        f_c = vec(map_c) / ||.||_2                       one row for each channel
        k(a, b) = (a'b)^2
        nst = sum over stages of mean k(f_t, f_t) + mean k(f_s, f_s) - 2 mean k(f_s, f_t)
        L   = CE(z_s, y) + 50 nst

    Maps (B, c, h, w), the larger average-pooled to the smaller; the means are over B and all pairs of
    channels, so that the widths may differ: a squared maximum mean discrepancy. The first part is
    constant and kept in the value, which is 0 for equal maps. Blind to the scale of each channel, and to
    one permutation of places applied to both networks. Nothing is trained besides the student.

    Look at the kernel matrices k(f_s, f_s), k(f_t, f_t), k(f_s, f_t) of a stage.

    Args:
        weight: weight of `nst`.
        stages: the student's stages, counted from 0 or, if negative, from the deepest; None: as many as
            both networks have, paired from the deepest.
        teacher_stages: the teacher's stages in the same order; None: the same numbers.
        ce, kd: weights of the cross-entropy and of an optional KD term.
        temperature: tau of the KD term.

    >>> kdlab.methods.NST()
    NST[ce=1, nst=50, kd=0]
    >>> kdlab.methods.NST(stages=[-1]).term("nst").taps  # the deepest stage alone
    ('student.stages[-1]', 'teacher.stages[-1]')
    """

    key = "nst"
    title = "NST"
    paper = "Huang, Wang, 2017, arXiv 1707.01219"
    family = "feature"
    status = "paper"
    status_note = "in the form of RepDistiller"
    main = "nst"
    asks = "spread its channels over the picture as the teacher does"

    def __init__(
        self,
        weight: float = 50.0,
        stages: Sequence[int] | None = None,
        teacher_stages: Sequence[int] | None = None,
        ce: float = 1.0,
        kd: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(weight, stages, teacher_stages, ce, kd, temperature)

    def compare(self, pair: int, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        return nst(student_map, teacher_map)

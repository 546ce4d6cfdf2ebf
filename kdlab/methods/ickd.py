"""ICKD: which channels go together, in the student as in the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kdlab.losses import ickd
from kdlab.methods.pairing import StageByStage
from kdlab.methods.projectors import conv_bn
from kdlab.methods.registry import register
from kdlab.models.features import NetSpec


@register
class ICKD(StageByStage):
    """Inter-channel correlation (ICKD-C): the Gram matrix of the channels, for each picture.

        G    = rows of F F' divided by their L2 norms,  F = the map as (c, h w)
        ickd = sum (G_s - G_t)^2 / (B c_t)
        L    = CE(z_s, y) + 2.5 ickd (+ KD_4)

    F_s (B, c_s, h_s, w_s) first passes a 1x1 convolution (no bias) and BN to the teacher's c_t channels;
    F_t (B, c_t, h_t, w_t) is raw. G is c_t x c_t, so sizes may differ. The last stage by default. A
    common scale of a map costs nothing.

    Look at G_s, G_t and their difference.

    Args:
        weight: weight of `ickd`, 2.5 as in the published command.
        stages: the student's stages, counted from 0 or, if negative, from the deepest; None: as many as
            both networks have, paired from the deepest.
        teacher_stages: the teacher's stages in the same order; None: the same numbers.
        ce, kd: weights of the cross-entropy and of a KD term; the authors use KD with weight 0 or 1.
        temperature: tau of the KD term.

    >>> kdlab.methods.ICKD()
    ICKD[ce=1, ickd=2.5, kd=0]
    >>> kdlab.methods.ICKD(**kdlab.methods.ICKD.presets["with KD"])
    ICKD[ce=1, ickd=2.5, kd=1]
    """

    key = "ickd"
    title = "ICKD"
    paper = "Liu et al., ICCV 2021, arXiv 2202.03680"
    family = "feature"
    status = "code"
    trained = {"connectors": "one per stage: 1x1 convolution and BN to the teacher's width"}
    presets = {"with KD": {"weight": 2.5, "kd": 1.0}}
    main = "ickd"
    asks = "correlate its channels as the teacher does"

    def __init__(
        self,
        weight: float = 2.5,
        stages: Sequence[int] | None = (-1,),
        teacher_stages: Sequence[int] | None = None,
        ce: float = 1.0,
        kd: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(weight, stages, teacher_stages, ce, kd, temperature)

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        widths = [(student.stages[s][0], teachers[0].stages[t][0]) for s, t in self.pairs]
        self.connectors = nn.ModuleList(nn.Sequential(*conv_bn(c_s, c_t)) for c_s, c_t in widths)

    def compare(self, pair: int, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        return ickd(self.connectors[pair](student_map), teacher_map)

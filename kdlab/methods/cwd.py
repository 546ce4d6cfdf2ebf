"""CWD: each channel as a distribution over the places of the picture."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kdlab.losses import align, cwd
from kdlab.methods.checks import number
from kdlab.methods.pairing import StageByStage
from kdlab.methods.registry import register
from kdlab.models.features import NetSpec


@register
class CWD(StageByStage):
    """Channel-wise distillation: where each channel of the teacher looks, and how sharply.

        p_c = softmax over h, w of map_c / tau
        cwd = tau^2 / (B c_t) * sum over b, c of KL(p_c(F_t) || p_c(F_s))
        L   = CE(z_s, y) + 3 cwd,   tau = 4

    F_s (B, c_s, h, w) passes a 1x1 convolution with bias to c_t channels; the larger of two maps is
    average-pooled to the smaller first. The last stage by default. A constant added to a channel costs
    nothing. Made for dense prediction (on its logit maps: weight 3, tau 4); for classifiers the stage, the
    weight and tau are our choice and were not tuned.

    Look at the distributions p_c of a few channels, teacher above student.

    Args:
        weight: weight of `cwd`.
        tau: temperature of the distributions over places.
        stages: the student's stages, counted from 0 or, if negative, from the deepest; None: as many as
            both networks have, paired from the deepest.
        teacher_stages: the teacher's stages in the same order; None: the same numbers.
        ce, kd: weights of the cross-entropy and of an optional KD term.
        temperature: tau of the KD term.

    >>> kdlab.methods.CWD()
    CWD[ce=1, cwd=3, kd=0]
    >>> kdlab.methods.CWD().term("cwd").taps
    ('student.stages[-1]', 'teacher.stages[-1]')
    """

    key = "cwd"
    title = "CWD"
    paper = "Shu et al., ICCV 2021, arXiv 2011.13256"
    family = "feature"
    status = "code"
    status_note = "published for dense prediction; its use on classifiers, with weight 3 and tau 4, is ours"
    trained = {"connectors": "one per stage: 1x1 convolution to the teacher's width"}
    presets = {"dense prediction, logit maps": {"weight": 3.0, "tau": 4.0}}
    main = "cwd"
    asks = "look at the same places with each channel"

    def __init__(
        self,
        weight: float = 3.0,
        tau: float = 4.0,
        stages: Sequence[int] | None = (-1,),
        teacher_stages: Sequence[int] | None = None,
        ce: float = 1.0,
        kd: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(weight, stages, teacher_stages, ce, kd, temperature)
        self.tau = number(self, "tau", tau, above=0)

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        widths = [(student.stages[s][0], teachers[0].stages[t][0]) for s, t in self.pairs]
        self.connectors = nn.ModuleList(nn.Conv2d(c_s, c_t, 1) for c_s, c_t in widths)

    def compare(self, pair: int, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        student_map, teacher_map = align(student_map, teacher_map)
        return cwd(self.connectors[pair](student_map), teacher_map, self.tau)

"""Channel distillation: how active each channel is, with KD where the teacher is right, and a decay."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor, nn

from kdlab.errors import ConfigError
from kdlab.losses import channel_mse, guided_kd
from kdlab.methods.base import Step, Term
from kdlab.methods.checks import number, whole
from kdlab.methods.pairing import StageByStage
from kdlab.methods.projectors import conv_bn_relu
from kdlab.methods.registry import register
from kdlab.methods.schedules import Piecewise
from kdlab.models.features import NetSpec


@register
class ChannelDistillation(StageByStage):
    """Channel distillation with guided KD and an early decay of the teacher.

        channel = sum over stages of mean_{b,c} (GAP(phi(F_s)) - GAP(F_t))^2
        gkd     = mean of KL(softmax(z_t) || softmax(z_s)) over the samples the teacher gets right
        L       = CE(z_s, y) + 6 d(e) channel + 0.1 gkd,   d = 1, 0.9 from epoch 60, 0.81 from 160 (of 200)

    phi: 1x1 convolution (no bias), BN, ReLU from c_s to c_t channels, at every stage, also for equal
    widths (without the ReLU a batch mean would be constant). GAP takes the size away, so sizes may
    differ, and so does every permutation of places. gkd is 0 where the teacher is right about nothing.
    The decay is a schedule of `channel`. The released code also leaves cross-entropy and gkd out until
    epoch 60 on CIFAR, which is not done here (give their terms the schedule "piecewise:1=0,61=1").

    Look at the averages GAP of teacher and student channels as bars.

    Args:
        weight: weight of `channel`.
        gkd: weight of `gkd`: 0.1 on CIFAR-100, 1 on ImageNet, in the released code.
        decay: factor on the weight of `channel` at each epoch of `decay_at`; 1: no decay.
        decay_at: epochs, from 1, from which on it counts.
        stages: the student's stages, counted from 0 or, if negative, from the deepest; None: as many as
            both networks have, paired from the deepest.
        teacher_stages: the teacher's stages in the same order; None: the same numbers.
        ce, kd: weights of the cross-entropy and of an optional plain KD term.
        temperature: tau of the KD term; gkd has tau 1.

    >>> kdlab.methods.ChannelDistillation()
    ChannelDistillation[ce=1, channel=6 piecewise:60=0.9,160=0.81, gkd=0.1, kd=0]
    >>> channel = kdlab.methods.ChannelDistillation().term("channel")
    >>> [round(channel.factor(epoch), 2) for epoch in (59, 60, 160)]
    [6.0, 5.4, 4.86]
    """

    key = "channel"
    title = "Channel distillation"
    paper = "Zhou, Zhuge, Guan, Liu, 2020, arXiv 2006.01683"
    family = "feature"
    status = "code"
    status_note = "cross-entropy and gkd from the first epoch on are our choice"
    trained = {"connectors": "one per stage: 1x1 convolution, BN, ReLU to the teacher's width"}
    presets = {
        "CIFAR-100": {"weight": 6.0, "gkd": 0.1, "decay": 0.9, "decay_at": (60, 160)},
        "ImageNet": {"weight": 6.0, "gkd": 1.0, "decay": 0.9, "decay_at": (30, 60, 90)},
    }
    main = "channel"
    asks = "activate each channel as strongly as the teacher, wherever that is"

    def __init__(
        self,
        weight: float = 6.0,
        gkd: float = 0.1,
        decay: float = 0.9,
        decay_at: Sequence[int] = (60, 160),
        stages: Sequence[int] | None = None,
        teacher_stages: Sequence[int] | None = None,
        ce: float = 1.0,
        kd: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(weight, stages, teacher_stages, ce, kd, temperature)
        guided = Term(
            "gkd",
            gkd,
            ("student.logits", "teacher.logits", "target"),
            "match the teacher's probabilities where the teacher is right",
        )
        self.terms = {"ce": self.terms["ce"], "channel": self.terms["channel"], "gkd": guided} | self.terms
        factor = number(self, "decay", decay, minimum=0)
        if not isinstance(decay_at, list | tuple):
            raise ConfigError(
                "ChannelDistillation(decay_at=...) must be a list of epochs such as (60, 160), "
                f"not {decay_at!r}."
            )
        epochs = sorted(whole(self, "decay_at", epoch, minimum=1) for epoch in decay_at)
        if factor != 1 and epochs:
            steps = tuple((epoch, factor ** (i + 1)) for i, epoch in enumerate(epochs))
            self.terms["channel"].schedule = Piecewise(steps)

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        widths = [(student.stages[s][0], teachers[0].stages[t][0]) for s, t in self.pairs]
        self.connectors = nn.ModuleList(nn.Sequential(*conv_bn_relu(c_s, c_t)) for c_s, c_t in widths)

    def compare(self, pair: int, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        return channel_mse(self.connectors[pair](student_map), teacher_map)

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = super().losses(step, active)
        if "gkd" in active:
            values["gkd"] = guided_kd(step.student.logits, step.teacher.logits, step.target)
        return values

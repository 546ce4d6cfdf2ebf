"""OFD: match what is passed on by the teacher's ReLU, and leave alone what it cuts off."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Literal

import torch
from torch import Tensor, nn

from kdlab.errors import ConfigError
from kdlab.losses import align, expected_negative, ofd
from kdlab.methods.base import Preparation
from kdlab.methods.checks import choice, number, require_built
from kdlab.methods.norms import norms_of_preacts
from kdlab.methods.pairing import StageByStage, require_preacts
from kdlab.methods.projectors import Connector
from kdlab.methods.registry import register
from kdlab.models.features import NetSpec, StagedNet

_BATCHES = 100  # enough for means of single channels


@register
class OFD(StageByStage):
    """Overhaul of feature distillation: margin ReLU on the teacher, partial L2 distance, before the ReLU.

        s   = connector(F_s)                             1x1 convolution, BN
        t'  = max(F_t, margin_c)                         margin_c = E[F_t | F_t < 0] of channel c
        d   = (s - t')^2 [s > t' or t' > 0]
        ofd = sum over stages i = 0..n-1 of 2^-(n-1-i) sum d / (1000 B)
        L   = CE(z_s, y) + ofd

    F_s (B, c_s, h, w), F_t (B, c_t, h, w): the last maps of a stage *before* the activation, in both
    networks; where sizes differ the larger is average-pooled to the smaller (ours). Where the teacher is
    not positive, a student below the margin costs nothing. Gradient reaches the student's maps and the
    connectors.

    The margins come from the teacher's BatchNorms (scale s = |gamma|, mean m = beta), found for any
    network as those whose output the map is, over the addition of a shortcut:
    margin = m - s exp(-(m/s)^2/2) / (sqrt(2 pi) Phi(-m/s)), or -3 s where Phi(-m/s) <= 1e-3. A teacher
    without them (ShuffleV2, whose maps are concatenations; networks with other norms) is refused:
    `margin="data"` then takes the mean negative response of each channel over up to 100 batches of training
    pictures, before the first step.

    Look at a histogram of pre-activations with `margins()`, and the region that is left alone.

    Args:
        weight: weight of `ofd`; the 1/1000 of the released code is in its value (1e-3 of the sum; the
            released R50 -> MobileNet on ImageNet takes 1e-4: weight 0.1).
        margin: "norm", "data", or one number for all channels (0: plain ReLU).
        maps: "preacts" as published, or "stages": after the activation (ablation).
        stages: the student's stages, counted from 0 or, if negative, from the deepest; None: as many as
            both networks have, paired from the deepest.
        teacher_stages: the teacher's stages in the same order; None: the same numbers.
        ce, kd: weights of the cross-entropy and of an optional KD term.
        temperature: tau of the KD term.

    >>> kdlab.methods.OFD()
    OFD[ce=1, ofd=1, kd=0]
    >>> kdlab.methods.OFD(maps="stages").term("ofd").taps  # published: preacts, before the activation
    ('student.stages', 'teacher.stages')
    """

    key = "ofd"
    title = "OFD"
    paper = "Heo et al., ICCV 2019, arXiv 1904.01866"
    family = "feature"
    status = "code"
    trained = {"connectors": "one per stage: 1x1 convolution and BN to the teacher's width"}
    presets = {"ImageNet, ResNet-50 -> MobileNet": {"weight": 0.1}}
    main = "ofd"
    asks = "match what the teacher's ReLU passes on"

    def __init__(
        self,
        weight: float = 1.0,
        margin: Literal["norm", "data"] | float = "norm",
        maps: Literal["preacts", "stages"] = "preacts",
        stages: Sequence[int] | None = None,
        teacher_stages: Sequence[int] | None = None,
        ce: float = 1.0,
        kd: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        self.maps = choice(self, "maps", maps, ("preacts", "stages"))
        super().__init__(weight, stages, teacher_stages, ce, kd, temperature)
        self.margin: str | float
        if isinstance(margin, Real) and not isinstance(margin, bool):
            self.margin = number(self, "margin", margin)
        else:
            self.margin = choice(self, "margin", margin, ("norm", "data"))

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        teacher = teachers[0]
        if self.maps == "preacts":
            for net, whose in ((student, "student"), (teacher, "teacher")):
                require_preacts(self, net, whose, "choose another, or maps='stages'")
        widths = [(student.stages[s][0], teacher.stages[t][0]) for s, t in self.pairs]
        # Connector without its ReLU: the map that it predicts has negative values
        self.connectors = nn.ModuleList(nn.Sequential(*list(Connector(c_s, c_t))[:2]) for c_s, c_t in widths)
        for pair, margin in enumerate(self._margins(teacher)):
            self.register_buffer(f"margin{pair}", margin)

    def _margins(self, teacher: NetSpec) -> list[Tensor]:
        """(c_t,) for each pair; NaN until `prepare` has seen the data."""
        widths = [teacher.stages[t][0] for _, t in self.pairs]
        if not isinstance(self.margin, str):
            return [torch.full((width,), self.margin) for width in widths]
        if self.margin == "data":
            return [torch.full((width,), torch.nan) for width in widths]
        norms = norms_of_preacts(teacher) if teacher.has_preacts else (None,) * len(teacher.stages)
        margins = []
        for (_, stage), width in zip(self.pairs, widths):
            norm = norms[stage]
            if norm is None:
                raise ConfigError(
                    f"OFD takes its margins from the BatchNorm before a stage's activation, and stage "
                    f"{teacher.stage_names[stage]} of {teacher.name} has none of its width; choose "
                    "margin='data' or other stages."
                )
            margins.append(_margin_of(norm, width))
        return margins

    def prepare(self, preparation: Preparation) -> None:
        if self.margin != "data":
            return
        stages = [t for _, t in self.pairs]
        found = preparation.shared(
            f"ofd margins of {self.maps} {stages}",
            lambda: _mean_negatives(preparation, preparation.teachers[0], self.maps, stages),
        )
        for pair in range(len(self.pairs)):
            self.get_buffer(f"margin{pair}").copy_(found[str(pair)])

    def compare(self, pair: int, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        student_map, teacher_map = align(student_map, teacher_map)
        connected = self.connectors[pair](student_map)
        deeper = len(self.pairs) - 1 - pair
        return 0.5**deeper * ofd(connected, teacher_map, self.get_buffer(f"margin{pair}"))

    def margins(self) -> dict[str, Tensor]:
        """Stage -> (c_t,) the margin of each teacher channel."""
        require_built(self)
        return {name: self.get_buffer(f"margin{i}").clone() for i, name in enumerate(self.names)}


def _margin_of(norm: nn.Module, width: int) -> Tensor:
    """The margins that the shift and scale of a BatchNorm give, worked out in float64."""
    scale, shift = norm.weight, norm.bias
    if scale is None or shift is None:  # no affine part: scale 1, shift 0
        return expected_negative(torch.zeros(width), torch.ones(width))
    margin = expected_negative(shift.detach().double(), scale.detach().double())  # type: ignore[operator]
    return margin.float().cpu()


@torch.no_grad()
def _mean_negatives(
    preparation: Preparation, teacher: StagedNet, maps: str, stages: Sequence[int]
) -> dict[str, Tensor]:
    """Mean of the negative values of each channel, 0 where there are none; by number of the pair."""
    sums: list[Tensor] = []
    counts: list[Tensor] = []
    for number_, (images, _, _) in enumerate(preparation.batches("train", 0)):
        if number_ == _BATCHES:
            break
        shown = getattr(teacher.features(images), maps)
        values = [shown[stage].float() for stage in stages]
        low = [v.clamp_max(0).sum((0, 2, 3)) for v in values]
        many = [(v < 0).sum((0, 2, 3)) for v in values]
        sums = [a + b for a, b in zip(sums, low)] if sums else low
        counts = [a + b for a, b in zip(counts, many)] if counts else many
    return {str(i): s / c.clamp_min(1) for i, (s, c) in enumerate(zip(sums, counts))}

"""VID: the student's map predicts the teacher's, with a variance per channel that is learned too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlab.losses import align, vid
from kdlab.methods.checks import number, require_built
from kdlab.methods.pairing import StageByStage
from kdlab.methods.registry import register
from kdlab.models.features import NetSpec

_FLOOR = 1e-5


class Variances(nn.Module):
    """s_c = softplus(a_c) + 1e-5 of each teacher channel, trained and saved as a_c.

    Args:
        channels: c.
        start: s_c at the beginning; above 1e-5.
    """

    def __init__(self, channels: int, start: float) -> None:
        super().__init__()
        a = torch.full((channels,), start - _FLOOR, dtype=torch.float64)
        self.a = nn.Parameter(a.expm1().log().float())  # the inverse of softplus

    def forward(self) -> Tensor:
        """(c,)."""
        return F.softplus(self.a) + _FLOOR


@register
class VID(StageByStage):
    """Variational information distillation: a Gaussian around the student's prediction of the teacher.

        vid = sum over stages of mean 0.5 [ (mu(F_s) - F_t)^2 / s_c + log s_c ]
        L   = CE(z_s, y) + vid

    F_s (B, c_s, h, w), F_t (B, c_t, h, w): the last maps of a stage, the larger average-pooled to the
    smaller. mu: three 1x1 convolutions without bias, ReLU between them (c_s -> c_t -> c_t -> c_t).
    s_c = softplus(a_c) + 1e-5: one variance for each teacher channel, 5 at the start. The mean is over all
    elements. Maximises a lower bound of the information that both maps share, and may be negative.

    Gradient reaches the stage maps, mu and a_c. In one well-known re-implementation a_c is neither
    trained nor saved; here it is. Look at `variances()`: large for the channels the student gives up on.

    Args:
        weight: weight of `vid`.
        stages: the student's stages, counted from 0 or, if negative, from the deepest; None: as many as
            both networks have, paired from the deepest.
        teacher_stages: the teacher's stages in the same order; None: the same numbers.
        variance: every s_c at the start.
        ce, kd: weights of the cross-entropy and of an optional KD term.
        temperature: tau of the KD term.

    >>> kdlab.methods.VID()
    VID[ce=1, vid=1, kd=0]
    >>> sorted(kdlab.methods.VID.trained)  # what is trained along with the student
    ['means', 'spreads']
    """

    key = "vid"
    title = "VID"
    paper = "Ahn et al., CVPR 2019, arXiv 1904.05835"
    family = "feature"
    status = "paper"
    status_note = "in the form of RepDistiller"
    trained = {
        "means": "one per stage: three 1x1 convolutions to the teacher's width",
        "spreads": "one per stage: a variance for each teacher channel",
    }
    main = "vid"
    asks = "predict the teacher's maps, as sure of each channel as it can be"

    def __init__(
        self,
        weight: float = 1.0,
        stages: Sequence[int] | None = None,
        teacher_stages: Sequence[int] | None = None,
        variance: float = 5.0,
        ce: float = 1.0,
        kd: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(weight, stages, teacher_stages, ce, kd, temperature)
        self.variance = number(self, "variance", variance, above=_FLOOR)

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        widths = [(student.stages[s][0], teachers[0].stages[t][0]) for s, t in self.pairs]
        self.means = nn.ModuleList(_mean_network(c_s, c_t) for c_s, c_t in widths)
        self.spreads = nn.ModuleList(Variances(c_t, self.variance) for _, c_t in widths)

    def compare(self, pair: int, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        student_map, teacher_map = align(student_map, teacher_map)
        return vid(self.means[pair](student_map), teacher_map, self.spreads[pair]())

    def variances(self) -> dict[str, Tensor]:
        """Stage -> (c_t,) the present s_c."""
        require_built(self)
        with torch.no_grad():
            return {name: spread() for name, spread in zip(self.names, self.spreads)}


def _mean_network(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, outputs, outputs):
        layers += [nn.Conv2d(width, outputs, 1, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])

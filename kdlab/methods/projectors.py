"""Trainable parts that methods own: small convolution stacks from student features to teacher features.

All use batch statistics in training and running statistics in evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdlab.errors import ConfigError

Shape = tuple[int, int, int]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside: `module` is in eval mode and no gradient is recorded; afterwards each mode is put back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.ReLU]:
    """Convolution without bias that keeps the size, BN, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(outputs), nn.ReLU()


def conv_bn(inputs: int, outputs: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """1x1 convolution without bias, BN."""
    return conv_bn_relu(inputs, outputs)[:2]


class Regressor(nn.Sequential):
    """FitNet's regressor: a convolution with bias, BN, ReLU, that maps one map to another's exact shape.

    Kernel by the sizes H_s, H_t alone: 3x3 stride 2 if H_s = 2 H_t; transposed 4x4 stride 2 if
    2 H_s = H_t; else 1 + H_s - H_t without padding, which is 1x1 for equal sizes.

    Args:
        student: (c, h, w) of the input.
        teacher: (c, h, w) of the output.

    Raises:
        ConfigError: the teacher's map is larger, but not twice as large.
    """

    def __init__(self, student: Shape, teacher: Shape) -> None:
        (c_s, h_s, w_s), (c_t, h_t, w_t) = student, teacher
        conv: nn.Module
        if (h_s, w_s) == (2 * h_t, 2 * w_t):
            conv = nn.Conv2d(c_s, c_t, 3, stride=2, padding=1)
        elif (2 * h_s, 2 * w_s) == (h_t, w_t):
            conv = nn.ConvTranspose2d(c_s, c_t, 4, stride=2, padding=1)
        elif h_s >= h_t and w_s >= w_t:
            conv = nn.Conv2d(c_s, c_t, (1 + h_s - h_t, 1 + w_s - w_t))
        else:
            raise ConfigError(
                f"FitNet cannot regress a {h_s}x{w_s} student map onto a {h_t}x{w_t} teacher map; choose "
                "stages of equal size with stage= and teacher_stage=."
            )
        super().__init__(conv, nn.BatchNorm2d(c_t), nn.ReLU())


class Connector(nn.Sequential):
    """SRRL's connector: 1x1 convolution (no bias, init N(0, 2 / outputs)), BN, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        conv, bn, relu = conv_bn_relu(inputs, outputs)
        nn.init.normal_(conv.weight, std=(2 / outputs) ** 0.5)
        super().__init__(conv, bn, relu)


class Projector(nn.Module):
    """SimKD's projector: 1x1 (c_s -> m), 3x3 (m -> m), 1x1 (m -> c_t), each with BN and ReLU.

    m = c_t / factor; c_s m + 9 m^2 + m c_t + 4 m + 2 c_t parameters; no convolution bias, default
    initialisation.

    Args:
        inputs: c_s, channels of the student's map.
        outputs: c_t, channels of the teacher's map.
        factor: how much narrower the middle is; must divide `outputs`.
        also: channels of a second output layer `match`, if one is wanted.
        depth: 3; 2 leaves out the 3x3 convolution, 1 is a single 1x1 (c_s -> c_t) without a middle.
    """

    def __init__(
        self, inputs: int, outputs: int, factor: int = 1, also: int | None = None, depth: int = 3
    ) -> None:
        super().__init__()
        if outputs % factor:
            raise ConfigError(
                f"The projector's factor {factor} must divide the teacher's {outputs} channels; "
                "choose 1, 2 or 4 where they fit."
            )
        middle = outputs // factor if depth > 1 else inputs
        layers: list[nn.Module] = []
        if depth > 1:
            layers += conv_bn_relu(inputs, middle)
        if depth > 2:
            layers += conv_bn_relu(middle, middle, 3)
        self.hidden = nn.Sequential(*layers)
        self.out = nn.Sequential(*conv_bn_relu(middle, outputs))
        if also is not None:
            self.match = nn.Sequential(*conv_bn_relu(middle, also))

    def forward(self, feature_map: Tensor) -> Tensor:
        return self.out(self.hidden(feature_map))

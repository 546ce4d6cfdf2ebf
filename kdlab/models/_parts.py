"""Small parts that the CIFAR networks share."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from kdlab.errors import ConfigError


class Stage(nn.Sequential):
    """Blocks in a row; the last one also tells its map before the activation.

    Blocks take `(x, preacts=None)` and append that map to the list they are given. Passing a list
    down, and not a pair up, keeps every module's output a plain tensor, as forward hooks expect.
    """

    def forward(self, x: Tensor, preacts: list[Tensor] | None = None) -> Tensor:
        *inner, last = self
        for block in inner:
            x = block(x)
        return last(x, preacts)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution with padding 1 and no bias."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """1x1 convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, groups=groups, bias=False)


def depthwise3x3(channels: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution of every channel by itself, padding 1, no bias."""
    return nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)


def pool(maps: Tensor) -> Tensor:
    """Global average: (B, c, h, w) to (B, c)."""
    return maps.mean(dim=(2, 3))


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel shuffle of ShuffleNet: channel g*m + j becomes channel j*groups + g (m = c / groups)."""
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


def check_images(x: Tensor, in_channels: int, smallest: int = 1) -> None:
    """Refuse a batch that the network cannot take.

    Raises:
        ConfigError: not (B, in_channels, H, W), or H or W below `smallest`.
    """
    if x.dim() != 4 or x.shape[1] != in_channels:
        raise ConfigError(
            f"The network takes images of shape (B, {in_channels}, H, W), not {tuple(x.shape)}; "
            "build it with the in_channels of your images."
        )
    if min(x.shape[2], x.shape[3]) < smallest:
        raise ConfigError(
            f"This network halves its maps three times and needs images of at least {smallest}x{smallest} "
            f"pixels, not {x.shape[2]}x{x.shape[3]}; the resnet, wrn, MobileNetV2 and Shuffle networks take "
            "any size."
        )


def init_fan_out(net: nn.Module) -> None:
    """Convolutions: Kaiming normal, fan out (He et al., 2015); BatchNorm 1 and 0."""
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)
            nn.init.zeros_(m.bias)


def init_by_width(net: nn.Module, linear_std: float | None = None) -> None:
    """Convolutions: normal with variance 2 / (k * k * out_channels), biases 0; BatchNorm 1 and 0.

    Unlike Kaiming's fan out this does not divide by the number of groups, as in the public code.

    Args:
        net: changed in place.
        linear_std: standard deviation of linear weights; None leaves PyTorch's own.
    """
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            fan_out = m.kernel_size[0] * m.kernel_size[1] * m.out_channels
            nn.init.normal_(m.weight, 0.0, math.sqrt(2.0 / fan_out))
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)
            nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Linear):
            if linear_std is not None:
                nn.init.normal_(m.weight, 0.0, linear_std)
            nn.init.zeros_(m.bias)


def relu_shown(before: Tensor, preacts: list[Tensor] | None) -> Tensor:
    """ReLU that keeps what it is given: appends `before` to `preacts` where that is asked for."""
    if preacts is not None:
        preacts.append(before)
    return F.relu(before)

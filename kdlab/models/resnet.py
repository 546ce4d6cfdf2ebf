"""ResNets for small images (He et al., CVPR 2016), in the form and with the keys of RepDistiller."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kdlab.models._parts import Stage, check_images, conv1x1, conv3x3, init_fan_out, pool, relu_shown
from kdlab.models.features import Features, StagedNet


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """Shortcut of a block whose input and output differ in shape: 1x1 convolution and BatchNorm."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), all convolutions 3x3."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = _projection(in_channels, out_channels, stride)

    def forward(self, x: Tensor, preacts: list[Tensor] | None = None) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return relu_shown(out + (x if self.downsample is None else self.downsample(x)), preacts)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution to four times the inner width, plus shortcut, then ReLU."""

    expansion = 4

    def __init__(self, in_channels: int, inner: int, stride: int) -> None:
        super().__init__()
        out_channels = inner * self.expansion
        self.conv1 = conv1x1(in_channels, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = _projection(in_channels, out_channels, stride)

    def forward(self, x: Tensor, preacts: list[Tensor] | None = None) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return relu_shown(out + (x if self.shortcut is None else self.shortcut(x)), preacts)


class ResNet(StagedNet):
    """CIFAR ResNet of depth 6n + 2: three stages of n basic blocks at full, half and quarter resolution.

    Takes images of any size. Every stage ends in a ReLU; the embedding is the average of the last.

    Args:
        depth: 8, 14, 20, 32, 44, 56 or 110 (6n + 2).
        widths: channels of the stem and of the three stages.
        num_classes, in_channels: classes K, and channels of the images.
    """

    stage_names = ("layer1", "layer2", "layer3")

    def __init__(
        self,
        depth: int,
        widths: Sequence[int] = (16, 16, 32, 64),
        num_classes: int = 100,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        stem, *outs = widths
        self.in_channels = in_channels
        self.conv1 = conv3x3(in_channels, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        for i, (before, after) in enumerate(zip(widths, outs)):
            strides = [1 if i == 0 else 2] + [1] * (blocks - 1)
            row = [BasicBlock(after if j else before, after, stride) for j, stride in enumerate(strides)]
            self.add_module(self.stage_names[i], Stage(*row))
        self.fc = nn.Linear(outs[-1], num_classes)
        init_fan_out(self)

    @property
    def classifier(self) -> nn.Linear:
        return self.fc

    def features(self, x: Tensor) -> Features:
        check_images(x, self.in_channels)
        return _features(self, F.relu(self.bn1(self.conv1(x))))


class ResNet50(StagedNet):
    """ResNet-50 with a CIFAR stem (3x3, stride 1, no pooling): bottlenecks 3, 4, 6, 3.

    Takes images of any size. Every stage ends in a ReLU; the embedding is the average of the last.
    """

    stage_names = ("layer1", "layer2", "layer3", "layer4")

    def __init__(self, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv1 = conv3x3(in_channels, 64)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for i, (inner, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
            row = []
            for j in range(blocks):
                row.append(Bottleneck(channels, inner, stride=2 if i > 0 and j == 0 else 1))
                channels = inner * Bottleneck.expansion
            self.add_module(self.stage_names[i], Stage(*row))
        self.linear = nn.Linear(channels, num_classes)
        init_fan_out(self)

    @property
    def classifier(self) -> nn.Linear:
        return self.linear

    def features(self, x: Tensor) -> Features:
        check_images(x, self.in_channels)
        return _features(self, F.relu(self.bn1(self.conv1(x))))


def _features(net: StagedNet, stem: Tensor) -> Features:
    """The part both have in common: stages, average, classifier."""
    x, stages, preacts = stem, [], list[Tensor]()
    for name in net.stage_names:
        x = net.get_submodule(name)(x, preacts)
        stages.append(x)
    embedding = pool(x)
    logits = net.classifier(embedding)
    return Features(logits, embedding, tuple(stages), tuple(preacts), stem=stem, final=x)

"""ShuffleNet V1 and V2 (Zhang et al., CVPR 2018; Ma et al., ECCV 2018), with the keys of RepDistiller."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlab.models._parts import Stage, check_images, conv1x1, depthwise3x3, pool, relu_shown, shuffle
from kdlab.models.features import Features, StagedNet


class UnitV1(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; added to its input, or beside it when strided."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int) -> None:
        super().__init__()
        inner = out_channels // 4
        self.stride = stride
        self.first_groups = 1 if in_channels == 24 else groups  # the stem is too thin to be grouped
        self.conv1 = conv1x1(in_channels, inner, groups=self.first_groups)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = depthwise3x3(inner, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, out_channels, groups=groups)
        self.bn3 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, preacts: list[Tensor] | None = None) -> Tensor:
        out = shuffle(F.relu(self.bn1(self.conv1(x))), self.first_groups)
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 2:
            return relu_shown(torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], 1), preacts)
        return relu_shown(out + x, preacts)


class ShuffleV1(StagedNet):
    """ShuffleNet V1 with 3 groups, 240/480/960 channels, 4/8/4 units and a 1x1 stem. Takes any image size."""

    stage_names = ("layer1", "layer2", "layer3")

    def __init__(self, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv1 = conv1x1(in_channels, 24)
        self.bn1 = nn.BatchNorm2d(24)
        channels = 24
        for name, width, units in zip(self.stage_names, (240, 480, 960), (4, 8, 4)):
            row = [UnitV1(channels, width - channels, stride=2, groups=3)]  # its input is concatenated
            row += [UnitV1(width, width, stride=1, groups=3) for _ in range(units - 1)]
            self.add_module(name, Stage(*row))
            channels = width
        self.linear = nn.Linear(channels, num_classes)

    @property
    def classifier(self) -> nn.Linear:
        return self.linear

    def features(self, x: Tensor) -> Features:
        check_images(x, self.in_channels)
        x = stem = F.relu(self.bn1(self.conv1(x)))
        stages: list[Tensor] = []
        preacts: list[Tensor] = []
        for name in self.stage_names:
            x = self.get_submodule(name)(x, preacts)
            stages.append(x)
        embedding = pool(x)
        logits = self.linear(embedding)
        return Features(logits, embedding, tuple(stages), tuple(preacts), stem=stem, final=x)


class DownUnit(nn.Module):
    """Halves the resolution: two convolved branches of the whole input, side by side, shuffled."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv1 = depthwise3x3(in_channels, stride=2)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = conv1x1(in_channels, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(in_channels, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = depthwise3x3(half, stride=2)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv1x1(half, half)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = F.relu(self.bn3(self.conv3(x)))
        right = F.relu(self.bn5(self.conv5(self.bn4(self.conv4(right)))))
        return shuffle(torch.cat([left, right], 1), 2)


class BasicUnit(nn.Module):
    """Passes half of the channels on and convolves the other half, then shuffles."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv1x1(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = depthwise3x3(half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(half, half)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor, preacts: list[Tensor] | None = None) -> Tensor:
        kept, worked = x.chunk(2, dim=1)
        out = F.relu(self.bn1(self.conv1(worked)))
        out = self.bn3(self.conv3(self.bn2(self.conv2(out))))
        # `kept` comes out of a ReLU already, so one ReLU after the shuffle is the same as one before it.
        return relu_shown(shuffle(torch.cat([kept, out], 1), 2), preacts)


class ShuffleV2(StagedNet):
    """ShuffleNet V2 (116/232/464 channels, then 1024) with a 1x1 stem. Takes any image size.

    The classifier reads the average of the 1024 maps behind the last stage, shown as `final`.
    `preacts` are in the channel order of the stages: relu(preact) is the stage.
    """

    stage_names = ("layer1", "layer2", "layer3")

    def __init__(self, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv1 = conv1x1(in_channels, 24)
        self.bn1 = nn.BatchNorm2d(24)
        channels = 24
        for name, width, units in zip(self.stage_names, (116, 232, 464), (3, 7, 3)):
            self.add_module(name, Stage(DownUnit(channels, width), *(BasicUnit(width) for _ in range(units))))
            channels = width
        self.conv2 = conv1x1(channels, 1024)
        self.bn2 = nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, num_classes)

    @property
    def classifier(self) -> nn.Linear:
        return self.linear

    def features(self, x: Tensor) -> Features:
        check_images(x, self.in_channels)
        x = stem = F.relu(self.bn1(self.conv1(x)))
        stages: list[Tensor] = []
        preacts: list[Tensor] = []
        for name in self.stage_names:
            x = self.get_submodule(name)(x, preacts)
            stages.append(x)
        final = F.relu(self.bn2(self.conv2(x)))
        embedding = pool(final)
        logits = self.linear(embedding)
        return Features(logits, embedding, tuple(stages), tuple(preacts), stem=stem, final=final)

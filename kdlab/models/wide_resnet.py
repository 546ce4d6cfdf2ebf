"""Wide ResNets (Zagoruyko, Komodakis, BMVC 2016), in the form and with the keys of RepDistiller."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdlab.models._parts import check_images, conv1x1, conv3x3, init_by_width, pool
from kdlab.models.features import Features, StagedNet

# Maps before and after the activation at the entrance of a row of blocks.
Shown = list[tuple[Tensor, Tensor]]


class PreactBlock(nn.Module):
    """x + conv(relu(bn(conv(relu(bn(x)))))); a convolution on the shortcut where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        same = in_channels == out_channels
        self.convShortcut = None if same else conv1x1(in_channels, out_channels, stride)

    def forward(self, x: Tensor, shown: Shown | None = None) -> Tensor:
        before = self.bn1(x)
        active = F.relu(before)
        if shown is not None:
            shown.append((before, active))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        # A changed width takes its shortcut after the activation, an unchanged one before it.
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class Row(nn.Module):
    """The blocks of one stage; tells the activated map that its first block makes of its input."""

    def __init__(self, blocks: int, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        others = (PreactBlock(out_channels, out_channels, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(PreactBlock(in_channels, out_channels, stride), *others)

    def forward(self, x: Tensor, shown: Shown | None = None) -> Tensor:
        first, *others = self.layer
        x = first(x, shown)
        for block in others:
            x = block(x)
        return x


class WideResNet(StagedNet):
    """wrn_depth_widen: three stages of (depth - 4) / 6 pre-activation blocks, no dropout.

    Blocks add up without an activation; what is shown of a stage is relu(bn(sum)), the map that the
    next block (after the last stage: the final BatchNorm) computes for itself. `preacts` are
    bn(sum), so that relu(preact) is the stage, as in every other network; `stem` is activated too.
    Takes images of any size.

    Args:
        depth: 6n + 4, such as 16 or 40.
        widen: factor of the widths 16, 32, 64.
        num_classes, in_channels: classes K, and channels of the images.
    """

    stage_names = ("block1", "block2", "block3")

    def __init__(self, depth: int, widen: int, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.in_channels = in_channels
        self.conv1 = conv3x3(in_channels, 16)
        self.block1 = Row(blocks, 16, 16 * widen, stride=1)
        self.block2 = Row(blocks, 16 * widen, 32 * widen, stride=2)
        self.block3 = Row(blocks, 32 * widen, 64 * widen, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.fc = nn.Linear(64 * widen, num_classes)
        init_by_width(self)

    @property
    def classifier(self) -> nn.Linear:
        return self.fc

    def features(self, x: Tensor) -> Features:
        check_images(x, self.in_channels)
        shown: Shown = []
        x = self.block1(self.conv1(x), shown)
        x = self.block2(x, shown)
        x = self.block3(x, shown)
        last = self.bn1(x)
        final = F.relu(last)
        shown.append((last, final))
        embedding = pool(final)
        return Features(
            logits=self.fc(embedding),
            embedding=embedding,
            stages=tuple(active for _, active in shown[1:]),
            preacts=tuple(before for before, _ in shown[1:]),
            stem=shown[0][1],
            final=final,
        )

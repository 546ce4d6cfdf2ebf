"""MobileNetV2 of half width for small images (Sandler et al., CVPR 2018), with the keys of RepDistiller."""

from __future__ import annotations

from torch import Tensor, nn

from kdlab.models._parts import check_images, conv1x1, depthwise3x3, init_by_width, pool
from kdlab.models.features import Features, StagedNet

# expansion t, channels c at full width, number n, stride s of the first
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
TAPS = (1, 2, 4, 6)  # groups after which the maps are shown


class InvertedResidual(nn.Module):
    """Expanding 1x1, depthwise 3x3, linear 1x1 convolution; shortcut where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.shortcut = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            conv1x1(in_channels, inner),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            depthwise3x3(inner, stride),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            conv1x1(inner, out_channels),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(StagedNet):
    """Expansion 6, width 0.5, ReLU; a stem of stride 2.

    Stages are the maps after groups 1, 2, 4 and 6. These bottlenecks are linear: there is no
    activation between them, so `preacts` are the same maps. The classifier reads the average of
    the 1280 maps behind the last stage, which are shown as `final`. The average is global, so that
    images of any size fit (the public code's 2x2 average is the same at 32x32).
    """

    stage_names = tuple(f"blocks.{g}" for g in TAPS)

    def __init__(self, num_classes: int = 100, in_channels: int = 3, width: float = 0.5) -> None:
        super().__init__()
        self.in_channels = in_channels
        channels = int(32 * width)
        stem = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        self.conv1 = nn.Sequential(stem, nn.BatchNorm2d(channels), nn.ReLU())
        self.blocks = nn.ModuleList()
        for t, c, n, s in GROUPS:
            row = []
            for j in range(n):
                row.append(InvertedResidual(channels, int(c * width), stride=1 if j else s, expansion=t))
                channels = int(c * width)
            self.blocks.append(nn.Sequential(*row))
        self.conv2 = nn.Sequential(conv1x1(channels, 1280), nn.BatchNorm2d(1280), nn.ReLU())
        self._modules["classifier"] = nn.Sequential(nn.Linear(1280, num_classes))
        init_by_width(self, linear_std=0.01)

    @property
    def classifier(self) -> nn.Linear:
        # The public key is `classifier.0`: the layer inside a Sequential that has this property's name.
        return self._modules["classifier"][0]  # type: ignore[index, return-value]

    def features(self, x: Tensor) -> Features:
        check_images(x, self.in_channels)
        x = stem = self.conv1(x)
        stages = []
        for g, row in enumerate(self.blocks):
            x = row(x)
            if g in TAPS:
                stages.append(x)
        final = self.conv2(x)
        embedding = pool(final)
        logits = self.classifier(embedding)
        return Features(logits, embedding, tuple(stages), tuple(stages), stem=stem, final=final)

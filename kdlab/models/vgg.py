"""VGG with BatchNorm for small images (Simonyan, Zisserman, ICLR 2015), with the keys of RepDistiller."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kdlab.models._parts import check_images, init_by_width, pool, relu_shown
from kdlab.models.features import Features, StagedNet

WIDTHS = (64, 128, 256, 512, 512)
DEPTHS: dict[int, tuple[int, ...]] = {  # convolutions of each block
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def _block(in_channels: int, width: int, convs: int) -> nn.Sequential:
    """convs times 3x3 convolution (with bias), BatchNorm, ReLU; the last ReLU is left to the network."""
    layers: list[nn.Module] = []
    for _ in range(convs):
        layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        in_channels = width
    return nn.Sequential(*layers[:-1])


class VGG(StagedNet):
    """Five blocks; `stem` is block 0, the stages are blocks 1 to 4.

    Maps are halved after blocks 0, 1 and 2, and after block 3 too for images of 64 pixels and more
    (the public code does so for exactly 64). Needs at least 8x8 pixels.

    Args:
        convs: convolutions of each block, such as `DEPTHS[13]`.
        num_classes, in_channels: classes K, and channels of the images.
    """

    stage_names = ("block1", "block2", "block3", "block4")

    def __init__(self, convs: Sequence[int], num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        channels = in_channels
        for i, (count, width) in enumerate(zip(convs, WIDTHS)):
            self.add_module(f"block{i}", _block(channels, width, count))
            channels = width
        self._modules["classifier"] = nn.Linear(channels, num_classes)
        init_by_width(self, linear_std=0.01)

    @property
    def classifier(self) -> nn.Linear:
        # The public key of the layer is the name of this property, so it is looked up by hand.
        return self._modules["classifier"]  # type: ignore[return-value]

    def features(self, x: Tensor) -> Features:
        check_images(x, self.in_channels, smallest=8)
        halved = {0, 1, 2} if min(x.shape[2], x.shape[3]) < 64 else {0, 1, 2, 3}
        shown: list[Tensor] = []
        preacts: list[Tensor] = []
        for i in range(5):
            x = relu_shown(self.get_submodule(f"block{i}")(x), preacts)
            shown.append(x)
            if i in halved:
                x = F.max_pool2d(x, 2)
        embedding = pool(x)
        return Features(
            logits=self.classifier(embedding),
            embedding=embedding,
            stages=tuple(shown[1:]),
            preacts=tuple(preacts[1:]),
            stem=shown[0],
            final=x,
        )

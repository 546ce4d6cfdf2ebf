"""Networks as other people write them, for the tests of tapping."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlab.models import StagedNet, build, tap


def tiny_vit() -> nn.Module:
    import torchvision

    net = torchvision.models.VisionTransformer(
        32, 8, num_layers=5, num_heads=2, hidden_dim=32, mlp_dim=48, num_classes=10
    )
    nn.init.normal_(net.heads.head.weight)  # zeros at first, which would make every check pass
    return net


def tiny_swin() -> nn.Module:
    import torchvision

    return torchvision.models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=10)


class Functional(nn.Module):
    """The net of many a first notebook: activations and pools are functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.bn = nn.BatchNorm2d(12)
        self.conv3 = nn.Conv2d(12, 16, 3, padding=1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(input=self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.bn(self.conv2(x)), inplace=True), 2)
        return self.fc(torch.tanh(self.conv3(x)).mean((2, 3)))


class InPlace(nn.Module):
    """Everything that can be overwritten is: in-place ReLU modules, in-place sums, one shared ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.fc = nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(x))
        out += x
        x = self.relu(out)
        x = self.relu(self.down(x))
        return self.fc(x.mean((2, 3)))


class OptionA(nn.Module):
    """A CIFAR ResNet with shortcuts that have no weights: strided, padded with zero channels."""

    class Block(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(before, after, 3, stride=after // before, padding=1, bias=False)
            self.bn1, self.bn2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
            self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            extra = out.shape[1] - x.shape[1]
            if extra:
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra // 2, extra // 2))
            return F.relu(out + x)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(self.Block(8, 8), self.Block(8, 8))
        self.layer2 = nn.Sequential(self.Block(8, 16), self.Block(16, 16))
        self.layer3 = nn.Sequential(self.Block(16, 32), self.Block(32, 32))
        self.linear = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(x, x.shape[2]).flatten(1))


class Wrapped(nn.Module):
    """A backbone that gives vectors, and a head beside it."""

    def __init__(self) -> None:
        super().__init__()
        import torchvision

        self.backbone = torchvision.models.resnet18(num_classes=10)
        self.backbone.fc = nn.Identity()
        self.head = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


class AllConv(nn.Sequential):
    """Ends in a 1x1 convolution; `pooled` says whether the average comes before it."""

    def __init__(self, pooled: bool) -> None:
        head: list[nn.Module] = [nn.Conv2d(16, 10, 1), nn.AdaptiveAvgPool2d(1)]
        stride = [nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()]
        super().__init__(
            nn.Conv2d(3, 8, 3), nn.ReLU(), *stride, *(head[::-1] if pooled else head), nn.Flatten()
        )


def torchvision_net(name: str) -> StagedNet:
    torch.manual_seed(0)
    return build(f"torchvision/{name}", 10)


# name -> how it is made, image side, names, channels and height of the stages, preacts known, final shown
CASES: dict[str, Any] = {
    "resnet18": (
        lambda: torchvision_net("resnet18"),
        32,
        ("layer1", "layer2", "layer3", "layer4"),
        [(64, 8), (128, 4), (256, 2), (512, 1)],
        True,
        True,
    ),
    "vgg11_bn": (
        lambda: torchvision_net("vgg11_bn"),
        32,
        ("features.2", "features.6", "features.13", "features.20", "features.27"),
        [(64, 32), (128, 16), (256, 8), (512, 4), (512, 2)],
        True,
        False,  # its embedding is the output of hidden layers
    ),
    "mobilenet_v3_small": (
        lambda: torchvision_net("mobilenet_v3_small"),
        64,
        ("features.1", "features.3", "features.8", "features.11"),
        [(16, 16), (24, 8), (48, 4), (96, 2)],
        False,
        False,
    ),
    "vit": (
        lambda: tap(tiny_vit()),
        32,
        tuple(f"encoder.layers.encoder_layer_{i}" for i in (1, 2, 3, 4)),  # quarters of five blocks
        [(32, 4)] * 4,
        False,
        False,
    ),
    "swin": (lambda: tap(tiny_swin()), 64, ("features.1", "features.3"), [(16, 16), (32, 8)], False, True),
    "functional": (
        lambda: tap(Functional()),
        32,
        ("conv1", "bn", "conv3"),
        [(8, 32), (12, 16), (16, 8)],
        True,
        True,
    ),
    "in-place": (lambda: tap(InPlace()), 32, ("bn2", "down"), [(8, 32), (16, 16)], True, True),
    "option A": (
        lambda: tap(OptionA()),
        32,
        ("layer1", "layer2", "layer3"),
        [(8, 32), (16, 16), (32, 8)],
        True,
        True,
    ),
    "wrapped": (
        lambda: tap(Wrapped()),
        64,
        tuple(f"backbone.layer{i}" for i in (1, 2, 3, 4)),
        [(64, 16), (128, 8), (256, 4), (512, 2)],
        True,
        True,
    ),
    "1x1 convolution, then average": (
        lambda: tap(AllConv(False)),
        32,
        ("1", "3"),
        [(8, 30), (16, 15)],
        True,
        True,
    ),
    "average, then 1x1 convolution": (
        lambda: tap(AllConv(True)),
        32,
        ("1", "3"),
        [(8, 30), (16, 15)],
        True,
        True,
    ),
}


def pictures(side: int, count: int = 3) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(5))


def stir(net: nn.Module) -> nn.Module:
    """Running statistics and norms that are not 0 and 1, so that mistakes show."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.7, 1.3)
            nn.init.uniform_(m.bias, -0.3, 0.3)
            m.running_mean.normal_(0, 0.1)
    return net

"""Networks by name: the CIFAR networks of the distillation literature, and any of torchvision or timm."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from kdlab.errors import ConfigError, unknown_name
from kdlab.models.features import StagedNet
from kdlab.models.mobilenet import MobileNetV2
from kdlab.models.resnet import ResNet, ResNet50
from kdlab.models.shufflenet import ShuffleV1, ShuffleV2
from kdlab.models.tapping import tap
from kdlab.models.vgg import DEPTHS, VGG
from kdlab.models.wide_resnet import WideResNet


@dataclass(frozen=True)
class Network:
    """A CIFAR network: how it is made, and facts for tables (100 classes, 3x32x32 pixels)."""

    family: str
    make: Callable[..., StagedNet]
    parameters: int
    stages: tuple[tuple[int, int], ...]  # channels, height = width
    embedding: int
    smallest: int = 1


def _networks() -> dict[str, Network]:
    thin, wide = ((16, 32), (32, 16), (64, 8)), ((64, 32), (128, 16), (256, 8))
    two = ((32, 32), (64, 16), (128, 8))
    vgg = ((128, 16), (256, 8), (512, 4), (512, 4))
    resnets = {8: 83892, 14: 181108, 20: 278324, 32: 472756, 44: 667188, 56: 861620, 110: 1736564}
    wrns = {(16, 1): 180916, (16, 2): 703284, (40, 1): 569780, (40, 2): 2255156}
    vggs = {8: 3965028, 11: 9277284, 13: 9462180, 16: 14774436, 19: 20086692}
    out = {f"resnet{d}": Network("ResNet", partial(ResNet, d), n, thin, 64) for d, n in resnets.items()}
    for d, n in {8: 1233540, 32: 7433860}.items():
        out[f"resnet{d}x4"] = Network("ResNet", partial(ResNet, d, (32, 64, 128, 256)), n, wide, 256)
    deep = ((256, 32), (512, 16), (1024, 8), (2048, 4))
    out["ResNet50"] = Network("ResNet", ResNet50, 23705252, deep, 2048)
    for (d, k), n in wrns.items():
        maps = thin if k == 1 else two
        out[f"wrn_{d}_{k}"] = Network("Wide ResNet", partial(WideResNet, d, k), n, maps, maps[-1][0])
    for d, n in vggs.items():
        out[f"vgg{d}"] = Network("VGG", partial(VGG, DEPTHS[d]), n, vgg, 512, smallest=8)
    mobile = ((12, 16), (16, 8), (48, 4), (160, 2))
    out["MobileNetV2"] = Network("MobileNet", MobileNetV2, 812836, mobile, 1280)
    out["ShuffleV1"] = Network("ShuffleNet", ShuffleV1, 949258, ((240, 16), (480, 8), (960, 4)), 960)
    out["ShuffleV2"] = Network("ShuffleNet", ShuffleV2, 1355528, ((116, 16), (232, 8), (464, 4)), 1024)
    return out


NETWORKS = _networks()


def names() -> list[str]:
    """Names of the CIFAR networks. `build` also knows "torchvision/NAME" and "timm/NAME".

    >>> kdlab.models.names()[:3], len(kdlab.models.names())
    (['resnet8', 'resnet14', 'resnet20'], 22)
    """
    return list(NETWORKS)


def table() -> list[dict[str, Any]]:
    """A row per CIFAR network, for 100 classes and 32x32 pixels.

    Keys: name, family, parameters, stages (text, c x h x w of each), embedding (width), and
    smallest_image (the least height and width in pixels).

    >>> row = next(row for row in kdlab.models.table() if row["name"] == "resnet8")
    >>> row["parameters"], row["stages"]
    (83892, '16x32x32, 32x16x16, 64x8x8')
    """
    return [
        {
            "name": name,
            "family": n.family,
            "parameters": n.parameters,
            "stages": ", ".join(f"{c}x{h}x{h}" for c, h in n.stages),
            "embedding": n.embedding,
            "smallest_image": n.smallest,
        }
        for name, n in NETWORKS.items()
    ]


def canonical(name: str) -> str:
    """The one spelling of a network's name: "WRN-40-2" is "wrn_40_2". Names of libraries stay as they are.

    Raises:
        UnknownNameError: no CIFAR network has this name; the nearest are listed.

    >>> kdlab.models.canonical("WRN-40-2"), kdlab.models.canonical("ResNet 8x4")
    ('wrn_40_2', 'resnet8x4')
    """
    library, slash, inner = str(name).partition("/")
    if slash and library.lower() in _LIBRARIES:
        return f"{library.lower()}/{inner}"
    known = {_squeeze(n): n for n in NETWORKS}
    if _squeeze(str(name)) not in known:
        raise unknown_name("network", name, [*NETWORKS, "torchvision/NAME", "timm/NAME"])
    return known[_squeeze(str(name))]


def build(name: str, num_classes: int = 100, in_channels: int = 3, **kwargs: Any) -> StagedNet:
    """A new network with random weights.

    Args:
        name: one of `names()`, in any case and with any separators ("WRN-40-2"), or
            "torchvision/NAME" or "timm/NAME" for a classifier of these libraries.
        num_classes: K, at least 2.
        in_channels: channels of the images.
        kwargs: for torchvision and timm only: `stages`, `classifier` and `input_shape` go to `tap`,
            the rest to the library.

    Raises:
        ConfigError: an unknown name (the nearest are listed), a number that makes no sense, or
            timm is not installed.

    >>> net = kdlab.models.build("ResNet-8", num_classes=10, in_channels=1)
    >>> net(torch.zeros(2, 1, 8, 8)).shape  # logits of two grey pictures of 8 x 8 pixels
    torch.Size([2, 10])
    >>> tuple(net.features(torch.zeros(2, 1, 8, 8)).embedding.shape)
    (2, 64)
    """
    for label, value, least in (("num_classes", num_classes, 2), ("in_channels", in_channels, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{label} is a whole number of at least {least}, not {value!r}.")
    library, slash, inner = str(name).partition("/")
    if slash and library.lower() in _LIBRARIES:
        tapping = {k: kwargs.pop(k) for k in ("stages", "classifier", "input_shape") if k in kwargs}
        module = _LIBRARIES[library.lower()](inner, num_classes, in_channels, kwargs)
        return tap(module, **tapping)
    full = canonical(name)
    if kwargs:
        option = next(iter(kwargs))
        raise ConfigError(f"{full} has no option {option!r}; it takes num_classes and in_channels.")
    return NETWORKS[full].make(num_classes=num_classes, in_channels=in_channels)


def _squeeze(name: str) -> str:
    """The name without case and separators, and under its short form."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return plain.replace("wideresnet", "wrn").replace("shufflenet", "shuffle")


def _torchvision(name: str, num_classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    name = name.lower()
    if name not in known:
        raise unknown_name("torchvision classifier", name, known)
    if name in ("googlenet", "inception_v3"):  # their auxiliary heads make the output a tuple
        options = {"aux_logits": False, "init_weights": True, **options}
    module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    if in_channels != 3:
        _change_input(module, in_channels)
    return module


def _change_input(module: nn.Module, in_channels: int) -> None:
    """Put a new first convolution in, with weights drawn as widely as those of the old one."""
    path, old = next((p, m) for p, m in module.named_modules() if isinstance(m, nn.Conv2d))
    options = {k: getattr(old, k) for k in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
    new = nn.Conv2d(in_channels, old.out_channels, bias=old.bias is not None, **options)
    nn.init.normal_(new.weight, 0.0, float(old.weight.detach().std()))
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    parent, _, child = path.rpartition(".")
    setattr(module.get_submodule(parent), child, new)


def _timm(name: str, num_classes: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"'timm/{name}' needs the package timm; install it: pip install timm") from error
    known = timm.list_models()
    if name not in known:
        raise unknown_name("timm network", name, known)
    return timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_channels, **options)


_LIBRARIES = {"torchvision": _torchvision, "timm": _timm}

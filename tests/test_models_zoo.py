"""The CIFAR networks: keys, shapes, counts, and what `features` shows."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdlab.errors import ConfigError, UnknownNameError
from kdlab.models import Features, StagedNet, build, canonical, inspect_net, names, table
from kdlab.models.zoo import NETWORKS

MANIFEST: dict[str, Any] = json.loads((Path(__file__).parent / "test_models_manifest.json").read_text())[
    "nets"
]
FAMILIES = ["resnet8", "resnet8x4", "wrn_16_1", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"]


def manifest_state(name: str) -> list[tuple[str, tuple[int, ...]]]:
    """Keys and shapes as the manifest's note says to expand them."""
    out: list[tuple[str, tuple[int, ...]]] = []
    for module, kind, *shape in MANIFEST[name]["modules"]:
        if kind == "bn":
            parts = ("weight", "bias", "running_mean", "running_var")
            out += [(f"{module}.{part}", (shape[0],)) for part in parts]
            out.append((f"{module}.num_batches_tracked", ()))
        else:
            out.append((f"{module}.weight", tuple(shape)))
            if kind.endswith("+b"):
                out.append((f"{module}.bias", (shape[0],)))
    return out


@cache
def shared(name: str) -> StagedNet:
    """One network of each name for the tests that leave it as it is; BatchNorm is given something to do."""
    torch.manual_seed(0)
    net = build(name)
    generator = torch.Generator().manual_seed(1)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1, generator=generator)
            m.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(m.weight, 0.8, 1.2)
            nn.init.uniform_(m.bias, -0.2, 0.2)
    return net.eval()


@cache
def shown(name: str) -> Features:
    with torch.no_grad():
        return shared(name).features(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)))


def test_every_network_of_the_manifest_is_there() -> None:
    assert set(names()) == set(MANIFEST)
    assert len(names()) == 22


@pytest.mark.parametrize("name", MANIFEST)
def test_keys_shapes_and_counts_are_the_public_ones(name: str) -> None:
    net = shared(name)
    assert [(k, tuple(v.shape)) for k, v in net.state_dict().items()] == manifest_state(name)
    assert sum(p.numel() for p in net.parameters()) == MANIFEST[name]["params"]


@pytest.mark.parametrize("name", MANIFEST)
def test_maps_have_the_shapes_of_the_manifest(name: str) -> None:
    seen = shown(name)
    assert seen.stem is not None and seen.preacts is not None
    shapes = [list(t.shape[1:]) for t in (seen.stem, *seen.stages, seen.embedding)]
    assert shapes == MANIFEST[name]["feats"]
    assert [p.shape for p in seen.preacts] == [s.shape for s in seen.stages]
    assert len(shared(name).stage_names) == len(seen.stages)
    modules = dict(shared(name).named_modules())
    assert all(stage in modules for stage in shared(name).stage_names)


@pytest.mark.parametrize("name", MANIFEST)
def test_classifier_final_and_preacts_tell_the_truth(name: str) -> None:
    net, seen = shared(name), shown(name)
    assert seen.final is not None and seen.preacts is not None
    assert isinstance(net.classifier, nn.Linear)
    torch.testing.assert_close(net.classifier(seen.embedding), seen.logits)
    torch.testing.assert_close(seen.final.mean((2, 3)), seen.embedding)
    for preact, stage in zip(seen.preacts, seen.stages):
        if name == "MobileNetV2":  # its bottlenecks end without an activation
            assert torch.equal(preact, stage) and float(stage.min()) < 0
        else:
            assert torch.equal(preact.relu(), stage) and float(preact.min()) < 0
    if name not in ("MobileNetV2", "ShuffleV2"):
        assert seen.final is seen.stages[-1]


def test_facts_of_the_table_hold() -> None:
    rows = {row["name"]: row for row in table()}
    assert list(rows) == names()
    for name, row in rows.items():
        assert row["parameters"] == MANIFEST[name]["params"]
        assert row["stages"] == ", ".join("x".join(map(str, s)) for s in MANIFEST[name]["feats"][1:-1])
        assert row["embedding"] == MANIFEST[name]["feats"][-1][0]


@pytest.mark.parametrize("name", FAMILIES)
def test_batchnorm_is_updated_once_and_by_features_as_by_forward(name: str) -> None:
    x = torch.randn(2, 3, 32, 32)
    one = copy.deepcopy(shared(name)).train()
    other = copy.deepcopy(one)
    logits = one(x)
    seen = other.features(x)
    assert torch.equal(logits, seen.logits)
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
        if key.endswith("num_batches_tracked"):
            assert value == 1, key


@pytest.mark.parametrize("name", FAMILIES)
def test_shown_maps_lie_on_the_way_to_the_logits(name: str) -> None:
    net = copy.deepcopy(shared(name)).train()
    seen = net.features(torch.randn(2, 3, 16, 16))
    assert seen.preacts is not None and seen.stem is not None and seen.final is not None
    maps = [seen.stem, *seen.stages, *seen.preacts, seen.final, seen.embedding]
    values = [m.detach().clone() for m in maps]
    gradients = torch.autograd.grad(seen.logits.square().sum(), maps)
    assert all(float(g.abs().sum()) > 0 for g in gradients)
    assert all(torch.equal(m, v) for m, v in zip(maps, values))  # nothing was written over


def test_wide_resnet_shows_the_next_blocks_activation() -> None:
    """Against the definition, computed from the raw block sums that forward hooks see."""
    net = shared("wrn_16_2")
    raw: dict[str, torch.Tensor] = {}
    hooks = [
        net.get_submodule(n).register_forward_hook(lambda _m, _a, out, n=n: raw.__setitem__(n, out))
        for n in net.stage_names
    ]
    with torch.no_grad():
        seen = net.features(torch.randn(2, 3, 32, 32))
        norms = ["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"]
        for stage, block, norm in zip(seen.stages, net.stage_names, norms):
            torch.testing.assert_close(stage, net.get_submodule(norm)(raw[block]).relu())
    for hook in hooks:
        hook.remove()
    assert float(raw["block3"].min()) < 0


SIZES = [(1, 8), (1, 28), (3, 64)]


@pytest.mark.parametrize("name", [*FAMILIES, "ResNet50"])
@pytest.mark.parametrize(("channels", "size"), SIZES)
def test_small_and_large_images(name: str, channels: int, size: int) -> None:
    net = build(name, num_classes=10, in_channels=channels).train()
    x = torch.randn(2, channels, size, size)
    seen = net.features(x)
    assert seen.logits.shape == (2, 10)
    assert seen.final is not None
    torch.testing.assert_close(seen.final.mean((2, 3)), seen.embedding)
    seen.logits.sum().backward()
    spec = inspect_net(net, (channels, size, size))
    assert spec.num_classes == 10 and spec.embedding_dim == seen.embedding.shape[1]
    assert all(p.grad is not None for p in net.parameters())


def test_vgg_halves_its_maps_once_more_for_64_pixels() -> None:
    net = build("vgg8", 10)
    assert inspect_net(net, (3, 32, 32)).stages[-1] == (512, 4, 4)
    assert inspect_net(net, (3, 64, 64)).stages[-1] == (512, 4, 4)
    assert inspect_net(net, (3, 48, 48)).stages[-1] == (512, 6, 6)


def test_images_that_do_not_fit_are_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"at least 8x8 pixels, not 7x9.*resnet"):
        build("vgg8")(torch.zeros(1, 3, 7, 9))
    with pytest.raises(ConfigError, match=r"\(B, 3, H, W\), not \(2, 1, 8, 8\).*in_channels"):
        build("resnet8")(torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("wrn-40-2", "wrn_40_2"),
        ("WRN_40_2", "wrn_40_2"),
        ("WideResNet-16-1", "wrn_16_1"),
        ("mobilenetv2", "MobileNetV2"),
        ("mobilenet_v2", "MobileNetV2"),
        ("shufflenet-v1", "ShuffleV1"),
        ("ShuffleNetV2", "ShuffleV2"),
        ("ResNet-8x4", "resnet8x4"),
        ("resnet50", "ResNet50"),
    ],
)
def test_names_are_read_kindly(written: str, meant: str) -> None:
    assert canonical(written) == meant
    keys = list(build(written).state_dict())
    assert keys == [key for key, _ in manifest_state(meant)]


def test_unknown_names_and_numbers() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'resnet8'"):
        build("resnet9")
    with pytest.raises(UnknownNameError, match="did you mean 'vgg1"):
        canonical("vgg12")
    assert canonical("Torchvision/resnet18") == "torchvision/resnet18"
    with pytest.raises(ConfigError, match="num_classes is a whole number of at least 2, not 1"):
        build("resnet8", num_classes=1)
    with pytest.raises(ConfigError, match=r"in_channels .* not 2\.5"):
        build("resnet8", in_channels=2.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no option 'depth'"):
        build("resnet8", depth=3)


def test_initialisation_follows_the_public_code() -> None:
    torch.manual_seed(0)
    resnet, wrn, vgg = build("resnet32x4"), build("wrn_40_2"), build("vgg13")
    for net, conv in (
        (resnet, "layer3.1.conv1"),
        (wrn, "block3.layer.1.conv1"),
        (vgg, "block3.0"),
    ):
        weight = net.get_submodule(conv).weight.detach()
        assert float(weight.std()) == pytest.approx((2 / (9 * weight.shape[0])) ** 0.5, rel=0.02)
        assert abs(float(weight.mean())) < 1e-3
    assert float(vgg.classifier.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert torch.all(wrn.classifier.bias == 0)
    depthwise = build("MobileNetV2").get_submodule("blocks.5.1.conv.3").weight.detach()
    # The public code counts 3 * 3 * out_channels for depthwise convolutions too.
    assert float(depthwise.std()) == pytest.approx((2 / (9 * depthwise.shape[0])) ** 0.5, rel=0.05)


def test_equal_seeds_give_equal_networks_and_copies_are_independent() -> None:
    torch.manual_seed(3)
    one = build("ShuffleV2", 10)
    torch.manual_seed(3)
    other = build("ShuffleV2", 10)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
    vgg = build("vgg8", 10)
    twin = copy.deepcopy(vgg)
    with torch.no_grad():
        twin.classifier.bias.add_(1)
    assert not torch.equal(vgg.classifier.bias, twin.classifier.bias)


def test_hooks_see_plain_tensors() -> None:
    """Attribution tools hook stages; a stage that gave pairs would break them."""
    net = build("resnet8", 10).eval()
    outputs: list[Any] = []
    net.get_submodule("layer2").register_forward_hook(lambda _m, _a, out: outputs.append(out))
    seen = net.features(torch.randn(1, 3, 16, 16))
    assert outputs[0] is seen.stages[1]


def test_registry_is_consistent() -> None:
    assert {n.family for n in NETWORKS.values()} == {
        "ResNet",
        "Wide ResNet",
        "VGG",
        "MobileNet",
        "ShuffleNet",
    }

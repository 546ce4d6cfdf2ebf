"""Networks of other people: what is shown of them, and that they are left as they are."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlab.errors import ConfigError, UnknownNameError
from kdlab.models import Features, StagedNet, Tapped, build, inspect_net, tap
from kdlab.models.maps import from_map, to_map


def tiny_vit() -> nn.Module:
    import torchvision

    net = torchvision.models.VisionTransformer(32, 8, num_layers=5, num_heads=2, hidden_dim=32, mlp_dim=48, num_classes=10)
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
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
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
        super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), *stride, *(head[::-1] if pooled else head), nn.Flatten())


def torchvision_net(name: str) -> StagedNet:
    torch.manual_seed(0)
    return build(f"torchvision/{name}", 10)


# name -> (how it is made, image side, stage names, channels and height of the stages, preacts known, final shown)
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
        tuple(f"encoder.layers.encoder_layer_{i}" for i in (1, 2, 3, 4)),
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
    "in-place": (lambda: tap(InPlace()), 32, ("bn1", "down"), [(8, 32), (16, 16)], True, True),
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
    "1x1 convolution, then average": (lambda: tap(AllConv(False)), 32, ("1", "3"), [(8, 30), (16, 15)], True, True),
    "average, then 1x1 convolution": (lambda: tap(AllConv(True)), 32, ("1", "3"), [(8, 30), (16, 15)], True, True),
}
CASES["in-place"] = (CASES["in-place"][0], 32, ("relu", "down"), [(8, 32), (16, 16)], True, True)


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


def check(net: StagedNet, seen: Features, logits: Tensor) -> None:
    """What holds of every network in every mode."""
    torch.testing.assert_close(seen.logits, logits)
    torch.testing.assert_close(net.classifier(seen.embedding), seen.logits, rtol=1e-4, atol=1e-5)
    assert len(net.stage_names) == len(seen.stages)
    assert all(s.dim() == 4 for s in seen.stages)


@pytest.mark.parametrize("case", CASES)
def test_foreign_networks_show_their_stages(case: str) -> None:
    make, side, names, shapes, preacts, final = CASES[case]
    net = stir(make()).eval()
    assert isinstance(net, Tapped)
    x = pictures(side)
    with torch.no_grad():
        logits, seen = net(x), net.features(x)
    check(net, seen, logits)
    assert net.stage_names == names
    assert [(s.shape[1], s.shape[2]) for s in seen.stages] == shapes
    assert (seen.preacts is not None) == preacts
    assert (seen.final is not None) == final
    if final:
        torch.testing.assert_close(seen.final.mean((2, 3)), seen.embedding, rtol=1e-4, atol=1e-6)
    if preacts and case != "functional":
        for before, after in zip(seen.preacts, seen.stages):
            assert torch.equal(before.relu(), after) and float(before.min()) < 0
    with torch.inference_mode():
        assert torch.equal(net.features(x).stages[0], seen.stages[0])


@pytest.mark.parametrize("case", CASES)
def test_training_through_features_equals_training_without(case: str) -> None:
    """Same logits, same gradients of all parameters, same BatchNorm statistics, in training mode."""
    make, side, *_ = CASES[case]
    plain = stir(make()).train()
    tapped = copy.deepcopy(plain)
    x = pictures(max(side, 64) if case == "resnet18" else side)
    torch.manual_seed(7)
    logits = plain(x)
    torch.manual_seed(7)  # the same dropout
    seen = tapped.features(x)
    check(tapped, seen, logits)
    gradients = torch.autograd.grad(seen.logits.square().sum(), seen.stages, retain_graph=True, materialize_grads=True)
    assert all(float(g.abs().sum()) > 0 for g in gradients), "a shown map does not lead to the logits"
    logits.square().sum().backward()
    seen.logits.square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), tapped.parameters()):
        if a.grad is not None or b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for (name, a), b in zip(plain.named_buffers(), tapped.buffers()):
        assert torch.equal(a, b), name
        assert not name.endswith("num_batches_tracked") or a == 1


@pytest.mark.parametrize("case", ["resnet18", "functional", "vit"])
def test_tapping_leaves_no_trace(case: str) -> None:
    net = CASES[case][0]().module
    stir(net).train()
    next(m for m in net.modules() if not list(m.children())).eval()  # a frozen part stays frozen
    before = copy.deepcopy(net.state_dict())
    modes = [m.training for m in net.modules()]
    random_state = torch.get_rng_state()
    tapped = tap(net)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    tapped.features(pictures(CASES[case][1]))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    with pytest.raises(RuntimeError):
        tapped.features(torch.randn(2, 7, 32, 32))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_in_place_network_shows_true_values_and_gradients() -> None:
    """Against the same arithmetic written out of place."""
    torch.manual_seed(0)
    net = stir(InPlace()).eval()
    x = pictures(16)
    first_pre = net.bn1(net.conv1(x))
    first = first_pre.relu()
    normed = net.bn2(net.conv2(first))
    total = normed + first
    last_pre = net.down(total.relu())
    last = last_pre.relu()
    logits = net.fc(last.mean((2, 3)))

    seen = tap(net).features(x)
    assert tap(net).stage_names == ("relu", "down")
    assert seen.preacts is not None
    pairs = [(total.relu(), seen.stages[0]), (total, seen.preacts[0]), (last, seen.stages[1])]
    for expected, got in [*pairs, (last_pre, seen.preacts[1]), (logits, seen.logits)]:
        torch.testing.assert_close(got, expected)

    named = tap(net, stages=["bn2", "bn1"])  # bn2 is overwritten by `out +=`, bn1 by its ReLU
    assert named.stage_names == ("bn1", "bn2")
    shown = named.features(x)
    torch.testing.assert_close(shown.stages[0], first)
    torch.testing.assert_close(shown.stages[1], normed)
    expected_gradients = torch.autograd.grad(logits.square().sum(), [first, normed])
    gradients = torch.autograd.grad(shown.logits.square().sum(), shown.stages)
    for got, expected in zip(gradients, expected_gradients):
        torch.testing.assert_close(got, expected)
    assert named.features(x).preacts is None  # nothing activates the output of bn2 by itself


def test_preacts_carry_gradients_to_the_layers_before() -> None:
    net = stir(InPlace()).eval()
    seen = tap(net).features(pictures(16))
    assert seen.preacts is not None
    gradient = torch.autograd.grad(seen.preacts[-1].sum(), net.down.bias)[0]
    # Each bias adds to every pixel of its map: 3 images of 8x8 pixels.
    torch.testing.assert_close(gradient, torch.full((16,), 192.0))


def test_dropout_in_place_does_not_spoil_what_is_shown() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout(0.5, inplace=True), nn.Conv2d(8, 9, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 5),
    )  # fmt: skip
    x = pictures(16)
    seen = tap(net).train().features(x)
    torch.testing.assert_close(seen.stages[0], net[0](x).relu())


def test_tokens_become_maps_without_the_class_token() -> None:
    torch.manual_seed(0)
    net = tiny_vit().eval()
    x = pictures(32)
    outputs: list[Tensor] = []
    net.encoder.layers[1].register_forward_hook(lambda _m, _a, out: outputs.append(out))
    seen = tap(net).features(x)
    tokens, maps = outputs[-1], seen.stages[0]
    assert tokens.shape == (3, 17, 32) and maps.shape == (3, 32, 4, 4)
    for row, column in ((0, 0), (1, 2), (3, 3)):
        torch.testing.assert_close(maps[:, :, row, column], tokens[:, 1 + 4 * row + column])


@pytest.mark.parametrize(
    ("shape", "image", "map_shape"),
    [
        ((2, 5, 8, 8), (32, 32), (2, 5, 8, 8)),
        ((2, 8, 8, 5), (32, 32), (2, 5, 8, 8)),  # channels last
        ((2, 16, 5), (32, 32), (2, 5, 4, 4)),
        ((2, 17, 5), (32, 32), (2, 5, 4, 4)),  # class token
        ((2, 32, 5), (32, 64), (2, 5, 4, 8)),
        ((2, 33, 5), (64, 32), (2, 5, 8, 4)),
    ],
)
def test_layouts_round_trip(shape: tuple[int, ...], image: tuple[int, int], map_shape: tuple[int, ...]) -> None:
    out = torch.randn(shape)
    maps = to_map(out, image)
    assert maps is not None and maps.shape == map_shape
    assert torch.equal(from_map(maps, out, image), out)


def test_what_is_no_map() -> None:
    assert to_map(torch.randn(2, 15, 5), (32, 32)) is None
    assert to_map(torch.randn(2, 15), (32, 32)) is None


def test_conv_classifier_is_a_linear_layer() -> None:
    net = tap(AllConv(pooled=True))
    classifier = net.classifier
    assert (classifier.in_features, classifier.out_features) == (16, 10)
    assert classifier.weight.shape == (10, 16) and classifier.bias.shape == (10,)
    assert not any("classifier" in key for key in net.state_dict())
    embedding = torch.randn(2, 16, requires_grad=True)
    torch.testing.assert_close(classifier(embedding), embedding @ classifier.weight.T + classifier.bias)


def test_networks_without_maps_have_no_stages() -> None:
    net = tap(nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10)), input_shape=(1, 8, 8))
    seen = net.features(torch.randn(4, 1, 8, 8))
    assert seen.stages == () and seen.final is None and seen.stem is None and seen.preacts is None
    assert seen.embedding.shape == (4, 20)


def test_small_images_do_not_merge_stages() -> None:
    net = tap(OptionA(), input_shape=(3, 8, 8))
    assert net.stage_names == ("layer1", "layer2", "layer3")
    assert inspect_net(net, (3, 8, 8)).stages == ((8, 8, 8), (16, 4, 4), (32, 2, 2))


def test_plain_chain_of_one_resolution_is_cut_at_widths() -> None:
    convs = [(3, 8), (8, 8), (8, 16), (16, 24)]
    layers = [m for a, b in convs for m in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU())]
    net = tap(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)))
    assert net.stage_names == ("3", "5", "7")


def test_a_staged_net_is_its_own_tap() -> None:
    net = build("wrn_16_1", 10)
    assert tap(net) is net
    own = tap(build("MobileNetV2", 10), stages=["blocks.2", "blocks.5"])
    assert [s.shape[1] for s in own.features(pictures(32)).stages] == [16, 80]
    assert own.classifier_name == "classifier.0"


def test_other_input_channels() -> None:
    net = build("torchvision/resnet18", 10, in_channels=1)
    assert net.features(torch.randn(2, 1, 28, 28)).logits.shape == (2, 10)


def test_timm_networks() -> None:
    pytest.importorskip("timm")
    for name, side in (("test_resnet", 64), ("test_vit", 160)):
        net = build(f"timm/{name}", 10, 1).eval()
        x = torch.randn(2, 1, side, side)
        with torch.no_grad():
            check(net, net.features(x), net(x))
        assert len(net.stage_names) == 4
    with pytest.raises(UnknownNameError, match="test_resnet"):
        build("timm/test_resnett")


def test_timm_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ConfigError, match="pip install timm"):
        build("timm/resnet18")


# ---- what is refused -----------------------------------------------------------------------------


class Returns(nn.Module):
    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what, self.conv, self.fc = what, nn.Conv2d(3, 4, 3), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Any:
        maps = self.conv(x)
        return self.what(self.fc(maps.mean((2, 3))), maps)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda z, m: (z, m), r"returns a tuple.*wrap it"),
        (lambda z, m: {"logits": z}, r"returns a dict.*wrap it"),
        (lambda z, m: m, r"shape \(2, 4, 62, 62\).*\(B, K\)"),
        (lambda z, m: z.log_softmax(1), r"applies log_softmax to the output of 'fc'"),
        (lambda z, m: z.softmax(1), r"applies softmax to the output of 'fc'"),
        (lambda z, m: z.relu(), r"No linear layer of the network gives its logits"),
    ],
)
def test_modules_that_do_not_give_logits(what: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tap(Returns(what))


def test_wrong_names_are_answered_with_the_nearest() -> None:
    net = InPlace()
    with pytest.raises(UnknownNameError, match="did you mean 'conv1'"):
        tap(net, stages=["conv11"])
    with pytest.raises(UnknownNameError, match=r"did you mean 'fc\.1'"):
        tap(net, classifier="fc.2")
    with pytest.raises(ConfigError, match="'conv1' is not the classifier"):
        tap(net, classifier="conv1")
    with pytest.raises(ConfigError, match=r"'fc\.1' is of shape \(2, 10\), not maps"):
        tap(net, stages=["fc.1"])


def test_wrong_sizes() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 10 * 10, 10))
    with pytest.raises(ConfigError, match=r"does not take images of 1x224x224: .*input_shape=\(C, H, W\)"):
        tap(net)
    assert tap(net, input_shape=(1, 12, 12)).stage_names == ("1",)
    with pytest.raises(ConfigError, match="input_shape is"):
        tap(net, input_shape=(28, 28))
    with pytest.raises(ConfigError, match=r"needs a torch\.nn\.Module, not str"):
        tap("resnet18")  # type: ignore[arg-type]


def test_auxiliary_heads_in_training_mode_are_refused_clearly() -> None:
    class Auxiliary(Returns):
        def forward(self, x: Tensor) -> Any:
            z = super().forward(x)
            return (z, z) if self.training else z

    net = tap(Auxiliary(lambda z, m: z)).train()
    with pytest.raises(ConfigError, match="in training mode"):
        net.features(pictures(32))

"""Networks of other people: what is shown of them, and that they are left as they are."""

from __future__ import annotations

import copy

import pytest
import torch
from models_nets import CASES, AllConv, InPlace, OptionA, pictures, stir, tiny_vit
from torch import Tensor, nn

from kdlab.errors import ConfigError, UnknownNameError
from kdlab.models import Features, StagedNet, Tapped, build, inspect_net, tap
from kdlab.models.maps import from_map, to_map


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


@pytest.mark.parametrize("case", [case for case in CASES if case != "vgg11_bn"])  # 130 million weights
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
    gradients = torch.autograd.grad(
        seen.logits.square().sum(), seen.stages, retain_graph=True, materialize_grads=True
    )
    if case == "vit":
        gradients = gradients[:-1]  # behind the last block the logits read the class token alone
    assert all(float(g.abs().sum()) > 0 for g in gradients), "a shown map does not lead to the logits"
    logits.square().sum().backward()
    seen.logits.square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), tapped.parameters()):
        if a.grad is not None or b.grad is not None:
            torch.testing.assert_close(
                a.grad, b.grad, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )
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
    assert tap(net).stage_names == ("bn2", "down")
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
def test_layouts_round_trip(
    shape: tuple[int, ...], image: tuple[int, int], map_shape: tuple[int, ...]
) -> None:
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
    net = tap(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10)), input_shape=(1, 8, 8)
    )
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


def test_a_network_that_would_change_everybodys_pictures_is_refused() -> None:
    class Halving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x.mul_(0.5)
            return self.head(self.conv(x).relu().mean((2, 3)))

    with pytest.raises(ConfigError, match="Halving changes its input in place.*copy"):
        tap(Halving(), input_shape=(3, 8, 8))

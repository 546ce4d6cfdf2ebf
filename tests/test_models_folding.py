"""BatchNorm folded into the layers before it: all that can be, nothing that must not be."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from models_nets import CASES, InPlace, pictures
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from kdlab.errors import ConfigError
from kdlab.models import Features, StagedNet, build, names, tap
from kdlab.models import folding as module
from kdlab.models.folding import fold_batchnorm, foldable

SHAPE = (3, 16, 16)


def norms(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def stirred(net: StagedNet) -> StagedNet:
    """BatchNorm far from the identity, so that a fold that is left out, or done wrongly, shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for m in norms(net):
            m.running_mean.normal_(0, 0.5, generator=generator)
            m.running_var.uniform_(0.25, 4.0, generator=generator)
            m.weight.uniform_(0.3, 1.7, generator=generator)
            m.weight.mul_(torch.randint(0, 2, m.weight.shape, generator=generator) * 2 - 1)  # signs too
            m.bias.normal_(0, 0.5, generator=generator)
    return net.eval()


def show(net: StagedNet, x: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        seen = net.features(x)
        every = {f"stages{i}": t for i, t in enumerate(seen.stages)}
        every |= {f"preacts{i}": t for i, t in enumerate(seen.preacts or ())}
        every |= {"logits": seen.logits, "embedding": seen.embedding, "forward": net(x)}
        every |= {"classified": net.classifier(seen.embedding)}
        return every | {k: t for k in ("stem", "final") if (t := getattr(seen, k)) is not None}


def check_same(net: StagedNet, folded: StagedNet, x: Tensor) -> None:
    before, after = show(net, x), show(folded, x)
    assert before.keys() == after.keys()
    for name, value in before.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(
            after[name], value, rtol=0, atol=2e-5 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


# ---- networks that are known -------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_folded_equals_unfolded_for_every_network(name: str) -> None:
    torch.manual_seed(0)
    net = stirred(build(name, 7))
    folded = fold_batchnorm(net, SHAPE)
    assert len(norms(folded)) < len(norms(net))
    check_same(net, folded, torch.randn(3, *SHAPE))


@pytest.mark.parametrize(
    "name, folded, left",
    [
        ("resnet20", 21, 0),  # 19 convolutions and two projections
        # the second norm of each of the 6 blocks, and the first of all: only that reads the stem,
        # as the shortcut of a block that changes the width starts behind it
        ("wrn_16_2", 7, 6),
        ("wrn_16_1", 6, 7),  # here the first block keeps the width, so its shortcut reads the stem too
        ("vgg8", 5, 0),
    ],
)
def test_how_many_norms_are_folded(name: str, folded: int, left: int) -> None:
    net = build(name, 10)
    assert len(foldable(net, SHAPE)) == folded
    assert len(norms(fold_batchnorm(net, SHAPE))) == left == len(norms(net)) - folded


def test_pairs_are_told_by_path() -> None:
    assert foldable(build("wrn_16_2", 10), SHAPE)[:2] == [
        ("conv1", "block1.layer.0.bn1"),
        ("block1.layer.0.conv1", "block1.layer.0.bn2"),
    ]


@pytest.mark.parametrize("case", [case for case in CASES if case != "vgg11_bn"])  # 130 million weights
def test_tapped_networks_keep_their_taps(case: str) -> None:
    make, side, *_ = CASES[case]
    torch.manual_seed(0)
    net = stirred(make())
    x = pictures(side)
    folded = fold_batchnorm(net, x.shape[1:])
    assert len(norms(folded)) == 0  # each of them has all its norms behind convolutions
    assert folded.stage_names == net.stage_names
    check_same(net, folded, x)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in folded.modules())
    check_same(net, copy.deepcopy(folded), x)


@pytest.mark.parametrize("name", ["efficientnet_b0", "resnetv2_50", "repvgg_a0"])
def test_norms_of_timm_leave_their_activation_behind(name: str) -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    net = stirred(build(f"timm/{name}", 10))
    x = pictures(64, 2)
    folded = fold_batchnorm(net, x.shape[1:])
    assert len(norms(folded)) < len(norms(net)) / 2
    check_same(net, folded, x)


# ---- what must not be folded -------------------------------------------------------------------------


class Small(StagedNet):
    """One stage, made by `body` out of conv, bn and x."""

    stage_names = ("body",)

    def __init__(self, body: Callable[[Small, Tensor], Tensor], track: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6, track_running_stats=track)
        self.other = nn.Conv2d(6, 6, 1)
        self.fc = nn.Linear(6, 4)
        self.body = body

    @property
    def classifier(self) -> nn.Linear:
        return self.fc

    def features(self, x: Tensor) -> Features:
        stage = self.body(self, x).relu()
        embedding = stage.mean((2, 3))
        return Features(self.fc(embedding), embedding, (stage,))


def written_over(net: Small, x: Tensor) -> Tensor:
    y = net.conv(x)
    y += 1.0
    return net.bn(y)


def written_over_later(net: Small, x: Tensor) -> Tensor:
    y = net.conv(x)
    z = net.bn(y)
    y.zero_()
    return z


def seen_through_a_view(net: Small, x: Tensor) -> Tensor:
    y = net.conv(x)
    view = y.view(-1)  # a read that comes before, and whose use comes after
    return net.bn(y) + view.view_as(y)


REFUSED: dict[str, Callable[[Small, Tensor], Tensor]] = {
    "read twice": lambda net, x: (y := net.conv(x)) + net.bn(y),
    "read before": lambda net, x: net.other(y := net.conv(x)) + net.bn(y),
    "read through a view": seen_through_a_view,
    "read behind detach": lambda net, x: net.bn(y := net.conv(x)) + y.detach(),
    "written over": written_over,
    "written over later": written_over_later,
    "layer called twice": lambda net, x: net.bn(net.conv(x)) + net.conv(2 * x),
    "norm called twice": lambda net, x: net.bn(net.other(net.bn(net.conv(x)))),
    "norm of a function": lambda net, x: net.bn(F.conv2d(x, net.conv.weight, padding=1)),
    "another layer in between": lambda net, x: net.bn(net.conv(x).relu()),
}


@pytest.mark.parametrize("case", REFUSED)
def test_is_not_folded(case: str) -> None:
    torch.manual_seed(0)
    net = stirred(Small(REFUSED[case]))  # type: ignore[assignment]
    assert foldable(net, SHAPE) == []
    folded = fold_batchnorm(net, SHAPE)
    assert len(norms(folded)) == 1
    check_same(net, folded, torch.randn(2, *SHAPE))


def plain(net: Small, x: Tensor) -> Tensor:
    return net.other(net.bn(net.conv(x)))


def test_the_plain_case_of_the_same_network_is_folded() -> None:
    net = stirred(Small(plain))
    assert foldable(net, SHAPE) == [("conv", "bn")]
    check_same(net, fold_batchnorm(net, SHAPE), torch.randn(2, *SHAPE))


def test_sizes_may_be_asked_for_without_reading() -> None:
    net = stirred(Small(lambda net, x: net.bn(y := net.conv(x)) * float(y.shape[1] + y.dim())))
    assert foldable(net, SHAPE) == [("conv", "bn")]
    check_same(net, fold_batchnorm(net, SHAPE), torch.randn(2, *SHAPE))


def test_a_norm_without_running_statistics_stays() -> None:
    assert foldable(Small(plain, track=False), SHAPE) == []


def test_a_map_that_is_shown_stays() -> None:
    """The output of a convolution that is itself a stage is not replaced by that of the norm."""

    class Shown(Small):
        def features(self, x: Tensor) -> Features:
            y = self.conv(x)
            stage = self.bn(y)
            embedding = stage.mean((2, 3))
            return Features(self.fc(embedding), embedding, (stage,), preacts=(y,))

    net = stirred(Shown(plain))
    assert foldable(net, SHAPE) == []
    check_same(net, fold_batchnorm(net, SHAPE), torch.randn(2, *SHAPE))
    named = tap(InPlace(), stages=["bn1", "conv2"])
    stirred(named)
    assert [norm for _, norm in foldable(named, SHAPE)] == ["module.bn1"]
    check_same(named, fold_batchnorm(named, SHAPE), pictures(16))


def test_layers_that_make_their_weights_stay() -> None:
    net = stirred(Small(plain))
    weight_norm(net.conv)
    assert foldable(net, SHAPE) == []

    class Centred(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight - self.weight.mean(), self.bias, padding=1)

    net = Small(plain)
    net.conv = Centred(3, 6, 3)
    stirred(net)
    assert foldable(net, SHAPE) == []
    check_same(net, fold_batchnorm(net, SHAPE), torch.randn(2, *SHAPE))


def test_hooks_of_the_user_stay_at_work() -> None:
    net = stirred(Small(plain))
    net.bn.register_forward_hook(lambda m, args, out: out * 3)
    assert foldable(net, SHAPE) == []
    check_same(net, fold_batchnorm(net, SHAPE), torch.randn(2, *SHAPE))


def test_shared_weights_stay_what_they_are_elsewhere() -> None:
    net = Small(lambda net, x: net.bn(net.conv(x)) + net.twin(x))  # type: ignore[operator]
    net.twin = nn.Conv2d(3, 6, 3, padding=1)
    net.twin.weight = net.conv.weight
    stirred(net)
    assert foldable(net, SHAPE) == [("conv", "bn")]
    check_same(net, fold_batchnorm(net, SHAPE), torch.randn(2, *SHAPE))


def test_linear_layers_take_their_norm_too() -> None:
    class Head(Small):
        def __init__(self) -> None:
            super().__init__(plain)
            self.hidden, self.bn1 = nn.Linear(6, 5), nn.BatchNorm1d(5)
            self.fc = nn.Linear(5, 4)

        def features(self, x: Tensor) -> Features:
            stage = self.body(self, x).relu()
            embedding = self.bn1(self.hidden(stage.mean((2, 3)))).relu()
            return Features(self.fc(embedding), embedding, (stage,))

    net = stirred(Head())
    assert foldable(net, SHAPE) == [("conv", "bn"), ("hidden", "bn1")]
    check_same(net, fold_batchnorm(net, SHAPE), torch.randn(2, *SHAPE))


# ---- never a wrong one -------------------------------------------------------------------------------


def test_a_wrong_fold_is_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the finding of pairs at fault, the check on the whole network would still notice."""
    net = stirred(Small(REFUSED["read twice"]))
    honest = module._pairs(stirred(Small(plain)), SHAPE)
    fused = module.fuse_conv_bn_eval(net.conv, net.bn)
    wrong = [module._Pair("conv", "bn", fused, nn.Identity())]
    assert len(honest) == 1
    assert not module._same(net, module._folded(net, wrong), SHAPE)
    monkeypatch.setattr(module, "_pairs", lambda *_: wrong)
    folded = fold_batchnorm(net, SHAPE)
    assert len(norms(folded)) == 1
    check_same(net, folded, torch.randn(2, *SHAPE))


def test_a_network_that_needs_its_norm_gets_it() -> None:
    net = stirred(Small(lambda net, x: net.bn(net.conv(x)) * net.bn.weight.abs().mean()))
    folded = fold_batchnorm(net, SHAPE)
    assert len(norms(folded)) == 1
    check_same(net, folded, torch.randn(2, *SHAPE))


def test_a_network_that_fails_is_copied_as_it_is() -> None:
    def fails(net: Small, x: Tensor) -> Tensor:
        raise RuntimeError("only on Tuesdays")

    net = Small(fails)
    folded = fold_batchnorm(net, SHAPE)
    assert folded is not net and len(norms(folded)) == 1


def test_the_original_is_untouched() -> None:
    net = stirred(build("resnet8", 10)).train()
    net.conv1.eval()  # modes of parts too
    state = copy.deepcopy(net.state_dict())
    modes = [m.training for m in net.modules()]
    random_state = torch.get_rng_state()
    folded = fold_batchnorm(net, SHAPE)
    assert torch.get_rng_state().equal(random_state)
    assert [m.training for m in net.modules()] == modes
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    shared = {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in folded.parameters()}
    assert not shared
    assert not folded.training and not any(p.requires_grad for p in folded.parameters())


def test_nothing_to_fold_gives_an_equal_copy() -> None:
    net = CASES["vit"][0]().eval()
    folded = fold_batchnorm(net, (3, 32, 32))
    assert folded is not net and foldable(net, (3, 32, 32)) == []
    before, after = show(net, pictures(32)), show(folded, pictures(32))
    assert all(torch.equal(after[k], v) for k, v in before.items())


def test_a_network_that_cannot_be_copied_says_why() -> None:
    net = Small(plain)
    net.last = net.conv(torch.zeros(1, *SHAPE))  # a tensor with a graph
    with pytest.raises(ConfigError, match="Small cannot be copied.*torch.no_grad"):
        fold_batchnorm(net, SHAPE)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_network_on_a_gpu_is_folded_there() -> None:
    net = stirred(build("resnet20", 10)).cuda()
    folded = fold_batchnorm(net, SHAPE)
    assert not norms(folded) and next(folded.parameters()).is_cuda
    allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        check_same(net, folded, torch.randn(2, *SHAPE, device="cuda"))
    finally:
        torch.backends.cudnn.allow_tf32 = allowed

"""ReviewKD: worked values, the chain re-derived by hand, ablations, what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from methods_nets import PAIRS, TinyNet, built, make_step, pair, ready, specs
from torch import Tensor, nn
from torch.nn import functional as F

from kdlab.errors import ConfigError
from kdlab.losses import hcl
from kdlab.methods import ReviewKD, Step
from kdlab.methods.reviewkd import FusionBlock
from kdlab.models import inspect_net, tap


def draw(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape).double() * scale


def load(block: FusionBlock, conv1: Tensor, conv2: Tensor, attention: tuple[Tensor, Tensor] | None) -> None:
    with torch.no_grad():
        block.reduce[0].weight.copy_(conv1)
        block.expand[0].weight.copy_(conv2)
        if block.attention is not None and attention is not None:
            block.attention.weight.copy_(attention[0])
            block.attention.bias.copy_(attention[1])  # type: ignore[union-attr]


def norm(value: Tensor, inputs: list[Tensor]) -> float:
    return torch.stack([g.norm() for g in torch.autograd.grad(value, inputs)]).norm().item()


def test_worked_value_of_one_block() -> None:
    torch.manual_seed(0)
    x, y = draw(2, 8, 8, 8).requires_grad_(), draw(2, 16, 4, 4).requires_grad_()
    w1, w2, wa, ba = (draw(*s, scale=0.1) for s in ((16, 8, 1, 1), (12, 16, 3, 3), (2, 32, 1, 1), (2,)))
    block = FusionBlock(8, 16, 12, (8, 8), "attention").double().train()
    load(block, w1, w2, (wa, ba))
    out, passed = block(x, y)
    ramp = torch.arange(out.numel()).double().reshape(out.shape) / out.numel()
    value = out.square().mean() + (out * ramp).mean() + passed.mean()
    assert value.item() == pytest.approx(1.02883, rel=1e-5)
    assert norm(value, [x]) == pytest.approx(0.0078736, rel=1e-5)


def test_worked_value_of_four_levels() -> None:
    torch.manual_seed(0)
    shapes = ((8, 32, 32), (16, 16, 16), (32, 8, 8), (32, 1, 1))
    own = [draw(2, *s).requires_grad_() for s in shapes]
    other = [draw(2, *s) for s in shapes]
    widths = [c for c, _, _ in reversed(shapes)]
    weights = []  # drawn before any block is made: making one draws too
    for number, c in enumerate(widths):
        convs = draw(32, c, 1, 1, scale=0.1), draw(c, 32, 3, 3, scale=0.1)
        attention = (draw(2, 64, 1, 1, scale=0.1), draw(2, scale=0.1)) if number else None
        weights.append((*convs, attention))
    chain: list[FusionBlock] = []
    for (c, h, w), (conv1, conv2, attention) in zip(reversed(shapes), weights):
        block = FusionBlock(c, 32, c, (h, w), "attention" if attention else "none").double().train()
        load(block, conv1, conv2, attention)
        chain.append(block)
    total, x = torch.zeros(()).double(), None
    for block, f, t in zip(chain, reversed(own), reversed(other)):
        out, x = block(f, x)
        total = total + hcl(out, t)
    assert total.item() == pytest.approx(5.21649, rel=1e-5)
    assert norm(total, own) == pytest.approx(2.95609, rel=1e-5)


def bn(x: Tensor) -> Tensor:
    return (x - x.mean((0, 2, 3), keepdim=True)) / (
        x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5
    ).sqrt()


@pytest.mark.parametrize("nets", PAIRS)
def test_the_method_is_the_chain_written_out(nets: str) -> None:
    student, teacher = pair(nets)
    method = built(ReviewKD(), student.double(), teacher.double()).double()
    step = make_step(student, teacher, dtype=torch.float64)
    count = min(len(PAIRS[nets][0]), len(PAIRS[nets][1]))
    own = [step.student.embedding[:, :, None, None], *reversed(step.student.stages[-count:])]
    assert step.teacher.preacts is not None
    other = [step.teacher.embedding[:, :, None, None], *reversed(step.teacher.preacts[-count:])]
    total, x = torch.zeros(()).double(), None
    for block, f, t in zip(method.blocks, own, other):  # type: ignore[arg-type]
        assert isinstance(block, FusionBlock)
        new = bn(F.conv2d(f, block.reduce[0].weight))
        if x is not None:
            assert block.attention is not None
            y = F.interpolate(x, new.shape[2:])
            a = torch.sigmoid(F.conv2d(torch.cat([new, y], 1), block.attention.weight, block.attention.bias))
            new = a[:, 0, None] * new + a[:, 1, None] * y
        x = new if new.shape[2:] == t.shape[2:] else F.interpolate(new, t.shape[2:])
        out = bn(F.conv2d(x, block.expand[0].weight, padding=1))
        levels = [size for size in (4, 2, 1) if size < t.shape[2]]
        errors = [F.mse_loss(out, t)]
        errors += [F.mse_loss(F.adaptive_avg_pool2d(out, n), F.adaptive_avg_pool2d(t, n)) for n in levels]
        weights = [0.5**i for i in range(len(errors))]
        total = total + sum(w * e for w, e in zip(weights, errors)) / sum(weights)
    assert method.losses(step, ["review"])["review"].item() == pytest.approx(total.item(), rel=1e-10)


def test_gradient_reaches_stages_embedding_and_blocks_alone() -> None:
    method, student, teacher = ready("reviewkd")
    step = make_step(student, teacher)
    for t in (*step.student.stages, step.student.embedding, step.student.logits):
        t.retain_grad()
    method.losses(step, ["review"])["review"].backward()
    assert all(t.grad is not None and t.grad.abs().max() > 0 for t in step.student.stages)
    assert step.student.embedding.grad is not None and step.student.logits.grad is None
    assert all(p.grad is not None for p in method.parameters())
    assert all(p.grad is None for p in teacher.parameters()) and student.fc.weight.grad is None


def test_a_shallow_level_trains_the_deeper_ones_only_where_it_is_fused() -> None:
    for fuse, reached in (("attention", True), ("sum", True), ("none", False)):
        student, teacher = pair()
        method = built(ReviewKD(fuse=fuse, pooled=False), student, teacher)  # type: ignore[arg-type]
        step = make_step(student, teacher)
        shallow = method._chain(step.student)[-1]  # type: ignore[operator]
        deepest = method.blocks[0].reduce[0].weight  # type: ignore[index, union-attr]
        (gradient,) = torch.autograd.grad(shallow.square().sum(), deepest, allow_unused=True)
        assert (gradient is not None) == reached


def test_attention_of_zero_and_one() -> None:
    block = FusionBlock(3, 4, 5, (8, 8), "attention").eval()
    x, y = torch.randn(2, 3, 8, 8), torch.randn(2, 4, 4, 4)
    with torch.no_grad():
        assert block.attention is not None and block.attention.bias is not None
        block.attention.weight.zero_()
        block.attention.bias.copy_(torch.tensor([90.0, -90.0]))
        assert torch.allclose(block(x, y)[1], block.reduce(x))
        block.attention.bias.copy_(torch.tensor([-90.0, 90.0]))
        assert torch.allclose(block(x, y)[1], F.interpolate(y, (8, 8)))
    summed = FusionBlock(3, 4, 5, (8, 8), "sum").eval()
    assert summed.attention is None
    assert torch.allclose(summed(x, y)[1], summed.reduce(x) + F.interpolate(y, (8, 8)))


def test_initialisation() -> None:
    block = FusionBlock(300, 200, 100, (4, 4), "attention")
    for conv, fan_in in ((block.reduce[0], 300), (block.expand[0], 1800)):
        assert isinstance(conv, nn.Conv2d) and conv.bias is None
        bound = (3 / fan_in) ** 0.5  # kaiming uniform with a = 1: gain 1
        assert conv.weight.abs().max().item() == pytest.approx(bound, rel=1e-2)
    assert block.attention is not None and block.attention.bias is not None


def test_middle_width_is_that_of_the_deepest_level_and_at_most_512() -> None:
    for width, middle in ((9, 9), (700, 512)):
        student = TinyNet([(4, 8), (width, 4)])
        method = ReviewKD()
        method.build(*specs(student, pair()[1]))
        assert {b.reduce[0].out_channels for b in method.blocks} == {middle}  # type: ignore[index, union-attr]


def test_warm_up_and_presets() -> None:
    term = ReviewKD().terms["review"]
    assert [term.factor(e) for e in (1, 10, 20, 200)] == pytest.approx([0.25, 2.5, 5, 5])
    assert ReviewKD(warmup=0).terms["review"].factor(1) == 5
    assert ReviewKD(**ReviewKD.presets["resnet56 -> resnet20"]).terms["review"].weight == 0.6


def test_fusion_weights_are_shares_and_leave_no_trace() -> None:
    method, student, teacher = ready("reviewkd")
    step = make_step(student, teacher)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    found = method.fusion_weights(step)  # type: ignore[operator]
    assert {k: tuple(v.shape) for k, v in found.items()} == {
        "stage3": (6, 2, 4, 4),
        "stage2": (6, 2, 8, 8),
        "stage1": (6, 2, 16, 16),
    }
    assert all(v.min() > 0 and v.max() < 1 and not v.requires_grad for v in found.values())
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fuse": "concat"}, "'attention' or 'sum' or 'none'"),
        ({"distance": "l1"}, "'hcl' or 'mse'"),
        ({"stages": (0,), "teacher_stages": (0, 1)}, "pairs stages one to one"),
        ({"warmup": -1}, "at least 0"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ReviewKD(**options)


def test_a_teacher_without_preacts_is_refused_with_the_remedy() -> None:
    student, teacher = pair()
    teacher.shows_preacts = False
    with pytest.raises(ConfigError, match="before their activation, which teacher does not show; choose"):
        ReviewKD().build(*specs(student, teacher))
    method = built(ReviewKD(teacher_maps="stages"), student, teacher)
    assert method.losses(make_step(student, teacher), ["review"])["review"].isfinite()


def test_with_a_network_of_torchvision() -> None:
    torchvision = pytest.importorskip("torchvision")
    teacher = tap(torchvision.models.resnet18(num_classes=5)).eval().requires_grad_(False)
    student = tap(torchvision.models.mobilenet_v3_small(num_classes=5)).train()
    shape = (3, 64, 64)
    method = ReviewKD()
    method.build(inspect_net(student, shape), [inspect_net(teacher, shape)])
    x = torch.randn(3, *shape)
    with torch.no_grad():
        seen = teacher.features(x)
    step = Step(student.features(x), torch.arange(3), (seen,), (teacher.classifier,))
    value = method.losses(step, ["review"])["review"]
    value.backward()
    assert value.isfinite() and len(method.pairs) == len(teacher.stage_names)

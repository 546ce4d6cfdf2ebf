"""BYOT: the worked value, its formula written out, and that the deepest exit learns from labels alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from methods_nets import PAIRS, SHAPE, TinyNet, built, make_step, pair, ready
from torch import Tensor, nn

from kdlab import losses
from kdlab.errors import ConfigError
from kdlab.methods import BYOT, CE, Step
from kdlab.methods.exits import ExitPlan
from kdlab.models.features import Features, inspect_net


class Fixed(nn.Module):
    """An exit that says what it is told to."""

    def __init__(self, g: Tensor, z: Tensor) -> None:
        super().__init__()
        self.g, self.z = g, z

    def embed(self, stage_map: Tensor) -> Tensor:
        return self.g

    def fc(self, g: Tensor) -> Tensor:
        return self.z


def sheet() -> tuple[BYOT, Step, list[Tensor], list[Tensor]]:
    torch.manual_seed(0)
    z = [torch.randn(8, 100).double().requires_grad_() for _ in range(4)]
    g = [torch.randn(8, 512, 1, 1).double().requires_grad_() for _ in range(4)]
    method = BYOT()
    method.exits = nn.ModuleList(Fixed(a.flatten(1), b) for a, b in zip(g[:3], z[:3]))
    method.names = ("stage1", "stage2", "stage3")
    method.built = True
    maps = tuple(torch.zeros(8, 1, 1, 1) for _ in range(4))
    return method, Step(Features(z[3], g[3].flatten(1), maps), torch.arange(8)), z, g


def total(method: BYOT, values: dict[str, Tensor]) -> Tensor:
    return torch.stack([method.terms[n].factor(1) * v for n, v in values.items()]).sum()


def test_worked_value() -> None:
    method, step, z, g = sheet()
    value = total(method, method.losses(step, list(method.terms)))
    assert value.item() == pytest.approx(31.2386, rel=2e-6)
    gradients = torch.autograd.grad(value, [*z, *g], allow_unused=True)
    norm = sum(d.square().sum() for d in gradients if d is not None) ** 0.5
    assert norm.item() == pytest.approx(0.641279, rel=2e-6)  # type: ignore[union-attr]
    assert gradients[7] is None  # g_4 is a target alone


def test_its_formula() -> None:
    method, step, z, g = sheet()
    values = method.losses(step, list(method.terms))
    y = step.target
    soft = -(F.softmax(z[3] / 3, 1) * torch.stack([F.log_softmax(a / 3, 1) for a in z[:3]])).sum() * 9 / 8
    hint = sum(((a - g[3]) ** 2 * ((a > 0) | (g[3] > 0))).sum() for a in g[:3])
    ce = sum(F.cross_entropy(a, y) for a in z[:3])
    expected = {"ce": F.cross_entropy(z[3], y), "exit_ce": ce, "exit_kd": soft, "hint": hint}
    for name, value in expected.items():
        assert values[name].item() == pytest.approx(value.item(), rel=1e-12)  # type: ignore[arg-type]


def test_soft_cross_entropy_is_kd_plus_the_teachers_entropy() -> None:
    a, b = torch.randn(2, 4, 6).double()
    p = F.softmax(b / 3, 1)
    entropy = -9 * (p * p.log()).sum(1).mean()
    assert losses.soft_cross_entropy(a, b, 3.0).item() == pytest.approx(
        (losses.kd(a, b, 3.0) + entropy).item()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_finite_at_200(dtype: torch.dtype) -> None:
    z = torch.tensor([[200.0, -200.0, 0.0]], dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = losses.soft_cross_entropy(z, -z.detach(), 3.0) + losses.active_difference(z, -z.detach())
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and z.grad.isfinite().all()  # type: ignore[union-attr]


def test_active_difference_looks_where_one_is_active() -> None:
    a = torch.tensor([[1.0, -1.0, -1.0]])
    b = torch.tensor([[-1.0, -2.0, 3.0]])
    assert losses.active_difference(a, b).item() == 4 + 16
    with pytest.raises(ValueError, match="one shape"):
        losses.active_difference(a, b[:, :2])


@pytest.mark.parametrize("nets", PAIRS)
@pytest.mark.parametrize("term", ["exit_kd", "hint", "exit_ce"])
def test_the_deepest_exit_gets_no_gradient_from_what_it_teaches(nets: str, term: str) -> None:
    method, student, teacher = ready("byot", nets)
    method.losses(make_step(student, teacher), [term])[term].backward()
    assert student.fc.weight.grad is None
    last = len(student.convs) - 1
    assert student.convs[last].weight.grad is None
    assert student.convs[last - 1].weight.grad.abs().max() > 0  # type: ignore[union-attr]
    got = {name for name, p in method.named_parameters() if p.grad is not None}
    linear = {name for name, _ in method.named_parameters() if ".fc." in name}
    assert got == {name for name, _ in method.named_parameters()} - (linear if term == "hint" else set())


def test_no_teacher_is_needed_and_alpha_zero_is_deep_supervision() -> None:
    student, _ = pair()
    method = BYOT(alpha=0, beta=0)
    assert not method.needs_teacher() and method.active(1) == ["ce", "exit_ce"]
    method.build(inspect_net(student, SHAPE), [])
    step = make_step(student, pair()[1])
    alone = Step(step.student, step.target)
    assert method.losses(alone, ["ce"])["ce"].item() == CE().losses(alone, ["ce"])["ce"].item()


def test_exits_follow_the_shapes() -> None:
    plan = ExitPlan(((16, 32, 32), (32, 16, 16), (64, 8, 8)), 64, 100, "byot")
    assert [sum(p.numel() for p in e.parameters()) for e in plan.make()] == [12_164, 9_348]
    assert [e(torch.randn(2, c, h, h)).shape for e, (c, h, _) in zip(plan.make(), plan.stages)] == [
        (2, 100)
    ] * 2
    odd = ExitPlan(((6, 57, 29), (7, 29, 15), (8, 4, 7)), 10, 3, "mirror")
    shapes: list[Any] = [e.embed(torch.randn(2, *s)).shape for e, s in zip(odd.make(), odd.stages)]  # type: ignore[operator]
    assert shapes == [(2, 10)] * 2


def test_the_embedding_may_be_wider_than_the_last_map() -> None:
    student = TinyNet(PAIRS["equal sizes"][0], hidden=11).train()
    for head in ("byot", "mirror"):
        method = built(BYOT(head=head), student, pair()[1])  # type: ignore[arg-type]
        values = method.losses(make_step(student, pair()[1]), list(method.terms))
        assert all(v.isfinite() for v in values.values())


def test_exits_are_watched() -> None:
    method, student, teacher = ready("byot")
    assert list(method.side_logits(make_step(student, teacher))) == ["exit 1", "exit 2"]


def test_refusals() -> None:
    student = TinyNet([(4, 8)])
    with pytest.raises(ConfigError, match="shows only one; name more of them"):
        BYOT().build(inspect_net(student, SHAPE, "student"), [])
    with pytest.raises(ConfigError, match="a share from 0 to 1"):
        BYOT(alpha=1.5)
    with pytest.raises(ConfigError, match="'byot' or 'mirror'"):
        BYOT(head="copy")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be built"):
        BYOT().losses(make_step(*pair()), ["hint"])


def test_a_torchvision_network() -> None:
    torchvision = pytest.importorskip("torchvision")
    from kdlab.models import tap

    net = tap(torchvision.models.mobilenet_v3_small(num_classes=5), input_shape=SHAPE).train()
    method = BYOT()
    method.build(inspect_net(net, SHAPE), [])
    x = torch.randn(4, *SHAPE)
    step = Step(net.features(x), torch.arange(4))
    values = method.train().losses(step, list(method.terms))
    total(method, values).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())

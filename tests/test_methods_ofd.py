"""OFD: margins, the region that is left alone, and how the margins are found in any network."""

from __future__ import annotations

import math

import pytest
import torch
from methods_nets import PAIRS, TinyNet, built, make_step, pair, ready, specs
from methods_rehearsal import Rehearsal
from torch import Tensor, nn
from torch.nn import functional as F

from kdlab import losses, models
from kdlab.errors import ConfigError
from kdlab.methods import OFD
from kdlab.methods.norms import norms_of_preacts
from kdlab.models import inspect_net, tap


def draw(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape).double() * scale


# ---- worked values -----------------------------------------------------------------------------------


def test_worked_value_of_one_stage() -> None:
    torch.manual_seed(0)
    fs, ft = draw(4, 32, 8, 8).requires_grad_(), draw(4, 32, 8, 8)
    gamma, beta = draw(32), draw(32, scale=0.5)
    margin = losses.expected_negative(beta, gamma)
    assert margin[:4].tolist() == pytest.approx([-0.442174, -0.915176, -0.802110, -0.330531], abs=1e-6)
    assert margin.sum().item() == pytest.approx(-22.6325, rel=3e-6)
    value = losses.ofd(fs, ft, margin)
    assert value.item() == pytest.approx(3.10667, rel=2e-6)
    assert torch.autograd.grad(value, fs)[0].norm().item() == pytest.approx(0.0557375, rel=1e-5)


def test_worked_value_of_three_stages() -> None:
    torch.manual_seed(0)
    shapes = ((4, 16, 16, 16), (4, 32, 8, 8), (4, 64, 4, 4))
    s = [draw(*shape).requires_grad_() for shape in shapes]
    t = [draw(*shape) for shape in shapes]
    nets = [TinyNet([(c, h) for _, c, h, _ in shapes]) for _ in range(2)]
    method = OFD(margin=-0.5)
    method.build(*specs(*nets))
    method.connectors = nn.ModuleList(nn.Identity() for _ in shapes)
    method.double()
    value = torch.stack([method.compare(i, a, b) for i, (a, b) in enumerate(zip(s, t))]).sum()
    assert value.item() == pytest.approx(4.5354, rel=2e-6)
    gradients = torch.autograd.grad(value, s)
    assert torch.stack([g.norm() for g in gradients]).norm().item() == pytest.approx(0.0514504, rel=1e-5)


# ---- margins -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.7, 1.5), (-1.2, 0.4), (2.0, -1.0)])
def test_the_margin_is_the_mean_negative_response(mean: float, deviation: float) -> None:
    x = mean + abs(deviation) * torch.randn(1_000_000, generator=torch.Generator().manual_seed(1)).double()
    margin = losses.expected_negative(torch.tensor(mean).double(), torch.tensor(deviation).double())
    assert margin.item() == pytest.approx(x[x < 0].mean().item(), rel=0.02)


def test_margins_of_channels_that_are_hardly_ever_negative_or_constant() -> None:
    mean = torch.tensor([3.0, 3.2, -2.0, 2.0, 0.0, -40.0, 40.0])
    scale = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0])
    margin = losses.expected_negative(mean, scale)
    density, below = math.exp(-4.5) / math.sqrt(2 * math.pi), 1.349898e-3
    assert margin[0].item() == pytest.approx(3 - density / below, rel=1e-4)
    assert margin[1:].tolist() == pytest.approx([-3, -2, 0, 0, -40, -3], abs=1e-6)
    assert (losses.expected_negative(torch.randn(500), torch.randn(500)) <= 0).all()


# ---- what is left alone --------------------------------------------------------------------------------


def test_partial_distance() -> None:
    margin = torch.tensor([-0.5])
    cases = {  # teacher, student -> squared difference that counts
        (-3.0, -0.7): 0.0,  # both below the margin
        (-3.0, -0.5): 0.0,
        (-3.0, -0.2): 0.3**2,  # the student rises above it
        (-0.2, -0.6): 0.0,
        (-0.2, 0.4): 0.6**2,
        (1.5, -2.0): 3.5**2,
        (1.5, 2.0): 0.5**2,
    }
    for (t, s), counted in cases.items():
        student = torch.full((1, 1, 1, 1), s, requires_grad=True)
        value = losses.ofd(student, torch.full((1, 1, 1, 1), t), margin)
        (gradient,) = torch.autograd.grad(value, student)
        assert value.item() == pytest.approx(counted / 1000, abs=1e-9), (t, s)
        assert (gradient.item() == 0) == (counted == 0)


@pytest.mark.parametrize("nets", PAIRS)
def test_value_written_out(nets: str) -> None:
    student, teacher = pair(nets)
    with torch.no_grad():
        for bn in teacher.bns:
            bn.weight.normal_()  # type: ignore[union-attr, operator]
            bn.bias.normal_()  # type: ignore[union-attr, operator]
    method = built(OFD(), student.double(), teacher.double()).double()
    step = make_step(student, teacher, dtype=torch.float64)
    assert step.student.preacts is not None and step.teacher.preacts is not None
    count = min(len(PAIRS[nets][0]), len(PAIRS[nets][1]))
    total = 0.0
    for i in range(-count, 0):
        s, t = step.student.preacts[i], step.teacher.preacts[i]
        size = min(s.shape[2], t.shape[2])
        s, t = F.adaptive_avg_pool2d(s, size), F.adaptive_avg_pool2d(t, size)
        s = method.connectors[i](s)  # type: ignore[index, operator]
        bn = teacher.bns[i]
        margin = losses.expected_negative(bn.bias, bn.weight)[:, None, None]  # type: ignore[arg-type]
        target = torch.maximum(t, margin)
        d = (s - target) ** 2 * ((s > target) | (target > 0))
        total += d.sum().item() / (1000 * len(s)) / 2 ** (-1 - i)
    assert method.losses(step, ["ofd"])["ofd"].item() == pytest.approx(total, rel=1e-6)


def test_connectors_keep_negative_values() -> None:
    method, *_ = ready("ofd")
    connector = method.connectors[-1]  # type: ignore[index]
    assert [type(m) for m in connector] == [nn.Conv2d, nn.BatchNorm2d]  # type: ignore[union-attr]
    assert connector[0].bias is None  # type: ignore[index]
    wide = OFD(margin=0.0)
    wide.build(*specs(TinyNet([(300, 4)]), TinyNet([(100, 4)])))
    assert wide.connectors[0][0].weight.std().item() == pytest.approx((2 / 100) ** 0.5, rel=0.03)  # type: ignore[index, union-attr, operator]


# ---- finding the norms -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet8", ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"]),  # not the projected shortcut's
        ("resnet20", ["layer1.2.bn2", "layer2.2.bn2", "layer3.2.bn2"]),
        ("resnet8x4", ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"]),
        ("wrn_16_2", ["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"]),
        ("vgg8", ["block1.1", "block2.1", "block3.1", "block4.1"]),
        ("MobileNetV2", ["blocks.1.1.conv.7", "blocks.2.2.conv.7", "blocks.4.2.conv.7", "blocks.6.0.conv.7"]),
        ("ResNet50", ["layer1.2.bn3", "layer2.3.bn3", "layer3.5.bn3", "layer4.2.bn3"]),
        ("ShuffleV1", ["layer1.3.bn3", "layer2.7.bn3", "layer3.3.bn3"]),
        ("ShuffleV2", [None, None, None]),
    ],
)
def test_norms_of_the_zoo(name: str, expected: list[str | None]) -> None:
    net = models.build(name, num_classes=10)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = norms_of_preacts(inspect_net(net.requires_grad_(False), (3, 32, 32)))
    names = {module: path for path, module in net.named_modules()}
    got = [None if norm is None else names[norm] for norm in found]
    assert got == expected
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())


def test_norms_of_torchvision() -> None:
    torchvision = pytest.importorskip("torchvision")
    net = tap(torchvision.models.resnet18(num_classes=5))
    names = {module: path for path, module in net.named_modules()}
    found = norms_of_preacts(inspect_net(net, (3, 64, 64)))
    last = [names[norm].removeprefix("module.") for norm in found if norm is not None]
    assert last[-4:] == [f"layer{i}.1.bn2" for i in (1, 2, 3, 4)] and len(last) == len(found)


def test_a_teacher_without_such_norms_is_refused_with_the_remedy() -> None:
    student, teacher = models.build("resnet8", num_classes=5), models.build("ShuffleV2", num_classes=5)
    shape = (3, 32, 32)
    with pytest.raises(ConfigError, match=r"layer1 of teacher has none of its width; choose margin='data'"):
        OFD().build(inspect_net(student, shape), [inspect_net(teacher, shape, "teacher")])
    OFD(margin="data").build(inspect_net(student, shape), [inspect_net(teacher, shape)])


def test_margins_from_data() -> None:
    student, teacher = pair()
    method = OFD(margin="data")
    method.build(*specs(student, teacher))
    assert all(m.isnan().all() for m in method.margins().values())
    rehearsal = Rehearsal([teacher])
    method.prepare(rehearsal)  # type: ignore[arg-type]
    again = OFD(margin="data")
    again.build(*specs(student, teacher))
    again.prepare(rehearsal)  # type: ignore[arg-type]
    assert len(rehearsal.made) == 1  # worked out once for all students
    with torch.no_grad():
        shown = teacher.features(torch.cat([x for x, _, _ in rehearsal.batches("train")])).preacts
    assert shown is not None
    for margin, other, preact in zip(method.margins().values(), again.margins().values(), shown):
        negative = [channel[channel < 0] for channel in preact.unbind(1)]
        expected = torch.stack([low.sum() / max(len(low), 1) for low in negative])
        assert torch.allclose(margin, expected, atol=1e-5) and torch.equal(margin, other)
        assert (margin <= 0).all()


def test_margins_are_saved() -> None:
    method, student, teacher = ready("ofd-data")
    fresh = OFD(margin="data", stages=(-1, 0), teacher_stages=(-1, 0))
    fresh.build(*specs(student, teacher))
    fresh.load_state_dict(method.state_dict())
    step = make_step(student, teacher)
    assert fresh.losses(step, ["ofd"])["ofd"].item() == method.losses(step, ["ofd"])["ofd"].item()


def test_options() -> None:
    with pytest.raises(ConfigError, match="'norm' or 'data'"):
        OFD(margin="bn")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be a number"):
        OFD(margin=float("nan"))
    for flag in ("student", "teacher"):
        student, teacher = pair()
        (student if flag == "student" else teacher).shows_preacts = False
        with pytest.raises(ConfigError, match=f"reads the {flag}'s maps before their activation"):
            OFD().build(*specs(student, teacher))
    student, teacher = pair()
    relu = built(OFD(margin=0.0), student, teacher)
    after = built(OFD(margin=0.0, maps="stages"), student, teacher)
    assert relu.terms["ofd"].taps[0] == "student.preacts[0]"
    assert after.terms["ofd"].taps[0] == "student.stages[0]"

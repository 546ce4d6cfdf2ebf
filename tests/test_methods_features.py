"""VID, NST, ICKD, CWD and channel distillation: worked values, values written out, gradient, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from methods_nets import PAIRS, TinyNet, built, make_step, pair, ready, specs
from torch import Tensor, nn
from torch.nn import functional as F

from kdlab import losses
from kdlab.errors import ConfigError
from kdlab.methods import CWD, ICKD, NST, OFD, VID, ChannelDistillation, Method, Step, make
from kdlab.methods.vid import Variances
from kdlab.models import inspect_net, tap

STAGEWISE = ("vid", "nst", "ofd", "ickd", "cwd", "channel")


def draw(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape).double() * scale


def normal(x: Tensor) -> Tensor:
    """BN in train mode, weight 1, bias 0."""
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


# ---- worked values of the sheet ----------------------------------------------------------------------


def test_vid_worked_value() -> None:
    torch.manual_seed(0)
    fs, ft = draw(4, 16, 8, 8).requires_grad_(), draw(4, 32, 8, 8)
    weights = [draw(32, c, 1, 1, scale=0.1) for c in (16, 32, 32)]
    student, teacher = (TinyNet([(c, 8)]) for c in (16, 32))
    method = VID()
    method.build(*specs(student, teacher))
    method.double()
    with torch.no_grad():
        for conv, weight in zip([m for m in method.means[0] if isinstance(m, nn.Conv2d)], weights):  # type: ignore[union-attr]
            conv.weight.copy_(weight)
    value = method.compare(0, fs, ft)
    assert value.item() == pytest.approx(0.906716, rel=2e-6)
    assert torch.autograd.grad(value, fs)[0].norm().item() == pytest.approx(0.000185892, rel=1e-5)


def test_ickd_worked_value_through_its_connector() -> None:
    torch.manual_seed(0)
    fs, ft = draw(4, 16, 8, 8).requires_grad_(), draw(4, 32, 8, 8)
    weight = draw(32, 16, 1, 1, scale=0.1)
    method = ICKD()
    method.build(*specs(TinyNet([(16, 8)]), TinyNet([(32, 8)])))
    method.double().train()
    with torch.no_grad():
        method.connectors[0][0].weight.copy_(weight)  # type: ignore[index, union-attr, operator]
    value = method.compare(0, fs, ft)
    assert value.item() == pytest.approx(1.09001, rel=1e-5)
    assert torch.autograd.grad(value, fs)[0].norm().item() == pytest.approx(0.0191406, rel=1e-5)


# ---- each method, written out again ------------------------------------------------------------------


def pooled(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    size = min(s.shape[2], t.shape[2])
    return F.adaptive_avg_pool2d(s, size), F.adaptive_avg_pool2d(t, size)


def vid_again(method: Any, i: int, s: Tensor, t: Tensor) -> Tensor:
    s, t = pooled(s, t)
    first, second, third = (m.weight[:, :, 0, 0] for m in method.means[i] if isinstance(m, nn.Conv2d))
    for w in (first, second):
        s = torch.einsum("bchw,dc->bdhw", s, w).relu()
    s = torch.einsum("bchw,dc->bdhw", s, third)
    variance = torch.log1p(torch.exp(method.spreads[i].a)) + 1e-5
    total = torch.zeros(()).double()
    for c in range(t.shape[1]):
        total = total + ((s[:, c] - t[:, c]) ** 2 / variance[c] + variance[c].log()).sum()
    return total / (2 * t.numel())


def nst_again(method: Any, i: int, s: Tensor, t: Tensor) -> Tensor:
    s, t = pooled(s, t)
    total = torch.zeros(()).double()
    for a, b in zip(s.flatten(2), t.flatten(2)):
        a, b = (x / x.norm(dim=1, keepdim=True).clamp_min(1e-12) for x in (a, b))
        gram = [(x @ y.T) ** 2 for x, y in ((b, b), (a, a), (a, b))]
        total = total + gram[0].mean() + gram[1].mean() - 2 * gram[2].mean()
    return total / len(s)


def ickd_again(method: Any, i: int, s: Tensor, t: Tensor) -> Tensor:
    s = normal(F.conv2d(s, method.connectors[i][0].weight))
    total = torch.zeros(()).double()
    for a, b in zip(s.flatten(2), t.flatten(2)):
        total = total + (F.normalize(a @ a.T, dim=1) - F.normalize(b @ b.T, dim=1)).square().sum()
    return total / (len(s) * t.shape[1])


def cwd_again(method: Any, i: int, s: Tensor, t: Tensor) -> Tensor:
    s, t = pooled(s, t)
    s = F.conv2d(s, method.connectors[i].weight, method.connectors[i].bias)
    p, q = (torch.softmax(x.flatten(2) / method.tau, 2) for x in (t, s))
    return method.tau**2 * (p * (p.log() - q.log())).sum() / (len(s) * t.shape[1])


def channel_again(method: Any, i: int, s: Tensor, t: Tensor) -> Tensor:
    s = normal(F.conv2d(s, method.connectors[i][0].weight)).relu()
    return (s.mean((2, 3)) - t.mean((2, 3))).square().mean()


AGAIN = {"vid": vid_again, "nst": nst_again, "ickd": ickd_again, "cwd": cwd_again, "channel": channel_again}


@pytest.mark.parametrize("nets", PAIRS)
@pytest.mark.parametrize("key", AGAIN)
def test_value_written_out(key: str, nets: str) -> None:
    student, teacher = pair(nets)
    method = make({"key": key, "params": {"stages": None}})
    built(method, student.double(), teacher.double()).double()
    step = make_step(student, teacher, dtype=torch.float64)
    count = min(len(PAIRS[nets][0]), len(PAIRS[nets][1]))
    maps = list(zip(step.student.stages[-count:], step.teacher.stages[-count:]))
    expected = [AGAIN[key](method, i, s, t).item() for i, (s, t) in enumerate(maps)]
    value = method.losses(step, [key])[key]
    assert value.item() == pytest.approx(sum(expected), rel=1e-7)
    details = [method.details[f"{key}/{student.stage_names[i]}"].item() for i in range(-count, 0)]
    assert details == pytest.approx(expected, rel=1e-7)


# ---- gradient ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", STAGEWISE)
def test_gradient_reaches_the_stages_and_the_method_alone(key: str) -> None:
    student, teacher = pair()
    method = built(make({"key": key, "params": {"stages": None}}), student, teacher)
    step = make_step(student, teacher)
    read = step.student.preacts if key == "ofd" else step.student.stages
    assert read is not None
    for t in (*read, step.student.logits, step.student.embedding):
        t.retain_grad()
    method.losses(step, [key])[key].backward()
    assert all(t.grad is not None and t.grad.isfinite().all() and t.grad.abs().max() > 0 for t in read)
    assert step.student.logits.grad is None and step.student.embedding.grad is None
    assert student.fc.weight.grad is None and all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in method.parameters())
    assert bool(list(method.parameters())) == bool(method.trained)


@pytest.mark.parametrize("key", STAGEWISE)
def test_connectors_learn_from_their_own_term_alone(key: str) -> None:
    method, student, teacher = ready(key)
    step = make_step(student, teacher)
    values = method.losses(step, list(method.terms))
    sum(value for name, value in values.items() if name != key).backward()  # type: ignore[union-attr]
    assert all(p.grad is None for p in method.parameters())


# ---- VID -----------------------------------------------------------------------------------------------


def test_vid_variances_start_at_five_and_follow_the_error() -> None:
    student, teacher = pair()
    method = built(VID(), student, teacher)
    for name, variance in method.variances().items():  # type: ignore[operator]
        assert name in student.stage_names and torch.allclose(variance, torch.tensor(5.0), atol=1e-5)
    spread = Variances(3, 5.0)
    mean, far = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    far[:, 0], far[:, 1] = 9.0, 0.1  # squared errors 81 and 0.01, on both sides of 5
    losses.vid(mean, far, spread()).backward()
    assert spread.a.grad is not None
    assert spread.a.grad[0] < 0 < spread.a.grad[1]  # descent raises the variance of what is not predicted
    assert {"means.0.0.weight", "means.0.4.weight", "spreads.2.a"} <= set(method.state_dict())


def test_vid_with_another_start() -> None:
    for start in (0.01, 1.0, 60.0):
        assert Variances(2, start)().tolist() == pytest.approx([start] * 2, rel=1e-5)
    with pytest.raises(ConfigError, match="above 1e-05"):
        VID(variance=0.0)


# ---- channel distillation ------------------------------------------------------------------------------


def test_guided_kd_counts_what_the_teacher_gets_right() -> None:
    s, t = draw(6, 5).requires_grad_(), draw(6, 5, scale=3)
    target = t.argmax(1)
    target[[1, 4]] = (target[[1, 4]] + 1) % 5
    right = [0, 2, 3, 5]
    expected = F.kl_div(F.log_softmax(s[right], 1), F.softmax(t[right], 1), reduction="batchmean")
    value = losses.guided_kd(s, t, target)
    assert value.item() == pytest.approx(expected.item(), rel=1e-10)
    gradient = torch.autograd.grad(value, s)[0]
    assert gradient[[1, 4]].abs().max() == 0 and gradient[right].abs().max() > 0
    none = losses.guided_kd(s, t, (t.argmax(1) + 1) % 5)
    assert none.item() == 0 and torch.autograd.grad(none, s)[0].abs().max() == 0


def test_channel_terms_and_decay() -> None:
    terms = ChannelDistillation().terms
    assert list(terms) == ["ce", "channel", "gkd", "kd"]
    assert [terms["channel"].factor(e) for e in (1, 59, 60, 159, 160, 240)] == pytest.approx(
        [6, 6, 5.4, 5.4, 4.86, 4.86]
    )
    assert [terms["gkd"].factor(e) for e in (1, 200)] == [0.1, 0.1]
    assert str(ChannelDistillation(decay=1).terms["channel"].schedule) == "constant"
    imagenet = ChannelDistillation(**ChannelDistillation.presets["ImageNet"]).terms
    assert imagenet["gkd"].weight == 1 and imagenet["channel"].factor(95) == pytest.approx(6 * 0.9**3)
    with pytest.raises(ConfigError, match="list of epochs"):
        ChannelDistillation(decay_at=60)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1"):
        ChannelDistillation(decay_at=(0,))


# ---- defaults, refusals --------------------------------------------------------------------------------


def test_default_stages_and_weights() -> None:
    student, teacher = pair()
    defaults = (("vid", 1, 3), ("nst", 50, 3), ("ickd", 2.5, 1), ("cwd", 3, 1), ("channel", 6, 3))
    for key, weight, count in defaults:
        method = built(make(key), student, teacher)
        assert method.terms[key].weight == weight
        assert len(method.terms[key].taps) == 2 * count
        assert f"student.stages[{3 - count}]" in method.terms[key].taps
    assert ICKD(**ICKD.presets["with KD"]).terms["kd"].weight == 1


@pytest.mark.parametrize("cls", [VID, NST, OFD, ICKD, CWD, ChannelDistillation])
def test_refused_stages(cls: type[Method]) -> None:
    name = cls.__name__
    with pytest.raises(ConfigError, match=f"{name} pairs stages one to one"):
        cls(stages=(0, 1), teacher_stages=(0,))  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=f"{name} is to read stage 7 of the student"):
        cls(stages=(7,)).build(*specs(*pair()))  # type: ignore[call-arg]
    method = cls()
    with pytest.raises(ConfigError, match="must be built"):
        method.losses(make_step(*pair()), [method.main])  # type: ignore[attr-defined]


def test_zero_vectors_have_no_gradient() -> None:
    for loss in (losses.nst, losses.ickd, losses.similarity_preserving):
        s = torch.randn(3, 4, 4, 4)
        s[0, 1] = 0
        s[1] = 0
        s.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(s, torch.randn(3, 4, 4, 4)), s)
        assert gradient.isfinite().all() and gradient.abs().max() < 1e3
    v = torch.randn(4, 5)
    v[2] = 0
    v.requires_grad_()
    for loss in (losses.pkt, losses.kernel_congruence):
        (gradient,) = torch.autograd.grad(loss(v, torch.randn(4, 6)), v)
        assert gradient.isfinite().all() and gradient.abs().max() < 1e3


@pytest.mark.parametrize("key", STAGEWISE)
def test_with_networks_of_torchvision(key: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(1)
    teacher = tap(torchvision.models.resnet18(num_classes=5)).eval().requires_grad_(False)
    student = tap(torchvision.models.vgg11_bn(num_classes=5)).train()
    shape = (3, 64, 64)
    method = make(key)
    method.build(inspect_net(student, shape), [inspect_net(teacher, shape)])
    x = torch.randn(3, *shape)
    with torch.no_grad():
        seen = teacher.features(x)
    step = Step(student.features(x), torch.arange(3), (seen,), (teacher.classifier,))
    value = method.losses(step, [key])[key]
    value.backward()
    assert value.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())

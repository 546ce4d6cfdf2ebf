"""The worked values of the method sheets, in float64 with closed-form weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlab.methods import CMKD, SRRL, Method, Step
from kdlab.methods.projectors import Connector, Projector, Regressor
from kdlab.models.features import Features, NetSpec

#        seed, S1, S2, T
CASES: dict[str, tuple[int, tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "A": (1, (6, 4), (3, 8), (8, 4)),
    "B": (2, (6, 8), (3, 16), (8, 4)),
    "C": (3, (6, 2), (3, 4), (8, 4)),
    "D": (4, (6, 4), (3, 4), (8, 4)),
    "E": (5, (6, 4), (3, 8), (8, 8)),
}


def c(n: int, i: int) -> Tensor:
    return torch.cos(0.7 * torch.arange(n, dtype=torch.float64) + i)


class Bench:
    """Inputs, teacher classifier and a built method of one case; S1 is the last stage."""

    def __init__(self, case: str, method: Method) -> None:
        seed, *shapes = CASES[case]
        torch.manual_seed(seed)
        s1, s2, t = (F.relu(torch.randn(4, ch, h, h)).double() for ch, h in shapes)
        z_s = (3 * torch.randn(4, 5)).double()
        self.s1, self.s2, self.z_s = (x.requires_grad_() for x in (s1, s2, z_s))
        width = shapes[2][0]
        self.classifier = nn.Linear(width, 5).double().requires_grad_(False)
        self.classifier.weight.copy_(2 * c(5 * width, 100).reshape(5, width))
        self.classifier.bias.copy_(0.1 * c(5, 101))
        h_t = t.mean((2, 3))
        student = Features(self.z_s, s1.mean((2, 3)), (s2, s1), final=s1)
        teacher = Features(self.classifier(h_t), h_t, (t,), final=t)
        self.step = Step(student, torch.arange(4), (teacher,), (self.classifier,))
        self.method = method
        method.build(self._spec("student", student), [self._spec("teacher", teacher)])
        method.double().train()

    def _spec(self, name: str, f: Features) -> NetSpec:
        net = nn.Module()
        net.classifier = self.classifier
        stages: Any = tuple(tuple(s.shape[1:]) for s in f.stages)
        names = ("stage1", "stage2", "stage3")[: len(stages)]
        return NetSpec(
            name, (3, 32, 32), 5, f.embedding.shape[1], stages, names, None, stages[-1], False, 0, net
        )

    def values(self, terms: set[str] | None = None) -> dict[str, Tensor]:
        return self.method.losses(self.step, terms or set(self.method.terms))

    def total(self) -> Tensor:
        return sum((self.method.terms[n].factor(1) * v for n, v in self.values().items()), torch.zeros(()))

    def norms(self, value: Tensor, first_conv: Tensor) -> list[float]:
        inputs = (self.s1, self.s2, self.z_s, first_conv)
        gradients = torch.autograd.grad(value, inputs, retain_graph=True)
        return [g.norm().item() for g in gradients]


def fill(module: nn.Module, branch: int) -> None:
    """conv, bn weight, bn bias, ... = 0.5 c(n, 9b+j), 1 + 0.1 c(n, 9b+j), 0.1 c(n, 9b+j)."""
    with torch.no_grad():
        for j, parameter in enumerate(module.parameters()):
            values = c(parameter.numel(), 9 * branch + j).reshape(parameter.shape)
            parameter.copy_((0.5 * values, 1 + 0.1 * values, 0.1 * values)[j % 3])


def cmkd(case: str, **options: Any) -> Bench:
    bench = Bench(case, CMKD(**options))
    for branch, projector in enumerate(bench.method.projectors):  # type: ignore[arg-type]
        fill(projector, branch)
    return bench


def srrl(case: str, **options: Any) -> Bench:
    bench = Bench(case, SRRL(**options))
    fill(bench.method.connector, 0)  # type: ignore[arg-type]
    return bench


# ---- CMKD -------------------------------------------------------------------------------------------

CMKD_VALUES = {
    "A": (2.469505, 2.911681, 0.1513561, 0.1299991, 3.412771, 0.7003064, 0.6824326, 29.67572, 13.78624),
    "B": (3.056882, 2.404431, 0.1535939, 0.7086744, 2.347906, 0.7173165, 0.6904601, 29.35700, 14.61935),
    "C": (3.080266, 3.568107, 0.5314172, 0.3747529, 2.631253, 0.4598930, 0.6907530, 26.99240, 15.45007),
    "D": (3.372317, 4.091972, 0.08469055, 0.4336662, 4.328725, 0.6854556, 0.6909920, 32.69891, 17.47743),
    "E": (3.260597, 1.994497, 0.06128511, 0.04829439, 2.032249, 0.4541068, 0.7101078, 24.80535, 11.10873),
}


@pytest.mark.parametrize("case", CMKD_VALUES)
def test_cmkd_values(case: str) -> None:
    ce, pseudo, kd1, kd2, kd, mse1, mse2, total, total_wrn = CMKD_VALUES[case]
    bench = cmkd(case)
    values = {name: value.item() for name, value in bench.values().items()}
    expected = {"ce": ce, "pseudo": pseudo, "stage_kd": kd1 + kd2, "kd": kd, "feature": mse1 + mse2}
    assert values == pytest.approx(expected, rel=1e-6)
    details = {name: value.item() for name, value in bench.method.details.items()}
    per_stage = {
        "stage_kd/stage2": kd1,
        "stage_kd/stage1": kd2,
        "feature/stage2": mse1,
        "feature/stage1": mse2,
    }
    assert details == pytest.approx(per_stage, rel=1e-6)
    assert bench.total().item() == pytest.approx(total, rel=1e-6)
    wrn = cmkd(case, **CMKD.presets["wrn_40_2 -> wrn_16_2"])
    assert wrn.total().item() == pytest.approx(total_wrn, rel=1e-6)


NORMS = {
    ("A", False): (1.779670, 2.657678, 1.369476, 1.782847),
    ("C", False): (4.346430, 2.133002, 1.344851, 4.251681),
    ("C", True): (1.731166, 2.133002, 1.344851, 1.676126),
}


@pytest.mark.parametrize(("case", "detach"), NORMS)
def test_cmkd_gradient_norms(case: str, detach: bool) -> None:
    bench = cmkd(case, pseudo_detach=detach)
    first_conv = next(bench.method.projectors.parameters())  # type: ignore[union-attr]
    assert bench.norms(bench.total(), first_conv) == pytest.approx(NORMS[case, detach], rel=1e-6)


def test_cmkd_without_the_pseudo_gradient_at_the_student_logits() -> None:
    bench = cmkd("C")
    whole = torch.autograd.grad(bench.total(), bench.z_s)[0]
    pseudo = torch.autograd.grad(bench.values({"pseudo"})["pseudo"], bench.z_s)[0]
    assert (whole - pseudo).norm().item() == pytest.approx(0.8647568, rel=1e-6)


def test_cmkd_with_factor_2() -> None:
    bench = cmkd("A", factor=2)
    bench.values()
    assert bench.method.details["feature/stage2"].item() == pytest.approx(0.6677329, rel=1e-6)
    assert bench.method.details["feature/stage1"].item() == pytest.approx(0.7000879, rel=1e-6)
    assert bench.total().item() == pytest.approx(29.27166, rel=1e-6)


@pytest.mark.parametrize(("inputs", "count"), [(256, 722_432), (128, 689_664)])
def test_projector_parameters(inputs: int, count: int) -> None:
    assert sum(p.numel() for p in Projector(inputs, 256).parameters()) == count


# ---- SRRL -------------------------------------------------------------------------------------------

SRRL_VALUES = {
    "A": (0.04677107, 0.4059677, 2.922244, 0.4278509, 1.444421),
    "B": (0.02540419, 0.7342865, 3.816573, 0.2921680, 1.489811),
    "C": (0.1472133, 0.6716866, 3.899166, 0.3533363, 1.414268),
    "E": (0.01242214, 0.2154188, 3.488438, 0.2326715, 0.7212267),
}


@pytest.mark.parametrize("case", SRRL_VALUES)
def test_srrl_values(case: str) -> None:
    fm, sr, total, pooled_fm, pooled_sr = SRRL_VALUES[case]
    bench = srrl(case)
    values = bench.values()
    assert values["fm"].item() == pytest.approx(fm, rel=1e-6)
    assert values["sr"].item() == pytest.approx(sr, rel=1e-6)
    assert bench.total().item() == pytest.approx(total, rel=1e-6)
    pooled = srrl(case, connector="pooled").values()
    assert pooled["fm"].item() == pytest.approx(pooled_fm, rel=1e-6)
    assert pooled["sr"].item() == pytest.approx(pooled_sr, rel=1e-6)


def test_srrl_sr_is_fm_in_the_metric_of_the_classifier() -> None:
    bench = srrl("C")
    values = bench.values()
    error = bench.method.connector(bench.s1).mean((2, 3)) - bench.step.teacher.embedding  # type: ignore[operator]
    w = bench.classifier.weight
    metric = torch.einsum("bi,ij,bj->b", error, w.T @ w, error).mean() / 5
    assert values["sr"].item() == pytest.approx(metric.item(), rel=1e-10)
    assert values["fm"].item() == pytest.approx(error.square().mean().item(), rel=1e-10)


def test_srrl_sr_as_kl_is_the_stage_kd_of_cmkd() -> None:
    bench = srrl("C", sr_form="kl")
    logits = bench.classifier(bench.method.connector(bench.s1).mean((2, 3)))  # type: ignore[operator]
    z_t = bench.step.teacher.logits
    expected = 16 * F.kl_div(F.log_softmax(logits / 4, 1), F.softmax(z_t / 4, 1), reduction="batchmean")
    assert bench.values()["sr"].item() == pytest.approx(expected.item(), rel=1e-10)


def test_connector_initialisation() -> None:
    weight = Connector(400, 50)[0].weight
    assert weight.std().item() == pytest.approx((2 / 50) ** 0.5, rel=0.03)


# ---- FitNet -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "kernel", "value", "norm"), [(8, 1, 1.50741, 0.0174766), (16, 3, 1.51699, 0.0167444)]
)
def test_fitnet_values(size: int, kernel: int, value: float, norm: float) -> None:
    from kdlab.losses import feature_mse

    torch.manual_seed(0)
    fs = torch.randn(4, 16, size, size).double().requires_grad_()
    ft = torch.randn(4, 32, 8, 8).double()
    weight, bias = torch.randn(32, 16, kernel, kernel).double() * 0.1, torch.randn(32).double() * 0.1
    regressor = Regressor((16, size, size), (32, 8, 8)).double()
    with torch.no_grad():
        regressor[0].weight.copy_(weight)
        regressor[0].bias.copy_(bias)
    hint = feature_mse(regressor(fs), ft)
    assert hint.item() == pytest.approx(value, rel=1e-5)
    assert torch.autograd.grad(hint, fs)[0].norm().item() == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize(
    ("student", "teacher", "kind", "kernel"),
    [
        ((4, 8, 8), (6, 8, 8), nn.Conv2d, (1, 1)),
        ((4, 8, 8), (6, 4, 4), nn.Conv2d, (3, 3)),
        ((4, 4, 4), (6, 8, 8), nn.ConvTranspose2d, (4, 4)),
        ((4, 7, 9), (6, 5, 9), nn.Conv2d, (3, 1)),
    ],
)
def test_regressor_follows_the_sizes(student: Any, teacher: Any, kind: type, kernel: tuple[int, int]) -> None:
    regressor = Regressor(student, teacher)
    assert isinstance(regressor[0], kind) and regressor[0].kernel_size == kernel
    assert regressor[0].bias is not None
    assert regressor(torch.randn(2, *student)).shape == (2, *teacher)

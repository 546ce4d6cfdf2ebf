"""DKD, NKD, DIST, TTM, WTTM, LSKD, CTKD: the methods' values by independent code, and what they refuse."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from methods_logits import E1, drawn, r1, r3, ready, spec, step_of, total, values
from torch import Tensor

from kdlab import losses
from kdlab.errors import ConfigError
from kdlab.methods import (
    AT,
    CE,
    CTKD,
    DIST,
    DKD,
    KD,
    LSKD,
    MLKD,
    NKD,
    SKD,
    SRRL,
    STATUS_TEXT,
    TTM,
    WTTM,
    Method,
    describe,
    make,
    names,
    table,
)

KEYS = ["dkd", "nkd", "dist", "ttm", "wttm", "ls_kd", "ctkd"]


def numbers(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in terms.items()}


# ---- the definitions, written out again ------------------------------------------------------------------


def split(z: Tensor, y: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """p_t and phat, from whole probabilities."""
    p = F.softmax(z / tau, 1)
    own = F.one_hot(y, z.shape[1]).bool()
    p_t = p[own]
    return p_t, p[~own].view(len(y), -1) / (1 - p_t)[:, None]


def test_dkd() -> None:
    zs, zt, y = drawn()
    (s_t, s_hat), (t_t, t_hat) = split(zs, y, 4.0), split(zt, y, 4.0)
    tckd = t_t * (t_t / s_t).log() + (1 - t_t) * ((1 - t_t) / (1 - s_t)).log()
    nckd = (t_hat * (t_hat / s_hat).log()).sum(1)
    expected = {
        "ce": F.cross_entropy(zs, y).item(),
        "tckd": 16 * tckd.mean().item(),
        "nckd": 16 * nckd.mean().item(),
    }
    assert numbers(values(DKD(), zs, zt, y)) == pytest.approx(expected, rel=1e-10)


def test_dkd_with_kds_weights_is_kd_sample_by_sample() -> None:
    zs, zt, y = drawn(1)
    parts = numbers(values(DKD(), zs, zt, y))
    unsure = 1 - split(zt, y, 4.0)[0].item()
    kd = values(KD(), zs, zt, y)["kd"].item()
    assert parts["tckd"] + unsure * parts["nckd"] == pytest.approx(kd, rel=1e-12)


def test_dkd_warms_up() -> None:
    dkd = DKD(beta=6, alpha=0.5)
    assert [dkd.terms["nckd"].factor(e) for e in (1, 10, 20, 99)] == pytest.approx([0.3, 3, 6, 6])
    assert dkd.terms["tckd"].factor(1) == pytest.approx(0.025) and dkd.terms["ce"].factor(1) == 1
    assert DKD(warmup=0).terms["nckd"].factor(1) == 8


def test_nkd() -> None:
    zs, zt, y = drawn()
    s_hat, t_hat = split(zs, y, 3.0)[1], split(zt, y, 3.0)[1]
    s_t, t_t = split(zs, y, 1.0)[0], split(zt, y, 1.0)[0]
    expected = {
        "ce": F.cross_entropy(zs, y).item(),
        "target": -(t_t * s_t.log()).mean().item(),
        "nontarget": -9 * (t_hat * s_hat.log()).sum(1).mean().item(),
    }
    assert numbers(values(NKD(), zs, zt, y)) == pytest.approx(expected, rel=1e-10)


def test_nkd_gradient_of_the_other_classes() -> None:
    zs, zt, y = drawn()
    zs.requires_grad_()
    (gradient,) = torch.autograd.grad(values(NKD(temperature=3), zs, zt, y)["nontarget"], zs)
    own = F.one_hot(y, 7).bool()
    expected = 3 * (split(zs, y, 3.0)[1] - split(zt, y, 3.0)[1]) / len(y)
    assert torch.allclose(gradient[~own].view(len(y), -1), expected)
    assert gradient[own].abs().max() == 0


def test_nkd_value_that_a_public_reimplementation_misses() -> None:
    zs, zt, y = (x.double() if x.is_floating_point() else x for x in r1())
    nkd = NKD(gamma=1.5, temperature=1.0, ce=0.0)
    assert total(nkd, values(nkd, zs, zt, y)).item() == pytest.approx(4.482, rel=1e-6)  # not 4.705534


def test_dist() -> None:
    zs, zt, y = drawn(9)
    p, q = F.softmax(zs / 4, 1), F.softmax(zt / 4, 1)
    rows = torch.stack([torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(p, q)]).mean()
    columns = torch.stack([torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(p.T, q.T)]).mean()
    dist = DIST(beta=0.5)
    terms = numbers(values(dist, zs, zt, y))
    assert terms["inter"] == pytest.approx(16 * (1 - rows.item()), rel=1e-5)
    assert terms["intra"] == pytest.approx(16 * (1 - columns.item()), rel=1e-5)
    assert (dist.terms["inter"].weight, dist.terms["intra"].weight) == (1.0, 2.0)


def test_dist_has_no_use_for_labels_and_depends_on_the_batch() -> None:
    zs, zt, y = drawn(8)
    whole = values(DIST(), zs, zt, y)
    other = values(DIST(), zs, zt, y.flip(0))
    assert whole["inter"].item() == other["inter"].item() and whole["intra"].item() == other["intra"].item()
    halves = [values(DIST(), zs[i : i + 4], zt[i : i + 4], y[i : i + 4]) for i in (0, 4)]
    means = {n: (halves[0][n] + halves[1][n]).item() / 2 for n in whole}
    assert means["inter"] == pytest.approx(whole["inter"].item())
    assert means["intra"] != pytest.approx(whole["intra"].item(), rel=1e-3)


def test_ttm_and_wttm() -> None:
    zs, zt, y = drawn()
    p = F.softmax(zt, 1) ** 0.1
    u = p.sum(1)
    q = p / u[:, None]
    each = (q * (q.log() - F.log_softmax(zs, 1))).sum(1)
    assert values(TTM(), zs, zt, y)["ttm"].item() == pytest.approx(each.mean().item(), rel=1e-10)
    assert values(WTTM(), zs, zt, y)["wttm"].item() == pytest.approx((u * each).mean().item(), rel=1e-10)


def test_ttm_is_kd_with_a_bonus_for_entropy() -> None:
    zs, zt, y = drawn(1)
    gamma = 0.3
    q = F.softmax(gamma * zt, 1)
    entropy = -(q * q.log()).sum()
    renyi = (F.softmax(zs, 1) ** gamma).sum().log() / (1 - gamma)
    powered = F.kl_div(F.log_softmax(gamma * zs, 1), q, reduction="sum")
    plain = values(TTM(gamma=gamma), zs, zt, y)["ttm"]
    both = gamma * plain - (1 - gamma) * entropy + (1 - gamma) * renyi
    assert powered.item() == pytest.approx(both.item(), rel=1e-10)


def test_wttm_weighs_what_the_teacher_is_unsure_of() -> None:
    zs = torch.zeros(1, 10)
    sure, unsure = torch.zeros(1, 10), torch.zeros(1, 10)
    sure[0, 0], unsure[0, 0] = 30.0, 0.5
    y = torch.tensor([0])
    for zt, weight in ((sure, 1.0), (unsure, 10**0.5)):  # C^(1 - gamma) for a uniform teacher
        ratio = values(WTTM(gamma=0.5), zs, zt, y)["wttm"] / values(TTM(gamma=0.5), zs, zt, y)["ttm"]
        assert ratio.item() == pytest.approx(weight, rel=0.02)


# ---- LSKD ----------------------------------------------------------------------------------------------


def zscore(z: Tensor) -> Tensor:
    n = z.shape[1]
    mean = z.sum(1, keepdim=True) / n
    std = ((z - mean).square().sum(1, keepdim=True) / (n - 1)).sqrt()
    return (z - mean) / (std + 1e-7)


def test_ls_kd_is_kd_on_z_scores() -> None:
    zs, zt, y = drawn()
    lskd = LSKD()
    terms = values(lskd, zs, zt, y)
    a, b = F.log_softmax(zscore(zs) / 2, 1), F.log_softmax(zscore(zt) / 2, 1)
    assert terms["kd"].item() == pytest.approx(4 * (b.exp() * (b - a)).sum(1).mean().item(), rel=1e-10)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(zs, y).item(), rel=1e-12)  # on raw logits
    assert {n: t.weight for n, t in lskd.terms.items()} == {"ce": 0.1, "kd": 9.0}


def test_ls_kd_is_kd_at_a_temperature_for_each_sample() -> None:
    """One temperature per network and sample, which is why ranges do not matter."""
    zs, zt, y = drawn()
    a = F.log_softmax(zs / (2 * zs.std(1, keepdim=True)), 1)
    b = F.log_softmax(zt / (2 * zt.std(1, keepdim=True)), 1)
    expected = 4 * (b.exp() * (b - a)).sum(1).mean().item()
    assert values(LSKD(), zs, zt, y)["kd"].item() == pytest.approx(expected, rel=1e-6)


HOSTS: list[Any] = ["kd", "dkd", "nkd", "dist", "ttm", "wttm", "mlkd", DKD(beta=2), "dkd + dist", CTKD()]


@pytest.mark.parametrize("host", HOSTS, ids=lambda h: h if isinstance(h, str) else repr(h)[:4])
def test_any_logit_method_can_be_standardised(host: Any) -> None:
    zs, zt, y = drawn()
    second = step_of(zs.flip(0), zt.flip(0), y)
    method, alone = ready(LSKD(host), zs), make(LSKD(host).host.fresh())
    ready(alone, zs)
    got = method.losses(step_of(zs, zt, y, second=second), list(method.terms))
    scored_second = step_of(zscore(zs).flip(0), zscore(zt).flip(0), y)
    expected = alone.losses(step_of(zscore(zs), zscore(zt), y, second=scored_second), list(alone.terms))
    assert set(got) == set(expected) == set(method.terms)
    for name in set(got) - {"ce"}:
        assert got[name].item() == pytest.approx(expected[name].item(), rel=1e-9), name
        scaled = method.losses(step_of(3 * zs - 1, 9 * zt + 4, y, second=second), [name])
        assert scaled[name].item() == pytest.approx(got[name].item(), rel=1e-5), name


@pytest.mark.parametrize("host", ["kd", "dkd", "nkd", "dist", "ttm"])
def test_standardised_gradients_are_orthogonal_to_the_logits(host: str) -> None:
    zs, zt, y = drawn()
    zs.requires_grad_()
    terms = values(LSKD(host), zs, zt, y)
    for name in set(terms) - {"ce"}:
        (gradient,) = torch.autograd.grad(terms[name], zs, retain_graph=True)
        assert gradient.abs().max() > 1e-6
        assert gradient.sum(1).abs().max() < 1e-12
        assert (gradient * (zs - zs.mean(1, keepdim=True))).sum(1).abs().max() < 1e-6


def test_ls_kd_settings_of_hosts() -> None:
    def weights(method: Method) -> dict[str, float]:
        return {name: term.weight for name, term in method.terms.items()}

    assert weights(LSKD("dkd")) == {"ce": 1, "tckd": 9, "nckd": 72}
    assert LSKD("dkd").host.temperature == 2 and str(LSKD("dkd").terms["nckd"].schedule) == "warmup:20"
    assert weights(LSKD({"key": "dkd"})) == {"ce": 1, "tckd": 1, "nckd": 8}
    assert weights(LSKD(temperature=3, kd=6)) == {"ce": 0.1, "kd": 6}
    assert LSKD(temperature=3).host.temperature == 3
    given = LSKD(DKD(beta=2, temperature=1))
    assert given.params["host"] == DKD(beta=2, temperature=1).config()
    assert eval(given.code(), {"kdlab": __import__("kdlab")}).config() == given.config()
    assert LSKD("mlkd").second_view == MLKD.second_view != "" == LSKD().second_view


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: LSKD("at"), r"LSKD\(host=...\) must be a method that compares logits, and AT also reads"),
        (lambda: LSKD(SRRL()), r"add the two instead: LSKD\(\) \+ kdlab.methods.SRRL\(\)"),
        (lambda: LSKD("ce"), "must be a method that reads a teacher; CE has none"),
        (lambda: LSKD("dkd", temperature=3), r"LSKD\(temperature=...\) belong to the host 'kd'"),
        (lambda: LSKD(KD(), kd=3), r"LSKD\(kd=...\) belong to the host 'kd'"),
        (lambda: LSKD("kdd"), "no method named 'kdd'"),
        (lambda: DKD(temperature=0), "above 0"),
        (lambda: DKD(warmup=1.5), "whole number"),  # type: ignore[arg-type]
        (lambda: DIST(beta="x"), "must be a number"),  # type: ignore[arg-type]
        (lambda: TTM(gamma=0), "above 0"),
        (lambda: CTKD(host="nkd"), "'kd' or 'dkd'"),  # type: ignore[arg-type]
        (lambda: CTKD(strength=2), "from 0 to 1"),
        (lambda: CTKD(t_end=0), "above 0"),
        (lambda: CTKD(epochs=0), "at least 1"),
    ],
)
def test_impossible_arguments(make_it: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_it()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (DKD(), r"DKD needs at least 3 classes and there are 2: .*DKD\(beta=0\)"),
        (NKD(), r"NKD\(gamma=0\)"),
        (DIST(), r"DIST\(beta=0\)"),
        (LSKD(), "two z-scores"),
        (CTKD(host="dkd"), "host='kd'"),
        (SKD(host="dkd"), r"DKD\(beta=0\)"),
    ],
)
def test_two_classes_are_refused_where_nothing_is_left(method: Method, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method.fresh().build(spec(2), [spec(2)])


@pytest.mark.parametrize("method", [DKD(beta=0), NKD(gamma=0), DIST(beta=0), TTM(), WTTM(), CTKD()])
def test_two_classes_work_where_they_can(method: Method) -> None:
    zs, zt, y = drawn(c=2)
    for name, value in values(method.fresh(), zs, zt, y).items():
        assert value.isfinite(), name


# ---- CTKD ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epoch", "strength", "reversal"), [(10, 1.0, -1.0), (10, 0.5, -0.5)])
def test_ctkd_worked_value(epoch: int, strength: float, reversal: float) -> None:
    zs, zt, y = (x.double() if x.is_floating_point() else x for x in r3())
    ctkd = ready(CTKD(strength=strength), zs)
    value = ctkd.losses(step_of(zs, zt, y, epoch=epoch), ["kd"])["kd"]
    assert value.item() == pytest.approx(1.377520, rel=1e-5)
    assert ctkd.details["temperature/mean"].item() == pytest.approx(15.621172, rel=1e-7)
    value.backward()
    (theta,) = ctkd.parameters()
    assert theta.grad is not None
    # The sheet's 0.02987397 is a float32 result; finite differences in float64 give 0.02987792.
    assert theta.grad.item() == pytest.approx(-0.02987397 * reversal, rel=2e-4)
    assert theta.grad.item() == pytest.approx(-0.02987792 * reversal, rel=1e-6)


def test_ctkd_curriculum() -> None:
    ctkd = CTKD()
    seen = [ctkd.reversal(e) for e in (1, 2, 3, 10, 50)]
    assert seen == pytest.approx([-0.024472, -0.095492, -0.206107, -1, -1], abs=5e-7)
    assert CTKD(epochs=5).reversal(5) == -1 and CTKD(adversarial=False).reversal(3) == 1


def test_ctkd_student_gradient_is_that_of_kd_at_the_temperature() -> None:
    zs, zt, y = drawn()
    gradients = []
    for method, epoch in (
        (CTKD(), 1),
        (CTKD(), 50),
        (KD(temperature=1 + 20 * torch.tensor(1.0).double().sigmoid().item()), 1),
    ):
        z = zs.clone().requires_grad_()
        ready(method, z).losses(step_of(z, zt, y, epoch=epoch), ["kd"])["kd"].backward()
        gradients.append(z.grad)
    assert torch.allclose(gradients[0], gradients[2]) and torch.allclose(gradients[1], gradients[2])


@pytest.mark.parametrize(("adversarial", "sign"), [(True, 1), (False, -1)])
def test_ctkd_temperature_ascends_the_loss_that_the_student_descends(adversarial: bool, sign: int) -> None:
    zs, zt, y = drawn()
    ctkd = ready(CTKD(adversarial=adversarial), zs)
    optimiser = torch.optim.SGD(ctkd.parameter_groups(), lr=0.5, weight_decay=5e-4)
    assert optimiser.param_groups[0]["weight_decay"] == 0.0
    seen = []
    for _ in range(20):
        value = ctkd.losses(step_of(zs, zt, y, epoch=10), ["kd"])["kd"]
        seen.append(value.item())
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    assert all((b - a) * sign > 0 for a, b in pairwise(seen))


def test_ctkd_per_sample_starts_like_the_scalar_and_then_differs() -> None:
    zs, zt, y = drawn()
    scalar, each = ready(CTKD(), zs), ready(CTKD(per_sample=True), zs)
    step = step_of(zs, zt, y, epoch=10)
    assert each.losses(step, ["kd"])["kd"].item() == pytest.approx(scalar.losses(step, ["kd"])["kd"].item())
    optimiser = torch.optim.SGD(each.parameter_groups(), lr=5.0)
    for _ in range(5):
        optimiser.zero_grad()
        each.losses(step, ["kd"])["kd"].backward()
        optimiser.step()
    theta = each.temperature(zt, zs)  # type: ignore[operator]
    assert theta.shape == (6, 1) and theta.std() > 1e-3
    temperature = 1 + 20 * theta.sigmoid()
    assert each.losses(step, ["kd"])["kd"].item() == pytest.approx(losses.kd(zs, zt, temperature).item())


@pytest.mark.parametrize("per_sample", [False, True])
def test_ctkd_with_dkd_as_host(per_sample: bool) -> None:
    zs, zt, y = drawn()
    ctkd = CTKD(host="dkd", per_sample=per_sample)
    terms = values(ctkd, zs, zt, y)
    tau = 1 + 20 * torch.tensor(1.0).double().sigmoid().item()
    plain = values(DKD(temperature=tau), zs, zt, y)
    assert numbers(terms) == pytest.approx(numbers(plain), rel=1e-9)
    assert {n: t.weight for n, t in ctkd.terms.items()} == {"ce": 1, "tckd": 1, "nckd": 2}


def test_dkd_with_a_temperature_for_each_sample() -> None:
    zs, zt, y = drawn()
    taus = torch.rand(6, 1, dtype=torch.float64) + 1
    for part in (losses.tckd, losses.nckd):
        each = [part(zs[i : i + 1], zt[i : i + 1], y[i : i + 1], float(taus[i])).item() for i in range(6)]
        assert part(zs, zt, y, taus).item() == pytest.approx(sum(each) / 6, rel=1e-12)
        same = part(zs, zt, y, torch.full((6, 1), 3.0, dtype=torch.float64))
        assert same.item() == pytest.approx(part(zs, zt, y, 3.0).item(), rel=1e-12)


# ---- all of them ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*KEYS, "kd", "skd", "mlkd"])
def test_gradient_reaches_the_logits_and_nothing_else_of_the_student(key: str) -> None:
    zs, zt, y = drawn()
    zs.requires_grad_()
    method = ready(make(key), zs)
    step = step_of(zs, zt, y, second=step_of(zs.detach().flip(0).requires_grad_(), zt.flip(0), y))
    total(method, method.losses(step, list(method.terms))).backward()
    assert zs.grad is not None and zs.grad.abs().max() > 0
    for untouched in (step.student.embedding, *step.student.stages):
        assert untouched.grad is None
    assert all(p.grad is None for p in step.classifier.parameters())


@pytest.mark.parametrize("key", KEYS)
def test_presets_can_be_made(key: str) -> None:
    cls = type(make(key))
    assert cls.presets
    for params in cls.presets.values():
        assert cls(**params).config()["key"] == key


@pytest.mark.parametrize("key", [*KEYS, "mlkd", "skd"])
def test_without_their_own_terms_they_are_plain_training(key: str) -> None:
    method = make(key)
    for name in set(method.terms) - {"ce"}:
        method.term(name).set(enabled=False)
    assert method.active(1) == ["ce"]
    zs, zt, y = drawn()
    if key != "mlkd":  # which has two views
        ce = ready(CE(), zs).losses(step_of(zs, zt, y), ["ce"])["ce"].item()
        assert ready(method, zs).losses(step_of(zs, zt, y), ["ce"])["ce"].item() == ce


def test_they_add_up_with_feature_methods() -> None:
    assert set((DKD() + AT()).terms) == {"ce", "tckd", "nckd", "at", "kd"}
    assert set((LSKD("dkd") + DIST()).terms) == {"ce", "tckd", "nckd", "inter", "intra"}
    assert set(KEYS) <= set(names())


def test_decomposition_of_the_sheet_in_the_terms_of_dkd() -> None:
    zs, zt, y = (x.double() if x.is_floating_point() else x for x in E1)
    terms = numbers(values(DKD(temperature=1.0), zs, zt, y))
    assert terms["tckd"] == pytest.approx((0.215977 + 0.072014 + 1.054096) / 3, abs=1e-6)
    assert terms["nckd"] == pytest.approx((0.056046 + 0.137618 + 1.304198) / 3, abs=1e-6)


# ---- the index of the sheets ----------------------------------------------------------------------------

INDEX: dict[str, tuple[str, str, str, dict[str, float], list[str]]] = {
    "dkd": ("DKD", "CVPR 2022, arXiv 2203.08679", "code", {"ce": 1, "tckd": 1, "nckd": 8}, []),
    "nkd": ("NKD", "ICCV 2023, arXiv 2303.13005", "code", {"ce": 1, "target": 1, "nontarget": 3.5}, []),
    "dist": ("DIST", "NeurIPS 2022, arXiv 2205.10536", "code", {"ce": 1, "inter": 2, "intra": 2}, []),
    "ttm": ("TTM", "ICLR 2024, arXiv 2402.11148", "code", {"ce": 1, "ttm": 45}, []),
    "wttm": ("WTTM", "ICLR 2024, arXiv 2402.11148", "code", {"ce": 1, "wttm": 45}, []),
    "ls_kd": ("LSKD", "CVPR 2024, arXiv 2403.01427", "code", {"ce": 0.1, "kd": 9}, []),
    "mlkd": (
        "MLKD",
        "CVPR 2023, doi 10.1109/CVPR52729.2023.02325",
        "code",
        {"ce": 0.1, "instance": 0.9, "batch": 0.9, "class": 0.9},
        [],
    ),
    "ctkd": ("CTKD", "AAAI 2023, arXiv 2211.16231", "code", {"ce": 0.1, "kd": 0.9}, ["temperature"]),
    "skd": ("SKD", "arXiv 2305.10893", "recon", {"ce": 0.1, "kd": 0.9, "anchor": 0}, ["simplifier"]),
    "dckd": (
        "DCKD",
        "doi 10.1371/journal.pone.0314267",
        "recon",
        {"ce": 1, "target": 1, "nontarget": 0, "feature": 1},
        ["partner"],
    ),
}


@pytest.mark.parametrize("key", INDEX)
def test_index(key: str) -> None:
    name, paper, status, terms, trained = INDEX[key]
    row = {row["key"]: row for row in table()}[key]
    assert row["class"] == name and row["terms"] == terms and list(row["trained"]) == trained
    assert row["paper"].endswith(paper) and row["status"].startswith(STATUS_TEXT[status])
    card = describe(key)
    for term in make(key).terms.values():
        assert term.doc and term.doc in card and f"reads {', '.join(term.taps)}" in card
    assert max(map(len, card.splitlines())) <= 120

"""SKD: the simplifier's worked values, which gradient goes where, its guards, and what it works around."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from methods_logits import drawn, ready, spec, step_of, total, values
from methods_nets import built, make_step, pair
from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.losses import kd
from kdlab.methods import AT, CTKD, DKD, KD, LSKD, SKD, Method, make
from kdlab.methods.simplifier import Simplifier, guards


def g(shape: tuple[int, ...], a: float, b: float, s: float) -> Tensor:
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return (s * torch.sin(a * i + b + 0.1 * i * i)).reshape(shape)


def worked(b: int, c: int, d: int, **options: Any) -> tuple[SKD, Tensor, Tensor, Tensor]:
    """SKD with the weights of the sheet, and its logits."""
    zt, zs = g((b, c), 0.9, 0.2, 4), g((b, c), 0.7, 0.1, 3).requires_grad_()
    skd = ready(SKD(width=d, **options), zs)
    phi: Any = skd.simplifier
    with torch.no_grad():
        for layer, a, bias in ((phi.query, 0.31, 0.53), (phi.key, 0.41, 0.63), (phi.value, 0.51, 0.73)):
            layer.weight.copy_(g((d, c), a, 0.4, 0.3))
            layer.bias.copy_(g((d,), bias, 0.2, 0.1))
        phi.out.weight.copy_(g((c, d), 0.77, 0.6, 0.3))
        phi.out.bias.copy_(g((c,), 0.21, 0.9, 0.1))
    return skd, zs, zt, torch.arange(b) % c  # type: ignore[return-value]


#   B, C, d, options, zero output: kd, A[0, 0], |D|, gradient norms of z_s, W_q, W_k, W_v, W_o
WORKED: list[tuple[tuple[int, int, int], dict[str, Any], bool, tuple[float, ...]]] = [
    (
        (6, 10, 10),
        {},
        False,
        (3.826724, 0.1915919, 2.511436, 0.356807, 0.0734797, 0.0700472, 0.243839, 0.290989),
    ),
    (
        (6, 10, 10),
        {"input_norm": False},
        False,
        (3.874369, 0.07863674, 8.411862, 0.358374, 0.247701, 0.161380, 1.96958, 1.94084),
    ),
    ((6, 10, 10), {"tau": 1.0}, True, (6.618417, 0.1915919, 0, 0.470474, 0, 0, 0, 0.337896)),
    ((6, 10, 10), {}, True, (3.794313, 0.1915919, 0, 0.353209, 0, 0, 0, 0.273156)),
    ((1, 10, 10), {}, False, (2.528782, 1, 1.117678, 0.704988, 0, 0, 1.67515, 1.39024)),
    (
        (6, 10, 4),
        {"tau": 4.0, "temperature": 1.0},
        False,
        (2.199658, 0.1653564, 1.614621, 0.212929, 0.0842328, 0.0586542, 0.124106, 0.230304),
    ),
]


@pytest.mark.parametrize(("shape", "options", "zero", "expected"), WORKED)
def test_worked_values(
    shape: tuple[int, int, int], options: dict[str, Any], zero: bool, expected: tuple[float, ...]
) -> None:
    skd, zs, zt, y = worked(*shape, **options)
    phi: Any = skd.simplifier
    if zero:
        torch.nn.init.zeros_(phi.out.weight)
        torch.nn.init.zeros_(phi.out.bias)
    value = skd.losses(step_of(zs, zt, y), ["kd"])["kd"]
    softened = F.log_softmax(zt / skd.tau, 1)
    h = F.layer_norm(softened, softened.shape[1:]) if skd.input_norm else softened
    parameters = (zs, phi.query.weight, phi.key.weight, phi.value.weight, phi.out.weight)
    norms = [p.norm().item() for p in torch.autograd.grad(value, parameters)]
    correction = skd.simplify(zt) - softened
    seen = [value.item(), phi.attention(h)[0, 0].item(), correction.norm().item(), *norms]
    assert seen == pytest.approx(expected, rel=5e-6, abs=1e-15)


@pytest.mark.parametrize(("classes", "width", "count"), [(100, 100, 40_400), (1000, 128, 513_384)])
def test_parameters(classes: int, width: int, count: int) -> None:
    skd = SKD()
    skd.build(spec(classes), [spec(classes)])
    assert sum(p.numel() for p in skd.parameters()) == count
    phi: Any = skd.simplifier
    assert phi.query.out_features == width


# ---- identities -------------------------------------------------------------------------------------------


def test_before_training_it_is_kd_with_a_softer_teacher() -> None:
    zs, zt, y = drawn()
    for tau in (1.0, 2.0, 4.0):
        target = values(SKD(tau=tau), zs, zt, y)["kd"]
        a, b = F.log_softmax(zs / 4, 1), F.log_softmax(zt / (4 * tau), 1)
        assert target.item() == pytest.approx(16 * (b.exp() * (b - a)).sum(1).mean().item(), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_softening_it_starts_as_kd_bit_for_bit(dtype: torch.dtype) -> None:
    zs, zt, y = (x.to(dtype) if x.is_floating_point() else x for x in drawn())
    skd = ready(SKD(tau=1.0, softening="scale"), zs)
    plain = KD().losses(step_of(zs, zt, y), ["ce", "kd"])
    mine = skd.losses(step_of(zs, zt, y), ["ce", "kd"])
    assert torch.equal(mine["kd"], plain["kd"]) and torch.equal(mine["ce"], plain["ce"])
    close = ready(SKD(soften=False), zs).losses(step_of(zs, zt, y), ["kd"])["kd"]  # with log_softmax
    assert close.item() == pytest.approx(plain["kd"].item(), rel=1e-6)


def trained(skd: Method, zs: Tensor, zt: Tensor, y: Tensor, steps: int = 3) -> Method:
    """`skd` after a few steps, so that its output layer is not 0."""
    skd = skd if skd.built else ready(skd, zs)
    optimiser = torch.optim.SGD(skd.parameters(), lr=0.5)
    for _ in range(steps):
        optimiser.zero_grad()
        skd.losses(step_of(zs, zt, y), ["kd"])["kd"].backward()
        optimiser.step()
    return skd


@pytest.mark.parametrize("axis", ["samples", "classes", "mlp"])
def test_scale_and_log_softmax_give_one_target(axis: Any) -> None:
    zs, zt, y = drawn()
    first = trained(SKD(axis=axis), zs, zt, y)
    second = ready(SKD(axis=axis, softening="scale"), zs)
    second.load_state_dict(first.state_dict())
    a, b = (m.losses(step_of(zs, zt, y), ["kd"])["kd"].item() for m in (first, second))
    assert a == pytest.approx(b, rel=1e-6)  # softmax and LayerNorm both forget a shift


def test_the_softening_temperature_acts_through_the_residual_path_alone() -> None:
    zs, zt, y = drawn()
    phi = trained(SKD(), zs, zt, y).simplifier
    assert isinstance(phi, Simplifier)
    a, b = phi(F.log_softmax(zt, 1)), phi(F.log_softmax(zt / 4, 1))
    assert torch.allclose(a, b, atol=1e-4) and a.abs().max() > 0.01


@pytest.mark.parametrize(("axis", "alone"), [("samples", False), ("classes", True), ("mlp", True)])
def test_who_a_target_depends_on(axis: Any, alone: bool) -> None:
    zs, zt, y = drawn(8)
    skd = trained(SKD(axis=axis), zs, zt, y)
    whole = skd.simplify(zt)  # type: ignore[operator]
    order = torch.randperm(8)
    assert torch.allclose(skd.simplify(zt[order]), whole[order], atol=1e-10)  # type: ignore[operator]
    part = skd.simplify(zt[:5])  # type: ignore[operator]
    assert part.shape == (5, 7)  # no batch size is built in
    assert torch.allclose(part, whole[:5], atol=1e-10) == alone


def test_class_tokens_know_their_class() -> None:
    zs, zt, y = drawn()
    skd = trained(SKD(axis="classes"), zs, zt, y)
    order = torch.randperm(7)
    a, b = skd.simplify(zt)[:, order], skd.simplify(zt[:, order])  # type: ignore[operator]
    assert not torch.allclose(a, b, atol=1e-4)


# ---- gradient flow ----------------------------------------------------------------------------------------


def test_the_gradient_of_the_target() -> None:
    """d kd / d zt~ = T p~ (log p~ - log p_s - KL_i) / B, and d kd / d z_s = T (p_s - p~) / B."""
    zs, zt, _ = drawn()
    zs.requires_grad_()
    zt.requires_grad_()
    on_student, on_target = torch.autograd.grad(kd(zs, zt, 4.0), (zs, zt))
    with torch.no_grad():
        log_s, log_t = F.log_softmax(zs / 4, 1), F.log_softmax(zt / 4, 1)
        each = (log_t.exp() * (log_t - log_s)).sum(1, keepdim=True)
        assert torch.allclose(on_target, 4 * log_t.exp() * (log_t - log_s - each) / 6, atol=1e-14)
        assert torch.allclose(on_student, 4 * (log_s.exp() - log_t.exp()) / 6, atol=1e-14)
    assert torch.autograd.gradcheck(lambda t: kd(zs.detach(), t, 4.0), (zt,))


def test_finite_differences_through_the_simplifier() -> None:
    zs, zt, y = drawn(4, 5)
    skd = trained(SKD(width=3), zs, zt, y)
    step = step_of(zs, zt, y)
    weight: Any = skd.simplifier.query.weight  # type: ignore[union-attr]
    (gradient,) = torch.autograd.grad(skd.losses(step, ["kd"])["kd"], weight)
    with torch.no_grad():
        for at in ((0, 0), (2, 4)):
            both = []
            for sign in (1, -1):
                weight[at] += sign * 1e-5
                both.append(skd.losses(step, ["kd"])["kd"].item())
                weight[at] -= sign * 1e-5
            assert (both[0] - both[1]) / 2e-5 == pytest.approx(gradient[at].item(), rel=1e-4)


def test_ce_leaves_the_simplifier_alone_and_the_teacher_gets_nothing() -> None:
    zs, zt, y = drawn()
    zs.requires_grad_()
    zt.requires_grad_()
    skd = ready(SKD(anchor=0.5), zs)
    terms = skd.losses(step_of(zs, zt, y), ["ce", "kd", "anchor"])
    phi = list(skd.parameters())
    assert all(x is None for x in torch.autograd.grad(terms["ce"], phi, allow_unused=True, retain_graph=True))
    for name in ("kd", "anchor"):
        reached = torch.autograd.grad(terms[name], [zt, *phi], allow_unused=True, retain_graph=True)
        assert reached[0] is None and all(x is not None for x in reached[1:])
    assert torch.autograd.grad(terms["anchor"], zs, allow_unused=True)[0] is None


def test_the_attention_starts_to_learn_in_the_second_step() -> None:
    zs, zt, y = drawn()
    skd = ready(SKD(), zs)
    phi: Any = skd.simplifier
    norms = []
    optimiser = torch.optim.SGD(skd.parameters(), lr=0.5)
    for _ in range(2):
        optimiser.zero_grad()
        skd.losses(step_of(zs, zt, y), ["kd"])["kd"].backward()
        norms.append([layer.weight.grad.norm().item() for layer in (phi.query, phi.value, phi.out)])
        optimiser.step()
    assert norms[0][:2] == [0, 0] and norms[0][2] > 0
    assert min(norms[1]) > 0


def test_one_sample_has_nothing_to_look_at() -> None:
    zs, zt, y = drawn(1)
    skd = trained(SKD(), zs, zt, y)
    skd.zero_grad()
    skd.losses(step_of(zs, zt, y), ["kd"])["kd"].backward()
    phi: Any = skd.simplifier
    assert phi.query.weight.grad.abs().max() == 0 and phi.value.weight.grad.abs().max() > 0


def test_detached_targets_do_not_learn() -> None:
    zs, zt, y = drawn()
    zs.requires_grad_()
    skd = ready(SKD(detach=True), zs)
    value = skd.losses(step_of(zs, zt, y), ["kd"])["kd"]
    assert all(x is None for x in torch.autograd.grad(value, list(skd.parameters()), allow_unused=True))


def test_target_and_student_move_towards_each_other() -> None:
    zs, zt, y = drawn()
    before = values(SKD(), zs, zt, y)["kd"].item()
    after = trained(SKD(), zs, zt, y, 20).losses(step_of(zs, zt, y), ["kd"])["kd"].item()
    assert after < 0.9 * before  # the student's logits did not change here


# ---- collapse ---------------------------------------------------------------------------------------------


def test_guards() -> None:
    zt = torch.zeros(6, 5, dtype=torch.float64)
    zt[torch.arange(6), torch.arange(6) % 5] = 8.0
    same = guards(zt, zt, 1.0)
    assert same["simplifier/agreement"] == 1 and abs(same["simplifier/distance"]) < 1e-12
    flat = guards(torch.zeros_like(zt), zt, 1.0)
    assert flat["simplifier/entropy"].item() == pytest.approx(1) and flat["simplifier/batch variance"] == 0
    collapsed = torch.zeros_like(zt)
    collapsed[:, 2] = 50.0
    gone = guards(collapsed, zt, 1.0)
    assert gone["simplifier/entropy"] < 1e-6 and gone["simplifier/batch variance"] == 0
    assert gone["simplifier/agreement"].item() == pytest.approx(1 / 6)
    assert gone["simplifier/distance"] > 5


def test_guards_are_shown_whenever_the_simplifier_ran() -> None:
    zs, zt, y = drawn()
    skd = ready(SKD(anchor=1.0), zs)
    names = {f"simplifier/{n}" for n in ("entropy", "batch variance", "agreement", "distance")}
    for active in (["kd"], ["anchor"], ["ce", "kd"]):
        skd.losses(step_of(zs, zt, y), active)
        assert set(skd.details) == names
        assert not any(v.requires_grad for v in skd.details.values())
    skd.losses(step_of(zs, zt, y), ["ce"])
    assert skd.details == {}
    plain = ready(SKD(simplifier=False), zs)
    plain.losses(step_of(zs, zt, y), ["kd"])
    assert plain.details == {} and not list(plain.parameters())


def play(steps: int = 150, **options: Any) -> dict[str, float]:
    """Student logits and simplifier learn against each other; what the guards say at the end."""
    torch.manual_seed(4)
    zt = 3 * torch.randn(12, 6)
    y = zt.argmax(1)
    zs = (0.1 * torch.randn(12, 6)).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        skd = ready(SKD(**options), zs)
    optimiser = torch.optim.Adam([zs, *skd.parameters()], lr=0.05)
    for _ in range(steps):
        terms = skd.losses(step_of(zs, zt, y), skd.active(30))
        optimiser.zero_grad()
        total(skd, terms).backward()
        optimiser.step()
    return {name.removeprefix("simplifier/"): value.item() for name, value in skd.details.items()}


def test_soft_cross_entropy_sharpens_the_target_and_the_guards_tell() -> None:
    full, soft = play(), play(divergence="soft_ce")
    assert soft["entropy"] < 0.5 * full["entropy"]
    assert soft["distance"] > full["distance"]


def test_soft_cross_entropy_is_kl_plus_entropy() -> None:
    zs, zt, y = drawn()
    zs.requires_grad_()
    p, log_s = F.softmax(zt / 8, 1), F.log_softmax(zs / 4, 1)
    value = values(SKD(divergence="soft_ce"), zs, zt, y)["kd"]
    assert value.item() == pytest.approx(-16 * (p * log_s).sum(1).mean().item(), rel=1e-10)


def test_an_anchor_holds_the_target() -> None:
    assert play(anchor=5.0)["distance"] < 0.5 * play()["distance"]


def test_without_ce_there_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="student and simplifier can agree on anything"):
        SKD(ce=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SKD(ce=0.0, simplifier=False)
        SKD(ce=0.0, detach=True)
        SKD()


# ---- hosts ------------------------------------------------------------------------------------------------

HOSTS: list[Any] = ["dkd", "nkd", "dist", "ttm", "wttm", "ctkd", "ls_kd", DKD(beta=2, warmup=0), "dkd + dist"]


@pytest.mark.parametrize("host", HOSTS, ids=lambda h: h if isinstance(h, str) else "DKD()")
def test_any_logit_method_reads_the_simplified_logits(host: Any) -> None:
    zs, zt, y = drawn()
    skd = ready(SKD(host=host), zs)
    inner = skd.host.fresh()  # type: ignore[operator]
    ready(inner, zs)
    phi: Any = skd.simplifier
    torch.nn.init.normal_(phi.out.weight, std=0.1)
    with torch.no_grad():
        target = skd.simplify(zt)  # type: ignore[operator]
    mine = skd.losses(step_of(zs, zt, y), [n for n in skd.terms if n != "anchor"])
    plain = inner.losses(step_of(zs, target, y), list(inner.terms))
    assert {n: v.item() for n, v in mine.items()} == pytest.approx(
        {n: v.item() for n, v in plain.items()}, rel=1e-10
    )
    assert {n: str(t) for n, t in skd.terms.items() if n != "anchor"} == {
        n: str(t) for n, t in inner.terms.items()
    }
    torch.stack([v for n, v in mine.items() if n != "ce"]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in phi.parameters())


def test_settings_of_the_host() -> None:
    skd = SKD(temperature=8, ce=0.3, kd=0.7)
    assert skd.host.temperature == 8 and skd.terms["kd"].weight == 0.7 and skd.terms["ce"].weight == 0.3
    assert str(SKD(host="dkd").terms["nckd"].schedule) == "warmup:20"
    kept = SKD(host=KD(temperature=2, kd=0.4))
    assert make(kept.config()).config() == kept.config() == kept.fresh().config()
    assert kept.terms["kd"].weight == 0.4
    assert eval(kept.code(), {"kdlab": __import__("kdlab")}).config() == kept.config()
    for params in SKD.presets.values():
        SKD(**params)


def test_standardised_hosts_leave_no_dead_knob() -> None:
    assert SKD(host="ls_kd").tau == 1 and SKD().tau == 2 and SKD(soften=False).tau == 1
    with pytest.raises(ConfigError, match=r"SKD\(tau=...\) has no effect behind logit standardisation"):
        SKD(host="ls_kd", tau=2)
    with pytest.raises(ConfigError, match="no effect behind"):
        SKD(host=LSKD("dkd"), tau=4.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "at"}, r"must be a method that compares logits.*add the two instead: SKD\(\) \+ kdlab"),
        ({"host": "ce"}, "must be a method that reads a teacher"),
        ({"host": "aver"}, "one teacher's logits"),
        ({"host": "dkd", "temperature": 2}, "belong to the host 'kd'"),
        ({"host": "dkd", "divergence": "soft_ce"}, "ablation of the host 'kd'"),
        ({"soften": False, "tau": 3.0}, "means tau = 1"),
        ({"simplifier": False, "residual": False}, "has no target"),
        ({"axis": "pixels"}, "'samples' or 'classes'"),
        ({"tau": 0.0}, "above 0"),
        ({"width": 0}, "at least 1"),
        ({"lr_scale": 0}, "above 0"),
    ],
)
def test_impossible_combinations(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SKD(**options)


def test_feature_methods_are_added() -> None:
    student, teacher = pair()
    both = built(SKD() + AT(), student, teacher)
    step = make_step(student, teacher)
    assert set(both.terms) == {"ce", "kd", "anchor", "at"}
    phi = [p for name, p in both.named_parameters() if "simplifier" in name]
    at = both.losses(step, ["at"])["at"]
    assert all(x is None for x in torch.autograd.grad(at, phi, allow_unused=True))
    assert "simplifier/entropy" not in both.details
    both.losses(step, ["kd", "at"])
    assert {"simplifier/entropy", "at/stage1"} <= set(both.details)


# ---- optimiser and state ----------------------------------------------------------------------------------


def test_the_simplifier_is_a_parameter_group_of_its_own() -> None:
    zs = drawn()[0]
    skd = ready(SKD(lr_scale=0.1, host=CTKD()), zs)
    first, second = skd.parameter_groups()
    assert first["lr_scale"] == 0.1 and "weight_decay" not in first and len(first["params"]) == 8
    assert second["weight_decay"] == 0.0 and len(second["params"]) == 1
    assert {id(p) for p in skd.parameters()} == {id(p) for grp in (first, second) for p in grp["params"]}


def test_resuming_restores_the_simplifier_and_its_momentum() -> None:
    zs, zt, y = drawn()

    def start() -> tuple[Method, torch.optim.SGD]:
        skd = ready(SKD(), zs)
        return skd, torch.optim.SGD(skd.parameters(), lr=0.3, momentum=0.9)

    def go(skd: Method, optimiser: torch.optim.SGD, steps: int) -> float:
        for _ in range(steps):
            optimiser.zero_grad()
            value = skd.losses(step_of(zs, zt, y), ["kd"])["kd"]
            value.backward()
            optimiser.step()
        return value.item()

    skd, optimiser = start()
    go(skd, optimiser, 3)
    saved, momentum = copy.deepcopy(skd.state_dict()), copy.deepcopy(optimiser.state_dict())
    whole = go(skd, optimiser, 3)
    again, fresh = start()
    again.load_state_dict(saved)
    forgetful = copy.deepcopy(again)
    fresh.load_state_dict(momentum)
    assert go(again, fresh, 3) == whole
    assert go(forgetful, torch.optim.SGD(forgetful.parameters(), lr=0.3, momentum=0.9), 3) != whole


@pytest.mark.parametrize("axis", ["samples", "classes", "mlp"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(axis: Any, dtype: torch.dtype) -> None:
    zs, _, y = drawn()
    skd = ready(SKD(axis=axis), zs.float())
    torch.nn.init.normal_(skd.simplifier.out.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    half = (200 * torch.randn(6, 7).sign()).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        terms = skd.losses(step_of(half, (200 * torch.randn(6, 7)).to(dtype), y), ["kd", "anchor"])
    terms["kd"].backward()
    assert all(v.dtype == torch.float32 and v.isfinite() for v in terms.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (half, *skd.parameters()))


def test_it_is_called_a_reconstruction() -> None:
    assert SKD.title == "SKD (reconstructed)" and SKD.status == "recon"
    assert "ours" in SKD.status_note

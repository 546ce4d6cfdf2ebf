"""DCKD: the worked table, the identities of its hybrid target, the gate, the partner, the second reading."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from methods_logits import E1, drawn, r1, r3, ready, spec, step_of, values
from methods_nets import PAIRS, TinyNet, built, make_step, pair, specs
from torch import Tensor, nn

from kdlab import losses
from kdlab.errors import ConfigError
from kdlab.methods import AT, CE, CMKD, DCKD, DKD, KD, FitNet, Method, ReviewKD, make
from kdlab.methods.schedules import parse_schedule

SETS = {"E1": lambda: E1, "R1": r1, "R3": r3}
COLUMNS = [("E1", 1), ("E1", 4), ("R1", 1), ("R1", 4), ("R3", 1), ("R3", 4)]
TABLE: dict[str, list[tuple[float, float]]] = {
    "teacher": [
        (0.447363, 0.287911),
        (0.478608, 0.315468),
        (0.151257, 0.057377),
        (0.136415, 0.057143),
        (1.165844, 0.176228),
        (1.055568, 0.116221),
    ],
    "mean": [
        (0.122604, 0.143956),
        (0.118392, 0.157734),
        (0.051722, 0.028688),
        (0.036833, 0.028572),
        (0.314379, 0.088114),
        (0.306341, 0.058111),
    ],
    "max": [
        (0.095997, 0.136532),
        (0.203950, 0.206789),
        (0.142173, 0.055620),
        (0.110492, 0.051264),
        (1.165844, 0.176228),
        (1.055568, 0.116221),
    ],
    "logit": [
        (0.302788, 0.235981),
        (0.398111, 0.287862),
        (0.078972, 0.037474),
        (0.084927, 0.044206),
        (1.209391, 0.179657),
        (1.108544, 0.120031),
    ],
    "max + freeze": [
        (0.095997, 0.112554),
        (0.203950, 0.178273),
        (0.142173, 0.051521),
        (0.110492, 0.048531),
        (1.165844, 0.167562),
        (1.055568, 0.113138),
    ],
    "max + gated": [
        (0.095997, 0.136532),
        (0.203950, 0.206789),
        (0.937153, 0.179643),
        (0.966493, 0.167575),
        (1.414150, 0.187721),
        (1.342540, 0.125264),
    ],
}


def alone(**options: Any) -> DCKD:
    return DCKD(feature_method=None, ce=0.0, warmup=0, **options)


@pytest.mark.parametrize("row", TABLE)
@pytest.mark.parametrize("column", range(6))
def test_worked_values(row: str, column: int) -> None:
    name, tau = COLUMNS[column]
    zs, zt, y = SETS[name]()
    zs = zs.clone().requires_grad_()
    dckd = alone(fusion=row.split(" ")[0], freeze="freeze" in row, tau=tau, beta=float("gated" in row))
    terms = values(dckd, zs, zt, y)
    loss = terms["target"] + (terms["nontarget"] if "gated" in row else 0)
    (gradient,) = torch.autograd.grad(loss, zs)
    value, norm = TABLE[row][column]
    # The table is float32: its 0.036833 is 0.0368343 in float64.
    assert loss.item() == pytest.approx(value, rel=5e-5)
    assert gradient.norm().item() == pytest.approx(norm, rel=2e-5)


@pytest.mark.parametrize(
    ("name", "tau", "share"),
    [("E1", 1, 2 / 3), ("E1", 4, 2 / 3), ("R1", 1, 0.75), ("R1", 4, 0.625), ("R3", 1, 1), ("R3", 4, 1)],
)
def test_active_fraction_is_shown(name: str, tau: int, share: float) -> None:
    dckd = alone(tau=tau)
    values(dckd, *SETS[name]())
    assert dckd.details["fusion/active"].item() == pytest.approx(share)


def test_certain_student_against_unsure_teacher() -> None:
    zs, zt = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True), torch.tensor([[5.0, 1.0, 0.0]])
    value = losses.hybrid_target(zs, zt, torch.tensor([0]), "teacher", 1.0)
    (gradient,) = torch.autograd.grad(value, zs)
    assert value.item() == pytest.approx(4.756465, rel=1e-5)
    assert gradient[0].tolist() == pytest.approx([0.0244, -0.0122, -0.0122], abs=5e-5)


# ---- the hybrid target ------------------------------------------------------------------------------------


def full_kl(zs: Tensor, zt: Tensor, y: Tensor, fusion: str, tau: float) -> Tensor:
    """tau^2 mean_b KL(q || p^S) over all classes, q written out."""
    p_s, p_t = F.softmax(zs / tau, 1), F.softmax(zt / tau, 1)
    own = F.one_hot(y, zs.shape[1]).bool()
    s, t = p_s[own], p_t[own]
    mixed = torch.where(own, zt, zs)
    m = {
        "teacher": t,
        "mean": (s + t) / 2,
        "max": torch.maximum(s, t),
        "logit": F.softmax(mixed / tau, 1)[own],
    }[fusion]
    hat = p_s / (1 - s)[:, None]
    q = torch.where(own, m[:, None], (1 - m)[:, None] * hat).detach()
    return tau**2 * (q * (q.log() - p_s.log())).sum(1).mean()


@pytest.mark.parametrize("fusion", ["max", "teacher", "mean", "logit"])
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_full_and_binary_forms_agree(fusion: Any, tau: float) -> None:
    zs, zt, y = drawn(16)
    zs.requires_grad_()
    binary, full = losses.hybrid_target(zs, zt, y, fusion, tau), full_kl(zs, zt, y, fusion, tau)
    assert binary.item() == pytest.approx(full.item(), rel=1e-10)
    a, b = (torch.autograd.grad(loss, zs)[0] for loss in (binary, full))
    assert torch.allclose(a, b, atol=1e-12)


def test_identities_with_tckd() -> None:
    zs, zt, y = drawn(32)
    zs.requires_grad_()

    def gradient(value: Tensor) -> Tensor:
        return torch.autograd.grad(value, zs)[0]

    tckd = losses.tckd(zs, zt, y, 4.0)
    teacher = losses.hybrid_target(zs, zt, y, "teacher", 4.0)
    assert teacher.item() == pytest.approx(tckd.item(), rel=1e-13)
    whole = gradient(tckd)
    assert torch.allclose(gradient(teacher), whole, atol=1e-15)
    assert torch.allclose(gradient(losses.hybrid_target(zs, zt, y, "mean", 4.0)), whole / 2, atol=1e-15)
    active = losses.surer_teacher(zs, zt, y, 4.0)
    assert 0 < active.sum() < 32
    of_max = gradient(losses.hybrid_target(zs, zt, y, "max", 4.0))
    assert torch.allclose(of_max, whole * active[:, None], atol=1e-15)
    assert of_max[~active].abs().max() == 0  # exactly: what the student has is kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_surer_student_is_left_alone_exactly(dtype: torch.dtype) -> None:
    zs, zt, y = drawn(64)
    own = torch.arange(64)
    zs[own, y] += 20
    zs, zt = zs.to(dtype).requires_grad_(), zt.to(dtype)
    value = losses.hybrid_target(zs, zt, y)
    (gradient,) = torch.autograd.grad(value, zs)
    assert value.item() == 0 and gradient.abs().max() == 0
    assert torch.autograd.grad(losses.kd(zs, zt), zs)[0].abs().max() > 0  # KD pulls it down


def test_max_never_costs_more_than_the_teacher() -> None:
    zs, zt, y = drawn(40)
    for i in range(40):
        one = (zs[i : i + 1], zt[i : i + 1], y[i : i + 1])
        assert losses.hybrid_target(*one, "max") <= losses.hybrid_target(*one, "teacher") + 1e-15


@pytest.mark.parametrize("fusion", ["max", "teacher", "mean", "logit"])
def test_gradient_rows_and_shifts(fusion: Any) -> None:
    zs, zt, y = drawn()
    zs.requires_grad_()
    value = losses.hybrid_target(zs, zt, y, fusion)
    assert torch.autograd.grad(value, zs)[0].sum(1).abs().max() < 1e-14
    shifted = losses.hybrid_target(zs + 2.0, zt - 1.0, y, fusion)
    assert (shifted.item() == pytest.approx(value.item(), rel=1e-10)) == (fusion != "logit")


@pytest.mark.parametrize("fusion", ["max", "teacher", "mean", "logit"])
def test_frozen_gradient_reaches_the_labelled_class_alone(fusion: Any) -> None:
    zs, zt, y = drawn()
    zs.requires_grad_()
    free = losses.hybrid_target(zs, zt, y, fusion)
    frozen = losses.hybrid_target(zs, zt, y, fusion, freeze=True)
    assert frozen.item() == pytest.approx(free.item(), rel=1e-13)
    a, b = (torch.autograd.grad(value, zs)[0] for value in (free, frozen))
    own = F.one_hot(y, 7).bool()
    assert b[~own].abs().max() == 0
    assert torch.allclose(a[own], b[own], atol=1e-15) and b[own].abs().max() > 0


def test_the_teacher_gets_no_gradient() -> None:
    zs, zt, y = drawn()
    zs.requires_grad_()
    zt.requires_grad_()
    for fusion in ("max", "teacher", "mean", "logit"):
        (gradient,) = torch.autograd.grad(
            losses.hybrid_target(zs, zt, y, fusion),
            zt,
            allow_unused=True,  # type: ignore[arg-type]
        )
        assert gradient is None


@pytest.mark.parametrize("fusion", ["max", "teacher", "mean", "logit"])
@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_finite_at_logits_of_200(fusion: Any, freeze: bool, dtype: torch.dtype) -> None:
    signs = (torch.randint(0, 2, (2, 16, 6)) * 400 - 200).to(dtype)
    zs, zt = signs[0].requires_grad_(), signs[1]
    y = torch.arange(16) % 6
    with torch.autocast("cpu", torch.bfloat16):
        value = losses.hybrid_target(zs, zt, y, fusion, 1.0, freeze) + losses.gated_nckd(zs, zt, y, 1.0)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert zs.grad is not None and zs.grad.isfinite().all()


def test_an_unknown_fusion_is_refused() -> None:
    with pytest.raises(ValueError, match="fusion must be"):
        losses.hybrid_target(*drawn(), fusion="min")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'max' or 'teacher'"):
        DCKD(fusion="min")  # type: ignore[arg-type]


# ---- the gate ---------------------------------------------------------------------------------------------


def test_the_gate_lets_wrong_samples_through() -> None:
    zs, zt, y = drawn(12)
    wrong = zs.argmax(1) != y
    assert 0 < wrong.sum() < 12
    zs.requires_grad_()
    terms = values(alone(beta=8), zs, zt, y)
    (gradient,) = torch.autograd.grad(terms["nontarget"], zs)
    assert gradient[~wrong].abs().max() == 0 and gradient[wrong].abs().amax(1).min() > 0
    expected = losses.nckd(zs[wrong], zt[wrong], y[wrong]).item() * wrong.sum().item() / 12
    assert terms["nontarget"].item() == pytest.approx(expected, rel=1e-12)
    plain = values(alone(beta=8, gate=False), zs, zt, y)["nontarget"].item()
    assert plain == pytest.approx(losses.nckd(zs, zt, y).item(), rel=1e-12)


def test_an_all_correct_batch_adds_nothing() -> None:
    zs, zt, _ = drawn()
    assert values(alone(beta=8), zs, zt, zs.argmax(1))["nontarget"].item() == 0


def test_with_the_teachers_mass_and_no_gate_it_is_dkd() -> None:
    zs, zt, y = drawn()
    ours = values(alone(fusion="teacher", beta=8, gate=False), zs, zt, y)
    dkd = values(DKD(), zs, zt, y)
    assert ours["target"].item() == pytest.approx(dkd["tckd"].item(), rel=1e-12)
    assert ours["nontarget"].item() == pytest.approx(dkd["nckd"].item(), rel=1e-12)


# ---- the partner ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "partner",
    ["reviewkd", "at", "fitnet", "rkd", "crd", "sp", {"key": "at", "params": {"weight": 7}}, FitNet(stage=0)],
    ids=str,
)
def test_the_feature_term_is_the_partners(partner: Any) -> None:
    student, teacher = pair()
    dckd, own = built(DCKD(feature_method=partner), student, teacher), make(partner).fresh()
    own = built(own, student, teacher)
    step = make_step(student, teacher)
    torch.manual_seed(1)
    value = dckd.losses(step, ["feature"])["feature"].item()
    torch.manual_seed(1)
    used = [name for name, term in own.terms.items() if name != "ce" and term.weight]
    parts = own.losses(step, used)
    expected = sum(own.terms[name].weight * v.item() for name, v in parts.items())
    assert value == pytest.approx(expected, rel=1e-5)
    assert {f"feature/{name}" for name in used} <= set(dckd.details)
    mine = [p.shape for p in dckd.parameters()]
    assert mine == [p.shape for p in own.parameters()]
    assert sum(len(g["params"]) for g in dckd.parameter_groups()) == len(mine)


def test_one_warm_up_for_all() -> None:
    dckd = DCKD(lambda_f=0.5)
    assert [dckd.terms["feature"].factor(e) for e in (1, 10, 20, 40)] == pytest.approx(
        [0.025, 0.25, 0.5, 0.5]
    )
    assert dckd.partner is not None and dckd.partner.terms["review"].factor(1) == 5  # not warmed up twice
    assert all(t.factor(1) == t.weight for t in DCKD(warmup=0).terms.values())
    phases = DCKD(feature_method=FitNet(init_epochs=3), warmup=0)
    assert phases.partner is not None
    assert phases.partner.terms["hint"].schedule == parse_schedule("piecewise:4=0")


def test_a_partner_given_as_a_method_is_recorded() -> None:
    dckd = DCKD(feature_method=ReviewKD(weight=2, warmup=5), fusion="mean")
    again = make(dckd.config())
    assert again.config() == dckd.config() == dckd.fresh().config()
    assert again.partner.terms["review"].weight == 2  # type: ignore[union-attr]
    assert eval(dckd.code(), {"kdlab": __import__("kdlab")}).config() == dckd.config()


@pytest.mark.parametrize(
    ("partner", "message"),
    [
        ("dist", r"must be a feature or relation method, and DIST reads no features.*DCKD\(\) \+ kdlab"),
        (KD(), "KD reads no features"),
        ("ce", "CE reads no features"),
        ("simkd", "SimKD replaces"),
        ("atx", "no method named 'atx'"),
    ],
)
def test_partners_that_make_no_sense(partner: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DCKD(feature_method=partner)


def test_what_the_partner_refuses_is_refused_in_its_name() -> None:
    class Blind(TinyNet):
        shows_preacts = False

    student, _ = pair()
    teacher = Blind(PAIRS["equal sizes"][1])
    with pytest.raises(ConfigError, match=r"DCKD's feature_method cannot work here: ReviewKD"):
        DCKD().build(*specs(student, teacher))
    DCKD(feature_method={"key": "reviewkd", "params": {"teacher_maps": "stages"}}).build(
        *specs(student, teacher)
    )


def test_without_weights_it_is_plain_training() -> None:
    student, teacher = pair()
    dckd = built(DCKD(alpha=0, beta=0, lambda_f=0), student, teacher)
    assert dckd.active(30) == ["ce"]
    step = make_step(student, teacher)
    assert dckd.losses(step, ["ce"])["ce"].item() == CE().losses(step, ["ce"])["ce"].item()


def test_the_partners_projection_is_passed_on() -> None:
    student, teacher = pair()
    step = make_step(student, teacher)
    plain, projecting = DCKD(feature_method="at"), DCKD(feature_method=FitNet(stage=-1))
    assert not plain.overrides("project") and projecting.overrides("project")
    assert built(plain, student, teacher).project(step) is None
    projected = built(projecting, student, teacher).project(step)
    assert projected is not None and projected.shape == (6, 9)
    cmkd = built(DCKD(feature_method="cmkd"), student, teacher)
    assert set(cmkd.side_logits(step)) == {"pseudo-teacher", "stage logits 2"}
    assert isinstance(cmkd.partner, CMKD)


def test_two_classes() -> None:
    zs, zt, y = drawn(c=2)
    assert values(alone(), zs, zt, y)["nontarget"].item() == 0
    with pytest.raises(ConfigError, match="at least 3 classes"):
        alone(beta=2).build(spec(2), [spec(2)])


# ---- the reading with the teacher's classifier ------------------------------------------------------------


@pytest.mark.parametrize("connector", ["conv", "linear"])
def test_reading_with_the_teachers_classifier(connector: Any) -> None:
    student, teacher = pair()
    dckd = built(
        DCKD(feature_method=None, reading="classifier", connector=connector, beta=1, gate=False),
        student,
        teacher,
    )
    step = make_step(student, teacher)
    embedded = dckd.connector(step.student.embedding)  # type: ignore[misc]
    logits = teacher.fc(embedded)
    terms = dckd.losses(step, ["target", "nontarget"])
    expected = losses.hybrid_target(logits, step.teacher.logits, step.target)
    assert terms["target"].item() == pytest.approx(expected.item(), rel=1e-6)
    of_student = losses.nckd(step.student.logits, step.teacher.logits, step.target)
    assert terms["nontarget"].item() == pytest.approx(of_student.item(), rel=1e-6)
    terms["target"].backward()
    assert student.fc.weight.grad is None and teacher.fc.weight.grad is None  # it does not use z^S
    assert student.convs[0].weight.grad is not None
    assert all(p.grad is not None for p in dckd.parameters())
    projected, side = dckd.project(step), dckd.side_logits(step)
    assert projected is not None and torch.allclose(teacher.fc(projected), side["reused head"])
    assert (connector == "conv") == any(isinstance(m, nn.BatchNorm1d) for m in dckd.modules())


def test_reading_refuses_a_teacher_without_linear_classifier() -> None:
    student, teacher = pair()
    teacher.fc = nn.Sequential(nn.Linear(9, 5), nn.Identity())  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="linear classifier"):
        DCKD(feature_method=None, reading="classifier").build(*specs(student, teacher))


# ---- what it says of itself ----------------------------------------------------------------------------


def test_it_is_called_a_reconstruction() -> None:
    assert DCKD.title == "DCKD (reconstructed)" and DCKD.status == "recon"
    for params in DCKD.presets.values():
        assert isinstance(DCKD(**params), Method)
    assert DCKD(**DCKD.presets["ImageNet, MobileNet"]).partner.terms["review"].weight == 8  # type: ignore[union-attr]
    assert ready(alone(), drawn()[0]).active(1) == ["target"]
    assert isinstance(DCKD(feature_method=AT()).partner, AT)
    assert step_of(*drawn()).second is None

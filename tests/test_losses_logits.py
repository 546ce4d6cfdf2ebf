"""Logit losses: the decomposition's worked tables, identities, invariances, and extreme inputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab import losses

E1 = (
    torch.tensor([[2, 1, 0, -1], [0.5, 1.5, 0, 1], [3, -1, 0.5, 0]], dtype=torch.float64),
    torch.tensor([[4, 1, 0.5, -2], [0, 3, 1, 2], [1, 2, -0.5, 0]], dtype=torch.float64),
    torch.tensor([0, 1, 0]),
)


def r3() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(7)
    zs, zt, y = torch.randn(16, 20), torch.randn(16, 20), torch.randint(0, 20, (16,))
    rows = torch.arange(16)
    zs[rows, y] += 2
    zt[rows, y] += 6
    return zs, zt, y


def logits(b: int = 6, c: int = 7, scale: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    zs = scale * torch.randn(b, c, dtype=torch.float64)
    return zs, scale * torch.randn(b, c, dtype=torch.float64), torch.randint(0, c, (b,))


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
ALL: dict[str, Loss] = {
    "kd": lambda s, t, y: losses.kd(s, t, 2.0),
    "tckd": lambda s, t, y: losses.tckd(s, t, y, 2.0),
    "nckd": lambda s, t, y: losses.nckd(s, t, y, 2.0),
    "dkd": lambda s, t, y: losses.dkd(s, t, y, 1.0, 2.0, 2.0),
    "nkd": lambda s, t, y: losses.nkd(s, t, y, 1.5, 2.0),
    "dist": lambda s, t, y: losses.dist(s, t),
    "ttm": lambda s, t, y: losses.ttm(s, t),
    "wttm": lambda s, t, y: losses.wttm(s, t),
    "ls_kd": lambda s, t, y: losses.kd(losses.standardize_logits(s), losses.standardize_logits(t), 2.0),
    "dist_inter": lambda s, t, y: losses.dist_inter(s, t, 2.0),
    "nkd_target": lambda s, t, y: losses.nkd_target(s, t, y),
    "nkd_non_target": lambda s, t, y: losses.nkd_non_target(s, t, y, 2.0),
    "hybrid": lambda s, t, y: losses.hybrid_target(s, t, y, "max", 2.0),
    "gated": lambda s, t, y: losses.gated_nckd(s, t, (s.argmax(1) + 1) % s.shape[1], 2.0),
    "instances": lambda s, t, y: losses.instance_alignment(s, t, 2.0, losses.unsure_samples(t)),
    "batches": lambda s, t, y: losses.batch_alignment(s, t, 2.0, losses.unsure_samples(t)),
    "classes": lambda s, t, y: losses.class_alignment(s, t, 2.0, losses.rare_classes(t)),
    "average": lambda s, t, y: losses.average_teachers(s, [t, t.flip(1)]),
    "entropy": lambda s, t, y: losses.entropy_weighted(s, [t, t.flip(1)]),
    "confidence": lambda s, t, y: losses.confidence_weighted(s, [t, t.flip(1)], y),
}
every_loss = pytest.mark.parametrize("loss", ALL.values(), ids=ALL.keys())


# ---- worked tables ------------------------------------------------------------------------------

R3_TABLE = {
    1: (0.899189, 0.270604, 1.165844, 0.882943, 0.106349, 1.272193, 0.916405),
    2: (0.480205, 0.132380, 1.759240, 0.918101, 0.494897, 2.254138, 0.780449),
    4: (0.187095, 0.082719, 1.055568, 0.919240, 0.751986, 1.807554, 0.583976),
    8: (0.099580, 0.064473, 0.673582, 0.917456, 0.827462, 1.501044, 0.448742),
    16: (0.070935, 0.056804, 0.523128, 0.916059, 0.851581, 1.374709, 0.380537),
}


@pytest.mark.parametrize("tau", R3_TABLE)
def test_temperature_table(tau: int) -> None:
    parts = losses.decompose(*r3(), temperature=tau)
    fields = (
        parts.teacher_target,
        parts.student_target,
        parts.tckd,
        parts.nckd,
        parts.product,
        parts.kd,
    )
    means = [f.mean().item() for f in fields]
    assert [*means, means[2] / means[5]] == pytest.approx(R3_TABLE[tau], rel=2e-5)


E1_TABLE = {
    (1, 0): (0.923819, 0.643914, 0.215977, 0.056046, 0.004270, 0.220247),
    (1, 1): (0.643914, 0.455054, 0.072014, 0.137618, 0.049004, 0.121018),
    (1, 2): (0.232057, 0.869423, 1.054096, 1.304198, 1.001550, 2.055646),
    (4, 0): (0.473404, 0.349932, 0.514302, 0.152828, 0.080478, 0.594780),
    (4, 1): (0.349932, 0.298633, 0.097550, 0.225961, 0.146890, 0.244440),
    (4, 2): (0.266658, 0.420963, 0.823972, 1.518010, 1.113220, 1.937192),
}


@pytest.mark.parametrize(("tau", "row"), E1_TABLE)
def test_literal_table(tau: int, row: int) -> None:
    p = losses.decompose(*E1, temperature=tau)
    values = (p.teacher_target, p.student_target, p.tckd, p.nckd, p.product, p.kd)
    assert [v[row].item() for v in values] == pytest.approx(E1_TABLE[tau, row], abs=6e-7)


GRADIENTS = {
    ("kd", 1): (-0.279905, 0.190889, 0.059247, 0.029769),
    ("tckd", 1): (-0.279905, 0.186204, 0.068501, 0.025200),
    ("nckd", 1): (0, 0.061492, -0.121464, 0.059972),
    ("kd", 4): (-0.493890, 0.195628, 0.059601, 0.238661),
    ("tckd", 4): (-0.493890, 0.207053, 0.161253, 0.125584),
    ("nckd", 4): (0, -0.021696, -0.193037, 0.214733),
}


@pytest.mark.parametrize(("part", "tau"), GRADIENTS)
def test_gradients_of_the_parts(part: str, tau: int) -> None:
    zs = E1[0].clone().requires_grad_()
    value = getattr(losses.decompose(zs, *E1[1:], temperature=tau), part)[0]
    (gradient,) = torch.autograd.grad(value, zs)
    assert gradient[0].tolist() == pytest.approx(GRADIENTS[part, tau], abs=6e-7)
    assert gradient[1:].abs().max() == 0


# ---- identities ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0, 16.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_kd_is_tckd_plus_weighted_nckd(tau: float, classes: int) -> None:
    zs, zt, y = logits(32, classes, scale=4)
    p = losses.decompose(zs, zt, y, tau)
    assert (p.kd - (p.tckd + p.weight * p.nckd)).abs().max() < 1e-12 * max(1.0, p.kd.max().item())
    assert torch.equal(p.product, p.weight * p.nckd)
    target = F.softmax(zt / tau, dim=1).gather(1, y[:, None]).squeeze(1)
    assert torch.allclose(p.teacher_target, target, atol=1e-14)
    assert torch.allclose(p.weight, 1 - target, atol=1e-14)
    assert torch.allclose(p.student_target, torch.sigmoid(p.student_margin / tau), atol=1e-14)
    if classes == 2:
        assert p.nckd.abs().max() == 0


def test_batch_losses_are_means_of_the_parts() -> None:
    zs, zt, y = logits()
    p = losses.decompose(zs, zt, y, 3.0)
    assert losses.kd(zs, zt, 3.0).item() == pytest.approx(p.kd.mean().item(), rel=1e-14)
    assert losses.tckd(zs, zt, y, 3.0).item() == pytest.approx(p.tckd.mean().item(), rel=1e-14)
    assert losses.nckd(zs, zt, y, 3.0).item() == pytest.approx(p.nckd.mean().item(), rel=1e-14)
    mixed = 0.3 * p.tckd.mean() + 7 * p.nckd.mean()
    assert losses.dkd(zs, zt, y, 0.3, 7.0, 3.0).item() == pytest.approx(mixed.item(), rel=1e-13)


def test_high_temperature_limit_of_kd() -> None:
    zs, zt, _ = logits()
    gap = zs - zt
    gap = gap - gap.mean(1, keepdim=True)
    limit = (gap.square().sum(1) / (2 * gap.shape[1])).mean()
    assert losses.kd(zs, zt, 1e4).item() == pytest.approx(limit.item(), rel=1e-3)


def test_cross_entropy_is_tckd_with_a_teacher_that_is_certain() -> None:
    zs, _, y = logits()
    certain = 500.0 * F.one_hot(y, zs.shape[1]).double()
    assert losses.tckd(zs, certain, y, 1.0).item() == pytest.approx(
        losses.cross_entropy(zs, y).item(), rel=1e-12
    )


def test_nckd_ignores_the_target_logit() -> None:
    zs, zt, y = logits()
    moved = zs.clone()
    moved[torch.arange(len(y)), y] += 5.0
    assert torch.equal(losses.nckd(moved, zt, y), losses.nckd(zs, zt, y))


def test_nkd_removes_the_target() -> None:
    zs, zt, y = logits()
    rows = torch.arange(len(y))
    keep = torch.ones_like(zs, dtype=torch.bool)
    keep[rows, y] = False
    others_s, others_t = zs[keep].view(len(y), -1), zt[keep].view(len(y), -1)
    soft = -(F.softmax(others_t / 3, 1) * F.log_softmax(others_s / 3, 1)).sum(1)
    target = -F.softmax(zt, 1)[rows, y] * F.log_softmax(zs, 1)[rows, y]
    assert losses.nkd(zs, zt, y, 2.0, 3.0).item() == pytest.approx(
        (target + 18 * soft).mean().item(), rel=1e-12
    )


def test_ttm_at_gamma_one_is_kd_at_temperature_one() -> None:
    zs, zt, _ = logits()
    plain = losses.kd(zs, zt, 1.0).item()
    assert losses.ttm(zs, zt, 1.0).item() == pytest.approx(plain, rel=1e-12)
    assert losses.wttm(zs, zt, 1.0).item() == pytest.approx(plain, rel=1e-12)


def test_standardised_logits_are_z_scores_with_unbiased_std() -> None:
    zs, _, _ = logits()
    z = losses.standardize_logits(zs)
    assert z.mean(1).abs().max() < 1e-12
    assert torch.allclose(z.std(1), torch.ones(len(zs), dtype=torch.float64), atol=1e-6)
    assert torch.allclose(losses.standardize_logits(3 * zs + 2), z, atol=1e-6)
    zs.requires_grad_()
    value = losses.kd(losses.standardize_logits(zs), losses.standardize_logits(zs.detach().flip(1)), 2.0)
    (gradient,) = torch.autograd.grad(value, zs)
    assert (gradient * (zs - zs.mean(1, keepdim=True))).sum(1).abs().max() < 1e-6


def test_dist_is_blind_to_affine_maps_of_the_probabilities() -> None:
    zs, zt, _ = logits(8, 5)
    assert abs(losses.dist(zs, zs).item()) < 1e-6  # the 1e-8 in its denominator
    blended = (0.7 * F.softmax(zs, 1) + 0.3 / 5).log()  # 0.7 p + a constant, still a distribution
    assert losses.dist(blended, zs).item() == pytest.approx(0, abs=1e-6)
    assert losses.dist(zs, zt).item() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_column_has_no_intra_gradient(dtype: torch.dtype) -> None:
    zs = torch.full((5, 4), 0.1, dtype=dtype, requires_grad=True)  # an untrained student
    value = losses.dist(zs, torch.randn(5, 4, dtype=dtype), beta=0.0)
    (gradient,) = torch.autograd.grad(value, zs)
    assert value.item() == 1.0
    assert gradient.abs().max() == 0


def test_per_sample_and_learnt_temperatures() -> None:
    zs, zt, _ = logits()
    taus = torch.rand(len(zs), 1, dtype=torch.float64) + 1
    each = torch.stack([losses.kd(zs[i : i + 1], zt[i : i + 1], float(taus[i])) for i in range(len(zs))])
    assert torch.allclose(losses.kd_per_sample(zs, zt, taus), each)
    tau = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    value = losses.kd(zs, zt, tau)
    assert value.item() == pytest.approx(losses.kd(zs, zt, 3.0).item(), rel=1e-14)
    assert torch.autograd.grad(value, tau)[0].abs() > 0


def test_gradient_flows_into_a_target_that_asks_for_it() -> None:
    zs, zt, _ = logits()
    zt.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: losses.kd(zs, t, 3.0), (zt,))


# ---- properties of all -----------------------------------------------------------------------------


@every_loss
def test_gradient_rows_sum_to_zero_and_shifts_change_nothing(loss: Loss) -> None:
    zs, zt, y = logits()
    zs.requires_grad_()
    value = loss(zs, zt, y)
    (gradient,) = torch.autograd.grad(value, zs)
    assert gradient.abs().max() > 1e-6
    assert gradient.sum(1).abs().max() < 1e-12
    shift = torch.randn(len(y), 1, dtype=torch.float64)
    assert loss(zs + shift, zt - 2 * shift, y).item() == pytest.approx(value.item(), rel=1e-10)


@every_loss
def test_gradient_is_right(loss: Loss) -> None:
    zs, zt, y = logits(3, 4)
    assert torch.autograd.gradcheck(lambda s: loss(s, zt, y), (zs.requires_grad_(),))


@pytest.mark.parametrize("name", ["kd", "tckd", "nckd", "dkd", "dist", "ls_kd"])
def test_equal_logits_give_zero(name: str) -> None:
    zs, _, y = logits()
    assert abs(ALL[name](zs, zs.clone(), y).item()) < (1e-6 if name == "dist" else 1e-12)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
def test_finite_at_logits_of_200(loss: Loss, dtype: torch.dtype, autocast: bool) -> None:
    signs = torch.randint(0, 2, (2, 8, 6)) * 400 - 200
    signs[:, :4] = (200 * torch.randn(2, 4, 6)).long()
    zs, zt = signs.to(dtype)
    y = torch.arange(8) % 6
    zs[0], zt[1] = -200, -200  # a sample the student, and one the teacher, is certain of
    zs[0, 0], zt[1, 2] = 200, 200
    zs.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(zs, zt, y)
    assert value.dtype == torch.float32
    value.backward()
    assert math.isfinite(value.item())
    assert zs.grad is not None and zs.grad.isfinite().all()


def test_certain_student_against_unsure_teacher() -> None:
    zs = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    value = losses.tckd(zs, torch.tensor([[5.0, 1.0, 0.0]]), torch.tensor([0]), 1.0)
    (gradient,) = torch.autograd.grad(value, zs)
    assert value.item() == pytest.approx(4.756465, rel=1e-5)
    assert gradient[0].tolist() == pytest.approx([0.0244, -0.0122, -0.0122], abs=5e-5)


@every_loss
def test_one_sample_and_two_classes(loss: Loss) -> None:
    zs, zt, y = logits(1, 5)
    assert loss(zs, zt, y).isfinite()
    zs, zt, y = logits(4, 2)
    assert loss(zs, zt, y).isfinite()


@every_loss
def test_a_batch_of_one_class(loss: Loss) -> None:
    zs, zt, _ = logits()
    assert loss(zs, zt, torch.full((6,), 3)).isfinite()


def test_double_precision_is_kept() -> None:
    zs, zt, y = logits()
    assert losses.dkd(zs, zt, y).dtype == torch.float64


# ---- refusals ------------------------------------------------------------------------------------


def test_clear_errors() -> None:
    zs, zt, y = logits()
    with pytest.raises(ValueError, match=r"one shape .*\(6, 7\) and \(6, 6\)"):
        losses.kd(zs, zt[:, :6])
    with pytest.raises(ValueError, match="int64 class labels"):
        losses.dkd(zs, zt, y.float())
    with pytest.raises(ValueError, match="int64 class labels"):
        losses.dkd(zs, zt, y[:3])
    with pytest.raises(ValueError, match="at least 2 classes"):
        losses.dkd(zs[:, :1], zt[:, :1], torch.zeros_like(y))
    with pytest.raises(ValueError, match="temperature must be a positive number"):
        losses.kd(zs, zt, 0.0)
    with pytest.raises(ValueError, match="classes >= 2"):
        losses.standardize_logits(zs[:, :1])


@pytest.mark.gpu
@every_loss
def test_no_wait_for_the_gpu(loss: Loss) -> None:
    zs, zt, y = (v.cuda() for v in logits())
    zs.requires_grad_()
    loss(zs, zt, y).backward()  # first use may set up libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss(zs, zt, y).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")

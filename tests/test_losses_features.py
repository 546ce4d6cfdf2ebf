"""Feature and relation losses: what they are blind to, what they refuse, half precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab import losses
from kdlab.losses import relations

Pair = Callable[[Tensor, Tensor], Tensor]
MAPS: dict[str, Pair] = {
    "feature_mse": losses.feature_mse,
    "at": losses.attention_transfer,
    "at_p1_max": lambda s, t: losses.attention_transfer(s, t, 1.0, "max"),
    "nst": losses.nst,
    "hcl": losses.hcl,
    "ickd": losses.ickd,
    "cwd": losses.cwd,
    "channel_mse": losses.channel_mse,
    "vid": lambda s, t: losses.vid(s, t, torch.ones(5, dtype=s.dtype)),
    "ofd": lambda s, t: losses.ofd(s, t, torch.full((5,), -0.5, dtype=s.dtype)),
    "sp": losses.similarity_preserving,
}
VECTORS: dict[str, Pair] = {
    "rkd": losses.rkd,
    "rkd_distance": losses.rkd_distance,
    "rkd_angle": losses.rkd_angle,
    "pkt": losses.pkt,
    "rkd_squared": lambda s, t: losses.rkd_distance(s, t, squared=True),
    "pkt_rows": lambda s, t: losses.pkt(s, t, "rows", diagonal=False),
    "cc": losses.correlation_congruence,
    "cc_kernel": losses.kernel_congruence,
    "sp": losses.similarity_preserving,
    "sp_matrix": lambda s, t: losses.similarity_preserving(s, t, "matrix"),
}


def maps(c: int = 5, size: int = 4, b: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(b, c, size, size).double(), torch.randn(b, c, size, size).double()


def vectors(b: int = 6, d: int = 5) -> tuple[Tensor, Tensor]:
    return torch.randn(b, d).double(), torch.randn(b, d).double()


@pytest.mark.parametrize("loss", MAPS.values(), ids=MAPS.keys())
def test_map_losses(loss: Pair) -> None:
    s, t = maps()
    assert abs(loss(s, s.clone()).item()) < 1e-12
    assert loss(s, t).item() > 1e-4
    assert torch.autograd.gradcheck(lambda x: loss(x, t), (s.requires_grad_(),))


@pytest.mark.parametrize("loss", VECTORS.values(), ids=VECTORS.keys())
def test_vector_losses(loss: Pair) -> None:
    s, t = vectors()
    assert abs(loss(s, s.clone()).item()) < 1e-12
    assert loss(s, t).item() > 1e-4
    assert torch.autograd.gradcheck(lambda x: loss(x, t), (s.requires_grad_(),))


@pytest.mark.parametrize("loss", [*MAPS.values(), *VECTORS.values()], ids=[*MAPS, *VECTORS])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss: Pair, dtype: torch.dtype) -> None:
    s, t = maps() if loss in MAPS.values() else vectors()
    s, t = (30 * s).to(dtype), (30 * t).to(dtype)  # squares and products beyond float16's range
    exact = loss(s.float(), t.float())
    s.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(s, t)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-6)
    assert s.grad is not None and s.grad.isfinite().all()


# ---- alignment ------------------------------------------------------------------------------------


def test_align_leaves_equal_sizes_alone_and_pools_the_larger() -> None:
    small, large = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 8, 8)
    assert all(a is b for a, b in zip(losses.align(small, small), (small, small)))
    for pair in (losses.align(small, large), losses.align(large, small)[::-1]):
        assert pair[0] is small
        assert torch.equal(pair[1], F.avg_pool2d(large, 2))
    tall, wide = losses.align(torch.randn(2, 3, 8, 4), torch.randn(2, 3, 4, 8))
    assert tall.shape == wide.shape == (2, 3, 4, 4)


def test_attention_pools_before_it_squares() -> None:
    s, t = torch.randn(3, 5, 8, 8), torch.randn(3, 9, 4, 4)
    pooled = F.normalize(F.avg_pool2d(s, 2).square().mean(1).flatten(1), dim=1)
    expected = (pooled - F.normalize(t.square().mean(1).flatten(1), dim=1)).square().mean()
    assert losses.attention_transfer(s, t).item() == pytest.approx(expected.item(), rel=1e-6)


# ---- what each is blind to ------------------------------------------------------------------------


def same(a: Tensor, b: Tensor) -> None:
    assert a.item() == pytest.approx(b.item(), rel=1e-9)


def differs(a: Tensor, b: Tensor) -> None:
    assert a.item() != pytest.approx(b.item(), rel=1e-3)


def test_attention() -> None:
    s, t = maps()
    value = losses.attention_transfer(s, t)
    same(losses.attention_transfer(3 * s, 0.2 * t), value)
    same(losses.attention_transfer(s.flip(1), t), value)  # channels have no names
    same(losses.attention_transfer(s, t, form="sum"), 16 * value)
    differs(losses.attention_transfer(s, t, exponent=4), value)
    differs(losses.attention_transfer(s, t, channels="max"), value)
    zero = torch.zeros_like(s, requires_grad=True)
    losses.attention_transfer(zero, t).backward()
    assert losses.attention_map(zero).abs().max() == 0
    assert zero.grad is not None and zero.grad.abs().max() == 0
    with pytest.raises(ValueError, match="exponent must be at least 1"):
        losses.attention_map(s, 0.5)
    with pytest.raises(ValueError, match="'mean' or 'max'"):
        losses.attention_map(s, 2, "sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'mean' or 'sum'"):
        losses.attention_transfer(s, t, form="max")  # type: ignore[arg-type]


def test_nst() -> None:
    s, t = maps()
    value = losses.nst(s, t)
    same(losses.nst(2 * s, 5 * t), value)
    places = torch.randperm(16)
    moved = [x.flatten(2)[:, :, places].view_as(x) for x in (s, t)]
    same(losses.nst(*moved), value)
    differs(losses.nst(moved[0], t), value)
    same(losses.nst(torch.cat([s, s], 1), t), value)  # channel numbers may differ


def test_hcl() -> None:
    s, t = maps(size=8)
    same(losses.hcl(s, t), losses.hcl(t, s))
    levels = [F.mse_loss(F.adaptive_avg_pool2d(s, n), F.adaptive_avg_pool2d(t, n)) for n in (8, 4, 2, 1)]
    same(losses.hcl(s, t), sum(w * v for w, v in zip((1, 0.5, 0.25, 0.125), levels)) / 1.875)
    one = [x.mean((2, 3), keepdim=True) for x in (s, t)]
    same(losses.hcl(*one), F.mse_loss(*one))
    with pytest.raises(ValueError, match="height and width"):
        losses.hcl(s, t[:, :, :4])


def test_ickd_cwd_channel() -> None:
    s, t = maps()
    same(losses.ickd(7 * s, t), losses.ickd(s, t))
    assert losses.ickd(s, maps(size=8)[1]).isfinite()
    shift = torch.randn(3, 5, 1, 1).double()
    same(losses.cwd(s + shift, t), losses.cwd(s, t))
    same(losses.channel_mse(s.flip(2, 3), t.transpose(2, 3)), losses.channel_mse(s, t))
    with pytest.raises(ValueError, match="number of channels"):
        losses.ickd(s, t[:, :3])


def test_cwd_at_extreme_values() -> None:
    s = (200 * torch.randn(2, 3, 4, 4)).requires_grad_()
    value = losses.cwd(s, 200 * torch.randn(2, 3, 4, 4), 1.0)
    value.backward()
    assert value.isfinite() and s.grad is not None and s.grad.isfinite().all()


def rotation(d: int) -> Tensor:
    return torch.linalg.qr(torch.randn(d, d).double())[0]


def test_relations_are_blind_to_rotation() -> None:
    s, t = vectors()
    turn = rotation(5)
    for loss in (losses.similarity_preserving, losses.pkt, losses.rkd_angle, losses.rkd_distance):
        same(loss(s @ turn, t), loss(s, t))
    same(losses.rkd(3 * s + 1.7, t), losses.rkd(s, t))
    assert losses.pkt(s * (1 + torch.rand(6, 1).double()), t).item() == pytest.approx(
        losses.pkt(s, t).item(), rel=1e-5
    )
    same(losses.similarity_preserving(4 * s, t), losses.similarity_preserving(s, t))


def test_only_cc_depends_on_the_order_of_the_batch() -> None:
    s, t = vectors()
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    for loss in (losses.similarity_preserving, losses.pkt, losses.rkd):
        same(loss(s[order], t[order]), loss(s, t))
    differs(losses.correlation_congruence(s[order], t[order]), losses.correlation_congruence(s, t))


def test_rkd_gradient_neither_shifts_nor_scales() -> None:
    s, t = vectors()
    s.requires_grad_()
    (gradient,) = torch.autograd.grad(losses.rkd(s, t), s)
    assert gradient.sum(0).abs().max() < 1e-10
    assert (gradient * (s - s.mean(0))).sum().abs() < 1e-10


@pytest.mark.parametrize("rows", [[0, 0, 1, 2], [0, 0, 0, 0]])
def test_rkd_with_identical_rows_is_tame(rows: list[int]) -> None:
    s = torch.randn(3, 5)[rows].requires_grad_()
    value = losses.rkd(s, torch.randn(4, 7))
    (gradient,) = torch.autograd.grad(value, s)
    assert value.isfinite() and gradient.isfinite().all()
    assert gradient.abs().max() < 1e3


def test_rkd_excludes_zero_distances_from_the_mean() -> None:
    s, t = torch.randn(3, 5).double()[[0, 0, 1, 2]], torch.randn(4, 7).double()

    def normalised(x: Tensor) -> Tensor:
        d = (x[:, None] - x[None]).norm(dim=2)
        return d / d[d > 0].mean()

    same(losses.rkd_distance(s, t), F.smooth_l1_loss(normalised(s), normalised(t)))


def test_rkd_angle_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    s, t = vectors(7, 4)
    s.requires_grad_()
    whole = losses.rkd_angle(s, t)
    (gradient,) = torch.autograd.grad(whole, s)
    monkeypatch.setattr(relations, "ANGLE_ELEMENTS", 2 * 7 * 7)
    chunked = losses.rkd_angle(s, t)
    same(chunked, whole)
    assert torch.allclose(torch.autograd.grad(chunked, s)[0], gradient, atol=1e-14)


def test_small_batches() -> None:
    one = torch.randn(1, 5), torch.randn(1, 7)
    assert losses.similarity_preserving(*one).item() == 0
    assert losses.pkt(*one).item() == 0
    for loss in (losses.rkd, losses.rkd_angle, losses.rkd_distance, losses.correlation_congruence):
        with pytest.raises(ValueError, match="at least 2 in a batch"):
            loss(*one)


def test_unequal_widths() -> None:
    s, t = torch.randn(4, 3), torch.randn(4, 9)
    for loss in (losses.rkd, losses.pkt, losses.similarity_preserving):
        assert loss(s, t).isfinite()
    with pytest.raises(ValueError, match="equal width"):
        losses.correlation_congruence(s, t)
    with pytest.raises(ValueError, match="one batch"):
        losses.pkt(s, t[:3])
    with pytest.raises(ValueError, match="project one of them"):
        losses.feature_mse(s, t)
    with pytest.raises(ValueError, match="batch, channels, height, width"):
        losses.attention_transfer(s, t)


# ---- several teachers -----------------------------------------------------------------------------


def g(shape: tuple[int, ...], a: float, b: float, s: float) -> Tensor:
    n = torch.Size(shape).numel()
    i = torch.arange(n, dtype=torch.float64)
    return (s * torch.sin(a * i + b + 0.1 * i * i)).reshape(shape)


TEACHERS = [g((8, 10), 0.9, 0.2, 4), g((8, 10), 1.3, 0.5, 4), g((8, 10), 0.37, 1.0, 4)]
STUDENT, TARGET = g((8, 10), 0.7, 0.1, 3), (7 * torch.arange(8) + 3) % 10


def test_worked_values_of_several_teachers() -> None:
    assert STUDENT.flatten()[:3].tolist() == pytest.approx([0.299500, 2.349981, 2.838900], abs=1e-6)
    assert [losses.kd(STUDENT, t).item() for t in TEACHERS] == pytest.approx(
        [6.01630, 5.14747, 5.64782], rel=1e-5
    )
    assert losses.cross_entropy(STUDENT, TARGET).item() == pytest.approx(3.88026, rel=2e-6)
    expected = {
        losses.average_teachers: (5.60386, 5.60386),
        losses.entropy_weighted: (5.53465, 3.68977),
        losses.confidence_weighted: (5.14696, 1.71565),
    }
    for loss, values in expected.items():
        for normalise, value in zip((True, False), values):
            result = loss(STUDENT, TEACHERS, TARGET, normalise=normalise)  # type: ignore[operator]
            assert result.item() == pytest.approx(value, rel=2e-6)


@pytest.mark.parametrize(
    "loss", [losses.average_teachers, losses.entropy_weighted, losses.confidence_weighted]
)
def test_properties_of_several_teachers(loss: Callable[..., Tensor]) -> None:
    plain = losses.kd(STUDENT, TEACHERS[0])
    for normalise in (True, False):
        same(loss(STUDENT, TEACHERS[:1], TARGET, normalise=normalise), plain)
    same(loss(STUDENT, [TEACHERS[0]] * 3, TARGET), plain)
    same(loss(STUDENT, TEACHERS[::-1], TARGET), loss(STUDENT, TEACHERS, TARGET))
    with pytest.raises(ValueError, match="list of at least one"):
        loss(STUDENT, [], TARGET)


def weights(loss: Callable[..., Tensor], teachers: list[Tensor], sample: int) -> Tensor:
    """The weights of one sample: they do not depend on the student, so three students determine them."""
    one, target = [t[sample : sample + 1] for t in teachers], TARGET[sample : sample + 1]
    students = 3 * torch.randn(3, 1, 10).double()
    parts = torch.stack([torch.stack([losses.kd(s, t) for t in one]) for s in students])
    return torch.linalg.solve(parts, torch.stack([loss(s, one, target) for s in students]))


def test_worked_teacher_weights() -> None:
    ebkd = weights(losses.entropy_weighted, TEACHERS, 0)
    assert (2 * ebkd).tolist() == pytest.approx([0.678046, 0.664607, 0.657347], abs=2e-6)
    ca_mkd = weights(losses.confidence_weighted, TEACHERS, 0)
    assert ca_mkd.tolist() == pytest.approx([0.385745, 0.120907, 0.493348], abs=2e-6)


def test_teacher_weights_follow_certainty_and_correctness() -> None:
    right, wrong, unsure = (0.1 * torch.randn(8, 10).double() for _ in range(3))
    right[torch.arange(8), TARGET] = 9.0
    wrong[torch.arange(8), (TARGET + 1) % 10] = 9.0
    for sample in range(8):
        confident = weights(losses.confidence_weighted, [right, wrong, unsure], sample)
        assert confident[0] > confident[2] > confident[1] >= 0
        assert confident.sum().item() == pytest.approx(1, abs=1e-9)
        certain = weights(losses.entropy_weighted, [right, wrong, unsure], sample)
        assert certain[0].item() == pytest.approx(certain[1].item(), abs=0.01)
        assert certain[2] < 0.1
        assert certain.sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("loss", [losses.entropy_weighted, losses.confidence_weighted])
def test_teacher_weights_carry_no_gradient(loss: Callable[..., Tensor]) -> None:
    teachers = [t[:1].clone().requires_grad_() for t in TEACHERS]
    found = torch.autograd.grad(loss(STUDENT[:1], teachers, TARGET[:1]), teachers)
    constant = weights(loss, TEACHERS, 0)
    total = sum(w * losses.kd(STUDENT[:1], t) for w, t in zip(constant, teachers))
    for a, b in zip(found, torch.autograd.grad(total, teachers)):
        assert torch.allclose(a, b, atol=1e-9)


def test_all_certain_teachers_share_equally() -> None:
    certain = [torch.eye(5).double()[[0, 1]] * 900, torch.eye(5).double()[[2, 3]] * 900]
    student = torch.randn(2, 5).double()
    same(losses.entropy_weighted(student, certain), losses.average_teachers(student, certain))

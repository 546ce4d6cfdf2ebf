"""MLKD: two views, five temperatures, three alignments, and two readings of its masks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from methods_logits import drawn, ready, step_of, total, values
from torch import Tensor

from kdlab import losses
from kdlab.errors import ConfigError
from kdlab.methods import LSKD, MLKD, SKD, Step

T = (4.0, 3.0, 5.0, 2.0, 6.0)


def worked() -> tuple[Step, Tensor]:
    torch.manual_seed(123)
    weak, strong, t_weak, t_strong = (torch.randn(8, 10).double() for _ in range(4))
    y = torch.randint(0, 10, (8,))
    return step_of(weak, t_weak, y, second=step_of(strong, t_strong, y)), weak


def test_worked_value_of_the_released_code() -> None:
    step, zs = worked()
    mlkd = ready(MLKD(masks="as_released"), zs)
    terms = mlkd.losses(step, list(mlkd.terms))
    weighted = {n: mlkd.terms[n].factor(1) * v.item() for n, v in terms.items()}
    expected = {"ce": 0.537676, "instance": 6.397322, "class": 0.006946, "batch": 0.000477}
    assert weighted == pytest.approx(expected, rel=1e-6, abs=6e-7)
    assert total(mlkd, terms).item() == pytest.approx(6.942421, rel=1e-6)


def plain(step: Step, masks: str) -> dict[str, float]:
    """The definition, sample by sample and class by class."""
    assert step.second is not None
    (zs, zt), (zzs, zzt) = ((s.student.logits, s.teacher.logits) for s in (step, step.second))
    b, c = zs.shape
    confidence = F.softmax(zt, 1).amax(1)
    share = F.softmax(zt, 1).sum(0)
    half_b, half_c = sorted(confidence.tolist())[(b - 1) // 2], sorted(share.tolist())[(c - 1) // 2]
    m = [float(x <= half_b) if masks == "per_sample" else 1.0 for x in confidence.tolist()]
    n = [float(x <= half_c) if masks == "per_sample" else 1.0 for x in share.tolist()]
    f_b, f_c = (-(-b // 2) / b, -(-c // 2) / c) if masks == "as_released" else (1.0, 1.0)
    out = {"instance": 0.0, "batch": 0.0, "class": 0.0}
    for tau in T:
        slip = masks == "as_released" and tau in (2.0, 6.0)  # of the released code
        for s, t, weights, f in ((zs, zt, m, f_b), (*((zs, zt) if slip else (zzs, zzt)), [1.0] * b, 1.0)):
            p, q = F.softmax(s / tau, 1), F.softmax(t / tau, 1)
            each = (q * (q / p).log()).sum(1)
            out["instance"] += f * tau**2 * sum(w * e for w, e in zip(weights, each.tolist())) / b
        p, q = F.softmax(zs / tau, 1), F.softmax(zt / tau, 1)
        rows = (q @ q.T - p @ p.T).square().sum(1).tolist()
        columns = (q.T @ q - p.T @ p).square().sum(1).tolist()
        out["batch"] += f_b * sum(w * r for w, r in zip(m, rows)) / b
        out["class"] += f_c * sum(w * r for w, r in zip(n, columns)) / c
    return out


@pytest.mark.parametrize("masks", ["per_sample", "as_released", "none"])
@pytest.mark.parametrize("shape", [(8, 10), (7, 5), (1, 4)])
def test_definition(masks: str, shape: tuple[int, int]) -> None:
    zs, zt, y = drawn(*shape)
    zzs, zzt, _ = drawn(*shape)
    step = step_of(zs, zt, y, second=step_of(zzs, zzt, y))
    terms = values(MLKD(masks=masks), zs, zt, y, second=step.second)  # type: ignore[arg-type]
    got = {n: v.item() for n, v in terms.items() if n != "ce"}
    assert got == pytest.approx(plain(step, masks), rel=1e-9)
    ce = F.cross_entropy(zs, y) + F.cross_entropy(zzs, y)
    assert terms["ce"].item() == pytest.approx(ce.item(), rel=1e-12)


def test_masks_spare_sure_samples_and_frequent_classes() -> None:
    zs, zt, y = drawn(8, 6)
    unsure, rare = losses.unsure_samples(zt), losses.rare_classes(zt)
    assert unsure.sum() == 4 and rare.sum() == 3
    confidence = F.softmax(zt, 1).amax(1)
    assert confidence[unsure].max() < confidence[~unsure].min()
    moved = zs.clone()
    moved[~unsure] += torch.randn_like(moved[~unsure])
    second = step_of(zs, zt, y)
    a, b = (values(MLKD(), z, zt, y, second=second)["instance"].item() for z in (zs, moved))
    assert a == pytest.approx(b, rel=1e-12)  # what the teacher is sure of does not count in this view
    a, b = (values(MLKD(masks="none"), z, zt, y, second=second)["instance"].item() for z in (zs, moved))
    assert a != pytest.approx(b, rel=1e-3)


def test_gradients_flow_through_both_views() -> None:
    zs, zt, y = drawn()
    zzs = zs.flip(0).clone().requires_grad_()
    zs.requires_grad_()
    terms = values(MLKD(), zs, zt, y, second=step_of(zzs, zt, y))
    for name, reached in {"ce": (True, True), "instance": (True, True), "batch": (True, False)}.items():
        grads = torch.autograd.grad(terms[name], (zs, zzs), retain_graph=True, allow_unused=True)
        assert tuple(g is not None for g in grads) == reached
        for g in grads:
            assert g is None or g.sum(1).abs().max() < 1e-12


def test_equal_logits_give_zero() -> None:
    zs, _, y = drawn()
    terms = values(MLKD(), zs, zs.clone(), y, second=step_of(zs, zs.clone(), y))
    assert all(abs(terms[n].item()) < 1e-12 for n in ("instance", "batch", "class"))


def test_a_missing_second_view_is_refused() -> None:
    zs, zt, y = drawn()
    assert MLKD.second_view
    for name in ("ce", "instance"):
        with pytest.raises(ConfigError, match="MLKD needs a second, strongly augmented view"):
            ready(MLKD(), zs).losses(step_of(zs, zt, y), [name])
    ready(MLKD(), zs).losses(step_of(zs, zt, y), ["batch", "class"])  # these see the first one alone


def test_bad_arguments() -> None:
    for bad, message in (
        ({"temperatures": 3}, "must be a list"),
        ({"temperatures": (3, 0)}, "above 0"),
        ({"temperature": -1}, "above 0"),
        ({"masks": "half"}, "per_sample"),
    ):
        with pytest.raises(ConfigError, match=message):
            MLKD(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("around", [LSKD("mlkd"), SKD(host="mlkd")])
def test_methods_around_it_change_both_views(around: object) -> None:
    zs, zt, y = drawn()
    method = ready(around.fresh(), zs)  # type: ignore[attr-defined]
    assert method.second_view == MLKD.second_view
    base = method.losses(step_of(zs, zt, y, second=step_of(zs, zt, y)), ["instance"])["instance"]
    scaled = method.losses(step_of(zs, zt, y, second=step_of(zs, zt + 3.0, y)), ["instance"])["instance"]
    assert base.item() == pytest.approx(scaled.item(), rel=1e-6)  # both are blind to shifts
    other = method.losses(step_of(zs, zt, y, second=step_of(zs, zt.flip(1), y)), ["instance"])["instance"]
    assert base.item() != pytest.approx(other.item(), rel=1e-3)

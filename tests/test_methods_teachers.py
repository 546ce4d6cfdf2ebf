"""Several teachers: the worked values of the sheet, the weights, the solver, who gets gradient."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from methods_nets import COLLEAGUES, PAIRS, TinyNet, built, make_step, pair, ready, specs, with_colleagues
from torch import Tensor, nn

from kdlab import losses
from kdlab.errors import ConfigError
from kdlab.methods import AEKD, CAMKD, EBKD, KD, AverageTeachers, Method, Step
from kdlab.methods.several import resize
from kdlab.models.features import Features, NetSpec

METHODS: list[Method] = [AverageTeachers(), EBKD(), CAMKD(), AEKD()]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.key)


def g(shape: tuple[int, ...], a: float, b: float, s: float) -> Tensor:
    """s sin(a i + b + 0.1 i^2), i row-major: the sheet's inputs."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return (s * torch.sin(a * i + b + 0.1 * i * i)).reshape(shape)


Z_S = g((8, 10), 0.7, 0.1, 3)
Z_T = [g((8, 10), a, b, 4) for a, b in ((0.9, 0.2), (1.3, 0.5), (0.37, 1.0))]
Y = (7 * torch.arange(8) + 3) % 10
REGRESSED = [g((8, 6, 4, 4), a, b, 1) for a, b in ((0.05, 0.1), (0.07, 0.2), (0.09, 0.3))]
MAPS = [g((8, 6, 4, 4), a, b, 1) for a, b in ((0.13, 0.4), (0.17, 0.5), (0.19, 0.6))]
SCORES = [g((8, 10), a, b, 2) for a, b in ((0.41, 0.1), (0.43, 0.2), (0.47, 0.3))]


def spec(name: str, f: Features) -> NetSpec:
    """Shapes of a network that has no modules."""
    stages: Any = tuple(tuple(s.shape[1:]) for s in f.stages)
    names = tuple(f"stage{i + 1}" for i in range(len(stages)))
    net = nn.Module()
    net.classifier = nn.Linear(f.embedding.shape[1], f.logits.shape[1])
    final: Any = None if f.final is None else tuple(f.final.shape[1:])
    return NetSpec(
        name, (3, 32, 32), f.logits.shape[1], f.embedding.shape[1], stages, names, None, final, False, 0, net
    )


def seen(z: Tensor, last: Tensor) -> Features:
    return Features(z, last.mean((2, 3)), (last,), final=last)


class Bench:
    """The sheet's tensors around a method: step, and the method built for their shapes."""

    def __init__(self, method: Method, count: int = 3) -> None:
        self.z_s = Z_S.clone().requires_grad_()
        self.z_t = [z.clone().requires_grad_() for z in Z_T[:count]]
        self.map = g((8, 6, 4, 4), 0.11, 0.2, 1).requires_grad_()
        student = seen(self.z_s, self.map)
        teachers = [seen(z, m) for z, m in zip(self.z_t, MAPS)]
        heads = [nn.Linear(6, 10).double().requires_grad_(False) for _ in teachers]
        self.method = method
        method.build(spec("student", student), [spec(f"teacher{k}", t) for k, t in enumerate(teachers)])
        method.double().train()
        self.step = Step(student, Y, tuple(teachers), tuple(heads), torch.arange(8), 2)

    def value(self, name: str = "kd") -> Tensor:
        return self.method.losses(self.step, [name])[name]


# ---- worked values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "value"),
    [
        (AverageTeachers(), 5.60386),
        (AverageTeachers(aim="probabilities"), 3.45215),
        (AverageTeachers(aim="logits"), 3.65767),
        (EBKD(as_released=True), 3.68977),
        (EBKD(), 5.53465),
        (CAMKD(as_released=True), 1.71565),
        (CAMKD(), 5.14696),
    ],
    ids=str,
)
def test_kd(method: Method, value: float) -> None:
    assert Bench(method.fresh()).value().item() == pytest.approx(value, rel=2e-6)


def test_cross_entropy_and_kd_to_each_teacher() -> None:
    assert losses.cross_entropy(Z_S, Y).item() == pytest.approx(3.88026, rel=2e-6)
    each = losses.kd_per_teacher(Z_S, Z_T).mean(1).tolist()
    assert each == pytest.approx([6.01630, 5.14747, 5.64782], rel=2e-6)


def test_weights_of_the_first_sample() -> None:
    assert (2 * losses.entropy_weights(Z_T))[:, 0].tolist() == pytest.approx(
        [0.678046, 0.664607, 0.657347], abs=1e-6
    )
    assert losses.confidence_weights(Z_T, Y)[:, 0].tolist() == pytest.approx(
        [0.385745, 0.120907, 0.493348], abs=1e-6
    )
    assert losses.confidence_weights(SCORES, Y)[:, 0].tolist() == pytest.approx(
        [0.374635, 0.343917, 0.281448], abs=1e-6
    )


def test_ca_mkd_feature() -> None:
    parts = losses.confidence_feature(REGRESSED, MAPS, SCORES, Y)
    assert parts.sum().item() == pytest.approx(1.00706, rel=3e-6)
    assert parts.sum().item() / 3 == pytest.approx(0.335687, rel=3e-6)
    second = 3.88026 + 1.71565 + 50 * parts.sum().item() / 3
    assert second == pytest.approx(22.3803, rel=1e-5)


@pytest.mark.parametrize(
    ("unit", "a", "kd"),
    [(False, (0.472957, 0.225208, 0.301834), 5.70941), (True, (0.423909, 0.263436, 0.312656), 5.67221)],
)
def test_aekd(unit: bool, a: tuple[float, ...], kd: float) -> None:
    bench = Bench(AEKD(normalise_gradients=unit))
    assert bench.value().item() == pytest.approx(kd, rel=2e-5)
    weights = [bench.method.details[f"weight/teacher {k}"].item() for k in (1, 2, 3)]
    assert weights == pytest.approx(a, abs=1e-3)


def test_aekd_reaches_the_optimum_of_the_sheet() -> None:
    a = losses.gradient_weights(Z_S, Z_T)
    rows = 4 * (F.softmax(Z_S / 4, 1) - F.softmax(torch.stack(Z_T) / 4, 2)).mean(1) / 8
    assert (a @ rows).square().sum().item() == pytest.approx(1.44701e-3, rel=1e-5)
    assert a.tolist() == pytest.approx([0.4733, 0.2250, 0.3017], abs=1e-3)


# ---- plain re-derivations -----------------------------------------------------------------------------


def test_ebkd_is_its_formula() -> None:
    p = [F.softmax(z, 1) for z in Z_T]
    entropy = torch.stack([-(q * q.log()).sum(1) for q in p])
    weight = (1 - entropy / entropy.sum(0)) / 2
    s = F.log_softmax(Z_S / 2, 1)
    kl = torch.stack([(F.softmax(z / 2, 1) * (F.log_softmax(z / 2, 1) - s)).sum(1) for z in Z_T])
    expected = 4 * (weight * kl).sum() / 8
    assert Bench(EBKD(temperature=2)).value().item() == pytest.approx(expected.item(), rel=1e-12)


def test_ca_mkd_is_its_formula() -> None:
    """With the connectors, heads and maps of three teachers, both terms and the gradient of both."""
    for released in (False, True):
        bench = Bench(CAMKD(as_released=released, detach_weights=not released))
        value = bench.value("feature")
        (mine,) = torch.autograd.grad(value, bench.map, retain_graph=True)
        regressed = [c(bench.map) for c in bench.method.connectors]  # type: ignore[union-attr, operator]
        scores = [h(r.mean((2, 3))) for h, r in zip(bench.step.classifiers, regressed)]
        error = torch.stack([F.cross_entropy(z, Y, reduction="none") for z in scores])
        share = (1 - F.softmax(error, 0)) / 2
        share = share if released else share.detach()
        squares = torch.stack([(r - m).square().mean((1, 2, 3)) for r, m in zip(regressed, MAPS)])
        expected = (share * squares).sum() / 8 / (3 if released else 1)
        (theirs,) = torch.autograd.grad(expected, bench.map)
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-14)


def test_undetached_weights_change_the_gradient_and_not_the_value() -> None:
    results = []
    for detach in (True, False):
        torch.manual_seed(2)
        bench = Bench(CAMKD(detach_weights=detach))
        value = bench.value("feature")
        results.append((value.item(), torch.autograd.grad(value, bench.map)[0]))
    assert results[0][0] == results[1][0]
    assert not torch.allclose(results[0][1], results[1][1])


def test_aekd_gradients_in_closed_form_are_those_of_autograd() -> None:
    z = Z_S.clone().requires_grad_()
    rows = [torch.autograd.grad(8 * losses.kd(z, t), z)[0].mean(0) for t in Z_T]
    by_autograd = losses.shortest_mix(torch.stack(rows))
    assert torch.allclose(by_autograd, losses.gradient_weights(Z_S, Z_T), atol=1e-9)


def test_aekd_feature_variant() -> None:
    bench = Bench(AEKD(feature=10.0))
    value = bench.value("feature")
    adapted = bench.method.connectors[0](bench.map)  # type: ignore[union-attr, operator]
    leaf = adapted.detach().requires_grad_()
    errors = [(leaf - m).square().mean() for m in MAPS]
    rows = [torch.autograd.grad(8 * e, leaf)[0].mean(0).flatten() for e in errors]
    a = losses.shortest_mix(torch.stack(rows))
    expected = sum(w * e for w, e in zip(a, errors))
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    value.backward()
    assert all(p.grad is not None for p in bench.method.connectors.parameters())  # type: ignore[union-attr]
    assert bench.method.project(bench.step).shape == (8, 6)  # type: ignore[union-attr]


# ---- the solver ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [0.34, 0.5, 0.6, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_solver_against_a_grid(cap: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(3, 5, dtype=torch.float64, generator=generator) + 0.5
    gram = rows @ rows.T
    a = losses.min_norm_weights(gram, cap)
    assert a.sum().item() == pytest.approx(1) and a.min() >= 0 and a.max() <= cap + 1e-9
    steps = [i / 200 for i in range(201)]
    points = [(x, y, 1 - x - y) for x, y in itertools.product(steps, steps) if 1 - x - y >= -1e-9]
    inside = torch.tensor([p for p in points if max(p) <= cap + 1e-9], dtype=torch.float64)
    best = torch.einsum("pi,ij,pj->p", inside, gram, inside).min().item()
    assert (a @ gram @ a).item() <= best + 1e-9


@pytest.mark.parametrize("count", [2, 5, 8])
def test_solver_optimality_conditions(count: int) -> None:
    rows = torch.randn(count, 4, dtype=torch.float64)  # more vectors than dimensions: singular
    gram, cap = rows @ rows.T, 0.6
    a = losses.min_norm_weights(gram, cap)
    slope = gram @ a
    free = (a > 1e-6) & (a < cap - 1e-6)
    level = slope[free].mean() if free.any() else None
    if level is not None:
        assert torch.allclose(slope[free], level.expand(int(free.sum())), atol=1e-5)
        assert (slope[a <= 1e-6] >= level - 1e-5).all() and (slope[a >= cap - 1e-6] <= level + 1e-5).all()
    even = torch.full((count,), 1 / count, dtype=torch.float64)
    assert a @ gram @ a <= even @ gram @ even + 1e-12


def test_solver_extremes() -> None:
    same = torch.ones(4, 4, dtype=torch.float64)
    assert torch.allclose(losses.min_norm_weights(same, 0.6), torch.full((4,), 0.25).double(), atol=1e-6)
    assert losses.min_norm_weights(same[:3, :3], 1 / 3).tolist() == pytest.approx([1 / 3] * 3)
    assert losses.min_norm_weights(torch.zeros(3, 3), 0.6).tolist() == pytest.approx([1 / 3] * 3, abs=1e-5)
    assert losses.min_norm_weights(torch.tensor([[2.0]]), 0.6).tolist() == [1.0]
    opposite = torch.tensor([[1.0, -3.0], [-3.0, 9.0]])
    assert losses.min_norm_weights(opposite, 1.0).tolist() == pytest.approx([0.75, 0.25], abs=1e-6)
    with pytest.raises(ValueError, match="cannot sum to 1"):
        losses.min_norm_weights(same, 0.2)
    with pytest.raises(ValueError, match="from 1 to 8"):
        losses.min_norm_weights(torch.eye(9), 0.6)


# ---- properties of all --------------------------------------------------------------------------------


@every_method
def test_one_teacher_is_kd(method: Method) -> None:
    for options in ({}, {"as_released": True} if "as_released" in method.params else {}):
        bench = Bench(type(method)(**options), count=1)
        assert bench.value().item() == pytest.approx(6.01630, rel=2e-6)


@every_method
def test_identical_teachers_are_one_teacher(method: Method) -> None:
    bench = Bench(method.fresh())
    same = tuple(bench.step.teachers[:1] * 3)
    step = Step(bench.step.student, Y, same, bench.step.classifiers)
    value = bench.method.losses(step, ["kd"])["kd"]
    assert value.item() == pytest.approx(6.01630, rel=2e-6)
    assert torch.allclose(bench.method.weights(step), torch.full((3, 8), 1 / 3).double(), atol=1e-6)  # type: ignore[operator]


@every_method
def test_the_order_of_teachers_does_not_matter(method: Method) -> None:
    bench = Bench(method.fresh())
    teachers = bench.step.teachers
    turned = Step(bench.step.student, Y, (teachers[2], teachers[0], teachers[1]), bench.step.classifiers)
    a, b = (bench.method.weights(step) for step in (bench.step, turned))  # type: ignore[operator]
    assert torch.allclose(a[[2, 0, 1]], b, atol=1e-6)
    assert (a >= 0).all() and torch.allclose(a.sum(0), torch.ones(8).double())
    values = [bench.method.losses(step, ["kd"])["kd"].item() for step in (bench.step, turned)]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


@every_method
def test_gradient_stays_with_the_student_and_weights_are_constants(method: Method) -> None:
    bench = Bench(method.fresh())
    value = bench.value()
    (gradient,) = torch.autograd.grad(value, bench.z_s, retain_graph=True)
    weights = bench.method.weights(bench.step)  # type: ignore[operator]
    assert not weights.requires_grad
    p_s = F.softmax(Z_S / 4, 1)
    by_hand = sum(w[:, None] * 4 / 8 * (p_s - F.softmax(z / 4, 1)) for w, z in zip(weights, Z_T))
    assert torch.allclose(gradient, by_hand, rtol=1e-9, atol=1e-12)


def test_both_aims_of_aver_have_one_gradient() -> None:
    gradients = []
    for aim in ("losses", "probabilities", "logits"):
        bench = Bench(AverageTeachers(aim=aim))  # type: ignore[arg-type]
        gradients.append(torch.autograd.grad(bench.value(), bench.z_s)[0])
    assert torch.allclose(gradients[0], gradients[1], atol=1e-14)
    assert not torch.allclose(gradients[0], gradients[2], atol=1e-3)


def test_who_counts() -> None:
    right, wrong, unsure = (torch.zeros(1, 4) for _ in range(3))
    right[0, 1], wrong[0, 2] = 9.0, 9.0
    y = torch.tensor([1])
    ca = losses.confidence_weights([right, wrong, unsure], y)[:, 0]
    assert ca[0] > ca[2] > ca[1]
    eb = losses.entropy_weights([right, wrong, unsure])[:, 0]
    assert eb[0] == eb[1] > eb[2]
    certain = [torch.tensor([[500.0, 0.0, -500.0]]) * s for s in (1, -1, 2)]
    assert losses.entropy_weights(certain)[:, 0].tolist() == pytest.approx([1 / 3] * 3)


def test_feature_begins_in_the_second_epoch() -> None:
    method = CAMKD()
    assert method.active(1) == ["ce", "kd"]
    assert method.active(2) == ["ce", "kd", "feature"] and method.terms["feature"].factor(2) == 50


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("batch", [1, 4])
@every_method
def test_finite_at_logits_of_200(method: Method, dtype: torch.dtype, batch: int) -> None:
    def logits(sign: int) -> Tensor:
        z = torch.full((batch, 6), -200.0)
        z[torch.arange(batch), (torch.arange(batch) + sign) % 6] = 200.0
        return z.to(dtype)

    z_s = logits(0).requires_grad_()
    student = Features(z_s, z_s, ())
    step = Step(
        student, torch.zeros(batch, dtype=torch.int64), tuple(Features(logits(k), z_s, ()) for k in range(3))
    )
    fresh = method.fresh()
    with torch.autocast("cpu", torch.bfloat16):
        value = fresh.losses(step, ["kd"])["kd"]
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and z_s.grad.isfinite().all()  # type: ignore[union-attr]
    assert all(v.isfinite() for v in fresh.details.values())


def test_half_precision_feature_terms_are_finite() -> None:
    maps = [200 * torch.randn(2, 3, 4, 4).half() for _ in range(3)]
    scores = [200 * torch.randn(2, 5).half() for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        parts = losses.confidence_feature(maps, maps[::-1], scores, torch.tensor([0, 1]))
        mixed = losses.gradient_weighted_features(maps[0], maps, 0.6)
    assert parts.dtype == mixed.dtype == torch.float32
    assert parts.isfinite().all() and mixed.isfinite().all()


# ---- networks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("nets", PAIRS)
def test_connectors_bring_the_student_to_every_teacher(nets: str) -> None:
    method, student, teacher = ready("ca_mkd", nets)
    step = make_step(student, teacher)
    regressed = method._regressed(step.student)  # type: ignore[operator]
    assert [r.shape for r in regressed] == [t.final.shape for t in step.teachers]  # type: ignore[union-attr]
    assert list(method.side_logits(step)) == [f"teacher {k}'s classifier" for k in (1, 2, 3)]
    method.losses(step, ["feature"])["feature"].backward()
    assert all(
        p.grad is not None and p.grad.abs().max() > 0 for p in method.connectors.parameters() if p.dim() == 4
    )  # type: ignore[union-attr]
    for net in (teacher, *teacher.colleagues):
        assert all(p.grad is None for p in net.parameters())


def test_resize() -> None:
    x = torch.randn(2, 3, 8, 8)
    assert resize(x, (8, 8)) is x
    assert torch.equal(resize(x, (4, 4)), F.adaptive_avg_pool2d(x, 4))
    assert resize(x, (16, 4)).shape == (2, 3, 16, 4)
    small = x[:, :, :2, :2]
    assert torch.equal(resize(small, (4, 4)), F.interpolate(small, size=(4, 4), mode="bilinear"))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (AEKD(cap=0.3), "leaves 3 teachers no weights that sum to 1; give a cap of at least 1/3"),
        (AEKD(feature=1.0), "final maps differ: 9x4x4, 12x4x4, 8x2x2"),
    ],
)
def test_refusals(method: Method, message: str) -> None:
    student, teacher = pair()
    with pytest.raises(ConfigError, match=message):
        method.fresh().build(*specs(student, with_colleagues(teacher)))


def test_more_refusals() -> None:
    student, teacher = pair()
    with pytest.raises(ConfigError, match="at most 8 teachers, not 9"):
        AEKD().build(*specs(student, with_colleagues(teacher, [COLLEAGUES[0]] * 8)))
    no_map = TinyNet(PAIRS["equal sizes"][1], hidden=9)
    with pytest.raises(ConfigError, match="map whose average enters its classifier"):
        CAMKD().build(*specs(student, no_map))
    with pytest.raises(ConfigError, match="'losses' or 'probabilities' or 'logits'"):
        AverageTeachers(aim="votes")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="above 0"):
        EBKD(entropy_temperature=0)
    with pytest.raises(ConfigError, match="must be built"):
        CAMKD().losses(make_step(*pair()), ["feature"])


def test_a_torchvision_network_among_the_teachers() -> None:
    torchvision = pytest.importorskip("torchvision")
    from kdlab.models import tap

    wide = tap(torchvision.models.resnet18(num_classes=5)).eval().requires_grad_(False)
    student, teacher = pair()
    teacher.colleagues = [wide]  # type: ignore[assignment]
    for fresh in (AverageTeachers(), EBKD(), CAMKD(), AEKD()):
        method = built(fresh, student, teacher)
        step = make_step(student, teacher)
        values = method.losses(step, list(method.terms))
        assert all(v.isfinite() for v in values.values())
        sum(values.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is None for p in wide.parameters())


def test_sums_with_other_methods() -> None:
    student, teacher = pair()
    both = built(EBKD() + KD(), student, with_colleagues(teacher))
    assert list(both.terms) == ["ce", "kd", "kd.kd"]
    values = both.losses(make_step(student, teacher), ["kd", "kd.kd"])
    assert values["kd"].item() != values["kd.kd"].item()

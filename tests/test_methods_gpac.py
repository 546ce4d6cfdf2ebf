"""GPAC: worked values, who w_k listens to, the probe table and what is chosen from it, the levels of beta."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from methods_nets import PAIRS, TinyNet, built, make_step, pair, ready, specs, weighted, with_colleagues
from methods_rehearsal import FACTS, SHAPE, Rehearsal
from test_methods_teachers import Z_S, Z_T, Y, g, spec
from torch import Tensor

from kdlab import losses
from kdlab.errors import ConfigError, StudyError
from kdlab.methods import GPAC, KD, Combined, DataFacts, Levels, Step, make, parse_schedule
from kdlab.methods.choosing import select
from kdlab.methods.corrector import Corrector, corrected, reweighted
from kdlab.methods.probing import Softmax, logits, probe_row
from kdlab.models.features import Features

SIZES = (8, 6, 4)


class Sheet:
    """The sheet's tensors around the method; every teacher has the same maps."""

    def __init__(self, count: int = 3, **options: Any) -> None:
        options = {"selection": "all", "corrector_warmup": 0} | options
        own = tuple(g((8, 8, s, s), 0.11, 0.3, 1)[:4] for s in SIZES)
        other = tuple(g((8, 16, s, s), 0.23, 0.7, 1)[:4] for s in SIZES)
        self.z_s = Z_S.clone().requires_grad_()
        self.maps = [m.clone().requires_grad_() for m in own]
        student = Features(self.z_s, self.maps[-1].mean((2, 3)), tuple(self.maps), final=self.maps[-1])
        teachers = [Features(z, other[-1].mean((2, 3)), other, final=other[-1]) for z in Z_T[:count]]
        self.method = GPAC(**options)
        self.method.build(spec("student", student), [spec("teacher", t) for t in teachers])
        self.method.double().train()
        self.step = Step(student, Y, tuple(teachers), index=torch.arange(8))

    def set_scales(self, *w: float) -> None:
        self.method.corrector.u.data = torch.tensor([math.log(math.expm1(v)) for v in w]).double()

    def value(self, name: str) -> Tensor:
        return self.method.losses(self.step, [name])[name]


# ---- worked values ------------------------------------------------------------------------------------


def test_kd_at_given_scales() -> None:
    sheet = Sheet()
    sheet.set_scales(1, 1.5, 0.7)
    assert sheet.value("kd").item() == pytest.approx(6.00375, rel=2e-6)
    parts = [3 * sheet.method.details[f"kd/teacher {k}"].item() for k in (1, 2, 3)]
    assert parts == pytest.approx([6.01630, 7.58565, 4.40931], rel=2e-6)
    scales = [sheet.method.details[f"scale/teacher {k}"].item() for k in (1, 2, 3)]
    assert scales == pytest.approx([1, 1.5, 0.7])


def test_unconstrained_optima() -> None:
    sharper = 1.8 * Z_S + 0.5 * g((8, 10), 1.9, 0.4, 1)
    rows = [(-0.170275, 3.14006), (0.026243, 3.15754), (-0.140690, 2.91411), (1.80624, 0.057023)]
    for z, (w, value) in zip([*Z_T, sharper], rows):
        scale = torch.tensor(w, dtype=torch.float64, requires_grad=True)
        kd = losses.corrected_kd(Z_S, z, scale)
        assert kd.item() == pytest.approx(value, rel=1e-5)
        assert abs(torch.autograd.grad(kd, scale)[0].item()) < 1e-3
        assert kd.item() <= losses.kd(Z_S, z).item()
    assert losses.kd(Z_S, sharper).item() == pytest.approx(1.02492, rel=1e-5)


def test_gradient_of_a_scale_is_a_gap_of_moments() -> None:
    w = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(losses.corrected_kd(Z_S, Z_T[0], w), w)
    p_s, p_k = F.softmax(1.3 * Z_S / 4, 1), F.softmax(Z_T[0] / 4, 1)
    closed = 4 * ((p_s - p_k) * Z_S).sum(1).mean()
    assert slope.item() == pytest.approx(closed.item(), abs=1e-12)
    assert slope.item() == pytest.approx(5.88584, rel=1e-6)


def test_other_correctors() -> None:
    kd = losses.kd_per_teacher(Z_S, Z_T).mean(1)
    far = reweighted(Z_S, Z_T, "kl_weight", 4.0) * 3 / kd
    assert far.tolist() == pytest.approx([1.37602, 1.32172, 1.35299], rel=1e-5)
    near = reweighted(Z_S, Z_T, "softmax_weight", 4.0) / kd
    assert near.tolist() == pytest.approx([0.207054, 0.493642, 0.299303], rel=1e-5)
    assert torch.allclose(reweighted(Z_S, Z_T, "none", 4.0), kd / 3)
    agreeing = reweighted(Z_S, [Z_S * 2, -Z_S], "argmax_bonus", 4.0)
    single = losses.kd_per_teacher(Z_S, [Z_S * 2, -Z_S]).mean(1)
    assert torch.allclose(agreeing, single * torch.tensor([2.0, 1.0]) / 2)


@pytest.mark.parametrize("form", ["none", "kl_weight", "softmax_weight", "argmax_bonus"])
def test_weights_of_correctors_carry_no_gradient(form: str) -> None:
    z = Z_S.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reweighted(z, Z_T, form, 4.0).sum(), z)
    each = losses.kd_per_teacher(Z_S, Z_T)
    factor = torch.ones(3, 8).double() / 3
    if form == "kl_weight":
        factor = (1 + each.mean(1, keepdim=True) / 16).expand(3, 8) / 3
    if form == "softmax_weight":
        factor = F.softmax(-each.mean(1), 0)[:, None].expand(3, 8)
    if form == "argmax_bonus":
        factor = (1 + torch.stack([t.argmax(1) == Z_S.argmax(1) for t in Z_T]).double()) / 3
    p = F.softmax(Z_S / 4, 1)
    by_hand = sum(f[:, None] * 4 / 8 * (p - F.softmax(t / 4, 1)) for f, t in zip(factor, Z_T))
    assert torch.allclose(gradient, by_hand, atol=1e-12)  # type: ignore[arg-type]


def test_attention_and_total() -> None:
    attention = sum(
        losses.attention_transfer(g((4, 8, s, s), 0.11, 0.3, 1), g((4, 16, s, s), 0.23, 0.7, 1))
        for s in SIZES
    )
    assert attention.item() == pytest.approx(0.00957219, rel=1e-6)  # type: ignore[union-attr]
    sheet = Sheet()
    assert sheet.value("attention").item() == pytest.approx(0.00957219, rel=1e-6)
    sheet.set_scales(1, 1.5, 0.7)
    sheet.method.attach(DataFacts(8, Y, 10, 1, 240))
    values = sheet.method.losses(sheet.step, list(sheet.method.terms))
    for epoch, total in ((1, 19.4562), (100, 14.6702), (240, 10.8412)):
        assert weighted(sheet.method, values, epoch).item() == pytest.approx(
            total, rel=1e-5
        )  # 14.67010 at epoch 100


# ---- beta(e) ------------------------------------------------------------------------------------------


def levels(epochs: int, milestones: tuple[int, ...] = (), **options: Any) -> Any:
    method = GPAC(**options)
    method.attach(DataFacts(8, Y, 10, 1, epochs, milestones))
    return method.terms["attention"].factor


def test_three_levels() -> None:
    beta = levels(240)
    assert [beta(e) for e in (1, 80, 81, 160, 161, 240)] == [1000, 1000, 500, 500, 100, 100]
    assert [levels(240, schedule="up")(e) for e in (80, 81, 161)] == [100, 500, 1000]
    flat = levels(240, schedule="constant")
    mean = sum(beta(e) for e in range(1, 241)) / 240
    assert flat(1) == flat(240) == pytest.approx(mean)
    cosine = levels(240, schedule="cosine")
    assert (cosine(1), cosine(240)) == (1000, 0)


@pytest.mark.parametrize("epochs", range(1, 14))
def test_parts_are_those_of_the_formula(epochs: int) -> None:
    beta = levels(epochs)
    for e in range(1, epochs + 1):
        expected = 1000 if e <= epochs / 3 else 500 if e <= 2 * epochs / 3 else 100
        assert beta(e) == expected, e


def test_other_breakpoints() -> None:
    beta = levels(240, breakpoints=(150, 180))
    assert [beta(e) for e in (150, 151, 180, 181)] == [1000, 500, 500, 100]
    follows = levels(240, (150, 180, 210), breakpoints="milestones")
    assert [follows(e) for e in (150, 151, 180, 181, 240)] == [1000, 500, 500, 100, 100]
    with pytest.raises(ConfigError, match=r"follows 2 drops of the learning rate, and this recipe\s+has 0"):
        levels(30, breakpoints="milestones")


def test_a_schedule_set_by_hand_stays() -> None:
    method = GPAC()
    method.term("attention").set(schedule="warmup:4")
    method.attach(FACTS)
    assert str(method.terms["attention"].schedule) == "warmup:4"


def test_schedules_that_follow_the_training_in_sums_and_text() -> None:
    for text in ("levels:1.0,0.5,0.1", "drops:1.0,0.5", "cosine"):
        assert str(parse_schedule(text)) == text
    assert isinstance(parse_schedule("levels:1,0.5"), Levels)
    both = KD() + GPAC()
    both.attach(DataFacts(8, Y, 10, 1, 30))
    assert str(both.terms["attention"].schedule) == "piecewise:1=1.0,11=0.5,21=0.1"
    assert make(both.config()).config() == both.config()
    for bad in ("levels:", "levels:a", "drops:nan"):
        with pytest.raises(ConfigError, match="is no schedule"):
            parse_schedule(bad)


# ---- the corrector ------------------------------------------------------------------------------------


def test_each_scale_listens_to_its_own_teacher_alone() -> None:
    sheet = Sheet()
    u = sheet.method.corrector.u
    for name in ("ce", "attention"):
        assert torch.autograd.grad(sheet.value(name), u, allow_unused=True)[0] is None
    parts = corrected(sheet.z_s, Z_T, sheet.method.corrector(), 4.0)
    for k in range(3):
        (gradient,) = torch.autograd.grad(parts[k], u, retain_graph=True)
        assert [bool(v) for v in gradient] == [i == k for i in range(3)]


def test_gradient_at_the_logits_is_scaled() -> None:
    z = Z_S.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(losses.corrected_kd(z, Z_T[1], 1.7), z)
    by_hand = 4 * 1.7 / 8 * (F.softmax(1.7 * Z_S / 4, 1) - F.softmax(Z_T[1] / 4, 1))
    assert torch.allclose(gradient, by_hand, atol=1e-13)
    assert torch.equal((0.3 * Z_S).argmax(1), Z_S.argmax(1))


def test_scales_are_projected_and_not_stuck() -> None:
    corrector = Corrector(3).double()
    corrector.u.data = torch.tensor([-9.0, 0.5, 40.0]).double()
    assert corrector.scales().tolist() == pytest.approx([0.1, F.softplus(torch.tensor(0.5)).item(), 10])
    w = corrector()
    assert [v.item() for v in w] == pytest.approx(corrector.scales().tolist())
    sum(w).backward()  # type: ignore[union-attr]
    assert (corrector.u.grad.abs() > 0).all()  # type: ignore[union-attr]
    corrector()  # a second call before a step leaves the graph of the first one usable
    fresh = Corrector(2)()
    assert [v.item() for v in fresh] == pytest.approx([1, 1])


def test_training_a_scale_finds_the_sharper_teacher() -> None:
    sharper = 1.8 * Z_S + 0.5 * g((8, 10), 1.9, 0.4, 1)
    corrector = Corrector(2).double()
    optimizer = torch.optim.SGD(corrector.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        corrected(Z_S, [sharper, -Z_S], corrector(), 4.0).sum().backward()
        optimizer.step()
    assert corrector.scales().tolist() == pytest.approx([1.80624, 0.1], rel=1e-3)


def test_warm_up_and_parameter_groups() -> None:
    sheet = Sheet(corrector_warmup=5, corrector_lr=0.5)
    sheet.set_scales(2, 2, 2)
    plain = losses.average_teachers(Z_S, Z_T).item()
    for epoch, same in ((1, True), (5, True), (6, False)):
        step = Step(sheet.step.student, Y, sheet.step.teachers, epoch=epoch)
        value = sheet.method.losses(step, ["kd"])["kd"]
        (gradient,) = torch.autograd.grad(value, sheet.method.corrector.u, allow_unused=True)
        assert (value.item() == pytest.approx(plain)) == same and (gradient is None) == same
    (group,) = sheet.method.parameter_groups()
    assert group["params"] == [sheet.method.corrector.u]
    assert (group["weight_decay"], group["lr_scale"]) == (0.0, 0.5)
    assert Sheet(corrector="none").method.parameter_groups() == []
    assert Sheet(corrector="none").method.scales() is None


def test_granularity() -> None:
    by_class = Sheet(granularity="class").method
    assert by_class.corrector.u.shape == (3, 10)
    sheet = Sheet(granularity="sample")
    with pytest.raises(ConfigError, match=r"it needs attach\(...\) and Step.index"):
        sheet.value("kd")
    sheet.method.attach(DataFacts(20, torch.zeros(20), 10, 1, 30))
    sheet.method.double()
    assert sheet.method.corrector.u.shape == (3, 20)
    assert sheet.method.terms["kd"].taps == ("student.logits", "teacher.logits", "index")
    value = sheet.value("kd")
    assert value.item() == pytest.approx(losses.average_teachers(Z_S, Z_T).item())
    value.backward()
    touched = sheet.method.corrector.u.grad.abs().sum(0) > 0  # type: ignore[union-attr]
    assert touched.tolist() == [i < 8 for i in range(20)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_finite_at_200(dtype: torch.dtype) -> None:
    z = torch.tensor([[200.0, -200.0, 0.0]], dtype=dtype, requires_grad=True)
    corrector = Corrector(2)
    corrector.u.data.fill_(50.0)
    with torch.autocast("cpu", torch.bfloat16):
        value = corrected(z, [-z.detach(), z.detach()], corrector(), 1.0).sum()
        for form in ("none", "kl_weight", "softmax_weight", "argmax_bonus"):
            value = value + reweighted(z, [-z.detach(), z.detach()], form, 1.0).sum()
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert z.grad.isfinite().all() and corrector.u.grad.isfinite().all()  # type: ignore[union-attr]


# ---- choosing -----------------------------------------------------------------------------------------

TABLE = [[0.5, 0.6, 0.9], [0.5, 0.7, 0.7], [0.2, 0.8, 0.5]]


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        ("best_per_stage", [{0}, {2}, {0}]),
        ("one_for_all_stages", [{0}, {0}, {0}]),
        ("top_m_mean", [{0, 1}, {1, 2}, {0, 1}]),
        ("worst", [{2}, {0}, {2}]),
        ("all", [{0, 1, 2}] * 3),
        ("better_than_student_probe", [{0, 1}, {2}, set()]),
    ],
)
def test_select(rule: str, chosen: list[set[int]]) -> None:
    shares = select(TABLE, rule, student=[0.4, 0.75, 0.95])
    for j, expected in enumerate(chosen):
        assert {k for k in range(3) if shares[k][j]} == expected
        assert sum(row[j] for row in shares) == pytest.approx(1.0 if expected else 0.0)
    assert select(TABLE, rule, student=[0.4, 0.75, 0.95]) == shares


def test_select_at_random() -> None:
    draws = [select(TABLE, "random", seed=seed) for seed in range(20)]
    assert draws[3] == select(TABLE, "random", seed=3)
    assert {k for d in draws for k in range(3) if d[k][0]} == {0, 1, 2}
    assert select(TABLE, "better_than_student_probe") == [[1 / 3] * 3] * 3  # before it is probed: all


def prepared(
    options: dict[str, Any], engine: Rehearsal | None = None
) -> tuple[GPAC, Rehearsal, TinyNet, Any]:
    student, teacher = pair()
    with_colleagues(teacher)
    method = GPAC(**({"corrector_warmup": 0} | options))
    method.build(*specs(student, teacher))
    method.attach(FACTS)
    engine = engine or Rehearsal([teacher, *teacher.colleagues])
    method.prepare(engine)
    return method.train(), engine, student, teacher  # type: ignore[return-value]


def test_the_table_chooses_and_the_maps_of_the_chosen_are_read() -> None:
    method, engine, student, teacher = prepared({})
    nets = [teacher, *teacher.colleagues]
    stages = [(1, 2), (2, 3), (0, 1)]  # aligned from the deep end with the shallowest net's two
    table = torch.stack([probe_row(n, s, engine, 5, 1, "held-out") for n, s in zip(nets, stages)])
    assert torch.equal(method.probes.table, table) and table.max() > 0.5
    best = table.argmax(0).tolist()
    assert [[k for k, _ in chosen] for chosen in method.probes.chosen()] == [[k] for k in best]
    step = make_step(student, teacher)
    expected = sum(
        losses.attention_transfer(step.student.stages[own], step.teachers[k].stages[stages[k][j]])
        for j, (own, k) in enumerate(zip((1, 2), best))
    )
    assert method.losses(step, ["attention"])["attention"].item() == pytest.approx(expected.item(), rel=1e-6)  # type: ignore[union-attr]
    for net in nets:
        assert all(p.grad is None and not p.requires_grad for p in net.parameters())


def test_probing_is_shared_and_leaves_teachers_as_they_were() -> None:
    method, engine, _, teacher = prepared({})
    before = copy.deepcopy(teacher.state_dict())
    other, *_ = prepared({"selection": "worst", "attention": 10}, engine)
    assert len(engine.made) == 1 and torch.equal(method.probes.table, other.probes.table)
    assert method.probes.chosen() != other.probes.chosen()
    prepared({"probe_pool": 2}, engine)
    prepared({"probe_split": "train"}, engine)
    assert len(engine.made) == 3
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items()) and not teacher.training
    assert set(engine.asked) == {("train", 0), ("val", 0)}  # never the test pictures
    prepared({"selection": "random"}, engine)
    assert len(engine.made) == 3


def test_the_table_is_in_the_checkpoint() -> None:
    method, _, student, teacher = prepared({})
    again = GPAC(corrector_warmup=0)
    again.build(*specs(student, teacher))
    again.attach(FACTS)
    step = make_step(student, teacher)
    with pytest.raises(ConfigError, match="call prepare"):
        again.losses(step, ["attention"])
    method.corrector.u.data += 0.3
    again.load_state_dict(method.state_dict())
    a, b = (m.losses(step, ["kd", "attention"]) for m in (method, again))
    assert {k: v.item() for k, v in a.items()} == {k: v.item() for k, v in b.items()}


def test_no_held_out_pictures() -> None:
    student, teacher = pair()
    engine = Rehearsal([teacher, *with_colleagues(teacher).colleagues], train=40, val=0)
    method = GPAC()
    method.build(*specs(student, teacher))
    with pytest.raises(StudyError, match="held out of training, and there are none"):
        method.prepare(engine)


# ---- looking at the student ---------------------------------------------------------------------------


def test_better_than_the_student() -> None:
    method, engine, student, teacher = prepared({"selection": "better_than_student_probe", "probe_every": 4})
    assert [e for e in range(1, 12) if method.revisits(e)] == [1, 5, 9]
    assert not GPAC().revisits(1)
    before = copy.deepcopy(student.state_dict())
    method.revisit(engine, student, 1)
    assert student.training and all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    table, own = method.probes.table, method.probes.student
    for j, chosen in enumerate(method.probes.chosen()):
        assert [k for k, _ in chosen] == [k for k in range(3) if table[k, j] > own[j]]
    method.probes.student.fill_(1.0)  # nobody is better any more
    method.probes._chosen = None
    value = method.losses(make_step(student, teacher), ["attention"])["attention"]
    assert value.item() == 0 and value.requires_grad


def test_levels_that_follow_the_closed_gap() -> None:
    method, engine, student, teacher = prepared({"breakpoints": "gap"})
    assert method.revisits(1) and str(method.terms["attention"].schedule) == "constant"
    step = make_step(student, teacher)
    whole = method.losses(step, ["attention"])["attention"].item()
    method.probes.table.fill_(0.8)
    method.probes.start.fill_(0.2)
    for now, level in ((0.2, 1.0), (0.35, 1.0), (0.45, 0.5), (0.59, 0.5), (0.61, 0.1), (0.9, 0.1)):
        method.probes.student.fill_(now)
        method.probes.probe_student = lambda *args: None  # type: ignore[method-assign]
        method.revisit(engine, student, 11)
        assert method.level.item() == pytest.approx(level), now
    method.probes._chosen = None
    assert method.losses(step, ["attention"])["attention"].item() <= 0.2 * whole
    both = built(Combined([KD(), GPAC(breakpoints="gap", probe_every=2)]), student, teacher)
    assert [e for e in range(1, 6) if both.revisits(e)] == [1, 3, 5]
    both.revisit(engine, student, 1)
    assert (both.parts[1].probes.student >= 0).all()  # type: ignore[union-attr]


# ---- probes -------------------------------------------------------------------------------------------


def test_a_probe_is_converged_and_agrees_with_scikit_learn() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    y = torch.arange(200) % 4
    x = (torch.randn(4, 12)[y] + torch.randn(200, 12)).double() * torch.logspace(-2, 1, 12).double()
    x = (x - x.mean(0)) / x.std(0, unbiased=False)
    for l2 in (1e-1, 1e-3):
        mine = F.softmax(logits(x, Softmax(x, y, 4).fit(l2)), 1)
        start = torch.randn(13, 4).double()
        assert torch.allclose(mine, F.softmax(logits(x, Softmax(x, y, 4).fit(l2, start)), 1), atol=2e-3)
        theirs = linear.LogisticRegression(C=1 / (200 * l2), tol=1e-9, max_iter=5000).fit(
            x.numpy(), y.numpy()
        )
        assert torch.allclose(mine, torch.from_numpy(theirs.predict_proba(x.numpy())), atol=2e-3)


def test_more_features_than_samples() -> None:
    y = torch.arange(20) % 2
    x = torch.randn(20, 50).double()
    x = x - x.mean(0)
    weights = Softmax(x, y, 2).fit(1e-2)
    free = weights.clone().requires_grad_()
    value = F.cross_entropy(logits(x, free), y) + 0.005 * free[:-1].square().sum()
    (gradient,) = torch.autograd.grad(value, free)
    assert gradient.abs().max() < 1e-3


def test_dead_features_do_not_matter() -> None:
    class Net(TinyNet):
        def features(self, x: Tensor) -> Features:
            seen = super().features(x)
            seen.stages = tuple(
                s * torch.tensor([0.0, *[1.0] * (s.shape[1] - 1)])[:, None, None] for s in seen.stages
            )
            return seen

    net = Net(PAIRS["equal sizes"][1]).eval()
    row = probe_row(net, (1, 2), Rehearsal([net]), 5, 1, "held-out")
    assert row.isfinite().all()
    assert torch.equal(row, probe_row(net, (1, 2), Rehearsal([net]), 5, 1, "held-out"))
    assert probe_row(net, (2,), Rehearsal([net]), 5, 4, "train")[0] >= 0.5


# ---- networks and refusals ----------------------------------------------------------------------------


def test_one_teacher_without_a_choice_is_kd() -> None:
    student, teacher = pair()
    method = built(GPAC(attention=0, corrector="none"), student, teacher)
    kd = built(KD(ce=1, kd=1), student, teacher)
    step = make_step(student, teacher)
    a, b = (weighted(m, m.losses(step, m.active(9)), 9).item() for m in (method, kd))
    assert a == pytest.approx(b, rel=1e-6)
    assert built(GPAC(selection="all"), student, teacher).losses(step, ["attention"])["attention"].isfinite()


@pytest.mark.parametrize("nets", PAIRS)
def test_gradient_reach(nets: str) -> None:
    for term, own in (("ce", set()), ("attention", set()), ("kd", {"corrector.u"})):
        method, student, teacher = ready("gpac", nets)
        method.losses(make_step(student, teacher), [term])[term].backward()
        assert {n for n, p in method.named_parameters() if p.grad is not None} == own
        assert (student.fc.weight.grad is None) == (term == "attention")
        assert student.convs[0].weight.grad is not None


def test_a_torchvision_network_among_the_teachers() -> None:
    torchvision = pytest.importorskip("torchvision")
    from kdlab.models import tap

    wide = tap(torchvision.models.resnet18(num_classes=5), input_shape=SHAPE).eval().requires_grad_(False)
    student, teacher = pair()
    teacher.colleagues = [wide]  # type: ignore[assignment]
    method = built(GPAC(corrector_warmup=0), student, teacher)
    values = method.losses(make_step(student, teacher), list(method.terms))
    total = weighted(method, values)
    total.backward()
    assert total.isfinite() and all(p.grad is None for p in wide.parameters())


def test_refusals() -> None:
    student, teacher = pair()
    with pytest.raises(ConfigError, match=r"GPAC needs 2 teacher\(s\) and the study has 1"):
        GPAC().build(*specs(student, teacher))
    with pytest.raises(ConfigError, match="asks for more teachers than the 3"):
        GPAC(selection="top_m_mean", top=4).build(*specs(student, with_colleagues(teacher)))
    for bad, message in (
        ({"selection": "best"}, "'best_per_stage' or 'one_for_all_stages'"),
        ({"corrector": "mlp"}, "'scale' or 'none'"),
        ({"schedule": "linear"}, "'down' or 'up'"),
        ({"breakpoints": "halves"}, "'thirds' or 'milestones' or 'gap'"),
        ({"breakpoints": (80, 40)}, "two epochs such as"),
        ({"breakpoints": 3}, "two epochs such as"),
        ({"granularity": "pixel"}, "'teacher' or 'class'"),
        ({"probe_pool": 3}, "1, 2 or 4"),
        ({"probe_split": "test"}, "'held-out' or 'train'"),
        ({"probe_every": 0}, "at least 1"),
        ({"tau": -1}, "above 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            GPAC(**bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be built"):
        GPAC().losses(make_step(*pair()), ["kd"])

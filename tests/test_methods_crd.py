"""Contrastive CRD: worked values, banks, the draw of negatives, resuming."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from methods_nets import CLASSES, built, make_step, outcome, pair, ready, specs
from methods_rehearsal import FACTS
from torch import Tensor
from torch.nn import functional as F

from kdlab import losses
from kdlab.errors import ConfigError
from kdlab.methods import CRD, DataFacts, Method, Step
from kdlab.methods.crd import Draw


def draw(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape).double() * scale


def facts(labels: Tensor, classes: int = CLASSES) -> DataFacts:
    return DataFacts(len(labels), labels, classes, 2, 30)


def method_on(labels: Tensor, classes: int = CLASSES, **options: Any) -> Method:
    method = CRD(**options)
    method.build(*specs(*pair(classes=classes)))
    method.attach(facts(labels, classes))
    return method.train()


# ---- worked value ----------------------------------------------------------------------------------------


def test_worked_value_of_two_calls() -> None:
    torch.manual_seed(0)
    f_s, f_t = draw(4, 32).requires_grad_(), draw(4, 64)
    weights = [draw(*s, scale=0.1) for s in ((16, 32), (16,), (16, 64), (16,))]
    banks = [F.normalize(draw(50, 16), dim=1) for _ in range(2)]
    chosen = torch.randint(0, 50, (4, 21))
    index = torch.tensor([3, 7, 11, 19])
    chosen[:, 0] = index
    assert chosen[0, :8].tolist() == [3, 29, 7, 45, 39, 32, 37, 30]

    method = method_on(torch.arange(50) % 5, width=16, negatives=20)
    method.embed_student, method.embed_teacher = torch.nn.Linear(32, 16), torch.nn.Linear(64, 16)
    method.double()
    method.pictures = 50  # type: ignore[assignment]
    method._draw = lambda target: Draw(None, chosen[:, 1:], None)  # type: ignore[assignment]
    parameters = [*method.embed_student.parameters(), *method.embed_teacher.parameters()]
    with torch.no_grad():
        for parameter, weight in zip(parameters, weights):
            parameter.copy_(weight)
        method.bank_student.copy_(banks[0])  # type: ignore[operator]
        method.bank_teacher.copy_(banks[1])  # type: ignore[operator]

    def call() -> tuple[float, float]:
        v_s = losses.unit_rows(method.embed_student(f_s))  # type: ignore[operator]
        v_t = losses.unit_rows(method.embed_teacher(f_t))  # type: ignore[operator]
        step = Step(None, index % 5, index=index)  # type: ignore[arg-type]
        value = sum(method._in_banks(v_s, v_t, step))  # type: ignore[operator]
        return value.item(), torch.autograd.grad(value, f_s)[0].norm().item()

    assert call() == pytest.approx((14.5396, 1.82600), rel=5e-6)
    assert method.normalisers.tolist() == pytest.approx([1649.90, 4676.96], rel=5e-6)
    assert call() == pytest.approx((12.1971, 1.86439), rel=5e-6)
    assert method.normalisers.tolist() == pytest.approx([1649.90, 4676.96], rel=5e-6)
    assert method.bank_student[3].sum().item() == pytest.approx(-0.289911, rel=1e-5)  # type: ignore[index]


@pytest.mark.parametrize("pool", ["sampled", "all", "batch"])
def test_value_written_out(pool: str) -> None:
    student, teacher = pair()
    method = CRD(width=8, pool=pool, negatives=9 if pool == "sampled" else None)  # type: ignore[arg-type]
    built(method, student.double(), teacher.double()).double()
    step = make_step(student, teacher, dtype=torch.float64)
    v_s, v_t = (
        F.normalize(layer(f), dim=1)
        for layer, f in (
            (method.embed_student, step.student.embedding),
            (method.embed_teacher, step.teacher.embedding),
        )
    )
    if pool == "batch":
        drawn, labels, pictures = None, step.target, 6
        sides = ((v_s, v_t), (v_t, v_s))
    else:
        torch.manual_seed(17)
        drawn, labels, pictures = method._draw(step.target).chosen, FACTS.labels, 64
        sides = ((v_s, method.bank_teacher), (v_t, method.bank_student))  # type: ignore[assignment]
    total = 0.0
    for anchors, others in sides:
        scores = []
        for b in range(6):
            rows = [r for r in range(len(labels)) if labels[r] != step.target[b]]
            if drawn is not None:
                rows = drawn[b].tolist()
            row = [b, *rows]
            scores.append([math.exp((anchors[b] @ others[r]).item() / 0.07) for r in row])
        flat = [o for row in scores for o in row]
        z = pictures * sum(flat) / len(flat)
        for row in scores:
            c = (len(row) - 1) / pictures
            positive, *negatives = (o / z for o in row)
            total -= math.log(positive / (positive + c + 1e-7))
            total -= sum(math.log(c / (o + c + 1e-7)) for o in negatives)
    value = outcome(method, step, ["crd"])["crd"]
    assert value.item() == pytest.approx(total / 6, rel=1e-7)


def test_extreme_scores_stay_finite() -> None:
    positive, negative = torch.tensor([1.0, -1.0]), torch.tensor([[1.0, -1.0]] * 2)
    for tau in (0.07, 0.001):
        for z in (1e-20, 1e20):
            s = positive.clone().requires_grad_()
            value = losses.noise_contrastive(s, negative, torch.tensor(z), 0.5, temperature=tau)
            assert value.isfinite() and value >= 0 and torch.autograd.grad(value, s)[0].isfinite().all()
    nothing = losses.noise_contrastive(
        positive, negative, torch.tensor(1.0), torch.zeros(2, 1), torch.zeros(2, 2, dtype=torch.bool)
    )
    assert nothing.isfinite()


# ---- banks -------------------------------------------------------------------------------------------------


def test_banks_follow_the_pictures_seen_and_no_others() -> None:
    method, student, teacher = ready("crd")
    step = make_step(student, teacher)
    assert step.index is not None
    for number in range(2):
        before = {side: getattr(method, f"bank_{side}").clone() for side in ("student", "teacher")}
        z = method.normalisers.clone()  # type: ignore[operator]
        method.losses(step, ["crd"])["crd"].backward()
        features = {"student": step.student.embedding, "teacher": step.teacher.embedding}
        for side, bank in before.items():
            bank_now = getattr(method, f"bank_{side}")
            layer = getattr(method, f"embed_{side}")
            v = F.normalize(layer(features[side]), dim=1)
            assert torch.allclose(bank_now[step.index], F.normalize(0.5 * bank[step.index] + 0.5 * v, dim=1))
            others = [i for i in range(64) if i not in step.index.tolist()]
            assert torch.equal(bank_now[others], bank[others])
            assert not bank_now.requires_grad
        now = method.normalisers.clone()  # type: ignore[operator]
        assert torch.equal(now, z) if number else ((z < 0) & (now > 0)).all()
        step = make_step(student, teacher)


def test_nothing_is_remembered_in_evaluation() -> None:
    method, student, teacher = ready("crd")
    before = copy.deepcopy(method.state_dict())
    method.eval()
    value = method.losses(make_step(student, teacher), ["crd"])["crd"]
    assert value.isfinite()
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())


def test_banks_start_uniform() -> None:
    method = method_on(torch.arange(400) % 5, width=48)
    for side in ("student", "teacher"):
        bank = getattr(method, f"bank_{side}")
        assert bank.shape == (400, 48) and bank.abs().max().item() == pytest.approx(0.25, rel=1e-3)
        assert bank.std().item() == pytest.approx(0.25 / 3**0.5, rel=0.02)


def test_a_resumed_run_gives_the_same_next_loss() -> None:
    method, student, teacher = ready("crd-few")
    for _ in range(3):
        method.losses(make_step(student, teacher), ["crd"])
    again = built(method.fresh(), *pair(), seed=5)
    again.load_state_dict(method.state_dict())
    step = make_step(student, teacher)
    for _ in range(2):
        torch.manual_seed(4)
        a = method.losses(step, ["crd"])["crd"].item()
        torch.manual_seed(4)
        assert again.losses(step, ["crd"])["crd"].item() == a
    assert {"bank_student", "bank_teacher", "normalisers"} <= set(method.state_dict())


# ---- the draw ----------------------------------------------------------------------------------------------

UNEVEN = torch.tensor([0] * 20 + [1] * 6 + [2] * 3 + [-1] * 11)


@pytest.mark.parametrize("shared", [False, True])
def test_negatives_are_other_classes_without_repetition(shared: bool) -> None:
    method = method_on(UNEVEN, classes=3, negatives=7, shared_draw=shared)
    target = torch.tensor([0, 1, 2, 0])
    times = torch.zeros(4, len(UNEVEN))
    for _ in range(600):
        d = method._draw(target)  # type: ignore[operator]
        for b in range(4):
            if shared:
                assert d.rows is not None and d.counts is not None
                rows = d.rows[d.counts[b]]
            else:
                assert d.chosen is not None
                rows = d.chosen[b]
            assert len(rows) == len(set(rows.tolist())) == 7
            times[b, rows] += 1
    for b, label in enumerate(target):
        eligible = (label != UNEVEN) & (UNEVEN >= 0)
        assert times[b][~eligible].sum() == 0
        share = times[b][eligible] / 600  # each of them equally often
        assert torch.allclose(share, torch.full_like(share, 7 / int(eligible.sum())), atol=0.11)


def test_how_many_negatives() -> None:
    assert method_on(UNEVEN, classes=3).drawn == 9  # 29 pictures, 20 of one class
    assert method_on(UNEVEN, classes=3).pictures == 29
    assert method_on(torch.arange(20_000) % 5, width=2).drawn == 16_000
    assert method_on(torch.arange(40_000) % 5, width=2).drawn == 16_384
    with pytest.raises(ConfigError, match="more than the 9 pictures"):
        method_on(UNEVEN, classes=3, negatives=10)
    with pytest.raises(ConfigError, match="all training pictures are of one class"):
        method_on(torch.zeros(9, dtype=torch.int64))
    method_on(torch.zeros(9, dtype=torch.int64), pool="batch")


def test_a_batch_of_one_class() -> None:
    student, teacher = pair()
    for pool in ("sampled", "batch"):
        method = built(CRD(width=8, pool=pool), student, teacher)  # type: ignore[arg-type]
        step = make_step(student, teacher)
        value = method.losses(replace(step, target=torch.ones_like(step.target)), ["crd"])["crd"]
        value.backward()
        assert value.isfinite() and all(
            p.grad is None or p.grad.isfinite().all() for p in method.parameters()
        )


# ---- gradient, arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["crd", "crd-few", "crd-all", "crd-batch"])
def test_gradient_reaches_the_student_and_both_embeddings(variant: str) -> None:
    method, student, teacher = ready(variant)
    step = make_step(student, teacher)
    step.student.embedding.retain_grad()
    method.losses(step, ["crd"])["crd"].backward()
    assert step.student.embedding.grad is not None and student.fc.weight.grad is None
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in method.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_the_student_is_scored_against_the_teachers_bank() -> None:
    method, student, teacher = ready("crd-all")
    step = make_step(student, teacher)
    plain = outcome(method, step, ["crd"])
    details = {}
    for side in ("student", "teacher"):
        other = copy.deepcopy(method)
        with torch.no_grad():
            getattr(other, f"bank_{side}").neg_()
        other.losses(step, ["crd"])
        details[side] = other.details
    method.losses(step, ["crd"])
    assert plain["crd"].item() == pytest.approx(sum(v.item() for v in method.details.values()), rel=1e-6)
    assert details["student"]["crd/student anchor"] == method.details["crd/student anchor"]
    assert details["student"]["crd/teacher anchor"] != method.details["crd/teacher anchor"]
    assert details["teacher"]["crd/student anchor"] != method.details["crd/student anchor"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": 0}, "at least 1"),
        ({"negatives": 5, "pool": "all"}, "belongs to pool='sampled'"),
        ({"pool": "queue"}, "'sampled' or 'all' or 'batch'"),
        ({"momentum": 1.0}, "below 1"),
        ({"tau": 0}, "above 0"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CRD(**options)


def test_use_without_data_is_refused() -> None:
    student, teacher = pair()
    method = CRD()
    method.build(*specs(student, teacher))
    with pytest.raises(ConfigError, match="needs attach"):
        method.losses(make_step(student, teacher), ["crd"])

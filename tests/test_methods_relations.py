"""SP, RKD, PKT and CC: worked values, options, what they are blind to, batches of one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from methods_nets import PAIRS, built, make_step, pair, ready, specs
from torch import Tensor
from torch.nn import functional as F

from kdlab import losses
from kdlab.errors import ConfigError
from kdlab.methods import CC, PKT, RKD, SP, Method, make
from kdlab.models.features import Features

RELATIONS = {"sp": ("sp",), "rkd": ("distance", "angle"), "pkt": ("pkt",), "cc": ("cc",)}


def draw(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape).double() * scale


def vectors() -> tuple[Tensor, Tensor]:
    return draw(6, 5), draw(6, 7)


# ---- worked values, written out again ------------------------------------------------------------------


def test_cc_worked_value_with_embeddings() -> None:
    torch.manual_seed(0)
    fs, ft = draw(8, 64).requires_grad_(), draw(8, 256)
    weights = [draw(*s, scale=0.1) for s in ((128, 64), (128,), (128, 256), (128,))]
    method = CC()
    method.embed_student, method.embed_teacher = torch.nn.Linear(64, 128), torch.nn.Linear(256, 128)
    method.double()
    parameters = [*method.embed_student.parameters(), *method.embed_teacher.parameters()]
    with torch.no_grad():
        for parameter, weight in zip(parameters, weights):
            parameter.copy_(weight)
    value = method.relate("cc", fs, ft)
    assert value.item() == pytest.approx(264.972, rel=2e-6)
    assert torch.autograd.grad(value, fs)[0].norm().item() == pytest.approx(11.9152, rel=1e-5)


@pytest.mark.parametrize("nets", PAIRS)
def test_values_written_out(nets: str) -> None:
    student, teacher = pair(nets)
    student.double(), teacher.double()
    step = make_step(student, teacher, dtype=torch.float64)
    v, w = step.student.embedding, step.teacher.embedding
    b = len(v)

    def get(method: Method, *terms: str) -> list[float]:
        built(method, student, teacher).double()
        return [method.losses(step, [term])[term].item() for term in terms]

    rows = [f.stages[-1].flatten(1) for f in (step.student, step.teacher)]
    gram = [F.normalize(x @ x.T, dim=1) for x in rows]
    assert get(SP(), "sp") == pytest.approx([((gram[0] - gram[1]) ** 2).sum().item() / b**2], rel=1e-8)
    raw = [x.flatten(1) @ x.flatten(1).T for x in (v, w)]
    whole = ((raw[0] / raw[0].norm() - raw[1] / raw[1].norm()) ** 2).sum().item() / b**2
    assert get(SP(stage=None, normalise="matrix"), "sp") == pytest.approx([whole], rel=1e-8)

    distances = [(x[:, None] - x).norm(dim=2) for x in (v, w)]
    relative = [d / d[d > 0].mean() for d in distances]
    squared = [d**2 / (d**2)[d > 0].mean() for d in distances]
    assert get(RKD(), "distance") == pytest.approx([F.smooth_l1_loss(*relative).item()], rel=1e-8)
    assert get(RKD(squared=True), "distance") == pytest.approx([F.smooth_l1_loss(*squared).item()], rel=1e-8)
    total, few = 0.0, 0.0
    for i in range(b):
        for j in range(b):
            for k in range(b):
                cosines = []
                for x in (v, w):
                    e, f = x[i] - x[j], x[k] - x[j]
                    bottom = (e.norm() * f.norm()).clamp_min(1e-300)
                    cosines.append(-(e @ -f) / bottom if i != j and k != j else torch.zeros(()).double())
                term = F.smooth_l1_loss(*cosines).item()
                total, few = total + term, few + term * (max(i, j, k) < 4)
    assert get(RKD(), "angle") == pytest.approx([total / b**3], rel=1e-8)
    assert get(RKD(angle_subsample=4), "angle") == pytest.approx([few / 4**3], rel=1e-8)

    p = []
    for x in (v, w):
        u = x / (x.norm(dim=1, keepdim=True) + 1e-7)
        k = (u @ u.T + 1) / 2
        others = k.clone().fill_diagonal_(0)
        p.append((k / k.sum(1, keepdim=True), others / others.sum(1, keepdim=True)))
    for i, diagonal in enumerate((True, False)):
        ps, pt = (q[i] for q in p)
        entries = (pt * ((pt + 1e-7) / (ps + 1e-7)).log()).sum().item()
        assert get(PKT(diagonal=diagonal), "pkt") == pytest.approx([entries / b**2], rel=1e-8)
        assert get(PKT(diagonal=diagonal, form="rows"), "pkt") == pytest.approx([entries / b], rel=1e-8)

    method = built(CC(), student, teacher).double()
    d = (method.embed_student(v) - method.embed_teacher(w)).abs()  # type: ignore[operator]
    expected = sum((d[i] * d[i + 1]).sum().item() for i in range(b - 1)) / (b - 1)
    assert method.losses(step, ["cc"])["cc"].item() == pytest.approx(expected, rel=1e-8)
    method = built(CC(form="kernel", gamma=0.7, width=9), student, teacher).double()
    kernels = []
    for e in (method.embed_student(v), method.embed_teacher(w)):  # type: ignore[operator]
        u = F.normalize(e, dim=1)
        kernels.append(torch.exp(-0.7 * torch.cdist(u, u) ** 2))
    expected = F.mse_loss(*kernels).item()
    assert method.losses(step, ["cc"])["cc"].item() == pytest.approx(expected, rel=1e-6)


# ---- what they are blind to ------------------------------------------------------------------------------


def test_options_of_the_losses() -> None:
    s, t = vectors()
    turn = torch.linalg.qr(draw(5, 5))[0]
    blind: list[Any] = [
        lambda x: losses.similarity_preserving(x, t, "matrix"),
        lambda x: losses.rkd_distance(x, t, squared=True),
        lambda x: losses.pkt(x, t, "rows", diagonal=False),
        lambda x: losses.kernel_congruence(x, t),
    ]
    for loss in blind:
        assert loss(s @ turn).item() == pytest.approx(loss(s).item(), rel=1e-8)
        assert loss(3 * s).item() == pytest.approx(loss(s).item(), rel=1e-5)
        assert torch.autograd.gradcheck(loss, (s.clone().requires_grad_(),))
    assert losses.kernel_congruence(t, t.clone()).item() < 1e-20
    order = torch.randperm(6)
    moved = losses.kernel_congruence(s[order], t[order])
    assert moved.item() == pytest.approx(losses.kernel_congruence(s, t).item(), rel=1e-10)
    one = torch.randn(1, 4)
    assert losses.pkt(one, one, diagonal=False).item() == 0
    with pytest.raises(ValueError, match="'mean' or 'rows'"):
        losses.pkt(s, t, "sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'rows' or 'matrix'"):
        losses.similarity_preserving(s, t, "none")  # type: ignore[arg-type]


# ---- gradient, taps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", RELATIONS)
def test_gradient_reaches_one_student_tensor_and_the_method_alone(key: str) -> None:
    for term in RELATIONS[key]:
        method, student, teacher = ready(key)
        step = make_step(student, teacher)
        tensors = (step.student.stages[-1], step.student.embedding, step.student.logits)
        for t in tensors:
            t.retain_grad()
        method.losses(step, [term])[term].backward()
        reached = [t.grad is not None and bool(t.grad.abs().max() > 0) for t in tensors]
        assert reached == [True, key != "sp", False]  # the embedding is an average of the map
        assert student.fc.weight.grad is None and all(p.grad is None for p in teacher.parameters())
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in method.parameters())


def test_taps() -> None:
    student, teacher = pair()
    assert built(SP(), student, teacher).terms["sp"].taps == ("student.stages[2]", "teacher.stages[2]")
    assert SP().terms["sp"].taps == ("student.stages[-1]", "teacher.stages[-1]")
    assert RKD().terms["angle"].taps == ("student.embedding", "teacher.embedding")
    method = built(PKT(stage=0, teacher_stage=-1), student, teacher)
    assert method.terms["pkt"].taps == ("student.stages[0]", "teacher.stages[2]")
    cc = built(CC(stage=0, width=4), student, teacher)
    assert cc.embed_student.weight.shape == (4, 4)  # type: ignore[union-attr]


# ---- a batch of one ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", RELATIONS)
def test_a_batch_of_one_gives_zero(key: str) -> None:
    """The last batch of an epoch may be one picture; training must not stop there."""
    method, student, teacher = ready(key)
    step = make_step(student.eval(), teacher, batch=1)
    values = method.losses(step, list(RELATIONS[key]))
    assert all(value.item() == 0 and value.requires_grad for value in values.values())
    sum(values.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in student.parameters())


# ---- arguments ---------------------------------------------------------------------------------------------


def test_default_weights() -> None:
    weights = {key: [make(key).terms[t].weight for t in terms] for key, terms in RELATIONS.items()}
    assert weights == {"sp": [3000], "rkd": [25, 50], "pkt": [30000], "cc": [0.02]}


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: SP(normalise="columns"), "'rows' or 'matrix'"),  # type: ignore[arg-type]
        (lambda: SP(stage=1.0), "whole number"),  # type: ignore[arg-type]
        (lambda: PKT(form="sum"), "'mean' or 'rows'"),  # type: ignore[arg-type]
        (lambda: RKD(angle_subsample=2), "at least 3"),
        (lambda: RKD(teacher_stage=1), "stage=None means the embeddings of both; give stage= too"),
        (lambda: CC(form="taylor"), "'consecutive' or 'kernel'"),  # type: ignore[arg-type]
        (lambda: CC(width=0), "at least 1"),
        (lambda: CC(gamma=0), "above 0"),
    ],
)
def test_bad_arguments(make_it: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_it()


@pytest.mark.parametrize("key", RELATIONS)
def test_refused_stages_and_use_before_build(key: str) -> None:
    with pytest.raises(ConfigError, match="stage 3 of the student"):
        make({"key": key, "params": {"stage": 3}}).build(*specs(*pair()))
    with pytest.raises(ConfigError, match="must be built"):
        make(key).losses(make_step(*pair()), RELATIONS[key])


def test_rkd_of_identical_rows_is_finite() -> None:
    method, student, teacher = ready("rkd")
    step = make_step(student, teacher)
    same = step.student.embedding[:1].expand(6, -1)
    features = Features(step.student.logits, same, step.student.stages)
    values = method.losses(type(step)(features, step.target, step.teachers), ["distance", "angle"])
    sum(values.values()).backward()  # type: ignore[union-attr]
    assert all(v.isfinite() for v in values.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())

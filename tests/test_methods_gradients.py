"""Where the gradient of each term arrives, and that training follows it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from methods_nets import (
    VARIANTS,
    TinyNet,
    make_step,
    outcome,
    ready,
    weighted,
)
from torch import Tensor, nn

from kdlab.methods import Method

every_variant = pytest.mark.parametrize("variant", VARIANTS)


def student_gradients(method: Method, student: TinyNet, teacher: TinyNet, active: Any) -> dict[str, Tensor]:
    step = make_step(student, teacher)
    total = weighted(method, outcome(method, step, active))
    if total.requires_grad:
        total.backward()
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in student.named_parameters()}
    student.zero_grad(set_to_none=True)
    method.zero_grad(set_to_none=True)
    return gradients


#  term -> (method, parts of the student that get gradient, trained parts that get gradient)
TRUNK3 = {f"{kind}.{i}" for kind in ("convs", "bns") for i in range(3)}
TRUNK2 = {f"{kind}.{i}" for kind in ("convs", "bns") for i in range(2)}
P1, P2 = "projectors.0", "projectors.1"
REACH: list[tuple[str, str, set[str], set[str]]] = [
    ("ce", "ce", TRUNK3 | {"fc"}, set()),
    ("kd", "kd", TRUNK3 | {"fc"}, set()),
    ("at", "at", TRUNK3, set()),
    ("at-one", "at", TRUNK3, set()),
    ("fitnet", "hint", TRUNK2, {"regressor"}),
    ("srrl", "fm", TRUNK3, {"connector"}),
    ("srrl", "sr", TRUNK3, {"connector"}),
    ("cmkd", "ce", TRUNK3 | {"fc"}, set()),
    ("cmkd", "kd", TRUNK3 | {"fc"}, set()),
    ("cmkd", "pseudo", TRUNK3 | {"fc"}, {P1}),
    ("cmkd-detached", "pseudo", TRUNK3 | {"fc"}, set()),
    ("cmkd", "stage_kd", TRUNK3, {P1, P2}),
    ("cmkd", "feature", TRUNK3, {P1, P2}),
]


@pytest.mark.parametrize(("variant", "term", "student_parts", "own_parts"), REACH)
def test_gradient_reach(variant: str, term: str, student_parts: set[str], own_parts: set[str]) -> None:
    method, student, teacher = ready(variant)
    method.losses(make_step(student, teacher), [term])[term].backward()

    def reached(net: nn.Module, depth: int) -> set[str]:
        moved = [n for n, p in net.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
        return {".".join(n.split(".")[:depth]) for n in moved}

    assert {n if n != "fc.weight" else "fc" for n in reached(student, 2)} - {"fc.bias"} == student_parts
    own = reached(method, 2 if "cmkd" in variant else 1)
    assert own == own_parts
    for name in own_parts:  # every weight of a part that is reached, not just one
        assert all(p.grad is not None for p in method.get_submodule(name).parameters())
    assert reached(teacher, 9) == set()


def test_the_teacher_classifier_is_frozen_and_passes_gradient() -> None:
    for variant, term in (("srrl", "sr"), ("cmkd", "stage_kd"), ("cmkd", "pseudo")):
        method, student, teacher = ready(variant)
        before = copy.deepcopy(teacher.fc.state_dict())
        optimiser = torch.optim.SGD([*student.parameters(), *method.parameters()], lr=0.1, weight_decay=0.1)
        method.losses(make_step(student, teacher), [term])[term].backward()
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in method.parameters())
        optimiser.step()
        assert all(p.grad is None for p in teacher.parameters())
        assert all(torch.equal(v, before[k]) for k, v in teacher.fc.state_dict().items())
        assert not any(p is q for p in method.parameters() for q in teacher.parameters())


@every_variant
def test_switching_a_term_off_equals_weight_zero(variant: str) -> None:
    for name in VARIANTS[variant].terms:
        method, student, teacher = ready(variant)
        off = [n for n in method.terms if n != name]
        method.terms[name].weight = 0.0
        left_out = student_gradients(method, student, teacher, off)
        zeroed = student_gradients(method, student, teacher, list(method.terms))
        for key, gradient in left_out.items():
            assert torch.allclose(gradient, zeroed[key], rtol=1e-5, atol=1e-7), (name, key)


def test_cmkd_detaching_the_pseudo_teacher_spares_the_projector() -> None:
    norms = {}
    for variant in ("cmkd", "cmkd-detached"):
        method, student, teacher = ready(variant)
        step = make_step(student, teacher)
        step.student.logits.retain_grad()
        weighted(method, method.losses(step, list(method.terms))).backward()
        assert step.student.logits.grad is not None
        first = next(method.projectors[0].parameters())  # type: ignore[index, union-attr]
        norms[variant] = (step.student.logits.grad.clone(), first.grad)
    assert torch.allclose(norms["cmkd"][0], norms["cmkd-detached"][0])
    assert not torch.allclose(norms["cmkd"][1], norms["cmkd-detached"][1])

"""Evaluation leaves methods as they were; their state can be saved; half precision and training work."""

from __future__ import annotations

import pytest
import torch
from methods_nets import (
    PAIRS,
    VARIANTS,
    TinyNet,
    built,
    make_step,
    outcome,
    ready,
    seen_again,
    weighted,
)

from kdlab.methods import CMKD, MTKDSSR, SRRL, Combined, FitNet, Method

every_variant = pytest.mark.parametrize("variant", VARIANTS)


@every_variant
def test_evaluation_changes_nothing(variant: str) -> None:
    method, student, teacher = ready(variant)
    with torch.no_grad():
        step = make_step(student, teacher)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    modes = [m.training for m in method.modules()]
    first = method.side_logits(step) | {"project": method.project(step)}
    second = method.side_logits(step) | {"project": method.project(step)}
    for name, value in first.items():
        assert value is None or (torch.equal(value, second[name]) and not value.requires_grad)
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())
    assert method.training and [m.training for m in method.modules()] == modes


@pytest.mark.parametrize("variant", ["srrl", "srrl-kl-pooled", "cmkd", "fitnet-last"])
def test_evaluation_uses_running_statistics(variant: str) -> None:
    method, student, teacher = ready(variant)
    step = make_step(student, teacher)
    for _ in range(3):
        method.losses(step, list(method.terms))  # moves the running statistics
    whole, part = make_step(student.eval(), teacher), make_step(student, teacher, batch=2)
    projected, alone = method.project(whole), method.project(part)
    assert projected is not None and alone is not None
    assert torch.allclose(projected[:2], alone, atol=1e-6)  # a sample does not depend on its batch
    for name, logits in method.side_logits(whole).items():
        assert torch.allclose(logits[:2], method.side_logits(part)[name], atol=1e-5)


def test_names_of_side_predictors() -> None:
    for variant, expected in {
        "srrl": ["reused head"],
        "cmkd": ["pseudo-teacher", "stage logits 2"],
        "kd": [],
        "sum-modules": ["reused head"],
    }.items():
        method, student, teacher = ready(variant)
        assert list(method.side_logits(make_step(student, teacher))) == expected


def test_side_predictors_are_the_teacher_classifier_on_projected_features() -> None:
    for variant, name in (("srrl", "reused head"), ("cmkd", "pseudo-teacher")):
        method, student, teacher = ready(variant)
        step = make_step(student, teacher)
        projected = method.project(step)
        assert projected is not None
        assert torch.allclose(method.side_logits(step)[name], teacher.fc(projected))


def test_fitnet_projects_only_into_the_embedding() -> None:
    for variant, projects in (("fitnet", False), ("fitnet-last", True)):
        method, student, teacher = ready(variant)
        assert (method.project(make_step(student, teacher)) is not None) == projects
    student, teacher = TinyNet(PAIRS["equal sizes"][0]), TinyNet(PAIRS["equal sizes"][1], hidden=9)
    method = built(FitNet(stage=-1), student, teacher.requires_grad_(False))
    assert method.project(make_step(student, teacher)) is None  # the teacher's last map is not averaged


@pytest.mark.parametrize(
    ("trained", "untrained"),
    [
        (SRRL(fm=0), SRRL(fm=0, sr=0)),
        (CMKD(alpha=0, gamma=0), CMKD(alpha=0, gamma=0, pseudo_detach=True)),
        (CMKD(w_pseudo=0, gamma=0), CMKD(w_pseudo=0, gamma=0, alpha=0)),
        (MTKDSSR(), MTKDSSR(w_scd=0)),
    ],
    ids=["srrl", "cmkd: the extra gradient", "cmkd: stage logits", "mtkd_ssr"],
)
def test_a_projector_that_nothing_trains_is_not_taken_for_one(trained: Method, untrained: Method) -> None:
    # A map drawn with it would show its random start, and not the student.
    for method, projects in ((trained, True), (untrained, False)):
        student, teacher = (TinyNet(shapes) for shapes in PAIRS["equal sizes"])
        teacher.requires_grad_(False)
        step = make_step(student, teacher)
        assert (built(method, student, teacher).project(step) is not None) == projects


@every_variant
def test_state_round_trip(variant: str) -> None:
    method, student, teacher = ready(variant)
    step = make_step(student, teacher)
    method.losses(step, list(method.terms))
    again = built(method.fresh(), student, teacher, seed=99)
    assert list(again.state_dict()) == list(method.state_dict())
    again.load_state_dict(method.state_dict())
    a, b = (outcome(m, step, list(m.terms)) for m in (method, again))
    assert {k: v.item() for k, v in a.items()} == {k: v.item() for k, v in b.items()}
    children = dict(again.named_children())
    owners = {name for name, child in children.items() if list(child.parameters())}
    assert isinstance(method, Combined) or owners <= set(method.trained) <= set(children)


def test_state_keys_are_stable() -> None:
    expected = {
        "fitnet": ["regressor.0.weight", "regressor.0.bias", "regressor.1.weight"],
        "srrl": ["connector.0.weight", "connector.1.weight"],
        "cmkd": ["projectors.0.hidden.0.weight", "projectors.1.out.1.running_var"],
        "sum-modules": ["parts.0.connector.0.weight", "parts.1.regressor.0.weight"],
    }
    for variant, keys in expected.items():
        assert set(keys) <= set(ready(variant)[0].state_dict())
    assert not any(list(ready(v)[0].state_dict()) for v in ("ce", "kd", "at"))


@every_variant
def test_under_autocast(variant: str) -> None:
    method, student, teacher = ready(variant)
    with torch.autocast("cpu", torch.bfloat16):
        step = make_step(student, teacher)
        values = method.losses(step, list(method.terms))
    assert all(v.dtype == torch.float32 and v.isfinite() for v in values.values())
    weighted(method, values).backward()
    assert all(
        p.grad is None or p.grad.isfinite().all() for p in [*student.parameters(), *method.parameters()]
    )


@every_variant
def test_training_lowers_each_term(variant: str) -> None:
    for name in VARIANTS[variant].terms:
        method, student, teacher = ready(variant)
        optimiser = torch.optim.Adam([*student.parameters(), *method.parameters()], lr=4e-3, fused=True)
        batch, history = make_step(student, teacher), []
        for _ in range(12):
            value = method.losses(seen_again(batch, student, method), [name])[name]
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            history.append(value.item())
        least = (
            1.0 if variant == "nkd" or name in ("exit_kd", "exit_ce") else 0.9
        )  # a soft cross-entropy ends at the teacher's entropy
        assert history[-1] < least * history[0], (name, history)

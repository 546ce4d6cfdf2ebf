"""What holds for every method: it gives what is asked, reads what it declares, runs what it needs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from methods_nets import (
    PAIRS,
    VARIANTS,
    RecordedStep,
    TinyNet,
    built,
    make_step,
    outcome,
    pair,
    ready,
    weighted,
)
from torch import Tensor, nn

from kdlab.methods import AT, CMKD, KD, SRRL, Method, names

every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_pair = pytest.mark.parametrize("nets", PAIRS)


def test_every_method_has_a_variant_here() -> None:
    assert set(names()) <= {name.partition("-")[0] for name in VARIANTS}


# ---- values and shapes


@every_variant
@every_pair
def test_all_sizes_and_widths_work(variant: str, nets: str) -> None:
    method, student, teacher = ready(variant, nets)
    step = make_step(student, teacher)
    values = method.losses(step, list(method.terms))
    assert list(values) and set(values) == set(method.terms)
    for value in values.values():
        assert value.shape == () and value.isfinite() and value.requires_grad
    projected = method.project(step)
    assert projected is None or projected.shape == (6, teacher.fc.in_features)
    for logits in method.side_logits(step).values():
        assert logits.shape == (6, 5)
    assert method.predict(step).shape == (6, 5)
    assert method.overrides("predict") or torch.equal(method.predict(step), step.student.logits)


@every_variant
def test_exactly_the_active_terms_are_returned(variant: str) -> None:
    method, student, teacher = ready(variant)
    step = make_step(student, teacher)
    assert method.losses(step, []) == {}
    whole = outcome(method, step, list(method.terms))
    for name in method.terms:
        alone = outcome(method, step, [name])
        assert list(alone) == [name]
        assert torch.allclose(alone[name], whole[name])


@every_variant
def test_details_belong_to_the_last_values(variant: str) -> None:
    method, student, teacher = ready(variant)
    step = make_step(student, teacher)
    whole = method.losses(step, list(method.terms))
    assert all(value.shape == () and not value.requires_grad for value in method.details.values())
    # "TERM/PART" are the summands of a term; anything else is a gauge such as "simplifier/entropy".
    for name in {key.partition("/")[0] for key in method.details} & set(whole):
        parts = [value for key, value in method.details.items() if key.startswith(f"{name}/")]
        assert torch.stack(parts).sum().item() == pytest.approx(whole[name].item(), rel=1e-6)
    method.losses(step, ["ce"])
    assert method.details == {}


# ---- taps: a declaration that is true


@every_variant
@every_pair
def test_a_term_reads_exactly_what_it_declares(variant: str, nets: str) -> None:
    method, student, teacher = ready(variant, nets)
    step = make_step(student, teacher)
    for name, term in method.terms.items():
        recorded = RecordedStep(step)
        method.losses(recorded, [name])  # type: ignore[arg-type]
        assert recorded.read == set(term.taps), name


@every_variant
def test_terms_read_nothing_more_together(variant: str) -> None:
    method, student, teacher = ready(variant)
    recorded = RecordedStep(make_step(student, teacher))
    method.losses(recorded, list(method.terms))  # type: ignore[arg-type]
    assert recorded.read == {tap for term in method.terms.values() for tap in term.taps}


def module_runs(method: Method, step: Any, active: Any) -> dict[str, int]:
    """How often each trained module ran."""
    runs: dict[str, int] = {}
    hooks = [
        module.register_forward_hook(lambda *_, name=name: runs.__setitem__(name, runs.get(name, 0) + 1))
        for name, module in method.named_modules()
        if not list(module.children())
    ]
    method.losses(step, active)
    for hook in hooks:
        hook.remove()
    return runs


@every_variant
def test_no_module_runs_twice_or_for_nothing(variant: str) -> None:
    method, student, teacher = ready(variant)
    step = make_step(student, teacher)
    leaves = {name for name, m in method.named_modules() if list(m.parameters(recurse=False))}
    runs = module_runs(method, step, list(method.terms))
    assert all(count == 1 for count in runs.values())
    assert leaves <= runs.keys()
    idle = [name for name in method.terms if name.split(".")[-1] in ("ce", "kd", "at")]
    if {"skd", "ctkd", "gpac"} & set(variant.split("-")):  # there the term `kd` has parts of its own
        idle = ["ce"]
    if variant in ("simkd", "simkd-labels"):  # there they go through the projector
        idle = []
    assert module_runs(method, step, idle) == {}


def test_cmkd_runs_only_the_branches_it_needs() -> None:
    method, student, teacher = ready("cmkd-stage")
    step = make_step(student, teacher)

    def ran(*active: str) -> set[str]:
        return {".".join(name.split(".")[1:3]) for name in module_runs(method, step, active)}

    assert ran("pseudo") == {"0.hidden", "0.out"}
    assert ran("stage_kd") == {"0.hidden", "0.out", "1.hidden", "1.out"}
    assert ran("feature") == {"0.hidden", "0.out", "1.hidden", "1.match"}


# ---- special cases


def test_cmkd_without_its_own_terms_is_kd() -> None:
    student, teacher = pair()
    plain = built(CMKD(alpha=0, gamma=0, w_pseudo=0), student, teacher)
    assert plain.active(1) == ["ce", "kd"]
    kd = built(KD(ce=1, kd=1), student, teacher)
    step = make_step(student, teacher)
    a, b = (weighted(m, m.losses(step, m.active(1))) for m in (plain, kd))
    assert a.item() == b.item()
    assert built(CMKD(beta=0), student, teacher).active(1) == ["ce"]


def test_identical_features_give_zero() -> None:
    student, _ = pair()
    student.eval()
    teacher = copy.deepcopy(student).requires_grad_(False)
    cmkd = built(CMKD(taps=(-1,)), student, teacher)
    cmkd.projectors[0].hidden = nn.Identity()  # type: ignore[index, union-attr]
    cmkd.projectors[0].out = nn.Identity()  # type: ignore[index, union-attr]
    srrl = built(SRRL(), student, teacher)
    srrl.connector = nn.Identity()
    step = make_step(student, teacher)
    values = cmkd.losses(step, ["stage_kd", "feature"]) | srrl.losses(step, ["fm", "sr"])
    values |= built(AT(), student, teacher).losses(step, ["at"])
    assert all(abs(v.item()) < 1e-10 for v in values.values())


def test_cmkd_leaves_maps_of_equal_size_alone() -> None:
    method, student, teacher = ready("cmkd")
    seen: list[Tensor] = []
    method.projectors[0].hidden.register_forward_pre_hook(lambda _, args: seen.append(args[0]))  # type: ignore[index, union-attr]
    step = make_step(student, teacher)
    method.losses(step, ["feature"])
    assert seen[0] is step.student.stages[2]


def test_order_of_cmkd_taps_does_not_matter() -> None:
    student, teacher = pair()
    step = make_step(student, teacher)
    values = [
        built(CMKD(taps=taps), student, teacher).losses(step, ["pseudo", "feature"])
        for taps in ((-1, 1), (1, 2), (-2, 2))
    ]
    for other in values[1:]:
        assert {k: v.item() for k, v in other.items()} == {k: v.item() for k, v in values[0].items()}
    assert list(CMKD(taps=(0, 2, 1)).terms["pseudo"].taps) == [
        "student.logits",
        "student.stages[2]",
        "teacher.classifier",
    ]


def test_at_pairs_stages_from_the_deepest() -> None:
    student, teacher = pair("other depth")
    method = built(AT(), student, teacher)
    assert method.terms["at"].taps == (
        "student.stages[0]",
        "student.stages[1]",
        "teacher.stages[2]",
        "teacher.stages[3]",
    )
    assert method.pairs == [(0, 2), (1, 3)]


def test_srrl_takes_a_teacher_or_student_without_a_final_map() -> None:
    student, teacher = (
        TinyNet(PAIRS["equal sizes"][0], hidden=12),
        TinyNet(PAIRS["equal sizes"][1], hidden=13),
    )
    method = built(SRRL(), student, teacher.eval().requires_grad_(False))
    step = make_step(student, teacher)
    assert method.project(step).shape == (6, 13)  # type: ignore[union-attr]
    recorded = RecordedStep(step)
    method.losses(recorded, ["fm"])  # type: ignore[arg-type]
    assert recorded.read == set(method.terms["fm"].taps) == {"student.stages[2]", "teacher.embedding"}

"""Sums of methods: which terms they have, that they compute what their parts compute, and how they record."""

from __future__ import annotations

import copy
from collections.abc import Collection

import pytest
import torch
from methods_nets import built, make_step, pair
from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.methods import AT, CE, CMKD, KD, SRRL, Combined, FitNet, Method, Step, make
from kdlab.methods.ce_kd import ce_term


def weights(method: Method) -> dict[str, float]:
    return {name: term.weight for name, term in method.terms.items()}


def test_terms_of_a_sum() -> None:
    assert weights(KD() + AT(weight=500)) == {"ce": 0.1, "kd": 0.9, "at": 500}
    assert weights(AT() + KD()) == {"ce": 1, "at": 1000, "kd": 0.9}  # AT merely offers a kd term
    assert weights(AT() + SRRL()) == {"ce": 1, "at": 1000, "kd": 0, "fm": 1, "sr": 1}
    assert weights(AT(kd=0.5) + KD()) == {"ce": 1, "at": 1000, "kd": 0.5, "kd.kd": 0.9}
    assert weights(KD() + CMKD()) == {
        "ce": 0.1,
        "kd": 0.9,
        "pseudo": 1,
        "stage_kd": 0.5,
        "cmkd.kd": 1,
        "feature": 15,
    }
    assert weights(KD() + KD() + KD()) == {"ce": 0.1, "kd": 0.9, "kd.kd": 0.9, "kd3.kd": 0.9}
    assert weights(FitNet(stage=0) + FitNet(stage=1, weight=7)) == {
        "ce": 1,
        "hint": 100,
        "kd": 0,
        "fitnet.hint": 7,
    }


def test_what_was_left_out_is_visible() -> None:
    total = KD() + AT(weight=500)
    assert repr(total) == "KD + AT[ce=0.1, kd=0.9, at=500; left out: AT's ce=1, AT's kd=0]"
    assert total.config()["merged"] == [
        {"term": "ce", "of": "at", "weight": 1.0},
        {"term": "kd", "of": "at", "weight": 0.0},
    ]


def test_names_and_sources_of_a_sum() -> None:
    total = KD() + CMKD() + AT()
    assert (total.key, total.title, total.status) == ("kd + cmkd + at", "KD + CMKD + AT", "recon")
    assert (KD() + AT()).status == "paper"
    assert "1503.02531" in total.paper and "01537" in total.paper
    assert "CMKD: " in total.status_note
    assert total.min_teachers == 1 and total.needs_teacher()
    assert not (CE() + CE()).needs_teacher()


def test_a_sum_computes_what_its_parts_compute() -> None:
    student, teacher = pair()
    total = built(KD(temperature=2) + SRRL() + CMKD(), student, teacher)
    alone = [built(m, student, teacher) for m in (KD(temperature=2), SRRL(), CMKD())]
    step = make_step(student, teacher)
    values = total.losses(step, list(total.terms))
    assert set(values) == set(total.terms)
    for name in values:
        part = alone[total.routes[name][0]]  # type: ignore[attr-defined]
        own = name.split(".")[-1]
        # Parts start as they would alone, so that even their random weights agree.
        assert values[name].item() == pytest.approx(part.losses(step, [own])[own].item(), rel=1e-5)
    assert set(total.side_logits(step)) == {"reused head", "pseudo-teacher", "stage logits 2"}
    projected, of_srrl = total.project(step), alone[1].project(step)
    assert projected is not None and of_srrl is not None and projected.shape == of_srrl.shape


def test_project_and_overrides_are_those_of_the_parts() -> None:
    student, teacher = pair()
    step = make_step(student, teacher)
    plain, mixed = built(KD() + AT(), student, teacher), built(FitNet() + SRRL(), student, teacher)
    assert [plain.overrides(n) for n in ("predict", "project", "side_logits")] == [False, False, False]
    assert [mixed.overrides(n) for n in ("predict", "project", "side_logits")] == [False, True, True]
    assert plain.project(step) is None
    assert mixed.project(step) is not None  # FitNet's second stage makes none, SRRL does


def test_sums_are_associative_in_effect() -> None:
    a, b, c = KD(), AT(weight=500), FitNet(kd=0.5)
    left, right, listed = (a + b) + c, a + (b + c), sum([a, b, c])
    assert isinstance(left, Combined) and isinstance(right, Combined)
    assert left.config() == right.config() == listed.config()  # type: ignore[union-attr]
    student, teacher = pair()
    step = make_step(student, teacher)
    values = [built(m, student, teacher).losses(step, list(m.terms)) for m in (left, right)]
    assert {k: v.item() for k, v in values[0].items()} == {k: v.item() for k, v in values[1].items()}
    assert left.code().count("kdlab.methods.") == 3


def test_changes_of_a_sum_survive_further_addition() -> None:
    two = KD() + AT(weight=500)
    two.term("ce").set(weight=0.3)
    two.term("at").set(schedule="warmup:5")
    three = two + FitNet()
    assert weights(three) == {"ce": 0.3, "kd": 0.9, "at": 500, "hint": 100}
    assert str(three.term("at").schedule) == "warmup:5"


def test_operands_are_left_alone() -> None:
    student, teacher = pair()
    kd, at = KD(), AT()
    total = built(kd + at, student, teacher)
    total.term("kd").set(weight=5)
    at.term("at").set(weight=3)
    assert kd.term("kd").weight == 0.9 and total.term("at").weight == 1000
    assert not kd.built and kd.fresh().config() == kd.config()


def test_taps_of_a_sum_are_resolved_by_build() -> None:
    total = KD() + CMKD()
    assert "student.stages[-1]" in total.term("feature").taps
    built(total, *pair())
    assert total.term("feature").taps == ("student.stages[2]", "student.stages[1]", "teacher.final")


def test_round_trip_of_a_changed_sum() -> None:
    total = AT(kd=0.5) + KD(temperature=3)
    total.term("kd.kd").set(weight=0.2, enabled=False)
    again = make(total.config())
    assert again.config() == total.config() == total.fresh().config()
    assert again.code() == (
        "(kdlab.methods.AT(kd=0.5) + kdlab.methods.KD(temperature=3))"
        ".apply_terms({'kd.kd': {'weight': 0.2, 'enabled': False}})"
    )


def test_state_of_a_sum_goes_through_its_parts() -> None:
    student, teacher = pair()
    total = built(KD() + FitNet(), student, teacher)
    copied = copy.deepcopy(total)
    assert sorted({key.rsplit(".", 2)[0] for key in copied.state_dict()}) == ["parts.1.regressor"]
    assert copied.config() == total.config()


class Swap(Method):
    """Replaces the predictor."""

    key, title = "swap", "Swap"

    def __init__(self) -> None:
        super().__init__(ce_term())

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        return {}

    def predict(self, step: Step) -> Tensor:
        return -step.student.logits

    def side_logits(self, step: Step) -> dict[str, Tensor]:
        return {"negative": -step.student.logits}


def test_one_part_may_replace_the_predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdlab.methods import registry

    monkeypatch.setitem(registry._METHODS, "swap", Swap)
    student, teacher = pair()
    total = built(KD() + Swap(), student, teacher)
    step = make_step(student, teacher)
    assert torch.equal(total.predict(step), -step.student.logits)
    with pytest.raises(ConfigError, match="Swap and Swap both replace the predictor"):
        Swap() + Swap()


def test_only_methods_add_up() -> None:
    with pytest.raises(TypeError):
        KD() + 3  # type: ignore[operator]
    with pytest.raises(TypeError):
        "kd" + KD()  # type: ignore[operator]
    with pytest.raises(ConfigError, match="at least one method"):
        Combined([])

"""Terms, schedules, and the records, code and copies of methods."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

import pytest
from torch import Tensor

import kdlab
from kdlab.errors import ConfigError, UnknownNameError
from kdlab.methods import (
    AEKD,
    AT,
    BYOT,
    CAMKD,
    CE,
    CMKD,
    EBKD,
    GPAC,
    KD,
    MTKDSSR,
    SRRL,
    AverageTeachers,
    CosineDecay,
    FitNet,
    Method,
    Piecewise,
    Schedule,
    Step,
    Term,
    Warmup,
    make,
    parse_schedule,
)

METHODS = [
    CE(),
    KD(temperature=2, weight=0.5),
    AT(weight=500, stages=(0, -1), teacher_stages=[1, -1], p=4, channels="max", form="sum"),
    FitNet(stage=0, teacher_stage=-1, init_epochs=3, kd=0.2),
    SRRL(fm=2, sr_form="kl", connector="pooled"),
    CMKD(taps=(-1,), factor=2, branch2_target="stage", pseudo_detach=True, warmup=4),
    MTKDSSR(crd_mode="adjacent", teacher_exits="C", scd_mode="ickd", decay=True),
    BYOT(alpha=0.5, head="mirror"),
    AverageTeachers(aim="probabilities"),
    EBKD(as_released=True),
    CAMKD(detach_weights=False),
    AEKD(cap=0.5, feature=10, normalise_gradients=True),
    GPAC(selection="top_m_mean", top=3, breakpoints=(80, 160), granularity="class"),
    GPAC(schedule="cosine", breakpoints="gap") + KD(),
    KD() + AT(weight=500),
    CMKD() + FitNet(kd=0.3) + KD(temperature=1),
]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.key)


# ---- terms and schedules -----------------------------------------------------------------------------


def test_factor_is_weight_times_schedule_times_switch() -> None:
    term = Term("kd", 0.9, ("student.logits",), schedule="warmup:4")  # type: ignore[arg-type]
    assert [term.factor(e) for e in (1, 2, 4, 9)] == pytest.approx([0.225, 0.45, 0.9, 0.9])
    term.set(enabled=False)
    assert term.factor(9) == 0
    term.set(weight=2, enabled=True, schedule="constant")
    assert term.factor(1) == 2
    assert term.state() == {"weight": 2.0, "enabled": True, "schedule": "constant"}


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "1", True, None])
def test_a_weight_is_a_finite_number(weight: object) -> None:
    with pytest.raises(ConfigError, match="term 'kd' must be a finite number"):
        Term("kd", weight, ())  # type: ignore[arg-type]


def test_a_refused_change_changes_nothing() -> None:
    term = Term("kd", 1.0, ())
    for change in ({"weight": 3, "schedule": "soon"}, {"weight": float("nan"), "enabled": False}):
        with pytest.raises(ConfigError):
            term.set(**change)  # type: ignore[arg-type]
        assert term.state() == {"weight": 1.0, "enabled": True, "schedule": "constant"}


@pytest.mark.parametrize(
    ("text", "factors"),
    [
        ("constant", (1, 1, 1, 1)),
        ("warmup:4", (0.25, 0.5, 0.75, 1)),
        ("cosine:3", (1, 0.5, 0, 0)),
        ("cosine:1", (1, 0, 0, 0)),
        ("piecewise:2=0.9,4=0.81", (1, 0.9, 0.9, 0.81)),
        ("piecewise:4=0.5, 1=0.123456789", (0.123456789, 0.123456789, 0.123456789, 0.5)),
    ],
)
def test_schedules_and_their_text(text: str, factors: tuple[float, ...]) -> None:
    schedule = parse_schedule(text)
    assert [schedule.factor(e) for e in (1, 2, 3, 4)] == pytest.approx(factors, abs=1e-12)
    assert parse_schedule(str(schedule)) == schedule


@pytest.mark.parametrize(
    "text",
    [
        "",
        "warmup",
        "warmup:0",
        "warmup:x",
        "cosine:-1",
        "piecewise:",
        "piecewise:0=1",
        "piecewise:3=nan",
        "up",
    ],
)
def test_unreadable_schedules(text: str) -> None:
    with pytest.raises(ConfigError, match="is no schedule; write"):
        parse_schedule(text)


def test_schedules_made_by_hand() -> None:
    for bad in (
        lambda: Warmup(0),
        lambda: CosineDecay(0),
        lambda: Piecewise(()),
        lambda: Piecewise(((0, 1.0),)),
    ):
        with pytest.raises(ConfigError):
            bad()
    assert Piecewise(((5, 0.1), (2, 0.5))).factor(3) == 0.5

    @dataclass(frozen=True)
    class Odd(Schedule):
        def factor(self, epoch: int) -> float:
            return float(epoch % 2)

    with pytest.raises(ConfigError, match="cannot be recorded"):
        Term("kd", 1.0, (), schedule=Odd())


# ---- methods as plain values ----------------------------------------------------------------------


@every_method
def test_config_survives_json(method: Method) -> None:
    method = method.fresh()
    name = list(method.terms)[-1]
    method.term(name).set(weight=0.25, enabled=False, schedule="cosine:7")
    config = json.loads(json.dumps(method.config()))
    again = make(config)
    assert again.config() == config
    assert type(again) is type(method)
    assert again.term(name).state() == {"weight": 0.25, "enabled": False, "schedule": "cosine:7"}


@every_method
def test_code_makes_the_method_again(method: Method) -> None:
    for changed in (False, True):
        method = method.fresh()
        if changed:
            method.term("ce").set(weight=0.75, schedule="warmup:3")
        again = eval(method.code(), {"kdlab": kdlab})
        assert again.config() == method.config()
        assert ("apply_terms" in again.code()) == changed


def test_code_is_short() -> None:
    assert KD().code() == "kdlab.methods.KD()"
    assert (KD(temperature=2) + AT(weight=500)).code() == (
        "kdlab.methods.KD(temperature=2) + kdlab.methods.AT(weight=500)"
    )
    assert CMKD(taps=(-1,)).code() == "kdlab.methods.CMKD(taps=[-1])"


@every_method
def test_fresh_is_an_independent_copy(method: Method) -> None:
    copy = method.fresh()
    assert copy.config() == method.config()
    assert not copy.built and not list(copy.parameters())
    copy.term("ce").set(weight=9)
    assert method.term("ce").weight != 9


def test_apply_terms_is_all_or_nothing() -> None:
    method = KD()
    before = method.config()
    for states in (
        {"ce": {"weight": 3}, "dk": {"weight": 1}},
        {"ce": {"weight": 3}, "kd": {"weight": "x"}},
        {"ce": {"weight": 3}, "kd": {"wieght": 1}},
    ):
        with pytest.raises(ConfigError):
            method.apply_terms(states)
        assert method.config() == before


def test_unknown_terms_suggest_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'stage_kd'"):
        CMKD().term("stagekd")


def test_active_terms() -> None:
    method = FitNet(init_epochs=2, kd=0.5)
    assert method.active(2) == ["hint"]
    assert method.active(3) == ["ce", "kd"]
    assert AT().active(1) == ["ce", "at"]
    assert CE().needs_teacher() is False
    assert AT().needs_teacher() is True
    off = KD()
    off.term("kd").set(enabled=False)
    assert off.needs_teacher() is True  # it may be switched on again


class Picky(Method):
    """Takes something that cannot be recorded."""

    def __init__(self, thing: object = None) -> None:
        super().__init__(Term("ce", 1.0, ("student.logits", "target")))

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        return {}


def test_parameters_must_be_plain() -> None:
    assert Picky(thing={"a": (1, 2.5, None, "x")}).config()["params"] == {"thing": {"a": [1, 2.5, None, "x"]}}
    with pytest.raises(ConfigError, match=r"Picky\(thing=...\) must be a number, text or a list"):
        Picky(thing=object()).config()


def test_subclasses_record_what_the_user_gave() -> None:
    class Warmer(KD):
        def __init__(self, extra: float = 1.0, **more: float) -> None:
            super().__init__(temperature=4 + extra, **more)

    method = Warmer(2, ce=0.5)
    assert method.params == {"extra": 2, "ce": 0.5}
    assert method.fresh().config() == method.config()
    with pytest.raises(ConfigError, match=r"\*args cannot be recorded"):

        class Loose(Method):
            def __init__(self, *weights: float) -> None:
                super().__init__()

    with pytest.raises(ConfigError, match="two terms of one name"):
        Method(Term("a", 1.0, ()), Term("a", 2.0, ()))


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: KD(temperature=0), r"KD\(temperature=...\) must be a number above 0"),
        (lambda: KD(kd=0.5, weight=0.7), "name one weight"),
        (lambda: KD(ce=float("nan")), "'ce' must be a finite number"),
        (lambda: AT(p=0.5), "at least 1"),
        (lambda: AT(stages=2), "list of stage numbers"),  # type: ignore[arg-type]
        (lambda: AT(stages=()), "list of stage numbers"),
        (lambda: AT(stages=(0, 1), teacher_stages=(0,)), "one to one"),
        (lambda: AT(teacher_stages=(0,)), "one to one"),
        (lambda: AT(channels="sum"), "'mean' or 'max'"),  # type: ignore[arg-type]
        (lambda: FitNet(stage=1.5), "whole number"),  # type: ignore[arg-type]
        (lambda: FitNet(init_epochs=-1), "at least 0"),
        (lambda: SRRL(sr_form="l2"), "'mse' or 'kl'"),  # type: ignore[arg-type]
        (lambda: CMKD(factor=0), "at least 1"),
        (lambda: CMKD(tau_pseudo=-1), "above 0"),
        (lambda: CMKD(beta="1"), "must be a number"),  # type: ignore[arg-type]
        (lambda: CMKD(branch2_target="own"), "'final' or 'stage'"),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments(make_it: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_it()  # type: ignore[operator]

"""The stand-ins for a study must not drift from the real one."""

from __future__ import annotations

import inspect
from typing import Any

import fake_study
import panels_fake
import pytest

from kdlab.training.record import Record
from kdlab.training.study import Study

# Handles of the tests themselves, which no study has.
_OWN = {
    panels_fake.FakeStudy: {"delay", "fail_at", "fault_at", "step_number", "snapshots_taken"},
    fake_study.FakeStudy: {"projects", "quality", "late", "gone", "fail"},
}


def public(thing: Any) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def known(cls: type) -> set[str]:
    """Attributes of a class, those that are only annotated included."""
    annotated = {name for base in cls.__mro__ for name in vars(base).get("__annotations__", {})}
    return public(cls) | annotated


@pytest.mark.parametrize("fake", _OWN, ids=["panels", "probes and reports"])
def test_a_fake_study_offers_nothing_that_a_study_does_not(fake: type) -> None:
    study = fake()
    assert public(study) - known(Study) == _OWN[fake]
    for name in public(study) - _OWN[fake]:
        real, own = getattr(Study, name, None), getattr(study, name)
        if not inspect.isfunction(real):
            continue
        wanted, given = (list(inspect.signature(f).parameters.values()) for f in (real, own))
        assert [(p.name, p.kind, p.default) for p in given] == [
            (p.name, p.kind, p.default) for p in wanted[1:]
        ], name


def test_a_fake_record_offers_nothing_that_a_record_does_not() -> None:
    record = fake_study.FakeRecord({})
    assert public(record) - known(Record) - set(vars(Record())) == {"series_of"}


def test_fake_commands_have_what_real_ones_have() -> None:
    """The kinds and entries that `kdlab.training.commands` describes."""
    common = {"kind", "seed", "seed_number", "step", "epoch", "student", "text"}
    more = {"set": {"term", "change"}, "add": {"method", "own"}, "fork": {"parent", "method"}, "drop": set()}
    panels = panels_fake.FakeStudy()
    panels.step_number = 30
    panels.set("KD", "kd", enabled=False).result(1)
    panels.add("new", "kd").result(1)
    panels.fork("KD", name="fork").result(1)
    panels.drop("alone").result(1)
    others = fake_study.FakeStudy(late={"KD": 2}, gone={"alone": 2}).record.marks()
    for command in [*panels.record.marks(), *others]:
        assert set(command) == common | more[command["kind"]], command

"""What the gestures of the mixing desk change: solo, reset, schedules, steps of an epoch. No widgets here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from kdlab.errors import ConfigError
from kdlab.methods import Schedule, parse_schedule
from kdlab.methods.base import Method, Term
from kdlab.panels.standing import Standing, Standings

States = dict[str, dict[str, Any]]
"""Term -> weight, enabled and schedule (as `Term.state`)."""

Changes = list[tuple[str, dict[str, Any]]]
"""Terms with what is to be changed of each, in the order of the commands."""

_KINDS = {
    "constant": ("constant", ""),
    "warmup": ("linear warm-up", "Epochs until the full weight"),
    "cosine": ("cosine decay", "Epochs down to 0 (empty: all)"),
    "piecewise": ("steps by epoch", "From epoch = factor, ..."),
    "levels": ("equal parts", "Factor of each part, ..."),
    "drops": ("with the learning rate", "Factor before and after each drop, ..."),
}


def states(study: Any, student: str, asked: Mapping[tuple[str, str], Mapping[str, Any]]) -> States:
    """The terms of a student as they are, or will be once what was `asked` for is done."""
    terms: dict[str, Term] = study.terms(student)
    return {name: term.state() | dict(asked.get((student, name), {})) for name, term in terms.items()}


def defaults(method: Method) -> States:
    """The terms as the method's constructor makes them, with the arguments that were given to it."""
    return {name: term.state() for name, term in type(method)(**method.params).terms.items()}


class Defaults(dict[str, States]):
    """Student -> `defaults` of its method, found out when first asked for.

    Args:
        study: a `Study`.
    """

    def __init__(self, study: Any) -> None:
        super().__init__()
        self._study = study

    def __missing__(self, student: str) -> States:
        self[student] = defaults(self._study.methods[student])
        return self[student]


def differing(study: Any, state: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The fields of `other` that `state` has otherwise; schedules count as equal where they run equally."""
    return [field for field, value in other.items() if not _same(study, field, state[field], value)]


def _same(study: Any, field: str, a: Any, b: Any) -> bool:
    return a == b or (field == "schedule" and _settled(study, a) == _settled(study, b))


def _settled(study: Any, text: str) -> str:
    """A schedule that follows the training's length as training has it; others as they are."""
    try:
        return str(_over(study, text))
    except ConfigError:  # it cannot run in this training, and is told by its text
        return text


def _over(study: Any, text: str) -> Schedule:
    return parse_schedule(text).over(study.epochs, study.recipe.drops)


# ---- solo and reset ------------------------------------------------------------------------------------


def switched_on(now: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
    """Names of the terms that are on."""
    return frozenset(name for name, state in now.items() if state["enabled"])


def switching(now: Mapping[str, Mapping[str, Any]], wanted: Collection[str]) -> Changes:
    """Changes after which the `wanted` terms are on and no others; on comes before off, so that no step
    is done without any loss."""
    flips = [name for name, state in now.items() if state["enabled"] != (name in wanted)]
    return [(name, {"enabled": name in wanted}) for name in sorted(flips, key=lambda n: n not in wanted)]


def resetting(study: Any, now: Mapping[str, Mapping[str, Any]], default: States) -> Changes:
    """Changes after which all terms are as in `default`; those that are on come first."""
    out = []
    for name, wanted in default.items():
        fields = differing(study, now[name], wanted)
        if fields:
            out.append((name, {field: wanted[field] for field in fields}))
    return sorted(out, key=lambda change: not change[1].get("enabled", True))


# ---- schedules -----------------------------------------------------------------------------------------


def schedule_kinds(epochs: int) -> list[dict[str, str]]:
    """What an editor of schedules offers: kind, its text, what its numbers are, and numbers to begin with.

    The kind, a colon and the numbers are the text that `parse_schedule` reads.
    """
    begin = {
        "warmup": str(max(1, round(epochs / 5))),
        "piecewise": f"{epochs // 2 + 1}=0.1",
        "levels": "1, 0.5, 0.1",
        "drops": "1, 0.5, 0.1",
    }
    return [
        {"kind": kind, "text": text, "field": field, "begin": begin.get(kind, "")}
        for kind, (text, field) in _KINDS.items()
    ]


def preview(study: Any, student: str, text: str) -> dict[str, Any]:
    """How a schedule would run: "factors" by epoch, the student's epoch "now", and "error" ("" for none)."""
    now = min(_last_step(study, student) // max(study.steps_per_epoch, 1) + 1, study.epochs)
    try:
        schedule = _over(study, text)
    except ConfigError as error:
        return {"factors": [], "now": now, "error": str(error)}
    factors = [round(schedule.factor(epoch), 5) for epoch in range(1, study.epochs + 1)]
    return {"factors": factors, "now": now, "error": ""}


# ---- steps ---------------------------------------------------------------------------------------------


def steps_done(study: Any, standings: Mapping[str, Standing], seed: int | None = None) -> dict[str, int]:
    """The last recorded step of each student that is still trained."""
    return {name: _last_step(study, name, seed) for name, one in standings.items() if one.kind == "going"}


def _last_step(study: Any, student: str, seed: int | None = None) -> int:
    steps = study.record.series(student, "loss", seed)[0]
    return int(steps[-1]) if len(steps) else 0


def rest_of_epoch(study: Any) -> int:
    """Single steps after which the epoch at work (or that of the steps still owed) is over; for those
    who are behind, since they are trained first. To be called between two steps."""
    done = min(steps_done(study, Standings(study).of()).values(), default=0)
    per_epoch = max(study.steps_per_epoch, 1)
    return per_epoch - (done + study.control.owed) % per_epoch

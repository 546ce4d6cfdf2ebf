"""What the mixing desk shows, as plain values taken from a study. No widgets here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdlab.methods import registry
from kdlab.methods.base import STATUS_TEXT, Method
from kdlab.panels import looks, mixing, wording
from kdlab.panels.series import last
from kdlab.panels.standing import Standing, Standings, origin
from kdlab.plots import theme

_HINTS = {
    "code": "The definition is published in the authors' code.",
    "paper": "The definition is published in the paper; re-implemented here.",
    "own": "Defined by whoever made this study, and not from a publication.",
    "recon": "Parts of the definition are not public; this is our reconstruction, not the paper's code.",
}
_BADGES = {"own": "own method", "recon": "reconstruction"}  # others are published


def spec(study: Any, styles: Mapping[str, theme.Style]) -> dict[str, Any]:
    """What stays until a student comes.

    Args:
        study: a `Study`.
        styles: student -> style of its curves.
    """
    marks, known = study.record.marks(), study.students
    methods: dict[str, Method] = {name: one.method for name, one in known.items()}
    students = [
        {
            "name": name,
            "method": method.title or type(method).__name__,
            "paper": method.paper,
            "status": method.status,
            "status_text": _BADGES.get(method.status, "published"),
            "status_hint": f"{STATUS_TEXT[method.status]}. {_HINTS[method.status]}",
            "differs": known[name].label(),
            "origin": origin(marks, name),
            "look": looks.for_desk(styles[name]),
            "terms": {
                name: default | {"doc": method.terms[name].doc}
                for name, default in mixing.defaults(method).items()
            },
        }
        for name, method in methods.items()
    ]
    data = study.data
    size = "×".join(str(side) for side in data.image_size)
    teacher = f"{study.teacher_name} teaches " if study.teacher_name else ""
    student = study.asked["student"]
    net = student if isinstance(student, str) else student["module"]
    return {
        "title": f"{data.name}: {teacher}{net}",
        "subtitle": f"{len(data.train):,} training images of {size} pixels, {data.num_classes} classes",
        "students": students,
        "curves": [[key, label] for label, key in loss_choices(all_terms(methods))],
        "seeds": [["", "latest"], *([str(seed), str(seed)] for seed in study.seeds)],
        "requested": {key: f"{text}…" for key, text in wording.REQUESTED.items()},
        "methods": method_choices(bool(study.teacher_name)),
        "epochs": study.epochs,
        "schedules": mixing.schedule_kinds(study.epochs),
    }


def method_choices(teacher: bool) -> list[list[str]]:
    """[name, text] of the methods that a student may be given; without a teacher those that need none."""
    made = {name: registry.get(name) for name in registry.names()}
    return [
        [name, f"{method.title} ({name})"]
        for name, method in made.items()
        if teacher or not method().needs_teacher()
    ]


def loss_choices(terms: Mapping[str, str]) -> list[tuple[str, str]]:
    """(label, key of the record) of the curves to choose from: total, terms raw and weighted, gradient."""
    raw = [(f"{name}: value", f"term/{name}") for name in terms]
    weighted = [(f"{name}: value × weight", f"weighted/{name}") for name in terms]
    return [("total loss", "loss"), *raw, *weighted, ("norm of the gradient", "grad_norm")]


def all_terms(methods: Mapping[str, Method]) -> dict[str, str]:
    """Every term that occurs, `ce` first, then in order of appearance, with its sentence."""
    found: dict[str, str] = {}
    for method in methods.values():
        for term in method.terms.values():
            found.setdefault(term.name, term.doc)
    return dict(sorted(found.items(), key=lambda item: item[0] != "ce"))


def live(
    study: Any,
    *,
    progress: Mapping[str, Any],
    requested: str | None = None,
    asked: Mapping[tuple[str, str], Mapping[str, Any]] | None = None,
    seed: int | None = None,
    standings: Mapping[str, Standing] | None = None,
    notes: Sequence[str] = (),
    code: str = "",
    errors: Sequence[str] = (),
    answered: int = 0,
    outcomes: Mapping[int, bool] | None = None,
    defaults: mixing.Defaults | None = None,
) -> dict[str, Any]:
    """What the desk shows now.

    Args:
        study: a `Study`.
        progress: the board's latest "progress", or {}.
        requested: what a button asked for and the study has not yet reached ("pause").
        asked: (student, term) -> changes that were asked for and are not yet made.
        seed: whose numbers are shown; None for the latest.
        standings: how each student stands (see `standing.Standings`); None asks the study.
        notes: what guards and drops did.
        code: the Python of the last action.
        errors: messages to show.
        answered: number of the last message of the page that was dealt with.
        outcomes: number of a message that asked for a change -> whether it was done.
        defaults: student -> the terms as its method's constructor makes them; None asks the methods.
    """
    state = study.state
    defaults = mixing.Defaults(study) if defaults is None else defaults
    standings = Standings(study).of(seed) if standings is None else standings
    done, steps = progress.get("step", 0), progress.get("steps") or 0
    share = (
        1.0 if state == "finished" else (done / steps if steps else (None if state == "preparing" else 0.0))
    )
    return {
        "state": state,
        "label": f"{wording.REQUESTED[requested]}…" if requested else wording.STATES.get(state, state),
        "buttons": wording.buttons(state),
        "editable": state != "finished",
        "progress": {
            "value": share,
            "text": wording.progress_text(
                state, progress, study.teacher_name, _behind(study, standings, seed)
            ),
            "step": int(done),
        },
        "cells": {name: _cells(study, name, asked or {}, seed, defaults[name]) for name in study.names},
        "numbers": {name: _numbers(study, name, seed) for name in study.names},
        "students": _students(study, standings),
        "notes": list(notes),
        "code": code,
        "errors": list(errors),
        "answered": answered,
        "outcomes": {str(number): done for number, done in (outcomes or {}).items()},
    }


def _students(study: Any, standings: Mapping[str, Standing]) -> dict[str, dict[str, Any]]:
    """How each student stands, and what can be done with it."""
    going = [name for name, one in standings.items() if one.editable]
    finished, new = study.state == "finished", study.state == "new"
    return {
        name: {
            "kind": one.kind,
            "badge": one.badge,
            "why": one.why,
            "editable": one.editable,
            "drop": one.editable and one.kind == "going" and len(going) > 1,
            "fork_now": one.kind == "dropped" or (one.kind == "going" and not (finished or new)),
            "fork_then": study.epochs > 1,
        }
        for name, one in standings.items()
    }


def _behind(study: Any, standings: Mapping[str, Standing], seed: int | None) -> list[str]:
    """Students that are trained alone now, because they have fewer steps than others."""
    steps = mixing.steps_done(study, standings, seed)
    least, most = min(steps.values(), default=0), max(steps.values(), default=0)
    margin = 5  # steps of one group are recorded one student after another
    return [name for name, done in steps.items() if done == least] if most - least > margin else []


def _cells(
    study: Any,
    student: str,
    asked: Mapping[tuple[str, str], Mapping[str, Any]],
    seed: int | None,
    defaults: mixing.States,
) -> dict[str, dict[str, Any]]:
    """Each term of a student: its state, where that is not the default, and its last value and share."""
    now = mixing.states(study, student, asked)
    values = {name: last(study.record.series(student, f"term/{name}", seed)) for name in now}
    factors = {name: last(study.record.series(student, f"factor/{name}", seed)) for name in now}
    parts = {name: (value or 0.0) * (factors[name] or 0.0) for name, value in values.items()}
    total = sum(map(abs, parts.values()))
    alone = mixing.switched_on(now) if len(now) > 1 else None
    return {
        name: state
        | {
            "value": wording.product(values[name], factors[name]) or ("off" if total else ""),
            "share": round(abs(parts[name]) / total, 3) if total else 0.0,
            "differs": mixing.differing(study, state, defaults[name]),
            "solo": alone == {name},
        }
        for name, state in now.items()
    }


def _numbers(study: Any, student: str, seed: int | None) -> str:
    loss = last(study.record.series(student, "loss", seed))
    accuracy = last(study.record.epoch_series(student, "val_accuracy", seed))
    parts = [f"loss {wording.number(loss)}"] if loss is not None else []
    parts += [f"val {wording.percent(accuracy)}"] if accuracy is not None else []
    return " · ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)

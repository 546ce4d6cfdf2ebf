"""What the mixing desk shows, as plain values taken from a study. No widgets here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdlab.methods.base import STATUS_TEXT, Method, Term
from kdlab.panels import looks, wording
from kdlab.panels.series import last
from kdlab.plots import theme

_HINTS = {
    "code": "The definition is published in the authors' code.",
    "paper": "The definition is published in the paper; re-implemented here.",
    "recon": "Parts of the definition are not public; this is our reconstruction, not the paper's code.",
}


def spec(study: Any, styles: Mapping[str, theme.Style]) -> dict[str, Any]:
    """What never changes while a study is shown.

    Args:
        study: a `Study`.
        styles: student -> style of its curves.
    """
    methods: dict[str, Method] = {name: study.methods[name] for name in study.names}
    students = [
        {
            "name": name,
            "method": method.title or type(method).__name__,
            "paper": method.paper,
            "status": method.status,
            "status_text": "reconstruction" if method.status == "recon" else "published",
            "status_hint": f"{STATUS_TEXT[method.status]}. {_HINTS[method.status]}",
            "look": looks.for_desk(styles[name]),
            "terms": {t.name: {"doc": t.doc, "base": t.weight} for t in method.fresh().terms.values()},
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
    }


def loss_choices(terms: Mapping[str, str]) -> list[tuple[str, str]]:
    """(label, key of the record) of the curves that can be chosen: total, then each term raw and weighted."""
    raw = [(f"{name}: value", f"term/{name}") for name in terms]
    weighted = [(f"{name}: value × weight", f"weighted/{name}") for name in terms]
    return [("total loss", "loss"), *raw, *weighted]


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
    code: str = "",
    errors: Sequence[str] = (),
    answered: int = 0,
) -> dict[str, Any]:
    """What the desk shows now.

    Args:
        study: a `Study`.
        progress: the board's latest "progress", or {}.
        requested: what a button asked for and the study has not yet reached ("pause").
        asked: (student, term) -> changes that were asked for and are not yet made.
        seed: whose numbers are shown; None for the latest.
        code: the Python of the last action.
        errors: messages to show.
        answered: number of the last message of the page that was dealt with.
    """
    state = study.state
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
            "text": wording.progress_text(state, progress, study.teacher_name),
            "step": int(done),
        },
        "cells": {name: _cells(study, name, asked or {}, seed) for name in study.names},
        "numbers": {name: _numbers(study, name, seed) for name in study.names},
        "code": code,
        "errors": list(errors),
        "answered": answered,
    }


def _cells(
    study: Any, student: str, asked: Mapping[tuple[str, str], Mapping[str, Any]], seed: int | None
) -> dict[str, dict[str, Any]]:
    terms: dict[str, Term] = study.terms(student)
    values = {name: last(study.record.series(student, f"term/{name}", seed)) for name in terms}
    parts = {name: last(study.record.series(student, f"weighted/{name}", seed)) for name in terms}
    total = sum(abs(v) for v in parts.values() if v is not None)
    cells = {}
    for name, term in terms.items():
        part = parts[name]
        state = term.state() | dict(asked.get((student, name), {}))
        raw = (
            f"× {wording.number(values[name])}" if values[name] is not None else ("" if total == 0 else "off")
        )
        cells[name] = state | {"raw": raw, "share": abs(part) / total if part is not None and total else 0.0}
    return cells


def _numbers(study: Any, student: str, seed: int | None) -> str:
    loss = last(study.record.series(student, "loss", seed))
    accuracy = last(study.record.epoch_series(student, "val_accuracy", seed))
    parts = [f"loss {wording.number(loss)}"] if loss is not None else []
    parts += [f"validation {wording.percent(accuracy)}"] if accuracy is not None else []
    return " · ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)

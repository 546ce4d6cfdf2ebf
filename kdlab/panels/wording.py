"""What a panel says in words: the state, the progress, and the Python of an action. No widgets here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

STATES: dict[str, str] = {
    "new": "ready",
    "preparing": "preparing",
    "training": "training",
    "paused": "paused",
    "stopped": "stopped",
    "finished": "finished",
    "failed": "failed",
}

# What a button asks for, until the study says that it is so.
REQUESTED: dict[str, str] = {"play": "starting", "pause": "pausing", "step": "stepping", "stop": "stopping"}


def buttons(state: str) -> dict[str, bool]:
    """Which buttons make sense in `state`: name -> enabled."""
    at_work = state in ("preparing", "training")
    can_go_on = state in ("new", "paused", "stopped", "failed")
    return {
        "play": can_go_on,
        "pause": at_work,
        "step": can_go_on and state != "failed",
        "stop": at_work or state == "paused",
    }


def duration(seconds: float | None) -> str:
    """A time to go in words: "12 s", "1 min 20 s", "2 h 5 min"; empty if it is not known."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def percent(value: float | None) -> str:
    """A share of 1 as text: "87.5 %"; empty for None or NaN."""
    return "" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    """A loss value in few characters; "–" for None or NaN (a term that is off has no value)."""
    if value is None or not math.isfinite(value):
        return "–"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def product(value: float | None, factor: float | None) -> str:
    """A term's value times its weight now: "0.42 × 0.9 = 0.378"; empty where either is unknown."""
    if value is None or factor is None:
        return ""
    thin = "\N{THIN SPACE}"
    parts = (number(value), "×", number(factor), "=", number(value * factor))
    return thin.join(parts)


def progress_text(
    state: str, progress: Mapping[str, Any], teacher: str = "", behind: Sequence[str] = ()
) -> str:
    """One line on where training is, from the board's "progress" entry.

    Args:
        state: of the study.
        progress: phase, seed, seed_number (from 1), seeds, epoch, epochs, step, steps, rate
            (images/s) and eta (s); may be empty.
        teacher: its name.
        behind: students that are trained alone until they have caught up.
    """
    if not progress:
        return {
            "new": "Not started. Press Play, or set switches and weights first.",
            "finished": "Finished: the curves show what was recorded.",
            "stopped": "Stopped; Play goes on from the last checkpoint.",
        }.get(state, "")
    parts = []
    if progress.get("phase") == "teacher":
        parts.append(f"Teacher {teacher}".strip())
    elif progress.get("seeds", 1) > 1:
        parts.append(f"Seed {progress['seed']} ({progress['seed_number']} of {progress['seeds']})")
    if progress.get("epochs"):
        parts.append(f"epoch {progress.get('epoch', 0)} of {progress['epochs']}")
    if progress.get("steps"):
        parts.append(f"step {progress.get('step', 0):,} of {progress['steps']:,}")
    if behind and state in ("training", "paused"):
        parts.append(f"{' and '.join(behind)} catch{'es' if len(behind) == 1 else ''} up")
    if state == "training":
        if progress.get("rate"):
            parts.append(f"{progress['rate']:,.0f} images/s")
        left = duration(progress.get("eta"))
        if left:
            parts.append(f"{left} left")
    text = " · ".join(parts)
    return text[:1].upper() + text[1:]


def set_code(student: str, term: str, **changes: Any) -> str:
    """The Python of a change to a term: `study.set("KD", "kd", weight=0.5)`."""
    given = ", ".join(f"{key}={_plain(value)}" for key, value in changes.items() if value is not None)
    return f"study.set({_quoted(student)}, {_quoted(term)}, {given})"


def changes_code(student: str, changes: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The Python of changes to several terms, a line each."""
    return "\n".join(set_code(student, term, **change) for term, change in changes)


def card_code(student: str) -> str:
    """The Python that shows the card of a student's method."""
    return f"kdlab.methods.describe(study.methods[{_quoted(student)}])"


def curve_code(key: str, seed: int | None) -> str:
    """The Python that reads the steps and values of the shown curve of every student."""
    given = "" if seed is None else f", seed={seed}"
    return f"{{name: study.record.series(name, {_quoted(key)}{given}) for name in study.names}}"


def fork_code(
    student: str, *, at_epoch: int | None = None, name: str | None = None, method: str | None = None
) -> str:
    """The Python of a fork: `study.fork("KD", at_epoch=2, name="late", method="srrl")`."""
    given = {"at_epoch": at_epoch, "name": name, "method": method}
    rest = "".join(f", {key}={_plain(value)}" for key, value in given.items() if value is not None)
    return f"study.fork({_quoted(student)}{rest})"


def add_code(name: str, method: str) -> str:
    """The Python of a new student: `study.add("CMKD", "cmkd")`."""
    return f"study.add({_quoted(name)}, {_quoted(method)})"


def drop_code(student: str) -> str:
    """The Python of a student's end: `study.drop("KD")`."""
    return f"study.drop({_quoted(student)})"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

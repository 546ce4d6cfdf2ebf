"""Marks of commands on the curves: where a term was changed, a student came, forked or went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdlab.panels import looks
from kdlab.panels.standing import shown_seed

MOST_MARKS = 12
MOST_LABELS = 4
_LONGEST = 44  # letters of a label
_SAME = ("kind", "student", "step")  # of changes that are shown as one mark


def shown_marks(study: Any, seed: int | None) -> list[dict[str, Any]]:
    """The latest commands that take effect in the shown seed, each with its "step" on the curves.

    Changes of terms hold for the seed they were given in and later ones, forks for all; a drop or a
    new student is shown in the seed in which it was commanded. Changes of one student at one step are
    one mark, as after a solo.
    """
    seeds, shown = list(study.seeds), shown_seed(study, seed)
    out: list[dict[str, Any]] = []
    for mark in study.record.marks():
        if mark["kind"] == "set" and seeds.index(mark["seed"]) > seeds.index(shown):
            continue
        if mark["kind"] in ("add", "drop") and mark["seed"] != shown:
            continue
        # an added student begins at step 0; its mark stands where the others were
        step = (mark["epoch"] - 1) * study.steps_per_epoch if mark["kind"] == "add" else mark["step"]
        latest = out[-1] if out else {}
        if mark["kind"] == "set" and [latest.get(k) for k in _SAME] == ["set", mark["student"], step]:
            latest["text"] += f", {mark['text']}"
        else:
            out.append({**mark, "step": step})
    return out[-MOST_MARKS:]


def lines(mark: Mapping[str, Any], steps_per_epoch: int) -> list[dict[str, Any]]:
    """A dotted line in both plots."""
    line = dict(color=looks.NEUTRAL, width=1, dash="dot")
    step = mark["step"] + 0.5  # the first step with the change is the next one
    epoch = mark["step"] / max(steps_per_epoch, 1)
    return [
        dict(type="line", x0=x, x1=x, y0=0, y1=1, xref=xref, yref=yref, line=line)
        for x, xref, yref in ((step, "x", "y domain"), (epoch, "x2", "y2 domain"))
    ]


def label(mark: Mapping[str, Any], number: int, left: bool) -> dict[str, Any]:
    """The text of the `number`-th labelled mark, right of its line (or left of it)."""
    place = dict(x=mark["step"] + 0.5, y=0.99 - 0.08 * number, xref="x", yref="y domain", yanchor="top")
    side = dict(xanchor="left", xshift=3) if left else dict(xanchor="right", xshift=-3)
    text = f"{mark['student']}: {mark['text']}"
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return place | side | dict(text=text, showarrow=False, font=dict(size=11))


def fork_points(
    study: Any, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], scale: float = 1.0
) -> list[tuple[str, float, float, str]]:
    """(fork, x, y, text) of the points where forks left their parents' curves, as far as drawn.

    Args:
        study: a `Study`.
        curves: student -> x and y as drawn.
        scale: steps in one unit of x.
    """
    out = []
    for mark in study.record.marks():
        if mark["kind"] != "fork" or mark["parent"] not in curves:
            continue
        x, y = curves[mark["parent"]]
        known = np.isfinite(y)
        at = mark["step"] / scale
        apart = float(x[-1] - x[-2]) if len(x) > 1 else 1.0
        if not known.any() or x[-1] < at - apart or not known[np.abs(x - at).argmin()]:
            continue  # the parent has not come there, or has no value there
        at = float(np.clip(at, x[known][0], x[known][-1]))
        text = f"{mark['student']}: {mark['text']} after step {mark['step']:,}"
        out.append((mark["student"], at, float(np.interp(at, x[known], y[known])), text))
    return out


def joints(points: Sequence[tuple[str, float, float, str]], curves: Mapping[str, Any]) -> dict[str, Any]:
    """A fork's point on its parent's curve, joined with the first point of its own; for one trace."""
    x: list[float] = []
    y: list[float] = []
    texts: list[str] = []
    for name, at, value, text in points:
        own_x, own_y = curves.get(name, ((), ()))
        first = (float(own_x[0]), float(own_y[0])) if len(own_x) else (at, value)
        x += [at, first[0], np.nan]
        y += [value, first[1], np.nan]
        texts += [text, "", ""]
    return {
        "x": np.asarray(x, np.float32),
        "y": np.asarray(y, np.float32),
        "customdata": texts,
    }

"""What maps show, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdlab.plots.map_reading import MapReading
from kdlab.probes.agreement import SHUFFLED, TEACHER, UNTRAINED
from kdlab.probes.attention import AttentionMaps
from kdlab.probes.saliency import METHODS
from kdlab.probes.words import listed, number, plural


def what(read: MapReading, epoch: int, seed: int, show: str) -> str:
    """What the colours mean, and of when the maps are."""
    about = read.about
    when = f"after epoch {epoch}, seed {seed}"
    if isinstance(about, AttentionMaps):
        text = f"Maps show where each stage is active (mean of the squared channels), {when}"
    else:
        name = METHODS[about.method]
        name = name[0].upper() + name[1:]
        text = f"{name}: evidence for {about.asked_for}, {when}"
    if show == "difference":
        return f"{text}, student minus teacher: orange where the student has more, blue where it has less."
    return f"{text}; all on one colour scale."


def agreement(read: MapReading, rows: Sequence[int], depths: Sequence[int]) -> str:
    """Rank correlation with the teacher's maps of the pictures shown, and what it would be by chance."""
    if not read.about.teachers:
        return ""
    said = []
    for name in read.students:
        value = _mean(read, name, rows, depths, TEACHER)
        if np.isfinite(value):
            said.append(f"{name} {number(value)}")
    if not said:
        return ""
    many = len(depths) > 1
    of = plural(len(rows), "picture") if len(rows) > 1 else "this picture"
    beside = []
    untrained = (
        "the same students before training"
        if isinstance(read.about, AttentionMaps)
        else "an untrained network"
    )
    for comparison, words in (
        (UNTRAINED, untrained),
        (SHUFFLED, "the teacher's maps of another picture"),
    ):
        values = [_mean(read, name, rows, depths, comparison) for name in read.students]
        known = [value for value in values if np.isfinite(value)]
        if known:
            beside.append(f"{words} {number(float(np.mean(known)))}")
    text = (
        f"Rank correlation with the maps of {read.about.teachers[0]} on {of}"
        f"{', mean over stages' if many else ''} (1 is equal order, 0 is chance): {listed(said)}"
    )
    text += f"; for comparison {listed(beside)}." if beside else "."
    measured = len(read.about.labels)
    if measured > len(rows) and len(rows) == 1:
        every = range(measured)
        means = [f"{name} {number(_mean(read, name, every, depths, TEACHER))}" for name in read.students]
        text += f" Over the {measured} pictures measured with it: {listed(means)}."
    return f"{text} Similar maps are not evidence of equal reasoning."


def why_missing(epochs: Sequence[int]) -> str:
    """Why some epochs of the slider are not offered; "" where all are."""
    if not epochs:
        return ""
    return (
        f"These maps are computed from weights, and none were kept of epoch{'s' if len(epochs) > 1 else ''} "
        f"{listed([str(epoch) for epoch in epochs])} (Study(keep=...) chooses)."
    )


def _mean(read: MapReading, name: str, rows: Sequence[int], depths: Sequence[int], comparison: str) -> float:
    found = []
    for depth in depths:
        if read.stage(name, depth) is None:
            continue
        scores = read.score(name, depth, "spearman", comparison)
        if scores is not None:
            found += [float(scores[row]) for row in rows if np.isfinite(scores[row])]
    return float(np.mean(found)) if found else float("nan")

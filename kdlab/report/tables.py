"""The parts of a report that are words and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from kdlab import probes
from kdlab.errors import StudyError
from kdlab.probes.words import mean_over_seeds, signed, spread_over_seeds
from kdlab.report.facts import Facts
from kdlab.report.html import badge, code, network, small, table
from kdlab.report.verdict import Comparison, method_note


def compared(facts: Facts) -> str:
    """The settings, and each student's loss with its status."""
    rows = "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in facts.rows.items())
    others = any(facts.differs.values())
    students = [
        [
            _named(name, facts),
            escape(method),
            *([escape(facts.differs[name]) or "–"] if others else []),
            badge(status),
            escape(paper),
        ]
        for name, (method, status, paper) in facts.students.items()
    ]
    losses = table(
        ["student", "loss", *(["differs also in"] if others else []), "status", "source"],
        students,
        caption="The students differ in their loss, and some in more than that."
        if others
        else "The students differ in their loss and in nothing else.",
        text=(1, 2, 3, 4),
    )
    rebuilt = any(status == "reconstruction" for _, status, _ in facts.students.values())
    note = (
        f'<p class="small">A {badge("reconstruction")} was rebuilt from an abstract: it shows what the '
        "described idea does, and is not the paper's own method.</p>"
    )
    return f"<dl>{rows}</dl>{losses}{note if rebuilt else ''}"


def results(facts: Facts, comparisons: Sequence[Comparison]) -> str:
    """The table of accuracies, and one sentence a student."""
    if not facts.last:
        raise StudyError("No epoch has been finished yet.")
    by_name = {one.name: one for one in comparisons}
    rows = [
        [_named(name, facts), f"{100 * accuracy:.1f}", "–", "–", "–", "1", ""]
        for name, (accuracy, _) in facts.teachers.items()
    ]
    for name in facts.students:
        own, note = facts.counted.get(name, {}), _remarks(facts, name)
        if not own:
            rows.append([_named(name, facts), _so_far(facts, name), "–", "–", "–", "0", note])
            continue
        best = f"{_plus_minus([facts.best[name][s] for s in own if s in facts.best.get(name, {})])}"
        best += _epochs(facts, name)
        last = f"<strong>{_plus_minus(list(own.values()))}</strong>"
        one = by_name.get(name)
        gain = "baseline" if one is None else _plus_minus(one.differences, relative=True)
        wins = "–" if one is None else f"{one.wins} of {len(one.differences)}"
        gain = gain if one is not None or name == facts.baseline else "–"
        rows.append([_named(name, facts), last, best, gain, wins, str(len(own)), note])
    whole = {facts.last_epoch[name][seed] for name, own in facts.counted.items() for seed in own}
    ends = whole or {epoch for own in facts.last_epoch.values() for epoch in own.values()}
    when = f"epoch {max(ends)}" if len(ends) == 1 else f"the last recorded one, {min(ends)} to {max(ends)}"
    note = (
        '<p class="small" id="results-note">Test accuracy in percent, mean ± standard deviation over seeds. '
        f"Chance is {100 * facts.chance:.1f} %. “Last epoch” ({when}) is the headline; “best validation” is "
        "the test accuracy at the epoch whose <em>validation</em> accuracy is highest. The test pictures "
        "select nothing.</p>"
    )
    head = ["network", "last epoch", "best validation", f"last, minus {facts.baseline}", "better in", "seeds"]
    head.append("remarks")
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    ordered = sorted(comparisons, key=lambda one: -one.mean)
    sentences = "".join(f"<li>{escape(one.sentence())}</li>" for one in ordered)
    return (
        f"{note}{table(head, rows, described_by='results-note', text=(6,))}"
        f"{f'<ul>{sentences}</ul>' if sentences else ''}"
        f'<p class="small">{escape(method_note(facts.seeds))}</p>'
    )


def space(result: probes.Embedding) -> str:
    """The numbers behind a map, at its last epoch."""
    rows = [
        [
            network(name, result.students, result.teachers),
            _number(result.residual[-1, n]),
            _number(result.purity[-1, n]),
            _number(result.purity_map[-1, n]),
            _number(result.displacement[-1, n]),
        ]
        for n, name in enumerate(result.networks)
    ]
    caption = (
        "Behind the picture, at the last epoch. Distance to the teacher in feature space: 0 is "
        "equal, 1 is as "
        f"far as the teacher's mean. Purity: share of the {result.k} nearest pictures that have the same "
        "class. Moved: mean way in the map since the slider's step before, in radii of the map."
    )
    head = ["network", "distance to teacher", "purity in features", "purity in map", "moved"]
    return table(head, rows, caption=caption)


def reproduce(study: Any, facts: Facts) -> str:
    """The snippet, the changes made by hand, the versions."""
    marks = study.record.marks()
    rows = [
        [escape(str(mark["student"])), mark["kind"], _what(mark, study)]
        + [escape(str(mark[key])) for key in ("seed", "epoch", "step")]
        for mark in marks
    ]
    by_hand = (
        table(
            ["student", "command", "what", "from seed", "epoch", "step"],
            rows,
            caption="Commanded by hand; the snippet repeats these commands.",
            text=(1, 2),
        )
        if rows
        else "<p>Nothing was changed by hand while training.</p>"
    )
    versions = ", ".join(f"{escape(key)} {escape(value)}" for key, value in facts.environment.items())
    opened = f"study = kdlab.load_study({str(study.folder)!r})"
    return (
        "<p>This makes the very same study again:</p>"
        f"{code(study.code(), 'Python code that makes this study again')}{by_hand}"
        "<p>This opens the study itself, with all its snapshots:</p>"
        f'{code(opened, "Python code that opens the study")}<p class="small">Made with {versions}.</p>'
    )


def _what(mark: Mapping[str, Any], study: Any) -> str:
    """A command in words, the method of a new student included."""
    text = escape(str(mark["text"]))
    if mark["kind"] in ("add", "fork"):
        method = study.methods[mark["student"]]
        kept = mark["kind"] == "fork" and mark["method"] is None
        text += ", with its method" if kept else f", method {escape(method.title or type(method).__name__)}"
    return text


def _remarks(facts: Facts, name: str) -> str:
    """What else than the loss is its own, and what happened to it."""
    differs = f"differs: {facts.differs[name]}" if facts.differs[name] else ""
    return "; ".join(escape(text) for text in (differs, facts.notes[name]) if text)


def _so_far(facts: Facts, name: str) -> str:
    """The cell of a student without a whole training: how far it came."""
    own, ends = facts.last.get(name, {}), facts.last_epoch.get(name, {})
    if not own:
        return "none" if name in facts.unfinished else "not yet"
    until = " to ".join(dict.fromkeys(map(str, (min(ends.values()), max(ends.values())))))
    return f"({_plus_minus(list(own.values()))}){small(f'<br>until epoch {until}')}"


def _named(name: str, facts: Facts) -> str:
    return network(name, tuple(facts.students), tuple(facts.teachers))


def _plus_minus(values: Sequence[float] | np.ndarray, relative: bool = False) -> str:
    if not len(values):
        return "–"
    array = np.asarray(values, dtype=np.float64)
    mean, spread = mean_over_seeds(array), spread_over_seeds(array)
    text = signed(mean) if relative else f"{100 * mean:.1f}"
    return text if np.isnan(spread) else f'{text} <span class="sd">± {100 * spread:.1f}</span>'


def _epochs(facts: Facts, name: str) -> str:
    epochs = [e for seed, e in facts.best_epoch.get(name, {}).items() if seed in facts.counted.get(name, {})]
    if not epochs:
        return ""
    first, last = min(epochs), max(epochs)
    which = str(first) if first == last else f"{first}–{last}"
    return f'<br><span class="sd small">epoch {which}</span>'


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"

"""The page: parts in order, with plotly, style and script inside."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from kdlab.errors import KDLabError, require_study
from kdlab.files import place_for, whole_file
from kdlab.plots.theme import DARK
from kdlab.probes.sources import Source, as_source
from kdlab.probes.words import listed, percent
from kdlab.report import sections, tables
from kdlab.report.facts import Facts, collect
from kdlab.report.figures import safe_json
from kdlab.report.html import missing
from kdlab.report.sections import Section, attempt
from kdlab.report.verdict import compare, cut_short, in_short


def build_report(study: Any, path: str | Path | None = None) -> Path:
    """Write `study` as one self-contained HTML page.

    Works on a live, finished or killed study; a part that cannot be made yet says so in a sentence.

    Args:
        study: a `kdlab.Study`.
        path: of the page, which ends with .html, or of an existing folder for it; `report.html` in the
            study's folder if not given.

    Returns:
        The path written. The page is complete or not there: it is moved into place at the end.

    Raises:
        ConfigError: no study, a path of another kind, or nothing can be written there.
        OSError: the disk is full.

    >>> new = kdlab.Study("digits", students={"alone": "ce"}, folder="runs/new")
    >>> page = kdlab.report.build_report(new)
    >>> page.name, "train the study first" in page.read_text(encoding="utf-8")
    ('report.html', True)
    """
    require_study(study)
    target = place_for(study.folder / "report.html" if path is None else path, "report.html")
    text = page(study)
    with whole_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return target


def page(study: Any) -> str:
    """The whole page as text."""
    facts = collect(study)
    counted = facts.counted
    comparisons = compare(counted, facts.baseline) if counted.get(facts.baseline) else []
    if comparisons:
        verdict = in_short(
            comparisons, counted, facts.baseline, {k: v[0] for k, v in facts.teachers.items()}, facts.plain
        )
    else:
        verdict = _alone(facts)
    short = cut_short(list(facts.students), facts.failed, facts.unfinished, facts.notes, len(study.seeds))
    verdict = " ".join([verdict, *short])
    parts = [
        Section("compared", "What was compared", tables.compared(facts)),
        attempt("results", "Results", lambda: tables.results(facts, comparisons)),
        attempt("curves", "Learning curves", lambda: sections.curves(study)),
        *_probes(study),
        attempt("reproduce", "How to reproduce", lambda: tables.reproduce(study, facts)),
    ]
    return _PAGE.format(
        title=escape(facts.title),
        css=_asset("page.css"),
        lead=escape(_lead(facts)),
        verdict=escape(verdict),
        notes="".join(f'<p class="small">{escape(note)}</p>' for note in _notes(study, facts)),
        toc="".join(f'<li><a href="#{part.key}">{escape(part.title)}</a></li>' for part in parts),
        body="".join(part.html() for part in parts),
        pairs=safe_json({day.lower(): night for day, night in DARK.items()}),
        plotly=_plotly(),
        js=_asset("page.js"),
        version=escape(facts.environment.get("kdlab", "")),
    )


def _probes(study: Any) -> list[Section]:
    """The four probes, two at a time; they share one reader, so that snapshots are read once.

    Each is a chain of small operations that one core does best, so two of them use two cores.
    """
    try:
        src = as_source(study)
        epochs = sections.choose_epochs(src)
    except KDLabError as error:
        return [Section("probes", "Inside the networks", missing(str(error)))]

    def one(part: tuple[str, str, Callable[[Source, list[int]], str]]) -> Section:
        key, title, make = part
        return attempt(key, title, lambda: make(src, epochs))

    import pandas  # noqa: F401  # by one thread: two at once meet modules that are half loaded
    import sklearn.metrics  # noqa: F401

    # what holds snapshots alone has no networks to take gradients of
    parts = [part for part in _PROBES if part[0] not in _OF_NETWORKS or hasattr(study, "revive")]
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(one, parts))


_PROBES: tuple[tuple[str, str, Callable[[Source, list[int]], str]], ...] = (
    ("depth", "What each layer knows", sections.depth),
    ("space", "Teacher and students in one space", sections.space),
    ("attention", "Where they look", lambda src, _: sections.attention(src)),
    ("logits", "What KD asks for", lambda src, _: sections.decomposition(src)),
    ("pull", "Where each loss pulls", lambda src, _: sections.pull(src)),
    ("gradcam", "What speaks for the class", lambda src, _: sections.gradcam(src)),
    ("likeness", "How alike they are", lambda src, _: sections.likeness(src)),
    ("geometry", "How the classes lie", lambda src, epochs: sections.geometry(src, epochs)),
    ("calibration", "How sure they are", lambda src, _: sections.calibration(src)),
)


_OF_NETWORKS = ("pull", "gradcam")


def _lead(facts: Facts) -> str:
    names = list(facts.students)
    start = (
        f"{len(names)} student networks, trained side by side on the same pictures in the same order, those "
        "of one architecture from the same first weights."
    )
    others = [f"{name} ({what})" for name, what in facts.differs.items() if what]
    if others:
        return (
            f"{start} They differ in their loss, and {listed(others)} in more than that, so a difference to "
            f"{'it' if len(others) == 1 else 'them'} may have another cause than the loss."
        )
    return (
        f"{start} They differ in their loss alone, so what differs between them was caused by the loss, "
        "or by chance."
    )


def _alone(facts: Facts) -> str:
    if not facts.counted:
        return "There is nothing to compare yet." if not facts.last else "No student went its whole way."
    name, own = next(iter(facts.counted.items()))
    mean = sum(own.values()) / len(own)
    return f"{name} reached {percent(mean)} test accuracy; there is no other student to compare it with."


def _notes(study: Any, facts: Facts) -> list[str]:
    notes = []
    if study.state != "finished":
        notes.append(f"The study is {facts.rows['State']}: the numbers are those recorded so far.")
    elif facts.seeds < len(study.seeds):
        notes.append(f"Only {facts.seeds} of {len(study.seeds)} seeds have been trained.")
    ends = {name: set(own.values()) for name, own in facts.last_epoch.items() if name not in facts.unfinished}
    if study.state != "finished" and len(set().union(*ends.values())) > 1:
        notes.append("Not all students have come to the same epoch yet; they are compared as they are.")
    guessed = [name for name, (_, status, _) in facts.students.items() if status == "reconstruction"]
    if guessed:
        verb = "is a reconstruction" if len(guessed) == 1 else "are reconstructions"
        notes.append(f"{', '.join(guessed)} {verb}: a poor or good result is not the paper's.")
    return notes


def _asset(name: str) -> str:
    return resources.files("kdlab.report").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).replace("</script", "<\\/script")


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{css}</style>
</head>
<body>
<a class="skip" href="#results">Skip to the results</a>
<div class="wrap">
<header>
<h1>{title}</h1>
<p class="lead">{lead}</p>
<div class="short" role="region" aria-label="In short">
<p><strong>In short.</strong> {verdict}</p>
{notes}</div>
</header>
<nav class="toc" aria-label="Contents"><h2>Contents</h2><ol>{toc}</ol></nav>
<main>
<noscript><p class="missing">The figures need JavaScript; tables and sentences do without it.</p></noscript>
{body}
</main>
<footer><p>Written by kdlab {version}. All figures can be zoomed, and saved as pictures by the camera in
their corner.</p></footer>
</div>
<script type="application/json" id="colour-pairs">{pairs}</script>
<script>{plotly}</script>
<script>{js}</script>
</body>
</html>
"""

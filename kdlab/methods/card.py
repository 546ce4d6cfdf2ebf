"""Method cards: what a method is, read from its declaration, as text and as a picture."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping
from html import escape
from typing import Any

from kdlab.methods.base import Method
from kdlab.methods.combine import Combined
from kdlab.methods.diagram import svg
from kdlab.methods.registry import make, status_text

_WIDTH = 100


class Card(str):
    """A method card: text that notebooks show with a picture of what the method joins.

    Attributes:
        diagrams: an SVG element for each method.
    """

    diagrams: tuple[str, ...]

    def __new__(cls, text: str, diagrams: tuple[str, ...]) -> Card:
        card = super().__new__(cls, text)
        card.diagrams = diagrams
        return card

    def _repr_html_(self) -> str:
        return f"{''.join(self.diagrams)}<pre>{escape(self)}</pre>"


def describe(spec: str | Method | type[Method] | Mapping[str, Any]) -> Card:
    """A method card: paper, status, formula, terms with the tensors they read, trained parts, presets.

    In a notebook a diagram stands above it, drawn from the declaration: which taps of teacher and
    student each term joins, and what is trained with the student.

    Args:
        spec: what `make` reads: "cmkd", "kd + at", a `Method`.

    Raises:
        UnknownNameError: there is no such method.

    >>> for line in kdlab.methods.describe("kd").splitlines()[:5]:
    ...     print(line)
    KD (kd)
    =======
    paper    Hinton, Vinyals, Dean, 2015, arXiv 1503.02531
    family   logit
    status   published (paper)
    """
    method = make(spec)
    if not isinstance(method, Combined):
        lines = [*_head(method), "", *_document(method), "", *_terms(method), *_parts(method)]
        return Card("\n".join(lines), (svg(method),))
    lines = [f"{method.title} (a sum of {len(method.methods)} methods)", "", *_terms(method)]
    lines += [
        f"  {name} of {method.methods[number].title} (weight {weight:g}) is left out: another part has one."
        for name, number, weight in method.merged
    ]
    cards = [describe(part) for part in method.methods]
    return Card("\n\n".join(["\n".join(lines), *cards]), (svg(method),))


def _head(method: Method) -> list[str]:
    title = f"{method.title} ({method.key})"
    facts = {"paper": method.paper or "none", "family": method.family, "status": status_text(method)}
    return [title, "=" * len(title), *(line for name, fact in facts.items() for line in _entry(name, fact))]


def _entry(name: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{name:9}", subsequent_indent=" " * 9) or [name]


def _document(method: Method) -> list[str]:
    """What the class says of itself, without its example: the card shows the terms."""
    return (inspect.getdoc(type(method)) or "").partition("\n\n>>>")[0].splitlines()


def _terms(method: Method) -> list[str]:
    width = max((len(name) for name in method.terms), default=0)
    lines = ["Terms (weight, what it asks, what it reads)"]
    for name, term in method.terms.items():
        state = str(term).partition("=")[2] + (" (optional)" if term.optional else "")
        asks = f"  {name:{width}}  {state:6}  {term.doc}"
        lines += [asks.rstrip(), f"  {'':{width}}  {'':6}  reads {', '.join(term.taps)}"]
    return lines


def _parts(method: Method) -> list[str]:
    trained = [f"  {name}: {what}" for name, what in method.trained.items()] or ["  nothing but the student"]
    fate = "part of its predictor" if method.overrides("predict") else "dropped from the exported student"
    lines = ["", f"Trains besides the student ({fate})", *trained]
    if method.presets:
        lines += ["", "Published settings"]
        for name, params in method.presets.items():
            arguments = ", ".join(f"{key}={value!r}" for key, value in params.items())
            lines.append(f"  {name}: {type(method).__name__}({arguments})")
    return lines

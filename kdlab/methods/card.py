"""Method cards: what a method is, read from its declaration, as plain text."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

from kdlab.methods.base import Method
from kdlab.methods.combine import Combined
from kdlab.methods.registry import make, status_text

_WIDTH = 100


def describe(spec: str | Method | type[Method] | Mapping[str, Any]) -> str:
    """A method card: paper, status, formula, terms with the tensors they read, trained parts, presets.

    Args:
        spec: what `make` reads: "cmkd", "kd + at", a `Method`.

    Raises:
        UnknownNameError: there is no such method.
    """
    method = make(spec)
    if not isinstance(method, Combined):
        return "\n".join([*_head(method), "", *_document(method), "", *_terms(method), *_parts(method)])
    lines = [f"{method.title} (a sum of {len(method.methods)} methods)", "", *_terms(method)]
    lines += [
        f"  {name} of {method.methods[number].title} (weight {weight:g}) is left out: another part has one."
        for name, number, weight in method.merged
    ]
    return "\n\n".join(["\n".join(lines), *(describe(part) for part in method.methods)])


def _head(method: Method) -> list[str]:
    title = f"{method.title} ({method.key})"
    facts = {"paper": method.paper or "none", "family": method.family, "status": status_text(method)}
    return [title, "=" * len(title), *(line for name, fact in facts.items() for line in _entry(name, fact))]


def _entry(name: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{name:9}", subsequent_indent=" " * 9) or [name]


def _document(method: Method) -> list[str]:
    return (inspect.getdoc(type(method)) or "").splitlines()


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

"""A method as a picture: which taps of teacher and student each term joins, and what trains with it.

It is drawn from the terms' declarations alone, which the conformance test holds against what they read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from kdlab.methods.base import Method

# Okabe and Ito's colours that can be read on light and on dark paper, each with a dash of its own
_LOOKS = (
    ("#0072B2", ""),
    ("#D55E00", "7 4"),
    ("#009E73", "2 3"),
    ("#CC79A7", "9 3 2 3"),
    ("#E69F00", "12 4"),
)
_DEPTHS = ("stem", "preacts", "stages", "final", "embedding", "logits", "classifier")
_ROW, _BOX, _WIDTH, _TOP = 46, 30, 760, 56


def svg(method: Method) -> str:
    """Teacher on the left, terms in the middle, student and labels on the right, as an SVG element."""
    taps = list(dict.fromkeys(tap for term in method.terms.values() for tap in term.taps))
    left = sorted((t for t in taps if "teacher" in t), key=_depth)
    right = sorted((t for t in taps if "student" in t), key=_depth)
    right += [t for t in taps if "teacher" not in t and "student" not in t]
    rows = max(len(left), len(right), len(method.terms), 1)
    height = _TOP + rows * _ROW + (34 if method.trained else 8)
    terms = list(method.terms.values())
    places = {tap: (190.0, y) for tap, y in zip(left, _spread(len(left), rows), strict=True)}
    places |= {tap: (_WIDTH - 190.0, y) for tap, y in zip(right, _spread(len(right), rows), strict=True)}
    parts = [_text(100, 24, "teacher"), _text(_WIDTH / 2, 24, "terms"), _text(_WIDTH - 100, 24, "student")]
    for number, (term, y) in enumerate(zip(terms, _spread(len(terms), rows), strict=True)):
        color, dash = _LOOKS[number % len(_LOOKS)]
        for tap in term.taps:
            x0, y0 = places[tap]
            edge = _WIDTH / 2 + (-75 if x0 < _WIDTH / 2 else 75)
            middle = (x0 + edge) / 2
            line = f"M{x0:g} {y0:g} C{middle:g} {y0:g} {middle:g} {y:g} {edge:g} {y:g}"
            parts.append(
                f'<path d="{line}" fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"/>'
            )
        parts.append(_box(_WIDTH / 2, y, f"{term.name}  {term.weight:g}", color, 150))
    parts += [_box(100 if x < _WIDTH / 2 else _WIDTH - 100, y, _name(tap)) for tap, (x, y) in places.items()]
    if method.trained:
        parts.append(
            _text(_WIDTH / 2, height - 10, f"trained with the student: {', '.join(method.trained)}", 13)
        )
    label = f"{method.title}: " + "; ".join(f"{t.name} reads {', '.join(t.taps)}" for t in terms)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" width="100%" style="max-width:{_WIDTH}px" role="img" '
        f'aria-label="{escape(label, quote=True)}" xmlns="http://www.w3.org/2000/svg" '
        f'font-family="system-ui, sans-serif" fill="currentColor">{"".join(parts)}</svg>'
    )


def _spread(count: int, rows: int) -> Sequence[float]:
    """Heights of `count` boxes, centred among `rows`."""
    first = _TOP + (rows - count) * _ROW / 2 + _BOX / 2
    return [first + i * _ROW for i in range(count)]


def _depth(tap: str) -> tuple[bool, int, int]:
    """Shallow to deep; the first view before the second."""
    kind = next((i for i, word in enumerate(_DEPTHS) if word in tap), len(_DEPTHS))
    number = re.search(r"\[(-?\d+)\]", tap)
    place = int(number[1]) if number else 0
    return tap.startswith("second."), kind, place


def _name(tap: str) -> str:
    """The tap without its owner, whose heading stands above it."""
    owner = re.sub(r"(teacher|student)\.", "", tap)
    return {"target": "labels", "index": "picture's number"}.get(owner, owner)


def _box(x: float, y: float, text: str, color: str = "currentColor", width: int = 180) -> str:
    place = f'x="{x - width / 2:g}" y="{y - _BOX / 2:g}" width="{width}" height="{_BOX}"'
    frame = f'<rect {place} rx="6" fill="none" stroke="{color}" stroke-width="1.6"/>'
    return frame + _text(x, y + 5, text)


def _text(x: float, y: float, text: str, size: int = 14) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="middle" font-size="{size}">{escape(text)}</text>'

"""The controls of a panel as plain values, which controls.js turns into fields; values travel as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Control = dict[str, Any]
Options = Sequence[Sequence[Any]]  # (value, text) or (value, text, look)


def select(name: str, label: str, options: Options, value: Any, **more: Any) -> Control:
    """One of several: a menu. `more`: title (for the pointer), hidden, disabled."""
    return {
        "kind": "select",
        "name": name,
        "label": label,
        "options": _plain(options),
        "value": value,
        **more,
    }


def chips(name: str, label: str, options: Options, value: Sequence[Any], **more: Any) -> Control:
    """Any of several: small switches, with a swatch where an option has a look."""
    return {
        "kind": "chips",
        "name": name,
        "label": label,
        "options": _plain(options),
        "value": list(value),
        **more,
    }


def tick(name: str, label: str, value: bool, **more: Any) -> Control:
    """On or off."""
    return {"kind": "tick", "name": name, "label": label, "value": bool(value), **more}


def stops(name: str, label: str, options: Options, value: Any, *, play: bool = False, **more: Any) -> Control:
    """A slider with named stops; with `play`, a button that goes through them."""
    return {
        "kind": "stops",
        "name": name,
        "label": label,
        "options": _plain(options),
        "value": value,
        "play": play,
        **more,
    }


def slide(
    name: str, label: str, low: float, high: float, value: float, *, step: float = 0.01, **more: Any
) -> Control:
    """A slider over numbers; `log=True` for a logarithmic one (low above 0)."""
    ends = {"low": low, "high": high, "step": step}
    return {"kind": "slide", "name": name, "label": label, "value": value, **ends, **more}


def number(name: str, label: str, low: int, high: int, value: int, **more: Any) -> Control:
    """A whole number, typed or stepped."""
    return {"kind": "number", "name": name, "label": label, "low": low, "high": high, "value": value, **more}


def button(name: str, label: str, **more: Any) -> Control:
    """Something to be done now; its value is True when pressed."""
    return {"kind": "button", "name": name, "label": label, "value": False, **more}


def _plain(options: Options) -> list[list[Any]]:
    return [[value, str(text), *map(_look, more)] for value, text, *more in options]


def _look(look: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if look is None else dict(look)

"""Numbers and lists in words, for summaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdlab.probes.representation import AS_GIVEN


def percent(share: float, digits: int = 1) -> str:
    """0.953 -> "95.3 %"."""
    return f"{100 * share:.{digits}f} %"


def points(share: float, digits: int = 1) -> str:
    """A difference of shares in percentage points, without sign: 0.021 -> "2.1 points"."""
    text = f"{abs(100 * share):.{digits}f}"
    return f"{text} point{'' if float(text) == 1 else 's'}"


def signed(share: float, digits: int = 1) -> str:
    """A difference of shares in percentage points, with a true minus sign: -0.021 -> "−2.1"."""
    text = f"{100 * share:+.{digits}f}"
    return "0." + "0" * digits if float(text) == 0 else text.replace("-", "−")


def number(value: float) -> str:
    """-0.123 -> "−0.12", with a true minus sign; "not known" for what is not finite."""
    if not np.isfinite(value):
        return "not known"
    return f"{value + 0.0:.2f}".replace("-0.00", "0.00").replace("-", "−")


def listed(items: Sequence[str], last: str = "and") -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return (
        items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}" if items else "nothing"
    )


def at_epoch(epoch: int) -> str:
    """3 -> "epoch 3"; "" for networks given without a training."""
    return "" if epoch == AS_GIVEN else f"epoch {epoch}"


def commas(*words: str) -> str:
    """("KD", "", "epoch 3") -> "KD, epoch 3"."""
    return ", ".join(filter(None, words))


def absent(names: Sequence[str]) -> str:
    """A sentence about networks without a snapshot at the epoch that is told of; "" for none."""
    return f" There is no snapshot of {listed(names, 'or')} at that epoch." if names else ""


def plural(count: int, noun: str) -> str:
    """(1, "picture") -> "1 picture", (3, "picture") -> "3 pictures"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def mean_over_seeds(values: np.ndarray) -> float:
    """Mean of the values that exist; NaN where there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def spread_over_seeds(values: np.ndarray) -> float:
    """Sample standard deviation of the values that exist; NaN for fewer than two."""
    finite = values[np.isfinite(values)]
    return float(finite.std(ddof=1)) if finite.size > 1 else float("nan")


def call(name: str, *given: str, **options: Any) -> str:
    """A call in Python: ("f", "study", seeds=[0]) -> "f(study, seeds=[0])"."""
    return f"{name}({', '.join([*given, *(f'{key}={value!r}' for key, value in options.items())])})"

"""Long series made short enough to draw many times a second."""

from __future__ import annotations

import numpy as np

MOST_POINTS = 400


def bin_width(count: int, most: int = MOST_POINTS) -> int:
    """How many neighbouring steps one drawn point stands for."""
    return max(1, -(-count // most))


def thin(steps: np.ndarray, values: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points of a series, float32: means of equal numbers of neighbouring steps.

    A mean over values of which some are NaN (the term was off) is that of the others; where all
    are NaN it is NaN, and the curve has a gap.

    Args:
        steps: (n,) increasing.
        values: (n,) may contain NaN.
    """
    width = bin_width(len(steps), most)
    if width == 1:
        return steps.astype(np.float32), values.astype(np.float32)
    starts = np.arange(0, len(steps), width)
    sizes = np.diff([*starts, len(steps)])
    known = np.isfinite(values)
    count = np.add.reduceat(known.astype(np.float64), starts)
    total = np.add.reduceat(np.where(known, values, 0.0).astype(np.float64), starts)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    middle = np.add.reduceat(steps.astype(np.float64), starts) / sizes
    return middle.astype(np.float32), mean.astype(np.float32)


def last(series: tuple[np.ndarray, np.ndarray]) -> float | None:
    """The latest value of a series; None where there is none or it is not finite."""
    values = series[1]
    return float(values[-1]) if len(values) and np.isfinite(values[-1]) else None

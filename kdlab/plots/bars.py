"""Means over seeds, and bars from the lowest to the highest."""

from __future__ import annotations

from typing import Any

import numpy as np


def over_seeds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(X, S) -> mean over the last axis, and what must be taken and added to reach its extremes; (X,) each.

    NaN where nothing is known.
    """
    there = np.isfinite(values).any(axis=-1)
    mean, minus, plus = (np.full(len(values), np.nan) for _ in range(3))
    mean[there] = np.nanmean(values[there], axis=-1)
    minus[there] = mean[there] - np.nanmin(values[there], axis=-1)
    plus[there] = np.nanmax(values[there], axis=-1) - mean[there]
    return mean, minus, plus


def error_bars(minus: np.ndarray, plus: np.ndarray, color: str, **more: Any) -> dict[str, Any]:
    """For `error_y=` of a trace: bars that reach so far below and above its points."""
    return {
        "type": "data",
        "symmetric": False,
        "array": plus,
        "arrayminus": minus,
        "thickness": 1.3,
        "width": 3,
        "color": color,
        **more,
    }

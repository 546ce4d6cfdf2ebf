"""A result as it was at an earlier epoch, so that moving through the epochs measures nothing anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from kdlab.errors import ConfigError
from kdlab.probes.calibration import Calibration
from kdlab.probes.factors import FactorProbe
from kdlab.probes.fidelity import Fidelity
from kdlab.probes.geometry import Geometry
from kdlab.probes.linear import LinearProbeResult
from kdlab.probes.result import Result
from kdlab.probes.similarity import Similarity

Measured = TypeVar("Measured", bound=Result)

# Where the epochs are in each array (or mapping of arrays) of a result.
_AXES: Mapping[type[Result], Mapping[str, int]] = {
    LinearProbeResult: dict.fromkeys(("accuracy", "nll", "l2", "control", "low", "high", "purity"), 1),
    FactorProbe: {"accuracy": 1},
    Similarity: {"values": 0, "second_seed": 0},
    Geometry: {"values": 1},
    Calibration: dict.fromkeys(("values", "temperature", "at_limit", "counts", "hits", "sureness"), 1),
    Fidelity: {
        **dict.fromkeys(("accuracy", "agreement", "by_chance", "right", "wrong", "top", "quadrants"), 0),
        **{"kl": 1, "seed_agreement": 0, "seed_kl": 1},
    },
}


def until(result: Measured, epoch: int | None) -> Measured:
    """The part of a result up to an epoch, which then is its last one.

    Controls that are measured once (untrained twins, shuffled pictures, permuted labels) stay as they are.

    Args:
        result: of `linear_probe`, `factor_probe`, `similarity`, `geometry`, `calibration` or `fidelity`.
        epoch: the latest to keep; the first epoch stays in any case. None keeps all.

    Raises:
        ConfigError: a result of another probe.

    >>> found = kdlab.probes.linear_probe(study, probe="ridge")
    >>> found.epochs, kdlab.probes.until(found, 1).epochs
    ((0, 1, 2, 3), (0, 1))
    """
    if type(result) not in _AXES:
        raise ConfigError(f"{type(result).__name__} has no epochs to choose from.")
    epochs: tuple[int, ...] = result.epochs  # type: ignore[attr-defined]
    count = len(epochs) if epoch is None else max(sum(e <= epoch for e in epochs), 1)
    if count == len(epochs):
        return result
    cut = {name: _cut(getattr(result, name), axis, count) for name, axis in _AXES[type(result)].items()}
    return replace(result, epochs=epochs[:count], **cut)  # type: ignore[type-var]


def _cut(value: Any, axis: int, count: int) -> Any:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {name: _cut(table, axis, count) for name, table in value.items()}
    return np.take(value, np.arange(count), axis=axis)

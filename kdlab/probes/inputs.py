"""Reading what a user asks for: names, whole numbers, places; or one clear sentence of refusal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from kdlab.errors import ConfigError


def whole(value: Any, what: str, least: int | None = None) -> int:
    """`value` as an int.

    Raises:
        ConfigError: it is no whole number, or below `least`.
    """
    if not _is_whole(value) or (least is not None and value < least):
        bound = "" if least is None else f" from {least} on"
        raise ConfigError(f"{what} must be a whole number{bound}, not {value!r}.")
    return int(value)


def _is_whole(value: Any) -> bool:
    kinds = int | float | np.integer | np.floating
    return isinstance(value, kinds) and not isinstance(value, bool) and float(value).is_integer()


def whole_numbers(values: Any, what: str) -> tuple[int, ...]:
    """One whole number or several.

    Raises:
        ConfigError: something else, or none.
    """
    values = values.tolist() if isinstance(values, np.ndarray | torch.Tensor) else values
    several = isinstance(values, Iterable) and not isinstance(values, str)
    found = tuple(values) if several else (values,)
    if not found:
        raise ConfigError(f"{what} is empty; give at least one, or leave it out.")
    if not all(map(_is_whole, found)):
        raise ConfigError(f"{what} must be a whole number or a list of them, not {values!r}.")
    return tuple(map(int, found))


def names(values: Any, what: str) -> tuple[str, ...]:
    """One name or several, perhaps none.

    Raises:
        ConfigError: something else.
    """
    found = (values,) if isinstance(values, str) else tuple(values) if isinstance(values, Iterable) else None
    if found is None or not all(isinstance(name, str) for name in found):
        raise ConfigError(f"{what} must be a name or a list of names, not {values!r}.")
    return found


def names_or_all(values: Any, what: str) -> tuple[str, ...] | None:
    """The names, or None for "all".

    Raises:
        ConfigError: something else, or none.
    """
    if isinstance(values, str) and values == "all":
        return None
    found = names(values, what)
    if not found:
        raise ConfigError(f"{what} is empty; name at least one, or take 'all'.")
    return found


def chosen_places(samples: Any, count: int, default: int, of: str) -> np.ndarray:
    """Places of pictures; the first `default` of them for None.

    Args:
        samples: a place or several, counted from 0. count: how many there are.
        of: which pictures, as "evaluation pictures".

    Raises:
        ConfigError: none, or a place that there is not.
    """
    found = np.arange(default) if samples is None else np.array(whole_numbers(samples, "samples"))
    if len(found) == 0 or found.min() < 0 or found.max() >= count:
        raise ConfigError(f"There are {count} {of}; samples must lie in 0 .. {count - 1}.")
    return found


def class_numbers(values: Any, what: str, count: int | None = None) -> np.ndarray:
    """(n,) int64 labels from 0 on.

    Raises:
        ConfigError: another shape or number of them, or no class numbers.
    """
    try:
        labels = np.asarray(torch.as_tensor(values).cpu())
    except (TypeError, ValueError, RuntimeError):
        labels = np.zeros(0, dtype=np.str_)
    whole_ones = labels.dtype.kind in "iub" or (labels.dtype.kind == "f" and (labels == labels.round()).all())
    if not whole_ones or (labels < 0).any():
        raise ConfigError(
            f"{what} must hold class numbers 0, 1, 2, ...; of names, give "
            "numpy.unique(names, return_inverse=True)[1]."
        )
    if labels.ndim != 1 or not len(labels) or len(labels) != (len(labels) if count is None else count):
        how_many = "each sample" if count is None else f"each of the {count} samples"
        raise ConfigError(f"{what} must hold one label for {how_many}, not shape {labels.shape}.")
    return labels.astype(np.int64)

"""From the parts a set comes with to the parts a study uses: validation cut, few labels, limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdlab.data.dataset import ImageData, Split, channel_statistics
from kdlab.data.splits import cut, few, keep
from kdlab.errors import ConfigError, DataError

Limit = int | Mapping[str, int]

TEST_FRACTION = 0.2  # of a set that comes without a test part


@dataclass(frozen=True, eq=False)
class Parts:
    """What a source hands over before anything is cut for a study.

    Attributes:
        train: all images that may be trained on.
        test: the official test part; None where there is none (one is then cut from `train`).
        val: an official validation part; None (one is cut from `train`) for all known sets.
        mean, std: constants of the normalisation; None: statistics of `train`.
        val_fraction, test_count: what is cut where the user asks for nothing else; the test count
            defaults to a share of `TEST_FRACTION`.
    Other attributes are those of `ImageData`.
    """

    name: str
    train: Split
    class_names: tuple[str, ...]
    test: Split | None = None
    val: Split | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    coarse_names: tuple[str, ...] | None = None
    fine_to_coarse: tuple[int, ...] | None = None
    factor_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    augment: str = "none"
    val_fraction: float = 0.1
    test_count: int | None = None


def make_split(images: NDArray[np.uint8], labels: NDArray[np.integer]) -> Split:
    """A `Split` of NHWC (or NHW) uint8 images in their given order, numbered from 0."""
    if images.ndim == 3:
        images = images[..., None]
    # copies, always: the user's arrays stay their own
    pixels = torch.from_numpy(np.array(images.transpose(0, 3, 1, 2), order="C"))
    return Split(pixels, torch.from_numpy(np.array(labels, dtype=np.int64)), torch.arange(len(pixels)))


def assemble(
    parts: Parts,
    *,
    val_fraction: float | None = None,
    labels_per_class: int | None = None,
    seed: int = 0,
    limit: Limit | None = None,
) -> ImageData:
    """Cut what is missing and reduce what is asked for; see `kdlab.data.load` for the rules.

    Raises:
        ConfigError: a share, count or part name that cannot be.
        DataError: labels or shapes that do not belong together.
    """
    labels = parts.train.labels
    if len(labels) and int(labels.min()) < 0:
        raise DataError(
            f"The training labels of {parts.name!r} include {int(labels.min())}; labels start at 0."
        )
    share = parts.val_fraction if val_fraction is None else val_fraction
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise ConfigError(f"val_fraction must be at least 0 and below 1, not {share!r}.")
    mean, std = parts.mean, parts.std
    if mean is None or std is None:
        # of all training images, before any cut: every subset of a set is normalised alike
        mean, std = channel_statistics(parts.train.images)

    train, val, test = parts.train, parts.val, parts.test
    if test is None:
        count = parts.test_count
        train, test = _cut(train, round(TEST_FRACTION * len(train)) if count is None else count)
    if val is None:
        train, val = _cut(train, round(share * len(train)))
    elif val_fraction is not None:
        raise ConfigError(f"{parts.name!r} brings its own validation part: leave val_fraction out.")

    data = ImageData(
        name=parts.name,
        train=train,
        val=val,
        test=test,
        class_names=parts.class_names,
        mean=mean,
        std=std,
        coarse_names=parts.coarse_names,
        fine_to_coarse=parts.fine_to_coarse,
        factor_names=parts.factor_names,
        augment=parts.augment,
    )
    return reduce(data, labels_per_class=labels_per_class, seed=seed, limit=limit)


def reduce(
    data: ImageData, *, labels_per_class: int | None = None, seed: int = 0, limit: Limit | None = None
) -> ImageData:
    """Smaller parts of `data`: stratified limits first, then so many training labels per class.

    Raises:
        ConfigError: a limit below the number of classes, an unknown part, or more labels per
            class than there are.
    """
    parts: dict[str, Any] = {}
    for part, count in _limits(limit).items():
        split: Split = getattr(data, part)
        if count < len(split):
            parts[part] = split.take(torch.from_numpy(keep(_array(split.labels), count)))
    if labels_per_class is not None:
        if not _is_count(labels_per_class):
            raise ConfigError(f"labels_per_class must be a positive whole number, not {labels_per_class!r}.")
        train = parts.get("train", data.train)
        chosen = few(_array(train.labels), labels_per_class, seed, data.class_names)
        parts["train"] = train.take(torch.from_numpy(chosen))
    return replace(data, **parts) if parts else data


def _limits(limit: Limit | None) -> dict[str, int]:
    if limit is None:
        return {}
    limits = dict(limit) if isinstance(limit, Mapping) else dict.fromkeys(("train", "val", "test"), limit)
    for part, count in limits.items():
        if part not in ("train", "val", "test"):
            raise ConfigError(f"limit knows the parts 'train', 'val' and 'test', not {part!r}.")
        if not _is_count(count):
            raise ConfigError(f"The limit of the {part} part must be a positive whole number, not {count!r}.")
    return limits


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def _cut(split: Split, count: int) -> tuple[Split, Split]:
    rest, off = cut(_array(split.labels), count)
    return split.take(torch.from_numpy(rest)), split.take(torch.from_numpy(off))


def _array(labels: Tensor) -> NDArray[np.int64]:
    return labels.cpu().numpy()

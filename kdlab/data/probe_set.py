"""The fixed held-out pictures that networks are compared on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from kdlab.data.dataset import ImageData, Split
from kdlab.errors import ConfigError


@dataclass(frozen=True)
class ProbeSet:
    """Held-out pictures that every snapshot looks at, never trained on.

    Attributes:
        images: (n, C, H, W) uint8.
        labels: (n,) int64.
        index: (n,) int64 position in the original part of the data set.
        fit: (n,) bool; True: from the validation split, for fitting probes and alignments;
            False: from the test split, for evaluating them.
        attention_count: attention maps are kept for the first so many evaluation pictures.
        factors: name -> (n,) int64, where the data set knows what each picture was made of.

    >>> probe = kdlab.data.choose_probe_set(kdlab.data.load("digits"), size=80, attention=4)
    >>> len(probe.labels), int(probe.fit.sum()), probe.attention_positions
    (80, 40, array([40, 41, 42, 43]))
    >>> len(probe.evaluation_part(10).labels)
    10
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    fit: np.ndarray
    attention_count: int
    factors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def attention_positions(self) -> np.ndarray:
        """Positions (within the probe set) of the pictures whose attention maps are kept."""
        return np.flatnonzero(~self.fit)[: self.attention_count]

    def evaluation_part(self, count: int | None = None) -> ProbeSet:
        """Only the evaluation pictures, at most the first `count`; for quick live views."""
        keep = torch.from_numpy(np.flatnonzero(~self.fit)[:count])
        fit = np.zeros(len(keep), dtype=bool)
        attention = min(self.attention_count, len(keep))
        factors = {name: values[keep] for name, values in self.factors.items()}
        return ProbeSet(self.images[keep], self.labels[keep], self.index[keep], fit, attention, factors)


def choose_probe_set(data: ImageData, size: int = 2000, attention: int = 16) -> ProbeSet:
    """A fixed probe set: up to `size`/2 validation and `size`/2 test pictures, the same share of each class.

    Classes take turns in each part, so that its first pictures show all of them.

    Args:
        data: with a validation part, on which probes can be fitted.
        size: pictures of both parts together, at least 8.
        attention: attention maps are kept for so many evaluation pictures.

    Raises:
        ConfigError: `size` is too small, or there are no validation pictures.

    >>> probe = kdlab.data.choose_probe_set(kdlab.data.load("digits"), size=80)
    >>> probe.labels[:12].tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    """
    if size < 8:
        raise ConfigError(f"probe_size must be at least 8, not {size}.")
    if not len(data.val):
        raise ConfigError(
            f"{data.name} has no validation pictures, on which probes are fitted and the best epoch is "
            "chosen; load it with a larger val_fraction."
        )
    parts = [stratified(split, size // 2) for split in (data.val, data.test)]
    fit = np.repeat([True, False], [len(p) for p in parts])
    join = [torch.cat([getattr(p, key) for p in parts]).cpu() for key in ("images", "labels", "index")]
    factors = {name: torch.cat([p.factors[name] for p in parts]).cpu() for name in parts[1].factors}
    return ProbeSet(join[0], join[1], join[2], fit, min(attention, len(parts[1])), factors)


def stratified(split: Split, size: int) -> Split:
    """The first `size` pictures when classes take turns, each in its own order."""
    labels = split.labels.cpu()
    rank = torch.zeros_like(labels)  # how many of the same class come before
    for label in labels.unique():
        where = (labels == label).nonzero()[:, 0]
        rank[where] = torch.arange(len(where))
    order = torch.argsort(rank * (int(labels.max()) + 1) + labels, stable=True)
    return split.take(order[:size].to(split.labels.device))

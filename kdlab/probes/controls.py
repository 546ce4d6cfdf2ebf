"""What stands beside the accuracy of a linear probe so that it means something: intervals and controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdlab.errors import ConfigError
from kdlab.probes.evaluate import standardisation
from kdlab.probes.inputs import class_numbers
from kdlab.probes.representation import measure
from kdlab.probes.sources import Source
from kdlab.probes.tables import layers_of
from kdlab.probes.untrained import untrained_twin

_CALIBRATION = 512  # fitting pictures that set the BatchNorm statistics of an untrained twin
_Z = 1.959963984540054  # of a two-sided interval of 95 %


def wilson(share: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Score interval of 95 % for a share of n independent trials (Wilson, JASA 1927).

    Says how far n pictures pin down the accuracy of one fitted probe; not how much another seed of the
    network, or another fitting part, would change it.

    Args:
        share: any shape, 0..1; NaN stays NaN.
        n: trials behind each.

    Returns:
        Lower and upper ends, of the shape of `share`.
    """
    share = np.asarray(share, dtype=np.float64)
    weight = 1.0 / (1.0 + _Z**2 / n)
    centre = weight * (share + _Z**2 / (2 * n))
    half = weight * _Z * np.sqrt(share * (1.0 - share) / n + (_Z / (2 * n)) ** 2)
    return np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0)


def raw_pixels(src: Source) -> np.ndarray | None:
    """(n, C H W) float32 in 0..1, or None where there are no pictures."""
    return None if src.images is None else src.images.reshape(len(src.images), -1) / np.float32(255)


def random_labels(
    control: bool | Any, src: Source, pixels: np.ndarray | None, seed: int
) -> np.ndarray | None:
    """(n,) labels of the control task of Hewitt and Liang (EMNLP 2019), or None without it.

    With True, one random label for each cluster of similar pictures: learnable only by remembering
    clusters. Otherwise the labels given.

    Raises:
        ConfigError: no pictures to cluster, or another number of labels than of samples.
    """
    if control is None or control is False:
        return None
    if control is not True:
        return class_numbers(control, "control", len(src.target))
    if pixels is None:
        raise ConfigError("control=True needs the pictures; give (n,) random labels of your own instead.")
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    classes = len(np.unique(src.target))
    clusters = min(5 * classes, int(src.fit.sum()) // 2)
    with threadpool_limits(1):  # OpenBLAS warns at length where several threads call it at once
        groups = KMeans(clusters, n_init=1, random_state=seed).fit_predict(pixels)
    return np.random.default_rng(seed).permutation(np.arange(clusters) % classes)[groups]


def narrowest(tables: Sequence[np.ndarray], fit: np.ndarray) -> int:
    """Most principal components that every table has: those of the narrowest, and of the fitting part."""
    return min(min(table.shape[1] for table in tables), int(fit.sum()) - 1)


def reduce_dimension(tables: Sequence[np.ndarray], fit: np.ndarray, dimension: int) -> list[np.ndarray]:
    """Each table on its first `dimension` principal components, found on the fitting part.

    Features are standardised there first, as for the probe. So layers of different width are compared
    at the same number of weights.

    Raises:
        ConfigError: more components than a table has features, or than the fitting part has samples.
    """
    least = narrowest(tables, fit)
    whole = isinstance(dimension, int | np.integer) and not isinstance(dimension, bool)
    if not whole or not 1 <= dimension <= least:
        raise ConfigError(
            f"dimension must be a whole number from 1 to {least}, which is what the narrowest layer and the "
            f"fitting part allow, or 'narrowest', not {dimension!r}."
        )
    return [_components(np.asarray(table, dtype=np.float64), fit, int(dimension)) for table in tables]


def _components(x: np.ndarray, fit: np.ndarray, dimension: int) -> np.ndarray:
    centre, spread = standardisation(x[fit])
    x = (x - centre) / spread
    known = x[fit]
    if x.shape[1] <= len(known):
        axes = np.linalg.eigh(known.T @ known)[1][:, ::-1][:, :dimension]
    else:
        axes = np.linalg.svd(known, full_matrices=False)[2][:dimension].T
    return x @ axes


def untrained_layers(src: Source, network: str, seed: int) -> dict[str, np.ndarray]:
    """Layers of the untrained twin of a network: stage (or "embedding") -> (n, p).

    The twin's weights are drawn with the seed of the run; its BatchNorm statistics come from up to 512
    pictures of the fitting part.

    Raises:
        ConfigError: features were given and no network, or see `untrained_twin`.
    """
    epoch = src.epochs(seed, network)[-1] if network in src.students else -1
    places = np.flatnonzero(src.fit)[:_CALIBRATION]
    twin = untrained_twin(src.net(network, epoch, seed), src.inputs(places), seed)
    return layers_of(measure(twin, src.inputs, name=network, n=len(src.target)))

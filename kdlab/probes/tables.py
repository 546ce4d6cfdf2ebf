"""The feature tables that probes of layers read: which, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.probes.inputs import names_or_all
from kdlab.probes.sources import Source
from kdlab.probes.words import at_epoch, commas


def collect(
    src: Source,
    networks: Sequence[str],
    epochs: Sequence[int],
    seeds: Sequence[int],
    layers: str | Iterable[str],
    *,
    without: str = "embedding",
    share: float = 0.1,
) -> tuple[list[tuple[int, int, str, int]], list[np.ndarray], list[str]]:
    """Every feature table to be probed and its place; the layers in order of depth.

    Args:
        layers: "all", or names.
        without: which of the two "all" leaves out where the embedding is the average of the last stage:
            the "embedding", or that "stage".
        share: of the time, see `kdlab.probes.progress.steps`.

    Returns:
        (network, epoch, layer, seed) of each table, where all but the layer are places in the lists
        given; the (n, p) tables; the names of the layers.

    Raises:
        ConfigError: no such layer, no network shows one, or values that are not finite.
    """
    wanted = names_or_all(layers, "layers")
    places: list[tuple[int, int, str, int]] = []
    tables: list[np.ndarray] = []
    order: list[str] = []
    known: list[str] = []
    for n, e, seed in src.visits(networks, epochs, seeds, share):
        every = layers_of(src.view(networks[n], epochs[e], seeds[seed]))
        known += [layer for layer in every if layer not in known]
        chosen = every if wanted is None else {k: v for k, v in every.items() if k in wanted}
        if wanted is None and is_doubled(chosen):
            del chosen["embedding" if without == "embedding" else list(chosen)[-2]]
        for layer, table in chosen.items():
            if layer not in order:
                order.append(layer)
            if not np.isfinite(table).all():
                raise ConfigError(
                    f"The features of {commas(networks[n], layer, at_epoch(epochs[e]))} are NaN or infinite; "
                    "the network has diverged, leave it out."
                )
            places.append((n, e, layer, seed))
            tables.append(table)
    for layer in wanted or ():
        if layer not in known:
            raise unknown_name("layer", layer, known)
    if not tables:
        raise ConfigError("None of these networks shows a layer at these epochs.")
    order.sort(key=lambda layer: (layer == "embedding", known.index(layer)))
    return places, tables, order


def is_doubled(layers: Mapping[str, np.ndarray]) -> bool:
    """Whether the embedding, the last of `layers`, is the average of the last stage, as in most networks."""
    if "embedding" not in layers or len(layers) < 2:
        return False
    last, embedding = list(layers.values())[-2:]
    return last.shape == embedding.shape and np.allclose(last, embedding, rtol=1e-3, atol=1e-4)


def layers_of(view: Any) -> dict[str, np.ndarray]:
    """Stages of a view, shallow to deep, then its embedding, if it has one."""
    every = dict(view.stages)
    if view.embedding is not None:
        every["embedding"] = view.embedding
    return every

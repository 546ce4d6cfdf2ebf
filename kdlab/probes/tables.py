"""The feature tables that probes of layers read: which, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.probes.sources import Source


def collect(
    src: Source,
    networks: Sequence[str],
    epochs: Sequence[int],
    seeds: Sequence[int],
    layers: str | Iterable[str],
) -> tuple[list[tuple[int, int, str, int]], list[np.ndarray], list[str]]:
    """Every feature table to be probed and its place; the layers in order of depth.

    Args:
        layers: "all" (an embedding that is the average of the last stage is left out), or names.

    Returns:
        (network, epoch, layer, seed) of each table, where all but the layer are places in the lists
        given; the (n, p) tables; the names of the layers.

    Raises:
        ConfigError: no such layer, or no network shows one.
    """
    wanted = (
        None
        if isinstance(layers, str) and layers == "all"
        else [layers]
        if isinstance(layers, str)
        else list(layers)
    )
    places: list[tuple[int, int, str, int]] = []
    tables: list[np.ndarray] = []
    order: list[str] = []
    known: list[str] = []
    for s, seed in enumerate(seeds):
        present = src.presence(networks, epochs, seed)
        for e, epoch in enumerate(epochs):
            for n, name in enumerate(networks):
                is_teacher = name in src.teachers
                if (is_teacher and (s, e) != (0, 0)) or epoch not in present[name]:
                    continue
                every = layers_of(src.view(name, epoch, seed))
                known += [layer for layer in every if layer not in known]
                chosen = every if wanted is None else {k: v for k, v in every.items() if k in wanted}
                if wanted is None:
                    _drop_double(chosen)
                for layer, table in chosen.items():
                    if layer not in order:
                        order.append(layer)
                    places.append((n, e, layer, s))
                    tables.append(table)
    for layer in wanted or ():
        if layer not in known:
            raise unknown_name("layer", layer, known)
    if not tables:
        raise ConfigError("None of these networks shows a layer at these epochs.")
    order.sort(key=lambda layer: (layer == "embedding", known.index(layer)))
    return places, tables, order


def _drop_double(layers: dict[str, np.ndarray]) -> None:
    """Leave the embedding out where it is the average of the last stage, as in most networks."""
    stages = [name for name in layers if name != "embedding"]
    if "embedding" in layers and stages:
        last, embedding = layers[stages[-1]], layers["embedding"]
        if last.shape == embedding.shape and np.allclose(last, embedding, rtol=1e-3, atol=1e-4):
            del layers["embedding"]


def layers_of(view: Any) -> dict[str, np.ndarray]:
    """Stages of a view, shallow to deep, then its embedding, if it has one."""
    every = dict(view.stages)
    if view.embedding is not None:
        every["embedding"] = view.embedding
    return every

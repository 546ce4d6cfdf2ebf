"""Layers of many networks, prepared once each, and all that is compared between two of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from kdlab.errors import ConfigError, StudyError, unknown_name
from kdlab.probes.inputs import names_or_all
from kdlab.probes.metrics.pairs import Layers, compare, prepare
from kdlab.probes.progress import steps
from kdlab.probes.representation import AS_GIVEN, measure
from kdlab.probes.sources import Source
from kdlab.probes.tables import is_doubled, layers_of
from kdlab.probes.words import at_epoch, commas

Pair = tuple[str, str]
_TWIN_PICTURES = 512  # for the BatchNorm statistics of an untrained twin


class Compared:
    """Layers of networks, prepared once, and what is compared."""

    def __init__(
        self,
        src: Source,
        metric: str,
        options: Mapping[str, Any],
        layers: str | Iterable[str],
        against: str,
        epochs: tuple[int, ...],
        seeds: tuple[int, ...],
    ) -> None:
        self.src, self.metric, self.options, self.against = src, metric, options, against
        self.wanted = names_or_all(layers, "layers")
        self.epochs, self.seeds = epochs, seeds
        self.names: dict[str, tuple[str, ...]] = {}
        self.widest: dict[str, int] = {}
        self.constant: set[str] = set()
        self._kept: dict[tuple[str, int, int], Layers] = {}

    def values(self, pair: Pair) -> np.ndarray:
        """(E, S, L, M)."""
        shape = [len(self._know(name)) for name in pair]
        out = np.full((len(self.epochs), len(self.seeds), *shape), np.nan)
        for s, seed in steps(list(enumerate(self.seeds))):
            for e, epoch in steps(list(enumerate(self.epochs)), lambda at: at_epoch(at[1])):
                sides = self._sides(pair, epoch, seed)
                if sides is not None:
                    out[e, s] = compare(*sides)
        return out

    def _know(self, name: str) -> tuple[str, ...]:
        """The layers of a network, from whichever snapshot there is."""
        if name not in self.names:
            places = [(s, e) for s in self.src.seeds for e in self.src.epochs(s, name)]
            if name in self.src.teachers:
                places = [(self.seeds[0], AS_GIVEN)]
            if not places:
                raise StudyError(f"There is no snapshot of {name!r} yet; leave it out or train it first.")
            self._prepared(name, places[0][1], places[0][0])
        return self.names[name]

    def _sides(self, pair: Pair, epoch: int, seed: int) -> tuple[Layers, Layers] | None:
        """Both networks at an epoch, or None where one has no snapshot of it."""
        left = self._left_epoch(pair, epoch, seed)
        if left is None or epoch not in self.src.presence([pair[1]], [epoch], seed)[pair[1]]:
            return None
        return self._prepared(pair[0], left, seed), self._prepared(pair[1], epoch, seed)

    def _left_epoch(self, pair: Pair, epoch: int, seed: int) -> int | None:
        if self.against in ("first", "last") and pair[0] == pair[1] and pair[0] in self.src.students:
            known = self.src.epochs(seed, pair[0])
            return (known[0] if self.against == "first" else known[-1]) if known else None
        return epoch if epoch in self.src.presence([pair[0]], [epoch], seed)[pair[0]] else None

    def _prepared(self, name: str, epoch: int, seed: int) -> Layers:
        key = (name, AS_GIVEN, 0) if name in self.src.teachers else (name, epoch, seed)
        if key not in self._kept:
            prepared = self._prepare(name, self.src.view(name, epoch, seed), commas(name, at_epoch(epoch)))
            for old in [k for k in self._kept if k[0] not in self.src.teachers][:-1]:
                del self._kept[old]  # kernels are large
            self._kept[key] = prepared
        return self._kept[key]

    def _prepare(
        self, name: str, view: Any, what: str, order: np.ndarray | None = None, own: bool = True
    ) -> Layers:
        tables = choose_layers(view, self.wanted, self.names.get(name), name)
        if own:
            self.names.setdefault(name, tuple(tables))
            self.widest[name] = max(table.shape[1] for table in tables.values())
        values = [table if order is None else table[order] for table in tables.values()]
        names = [f"Layer {layer!r} of {what}" for layer in tables]
        prepared = prepare(values, self.metric, names=names, **self.options)
        self.constant |= {
            f"{layer} of {what}" for layer, live in zip(tables, prepared.live, strict=True) if not live
        }
        return prepared

    def _last(self, pair: Pair) -> tuple[int, int]:
        """The last epoch and first seed in which both networks are there."""
        for epoch in reversed(self.epochs):
            for seed in self.seeds:
                known = self.src.presence([pair[1]], [epoch], seed)[pair[1]]
                if epoch in known and self._left_epoch(pair, epoch, seed) is not None:
                    return epoch, seed
        raise ConfigError(f"{pair[0]!r} and {pair[1]!r} have no epoch in common.")

    def untrained(self, pair: Pair) -> np.ndarray:
        """(L, M) with the right network before training; mean over seeds where it is a student."""
        epoch, seed = self._last(pair)
        left, right = pair
        found = []
        if right in self.src.students:
            for own in steps(self.seeds):
                if 0 in self.src.epochs(own, right):
                    before = self._prepared(right, 0, own)
                    at = 0 if left == right else self._left_epoch(pair, epoch, own)
                    if at is not None:
                        found.append(compare(self._prepared(left, at, own), before))
        if found:
            return mean_known(np.stack(found), 0)
        twin = self._twin(right, epoch, seed)
        own_left = self._left_epoch(pair, epoch, seed)
        other = twin if left == right else self._prepared(left, epoch if own_left is None else own_left, seed)
        return compare(other, twin)

    def _twin(self, name: str, epoch: int, seed: int) -> Layers:
        from kdlab.probes.untrained import untrained_twin

        if self.src.take is None:
            raise ConfigError("it was given as features, without pictures")
        if self.src.study is not None and not hasattr(self.src.study, "network"):
            raise ConfigError("no weights were kept")
        net = self.src.net(name, epoch, seed)
        places = np.flatnonzero(self.src.fit)[:_TWIN_PICTURES]
        twin = untrained_twin(net, self.src.inputs(places), seed)
        view = measure(twin, self.src.inputs, name=name, n=len(self.src.target))
        return self._prepare(name, view, f"untrained {name}", own=False)

    def second_seed(self, name: str) -> np.ndarray | None:
        """(E, M, M) layers of one seed with those of the next, or None for a single seed."""
        seeds = [seed for seed in self.src.seeds if self.src.epochs(seed, name)]
        if len(seeds) < 2:
            return None
        width = len(self.names[name])
        out = np.full((len(self.epochs), width, width), np.nan)
        for e, epoch in steps(list(enumerate(self.epochs)), lambda at: at_epoch(at[1])):
            there = [seed for seed in seeds if epoch in self.src.epochs(seed, name)]
            found = [
                compare(self._prepared(name, epoch, a), self._prepared(name, epoch, b))
                for a, b in pairwise(there)
            ]
            if found:
                out[e] = mean_known(np.stack(found), 0)
        return out

    def chance(self, pair: Pair, permutations: int) -> np.ndarray:
        """(L, M) with the right network's pictures in random order, at the last epoch."""
        epoch, seed = self._last(pair)
        sides = self._sides(pair, epoch, seed)
        if sides is None:
            raise ConfigError(f"{pair[0]!r} and {pair[1]!r} have no epoch in common.")
        generator, total = np.random.default_rng(0), []
        for _ in steps(range(permutations)):
            order = generator.permutation(sides[1].n)
            if self.metric == "cka_minibatch":  # other batches, so prepared anew
                view = self.src.view(pair[1], epoch, seed)
                mixed = self._prepare(pair[1], view, commas(pair[1], at_epoch(epoch)), order)
            else:
                mixed = sides[1].permuted(order)
            total.append(compare(sides[0], mixed))
        return mean_known(np.stack(total), 0)


def choose_layers(
    view: Any, wanted: Sequence[str] | None, known: Sequence[str] | None, name: str
) -> dict[str, np.ndarray]:
    """The layers to compare, shallow to deep; the same ones at every epoch."""
    every = layers_of(view)
    for layer in wanted or ():
        if layer not in every:
            raise unknown_name(f"layer of {name!r}", layer, every)
    if known is not None:
        return {layer: every[layer] for layer in known}
    if wanted is not None:
        return {layer: table for layer, table in every.items() if layer in wanted}
    if is_doubled(every):
        del every["embedding"]
    if not every:
        raise ConfigError(f"{name!r} shows no layer to compare.")
    return every


def mean_known(table: np.ndarray, axis: int) -> np.ndarray:
    """Mean over what is finite; NaN where nothing is."""
    known = np.isfinite(table)
    total = np.where(known, table, 0.0).sum(axis=axis)
    return np.where(known.any(axis=axis), total / np.maximum(known.sum(axis=axis), 1), np.nan)

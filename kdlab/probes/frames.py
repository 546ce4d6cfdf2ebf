"""What goes into one frame of a map: every network's features of the same pictures, in one space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kdlab.errors import ConfigError
from kdlab.probes.alignment import into_teacher_space
from kdlab.probes.inputs import whole
from kdlab.probes.metrics.classes import nearest
from kdlab.probes.sources import Source
from kdlab.probes.words import at_epoch, commas, listed

POINTS = 1000  # of all networks together, where the number of pictures is not given


def choose(src: Source, networks: int, n: int | None) -> np.ndarray:
    """Evaluation pictures, classes taking turns."""
    evaluation = np.flatnonzero(~src.fit)
    count = min(300, POINTS // networks) if n is None else whole(n, "n")
    if count < 10 or len(evaluation) < 10:
        asked = "" if n is None else f" (asked for {n})"
        raise ConfigError(
            f"A map needs at least 10 evaluation pictures{asked}, and there are {len(evaluation)}; give more."
        )
    labels = src.target[evaluation]
    rank = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        rank[where] = np.arange(len(where))
    return evaluation[np.lexsort((labels, rank))[:count]]


@dataclass(frozen=True)
class Frame:
    """One epoch of the networks that are there.

    Attributes:
        features: (N, n, q) in the common space. known: (N, m, q) of the fitting part.
        kinds: how each came there. own: (n, p) features of each as they are.
        nearest: (N, n, k) in those. top, share: (N, n, 3) most probable classes, and their probabilities.
    """

    features: np.ndarray
    known: np.ndarray
    kinds: list[str]
    own: list[np.ndarray]
    nearest: np.ndarray
    top: np.ndarray
    share: np.ndarray


def gather(
    src: Source,
    networks: Sequence[str],
    reference: str,
    epoch: int,
    seed: int,
    align: str,
    shown: np.ndarray,
    k: int,
) -> Frame:
    """Everything of one epoch, brought into the space of `reference`."""
    tables, own_tables, kinds, tops = [], [], [], []
    own = table_of(src.view(reference, epoch, seed), reference, epoch)
    for name in networks:
        view = src.view(name, epoch, seed)
        table = table_of(view, name, epoch)
        if name == reference:
            mapped, kind = np.asarray(table, np.float64), "none"
        elif src.teachers:
            mapped, kind = into_teacher_space(align, table, view.projected, own, src.fit, name)
        else:
            way = "procrustes" if align == "joint" else align
            mapped, kind = into_teacher_space(way, table, None, own, src.fit, name)
        tables.append(mapped)
        own_tables.append(np.asarray(table[shown], np.float64))
        kinds.append(kind)
        tops.append(top_three(view.logits, shown))
    return Frame(
        features=np.stack([table[shown] for table in tables]),
        known=np.stack([table[src.fit] for table in tables]),
        kinds=kinds,
        own=own_tables,
        nearest=np.stack([nearest(torch.from_numpy(table), k).numpy() for table in own_tables]),
        top=np.stack([classes for classes, _ in tops]),
        share=np.stack([shares for _, shares in tops]),
    )


def top_three(logits: np.ndarray | None, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) most probable classes of n rows of logits, and their probabilities; -1 and NaN where there are
    no more."""
    top, share = np.full((len(shown), 3), -1), np.full((len(shown), 3), np.nan)
    if logits is not None:
        every = torch.from_numpy(np.asarray(logits[shown], np.float64)).softmax(dim=1)
        values, classes = every.sort(dim=1, descending=True, stable=True)
        count = min(3, every.shape[1])
        top[:, :count], share[:, :count] = classes[:, :count].numpy(), values[:, :count].numpy()
    return top, share


def table_of(view: Any, name: str, epoch: int) -> np.ndarray:
    """The features that are mapped: the embedding, or the last stage."""
    table = view.embedding if view.embedding is not None else list(view.stages.values())[-1]
    if not np.isfinite(table).all():
        raise ConfigError(
            f"The features of {commas(name, at_epoch(epoch))} are NaN or infinite; the network has diverged, "
            "leave it out."
        )
    return np.asarray(table)


def partly(networks: Sequence[str], epochs: Sequence[int], there: Mapping[str, Sequence[int]]) -> str:
    """A sentence on networks that have no snapshot of some epochs."""
    said = []
    for name in networks:
        if not there[name]:
            said.append(f"{name} not at all")
        elif len(there[name]) < len(epochs):
            word = "epoch" if len(there[name]) == 1 else "epochs"
            said.append(f"{name} only at {word} {listed([str(epoch) for epoch in there[name]])}")
    return f" Shown where there are snapshots: {listed(said)}." if said else ""

"""Stratified cuts of a labelled set: functions of the labels (and, where said, of a seed) alone.

Draws come from `numpy.random.RandomState`, whose stream NumPy has frozen: the same labels give the
same cut with every version and on every machine, so results stay comparable.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kdlab.errors import ConfigError

Positions = NDArray[np.int64]

_CUT, _KEEP, _FEW = 1, 2, 3  # one independent stream per purpose


def apportion(counts: Sequence[int], total: int) -> list[int]:
    """Share `total` places among classes in proportion to their size (largest remainders).

    Args:
        counts: members of each class; an empty class gets nothing.
        total: places; at most sum(counts).

    Returns:
        One integer per class, at most its count, summing to `total`. While there are enough
        places, no class with members is left without one.
    """
    size = sum(counts)
    if total > size:
        raise ValueError(f"cannot share {total} places among {size} members")
    if size == 0:
        return [0] * len(counts)
    shares = [count * total // size for count in counts]
    # exact integer remainders: floating point would break ties differently from machine to machine
    order = sorted(range(len(counts)), key=lambda c: (-(counts[c] * total % size), c))
    for c in order[: total - sum(shares)]:
        shares[c] += 1
    present = [c for c, count in enumerate(counts) if count]
    if total >= len(present):
        for c in present:
            if shares[c] == 0:
                shares[max(present, key=lambda k: shares[k])] -= 1
                shares[c] = 1
    return shares


def _pick(labels: Positions, shares: Sequence[int], purpose: int, seed: int) -> Positions:
    """The first `shares[c]` members of class c in a random order fixed by (purpose, seed, c); sorted."""
    picked = []
    for c, share in enumerate(shares):
        if share:
            order = np.random.RandomState([purpose, seed % 2**32, c]).permutation(int((labels == c).sum()))
            picked.append(np.flatnonzero(labels == c)[order[:share]])
    return np.sort(np.concatenate(picked)) if picked else np.empty(0, np.int64)


def cut(labels: Positions, count: int) -> tuple[Positions, Positions]:
    """Cut about `count` samples off, every class in proportion; a function of `labels` alone.

    A class always keeps at least one sample on the first side, so a class of one is not cut and
    fewer than `count` may come off.

    Returns:
        (rest, off): two disjoint sorted arrays of positions that together are all positions.
    """
    counts = np.bincount(labels)
    spare = [max(int(n) - 1, 0) for n in counts]
    shares = apportion([int(n) for n in counts], min(count, len(labels)))
    shares = [min(share, room) for share, room in zip(shares, spare, strict=True)]
    off = _pick(labels, shares, _CUT, 0)
    return np.setdiff1d(np.arange(len(labels)), off), off


def keep(labels: Positions, count: int) -> Positions:
    """Sorted positions of a stratified part of `count` samples; a function of `labels` alone.

    Raises:
        ConfigError: fewer places than classes that have samples.
    """
    if count >= len(labels):
        return np.arange(len(labels))
    counts = [int(n) for n in np.bincount(labels)]
    classes = sum(n > 0 for n in counts)
    if count < classes:
        raise ConfigError(
            f"A part of {count} images cannot hold {classes} classes; ask for at least {classes}."
        )
    return _pick(labels, apportion(counts, count), _KEEP, 0)


def few(labels: Positions, per_class: int, seed: int, class_names: Sequence[str]) -> Positions:
    """Sorted positions of `per_class` samples of every class, chosen by `seed`.

    With one seed, fewer labels are a part of more: `few(y, 5, s)` lies within `few(y, 10, s)`.

    Raises:
        ConfigError: a class has fewer samples; says which and how many there are.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    smallest = int(counts.argmin())
    if counts[smallest] < per_class:
        raise ConfigError(
            f"{per_class} training images per class were asked for, but class {class_names[smallest]!r} "
            f"has only {counts[smallest]}; ask for labels_per_class={counts[smallest]} at most."
            if counts[smallest]
            else f"{per_class} training images per class were asked for, but class "
            f"{class_names[smallest]!r} has none; give it images or leave the class out."
        )
    return _pick(labels, [per_class] * len(class_names), _FEW, seed)

"""The shortest average of a few vectors: how AEKD finds one direction for all teachers."""

from __future__ import annotations

import functools
from itertools import product

import torch
from torch import Tensor

MOST = 8
"""Largest number of vectors; every set of active constraints is tried, and there are up to 3^M of them."""


@torch.no_grad()
def min_norm_weights(gram: Tensor, cap: float = 1.0) -> Tensor:
    """argmin_a a' G a over sum a = 1, 0 <= a_k <= cap: weights of the shortest average of M vectors.

    Exact: on each face of the capped simplex the minimum is the solution of a linear system, and the
    least feasible one is the answer. All faces are solved at once, without waiting for a GPU. Where the
    answer is not unique (equal vectors), the weights are as even as they can be.

    Args:
        gram: (M, M) inner products of the vectors, M <= 8; computed in float64.
        cap: largest weight, at least 1/M (then all are equal); 1 or more is no bound. Of no consequence for
            one vector.

    Returns:
        (M,) weights of `gram`'s type.

    Raises:
        ValueError: no square matrix, too many vectors, or a cap below 1/M.

    >>> kdlab.losses.min_norm_weights(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))  # the longer one counts less
    tensor([0.7500, 0.2500])
    >>> kdlab.losses.min_norm_weights(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), cap=0.6)
    tensor([0.6000, 0.4000])
    """
    count = len(gram)
    if gram.ndim != 2 or gram.shape[1] != count or not 1 <= count <= MOST:
        raise ValueError(f"gram must be (M, M) with M from 1 to {MOST}, not {tuple(gram.shape)}.")
    if count == 1:
        return torch.ones_like(gram[0])
    if cap * count < 1 - 1e-9:
        raise ValueError(
            f"{count} weights of at most {cap!r} cannot sum to 1; cap must be at least 1/{count}."
        )
    if cap * count <= 1 + 1e-9:
        return gram.new_full((count,), 1 / count)
    precise = torch.float32 if gram.device.type == "mps" else torch.float64
    free, capped = _faces(count, cap, gram.device)
    g = gram.to(precise)
    # A trace of curvature makes the answer unique and as even as it can be, and no system singular.
    size = g.diagonal().mean().clamp_min(torch.finfo(precise).tiny)
    eye = torch.eye(count, dtype=precise, device=g.device)
    g = g / size + 1e-9 * eye

    # Unknowns a and the multiplier of the sum. Row k: (G a)_k = nu where a_k is free, else a_k = its bound.
    system = g.new_zeros(len(free), count + 1, count + 1)
    system[:, :count, :count] = torch.where(free[:, :, None], g, eye)
    system[:, :count, count] = -free.to(precise)
    system[:, count, :count] = 1
    bounds = torch.cat([cap * capped.to(precise), g.new_ones(len(free), 1)], dim=1)
    solved = torch.linalg.solve_ex(system, bounds)[0][:, :count]
    feasible = ((solved >= -1e-9) & (solved <= cap + 1e-9)).all(1) & solved.isfinite().all(1)
    clean = torch.where(feasible[:, None], solved, 1 / count).clamp(0, cap)
    length = torch.einsum("pi,ij,pj->p", clean, g, clean).masked_fill(~feasible, torch.inf)
    best = clean.index_select(0, length.argmin()[None])[0]
    return (best / best.sum()).to(gram.dtype)


@functools.lru_cache(maxsize=32)
def _faces(count: int, cap: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """(P, M) masks of the free and of the capped weights on each face that can hold a point."""
    free, capped = [], []
    for states in product((0, 1, 2), repeat=count):  # 0: at 0, 1: free, 2: at the cap
        movable, full = states.count(1), states.count(2)
        if movable and full * cap < 1 + 1e-9 < (movable + full) * cap + 2e-9 and (cap < 1 or not full):
            free.append([state == 1 for state in states])
            capped.append([state == 2 for state in states])
    return torch.tensor(free, device=device), torch.tensor(capped, device=device)

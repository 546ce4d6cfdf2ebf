"""A linear classifier in closed form: ridge regression on the labels, for sweeps and live views."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlab.errors import ConfigError
from kdlab.probes.softmax import L2_GRID


def fit_ridge(x: Tensor, target: Tensor, classes: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Ridge regression of the one-hot labels, its penalty chosen by the exact leave-one-out error.

    Args:
        x: (B, n, p) features; computed in float64.
        target: (n,) labels, shared by all tables.
        classes: K; the largest label + 1 if not given.

    Returns:
        weight (B, p, K), bias (B, K) and the penalty l2 (B,) of each table, one of 1e-3 .. 1e3.

    Raises:
        ConfigError: values that are not finite.
    """
    x = x.double()
    if not torch.isfinite(x).all():
        raise ConfigError("The features have NaN or infinite values; leave these samples or networks out.")
    count, n, _ = x.shape
    onehot = F.one_hot(target.long(), int(target.max()) + 1 if classes is None else classes).double()
    prior = onehot.mean(dim=0)
    wanted = onehot - prior
    mean = x.mean(dim=1, keepdim=True)
    u, s, vh = torch.linalg.svd(x - mean, full_matrices=False)
    projected = u.mT @ wanted  # (B, r, K)

    best_error = torch.full((count,), torch.inf, dtype=torch.float64)
    best_shrink, best_l2 = torch.zeros_like(s), torch.zeros(count, dtype=torch.float64)
    for l2 in L2_GRID:
        filtered = s.square() / (s.square() + l2)
        residual = wanted - u @ (filtered[:, :, None] * projected)
        leverage = (u.square() * filtered[:, None]).sum(dim=2) + 1.0 / n  # 1/n: the mean is fitted too
        error = (residual / (1.0 - leverage).clamp(min=1e-9)[:, :, None]).square().sum(dim=(1, 2))
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_shrink = torch.where(better[:, None], s / (s.square() + l2), best_shrink)
        best_l2 = torch.where(better, l2, best_l2)
    weight = vh.mT @ (best_shrink[:, :, None] * projected)
    return weight, prior - (mean @ weight)[:, 0], best_l2

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
    centred = x - mean
    # the rotation to principal axes comes from the (p, p) Gram matrix, which is far smaller than x
    energy, axes = torch.linalg.eigh(centred.mT @ centred)
    energy = energy.clamp(min=0.0)
    points = centred @ axes  # (B, n, p), orthogonal columns of squared length `energy`
    inner = points.mT @ wanted  # (B, p, K)
    squares = points.square()

    best_error = torch.full((count,), torch.inf, dtype=torch.float64)
    best_gain, best_l2 = torch.zeros_like(energy), torch.zeros(count, dtype=torch.float64)
    for l2 in L2_GRID:
        gain = 1.0 / (energy + l2)
        residual = wanted - points @ (gain[:, :, None] * inner)
        leverage = (squares @ gain[:, :, None])[:, :, 0] + 1.0 / n  # 1/n: the mean is fitted too
        error = (residual / (1.0 - leverage).clamp(min=1e-9)[:, :, None]).square().sum(dim=(1, 2))
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_gain = torch.where(better[:, None], gain, best_gain)
        best_l2 = torch.where(better, l2, best_l2)
    weight = axes @ (best_gain[:, :, None] * inner)
    return weight, prior - (mean @ weight)[:, 0], best_l2

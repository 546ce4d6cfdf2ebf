"""How many directions a representation uses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdlab.probes.metrics.checks import as_matrix, centred


def singular_values(x: Any) -> Tensor:
    """Singular values of the centred features, descending: (min(n, p),) float64.

    Args:
        x: (n, p) features.

    Raises:
        ConfigError: fewer than 4 samples, not finite, or every sample the same.
    """
    points = centred(as_matrix(x, "x"), "x")
    if points.shape[0] < points.shape[1]:
        points = points.T
    # through the smaller Gram matrix: several times faster than an SVD, but what is below its precision
    # is noise, and a few hundred noisy directions would count
    squared = torch.linalg.eigvalsh(points.T @ points).flip(0)
    kept = squared > squared[0] * max(points.shape) * torch.finfo(torch.float64).eps
    return torch.where(kept, squared, 0.0).sqrt()


def effective_rank(x: Any) -> float:
    """exp of the entropy of the normalised singular values of the centred features.

    From 1 (one direction) to min(p, n - 1) (all directions equally strong); invariant to rotation,
    translation and isotropic scale. (Roy and Vetterli, EUSIPCO 2007.)

    Args:
        x: (n, p) features.

    Raises:
        ConfigError: as `singular_values`.

    >>> cross, line = [[1, 0], [-1, 0], [0, 1], [0, -1]], [[0, 0], [1, 2], [2, 4], [3, 6]]
    >>> round(kdlab.probes.metrics.effective_rank(cross), 4)  # two directions, equally strong
    2.0
    >>> round(kdlab.probes.metrics.effective_rank(line), 4)
    1.0
    """
    values = singular_values(x)
    share = values / values.sum()
    return float(torch.special.entr(share).sum().exp())


def participation_ratio(x: Any) -> float:
    """(sum l)^2 / sum l^2 of the eigenvalues l of the features' covariance.

    From 1 to min(p, n - 1), as `effective_rank`, but small eigenvalues count for less; the same
    invariances. (Gao et al., bioRxiv 214262, 2017.)

    Args:
        x: (n, p) features.

    Raises:
        ConfigError: as `singular_values`.

    >>> cross = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    >>> round(kdlab.probes.metrics.participation_ratio(cross), 4)
    2.0
    >>> round(kdlab.probes.metrics.participation_ratio(cross * np.array([1, 3])), 4)  # (1 + 9)^2 / (1 + 81)
    1.2195
    """
    variances = singular_values(x).square()
    return float(variances.sum().square() / variances.square().sum())

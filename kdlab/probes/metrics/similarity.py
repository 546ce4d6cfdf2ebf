"""How alike two representations of the same samples are: CKA, Procrustes, CCA; one pair at a time.

`x` is (n, p) and `y` is (n, q); arrays or tensors of any float type; computed in float64. All
pairs of many layers at once: `kdlab.probes.metrics.pairs`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.probes.metrics.checks import MIN_SAMPLES, as_pair, centred


def linear_cka(x: Any, y: Any) -> float:
    """Linear centred kernel alignment, in [0, 1]; 1 for equal up to rotation and isotropic scale.

    ||Yc'Xc||_F^2 / (||Xc'Xc||_F ||Yc'Yc||_F) (Kornblith et al., ICML 2019). Biased upward where
    n is not much larger than p and q: compare with `debiased_cka`.

    Args:
        x, y: (n, p) and (n, q) features of the same samples in the same order.

    Raises:
        ConfigError: fewer than 4 samples, different n, not finite, or a constant side.

    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> turned = x @ [[0, 1, 0], [1, 0, 0], [0, 0, -1]]
    >>> round(kdlab.probes.metrics.linear_cka(x, 5 * turned + 2), 4)
    1.0
    >>> kdlab.probes.metrics.linear_cka(x, x * [1, 5, 25]) < 0.9  # no rotation: one feature drowns the others
    True
    """
    left, right = _centred_pair(x, y)
    cross = (right.T @ left).square().sum()
    return float(cross / (torch.linalg.norm(left.T @ left) * torch.linalg.norm(right.T @ right)))


def debiased_cka(x: Any, y: Any) -> float:
    """CKA from the unbiased HSIC estimator; about 0 for unrelated sides, may be slightly negative.

    HSIC1 of Song et al. (JMLR 2012), used for CKA by Nguyen et al. (ICLR 2021).

    Args:
        x, y: (n, p) and (n, q) features of the same samples in the same order.

    Raises:
        ConfigError: as `linear_cka`.

    >>> x, other = (np.random.default_rng(seed).normal(size=(100, 50)) for seed in (0, 1))
    >>> round(kdlab.probes.metrics.debiased_cka(x, -3 * x + 1), 4)
    1.0
    >>> abs(kdlab.probes.metrics.debiased_cka(x, other)) < 0.1  # unrelated
    True
    >>> kdlab.probes.metrics.linear_cka(x, other) > 0.3  # biased by so many features
    True
    """
    return minibatch_cka(x, y, batch_size=None)


def minibatch_cka(x: Any, y: Any, batch_size: int | None = 64) -> float:
    """Debiased CKA from consecutive batches: HSIC1 summed over batches first, then the ratio.

    Args:
        batch_size: samples per batch, at least 4; None for all at once, which is `debiased_cka`.
            A rest of fewer than 4 samples is left out.

    Raises:
        ConfigError: as `linear_cka`, or a batch size below 4.

    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> y = x * [1, 5, 25]
    >>> whole = kdlab.probes.metrics.minibatch_cka(x, y, batch_size=None)
    >>> whole == kdlab.probes.metrics.debiased_cka(x, y)
    True
    >>> abs(kdlab.probes.metrics.minibatch_cka(x, y, batch_size=25) - whole) < 0.05
    True
    """
    left, right = _centred_pair(x, y)
    n = left.shape[0]
    size = n if batch_size is None else int(batch_size)
    if size < MIN_SAMPLES:
        raise ConfigError(f"batch_size is {batch_size}; CKA needs at least {MIN_SAMPLES} samples a batch.")
    cross = own_left = own_right = 0.0
    for start in range(0, n, size):
        a, b = left[start : start + size], right[start : start + size]
        if a.shape[0] < MIN_SAMPLES:
            break
        k, m = _without_diagonal(a @ a.T), _without_diagonal(b @ b.T)
        cross += _hsic1(k, m)
        own_left += _hsic1(k, k)
        own_right += _hsic1(m, m)
    if own_left <= 0 or own_right <= 0:
        raise ConfigError("Too few samples: the self-similarity of a side is not positive; use more samples.")
    return cross / math.sqrt(own_left * own_right)


def rbf_cka(x: Any, y: Any, sigma_scale: float = 1.0) -> float:
    """CKA with Gaussian kernels (biased form), in [0, 1].

    The bandwidth of each side is s^2 = sigma_scale^2 * the median of its n(n-1)/2 squared
    distances (pairs of different samples; mean of the two middle ones for an even count).

    Args:
        x, y: (n, p) and (n, q) features of the same samples in the same order.
        sigma_scale: width of the kernels, above 0.

    Raises:
        ConfigError: as `linear_cka`, a sigma_scale that is not positive, or a median distance of 0.

    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> round(kdlab.probes.metrics.rbf_cka(x, -4 * x + 1), 4)
    1.0
    """
    left, right = _centred_pair(x, y)
    k, m = (
        double_centred(gaussian_kernel(side, sigma_scale, name)) for side, name in ((left, "x"), (right, "y"))
    )
    return float((k * m).sum() / (torch.linalg.norm(k) * torch.linalg.norm(m)))


def procrustes_distance(x: Any, y: Any, angular: bool = False) -> float:
    """Orthogonal Procrustes distance 2 (1 - nuc), in [0, 2]; 0 for equal up to rotation and scale.

    nuc is the sum of the singular values of Xc'Yc, each side scaled to Frobenius norm 1; p and q
    may differ. (Ding et al., NeurIPS 2021.)

    Args:
        angular: give arccos(nuc) instead, in [0, pi/2], which is a metric.

    Raises:
        ConfigError: as `linear_cka`.

    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> kdlab.probes.metrics.procrustes_distance(x, -4 * x) < 1e-6
    True
    >>> 0.1 < kdlab.probes.metrics.procrustes_distance(x, x * [1, 5, 25]) < 2
    True
    """
    left, right = _centred_pair(x, y)
    left, right = left / torch.linalg.norm(left), right / torch.linalg.norm(right)
    nuclear = min(float(torch.linalg.svdvals(left.T @ right).sum()), 1.0)
    return math.acos(nuclear) if angular else 2.0 * (1.0 - nuclear)


def mean_cca(x: Any, y: Any) -> float:
    """Mean canonical correlation, in [0, 1]; invariant to every invertible linear map.

    The mean runs over min(rank of Xc, rank of Yc) correlations, min(p, q) for full rank. It needs
    far more samples than features.

    Args:
        x, y: (n, p) and (n, q) features of the same samples in the same order.

    Raises:
        ConfigError: as `linear_cka`, or n <= max(p, q) + 1, where all correlations are 1 by construction.

    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> round(kdlab.probes.metrics.mean_cca(x, x * [1, 5, 25]), 4)  # any invertible linear map
    1.0
    """
    left, right = _centred_pair(x, y)
    check_cca(left.shape[0], max(left.shape[1], right.shape[1]))
    correlations = torch.linalg.svdvals(basis(left).T @ basis(right))
    return float(correlations.clamp(max=1.0).mean())


def svcca(x: Any, y: Any, keep: float = 0.99) -> float:
    """Mean canonical correlation of the directions that hold most of the variance, in [0, 1].

    Each side is first reduced to its leading singular directions, so that directions of noise do not
    count (Raghu et al., NeurIPS 2017). The directions are those of the features as they are, not centred,
    and those are kept whose running share of the sum of squares stays below `keep`, as the reference
    value of the tests needs; so this one depends on where the origin lies.

    Args:
        keep: share of the sum of squares, above 0 and at most 1.

    Raises:
        ConfigError: as `mean_cca` for the directions that are left, or a `keep` out of range.

    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> round(kdlab.probes.metrics.svcca(x, 5 * x), 4)
    1.0
    """
    left, right = as_pair(x, y)
    centred(left, "x"), centred(right, "y")
    own, other = leading(left, keep), leading(right, keep)
    check_cca(left.shape[0], max(own.shape[1], other.shape[1]))
    return float(torch.linalg.svdvals(own.T @ other).clamp(max=1.0).mean())


def pwcca(x: Any, y: Any) -> float:
    """Canonical correlations weighted by how much of `x` lies in each direction, in [0, 1].

    After Morcos et al. (NeurIPS 2018), in the form that gives the reference value of the tests: the
    coefficients that give the canonical variates of x are made orthonormal in their order, and the
    weight of a direction is the sum of |<x_i, a>| over the samples, not centred. Not symmetric: the
    weights are those of x.

    Args:
        x, y: (n, p) and (n, q) features of the same samples in the same order.

    Raises:
        ConfigError: as `mean_cca`.

    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> round(kdlab.probes.metrics.pwcca(x, x * [1, 5, 25]), 4)  # any invertible linear map
    1.0
    """
    table, _ = as_pair(x, y)
    left, right = _centred_pair(x, y)
    check_cca(left.shape[0], max(left.shape[1], right.shape[1]))
    own = basis(left)
    return projection_weighted(own.T @ basis(right), table, coefficients(left, own))


def coefficients(x: Tensor, own: Tensor) -> Tensor:
    """(p, r) with x @ coefficients = `own`, the basis (n, r) of the columns of x."""
    return torch.linalg.pinv(x) @ own


def projection_weighted(cross: Tensor, table: Tensor, unmix: Tensor) -> float:
    """`pwcca` from the product `cross` of both bases, x as it is, and the `coefficients` of x."""
    directions, correlations, _ = torch.linalg.svd(cross, full_matrices=False)
    axes, _ = torch.linalg.qr(unmix @ directions)
    weights = (table @ axes).abs().sum(dim=0)
    return float((weights * correlations.clamp(max=1.0)).sum() / weights.sum())


def check_cca(n: int, widest: int) -> None:
    """Refuse CCA where its correlations are 1 by construction.

    Raises:
        ConfigError: n <= widest + 1.
    """
    if n <= widest + 1:
        raise ConfigError(
            f"CCA says nothing for {n} samples of {widest} features, as any two sides then agree; use far "
            "more samples than features, reduce the features by PCA, or take debiased_cka."
        )


def _centred_pair(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    left, right = as_pair(x, y)
    return centred(left, "x"), centred(right, "y")


def _without_diagonal(kernel: Tensor) -> Tensor:
    return kernel - torch.diag(kernel.diagonal())


def _hsic1(k: Tensor, m: Tensor) -> float:
    """Unbiased HSIC of two kernels whose diagonals are zero."""
    n = k.shape[0]
    trace = (k * m).sum()  # tr(KL) of symmetric kernels
    total = k.sum() * m.sum() / ((n - 1) * (n - 2))
    rows = 2.0 / (n - 2) * (k.sum(dim=0) @ m.sum(dim=0))
    return float((trace + total - rows) / (n * (n - 3)))


def gaussian_kernel(x: Tensor, sigma_scale: float, name: str) -> Tensor:
    """exp(-d^2 / (2 s^2)) of all pairs of rows; s as in `rbf_cka`."""
    if not (sigma_scale > 0 and math.isfinite(sigma_scale)):
        raise ConfigError(f"sigma_scale must be a positive number, not {sigma_scale!r}.")
    squared = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    n = x.shape[0]
    above = squared[torch.triu_indices(n, n, offset=1).unbind()].sort().values
    middle = above.numel() // 2
    median = above[middle] if above.numel() % 2 else (above[middle - 1] + above[middle]) / 2
    if median <= 0:
        raise ConfigError(
            f"Half of all pairs in {name} are equal, so an RBF kernel has no width; use linear_cka."
        )
    return torch.exp(-squared / (2.0 * sigma_scale**2 * median))


def double_centred(kernel: Tensor) -> Tensor:
    """HKH: without its row, column and overall means."""
    return kernel - kernel.mean(dim=0) - kernel.mean(dim=1, keepdim=True) + kernel.mean()


def basis(x: Tensor) -> Tensor:
    """An orthonormal basis of the column space. Plain QR would invent directions for dead features."""
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    return u[:, s > s[0] * max(x.shape) * torch.finfo(x.dtype).eps]


def leading(x: Tensor, keep: float) -> Tensor:
    """An orthonormal basis of `x` reduced to its leading singular directions and centred; see `svcca`.

    Raises:
        ConfigError: a `keep` that is not above 0 and at most 1.
    """
    if not 0.0 < keep <= 1.0:
        raise ConfigError(f"keep must be a share above 0 and at most 1, not {keep!r}.")
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    held = s.square().cumsum(dim=0) / s.square().sum()
    reduced = (u * s)[:, : max(int((held < keep).sum()), 1)]
    return basis(reduced - reduced.mean(dim=0))

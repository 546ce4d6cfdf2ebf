"""Linear classifiers in closed form, for sweeps and live views: ridge regression on the labels.

Regression on one-hot labels alone masks classes that lie between others; scaled as a discriminant
(the same directions, Hastie, Buja and Tibshirani, Annals of Statistics 1995) it does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.probes.softmax import L2_GRID, SINGLE_WORK


def fit_ridge(
    x: Tensor, target: Tensor, classes: int | None = None, l2: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Ridge regression of the one-hot labels; the penalty by generalised cross-validation.

    GCV (Golub, Heath and Wahba, Technometrics 1979) is the leave-one-out error with every sample's
    leverage set to the mean one. It needs the spectrum of the covariance and the class sums alone, so
    that all penalties together cost as much as one.

    Args:
        x: (B, n, p) features; covariances of large tables are summed in float32, all else in float64.
        target: (n,) labels, shared by all tables.
        classes: K; the largest label + 1 if not given.
        l2: positive penalty for all tables; chosen from 1e-3 .. 1e3 if not given.

    Returns:
        weight (B, p, K), bias (B, K) and the penalty l2 (B,) of each table.

    Raises:
        ConfigError: values that are not finite, or a penalty that is not positive.

    >>> x, target = torch.tensor([[[-1.0], [-1.0], [1.0], [1.0]]]), torch.tensor([0, 0, 1, 1])
    >>> weight, bias, l2 = kdlab.probes.fit_ridge(x, target, l2=4.0)
    >>> weight[0]  # without a penalty -1/2 and 1/2
    tensor([[-0.2500,  0.2500]], dtype=torch.float64)
    """
    spectrum = _spectrum(x, target, classes, l2)
    gain = 1.0 / (spectrum.energy + spectrum.l2[:, None])
    weight = spectrum.axes @ (gain[:, :, None] * spectrum.inner)
    return weight, spectrum.prior - (spectrum.mean @ weight)[:, 0], spectrum.l2


def fit_discriminant(
    x: Tensor, target: Tensor, classes: int | None = None, l2: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Penalised linear discriminant: Gaussian classes of one covariance, (S_w + l2) / n.

    Its directions are those of `fit_ridge` at the same penalty, which is chosen there by generalised
    cross-validation; their lengths are such that logits of classes compare (Hastie, Buja and
    Tibshirani, Annals of Statistics 1995).

    Args, Returns, Raises: as `fit_ridge`; a class without samples has the bias -inf.

    >>> x, target = torch.tensor([[[-2.0], [-1.0], [1.0], [2.0]]]).double(), torch.tensor([0, 0, 1, 1])
    >>> weight, bias, l2 = kdlab.probes.fit_discriminant(x, target)
    >>> (x @ weight + bias[:, None]).argmax(2)
    tensor([[0, 0, 1, 1]])
    """
    spectrum = _spectrum(x, target, classes, l2)
    counts = spectrum.prior * x.shape[1]
    means = spectrum.inner / counts.clamp(min=1.0)  # (B, r, K), of the centred points, along the axes
    within = torch.diag_embed(spectrum.energy + spectrum.l2[:, None]) - (means * counts) @ means.mT
    turned = x.shape[1] * torch.linalg.solve(within, means)
    weight = spectrum.axes @ turned
    bias = spectrum.prior.log() - 0.5 * (means * turned).sum(dim=1)
    return weight, bias - (spectrum.mean @ weight)[:, 0], spectrum.l2


@dataclass
class _Spectrum:
    """What both need of B tables: mean (B, 1, p), principal axes (B, p, r) and their squared lengths
    (B, r), sums of each class along them (B, r, K), shares of the classes (K,), penalties (B,)."""

    mean: Tensor
    axes: Tensor
    energy: Tensor
    inner: Tensor
    prior: Tensor
    l2: Tensor


def _spectrum(x: Tensor, target: Tensor, classes: int | None, l2: float | None) -> _Spectrum:
    if not torch.isfinite(x).all():
        raise ConfigError("The features have NaN or infinite values; leave these samples or networks out.")
    if l2 is not None and not 0 < l2 < float("inf"):
        raise ConfigError(f"l2 must be positive and finite, not {l2}.")
    count, n, width = x.shape
    target = target.long()
    classes = int(target.max()) + 1 if classes is None else classes
    x = x.float() if x.numel() * classes >= SINGLE_WORK else x.double()
    prior = torch.bincount(target, minlength=classes).double() / n
    mean = x.mean(dim=1, keepdim=True)
    centred = x - mean
    if width <= n:
        energy, axes = torch.linalg.eigh((centred.mT @ centred).double())
    else:  # the same axes from the smaller matrix of inner products
        energy, points = torch.linalg.eigh((centred @ centred.mT).double())
        lengths = energy.clamp(min=1e-12 * float(energy.amax()) + 1e-300).sqrt()
        axes = centred.mT.double() @ (points / lengths[:, None])
    energy = energy.clamp(min=0.0)
    sums = centred.new_zeros(count, classes, width).index_add_(1, target, centred)
    inner = axes.mT @ sums.mT.double()
    strength = inner.square().sum(dim=2)

    best_error = torch.full((count,), torch.inf, dtype=torch.float64)
    best_l2 = torch.zeros(count, dtype=torch.float64)
    for penalty in L2_GRID if l2 is None else (l2,):
        gain = 1.0 / (energy + penalty)
        residual = n * (1.0 - prior.square().sum()) - (strength * gain * (2.0 - energy * gain)).sum(dim=1)
        freedom = 1.0 + (energy * gain).sum(dim=1)  # 1: the mean is fitted too
        error = residual.clamp(min=0.0) / (n - freedom).clamp(min=1e-9).square()
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_l2 = torch.where(better, penalty, best_l2)
    return _Spectrum(mean.double(), axes, energy, inner, prior, best_l2)

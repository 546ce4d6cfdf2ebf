"""How a representation arranges the classes: neighbours, separation, neural collapse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.probes.metrics.checks import as_matrix, as_target


def knn_purity(x: Any, target: Any, k: int = 10) -> float:
    """Mean share of a sample's k nearest other samples that have its label, in [0, 1].

    Euclidean distances; ties go to the lower index. Chance is about the class frequency.

    Args:
        x: (n, p) features, or coordinates of a map.
        target: (n,) labels.
        k: from 1 to n - 1.

    Raises:
        ConfigError: bad features or labels, a single class, or k out of range.
    """
    points = as_matrix(x, "x")
    n = points.shape[0]
    labels = as_target(target, n)
    if not 1 <= k < n:
        raise ConfigError(f"k is {k}; with {n} samples it must lie between 1 and {n - 1}.")
    neighbours = nearest(points, k)
    return float((labels[neighbours] == labels[:, None]).double().mean())


def nearest(points: Tensor, k: int, chunk: int = 512) -> Tensor:
    """(n, k) int64: each row's k nearest other rows, nearest first, ties by index."""
    n = points.shape[0]
    found = []
    for start in range(0, n, chunk):
        part = points[start : start + chunk]
        distances = torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist")
        distances[torch.arange(len(part)), torch.arange(start, start + len(part))] = torch.inf
        found.append(distances.argsort(dim=1, stable=True)[:, :k])
    return torch.cat(found)


def class_separation(x: Any, target: Any) -> float:
    """R^2 = 1 - d_within / d_total with cosine distances, in (-inf, 1]; 1 for collapsed classes.

    d_within: mean over classes of the mean distance inside the class; d_total: mean over all
    ordered class pairs of the mean distance (Kornblith et al., NeurIPS 2021). Not invariant to
    translation.

    Raises:
        ConfigError: bad features or labels, a single class, or an all-zero sample (no direction).
    """
    points = as_matrix(x, "x")
    labels = as_target(target, points.shape[0])
    norms = torch.linalg.norm(points, dim=1, keepdim=True)
    if (norms == 0).any():
        raise ConfigError(
            f"{int((norms == 0).sum())} sample(s) are all zero and have no direction; leave them out."
        )
    means = _class_means(points / norms, labels)
    within = (1.0 - means.square().sum(dim=1)).mean()
    total = 1.0 - means.mean(dim=0).square().sum()
    if total <= 0:
        raise ConfigError("All samples point in the same direction; there is nothing to separate.")
    return float(1.0 - within / total)


def neural_collapse(
    features: Any, target: Any, weight: Any, bias: Any, means: Any = None
) -> dict[str, float]:
    """NC1 to NC4 of Papyan, Han and Donoho (PNAS 2020), each 0 at collapse.

    Args:
        features: (n, p), the classifier's true input.
        target: (n,) labels 0 .. K - 1; every class must have a sample.
        weight: (K, p) of the classifier; row c belongs to class c.
        bias: (K,) of the classifier.
        means: (K, p) class means of the training split for nc4; those of `features` if not given.

    Returns:
        nc1 tr(Sigma_W Sigma_B^+)/K; nc1_quotient tr Sigma_W / tr Sigma_B; nc2_equinorm std/mean of
        the class means' norms; nc2_equiangular std of their cosines; nc2_max_angle mean
        |cos + 1/(K-1)|; nc2_etf, nc3_duality Frobenius distances of the normalised MM' and WM' to
        the simplex; nc3 distance of normalised W and M; nc4 share of samples where the classifier
        and the nearest class mean disagree.

    Raises:
        ConfigError: bad shapes or values, a class without samples, or equal class means.
    """
    points, rows = as_matrix(features, "features"), torch.as_tensor(weight).detach().to("cpu", torch.float64)
    offset = torch.as_tensor(bias).detach().to("cpu", torch.float64).reshape(-1)
    if rows.ndim != 2 or rows.shape[1] != points.shape[1]:
        raise ConfigError(
            f"weight has shape {tuple(rows.shape)}, but features have {points.shape[1]} columns; it must be "
            "(classes, features), and the features the classifier's own input."
        )
    classes = rows.shape[0]
    if offset.shape[0] != classes:
        raise ConfigError(f"bias has {offset.shape[0]} entries for {classes} classes.")
    if not (torch.isfinite(rows).all() and torch.isfinite(offset).all()):
        raise ConfigError("The classifier's weight or bias has NaN or infinite values.")
    labels = as_target(target, points.shape[0], classes)
    missing = sorted(set(range(classes)) - set(labels.tolist()))
    if missing:
        raise ConfigError(
            f"Class {missing[0]} has no sample ({len(missing)} of {classes} classes are empty)."
        )

    class_means = _class_means(points, labels)
    m = class_means - class_means.mean(dim=0)
    norms = torch.linalg.norm(m, dim=1)
    if (norms <= 1e-12 * max(1.0, float(points.abs().max()))).any():
        raise ConfigError(
            "A class mean equals the mean of all classes; neural collapse is not defined there."
        )
    deviation = points - class_means[labels]
    within = deviation.T @ deviation / points.shape[0]
    between = m.T @ m / classes

    values, vectors = torch.linalg.eigh(between)
    values, vectors = values.flip(0)[: classes - 1], vectors.flip(1)[:, : classes - 1]
    kept = values > values[0] * points.shape[1] * torch.finfo(torch.float64).eps
    inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T

    unit = m / norms[:, None]
    off_diagonal = (unit @ unit.T)[~torch.eye(classes, dtype=torch.bool)]
    simplex = torch.eye(classes, dtype=torch.float64) - 1.0 / classes
    simplex = simplex / torch.linalg.norm(simplex)  # = (I - 11'/K) / sqrt(K - 1)
    centres = class_means if means is None else torch.as_tensor(means).detach().to("cpu", torch.float64)
    if centres.shape != class_means.shape:
        raise ConfigError(f"means has shape {tuple(centres.shape)}, expected {tuple(class_means.shape)}.")
    nearest_mean = torch.cdist(points, centres).argmin(dim=1)
    predicted = (points @ rows.T + offset).argmax(dim=1)
    duality = rows @ m.T
    return {
        "nc1": float(torch.trace(within @ inverse) / classes),
        "nc1_quotient": float(torch.trace(within) / torch.trace(between)),
        "nc2_equinorm": float(norms.std(correction=0) / norms.mean()),
        "nc2_equiangular": float(off_diagonal.std(correction=0)),
        "nc2_max_angle": float((off_diagonal + 1.0 / (classes - 1)).abs().mean()),
        "nc2_etf": float(torch.linalg.norm(m @ m.T / torch.linalg.norm(m @ m.T) - simplex)),
        "nc3": float(torch.linalg.norm(rows / torch.linalg.norm(rows) - m / torch.linalg.norm(m))),
        "nc3_duality": float(torch.linalg.norm(duality / torch.linalg.norm(duality) - simplex)),
        "nc4": float((predicted != nearest_mean).double().mean()),
    }


def _class_means(points: Tensor, labels: Tensor) -> Tensor:
    """(classes present, p), in the order of the class numbers."""
    present, position = labels.unique(return_inverse=True)
    sums = points.new_zeros(len(present), points.shape[1]).index_add_(0, position, points)
    return sums / torch.bincount(position)[:, None]

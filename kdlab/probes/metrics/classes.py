"""How a representation arranges the classes: neighbours, separation, neural collapse."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.probes.metrics.checks import as_matrix, as_pair, as_target


def knn_purity(x: Any, target: Any, k: int = 10) -> float:
    """Mean share of a sample's k nearest other samples that have its label, in [0, 1].

    Euclidean distances; ties go to the lower index. Chance is about the class frequency.

    Args:
        x: (n, p) features, or coordinates of a map.
        target: (n,) labels.
        k: from 1 to n - 1.

    Raises:
        ConfigError: fewer than 4 samples, bad features or labels, a single class, or k out of range.

    >>> kdlab.probes.metrics.knn_purity([[0.0], [1.0], [10.0], [11.0]], [0, 0, 1, 1], k=1)
    1.0
    >>> kdlab.probes.metrics.knn_purity([[0.0], [1.0], [10.0], [11.0]], [0, 1, 0, 1], k=1)
    0.0
    """
    points = as_matrix(x, "x")
    n = points.shape[0]
    labels = as_target(target, n)
    if not 1 <= k < n:
        raise ConfigError(f"k is {k}; with {n} samples it must lie between 1 and {n - 1}.")
    neighbours = nearest(points, k)
    return float((labels[neighbours] == labels[:, None]).double().mean())


def neighbour_overlap(x: Any, y: Any, k: int = 10) -> float:
    """Mean Jaccard index of each sample's k nearest other samples in x and in y, in [0, 1].

    Euclidean distances; ties go to the lower index. 1: the same neighbours everywhere; unrelated
    sides give about k / (2 (n - 1) - k). Invariant to rotation, translation and isotropic scale of
    either side.

    Args:
        x, y: (n, p) and (n, q) features of the same samples in the same order.
        k: from 1 to n - 1 (where every sample is a neighbour, and the overlap 1).

    Raises:
        ConfigError: fewer than 4 samples, bad features, different n, or k out of range.

    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> kdlab.probes.metrics.neighbour_overlap(x, 2 * x + 1)
    1.0
    >>> kdlab.probes.metrics.neighbour_overlap(x, np.random.default_rng(1).normal(size=(100, 3))) < 0.1
    True
    """
    left, right = as_pair(x, y)
    n = left.shape[0]
    if not 1 <= k < n:
        raise ConfigError(f"k is {k}; with {n} samples it must lie between 1 and {n - 1}.")
    member = torch.zeros(2, n, n, dtype=torch.bool)
    for side, points in enumerate((left, right)):
        member[side].scatter_(1, nearest(points, k), True)
    shared = (member[0] & member[1]).sum(dim=1).double()
    return float((shared / (2 * k - shared)).mean())


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

    Args:
        x: (n, p) features.
        target: (n,) labels.

    Raises:
        ConfigError: fewer than 4 samples, bad features or labels, a single class, or an all-zero sample
            (no direction).

    >>> x = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    >>> round(kdlab.probes.metrics.class_separation(x, [0, 0, 1, 1]), 4)  # each class is one point
    1.0
    >>> round(kdlab.probes.metrics.class_separation(x, [0, 1, 0, 1]), 4)  # both classes are everywhere
    0.0
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


def silhouette(x: Any, target: Any) -> float:
    """Mean over samples of (b - a) / max(a, b), in [-1, 1]; about 0 for classes that overlap.

    a: mean Euclidean distance to the other samples of its class; b: the smallest mean distance to the
    samples of another class; 0 for a class of one sample (Rousseeuw, 1987; scikit-learn).

    Args:
        x: (n, p) features. Distances in a t-SNE picture carry no such meaning.
        target: (n,) labels.

    Raises:
        ConfigError: fewer than 4 samples, bad features or labels, a single class, or no class with two
            samples.

    >>> x = [[0.0], [1.0], [10.0], [11.0]]
    >>> round(kdlab.probes.metrics.silhouette(x, [0, 0, 1, 1]), 4)  # (9.5 / 10.5 + 8.5 / 9.5) / 2
    0.8997
    """
    points = as_matrix(x, "x")
    labels = as_target(target, points.shape[0])
    _some_class_has_two(labels)
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(points.numpy(), labels.numpy()))


def fisher_ratio(x: Any, target: Any, shrinkage: float | None = None) -> float:
    """Fisher's ratio tr(S_W^-1 S_B): spread of the class means in units of the spread inside classes.

    S_W = (1/n) sum (x - mu_y)(x - mu_y)', S_B = (1/K) sum (mu_c - mu_G)(mu_c - mu_G)', K classes. In
    [0, inf); without shrinkage invariant to every invertible affine map of x. S_W is shrunk to
    (1 - s) S_W + s (tr S_W / p) I, without which it has no inverse for p > n - K, and the ratio
    grows without bound as p comes near n.

    Args:
        x: (n, p) features; those that are the same for all samples are left out of p.
        target: (n,) labels.
        shrinkage: s in [0, 1]; None is the choice of Ledoit and Wolf (2004), see `fisher_shrinkage`.

    Raises:
        ConfigError: fewer than 4 samples, bad features or labels, a single class, no class with two samples,
            classes without any spread, or too little shrinkage for so few samples.

    >>> x = [[-3.0], [-1.0], [1.0], [3.0]]  # means -2 and 2, variance 1 inside each class
    >>> round(kdlab.probes.metrics.fisher_ratio(x, [0, 0, 1, 1], shrinkage=0), 4)
    4.0
    """
    points, labels, deviation = _within(x, target)
    n, p = deviation.shape
    s = _ledoit_wolf(deviation) if shrinkage is None else float(shrinkage)
    if not 0 <= s <= 1:
        raise ConfigError(f"shrinkage must lie in 0 .. 1, not {shrinkage!r}.")
    means = _class_means(points, labels)
    m = means - means.mean(dim=0)
    within = deviation.T @ deviation / n
    scale = float(torch.trace(within)) / p
    shrunk = (1 - s) * within + s * scale * torch.eye(p, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(shrunk)
    if values[0] <= values[-1] * p * torch.finfo(torch.float64).eps:
        raise ConfigError(
            f"{n} samples in {len(means)} classes do not span {p} features, so the scatter inside classes "
            "has no inverse; use more samples, or shrinkage=None."
        )
    return float(((m @ vectors).square() / values).sum() / len(means))


def fisher_shrinkage(x: Any, target: Any) -> float:
    """Ledoit and Wolf's share s of the scaled identity in the scatter inside classes, in [0, 1].

    The s of least expected squared error, estimated from the deviations from the class means (Ledoit
    and Wolf, J. Multivariate Analysis 2004); it goes to 0 as samples are added.

    Args:
        x: (n, p) features.
        target: (n,) labels.

    Raises:
        ConfigError: as `fisher_ratio`.

    >>> x, target = np.random.default_rng(0).normal(size=(1000, 5)) * [1, 2, 3, 4, 5], np.arange(1000) % 2
    >>> few, many = (kdlab.probes.metrics.fisher_shrinkage(x[:n], target[:n]) for n in (20, 1000))
    >>> 0 <= many < few <= 1
    True
    """
    return _ledoit_wolf(_within(x, target)[2])


def _within(x: Any, target: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Features that vary, labels, and deviations from the class means."""
    points = as_matrix(x, "x")
    labels = as_target(target, points.shape[0])
    _some_class_has_two(labels)
    varies = (points != points[0]).any(dim=0)
    points = points[:, varies]
    _, position = labels.unique(return_inverse=True)
    deviation = points - _class_means(points, labels)[position]
    size = max(1.0, float(points.abs().max())) if points.numel() else 1.0
    if not points.numel() or deviation.abs().max() <= 1e-12 * size:
        raise ConfigError("The samples of each class are all the same; Fisher's ratio has no bound there.")
    return points, labels, deviation


def _ledoit_wolf(deviation: Tensor) -> float:
    n, p = deviation.shape
    scatter = deviation.T @ deviation / n
    square = float(scatter.square().sum())
    distance = square - float(torch.trace(scatter)) ** 2 / p
    noise = (float(deviation.square().sum(dim=1).square().sum()) / n - square) / n
    return 1.0 if distance <= 0 else min(max(noise / distance, 0.0), 1.0)


def _some_class_has_two(labels: Tensor) -> None:
    classes, counts = labels.unique(return_counts=True)
    if counts.max() < 2:
        raise ConfigError(
            f"There are {len(labels)} samples of {len(classes)} classes, one of each; at least one class "
            "needs two."
        )


def etf_floor(classes: int, width: int) -> float:
    """The least nc2_etf (and nc3_duality) that K classes can reach in p features; 0 for K <= p + 1.

    A simplex of K > p + 1 equidistant directions does not fit into p dimensions. MM' then has rank p
    at most, and no such matrix is nearer to the simplex than sqrt(2 - 2 sqrt(p / (K - 1))), the
    distance of the best approximation of rank p.

    >>> kdlab.probes.metrics.etf_floor(classes=10, width=64)
    0.0
    >>> round(kdlab.probes.metrics.etf_floor(classes=10, width=4), 4)  # sqrt(2 - 2 sqrt(4 / 9))
    0.8165
    """
    share = min(width / max(classes - 1, 1), 1.0)
    return math.sqrt(max(2.0 - 2.0 * math.sqrt(share), 0.0))


def neural_collapse(
    features: Any, target: Any, weight: Any = None, bias: Any = None, means: Any = None
) -> dict[str, float]:
    """NC1 to NC4 of Papyan, Han and Donoho (PNAS 2020), each 0 at collapse.

    Args:
        features: (n, p); for nc3 and nc4 the classifier's true input.
        target: (n,) labels 0 .. K - 1; every class must have a sample.
        weight: (K, p) of the classifier; row c belongs to class c. Without it only nc1 and nc2, of the
            classes present.
        bias: (K,) of the classifier; zero if not given.
        means: (K, p) class means of the training split for nc4; those of `features` if not given.

    Returns:
        nc1 tr(Sigma_W Sigma_B^+)/K; nc1_quotient tr Sigma_W / tr Sigma_B; nc2_equinorm std/mean of
        the class means' norms; nc2_equiangular std of their cosines; nc2_max_angle mean
        |cos + 1/(K-1)|; nc2_etf, nc3_duality Frobenius distances of the normalised MM' and WM' to
        the simplex; nc3 distance of normalised W and M; nc4 share of samples where the classifier
        and the nearest class mean disagree.

    Raises:
        ConfigError: bad shapes or values, a class without samples, or equal class means.

    >>> corners = np.array([[1, 0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])  # 120 degrees apart
    >>> target = np.arange(12) % 3
    >>> found = kdlab.probes.metrics.neural_collapse(corners[target], target, weight=corners)
    >>> all(abs(value) < 1e-6 for value in found.values())  # fully collapsed
    True
    """
    points = as_matrix(features, "features")
    linear = None if weight is None else _linear(weight, bias, points.shape[1])
    labels = as_target(target, points.shape[0], None if linear is None else len(linear[0]))
    if linear is None:
        labels = labels.unique(return_inverse=True)[1]
    else:
        missing = sorted(set(range(len(linear[0]))) - set(labels.tolist()))
        if missing:
            raise ConfigError(
                f"Class {missing[0]} has no sample ({len(missing)} of {len(linear[0])} classes are empty)."
            )

    class_means = _class_means(points, labels)
    classes = len(class_means)
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
    out = {
        "nc1": float(torch.trace(within @ inverse) / classes),
        "nc1_quotient": float(torch.trace(within) / torch.trace(between)),
        "nc2_equinorm": float(norms.std(correction=0) / norms.mean()),
        "nc2_equiangular": float(off_diagonal.std(correction=0)),
        "nc2_max_angle": float((off_diagonal + 1.0 / (classes - 1)).abs().mean()),
        "nc2_etf": float(torch.linalg.norm(m @ m.T / torch.linalg.norm(m @ m.T) - simplex)),
    }
    if linear is None:
        return out
    rows, offset = linear
    centres = class_means if means is None else torch.as_tensor(means).detach().to("cpu", torch.float64)
    if centres.shape != class_means.shape:
        raise ConfigError(f"means has shape {tuple(centres.shape)}, expected {tuple(class_means.shape)}.")
    nearest_mean = torch.cdist(points, centres).argmin(dim=1)
    predicted = (points @ rows.T + offset).argmax(dim=1)
    duality = rows @ m.T
    return out | {
        "nc3": float(torch.linalg.norm(rows / torch.linalg.norm(rows) - m / torch.linalg.norm(m))),
        "nc3_duality": float(torch.linalg.norm(duality / torch.linalg.norm(duality) - simplex)),
        "nc4": float((predicted != nearest_mean).double().mean()),
    }


def _linear(weight: Any, bias: Any, width: int) -> tuple[Tensor, Tensor]:
    """Weight (K, p) and bias (K,) of a classifier that reads `width` features."""
    rows = torch.as_tensor(weight).detach().to("cpu", torch.float64)
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ConfigError(
            f"weight has shape {tuple(rows.shape)}, but features have {width} columns; it must be "
            "(classes, features), and the features the classifier's own input."
        )
    offset = rows.new_zeros(len(rows)) if bias is None else torch.as_tensor(bias).detach().to("cpu")
    offset = offset.to(torch.float64).reshape(-1)
    if offset.shape[0] != len(rows):
        raise ConfigError(f"bias has {offset.shape[0]} entries for {len(rows)} classes.")
    if not (torch.isfinite(rows).all() and torch.isfinite(offset).all()):
        raise ConfigError("The classifier's weight or bias has NaN or infinite values.")
    return rows, offset


def _class_means(points: Tensor, labels: Tensor) -> Tensor:
    """(classes present, p), in the order of the class numbers."""
    present, position = labels.unique(return_inverse=True)
    sums = points.new_zeros(len(present), points.shape[1]).index_add_(0, position, points)
    return sums / torch.bincount(position)[:, None]

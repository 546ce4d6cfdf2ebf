"""Two-dimensional maps of several networks over several epochs, and how far to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kdlab.errors import ConfigError
from kdlab.probes.alignment import rigid
from kdlab.probes.metrics import knn_purity
from kdlab.probes.metrics.classes import nearest
from kdlab.probes.progress import parts, steps
from kdlab.probes.threads import svd
from kdlab.probes.tsne import exact_tsne, joint_probabilities, tsne
from kdlab.probes.words import at_epoch

_FIRST, _PULLED, _LET_GO = 150, 100, 100  # iterations; more change the divergence by less than 1 %
_TEACHER = 8.0  # times as strongly its points are pulled: what they stand for does not change
_RANKED = 1000  # pictures whose distances are ranked, which is half a million pairs


@dataclass(frozen=True)
class SteadyMaps:
    """What `steady_tsne` gives.

    Attributes:
        frames: per epoch (N, n, 2). divergence: (E,) KL divergence of each.
        free, free_divergence: the same after the pull was let go; the same objects without a pull.
    """

    frames: list[np.ndarray]
    divergence: np.ndarray
    free: list[np.ndarray]
    free_divergence: np.ndarray


def steady_tsne(
    features: Sequence[np.ndarray],
    present: Sequence[Sequence[int]],
    has_teacher: bool,
    perplexity: float,
    backend: str,
    seed: int,
    pull: float = 0.0,
    epochs: Sequence[int] | None = None,
) -> SteadyMaps:
    """A joint t-SNE per epoch that stays in place, with nearly the KL divergence of a fit from scratch.

    Every epoch starts from one map of the teacher alone: its own points stand there, a student's
    point stands between the teacher's points nearest to it in the features. Starting from the epoch
    before instead is calmer but gets stuck where much has changed (KL 1.4 where a fresh fit has 0.5).
    Without a teacher every epoch starts from the plane of the last epoch's largest variance.

    With a pull each point is drawn to its place in the frame before, a teacher's eight times as strongly,
    as its features are the same at every epoch. What that costs is measured by letting go: the frame is
    fitted on without the pull.

    Args:
        features: per epoch (N, n, q), of the networks that have a snapshot of it.
        present: per epoch which networks these are; a teacher is the first, everywhere.
        pull: strength, see `kdlab.probes.tsne.tsne`; 0 is none.
        epochs: their numbers, for who watches.

    Raises:
        ConfigError: features that are not finite, before any work.
    """
    count, width = features[0].shape[1:]
    tables = [table.reshape(-1, width) for table in features]
    numbers = range(len(tables)) if epochs is None else epochs
    for number, table in zip(numbers, tables, strict=True):
        if not np.isfinite(table).all():
            raise ConfigError(
                f"Some features at epoch {number} are NaN or infinite, so there is no map of them."
            )
    options: dict[str, Any] = {"backend": backend, "seed": seed}
    if has_teacher:
        with parts({"the teacher's map": 2, "": len(tables)})("the teacher's map"):
            home, _ = tsne(features[0][0], perplexity=perplexity, **options)
        starts = [_beside_teacher(table, count, home) for table in tables]
        first = _FIRST
    else:
        starts = [frame.reshape(-1, 2) for frame in plane(features, False)]
        starts = [start / max(float(start[:, 0].std()), 1e-300) * 1e-4 for start in starts]
        first = 500
    frames: list[np.ndarray] = []
    free: list[np.ndarray] = []
    divergence, free_divergence = np.zeros(len(tables)), np.zeros(len(tables))
    for e, _ in steps(list(enumerate(numbers)), lambda at: at_epoch(at[1])):
        table, start = tables[e], starts[e]
        fits = min(perplexity, (len(table) - 1) / 3)
        hold = _places(frames[-1], present[e - 1], present[e]) if frames and pull > 0 else None
        iterations = first if hold is None or not has_teacher else _PULLED
        if hold is None:
            flat, divergence[e] = tsne(table, start=start, iterations=iterations, perplexity=fits, **options)
            loose, free_divergence[e] = flat, divergence[e]
        else:
            now = parts({"": iterations, "without the pull": _LET_GO})
            with now(""):
                p = joint_probabilities(torch.from_numpy(table), fits)
                each = np.full(len(table), pull)
                each[: count if has_teacher else 0] *= _TEACHER
                flat, divergence[e] = exact_tsne(p, start, iterations, hold=hold, pull=each)
            with now("without the pull"):
                loose, free_divergence[e] = exact_tsne(p, flat, _LET_GO)
        for kept, new in ((frames, flat), (free, loose)):
            frame = new.reshape(-1, count, 2)
            kept.append(_onto(frame, present[e], kept[-1], present[e - 1], has_teacher) if kept else frame)
    return SteadyMaps(frames, divergence, free, free_divergence)


def _places(before: np.ndarray, then: Sequence[int], own: Sequence[int]) -> np.ndarray:
    """(N * n, 2) where the points of `own` stood in the frame before; NaN for networks not there."""
    out = np.full((len(own), *before.shape[1:]), np.nan)
    for place, number in enumerate(own):
        if number in then:
            out[place] = before[list(then).index(number)]
    return out.reshape(-1, 2)


def _onto(
    frame: np.ndarray, own: Sequence[int], before: np.ndarray, then: Sequence[int], has_teacher: bool
) -> np.ndarray:
    """`frame` (N, n, 2) turned onto the frame before by the teacher, or by the networks both show."""
    both = [own[0]] if has_teacher else [number for number in own if number in then]
    if not both:
        return frame
    here, there = (
        np.concatenate([f[list(o).index(k)] for k in both]) for f, o in ((frame, own), (before, then))
    )
    count = len(here)
    turned = rigid(np.concatenate([here, frame.reshape(-1, 2)]), there, slice(0, count))
    return turned[count:].reshape(frame.shape)


def plane(features: Sequence[np.ndarray], has_teacher: bool) -> list[np.ndarray]:
    """Per epoch (N, n, 2): the plane of largest variance of the teacher, or of the last epoch."""
    frame = features[-1][0] if has_teacher else np.concatenate(list(features[-1]))
    mean = frame.mean(axis=0)
    _, _, vh = svd(frame - mean)
    axes = vh[:2]
    sign = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    axes = axes * np.where(sign == 0, 1.0, sign)[:, None]
    if len(axes) < 2:
        axes = np.pad(axes, ((0, 2 - len(axes)), (0, 0)))
    return [(table - mean) @ axes.T for table in features]


def discriminant(features: Sequence[np.ndarray], known: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Per epoch (N, n, 2): the plane in which the class means of `known` lie farthest apart (Fisher).

    Distances are in units of the spread inside classes, whose covariance is shrunk as Ledoit and Wolf
    (2004) do.

    Args:
        known: (m, q) features that the plane is fitted on; none of those in `features`.
        labels: (m,).

    Raises:
        ConfigError: fewer than 3 classes, about as many classes as pictures, or constant features.
    """
    classes = len(np.unique(labels))
    if classes < 3:
        raise ConfigError(f"LDA finds a plane for at least 3 classes (there are {classes}); use 'pca'.")
    if len(labels) < 2 * classes:
        raise ConfigError(f"LDA needs at least {2 * classes} fitting pictures (there are {len(labels)}).")
    if not np.ptp(known, axis=0).any():
        raise ConfigError("The features are the same for every picture; LDA finds no plane.")
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    model = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto").fit(known, labels)
    axes = np.asarray(model.scalings_)[:, :2].T
    axes = np.pad(axes, ((0, 2 - len(axes)), (0, 0)))
    axes *= np.where(axes[np.arange(2), np.abs(axes).argmax(axis=1)] < 0, -1.0, 1.0)[:, None]
    return [(table - known.mean(axis=0)) @ axes.T for table in features]


def trustworthiness(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """Venna and Kaski (2001): 1 when the k nearest in the map `y` (n, 2) are the nearest in `x` (n, p).

    Points that are near in the map but rank far away in the features cost in proportion to their rank.
    """
    n = len(x)
    if 2 * n - 3 * k - 1 <= 0:
        return float("nan")
    table, found = torch.from_numpy(np.asarray(x, np.float64)), nearest(torch.from_numpy(y).double(), k)
    cost = 0
    for start in steps(range(0, n, 512)):
        part = torch.arange(start, min(start + 512, n))
        high = torch.cdist(table[part], table)
        high[torch.arange(len(part)), part] = -1.0  # the point itself is before all others
        far = high.gather(1, found[part])
        for column in far.T:
            rank = (high < column[:, None]).sum(dim=1)
            cost += int((rank - k).clamp(min=0).sum())
    return 1.0 - cost * (2.0 / (n * k * (2.0 * n - 3.0 * k - 1.0)))


def judged(
    features: np.ndarray, own: Sequence[np.ndarray], near: np.ndarray, flat: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """How far one frame of a map can be trusted.

    Args:
        features: (N, n, q) in the common space. own: (n, p) of each network as they are.
        near: (N, n, k) the nearest in those. flat: (N, n, 2) the map. labels: (n,).

    Returns:
        trustworthiness; and of each network: purity, purity_map, rank_correlation, and kept (n,); see
        `kdlab.probes.Embedding`.
    """
    k = near.shape[2]
    out: dict[str, Any] = {key: [] for key in ("purity", "purity_map", "rank_correlation", "kept")}
    for place in steps(range(len(flat)), share=0.7):
        out["purity"].append(knn_purity(features[place], labels, k))
        out["purity_map"].append(knn_purity(flat[place], labels, k))
        out["kept"].append(neighbours_kept(near[place], flat[place]))
        out["rank_correlation"].append(rank_correlation(own[place], flat[place]))
    return {**out, "trustworthiness": trustworthiness(np.concatenate(features), np.concatenate(flat), k)}


def neighbours_kept(near: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """(n,) share of each picture's k nearest in the features that are among its k nearest in the map.

    Args:
        near: (n, k) the nearest in the features. flat: (n, 2) the map.
    """
    found = nearest(torch.from_numpy(np.asarray(flat, np.float64)), near.shape[1]).numpy()
    return np.asarray((near[:, :, None] == found[:, None, :]).any(axis=2).mean(axis=1))


def rank_correlation(x: np.ndarray, flat: np.ndarray) -> float:
    """Spearman's rank correlation between the distances of all pairs in features and in the map.

    1 when far in the map means far in the features. Of more than 1000 pictures the first 1000 count.
    NaN where all distances are equal.
    """
    from scipy.stats import rankdata

    count = min(len(x), _RANKED)
    upper = np.triu_indices(count, 1)
    ranks = []
    for table in (x, flat):
        points = torch.from_numpy(np.asarray(table[:count], np.float64))
        ranks.append(rankdata(torch.cdist(points, points).numpy()[upper]))
    one, two = (rank - rank.mean() for rank in ranks)
    size = float(np.sqrt((one @ one) * (two @ two)))
    return float(one @ two) / size if size > 0 else float("nan")


def judge_map(x: Any, flat: Any, k: int = 10) -> dict[str, float]:
    """How far a map in the plane can be trusted, judged by the features that it was made of.

    The first two (Venna and Kaski, 2001) look at different faults. A map that puts strangers side by side
    loses trustworthiness; a map that tears neighbours apart loses continuity. Both forgive what is nearly
    right; the share of neighbours kept does not. None of them looks at large distances: the rank
    correlation does.

    Args:
        x: (n, p) features. flat: (n, 2) the map, or any other placement of the same points.
        k: neighbours counted, fewer than n / 2.

    Returns:
        "trustworthiness" and "continuity", 1 for none of the fault; "kept": the share of a point's k nearest
        in the features that are among its k nearest in the map, k / (n - 1) by chance; "rank_correlation":
        Spearman's, between all distances in features and map.

    Raises:
        ConfigError: tables of other shapes, values that are not finite, or too many neighbours.

    >>> import numpy as np
    >>> from kdlab import probes
    >>> ring = np.array([[np.cos(t), np.sin(t)] for t in np.linspace(0, 6.28, 60, endpoint=False)])
    >>> probes.judge_map(ring, 5 * ring)["kept"]
    1.0
    >>> torn = ring + np.where(ring[:, :1] > 0, 9.0, 0.0)  # the right half of the ring moved far away
    >>> judged = probes.judge_map(ring, torn)
    >>> judged["rank_correlation"] < judged["continuity"] < judged["trustworthiness"]
    True
    """
    given = [np.asarray(table, dtype=np.float64) for table in (x, flat)]
    if any(t.ndim != 2 for t in given) or len(given[0]) != len(given[1]):
        shapes = " and ".join(str(t.shape) for t in given)
        raise ConfigError(
            f"Features (n, p) and places (n, 2) of the same n points are compared, not {shapes}."
        )
    if not all(np.isfinite(t).all() for t in given):
        raise ConfigError("Some features or places are NaN or infinite, so a map cannot be judged.")
    if not 1 <= k < len(given[0]) / 2:
        raise ConfigError(
            f"k must be at least 1 and less than half of the {len(given[0])} points, not {k!r}."
        )
    near = nearest(torch.from_numpy(given[0]), k).numpy()
    return {
        "trustworthiness": trustworthiness(given[0], given[1], k),
        "continuity": trustworthiness(given[1], given[0], k),
        "kept": float(neighbours_kept(near, given[1]).mean()),
        "rank_correlation": rank_correlation(given[0], given[1]),
    }


def movement(coordinates: np.ndarray, frames: Sequence[np.ndarray]) -> np.ndarray:
    """(E, N) mean way of a network's points since the frame before, in radii of the map."""
    radius = np.array([np.sqrt(np.square(f - f.mean(axis=(0, 1))).sum(axis=2).mean()) for f in frames])
    moved = np.full(coordinates.shape[:2], np.nan)
    steps = np.linalg.norm(np.diff(coordinates, axis=0), axis=3).mean(axis=2)
    moved[1:] = steps / np.maximum(radius[1:, None], 1e-300)
    return moved


def distances(frame: np.ndarray) -> np.ndarray:
    """(N, n) distance of each picture to the first network's, in units of that network's spread."""
    size = np.sqrt(np.square(frame[0] - frame[0].mean(axis=0)).sum(axis=1).mean())
    gaps = np.linalg.norm(frame - frame[0], axis=2)
    return gaps / size if size > 0 else np.full(gaps.shape, np.nan)


def _beside_teacher(table: np.ndarray, count: int, home: np.ndarray, k: int = 5) -> np.ndarray:
    """Each row's place in the map `home` of the first `count` rows, drawn together to a tenth."""
    distance = torch.cdist(torch.from_numpy(table), torch.from_numpy(table[:count]))
    near, which = distance.topk(k, largest=False)
    weight = 1.0 / (near + 1e-6 * near.mean() + 1e-300)
    weight /= weight.sum(dim=1, keepdim=True)
    places = (weight[:, :, None] * torch.from_numpy(home)[which]).sum(dim=1).numpy()
    places[:count] = home
    jitter = np.random.default_rng(0).normal(size=places.shape) * 0.01 * home.std()  # parts equal points
    return 0.1 * (places + jitter)

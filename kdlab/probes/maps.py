"""Two-dimensional maps of several networks over several epochs, and how far to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kdlab.probes.alignment import rigid
from kdlab.probes.metrics.classes import nearest
from kdlab.probes.threads import svd
from kdlab.probes.tsne import tsne


def steady_tsne(
    features: Sequence[np.ndarray],
    present: Sequence[Sequence[int]],
    has_teacher: bool,
    perplexity: float,
    backend: str,
    seed: int,
) -> tuple[list[np.ndarray], np.ndarray]:
    """A joint t-SNE per epoch that stays in place, with the KL divergence of a fit from scratch.

    Every epoch starts from one map of the teacher alone: its own points stand there, a student's
    point stands between the teacher's points nearest to it in the features. Starting from the epoch
    before instead is calmer but gets stuck where much has changed (KL 1.4 where a fresh fit has 0.5).
    Without a teacher every epoch starts from the plane of the last epoch's largest variance.

    Args:
        features: per epoch (N, n, q), of the networks that have a snapshot of it.
        present: per epoch which networks these are; a teacher is the first, everywhere.

    Returns:
        Per epoch (N, n, 2), and (E,) divergences.
    """
    count, width = features[0].shape[1:]
    tables = [table.reshape(-1, width) for table in features]
    options: dict[str, Any] = {"backend": backend, "seed": seed}
    if has_teacher:
        home, _ = tsne(features[0][0], perplexity=perplexity, **options)
        starts = [_beside_teacher(table, count, home) for table in tables]
        options["iterations"] = 150
    else:
        starts = [frame.reshape(-1, 2) for frame in plane(features, False)]
        starts = [start / max(float(start[:, 0].std()), 1e-300) * 1e-4 for start in starts]
        options["iterations"] = 500
    frames: list[np.ndarray] = []
    divergences = []
    most = max(len(own) for own in present)
    for e, (table, start) in enumerate(zip(tables, starts, strict=True)):
        fits = perplexity if len(present[e]) == most else min(perplexity, (len(table) - 1) / 3)
        flat, divergence = tsne(table, start=start, perplexity=fits, **options)
        frame = flat.reshape(-1, count, 2)
        frames.append(_onto(frame, present[e], frames[-1], present[e - 1], has_teacher) if frames else frame)
        divergences.append(divergence)
    return frames, np.asarray(divergences)


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


def trustworthiness(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """Venna and Kaski (2001): 1 when the k nearest in the map `y` (n, 2) are the nearest in `x` (n, p).

    Points that are near in the map but rank far away in the features cost in proportion to their rank.
    """
    n = len(x)
    if 2 * n - 3 * k - 1 <= 0:
        return float("nan")
    high = torch.cdist(torch.from_numpy(x), torch.from_numpy(x)).fill_diagonal_(-1.0)
    rank = torch.empty(n, n, dtype=torch.int64)
    rank.scatter_(1, high.argsort(dim=1), torch.arange(n).expand(n, n))  # 0 is the point itself
    found = rank.gather(1, nearest(torch.from_numpy(y).double(), k))
    cost = int((found - k).clamp(min=0).sum())
    return 1.0 - cost * (2.0 / (n * k * (2.0 * n - 3.0 * k - 1.0)))


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

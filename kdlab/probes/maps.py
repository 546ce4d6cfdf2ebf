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
    features: Sequence[np.ndarray], has_teacher: bool, perplexity: float, backend: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """A joint t-SNE per epoch that stays in place, with the KL divergence of a fit from scratch.

    Every epoch starts from one map of the teacher alone: its own points stand there, a student's
    point stands between the teacher's points nearest to it in the features. Starting from the epoch
    before instead is calmer but gets stuck where much has changed (KL 1.4 where a fresh fit has 0.5).
    Without a teacher every epoch starts from the plane of the last epoch's largest variance.
    """
    networks, count, width = features[0].shape
    tables = [table.reshape(networks * count, width) for table in features]
    options: dict[str, Any] = {"perplexity": perplexity, "backend": backend, "seed": seed}
    if has_teacher:
        anchor: Any = slice(0, count)
        home, _ = tsne(features[0][0], **options)
        starts = [_beside_teacher(table, count, home) for table in tables]
        options["iterations"] = 150
    else:
        anchor = slice(None)
        starts = [frame.reshape(-1, 2) for frame in plane(features, False)]
        starts = [start / max(float(start[:, 0].std()), 1e-300) * 1e-4 for start in starts]
        options["iterations"] = 500
    frames: list[np.ndarray] = []
    divergences = []
    for table, start in zip(tables, starts, strict=True):
        flat, divergence = tsne(table, start=start, **options)
        frames.append(rigid(flat, frames[-1], anchor) if frames else flat)
        divergences.append(divergence)
    return np.stack(frames).reshape(len(features), networks, count, 2), np.asarray(divergences)


def plane(features: Sequence[np.ndarray], has_teacher: bool) -> np.ndarray:
    frame = features[-1][0] if has_teacher else np.concatenate(list(features[-1]))
    mean = frame.mean(axis=0)
    _, _, vh = svd(frame - mean)
    axes = vh[:2]
    sign = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    axes = axes * np.where(sign == 0, 1.0, sign)[:, None]
    if len(axes) < 2:
        axes = np.pad(axes, ((0, 2 - len(axes)), (0, 0)))
    return np.stack([(table - mean) @ axes.T for table in features])


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

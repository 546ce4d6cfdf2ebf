"""Linear classifier probes inside a method: how well each stage of a network can be read.

Alain and Bengio, arXiv 1610.01644: one linear softmax per stage, on features without gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlab.errors import StudyError
from kdlab.losses import gap
from kdlab.methods.projectors import evaluating
from kdlab.methods.step import Preparation

L2_GRID = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
"""Penalties l2/2 ||W||^2 on the mean cross-entropy, strong to weak: each fit starts from the one before."""

Pictures = Iterable[tuple[Tensor, Tensor, Tensor]]


def stage_features(
    net: nn.Module, stages: Sequence[int], pictures: Pictures, pool: int = 1
) -> tuple[list[Tensor], Tensor]:
    """(n, c pool^2) features of each stage, averaged over pool x pool places, and (n,) labels.

    The network is in eval mode meanwhile, and left as it was found.
    """
    found: list[list[Tensor]] = [[] for _ in stages]
    labels: list[Tensor] = []
    with evaluating(net):
        for images, target, _ in pictures:
            maps = net.features(images).stages  # type: ignore[operator]
            for place, stage in zip(found, stages):
                place.append(_pooled(maps[stage].float(), pool))
            labels.append(target)
    if not labels:
        return [torch.empty(0) for _ in stages], torch.empty(0, dtype=torch.int64)
    return [torch.cat(place) for place in found], torch.cat(labels)


def _pooled(stage_map: Tensor, pool: int) -> Tensor:
    size = (min(pool, stage_map.shape[2]), min(pool, stage_map.shape[3]))
    return gap(stage_map) if pool == 1 else F.adaptive_avg_pool2d(stage_map, size).flatten(1)


def probe_accuracy(
    fit: Tensor, fit_labels: Tensor, judged: Tensor, judged_labels: Tensor, classes: int
) -> Tensor:
    """Top-1 accuracy on `judged` (m, p) of a softmax regression fitted to `fit` (n, p).

    Features are standardised by those of `fit`. The penalty is chosen by the cross-entropy of every fifth
    sample of `fit` after fitting the others; then all of `fit` is used. Convex, stopped on the size of
    the gradient: the result depends on no random number.
    """
    precise = torch.float32 if fit.device.type == "mps" else torch.float64
    fit, judged = fit.to(precise), judged.to(precise)
    spread = fit.std(0, unbiased=False)
    # A feature that is constant over the fit split says nothing and must not be blown up elsewhere.
    scale = torch.where(spread > 1e-6 * spread.amax().clamp_min(1e-30), 1 / spread.clamp_min(1e-30), 0.0)
    mean = fit.mean(0)
    fit, judged = (fit - mean) * scale, (judged - mean) * scale

    held = torch.arange(len(fit), device=fit.device) % 5 == 4
    trial = Softmax(fit[~held], fit_labels[~held], classes)
    best, chosen, weights = math.inf, L2_GRID[0], None
    start = None
    for l2 in L2_GRID:
        start = trial.fit(l2, start)
        error = float(F.cross_entropy(logits(fit[held], start), fit_labels[held])) if held.any() else 0.0
        if error >= best:
            break  # weaker penalties only fit the noise
        best, chosen, weights = error, l2, start
    weights = Softmax(fit, fit_labels, classes).fit(chosen, weights)
    return (logits(judged, weights).argmax(1) == judged_labels).to(precise).mean()


class Softmax:
    """Softmax regression on one table of features, fitted to convergence for one penalty after another.

    Worked on in principal axes, each scaled by the bound of Böhning (1992) on its curvature, so that
    L-BFGS needs few steps however unequal the features are.

    Args:
        x: (n, p) centred features.
        labels: (n,).
        classes: K.
    """

    def __init__(self, x: Tensor, labels: Tensor, classes: int) -> None:
        self.labels, self.classes = labels, classes
        if len(x) < x.shape[1]:  # the optimum lies in the span of the samples
            _, singular, rows = torch.linalg.svd(x, full_matrices=False)
            energy, self.axes = singular.square() / len(x), rows.mT
        else:
            energy, self.axes = torch.linalg.eigh(x.mT @ x / len(x))
        self.points = x @ self.axes
        self.energy = torch.cat([energy.clamp_min(0.0), energy.new_ones(1)])  # the last one is the bias

    def fit(self, l2: float, start: Tensor | None = None) -> Tensor:
        """(p + 1, K) weights, the bias last, that minimise mean cross-entropy + l2/2 ||W||^2 (bias without).

        Args:
            start: weights to begin with; the result does not depend on them.
        """
        penalty = torch.full_like(self.energy, l2)
        penalty[-1] = 0.0
        root = (0.5 * self.energy + penalty)[:, None].sqrt()
        first = self.points.new_zeros(len(root), self.classes)
        if start is not None:
            first = torch.cat([self.axes.mT @ start[:-1], start[-1:]]) * root
        scaled = first.requires_grad_(True)
        # In these coordinates the curvature is at most 1, so that the gradient says how far it is to go.
        optimizer = torch.optim.LBFGS(
            [scaled],
            max_iter=300,
            tolerance_grad=1e-5,
            tolerance_change=0.0,
            history_size=10,
            line_search_fn="strong_wolfe",
        )

        def objective() -> Tensor:
            optimizer.zero_grad()
            rotated = scaled / root
            value = F.cross_entropy(logits(self.points, rotated), self.labels)
            value = value + 0.5 * l2 * rotated[:-1].square().sum()
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(objective)
        rotated = scaled.detach() / root
        return torch.cat([self.axes @ rotated[:-1], rotated[-1:]])


def logits(x: Tensor, weights: Tensor) -> Tensor:
    """(n, K) from (n, p) features and (p + 1, K) weights, the bias last."""
    return torch.addmm(weights[-1], x, weights[:-1])


def probe_row(
    net: nn.Module, stages: Sequence[int], preparation: Preparation, classes: int, pool: int, split: str
) -> Tensor:
    """(J,) float32 accuracy of a probe on each of `stages`, fitted to the training pictures.

    Args:
        pool: places per side that a map is averaged to.
        split: "held-out": judged on the held-out pictures; "train": on the fitted ones themselves.

    Raises:
        StudyError: there are no held-out pictures.
    """
    fit, labels = stage_features(net, stages, preparation.batches("train", 0), pool)
    judged, judged_labels = fit, labels
    if split != "train":
        judged, judged_labels = stage_features(net, stages, preparation.batches("val", 0), pool)
        if not len(judged_labels):
            raise StudyError(
                "Probes are judged on pictures held out of training, and there are none; keep a validation "
                "part of the data, or give probe_split='train'."
            )
    rows = [probe_accuracy(x, labels, z, judged_labels, classes) for x, z in zip(fit, judged)]
    return torch.stack(rows).float()

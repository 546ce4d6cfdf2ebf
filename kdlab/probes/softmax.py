"""Multinomial logistic regression for many feature tables at once, to convergence.

A probe is convex, so what matters is how fast its one optimum is reached. Each table is rotated
to its principal axes; there the curvature bound of Böhning (1992), Hessian <= X'X/2 + l2, is
diagonal, so that scaling every axis by it makes all problems, whatever their features and
penalties, look alike to one batched L-BFGS.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from kdlab.errors import ConfigError

_REFRESH = 8  # iterations between two looks at the curvature
L2_GRID = (1e3, 1e2, 1e1, 1.0, 1e-1, 1e-2, 1e-3)  # strong to weak: each is a warm start for the next


@dataclass(frozen=True)
class SoftmaxFit:
    """B fitted probes; logits of x (B, n, p) are x @ weight + bias[:, None].

    Attributes:
        weight: (B, p, K); bias: (B, K).
        objective: (B,) summed cross-entropy + l2/2 ||weight||^2 at the optimum.
        converged: (B,) bool.
        iterations: used by the slowest problem.
    """

    weight: Tensor
    bias: Tensor
    objective: Tensor
    converged: Tensor
    iterations: int

    def logits(self, x: Tensor) -> Tensor:
        """(B, n, K) logits of `x` (B, n, p)."""
        return torch.baddbmm(self.bias[:, None], x, self.weight)


def fit_softmax(
    x: Tensor,
    target: Tensor,
    l2: Tensor | float = 1.0,
    *,
    classes: int | None = None,
    start: SoftmaxFit | None = None,
    tolerance: float = 1e-7,
    max_iterations: int = 500,
) -> SoftmaxFit:
    """Minimise, for every b, sum_n cross-entropy + l2_b/2 ||W_b||^2 (the bias is not penalised).

    The same objective as scikit-learn's `LogisticRegression(C=1/l2)`.

    Args:
        x: (B, n, p) or (n, p) features; computed in float64.
        target: (n,) labels, shared by all tables.
        l2: positive penalty, one for all or (B,).
        classes: number of classes K; the largest label + 1 if not given.
        start: a fit of the same shape to start from; the optimum does not depend on it.
        tolerance: stop where the squared gradient, each axis measured by its largest curvature, is
            below this share of the loss.
        max_iterations: problems that need more are marked as not converged.

    Raises:
        ConfigError: shapes do not fit, values are not finite, or l2 is not positive.
    """
    return Tables(x, target, classes).fit(l2, start=start, tolerance=tolerance, max_iterations=max_iterations)


class Tables:
    """B feature tables of the same samples, rotated to their principal axes once."""

    def __init__(self, x: Tensor, target: Tensor, classes: int | None) -> None:
        x = x.double()
        x = x[None] if x.ndim == 2 else x
        if x.ndim != 3 or target.shape != x.shape[1:2]:
            raise ConfigError(
                f"Features {tuple(x.shape)} and labels {tuple(target.shape)} do not fit together."
            )
        if not torch.isfinite(x).all():
            raise ConfigError(
                "The features have NaN or infinite values; leave these samples or networks out."
            )
        self.mean = x.mean(dim=1, keepdim=True)
        self.count, self.samples, _ = x.shape
        self.classes = int(target.max()) + 1 if classes is None else classes
        # x = u s v'; the optimum lies in the row space, so r = rank coordinates are enough
        u, self.scale, vh = torch.linalg.svd(x - self.mean, full_matrices=False)
        self.axes = vh.mT  # (B, p, r)
        self.points = torch.cat([u * self.scale[:, None], u.new_ones(*u.shape[:2], 1)], dim=2)
        self.onehot = torch.nn.functional.one_hot(target.long(), self.classes).double()

    def take(self, places: Tensor) -> Tables:
        """Some of the tables, without rotating them again."""
        if len(places) == self.count:
            return self
        part = copy.copy(self)
        part.count = len(places)
        part.mean, part.scale, part.axes = self.mean[places], self.scale[places], self.axes[places]
        part.points = self.points[places]
        return part

    def fit(
        self,
        l2: Tensor | float,
        *,
        start: SoftmaxFit | None = None,
        tolerance: float = 1e-7,
        max_iterations: int = 500,
    ) -> SoftmaxFit:
        """See `fit_softmax`."""
        penalty = torch.as_tensor(l2, dtype=torch.float64).expand(self.count)
        if not (torch.isfinite(penalty).all() and (penalty > 0).all()):
            raise ConfigError("l2 must be positive and finite, so that every probe has exactly one optimum.")
        own = torch.zeros(self.count, self.points.shape[2], dtype=torch.float64)
        own[:, :-1] = penalty[:, None]  # the last coordinate is the bias
        curvature = (
            0.5 * torch.cat([self.scale.square(), torch.full((self.count, 1), self.samples)], dim=1) + own
        )
        root = curvature.sqrt()[:, :, None]
        if start is None:
            first = torch.zeros(*root.shape[:2], self.classes, dtype=torch.float64)
        else:
            shifted = start.bias[:, None] + self.mean @ start.weight
            first = torch.cat([self.axes.mT @ start.weight, shifted], dim=1) * root
        solution = _lbfgs(self.points, self.onehot, root, own[:, :, None], first, tolerance, max_iterations)
        coordinates = solution.point / root
        weight = self.axes @ coordinates[:, :-1]
        bias = coordinates[:, -1] - (self.mean @ weight)[:, 0]
        return SoftmaxFit(weight, bias, solution.value, solution.converged, solution.iterations)


@dataclass
class _Solution:
    point: Tensor
    value: Tensor
    converged: Tensor
    iterations: int


def _lbfgs(
    points: Tensor,
    onehot: Tensor,
    root: Tensor,
    own: Tensor,
    first: Tensor,
    tolerance: float,
    limit: int,
    memory: int = 10,
) -> _Solution:
    """Batched L-BFGS with step halving in scaled coordinates; finished problems leave the batch."""
    best, value_out = first.clone(), first.new_zeros(len(first))
    converged = torch.zeros(len(first), dtype=torch.bool)
    alive = torch.arange(len(first))
    data, scale, ridge, v = points, root, own, first

    def evaluate(data: Tensor, scale: Tensor, ridge: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        w = v / scale
        logits = data @ w
        log_sum = logits.logsumexp(dim=2)
        value = (log_sum - (logits * onehot).sum(dim=2)).sum(dim=1) + 0.5 * (ridge * w * w).sum(dim=(1, 2))
        residual = (logits - log_sum[:, :, None]).exp_().sub_(onehot)
        return value, (data.mT @ residual + ridge * w) / scale

    def curvature(data: Tensor, scale: Tensor, ridge: Tensor, v: Tensor) -> Tensor:
        """Diagonal of the Hessian; at most 1 in these coordinates, and far below where the loss is near 0."""
        p = (data @ (v / scale)).softmax(dim=2)
        return (data.square().mT @ (p * (1.0 - p)) + ridge) / scale.square() + 1e-9

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(dim=(1, 2))[:, None, None]

    value, gradient = evaluate(data, scale, ridge, v)
    inverse = torch.ones_like(v)
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    iteration = 0
    while True:
        # relative to the loss itself, as the curvature bound is loose where the loss is near 0
        done = gradient.square().sum(dim=(1, 2)) <= tolerance * value.clamp(max=points.shape[1])
        best[alive], value_out[alive] = v, value
        converged[alive] = done
        if done.all() or iteration >= limit:
            return _Solution(best, value_out, converged, iteration)
        if done.float().mean() > 0.2:
            keep = ~done
            alive, data, scale, ridge, v = alive[keep], data[keep], scale[keep], ridge[keep], v[keep]
            value, gradient, inverse = value[keep], gradient[keep], inverse[keep]
            steps = [(s[keep], y[keep], r[keep]) for s, y, r in steps]

        direction, alphas = gradient.clone(), []
        for s, y, rho in reversed(steps):
            alphas.append(rho * dot(s, direction))
            direction -= alphas[-1] * y
        if iteration % _REFRESH == 0:
            inverse = 1.0 / curvature(data, scale, ridge, v)
        direction *= inverse
        if steps:
            s, y, rho = steps[-1]
            direction *= torch.where(rho > 0, dot(s, y) / dot(y, y * inverse).clamp(min=1e-300), 1.0)
        for (s, y, rho), alpha in zip(steps, reversed(alphas), strict=True):
            direction += (alpha - rho * dot(y, direction)) * s
        slope = dot(direction, gradient)
        direction = torch.where(slope > 0, direction, gradient)
        slope = torch.where(slope > 0, slope, dot(gradient, gradient))[:, 0, 0]

        trial = v - direction
        new_value, new_gradient = evaluate(data, scale, ridge, trial)
        length = torch.ones_like(value)
        for _ in range(30):
            enough = value - 1e-4 * length * slope + 1e-12 * value.abs()
            bad = (new_value > enough).nonzero()[:, 0]
            if not len(bad):
                break
            length[bad] *= 0.5  # only these problems are looked at again
            trial[bad] = v[bad] - length[bad, None, None] * direction[bad]
            new_value[bad], new_gradient[bad] = evaluate(data[bad], scale[bad], ridge[bad], trial[bad])
        s, y = trial - v, new_gradient - gradient
        bend = dot(s, y)
        sound = bend > 1e-12 * dot(y, y)
        rho = torch.where(sound, 1.0 / bend.clamp(min=1e-300), 0.0)
        steps = [*steps[-(memory - 1) :], (s, y, rho)]
        v, value, gradient = trial, new_value, new_gradient
        iteration += 1

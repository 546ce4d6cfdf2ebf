"""Multinomial logistic regression for many feature tables at once, to convergence.

A probe is convex, so what matters is how fast its one optimum is reached. The Hessian is close to a
Kronecker product: the covariance of the features times that of the predicted classes (exact where
both are independent, as at the start). In the axes of both, that product and the penalty are
diagonal, so that scaling every coordinate by it makes all problems, whatever their features and
penalties, look alike to one batched L-BFGS. Only (p, p) and (K, K) matrices are rotated, never x.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.probes.progress import check, measurement

L2_GRID = (1e3, 1e2, 1e1, 1.0, 1e-1, 1e-2, 1e-3)  # strong to weak: each is a warm start for the next
_MEMORY = 10  # pairs that L-BFGS remembers
_METRICS = 8  # times the scaling is taken anew, at most
_PART = 7  # of so many samples one tells how long the first step should be; prime: classes may take turns
_NEAR = 1.1  # times the objective at the end, up to which a scaling taken at the start still holds
SINGLE_WORK, _SINGLE_TOLERANCE = 2e7, 1e-5  # multiply-adds from which, gap down to which, float32 serves


@dataclass(frozen=True)
class SoftmaxFit:
    """B fitted probes; logits of x (B, n, p) are x @ weight + bias[:, None].

    Attributes:
        weight: (B, p, K); bias: (B, K).
        objective: (B,) summed cross-entropy + l2/2 ||weight||^2 at the optimum.
        converged: (B,) bool.
        iterations: used by the slowest problem.

    >>> even = kdlab.probes.SoftmaxFit.zeros(count=2, width=5, classes=3)
    >>> even.logits(torch.randn(2, 4, 5)).softmax(2)[0, 0]
    tensor([0.3333, 0.3333, 0.3333])
    """

    weight: Tensor
    bias: Tensor
    objective: Tensor
    converged: Tensor
    iterations: int

    def logits(self, x: Tensor) -> Tensor:
        """(B, n, K) logits of `x` (B, n, p)."""
        return torch.baddbmm(self.bias[:, None].to(x.dtype), x, self.weight.to(x.dtype))

    @classmethod
    def zeros(cls, count: int, width: int, classes: int) -> SoftmaxFit:
        """`count` probes that name every class with the same probability."""
        flat = torch.zeros(count, dtype=torch.float64)
        weight, bias = flat.new_zeros(count, width, classes), flat.new_zeros(count, classes)
        return cls(weight, bias, flat, torch.zeros(count, dtype=torch.bool), 0)

    def take(self, places: Tensor) -> SoftmaxFit:
        """Some of them, as a copy."""
        return SoftmaxFit(
            self.weight[places],
            self.bias[places],
            self.objective[places],
            self.converged[places],
            self.iterations,
        )

    def put(self, places: Tensor, other: SoftmaxFit) -> None:
        """Overwrite those at `places` with the probes of `other`."""
        for name in ("weight", "bias", "objective", "converged"):
            getattr(self, name)[places] = getattr(other, name)

    def clone(self) -> SoftmaxFit:
        """A copy."""
        return self.take(torch.arange(len(self.bias)))


@measurement
def fit_softmax(
    x: Tensor,
    target: Tensor,
    l2: Tensor | float = 1.0,
    *,
    classes: int | None = None,
    start: SoftmaxFit | Sequence[SoftmaxFit] | None = None,
    tolerance: float = 1e-7,
    max_iterations: int = 500,
) -> SoftmaxFit:
    """Minimise, for every b, sum_n cross-entropy + l2_b/2 ||W_b||^2 (the bias is not penalised).

    The same objective as scikit-learn's `LogisticRegression(C=1/l2)`.

    Args:
        x: (B, n, p) or (n, p) features.
        target: (n,) labels, shared by all tables.
        l2: positive penalty, one for all or (B,).
        classes: number of classes K; the largest label + 1 if not given.
        start: a fit of the same shape to start from, or several, of which each table takes the best;
            the optimum does not depend on it.
        tolerance: stop where the objective is estimated to lie above its minimum by less than this
            share of itself. With 1e-5 or more, large problems are computed in float32, else in float64.
        max_iterations: problems that need more are marked as not converged.

    Returns:
        the fitted probes.

    Raises:
        ConfigError: shapes do not fit or are empty, values are not finite, or l2 is not positive.

    >>> x, target = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.tensor([0, 0, 1, 1])
    >>> fitted = kdlab.probes.fit_softmax(x, target)
    >>> fitted.logits(x[None]).argmax(2)
    tensor([[0, 0, 1, 1]])
    """
    tables = Tables(x, target, classes, rough=tolerance >= _SINGLE_TOLERANCE)
    return tables.fit(l2, start=start, tolerance=tolerance, max_iterations=max_iterations)


class Tables:
    """B feature tables of the same samples; their covariances are decomposed once for all fits.

    Args:
        x, target, classes: see `fit_softmax`.
        rough: no fit will need a tolerance below 1e-5, so that large tables may be kept in float32.
    """

    def __init__(self, x: Tensor, target: Tensor, classes: int | None, rough: bool = False) -> None:
        x = x[None] if x.ndim == 2 else x
        if x.ndim != 3 or target.shape != x.shape[1:2] or not x.numel():
            raise ConfigError(
                f"Features {tuple(x.shape)} and labels {tuple(target.shape)} are empty or do not fit."
            )
        self.count, self.samples, width = x.shape
        self.width = width
        self.target = target.long()
        self.classes = int(target.max()) + 1 if classes is None else classes
        self.rough = rough and x.numel() * self.classes >= SINGLE_WORK
        x = x.float() if self.rough else x.double()
        self.counts = torch.bincount(self.target, minlength=self.classes).double()
        self.mean = x.mean(dim=1, keepdim=True)
        if not torch.isfinite(self.mean).all():
            raise ConfigError(
                "The features have NaN or infinite values; leave these samples or networks out."
            )
        self.points = x - self.mean
        self.lift: Tensor | None = None
        if width > self.samples:  # the optimum lies in the row space: as many coordinates as samples do
            u, s, vh = torch.linalg.svd(self.points, full_matrices=False)
            self.points, self.lift = u * s[:, None], vh.mT.double()
        self.mean = self.mean.double()
        energy, self.axes = torch.linalg.eigh((self.points.mT @ self.points).double())
        self.energy = energy.clamp(min=0.0)
        sums = self.points.new_zeros(self.count, self.classes, self.points.shape[2])
        self.sums = sums.index_add_(1, self.target, self.points).mT.double()

    def take(self, places: Tensor) -> Tables:
        """Some of the tables, without decomposing them again."""
        if len(places) == self.count:
            return self
        part = copy.copy(self)
        part.count = len(places)
        part.mean, part.points, part.energy = self.mean[places], self.points[places], self.energy[places]
        part.axes, part.sums = self.axes[places], self.sums[places]
        part.lift = None if self.lift is None else self.lift[places]
        return part

    def fit(
        self,
        l2: Tensor | float,
        *,
        start: SoftmaxFit | Sequence[SoftmaxFit] | None = None,
        tolerance: float = 1e-7,
        max_iterations: int = 500,
    ) -> SoftmaxFit:
        """See `fit_softmax`."""
        penalty = torch.as_tensor(l2, dtype=torch.float64).expand(self.count)
        if not (torch.isfinite(penalty).all() and (penalty > 0).all()):
            raise ConfigError("l2 must be positive and finite, so that every probe has exactly one optimum.")
        if self.rough and tolerance < _SINGLE_TOLERANCE:
            raise ConfigError(
                f"These tables were kept in float32, which reaches {_SINGLE_TOLERANCE} at best."
            )
        problem = _Problem(self, penalty)
        coordinates = self._first(problem, [start] if isinstance(start, SoftmaxFit) else start or [])
        converged = torch.zeros(self.count, dtype=torch.bool)
        value = torch.full((self.count,), torch.inf, dtype=torch.float64)
        alive, used = torch.arange(self.count), 0
        for _ in range(_METRICS):
            part = problem.take(alive)
            known = part.evaluate(coordinates[alive])
            metric = _Metric(self.axes[alive], self.energy[alive], part.confusion(known[2]), part)
            solution = _lbfgs(part, metric, coordinates[alive], known, tolerance, max_iterations - used)
            coordinates[alive], value[alive] = solution.point, solution.value
            used += solution.iterations
            # the scaling was taken at the start: far from there it does not tell how far the minimum is
            near = known[0] <= _NEAR * solution.value
            converged[alive] = solution.converged & near
            alive = alive[~converged[alive]]
            if not len(alive) or used >= max_iterations:
                break
        weight, bias = coordinates[:, :-1], coordinates[:, -1]
        weight = weight if self.lift is None else self.lift @ weight
        return SoftmaxFit(weight, bias - (self.mean @ weight)[:, 0], value, converged, used)

    def _first(self, problem: _Problem, starts: Sequence[SoftmaxFit]) -> Tensor:
        """(B, r + 1, K): weights on the centred points, and the bias in the last row, where to start."""
        own = torch.zeros(self.count, self.points.shape[2] + 1, self.classes, dtype=torch.float64)
        own[:, -1] = (self.counts.clamp(min=0.5) / self.samples).log()
        given = []
        for start in starts:
            weight, fits = start.weight.double(), (self.count, self.width, self.classes)
            if weight.shape != fits:
                raise ConfigError(
                    f"`start` has weights of shape {tuple(weight.shape)} (tables, features, classes) where "
                    f"{fits} is needed; give a fit of that shape, or none."
                )
            inside = weight if self.lift is None else self.lift.mT @ weight
            given.append(torch.cat([inside, start.bias[:, None] + self.mean @ weight], dim=1))
        if len(given) < 2:
            return given[0] if given else own
        best = torch.stack([problem.evaluate(one)[0] for one in given]).argmin(dim=0)
        return torch.stack(given)[best, torch.arange(self.count)]


class _Problem:
    """Value and gradient of B objectives at (B, r + 1, K) coordinates; sums over samples in float64."""

    def __init__(self, tables: Tables, l2: Tensor) -> None:
        self.points, self.counts, self.sums, self.l2 = tables.points, tables.counts, tables.sums, l2
        self.samples = tables.samples
        self.truth = tables.target[None, :, None].expand(tables.count, -1, 1)
        self.noise = 1e-12 if self.points.dtype == torch.float64 else 1e-7  # relative, of a value

    def take(self, places: Tensor) -> _Problem:
        if len(places) == len(self.points):
            return self
        part = copy.copy(self)
        part.points, part.sums, part.l2 = self.points[places], self.sums[places], self.l2[places]
        part.truth = self.truth[: len(places)]
        return part

    def shares(self, w: Tensor) -> Tensor:
        """(B, n, K) predicted probabilities."""
        w = w.to(self.points.dtype)
        return torch.baddbmm(w[:, -1:], self.points, w[:, :-1]).softmax(dim=2)

    def evaluate(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value (B,), gradient (B, r + 1, K), predicted probabilities (B, n, K)."""
        shares = self.shares(w)
        true = shares.gather(2, self.truth)
        if float(true.amin()) < 1e-30:  # too small for the logarithm of a rounded number
            rounded = w.to(self.points.dtype)
            logits = torch.baddbmm(rounded[:, -1:], self.points, rounded[:, :-1])
            losses = logits.logsumexp(dim=2) - logits.gather(2, self.truth)[:, :, 0]
        else:
            losses = -true[:, :, 0].log()
        value = losses.sum(dim=1, dtype=torch.float64)
        value += 0.5 * self.l2 * w[:, :-1].square().sum(dim=(1, 2))
        slope = (self.points.mT @ shares).double() - self.sums + self.l2[:, None, None] * w[:, :-1]
        bias = shares.sum(dim=1).double() - self.counts
        return value, torch.cat([slope, bias[:, None]], dim=1), shares

    def bend(self, shares: Tensor, w: Tensor) -> Tensor:
        """(B,) second derivative along `w`, estimated from every `_PART`th sample."""
        points, shares = self.points[:, ::_PART], shares[:, ::_PART]
        w = w.to(points.dtype)
        change = torch.baddbmm(w[:, -1:], points, w[:, :-1])
        spread = (shares * change.square()).sum(dim=2) - (shares * change).sum(dim=2).square()
        penalty = self.l2 * w[:, :-1].double().square().sum(dim=(1, 2))
        return spread.double().mean(dim=1) * self.samples + penalty

    def confusion(self, shares: Tensor) -> Tensor:
        """(B, K, K) mean covariance of the predicted classes: diag(p) - pp'."""
        mean = shares.mean(dim=1, dtype=torch.float64)
        return torch.diag_embed(mean) - (shares.mT @ shares).double() / self.samples


class _Metric:
    """Coordinates in which the Hessian of a problem is about the identity."""

    def __init__(self, axes: Tensor, energy: Tensor, confusion: Tensor, problem: _Problem) -> None:
        self.axes = axes
        spread, self.turn = torch.linalg.eigh(confusion)
        spread = spread.clamp(min=1e-6 / spread.shape[1])[:, None]
        inner = energy[:, :, None] * spread + problem.l2[:, None, None]
        self.root = torch.cat([inner, problem.samples * spread], dim=1).sqrt()

    def take(self, places: Tensor) -> _Metric:
        part = copy.copy(self)
        part.axes, part.turn, part.root = self.axes[places], self.turn[places], self.root[places]
        return part

    def inside(self, w: Tensor) -> Tensor:
        """Coordinates of weights."""
        return self._turned(w) * self.root

    def weights(self, v: Tensor) -> Tensor:
        """Weights of coordinates."""
        v = v / self.root
        return torch.cat([self.axes @ v[:, :-1], v[:, -1:]], dim=1) @ self.turn.mT

    def slope(self, gradient: Tensor) -> Tensor:
        """Gradient for the coordinates."""
        return self._turned(gradient) / self.root

    def _turned(self, w: Tensor) -> Tensor:
        return torch.cat([self.axes.mT @ w[:, :-1], w[:, -1:]], dim=1) @ self.turn


@dataclass
class _Solution:
    point: Tensor
    value: Tensor
    converged: Tensor
    iterations: int


def _lbfgs(
    problem: _Problem,
    metric: _Metric,
    first: Tensor,
    known: tuple[Tensor, ...],
    tolerance: float,
    limit: int,
) -> _Solution:
    """Batched L-BFGS with step halving in the coordinates of `metric`; finished problems leave the batch."""
    v = metric.inside(first)
    best, value_out = first.clone(), v.new_zeros(len(v))
    converged = torch.zeros(len(v), dtype=torch.bool)
    alive = torch.arange(len(v))

    def evaluate(problem: _Problem, metric: _Metric, v: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient, _ = problem.evaluate(metric.weights(v))
        return value, metric.slope(gradient)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(dim=(1, 2))[:, None, None]

    value, gradient, shares = known[0], metric.slope(known[1]), known[2]
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    iteration = 0
    while True:
        check()
        # half the squared gradient is the gap, in coordinates where the Hessian is the identity
        done = 0.5 * gradient.square().sum(dim=(1, 2)) <= tolerance * value.clamp(max=problem.samples)
        best[alive], value_out[alive] = metric.weights(v), value
        converged[alive] = done
        if done.all() or iteration >= limit:
            return _Solution(best, value_out, converged, iteration)
        if done.float().mean() > 0.2:
            keep = (~done).nonzero()[:, 0]
            problem, metric = problem.take(keep), metric.take(keep)
            alive, v, value, gradient = alive[keep], v[keep], value[keep], gradient[keep]
            shares = shares if steps else shares[keep]
            steps = [(s[keep], y[keep], r[keep]) for s, y, r in steps]

        direction, alphas = gradient.clone(), []
        for s, y, rho in reversed(steps):
            alphas.append(rho * dot(s, direction))
            direction -= alphas[-1] * y
        if steps:
            s, y, rho = steps[-1]
            direction *= torch.where(rho > 0, dot(s, y) / dot(y, y).clamp(min=1e-300), 1.0)
        for (s, y, rho), alpha in zip(steps, reversed(alphas), strict=True):
            direction += (alpha - rho * dot(y, direction)) * s
        slope = dot(direction, gradient)
        direction = torch.where(slope > 0, direction, gradient)
        slope = torch.where(slope > 0, slope, dot(gradient, gradient))[:, 0, 0]

        length = torch.ones_like(value)
        if not steps:  # nothing is remembered of how steep it gets
            curve = problem.bend(shares, metric.weights(direction))
            length = (slope / curve.clamp(min=1e-300)).clamp(max=1.0)
        trial = v - length[:, None, None] * direction
        new_value, new_gradient = evaluate(problem, metric, trial)
        for _ in range(30):
            enough = value - 1e-4 * length * slope + problem.noise * value.abs()
            bad = (new_value > enough).nonzero()[:, 0]
            if not len(bad):
                break
            length[bad] *= 0.5  # only these problems are looked at again
            trial[bad] = v[bad] - length[bad, None, None] * direction[bad]
            new_value[bad], new_gradient[bad] = evaluate(problem.take(bad), metric.take(bad), trial[bad])
        s, y = trial - v, new_gradient - gradient
        bend = dot(s, y)
        sound = bend > 1e-12 * dot(y, y)
        rho = torch.where(sound, 1.0 / bend.clamp(min=1e-300), 0.0)
        steps = [*steps[-(_MEMORY - 1) :], (s, y, rho)]
        v, value, gradient = trial, new_value, new_gradient
        iteration += 1

"""t-SNE: exact in torch, with scikit-learn and openTSNE behind the same call.

Exact t-SNE costs n^2 per iteration, which up to some thousand points is cheaper than the trees of
Barnes-Hut, and gives the lower KL divergence.
"""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdlab.errors import ConfigError, unknown_name
from kdlab.probes import progress
from kdlab.probes.inputs import whole
from kdlab.probes.progress import measurement
from kdlab.probes.threads import single_thread, svd

BACKENDS = ("torch", "sklearn", "opentsne")
_CACHED = 1 << 17  # numbers of a table of which several fit into the cache of one processor
_LEAST = -80.0  # exponents below make numbers that processors are slow with, and change nothing
EXACT_LIMIT = 3000  # points; beyond, "auto" takes scikit-learn's Barnes-Hut


@measurement
def tsne(
    x: np.ndarray,
    *,
    perplexity: float = 30.0,
    start: np.ndarray | None = None,
    iterations: int | None = None,
    backend: str = "auto",
    seed: int = 0,
    hold: np.ndarray | None = None,
    pull: float = 0.0,
) -> tuple[np.ndarray, float]:
    """Map `x` (n, p) to two dimensions (van der Maaten and Hinton, JMLR 2008).

    Args:
        perplexity: effective number of neighbours; at most (n - 1) / 3.
        start: (n, 2) coordinates to go on from, as they are and without early exaggeration; None
            starts from the first two principal components.
        iterations: of gradient descent, the exaggerated ones included.
        backend: "auto", "torch", "sklearn", or "opentsne" (if installed).
        seed: for what a backend draws.
        hold: (n, 2) places that points are pulled to, or NaN for points that are free.
        pull: strength; pull / 2 times the mean squared distance to `hold`, in units of the mean squared
            radius of `hold`, is added to what is minimised. Of backend "torch" alone.

    Returns:
        (n, 2) float64 coordinates and the KL divergence reached, without the pull's part.

    Raises:
        ConfigError: too few points, values that are not finite, a perplexity of 1 or less, places of
            another shape, a pull below 0 or where the backend has none, or a backend that is not installed.

    >>> points = np.random.default_rng(0).normal(size=(40, 5)) + 20 * (np.arange(40) % 2)[:, None]
    >>> plane, divergence = kdlab.probes.tsne(points, perplexity=5, backend="torch")
    >>> plane.shape, kdlab.probes.metrics.knn_purity(plane, np.arange(40) % 2, k=3) > 0.9  # two groups
    ((40, 2), True)
    """
    x = np.asarray(x, dtype=np.float64)
    n = len(x)
    if x.ndim != 2:
        raise ConfigError(f"x must be (points, features), not shape {x.shape}.")
    if n < 10 or not np.isfinite(x).all():
        raise ConfigError(f"t-SNE needs at least 10 points with finite features (there are {n}).")
    check_perplexity(perplexity)
    perplexity = min(perplexity, (n - 1) / 3)
    for what, table in (("start", start), ("hold", hold)):
        if table is not None and np.shape(table) != (n, 2):
            raise ConfigError(f"{what} must be (points, 2), here {(n, 2)}, not {np.shape(table)}.")
    if iterations is not None:
        whole(iterations, "iterations", 1)
    pulled = check_pull(pull, backend) and hold is not None
    if backend == "auto":
        backend = "torch" if n <= EXACT_LIMIT or pulled else "sklearn"
    if backend not in BACKENDS:
        raise unknown_name("t-SNE backend", backend, (*BACKENDS, "auto"))
    steps = (400 if start is None else 100) if iterations is None else iterations
    first = _principal(x) if start is None else np.asarray(start, dtype=np.float64)
    with single_thread():
        if backend == "torch":
            p = joint_probabilities(torch.from_numpy(x), perplexity)
            return exact_tsne(p, first, steps, start is None, hold if pulled else None, pull)
        run = _sklearn if backend == "sklearn" else _opentsne
        return run(x, perplexity, first, start is None, steps, seed)


def check_perplexity(perplexity: float) -> None:
    """Raises a `ConfigError` unless it is a number above 1."""
    if not isinstance(perplexity, int | float | np.number) or not 1 < perplexity < np.inf:
        raise ConfigError(f"perplexity must be a number above 1 (5 to 50 is usual), not {perplexity!r}.")


def check_pull(pull: float, backend: str = "auto") -> bool:
    """Whether there is a pull.

    Raises:
        ConfigError: a strength below 0 or not finite, or a backend that cannot pull.
    """
    if not (isinstance(pull, Real) and np.isfinite(pull) and pull >= 0):
        raise ConfigError(f"pull must be 0 (none) or a positive number, not {pull!r}.")
    if pull > 0 and backend not in ("auto", "torch"):
        raise ConfigError(f"The t-SNE backend {backend!r} cannot pull; use backend='torch', or pull=0.")
    return pull > 0


def _principal(x: np.ndarray) -> np.ndarray:
    """First two principal components with standard deviation 1e-4, signs fixed."""
    centred = x - x.mean(axis=0)
    u, s, vh = svd(centred)
    if len(s) < 2:
        u, s, vh = (np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, 1)]) for a in (u, s, vh.T))
        vh = vh.T
    sign = np.sign(vh[np.arange(2), np.abs(vh[:2]).argmax(axis=1)])
    scores = u[:, :2] * s[:2] * np.where(sign == 0, 1.0, sign)
    return scores / max(scores[:, 0].std(), 1e-300) * 1e-4


def exact_tsne(
    p: Tensor,
    first: np.ndarray,
    steps: int,
    cold: bool = False,
    hold: np.ndarray | None = None,
    pull: float | np.ndarray = 0.0,
) -> tuple[np.ndarray, float]:
    """What `tsne` does, for `joint_probabilities` that are known.

    Args:
        p: (n, n).
        first: (n, 2) places to begin with; `cold` says that they are not those of a finished map.
        steps: iterations. hold, pull: as in `tsne`; a pull for all points, or (n,) one for each.
    """
    p = p.float()
    n = len(p)
    y = torch.from_numpy(first).float()
    velocity, gains = torch.zeros_like(y), torch.ones_like(y)
    exaggerated = min(150, steps // 2) if cold else 0
    rate = max(n / 12.0 / 4.0, 50.0) if cold else max(n / 4.0, 50.0)
    anchor, strength = _anchor(hold, pull, n)
    if strength is not None:
        rate = min(rate, 1.0 / float(strength.max()))  # a step must not overshoot the place pulled to
    for step in progress.steps(range(steps)):
        if cold and step == exaggerated:
            rate = max(n / 4.0, 50.0)  # without exaggeration forces are that much weaker
        gradient = _gradient(p, y, 12.0 if step < exaggerated else 1.0)
        if strength is not None:
            gradient += strength * (y - anchor)
        momentum = 0.5 if step < exaggerated else 0.8
        same = velocity * gradient > 0
        gains = torch.where(same, gains * 0.8, gains + 0.2).clamp_(min=0.01)
        velocity = momentum * velocity - rate * gains * gradient
        y = y + velocity
        if strength is None:
            y -= y.mean(dim=0)
    return y.double().numpy(), _divergence(p, y)


def _anchor(hold: np.ndarray | None, pull: float | np.ndarray, n: int) -> tuple[Tensor, Tensor | None]:
    """(n, 2) places and (n, 1) gradient per unit of distance to them, 0 for points that are free."""
    if hold is None or not np.any(pull):
        return torch.zeros(n, 2), None
    held = np.isfinite(hold).all(axis=1)
    if not held.any():
        return torch.zeros(n, 2), None
    places = np.where(held[:, None], hold, 0.0)
    radius = float(np.square(hold[held] - hold[held].mean(axis=0)).sum(axis=1).mean())
    strength = (held * pull / (max(radius, 1e-12) * held.sum()))[:, None]
    return torch.from_numpy(places).float(), torch.from_numpy(strength).float()


def _gradient(p: Tensor, y: Tensor, exaggeration: float) -> Tensor:
    """(n, 2) gradient of the KL divergence of `exaggeration` times p."""
    attraction, repulsion = torch.empty(3, len(y)), torch.empty(3, len(y))
    with_ones = torch.cat([y.T, torch.ones(1, len(y))])  # so that one product gives sums, too
    memory, total = torch.empty(min(_rows(len(y)), len(y)), len(y)), 0.0
    for rows, kernel in _kernels(y):
        total += float(kernel.sum())
        pulls = torch.mul(p[rows], kernel, out=memory[: len(kernel)])
        torch.mm(with_ones, pulls.T, out=attraction[:, rows])
        torch.mm(with_ones, kernel.square_().T, out=repulsion[:, rows])
    force = (exaggeration * attraction - repulsion / total).T
    return 4.0 * (force[:, 2:] * y - force[:, :2])


def _divergence(p: Tensor, y: Tensor) -> float:
    """KL divergence of p from the similarities of the places y."""
    total = sum(float(kernel.sum()) for _, kernel in _kernels(y))
    parts = [
        (p[rows] * (p[rows].clamp(min=1e-12) / (kernel / total).clamp(min=1e-12)).log()).sum()
        for rows, kernel in _kernels(y)
    ]
    return float(torch.stack(parts).sum())


def _kernels(y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of 1 / (1 + squared distance), zero on the diagonal, a few at a time, so that they stay in the
    cache of the processor; to be used before the next are asked for."""
    n, size = len(y), _rows(len(y))
    square, one = y.square().sum(dim=1, keepdim=True), torch.ones(n, 1)
    left, right = torch.cat([-2.0 * y, square + 1.0, one], dim=1), torch.cat([y, one, square], dim=1).T
    memory = torch.empty(min(size, n), n)
    for start in range(0, n, size):
        rows = slice(start, min(start + size, n))
        kernel = torch.mm(left[rows], right, out=memory[: rows.stop - start])
        kernel.clamp_(min=1.0).reciprocal_()
        kernel[:, rows].fill_diagonal_(0.0)
        yield rows, kernel


def _rows(n: int) -> int:
    """So many rows of n numbers that several such tables stay in the cache; a number that products like."""
    return max(32, _CACHED // n // 32 * 32)


def joint_probabilities(x: Tensor, perplexity: float) -> Tensor:
    """(n, n) symmetric affinities that sum to 1; each row's Gaussian has the perplexity asked for."""
    n = len(x)
    p = torch.empty(n, n, dtype=x.dtype)
    for start in range(0, n, _rows(n)):
        rows = slice(start, min(start + _rows(n), n))
        others = torch.ones(rows.stop - start, n, dtype=torch.bool)
        others[:, rows].fill_diagonal_(False)
        squared = torch.cdist(x[rows], x).square()
        p[rows] = 0.0
        p[rows][others] = _conditional(squared[others].reshape(-1, n - 1), perplexity).to(x.dtype).flatten()
    return (p + p.T) / (2.0 * n)


def _conditional(squared: Tensor, perplexity: float) -> Tensor:
    """(b, m) probabilities of each row's neighbours, from their squared distances; changes those."""
    distance = squared.sub_(squared.amin(dim=1, keepdim=True))  # does not change p, keeps exp in range
    distance = (distance / distance.mean(dim=1, keepdim=True).clamp(min=1e-300)).float()
    low, high = torch.zeros(len(squared), 1), torch.full((len(squared), 1), torch.inf)
    beta, row = torch.ones(len(squared), 1), torch.empty_like(distance)
    for _ in range(60):
        progress.check()
        torch.mul(distance, -beta, out=row).clamp_(min=_LEAST).exp_()
        total = row.sum(dim=1, keepdim=True)
        # entropy of p = row / total, from its first moment alone
        entropy = total.log() + beta * row.mul_(distance).sum(dim=1, keepdim=True) / total
        gap = entropy - float(np.log(perplexity))
        if gap.abs().max() < 1e-4:
            break
        low, high = torch.where(gap > 0, beta, low), torch.where(gap > 0, high, beta)
        beta = torch.where(torch.isinf(high), beta * 2.0, (low + high) / 2.0)
    return torch.mul(distance, -beta, out=row).clamp_(min=_LEAST).softmax(dim=1)


def _sklearn(
    x: np.ndarray, perplexity: float, first: np.ndarray, cold: bool, steps: int, seed: int
) -> tuple[np.ndarray, float]:
    from sklearn.manifold import TSNE

    options: dict[str, Any] = {} if cold else {"early_exaggeration": 1.0}
    model = TSNE(2, perplexity=perplexity, init=first, max_iter=max(steps, 250), random_state=seed, **options)
    return model.fit_transform(x).astype(np.float64), float(model.kl_divergence_)


def _opentsne(
    x: np.ndarray, perplexity: float, first: np.ndarray, cold: bool, steps: int, seed: int
) -> tuple[np.ndarray, float]:
    try:
        import openTSNE
    except ImportError:
        raise ConfigError(
            "The t-SNE backend 'opentsne' is not installed; pip install 'kdlab[opentsne]', or use "
            "backend='auto'."
        ) from None
    exaggerated = min(250, steps // 2) if cold else 0
    model = openTSNE.TSNE(
        perplexity=perplexity,
        initialization=first,
        early_exaggeration_iter=exaggerated,
        n_iter=steps - exaggerated,
        negative_gradient_method="bh",
        random_state=seed,
    )
    fitted = model.fit(x)
    return np.asarray(fitted, dtype=np.float64), float(fitted.kl_divergence)

"""The held-out protocol of linear probes: fit, choose the penalty, judge, for many tables at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kdlab.errors import ConfigError
from kdlab.probes.ridge import fit_ridge
from kdlab.probes.softmax import L2_GRID, SoftmaxFit, Tables, fit_softmax
from kdlab.probes.threads import single_thread

_BATCH_NUMBERS = 2_000_000  # numbers in one batch of feature tables, which bounds the memory
_THREAD_WORK = 1e8  # multiply-adds of one gradient, below which one thread is faster
_VALIDATION_SHARE = 0.25
_PATH_TOLERANCE, _TOLERANCE = 1e-4, 1e-6  # relative to the loss; tighter ones give the same accuracies


@dataclass(frozen=True)
class Scores:
    """Of each feature table, on the evaluation part: accuracy (0..1), mean NLL (nats; NaN for ridge), l2."""

    accuracy: np.ndarray
    nll: np.ndarray
    l2: np.ndarray


def evaluate_tables(
    tables: Sequence[np.ndarray],
    target: np.ndarray,
    fit: np.ndarray,
    *,
    probe: str = "softmax",
    seed: int = 0,
) -> Scores:
    """Held-out scores of a linear probe on each of `tables`.

    Features are standardised on the fitting part. The softmax probe chooses its penalty from
    1e-3 .. 1e3 by the NLL on a quarter of the fitting part, set apart at random within each class,
    and is then fitted to convergence on all of it. The ridge probe chooses by leave-one-out error.
    The evaluation part is used once, to judge.

    Args:
        tables: (n, p) features; p may differ.
        target: (n,) labels.
        fit: (n,) bool.
        probe: "softmax" or "ridge".
        seed: of the split.

    Raises:
        ConfigError: too few samples, a single class, or values that are not finite.
    """
    check_parts(target, fit)
    classes = int(target.max()) + 1
    inner = _inner_part(target[fit], seed)
    out = {key: np.full(len(tables), np.nan) for key in ("accuracy", "nll", "l2")}
    for places in _batches(tables):
        x = torch.from_numpy(np.stack([np.asarray(tables[place], dtype=np.float64) for place in places]))
        with single_thread(x.numel() * classes < _THREAD_WORK):
            accuracy, nll, l2 = _judge(x, target, fit, inner, classes, probe)
        out["accuracy"][places], out["nll"][places], out["l2"][places] = accuracy, nll, l2
    return Scores(**out)


def _judge(
    x: Tensor, target: np.ndarray, fit: np.ndarray, inner: np.ndarray, classes: int, probe: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accuracy, NLL and penalty of a batch of tables (B, n, p)."""
    if not torch.isfinite(x).all():
        raise ConfigError("A feature table has NaN or infinite values; the network may have diverged.")
    x = _standardised(x, torch.from_numpy(fit))
    known, labels = x[:, fit], torch.from_numpy(target[fit])
    if probe == "ridge":
        weight, bias, l2 = fit_ridge(known, labels, classes)
    else:
        l2, start = _choose_l2(known, labels, torch.from_numpy(inner), classes)
        fitted = fit_softmax(known, labels, l2, classes=classes, start=start, tolerance=_TOLERANCE)
        weight, bias = fitted.weight, fitted.bias
    logits = torch.baddbmm(bias[:, None], x[:, ~fit], weight)
    truth = torch.from_numpy(target[~fit])
    accuracy = (logits.argmax(dim=2) == truth).double().mean(dim=1)
    nll = torch.full((len(x),), torch.nan) if probe == "ridge" else _nll(logits, truth)
    return accuracy.numpy(), nll.numpy(), l2.numpy()


def check_parts(target: np.ndarray, fit: np.ndarray) -> None:
    """Refuse a fitting or evaluation part that cannot carry a probe."""
    for part, name in ((fit, "fitting"), (~fit, "evaluation")):
        count, classes = int(part.sum()), len(np.unique(target[part]))
        if count < 4 or classes < 2:
            raise ConfigError(
                f"The {name} part has {count} sample(s) of {classes} class(es); a probe needs at "
                "least 4 samples of at least 2 classes in each part."
            )


def work(tables: Sequence[np.ndarray], target: np.ndarray) -> float:
    """Multiply-adds of one gradient of all probes: what a softmax sweep costs, up to a constant."""
    return float(sum(table.size for table in tables)) * (int(target.max()) + 1)


def _batches(tables: Sequence[np.ndarray]) -> list[list[int]]:
    by_width: dict[int, list[int]] = {}
    for place, table in enumerate(tables):
        by_width.setdefault(table.shape[1], []).append(place)
    out = []
    for places in by_width.values():
        size = max(1, _BATCH_NUMBERS // max(tables[places[0]].size, 1))
        out += [places[start : start + size] for start in range(0, len(places), size)]
    return out


def _standardised(x: Tensor, fit: Tensor) -> Tensor:
    known = x[:, fit]
    spread = known.std(dim=1, keepdim=True, correction=0)
    dead = spread <= 1e-9 * known.abs().amax(dim=1, keepdim=True).clamp(min=1e-300)
    return (x - known.mean(dim=1, keepdim=True)) / torch.where(dead, 1.0, spread) * ~dead


def _inner_part(labels: np.ndarray, seed: int) -> np.ndarray:
    """True where a sample of the fitting part is fitted while the penalty is chosen."""
    inner = np.ones(len(labels), dtype=bool)
    generator = np.random.default_rng(seed)
    for label in np.unique(labels):
        where = generator.permutation(np.flatnonzero(labels == label))
        inner[where[: round(_VALIDATION_SHARE * len(where))]] = False
    if inner.all():  # one sample of each class: set every fourth apart
        inner[::4] = False
    return inner


def _choose_l2(x: Tensor, labels: Tensor, inner: Tensor, classes: int) -> tuple[Tensor, SoftmaxFit]:
    """The penalty with the least NLL on the samples set apart, and the fit it had there.

    The path goes from strong to weak, each fit starting from the one before; a table leaves it once
    two weaker penalties in a row were worse. Ties keep the stronger.
    """
    count, _, width = x.shape
    best = torch.full((count,), torch.inf, dtype=torch.float64)
    chosen = torch.full((count,), L2_GRID[0], dtype=torch.float64)
    worse = torch.zeros(count, dtype=torch.int64)
    weight = torch.zeros(count, width, classes, dtype=torch.float64)
    bias = torch.zeros(count, classes, dtype=torch.float64)
    kept = SoftmaxFit(weight.clone(), bias.clone(), best.clone(), torch.ones(count, dtype=torch.bool), 0)
    alive = torch.arange(count)
    every, apart = Tables(x[:, inner], labels[inner], classes), x[:, ~inner]
    for l2 in L2_GRID:
        before = SoftmaxFit(weight[alive], bias[alive], best[alive], kept.converged[alive], 0)
        now = every.take(alive).fit(l2, start=before, tolerance=_PATH_TOLERANCE)
        weight[alive], bias[alive] = now.weight, now.bias
        nll = _nll(now.logits(apart[alive]), labels[~inner])
        better = nll < best[alive] - 1e-9
        won = alive[better]
        best[won], chosen[won] = nll[better], l2
        kept.weight[won], kept.bias[won] = now.weight[better], now.bias[better]
        worse[alive] = torch.where(better, 0, worse[alive] + 1)
        alive = alive[worse[alive] < 2]
        if not len(alive):
            break
    return chosen, kept


def _nll(logits: Tensor, labels: Tensor) -> Tensor:
    count, n, classes = logits.shape
    every = F.cross_entropy(logits.reshape(-1, classes), labels.repeat(count), reduction="none")
    return every.reshape(count, n).mean(dim=1)

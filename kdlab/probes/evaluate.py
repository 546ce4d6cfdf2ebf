"""The held-out protocol of linear probes: fit, choose the penalty, judge, for many tables at once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kdlab.errors import ConfigError
from kdlab.probes.progress import steps
from kdlab.probes.ridge import fit_discriminant
from kdlab.probes.softmax import L2_GRID, SoftmaxFit, Tables
from kdlab.probes.threads import single_thread

_BATCH_NUMBERS = 2_000_000  # numbers in one batch of feature tables, which bounds the memory
_THREAD_WORK = 1e8  # multiply-adds of one gradient, below which one thread is faster
_CHAIN_WORK = 2e6  # the same of one table, above which the epoch before is a better start than a batch
_VALIDATION_SHARE = 0.25
_PATH_TOLERANCE, _TOLERANCE = 1e-5, 1e-5  # above the least objective; tighter ones give the same accuracies
_TIE = 2e-3  # relative gain in NLL below which the stronger penalty stays: more than tolerances move it


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
    chains: Sequence[Hashable] | None = None,
) -> Scores:
    """Held-out scores of a linear probe on each of `tables`.

    Features are standardised on the fitting part. The softmax probe chooses its penalty from
    1e-3 .. 1e3 by the NLL on a quarter of the fitting part, set apart at random within each class,
    and is then fitted to convergence on all of it. The ridge probe (`fit_discriminant`) chooses by
    generalised cross-validation. The evaluation part is used once, to judge.

    Args:
        tables: (n, p) features; p may differ.
        target: (n,) labels.
        fit: (n,) bool.
        probe: "softmax" or "ridge".
        seed: of the split.
        chains: of each table, what it shows (a layer of a network, say). Of large tables that show the
            same, in order of time, each softmax fit starts from that of the one before at the same
            penalty, where that start is the better one. Saves time; the optimum is the same.

    Raises:
        ConfigError: too few samples, a single class, or values that are not finite.
    """
    check_parts(target, fit)
    classes = int(target.max()) + 1
    inner = _inner_part(target[fit], seed)
    out = {key: np.full(len(tables), np.nan) for key in ("accuracy", "nll", "l2")}
    known: dict[Hashable, _Trail] = {}
    batches = _batches(tables, classes, chains if probe == "softmax" else None)
    sizes = [sum(tables[place].size for place in places) for places in batches]
    for places in steps(batches, lambda p: f"layers of {tables[p[0]].shape[1]} features", sizes=sizes):
        x = torch.from_numpy(np.stack([np.asarray(tables[place], dtype=np.float64) for place in places]))
        trails = None if chains is None else [known.get(chains[i]) for i in places]
        trails = trails if trails is not None and any(trails) else None
        with single_thread(x.numel() * classes < _THREAD_WORK):
            judged, left = _judge(x, target, fit, inner, classes, probe, trails)
        for key, values in judged.items():
            out[key][places] = values
        if left is not None and chains is not None and _large(tables[places[0]], classes):
            known |= {chains[i]: left.row(k) for k, i in enumerate(places)}
    return Scores(**out)


@dataclass
class _Trail:
    """Fits of B tables: while the penalty was chosen, by penalty, and the last, at the chosen one."""

    path: dict[float, SoftmaxFit] = field(default_factory=dict)
    last: SoftmaxFit | None = None
    l2: Tensor | None = None

    def row(self, k: int) -> _Trail:
        """Those of one table."""
        path = {l2: one.take(torch.tensor([k])) for l2, one in self.path.items()}
        last = None if self.last is None else self.last.take(torch.tensor([k]))
        return _Trail(path, last, None if self.l2 is None else self.l2[k : k + 1])


def _judge(
    x: Tensor,
    target: np.ndarray,
    fit: np.ndarray,
    inner: np.ndarray,
    classes: int,
    probe: str,
    before: Sequence[_Trail | None] | None,
) -> tuple[dict[str, np.ndarray], _Trail | None]:
    """Accuracy, NLL and penalty of a batch of tables (B, n, p)."""
    if not torch.isfinite(x).all():
        raise ConfigError("A feature table has NaN or infinite values; the network may have diverged.")
    x = _standardised(x, torch.from_numpy(fit))
    known, labels = x[:, fit], torch.from_numpy(target[fit])
    trail = None
    if probe == "ridge":
        weight, bias, l2 = fit_discriminant(known, labels, classes)
    else:
        trail = _follow(known, labels, torch.from_numpy(inner), classes, before)
        assert trail.last is not None and trail.l2 is not None
        weight, bias, l2 = trail.last.weight, trail.last.bias, trail.l2
    logits = torch.baddbmm(bias[:, None], x[:, ~fit], weight)
    truth = torch.from_numpy(target[~fit])
    accuracy = (logits.argmax(dim=2) == truth).double().mean(dim=1)
    nll = torch.full((len(x),), torch.nan) if probe == "ridge" else _nll(logits, truth)
    return {"accuracy": accuracy.numpy(), "nll": nll.numpy(), "l2": l2.numpy()}, trail


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


def _large(table: np.ndarray, classes: int) -> bool:
    return table.size * classes >= _CHAIN_WORK


def _batches(
    tables: Sequence[np.ndarray], classes: int, chains: Sequence[Hashable] | None
) -> list[list[int]]:
    """Places of tables that are fitted together: of one width, and large ones after what they start from."""
    groups: dict[tuple[int, int], list[int]] = {}
    seen: dict[Hashable, int] = {}
    for place, table in enumerate(tables):
        turn = 0
        if chains is not None and _large(table, classes):
            turn = seen.get(chains[place], 0)
            seen[chains[place]] = turn + 1
        groups.setdefault((turn, table.shape[1]), []).append(place)
    out = []
    for key in sorted(groups):
        places = groups[key]
        size = max(1, _BATCH_NUMBERS // max(tables[places[0]].size, 1))
        out += [places[start : start + size] for start in range(0, len(places), size)]
    return out


def standardisation(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (p,) of features (n, p) in float64; inf where a feature is constant.

    So (x - mean) / deviation is 0 for a constant feature.
    """
    x = np.asarray(x, dtype=np.float64)
    spread = x.std(axis=0)
    dead = spread <= 1e-9 * np.abs(x).max(axis=0, initial=1e-300)
    return x.mean(axis=0), np.where(dead, np.inf, spread)


def fit_chosen(x: Tensor, labels: Tensor, classes: int, seed: int) -> tuple[SoftmaxFit, Tensor]:
    """Softmax probes of standardised tables (B, n, p) and their penalties (B,), as `evaluate_tables` does."""
    inner = torch.from_numpy(_inner_part(labels.numpy(), seed))
    trail = _follow(x, labels, inner, classes, None)
    assert trail.last is not None and trail.l2 is not None
    return trail.last, trail.l2


def _standardised(x: Tensor, fit: Tensor) -> Tensor:
    known = x[:, fit]
    spread = known.std(dim=1, keepdim=True, correction=0)
    dead = spread <= 1e-9 * known.abs().amax(dim=1, keepdim=True).clamp(min=1e-300)
    return (x - known.mean(dim=1, keepdim=True)) / torch.where(dead, torch.inf, spread)


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


def _follow(
    x: Tensor, labels: Tensor, inner: Tensor, classes: int, before: Sequence[_Trail | None] | None
) -> _Trail:
    """Choose the penalty by the NLL on the samples set apart, then fit all of them with it.

    The path goes from strong to weak, each fit starting from the one before; a table leaves it once
    two weaker penalties in a row were worse. Ties (0.2 %) keep the stronger. Where `before` has the fit of an
    earlier epoch at the same penalty, that is tried as a start too.
    """
    count, _, width = x.shape
    best = torch.full((count,), torch.inf, dtype=torch.float64)
    chosen = torch.full((count,), L2_GRID[0], dtype=torch.float64)
    worse = torch.zeros(count, dtype=torch.int64)
    now = SoftmaxFit.zeros(count, width, classes)
    kept = SoftmaxFit.zeros(count, width, classes)
    trail = _Trail()
    alive = torch.arange(count)
    every, apart = Tables(x[:, inner], labels[inner], classes, rough=True), x[:, ~inner]
    for l2 in steps(L2_GRID, share=0.8):
        starts = [now.take(alive)] if trail.path else []
        if before is not None:
            earlier = SoftmaxFit.zeros(count, width, classes)
            for k, trail_before in enumerate(before):
                if trail_before is not None and l2 in trail_before.path:
                    earlier.put(torch.tensor([k]), trail_before.path[l2])
            starts.append(earlier.take(alive))
        found = every.take(alive).fit(l2, start=starts or None, tolerance=_PATH_TOLERANCE)
        now.put(alive, found)
        nll = _nll(found.logits(apart[alive]), labels[~inner])
        better = nll < (1.0 - _TIE) * best[alive]
        best[alive[better]], chosen[alive[better]] = nll[better], l2
        kept.put(alive[better], found.take(better))
        trail.path[l2] = now.clone()
        worse[alive] = torch.where(better, 0, worse[alive] + 1)
        alive = alive[worse[alive] < 2]
        if not len(alive):
            break
    starts = [kept]
    if before is not None:
        earlier = kept.clone()
        for k, trail_before in enumerate(before):
            if trail_before is not None and trail_before.last is not None and trail_before.l2 == chosen[k]:
                earlier.put(torch.tensor([k]), trail_before.last)
        starts.append(earlier)
    trail.last = Tables(x, labels, classes, rough=True).fit(chosen, start=starts, tolerance=_TOLERANCE)
    trail.l2 = chosen
    return trail


def _nll(logits: Tensor, labels: Tensor) -> Tensor:
    count, n, classes = logits.shape
    every = F.cross_entropy(logits.reshape(-1, classes), labels.repeat(count), reduction="none")
    return every.reshape(count, n).mean(dim=1)

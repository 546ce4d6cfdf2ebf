"""Similarity of all layers of one network to all layers of another, in one go.

Linear measures need one product of all features of one side with all of the other, (P, n) by (n, Q),
instead of an n x n matrix for each layer: exact, and far cheaper where n is larger than the widths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdlab.errors import ConfigError, unknown_name
from kdlab.probes.metrics.checks import MIN_SAMPLES, as_matrix
from kdlab.probes.metrics.similarity import (
    basis,
    check_cca,
    coefficients,
    double_centred,
    gaussian_kernel,
    leading,
    projection_weighted,
)
from kdlab.probes.progress import check, steps

METRICS: Mapping[str, str] = {
    "cka": "linear CKA",
    "cka_debiased": "debiased linear CKA",
    "cka_minibatch": "minibatch linear CKA",
    "cka_rbf": "RBF CKA",
    "procrustes": "Procrustes distance",
    "procrustes_angular": "angular Procrustes distance",
    "cca": "mean CCA",
    "svcca": "SVCCA",
    "pwcca": "PWCCA",
}
DISTANCES = ("procrustes", "procrustes_angular")  # 0 is equal; all others: 1 is equal
_KERNEL_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Layers:
    """All layers of one network, prepared for one metric: what does not depend on the other side.

    Attributes:
        metric: a key of `METRICS`. n: samples. widths: of the layers as given. batch_size: of the
            minibatch form.
        live: (L,) bool; False for layers that are the same for every sample, whose values are NaN.
        stack: (n, P) what is multiplied: centred features, or bases, of the live layers side by side.
        bounds: (L' + 1,) where each live layer begins in `stack`.
        own: (L',) the layer's similarity to itself, before the ratio.
        squares: (L', n) squared lengths of the centred samples (debiased form).
        kernels: (L', m) flattened kernels (RBF form; of the batches one after another in the minibatch form).
        batches: samples in each batch. weighing: what PWCCA takes its weights from.
    """

    metric: str
    n: int
    widths: tuple[int, ...]
    live: np.ndarray
    batch_size: int
    stack: Tensor
    bounds: np.ndarray
    own: Tensor
    squares: Tensor
    kernels: Tensor
    batches: tuple[int, ...] = ()
    weighing: tuple[tuple[Tensor, Tensor], ...] = ()

    def permuted(self, order: np.ndarray) -> Layers:
        """The same layers of the samples in another order, as if they belonged to other pictures.

        Raises:
            ConfigError: the minibatch form, whose batches would be others.
        """
        if self.metric == "cka_minibatch":
            raise ConfigError("Batches change with the order; prepare the permuted features instead.")
        places = torch.as_tensor(order)
        kernels = self.kernels
        if self.metric == "cka_rbf":
            square = kernels.reshape(-1, self.n, self.n)
            kernels = square[:, places][:, :, places].reshape(kernels.shape)
        return replace(self, stack=self.stack[places], squares=self.squares[:, places], kernels=kernels)


def prepare(
    tables: Sequence[Any],
    metric: str = "cka",
    *,
    names: Sequence[str] | None = None,
    batch_size: int = 64,
    keep: float = 0.99,
    sigma_scale: float = 1.0,
) -> Layers:
    """Prepare the layers of one network; see `compare`.

    Args:
        tables: (n, p) features of each layer, of the same samples.
        metric: a key of `METRICS`.
        names: of the layers, for messages.
        batch_size: consecutive samples in a batch, for "cka_minibatch"; a rest below 4 is left out.
        keep: share of the variance, for "svcca".
        sigma_scale: width of the kernel, for "cka_rbf".

    Raises:
        ConfigError: an unknown metric, tables that cannot be compared, or CCA of too few samples.
    """
    if metric not in METRICS:
        raise unknown_name("similarity", metric, METRICS)
    if not tables:
        raise ConfigError("There is no layer to compare.")
    known = list(names) if names is not None else [f"layer {i + 1}" for i in range(len(tables))]
    every = [as_matrix(table, name) for table, name in zip(tables, known, strict=True)]
    n = every[0].shape[0]
    for table, name in zip(every, known, strict=True):
        if table.shape[0] != n:
            raise ConfigError(f"{name} has {table.shape[0]} samples and {known[0]} has {n}; give the same.")
    if metric == "cka_minibatch" and batch_size < MIN_SAMPLES:
        raise ConfigError(f"batch_size is {batch_size}; CKA needs at least {MIN_SAMPLES} samples a batch.")
    if metric == "cka_rbf" and len(every) * n * n * 8 > _KERNEL_BYTES:
        most = int((_KERNEL_BYTES / 8 / len(every)) ** 0.5)
        raise ConfigError(
            f"The kernels of {len(every)} layers of {n} samples do not fit into memory; take at most "
            f"{most} samples, or metric='cka_minibatch'."
        )
    moved = [table - table.mean(dim=0) for table in every]
    live = np.array(
        [
            bool(m.abs().max() > 1e-12 * max(1.0, float(t.abs().max())))
            for m, t in zip(moved, every, strict=True)
        ]
    )
    alive = [m for m, good in zip(moved, live, strict=True) if good]
    if metric in ("procrustes", "procrustes_angular"):
        alive = [m / torch.linalg.norm(m) for m in alive]
    weighing: tuple[tuple[Tensor, Tensor], ...] = ()
    squares = torch.stack([m.square().sum(dim=1) for m in alive]) if alive else torch.zeros(0, n)
    kernels, own = torch.zeros(0, 0), torch.zeros(0)
    batches: tuple[int, ...] = ()
    if metric in ("cka", "cka_debiased"):
        own = torch.stack([_gram(m).square().sum() for m in alive]) if alive else own
        if metric == "cka_debiased" and alive:
            own = _hsic1(own, squares.square().sum(dim=1), squares.sum(dim=1).square(), n)
    elif metric == "cka_rbf" and alive:
        pairs = [(m, name) for m, name in zip(alive, np.array(known)[live], strict=True)]
        kernels = torch.stack(
            [double_centred(gaussian_kernel(m, sigma_scale, name)) for m, name in steps(pairs, share=0.5)]
        )
        kernels = kernels.reshape(len(alive), -1)
        kernels /= torch.linalg.norm(kernels, dim=1, keepdim=True)
    elif metric == "cka_minibatch" and alive:
        kernels, batches = _batch_kernels(alive, n, batch_size)
    elif metric in ("cca", "svcca", "pwcca"):
        raw = [table for table, good in zip(every, live, strict=True) if good]
        bases = [leading(t, keep) if metric == "svcca" else basis(m) for t, m in zip(raw, alive, strict=True)]
        for m, q in zip(alive, bases, strict=True):
            check_cca(n, q.shape[1] if metric == "svcca" else m.shape[1])
        if metric == "pwcca":
            mixed = zip(raw, alive, bases, strict=True)
            weighing = tuple((t, coefficients(m, q)) for t, m, q in mixed)
        alive = bases
    if metric in ("cka_rbf", "cka_minibatch"):
        alive = []
    return Layers(
        metric=metric,
        n=n,
        widths=tuple(table.shape[1] for table in every),
        live=live,
        batch_size=batch_size,
        stack=torch.cat(alive, dim=1) if alive else torch.zeros(n, 0, dtype=torch.float64),
        bounds=np.cumsum([0, *(m.shape[1] for m in alive)]),
        own=own,
        squares=squares,
        kernels=kernels,
        batches=batches,
        weighing=weighing,
    )


def compare(left: Layers, right: Layers) -> np.ndarray:
    """(L, M) similarity of each layer of `left` to each of `right`; NaN where a layer is constant.

    Exactly what the functions of `kdlab.probes.metrics` give for each pair.

    Raises:
        ConfigError: prepared for different metrics or of different samples, or too few samples for
            the debiased forms (the self-similarity of a layer is not positive).
    """
    if left.metric != right.metric:
        raise ConfigError(f"One side is prepared for {left.metric!r} and the other for {right.metric!r}.")
    if left.n != right.n:
        raise ConfigError(
            f"One side has {left.n} samples and the other {right.n}; both must describe the same samples in "
            "the same order."
        )
    out = np.full((len(left.live), len(right.live)), np.nan)
    if left.live.any() and right.live.any():
        out[np.ix_(left.live, right.live)] = _values(left, right)
    return out


def similarity_matrix(
    lefts: Sequence[Any] | Mapping[str, Any],
    rights: Sequence[Any] | Mapping[str, Any],
    metric: str = "cka",
    **options: Any,
) -> np.ndarray:
    """(L, M) similarity of each (n, p) table of `lefts` to each of `rights`; `options` as of `prepare`.

    Args:
        lefts, rights: the layers of two networks, (n, p) tables of the same samples, in a list or by name.
        metric: "cka", "cka_debiased", "cka_minibatch", "cka_rbf", "cca", "svcca", "pwcca", "procrustes"
            or "procrustes_angular".
        **options: batch_size of "cka_minibatch", keep of "svcca", sigma_scale of "cka_rbf".

    Raises:
        ConfigError: as `prepare` and `compare`.

    >>> x = np.random.default_rng(0).normal(size=(100, 6))
    >>> found = kdlab.probes.metrics.similarity_matrix({"wide": x, "narrow": x[:, :2]}, [x], metric="cka")
    >>> found.shape, round(float(found[0, 0]), 4), bool(found[1, 0] < 0.9)
    ((2, 1), 1.0, True)
    """
    sides = []
    for tables in (lefts, rights):
        names = list(tables) if isinstance(tables, Mapping) else None
        values = list(tables.values()) if isinstance(tables, Mapping) else list(tables)
        sides.append(prepare(values, metric, names=names, **options))
    return compare(*sides)


def minibatch_cka_stream(batches: Iterable[tuple[Any, Any]]) -> np.ndarray:
    """Minibatch CKA of all layer pairs over batches that come one after another and are not kept.

    HSIC1 is summed over the batches first, then the ratio is taken (Nguyen et al., ICLR 2021), so that
    pictures that do not fit into memory can be used. Larger batches give less noise.

    Args:
        batches: pairs (left, right) of what two networks show of the same pictures: each a table
            (b, p), or a sequence or mapping of such tables, one a layer. Batches below 4 pictures are
            left out.

    Returns:
        (L, M) values.

    Raises:
        ConfigError: no batch, tables that cannot be compared, or a constant layer.

    >>> x = np.random.default_rng(0).normal(size=(128, 6))
    >>> pairs = (([part, part[:, :2]], [part]) for part in np.split(x, 4))  # two layers and one
    >>> found = kdlab.probes.metrics.minibatch_cka_stream(pairs)
    >>> found.shape, round(float(found[0, 0]), 4)
    ((2, 1), 1.0)
    """
    sums: tuple[Tensor, Tensor, Tensor] | None = None
    for number, (one, two) in enumerate(batches, 1):
        tables = [_tables(side) for side in (one, two)]
        if min(len(t) for side in tables for t in side) < MIN_SAMPLES:
            continue
        left, right = ([as_matrix(t, f"batch {number}") for t in side] for side in tables)
        n = left[0].shape[0]
        if any(t.shape[0] != n for t in (*left, *right)):
            raise ConfigError(f"In batch {number} the layers have different numbers of samples.")
        (k, _), (m, _) = (_batch_kernels([t - t.mean(dim=0) for t in side], n, n) for side in (left, right))
        parts = _kernel_hsic(k, m, n), _own_hsic(k, n), _own_hsic(m, n)
        sums = parts if sums is None else (sums[0] + parts[0], sums[1] + parts[1], sums[2] + parts[2])
    if sums is None:
        raise ConfigError(f"There is no batch of at least {MIN_SAMPLES} pictures.")
    return _ratio(*sums).numpy()


def _tables(side: Any) -> list[Any]:
    if isinstance(side, Mapping):
        return list(side.values())
    return list(side) if isinstance(side, list | tuple) else [side]


def _values(left: Layers, right: Layers) -> np.ndarray:
    metric, n = left.metric, left.n
    if metric == "cka_rbf":
        return (left.kernels @ right.kernels.T).numpy()
    if metric == "cka_minibatch":
        return _minibatch(left, right)
    cross = left.stack.T @ right.stack
    if metric in ("cka", "cka_debiased"):
        summed = _block_sums(cross.square_(), left.bounds, right.bounds)
        if metric == "cka":
            return (summed / torch.sqrt(left.own[:, None] * right.own)).numpy()
        totals = left.squares.sum(dim=1)[:, None] * right.squares.sum(dim=1)
        return _ratio(_hsic1(summed, left.squares @ right.squares.T, totals, n), left.own, right.own).numpy()
    out = np.empty((len(left.bounds) - 1, len(right.bounds) - 1))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            check()
            block = cross[
                int(left.bounds[i]) : int(left.bounds[i + 1]), int(right.bounds[j]) : int(right.bounds[j + 1])
            ]
            out[i, j] = _of_block(block, metric, left.weighing[i] if left.weighing else None)
    return out


def _of_block(block: Tensor, metric: str, weighing: tuple[Tensor, Tensor] | None) -> float:
    if weighing is not None:
        return projection_weighted(block, *weighing)
    values = torch.linalg.svdvals(block)
    if metric in ("cca", "svcca"):
        return float(values.clamp(max=1.0).mean())
    nuclear = values.sum().clamp(max=1.0)
    return float(torch.acos(nuclear)) if metric == "procrustes_angular" else 2.0 * (1.0 - float(nuclear))


def _gram(x: Tensor) -> Tensor:
    """X'X or XX', whichever is smaller: both have the same Frobenius norm."""
    return x.T @ x if x.shape[1] <= x.shape[0] else x @ x.T


def _block_sums(table: Tensor, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """(L, M) sums over the blocks between the bounds."""
    summed = np.add.reduceat(np.add.reduceat(table.numpy(), rows[:-1], axis=0), columns[:-1], axis=1)
    return torch.from_numpy(summed)


def _hsic1(product: Tensor, inner: Tensor, totals: Tensor, n: int) -> Tensor:
    """Unbiased HSIC in feature space, for centred sides.

    Args:
        product: ||X'Y||_F^2, which is the sum of K_ij L_ij.
        inner: sum of |x_i|^2 |y_i|^2. Rows of a centred kernel sum to 0, so without the diagonal to
            -|x_i|^2; this is also the product of the row sums.
        totals: product of the sums of |x_i|^2 and of |y_i|^2.
    """
    return (product - inner + totals / ((n - 1) * (n - 2)) - 2.0 / (n - 2) * inner) / (n * (n - 3))


def _batch_kernels(tables: Sequence[Tensor], n: int, size: int) -> tuple[Tensor, tuple[int, ...]]:
    """(L, sum of b^2) kernels of each batch without their diagonals, and the batch sizes."""
    parts, sizes = [], []
    for start in range(0, n, size):
        count = min(size, n - start)
        if count < MIN_SAMPLES:
            break
        grams = torch.stack([t[start : start + count] @ t[start : start + count].T for t in tables])
        grams.diagonal(dim1=1, dim2=2).zero_()
        parts.append(grams.reshape(len(tables), -1))
        sizes.append(count)
    return torch.cat(parts, dim=1), tuple(sizes)


def _kernel_hsic(k: Tensor, m: Tensor, n: int) -> Tensor:
    """(L, M) unbiased HSIC of flattened kernels (L, n^2) and (M, n^2) with zero diagonals."""
    rows, columns = k.reshape(-1, n, n).sum(dim=2), m.reshape(-1, n, n).sum(dim=2)
    totals = rows.sum(dim=1)[:, None] * columns.sum(dim=1) / ((n - 1) * (n - 2))
    return (k @ m.T + totals - 2.0 / (n - 2) * (rows @ columns.T)) / (n * (n - 3))


def _own_hsic(k: Tensor, n: int) -> Tensor:
    """(L,) unbiased HSIC of each kernel with itself."""
    rows = k.reshape(-1, n, n).sum(dim=2)
    totals = rows.sum(dim=1).square() / ((n - 1) * (n - 2))
    return (k.square().sum(dim=1) + totals - 2.0 / (n - 2) * rows.square().sum(dim=1)) / (n * (n - 3))


def _minibatch(left: Layers, right: Layers) -> np.ndarray:
    if left.batches != right.batches:
        raise ConfigError("Both sides must be prepared with the same batch_size.")
    cross = torch.zeros(len(left.kernels), len(right.kernels), dtype=torch.float64)
    own, other = torch.zeros(len(left.kernels)).double(), torch.zeros(len(right.kernels)).double()
    start = 0
    for count in left.batches:
        part = slice(start, start + count * count)
        k, m = left.kernels[:, part], right.kernels[:, part]
        cross += _kernel_hsic(k, m, count)
        own += _own_hsic(k, count)
        other += _own_hsic(m, count)
        start += count * count
    return _ratio(cross, own, other).numpy()


def _ratio(cross: Tensor, own: Tensor, other: Tensor) -> Tensor:
    if (own <= 0).any() or (other <= 0).any():
        raise ConfigError("Too few samples: the self-similarity of a side is not positive; use more samples.")
    return cross / torch.sqrt(own[:, None] * other)

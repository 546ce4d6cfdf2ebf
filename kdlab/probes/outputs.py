"""What networks predict: reading logits out of sources, and tables of all pairs of networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, as_tensor

from kdlab.errors import ConfigError
from kdlab.probes.representation import AS_GIVEN, Representation
from kdlab.probes.sources import Source

TOP = 5
MOST_OVERLAP = 10  # classes; below, the top 5 of two networks overlap by necessity


def named_logits(source: Any) -> Any:
    """`source` with plain arrays read as logits, which elsewhere would be features."""
    if isinstance(source, np.ndarray | Tensor):
        source = {"network": source}
    if not isinstance(source, Mapping):
        return source

    def view(name: str, value: Any) -> Any:
        if not isinstance(value, np.ndarray | Tensor | list | tuple):
            return value
        try:
            table = np.asarray(as_tensor(value).detach().cpu(), dtype=np.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"The logits of {name!r} cannot be read as a table of numbers ({error})."
            ) from None
        if table.ndim != 2:
            raise ConfigError(f"The logits of {name!r} must be (samples, classes), not shape {table.shape}.")
        return Representation(name, logits=table)

    return {name: view(str(name), value) for name, value in source.items()}


def check_temperatures(*temperatures: float) -> None:
    """Raises a `ConfigError` for a temperature that is not positive and finite, or for none at all."""
    if not temperatures:
        raise ConfigError("Give at least one temperature.")
    for tau in temperatures:
        number = isinstance(tau, int | float | np.number) and not isinstance(tau, bool)
        if not (number and np.isfinite(tau) and tau > 0):
            raise ConfigError(f"A temperature must be a positive number, not {tau!r}.")


def logits_table(src: Source, network: str, epoch: int, seed: int) -> np.ndarray:
    """(n, K) float64 logits of one network.

    Raises:
        ConfigError: it has none, they are not finite, or a label has no logit.
    """
    view = src.view(network, epoch, seed)
    if view.logits is None:
        raise ConfigError(
            f"The logits of {network!r} are not known; give the module, a snapshot, or logits (samples, "
            "classes)."
        )
    table = np.asarray(view.logits, dtype=np.float64)
    when = "" if epoch == AS_GIVEN or network in src.teachers else f" at epoch {epoch}"
    if not np.isfinite(table).all():
        raise ConfigError(
            f"Some logits of {network!r}{when} are NaN or infinite; the network has diverged, leave it out."
        )
    if src.target.min() < 0 or table.shape[1] <= src.target.max():
        raise ConfigError(
            f"Labels run from {src.target.min()} to {src.target.max()}; with the {table.shape[1]} logits of "
            f"{network!r} they must lie in 0 .. {table.shape[1] - 1}."
        )
    return table


def pair_tables(scores: np.ndarray, logs: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """All pairs of N networks at once: what `kdlab.probes.metrics` tells of one pair.

    Args:
        scores: (N, n, K) that rank the classes.
        logs: (T, N, n, K) log-probabilities, one table for each temperature.
        target: (n,) labels.

    Returns:
        accuracy (N,); (N, N) with the reference in the row: agreement, by_chance, right and wrong
        (agreement where the reference is right or wrong; NaN where it never is), top (for 10 classes or
        more); kl (T, N, N); quadrants (N, N, 4) counts: both right, column wrong, row wrong, both wrong.
    """
    count, n, classes = scores.shape
    said = scores.argmax(axis=2)
    hit = said == target
    equal = said[:, None] == said[None]
    often = np.stack([np.bincount(row, minlength=classes) for row in said]) / n
    with np.errstate(invalid="ignore", divide="ignore"):
        right = (equal & hit[:, None]).sum(axis=2) / hit.sum(axis=1)[:, None]
        wrong = (equal & ~hit[:, None]).sum(axis=2) / (~hit).sum(axis=1)[:, None]
    row, column = hit[:, None], hit[None]
    sides = (row & column, row & ~column, ~row & column, ~row & ~column)
    out = {
        "accuracy": hit.mean(axis=1),
        "agreement": equal.mean(axis=2),
        "by_chance": often @ often.T,
        "right": right,
        "wrong": wrong,
        "quadrants": np.stack([side.sum(axis=2) for side in sides], axis=-1),
        "kl": np.stack([divergence(table) for table in logs]),
    }
    if classes >= MOST_OVERLAP:
        member = np.zeros(scores.shape, dtype=np.float32)
        best = np.argsort(-scores, axis=2, kind="stable")[:, :, :TOP]
        np.put_along_axis(member, best, 1.0, axis=2)
        flat = member.reshape(count, -1)
        out["top"] = (flat @ flat.T).astype(np.float64) / (TOP * n)
    return out


def divergence(logs: np.ndarray) -> np.ndarray:
    """(N, N) mean KL(p_row || p_column) in nats, of (N, n, K) log-probabilities."""
    count, n, _ = logs.shape
    flat = logs.reshape(count, -1)
    cross = np.exp(flat) @ flat.T
    return np.maximum(np.diag(cross)[:, None] - cross, 0.0) / n


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Along the last axis."""
    from scipy import special

    return np.asarray(special.log_softmax(logits, axis=-1))


def average(logs: Sequence[np.ndarray]) -> np.ndarray:
    """Logarithm of the mean of probabilities that are given as logarithms."""
    from scipy import special

    return np.asarray(special.logsumexp(np.stack(logs), axis=0)) - np.log(len(logs))

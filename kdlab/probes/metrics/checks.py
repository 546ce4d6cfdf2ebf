"""Reading the inputs of metrics: float64 on the CPU, or one clear sentence of refusal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdlab.errors import ConfigError

MIN_SAMPLES = 4  # debiased HSIC divides by n (n - 3)


def as_matrix(x: Any, name: str) -> Tensor:
    """`x` as an (n, p) float64 tensor on the CPU, cut from any graph.

    Raises:
        ConfigError: not two-dimensional, fewer than 4 rows, no column, or not finite.
    """
    try:
        matrix = torch.as_tensor(x).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{name} cannot be read as a table of numbers ({error}).") from None
    if matrix.ndim != 2:
        raise ConfigError(
            f"{name} must have two dimensions (samples, features), not shape {tuple(matrix.shape)}; "
            "average maps over their positions or flatten them first."
        )
    if matrix.shape[0] < MIN_SAMPLES:
        raise ConfigError(f"{name} has {matrix.shape[0]} samples; at least {MIN_SAMPLES} are needed.")
    if matrix.shape[1] == 0:
        raise ConfigError(f"{name} has no features.")
    if not torch.isfinite(matrix).all():
        rows = int((~torch.isfinite(matrix)).any(dim=1).sum())
        raise ConfigError(f"{name} has NaN or infinite values in {rows} sample(s); leave these out first.")
    return matrix


def as_pair(x: Any, y: Any, names: tuple[str, str] = ("x", "y")) -> tuple[Tensor, Tensor]:
    """Two matrices that describe the same samples in the same order.

    Raises:
        ConfigError: as `as_matrix`, or different numbers of samples.
    """
    left, right = as_matrix(x, names[0]), as_matrix(y, names[1])
    if left.shape[0] != right.shape[0]:
        raise ConfigError(
            f"{names[0]} has {left.shape[0]} samples and {names[1]} has {right.shape[0]}; both must "
            "describe the same samples in the same order."
        )
    return left, right


def centred(x: Tensor, name: str) -> Tensor:
    """`x` without its column means.

    Raises:
        ConfigError: every sample is the same, so that there is nothing to compare.
    """
    result = x - x.mean(dim=0)
    if result.abs().max() <= 1e-12 * max(1.0, float(x.abs().max())):
        raise ConfigError(f"{name} is the same for every sample; a constant representation has no structure.")
    return result


def as_target(target: Any, n: int, classes: int | None = None) -> Tensor:
    """Labels as an (n,) int64 tensor on the CPU.

    Args:
        classes: how many classes there are, if known; labels must lie in 0 .. classes - 1.

    Raises:
        ConfigError: another shape or length, not whole numbers, out of range, or a single class.
    """
    labels = torch.as_tensor(target).detach().cpu()
    if labels.ndim != 1 or labels.shape[0] != n:
        raise ConfigError(
            f"target must hold one label for each of the {n} samples, not shape {tuple(labels.shape)}."
        )
    if labels.is_floating_point() and not torch.equal(labels, labels.round()):  # NaN fails here too
        raise ConfigError("target must hold whole class numbers.")
    labels = labels.to(torch.int64)
    if classes is not None and (labels.min() < 0 or labels.max() >= classes):
        raise ConfigError(
            f"target has labels from {int(labels.min())} to {int(labels.max())}, but there are {classes} "
            f"classes (0 to {classes - 1})."
        )
    if labels.unique().numel() < 2:
        raise ConfigError("All samples are of one class; at least two classes are needed.")
    return labels

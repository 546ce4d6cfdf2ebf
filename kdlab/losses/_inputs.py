"""What all losses share about their inputs: precision, and shape checks that cost no GPU wait."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def _raise_precision(value: Any) -> Any:
    """float16 and bfloat16 tensors as float32; float32, float64 and everything else as they are."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() and value.dtype.itemsize < 4 else value
    if isinstance(value, list | tuple):
        return type(value)(_raise_precision(v) for v in value)
    return value


def _first_tensor(values: Sequence[Any]) -> Tensor | None:
    for value in values:
        if isinstance(value, Tensor):
            return value
        if isinstance(value, list | tuple) and (found := _first_tensor(value)) is not None:
            return found
    return None


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: compute in float32 at least, with autocast off (it would lower matrix products)."""

    @functools.wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        tensor = _first_tensor([*args, *kwargs.values()])
        raised = tuple(_raise_precision(a) for a in args)
        named = {name: _raise_precision(a) for name, a in kwargs.items()}
        if tensor is not None and torch.is_autocast_enabled(tensor.device.type):
            with torch.autocast(tensor.device.type, enabled=False):
                return function(*raised, **named)  # type: ignore[arg-type]
        return function(*raised, **named)  # type: ignore[arg-type]

    return computed


def unit(x: Tensor, dim: int, eps: float = 1e-12) -> Tensor:
    """x / ||x|| along `dim`; where the norm is at most `eps`, 0 without gradient (else it would be 1/eps)."""
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / norm.masked_fill(norm <= eps, torch.inf)


def check_logits(student: Tensor, teacher: Tensor, target: Tensor | None = None, classes: int = 1) -> None:
    """Logits must be two (B, C) tensors of one shape with C >= `classes`, labels (B,) int64.

    Raises:
        ValueError: what is wrong, with the shapes.
    """
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(
            "student and teacher logits must have one shape (batch, classes), not "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}."
        )
    if target is not None and (target.shape != student.shape[:1] or target.dtype != torch.int64):
        raise ValueError(
            f"target must hold {student.shape[0]} int64 class labels, not {tuple(target.shape)} "
            f"of {target.dtype}."
        )
    if student.shape[1] < classes:
        raise ValueError(f"this loss needs at least {classes} classes, not {student.shape[1]}.")


def check_maps(student: Tensor, teacher: Tensor, channels: bool = False, size: bool = False) -> None:
    """Maps must be (B, c, h, w) with one batch size; on request one `channels` and one `size`.

    Raises:
        ValueError: what is wrong, with the shapes.
    """
    shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[0] != teacher.shape[0]:
        raise ValueError(f"maps must be (batch, channels, height, width) of one batch, not {shapes}.")
    if channels and student.shape[1] != teacher.shape[1]:
        raise ValueError(f"both maps must have the same number of channels, not {shapes}.")
    if size and student.shape[2:] != teacher.shape[2:]:
        raise ValueError(f"both maps must have the same height and width, not {shapes}.")


def check_batches(student: Tensor, teacher: Tensor, samples: int = 1, ndim: int | None = 2) -> None:
    """Embeddings must be of one batch of at least `samples`; widths may differ.

    Raises:
        ValueError: what is wrong, with the shapes.
    """
    shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
    if ndim is not None and (student.ndim != ndim or teacher.ndim != ndim):
        raise ValueError(f"embeddings must be (batch, width), not {shapes}.")
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(f"student and teacher must see one batch, not {shapes}.")
    if student.shape[0] < samples:
        raise ValueError(f"this loss compares samples and needs at least {samples} in a batch, not {shapes}.")


def check_temperature(temperature: float | Tensor) -> None:
    """A temperature given as a number must be positive (a tensor is not looked at: that would wait).

    Raises:
        ValueError: it is not.
    """
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be a positive number, not {temperature!r}.")

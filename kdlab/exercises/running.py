"""Calling a learner's function: whatever it does comes back as an `Outcome`, never as an exception."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FOREIGN = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


@dataclass
class Outcome:
    """What a call gave.

    Attributes:
        value: what was returned.
        tensor: the same as a tensor without gradient, None where it is not a number or a tensor.
        error: the exception in one sentence, "" where there was none.
        unfinished: whether the function says itself that it is not written yet.
        changed: place of an argument that was changed in place, or None.
        slopes: for each place, the gradients of its tensors (None: none arrives); empty without a graph.
        slope_error: why there is no gradient, if the backward pass failed.
    """

    value: Any = None
    tensor: Tensor | None = None
    error: str = ""
    unfinished: bool = False
    changed: int | None = None
    slopes: dict[int, list[Tensor | None]] = field(default_factory=dict)
    slope_error: str = ""

    @property
    def finite(self) -> bool:
        return self.tensor is not None and bool(torch.isfinite(self.tensor).all())


def run(function: Callable[..., Any], args: Sequence[Any], graph: bool = True) -> Outcome:
    """Call `function` on copies of `args`; with `graph` they ask for gradient, and it is taken."""
    result = Outcome()
    # The learner's random numbers are left as they were, and one call cannot disturb the next.
    with (
        torch.random.fork_rng(devices=[]),
        torch.inference_mode(False),
        torch.enable_grad(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        leaves = [_leaves(arg, graph) for arg in args]
        # Copies of the leaves, so that a change in place is seen instead of refused by torch.
        given = [_rebuilt(arg, [x.clone() for x in own]) for arg, own in zip(args, leaves)]
        try:
            result.value = function(*given)
        except NotImplementedError:
            result.unfinished = True
        except (Exception, SystemExit) as error:
            result.error = describe(error)
        result.tensor = as_tensor(result.value)
        result.changed = _changed(given, args)
        if graph and isinstance(result.value, Tensor) and result.value.requires_grad:
            try:
                result.slopes = _slopes(result.value, leaves)
            except RuntimeError as error:
                result.slope_error = describe(error)
    return result


def as_tensor(value: Any) -> Tensor | None:
    """A detached CPU tensor of floats, or None for what is no number (None, text, a function)."""
    try:
        made = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    if made.dtype.is_complex:
        return None
    return made.detach().to("cpu", torch.float64).clone()


def describe(error: BaseException) -> str:
    """An exception in one sentence, with the last line of the learner's own code."""
    said = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {said[0]}" if said and said[0] else type(error).__name__
    own = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_FOREIGN)]
    if not own:
        return f"it stops with {what}"
    code = f" (`{own[-1].line}`)" if own[-1].line else ""
    return f"it stops in line {own[-1].lineno}{code} with {what}"


def _leaves(arg: Any, graph: bool) -> list[Tensor]:
    """Copies of the tensors in an argument, strides kept; those of floats may ask for gradient."""
    tensors = [arg] if isinstance(arg, Tensor) else arg if isinstance(arg, list) else []
    return [x.detach().clone().requires_grad_(graph and x.is_floating_point()) for x in tensors]


def _rebuilt(arg: Any, tensors: list[Tensor]) -> Any:
    return tensors[0] if isinstance(arg, Tensor) else tensors if isinstance(arg, list) else arg


def _changed(given: Sequence[Any], args: Sequence[Any]) -> int | None:
    for place, (after, before) in enumerate(zip(given, args)):
        old = [before] if isinstance(before, Tensor) else before if isinstance(before, list) else []
        new = [after] if isinstance(after, Tensor) else after if isinstance(after, list) else []
        if len(old) != len(new) or any(
            not torch.is_tensor(y) or x.shape != y.shape or not torch.equal(x, y.detach().to(x.dtype))
            for x, y in zip(old, new)
        ):
            return place
    return None


def _slopes(value: Tensor, leaves: list[list[Tensor]]) -> dict[int, list[Tensor | None]]:
    # Fixed uneven weights: the plain sum of a softmax is constant and would have no gradient.
    weights = torch.arange(1, value.numel() + 1, dtype=value.dtype).cos().reshape(value.shape)
    asked = [(place, x) for place, own in enumerate(leaves) for x in own if x.requires_grad]
    found = torch.autograd.grad((value * weights).sum(), [x for _, x in asked], allow_unused=True)
    slopes: dict[int, list[Tensor | None]] = {}
    for (place, _), gradient in zip(asked, found):
        slopes.setdefault(place, []).append(gradient)
    return slopes

"""Which BatchNorm makes a network's map before its activation, found in the graph of one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from kdlab.models.features import NetSpec
from kdlab.models.trace import left_as_found

# What may lie between the norm and the map: a shortcut's addition, and operations that change no number.
_PASSED = ("Add", "Clone", "Alias", "View", "UnsafeView", "Permute", "Transpose", "ToCopy", "AsStrided")


def norms_of_preacts(spec: NetSpec) -> tuple[nn.Module | None, ...]:
    """The BatchNorm whose output is each of the network's `preacts`, over the addition of a shortcut.

    Of two that are added up, the one that does not lie before the other; of a block's last norm and the
    norm of its projected shortcut, the first operand, which is the block's (the published choice).
    None where the map does not come from a BatchNorm of its width, such as a concatenation.

    The network is left as it was found. It must show its preacts.
    """
    made: dict[Any, nn.Module] = {}

    def note(module: nn.Module, _: Any, out: Tensor) -> None:
        if out.grad_fn is not None:
            made[out.grad_fn] = module

    norms = [m for m in spec.net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_hook(note) for norm in norms]
    parameter = next(spec.net.parameters())
    try:
        with left_as_found(spec.net), torch.enable_grad():
            images = parameter.new_zeros(1, *spec.input_shape).requires_grad_()
            preacts = spec.net.features(images).preacts  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(_norm_of(preact, made) for preact in preacts)


def _norm_of(preact: Tensor, made: dict[Any, nn.Module]) -> nn.Module | None:
    """The module in `made` that `preact` comes from."""
    found: list[Any] = []
    queue, known = [preact.grad_fn], set()
    while queue:
        node = queue.pop(0)
        if node is None or node in known:
            continue
        known.add(node)
        if node in made:
            found.append(node)
        elif type(node).__name__.startswith(_PASSED):
            queue += [before for before, _ in node.next_functions]
    last = [node for node in found if not any(node in set(_before(other)) for other in found)]
    norm = made[last[0]] if last else None
    return norm if norm is not None and norm.num_features == preact.shape[1] else None


def _before(node: Any) -> Iterator[Any]:
    """Every node that `node` depends on, without itself."""
    stack, known = [n for n, _ in node.next_functions], set()
    while stack:
        current = stack.pop()
        if current is None or current in known:
            continue
        known.add(current)
        yield current
        stack += [n for n, _ in current.next_functions]

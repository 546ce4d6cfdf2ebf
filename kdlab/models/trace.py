"""One recorded forward pass of any network: which modules were called, and what lies on every path.

A *trunk* tensor is one that every path from the image to the logits goes through. It is found by
counting paths in the autograd graph, so that branches (shortcuts, attention, inception) are told
from the trunk without knowing the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kdlab.errors import ConfigError

_IN_PLACE = ("relu", "hardtanh", "leaky_relu", "elu", "celu", "selu", "rrelu", "sigmoid", "tanh")
_OTHERS = ("relu6", "gelu", "silu", "swish", "mish", "hardswish", "prelu", "softplus", "softsign")
ACTIVATIONS = frozenset([*_IN_PLACE, *(f"{name}_" for name in _IN_PLACE), *_OTHERS])


class WatchActivations(TorchFunctionMode):
    """Tells of every activation function that is called, numbered from 0.

    `before(number, input)` is called while an in-place function has not yet written over its input,
    `seen(number, output)` afterwards; what it returns, if not None, takes the place of the output.
    """

    def __init__(
        self, seen: Callable[[int, Tensor], Tensor | None], before: Callable[[int, Tensor], None]
    ) -> None:
        super().__init__()
        self.seen, self.before, self.number = seen, before, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in ACTIVATIONS:
            return func(*args, **(kwargs or {}))
        kwargs = kwargs or {}
        number, self.number = self.number, self.number + 1
        self.before(number, args[0] if args else kwargs["input"])
        out = func(*args, **kwargs)
        replaced = self.seen(number, out)
        return out if replaced is None else replaced


@dataclass(eq=False)
class Call:
    """One call of a module, or of an activation function (`module` is None).

    Attributes:
        path: of the module; of a function, the module called just before it.
        number: which call of this module it was, from 0; of functions, which function call at all.
        input: its first argument, where that is a tensor.
        node: the autograd node of the output; names the tensor, also after in-place changes.
        output: None where it is not a single tensor.
        version: how often the output had been changed in place when the call returned.
        overwrites: the output took the place of the input.
    """

    path: str
    number: int
    module: nn.Module | None
    input: Tensor | None = None
    output: Tensor | None = None
    node: Any = None
    version: int = 0
    overwrites: bool = False
    children: list[Call] = field(default_factory=list)

    @property
    def composite(self) -> bool:
        """Whether other modules were called inside."""
        return any(child.module is not None for child in self.children)

    @property
    def activation(self) -> bool:
        """Whether it is an activation: a function, a module of PyTorch, or one named like a function."""
        if self.module is None:
            return True
        name = type(self.module).__name__.lower()
        return not self.composite and (name in ACTIVATIONS or name in ("leakyrelu", "gelutanh", "quickgelu"))

    @property
    def changed_later(self) -> bool:
        """Whether the network wrote over the output after the call."""
        return self.output is not None and self.output._version != self.version

    def finish(self, out: Any) -> None:
        """Note what the call returned."""
        if isinstance(out, Tensor):
            self.output, self.node, self.version = out, out.grad_fn, out._version
            self.overwrites = self.input is not None and out.data_ptr() == self.input.data_ptr()


@dataclass(eq=False)
class Trace:
    """A recorded pass.

    Attributes:
        root: the call of the network itself; its children are nested calls.
        calls: all calls in the order in which they returned.
        image: height and width of the images.
        trunk: nodes that every path goes through.
        reached: nodes on any path from the images to the logits.
    """

    root: Call
    calls: list[Call]
    image: tuple[int, int]
    trunk: set[Any]
    reached: set[Any]


def trace(module: nn.Module, shape: tuple[int, int, int]) -> Trace:
    """Record `module` on two random images; modes, buffers, gradients and random state stay as they are.

    Raises:
        ConfigError: the network does not return one (B, K) tensor.
        Exception: whatever the network raises on images of this shape.
    """
    first = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, *shape, generator=generator).to(first.device, first.dtype).requires_grad_()
    paths = {m: path for path, m in module.named_modules()}
    stack: list[Call] = []
    calls: list[Call] = []
    counts: dict[nn.Module, int] = {}

    def enter(m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else next(iter(kwargs.values()), None)
        call = Call(paths[m], counts.get(m, 0), m, given if isinstance(given, Tensor) else None)
        counts[m] = call.number + 1
        if stack:
            stack[-1].children.append(call)
        stack.append(call)

    def leave(_m: nn.Module, _args: Any, out: Any) -> None:
        call = stack.pop()
        call.finish(out)
        calls.append(call)

    def function(number: int, out: Tensor) -> None:
        call = Call(calls[-1].path if calls else "", number, None, before[0])
        call.finish(out)
        stack[-1].children.append(call)
        calls.append(call)

    before: list[Tensor] = []

    def remember(_number: int, given: Tensor) -> None:
        before[:] = [given]

    with left_as_found(module), torch.enable_grad(), WatchActivations(function, remember):
        hooks = []
        for m in paths:
            hooks.append(m.register_forward_pre_hook(enter, with_kwargs=True))
            hooks.append(m.register_forward_hook(leave))
        try:
            logits = module(images.clone())  # some networks change their input in place
        finally:
            for hook in hooks:
                hook.remove()
    check_logits(module, logits, 2)
    root = calls.pop()
    trunk, reached = _cut_nodes(logits, images)
    return Trace(root, calls, (shape[1], shape[2]), trunk, reached)


def check_logits(module: nn.Module, logits: Any, batch: int) -> None:
    """Refuse a network that does not return (B, K) logits.

    Raises:
        ConfigError: says what it returned and what to do.
    """
    name = type(module).__name__
    if not isinstance(logits, Tensor):
        mode = " in training mode" if module.training else ""
        raise ConfigError(
            f"{name} returns a {type(logits).__name__}{mode}, and kdlab needs one (B, K) tensor of logits; "
            "wrap it in a module that returns the logits alone (or build it without auxiliary heads)."
        )
    if logits.dim() != 2 or logits.shape[0] != batch:
        raise ConfigError(
            f"{name} returns a tensor of shape {tuple(logits.shape)} for {batch} images, and kdlab needs "
            "logits of shape (B, K); wrap it in a module that returns those."
        )


def submodule(module: nn.Module, path: str) -> nn.Module:
    """The module at a path of `named_modules`; a property of that name does not hide it."""
    for part in path.split(".") if path else ():
        inner = module._modules[part]
        assert inner is not None
        module = inner
    return module


@contextmanager
def left_as_found(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every mode, buffer and the random state of the CPU as before, after."""
    modes = {m: m.training for m in module.modules()}
    buffers = [(b, b.detach().clone()) for b in module.buffers()]
    state = torch.get_rng_state()
    module.eval()
    try:
        yield
    finally:
        for m, mode in modes.items():
            m.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):  # a needless write would spoil graphs made before
                    buffer.copy_(value)
        torch.set_rng_state(state)


def _cut_nodes(logits: Tensor, images: Tensor) -> tuple[set[Any], set[Any]]:
    """(nodes every path from logits to images goes through, nodes on any such path)."""
    target = torch.autograd.graph.get_gradient_edge(images).node
    if logits.grad_fn is None:
        return set(), set()
    order: list[Any] = []  # every node behind all that it depends on
    seen: set[Any] = set()
    todo: list[tuple[Any, bool]] = [(logits.grad_fn, False)]
    while todo:
        node, done = todo.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            todo.append((node, True))
            todo += [(n, False) for n, _ in node.next_functions if n is not None and n not in seen]
    to_images: dict[Any, int] = {}
    for node in order:
        below = sum(to_images[n] for n, _ in node.next_functions if n is not None)
        to_images[node] = below + (node is target)
    from_logits = dict.fromkeys(order, 0)
    from_logits[logits.grad_fn] = 1
    for node in reversed(order):
        for n, _ in node.next_functions:
            if n is not None:
                from_logits[n] += from_logits[node]
    total = to_images[logits.grad_fn]
    reached = {n for n in order if to_images[n]}
    return {n for n in reached if to_images[n] * from_logits[n] == total}, reached

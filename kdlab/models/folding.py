"""Frozen networks with their BatchNorm layers folded into the convolutions before them.

In evaluation mode a BatchNorm is a fixed scale and shift of each channel, so it can be worked into the
weights of the layer whose output it reads, and one pass over the map is saved. That is done only where
nothing else reads this output, found by recording one forward pass, and only where it is
verified to change nothing but rounding.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdlab.errors import ConfigError
from kdlab.models.features import Features, StagedNet
from kdlab.models.trace import left_as_found, submodule

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def fold_batchnorm(net: StagedNet, input_shape: Sequence[int]) -> StagedNet:
    """A frozen copy of `net` in evaluation mode, in which every BatchNorm that can be is folded away.

    A folded BatchNorm is replaced by an `nn.Identity` (one with an activation of its own by that
    activation), so that paths of modules, hooks and taps stay what they are; names in the state
    dictionary do not. All `Features` are those of `net` but for rounding, which is checked on random
    images: where they are not, or `net` cannot be examined, the copy is an unfolded one.

    Args:
        net: left as it is. Shares nothing with the copy.
        input_shape: (C, H, W) of the images.

    Raises:
        ConfigError: `net` cannot be copied.
    """
    first = next(iter(net.parameters()), torch.zeros(()))
    plain = _frozen(net).cpu()  # there float32 is float32: GPUs may round products to fewer bits
    try:
        pairs = _pairs(plain, input_shape)
        folded = _folded(plain, pairs) if pairs else plain
        if pairs and not _same(plain, folded, input_shape):
            folded = plain
    except Exception:  # whatever a foreign network raises when it is run here; unfolded it may well work
        folded = plain
    return folded.to(first.device)


def foldable(net: StagedNet, input_shape: Sequence[int]) -> list[tuple[str, str]]:
    """Paths (layer, norm) of each BatchNorm that `fold_batchnorm` folds, in the order of the forward pass.

    Raises:
        Exception: whatever `net` raises on images of this shape.
    """
    return [(pair.layer, pair.norm) for pair in _pairs(_frozen(net).cpu(), input_shape)]


@dataclass(frozen=True)
class _Pair:
    """A layer, the norm that reads it, and what takes their places."""

    layer: str
    norm: str
    new_layer: nn.Module
    new_norm: nn.Module


def _frozen(net: StagedNet) -> StagedNet:
    try:
        return copy.deepcopy(net).eval().requires_grad_(False)
    except RuntimeError as error:
        raise ConfigError(
            f"{type(net).__name__} cannot be copied ({str(error).splitlines()[0]}); it seems to hold "
            "tensors of an earlier pass with gradients: delete them, or run that pass under torch.no_grad()."
        ) from error


def _folded(plain: StagedNet, pairs: Sequence[_Pair]) -> StagedNet:
    folded = copy.deepcopy(plain)
    for pair in pairs:
        for path, module in ((pair.layer, pair.new_layer), (pair.norm, pair.new_norm)):
            parent, _, name = path.rpartition(".")
            submodule(folded, parent)._modules[name] = module
    return folded.eval().requires_grad_(False)


# ---- which norms ------------------------------------------------------------------------------------


class _Reads(TorchDispatchMode):
    """Counts how often each tensor is given to an operation (by identity; the recorder keeps them alive)."""

    def __init__(self) -> None:
        super().__init__()
        self.count: dict[int, int] = {}
        self.alive: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                self.count[id(value)] = self.count.get(id(value), 0) + 1
                self.alive.append(value)
        return func(*args, **kwargs)


@dataclass(eq=False)
class _Seen:
    """Calls of one module in the recorded pass."""

    calls: int = 0
    given: Tensor | None = None  # None unless it is the only argument
    out: Tensor | None = None
    reads_before: int = 0  # how often `given` had been read before the call
    reads_after: int = 0  # ... and after it


def _pairs(net: StagedNet, input_shape: Sequence[int]) -> list[_Pair]:
    """All pairs of `net` (frozen, on the CPU) that can be folded."""
    paths = {m: path for path, m in net.named_modules()}
    layers = {m for m in paths if _is_layer(m)}
    norms = {m for m in paths if _is_norm(m)}
    if not layers or not norms:
        return []
    seen = {m: _Seen() for m in (*layers, *norms)}
    order: list[nn.Module] = []
    reads = _Reads()

    def enter(m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        note = seen[m]
        note.calls += 1
        order.append(m)
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            note.given = args[0]
            note.reads_before = reads.count.get(id(args[0]), 0)

    def leave(m: nn.Module, _args: Any, out: Any) -> None:
        note = seen[m]
        note.out = out if isinstance(out, Tensor) else None
        if note.given is not None:
            note.reads_after = reads.count.get(id(note.given), 0)

    hooks = []
    for m in seen:
        hooks.append(m.register_forward_pre_hook(enter, with_kwargs=True))
        hooks.append(m.register_forward_hook(leave))
    try:
        with left_as_found(net), torch.no_grad(), reads:
            features = net.features(_images(net, input_shape, seed=0))
    finally:
        for hook in hooks:
            hook.remove()
    shown = {t.untyped_storage().data_ptr() for t in _tensors(features).values()}
    makers = {id(n.out): m for m, n in seen.items() if m in layers and n.out is not None and n.calls == 1}
    found = []
    for norm in order:
        note = seen[norm]
        layer = makers.get(id(note.given))
        if norm not in norms or layer is None or note.given is None or note.calls != 1:
            continue
        others = note.reads_before or reads.count.get(id(note.given), 0) != note.reads_after
        if others or note.given.untyped_storage().data_ptr() in shown or seen[layer].given is None:
            continue
        pair = _fuse(paths[layer], layer, paths[norm], norm, seen[layer].given)
        if pair is not None:
            found.append(pair)
    return found


def _untouched(m: nn.Module, names: Sequence[str]) -> bool:
    """Whether the module's values are its own plain parameters, and no hook changes what it does."""
    own = all(m._parameters.get(name) is not None or m._buffers.get(name) is not None for name in names)
    return own and not m._forward_hooks and not m._forward_pre_hooks


def _is_layer(m: nn.Module) -> bool:
    return isinstance(m, (*_CONVOLUTIONS, nn.Linear)) and _untouched(m, ["weight"])


def _is_norm(m: nn.Module) -> bool:
    # without running statistics it normalises by those of the batch, in evaluation mode too
    return isinstance(m, _NORMS) and _untouched(m, ["running_mean", "running_var"])


def _fuse(
    layer_path: str, layer: nn.Module, norm_path: str, norm: nn.Module, given: Tensor | None
) -> _Pair | None:
    """The pair as one layer, if that gives the same; None if not, as for layers that change their weights.

    Computed in float64, then rounded once, so that the check need not allow for rounding.
    """
    assert given is not None
    layer64, norm64 = copy.deepcopy(layer).double(), copy.deepcopy(norm).double()
    # timm's norms hold their activation; what is left of them without the norm are their children
    inside = OrderedDict((name, m) for name, m in norm.named_children())
    rest: nn.Module = nn.Sequential(copy.deepcopy(inside)) if inside else nn.Identity()
    probe = torch.randn(given.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    try:
        with torch.no_grad():
            fuse: Any = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
            fused = fuse(layer64, norm64)
            expected = norm64(layer64(probe.clone()))
            got = copy.deepcopy(rest).double()(fused(probe))
    except Exception:  # a subclass with rules of its own
        return None
    if not _close(got, expected, 1e-9):
        return None
    weight = next(layer.parameters())
    return _Pair(layer_path, norm_path, fused.to(weight.dtype), rest)


# ---- whether it is right ----------------------------------------------------------------------------


def _images(net: nn.Module, input_shape: Sequence[int], seed: int) -> Tensor:
    dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *input_shape, generator=generator).to(dtype)


def _tensors(features: Features) -> dict[str, Tensor]:
    """All tensors of `features` by name, such as "stages[1]"."""
    out: dict[str, Tensor] = {}
    for f in fields(Features):
        value = getattr(features, f.name)
        if isinstance(value, Tensor):
            out[f.name] = value
        elif value is not None:
            out |= {f"{f.name}[{i}]": t for i, t in enumerate(value)}
    return out


@torch.no_grad()
def _same(plain: StagedNet, folded: StagedNet, input_shape: Sequence[int]) -> bool:
    """Whether both show and compute the same but for rounding, on other images than were recorded."""
    images = _images(plain, input_shape, seed=2)
    results = []
    for net in (plain, folded):
        with left_as_found(net):
            seen = net.features(images)
            values = {k: t.clone() for k, t in _tensors(seen).items()}
            values |= {"classified": net.classifier(seen.embedding), "forward": net(images)}
            results.append(values)
    before, after = results
    return before.keys() == after.keys() and all(_close(after[k], before[k], 1e-4) for k in before)


def _close(got: Any, expected: Tensor, tolerance: float) -> bool:
    """Equal to within `tolerance` times the largest value."""
    if not isinstance(got, Tensor) or got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    scale = float(expected.abs().max())
    return bool((got - expected).abs().max() <= tolerance * scale)  # False for values that are not finite

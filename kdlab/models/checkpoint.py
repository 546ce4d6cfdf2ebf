"""Weights in and out of files: strict, without pickled code, and whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdlab.errors import CheckpointError
from kdlab.files import whole_file

_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel (and of tapped networks), of torch.compile
_DAMAGED = "it is damaged or not a file of weights; copy or download it again"


class State(dict[str, Tensor]):
    """Names to tensors, with `metadata`: the plain values stored beside them, as text.

    >>> state = kdlab.models.State({"fc.bias": torch.zeros(10)}, {"epoch": "12"})
    >>> list(state), state.metadata
    (['fc.bias'], {'epoch': '12'})
    """

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(tensors)
        self.metadata = dict(metadata or {})


@dataclass(frozen=True)
class Loaded:
    """What `load_checkpoint` did. The last three are empty after a strict load.

    Attributes:
        metadata: plain values found beside the weights (epoch, accuracy, ...), as text.
        missing: names of the network that the file has not.
        unexpected: names of the file that the network has not.
        mismatched: names with different shapes.

    >>> net, other = kdlab.models.build("resnet8", 10), kdlab.models.build("resnet8", 100)
    >>> kdlab.models.load_checkpoint(other, net.state_dict(), strict=False).mismatched
    ('fc.weight', 'fc.bias')
    """

    metadata: dict[str, str]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()


def read_state(path: str | os.PathLike[str]) -> State:
    """The weights in a file, on the CPU, under plain names.

    Reads .safetensors and whatever `torch.save` wrote (.pt, .pth, .th, .pt.tar), told apart by
    their content. Takes the state dictionary out of `{"state_dict": ...}` or `{"model": ...}` and
    the prefix "module." off the names. No code in the file is run (`weights_only=True`).

    Raises:
        CheckpointError: the file is missing, damaged, or holds no state dictionary; it is named.

    >>> torch.save({"state_dict": {"module.fc.bias": torch.zeros(10)}}, "theirs.pt")
    >>> list(kdlab.models.read_state("theirs.pt"))
    ['fc.bias']
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}; check the path.")
    try:
        with open(path, "rb") as file:
            start = file.read(9)
        content, metadata = _read_safetensors(path) if start[8:] == b"{" else (_read_torch(path), {})
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can make the readers raise nearly anything
        raise CheckpointError(f"{path} cannot be read: {_DAMAGED} ({_first_line(error)}).") from error
    return _unwrap(content, metadata, path)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def _read_torch(path: Path) -> Any:
    import pickle

    # Public checkpoints keep the accuracy as a NumPy number; these types hold values, not code.
    kinds = ("float64", "float32", "int64", "int32", "bool")
    numbers: list[Any] = [np.dtype, *(type(np.dtype(kind)) for kind in kinds)]
    scalar = np.float64(0).__reduce__()[0]
    numbers += [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    try:
        # An open file, because torch.load goes by the name's ending and we go by the content.
        with open(path, "rb") as file, torch.serialization.safe_globals(numbers):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" not in str(error).lower():  # PyTorch's long text advises to switch its check off
            raise CheckpointError(f"{path} cannot be read: {_DAMAGED}.") from error
        raise CheckpointError(
            f"{path} holds Python objects beside tensors, which kdlab does not load because they can run "
            "code; save the state dictionary alone: torch.save(net.state_dict(), path)."
        ) from error


def _unwrap(content: Any, metadata: dict[str, str], path: Path) -> State:
    while isinstance(content, Mapping) and not _is_state(content):
        inner = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        plain = (str, int, float, np.number)
        metadata |= {str(k): str(v) for k, v in content.items() if isinstance(v, plain)}
        metadata |= {
            str(k): str(v.item()) for k, v in content.items() if isinstance(v, Tensor) and v.numel() == 1
        }
        content = content[inner]
    if not isinstance(content, Mapping) or not _is_state(content):
        found = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            found = f"a mapping with {', '.join(map(repr, list(content)[:5])) or 'nothing in it'}"
        raise CheckpointError(
            f"{path} holds no state dictionary but {found}; save one with torch.save(net.state_dict(), path)."
        )
    return State(_strip(content), metadata)


def _is_state(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


def _strip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` without the prefixes that all of its names share."""
    plain = dict(state)
    while any(shared := [p for p in _PREFIXES if plain and all(name.startswith(p) for name in plain)]):
        plain = {name.removeprefix(shared[0]): value for name, value in plain.items()}
    return plain


def load_checkpoint(
    net: nn.Module, source: str | os.PathLike[str] | Mapping[str, Tensor], strict: bool = True
) -> Loaded:
    """Put weights into `net`; either all that were asked for, or none and an error.

    Args:
        net: changed in place; keeps its device and precision.
        source: a file (see `read_state`) or a state dictionary.
        strict: every name and shape must agree. Otherwise what fits is loaded and the rest is
            reported.

    Returns:
        what was found and, unless `strict`, what did not fit.

    Raises:
        CheckpointError: unreadable, or it does not fit; the network is as it was.

    >>> net, other = kdlab.models.build("resnet8", 10), kdlab.models.build("resnet8", 10)
    >>> kdlab.models.load_checkpoint(other, net.state_dict())
    Loaded(metadata={}, missing=(), unexpected=(), mismatched=())
    >>> kdlab.models.state_hash(net) == kdlab.models.state_hash(other)
    True
    """
    where = "The state dictionary" if isinstance(source, Mapping) else str(source)
    state = State(_strip(source)) if isinstance(source, Mapping) else read_state(source)
    own = _strip(net.state_dict())
    # Checkpoints from before PyTorch 0.4.1 lack this counter, which plain BatchNorm does not use.
    missing = tuple(n for n in own if n not in state and not n.endswith("num_batches_tracked"))
    unexpected = tuple(n for n in state if n not in own)
    mismatched = tuple(n for n in state if n in own and state[n].shape != own[n].shape)
    fitting = [n for n in state if n in own and n not in mismatched]
    if (strict and (missing or unexpected or mismatched)) or not fitting:
        reason = _misfit(state, own, missing, unexpected, mismatched)
        raise CheckpointError(f"{where} does not fit this {type(net).__name__}: {reason}.")
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(state[name])
    return Loaded(state.metadata, missing, unexpected, mismatched)


def _misfit(
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    missing: tuple[str, ...],
    unexpected: tuple[str, ...],
    mismatched: tuple[str, ...],
) -> str:
    """Why it does not fit, in the words of someone who chose the wrong number or network."""
    if mismatched and not missing and not unexpected:
        weights = [n for n in mismatched if own[n].dim() >= 2 and own[n].dim() == state[n].dim()]
        if len(weights) == 1 and own[weights[0]].shape[1:] == state[weights[0]].shape[1:]:
            theirs, ours = state[weights[0]].shape[0], own[weights[0]].shape[0]
            return f"it has {theirs} classes and the network has {ours}; build one with num_classes={theirs}"
        if len(mismatched) == 1 and own[mismatched[0]].dim() == 4:
            theirs, ours = state[mismatched[0]].shape[1], own[mismatched[0]].shape[1]
            if state[mismatched[0]].shape[2:] == own[mismatched[0]].shape[2:] and theirs != ours:
                images = f"it takes images of {theirs} channels and the network takes {ours}"
                return f"{images}; build one with in_channels={theirs}"
    parts = []
    if missing:
        parts.append(f"it lacks {_some(missing)}")
    if unexpected:
        parts.append(f"the network has no {_some(unexpected)}")
    if mismatched:
        shapes = [f"{n} {tuple(state[n].shape)} for {tuple(own[n].shape)}" for n in mismatched]
        parts.append(f"shapes differ: {_some(shapes)}")
    return "; ".join(parts) + "; it belongs to another network"


def _some(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def save_checkpoint(
    net: nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write the weights of `net` as safetensors; a reader sees the old file or the new one, never a part.

    Args:
        net: a "module." prefix that all its names share is left out.
        path: should end in .safetensors; its folder is made if needed.
        metadata: text to text, kept in the file's header.

    Returns:
        the path.

    Raises:
        CheckpointError: metadata that is not text, or the file cannot be written.

    >>> net = kdlab.models.build("resnet8", 10)
    >>> path = kdlab.models.save_checkpoint(net, "mine.safetensors", {"epoch": "12"})
    >>> kdlab.models.read_state(path).metadata["epoch"]
    '12'
    """
    from safetensors.torch import save_file

    metadata = dict(metadata or {})
    wrong = [k for k, v in metadata.items() if not isinstance(k, str) or not isinstance(v, str)]
    if wrong:
        raise CheckpointError(f"Metadata of a checkpoint is text; put str() around {wrong[0]!r}.")
    path = Path(path)
    # Cloned, because tied weights share storage and safetensors stores every name by itself.
    tensors = {n: t.detach().cpu().clone().contiguous() for n, t in _strip(net.state_dict()).items()}
    try:
        with whole_file(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except Exception as error:  # safetensors reports a full disk with an error class of its own
        raise CheckpointError(
            f"Cannot write {path}: {_first_line(error)}; choose a folder you may write to."
        ) from error
    return path


def state_hash(net: nn.Module | Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, types, shapes and bytes of all parameters and buffers.

    The same on every device, and for a network and its tapped form.

    >>> net = kdlab.models.build("resnet8", 10)
    >>> before = kdlab.models.state_hash(net)
    >>> net.classifier.bias.data += 1
    >>> len(before), kdlab.models.state_hash(net) == before
    (64, False)
    """
    state = _strip(net.state_dict() if isinstance(net, nn.Module) else net)
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]

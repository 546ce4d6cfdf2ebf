"""Where a foreign network shows its stages and its classifier, found in one recorded pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from kdlab.errors import ConfigError, unknown_name
from kdlab.models.maps import to_map
from kdlab.models.trace import Call, Trace

_MOST_STAGES = 4  # shown of a network that never changes the shape of its maps, such as a ViT


@dataclass(frozen=True)
class Tap:
    """Which tensor of a forward pass to show: the output of a numbered call.

    Attributes:
        path: of the module; "" for an activation function.
        number: which call of the module; of a function, which activation of the pass.
        function: whether it is an activation function that no module stands for.
        activation: its input is the map before the activation.
        overwrites: it works in place on that input.
        overwritten: the network later changes the output in place.
    """

    path: str
    number: int
    function: bool = False
    activation: bool = False
    overwrites: bool = False
    overwritten: bool = False

    @classmethod
    def of(cls, call: Call, careful: bool = False) -> Tap:
        """The tap that shows the output of `call`; `careful`: guard it from overwriting in any case."""
        function = call.module is None
        return cls(
            path="" if function else call.path,
            number=call.number,
            function=function,
            activation=call.activation,
            overwrites=call.overwrites,
            overwritten=careful or call.changed_later,
        )


def find_classifier(trace: Trace, name: str | None) -> Call:
    """The linear layer (or 1x1 convolution) whose output is the logits.

    Raises:
        ConfigError: there is none, or the one named is another layer.
    """
    logits = trace.root.output
    assert logits is not None
    linear = [c for c in trace.calls if _is_linear(c)]
    good = [c for c in linear if not c.changed_later and _close(_vector(c.output), logits)]
    if name is not None:
        paths = dict.fromkeys(c.path for c in trace.calls if c.module is not None)
        if name not in paths:
            raise unknown_name("module", name, paths)
        good = [c for c in good if c.path == name]
        if not good:
            raise ConfigError(
                f"{name!r} is not the classifier: its output is not the logits; name the Linear layer (or "
                "1x1 convolution) that the network ends in, or leave classifier= out to have it found."
            )
    if good:
        return good[-1]
    for c in linear:
        out = _vector(c.output)
        for ending in (torch.log_softmax, torch.softmax):
            if out.shape == logits.shape and _close(ending(out, 1), logits):
                raise ConfigError(
                    f"The network applies {ending.__name__} to the output of {c.path!r}; distillation needs "
                    f"the logits themselves, so take the {ending.__name__} out of the network."
                )
    raise ConfigError(
        "No linear layer of the network gives its logits, so there is no classifier that reads an embedding; "
        "end the network in nn.Linear (or a 1x1 convolution and a global average)."
    )


def _is_linear(call: Call) -> bool:
    m, given, out = call.module, call.input, call.output
    if given is None or out is None:
        return False
    if isinstance(m, nn.Linear):
        return given.dim() == 2
    return isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.groups == 1 and given.dim() == 4


def _vector(out: Tensor | None) -> Tensor:
    assert out is not None
    return out.mean((2, 3)) if out.dim() == 4 else out


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    a, b = a.detach().float(), b.detach().float()
    return bool(torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max())))


def named_stages(trace: Trace, names: Sequence[str]) -> list[tuple[str, Call]]:
    """The stages a user named, shallow to deep, each with the call that is shown for it.

    Raises:
        ConfigError: no such module, it was not called, or its output is not a map.
    """
    last = {c.path: c for c in trace.calls if c.module is not None}
    for name in names:
        if name not in last:
            raise unknown_name("module that is called in the forward pass", name, last)
        if _map(trace, last[name]) is None:
            out = last[name].output
            shape = "not one tensor" if out is None else f"of shape {tuple(out.shape)}"
            raise ConfigError(
                f"The output of {name!r} is {shape}, not maps (B, c, h, w) or tokens (B, h*w, c); "
                "name another module."
            )
    in_order = sorted(dict.fromkeys(names), key=lambda name: trace.calls.index(last[name]))
    return [(name, _activated(trace, last[name])) for name in in_order]


def find_stages(trace: Trace) -> tuple[list[tuple[str, Call]], Call | None]:
    """The stages (name, call) of any network, and the call of its stem if it has one.

    A stage ends with the last trunk map of each resolution. A network of one resolution has a stage
    for each width; one of a single shape, such as a ViT, is cut into quarters.
    """
    parents = {id(child): call for call in [*trace.calls, trace.root] for child in call.children}
    line = _until_pooled(trace, _trunk_maps(trace))
    groups = [list(g) for _, g in groupby(range(len(line)), key=lambda i: _shape(trace, line[i])[1:])]
    blocks = [i for i, c in enumerate(line) if c.composite]
    stem = blocks[0] - 1 if blocks else -1
    groups = [g for g in groups if g[-1] > stem and any(_works(line[i]) for i in g)]
    if len(groups) == 1:
        picked = _units(trace, line, [i for i in groups[0] if i > stem])
    else:
        picked = [_end(trace, line, g, parents) for g in groups]
    stages = [(name, _activated(trace, call)) for name, call in zip(_names(trace, picked), picked)]
    return stages, line[stem] if stem >= 0 else None


def _end(trace: Trace, line: list[Call], group: list[int], parents: dict[int, Call]) -> Call:
    """The last map of a stage: of its last block, or else its last activation, or else its last layer."""
    blocks = [line[i] for i in group if line[i].composite]
    if not blocks:
        acts = [line[i] for i in group if line[i].activation]
        return acts[-1] if acts else line[group[-1]]
    # What was taken for a block can be a branching part of a block without a shortcut.
    block, outer = blocks[-1], parents[id(blocks[-1])]
    while outer is not trace.root and type(outer.module) is not nn.Sequential:
        if any(line[i].node is outer.node for i in group):
            block = outer
        outer = parents[id(outer)]
    return block


def _units(trace: Trace, line: list[Call], group: list[int]) -> list[Call]:
    """Stage ends where the resolution never changes: at changes of width, else evenly spread."""
    calls = [line[i] for i in group]
    kinds = [
        [c for c in calls if c.composite],
        [c for c in calls if c.activation],
        [c for c in calls if _works(c)],
    ]
    units = next((k for least in (2, 1) for k in kinds if len(k) >= least), [])
    runs = [list(g) for _, g in groupby(units, key=lambda c: _shape(trace, c)[0])]
    if len(runs) > 1:
        return [run[-1] for run in runs]
    count = min(_MOST_STAGES, len(units))
    return [units[-(-len(units) * (k + 1) // count) - 1] for k in range(count)]


def find_final(trace: Trace, embedding: Tensor, stages: Sequence[Call]) -> Call | None:
    """The call whose map has the embedding as its global average; a stage itself where possible."""
    if float(embedding.detach().abs().max()) == 0.0:
        return None
    best: tuple[int, Call] | None = None
    for call in trace.calls:
        maps = None if call.changed_later else _map(trace, call)
        if maps is None or maps.shape[1] != embedding.shape[1] or not _close(maps.mean((2, 3)), embedding):
            continue
        for stage in stages:
            if stage.node is call.node:
                return stage
        size = maps.shape[2] * maps.shape[3]
        if size > 1 and (best is None or size > best[0]):  # a single pixel is a vector, not a map
            best = (size, call)
    return None if best is None else best[1]


def _map(trace: Trace, call: Call) -> Tensor | None:
    return None if call.output is None or call.output.shape[0] != 2 else to_map(call.output, trace.image)


def _shape(trace: Trace, call: Call) -> tuple[int, ...]:
    """(c, h, w) of a call whose output is a map."""
    maps = _map(trace, call)
    return (0, 0, 0) if maps is None else tuple(maps.shape[1:])


def _works(call: Call) -> bool:
    """Whether it is more than a pooling, norm or activation: it has weights of two dimensions or more."""
    return call.module is not None and any(p.dim() > 1 for p in call.module.parameters())


def _trunk_maps(trace: Trace) -> list[Call]:
    """Calls whose outputs are maps on the trunk, in order; containers are opened, branching blocks not."""
    branching = {
        type(c.module)
        for c in trace.calls
        if c.composite
        and type(c.module) is not nn.Sequential
        and c.node in trace.trunk
        and any(k.node in trace.reached and k.node not in trace.trunk for k in c.children)
    }

    def flat(call: Call) -> list[Call]:
        opened = call is trace.root or (call.composite and type(call.module) not in branching)
        if not opened:
            return [call]
        inner = [c for child in call.children for c in flat(child)]
        if call is not trace.root and (not inner or inner[-1].node is not call.node):
            inner.append(call)
        return inner

    line: list[Call] = []
    for call in flat(trace.root):
        same_as_last = line and call.node is line[-1].node
        if not same_as_last and call.node in trace.trunk and _map(trace, call) is not None:
            line.append(call)
    return line


def _until_pooled(trace: Trace, line: list[Call]) -> list[Call]:
    """`line` without what lies behind a global pooling: there are no maps any more."""
    before: tuple[int, ...] = (1, 1)
    for i, call in enumerate(line):
        size = _shape(trace, call)[1:]
        pooling = any(word in type(call.module).__name__ for word in ("Adaptive", "Global"))
        if size == (1, 1) and (min(before) > 2 or pooling):
            return line[:i]
        before = size
    return line


def _activated(trace: Trace, call: Call) -> Call:
    """The activation that ends `call` or follows it directly, over a norm; else `call` itself."""
    acts = [c for c in trace.calls if c.activation and not c.composite and c.node is not None]
    acts.sort(key=lambda c: c.module is None)  # modules first: they need no watching of functions
    for act in acts:
        if act.node is call.node:
            return act
    for act in acts:
        below = _source(act.node)
        if below is not call.node and below is not None and "Norm" in below.name():
            below = _source(below)
        shapes = [None if c.output is None else c.output.shape for c in (act, call)]
        if below is call.node and shapes[0] == shapes[1]:
            return act
    return call


def _source(node: Any) -> Any:
    return node.next_functions[0][0] if node.next_functions else None


def _names(trace: Trace, calls: Sequence[Call]) -> list[str]:
    """A name of its own for each call: the shortest path of a module that put out this tensor.

    Modules that are called more than once, or that hold another of the stages, name nothing; where
    none is left, the module called just before does.
    """
    shared = {c.path for c in trace.calls if c.number and c.module is not None}
    modules = [c for c in trace.calls if c.module is not None and c.path not in shared]
    names: list[str] = []
    for call in calls:
        others = [c.path for c in calls if c is not call]
        paths = [c.path for c in modules if c.node is call.node and not isinstance(c.module, nn.Identity)]
        paths = [p for p in paths if not any(other.startswith(f"{p}.") for other in others)]
        if not paths:
            until = trace.calls.index(call)
            paths = [c.path for c in trace.calls[: until + 1] if c in modules][-1:] or [call.path]
        name = min(paths, key=lambda p: (p.count("."), len(p)))
        names.append(name if name not in names else f"{name} ({names.count(name) + 1})")
    return names

"""What a network shows of itself in one forward pass, and what can be said of it beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Features:
    """Everything one forward pass shows. B is the batch, K the number of classes.

    Attributes:
        logits: (B, K).
        embedding: (B, d), the true input of the classifier.
        stages: the last map of every stage, *after* its activation, shallow to deep; each
            (B, c, h, w). A stage ends where resolution or width changes.
        preacts: the same maps before their activation, aligned with `stages`; None where the
            network cannot tell them.
        stem: (B, c, h, w) the map before the first stage, or None.
        final: (B, c, h, w) the map whose global average is `embedding` (for most networks
            `stages[-1]`), or None where the embedding is not an average of a map.
    """

    logits: Tensor
    embedding: Tensor
    stages: tuple[Tensor, ...]
    preacts: tuple[Tensor, ...] | None = None
    stem: Tensor | None = None
    final: Tensor | None = None

    def detach(self) -> Features:
        """The same features cut from the autograd graph (no copy)."""

        def cut(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.detach()

        return Features(
            logits=self.logits.detach(),
            embedding=self.embedding.detach(),
            stages=tuple(s.detach() for s in self.stages),
            preacts=None if self.preacts is None else tuple(p.detach() for p in self.preacts),
            stem=cut(self.stem),
            final=cut(self.final),
        )

    def part(self, rows: slice) -> Features:
        """The same for a part of the pictures (a view)."""

        def cut(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[rows]
            return tuple(map(cut, value)) if isinstance(value, tuple) else value

        return replace(self, **{f.name: cut(getattr(self, f.name)) for f in fields(self)})


class StagedNet(nn.Module):
    """A classifier that shows its stages: `net(x)` gives logits, `net.features(x)` gives `Features`.

    Subclasses implement `features` and name their classifier and stages. A network of the zoo adds
    nothing to the published state dictionary; a tapped one has "module." before its names, which
    loading and saving strip.
    """

    stage_names: tuple[str, ...] = ()

    def features(self, x: Tensor) -> Features:
        """One forward pass that keeps every map. `x`: (B, C, H, W), normalised."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).logits

    @property
    def classifier(self) -> nn.Linear:
        """The linear layer that turns the embedding into logits."""
        raise NotImplementedError


@dataclass(frozen=True)
class NetSpec:
    """Shapes of a network on one input size, measured by `inspect_net`; sizes without the batch.

    Methods build their projectors from this, so that nothing depends on a network's name.
    """

    name: str
    input_shape: tuple[int, int, int]
    num_classes: int
    embedding_dim: int
    stages: tuple[tuple[int, int, int], ...]
    stage_names: tuple[str, ...]
    stem: tuple[int, int, int] | None
    final: tuple[int, int, int] | None
    has_preacts: bool
    parameters: int
    net: nn.Module = field(repr=False, compare=False)


def inspect_net(net: nn.Module, input_shape: Sequence[int], name: str | None = None) -> NetSpec:
    """Measure the shapes of `net` (a `StagedNet` or a tapped module) with one image of zeros.

    The network is left as it was found (mode and buffers).

    Args:
        net: has `features(x) -> Features`.
        input_shape: (channels, height, width).
        name: how to call it in messages; the class name if not given.
    """
    from kdlab.models.trace import left_as_found

    parameter = next(net.parameters())
    with left_as_found(net), torch.no_grad():
        seen = net.features(parameter.new_zeros(1, *input_shape))  # type: ignore[operator]

    def shape(t: Tensor) -> tuple[int, int, int]:
        return (t.shape[1], t.shape[2], t.shape[3])

    count = len(seen.stages)
    names = tuple(getattr(net, "stage_names", ())) or tuple(f"stage{i + 1}" for i in range(count))
    return NetSpec(
        name=name or type(net).__name__,
        input_shape=(int(input_shape[0]), int(input_shape[1]), int(input_shape[2])),
        num_classes=seen.logits.shape[1],
        embedding_dim=seen.embedding.shape[1],
        stages=tuple(shape(s) for s in seen.stages),
        stage_names=names,
        stem=None if seen.stem is None else shape(seen.stem),
        final=None if seen.final is None else shape(seen.final),
        has_preacts=seen.preacts is not None,
        parameters=sum(p.numel() for p in net.parameters()),
        net=net,
    )

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

    >>> seen = kdlab.models.build("resnet8", 10).features(torch.zeros(4, 3, 32, 32))
    >>> [tuple(stage.shape) for stage in seen.stages]
    [(4, 16, 32, 32), (4, 32, 16, 16), (4, 64, 8, 8)]
    >>> torch.allclose(seen.final.mean((2, 3)), seen.embedding)
    True
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

    >>> class Small(kdlab.models.StagedNet):
    ...     stage_names = ("conv",)
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv, self.fc = torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(4, 10)
    ...     def features(self, x):
    ...         stage = self.conv(x).relu()
    ...         pooled = stage.mean((2, 3))
    ...         return kdlab.models.Features(self.fc(pooled), pooled, (stage,), final=stage)
    ...     @property
    ...     def classifier(self):
    ...         return self.fc
    >>> Small()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
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

    Attributes:
        name: how to call it in messages.
        input_shape: (C, H, W) of the images.
        num_classes: K.
        embedding_dim: d, width of the classifier's input.
        stages, stage_names: (c, h, w) and name of each stage, shallow to deep.
        stem, final: (c, h, w) of `Features.stem` and `Features.final`, or None.
        has_preacts: whether maps before their activation are known.
        parameters: how many numbers there are to train.
        net: the network itself.

    >>> spec = kdlab.models.inspect_net(kdlab.models.build("resnet8", 10, in_channels=1), (1, 8, 8))
    >>> spec.stages, spec.embedding_dim, spec.num_classes
    (((16, 8, 8), (32, 4, 4), (64, 2, 2)), 64, 10)
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

    Returns:
        its `NetSpec`.

    >>> spec = kdlab.models.inspect_net(kdlab.models.build("vgg8", 10), (3, 32, 32))
    >>> dict(zip(spec.stage_names, spec.stages))
    {'block1': (128, 16, 16), 'block2': (256, 8, 8), 'block3': (512, 4, 4), 'block4': (512, 4, 4)}
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

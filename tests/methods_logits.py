"""Steps made of nothing but logits, and the worked sets of the sheets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdlab.methods import Method, Step
from kdlab.models.features import Features, NetSpec

E1 = (
    torch.tensor([[2, 1, 0, -1], [0.5, 1.5, 0, 1], [3, -1, 0.5, 0]]),
    torch.tensor([[4, 1, 0.5, -2], [0, 3, 1, 2], [1, 2, -0.5, 0]]),
    torch.tensor([0, 1, 0]),
)


def r1() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(8, 10), torch.randn(8, 10), torch.randint(0, 10, (8,))


def r3() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(7)
    zs, zt, y = torch.randn(16, 20), torch.randn(16, 20), torch.randint(0, 20, (16,))
    rows = torch.arange(16)
    zs[rows, y] += 2
    zt[rows, y] += 6
    return zs, zt, y


def drawn(b: int = 6, c: int = 7, scale: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """Random logits in float64."""
    zs, zt = scale * torch.randn(2, b, c, dtype=torch.float64)
    return zs, zt, torch.randint(0, c, (b,))


def features(logits: Tensor) -> Features:
    """Logits with an embedding and maps that nothing here should touch, but which would take gradient."""
    b, kind = len(logits), {"dtype": logits.dtype, "requires_grad": logits.requires_grad}
    maps = tuple(torch.randn(b, c, 4, 4, **kind) for c in (3, 5))
    return Features(logits, torch.randn(b, 6, **kind), maps, final=maps[-1])


def spec(classes: int, name: str = "net") -> NetSpec:
    """Shapes of `features`."""
    net = nn.Module()
    net.classifier = nn.Linear(6, classes).requires_grad_(False)
    stages: Any = ((3, 4, 4), (5, 4, 4))
    return NetSpec(name, (3, 8, 8), classes, 6, stages, ("a", "b"), None, None, False, 0, net)


def step_of(zs: Tensor, zt: Tensor, y: Tensor, second: Step | None = None, epoch: int = 30) -> Step:
    return Step(features(zs), y, (features(zt),), (nn.Linear(6, zs.shape[1]),), epoch=epoch, second=second)


def ready(method: Method, zs: Tensor, seed: int = 3) -> Method:
    """Built for these logits, in their precision."""
    torch.manual_seed(seed)
    classes = zs.shape[1]
    method.build(spec(classes, "student"), [spec(classes, "teacher")])
    return method.to(zs.dtype).train()


def values(method: Method, zs: Tensor, zt: Tensor, y: Tensor, **more: Any) -> dict[str, Tensor]:
    """All terms of a method on these logits."""
    return (method if method.built else ready(method, zs)).losses(
        step_of(zs, zt, y, **more), list(method.terms)
    )


def total(method: Method, terms: Mapping[str, Tensor], epoch: int = 30) -> Tensor:
    return torch.stack([method.terms[n].factor(epoch) * v for n, v in terms.items()]).sum()

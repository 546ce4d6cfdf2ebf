"""What one network shows of a set of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from kdlab.errors import ConfigError
from kdlab.probes.inputs import whole
from kdlab.probes.progress import steps

AS_GIVEN = -1  # the "epoch" of networks and arrays that come without one


@dataclass(frozen=True)
class Representation:
    """What one network shows of n pictures; the same fields as a study's snapshot.

    Attributes:
        network, epoch, seed: whose it is; epoch -1 means as given, without a training.
        stages: stage name -> (n, c), shallow to deep; stage maps averaged over their pixels.
        embedding: (n, d), the classifier's input, or None.
        logits: (n, K), or None.
        projected: (n, d_teacher) in the teacher's space, or None.
        attention: stage name -> (m, h, w), mean over channels of the squared map, of the first m
            evaluation pictures.
        classifier: weight (K, d) and bias (K,) of the linear layer that reads the embedding, or None.

    >>> shown = kdlab.probes.Representation("mine", stages={"stage1": np.zeros((60, 8))})
    >>> shown.epoch, list(shown.stages)
    (-1, ['stage1'])
    """

    network: str
    epoch: int = AS_GIVEN
    seed: int = 0
    stages: Mapping[str, np.ndarray] = field(default_factory=dict)
    embedding: np.ndarray | None = None
    logits: np.ndarray | None = None
    projected: np.ndarray | None = None
    attention: Mapping[str, np.ndarray] = field(default_factory=dict)
    classifier: tuple[np.ndarray, np.ndarray] | None = None


@torch.no_grad()
def measure(
    net: nn.Module,
    images: Tensor | np.ndarray | Callable[[np.ndarray], Tensor],
    *,
    name: str = "network",
    batch_size: int = 256,
    n: int | None = None,
) -> Representation:
    """What `net` shows of `images` in eval mode; the mode it was in is put back.

    Args:
        net: a kdlab network, or any classifier (its stages are then found by `kdlab.models.tap`).
        images: (n, C, H, W), normalised as the network was trained; or, for more than fit into memory,
            a function that gives those at some places (then with `n`).
        name: how to call it in figures.
        batch_size: pictures at a time.
        n: how many pictures there are, where `images` is a function.

    Returns:
        what it shows, as arrays.

    Raises:
        ConfigError: networks whose stages cannot be found (see `kdlab.models.tap`).

    >>> net = kdlab.models.build("resnet8", num_classes=10, in_channels=1)
    >>> shown = kdlab.probes.measure(net, torch.zeros(5, 1, 8, 8))
    >>> {name: table.shape for name, table in shown.stages.items()}, shown.logits.shape
    ({'layer1': (5, 16), 'layer2': (5, 32), 'layer3': (5, 64)}, (5, 10))
    """
    if isinstance(images, np.ndarray):
        images = torch.as_tensor(images)
    whole(batch_size, "batch_size", 1)
    given = images  # under another name, as a function below reads it
    take = (lambda places: given[places]) if isinstance(given, Tensor) else given
    n = len(images) if isinstance(images, Tensor) else n
    if not n:
        raise ConfigError("There is no picture to look at; give at least one.")
    if not hasattr(net, "features") or not hasattr(net, "stage_names"):
        from kdlab import models

        net = models.tap(net, input_shape=tuple(take(np.arange(1)).shape[1:]))
    parameter = next(net.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    was_training = net.training
    net.eval()
    parts: list[dict[str, Tensor]] = []
    try:
        for start in steps(range(0, n, batch_size)):
            places = np.arange(start, min(start + batch_size, n))
            seen = net.features(take(places).to(device))  # type: ignore[operator]
            part = {"embedding": seen.embedding, "logits": seen.logits}
            for stage, value in zip(net.stage_names, seen.stages, strict=True):  # type: ignore[arg-type]
                part[f"stage|{stage}"] = value.mean(dim=(2, 3))
                part[f"attention|{stage}"] = value.square().mean(dim=1)
            parts.append({key: value.float().cpu() for key, value in part.items()})
    finally:
        net.train(was_training)
    joined = {key: torch.cat([part[key] for part in parts]).numpy() for key in parts[0]}

    def group(kind: str) -> dict[str, np.ndarray]:
        return {key.split("|", 1)[1]: value for key, value in joined.items() if key.startswith(f"{kind}|")}

    return Representation(
        name,
        stages=group("stage"),
        embedding=joined["embedding"],
        logits=joined["logits"],
        attention=group("attention"),
        classifier=_classifier(net),
    )


def _classifier(net: nn.Module) -> tuple[np.ndarray, np.ndarray] | None:
    layer = getattr(net, "classifier", None)
    if not isinstance(layer, nn.Linear):
        return None
    bias = layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
    return layer.weight.detach().float().cpu().numpy(), bias.detach().float().cpu().numpy()

"""What one forward pass costs: multiply-adds of convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

_COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def multiply_adds(module: nn.Module, input_shape: Sequence[int]) -> dict[str, int]:
    """Multiply-adds of each convolution and linear layer for one input, in the order in which they run.

    Normalisation, activations and pooling are left out: they cost little beside these. The module is left
    as it was found (mode and buffers).

    Args:
        module: a network, or a part of one.
        input_shape: of one input without the batch: (channels, height, width), or (features,).

    Returns:
        Name of the layer in the module -> multiply-adds; a layer that runs twice counts twice.

    >>> layers = kdlab.models.multiply_adds(kdlab.models.build("resnet8", num_classes=10), (3, 32, 32))
    >>> layers["conv1"] == 3 * 16 * 3 * 3 * 32 * 32, layers["fc"] == 64 * 10
    (True, True)
    """
    from kdlab.models.trace import left_as_found

    found: dict[str, int] = {}
    modules = module.named_modules()
    names: dict[nn.Module, str] = {layer: name for name, layer in modules if isinstance(layer, _COUNTED)}

    def count(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        # Each output element is a sum over one row of the weights.
        places = output.numel() // weight.shape[0]
        found[names[layer]] = found.get(names[layer], 0) + places * weight.numel()

    parameter = next(module.parameters())
    handles = [layer.register_forward_hook(count) for layer in names]
    try:
        with left_as_found(module), torch.no_grad():
            module(parameter.new_zeros(1, *input_shape))
    finally:
        for handle in handles:
            handle.remove()
    return found

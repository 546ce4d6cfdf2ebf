"""Multiply-adds, counted by hand and by the library."""

from __future__ import annotations

import torch
from torch import nn

from kdlab import models


def test_multiply_adds_are_those_counted_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=1, groups=4),
        nn.Flatten(),
        nn.Linear(8 * 5 * 4, 7),
    )
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = models.multiply_adds(net, (3, 10, 8))
    assert found == {
        "0": 3 * 8 * 9 * 5 * 4,
        "2": 2 * 8 * 9 * 5 * 4,  # a group sees two of the eight channels
        "4": 8 * 5 * 4 * 7,
    }
    assert list(found) == ["0", "2", "4"]
    assert net.training and all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not any(layer._forward_hooks for layer in net)


def test_a_layer_that_runs_twice_counts_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x))

    assert models.multiply_adds(Twice(), (6,)) == {"layer": 72}


def test_the_stages_of_a_resnet_cost_about_the_same() -> None:
    layers = models.multiply_adds(models.build("resnet20", num_classes=10), (3, 32, 32))
    stages = {k: sum(v for name, v in layers.items() if name.startswith(f"layer{k}")) for k in (1, 2, 3)}
    assert max(stages.values()) < 1.25 * min(stages.values())
    assert 40e6 < sum(layers.values()) < 42e6  # the 41 million of the literature

"""Modules that cannot be tapped are refused in a sentence that helps."""

from __future__ import annotations

from typing import Any

import pytest
from models_nets import InPlace, pictures
from torch import Tensor, nn

from kdlab.errors import ConfigError, UnknownNameError
from kdlab.models import tap


class Returns(nn.Module):
    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what, self.conv, self.fc = what, nn.Conv2d(3, 4, 3), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Any:
        maps = self.conv(x)
        return self.what(self.fc(maps.mean((2, 3))), maps)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda z, m: (z, m), r"returns a tuple.*wrap it"),
        (lambda z, m: {"logits": z}, r"returns a dict.*wrap it"),
        (lambda z, m: m, r"shape \(2, 4, 62, 62\).*\(B, K\)"),
        (lambda z, m: z.log_softmax(1), r"applies log_softmax to the output of 'fc'"),
        (lambda z, m: z.softmax(1), r"applies softmax to the output of 'fc'"),
        (lambda z, m: z.relu(), r"No linear layer of the network gives its logits"),
    ],
)
def test_modules_that_do_not_give_logits(what: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tap(Returns(what))


def test_wrong_names_are_answered_with_the_nearest() -> None:
    net = InPlace()
    with pytest.raises(UnknownNameError, match="did you mean 'conv1'"):
        tap(net, stages=["conv11"])
    with pytest.raises(UnknownNameError, match=r"did you mean 'fc\.1'"):
        tap(net, classifier="fc.2")
    with pytest.raises(ConfigError, match="'conv1' is not the classifier"):
        tap(net, classifier="conv1")
    with pytest.raises(ConfigError, match=r"'fc\.1' is of shape \(2, 10\), not maps"):
        tap(net, stages=["fc.1"])


def test_wrong_sizes() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 10 * 10, 10))
    with pytest.raises(ConfigError, match=r"does not take images of 1x224x224: .*input_shape=\(C, H, W\)"):
        tap(net)
    assert tap(net, input_shape=(1, 12, 12)).stage_names == ("1",)
    with pytest.raises(ConfigError, match="input_shape is"):
        tap(net, input_shape=(28, 28))
    with pytest.raises(ConfigError, match=r"needs a torch\.nn\.Module, not str"):
        tap("resnet18")  # type: ignore[arg-type]


def test_auxiliary_heads_in_training_mode_are_refused_clearly() -> None:
    class Auxiliary(Returns):
        def forward(self, x: Tensor) -> Any:
            z = super().forward(x)
            return (z, z) if self.training else z

    net = tap(Auxiliary(lambda z, m: z)).train()
    with pytest.raises(ConfigError, match="in training mode"):
        net.features(pictures(32))

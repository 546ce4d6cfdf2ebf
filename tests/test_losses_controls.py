"""Controls for a teacher: what of its answers is kept, and what is taken out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdlab import losses


@pytest.fixture
def answers() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return 3 * torch.randn(8, 6, dtype=torch.float64), torch.randint(0, 6, (8,))


def own(p: Tensor, y: Tensor) -> Tensor:
    return p.gather(1, y[:, None])[:, 0]


def others(p: Tensor, y: Tensor) -> Tensor:
    return p[~torch.nn.functional.one_hot(y, p.shape[1]).bool()].reshape(len(p), -1)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_even_others_keeps_how_sure_the_teacher_is_of_each_picture(
    answers: tuple[Tensor, Tensor], tau: float
) -> None:
    z, y = answers
    before, after = (z / tau).softmax(1), (losses.even_others(z, y, tau) / tau).softmax(1)
    torch.testing.assert_close(own(after, y), own(before, y))
    rest = others(after, y)
    torch.testing.assert_close(rest, rest[:, :1].expand_as(rest))


def test_smoothed_labels_keeps_the_mean_alone(answers: tuple[Tensor, Tensor]) -> None:
    z, y = answers
    before, after = (z / 4).softmax(1), (losses.smoothed_labels(z, y, 4.0) / 4).softmax(1)
    torch.testing.assert_close(own(after, y), own(before, y).mean().expand(len(y)))
    torch.testing.assert_close(others(after, y), ((1 - own(after, y)) / 5)[:, None].expand(len(y), 5))


def test_reversed_others_swaps_the_ends_and_keeps_the_true_class(answers: tuple[Tensor, Tensor]) -> None:
    z, y = answers
    after = losses.reversed_others(z, y)
    torch.testing.assert_close(own(after, y), own(z, y))
    before, now = others(z, y), others(after, y)
    torch.testing.assert_close(now.sort(1).values, before.sort(1).values)  # the same shares
    torch.testing.assert_close(now.argmax(1), before.argmin(1))
    torch.testing.assert_close(losses.reversed_others(after, y), z)  # twice is nothing


def test_a_control_says_nothing_of_the_other_classes_where_it_should_not(
    answers: tuple[Tensor, Tensor],
) -> None:
    """Against the even teacher an even student has no NCKD, against the real one it has."""
    z, y = answers
    even = losses.even_others(z, y)
    assert losses.nckd(torch.zeros_like(z), even, y) < 1e-12
    assert losses.nckd(torch.zeros_like(z), z, y) > 0.1
    assert losses.tckd(even, z, y) < 1e-12


@pytest.mark.parametrize(
    "control", [losses.smoothed_labels, losses.even_others, lambda z, y: losses.reversed_others(z, y)]
)
def test_large_logits_and_half_precision_stay_finite(control) -> None:
    z = torch.tensor([[200.0, -200.0, 0.0], [-200.0, 200.0, 100.0]])
    y = torch.tensor([0, 2])
    assert control(z, y).isfinite().all()
    assert control(z.half() / 4, y).dtype == torch.float32

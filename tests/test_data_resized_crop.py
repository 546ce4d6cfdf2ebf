"""The random resized crop: the windows and pixels of torchvision's, drawn for whole batches."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as vision

from kdlab.data import augment
from kdlab.data.augment import Augmentation, ResizedCrop
from kdlab.errors import ConfigError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 40, 24), (3, 17, 33)])
def test_pixels_are_those_of_torchvision(shape: tuple[int, int, int]) -> None:
    how = augment.get("resized_crop_flip")
    assert isinstance(how, ResizedCrop) and isinstance(how, Augmentation)
    images = torch.randint(0, 256, (60, *shape), dtype=torch.uint8)
    before = images.clone()
    params = how.draw(60, generator(1))
    got = how.apply(images, params)
    assert got.dtype == torch.uint8 and got.shape == images.shape
    differing = 0.0
    for k, window in enumerate(how.windows(params, *shape[1:]).tolist()):
        exact = vision.resized_crop(images[k].float(), *window, list(shape[1:]), antialias=True)
        expected = exact.round().clamp(0, 255).flip(-1) if params[k, -1] else exact.round().clamp(0, 255)
        distance = (expected - got[k].float()).abs()
        assert distance.max() <= 1
        differing += float((distance > 0).float().mean()) / 60
    assert differing < 0.01  # a sum that lands on a half may be rounded either way
    assert images.equal(before)
    assert set(params[:, -1].tolist()) == {0, 1}


@pytest.mark.parametrize("size", [(224, 224), (120, 300)])
def test_windows_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    how = ResizedCrop()
    ours = how.windows(how.draw(40_000, generator()), *size).double()
    picture = torch.zeros(1, *size)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    ).double()
    for number in range(4):
        a, b = ours[:, number], theirs[:, number]
        error = (a.var() / len(a) + b.var() / len(b)).sqrt()
        assert abs(a.mean() - b.mean()) < 5 * error
        assert float(a.std()) == pytest.approx(float(b.std()), rel=0.1)
    top, left, tall, wide = ours.unbind(dim=1)
    assert (top >= 0).all() and (left >= 0).all() and (tall >= 1).all() and (wide >= 1).all()
    assert (top + tall <= size[0]).all() and (left + wide <= size[1]).all()


def test_windows_reach_every_border() -> None:
    how = ResizedCrop()
    top, left, tall, wide = how.windows(how.draw(5000, generator()), 8, 8).unbind(dim=1)
    assert top.min() == left.min() == 0
    assert (top + tall).max() == (left + wide).max() == 8


def test_a_picture_that_no_window_fits_gets_the_largest_of_a_permitted_shape() -> None:
    how = ResizedCrop(scale=(1.0, 1.0))  # the whole area, in a shape that a narrow picture does not have
    params = how.draw(30, generator())
    _, _, tall, wide = how.windows(params, 100, 10).unbind(dim=1)
    assert set(wide.tolist()) == {10} and set(tall.tolist()) == {13}  # 10 / 13 is about 3 / 4
    assert how.apply(torch.zeros(30, 1, 100, 10, dtype=torch.uint8), params).shape == (30, 1, 100, 10)


def test_whole_window_leaves_the_picture_as_it_is() -> None:
    how = ResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False)
    images = torch.randint(0, 256, (10, 3, 16, 16), dtype=torch.uint8)
    assert how.apply(images, how.draw(10, generator())).equal(images)


def test_draws_are_numbers_from_the_generator_alone() -> None:
    how = ResizedCrop()
    first = how.draw(50, generator(4))
    torch.rand(1)
    assert first.equal(how.draw(50, generator(4)))
    assert not first.equal(how.draw(50, generator(5)))
    assert not first.is_floating_point() and first.device.type == "cpu"


@pytest.mark.parametrize("bad", [{"scale": (0.0, 1.0)}, {"scale": (0.5, 0.2)}, {"ratio": (2.0, 1.0)}])
def test_values_that_cannot_work(bad: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        ResizedCrop(**bad)

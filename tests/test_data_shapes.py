"""The drawn pictures: balanced, independent factors that can be seen, and shortcuts on demand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import kdlab.data as kd
from kdlab.data import drawing, shapes
from kdlab.data.shapes import FACTORS
from kdlab.errors import ConfigError, UnknownNameError


@pytest.fixture(scope="module")
def data() -> kd.ImageData:
    return kd.load("shapes")


def dependence(a: torch.Tensor, b: torch.Tensor) -> float:
    """Cramer's V of two discrete variables: 0 independent, 1 determined."""
    table = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(table, (a.numpy(), b.numpy()), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    return math.sqrt(((table - expected) ** 2 / expected).sum() / table.sum() / (min(table.shape) - 1))


def test_what_it_holds(data: kd.ImageData) -> None:
    assert [len(data.train), len(data.val), len(data.test)] == [4800, 1200, 1500]
    assert data.input_shape == (3, 32, 32) and data.num_classes == 8
    assert data.class_names == FACTORS["shape"] and data.factor_names == FACTORS
    for split in (data.train, data.val, data.test):
        counts = torch.bincount(split.labels)
        assert counts.max() - counts.min() <= 1
        assert set(split.factors) == set(FACTORS)
        assert split.factors["shape"].equal(split.labels)
        for name, values in split.factors.items():
            assert (
                torch.bincount(values, minlength=len(FACTORS[name])).min()
                > len(split) / len(FACTORS[name]) * 0.8
            )
    few = kd.load("shapes", labels_per_class=5)
    assert len(few.train) == 40 and few.train.factors["color"].shape == (40,)


def test_factors_are_independent(data: kd.ImageData) -> None:
    names = list(FACTORS)
    factors = data.train.factors
    worst = max(dependence(factors[a], factors[b]) for a in names for b in names if a < b)
    assert worst < 0.06


def test_same_seed_same_pictures(data: kd.ImageData) -> None:
    one = shapes.make(64, 16, seed=3)
    shapes._parts.cache_clear()
    two, other = shapes.make(64, 16, seed=3), shapes.make(64, 16, seed=4)
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert not one.train.images[:16].equal(one.test.images)
    assert shapes.make(64, 16).fingerprint == kd.load(shapes.make(64, 16)).fingerprint


def test_a_shortcut_is_in_training_only() -> None:
    tied = shapes.make(2000, 800, correlate={"color": 0.9})
    for split in (tied.train, tied.val):
        share = (split.factors["color"] == split.labels % 8).double().mean()
        assert abs(share - (0.9 + 0.1 / 8)) < 0.03
    assert dependence(tied.test.factors["color"], tied.test.labels) < 0.15
    assert dependence(tied.train.factors["background"], tied.train.labels) < 0.1
    whole = shapes.make(200, 40, correlate={"background": 1})
    assert whole.train.factors["background"].equal(whole.train.labels % 5)
    with pytest.raises(UnknownNameError, match="did you mean 'color'"):
        shapes.make(200, 40, correlate={"colour": 1})
    for bad in ({"shape": 1.0}, {"color": 1.5}):
        with pytest.raises(ConfigError, match=r"strength 0\.\.1"):
            shapes.make(200, 40, correlate=bad)
    with pytest.raises(ConfigError, match="at least 8 pictures"):
        shapes.make(7, 40)


def foreground(data: kd.ImageData, background: str = "dark") -> tuple[torch.Tensor, kd.Split]:
    """Where the shape is, on plain dark backgrounds: bright or coloured pixels; and those pictures."""
    split = data.train
    split = split.take(
        (split.factors["background"] == FACTORS["background"].index(background)).nonzero().flatten()
    )
    pixels = split.images.float() / 255
    return pixels.amax(1) - pixels.amin(1) > 0.2, split


def test_the_factors_can_be_seen(data: kd.ImageData) -> None:
    """Each label is what is in the picture, measured without the drawing code."""
    mask, split = foreground(data)
    count = mask.flatten(1).sum(1).double()
    assert count.min() > 8
    line = torch.arange(32).double() + 0.5
    for name, sums in (("position_x", mask.sum(1)), ("position_y", mask.sum(2))):
        centre = (sums.double() * line).sum(1) / count
        means = [centre[split.factors[name] == value].mean().item() for value in range(3)]
        assert means[0] < 13 < 15 < means[1] < 17 < 19 < means[2]
    sizes = [count[split.factors["size"] == value].mean().item() for value in range(3)]
    assert 1.6 < sizes[1] / sizes[0] < 3 and 1.5 < sizes[2] / sizes[1] < 3

    # the hue of the brightest coloured pixel is the colour's
    import colorsys

    plain = split.take((split.factors["texture"] == 0).nonzero().flatten())
    right = 0
    for image, color in zip(plain.images, plain.factors["color"].tolist(), strict=True):
        pixels = image.flatten(1).T.float() / 255
        best = pixels[(pixels.amax(1) - pixels.amin(1)).argmax()].tolist()
        hue = colorsys.rgb_to_hsv(*best)[0]
        gap = [abs((hue - known + 0.5) % 1 - 0.5) for known in shapes._HUES]
        right += int(np.argmin(gap)) == color
    assert right == len(plain)


def test_textures_darken_and_backgrounds_differ(data: kd.ImageData) -> None:
    split = data.train
    bright = split.images.float().amax(1).flatten(1)
    level = [bright[split.factors["background"] == k].median(1).values.mean().item() for k in range(5)]
    assert level[0] < 70 and level[1] > 180  # dark, light
    spread = [bright[split.factors["background"] == k].std(1).mean().item() for k in range(5)]
    assert spread[2] > spread[1] and spread[3] > spread[1]
    mask, dark = foreground(data)
    large = dark.factors["size"] == 2
    inside = torch.where(mask, dark.images.float().amax(1), torch.nan).flatten(1)
    mean = [np.nanmean(inside[large & (dark.factors["texture"] == k)].numpy()) for k in range(4)]
    assert mean[0] > max(mean[1:]) + 15


def test_distances_are_right() -> None:
    """Signed distances: negative inside, unit slope outside, mirror images of themselves, about one area."""
    line = np.linspace(-2, 2, 401, dtype=np.float32)
    x, y = np.meshgrid(line, line)
    areas = {}
    for name, distance in drawing.DISTANCES.items():
        values = distance(x, y)
        np.testing.assert_allclose(values, distance(-x, y), atol=1e-5, err_msg=name)
        areas[name] = (values < 0).sum() * 0.01**2
        slope = np.hypot(*np.gradient(values, 0.01))
        edge = np.abs(values) < 0.03
        assert np.median(slope[edge]) == pytest.approx(1, abs=0.02), name
        inside = np.flatnonzero((values < 0).any(1))
        assert values[:, [0, -1]].min() > 0.3 and values[[0, -1]].min() > 0.3, name
        assert len(inside) > 100
    assert min(areas.values()) > 2.3 and max(areas.values()) < 3.3
    assert areas["circle"] == pytest.approx(math.pi, rel=0.01)
    assert areas["ring"] == pytest.approx(math.pi * (1.12**2 - 0.52**2), rel=0.01)
    assert areas["triangle"] == pytest.approx(0.75 * math.sqrt(3) * 1.38**2, rel=0.02)
    assert drawing.DISTANCES["ring"](np.float32(0), np.float32(0)) > 0  # a hole


def test_cloud_interpolation() -> None:
    spread = drawing._cubic_spread(5)
    np.testing.assert_allclose(spread.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(spread[0], [1, 0, 0, 0, 0], atol=1e-6)
    ramp = spread @ np.arange(5, dtype=np.float32)
    np.testing.assert_allclose(ramp[9:23], np.linspace(0, 4, 32)[9:23], atol=1e-5)


def test_smaller_pictures_are_the_same_averaged() -> None:
    large, small = shapes.make(64, 16), shapes.make(64, 16, side=16)
    assert small.input_shape == (3, 16, 16) and torch.equal(small.test.labels, large.test.labels)
    blocks = large.test.images.double().reshape(16, 3, 16, 2, 16, 2).mean(dim=(3, 5))
    assert float((small.test.images - blocks).abs().max()) <= 0.5
    with pytest.raises(ConfigError, match="32, 16 or 8"):
        shapes.make(64, 16, side=12)


@pytest.mark.parametrize("side", [32, 8])
def test_masks_lie_on_the_shapes(side: int) -> None:
    test = shapes.make(64, 400, side=side).test
    colour = (test.images.amax(dim=1).float() - test.images.amin(dim=1)).numpy()  # backgrounds are grey
    on = shapes.masks(test.factors, side)
    inside, outside = ((colour * part).sum(axis=(1, 2)) / part.sum(axis=(1, 2)) for part in (on, ~on))
    assert (inside > outside).mean() > 0.98
    centre, radius = shapes.places(test.factors)
    assert np.allclose(shapes.masks(test.factors, 64).mean(axis=(1, 2)), np.pi * radius**2, rtol=0.1)
    assert centre.shape == (400, 2) and (centre > 0.3).all() and (centre < 0.7).all()

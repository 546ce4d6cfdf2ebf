"""Drawn 32 x 32 pictures whose factors of variation are known: what does a layer encode, and what not?

Every picture shows one filled shape before a background. The label is the shape; colour, texture,
position, size, rotation and background vary independently of it and of one another, unless asked
otherwise. `kdlab.data.drawing` draws them.
"""

from __future__ import annotations

import colorsys
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from kdlab.data.dataset import ImageData, Split
from kdlab.data.drawing import (
    BACKGROUNDS,
    DISTANCES,
    SIZE,
    TEXTURES,
    Array,
    Background,
    Geometry,
    paint,
)
from kdlab.data.parts import Parts, assemble
from kdlab.errors import ConfigError, unknown_name

FACTORS: dict[str, tuple[str, ...]] = {
    "shape": tuple(DISTANCES),
    "color": ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"),
    "texture": TEXTURES,
    "position_x": ("left", "centre", "right"),
    "position_y": ("top", "middle", "bottom"),
    "size": ("small", "medium", "large"),
    "rotation": ("tilted left", "upright", "tilted right"),
    "background": BACKGROUNDS,
}

_HUES = (0.0, 0.075, 0.145, 0.34, 0.49, 0.61, 0.755, 0.9)
_OFFSETS = (-5.0, 0.0, 5.0)  # pixels from the middle of a picture of 32, by position
_RADII = (5.2, 7.4, 9.8)  # pixels, by size
_SIDES = (32, 16, 8)  # pixels a side
_CHUNK = 64  # pictures drawn at once: small enough for the cache of a processor core

Factors = dict[str, NDArray[np.int64]]


def make(
    train: int = 6000,
    test: int = 1500,
    *,
    seed: int = 0,
    correlate: Mapping[str, float] | None = None,
    val_fraction: float | None = None,
    side: int = SIZE,
) -> ImageData:
    """The `shapes` set, in any size, with or without a misleading factor.

    Args:
        train, test: pictures, at least 8 each; classes are equally frequent.
        seed: of the pictures; the same seed draws the same ones.
        correlate: factor -> strength 0..1. In the training part (and the validation part cut from
            it) the factor takes, with this probability, the value tied to the class (value number
            = label modulo the number of values), else a random one. The test part stays
            independent: so it shows whether a network has learned the shape or the shortcut.
        val_fraction: share of the training pictures for validation; None: 0.2.
        side: pixels a side, 32, 16 or 8: the same pictures, averaged down. Training on 16 costs about a
            quarter.

    Raises:
        UnknownNameError: no such factor.
        ConfigError: a strength outside 0..1, the factor "shape", too few pictures, or another side.

    >>> data = kdlab.data.shapes.make(train=160, test=80, correlate={"color": 1.0})
    >>> torch.equal(data.train.factors["color"], data.train.labels)  # colour tells the class ...
    True
    >>> torch.equal(data.test.factors["color"], data.test.labels)  # ... in training alone
    False
    """
    return assemble(shape_parts(train, test, seed, correlate, side), val_fraction=val_fraction)


def places(factors: Mapping[str, Any]) -> tuple[Array, Array]:
    """Where the shapes lie, as far as the factors tell.

    From the middle of each factor's value: a picture's own centre lies up to 1.2 of 32 pixels off, its radius
    up to 7 %. Corners of a star may lie outside the circle, and a ring has a hole in it.

    Args:
        factors: of a `Split` or a probe set; "position_x", "position_y" and "size" are read, (n,) each.

    Returns:
        (n, 2) row and column of the centres and (n,) radii, in shares of the picture's side.

    >>> factors = {"position_x": [0, 1], "position_y": [1, 1], "size": [2, 0]}
    >>> centre, radius = kdlab.data.shapes.places(factors)
    >>> centre.tolist(), radius.round(3).tolist()
    ([[0.5, 0.34375], [0.5, 0.5]], [0.306, 0.162])
    """
    x, y, size = (np.asarray(factors[name]) for name in ("position_x", "position_y", "size"))
    offsets, radii = np.array(_OFFSETS), np.array(_RADII)
    centre = np.stack([0.5 + offsets[y] / SIZE, 0.5 + offsets[x] / SIZE], axis=1)
    return centre, radii[size] / SIZE


def masks(factors: Mapping[str, Any], side: int = SIZE) -> NDArray[np.bool_]:
    """(n, side, side): True where the middle of a cell lies on the circle that `places` gives.

    Args:
        factors: see `places`.
        side: cells a side; that of the pictures, or of a map of them.

    >>> at = {"position_x": [1], "position_y": [1], "size": [1]}
    >>> kdlab.data.shapes.masks(at, side=4).astype(int).tolist()[0]
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    centre, radius = places(factors)
    line = (np.arange(side) + 0.5) / side
    rows, columns = line[None, :, None] - centre[:, :1, None], line[None, None, :] - centre[:, 1:, None]
    return np.asarray(np.hypot(rows, columns) <= radius[:, None, None])


def shape_parts(
    train: int,
    test: int,
    seed: int = 0,
    correlate: Mapping[str, float] | None = None,
    side: int = SIZE,
) -> Parts:
    """The same before the validation part is cut; the last few are kept in memory.

    Args:
        train, test, seed, correlate: as of `make`.

    Raises:
        UnknownNameError, ConfigError: as of `make`.

    >>> parts = kdlab.data.shapes.shape_parts(train=80, test=40)
    >>> parts.train.images.shape, parts.class_names[:3]
    (torch.Size([80, 3, 32, 32]), ('circle', 'square', 'triangle'))
    """
    for count in (train, test):
        if isinstance(count, bool) or not isinstance(count, int) or count < len(FACTORS["shape"]):
            raise ConfigError(
                f"shapes needs at least {len(FACTORS['shape'])} pictures in each part, not {count!r}."
            )
    for factor, strength in (correlate or {}).items():
        if factor not in FACTORS:
            raise unknown_name("factor of shapes", factor, FACTORS)
        if factor == "shape" or not 0 <= strength <= 1:
            raise ConfigError(
                f"A factor other than 'shape' can be tied to it with strength 0..1, not {factor}={strength}."
            )
    if isinstance(side, bool) or side not in _SIDES:
        raise ConfigError(f"The side of shapes must be 32, 16 or 8 pixels, not {side!r}.")
    return _parts(train, test, seed, tuple(sorted((correlate or {}).items())), side)


@functools.lru_cache(maxsize=4)
def _parts(train: int, test: int, seed: int, correlate: tuple[tuple[str, float], ...], side: int) -> Parts:
    return Parts(
        name="shapes",
        train=_split(train, np.random.RandomState([seed % 2**32, 0]), dict(correlate), side),
        test=_split(test, np.random.RandomState([seed % 2**32, 1]), {}, side),
        class_names=FACTORS["shape"],
        factor_names=FACTORS,
        val_fraction=0.2,
    )


def _split(count: int, random: np.random.RandomState, correlate: Mapping[str, float], side: int) -> Split:
    factors = _draw_factors(count, random, correlate)
    images = torch.from_numpy(_draw_pictures(factors, random))
    if side != SIZE:
        images = F.avg_pool2d(images.float(), SIZE // side).round().to(torch.uint8)
    values = {name: torch.from_numpy(numbers) for name, numbers in factors.items()}
    return Split(images, values["shape"], torch.arange(count), values)


def _draw_factors(count: int, random: np.random.RandomState, correlate: Mapping[str, float]) -> Factors:
    labels = random.permutation(np.arange(count) % len(FACTORS["shape"])).astype(np.int64)
    factors = {"shape": labels}
    for name, values in FACTORS.items():
        if name != "shape":
            free = random.randint(len(values), size=count).astype(np.int64)
            tied = random.random_sample(count) < correlate.get(name, 0.0)
            factors[name] = np.where(tied, labels % len(values), free)
    return factors


def _draw_pictures(factors: Factors, random: np.random.RandomState) -> NDArray[np.uint8]:
    """(N, 3, 32, 32); `random` gives the play within each factor value."""
    count = len(factors["shape"])

    def play(low: float, high: float, *shape: int) -> Array:
        return random.uniform(low, high, (count, *shape)).astype(np.float32)

    def value(name: str, *middles: float) -> Array:
        return np.array(middles, np.float32)[factors[name]]

    geometry = Geometry(
        x=SIZE / 2 + value("position_x", *_OFFSETS) + play(-1.2, 1.2),
        y=SIZE / 2 + value("position_y", *_OFFSETS) + play(-1.2, 1.2),
        radius=value("size", *_RADII) * play(0.93, 1.07),
        angle=(value("rotation", 22, 0, -22) + play(-7, 7)) * np.float32(math.pi / 180),
        phase=play(0, 2 * math.pi, 2),
    )
    colors = _colors(factors["color"], play(-0.012, 0.012), play(0.72, 0.9), play(0.88, 1.0))
    background = Background(play(0, 2 * math.pi), play(0.89, 1.11, 3), play(0, 1, 2), play(0, 1, 5, 5))

    images = np.empty((count, 3, SIZE, SIZE), np.uint8)
    for shape, distance in enumerate(DISTANCES.values()):  # pictures of one shape share their formulas
        members = np.flatnonzero(factors["shape"] == shape)
        for start in range(0, len(members), _CHUNK):
            rows = members[start : start + _CHUNK]
            canvas = background.draw(rows, factors["background"][rows])
            paint(canvas, distance, geometry.take(rows), colors[rows], factors["texture"][rows])
            images[rows] = np.clip(canvas * 255 + 0.5, 0, 255)  # cut off to whole numbers: rounds
    return images


def _colors(hues: NDArray[np.int64], shift: Array, saturation: Array, brightness: Array) -> Array:
    """(N, 3) in 0..1."""
    rows = zip(hues.tolist(), shift.tolist(), saturation.tolist(), brightness.tolist(), strict=True)
    return np.array([colorsys.hsv_to_rgb((_HUES[h] + d) % 1.0, s, v) for h, d, s, v in rows], np.float32)

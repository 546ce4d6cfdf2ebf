"""How the pictures of `shapes` are drawn: signed distances, textures and backgrounds on a pixel grid.

A signed distance is negative inside a shape and changes by one per pixel, so `clip(0.5 - distance)`
is the share of a pixel that is covered: smooth edges at no extra cost. The formulas of star and
heart follow Inigo Quilez, "2D distance functions".

Everything is NumPy on small chunks: it is quick on one core and does not disturb the threads that
train.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 32  # pixels a side

Array = NDArray[Any]  # float32 everywhere
Distance = Callable[[Array, Array], Array]

TEXTURES = ("plain", "stripes", "dots", "checks")
BACKGROUNDS = ("dark", "light", "gradient", "clouds", "lines")


@dataclass(frozen=True)
class Geometry:
    """Where the shapes are: pixels from the top left corner, radius in pixels, radians, and the
    (n, 2) phases of the texture. One row per picture."""

    x: Array
    y: Array
    radius: Array
    angle: Array
    phase: Array

    def take(self, rows: NDArray[np.int64]) -> Geometry:
        """These pictures only, every column of shape (n, 1, 1) but `phase`, (2, n, 1, 1)."""
        x, y, radius, angle = (
            column[rows][:, None, None] for column in (self.x, self.y, self.radius, self.angle)
        )
        return Geometry(x, y, radius, angle, self.phase[rows].T[:, :, None, None])


def _grid() -> tuple[Array, Array]:
    """x (1, 1, 32) and y (1, 32, 1) of the pixel centres."""
    line = np.arange(SIZE, dtype=np.float32) + np.float32(0.5)
    return line[None, None, :], line[None, :, None]


def _clip(values: Array) -> Array:
    return np.clip(values, 0, 1)


def paint(
    canvas: Array, distance: Distance, geometry: Geometry, colors: Array, textures: NDArray[np.int64]
) -> None:
    """Draw one shape into every picture of `canvas` (n, 3, 32, 32), in place."""
    x, y = _grid()
    x, y = x - geometry.x, geometry.y - y  # y upwards from here on
    cos, sin = np.cos(geometry.angle), np.sin(geometry.angle)
    u, v = cos * x + sin * y, cos * y - sin * x  # the picture's frame -> the shape's own
    pixels = distance(u / geometry.radius, v / geometry.radius) * geometry.radius

    tone = np.zeros_like(u)
    for name, pattern in (("stripes", _stripes), ("dots", _dots), ("checks", _checks)):
        rows = np.flatnonzero(textures == TEXTURES.index(name))
        tone[rows] = pattern(u[rows], v[rows], geometry.phase[0, rows], geometry.phase[1, rows])
    light = np.clip(1 + 0.10 * (y - x) / geometry.radius, 0.8, 1.2)  # a soft light from the top left
    inner = _clip(-0.6 - pixels)  # inside the dark outline
    strength = (0.22 + 0.78 * inner * (1 - 0.58 * tone)) * light
    cover = _clip(0.5 - pixels)[:, None]
    canvas += (colors[:, :, None, None] * strength[:, None] - canvas) * cover


# Textures: 0 where the colour is bright, 1 where it is dark. Their slope is about one per pixel at
# the edges: smooth without blur.


def _stripes(u: Array, v: Array, p: Array, q: Array) -> Array:
    return _clip(0.5 + 0.9 * np.sin(u * (2 * math.pi / 4.6) + p))


def _checks(u: Array, v: Array, p: Array, q: Array) -> Array:
    wave = math.pi / 3.2
    return _clip(0.5 + 1.5 * np.sin(u * wave + p) * np.sin(v * wave + q))


def _dots(u: Array, v: Array, p: Array, q: Array) -> Array:
    wave = 2 * math.pi / 4.4
    return _clip(1.9 * (np.cos(u * wave + p) + np.cos(v * wave + q)) - 1.1)


@dataclass(frozen=True)
class Background:
    """Muted backgrounds; all randomness is drawn beforehand, one row per picture.

    Attributes:
        angle: (N,) radians, of gradients and lines.
        tint: (N, 3) factors near 1.
        tones: (N, 2) 0..1, how light the dark and the light tone are.
        knots: (N, 5, 5) 0..1, what clouds are interpolated from.
    """

    angle: Array
    tint: Array
    tones: Array
    knots: Array

    def draw(self, rows: NDArray[np.int64], kinds: NDArray[np.int64]) -> Array:
        """(n, 3, 32, 32) in 0..1 for the pictures `rows`, of the given kinds."""
        level = np.empty((len(rows), SIZE, SIZE), np.float32)  # 0 = the dark tone, 1 = the light one
        for kind, name in enumerate(BACKGROUNDS):
            here = np.flatnonzero(kinds == kind)
            level[here] = self._level(name, rows[here])
        dark, light = (0.12 + 0.10 * self.tones[rows, 0], 0.74 + 0.14 * self.tones[rows, 1])
        grey = dark[:, None, None] + (light - dark)[:, None, None] * level
        return self.tint[rows][:, :, None, None] * grey[:, None]

    def _level(self, kind: str, rows: NDArray[np.int64]) -> Array | float:
        if kind in ("dark", "light"):
            return float(kind == "light")
        if kind == "clouds":
            return _clip(_SPREAD @ self.knots[rows] @ _SPREAD.T)
        x, y = _grid()
        angle = self.angle[rows][:, None, None]
        across = np.cos(angle) * (x - SIZE / 2) + np.sin(angle) * (y - SIZE / 2)  # pixels from the centre
        if kind == "gradient":
            return _clip(0.5 + across / 40)
        return _clip(0.5 + 0.9 * np.sin(across * (2 * math.pi / 7.5))) * 0.55 + 0.22


def _cubic_spread(knots: int) -> Array:
    """(32, knots): weights of cubic convolution (Keys 1981, a = -0.5) from knots to pixels."""
    at = np.linspace(0, knots - 1, SIZE)
    weights = np.zeros((SIZE, knots))
    for knot in range(-1, knots + 1):  # one more on each side, the border value repeated
        d = np.abs(at - knot)
        near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
        weights[:, min(max(knot, 0), knots - 1)] += np.where(d < 1, near, np.where(d < 2, far, 0))
    return weights.astype(np.float32)


_SPREAD = _cubic_spread(5)


# Signed distances of shapes of about radius 1; y points up. The areas, 2.4 to 3.2, are near
# one another: how much of a picture is covered tells the size rather than the shape.


def _circle(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 1.0


def _ring(x: Array, y: Array) -> Array:
    return np.abs(np.hypot(x, y) - 0.82) - 0.30


def _square(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - 0.9


def _cross(x: Array, y: Array) -> Array:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.minimum(x, y) - 0.38, np.maximum(x, y) - 1.12)


def _polygon(sides: int, radius: float) -> Distance:
    """A regular polygon with a corner at the top; `radius` to the corners."""
    inner = radius * math.cos(math.pi / sides)
    normals = [math.pi * (2 * k + 1) / sides for k in range(sides)]

    def distance(x: Array, y: Array) -> Array:
        sides_at = [math.sin(a) * x + math.cos(a) * y for a in normals]
        return functools.reduce(np.maximum, sides_at) - inner

    return distance


def _star(x: Array, y: Array) -> Array:
    radius, depth = 1.34, 0.45
    kx, ky = math.cos(math.pi / 5), -math.sin(math.pi / 5)
    x = np.abs(x)
    for sign in (1, -1):  # fold the plane onto one tip
        along = 2 * np.maximum(sign * kx * x + ky * y, 0)
        x, y = x - along * sign * kx, y - along * ky
    x, y = np.abs(x), y - radius
    bx, by = -depth * ky, depth * kx - 1
    near = np.clip((x * bx + y * by) / (bx * bx + by * by), 0, radius)
    return np.hypot(x - bx * near, y - by * near) * np.sign(y * bx - x * by)


def _heart(x: Array, y: Array) -> Array:
    scale = 1.85
    x, y = np.abs(x) / scale, y / scale + 0.57
    lobe = np.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    middle = 0.5 * np.maximum(x + y, 0)
    rest = np.sqrt(np.minimum(x * x + (y - 1) ** 2, (x - middle) ** 2 + (y - middle) ** 2))
    return np.where(x + y > 1, lobe, rest * np.sign(x - y)) * scale


DISTANCES: dict[str, Distance] = {
    "circle": _circle,
    "square": _square,
    "triangle": _polygon(3, 1.38),
    "pentagon": _polygon(5, 1.12),
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
}

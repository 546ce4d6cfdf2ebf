"""Maps in any layout as (B, c, h, w): convolutional maps, channels-last maps, tokens of a transformer."""

from __future__ import annotations

import torch
from torch import Tensor


def grid(tokens: int, image: tuple[int, int]) -> tuple[int, int, int] | None:
    """(extra, h, w) with `tokens` = extra + h * w, on a grid shaped like the image; None if there is none.

    extra is the number of class tokens, 0 or 1.
    """
    height, width = image
    for extra in (0, 1):
        n = tokens - extra
        h = round((n * height / width) ** 0.5)
        if h > 0 and n % h == 0 and (n // h) * height == h * width:
            return extra, h, n // h
    return None


def layout(shape: torch.Size, image: tuple[int, int]) -> str | None:
    """ "nchw", "nhwc", "tokens", or None for what is not a map of an image of that height and width."""
    if len(shape) == 3:
        return "tokens" if grid(shape[1], image) else None
    if len(shape) != 4:
        return None
    height, width = image
    first = shape[2] * width == shape[3] * height
    last = shape[1] * width == shape[2] * height
    return "nhwc" if last and not first else "nchw"


def to_map(out: Tensor, image: tuple[int, int]) -> Tensor | None:
    """`out` as (B, c, h, w) without copying; a class token is left out. None if it is not a map."""
    kind = layout(out.shape, image)
    if kind == "nhwc":
        return out.permute(0, 3, 1, 2)
    if kind == "tokens":
        extra, h, w = grid(out.shape[1], image)  # type: ignore[misc]
        return out[:, extra:].transpose(1, 2).unflatten(2, (h, w))
    return out if kind == "nchw" else None


def from_map(maps: Tensor, out: Tensor, image: tuple[int, int]) -> Tensor:
    """The inverse of `to_map`: `maps` in the layout of `out`, whose class token is kept."""
    kind = layout(out.shape, image)
    if kind == "nhwc":
        return maps.permute(0, 2, 3, 1)
    if kind == "tokens":
        tokens = maps.flatten(2).transpose(1, 2)
        extra = out.shape[1] - tokens.shape[1]
        return torch.cat([out[:, :extra], tokens], 1) if extra else tokens
    return maps

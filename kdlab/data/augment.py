"""Random shifts, crops and flips of whole batches on the device, drawn anew for every sample.

Draws are whole numbers made on the CPU, so they are the same wherever the images are. Images stay
uint8 (0..255) throughout; borders are filled with black (0), as the public code does, which pads
before it normalises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.errors import ConfigError, unknown_name


@runtime_checkable
class Augmentation(Protocol):
    """What an augmentation must offer; it keeps no state between calls."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, k) integers that say what happens to each of n samples, from `generator` (CPU) alone."""
        ...

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """(B, C, H, W) uint8 and their (B, k) rows of `draw`, on one device -> uint8 of the same shape."""
        ...


@dataclass(frozen=True)
class Identity:
    """Leaves the images as they are."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.empty((n, 0), dtype=torch.int64)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        return images


@dataclass(frozen=True)
class PadCrop:
    """Pad by `pad` pixels, cut a window of the original size at a random place, mirror at random.

    Every one of the (2 pad + 1)^2 windows is equally likely; a picture is mirrored left to right
    with probability 1/2 where `flip` is set. This is the usual CIFAR augmentation.

    Attributes:
        pad: pixels on each side.
        flip: whether to mirror.
        reflect: fill the border with the mirrored picture instead of black.
    """

    pad: int
    flip: bool = False
    reflect: bool = False

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, 3) int64: rows and columns from the top left of the padded picture, and 1 to mirror."""
        params = torch.zeros((n, 3), dtype=torch.int64)
        params[:, :2] = torch.randint(0, 2 * self.pad + 1, (n, 2), generator=generator)
        if self.flip:
            params[:, 2] = torch.randint(0, 2, (n,), generator=generator)
        return params

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        count, _, height, width = images.shape
        if self.reflect and self.pad >= min(height, width):
            raise ConfigError(
                f"A {height}x{width} picture is too small to be reflected by {self.pad} pixels."
            )
        out = images
        if self.pad:
            padded = _reflect(images, self.pad) if self.reflect else F.pad(images, (self.pad,) * 4)
            # a view of all windows; picking one per sample copies whole rows at a time
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)
            rows = torch.arange(count, device=images.device)
            out = windows[rows, :, params[:, 0], params[:, 1]]
        if self.flip:
            # bit masks select faster than torch.where on bytes, and without the wait of a boolean index
            mask = (-params[:, 2]).to(torch.uint8).view(-1, 1, 1, 1)
            out = out.flip(-1).bitwise_xor_(out).bitwise_and_(mask).bitwise_xor_(out)
        return out


def _reflect(images: Tensor, pad: int) -> Tensor:
    """F.pad(..., mode="reflect"), which not every device can do on bytes."""
    for dim in (2, 3):
        size = images.shape[dim]
        inside = torch.arange(-pad, size + pad, device=images.device).abs()
        images = images.index_select(dim, size - 1 - (size - 1 - inside).abs())
    return images


_REGISTRY: dict[str, Augmentation] = {
    "none": Identity(),
    "shift": PadCrop(1),
    "crop": PadCrop(4),
    "flip": PadCrop(0, flip=True),
    "crop_flip": PadCrop(4, flip=True),
    "crop_flip_8": PadCrop(8, flip=True),  # 64 x 64 pictures
    "crop_flip_12": PadCrop(12, flip=True),  # 96 x 96 pictures
    "crop_flip_reflect": PadCrop(4, flip=True, reflect=True),
}


def get(name: str | Augmentation) -> Augmentation:
    """The augmentation of that name (an augmentation is handed back as it is).

    Raises:
        UnknownNameError: lists the known names.
    """
    if isinstance(name, str):
        if name not in _REGISTRY:
            raise unknown_name("augmentation", name, _REGISTRY)
        return _REGISTRY[name]
    if isinstance(name, type) or not isinstance(name, Augmentation):
        raise ConfigError(
            f"An augmentation is a name or has .draw(n, generator) and .apply(images, params): {name!r}."
        )
    return name


def names() -> list[str]:
    """All known names, built in and registered."""
    return list(_REGISTRY)


def register(name: str, augmentation: Augmentation) -> None:
    """Make an augmentation of your own known by `name`.

    Raises:
        ConfigError: the name is taken by another one, or the object lacks `draw` or `apply`.
    """
    checked = get(augmentation) if not isinstance(augmentation, str) else None
    if checked is None:
        raise ConfigError("Register an augmentation object, not the name of one.")
    if name in _REGISTRY and _REGISTRY[name] != checked:
        raise ConfigError(f"There is an augmentation named {name!r} already; choose another name.")
    _REGISTRY[name] = checked

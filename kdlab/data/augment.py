"""Random shifts, crops, zooms and flips of whole batches on the device, drawn anew for every sample.

Draws are whole numbers made on the CPU, so they are the same wherever the images are. Images stay
uint8 (0..255) throughout; borders are filled with black (0), as the public code does, which pads
before it normalises.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.errors import ConfigError, unknown_name


@runtime_checkable
class Augmentation(Protocol):
    """What an augmentation must offer; it keeps no state between calls.

    >>> class Invert:
    ...     def draw(self, n, generator):
    ...         return torch.randint(0, 2, (n, 1), generator=generator)
    ...     def apply(self, images, params):
    ...         return torch.where(params.view(-1, 1, 1, 1).bool(), 255 - images, images)
    >>> isinstance(Invert(), kdlab.data.augment.Augmentation)
    True
    """

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, k) integers that say what happens to each of n samples, from `generator` (CPU) alone."""
        ...

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """(B, C, H, W) uint8 and their (B, k) rows of `draw`, on one device -> uint8 of the same shape."""
        ...


@dataclass(frozen=True)
class Identity:
    """Leaves the images as they are.

    >>> picture = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    >>> nothing = kdlab.data.augment.Identity()
    >>> nothing.apply(picture, nothing.draw(1, generator)) is picture
    True
    """

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, 0): there is nothing to draw."""
        return torch.empty((n, 0), dtype=torch.int64)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """The images themselves."""
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

    >>> picture = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).view(1, 1, 2, 2)
    >>> crop = kdlab.data.augment.PadCrop(1, flip=True)
    >>> crop.apply(picture, torch.tensor([[0, 1, 0]]))[0, 0]  # one row up, black above
    tensor([[0, 0],
            [1, 2]], dtype=torch.uint8)
    >>> crop.apply(picture, torch.tensor([[1, 1, 1]]))[0, 0]  # in place, mirrored
    tensor([[2, 1],
            [4, 3]], dtype=torch.uint8)
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
        """(B, C, H, W) uint8 and their rows of `draw` -> the windows, (B, C, H, W) uint8.

        Raises:
            ConfigError: pictures that are too small to be reflected.
        """
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


@dataclass(frozen=True)
class ResizedCrop:
    """Cut a window of random size, shape and place, resize it to the original size, mirror at random.

    The usual ImageNet augmentation: the window has a share of the picture's area drawn from `scale`,
    a width-to-height ratio drawn evenly on a log scale from `ratio`, and is resized bilinearly with
    antialiasing, as torchvision's RandomResizedCrop does by default. Test pictures need no transform
    of their own: a data set is held at one size, to which it was brought when it was prepared.

    What is drawn is the same everywhere; pixels may differ by 1 between devices, where a sum of
    products is rounded.

    Attributes:
        scale: least and greatest share of the area.
        ratio: least and greatest width-to-height ratio of the window.
        flip: whether to mirror.

    Raises:
        ConfigError: numbers that are no ascending shares or ratios.

    >>> zoom = kdlab.data.augment.ResizedCrop(scale=(0.25, 0.5))
    >>> pictures = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    >>> params = zoom.draw(4, generator)
    >>> zoom.apply(pictures, params).shape
    torch.Size([4, 3, 16, 16])
    >>> area = zoom.windows(params, 16, 16)[:, 2:].prod(1) / 16**2
    >>> bool(((area > 0.2) & (area < 0.55)).all())
    True
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"scale must be two ascending shares of the area, not {self.scale!r}.")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"ratio must be two ascending positive numbers, not {self.ratio!r}.")

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, 23) int16: ten tries of area and ratio, then row, column, and 1 to mirror.

        A window that does not fit into the picture is passed over for the next try; all but the last
        number are steps of 1 / 32768 of their range, for the size of the pictures is not known here.
        """
        params = torch.randint(0, _LEVELS, (n, 2 * _TRIES + 3), generator=generator, dtype=torch.int16)
        params[:, -1] = params[:, -1] % 2 if self.flip else 0
        return params

    def windows(self, params: Tensor, height: int, width: int) -> Tensor:
        """(B, 4) int64 top, left, height and width of each window in pictures of height x width."""
        exact = torch.float32 if params.device.type == "mps" else torch.float64  # equal on all that can
        share = (params[:, :-1].to(exact) + 0.5) / _LEVELS
        area = self.scale[0] + share[:, 0 : 2 * _TRIES : 2] * (self.scale[1] - self.scale[0])
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = torch.exp(low + share[:, 1 : 2 * _TRIES : 2] * (high - low))
        columns = (area * ratio * height * width).sqrt().round().long()
        rows = (area / ratio * height * width).sqrt().round().long()
        fits = (columns >= 1) & (columns <= width) & (rows >= 1) & (rows <= height)
        first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
        found = fits.any(dim=1)
        # no try fits once in 10^8 square pictures; then it is the largest window of a permitted shape
        shape = min(max(width / height, self.ratio[0]), self.ratio[1])
        largest = (min(height, round(width / shape)), min(width, round(height * shape)))
        tall = torch.where(found, rows.gather(1, first)[:, 0], largest[0])
        wide = torch.where(found, columns.gather(1, first)[:, 0], largest[1])
        top = (share[:, -2] * (height - tall + 1)).floor().long()
        left = (share[:, -1] * (width - wide + 1)).floor().long()
        return torch.stack((top, left, tall, wide), dim=1)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """(B, C, H, W) uint8 and their rows of `draw` -> the resized windows, (B, C, H, W) uint8."""
        height, width = images.shape[2:]
        top, left, tall, wide = self.windows(params, height, width).unbind(dim=1)
        mirrored = params[:, -1] == 1
        down = _resizing(top, tall, height)
        across = _resizing(left, wide, width)
        across = torch.where(mirrored[:, None, None], across.flip(1), across)
        pixels = images.to(torch.float32)
        resized = torch.einsum("bij,bcjk,blk->bcil", down, pixels, across)
        return resized.round_().clamp_(0, 255).to(torch.uint8)


_TRIES, _LEVELS = 10, 2**15


def _resizing(start: Tensor, length: Tensor, size: int) -> Tensor:
    """(B, size, size) weights that resize pixels start .. start + length of a line to `size` pixels.

    Each new pixel is a mean of old ones under a triangle, as wide as a new pixel where that is larger.
    """
    pixel = torch.arange(size, device=start.device, dtype=torch.float32)
    scale = (length.float() / size)[:, None, None]
    first, behind = start.float()[:, None, None], (start + length).float()[:, None, None]
    centre = first + (pixel[None, :, None] + 0.5) * scale
    distance = (pixel[None, None, :] + 0.5 - centre).abs() / scale.clamp(min=1.0)
    weights = (1 - distance).clamp_(min=0.0)
    weights = torch.where((pixel >= first) & (pixel < behind), weights, 0.0)
    return weights / weights.sum(dim=2, keepdim=True)


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
    "resized_crop_flip": ResizedCrop(),  # large photographs
}


def get(name: str | Augmentation) -> Augmentation:
    """The augmentation of that name (an augmentation is handed back as it is).

    Raises:
        UnknownNameError: lists the known names.
        ConfigError: neither a name nor an augmentation.

    >>> kdlab.data.augment.get("crop_flip")
    PadCrop(pad=4, flip=True, reflect=False)
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
    """All known names, built in and registered.

    >>> kdlab.data.augment.names()[:5]
    ['none', 'shift', 'crop', 'flip', 'crop_flip']
    """
    return list(_REGISTRY)


def register(name: str, augmentation: Augmentation) -> None:
    """Make an augmentation of your own known by `name`.

    Raises:
        ConfigError: the name is taken by another one, or the object lacks `draw` or `apply`.

    >>> kdlab.data.augment.register("crop_2", kdlab.data.augment.PadCrop(2))
    >>> "crop_2" in kdlab.data.augment.names()
    True
    """
    checked = get(augmentation) if not isinstance(augmentation, str) else None
    if checked is None:
        raise ConfigError("Register an augmentation object, not the name of one.")
    if name in _REGISTRY and _REGISTRY[name] != checked:
        raise ConfigError(f"There is an augmentation named {name!r} already; choose another name.")
    _REGISTRY[name] = checked

"""The strong view: two random operations on each picture, then a square cut out of it, in whole batches.

As the released code of MLKD augments its second view (after FixMatch): pad-crop and mirror as in the
first view, then two of fourteen operations, drawn anew for every picture, each of a strength drawn
evenly from its range, then a grey square. (It calls this RandAugment(2, 10) and does not use the 10.)

torchvision does an operation on a whole batch at one strength, and here each picture has its own. So
torchvision makes what has no strength (contrast stretched, histogram flattened, grey picture, flat
picture, negative), and blending, thresholds and moves of pixels are done here, in whole numbers: the
same on every device, whatever batch a picture is in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.data.augment import Augmentation, register
from kdlab.errors import ConfigError

OPERATIONS: dict[str, tuple[float, float]] = {
    "identity": (0, 0),
    "autocontrast": (0, 0),
    "equalize": (0, 0),
    "brightness": (0.05, 0.95),  # 0: black, 1: as it is; the next three alike
    "color": (0.05, 0.95),
    "contrast": (0.05, 0.95),
    "sharpness": (0.05, 0.95),
    "posterize": (4, 8),  # bits, rounded down
    "solarize": (0, 256),  # values from here on become their negative
    "rotate": (-30, 30),  # degrees
    "shear_x": (-0.3, 0.3),
    "shear_y": (-0.3, 0.3),
    "translate_x": (-0.3, 0.3),  # of the width
    "translate_y": (-0.3, 0.3),  # of the height
}
"""Operation -> its least and greatest strength. Their order is that of the numbers drawn."""

_NUMBER = {name: number for number, name in enumerate(OPERATIONS)}
_OWN = 7  # columns: two operations, their strengths, size, row and column of the cut
_LEVELS = 2**15  # steps of everything that is drawn evenly
_BITS = 16  # strengths and places are whole numbers of 1 / 65536

Change = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(N, C, H, W) pictures, (N,) numbers of the operation and (N,) levels -> changed pictures."""


@dataclass(frozen=True)
class Strong:
    """Two operations of `OPERATIONS` on each picture, then a square cut out of it.

    Crops and mirrors come from another augmentation, which is applied first: as second view of
    `Batches`, the one of the first view, drawn anew (so digits are not mirrored, and photographs are).
    A grey-scale picture has no colour to lose: "color" leaves it as it is.

    Attributes:
        first: what is applied before; None for nothing, or as second view for that of the first one.
        cutout: largest side of the square, as a share of the width.
        grey: what the square is filled with, by channel; its mean in grey-scale pictures.
    """

    first: Augmentation | None = None
    cutout: float = 0.5
    grey: tuple[int, int, int] = (125, 123, 114)

    def after(self, first: Augmentation) -> Strong:
        """The same behind `first`, where nothing was chosen yet."""
        return self if self.first is not None else replace(self, first=first)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, k + 7) integers: k of `first`, two operations, their strengths, size and place of the cut."""
        before = [] if self.first is None else [self.first.draw(n, generator)]
        which = torch.randint(0, len(OPERATIONS), (n, 2), generator=generator, dtype=torch.int16)
        levels = torch.randint(0, _LEVELS, (n, _OWN - 2), generator=generator, dtype=torch.int16)
        return torch.cat([*before, which, levels], dim=1)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        if images.shape[1] not in (1, 3):
            raise ConfigError(
                f"The strong view is for pictures of 1 or 3 channels, not {images.shape[1]}; use a method "
                "without a second view, or register an augmentation of your own."
            )
        own = params[:, -_OWN:].long()
        out = images if self.first is None else self.first.apply(images, params[:, :-_OWN])
        for slot in (0, 1):
            out = _operate(out, own[:, slot], own[:, 2 + slot])
        return self._cut(out, own[:, 4:])

    def _cut(self, images: Tensor, levels: Tensor) -> Tensor:
        """Grey squares; partly outside only to the right and below, as in the released code."""
        height, width = images.shape[2:]
        size = _between(0, self.cutout * width, levels[:, 0])
        masks = []
        for length, level in ((height, levels[:, 1]), (width, levels[:, 2])):
            first = (_between(0, length, level) - (size >> 1)).clamp(min=0) >> _BITS
            last = first + (size >> _BITS)
            place = torch.arange(length, device=images.device)
            masks.append((place >= first[:, None]) & (place <= last[:, None]))
        mask = masks[0][:, :, None] & masks[1][:, None, :]
        channels = images.shape[1]
        fill = self.grey if channels == 3 else (round(sum(self.grey) / 3),)
        return torch.stack([images[:, c].masked_fill(mask, fill[c]) for c in range(channels)], dim=1)


def _operate(images: Tensor, which: Tensor, level: Tensor) -> Tensor:
    """One operation on each picture; pictures of the same kind of operation are changed together."""
    out = images.clone()
    for names, change in _CHANGES:
        chosen = torch.zeros_like(which, dtype=torch.bool)
        for name in names:
            chosen |= which == _NUMBER[name]
        if images.device.type == "cpu":
            rows = chosen.nonzero()[:, 0]
            if len(rows):
                out[rows] = change(images[rows], which[rows], level[rows])
        else:  # looking up the rows would have to wait for the device; it has the time to change all
            out = torch.where(chosen[:, None, None, None], change(images, which, level), out)
    return out


def _between(low: float, high: float, level: Tensor) -> Tensor:
    """Where a level lies on the way from `low` to `high`, in units of 1 / 65536."""
    one = 2**_BITS
    return round(low * one) + (round((high - low) * one) * (2 * level + 1) >> _BITS)


def _strength(name: str, level: Tensor) -> Tensor:
    return _between(*OPERATIONS[name], level)


def _autocontrast(images: Tensor, which: Tensor, level: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as vision  # costs a second, and few need it

    return vision.autocontrast(images)


def _equalize(images: Tensor, which: Tensor, level: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as vision

    return vision.equalize(images)


def _brightness(images: Tensor, which: Tensor, level: Tensor) -> Tensor:
    return _blend(torch.zeros_like(images), images, level)


def _color(images: Tensor, which: Tensor, level: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as vision

    return _blend(vision.adjust_saturation(images, 0.0), images, level)


def _contrast(images: Tensor, which: Tensor, level: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as vision

    return _blend(vision.adjust_contrast(images, 0.0), images, level)


def _sharpness(images: Tensor, which: Tensor, level: Tensor) -> Tensor:
    if min(images.shape[2:]) < 3:
        return images
    # vision.adjust_sharpness(images, 0.0), but for its convolution, which may be in low precision, and
    # for its kernel, which it sends to the device each time
    pixels = images.float()
    inside = (..., slice(1, -1), slice(1, -1))
    total = F.avg_pool2d(pixels, 3, stride=1, divisor_override=1) + 4 * pixels[inside]
    smooth = images.clone()
    smooth[inside] = (total / 13).round().to(torch.uint8)
    return _blend(smooth, images, level)


def _blend(least: Tensor, images: Tensor, level: Tensor) -> Tensor:
    """From `least` (at strength 0) towards `images` (at 1), rounded down; all that blend share a range."""
    share = _strength("brightness", level).int().view(-1, 1, 1, 1)
    base, pixels = least.int(), images.int()
    return ((base << _BITS) + share * (pixels - base) >> _BITS).to(torch.uint8)


def _posterize(images: Tensor, which: Tensor, level: Tensor) -> Tensor:
    bits = _strength("posterize", level) >> _BITS
    mask = 256 - (256 >> bits)
    return images & mask.to(torch.uint8).view(-1, 1, 1, 1)


def _solarize(images: Tensor, which: Tensor, level: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as vision

    bound = _strength("solarize", level).view(-1, 1, 1, 1)
    return torch.where((images.int() << _BITS) >= bound, vision.invert(images), images)


def _move(images: Tensor, which: Tensor, level: Tensor) -> Tensor:
    """Turn, shear or shift: each new pixel is the old one that its centre falls on, black outside.

    With (x, y) from the top left corner: old x = a x + b y + c, old y = d x + e y + f.
    """
    height, width = images.shape[2:]

    def of(name: str) -> Tensor:
        return torch.where(which == _NUMBER[name], _strength(name, level), 0)

    one = 2**_BITS
    angle = of("rotate").float() * (math.pi / 180 / one)
    cos, sin = ((turn * one).round().long() for turn in (angle.cos(), angle.sin()))
    a, b, d, e = cos, of("shear_x") - sin, of("shear_y") + sin, cos
    # the centre of a turn stays where it is: all of this is doubled, for the sake of the centres of pixels
    c = 2 * width * of("translate_x") + width * (one - cos) + height * sin
    f = 2 * height * of("translate_y") + height * (one - cos) - width * sin
    x = (2 * torch.arange(width, device=images.device) + 1).view(1, 1, -1)
    y = (2 * torch.arange(height, device=images.device) + 1).view(1, -1, 1)
    a, b, c, d, e, f = (v.view(-1, 1, 1) for v in (a, b, c, d, e, f))
    column, row = (a * x + b * y + c) >> _BITS + 1, (d * x + e * y + f) >> _BITS + 1
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = (row * width + column).where(inside, 0).flatten(1)
    found = images.flatten(2).gather(2, place[:, None].expand(-1, images.shape[1], -1)).view_as(images)
    return found * inside[:, None]


_CHANGES: tuple[tuple[tuple[str, ...], Change], ...] = (
    (("autocontrast",), _autocontrast),
    (("equalize",), _equalize),
    (("brightness",), _brightness),
    (("color",), _color),
    (("contrast",), _contrast),
    (("sharpness",), _sharpness),
    (("posterize",), _posterize),
    (("solarize",), _solarize),
    (("rotate", "shear_x", "shear_y", "translate_x", "translate_y"), _move),
)
"""Which operations are done together, and how; "identity" needs nothing."""

register("strong", Strong())

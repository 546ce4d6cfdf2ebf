"""Labelled images in memory: one `Split` per part, and the `ImageData` that holds them together."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kdlab.errors import DataError


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set (training, validation or test).

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64 class numbers.
        index: (N,) int64 position of each image in the part its authors put it in: training and
            validation images count in the original training part, test images in the test part
            (all of them in the whole set, where that comes in one piece, as `digits` does).
        factors: name -> (N,) int64 values of a known factor of variation (`shapes` has them).

    >>> split = kdlab.data.load("digits").test
    >>> split.images.shape, split.images.dtype
    (torch.Size([450, 1, 8, 8]), torch.uint8)
    >>> split.take([2, 0]).labels.tolist() == [split.labels[2], split.labels[0]]
    True
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    factors: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise DataError(
                f"Images must be a uint8 tensor of shape (N, C, H, W), not {self.images.dtype} "
                f"of shape {tuple(self.images.shape)}."
            )
        for name, values in {"labels": self.labels, "index": self.index, **self.factors}.items():
            if values.dtype != torch.int64 or values.shape != (len(self.images),):
                raise DataError(
                    f"{name!r} must be an int64 tensor with one value per image ({len(self.images)}), "
                    f"not {values.dtype} of shape {tuple(values.shape)}."
                )

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        """The same part on `device` (no copy where it is there already)."""
        return self._map(lambda t: t.to(device))

    def take(self, positions: Tensor | Sequence[int]) -> Split:
        """The images at `positions` (0 .. len - 1), in that order; `index` goes with them."""
        where = torch.as_tensor(positions, dtype=torch.int64, device=self.labels.device)
        return self._map(lambda t: t.index_select(0, where))

    def _map(self, change: Any) -> Split:
        factors = {name: change(values) for name, values in self.factors.items()}
        return Split(change(self.images), change(self.labels), change(self.index), factors)


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set ready for use: three parts, names, and the constants of its normalisation.

    Attributes:
        name: how it was asked for; shown, not part of the fingerprint.
        train, val, test: the parts. `val` is cut from the training images, so `train` and `val`
            are disjoint; it is empty where a validation share of 0 was asked for.
        class_names: K names; labels are 0 .. K - 1.
        mean, std: per channel, of pixels / 255.
        coarse_names, fine_to_coarse: names of super-classes, and the super-class of each class.
        factor_names: factor -> names of its values, for the factors of the splits.
        augment: name of the augmentation that suits these images (see `kdlab.data.augment`).

    >>> data = kdlab.data.load("digits")
    >>> print(data.describe())
    digits: 1,078 train, 269 validation, 450 test images of 1x8x8; 10 classes, chance 10.2%
    >>> back = data.denormalize(data.normalize(data.test.images[:5]))
    >>> torch.equal(back, data.test.images[:5])
    True
    """

    name: str
    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    coarse_names: tuple[str, ...] | None = None
    fine_to_coarse: tuple[int, ...] | None = None
    factor_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    augment: str = "none"

    def __post_init__(self) -> None:
        classes = len(self.class_names)
        if classes < 2:
            raise DataError(f"Data set {self.name!r} has {classes} class(es); at least two are needed.")
        for part in ("train", "val", "test"):
            split: Split = getattr(self, part)
            if part != "val" and not len(split):
                raise DataError(f"Data set {self.name!r} has no images in its {part} part.")
            if split.images.shape[1:] != self.train.images.shape[1:]:
                raise DataError(
                    f"The {part} images of {self.name!r} are {_shape(split.images)}, "
                    f"the training images {_shape(self.train.images)}; make them one size."
                )
            if len(split) and (int(split.labels.min()) < 0 or int(split.labels.max()) >= classes):
                raise DataError(
                    f"The {part} labels of {self.name!r} run from {int(split.labels.min())} to "
                    f"{int(split.labels.max())}; with {classes} classes they must lie in 0..{classes - 1}."
                )
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0:
            raise DataError(f"Data set {self.name!r} needs one mean and one positive std per channel.")
        if (self.coarse_names is None) != (self.fine_to_coarse is None) or (
            self.fine_to_coarse is not None and len(self.fine_to_coarse) != classes
        ):
            raise DataError(f"Data set {self.name!r} must give coarse_names and one super-class per class.")

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """C: 1 for grey pictures, 3 for colour."""
        return int(self.train.images.shape[1])

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return int(self.train.images.shape[2]), int(self.train.images.shape[3])

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return (self.channels, *self.image_size)

    @functools.cached_property
    def chance(self) -> float:
        """Accuracy of always naming the largest class of the test part, 0..1."""
        return int(torch.bincount(self.test.labels.cpu()).max()) / len(self.test)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that can change a result.

        That is: pixels, labels, factors, which image is in which part, class names and the
        constants of the normalisation. Not the name, nor the device. Computed on first use.
        """
        digest = hashlib.sha256()
        about = [self.class_names, self.mean, self.std, self.coarse_names, self.fine_to_coarse]
        digest.update(json.dumps([*about, {k: v for k, v in sorted(self.factor_names.items())}]).encode())
        for split in (self.train, self.val, self.test):
            arrays = {"images": split.images, "labels": split.labels, "index": split.index}
            for name, values in [*arrays.items(), *sorted(split.factors.items())]:
                digest.update(f"{name}{tuple(values.shape)}".encode())
                digest.update(values.cpu().contiguous().numpy().data.cast("B") if values.numel() else b"")
        return digest.hexdigest()

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (..., C, H, W) -> float32 of the same shape, zero mean and unit variance per channel."""
        return normalize(images, self.mean, self.std)

    def denormalize(self, images: Tensor) -> Tensor:
        """The inverse of `normalize`: float (..., C, H, W) -> uint8, clipped to 0..255."""
        mean, std = _constants(self.mean, self.std, images.device)
        return images.float().mul(std).add_(mean).mul_(255).round_().clamp_(0, 255).to(torch.uint8)

    def to(self, device: torch.device | str) -> ImageData:
        """The same data with all parts on `device`."""
        parts = {part: getattr(self, part).to(device) for part in ("train", "val", "test")}
        moved = replace(self, **parts)
        if "fingerprint" in self.__dict__:  # the content is the same: do not hash it again
            moved.__dict__["fingerprint"] = self.fingerprint
        return moved

    def describe(self) -> str:
        """One line for people: parts, size, classes, chance level."""
        channels, height, width = self.input_shape
        coarse = f" ({len(self.coarse_names)} coarse)" if self.coarse_names else ""
        return (
            f"{self.name}: {len(self.train):,} train, {len(self.val):,} validation, {len(self.test):,} test "
            f"images of {channels}x{height}x{width}; {self.num_classes} classes{coarse}, "
            f"chance {self.chance:.1%}"
        )

    def __repr__(self) -> str:
        return f"<ImageData {self.describe()}>"


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(images / 255 - mean) / std per channel: uint8 (..., C, H, W) -> float32, on the images' device.

    The operations and their order are those of torchvision's ToTensor and Normalize, so the result
    equals theirs bit for bit.

    >>> pictures = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    >>> kdlab.data.normalize(pictures, mean=[0.5], std=[0.25]).flatten()
    tensor([-2.,  2.])
    """
    shift, scale = _constants(tuple(mean), tuple(std), images.device)
    return images.to(torch.float32, copy=True).div_(255).sub_(shift).div_(scale)


@functools.lru_cache(maxsize=64)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    # kept per device: building them anew would cost a copy to the GPU, and a wait, at every step
    with torch.inference_mode(False):
        return (
            torch.tensor(mean, dtype=torch.float32, device=device).view(-1, 1, 1),
            torch.tensor(std, dtype=torch.float32, device=device).view(-1, 1, 1),
        )


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels / 255, over all pixels, to 6 decimals.

    Args:
        images: uint8 (N, C, H, W).

    A channel without any contrast gets a deviation of 1, so that dividing by it is harmless.
    """
    means, stds = [], []
    values = torch.arange(256, dtype=torch.float64)
    for channel in range(images.shape[1]):
        counts = torch.zeros(256, dtype=torch.int64)
        for chunk in images[:, channel].split(4096):
            counts += torch.bincount(chunk.reshape(-1), minlength=256).cpu()
        weight = counts.double() / counts.sum()  # exact integer counts: no rounding piles up
        mean = float((weight * values).sum())
        std = math.sqrt(float((weight * (values - mean) ** 2).sum()))
        means.append(round(mean / 255, 6))
        stds.append(round(std / 255, 6) or 1.0)
    return tuple(means), tuple(stds)


def _shape(images: Tensor) -> str:
    return "x".join(str(n) for n in images.shape[1:])

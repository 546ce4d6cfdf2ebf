"""A part of a data set held on the device as bytes, and the batches that are cut from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdlab.data import augment as augmentations
from kdlab.data.augment import Augmentation
from kdlab.data.dataset import Split, normalize
from kdlab.data.strong import Strong
from kdlab.errors import ConfigError


@dataclass(frozen=True)
class Batch:
    """B images ready for a network.

    Attributes:
        images: (B, C, H, W) float32, normalised.
        labels: (B,) int64.
        index: (B,) int64 position of each image in its original part (`Split.index`).
        rows: (B,) int64 position of each image in the split.
        view: number of the fixed view that the images show; 0 where there are none.
        second: (B, C, H, W) the same pictures under another augmentation, or None.

    >>> data = kdlab.data.load("digits")
    >>> batch = next(kdlab.data.eval_batches(data.test, data.mean, data.std, batch_size=64))
    >>> batch.images.shape, batch.labels.shape
    (torch.Size([64, 1, 8, 8]), torch.Size([64]))
    >>> batch.rows[:3]
    tensor([0, 1, 2])
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    rows: Tensor
    view: int = 0
    second: Tensor | None = None

    def __iter__(self) -> Iterator[Tensor]:
        """So that `images, labels, index = batch` works."""
        return iter((self.images, self.labels, self.index))


class Batches:
    """Shuffled, augmented batches of one split, the same ones whenever they are asked for.

    Order and augmentation of an epoch are functions of (seed, epoch) and of the split, batch size
    and augmentation, and of nothing else: they are drawn for the whole epoch by a CPU generator
    made for that epoch, and moved to the device once. So epochs can be had in any order, two
    students see the same batches, and a run resumed within an epoch sees exactly the rest of it.

    The last batch of an epoch may be smaller. A last batch of a single image would break batch
    normalisation (no variance over one sample), so **a lone last sample is dropped**; which image
    that is changes with every epoch.

    With `views`, every picture has so many augmented views, which are the same in all epochs: a function
    of (seed, view) and the picture's place in the split. Epoch e shows view (e - 1) % views of all
    pictures; their order is that of the same epoch without views.

    With `second`, each batch shows its pictures a second time, under an augmentation drawn by a
    generator of its own, so that images and order are those of a run without it.

    Args:
        split: the images; moved to `device`, where they stay as uint8.
        batch_size: at least 2.
        seed: of order and augmentation.
        mean, std: per channel, of pixels / 255.
        augment: a name of `kdlab.data.augment`, or an augmentation.
        drop_last: drop every last partial batch.
        device: where the batches are wanted.
        memory_format: of the images; `torch.channels_last` where that is faster.
        views: how many fixed views each picture has; None draws a new one in every epoch.
        second: augmentation of the second view of each batch, by name or as an object; "" for none.
            A `Strong` one comes after that of the first view, drawn anew.

    Attributes:
        steps_per_epoch: batches in an epoch.

    Raises:
        ConfigError: a batch size below 2, or one that leaves no batch at all; fewer than one view.

    >>> data = kdlab.data.load("digits", labels_per_class=5)
    >>> batches = kdlab.data.Batches(data.train, batch_size=32, seed=0, mean=data.mean, std=data.std)
    >>> [len(batch.labels) for batch in batches.epoch(1)], batches.steps_per_epoch
    ([32, 18], 2)
    >>> torch.equal(next(batches.epoch(7)).images, next(batches.epoch(7)).images)  # whenever it is asked
    True
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: str | Augmentation = "none",
        drop_last: bool = False,
        device: torch.device | str = "cpu",
        memory_format: torch.memory_format = torch.contiguous_format,
        views: int | None = None,
        second: str | Augmentation = "",
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 2:
            raise ConfigError(
                f"batch_size must be a whole number of at least 2, not {batch_size!r} "
                "(batch normalisation needs two images)."
            )
        if views is not None and (isinstance(views, bool) or not isinstance(views, int) or views < 1):
            raise ConfigError(f"views must be None or a whole number of at least 1, not {views!r}.")
        full, rest = divmod(len(split), batch_size)
        self.steps_per_epoch: int = full + (0 if drop_last or rest < 2 else 1)
        if not self.steps_per_epoch:
            raise ConfigError(
                f"{len(split)} training images make no batch of {batch_size}; use a smaller batch_size"
                f"{' or drop_last=False' if drop_last and rest > 1 else ' or more images'}."
            )
        self.split = split.to(device)
        self.batch_size = batch_size
        self.seed = seed
        self.mean, self.std = tuple(mean), tuple(std)
        self.augment = augmentations.get(augment)
        self.device = torch.device(device)
        self.memory_format = memory_format
        self.views = views
        self.second_augment = augmentations.get(second) if second else None
        if isinstance(self.second_augment, Strong):
            self.second_augment = self.second_augment.after(self.augment)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step `start` (0 = the first) on.

        Raises:
            ConfigError: a start outside 0..steps_per_epoch.
        """
        if not 0 <= start <= self.steps_per_epoch:
            raise ConfigError(f"An epoch has steps 0..{self.steps_per_epoch}; it cannot start at {start}.")
        return self._epoch(epoch, start)

    def _epoch(self, epoch: int, start: int) -> Iterator[Batch]:
        count = len(self.split)
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        order = torch.randperm(count, generator=generator).to(self.device)
        params, others = self._params(epoch, order, generator)
        view = 0 if self.views is None else (epoch - 1) % self.views
        for step in range(start, self.steps_per_epoch):
            chosen = slice(step * self.batch_size, (step + 1) * self.batch_size)
            rows = order[chosen]
            images = self.augment.apply(self.split.images.index_select(0, rows), params[chosen])
            yield Batch(
                self._ready(images),
                self.split.labels.index_select(0, rows),
                self.split.index.index_select(0, rows),
                rows,
                view,
                None if others is None else self._second(rows, others[chosen]),
            )

    def _params(self, epoch: int, order: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """What happens to the images of an epoch, in their order there: in the first and the second view."""
        if self.views is not None:
            params, others = self._view_params((epoch - 1) % self.views)
            return params.index_select(0, order), None if others is None else others.index_select(0, order)
        params = self.augment.draw(len(order), generator).to(self.device)
        return params, self._draw_second(epoch_seed(self.seed, epoch, "second"))

    def _view_params(self, view: int) -> tuple[Tensor, Tensor | None]:
        """What happens to the images in a fixed view, in the order of the split."""
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, view, "view"))
        params = self.augment.draw(len(self.split), generator).to(self.device)
        return params, self._draw_second(epoch_seed(self.seed, view, "second of view"))

    def _draw_second(self, seed: int) -> Tensor | None:
        if self.second_augment is None:
            return None
        generator = torch.Generator().manual_seed(seed)
        return self.second_augment.draw(len(self.split), generator).to(self.device)

    def _second(self, rows: Tensor, params: Tensor) -> Tensor | None:
        if self.second_augment is None:
            return None
        return self._ready(self.second_augment.apply(self.split.images.index_select(0, rows), params))

    def _ready(self, images: Tensor) -> Tensor:
        return normalize(images, self.mean, self.std).contiguous(memory_format=self.memory_format)

    def whole_view(self, view: int, batch_size: int) -> Iterator[Batch]:
        """A fixed view of all images once, in the order of the split; the last batch may be smaller.

        Raises:
            ConfigError: there is no such view.
        """
        if self.views is None or not 0 <= view < self.views:
            known = f"views 0..{self.views - 1}" if self.views else "no fixed views"
            raise ConfigError(f"These batches have {known}; there is no view {view!r}.")
        return self._whole_view(view, batch_size)

    def _whole_view(self, view: int, batch_size: int) -> Iterator[Batch]:
        params, others = self._view_params(view)
        for start in range(0, len(self.split), batch_size):
            part = slice(start, start + batch_size)
            rows = torch.arange(start, min(part.stop, len(self.split)), device=self.device)
            images = self.augment.apply(self.split.images.index_select(0, rows), params[part])
            yield Batch(
                self._ready(images),
                self.split.labels[part],
                self.split.index[part],
                rows,
                view,
                None if others is None else self._second(rows, others[part]),
            )


def epoch_seed(seed: int, epoch: int, purpose: str = "batches") -> int:
    """A 63-bit seed for one epoch or view; neighbouring seeds and epochs give unrelated ones."""
    digest = hashlib.sha256(f"kdlab {purpose} {int(seed)} {int(epoch)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def eval_batches(
    split: Split,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """All images of `split` once, in order, without augmentation; the last batch may be smaller.

    Args:
        split: the images.
        mean, std: per channel, of pixels / 255.
        batch_size: at least 1.
        device: where the batches are wanted.

    Raises:
        ConfigError: a batch size below 1.

    >>> data = kdlab.data.load("digits", limit=100)
    >>> batches = kdlab.data.eval_batches(data.test, data.mean, data.std, batch_size=64)
    >>> [len(batch.labels) for batch in batches]
    [64, 36]
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size!r}.")
    for start in range(0, len(split), batch_size):
        part = slice(start, start + batch_size)
        yield Batch(
            normalize(split.images[part].to(device), mean, std),
            split.labels[part].to(device),
            split.index[part].to(device),
            torch.arange(start, min(start + batch_size, len(split)), device=device),
        )

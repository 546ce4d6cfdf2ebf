"""The known sets: what each holds, the constants of its normalisation, its usual augmentation."""

from __future__ import annotations

from dataclasses import dataclass

from kdlab.data import label_names


@dataclass(frozen=True)
class Entry:
    """What is known of a set before it is opened.

    `images` counts (train, test) as published; `shape` is (C, H, W). `mean` and `std` are constants
    (of pixels / 255); where None, the statistics of the training images are used.
    """

    title: str
    images: tuple[int, int]
    shape: tuple[int, int, int]
    classes: int
    augment: str
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    val_fraction: float = 0.1
    embedded: bool = False


ENTRIES: dict[str, Entry] = {
    "digits": Entry(
        "scans of handwritten digits (from scikit-learn)", (1347, 450), (1, 8, 8), 10, "shift",
        class_names=label_names.DIGITS, val_fraction=0.2, embedded=True,
    ),
    "shapes": Entry(
        "drawn pictures with known factors", (6000, 1500), (3, 32, 32), 8, "none",
        val_fraction=0.2, embedded=True,
    ),
    "cifar10": Entry(
        "CIFAR-10 photographs", (50_000, 10_000), (3, 32, 32), 10, "crop_flip", label_names.CIFAR10,
        mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616),
    ),
    "cifar100": Entry(  # the published constants, which public checkpoints were trained with
        "CIFAR-100 photographs", (50_000, 10_000), (3, 32, 32), 100, "crop_flip", label_names.CIFAR100,
        mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761),
    ),
    "fashion_mnist": Entry(
        "Fashion-MNIST, grey pictures of clothes", (60_000, 10_000), (1, 28, 28), 10, "crop",
        label_names.FASHION_MNIST, mean=(0.2860,), std=(0.3530,),
    ),
    "mnist": Entry(
        "MNIST handwritten digits", (60_000, 10_000), (1, 28, 28), 10, "crop", label_names.DIGITS,
        mean=(0.1307,), std=(0.3081,),
    ),
    "svhn": Entry(
        "SVHN house numbers", (73_257, 26_032), (3, 32, 32), 10, "crop", label_names.DIGITS,
    ),
    "stl10": Entry(
        "STL-10 photographs (labelled part)", (5_000, 8_000), (3, 96, 96), 10, "crop_flip_12",
        label_names.STL10,
    ),
    "tiny_imagenet": Entry(
        "Tiny-ImageNet photographs (test: its validation part)", (100_000, 10_000), (3, 64, 64), 200,
        "crop_flip_8", mean=(0.4802, 0.4481, 0.3975), std=(0.2764, 0.2689, 0.2816),
    ),
}  # fmt: skip

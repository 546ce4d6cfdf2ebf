"""Sets as their authors publish them, through torchvision's readers, turned into plain arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdlab.data.folders import read_folder
from kdlab.data.parts import Parts
from kdlab.errors import DataError

Arrays = dict[str, NDArray[Any]]

TINY_IMAGENET = "tiny-imagenet-200"
TINY_IMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_IMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"

# what torchvision leaves under its root: seen without importing torchvision, which is slow
_MARKS = {
    "cifar10": ("cifar-10-batches-py",),
    "cifar100": ("cifar-100-python",),
    "mnist": ("MNIST/raw",),
    "fashion_mnist": ("FashionMNIST/raw",),
    "svhn": ("train_32x32.mat", "test_32x32.mat"),
    "stl10": ("stl10_binary",),
    "tiny_imagenet": (TINY_IMAGENET,),
}


def present(name: str, root: Path) -> bool:
    """Whether the published files of set `name` lie under `root`."""
    return all((root / mark).exists() for mark in _MARKS[name])


def read(name: str, root: Path, download: bool = False) -> Arrays:
    """Decode the published files of set `name` under `root`; the network is used only with `download`.

    Files are checked by the digests that torchvision (for Tiny-ImageNet: this module) knows.

    Returns:
        x_train, y_train, x_test, y_test (NHWC uint8, int64).

    Raises:
        DataError: files that are missing, damaged, or could not be had from the network.
    """
    try:
        if name == "tiny_imagenet":
            return _tiny_imagenet(root, download)
        parts = {part: _torchvision(name, root, part == "train", download) for part in ("train", "test")}
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        if download:
            raise DataError(
                f"Data set {name!r} could not be downloaded to {root} ({error}); check the network and the "
                f"folder, or put a ready {name}.npz there."
            ) from error
        raise DataError(
            f"The published files of {name!r} under {root} are incomplete or damaged ({error}); delete "
            f"{' and '.join(_MARKS[name])} there and get the set again."
        ) from error
    (x_train, y_train), (x_test, y_test) = parts["train"], parts["test"]
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def _torchvision(
    name: str, root: Path, train: bool, download: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from torchvision import datasets

    split = "train" if train else "test"
    if name in ("cifar10", "cifar100"):
        cifar = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
        found = cifar(root, train=train, download=download)
        images, labels = found.data, found.targets
    elif name in ("mnist", "fashion_mnist"):
        mnist = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}[name]
        found = mnist(root, train=train, download=download)
        images, labels = found.data.numpy()[..., None], found.targets.numpy()
    else:
        svhn_or_stl = {"svhn": datasets.SVHN, "stl10": datasets.STL10}[name]
        found = svhn_or_stl(root, split=split, download=download)
        images, labels = found.data.transpose(0, 2, 3, 1), found.labels
    return np.ascontiguousarray(images, dtype=np.uint8), np.asarray(labels, dtype=np.int64)


def _tiny_imagenet(root: Path, download: bool) -> Arrays:
    if download and not present("tiny_imagenet", root):
        from torchvision.datasets.utils import download_and_extract_archive

        download_and_extract_archive(TINY_IMAGENET_URL, str(root), md5=TINY_IMAGENET_MD5)
    parts = read_folder(root / TINY_IMAGENET)
    counts = np.bincount(parts.train.labels.numpy(), minlength=len(parts.class_names))
    if counts.min() < counts.max():  # every class has as many: an archive unpacked in part has not
        raise DataError(
            f"{root / TINY_IMAGENET} is incomplete: class {parts.class_names[int(counts.argmin())]!r} has "
            f"{counts.min()} training images, others {counts.max()}; delete the folder and get the set again."
        )
    return to_arrays(parts)


def to_arrays(parts: Parts) -> Arrays:
    """The arrays of an `.npz` file that holds `parts`, which must have a test part."""
    arrays: Arrays = {"class_names": np.array(parts.class_names)}
    for part, split in (("train", parts.train), ("test", parts.test)):
        if split is None:
            raise DataError(f"{parts.name!r} has no {part} part.")
        arrays[f"x_{part}"] = split.images.permute(0, 2, 3, 1).numpy()
        arrays[f"y_{part}"] = split.labels.numpy()
    return arrays

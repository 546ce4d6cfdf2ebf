"""Image files in folders: one sub-folder per class, or the layout of Tiny-ImageNet."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdlab.data.parts import Parts, make_split
from kdlab.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
LARGEST_KEPT = 128  # pixels: images of one common size up to this are kept as they are
DEFAULT_SIZE = 64

_PARTS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}

Listing = list[tuple[Path, int]]  # image files and their labels


def read_folder(path: str | os.PathLike[str], image_size: int | None = None) -> Parts:
    """Read a folder of images with one sub-folder per class, decoded into memory.

    Layouts: `CLASS/...image files`, or `train/CLASS/...` with `test/CLASS/...` and `val/CLASS/...`
    (also `valid`, `validation`) or one of the two, or Tiny-ImageNet's own (see `list_tiny_imagenet`).
    With `val` but no `test`, `val` is the test part, as in ImageNet; with neither, a test part is
    cut from all images. Classes are the sub-folders of the training part in alphabetical order.

    Args:
        path: the folder.
        image_size: side in pixels that all images are brought to: scaled so that the shorter side
            fits (bilinear, anti-aliased), then cropped at the centre. None: the images' own size if
            they all have one and it is at most 128 x 128, else 64.

    Raises:
        DataError: names the folder or file that does not fit.
        ConfigError: an image size below 4.
    """
    path = Path(path)
    if image_size is not None and (
        isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 4
    ):
        raise ConfigError(f"image_size must be a whole number of at least 4 pixels, not {image_size!r}.")
    if (path / "val" / "val_annotations.txt").is_file():
        listings, class_names = list_tiny_imagenet(path)
    else:
        listings, class_names = _list_parts(path)
    return _decode(path.name, listings, class_names, image_size)


def list_tiny_imagenet(path: Path) -> tuple[dict[str, Listing], tuple[str, ...]]:
    """Files of `train/WNID/images/*` and of `val/images` with `val/val_annotations.txt` (the test part).

    Classes are the sub-folders of `train` in alphabetical order, named by the first word of
    `words.txt` where that is there and tells them apart.

    Raises:
        DataError: names the missing folder, or the annotation that points nowhere.
    """
    codes = _class_folders(path / "train")
    number = {code: label for label, code in enumerate(codes)}
    train = [(file, number[code]) for code in codes for file in _image_files(path / "train" / code)]
    test: Listing = []
    for line in (path / "val" / "val_annotations.txt").read_text().splitlines():
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in number:
            raise DataError(
                f"{path / 'val' / 'val_annotations.txt'} has a line that names no class: {line[:60]!r}."
            )
        test.append((path / "val" / "images" / fields[0], number[fields[1]]))
    return {"train": train, "test": test}, _words(path / "words.txt", codes)


def _words(path: Path, codes: Sequence[str]) -> tuple[str, ...]:
    if not path.is_file():
        return tuple(codes)
    table = dict(line.split("\t", 1) for line in path.read_text().splitlines() if "\t" in line)
    words = [table.get(code, code).split(",")[0].strip() for code in codes]
    count = Counter(words)
    return tuple(
        word if count[word] == 1 else f"{word} ({code})" for word, code in zip(words, codes, strict=True)
    )


def _list_parts(path: Path) -> tuple[dict[str, Listing], tuple[str, ...]]:
    found = {
        part: path / name
        for part, names in _PARTS.items()
        for name in reversed(names)
        if (path / name).is_dir()
    }
    if "train" not in found:
        found = {"train": path}
    elif "test" not in found and "val" in found:
        found["test"] = found.pop("val")
    classes = _class_folders(found["train"])
    listings: dict[str, Listing] = {}
    for part, folder in found.items():
        strange = sorted(set(_class_folders(folder)) - set(classes))
        if strange:
            raise DataError(
                f"{folder} has class folder {strange[0]!r}, which {found['train']} does not have."
            )
        listings[part] = [
            (file, label)
            for label, name in enumerate(classes)
            if (folder / name).is_dir()
            for file in _image_files(folder / name)
        ]
    return listings, tuple(classes)


def _class_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    names = sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
    if len(names) < 2:
        raise DataError(
            f"{folder} must hold one sub-folder of images per class, at least two; it has {len(names)}."
        )
    return names


def _image_files(folder: Path) -> list[Path]:
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
    if not files:
        raise DataError(f"{folder} holds no image files ({', '.join(sorted(SUFFIXES))}).")
    return files


def _decode(
    name: str, listings: dict[str, Listing], class_names: tuple[str, ...], image_size: int | None
) -> Parts:
    files = [file for listing in listings.values() for file, _ in listing]
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:  # decoding releases the GIL
        about = list(pool.map(_about, files))
        colour = any(mode for _, mode in about)
        sizes = {size for size, _ in about}
        if image_size is None and len(sizes) == 1 and max(next(iter(sizes))) <= LARGEST_KEPT:
            width, height = next(iter(sizes))
        else:
            width = height = image_size or DEFAULT_SIZE
        pictures = np.empty((len(files), height, width, 3 if colour else 1), np.uint8)
        for row, picture in enumerate(pool.map(lambda file: _read(file, width, height, colour), files)):
            pictures[row] = picture
    splits: dict[str, Any] = {}
    start = 0
    for part, listing in listings.items():
        labels = np.array([label for _, label in listing], np.int64)
        splits[part] = make_split(pictures[start : start + len(listing)], labels)
        start += len(listing)
    fraction = 0.1 if len(splits["train"]) >= 20_000 else 0.2
    return Parts(name, class_names=class_names, val_fraction=fraction, **splits)


def _open(file: Path) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file)
    except FileNotFoundError:
        raise DataError(f"There is no image file {file}.") from None
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
        raise DataError(f"{file} cannot be read as an image; repair or remove it.") from error


def _about(file: Path) -> tuple[tuple[int, int], bool]:
    """(width, height) and whether there is colour, where possible from the header alone."""
    from PIL import ExifTags

    with _open(file) as image, _damage(file):
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        width, height = image.size
        return (height, width) if turned else (width, height), image.mode not in ("1", "L", "LA")


def _read(file: Path, width: int, height: int, colour: bool) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    with _open(file) as image, _damage(file):
        ImageOps.exif_transpose(image, in_place=True)  # cameras note a rotation instead of rotating
        picture = image.convert("RGB" if colour else "L")
        if picture.size != (width, height):
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)
        return np.asarray(picture).reshape(height, width, -1)


@contextlib.contextmanager
def _damage(file: Path) -> Iterator[None]:
    """A file cut short shows only when its pixels are read."""
    try:
        yield
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{file} is damaged ({error}); repair or remove it.") from error

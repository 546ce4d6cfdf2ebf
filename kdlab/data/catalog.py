"""Names -> data sets: what is known, what is at hand, how to get it, and `load` for everything."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdlab.data import label_names, raw
from kdlab.data.dataset import ImageData
from kdlab.data.entries import ENTRIES, Entry
from kdlab.data.folders import read_folder
from kdlab.data.parts import Limit, Parts, assemble, make_split, reduce
from kdlab.data.store import from_arrays, read_npz, write_npz
from kdlab.errors import ConfigError, DataError, unknown_name

Source = str | os.PathLike[str] | ImageData | Mapping[str, Any] | tuple[Any, ...]


def load(
    data: Source,
    *,
    root: str | os.PathLike[str] | None = None,
    val_fraction: float | None = None,
    labels_per_class: int | None = None,
    seed: int = 0,
    limit: Limit | None = None,
    image_size: int | None = None,
) -> ImageData:
    """Load a data set, ready for use. Never touches the network (see `download`).

    Args:
        data: a name (`names()`, or the stem of an `.npz` file in the root), the path of a folder of
            images (`read_folder` says which layouts) or of an `.npz` file (`read_npz`), an
            `ImageData`, or arrays: a mapping with the keys of `read_npz`, (x, y), or
            (x_train, y_train, x_test, y_test), as NumPy arrays (N, H, W, C) or tensors (N, C, H, W).
        root: the folder of the sets; None: the environment variable KDLAB_DATA, else `data`.
        val_fraction: share of the training images cut off for validation, 0 <= share < 1; None:
            0.2 for small sets, 0.1 otherwise. The cut is stratified and depends on the labels
            alone, never on `seed`.
        labels_per_class: keep so many training images of every class, chosen by `seed`;
            validation and test part stay whole. Fewer labels are a part of more.
        seed: chooses the images of `labels_per_class`, nothing else.
        limit: at most so many images in every part, or {"train": n, "val": n, "test": n} (any of
            them): stratified smaller parts, for quick tries. Applied before `labels_per_class`.
        image_size: for a folder of images, the side in pixels they are brought to.

    Raises:
        UnknownNameError: no such set.
        ConfigError: an impossible share, count or limit.
        DataError: a set that is missing or damaged; says which file, and what to do.

    >>> data = kdlab.data.load("digits", labels_per_class=5)
    >>> len(data.train.labels), len(data.val.labels), len(data.test.labels)
    (50, 269, 450)
    >>> pictures, labels = np.zeros((40, 8, 8, 3), np.uint8), np.arange(40) % 4
    >>> kdlab.data.load((pictures, labels)).input_shape
    (3, 8, 8)
    """
    if isinstance(data, ImageData):
        if val_fraction is not None:
            raise ConfigError("This data is split already: leave val_fraction out.")
        _folders_only(image_size)
        return reduce(data, labels_per_class=labels_per_class, seed=seed, limit=limit)
    parts = _open(data, data_root(root), image_size)
    return assemble(
        parts, val_fraction=val_fraction, labels_per_class=labels_per_class, seed=seed, limit=limit
    )


def names() -> list[str]:
    """The names of the known sets; the first works offline at once.

    >>> kdlab.data.names()[:3]
    ['digits', 'shapes', 'cifar10']
    """
    return list(ENTRIES)


def table(root: str | os.PathLike[str] | None = None) -> list[dict[str, Any]]:
    """A row per known set: name, title, train, test, size, classes, present, where, how (to get it).

    >>> row = kdlab.data.table()[0]
    >>> row["name"], row["train"], row["test"], row["size"], row["how"]
    ('digits', 1347, 450, '1x8x8', 'nothing to do')
    """
    folder = data_root(root)
    rows = []
    for name, entry in ENTRIES.items():
        path = folder / f"{name}.npz"
        if entry.embedded:
            present, where, how = True, "embedded", "nothing to do"
        elif path.is_file():
            present, where, how = True, str(path), "nothing to do"
        elif raw.present(name, folder):
            present, where, how = True, str(folder), "decoded on first use"
        else:
            present, where, how = False, "", _command(name, folder)
        rows.append(
            {
                "name": name,
                "title": entry.title,
                "train": entry.images[0],
                "test": entry.images[1],
                "size": "x".join(map(str, entry.shape)),
                "classes": entry.classes,
                "present": present,
                "where": where,
                "how": how,
            }
        )
    return rows


def download(name: str, root: str | os.PathLike[str] | None = None) -> Path:
    """Fetch a known set from its authors and keep it as `<root>/<name>.npz`; returns that path.

    The only function of kdlab that uses the network. What was fetched is checked by digest; the
    published files stay beside the `.npz` and may be deleted. A set that is there is checked, not
    fetched again.

    Raises:
        UnknownNameError: no such set.
        ConfigError: an embedded set, which needs no download.
        DataError: no network, a folder that cannot be written to, or a damaged file that is in the way.

    >>> kdlab.data.download("cifar10")  # it needs a network  # doctest: +SKIP
    """
    entry = _entry(name)
    if entry.embedded:
        raise ConfigError(f"{name!r} comes with kdlab: load it, there is nothing to download.")
    folder = data_root(root)
    path = folder / f"{name}.npz"
    if path.is_file():
        _check(name, read_npz(path, _defaults(name)), path)
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"The data folder {folder} cannot be made ({error.strerror}).") from error
    return write_npz(path, {**raw.read(name, folder, download=True), **_defaults(name)})


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the data sets: `root`, else the environment variable KDLAB_DATA, else `data`.

    >>> str(kdlab.data.data_root("sets"))
    'sets'
    """
    return Path(root or os.environ.get("KDLAB_DATA") or "data").expanduser()


def _open(data: Source, root: Path, image_size: int | None) -> Parts:
    if isinstance(data, Mapping):
        _folders_only(image_size)
        return from_arrays(data, name="arrays")
    if isinstance(data, tuple | list):
        keys = ("x_train", "y_train", "x_test", "y_test")[: len(data)]
        if len(data) not in (2, 4):
            raise ConfigError(
                f"Arrays come as (x, y) or (x_train, y_train, x_test, y_test), not as {len(data)}."
            )
        _folders_only(image_size)
        return from_arrays(dict(zip(keys, data, strict=True)), name="arrays")
    if not isinstance(data, str | os.PathLike):
        raise ConfigError(f"Data must be a name, a path, arrays or an ImageData, not {type(data).__name__}.")
    if isinstance(data, str) and data in ENTRIES:
        _folders_only(image_size)
        return _known(data, root)
    path = Path(data).expanduser()
    if path.is_dir():
        return read_folder(path, image_size)
    own = root / f"{data}.npz"
    is_name = isinstance(data, str) and Path(data).name == data and not path.suffix
    if is_name and not path.exists() and not own.is_file():
        raise unknown_name("data set", data, [*ENTRIES, *_own_names(root)])
    _folders_only(image_size)
    if is_name and not path.exists():
        return read_npz(own)
    if not path.exists():
        raise DataError(
            f"There is no file or folder {path}; give a name ({', '.join(ENTRIES)}) or a path that exists."
        )
    if path.suffix != ".npz":
        raise DataError(f"{path} is neither a folder of images nor an .npz file.")
    return read_npz(path)


def _known(name: str, root: Path) -> Parts:
    entry = ENTRIES[name]
    if name == "digits":
        parts = _digits()
    elif name == "shapes":
        from kdlab.data.shapes import shape_parts

        parts = shape_parts(*entry.images)
    else:
        path = root / f"{name}.npz"
        if not path.is_file() and raw.present(name, root):
            arrays = {**raw.read(name, root), **_defaults(name)}
            parts = _check(name, from_arrays(arrays, name=name, where=str(root)), root)
            try:
                write_npz(path, arrays)
            except DataError as error:  # a read-only folder: slower next time, but not wrong
                warnings.warn(f"{error} The set is decoded anew each time.", stacklevel=4)
        elif path.is_file():
            parts = _check(name, read_npz(path, _defaults(name)), path)
        else:
            raise DataError(
                f"Data set {name!r} is not in {root.absolute()}: run `{_command(name, root)}` where there is "
                f"a network, or put a ready {name}.npz at {path.absolute()}; the embedded sets 'digits' "
                "and 'shapes' work offline at once."
            )
    return replace(
        parts,
        name=name,
        mean=entry.mean,
        std=entry.std,
        augment=entry.augment,
        val_fraction=entry.val_fraction,
    )


def _digits() -> Parts:
    from sklearn.datasets import load_digits

    found = load_digits()
    # 0..16 -> 0..255, rounded to nearest in whole numbers
    pixels = (found.images.astype(np.int64) * 255 + 8) // 16
    train = make_split(pixels.astype(np.uint8), found.target)
    return Parts("digits", train, label_names.DIGITS, test_count=ENTRIES["digits"].images[1])


def _check(name: str, parts: Parts, where: Path) -> Parts:
    """Refuse a file whose content is not what its name says."""
    entry = ENTRIES[name]
    found = len(parts.class_names), tuple(parts.train.images.shape[1:])
    expected = entry.classes, entry.shape
    if found != expected:
        here, there = (f"{k} classes of {'x'.join(map(str, shape))} images" for k, shape in (found, expected))
        raise DataError(f"{where} is not {name}: it has {here}, not {there}; rename or replace it.")
    return parts


def _defaults(name: str) -> dict[str, Any]:
    known: dict[str, Any] = {}
    if ENTRIES[name].class_names:
        known["class_names"] = np.array(ENTRIES[name].class_names)
    if name == "cifar100":
        known["coarse_names"] = np.array(label_names.CIFAR100_COARSE)
        known["fine_to_coarse"] = np.array(label_names.CIFAR100_FINE_TO_COARSE)
    return known


def _entry(name: str) -> Entry:
    if name not in ENTRIES:
        raise unknown_name("data set", name, ENTRIES)
    return ENTRIES[name]


def _own_names(root: Path) -> list[str]:
    found = sorted(path.stem for path in root.glob("*.npz")) if root.is_dir() else []
    return [name for name in found if name not in ENTRIES]


def _command(name: str, root: Path) -> str:
    """What to type to get a set into `root`."""
    command = f"kdlab datasets --download {name}"
    return command if root == data_root() else f"{command} --root {shlex.quote(str(root))}"


def _folders_only(image_size: int | None) -> None:
    if image_size is not None:
        raise ConfigError("image_size is for a folder of images; other sets come in their own size.")

"""Decoded sets as plain `.npz` files, and arrays of one's own: checked in, written whole or not at all."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdlab.data.parts import Parts, make_split
from kdlab.errors import ConfigError, DataError
from kdlab.files import whole_file

REQUIRED = ("x_train", "y_train", "x_test", "y_test")
OPTIONAL = ("class_names", "coarse_names", "fine_to_coarse")


def read_npz(path: str | os.PathLike[str], defaults: Mapping[str, Any] | None = None) -> Parts:
    """Read a set from an `.npz` file; nothing is returned unless all of it is sound.

    Keys: x_train, x_test (uint8, N x H x W x C or N x H x W), y_train, y_test (integers from 0),
    and if wanted class_names (K), coarse_names and fine_to_coarse (K).

    Args:
        path: the file.
        defaults: the optional keys, for a file that brings no class_names.

    Raises:
        DataError: names the file and what is wrong with it.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            if file.read(2) != b"PK":
                raise DataError(f"{path} is not an .npz file (it does not start like a zip archive).")
        with np.load(path, allow_pickle=False) as file:
            _require(file.files, path)
            arrays = {key: file[key] for key in (*REQUIRED, *OPTIONAL) if key in file.files}
    except FileNotFoundError:
        raise DataError(f"There is no file {path}.") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise DataError(
            f"{path} is damaged or cut short and cannot be read ({reason}); delete it and get the set again."
        ) from error
    if defaults and "class_names" not in arrays:
        arrays = {**arrays, **defaults}
    return from_arrays(arrays, name=path.stem, where=str(path))


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> Path:
    """Write a set that `load` reads: checked first, then whole or not at all (an existing file is kept).

    Args:
        path: where, ending in `.npz`.
        arrays: the keys of `read_npz`.

    Returns:
        the path.

    Raises:
        ConfigError: the name does not end in .npz, or the file is there already.
        DataError: arrays that do not make a data set with both parts, or a folder that cannot be written to.

    >>> x, y = np.zeros((40, 8, 8, 3), np.uint8), np.arange(40) % 4
    >>> path = kdlab.data.write_npz("mine.npz", {"x_train": x, "y_train": y, "x_test": x, "y_test": y})
    >>> print(kdlab.data.load(path).describe())
    mine: 32 train, 8 validation, 40 test images of 3x8x8; 4 classes, chance 25.0%
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ConfigError(f"The name of a data file must end in .npz, not {path.name!r}.")
    if path.exists():
        raise ConfigError(f"{path} exists already; delete it first or choose another name.")
    _require(arrays, path)
    values: dict[str, Any] = {key: np.asarray(value) for key, value in arrays.items()}
    parts = from_arrays(values, name=path.stem, where=str(path))
    values["class_names"] = np.array(parts.class_names)  # plain text, whatever kind of string was given
    if parts.coarse_names is not None:
        values["coarse_names"] = np.array(parts.coarse_names)
    try:
        with whole_file(path) as partial, open(partial, "wb") as file:
            np.savez(file, **values)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error}).") from error
    return path


def _require(keys: Collection[str], path: Path) -> None:
    """A file holds both parts; raises DataError otherwise."""
    missing = [key for key in REQUIRED if key not in keys]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}; a data set needs {', '.join(REQUIRED)} "
            "(and may have class_names)."
        )


def from_arrays(arrays: Mapping[str, Any], *, name: str, where: str = "the arrays") -> Parts:
    """Check arrays and make `Parts` of them; without x_test and y_test there is no test part.

    Raises:
        DataError: says which array of `where` is wrong, and how.
    """
    unknown = sorted(set(arrays) - {*REQUIRED, *OPTIONAL})
    if unknown:
        raise DataError(
            f"{where}: there is no place for {', '.join(map(repr, unknown))}; "
            f"known keys are {', '.join((*REQUIRED, *OPTIONAL))}."
        )
    lone = "x_test" in arrays or "y_test" in arrays
    needed = REQUIRED if lone else REQUIRED[:2]
    for key in needed:
        if arrays.get(key) is None:
            raise DataError(f"{where}: {key} is missing.")
    present = ("train", "test") if lone else ("train",)
    images = {part: _images(arrays[f"x_{part}"], f"x_{part}", where) for part in present}
    labels = {
        part: _labels(arrays[f"y_{part}"], f"y_{part}", len(pictures), where)
        for part, pictures in images.items()
    }
    if "test" in images and images["test"].shape[1:] != images["train"].shape[1:]:
        raise DataError(
            f"{where}: x_test holds images of (height, width, channels) {images['test'].shape[1:]}, "
            f"x_train of {images['train'].shape[1:]}; make them one size."
        )
    class_names = _class_names(arrays.get("class_names"), labels, where)
    coarse_names, fine_to_coarse = _coarse(arrays, len(class_names), where)
    return Parts(
        name=name,
        train=make_split(images["train"], labels["train"]),
        test=make_split(images["test"], labels["test"]) if "test" in images else None,
        class_names=class_names,
        coarse_names=coarse_names,
        fine_to_coarse=fine_to_coarse,
        val_fraction=0.1 if len(labels["train"]) >= 20_000 else 0.2,
    )


def _images(value: Any, key: str, where: str) -> NDArray[np.uint8]:
    """NHWC uint8 from NHW, NHWC or NCHW; the side with 1 to 4 entries holds the channels."""
    tensor = hasattr(value, "detach")
    array = value.detach().cpu().numpy() if tensor else np.asarray(value)
    if array.dtype != np.uint8:
        hint = " (from 0..1: (x * 255).round().astype('uint8'))" if array.dtype.kind == "f" else ""
        raise DataError(f"{where}: {key} must hold uint8 pixels 0..255, not {array.dtype}{hint}.")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim == 4:
        first, last = 1 <= array.shape[1] <= 4, 1 <= array.shape[3] <= 4
        if first and (tensor or not last):  # where both fit, tensors are read as NCHW, arrays as NHWC
            array = array.transpose(0, 2, 3, 1)
        elif not (first or last):
            array = array[:0, :0]  # no axis can be the channels
    if array.ndim != 4 or array.size == 0:
        raise DataError(
            f"{where}: {key} has shape {np.shape(value)}; it must be N x H x W x C (or N x H x W for grey) "
            "with N at least 1 and 1 to 4 channels."
        )
    return array


def _labels(value: Any, key: str, count: int, where: str) -> NDArray[np.int64]:
    array = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
    if array.dtype.kind not in "iu":
        raise DataError(f"{where}: {key} must hold whole numbers (int64), not {array.dtype}.")
    if array.shape != (count,):
        raise DataError(f"{where}: {key} has shape {array.shape}; for {count} images it must be ({count},).")
    return array.astype(np.int64)


def _class_names(given: Any, labels: Mapping[str, NDArray[np.int64]], where: str) -> tuple[str, ...]:
    if given is None:
        present = np.unique(labels["train"])
        names = tuple(str(c) for c in range(len(present)))
        if present[0] != 0 or present[-1] != len(present) - 1:
            raise DataError(
                f"{where}: the training labels are {', '.join(map(str, present[:5]))}"
                f"{', ...' if len(present) > 5 else ''}; "
                "without class_names they must be 0, 1, 2, ... with none left out "
                "(np.unique(y, return_inverse=True) renumbers them)."
            )
    else:
        array = np.asarray(given)
        if array.ndim != 1 or array.dtype.kind not in "UST":
            raise DataError(
                f"{where}: class_names must be a list of strings, not {array.dtype} of shape {array.shape}."
            )
        names = tuple(item.decode() if isinstance(item, bytes) else str(item) for item in array)
        if len(set(names)) != len(names):
            raise DataError(f"{where}: class_names has a name twice; names must differ.")
    if len(names) < 2:
        raise DataError(f"{where}: there is only one class; at least two are needed.")
    for part, values in labels.items():
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= len(names):
            raise DataError(
                f"{where}: y_{part} holds label {low if low < 0 else high}; with {len(names)} classes labels "
                f"must lie in 0..{len(names) - 1}."
            )
    return names


def _coarse(
    arrays: Mapping[str, Any], classes: int, where: str
) -> tuple[tuple[str, ...] | None, tuple[int, ...] | None]:
    if "coarse_names" not in arrays and "fine_to_coarse" not in arrays:
        return None, None
    if "coarse_names" not in arrays or "fine_to_coarse" not in arrays:
        raise DataError(f"{where}: coarse_names and fine_to_coarse belong together; one is missing.")
    names = tuple(str(item) for item in np.asarray(arrays["coarse_names"]).ravel())
    table = np.asarray(arrays["fine_to_coarse"])
    if (
        table.dtype.kind not in "iu"
        or table.shape != (classes,)
        or int(table.min()) < 0
        or int(table.max()) >= len(names)
    ):
        raise DataError(
            f"{where}: fine_to_coarse must hold one number 0..{len(names) - 1} "
            f"for each of the {classes} classes."
        )
    return names, tuple(int(c) for c in table)

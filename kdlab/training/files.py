"""Files of a study: written whole or not at all, read without pickle, locked against two writers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from kdlab.errors import CheckpointError, StudyError
from kdlab.files import whole_file


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file that takes the place of `path` when it is whole.

    Raises:
        StudyError: the folder cannot be written to, or the disk is full.
    """
    from safetensors import SafetensorError

    try:
        with whole_file(path) as temporary:
            write(temporary)
    except (OSError, SafetensorError) as error:  # a full disk comes as either
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: Exception) -> StudyError:
    why = getattr(error, "strerror", None) or error
    return StudyError(
        f"Cannot write {path} ({why}); what was there is kept. "
        "Make room, or choose a folder you may write to."
    )


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    write_atomic(path, lambda p: _write_text(p, text + "\n"))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON; a damaged file is named in the error.

    Raises:
        StudyError: the file cannot be read as JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} cannot be read as a record of a study ({error}).") from error


def append_json_line(path: Path, *rows: Mapping[str, Any]) -> None:
    """Add rows to a file of JSON lines and hand them to the system at once; see `append_bytes`.

    A last row that was left half-written is cut off first.
    """
    if path.exists() and not _ends_with_newline(path):
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    append_bytes(path, text.encode())


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def append_bytes(path: Path, data: bytes) -> None:
    """Add to the end of a file, all or nothing, and hand it to the system at once.

    Raises:
        StudyError: the file cannot be written to, or the disk is full; the file is as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                written = file.write(data)
                if written < len(data):  # the disk is full
                    file.write(data[written:])
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise _cannot_write(path, error) from error


def rewrite_json_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace a file of JSON lines by `rows`, atomically."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomic(path, lambda temporary: _write_text(temporary, text))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """All whole rows; a last row that a killed process left half-written is passed over."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number == len(lines) - 1:  # no newline behind it: it never was a whole row
                break
            raise StudyError(f"Row {number + 1} of {path} is damaged ({error}).") from error
    return rows


def read_info(path: Path) -> Any:
    """Only the plain values of a file made by `write_tensors`; quick, whatever its size."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get("info", "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: it is missing or damaged ({error}).") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Write tensors and plain values `info` into one safetensors file, atomically."""
    from safetensors.torch import save_file

    plain = {key: value.detach().to("cpu").contiguous() for key, value in tensors.items()}
    metadata = {"info": json.dumps(info, ensure_ascii=False)}
    write_atomic(path, lambda p: save_file(plain, p, metadata=metadata))


def merge_tensors(path: Path, tensors: Mapping[str, Tensor], key: str, entries: Mapping[str, Any]) -> None:
    """Write tensors beside those that the file holds already; info[key] is a mapping that grows likewise."""
    held, info = read_tensors(path) if path.exists() else ({}, {key: {}})
    write_tensors(path, {**held, **tensors}, {**info, key: {**info[key], **entries}})


def read_tensors(path: Path, prefix: str = "") -> tuple[dict[str, Tensor], Any]:
    """Tensors (whose names begin with `prefix`) and `info` of a file made by `write_tensors`.

    Raises:
        CheckpointError: the file is missing or damaged; it is named.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            info = json.loads((file.metadata() or {}).get("info", "{}"))
            keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118
            return {key: file.get_tensor(key) for key in keys}, info
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: it is missing or damaged ({error}).") from error


@contextmanager
def locked(folder: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold the folder's lock; a second writer waits, or is told at once, and changes nothing meanwhile.

    Raises:
        StudyError: another process (or another object in this one) is writing there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise StudyError(f"Cannot write to {folder}: {error.strerror}; choose another folder.") from error
    with file:
        try:
            import fcntl
        except ImportError:  # no advisory locks on this system
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            raise StudyError(
                f"Another process is writing {what} in {folder}; wait for it, or stop it first."
            ) from error
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)

"""Files of a study: written whole or not at all, read without pickle, locked against two writers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
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
        why = getattr(error, "strerror", None) or error
        raise StudyError(
            f"Cannot write {path} ({why}); what was there is kept. "
            "Make room, or choose a folder you may write to."
        ) from error


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


def append_json_line(path: Path, row: Mapping[str, Any]) -> None:
    """Add one row to a file of JSON lines and hand it to the system at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()


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


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Tensors and `info` of a file made by `write_tensors`.

    Raises:
        CheckpointError: the file is missing or damaged; it is named.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            info = json.loads((file.metadata() or {}).get("info", "{}"))
            return {key: file.get_tensor(key) for key in file.keys()}, info  # noqa: SIM118
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

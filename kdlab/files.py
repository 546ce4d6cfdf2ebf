"""Files written whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdlab.errors import ConfigError

_LEFTOVER = re.compile(r"\..+\.\w+\.[a-z0-9_]{8}")  # what `whole_file` calls its temporary files

_UMASK = os.umask(0)  # can only be read by setting it; done once, at import, before threads
os.umask(_UMASK)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in `folder` and below."""
    for path in folder.rglob(".*"):
        if _LEFTOVER.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def place_for(path: str | Path, name: str) -> Path:
    """Where a file is to be written, looked at before work goes into it.

    Args:
        path: of the file, or of an existing folder for it.
        name: what it is called in a folder; a path has to end like it.

    Raises:
        ConfigError: another ending, or nothing can be written there.
    """
    place = Path(path) / name if Path(path).is_dir() else Path(path)
    ending = Path(name).suffix
    if place.suffix.lower() != ending:
        raise ConfigError(
            f"This is written as {ending}, not as {place.name!r}; name a file such as {name!r}."
        )
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place.parent).close()
    except OSError as error:
        raise ConfigError(f"Cannot write {place} ({error.strerror}); give another path.") from error
    return place


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to be written to; put in its place when the body succeeds.

    A reader, or a process killed at any instant, sees the old file or the new one, never a part.

    Raises:
        OSError: the folder cannot be made or written to, or the disk is full; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)  # mkstemp makes files private
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

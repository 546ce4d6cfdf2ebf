"""Where predictions are kept: in memory, and in a small JSON file where one may be written.

The file is `.kdlab-answers.json` in the working folder; the environment variable `KDLAB_ANSWERS` names
another one, or is "off" for none at all. A file that kdlab cannot read is left as it is.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from kdlab.files import whole_file

FILE = ".kdlab-answers.json"
_FORMAT = 1
_MEMORY: dict[str, dict[str, Any]] = {}
_SILENT = ("off", "none", "0", "no")


def path() -> Path | None:
    """The file in which answers are kept; None where none is wanted."""
    chosen = os.environ.get("KDLAB_ANSWERS", FILE).strip() or FILE
    return None if chosen.lower() in _SILENT else Path(chosen).expanduser().absolute()


def load(key: str) -> dict[str, Any] | None:
    """What was kept under a key: in this session, or else in the file."""
    if key in _MEMORY:
        return _MEMORY[key]
    try:
        return _read().get(key)
    except ValueError:
        return None


def keep(key: str, entry: dict[str, Any]) -> str:
    """Keep an entry in memory and in the file; returns why the file was not written, "" if it was."""
    _MEMORY[key] = entry
    file = path()
    if file is None:
        return "kept for this session alone (KDLAB_ANSWERS is off)"
    try:
        # Another notebook of the same folder may have written since: only this key is changed.
        found = _read()
        if found.get(key) != entry:
            with whole_file(file) as temporary:
                text = json.dumps(
                    {"format": _FORMAT, "answers": {**found, key: entry}}, indent=1, ensure_ascii=False
                )
                temporary.write_text(text + "\n", encoding="utf-8")
    except OSError:
        return f"kept for this session alone: {file.name} cannot be written here"
    except ValueError:
        return f"kept for this session alone: {file.name} holds something else and is left as it is"
    return ""


def remember(key: str, entry: dict[str, Any]) -> str:
    """Keep an entry in memory alone; returns "" as `keep` does."""
    _MEMORY[key] = entry
    return ""


def _read() -> dict[str, dict[str, Any]]:
    """Entries of the file, none where there is no file.

    Raises:
        ValueError: the file is not one of kdlab's.
    """
    file = path()
    if file is None:
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        return {}
    answers = (
        content.get("answers") if isinstance(content, dict) and content.get("format") == _FORMAT else None
    )
    if not isinstance(answers, dict) or not all(isinstance(entry, dict) for entry in answers.values()):
        raise ValueError(f"{file.name} holds no answers")
    return answers

"""Arguments of `kdlab.Study` from a study file (TOML) and the flags of `kdlab run`."""

from __future__ import annotations

import argparse
import inspect
import shlex
import tomllib
from pathlib import Path
from typing import Any

from kdlab.errors import ConfigError, unknown_name

# flags that are called as the argument of Study they set
_FLAGS = (
    "data",
    "data_root",
    "labels_per_class",
    "teacher",
    "student",
    "epochs",
    "seeds",
    "recipe",
    "batch_size",
    "lr",
    "device",
    "folder",
)


def study_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `kdlab.Study` (with --resume: of `load_study`) from a study file and flags.

    Raises:
        ConfigError: the file cannot be read, flags exclude each other, or there is nothing to run.
    """
    flags = {name: value for name in _FLAGS if (value := getattr(args, name)) is not None}
    if args.resume is not None:
        if args.study or args.method or set(flags) - {"device", "data_root"}:
            raise ConfigError(
                "--resume takes the study from its folder; only --device and --data-root may follow."
            )
        return flags
    if not (args.study or args.method or flags):
        raise ConfigError(
            "There is no study to run: name a study file, or give flags (kdlab run --help shows both)."
        )
    arguments = read_study_file(Path(args.study)) if args.study else {}
    if "teacher" in flags:
        flags["teacher"] = _teachers(flags["teacher"])
    if "seeds" in flags:
        arguments.pop("seed", None)
    arguments |= flags
    if args.method:
        arguments["students"] = _students(arguments.get("students", {}), args.method)
    return arguments


def read_study_file(path: Path) -> dict[str, Any]:
    """The keys of a study file; its students as a table, its folder `runs/<name of the file>` by default.

    Raises:
        ConfigError: there is no such file, or it is not TOML; the message tells the line.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; to go on with its study: kdlab run --resume {quoted(path)}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The study file {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The study file {path} is not TOML: {error}.") from error
    return {"folder": f"runs/{path.stem}"} | values


def check_keys(arguments: dict[str, Any], study: Any) -> None:
    """Refuse a key that `study` has no argument for, with the nearest that it has."""
    known = list(inspect.signature(study).parameters)
    for key in arguments:
        if key not in known:
            raise unknown_name("argument of a study", key, known)


def _teachers(given: list[str]) -> Any:
    teachers: list[Any] = []
    for text in given:
        name, separator, file = text.partition("=")
        teachers.append((name, file) if separator else text)
    return teachers[0] if len(teachers) == 1 else teachers


def _students(present: Any, given: list[str]) -> dict[str, Any]:
    students = {name: name for name in present} if isinstance(present, list) else dict(present)
    fresh: set[str] = set()
    for text in given:
        name, separator, method = (part.strip() for part in text.partition("="))
        name, method = (name, method) if separator else (text.strip(), text.strip())
        if not name or not method:
            raise ConfigError(f"--method {text!r} is not of the form NAME=METHOD, such as KD=kd.")
        if name in fresh:
            raise ConfigError(f"Two students are named {name!r}; give each a name: --method NAME={method}.")
        fresh.add(name)
        students[name] = method
    return students


def quoted(path: str | Path) -> str:
    """A path as one would type it in a shell."""
    return shlex.quote(str(path))

"""Arguments of `kdlab.Study` from a study file (TOML) and the flags of `kdlab run`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
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


# and those that only some commands have
_OPTION_FLAGS = ("precision", "teacher_precision", "teacher_views", "compile", "deterministic", "keep")


def add_study_flags(command: argparse.ArgumentParser, folder: str) -> Any:
    """The flags that `study_arguments` reads, all but the students'.

    Args:
        command: gets them.
        folder: explains --folder.

    Returns:
        The group of what is compared, to which the students' flag belongs.
    """
    what = command.add_argument_group("what is compared")
    what.add_argument(
        "--data", metavar="DATA", help="data set (kdlab datasets), folder of images, or .npz file"
    )
    what.add_argument(
        "--data-root", metavar="FOLDER", help="where data sets lie (default: KDLAB_DATA, then data/)"
    )
    what.add_argument(
        "--labels-per-class", type=int, metavar="N", help="train on N labelled images of each class"
    )
    what.add_argument(
        "--teacher",
        action="append",
        metavar="NAME[=FILE]",
        help="network (kdlab models), trained on demand or loaded from FILE; repeat for several teachers",
    )
    what.add_argument("--student", metavar="NAME", help="network of all students")
    how = command.add_argument_group("how it is trained")
    how.add_argument("--epochs", type=int, metavar="N", help="length of the training")
    how.add_argument(
        "--seeds", type=_seeds, metavar="N|A,B,..", help="number of seeds, or the seeds themselves"
    )
    how.add_argument("--recipe", metavar="NAME", help="optimiser and schedule by name")
    how.add_argument("--batch-size", type=int, metavar="N", help="images per step")
    how.add_argument("--lr", type=float, metavar="RATE", help="peak learning rate")
    how.add_argument("--device", metavar="NAME", help="auto (default), cpu, cuda, cuda:1, mps")
    how.add_argument("--folder", metavar="FOLDER", help=folder)
    return what


def add_option_flags(command: argparse.ArgumentParser) -> None:
    """The engine's flags, which `study_arguments` reads where they are there."""
    engine = command.add_argument_group("how it is computed")
    precisions = "fp32 (default), tf32, bf16 or fp16"
    engine.add_argument("--precision", metavar="NAME", help=f"of the students: {precisions}")
    engine.add_argument(
        "--teacher-precision", metavar="NAME", help="of the teachers (default: that of the students)"
    )
    engine.add_argument(
        "--teacher-views",
        type=int,
        metavar="V",
        help="show each picture in V fixed views and keep the teacher's outputs: fast, but a departure "
        "from the recipe",
    )
    engine.add_argument(
        "--compile",
        metavar="HOW",
        help="compile the networks: default, or graphs (CUDA graphs)",
    )
    engine.add_argument(
        "--deterministic",
        action="store_const",
        const=True,
        help="only algorithms that give the same bits in every run",
    )
    engine.add_argument(
        "--keep",
        type=_kept,
        metavar="WHICH",
        help="epochs whose checkpoints are kept: geometric (default), all, none, or A,B,..",
    )
    engine.add_argument(
        "--tensorboard", action="store_true", help="also write everything for TensorBoard, into FOLDER"
    )


def _kept(text: str) -> str | list[int]:
    return text if text.isalpha() else [int(part) for part in text.split(",")]


_kept.__name__ = "list of epochs"


def _seeds(text: str) -> int | list[int]:
    numbers = [int(part) for part in text.split(",")]
    return numbers if "," in text else numbers[0]


_seeds.__name__ = "number of seeds"  # argparse: "invalid number of seeds value: 'x'"


def study_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `kdlab.Study` (with --resume: of `load_study`) from a study file and flags.

    Raises:
        ConfigError: the file cannot be read, flags exclude each other, or there is nothing to run.
    """
    flags = {name: value for name in _FLAGS if (value := getattr(args, name)) is not None}
    flags |= {name: value for name in _OPTION_FLAGS if (value := getattr(args, name, None)) is not None}
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


def sweep_arguments(args: argparse.Namespace) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """The grid and the other arguments of `kdlab.sweep`, from a study file and flags.

    Raises:
        ConfigError: as `study_arguments`; or --grid is not of the form NAME=VALUE,VALUE or names one twice.
    """
    methods = [text for flag in args.students or () for text in flag.split(",") if text.strip()]
    given = argparse.Namespace(**vars(args) | {"method": methods, "resume": None})
    arguments = study_arguments(given) if args.study or methods or _given(args) else {}
    grid = dict(arguments.pop("grid", {}))
    flags: dict[str, list[Any]] = {}
    for text in args.grid or ():
        name, separator, values = (part.strip() for part in text.partition("="))
        name = name.replace("-", "_")
        if not separator or not name or not values:
            raise ConfigError(f"--grid {text!r} is not of the form NAME=VALUE,VALUE, such as lr=0.05,0.1.")
        if name in flags:
            raise ConfigError(f"--grid names {name} twice; give all its values at once.")
        flags[name] = [_value(part.strip()) for part in values.split(",")]
        if getattr(args, name, None) is None:  # a flag beside the grid is a contradiction, a file is not
            arguments.pop(name, None)
    if not (grid or flags or arguments):
        raise ConfigError(
            "There is nothing to sweep: name values, such as --grid lr=0.05,0.1 (kdlab sweep --help)."
        )
    return grid | flags, arguments


def _given(args: argparse.Namespace) -> bool:
    return any(getattr(args, name) is not None for name in _FLAGS)


def _value(text: str) -> Any:
    """A word of the command line as the number, truth value or name that it is."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


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
    parameters = inspect.signature(study).parameters.values()
    known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    if len(known) < len(parameters):
        from kdlab.training import Options

        known += [field.name for field in dataclasses.fields(Options)]
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
            raise ConfigError(f"{text!r} is not of the form NAME=METHOD, such as KD=kd.")
        if name in fresh:
            raise ConfigError(f"Two students are named {name!r}; give each a name: NAME={method}.")
        fresh.add(name)
        students[name] = method
    return students


def quoted(path: str | Path) -> str:
    """A path as one would type it in a shell."""
    return shlex.quote(str(path))

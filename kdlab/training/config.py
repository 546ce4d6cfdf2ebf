"""What a study was asked to do, as plain values: written to its folder, compared, shown as code."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdlab.errors import ConfigError, StudyError
from kdlab.methods import Method, make
from kdlab.training.files import read_json
from kdlab.training.options import Options
from kdlab.training.snapshots import snapshot_epochs
from kdlab.training.variants import Student

STUDY_FORMAT = 2


def named_students(students: Any) -> dict[str, Student]:
    """The `students` argument by student name.

    Args:
        students: mapping of name -> method (a name such as "kd", a sum such as "kd + at", a
            `Method`, a recorded config, or a `Student`), or a list of method names that name the
            students too.

    Raises:
        ConfigError: no student, or a name that cannot be used.
    """
    if isinstance(students, str | Method):
        students = [students]
    if isinstance(students, list | tuple):
        students = {s if isinstance(s, str) else type(s).__name__: s for s in students}
    if not isinstance(students, Mapping) or not students:
        raise ConfigError("students must name at least one student, such as {'alone': 'ce', 'KD': 'kd'}.")
    for name in students:
        check_name(name)
    return {name: Student.of(given) for name, given in students.items()}


def check_name(name: Any) -> None:
    """Refuse what cannot be a student's name."""
    if not isinstance(name, str) or not name.strip() or "|" in name or "\n" in name:
        raise ConfigError(f"{name!r} cannot be a student's name; use a short text without '|'.")


def free_name(name: str, taken: Collection[str]) -> str:
    """`name`, or `name (2)`, ... where it is taken."""
    number, free = 2, name
    while free in taken:
        number, free = number + 1, f"{name} ({number})"
    return free


def recorded_students(asked: Mapping[str, Any], networks: Mapping[str, Any]) -> dict[str, Student]:
    """The students of a record; `networks` gives those networks that have no name."""
    out = {}
    for name, method in asked["students"].items():
        own = asked.get("own", {}).get(name, {})
        network = own.get("network")
        if isinstance(network, dict):
            network = networks.get(name, network)
        out[name] = Student(make(method), network=network, **own.get("recipe", {}))
    return out


def kept_epochs(keep: str | Sequence[int], epochs: int) -> list[int]:
    """Epochs after which checkpoints are kept, by `Options.keep`."""
    if keep == "none":
        return []
    if keep == "all":
        return list(range(1, epochs + 1))
    chosen = [2**k for k in range(20)] if isinstance(keep, str) else keep
    return [epoch for epoch in chosen if 1 <= epoch <= epochs]


def seed_list(seed: int, seeds: int | list[int] | None) -> list[int]:
    """The seeds of a study: `seeds` of them from `seed` on, or as listed, or `seed` alone."""
    if seeds is None:
        seeds = [seed]
    listed = list(range(seed, seed + seeds)) if isinstance(seeds, int) else list(seeds)
    if not listed or any(isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in listed):
        raise ConfigError(f"seeds must be a number of at least 1 or a list of whole numbers, not {seeds!r}.")
    if len(set(listed)) < len(listed):
        raise ConfigError(f"seeds {listed} name one seed twice.")
    return listed


def positive(name: str, value: Any) -> int:
    """`value` if it is a whole number of at least 1, else a ConfigError that names it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, not {value!r}.")
    return value


def seconds(name: str, value: Any) -> float:
    """`value` if it is a number of seconds above 0, else a ConfigError that names it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f"{name} must be a number of seconds above 0, not {value!r}.")
    return float(value)


def choose_folder(folder: str | Path | None, data_name: str) -> Path:
    """The study folder; a new one below `runs/` where none was named."""
    if folder is not None:
        return Path(folder)
    base = Path("runs") / f"{Path(data_name).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = base, 2
    while path.exists():
        path, number = base.with_name(f"{base.name}-{number}"), number + 1
    return path


def check_folder(folder: Path, asked: Mapping[str, Any]) -> bool:
    """Whether `folder` already holds this very study; False for a new or empty folder.

    Raises:
        StudyError: it holds another study or something else, or cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise StudyError(f"{folder} is a file; choose a folder for the study.")
    if (folder / "study.json").exists():
        held = read_study(folder)["asked"]
        differing = sorted(k for k in {*held, *asked} if held.get(k) != asked.get(k))
        if differing:
            raise StudyError(
                f"{folder} already holds another study (it differs in {', '.join(differing)}); choose "
                f"another folder, or open that one with kdlab.load_study({str(folder)!r})."
            )
        return True
    if folder.exists() and any(p.name != ".lock" for p in folder.iterdir()):
        raise StudyError(f"{folder} is not empty and holds no study; choose another folder.")
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise StudyError(f"Cannot write to {existing}; choose a folder you may write to.")
    return False


def read_study(folder: Path) -> dict[str, Any]:
    """The record `study.json` of a folder.

    Raises:
        StudyError: there is none, it is damaged, or another version of kdlab wrote it.
    """
    return read_record(folder / "study.json", "study", "asked", STUDY_FORMAT)


def read_record(path: Path, what: str, key: str, version: int) -> dict[str, Any]:
    """A record in JSON that must have an entry `key` and the format `version`.

    Raises:
        StudyError: there is none, it is damaged, or another version of kdlab wrote it.
    """
    if not path.exists():
        raise StudyError(f"{path.parent} holds no {what} (no {path.name}); check the path.")
    record = read_json(path)
    if not isinstance(record, dict) or key not in record:
        raise StudyError(f"{path} is not the record of a {what}.")
    if record.get("format") != version:
        raise StudyError(
            f"{path} has format {record.get('format')!r} and this kdlab reads format {version}; "
            "open it with the version of kdlab that wrote it."
        )
    return record


def environment() -> dict[str, Any]:
    """Versions and hardware, for the record."""
    import numpy
    import torch

    import kdlab

    return {
        "kdlab": kdlab.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "command": Path(sys.argv[0]).name if sys.argv else "",
    }


def study_code(asked: Mapping[str, Any], commands: list[dict[str, Any]], folder: Path) -> str:
    """The Python lines that make a study again, commands given by hand included."""
    lines = ["import kdlab", "", "study = kdlab.Study("]
    defaults = {"labels_per_class": None, "probe_size": 2000, "evaluate_every": 1}
    students = recorded_students(asked, {})
    plain = Options().to_dict()
    if asked["snapshots"] == snapshot_epochs("geometric", asked["recipe"]["epochs"]):
        defaults["snapshots"] = asked["snapshots"]
    for key, value in asked.items():
        if key == "students":
            lines.append("    students={")
            for name, config in value.items():
                lines.append(f"        {name!r}: {students[name].code(method_code(config))},")
            lines.append("    },")
        elif key == "options":
            lines += [f"    {name}={v!r}," for name, v in value.items() if v != plain[name]]
        elif key == "teachers":
            shown = [teacher_code(spec) for spec in value]
            lines.append(f"    teacher={shown[0] if len(shown) == 1 else '[' + ', '.join(shown) + ']'},")
        elif key == "recipe":
            for name, v in recipe_arguments(value).items():
                fields = [f"        {k!r}: {own!r}," for k, own in v.items()] if isinstance(v, dict) else []
                lines += [f"    {name}={{", *fields, "    },"] if fields else [f"    {name}={v!r},"]
        elif key in ("fingerprint", "own"):
            continue
        elif key in ("data", "student") or defaults.get(key, ...) != value:
            if isinstance(value, dict):
                lines.append(
                    f"    {key}=...,  # {value.get('module') or value.get('name')}: give your own here"
                )
            else:
                lines.append(f"    {key}={value!r},")
    lines += [f"    folder={folder.name + '-again'!r},", ")"]
    lines += [command_code(command, asked["seeds"][0]) for command in commands]
    return "\n".join([*lines, "study.fit()", ""])


def command_code(command: Mapping[str, Any], first_seed: int) -> str:
    """The line that gives a command again, at the same step."""
    kind, student = command["kind"], command["student"]
    when = f", at_step={command['step']}"
    if command["seed"] != first_seed:
        when += f", from_seed={command['seed']}"
    if kind == "add":
        added = Student(make(command["method"]), **_recorded_own(command["own"]))
        return f"study.add({student!r}, {added.code(method_code(command['method']))})"
    if kind == "fork":
        method = "" if command["method"] is None else f", method={method_code(command['method'])}"
        return f"study.fork({command['parent']!r}, at_step={command['step']}, name={student!r}{method})"
    if kind == "drop":
        return f"study.drop({student!r}{when})"
    change = ", ".join(f"{k}={v!r}" for k, v in command["change"].items())
    return f"study.set({student!r}, {command['term']!r}, {change}{when})"


def _recorded_own(own: Mapping[str, Any]) -> dict[str, Any]:
    return {"network": own.get("network"), **own.get("recipe", {})}


def method_code(config: Mapping[str, Any]) -> str:
    """The shortest expression that makes a method with this config."""
    method = make(config)
    code = method.code()
    return repr(method.key) if code == f"kdlab.methods.{type(method).__name__}()" else code


def teacher_code(spec: Mapping[str, Any]) -> str:
    """A teacher as one would give it."""
    if spec["module"]:
        return f"...  # your {spec['module']}"
    if spec["checkpoint"]:
        return repr((spec["architecture"], spec["checkpoint"]))
    plain = {k: spec[k] for k in ("seed", "epochs", "recipe") if spec[k]}
    if not plain and spec["name"] == spec["architecture"]:
        return repr(spec["name"])
    return repr({"name": spec["name"], "architecture": spec["architecture"], **plain})


def recipe_arguments(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The shortest arguments of a study that give a recipe: its name and what was changed, or its fields."""
    from kdlab.training.recipes import RECIPES, Recipe, get_recipe

    epochs = recipe["epochs"]
    known = RECIPES.get(recipe["name"])
    if known is not None:
        usual = get_recipe(known, epochs=epochs).to_dict()
        changed = {k: recipe[k] for k in ("batch_size", "lr", "augment") if recipe[k] != usual[k]}
        if get_recipe(known, epochs=epochs, **changed).to_dict() == dict(recipe):
            return {"recipe": recipe["name"], "epochs": epochs, **changed}
    plain = Recipe("", 1).to_dict()
    return {"recipe": {k: v for k, v in recipe.items() if plain.get(k) != v}, "epochs": epochs}

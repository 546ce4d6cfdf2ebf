"""The points of a sweep: a grid of arguments of `Study` as plain values, each point with a name."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from kdlab import data as kdata
from kdlab.errors import ConfigError, unknown_name
from kdlab.methods import Method, make
from kdlab.training import config
from kdlab.training.options import Options
from kdlab.training.recipes import Recipe
from kdlab.training.study import Study
from kdlab.training.variants import Student

_STUDENT = "a student of its own"  # marks a `Student` among plain values
_LONGEST = 100  # characters of a folder's name


@dataclass(frozen=True)
class Point:
    """One study of a sweep.

    Attributes:
        name: of its folder, such as "lr=0.05_seed=1".
        values: axis -> what tells this point from others in tables, seed included.
        arguments: of `Study`, as plain values, all but the folder.
    """

    name: str
    values: dict[str, Any]
    arguments: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the record."""
        return asdict(self)

    @property
    def configuration(self) -> dict[str, Any]:
        """What it shares with the points that differ from it in their seed alone."""
        return {key: value for key, value in self.values.items() if key != "seed"}


def plain_grid(
    grid: Mapping[str, Any], fixed: Mapping[str, Any]
) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Axes and fixed arguments as plain values; "seed" is the first axis, with one value if none is named.

    Raises:
        ConfigError: an argument that `Study` does not have, one that is given twice, an axis without
            values or with one value twice, or a value that cannot be written as JSON.
    """
    if not isinstance(grid, Mapping):
        raise ConfigError(f"A grid maps arguments of a study to lists of values, not {grid!r}.")
    known = [
        n for n in inspect.signature(Study.__init__).parameters if n not in ("self", "folder", "options")
    ]
    known += [field.name for field in fields(Options)]
    for key in (*grid, *fixed):
        if key == "folder":
            raise ConfigError("Each point of a sweep has a folder of its own; name that of the sweep alone.")
        if key not in known:
            raise unknown_name("argument of a study", key, known)
    for key in grid:
        if key in fixed:
            raise ConfigError(f"{key} is given in the grid and again beside it; leave one of them out.")
    axes: dict[str, list[Any]] = {"seed": []}
    same: dict[str, Any] = {}
    for key, value in (*grid.items(), *fixed.items()):
        pair = key == "teacher" and isinstance(value, tuple)  # a name and the file of its weights
        if key in grid and key != "seeds" and not pair and isinstance(value, list | tuple | range):
            axes[key] = [_argument(key, one) for one in value]
        else:
            same[key] = _argument(key, list(value) if isinstance(value, range) else value)
    axes["seed"] = _seeds(axes["seed"], same)
    for key, values in axes.items():
        if not values:
            raise ConfigError(f"The grid names no value for {key}; give at least one, or leave it out.")
        texts = [json.dumps(value, sort_keys=True) for value in values]
        if len(set(texts)) < len(texts):
            raise ConfigError(f"The grid names a value of {key} twice: {', '.join(texts)}.")
    return axes, same


def _seeds(listed: list[Any], same: dict[str, Any]) -> list[int]:
    """The seeds, taken out of the arguments where they stand there: each is a point."""
    if listed and "seeds" in same:
        raise ConfigError("seed and seeds are both given; leave one of them out.")
    if listed:
        return config.seed_list(0, listed)
    return config.seed_list(same.pop("seed", 0), same.pop("seeds", None))


def make_points(axes: Mapping[str, Sequence[Any]], same: Mapping[str, Any]) -> list[Point]:
    """All combinations, seeds outermost: so all configurations have a first seed before any has a second."""
    labels = {key: _labels(values) for key, values in axes.items()}
    points: list[Point] = []
    taken: set[str] = set()
    for chosen in itertools.product(*(range(len(values)) for values in axes.values())):
        place = dict(zip(axes, chosen, strict=True))
        arguments = {**same, **{key: axes[key][i] for key, i in place.items()}}
        values = {
            key: axes[key][i] if _is_scalar(axes[key][i]) else labels[key][i] for key, i in place.items()
        }
        parts = [f"{key}={labels[key][i]}" for key, i in place.items()]
        name = _folder_name("_".join([*parts[1:], parts[0]]), taken)
        taken.add(name.lower())
        points.append(Point(name, values, arguments))
    return points


def study_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a point as `Study` takes them."""
    return {key: _decoded(value) for key, value in arguments.items()}


def own_modules(study: Study) -> list[dict[str, str]]:
    """Modules outside kdlab that define methods of a study, which another process has to import.

    Raises:
        ConfigError: a method is defined in the running program, where no other process finds it.
    """
    found: dict[str, str] = {}
    for name, method in study.methods.items():
        for part in method.modules():
            module = type(part).__module__
            if not isinstance(part, Method) or module.split(".")[0] == "kdlab":
                continue
            file = getattr(sys.modules.get(module), "__file__", None)
            if module == "__main__" or file is None:
                raise ConfigError(
                    f"{type(part).__name__}, the method of {name!r}, is defined in the running program or "
                    "notebook, so the processes of a sweep cannot find it; put it into a file of its own "
                    "and import that."
                )
            path = Path(file).resolve()
            depth = module.count(".") + (path.stem == "__init__")
            found[module] = str(path.parents[depth])
    return [{"module": module, "path": path} for module, path in found.items()]


# ---- plain values -----------------------------------------------------------------------------------


def _argument(key: str, value: Any) -> Any:
    """One argument as JSON would give it back; local paths absolute, for a process elsewhere."""
    if key == "teacher":
        several = value if isinstance(value, list) else [value]
        plain = [_teacher(one) for one in several]
        return plain if isinstance(value, list) else plain[0]
    out = _plain(value, key)
    if isinstance(out, str) and (key == "data_root" or (key == "data" and out not in kdata.names())):
        return _absolute(out)
    return out


def _teacher(value: Any) -> Any:
    if isinstance(value, tuple) and len(value) == 2:
        return {"architecture": str(value[0]), "checkpoint": _absolute(str(value[1]))}
    plain = _plain(value, "teacher")
    if isinstance(plain, str):
        return _absolute(plain) if Path(plain).is_file() else plain
    if isinstance(plain, dict) and plain.get("checkpoint"):
        return plain | {"checkpoint": _absolute(plain["checkpoint"])}
    return plain


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if Path(path).exists() else path


def _plain(value: Any, key: str) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Method) or (isinstance(value, type) and issubclass(value, Method)):
        return make(value).config()
    if isinstance(value, Student):
        own = {"method": value.method.config(), "network": value.network, "recipe": value.recipe}
        return {_STUDENT: _plain(own, key)}
    if isinstance(value, Recipe):
        return value.to_dict()
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(one, key) for one in value]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(one, key) for name, one in value.items()}
    what = repr(value) if isinstance(value, float) else f"a {type(value).__name__}"
    raise ConfigError(
        f"{key} holds {what}, which a sweep cannot hand to another process; use numbers, names, methods, "
        "and lists or mappings of these: a network by its name or file of weights, arrays as an .npz file."
    )


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(one) for one in value]
    if isinstance(value, dict) and set(value) == {_STUDENT}:
        own = value[_STUDENT]
        return Student(make(own["method"]), network=own["network"], **own["recipe"])
    if isinstance(value, dict):
        return {name: _decoded(one) for name, one in value.items()}
    return value


# ---- names ------------------------------------------------------------------------------------------


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _labels(values: Sequence[Any]) -> list[str]:
    """A short text for each value of an axis; those that would look alike are numbered."""
    texts = [_label(value) for value in values]
    return [
        f"{text}-{number}" if texts.count(text) > 1 or not text else text
        for number, text in enumerate(texts, 1)
    ]


def _label(value: Any) -> str:
    if isinstance(value, dict):
        named = value.get("name") or value.get("architecture") or value.get("key")
        return str(named) if named else "+".join(value)
    if isinstance(value, list):
        return "+".join(map(_label, value))
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else str(value)


def _folder_name(text: str, taken: set[str]) -> str:
    name = re.sub(r"[^\w.,+=-]+", "-", text).strip("-. ")
    if len(name) > _LONGEST or name.lower() in taken:
        name = f"{name[: _LONGEST - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name

"""What all results of probes can do: be read as a sentence and a table, drawn, kept in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from kdlab.errors import DataError
from kdlab.files import whole_file

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

RESULT_FORMAT = 1


class Result:
    """Base of the frozen dataclasses that probes give.

    A subclass names the function of `kdlab.plots` that draws it. Its fields may be arrays, numbers,
    text, None, and tuples and mappings of these; whatever they hold is written by `save`.

    >>> found = kdlab.probes.learning_curves(study, "train_loss")
    >>> isinstance(found, kdlab.probes.Result), found.summary.endswith(".")
    (True, True)
    >>> list(found.to_frame().columns)
    ['network', 'seed', 'epoch', 'train_loss']
    >>> kdlab.probes.LearningCurves.load(found.save("curves")).students
    ('alone', 'KD')
    """

    figure: ClassVar[str]
    """Name of the function of `kdlab.plots` that draws this result."""
    kinds: ClassVar[dict[str, type[Result]]] = {}

    def __init_subclass__(cls) -> None:
        Result.kinds[cls.__name__] = cls

    @property
    def summary(self) -> str:
        """What was found, in a sentence or two."""
        raise NotImplementedError

    def to_frame(self) -> pd.DataFrame:
        """The result as one table in long form."""
        raise NotImplementedError

    def plot(self, **options: Any) -> go.Figure:
        """Draw it; `options` are those of the function of `kdlab.plots` that `figure` names."""
        from kdlab import plots

        drawn: go.Figure = getattr(plots, self.figure)(self, **options)
        return drawn

    def save(self, path: str | Path) -> Path:
        """Write everything into one .npz file that NumPy alone can read (no pickle).

        Args:
            path: ".npz" is added where it is missing; a file that is there is replaced as a whole.

        Returns:
            The file written.
        """
        path = Path(path)
        path = path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
        arrays: dict[str, np.ndarray] = {}
        if not is_dataclass(self):
            raise TypeError(f"{type(self).__name__} is not a dataclass.")
        plain = {f.name: _pack(getattr(self, f.name), arrays) for f in fields(self)}
        about = {"format": RESULT_FORMAT, "kind": type(self).__name__, "fields": plain}
        with whole_file(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: no such file, not a result, of another kind, or of a newer kdlab.
        """
        result = load_result(path)
        if not isinstance(result, cls):
            raise DataError(f"{path} holds {type(result).__name__}, not {cls.__name__}.")
        return result


def load_result(path: str | Path) -> Result:
    """Read a result of whatever kind from a file that `Result.save` wrote.

    Returns:
        the result, of the class that was saved.

    Raises:
        DataError: no such file, not a result, or of a newer kdlab.

    >>> path = kdlab.probes.final_accuracies(study).save("accuracies.npz")
    >>> type(kdlab.probes.load_result(path)).__name__
    'FinalAccuracies'
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"There is no file {path}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("about")))
        kind, version, plain = about["kind"], about["format"], about["fields"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a result of a kdlab probe ({error}).") from error
    if version != RESULT_FORMAT or kind not in Result.kinds:
        raise DataError(
            f"{path} holds {kind!r} in format {version}, which this kdlab does not know; open it with the "
            "version that wrote it."
        )
    return Result.kinds[kind](**{name: _unpack(value, arrays) for name, value in plain.items()})


def _pack(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """`value` for JSON; arrays go into `arrays` and are named."""
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError("Arrays of Python objects cannot be written.")
        name = f"array{len(arrays)}"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {"mapping": [[_pack(k, arrays), _pack(v, arrays)] for k, v in value.items()]}
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_pack(v, arrays) for v in value]}
    if isinstance(value, Result):
        inner = {f.name: _pack(getattr(value, f.name), arrays) for f in fields(value)}  # type: ignore[arg-type]
        return {"result": [type(value).__name__, inner]}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"{type(value).__name__} cannot be written.")


def _unpack(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "array":
        return arrays[held]
    if kind == "mapping":
        return {_unpack(k, arrays): _unpack(v, arrays) for k, v in held}
    if kind == "result":
        return Result.kinds[held[0]](**{name: _unpack(v, arrays) for name, v in held[1].items()})
    values = [_unpack(v, arrays) for v in held]
    return tuple(values) if kind == "tuple" else values

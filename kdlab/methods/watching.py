"""A step that notes which tensors a method takes out of it: what `Term.taps` is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from kdlab.methods.step import Step
from kdlab.models.features import Features

_MAPS = ("stages", "preacts")
_TENSORS = ("logits", "embedding", "stem", "final")


class _WatchedMaps(tuple[Tensor, ...]):
    """Maps of a network; each one taken out is noted, their number is not."""

    _name: str
    _read: set[str]

    @classmethod
    def of(cls, maps: Sequence[Tensor], name: str, read: set[str]) -> _WatchedMaps:
        watched = cls(maps)
        watched._name, watched._read = name, read
        return watched

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        value = super().__getitem__(index)
        self._read.add(f"{self._name}[{index % len(self)}]")
        return value

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))


class WatchedFeatures(Features):
    """`Features` that note what is taken out, as "student.logits"; what is None is not noted."""

    def __init__(self, features: Features, side: str, read: set[str]) -> None:
        self._side, self._read = side, read
        for name in _TENSORS:
            setattr(self, name, getattr(features, name))
        for name in _MAPS:
            maps = getattr(features, name)
            setattr(self, name, None if maps is None else _WatchedMaps.of(maps, f"{side}.{name}", read))

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name in _TENSORS and value is not None:
            self._read.add(f"{self._side}.{name}")
        return value


class WatchedStep(Step):
    """Stands in for `step`; all teachers are called "teacher", as in `Term.taps`.

    Attributes:
        read: the taps taken out so far, such as "student.stages[2]", "teacher.classifier", "target",
            "second.student.logits". `epoch` is no tensor and not among them.
    """

    read: set[str]

    def __init__(self, step: Step, read: set[str] | None = None, prefix: str = "") -> None:
        read = set() if read is None else read
        object.__setattr__(self, "read", read)
        values = {field.name: getattr(step, field.name) for field in fields(Step)}
        values["student"] = WatchedFeatures(step.student, f"{prefix}student", read)
        values["teachers"] = tuple(WatchedFeatures(t, f"{prefix}teacher", read) for t in step.teachers)
        values["second"] = None if step.second is None else WatchedStep(step.second, read, "second.")
        super().__init__(**values)

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name in ("target", "index", "images", "classifiers") and value is not None:
            self.read.add("teacher.classifier" if name == "classifiers" else name)
        return value

"""What of the teachers' features is kept for fixed views, where it lies, and how much memory it takes."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from kdlab.errors import ConfigError, StudyError
from kdlab.models.features import Features

_TAP = re.compile(r"teacher(?:s?\[(\d+)\]|s)?\.([a-z]+)(?:\[(-?\d+)\])?")
_LISTS = ("stages", "preacts")
_FIELDS = tuple(f.name for f in fields(Features))


def named_tensors(features: Features) -> dict[str, Tensor]:
    """The tensors of `features` by name, such as "logits" or "stages[1]"."""
    out: dict[str, Tensor] = {}
    for name in _FIELDS:
        value = getattr(features, name)
        if isinstance(value, Tensor):
            out[name] = value
        elif value is not None:
            out |= {f"{name}[{i}]": t for i, t in enumerate(value)}
    return out


@dataclass(frozen=True)
class Layout:
    """What one teacher shows of a picture.

    Attributes:
        shapes: name of a tensor -> its shape without the batch.
        dtypes: name -> how it is kept.
        same_as: name -> the name under which it is kept; another one where two names show one tensor
            (`final` is the last of the `stages` in most networks).
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype]
    same_as: Mapping[str, str]

    @staticmethod
    def of(features: Features) -> Layout:
        """The layout of features, from an example."""
        tensors = named_tensors(features)
        first: dict[int, str] = {}
        order = sorted(tensors, key=lambda name: not name.startswith("stages"))
        same_as = {name: first.setdefault(id(tensors[name]), name) for name in order}
        shapes = {name: tuple(t.shape[1:]) for name, t in tensors.items()}
        return Layout(shapes, {name: t.dtype for name, t in tensors.items()}, same_as)

    def count(self, name: str) -> int:
        """How many maps "stages" or "preacts" are."""
        return sum(key.startswith(f"{name}[") for key in self.shapes)

    def bytes(self, names: Iterable[str]) -> int:
        """What the tensors of these names take for one picture; each tensor counts once."""
        kept = {self.same_as[name] for name in names}
        return sum(torch.Size(self.shapes[k]).numel() * self.dtypes[k].itemsize for k in kept)


def wanted(taps: Collection[str], layouts: Sequence[Layout]) -> list[set[str]]:
    """Names of the tensors that `taps` read, for each teacher.

    Args:
        taps: as in `Term.taps`: "teacher.logits", "teacher.stages[-1]", "teacher.preacts" (all of them);
            "teachers[1].logits" reads one teacher only. What is not of a teacher is passed over, and so
            is "teacher.classifier", which is no tensor.

    Raises:
        ConfigError: a tap of a teacher that does not exist.
    """
    out: list[set[str]] = [set() for _ in layouts]
    for tap in taps:
        if not tap.startswith("teacher"):
            continue
        match = _TAP.fullmatch(tap)
        if match is None or match[2] not in (*_FIELDS, "classifier"):
            raise ConfigError(
                f"There is no tap {tap!r}; write teacher.FIELD with one of classifier, {', '.join(_FIELDS)} "
                "(stages and preacts with a number in brackets, or without for all)."
            )
        if match[2] == "classifier":
            continue
        read = [n for n in range(len(layouts)) if match[1] in (None, str(n))]
        found = {n: _names(match[2], match[3], layouts[n]) for n in read}
        if read and not any(found.values()):  # teachers of other depths may well lack a stage
            raise ConfigError(
                f"A teacher shows nothing for the tap {tap!r}; it shows {', '.join(layouts[read[0]].shapes)}."
            )
        for number, names in found.items():
            out[number] |= names
    return out


def _names(field: str, index: str | None, layout: Layout) -> set[str]:
    """Names of the tensors of one teacher that a tap reads; empty where it shows none of them."""
    if field not in _LISTS:
        return {field} & layout.shapes.keys()
    count = layout.count(field)
    number = None if index is None else int(index) + (count if int(index) < 0 else 0)
    chosen = range(count) if number is None else [number]
    return {f"{field}[{i}]" for i in chosen} & layout.shapes.keys()


# ---- features of which only a part is there ----------------------------------------------------------


class _Missing:
    """The place of a map that was not kept."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Maps(tuple[Any, ...]):
    """Maps of a teacher, some of which may not have been kept: reading those raises a StudyError."""

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        value = super().__getitem__(key)
        if isinstance(key, slice):
            return _Maps(value)
        return _checked(value)

    def __iter__(self) -> Iterator[Any]:
        return map(_checked, super().__iter__())


def _checked(value: Any) -> Any:
    if isinstance(value, _Missing):
        raise _not_kept(value.name)
    return value


def _not_kept(name: str) -> StudyError:
    return StudyError(
        f"The teacher's {name} is read, and no term declares it, so it was not kept for the fixed views; add "
        f"'teacher.{name}' to the taps of the term that reads it, or use teacher_views=None."
    )


class KeptFeatures(Features):
    """Features of a teacher of which only what was asked for is there; reading more raises a StudyError."""

    def __init__(self, kept: Mapping[str, Tensor], layout: Layout) -> None:
        values: dict[str, Any] = {}
        missing = set()
        for name in _FIELDS:
            if name in _LISTS:
                keys = [f"{name}[{i}]" for i in range(layout.count(name))]
                maps = _Maps(kept[k] if k in kept else _Missing(k) for k in keys)
                values[name] = maps if keys or name == "stages" else None
            else:
                values[name] = kept.get(name)
                if name in layout.shapes and name not in kept:
                    missing.add(name)
        self.__dict__.update(values, _missing=frozenset(missing), _kept=dict(kept), _layout=layout)

    def __getattribute__(self, name: str) -> Any:
        if name in _FIELDS and name in object.__getattribute__(self, "__dict__")["_missing"]:
            raise _not_kept(name)
        return object.__getattribute__(self, name)

    def __repr__(self) -> str:
        shown = {k: v for k, v in self.__dict__.items() if isinstance(v, Tensor)}
        return f"KeptFeatures({', '.join(f'{k}: {tuple(v.shape)}' for k, v in shown.items())})"

    def detach(self) -> Features:
        """The features themselves: they are in no graph."""
        return self

    def part(self, rows: slice) -> Features:
        """The same for a part of the pictures."""
        return KeptFeatures({k: v[rows] for k, v in self.__dict__["_kept"].items()}, self.__dict__["_layout"])


# ---- memory -----------------------------------------------------------------------------------------


class Shelf:
    """The kept tensors of one teacher for all pictures of one view."""

    def __init__(self, layout: Layout, names: Collection[str], count: int, device: torch.device) -> None:
        self.layout, self.names = layout, frozenset(names)
        keys = sorted({layout.same_as[name] for name in names})
        # maps lie with their channels last, as convolutions like them
        shapes = {k: (s if len(s := layout.shapes[k]) != 3 else (*s[1:], s[0])) for k in keys}
        self.tensors = {
            k: torch.empty((count, *shapes[k]), dtype=layout.dtypes[k], device=device) for k in keys
        }

    def put(self, start: int, features: Features) -> None:
        """Keep what is wanted of the pictures from `start` on."""
        seen = named_tensors(features)
        for key, tensor in self.tensors.items():
            value = seen[key]
            tensor[start : start + len(value)].copy_(value.movedim(1, 3) if value.dim() == 4 else value)

    def take(self, rows: Tensor, maps: torch.dtype | None) -> Features:
        """The features of the pictures at `rows`; the maps as type `maps` if that is not None."""
        got: dict[str, Tensor] = {}
        for key, tensor in self.tensors.items():
            value = tensor.index_select(0, rows)
            if value.dim() == 4:
                value = value.movedim(3, 1)
                value = value if maps is None else value.to(maps)
            got[key] = value
        return KeptFeatures({name: got[self.layout.same_as[name]] for name in self.names}, self.layout)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on `device` (on a CPU: in this container, if it is limited)."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    limits = [_free_host()]
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError, IndexError):  # no such limit ("max"), or another system
        used = int((group / "memory.current").read_text())
        files = int(re.findall(r"^file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)[0])
        limits.append(int((group / "memory.max").read_text()) - used + files)  # cached files give way
    return max(0, min(limits))


def _free_host() -> int:
    with contextlib.suppress(OSError, IndexError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return int(re.findall(r"MemAvailable:\s+(\d+) kB", text)[0]) * 1024
    names = getattr(os, "sysconf_names", {})
    pages = next((n for n in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES") if n in names), None)
    return 1 << 62 if pages is None else os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def require_room(needed: int, available: int, what: str, device: torch.device) -> None:
    """Refuse to keep what would take more than half of the memory that is available.

    Raises:
        StudyError: says how much it is, and what to do.
    """
    if needed > available // 2:
        raise StudyError(
            f"The teacher outputs of {what} take {needed / 1e9:.3g} GB, more than half of the "
            f"{available / 1e9:.3g} GB that are free on {device}; use fewer views, students whose terms read "
            "fewer or smaller maps of the teacher (fewer taps), or teacher_views=None."
        )

"""`check(method)`: does a method keep the promises on which engine, panels and records rely?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdlab.errors import ConfigError
from kdlab.methods.base import Method
from kdlab.methods.practice import PAIRS, SHAPE, Bench, PracticeNet
from kdlab.methods.properties import PROPERTIES, Broken, declaration
from kdlab.methods.registry import make
from kdlab.models import tap


@dataclass(frozen=True)
class Line:
    """One property of the report.

    Attributes:
        name: the property.
        ok: whether it holds on every pair of networks.
        asks: what it asks of a method.
        note: what went wrong and on which pair, or which pairs the method refused.
    """

    name: str
    ok: bool
    asks: str
    note: str = ""

    def __str__(self) -> str:
        note = f": {self.note}" if self.note else ""
        return f"{'ok  ' if self.ok else 'FAIL'}  {self.name:18} {self.asks}{note}"


@dataclass(frozen=True)
class Report:
    """What `check` found: one line per property.

    Attributes:
        method: its title.
        lines: one for each property: name, ok, what it asks, and a note on what went wrong.

    >>> report = kdlab.methods.check("ce")
    >>> report.ok, len(report.failures), report.lines[0].name
    (True, 0, 'declaration')
    """

    method: str
    lines: tuple[Line, ...]

    @property
    def ok(self) -> bool:
        """Whether every property holds."""
        return not self.failures

    @property
    def failures(self) -> tuple[Line, ...]:
        """The lines of the properties that do not hold."""
        return tuple(line for line in self.lines if not line.ok)

    def __str__(self) -> str:
        held = len(self.lines) - len(self.failures)
        return "\n".join(
            [f"{self.method}: {held} of {len(self.lines)} properties hold", *map(str, self.lines)]
        )

    __repr__ = __str__


def check(
    method: str | Method | type[Method] | Mapping[str, Any],
    student: nn.Module | None = None,
    teachers: nn.Module | Sequence[nn.Module] | None = None,
    input_shape: Sequence[int] | None = None,
    batch: int = 8,
) -> Report:
    """Try a method out and report, property by property, whether it does what the engine relies on.

    Takes well under a second for most methods, on the CPU. The method and networks given are not
    touched (copies are used), and a failing method never raises: it is in the report.

    Args:
        method: what `kdlab.methods.make` reads: a name, a class, a `Method`, one's own included.
        student, teachers: networks to try it on; without them three pairs of small networks with
            unequal widths, depths and sizes, and as many teachers as the method needs. Pairs that the
            method refuses to be built for are named; refusing all of them is a failure.
        input_shape: (C, H, W) of the pictures for networks of one's own; (3, 16, 16) if not given.
        batch: pictures in a step.

    Returns:
        A `Report`: `.ok`, `.failures`, and one line per property when printed.

    >>> print(str(kdlab.methods.check("kd")).splitlines()[0])
    KD: 11 of 11 properties hold
    """
    try:
        made = make(method).fresh()
        benches = list(_benches(made, student, teachers, input_shape, batch))
    except Exception as error:
        return Report(str(method), (Line("making", False, "it can be made", _said(error)),))
    title = made.title or type(made).__name__
    lines = [_look("declaration", declaration, benches[:1])]
    ready, build = _build(benches)
    lines.append(build)
    if ready:
        lines += [_look(name, look, ready) for name, look in PROPERTIES.items()]
    return Report(title, tuple(lines))


def _benches(
    method: Method,
    student: nn.Module | None,
    teachers: nn.Module | Sequence[nn.Module] | None,
    input_shape: Sequence[int] | None,
    batch: int,
) -> Iterator[Bench]:
    shape: Any = tuple(input_shape or SHAPE)
    if student is not None:
        given = [teachers] if isinstance(teachers, nn.Module) else list(teachers or [])
        nets = [tap(copy.deepcopy(net), input_shape=shape) for net in (student, *given)]
        yield Bench("the networks given", method.fresh(), nets[0], nets[1:], shape, batch)
        return
    if teachers is not None:
        raise ConfigError("check(teachers=...) needs a student too: check(method, student, teachers).")
    for name, (own, others) in PAIRS.items():
        count = max(2 if "multi-teacher" in method.family else 1, method.min_teachers)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(3)
            nets = [PracticeNet(own), *(PracticeNet(others[i % len(others)]) for i in range(count))]
        yield Bench(name, method.fresh(), nets[0], nets[1:], shape, batch)


def _build(benches: Sequence[Bench]) -> tuple[list[Bench], Line]:
    """The benches whose networks the method accepts, ready for use."""
    asks = "it can be built and prepared"
    ready, refused = [], []
    for bench in benches:
        try:
            with torch.random.fork_rng(devices=[]):
                bench.prepare()
            ready.append(bench)
        except ConfigError as error:
            refused.append(f"{bench.name} refused ({error})")
        except Exception as error:
            return [], Line("build", False, asks, f"{bench.name}: {_said(error)}")
    return ready, Line("build", bool(ready), asks, "; ".join(refused))


def _look(name: str, look: Callable[[Bench], None], benches: Sequence[Bench]) -> Line:
    asks = (look.__doc__ or "").strip().rstrip(".").partition("\n")[0]
    for bench in benches:
        try:
            with torch.random.fork_rng(devices=[]):
                look(bench)
        except Broken as broken:
            return Line(name, False, asks, f"{bench.name}: {broken}")
        except Exception as error:
            asked = "'NoneType'" in str(error) and not bench.method.second_view
            remedy = " (what reads `step.second` must set `second_view`)" if asked else ""
            return Line(name, False, asks, f"{bench.name}: raised {_said(error)}{remedy}")
    return Line(name, True, asks)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"

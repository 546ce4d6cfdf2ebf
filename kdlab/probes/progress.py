"""How far a long measurement is, told to whoever watches, who may also end it.

    def listener(fraction: float, text: str) -> None:
        print(f"{fraction:.0%} {text}")

    with watched(listener):
        kdlab.probes.embed(study)

The listener is called in the thread that measures, several times a second, and should be quick.
Where nobody watches, nothing of this costs anything; the results are the same in both cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from itertools import accumulate
from typing import ParamSpec, TypeVar

from kdlab.errors import KDLabError

Listener = Callable[[float, str], None]
"""Called with the fraction done, 0..1, and a few words on what is done now."""

Item = TypeVar("Item")
Options = ParamSpec("Options")
Out = TypeVar("Out")


class Cancelled(KDLabError):
    """A measurement was ended by whoever watched it; raised by a listener."""


@dataclass
class _Span:
    """A stretch of the whole. What was done inside moves `low` towards `high`."""

    low: float
    high: float
    text: str
    outer: _Span | None


class _Watch:
    """A listener, and where in the whole the measurement is."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.span: _Span | None = None
        self.told = 0.0

    def tell(self, fraction: float, text: str) -> None:
        self.told = min(max(self.told, fraction), 1.0)  # rounding must not make it go back
        self.listener(self.told, text)

    @contextmanager
    def inside(self, share: float) -> Iterator[_Span]:
        """A span for a share of what is left of the current one; of the whole where there is none."""
        outer = self.span
        low, high = (outer.low, outer.high) if outer else (0.0, 1.0)
        if outer is None:
            self.told = 0.0
        own = _Span(low, low + share * (high - low), outer.text if outer else "", outer)
        end = own.high
        self.span = own
        try:
            yield own
        finally:
            at: _Span | None = self.span
            while at is not None and at is not own:
                at = at.outer
            if at is own:  # else a loop that was left early ends late, when others are under way
                self.span = outer
                if outer is not None:
                    outer.low = end
        if outer is None:
            self.tell(1.0, "")


_WATCH: ContextVar[_Watch | None] = ContextVar("kdlab_watch", default=None)


@contextmanager
def watched(listener: Listener) -> Iterator[None]:
    """Tell `listener` how far the measurements inside the block are; each goes from 0 to 1.

    Holds for the current thread alone. What the listener raises ends the measurement and comes out of
    it: raise `Cancelled` for that. Nothing is left half-done: the next call measures anew.

    Args:
        listener: called with the share that is done, 0 to 1, and a few words on what is done now.

    >>> shares = []
    >>> with kdlab.probes.watched(lambda share, what: shares.append(share)):
    ...     found = kdlab.probes.linear_probe(study, probe="ridge", epochs="last")
    >>> shares[0], shares[-1], shares == sorted(shares)
    (0.0, 1.0, True)
    """
    token = _WATCH.set(_Watch(listener))
    try:
        yield
    finally:
        _WATCH.reset(token)


def steps(
    items: Iterable[Item],
    what: str | Callable[[Item], str] = "",
    total: int | None = None,
    *,
    sizes: Sequence[float] | None = None,
    share: float = 1.0,
) -> Iterator[Item]:
    """Go through `items` and tell the listener about each, if there is one.

    Loops may be nested: one inside refines the fraction of the step it runs in, and its words come
    behind those of the outer one ("t-SNE, epoch 8").

    Args:
        what: words for a step; "{}" stands for the item; or a function of the item.
        total: number of items, where they have no length.
        sizes: how long each step takes beside the others; equally long if not given.
        share: of what is left of the step around it. A loop that others follow takes less than 1.
    """
    watch = _WATCH.get()
    return iter(items) if watch is None else _told(watch, items, what, total, sizes, share)


def _told(
    watch: _Watch,
    items: Iterable[Item],
    what: str | Callable[[Item], str],
    total: int | None,
    sizes: Sequence[float] | None,
    share: float,
) -> Iterator[Item]:
    if sizes is None:
        sizes = [1.0] * (len(items) if total is None else total)  # type: ignore[arg-type]
    done = [0.0, *accumulate(sizes)]
    with watch.inside(share) as whole:
        first, width = whole.low, (whole.high - whole.low) / (done[-1] or 1.0)
        for number, item in enumerate(items):
            words = what.format(item) if isinstance(what, str) else what(item)
            low, high = (first + width * done[min(k, len(done) - 1)] for k in (number, number + 1))
            step = _Span(low, high, ", ".join(filter(None, [whole.text, words])), whole)
            watch.span = step
            watch.tell(step.low, step.text)
            yield item
            watch.span = whole


def check() -> None:
    """Give the listener a turn inside work whose length is not known, so that it may end it."""
    watch = _WATCH.get()
    if watch is not None and watch.span is not None:
        watch.tell(watch.span.low, watch.span.text)


def measurement(function: Callable[Options, Out]) -> Callable[Options, Out]:
    """Makes all loops of `function`, one after another, fill one stretch of what is watched: 0 to 1."""

    @wraps(function)
    def told(*args: Options.args, **options: Options.kwargs) -> Out:
        watch = _WATCH.get()
        if watch is None:
            return function(*args, **options)
        with watch.inside(1.0) as span:
            watch.tell(span.low, span.text or "starting")
            return function(*args, **options)

    return told


def parts(sizes: Mapping[str, float]) -> Callable[[str], AbstractContextManager[None]]:
    """Parts of a measurement that follow each other, each a block that takes its share of the time.

        now = parts({"t-SNE": 4, "judging the map": 1})
        with now("t-SNE"):
            ...

    Args:
        sizes: words for each part, in their order, and how long it takes beside the others; 0 for what
            will not be done.
    """
    left = dict(sizes)

    def now(name: str) -> AbstractContextManager[None]:
        rest = sum(left.values())
        size = left.pop(name)
        return _part(size / rest if size else 0.0, name)

    return now


@contextmanager
def _part(share: float, what: str) -> Iterator[None]:
    for _ in steps([None], what, share=share):
        yield

"""Claims: what a notebook says about its own run, computed over seeds, with the spread."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

import numpy as np

from kdlab.errors import ConfigError
from kdlab.exercises.verdict import box


@dataclass(frozen=True, repr=False)
class Claim:
    """A sentence about a run, and whether the run bears it out; true where it does.

    Attributes:
        sentence: what is claimed.
        values: one number per seed (or per picture, class...): the claim says that they are above 0.
        unit: of the numbers.
        each: what a number belongs to ("seed").

    >>> claim = kdlab.exercises.Claim("KD is better than alone", (1.2, -0.3, 1.0), unit="points")
    >>> claim.holds, claim.clear, round(claim.mean, 2)
    (True, False, 0.63)
    """

    sentence: str
    values: tuple[float, ...]
    unit: str = ""
    each: str = "seed"

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return float(np.mean(self.values))

    @property
    def spread(self) -> float:
        """Standard deviation of the values (n - 1); nan for one value."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else float("nan")

    @property
    def holds(self) -> bool:
        """Whether the mean is above 0."""
        return self.mean > 0

    @property
    def clear(self) -> bool:
        """Whether the mean is more than two standard errors above 0; never for one value."""
        return len(self.values) > 1 and self.mean > 2 * self.spread / len(self.values) ** 0.5

    def __bool__(self) -> bool:
        return self.holds

    def _facts(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        count = len(self.values)
        if count == 1:
            return f"Difference: {self.mean:+.3g}{unit}, in one {self.each}; one proves nothing."
        above = sum(value > 0 for value in self.values)
        return (
            f"Difference: {self.mean:+.3g} ± {self.spread:.2g}{unit} (mean ± standard deviation); "
            f"above 0 in {above} of {count} {self.each}s."
        )

    def _head(self) -> str:
        if not self.holds:
            return "✗ does not hold in this run"
        if len(self.values) == 1:
            return "○ holds in this run"
        return "✓ holds" if self.clear else "○ holds in the mean, but not beyond the spread"

    def __str__(self) -> str:
        return f"{self._head()}: {self.sentence}\n  {self._facts()}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        state = "failed" if not self.holds else "passed" if self.clear else "open"
        return box(
            state,
            f"<strong>Claim {escape(self._head())}</strong>",
            escape(self.sentence),
            f'<span style="color:inherit;opacity:.8">{escape(self._facts())}</span>',
        )


def claim(sentence: str, values: float | Iterable[float], *, unit: str = "", each: str = "seed") -> Claim:
    """Say something about a run and let its numbers decide.

    Nothing stops where a claim does not hold: the box says so, because that is a finding too. With the
    environment variable KDLAB_STRICT=1, which the automatic tests of the notebooks set, it raises.

    Args:
        sentence: the claim, such as "KD answers more like the teacher than alone does".
        values: differences that the claim says are above 0, one per seed.
        unit: of the differences, such as "points".
        each: what one of them belongs to.

    Raises:
        ConfigError: there is no number, something else, or one that is not finite.
        AssertionError: the claim does not hold, under KDLAB_STRICT=1.

    >>> from kdlab.exercises import claim
    >>> claim("KD is better than alone", [1.2, 0.8, 1.0], unit="points")
    ✓ holds: KD is better than alone
      Difference: +1 ± 0.2 points (mean ± standard deviation); above 0 in 3 of 3 seeds.
    """
    listed = list(values) if isinstance(values, Iterable) else [values]
    try:
        numbers = tuple(map(float, np.ravel(listed)))
    except (TypeError, ValueError):
        raise ConfigError(f"A claim is about numbers, and {values!r} is none.") from None
    if not numbers or not np.isfinite(numbers).all():
        raise ConfigError(f"A claim needs at least one number, all of them finite; it got {list(numbers)}.")
    made = Claim(sentence, numbers, unit, each)
    if not made.holds and os.environ.get("KDLAB_STRICT") == "1":
        raise AssertionError(str(made))
    return made

"""What panels have in common that show all seeds at once, or one of them, over all epochs."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from kdlab.errors import StudyError
from kdlab.panels import controls
from kdlab.panels.analysis import AnalysisPanel
from kdlab.panels.controls import Control
from kdlab.probes.words import listed, plural

UNTRAINED = "Nothing has been trained yet: press Play in the study's panel, or study.fit()."


class SeedsPanel(AnalysisPanel):
    """A panel with a choice between all seeds (mean and spread) and one."""

    def shown_seeds(self) -> tuple[int, ...]:
        """The seeds that are shown, of those that have snapshots.

        Raises:
            StudyError: nothing has been trained yet.
        """
        seed = self.seed()
        if seed is None:
            raise StudyError(UNTRAINED)
        return tuple(self.stock.seeds()) if self.values["seeds"] == "all" else (seed,)

    def epochs(self, network: str | None = None) -> list[int]:
        """Epochs of which there are snapshots in one of the shown seeds."""
        if self.seed() is None:
            return []
        return sorted({epoch for seed in self.shown_seeds() for epoch in self.stock.epochs(seed, network)})

    def known(self) -> Hashable:
        """Which snapshots there are of what is shown; a result measured before others came differs."""
        seeds = self.shown_seeds()
        return tuple(
            (seed, name, tuple(self.stock.epochs(seed, name))) for seed in seeds for name in self.students()
        )

    def seed_controls(self) -> list[Control]:
        """All seeds or one, and which one."""
        seeds = self.stock.seeds()
        options = [("all", f"all {len(seeds)}: mean and spread"), ("one", "one")]
        several = len(seeds) > 1
        which = self.seed_control() | {"hidden": not several or self.values["seeds"] == "all"}
        return [controls.select("seeds", "Seeds", options, self.values["seeds"], hidden=not several), which]

    def options(self) -> dict[str, Any]:
        """`students` and `seeds` for a probe, where they are not all."""
        chosen, seeds = self.students(), self.shown_seeds()
        out: dict[str, Any] = {} if list(chosen) == list(self.study.names) else {"students": list(chosen)}
        return out if list(seeds) == list(self.study.seeds) else out | {"seeds": list(seeds)}

    def still_missing(self) -> str:
        """A sentence where the shown epoch has not been reached in all shown seeds yet; "" where it has."""
        epoch, seeds = self.epoch(), self.shown_seeds()
        there = [seed for seed in seeds if epoch in self.stock.epochs(seed)]
        if len(seeds) < 2 or len(there) == len(seeds):
            return ""
        words = "these are means of them" if len(there) > 1 else "it alone is shown"
        return (
            f" Only {plural(len(there), 'seed')} of {len(seeds)} ({listed([str(s) for s in there])}) "
            f"{'has' if len(there) == 1 else 'have'} a snapshot of epoch {epoch}; {words}."
        )


def call(name: str, *given: str, **options: Any) -> str:
    """A call as a line of Python: ("kdlab.probes.fidelity", "study", seeds=[0]) -> the text of it."""
    parts = [*given, *(f"{key}={value!r}" for key, value in options.items())]
    return f"{name}({', '.join(parts)})"

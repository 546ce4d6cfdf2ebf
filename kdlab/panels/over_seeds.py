"""What panels have in common that draw one probe of a study, of all seeds or one, at any epoch."""

from __future__ import annotations

import base64
from collections.abc import Hashable
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kdlab import plots, probes
from kdlab.errors import StudyError
from kdlab.panels import controls
from kdlab.panels.analysis import AnalysisPanel, Want
from kdlab.panels.controls import Control, Options
from kdlab.panels.live import Points
from kdlab.probes.words import call, listed, plural

UNTRAINED = "Nothing has been trained yet: press Play in the study's panel, or study.fit()."


class SeedsPanel(AnalysisPanel):
    """A panel of one probe at a time, with a choice between all seeds (mean and spread) and one.

    A subclass says which probe answers the present values (`question`) and which plot draws it
    (`picture`). A probe measures all epochs at once, so that moving through them only draws anew.

    Attributes:
        now: the values that are drawn; the page may change `values` while they are.
    """

    def __init__(self, study: Any, **options: Any) -> None:
        self.now: dict[str, Any] = dict(self.defaults)
        super().__init__(study, **options)

    # ---- for subclasses ----------------------------------------------------------------------------------

    def question(self) -> tuple[str, dict[str, Any]]:
        """A function of `kdlab.probes` and its options behind the study.

        Raises:
            KDLabError: it cannot be answered for this study.
        """
        raise NotImplementedError

    def picture(self, result: Any) -> tuple[str, dict[str, Any]]:
        """A function of `kdlab.plots` and its options behind the result."""
        raise NotImplementedError

    def at_epoch(self) -> bool:
        """Whether the figure shows one epoch, and not all of them or what has none."""
        return True

    def known(self) -> Hashable:
        """What there is of what is shown; a result that was measured before more came differs."""
        seeds = self.shown_seeds()
        return tuple(
            (seed, name, tuple(self.stock.epochs(seed, name))) for seed in seeds for name in self.students()
        )

    # ---- values, seeds, epochs ---------------------------------------------------------------------------

    def paint(self, news: dict[str, Any]) -> float | None:
        self.now, before = dict(self.values), self.result
        again = super().paint(news)
        if self.result is not before:
            self._poke()  # which layers can be chosen depends on the result
        return again

    def value(self, name: str, options: Options) -> Any:
        """As ever, of the values that are drawn."""
        if name in self.common:
            return super().value(name, options)
        known = [option[0] for option in options]
        return self.now.get(name) if self.now.get(name) in known else (known[0] if known else None)

    def shown_seeds(self) -> tuple[int, ...]:
        """The seeds that are shown, of those that have snapshots.

        Raises:
            StudyError: nothing has been trained yet.
        """
        seed = self.seed()
        if seed is None:
            raise StudyError(UNTRAINED)
        return tuple(self.stock.seeds()) if self.now["seeds"] == "all" else (seed,)

    def epochs(self, network: str | None = None) -> list[int]:
        """Epochs of which there are snapshots in one of the shown seeds."""
        if self.seed() is None:
            return []
        return sorted({epoch for seed in self.shown_seeds() for epoch in self.stock.epochs(seed, network)})

    def seed_controls(self) -> list[Control]:
        """All seeds or one, and which one."""
        seeds = self.stock.seeds()
        options = [("all", f"all {len(seeds)}: mean and spread"), ("one", "one")]
        several = len(seeds) > 1
        which = self.seed_control() | {"hidden": not several or self.now["seeds"] == "all"}
        return [controls.select("seeds", "Seeds", options, self.now["seeds"], hidden=not several), which]

    def options(self) -> dict[str, Any]:
        """`students` and `seeds` for a probe, where they are not all."""
        chosen, seeds = self.students(), self.shown_seeds()
        out: dict[str, Any] = {} if list(chosen) == list(self.study.names) else {"students": list(chosen)}
        return out if list(seeds) == list(self.study.seeds) else out | {"seeds": list(seeds)}

    def about_seeds(self) -> str:
        """A sentence where not all seeds are shown; "" where they are."""
        epoch, seeds, every = self.epoch(), self.shown_seeds(), self.stock.seeds()
        there = [seed for seed in seeds if not self.at_epoch() or epoch in self.stock.epochs(seed)]
        if len(seeds) < len(every):
            return f"Of {len(every)} seeds, only seed {seeds[0]} is shown."
        if len(there) == len(seeds):
            return ""
        words = "these are means of them" if len(there) > 1 else "it alone is shown"
        return (
            f"Only {plural(len(there), 'seed')} of {len(seeds)} ({listed([str(s) for s in there])}) "
            f"{'has' if len(there) == 1 else 'have'} a snapshot of epoch {epoch}; {words}."
        )

    # ---- measuring ---------------------------------------------------------------------------------------

    def want(self) -> Want:
        self.redraws = False
        self.shown_seeds()  # nothing trained is told before anything else
        name, options = self.question()
        measure, code = getattr(probes, name), call(f"kdlab.probes.{name}", "study", **options)

        def compute() -> Any:
            return measure(self.study, **options)

        self.redraws = self._shown is not None and self._shown.code == code
        return self._in_peace(Want((code, self.known()), compute, code))

    def _in_peace(self, want: Want) -> Want:
        """What was asked before, until it is measured and drawn, where only more snapshots have come.

        Otherwise a training that is quicker than a measurement would have it begin again and again.
        """
        before = self._wanted
        if before is None or before.code != want.code or before.key == want.key:
            return want
        if self._shown is not None and self._shown.key == before.key:
            return want
        if self.jobs.knows(before.key):
            self._poke()  # it is drawn now; then comes what is new
            return before
        return before if self.jobs.progress(self) else want

    # ---- drawing -----------------------------------------------------------------------------------------

    def look(self) -> Hashable:
        return tuple(self.now.items()), self.epoch(), self.seed()

    def shown(self, result: Any) -> Any:
        """The part of a result that is drawn: up to the shown epoch."""
        return probes.until(result, self.epoch()) if self.at_epoch() else result

    def draw(self, result: Any) -> go.Figure:
        shown = self.shown(result)
        name, options = self.picture(shown)
        fig: go.Figure = getattr(plots, name)(shown, **options, dark=self.dark)
        return fig

    def code(self, want: Want, result: Any) -> str:
        shown, taken = self.shown(result), want.code
        if shown is not result and getattr(shown, "epochs", None) != getattr(result, "epochs", None):
            taken = call("kdlab.probes.until", taken, str(shown.epochs[-1]))
        name, options = self.picture(shown)
        return call(f"kdlab.plots.{name}", taken, **options)

    def say(self, result: Any) -> str:
        """The sentence of the figure, and which seeds are shown."""
        assert self.fig is not None
        return " ".join(filter(None, [self.fig.layout.meta["summary"], self.about_seeds()]))

    def touched(self, what: str, points: Points | None) -> None:
        if what == "click" and points and self.fig is not None:
            trace, point = points[0]
            self.clicked(self.fig.data[trace], point)

    def clicked(self, trace: Any, point: int) -> None:
        """The pointer was pressed on a point of a trace (of a map: cells are counted row by row)."""


def drawn(values: Any) -> np.ndarray:
    """The numbers or names in x, y or z of a trace, which a figure on dark paper holds in binary form."""
    if not isinstance(values, dict):
        return np.asarray(values)
    flat = np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"])
    return flat.reshape([int(size) for size in str(values.get("shape", len(flat))).split(",")])

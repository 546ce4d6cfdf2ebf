"""What a step of a method costs relative to plain KD between the same networks, by turns in one process.

A library; nothing happens when it is run.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import SideFailed, median
from sides import StudySide

import kdlab
from kdlab.data import ImageData
from kdlab.errors import KDLabError
from kdlab.models import StagedNet

LIMIT = 2.0  # times the step of KD; what costs more has to say why
BATCH = 64
WARM = 3  # steps that do not count


@dataclass(frozen=True)
class Bench:
    """The networks and pictures on which steps are timed.

    Attributes:
        teachers: one of them for most methods, all for those that are of the family "multi-teacher".
    """

    data: ImageData
    teachers: Sequence[StagedNet]
    student: StagedNet
    device: str = "cpu"

    def teachers_for(self, method: str) -> Sequence[StagedNet]:
        """Those whose passes a step of the method needs."""
        return self.teachers if several(method) else self.teachers[:1]


def several(method: str) -> bool:
    """Whether a method is for several teachers."""
    return "multi-teacher" in kdlab.methods.get(method).family


class Pace(StudySide):
    """A study of one student under way; all of its steps have batches of one size."""

    def __init__(self, method: str, bench: Bench, teachers: Sequence[StagedNet], epochs: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kdlab-bench-", ignore_cleanup_errors=True)
        self.students = 1
        recipe = {"name": "pace", "epochs": epochs, "batch_size": BATCH, "lr": 0.01, "drop_last": True}
        try:
            self.study = kdlab.Study(
                data=bench.data,
                teacher=list(teachers),
                student=bench.student,
                students={"s0": method},
                recipe=recipe,
                device=bench.device,
                folder=Path(self._folder.name) / "study",
                snapshots="ends",
                probe_size=64,
                evaluate_every=epochs,
                keep="none",
            )
        except KDLabError as error:
            raise SideFailed(str(error)) from error
        self.study.start(paused=True)
        try:
            self._clock()
            self.until(WARM)  # and whatever the method prepares before its first step
        except Exception:
            self.close()
            raise

    def step_times(self, seconds: float) -> tuple[float, float]:
        """Seconds of a step, by the clock and of processor time, over a window of at least so many."""
        done, began = self.steps, time.process_time()
        rate = self.run(seconds).rate
        return BATCH / rate, (time.process_time() - began) / (self.steps - done)


@contextlib.contextmanager
def bases(bench: Bench, methods: Sequence[str]) -> Iterator[dict[bool, Pace]]:
    """KD under way, beside one teacher (False) and beside all of them (True), as far as `methods` need it."""
    with contextlib.ExitStack() as stack:
        sides: dict[bool, Pace] = {}
        for method in methods:
            if (key := several(method)) not in sides:
                side = Pace("kd", bench, bench.teachers_for(method), epochs=1_000_000)
                sides[key] = stack.enter_context(contextlib.closing(side))
        yield sides


def relative(
    method: str, bench: Bench, base: Pace, rounds: int, seconds: float, epochs: int = 12
) -> dict[str, Any]:
    """A row: "ms" and "KD ms" (medians), "x KD" (median of the ratios of rounds), "range", or "note".

    "x CPU" is the ratio of processor time, which others on the machine disturb less. Both students take
    a window in turn, and the one that waits uses no time. What a method does before its first step does
    not count, nor do terms that its schedules still leave out in the first epoch; "later" names them.
    """
    with contextlib.ExitStack() as stack:
        try:
            side = Pace(method, bench, bench.teachers_for(method), epochs)
            stack.enter_context(contextlib.closing(side))
            times = [(base.step_times(seconds), side.step_times(seconds)) for _ in range(rounds)]
        except (SideFailed, KDLabError) as error:
            return {"method": method, "note": f"failed: {error}"}
        terms = side.study.terms("s0").values()
        later = [t.name for t in terms if t.factor(1) == 0 and t.factor(epochs) != 0]
    ratios = [mine[0] / theirs[0] for theirs, mine in times]
    row: dict[str, Any] = {
        "method": method,
        "x KD": median(ratios),
        "ms": 1e3 * median([mine[0] for _, mine in times]),
        "KD ms": 1e3 * median([theirs[0] for theirs, _ in times]),
        "range": f"{min(ratios):.2f} to {max(ratios):.2f}",
        "x CPU": median([mine[1] / theirs[1] for theirs, mine in times]),
        "teachers": 1,
    }
    if several(method):
        row["teachers"] = len(bench.teachers)
    if later:
        row["later"] = later
    return row


def flag(row: Mapping[str, Any], why: Mapping[str, str]) -> str:
    """What is to be said of a row: nothing within the limit, else the reason, or that there is none."""
    if "note" in row:
        return str(row["note"])
    later = f"without {', '.join(row['later'])}, which come later" if "later" in row else ""
    if row["x KD"] <= LIMIT:
        return later
    over = f"over {LIMIT:g}x: {why.get(row['method'], 'no reason is known')}"
    return f"{over}; {later}" if later else over

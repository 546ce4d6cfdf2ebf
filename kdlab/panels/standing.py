"""How each student of a study stands: in training, still to be forked, dropped, or stopped by a guard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_NOTES = 6


@dataclass(frozen=True)
class Standing:
    """Where one student is.

    Attributes:
        kind: "going", "waiting" (a fork that is not made yet), "dropped" or "failed" (also of a fork
            that could not be made).
        badge: in a few words; "" where there is nothing to say.
        why: the same as a whole sentence.
        editable: whether its terms can be changed, and whether it can be dropped.
    """

    kind: str = "going"
    badge: str = ""
    why: str = ""
    editable: bool = True

    @property
    def ended(self) -> bool:
        """Whether it is trained no further."""
        return self.kind in ("dropped", "failed")


class Standings:
    """The standing of every student, read anew only when something has happened.

    Args:
        study: a `Study`.
    """

    def __init__(self, study: Any) -> None:
        self.study = study
        self._key: tuple[Any, ...] = ()
        self._failures: list[dict[str, Any]] = []

    def failures(self) -> list[dict[str, Any]]:
        """As `Study.failures`, which reads files; so only after news."""
        study, board = self.study, self.study.board
        run = study.record.run()
        key = (
            *(board.latest("note"), board.latest("done"), study.state, study.record.latest, id(run)),
            *(len(study.record.commands), len(study.names), len(run.rows) if run else 0),
        )
        if key != self._key:
            self._failures, self._key = study.failures(), key
        return self._failures

    def of(self, seed: int | None = None) -> dict[str, Standing]:
        """Student -> standing, as it is in one seed (None: the latest)."""
        study = self.study
        shown = shown_seed(study, seed)
        failed = {f["student"]: f for f in self.failures() if f["seed"] == shown}
        drops = {m["student"]: m for m in study.record.marks() if m["kind"] == "drop"}
        forks = {m["student"]: m for m in study.record.marks() if m["kind"] == "fork"}
        several = len(study.seeds) > 1
        out = {}
        for name in study.names:
            done = len(study.record.series(name, "loss", seed)[0])
            if name in failed:
                out[name] = _failed(failed[name])
            elif name in drops:
                recorded = study.record.series(name, "loss", drops[name]["seed"])[0]
                last = int(recorded[-1]) if len(recorded) else 0
                out[name] = _dropped(drops[name], last, several, study.state == "finished")
            elif name in forks and not done:
                out[name] = _waiting(forks[name], several, study.state == "finished")
            else:
                out[name] = Standing(editable=study.state != "finished")
        return out

    def notes(self) -> list[str]:
        """What guards and drops did, in whole sentences, the latest last."""
        study, several = self.study, len(self.study.seeds) > 1
        said = []
        for failure in self.failures():
            said.append(failure["text"] + (f" (Seed {failure['seed']}.)" if several else ""))
        for mark in study.record.marks():
            if mark["kind"] == "drop":
                said.append(_drop_sentence(mark, several))
        note = study.board.latest("note")
        if note and not any(text.startswith(note) for text in said):
            said.append(str(note))
        return said[-MOST_NOTES:]


def shown_seed(study: Any, seed: int | None) -> int:
    """`seed`, or the seed that is in training or was trained last."""
    if seed is not None:
        return seed
    latest = study.record.latest
    if latest is None:
        latest = next(reversed(study.record.runs), study.seeds[0])
    return int(latest)


def origin(marks: Sequence[Mapping[str, Any]], student: str) -> str:
    """Where a student comes from: "forked from KD in epoch 3", "added in epoch 2"; "" from the start."""
    for mark in marks:
        if mark["student"] == student and mark["kind"] in ("fork", "add"):
            return f"{mark['text']} in epoch {mark['epoch']}"
    return ""


def _failed(failure: Mapping[str, Any]) -> Standing:
    what = str(failure.get("what", "by a guard")).replace(" is not finite", " not finite")
    badge = f"stopped: {what.removeprefix('the ')}, step {failure['step']:,}"
    return Standing("failed", badge, str(failure["text"]), editable=False)


def _dropped(mark: Mapping[str, Any], recorded: int, several: bool, finished: bool) -> Standing:
    seed = f" (seed {mark['seed']})" if several else ""
    why = _drop_sentence(mark, several)
    if mark["step"] > recorded and not finished:  # planned for a step to come
        return Standing(
            "going", f"ends in epoch {mark['epoch']}{seed}", why.replace("was dropped", "is to be dropped")
        )
    return Standing("dropped", f"dropped in epoch {mark['epoch']}{seed}", why, editable=False)


def _drop_sentence(mark: Mapping[str, Any], several: bool) -> str:
    seed = f" of seed {mark['seed']}, and left out of later seeds" if several else ""
    when = f"in epoch {mark['epoch']} after step {mark['step']:,}{seed}"
    return f"Student {mark['student']!r} was dropped {when}; what it has done is kept."


def _waiting(mark: Mapping[str, Any], several: bool, finished: bool) -> Standing:
    if finished:  # its parent was dropped or stopped before
        parent = f"{mark['parent']!r} ended before step {mark['step']:,}"
        why = f"Student {mark['student']!r} was not made: {parent}."
        return Standing("failed", "never forked", why, editable=False)
    when = f"after step {mark['step']:,} (epoch {mark['epoch']}{', in every seed' if several else ''})"
    why = f"Student {mark['student']!r} is forked from {mark['parent']!r} {when}; it is not there yet."
    return Standing("waiting", f"to be forked at step {mark['step']:,}", why)

"""Which snapshots a study has, read from its folder only when something has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class _Known:
    """What was read of the folder when `key` was true."""

    key: tuple[Any, ...]
    epochs: dict[tuple[int, str | None], list[int]] = field(default_factory=dict)
    weights: dict[tuple[int, str], list[int]] = field(default_factory=dict)
    seeds: list[int] | None = None


class Stock:
    """Seeds and epochs of which there are snapshots; cheap to ask at every frame.

    Args:
        study: a `kdlab.Study`.
    """

    def __init__(self, study: Any) -> None:
        self.study = study
        self._known = _Known(())

    @property
    def key(self) -> tuple[Any, ...]:
        """Changes when there may be new snapshots, or weights, which are kept before an epoch is posted."""
        study, board = self.study, self.study.board
        news = board.latest("snapshot"), board.latest("epoch")
        return (*news, study.state, len(study.names), len(study.record.runs))

    def epochs(self, seed: int, network: str | None = None) -> list[int]:
        """Epochs of which there are snapshots (of one student, if named), ascending."""
        known = self._refreshed().epochs
        if (seed, network) not in known:
            known[seed, network] = self.study.snapshot_epochs(seed, network)
        return known[seed, network]

    def weight_epochs(self, seed: int, student: str) -> list[int]:
        """Those of its epochs of which a student's weights were kept as well, ascending."""
        known = self._refreshed().weights
        if (seed, student) not in known:
            kept = set(self.study.weight_epochs(student, seed))
            known[seed, student] = [epoch for epoch in self.epochs(seed, student) if epoch in kept]
        return known[seed, student]

    def seeds(self) -> list[int]:
        """Seeds of which there are snapshots, in the order of the study."""
        known = self._refreshed()
        if known.seeds is None:
            known.seeds = [seed for seed in self.study.seeds if self.epochs(seed)]
        return list(known.seeds)

    def _refreshed(self) -> _Known:
        """What is known, forgotten when something came; whoever asks keeps what was so when asking."""
        key = self.key
        if key != self._known.key:
            self._known = _Known(key)
        return self._known

    def latest_seed(self) -> int | None:
        """The seed trained last that has snapshots; None before training."""
        there, recent = self.seeds(), self.study.record.latest
        return recent if recent in there else (there[-1] if there else None)

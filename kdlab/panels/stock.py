"""Which snapshots a study has, read from its folder only when something has come."""

from __future__ import annotations

from typing import Any


class Stock:
    """Seeds and epochs of which there are snapshots; cheap to ask at every frame.

    Args:
        study: a `kdlab.Study`.
    """

    def __init__(self, study: Any) -> None:
        self.study = study
        self._key: tuple[Any, ...] = ()
        self._epochs: dict[tuple[int, str | None], list[int]] = {}
        self._weights: dict[tuple[int, str], list[int]] = {}

    @property
    def key(self) -> tuple[Any, ...]:
        """Changes when there may be new snapshots, or weights, which are kept before an epoch is posted."""
        study, board = self.study, self.study.board
        news = board.latest("snapshot"), board.latest("epoch")
        return (*news, study.state, len(study.names), len(study.record.runs))

    def epochs(self, seed: int, network: str | None = None) -> list[int]:
        """Epochs of which there are snapshots (of one student, if named), ascending."""
        self._refresh()
        if (seed, network) not in self._epochs:
            self._epochs[seed, network] = self.study.snapshot_epochs(seed, network)
        return self._epochs[seed, network]

    def weight_epochs(self, seed: int, student: str) -> list[int]:
        """Those of its epochs of which a student's weights were kept as well, ascending."""
        self._refresh()
        if (seed, student) not in self._weights:
            kept = set(self.study.weight_epochs(student, seed))
            self._weights[seed, student] = [epoch for epoch in self.epochs(seed, student) if epoch in kept]
        return self._weights[seed, student]

    def _refresh(self) -> None:
        """Forget what was known before something came."""
        key = self.key
        if key != self._key:
            self._key, self._epochs, self._weights = key, {}, {}

    def seeds(self) -> list[int]:
        """Seeds of which there are snapshots, in the order of the study."""
        return [seed for seed in self.study.seeds if self.epochs(seed)]

    def latest_seed(self) -> int | None:
        """The seed trained last that has snapshots; None before training."""
        there, recent = self.seeds(), self.study.record.latest
        return recent if recent in there else (there[-1] if there else None)

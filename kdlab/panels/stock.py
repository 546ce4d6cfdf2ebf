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

    @property
    def key(self) -> tuple[Any, ...]:
        """Changes when there may be new snapshots."""
        study, board = self.study, self.study.board
        return (board.latest("snapshot"), study.state, len(study.names), len(study.record.runs))

    def epochs(self, seed: int, network: str | None = None) -> list[int]:
        """Epochs of which there are snapshots (of one student, if named), ascending."""
        key = self.key
        if key != self._key:
            self._key, self._epochs = key, {}
        if (seed, network) not in self._epochs:
            self._epochs[seed, network] = self.study.snapshot_epochs(seed, network)
        return self._epochs[seed, network]

    def seeds(self) -> list[int]:
        """Seeds of which there are snapshots, in the order of the study."""
        return [seed for seed in self.study.seeds if self.epochs(seed)]

    def latest_seed(self) -> int | None:
        """The seed trained last that has snapshots; None before training."""
        there, recent = self.seeds(), self.study.record.latest
        return recent if recent in there else (there[-1] if there else None)

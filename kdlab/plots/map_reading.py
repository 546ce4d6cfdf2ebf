"""Maps of several networks, read alike whichever probe they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdlab.errors import ConfigError
from kdlab.probes.agreement import TEACHER, UNTRAINED
from kdlab.probes.attention import AttentionMaps
from kdlab.probes.attribution import Attributions
from kdlab.probes.stage_attribution import StageAttributions

Maps = AttentionMaps | Attributions | StageAttributions


@dataclass(frozen=True)
class MapReading:
    """The maps of one epoch in a result; m pictures.

    Depths are negative: -1 is the deepest stage of each network, so that the deepest ones correspond.

    Attributes:
        result: whose maps these are.
        epoch: which of its epochs.
    """

    result: Maps
    epoch: int

    @staticmethod
    def of(result: Maps, epoch: int | None = None) -> MapReading:
        """Of one epoch, the last if not given.

        Raises:
            ConfigError: there is no such epoch in the result.
        """
        known = result.deepest.epochs if isinstance(result, StageAttributions) else result.epochs
        if epoch is not None and epoch not in known:
            raise ConfigError(
                f"There is no epoch {epoch} in this result; there are {', '.join(map(str, known))}."
            )
        return MapReading(result, known[-1] if epoch is None else epoch)

    @property
    def about(self) -> AttentionMaps | Attributions:
        """Where pictures, labels, classes and networks are told."""
        return self.result.deepest if isinstance(self.result, StageAttributions) else self.result

    @property
    def networks(self) -> tuple[str, ...]:
        """Those who have maps, teachers first."""
        return self.about.networks_at(self.epoch)

    @property
    def students(self) -> tuple[str, ...]:
        """Those of the networks that are compared with the teacher."""
        return tuple(name for name in self.networks if name not in self.about.teachers)

    @property
    def by_stage(self) -> bool:
        """Whether there is a map for every stage; else one for each network."""
        return not isinstance(self.result, Attributions)

    @property
    def depths(self) -> list[int]:
        """From the shallowest to -1."""
        if not isinstance(self.result, AttentionMaps):
            return list(self.result.parts) if isinstance(self.result, StageAttributions) else [-1]
        return list(range(-max(len(self.result.stages[name]) for name in self.networks), 0))

    def stage(self, name: str, depth: int) -> str | None:
        """Name of the stage, "" where the method looks at pixels; None where a network is not so deep."""
        if isinstance(self.result, AttentionMaps):
            own = self.result.stages[name]
            return own[depth] if -depth <= len(own) else None
        if isinstance(self.result, Attributions):
            return self.result.stages[name]
        return self.result.parts[depth].stages[name] if -depth <= self.result.counts[name] else None

    def maps(self, name: str, depth: int) -> np.ndarray:
        """(m, h, w), each in units of its own root mean square."""
        if isinstance(self.result, AttentionMaps):
            return self.result.relative(name, self.epoch, self.result.stages[name][depth])
        return self._part(depth).relative(name, self.epoch)

    def difference(self, name: str, depth: int) -> np.ndarray:
        """(m, h, w) a student's maps minus the teacher's, on the coarser grid."""
        if isinstance(self.result, AttentionMaps):
            return self.result.difference(name, self.epoch, self.result.stages[name][depth])
        return self._part(depth).difference(name, self.epoch)

    def score(self, name: str, depth: int, measure: str, comparison: str = TEACHER) -> np.ndarray | None:
        """(m,) agreement with the teacher, see `kdlab.probes.agreement`; None where nothing was compared.

        The control UNTRAINED of activation maps is the same student before training.
        """
        if not isinstance(self.result, AttentionMaps):
            found = self._part(depth).agreement
            return None if found is None else found.scores.get((name, self.epoch, comparison, measure))
        if comparison not in (TEACHER, UNTRAINED) or (comparison == UNTRAINED and self.epoch == 0):
            return None
        epoch = self.epoch if comparison == TEACHER else 0  # before training, where it is in the result
        key = name, epoch, self.result.stages[name][depth]
        return self.result.cosine.get(key) if measure == "cosine" else self.result.scores.get((*key, measure))

    def predicted(self, name: str) -> np.ndarray | None:
        """(m,) classes, or None where the logits are not known."""
        about = self.about
        if isinstance(about, AttentionMaps):
            said = about.predicted.get(name)
            return None if said is None else said[about.epochs.index(self.epoch)]
        return about.predicted[name, self.epoch]

    def signed(self) -> bool:
        """Whether there are values below 0."""
        return not isinstance(self.about, AttentionMaps) and self.about.signed

    def told(self, name: str, depth: int, place: int) -> list[str]:
        """How far a student's map is from the teacher's, in few letters; [] where nothing was compared."""
        ranks, cosines = (self.score(name, depth, measure) for measure in ("spearman", "cosine"))
        if ranks is None or cosines is None:
            return []
        if not np.isfinite(ranks[place]):
            return ["empty map"]
        lines = [f"ρ {ranks[place]:.2f}"]
        if isinstance(self.result, AttentionMaps):
            lines = [f"cos {cosines[place]:.2f}", *lines]
        control = self.score(name, depth, "spearman", UNTRAINED)
        if control is not None and np.isfinite(control[place]):
            before = "epoch 0:" if isinstance(self.result, AttentionMaps) else "untrained"
            lines.append(f"{before} {control[place]:.2f}")
        return [line.replace("-", "−") for line in lines]

    def places(self, samples: Sequence[int] | None, most: int) -> list[int]:
        """Places of pictures, the first `most` if not given.

        Raises:
            ConfigError: there is no such picture.
        """
        count = len(self.about.labels)
        places = list(range(min(most, count))) if samples is None else [int(i) for i in samples]
        if not places or min(places) < 0 or max(places) >= count:
            raise ConfigError(f"samples must lie in 0 .. {count - 1}.")
        return places

    def _part(self, depth: int) -> Attributions:
        held: Any = self.result
        return held.parts[depth] if isinstance(held, StageAttributions) else held

"""Attributions at every stage: where the evidence for a class lies, from shallow to deep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kdlab.probes.attribution import Attributions, attributions
from kdlab.probes.progress import measurement, steps
from kdlab.probes.result import Result
from kdlab.probes.sources import as_source

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class StageAttributions(Result):
    """`Attributions` of the same pictures at several depths.

    Attributes:
        parts: depth -> attributions there; -1 is the deepest stage of each network, as in `attributions`.
            A network that has fewer stages than others shows its shallowest one at the first depths.
        counts: network -> how many stages it has.

    >>> found = kdlab.probes.stage_attributions(study, [0], method="attention", controls=False)
    >>> found.counts, found.deepest is found.parts[-1]
    ({'resnet8': 3, 'alone': 3, 'KD': 3}, True)
    """

    figure: ClassVar[str] = "map_wall"

    parts: Mapping[int, Attributions]
    counts: Mapping[str, int]

    @property
    def deepest(self) -> Attributions:
        """The part at the deepest stages."""
        return self.parts[-1]

    def to_frame(self) -> pd.DataFrame:
        """The tables of all depths, one below the other, with the depth and the stage."""
        import pandas as pd

        frames = []
        for depth, part in self.parts.items():
            frame = part.to_frame()
            frames.append(frame.assign(depth=depth, stage=frame["network"].map(dict(part.stages))))
        return pd.concat(frames, ignore_index=True)

    @property
    def summary(self) -> str:
        """That of the deepest stages."""
        return self.deepest.summary


@measurement
def stage_attributions(
    source: Any,
    samples: Sequence[int] | None = None,
    *,
    method: str = "gradcam",
    class_: str | int = "label",
    students: str | Iterable[str] | None = None,
    epoch: str | int | Iterable[int] = "last",
    seed: int | None = None,
    controls: bool = True,
    **options: Any,
) -> StageAttributions:
    """`attributions` once for every depth, from the shallowest stage to the deepest.

    Args:
        source, samples, class_, students, epoch, seed, controls: as in `attributions`.
        method: "gradcam" or "attention", which look at a stage.
        options: anything else of `attributions` but `stage`.

    Raises:
        ConfigError, CheckpointError, StudyError: as `attributions`.

    >>> found = kdlab.probes.stage_attributions(study, [0], method="attention", controls=False)
    >>> {depth: part.stages["KD"] for depth, part in found.parts.items()}
    {-3: 'layer1', -2: 'layer2', -1: 'layer3'}
    """
    given = {k: options.pop(k) for k in ("target", "images", "data", "n", "teacher") if k in options}
    src = as_source(source, **given, judged=True)
    networks = src.choose_networks(students)
    own_seed = src.choose_seed(seed, networks)
    counts = {}
    for name in networks:
        there = src.epochs(own_seed, None if name in src.teachers else name)
        if there:
            counts[name] = len(src.view(name, there[-1], own_seed).stages)
    parts = {}
    for depth in steps(range(-max(counts.values()), 0), lambda d: f"stage {d} from the end".replace("-", "")):
        stages = {name: max(depth, -count) for name, count in counts.items()}
        parts[depth] = attributions(
            src,
            samples,
            method=method,
            class_=class_,
            stage=stages,
            students=students,
            epoch=epoch,
            seed=own_seed,
            controls=controls,
            **options,
        )
    return StageAttributions(parts=parts, counts=counts)

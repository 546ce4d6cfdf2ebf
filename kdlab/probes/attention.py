"""Attention maps: where in the picture a network is active, teacher and students on the same pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.result import Result
from kdlab.probes.sources import Source, as_source
from kdlab.probes.words import absent, listed

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class AttentionMaps(Result):
    """Activation attention of m pictures: N networks x E epochs x stages.

    Attributes:
        networks: teachers first, those without any of these epochs left out; teachers, students:
            which is which.
        epochs: -1 for networks given without a training; seed: of the run shown.
        stages: network -> its stage names, shallow to deep.
        maps: (network, epoch, stage) -> (m, h, w), each map with Euclidean norm 1 (0 for a dead map).
        partner: (student, stage) -> the teacher's stage it is compared with.
        cosine: (student, epoch, stage) -> (m,) cosine to the teacher's map, 0..1.
        at_loss: (student, epoch, stage) -> (m,) mean squared difference of the normalised maps: the
            AT loss of that stage before weighting (Zagoruyko and Komodakis, ICLR 2017).
        images: (m, C, H, W) uint8, or None; labels, index: (m,).
        class_names: one a class.
        predicted: network -> (E, m) predicted classes, where logits are known; -1 at epochs of which
            the network has no snapshot. The maps of those epochs are not there either.
    """

    figure: ClassVar[str] = "attention"

    networks: tuple[str, ...]
    teachers: tuple[str, ...]
    students: tuple[str, ...]
    epochs: tuple[int, ...]
    seed: int
    stages: Mapping[str, tuple[str, ...]]
    maps: Mapping[tuple[str, int, str], np.ndarray]
    partner: Mapping[tuple[str, str], str]
    cosine: Mapping[tuple[str, int, str], np.ndarray]
    at_loss: Mapping[tuple[str, int, str], np.ndarray]
    images: np.ndarray | None
    labels: np.ndarray
    index: np.ndarray
    class_names: tuple[str, ...]
    predicted: Mapping[str, np.ndarray] = field(default_factory=dict)

    def networks_at(self, epoch: int) -> tuple[str, ...]:
        """Those who have maps of an epoch, teachers first."""
        there = {name for name, when, _ in self.maps if when == epoch}
        return tuple(name for name in self.networks if name in there)

    def relative(self, network: str, epoch: int, stage: str) -> np.ndarray:
        """(m, h, w) maps on one scale for all sizes: 1 is what evenly spread attention would have."""
        maps = self.maps[network, epoch, stage]
        return maps * np.sqrt(maps.shape[1] * maps.shape[2])

    def to_frame(self) -> pd.DataFrame:
        """One row for each student, epoch, stage and picture: cosine and AT loss."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "network": name,
                    "epoch": epoch,
                    "stage": stage,
                    "teacher_stage": self.partner[name, stage],
                    "index": int(self.index[i]),
                    "label": int(self.labels[i]),
                    "cosine": float(cosine[i]),
                    "at_loss": float(self.at_loss[name, epoch, stage][i]),
                }
                for (name, epoch, stage), cosine in self.cosine.items()
                for i in range(len(cosine))
            ]
        )

    def _absent(self, epoch: int) -> list[str]:
        return [name for name in self.networks if name not in self.networks_at(epoch)]

    @property
    def summary(self) -> str:
        """One sentence: how near each student's maps are to the teacher's at the last epoch."""
        count = len(self.labels)
        if not self.cosine:
            return f"Attention maps of {listed(list(self.networks))} on {count} pictures."
        last = self.epochs[-1]
        said = []
        for name in self.networks:
            own = [float(c.mean()) for (n, e, _), c in self.cosine.items() if n == name and e == last]
            if own:
                said.append(f"{name} {np.mean(own):.2f}")
        when = "" if last == AS_GIVEN else f" after epoch {last}"
        return (
            f"Mean cosine between the student's and the teacher's attention maps, over stages and {count} "
            f"test pictures{when} (1 is equal): {listed(said)}.{absent(self._absent(last))}"
        )


def attention_maps(
    source: Any,
    samples: Sequence[int] | None = None,
    *,
    target: Any = None,
    images: Any = None,
    teacher: str | None = None,
    students: str | Iterable[str] | None = None,
    epochs: str | int | Iterable[int] = "last",
    stages: str | Iterable[str] = "all",
    seed: int | None = None,
) -> AttentionMaps:
    """Mean over channels of the squared stage map, for teacher and students on the same pictures.

    Where two maps differ in size, the larger is averaged down to the smaller before they are compared.

    Args:
        source: a study; or name -> snapshot or module (then with `images`, normalised, and `target`).
        samples: which pictures, as places among those whose maps are kept; None means all of them.
        teacher: which name is the teacher, for everything but a study.
        students: which; None means all.
        epochs: "all", "last", an epoch (negative counts from the last) or several.
        stages: "all" or names.
        seed: of the run; None is the first that has a snapshot.

    Raises:
        ConfigError: unknown names or places, or networks whose attention was not kept.
        StudyError: the study has no snapshot yet.
    """
    src = as_source(
        source,
        target=target,
        images=images,
        teacher=teacher,
        fit=None if target is None else np.zeros(len(target), dtype=bool),
    )
    networks = src.choose_networks(students)
    own_seed = src.choose_seeds("all" if seed is None else seed, networks)[0]
    epoch_list = src.choose_epochs(epochs, [own_seed], networks)
    there = src.presence(networks, epoch_list, own_seed)
    networks = tuple(name for name in networks if there[name])
    evaluation = np.flatnonzero(~src.fit)
    wanted = (
        None
        if isinstance(stages, str) and stages == "all"
        else [stages]
        if isinstance(stages, str)
        else list(stages)
    )

    raw: dict[tuple[str, int, str], np.ndarray] = {}
    stage_names: dict[str, tuple[str, ...]] = {}
    predicted: dict[str, np.ndarray] = {}
    for name in networks:
        views = {epoch: src.view(name, epoch, own_seed) for epoch in there[name]}
        every = tuple(views[there[name][0]].attention)
        if not every:
            raise ConfigError(
                f"No attention maps of {name!r} were kept; give the module and images=... instead."
            )
        missing = [stage for stage in wanted or () if stage not in every]
        if missing:
            raise unknown_name(f"stage of {name}", missing[0], every)
        stage_names[name] = every if wanted is None else tuple(stage for stage in every if stage in wanted)
        for epoch, view in views.items():
            raw.update({(name, epoch, stage): view.attention[stage] for stage in stage_names[name]})
        if all(view.logits is not None for view in views.values()):
            nobody = np.full(len(evaluation), -1)
            said = {epoch: view.logits[evaluation].argmax(axis=1) for epoch, view in views.items()}
            predicted[name] = np.stack([said.get(epoch, nobody) for epoch in epoch_list])

    kept = min(len(maps) for maps in raw.values())
    places = np.arange(kept) if samples is None else np.asarray(list(samples), dtype=np.int64)
    if len(places) == 0 or places.min() < 0 or places.max() >= kept:
        raise ConfigError(
            f"Attention maps of {kept} pictures were kept; samples must lie in 0 .. {kept - 1}."
        )
    maps = {key: _unit(value[places]) for key, value in raw.items()}
    partner, cosine, at_loss = _compare(src, networks, stage_names, maps)
    shown = evaluation[places]
    return AttentionMaps(
        networks=networks,
        teachers=src.teachers,
        students=src.students,
        epochs=epoch_list,
        seed=own_seed,
        stages=stage_names,
        maps=maps,
        partner=partner,
        cosine=cosine,
        at_loss=at_loss,
        images=None if src.images is None else src.images[shown],
        labels=src.target[shown],
        index=src.index[shown],
        class_names=src.class_names,
        predicted={name: values[:, places] for name, values in predicted.items()},
    )


def _compare(
    src: Source,
    networks: Sequence[str],
    stages: Mapping[str, tuple[str, ...]],
    maps: Mapping[tuple[str, int, str], np.ndarray],
) -> tuple[dict[Any, str], dict[Any, np.ndarray], dict[Any, np.ndarray]]:
    partner: dict[Any, str] = {}
    cosine: dict[Any, np.ndarray] = {}
    at_loss: dict[Any, np.ndarray] = {}
    if not src.teachers:
        return partner, cosine, at_loss
    teacher = src.teachers[0]
    theirs = stages[teacher]
    for (name, epoch, stage), own in maps.items():
        if name in src.teachers:
            continue
        from_end = len(stages[name]) - stages[name].index(stage)  # the deepest stages correspond
        other = stage if stage in theirs else theirs[max(len(theirs) - from_end, 0)]
        partner[name, stage] = other
        a, b = _same_size(own, maps[teacher, epoch, other])
        cosine[name, epoch, stage] = (a * b).sum(axis=(1, 2))
        at_loss[name, epoch, stage] = np.square(a - b).mean(axis=(1, 2))
    return partner, cosine, at_loss


def _unit(maps: np.ndarray) -> np.ndarray:
    maps = np.asarray(maps, dtype=np.float64)
    norm = np.sqrt(np.square(maps).sum(axis=(1, 2), keepdims=True))
    return (maps / np.maximum(norm, 1e-12)).astype(np.float32)


def _same_size(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.shape == b.shape:
        return a, b
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    size = (min(a.shape[1], b.shape[1]), min(a.shape[2], b.shape[2]))
    pooled = [_unit(adaptive_avg_pool2d(torch.from_numpy(x), size).numpy()) for x in (a, b)]
    return pooled[0], pooled[1]

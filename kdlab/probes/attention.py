"""Attention maps: where in the picture a network is active, teacher and students on the same pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.probes.agreement import chance_levels, compare_maps, relative, same_grid
from kdlab.probes.inputs import chosen_places, names_or_all
from kdlab.probes.progress import measurement, steps
from kdlab.probes.representation import AS_GIVEN, Representation, measure
from kdlab.probes.result import Result
from kdlab.probes.sources import Source, as_source
from kdlab.probes.words import absent, at_epoch, listed

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
        scores: (student, epoch, stage, measure) -> (m,) further measures of agreement with the teacher:
            "spearman", "iou", "same_peak", "peak_distance" (see `kdlab.probes.agreement.compare_maps`).
        chance: (student, stage, measure) -> what they are for maps of independent random cells.
        images: (m, C, H, W) uint8, or None; labels, index: (m,).
        class_names: one a class.
        predicted: network -> (E, m) predicted classes, where logits are known; -1 at epochs of which
            the network has no snapshot. The maps of those epochs are not there either.

    >>> found = kdlab.probes.attention_maps(study, samples=[0, 1, 2])
    >>> found.stages["KD"], found.partner["KD", "layer3"]
    (('layer1', 'layer2', 'layer3'), 'layer3')
    >>> bool((found.cosine["KD", 3, "layer3"] <= 1 + 1e-6).all())
    True
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
    scores: Mapping[tuple[str, int, str, str], np.ndarray] = field(default_factory=dict)
    chance: Mapping[tuple[str, str, str], float] = field(default_factory=dict)

    def networks_at(self, epoch: int) -> tuple[str, ...]:
        """Those who have maps of an epoch, teachers first."""
        there = {name for name, when, _ in self.maps if when == epoch}
        return tuple(name for name in self.networks if name in there)

    def relative(self, network: str, epoch: int, stage: str) -> np.ndarray:
        """(m, h, w) maps on one scale for all sizes: 1 is what evenly spread attention would have."""
        maps = self.maps[network, epoch, stage]
        return maps * np.sqrt(maps.shape[1] * maps.shape[2])

    def difference(self, student: str, epoch: int, stage: str) -> np.ndarray:
        """(m, h, w) student minus teacher, both on the coarser grid and on the scale of `relative`.

        Raises:
            ConfigError: there is no teacher to compare this stage with.
        """
        if (student, stage) not in self.partner:
            raise ConfigError(f"There is no teacher to compare {stage!r} of {student!r} with.")
        theirs = self.maps[self.teachers[0], epoch, self.partner[student, stage]]
        own, other = same_grid(self.maps[student, epoch, stage], theirs)
        return relative(own) - relative(other)

    def to_frame(self) -> pd.DataFrame:
        """One row for each student, epoch, stage and picture: cosine, AT loss and further agreement."""
        import pandas as pd

        further = list(dict.fromkeys(measure for _, _, _, measure in self.scores))

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
                    **{m: float(self.scores[name, epoch, stage, m][i]) for m in further},
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
        orders = []
        for name in self.networks:
            own = [
                float(np.nanmean(v))
                for (n, e, _, m), v in self.scores.items()
                if (n, e, m) == (name, last, "spearman") and np.isfinite(v).any()
            ]
            if own:
                orders.append(f"{name} {np.mean(own):.2f}".replace("-", "−"))
        ranked = f" Rank correlation of the cells (0 is chance): {listed(orders)}." if orders else ""
        return (
            f"Mean cosine between the student's and the teacher's attention maps, over stages and {count} "
            f"test pictures{when} (1 is equal): {listed(said)}.{ranked}{absent(self._absent(last))}"
        )


@measurement
def attention_maps(
    source: Any,
    samples: Sequence[int] | None = None,
    *,
    target: Any = None,
    images: Any = None,
    data: Any = None,
    teacher: str | None = None,
    students: str | Iterable[str] | None = None,
    epochs: str | int | Iterable[int] = "last",
    stages: str | Iterable[str] = "all",
    seed: int | None = None,
) -> AttentionMaps:
    """Mean over channels of the squared stage map, for teacher and students on the same pictures.

    Where two maps differ in size, the larger is averaged down to the smaller before they are compared.

    Args:
        source: a study; or name -> snapshot or module (then with `images`, normalised, and `target`;
            or with `data`: a data set or its name).
        samples: which pictures, as places among the evaluation pictures; None means all whose maps are
            kept. For others the networks themselves are asked, as far as their weights are kept.
        teacher: which name is the teacher, for everything but a study.
        students: which; None means all.
        epochs: "all", "last", an epoch (negative counts from the last) or several.
        stages: "all" or names.
        seed: of the run; None is the first that has a snapshot.

    Raises:
        ConfigError: unknown names or places, or networks whose attention was not kept.
        CheckpointError: pictures without kept maps, at an epoch of which no weights were kept.
        StudyError: the study has no snapshot yet.

    >>> found = kdlab.probes.attention_maps(study, samples=[0, 1])
    >>> found.networks, found.maps["KD", 3, "layer1"].shape
    (('resnet8', 'alone', 'KD'), (2, 8, 8))
    """
    src = as_source(
        source,
        target=target,
        images=images,
        data=data,
        teacher=teacher,
        judged=True,
    )
    networks = src.choose_networks(students)
    own_seed = src.choose_seed(seed, networks)
    epoch_list = src.choose_epochs(epochs, [own_seed], networks)
    there = src.presence(networks, epoch_list, own_seed)
    networks = tuple(name for name in networks if there[name])
    evaluation = np.flatnonzero(~src.fit)
    wanted = names_or_all(stages, "stages")
    places, ask = _places(src, samples, [(n, e) for n in networks for e in there[n]], own_seed, evaluation)
    shown = evaluation[places]

    raw: dict[tuple[str, int, str], np.ndarray] = {}
    stage_names: dict[str, tuple[str, ...]] = {}
    predicted: dict[str, np.ndarray] = {}
    for name in steps(networks, "{}", share=0.6):
        said = {}
        for epoch in steps(there[name], at_epoch):
            if ask:
                rows = np.arange(len(shown))
                if name not in src.teachers or epoch == there[name][0]:  # a teacher is the same everywhere
                    net = src.net(name, epoch, own_seed)
                    view = measure(net, lambda which: src.inputs(shown[which]), name=name, n=len(shown))
            else:
                view = src.view(name, epoch, own_seed)
                rows = _rows(view, src, places, shown)
            every = tuple(view.attention)
            missing = [stage for stage in wanted or () if stage not in every]
            if missing:
                raise unknown_name(f"stage of {name}", missing[0], every)
            stage_names[name] = tuple(stage for stage in every if wanted is None or stage in wanted)
            raw.update({(name, epoch, stage): view.attention[stage][rows] for stage in stage_names[name]})
            if view.logits is not None:
                said[epoch] = view.logits[rows if ask else shown].argmax(axis=1)
        if len(said) == len(there[name]):
            nobody = np.full(len(shown), -1)
            predicted[name] = np.stack([said.get(epoch, nobody) for epoch in epoch_list])
    maps = {key: _unit(value) for key, value in raw.items()}
    partner, cosine, at_loss, scores, chance = _compare(src, stage_names, maps)
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
        predicted=predicted,
        scores=scores,
        chance=chance,
    )


def _places(
    src: Source,
    samples: Sequence[int] | None,
    chosen: Sequence[tuple[str, int]],
    seed: int,
    evaluation: np.ndarray,
) -> tuple[np.ndarray, bool]:
    """Places among the evaluation pictures, and whether the networks must be asked for their maps."""
    counts = []
    for name, epoch in steps(chosen, lambda one: one[0], share=0.3):
        kept = src.view(name, epoch, seed).attention
        if not kept:
            raise ConfigError(
                f"No attention maps of {name!r} were kept; give the module and images=... instead."
            )
        counts.append(min(len(maps) for maps in kept.values()))
    kept_of = min(*counts, len(evaluation)) if counts else 0
    asks = src.read_net is not None and src.take is not None
    asks = asks and (src.study is None or hasattr(src.study, "network"))
    known = len(evaluation) if asks else kept_of
    places = chosen_places(samples, known, kept_of, "pictures with attention maps")
    return places, bool(places.max() >= kept_of)


def _rows(view: Representation, src: Source, places: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Where the maps of these pictures lie: maps were kept of all pictures, or of the first to evaluate."""
    kept = min(len(maps) for maps in view.attention.values())
    return shown if src.attention_count is None and kept == len(src.target) else places


def _compare(
    src: Source,
    stages: Mapping[str, tuple[str, ...]],
    maps: Mapping[tuple[str, int, str], np.ndarray],
) -> tuple[
    dict[Any, str], dict[Any, np.ndarray], dict[Any, np.ndarray], dict[Any, np.ndarray], dict[Any, float]
]:
    partner: dict[Any, str] = {}
    cosine: dict[Any, np.ndarray] = {}
    at_loss: dict[Any, np.ndarray] = {}
    scores: dict[Any, np.ndarray] = {}
    chance: dict[Any, float] = {}
    teacher = src.teachers[0] if src.teachers else ""
    theirs = stages.get(teacher, ())
    for (name, epoch, stage), own in steps(maps.items(), lambda one: f"agreement, {one[0][0]}"):
        if name in src.teachers or not theirs:
            continue
        from_end = len(stages[name]) - stages[name].index(stage)  # the deepest stages correspond
        other = stage if stage in theirs else theirs[max(len(theirs) - from_end, 0)]
        partner[name, stage] = other
        a, b = own, maps[teacher, epoch, other]
        if a.shape != b.shape:
            a, b = (_unit(x) for x in same_grid(a, b))
        cosine[name, epoch, stage] = (a * b).sum(axis=(1, 2))
        at_loss[name, epoch, stage] = np.square(a - b).mean(axis=(1, 2))
        found = compare_maps(a, b)
        scores.update({(name, epoch, stage, m): v for m, v in found.items() if m != "cosine"})
        chance.update({(name, stage, m): v for m, v in chance_levels(a, b).items()})
    return partner, cosine, at_loss, scores, chance


def _unit(maps: np.ndarray) -> np.ndarray:
    maps = np.asarray(maps, dtype=np.float64)
    norm = np.sqrt(np.square(maps).sum(axis=(1, 2), keepdims=True))
    return (maps / np.maximum(norm, 1e-12)).astype(np.float32)

"""Maps in two dimensions: teacher and students in one space, steady over the epochs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdlab.errors import ConfigError, StudyError, unknown_name
from kdlab.probes.alignment import ALIGNMENTS, into_teacher_space, residual
from kdlab.probes.maps import plane, steady_tsne, trustworthiness
from kdlab.probes.metrics import knn_purity
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.result import Result
from kdlab.probes.sources import Source, as_source
from kdlab.probes.threads import single_thread
from kdlab.probes.tsne import ONE_THREAD_POINTS
from kdlab.probes.words import absent, listed

if TYPE_CHECKING:
    import pandas as pd

METHODS = {"tsne": "t-SNE", "pca": "PCA"}
_POINTS = 1000  # of all networks together, where the number of pictures is not given


@dataclass(frozen=True)
class Embedding(Result):
    """Coordinates of n pictures as N networks show them at E epochs, in one plane.

    A network that has no snapshot of an epoch (it came later or went earlier than others) has NaN there.

    Attributes:
        method: "tsne" or "pca". align: as asked. mapping: how each network came into the common space.
        networks: teachers first; teachers, students: which is which (`students` in the study's order).
        epochs: -1 for networks given without a training. seed: of the run.
        coordinates: (E, N, n, 2), aligned over epochs.
        labels, index: (n,). class_names: one a class. images: (n, C, H, W) uint8, or None.
        predicted: (E, N, n) predicted class, -1 where logits are not known.
        displacement: (E, N) mean distance that a network's points moved since the epoch before, in
            units of the map's radius; NaN at the first.
        residual: (E, N) distance to the teacher in feature space, relative to the teacher's spread
            (0 is equal, 1 as far as the teacher's mean is); NaN without a teacher.
        purity, purity_map: (E, N) share of same-class points among the k nearest in features and map.
        trustworthiness: (E,) how far neighbours in the map are neighbours in the features, up to 1.
        divergence: (E,) KL divergence of t-SNE, NaN for PCA.
        k: neighbours counted. perplexity: of t-SNE, NaN for PCA.
        protocol: how it was made, in words.
    """

    figure: ClassVar[str] = "embedding"

    method: str
    align: str
    mapping: tuple[str, ...]
    networks: tuple[str, ...]
    teachers: tuple[str, ...]
    students: tuple[str, ...]
    epochs: tuple[int, ...]
    seed: int
    coordinates: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    class_names: tuple[str, ...]
    images: np.ndarray | None
    predicted: np.ndarray
    displacement: np.ndarray
    residual: np.ndarray
    purity: np.ndarray
    purity_map: np.ndarray
    trustworthiness: np.ndarray
    divergence: np.ndarray
    k: int
    perplexity: float
    protocol: str

    def to_frame(self) -> pd.DataFrame:
        """One row for each epoch, network and picture."""
        import pandas as pd

        e, m, n = self.predicted.shape
        epoch, network, sample = (a.ravel() for a in np.meshgrid(range(e), range(m), range(n), indexing="ij"))
        return pd.DataFrame(
            {
                "epoch": np.asarray(self.epochs)[epoch],
                "network": np.asarray(self.networks, dtype=object)[network],
                "index": self.index[sample],
                "label": self.labels[sample],
                "predicted": self.predicted.ravel(),
                "x": self.coordinates[..., 0].ravel(),
                "y": self.coordinates[..., 1].ravel(),
            }
        )

    @property
    def summary(self) -> str:
        """One sentence: how far the classes lie apart in the features, and how near the picture is "
        "to that."""
        there = np.isfinite(self.purity[-1])
        pairs = zip(self.networks, self.purity[-1], strict=True)
        said = [f"{name} {value:.2f}" for name, value in pairs if np.isfinite(value)]
        missing = absent([name for name, known in zip(self.networks, there, strict=True) if not known])
        gap = float(np.nanmean(self.purity[-1] - self.purity_map[-1]))
        when = "" if self.epochs[-1] == AS_GIVEN else f" after epoch {self.epochs[-1]}"
        side = "lower" if gap > 0 else "higher"
        picture = (
            "the map shows the same"
            if abs(gap) < 0.005
            else f"in the map it is {abs(gap):.2f} {side} on average"
        )
        return (
            f"{METHODS[self.method]} of {len(self.labels)} test pictures{when}: of a picture's {self.k} "
            f"nearest in the features, the share of its own class is {listed(said)}; {picture}.{missing}"
        )


def embed(
    source: Any,
    method: str = "tsne",
    *,
    align: str = "joint",
    target: Any = None,
    fit: Any = None,
    images: Any = None,
    teacher: str | None = None,
    epochs: str | int | Iterable[int] = "all",
    students: str | Iterable[str] | None = None,
    seed: int | None = None,
    n: int | None = None,
    perplexity: float = 30.0,
    backend: str = "auto",
    k: int = 10,
) -> Embedding:
    """Map teacher and students into one plane, at every epoch.

    Students are brought into the teacher's space first. t-SNE is then fitted once per epoch on the
    points of all networks together, starting from one map of the teacher, and each frame is rotated
    onto the one before by the teacher's points, which stand for the same features at every epoch. PCA
    uses the plane in which the teacher's features vary most (without a teacher, those of the last
    epoch), so that its frames are comparable as they are.

    Args:
        source: a study; or name -> array (n, p), snapshot or module (with `target`; `images` for modules).
        method: "tsne" or "pca".
        align: "joint" (a student's own projector where its method trains one, else orthogonal
            Procrustes), "projector", "procrustes", "ridge" or "none". Maps are fitted on the fitting
            part alone; the result says what was done.
        epochs: "all", "last", an epoch (negative counts from the last) or several.
        students: which; None means all.
        seed: of the run; None is the first that has a snapshot.
        n: evaluation pictures, the same share of each class; None takes so many that all networks
            together have about 1000 points, at most 300 pictures.
        perplexity, backend: of t-SNE, see `kdlab.probes.tsne.tsne`.
        k: neighbours for purity and trustworthiness.

    Raises:
        ConfigError: unknown names, features of different widths that cannot be aligned, too few points.
        StudyError: the study has no snapshot yet.
    """
    if method not in METHODS:
        raise unknown_name("map", method, METHODS)
    if align not in ("joint", *ALIGNMENTS):
        raise unknown_name("alignment", align, ("joint", *ALIGNMENTS))
    src = as_source(source, target=target, fit=fit, images=images, teacher=teacher)
    networks = src.choose_networks(students)
    own_seed = src.choose_seeds("all" if seed is None else seed, networks)[0]
    epoch_list = src.choose_epochs(epochs, [own_seed], networks)
    if not epoch_list:
        raise StudyError("There is no snapshot yet; train the study first (study.fit()).")
    shown = _choose(src, len(networks), n)
    with single_thread(len(shown) * len(networks) <= ONE_THREAD_POINTS):
        return _embed(src, method, align, networks, epoch_list, own_seed, shown, perplexity, backend, k)


def _embed(
    src: Source,
    method: str,
    align: str,
    networks: tuple[str, ...],
    epoch_list: tuple[int, ...],
    own_seed: int,
    shown: np.ndarray,
    perplexity: float,
    backend: str,
    k: int,
) -> Embedding:
    there = src.presence(networks, epoch_list, own_seed)
    present = [[n for n, name in enumerate(networks) if epoch in there[name]] for epoch in epoch_list]
    first = next((n for n in range(len(networks)) if all(n in own for own in present)), None)
    frames = []
    for epoch, own in zip(epoch_list, present, strict=True):
        reference = networks[own[0] if first is None else first]  # the same in all frames if one can be
        names = [networks[n] for n in own]
        frames.append(_features(src, names, reference, epoch, own_seed, align, shown))
    features = [frame[0] for frame in frames]  # each (N, n, q), of those who are there
    if method == "tsne":
        flat, divergence = steady_tsne(features, present, bool(src.teachers), perplexity, backend, own_seed)
    else:
        flat, divergence = plane(features, bool(src.teachers)), np.full(len(features), np.nan)
    labels = src.target[shown]
    k = min(k, len(shown) - 1)

    def spread(values: Sequence[Any], shape: tuple[int, ...] = (), empty: Any = np.nan) -> np.ndarray:
        """(E, N, ...) of values per epoch of those who are there."""
        full = np.full((len(epoch_list), len(networks), *shape), empty)
        for e, own in enumerate(present):
            full[e, own] = np.asarray(values[e])
        return full

    coordinates = spread(flat, (len(shown), 2))
    radius = np.array([np.sqrt(np.square(f - f.mean(axis=(0, 1))).sum(axis=2).mean()) for f in flat])
    moved = np.full((len(epoch_list), len(networks)), np.nan)
    steps = np.linalg.norm(np.diff(coordinates, axis=0), axis=3).mean(axis=2)
    moved[1:] = steps / np.maximum(radius[1:, None], 1e-300)
    if src.teachers:
        gaps = spread([[residual(x, frame[0]) for x in frame] for frame in features])
    else:
        gaps = np.full(moved.shape, np.nan)
    kinds = {
        networks[n]: kind
        for own, frame in zip(present, frames, strict=True)
        for n, kind in zip(own, frame[1])
    }
    used = tuple(kinds.get(name, "none") for name in networks)
    return Embedding(
        method=method,
        align=align,
        mapping=used,
        networks=networks,
        teachers=src.teachers,
        students=src.students,
        epochs=epoch_list,
        seed=own_seed,
        coordinates=coordinates.astype(np.float32),
        labels=labels,
        index=src.index[shown],
        class_names=src.class_names,
        images=None if src.images is None else src.images[shown],
        predicted=spread([frame[2] for frame in frames], (len(shown),), -1),
        displacement=moved,
        residual=gaps,
        purity=spread([[knn_purity(x, labels, k) for x in frame] for frame in features]),
        purity_map=spread([[knn_purity(x, labels, k) for x in frame] for frame in flat]),
        trustworthiness=np.array(
            [
                trustworthiness(np.concatenate(f), np.concatenate(c), k)
                for f, c in zip(features, flat, strict=True)
            ]
        ),
        divergence=divergence,
        k=k,
        perplexity=float(perplexity) if method == "tsne" else float("nan"),
        protocol=_protocol(method, networks, src.teachers, used, len(shown), perplexity)
        + _partly(networks, epoch_list, there),
    )


def _choose(src: Source, networks: int, n: int | None) -> np.ndarray:
    """Evaluation pictures, classes taking turns."""
    evaluation = np.flatnonzero(~src.fit)
    count = min(300, _POINTS // networks) if n is None else n
    if count < 10 or len(evaluation) < 10:
        raise ConfigError(
            f"A map needs at least 10 pictures (asked for {count}, there are {len(evaluation)})."
        )
    labels = src.target[evaluation]
    rank = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        rank[where] = np.arange(len(where))
    return evaluation[np.lexsort((labels, rank))[:count]]


def _features(
    src: Source,
    networks: Sequence[str],
    reference: str,
    epoch: int,
    seed: int,
    align: str,
    shown: np.ndarray,
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """(N, n, q) in the space of `reference`, how each came there, and (N, n) predicted classes."""
    tables, kinds, predicted = [], [], []
    own = _table(src.view(reference, epoch, seed), reference, epoch)
    for name in networks:
        view = src.view(name, epoch, seed)
        table = _table(view, name, epoch)
        if name == reference:
            mapped, kind = np.asarray(table, np.float64), "none"
        elif src.teachers:
            mapped, kind = into_teacher_space(align, table, view.projected, own, src.fit, name)
        else:
            way = "procrustes" if align == "joint" else align
            mapped, kind = into_teacher_space(way, table, None, own, src.fit, name)
        tables.append(mapped[shown])
        kinds.append(kind)
        predicted.append(
            np.full(len(shown), -1) if view.logits is None else view.logits[shown].argmax(axis=1)
        )
    return np.stack(tables), kinds, np.stack(predicted)


def _table(view: Any, name: str, epoch: int) -> np.ndarray:
    """The features that are mapped: the embedding, or the last stage."""
    table = view.embedding if view.embedding is not None else list(view.stages.values())[-1]
    if not np.isfinite(table).all():
        raise ConfigError(
            f"The features of {name!r} at epoch {epoch} have NaN or infinite values; leave it out."
        )
    return np.asarray(table)


def _partly(networks: Sequence[str], epochs: Sequence[int], there: Mapping[str, Sequence[int]]) -> str:
    """A sentence on networks that have no snapshot of some epochs."""
    said = []
    for name in networks:
        if not there[name]:
            said.append(f"{name} not at all")
        elif len(there[name]) < len(epochs):
            word = "epoch" if len(there[name]) == 1 else "epochs"
            said.append(f"{name} only at {word} {listed([str(epoch) for epoch in there[name]])}")
    return f" Shown where there are snapshots: {listed(said)}." if said else ""


def _protocol(
    method: str,
    networks: Sequence[str],
    teachers: Sequence[str],
    used: Sequence[str],
    count: int,
    perplexity: float,
) -> str:
    how = (
        f"one joint t-SNE of all networks per epoch (perplexity {perplexity:g})"
        + (", each started from the teacher's own map" if teachers else "")
        + " and rotated onto the epoch before"
        if method == "tsne"
        else "the plane in which the first network's features vary most"
    )
    ways = []
    for kind, text in ALIGNMENTS.items():
        names = [
            name for name, way in zip(networks, used, strict=True) if way == kind and name not in teachers
        ]
        if names:
            ways.append(f"{listed(names)} by {text}" if kind != "none" else f"{listed(names)} {text}")
    space = f"; in the space of {teachers[0]}: {'; '.join(ways)}" if teachers and ways else ""
    return f"{count} test pictures; {how}{space}."

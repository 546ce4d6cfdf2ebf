"""Maps in two dimensions: teacher and students in one space, steady over the epochs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdlab.errors import unknown_name
from kdlab.probes.alignment import ALIGNMENTS, alignment_words
from kdlab.probes.frames import choose, gather, partly
from kdlab.probes.inputs import whole
from kdlab.probes.maps import (
    SteadyMaps,
    discriminant,
    distances,
    judged,
    movement,
    plane,
    steady_tsne,
    trustworthiness,
)
from kdlab.probes.progress import measurement, parts, steps
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.result import Result
from kdlab.probes.sources import Source, as_source
from kdlab.probes.threads import single_thread
from kdlab.probes.tsne import check_perplexity, check_pull
from kdlab.probes.words import absent, at_epoch, listed, percent

if TYPE_CHECKING:
    import pandas as pd

METHODS = {"tsne": "t-SNE", "pca": "PCA", "lda": "LDA"}  # classical MDS of features is PCA


@dataclass(frozen=True)
class Embedding(Result):
    """Coordinates of n pictures as N networks show them at E epochs, in one plane.

    A network that has no snapshot of an epoch (it came later or went earlier than others) has NaN there.

    Attributes:
        method: "tsne", "pca" or "lda". align: as asked. mapping: how each network came into the common space.
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
        divergence: (E,) KL divergence of t-SNE, else NaN.
        k: neighbours counted. perplexity: of t-SNE, else NaN.
        protocol: how it was made, in words.
        pull: to the frame before; 0 is none.
        divergence_free, trustworthiness_free: (E,) and displacement_free: (E, N): the same after the
            pull was let go; equal to the ones with it where there is none.
        rank_correlation: (E, N) Spearman's, between distances in the network's own features (before they
            were brought into the common space) and in the map.
        kept_each: (E, N, n) share of a picture's k nearest in the network's own features that are among
            its k nearest in the map. Chance is `chance_kept`.
        distance: (E, N, n) of each picture to the teacher's, in units of the teacher's spread (the root
            mean square is `residual`); NaN without a teacher.
        nearest: (E, N, n, k) places of the k nearest in the network's own features, nearest first, -1
            where it has no snapshot.
        top, top_share: (E, N, n, 3) the classes of the highest probabilities, and these; -1 and NaN where
            logits are not known.
        coarse: (n,) super-classes or None; coarse_names. factors: name -> (n,) what pictures were made
            of; factor_names: name -> names of its values.

    >>> space = kdlab.probes.embed(study, "pca", epochs="last", n=20)
    >>> (space.residual[0] > 0).tolist()  # how far each network is from the teacher, the first
    [False, True, True]
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
    pull: float = 0.0
    divergence_free: np.ndarray | None = None
    trustworthiness_free: np.ndarray | None = None
    displacement_free: np.ndarray | None = None
    rank_correlation: np.ndarray | None = None
    kept_each: np.ndarray | None = None
    distance: np.ndarray | None = None
    nearest: np.ndarray | None = None
    top: np.ndarray | None = None
    top_share: np.ndarray | None = None
    coarse: np.ndarray | None = None
    coarse_names: tuple[str, ...] = ()
    factors: Mapping[str, np.ndarray] = field(default_factory=dict)
    factor_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def kept(self) -> np.ndarray | None:
        """(E, N) mean of `kept_each`: how many neighbours the map keeps."""
        return None if self.kept_each is None else self.kept_each.mean(axis=2)

    @property
    def chance_kept(self) -> float:
        """Share of neighbours that a map of random places would keep."""
        return self.k / (len(self.labels) - 1)

    @property
    def drift(self) -> np.ndarray:
        """(N,) mean of `displacement` over the epochs; NaN for one epoch."""
        moved = np.isfinite(self.displacement)
        total = np.where(moved, self.displacement, 0.0).sum(axis=0)
        return np.where(moved.any(axis=0), total / np.maximum(moved.sum(axis=0), 1), np.nan)

    def to_frame(self) -> pd.DataFrame:
        """One row for each epoch, network and picture."""
        import pandas as pd

        e, m, n = self.predicted.shape
        epoch, network, sample = (a.ravel() for a in np.meshgrid(range(e), range(m), range(n), indexing="ij"))
        table = pd.DataFrame(
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
        if self.kept_each is not None and self.distance is not None:
            table["neighbours_kept"] = self.kept_each.ravel()
            table["distance_to_teacher"] = self.distance.ravel()
        return table

    @property
    def summary(self) -> str:
        """One sentence: how far the classes lie apart in the features, and how near the map is to that."""
        pairs = list(zip(self.networks, self.purity[-1], strict=True))
        said = [f"{name} {value:.2f}" for name, value in pairs if np.isfinite(value)]
        missing = absent([name for name, value in pairs if not np.isfinite(value)])
        gap = float(np.nanmean(self.purity[-1] - self.purity_map[-1]))
        when = "" if self.epochs[-1] == AS_GIVEN else f" after epoch {self.epochs[-1]}"
        side = "lower" if gap > 0 else "higher"
        other = f"in the map it is {abs(gap):.2f} {side} on average"
        picture = "the map shows the same" if abs(gap) < 0.005 else other
        return (
            f"{METHODS[self.method]} of {len(self.labels)} test pictures{when}: of a picture's {self.k} "
            f"nearest in the features, the share of its own class is {listed(said)}; {picture}.{missing}"
            + self._kept_in_words()
        )

    def _kept_in_words(self) -> str:
        if self.kept is None or not np.isfinite(self.kept[-1]).any():
            return ""
        kept, chance = percent(float(np.nanmean(self.kept[-1])), 0), percent(self.chance_kept, 0)
        return f" The map keeps {kept} of these neighbours (chance {chance})."


@measurement
def embed(
    source: Any,
    method: str = "tsne",
    *,
    align: str = "joint",
    target: Any = None,
    fit: Any = None,
    images: Any = None,
    data: Any = None,
    teacher: str | None = None,
    epochs: str | int | Iterable[int] = "all",
    students: str | Iterable[str] | None = None,
    seed: int | None = None,
    n: int | None = None,
    perplexity: float = 30.0,
    backend: str = "auto",
    pull: float = 1.0,
    k: int = 10,
) -> Embedding:
    """Map teacher and students into one plane, at every epoch.

    Students are brought into the teacher's space first. t-SNE is then fitted once per epoch on the
    points of all networks together, starting from one map of the teacher, and each frame is rotated
    onto the one before by the teacher's points, which stand for the same features at every epoch. PCA
    uses the plane in which the teacher's features vary most (without a teacher, those of the last
    epoch), so that its frames are comparable as they are. LDA uses the plane in which its classes lie
    farthest apart, fitted with the labels of the fitting part. (Classical MDS would give PCA again.)

    Args:
        source: a study; or name -> array (n, p), snapshot or module (with `target`, and `images` for
            modules; or with `data`: a data set or its name).
        method: "tsne", "pca" or "lda".
        align: "joint" (a student's own projector where its method trains one, else orthogonal
            Procrustes), "projector", "procrustes", "ridge" or "none". Maps are fitted on the fitting
            part alone; the result says what was done.
        epochs: "all", "last", an epoch (negative counts from the last) or several.
        students: which; None means all.
        seed: of the run; None is the first that has a snapshot.
        n: evaluation pictures, the same share of each class; None takes so many that all networks
            together have about 1000 points, at most 300 pictures.
        perplexity, backend: of t-SNE, see `kdlab.probes.tsne.tsne`.
        pull: of t-SNE: how strongly points are drawn to their place in the frame before (a teacher's 8
            times as strongly); 0 is not at all. At 1 points moved a quarter to a third less, and the KL
            divergence rose by 0 to 10 %; 10 hides real change. The result tells both with and
            without it. Backend "torch" alone; others go without where it is not asked for.
        k: neighbours for purity and trustworthiness.

    Raises:
        ConfigError: unknown names, features of different widths that cannot be aligned, too few points.
        StudyError: the study has no snapshot yet.

    >>> space = kdlab.probes.embed(study, "pca", n=20)
    >>> space.networks, space.coordinates.shape  # 4 epochs, 3 networks, 20 pictures, 2 dimensions
    (('resnet8', 'alone', 'KD'), (4, 3, 20, 2))
    """
    if method not in METHODS:
        raise unknown_name("map", method, METHODS)
    if align not in ("joint", *ALIGNMENTS):
        raise unknown_name("alignment", align, ("joint", *ALIGNMENTS))
    whole(k, "k", 1)
    check_perplexity(perplexity)
    src = as_source(source, target=target, fit=fit, images=images, data=data, teacher=teacher)
    networks = src.choose_networks(students)
    own_seed = src.choose_seed(seed, networks)
    epoch_list = src.choose_epochs(epochs, [own_seed], networks)
    shown = choose(src, len(networks), n)
    strength = float(pull) if check_pull(pull) and method == "tsne" and backend in ("auto", "torch") else 0.0
    with single_thread():
        ask = _Asked(method, align, perplexity, backend, strength, min(k, len(shown) - 1))
        return _embed(src, ask, networks, epoch_list, own_seed, shown)


@dataclass(frozen=True)
class _Asked:
    method: str
    align: str
    perplexity: float
    backend: str
    pull: float
    k: int


def _embed(
    src: Source,
    ask: _Asked,
    networks: tuple[str, ...],
    epoch_list: tuple[int, ...],
    own_seed: int,
    shown: np.ndarray,
) -> Embedding:
    there = src.presence(networks, epoch_list, own_seed)
    present = [[n for n, name in enumerate(networks) if epoch in there[name]] for epoch in epoch_list]
    first = next((n for n in range(len(networks)) if all(n in own for own in present)), None)
    frames = []
    now = parts({"aligning": 1, METHODS[ask.method]: 8 if ask.method == "tsne" else 1, "judging the map": 2})
    with now("aligning"):
        for epoch, own in steps(list(zip(epoch_list, present, strict=True)), lambda at: at_epoch(at[0])):
            reference = networks[own[0] if first is None else first]  # the same in all frames if one can be
            names = [networks[n] for n in own]
            frames.append(gather(src, names, reference, epoch, own_seed, ask.align, shown, ask.k))
    features = [frame.features for frame in frames]  # each (N, n, q), of those who are there
    with now(METHODS[ask.method]):
        maps = _maps(src, ask, features, frames[-1].known, present, own_seed, epoch_list)
    labels, k = src.target[shown], ask.k
    free = maps.free is not maps.frames and ask.pull > 0
    trusted_free, judgements = [], []
    with now("judging the map"):
        for e, frame in steps(list(enumerate(frames)), lambda at: at_epoch(epoch_list[at[0]])):
            judgements.append(judged(frame.features, frame.own, frame.nearest, maps.frames[e], labels))
            if free:
                x, flat = (np.concatenate(table) for table in (frame.features, maps.free[e]))
                trusted_free.append(trustworthiness(x, flat, k))

    def spread(values: Sequence[Any], shape: tuple[int, ...] = (), empty: Any = np.nan) -> np.ndarray:
        """(E, N, ...) of values per epoch of those who are there."""
        full = np.full((len(epoch_list), len(networks), *shape), empty)
        for e, own in enumerate(present):
            full[e, own] = np.asarray(values[e])
        return full

    coordinates = spread(maps.frames, (len(shown), 2))
    moved = movement(coordinates, maps.frames)
    trusted = np.array([found["trustworthiness"] for found in judgements])
    distance = np.full(coordinates.shape[:3], np.nan)
    if src.teachers:
        distance = spread([distances(frame) for frame in features], (len(shown),))
    kinds = {
        networks[n]: kind
        for own, frame in zip(present, frames, strict=True)
        for n, kind in zip(own, frame.kinds)
    }
    used = tuple(kinds.get(name, "none") for name in networks)
    protocol = _protocol(ask, networks, src.teachers, used, len(shown))
    if free:
        protocol += (
            f" Points are pulled to their places in the frame before (strength {ask.pull:g}): mean KL "
            f"{maps.divergence.mean():.3f}, {maps.free_divergence.mean():.3f} when the pull is let go; "
            f"trustworthiness {trusted.mean():.4f} and {np.mean(trusted_free):.4f}."
        )
    return Embedding(
        method=ask.method,
        align=ask.align,
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
        predicted=spread([frame.top[:, :, 0] for frame in frames], (len(shown),), -1),
        displacement=moved,
        residual=np.sqrt(np.square(distance).mean(axis=2)),
        purity=spread([found["purity"] for found in judgements]),
        purity_map=spread([found["purity_map"] for found in judgements]),
        trustworthiness=trusted,
        divergence=maps.divergence,
        k=k,
        perplexity=float(ask.perplexity) if ask.method == "tsne" else float("nan"),
        protocol=protocol + partly(networks, epoch_list, there),
        pull=ask.pull,
        divergence_free=maps.free_divergence,
        trustworthiness_free=np.array(trusted_free) if free else trusted,
        displacement_free=movement(spread(maps.free, (len(shown), 2)), maps.free) if free else moved,
        rank_correlation=spread([found["rank_correlation"] for found in judgements]),
        kept_each=spread([found["kept"] for found in judgements], (len(shown),)).astype(np.float32),
        distance=distance.astype(np.float32),
        nearest=spread([frame.nearest for frame in frames], (len(shown), k), -1).astype(np.int32),
        top=spread([frame.top for frame in frames], (len(shown), 3), -1).astype(np.int32),
        top_share=spread([frame.share for frame in frames], (len(shown), 3)).astype(np.float32),
        coarse=None if src.coarse is None else src.coarse[shown],
        coarse_names=src.coarse_names,
        factors={name: np.asarray(values)[shown] for name, values in src.factors.items()},
        factor_names={name: tuple(names) for name, names in src.factor_names.items()},
    )


def _maps(
    src: Source,
    ask: _Asked,
    features: list[np.ndarray],
    known: np.ndarray,
    present: list[list[int]],
    seed: int,
    epochs: Sequence[int],
) -> SteadyMaps:
    """The map of every epoch by the method asked for."""
    if ask.method == "tsne":
        how = (ask.perplexity, ask.backend, seed, ask.pull, epochs)
        return steady_tsne(features, present, bool(src.teachers), *how)
    if ask.method == "pca":
        flat = plane(features, bool(src.teachers))
    else:
        used = known[:1] if src.teachers else known  # (N, m, q) of the last epoch
        flat = discriminant(features, np.concatenate(used), np.tile(src.target[src.fit], len(used)))
    unknown = np.full(len(features), np.nan)
    return SteadyMaps(flat, unknown, flat, unknown)


def _protocol(
    ask: _Asked, networks: Sequence[str], teachers: Sequence[str], used: Sequence[str], count: int
) -> str:
    whose = "the teacher's" if teachers else "the last epoch's"
    how = {
        "tsne": f"one joint t-SNE of all networks per epoch (perplexity {ask.perplexity:g})"
        + (", each started from the teacher's own map" if teachers else "")
        + " and rotated onto the epoch before",
        "pca": f"the plane in which {whose} features vary most",
        "lda": f"the plane in which {whose} classes lie farthest apart (LDA with shrinkage, fitted with the "
        "labels of the validation pictures)",
    }[ask.method]
    return f"{count} test pictures; {how}{alignment_words(networks, used, teachers)}."

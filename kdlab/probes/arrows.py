"""Pulls as arrows in a plane: exact where the plane is a linear view of the features, else interpolated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.probes.embedding import METHODS, Embedding
from kdlab.probes.pull import Pull
from kdlab.probes.result import Result
from kdlab.probes.threads import svd
from kdlab.probes.words import listed, percent

if TYPE_CHECKING:
    import pandas as pd

TOTAL = "all together"
_LINEAR = 1e-6  # of the places' variance may be missed by a linear view; they are kept as float32
_STEP = 0.25  # mean length of the whole pull, in radii of the cloud of features


@dataclass(frozen=True)
class PullArrows(Result):
    """Where each term would move n pictures in a plane, one small step along its negative gradient.

    All terms of a student take the same step size, so that lengths can be compared.

    Attributes:
        student, epoch: whose. terms: those that are on; the last is "all together".
        base: (n, 2) where the pictures are. arrows: term -> (n, 2) how far they would move.
        exact: True where gradients are projected: in the plane of largest variance, and in a map (PCA, LDA)
            that is a linear view of the student's features; False where the move is interpolated between
            the places of the nearest pictures.
        visible: term -> share of the squared length of the gradients that lies in the plane; NaN where
            interpolated.
        variance: share of the features' variance that the plane shows; NaN where interpolated.
        labels, index: (n,). class_names: one a class. plane: what the plane is, in words.

    >>> arrows = kdlab.probes.pull_arrows(kdlab.probes.pull(study, n=20), "KD")
    >>> one_by_one = arrows.arrows["ce"] + arrows.arrows["kd"]
    >>> np.allclose(one_by_one, arrows.arrows["all together"], atol=1e-5)
    True
    """

    figure: ClassVar[str] = "pull_arrows"

    student: str
    epoch: int
    terms: tuple[str, ...]
    base: np.ndarray
    arrows: Mapping[str, np.ndarray]
    exact: bool
    visible: Mapping[str, float]
    variance: float
    labels: np.ndarray
    index: np.ndarray
    class_names: tuple[str, ...]
    plane: str

    def by_class(self) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Of the classes present: their numbers, mean places (K, 2), and term -> mean arrows (K, 2)."""
        present, place = np.unique(self.labels, return_inverse=True)
        count = np.bincount(place)[:, None]

        def mean(table: np.ndarray) -> np.ndarray:
            out = np.zeros((len(present), 2))
            np.add.at(out, place, table)
            return np.asarray(out / count)

        return present, mean(self.base), {term: mean(moved) for term, moved in self.arrows.items()}

    def to_frame(self) -> pd.DataFrame:
        """One row for each term and picture."""
        import pandas as pd

        parts = [
            pd.DataFrame(
                {
                    "term": term,
                    "index": self.index,
                    "label": self.labels,
                    "x": self.base[:, 0],
                    "y": self.base[:, 1],
                    "dx": moved[:, 0],
                    "dy": moved[:, 1],
                }
            )
            for term, moved in self.arrows.items()
        ]
        return pd.concat(parts, ignore_index=True)

    @property
    def summary(self) -> str:
        """Whether the terms agree in this plane, and how much of the pull it shows."""
        terms = [term for term in self.terms if term != TOTAL]
        said = []
        for i, one in enumerate(terms):
            for other in terms[:i]:
                a, b = self.arrows[other].ravel(), self.arrows[one].ravel()
                length = float(np.linalg.norm(a) * np.linalg.norm(b))
                if length > 0:
                    said.append(f"{other} and {one} {float(a @ b) / length:+.2f}")
        agree = f" Cosines of the arrows: {listed(said)}." if said else ""
        seen = (
            f" The plane shows {percent(self.variance, 0)} of the features' variance and "
            f"{percent(self.visible[TOTAL], 0)} of the whole pull."
            if self.exact
            else " Arrows are interpolated between neighbouring pictures: directions are rough."
        )
        return (
            f"Where each loss of {self.student} would move {len(self.labels)} pictures after epoch "
            f"{self.epoch}, in {self.plane}.{seen}{agree}"
        )


def pull_arrows(
    result: Pull,
    student: str | None = None,
    *,
    epoch: int | None = None,
    terms: str | Iterable[str] | None = None,
    onto: Embedding | None = None,
    k: int = 15,
) -> PullArrows:
    """Arrows of a student's terms at its embedding.

    Args:
        result: from `pull`.
        student: which; the first if not given.
        epoch: one of the result; the last of this student if not given.
        terms: which; all that are on if not given. The sum of all is always there too.
        onto: a map from `embed` that shows the same pictures at this epoch; the student's own plane of
            largest variance if not given. In a PCA or LDA map arrows are exact if it shows at least
            twice as many pictures as the student has features, so that its axes can be told from them.
        k: neighbours between which places in a map are interpolated.

    Raises:
        ConfigError: unknown names, an epoch that was not measured, nothing that pulls, or a map of
            other pictures.

    >>> arrows = kdlab.probes.pull_arrows(kdlab.probes.pull(study, n=20), "KD")
    >>> arrows.terms, arrows.base.shape
    (('ce', 'kd', 'all together'), (20, 2))
    """
    if not isinstance(result, Pull):
        raise ConfigError("Arrows are drawn of what pull(study) gives; give that result.")
    name = result.students[0] if student is None else student
    if name not in result.students:
        raise unknown_name("student", name, result.students)
    when = result.last(name) if epoch is None else epoch
    if (name, when) not in result.features:
        known = sorted(e for n, e in result.features if n == name)
        raise ConfigError(
            f"The pull on {name!r} was not measured at epoch {when}, only at {listed(list(map(str, known)))}."
        )
    on = [term for term in result.terms[name] if result.factor[name, when, term] != 0]
    wanted = on if terms is None else [terms] if isinstance(terms, str) else list(terms)
    for term in wanted:
        if term not in result.terms[name]:
            raise unknown_name(f"term of {name}", term, result.terms[name])
    moves = {term: result.direction[name, when, term].astype(np.float64) for term in wanted}
    moves[TOTAL] = np.sum([result.direction[name, when, term] for term in on], axis=0, dtype=np.float64)
    features = result.features[name, when].astype(np.float64)
    radius = float(np.sqrt(np.square(features - features.mean(axis=0)).sum(axis=1).mean()))
    length = float(np.linalg.norm(moves[TOTAL], axis=1).mean())
    if not on or length == 0 or radius == 0:
        raise ConfigError(f"No term of {name!r} pulls at the embedding at epoch {when}; switch one on.")
    step = _STEP * radius / length
    moves = {term: move * step for term, move in moves.items()}
    if onto is None:
        axes = _main_axes(features)
        base = (features - features.mean(axis=0)) @ axes
        arrows, visible, variance = _projected(features, moves, axes)
        keep, exact = np.arange(len(features)), True
        plane = "its own plane of largest variance"
    else:
        keep, base = _places(result, onto, name, when)
        moves = {term: move[keep] for term, move in moves.items()}
        linear = None if onto.method == "tsne" else _axes_of(features[keep], base)
        exact = linear is not None
        if linear is not None:
            arrows, visible, variance = _projected(features[keep], moves, linear)
        else:
            arrows = _interpolated(features[keep], base, moves, k)
            visible, variance = dict.fromkeys(moves, float("nan")), float("nan")
        plane = f"the {METHODS[onto.method]} map of {len(onto.networks)} network(s)"
    return PullArrows(
        student=name,
        epoch=when,
        terms=tuple(moves),
        base=base,
        arrows=arrows,
        exact=exact,
        visible=visible,
        variance=variance,
        labels=result.labels[keep],
        index=result.index[keep],
        class_names=result.class_names,
        plane=plane,
    )


def _main_axes(features: np.ndarray) -> np.ndarray:
    """(d, 2), orthonormal: the plane of largest variance."""
    _, _, vh = svd(features - features.mean(axis=0))
    axes = vh[:2]
    axes = axes * np.where(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)] < 0, -1.0, 1.0)[:, None]
    if len(axes) < 2:
        axes = np.pad(axes, ((0, 2 - len(axes)), (0, 0)))
    return np.asarray(axes.T)


def _axes_of(features: np.ndarray, base: np.ndarray) -> np.ndarray | None:
    """(d, 2) axes of a map, where it is a linear view of (n, d) `features` and n is large enough to tell."""
    n, width = features.shape
    if n < 2 * width:
        return None
    centred, places = features - features.mean(axis=0), base - base.mean(axis=0)
    axes = np.linalg.lstsq(centred, places, rcond=1e-6)[0]
    missed = np.square(places - centred @ axes).sum()
    return np.asarray(axes) if missed <= _LINEAR * np.square(places).sum() else None


def _projected(
    features: np.ndarray, moves: Mapping[str, np.ndarray], axes: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, float], float]:
    """Arrows, the share of each move that lies in the plane of `axes`, and that of the features' variance."""
    flat, _ = np.linalg.qr(axes)

    def share(table: np.ndarray) -> float:
        return float(np.square(table @ flat).sum() / max(np.square(table).sum(), 1e-300))

    arrows = {term: move @ axes for term, move in moves.items()}
    visible = {term: share(move) for term, move in moves.items()}
    return arrows, visible, share(features - features.mean(axis=0))


def _places(result: Pull, onto: Embedding, name: str, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions within the result of the pictures that the map shows, and their places there."""
    if name not in onto.networks:
        raise unknown_name("network of the map", name, onto.networks)
    if epoch not in onto.epochs:
        raise ConfigError(
            f"The map does not show epoch {epoch}; it shows {listed(list(map(str, onto.epochs)))}."
        )
    if onto.seed != result.seed:
        raise ConfigError(
            f"The map is of seed {onto.seed} and the pull of seed {result.seed}; take one seed."
        )
    known = {int(index): place for place, index in enumerate(onto.index)}
    keep = np.array([i for i, index in enumerate(result.index) if int(index) in known], dtype=np.int64)
    if result.pictures != "test" or len(keep) < 4:
        raise ConfigError("The map shows other pictures than the pull; take pull(..., pictures='test').")
    at = onto.coordinates[onto.epochs.index(epoch), onto.networks.index(name)]
    base = at[[known[int(index)] for index in result.index[keep]]].astype(np.float64)
    if not np.isfinite(base).all():
        raise ConfigError(f"The map does not show {name!r} at epoch {epoch}.")
    return keep, base


def _interpolated(
    features: np.ndarray, base: np.ndarray, moves: Mapping[str, np.ndarray], k: int
) -> dict[str, np.ndarray]:
    """Moves in a map: its value at a point is the mean of the pictures' places, weighted by nearness."""
    square = np.square(features).sum(axis=1)

    def weights(points: np.ndarray, width: np.ndarray) -> np.ndarray:
        distance = np.maximum(np.square(points).sum(axis=1)[:, None] + square - 2 * points @ features.T, 0)
        distance -= distance.min(axis=1, keepdims=True)
        near = np.exp(-distance / (2 * width[:, None]))
        return np.asarray(near / near.sum(axis=1, keepdims=True))

    pairs = np.maximum(square[:, None] + square - 2 * features @ features.T, 0)
    width = np.sort(pairs, axis=1)[:, min(k, len(features) - 1)] / 4  # the k-th weighs exp(-2)
    width = np.maximum(width, 1e-12 * max(float(pairs.max()), 1e-300))
    here = weights(features, width) @ base
    return {term: weights(features + move, width) @ base - here for term, move in moves.items()}

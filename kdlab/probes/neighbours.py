"""The nearest pictures of one picture, in each network's own features."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from kdlab.errors import ConfigError
from kdlab.probes.embedding import Embedding
from kdlab.probes.frames import table_of
from kdlab.probes.inputs import whole
from kdlab.probes.progress import measurement
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.result import Result
from kdlab.probes.sources import as_source
from kdlab.probes.words import listed

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Neighbours(Result):
    """The k nearest of one picture among n pictures, as N networks see it; nearest first.

    Attributes:
        networks: teachers first; teachers, students: which is which. epoch; seed.
        place: of the picture among the n. index, label: of it. image: (C, H, W) uint8, or None.
        places, indices, labels: (N, k) of the neighbours. images: (N, k, C, H, W) uint8, or None.
        distance: (N, k) Euclidean, in units of the network's mean distance between two pictures; NaN where
            only a map was given.
        class_names: one a class. n: pictures that could be neighbours.

    >>> points, labels = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]]), [0, 0, 1, 1, 0, 1]
    >>> found = kdlab.probes.neighbours({"net": points}, 0, k=2, target=labels, fit=np.zeros(6, bool))
    >>> found.places, found.purity
    (array([[1, 2]]), array([0.5]))
    """

    figure: ClassVar[str] = "neighbours"

    networks: tuple[str, ...]
    teachers: tuple[str, ...]
    students: tuple[str, ...]
    epoch: int
    seed: int
    place: int
    index: int
    label: int
    image: np.ndarray | None
    places: np.ndarray
    indices: np.ndarray
    labels: np.ndarray
    images: np.ndarray | None
    distance: np.ndarray
    class_names: tuple[str, ...]
    n: int

    @property
    def shared(self) -> np.ndarray:
        """(N,) share of a network's neighbours that are the first network's as well."""
        return (self.places[:, :, None] == self.places[0][None, None]).any(axis=2).mean(axis=1)

    @property
    def purity(self) -> np.ndarray:
        """(N,) share of the neighbours that have the picture's class."""
        return (self.labels == self.label).mean(axis=1)

    def to_frame(self) -> pd.DataFrame:
        """One row for each network and neighbour."""
        import pandas as pd

        count, k = self.places.shape
        return pd.DataFrame(
            {
                "network": np.repeat(np.asarray(self.networks, dtype=object), k),
                "rank": np.tile(np.arange(1, k + 1), count),
                "index": self.indices.ravel(),
                "label": self.labels.ravel(),
                "distance": self.distance.ravel(),
            }
        )

    @property
    def summary(self) -> str:
        """How many neighbours are of the picture's class, and how many the first network shares."""
        k = self.places.shape[1]
        own = [f"{name} {round(share * k)}" for name, share in zip(self.networks, self.purity, strict=True)]
        text = (
            f"Of the {k} nearest pictures of picture {self.index} ({self.class_names[self.label]}), so many "
            f"are of its class: {listed(own)}."
        )
        if len(self.networks) > 1:
            rest = zip(self.networks[1:], self.shared[1:], strict=True)
            alike = [f"{name} {round(share * k)}" for name, share in rest]
            text += f" Shared with {self.networks[0]}: {listed(alike)} (chance {k * k / (self.n - 1):.1f})."
        return text


@measurement
def neighbours(
    source: Any,
    place: int,
    k: int = 8,
    *,
    target: Any = None,
    fit: Any = None,
    images: Any = None,
    data: Any = None,
    teacher: str | None = None,
    students: str | Iterable[str] | None = None,
    epoch: int = -1,
    seed: int | None = None,
) -> Neighbours:
    """Find the k nearest pictures of one picture in each network's own features.

    Features are the classifier's input (else the last stage), as they are: nothing is aligned or mapped.

    Args:
        source: an `Embedding`, whose own pictures are looked at; or what `kdlab.probes.as_source` takes,
            whose evaluation pictures are.
        place: of the picture, counted from 0 among these.
        k: neighbours; of an `Embedding` at most those it counted.
        target, fit, images, data, teacher: see `kdlab.probes.as_source`.
        students: which; None means all that have a snapshot of that epoch.
        epoch: negative counts from the last. seed: None is the first that has a snapshot.

    Raises:
        ConfigError: no such place, or k out of range.

    >>> found = kdlab.probes.neighbours(study, place=0, k=5)
    >>> found.networks, found.labels.shape
    (('resnet8', 'alone', 'KD'), (3, 5))
    >>> found.shared[0]  # the teacher with itself
    np.float64(1.0)
    """
    if isinstance(source, Embedding):
        return _of_map(source, place, k, epoch, students)
    src = as_source(source, target=target, fit=fit, images=images, data=data, teacher=teacher)
    names, _, own_epoch, own_seed = src.choose_moment(students, epoch, seed)
    shown = np.flatnonzero(~src.fit)
    _check(place, k, len(shown), len(shown) - 1)
    places, gaps = [], []
    for name in names:
        table = torch.from_numpy(
            np.asarray(table_of(src.view(name, own_epoch, own_seed), name, own_epoch)[shown], np.float64)
        )
        away = torch.linalg.norm(table - table[place], dim=1)
        order = away.clone()
        order[place] = torch.inf
        near = order.argsort(stable=True)[:k]
        sample = table[torch.linspace(0, len(table) - 1, min(len(table), 500)).long()]
        size = float(torch.pdist(sample).mean())
        places.append(near.numpy())
        gaps.append((away[near] / size if size > 0 else torch.full((k,), torch.nan)).numpy())
    where = np.stack(places)
    return Neighbours(
        networks=names,
        teachers=src.teachers,
        students=src.students,
        epoch=own_epoch,
        seed=own_seed,
        place=place,
        index=int(src.index[shown][place]),
        label=int(src.target[shown][place]),
        image=None if src.images is None else src.images[shown[place]],
        places=where,
        indices=src.index[shown][where],
        labels=src.target[shown][where],
        images=None if src.images is None else src.images[shown[where]],
        distance=np.stack(gaps),
        class_names=src.class_names,
        n=len(shown),
    )


def _of_map(
    result: Embedding, place: int, k: int, epoch: int, students: str | Iterable[str] | None
) -> Neighbours:
    if result.nearest is None:
        raise ConfigError("This map does not know the neighbours in the features; make it anew with embed().")
    if epoch not in result.epochs and not -len(result.epochs) <= epoch < 0:
        raise ConfigError(f"The map has no epoch {epoch}; it has {', '.join(map(str, result.epochs))}.")
    e = result.epochs.index(epoch) if epoch in result.epochs and epoch != AS_GIVEN else epoch
    _check(place, k, len(result.labels), result.nearest.shape[3])
    wanted = None if students is None else {students} if isinstance(students, str) else set(students)
    own = [
        n
        for n, name in enumerate(result.networks)
        if result.nearest[e, n, place, 0] >= 0 and (wanted is None or name in {*result.teachers, *wanted})
    ]
    where = result.nearest[e][own, place, :k].astype(np.int64)
    return Neighbours(
        networks=tuple(result.networks[n] for n in own),
        teachers=result.teachers,
        students=result.students,
        epoch=result.epochs[e],
        seed=result.seed,
        place=place,
        index=int(result.index[place]),
        label=int(result.labels[place]),
        image=None if result.images is None else result.images[place],
        places=where,
        indices=result.index[where],
        labels=result.labels[where],
        images=None if result.images is None else result.images[where],
        distance=np.full(where.shape, np.nan),
        class_names=result.class_names,
        n=len(result.labels),
    )


def _check(place: int, k: int, count: int, most: int) -> None:
    whole(place, "place")
    whole(k, "k")
    if not 0 <= place < count:
        raise ConfigError(f"There are {count} pictures; place must lie in 0 .. {count - 1}, not {place!r}.")
    if not 1 <= k <= most:
        raise ConfigError(f"k must lie in 1 .. {most}, not {k!r}.")

"""How each network relates the pictures of a batch to each other: the tables that relation losses compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kdlab import losses
from kdlab.errors import ConfigError, unknown_name
from kdlab.losses.relations import neighbour_probabilities, relative_distances, similarities_within
from kdlab.probes.agreement import compare_maps
from kdlab.probes.inputs import whole
from kdlab.probes.progress import measurement, steps
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.result import Result
from kdlab.probes.sources import as_source
from kdlab.probes.words import absent, listed, number, plural

if TYPE_CHECKING:
    import pandas as pd

Loss = Callable[[Tensor, Tensor], Tensor]

KINDS: Mapping[str, str] = {
    "similarity": "similarity (rows of norm 1)",
    "distance": "distance / mean distance",
    "probability": "probability as neighbour",
}
"""Kind of relation -> what a number of its table is: those of SP, RKD (distances) and PKT."""


@dataclass(frozen=True)
class Relations(Result):
    """Tables of n x n relations among the same n pictures, one for each network, and how alike they are.

    Attributes:
        kind: a key of `KINDS`.
        networks: teachers first; teachers, students: which is which (`students` is the whole study's
            order, from which figures take their colours).
        layer: whose features are related: "embedding", or a stage, averaged over its pixels.
        epoch: -1 for networks given without a training. seed: of the run.
        tables: network -> (n, n); pictures are in order of their classes.
        loss: student -> the loss of this kind (SP, RKD's distances, PKT) on these n pictures as one batch,
            before weighting; nothing where there is no teacher.
        correlation: student -> Spearman correlation of its table with the teacher's over all pairs of
            different pictures: one scale for all kinds (1: the same order).
        labels, index: (n,). class_names: one a class.
        missing: students without a snapshot of this epoch.

    >>> found = kdlab.probes.relations(study, "distance", n=20)
    >>> found.tables["KD"].shape, len(found.pairs("KD"))
    ((20, 20), 380)
    >>> list(found.to_frame().columns)
    ['network', 'same_class', 'other_class', 'loss', 'correlation']
    """

    figure: ClassVar[str] = "relations"

    kind: str
    networks: tuple[str, ...]
    teachers: tuple[str, ...]
    students: tuple[str, ...]
    layer: str
    epoch: int
    seed: int
    tables: Mapping[str, np.ndarray]
    loss: Mapping[str, float]
    correlation: Mapping[str, float]
    labels: np.ndarray
    index: np.ndarray
    class_names: tuple[str, ...]
    missing: tuple[str, ...] = ()

    def pairs(self, network: str) -> np.ndarray:
        """(n (n-1),) the entries of a table without its diagonal."""
        if network not in self.tables:
            raise unknown_name("network", network, self.tables)
        return self.tables[network][~np.eye(len(self.labels), dtype=bool)]

    @property
    def same_class(self) -> np.ndarray:
        """(n (n-1),) bool: whether both pictures are of one class, in the order of `pairs`."""
        alike = self.labels[:, None] == self.labels[None, :]
        return alike[~np.eye(len(self.labels), dtype=bool)]

    def to_frame(self) -> pd.DataFrame:
        """One row for each network: contrast of classes, and for students loss and correlation."""
        import pandas as pd

        rows = []
        for name in self.networks:
            own, alike = self.pairs(name), self.same_class
            rows.append(
                {
                    "network": name,
                    "same_class": float(own[alike].mean()) if alike.any() else np.nan,
                    "other_class": float(own[~alike].mean()) if (~alike).any() else np.nan,
                    "loss": self.loss.get(name, np.nan),
                    "correlation": self.correlation.get(name, np.nan),
                }
            )
        return pd.DataFrame(rows)

    @property
    def summary(self) -> str:
        """How alike the students' tables are to the teacher's."""
        when = "" if self.epoch == AS_GIVEN else f" after epoch {self.epoch}"
        pictures = plural(len(self.labels), "test picture")
        missing = absent(self.missing)
        if not self.correlation:
            return f"Relations ({KINDS[self.kind]}) among {pictures}{when} in {self.layer}.{missing}"
        said = [f"{name} {number(value)}" for name, value in self.correlation.items()]
        return (
            f"Rank correlation of the relations ({KINDS[self.kind]}) among {pictures}{when} with those of "
            f"{self.teachers[0]}, in {self.layer} (1 is the same order): {listed(said)}.{missing}"
        )


@measurement
def relations(
    source: Any,
    kind: str = "similarity",
    *,
    layer: str = "embedding",
    n: int = 60,
    target: Any = None,
    images: Any = None,
    data: Any = None,
    teacher: str | None = None,
    students: str | Iterable[str] | None = None,
    epoch: int | str = "last",
    seed: int | None = None,
) -> Relations:
    """Relate n test pictures to each other in every network, as relation losses do within a batch.

    Args:
        source: a study; or name -> array (n, d), snapshot or module (see `kdlab.probes.as_source`).
        kind: "similarity" (SP: X X' with rows of norm 1), "distance" (RKD: Euclidean distances divided by
            their mean) or "probability" (PKT: cosines made into probabilities). SP itself looks at maps
            that are not averaged.
        layer: "embedding", or the name of a stage, averaged over its pixels.
        n: pictures, classes in turn, as many as there are at most.
        target, images, data, teacher: for everything but a study, see `kdlab.probes.as_source`.
        students: which; None means all that have a snapshot of that epoch.
        epoch: negative counts from the last. seed: None is the first that has a snapshot.

    Raises:
        ConfigError: unknown names, fewer than three pictures, or features that are not finite.
        StudyError: the study has no snapshot of that epoch.

    >>> points = np.random.default_rng(0).normal(size=(40, 5))
    >>> turned = 3 * points[:, ::-1] + 1  # another space, the same arrangement
    >>> target = np.arange(40) % 4
    >>> found = kdlab.probes.relations({"t": points, "s": turned}, "distance", target=target, teacher="t")
    >>> round(found.correlation["s"], 3)
    1.0
    """
    if kind not in KINDS:
        raise unknown_name("kind of relation", kind, KINDS)
    src = as_source(source, target=target, images=images, data=data, teacher=teacher)
    names, missing, own_epoch, own_seed = src.choose_moment(students, epoch, seed)
    shown = np.flatnonzero(~src.fit)[: whole(n, "n, the number of pictures,", 3)]
    if len(shown) < 3:
        raise ConfigError(f"Relations need at least three pictures; there are {len(shown)}.")
    shown = shown[np.argsort(src.target[shown], kind="stable")]
    vectors = {
        name: _vectors(src.view(name, own_epoch, own_seed), name, layer, shown) for name in steps(names, "{}")
    }
    table, loss = _FORMULAS[kind]
    tables = {name: table(own).numpy() for name, own in vectors.items()}
    pupils = [name for name in names if name not in src.teachers] if src.teachers else []
    first = src.teachers[0] if src.teachers else ""
    different = ~np.eye(len(shown), dtype=bool)

    def order(name: str) -> float:
        own, other = (tables[each][different][None, None] for each in (name, first))
        return float(compare_maps(own, other)["spearman"][0])

    return Relations(
        kind=kind,
        networks=names,
        teachers=src.teachers,
        students=src.students,
        layer=layer,
        epoch=own_epoch,
        seed=own_seed,
        tables=tables,
        loss={name: float(loss(vectors[name], vectors[first])) for name in pupils},
        correlation={name: order(name) for name in pupils},
        labels=src.target[shown],
        index=src.index[shown],
        class_names=src.class_names,
        missing=missing,
    )


def _vectors(view: Any, name: str, layer: str, shown: np.ndarray) -> Tensor:
    known = dict(view.stages)
    if view.embedding is not None:
        known["embedding"] = view.embedding
    if layer not in known:
        raise unknown_name(f"layer of {name}", layer, known)
    found = torch.from_numpy(np.asarray(known[layer][shown], dtype=np.float64))
    if not found.isfinite().all():
        raise ConfigError(f"The features of {name} are NaN or infinite; leave it out.")
    return found


_FORMULAS: Mapping[str, tuple[Callable[[Tensor], Tensor], Loss]] = {
    "similarity": (similarities_within, losses.similarity_preserving),
    "distance": (relative_distances, losses.rkd_distance),
    "probability": (neighbour_probabilities, losses.pkt),
}

"""How alike the layers of two networks are: all layer pairs, over epochs and seeds, beside their controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from kdlab.errors import ConfigError, KDLabError, unknown_name
from kdlab.probes.inputs import whole
from kdlab.probes.layer_pairs import Compared, Pair, mean_known
from kdlab.probes.metrics.pairs import DISTANCES, METRICS
from kdlab.probes.progress import Cancelled, measurement, parts, steps
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.result import Result
from kdlab.probes.sources import Source, as_source
from kdlab.probes.words import listed

if TYPE_CHECKING:
    import pandas as pd

AGAINST = {
    "teacher": "each student with the first teacher",
    "students": "each student with each other student at the same epoch",
    "self": "each network with itself",
    "first": "each student with itself at its first epoch",
    "last": "each student with itself at its last epoch",
}
_MANY = 10  # samples per feature of both sides together, below which estimates are told to be biased


@dataclass(frozen=True)
class Similarity(Result):
    """Similarity of layers, of P pairs of networks at E epochs in S seeds.

    NaN where a network has no snapshot, or a layer shows the same for every picture.

    Attributes:
        metric: a key of `kdlab.probes.metrics.pairs.METRICS`. against: as asked.
        pairs: (left, right) names. teachers, students: of the source, from which figures take colours.
        layers: network -> its layers, shallow to deep.
        epochs: of the right network, and of the left one unless it is a teacher, or `against` is "first"
            or "last". seeds.
        values: pair -> (E, S, L, M), L layers of the left and M of the right network.
        untrained: pair -> (L, M) with the right network before training (its epoch 0, or a twin with
            random weights); both untrained for "self". Not there where that is not known.
        second_seed: right network -> (E, M, M) its layers with those of another seed of the same
            student, mean over neighbouring seeds. Not there for a single seed.
        chance: pair -> (L, M) with the pictures of the right network in random order, mean.
        n: pictures. protocol: how it was measured, in words.

    >>> found = kdlab.probes.similarity(study, students="KD", control=False)
    >>> found.pairs, found.layers["KD"]
    ((('resnet8', 'KD'),), ('layer1', 'layer2', 'layer3'))
    >>> found.values[found.pairs[0]].shape  # epochs, seeds, layers of the teacher, layers of the student
    (4, 1, 3, 3)
    """

    figure: ClassVar[str] = "similarity"

    metric: str
    against: str
    pairs: tuple[Pair, ...]
    teachers: tuple[str, ...]
    students: tuple[str, ...]
    layers: Mapping[str, tuple[str, ...]]
    epochs: tuple[int, ...]
    seeds: tuple[int, ...]
    values: Mapping[Pair, np.ndarray]
    n: int
    protocol: str
    untrained: Mapping[Pair, np.ndarray] = field(default_factory=dict)
    second_seed: Mapping[str, np.ndarray] = field(default_factory=dict)
    chance: Mapping[Pair, np.ndarray] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The metric in words."""
        return METRICS[self.metric]

    @property
    def is_distance(self) -> bool:
        """Whether 0 is equal, as of Procrustes distances; else 1 is."""
        return self.metric in DISTANCES

    def is_self(self, pair: Pair) -> bool:
        """Whether a network is compared with itself at the same epoch."""
        return pair[0] == pair[1] and self.against not in ("first", "last")

    def mean(self, pair: Pair) -> np.ndarray:
        """(E, L, M) mean over the seeds that are there."""
        return mean_known(self.values[pair], 1)

    def corresponding(self, pair: Pair) -> list[tuple[int, int]]:
        """Places of layers that answer each other: of the same name, else at the same relative depth.

        Of a network with itself at the same epoch: each layer and the next.
        """
        left, right = self.layers[pair[0]], self.layers[pair[1]]
        if self.is_self(pair):
            return [(j, j + 1) for j in range(len(right) - 1)] or [(0, 0)]
        if set(left) & set(right):
            return [(left.index(name), j) for j, name in enumerate(right) if name in left]
        scale = (len(left) - 1) / max(len(right) - 1, 1)
        return [(round(j * scale), j) for j in range(len(right))]

    def to_frame(self) -> pd.DataFrame:
        """One row for each pair of networks, epoch, seed and pair of layers."""
        import pandas as pd

        rows = []
        for pair in self.pairs:
            table, blank = self.values[pair], np.full(self.values[pair].shape[2:], np.nan)
            before, chance = self.untrained.get(pair, blank), self.chance.get(pair, blank)
            for e, s, i, j in np.argwhere(np.isfinite(table)):
                rows.append(
                    {
                        "left": pair[0],
                        "right": pair[1],
                        "left_layer": self.layers[pair[0]][i],
                        "right_layer": self.layers[pair[1]][j],
                        "epoch": self.epochs[e],
                        "seed": self.seeds[s],
                        self.metric: table[e, s, i, j],
                        "untrained": before[i, j],
                        "chance": chance[i, j],
                    }
                )
        return pd.DataFrame(rows)

    @property
    def summary(self) -> str:
        """One sentence: how alike corresponding layers are at the last epoch, beside the controls."""
        said = []
        for pair in self.pairs:
            at = self.corresponding(pair)
            value = _average(self.mean(pair)[-1], at)
            if not np.isfinite(value):
                continue
            beside = []
            if pair in self.untrained:
                beside.append(f"untrained {_average(self.untrained[pair], at):.2f}")
            if pair[1] in self.second_seed:
                diagonal = [(j, j) for j in range(len(self.layers[pair[1]]))]
                seeds = _average(self.second_seed[pair[1]][-1], diagonal)
                beside.append(f"two seeds of {pair[1]} {seeds:.2f}")
            if pair in self.chance:
                beside.append(
                    f"shuffled pictures {_average(self.chance[pair], at):.2f}".replace("-0.00", "0.00")
                )
            name = f"{pair[1]} with {pair[0]}" if pair[0] != pair[1] else f"{pair[1]} with itself"
            said.append(f"{name} {value:.2f}" + (f" ({', '.join(beside)})" if beside else ""))
        if not said:
            return "No two layers could be compared; the protocol says why."
        when = "" if self.epochs[-1] == AS_GIVEN else f" after epoch {self.epochs[-1]}"
        title = self.title[0].upper() + self.title[1:]
        best = "0 is equal" if self.is_distance else "1 is equal"
        which = "neighbouring" if all(map(self.is_self, self.pairs)) else "corresponding"
        text = f"{title} of {which} layers ({best}), mean over layers{when}: {listed(said)}."
        return text.replace("-0.00", "0.00")


@measurement
def similarity(
    source: Any,
    metric: str = "cka",
    *,
    against: str = "teacher",
    layers: str | Iterable[str] = "all",
    students: str | Iterable[str] | None = None,
    epochs: str | int | Iterable[int] = "all",
    seeds: str | int | Iterable[int] = "all",
    target: Any = None,
    images: Any = None,
    data: Any = None,
    n: int = 2000,
    teacher: str | Iterable[str] | None = None,
    control: bool = True,
    permutations: int = 5,
    **options: Any,
) -> Similarity:
    """Compare all layers of two networks, beside what untrained networks and other seeds give.

    Nothing is fitted, so all held-out pictures count. Stage maps are averaged over their pixels.

    Args:
        source: a study; or name -> array (n, p), mapping layer -> array, snapshot or module (`images` or
            `data` for modules; labels are not needed).
        metric: "cka", "cka_debiased", "cka_minibatch", "cka_rbf", "procrustes", "procrustes_angular",
            "cca", "svcca" or "pwcca"; see `kdlab.probes.metrics`.
        against: "teacher" (without a teacher, the first network), "students", "self", "first", "last"
            (the same network at its first or last epoch), or the name of one network.
        layers: "all", or names of stages; also "embedding". An embedding that is the average of the last
            stage is left out of "all".
        students: which; None means all.
        epochs: "all", "last", an epoch (negative counts from the last) or several. seeds: "all" or which.
        target, images, data, n, teacher: see `kdlab.probes.as_source`.
        control: measure the controls too.
        permutations: orders of the pictures for the chance level.
        options: batch_size of "cka_minibatch", keep of "svcca", sigma_scale of "cka_rbf".

    Raises:
        ConfigError: unknown names, nothing to compare, values that are not finite, or CCA of too few
            pictures.
        StudyError: the study has no snapshot yet.

    >>> x = np.random.default_rng(0).normal(size=(100, 6))
    >>> found = kdlab.probes.similarity({"a": x, "b": 3 * x}, control=False)
    >>> round(float(found.mean(("a", "b"))[0, 0, 0]), 4)  # equal but for the scale
    1.0
    """
    if metric not in METRICS:
        raise unknown_name("similarity", metric, METRICS)
    unknown = [name for name in options if name not in ("batch_size", "keep", "sigma_scale")]
    if unknown:
        raise unknown_name("option of a similarity", unknown[0], ("batch_size", "keep", "sigma_scale"))
    whole(permutations, "permutations", 1)
    if target is None and data is None:
        target = _no_labels(source, images)
    src = as_source(source, target=target, images=images, data=data, n=n, teacher=teacher)
    pairs = _pairs(src, against, src.choose_networks(students, teachers=False))
    networks = tuple(dict.fromkeys(name for pair in pairs for name in pair))
    seed_list = src.choose_seeds(seeds, networks)
    epoch_list = src.choose_epochs(epochs, seed_list, networks)
    work = Compared(src, metric, options, layers, against, epoch_list, seed_list)
    beside = control and against not in ("first", "last")
    rights = dict.fromkeys(right for _, right in pairs if right in src.students)
    each = len(epoch_list) * len(seed_list)
    now = parts(
        {
            "layers": each * len(pairs),
            "untrained networks": 2 * len(pairs) * beside,
            "two seeds": each * len(rights),
            "chance": permutations * len(pairs) / 2 * control,
        }
    )

    def words(pair: Pair) -> str:
        return " and ".join(dict.fromkeys(pair))

    with now("layers"):
        values = {pair: work.values(pair) for pair in steps(pairs, words)}
    notes: list[str] = []
    untrained: dict[Pair, np.ndarray] = {}
    with now("untrained networks"):
        for pair in steps(pairs if beside else (), words):
            try:
                untrained[pair] = work.untrained(pair)
            except Cancelled:
                raise
            except KDLabError as error:
                notes.append(f"No untrained control of {pair[1]} ({str(error).rstrip('.')}).")
    with now("two seeds"):
        second = {
            name: table
            for name in steps(rights if control else (), "{}")
            if (table := work.second_seed(name)) is not None
        }
    met = [pair for pair in pairs if np.isfinite(values[pair]).any()]
    notes += [f"{a} and {b} have no epoch in common." for a, b in pairs if (a, b) not in met]
    with now("chance"):
        chance = {pair: work.chance(pair, permutations) for pair in steps(met if control else (), words)}
    return Similarity(
        metric=metric,
        against=against,
        pairs=pairs,
        teachers=src.teachers,
        students=src.students,
        layers={name: work.names[name] for name in networks},
        epochs=epoch_list,
        seeds=seed_list,
        values=values,
        n=len(src.target),
        protocol=" ".join([_protocol(work, pairs, permutations, control), *notes]),
        untrained=untrained,
        second_seed=second,
        chance=chance,
    )


def _pairs(src: Source, against: str, chosen: Sequence[str]) -> tuple[Pair, ...]:
    """Who is compared with whom."""
    everyone = (*src.teachers, *src.students)
    if against in everyone and against not in AGAINST:
        rights = [name for name in chosen if name != against]
        pairs = [(against, name) for name in rights]
    elif against == "teacher":
        first = src.teachers[0] if src.teachers else chosen[0]
        pairs = [(first, name) for name in chosen if name != first]
        if not pairs:
            pairs = [(first, first)]
    elif against == "students":
        pairs = [(a, b) for i, a in enumerate(chosen) for b in chosen[i + 1 :]]
    elif against == "self":
        pairs = [(name, name) for name in (*src.teachers, *chosen)]
    elif against in AGAINST:
        pairs = [(name, name) for name in chosen]
    else:
        raise unknown_name("network or way to compare", against, dict.fromkeys([*AGAINST, *everyone]))
    if not pairs:
        raise ConfigError(f"There is nobody to compare with against={against!r}; name more students.")
    return tuple(pairs)


def _no_labels(source: Any, images: Any) -> np.ndarray | None:
    """Labels that nothing reads, of the right number; None for a study."""
    if isinstance(source, Source) or hasattr(source, "probe_set"):
        return None
    if images is not None:
        return np.zeros(len(images), dtype=np.int64)
    first: Any = next(iter(source.values()), None) if isinstance(source, Mapping) else source
    while isinstance(first, Mapping):
        first = next(iter(first.values()), None)
    if hasattr(first, "stages") and hasattr(first, "embedding"):
        first = first.embedding if first.embedding is not None else next(iter(first.stages.values()), None)
    if first is None or isinstance(first, torch.nn.Module):
        return None
    return np.zeros(len(first), dtype=np.int64)


def _protocol(work: Compared, pairs: Sequence[Pair], permutations: int, control: bool) -> str:
    count = len(work.src.target)
    title = METRICS[work.metric]
    kind = "held-out pictures" if work.src.study is not None else "pictures"
    said = [
        f"{title[0].upper()}{title[1:]} of {count} {kind}; stage maps averaged over their pixels; "
        "nothing is fitted."
    ]
    if work.metric == "cka_minibatch":
        said.append(f"Batches of {work.options.get('batch_size', 64)} pictures in their order.")
    if work.metric in ("svcca", "pwcca"):
        said.append("Directions or weights are those of the features as they are, not centred.")
    both = max(work.widest[a] + work.widest[b] for a, b in pairs)
    if count < _MANY * both and work.metric not in ("cka_debiased", "cka_minibatch"):
        which = "read it beside the shuffled pictures, or take 'cka_debiased'"
        side = "too near" if work.metric in DISTANCES else "too high"
        said.append(
            f"The widest layers have {both} features together, and {count} pictures are fewer than {_MANY} "
            f"times that: values come out {side}; {which}."
        )
    if control:
        orders = f"{permutations} random orders" if permutations > 1 else "one random order"
        said.append(f"Chance: pictures of one side in {orders}.")
    if work.constant:
        said.append(f"Left out, as they are the same for every picture: {listed(sorted(work.constant))}.")
    return " ".join(said)


def _average(table: np.ndarray, places: Sequence[tuple[int, int]]) -> float:
    return float(mean_known(np.array([table[i, j] for i, j in places]), 0))

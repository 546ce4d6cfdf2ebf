"""Linear classifier probes: what can be read from each layer by a linear classifier alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdlab.errors import unknown_name
from kdlab.probes.controls import (
    narrowest,
    random_labels,
    raw_pixels,
    reduce_dimension,
    untrained_layers,
    wilson,
)
from kdlab.probes.evaluate import check_parts, evaluate_tables, work
from kdlab.probes.metrics import knn_purity
from kdlab.probes.progress import measurement, parts, steps
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.result import Result
from kdlab.probes.sources import Source, as_source
from kdlab.probes.tables import collect
from kdlab.probes.words import absent, listed, mean_over_seeds, percent, plural

if TYPE_CHECKING:
    import pandas as pd

PROBES = {
    "softmax": "softmax regression fitted to convergence",
    "ridge": "closed-form ridge regression on the labels, scaled as a linear discriminant",
}
_SOFTMAX_WORK = 5e8  # multiply-adds a gradient (half a minute in all); above, "auto" takes ridge
_NEIGHBOURS = 10


@dataclass(frozen=True)
class LinearProbeResult(Result):
    """Held-out accuracy of linear probes: N networks x E epochs x L layers x S seeds.

    NaN where a network has no snapshot of an epoch (it came later or went earlier than others), or no
    such layer.

    A teacher has values at the first seed alone, since it is one network. NaN: no such layer or
    snapshot.

    Attributes:
        networks: teachers first; teachers, students: which is which (`students` is the whole study's
            order, from which figures take their colours).
        layers: shallow to deep; epochs: -1 for networks given without a training; seeds.
        accuracy: (N, E, L, S), 0..1. nll: the same, in nats (NaN for the ridge probe). l2: penalty chosen.
        low, high: (N, E, L, S) ends of the 95 % interval of the accuracy (Wilson), from the number of
            test pictures alone: what another seed would change is seen from the seeds.
        untrained: (N, L, S) accuracy of the same probe on the untrained twin of each network, or None.
        purity: (N, E, L, S) mean share of a test picture's 10 nearest others (fewer where there are
            fewer) that have its class, or None; purity_chance: the same for random neighbours.
        control: (N, E, L, S) accuracy of the same probe on random labels, or None.
        control_chance: accuracy of always naming the most frequent random label.
        pixels: accuracy of the same probe on raw pixels, or NaN.
        chance: accuracy of always naming the most frequent class.
        n_fit, n_test: pictures to fit and to judge.
        probe: "softmax" or "ridge".
        dimension: principal components on which every layer was probed; 0: its own features.
        protocol: how it was measured, in words.

    >>> found = kdlab.probes.linear_probe(study, probe="ridge")
    >>> found.networks, found.epochs, found.accuracy.shape  # networks, epochs, layers, seeds
    (('resnet8', 'alone', 'KD'), (0, 1, 2, 3), (3, 4, 3, 1))
    >>> found.n_fit, found.n_test, bool((found.low <= found.accuracy).all())
    (40, 40, True)
    """

    figure: ClassVar[str] = "probe_depth"

    networks: tuple[str, ...]
    teachers: tuple[str, ...]
    students: tuple[str, ...]
    layers: tuple[str, ...]
    epochs: tuple[int, ...]
    seeds: tuple[int, ...]
    accuracy: np.ndarray
    nll: np.ndarray
    l2: np.ndarray
    control: np.ndarray | None
    control_chance: float
    pixels: float
    chance: float
    n_fit: int
    n_test: int
    probe: str
    protocol: str
    low: np.ndarray
    high: np.ndarray
    untrained: np.ndarray | None = None
    purity: np.ndarray | None = None
    purity_chance: float = float("nan")
    dimension: int = 0

    @property
    def selectivity(self) -> np.ndarray | None:
        """Accuracy minus that on random labels (Hewitt and Liang, EMNLP 2019); None without the control."""
        return None if self.control is None else self.accuracy - self.control

    def to_frame(self) -> pd.DataFrame:
        """One row for each network, epoch, layer and seed."""
        import pandas as pd

        rows = []
        for place in np.argwhere(np.isfinite(self.accuracy)):
            n, e, k, s = place
            row = {
                "network": self.networks[n],
                "role": "teacher" if self.networks[n] in self.teachers else "student",
                "epoch": self.epochs[e],
                "layer": self.layers[k],
                "seed": self.seeds[s],
                "accuracy": self.accuracy[n, e, k, s],
                "low": self.low[n, e, k, s],
                "high": self.high[n, e, k, s],
                "nll": self.nll[n, e, k, s],
                "l2": self.l2[n, e, k, s],
            }
            if self.control is not None:
                row["selectivity"] = self.accuracy[n, e, k, s] - self.control[n, e, k, s]
            if self.untrained is not None:
                row["untrained"] = self.untrained[n, k, s]
            if self.purity is not None:
                row["purity"] = self.purity[n, e, k, s]
            rows.append(row)
        return pd.DataFrame(rows)

    @property
    def summary(self) -> str:
        """One sentence: what can be read from the deepest layer of each network at the last epoch."""
        parts = []
        for n, name in enumerate(self.networks):
            values = self.accuracy[n, -1]
            deepest = max((k for k in range(len(self.layers)) if np.isfinite(values[k]).any()), default=None)
            if deepest is not None:
                parts.append((mean_over_seeds(values[deepest]), name, self.layers[deepest]))
        if not parts:
            return "No probe could be fitted."
        missing = absent([name for name in self.networks if name not in [known for _, known, _ in parts]])
        by_layer = {layer for _, _, layer in parts}
        said = [
            f"{name} {percent(value)}" + (f" ({layer})" if len(by_layer) > 1 else "")
            for value, name, layer in parts
        ]
        where = f"the deepest layer ({parts[0][2]})" if len(by_layer) == 1 else "the deepest layer"
        when = "" if self.epochs[-1] == AS_GIVEN else f" after epoch {self.epochs[-1]}"
        pixels = "" if np.isnan(self.pixels) else f"; raw pixels give {percent(self.pixels)}"
        kind = "softmax probe" if self.probe == "softmax" else "closed-form ridge probe"
        kind += f" on {plural(self.dimension, 'principal component')}" if self.dimension else ""
        seeds = f", mean of {len(self.seeds)} seeds" if len(self.seeds) > 1 else ""
        return (
            f"Read by a linear {kind} from {where}{when}, held-out accuracy is {listed(said)}{seeds}"
            f"{pixels}, chance is {percent(self.chance)}.{self._beside()}{missing}"
        )

    def _beside(self) -> str:
        """A sentence on the untrained twins, at the deepest layer each of them has."""
        if self.untrained is None:
            return ""
        said = []
        for name, own in zip(self.networks, self.untrained, strict=True):
            there = np.flatnonzero(np.isfinite(own).any(axis=1))
            if len(there):
                said.append(f"{name} {percent(mean_over_seeds(own[there[-1]]))}")
        return f" The same networks untrained give {listed(said)}." if said else ""


@measurement
def linear_probe(
    source: Any,
    target: Any = None,
    *,
    fit: Any = None,
    images: Any = None,
    data: Any = None,
    n: int = 2000,
    teacher: str | None = None,
    layers: str | Iterable[str] = "all",
    epochs: str | int | Iterable[int] = "all",
    students: str | Iterable[str] | None = None,
    seeds: str | int | Iterable[int] = "all",
    probe: str = "auto",
    control: bool | Any = False,
    untrained: bool = False,
    dimension: int | str | None = None,
    purity: bool = False,
    split_seed: int = 0,
) -> LinearProbeResult:
    """Fit a linear classifier on each layer and judge it on held-out pictures.

    Controls come with it: chance, raw pixels, and epoch 0, the same networks before training
    (Alain and Bengio, arXiv 1610.01644). Others cost more and are asked for: random labels, untrained
    twins, equal dimension.

    Args:
        source: a study; or name -> array (n, p), mapping layer -> array, snapshot, or module.
        target, fit, images, data, n, teacher: for everything but a study, see `kdlab.probes.as_source`.
        layers: "all", or names of stages; also "embedding". An embedding that is the average of the
            last stage is that stage's point and not probed twice.
        epochs: "all", "last", an epoch (negative counts from the last) or several.
        students, seeds: which; None and "all" mean all.
        probe: "softmax" (converged, penalty chosen on held-out pictures of the fitting part), "ridge"
            (closed form), or "auto": softmax unless it would take more than half a minute. The result
            says which.
        control: True fits the same probes on random labels, one for each cluster of similar pictures,
            so that `selectivity` can be shown; or (n,) labels of your own.
        untrained: True probes an untrained twin of every network too (`untrained_twin`), drawn with the
            seed of the run; needs the networks themselves and the pictures.
        dimension: map each layer (and the pixels) to so many principal components of the fitting part
            first, as a wider layer is easier to read for its width alone; "narrowest": as many as the
            narrowest layer has.
        purity: True measures the neighbours' purity of each layer on the test pictures too.
        split_seed: of the split that chooses the penalty.

    Raises:
        ConfigError: unknown names, too few samples, values that are not finite.
        StudyError: the study has no snapshot yet.

    >>> x, y = np.random.default_rng(0).normal(size=(400, 2)), np.arange(400) % 2
    >>> found = kdlab.probes.linear_probe({"layer": x + 4 * y[:, None], "noise": x}, y)
    >>> (found.accuracy.ravel() > 0.9).tolist()  # the class can be read from one of the two
    [True, False]
    >>> kdlab.probes.linear_probe(study, epochs="last", probe="ridge").layers
    ('layer1', 'layer2', 'layer3')
    """
    src = as_source(source, target=target, fit=fit, images=images, data=data, n=n, teacher=teacher)
    if probe not in (*PROBES, "auto"):
        raise unknown_name("probe", probe, (*PROBES, "auto"))
    check_parts(src.target, src.fit)
    networks = src.choose_networks(students)
    seed_list = src.choose_seeds(seeds, networks)
    epoch_list = src.choose_epochs(epochs, seed_list, networks)
    pixels = raw_pixels(src)
    labels = random_labels(control, src, pixels, split_seed)
    places, tables, names = collect(src, networks, epoch_list, seed_list, layers)
    with parts({"untrained networks": 1 if untrained else 0, "": 3})("untrained networks"):
        bare = _untrained(src, networks, seed_list, names) if untrained else {}
    reduced, extra = tables, [*bare.values(), *([] if pixels is None else [pixels])]
    components: Any = narrowest([*tables, *extra], src.fit) if dimension == "narrowest" else dimension
    if components is not None:
        every = reduce_dimension([*tables, *extra], src.fit, components)
        reduced, extra = every[: len(tables)], every[len(tables) :]
    if probe == "auto":
        probe = "softmax" if work(reduced, src.target) <= _SOFTMAX_WORK else "ridge"

    shape = (len(networks), len(epoch_list), len(names), len(seed_list))

    def spread(values: np.ndarray) -> np.ndarray:
        full = np.full(shape, np.nan)
        for (n, e, layer, s), value in zip(places, values, strict=True):
            epochs_of = slice(None) if networks[n] in src.teachers else e  # a teacher does not change
            full[n, epochs_of, names.index(layer), s] = value
        return full

    chains = [(n, layer, s) for n, _, layer, s in places]
    size = sum(table.size for table in reduced)
    now = parts(
        {
            "fitting probes": size,
            "probes of controls": sum(table.size for table in extra),
            "probes of random labels": 0 if labels is None else size,
            "neighbours": size / 5 if purity else 0,
        }
    )
    with now("fitting probes"):
        own = evaluate_tables(reduced, src.target, src.fit, probe=probe, seed=split_seed, chains=chains)
    with now("probes of controls"):
        beside = evaluate_tables(extra, src.target, src.fit, probe=probe, seed=split_seed).accuracy
    twins = np.full((len(networks), len(names), len(seed_list)), np.nan)
    for (n, layer, s), value in zip(bare, beside, strict=False):
        twins[n, names.index(layer), s] = value
    control_scores, control_chance = None, float("nan")
    if labels is not None:
        with now("probes of random labels"):
            other = evaluate_tables(reduced, labels, src.fit, probe=probe, seed=split_seed, chains=chains)
        control_scores = spread(other.accuracy)
        counts = np.bincount(labels[~src.fit])
        control_chance = float(counts.max() / counts.sum())
    n_fit, n_test = int(src.fit.sum()), int((~src.fit).sum())
    truth, neighbours = src.target[~src.fit], min(_NEIGHBOURS, n_test - 1)
    near = None
    if purity:
        with now("neighbours"):
            near = spread(np.array([knn_purity(x[~src.fit], truth, neighbours) for x in steps(tables)]))
    counts = np.bincount(truth)
    accuracy = spread(own.accuracy)
    low, high = wilson(accuracy, n_test)
    return LinearProbeResult(
        networks=networks,
        teachers=src.teachers,
        students=src.students,
        layers=tuple(names),
        epochs=epoch_list,
        seeds=seed_list,
        accuracy=accuracy,
        low=low,
        high=high,
        nll=spread(own.nll),
        l2=spread(own.l2),
        control=control_scores,
        control_chance=control_chance,
        untrained=twins if untrained else None,
        purity=near,
        purity_chance=float((counts * (counts - 1)).sum() / (n_test * (n_test - 1))),
        pixels=float("nan") if pixels is None else float(beside[-1]),
        chance=src.chance,
        n_fit=n_fit,
        n_test=n_test,
        probe=probe,
        dimension=components or 0,
        protocol=_protocol(probe, n_fit, n_test, components),
    )


def _untrained(
    src: Source, networks: Sequence[str], seeds: Sequence[int], names: Sequence[str]
) -> dict[tuple[int, str, int], np.ndarray]:
    """Tables of the untrained twins, by place of the network, layer, and place of the seed."""
    out: dict[tuple[int, str, int], np.ndarray] = {}
    for n, name in steps(list(enumerate(networks)), lambda at: at[1]):
        for s, seed in steps(list(enumerate(seeds))):
            if (s and name in src.teachers) or (name in src.students and not src.epochs(seed, name)):
                continue
            every = untrained_layers(src, name, seed)
            out |= {(n, layer, s): every[layer] for layer in names if layer in every}
    return out


def _protocol(probe: str, n_fit: int, n_test: int, dimension: int | None) -> str:
    choice = (
        "penalty chosen on a quarter of the fitting pictures"
        if probe == "softmax"
        else "penalty chosen by generalised cross-validation"
    )
    mapped = (
        ""
        if dimension is None
        else f", mapped to {plural(dimension, 'principal component')} of the fitting pictures"
    )
    return (
        f"Linear probe: {PROBES[probe]}, on stage maps averaged over their pixels, standardised{mapped}; "
        f"fitted on {plural(n_fit, 'validation picture')}, {choice}; judged on "
        f"{plural(n_test, 'test picture')}, where one picture is {100 / n_test:.2g} points."
    )

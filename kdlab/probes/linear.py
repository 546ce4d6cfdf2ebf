"""Linear classifier probes: what can be read from each layer by a linear classifier alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.probes.evaluate import Scores, check_parts, evaluate_tables, work
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.result import Result
from kdlab.probes.sources import Source, as_source
from kdlab.probes.words import absent, listed, mean_over_seeds, percent, plural

if TYPE_CHECKING:
    import pandas as pd

PROBES = {
    "softmax": "softmax regression fitted to convergence",
    "ridge": "closed-form ridge regression on the labels",
}
_SOFTMAX_WORK = 5e8  # multiply-adds a gradient (half a minute in all); above, "auto" takes ridge


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
        control: (N, E, L, S) accuracy of the same probe on random labels, or None.
        control_chance: accuracy of always naming the most frequent random label.
        pixels: accuracy of the same probe on raw pixels, or NaN.
        chance: accuracy of always naming the most frequent class.
        n_fit, n_test: pictures to fit and to judge.
        probe: "softmax" or "ridge".
        protocol: how it was measured, in words.
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
                "nll": self.nll[n, e, k, s],
                "l2": self.l2[n, e, k, s],
            }
            if self.control is not None:
                row["selectivity"] = self.accuracy[n, e, k, s] - self.control[n, e, k, s]
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
        seeds = f", mean of {len(self.seeds)} seeds" if len(self.seeds) > 1 else ""
        return (
            f"Read by a linear {kind} from {where}{when}, held-out accuracy is {listed(said)}{seeds}"
            f"{pixels}, chance is {percent(self.chance)}.{missing}"
        )


def linear_probe(
    source: Any,
    target: Any = None,
    *,
    fit: Any = None,
    images: Any = None,
    teacher: str | None = None,
    layers: str | Iterable[str] = "all",
    epochs: str | int | Iterable[int] = "all",
    students: str | Iterable[str] | None = None,
    seeds: str | int | Iterable[int] = "all",
    probe: str = "auto",
    control: bool | Any = False,
    split_seed: int = 0,
) -> LinearProbeResult:
    """Fit a linear classifier on each layer and judge it on held-out pictures.

    Controls come with it: chance, raw pixels, and epoch 0, the same networks before training
    (Alain and Bengio, arXiv 1610.01644).

    Args:
        source: a study; or name -> array (n, p), mapping layer -> array, snapshot, or module.
        target, fit, images, teacher: for everything but a study, see `kdlab.probes.as_source`.
        layers: "all", or names of stages; also "embedding". An embedding that is the average of the
            last stage is that stage's point and not probed twice.
        epochs: "all", "last", an epoch (negative counts from the last) or several.
        students, seeds: which; None and "all" mean all.
        probe: "softmax" (converged, penalty chosen on held-out pictures of the fitting part), "ridge"
            (closed form), or "auto": softmax unless it would take more than half a minute. The result
            says which.
        control: True fits the same probes on random labels, one for each cluster of similar pictures,
            so that `selectivity` can be shown; or (n,) labels of your own.
        split_seed: of the split that chooses the penalty.

    Raises:
        ConfigError: unknown names, too few samples, values that are not finite.
        StudyError: the study has no snapshot yet.
    """
    src = as_source(source, target=target, fit=fit, images=images, teacher=teacher)
    if probe not in (*PROBES, "auto"):
        raise unknown_name("probe", probe, (*PROBES, "auto"))
    check_parts(src.target, src.fit)
    networks = src.choose_networks(students)
    seed_list = src.choose_seeds(seeds, networks)
    epoch_list = src.choose_epochs(epochs, seed_list, networks)
    places, tables, names = _collect(src, networks, epoch_list, seed_list, layers)
    if probe == "auto":
        probe = "softmax" if work(tables, src.target) <= _SOFTMAX_WORK else "ridge"

    shape = (len(networks), len(epoch_list), len(names), len(seed_list))

    def spread(values: np.ndarray) -> np.ndarray:
        full = np.full(shape, np.nan)
        for (n, e, layer, s), value in zip(places, values, strict=True):
            epochs_of = slice(None) if networks[n] in src.teachers else e  # a teacher does not change
            full[n, epochs_of, names.index(layer), s] = value
        return full

    pixels = _pixels(src)
    measured = tables if pixels is None else [*tables, pixels]
    scores = evaluate_tables(measured, src.target, src.fit, probe=probe, seed=split_seed)
    floor = float("nan") if pixels is None else float(scores.accuracy[-1])
    own = Scores(*(values[: len(tables)] for values in (scores.accuracy, scores.nll, scores.l2)))
    random_labels = _control_labels(control, src, pixels, split_seed)
    control_scores, control_chance = None, float("nan")
    if random_labels is not None:
        control_scores = spread(
            evaluate_tables(tables, random_labels, src.fit, probe=probe, seed=split_seed).accuracy
        )
        counts = np.bincount(random_labels[~src.fit])
        control_chance = float(counts.max() / counts.sum())
    n_fit, n_test = int(src.fit.sum()), int((~src.fit).sum())
    return LinearProbeResult(
        networks=networks,
        teachers=src.teachers,
        students=src.students,
        layers=tuple(names),
        epochs=epoch_list,
        seeds=seed_list,
        accuracy=spread(own.accuracy),
        nll=spread(own.nll),
        l2=spread(own.l2),
        control=control_scores,
        control_chance=control_chance,
        pixels=floor,
        chance=src.chance,
        n_fit=n_fit,
        n_test=n_test,
        probe=probe,
        protocol=_protocol(probe, n_fit, n_test),
    )


def _collect(
    src: Source,
    networks: Sequence[str],
    epochs: Sequence[int],
    seeds: Sequence[int],
    layers: str | Iterable[str],
) -> tuple[list[tuple[int, int, str, int]], list[np.ndarray], list[str]]:
    """Every feature table to be probed and its place; the layers in order of depth."""
    wanted = (
        None
        if isinstance(layers, str) and layers == "all"
        else [layers]
        if isinstance(layers, str)
        else list(layers)
    )
    places: list[tuple[int, int, str, int]] = []
    tables: list[np.ndarray] = []
    order: list[str] = []
    known: list[str] = []
    for s, seed in enumerate(seeds):
        present = src.presence(networks, epochs, seed)
        for e, epoch in enumerate(epochs):
            for n, name in enumerate(networks):
                is_teacher = name in src.teachers
                if (is_teacher and (s, e) != (0, 0)) or epoch not in present[name]:
                    continue
                every = _layers(src.view(name, epoch, seed))
                known += [layer for layer in every if layer not in known]
                chosen = every if wanted is None else {k: v for k, v in every.items() if k in wanted}
                if wanted is None:
                    _drop_double(chosen)
                for layer, table in chosen.items():
                    if layer not in order:
                        order.append(layer)
                    places.append((n, e, layer, s))
                    tables.append(table)
    for layer in wanted or ():
        if layer not in known:
            raise unknown_name("layer", layer, known)
    if not tables:
        raise ConfigError("None of these networks shows a layer at these epochs.")
    order.sort(key=lambda layer: (layer == "embedding", known.index(layer)))
    return places, tables, order


def _layers(view: Any) -> dict[str, np.ndarray]:
    every = dict(view.stages)
    if view.embedding is not None:
        every["embedding"] = view.embedding
    return every


def _drop_double(layers: dict[str, np.ndarray]) -> None:
    """Leave the embedding out where it is the average of the last stage, as in most networks."""
    stages = [name for name in layers if name != "embedding"]
    if "embedding" in layers and stages:
        last, embedding = layers[stages[-1]], layers["embedding"]
        if last.shape == embedding.shape and np.allclose(last, embedding, rtol=1e-3, atol=1e-4):
            del layers["embedding"]


def _pixels(src: Source) -> np.ndarray | None:
    return None if src.images is None else src.images.reshape(len(src.images), -1) / np.float32(255)


def _control_labels(
    control: bool | Any, src: Source, pixels: np.ndarray | None, seed: int
) -> np.ndarray | None:
    """One random label for each cluster of similar pictures: learnable only by remembering clusters."""
    if control is None or control is False:
        return None
    if control is not True:
        labels = np.asarray(control, dtype=np.int64)
        if labels.shape != src.target.shape:
            raise ConfigError(f"control must hold a label for each of the {len(src.target)} samples.")
        return labels
    if pixels is None:
        raise ConfigError("control=True needs the pictures; give (n,) random labels of your own instead.")
    from sklearn.cluster import KMeans

    classes = len(np.unique(src.target))
    clusters = min(5 * classes, int(src.fit.sum()) // 2)
    groups = KMeans(clusters, n_init=1, random_state=seed).fit_predict(pixels)
    return np.random.default_rng(seed).permutation(np.arange(clusters) % classes)[groups]


def _protocol(probe: str, n_fit: int, n_test: int) -> str:
    choice = (
        "penalty chosen on a quarter of the fitting pictures"
        if probe == "softmax"
        else "penalty chosen by leave-one-out"
    )
    return (
        f"Linear probe: {PROBES[probe]}, on stage maps averaged over their pixels, standardised; fitted on "
        f"{plural(n_fit, 'validation picture')}, {choice}; judged on {plural(n_test, 'test picture')}, "
        f"where one picture is {100 / n_test:.2g} points."
    )

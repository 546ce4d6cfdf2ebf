"""How each network arranges the classes in its features: collapse, separation, dimensions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from kdlab.errors import ConfigError
from kdlab.probes import metrics
from kdlab.probes.metrics.checks import MIN_SAMPLES
from kdlab.probes.progress import check, measurement, steps
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.result import Result
from kdlab.probes.sources import Source, as_source
from kdlab.probes.tables import collect
from kdlab.probes.threads import single_thread
from kdlab.probes.words import absent, at_epoch, commas, listed, mean_over_seeds, plural

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("fitting part", "test part")

MEASURES: Mapping[str, str] = {
    "nc1": "NC1, spread in classes / between (0 at collapse)",
    "nc1_quotient": "tr Σ_W / tr Σ_B (0 at collapse)",
    "nc2_equinorm": "NC2, unequal norms of means (0 at collapse)",
    "nc2_equiangular": "NC2, unequal angles of means (0 at collapse)",
    "nc2_max_angle": "NC2, angles short of the largest (0 at collapse)",
    "nc2_etf": "NC2, distance of means to simplex (0 at collapse)",
    "nc3": "NC3, classifier against means (0 at collapse)",
    "nc3_duality": "NC3, W M′ against simplex (0 at collapse)",
    "nc4": "NC4, disagreement with nearest mean (0 at collapse)",
    "class_separation": "class separation R² (1 at collapse)",
    "fisher_ratio": "Fisher ratio tr(S_W⁻¹ S_B), shrunk",
    "fisher_shrinkage": "Ledoit–Wolf shrinkage in the Fisher ratio",
    "silhouette": "silhouette (1 at collapse)",
    "effective_rank": "effective rank",
    "participation_ratio": "participation ratio",
    "mean_norm": "mean norm of features",
    "norm_spread": "spread of norms (s.d. / mean)",
}
"""What is measured, and how figures call it."""

WITHOUT_LABELS = ("effective_rank", "participation_ratio", "mean_norm", "norm_spread")
"""Measures that do not know the labels, so that permuted ones are no control for them."""

_THREAD_WORK = 1e8


@dataclass(frozen=True)
class Geometry(Result):
    """Class geometry of N networks x E epochs x L layers x S seeds, on both parts of the pictures.

    NaN where a network has no snapshot of an epoch, no such layer, or a measure is not defined (see
    `notes`). A teacher does not change: it has the same values at all epochs, at the first seed alone.

    Attributes:
        networks: teachers first; teachers, students: which is which (`students` is the whole study's
            order, from which figures take their colours).
        layers: shallow to deep, last "embedding", the classifier's input, where that is known.
        epochs: -1 for networks given without a training. seeds.
        values: name in `MEASURES` -> (N, E, L, S, 2); the last axis is `PARTS`. NC3 and NC4 are known at
            the embedding alone. NC4 takes the class means of the fitting part on both parts.
        permuted: name -> (N, L, S, 2): the same at each network's last epoch with labels permuted
            within each part; NaN for measures that do not know the labels.
        widths: (N, L) number of features; 0 where a network has no such layer.
        classes: classes that both parts show, which alone are measured.
        n_fit, n_test: pictures in the two parts.
        notes: what could not be measured, and why.
        protocol: how it was measured, in words.

    >>> found = kdlab.probes.geometry(study, epochs="last")
    >>> found.layers
    ('layer1', 'layer2', 'embedding')
    >>> found.values["class_separation"].shape  # networks, epochs, layers, seeds, parts
    (3, 1, 3, 1, 2)
    """

    figure: ClassVar[str] = "geometry"

    networks: tuple[str, ...]
    teachers: tuple[str, ...]
    students: tuple[str, ...]
    layers: tuple[str, ...]
    epochs: tuple[int, ...]
    seeds: tuple[int, ...]
    values: Mapping[str, np.ndarray]
    permuted: Mapping[str, np.ndarray]
    widths: np.ndarray
    classes: int
    n_fit: int
    n_test: int
    notes: tuple[str, ...]
    protocol: str

    @property
    def floors(self) -> np.ndarray:
        """(N, L) the least nc2_etf and nc3_duality that are possible; above 0 where K > p + 1."""
        return np.array(
            [[metrics.etf_floor(self.classes, int(p)) if p else np.nan for p in row] for row in self.widths]
        )

    def to_frame(self) -> pd.DataFrame:
        """One row for each network, epoch, layer, seed, part and measure; with its permuted control."""
        import pandas as pd

        rows = []
        for measure, table in self.values.items():
            for n, e, k, s, part in np.argwhere(np.isfinite(table)):
                rows.append(
                    {
                        "network": self.networks[n],
                        "role": "teacher" if self.networks[n] in self.teachers else "student",
                        "epoch": self.epochs[e],
                        "layer": self.layers[k],
                        "seed": self.seeds[s],
                        "part": PARTS[part],
                        "measure": measure,
                        "value": table[n, e, k, s, part],
                        "permuted_labels": self.permuted[measure][n, k, s, part],
                    }
                )
        return pd.DataFrame(rows)

    @property
    def summary(self) -> str:
        """Separation and collapse at the deepest layer, their control, and whether an ETF is possible."""
        k = len(self.layers) - 1

        def last(measure: str, n: int) -> float:
            return mean_over_seeds(self.values[measure][n, -1, k, :, 1])

        there = [n for n in range(len(self.networks)) if np.isfinite(last("mean_norm", n))]
        if not there:
            return f"No network shows {self.layers[k]} at the last epoch."
        when = "" if self.epochs[-1] == AS_GIVEN else f" after epoch {self.epochs[-1]}"
        said = [f"{self.networks[n]} {last('class_separation', n):.2f}" for n in there]
        collapse = [f"{self.networks[n]} {last('nc1', n):.3g}" for n in there]
        random = self.permuted["class_separation"][:, k, :, 1]
        control = (
            f" ({np.nanmax(random):.2f} at most with permuted labels)" if np.isfinite(random).any() else ""
        )
        seeds = f", mean of {len(self.seeds)} seeds" if len(self.seeds) > 1 else ""
        missing = absent([name for n, name in enumerate(self.networks) if n not in there])
        return (
            f"At {self.layers[k]}{when}, on {plural(self.n_test, 'test picture')}, class separation R² is "
            f"{listed(said)}{control}, where 1 is full collapse; NC1 is {listed(collapse)}, where 0 is full "
            f"collapse{seeds}.{self._etf()}{missing}"
        )

    def _etf(self) -> str:
        k = len(self.layers) - 1
        small = [n for n in range(len(self.networks)) if 0 < self.widths[n, k] < self.classes - 1]
        if not small:
            return ""
        widths = listed([str(p) for p in sorted({int(self.widths[n, k]) for n in small})], "or")
        whose = listed([self.networks[n] for n in small])
        whose = "these networks" if 1 < len(small) == len(self.networks) else whose
        return (
            f" The {self.classes} classes do not fit as a simplex into the {widths} features of "
            f"{whose} (K > p + 1), so NC2 cannot reach 0 there: nc2_etf "
            f"is at least {self.floors[small, k].min():.2f}."
        )


@measurement
def geometry(
    source: Any,
    *,
    target: Any = None,
    fit: Any = None,
    images: Any = None,
    data: Any = None,
    n: int = 2000,
    teacher: str | Iterable[str] | None = None,
    students: str | Iterable[str] | None = None,
    layers: str | Iterable[str] = "all",
    epochs: str | int | Iterable[int] = "all",
    seeds: str | int | Iterable[int] = "all",
    permutation_seed: int = 0,
) -> Geometry:
    """Measure how the classes lie in the features of each network: `MEASURES`, on both parts.

    Both parts are held out: the fitting part of a study are validation pictures, the other test
    pictures. On training pictures, which snapshots do not show, collapse goes further. The controls
    are the same networks before training (epoch 0) and labels permuted within each part. Numbers
    depend on how many pictures of each class there are: class means of few pictures are noisy.

    Sources: neural collapse, Papyan, Han and Donoho (PNAS 2020); class separation, Kornblith et al.
    (NeurIPS 2021); effective rank, Roy and Vetterli (EUSIPCO 2007); shrinkage of the Fisher ratio,
    Ledoit and Wolf (2004), at every layer, so that layers of different width may be compared.

    Args:
        source: a study; or name -> array (n, p), mapping layer -> array, snapshot, or module.
        target, fit, images, data, n, teacher: for everything but a study, see `kdlab.probes.as_source`.
        students, seeds: which; None and "all" mean all.
        layers: "all", or names of stages, or "embedding". A last stage whose average is the embedding
            is not measured twice.
        epochs: "all", "last", an epoch (negative counts from the last) or several.
        permutation_seed: of the permuted labels.

    Raises:
        ConfigError: unknown names, no features, too few pictures or classes, or features that are not
            finite.
        StudyError: the study has no snapshot yet.

    >>> corners = np.eye(3)[np.arange(60) % 3]  # every class one point, all equally far apart
    >>> found = kdlab.probes.geometry({"net": corners}, target=np.arange(60) % 3)
    >>> bool(found.values["nc1"].max() < 1e-6), bool(found.values["nc2_etf"].max() < 1e-6)
    (True, True)
    """
    src = as_source(source, target=target, fit=fit, images=images, data=data, n=n, teacher=teacher)
    keep, present = _common(src)
    labels = np.searchsorted(present, src.target)
    networks = src.choose_networks(students)
    seed_list = src.choose_seeds(seeds, networks)
    epoch_list = src.choose_epochs(epochs, seed_list, networks)
    places, tables, names = collect(src, networks, epoch_list, seed_list, layers, without="stage")
    shuffled = labels.copy()
    generator = np.random.default_rng(permutation_seed)
    for part in keep:
        shuffled[part] = generator.permutation(labels[part])

    shape = (len(networks), len(epoch_list), len(names), len(seed_list), 2)
    values = {name: np.full(shape, np.nan) for name in MEASURES}
    permuted = {name: np.full((shape[0], *shape[2:]), np.nan) for name in MEASURES}
    widths = np.zeros((shape[0], shape[2]), dtype=np.int64)
    notes: dict[str, None] = {}
    latest = {(i, s): e for i, e, _, s in places}  # in order of epochs, so that the last one stays

    def words(at: tuple[tuple[int, int, str, int], np.ndarray]) -> str:
        i, e, layer, _ = at[0]
        when = "" if networks[i] in src.teachers else at_epoch(epoch_list[e])
        return commas(networks[i], layer, when)

    for at, table in steps(list(zip(places, tables, strict=True)), words):
        i, e, layer, s = at
        k = names.index(layer)
        view = src.view(networks[i], epoch_list[e], seed_list[s])
        linear = _rows(view, table, present) if layer == "embedding" else None
        widths[i, k] = table.shape[1]
        fixed = networks[i] in src.teachers
        epochs_of: slice | int = slice(None) if fixed else e
        where = words((at, table))
        x = np.asarray(table, dtype=np.float64)
        with single_thread(x.shape[0] * x.shape[1] ** 2 < _THREAD_WORK):
            for p, found in enumerate(_both(x, labels, keep, linear, where, notes)):
                for name, value in found.items():
                    values[name][i, epochs_of, k, s, p] = value
            if latest[i, s] == e:
                for p, found in enumerate(_both(x, shuffled, keep, linear, where, {})):
                    for name, value in found.items():
                        if name not in WITHOUT_LABELS:
                            permuted[name][i, k, s, p] = value
    n_fit, n_test = (len(part) for part in keep)
    return Geometry(
        networks=networks,
        teachers=src.teachers,
        students=src.students,
        layers=tuple(names),
        epochs=epoch_list,
        seeds=seed_list,
        values=values,
        permuted=permuted,
        widths=widths,
        classes=len(present),
        n_fit=n_fit,
        n_test=n_test,
        notes=tuple(notes),
        protocol=_protocol(src, n_fit, n_test, len(present)),
    )


def _common(src: Source) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Places of the pictures of both parts whose class both parts show, and these classes."""
    fit, test = np.flatnonzero(src.fit), np.flatnonzero(~src.fit)
    present = np.intersect1d(src.target[fit], src.target[test])
    if len(present) < 2:
        raise ConfigError(
            f"Classes that both the fitting and the test part show: {len(present)}; class geometry needs "
            "two; give pictures of more classes."
        )
    keep = tuple(part[np.isin(src.target[part], present)] for part in (fit, test))
    for part, name in zip(keep, PARTS, strict=True):
        if len(part) < max(MIN_SAMPLES, len(present) + 1):
            raise ConfigError(
                f"The {name} has {plural(len(part), 'picture')} of {len(present)} classes; class geometry "
                "needs more pictures than classes in each part, and at least 4."
            )
    return (keep[0], keep[1]), present


def _rows(view: Any, table: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The classifier's rows of the classes present, if it reads these features."""
    classifier = getattr(view, "classifier", None)
    if classifier is None:
        return None
    weight, bias = (np.asarray(value, dtype=np.float64) for value in classifier)
    if weight.shape[1] != table.shape[1] or len(weight) <= present[-1]:
        return None
    return weight[present], bias[present]


def _both(
    x: np.ndarray,
    labels: np.ndarray,
    keep: tuple[np.ndarray, np.ndarray],
    linear: tuple[np.ndarray, np.ndarray] | None,
    where: str,
    notes: dict[str, None],
) -> list[dict[str, float]]:
    """Measures of the fitting and of the test part."""
    fit = keep[0]
    sums = np.zeros((labels[fit].max() + 1, x.shape[1]))
    np.add.at(sums, labels[fit], x[fit])
    means = sums / np.bincount(labels[fit])[:, None]
    return [
        _measure(x[part], labels[part], linear, means, f"{where}, {name}", notes)
        for part, name in zip(keep, PARTS, strict=True)
    ]


def _measure(
    x: np.ndarray,
    labels: np.ndarray,
    linear: tuple[np.ndarray, np.ndarray] | None,
    means: np.ndarray,
    where: str,
    notes: dict[str, None],
) -> dict[str, float]:
    """Everything that is defined there; why the rest is not goes into `notes`."""
    norms = np.linalg.norm(x, axis=1)
    out = {"mean_norm": float(norms.mean())}
    if norms.mean() > 0:
        out["norm_spread"] = float(norms.std() / norms.mean())
    points, target = torch.from_numpy(x), torch.from_numpy(labels)

    weight, bias = (None, None) if linear is None else linear
    wanted: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
        ("", metrics.neural_collapse, (target, weight, bias, None if linear is None else means)),
        ("class_separation", metrics.class_separation, (target,)),
        ("fisher_ratio", metrics.fisher_ratio, (target,)),
        ("fisher_shrinkage", metrics.fisher_shrinkage, (target,)),
        ("silhouette", metrics.silhouette, (target,)),
        ("effective_rank", metrics.effective_rank, ()),
        ("participation_ratio", metrics.participation_ratio, ()),
    ]
    for name, function, more in wanted:
        check()
        try:
            found = function(points, *more)
            out |= found if isinstance(found, dict) else {name: found}
        except ConfigError as error:
            notes[f"{where}: {error}"] = None
    return out


def _protocol(src: Source, n_fit: int, n_test: int, classes: int) -> str:
    whose = ("validation picture", "test picture") if src.study is not None else ("picture", "other picture")
    return (
        f"Class geometry of {classes} classes on {plural(n_fit, whose[0])} (fitting part) and "
        f"{plural(n_test, whose[1])} (test part), about {n_test / classes:.0f} of each class; stage maps "
        "averaged over their pixels. Nothing is fitted except that NC4 takes the class means of the fitting "
        "part. No training picture is among them; there collapse goes further."
    )

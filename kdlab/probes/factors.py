"""Which factors of a picture can be read from each layer, and which of them a loss keeps or drops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.probes.evaluate import check_parts, evaluate_tables, work
from kdlab.probes.linear import PROBES
from kdlab.probes.progress import measurement, steps
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.result import Result
from kdlab.probes.sources import Source, as_source
from kdlab.probes.tables import collect
from kdlab.probes.words import absent, listed, mean_over_seeds, plural, signed

if TYPE_CHECKING:
    import pandas as pd

CLASS = "class"  # the row of the class label
_SOFTMAX_WORK = 5e8  # as for linear probes: multiply-adds of one gradient of all fits
_TIED = 0.1  # adjusted mutual information of factor and class above which a warning is due
_MOST_VALUES = 100


@dataclass(frozen=True)
class FactorProbe(Result):
    """How well linear probes read known factors: N networks x E epochs x L layers x F factors x S seeds.

    NaN where a network has no snapshot of an epoch, or no such layer; a teacher has values at the first
    seed alone.

    Attributes:
        networks: teachers first; teachers, students: which is which (`students` is the whole study's
            order, from which figures take their colours).
        layers: shallow to deep; epochs: -1 for networks given without a training; seeds.
        factors: what was read; the class label is among them.
        label: the factor that is the class label ("class", or the factor that equals it).
        values: (F,) number of values of each factor.
        accuracy: (N, E, L, F, S) on the evaluation part, 0..1.
        chance: (F,) accuracy of always naming the most frequent value there.
        tied: (F, 2) adjusted mutual information of factor and class (Vinh, Epps and Bailey, JMLR 2010:
            0 for independent ones, 1 where each gives the other) on the fitting and evaluation part.
        baseline: the student that others are compared with, or "".
        n_fit, n_test: pictures to fit and to judge; probe: "softmax" or "ridge".
        protocol: how it was measured, in words.

    >>> y, colour = np.arange(200) % 4, np.arange(200) // 8 % 2
    >>> found = kdlab.probes.factor_probe({"layer": np.eye(4)[y]}, y, factors={"colour": colour})
    >>> found.factors, found.values, found.label
    (('class', 'colour'), array([4, 2]), 'class')
    >>> found.accuracy.shape  # networks, epochs, layers, factors, seeds
    (1, 1, 1, 2, 1)
    """

    figure: ClassVar[str] = "factors"

    networks: tuple[str, ...]
    teachers: tuple[str, ...]
    students: tuple[str, ...]
    layers: tuple[str, ...]
    epochs: tuple[int, ...]
    seeds: tuple[int, ...]
    factors: tuple[str, ...]
    label: str
    values: np.ndarray
    accuracy: np.ndarray
    chance: np.ndarray
    tied: np.ndarray
    baseline: str
    n_fit: int
    n_test: int
    probe: str
    protocol: str

    @property
    def decodability(self) -> np.ndarray:
        """(accuracy - chance) / (1 - chance): 0 at chance, 1 for no error, so that factors compare."""
        chance = self.chance[:, None]
        scaled: np.ndarray = (self.accuracy - chance) / (1.0 - chance)
        return scaled

    @property
    def difference(self) -> np.ndarray | None:
        """(N, E, L, F, S) decodability minus the baseline's in the same seed, or None without one.

        Teachers have one value, which is compared with the baseline's in every seed.
        """
        if not self.baseline:
            return None
        own = self.decodability.copy()
        for n, name in enumerate(self.networks):
            if name in self.teachers:
                own[n] = own[n, ..., :1]
        change: np.ndarray = own - own[self.networks.index(self.baseline)]
        return change

    @property
    def noise(self) -> np.ndarray:
        """(F,) two standard errors of a difference of decodabilities, from the test pictures alone.

        For an accuracy half-way between chance and 1, and as if the pictures of both networks were
        different ones; as they are the same, the true error is smaller.
        """
        middle = (1.0 + self.chance) / 2.0
        error: np.ndarray = 2.0 * np.sqrt(2.0 * middle * (1.0 - middle) / self.n_test) / (1.0 - self.chance)
        return error

    def to_frame(self) -> pd.DataFrame:
        """One row for each network, epoch, layer, factor and seed."""
        import pandas as pd

        scaled, change = self.decodability, self.difference
        rows = []
        for n, e, k, f, s in np.argwhere(np.isfinite(self.accuracy)):
            row = {
                "network": self.networks[n],
                "role": "teacher" if self.networks[n] in self.teachers else "student",
                "epoch": self.epochs[e],
                "layer": self.layers[k],
                "factor": self.factors[f],
                "seed": self.seeds[s],
                "accuracy": self.accuracy[n, e, k, f, s],
                "chance": self.chance[f],
                "decodability": scaled[n, e, k, f, s],
            }
            if change is not None:
                row[f"difference to {self.baseline}"] = change[n, e, k, f, s]
            rows.append(row)
        return pd.DataFrame(rows)

    def deepest(self, values: np.ndarray, network: str, epoch: int = -1) -> tuple[str, np.ndarray] | None:
        """A network's deepest layer at a place in `epochs`, and (F,) means over seeds of `values` there."""
        own = values[self.networks.index(network), epoch]
        there = np.flatnonzero(np.isfinite(own).any(axis=(1, 2)))
        if not len(there):
            return None
        return self.layers[there[-1]], np.array([mean_over_seeds(row) for row in own[there[-1]]])

    @property
    def summary(self) -> str:
        """What the deepest layers show best and least, and what differs most from the baseline."""
        shown, said, missing = self.decodability, [], []
        for name in self.networks:
            found = self.deepest(shown, name)
            if found is None:
                missing.append(name)
                continue
            others = [f for f in np.argsort(-found[1]) if self.factors[f] != self.label]
            if others:
                said.append(
                    f"{name} {self.factors[others[0]]} ({_share(found[1][others[0]])}) best and "
                    f"{self.factors[others[-1]]} ({_share(found[1][others[-1]])}) least"
                )
        if not said:
            return "No factor could be read."
        when = "" if self.epochs[-1] == AS_GIVEN else f" after epoch {self.epochs[-1]}"
        kind = "softmax probe" if self.probe == "softmax" else "closed-form ridge probe"
        first = (
            f"Read by a linear {kind} from the deepest layer{when}, apart from {self.label}: "
            f"{'; '.join(said)} (0: chance, 1: no error)."
        )
        return f"{first}{self._changes()}{self._ties()}{absent(missing)}"

    def _changes(self) -> str:
        """What each student keeps or drops beside the baseline, where it is more than noise."""
        change = self.difference
        if change is None:
            return ""
        said = []
        for name in self.networks:
            found = self.deepest(change, name)
            if found is None or name == self.baseline or name in self.teachers:
                continue
            beyond = [f for f in np.argsort(-np.abs(found[1])) if np.abs(found[1][f]) > self.noise[f]]
            parts = [f"{self.factors[f]} {signed(found[1][f] / 100, 2)}" for f in beyond[:3]]
            said.append(f"{name} differs in {listed(parts)}" if parts else f"{name} does not differ")
        if not said:
            return ""
        rule = f"differences beyond {_share(self.noise.max())}, two standard errors, are told"
        return f" Beside {self.baseline}, {'; '.join(said)} ({rule})."

    def _ties(self) -> str:
        """A warning for factors that say something of the class."""
        tied = [
            f"{name} ({_share(self.tied[f].max())})"
            for f, name in enumerate(self.factors)
            if name != self.label and self.tied[f].max() > _TIED
        ]
        if not tied:
            return ""
        return (
            f" Careful: {listed(tied)} {'goes' if len(tied) == 1 else 'go'} with the class (adjusted mutual "
            "information; 0: independent), so that a probe may read the class instead."
        )


@measurement
def factor_probe(
    source: Any,
    target: Any = None,
    *,
    factors: Mapping[str, Any] | Iterable[str] | str | None = None,
    fit: Any = None,
    images: Any = None,
    data: Any = None,
    n: int = 2000,
    teacher: str | Iterable[str] | None = None,
    layers: str | Iterable[str] = "all",
    epochs: str | int | Iterable[int] = "last",
    students: str | Iterable[str] | None = None,
    seeds: str | int | Iterable[int] = "all",
    baseline: str | None = None,
    probe: str = "auto",
    split_seed: int = 0,
) -> FactorProbe:
    """How well each known factor of the pictures can be read from each layer by a linear probe.

    A loss decides what a layer may forget: size, position or background are of no use to a classifier,
    but a teacher's features may carry them. The protocol is that of `linear_probe`, with the values of a
    factor in place of the classes (Hermann and Lampinen, NeurIPS 2020, read factors from layers so).

    Args:
        source: a study on `shapes`, say; or name -> array (n, p), mapping layer -> array, snapshot, module.
        target, fit, images, data, n, teacher: for everything but a study, see `kdlab.probes.as_source`.
        factors: names of those the data set knows (all if not given), or name -> (n,) values of your own:
            whole numbers or text, in the order of the pictures.
        layers, epochs, students, seeds: which, as in `linear_probe`.
        baseline: student (or network) that others are compared with; where a study has one, the first
            that learns from labels alone, if not given.
        probe: "softmax", "ridge", or "auto": softmax unless it would take more than half a minute. The
            result says which.
        split_seed: of the split that chooses the penalty.

    Raises:
        ConfigError: no factors are known, bad values, unknown names, too few samples.
        StudyError: the study has no snapshot yet.

    >>> y, colour = np.arange(200) % 4, np.arange(200) // 8 % 2
    >>> layer = np.eye(4)[y]  # it has forgotten the colour
    >>> found = kdlab.probes.factor_probe({"layer": layer}, y, factors={"colour": colour})
    >>> dict(zip(found.factors, (found.decodability.ravel() > 0.9).tolist()))
    {'class': True, 'colour': False}
    """
    src = as_source(source, target=target, fit=fit, images=images, data=data, n=n, teacher=teacher)
    if probe not in (*PROBES, "auto"):
        raise unknown_name("probe", probe, (*PROBES, "auto"))
    check_parts(src.target, src.fit)
    labels, label = _labels(src, factors)
    networks = src.choose_networks(students)
    seed_list = src.choose_seeds(seeds, networks)
    epoch_list = src.choose_epochs(epochs, seed_list, networks)
    against = _baseline(src, networks, baseline)
    places, tables, names = collect(src, networks, epoch_list, seed_list, layers)
    if probe == "auto":
        probe = "softmax" if sum(work(tables, y) for y in labels.values()) <= _SOFTMAX_WORK else "ridge"

    shape = (len(networks), len(epoch_list), len(names), len(labels), len(seed_list))
    accuracy = np.full(shape, np.nan)
    chains = [(n, layer, s) for n, _, layer, s in places]
    for f, (_, y) in enumerate(steps(labels.items(), lambda one: one[0])):
        scores = evaluate_tables(tables, y, src.fit, probe=probe, seed=split_seed, chains=chains)
        for (net, e, layer, s), value in zip(places, scores.accuracy, strict=True):
            when = slice(None) if networks[net] in src.teachers else e  # a teacher does not change
            accuracy[net, when, names.index(layer), f, s] = value
    n_fit, n_test = int(src.fit.sum()), int((~src.fit).sum())
    return FactorProbe(
        networks=networks,
        teachers=src.teachers,
        students=src.students,
        layers=tuple(names),
        epochs=epoch_list,
        seeds=seed_list,
        factors=tuple(labels),
        label=label,
        values=np.array([len(np.unique(y)) for y in labels.values()]),
        accuracy=accuracy,
        chance=np.array([np.bincount(y[~src.fit]).max() / n_test for y in labels.values()]),
        tied=np.array(
            [[_tie(y[part], src.target[part]) for part in (src.fit, ~src.fit)] for y in labels.values()]
        ),
        baseline=against,
        n_fit=n_fit,
        n_test=n_test,
        probe=probe,
        protocol=(
            f"Linear probe for each factor: {PROBES[probe]}, on stage maps averaged over their pixels, "
            f"standardised; fitted on {plural(n_fit, 'validation picture')}, judged on "
            f"{plural(n_test, 'test picture')}. Decodability is (accuracy - chance) / (1 - chance), with "
            "chance for always naming the most frequent value. Averaging over pixels hides most of where "
            "something lies."
        ),
    )


def _labels(src: Source, factors: Any) -> tuple[dict[str, np.ndarray], str]:
    """Whole numbers of each factor, the class label first, and the name it has."""
    given = _given(src, factors)
    if not given:
        raise ConfigError(
            "No factors of these pictures are known; use the data set 'shapes', or give your own: "
            "factors={name: one value for each picture}."
        )
    coded = {name: _coded(name, values, src) for name, values in given.items()}
    classes = np.unique(src.target, return_inverse=True)[1]
    label = next((name for name, y in coded.items() if _same(y, classes)), CLASS)
    if label == CLASS and CLASS in coded:
        raise ConfigError(f"{CLASS!r} is the class label itself; give that factor another name.")
    rest = {name: y for name, y in coded.items() if name != label}
    return {label: coded.get(label, classes), **rest}, label


def _given(src: Source, factors: Any) -> dict[str, np.ndarray]:
    if isinstance(factors, Mapping):
        return {str(name): np.asarray(values) for name, values in factors.items()}
    known = {name: np.asarray(values) for name, values in src.factors.items()}
    if factors is None:
        return known
    names = (factors,) if isinstance(factors, str) else tuple(factors)
    for name in names:
        if name not in known:
            raise unknown_name("factor", name, known)
    return {name: known[name] for name in names}


def _coded(name: str, values: np.ndarray, src: Source) -> np.ndarray:
    """Values as 0, 1, ...; refuses what no probe can be fitted to."""
    if values.shape != src.target.shape:
        raise ConfigError(
            f"Factor {name!r} must hold one value for each of the {len(src.target)} pictures, not shape "
            f"{values.shape}."
        )
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ConfigError(f"Factor {name!r} has NaN or infinite values; leave these pictures out.")
        if (values != np.round(values)).any():
            raise ConfigError(f"Factor {name!r} is continuous; cut it into bins first (numpy.digitize).")
    elif values.dtype.kind not in "iubU":
        raise ConfigError(f"Factor {name!r} must hold whole numbers or text, not {values.dtype}.")
    found, coded = np.unique(values, return_inverse=True)
    if not 2 <= len(found) <= _MOST_VALUES:
        raise ConfigError(
            f"Factor {name!r} has {plural(len(found), 'value')}; a probe needs 2 to {_MOST_VALUES} of them."
        )
    for part, which in ((src.fit, "fitting"), (~src.fit, "evaluation")):
        if len(np.unique(coded[part])) < 2:
            raise ConfigError(
                f"Factor {name!r} has a single value in the {which} part; there is nothing to read."
            )
    return coded.astype(np.int64)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two labellings part the pictures in the same way."""
    pairs = np.unique(np.stack([a, b]), axis=1).shape[1]
    return bool(pairs == len(np.unique(a)) == len(np.unique(b)))


def _tie(factor: np.ndarray, classes: np.ndarray) -> float:
    from sklearn.metrics import adjusted_mutual_info_score

    return float(adjusted_mutual_info_score(classes, factor))


def _baseline(src: Source, networks: Sequence[str], name: str | None) -> str:
    if name is not None:
        if name not in networks:
            raise unknown_name("network", name, networks)
        return name
    methods = getattr(src.study, "methods", None) or {}
    for student in networks:
        if student in methods and not methods[student].needs_teacher():
            return student
    return ""


def _share(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")

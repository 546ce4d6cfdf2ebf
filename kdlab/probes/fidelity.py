"""How faithfully students follow their teachers: agreement, divergence, and who is right when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.probes.evaluate import check_parts
from kdlab.probes.outputs import (
    MOST_OVERLAP,
    average,
    check_temperatures,
    divergence,
    log_softmax,
    logits_table,
    named_logits,
    pair_tables,
)
from kdlab.probes.progress import check, measurement, steps
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.result import Result
from kdlab.probes.sources import Source, as_source
from kdlab.probes.words import absent, at_epoch, listed, mean_over_seeds, percent, plural

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("fitting part", "test part")
ENSEMBLE = "ensemble of teachers"


@dataclass(frozen=True)
class Fidelity(Result):
    """Every pair of N networks at E epochs and S seeds, on both parts of the pictures.

    Tables of pairs are (E, S, 2, N, N): the third axis is `PARTS`, row and column are networks. NaN
    (counts: -1) where one of a pair has no snapshot of an epoch.

    Attributes:
        networks: teachers, then their ensemble (mean of probabilities) where there are several, then
            students; references: the first of these, whom students are compared with; teachers,
            students: which is which (`students` is the whole study's order, for the colours).
        plain: students that learn from labels alone, the control of what agreement needs no teacher.
        epochs: -1 for networks given without a training. seeds.
        temperatures: of the divergences.
        accuracy: (E, S, 2, N), 0..1.
        agreement: share of equal predictions, 0..1, symmetric.
        by_chance: what it would be if both predicted independently, each class as often as they do.
        right, wrong: agreement on the pictures that the row's network has right, or wrong; NaN where
            there are none.
        kl: (T, E, S, 2, N, N) mean KL(p_row || p_column) in nats at each temperature; no factor tau^2.
        top: mean share of the 5 highest classes in common, or None below 10 classes.
        quadrants: (E, S, 2, N, N, 4) pictures by who is right, the row's network being the "teacher" of
            `kdlab.probes.QUADRANTS`.
        seed_agreement: (E, 2, N) mean agreement of two seeds of the same student, over all pairs of
            seeds: what can be expected of equal trainings. seed_kl: (T, E, 2, N), in both directions.
            NaN for teachers, and with fewer than two seeds.
        n_fit, n_test: pictures in the two parts.
        protocol: how it was measured, in words.

    >>> found = kdlab.probes.fidelity(study, epochs="last")
    >>> found.networks, found.references, found.plain
    (('resnet8', 'alone', 'KD'), ('resnet8',), ('alone',))
    >>> found.agreement.shape  # epochs, seeds, parts, networks, networks
    (1, 1, 2, 3, 3)
    """

    figure: ClassVar[str] = "fidelity"

    networks: tuple[str, ...]
    references: tuple[str, ...]
    teachers: tuple[str, ...]
    students: tuple[str, ...]
    plain: tuple[str, ...]
    epochs: tuple[int, ...]
    seeds: tuple[int, ...]
    temperatures: tuple[float, ...]
    accuracy: np.ndarray
    agreement: np.ndarray
    by_chance: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    kl: np.ndarray
    top: np.ndarray | None
    quadrants: np.ndarray
    seed_agreement: np.ndarray
    seed_kl: np.ndarray
    n_fit: int
    n_test: int
    protocol: str

    @property
    def shown(self) -> tuple[str, ...]:
        """The students among `networks`."""
        return tuple(name for name in self.networks if name not in self.references)

    def to_frame(self) -> pd.DataFrame:
        """One row for each epoch, seed, part and ordered pair (reference, network)."""
        import pandas as pd

        rows = []
        for e, s, part, i, j in np.argwhere(np.isfinite(self.agreement)):
            if i == j:
                continue
            at = (e, s, part, i, j)
            row = {
                "reference": self.networks[i],
                "network": self.networks[j],
                "epoch": self.epochs[e],
                "seed": self.seeds[s],
                "part": PARTS[part],
                "accuracy": self.accuracy[e, s, part, j],
                "agreement": self.agreement[at],
                "agreement_by_chance": self.by_chance[at],
                "agreement_reference_right": self.right[at],
                "agreement_reference_wrong": self.wrong[at],
                "agreement_of_two_seeds": self.seed_agreement[e, part, j],
            }
            row |= {f"kl_{tau:g}": self.kl[(t, *at)] for t, tau in enumerate(self.temperatures)}
            if self.top is not None:
                row["top5_overlap"] = self.top[at]
            names = ("both_right", "network_wrong", "network_right", "both_wrong")
            row |= dict(zip(names, self.quadrants[at].tolist(), strict=True))
            rows.append(row)
        return pd.DataFrame(rows)

    @property
    def summary(self) -> str:
        """Agreement with the reference on test pictures, its controls, and where accuracy misleads."""
        if not self.references:
            return self._pairwise()
        reference = self.references[-1]
        r = self.networks.index(reference)

        def last(table: np.ndarray, name: str) -> float:
            return mean_over_seeds(table[-1, :, 1, r, self.networks.index(name)])

        there = [name for name in self.shown if np.isfinite(last(self.agreement, name))]
        if not there:
            return "No student has a snapshot of the last epoch."
        said = [f"{name} {percent(last(self.agreement, name))}" for name in there]
        apart = [f"{name} {last(self.kl[0], name):.2f}" for name in there]
        missing = absent([name for name in self.shown if name not in there])
        plain = listed([name for name in there if name in self.plain])
        learns = "" if plain == "nothing" else f" {plain} learned without a teacher."
        return (
            f"Agreement with {reference}{self._when()} on {plural(self.n_test, 'test picture')} is "
            f"{listed(said)}{self._mean()}; KL at temperature {self.temperatures[0]:g} is "
            f"{listed(apart)} nats.{learns}{self._two_seeds(there)}{self._misled(reference, there)}{missing}"
        )

    def _when(self) -> str:
        return "" if self.epochs[-1] == AS_GIVEN else f" after epoch {self.epochs[-1]}"

    def _mean(self) -> str:
        return f" (mean of {len(self.seeds)} seeds)" if len(self.seeds) > 1 else ""

    def _two_seeds(self, there: Sequence[str]) -> str:
        own = {name: self.seed_agreement[-1, 1, self.networks.index(name)] for name in there}
        said = [f"{name} {percent(value)}" for name, value in own.items() if np.isfinite(value)]
        return f" Two seeds of the same student agree on: {listed(said)}." if said else ""

    def _misled(self, reference: str, there: Sequence[str]) -> str:
        """Students about as right as the reference, but nearer to the labels than to it."""
        r = self.networks.index(reference)
        known = mean_over_seeds(self.accuracy[-1, :, 1, r])
        said = []
        for name in there:
            j = self.networks.index(name)
            accuracy = mean_over_seeds(self.accuracy[-1, :, 1, j])
            agreement = mean_over_seeds(self.agreement[-1, :, 1, r, j])
            if accuracy >= 0.9 * known and accuracy > agreement and name not in self.plain:
                said.append(f"{name} ({percent(accuracy)} right)")
        return (
            f" {listed(said)} agree{'' if len(said) > 1 else 's'} with the labels more often than with "
            f"{reference}: a good accuracy does not show that a teacher is followed."
            if said
            else ""
        )

    def _pairwise(self) -> str:
        table = np.array(
            [[mean_over_seeds(x) for x in row] for row in self.agreement[-1, :, 1].transpose(1, 2, 0)]
        )
        pairs = [
            f"{self.networks[i]} and {self.networks[j]} {percent(table[i, j])}"
            for i, j in combinations(range(len(self.networks)), 2)
            if np.isfinite(table[i, j])
        ]
        return (
            f"There is no teacher; agreement{self._when()} on {plural(self.n_test, 'test picture')} is "
            f"{listed(pairs)}{self._mean()}."
        )


@measurement
def fidelity(
    source: Any,
    *,
    target: Any = None,
    fit: Any = None,
    images: Any = None,
    data: Any = None,
    n: int = 2000,
    teacher: str | Iterable[str] | None = None,
    students: str | Iterable[str] | None = None,
    epochs: str | int | Iterable[int] = "all",
    seeds: str | int | Iterable[int] = "all",
    temperatures: float | Sequence[float] = (1.0, 4.0),
    plain: str | Iterable[str] | None = None,
) -> Fidelity:
    """Compare the predictions of every pair of networks, students with teachers above all.

    Both parts are held out: validation and test pictures of a study; on training pictures, which
    snapshots do not show, agreement is higher. The controls are two seeds of the same student, students
    that learn from labels alone, and the agreement of independent predictions. High accuracy with low
    fidelity is common (Stanton et al., NeurIPS 2021).

    Args:
        source: a study; or name -> logits (n, K), snapshot, or module.
        target, fit, images, data, n, teacher: for everything but a study, see `kdlab.probes.as_source`.
        students, seeds: which; None and "all" mean all.
        epochs: "all", "last", an epoch (negative counts from the last) or several.
        temperatures: of the divergences; the first is the one that is told of.
        plain: students that learn from labels alone; a study knows them itself.

    Raises:
        ConfigError: unknown names, fewer than two networks, no logits or logits that are not finite,
            different numbers of classes, too few pictures, or a temperature that is not positive.
        StudyError: the study has no snapshot yet.

    >>> target = np.arange(60) % 3
    >>> teacher, student = np.eye(3)[target], np.eye(3)[[0, 1, 1] * 20]  # the student knows no class 2
    >>> found = kdlab.probes.fidelity({"t": teacher, "s": student}, target=target, teacher="t")
    >>> found.references, round(float(found.agreement[0, 0, 1, 0, 1]), 2)  # on the test part
    (('t',), 0.67)
    """
    several = isinstance(temperatures, Iterable) and not isinstance(temperatures, str)
    taus: tuple[float, ...] = tuple(temperatures) if several else (temperatures,)  # type: ignore
    check_temperatures(*taus)
    taus = tuple(map(float, taus))
    src = as_source(
        named_logits(source), target=target, fit=fit, images=images, data=data, n=n, teacher=teacher
    )
    check_parts(src.target, src.fit)
    chosen = src.choose_networks(students)
    if len(chosen) < 2:
        raise ConfigError("Fidelity compares networks; give at least two, or a teacher: teacher=...")
    seed_list = src.choose_seeds(seeds, chosen)
    epoch_list = src.choose_epochs(epochs, seed_list, chosen)
    references = (*src.teachers, ENSEMBLE) if len(src.teachers) > 1 else src.teachers
    networks = (*references, *chosen[len(src.teachers) :])
    count = len(networks)

    shape = (len(epoch_list), len(seed_list), 2, count, count)
    tables = {key: np.full(shape, np.nan) for key in ("agreement", "by_chance", "right", "wrong", "top")}
    tables["accuracy"] = np.full(shape[:4], np.nan)
    tables["kl"] = np.full((len(taus), *shape), np.nan)
    quadrants = np.full((*shape, 4), -1, dtype=np.int64)
    seed_agreement = np.full((shape[0], 2, count), np.nan)
    seed_kl = np.full((len(taus), shape[0], 2, count), np.nan)
    parts = [np.flatnonzero(src.fit), np.flatnonzero(~src.fit)]
    presence = {seed: src.presence(chosen, epoch_list, seed) for seed in seed_list}
    classes = 0
    for e, epoch in steps(list(enumerate(epoch_list)), lambda at: at_epoch(at[1])):
        logits: dict[tuple[str, int], np.ndarray] = {}
        for s, seed in steps(list(enumerate(seed_list)), share=0.8):
            there = [name for name in chosen if epoch in presence[seed][name]]
            own = _logits(src, there, epoch, seed)
            logits |= {(name, s): own[name] for name in there if name not in src.teachers}
            if not own:
                continue
            classes = next(iter(own.values())).shape[1]
            names = [name for name in networks if name in own or name == ENSEMBLE]
            places = np.array([networks.index(name) for name in names], dtype=np.int64)
            for p, part in enumerate(parts):
                check()
                cut = {k: v[part] for k, v in own.items()}
                found = pair_tables(*_log_probabilities(cut, names, src.teachers, taus), src.target[part])
                quadrants[e, s, p][np.ix_(places, places)] = found.pop("quadrants")
                tables["accuracy"][e, s, p, places] = found.pop("accuracy")
                for t, table in enumerate(found.pop("kl")):
                    tables["kl"][t, e, s, p][np.ix_(places, places)] = table
                for key, table in found.items():
                    tables[key][e, s, p][np.ix_(places, places)] = table
        for j, name in steps(list(enumerate(networks))):
            own_seeds = [logits[name, s] for s in range(len(seed_list)) if (name, s) in logits]
            if len(own_seeds) > 1:
                for p, part in enumerate(parts):
                    seed_agreement[e, p, j], seed_kl[:, e, p, j] = _seeds([x[part] for x in own_seeds], taus)
    return Fidelity(
        networks=networks,
        references=references,
        teachers=src.teachers,
        students=src.students,
        plain=_plain(src, plain),
        epochs=epoch_list,
        seeds=seed_list,
        temperatures=taus,
        accuracy=tables["accuracy"],
        agreement=tables["agreement"],
        by_chance=tables["by_chance"],
        right=tables["right"],
        wrong=tables["wrong"],
        kl=tables["kl"],
        top=tables["top"] if classes >= MOST_OVERLAP else None,
        quadrants=quadrants,
        seed_agreement=seed_agreement,
        seed_kl=seed_kl,
        n_fit=len(parts[0]),
        n_test=len(parts[1]),
        protocol=(
            f"Predictions on {plural(len(parts[0]), 'held-out picture')} (fitting part) and "
            f"{plural(len(parts[1]), 'other one')} (test part); nothing is fitted. KL is "
            "KL(reference || network) at equal temperature, without the factor τ²."
        ),
    )


def _plain(src: Source, given: str | Iterable[str] | None) -> tuple[str, ...]:
    """Students that learn from labels alone."""
    if given is not None:
        names = (given,) if isinstance(given, str) else tuple(given)
        for name in names:
            if name not in src.students:
                raise unknown_name("student", name, src.students)
        return names
    methods = getattr(src.study, "methods", {})
    return tuple(name for name in src.students if name in methods and not methods[name].needs_teacher())


def _logits(src: Source, names: Sequence[str], epoch: int, seed: int) -> dict[str, np.ndarray]:
    found = {name: logits_table(src, name, epoch, seed) for name in names}
    widths = {name: table.shape[1] for name, table in found.items()}
    for name, width in widths.items():
        if width != widths[names[0]]:
            raise ConfigError(
                f"{names[0]!r} has {widths[names[0]]} classes and {name!r} has {width}; leave one of "
                "them out, as their predictions cannot be compared."
            )
    return found


def _log_probabilities(
    logits: dict[str, np.ndarray], names: Sequence[str], teachers: Sequence[str], taus: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """(N, n, K) scores that rank the classes, and (T, N, n, K) log-probabilities at each temperature."""
    by_tau = []
    for tau in (1.0, *taus):
        own = {name: log_softmax(table / tau) for name, table in logits.items()}
        if ENSEMBLE in names:
            own[ENSEMBLE] = average([own[name] for name in teachers])
        by_tau.append(own)
    # logits as they are, so that rounding cannot make the two highest equal
    scores = np.stack([logits.get(name, by_tau[0][name]) for name in names])
    return scores, np.stack([[own[name] for name in names] for own in by_tau[1:]])


def _seeds(several: Sequence[np.ndarray], taus: Sequence[float]) -> tuple[float, np.ndarray]:
    """Mean agreement and divergences over all pairs of seeds."""
    said = np.stack([table.argmax(axis=1) for table in several])
    agreement = np.mean([(said[a] == said[b]).mean() for a, b in combinations(range(len(several)), 2)])
    others = ~np.eye(len(several), dtype=bool)
    kl = [divergence(log_softmax(np.stack(several) / tau))[others].mean() for tau in taus]
    return float(agreement), np.asarray(kl)

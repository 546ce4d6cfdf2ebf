"""Whether networks are as sure as they are right, before and after one temperature is fitted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from kdlab.probes import metrics
from kdlab.probes.evaluate import check_parts
from kdlab.probes.inputs import whole
from kdlab.probes.metrics.outputs import TEMPERATURES, bucket
from kdlab.probes.outputs import logits_table, named_logits
from kdlab.probes.progress import check, measurement
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.result import Result
from kdlab.probes.sources import as_source
from kdlab.probes.threads import single_thread
from kdlab.probes.words import absent, listed, mean_over_seeds, percent, plural

if TYPE_CHECKING:
    import pandas as pd

SCALINGS = ("as it is", "temperature scaled")
MEASURES: Mapping[str, str] = {
    "accuracy": "accuracy",
    "nll": "negative log-likelihood (nats)",
    "brier": "Brier score (0 to 2)",
    "ece": "expected calibration error",
    "adaptive_ece": "calibration error, bins of equal size",
    "confidence": "mean confidence",
    "ece_if_calibrated": "calibration error of a calibrated network",
}
"""What is measured, and how figures call it."""
_DRAWS = 200


@dataclass(frozen=True)
class Calibration(Result):
    """Calibration of N networks x E epochs x S seeds on the test part, before and after scaling.

    NaN where a network has no snapshot of an epoch. A teacher does not change: it has the same values
    at all epochs, at the first seed alone.

    Attributes:
        networks: teachers first; teachers, students: which is which (`students` is the whole study's
            order, from which figures take their colours).
        epochs: -1 for networks given without a training. seeds.
        bins: number of bins of equal width, on which the calibration error depends.
        values: name in `MEASURES` -> (N, E, S, 2); the last axis is `SCALINGS`. "ece_if_calibrated" is
            the control: what a network with the same confidences would show on so many pictures if it
            were right exactly as often as it is sure; the ECE of few pictures is never 0.
        temperature: (N, E, S) fitted on the fitting part; above 1: the network was too sure.
        at_limit: (N, E, S) bool: no temperature within 0.01 .. 100 is best, so an end was taken.
        counts: (N, E, S, 2, bins) test pictures in each bin; hits: how many of them are right.
        sureness: (N, E, S, 2, bins) their mean confidence; NaN in an empty bin.
        n_fit, n_test: pictures to fit the temperature and to judge.
        chance: accuracy of always naming the most frequent class.
        protocol: how it was measured, in words.

    >>> found = kdlab.probes.calibration(study, bins=10)
    >>> found.values["ece"].shape  # networks, epochs, seeds, before and after scaling
    (3, 4, 1, 2)
    >>> found.n_fit, found.n_test, len(found.edges)
    (40, 40, 11)
    """

    figure: ClassVar[str] = "reliability"

    networks: tuple[str, ...]
    teachers: tuple[str, ...]
    students: tuple[str, ...]
    epochs: tuple[int, ...]
    seeds: tuple[int, ...]
    bins: int
    values: Mapping[str, np.ndarray]
    temperature: np.ndarray
    at_limit: np.ndarray
    counts: np.ndarray
    hits: np.ndarray
    sureness: np.ndarray
    n_fit: int
    n_test: int
    chance: float
    protocol: str

    @property
    def edges(self) -> np.ndarray:
        """(bins + 1,) ends of the bins, 0 to 1; a bin holds its right end."""
        return np.linspace(0.0, 1.0, self.bins + 1)

    @property
    def accuracy(self) -> np.ndarray:
        """(N, E, S, 2, bins) share of right pictures in each bin; NaN in an empty one."""
        return np.where(self.counts > 0, self.hits / np.maximum(self.counts, 1), np.nan)

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Wilson's 95 % interval of `accuracy`: low and high, (N, E, S, 2, bins)."""
        low, high = metrics.wilson_interval(self.hits, self.counts)
        return low.numpy(), high.numpy()

    def to_frame(self) -> pd.DataFrame:
        """One row for each network, epoch, seed and scaling."""
        import pandas as pd

        rows = []
        for n, e, s in np.argwhere(np.isfinite(self.temperature)):
            for scaling, name in enumerate(SCALINGS):
                rows.append(
                    {
                        "network": self.networks[n],
                        "role": "teacher" if self.networks[n] in self.teachers else "student",
                        "epoch": self.epochs[e],
                        "seed": self.seeds[s],
                        "scaling": name,
                        "temperature": self.temperature[n, e, s] if scaling else 1.0,
                        "bins": self.bins,
                        **{key: table[n, e, s, scaling] for key, table in self.values.items()},
                    }
                )
        return pd.DataFrame(rows)

    def bin_frame(self) -> pd.DataFrame:
        """The reliability diagrams: one row for each network, epoch, seed, scaling and bin with pictures."""
        import pandas as pd

        low, high = self.interval()
        rows = [
            {
                "network": self.networks[n],
                "epoch": self.epochs[e],
                "seed": self.seeds[s],
                "scaling": SCALINGS[scaling],
                "bin_from": self.edges[b],
                "bin_to": self.edges[b + 1],
                "pictures": int(self.counts[n, e, s, scaling, b]),
                "accuracy": self.accuracy[n, e, s, scaling, b],
                "confidence": self.sureness[n, e, s, scaling, b],
                "wilson_low": low[n, e, s, scaling, b],
                "wilson_high": high[n, e, s, scaling, b],
            }
            for n, e, s, scaling, b in np.argwhere(self.counts > 0)
        ]
        return pd.DataFrame(rows)

    @property
    def summary(self) -> str:
        """Calibration errors before and after scaling at the last epoch, and their control."""

        def last(key: str, n: int, scaling: int) -> float:
            return mean_over_seeds(self.values[key][n, -1, :, scaling])

        there = [n for n in range(len(self.networks)) if np.isfinite(last("ece", n, 0))]
        if not there:
            return "No network has a snapshot of the last epoch."
        said = []
        for n in there:
            gap = last("confidence", n, 0) - last("accuracy", n, 0)
            error = last("ece", n, 0)
            word = "too sure" if gap > 0 else "not sure enough"
            if error <= last("ece_if_calibrated", n, 0):
                word = "as a calibrated one"
            tau = mean_over_seeds(self.temperature[n, -1])
            after = f"{percent(last('ece', n, 1))} after scaling by {tau:.2f}"
            if self.at_limit[n, -1].any():
                after = "no best temperature"
            said.append(f"{self.networks[n]} {percent(error)} ({word}; {after})")
        when = "" if self.epochs[-1] == AS_GIVEN else f" after epoch {self.epochs[-1]}"
        seeds = f", mean of {len(self.seeds)} seeds" if len(self.seeds) > 1 else ""
        control = float(np.mean([last("ece_if_calibrated", n, 0) for n in there]))
        missing = absent([name for n, name in enumerate(self.networks) if n not in there])
        return (
            f"Expected calibration error{when} ({self.bins} bins{seeds}): {listed(said)}. Perfectly "
            f"calibrated networks with these confidences would show about {percent(control)} on "
            f"{plural(self.n_test, 'test picture')}.{missing}"
        )


@measurement
def calibration(
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
    bins: int = 15,
) -> Calibration:
    """Compare how sure each network is with how often it is right, on test pictures.

    The temperature is fitted on the fitting part (validation pictures of a study) by maximum
    likelihood; it changes no prediction (Guo et al., ICML 2017). The calibration error depends on the
    number of bins and of pictures, so its value for a calibrated network is given beside it.

    Args:
        source: a study; or name -> logits (n, K), snapshot, or module.
        target, fit, images, data, n, teacher: for everything but a study, see `kdlab.probes.as_source`.
        students, seeds: which; None and "all" mean all.
        epochs: "all", "last", an epoch (negative counts from the last) or several.
        bins: of equal width.

    Raises:
        ConfigError: unknown names, no logits, no bin, too few pictures, labels without a logit, or logits
            that are not finite.
        StudyError: the study has no snapshot yet.

    >>> logits = 2 * np.log([[3, 1]] * 40)  # sure to 9/10 ...
    >>> target = np.arange(40) // 2 % 4 // 3  # ... and right in 3 of 4
    >>> found = kdlab.probes.calibration({"net": logits}, target=target)
    >>> round(found.temperature.item(), 2)
    2.0
    """
    bins = whole(bins, "bins", 1)
    given = named_logits(source)
    src = as_source(given, target=target, fit=fit, images=images, data=data, n=n, teacher=teacher)
    check_parts(src.target, src.fit)
    networks = src.choose_networks(students)
    seed_list = src.choose_seeds(seeds, networks)
    epoch_list = src.choose_epochs(epochs, seed_list, networks)
    shape = (len(networks), len(epoch_list), len(seed_list))
    values = {name: np.full((*shape, 2), np.nan) for name in MEASURES}
    temperature, at_limit = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    counts, hits = (np.zeros((*shape, 2, bins), dtype=np.int64) for _ in range(2))
    sureness = np.full((*shape, 2, bins), np.nan)
    labels = torch.from_numpy(src.target)
    fitting, test = (torch.from_numpy(np.flatnonzero(part)) for part in (src.fit, ~src.fit))
    with single_thread():
        for i, e, s in src.visits(networks, epoch_list, seed_list):
            at = (i, slice(None) if networks[i] in src.teachers else e, s)
            logits = torch.from_numpy(logits_table(src, networks[i], epoch_list[e], seed_list[s]))
            tau = metrics.optimal_temperature(logits[fitting], labels[fitting])
            temperature[at], at_limit[at] = tau, tau in TEMPERATURES
            for scaling, by in enumerate((1.0, tau)):
                check()
                found, table = _judge(logits[test] / by, labels[test], bins)
                for key, value in found.items():
                    values[key][(*at, scaling)] = value
                counts[(*at, scaling)], hits[(*at, scaling)], sureness[(*at, scaling)] = table
    n_fit, n_test = len(fitting), len(test)
    return Calibration(
        networks=networks,
        teachers=src.teachers,
        students=src.students,
        epochs=epoch_list,
        seeds=seed_list,
        bins=bins,
        values=values,
        temperature=temperature,
        at_limit=at_limit,
        counts=counts,
        hits=hits,
        sureness=sureness,
        n_fit=n_fit,
        n_test=n_test,
        chance=src.chance,
        protocol=(
            f"Confidence is the largest softmax probability. Judged on {plural(n_test, 'test picture')} in "
            f"{plural(bins, 'bin')} of equal width; one temperature for each network, epoch and seed fitted "
            f"by maximum likelihood on {plural(n_fit, 'other held-out picture')}. Bars are Wilson's 95 % "
            "intervals."
        ),
    )


def _judge(
    logits: torch.Tensor, labels: torch.Tensor, bins: int
) -> tuple[dict[str, float], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Measures of one network, and counts, hits and mean confidence of its bins."""
    counts, accuracy, sureness = metrics.reliability_bins(logits, labels, bins)
    hits = (accuracy.nan_to_num() * counts).round().long()
    confidence = logits.softmax(dim=1).max(dim=1).values
    return {
        "accuracy": float(hits.sum()) / len(labels),
        "nll": metrics.negative_log_likelihood(logits, labels),
        "brier": metrics.brier_score(logits, labels),
        "ece": metrics.expected_calibration_error(logits, labels, bins),
        "adaptive_ece": metrics.adaptive_calibration_error(logits, labels, bins),
        "confidence": float(confidence.mean()),
        "ece_if_calibrated": _if_calibrated(confidence, bins),
    }, (counts.numpy(), hits.numpy(), sureness.numpy())


def _if_calibrated(confidence: torch.Tensor, bins: int) -> float:
    """Mean ECE of networks that are right with just the probability that they claim."""
    position = bucket(confidence, bins)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(_DRAWS, len(confidence), generator=generator, dtype=torch.float64) < confidence
    gap = (drawn.double() - confidence) @ torch.nn.functional.one_hot(position, bins).double()
    return float(gap.abs().sum(dim=1).mean() / len(confidence))

"""How alike two sets of maps over the same pictures are, and how alike they would be for no good reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.result import Result
from kdlab.probes.words import listed, mean_over_seeds, number, percent, plural

if TYPE_CHECKING:
    import pandas as pd

MEASURES: Mapping[str, str] = {
    "spearman": "rank correlation",
    "cosine": "cosine",
    "iou": "overlap of the strongest fifth",
    "same_peak": "strongest cell is the same",
    "peak_distance": "distance of the strongest cells",
}
"""Measure -> its name in figures."""

TEACHER, SHUFFLED, UNTRAINED, SEED, STUDENTS = (
    "teacher",
    "another picture",
    "untrained",
    "another seed",
    "other students",
)
COMPARISONS: Mapping[str, str] = {
    TEACHER: "student and teacher",
    SHUFFLED: "student and teacher, another picture",
    UNTRAINED: "untrained network and teacher",
    SEED: "student and itself, another seed",
    STUDENTS: "student and the other students",
}
"""Comparison -> what is compared with what."""

TOP = 0.2  # share of the cells that count as the strongest


@dataclass(frozen=True)
class MapAgreement(Result):
    """Agreement of S students' maps with the teacher's on m pictures, beside its controls.

    A control is the same measure between maps that have no reason to agree, or every reason:
    the teacher's map of another picture (what both owe to the centre of the picture), an untrained
    network of the student's kind, the same student of another seed, the other students.

    Attributes:
        students: shown here; roster: all of the source, from which figures take their colours.
        teacher: the one that is compared with. method: how the maps were made, in words.
        epochs: -1 for networks given without a training. seed: of the run.
        comparisons: keys of `COMPARISONS` that could be made here.
        scores: (student, epoch, comparison, measure) -> (m,); NaN where one of the maps is the same
            everywhere, so that there is nothing to compare.
        chance: (student, measure) -> what maps of independent random cells would have; no entry for the
            cosine, where it depends on the maps.
        hits: (network, epoch) -> (m,) 1 where the strongest cell lies on the object, NaN for an even map;
            empty where the places of the objects are not known.
        hit_chance: share of the pictures that the objects cover; NaN where it is not known.

    >>> agreement = kdlab.probes.attributions(study, method="attention").agreement
    >>> agreement.students, agreement.comparisons[:2]
    (('alone', 'KD'), ('teacher', 'another picture'))
    >>> -1 <= agreement.mean("KD") <= 1
    True
    """

    figure: ClassVar[str] = "attribution_agreement"

    students: tuple[str, ...]
    roster: tuple[str, ...]
    teacher: str
    method: str
    epochs: tuple[int, ...]
    seed: int
    comparisons: tuple[str, ...]
    scores: Mapping[tuple[str, int, str, str], np.ndarray]
    chance: Mapping[tuple[str, str], float]
    hits: Mapping[tuple[str, int], np.ndarray] = field(default_factory=dict)
    hit_chance: float = float("nan")

    def mean(self, student: str, comparison: str = TEACHER, measure: str = "spearman") -> float:
        """Mean over the pictures at the last epoch that this student has; NaN where nothing was compared."""
        if measure not in MEASURES:
            raise unknown_name("measure of agreement", measure, MEASURES)
        there = [e for e in self.epochs if (student, e, comparison, measure) in self.scores]
        return mean_over_seeds(self.scores[student, there[-1], comparison, measure]) if there else np.nan

    def to_frame(self) -> pd.DataFrame:
        """One row for each student, epoch, comparison, measure and picture, with the chance level."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "network": name,
                    "epoch": epoch,
                    "comparison": COMPARISONS[comparison],
                    "measure": measure,
                    "picture": i,
                    "value": float(values[i]),
                    "chance": self.chance.get((name, measure), float("nan")),
                }
                for (name, epoch, comparison, measure), values in self.scores.items()
                for i in range(len(values))
            ]
        )

    @property
    def summary(self) -> str:
        """Rank correlation with the teacher, its controls, and what it does not show."""
        if not self.scores:
            return f"There is no teacher to compare the {self.method} of {listed(list(self.students))} with."
        first = next(iter(self.scores.values()))
        last = self.epochs[-1]
        when = "" if last == AS_GIVEN else f" after epoch {last}"
        said = [f"{name} {number(self.mean(name))}" for name in self.students]
        beside = []
        for comparison in self.comparisons[1:]:
            value = mean_over_seeds(np.array([self.mean(name, comparison) for name in self.students]))
            beside.append(f"{COMPARISONS[comparison]} {number(value)}")
        controls = f" For comparison, mean over students: {'; '.join(beside)}." if beside else ""
        even = max(
            int(np.isnan(v).sum()) for (_, _, c, m), v in self.scores.items() if (c, m) == (TEACHER, "cosine")
        )
        left = f" Up to {plural(even, 'picture')} with an empty map left out." if even else ""
        shown = [
            f"{name} {percent(mean_over_seeds(values), 0)}"
            for (name, epoch), values in self.hits.items()
            if epoch == last
        ]
        game = (
            f" The strongest cell lies on the object in: {listed(shown)} (chance "
            f"{percent(self.hit_chance, 0)})."
            if shown
            else ""
        )
        return (
            f"Rank correlation between the student's and the teacher's {self.method}, mean over "
            f"{plural(len(first), 'picture')}{when} (1 is equal order, 0 is chance): {listed(said)}."
            f"{controls}{left}{game} Similar maps are not evidence of equal reasoning."
        )


def compare_maps(a: np.ndarray, b: np.ndarray, share: float = TOP) -> dict[str, np.ndarray]:
    """Agreement of two maps of each picture; the finer one is averaged down to the coarser.

    Args:
        a, b: (m, h, w) and (m, h', w'), signed or not.
        share: of the cells that count as the strongest, between 0 and 1.

    Returns:
        measure -> (m,) float64: "spearman" rank correlation, -1..1, ties with their mean rank;
        "cosine", -1..1, of the values themselves; "iou" intersection over union of the strongest cells,
        0..1 (cells tied at the border are left out, so that zeros do not count as strong);
        "same_peak" 0 or 1; "peak_distance" as a share of the picture's diagonal, 0..1.
        NaN where one of the two maps is the same everywhere.

    Raises:
        ConfigError: different numbers of pictures, values that are not finite, or a bad share.

    >>> a = np.arange(16.0).reshape(1, 4, 4)
    >>> found = kdlab.probes.compare_maps(a, 10 * a + 1)
    >>> {name: round(float(value[0]), 4) for name, value in found.items()}
    {'spearman': 1.0, 'cosine': 1.0, 'iou': 1.0, 'same_peak': 1.0, 'peak_distance': 0.0}
    """
    if not 0 < share < 1:
        raise ConfigError(f"The share of strongest cells must lie between 0 and 1, not {share!r}.")
    a, b = same_grid(a, b)
    from scipy.stats import rankdata

    flat = [x.reshape(len(x), -1) for x in (a, b)]
    even = np.zeros(len(a), dtype=bool)
    for x in flat:
        even |= np.ptp(x, axis=1) <= 1e-12 * np.maximum(np.abs(x).max(axis=1), 1e-300)
    ranks = [rankdata(x, axis=1) for x in flat]
    ranks = [r - r.mean(axis=1, keepdims=True) for r in ranks]
    top = [strongest(x, share) for x in flat]
    union = (top[0] | top[1]).sum(axis=1)
    places = [peak(x) for x in (a, b)]
    out = {
        "spearman": _cosine(*ranks),
        "cosine": _cosine(*flat),
        "iou": (top[0] & top[1]).sum(axis=1) / np.maximum(union, 1),
        "same_peak": (flat[0].argmax(axis=1) == flat[1].argmax(axis=1)).astype(np.float64),
        "peak_distance": np.linalg.norm(places[0] - places[1], axis=1) / np.sqrt(2),
    }
    return {measure: np.where(even, np.nan, values) for measure, values in out.items()}


def chance_levels(a: np.ndarray, b: np.ndarray, share: float = TOP) -> dict[str, float]:
    """What `compare_maps` would give on average if the cells of one of the maps were shuffled.

    Exact. The cosine is left out: it depends on the values, and is high for any two maps without
    negative values. Real maps are smooth and centred, so the control with another picture, which
    keeps that, is the fairer one.
    """
    a, b = same_grid(a, b)
    count, height, width = a.shape
    sizes = [strongest(x.reshape(count, -1), share).sum(axis=1) for x in (a, b)]
    pairs, often = np.unique(np.stack(sizes, axis=1), axis=0, return_counts=True)
    overlap = sum(
        n * expected_iou(height * width, int(i), int(j)) for (i, j), n in zip(pairs, often, strict=True)
    )
    rows, columns = (np.arange(size) / size for size in (height, width))
    y, x = (np.subtract.outer(line, line) for line in (rows, columns))
    distance = np.hypot(y[:, None, :, None], x[None, :, None, :]).mean() / np.sqrt(2)
    return {
        "spearman": 0.0,
        "iou": float(overlap) / count,
        "same_peak": 1.0 / (height * width),
        "peak_distance": float(distance),
    }


def expected_iou(cells: int, first: int, second: int) -> float:
    """Mean intersection over union of random sets of `first` and `second` out of `cells` cells.

    The intersection is hypergeometric. For sets of a share s it is near s / (2 - s): 0.11 for a fifth.
    """
    from scipy.stats import hypergeom

    if not first + second:
        return 0.0
    both = np.arange(min(first, second) + 1)
    return float((hypergeom(cells, first, second).pmf(both) * both / (first + second - both)).sum())


def strongest(flat: np.ndarray, share: float = TOP) -> np.ndarray:
    """(m, cells) bool: the highest `share` of each row, at least one.

    Less where cells are tied at the border; of a row whose strongest cells are tied beyond that number, all
    of these.
    """
    cells = flat.shape[1]
    count = min(max(1, round(share * cells)), cells)
    if count == cells:
        return np.ones_like(flat, dtype=bool)
    border = -np.partition(-flat, count, axis=1)[:, count : count + 1]  # the first that is too many
    inside: np.ndarray = flat > border
    return np.where(inside.any(axis=1, keepdims=True), inside, flat == flat.max(axis=1, keepdims=True))


def peak(maps: np.ndarray) -> np.ndarray:
    """(m, 2) centre (row, column) of the strongest cell, in 0..1 of the picture's height and width."""
    count, height, width = maps.shape
    place = maps.reshape(count, -1).argmax(axis=1)
    return np.stack([(place // width + 0.5) / height, (place % width + 0.5) / width], axis=1)


def pointing_hits(maps: np.ndarray, centre: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Pointing game (Zhang et al., ECCV 2016): 1 where the strongest cell's centre lies on the object.

    Args:
        maps: (m, h, w).
        centre: (m, 2) row and column of the object in 0..1. radius: (m,) in the same unit.

    Returns:
        (m,) 0 or 1; NaN for a map that is the same everywhere.
    """
    hit = (np.linalg.norm(peak(maps) - centre, axis=1) <= radius).astype(np.float64)
    return np.where(np.ptp(maps.reshape(len(maps), -1), axis=1) > 0, hit, np.nan)


def same_grid(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in float64 on the coarser of their grids: (m, min h, min w), averaged over areas.

    Raises:
        ConfigError: they are not maps of equally many pictures, or hold values that are not finite.
    """
    if a.ndim != 3 or b.ndim != 3 or len(a) != len(b) or not a.size or not b.size:
        raise ConfigError(
            f"Two maps of each picture are compared, (pictures, height, width), not {a.shape} and {b.shape}."
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ConfigError("Some maps hold NaN or infinite values; a network has diverged.")
    size = (min(a.shape[1], b.shape[1]), min(a.shape[2], b.shape[2]))
    return resized(a, size), resized(b, size)


def resized(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(m, h, w) float64 -> (m, *size): averaged over areas where it shrinks, bilinear where it grows."""
    import torch
    import torch.nn.functional as F

    if maps.shape[1:] == tuple(size):
        return np.asarray(maps, dtype=np.float64)
    given = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float64))[:, None]
    smaller = (min(size[0], maps.shape[1]), min(size[1], maps.shape[2]))
    out = F.adaptive_avg_pool2d(given, smaller)
    if smaller != tuple(size):
        out = F.interpolate(out, size=size, mode="bilinear", align_corners=False)
    return np.asarray(out[:, 0].numpy())


def relative(maps: np.ndarray) -> np.ndarray:
    """(m, h, w) maps in units of their root mean square: 1 everywhere is an even map; 0 for a dead one."""
    maps = np.asarray(maps, dtype=np.float64)
    size = np.sqrt(np.square(maps).mean(axis=(1, 2), keepdims=True))
    return np.where(size > 1e-12, maps / np.maximum(size, 1e-12), 0.0)


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x / np.maximum(np.abs(x).max(axis=1, keepdims=True), 1e-300) for x in (a, b))
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.clip((a * b).sum(axis=1) / np.maximum(norm, 1e-300), -1.0, 1.0)


def merge(scores: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Means over several comparisons, picture by picture, of those that exist."""
    out = {}
    for measure in scores[0]:
        table = np.stack([score[measure] for score in scores])
        count = np.isfinite(table).sum(axis=0)
        out[measure] = np.where(count > 0, np.nansum(table, axis=0) / np.maximum(count, 1), np.nan)
    return out

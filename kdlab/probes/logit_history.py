"""The parts of the KD loss over epochs and seeds: does the student close the gap, and where?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdlab.probes.logits import (
    QUADRANTS,
    all_class_names,
    check_widths,
    decomposed,
    evaluation_places,
    logit_source,
    read_logits,
)
from kdlab.probes.outputs import check_temperatures
from kdlab.probes.progress import measurement
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.result import Result
from kdlab.probes.words import listed, mean_over_seeds, percent, plural, spread_over_seeds

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("kd", "tckd", "product", "nckd")
"""KD, its target part, its non-target part (weight times NCKD), and NCKD without the weight."""


@dataclass(frozen=True)
class LogitHistory(Result):
    """KD against the teacher taken apart, of S students at E epochs in R seeds, on n held-out pictures.

    Measured on the pictures of the snapshots, whatever loss a student was trained with. NaN where a
    student has no snapshot.

    Attributes:
        students: shown here; roster: all of the source, from which figures take their colours.
        teacher: its name. epochs: (E,) 0 is before training. seeds: (R,).
        temperature: tau; losses are multiplied by tau^2.
        kd, tckd, product, nckd: (S, E, R) means over the pictures; kd = tckd + product.
        quadrants: (S, E, R, 4) shares of the pictures, in the order of `QUADRANTS`.
        agreement: (S, E, R) share of the pictures on which student and teacher name one class.
        p_t_student: (S, E, R) mean probability of the true class at tau. p_t_teacher: the teacher's.
        classes: (C,) labels that occur. class_names: one a class.
        class_tckd, class_product: (S, E, R, C) means over the pictures of each class.
        count: n, pictures.

    >>> found = kdlab.probes.logit_history(study, epochs="last", students="KD")
    >>> np.allclose(found.kd, found.tckd + found.product, atol=1e-5), np.allclose(found.quadrants.sum(3), 1)
    (True, True)
    """

    figure: ClassVar[str] = "logits_over_epochs"

    students: tuple[str, ...]
    roster: tuple[str, ...]
    teacher: str
    epochs: tuple[int, ...]
    seeds: tuple[int, ...]
    temperature: float
    kd: np.ndarray
    tckd: np.ndarray
    product: np.ndarray
    nckd: np.ndarray
    quadrants: np.ndarray
    agreement: np.ndarray
    p_t_student: np.ndarray
    p_t_teacher: float
    classes: np.ndarray
    class_names: tuple[str, ...]
    class_tckd: np.ndarray
    class_product: np.ndarray
    count: int

    @property
    def share(self) -> np.ndarray:
        """(S, E, R) share of the target part in the mean KD loss; NaN where student and teacher are equal."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.kd > 0, self.tckd / self.kd, np.nan)

    def to_frame(self) -> pd.DataFrame:
        """One row for each student, epoch and seed that was measured."""
        import pandas as pd

        rows = []
        share = self.share
        for s, name in enumerate(self.students):
            for e, epoch in enumerate(self.epochs):
                for r, seed in enumerate(self.seeds):
                    if np.isfinite(self.kd[s, e, r]):
                        row = {part: getattr(self, part)[s, e, r] for part in PARTS}
                        row |= {"share": share[s, e, r], "agreement": self.agreement[s, e, r]}
                        row |= {"p_t_student": self.p_t_student[s, e, r]}
                        row |= {q: self.quadrants[s, e, r, k] for k, q in enumerate(QUADRANTS)}
                        rows.append({"network": name, "epoch": epoch, "seed": seed, **row})
        return pd.DataFrame(rows)

    def by_class(self) -> pd.DataFrame:
        """One row for each student, epoch, seed and class."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "network": self.students[s],
                    "epoch": self.epochs[e],
                    "seed": self.seeds[r],
                    "label": int(self.classes[c]),
                    "class": self.class_names[self.classes[c]],
                    "tckd": self.class_tckd[s, e, r, c],
                    "product": self.class_product[s, e, r, c],
                }
                for s, e, r, c in np.argwhere(np.isfinite(self.class_tckd))
            ]
        )

    @property
    def summary(self) -> str:
        """KD at the last epoch of each student, how much of it is about the true class, and the agreement."""
        said = []
        for s, name in enumerate(self.students):
            there = np.flatnonzero(np.isfinite(self.kd[s]).any(axis=1))
            if not there.size:
                continue
            e = int(there[-1])
            spread = spread_over_seeds(self.kd[s, e])
            more = f" ± {spread:.2f}" if np.isfinite(spread) else ""
            said.append(
                f"{name} {mean_over_seeds(self.kd[s, e]):.2f}{more} "
                f"({percent(mean_over_seeds(self.share[s, e]), 0)} of it about the true class; one answer "
                f"with the teacher on {percent(mean_over_seeds(self.agreement[s, e]), 0)})"
            )
        when = "" if self.epochs[-1] == AS_GIVEN else f" at the last of {plural(len(self.epochs), 'epoch')}"
        return (
            f"KD loss against {self.teacher} at temperature {self.temperature:g} on "
            f"{plural(self.count, 'picture')}{when}, mean of {plural(len(self.seeds), 'seed')}: "
            f"{listed(said)}."
        )


@measurement
def logit_history(
    source: Any,
    samples: Sequence[int] | None = None,
    *,
    temperature: float = 4.0,
    target: Any = None,
    images: Any = None,
    data: Any = None,
    teacher: str | None = None,
    students: str | Iterable[str] | None = None,
    epochs: str | int | Iterable[int] = "all",
    seeds: str | int | Iterable[int] = "all",
) -> LogitHistory:
    """Take the KD loss apart at several epochs and seeds; `logit_decomposition` shows one of them in full.

    Args:
        source, samples, temperature, target, images, data, teacher, students: as in `logit_decomposition`.
        epochs: "all", "last", an epoch (negative counts from the last) or several.
        seeds: "all", a seed or several.

    Raises:
        ConfigError: unknown names or places, no teacher, logits of different widths, or a bad temperature.
        StudyError: the study has no snapshot yet.

    >>> found = kdlab.probes.logit_history(study)
    >>> found.epochs, found.kd.shape  # students, epochs, seeds
    ((0, 1, 2, 3), (2, 4, 1))
    """
    check_temperatures(temperature)
    src = logit_source(source, target=target, images=images, data=data, teacher=teacher)
    names = src.choose_networks(students, teachers=False)
    own_seeds = src.choose_seeds(seeds, names)
    own_epochs = src.choose_epochs(epochs, own_seeds, names)
    shown = evaluation_places(src, samples)
    labels = src.target[shown]
    classes = np.unique(labels)
    of_class = (labels == classes[:, None]) / (labels == classes[:, None]).sum(axis=1, keepdims=True)
    shape = (len(names), len(own_epochs), len(own_seeds))
    means = {part: np.full(shape, np.nan) for part in (*PARTS, "student_target")}
    quadrants = np.full((*shape, 4), np.nan)
    agreement = np.full(shape, np.nan)
    by_class = {part: np.full((*shape, len(classes)), np.nan) for part in ("tckd", "product")}
    theirs = read_logits(src, src.teachers[0], own_epochs[-1], own_seeds[0], shown)
    said = theirs.argmax(axis=1)
    surely = float("nan")
    for at in src.visits(names, own_epochs, own_seeds):
        s, e, r = at
        own = read_logits(src, names[s], own_epochs[e], own_seeds[r], shown)
        check_widths(own, theirs)
        parts = decomposed(own[None], theirs, labels, temperature)
        for part, table in means.items():
            table[at] = parts[part][0].mean()
        for part, per_class in by_class.items():
            per_class[at] = of_class @ parts[part][0]
        surely = float(parts["teacher_target"][0].mean())
        answer = own.argmax(axis=1)
        number = 2 * (said != labels) + (answer != labels)
        quadrants[at] = np.bincount(number, minlength=4) / len(labels)
        agreement[at] = (answer == said).mean()
    return LogitHistory(
        students=names,
        roster=src.students,
        teacher=src.teachers[0],
        epochs=own_epochs,
        seeds=own_seeds,
        temperature=float(temperature),
        **{part: means[part] for part in PARTS},
        quadrants=quadrants,
        agreement=agreement,
        p_t_student=means["student_target"],
        p_t_teacher=surely,
        classes=classes,
        class_names=all_class_names(src, theirs.shape[1]),
        class_tckd=by_class["tckd"],
        class_product=by_class["product"],
        count=len(labels),
    )

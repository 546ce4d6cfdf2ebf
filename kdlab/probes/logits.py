"""KD taken apart, sample by sample: target part, non-target part, and what couples them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from kdlab.errors import ConfigError, unknown_name
from kdlab.probes.inputs import chosen_places
from kdlab.probes.outputs import check_temperatures, log_softmax, logits_table, named_logits
from kdlab.probes.progress import measurement
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.result import Result
from kdlab.probes.sources import Source, as_source
from kdlab.probes.threads import single_thread
from kdlab.probes.words import absent, listed, percent

if TYPE_CHECKING:
    import pandas as pd

QUADRANTS = (
    "teacher right, student right",
    "teacher right, student wrong",
    "teacher wrong, student right",
    "both wrong",
)
SWEEP = (1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True)
class LogitDecomposition(Result):
    """KL(teacher || student) = TCKD + (1 - p_t^T) NCKD of n pictures and S students.

    Losses are multiplied by tau^2, as in training (Zhao et al., CVPR 2022).

    Attributes:
        students: shown here; roster: all of the study, from which figures take their colours.
        absent: students that have no snapshot of this epoch, and so are not shown.
        teacher: its name. epoch: -1 for networks given without a training. seed: of the run.
        temperature: tau.
        target, index: (n,). class_names: one a class. images: (n, C, H, W) uint8, or None.
        teacher_logits: (n, K). student_logits: (S, n, K).
        p_t_teacher: (n,) the teacher's probability of the true class at tau. p_t_student: (S, n).
        tckd, nckd, product, kd: (S, n); product = weight * nckd, kd = tckd + product.
        weight: (n,) 1 - p_t_teacher.
        quadrant: (S, n) number in `QUADRANTS`: who is right.
        sweep: (T,) temperatures. sweep_share: (S, T) batch TCKD / batch KD at each.
        sweep_kd: (S, T) batch KD.
        sweep_entropy: (1 + S, T) mean entropy of the softmax at each temperature, in nats; the teacher
            first, then the students.
        sweep_classes: (1 + S, T) mean effective number of classes, exp(entropy) of a picture: 1 for a
            certain network, K for an even one.

    >>> found = kdlab.probes.logit_decomposition(study)
    >>> found.students, found.kd.shape, len(found.at(temperature=1, places=[0, 1]).target)
    (('alone', 'KD'), (2, 40), 2)
    >>> teacher, students = found.probabilities(temperature=2)
    >>> teacher.shape, students.shape
    ((40, 10), (2, 40, 10))
    """

    figure: ClassVar[str] = "logits"

    students: tuple[str, ...]
    roster: tuple[str, ...]
    teacher: str
    epoch: int
    seed: int
    temperature: float
    target: np.ndarray
    index: np.ndarray
    class_names: tuple[str, ...]
    images: np.ndarray | None
    teacher_logits: np.ndarray
    student_logits: np.ndarray
    p_t_teacher: np.ndarray
    p_t_student: np.ndarray
    tckd: np.ndarray
    nckd: np.ndarray
    weight: np.ndarray
    product: np.ndarray
    kd: np.ndarray
    quadrant: np.ndarray
    sweep: np.ndarray
    sweep_share: np.ndarray
    sweep_kd: np.ndarray
    absent: tuple[str, ...] = ()
    sweep_entropy: np.ndarray | None = None
    sweep_classes: np.ndarray | None = None

    @property
    def share(self) -> np.ndarray:
        """(S,) share of TCKD in the mean KD loss at `temperature`."""
        return self.tckd.mean(axis=1) / np.maximum(self.kd.mean(axis=1), 1e-300)

    def probabilities(self, temperature: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Softmax at `temperature` (default the result's own): teacher (n, K), students (S, n, K)."""
        tau = self.temperature if temperature is None else temperature
        return np.exp(log_softmax(self.teacher_logits / tau)), np.exp(log_softmax(self.student_logits / tau))

    def at(
        self,
        temperature: float | None = None,
        places: Sequence[int] | None = None,
        sweep: Sequence[float] | None = None,
    ) -> LogitDecomposition:
        """The same logits taken apart at another temperature, or some of the pictures alone.

        Args:
            temperature: tau > 0; None keeps it.
            places: of the pictures in this result; None keeps all.
            sweep: temperatures for the share of TCKD; None keeps them.

        Raises:
            ConfigError: a bad temperature, no picture, or one that is not there.
        """
        tau = self.temperature if temperature is None else float(temperature)
        keep = chosen_places(places, len(self.target), len(self.target), "pictures in this result")
        theirs, own, labels = self.teacher_logits[keep], self.student_logits[:, keep], self.target[keep]
        with single_thread():  # it is also asked for beside a training
            fields = _at_temperature(own, theirs, labels, tau)
            if places is not None or sweep is not None:
                fields |= _swept(own, theirs, labels, self.sweep.tolist() if sweep is None else sweep)
        return replace(
            self,
            temperature=tau,
            target=labels,
            index=self.index[keep],
            images=None if self.images is None else self.images[keep],
            teacher_logits=theirs,
            student_logits=own,
            **fields,
        )

    def where(
        self, *, label: int | None = None, wrong: str | None = None, differs: str | None = None
    ) -> np.ndarray:
        """Places of the pictures for which all that is given holds, ascending.

        Args:
            label: they are of this class.
            wrong: the teacher or student of this name has them wrong.
            differs: this student and the teacher answer differently.

        Raises:
            UnknownNameError: there is no such network in this result.
        """
        said = dict(zip(self.students, self.student_logits.argmax(axis=2), strict=True))
        theirs = said[self.teacher] = self.teacher_logits.argmax(axis=1)
        for name in (wrong, differs):
            if name is not None and name not in said:
                raise unknown_name("network", name, said)
        keep = np.ones(len(self.target), dtype=bool)
        keep &= True if label is None else self.target == label
        keep &= True if wrong is None else said[wrong] != self.target
        keep &= True if differs is None else said[differs] != theirs
        return np.flatnonzero(keep)

    def to_frame(self) -> pd.DataFrame:
        """One row for each student and picture."""
        import pandas as pd

        rows = []
        for s, name in enumerate(self.students):
            for i in range(len(self.target)):
                rows.append(
                    {
                        "network": name,
                        "index": int(self.index[i]),
                        "label": int(self.target[i]),
                        "quadrant": QUADRANTS[self.quadrant[s, i]],
                        "p_t_teacher": self.p_t_teacher[i],
                        "p_t_student": self.p_t_student[s, i],
                        "tckd": self.tckd[s, i],
                        "nckd": self.nckd[s, i],
                        "weight": self.weight[i],
                        "product": self.product[s, i],
                        "kd": self.kd[s, i],
                    }
                )
        return pd.DataFrame(rows)

    def by_class(self) -> pd.DataFrame:
        """Means over the pictures of each class: one row for each student and class."""
        table = self.to_frame().drop(columns=["index", "quadrant"])
        return table.groupby(["network", "label"], sort=False).mean().reset_index()

    def confusion(self) -> tuple[np.ndarray, np.ndarray]:
        """Dark knowledge by class: teacher (K, K), students (S, K, K).

        Row c is the mean, over pictures of class c, of the probabilities of the other classes at tau,
        renormalised to sum to 1; the diagonal is 0. NaN rows: no picture of that class.
        """
        teacher, student = self.probabilities()
        every = np.concatenate([teacher[None], student])
        rows = np.arange(len(self.target))
        every[:, rows, self.target] = 0.0
        every /= np.maximum(every.sum(axis=2, keepdims=True), 1e-300)
        classes = every.shape[2]
        out = np.full((len(every), classes, classes), np.nan)
        for label in np.unique(self.target):
            out[:, label] = every[:, self.target == label].mean(axis=1)
        return out[0], out[1:]

    def interesting(self, count: int = 4) -> list[int]:
        """Places of pictures worth a look, one of each quadrant first, by the size of their KD loss."""
        strength = self.kd.mean(axis=0)
        order: list[int] = []
        for quadrant in (1, 2, 3, 0):
            share = (self.quadrant == quadrant).mean(axis=0)
            where = np.flatnonzero(share > 0)
            order += [
                int(i) for i in where[np.lexsort((-strength[where], -share[where]))][: max(count - 3, 1)]
            ]
        unsure = np.argsort(self.p_t_teacher)  # pictures that the teacher finds hard, if places are left
        order += [int(i) for i in unsure]
        return list(dict.fromkeys(order))[:count]

    @property
    def summary(self) -> str:
        """One sentence: how much of the KD loss is about the target class, now and at other temperatures."""
        said = [f"{name} {percent(value, 0)}" for name, value in zip(self.students, self.share, strict=True)]
        when = "" if self.epoch == AS_GIVEN else f" after epoch {self.epoch}"
        first, last = self.sweep_share[:, 0].mean(), self.sweep_share[:, -1].mean()
        return (
            f"At temperature {self.temperature:g}{when}, the part of the KD loss that is about the "
            "true class "
            f"(TCKD) is {listed(said)}; on average it goes from {percent(first, 0)} at temperature "
            f"{self.sweep[0]:g} to {percent(last, 0)} at {self.sweep[-1]:g}.{absent(self.absent)}"
        )


@measurement
def logit_decomposition(
    source: Any,
    samples: Sequence[int] | None = None,
    *,
    temperature: float = 4.0,
    target: Any = None,
    images: Any = None,
    data: Any = None,
    teacher: str | None = None,
    students: str | Iterable[str] | None = None,
    epoch: int = -1,
    seed: int | None = None,
    sweep: Sequence[float] = SWEEP,
) -> LogitDecomposition:
    """Take the KD loss between teacher and students apart, on held-out pictures.

    Args:
        source: a study; or name -> logits (n, K), snapshot or module (with `teacher`, and `target` or
            `data`: a data set or its name).
        samples: places among the evaluation pictures; None means all.
        temperature: tau > 0.
        teacher: which name is the teacher, for everything but a study.
        students: which; None means all that have a snapshot of that epoch.
        epoch: of the snapshot; negative counts from the last.
        seed: of the run; None is the first that has a snapshot.
        sweep: temperatures for the share of TCKD.

    Raises:
        ConfigError: unknown names or places, no teacher, logits of different widths, or a bad temperature.
        StudyError: the study has no snapshot yet.

    >>> found = kdlab.probes.logit_decomposition(study, temperature=4)
    >>> np.allclose(found.kd, found.tckd + found.weight * found.nckd, atol=1e-5)
    True
    """
    check_temperatures(temperature)
    check_temperatures(*sweep)
    src = logit_source(source, target=target, images=images, data=data, teacher=teacher)
    names, missing, own_epoch, own_seed = src.choose_moment(students, epoch, seed, teachers=False)
    shown = evaluation_places(src, samples)
    theirs = read_logits(src, src.teachers[0], own_epoch, own_seed, shown)
    own = np.stack([read_logits(src, name, own_epoch, own_seed, shown) for name in names])
    labels = src.target[shown]
    check_widths(own, theirs)
    return LogitDecomposition(
        students=names,
        roster=src.students,
        teacher=src.teachers[0],
        epoch=own_epoch,
        seed=own_seed,
        temperature=float(temperature),
        target=labels,
        index=src.index[shown],
        class_names=all_class_names(src, theirs.shape[1]),
        images=None if src.images is None else src.images[shown],
        teacher_logits=theirs,
        student_logits=own,
        absent=missing,
        **_at_temperature(own, theirs, labels, temperature),
        **_swept(own, theirs, labels, sweep),
    )


def _at_temperature(
    own: np.ndarray, theirs: np.ndarray, labels: np.ndarray, temperature: float
) -> dict[str, Any]:
    """The fields of `LogitDecomposition` that follow from its logits and its temperature."""
    check_temperatures(temperature)
    parts = decomposed(own, theirs, labels, temperature)
    right = theirs.argmax(axis=1) == labels, own.argmax(axis=2) == labels
    return dict(
        p_t_teacher=parts["teacher_target"][0],
        p_t_student=parts["student_target"],
        tckd=parts["tckd"],
        nckd=parts["nckd"],
        weight=parts["weight"][0],
        product=parts["product"],
        kd=parts["kd"],
        quadrant=np.where(right[0], np.where(right[1], 0, 1), np.where(right[1], 2, 3)),
    )


def _swept(own: np.ndarray, theirs: np.ndarray, labels: np.ndarray, sweep: Sequence[float]) -> dict[str, Any]:
    """Those that follow from its logits and temperatures to compare."""
    check_temperatures(*sweep)
    swept = [decomposed(own, theirs, labels, tau) for tau in sweep]
    logs = np.stack([log_softmax(np.concatenate([theirs[None], own]) / tau) for tau in sweep], axis=2)
    entropies = -(np.exp(logs) * logs).sum(axis=3)  # (1 + S, n, T)
    return dict(
        sweep=np.asarray(sweep, dtype=np.float64),
        sweep_share=np.stack(
            [p["tckd"].mean(axis=1) / np.maximum(p["kd"].mean(axis=1), 1e-300) for p in swept], axis=1
        ),
        sweep_kd=np.stack([p["kd"].mean(axis=1) for p in swept], axis=1),
        sweep_entropy=entropies.mean(axis=1),
        sweep_classes=np.exp(entropies).mean(axis=1),
    )


def logit_source(source: Any, *, target: Any, images: Any, data: Any, teacher: Any) -> Source:
    """The source of a probe of logits: plain arrays are logits, and there must be a teacher.

    Raises:
        ConfigError: no teacher, or what `as_source` refuses.
    """
    src = as_source(
        named_logits(source), target=target, images=images, data=data, teacher=teacher, judged=True
    )
    if not src.teachers:
        raise ConfigError("There is no teacher whose logits could be compared; give one: teacher=...")
    return src


def evaluation_places(src: Source, samples: Sequence[int] | int | None) -> np.ndarray:
    """Positions of the chosen evaluation pictures; all of them for None.

    Raises:
        ConfigError: a place that there is not.
    """
    evaluation = np.flatnonzero(~src.fit)
    return evaluation[chosen_places(samples, len(evaluation), len(evaluation), "evaluation pictures")]


def all_class_names(src: Source, classes: int) -> tuple[str, ...]:
    """A name for every logit, also of classes without a picture: their numbers where none are known."""
    return src.class_names + tuple(str(c) for c in range(len(src.class_names), classes))


def read_logits(src: Source, name: str, epoch: int, seed: int, shown: np.ndarray) -> np.ndarray:
    """(n, K) float64 logits of some pictures; see `kdlab.probes.outputs.logits_table`."""
    return logits_table(src, name, epoch, seed)[shown]


def check_widths(own: np.ndarray, theirs: np.ndarray) -> None:
    """Raises a `ConfigError` unless students and teacher speak of the same two or more classes."""
    classes = theirs.shape[-1]
    if own.shape[-1] != classes:
        raise ConfigError(f"The students have {own.shape[-1]} classes and the teacher has {classes}.")
    if classes < 2:
        raise ConfigError("The KD loss has parts only where there are at least two classes.")


def decomposed(
    own: np.ndarray, theirs: np.ndarray, labels: np.ndarray, temperature: float
) -> dict[str, np.ndarray]:
    """Fields of `kdlab.losses.Decomposition`, (S, n) each, in float64.

    Args:
        own: (S, n, K) logits. theirs: (n, K). labels: (n,).
    """
    from kdlab.losses import decompose

    count, n, classes = own.shape
    parts = decompose(
        torch.from_numpy(own).reshape(count * n, classes),
        torch.from_numpy(np.ascontiguousarray(theirs)).repeat(count, 1),
        torch.from_numpy(labels).repeat(count),
        temperature,
    )
    return {key: value.reshape(count, n).numpy() for key, value in vars(parts).items()}

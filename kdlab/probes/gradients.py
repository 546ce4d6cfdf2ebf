"""Gradients at the logits: what each loss asks of the same student on the same pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kdlab import losses as pure
from kdlab.errors import ConfigError, unknown_name
from kdlab.probes.logits import (
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
from kdlab.probes.words import absent, listed, plural

if TYPE_CHECKING:
    import pandas as pd

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(student logits (n, K), teacher logits (n, K), labels (n,)) -> mean over the pictures."""

CLOSED = ("ce", "kd", "kd: true class", "kd: other classes")
"""Losses whose gradients are written down here; "kd" is the sum of the last two."""
OTHERS: Mapping[str, str] = {
    "dkd": "DKD, alpha 1, beta 8",
    "nkd": "NKD, gamma 1.5, its target part at temperature 1",
    "dist": "DIST, beta 1, gamma 1",
    "dckd": "DCKD (reconstructed), fusion by the larger, no partner",
    "skd: softened": "SKD (reconstructed) as it begins: softened by 2, its simplifier adds nothing yet",
}
"""Losses of logits alone, by autograd. SKD as it ends needs its trained simplifier: `simplified_loss`."""

SOFTENING = 2.0  # SKD's tau
_DETAILED = 12


@dataclass(frozen=True)
class LogitGradients(Result):
    """Gradients of L losses at the logits of S students, on n pictures.

    A picture's gradient is that of its own loss: the batch mean's times n. DIST compares the pictures
    with one another; its batch is all of them. A loss moves the logits along minus its gradient.

    Attributes:
        students: shown here; roster: all of the source. absent: students without this epoch.
        teacher: its name. epoch: -1 for networks given without a training. seed: of the run.
        temperature: tau of all losses but "ce"; losses are multiplied by tau^2, as in training.
        losses: (L,) names. closed: those whose gradient is a closed form.
        value: (S, L) batch means of the losses.
        norm: (S, L, n) 2-norms.
        cosine: (S, L, L) means over pictures of the cosine between two gradients of one picture; NaN
            where one of them is 0 on every picture.
        motion: (S, L, n, 2) what a unit step along minus the gradient changes, to first order: the
            probability of the true class at tau, and NCKD times tau^2.
        p_t_student, nckd: (S, n) where the students stand. p_t_teacher: (n,); the teacher's NCKD is 0.
        detailed: (d,) places of the pictures whose gradients are kept.
        gradient: (S, L, d, K). student_logits: (S, d, K). teacher_logits: (d, K). images: (d, C, H, W)
            uint8, or None.
        target, index: (n,). class_names: one a class.

    >>> found = kdlab.probes.logit_gradients(study, students="KD")
    >>> found.losses
    ('ce', 'kd', 'kd: true class', 'kd: other classes', 'dkd', 'nkd', 'dist', 'dckd', 'skd: softened')
    >>> np.allclose(np.diagonal(found.cosine[0]), 1)
    True
    """

    figure: ClassVar[str] = "logit_gradients"

    students: tuple[str, ...]
    roster: tuple[str, ...]
    teacher: str
    epoch: int
    seed: int
    temperature: float
    losses: tuple[str, ...]
    closed: tuple[str, ...]
    value: np.ndarray
    norm: np.ndarray
    cosine: np.ndarray
    motion: np.ndarray
    p_t_student: np.ndarray
    nckd: np.ndarray
    p_t_teacher: np.ndarray
    detailed: np.ndarray
    gradient: np.ndarray
    student_logits: np.ndarray
    teacher_logits: np.ndarray
    images: np.ndarray | None
    target: np.ndarray
    index: np.ndarray
    class_names: tuple[str, ...]
    absent: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """One row for each student and pair of losses: values, mean norms, mean cosine."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "network": name,
                    "loss": loss,
                    "value": self.value[s, i],
                    "norm": self.norm[s, i].mean(),
                    "other": other,
                    "cosine": self.cosine[s, i, j],
                }
                for s, name in enumerate(self.students)
                for i, loss in enumerate(self.losses)
                for j, other in enumerate(self.losses)
            ]
        )

    @property
    def summary(self) -> str:
        """Which loss pulls hardest, and which two agree least, over all students."""
        norms = self.norm.mean(axis=(0, 2))
        most = int(norms.argmax())
        when = "" if self.epoch == AS_GIVEN else f" after epoch {self.epoch}"
        cosine = np.full(self.cosine.shape[1:], np.nan)
        known = np.isfinite(self.cosine).any(axis=0)
        cosine[known] = np.nanmean(self.cosine[:, known], axis=0)
        np.fill_diagonal(cosine, np.nan)
        least = ""
        if np.isfinite(cosine).any():
            i, j = np.unravel_index(int(np.nanargmin(cosine)), cosine.shape)
            value = f"{cosine[i, j]:.2f}".replace("-", "−")
            least = f" The least alike are {self.losses[i]} and {self.losses[j]} (mean cosine {value})."
        sizes = [f"{name} {norm:.2f}" for name, norm in zip(self.losses, norms, strict=True)]
        return (
            f"Gradients at the logits of {listed(list(self.students))} on "
            f"{plural(len(self.target), 'picture')}{when}, temperature {self.temperature:g}. Mean norms: "
            f"{listed(sizes)}; the strongest pull is that of {self.losses[most]}.{least}{absent(self.absent)}"
        )


@measurement
def logit_gradients(
    source: Any,
    samples: Sequence[int] | None = None,
    *,
    losses: Iterable[str] | None = None,
    more: Mapping[str, Loss] | None = None,
    temperature: float = 4.0,
    target: Any = None,
    images: Any = None,
    data: Any = None,
    teacher: str | None = None,
    students: str | Iterable[str] | None = None,
    epoch: int = -1,
    seed: int | None = None,
    detail: int = _DETAILED,
) -> LogitGradients:
    """What ce, KD, KD's two parts, DKD, NKD, DIST, DCKD and SKD ask for at the logits of the same students.

    Nothing is trained: this is what each loss would do in the next step, whatever a student was
    trained with. Weights of methods are left out, but for those inside a loss (see `OTHERS`).

    Args:
        source, samples, temperature, target, images, data, teacher, students: as in `logit_decomposition`.
        losses: of `CLOSED` and `OTHERS`; None means all.
        more: name -> function of (student logits, teacher logits, labels) that gives the batch mean.
        epoch: of the snapshot; negative counts from the last. seed: of the run; None is the first.
        detail: of so many pictures, the first, all gradients are kept.

    Raises:
        ConfigError: unknown names, losses or places, no teacher, or a bad temperature.
        StudyError: the study has no snapshot yet.

    >>> found = kdlab.probes.logit_gradients(study, losses=["ce", "kd"])
    >>> found.norm.shape  # students, losses, pictures
    (2, 2, 40)
    >>> bool(abs(found.gradient.sum(axis=-1)).max() < 1e-5)  # each row sums to 0
    True
    """
    check_temperatures(temperature)
    if detail < 1:
        raise ConfigError(f"detail is a number of pictures from 1 on, not {detail!r}.")
    known = (*CLOSED, *OTHERS)
    chosen_losses = known if losses is None else (losses,) if isinstance(losses, str) else tuple(losses)
    for name in chosen_losses:
        if name not in known:
            raise unknown_name("loss of logits", name, known)
    extra = dict(more or {})
    for name in extra:
        if name in known:
            raise ConfigError(f"{name!r} is the name of a loss that is here already; choose another one.")
    src = logit_source(source, target=target, images=images, data=data, teacher=teacher)
    names, missing, own_epoch, own_seed = src.choose_moment(students, epoch, seed, teachers=False)
    shown = evaluation_places(src, samples)
    labels = src.target[shown]
    theirs = read_logits(src, src.teachers[0], own_epoch, own_seed, shown)
    kept = np.arange(min(detail, len(shown)))
    every = (*chosen_losses, *extra)
    if not every:
        raise ConfigError(f"There is no loss to look at; give some of {', '.join(known)}.")
    out: dict[str, list[np.ndarray]] = {
        key: [] for key in ("value", "norm", "cosine", "motion", "p_t", "nckd", "gradient", "logits")
    }
    surely = np.zeros(len(shown))
    for name in names:
        own = read_logits(src, name, own_epoch, own_seed, shown)
        check_widths(own, theirs)
        values, grads = _gradients(own, theirs, labels, temperature, chosen_losses, extra)
        parts = decomposed(own[None], theirs, labels, temperature)
        surely = parts["teacher_target"][0]
        out["value"].append(values)
        out["norm"].append(np.linalg.norm(grads, axis=2))
        out["cosine"].append(_cosines(grads))
        out["motion"].append(_motion(grads, own, theirs, labels, temperature))
        out["p_t"].append(parts["student_target"][0])
        out["nckd"].append(parts["nckd"][0])
        out["gradient"].append(grads[:, kept])
        out["logits"].append(own[kept])
    stacked = {key: np.stack(tables) for key, tables in out.items()}
    return LogitGradients(
        students=names,
        roster=src.students,
        teacher=src.teachers[0],
        epoch=own_epoch,
        seed=own_seed,
        temperature=float(temperature),
        losses=every,
        closed=tuple(name for name in every if name in CLOSED),
        value=stacked["value"],
        norm=stacked["norm"],
        cosine=stacked["cosine"],
        motion=stacked["motion"],
        p_t_student=stacked["p_t"],
        nckd=stacked["nckd"],
        p_t_teacher=surely,
        detailed=kept,
        gradient=stacked["gradient"],
        student_logits=stacked["logits"],
        teacher_logits=theirs[kept],
        images=None if src.images is None else src.images[shown[kept]],
        target=labels,
        index=src.index[shown],
        class_names=all_class_names(src, theirs.shape[1]),
        absent=missing,
    )


def closed_gradients(
    student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, temperature: float
) -> dict[str, np.ndarray]:
    """Gradients (n, K) of each picture's loss at the student's logits: those of `CLOSED`, and "nckd".

    With p = softmax(z / tau), phat_i = p_i / (1 - p_y) for i != y and phat_y = 0:

        ce (tau 1)            p^S - e_y
        kd                    tau (p^S - p^T)
        true class (TCKD)     tau (p_y^S - p_y^T) at y, -tau (p_y^S - p_y^T) phat^S elsewhere
        nckd                  tau (phat^S - phat^T)
        other classes         (1 - p_y^T) times that

    Source: Zhao et al., CVPR 2022, arXiv 2203.08679.
    """
    rows = np.arange(len(labels))
    one = np.zeros_like(student)
    one[rows, labels] = 1.0
    p, hat = _probabilities(student, labels, temperature)
    q, other = _probabilities(teacher, labels, temperature)
    gap = (p - q)[rows, labels][:, None]
    nckd = temperature * (hat - other)
    return {
        "ce": _probabilities(student, labels, 1.0)[0] - one,
        "kd": temperature * (p - q),
        "kd: true class": temperature * gap * (one - hat),
        "kd: other classes": (1.0 - q[rows, labels])[:, None] * nckd,
        "nckd": nckd,
    }


def _gradients(
    own: np.ndarray,
    theirs: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    names: Sequence[str],
    more: Mapping[str, Loss],
) -> tuple[np.ndarray, np.ndarray]:
    """(L,) values and (L, n, K) gradients, in float64."""
    closed = closed_gradients(own, theirs, labels, temperature)
    parts = decomposed(own[None], theirs, labels, temperature)
    teacher, target = torch.from_numpy(theirs), torch.from_numpy(labels)
    open_losses: dict[str, Loss] = {
        "dkd": lambda s, t, y: pure.dkd(s, t, y, temperature=temperature),
        "nkd": lambda s, t, y: pure.nkd(s, t, y, temperature=temperature),
        "dist": lambda s, t, y: pure.dist(s, t, temperature=temperature),
        "dckd": lambda s, t, y: pure.hybrid_target(s, t, y, temperature=temperature),
        "skd: softened": lambda s, t, y: pure.kd(s, t / SOFTENING, temperature),
        **more,
    }
    means = {"kd": "kd", "kd: true class": "tckd", "kd: other classes": "product"}
    values, grads = [], []
    for name in (*names, *more):
        if name in closed:
            if name == "ce":
                value = float(pure.cross_entropy(torch.from_numpy(own), target))
            else:
                value = float(parts[means[name]].mean())
            gradient = closed[name]
        else:
            student = torch.from_numpy(own).requires_grad_(True)
            try:
                loss = open_losses[name](student, teacher, target)
            except TypeError as error:
                raise ConfigError(
                    f"The loss {name!r} must be a function of (student logits, teacher logits, labels); "
                    f"it gave: {error}."
                ) from error
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise ConfigError(f"The loss {name!r} must give one number, the mean over the pictures.")
            found = torch.autograd.grad(loss, student, allow_unused=True)[0] if loss.requires_grad else None
            gradient = np.zeros_like(own) if found is None else found.numpy() * len(own)
            value = float(loss.detach())
        values.append(value)
        grads.append(gradient)
    return np.array(values), np.stack(grads)


def _motion(
    grads: np.ndarray, own: np.ndarray, theirs: np.ndarray, labels: np.ndarray, temperature: float
) -> np.ndarray:
    """(L, n, 2) first-order change of p_t and of NCKD for a unit step along minus the gradient."""
    rows = np.arange(len(labels))
    p, _ = _probabilities(own, labels, temperature)
    step = -grads
    mean = (p * step).sum(axis=2)
    toward = p[rows, labels] / temperature * (step[:, rows, labels] - mean)
    rest = closed_gradients(own, theirs, labels, temperature)["nckd"]
    return np.stack([toward, (rest * step).sum(axis=2)], axis=2)


def _probabilities(
    logits: np.ndarray, labels: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """Softmax (n, K) at a temperature, and that over the classes other than the label, 0 at the label."""
    scaled = logits / temperature
    rows = np.arange(len(labels))
    p = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    rest = scaled.copy()
    rest[rows, labels] = -np.inf
    hat = np.exp(rest - rest.max(axis=1, keepdims=True))  # exact also where p leaves nothing to the rest
    return p, hat / hat.sum(axis=1, keepdims=True)


def _cosines(grads: np.ndarray) -> np.ndarray:
    """(L, L) means over pictures; a picture on which one of the two gradients is 0 does not count."""
    norm = np.linalg.norm(grads, axis=2)
    there = norm > 1e-12
    unit = np.where(there[..., None], grads / np.maximum(norm, 1e-300)[..., None], 0.0)
    count = np.einsum("in,jn->ij", there.astype(float), there.astype(float))
    total = np.einsum("ink,jnk->ij", unit, unit)
    return np.where(count > 0, np.clip(total / np.maximum(count, 1), -1, 1), np.nan)

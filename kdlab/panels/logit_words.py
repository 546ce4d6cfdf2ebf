"""What logits and their gradients show, in words."""

from __future__ import annotations

import numpy as np

from kdlab.probes.gradients import LogitGradients
from kdlab.probes.logit_history import LogitHistory
from kdlab.probes.logits import LogitDecomposition
from kdlab.probes.words import listed, number, percent, plural

_STILL = 1e-4  # change of a probability per unit step that counts as none


def parts(result: LogitDecomposition) -> str:
    """KD at the temperature, how much of it is about the true class, and why."""
    share = [
        f"{name} {kd:.2f} ({percent(part, 0)} of it about the true class)"
        for name, kd, part in zip(result.students, result.kd.mean(axis=1), result.share, strict=True)
    ]
    return (
        f"At temperature {result.temperature:g} the teacher gives the true class "
        f"{percent(float(result.p_t_teacher.mean()), 0)}, so that the other classes weigh "
        f"{percent(float(result.weight.mean()), 0)}. KD loss in nats: {listed(share)}."
    )


def history(result: LogitHistory) -> str:
    """The probability of the true class and KD, from the first epoch to the last that each student has."""
    said, losses = [], []
    for s, name in enumerate(result.students):
        there = np.flatnonzero(np.isfinite(result.kd[s, :, 0]))
        if not there.size:
            continue
        first, last = int(there[0]), int(there[-1])
        sure, kd = result.p_t_student[s, :, 0], result.kd[s, :, 0]
        said.append(f"{name} from {percent(sure[first], 0)} to {percent(sure[last], 0)}")
        losses.append(f"{name} from {kd[first]:.2f} to {kd[last]:.2f}")
    return (
        f"Epochs {result.epochs[0]} to {result.epochs[-1]}, seed {result.seeds[0]}. The true class's "
        f"probability at temperature {result.temperature:g} goes for {listed(said)}; the teacher gives it "
        f"{percent(result.p_t_teacher, 0)}. KD loss in nats: {listed(losses)}."
    )


def pulls(result: LogitGradients, student: str) -> str:
    """Which losses would raise the true class of the first picture, and which two fight over all pictures."""
    s = result.students.index(student)
    motion = result.motion[s, :, int(result.detailed[0]), 0]
    norms = result.norm[s, :, int(result.detailed[0])]
    groups: dict[str, list[str]] = {"raise": [], "lower": [], "leave": []}
    for loss, change in zip(result.losses, motion, strict=True):
        groups["leave" if abs(change) < _STILL else "raise" if change > 0 else "lower"].append(loss)
    said = [f"{listed(losses)} would {verb} it" for verb, losses in groups.items() if losses]
    strongest = int(norms.argmax())
    text = (
        f"The true class's probability at temperature {result.temperature:g}, {student}: {'; '.join(said)}. "
        f"{result.losses[strongest]} pulls hardest ({number(float(norms[strongest]))} logits)."
    )
    cosine = np.where(np.eye(len(result.losses), dtype=bool), np.nan, result.cosine[s])
    if np.isfinite(cosine).any():
        i, j = np.unravel_index(int(np.nanargmin(cosine)), cosine.shape)
        text += (
            f" Over {plural(len(result.target), 'picture')}, {result.losses[i]} and {result.losses[j]} agree "
            f"least (mean cosine {number(float(cosine[i, j]))}). Nothing is trained here: this is the next "
            "small step of each loss."
        )
    rebuilt = [loss for loss in result.losses if loss.partition(":")[0] in ("dckd", "skd")]
    if rebuilt:
        text += f" {listed(rebuilt)}: reconstructed from the abstract of the paper, not its published code."
    return text

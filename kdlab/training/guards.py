"""What goes wrong in training, and how one student's misfortune is kept from the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kdlab.errors import StudyError
from kdlab.training.checkpoint import Checkpoints
from kdlab.training.student import StudentRun

_SMALLEST_BATCH = 4


class StudentsFailed(StudyError):
    """Every student of a seed had to be stopped."""


@dataclass(frozen=True)
class Fault:
    """A step whose loss or gradient was not finite.

    Attributes:
        rows: how many rows of the block are worth recording (the faulty one included).
        step, epoch, batch: where, each from 1.
        what: in words.
    """

    rows: int
    step: int
    epoch: int
    batch: int
    what: str


def find_fault(student: StudentRun, block: np.ndarray, first: int, steps_per_epoch: int) -> Fault | None:
    """The first step of a block of recorded values (from step `first` on) that was not finite."""
    loss, norm = block[:, 0], block[:, 2]
    good = np.isfinite(loss)
    if student.scaler is None:  # with one, steps of overflowing gradients are skipped on purpose
        good &= np.isfinite(norm)
    if good.all():
        return None
    row = int(np.argmin(good))
    step = first + row
    terms = list(student.method.terms)
    guilty = [t for i, t in enumerate(terms) if t in student.active and not np.isfinite(block[row, 3 + i])]
    if guilty:
        what = f"term {guilty[0]!r} is not finite"
    elif not np.isfinite(loss[row]):
        what = "the weighted sum of its terms is not finite"
    else:
        what = "the gradient of its loss is not finite"
    return Fault(row + 1, step + 1, step // steps_per_epoch + 1, step % steps_per_epoch + 1, what)


def stop_student(student: StudentRun, fault: Fault, checkpoints: Checkpoints) -> None:
    """Bring a student back to its last good state and end its training; the others go on."""
    saved = checkpoints.load()
    if saved is not None and student.name in saved.students:
        saved.restore(student)
    student.ended = {
        "kind": "failed",
        "step": fault.step,
        "epoch": fault.epoch,
        "what": fault.what,
        "text": f"Student {student.name!r} was stopped at step {fault.step} (batch {fault.batch} of epoch "
        f"{fault.epoch}): {fault.what}. Its weights are those of step {student.step}. "
        "Lower the term's weight or the learning rate.",
    }


def recorded_to(student: StudentRun) -> int:
    """The step up to which a student is recorded; behind its weights where it failed."""
    failed = student.ended is not None and student.ended["kind"] == "failed"
    return student.ended["step"] if failed and student.ended else student.step


def require_survivors(students: Sequence[StudentRun]) -> None:
    """Refuse to call a training done in which every student failed.

    Raises:
        StudentsFailed: says of each why it was stopped.
    """
    if students and all(s.ended is not None and s.ended["kind"] == "failed" for s in students):
        raise StudentsFailed(" ".join(s.ended["text"] for s in students if s.ended))


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that the device or the machine has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def smaller_batch(students: Sequence[StudentRun], batch_size: int, error: Exception) -> int:
    """Half of what is now put through a network at once.

    Raises:
        StudyError: that would be too little to be worth trying.
    """
    now = min((s.micro_batch or batch_size for s in students), default=batch_size)
    half = (now + 1) // 2
    if half < _SMALLEST_BATCH:
        raise memory_advice(error) from error
    return half


def memory_advice(error: Exception) -> StudyError:
    """What to do where nothing smaller can be tried."""
    return StudyError(
        f"The memory is too small for this study ({str(error).splitlines()[0]}). Use fewer students at "
        "once, a smaller batch_size, a lower precision or smaller networks; the last checkpoint is as it was."
    )


def memory_note(micro: int, batch_size: int) -> str:
    """What was done about it."""
    return (
        f"The memory was too small for {batch_size} pictures at once; each step now adds up the gradients "
        f"of parts of {micro}. Batch normalisation and losses that compare samples see the parts alone, "
        "so results differ a little from an undivided batch."
    )

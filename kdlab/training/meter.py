"""Step values from the device to the record, and what every student scores at the end of an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdlab.data import ImageData
from kdlab.training.crew import Crew
from kdlab.training.evaluate import evaluate, train_sample
from kdlab.training.guards import Fault, find_fault
from kdlab.training.plan import RunPlan
from kdlab.training.record import RunRecord
from kdlab.training.student import StudentRun


class Meter:
    """Collects step values on the device, so that no step waits for the host, and hands them on in blocks."""

    def __init__(self, plan: RunPlan, data: ImageData, record: RunRecord) -> None:
        self._plan, self._data, self._record = plan, data, record
        self._sample = train_sample(data.train)
        self._seen: dict[str, list[Tensor]] = {}
        self._known: dict[str, list[list[float]]] = {}

    def take(self, student: StudentRun, values: Tensor, rate: float) -> None:
        """Remember what `StudentRun.train_step` returned; its position is still that of the step."""
        self._seen.setdefault(student.name, []).append(values)
        self._known.setdefault(student.name, []).append(student.host_row(rate))

    def clear(self) -> None:
        """Forget what was not handed on."""
        self._seen.clear()
        self._known.clear()

    def flush(self, students: Sequence[StudentRun], steps_per_epoch: int) -> list[tuple[StudentRun, Fault]]:
        """Record everything collected, and return who has failed and how."""
        faults = []
        for student in students:
            seen, known = self._seen.pop(student.name, []), self._known.pop(student.name, [])
            if not seen:
                continue
            values = torch.stack(seen).cpu().numpy()
            block = np.concatenate([values, np.asarray(known, dtype=np.float32)], axis=1)
            first = student.step - len(block)
            fault = find_fault(student, block, first, steps_per_epoch)
            self._record.add_steps(student.name, first, block if fault is None else block[: fault.rows])
            if fault is not None:
                faults.append((student, fault))
        return faults

    @staticmethod
    def details(students: Sequence[StudentRun]) -> dict[str, dict[str, float]]:
        """What the methods say of their last step beside its terms (guards, parts), by student."""
        return {
            s.name: {k: float(v) for k, v in s.method.details.items()} for s in students if s.method.details
        }

    def epoch_rows(
        self,
        group: Sequence[StudentRun],
        epoch: int,
        first: int,
        seconds: float,
        crew: Crew | None = None,
    ) -> list[dict[str, Any]]:
        """What is recorded of each student at the end of an epoch whose first step was `first`; also
        keeps weights that are the best so far."""
        plan = self._plan
        measured = epoch % plan.evaluate_every == 0 or epoch == plan.recipe.epochs
        scores: dict[str, dict[str, float]] = {}
        if measured:
            scores = evaluate(group, plan.teachers, self._data, self._sample, plan.device, epoch, crew)
        rows, details = [], self.details(group)
        for student in group:

            def mean(key: str, name: str = student.name) -> float | None:
                return _mean(self._record.tail(name, key, first))

            row: dict[str, Any] = {
                "seed": plan.seed,
                "epoch": epoch,
                "step": student.step,
                "student": student.name,
                "seconds": round(seconds, 3),
                "lr": float(self._record.tail(student.name, "lr", first)[-1]),
                "train_loss": mean("loss"),
                "train_accuracy": mean("train_correct"),
                "grad_norm": mean("grad_norm"),
                **scores.get(student.name, {}),
                **{
                    f"{kind}/{t}": mean(f"{kind}/{t}")
                    for kind in ("term", "weighted")
                    for t in student.method.terms
                },
            }
            row |= {f"detail/{key}": value for key, value in details.get(student.name, {}).items()}
            rows.append(row)
            if "val_accuracy" in row:
                student.keep_best(epoch, row["val_accuracy"], row["test_accuracy"])
        return rows


def _mean(values: np.ndarray) -> float | None:
    seen = values[np.isfinite(values)]
    return float(seen.mean(dtype=np.float64)) if len(seen) else None

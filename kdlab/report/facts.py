"""What a report says about a study before any probe: who, with what, how well."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdlab.methods.base import STATUS_TEXT


@dataclass(frozen=True)
class Facts:
    """A study in plain values.

    Attributes:
        title: of the report.
        rows: label -> text, what was compared.
        students: name -> (method, status, paper).
        differs: student -> what else than the loss is its own; "" where nothing is.
        notes: student -> what happened to it by hand or by a guard; "" where nothing did.
        failed: student -> sentences of the guards that stopped it, one a seed.
        unfinished: students that were dropped or stopped, whose accuracies are not those of a whole
            training: student -> seeds.
        teachers: name -> (test accuracy, validation accuracy).
        last: student -> seed -> test accuracy after the last recorded epoch, `last_epoch`.
        best: student -> seed -> test accuracy at `best_epoch`, that with the highest validation accuracy.
        baseline: what students are compared with; plain: whether it learns from labels alone.
        chance: accuracy of always naming the most frequent class.
        environment: label -> text.
    """

    title: str
    rows: Mapping[str, str]
    students: Mapping[str, tuple[str, str, str]]
    differs: Mapping[str, str]
    notes: Mapping[str, str]
    failed: Mapping[str, tuple[str, ...]]
    unfinished: Mapping[str, tuple[int, ...]]
    teachers: Mapping[str, tuple[float, float]]
    last: Mapping[str, Mapping[int, float]]
    last_epoch: Mapping[str, Mapping[int, int]]
    best: Mapping[str, Mapping[int, float]]
    best_epoch: Mapping[str, Mapping[int, int]]
    baseline: str
    plain: bool
    chance: float
    environment: Mapping[str, str]

    @property
    def seeds(self) -> int:
        """Seeds with at least one finished epoch."""
        return max((len(own) for own in self.last.values()), default=0)

    @property
    def counted(self) -> dict[str, dict[int, float]]:
        """`last` of trainings that were not cut short by a drop or a guard; what verdicts rest on."""
        kept = {
            name: {seed: value for seed, value in own.items() if seed not in self.unfinished.get(name, ())}
            for name, own in self.last.items()
        }
        return {name: own for name, own in kept.items() if own}


def collect(study: Any) -> Facts:
    """Read everything from the study's record and settings; nothing is measured anew."""
    recorded = _recorded(study)
    last: dict[str, dict[int, float]] = {}
    last_epoch: dict[str, dict[int, int]] = {}
    best: dict[str, dict[int, float]] = {}
    best_epoch: dict[str, dict[int, int]] = {}
    for name in study.names:
        for seed in study.seeds:
            epochs, test = study.record.epoch_series(name, "test_accuracy", seed=seed)
            if not len(epochs):
                continue
            last.setdefault(name, {})[seed] = float(test[-1])
            last_epoch.setdefault(name, {})[seed] = int(epochs[-1])
            val_epochs, val = study.record.epoch_series(name, "val_accuracy", seed=seed)
            if len(val_epochs) == len(epochs):
                place = int(np.argmax(val))  # the first of equals, as in the record
                best.setdefault(name, {})[seed] = float(test[place])
                best_epoch.setdefault(name, {})[seed] = int(epochs[place])
    methods, failures = study.methods, study.failures()
    plain = [name for name in study.names if not methods[name].needs_teacher()]
    baseline = _baseline(study, plain, failures)
    return Facts(
        title=_title(study),
        rows=_rows(study, recorded),
        students={
            name: (
                f"{method.title or type(method).__name__}: {_formula(method)}",
                "control" if name in plain else STATUS_TEXT.get(method.status, method.status),
                method.paper,
            )
            for name, method in methods.items()
        },
        differs={name: student.label() for name, student in study.students.items()},
        notes=_notes(study, failures),
        failed={
            name: tuple(f["text"] for f in failures if f["student"] == name)
            for name in study.names
            if any(f["student"] == name for f in failures)
        },
        unfinished=_unfinished(study, failures),
        teachers={
            teacher.name: (float(teacher.accuracy), float(teacher.val_accuracy)) for teacher in study.teachers
        },
        last=last,
        last_epoch=last_epoch,
        best=best,
        best_epoch=best_epoch,
        baseline=baseline,
        plain=baseline in plain,
        chance=float(study.data.chance),
        environment=_environment(recorded),
    )


def _title(study: Any) -> str:
    alike = not any(student.label() for student in study.students.values())
    return f"{study.data.name}: {len(study.names)} students{', one difference' if alike else ''}"


def _baseline(study: Any, plain: Sequence[str], failures: Sequence[Mapping[str, Any]]) -> str:
    """The first that learns from labels alone and went its whole way; else the first of those at all."""
    short = _unfinished(study, failures)
    candidates = [*plain, *study.names]
    return next((name for name in candidates if name not in short), candidates[0])


def _notes(study: Any, failures: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    several = len(study.seeds) > 1
    notes: dict[str, list[str]] = {name: [] for name in study.names}
    for mark in study.record.marks():
        if mark["kind"] in ("add", "fork", "drop"):
            seed = f" of seed {mark['seed']}" if several and mark["kind"] == "drop" else ""
            notes[mark["student"]].append(f"{mark['text']} in epoch {mark['epoch']}{seed}")
    for failure in failures:
        seed = f" of seed {failure['seed']}" if several else ""
        notes[failure["student"]].append(
            f"stopped by a guard in epoch {failure['epoch']}, step {failure['step']}{seed}"
        )
    return {name: "; ".join(own) for name, own in notes.items()}


def _unfinished(study: Any, failures: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, ...]]:
    """Student -> seeds in which a drop or a guard ended it before the last epoch."""
    short: dict[str, set[int]] = {}
    for failure in failures:
        short.setdefault(failure["student"], set()).add(failure["seed"])
    for mark in study.record.marks():
        if mark["kind"] == "drop":
            short.setdefault(mark["student"], set()).add(mark["seed"])
    return {name: tuple(seed for seed in study.seeds if seed in own) for name, own in short.items()}


def _formula(method: Any) -> str:
    """The loss as asked for: "0.1 ce + 0.9 kd"; terms of weight 0 are left out."""
    parts = []
    for term in method.terms.values():
        if term.enabled and term.weight:
            schedule = "" if str(term.schedule) == "constant" else f" ({term.schedule})"
            parts.append(f"{term.weight:g} {term.name}{schedule}")
    return " + ".join(parts) or "nothing switched on"


def _recorded(study: Any) -> dict[str, Any]:
    path = study.folder / "study.json"
    if not path.is_file():
        return {}
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _rows(study: Any, recorded: Mapping[str, Any]) -> dict[str, str]:
    facts = recorded.get("facts", {})
    recipe, asked = study.recipe, study.asked
    student = (
        asked["student"] if isinstance(asked["student"], str) else asked["student"].get("module", "a module")
    )
    parameters = facts.get("student_parameters")
    few = asked.get("labels_per_class")
    rows = {"Data": str(facts.get("description") or study.data.describe())}
    if few:
        rows["Labels"] = (
            f"students learn from {few} labelled pictures of each class; the teacher learned from all"
        )
    rows["Teacher" if len(study.teachers) < 2 else "Teachers"] = "; ".join(map(_teacher, study.teachers)) or (
        study.teacher_name or "none"
    )
    rows["Student"] = (
        f"{student}{f', {parameters:,} parameters' if parameters else ''}; the same first weights for all"
    )
    if hasattr(recipe, "shape"):
        rows["Recipe"] = (
            f"{recipe.name}: {recipe.epochs} epochs, {recipe.optimizer}, learning rate {recipe.lr:g} "
            f"({recipe.shape}), batches of {recipe.batch_size}, weight decay {recipe.weight_decay:g}, "
            f"augmentation {recipe.augment or 'of the data set'}"
        )
    else:
        rows["Recipe"] = f"{recipe.name}: {recipe.epochs} epochs"
    rows["Seeds"] = ", ".join(map(str, study.seeds))
    state = {"finished": "finished", "stopped": "stopped before its end", "new": "not trained yet"}.get(
        study.state, study.state
    )
    rows["State"] = state
    return rows


def _teacher(teacher: Any) -> str:
    source = f", {teacher.source}" if teacher.source else ""
    return (
        f"{teacher.name}, test accuracy {100 * teacher.accuracy:.1f} %{source}, weights {teacher.hash[:12]}"
    )


def _environment(recorded: Mapping[str, Any]) -> dict[str, str]:
    import torch

    import kdlab

    known = recorded.get("environment")
    if known:
        out = {
            key: str(known[key])
            for key in ("kdlab", "python", "torch", "numpy", "system", "gpu")
            if known.get(key)
        }
        return {**out, "begun": str(recorded["created"])} if recorded.get("created") else out
    return {
        "kdlab": kdlab.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }

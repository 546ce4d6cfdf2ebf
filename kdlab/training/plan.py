"""What one seed of a study needs to be trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kdlab.data import ImageData, ProbeSet
from kdlab.models.features import StagedNet
from kdlab.training.commands import Command
from kdlab.training.options import Options
from kdlab.training.recipes import Recipe
from kdlab.training.variants import Student


@dataclass
class RunPlan:
    """What one seed of a study needs; see `Study` for the meaning of each field.

    Attributes:
        make_student: a new network; its argument is `Student.network` (None: the study's own).
        students: by name; grows with commands.
        commands: all that were given, in the list that grows.
        number: which of the study's seeds this is, from 1.
        keep: epochs at whose end the states of all students are kept, for forks.
        progress: to be posted with every progress.
    """

    data: ImageData
    make_student: Callable[[Any], StagedNet]
    students: dict[str, Student]
    recipe: Recipe
    seed: int
    device: torch.device
    teachers: Sequence[StagedNet] = ()
    folder: Path | None = None
    probe: ProbeSet | None = None
    snapshot_epochs: Sequence[int] = ()
    keep: Sequence[int] = ()
    phase: str = "students"
    checkpoint_seconds: float = 30.0
    evaluate_every: int = 1
    options: Options = field(default_factory=Options)
    commands: list[Command] = field(default_factory=list)
    number: int = 1
    progress: dict[str, Any] = field(default_factory=dict)

"""Training: studies of students in lockstep, sweeps, live control, records, checkpoints and teachers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kdlab.training.control import Control
from kdlab.training.events import Board, Subscription
from kdlab.training.options import Options
from kdlab.training.recipes import RECIPES, Recipe, get_recipe
from kdlab.training.snapshots import Snapshot
from kdlab.training.study import Study, load_study
from kdlab.training.teachers import TeacherInfo, get_teacher
from kdlab.training.variants import Student

if TYPE_CHECKING:
    from kdlab.training.sweeps import Sweep, load_sweep, sweep

__all__ = [
    "RECIPES",
    "Board",
    "Control",
    "Options",
    "Recipe",
    "Snapshot",
    "Student",
    "Study",
    "Subscription",
    "Sweep",
    "TeacherInfo",
    "get_recipe",
    "get_teacher",
    "load_study",
    "load_sweep",
    "sweep",
]

_SWEEPS = ("Sweep", "load_sweep", "sweep")


def __getattr__(name: str) -> Any:
    if name in _SWEEPS:
        return getattr(importlib.import_module("kdlab.training.sweeps"), name)
    raise AttributeError(f"module 'kdlab.training' has no attribute {name!r}")

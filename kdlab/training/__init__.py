"""Training: studies of students in lockstep, live control, records, checkpoints and teachers."""

from kdlab.training.control import Control
from kdlab.training.events import Board, Subscription
from kdlab.training.recipes import RECIPES, Recipe, get_recipe
from kdlab.training.snapshots import ProbeSet, Snapshot
from kdlab.training.study import Study, load_study
from kdlab.training.teachers import TeacherInfo, get_teacher

__all__ = [
    "RECIPES",
    "Board",
    "Control",
    "ProbeSet",
    "Recipe",
    "Snapshot",
    "Study",
    "Subscription",
    "TeacherInfo",
    "get_recipe",
    "get_teacher",
    "load_study",
]

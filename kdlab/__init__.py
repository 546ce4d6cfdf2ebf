"""kdlab: a laboratory for knowledge distillation, in Jupyter and in plain Python.

Start with `kdlab.Study`, the comparison of students that differ only in their loss; everything
else (`methods`, `losses`, `data`, `models`, `probes`, `plots`, `panels`) is loaded on first use.

Every public name has an example in its docstring. There kdlab, torch and np (NumPy) are imported,
`generator` is a `torch.Generator` with seed 0, and `study` is a small trained study such as

    study = kdlab.Study(
        "digits", teacher="resnet8", student="resnet8", students={"alone": "ce", "KD": "kd"},
        epochs=3, labels_per_class=8, probe_size=80, teacher_epochs=2, folder="runs/small",
    ).fit()

with one seed and snapshots of the epochs 0 to 3. What an example writes, it writes where you are.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kdlab import data, exercises, losses, methods, models, panels, plots, probes, report, training
    from kdlab.checkup import doctor
    from kdlab.training.study import Study, load_study
    from kdlab.training.sweeps import load_sweep, sweep
    from kdlab.training.variants import Student

_SUBPACKAGES = (
    "data",
    "exercises",
    "losses",
    "methods",
    "models",
    "panels",
    "plots",
    "probes",
    "report",
    "training",
)
_NAMES = {
    "Student": "kdlab.training.variants",
    "Study": "kdlab.training.study",
    "load_study": "kdlab.training.study",
    "load_sweep": "kdlab.training.sweeps",
    "sweep": "kdlab.training.sweeps",
    "doctor": "kdlab.checkup",
}

__all__ = [
    "Student",
    "Study",
    "__version__",
    "data",
    "doctor",
    "exercises",
    "load_study",
    "load_sweep",
    "losses",
    "methods",
    "models",
    "panels",
    "plots",
    "probes",
    "report",
    "sweep",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"kdlab.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'kdlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

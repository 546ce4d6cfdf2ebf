"""Students of one step trained beside each other, each on one thread of the processor."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from kdlab.methods import Method

if TYPE_CHECKING:
    from kdlab.training.student import StudentRun

_T = TypeVar("_T")
_DRAWING = (
    nn.modules.dropout._DropoutNd,
    nn.RReLU,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
    nn.MultiheadAttention,
    nn.Transformer,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
    nn.RNNBase,
)
"""Layers of PyTorch that may draw random numbers while they train."""


def draws(net: nn.Module, method: Method) -> bool:
    """Whether a step of this student may draw random numbers.

    The generator belongs to the whole process, so such a student must be trained while no other is.
    What kdlab does not know is taken to draw: layers that are neither PyTorch's nor its own, and
    methods of users.
    """
    for module in (*net.modules(), *method.modules()):
        origin = type(module).__module__
        if isinstance(module, Method):
            if module.draws or not origin.startswith("kdlab.methods."):
                return True
        elif isinstance(module, _DRAWING) or not origin.startswith(("torch.nn.modules.", "kdlab.")):
            return True
    return False


class Crew:
    """As many threads as there are processors, each computing with one thread of its own.

    Operations on small pictures gain nothing from several threads, but whole students do. Each is
    computed as it would be alone, so company changes no bit of it.
    """

    def __init__(self) -> None:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(count, "kdlab-student", initializer=lambda: torch.set_num_threads(1))

    def run(self, students: Sequence[StudentRun], one: Callable[[StudentRun], _T]) -> dict[str, _T]:
        """What `one` returns for each student who draws nothing, by name; of a single one it is not asked.

        All have ended when the first error is raised. Modes of PyTorch that belong to a thread, such as
        `no_grad`, must be entered by `one`.
        """
        steady = [student for student in students if not student.draws]
        if len(steady) < 2:
            return {}
        waiting = {student.name: self._pool.submit(one, student) for student in steady}
        errors = [future.exception() for future in waiting.values()]
        for error in errors:
            if error is not None:
                raise error
        return {name: future.result() for name, future in waiting.items()}

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

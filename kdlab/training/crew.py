"""Students of one step, and teachers of the next, computed beside each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
    """Threads that work beside each other, each of whose operations has its share of the processor.

    Operations on small pictures gain little from several threads, but whole students do. Each is
    computed as it would be alone, so company changes no bit of it.

    Args:
        lanes: how many work at once.
        threads: of each operation.
    """

    def __init__(self, lanes: int, threads: int) -> None:
        self.lanes = lanes
        self._pool = ThreadPoolExecutor(lanes, "kdlab-lane", lambda: torch.set_num_threads(threads))

    @staticmethod
    def of(threads: int) -> Crew | None:
        """As many as there is room for on the processors that this process may use; None for a single one.

        OMP_NUM_THREADS in the environment is a limit, as it is for the operations of PyTorch.
        """
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # further ones are of nested regions
        count = min(count, int(limit)) if limit.isdecimal() else count
        return Crew(count // threads, threads) if count // threads > 1 else None

    def start(self, job: Callable[[], _T]) -> Future[_T]:
        """Have something done behind what was given before; returns at once."""
        return self._pool.submit(job)

    def run(
        self,
        students: Sequence[StudentRun],
        one: Callable[[StudentRun], _T],
        meanwhile: Callable[[], None] | None = None,
    ) -> dict[str, _T]:
        """What `one` returns for each student who draws nothing, by name.

        All have ended when the first error is raised. Modes of PyTorch that belong to a thread, such as
        `no_grad`, must be entered by `one`.

        Args:
            meanwhile: called once the students are at work, to start more. Without, a single student is
                not asked, as it is better off with the caller.
        """
        steady = [student for student in students if not student.draws]
        if len(steady) < 2 and meanwhile is None:
            return {}
        waiting = {student.name: self._pool.submit(one, student) for student in steady}
        if meanwhile is not None:
            meanwhile()
        errors = [future.exception() for future in waiting.values()]
        for error in errors:
            if error is not None:
                raise error
        return {name: future.result() for name, future in waiting.items()}

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

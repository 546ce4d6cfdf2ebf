"""How much room a study will take on the disk, said before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kdlab.data import ProbeSet
from kdlab.methods import Method
from kdlab.models.features import NetSpec, inspect_net
from kdlab.training import config
from kdlab.training.roster import build_method, data_facts
from kdlab.training.seeds import seeded

if TYPE_CHECKING:
    from kdlab.training.study import Study


@dataclass(frozen=True)
class Footprint:
    """Bytes that a finished study takes, all seeds together.

    Attributes:
        snapshots: representations of the probe set at the chosen epochs.
        checkpoints: the last one and the best weights.
        kept: checkpoints kept for forks and for `network(epoch=...)`.
        record: values of every step.
        teachers: copies of the teachers' weights, and their snapshot.
    """

    snapshots: int
    checkpoints: int
    kept: int
    record: int
    teachers: int

    @property
    def total(self) -> int:
        """All together."""
        return self.snapshots + self.checkpoints + self.kept + self.record + self.teachers

    def __str__(self) -> str:
        parts = [f"{name} {_mb(size)}" for name, size in vars(self).items() if size >= 5e4]
        return f"about {_mb(self.total)} ({', '.join(parts)})"


def _mb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def footprint(study: Study) -> Footprint:
    """Estimate the room `study` takes; exact but for file headers and what methods make while training."""
    data, probe, recipe = study.data, study.probe_set, study.recipe
    teachers = [spec.untrained(data) for spec in study._specs]
    specs = [inspect_net(net, data.input_shape) for net in teachers]
    steps = recipe.epochs * study.steps_per_epoch
    snapshots = checkpoints = kept = record = 0
    for student in study.students.values():
        method, net = student.method.fresh(), study._new_student(student.network)
        spec = inspect_net(net, data.input_shape)
        build_method(method, spec, specs, 0)
        with seeded(0, torch.device("cpu")):
            method.attach(data_facts(data, recipe, study.steps_per_epoch))
        weights = _bytes(net.state_dict().values()) + _bytes(method.state_dict().values())
        trained = _bytes(p for module in (net, method) for p in module.parameters() if p.requires_grad)
        slots = 2 if student.adapted(recipe).optimizer == "adamw" else 1
        state = weights + slots * trained
        checkpoints += state + weights
        kept += (
            len([e for e in config.kept_epochs(study.options.keep, recipe.epochs) if e < recipe.epochs])
            * state
        )
        record += 4 * steps * (4 + 2 * len(method.terms))
        snapshots += len(study.asked["snapshots"]) * _snapshot(spec, probe, method, specs)
    seeds = len(study.seeds)
    held = sum(_bytes(net.state_dict().values()) for net in teachers)
    held += sum(_snapshot(spec, probe, None, ()) for spec in specs)
    return Footprint(seeds * snapshots, seeds * checkpoints, seeds * kept, seeds * record, held)


def _bytes(tensors: object) -> int:
    return sum(t.nbytes for t in tensors)  # type: ignore[attr-defined]


def _snapshot(net: NetSpec, probe: ProbeSet, method: Method | None, teachers: Sequence[NetSpec]) -> int:
    """Bytes of one network's snapshot at one epoch."""
    count = len(probe.labels)
    half = sum(c for c, _, _ in net.stages) + net.embedding_dim
    if method is not None and method.overrides("project") and teachers:
        half += teachers[0].embedding_dim
    maps = len(probe.attention_positions) * sum(h * w for _, h, w in net.stages)
    linear = 0
    if method is None or not method.overrides("predict"):
        linear = (net.embedding_dim + 1) * net.num_classes
    return count * (2 * half + 4 * net.num_classes) + 4 * (maps + linear)

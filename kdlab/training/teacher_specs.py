"""What a user may give as a teacher, checked before any work starts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdlab.data import ImageData
from kdlab.errors import CheckpointError, ConfigError
from kdlab.models import inspect_net, load_checkpoint, read_state, state_hash, tap
from kdlab.models.features import StagedNet
from kdlab.training.evaluate import accuracy
from kdlab.training.recipes import Recipe
from kdlab.training.teachers import TeacherInfo, freeze, get_teacher, new_net


@dataclass(frozen=True)
class TeacherSpec:
    """A teacher as asked for: an architecture to train, weights to load, or a module.

    Attributes:
        name: label in tables.
        architecture: name in the zoo; "" for a module.
        checkpoint: file of weights, or None to train.
        seed, epochs, recipe: of the training on demand.
        module: the user's own network.
    """

    name: str
    architecture: str = ""
    checkpoint: str | None = None
    seed: int = 0
    epochs: int | None = None
    recipe: Any = None
    module: nn.Module | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the record; a module is named by its class."""
        out = {k: v for k, v in vars(self).items() if k != "module"}
        out["recipe"] = self.recipe.to_dict() if isinstance(self.recipe, Recipe) else self.recipe
        return out | {"module": None if self.module is None else type(self.module).__name__}

    def untrained(self, data: ImageData) -> StagedNet:
        """The network with whatever weights, for its shapes. Refuses what does not fit the data."""
        if self.module is None:
            return new_net(self.architecture, data)
        net = (
            self.module
            if isinstance(self.module, StagedNet)
            else tap(self.module, input_shape=data.input_shape)
        )
        return net

    def load(self, data: ImageData, device: torch.device, **how: Any) -> TeacherInfo:
        """The teacher itself; trained, loaded or taken as it is, and measured."""
        if self.module is None and self.checkpoint is None:
            info = get_teacher(
                self.architecture,
                data,
                device=device,
                epochs=self.epochs,
                recipe=self.recipe,
                seed=self.seed,
                **how,
            )
            return replace(info, name=self.name)
        if self.module is not None:
            net, source = copy.deepcopy(self.untrained(data)), "module"
        else:
            net, source = new_net(self.architecture, data), Path(str(self.checkpoint)).name
            load_checkpoint(net, str(self.checkpoint))
        freeze(net, device)
        on_device = data.to(device)
        return TeacherInfo(
            self.name,
            net,
            accuracy(net, on_device.test, data, device),
            accuracy(net, on_device.val, data, device),
            state_hash(net),
            source,
            self.architecture,
        )


def teacher_specs(
    given: Any, *, seed: int = 0, epochs: int | None = None, recipe: Any = None
) -> list[TeacherSpec]:
    """What was given as `teacher`, as a list: None, one, or a list of

    a name of the zoo; a path to a .safetensors file written by kdlab; a pair (architecture, path);
    a mapping of `TeacherSpec` fields; a module; a `TeacherInfo`.

    Raises:
        ConfigError: none of these.
    """
    if given is None:
        return []
    several = list(given) if isinstance(given, list) else [given]
    specs: list[TeacherSpec] = []
    for one in several:
        spec = _teacher_spec(one, seed, epochs, recipe)
        taken = {s.name for s in specs}
        name, number = spec.name, 2
        while name in taken:
            name, number = f"{spec.name} ({number})", number + 1
        specs.append(replace(spec, name=name))
    return specs


def _teacher_spec(one: Any, seed: int, epochs: int | None, recipe: Any) -> TeacherSpec:
    if isinstance(one, TeacherInfo):
        if one.net is None:
            raise ConfigError(
                f"Teacher {one.name!r} comes from a record without its network; give the network."
            )
        return TeacherSpec(one.name, module=one.net)
    if isinstance(one, nn.Module):
        return TeacherSpec(type(one).__name__, module=one)
    if isinstance(one, dict):
        known = {"name", "architecture", "checkpoint", "seed", "epochs", "recipe"}
        if not set(one) <= known or not {"name", "architecture"} & set(one):
            raise ConfigError(
                f"A teacher given as a mapping has a name and any of {sorted(known)}, not {sorted(one)}."
            )
        architecture = one.get("architecture") or one["name"]
        full = {"seed": seed, "epochs": epochs, "recipe": recipe, **one, "architecture": architecture}
        return TeacherSpec(**{"name": architecture, **full})
    if isinstance(one, tuple) and len(one) == 2:
        return TeacherSpec(str(one[0]), str(one[0]), checkpoint=_existing(one[1]))
    if isinstance(one, str | Path):
        suffix = Path(one).suffix
        if suffix not in (".safetensors", ".pt", ".pth", ".th", ".tar"):
            return TeacherSpec(str(one), str(one), seed=seed, epochs=epochs, recipe=recipe)
        path = _existing(one)
        architecture = read_state(path).metadata.get("architecture") if suffix == ".safetensors" else None
        if not architecture:
            raise ConfigError(
                f"{one} does not say which network its weights are for; "
                f"give teacher=('resnet32x4', {str(one)!r})."
            )
        return TeacherSpec(architecture, architecture, checkpoint=path)
    raise ConfigError(
        "A teacher is a name, a path, a pair (name, path), a module or a list of these, "
        f"not {type(one).__name__}."
    )


def _existing(path: Any) -> str:
    if not Path(path).is_file():
        raise CheckpointError(f"There is no file {path}; check the path of the teacher's weights.")
    return str(path)


def check_teachers(specs: Sequence[TeacherSpec], data: ImageData) -> list[StagedNet]:
    """Untrained stand-ins of all teachers, checked against the data before any work starts.

    Raises:
        ConfigError: another number of classes, or an input size the network cannot take.
    """
    nets = []
    for spec in specs:
        net = spec.untrained(data)
        try:
            seen = inspect_net(net, data.input_shape, spec.name)
        except RuntimeError as error:
            raise ConfigError(
                f"Teacher {spec.name!r} cannot take pictures of size {data.input_shape}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        if seen.num_classes != data.num_classes:
            raise ConfigError(
                f"Teacher {spec.name!r} tells {seen.num_classes} classes apart and {data.name} has "
                f"{data.num_classes}; give a teacher trained on {data.name}."
            )
        nets.append(net)
    return nets

"""Teachers: trained on demand by the same loop, cached with hash and accuracy, or brought along."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kdlab.data import ImageData
from kdlab.errors import CheckpointError, StudyError
from kdlab.models import build, canonical, load_checkpoint, save_checkpoint, state_hash
from kdlab.models.features import StagedNet
from kdlab.training.control import Control
from kdlab.training.events import Board
from kdlab.training.files import locked, read_json, write_json
from kdlab.training.loop import Run
from kdlab.training.plan import RunPlan
from kdlab.training.progress import show_progress
from kdlab.training.recipes import Recipe, get_recipe
from kdlab.training.record import RunRecord
from kdlab.training.roster import MEMORY_FORMAT
from kdlab.training.seeds import choose_device, derive
from kdlab.training.variants import Student


@dataclass
class TeacherInfo:
    """A frozen teacher and what is known of it.

    Attributes:
        name: as it is called in tables and figures.
        net: in eval mode with `requires_grad=False`, or None where only the record was read.
        accuracy, val_accuracy: on test and validation split, 0..1.
        hash: SHA-256 of names and bytes of the weights.
        source: "trained by kdlab", a file name, or "module".
        architecture: name in the zoo, or "" for a module of the user's.
        recipe: how it was trained, where kdlab trained it.

    >>> teacher = study.teachers[0]
    >>> teacher.name, teacher.source, teacher.architecture, len(teacher.hash)
    ('resnet8', 'trained by kdlab', 'resnet8', 64)
    >>> "net" in teacher.facts()
    False
    """

    name: str
    net: StagedNet | None
    accuracy: float
    val_accuracy: float
    hash: str
    source: str
    architecture: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Everything but the network, as plain values."""
        return {key: value for key, value in vars(self).items() if key != "net"}


def freeze(net: StagedNet, device: torch.device | str = "cpu") -> StagedNet:
    """Put a network in eval mode on `device` and let none of its weights take a gradient."""
    return net.to(device).to(memory_format=MEMORY_FORMAT).eval().requires_grad_(False)


def cache_folder() -> Path:
    """Where trained teachers are kept: KDLAB_CACHE, or the user's cache folder."""
    own = os.environ.get("KDLAB_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdlab"


def get_teacher(
    name: str,
    data: ImageData,
    *,
    device: str | torch.device = "auto",
    epochs: int | None = None,
    recipe: str | Recipe | dict[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
    control: Control | None = None,
    board: Board | None = None,
) -> TeacherInfo:
    """A teacher of a named architecture, trained with plain cross-entropy, or taken from the cache.

    An interrupted training goes on from its last checkpoint; only a finished teacher enters the
    cache. One found there is checked against its hash.

    Args:
        name: of a network in the zoo.
        data: it is trained on all of `data.train`.
        device: "auto", "cpu", "cuda", ...
        epochs, recipe, seed: of the training; each combination is a teacher of its own.
        progress: show a bar.
        control, board: of a study that wants to pause, stop and watch the training.

    Returns:
        the teacher, and what is known of it.

    Raises:
        CheckpointError: the cached file is damaged; the message says which folder to delete.
        StudyError: the training was stopped before its end.

    >>> data = kdlab.data.load("digits", limit={"train": 64})
    >>> teacher = kdlab.training.get_teacher("resnet8", data, epochs=1, device="cpu", progress=False)
    >>> teacher.source, teacher.net.training, 0 <= teacher.accuracy <= 1
    ('trained by kdlab', False, True)
    """
    name = canonical(name)
    chosen_recipe = get_recipe(recipe, data_name=data.name, epochs=epochs)
    where = choose_device(device)
    key = f"{derive(seed, name, data.fingerprint, sorted(chosen_recipe.to_dict().items())):016x}"
    folder = cache_folder() / "teachers" / f"{name.replace('/', '-')}-{data.name}-{key}"
    control, board = control or Control(), board or Board()
    with locked(folder, f"teacher {name}", wait=True):
        if not (folder / "teacher.json").exists():
            with show_progress(board, progress):
                _train(name, data, chosen_recipe, seed, where, folder, control, board)
        return _from_cache(name, data, folder, where)


def new_net(name: str, data: ImageData) -> StagedNet:
    """An untrained network of the zoo, made for this data set."""
    return build(name, num_classes=data.num_classes, in_channels=data.channels)


def _train(
    name: str,
    data: ImageData,
    recipe: Recipe,
    seed: int,
    device: torch.device,
    folder: Path,
    control: Control,
    board: Board,
) -> None:
    from kdlab.methods import CE

    work = folder / "training"
    record = RunRecord(work)
    plan = RunPlan(
        data=data,
        make_student=lambda _: new_net(name, data),
        students={name: Student(CE())},
        recipe=recipe,
        seed=derive(seed, "teacher"),
        device=device,
        folder=work,
        phase="teacher",
        checkpoint_seconds=20.0,
        progress={"teacher": name},
    )
    run = Run(plan, record, control, board)
    run.resume()
    if not run.train():
        raise StudyError(
            f"Training of teacher {name!r} was stopped at epoch {run.epoch}; it goes on from there next time."
        )
    last = record.rows[-1]
    net = run.students[0].net
    save_checkpoint(net, folder / "teacher.safetensors", {"architecture": name})
    facts = {
        "architecture": name,
        "hash": state_hash(net),
        "accuracy": last["test_accuracy"],
        "val_accuracy": last["val_accuracy"],
        "recipe": recipe.to_dict(),
        "seed": seed,
        "data": data.name,
        "fingerprint": data.fingerprint,
        "history": record.rows,
    }
    write_json(folder / "teacher.json", facts)  # written last: its presence says the teacher is whole
    shutil.rmtree(work, ignore_errors=True)


def _from_cache(name: str, data: ImageData, folder: Path, device: torch.device) -> TeacherInfo:
    facts = read_json(folder / "teacher.json")
    net = new_net(name, data)
    again = f"delete the folder {folder} to train the teacher again"
    try:
        load_checkpoint(net, folder / "teacher.safetensors")
    except CheckpointError as error:
        raise CheckpointError(f"The cached teacher is damaged ({error}); {again}.") from error
    if state_hash(net) != facts["hash"]:
        raise CheckpointError(
            f"The weights of the cached teacher in {folder} are not those recorded; {again}."
        )
    return TeacherInfo(
        name,
        freeze(net, device),
        facts["accuracy"],
        facts["val_accuracy"],
        facts["hash"],
        "trained by kdlab",
        name,
        facts["recipe"],
    )

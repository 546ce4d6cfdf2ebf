"""A trained network for use elsewhere: a module that takes plain pictures, or a file of it."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdlab import models
from kdlab.errors import CheckpointError, ConfigError
from kdlab.files import whole_file
from kdlab.methods import Method, Step
from kdlab.models.features import StagedNet
from kdlab.models.onnx import require_onnx, run_onnx, write_onnx
from kdlab.training.variants import class_name

if TYPE_CHECKING:
    from kdlab.training.study import Study

KINDS = {".onnx": "ONNX", ".safetensors": "weights (safetensors)"}
_PICTURES = 64  # held-out pictures on which a file is compared with the network
_TOLERANCE = 1e-3  # of the largest logit; measured differences are a thousand times smaller


class Predictor(nn.Module):
    """What is deployed: pictures from 0 to 1 in, logits out. The normalisation is inside.

    Args:
        net: the network.
        mean, std: per channel, of the pictures it was trained with.
        method: where the method predicts otherwise than by the network's own logits (SimKD): the method
            as it was trained. None otherwise.
        classifiers: of the teachers, for such a method.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: StagedNet,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        method: Method | None = None,
        classifiers: tuple[nn.Module, ...] = (),
    ) -> None:
        super().__init__()
        self.net, self.method = net, method
        self.classifiers = nn.ModuleList(classifiers)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, C, H, W) float32 from 0 to 1 -> (B, K) logits."""
        features = self.net.features((pictures - self.mean) / self.std)
        if self.method is None:
            return features.logits
        nothing = torch.zeros(pictures.shape[0], dtype=torch.int64, device=pictures.device)
        return self.method.predict(Step(features, nothing, classifiers=tuple(self.classifiers)))


@dataclass(frozen=True, repr=False)
class Exported:
    """A file that was written, and how well it agrees with the network.

    Attributes:
        path: of the file.
        kind: of the file, in words.
        bytes: its size.
        difference: largest difference of a logit between the file and PyTorch's network.
        pictures: held-out pictures it was compared on.
    """

    path: Path
    kind: str
    bytes: int
    difference: float
    pictures: int

    def __str__(self) -> str:
        size = f"{self.bytes / 1e6:.1f} MB" if self.bytes >= 1e6 else f"{self.bytes / 1e3:.0f} kB"
        agrees = (
            f"no logit of {self.pictures} test pictures is off by more than {self.difference:.1g}"
            if self.difference
            else f"all logits of {self.pictures} test pictures are those of the network"
        )
        return f"{self.path}: {self.kind}, {size}; {agrees}."

    __repr__ = __str__


def predictor(study: Study, name: str, epoch: str | int = "last", seed: int | None = None) -> Predictor:
    """See `Study.predictor`."""
    data = study.data
    student = study.students.get(name)
    if student is None or not student.method.overrides("predict"):
        return Predictor(study.network(name, epoch, seed), data.mean, data.std).eval()
    revived = study.revive(name, epoch, seed)
    classifiers = tuple(study.network(teacher).classifier for teacher in study.teacher_names)
    made = Predictor(revived.net, data.mean, data.std, revived.method, classifiers).eval()
    try:
        with torch.no_grad():
            made(torch.zeros(1, *data.input_shape))
    except IndexError as error:
        raise ConfigError(
            f"{student.method.title} predicts by looking at the teacher's own features; without the teacher "
            f"{name!r} cannot be used elsewhere."
        ) from error
    return made


def export(
    study: Study, name: str, path: str | Path, epoch: str | int = "last", seed: int | None = None
) -> Exported:
    """See `Study.export`."""
    path = Path(path)
    if path.suffix not in KINDS:
        raise ConfigError(f"A network is exported to a file named .onnx or .safetensors, not {path.name!r}.")
    if path.suffix == ".onnx":
        require_onnx()
    made = predictor(study, name, epoch, seed)
    if made.method is not None and path.suffix != ".onnx":
        raise ConfigError(
            f"{study.students[name].method.title} predicts with more than the student's own weights, which a "
            f"file of these alone would lose; export {name!r} to a file named .onnx."
        )
    about = _about(study, name, epoch, seed)
    pictures = study.probe_set.images[~study.probe_set.fit][:_PICTURES].float() / 255
    with torch.no_grad():
        expected = made(pictures)
    try:
        with whole_file(path) as temporary:  # a file that answers otherwise never gets its name
            if path.suffix == ".onnx":
                write_onnx(made, temporary, study.data.input_shape, about)
                found = run_onnx(temporary, pictures)
            else:
                models.save_checkpoint(made.net, temporary, about)
                found = _read_again(study, made, temporary, pictures)
            difference = float((found - expected).abs().max())
            if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
                raise CheckpointError(
                    f"The file of {name!r} answered otherwise than the network (a logit differs by "
                    f"{difference:.2g}) and was not kept; please report it with the name of the network."
                )
    except OSError as error:
        raise CheckpointError(f"Cannot write {path}: {error}; choose a folder you may write to.") from error
    return Exported(path, KINDS[path.suffix], path.stat().st_size, difference, len(pictures))


@torch.no_grad()
def _read_again(study: Study, made: Predictor, path: Path, pictures: Tensor) -> Tensor:
    """Logits of a second network that has its weights from the file."""
    again = copy.deepcopy(made.net)
    for tensor in (*again.parameters(), *again.buffers()):
        tensor.zero_()
    models.load_checkpoint(again, path)
    return Predictor(again, study.data.mean, study.data.std).eval()(pictures)


def _about(study: Study, name: str, epoch: str | int, seed: int | None) -> dict[str, str]:
    """What somebody who finds the file wants to know, as text."""
    from kdlab import __version__

    data = study.data
    about: dict[str, Any] = {
        "made by": f"kdlab {__version__}",
        "name": name,
        "network": _network_name(study, name),
        "data": data.name,
        "input_shape": list(data.input_shape),
        "mean": list(data.mean),
        "std": list(data.std),
        "class_names": list(data.class_names),
        "pictures": "float32, (batch, channels, height, width), from 0 to 1",
    }
    if name in study.students:
        about |= {
            "method": study.students[name].method.key,
            "epoch": epoch,
            "seed": study.seeds[0] if seed is None else seed,
        }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}


def _network_name(study: Study, name: str) -> str:
    if name in study.students:
        given = study.students[name].own().get("network", study.asked["student"])
        return given if isinstance(given, str) else str(given["module"])
    spec = next(spec for spec in study._specs if spec.name == name)
    return spec.architecture or class_name(spec.module)

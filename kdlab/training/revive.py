"""A student as it was at some epoch, with the trained parts of its method: for looking into, not training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from kdlab.errors import CheckpointError
from kdlab.methods import Method
from kdlab.models.features import StagedNet, inspect_net
from kdlab.training.checkpoint import Checkpoints
from kdlab.training.files import read_tensors
from kdlab.training.roster import build_method, data_facts
from kdlab.training.seeds import derive, seeded

if TYPE_CHECKING:
    from kdlab.training.study import Study


class Revived(NamedTuple):
    """A network and its method, in eval mode, without gradients on their parameters."""

    net: StagedNet
    method: Method
    epoch: int
    """The epoch at whose end they are; 0 is before training."""


def revive(study: Study, name: str, epoch: int | str = "last", seed: int | None = None) -> Revived:
    """Rebuild a student's network and method from the folder of a study, with the terms of then.

    Args:
        study: live, finished or killed; the data set must be at hand for methods that keep a bank of
            its pictures.
        name: of the student.
        epoch: "last" (the last checkpoint), "best" (highest validation accuracy; terms as they are at the
            last checkpoint), 0 (as built; what a method prepares before the first step is not done
            yet), or one of `study.kept_epochs(name)`.
        seed: of the run; None is the first.

    Raises:
        CheckpointError: nothing was kept of that epoch, or it does not fit the method.
    """
    own_seed = study._seed(seed)
    net = study.network(name, epoch, own_seed)
    method = study.students[name].method.fresh()
    shape = study.data.input_shape
    specs = [inspect_net(spec.untrained(study.data), shape) for spec in study._specs]
    build_method(method, inspect_net(net, shape), specs, own_seed)
    with seeded(derive(own_seed, "attach"), torch.device("cpu")):
        method.attach(data_facts(study.data, study.recipe, study.steps_per_epoch))
    done = 0
    if epoch != 0:
        tensors, info = _state(study, name, epoch, own_seed)
        try:
            method.load_state_dict({k: v for k, v in tensors.items()})
        except RuntimeError as error:
            raise CheckpointError(
                f"The parts that {name!r} trains do not fit its method here ({str(error).splitlines()[0]}); "
                "if it keeps a bank of pictures, open the study where its data set is at hand."
            ) from error
        method.apply_terms(info["terms"])
        done = int(info["step"]) // study.steps_per_epoch
    method.requires_grad_(False).eval()
    return Revived(net, method, done)


def _state(study: Study, name: str, epoch: int | str, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a student's method, and the plain values beside them."""
    folder = study._seed_folder(seed)
    kept = study._kept(name, folder)
    if isinstance(epoch, int) and epoch in kept:
        tensors, info = Checkpoints(folder).kept(name, kept[epoch])
        own = {k.removeprefix("method|"): v for k, v in tensors.items() if k.startswith("method|")}
        return own, info
    prefix = f"{name}|method|"
    tensors, plain = read_tensors(folder / "last.safetensors", prefix)
    info = plain["students"][name]
    if epoch == "best":
        tensors, best = read_tensors(folder / "best.safetensors", prefix)
        info = info | {"step": best["epochs"][name] * study.steps_per_epoch}
    return {k.removeprefix(prefix): v for k, v in tensors.items()}, info

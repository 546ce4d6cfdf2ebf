"""Where probes take their numbers from: a study, snapshots, plain modules, or plain arrays.

A `Source` hides which of these it is. Every probe calls `as_source` first, so that all of them
serve people who bring their own networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdlab.errors import ConfigError, unknown_name
from kdlab.probes import inputs
from kdlab.probes.progress import steps
from kdlab.probes.representation import AS_GIVEN, Representation, measure
from kdlab.probes.source import Source

__all__ = ["Source", "as_source"]


def as_source(
    source: Any,
    *,
    target: Any = None,
    fit: Any = None,
    judged: bool = False,
    images: Any = None,
    data: Any = None,
    n: int = 2000,
    teacher: str | Iterable[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> Source:
    """A `Source` of whatever a user gives.

    Args:
        source: a study; or name -> one of: an array (n, p), a mapping layer -> array, a snapshot or
            `Representation`, a module. One of these without a name is called "network".
        target: (n,) labels; needed for everything but a study, unless `data` has them.
        fit: (n,) bool, True where probes may be fitted; every second picture of each class if not given.
        judged: without `fit` every picture of `target` is one to be judged, for probes that fit nothing.
        images: (n, C, H, W) pictures for modules, uint8 or floats normalised as the networks were trained.
        data: a data set or its name, instead of `images` and `target`: n pictures of its validation and
            test parts, chosen as a study chooses them. Features must be of these pictures in this order
            (`kdlab.data.choose_probe_set`).
        n: pictures of `data`.
        teacher: which of the names are teachers.
        class_names: one a class; those of `data`, or their numbers, if not given.

    Returns:
        networks, pictures and labels in one form.

    Raises:
        ConfigError: something is missing, or the numbers of samples differ.

    >>> target = np.arange(60) % 3
    >>> layers = {"early": np.random.default_rng(0).normal(size=(60, 8)), "late": np.eye(3)[target]}
    >>> source = kdlab.probes.as_source({"mine": layers}, target=target)
    >>> source.students, int(source.fit.sum()), round(source.chance, 2)
    (('mine',), 30, 0.33)
    """
    if isinstance(source, Source):
        return source
    if hasattr(source, "snapshot") and hasattr(source, "probe_set"):
        return _from_study(source)
    if source is None or isinstance(source, str | PurePath):
        raise ConfigError(
            f"{source!r} is no study, network or features; open a study folder by "
            "kdlab.load_study(folder), and name networks as {name: module}."
        )
    named = source if isinstance(source, Mapping) else {"network": source}
    if not named:
        raise ConfigError("There is no network to look at; give at least one.")
    pictures = _from_data(data, n) if data is not None else _from_images(images, target, fit, judged)
    labels = pictures["target"]
    given: Iterable[tuple[Any, Any]] = named.items()
    if any(isinstance(value, nn.Module) for value in named.values()):
        given = steps(named.items(), lambda one: f"showing pictures to {one[0]}", share=0.4)
    views = {str(name): _as_view(str(name), value, pictures["take"], len(labels)) for name, value in given}
    for name, view in views.items():
        _check_length(name, view, len(labels))
    teachers = () if teacher is None else inputs.names(teacher, "teacher")
    for name in teachers:
        if name not in views:
            raise unknown_name("network", name, views)
    if pictures["fit"].shape != labels.shape:
        raise ConfigError(f"fit must hold True or False for each of the {len(labels)} samples.")
    if class_names:
        pictures["class_names"] = tuple(class_names)
    nets = {str(name): value for name, value in named.items() if isinstance(value, nn.Module)}
    epoch = max(view.epoch for view in views.values())
    return Source(
        teachers=teachers,
        students=tuple(name for name in views if name not in teachers),
        seeds=(0,),
        read=lambda network, epoch, seed: views[network],
        read_epochs=lambda seed, network: [epoch],
        read_net=(lambda network, epoch, seed: _given_net(nets, network)) if nets else None,
        **pictures,
    )


def _from_images(images: Any, target: Any, fit: Any, judged: bool) -> dict[str, Any]:
    """What a `Source` says of pictures that were given."""
    if target is None:
        raise ConfigError("Give the labels of the samples: target=...")
    labels = inputs.class_numbers(target, "target")
    shown, take = _shown(images)
    if shown is not None and len(shown) != len(labels):
        raise ConfigError(
            f"There are {len(shown)} images and {len(labels)} labels; give one label for each image."
        )
    if fit is None:
        fit = np.zeros(len(labels)) if judged else _every_second(labels)
    return {
        "target": labels,
        "index": np.arange(len(labels)),
        "fit": np.asarray(fit, dtype=bool),
        "images": shown,
        "take": take,
        "class_names": tuple(map(str, range(int(labels.max()) + 1))),
    }


def _from_data(data: Any, n: int) -> dict[str, Any]:
    """What a `Source` says of the pictures that a study of `data` would look at."""
    from kdlab.data import choose_probe_set, load

    held = load(data) if isinstance(data, str) else data
    return _of_probe_set(choose_probe_set(held, n), held)


def _of_probe_set(probe: Any, data: Any) -> dict[str, Any]:
    labels = np.asarray(probe.labels, dtype=np.int64)
    return {
        "target": labels,
        "index": np.asarray(probe.index, dtype=np.int64),
        "fit": np.asarray(probe.fit, dtype=bool),
        "images": np.asarray(probe.images),
        "class_names": tuple(data.class_names),
        "take": lambda places: data.normalize(probe.images[torch.as_tensor(places)]),
        "factors": {name: np.asarray(v) for name, v in getattr(probe, "factors", {}).items()},
        "factor_names": dict(getattr(data, "factor_names", {})),
        "coarse": _coarse(data, labels),
        "coarse_names": tuple(getattr(data, "coarse_names", None) or ()),
    }


def _coarse(data: Any, labels: np.ndarray) -> np.ndarray | None:
    table = getattr(data, "fine_to_coarse", None)
    return None if table is None else np.asarray(table, dtype=np.int64)[labels]


def _shown(images: Any) -> tuple[np.ndarray | None, Callable[[np.ndarray], Tensor] | None]:
    """Pictures as bytes for showing, and as networks take them."""
    if images is None:
        return None, None
    given = torch.as_tensor(images).detach().cpu()
    if given.ndim != 4:
        raise ConfigError(f"images must be (samples, channels, height, width), not {tuple(given.shape)}.")
    if given.dtype == torch.uint8:
        return given.numpy(), lambda places: given[torch.as_tensor(places)].float() / 255
    given = given.float()
    low = given.amin(dim=(0, 2, 3), keepdim=True)
    width = (given.amax(dim=(0, 2, 3), keepdim=True) - low).clamp_min(1e-12)
    shown = ((given - low) / width * 255).round().to(torch.uint8)
    return shown.numpy(), lambda places: given[torch.as_tensor(places)]


def _given_net(nets: Mapping[str, nn.Module], network: str) -> nn.Module:
    if network not in nets:
        raise ConfigError(
            f"{network!r} was given as features, and this needs the network itself; give the module."
        )
    return nets[network]


def _from_study(study: Any) -> Source:
    probe = study.probe_set
    return Source(
        teachers=tuple(study.teacher_names),
        students=tuple(study.names),
        seeds=tuple(study.seeds),
        read=lambda network, epoch, seed: study.snapshot(network, epoch=epoch, seed=seed),
        read_epochs=lambda seed, network: study.snapshot_epochs(seed, network=network),
        attention_count=int(probe.attention_count),
        read_net=lambda network, epoch, seed: study.network(
            network, "last" if epoch == AS_GIVEN else epoch, seed
        ).cpu(),
        study=study,
        **_of_probe_set(probe, study.data),
    )


def _as_view(name: str, value: Any, take: Callable[[np.ndarray], Tensor] | None, n: int) -> Any:
    if hasattr(value, "stages") and hasattr(value, "embedding"):
        return value
    if isinstance(value, nn.Module):
        if take is None:
            raise ConfigError(f"{name!r} is a module; give the pictures it is to look at: images=...")
        return measure(value, take, name=name, n=n)
    if isinstance(value, Mapping):
        return Representation(name, stages={str(layer): _array(name, x) for layer, x in value.items()})
    return Representation(name, embedding=_array(name, value))


def _array(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float32)
    if array.ndim != 2:
        raise ConfigError(f"The features of {name!r} must be (samples, features), not shape {array.shape}.")
    return array


def _check_length(name: str, view: Any, n: int) -> None:
    tables = [
        *view.stages.values(),
        *(x for x in (view.embedding, view.logits, view.projected) if x is not None),
    ]
    for table in tables:
        if len(table) != n:
            raise ConfigError(
                f"{name!r} shows {len(table)} samples and there are {n} labels; all networks must be shown "
                "the same samples in the same order."
            )


def _every_second(labels: np.ndarray) -> np.ndarray:
    rank = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        rank[where] = np.arange(len(where))
    return rank % 2 == 0

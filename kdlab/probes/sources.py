"""Where probes take their numbers from: a study, snapshots, plain modules, or plain arrays.

A `Source` hides which of these it is. Every probe calls `as_source` first, so that all of them
serve people who bring their own networks.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdlab.errors import ConfigError, StudyError, unknown_name
from kdlab.probes.representation import AS_GIVEN, Representation, measure

_CACHE_BYTES = 256 * 2**20


@dataclass
class Source:
    """Networks, seeds, epochs and the pictures they were shown.

    Attributes:
        teachers, students: network names; `students` in the study's own order, which fixes colours.
        seeds: of the runs.
        target: (n,) labels; index: (n,) position in the original data set.
        fit: (n,) bool; True where probes and alignments may be fitted, False where they are evaluated.
        images: (n, C, H, W) uint8, or None.
        class_names: one a class; coarse: (n,) super-class of each picture, or None.
        factors: name -> (n,) what each picture was made of, where the data set knows; factor_names:
            name -> names of its values.
        study: whose networks these are, or None.
        attention_count: maps are kept of the first so many evaluation pictures; None means of all.
    """

    teachers: tuple[str, ...]
    students: tuple[str, ...]
    seeds: tuple[int, ...]
    target: np.ndarray
    index: np.ndarray
    fit: np.ndarray
    images: np.ndarray | None
    class_names: tuple[str, ...]
    read: Callable[[str, int, int], Any]
    read_epochs: Callable[[int, str | None], Sequence[int]]
    attention_count: int | None = None
    read_net: Callable[[str, int, int], nn.Module] | None = None
    take: Callable[[np.ndarray], Tensor] | None = None
    factors: Mapping[str, np.ndarray] = field(default_factory=dict)
    factor_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    coarse: np.ndarray | None = None
    coarse_names: tuple[str, ...] = ()
    study: Any = None
    _cache: OrderedDict[tuple[str, int, int], Any] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def view(self, network: str, epoch: int, seed: int) -> Any:
        """The snapshot or representation of `network`; a teacher is the same everywhere."""
        key = (network, AS_GIVEN, self.seeds[0]) if network in self.teachers else (network, epoch, seed)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = self.read(network, epoch, seed)
                while sum(map(_size, self._cache.values())) > _CACHE_BYTES and len(self._cache) > 1:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(key)
            return self._cache[key]

    def net(self, network: str, epoch: int, seed: int) -> nn.Module:
        """The network itself, frozen and in eval mode, for what must be computed through it.

        Raises:
            ConfigError: features were given, and no network.
            CheckpointError: no weights of that epoch were kept.
        """
        if self.read_net is None:
            raise ConfigError(
                f"{network!r} was given as features, and this needs the network itself; give the module."
            )
        return self.read_net(network, AS_GIVEN if network in self.teachers else epoch, seed)

    def inputs(self, places: np.ndarray) -> Tensor:
        """Pictures as networks take them: (len(places), C, H, W) float32, normalised.

        Raises:
            ConfigError: there are no pictures.
        """
        if self.take is None:
            raise ConfigError("There are no pictures to look at; give images=... or data=...")
        return self.take(places)

    def epochs(self, seed: int, network: str | None = None) -> list[int]:
        """Epochs of which there are snapshots (of one student, if named), ascending; 0 is before training.

        A student that came later or went earlier than others has fewer of them.
        """
        return sorted(int(epoch) for epoch in self.read_epochs(seed, network))

    def presence(
        self, networks: Sequence[str], epochs: Sequence[int], seed: int
    ) -> dict[str, tuple[int, ...]]:
        """Network -> those of `epochs` of which it has a snapshot; a teacher has all."""
        out = {}
        for name in networks:
            own = epochs if name in self.teachers else self.epochs(seed, name)
            out[name] = tuple(epoch for epoch in epochs if epoch in own)
        return out

    def choose_networks(self, students: Iterable[str] | str | None, teachers: bool = True) -> tuple[str, ...]:
        """Teachers first, then the chosen students; an `UnknownNameError` for others."""
        chosen = self.students if students is None else _as_tuple(students)
        for name in chosen:
            if name not in self.students:
                raise unknown_name("student", name, self.students)
        return (*(self.teachers if teachers else ()), *chosen)

    def choose_seeds(
        self, seeds: str | int | Iterable[int] = "all", networks: Sequence[str] | None = None
    ) -> tuple[int, ...]:
        """The chosen seeds that have a snapshot (of one of `networks`, if given).

        Raises:
            ConfigError: a seed that this study does not have.
            StudyError: none of them has a snapshot yet.
        """
        if isinstance(seeds, str) and seeds != "all":
            raise ConfigError(f"seeds must be 'all', a seed or a list of seeds, not {seeds!r}.")
        chosen = self.seeds if isinstance(seeds, str) else _as_ints(seeds)
        missing = [seed for seed in chosen if seed not in self.seeds]
        if missing:
            raise ConfigError(f"There is no seed {missing[0]}; there are {_listed(self.seeds)}.")
        with_snapshots = tuple(seed for seed in chosen if self._known_epochs([seed], networks))
        if not with_snapshots:
            students = [name for name in networks or () if name in self.students]
            whose = "the students" if len(students) in (0, len(self.students)) else _names(students)
            raise StudyError(f"There is no snapshot of {whose} yet; train the study first (study.fit()).")
        return with_snapshots

    def _known_epochs(self, seeds: Sequence[int], networks: Sequence[str] | None) -> list[int]:
        """Epochs of which at least one of the students has a snapshot in one of the seeds."""
        students = [name for name in networks or () if name in self.students]
        if len(students) in (0, len(self.students)):
            return sorted(set().union(*(self.epochs(seed) for seed in seeds)))
        return sorted(set().union(*(self.epochs(seed, name) for seed in seeds for name in students)))

    def choose_epochs(
        self,
        epochs: str | int | Iterable[int] = "all",
        seeds: Sequence[int] | None = None,
        networks: Sequence[str] | None = None,
    ) -> tuple[int, ...]:
        """The chosen epochs, ascending: "all", "last", one (negative counts from the last) or several.

        Args:
            epochs: which.
            seeds: of which seeds there must be a snapshot; all if not given.
            networks: of which students; not each of them need have one at each epoch (see `presence`).

        Raises:
            ConfigError: there is no snapshot of an epoch asked for.
        """
        known = self._known_epochs(seeds or self.seeds, networks)
        if isinstance(epochs, str):
            if epochs not in ("all", "last"):
                raise ConfigError(f"epochs must be 'all', 'last' or a list of epochs, not {epochs!r}.")
            return tuple(known) if epochs == "all" else tuple(known[-1:])
        chosen = []
        for epoch in _as_ints(epochs):
            place = known[epoch] if -len(known) <= epoch < 0 and epoch not in known else epoch
            if place not in known:
                raise ConfigError(f"There is no snapshot of epoch {epoch}; there are {_listed(known)}.")
            chosen.append(place)
        return tuple(sorted(set(chosen)))

    @property
    def chance(self) -> float:
        """Accuracy of always naming the most frequent class of the evaluation part."""
        return float(np.bincount(self.target[~self.fit]).max() / max(int((~self.fit).sum()), 1))


def as_source(
    source: Any,
    *,
    target: Any = None,
    fit: Any = None,
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
        images: (n, C, H, W) pictures for modules, uint8 or floats normalised as the networks were trained.
        data: a data set or its name, instead of `images` and `target`: n pictures of its validation and
            test parts, chosen as a study chooses them. Features must be of these pictures in this order
            (`kdlab.data.choose_probe_set`).
        n: pictures of `data`.
        teacher: which of the names are teachers.
        class_names: one a class; those of `data`, or their numbers, if not given.

    Raises:
        ConfigError: something is missing, or the numbers of samples differ.
    """
    if isinstance(source, Source):
        return source
    if hasattr(source, "snapshot") and hasattr(source, "probe_set"):
        return _from_study(source)
    named = source if isinstance(source, Mapping) else {"network": source}
    if not named:
        raise ConfigError("There is no network to look at; give at least one.")
    pictures = _from_data(data, n) if data is not None else _from_images(images, target, fit)
    labels = pictures["target"]
    views = {
        str(name): _as_view(str(name), value, pictures["take"], len(labels)) for name, value in named.items()
    }
    for name, view in views.items():
        _check_length(name, view, len(labels))
    teachers = () if teacher is None else _as_tuple(teacher)
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


def _from_images(images: Any, target: Any, fit: Any) -> dict[str, Any]:
    """What a `Source` says of pictures that were given."""
    if target is None:
        raise ConfigError("Give the labels of the samples: target=...")
    labels = np.asarray(torch.as_tensor(target).cpu(), dtype=np.int64)
    if labels.ndim != 1 or not len(labels):
        raise ConfigError(f"target must hold one label for each sample, not shape {labels.shape}.")
    shown, take = _shown(images)
    return {
        "target": labels,
        "index": np.arange(len(labels)),
        "fit": _every_second(labels) if fit is None else np.asarray(fit, dtype=bool),
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


def _size(view: Any) -> int:
    tables = [*view.stages.values(), *view.attention.values(), view.embedding, view.logits, view.projected]
    return sum(table.nbytes for table in tables if table is not None)


def _as_tuple(names: Iterable[str] | str) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _as_ints(values: int | Iterable[int]) -> tuple[int, ...]:
    return tuple(int(v) for v in values) if isinstance(values, Iterable) else (int(values),)


def _names(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names))


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, values)) or "none"

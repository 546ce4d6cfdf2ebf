"""Networks and the pictures they were shown, wherever they come from; `kdlab.probes.sources` makes them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from kdlab.errors import ConfigError, StudyError, unknown_name
from kdlab.probes import inputs
from kdlab.probes.progress import steps
from kdlab.probes.representation import AS_GIVEN
from kdlab.probes.words import at_epoch, commas

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

    >>> source = kdlab.probes.as_source(study)
    >>> source.teachers, source.students, source.epochs(seed=0)
    (('resnet8',), ('alone', 'KD'), [0, 1, 2, 3])
    >>> source.view("KD", epoch=3, seed=0).logits.shape  # 80 pictures of the probe set
    (80, 10)
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

    def visits(
        self, networks: Sequence[str], epochs: Sequence[int], seeds: Sequence[int], share: float = 1.0
    ) -> Iterator[tuple[int, int, int]]:
        """Places (network, epoch, seed) in the lists given of all snapshots there are; a teacher comes once.

        In order of seeds, then of epochs; told to who watches as `share` of the step (`progress.steps`).
        """
        places = []
        for s, seed in enumerate(seeds):
            there = self.presence(networks, epochs, seed)
            for e, epoch in enumerate(epochs):
                for n, name in enumerate(networks):
                    once = name not in self.teachers or (s, e) == (0, 0)
                    if once and epoch in there[name]:
                        places.append((n, e, s))

        def words(place: tuple[int, int, int]) -> str:
            n, e, s = place
            if networks[n] in self.teachers:
                return networks[n]
            return commas(networks[n], at_epoch(epochs[e]), f"seed {seeds[s]}" if len(seeds) > 1 else "")

        return steps(places, words, share=share)

    def choose_networks(self, students: Iterable[str] | str | None, teachers: bool = True) -> tuple[str, ...]:
        """Teachers first, then the chosen students; an `UnknownNameError` for others."""
        chosen = self.students if students is None else inputs.names(students, "students")
        for name in chosen:
            if name not in self.students:
                raise unknown_name("student", name, self.students)
        if not chosen and not teachers and not self.students:
            whose = ", ".join(map(repr, self.teachers))
            raise ConfigError(f"There is no student beside the teacher {whose}; give one more network.")
        if not chosen and not (teachers and self.teachers):
            raise ConfigError("students names nobody; name at least one, or leave it out for all of them.")
        return (*(self.teachers if teachers else ()), *chosen)

    def choose_seeds(
        self, seeds: str | int | Iterable[int] | None = "all", networks: Sequence[str] | None = None
    ) -> tuple[int, ...]:
        """The chosen seeds that have a snapshot (of one of `networks`, if given).

        Raises:
            ConfigError: a seed that this study does not have.
            StudyError: none of them has a snapshot yet.
        """
        if isinstance(seeds, str) and seeds != "all":
            raise ConfigError(f"seeds must be 'all', a seed or a list of seeds, not {seeds!r}.")
        everyone = seeds is None or isinstance(seeds, str)
        chosen = self.seeds if everyone else inputs.whole_numbers(seeds, "seeds")
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
        for epoch in inputs.whole_numbers(epochs, "epochs"):
            place = known[epoch] if -len(known) <= epoch < 0 and epoch not in known else epoch
            if place not in known:
                raise ConfigError(f"There is no snapshot of epoch {epoch}; there are {_listed(known)}.")
            chosen.append(place)
        return tuple(sorted(set(chosen)))

    def choose_seed(self, seed: int | None, networks: Sequence[str] | None = None) -> int:
        """`seed`, or for None the first that has a snapshot (of one of `networks`, if given)."""
        return self.choose_seeds("all" if seed is None else seed, networks)[0]

    def choose_moment(
        self, students: Iterable[str] | str | None, epoch: int | str, seed: int | None, teachers: bool = True
    ) -> tuple[tuple[str, ...], tuple[str, ...], int, int]:
        """For a look at one epoch of one seed: networks that have a snapshot of it, those that have none,
        the epoch and the seed; negative epochs count from the last, which "last" is too.

        Raises:
            StudyError: a student that was asked for by name has none.
        """
        chosen = self.choose_networks(students, teachers)
        own_seed = self.choose_seed(seed, chosen)
        if epoch != "last":
            epoch = inputs.whole(epoch, "epoch")
        own_epoch = self.choose_epochs(epoch, [own_seed], chosen)[0]
        there = self.presence(chosen, [own_epoch], own_seed)
        missing = tuple(name for name in chosen if not there[name])
        if missing and students is not None:
            known = _listed(self.epochs(own_seed, missing[0]))
            raise StudyError(
                f"There is no snapshot of {missing[0]!r} at epoch {own_epoch}; it has epochs {known}."
            )
        return tuple(name for name in chosen if there[name]), missing, own_epoch, own_seed

    @property
    def chance(self) -> float:
        """Accuracy of always naming the most frequent class of the evaluation part."""
        return float(np.bincount(self.target[~self.fit]).max() / max(int((~self.fit).sum()), 1))


def _size(view: Any) -> int:
    tables = [*view.stages.values(), *view.attention.values(), view.embedding, view.logits, view.projected]
    return sum(table.nbytes for table in tables if table is not None)


def _names(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names))


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, values)) or "none"

"""Stages of student and teacher in pairs, for methods that compare maps of the same depth."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.ce_kd import ce_and_kd, ce_term, kd_term
from kdlab.methods.checks import number, require_built, same_classes, stage_index, stage_list
from kdlab.models.features import Features, NetSpec

Stages = tuple[int, ...] | None
"""Stage numbers as they were given; None: all that both networks have, from the deepest upwards."""


def given_pairs(
    method: Method, stages: Sequence[int] | None, teacher_stages: Sequence[int] | None
) -> tuple[Stages, Stages]:
    """The constructor's two lists of stages, checked as far as that is possible without the networks.

    Raises:
        ConfigError: not lists of whole numbers, or of unequal length.
    """
    own = None if stages is None else stage_list(method, "stages", stages)
    other = own if teacher_stages is None else stage_list(method, "teacher_stages", teacher_stages)
    if other is not None and (own is None or len(own) != len(other)):
        raise ConfigError(
            f"{type(method).__name__} pairs stages one to one; it got stages={stages!r} and "
            f"teacher_stages={teacher_stages!r}."
        )
    return own, other


def found_pairs(
    method: Method, student: NetSpec, teacher: NetSpec, own: Stages, other: Stages
) -> list[tuple[int, int]]:
    """Pairs (student's stage, teacher's stage), counted from 0; from the deepest upwards if not given.

    Raises:
        ConfigError: a network has no such stage.
    """
    both = tuple(range(-min(len(student.stages), len(teacher.stages)), 0))
    return [
        (stage_index(method, student, s, "student"), stage_index(method, teacher, t, "teacher"))
        for s, t in zip(own or both, other or both, strict=True)
    ]


def pair_taps(
    own: Sequence[int] | None, other: Sequence[int] | None, student: str = "stages", teacher: str = "stages"
) -> tuple[str, ...]:
    """The maps read, as `Term.taps`; without numbers where all stages are meant."""
    if own is None or other is None:
        return (f"student.{student}", f"teacher.{teacher}")
    return tuple(f"student.{student}[{s}]" for s in own) + tuple(f"teacher.{teacher}[{t}]" for t in other)


def require_preacts(method: Method, net: NetSpec, whose: str, remedy: str) -> None:
    """Refuse a network that cannot show its maps before their activation.

    Raises:
        ConfigError: names the network and ends in `remedy`.
    """
    if not net.has_preacts:
        raise ConfigError(
            f"{type(method).__name__} reads the {whose}'s maps before their activation, which {net.name} "
            f"does not show; {remedy}."
        )


class StageByStage(Method):
    """Base of methods with one term that is a sum over pairs of stages; not a method by itself.

    A subclass sets `main` and implements `compare`; what it trains it makes in `build`, after this
    one's, where `pairs` is known.

    Class attributes:
        main: name of the term.
        asks: what the term asks of the student, in one sentence.
        maps: "stages" or "preacts": what is read of both networks.

    Attributes:
        pairs: (student's stage, teacher's stage), counted from 0, as given or from shallow to deep.
        names: the student's names of these stages.
    """

    main: ClassVar[str] = ""
    asks: ClassVar[str] = ""
    maps: str = "stages"

    def __init__(
        self,
        weight: float,
        stages: Sequence[int] | None,
        teacher_stages: Sequence[int] | None,
        ce: float,
        kd: float,
        temperature: float,
    ) -> None:
        self.given = own, other = given_pairs(self, stages, teacher_stages)
        taps = pair_taps(own, other, self.maps, self.maps)
        super().__init__(ce_term(ce), Term(self.main, weight, taps, self.asks), kd_term(kd, optional=True))
        self.temperature = number(self, "temperature", temperature, above=0)
        self.pairs: list[tuple[int, int]] = []
        self.names: list[str] = []

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        same_classes(self, student, teachers[0])
        self.pairs = found_pairs(self, student, teachers[0], *self.given)
        self.names = [student.stage_names[s] for s, _ in self.pairs]
        own, other = zip(*self.pairs)
        self.terms[self.main].taps = pair_taps(own, other, self.maps, self.maps)

    def compare(self, pair: int, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """Scalar loss of the pair with this number: maps (B, c_s, h_s, w_s) and (B, c_t, h_t, w_t)."""
        raise NotImplementedError

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        self.details = {}
        values = ce_and_kd(step, active, self.temperature)
        if self.main in active:
            require_built(self)
            per_stage = [
                self.compare(i, self.map_of(step.student, s), self.map_of(step.teacher, t))
                for i, (s, t) in enumerate(self.pairs)
            ]
            self.details = {f"{self.main}/{n}": value.detach() for n, value in zip(self.names, per_stage)}
            values[self.main] = torch.stack(per_stage).sum()
        return values

    def map_of(self, features: Features, stage: int) -> Tensor:
        """The map that is read of a stage."""
        return getattr(features, self.maps)[stage]

"""`Combined`: a sum of methods, written `KD() + AT(weight=500)`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdlab.errors import ConfigError
from kdlab.methods.base import DataFacts, Method, Preparation, Status, Step, Term
from kdlab.methods.registry import make
from kdlab.models.features import NetSpec, StagedNet

_SURENESS: tuple[Status, ...] = ("code", "paper", "own", "recon")


Routes = dict[str, tuple[int, str]]
"""Term name in the sum -> (number of the part, its name there)."""

LeftOut = list[tuple[str, int, float]]
"""Terms that gave way: name, number of the part, weight there."""


class Combined(Method):
    """A method whose terms are those of its parts, each part owning its trained modules.

    - All parts have `ce`, which must not count twice: the first part's term and weight are kept.
    - A term that a part merely offers at weight 0 (`Term.optional`, such as the KD term of feature
      methods) gives way to another part's term of that name.
    - Any further term of a name already taken is called "<key>.<term>".

    What was left out is shown by `repr` and kept in `config()["merged"]`. Sums of sums are flattened,
    so (a + b) + c and a + (b + c) are the same method. The parts are copies: later changes to the
    operands do not reach the sum. Each part is built from the same random state, so that it starts as it
    would alone.

    Args:
        parts: methods, or what `make` reads.

    Raises:
        ConfigError: two parts replace the predictor, or want different second views.

    >>> both = kdlab.methods.KD() + kdlab.methods.AT(weight=500)
    >>> both
    KD + AT[ce=0.1, kd=0.9, at=500; left out: AT's ce=1, AT's kd=0]
    >>> both.key, [part.key for part in both.methods]
    ('kd + at', ['kd', 'at'])
    """

    def __init__(self, parts: Sequence[Method | Mapping[str, Any] | str]) -> None:
        methods = [make(part).fresh() for part in parts]
        if not methods:
            raise ConfigError("A sum of methods needs at least one method.")
        terms, routes, merged = _merge(methods)
        super().__init__(*terms)
        self.routes, self.merged = routes, merged
        self.parts = nn.ModuleList(methods)
        self.params = {"parts": [part.config() for part in methods]}
        self.key = " + ".join(part.key for part in methods)
        self.title = " + ".join(part.title or type(part).__name__ for part in methods)
        self.paper = "; ".join(dict.fromkeys(part.paper for part in methods))
        self.family = " + ".join(dict.fromkeys(part.family for part in methods))
        self.status = max((part.status for part in methods), key=_SURENESS.index)
        self.status_note = "; ".join(f"{p.title}: {p.status_note}" for p in methods if p.status_note)
        self.min_teachers = max(part.min_teachers for part in methods)
        views = list(dict.fromkeys(part.second_view for part in methods if part.second_view))
        if len(views) > 1:
            raise ConfigError(
                f"The parts want different second views ({' and '.join(views)}); use one of them."
            )
        self.second_view = views[0] if views else ""
        predictors = [part.title for part in methods if part.overrides("predict")]
        if len(predictors) > 1:
            raise ConfigError(f"{' and '.join(predictors)} both replace the predictor; use one of them.")

    @classmethod
    def of(cls, *operands: Method) -> Combined:
        """The sum of `operands`; a sum among them contributes its parts as they are set now."""
        return cls([part for operand in operands for part in _parts(operand)])

    @property
    def methods(self) -> list[Method]:
        """The parts."""
        return list(self.parts)  # type: ignore[arg-type]

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        state = torch.get_rng_state()
        for part in self.methods:
            torch.set_rng_state(state)
            part.build(student, teachers)
        self._copy_taps()

    def _copy_taps(self) -> None:
        """Parts learn what they read when they are built, and some when they are prepared."""
        for name, (number, own) in self.routes.items():
            self.terms[name].taps = self.methods[number].terms[own].taps

    def attach(self, data: DataFacts) -> None:
        super().attach(data)
        for part in self.methods:
            part.attach(data)

    def prepare(self, preparation: Preparation) -> None:
        for part in self.methods:
            part.prepare(preparation)
        self._copy_taps()

    def revisits(self, epoch: int) -> bool:
        return any(part.revisits(epoch) for part in self.methods)

    def revisit(self, preparation: Preparation, student: StagedNet, epoch: int) -> None:
        for part in self.methods:
            if part.revisits(epoch):
                part.revisit(preparation, student, epoch)
        self._copy_taps()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.methods for group in part.parameter_groups()]

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        self.details = {}
        for number, part in enumerate(self.methods):
            mine = {own: name for name, (n, own) in self.routes.items() if n == number and name in active}
            if mine:
                part.details = {}
                values |= {mine[own]: value for own, value in part.losses(step, list(mine)).items()}
                self.details |= part.details
        return values

    def overrides(self, name: str) -> bool:
        return any(part.overrides(name) for part in self.methods)

    def predict(self, step: Step) -> Tensor:
        for part in self.methods:
            if part.overrides("predict"):
                return part.predict(step)
        return step.student.logits

    def project(self, step: Step) -> Tensor | None:
        """That of the first part that makes one."""
        for part in self.methods:
            projected = part.project(step) if part.overrides("project") else None
            if projected is not None:
                return projected
        return None

    def side_logits(self, step: Step) -> dict[str, Tensor]:
        """Those of all parts; a name already taken gets the part's key in front."""
        side: dict[str, Tensor] = {}
        for number, part in enumerate(self.methods):
            for name, logits in part.side_logits(step).items():
                side[_free(name, part.key, number, side)] = logits
        return side

    def config(self) -> dict[str, Any]:
        merged = [
            {"term": name, "of": self.methods[number].key, "weight": weight}
            for name, number, weight in self.merged
        ]
        return {**super().config(), "merged": merged}

    def code(self) -> str:
        total = " + ".join(part.code() for part in self.methods)
        changes = self._changes_code()
        return f"({total}){changes}" if changes else total

    def __repr__(self) -> str:
        left_out = [f"{self.methods[i].title}'s {name}={w:g}" for name, i, w in self.merged]
        note = f"; left out: {', '.join(left_out)}" if left_out else ""
        return f"{self.title}[{', '.join(map(str, self.terms.values()))}{note}]"


def _parts(operand: Method) -> list[Method]:
    """The methods an operand stands for, with the terms as they are set in it."""
    if not isinstance(operand, Combined):
        return [operand]
    copies = [part.fresh() for part in operand.methods]
    for name, (number, own) in operand.routes.items():
        copies[number].terms[own].set(**operand.terms[name].state())
    return copies


def _merge(parts: Sequence[Method]) -> tuple[list[Term], Routes, LeftOut]:
    """Terms of the sum, where each comes from, and what was left out."""
    terms: dict[str, Term] = {}
    routes: Routes = {}
    merged: LeftOut = []
    for number, part in enumerate(parts):
        for own, term in part.terms.items():
            others = [p.terms[own] for i, p in enumerate(parts) if i != number and own in p.terms]
            gives_way = _idle(term) and (own in terms or not all(map(_idle, others)))
            if (own == "ce" and own in terms) or (gives_way and others):
                merged.append((own, number, term.weight))
                continue
            name = _free(own, part.key, number, terms)
            terms[name] = replace(term, name=name)
            routes[name] = (number, own)
    return list(terms.values()), routes, merged


def _idle(term: Term) -> bool:
    return term.optional and term.weight == 0.0


def _free(name: str, key: str, number: int, taken: Collection[str]) -> str:
    """`name`, or "<key>.<name>", or with the part's number (from 1) if that is taken too."""
    if name not in taken:
        return name
    prefixed = f"{key}.{name}"
    return prefixed if prefixed not in taken else f"{key}{number + 1}.{name}"

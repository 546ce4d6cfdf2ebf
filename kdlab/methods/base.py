"""What a distillation method is: named terms, the taps they read, and the parts it trains.

A method is one class: its constructor declares `Term`s, `build` makes trainable parts once the
networks' shapes are known, and `losses` returns one scalar per active term *before* weighting.
The engine applies weights, schedules and switches, so every term can be plotted and toggled.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from kdlab.errors import ConfigError, unknown_name
from kdlab.methods.checks import require_teachers
from kdlab.methods.step import DataFacts, Preparation, Step
from kdlab.methods.terms import Term
from kdlab.models.features import NetSpec, StagedNet

__all__ = ["STATUS_TEXT", "DataFacts", "Method", "Preparation", "Status", "Step", "Term", "require_teachers"]

Status = Literal["code", "paper", "own", "recon"]

STATUS_TEXT: dict[str, str] = {
    "code": "published (official code)",
    "paper": "published (paper)",
    "own": "own method",
    "recon": "reconstruction",
}


class Method(nn.Module):
    """Base of all methods. Subclasses set the class attributes and implement `losses`.

    Constructor arguments are recorded in `params`, so that a method can be written to a record,
    shown as code and made again; they must be plain values and have defaults. A constructor refuses
    values that cannot work with a `ConfigError`, and `build` networks that cannot.

    Class attributes:
        key: short name, as in `students={"KD": "kd"}`.
        title: name for people.
        paper: authors, venue, year, identifier.
        family: "logit", "feature", "relation", "classifier-reuse", "multi-teacher", "self".
        status: where the definition comes from: "code" and "paper" of a publication, "own" of nobody else,
            or "recon", rebuilt by guessing what a paper leaves open (see `STATUS_TEXT`).
        status_note: which part of it is published and which is ours, where that needs saying.
        trained: submodule name -> what it is: the parts that train along with the student.
        presets: setting name -> constructor arguments that were published for it.
        min_teachers: how many teachers it needs, if any of its terms reads one.
        second_view: name of the augmentation of a second view of each batch, which student and
            teachers then see too (`Step.second`); "" for none.
        draws: whether a built-in method draws random numbers in `losses`; others are taken to.

    Attributes:
        params: what the constructor was given.
        terms: name -> `Term`, in the order of the paper.
        details: name -> detached scalar: what the last values were made of ("at/stage2"), for panels.
        built: whether `build` has been called.

    >>> method = kdlab.methods.KD()
    >>> method.key, method.family, list(method.terms)
    ('kd', 'logit', ['ce', 'kd'])
    >>> method.params
    {'temperature': 4.0, 'ce': 0.1, 'kd': 0.9, 'weight': None}
    >>> kdlab.methods.make(method.config()).code() == method.code()
    True
    """

    key: str = ""
    title: str = ""
    paper: str = ""
    family: str = ""
    status: Status = "own"
    status_note: str = ""
    trained: Mapping[str, str] = {}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    min_teachers: int = 1
    second_view: str = ""
    draws: ClassVar[bool] = False

    params: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" not in cls.__dict__:
            return
        original = cls.__init__
        signature = inspect.signature(original)
        if any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values()):
            raise ConfigError(f"{cls.__name__}.__init__ must name its arguments: *args cannot be recorded.")

        @functools.wraps(original)
        def recording_init(self: Method, *args: Any, **kw: Any) -> None:
            if "params" not in self.__dict__:  # the outermost class knows what the user gave
                bound = signature.bind(self, *args, **kw)
                bound.apply_defaults()
                given = dict(list(bound.arguments.items())[1:])
                for name, parameter in signature.parameters.items():
                    if parameter.kind is parameter.VAR_KEYWORD:
                        given.update(given.pop(name, {}))
                self.__dict__["params"] = given
            original(self, *args, **kw)

        cls.__init__ = recording_init  # type: ignore[method-assign]

    def __init__(self, *terms: Term) -> None:
        super().__init__()
        self.__dict__.setdefault("params", {})
        self.terms: dict[str, Term] = {term.name: term for term in terms}
        if len(self.terms) < len(terms):
            raise ConfigError(f"{type(self).__name__} has two terms of one name: {[t.name for t in terms]}.")
        self.details: dict[str, Tensor] = {}
        self.built = False

    # ---- to be implemented by a method ------------------------------------------------------

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        """Make trainable parts (as submodules) for these networks; refuse what cannot work.

        Called once, before training, under a seed of its own. This one checks that there are enough
        teachers; a subclass calls it first, then the checks of kdlab.methods.checks that it needs.

        Raises:
            ConfigError: the method cannot work with these networks or this data set.
        """
        require_teachers(self, teachers)
        self.built = True

    def attach(self, data: DataFacts) -> None:
        """Make what depends on the training data (a bank by sample). Called once, after `build`.

        This one settles schedules that follow the length of the training; a subclass calls it first.
        """
        for term in self.terms.values():
            term.schedule = term.schedule.over(data.epochs, data.milestones)

    def prepare(self, preparation: Preparation) -> None:
        """Work that comes before the first step, such as training the teacher's exits.

        Called once on the training thread, with the method on its device, and not when a run is
        resumed: what it finds out goes into parameters and buffers that `build` and `attach` have made.
        """

    def revisits(self, epoch: int) -> bool:
        """Whether `revisit` is to be called before the first step of `epoch`."""
        return False

    def revisit(self, preparation: Preparation, student: StagedNet, epoch: int) -> None:
        """Look at the student between epochs, such as probing how far it has come.

        Called on the training thread before the first step of each epoch for which `revisits` is true,
        and not again when a run is resumed later in that epoch: what it finds out goes into buffers.
        The student is handed over in whatever mode it is in and must be left as it was found.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """How its trained parts are optimised: groups of "params", and where they differ from the
        student's, "weight_decay" (the value) and "lr_scale" (a factor on the learning rate).

        One group of everything unless overridden; a parameter in no group is not trained.
        """
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        """Scalar value of each term in `active`, before weighting, and nothing else.

        Read only what the active terms declare in `taps`, run each trained part at most once, and
        decide by `active` alone (weights, schedules and switches are the engine's business).
        """
        raise NotImplementedError

    def predict(self, step: Step) -> Tensor:
        """(B, K) logits of the predictor that is deployed; the student's own unless overridden."""
        return step.student.logits

    def project(self, step: Step) -> Tensor | None:
        """(B, d_teacher) the student's embedding in the teacher's space, if the method makes one."""
        return None

    def _weighs(self, *names: str) -> bool:
        """Whether one of these terms has a weight; a part that none of them trains learns nothing."""
        return any(self.terms[name].weight != 0 for name in names)

    def side_logits(self, step: Step) -> dict[str, Tensor]:
        """Further predictors worth watching, name -> (B, K); evaluated and recorded each epoch."""
        return {}

    def overrides(self, name: str) -> bool:
        """Whether this method defines `name` ("predict", "project", "side_logits") itself."""
        return getattr(type(self), name) is not getattr(Method, name)

    # ---- what the engine and the panels use ----------------------------------------------------

    def active(self, epoch: int) -> list[str]:
        """Names of the terms with a factor other than 0 in `epoch`; the others are not computed."""
        return [name for name, term in self.terms.items() if term.factor(epoch) != 0.0]

    def needs_teacher(self) -> bool:
        """Whether any term could read a teacher, now or after it is switched on."""
        return any(term.needs_teacher for term in self.terms.values())

    def term(self, name: str) -> Term:
        """The term called `name`; an `UnknownNameError` lists the nearest."""
        if name not in self.terms:
            raise unknown_name(f"term of {self.key or type(self).__name__}", name, self.terms)
        return self.terms[name]

    def config(self) -> dict[str, Any]:
        """The method as plain values (JSON): key, params, and the present state of its terms.

        Raises:
            ConfigError: a parameter is no plain value.
        """
        owner = type(self).__name__
        return {
            "key": self.key,
            "params": {name: _plain(value, f"{owner}({name}=...)") for name, value in self.params.items()},
            "terms": {name: term.state() for name, term in self.terms.items()},
        }

    def apply_terms(self, states: Mapping[str, Mapping[str, Any]]) -> Method:
        """Set terms from their recorded `states` and return the method itself; all of them or none.

        Raises:
            ConfigError: an unknown term or field, or a value that a term refuses.
        """
        for name, state in states.items():
            for field in state:
                if field not in ("weight", "enabled", "schedule"):
                    raise unknown_name(f"field of term {name!r}", field, ("weight", "enabled", "schedule"))
            replace(self.term(name)).set(**state)  # tried on a copy
        for name, state in states.items():
            self.terms[name].set(**state)
        return self

    def fresh(self) -> Method:
        """An unbuilt copy with the same parameters and term settings."""
        copy = type(self)(**self.params)
        return copy.apply_terms({name: term.state() for name, term in self.terms.items()})

    def code(self) -> str:
        """The Python expression that makes this method again, with the present state of its terms."""
        signature = inspect.signature(type(self).__init__)
        arguments = []
        for name, value in self.params.items():
            parameter = signature.parameters.get(name)
            plain = _plain(value, f"{type(self).__name__}({name}=...)")
            has_default = parameter is not None and parameter.default is not parameter.empty
            if not has_default or plain != _plain(signature.parameters[name].default, name):
                arguments.append(f"{name}={plain!r}")
        if type(self).__module__.startswith("kdlab."):
            maker = f"kdlab.methods.{type(self).__name__}"
        else:
            maker = f"kdlab.methods.get({self.key!r})"
        return f"{maker}({', '.join(arguments)})" + self._changes_code()

    def _changes_code(self) -> str:
        """What to append for changes on the terms since the constructor: ".apply_terms(...)" or nothing."""
        changes: dict[str, dict[str, Any]] = {}
        for name, term in type(self)(**self.params).terms.items():
            before, now = term.state(), self.terms[name].state()
            if changed := {key: now[key] for key in now if now[key] != before[key]}:
                changes[name] = changed
        return f".apply_terms({changes!r})" if changes else ""

    def __add__(self, other: Method) -> Method:
        if not isinstance(other, Method):
            return NotImplemented
        from kdlab.methods.combine import Combined

        return Combined.of(self, other)

    def __radd__(self, other: object) -> Method:
        return self if other == 0 else NotImplemented  # so that sum([...]) works

    def __repr__(self) -> str:
        return f"{type(self).__name__}[{', '.join(map(str, self.terms.values()))}]"


def _plain(value: Any, what: str) -> Any:
    """`value` as JSON would give it back: tuples as lists, number types as int and float."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(v, what) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v, what) for k, v in value.items()}
    raise ConfigError(f"{what} must be a number, text or a list, so that it can be recorded, not {value!r}.")

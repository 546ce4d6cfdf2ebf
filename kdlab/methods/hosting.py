"""Methods around methods: a logit method that is given other logits than the networks' own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.methods.base import DataFacts, Method, Preparation, Step, Term
from kdlab.methods.registry import make
from kdlab.models.features import Features, StagedNet

HostSpec = str | Mapping[str, Any] | Method
"""How a host is named: "dkd", {"key": "dkd", "params": {"beta": 2}}, or `DKD(beta=2)`."""

LOGIT_TAPS = {"student.logits", "teacher.logits", "target", "index"}

Change = Callable[[Tensor], Tensor]
"""(B, C) logits to (B, C) logits."""


def logit_host(owner: Method, spec: HostSpec) -> Method:
    """A fresh copy of the method that `owner` works around; it must read logits and labels alone.

    Raises:
        ConfigError: it reads feature maps, or no teacher.
    """
    host = make(spec).fresh()
    name = type(owner).__name__
    taps = {tap.removeprefix("second.") for term in host.terms.values() for tap in term.taps}
    if others := sorted(taps - LOGIT_TAPS):
        raise ConfigError(
            f"{name}(host=...) must be a method that compares logits, and {host.title} also reads "
            f"{', '.join(others)}; add the two instead: {name}() + {host.code()}."
        )
    if not host.needs_teacher():
        raise ConfigError(f"{name}(host=...) must be a method that reads a teacher; {host.title} has none.")
    return host


def configured(
    owner: Method, host: HostSpec, published: dict[str, dict[str, float]], given: dict[str, float | None]
) -> HostSpec:
    """The host with the owner's settings for it.

    Args:
        published: key of a host -> what it is set to where it is given by its key alone.
        given: arguments of the owner that belong to the host "kd", None where left alone.

    Raises:
        ConfigError: such arguments with another host, where they would be without effect.
    """
    changes = {name: value for name, value in given.items() if value is not None}
    if changes and host != "kd":
        raise ConfigError(
            f"{type(owner).__name__}({', '.join(f'{name}=...' for name in changes)}) belong to the host "
            "'kd'; give another host its settings itself, as in host=DKD(beta=2)."
        )
    if isinstance(host, str) and (changes or host in published):
        return {"key": host, "params": {**published.get(host, {}), **changes}}
    return host


def record_host(owner: Method, spec: HostSpec, host: Method) -> None:
    """Keep the host in `owner.params` as plain values where the user gave a `Method`."""
    if isinstance(spec, Method) and owner.params.get("host") is spec:
        owner.params["host"] = host.config()


class Around(Method):
    """A method around another, to which it passes on what the engine says before and between epochs."""

    def inner(self) -> Method | None:
        """The other method, if there is one."""
        raise NotImplementedError

    def settle(self) -> None:
        """Take over what `inner` reads, which it may know only after `build`, `attach` or `prepare`."""

    def attach(self, data: DataFacts) -> None:
        super().attach(data)
        if inner := self.inner():
            inner.attach(data)
            self.settle()

    def prepare(self, preparation: Preparation) -> None:
        if inner := self.inner():
            inner.prepare(preparation)
            self.settle()

    def revisits(self, epoch: int) -> bool:
        inner = self.inner()
        return inner is not None and inner.revisits(epoch)

    def revisit(self, preparation: Preparation, student: StagedNet, epoch: int) -> None:
        if inner := self.inner():
            inner.revisit(preparation, student, epoch)


def copies(host: Method) -> list[Term]:
    """The host's terms, to be the owner's."""
    return [replace(term) for term in host.terms.values()]


def with_logits(step: Step, student: Change | None = None, teacher: Change | None = None) -> Step:
    """`step` as seen through changed logits, in both views; what is not read is not computed.

    Args:
        student: applied to the student's logits.
        teacher: applied to the logits of each teacher.
    """
    return cast(Step, _ChangedStep(step, student, teacher))


class _ChangedStep:
    def __init__(self, step: Step, student: Change | None, teacher: Change | None) -> None:
        self._step, self._changes = step, (student, teacher)
        self.student = _changed(step.student, student)
        self.teachers = tuple(_changed(features, teacher) for features in step.teachers)

    @property
    def teacher(self) -> Features:
        return self.teachers[0]

    @property
    def second(self) -> Step | None:
        second = self._step.second
        if second is not None and "_second" not in self.__dict__:
            self._second = with_logits(second, *self._changes)
        return None if second is None else self._second

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)


def _changed(features: Features, change: Change | None) -> Features:
    return features if change is None else cast(Features, _ChangedFeatures(features, change))


class _ChangedFeatures:
    """Features whose logits are changed once, when they are first read."""

    def __init__(self, features: Features, change: Change) -> None:
        self._features, self._change = features, change

    @property
    def logits(self) -> Tensor:
        if "_logits" not in self.__dict__:
            self._logits = self._change(self._features.logits)
        return self._logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._features, name)

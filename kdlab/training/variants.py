"""A student that differs in more than its loss: `Student("kd", network="resnet14", lr=0.1)`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from kdlab.errors import ConfigError, unknown_name
from kdlab.methods import Method, make
from kdlab.training.recipes import Recipe

_OWN = (
    *("lr", "weight_decay", "momentum", "nesterov", "optimizer"),
    *("shape", "milestones", "gamma", "warmup_epochs"),
)


@dataclass(frozen=True, init=False)
class Student:
    """A student with a network or optimiser settings of its own, labelled as such in every table.

    Batches, augmentation and length are those of the study. A comparison with such a student is no
    longer one of losses alone.

    Args:
        method: as in `Study(students=...)`.
        network: a name, module or function, as in `Study(student=...)`; None for the study's.
        **recipe: fields of the recipe to change: lr, weight_decay, momentum, nesterov, optimizer,
            shape, milestones, gamma, warmup_epochs.

    Raises:
        ConfigError: another field, or a value that cannot work.

    >>> deeper = kdlab.Student("kd", network="resnet14", lr=0.02)
    >>> deeper.own()
    {'network': 'resnet14', 'recipe': {'lr': 0.02}}
    >>> kdlab.Study("digits", "resnet8", students={"KD": "kd", "deeper": deeper}, folder="runs/trial")
    Study(digits: KD, deeper; 20 epochs, seeds [0]; new)
    """

    method: Method
    network: Any = None
    recipe: dict[str, Any] = field(default_factory=dict)

    def __init__(self, method: Any, network: Any = None, **recipe: Any) -> None:
        for key in recipe:
            if key in ("epochs", "batch_size", "augment", "drop_last"):
                raise ConfigError(
                    f"{key} is the same for all students of a study; make another study for it."
                )
            if key not in _OWN:
                raise unknown_name("setting of a student", key, ("network", *_OWN))
        object.__setattr__(self, "method", make(method).fresh())
        object.__setattr__(self, "network", network)
        object.__setattr__(self, "recipe", dict(recipe))

    @staticmethod
    def of(given: Any) -> Student:
        """`given` if it is a `Student` already, else one with this method and nothing of its own."""
        return given if isinstance(given, Student) else Student(given)

    def own(self) -> dict[str, Any]:
        """What is its own, as plain values for the record; empty where only the loss differs."""
        out: dict[str, Any] = {}
        if self.network is not None:
            recorded = isinstance(self.network, str | dict)
            out["network"] = self.network if recorded else {"module": class_name(self.network)}
        if self.recipe:
            out["recipe"] = {k: list(v) if isinstance(v, tuple) else v for k, v in self.recipe.items()}
        return out

    def adapted(self, recipe: Recipe) -> Recipe:
        """The study's recipe with this student's changes."""
        return replace(recipe, **self.recipe) if self.recipe else recipe

    def label(self) -> str:
        """What is its own, in words; "" where only the loss differs."""
        own = self.own()
        network = own.get("network")
        parts = [] if network is None else [network if isinstance(network, str) else network["module"]]
        return ", ".join([*parts, *(f"{k} {v}" for k, v in own.get("recipe", {}).items())])

    def code(self, method_code: str) -> str:
        """The expression that makes it again."""
        own = self.own()
        network = own.get("network")
        settings = [f"{k}={v!r}" for k, v in own.get("recipe", {}).items()]
        if network is not None:
            settings.insert(0, f"network={network!r}" if isinstance(network, str) else "network=...")
        return f"kdlab.Student({', '.join([method_code, *settings])})" if own else method_code


def class_name(thing: Any) -> str:
    """How a module, or a function that makes one, is called in records."""
    return getattr(thing, "__name__", type(thing).__name__)

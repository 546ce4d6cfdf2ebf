"""What methods refuse before training: each check returns what it looked up, or says what to do instead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from torch import nn

from kdlab.errors import ConfigError
from kdlab.models.features import NetSpec

if TYPE_CHECKING:
    from kdlab.methods.base import Method


def require_teachers(method: Method, teachers: Sequence[NetSpec]) -> None:
    """Refuse to build `method` with fewer teachers than it needs.

    Raises:
        ConfigError: says how many are missing and how to give them.

    >>> kdlab.methods.require_teachers(kdlab.methods.KD(), teachers=[])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    kdlab.errors.ConfigError: KD needs 1 teacher(s) and the study has 0; give Study(teacher=...) a name...
    """
    if method.needs_teacher() and len(teachers) < method.min_teachers:
        raise ConfigError(
            f"{type(method).__name__} needs {method.min_teachers} teacher(s) and the study has "
            f"{len(teachers)}; give Study(teacher=...) a name, a module or a checkpoint, or a list of them."
        )


def require_built(method: Method) -> None:
    """Refuse to use a method that owns parts before `build` has made them.

    Raises:
        ConfigError: `build` has not been called.
    """
    if not method.built:
        name = type(method).__name__
        raise ConfigError(f"{name} must be built for a student and its teachers first: {name}.build(...).")


def number(
    method: Method, name: str, value: Any, minimum: float = -math.inf, above: float = -math.inf
) -> float:
    """A constructor argument that must be a finite number, at least `minimum` and more than `above`.

    Raises:
        ConfigError: it is not.
    """
    good = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < minimum or value <= above:
        bound = f" above {above:g}" if above > -math.inf else ""
        bound = f" of at least {minimum:g}" if minimum > -math.inf else bound
        raise ConfigError(f"{type(method).__name__}({name}=...) must be a number{bound}, not {value!r}.")
    return float(value)


def whole(method: Method, name: str, value: Any, minimum: int) -> int:
    """A constructor argument that must be a whole number of at least `minimum`.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigError(
            f"{type(method).__name__}({name}=...) must be a whole number, at least {minimum}, not {value!r}."
        )
    return value


def choice(method: Method, name: str, value: Any, choices: Sequence[str]) -> str:
    """A constructor argument that must be one of `choices`.

    Raises:
        ConfigError: it is not.
    """
    if value not in choices:
        known = " or ".join(map(repr, choices))
        raise ConfigError(f"{type(method).__name__}({name}=...) must be {known}, not {value!r}.")
    return str(value)


def stage_list(method: Method, name: str, value: Any) -> tuple[int, ...]:
    """A constructor argument that must be a list of at least one stage index.

    Raises:
        ConfigError: it is not.
    """
    whole_numbers = isinstance(value, list | tuple) and all(
        isinstance(v, int) and not isinstance(v, bool) for v in value
    )
    if not whole_numbers or not value:
        raise ConfigError(
            f"{type(method).__name__}({name}=...) must be a list of stage numbers such as (0, 1, 2), or "
            f"(-1,) for the deepest, not {value!r}."
        )
    return tuple(value)


def same_classes(method: Method, student: NetSpec, teacher: NetSpec) -> int:
    """The number of classes, which student and teacher must share.

    Raises:
        ConfigError: they do not.
    """
    if student.num_classes != teacher.num_classes:
        raise ConfigError(
            f"{type(method).__name__} compares logits, but the student {student.name} has "
            f"{student.num_classes} classes and the teacher {teacher.name} has {teacher.num_classes}; use a "
            "teacher trained on the classes of this data set."
        )
    return student.num_classes


def enough_classes(method: Method, student: NetSpec, least: int, reason: str) -> None:
    """Refuse data sets with fewer than `least` classes.

    Args:
        reason: why, and what to do instead; it follows "DKD needs at least 3 classes and there are 2: ".

    Raises:
        ConfigError: there are fewer.
    """
    if student.num_classes < least:
        raise ConfigError(
            f"{type(method).__name__} needs at least {least} classes and there are {student.num_classes}: "
            f"{reason}"
        )


def stage_index(method: Method, net: NetSpec, stage: int, whose: str) -> int:
    """`stage` counted from 0; a negative one counts from the deepest.

    Args:
        whose: "student" or "teacher", for the message.

    Raises:
        ConfigError: the network has no such stage.
    """
    count = len(net.stages)
    if not -count <= stage < count:
        raise ConfigError(
            f"{type(method).__name__} is to read stage {stage} of the {whose}, but {net.name} has stages "
            f"0 to {count - 1} ({', '.join(net.stage_names)}), or {-count} to -1 counted from the deepest."
        )
    return stage % count


def final_map(method: Method, teacher: NetSpec) -> tuple[int, int, int]:
    """Shape (c, h, w) of the teacher's final map, whose average enters its classifier.

    Raises:
        ConfigError: the teacher's embedding is no average of a map.
    """
    if teacher.final is None:
        raise ConfigError(
            f"{type(method).__name__} needs the teacher's map whose average enters its classifier, and "
            f"{teacher.name} has none; choose a teacher that ends in average pooling and one linear layer."
        )
    return teacher.final


def linear_classifier(method: Method, teacher: NetSpec) -> nn.Linear:
    """The teacher's linear classifier, which turns its embedding into its logits.

    Raises:
        ConfigError: the teacher has no single linear layer there.
    """
    try:
        classifier = teacher.net.classifier
    except (AttributeError, NotImplementedError):
        classifier = None
    shape = (teacher.embedding_dim, teacher.num_classes)
    if not isinstance(classifier, nn.Linear) or (classifier.in_features, classifier.out_features) != shape:
        raise ConfigError(
            f"{type(method).__name__} sends student features through the teacher's linear classifier, and "
            f"{teacher.name} shows none ({teacher.embedding_dim} -> {teacher.num_classes}); choose another, "
            "or name its last layer with kdlab.models.tap(module, classifier=...)."
        )
    return classifier

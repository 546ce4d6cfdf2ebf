"""Methods by name: `@register` puts a class in, `make("kd + at")` takes methods out."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from kdlab.errors import ConfigError, UnknownNameError, unknown_name
from kdlab.methods.base import STATUS_TEXT, Method

_METHODS: dict[str, type[Method]] = {}
_ALONE = ("none", "alone", "baseline", "vanilla", "scratch", "student", "no_kd")  # what others call "ce"

M = TypeVar("M", bound=type[Method])


def register(cls: M) -> M:
    """Class decorator: make a method known under its `key`, everywhere a method name is read.

    Running the cell or module that defines the class again replaces it; another class cannot take its key.

    Raises:
        ConfigError: the class does not say what it is, or its key is taken.

    >>> @kdlab.methods.register
    ... class Softer(kdlab.methods.KD):
    ...     key, title = "softer", "Softer KD"
    ...     def __init__(self, temperature: float = 8.0) -> None:
    ...         super().__init__(temperature)
    >>> kdlab.methods.make("softer + at").key
    'softer + at'
    """
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise ConfigError(f"@register is for subclasses of kdlab.methods.Method, not {cls!r}.")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", cls.key):
        raise ConfigError(f"{cls.__name__}.key must be a lower-case name such as 'my_kd', not {cls.key!r}.")
    if cls.status not in STATUS_TEXT:
        raise ConfigError(f"{cls.__name__}.status must be one of {list(STATUS_TEXT)}, not {cls.status!r}.")
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if "__init__" not in vars(cls) and cls.__init__ is Method.__init__:
        raise ConfigError(f"{cls.__name__} must define __init__ and hand its terms to super().__init__(...).")
    if needed:
        raise ConfigError(f"{cls.__name__}.__init__ must give defaults to {', '.join(needed)}.")
    known = _METHODS.get(cls.key)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ConfigError(
            f"The key {cls.key!r} is taken by {known.__module__}.{known.__qualname__}; give "
            f"{cls.__name__} another one."
        )
    cls.title = cls.title or cls.__name__
    _METHODS[cls.key] = cls
    return cls


def names() -> list[str]:
    """All method keys, in the order they were registered.

    >>> kdlab.methods.names()[:3], "cmkd" in kdlab.methods.names()
    (['ce', 'kd', 'dkd'], True)
    """
    return list(_METHODS)


def get(key: str) -> type[Method]:
    """The class registered under `key`.

    Raises:
        UnknownNameError: there is none; lists the nearest.

    >>> kdlab.methods.get("kd").title, kdlab.methods.get("kd") is kdlab.methods.KD
    ('KD', True)
    """
    name = str(key).strip()
    found = _METHODS.get(name.lower())
    if found is None and name.lower() in _ALONE:
        raise UnknownNameError(f"There is no method named {name!r}; a student without a teacher is 'ce'.")
    if found is None:
        raise unknown_name("method", name, _METHODS)
    return found


def make(spec: str | Method | type[Method] | Mapping[str, Any]) -> Method:
    """A method from whatever names one.

    Args:
        spec: a key ("kd"), a sum of keys ("kd + at"), a `Method` (returned as it is), a class, or a
            mapping {"key": ..., "params": {...}, "terms": {name: {"weight": ..., ...}}} as `Method.config`
            writes it; params and terms may be left out.

    Raises:
        UnknownNameError: an unknown key, parameter or term.
        ConfigError: something that names no method, or values a method refuses.

    >>> kdlab.methods.make("kd + at")
    KD + AT[ce=0.1, kd=0.9, at=1000; left out: AT's ce=1, AT's kd=0]
    >>> kdlab.methods.make({"key": "kd", "params": {"temperature": 2}, "terms": {"ce": {"weight": 1}}})
    KD[ce=1, kd=0.9]
    """
    if isinstance(spec, Method):
        return spec
    if isinstance(spec, type) and issubclass(spec, Method):
        return spec()
    if isinstance(spec, Mapping):
        return _from_mapping(spec)
    if not isinstance(spec, str) or not spec.strip():
        raise ConfigError(f"A method is a name ('kd'), a sum of names ('kd + at') or a Method, not {spec!r}.")
    parts = [get(part)() for part in spec.split("+")]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _from_mapping(config: Mapping[str, Any]) -> Method:
    from kdlab.methods.combine import Combined

    for field in config:
        if field not in ("key", "params", "terms", "merged"):
            raise unknown_name("field of a method", field, ("key", "params", "terms"))
    if "key" not in config:
        raise ConfigError(f"A method's mapping needs a 'key', which {dict(config)!r} has not.")
    params = dict(config.get("params") or {})
    key = str(config["key"])
    if "parts" in params and "+" in key:
        method: Method = Combined(**params)
    elif "+" in key:
        if params:
            raise ConfigError(f"The sum {key!r} takes no params of its own; add up methods that have them.")
        method = make(key)
    else:
        method = _construct(get(key), params)
    return method.apply_terms(config.get("terms") or {})


def _construct(cls: type[Method], params: Mapping[str, Any]) -> Method:
    """`cls(**params)`, with parameters that it does not have refused by name."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for name in params:
            if name not in (known := [p.name for p in parameters]):
                raise unknown_name(f"parameter of {cls.__name__}", name, known)
    return cls(**params)


def status_text(method: Method | type[Method]) -> str:
    """Where the definition comes from, with the note on which part is whose.

    >>> kdlab.methods.status_text(kdlab.methods.KD)
    'published (paper)'
    >>> kdlab.methods.status_text(kdlab.methods.CMKD)
    'reconstruction: loss, weights and temperatures published in code; projector, taps and alignment are ours'
    """
    text = STATUS_TEXT[method.status]
    return f"{text}: {method.status_note}" if method.status_note else text


def table() -> list[dict[str, Any]]:
    """A row for each method: key, class, title, paper, family, status, terms (name -> weight), trained.

    >>> [row["terms"] for row in kdlab.methods.table() if row["key"] == "dist"]
    [{'ce': 1.0, 'inter': 2.0, 'intra': 2.0}]
    """
    return [
        {
            "key": key,
            "class": cls.__name__,
            "title": cls.title,
            "paper": cls.paper,
            "family": cls.family,
            "status": status_text(cls),
            "terms": {name: term.weight for name, term in cls().terms.items()},
            "trained": dict(cls.trained),
        }
        for key, cls in _METHODS.items()
    ]

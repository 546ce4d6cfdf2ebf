"""Errors that a user can act on: one clear sentence, and what to do instead."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable


class KDLabError(Exception):
    """Base of all errors kdlab raises on purpose; its text is one sentence with the remedy."""


class ConfigError(KDLabError, ValueError):
    """Something asked for cannot work, alone or in this combination; raised before work starts."""


class UnknownNameError(ConfigError, KeyError):
    """A name that kdlab does not know; the message lists the nearest known ones."""

    __str__ = Exception.__str__  # KeyError would print the message in quotes


class DataError(KDLabError):
    """A data set is missing, unreadable or not what it says it is."""


class CheckpointError(KDLabError):
    """A file of weights is missing, damaged, or does not fit the network."""


class StudyError(KDLabError):
    """A study folder or a command to a study is at fault."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """An `UnknownNameError` for `name`, with the nearest of `known` and the whole list if short.

    Args:
        kind: what the name stands for, as it should appear in the message ("data set", "term").
        name: what the user gave.
        known: the names there are.
    """
    names = [str(k) for k in known]
    lower = {k.lower(): k for k in names}
    near = [lower[m] for m in difflib.get_close_matches(str(name).lower(), lower, n=3, cutoff=0.5)]
    message = f"There is no {kind} named {str(name)!r}"
    message += f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    if not names:
        message += f" There is no {kind} here at all."
    elif len(names) <= 40:
        message += f" Known: {', '.join(names)}."
    return UnknownNameError(message)


def require_study(study: object) -> None:
    """Refuse what is no `kdlab.Study` where only a study will do.

    Raises:
        ConfigError: it is the name of a folder, say, or a network.
    """
    if not (hasattr(study, "state") and hasattr(study, "record")):
        raise ConfigError(
            f"{reprlib.repr(study)} is no study; open the folder of one by kdlab.load_study(folder)."
        )

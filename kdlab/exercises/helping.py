"""What stands beside an exercise: the task, hints that help more each time, and the solution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdlab.errors import ConfigError, unknown_name
from kdlab.exercises.catalogue import EXERCISES, QUESTIONS
from kdlab.exercises.exercise import HEADER, Exercise, Question
from kdlab.exercises.verdict import Text

if TYPE_CHECKING:
    import pandas as pd

_GIVEN: dict[str, int] = {}  # hints shown in this session


def names(notebook: int | None = None) -> list[str]:
    """Names of the exercises, in the order of the course; of one notebook alone on request.

    >>> from kdlab import exercises
    >>> "kd" in exercises.names()
    True
    """
    found = sorted(_all().values(), key=lambda exercise: exercise.notebook)
    return [e.name for e in found if notebook is None or e.notebook == notebook]


def table(notebook: int | None = None) -> pd.DataFrame:
    """A row for each exercise: its notebook, title, kind ("function", "number", "choice") and hints.

    >>> from kdlab import exercises
    >>> exercises.table().loc["kd", "kind"]
    'function'
    """
    import pandas as pd

    rows = []
    for name in names(notebook):
        exercise = _all()[name]
        kind = "function" if isinstance(exercise, Exercise) else "choice" if exercise.options else "number"
        rows.append([name, exercise.notebook, exercise.title, kind, len(exercise.hints)])
    return pd.DataFrame(rows, columns=["name", "notebook", "title", "kind", "hints"]).set_index("name")


def task(name: str) -> Text:
    """What an exercise asks for, with the arguments of the function to write.

    Raises:
        UnknownNameError: there is no such exercise.

    >>> from kdlab import exercises
    >>> print(exercises.task("softmax_t").splitlines()[0])
    softmax_t: Softmax with a temperature (notebook 1)
    """
    exercise = _find(name)
    lines = [f"{name}: {exercise.title} (notebook {exercise.notebook})", "", exercise.task, ""]
    if isinstance(exercise, Exercise):
        code = f"def my_{name}({', '.join(exercise.signature.parameters)}):\n    ...\n\n"
        code += f'kdlab.exercises.check("{name}", my_{name})\n'
    else:
        code = f'kdlab.exercises.check_value("{name}", ...)\n'
    return Text("\n".join(lines) + code, code)


def hint(name: str, level: int | None = None) -> Text:
    """The next hint: the first is gentle, the last is nearly the solution.

    Args:
        name: the exercise.
        level: 1, 2 or 3 for a certain one; without it, each call goes one further.

    Raises:
        UnknownNameError: there is no such exercise.
        ConfigError: there is no hint of this number.

    >>> from kdlab import exercises
    >>> print(exercises.hint("kd", 1).splitlines()[0])
    Hint 1 of 3 for kd
    """
    exercise = _find(name)
    last = len(exercise.hints)
    if level is None:
        level = min(_GIVEN.get(name, 0) + 1, last)
    elif not 1 <= level <= last:
        raise ConfigError(f"{name!r} has the hints 1 to {last}, and no hint {level!r}.")
    _GIVEN[name] = max(level, _GIVEN.get(name, 0))
    more = f'More: hint("{name}")' if level < last else f'That was the last one. The code: solution("{name}")'
    return Text(f"Hint {level} of {last} for {name}\n\n{exercise.hints[level - 1]}\n\n{more}")


def solution(name: str) -> Text:
    """Python that solves an exercise; it runs as it stands.

    Raises:
        UnknownNameError: there is no such exercise.

    >>> from kdlab import exercises
    >>> "temperature**2" in exercises.solution("kd")
    True
    """
    code = HEADER + _find(name).source.strip() + "\n"
    return Text(code, code)


def _all() -> dict[str, Exercise | Question]:
    return {**EXERCISES, **QUESTIONS}


def _find(name: str) -> Exercise | Question:
    if name not in _all():
        raise unknown_name("exercise", name, _all())
    return _all()[name]

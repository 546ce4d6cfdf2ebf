"""`check` and `check_value`: an answer in, a verdict out."""

from __future__ import annotations

import dis
import functools
import math
from collections.abc import Callable
from typing import Any

from kdlab.errors import ConfigError, unknown_name
from kdlab.exercises.catalogue import EXERCISES, QUESTIONS
from kdlab.exercises.exercise import Exercise, Question, answer_of
from kdlab.exercises.properties import PROPERTIES, bound, first_fault
from kdlab.exercises.running import as_tensor
from kdlab.exercises.trial import Fault, Trial, show
from kdlab.exercises.verdict import Verdict


def check(name: str, answer: Any) -> Verdict:
    """Whether an answer is right, and if not which property breaks first.

    A function is compared with kdlab's own on small, random and extreme inputs: it is looked at in the
    order of `kdlab.exercises.PROPERTIES`, and typical mistakes are called by their name. Whatever
    the function does, the answer is a verdict and no traceback. The answer to a question (see
    `kdlab.exercises.table`) is passed on to `check_value`.

    Args:
        name: the exercise ("kd").
        answer: your function, without brackets; None, or a function whose body is `...`, is open.

    Returns:
        the verdict, which is true where the answer is right.

    Raises:
        UnknownNameError: there is no such exercise.

    >>> from kdlab import exercises
    >>> def my_softmax(logits, temperature):
    ...     return torch.softmax(logits / temperature, dim=1)
    >>> bool(exercises.check("softmax_t", my_softmax))
    True
    >>> def forgot(logits, temperature):
    ...     return torch.softmax(logits, dim=1)
    >>> exercises.check("softmax_t", forgot).property
    'temperature'
    """
    if name in QUESTIONS:
        return check_value(name, answer)
    if name not in EXERCISES:
        raise unknown_name("exercise", name, [*EXERCISES, *QUESTIONS])
    exercise = EXERCISES[name]
    asked = ", ".join(exercise.signature.parameters)
    if answer is None or answer is ...:
        return _open(name, f"Nothing is answered yet. Write a function of ({asked}) and give it to check.")
    if not callable(answer):
        return Verdict(
            False,
            name,
            f"Give the function itself, without brackets: check({name!r}, my_{name}). This is what it "
            "returned, or something else.",
            "arguments",
            PROPERTIES["arguments"].title,
            expected=f"a function of ({asked})",
            got=show(answer),
        )
    if unfit := bound(answer, tuple(exercise.signature.parameters)):
        return Verdict(False, name, unfit, "arguments", PROPERTIES["arguments"].title)
    if _is_empty(answer):
        return _open(name, "Nothing is written yet: replace the `...` by your code.")
    if answer is exercise.public:
        says = "This is kdlab's own function, so it agrees with itself. Now write one of your own."
        if exercise.frozen:
            says += " Detach the teacher there: kdlab's functions leave that to the training loop."
        return Verdict(True, name, says, state="passed")
    return _judge(exercise, Trial(exercise, answer))


def check_value(
    name: str, value: Any, expected: Any = None, *, tolerance: float | None = None, unit: str = ""
) -> Verdict:
    """Whether a number or a choice is right; wrong units (percent, base of the logarithm) are named.

    Args:
        name: a question of `kdlab.exercises.table()`; any other name together with `expected`.
        value: your number (also a tensor of one element), or the text of your choice; None is open.
        expected: the right answer, where it comes from your own study.
        tolerance: share of the right answer that a number may be off; 0.01 unless the question has its own.
        unit: in what the number is measured, for the words of the verdict.

    Raises:
        UnknownNameError: no such question, and nothing `expected`.
        ConfigError: `expected` for a question that has its own answer.

    >>> from kdlab import exercises
    >>> exercises.check_value("accuracy of the teacher", 0.925, expected=0.93).passed
    True
    >>> print(exercises.check_value("accuracy of the teacher", 93, expected=0.93).message)
    Your number is 100 times too large: it is a percentage, and a share from 0 to 1 is asked for.
    """
    question = QUESTIONS.get(name)
    if question is None and expected is None:
        raise unknown_name("question", name, QUESTIONS)
    if question is not None and expected is not None:
        raise ConfigError(f"The question {name!r} has an answer of its own; leave `expected` out.")
    if value is None or value is ...:
        return _open(name, "Nothing is answered yet.")
    truth = answer_of(question) if question else expected
    if tolerance is None:
        tolerance = question.tolerance if question else 0.01
    if isinstance(truth, str):
        return _choice(name, value, truth, question)
    return _number(name, value, float(truth), tolerance, unit, question)


def _judge(exercise: Exercise, trial: Trial) -> Verdict:
    if all(mine.unfinished for mine in trial.mine):
        return _open(exercise.name, "Nothing is written yet: the function raises NotImplementedError.")
    if any(truth.error for truth in trial.truth):
        raise RuntimeError(f"The reference of {exercise.name!r} fails: a fault of kdlab, please report it.")
    fault, held = first_fault(trial)
    if fault is None:
        message = f"Your function agrees with kdlab on {len(trial.cases)} inputs, extreme ones among them."
        return Verdict(True, exercise.name, message, held=held, state="passed")
    return _failed(exercise.name, fault, held, trial)


def _failed(name: str, fault: Fault, held: tuple[str, ...], trial: Trial) -> Verdict:
    case = fault.case
    return Verdict(
        False,
        name,
        fault.says,
        fault.property,
        PROPERTIES[fault.property].title,
        expected=fault.expected,
        got=fault.got,
        example=trial.example(case) if case else "",
        inputs=case.args if case else (),
        held=held,
        mistake=fault.mistake,
    )


def _open(name: str, message: str) -> Verdict:
    return Verdict(False, name, message, state="open")


def _is_empty(function: Callable[..., Any]) -> bool:
    """Whether a function's body is `...` or `pass`."""
    code = getattr(function, "__code__", None)
    if code is None or code.co_names or code.co_freevars:
        return False
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("RESUME", "CACHE", "NOP")]
    constants = {"LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}
    given = [step.argval for step in steps if step.opname in ("LOAD_CONST", "RETURN_CONST")]
    return {step.opname for step in steps} <= constants and all(x is None or x is ... for x in given)


# ---- numbers and choices ----------------------------------------------------------------------------

# A factor between the given and the right number, and what it says of the way it was found.
_UNITS: tuple[tuple[Callable[[float], float], str], ...] = (
    (lambda t: 100 * t, "is 100 times too large: it is a percentage, and a share from 0 to 1 is asked for."),
    (lambda t: t / 100, "is 100 times too small: it is a share from 0 to 1, and a percentage is asked for."),
    (lambda t: -t, "has the wrong sign."),
    (lambda t: t / math.log(2), "is in bits: use the natural logarithm instead of the one to base 2."),
    (lambda t: t / math.log(10), "is to base 10: use the natural logarithm (`log`, not `log10`)."),
    (lambda t: t * math.log(2), "is log 2 times too small: the answer is asked for in bits."),
    (lambda t: 1 / t, "is the reciprocal, 1 divided by the right one."),
    (lambda t: 1 - t, "is 1 minus the right one: an error instead of an accuracy, or the other way round."),
    (
        lambda t: 100 - t,
        "is 100 minus the right one: an error instead of an accuracy, or the other way round.",
    ),
    (lambda t: t * t, "is the square of the right one."),
    (lambda t: math.sqrt(t), "is the square root of the right one."),
    (lambda t: t / 1000, "is 1000 times too small: look at the unit."),
    (lambda t: t * 1000, "is 1000 times too large: look at the unit."),
)


def _number(
    name: str, value: Any, truth: float, tolerance: float, unit: str, question: Question | None
) -> Verdict:
    made = as_tensor(value)
    wanted = f"{truth:.4g} {unit}".strip() if question is None else "another number"
    fail = functools.partial(
        Verdict, False, name, property="value", property_title="value", expected=wanted, got=show(value)
    )
    if made is None or made.numel() != 1 or isinstance(value, bool | str):
        return fail("One number is asked for.", expected="one number")
    given = float(made)
    if not math.isfinite(given):
        return fail("Your number is not finite. Look for a division by 0 or the log of 0.")

    def near(other: float) -> bool:
        return math.isclose(given, other, rel_tol=tolerance, abs_tol=1e-9)

    if near(truth):
        return Verdict(True, name, f"{show(given)} {unit}".strip() + " is right.", state="passed")
    for expression, says in question.mistakes if question else ():
        assert question is not None
        if near(float(answer_of(question, expression))):
            return fail(says, mistake=says)
    for change, says in _UNITS:
        try:
            mistaken = change(truth)
        except (ValueError, ZeroDivisionError):
            continue
        if near(mistaken):
            return fail(f"Your number {says}", mistake=says)
    share = abs(given - truth) / abs(truth) if truth else math.inf
    says = "Nearly: it is off by a few hundredths; look for rounding." if share < 0.1 else ""
    return fail(says or f"Your number is too {'large' if given > truth else 'small'}.")


def _choice(name: str, value: Any, truth: str, question: Question | None) -> Verdict:
    options = question.options if question else ()
    fail = functools.partial(Verdict, False, name, property="value", property_title="choice", got=show(value))
    given = _plain(value)
    if given == _plain(truth):
        return Verdict(True, name, f"{truth!r} is right.", state="passed")
    if options and given not in map(_plain, options):
        return fail("Choose one of: " + ", ".join(map(repr, options)) + ".", expected="one of the options")
    for option, says in question.mistakes if question else ():
        if given == _plain(option):
            return fail(says, mistake=says)
    return fail("That is not what comes out.", expected="another choice")


def _plain(value: Any) -> str:
    return " ".join(str(value).casefold().split())

"""Exercises on longer trainings: rates of a recipe, steps, batch sizes, and what a comparison costs."""

from __future__ import annotations

from typing import Any

from kdlab.exercises.exercise import Case, Exercise, Question, wrong


def _recipe(**fields: Any) -> Any:
    from kdlab.training.recipe import Recipe

    return Recipe("exercise", **fields)


def _step_rate(epoch: int, epochs: int, lr: float, milestones: tuple[int, ...], gamma: float) -> float:
    recipe = _recipe(epochs=epochs, lr=lr, milestones=milestones, gamma=gamma)
    return float(recipe.rate(epoch, 0, 1))


def _cosine_rate(step: int, steps: int, lr: float) -> float:
    return float(_recipe(epochs=1, lr=lr, shape="cosine").rate(1, step, steps))


def _speedup(teacher: float, student: float, students: int) -> float:
    return students * (teacher + 3 * student) / (teacher + 3 * student * students)


def _total_steps(images: int, batch_size: int, epochs: int, drop_last: bool) -> int:
    return epochs * (images // batch_size if drop_last else -(-images // batch_size))


def _numbers(*cases: tuple[Any, ...]) -> list[Case]:
    """Cases from tuples (label, *arguments)."""
    return [Case(label, tuple(args)) for label, *args in cases]


def _step_cases() -> list[Case]:
    cifar: tuple[Any, ...] = (240, 0.05, (150, 180, 210), 0.1)
    return _numbers(
        ("the first epoch", 1, *cifar),
        ("the epoch that ends at the first milestone", 150, *cifar),
        ("the epoch after it", 151, *cifar),
        ("an epoch between milestones", 200, *cifar),
        ("the last epoch", 240, *cifar),
        ("another recipe", 130, 200, 0.1, (60, 120, 160), 0.2),
        ("no milestones", 7, 10, 0.02, (), 0.1),
    )


_STEP = Exercise(
    name="step_rate",
    notebook=13,
    title="The rate of a published recipe",
    task="The CIFAR recipe starts with the learning rate lr and multiplies it by gamma *after* each of the "
    "milestones, which are epochs. Epochs count from 1. Return the rate of a whole `epoch`.",
    reference=_step_rate,
    cases=_step_cases,
    kind="number",
    atol=1e-7,
    source="""
def step_rate(epoch, epochs, lr, milestones, gamma):
    passed = sum(epoch > milestone for milestone in milestones)
    return lr * gamma**passed
""",
    hints=(
        "How many milestones lie behind an epoch? Is the epoch of a milestone itself still at the old rate?",
        "Count the milestones that are smaller than the epoch. Each of them multiplies once.",
        "`sum(epoch > m for m in milestones)` and a power of gamma. `epochs` is not needed.",
    ),
    mistakes=(
        wrong(
            "value",
            "The rate drops one epoch too early: it drops after a milestone, so the milestone itself "
            "still has the old rate.",
            ("epoch > milestone", "epoch >= milestone"),
        ),
        wrong(
            "value",
            "The rate is multiplied once only. Each milestone that lies behind multiplies again.",
            ("gamma**passed", "(gamma if passed else 1.0)"),
        ),
        wrong(
            "value",
            "You subtract instead of multiplying.",
            ("lr * gamma**passed", "lr - lr * gamma * passed"),
        ),
        wrong(
            "value",
            "You multiply by gamma times the number of milestones. It is gamma to the power of it.",
            ("gamma**passed", "(gamma * passed if passed else 1.0)"),
        ),
        wrong(
            "value",
            "The rate drops one epoch too late.",
            ("epoch > milestone", "epoch > milestone + 1"),
        ),
    ),
)

_COSINE = Exercise(
    name="cosine_rate",
    notebook=13,
    title="A rate that falls smoothly",
    task="Return the learning rate of `step` (from 0) of `steps` steps: it begins at lr and falls along "
    "half a cosine wave to 0, lr * (1 + cos(pi * step / steps)) / 2.",
    reference=_cosine_rate,
    cases=lambda: _numbers(
        ("the first step", 0, 100, 0.05),
        ("a quarter of the way", 25, 100, 0.05),
        ("half of the way", 50, 100, 0.1),
        ("nearly the end", 99, 100, 0.05),
        ("another length", 3, 7, 0.2),
    ),
    kind="number",
    atol=1e-7,
    source="""
def cosine_rate(step, steps, lr):
    done = torch.tensor(step / steps)
    return float(lr * (1 + torch.cos(torch.pi * done)) / 2)
""",
    hints=(
        "What is the cosine at 0, at half of pi and at pi? Which rates must come out there?",
        "done = step / steps goes from 0 to nearly 1. Shift and halve the cosine so that it goes from 1 "
        "to 0.",
        "lr * (1 + cos(pi * done)) / 2, for instance with `torch.cos` or `math.cos`.",
    ),
    mistakes=(
        wrong(
            "value",
            "The rate goes below 0: add 1 to the cosine and halve it.",
            ("(1 + torch.cos(torch.pi * done)) / 2", "torch.cos(torch.pi * done)"),
        ),
        wrong("value", "The factor 1/2 is missing: the rate begins at 2 lr.", (" / 2", "")),
        wrong(
            "value",
            "This is a whole wave: the rate comes up again. Half a wave is from 0 to pi.",
            ("torch.pi * done", "2 * torch.pi * done"),
        ),
        wrong("value", "The rate rises: it is 1 + cos, not 1 - cos.", ("1 + torch.cos", "1 - torch.cos")),
        wrong(
            "value",
            "This falls along a straight line.",
            ("(1 + torch.cos(torch.pi * done)) / 2", "(1 - done)"),
        ),
        wrong(
            "value",
            "You counted in degrees. `cos` takes radians: half a wave is pi.",
            ("torch.pi * done", "180 * done"),
        ),
    ),
)

_STEPS = Exercise(
    name="total_steps",
    notebook=13,
    title="Steps of a training",
    task="Return how many optimiser steps a training takes: `images` are cut into batches of "
    "`batch_size` in each of `epochs` epochs. A smaller batch is left at the end of an epoch; with "
    "drop_last it is skipped.",
    reference=_total_steps,
    cases=lambda: _numbers(
        ("CIFAR-100", 50_000, 64, 240, False),
        ("CIFAR-100, drop_last", 50_000, 64, 240, True),
        ("batches that fit", 1280, 64, 3, False),
        ("batches that fit, drop_last", 1280, 64, 3, True),
        ("one picture more than fits", 129, 32, 10, False),
        ("one picture less than fits, drop_last", 127, 32, 10, True),
    ),
    kind="number",
    source="""
def total_steps(images, batch_size, epochs, drop_last):
    whole, rest = divmod(images, batch_size)
    steps = whole + (1 if rest and not drop_last else 0)
    return steps * epochs
""",
    hints=(
        "Batches do not reach from one epoch into the next. How many are there in one epoch?",
        "`divmod(images, batch_size)` gives the whole batches and how many pictures are left. Does the "
        "rest make a batch?",
        "Whole batches, plus one if there is a rest and not drop_last; times the epochs.",
    ),
    mistakes=(
        wrong(
            "value",
            "The smaller last batch is never counted; it is skipped only with drop_last.",
            ("(1 if rest and not drop_last else 0)", "0"),
        ),
        wrong(
            "value",
            "You count the smaller last batch although drop_last skips it.",
            ("rest and not drop_last", "rest"),
        ),
        wrong(
            "value",
            "You add a batch although nothing is left over.",
            ("rest and not drop_last", "not drop_last"),
        ),
        wrong(
            "value",
            "A part of a batch is a step of its own, or none with drop_last: steps are whole numbers.",
            ("    return steps * epochs", "    return images / batch_size * epochs"),
        ),
        wrong("value", "These are the steps of one epoch.", ("steps * epochs", "steps")),
        wrong(
            "value",
            "You cut all epochs together into batches. Every epoch is cut on its own, with a rest of its "
            "own.",
            ("divmod(images, batch_size)", "divmod(images * epochs, batch_size)"),
            ("steps * epochs", "steps"),
        ),
        wrong(
            "value",
            "drop_last is the wrong way round.",
            ("not drop_last", "drop_last"),
        ),
    ),
)

_SHARED = Exercise(
    name="lockstep_speedup",
    notebook=13,
    title="What a shared teacher saves",
    task="A forward pass of the teacher costs `teacher` operations a picture, one of a student `student`. "
    "Training a network costs three forward passes (one forward, two of that size backward); the teacher "
    "is only read. Return how many times cheaper it is to train `students` students together, with one "
    "pass of the teacher for all, than each by itself with a pass of its own.",
    reference=_speedup,
    cases=lambda: _numbers(
        ("resnet32x4 and four of resnet8x4", 2.166, 0.354, 4),
        ("one student", 2.166, 0.354, 1),
        ("a small teacher", 0.2, 0.1, 8),
        ("wrn_40_2 and wrn_16_2", 0.655, 0.202, 3),
    ),
    kind="number",
    source="""
def lockstep_speedup(teacher, student, students):
    alone = students * (teacher + 3 * student)
    together = teacher + 3 * student * students
    return alone / together
""",
    hints=(
        "Write down the cost of both ways. Which part is paid once, and which once for every student?",
        "Alone: everything times the number of students. Together: the teacher once, three passes for "
        "every student.",
        "students * (teacher + 3 * student), divided by the cost together.",
    ),
    mistakes=(
        wrong(
            "value",
            "The ratio is upside down: how many times cheaper.",
            ("alone / together", "together / alone"),
        ),
        wrong(
            "value",
            "You count a pass of the teacher as much as the training of a student. The teacher is only "
            "read: one forward pass against three.",
            ("3 * student)", "student)"),
            ("3 * student * students", "student * students"),
        ),
        wrong(
            "value",
            "Together, the teacher is still paid for every student in your sum.",
            ("together = teacher", "together = teacher * students"),
        ),
        wrong(
            "value",
            "This is the limit for infinitely many students.",
            ("alone / together", "alone / (3 * student * students)"),
        ),
    ),
)

EXERCISES = (_STEP, _COSINE, _STEPS, _SHARED)

QUESTIONS = (
    Question(
        name="teacher_work",
        notebook=13,
        title="Who does the work?",
        task="A forward pass of resnet32x4 takes 2.17 billion operations a picture, one of resnet8x4 "
        "0.354. Training costs three forward passes, and the teacher is only read. What share of a KD "
        "step is the teacher's? From 0 to 1.",
        source="answer = 2.17 / (2.17 + 3 * 0.354)\n",
        hints=(
            "Two parts: the teacher's forward pass, and the training of the student.",
            "The student costs 3 * 0.354.",
            "2.17 / (2.17 + 1.062)",
        ),
        mistakes=(
            ("2.17 / (2.17 + 0.354)", "The student is trained: that takes three forward passes."),
            ("3 * 0.354 / (2.17 + 3 * 0.354)", "This is the student's share."),
            ("2.17 / (3 * 0.354)", "This is the ratio of the two. A share divides by the sum."),
        ),
    ),
    Question(
        name="scaled_rate",
        notebook=13,
        title="A larger batch",
        task="A recipe has batch_size 64 and lr 0.05. By the linear scaling rule, which rate belongs to "
        "batches of 256?",
        source="answer = 0.05 * 256 / 64\n",
        hints=(
            "There are four times fewer steps in an epoch now. What must each of them do?",
            "The rule: lr grows by the same factor as the batch.",
            "0.05 times 256 / 64.",
        ),
        mistakes=(
            ("0.05 * (256 / 64) ** 0.5", "This is the square-root rule. The linear rule is asked for."),
            ("0.05 * 64 / 256", "The other way round: a larger batch takes a larger rate."),
            ("0.05", "The rate must change: four times fewer steps would each go as far as before."),
        ),
    ),
)

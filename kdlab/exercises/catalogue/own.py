"""Exercises on a study of one's own: a loss and its contract, paired differences, how many seeds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdlab.exercises.cases import SHIFT_STUDENT, SHIFT_TEACHER, logit_cases, normal
from kdlab.exercises.exercise import Case, Exercise, Invariance, Question, wrong


def _centred_mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    gap = student_logits - teacher_logits.detach()
    return gap.var(dim=1, correction=0).mean() * gap.shape[1]


def _paired(mine: Tensor, other: Tensor) -> Tensor:
    gap = mine - other
    return torch.stack([gap.mean(), gap.std(correction=1) / len(gap) ** 0.5])


def _seeds_needed(difference: float, spread: float) -> int:
    return max(2, math.floor((2 * spread / difference) ** 2) + 1)


def _paired_cases() -> list[Case]:
    def case(label: str, mine: Tensor, other: Tensor, plain: bool = True) -> Case:
        return Case(label, (mine, other), {"n": len(mine)}, plain)

    luck = normal(5, seed=1, scale=3.0)
    return [
        case("three seeds", torch.tensor([90.0, 94.0, 86.0]), torch.tensor([89.0, 92.0, 86.0])),
        case("five seeds that share their luck", 80 + luck, 79 + luck + normal(5, seed=2, scale=0.3)),
        case("a loss that is worse", 70 + normal(8, seed=3), 71 + normal(8, seed=4)),
        case("two seeds", torch.tensor([60.0, 64.0]), torch.tensor([61.0, 60.0])),
        case("tensors of float64", 80 + luck.double(), 79 + normal(5, seed=5).double(), plain=False),
    ]


def _seed_cases() -> list[Case]:
    def case(label: str, difference: float, spread: float, plain: bool = True) -> Case:
        return Case(label, (difference, spread), {}, plain)

    return [
        case("a difference of 1 and a spread of 1.6", 1.0, 1.6),
        case("a difference of 0.5 and a spread of 2", 0.5, 2.0),
        case("a small difference", 0.2, 1.1),
        case("a difference of 1.5 and a spread of 2.4", 1.5, 2.4),
        case("a difference far beyond the spread", 9.0, 0.4, plain=False),
    ]


def _together(args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    luck = torch.linspace(-4, 9, len(args[0]), dtype=args[0].dtype)
    return args[0] + luck, args[1] + luck


_LOSS = Exercise(
    name="centred_mse",
    notebook=12,
    title="A loss of your own, and its contract",
    task="The logits of student and teacher (B, C) shall be equal up to one number for each picture, "
    "because such a number changes no probability. With d = z_s - z_t and its mean over the classes "
    "subtracted from each row, return the mean over the pictures of the sum over the classes of d^2. The "
    "teacher is detached.",
    reference=_centred_mse,
    cases=lambda: logit_cases(options=lambda tau: ()),
    learns=(0,),
    frozen=(1,),
    invariances=(SHIFT_STUDENT, SHIFT_TEACHER),
    source="""
def centred_mse(student_logits, teacher_logits):
    d = student_logits - teacher_logits.detach()
    d = d - d.mean(dim=1, keepdim=True)
    return d.square().sum(dim=1).mean()
""",
    hints=(
        "Three things to get right: which mean is subtracted, what is summed and what is averaged, and who "
        "gets a gradient.",
        "d.mean(dim=1, keepdim=True) is one number for each picture. Squares are summed over dim 1, and "
        "the mean is over the pictures.",
        "d = student - teacher.detach(); subtract its row means; `.square()`, `.sum(dim=1)`, `.mean()`.",
    ),
    mistakes=(
        wrong("teacher", "A gradient reaches the teacher: use `teacher_logits.detach()`.", (".detach()", "")),
        wrong(
            "gradient",
            "No gradient reaches the student. Detach the teacher, not the difference.",
            ("teacher_logits.detach()", "teacher_logits.detach()\n    d = d.detach()"),
        ),
        wrong(
            "invariance",
            "The difference is not centred: a number added to all logits of a picture costs something, "
            "though no probability changes.",
            ("d = d - d.mean(dim=1, keepdim=True)", "pass"),
        ),
        wrong(
            "invariance",
            "You centred each class over the batch (dim=0). Centre each picture over its classes: dim=1.",
            ("d.mean(dim=1, keepdim=True)", "d.mean(dim=0)"),
        ),
        wrong(
            "reduction",
            "You averaged over the classes too. Sum over the classes, take the mean over the pictures.",
            ("d.square().sum(dim=1).mean()", "d.square().mean()"),
        ),
        wrong(
            "reduction",
            "You summed over the batch: the loss then grows with the batch size. Take the mean over the "
            "pictures.",
            ("d.square().sum(dim=1).mean()", "d.square().sum()"),
        ),
        wrong(
            "value",
            "You return a distance, not its square.",
            ("d.square().sum(dim=1).mean()", "d.norm(dim=1).mean()"),
        ),
        wrong("value", "You take absolute values. Squares are asked for.", ("d.square()", "d.abs()")),
    ),
)

_PAIRED = Exercise(
    name="paired_error",
    notebook=12,
    title="A paired comparison",
    task="mine and other (S,) are the accuracies of two students, seed by seed. Return a tensor of two "
    "numbers: the mean of the differences mine - other, and its standard error, which is the sample "
    "standard deviation (n - 1) of the differences divided by the root of S.",
    reference=_paired,
    cases=_paired_cases,
    kind="tensor",
    invariances=(Invariance("Luck that both students of a seed share must not change anything", _together),),
    source="""
def paired_error(mine, other):
    gap = mine - other
    error = gap.std(correction=1) / len(gap) ** 0.5
    return torch.stack([gap.mean(), error])
""",
    hints=(
        "Both students of a seed had the same start and the same batches. What do you get if you subtract "
        "within each seed, before anything else?",
        "gap = mine - other has one number for each seed. Its `.std()` divides by n - 1. The mean of n "
        "numbers is less uncertain than one of them: by which factor?",
        "`torch.stack([gap.mean(), ...])` with gap.std(correction=1) divided by len(gap) ** 0.5.",
    ),
    mistakes=(
        wrong(
            "invariance",
            "You took the spread of each student and added the squares, as if the seeds had nothing to "
            "do with each other. Subtract within each seed first: what both share cancels.",
            ("gap.std(correction=1)", "(mine.var() + other.var()).sqrt()"),
        ),
        wrong(
            "value",
            "This is the standard deviation of one difference. The error of the mean is smaller: divide "
            "by the root of the number of seeds.",
            (" / len(gap) ** 0.5", ""),
        ),
        wrong(
            "value",
            "You divide by the number of seeds, not by its root.",
            ("len(gap) ** 0.5", "len(gap)"),
        ),
        wrong(
            "value",
            "You divide by n inside the standard deviation, which makes a small sample look too sure. Use "
            "n - 1 (`correction=1`).",
            ("correction=1", "correction=0"),
        ),
        wrong("value", "The sign is turned: it is mine - other.", ("gap.mean()", "-gap.mean()")),
        wrong(
            "invariance",
            "The second number is the spread of `mine` alone. Take that of the differences.",
            ("gap.std(correction=1)", "mine.std(correction=1)"),
        ),
    ),
)

_SEEDS = Exercise(
    name="seeds_needed",
    notebook=12,
    title="How many seeds?",
    task="You expect a mean difference of `difference` points, and differences of single seeds spread with "
    "a standard deviation of `spread`. Return the smallest whole number n of seeds, at least 2, with "
    "which the difference is larger than two standard errors: difference > 2 * spread / sqrt(n).",
    reference=_seeds_needed,
    cases=_seed_cases,
    kind="number",
    source="""
def seeds_needed(difference, spread):
    n = 2
    while not difference > 2 * spread / n**0.5:
        n = n + 1
    return n
""",
    hints=(
        "Solve the inequality for n. Or let the computer count upwards.",
        "sqrt(n) > 2 * spread / difference, so n must be larger than its square. What is the next whole "
        "number?",
        "Begin with n = 2 and add 1 as long as the difference is not above 2 * spread / n**0.5.",
    ),
    mistakes=(
        wrong(
            "value",
            "You asked for one standard error. Two are asked for, which takes four times as many seeds.",
            ("2 * spread", "spread"),
        ),
        wrong(
            "value",
            "You divide by n, but the error of a mean shrinks only with the root of n.",
            ("n**0.5", "n"),
        ),
        wrong(
            "value",
            "Where the difference is exactly two standard errors, it is not larger yet: one seed more.",
            ("not difference >", "not difference >="),
        ),
        wrong(
            "value",
            "Seeds are whole numbers: the smallest one with which the inequality holds.",
            ("    return n", "    return (2 * spread / difference) ** 2"),
        ),
        wrong(
            "value",
            "One seed too few: the last one you count must fulfil the inequality.",
            ("    return n", "    return max(2, n - 1)"),
        ),
        wrong(
            "value",
            "The spread is not used as a standard deviation but as a variance.",
            ("2 * spread", "2 * spread**0.5"),
        ),
    ),
)

EXERCISES = (_LOSS, _PAIRED, _SEEDS)

QUESTIONS = (
    Question(
        name="lucky_winner",
        notebook=12,
        title="Twenty losses that do nothing",
        task="Twenty losses do nothing at all. Each is tested with a rule that calls a useless loss a "
        "success in 5 % of the cases, independently of the others. How likely is at least one success? A "
        "share from 0 to 1.",
        source="answer = 1 - 0.95**20\n",
        hints=(
            "How likely is it that none of them is called a success?",
            "One loss is no success with probability 0.95. Twenty in a row?",
            "1 minus 0.95 to the power of 20.",
        ),
        mistakes=(
            ("0.95**20", "This is the probability of no success at all. One minus it."),
            ("1.0", "You added 20 times 0.05. That is the expected number of successes, not a probability."),
            ("0.05", "This is one loss. You try twenty."),
        ),
    ),
    Question(
        name="which_epoch",
        notebook=12,
        title="Which accuracy may you report?",
        task="A student is tested on the test pictures after each of 100 epochs. You report one test "
        "accuracy. Which choice of the epoch makes it too good? 'last epoch', 'best on validation' or "
        "'best on test'",
        source='answer = "best on test"\n',
        options=("last epoch", "best on validation", "best on test"),
        hints=(
            "A choice is fair if it does not look at the numbers that are reported.",
            "The maximum of 100 noisy numbers is larger than each of them on average.",
            "Which of the three looks at the test pictures to choose?",
        ),
        mistakes=(
            ("last epoch", "It is fixed before the training. It may be a bad epoch, but it is not too good."),
            (
                "best on validation",
                "It looks at other pictures than those it is judged by. A little luck on validation does "
                "not carry over to the test pictures.",
            ),
        ),
    ),
)

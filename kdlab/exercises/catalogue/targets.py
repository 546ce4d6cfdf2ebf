"""Exercises on targets made from a teacher's answer: one without any ranking, and DCKD's one-sided one."""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab import losses
from kdlab.exercises.cases import SHIFT_STUDENT, SHIFT_TEACHER, logit_cases
from kdlab.exercises.exercise import Case, Exercise, Invariance, wrong


def _teacher_cases() -> list[Case]:
    found = []
    for case in logit_cases(target=True):
        _, teacher, target, tau = case.args
        found.append(Case(case.label, (teacher, target, tau), case.sizes, case.plain, case.property))
    return found


def _even(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    return torch.softmax(losses.even_others(logits, target, temperature) / temperature, dim=1)


_EVEN = Exercise(
    name="even_answer",
    notebook=1,
    title="A teacher without dark knowledge",
    task="Return the probabilities (B, C) of a teacher that is as sure of the true class as before, and "
    "finds all other classes equally likely: p of the true class is that of softmax(z / tau), and the "
    "C - 1 others share the rest evenly.",
    reference=_even,
    cases=_teacher_cases,
    kind="tensor",
    invariances=(
        SHIFT_STUDENT,
        Invariance(
            "Which of the other classes the teacher finds likely must not matter any more",
            lambda args: (losses.reversed_others(args[0], args[1]), *args[1:]),
        ),
    ),
    source="""
def even_answer(teacher_logits, target, temperature):
    p = F.softmax(teacher_logits / temperature, dim=1)
    true_class = F.one_hot(target, p.shape[1]).bool()
    sure = p[true_class][:, None]
    share = (1 - sure) / (p.shape[1] - 1)
    return torch.where(true_class, sure, share)
""",
    hints=(
        "Each row of the result has only two different numbers. Which ones, if they must sum to 1?",
        "One number is the teacher's softened probability of the true class: `gather`, or a mask from "
        "`F.one_hot`. What is left, 1 minus this number, goes to C - 1 classes.",
        "With `sure` of shape (B, 1) and the mask `true_class` of shape (B, C): "
        "`torch.where(true_class, sure, ...)`. Put the share of one other class in the last place.",
    ),
    mistakes=(
        wrong(
            "temperature",
            "The temperature is not used. Soften first: divide the logits by it.",
            ("teacher_logits / temperature", "teacher_logits"),
        ),
        wrong(
            "value",
            "Your rows do not sum to 1: the rest is shared by C - 1 classes, not by C.",
            ("(p.shape[1] - 1)", "p.shape[1]"),
        ),
        wrong(
            "value",
            "Your rows do not sum to 1: each other class gets the whole rest. Divide it by C - 1.",
            ("share = (1 - sure) / (p.shape[1] - 1)", "share = 1 - sure"),
        ),
        wrong(
            "value",
            "You gave all pictures the same sureness, the mean of the batch. Keep that of each picture.",
            ("sure = p[true_class][:, None]", "sure = p[true_class].mean()"),
        ),
        wrong(
            "masking",
            "You kept the class that the teacher finds most likely. The true class is the label, `target`.",
            ("F.one_hot(target, ", "F.one_hot(teacher_logits.argmax(dim=1), "),
        ),
        wrong(
            "invariance",
            "You kept the teacher's probabilities as they are. The other classes must all get the same.",
            ("torch.where(true_class, sure, share)", "p"),
        ),
    ),
)

_ONE_SIDED = Exercise(
    name="dckd_target",
    notebook=2,
    title="Never pull a student down",
    task="The target term of DCKD, as kdlab reconstructs it: TCKD, but pictures on which the student is "
    "already as sure of the true class as the teacher, or surer, count 0. Return tau^2 times the mean over "
    "the whole batch.",
    reference=lambda s, t, y, tau: losses.hybrid_target(s, t.detach(), y, "max", tau),
    public=losses.hybrid_target,
    cases=lambda: logit_cases(target=True),
    learns=(0,),
    frozen=(1,),
    invariances=(SHIFT_STUDENT, SHIFT_TEACHER),
    source="""
def dckd_target(student_logits, teacher_logits, target, temperature):
    true_class = F.one_hot(target, student_logits.shape[1]).bool()

    def pair(logits):
        logs = F.log_softmax(logits / temperature, dim=1)
        miss = logs.masked_fill(true_class, -torch.inf).logsumexp(dim=1)
        return torch.stack([logs[true_class], miss], dim=1)

    student, teacher = pair(student_logits), pair(teacher_logits.detach())
    divergence = (teacher.exp() * (teacher - student)).sum(dim=1)
    pulled = teacher[:, 0] > student[:, 0]
    return temperature**2 * (pulled * divergence).mean()
""",
    hints=(
        "You have written TCKD before. What must happen to a picture whose TCKD would make the student less "
        "sure of the right answer?",
        "Compute TCKD picture by picture, shape (B,). Multiply it by 1 where the teacher's probability of "
        "the true class (at tau) is larger than the student's, and by 0 elsewhere.",
        "`pulled = log_p_teacher > log_p_student`, both of the true class and at tau; then "
        "tau^2 (pulled * divergence).mean(), with the teacher detached.",
    ),
    mistakes=(
        wrong(
            "teacher",
            "A gradient reaches `teacher_logits`: use `teacher_logits.detach()`.",
            ("teacher_logits.detach()", "teacher_logits"),
        ),
        wrong("temperature", "The factor tau^2 is missing.", ("temperature**2 * ", "")),
        wrong(
            "reduction",
            "You average over the pulled pictures alone. Divide by the whole batch: a batch in which hardly "
            "anyone is pulled shall pull little.",
            ("(pulled * divergence).mean()", "(pulled * divergence).sum() / pulled.sum().clamp(min=1)"),
        ),
        wrong(
            "order",
            "Teacher and student are swapped in the KL: sum of p_t (log p_t - log p_s).",
            ("teacher.exp() * (teacher - student)", "student.exp() * (student - teacher)"),
        ),
        wrong(
            "masking",
            "This is TCKD: it also pulls down a student that is surer than the teacher. Leave these out.",
            ("pulled * divergence", "divergence"),
        ),
        wrong(
            "masking",
            "The wrong half counts: you pull the students that are surer than the teacher, and no others.",
            ("teacher[:, 0] > student[:, 0]", "teacher[:, 0] <= student[:, 0]"),
        ),
        wrong(
            "masking",
            "You leave out the pictures that the student gets right. Leave out those on which it is at least "
            "as sure of the true class as the teacher; it may be right and still less sure.",
            ("teacher[:, 0] > student[:, 0]", "student_logits.argmax(dim=1) != target"),
        ),
        wrong(
            "stability",
            "log(1 - p) is infinite where p is rounded to 1: use the logsumexp of the other classes.",
            (
                "logs.masked_fill(true_class, -torch.inf).logsumexp(dim=1)",
                "(1 - logs[true_class].exp()).log()",
            ),
        ),
    ),
)

EXERCISES = (_EVEN, _ONE_SIDED)

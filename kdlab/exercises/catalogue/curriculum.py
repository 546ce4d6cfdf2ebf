"""Exercises on a temperature that learns: CTKD's curriculum, and its gradient that is turned round."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdlab import losses
from kdlab.exercises.cases import normal
from kdlab.exercises.exercise import Case, Exercise, wrong
from kdlab.methods import CTKD
from kdlab.methods.ctkd import _scale_gradient

_CURRICULUM_LAMBDA = Exercise(
    name="curriculum_lambda",
    notebook=7,
    title="From easy to hard",
    task="CTKD multiplies the gradient of its temperature by lambda(e) = -(1 - cos(pi min(e, E) / E)) / 2, "
    "e the epoch (from 1 on) and E the length of the curriculum. Return this number. (Li et al., AAAI 2023)",
    reference=lambda epoch, length: CTKD(epochs=length).reversal(epoch),
    public=CTKD.reversal,
    cases=lambda: [
        Case("the first of 10 epochs", (1, 10)),
        Case("the middle of 10 epochs", (5, 10)),
        Case("the last of 10 epochs", (10, 10)),
        Case("epoch 17 of a curriculum of 10", (17, 10)),
        Case("epoch 3 of a curriculum of 4", (3, 4)),
        Case("a curriculum of one epoch", (1, 1), plain=False),
    ],
    kind="number",
    source="""
def curriculum_lambda(epoch, length):
    import math

    progress = min(epoch, length) / length
    return -(1 - math.cos(math.pi * progress)) / 2
""",
    hints=(
        "What is wanted before the first epoch, and what from epoch E on? Half a cosine joins both.",
        "`math.cos(math.pi * progress)` goes from 1 to -1 while progress goes from 0 to 1. After epoch E, "
        "progress stays at 1.",
        "progress = min(e, E) / E; take 1 minus the cosine, half of it, and the minus sign.",
    ),
    mistakes=(
        wrong(
            "value",
            "The sign is wrong: lambda is negative, which turns the descent of theta into an ascent.",
            ("return -(1", "return (1"),
        ),
        wrong(
            "value",
            "After epoch E your lambda goes back towards 0. It shall stay at -1: use min(e, E).",
            ("min(epoch, length)", "epoch"),
        ),
        wrong(
            "value",
            "You count from 0: epoch 1 would have lambda 0. Epochs are counted from 1, so use e / E.",
            ("min(epoch, length) / length", "(min(epoch, length) - 1) / length"),
        ),
        wrong(
            "value",
            "That is a straight line from 0 to -1. CTKD starts more gently: half a cosine.",
            ("(1 - math.cos(math.pi * progress)) / 2", "progress"),
        ),
        wrong(
            "value",
            "You divide by 1 and not by 2: lambda goes to -2.",
            (" / 2", ""),
        ),
    ),
)


def _curriculum(student: Tensor, teacher: Tensor, theta: Tensor, factor: float) -> Tensor:
    temperature = 1 + 20 * torch.sigmoid(_scale_gradient(theta, factor))
    return losses.kd(student, teacher.detach(), temperature)


def _theta_cases() -> list[Case]:
    def case(label: str, s: Tensor, t: Tensor, theta: float, factor: float, **kind: Any) -> Case:
        sizes = {"B": s.shape[0], "C": s.shape[1]}
        return Case(label, (s, t, torch.tensor(theta, dtype=s.dtype), factor), sizes, **kind)

    small_s, small_t = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[4.0, 1.0, 0.5]])
    wide_s, wide_t = normal(5, 7, seed=1, scale=6), normal(5, 7, seed=2, scale=6)
    return [
        case("one picture of three classes", small_s, small_t, 1.0, -1.0),
        case("lambda -0.5", wide_s, wide_t, 1.0, -0.5),
        case("a theta of -1", wide_s, wide_t, -1.0, -1.0),
        case("lambda +1 (no reversal)", wide_s, wide_t, 0.0, 1.0),
        case("a batch of 3", normal(3, 4, seed=3), normal(3, 4, seed=4, scale=5), 0.5, -0.2),
        case("tensors of float64", wide_s.double(), wide_t.double(), 1.0, -1.0, plain=False),
    ]


_CURRICULUM_KD = Exercise(
    name="curriculum_kd",
    notebook=7,
    title="A temperature that works against the student",
    task="Return the KD loss (as in `kd`) at the temperature T = 1 + 20 sigmoid(theta), theta a scalar "
    "tensor. The *value* is plain KD. But the gradient with respect to theta shall be multiplied by `factor` "
    "(lambda), and the gradient with respect to the student shall not. (Li et al., AAAI 2023)",
    reference=_curriculum,
    cases=_theta_cases,
    learns=(0, 2),
    frozen=(1,),
    source="""
def curriculum_kd(student_logits, teacher_logits, theta, factor):
    turned = factor * theta + (1 - factor) * theta.detach()
    T = 1 + 20 * torch.sigmoid(turned)
    log_t = F.log_softmax(teacher_logits.detach() / T, dim=1)
    log_s = F.log_softmax(student_logits / T, dim=1)
    return T**2 * (log_t.exp() * (log_t - log_s)).sum(dim=1).mean()
""",
    hints=(
        "You need a number that *is* theta, but whose derivative with respect to theta is `factor`, not 1.",
        "Write theta as a sum of two parts: one that lets the gradient through, and one that is detached. "
        "With which two weights is the sum still theta?",
        "factor * theta + (1 - factor) * theta.detach() has the value of theta; put it into the sigmoid.",
    ),
    mistakes=(
        wrong(
            "teacher",
            "A gradient reaches the teacher: use `teacher_logits.detach()`.",
            ("teacher_logits.detach()", "teacher_logits"),
        ),
        wrong(
            "gradient",
            "No gradient reaches theta: it is detached, so the temperature stays fixed for ever.",
            ("factor * theta + (1 - factor) * theta.detach()", "theta.detach()"),
        ),
        wrong(
            "reduction",
            "You averaged over the classes too. Sum over them.",
            (".sum(dim=1).mean()", ".mean()"),
        ),
        wrong("value", "The factor T^2 is missing.", ("T**2 * ", "")),
        wrong(
            "value",
            "The 1 is missing in T = 1 + 20 sigmoid(theta): your temperature can come near 0.",
            ("1 + 20 * torch.sigmoid", "20 * torch.sigmoid"),
        ),
        wrong(
            "order",
            "Teacher and student are swapped in the KL: the teacher stands first.",
            ("log_t.exp() * (log_t - log_s)", "log_s.exp() * (log_s - log_t)"),
        ),
        wrong(
            "value",
            "You multiplied theta itself: that is another temperature. Only its gradient shall change.",
            (" + (1 - factor) * theta.detach()", ""),
        ),
        wrong(
            "value",
            "You multiplied the loss by the factor. That turns the student round as well.",
            ("return T**2", "return factor * T**2"),
        ),
        wrong(
            "slope",
            "The value is right, but the gradient of theta is not multiplied by the factor: your temperature "
            "would help the student and not challenge it.",
            ("factor * theta + (1 - factor) * theta.detach()", "theta"),
        ),
        wrong(
            "slope",
            "The value is right, but you changed the student's gradient too. Change that of theta alone.",
            ("factor * theta + (1 - factor) * theta.detach()", "theta"),
            (
                "return T**2 * (log_t.exp() * (log_t - log_s)).sum(dim=1).mean()",
                "loss = T**2 * (log_t.exp() * (log_t - log_s)).sum(dim=1).mean()\n"
                "    return factor * loss + (1 - factor) * loss.detach()",
            ),
        ),
    ),
)

EXERCISES = (_CURRICULUM_LAMBDA, _CURRICULUM_KD)

"""Exercises on the teacher's classifier in a student: stage logits, SimKD's one term, CMKD's sum."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab import losses
from kdlab.exercises.cases import labels, normal, shifted
from kdlab.exercises.exercise import Case, Exercise, Invariance, Question, wrong

_FROZEN = (
    "A gradient reaches the teacher's classifier, which would move towards the student. Detach `weight` "
)


def _stage_logits(projected: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(losses.gap(projected), weight.detach(), bias.detach())


def _stage_cases() -> list[Case]:
    def case(label: str, q: Tensor, classes: int, seed: int, **kind: Any) -> Case:
        weight = normal(classes, q.shape[1], seed=seed, scale=0.5).to(q.dtype)
        bias = normal(classes, seed=seed + 1).to(q.dtype)
        sizes = {"B": q.shape[0], "C": classes, "P": q.shape[2] * q.shape[3]}
        return Case(label, (q, weight, bias), sizes, **kind)

    return [
        case("one picture, a map of two channels of 1 x 2", normal(1, 2, 1, 2, seed=1), 3, 10),
        case("five pictures, maps of 3 x 4", normal(5, 4, 3, 4, seed=2), 7, 20),
        case("as many classes as channels", normal(3, 6, 2, 2, seed=3), 6, 30),
        case("tensors of float64", normal(4, 3, 2, 3, seed=4).double(), 5, 40, plain=False),
        case("tensors that are not contiguous", normal(4, 3, 2, 3, seed=5).mT, 5, 50, plain=False),
    ]


def _simkd(student_map: Tensor, teacher_map: Tensor, weight: Tensor) -> Tensor:
    aligned, target = losses.align(student_map, teacher_map.detach())
    return losses.feature_mse(F.conv2d(aligned, weight).relu(), target)


def _simkd_cases() -> list[Case]:
    def case(label: str, s: Tensor, t: Tensor, seed: int, **kind: Any) -> Case:
        weight = normal(t.shape[1], s.shape[1], 1, 1, seed=seed, scale=0.5).to(s.dtype)
        height, width = (min(s.shape[k], t.shape[k]) for k in (2, 3))
        return Case(label, (s, t.relu(), weight), {"B": s.shape[0], "D": t.shape[1] * height * width}, **kind)

    wide_s, wide_t = normal(3, 4, 4, 6, seed=3), normal(3, 5, 4, 6, seed=4)
    return [
        case("two pictures, maps of 1 x 1", normal(2, 2, 1, 1, seed=1), normal(2, 3, 1, 1, seed=2), 10),
        case("maps of 3 pictures", wide_s, wide_t, 20),
        case(
            "a student's map of 8 x 8 and a teacher's of 4 x 4",
            normal(2, 3, 8, 8, seed=5),
            normal(2, 4, 4, 4, seed=6),
            30,
        ),
        case(
            "a student's map of 4 x 4 and a teacher's of 8 x 8",
            normal(2, 4, 4, 4, seed=7),
            normal(2, 3, 8, 8, seed=8),
            40,
        ),
        case("tensors of float64", wide_s.double(), wide_t.double(), 50, plain=False),
        case("tensors that are not contiguous", wide_s.mT, wide_t.mT, 60, plain=False),
    ]


def _cmkd(
    student_logits: Tensor,
    pseudo_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    feature: Tensor,
    alpha: float,
    beta: float,
    gamma: float,
) -> Tensor:
    taught = teacher_logits.detach()
    guided = losses.kd(student_logits, pseudo_logits, 3.0) + losses.kd(student_logits, taught, 4.0)
    guided = guided + alpha * losses.kd(pseudo_logits, taught, 4.0) + gamma * feature
    return losses.cross_entropy(student_logits, target) + beta * guided


def _cmkd_cases() -> list[Case]:
    def case(label: str, logits: list[Tensor], y: Tensor, options: tuple[float, ...], **kind: object) -> Case:
        feature = torch.tensor(0.35, dtype=logits[0].dtype)
        return Case(label, (*logits, y, feature, *options), {}, **kind)  # type: ignore[arg-type]

    def three(batch: int, classes: int, seed: int) -> list[Tensor]:
        return [normal(batch, classes, seed=seed + k) for k in range(3)]

    small = [torch.tensor(row) for row in ([[2.0, 1.0, 0.0]], [[3.0, 1.0, 1.0]], [[4.0, 1.0, 0.5]])]
    wide = three(5, 7, 1)
    huge = [1e4 * torch.tensor(row) for row in ([[1.0, -1.0, 0.0]], [[0.0, 1.0, -1.0]], [[-1.0, 0.0, 1.0]])]
    rare = {"plain": False}
    return [
        case("one picture of three classes", small, torch.tensor([0]), (0.5, 1.0, 15.0)),
        case("five pictures, the weights for WRNs", wide, labels(5, 7, 9), (3.0, 1.0, 3.0)),
        case("beta = 0.5", three(4, 10, 20), labels(4, 10, 29), (0.5, 0.5, 2.0)),
        case("beta = 0: plain training", three(3, 4, 30), labels(3, 4, 39), (0.5, 0.0, 15.0), **rare),
        case("tensors of float64", [x.double() for x in wide], labels(5, 7, 8), (0.5, 1.0, 15.0), **rare),
        case("logits of 10000", huge, torch.tensor([2]), (0.5, 1.0, 15.0), **rare, property="stability"),
    ]


_STAGE_LOGITS = Exercise(
    name="stage_logits",
    notebook=5,
    title="What a student's stage says through the teacher's classifier",
    task="`projected` (B, c, h, w) is a student's map after the projector. Average it over its positions and "
    "send it through the teacher's linear classifier (weight (C, c), bias (C,)): return the logits (B, C). "
    "In CMKD those of the deepest stage are the pseudo-teacher. The classifier is frozen, and the gradient "
    "passes through it.",
    reference=_stage_logits,
    cases=_stage_cases,
    kind="tensor",
    learns=(0,),
    frozen=(1, 2),
    source="""
def stage_logits(projected, weight, bias):
    averaged = projected.mean(dim=(2, 3))
    return F.linear(averaged, weight.detach(), bias.detach())
""",
    hints=(
        "A linear classifier reads one vector for each picture. How does the teacher itself turn its last "
        "map into a vector?",
        "Global average pooling: the mean over height and width, (B, c, h, w) -> (B, c). Then h W' + b.",
        "`F.linear(...)` on the averaged map, with `weight.detach()` and `bias.detach()` (not the result).",
    ),
    mistakes=(
        wrong(
            "gradient",
            "The logits are cut off (detached, or made under `torch.no_grad()`), so neither projector nor "
            "student learns. Detach the classifier's weight and bias instead.",
            ("bias.detach())", "bias.detach()).detach()"),
        ),
        wrong(
            "teacher",
            _FROZEN + "and `bias`.",
            ("weight.detach(), bias.detach()", "weight, bias"),
        ),
        wrong(
            "reduction",
            "You sum over the positions of the map. Take their mean, as the teacher does.",
            ("projected.mean(dim=(2, 3))", "projected.sum(dim=(2, 3))"),
        ),
        wrong(
            "value",
            "You take the largest value of each channel. Take the mean over the positions.",
            ("projected.mean(dim=(2, 3))", "projected.amax(dim=(2, 3))"),
        ),
        wrong("value", "The bias of the classifier is not used.", (", bias.detach())", ")")),
        wrong(
            "value",
            "You return probabilities. Logits are asked for: leave the softmax out.",
            (
                "return F.linear(averaged, weight.detach(), bias.detach())",
                "return F.linear(averaged, weight.detach(), bias.detach()).softmax(dim=1)",
            ),
        ),
    ),
)

_SIMKD = Exercise(
    name="simkd",
    notebook=5,
    title="SimKD: one squared difference",
    task="Average-pool the larger of the two maps to the size of the smaller one. Then project the student's "
    "map: here by a 1 x 1 convolution (weight (c_t, c_s, 1, 1)) and a ReLU. Return the mean squared "
    "difference from the teacher's map over all elements. (Chen et al., CVPR 2022; kdlab's own projector has "
    "three convolutions with BatchNorm.)",
    reference=_simkd,
    cases=_simkd_cases,
    learns=(0, 2),
    frozen=(1,),
    source="""
def simkd(student_map, teacher_map, weight):
    size = (min(student_map.shape[2], teacher_map.shape[2]), min(student_map.shape[3], teacher_map.shape[3]))
    student = F.adaptive_avg_pool2d(student_map, size)
    teacher = F.adaptive_avg_pool2d(teacher_map.detach(), size)
    projected = F.conv2d(student, weight).relu()
    return (projected - teacher).square().mean()
""",
    hints=(
        "Three steps: the same size, the same channels, the difference. Which of them concerns both maps?",
        "`F.adaptive_avg_pool2d` to the smaller height and width leaves a map that fits as it is. "
        "`F.conv2d` then gives the student the teacher's channels.",
        "((projected) - (teacher)) squared, `.mean()`; projected = F.conv2d(pooled student, weight).relu(), "
        "and the teacher detached. No labels and no logits anywhere.",
    ),
    mistakes=(
        wrong(
            "gradient",
            "The student's map is detached: the projector would learn, and the student not.",
            ("F.adaptive_avg_pool2d(student_map,", "F.adaptive_avg_pool2d(student_map.detach(),"),
        ),
        wrong(
            "gradient",
            "The projector is detached. It is trained together with the student.",
            ("F.conv2d(student, weight)", "F.conv2d(student, weight.detach())"),
        ),
        wrong("teacher", "A gradient reaches `teacher_map`: use `teacher_map.detach()`.", (".detach()", "")),
        wrong(
            "reduction",
            "You sum over all elements. Take the mean.",
            (".square().mean()", ".square().sum()"),
        ),
        wrong(
            "reduction",
            "You sum over channels and positions and average over the batch alone. Take the mean over "
            "everything.",
            (".square().mean()", ".square().flatten(1).sum(dim=1).mean()"),
        ),
        wrong("value", "The ReLU behind the convolution is missing.", (".relu()", "")),
        wrong(
            "value",
            "You compare the averages of the maps. SimKD compares the maps themselves, place by place.",
            ("(projected - teacher)", "(projected.mean(dim=(2, 3)) - teacher.mean(dim=(2, 3)))"),
        ),
        wrong(
            "value",
            "You pool behind the projector. Pool the student's map first: a ReLU and a mean do not commute.",
            ("student = F.adaptive_avg_pool2d(student_map, size)", "student = student_map"),
            (
                "F.conv2d(student, weight).relu()",
                "F.adaptive_avg_pool2d(F.conv2d(student, weight).relu(), size)",
            ),
        ),
        wrong(
            "value",
            "You bring the student's map to the teacher's size. Where the teacher's is larger, pool that.",
            (
                "size = (min(student_map.shape[2], teacher_map.shape[2]), "
                "min(student_map.shape[3], teacher_map.shape[3]))",
                "size = tuple(teacher_map.shape[2:])",
            ),
        ),
        wrong("value", "The difference is not squared.", (".square()", ".abs()")),
    ),
)

_CMKD = Exercise(
    name="cmkd",
    notebook=5,
    title="The sum of CMKD, and whom it pulls",
    task="Write CMKD's loss for one tapped stage: CE(student) + beta * (KL_3(student <- pseudo) + alpha * "
    "KL_4(pseudo <- teacher) + KL_4(student <- teacher) + gamma * feature). KL_tau(a <- t) is the KD loss at "
    "temperature tau with target t, as in `kd`; `feature` is a number that is given. The pseudo-teacher's "
    "logits are *not* detached anywhere, the teacher's are.",
    reference=_cmkd,
    cases=_cmkd_cases,
    learns=(0, 1, 4),
    frozen=(2,),
    invariances=(
        Invariance("Adding one number to all logits of a picture changes no probability", shifted(1)),
    ),
    source="""
def cmkd(student_logits, pseudo_logits, teacher_logits, target, feature, alpha, beta, gamma):
    def kl(answer, goal, tau):
        log_goal, log_answer = F.log_softmax(goal / tau, dim=1), F.log_softmax(answer / tau, dim=1)
        return tau**2 * (log_goal.exp() * (log_goal - log_answer)).sum(dim=1).mean()

    teacher = teacher_logits.detach()
    pseudo = kl(student_logits, pseudo_logits, 3)
    stage_kd = kl(pseudo_logits, teacher, 4)
    kd = kl(student_logits, teacher, 4)
    guided = pseudo + alpha * stage_kd + kd + gamma * feature
    return F.cross_entropy(student_logits, target) + beta * guided
""",
    hints=(
        "Write KL_tau once as a function of (answer, goal, tau), and call it three times. Who is the goal in "
        "each?",
        "The pseudo-teacher is the goal of one term and the answer of another. It is detached in neither, so "
        "your KL must not detach its goal by itself: detach the teacher's logits outside. "
        "`kdlab.losses.kd(answer, goal, tau)` is such a KL.",
        "ce + beta * (kl(student, pseudo, 3) + alpha * kl(pseudo, teacher, 4) + kl(student, teacher, 4) + "
        "gamma * feature), with `teacher = teacher_logits.detach()`.",
    ),
    mistakes=(
        wrong(
            "teacher",
            "A gradient reaches `teacher_logits`: detach them.",
            ("teacher_logits.detach()", "teacher_logits"),
        ),
        wrong(
            "temperature",
            "Temperature 4 stands everywhere. The pseudo-teacher speaks at temperature 3.",
            ("kl(student_logits, pseudo_logits, 3)", "kl(student_logits, pseudo_logits, 4)"),
        ),
        wrong(
            "temperature",
            "The two temperatures are exchanged: 3 belongs to the pseudo-teacher's lesson, 4 to the two of "
            "the teacher.",
            ("pseudo_logits, 3)", "pseudo_logits, tau_4)"),
            ("teacher, 4)", "teacher, 3)"),
            ("tau_4", "4"),
        ),
        wrong("temperature", "The factor tau^2 of the KL is missing.", ("tau**2 * ", "")),
        wrong(
            "order",
            "Student and pseudo-teacher are exchanged in the first KL: the pseudo-teacher is the goal there.",
            ("kl(student_logits, pseudo_logits, 3)", "kl(pseudo_logits, student_logits, 3)"),
        ),
        wrong(
            "order",
            "Answer and goal are exchanged in all three KLs: the goal stands in front, in its own "
            "probabilities.",
            ("log_goal.exp() * (log_goal - log_answer)", "log_answer.exp() * (log_answer - log_goal)"),
        ),
        wrong(
            "reduction",
            "You average over the classes too. Sum over them, and take the mean over the pictures.",
            (".sum(dim=1).mean()", ".mean()"),
        ),
        wrong(
            "value",
            "beta weakens the cross-entropy too. It stands before the bracket alone.",
            (
                "F.cross_entropy(student_logits, target) + beta * guided",
                "beta * (F.cross_entropy(student_logits, target) + guided)",
            ),
        ),
        wrong(
            "value",
            "alpha stands at the wrong KL. It weighs the lesson that the teacher gives to the stage.",
            ("pseudo + alpha * stage_kd + kd", "pseudo + stage_kd + alpha * kd"),
        ),
        wrong(
            "value",
            "alpha weighs two KLs. It weighs only the lesson that the teacher gives to the stage.",
            ("pseudo + alpha * stage_kd + kd", "pseudo + alpha * (stage_kd + kd)"),
        ),
        wrong(
            "value",
            "The ordinary KD, from teacher to student, is missing.",
            (" + kd + gamma", " + gamma"),
        ),
        wrong("value", "The pseudo-teacher's lesson is missing.", ("guided = pseudo + ", "guided = ")),
        wrong(
            "stability",
            "`F.kl_div` with probabilities as its target has no finite gradient to it where they are 0, and "
            "your goal learns too. Give it logarithms: `F.log_softmax` and `log_target=True`.",
            (
                "return tau**2 * (log_goal.exp() * (log_goal - log_answer)).sum(dim=1).mean()",
                "return tau**2 * F.kl_div(log_answer, F.softmax(goal / tau, dim=1), reduction='batchmean')",
            ),
        ),
        wrong(
            "slope",
            "The value is right, but the pseudo-teacher is detached as the goal of the student. In CMKD it "
            "is not: this is the extra gradient that pulls the projector towards the student.",
            ("kl(student_logits, pseudo_logits, 3)", "kl(student_logits, pseudo_logits.detach(), 3)"),
        ),
        wrong(
            "slope",
            "The value is right, but the pseudo-teacher is detached where it answers the teacher, so the "
            "teacher's lesson to the stage is lost.",
            ("kl(pseudo_logits, teacher, 4)", "kl(pseudo_logits.detach(), teacher, 4)"),
        ),
    ),
)

_UNREAD = Question(
    name="unread_directions",
    notebook=5,
    title="What a classifier does not read",
    task="A teacher's embedding has 64 numbers, and its linear classifier has 10 classes with linearly "
    "independent rows. In how many independent directions can an embedding move without any change of the "
    "10 logits?",
    source="""
weight = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
answer = 64 - int(torch.linalg.matrix_rank(weight))
""",
    hints=(
        "The logits are W h + b. Which changes of h does W send to 0?",
        "These directions are the null space of W, a matrix of 10 x 64. How large is it if its rank is 10?",
        "The size of the null space is the number of columns minus the rank.",
    ),
    mistakes=(
        ("10", "This is how many directions the classifier does read. The others are asked for."),
        (
            "55",
            "You counted one more, which adds the same number to all logits. That leaves the probabilities "
            "as they are, but not the logits.",
        ),
        ("64", "Then the classifier would read nothing. Its 10 rows each read one direction."),
        ("640", "This is the number of weights. Directions of the embedding are asked for."),
    ),
)

EXERCISES = (_STAGE_LOGITS, _SIMKD, _CMKD)
QUESTIONS = (_UNREAD,)

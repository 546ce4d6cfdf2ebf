"""Exercises on choosing teachers: CA-MKD's confidence, AEKD's direction, GPAC's probes and corrector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdlab import losses
from kdlab.exercises.cases import labels, normal
from kdlab.exercises.exercise import Case, Exercise, Question, wrong
from kdlab.methods.choosing import select


def _labelled_cases() -> list[Case]:
    def case(label: str, teachers: list[Tensor], target: Tensor, **kind: Any) -> Case:
        sizes = {"B": len(target), "C": teachers[0].shape[1], "M": len(teachers)}
        return Case(label, (teachers, target), sizes, **kind)

    pair = [torch.tensor([[4.0, 1.0, 0.0]]), torch.tensor([[1.0, 1.5, 0.5]])]
    three = [normal(5, 7, seed=n, scale=n) for n in (2, 3, 4)]
    huge = 1e4 * torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])
    return [
        case("one picture and two teachers", pair, torch.tensor([0])),
        case("five pictures and three teachers", three, labels(5, 7, 5)),
        case("four teachers", [normal(3, 4, seed=n) for n in (7, 8, 9, 10)], labels(3, 4, 6)),
        case("teachers that agree", [three[0], three[0].clone()], labels(5, 7, 5), plain=False),
        case("tensors of float64", [t.double() for t in three], labels(5, 7, 5), plain=False),
        case("logits of 10000", [huge, -huge], torch.tensor([0, 2]), plain=False, property="stability"),
    ]


_CONFIDENCE_WEIGHT = Exercise(
    name="confidence_weight",
    notebook=8,
    title="Teachers that are right count more",
    task="teacher_logits is a list of M >= 2 tensors (B, C), target holds the B labels. With l_k the "
    "cross-entropy of teacher k on a picture, return the (M, B) weights (1 - softmax_k(l)) / (M - 1): the "
    "softmax runs over the teachers. They are constants: no gradient. (Zhang et al., ICASSP 2022)",
    reference=lambda ts, y: losses.confidence_weights(ts, y).detach(),
    public=losses.confidence_weights,
    cases=_labelled_cases,
    kind="tensor",
    frozen=(0,),
    source="""
def confidence_weight(teacher_logits, target):
    errors = [F.cross_entropy(z.detach(), target, reduction='none') for z in teacher_logits]
    share = F.softmax(torch.stack(errors), dim=0)
    return (1 - share) / (len(teacher_logits) - 1)
""",
    hints=(
        "A small cross-entropy means: sure, and right. Shall such a teacher have a large weight or a "
        "small one?",
        "`F.cross_entropy(z, target, reduction='none')` gives one number a picture. Stack them to (M, B); "
        "the softmax runs over dim 0.",
        "(1 - F.softmax(errors, dim=0)) / (M - 1), with the teachers detached.",
    ),
    mistakes=(
        wrong(
            "teacher",
            "A gradient reaches the teachers. The weights are constants: detach the logits.",
            (".detach()", ""),
        ),
        wrong(
            "result",
            "You average the cross-entropy over the pictures. Each picture has weights of its own: use "
            "`reduction='none'`.",
            (", reduction='none'", ""),
        ),
        wrong(
            "reduction",
            "The weights sum to M - 1. Divide by M - 1, so that they sum to 1.",
            (" / (len(teacher_logits) - 1)", ""),
        ),
        wrong(
            "reduction",
            "You divide by M. The 1 - share sum to M - 1: divide by that.",
            ("(len(teacher_logits) - 1)", "len(teacher_logits)"),
        ),
        wrong(
            "value",
            "It is the other way round: your weights favour the teacher with the larger error.",
            ("(1 - share) / (len(teacher_logits) - 1)", "share"),
        ),
        wrong(
            "value",
            "That is softmax(-l). It is sharper than CA-MKD's weights, which are (1 - softmax(l)) / (M - 1).",
            ("F.softmax(torch.stack(errors), dim=0)", "1 - F.softmax(-torch.stack(errors), dim=0)"),
            (" / (len(teacher_logits) - 1)", ""),
        ),
        wrong(
            "value",
            "Your softmax runs over the pictures. The teachers compete for each picture: dim=0.",
            ("dim=0)", "dim=1)"),
        ),
    ),
)


def _table_cases() -> list[Case]:
    def case(label: str, rows: list[list[float]], **kind: Any) -> Case:
        return Case(label, (torch.tensor(rows),), {"M": len(rows)}, **kind)

    return [
        case("two teachers and three stages", [[0.5, 0.8, 0.9], [0.6, 0.7, 0.95]]),
        case("three teachers and two stages", [[0.3, 0.9], [0.5, 0.8], [0.4, 0.7]]),
        case("one teacher that is best everywhere", [[0.3, 0.4, 0.5], [0.6, 0.7, 0.8]]),
        case("four teachers and one stage", [[0.2], [0.5], [0.9], [0.1]]),
        case("a tie", [[0.5, 0.8], [0.5, 0.9]], plain=False),
    ]


_PROBE_CHOICE = Exercise(
    name="probe_choice",
    notebook=8,
    title="Probes choose a teacher for each stage",
    task="table is an (M, J) tensor: the accuracy of a linear probe on stage j of teacher k. Return (M, J) "
    "shares: for every stage 1 for the best teacher, 0 for all others; of equal ones the first. (GPAC as "
    "reconstructed by kdlab)",
    reference=lambda table: torch.tensor(select(table.tolist(), "best_per_stage"), dtype=table.dtype),
    cases=_table_cases,
    kind="tensor",
    source="""
def probe_choice(table):
    best = table.argmax(dim=0)
    return F.one_hot(best, len(table)).T.to(table.dtype)
""",
    hints=(
        "Every stage chooses for itself. So what do the numbers of one *column* of the result sum to?",
        "`table.argmax(dim=0)` names the best teacher of each stage, (J,). How do you write these names as "
        "columns with a single 1?",
        "`F.one_hot(best, M)` is (J, M): turn it round, and make it of the table's dtype.",
    ),
    mistakes=(
        wrong(
            "result",
            "Your result has a row for each stage. It shall look like the table: (M, J).",
            (".T.to", ".to"),
        ),
        wrong(
            "value",
            "You chose one teacher for all stages, the best on average. Each stage chooses for itself.",
            ("table.argmax(dim=0)", "table.mean(dim=1).argmax().repeat(table.shape[1])"),
        ),
        wrong(
            "value",
            "You chose the worst teacher of each stage.",
            ("argmax", "argmin"),
        ),
        wrong(
            "value",
            "You marked the best *stage* of each teacher. The best *teacher* of each stage is asked: look "
            "along dim 0.",
            ("best = table.argmax(dim=0)", "best = table.argmax(dim=1)"),
            ("F.one_hot(best, len(table)).T", "F.one_hot(best, table.shape[1])"),
        ),
        wrong(
            "value",
            "Where two teachers are equal you chose both. Take the first: the shares of a stage sum to 1.",
            ("F.one_hot(best, len(table)).T", "(table == table.amax(dim=0))"),
        ),
    ),
)


def _corrector(student: Tensor, teacher: Tensor, w: float, tau: float) -> Tensor:
    with torch.enable_grad():
        scale = torch.tensor(w, dtype=student.dtype, requires_grad=True)
        value = losses.corrected_kd(student.detach(), teacher.detach(), scale, tau)
        return torch.autograd.grad(value, scale)[0]


def _corrector_cases() -> list[Case]:
    def case(label: str, s: Tensor, t: Tensor, w: float, tau: float, **kind: Any) -> Case:
        return Case(label, (s, t, w, tau), {"B": s.shape[0], "C": s.shape[1], "tau": tau}, **kind)

    s, t = normal(5, 7, seed=1), normal(5, 7, seed=2)
    small = torch.tensor([[2.0, 1.0, 0.0], [0.5, 1.5, 0.0]]), torch.tensor([[4.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    return [
        case("two pictures of three classes", *small, 1.0, 4.0),
        case("five pictures", s, t, 1.0, 2.0),
        case("a scale of 1.7", s, t, 1.7, 4.0),
        case("temperature 1", normal(3, 4, seed=3), normal(3, 4, seed=4), 0.5, 1.0),
        case("a student that is the teacher, but flatter", t / 2, t, 1.0, 4.0),
        case("tensors of float64", s.double(), t.double(), 1.3, 4.0, plain=False),
        case("a student that needs w = 2, at w = 2", t / 2, t, 2.0, 4.0, plain=False),
    ]


_CORRECTOR_SLOPE = Exercise(
    name="corrector_slope",
    notebook=8,
    title="Where the corrector wants to go",
    task="GPAC's kd_k = tau^2 mean_b KL(softmax(z_k / tau) || softmax(w z_s / tau)) has a scale w. Return "
    "its derivative with respect to w, without autograd: tau times the batch mean of E_p[z_s] - E_q[z_s], "
    "with p = softmax(w z_s / tau), q = softmax(z_k / tau), and E_p[z] = sum_c p_c z_c. (GPAC as "
    "reconstructed by kdlab)",
    reference=_corrector,
    cases=_corrector_cases,
    kind="number",
    source="""
def corrector_slope(student_logits, teacher_logits, w, temperature):
    p = F.softmax(w * student_logits / temperature, dim=1)
    q = F.softmax(teacher_logits / temperature, dim=1)
    gap = ((p - q) * student_logits).sum(dim=1)
    return temperature * gap.mean()
""",
    hints=(
        "It compares two averages of the same numbers z_s: once with the student's own probabilities, once "
        "with the teacher's. When they are equal, w stays.",
        "p and q are (B, C). (p - q) * z_s, summed over the classes, is one number a picture; then the mean "
        "over the batch.",
        "temperature * ((p - q) * student_logits).sum(dim=1).mean(); do not forget w inside p.",
    ),
    mistakes=(
        wrong(
            "value",
            "w is not used: p is the softmax of w z_s / tau.",
            ("w * student_logits / temperature", "student_logits / temperature"),
        ),
        wrong("value", "The sign is wrong: the student's mean comes first.", ("(p - q)", "(q - p)")),
        wrong(
            "temperature",
            "The factor tau is missing: tau^2 of the loss, divided by tau from inside the softmax.",
            ("return temperature * ", "return "),
        ),
        wrong(
            "temperature",
            "The factor is tau, not tau^2: the derivative of w z_s / tau brings 1 / tau.",
            ("return temperature * ", "return temperature**2 * "),
        ),
        wrong(
            "reduction",
            "You averaged over the classes too. Sum over them.",
            (".sum(dim=1)\n", ".mean(dim=1)\n"),
        ),
        wrong(
            "value",
            "You averaged the teacher's own logits. Both averages are of the *student's* logits.",
            (
                "((p - q) * student_logits).sum(dim=1)",
                "(p * student_logits).sum(dim=1) - (q * teacher_logits).sum(dim=1)",
            ),
        ),
        wrong(
            "value",
            "You averaged w z_s. The derivative has z_s alone; w stands only inside p.",
            ("((p - q) * student_logits)", "((p - q) * w * student_logits)"),
        ),
    ),
)


def _mix(first: Tensor, second: Tensor, cap: float) -> Tensor:
    return losses.shortest_mix(torch.stack([first, second]), cap)[0]


_TWO_TEACHER_MIX = Exercise(
    name="two_teacher_mix",
    notebook=8,
    title="The shortest compromise",
    task="Two teachers pull the student's logits with gradients g_1 and g_2, both (C,). AEKD takes the "
    "weight a of the first, between 1 - cap and cap, for which a g_1 + (1 - a) g_2 is shortest. Return a: it "
    "has a closed form, g_2 . (g_2 - g_1) / |g_1 - g_2|^2, brought into the allowed interval. For g_1 = g_2 "
    "return 1/2. (Du et al., NeurIPS 2020)",
    reference=_mix,
    public=losses.shortest_mix,
    cases=lambda: [
        Case("two directions at a right angle", (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]), 1.0)),
        Case("opposite directions", (torch.tensor([3.0, 0.0]), torch.tensor([-1.0, 0.0]), 1.0)),
        Case("a cap of 0.6", (torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 3.0, 0.0]), 0.6)),
        Case("the same direction, one longer", (torch.tensor([1.0, 1.0]), torch.tensor([3.0, 3.0]), 1.0)),
        Case("random directions", (normal(7, seed=1), normal(7, seed=2), 0.9)),
        Case("a cap of 0.6, the other way", (normal(7, seed=1), 0.1 * normal(7, seed=2), 0.6)),
        Case("equal directions", (torch.ones(3), torch.ones(3), 0.6), plain=False, property="stability"),
    ],
    kind="number",
    source="""
def two_teacher_mix(g_1, g_2, cap):
    apart = g_1 - g_2
    length = (apart @ apart).item()
    if length == 0:
        return 0.5
    a = -(g_2 @ apart).item() / length
    return min(max(a, 1 - cap), cap)
""",
    hints=(
        "The compromise moves on the line between g_1 and g_2. Which point of a line is nearest to the "
        "origin?",
        "Without limits a = g_2 . (g_2 - g_1) / |g_1 - g_2|^2. It may lie outside of [1 - cap, cap]: then "
        "the nearest end is right, because the length grows away from the best point.",
        "min(max(a, 1 - cap), cap), and 1/2 where the difference is 0.",
    ),
    mistakes=(
        wrong(
            "value",
            "The cap is not used: a may lie outside of [1 - cap, cap].",
            ("min(max(a, 1 - cap), cap)", "a"),
        ),
        wrong(
            "value",
            "You cut a at 0 and 1, and not at 1 - cap and cap.",
            ("min(max(a, 1 - cap), cap)", "min(max(a, 0), 1)"),
        ),
        wrong(
            "value",
            "This is the weight of the second teacher. That of the first is asked for.",
            ("a = -(g_2 @ apart).item() / length", "a = (g_1 @ apart).item() / length"),
        ),
        wrong(
            "value",
            "You weigh by the lengths alone. Directions count, too: look for the point of the line through "
            "g_1 and g_2 that is nearest to the origin.",
            ("a = -(g_2 @ apart).item() / length", "a = (g_2.norm() / (g_1.norm() + g_2.norm())).item()"),
        ),
        wrong(
            "value",
            "You divide by the length of the difference. Divide by its square.",
            ("(apart @ apart).item()", "(apart @ apart).sqrt().item()"),
        ),
        wrong(
            "stability",
            "For two equal gradients 0 is divided by 0. Every a is as good there: return 1/2.",
            ("if length == 0:", "if False:"),
            ("(apart @ apart).item()", "(apart @ apart)"),
        ),
    ),
)

EXERCISES = (_CONFIDENCE_WEIGHT, _TWO_TEACHER_MIX, _PROBE_CHOICE, _CORRECTOR_SLOPE)

QUESTIONS = (
    Question(
        name="certain_and_wrong",
        notebook=8,
        title="A teacher that is certain and wrong",
        task="A teacher is certain about a picture, and wrong. Which method gives it the largest weight? "
        "'AVER', 'EBKD' or 'CA-MKD'",
        source='answer = "EBKD"\n',
        options=("AVER", "EBKD", "CA-MKD"),
        hints=(
            "Which of the three knows the label when it weighs a teacher?",
            "AVER gives 1/M to everybody. What does a small entropy do to the weight of EBKD?",
            "Entropy says how sure a teacher is, and nothing on whether it is right.",
        ),
        mistakes=(
            ("AVER", "AVER gives 1/M, whatever a teacher says. One method gives it more than that."),
            ("CA-MKD", "CA-MKD looks at the cross-entropy with the label, which is large here."),
        ),
    ),
    Question(
        name="probe_error",
        notebook=8,
        title="How sure is the choice of a probe?",
        task="A probe is right on 95 % of 269 held-out pictures. What is the standard error of this "
        "accuracy, in percentage points? (Square root of p (1 - p) / n.)",
        source="answer = 100 * (0.95 * 0.05 / 269) ** 0.5\n",
        hints=(
            "Each picture is a coin that shows 'right' with probability p. How much does the mean of n "
            "coins vary?",
            "sqrt(p (1 - p) / n) is a share from 0 to 1. The question asks for percentage points.",
            "100 * (0.95 * 0.05 / 269) ** 0.5",
        ),
        mistakes=(
            ("answer / 100", "This is a share from 0 to 1. Multiply by 100."),
            ("100 * 0.95 * 0.05 / 269", "The square root is missing."),
            ("100 * (0.95 * 0.05) ** 0.5", "This is the spread of one picture. Divide by n inside the root."),
        ),
    ),
)

"""Exercises on what relations do not see, and on the contrast of CRD."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdlab.exercises.cases import normal
from kdlab.exercises.exercise import Case, Exercise, Question, wrong
from kdlab.losses import noise_contrastive


def _crd_cases() -> list[Case]:
    def case(label: str, positive: Tensor, negative: Tensor, z: float, c: float, **kind: Any) -> Case:
        sizes = {"B": negative.shape[0], "K": negative.shape[1]}
        return Case(label, (positive, negative, z, c, 0.07), sizes, **kind)

    many = torch.tanh(normal(6, 20, seed=1, scale=0.3))
    own = torch.tanh(normal(6, seed=2, scale=0.3) + 0.6)
    return [
        case("one picture and two negatives", torch.tensor([0.5]), torch.tensor([[0.1, -0.2]]), 50.0, 0.2),
        case("six pictures and 20 negatives", own, many, 40.0, 0.4),
        case("four pictures, another Z and c", own[:4], many[:4, :9], 7.0, 0.9),
        case("tensors of float64", own.double(), many.double(), 40.0, 0.4, plain=False),
        case("tensors that are not contiguous", own[:4], many.T[:4, :6], 40.0, 0.4, plain=False),
    ]


def _reference(positive: Tensor, negative: Tensor, z: float, c: float, temperature: float) -> Tensor:
    normaliser = torch.tensor(z, dtype=positive.dtype)
    return noise_contrastive(positive, negative, normaliser, c, temperature=temperature)


_CRD = Exercise(
    name="crd_side",
    notebook=4,
    title="One side of the contrast",
    task="`positive` (B,) holds the cosine of each picture with itself in the other network, `negative` "
    "(B, K) those with pictures of other classes. With o = exp(cosine / temperature) / z, the probability "
    "that a pair is a true one is h = o / (o + c). Return - (mean over the batch of [log h of the positive + "
    "sum over the K negatives of log(1 - h)]). (Tian, Krishnan, Isola, ICLR 2020)",
    reference=_reference,
    cases=_crd_cases,
    learns=(0, 1),
    source="""
def crd_side(positive, negative, z, c, temperature):
    def probability(cosine):
        o = torch.exp(cosine / temperature) / z
        return o / (o + c)

    hit = probability(positive).log()
    missed = (1 - probability(negative)).log().sum(dim=1)
    return -(hit + missed).mean()
""",
    hints=(
        "Two kinds of pairs, and one question for each: is this a true pair? For which of them is the right "
        "answer no?",
        "Make h for both by the same function. Positives give log h, negatives log(1 - h).",
        "-(log h(positive) + log(1 - h(negative)).sum(dim=1)).mean(), with o = exp(cosine / temperature) "
        "/ z.",
    ),
    mistakes=(
        wrong(
            "reduction",
            "You average over the negatives. Sum over them, and average over the batch.",
            (".sum(dim=1)", ".mean(dim=1)"),
        ),
        wrong(
            "reduction",
            "You sum over the batch. Take the mean over the pictures.",
            (".mean()", ".sum()"),
        ),
        wrong(
            "gradient",
            "The negatives are missing: a network that finds all pictures alike would win.",
            ("(hit + missed)", "hit"),
        ),
        wrong(
            "gradient",
            "The positives are missing: a network that finds no pictures alike would win.",
            ("(hit + missed)", "missed"),
        ),
        wrong(
            "value",
            "Negatives are told from positives by log(1 - h), and you take log h for both.",
            ("(1 - probability(negative))", "probability(negative)"),
        ),
        wrong("value", "The sign is missing: a loss is what becomes small.", ("-(hit", "(hit")),
        wrong(
            "value",
            "The temperature is missing: divide the cosines by it before `exp`.",
            ("cosine / temperature", "cosine"),
        ),
        wrong("value", "The normaliser z is missing: o = exp(...) / z.", (") / z", ")")),
        wrong(
            "value",
            "You multiply by z. o = exp(...) / z is small for a large z.",
            (") / z", ") * z"),
        ),
        wrong(
            "value",
            "In h = o / (o + c) you left c out, or took 1 for it.",
            ("(o + c)", "(o + 1)"),
        ),
        wrong(
            "value",
            "You take the softmax over positive and negatives (InfoNCE). In CRD every pair is a yes-or-no "
            "question of its own.",
            (
                "return -(hit + missed).mean()",
                "scores = torch.cat([positive[:, None], negative], dim=1) / temperature\n"
                "    return -F.log_softmax(scores, dim=1)[:, 0].mean()",
            ),
        ),
    ),
)

_ROW_SCALE = Question(
    name="row_scale",
    notebook=4,
    title="A louder picture",
    task="The student's vector of one picture is multiplied by 10, all others stay. Which of these losses "
    "keeps its value? 'SP', 'RKD' or 'PKT'",
    source='answer = "PKT"\n',
    options=("SP", "RKD", "PKT"),
    hints=(
        "Which of the three divides every single vector by its own length?",
        "RKD divides all distances by one number. SP divides a row of X X', which holds products with other "
        "vectors, too.",
        "A cosine does not know how long its vectors are. Which loss begins with cosines?",
    ),
    mistakes=(
        (
            "SP",
            "The row of that picture is normalised, but its column stands in all other rows: there one entry "
            "grows by 10.",
        ),
        ("RKD", "RKD forgives one common factor for all vectors. A single longer vector moves a point."),
    ),
)

_SCALE_SLOPE = Question(
    name="scale_slope",
    notebook=4,
    title="The price of not seeing the scale",
    task="RKD's distance loss does not change when all embeddings of the student are multiplied by 10. By "
    "what factor does its gradient with respect to these embeddings change?",
    source="""
from kdlab import losses

g = torch.Generator().manual_seed(0)
student, teacher = (torch.randn(8, 5, generator=g, dtype=torch.float64) for _ in range(2))


def slope(x):
    x = x.clone().requires_grad_()
    losses.rkd_distance(x, teacher).backward()
    return x.grad.norm()


answer = float(slope(10 * student) / slope(student))
""",
    hints=(
        "f(10 x) = f(x) for every x. What comes out if you take the derivative of both sides by x?",
        "The chain rule on the left gives 10 f'(10 x), the right side is f'(x).",
        "So f'(10 x) = f'(x) / 10.",
    ),
    mistakes=(
        ("1", "The value stays, but not the slope: take the derivative of f(10 x) = f(x)."),
        ("10", "The other way round: on the larger scale the same change of shape needs longer ways."),
        ("100", "The factor is not squared, and it is the other way round."),
        ("0.01", "The factor comes in once, by the chain rule, not twice."),
        ("0", "The loss still has a slope; only the direction 'larger' has none."),
    ),
)

EXERCISES = (_CRD,)
QUESTIONS = (_ROW_SCALE, _SCALE_SLOPE)

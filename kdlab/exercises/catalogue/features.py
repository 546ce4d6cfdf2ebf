"""Exercises on feature maps: attention maps and their transfer, the hint of FitNet, SRRL."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdlab import losses
from kdlab.exercises.cases import map_cases, normal, scaled
from kdlab.exercises.exercise import Case, Exercise, Invariance, wrong

_SCALE = "Multiplying a map by a number does not change where it is active"


def _hint_cases() -> list[Case]:
    def case(label: str, s: Tensor, t: Tensor, seed: int, **kind: Any) -> Case:
        weight = normal(t.shape[1], s.shape[1], 1, 1, seed=seed, scale=0.5).to(s.dtype)
        bias = normal(t.shape[1], seed=seed + 1).to(s.dtype)
        sizes = {"B": s.shape[0], "D": t[0].numel()}
        return Case(label, (s, t, weight, bias), sizes, **kind)

    wide_s, wide_t = normal(3, 4, 4, 6, seed=3), normal(3, 5, 4, 6, seed=4)
    return [
        case("two pictures, maps of 1 x 1", normal(2, 2, 1, 1, seed=1), normal(2, 3, 1, 1, seed=2), 10),
        case("maps of 3 pictures", wide_s, wide_t, 20),
        case("maps of 5 pictures", normal(5, 2, 3, 3, seed=5), normal(5, 6, 3, 3, seed=6), 30),
        case("a batch of one", normal(1, 2, 3, 2, seed=7), normal(1, 3, 3, 2, seed=8), 40),
        case("tensors of float64", wide_s.double(), wide_t.double(), 50, plain=False),
        case("tensors that are not contiguous", wide_s.mT, wide_t.mT, 60, plain=False),
    ]


def _srrl_cases() -> list[Case]:
    def case(label: str, h: Tensor, classes: int, seed: int, **kind: Any) -> Case:
        weight = normal(classes, h.shape[1], seed=seed, scale=0.5).to(h.dtype)
        bias = normal(classes, seed=seed + 1).to(h.dtype)
        logits = normal(h.shape[0], classes, seed=seed + 2).to(h.dtype)
        return Case(label, (h, weight, bias, logits), {"B": h.shape[0], "C": classes}, **kind)

    return [
        case("two pictures, two features, three classes", normal(2, 2, seed=1), 3, 10),
        case("five pictures", normal(5, 4, seed=2), 7, 20),
        case("a batch of one", normal(1, 6, seed=3), 10, 30),
        case("tensors of float64", normal(4, 3, seed=4).double(), 5, 40, plain=False),
        case("tensors that are not contiguous", normal(3, 4, seed=5).T, 5, 50, plain=False),
    ]


_ATTENTION_MAP = Exercise(
    name="attention_map",
    notebook=3,
    title="Where a feature map is active",
    task="From a map (B, c, h, w) make (B, h*w): the mean over the channels of the squared values, "
    "flattened, and each row divided by its length (its L2 norm). (Zagoruyko, Komodakis, ICLR 2017)",
    reference=losses.attention_map,
    public=losses.attention_map,
    cases=lambda: map_cases(pair=False),
    kind="tensor",
    learns=(0,),
    invariances=(Invariance(_SCALE, scaled(0)),),
    source="""
def attention_map(feature_map):
    energy = feature_map.square().mean(dim=1).flatten(1)
    return F.normalize(energy, dim=1)
""",
    hints=(
        "The channels disappear and the positions stay. Which dimension of (B, c, h, w) do you average over?",
        "Square, mean over dim 1, `flatten(1)`: this is (B, h*w). Then divide each row by its norm.",
        "`F.normalize(energy, dim=1)` divides by the norm and leaves a row of zeros as it is.",
    ),
    mistakes=(
        wrong(
            "result",
            "You return (B, h, w). Flatten the positions: (B, h*w), by `.flatten(1)`.",
            (".flatten(1)\n", "\n"),
            ("F.normalize(energy, dim=1)", "F.normalize(energy.flatten(1), dim=1).reshape(energy.shape)"),
        ),
        wrong(
            "result",
            "You average over the positions, which leaves the channels. Average over the channels (dim 1).",
            ("mean(dim=1).flatten(1)", "mean(dim=(2, 3))"),
        ),
        wrong(
            "invariance",
            "The rows are not normalised: divide each by its L2 norm, or a map that is larger everywhere "
            "counts as another map.",
            ("F.normalize(energy, dim=1)", "energy"),
        ),
        wrong(
            "value",
            "You divide by the sum. Divide by the L2 norm (the root of the sum of squares).",
            ("F.normalize(energy, dim=1)", "F.normalize(energy, p=1, dim=1)"),
        ),
        wrong(
            "value",
            "You average absolute values. Square the map first.",
            ("feature_map.square()", "feature_map.abs()"),
        ),
        wrong(
            "value",
            "The square is missing, so positive and negative values cancel each other.",
            ("feature_map.square()", "feature_map"),
        ),
        wrong(
            "value",
            "You square after the mean over the channels: positive and negative values have cancelled by "
            "then.",
            ("feature_map.square().mean(dim=1)", "feature_map.mean(dim=1).square()"),
        ),
        wrong(
            "invariance",
            "You use a softmax in place of the norm: the result then depends on the scale of the map.",
            ("F.normalize(energy, dim=1)", "F.softmax(energy, dim=1)"),
        ),
        wrong(
            "value",
            "You normalise over the batch (dim=0). Each picture's map is normalised by itself: dim=1.",
            ("F.normalize(energy, dim=1)", "F.normalize(energy, dim=0)"),
        ),
        wrong(
            "stability",
            "A map of zeros gives 0 / 0. Keep the norm away from 0, as `F.normalize` does.",
            ("F.normalize(energy, dim=1)", "energy / energy.norm(dim=1, keepdim=True)"),
        ),
    ),
)

_AT = Exercise(
    name="at",
    notebook=3,
    title="Attention transfer",
    task="Make the attention maps of student and teacher (as in `attention_map`) and return the mean of "
    "their squared difference over all pictures and positions. Channels may differ. Where sizes differ, the "
    "larger map is average-pooled to the smaller one before anything else.",
    reference=lambda s, t: losses.attention_transfer(s, t.detach()),
    public=losses.attention_transfer,
    cases=lambda: map_cases(pair=True, sizes_differ=True),
    learns=(0,),
    frozen=(1,),
    invariances=(Invariance(_SCALE, scaled(0)), Invariance(_SCALE, scaled(1))),
    atol=1e-7,
    source="""
def at(student_map, teacher_map):
    size = (min(student_map.shape[2], teacher_map.shape[2]), min(student_map.shape[3], teacher_map.shape[3]))

    def attention(feature_map):
        pooled = F.adaptive_avg_pool2d(feature_map, size)
        energy = pooled.square().mean(dim=1).flatten(1)
        return F.normalize(energy, dim=1)

    difference = attention(student_map) - attention(teacher_map.detach())
    return difference.square().mean()
""",
    hints=(
        "The channels vanish in an attention map, so widths may differ; heights may not. Which step makes "
        "them equal, and when?",
        "Pool both to the smaller height and width by `F.adaptive_avg_pool2d` (it leaves an equal size as "
        "it is), then make the attention maps, then compare.",
        "(A_s - A_t).square().mean(), with A = F.normalize(pooled.square().mean(1).flatten(1), dim=1) and "
        "the teacher detached.",
    ),
    mistakes=(
        wrong(
            "teacher",
            "A gradient reaches `teacher_map`: use `teacher_map.detach()`.",
            ("teacher_map.detach()", "teacher_map"),
        ),
        wrong(
            "reduction",
            "You sum over the positions. Take the mean over pictures and positions, which is `.mean()` "
            "alone.",
            ("difference.square().mean()", "difference.square().sum(dim=1).mean()"),
        ),
        wrong(
            "reduction",
            "You sum over pictures and positions. Take the mean.",
            ("difference.square().mean()", "difference.square().sum()"),
        ),
        wrong(
            "invariance",
            "The attention maps are not normalised, so the student is asked to be as loud as the teacher.",
            ("F.normalize(energy, dim=1)", "energy"),
        ),
        wrong(
            "value",
            "You pool after squaring. Average-pool the map itself first: it is another loss otherwise.",
            ("pooled = F.adaptive_avg_pool2d(feature_map, size)", "pooled = feature_map"),
            (
                "energy = pooled.square().mean(dim=1).flatten(1)",
                "energy = F.adaptive_avg_pool2d(pooled.square().mean(dim=1), size).flatten(1)",
            ),
        ),
        wrong("value", "The difference is not squared.", ("difference.square()", "difference.abs()")),
        wrong(
            "value",
            "You take the length of the difference, with the root. The mean of the squares is asked for.",
            ("difference.square().mean()", "difference.norm(dim=1).mean()"),
        ),
    ),
)

_FITNET_HINT = Exercise(
    name="fitnet_hint",
    notebook=3,
    title="The hint of FitNet",
    task="Send the student's map through a 1 x 1 convolution (weight (c_t, c_s, 1, 1), bias (c_t,)) and "
    "return the mean squared difference from the teacher's map over all elements. The regressor learns with "
    "the student. (Romero et al., ICLR 2015; kdlab's own regressor has BatchNorm and ReLU behind the "
    "convolution.)",
    reference=lambda s, t, weight, bias: losses.feature_mse(F.conv2d(s, weight, bias), t.detach()),
    cases=_hint_cases,
    learns=(0, 2, 3),
    frozen=(1,),
    source="""
def fitnet_hint(student_map, teacher_map, weight, bias):
    regressed = F.conv2d(student_map, weight, bias)
    difference = regressed - teacher_map.detach()
    return difference.square().mean()
""",
    hints=(
        "The two maps have different channels. Which of the two is sent through the regressor?",
        "`F.conv2d(student_map, weight, bias)` has the teacher's channels. The difference is then squared "
        "and averaged.",
        "`F.mse_loss(F.conv2d(...), ...)` with the regressed student first and the teacher detached.",
    ),
    mistakes=(
        wrong(
            "gradient",
            "The student's map is detached: the regressor would learn, and the student not.",
            ("F.conv2d(student_map, ", "F.conv2d(student_map.detach(), "),
        ),
        wrong(
            "gradient",
            "The regressor is detached. It is trained together with the student: leave weight and bias as "
            "they are.",
            ("weight, bias)\n    difference", "weight.detach(), bias.detach())\n    difference"),
        ),
        wrong("teacher", "A gradient reaches `teacher_map`: use `teacher_map.detach()`.", (".detach()", "")),
        wrong(
            "reduction",
            "You sum over all elements. Take the mean.",
            ("difference.square().mean()", "difference.square().sum()"),
        ),
        wrong(
            "reduction",
            "You sum over channels and positions and average over the batch alone. Take the mean over "
            "everything.",
            ("difference.square().mean()", "difference.square().flatten(1).sum(dim=1).mean()"),
        ),
        wrong("gradient", "The bias of the regressor is not used.", ("weight, bias)\n", "weight)\n")),
        wrong("value", "The difference is not squared.", ("difference.square()", "difference.abs()")),
        wrong(
            "value",
            "You take the root of the mean. The mean squared difference has none.",
            (".mean()", ".mean().sqrt()"),
        ),
        wrong(
            "value",
            "There is a factor 1/2 in front. It is the plain mean of the squares here.",
            ("difference.square().mean()", "0.5 * difference.square().mean()"),
        ),
    ),
)

_SRRL = Exercise(
    name="srrl",
    notebook=5,
    title="The student's features in the teacher's classifier",
    task="Send the student's embedding (B, d) through the teacher's linear classifier (weight (C, d), bias "
    "(C,)) and return the mean squared difference from the teacher's logits (B, C). The classifier is "
    "frozen, and the gradient passes through it to the student. (Yang et al., ICLR 2021)",
    reference=lambda h, weight, bias, t: losses.feature_mse(
        F.linear(h, weight.detach(), bias.detach()), t.detach()
    ),
    cases=_srrl_cases,
    learns=(0,),
    frozen=(1, 2, 3),
    source="""
def srrl(student_embedding, weight, bias, teacher_logits):
    seen = F.linear(student_embedding, weight.detach(), bias.detach())
    return (seen - teacher_logits.detach()).square().mean()
""",
    hints=(
        "Frozen is not the same as cut off: the classifier must not change, but the student must learn "
        "through it.",
        "`F.linear(h, weight, bias)` is h W' + b. Detach weight and bias, not the result. `torch.no_grad()` "
        "around it would cut the student off.",
        "`F.mse_loss(F.linear(h, weight.detach(), bias.detach()), teacher_logits.detach())`.",
    ),
    mistakes=(
        wrong(
            "gradient",
            "The result of the classifier is cut off (detached, or made under `torch.no_grad()`), so the "
            "student learns nothing. Detach the classifier's weight and bias instead.",
            ("bias.detach())", "bias.detach()).detach()"),
        ),
        wrong(
            "teacher",
            "A gradient reaches the teacher's classifier, which would move towards the student. Detach "
            "weight and bias.",
            ("weight.detach(), bias.detach()", "weight, bias"),
        ),
        wrong(
            "teacher",
            "A gradient reaches `teacher_logits`: detach them.",
            ("teacher_logits.detach()", "teacher_logits"),
        ),
        wrong(
            "reduction",
            "You sum over the classes. Take the mean over pictures and classes.",
            (".square().mean()", ".square().sum(dim=1).mean()"),
        ),
        wrong("value", "The bias of the classifier is not used.", (", bias.detach())", ")")),
        wrong(
            "value",
            "You compare probabilities. SRRL compares logits: leave the softmax out.",
            (
                "(seen - teacher_logits.detach())",
                "(seen.softmax(dim=1) - teacher_logits.detach().softmax(dim=1))",
            ),
        ),
        wrong("value", "The difference is not squared.", (".square()", ".abs()")),
    ),
)

EXERCISES = (_ATTENTION_MAP, _AT, _FITNET_HINT, _SRRL)

"""Exercises on which values of a map matter: OFD's partial distance, VID's variances, AT's weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdlab import losses
from kdlab.exercises.cases import normal
from kdlab.exercises.exercise import Case, Exercise, Question, wrong


def _ofd_cases() -> list[Case]:
    def case(label: str, s: Tensor, t: Tensor, margin: Tensor, **kind: Any) -> Case:
        return Case(label, (s, t, margin.to(s.dtype)), {"B": s.shape[0]}, **kind)

    small_s = torch.tensor([[[[1.0, -3.0], [-0.2, 0.5]]]])
    small_t = torch.tensor([[[[2.0, -1.0], [-1.0, -0.1]]]])
    wide_s, wide_t = normal(3, 4, 4, 6, seed=3), normal(3, 4, 4, 6, seed=4)
    margins = -normal(4, seed=5).abs() - 0.1
    return [
        case("one picture, one channel of 2 x 2", small_s, small_t, torch.tensor([-0.5])),
        case("maps of 3 pictures", wide_s, wide_t, margins),
        case("maps of 5 pictures", normal(5, 2, 3, 3, seed=6), normal(5, 2, 3, 3, seed=7), margins[:2]),
        case("a teacher that is positive everywhere", wide_s, wide_t.abs() + 0.1, margins, plain=False),
        case("margins of 0", wide_s, wide_t, torch.zeros(4), plain=False),
        case("tensors of float64", wide_s.double(), wide_t.double(), margins, plain=False),
        case("tensors that are not contiguous", wide_s.mT, wide_t.mT, margins, plain=False),
    ]


def _vid_cases() -> list[Case]:
    def case(label: str, s: Tensor, t: Tensor, variance: Tensor, **kind: Any) -> Case:
        return Case(label, (s, t, variance.to(s.dtype)), {"B": s.shape[0], "D": t[0].numel()}, **kind)

    wide_s, wide_t = normal(3, 4, 5, 6, seed=3), normal(3, 4, 5, 6, seed=4)
    variance = normal(4, seed=5).abs() + 0.2
    return [
        case("two pictures, maps of 1 x 1", normal(2, 3, 1, 1), normal(2, 3, 1, 1, seed=1), variance[:3]),
        case("maps of 3 pictures", wide_s, wide_t, variance),
        case(
            "square maps, as wide as there are channels", wide_s[..., :4, :4], wide_t[..., :4, :4], variance
        ),
        case("variances of 5, as at the start", wide_s, wide_t, torch.full((4,), 5.0)),
        case("tensors of float64", wide_s.double(), wide_t.double(), variance, plain=False),
        case("tensors that are not contiguous", wide_s.mT, wide_t.mT, variance, plain=False),
    ]


_OFD = Exercise(
    name="ofd",
    notebook=3,
    title="The partial distance of OFD",
    task="Maps (B, c, h, w) before the ReLU, and a margin (c,), not above 0, for each channel. Raise the "
    "teacher to t' = max(teacher, margin of the channel). Return the sum of (student - t')^2 over all places "
    "where student > t' or t' > 0, divided by 1000 B. (Heo et al., ICCV 2019)",
    reference=lambda s, t, margin: losses.ofd(s, t.detach(), margin),
    public=losses.ofd,
    cases=_ofd_cases,
    learns=(0,),
    frozen=(1,),
    source="""
def ofd(student_map, teacher_map, margin):
    target = torch.maximum(teacher_map.detach(), margin[:, None, None])
    counts = (student_map > target) | (target > 0)
    squared = (student_map - target).square()
    return (squared * counts).sum() / (1000 * len(student_map))
""",
    hints=(
        "Where the teacher is negative, its ReLU passes on a 0. Which values of the student are all the same "
        "to it there?",
        "`margin[:, None, None]` has the shape (c, 1, 1) and fits (B, c, h, w). Make the target first, then "
        "a mask of the places that count.",
        "mask = (student > target) | (target > 0); return ((student - target)**2 * mask).sum() / (1000 * B), "
        "the teacher detached.",
    ),
    mistakes=(
        wrong("teacher", "A gradient reaches `teacher_map`: use `teacher_map.detach()`.", (".detach()", "")),
        wrong(
            "reduction",
            "The division by B is missing: the loss would grow with the batch.",
            ("1000 * len(student_map)", "1000"),
        ),
        wrong(
            "reduction",
            "You take the mean over all elements. It is the sum, divided by 1000 B.",
            (".sum() / (1000 * len(student_map))", ".mean()"),
        ),
        wrong("reduction", "The factor 1/1000 is missing.", ("1000 * len(student_map)", "len(student_map)")),
        wrong(
            "value",
            "Every place counts in your loss. Where the teacher is negative, a student below t' costs "
            "nothing.",
            ("squared * counts", "squared"),
        ),
        wrong(
            "value",
            "Only places with a positive target count in your loss. A student above a negative target is "
            "drawn down, too.",
            ("(student_map > target) | (target > 0)", "target > 0"),
        ),
        wrong(
            "value",
            "Only students above the target count in your loss. Where the target is positive, a student "
            "below it is drawn up, too.",
            ("(student_map > target) | (target > 0)", "student_map > target"),
        ),
        wrong(
            "value",
            "You apply the plain ReLU to the teacher. Its negative values go up to the margin, not to 0.",
            ("margin[:, None, None]", "torch.zeros_like(margin)[:, None, None]"),
        ),
        wrong(
            "value",
            "The margin is not used: the student is asked to be as far below 0 as the teacher.",
            ("torch.maximum(teacher_map.detach(), margin[:, None, None])", "teacher_map.detach()"),
        ),
        wrong(
            "value",
            "You take the smaller of teacher and margin. t' is the larger one: `torch.maximum`.",
            ("torch.maximum", "torch.minimum"),
        ),
        wrong("value", "The difference is not squared.", (".square()", ".abs()")),
    ),
)

_VID = Exercise(
    name="vid",
    notebook=3,
    title="The loss of VID",
    task="mu and the teacher's map are (B, c, h, w), and each channel has a variance s_c > 0, together (c,). "
    "Return the mean over all elements of 0.5 * ((mu - teacher)^2 / s_c + log s_c). mu and the variances "
    "learn. (Ahn et al., CVPR 2019)",
    reference=lambda mu, t, variance: losses.vid(mu, t.detach(), variance),
    public=losses.vid,
    cases=_vid_cases,
    learns=(0, 2),
    frozen=(1,),
    source="""
def vid(mu, teacher_map, variance):
    s = variance[:, None, None]
    squared = (mu - teacher_map.detach()).square()
    return 0.5 * (squared / s + s.log()).mean()
""",
    hints=(
        "This is the negative log-likelihood of a Gaussian, without its constant. Which part makes a large "
        "variance cheap, and which makes it expensive?",
        "`variance[:, None, None]` is (c, 1, 1), so that each channel is divided by its own variance.",
        "0.5 * ((mu - t.detach())**2 / s + s.log()), then `.mean()` over everything, with "
        "s = variance[:, None, None].",
    ),
    mistakes=(
        wrong(
            "gradient",
            "The variances are detached and would stay as they are. They learn together with the student.",
            ("variance[:, None, None]", "variance.detach()[:, None, None]"),
        ),
        wrong("teacher", "A gradient reaches `teacher_map`: use `teacher_map.detach()`.", (".detach()", "")),
        wrong(
            "reduction",
            "You sum over all elements. Take the mean.",
            (".mean()", ".sum()"),
        ),
        wrong(
            "value",
            "The part log s_c is missing: then an endless variance would be the best answer.",
            (" + s.log()", ""),
        ),
        wrong("value", "The factor 1/2 is missing.", ("0.5 * (", "(")),
        wrong(
            "value",
            "This is a squared error, weighted by 1 / s_c. The likelihood has the part log s_c, too, and 1/2 "
            "before both.",
            ("0.5 * (squared / s + s.log())", "(squared / s)"),
        ),
        wrong(
            "value",
            "You divide by the square of s_c. s_c is a variance already.",
            ("squared / s", "squared / s**2"),
        ),
        wrong("value", "You multiply by the variance. Divide by it.", ("squared / s", "squared * s")),
        wrong(
            "value",
            "The factor 1/2 stands before the first part alone. It belongs to both.",
            ("0.5 * (squared / s + s.log())", "(0.5 * squared / s + s.log())"),
        ),
        wrong("value", "The difference is not squared.", (".square()", ".abs()")),
    ),
)

_AT_WEIGHT = Question(
    name="at_weight",
    notebook=3,
    title="A weight from another picture size",
    task="In the code of AT each stage gives the mean over the h*w places of (A_s - A_t)^2, where both A "
    "have norm 1, and the weight is 1000. The weight was chosen for maps of 32 x 32, 16 x 16 and 8 x 8. Ours "
    "are 8 x 8, 4 x 4 and 2 x 2. Which weight gives every stage the pull that it had there?",
    source="""
there = [32 * 32, 16 * 16, 8 * 8]
here = [8 * 8, 4 * 4, 2 * 2]
(ratio,) = {h / t for h, t in zip(here, there)}
answer = 1000 * ratio
""",
    hints=(
        "A has norm 1, so the sum of the squared differences lies between 0 and 2 for every size. What does "
        "the mean make of it?",
        "A stage counts with weight / (h w): in the first stage 1000 / 1024 there, and here weight / 64.",
        "Solve weight / 64 = 1000 / 1024. The other two stages give the same.",
    ),
    mistakes=(
        ("250", "You divided by the ratio of the sides, 4. It is the number of places, h*w, that counts."),
        ("16000", "This is the wrong direction: the mean over fewer places is larger, not smaller."),
        ("4000", "This is the wrong direction, and the number of places counts, not the side."),
        ("1000", "The same weight has another effect: a mean over 64 places is not one over 1024."),
    ),
)

EXERCISES = (_OFD, _VID)
QUESTIONS = (_AT_WEIGHT,)

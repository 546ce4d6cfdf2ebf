"""Exercises on the pull of terms: the gradient of one picture, agreement of two terms, share of a term."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kdlab.exercises.cases import normal, scaled
from kdlab.exercises.exercise import Case, Exercise, Invariance, Question, wrong
from kdlab.probes import TermGradients


def _measured(*gradients: Tensor) -> TermGradients:
    """kdlab's own result for terms that all reach one place."""
    names = tuple(f"term{number}" for number in range(len(gradients)))
    found = {(name, "stage1"): g.detach().double().numpy() for name, g in zip(names, gradients)}
    return TermGradients(
        names, ("stage1",), np.ones(len(names)), np.ones(len(names)), found, np.zeros((1, 1))
    )


def _pull_norm(gradient: Tensor) -> float:
    return float(_measured(len(gradient) * gradient).norms()[0, 0])


def _pull_cosine(first: Tensor, second: Tensor) -> float:
    return float(np.nan_to_num(_measured(first, second).cosines()[0, 0, 1]))


def _pull_share(gradients: Tensor) -> Tensor:
    return torch.from_numpy(_measured(*gradients).shares()[:, 0]).to(gradients.dtype)


def _one() -> list[Case]:
    def case(label: str, x: Tensor, plain: bool = True) -> Case:
        return Case(label, (x,), {"B": x.shape[0]}, plain)

    return [
        case("two pictures with two features", torch.tensor([[3.0, 4.0], [0.0, 1.0]])),
        case("gradients at maps of 3 channels", normal(4, 3, 2, 2, seed=1, scale=0.1)),
        case("gradients at an embedding", normal(7, 5, seed=2, scale=0.3)),
        case("a picture without any pull", torch.tensor([[0.0, 0.0], [1.0, -1.0], [2.0, 2.0]])),
        case("tensors of float64", normal(5, 3, seed=3).double(), plain=False),
        case("tensors that are not contiguous", normal(4, 6, seed=4).T, plain=False),
    ]


def _two() -> list[Case]:
    def case(label: str, x: Tensor, y: Tensor, plain: bool = True, property: str = "value") -> Case:
        return Case(label, (x, y), {"B": x.shape[0]}, plain, property)

    wide, other = normal(6, 4, seed=1), normal(6, 4, seed=2)
    uneven = normal(5, 3, seed=5) * torch.tensor([[10.0], [1.0], [0.1], [3.0], [0.5]])
    return [
        case("two pictures", torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, -2.0]])),
        case("six pictures", wide, other),
        case("maps, some pictures with much larger gradients", uneven[..., None, None], normal(5, 3, 1, 1)),
        case("terms that agree", wide, 0.01 * wide),
        case("terms that fight", wide, -2 * wide + 0.3 * other),
        case("a term that does not pull", wide, torch.zeros(6, 4), False, "stability"),
        case("tensors of float64", wide.double(), other.double(), False),
    ]


def _several() -> list[Case]:
    def case(label: str, x: Tensor, plain: bool = True) -> Case:
        return Case(label, (x,), {"M": x.shape[0], "B": x.shape[1]}, plain)

    agree = normal(1, 4, 3, seed=5).expand(3, 4, 3) * torch.tensor([1.0, 2.0, 5.0]).view(3, 1, 1)
    fight = normal(2, 6, 5, seed=6)
    fight[1] = -0.4 * fight[0] + 0.3 * fight[1]
    return [
        case("two terms and one picture", torch.tensor([[[3.0, 0.0]], [[-1.0, 1.0]]])),
        case("three terms", normal(3, 5, 4, seed=1) + 0.7),
        case("three terms that agree", agree.contiguous()),
        case("two terms that fight", fight),
        case("four terms at maps", normal(4, 3, 2, 2, 2, seed=2) + 0.4),
        case("tensors of float64", (normal(3, 5, 4, seed=3) + 0.5).double(), plain=False),
    ]


_NORM = Exercise(
    name="pull_norm",
    notebook=11,
    title="How hard a loss pulls at one picture",
    task="gradient (B, ...) is the gradient of a loss that is a mean over the B pictures of a batch. "
    "Return the mean over the pictures of the length (2-norm) of the pull at one picture. The pull must "
    "not depend on how many pictures share the batch: undo the mean first.",
    reference=_pull_norm,
    cases=_one,
    kind="number",
    source="""
def pull_norm(gradient):
    rows = gradient.flatten(start_dim=1)
    own = rows * len(rows)
    return float(own.norm(dim=1).mean())
""",
    hints=(
        "Each picture is a vector, however many dimensions its features have. And the gradient of a mean "
        "over B pictures is how much smaller than the gradient of one?",
        "Flatten everything but the first dimension, multiply by B, take the norm of each row, and the "
        "mean of these norms.",
        "`gradient.flatten(start_dim=1)` is (B, features); `.norm(dim=1)` gives one length a picture. "
        "Multiply by `len(gradient)`.",
    ),
    mistakes=(
        wrong(
            "reduction",
            "The factor B is missing: the loss is a mean, so the gradient of one picture is B times too "
            "small.",
            ("rows * len(rows)", "rows"),
        ),
        wrong(
            "reduction",
            "You sum over the pictures. Take the mean of their norms.",
            ("own.norm(dim=1).mean()", "own.norm(dim=1).sum()"),
        ),
        wrong(
            "value",
            "This is the norm of all pictures together. Take the norm of each picture first, then the mean.",
            ("own.norm(dim=1).mean()", "own.norm()"),
        ),
        wrong(
            "value",
            "You take the norm over the second dimension alone, which is not all there is at maps. "
            "Flatten each picture first.",
            ("own = rows * len(rows)", "own = gradient * len(rows)"),
        ),
        wrong(
            "value",
            "You took the mean over the pictures first: pulls into opposite directions cancel. First the "
            "norms, then the mean.",
            ("own.norm(dim=1).mean()", "own.mean(dim=0).norm()"),
        ),
        wrong(
            "value",
            "You return the mean of the squared norms. Take the root for each picture.",
            ("own.norm(dim=1).mean()", "own.square().sum(dim=1).mean()"),
        ),
    ),
)

_COSINE = Exercise(
    name="pull_cosine",
    notebook=11,
    title="Do two losses agree?",
    task="first and second (B, ...) are the gradients of two weighted terms with respect to the same "
    "features of B pictures. Return the cosine between them, all pictures and features taken together as "
    "one long vector. A number from -1 to 1; 0 where one of them is all zeros.",
    reference=_pull_cosine,
    cases=_two,
    kind="number",
    invariances=(
        Invariance(
            "The weight of a term says how hard it pulls, and changes nothing in the cosine", scaled(1)
        ),
    ),
    source="""
def pull_cosine(first, second):
    a, b = first.flatten(), second.flatten()
    length = a.norm() * b.norm()
    return float((a * b).sum() / length) if length > 0 else 0.0
""",
    hints=(
        "The cosine is the inner product of two vectors divided by their lengths. How long are the vectors "
        "here?",
        "`flatten()` makes one vector of all pictures. A picture with a large gradient then counts more, "
        "as it does in training.",
        "(a * b).sum() / (a.norm() * b.norm()), and 0.0 where the denominator is 0.",
    ),
    mistakes=(
        wrong(
            "invariance",
            "You return the inner product: divide by the two lengths.",
            ("(a * b).sum() / length", "(a * b).sum()"),
        ),
        wrong(
            "invariance",
            "You divide by the length of one gradient only.",
            ("(a * b).sum() / length", "(a * b).sum() / a.norm()"),
        ),
        wrong(
            "reduction",
            "You took the cosine of each picture and then the mean, so that a picture with hardly any "
            "gradient counts as much as any other. Take all pictures as one vector.",
            (
                "(a * b).sum() / length",
                "F.cosine_similarity(first.flatten(1), second.flatten(1), dim=1).mean()",
            ),
        ),
        wrong("value", "The sign is turned: 1 means that they agree.", ("(a * b).sum()", "-(a * b).sum()")),
        wrong(
            "value",
            "The result is squared or absolute, so that a fight looks like agreement.",
            ("(a * b).sum()", "(a * b).sum().abs()"),
        ),
        wrong(
            "stability",
            "Where a term does not pull, 0 is divided by 0. Return 0 there.",
            (" if length > 0 else 0.0", ""),
        ),
    ),
)

_SHARE = Exercise(
    name="pull_share",
    notebook=11,
    title="Whose pull is it?",
    task="gradients (T, B, ...) are those of T weighted terms at the same features. g is their sum, the "
    "pull of the whole loss. Return the (T,) shares <g_t, g> / <g, g>, where <a, b> is the sum of the "
    "products of all elements. They add up to 1, and a negative one belongs to a term that is pulled "
    "against its will.",
    reference=_pull_share,
    cases=_several,
    kind="tensor",
    invariances=(Invariance("Multiplying the whole loss by a number changes no share of it", scaled(0)),),
    source="""
def pull_share(gradients):
    rows = gradients.flatten(start_dim=1)
    total = rows.sum(dim=0)
    return rows @ total / (total @ total)
""",
    hints=(
        "Project every term on the direction in which the student really goes. What direction is that?",
        "With one row for each term, the total is the sum of the rows. Then one inner product for each row.",
        "rows = `gradients.flatten(start_dim=1)`; `rows @ total` are T inner products; divide by "
        "`total @ total`.",
    ),
    mistakes=(
        wrong(
            "value",
            "These are shares of the lengths. They are all positive, so a fight cannot be seen: use inner "
            "products with the total.",
            ("rows @ total / (total @ total)", "rows.norm(dim=1) / rows.norm(dim=1).sum()"),
        ),
        wrong(
            "value",
            "These are cosines with the total. Divide by <g, g>, so that the shares add up to 1.",
            ("rows @ total / (total @ total)", "rows @ total / (total.norm() * rows.norm(dim=1))"),
        ),
        wrong(
            "invariance",
            "You forgot to divide by <g, g>.",
            ("rows @ total / (total @ total)", "rows @ total"),
        ),
        wrong(
            "invariance",
            "You divided by the length of g, not by its square.",
            ("(total @ total)", "total.norm()"),
        ),
        wrong(
            "reduction",
            "The direction is the mean of the terms, not their sum: the shares add up to more than 1.",
            ("rows.sum(dim=0)", "rows.mean(dim=0)"),
        ),
        wrong(
            "value",
            "You compare squared lengths of the terms. What counts is how far each goes along with the "
            "total.",
            ("rows @ total / (total @ total)", "rows.square().sum(dim=1) / rows.square().sum()"),
        ),
    ),
)

EXERCISES = (_NORM, _COSINE, _SHARE)

_TERMS = """
ce = torch.tensor([3.0, 0.0])
at = torch.tensor([-1.0, 1.0])
total = ce + at
"""
_GIVEN = "At one picture the term `ce` has the gradient [3, 0] and the term `at` has [-1, 1]. "

QUESTIONS = (
    Question(
        name="share_of_loser",
        notebook=11,
        title="A negative share",
        task=_GIVEN + "What is the share of `at` of the pull?",
        source=_TERMS + "answer = float(at @ total / (total @ total))\n",
        hints=(
            "First add the two. In which direction does the student go?",
            "g = [2, 1]. The share of a term is its inner product with g, divided by that of g with itself.",
            "<at, g> = -1 * 2 + 1 * 1, and <g, g> = 2 * 2 + 1 * 1.",
        ),
        mistakes=(
            ("float(at @ total)", "This is <at, g>. Divide by <g, g> = 5."),
            ("float(ce @ total / (total @ total))", "This is the share of `ce`."),
            (
                "float(at.norm() / (at.norm() + ce.norm()))",
                "This is its share of the lengths, which cannot show a fight. Use inner products with "
                "the total.",
            ),
            ("float(at @ ce / (at.norm() * ce.norm()))", "This is the cosine of the two terms."),
        ),
    ),
    Question(
        name="weight_and_cosine",
        notebook=11,
        title="What a weight can do",
        task="Two terms fight: the cosine of their pulls is -0.5. You halve the weight of one. What is the "
        "cosine now, with the same network?",
        source="answer = -0.5\n",
        hints=(
            "A weight multiplies a gradient by a number. What does it do to the direction?",
            "The cosine divides by both lengths.",
            "Shorter, but into the same direction.",
        ),
        mistakes=(
            ("-0.25", "The length is halved, but the cosine divides by the length."),
            ("-1.0", "The length is halved, not doubled; and the cosine divides by it anyway."),
        ),
    ),
)

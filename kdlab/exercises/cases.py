"""Inputs for exercises: small ones to calculate by hand, random ones, and the edges where code breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kdlab.exercises.exercise import Case, Invariance

Options = Callable[[float], tuple[Any, ...]]
Args = tuple[Any, ...]


def normal(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    """Normal random numbers, the same ones on each call."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def labels(batch: int, classes: int, seed: int = 0) -> Tensor:
    """(batch,) random labels."""
    return torch.randint(0, classes, (batch,), generator=torch.Generator().manual_seed(seed))


def logit_cases(
    options: Options = lambda tau: (tau,), target: bool = False, more: tuple[Case, ...] = ()
) -> list[Case]:
    """Cases (student_logits, teacher_logits, [target], *options(tau)).

    Args:
        options: what comes last, from the temperature.
        target: whether there are labels.
        more: put behind the ordinary ones.
    """
    small_s = torch.tensor([[2.0, 1.0, 0.0], [0.5, 1.5, 0.0]])
    small_t = torch.tensor([[4.0, 1.0, 0.5], [0.0, 3.0, 1.0]])

    def case(
        label: str, s: Tensor, t: Tensor, y: Tensor, tau: float, plain: bool = True, property: str = "value"
    ) -> Case:
        args = (s, t, y, *options(tau)) if target else (s, t, *options(tau))
        return Case(label, args, {"B": s.shape[0], "C": s.shape[1], "tau": tau}, plain, property)

    edge: dict[str, Any] = {"plain": False}
    wide_s, wide_t, wide_y = normal(5, 7, seed=1), normal(5, 7, seed=2), labels(5, 7, 3)
    huge = torch.tensor([[1e4, -1e4, 0.0, 5e3], [0.0, 0.0, 1e4, -1e4]])
    return [
        case("two pictures of three classes", small_s, small_t, torch.tensor([0, 1]), 4.0),
        case("temperature 1", wide_s, wide_t, wide_y, 1.0),
        case("temperature 20", normal(3, 10, seed=4), 2 * normal(3, 10, seed=5), labels(3, 10, 6), 20.0),
        case("a batch of one", normal(1, 6, seed=7), normal(1, 6, seed=8), torch.tensor([2]), 2.0),
        *more,
        case("equal logits", small_s, small_s.clone(), torch.tensor([0, 1]), 4.0, **edge),
        case(
            "labels that are all the last class", wide_s, wide_t, torch.full((5,), 6), 2.0, False, "masking"
        ),
        case("tensors of float64", wide_s.double(), wide_t.double(), wide_y, 4.0, **edge),
        case(
            "tensors that are not contiguous",
            wide_s.T.contiguous().T,
            wide_t.T.contiguous().T,
            wide_y,
            4.0,
            **edge,
        ),
        case("logits of 10000", huge, -huge.flip(1), torch.tensor([0, 3]), 4.0, False, "stability"),
    ]


def map_cases(pair: bool, sizes_differ: bool = False) -> list[Case]:
    """Cases (feature_map,) or (student_map, teacher_map) of (B, c, h, w)."""

    def case(label: str, s: Tensor, t: Tensor, **kind: Any) -> Case:
        small = min(s.shape[2], t.shape[2]) * min(s.shape[3], t.shape[3])
        return Case(label, (s, t) if pair else (s,), {"B": s.shape[0], "P": small}, **kind)

    tiny = torch.tensor([[[[1.0, 2.0], [0.0, 1.0]], [[0.5, -1.0], [2.0, 0.0]]]])
    other = torch.tensor([[[[2.0, 0.0], [1.0, 1.0]], [[0.0, 1.0], [-1.0, 0.5]]]])
    wide = normal(3, 5, 4, 6, seed=2)
    found = [
        case("one picture, a map of two channels of 2 x 2", tiny, other),
        case("maps of 3 pictures", normal(3, 4, 4, 6, seed=1), wide),
        case("maps of 5 pictures", normal(5, 2, 3, 3, seed=3, scale=5), normal(5, 6, 3, 3, seed=4)),
        case("tensors of float64", wide.double(), wide.flip(1).double(), plain=False),
        case("tensors that are not contiguous", wide.mT, wide.flip(0).mT, plain=False),
        case("maps of zeros", torch.zeros(2, 3, 4, 4), normal(2, 3, 4, 4), plain=False, property="stability"),
    ]
    if sizes_differ:
        larger, smaller = normal(2, 3, 8, 8, seed=5), normal(2, 4, 4, 4, seed=6)
        found.insert(2, case("a student's map of 8 x 8 and a teacher's of 4 x 4", larger, smaller))
        found.insert(3, case("a student's map of 4 x 4 and a teacher's of 8 x 8", smaller, larger))
    return found


def embedding_cases(samples: int = 1, maps: bool = False) -> list[Case]:
    """Cases (student, teacher) of (B, d_s) and (B, d_t), of maps too on request; B >= `samples`."""

    def case(label: str, s: Tensor, t: Tensor, **kind: Any) -> Case:
        return Case(label, (s, t), {"B": s.shape[0]}, **kind)

    edge: dict[str, Any] = {"plain": False, "property": "stability"}
    small = torch.tensor([[1.0, 0.0], [0.5, 2.0], [-1.0, 1.0]])
    other = torch.tensor([[2.0, 1.0], [0.0, 1.5], [-1.0, -1.0]])
    twins = normal(4, 3, seed=9)
    twins[1] = twins[0]
    found = [
        case("three pictures with two features", small, other),
        case("embeddings of unequal width", normal(5, 7, seed=1), normal(5, 4, seed=2)),
        case("a batch of 8", normal(8, 3, seed=3, scale=10), normal(8, 6, seed=4)),
        case("two pictures", normal(2, 4, seed=5), normal(2, 4, seed=6)),
        case("two equal pictures", twins, normal(4, 3, seed=8), **edge, exact=False),
        case("equal embeddings", small, small.clone(), plain=False),
        case("tensors of float64", small.double(), other.double(), plain=False),
        case("tensors that are not contiguous", normal(3, 5, seed=1).T, normal(3, 5, seed=2).T, plain=False),
    ]
    if samples == 1:
        found.append(case("a batch of one", normal(1, 4, seed=7), normal(1, 3, seed=8), plain=False))
    if maps:
        found.insert(2, case("maps", normal(4, 2, 3, 3, seed=10), normal(4, 5, 2, 2, seed=11)))
    return found


def teacher_cases(student: bool) -> list[Case]:
    """Cases ([student_logits,] teacher_logits, temperature) with lists of teachers."""

    def case(label: str, s: Tensor, ts: list[Tensor], tau: float, **kind: Any) -> Case:
        sizes = {"B": s.shape[0], "C": s.shape[1], "M": len(ts), "tau": tau}
        return Case(label, (s, ts, tau) if student else (ts, tau), sizes, **kind)

    small = torch.tensor([[2.0, 1.0, 0.0]])
    pair = [torch.tensor([[4.0, 1.0, 0.0]]), torch.tensor([[1.0, 1.5, 0.5]])]
    wide = normal(5, 7, seed=1)
    three = [normal(5, 7, seed=n, scale=n) for n in (2, 3, 4)]
    huge = 1e4 * torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])
    return [
        case("one picture and two teachers", small, pair, 4.0),
        case("five pictures and three teachers", wide, three, 1.0),
        case("temperature 20", normal(3, 4, seed=6), [normal(3, 4, seed=n) for n in (7, 8, 9, 10)], 20.0),
        case("two teachers, 5 pictures", wide, three[1:], 2.0),
        case("teachers that agree", wide, [three[0], three[0].clone()], 4.0, plain=False),
        case("tensors of float64", wide.double(), [t.double() for t in three], 4.0, plain=False),
        case("logits of 10000", huge.flip(1), [huge, -huge], 4.0, plain=False, property="stability"),
    ]


def shifted(place: int) -> Callable[[Args], Args]:
    """The change "a number of its own added to every row of an argument"."""

    def change(args: Args) -> Args:
        x = args[place]
        offsets = torch.arange(1, x.shape[0] + 1, dtype=x.dtype)[:, None]
        return (*args[:place], x + 1.5 * offsets, *args[place + 1 :])

    return change


def scaled(place: int, factor: float = 3.0) -> Callable[[Args], Args]:
    """The change "an argument times a number"."""
    return lambda args: (*args[:place], factor * args[place], *args[place + 1 :])


def moved(place: int) -> Callable[[Args], Args]:
    """The change "the same vector added to every row of an argument"."""

    def change(args: Args) -> Args:
        x = args[place]
        vector = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)
        return (*args[:place], x + vector, *args[place + 1 :])

    return change


def rotated(place: int) -> Callable[[Args], Args]:
    """The change "the features of an argument rotated"."""

    def change(args: Args) -> Args:
        x = args[place].flatten(1)
        turn = torch.linalg.qr(normal(x.shape[1], x.shape[1], seed=99).to(x.dtype)).Q
        return (*args[:place], (x @ turn).reshape(args[place].shape), *args[place + 1 :])

    return change


SHIFT_STUDENT = Invariance("Adding one number to all logits of a picture changes no probability", shifted(0))
SHIFT_TEACHER = Invariance(
    "Adding one number to all of the teacher's logits of a picture changes nothing", shifted(1)
)

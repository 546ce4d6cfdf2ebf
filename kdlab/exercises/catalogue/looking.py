"""Exercises on where networks look: Grad-CAM, integrated gradients, pointing at objects, comparing maps."""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.exercises.cases import Args, normal
from kdlab.exercises.exercise import Case, Exercise, Invariance, Question, wrong
from kdlab.probes.agreement import compare_maps


def _cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """The last step of `kdlab.probes.saliency.grad_cam`, which finds the gradients too."""
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    return (weights * activations).sum(dim=1).relu()


def _cam_cases() -> list[Case]:
    a = torch.tensor([[[[1.0, 2.0], [0.0, 3.0]], [[2.0, 0.0], [1.0, 1.0]]]])
    g = torch.tensor([[[[0.5, 0.5], [1.0, 2.0]], [[-1.0, 0.0], [-2.0, 1.0]]]])
    return [
        Case("one picture, two channels of 2 x 2", (a, g), {"P": 4, "C": 2}),
        Case(
            "maps of 3 pictures", (normal(3, 5, 4, 6, seed=1).relu(), normal(3, 5, 4, 6, seed=2)), {"P": 24}
        ),
        Case("a large map", (normal(2, 8, 7, 7, seed=3).relu(), normal(2, 8, 7, 7, seed=4)), {"P": 49}),
        Case("evidence against the class only", (a, -g.abs()), plain=False),
        Case("tensors of float64", (a.double(), g.double()), plain=False),
        Case("maps of zeros", (torch.zeros_like(a), g), plain=False),
    ]


def _path(picture: Tensor, baseline: Tensor, gradients: Tensor) -> Tensor:
    return (picture - baseline) * gradients.mean(dim=0)


def _path_cases() -> list[Case]:
    x, start = torch.tensor([[[1.0, 2.0], [0.0, -1.0]]]), torch.tensor([[[0.5, 0.5], [0.5, 0.5]]])
    slopes = torch.tensor([[[[1.0, 0.0], [2.0, 1.0]]], [[[3.0, 1.0], [2.0, -0.5]]]])
    return [
        Case("a picture of 2 x 2, two points on the path", (x, start, slopes), {"M": 2}),
        Case("50 points", (normal(3, 4, 5, seed=1), normal(3, 4, 5, seed=2), normal(50, 3, 4, 5, seed=3))),
        Case("a black baseline", (normal(1, 3, 3, seed=4), torch.zeros(1, 3, 3), normal(8, 1, 3, 3, seed=5))),
        Case("a picture that is its own baseline", (x, x.clone(), slopes), plain=False),
        Case("tensors of float64", (x.double(), start.double(), slopes.double()), plain=False),
    ]


def _pointing(maps: Tensor, objects: Tensor) -> float:
    place = maps.flatten(1).argmax(dim=1, keepdim=True)
    return float(objects.flatten(1).gather(1, place).double().mean())


def _pointing_cases() -> list[Case]:
    def case(label: str, n: int, size: tuple[int, int], seed: int, pull: float) -> Case:
        rows, columns = torch.meshgrid(*(torch.arange(s) for s in size), indexing="ij")
        at = torch.randint(1, min(size) - 1, (n, 2), generator=torch.Generator().manual_seed(seed))
        objects = (rows - at[:, :1, None]).abs() + (columns - at[:, 1:, None]).abs() <= 1
        return Case(label, (normal(n, *size, seed=seed + 1) + pull * objects, objects), {"B": n})

    small = torch.tensor([[[0.1, 0.9], [0.2, 0.3]], [[0.5, 0.1], [0.4, 0.8]], [[0.7, 0.2], [0.6, 0.1]]])
    here = torch.tensor([[[0, 1], [0, 1]], [[1, 0], [1, 0]], [[1, 1], [0, 0]]]).bool()
    return [
        Case("three pictures of 2 x 2", (small, here), {"B": 3}),
        case("maps that know the object", 20, (6, 8), 1, 3.0),
        case("maps that do not", 30, (5, 5), 5, 0.0),
        Case("maps that are negative everywhere", (small - 5, here), plain=False),
    ]


def _ranks(a: Tensor, b: Tensor) -> float:
    first, second = (x.detach().double().numpy()[None] for x in (a, b))
    return float(compare_maps(first, second)["spearman"][0])


def _pair_cases() -> list[Case]:
    small, other = torch.tensor([[4.0, 1.0], [0.0, 2.5]]), torch.tensor([[30.0, 25.0], [0.5, 1.0]])
    near = normal(6, 7, seed=3)
    return [
        Case("two maps of 2 x 2", (small, other)),
        Case("two maps that are alike", (near.exp(), (near + normal(6, 7, seed=4, scale=0.8)).exp())),
        Case("two maps that have nothing in common", (normal(5, 5, seed=5).exp(), normal(5, 5, seed=6))),
        Case("maps of opposite order", (near, -near), plain=False),
        Case("a map and itself", (near, near.clone()), plain=False),
        Case("tensors of float64", (near.double(), (near + normal(6, 7, seed=8)).double()), plain=False),
    ]


def _cubed(args: Args) -> Args:
    return (args[0] ** 3, *args[1:])


_GRAD_CAM = Exercise(
    name="grad_cam",
    notebook=10,
    title="Grad-CAM from activations and gradients",
    task="From the activations of a stage and the gradients of one logit with respect to them, both (B, C, "
    "h, w), make the map (B, h, w): each channel's weight is the mean of its gradient over the cells, the "
    "map is the weighted sum of the channels, and what is negative becomes 0. (Selvaraju et al., ICCV 2017)",
    reference=_cam,
    cases=_cam_cases,
    kind="tensor",
    source="""
def grad_cam(activations, gradients):
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    summed = (weights * activations).sum(dim=1)
    return summed.relu()
""",
    hints=(
        "One number per channel says how much the class likes it. Which dims does the mean go over?",
        "`gradients.mean(dim=(2, 3), keepdim=True)` is (B, C, 1, 1) and multiplies all cells of a channel. "
        "Then sum over the channels.",
        "The sum over dim 1 of weights * activations, with `.relu()` at the very end.",
    ),
    mistakes=(
        wrong(
            "result",
            "The channels are still there: sum over them (dim 1), so that one map (h, w) is left.",
            (".sum(dim=1)", ""),
        ),
        wrong(
            "value",
            "The ReLU is missing: what speaks against the class becomes 0.",
            ("summed.relu()", "summed"),
        ),
        wrong(
            "value",
            "You multiply cell by cell. The gradient of a channel is averaged over its cells first.",
            ("gradients.mean(dim=(2, 3), keepdim=True)", "gradients"),
        ),
        wrong(
            "reduction",
            "The weights are sums over the cells. They are means: divide by the number of cells.",
            ("gradients.mean(dim=(2, 3), keepdim=True)", "gradients.sum(dim=(2, 3), keepdim=True)"),
        ),
        wrong(
            "reduction",
            "You average over the channels. Their weighted sum is asked for.",
            (".sum(dim=1)", ".mean(dim=1)"),
        ),
        wrong(
            "value",
            "What is negative is dropped before the sum. Channels against the class must be able to cancel "
            "others: sum first, and put the ReLU at the very end.",
            ("(weights * activations).sum(dim=1)", "(weights * activations).relu().sum(dim=1)"),
        ),
        wrong(
            "value",
            "You take the absolute value, so evidence against the class looks like evidence for it: ReLU.",
            ("summed.relu()", "summed.abs()"),
        ),
    ),
)

_INTEGRATED = Exercise(
    name="integrated_gradients",
    notebook=10,
    title="Integrated gradients from the gradients of a path",
    task="A picture and a baseline, both (C, H, W), and the gradients (S, C, H, W) of one logit at S evenly "
    "spaced points on the straight way from baseline to picture. Return the integrated gradients (C, H, W): "
    "the difference between picture and baseline times the mean gradient. (Sundararajan et al., ICML 2017)",
    reference=_path,
    cases=_path_cases,
    kind="tensor",
    source="""
def integrated_gradients(picture, baseline, gradients):
    mean = gradients.mean(dim=0)
    way = picture - baseline
    return way * mean
""",
    hints=(
        "How far does each pixel go, and how steep is the way on average?",
        "The mean over the points of the path is `gradients.mean(dim=0)`; a pixel goes from the baseline to "
        "the picture.",
        "(picture - baseline) times the mean over dim 0, pixel by pixel.",
    ),
    mistakes=(
        wrong(
            "value",
            "You multiply by the picture. It is the way that counts: picture minus baseline.",
            ("picture - baseline", "picture"),
        ),
        wrong(
            "value",
            "The sign is turned: the way goes from the baseline to the picture.",
            ("picture - baseline", "baseline - picture"),
        ),
        wrong(
            "reduction",
            "You sum the gradients of the path. Take their mean.",
            ("gradients.mean(dim=0)", "gradients.sum(dim=0)"),
        ),
        wrong(
            "value",
            "This is the gradient at the picture alone (gradient times input). Average over the path.",
            ("gradients.mean(dim=0)", "gradients[-1]"),
        ),
        wrong(
            "reduction",
            "You average over all pixels too. The mean goes over the points of the path alone: dim 0.",
            ("gradients.mean(dim=0)", "gradients.mean()"),
        ),
        wrong(
            "value",
            "This is the mean gradient. Multiply it by the difference between picture and baseline.",
            ("way * mean", "mean"),
        ),
        wrong(
            "value",
            "The sign is lost: pixels that speak against the class keep a minus.",
            ("way * mean", "(way * mean).abs()"),
        ),
        wrong(
            "result",
            "You sum over the channels. Here each channel keeps its own value.",
            ("way * mean", "(way * mean).sum(dim=0)"),
        ),
    ),
)

_POINTING = Exercise(
    name="pointing_game",
    notebook=10,
    title="Does the map point at the object?",
    task="Maps (B, h, w) and, of the same size, tensors of bool that are True on the object. Return the "
    "share of the pictures whose map has its strongest cell on the object. (Zhang et al., ECCV 2016)",
    reference=_pointing,
    cases=_pointing_cases,
    kind="number",
    invariances=(
        Invariance(
            "Multiplying the maps by a number moves no strongest cell", lambda args: (3 * args[0], args[1])
        ),
    ),
    source="""
def pointing_game(maps, objects):
    place = maps.flatten(1).argmax(dim=1)
    hit = objects.flatten(1)[torch.arange(len(maps)), place]
    return float(hit.float().mean())
""",
    hints=(
        "Find the strongest cell of each map, look whether the object is there, and take the share.",
        "`maps.flatten(1).argmax(dim=1)` is the number of the strongest cell of each picture; `flatten(1)` "
        "of the objects counts cells in the same way.",
        "objects.flatten(1)[torch.arange(B), place], as floats, and their mean.",
    ),
    mistakes=(
        wrong(
            "reduction", "You count the hits. Their share is asked for.", ("hit.float().mean()", "hit.sum()")
        ),
        wrong(
            "value",
            "This is a percentage. A share from 0 to 1 is asked for.",
            ("float(hit.float().mean())", "100 * float(hit.float().mean())"),
        ),
        wrong("value", "You took the weakest cell: `argmax`, not `argmin`.", ("argmax", "argmin")),
        wrong(
            "value",
            "This is the share of the pictures that the objects cover: what pointing at random would reach.",
            ("hit.float().mean()", "objects.float().mean()"),
        ),
        wrong(
            "value",
            "You count the misses. The hits are asked for.",
            ("float(hit.float().mean())", "1 - float(hit.float().mean())"),
        ),
        wrong(
            "value",
            "All pictures are read at the strongest cell of their mean map. Each map has a cell of its own.",
            ("maps.flatten(1).argmax(dim=1)", "maps.flatten(1).mean(dim=0).argmax().expand(len(maps))"),
        ),
    ),
)

_RANKS = Exercise(
    name="rank_agreement",
    notebook=10,
    title="Do two maps agree in their order?",
    task="Two maps (h, w) without equal values. Number the cells of each by strength (the weakest is 0) "
    "and return the correlation of the two rankings (Spearman's): from -1, opposite order, over 0 to 1.",
    reference=_ranks,
    cases=_pair_cases,
    kind="number",
    invariances=(
        Invariance("Only the order of the cells counts; cubing all values of a map keeps it", _cubed),
    ),
    source="""
def rank_agreement(a, b):
    p = a.flatten().argsort().argsort().double()
    q = b.flatten().argsort().argsort().double()
    p = p - p.mean()
    q = q - q.mean()
    return float((p @ q) / (p.norm() * q.norm()))
""",
    hints=(
        "Spearman's correlation is the ordinary one, of ranks in place of values. How does a value become "
        "its rank?",
        "`x.flatten().argsort().argsort()` gives the ranks: the first argsort says who stands at each place, "
        "the second at which place each stands.",
        "Take the mean off the ranks p and q of the two maps; then p @ q divided by both norms.",
    ),
    mistakes=(
        wrong(
            "invariance",
            "This is the correlation of the values. Take ranks, so that one very strong cell does not decide "
            "all.",
            ("a.flatten().argsort().argsort()", "a.flatten()"),
            ("b.flatten().argsort().argsort()", "b.flatten()"),
        ),
        wrong(
            "value",
            "One argsort gives the order, not the ranks: who stands at each place. Apply it twice.",
            ("a.flatten().argsort().argsort()", "a.flatten().argsort()"),
            ("b.flatten().argsort().argsort()", "b.flatten().argsort()"),
        ),
        wrong(
            "value",
            "The mean rank is not taken off, so that chance is not 0.",
            ("p = p - p.mean()", "pass"),
            ("q = q - q.mean()", "pass"),
        ),
        wrong(
            "value",
            "The sign is turned: one map is ranked from the strongest, the other from the weakest.",
            ("a.flatten().argsort()", "(-a).flatten().argsort()"),
        ),
        wrong(
            "reduction",
            "The norms are missing: a correlation lies between -1 and 1.",
            ("(p @ q) / (p.norm() * q.norm())", "(p @ q)"),
        ),
        wrong(
            "value",
            "This is a distance, 1 minus the correlation.",
            ("float((p @ q) / (p.norm() * q.norm()))", "1 - float((p @ q) / (p.norm() * q.norm()))"),
        ),
    ),
)

EXERCISES = (_GRAD_CAM, _INTEGRATED, _POINTING, _RANKS)

QUESTIONS = (
    Question(
        name="ig_product",
        notebook=10,
        title="Who gets the credit of a product?",
        task="f(x1, x2) = x1 * x2. The picture is (3, 2) and the baseline (0, 0). What are the integrated "
        "gradients of x1?",
        source="""
steps = (torch.arange(1000) + 0.5) / 1000
x1, x2 = 3.0, 2.0
gradients = steps * x2
answer = float(x1 * gradients.mean())
""",
        hints=(
            "The gradient of f for x1 is x2. What is x2 on the way from (0, 0) to (3, 2)?",
            "At the share a of the way x2 is 2a. What is its mean for a from 0 to 1?",
            "The way of x1, 3, times the mean gradient. Both pixels together must give f(3, 2) - f(0, 0).",
        ),
        mistakes=(
            (
                "x1 * x2",
                "This is gradient times input: the gradient at the picture. The sum over both pixels would "
                "be 12, and f changes by 6 only.",
            ),
            ("x2", "This is the gradient at the picture. Average it over the path, and multiply by the way."),
            (
                "float(gradients.mean())",
                "This is the mean gradient. Multiply it by the way of x1, which is 3.",
            ),
            ("x1 / 2 * 3", "The way of x1 is taken twice: the gradient for x1 is x2, not x1."),
        ),
    ),
    Question(
        name="ig_saturated",
        notebook=10,
        title="A neuron that has had enough",
        task="f(x) = min(x, 1). The picture is x = 4, the baseline 0, and at the picture f is flat. What are "
        "the integrated gradients of x?",
        source="""
steps = (torch.arange(1000) + 0.5) / 1000
gradients = (4 * steps < 1).float()
answer = float(4 * gradients.mean())
""",
        hints=(
            "You need no integral: whatever the path does, to what must integrated gradients add up?",
            "With one pixel they are all the change there is: f(picture) - f(baseline).",
            "min(4, 1) - min(0, 1).",
        ),
        mistakes=(
            ("0.0", "This is what the plain gradient says: f is flat at 4. But it rose on the way there."),
            ("4.0", "This is the way. f does not rise by as much: it stops at 1."),
            ("0.25", "This is the mean gradient. Multiply it by the way, 4."),
        ),
    ),
)

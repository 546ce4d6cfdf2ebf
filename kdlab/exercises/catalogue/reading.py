"""Exercises on reading representations: CKA, effective rank, the control of a probe."""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab.exercises.cases import labels, moved, normal, rotated, scaled
from kdlab.exercises.exercise import Case, Exercise, Invariance, wrong
from kdlab.probes import metrics


def _pair_cases() -> list[Case]:
    wide_x, wide_y = normal(12, 5, seed=3), normal(12, 4, seed=4)
    related = normal(20, 3, seed=5)
    small = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0], [3.0, -1.0]])
    other = torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, -1.0], [-1.0, 0.5]])
    return [
        Case("four pictures", (small, other)),
        Case("12 pictures, features of unequal width", (wide_x + 3, wide_y - 2)),
        Case("two related representations", (related + 1, related @ normal(3, 6, seed=6) + 5)),
        Case("more features than pictures", (normal(6, 15, seed=7), normal(6, 10, seed=8))),
        Case("a representation and itself", (wide_x, wide_x.clone()), plain=False),
        Case("tensors of float64", (wide_x.double(), wide_y.double()), plain=False),
        Case("tensors that are not contiguous", (normal(4, 9, seed=9).T, normal(3, 9).T), plain=False),
    ]


def _matrix_cases() -> list[Case]:
    flat = normal(8, 4, seed=3)
    flat[:, 3] = flat[:, 0]
    return [
        Case("four pictures with two features", (torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]]),)),
        Case("ten pictures, not centred", (normal(10, 5, seed=1) + torch.arange(5.0),)),
        Case("features of unequal strength", (normal(20, 4, seed=2) * torch.tensor([9.0, 3, 1, 0.2]),)),
        Case("more features than pictures", (normal(6, 12, seed=4).double(),), plain=False),
        Case("a feature that repeats another", (flat.double(),), plain=False, property="stability"),
        Case("tensors that are not contiguous", (normal(4, 9, seed=9).T,), plain=False),
    ]


def _selectivity(
    predicted: Tensor, target: Tensor, control_predicted: Tensor, control_target: Tensor
) -> float:
    """`LinearProbeResult.selectivity` of one layer: two accuracies, subtracted."""
    return float(
        (predicted == target).double().mean() - (control_predicted == control_target).double().mean()
    )


def _probe_cases() -> list[Case]:
    def case(label: str, n: int, seed: int, right: float) -> Case:
        target, control = labels(n, 4, seed), labels(n, 4, seed + 1)
        keep = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < right
        predicted = torch.where(keep, target, labels(n, 4, seed + 2))
        return Case(label, (predicted, target, labels(n, 4, seed + 3), control))

    four = (
        torch.tensor([0, 1, 1, 0]),
        torch.tensor([0, 1, 1, 1]),
        torch.tensor([1, 1, 0, 0]),
        torch.tensor([1, 0, 1, 1]),
    )
    return [
        Case("four pictures", four),
        case("a good probe", 40, 1, 0.9),
        case("a probe of chance", 50, 5, 0.0),
        case("a fair probe", 30, 9, 0.5),
    ]


_CKA = Exercise(
    name="cka",
    notebook=9,
    title="Linear CKA",
    task="For features x (n, p) and y (n, q) of the same n pictures: centre each feature, then return ||y' "
    "x||^2 / (||x' x|| ||y' y||) with Frobenius norms. A number from 0 to 1. (Kornblith et al., ICML 2019)",
    reference=metrics.linear_cka,
    public=metrics.linear_cka,
    cases=_pair_cases,
    kind="number",
    invariances=(
        Invariance("Adding one vector to all features changes nothing in CKA", moved(0)),
        Invariance("Multiplying the features by a number changes nothing in CKA", scaled(1)),
        Invariance("Rotating the features changes nothing in CKA", rotated(0)),
    ),
    source="""
def cka(x, y):
    x = x - x.mean(dim=0)
    y = y - y.mean(dim=0)
    cross = (y.T @ x).square().sum()
    return float(cross / ((x.T @ x).norm() * (y.T @ y).norm()))
""",
    hints=(
        "CKA says how alike the pictures are arranged, wherever the two clouds of points lie. What comes "
        "first?",
        "Subtract the mean over the pictures (dim 0). The numerator is the sum of the squares of y' x; "
        "`.norm()` of a matrix is its Frobenius norm.",
        "(y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()), with x and y centred.",
    ),
    mistakes=(
        wrong(
            "invariance",
            "The features are not centred: subtract the mean over the pictures first.",
            ("x = x - x.mean(dim=0)", "pass"),
            ("y = y - y.mean(dim=0)", "pass"),
        ),
        wrong(
            "invariance",
            "You centred each picture (dim=1). Centre each feature: the mean over the pictures is dim=0.",
            ("x.mean(dim=0)", "x.mean(dim=1, keepdim=True)"),
            ("y.mean(dim=0)", "y.mean(dim=1, keepdim=True)"),
        ),
        wrong(
            "value",
            "The numerator is not squared: it is ||y' x||^2.",
            ("(y.T @ x).square().sum()", "(y.T @ x).norm()"),
        ),
        wrong(
            "value",
            "You divide by the squares of the norms.",
            ("((x.T @ x).norm() * (y.T @ y).norm())", "((x.T @ x).norm() * (y.T @ y).norm()) ** 2"),
        ),
        wrong(
            "value",
            "You divide by ||x||^2 ||y||^2. It is the norms of x' x and of y' y.",
            ("((x.T @ x).norm() * (y.T @ y).norm())", "(x.norm() * y.norm()) ** 2"),
        ),
        wrong(
            "invariance",
            "The denominator is missing, so the scale of the features counts.",
            (" / ((x.T @ x).norm() * (y.T @ y).norm())", ""),
        ),
    ),
)

_EFFECTIVE_RANK = Exercise(
    name="effective_rank",
    notebook=9,
    title="How many directions a representation uses",
    task="Centre the features x (n, p), take the singular values, divide them by their sum, and return exp "
    "of the entropy of these shares. From 1 (one direction) to the number of directions. (Roy, Vetterli, "
    "EUSIPCO 2007)",
    reference=metrics.effective_rank,
    public=metrics.effective_rank,
    cases=_matrix_cases,
    kind="number",
    invariances=(
        Invariance("Adding one vector to all features changes no direction", moved(0)),
        Invariance("Multiplying the features by a number changes no direction", scaled(0)),
        Invariance("Rotating the features changes not how many directions there are", rotated(0)),
    ),
    source="""
def effective_rank(x):
    values = torch.linalg.svdvals(x - x.mean(dim=0))
    shares = values / values.sum()
    entropy = torch.special.entr(shares).sum()
    return float(entropy.exp())
""",
    hints=(
        "If k directions are equally strong and the others 0, the answer must be k. Which number does that?",
        "`torch.linalg.svdvals` of the centred features, divided by their sum, are shares like "
        "probabilities. Take their entropy. A share of 0 adds nothing, though log 0 is infinite.",
        "exp(sum of -s log s); `torch.special.entr(s)` is -s log s with 0 at 0.",
    ),
    mistakes=(
        wrong(
            "invariance",
            "The features are not centred: the mean itself would count as a direction.",
            ("x - x.mean(dim=0)", "x"),
        ),
        wrong(
            "value",
            "You return the entropy. Take exp of it, to count directions.",
            ("entropy.exp()", "entropy"),
        ),
        wrong(
            "value",
            "You use the squares of the singular values (the variances). The effective rank takes the "
            "singular values.",
            ("shares = values / values.sum()", "shares = values**2 / (values**2).sum()"),
        ),
        wrong(
            "value",
            "You count the singular values that are not 0: this is the plain rank.",
            ("entropy.exp()", "(values > 1e-4 * values[0]).sum()"),
        ),
        wrong(
            "value",
            "This is the participation ratio: (sum of variances)^2 / sum of squared variances. Here it is "
            "exp of an entropy.",
            ("entropy.exp()", "(values**2).sum() ** 2 / (values**4).sum()"),
        ),
        wrong(
            "value",
            "The entropy is in bits, and exp takes nats. Use the natural logarithm, or 2 to the power of it.",
            ("entropy.exp()", "(entropy / torch.log(torch.tensor(2.0))).exp()"),
        ),
    ),
)

_SELECTIVITY = Exercise(
    name="probe_selectivity",
    notebook=9,
    title="Is the probe too strong?",
    task="Four tensors of n class numbers: what a probe predicts and the true labels; what the same probe "
    "predicts after it was fitted on random labels, and these. Return the selectivity: the accuracy minus "
    "the accuracy on the random labels. A share from -1 to 1. (Hewitt, Liang, EMNLP 2019)",
    reference=_selectivity,
    cases=_probe_cases,
    kind="number",
    source="""
def probe_selectivity(predicted, target, control_predicted, control_target):
    accuracy = (predicted == target).float().mean()
    control = (control_predicted == control_target).float().mean()
    return float(accuracy - control)
""",
    hints=(
        "A probe that also learns random labels has found out little about the network. What do you "
        "subtract?",
        "An accuracy is `(a == b).float().mean()`. There are two of them here, each with labels of its own.",
        "Accuracy on the real labels minus accuracy of the control on the *control* labels, as a float.",
    ),
    mistakes=(
        wrong(
            "value",
            "The sign is turned: the real task comes first.",
            ("accuracy - control", "control - accuracy"),
        ),
        wrong(
            "value",
            "You divide the two. The selectivity is their difference.",
            ("accuracy - control", "accuracy / control.clamp_min(1e-9)"),
        ),
        wrong(
            "value",
            "The control is judged by the real labels. Its own random labels are what it was fitted on.",
            ("control_predicted == control_target", "control_predicted == target"),
        ),
        wrong(
            "value",
            "You return the plain accuracy: subtract the control.",
            ("accuracy - control", "accuracy"),
        ),
        wrong(
            "value",
            "These are percentage points. A share is asked for.",
            ("float(accuracy - control)", "100 * float(accuracy - control)"),
        ),
        wrong(
            "reduction",
            "You count the hits. An accuracy is their share: take the mean.",
            (".float().mean()", ".float().sum()"),
        ),
    ),
)

EXERCISES = (_CKA, _EFFECTIVE_RANK, _SELECTIVITY)

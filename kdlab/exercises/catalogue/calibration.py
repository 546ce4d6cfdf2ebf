"""Exercises on how far a network's confidence can be trusted: calibration error, fitted temperature."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.exercises.cases import labels, normal
from kdlab.exercises.exercise import Case, Exercise, wrong
from kdlab.probes import metrics


def _calibration_cases(bins: bool) -> list[Case]:
    def case(label: str, logits: Tensor, target: Tensor, count: int, **kind: Any) -> Case:
        args = (logits, target, count) if bins else (logits, target)
        return Case(label, args, {"B": logits.shape[0], "C": logits.shape[1]}, **kind)

    def noisy(n: int, classes: int, seed: int, scale: float) -> tuple[Tensor, Tensor]:
        target = labels(n, classes, seed)
        signal = F.one_hot(target, classes).float()
        return scale * (signal + normal(n, classes, seed=seed, scale=0.6)), target

    small = torch.tensor([[2.0, 0, 0], [1.0, 0.5, 0], [0, 3.0, 0], [0, 0, 0.4], [1.5, 1.0, 0]])
    exact, answers = noisy(50, 5, 4, 3.0)
    return [
        case("five pictures of three classes", small, torch.tensor([0, 1, 1, 2, 1]), 5),
        case("a network that is too sure", *noisy(60, 4, 1, 6.0), 10),
        case("a network that is not sure enough", *noisy(40, 6, 2, 0.7), 15),
        case("two classes", *noisy(30, 2, 3, 2.0), 4),
        case("tensors of float64", exact.double(), answers, 8, plain=False),
    ]


_ECE = Exercise(
    name="ece",
    notebook=9,
    title="Expected calibration error",
    task="The confidence of a picture is its largest softmax probability. Put the pictures into `bins` bins "
    "of equal width from 0 to 1, closed on the right. Return the mean over the pictures of the gap "
    "|accuracy - mean confidence| of the bin that each lies in. A share from 0 to 1. (Guo et al., ICML 2017)",
    reference=metrics.expected_calibration_error,
    public=metrics.expected_calibration_error,
    cases=lambda: _calibration_cases(bins=True),
    kind="number",
    source="""
def ece(logits, target, bins):
    confidence, predicted = F.softmax(logits, dim=1).max(dim=1)
    correct = (predicted == target).float()
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            gap = (correct[inside].mean() - confidence[inside].mean()).abs()
            total += inside.float().mean() * gap
    return float(total)
""",
    hints=(
        "Of the pictures with a confidence of about 0.8, about 80 % should be right. What is the gap of one "
        "bin, and how much does a bin with few pictures count?",
        "For each bin: the mask (confidence > low) & (confidence <= high); the gap of the means inside; "
        "times the share of the pictures that lie in it. Skip empty bins.",
        "sum over bins of inside.float().mean() * |correct[inside].mean() - confidence[inside].mean()|, "
        "where `confidence, predicted = softmax.max(dim=1)`.",
    ),
    mistakes=(
        wrong(
            "reduction",
            "Every bin counts the same. Weigh each by the share of the pictures in it.",
            ("inside.float().mean() * gap", "gap / bins"),
        ),
        wrong(
            "reduction",
            "You sum the gaps of the bins. Weigh each by the share of the pictures in it.",
            ("inside.float().mean() * gap", "gap"),
        ),
        wrong(
            "value",
            "The gaps keep their sign and cancel: take the absolute value in each bin.",
            (".abs()", ""),
        ),
        wrong(
            "value",
            "You take the probability of the true class. The confidence is the largest probability.",
            (
                "    correct =",
                "    confidence = F.softmax(logits, dim=1).gather(1, target[:, None])[:, 0]\n    correct =",
            ),
        ),
        wrong(
            "value",
            "You return the largest gap. The expected error is the mean over the pictures.",
            ("total += inside.float().mean() * gap", "total = max(total, float(gap))"),
        ),
        wrong("value", "The gaps are squared. Take the absolute value.", (".abs()", ".square()")),
        wrong(
            "value",
            "This is a percentage. A share from 0 to 1 is asked for.",
            ("float(total)", "100 * float(total)"),
        ),
        wrong(
            "value",
            "You take the logits for confidences. Take the softmax first.",
            ("F.softmax(logits, dim=1).max(dim=1)", "logits.max(dim=1)"),
        ),
    ),
)

_TEMPERATURE_FIT = Exercise(
    name="temperature_fit",
    notebook=9,
    title="The temperature that calibrates",
    task="Find the temperature T from 0.01 to 100 for which the mean cross-entropy of softmax(logits / T) "
    "on the labels is smallest. A search is fine: 2 % off is near enough. (Guo et al., ICML 2017)",
    reference=metrics.optimal_temperature,
    public=metrics.optimal_temperature,
    cases=lambda: _calibration_cases(bins=False),
    kind="number",
    rtol=0.02,
    source="""
def temperature_fit(logits, target):
    temperatures = torch.logspace(-2, 2, 801)
    losses = torch.stack([F.cross_entropy(logits / t, target) for t in temperatures])
    return float(temperatures[losses.argmin()])
""",
    hints=(
        "A network that is too sure needs its logits made smaller. Is T then above or below 1?",
        "Try many temperatures, evenly spaced in their logarithm (`torch.logspace`), and keep the one with "
        "the lowest cross-entropy.",
        "`F.cross_entropy(logits / t, target)` for each t of `torch.logspace(-2, 2, 801)`, then `argmin`.",
    ),
    mistakes=(
        wrong(
            "temperature",
            "You multiply by the temperature, and so return 1 / T. Divide the logits by it.",
            ("logits / t", "logits * t"),
        ),
        wrong(
            "value",
            "You return the lowest loss. The temperature at which it is reached is asked for.",
            ("temperatures[losses.argmin()]", "losses.min()"),
        ),
        wrong(
            "value",
            "Only temperatures from 1 up are tried. A network that is not sure enough needs one below 1.",
            ("torch.logspace(-2, 2, 801)", "torch.logspace(0, 2, 401)"),
        ),
        wrong(
            "value",
            "You return the place in the list, not the temperature that stands there.",
            ("temperatures[losses.argmin()]", "losses.argmin()"),
        ),
        wrong("value", "You took the worst temperature: `argmin`, not `argmax`.", ("argmin", "argmax")),
        wrong(
            "value",
            "You return the logarithm of T.",
            ("float(temperatures[losses.argmin()])", "float(temperatures[losses.argmin()].log())"),
        ),
    ),
)

EXERCISES = (_ECE, _TEMPERATURE_FIT)

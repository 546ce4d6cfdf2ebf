"""Functional metrics: published reference values, closed forms, invariances, refusals."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.probes import metrics

CASES = [
    case
    for case in json.loads((Path(__file__).parent / "reference_values.json").read_text())["cases"]
    if case["function"].startswith("kdlab.probes.")
]


def draw(spec: dict, dtype: torch.dtype) -> Tensor:
    if spec["kind"] == "randint":
        return torch.randint(spec["low"], spec["high"], spec["shape"])
    assert spec["kind"] == "randn"
    return torch.randn(spec["shape"]).to(dtype) * spec["scale"] + spec["shift"]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_reference_value(case: dict) -> None:
    module, name = case["function"].rsplit(".", 1)
    function = getattr(importlib.import_module(module), name)
    torch.manual_seed(case["seed"])
    inputs = [draw(spec, getattr(torch, case["dtype"])) for spec in case["inputs"]]
    value = function(*inputs, **case["kwargs"])
    if "select" in case:
        value = value[case["select"]]
    assert abs(value - case["value"]) <= max(case["rtol"] * abs(case["value"]), case["atol"])


def test_there_are_reference_cases() -> None:
    assert len(CASES) >= 15


def g(shape: tuple[int, ...], a: float, b: float, scale: float = 1.0) -> Tensor:
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(a * i + b + 0.1 * i**2)).reshape(shape)


X = g((20, 5), 0.71, 0.1) + 0.3 * g((20, 5), 1.37, 0.9)
Y = torch.tanh(X @ g((5, 4), 0.53, 0.4)) + 0.5 * g((20, 4), 2.11, 0.8)
LABELS = torch.arange(60) % 4
Z = g((4, 8), 1.7, 0.3)[LABELS] + 1.5 * g((60, 8), 0.37, 0.6)
MEANS = torch.stack([Z[c == LABELS].mean(0) for c in range(4)])
WEIGHT = MEANS - MEANS.mean(0) + 0.2 * g((4, 8), 0.83, 0.5)
BIAS = 0.05 * g((4,), 1.0, 0.2)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (lambda: metrics.linear_cka(X, Y), 0.644148),
        (lambda: metrics.debiased_cka(X, Y), 0.579354),
        (lambda: metrics.minibatch_cka(X, Y, batch_size=10), 0.576412),
        (lambda: metrics.minibatch_cka(X, Y, batch_size=20), 0.579354),
        (lambda: metrics.rbf_cka(X, Y), 0.695762),
        (lambda: metrics.mean_cca(X, Y), 0.867482),
        (lambda: metrics.procrustes_distance(X, Y), 0.458987),
        (lambda: metrics.procrustes_distance(X, Y, angular=True), 0.691161),
        (lambda: metrics.knn_purity(Z, LABELS, k=5), 0.606667),
        (lambda: metrics.class_separation(Z, LABELS), 0.230674),
    ],
)
def test_closed_form(value, expected: float) -> None:
    assert value() == pytest.approx(expected, abs=6e-7)


def test_neural_collapse_closed_form() -> None:
    expected = {
        "nc1": 0.803796,
        "nc1_quotient": 2.12016,
        "nc2_equinorm": 0.0490400,
        "nc2_equiangular": 0.246165,
        "nc2_max_angle": 0.217304,
        "nc2_etf": 0.364091,
        "nc3": 0.187816,
        "nc3_duality": 0.378703,
        "nc4": 0.15,
    }
    assert metrics.neural_collapse(Z, LABELS, WEIGHT, BIAS) == pytest.approx(expected, abs=5e-6)


SIMILARITIES = [metrics.linear_cka, metrics.debiased_cka, metrics.rbf_cka]


def rotation(n: int) -> Tensor:
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_kernel_similarity_ignores_rotation_scale_and_shift(similarity) -> None:
    moved = 3.7 * X @ rotation(5) + torch.randn(5, dtype=torch.float64)
    assert similarity(moved, Y) == pytest.approx(similarity(X, Y), rel=1e-9)
    assert similarity(X, moved) == pytest.approx(1.0, rel=1e-9)
    stretched = X * torch.tensor([9.0, 1, 1, 1, 1])  # an invertible map that is no rotation
    assert similarity(stretched, Y) != pytest.approx(similarity(X, Y), rel=1e-3)


def test_procrustes_and_cca_invariances() -> None:
    moved = 0.2 * X @ rotation(5) - 4.0
    assert metrics.procrustes_distance(X, moved) == pytest.approx(0.0, abs=1e-9)
    linear = X @ torch.randn(5, 5, dtype=torch.float64) + 1.0
    assert metrics.mean_cca(X, linear) == pytest.approx(1.0, rel=1e-9)
    assert metrics.mean_cca(linear, Y) == pytest.approx(metrics.mean_cca(X, Y), rel=1e-9)


def test_dead_features_add_nothing_to_cca() -> None:
    dead = torch.cat([X, torch.zeros(20, 3, dtype=torch.float64)], dim=1)
    assert metrics.mean_cca(dead, Y) == pytest.approx(metrics.mean_cca(X, Y), rel=1e-9)


def test_unrelated_sides_show_the_bias_of_plain_cka() -> None:
    a, b = torch.randn(30, 60), torch.randn(30, 60)
    assert metrics.linear_cka(a, b) > 0.5
    assert abs(metrics.debiased_cka(a, b)) < 0.15


def test_purity_chance_and_collapse() -> None:
    target = torch.arange(400) % 4
    assert metrics.knn_purity(torch.randn(400, 6), target) == pytest.approx(0.25, abs=0.04)
    assert metrics.knn_purity(torch.eye(4)[target] * 5, target, k=20) == 1.0


def test_purity_gives_ties_to_the_lower_index() -> None:
    points = torch.tensor([[0.0], [1.0], [-1.0], [9.0]])  # 1 and 2 are equally far from 0
    assert metrics.knn_purity(points, torch.tensor([0, 0, 1, 1]), k=1) == pytest.approx((1 + 1 + 0 + 0) / 4)


def test_calibrated_simulator_has_little_error() -> None:
    logits = 1.5 * torch.randn(20000, 5, dtype=torch.float64)
    target = torch.multinomial(logits.softmax(1), 1)[:, 0]
    assert metrics.expected_calibration_error(logits, target) < 0.02
    assert metrics.expected_calibration_error(5 * logits, target) > 0.2


def test_certain_predictions_lie_in_the_last_bin() -> None:
    logits = 1e4 * torch.eye(4)
    assert metrics.expected_calibration_error(logits, torch.arange(4)) == 0.0
    assert metrics.expected_calibration_error(logits, torch.tensor([1, 2, 3, 0])) == 1.0


def test_perfect_collapse_is_zero() -> None:
    simplex = torch.eye(4, dtype=torch.float64) - 0.25
    labels = torch.arange(40) % 4
    found = metrics.neural_collapse(simplex[labels], labels, simplex, torch.zeros(4))
    assert all(abs(value) < 1e-9 for value in found.values())


def test_neural_collapse_ignores_a_common_rotation_and_scale() -> None:
    turn = rotation(8)
    before = metrics.neural_collapse(Z, LABELS, WEIGHT, BIAS)
    after = metrics.neural_collapse(2.5 * Z @ turn, LABELS, WEIGHT @ turn, BIAS / 2.5)
    for key in set(before) - {"nc4"}:
        assert after[key] == pytest.approx(before[key], rel=1e-8), key


def test_arrays_and_half_precision_are_read() -> None:
    assert metrics.linear_cka(X.numpy(), Y) == pytest.approx(metrics.linear_cka(X, Y))
    assert metrics.linear_cka(X.half(), Y.half()) == pytest.approx(metrics.linear_cka(X, Y), rel=1e-2)


@pytest.mark.parametrize("similarity", [*SIMILARITIES, metrics.procrustes_distance, metrics.mean_cca])
@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (X[:3], Y[:3], "at least 4"),
        (X, Y[:-1], "same samples"),
        (torch.cat([X[:-1], torch.full((1, 5), torch.nan)]), Y, "NaN or infinite values in 1 sample"),
        (torch.ones(20, 3), Y, "same for every sample"),
        (X[:, :, None], Y, "two dimensions"),
    ],
)
def test_similarity_refuses(similarity, x, y, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        similarity(x, y)


def test_cca_refuses_more_features_than_samples() -> None:
    with pytest.raises(ConfigError, match="debiased_cka"):
        metrics.mean_cca(torch.randn(10, 9), torch.randn(10, 2))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: metrics.knn_purity(Z, LABELS, k=60), "between 1 and 59"),
        (lambda: metrics.knn_purity(Z, torch.zeros(60, dtype=torch.long)), "one class"),
        (lambda: metrics.knn_purity(Z, LABELS[:-1]), "one label for each"),
        (lambda: metrics.class_separation(torch.zeros(8, 2), torch.arange(8) % 2), "no direction"),
        (lambda: metrics.neural_collapse(Z, LABELS % 3, WEIGHT, BIAS), "Class 3 has no sample"),
        (lambda: metrics.neural_collapse(Z, LABELS, WEIGHT[:3], BIAS[:3]), "labels from 0 to 3"),
        (lambda: metrics.neural_collapse(Z, LABELS, WEIGHT[:, :5], BIAS), "5|8 columns"),
        (lambda: metrics.minibatch_cka(X, Y, batch_size=3), "at least 4"),
        (lambda: metrics.rbf_cka(X, Y, sigma_scale=0.0), "positive"),
        (lambda: metrics.expected_calibration_error(Z, LABELS, bins=0), "at least one bin"),
        (lambda: metrics.expected_calibration_error(Z, LABELS + 8), "8 classes"),
        (lambda: metrics.top1_agreement(Z, Z[:, :3]), "8 classes and the teacher 3"),
        (lambda: metrics.class_separation(Z, np.full(60, np.nan)), "whole class numbers"),
    ],
)
def test_other_metrics_refuse(call, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        call()

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


# ---- spectra, neighbours, scatter ----------------------------------------------------------------------


def of_singular_values(values: list[float], n: int = 60) -> Tensor:
    """(n, p) centred features with these singular values."""
    raw = torch.randn(n, len(values), dtype=torch.float64)
    u = torch.linalg.qr(raw - raw.mean(dim=0))[0]
    return u * torch.tensor(values, dtype=torch.float64) @ rotation(len(values))


def test_effective_rank_and_participation_ratio_closed_form() -> None:
    even = of_singular_values([2.0] * 6)
    assert metrics.effective_rank(even) == pytest.approx(6.0, rel=1e-9)
    assert metrics.participation_ratio(even) == pytest.approx(6.0, rel=1e-9)
    uneven = of_singular_values([3.0, 1.0])  # shares 3/4, 1/4; variances 9, 1
    assert metrics.effective_rank(uneven) == pytest.approx((4 / 3) ** 0.75 * 4**0.25, rel=1e-9)
    assert metrics.participation_ratio(uneven) == pytest.approx(100 / 82, rel=1e-9)


def test_one_direction_is_one_dimension_however_many_features() -> None:
    line = torch.randn(40, 1, dtype=torch.float64) @ torch.randn(1, 300, dtype=torch.float64) + 7.0
    assert metrics.effective_rank(line) == pytest.approx(1.0, abs=1e-6)
    assert metrics.participation_ratio(line) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("function", [metrics.effective_rank, metrics.participation_ratio])
def test_spectra_ignore_rotation_scale_and_shift_and_have_their_range(function) -> None:
    moved = 3.7 * X @ rotation(5) + torch.randn(5, dtype=torch.float64)
    assert function(moved) == pytest.approx(function(X), rel=1e-9)
    assert 1.0 <= function(X) <= 5.0
    wide = torch.randn(10, 400)
    assert 8.0 < function(wide) <= 9.0, "n - 1 at most"
    with pytest.raises(ConfigError, match="same for every sample"):
        function(torch.ones(9, 3))


def test_neighbour_overlap_by_hand() -> None:
    left = torch.tensor([[0.0], [1.0], [3.0], [7.0]])  # nearest: 1, 0, 1, 2
    right = torch.tensor([[0.0], [1.0], [7.0], [3.0]])  # nearest: 1, 0, 3, 1
    assert metrics.neighbour_overlap(left, right, k=1) == pytest.approx(2 / 4)
    # two nearest: {1,2} {0,2} {1,0} {2,1} against {1,3} {0,3} {3,1} {1,0}: one shared of three each
    assert metrics.neighbour_overlap(left, right, k=2) == pytest.approx(1 / 3)
    ties = torch.tensor([[0.0], [1.0], [-1.0], [9.0]])
    moved = torch.tensor([[0.0], [1.0], [-1.5], [9.0]])
    assert metrics.neighbour_overlap(ties, moved, k=1) == 1.0, "of 1 and 2, equally far, the lower counts"


def test_neighbour_overlap_invariances_and_chance() -> None:
    x, y = torch.randn(300, 6, dtype=torch.float64), torch.randn(300, 4, dtype=torch.float64)
    assert metrics.neighbour_overlap(x, 0.3 * x @ rotation(6) + 2.0) == 1.0
    k, n = 10, 300
    assert metrics.neighbour_overlap(x, y, k) == pytest.approx(k / (2 * (n - 1) - k), abs=0.006)
    assert metrics.neighbour_overlap(x, y, n - 1) == 1.0


def test_fisher_ratio_closed_form() -> None:
    # two classes at -d and d in one feature with variance s^2 inside: S_B = d^2, S_W = s^2
    inside = torch.tensor([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0])
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    x = (torch.where(labels == 0, -3.0, 3.0) + 0.5 * inside)[:, None]
    assert metrics.fisher_ratio(x, labels, shrinkage=0.0) == pytest.approx(36.0)
    # a second, useless feature: S_W = diag(1/4, 4); half shrunk: (1/4 + 17/8)/2 in the first
    other = torch.tensor([2.0, 2.0, -2.0, -2.0, 2.0, 2.0, -2.0, -2.0])[:, None]
    both = torch.cat([x, other], dim=1)
    assert metrics.fisher_ratio(both, labels, shrinkage=0.0) == pytest.approx(36.0)
    assert metrics.fisher_ratio(both, labels, shrinkage=0.5) == pytest.approx(9 / (0.125 + 17 / 16))
    assert metrics.fisher_ratio(both, labels, shrinkage=1.0) == pytest.approx(9 / (17 / 8))


def test_fisher_ratio_ignores_invertible_maps_and_dead_features() -> None:
    mapped = Z @ torch.randn(8, 8, dtype=torch.float64) + 3.0
    before = metrics.fisher_ratio(Z, LABELS, shrinkage=0.0)
    assert metrics.fisher_ratio(mapped, LABELS, shrinkage=0.0) == pytest.approx(before, rel=1e-7)
    turned = 4.0 * Z @ rotation(8) - 1.0
    assert metrics.fisher_ratio(turned, LABELS) == pytest.approx(metrics.fisher_ratio(Z, LABELS), rel=1e-9)
    dead = torch.cat([Z, torch.full((60, 5), 2.0, dtype=torch.float64)], dim=1)
    assert metrics.fisher_ratio(dead, LABELS) == pytest.approx(metrics.fisher_ratio(Z, LABELS), rel=1e-12)


def test_shrinkage_is_that_of_ledoit_and_wolf() -> None:
    from sklearn.covariance import ledoit_wolf

    for n, p in ((60, 8), (40, 90)):
        labels = torch.arange(n) % 4
        x = torch.randn(n, p, dtype=torch.float64) * torch.linspace(1, 5, p)
        means = torch.stack([x[labels == c].mean(0) for c in range(4)])
        wanted = ledoit_wolf((x - means[labels]).numpy(), assume_centered=True)[1]
        assert metrics.fisher_shrinkage(x, labels) == pytest.approx(wanted, rel=1e-9)
        assert metrics.fisher_ratio(x, labels) > 0, "also for more features than samples"


def test_silhouette_reference_and_chance() -> None:
    assert metrics.silhouette(Z, LABELS) == pytest.approx(0.114454, abs=5e-7)
    assert metrics.silhouette(torch.randn(400, 20), torch.arange(400) % 4) == pytest.approx(0.0, abs=0.03)
    assert metrics.silhouette(torch.eye(4)[LABELS] * 5, LABELS) == pytest.approx(1.0)


def test_neural_collapse_without_a_classifier() -> None:
    whole = metrics.neural_collapse(Z, LABELS, WEIGHT, BIAS)
    part = metrics.neural_collapse(Z, LABELS)
    assert part == {key: value for key, value in whole.items() if key.startswith(("nc1", "nc2"))}
    assert metrics.neural_collapse(Z, LABELS * 3 + 5) == pytest.approx(part), "class numbers do not count"
    assert metrics.neural_collapse(Z, LABELS, WEIGHT) == pytest.approx(
        metrics.neural_collapse(Z, LABELS, WEIGHT, torch.zeros(4))
    )


@pytest.mark.parametrize(("classes", "width"), [(10, 4), (4, 2), (6, 5), (5, 9)])
def test_too_few_features_keep_the_simplex_away(classes: int, width: int) -> None:
    """The floor is reached by the best means that fit, and no other means go below."""
    floor = metrics.etf_floor(classes, width)
    simplex = torch.eye(classes, dtype=torch.float64) - 1 / classes
    vectors = torch.linalg.eigh(simplex)[1].flip(1)[:, : min(width, classes - 1)]
    best = torch.zeros(classes, width, dtype=torch.float64)
    best[:, : vectors.shape[1]] = vectors
    labels = torch.arange(4 * classes) % classes
    found = metrics.neural_collapse(best[labels], labels)["nc2_etf"]
    assert found == pytest.approx(floor, abs=1e-7)
    assert (floor == 0.0) == (classes <= width + 1)
    for _ in range(20):
        means = torch.randn(classes, width, dtype=torch.float64)
        assert metrics.neural_collapse(means[labels], labels)["nc2_etf"] >= floor - 1e-9


# ---- calibration ---------------------------------------------------------------------------------------


def test_nll_and_brier_closed_form() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2]] * 4, dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 0])
    wanted = -(2 * math.log(0.5) + math.log(0.3) + math.log(0.2)) / 4
    assert metrics.negative_log_likelihood(p.log(), target) == pytest.approx(wanted)
    brier = (2 * (0.25 + 0.09 + 0.04) + (0.25 + 0.49 + 0.04) + (0.25 + 0.09 + 0.64)) / 4
    assert metrics.brier_score(p.log(), target) == pytest.approx(brier)
    even = torch.zeros(8, 5)
    assert metrics.negative_log_likelihood(even, torch.arange(8) % 5) == pytest.approx(math.log(5))
    assert metrics.brier_score(even, torch.arange(8) % 5) == pytest.approx(1 - 1 / 5)
    sure = 1e4 * torch.eye(4)
    assert metrics.brier_score(sure, torch.tensor([1, 2, 3, 0])) == 2.0
    assert metrics.negative_log_likelihood(sure, torch.arange(4)) == 0.0


def test_scores_agree_with_scikit_learn() -> None:
    from sklearn.metrics import log_loss

    logits, target = torch.randn(50, 6, dtype=torch.float64) * 2, torch.arange(50) % 6
    wanted = log_loss(target.numpy(), (logits / 1.7).softmax(1).numpy())
    assert metrics.negative_log_likelihood(logits, target, temperature=1.7) == pytest.approx(wanted, rel=1e-9)


def test_adaptive_error_by_hand() -> None:
    # confidences .6 .7 .8 .9, right on the second and the last: two bins of two
    top = torch.tensor([0.6, 0.7, 0.8, 0.9], dtype=torch.float64)
    logits = torch.stack([top, 1 - top], dim=1).log()
    target = torch.tensor([1, 0, 1, 0])
    wanted = (abs(1 - 1.3) + abs(1 - 1.7)) / 4
    assert metrics.adaptive_calibration_error(logits, target, bins=2) == pytest.approx(wanted)
    assert metrics.adaptive_calibration_error(logits, target, bins=1) == pytest.approx(1.0 / 4)
    every = (0.6 + 0.3 + 0.8 + 0.1) / 4
    assert metrics.adaptive_calibration_error(logits, target, bins=99) == pytest.approx(every)


def test_adaptive_error_does_not_depend_on_the_order_of_ties() -> None:
    logits = torch.tensor([[2.0, 0.0]] * 10)
    target = torch.tensor([0] * 7 + [1] * 3)
    one = metrics.adaptive_calibration_error(logits, target, bins=5)
    assert metrics.adaptive_calibration_error(logits, target.flip(0), bins=5) == pytest.approx(one)
    confidence = 1 / (1 + math.exp(-2))
    assert one == pytest.approx(abs(0.7 - confidence))


def test_adaptive_error_of_a_calibrated_simulator() -> None:
    logits = 1.5 * torch.randn(20000, 5, dtype=torch.float64)
    target = torch.multinomial(logits.softmax(1), 1)[:, 0]
    assert metrics.adaptive_calibration_error(logits, target) < 0.02
    assert metrics.adaptive_calibration_error(5 * logits, target) > 0.2


def test_reliability_bins_give_back_the_error() -> None:
    logits, target = 2 * torch.randn(300, 5, dtype=torch.float64), torch.arange(300) % 5
    counts, accuracy, confidence = metrics.reliability_bins(logits, target, bins=12)
    assert int(counts.sum()) == 300
    filled = counts > 0
    assert torch.isnan(accuracy[~filled]).all()
    edges = torch.linspace(0, 1, 13, dtype=torch.float64)
    assert (confidence[filled] > edges[:-1][filled]).all() and (confidence[filled] <= edges[1:][filled]).all()
    gap = (counts * (accuracy - confidence).abs())[filled].sum() / 300
    assert float(gap) == pytest.approx(metrics.expected_calibration_error(logits, target, bins=12), rel=1e-12)


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_of_a_simulator_is_found(true: float) -> None:
    logits = 2 * torch.randn(40000, 6, dtype=torch.float64)
    target = torch.multinomial((logits / true).softmax(1), 1)[:, 0]
    assert metrics.optimal_temperature(logits, target) == pytest.approx(true, rel=0.03)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_the_temperature_is_the_optimum(scale: float) -> None:
    """Exactly: scipy finds no better one, and scaled logits have the scaled temperature."""
    from scipy.optimize import minimize_scalar

    logits = torch.randn(80, 5, dtype=torch.float64)
    logits[torch.arange(80), torch.arange(80) % 5] += 1.0
    target = torch.arange(80) % 5
    tau = metrics.optimal_temperature(scale * logits, target)
    if scale < 0.01:
        assert tau == 0.01, "the end of the range"
        return
    found = minimize_scalar(
        lambda t: metrics.negative_log_likelihood(scale * logits, target, math.exp(t)),
        bounds=(-4.6, 4.6),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert tau == pytest.approx(math.exp(found.x), rel=1e-5)
    assert metrics.negative_log_likelihood(scale * logits, target, tau) <= found.fun + 1e-12
    # the slope of the NLL in 1/T is 0 there: the mean logit expected is the mean logit of the label
    p = (scale * logits / tau).softmax(1)
    own = logits[torch.arange(80), target].mean()
    assert float((p * logits).sum(1).mean()) == pytest.approx(float(own), rel=1e-9)


def test_the_temperature_stays_in_its_range_where_there_is_none() -> None:
    right = torch.eye(4)[torch.arange(8) % 4]
    assert metrics.optimal_temperature(right, torch.arange(8) % 4) == 0.01
    assert metrics.optimal_temperature(right, (torch.arange(8) + 1) % 4) == 100.0


def test_wilson_interval() -> None:
    low, high = metrics.wilson_interval([0, 5, 10, 0], [10, 10, 10, 0])
    # 10 tries without a hit: 0 to z^2 / (n + z^2)
    assert float(low[0]) == pytest.approx(0.0, abs=1e-12)
    assert float(high[0]) == pytest.approx(3.841459 / 13.841459, rel=1e-5)
    assert float(low[1]) == pytest.approx(0.236593, abs=1e-5)
    assert float(high[2]) == 1.0
    assert float(low[2]) == pytest.approx(1 - float(high[0]))
    assert torch.isnan(low[3])


# ---- fidelity ------------------------------------------------------------------------------------------

ONE = torch.tensor([[3.0, 1, 0], [0, 3, 1], [0, 3, 1], [1, 0, 3], [3, 0, 1]])  # says 0 1 1 2 0
TWO = torch.tensor([[2.0, 1, 0], [0, 2, 1], [2, 0, 1], [0, 2, 1], [1, 0, 2]])  # says 0 1 0 1 2
TRUE = torch.tensor([0, 1, 0, 2, 1])


def test_agreement_by_correctness_by_hand() -> None:
    found = metrics.agreement_by_correctness(ONE, TWO, TRUE)
    assert found == pytest.approx(
        {
            "agreement": 2 / 5,
            "teacher_right": 2 / 3,  # of pictures 0, 1, 2
            "teacher_wrong": 0.0,
            "both_right": 2 / 5,
            "student_wrong": 1 / 5,
            "student_right": 1 / 5,
            "both_wrong": 1 / 5,
            "same_error": 0.0,
        }
    )
    same = metrics.agreement_by_correctness(TWO, TWO, TRUE)
    assert same["agreement"] == same["teacher_right"] == same["teacher_wrong"] == 1.0
    assert same["same_error"] == pytest.approx(2 / 5)
    perfect = metrics.agreement_by_correctness(ONE, torch.eye(3)[TRUE], TRUE)
    assert math.isnan(perfect["teacher_wrong"])
    assert metrics.top1_agreement(ONE, TWO) == pytest.approx(2 / 5)


def test_fidelity_kl_closed_form() -> None:
    p, q = torch.tensor([[0.5, 0.5]] * 4), torch.tensor([[0.9, 0.1]] * 4)
    wanted = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert metrics.fidelity_kl(q.log(), p.log()) == pytest.approx(wanted, rel=1e-6)
    assert metrics.fidelity_kl(p.log(), q.log()) != pytest.approx(wanted, rel=1e-2), "not symmetric"
    assert metrics.fidelity_kl(ONE + 5.0, ONE) == pytest.approx(0.0, abs=1e-12), "logits up to a constant"
    assert metrics.fidelity_kl(3 * ONE, 3 * TWO, 3.0) == pytest.approx(metrics.fidelity_kl(ONE, TWO))


def test_fidelity_kl_is_the_kd_loss_without_its_factor() -> None:
    from kdlab import losses

    tau = 4.0
    loss = float(losses.kd(ONE.double(), TWO.double(), tau))
    assert metrics.fidelity_kl(ONE, TWO, tau) == pytest.approx(loss / tau**2, rel=1e-9)


def test_topk_overlap() -> None:
    descending = torch.arange(12, 0, -1.0).expand(5, 12)
    assert metrics.topk_overlap(descending, descending + 1) == 1.0
    assert metrics.topk_overlap(descending, descending.flip(1)) == 0.0
    shifted = descending.roll(2, dims=1)  # the highest five are 2 .. 6 instead of 0 .. 4
    assert metrics.topk_overlap(descending, shifted) == pytest.approx(3 / 5)
    assert metrics.topk_overlap(torch.zeros(5, 12), descending) == 1.0, "ties go to the lower class"
    chance = metrics.topk_overlap(torch.randn(2000, 20), torch.randn(2000, 20))
    assert chance == pytest.approx(5 / 20, abs=0.01)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: metrics.neighbour_overlap(X, Y, k=20), "between 1 and 19"),
        (lambda: metrics.neighbour_overlap(X, Y[:-1]), "same samples"),
        (lambda: metrics.fisher_ratio(Z, LABELS, shrinkage=1.5), "0 .. 1"),
        (lambda: metrics.fisher_ratio(torch.randn(10, 30), torch.arange(10) % 2, 0.0), "no inverse"),
        (lambda: metrics.fisher_ratio(torch.eye(4)[LABELS], LABELS), "no bound"),
        (lambda: metrics.fisher_ratio(torch.ones(8, 3), torch.arange(8) % 2), "no bound"),
        (lambda: metrics.fisher_ratio(torch.randn(8, 3), torch.arange(8)), "needs two"),
        (lambda: metrics.silhouette(torch.randn(8, 3), torch.arange(8)), "needs two"),
        (lambda: metrics.silhouette(Z, LABELS * 0), "one class"),
        (lambda: metrics.effective_rank(torch.full((8, 3), torch.nan)), "NaN"),
        (lambda: metrics.brier_score(Z, LABELS + 8), "8 classes"),
        (lambda: metrics.adaptive_calibration_error(Z, LABELS, bins=0), "at least one bin"),
        (lambda: metrics.reliability_bins(Z, LABELS, bins=0), "at least one bin"),
        (lambda: metrics.negative_log_likelihood(Z, LABELS, temperature=0.0), "positive"),
        (lambda: metrics.fidelity_kl(ONE, TWO, -1.0), "positive"),
        (lambda: metrics.fidelity_kl(ONE, TWO[:, :2]), "3 classes and the teacher 2"),
        (lambda: metrics.topk_overlap(ONE, TWO), "between 1 and 2"),
        (lambda: metrics.agreement_by_correctness(ONE, TWO[:4], TRUE), "same samples"),
        (lambda: metrics.agreement_by_correctness(ONE, TWO, TRUE + 2), "3 classes"),
        (lambda: metrics.neural_collapse(Z, LABELS, WEIGHT, BIAS[:2]), "2 entries for 4 classes"),
    ],
)
def test_new_metrics_refuse(call, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        call()

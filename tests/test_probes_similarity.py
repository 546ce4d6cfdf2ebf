"""Similarity of layers: closed forms, all pairs against one pair at a time, controls, figures; neighbours."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_study import FakeStudy
from torch import Tensor

import kdlab
from kdlab import plots, probes
from kdlab.errors import ConfigError, StudyError, UnknownNameError
from kdlab.probes import metrics
from kdlab.probes.metrics.pairs import METRICS, compare, minibatch_cka_stream, prepare, similarity_matrix
from kdlab.probes.neighbours import Neighbours, neighbours
from kdlab.probes.similarity import Similarity, similarity
from tests.small_study import small


def g(shape: tuple[int, ...], a: float, b: float, scale: float = 1.0) -> Tensor:
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(a * i + b + 0.1 * i**2)).reshape(shape)


X = g((20, 5), 0.71, 0.1) + 0.3 * g((20, 5), 1.37, 0.9)
Y = torch.tanh(X @ g((5, 4), 0.53, 0.4)) + 0.5 * g((20, 4), 2.11, 0.8)

CLOSED = {
    "cka": 0.644148,
    "cka_debiased": 0.579354,
    "cka_minibatch": 0.576412,
    "cka_rbf": 0.695762,
    "procrustes": 0.458987,
    "procrustes_angular": 0.691161,
    "cca": 0.867482,
    "svcca": 0.853787,
    "pwcca": 0.866539,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> kdlab.Study:
    folder = tmp_path_factory.mktemp("alike")
    fitted: kdlab.Study = small(folder, seeds=2).fit(progress=False)
    return fitted


# ---- functions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_closed_form(metric: str) -> None:
    assert set(CLOSED) == set(METRICS)
    value = similarity_matrix([X], [Y], metric, batch_size=10)
    assert value.shape == (1, 1) and abs(value[0, 0] - CLOSED[metric]) < 1e-6


def test_svcca_and_pwcca_alone() -> None:
    assert abs(metrics.svcca(X, Y) - 0.853787) < 1e-6
    assert abs(metrics.pwcca(X, Y) - 0.866539) < 1e-6
    assert metrics.svcca(X, X) == pytest.approx(1.0) and metrics.pwcca(X, X) == pytest.approx(1.0)
    with pytest.raises(ConfigError, match="keep"):
        metrics.svcca(X, Y, keep=1.5)
    with pytest.raises(ConfigError, match="far more samples"):
        metrics.pwcca(torch.randn(10, 9), torch.randn(10, 4))


SINGLE = {
    "cka": metrics.linear_cka,
    "cka_debiased": metrics.debiased_cka,
    "cka_minibatch": lambda x, y: metrics.minibatch_cka(x, y, 64),
    "cka_rbf": metrics.rbf_cka,
    "procrustes": metrics.procrustes_distance,
    "procrustes_angular": lambda x, y: metrics.procrustes_distance(x, y, angular=True),
    "cca": metrics.mean_cca,
    "svcca": metrics.svcca,
    "pwcca": metrics.pwcca,
}


def layers(n: int, widths: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """Layers that share a signal, with offsets, scales and a dead feature as networks have them."""
    generator = np.random.default_rng(seed)
    signal = np.random.default_rng(99).normal(size=(n, 6))
    out = []
    for width in widths:
        table = signal @ generator.normal(size=(6, width)) + generator.normal(size=(n, width))
        table = np.maximum(3.0 * table + 1.0, 0.0)
        table[:, 0] = 0.0
        out.append(table)
    return out


@pytest.mark.parametrize("metric", METRICS)
def test_all_pairs_at_once_are_the_pairs_one_by_one(metric: str) -> None:
    lefts, rights = layers(150, (4, 9, 17), 1), layers(150, (6, 12), 2)
    table = similarity_matrix(lefts, rights, metric)
    single = np.array([[SINGLE[metric](x, y) for y in rights] for x in lefts])
    assert table.shape == (3, 2)
    np.testing.assert_allclose(table, single, rtol=1e-8, atol=1e-9)


def test_linear_cka_in_feature_space_is_that_of_full_gram_matrices() -> None:
    lefts, rights = layers(120, (5, 30, 200), 3), layers(120, (8, 150), 4)
    centre = np.eye(120) - 1.0 / 120
    k, m = ([centre @ (t @ t.T) @ centre for t in side] for side in (lefts, rights))
    gram = [[(a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b) for b in m] for a in k]
    np.testing.assert_allclose(similarity_matrix(lefts, rights), gram, rtol=1e-9)


@pytest.mark.parametrize("metric", [m for m in METRICS if m not in ("svcca", "pwcca")])
def test_rotation_shift_and_scale_change_nothing(metric: str) -> None:
    x, y = layers(150, (5,), 1)[0], layers(150, (7,), 2)[0]
    turned = 2.5 * y @ np.linalg.qr(np.random.default_rng(0).normal(size=(7, 7)))[0] + 4.0
    np.testing.assert_allclose(
        similarity_matrix([x], [turned], metric), similarity_matrix([x], [y], metric), rtol=1e-7
    )


@pytest.mark.parametrize("metric", METRICS)
def test_a_layer_equals_itself(metric: str) -> None:
    tables = layers(150, (4, 9), 1)
    best = 0.0 if "procrustes" in metric else 1.0
    # arccos near 1 turns rounding of 1e-16 into 1e-8
    np.testing.assert_allclose(np.diag(similarity_matrix(tables, tables, metric)), best, atol=1e-6)


@pytest.mark.parametrize("metric", [m for m in METRICS if m != "cka_minibatch"])
def test_permuting_what_is_prepared_is_permuting_the_features(metric: str) -> None:
    lefts, rights = layers(100, (4, 7), 1), layers(100, (5,), 2)
    order = np.random.default_rng(0).permutation(100)
    quick = compare(prepare(lefts, metric), prepare(rights, metric).permuted(order))
    np.testing.assert_allclose(
        quick, similarity_matrix(lefts, [t[order] for t in rights], metric), rtol=1e-7, atol=1e-9
    )


def test_shuffled_pictures_are_at_chance_only_where_debiased() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(60, 80)), generator.normal(size=(60, 80))
    assert metrics.linear_cka(x, y) > 0.4  # the bias that the protocol warns of
    assert abs(similarity_matrix([x], [y], "cka_debiased")[0, 0]) < 0.1


def test_streamed_batches_are_the_minibatch_form() -> None:
    lefts, rights = layers(200, (4, 9), 1), layers(200, (6, 5), 2)
    parts = [slice(start, start + 50) for start in range(0, 200, 50)]
    batches = (([t[p] for t in lefts], {str(i): t[p] for i, t in enumerate(rights)}) for p in parts)
    whole = similarity_matrix(lefts, rights, "cka_minibatch", batch_size=50)
    np.testing.assert_allclose(minibatch_cka_stream(batches), whole, rtol=1e-10)
    mean_of_ratios = np.mean([similarity_matrix([lefts[0][p]], [rights[0][p]], "cka") for p in parts])
    assert abs(mean_of_ratios - whole[0, 0]) > 1e-3  # averaging CKA over batches is another thing
    single = minibatch_cka_stream([(X, Y), (X[:2], Y[:2])])
    assert single[0, 0] == pytest.approx(metrics.debiased_cka(X, Y))
    for bad, says in (([], "no batch"), ([(X, Y[:10])], "different numbers"), ([(X * np.nan, Y)], "NaN")):
        with pytest.raises(ConfigError, match=says):
            minibatch_cka_stream(bad)


def test_constant_layers_are_left_out_and_bad_ones_refused() -> None:
    tables = [*layers(60, (4,), 1), np.full((60, 3), 2.5)]
    table = similarity_matrix(tables, tables)
    assert np.isfinite(table).tolist() == [[True, False], [False, False]]
    for call, says in (
        (lambda: similarity_matrix([X], [Y[:10]]), "same samples"),
        (lambda: similarity_matrix([X], [Y * float("nan")]), "NaN"),
        (lambda: similarity_matrix([X, Y[:10]], [Y]), "layer 2 has 10 samples"),
        (lambda: similarity_matrix([X[:3]], [Y[:3]]), "at least 4"),
        (lambda: similarity_matrix([], [Y]), "no layer"),
        (lambda: similarity_matrix([X], [Y], "cka_minibatch", batch_size=2), "batch_size"),
        (lambda: similarity_matrix([np.ones((40_000, 1))] * 2, [Y], "cka_rbf"), "do not fit into memory"),
        (lambda: similarity_matrix([X], [Y], "rsa"), "similarity named 'rsa'"),
        (lambda: compare(prepare([X]), prepare([Y], "cca")), "prepared for"),
    ):
        with pytest.raises(ConfigError, match=says):
            call()


# ---- the probe -------------------------------------------------------------------------------------


def test_of_a_real_study(study: kdlab.Study) -> None:
    result = similarity(study)
    assert result.pairs == (("resnet8", "alone"), ("resnet8", "KD"))
    assert result.epochs == (0, 1, 2, 3) and result.seeds == (0, 1)
    pair = ("resnet8", "KD")
    assert result.values[pair].shape == (4, 2, 3, 3) and np.isfinite(result.values[pair]).all()
    seen, theirs = study.snapshot("KD", epoch=2, seed=1), study.snapshot("resnet8")
    expected = metrics.linear_cka(theirs.stages["layer1"], seen.stages["layer3"])
    assert result.values[pair][2, 1, 0, 2] == pytest.approx(expected, rel=1e-9)
    # students that differ in their loss alone start from the same weights
    assert np.allclose(result.values[pair][0], result.values["resnet8", "alone"][0])
    assert np.allclose(result.untrained[pair], result.values[pair][0].mean(axis=0))
    one, two = (study.snapshot("KD", epoch=3, seed=s).stages["layer2"] for s in (0, 1))
    assert result.second_seed["KD"][3, 1, 1] == pytest.approx(metrics.linear_cka(one, two))
    assert (result.chance[pair] < 0.2).all() and result.n == 80
    assert "two seeds of KD" in result.summary and "untrained" in result.summary
    assert "fewer than 10 times" in result.protocol and "values come out too high" in result.protocol
    frame = result.to_frame()
    assert len(frame) == 2 * 4 * 2 * 9 and {"cka", "untrained", "chance"} <= set(frame.columns)


def test_a_better_student_is_nearer_to_the_teacher_and_nearer_with_time() -> None:
    result = similarity(FakeStudy(), layers="stage3")
    last = {right: result.mean((left, right))[-1, 0, 0] for left, right in result.pairs}
    assert last["KD"] > last["alone"]  # by design of the fake study
    for pair in result.pairs:
        assert (np.diff(result.mean(pair)[:, 0, 0]) > 0).all()
        assert result.chance[pair][0, 0] < 0.1 < last[pair[1]]


def test_ways_to_compare() -> None:
    fake = FakeStudy(seeds=(0,))
    itself = similarity(fake, against="self", students="KD", epochs="last")
    assert itself.pairs == (("teacher", "teacher"), ("KD", "KD"))
    assert np.allclose(np.diagonal(itself.mean(("KD", "KD"))[0]), 1.0)
    assert itself.corresponding(("KD", "KD")) == [(0, 1), (1, 2)] and "neighbouring" in itself.summary
    first = similarity(fake, against="first", students="KD")
    diagonal = np.diagonal(first.mean(("KD", "KD")), axis1=1, axis2=2)
    assert np.allclose(diagonal[0], 1.0) and (diagonal[-1] < 0.999).all() and not first.untrained
    last = similarity(fake, against="last", students="KD")
    assert np.allclose(np.diagonal(last.mean(("KD", "KD")), axis1=1, axis2=2)[-1], 1.0)
    assert np.allclose(last.mean(("KD", "KD"))[0], first.mean(("KD", "KD"))[-1].T)
    assert similarity(fake, against="students").pairs == (("alone", "KD"), ("alone", "CMKD"), ("KD", "CMKD"))
    assert similarity(fake, against="KD").pairs == (("KD", "alone"), ("KD", "CMKD"))
    assert not itself.second_seed  # a single seed has no other


def test_students_that_come_and_go_leave_gaps() -> None:
    fake = FakeStudy(seeds=(0,), late={"KD": 2}, gone={"alone": 2})
    result = similarity(fake)
    there = {right: np.isfinite(result.mean((left, right))).all(axis=(1, 2)) for left, right in result.pairs}
    assert there["KD"].tolist() == [False, False, True]
    assert there["alone"].tolist() == [True, True, False]
    assert "KD with teacher" in result.summary and "alone with teacher" not in result.summary
    apart = similarity(fake, against="alone")
    assert np.isnan(apart.values["alone", "KD"]).all() and "no epoch in common" in apart.protocol
    for one in (result, apart):
        assert len(plots.similarity(one).frames) == 3


def test_modules_tables_and_twins() -> None:
    torch.manual_seed(0)
    nets = {
        "big": kdlab.models.build("resnet14", num_classes=10, in_channels=1),
        "small": kdlab.models.build("resnet8", num_classes=10, in_channels=1),
    }
    result = similarity(nets, "cka_debiased", data="digits", n=60, teacher="big")
    pair = ("big", "small")
    assert result.values[pair].shape == (1, 1, 3, 3)
    # an untrained network is as near as another untrained one
    assert np.abs(result.untrained[pair] - result.values[pair][0, 0]).max() < 0.5
    assert "fewer than 10 times" not in result.protocol  # debiased
    table = layers(300, (4, 8), 1)
    arrays = similarity({"a": dict(zip("pq", table, strict=True)), "b": table[1]}, "procrustes")
    assert arrays.layers == {"a": ("p", "q"), "b": ("embedding",)} and arrays.is_distance
    assert arrays.values["a", "b"][0, 0, 1, 0] == pytest.approx(0.0, abs=1e-9)
    assert arrays.corresponding(("a", "b")) == [(0, 0)]
    assert "given as features" in arrays.protocol and not arrays.untrained


def test_diverged_and_constant_networks() -> None:
    good = layers(50, (4,), 1)[0]
    with pytest.raises(ConfigError, match="'bad'|bad"):
        similarity({"good": good, "bad": np.full_like(good, np.inf)})
    dull = similarity({"good": good, "dull": np.ones((50, 3))})
    assert np.isnan(dull.values["good", "dull"]).all()
    assert "same for every picture: embedding of dull" in dull.protocol


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: similarity(FakeStudy(), "ckaa"), UnknownNameError, "did you mean 'cka'"),
        (lambda: similarity(FakeStudy(), against="nobody"), UnknownNameError, "nobody"),
        (lambda: similarity(FakeStudy(), layers="stage9"), UnknownNameError, "stage9"),
        (lambda: similarity(FakeStudy(), epochs=5), ConfigError, "no snapshot of epoch 5"),
        (lambda: similarity(FakeStudy(), students="nobody"), UnknownNameError, "nobody"),
        (lambda: similarity(FakeStudy(), permutations=0), ConfigError, "permutations"),
        (lambda: similarity(FakeStudy(), batch=3), UnknownNameError, "batch_size"),
        (
            lambda: similarity(FakeStudy(), against="students", students="KD"),
            ConfigError,
            "nobody to compare",
        ),
        (lambda: similarity(FakeStudy(trained=False)), StudyError, "no snapshot"),
        (lambda: similarity({"a": X[:10, :5], "b": torch.randn(10, 9)}, "cca"), ConfigError, "more samples"),
        (lambda: similarity({"a": X, "b": Y[:10]}), ConfigError, "same samples"),
    ],
)
def test_refusals(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_result_and_figures_come_back_from_a_file(tmp_path: Path) -> None:
    result = similarity(FakeStudy(), "procrustes")
    again = probes.load_result(result.save(tmp_path / "alike"))
    assert isinstance(again, Similarity) and again.summary == result.summary
    assert again.to_frame().equals(result.to_frame())
    figure = again.plot()
    assert figure.layout.meta["summary"].startswith("Procrustes distance")
    assert figure.layout.coloraxis.cmax == 2.0 and figure.layout.coloraxis.reversescale
    assert len(figure.frames) == 3


# ---- figures ---------------------------------------------------------------------------------------


def test_matrices_show_the_numbers_on_one_scale() -> None:
    result = similarity(FakeStudy())
    figure = plots.similarity(result)
    heats = [t for t in figure.data if t.type == "heatmap"]
    assert len(heats) == 9 and {t.coloraxis for t in heats} == {"coloraxis"}  # pairs x (it, untrained, seeds)
    pair = result.pairs[0]
    np.testing.assert_allclose(np.asarray(heats[0].z), result.mean(pair)[-1])
    np.testing.assert_allclose(np.asarray(heats[1].z), result.untrained[pair])
    np.testing.assert_allclose(np.asarray(heats[2].z), result.second_seed[pair[1]][-1])
    numbers = next(t for t in figure.data if t.type == "scatter")
    assert [float(v) for v in numbers.text] == [round(v, 2) for v in result.mean(pair)[-1].ravel()]
    np.testing.assert_allclose(np.asarray(figure.frames[0].data[0].z), result.mean(pair)[0])
    assert all(figure.data[i].type in ("heatmap", "scatter") for i in figure.frames[0].traces)
    json.loads(plots.similarity(result, dark=True, title="x").to_json())


def test_lines_over_epochs_have_their_controls() -> None:
    result = similarity(FakeStudy())
    figure = plots.similarity_epochs(result, layer="stage2")
    named = {t.name: t for t in figure.data if t.name}
    assert {"alone", "KD", "CMKD", "shuffled pictures (chance)"} <= set(named)
    np.testing.assert_allclose(named["KD"].y, result.mean(("teacher", "KD"))[:, 1, 1])
    thin = [t for t in figure.data if t.line.width == 1.1 and t.y[0] is not None]
    np.testing.assert_allclose(thin[1].y, result.second_seed["KD"][:, 1, 1])
    with pytest.raises(UnknownNameError, match="stage9"):
        plots.similarity_epochs(result, layer="stage9")
    with pytest.raises(ConfigError, match="single epoch"):
        plots.similarity_epochs(similarity(FakeStudy(), epochs="last"))


# ---- neighbours ------------------------------------------------------------------------------------


def test_neighbours_are_those_of_scikit_learn() -> None:
    from sklearn.neighbors import NearestNeighbors

    fake = FakeStudy()
    source = probes.as_source(fake)
    result = neighbours(fake, 3, 5)
    assert isinstance(result, Neighbours) and result.networks == ("teacher", "alone", "KD", "CMKD")
    shown = np.flatnonzero(~source.fit)
    for n, name in enumerate(result.networks):
        table = source.view(name, 6, 0).embedding[shown].astype(np.float64)
        found = NearestNeighbors(n_neighbors=5).fit(table).kneighbors()
        assert result.places[n].tolist() == found[1][3].tolist()
        ratio = result.distance[n] / found[0][3]
        assert np.allclose(ratio, ratio[0])
    assert result.indices.tolist() == shown[result.places].tolist()
    assert result.shared[0] == 1.0 and (result.labels == source.target[result.indices]).all()
    figure = result.plot()
    assert len(figure.layout.images) == 4 * 5 + 1 and figure.layout.meta["summary"] == result.summary


def test_neighbours_of_a_map_are_those_of_its_pictures(tmp_path: Path) -> None:
    space = probes.embed(FakeStudy(late={"KD": 2}), "pca", n=40)
    result = neighbours(space, 7, 4, epoch=0)
    assert result.networks == ("teacher", "alone", "CMKD")  # KD came later
    assert np.isnan(result.distance).all() and 7 not in result.places
    assert neighbours(space, 7, 4, students="KD").networks == ("teacher", "KD")
    own = neighbours(space, 7, 4)
    again = probes.load_result(own.save(tmp_path / "near"))
    assert again.summary == own.summary and len(own.to_frame()) == 16
    for call, says in (
        (lambda: neighbours(space, 40), "0 .. 39"),
        (lambda: neighbours(space, 0, 99), "1 .. 10"),
        (lambda: neighbours(space, 0, epoch=4), "no epoch 4"),
        (lambda: neighbours(FakeStudy(), -1), "0 .. 95"),
    ):
        with pytest.raises(ConfigError, match=says):
            call()


def test_modules_have_their_own_names() -> None:
    """Exported functions hide modules of the same name; both can be reached."""
    assert importlib.import_module("kdlab.probes.similarity").similarity is probes.similarity

"""Maps: t-SNE backends, alignment, and what `embed` reports beside the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_study import FakeStudy

from kdlab import probes
from kdlab.errors import ConfigError, StudyError, UnknownNameError
from kdlab.probes.alignment import into_teacher_space, procrustes_map, residual, ridge_map, rigid
from kdlab.probes.maps import trustworthiness
from kdlab.probes.tsne import joint_probabilities, tsne


def clusters(n: int = 150, classes: int = 5, width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return generator.normal(size=(classes, width))[labels] * 3 + generator.normal(size=(n, width)), labels


def test_affinities_have_the_perplexity_asked_for() -> None:
    x, _ = clusters()
    p = joint_probabilities(torch.from_numpy(x), 20.0)
    assert float(p.sum()) == pytest.approx(1.0, rel=1e-6)
    assert torch.equal(p, p.T)
    assert float(p.diagonal().abs().max()) == 0.0
    from sklearn.manifold import _t_sne
    from sklearn.metrics import pairwise_distances

    reference = _t_sne._joint_probabilities(
        pairwise_distances(x, squared=True).astype(np.float32), desired_perplexity=20.0, verbose=0
    )
    from scipy.spatial.distance import squareform

    assert np.abs(squareform(reference) - p.numpy()).max() < 2e-5


def test_exact_tsne_is_as_good_as_scikit_learn() -> None:
    x, labels = clusters(300, 6)
    ours, divergence = tsne(x, backend="torch", iterations=750)
    theirs, reference = tsne(x, backend="sklearn", iterations=750)
    assert divergence <= reference + 0.03
    assert trustworthiness(x, ours, 10) >= trustworthiness(x, theirs, 10) - 0.01
    assert probes.metrics.knn_purity(ours, labels) > 0.95
    again, _ = tsne(x, backend="torch", iterations=750)
    assert np.array_equal(ours, again)


def test_opentsne_is_optional_and_agrees() -> None:
    pytest.importorskip("openTSNE")
    x, labels = clusters(200)
    flat, divergence = tsne(x, backend="opentsne", iterations=500)
    assert flat.shape == (200, 2) and np.isfinite(divergence)
    assert probes.metrics.knn_purity(flat, labels) > 0.95


def test_missing_opentsne_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openTSNE", None)
    with pytest.raises(ConfigError, match=r"kdlab\[opentsne\]"):
        tsne(clusters()[0], backend="opentsne")


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: tsne(np.zeros((5, 2))), ConfigError, "at least 10 points"),
        (lambda: tsne(np.full((50, 2), np.nan)), ConfigError, "finite"),
        (lambda: tsne(clusters()[0], backend="umap"), UnknownNameError, "torch, sklearn, opentsne"),
    ],
)
def test_tsne_refuses(call, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_trustworthiness_is_that_of_scikit_learn() -> None:
    from sklearn.manifold import trustworthiness as reference

    x, _ = clusters()
    flat = x[:, :2] + np.random.default_rng(0).normal(size=(150, 2))
    assert trustworthiness(x, flat, 10) == pytest.approx(reference(x, flat, n_neighbors=10), abs=1e-9)
    assert trustworthiness(x, x, 10) == 1.0


def rotation(n: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def test_procrustes_undoes_rotation_scale_and_shift_and_keeps_shape() -> None:
    y, _ = clusters()
    fit = np.arange(150) < 70
    x = 0.3 * y @ rotation(12) + 5.0
    assert residual(procrustes_map(x, y, fit), y) < 1e-9
    other = np.random.default_rng(3).normal(size=(150, 12))
    mapped = procrustes_map(other, y, fit)
    before, after = (np.linalg.norm(a[1:] - a[:-1], axis=1) for a in (other, mapped))
    assert np.allclose(after / before, (after / before)[0])  # one scale for all distances


@pytest.mark.parametrize("width", [5, 12, 30])
def test_maps_fit_any_width_on_the_fitting_part_alone(width: int) -> None:
    y, _ = clusters()
    fit = np.arange(150) < 70
    x = np.random.default_rng(1).normal(size=(150, width))
    for mapping in (procrustes_map, ridge_map):
        mapped = mapping(x, y, fit)
        assert mapped.shape == y.shape
        changed = y.copy()
        changed[~fit] = 0.0
        assert np.allclose(mapping(x, changed, fit), mapped)


def test_ridge_finds_a_linear_map_and_shrinks_noise() -> None:
    y, _ = clusters()
    fit = np.arange(150) < 100
    x = y @ np.random.default_rng(2).normal(size=(12, 20))
    assert residual(ridge_map(x, y, fit)[~fit], y[~fit]) < 0.05
    noise = np.random.default_rng(2).normal(size=(150, 20))
    assert residual(ridge_map(noise, y, fit)[~fit], y[~fit]) < 1.1


def test_rigid_alignment_never_makes_it_worse_and_keeps_size() -> None:
    goal = np.random.default_rng(0).normal(size=(40, 2))
    frame = np.random.default_rng(1).normal(size=(40, 2)) + 3
    moved = rigid(frame, goal)
    assert np.linalg.norm(moved - goal) <= np.linalg.norm(frame - goal)
    assert moved.std(axis=0).sum() != 0
    assert np.linalg.norm(moved - moved.mean(0)) == pytest.approx(np.linalg.norm(frame - frame.mean(0)))
    mirrored = goal * [-1, 1] @ rotation(2).T + 2
    assert np.allclose(rigid(mirrored, goal), goal)


def test_alignments() -> None:
    y, _ = clusters()
    fit = np.arange(150) < 70
    x = y @ rotation(12)
    assert into_teacher_space("joint", x, None, y, fit, "s")[1] == "procrustes"
    assert into_teacher_space("joint", x, y * 2, y, fit, "s")[1] == "projector"
    assert np.array_equal(into_teacher_space("projector", x, y * 2, y, fit, "s")[0], y * 2)
    with pytest.raises(ConfigError, match="does not project"):
        into_teacher_space("projector", x, None, y, fit, "s")
    with pytest.raises(ConfigError, match="share no space"):
        into_teacher_space("none", x[:, :3], None, y, fit, "s")


def test_embedding_of_a_study() -> None:
    study = FakeStudy()
    result = probes.embed(study, n=40)
    assert result.coordinates.shape == (3, 4, 40, 2)
    assert result.mapping == ("none", "procrustes", "procrustes", "projector")
    assert "CMKD by the method's own projector" in result.protocol
    assert not study.probe_set.fit[np.isin(study.probe_set.index, result.index)].any()  # test pictures alone
    assert np.bincount(result.labels).tolist() == [10, 10, 10, 10]
    assert np.isnan(result.displacement[0]).all() and (result.displacement[1:] > 0).all()
    assert result.displacement[1:, 0].mean() < result.displacement[1:, 1:].mean()  # the teacher stays
    assert (result.residual[:, 0] == 0).all() and (result.residual[:, 1:] > 0).all()
    assert (result.purity[-1] >= result.purity[0] - 0.05).all()
    assert result.purity[-1, 2] > result.purity[-1, 1]  # KD over alone, by design
    assert (result.trustworthiness > 0.8).all()
    assert np.isfinite(result.divergence).all()
    assert "nearest in the features" in result.summary
    assert len(result.to_frame()) == 3 * 4 * 40


def test_pca_is_linear_and_fixed_by_the_teacher() -> None:
    study = FakeStudy()
    result = probes.embed(study, "pca", n=40)
    assert np.isnan(result.divergence).all() and np.isnan(result.perplexity)
    assert np.allclose(
        result.coordinates[0, 0], result.coordinates[-1, 0]
    )  # the teacher does not move at all
    assert np.allclose(result.displacement[1:, 0], 0)


def test_without_teacher_and_from_arrays() -> None:
    result = probes.embed(FakeStudy(teacher=""), n=30, epochs=[0, -1])
    assert result.teachers == () and np.isnan(result.residual).all()
    assert result.coordinates.shape == (2, 3, 30, 2)
    x, labels = clusters()
    plain = probes.embed({"a": x, "b": x @ rotation(12)}, target=labels, teacher="a", method="pca")
    assert plain.residual[0, 1] < 1e-6
    assert np.allclose(plain.coordinates[0, 0], plain.coordinates[0, 1], atol=1e-4)
    assert (plain.predicted == -1).all()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: probes.embed(FakeStudy(), "umap"), UnknownNameError, "map named 'umap'"),
        (lambda: probes.embed(FakeStudy(), align="rotate"), UnknownNameError, "joint"),
        (lambda: probes.embed(FakeStudy(), align="projector"), ConfigError, "'alone' does not project"),
        (lambda: probes.embed(FakeStudy(), n=4), ConfigError, "at least 10"),
        (lambda: probes.embed(FakeStudy(trained=False)), StudyError, "no snapshot"),
        (lambda: probes.embed({"a": np.full((60, 3), np.inf)}, target=np.arange(60) % 2), ConfigError, "NaN"),
    ],
)
def test_embed_refuses(call, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()

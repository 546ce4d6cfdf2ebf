"""Maps: t-SNE backends, alignment, and what `embed` reports beside the picture."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from fake_study import FakeStudy

from kdlab import plots, probes
from kdlab.errors import ConfigError, StudyError, UnknownNameError
from kdlab.probes.alignment import into_teacher_space, procrustes_map, residual, ridge_map, rigid
from kdlab.probes.maps import discriminant, neighbours_kept, rank_correlation, steady_tsne, trustworthiness
from kdlab.probes.metrics.classes import nearest
from kdlab.probes.tsne import exact_tsne, joint_probabilities, tsne


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


def test_the_gradient_in_parts_is_that_of_the_divergence(monkeypatch):
    module = importlib.import_module("kdlab.probes.tsne")  # the package hands on the function of that name
    monkeypatch.setattr(module, "_CACHED", 0)  # of 53 points 32 at a time, and the rest at last
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(53, 53, generator=generator).fill_diagonal_(0.0)
    p = (p + p.T) / (2.0 * p.sum())
    y = torch.randn(53, 2, generator=generator).double().requires_grad_()
    kernel = (1.0 / (1.0 + torch.cdist(y, y, compute_mode="donot_use_mm_for_euclid_dist").square())) * (
        1.0 - torch.eye(53)
    )
    off = ~torch.eye(53, dtype=torch.bool)
    divergence = (p[off] * (p[off] / (kernel / kernel.sum())[off]).log()).sum()
    (gradient,) = torch.autograd.grad(divergence, y, retain_graph=True)
    flat = y.detach().float()
    torch.testing.assert_close(module._gradient(p, flat, 1.0).double(), gradient, rtol=1e-4, atol=1e-7)
    assert module._divergence(p, flat) == pytest.approx(divergence.item(), rel=1e-5)
    attraction = torch.autograd.grad((p[off] * -kernel[off].log()).sum(), y, retain_graph=True)[0]
    rest = gradient - attraction
    torch.testing.assert_close(
        module._gradient(p, flat, 12.0).double(), 12.0 * attraction + rest, rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("pull", [0.0, 1.0])
def test_features_that_are_not_finite_are_refused_with_their_epoch(pull: float) -> None:
    frames = [clusters(40, seed=seed)[0].reshape(1, 40, -1) for seed in range(2)]
    frames[1][0, 3, 2] = np.nan
    with pytest.raises(ConfigError, match=r"epoch 7 are NaN or infinite"):
        steady_tsne(frames, [[0], [0]], False, 5.0, "auto", 0, pull=pull, epochs=[3, 7])


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


def test_torch_is_as_good_as_scikit_learn_on_digits() -> None:
    """The default backend against scikit-learn's own defaults, on real scans."""
    from sklearn.datasets import load_digits
    from sklearn.manifold import TSNE

    x = load_digits().data[:250] / 16.0
    ours, divergence = tsne(x)
    model = TSNE(2, random_state=0)
    theirs = model.fit_transform(x).astype(np.float64)
    assert divergence <= 1.03 * model.kl_divergence_
    assert trustworthiness(x, ours, 10) >= trustworthiness(x, theirs, 10) - 0.01


def test_a_pull_keeps_points_in_place_at_a_price() -> None:
    x, _ = clusters(150)
    before, _ = tsne(x, backend="torch")
    later = x + np.random.default_rng(1).normal(size=x.shape) * 0.5
    found = {}
    for pull in (0.0, 1.0, 1e6):
        start = 0.1 * before
        flat, divergence = tsne(later, start=start, iterations=150, hold=before, pull=pull)
        found[pull] = float(np.linalg.norm(flat - before, axis=1).mean()), divergence
    assert found[1e6][0] < 0.05 * before.std() < found[1.0][0] < found[0.0][0]
    assert found[0.0][1] <= found[1.0][1] + 1e-3 and found[1.0][1] < found[1e6][1]
    free = before.copy()
    free[40:] = np.nan  # only the first 40 are held
    flat, _ = tsne(later, start=0.1 * before, iterations=150, hold=free, pull=1e3)
    moved = np.linalg.norm(flat - before, axis=1)
    assert moved[:40].max() < 0.5 * moved[40:].mean()
    each = np.where(np.arange(150) < 40, 1e3, 0.0)  # ... or all are, with a strength of their own
    p = joint_probabilities(torch.from_numpy(later), 30.0)
    same, _ = exact_tsne(p, 0.1 * before, 150, hold=before, pull=each)
    moved = np.linalg.norm(same - before, axis=1)
    assert moved[:40].max() < 0.5 * moved[40:].mean()
    nothing, _ = tsne(later, start=0.1 * before, iterations=50, hold=np.full((150, 2), np.nan), pull=1.0)
    plain, _ = tsne(later, start=0.1 * before, iterations=50)
    assert np.allclose(nothing, plain)


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
        (lambda: tsne(clusters()[0], pull=-1.0), ConfigError, "pull must be 0"),
        (lambda: tsne(clusters()[0], pull=1.0, backend="sklearn"), ConfigError, "cannot pull"),
    ],
)
def test_tsne_refuses(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_trustworthiness_is_that_of_scikit_learn() -> None:
    from sklearn.manifold import trustworthiness as reference

    x, _ = clusters()
    flat = x[:, :2] + np.random.default_rng(0).normal(size=(150, 2))
    assert trustworthiness(x, flat, 10) == pytest.approx(reference(x, flat, n_neighbors=10), abs=1e-9)
    assert trustworthiness(x, x, 10) == 1.0


def test_neighbours_kept_and_rank_correlation_have_known_values() -> None:
    from scipy.spatial.distance import pdist
    from scipy.stats import spearmanr

    x, _ = clusters()
    near = nearest(torch.from_numpy(x), 10).numpy()
    assert (neighbours_kept(nearest(torch.from_numpy(x[:, :2]), 10).numpy(), x[:, :2] * 7 + 1) == 1).all()
    random = np.random.default_rng(0).normal(size=(150, 2))
    assert neighbours_kept(near, random).mean() == pytest.approx(10 / 149, abs=0.02)  # chance
    assert rank_correlation(x, x[:, :2]) == pytest.approx(spearmanr(pdist(x), pdist(x[:, :2]))[0], abs=1e-9)
    assert rank_correlation(x, 3 * x @ rotation(12)) == pytest.approx(1.0)
    assert np.isnan(rank_correlation(np.ones((20, 3)), x[:20]))


def test_discriminant_plane_is_judged_where_it_was_not_fitted() -> None:
    generator = np.random.default_rng(0)
    x, labels = clusters(300, 6, width=40)
    fit = np.arange(300) < 150
    flat = discriminant([x[None, ~fit]], x[fit], labels[fit])[0][0]
    within = np.mean([flat[labels[~fit] == c].var(axis=0).mean() for c in range(6)])
    assert within == pytest.approx(1.0, abs=0.5)  # the unit is the spread inside classes
    loud = x + 30 * generator.normal(size=(300, 1)) @ generator.normal(size=(1, 40))  # hides the classes
    seen = discriminant([loud[None, ~fit]], loud[fit], labels[fit])[0][0]
    pca = loud[~fit] @ np.linalg.svd(loud[fit] - loud[fit].mean(0), full_matrices=False)[2][:2].T
    purity = [probes.metrics.knn_purity(flat, labels[~fit], 5) for flat in (seen, pca)]
    assert purity[0] > 0.8 and purity[0] > purity[1] + 0.1
    noise = generator.normal(size=(300, 40))
    flat = discriminant([noise[None, ~fit]], noise[fit], labels[fit])[0][0]
    assert probes.metrics.knn_purity(flat, labels[~fit], 5) < 0.3  # labels were not seen there: chance is 1/6
    for known, own, says in (
        (x[fit], labels[fit] % 2, "at least 3 classes"),
        (x[:7], labels[:7], "at least 12"),
        (np.ones((60, 3)), labels[:60], "same for every"),
    ):
        with pytest.raises(ConfigError, match=says):
            discriminant([x[None]], known, own)


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


def test_what_a_pull_costs_is_told() -> None:
    result: Any = probes.embed(FakeStudy(), n=40)
    assert result.pull == 1.0 and "pulled to their places" in result.protocol
    assert result.divergence_free[0] == result.divergence[0]  # nothing to be pulled to
    assert (result.divergence_free[1:] < result.divergence[1:]).all()
    assert result.divergence[1:].mean() < 1.2 * result.divergence_free[1:].mean()
    assert np.abs(result.trustworthiness_free - result.trustworthiness).max() < 0.02
    free: Any = probes.embed(FakeStudy(), n=40, pull=0.0)
    assert "pulled" not in free.protocol and np.array_equal(free.divergence_free, free.divergence)
    assert result.drift.mean() < free.drift.mean()
    assert result.drift[0] < 0.75 * free.drift[0]  # the teacher's features stay, and so do its points
    assert np.allclose(result.drift, np.nanmean(result.displacement, axis=0))
    assert probes.embed(FakeStudy(), n=20, epochs=[0, 6], backend="sklearn").pull == 0.0


def test_each_picture_tells_how_far_its_place_is_to_be_trusted() -> None:
    study = FakeStudy()
    result: Any = probes.embed(study, "pca", n=40)
    assert result.kept_each.shape == (3, 4, 40) and np.allclose(result.kept, result.kept_each.mean(axis=2))
    assert (result.kept > result.chance_kept).all() and (result.rank_correlation[-1] > 0.3).all()
    np.testing.assert_allclose(
        np.sqrt(np.square(result.distance, dtype=np.float64).mean(axis=2)), result.residual, rtol=1e-5
    )
    # the teacher's own features, before anything was aligned
    seen: Any = study.snapshot("KD", 2, 0)
    table = seen.embedding[result.index].astype(np.float64)
    assert (result.nearest[1, 2] == nearest(torch.from_numpy(table), 10).numpy()).all()
    logits = seen.logits[result.index]
    shares = torch.from_numpy(logits).double().softmax(1)
    assert (result.top[1, 2] == logits.argsort(axis=1)[:, ::-1][:, :3]).all()
    np.testing.assert_allclose(result.top_share[1, 2], shares.sort(descending=True)[0][:, :3], rtol=1e-5)
    assert (result.top[..., 0] == result.predicted).all()
    assert "of these neighbours (chance 26 %)" in result.summary
    assert {"neighbours_kept", "distance_to_teacher"} <= set(result.to_frame().columns)
    late: Any = probes.embed(FakeStudy(late={"KD": 2}), "pca", n=20)
    assert (late.nearest[0, 2] == -1).all() and np.isnan(late.kept_each[0, 2]).all()


def test_lda_uses_the_labels_of_the_fitting_part_alone() -> None:
    study = FakeStudy()
    result = probes.embed(study, "lda", n=40)
    assert "labels of the validation pictures" in result.protocol and np.isnan(result.divergence).all()
    assert np.allclose(result.coordinates[0, 0], result.coordinates[-1, 0], atol=1e-4)  # the teacher's plane
    source = probes.as_source(study)
    view = source.view("teacher", -1, 0)
    known = view.embedding[source.fit].astype(np.float64)
    shown = np.isin(source.index, result.index)
    flat = discriminant([view.embedding[None, shown]], known, source.target[source.fit])[0][0]
    order = np.argsort(result.index)
    np.testing.assert_allclose(result.coordinates[-1, 0][order], flat, atol=1e-4)


def with_parts() -> probes.Embedding:
    """A map whose pictures have super-classes and factors, as those of some data sets."""
    import dataclasses

    space = probes.embed(FakeStudy(), "pca", n=24)
    return dataclasses.replace(
        space,
        coarse=space.labels // 2,
        coarse_names=("low", "high"),
        factors={"shape": space.labels % 3, "size": np.linspace(0, 1, 24)},
        factor_names={"shape": ("disc", "bar", "ring")},
    )


@pytest.mark.parametrize("color", ["coarse", "shape", "size", "agreement", "confidence", "class", "network"])
def test_ways_to_colour(color: str) -> None:
    space: Any = with_parts()
    figure = plots.embedding(space, color=color, reliability=0.5, lines=True)
    points = [t for t in figure.data if t.mode == "markers" and t.x[0] is not None]
    assert len(points) == 4 and sum(t.mode == "lines" for t in figure.data) == 3
    assert len(figure.frames[0].data) == len(figure.frames[0].traces) == 7
    for n, trace in enumerate(points):
        hollow = np.array(["open" in symbol for symbol in trace.marker.symbol])
        assert (hollow == (space.kept_each[-1, n] < 0.5)).all()
        assert "class" in trace.text[0] and (n == 0 or "teacher: class" in trace.text[0])
    names = {t.name for t in figure.data}
    if color == "coarse":
        assert {"low", "high"} <= names and len(set(points[0].marker.color)) == 2
    if color == "shape":
        assert {"disc", "bar", "ring"} <= names
    if color == "size":
        assert len(set(points[0].marker.color)) == 5 and "0 to 0.2" in names
    if color == "agreement":
        same = space.predicted[-1, 1] == space.predicted[-1, 0]
        assert (np.array([s.startswith("circle") for s in points[1].marker.symbol]) == same).all()
        assert "Same prediction as teacher" in figure.layout.meta["summary"]
    if color == "confidence":
        np.testing.assert_allclose(points[2].marker.color, space.top_share[-1, 2, :, 0], atol=1e-3)
        assert "Mean confidence" in figure.layout.meta["summary"]
    assert "Hollow" in figure.layout.meta["summary"]
    plots.recolour(figure, dark=True)


def test_figures_refuse_what_is_not_known() -> None:
    x, labels = clusters(60)
    plain = probes.embed({"a": x}, target=labels, method="pca")
    for options, says in (
        ({"color": "coarse"}, "no super-classes"),
        ({"color": "agreement"}, "needs the predictions|needs a teacher"),
        ({"color": "confidence"}, "not known"),
        ({"color": "weight"}, "confidence"),
        ({"reliability": 2.0}, "share above 0"),
        ({"lines": True}, "no teacher"),
    ):
        with pytest.raises(ConfigError, match=says):
            plots.embedding(plain, **options)


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
        (lambda: probes.embed(FakeStudy(), pull=-1), ConfigError, "pull must be 0"),
        (lambda: probes.embed(FakeStudy(), pull="strong"), ConfigError, "pull must be 0"),
        (lambda: probes.embed(FakeStudy(), k=0), ConfigError, "k must be a whole number from 1 on"),
        (lambda: probes.embed(FakeStudy(classes=2), "lda"), ConfigError, "at least 3 classes"),
        (lambda: probes.embed(FakeStudy(trained=False)), StudyError, "no snapshot"),
        (lambda: probes.embed({"a": np.full((60, 3), np.inf)}, target=np.arange(60) % 2), ConfigError, "NaN"),
    ],
)
def test_embed_refuses(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()

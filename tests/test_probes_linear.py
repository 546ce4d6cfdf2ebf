"""Linear probes: the solvers against scikit-learn, the protocol, the result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_study import FakeStudy

from kdlab import probes
from kdlab.errors import ConfigError, StudyError, UnknownNameError
from kdlab.probes import softmax as softmax_module
from kdlab.probes.controls import reduce_dimension, wilson
from kdlab.probes.evaluate import evaluate_tables
from kdlab.probes.ridge import fit_discriminant
from kdlab.probes.softmax import Tables, fit_softmax
from kdlab.probes.untrained import untrained_twin


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[:900]
    x = x[order] / 16
    return x[:, x.std(axis=0) > 0], y[order]


@pytest.mark.parametrize("l2", [100.0, 1.0, 0.01])
def test_softmax_reaches_the_optimum_of_scikit_learn(digits, l2: float) -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = digits[0][:250], digits[1][:250]
    reference = LogisticRegression(C=1 / l2, max_iter=5000, tol=1e-8).fit(x, y)
    weight, bias = torch.from_numpy(reference.coef_.T), torch.from_numpy(reference.intercept_)
    loss = torch.nn.functional.cross_entropy(
        torch.from_numpy(x) @ weight + bias, torch.from_numpy(y), reduction="sum"
    )
    wanted = float(loss + 0.5 * l2 * weight.square().sum())
    fitted = fit_softmax(torch.from_numpy(x), torch.from_numpy(y), l2, tolerance=1e-9)
    assert fitted.converged.all()
    assert float(fitted.objective) <= wanted * (1 + 1e-5)
    assert torch.allclose(
        fitted.logits(torch.from_numpy(x)[None]).softmax(2)[0].sum(1), torch.ones(250).double()
    )


def test_probe_on_known_values() -> None:
    def g(shape, a, b):
        i = torch.arange(int(np.prod(shape)), dtype=torch.float64)
        return torch.sin(a * i + b + 0.1 * i**2).reshape(shape)

    target = torch.arange(60) % 4
    z = g((4, 8), 1.7, 0.3)[target] + 1.5 * g((60, 8), 0.37, 0.6)
    fitted = fit_softmax(z, target, 1.0, tolerance=1e-10)
    logits = fitted.logits(z[None])[0]
    assert float(torch.nn.functional.cross_entropy(logits, target)) == pytest.approx(0.491068, abs=2e-5)
    assert float((logits.argmax(1) == target).double().mean()) == pytest.approx(0.783333, abs=1e-6)


def test_the_optimum_does_not_depend_on_start_batch_or_dead_features() -> None:
    x = torch.randn(3, 80, 6, dtype=torch.float64)
    x[1, :, 2] = 4.0  # constant
    x[2, :, 3] = x[2, :, 1]  # double
    target = torch.arange(80) % 4
    l2 = torch.tensor([0.1, 1.0, 10.0])
    together = fit_softmax(x, target, l2, tolerance=1e-12)
    other = fit_softmax(x.flip(0), target, l2.flip(0), tolerance=1e-12)
    started = fit_softmax(x, target, l2, start=other, tolerance=1e-12)
    for b in range(3):
        alone = fit_softmax(x[b], target, float(l2[b]), tolerance=1e-12)
        for fitted in (alone.weight[0], other.weight[2 - b], started.weight[b]):
            assert torch.allclose(fitted, together.weight[b], atol=1e-4)
    assert together.converged.all()


def test_warm_start_saves_iterations() -> None:
    x, target = torch.randn(120, 20, dtype=torch.float64), torch.arange(120) % 5
    cold = fit_softmax(x, target, 0.1)
    nearby = x + 0.01 * torch.randn_like(x)
    assert (
        fit_softmax(nearby, target, 0.1, start=cold).iterations < fit_softmax(nearby, target, 0.1).iterations
    )


@pytest.mark.parametrize("l2", [0.0, -1.0, float("nan")])
def test_softmax_refuses_a_penalty_without_optimum(l2: float) -> None:
    with pytest.raises(ConfigError, match="positive"):
        fit_softmax(torch.randn(10, 2), torch.arange(10) % 2, l2)


def test_protocol_agrees_with_scikit_learn(digits) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = digits
    fit = np.arange(len(x)) < 400
    search = GridSearchCV(LogisticRegression(max_iter=2000), {"C": np.logspace(-3, 3, 7)}, cv=3)
    reference = make_pipeline(StandardScaler(), search).fit(x[fit], y[fit])
    wanted = reference.score(x[~fit], y[~fit])
    ours = evaluate_tables([x, x[:, :20]], y, fit)
    assert ours.accuracy[0] == pytest.approx(wanted, abs=0.012)  # the penalty is chosen on other samples
    assert ours.accuracy[1] < ours.accuracy[0]
    assert ours.nll[0] < ours.nll[1]
    ridge = evaluate_tables([x], y, fit, probe="ridge")
    assert ridge.accuracy[0] == pytest.approx(wanted, abs=0.04)
    assert np.isnan(ridge.nll[0])


def test_ridge_is_the_textbook_one_and_its_penalty_the_best_left_out() -> None:
    from sklearn.linear_model import Ridge

    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(30, 8, generator=generator, dtype=torch.float64), torch.arange(30) % 3
    x[:, 5] = 2.0  # a dead feature
    onehot = torch.nn.functional.one_hot(target).double()
    weight, bias, l2 = probes.fit_ridge(x[None], target)
    reference = Ridge(alpha=float(l2)).fit(x, onehot)
    assert np.allclose(x @ weight[0] + bias[0], reference.predict(x))

    def left_out(alpha: float) -> float:
        keep = ~torch.eye(30, dtype=torch.bool)
        errors = [
            onehot[i].numpy() - Ridge(alpha=alpha).fit(x[keep[i]], onehot[keep[i]]).predict(x[i : i + 1])
            for i in range(30)
        ]
        return float(np.square(errors).sum())

    assert float(l2) == min((10.0**power for power in range(-3, 4)), key=left_out)


def test_the_evaluation_part_is_never_fitted(digits) -> None:
    x, y = digits
    fit = np.arange(len(x)) < 400
    changed = x.copy()
    changed[~fit] = changed[~fit][::-1]
    a, b = evaluate_tables([x], y, fit), evaluate_tables([changed], y, fit)
    assert a.l2 == b.l2
    assert b.accuracy[0] < 0.3 < a.accuracy[0]


def test_random_labels_are_at_chance() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(800, 30)), generator.integers(0, 4, 800)
    scores = evaluate_tables([x], y, np.arange(800) < 400)
    assert scores.accuracy[0] == pytest.approx(0.25, abs=0.06)
    assert scores.l2[0] >= 100  # nothing to be learned: the strongest penalties win


def test_study_probe() -> None:
    study = FakeStudy()
    result = probes.linear_probe(study)
    assert result.networks == ("teacher", "alone", "KD", "CMKD")
    assert result.layers == ("stage1", "stage2", "stage3")  # the embedding is the average of stage3
    assert result.accuracy.shape == (4, 3, 3, 3)
    assert result.probe == "softmax"
    assert result.chance == 0.25
    assert (result.n_fit, result.n_test) == (96, 96)
    student = np.nanmean(result.accuracy[1:], axis=3)
    assert (
        student[:, -1].mean(axis=0) > student[:, 0].mean(axis=0) + 0.2
    ).all()  # training helps at every layer
    assert student[1, -1, 2] > student[0, -1, 2] + 0.05  # KD is better than alone by design
    assert np.isfinite(result.accuracy[0, :, :, 0]).all() and np.isnan(result.accuracy[0, :, :, 1:]).all()
    assert "softmax probe" in result.summary and "chance is 25.0 %" in result.summary
    frame = result.to_frame()
    assert len(frame) == 3 * 3 * 3 * 3 + 3 * 3
    assert {"network", "role", "epoch", "layer", "seed", "accuracy", "nll", "l2"} <= set(frame.columns)
    assert frame.accuracy.between(0, 1).all()


def test_choices_and_controls() -> None:
    study = FakeStudy()
    result = probes.linear_probe(
        study,
        layers=["embedding", "stage1"],
        epochs=[0, -1],
        students=["KD"],
        seeds=[1],
        control=True,
        probe="ridge",
    )
    assert result.layers == ("stage1", "embedding")
    assert result.epochs == (0, 6)
    assert result.seeds == (1,)
    assert result.networks == ("teacher", "KD")
    assert result.probe == "ridge" and "closed-form ridge" in result.summary
    assert result.selectivity is not None
    assert np.nanmax(result.selectivity) <= 1 and np.nanmean(result.selectivity[:, -1]) > 0.1
    assert "selectivity" in result.to_frame()


def test_plain_arrays_and_modules() -> None:
    generator = np.random.default_rng(1)
    labels = np.arange(120) % 3
    centres = generator.normal(size=(3, 5))
    good = centres[labels] * 4 + generator.normal(size=(120, 5))
    result = probes.linear_probe({"good": good, "noise": generator.normal(size=(120, 7))}, labels)
    assert result.layers == ("embedding",)
    assert result.accuracy[0, 0, 0, 0] > 0.9 > 0.6 > result.accuracy[1, 0, 0, 0]
    assert "epoch" not in result.summary
    layered = probes.linear_probe({"net": {"early": good[:, :1], "late": good}}, labels, probe="ridge")
    assert layered.layers == ("early", "late")

    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 6, 3, stride=2, padding=1),
        torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(6, 3),
    )  # fmt: skip
    images = torch.randn(120, 1, 8, 8) + torch.from_numpy(labels)[:, None, None, None]
    measured = probes.linear_probe({"mine": net}, labels, images=images)
    assert np.isfinite(measured.accuracy).any()
    assert net.training


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda s: probes.linear_probe(s, layers="stage9"), UnknownNameError, "layer named 'stage9'.*stage"),
        (lambda s: probes.linear_probe(s, students="KDD"), UnknownNameError, "did you mean 'KD'"),
        (
            lambda s: probes.linear_probe(s, epochs=5),
            ConfigError,
            "no snapshot of epoch 5; there are 0, 2, 6",
        ),
        (lambda s: probes.linear_probe(s, seeds=[7]), ConfigError, "no seed 7"),
        (lambda s: probes.linear_probe(s, probe="svm"), UnknownNameError, "softmax, ridge"),
        (lambda s: probes.linear_probe(FakeStudy(trained=False)), StudyError, "no snapshot"),
        (lambda s: probes.linear_probe({"a": np.zeros((4, 2))}), ConfigError, "target="),
        (lambda s: probes.linear_probe({"a": np.zeros((4, 2))}, [0, 1, 0]), ConfigError, "same samples"),
        (lambda s: probes.linear_probe({"a": np.zeros((8, 2))}, [0] * 8), ConfigError, "at least 2 classes"),
        (lambda s: probes.linear_probe({"a": np.full((40, 2), np.nan)}, [0, 1] * 20), ConfigError, "NaN"),
        (lambda s: probes.linear_probe({"a": torch.nn.Linear(2, 2)}, [0, 1] * 20), ConfigError, "images="),
    ],
)
def test_refusals(call, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call(FakeStudy())


def test_unfinished_seeds_leave_gaps() -> None:
    study = FakeStudy()
    complete = study.snapshot_epochs
    study.snapshot_epochs = lambda seed=None, network=None: [0, 2] if seed == 2 else complete(seed, network)
    result = probes.linear_probe(study, probe="ridge")
    assert np.isnan(result.accuracy[1:, -1, :, 2]).all()
    assert np.isfinite(result.accuracy[1:, -1, :, :2]).all()


# ---- closed forms ------------------------------------------------------------------------------------


def test_the_discriminant_is_that_of_scikit_learn(digits) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    x, y = digits
    x = x[:, x[:600].std(axis=0) > 0.03]
    known, labels = torch.from_numpy(x[:600])[None], torch.from_numpy(y[:600])
    weight, bias, _ = fit_discriminant(known, labels, 10, 1e-7)
    reference = LinearDiscriminantAnalysis(solver="lsqr").fit(x[:600], y[:600])
    logits = torch.from_numpy(x[600:]) @ weight[0] + bias[0]
    assert np.allclose(logits.softmax(1), reference.predict_proba(x[600:]), atol=1e-5)


def test_closed_forms_of_wide_tables_are_those_of_narrow_ones() -> None:
    x, target = torch.randn(40, 12, dtype=torch.float64), torch.arange(40) % 3
    wide = torch.cat([x, torch.zeros(40, 60)], dim=1)[None]  # the same, by the other matrix
    for fit in (probes.fit_ridge, fit_discriminant):
        narrow, bias, l2 = fit(x[None], target)
        also, also_bias, also_l2 = fit(wide, target)
        assert torch.allclose(also[0, :12], narrow[0], atol=1e-9) and l2 == also_l2
        assert torch.allclose(also_bias, bias) and (also[0, 12:].abs() < 1e-9).all()


@pytest.mark.parametrize("l2", [0.0, -1.0, float("nan"), float("inf")])
def test_closed_forms_refuse_a_penalty_that_is_none(l2: float) -> None:
    with pytest.raises(ConfigError, match="positive"):
        probes.fit_ridge(torch.randn(1, 10, 2), torch.arange(10) % 2, 2, l2)


# ---- one optimum, whatever the start -----------------------------------------------------------------


def test_accuracy_is_that_of_logistic_regression(digits) -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = digits
    known, labels = torch.from_numpy(x[:400]), torch.from_numpy(y[:400])
    for l2 in (10.0, 1.0, 0.1):
        fitted = fit_softmax(known, labels, l2, tolerance=1e-5)  # as loosely as the protocol does
        ours = float((fitted.logits(torch.from_numpy(x[400:])[None])[0].argmax(1).numpy() == y[400:]).mean())
        reference = LogisticRegression(C=1 / l2, max_iter=2000).fit(x[:400], y[:400])
        assert ours == pytest.approx(reference.score(x[400:], y[400:]), abs=0.005)


def test_a_start_of_another_shape_and_no_samples_are_refused() -> None:
    x, target = torch.randn(30, 4), torch.arange(30) % 3
    with pytest.raises(ConfigError, match=r"\(1, 5, 3\) .* where \(1, 4, 3\) is needed"):
        fit_softmax(x, target, start=probes.SoftmaxFit.zeros(1, 5, 3))
    with pytest.raises(ConfigError, match="empty"):
        fit_softmax(x[:0], target[:0])


def test_how_steep_it_gets_is_the_second_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(5)
    x, target = torch.from_numpy(generator.normal(size=(2, 60, 4))), torch.arange(60) % 3
    penalty = torch.tensor([0.5, 3.0], dtype=torch.float64)
    problem = softmax_module._Problem(Tables(x, target, 3), penalty)
    at, along = (torch.from_numpy(generator.normal(size=(2, 5, 3))) for _ in range(2))

    def value(t: float) -> torch.Tensor:
        return problem.evaluate(at + t * along)[0]

    expected = (value(1e-3) - 2 * value(0.0) + value(-1e-3)) / 1e-6
    shares = problem.shares(at)
    monkeypatch.setattr(softmax_module, "_PART", 1)
    torch.testing.assert_close(problem.bend(shares, along), expected, rtol=1e-4, atol=0.0)
    monkeypatch.undo()
    torch.testing.assert_close(problem.bend(shares, along), expected, rtol=0.6, atol=0.0)  # of 9 samples


def test_single_precision_reaches_the_same_optimum() -> None:
    generator = np.random.default_rng(3)
    target = torch.from_numpy(np.arange(3000) % 50)
    means = generator.normal(size=(50, 150))
    x = torch.from_numpy(0.4 * means[target] + generator.normal(size=(3000, 150)))
    rough = Tables(x, target, 50, rough=True)
    assert rough.points.dtype == torch.float32
    loose, exact = rough.fit(1.0, tolerance=1e-5), fit_softmax(x, target, 1.0, tolerance=1e-9)
    assert loose.converged.all() and exact.converged.all()
    assert 0 <= float(loose.objective / exact.objective) - 1 < 2e-5
    with pytest.raises(ConfigError, match="float32"):
        rough.fit(1.0, tolerance=1e-7)


def test_the_best_of_several_starts_is_taken() -> None:
    x, target = torch.randn(90, 8, dtype=torch.float64), torch.arange(90) % 3
    cold = fit_softmax(x, target, 0.5)
    bad = probes.SoftmaxFit(cold.weight + 5, cold.bias, cold.objective, cold.converged, 0)
    started = fit_softmax(x, target, 0.5, start=[bad, cold])
    assert started.iterations <= 1 < cold.iterations
    assert torch.allclose(fit_softmax(x, target, 0.5, start=bad, tolerance=1e-12).weight,
                          fit_softmax(x, target, 0.5, tolerance=1e-12).weight, atol=1e-4)  # fmt: skip


def test_epochs_that_start_from_the_one_before_find_the_same() -> None:
    generator = np.random.default_rng(4)
    y = np.arange(800) % 20
    means, noise = generator.normal(size=(20, 150)), generator.normal(size=(800, 150))
    tables = [(0.1 + 0.05 * e) * means[y] + noise for e in range(4)]
    assert tables[0].size * 20 >= 2e6  # large enough to be chained
    fit = np.arange(800) < 400
    alone = evaluate_tables(tables, y, fit)
    chained = evaluate_tables(tables, y, fit, chains=["layer"] * 4)
    assert np.array_equal(alone.l2, chained.l2)
    assert np.abs(alone.accuracy - chained.accuracy).max() <= 2.01 / 400
    assert np.abs(alone.nll - chained.nll).max() < 0.01
    assert (np.diff(alone.accuracy) > 0).all()


# ---- controls ----------------------------------------------------------------------------------------


def test_wilson_interval() -> None:
    from scipy.stats import binomtest

    for hits, n in ((0, 20), (13, 20), (20, 20), (700, 1000)):
        low, high = wilson(np.array([hits / n]), n)
        reference = binomtest(hits, n).proportion_ci(method="wilson")
        assert (low[0], high[0]) == (pytest.approx(reference.low), pytest.approx(reference.high))
    assert np.isnan(wilson(np.array([np.nan]), 10)[0]).all()


def test_intervals_purity_and_equal_dimension() -> None:
    study = FakeStudy()
    result = probes.linear_probe(study, probe="ridge", purity=True, epochs="last", seeds=0)
    assert (result.low < result.accuracy).all() and (result.accuracy <= result.high).all()
    truth = study.probe_set.labels.numpy()[96:]
    stage = study.snapshot("KD", 6, 0).stages["stage2"][96:]
    assert result.purity is not None
    assert result.purity[2, 0, 1, 0] == pytest.approx(probes.metrics.knn_purity(stage, truth, 10))
    assert result.purity_chance == pytest.approx(23 / 95)
    assert {"low", "high", "purity"} <= set(result.to_frame())

    equal = probes.linear_probe(study, probe="ridge", dimension=8, epochs="last", seeds=0)
    assert equal.dimension == 8 and "8 principal components" in equal.protocol + equal.summary
    assert np.allclose(equal.accuracy[:, :, 0], result.accuracy[:, :, 0], atol=0.03)  # stage1 has 8 features
    assert (equal.accuracy[:, :, 2] != result.accuracy[:, :, 2]).any()
    for wrong in (0, 9, 2.5, True):
        with pytest.raises(ConfigError, match="from 1 to 8"):
            probes.linear_probe(study, dimension=wrong)


def test_principal_components_come_from_the_fitting_part() -> None:
    generator = np.random.default_rng(0)
    x, fit = generator.normal(size=(60, 5)) * [5, 4, 3, 2, 1], np.arange(60) < 30
    (reduced,) = reduce_dimension([x], fit, 3)
    scaled = (x - x[fit].mean(0)) / x[fit].std(0)
    wanted = np.linalg.svd(scaled[fit], full_matrices=False)[2][:3]
    assert np.allclose(np.abs(reduced), np.abs(scaled @ wanted.T))
    changed = x.copy()
    changed[~fit] *= 100
    assert np.allclose(reduce_dimension([changed], fit, 3)[0][fit], reduced[fit])


def network() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3, padding=1), torch.nn.BatchNorm2d(6), torch.nn.ReLU(),
        torch.nn.Conv2d(6, 8, 3, stride=2, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3),
    )  # fmt: skip


def test_an_untrained_twin_is_new_calibrated_and_repeatable() -> None:
    net, images = network(), 3 + 2 * torch.randn(50, 1, 8, 8)
    with torch.no_grad():
        for value in net.parameters():
            value.fill_(0.5)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    twin = untrained_twin(net, images, 3, batch_size=16)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.training and not twin.training and not any(p.requires_grad for p in twin.parameters())
    assert float(twin[0].weight.std()) > 0.05 and float(twin[0].weight.abs().max()) <= 1 / 3 + 1e-6
    with torch.no_grad():
        first = twin[:2](images)
    assert torch.allclose(first.mean((0, 2, 3)), torch.zeros(6), atol=0.05)
    assert torch.allclose(first.std((0, 2, 3)), torch.ones(6), atol=0.05)
    again, other = untrained_twin(net, images, 3, batch_size=16), untrained_twin(net, images, 4)
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), again.parameters(), strict=True))
    assert not torch.equal(twin[0].weight, other[0].weight)
    assert twin[1].momentum == 0.1


def test_one_part_of_a_network_is_drawn_anew() -> None:
    net, images = network().eval(), torch.randn(30, 1, 8, 8)
    twin = untrained_twin(net, images, 3, parts=["9", "4"])
    changed = {
        k.split(".")[0] for k, v in net.state_dict().items() if not torch.equal(v, twin.state_dict()[k])
    }
    assert changed == {"4", "9"} and not twin.training
    with torch.no_grad():  # the norm that was drawn is calibrated behind layers that were kept
        seen = twin[:5](images)
    assert torch.allclose(seen.mean((0, 2, 3)), torch.zeros(8), atol=1e-3)
    with pytest.raises(UnknownNameError, match="no part of the network"):
        untrained_twin(net, images, parts=["layer9"])


def test_a_parameter_that_nobody_draws_is_refused() -> None:
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3))
            self.layer = torch.nn.Linear(3, 3)

    with pytest.raises(ConfigError, match="'scale'.*reset_parameters"):
        untrained_twin(Own(), torch.zeros(4, 3))
    with pytest.raises(ConfigError, match="at least 2 pictures"):
        untrained_twin(network(), torch.zeros(1, 1, 8, 8))


def test_untrained_twins_of_modules_are_probed() -> None:
    labels = np.arange(240) % 3
    images = torch.randn(240, 1, 8, 8) + torch.from_numpy(labels)[:, None, None, None]
    result = probes.linear_probe({"mine": network()}, labels, images=images, untrained=True, probe="ridge")
    assert result.untrained is not None and result.untrained.shape == (1, len(result.layers), 1)
    assert np.isfinite(result.untrained).all()
    assert "untrained give mine" in result.summary and "untrained" in result.to_frame()
    with pytest.raises(ConfigError, match="give the module"):
        probes.linear_probe({"a": np.random.default_rng(0).normal(size=(240, 4))}, labels, untrained=True)


# ---- the figure --------------------------------------------------------------------------------------


def test_figure_shows_chosen_controls_and_says_what_bars_are() -> None:
    study = FakeStudy()
    several = probes.linear_probe(study, probe="ridge", control=True, purity=True)
    figure = several.plot()
    names = [trace.name for trace in figure.data]
    assert any(name.startswith("random labels (chance") for name in names)
    assert "students before training" in names
    assert "lowest to highest of 3 seeds" in figure.layout.xaxis.title.text
    bare = several.plot(controls="chance")
    assert len(bare.data) == 4 and "raw pixels" not in " ".join(a.text for a in bare.layout.annotations)
    one = probes.linear_probe(study, probe="ridge", seeds=0, epochs="last")
    drawn = one.plot()
    assert "95 % interval over 96 test pictures" in drawn.layout.xaxis.title.text
    assert np.allclose(drawn.data[2].y + drawn.data[2].error_y.array, 100 * one.high[2, 0, :, 0])
    purity = several.plot(value="purity", dark=True)
    assert "purity" in purity.layout.yaxis.title.text
    assert several.plot(value="selectivity").data
    for options, says in (
        ({"value": "nll"}, "accuracy, selectivity, purity"),
        ({"controls": ["luck"]}, "control named 'luck'"),
        ({"bars": "sd"}, "auto, seeds, interval"),
        ({"value": "purity", "bars": "interval"}, "accuracy alone"),
    ):
        with pytest.raises(ConfigError, match=says):
            several.plot(**options)
    with pytest.raises(ConfigError, match="purity=True"):
        one.plot(value="purity")

"""Linear probes: the solvers against scikit-learn, the protocol, the result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_study import FakeStudy

from kdlab import probes
from kdlab.errors import ConfigError, StudyError, UnknownNameError
from kdlab.probes.evaluate import evaluate_tables
from kdlab.probes.softmax import fit_softmax


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

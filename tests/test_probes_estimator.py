"""LinearProbe as scikit-learn's tools use it."""

from __future__ import annotations

import contextlib
import unittest
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from kdlab.errors import ConfigError, UnknownNameError
from kdlab.probes.estimator import LinearProbe


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return x[order], y[order]


@pytest.mark.parametrize("probe", ["softmax", "ridge"])
def test_the_checks_of_scikit_learn(probe: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # checks that are skipped warn
        names = []
        for estimator, check in estimator_checks_generator(LinearProbe(probe=probe)):
            with contextlib.suppress(unittest.SkipTest):  # one of them needs a setting of scipy's
                check(estimator)
                names.append(check.func.__name__)
    assert len(names) > 30
    assert {"check_estimators_nan_inf", "check_classifiers_train", "check_fit2d_1sample"} <= set(names)


def test_one_penalty_is_logistic_regression(digits) -> None:
    x, y = digits
    scaler = StandardScaler().fit(x[:600])
    ours = LinearProbe(l2=10.0).fit(x[:600], y[:600])
    theirs = LogisticRegression(C=0.1, max_iter=5000, tol=1e-7).fit(scaler.transform(x[:600]), y[:600])
    expected = theirs.predict_proba(scaler.transform(x[600:]))
    assert np.allclose(ours.predict_proba(x[600:]), expected, atol=5e-3)
    assert abs(ours.score(x[600:], y[600:]) - theirs.score(scaler.transform(x[600:]), y[600:])) <= 0.005


def test_ridge_is_the_discriminant_of_scikit_learn(digits) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    x, y = digits
    x = x[:, x[:1000].std(axis=0) > 0.5]
    ours = LinearProbe(probe="ridge", l2=1e-6).fit(x[:1000], y[:1000])
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(x[:1000], y[:1000])
    assert np.allclose(ours.predict_proba(x[1000:]), theirs.predict_proba(x[1000:]), atol=1e-5)


@pytest.mark.parametrize("probe", ["softmax", "ridge"])
def test_tools_of_scikit_learn(digits, probe: str) -> None:
    x, y = digits[0][:300], np.array([f"digit {label}" for label in digits[1][:300]])
    estimator = LinearProbe(probe=probe, l2=30.0)
    again = clone(estimator)
    assert again is not estimator and again.get_params() == {"probe": probe, "l2": 30.0, "random_state": 0}
    scores = cross_val_score(make_pipeline(StandardScaler(), estimator), x, y, cv=3)
    assert scores.min() > 0.8
    search = GridSearchCV(estimator, {"l2": [1.0, 100.0]}, cv=2).fit(x, y)
    assert search.best_params_["l2"] in (1.0, 100.0)
    assert set(search.predict(x)) <= set(y)


def test_scale_and_shift_do_not_matter(digits) -> None:
    x, y = digits[0][:300], digits[1][:300]
    scale = np.random.default_rng(1).uniform(0.1, 10, x.shape[1])
    for probe in ("softmax", "ridge"):
        one, other = (LinearProbe(probe=probe).fit(z, y) for z in (x, x * scale + 5))
        assert one.l2_ == other.l2_
        assert np.allclose(one.predict_proba(x), other.predict_proba(x * scale + 5), atol=1e-4)


def test_few_samples_and_dead_features() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(12) % 3
    x = np.concatenate([np.eye(3)[y] + 0.01 * rng.normal(size=(12, 3)), np.full((12, 1), 7.0)], axis=1)
    for probe in ("softmax", "ridge"):
        fitted = LinearProbe(probe=probe, l2=0.1).fit(x, y)
        assert fitted.score(x, y) == 1.0
        assert (fitted.coef_[3] == 0).all()
        changed = x.copy()
        changed[:, 3] = 100.0  # what was constant says nothing
        assert np.allclose(fitted.predict_proba(changed), fitted.predict_proba(x))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"probe": "svm"}, UnknownNameError, "softmax, ridge"),
        ({"l2": 0.0}, ConfigError, "positive"),
        ({"l2": "best"}, ConfigError, "'auto'"),
    ],
)
def test_refusals(options: dict, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        LinearProbe(**options).fit(np.eye(4), [0, 1, 0, 1])


def test_one_class_and_nan_are_refused() -> None:
    with pytest.raises(ConfigError, match="one class"):
        LinearProbe().fit(np.eye(4), [1, 1, 1, 1])
    with pytest.raises(ValueError, match="NaN"):
        LinearProbe().fit(np.full((4, 2), np.nan), [0, 1, 0, 1])

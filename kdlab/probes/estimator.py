"""The linear probe as a scikit-learn estimator, for pipelines and cross-validation of one's own."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from kdlab.errors import ConfigError, unknown_name
from kdlab.probes.evaluate import fit_chosen, standardisation
from kdlab.probes.progress import measurement
from kdlab.probes.ridge import fit_discriminant
from kdlab.probes.softmax import fit_softmax
from kdlab.probes.threads import single_thread

_TOLERANCE = 1e-6  # above the least objective; 1e-5 where large problems are computed in float32


class LinearProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The classifier that `linear_probe` fits to each layer (Alain and Bengio, arXiv 1610.01644).

    Features are standardised with the mean and standard deviation of the samples it is fitted to, so
    that it needs no scaler before it.

    Args:
        probe: "softmax" (cross-entropy, to convergence) or "ridge" (a penalised linear discriminant in
            closed form: tens of times faster).
        l2: positive penalty, where softmax minimises summed cross-entropy + l2/2 ||weight||^2, as
            scikit-learn's LogisticRegression does with C = 1/l2; or "auto": softmax chooses from
            1e-3 .. 1e3 by the NLL on a quarter of the samples, ridge by generalised cross-validation.
        random_state: seed of that quarter.

    Attributes:
        classes_: (K,) labels. coef_: (p, K), intercept_: (K,) of the logits of plain features.
        l2_: penalty used. n_features_in_: p.

    >>> x, y = np.random.default_rng(0).normal(size=(200, 2)), np.arange(200) % 2
    >>> probe = kdlab.probes.LinearProbe(l2=1.0).fit(x + 4 * y[:, None], y)
    >>> probe.predict([[0, 0], [4, 4]])
    array([0, 1])
    """

    def __init__(self, probe: str = "softmax", l2: str | float = "auto", random_state: int = 0) -> None:
        self.probe = probe
        self.l2 = l2
        self.random_state = random_state

    @measurement
    def fit(self, X: Any, y: Any) -> Self:
        """Fit to features X (n, p) and labels y (n,).

        Raises:
            ConfigError: an unknown probe, a penalty that is not positive, or a single class.
            ValueError: features or labels scikit-learn would refuse (NaN, other lengths, continuous).
        """
        if self.probe not in ("softmax", "ridge"):
            raise unknown_name("probe", self.probe, ("softmax", "ridge"))
        auto = isinstance(self.l2, str)
        if (auto and self.l2 != "auto") or (not auto and not 0 < float(self.l2) < float("inf")):
            raise ConfigError(f"l2 must be 'auto' or a positive number, not {self.l2!r}.")
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ConfigError("LinearProbe needs samples of at least 2 classes; there is one class.")
        centre, spread = standardisation(X)
        x, target = torch.from_numpy((X - centre) / spread).double()[None], torch.from_numpy(codes)
        classes = len(self.classes_)
        with single_thread(x.numel() * classes < 1e8):
            if self.probe == "ridge":
                weight, bias, l2 = fit_discriminant(x, target, classes, None if auto else float(self.l2))
            elif auto:
                fitted, l2 = fit_chosen(x, target, classes, int(self.random_state))
                weight, bias = fitted.weight, fitted.bias
            else:
                tolerance = _TOLERANCE if x.numel() * classes < 2e7 else 1e-5
                fitted = fit_softmax(x, target, float(self.l2), classes=classes, tolerance=tolerance)
                weight, bias, l2 = fitted.weight, fitted.bias, torch.tensor([float(self.l2)])
        self.coef_ = weight[0].numpy() / spread[:, None]
        self.intercept_ = bias[0].numpy() - centre @ self.coef_
        self.l2_ = float(l2[0])
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """(n, K) logits; (n,) for two classes: that of the second minus that of the first."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict(self, X: Any) -> np.ndarray:
        """(n,) the likeliest label of each sample."""
        logits = self._logits(X)
        labels: np.ndarray = self.classes_[logits.argmax(axis=1)]
        return labels

    def predict_proba(self, X: Any) -> np.ndarray:
        """(n, K) softmax of the logits.

        With "softmax" these are what was fitted; with "ridge" those of Gaussian classes of one
        covariance, which are often too sure.
        """
        logits = self._logits(X)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return shares

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        logits: np.ndarray = X.astype(np.float64) @ self.coef_ + self.intercept_
        return logits

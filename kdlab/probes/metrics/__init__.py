"""Metrics of representations and outputs: plain functions, arrays or tensors in, floats out.

All of them compute in float64 and refuse what cannot be measured with a `ConfigError`: fewer than 4
samples, NaN, different numbers of samples, a single class or a class without samples.
"""

from kdlab.probes.metrics.classes import class_separation, knn_purity, neural_collapse
from kdlab.probes.metrics.outputs import expected_calibration_error, top1_agreement
from kdlab.probes.metrics.similarity import (
    debiased_cka,
    linear_cka,
    mean_cca,
    minibatch_cka,
    procrustes_distance,
    rbf_cka,
)

__all__ = [
    "class_separation",
    "debiased_cka",
    "expected_calibration_error",
    "knn_purity",
    "linear_cka",
    "mean_cca",
    "minibatch_cka",
    "neural_collapse",
    "procrustes_distance",
    "rbf_cka",
    "top1_agreement",
]

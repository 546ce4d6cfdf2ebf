"""Metrics of representations and outputs: plain functions, arrays or tensors in, floats out.

All of them compute in float64 and refuse what cannot be measured with a `ConfigError`: fewer than 4
samples, NaN, different numbers of samples, a single class or a class without samples.
"""

from kdlab.probes.metrics.classes import (
    class_separation,
    etf_floor,
    fisher_ratio,
    fisher_shrinkage,
    knn_purity,
    neighbour_overlap,
    neural_collapse,
    silhouette,
)
from kdlab.probes.metrics.outputs import (
    adaptive_calibration_error,
    agreement_by_correctness,
    brier_score,
    expected_calibration_error,
    fidelity_kl,
    negative_log_likelihood,
    optimal_temperature,
    reliability_bins,
    top1_agreement,
    topk_overlap,
    wilson_interval,
)
from kdlab.probes.metrics.pairs import minibatch_cka_stream, similarity_matrix
from kdlab.probes.metrics.similarity import (
    debiased_cka,
    linear_cka,
    mean_cca,
    minibatch_cka,
    procrustes_distance,
    pwcca,
    rbf_cka,
    svcca,
)
from kdlab.probes.metrics.spectrum import effective_rank, participation_ratio

__all__ = [
    "adaptive_calibration_error",
    "agreement_by_correctness",
    "brier_score",
    "class_separation",
    "debiased_cka",
    "effective_rank",
    "etf_floor",
    "expected_calibration_error",
    "fidelity_kl",
    "fisher_ratio",
    "fisher_shrinkage",
    "knn_purity",
    "linear_cka",
    "mean_cca",
    "minibatch_cka",
    "minibatch_cka_stream",
    "negative_log_likelihood",
    "neighbour_overlap",
    "neural_collapse",
    "optimal_temperature",
    "participation_ratio",
    "procrustes_distance",
    "pwcca",
    "rbf_cka",
    "reliability_bins",
    "silhouette",
    "similarity_matrix",
    "svcca",
    "top1_agreement",
    "topk_overlap",
    "wilson_interval",
]

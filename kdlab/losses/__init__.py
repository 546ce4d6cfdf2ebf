"""Distillation losses as pure functions: tensors in, scalar out.

Student first, teacher second, class labels third. Nothing here owns parameters, keeps state or
waits for the GPU. Half-precision inputs are computed in float32, also under autocast. Gradient flows
into whatever input asks for it: pass a teacher's tensors detached (the engine does).
"""

from kdlab.losses.decomposition import Decomposition, decompose, dkd, nckd, nkd, tckd
from kdlab.losses.features import (
    align,
    attention_map,
    attention_transfer,
    channel_mse,
    cwd,
    feature_mse,
    gap,
    hcl,
    ickd,
    nst,
    pool_to,
)
from kdlab.losses.logits import (
    cross_entropy,
    dist,
    kd,
    kd_per_sample,
    standardize_logits,
    ttm,
    wttm,
)
from kdlab.losses.relations import (
    correlation_congruence,
    pkt,
    rkd,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)
from kdlab.losses.teachers import average_teachers, confidence_weighted, entropy_weighted

__all__ = [
    "Decomposition",
    "align",
    "attention_map",
    "attention_transfer",
    "average_teachers",
    "channel_mse",
    "confidence_weighted",
    "correlation_congruence",
    "cross_entropy",
    "cwd",
    "decompose",
    "dist",
    "dkd",
    "entropy_weighted",
    "feature_mse",
    "gap",
    "hcl",
    "ickd",
    "kd",
    "kd_per_sample",
    "nckd",
    "nkd",
    "nst",
    "pkt",
    "pool_to",
    "rkd",
    "rkd_angle",
    "rkd_distance",
    "similarity_preserving",
    "standardize_logits",
    "tckd",
    "ttm",
    "wttm",
]

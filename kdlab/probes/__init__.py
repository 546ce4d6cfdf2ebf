"""Measurements of representations: each takes a study, or plain modules and arrays, and gives a typed result.

What can be read: `linear_probe`, `factor_probe`; how things lie: `embed`, `neighbours`, `relations`,
`similarity`, `geometry`; where networks look: `attention_maps`, `attributions`, `stage_attributions`; what
they answer: `logit_decomposition`, `logit_history`, `logit_gradients`, `calibration`, `fidelity`; what each
loss wants: `pull`, `pull_arrows`; how training went: `learning_curves`, `final_accuracies`, and beside
published numbers `beside_published`. The plain functions are in
`kdlab.probes.metrics`, an estimator for scikit-learn is `LinearProbe`. Results are tables
(`to_frame`), files (`save`, `load_result`), sentences (`summary`) and figures (`plot`). `watched`
tells how far a long one is, and can end it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdlab.probes import metrics
from kdlab.probes.agreement import MapAgreement, compare_maps
from kdlab.probes.arrows import PullArrows, pull_arrows
from kdlab.probes.attention import AttentionMaps, attention_maps
from kdlab.probes.attribution import Attributions, attributions
from kdlab.probes.calibration import Calibration, calibration
from kdlab.probes.curves import LearningCurves, learning_curves, learning_details
from kdlab.probes.embedding import Embedding, embed
from kdlab.probes.factors import FactorProbe, factor_probe
from kdlab.probes.fidelity import Fidelity, fidelity
from kdlab.probes.final import FinalAccuracies, final_accuracies
from kdlab.probes.geometry import Geometry, geometry
from kdlab.probes.gradients import LogitGradients, logit_gradients
from kdlab.probes.linear import LinearProbeResult, linear_probe
from kdlab.probes.logit_history import LogitHistory, logit_history
from kdlab.probes.logits import QUADRANTS, LogitDecomposition, logit_decomposition
from kdlab.probes.maps import judge_map
from kdlab.probes.moments import until
from kdlab.probes.neighbours import Neighbours, neighbours
from kdlab.probes.predictors import predictor_curves
from kdlab.probes.progress import Cancelled, watched
from kdlab.probes.published import BesidePublished, beside_published
from kdlab.probes.pull import Pull, pull
from kdlab.probes.relations import Relations, relations
from kdlab.probes.representation import Representation, measure
from kdlab.probes.result import Result, load_result
from kdlab.probes.ridge import fit_discriminant, fit_ridge
from kdlab.probes.similarity import Similarity, similarity
from kdlab.probes.simplified import simplified_loss
from kdlab.probes.softmax import SoftmaxFit, fit_softmax
from kdlab.probes.sources import Source, as_source
from kdlab.probes.stage_attribution import StageAttributions, stage_attributions
from kdlab.probes.term_gradients import TermGradients, term_gradients
from kdlab.probes.tsne import tsne
from kdlab.probes.untrained import untrained_twin

if TYPE_CHECKING:
    from kdlab.probes.estimator import LinearProbe

__all__ = [
    "QUADRANTS",
    "AttentionMaps",
    "Attributions",
    "BesidePublished",
    "Calibration",
    "Cancelled",
    "Embedding",
    "FactorProbe",
    "Fidelity",
    "FinalAccuracies",
    "Geometry",
    "LearningCurves",
    "LinearProbe",
    "LinearProbeResult",
    "LogitDecomposition",
    "LogitGradients",
    "LogitHistory",
    "MapAgreement",
    "Neighbours",
    "Pull",
    "PullArrows",
    "Relations",
    "Representation",
    "Result",
    "Similarity",
    "SoftmaxFit",
    "Source",
    "StageAttributions",
    "TermGradients",
    "as_source",
    "attention_maps",
    "attributions",
    "beside_published",
    "calibration",
    "compare_maps",
    "embed",
    "factor_probe",
    "fidelity",
    "final_accuracies",
    "fit_discriminant",
    "fit_ridge",
    "fit_softmax",
    "geometry",
    "judge_map",
    "learning_curves",
    "learning_details",
    "linear_probe",
    "load_result",
    "logit_decomposition",
    "logit_gradients",
    "logit_history",
    "measure",
    "metrics",
    "neighbours",
    "predictor_curves",
    "pull",
    "pull_arrows",
    "relations",
    "similarity",
    "simplified_loss",
    "stage_attributions",
    "term_gradients",
    "tsne",
    "until",
    "untrained_twin",
    "watched",
]


def __getattr__(name: str) -> Any:
    if name == "LinearProbe":  # loads scikit-learn
        from kdlab.probes.estimator import LinearProbe

        return LinearProbe
    raise AttributeError(f"module 'kdlab.probes' has no attribute {name!r}")

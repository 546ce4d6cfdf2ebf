"""Measurements of representations: each takes a study, or plain modules and arrays, and gives a typed result.

`linear_probe` (what can be read from each layer), `embed` (teacher and students in one plane),
`attention_maps` (where they look), `logit_decomposition` (what KD asks for, sample by sample) and
`learning_curves`; the plain functions of `kdlab.probes.metrics`. Results are drawn by `kdlab.plots`.
"""

from kdlab.probes import metrics
from kdlab.probes.arrows import PullArrows, pull_arrows
from kdlab.probes.attention import AttentionMaps, attention_maps
from kdlab.probes.curves import LearningCurves, learning_curves
from kdlab.probes.embedding import Embedding, embed
from kdlab.probes.linear import LinearProbeResult, linear_probe
from kdlab.probes.logits import QUADRANTS, LogitDecomposition, logit_decomposition
from kdlab.probes.pull import Pull, TermGradients, pull, term_gradients
from kdlab.probes.representation import Representation, measure
from kdlab.probes.result import Result, load_result
from kdlab.probes.ridge import fit_ridge
from kdlab.probes.softmax import SoftmaxFit, fit_softmax
from kdlab.probes.sources import Source, as_source
from kdlab.probes.tsne import tsne

__all__ = [
    "QUADRANTS",
    "AttentionMaps",
    "Embedding",
    "LearningCurves",
    "LinearProbeResult",
    "LogitDecomposition",
    "Pull",
    "PullArrows",
    "Representation",
    "Result",
    "SoftmaxFit",
    "Source",
    "TermGradients",
    "as_source",
    "attention_maps",
    "embed",
    "fit_ridge",
    "fit_softmax",
    "learning_curves",
    "linear_probe",
    "load_result",
    "logit_decomposition",
    "measure",
    "metrics",
    "pull",
    "pull_arrows",
    "term_gradients",
    "tsne",
]

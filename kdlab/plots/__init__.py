"""Results of probes as plotly figures: pure functions, one theme, no measuring.

Every figure has a sentence for people who cannot see it in `figure.layout.meta["summary"]`, and
tells networks apart by dash and marker as well as by colour.
"""

from kdlab.plots.attention import attention
from kdlab.plots.attribution import attribution, attribution_agreement
from kdlab.plots.calibration import calibration, reliability
from kdlab.plots.curves import curves
from kdlab.plots.dark_knowledge import dark_knowledge
from kdlab.plots.embedding import embedding
from kdlab.plots.export import save_figure, to_csv, to_html, to_image
from kdlab.plots.factors import factors
from kdlab.plots.fidelity import fidelity, fidelity_epochs
from kdlab.plots.geometry import geometry
from kdlab.plots.logit_gradients import logit_gradients
from kdlab.plots.logit_history import logits_over_epochs
from kdlab.plots.logits import logit_classes, logit_sample, logit_sweep, logits
from kdlab.plots.neighbours import neighbours
from kdlab.plots.probe_depth import probe_depth
from kdlab.plots.pull import pull, pull_arrows, pull_conflicts
from kdlab.plots.similarity import similarity, similarity_epochs
from kdlab.plots.theme import Style, recolour, styles

__all__ = [
    "Style",
    "attention",
    "attribution",
    "attribution_agreement",
    "calibration",
    "curves",
    "dark_knowledge",
    "embedding",
    "factors",
    "fidelity",
    "fidelity_epochs",
    "geometry",
    "logit_classes",
    "logit_gradients",
    "logit_sample",
    "logit_sweep",
    "logits",
    "logits_over_epochs",
    "neighbours",
    "probe_depth",
    "pull",
    "pull_arrows",
    "pull_conflicts",
    "recolour",
    "reliability",
    "save_figure",
    "similarity",
    "similarity_epochs",
    "styles",
    "to_csv",
    "to_html",
    "to_image",
]

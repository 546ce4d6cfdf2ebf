"""Results of probes as plotly figures: pure functions, one theme, no measuring.

Every figure has a sentence for people who cannot see it in `figure.layout.meta["summary"]`, and
tells networks apart by dash and marker as well as by colour.
"""

from kdlab.plots.attention import attention
from kdlab.plots.curves import curves
from kdlab.plots.embedding import embedding
from kdlab.plots.logits import logit_classes, logit_sample, logit_sweep, logits
from kdlab.plots.probe_depth import probe_depth
from kdlab.plots.pull import pull, pull_arrows, pull_conflicts
from kdlab.plots.theme import Style, recolour, styles

__all__ = [
    "Style",
    "attention",
    "curves",
    "embedding",
    "logit_classes",
    "logit_sample",
    "logit_sweep",
    "logits",
    "probe_depth",
    "pull",
    "pull_arrows",
    "pull_conflicts",
    "recolour",
    "styles",
]

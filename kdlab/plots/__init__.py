"""Results of probes as plotly figures: pure functions, one theme, no measuring.

Every figure has a sentence for people who cannot see it in `figure.layout.meta["summary"]`, and
tells networks apart by dash and marker as well as by colour.
"""

from kdlab.plots.attention import attention
from kdlab.plots.attribution import attribution, attribution_agreement
from kdlab.plots.beside_published import beside_published
from kdlab.plots.calibration import calibration, reliability
from kdlab.plots.curves import curves
from kdlab.plots.dark_knowledge import dark_knowledge
from kdlab.plots.embedding import embedding
from kdlab.plots.embedding_at import embedding_at
from kdlab.plots.export import save_figure, to_csv, to_html, to_image
from kdlab.plots.factors import factors
from kdlab.plots.fidelity import fidelity, fidelity_epochs
from kdlab.plots.final_accuracies import final_accuracies
from kdlab.plots.geometry import geometry
from kdlab.plots.histogram import histogram
from kdlab.plots.logit_distribution import logit_distribution, logit_parts
from kdlab.plots.logit_gradients import logit_gradients
from kdlab.plots.logit_history import logits_over_epochs
from kdlab.plots.logits import logit_classes, logit_sample, logit_sweep, logits
from kdlab.plots.map_wall import map_wall
from kdlab.plots.matrices import matrices
from kdlab.plots.neighbours import neighbours
from kdlab.plots.plain import grouped_bars, lines
from kdlab.plots.planes import planes
from kdlab.plots.probe_depth import probe_depth
from kdlab.plots.probe_epochs import probe_epochs, probe_maps
from kdlab.plots.pull import pull, pull_arrows, pull_conflicts
from kdlab.plots.relations import relations
from kdlab.plots.similarity import similarity, similarity_epochs
from kdlab.plots.sureness import sureness
from kdlab.plots.theme import Style, recolour, styles

__all__ = [
    "Style",
    "attention",
    "attribution",
    "attribution_agreement",
    "beside_published",
    "calibration",
    "curves",
    "dark_knowledge",
    "embedding",
    "embedding_at",
    "factors",
    "fidelity",
    "fidelity_epochs",
    "final_accuracies",
    "geometry",
    "grouped_bars",
    "histogram",
    "lines",
    "logit_classes",
    "logit_distribution",
    "logit_gradients",
    "logit_parts",
    "logit_sample",
    "logit_sweep",
    "logits",
    "logits_over_epochs",
    "map_wall",
    "matrices",
    "neighbours",
    "planes",
    "probe_depth",
    "probe_epochs",
    "probe_maps",
    "pull",
    "pull_arrows",
    "pull_conflicts",
    "recolour",
    "relations",
    "reliability",
    "save_figure",
    "similarity",
    "similarity_epochs",
    "styles",
    "sureness",
    "to_csv",
    "to_html",
    "to_image",
]

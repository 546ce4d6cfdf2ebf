"""Students and teachers side by side: results, layers, classes, outputs; and everything in one file."""

from __future__ import annotations

import tempfile
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from kdlab.errors import ConfigError
from kdlab.panels import controls, exports
from kdlab.panels.controls import Control
from kdlab.panels.jobs import Jobs
from kdlab.panels.over_seeds import SeedsPanel, drawn
from kdlab.plots.theme import shortened
from kdlab.probes import BesidePublished, Cancelled, Geometry, Similarity
from kdlab.probes.fidelity import ENSEMBLE, PARTS
from kdlab.probes.metrics.pairs import METRICS
from kdlab.probes.progress import measurement, parts
from kdlab.report import save_everything

# View -> its words, the probe that answers it, and the forms in which it is drawn.
VIEWS = {
    "results": ("where they ended", "final_accuracies"),
    "published": ("beside published numbers", "beside_published"),
    "similarity": ("how alike their layers are", "similarity"),
    "geometry": ("how classes lie in their layers", "geometry"),
    "calibration": ("whether they are as sure as right", "calibration"),
    "agreement": ("who agrees with whom", "fidelity"),
}
FORMS = {
    "published": (("own", "the study's methods"), ("all", "everything published of these networks")),
    "similarity": (("matrices", "all pairs of layers"), ("epochs", "corresponding layers over the epochs")),
    "geometry": (
        ("network", "beside each other"),
        ("layer", "layer by layer"),
        ("epoch", "over the epochs"),
    ),
    "calibration": (
        ("reliability", "reliability diagrams"),
        ("ece", "calibration error (ECE) over the epochs"),
        ("adaptive_ece", "error in bins of equal size over the epochs"),
        ("nll", "log-likelihood over the epochs"),
        ("brier", "Brier score over the epochs"),
        ("temperature", "best temperature over the epochs"),
    ),
    "agreement": (
        ("matrix", "all pairs, and by who is right"),
        ("agreement", "agreement over the epochs"),
        ("right", "where the reference is right, over the epochs"),
        ("wrong", "where the reference is wrong, over the epochs"),
        ("kl", "divergence (KL) over the epochs"),
        ("top", "the 5 highest classes over the epochs"),
    ),
}
MOVING = {("similarity", "matrices"), ("geometry", "network"), ("geometry", "layer")}
MOVING |= {("calibration", "reliability"), ("agreement", "matrix")}  # forms of one epoch
AGAINST = (
    ("teacher", "with the teacher"),
    ("students", "with each other"),
    ("self", "within each network"),
    ("first", "with itself at the first epoch"),
    ("last", "with itself at the last epoch"),
)
MEASURES = {
    "usual": ("the usual six", None),
    "collapse": ("neural collapse (NC1 to NC4)", ["nc1", "nc2_equinorm", "nc2_equiangular", "nc3", "nc4"]),
    "separation": ("separation of classes", ["class_separation", "fisher_ratio", "silhouette"]),
    "dimension": ("dimension and norms", ["effective_rank", "participation_ratio", "mean_norm"]),
}
_TOP_CLASSES = 10  # from so many on, the overlap of the 5 highest says something


class ComparePanel(SeedsPanel):
    """Where students ended, how they differ inside and in what they answer; everything in one file.

    Args:
        study: a `kdlab.Study`, new, running, finished or loaded.
        **options: of `AnalysisPanel`.

    >>> panel = kdlab.panels.ComparePanel(study, in_cell=True)
    >>> type(panel.result).__name__, panel.code(panel.want(), panel.result)
    ('FinalAccuracies', 'kdlab.plots.final_accuracies(kdlab.probes.final_accuracies(study))')
    >>> panel.close()
    """

    heading = "Compare"
    purpose = "Teacher and students side by side: accuracies, layers, classes, confidence, agreement."
    defaults = {
        "view": "results",
        **{f"{view}_as": forms[0][0] for view, forms in FORMS.items()},
        "metric": "cka",
        "against": "teacher",
        "layer": "",
        "measures": "usual",
        "reference": None,
        "part": PARTS[1],
        "seeds": "all",
    }

    def __init__(self, study: Any, **options: Any) -> None:
        self._packer = Jobs(inline=bool(options.get("in_cell")))
        self._packing = 0  # number of the file that is being made
        self._packed = 0  # of the last one that was finished or given up
        super().__init__(study, **options)

    # ---- what is shown -----------------------------------------------------------------------------------

    def _view(self) -> str:
        view = str(self.now["view"])
        return view if view in VIEWS else "results"

    def _forms(self, view: str) -> list[tuple[str, str]]:
        if view == "published" and isinstance(self.result, BesidePublished) and not self.result.comparable:
            return []
        few = self.study.data.num_classes < _TOP_CLASSES
        return [form for form in FORMS.get(view, ()) if not (few and form[0] == "top")]

    def _form(self) -> str:
        view = self._view()
        return str(self.value(f"{view}_as", self._forms(view)) or "")

    def at_epoch(self) -> bool:
        return (self._view(), self._form()) in MOVING

    def shown_seeds(self) -> tuple[int, ...]:
        """As ever, but a reliability diagram is of one seed and published numbers stand beside all."""
        seeds = super().shown_seeds()
        if self._view() == "published":
            return tuple(self.stock.seeds())
        one = self.seed() if (self._view(), self._form()) == ("calibration", "reliability") else None
        return seeds if one is None else (one,)

    def known(self) -> Hashable:
        if self._view() not in ("results", "published"):
            return super().known()
        record = self.study.record
        return len(record.commands), *((seed, len(run.rows)) for seed, run in record.runs.items())

    def _against(self) -> list[tuple[str, str]]:
        several = len(self.study.names) > 1
        return [
            way
            for way in AGAINST
            if (way[0] != "teacher" or self.study.teacher_name) and (way[0] != "students" or several)
        ]

    def _layers(self) -> list[tuple[str, str]]:
        """Layers of the present result that can be chosen."""
        result, names = self.result, list[str]()
        if self._view() == "similarity" and isinstance(result, Similarity):
            names = [name for _, right in result.pairs for name in result.layers[right]]
        elif self._view() == "geometry" and isinstance(result, Geometry):
            names = list(result.layers)
        everything = "the deepest" if self._view() == "geometry" else "all layers"
        return [("", everything), *((name, name) for name in dict.fromkeys(names))]

    def _references(self) -> list[tuple[str, str]]:
        names = [*self.study.teacher_names]
        if len(names) > 1:
            names = [ENSEMBLE, *names]
        return [(name, name) for name in (*names, *self.students())]

    # ---- the panel ---------------------------------------------------------------------------------------

    def controls(self) -> list[Control]:
        view, form = self._view(), self._form()
        forms = [
            controls.select(f"{one}_as", "As", offered, self.value(f"{one}_as", offered), hidden=one != view)
            for one in FORMS
            if (offered := self._forms(one))
        ]
        layered = (view, form) in (("similarity", "epochs"), ("geometry", "network"), ("geometry", "epoch"))
        metrics = [(name, words) for name, words in METRICS.items()]
        measures = [(name, words) for name, (words, _) in MEASURES.items()]
        sides = [(part, part) for part in PARTS[::-1]]
        seeds = self.seed_controls()
        if form == "reliability" and view == "calibration":
            seeds = [seeds[0] | {"hidden": True}, seeds[1] | {"hidden": len(self.stock.seeds()) < 2}]
        elif view == "published":
            seeds = [one | {"hidden": True} for one in seeds]
        against, layers, references = self._against(), self._layers(), self._references()
        return [
            controls.select("view", "Show", [(name, words) for name, (words, _) in VIEWS.items()], view),
            *forms,
            controls.select(
                "metric", "By", metrics, self.value("metric", metrics), hidden=view != "similarity"
            ),
            controls.select(
                "against", "Each", against, self.value("against", against), hidden=view != "similarity"
            ),
            controls.select(
                "measures", "Of", measures, self.value("measures", measures), hidden=view != "geometry"
            ),
            controls.select("layer", "Layer", layers, self.value("layer", layers), hidden=not layered),
            controls.select(
                "reference",
                "Reference",
                references,
                self.value("reference", references),
                hidden=view != "agreement",
            ),
            controls.select("part", "On the", sides, self.value("part", sides), hidden=view != "agreement"),
            self.students_control(),
            *seeds,
            self.epoch_control() | ({} if self.at_epoch() else {"hidden": True}),
            self._save_button(),
        ]

    def question(self) -> tuple[str, dict[str, Any]]:
        view, options = self._view(), self.options()
        if view == "published":
            options.pop("seeds", None)
        if view == "similarity":
            asked = {"metric": self.value("metric", [(m, m) for m in METRICS])}
            against = self.value("against", self._against())
            options = {**asked, "against": against, **options}
        return VIEWS[view][1], options

    def picture(self, result: Any) -> tuple[str, dict[str, Any]]:
        view, form = self._view(), self._form()
        if view == "published":
            return "beside_published", {"methods": form} if form else {}
        if view == "similarity":
            if form == "epochs" and len(result.epochs) > 1:
                return "similarity_epochs", self._layer_of(result)
            return "similarity", {"epoch_slider": False}
        if view == "geometry":
            group = MEASURES.get(str(self.now["measures"]), ("", None))[1]
            measures = {} if group is None else {"measures": group}
            return "geometry", {"by": form, **measures, **({} if form == "layer" else self._layer_of(result))}
        if view == "calibration":
            if form == "reliability":
                return "reliability", {"epoch_slider": False}
            return "calibration", {"measure": form}
        if view == "agreement":
            reference = self.value("reference", self._references())
            options = {"reference": reference} if reference in result.networks else {}
            options["part"] = self.now["part"]
            if form == "matrix":
                return "fidelity", {**options, "epoch_slider": False}
            return "fidelity_epochs", {"measure": form, **options}
        return "final_accuracies", {}

    def _layer_of(self, result: Any) -> dict[str, str]:
        """The chosen layer where the result has it."""
        layer = str(self.now["layer"])
        if isinstance(result, Similarity):
            there = layer in [name for _, right in result.pairs for name in result.layers[right]]
        else:
            there = layer in result.layers
        return {"layer": layer} if there else {}

    def clicked(self, trace: Any, point: int) -> None:
        """A cell of two layers, or a layer of a plot, is followed over the epochs; an epoch is gone to."""
        at, result = (self._view(), self._form()), self.result
        if at == ("similarity", "matrices") and isinstance(result, Similarity) and len(result.epochs) > 1:
            columns = drawn(trace.x)
            name = columns[point % len(columns)]
            found = [layer for layer, _ in self._layers()[1:] if shortened(layer, 11) == name]
            self.values = {**self.values, "similarity_as": "epochs"}
            self.set("layer", found[0] if found else "")
        elif at == ("geometry", "layer") and isinstance(result, Geometry) and len(result.epochs) > 1:
            self.values = {**self.values, "geometry_as": "epoch"}
            self.set("layer", result.layers[round(float(drawn(trace.x)[point]))])
        elif hasattr(result, "epochs") and len(result.epochs) > 1 and not self.at_epoch():
            self.set("epoch", int(drawn(trace.x)[point]))

    # ---- everything in one file --------------------------------------------------------------------------

    def _save_button(self) -> Control:
        how = (
            "All results as tables and files, all figures, and the code: kdlab.report.save_everything(study)"
        )
        if self._packing == self._packed:
            return controls.button("everything", "Save everything", title=how, disabled=self.seed() is None)
        fraction, what = self._packer.progress(self) or (0.0, "")
        return controls.button("everything", f"Cancel saving ({fraction:.0%})", title=what or how)

    def pressed(self, name: str) -> None:
        """Begin to save everything, or end it."""
        if self._packing == self._packed:
            self._packing += 1
        else:
            self._packer.cancel(self)

    def paint(self, news: dict[str, Any]) -> float | None:
        """As ever; and see to it that the file is made that was asked for."""
        if self._packing != self._packed:
            outcome = self._packer.ask(self, self._packing, self._pack, self._poke)
            if outcome is not None:
                self._packed = self._packing
                if outcome.error is not None and not isinstance(outcome.error, Cancelled):
                    self.show_error(outcome.error)
        return super().paint(news)

    @measurement
    def _pack(self) -> None:
        """Make the file and send it to the page."""
        name = exports.file_name(self, "zip").replace("-compare.", "-everything.")
        now = parts({"": 9, "sending": 1})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            try:
                with now(""):
                    save_everything(self.study, path)
                data = path.read_bytes()
            except OSError as error:
                raise ConfigError(
                    f"The file could not be made ({error.strerror}); free some room."
                ) from error
        with now("sending"):
            exports.deliver(self, name, "application/zip", data)

    def close(self) -> None:
        """End saving and measuring, and close the widget; the study goes on."""
        self._packer.cancel(self)
        super().close()

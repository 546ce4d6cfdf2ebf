"""What can be read from each layer: accuracy by depth and epoch, students side by side, with controls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kdlab.panels import controls, probe_words
from kdlab.panels.analysis import Want
from kdlab.panels.controls import Control
from kdlab.panels.over_seeds import SeedsPanel, drawn
from kdlab.probes import FactorProbe, LinearProbeResult
from kdlab.probes.words import call

VIEWS = (
    ("depth", "layer by layer"),
    ("epochs", "over the epochs"),
    ("map", "layers × epochs"),
    ("factors", "factors of the pictures"),
)
VALUES = (
    ("accuracy", "what a linear probe reads"),
    ("selectivity", "how much better than random labels"),
    ("purity", "purity of nearest neighbours"),
)
PROBES = (("ridge", "quick (closed form)"), ("softmax", "converged softmax"))
FACTOR_VALUES = (
    ("difference", "kept or dropped"),
    ("decodability", "decodability"),
    ("accuracy", "accuracy"),
)


class ProbePanel(SeedsPanel):
    """Linear probes of every layer, by depth, by epoch and as maps; neighbours; factors of pictures.

    Args:
        study: a `kdlab.Study`, new, running, finished or loaded.
        **options: of `AnalysisPanel`.

    >>> panel = kdlab.panels.ProbePanel(study, in_cell=True)
    >>> panel.result.networks, panel.result.probe
    (('resnet8', 'alone', 'KD'), 'ridge')
    >>> panel.close()
    """

    heading = "Probes"
    purpose = "What can be read from each layer by a linear classifier; not what the network makes of it."
    defaults = {
        "view": "depth",
        "value": "accuracy",
        "factor_value": "difference",
        "beside": None,
        "probe": "ridge",
        "layer": "",
        "control": True,
        "untrained": False,
        "narrow": False,
        "levels": True,
        "seeds": "all",
    }

    # ---- what is shown -----------------------------------------------------------------------------------

    def _views(self) -> list[tuple[str, str]]:
        known = bool(getattr(self.study.probe_set, "factors", None))
        return [view for view in VIEWS if known or view[0] != "factors"]

    def _view(self) -> str:
        return str(self.value("view", self._views()))

    def _layers(self) -> list[tuple[str, str]]:
        shown = self.result if isinstance(self.result, LinearProbeResult) else None
        return probe_words.names(shown.layers if shown else ())

    def _beside(self) -> list[tuple[str, str]]:
        """Networks that others can be compared with, those that learn from labels alone first."""
        students = sorted(self.students(), key=lambda name: self.study.methods[name].needs_teacher())
        return [*((n, n) for n in students), *((n, f"{n} (teacher)") for n in self.study.teacher_names)]

    def controls(self) -> list[Control]:
        value, view = self.now, self._view()
        linear, accuracy = view != "factors", self.now["value"] == "accuracy"
        neighbours = linear and value["value"] == "purity"
        beside = self._beside()
        lines = view == "depth" and accuracy
        return [
            controls.select("view", "Show", self._views(), view),
            controls.select("value", "Of", VALUES, value["value"], hidden=not linear),
            controls.select("factor_value", "As", FACTOR_VALUES, value["factor_value"], hidden=linear),
            controls.select(
                "beside",
                "Beside",
                beside,
                self.value("beside", beside),
                hidden=linear or value["factor_value"] != "difference",
                title="What other networks show more or less than this one",
            ),
            controls.select(
                "probe",
                "Probe",
                PROBES,
                self.value("probe", PROBES),
                hidden=neighbours,
                title="The quick one is solved in closed form; the other is softmax regression to the end",
            ),
            controls.select(
                "layer", "Layer", self._layers(), self.value("layer", self._layers()), hidden=view != "epochs"
            ),
            controls.tick(
                "control",
                "Random labels",
                value["control"],
                hidden=not lines,
                title="The same probe on labels drawn at random: what it learns by heart",
            ),
            controls.tick(
                "untrained",
                "Untrained networks",
                value["untrained"],
                hidden=not lines,
                title="The same networks with random weights, the teacher's too",
            ),
            controls.tick(
                "narrow",
                "Equal dimension",
                value["narrow"],
                hidden=not linear or neighbours,
                title="Every layer on as many principal components as the narrowest has",
            ),
            controls.tick("levels", "Pixels and chance", value["levels"], hidden=not lines),
            self.students_control(),
            *self.seed_controls(),
            self.epoch_control(),
        ]

    def question(self) -> tuple[str, dict[str, Any]]:
        value, rest = self.now, self.options()
        if self._view() == "factors":
            return "factor_probe", {"epochs": "all", "probe": value["probe"], **rest}
        if value["value"] == "purity":
            return "linear_probe", {"probe": "ridge", "purity": True, **rest}
        out: dict[str, Any] = {"probe": value["probe"]}
        if value["control"] or value["value"] == "selectivity":
            out["control"] = True
        if value["untrained"] and value["value"] == "accuracy":
            out["untrained"] = True
        if value["narrow"]:
            out["dimension"] = "narrowest"
        return "linear_probe", out | rest

    def at_epoch(self) -> bool:
        return self._view() in ("depth", "factors")

    def _layer(self, result: LinearProbeResult) -> str | None:
        """The layer that is followed; None for all."""
        return self.now["layer"] if self.now["layer"] in result.layers else None

    def _epoch_of(self, result: LinearProbeResult) -> int | None:
        """The shown epoch, or the last one measured so far."""
        shown = self.epoch()
        return shown if shown in result.epochs else result.epochs[-1]

    # ---- drawing -----------------------------------------------------------------------------------------

    def picture(self, result: Any) -> tuple[str, dict[str, Any]]:
        view, value = self._view(), self.now["value"]
        if view == "factors":
            return "factors", {"value": self._factor_value(result), "epoch_slider": False}
        if view == "depth":
            return "probe_depth", {"value": value, "controls": self._lines(value), "epoch_slider": False}
        options: dict[str, Any] = {"value": value, "epoch": self._epoch_of(result)}
        if view == "map":
            return "probe_maps", options
        layer = self._layer(result)
        return "probe_epochs", options if layer is None else {"layer": layer, **options}

    def _factor_value(self, result: FactorProbe) -> str:
        """Differences need two networks."""
        value = str(self.now["factor_value"])
        return value if value != "difference" or len(result.networks) > 1 else "decodability"

    def _lines(self, value: str) -> list[str]:
        """The controls that are drawn."""
        out = ["untrained"]
        if value == "accuracy" and self.now["control"]:
            out.append("random labels")
        return [*out, "pixels", "chance"] if self.now["levels"] or value == "purity" else out

    def shown(self, result: Any) -> Any:
        shown = super().shown(result)
        if not isinstance(shown, FactorProbe):
            return shown
        beside = self.value("beside", self._beside())
        return replace(shown, baseline=beside if beside in shown.networks else "")

    def code(self, want: Want, result: Any) -> str:
        if not isinstance(result, FactorProbe):
            return super().code(want, result)
        name, options = self.question()
        beside = {"baseline": self.shown(result).baseline}
        taken = call(f"kdlab.probes.{name}", "study", **options, **beside)
        return super().code(replace(want, code=taken), result)

    def say(self, result: Any) -> str:
        shown, view, value = self.shown(result), self._view(), self.now["value"]
        if isinstance(shown, FactorProbe):
            said = probe_words.factors(shown, self._factor_value(shown))
        elif view == "depth":
            said = probe_words.at_depth(shown, value)
        else:
            said = probe_words.over_epochs(shown, value, self._layer(shown) if view == "epochs" else None)
        return " ".join(filter(None, [said, self.about_seeds()]))

    def clicked(self, trace: Any, point: int) -> None:
        """A layer is followed over the epochs; a point or cell of an epoch goes to that epoch."""
        result, view = self.result, self._view()
        if not isinstance(result, LinearProbeResult):
            return
        if view == "depth" and len(result.epochs) > 1:
            deepest = len(result.layers) - 1
            self.values = {**self.values, "view": "epochs"}
            self.set("layer", result.layers[min(max(round(float(drawn(trace.x)[point])), 0), deepest)])
        elif view == "epochs":
            self.set("epoch", int(drawn(trace.x)[point]))
        elif view == "map" and drawn(trace.z).shape[1] == len(result.epochs):  # a teacher has one column
            self.set("epoch", result.epochs[point % len(result.epochs)])

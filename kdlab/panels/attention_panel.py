"""Where networks look: maps of one picture at every stage, or of several pictures, teacher and students."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from kdlab import plots, probes
from kdlab.panels import attention_words, controls
from kdlab.panels.analysis import AnalysisPanel, Want
from kdlab.panels.controls import Control
from kdlab.panels.live import Points
from kdlab.panels.picking import DIFFER, WRONG, PicturePanel
from kdlab.plots.map_reading import MapReading

METHODS = (
    ("attention", "activation (AT)"),
    ("gradcam", "Grad-CAM"),
    ("integrated_gradients", "integrated gradients"),
    ("occlusion", "occlusion"),
)
_TOGETHER = 8  # pictures that are measured at once where that is quick
_ROWS = 6  # pictures below each other


@dataclass(frozen=True)
class Moment:
    """What is shown: of which networks, when, and which pictures were measured together.

    Attributes:
        batch: places of the measured pictures; places: of those that are drawn; kept: whether the maps
            were kept in training, so that no network was asked.
    """

    seed: int
    epoch: int
    names: tuple[str, ...]
    method: str
    batch: tuple[int, ...]
    places: tuple[int, ...]
    sample: int
    kept: bool


class AttentionPanel(PicturePanel):
    """Pictures x stages x networks: activation maps, Grad-CAM, integrated gradients, occlusion.

    Maps lie over the picture; teacher and students have one colour scale. Activation maps of the first
    pictures are kept at every snapshot; everything else is computed from weights, at the epochs of which
    they were kept.

    Args:
        study: a `kdlab.Study`, new, running, finished or loaded.
        **options: of `AnalysisPanel`.

    >>> panel = kdlab.panels.AttentionPanel(study, in_cell=True)
    >>> panel.needs_weights(), panel.result.stages["KD"]
    (False, ('layer1', 'layer2', 'layer3'))
    >>> panel.close()
    """

    heading = "Attention"
    purpose = "Where in a picture teacher and students are active, or find evidence for a class."
    defaults = {
        "pictures": "all",
        "method": "attention",
        "class": "label",
        "layout": "picture",
        "stage": -1,
        "show": "maps",
        "opacity": 0.8,
        "control": True,
    }

    def __init__(self, study: Any, **options: Any) -> None:
        self._now: Moment | None = None
        self._seen_now: Moment | None = None
        super().__init__(study, **options)

    # ---- which epochs and pictures ---------------------------------------------------------------------

    def epochs(self, network: str | None = None) -> list[int]:
        known, seed = super().epochs(network), self.seed()
        if seed is None or not self.needs_weights():
            return known
        names = [network] if network else self._wanted_students()
        return sorted({epoch for name in names for epoch in self.stock.weight_epochs(seed, name)})

    def needs_weights(self) -> bool:
        """Whether networks must be asked, because maps of this kind or of these pictures were not kept."""
        if self.values["method"] != "attention":
            return True
        kept, kind = int(self.study.probe_set.attention_count), self.kind()
        if self.values["layout"] == "picture":
            return self.sample() >= kept
        if kind.startswith((WRONG, DIFFER)):  # which these are depends on the epoch
            return True
        return max(self.page(_ROWS)) >= kept

    def _wanted_students(self) -> list[str]:
        chosen = [name for name in self.study.names if name in self.shared.students]
        return chosen or list(self.study.names)

    def missing_epochs(self) -> list[int]:
        """Epochs that have a snapshot, but no weights, where those are needed."""
        there = self.epochs()
        return [epoch for epoch in AnalysisPanel.epochs(self) if epoch not in there]

    # ---- the panel ---------------------------------------------------------------------------------------

    def controls(self) -> list[Control]:
        value, pixels = self.values, self.values["method"] in ("integrated_gradients", "occlusion")
        shows = [("maps", "maps")]
        if self.study.teacher_name:
            shows.append(("difference", "difference to the teacher"))
        layouts = [("picture", "one picture" if pixels else "one picture, all stages")]
        layouts.append(("pictures", "several pictures"))
        stages = self._stages()
        of_several = value["layout"] == "pictures" and not pixels
        classes = self._classes()
        explains = value["method"] != "attention"
        return [
            *self.picture_controls(),
            controls.select("method", "Method", METHODS, self.value("method", METHODS)),
            controls.select("class", "Class", classes, self.value("class", classes), hidden=not explains),
            controls.select("layout", "Layout", layouts, self.value("layout", layouts)),
            controls.select("stage", "Stage", stages, self.value("stage", stages), hidden=not of_several),
            controls.select("show", "Show", shows, self.value("show", shows), hidden=len(shows) < 2),
            controls.slide("opacity", "Opacity", 0.1, 1.0, value["opacity"], step=0.05),
            controls.tick(
                "control",
                "Untrained network",
                value["control"],
                hidden=not self.study.teacher_name,
                title="Also measure how far the maps of an untrained network agree with the teacher's",
            ),
            self.students_control(),
            self.seed_control(),
            self._epochs_with_reason(),
        ]

    def _epochs_with_reason(self) -> Control:
        slider = self.epoch_control()
        missing = self.missing_epochs()
        return slider | {"title": attention_words.why_missing(missing)} if missing else slider

    def _stages(self) -> list[tuple[int, str]]:
        """Depths from the deepest stage on, as the network with most stages calls them."""
        names = [self.study.teacher_name] if self.study.teacher_name else []
        seen = [shown.stages for name in (*names, *self.students()) if (shown := self.shown(name))]
        longest = max(seen, key=len, default=())
        depths = range(-1, -len(longest) - 1, -1)
        return [(depth, longest[depth] + (", the deepest" if depth == -1 else "")) for depth in depths]

    def _classes(self) -> list[tuple[str, str]]:
        teacher = [("teacher", "the teacher's answer")] if self.study.teacher_name else []
        return [("label", "the true class"), *teacher, *((n, f"{n}'s answer") for n in self.students())]

    def want(self) -> Want:
        seed, epoch, names = self.moment()
        method, several = self.values["method"], self.values["layout"] == "pictures"
        sample, study = self.sample(), self.study
        pixels = method in ("integrated_gradients", "occlusion")
        kept = not self.needs_weights()
        places = tuple(self.page(_ROWS)) if several else (sample,)
        if kept:
            batch = tuple(range(int(study.probe_set.attention_count)))
        else:
            batch = places if several or pixels else tuple(self.page(_TOGETHER))
        self._now = Moment(seed, epoch, names, method, batch, places, sample, kept)
        about, control = self.arguments(seed, names), bool(self.values["control"])
        given = "study" if kept else f"study, {list(batch)}"
        if method == "attention":
            compared = control and study.teacher_name and epoch and any(0 in self.epochs(n) for n in names)
            epochs = [0, epoch] if compared else [epoch]  # how alike they were before training
            code = f"kdlab.probes.attention_maps({given}, epochs={epochs}{about})"
            samples = None if kept else batch

            def look() -> Any:
                return probes.attention_maps(study, samples, epochs=epochs, students=names, seed=seed)

            return Want((method, seed, *epochs, names, batch), look, code)
        class_ = self.value("class", self._classes())
        measure: Callable[..., Any] = probes.attributions if pixels else probes.stage_attributions
        options = dict(method=method, class_=class_, epoch=epoch, controls=control)
        text = ", ".join(f"{name}={value!r}" for name, value in options.items())
        code = f"kdlab.probes.{measure.__name__}({given}, {text}{about})"

        def explain() -> Any:
            return measure(study, batch, students=names, seed=seed, **options)

        return Want((method, seed, epoch, names, batch, class_, control), explain, code)

    def look(self) -> Hashable:
        value = self.values
        return (*self.picked(), value["layout"], value["stage"], value["show"], value["opacity"], self._now)

    def _options(self) -> dict[str, Any]:
        """How the wall is drawn now."""
        now = self._now
        assert now is not None
        out: dict[str, Any] = {"layout": self.values["layout"]}
        if out["layout"] == "pictures":
            out["samples"] = [now.batch.index(place) for place in now.places]
            if now.method in ("attention", "gradcam"):
                out["stage"] = self.value("stage", self._stages())
        else:
            out["sample"] = now.batch.index(now.sample)
        out["show"] = self._what()
        return out | {"opacity": float(self.values["opacity"])}

    def _what(self) -> str:
        return "difference" if self.study.teacher_name and self.values["show"] == "difference" else "maps"

    def draw(self, result: Any) -> go.Figure:
        self._seen_now = self._now
        return plots.map_wall(result, **self._options(), dark=self.dark)

    def code(self, want: Want, result: Any) -> str:
        text = ", ".join(f"{name}={value!r}" for name, value in self._options().items())
        return f"kdlab.plots.map_wall({want.code}, {text})"

    def say(self, result: Any) -> str:
        assert self._now is not None
        read = MapReading.of(result)
        options = self._options()
        rows = options.get("samples", [options.get("sample")])
        depths = [options["stage"]] if "stage" in options else read.depths
        return " ".join(
            filter(
                None,
                [
                    self.told(self._now.sample)
                    if len(rows) == 1
                    else f"{len(rows)} of {self.kind_in_words()}.",
                    attention_words.what(read, self._now.epoch, self._now.seed, self._what()),
                    attention_words.agreement(read, rows, depths),
                    attention_words.why_missing(self.missing_epochs()),
                ],
            )
        )

    def touched(self, what: str, points: Points | None) -> None:
        """A click on a map puts its picture under the microscope."""
        now, fig = self._seen_now, self.fig
        if what == "click" and points and fig is not None and now is not None:
            place = now.batch[fig.data[points[0][0]].meta["place"]]
            self.set("sample", place)

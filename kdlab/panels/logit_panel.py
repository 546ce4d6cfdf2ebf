"""One picture or class under the microscope: what networks answer, KD in parts, what each loss would do."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from kdlab import plots, probes
from kdlab.errors import ConfigError
from kdlab.panels import controls, logit_words
from kdlab.panels.analysis import Want
from kdlab.panels.controls import Control
from kdlab.panels.picking import ALL, PicturePanel
from kdlab.probes.gradients import CLOSED, OTHERS
from kdlab.probes.logits import LogitDecomposition

VIEWS = (
    ("answers", "what they answer"),
    ("parts", "KD in its parts"),
    ("sweep", "what temperature does"),
    ("epochs", "over the epochs"),
    ("gradients", "what each loss would do"),
    ("classes", "KD class by class"),
    ("dark", "which wrong classes"),
)
UNITS = (("one", "this picture"), ("pool", "all of them"))
CURVES = (("target", "the true class"), ("means", "KD and its parts"), ("classes", "class by class"))
SWEEP = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0)
LOSSES = tuple(loss for loss in (*CLOSED, *OTHERS) if loss != "dist")  # it compares pictures, not classes
_MOST = 256  # pictures whose gradients are averaged


@dataclass(frozen=True)
class Moment:
    """What is shown: which view of which pictures, when. places: None for all evaluation pictures."""

    view: str
    seed: int
    epoch: int
    names: tuple[str, ...]
    sample: int
    places: tuple[int, ...] | None
    temperature: float


class LogitPanel(PicturePanel):
    """Teacher's and students' answers, temperature, the parts of KD, and the pull of each loss.

    Temperature, picture and class only redraw; epochs and gradients are measured, which is quick: the
    logits are those of the snapshots.
    """

    heading = "Logits"
    purpose = "One picture or class under the microscope: answers, KD in its parts, what each loss would do."
    defaults = {
        "pictures": ALL,
        "view": "answers",
        "unit": "one",
        "temperature": 4.0,
        "log": False,
        "curve": "target",
        "student": None,
    }

    def __init__(self, study: Any, **options: Any) -> None:
        self._now: Moment | None = None
        self._taken: tuple[Hashable, LogitDecomposition | None] = (None, None)
        super().__init__(study, **options)

    # ---- the panel ---------------------------------------------------------------------------------------

    def controls(self) -> list[Control]:
        value, view = self.values, self.values["view"]
        students = [(name, name) for name in self.students()]
        curves = [c for c in CURVES if c[0] != "classes" or value["unit"] == "pool"]
        whole = view in ("gradients", "classes", "dark")  # always of all pictures of the kind
        return [
            controls.select("view", "Show", VIEWS, self.value("view", VIEWS)),
            *self.picture_controls(),
            controls.select("unit", "Of", UNITS, self.value("unit", UNITS), hidden=whole),
            controls.slide("temperature", "Temperature", 0.5, 16.0, self._temperature(), log=True),
            controls.tick("log", "Logarithmic", value["log"], hidden=view != "answers"),
            controls.select("curve", "Curves", curves, self.value("curve", curves), hidden=view != "epochs"),
            controls.select(
                "student", "Of student", students, self._student(), hidden=view != "gradients" or not students
            ),
            self.students_control() | ({"hidden": True} if view == "gradients" else {}),
            self.seed_control(),
            self.epoch_control() | ({"hidden": True} if view == "epochs" else {}),
        ]

    def _temperature(self) -> float:
        return min(max(float(self.values["temperature"]), 0.5), 16.0)

    def _student(self) -> str | None:
        name = self.value("student", [(name, name) for name in self.students()])
        return None if name is None else str(name)

    def _curve(self) -> str:
        curve = str(self.values["curve"])
        return "target" if curve == "classes" and self.values["unit"] == "one" else curve

    def want(self) -> Want:
        seed, epoch, names = self.moment()
        if not self.study.teacher_name:
            raise ConfigError(
                "This study has no teacher, and logits are taken apart against a teacher's; make one with "
                "Study(teacher=...)."
            )
        view, tau, sample = str(self.values["view"]), self._temperature(), self.sample()
        if view == "dark" and self.study.data.num_classes < 3:
            raise ConfigError("With two classes there is one wrong class; choose another view.")
        places = self._places(view, sample)
        self._now = Moment(view, seed, epoch, names, sample, places, tau)
        study, about = self.study, self.arguments(seed, names)
        if view == "gradients":
            return self._gradients(self._now)
        if view == "epochs":
            epochs = tuple(self.epochs())
            chosen = "" if places is None else f", {list(places)}"
            single = "" if len(names) == len(study.names) else f", students={list(names)!r}"
            code = (
                f"kdlab.probes.logit_history(study{chosen}, temperature={tau:g}, epochs={list(epochs)}, "
                f"seeds={seed}{single})"
            )

            def follow() -> Any:
                return probes.logit_history(
                    study, places, temperature=tau, epochs=epochs, seeds=seed, students=names
                )

            return Want(("history", seed, epochs, names, places, tau), follow, code)

        def take() -> Any:
            return probes.logit_decomposition(study, epoch=epoch, seed=seed, students=names)

        code = f"kdlab.probes.logit_decomposition(study, epoch={epoch}{about})"
        return Want(("logits", seed, epoch, names), take, code)

    def _places(self, view: str, sample: int) -> tuple[int, ...] | None:
        """The pictures that are looked at; None for all."""
        if view not in ("gradients", "classes", "dark") and self.values["unit"] == "one":
            return (sample,)
        if self.kind() == ALL:
            return None
        places = self.places()
        if not len(places):
            raise ConfigError(f"There is nothing to show of {self.kind_in_words()}; choose other pictures.")
        return tuple(int(place) for place in places)

    def _gradients(self, now: Moment) -> Want:
        """One student; the picture under the microscope stands first, the others are its batch."""
        study, name = self.study, self._student()
        names = (name,) if name in now.names else now.names[:1]
        others = range(len(self.evaluation)) if now.places is None else now.places
        places = (now.sample, *[place for place in others if place != now.sample][: _MOST - 1])
        learnt = [n for n in study.names if self._simplifies(n, now.epoch, now.seed)]
        about = self.arguments(now.seed, names)
        options = dict(temperature=now.temperature, epoch=now.epoch, detail=1)
        text = ", ".join(f"{key}={value!r}" for key, value in options.items())
        makers = [
            f"'skd: {n}': kdlab.probes.simplified_loss(study, {n!r}, {list(places)}, epoch={now.epoch}, "
            f"temperature={now.temperature!r}, seed={now.seed})"
            for n in learnt
        ]
        more = f", more={{{', '.join(makers)}}}" if makers else ""
        text = f"{text}, losses={list(LOSSES)!r}{more}{about}"
        code = f"kdlab.probes.logit_gradients(study, {list(places)}, {text})"

        def pull() -> Any:
            given = dict(epoch=now.epoch, seed=now.seed, temperature=now.temperature)
            own = {f"skd: {n}": probes.simplified_loss(study, n, places, **given) for n in learnt}  # type: ignore[arg-type]
            return probes.logit_gradients(
                study,
                places,
                losses=LOSSES,
                more=own,
                students=names,
                detail=1,
                **given,  # type: ignore[arg-type]
            )

        return Want(("pull", now.seed, now.epoch, names, places, now.temperature, *learnt), pull, code)

    def _simplifies(self, name: str, epoch: int, seed: int) -> bool:
        """Whether a student has learnt SKD's simplifier, and it is there at that epoch."""
        parts = self.study.methods[name].modules()
        if not any(getattr(part, "simplifies", False) for part in parts):
            return False
        return epoch in self.study.weight_epochs(name, seed)

    # ---- drawing -----------------------------------------------------------------------------------------

    def look(self) -> Hashable:
        return (*self.picked(), self._now, self.values["log"], self._curve())

    def exported(self, result: Any) -> Any:
        """The logits taken apart as they are shown: those pictures, that temperature."""
        now = self._now
        if now is None or not isinstance(result, LogitDecomposition):
            return result
        key = (id(result), now)
        if self._taken[0] != key:
            self._taken = (key, result.at(now.temperature, now.places, SWEEP))
        return self._taken[1]

    def draw(self, result: Any) -> go.Figure:
        name, options = self._plot()
        draw: Callable[..., go.Figure] = getattr(plots, name)
        return draw(self.exported(result), **options, dark=self.dark)

    def _plot(self) -> tuple[str, dict[str, Any]]:
        """Which function of `kdlab.plots` draws the view, and how."""
        assert self._now is not None
        view = self._now.view
        if view == "answers":
            return "logit_distribution", {"scale": "log"} if self.values["log"] else {}
        if view == "epochs":
            return "logits_over_epochs", {"show": self._curve()}
        names = {"parts": "logit_parts", "sweep": "logit_sweep", "gradients": "logit_gradients"}
        return names.get(view) or {"classes": "logit_classes", "dark": "dark_knowledge"}[view], {}

    def code(self, want: Want, result: Any) -> str:
        now = self._now
        assert now is not None
        name, options = self._plot()
        taken = want.code
        if isinstance(result, LogitDecomposition):
            sweep = f", sweep={list(SWEEP)}" if now.view == "sweep" else ""
            places = "" if now.places is None else f", {list(now.places)}"
            taken = f"{want.code}.at({now.temperature:g}{places}{sweep})"
        text = "".join(f", {key}={value!r}" for key, value in options.items())
        return f"kdlab.plots.{name}({taken}{text})"

    def say(self, result: Any) -> str:
        now = self._now
        assert now is not None
        one = now.places is not None and len(now.places) == 1
        start = self.told(now.sample) if one else f"Of {self.kind_in_words()}."
        when = "" if now.view == "epochs" else f"After epoch {now.epoch}, seed {now.seed}."
        if now.view == "gradients":
            return " ".join(
                [
                    self.told(now.sample, [self.study.teacher_name, *result.students]),
                    when,
                    logit_words.pulls(result, result.students[0]),
                ]
            )
        if now.view == "epochs":
            return f"{start} {logit_words.history(result)}"
        shown = self.exported(result)
        if now.view in ("answers", "parts"):
            return " ".join([start, when, logit_words.parts(shown)])
        if now.view == "sweep" or self.fig is None:
            return f"{start} {shown.summary}"
        return f"{start} {when} {self.fig.layout.meta['summary']}"

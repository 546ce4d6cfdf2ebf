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
from kdlab.panels.picking import ALL, CLASS, DIFFER, WRONG, PicturePanel
from kdlab.probes.gradients import CLOSED, OTHERS
from kdlab.probes.logits import LogitDecomposition
from kdlab.probes.words import call

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

    Args:
        study: a `kdlab.Study`, new, running, finished or loaded.
        **options: of `AnalysisPanel`.

    >>> panel = kdlab.panels.LogitPanel(study, in_cell=True)
    >>> panel.set("temperature", 8.0)  # redraws
    >>> panel.exported(panel.result).temperature
    8.0
    >>> panel.close()
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
        self._pool: tuple[tuple[Any, ...], LogitDecomposition] | None = None
        super().__init__(study, **options)

    # ---- the panel ---------------------------------------------------------------------------------------

    def controls(self) -> list[Control]:
        value, view = self.values, self.values["view"]
        students = [(name, name) for name in self.students()]
        curves = [c for c in CURVES if c[0] != "classes" or value["unit"] == "pool"]
        whole = view in ("gradients", "classes", "dark")  # always of all pictures of the kind
        return [
            *self.picture_controls(),
            controls.select("view", "Show", VIEWS, self.value("view", VIEWS)),
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
        return min(max(float(f"{self.values['temperature']:.4g}"), 0.5), 16.0)

    def _student(self) -> str | None:
        name = self.value("student", [(name, name) for name in self.students()])
        return None if name is None else str(name)

    def _curve(self) -> str:
        curve = str(self.values["curve"])
        return "target" if curve == "classes" and self.values["unit"] == "one" else curve

    def want(self) -> Want:
        view, tau, sample = str(self.values["view"]), self._temperature(), self.sample()
        seed, epoch, names = self.moment(self.epochs() if view == "epochs" else None)
        if not self.study.teacher_name:
            raise ConfigError(
                "This study has no teacher, and logits are taken apart against a teacher's; make one with "
                "Study(teacher=...)."
            )
        if view == "dark" and self.study.data.num_classes < 3:
            raise ConfigError("With two classes there is one wrong class; choose another view.")
        self._now = now = Moment(view, seed, epoch, names, sample, self._places(view, sample), tau)
        if view == "gradients":
            return self._gradients(now)
        if view == "epochs":
            return self._history(now)
        study, about = self.study, self.arguments(seed, names)

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

    def _history(self, now: Moment) -> Want:
        study, epochs = self.study, tuple(self.epochs())
        options: dict[str, Any] = dict(temperature=now.temperature, epochs=list(epochs), seeds=now.seed)
        chosen = {} if len(now.names) == len(study.names) else {"students": list(now.names)}
        line, places = self._found(now)
        code = line + call(
            "kdlab.probes.logit_history", "study", *filter(None, [places]), **options, **chosen
        )

        def follow() -> Any:
            return probes.logit_history(study, now.places, **options, students=now.names)

        return Want(("history", now.seed, epochs, now.names, now.places, now.temperature), follow, code)

    def _gradients(self, now: Moment) -> Want:
        """One student; the picture under the microscope stands first, the others are its batch."""
        study, name = self.study, self._student()
        names = (name,) if name in now.names else now.names[:1]
        count = len(self.evaluation)
        others = range(count) if now.places is None else now.places
        places = (now.sample, *[place for place in others if place != now.sample][: _MOST - 1])
        learnt = {f"skd: learnt by {n}": n for n in study.names if self._simplifies(n, now.epoch, now.seed)}
        moment: dict[str, Any] = dict(temperature=now.temperature, epoch=now.epoch, seed=now.seed)
        options: dict[str, Any] = dict(students=list(names), losses=list(LOSSES), detail=1)

        def pull() -> Any:
            own = {loss: probes.simplified_loss(study, n, places, **moment) for loss, n in learnt.items()}
            return probes.logit_gradients(study, places, **moment, **options, more=own)

        line, whole = self._found(now)
        line += f"places = [{now.sample}, *(p for p in {whole or f'range({count})'} if p != {now.sample})]"
        line += f"[:{_MOST}]\n"
        own = [
            f"{loss!r}: {call('kdlab.probes.simplified_loss', 'study', repr(n), 'places', **moment)}"
            for loss, n in learnt.items()
        ]
        more = f", more={{{', '.join(own)}}})" if own else ")"
        code = line + call("kdlab.probes.logit_gradients", "study", "places", **moment, **options)[:-1] + more
        return Want(("pull", *moment.values(), names, places, *learnt), pull, code)

    def _found(self, now: Moment) -> tuple[str, str]:
        """A line of Python that finds the places of the pictures, and the places; "", "" for all."""
        if now.places is None:
            return "", ""
        kind, _, name = self.kind().partition(":")
        by = {CLASS: "label", WRONG: "wrong", DIFFER: "differs"}.get(f"{kind}:")
        if by is None or now.places == (now.sample,):
            return "", str(list(now.places))
        value = name if by == "label" else repr(name)
        about = self.arguments(now.seed, self.study.names)
        found = f"kdlab.probes.logit_decomposition(study, epoch={now.epoch}{about}).where({by}={value})"
        return f"places = {found}\n", "places"

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
        sweep = SWEEP if now.view == "sweep" else None
        pool, of = self._pool, (result, now.places, sweep)
        if pool is None or pool[0][0] is not result or pool[0][1:] != of[1:]:
            whole = now.places is None and sweep is None
            self._pool = pool = of, result if whole else result.at(None, now.places, sweep)
        if pool[1].temperature != now.temperature:  # what a temperature does not change stays
            self._pool = pool = of, pool[1].at(now.temperature)
        return pool[1]

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
        line, _, taken = want.code.rpartition("\n")
        lines = [line] if line else []
        if isinstance(result, LogitDecomposition):
            line, places = self._found(now)
            lines += [line.strip()] if line else []
            sweep = {"sweep": list(SWEEP)} if now.view == "sweep" else {}
            taken = call(f"{taken}.at", f"{now.temperature:g}", *filter(None, [places]), **sweep)
        return "\n".join([*lines, call(f"kdlab.plots.{name}", taken, **options)])

    def say(self, result: Any) -> str:
        now = self._now
        assert now is not None
        one = now.places == (now.sample,)
        start = self.told(now.sample) if one else f"Means over {self.kind_in_words()}."
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

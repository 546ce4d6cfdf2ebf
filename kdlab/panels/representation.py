"""Maps of the representations: teacher and students in one plane, over the epochs, with linked selection."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kdlab import plots, probes
from kdlab.errors import ConfigError, StudyError, require_study
from kdlab.panels import controls, map_words
from kdlab.panels.analysis import Want
from kdlab.panels.controls import Control
from kdlab.panels.live_map import LiveSnapshots, StudyPlane, live_map
from kdlab.panels.map_picking import MapPanel
from kdlab.panels.maps import Asked, Mapped, Maps
from kdlab.panels.over_seeds import UNTRAINED
from kdlab.plots.embedding_at import Frame, frame_of
from kdlab.plots.point_looks import colors_of
from kdlab.plots.theme import MUTED
from kdlab.probes import Embedding, PullArrows
from kdlab.probes.arrows import TOTAL
from kdlab.probes.words import call, listed

VIEWS = (
    ("live", "now: the teacher's plane"),
    ("tsne", "over epochs: t-SNE"),
    ("pca", "over epochs: PCA"),
    ("lda", "over epochs: LDA"),
)
COLORS = {
    "class": "class",
    "coarse": "coarse class",
    "correct": "right or wrong",
    "agreement": "the teacher's answer or not",
    "quadrant": "who is right, teacher or student",
    "confidence": "confidence",
    "network": "network",
}
CALM = ((0.0, "off"), (0.3, "0.3"), (1.0, "1"), (3.0, "3"), (10.0, "10: hides change"))
DRAGS = (("lasso", "select, freehand"), ("select", "select, box"), ("zoom", "zoom"))
OFF, EACH = "off", "each"
_BEGUN = ("preparing", "training", "paused")
_COLOURED = 10  # classes that have a colour of their own


class RepresentationPanel(MapPanel):
    """Where pictures lie for teacher and students: live in the teacher's plane, or mapped over all epochs.

    A map is measured once for all epochs and students; epoch, students, colours and selection only redraw.
    What is selected in one plot is selected in all, and in the other panels.

    Args:
        study: a `kdlab.Study`, new, running, finished or loaded.
        values: of controls, as of `AnalysisPanel`.
        **options: the others of `AnalysisPanel`.

    >>> panel = kdlab.panels.RepresentationPanel(study, active=False, values={"view": "lda"})
    >>> panel.want().code
    "kdlab.probes.embed(study, 'lda')"
    >>> panel.close()
    """

    heading = "Representations"
    purpose = "Each mark is a test picture as a network sees it. Near marks look alike to that network."
    defaults = {
        "view": "tsne",
        "layout": "each",
        "student": None,
        "color": "class",
        "drag": "lasso",
        "neighbours": False,
        "arrows": OFF,
        "calm": 1.0,
    }
    redraws = True

    def __init__(self, study: Any, *, values: Mapping[str, Any] | None = None, **options: Any) -> None:
        require_study(study)
        self._maps = Maps(study)
        self._snapshots = LiveSnapshots(study, watched=self._watched)
        self._where: StudyPlane | None = None
        self._live_map: Embedding | None = None
        self._moments = 0
        self._frames: tuple[Hashable, Frame] = ((), (0.0, 0.0, 1.0))
        self._missing_arrows = ""
        self._drawings = 0
        view = {"view": "live"} if study.state == "new" or study.state in _BEGUN else {}
        super().__init__(study, values={**view, **(values or {})}, **options)

    # ---- what is measured --------------------------------------------------------------------------------

    def paint(self, news: dict[str, Any]) -> float | None:
        again = None
        if self.active and self.is_live():
            taken, again = self._snapshots.poll()
            if taken is not None:
                self._where = self._where or StudyPlane(self.study)
                self._live_map, self._moments = live_map(self._where, taken), self._moments + 1
        before = self.result
        with self.hold_sync():
            super().paint(news)
            if self.result is not before:  # the controls offer what the new map knows
                super().paint(news)
        return again

    def _watched(self) -> bool:
        """Whether a page answers; while nobody looks, training is not held up by snapshots."""
        lags = self.painter.lags
        return self._in_cell or not lags or lags[-1] != float("inf")

    def is_live(self) -> bool:
        """Whether the present moment of the training is shown, not a snapshot."""
        return self.values["view"] == "live"

    def want(self) -> Want:
        if self.is_live():
            return self._want_now()
        seed = self.seed()
        names = tuple(name for name in self.study.names if self.epochs(name))
        if seed is None or not names:
            raise StudyError(UNTRAINED)
        method = str(self.value("view", VIEWS))
        asked = self._asked(method, seed, names)
        pulled = self._pulled(seed, asked.epochs)
        if method == "tsne" and self.result is None and self._maps.known(asked, pulled) is None:
            asked = self._asked("pca", seed, names)  # something to look at until t-SNE is done
        maps = self._maps
        return Want(
            (asked, pulled),
            lambda: maps.measure(asked, pulled),
            self._map_code(asked),
            known=maps.known(asked, pulled),
        )

    def _asked(self, method: str, seed: int, names: tuple[str, ...]) -> Asked:
        """The map of that kind that is to be measured now."""
        calm = float(self.value("calm", CALM)) if method == "tsne" else 0.0
        busy = self.jobs.progress(self) is not None
        epochs = self._maps.epochs((method, seed, names, calm), self.epochs(), busy)
        return Asked(method, seed, epochs, names, calm)

    def _want_now(self) -> Want:
        if self._live_map is None:
            begun = self.study.state in _BEGUN
            raise StudyError("The training of the students is about to begin." if begun else UNTRAINED)
        code = "live_map(StudyPlane(study), study.live_snapshot(count=300).result())"
        return Want(("live", self._moments), lambda: None, code, known=Mapped(self._live_map, live=True))

    def _map_code(self, asked: Asked) -> str:
        options: dict[str, Any] = {"pull": asked.pull} if asked.method == "tsne" else {}
        if self.study.state != "finished":
            options["epochs"] = list(asked.epochs)
        about = self.arguments(asked.seed, asked.students)
        return call("kdlab.probes.embed", "study", repr(asked.method), **options)[:-1] + f"{about})"

    def _pulled(self, seed: int, epochs: Sequence[int]) -> tuple[str, tuple[int, ...]] | None:
        """Student and epochs of which arrows are wanted, where there are weights of any."""
        student = self.student()
        if self.values["arrows"] == OFF or student is None:
            return None
        there = tuple(e for e in self.stock.weight_epochs(seed, student) if e in epochs)
        return (student, there) if there else None

    # ---- controls ----------------------------------------------------------------------------------------

    def controls(self) -> list[Control]:
        value, live, space = self.values, self.is_live(), self.space()
        if live and space is None:
            return [controls.select("view", "Map", VIEWS, "live")]
        count = max(len(self.evaluation) - 1, 0)
        colors = [] if space is None else self._color_options(space)
        students = [(name, name) for name in self.students()]
        one = self.overlays() or (value["arrows"] != OFF and not live)
        layouts = [("each", "a plot each"), ("overlay", "a student over the teacher")]
        terms = self._term_options()
        return [
            controls.select("view", "Map", VIEWS, self.value("view", VIEWS)),
            controls.select(
                "layout", "Networks", layouts, value["layout"], hidden=not self.study.teacher_name
            ),
            controls.select(
                "color", "Colour", colors, self._color(space) if space else None, hidden=not colors
            ),
            controls.select(
                "arrows",
                "Pull arrows",
                terms,
                self.value("arrows", terms),
                hidden=live,
                title="Where each loss wants to move each picture, at epochs of which weights were kept",
            ),
            controls.select(
                "student", "Student", students, self.student(), hidden=not one or len(students) < 2
            ),
            controls.select("drag", "Drag to", DRAGS, self.value("drag", DRAGS)),
            controls.select("select", "Select", self._kinds(), self.kind()),
            controls.button("previous", "‹", title="The picture before, of those selected"),
            controls.number("sample", "Picture", 0, count, self.sample()),
            controls.button("next", "›", title="The next picture, of those selected"),
            controls.tick("neighbours", "Neighbours", value["neighbours"]),
            controls.stops(
                "calm",
                "Calm",
                CALM,
                self.value("calm", CALM),
                hidden=value["view"] != "tsne",
                title="How strongly points stay where they were in the frame before; the price is told below",
            ),
            self.students_control(),
            self.seed_control() | ({"hidden": True} if live else {}),
            self.epoch_control() | ({"hidden": True} if live else {}),
        ]

    def _color(self, space: Embedding) -> str:
        known = [c for c in colors_of(space) if c != "network" or self.overlays()]
        return str(self.values["color"]) if self.values["color"] in known else known[0]

    def _color_options(self, space: Embedding) -> list[tuple[str, str]]:
        known = [c for c in colors_of(space) if c != "network" or self.overlays()]
        return [(c, COLORS.get(c, f"factor: {c}")) for c in known]

    def _term_options(self) -> list[tuple[str, str]]:
        student = self.student()
        terms = list(self.study.methods[student].terms) if student else []
        several = [(EACH, "each term")] if len(terms) > 1 else []
        together = [(TOTAL, TOTAL)] if len(terms) > 1 else []
        return [(OFF, "none"), *several, *((term, term) for term in terms), *together]

    # ---- drawing -----------------------------------------------------------------------------------------

    def look(self) -> Hashable:
        value, space = self.values, self.space()
        drawn = ("view", "layout", "color", "drag", "neighbours", "arrows")
        when = None if space is None else self.at(space)
        chosen = (
            self.epoch(),
            when,
            self.shared.students,
            self.student(),
            self.shared.samples,
            self.sample(),
        )
        return (*(value[name] for name in drawn), *chosen)

    def _options(self, space: Embedding) -> dict[str, Any]:
        """How the map is drawn, as options of `kdlab.plots.embedding_at`; arrows come beside them."""
        e, shown = self.at(space), self.networks(space)
        inside, _ = self.selected(space)
        out: dict[str, Any] = {"color": self._color(space)}
        if len(shown) < len(space.networks):
            out["networks"] = [space.networks[n] for n in shown]
        if self.overlays():
            out |= {"overlay": True, "lines": True}
        if inside:
            out["selected"] = inside
            labels, counts = np.unique(space.labels[inside], return_counts=True)
            if out["color"] == "class" and len(space.class_names) > _COLOURED:
                most = np.argsort(-counts, kind="stable")[:_COLOURED]
                out["classes"] = sorted(int(label) for label in labels[most])
        ringed = self.ringed(space)
        if ringed is not None:
            out["sample"] = ringed
            if self.values["neighbours"]:
                out["neighbours"] = space.k
        return {"epoch": space.epochs[e], **out}

    def _arrows(self, result: Mapped) -> tuple[dict[str, PullArrows], str | None]:
        """Arrows of the shown epoch and the term they are of; sets why there are none."""
        self._missing_arrows = ""
        wanted, student = self.value("arrows", self._term_options()), self.student()
        if wanted == OFF or student is None or self.is_live():
            return {}, None
        term = None if wanted == EACH else str(wanted)
        epoch = result.space.epochs[self.at(result.space)]
        if result.pulls is None or student not in result.pulls.students:
            self._missing_arrows = result.why or self._weights_in_words(student)
        elif epoch not in result.pulls.epochs:
            self._missing_arrows = self._weights_in_words(student)
        else:
            try:
                own = probes.pull_arrows(result.pulls, student, epoch=epoch, onto=result.space)
            except ConfigError as error:
                self._missing_arrows = str(error)
            else:
                if term is None or term in own.arrows:
                    return {student: own}, term
                self._missing_arrows = f"{term} does not pull at this epoch: its weight is 0."
        return {}, term

    def _weights_in_words(self, student: str) -> str:
        seed = self.seed()
        there = [] if seed is None else self.stock.weight_epochs(seed, student)
        when = f"epoch{'s' * (len(there) > 1)} {listed([str(e) for e in there])}"
        kept = f"of {student} they were kept at {when}" if there else f"none of {student} were kept"
        return f"Arrows need weights; {kept} (Study(keep=...) chooses which are kept)."

    def draw(self, result: Mapped) -> go.Figure:
        space, value = result.space, self.values
        arrows, term = self._arrows(result)
        fig = plots.embedding_at(
            space,
            **self._options(space),
            arrows=arrows,
            term=term,
            frame=self._frame(space),
            dark=self.dark,
        )
        self._drawings += 1
        layout = (value["view"], value["layout"], self.shared.students, value["drag"])
        fig.update_layout(
            dragmode=value["drag"],
            uirevision=repr(layout),  # a zoom by hand outlives the next epoch
            selectionrevision=self._drawings,  # and what is selected is as it is drawn
            newselection_line=dict(color=MUTED, width=1.5, dash="dot"),
        )
        return fig

    def _frame(self, space: Embedding) -> Frame:
        """The part of the plane that is shown; of live maps the same as before unless it has to change."""
        key, (x, y, half) = self._frames
        mine = ("live", self.study.teacher_name) if self.is_live() else id(space)
        if key != mine or self.is_live():
            new = frame_of(space)
            near = max(abs(new[0] - x), abs(new[1] - y)) < 0.1 * half
            if key != mine or not (near and 0.8 * half <= new[2] <= half):
                self._frames = mine, new
        return self._frames[1]

    def exported(self, result: Mapped) -> Embedding:
        return result.space

    def say(self, result: Mapped) -> str:
        space = result.space
        e, shown = self.at(space), self.networks(space)
        inside, outside = self.selected(space)
        ringed, sample = self.ringed(space), self.sample()
        assert self.fig is not None
        about = (
            f"Picture {sample} is not on the map, which shows {len(space.labels)} of {len(self.evaluation)}."
            if ringed is None
            else "Ringed: " + map_words.answers(space, e, shown, ringed, sample)
        )
        parts = [
            map_words.seen(space, e, shown, result.live and self.study.state in _BEGUN),
            "" if self.overlays() else "The number above a plot is the share that is classified right.",
            self.fig.layout.meta["pulls"] or self._missing_arrows,
            map_words.selection(space, inside, len(outside)),
            about,
        ]
        return " ".join(filter(None, parts))

    def pictures(self, result: Mapped) -> list[dict[str, Any]]:
        """The picture under the microscope, its neighbours where wanted, and at most 40 selected ones."""
        space, sample, source = result.space, self.sample(), self.picture_of
        e, shown, on_map = self.at(space), self.networks(space), self.on_map(space)
        inside, outside = self.selected(space)
        ringed = self.ringed(space)
        out: list[dict[str, Any]] = []
        if ringed is not None and self.values["neighbours"]:
            out += map_words.neighbour_rows(space, e, shown, ringed, on_map, source)
        elif ringed is not None and ringed not in inside[: map_words.MOST_PICTURES]:
            own = map_words.thumbnail(space, e, shown, ringed, sample, source)
            out.append(own | {"row": "Under the microscope", "chosen": True})
        count, most = len(inside) + len(outside), map_words.MOST_PICTURES
        row = f"Selected: {count}" + (f", the first {most} are shown" if count > most else "")
        chosen = [map_words.thumbnail(space, e, shown, i, int(on_map[i]), source) for i in inside[:most]]
        for place in outside[: most - len(chosen)]:
            chosen.append(map_words.unseen(place, self.class_name(int(self.labels[place])), source))
        return [*out, *(one | {"row": row, "chosen": one["id"] == sample} for one in chosen)]

    def code(self, want: Want, result: Mapped) -> str:
        space = result.space
        options = {k: v for k, v in self._options(space).items() if k != "epoch" or not self.is_live()}
        if self.is_live():
            text = call("kdlab.plots.embedding_at", want.code, **options)
            return f"from kdlab.panels.live_map import StudyPlane, live_map; {text}"
        arrows, term = self._arrows(result)
        if not arrows or result.pulls is None:
            return call("kdlab.plots.embedding_at", want.code, **options)
        (student,), epoch = arrows, options["epoch"]
        pull = call(
            "kdlab.probes.pull", "study", students=student, epochs=epoch, seed=space.seed, n=len(space.labels)
        )
        own = call("kdlab.probes.pull_arrows", pull, onto=None).replace("onto=None", "onto=space")
        text = call("kdlab.plots.embedding_at", "space", **options, term=term)
        return f"space = {want.code}; {text[:-1]}, arrows={{{student!r}: {own}}})"

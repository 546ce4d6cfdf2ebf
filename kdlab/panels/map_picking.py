"""Selecting pictures on a map: by hand in any of its plots, or from a menu, the same in all panels."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdlab.panels.live import Points
from kdlab.panels.picking import CHOSEN, CLASS, DIFFER, WRONG, PicturePanel
from kdlab.probes import Embedding

NONE = "none"


class MapPanel(PicturePanel):
    """A panel that draws a map of teacher and students, whose pictures can be selected.

    Its results have the map as `space`; it has the values "layout" ("each" or "overlay") and "student".
    """

    def __init__(self, study: Any, **options: Any) -> None:
        self._placed: tuple[Embedding | None, np.ndarray] = (None, np.zeros(0, dtype=np.int64))
        super().__init__(study, **options)

    # ---- what is shown -----------------------------------------------------------------------------------

    def space(self) -> Embedding | None:
        """The map that is drawn."""
        return None if self.result is None else self.result.space

    def at(self, space: Embedding) -> int:
        """Place of the shown epoch in a map: the nearest that it has."""
        epoch = self.epoch()
        if epoch is None or len(space.epochs) == 1:
            return len(space.epochs) - 1
        return min(range(len(space.epochs)), key=lambda e: (abs(space.epochs[e] - epoch), e))

    def networks(self, space: Embedding) -> list[int]:
        """Places of the networks that are drawn: the teacher, and chosen students or that of the overlay."""
        there = [name for name in space.networks if name not in space.teachers]
        chosen = [name for name in there if name in self.shared.students] or there
        if self.overlays():
            chosen = [name for name in chosen if name == self.student()] or chosen[:1]
        return [n for n, name in enumerate(space.networks) if name in space.teachers or name in chosen]

    def overlays(self) -> bool:
        return bool(self.study.teacher_name) and self.values["layout"] == "overlay"

    def student(self) -> str | None:
        name = self.value("student", [(name, name) for name in self.students()])
        return None if name is None else str(name)

    def on_map(self, space: Embedding) -> np.ndarray:
        """(n,) places of the map's pictures among the evaluation pictures."""
        if self._placed[0] is not space:
            own = np.asarray(self.study.probe_set.index)[self.evaluation]
            known = {int(index): place for place, index in enumerate(own)}
            self._placed = space, np.array([known[int(index)] for index in space.index])
        return self._placed[1]

    def selected(self, space: Embedding) -> tuple[list[int], list[int]]:
        """Selected pictures: their positions in the map, and the places of those that it does not show."""
        at = {int(place): i for i, place in enumerate(self.on_map(space))}
        inside = [at[place] for place in self.shared.samples if place in at]
        return inside, [int(place) for place in self.shared.samples if place not in at]

    def ringed(self, space: Embedding) -> int | None:
        """Position in the map of the picture under the microscope."""
        found = np.flatnonzero(self.on_map(space) == self.sample())
        return int(found[0]) if len(found) else None

    # ---- selecting ---------------------------------------------------------------------------------------

    def places(self, kind: str | None = None) -> np.ndarray:
        """Those pictures of the map that are of a kind, ascending; if not given, the selected ones or all."""
        space = self.space()
        if space is None:
            return np.zeros(0, dtype=np.int64)
        on_map, name = self.on_map(space), (kind or "").partition(":")[2]
        said = {name: space.predicted[self.at(space), n] for n, name in enumerate(space.networks)}
        if kind is None:
            chosen = np.array(self.shared.samples, dtype=np.int64)
            return chosen if len(chosen) else np.sort(on_map)
        if kind == CHOSEN:
            return np.array(self.shared.samples, dtype=np.int64)
        if kind.startswith(CLASS):
            own = space.labels == int(name)
        elif kind.startswith(WRONG):
            own = said[name] != space.labels
        elif kind.startswith(DIFFER):
            own = said[name] != said[space.teachers[0]]
        else:
            return on_map[:0]
        return np.sort(on_map[own])

    def kind(self) -> str:
        """What the selection is: "none", "class:3", "wrong:KD", "differ:KD", or "chosen" by hand."""
        if not self.shared.samples:
            return NONE
        for kind, _ in self._kinds(counted=False):
            if kind not in (NONE, CHOSEN) and tuple(self.places(kind).tolist()) == self.shared.samples:
                return kind
        return CHOSEN

    def _kinds(self, counted: bool = True) -> list[tuple[str, str]]:
        """What can be selected from the menu, with the number of pictures."""
        space, kinds = self.space(), [(NONE, "nothing")]
        if space is None:
            return kinds
        if self.shared.samples:
            kinds.append((CHOSEN, "by hand"))
        known = (space.predicted[self.at(space)] >= 0).any(axis=1)
        names = [name for name, answers in zip(space.networks, known, strict=True) if answers]
        kinds += [(f"{WRONG}{name}", f"wrong by {name}") for name in names]
        if space.teachers and space.teachers[0] in names:
            others = [name for name in names if name not in space.teachers]
            kinds += [(f"{DIFFER}{name}", f"{name} and the teacher disagree") for name in others]
        kinds += [(f"{CLASS}{label}", f"class {self.class_name(label)}") for label in np.unique(space.labels)]
        if not counted:
            return kinds
        return [(k, text if k == NONE else f"{text} ({len(self.places(k))})") for k, text in kinds]

    def set(self, name: str, value: Any) -> None:
        if name == "select":
            if value != CHOSEN:
                self.shared.select(self.places(str(value)).tolist())
            return
        super().set(name, value)

    def touched(self, what: str, points: Points | None) -> None:
        """A click puts a picture under the microscope; a lasso or box selects, an empty one nothing."""
        space, fig = self.space(), self.fig
        if space is None or fig is None:
            return
        on_map, clouds = self.on_map(space), len(fig.layout.meta["clouds"])
        places = [int(on_map[i]) for trace, i in points or () if trace < clouds]
        if what == "select":
            self.shared.select(places)
        elif places:
            self.set("sample", places[0])

"""Choosing pictures: by class, by who is wrong or disagrees, or by what is selected in another panel."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdlab.errors import ConfigError, StudyError
from kdlab.panels import controls
from kdlab.panels.analysis import AnalysisPanel
from kdlab.panels.controls import Control
from kdlab.panels.over_seeds import UNTRAINED
from kdlab.plots.pictures import png
from kdlab.plots.theme import shortened
from kdlab.probes.outputs import log_softmax
from kdlab.probes.words import listed, percent, plural

STRIP = 40  # thumbnails at a time
_KEPT = 64  # tables of logits
_SAID = 0.005  # least probability of a second choice that is told
ALL, CHOSEN, CLASS, WRONG, DIFFER = "all", "chosen", "class:", "wrong:", "differ:"


@dataclass(frozen=True)
class Shown:
    """What one network shows of the n evaluation pictures.

    Attributes:
        said: (n,) classes. sure: (n, K) probabilities at temperature 1. stages: names, shallow to deep.
    """

    said: np.ndarray
    sure: np.ndarray
    stages: tuple[str, ...]


class PicturePanel(AnalysisPanel):
    """A panel with a menu of pictures, a strip of thumbnails and buttons that go through them.

    Pictures are places among the evaluation pictures of the probe set. One of them, `shared.sample`, is
    under the microscope. A subclass adds `picture_controls()` to its controls.
    """

    def __init__(self, study: Any, **options: Any) -> None:
        self._seen: OrderedDict[tuple[str, int, int], Shown | None] = OrderedDict()
        self._thumbnails: dict[int, str] = {}
        self._strip: tuple[Any, dict[int, dict[str, Any]]] = (None, {})
        self._looked = np.zeros(0, dtype=np.int64)
        super().__init__(study, **options)

    # ---- which pictures there are ------------------------------------------------------------------------

    @property
    def evaluation(self) -> np.ndarray:
        """Positions of the evaluation pictures in the probe set.

        Raises:
            StudyError: the study was stopped before it had any.
        """
        if not len(self._looked):
            self._looked = np.flatnonzero(~np.asarray(self.study.probe_set.fit))
        return self._looked

    @property
    def labels(self) -> np.ndarray:
        """(n,) their classes."""
        return np.asarray(self.study.probe_set.labels)[self.evaluation]

    def class_name(self, label: int) -> str:
        """Of a class, or of a logit beyond the classes its number."""
        names = self.study.data.class_names
        return str(names[label]) if label < len(names) else str(label)

    def sample(self) -> int:
        """The picture under the microscope."""
        return min(max(int(self.shared.sample), 0), len(self.evaluation) - 1)

    def shown(self, network: str) -> Shown | None:
        """What a network shows at the shown epoch and seed; None where it has no snapshot of it."""
        seed, epoch = self.seed(), self.epoch()
        if seed is None or epoch is None:
            return None
        teacher = network in self.study.teacher_names
        if not teacher and epoch not in self.stock.epochs(seed, network):
            return None
        key = (network, 0, 0) if teacher else (network, epoch, seed)
        if key not in self._seen:
            try:
                snapshot = self.study.snapshot(network, epoch, seed)
            except StudyError:  # the teacher's snapshot comes with the first of the students
                return None
            logits = np.asarray(snapshot.logits, dtype=np.float64)[self.evaluation]
            finite = bool(np.isfinite(logits).all())
            sure = np.exp(log_softmax(logits)).astype(np.float32) if finite else logits
            stages = tuple(snapshot.stages)
            self._seen[key] = Shown(logits.argmax(axis=1), sure, stages) if finite else None
            while len(self._seen) > _KEPT:
                self._seen.popitem(last=False)
        return self._seen[key]

    def kind(self) -> str:
        """Which pictures were chosen: "all", "chosen", "class:3", "wrong:KD" or "differ:KD"."""
        kind = str(self.values.get("pictures", ALL))
        known = [option[0] for option in self._kinds(counted=False)]
        return kind if kind in known else ALL

    def places(self, kind: str | None = None) -> np.ndarray:
        """Those of a kind, ascending; the chosen kind if not given."""
        kind = self.kind() if kind is None else kind
        labels = self.labels
        every = np.arange(len(labels))
        if kind == CHOSEN:
            return np.array([p for p in self.shared.samples if 0 <= p < len(labels)], dtype=np.int64)
        if kind.startswith(CLASS):
            return every[labels == int(kind.removeprefix(CLASS))]
        if kind.startswith(WRONG):
            own = self.shown(kind.removeprefix(WRONG))
            return every[:0] if own is None else every[own.said != labels]
        if kind.startswith(DIFFER):
            own, theirs = self.shown(kind.removeprefix(DIFFER)), self.shown(self.study.teacher_name)
            return every[:0] if own is None or theirs is None else every[own.said != theirs.said]
        return every

    def _kinds(self, counted: bool = True) -> list[tuple[str, str]]:
        """The menu of kinds, with the number of pictures of each."""
        names = self.study.names
        kinds = [(ALL, "all")]
        if self.shared.samples:
            kinds.append((CHOSEN, "selected in the panels"))
        if self.study.teacher_name:
            kinds += [(f"{DIFFER}{name}", f"teacher and {name} disagree") for name in names]
        wrong = [*([self.study.teacher_name] if self.study.teacher_name else []), *names]
        kinds += [(f"{WRONG}{name}", f"wrong by {name}") for name in wrong]
        kinds += [(f"{CLASS}{label}", f"class {self.class_name(label)}") for label in np.unique(self.labels)]
        return [(kind, f"{text} ({len(self.places(kind))})") for kind, text in kinds] if counted else kinds

    def page(self, size: int, kind: str | None = None) -> list[int]:
        """So many pictures of the chosen kind, those among which the present one is; itself first if it is
        not of that kind."""
        places, sample = self.places(kind), self.sample()
        at = int(np.searchsorted(places, sample))
        if at == len(places) or places[at] != sample:
            return [sample, *(int(p) for p in places[: size - 1])]
        start = at - at % size
        return [int(p) for p in places[start : start + size]]

    # ---- controls and the strip --------------------------------------------------------------------------

    def picture_controls(self) -> list[Control]:
        """The menu of kinds, the number of the picture, and buttons to the one before and behind."""
        if self.seed() is None:
            return []
        count = len(self.evaluation)
        return [
            controls.select("pictures", "Pictures", self._kinds(), self.kind()),
            controls.button("previous", "‹", title="The picture before, of those chosen"),
            controls.number("sample", "Picture", 0, count - 1, self.sample()),
            controls.button("next", "›", title="The next picture, of those chosen"),
        ]

    def set(self, name: str, value: Any) -> None:
        super().set(name, value)
        if name == "pictures":  # go where the new kind begins, unless the present picture is of it
            places = self.places()
            if len(places) and self.sample() not in places:
                super().set("sample", int(places[0]))

    def pressed(self, name: str) -> None:
        if name not in ("previous", "next"):
            return
        places, sample = self.places(), self.sample()
        if not len(places):
            raise ConfigError(f"There is no picture of this kind: {self.kind_in_words()}; choose another.")
        if name == "next":
            at = int(np.searchsorted(places, sample, side="right")) % len(places)
        else:
            at = (int(np.searchsorted(places, sample)) - 1) % len(places)
        self.set("sample", int(places[at]))

    def pictures(self, result: Any) -> list[dict[str, Any]]:
        whose = self.kind().partition(":")[2] if self.kind().startswith((WRONG, DIFFER)) else ""
        names, sample = self._networks(), self.sample()
        about = whose, self.epoch(), self.seed(), *((n, self.shown(n) is not None) for n in names)
        if self._strip[0] != about:
            self._strip = about, {}
        known, out = self._strip[1], []
        for place in self.page(STRIP):
            if place not in known:
                known[place] = self._thumbnail(place, whose)
            out.append(known[place] | {"chosen": place == sample})
        return out

    def _networks(self) -> list[str]:
        """The teacher, if there is one, and the shown students."""
        return [*([self.study.teacher_name] if self.study.teacher_name else []), *self.students()]

    def picked(self) -> tuple[Any, ...]:
        """What strip and microscope depend on; part of `look`."""
        kind = self.kind()
        chosen = self.shared.samples if kind == CHOSEN else ()
        return kind, chosen, self.sample(), self.epoch(), self.seed(), self.students()

    def picture_of(self, place: int) -> str:
        """A small picture as a data address."""
        if place not in self._thumbnails:
            image = np.asarray(self.study.probe_set.images[int(self.evaluation[place])])
            self._thumbnails[place] = png(image, 56)
        return self._thumbnails[place]

    def _thumbnail(self, place: int, whose: str) -> dict[str, Any]:
        label = int(self.labels[place])
        lines = [shortened(self.class_name(label), 11)]
        if self.study.teacher_name:
            lines.append(self._says(self.study.teacher_name, "teacher", place, label))
        if whose and whose != self.study.teacher_name:
            lines.append(self._says(whose, shortened(whose, 8), place, label))
        else:
            own = [shown for name in self.students() if (shown := self.shown(name)) is not None]
            right = sum(int(shown.said[place] == label) for shown in own)
            lines.append(f"{right} of {len(own)} right")
        return {
            "id": place,
            "src": self.picture_of(place),
            "text": "\n".join(filter(None, lines)),
            "title": self.told(place),
        }

    def _says(self, network: str, name: str, place: int, label: int) -> str:
        shown = self.shown(network)
        if shown is None:
            return ""
        said = int(shown.said[place])
        return f"{name} ✓" if said == label else f"{name}: {shortened(self.class_name(said), 9)}"

    # ---- in words ----------------------------------------------------------------------------------------

    def kind_in_words(self) -> str:
        """Of the pictures that were chosen."""
        kind = self.kind()
        name = kind.partition(":")[2]
        if kind == CHOSEN:
            return f"{plural(len(self.places()), 'selected picture')}"
        if kind.startswith(CLASS):
            return f"{plural(len(self.places()), 'picture')} of {self.class_name(int(name))}"
        if kind.startswith(WRONG):
            return f"{plural(len(self.places()), 'picture')} that {name} has wrong"
        if kind.startswith(DIFFER):
            return f"{plural(len(self.places()), 'picture')} on which {name} and the teacher disagree"
        return f"all {plural(len(self.places()), 'evaluation picture')}"

    def told(self, place: int, networks: Sequence[str] | None = None) -> str:
        """A picture and what networks answer: "Picture 12, true class 3. Right: KD (97 %). Wrong: ..."."""
        label = int(self.labels[place])
        right: list[str] = []
        wrong: list[str] = []
        for name in self._networks() if networks is None else networks:
            shown = self.shown(name)
            if shown is not None:
                told = self._answer(name, shown.sure[place], label)
                (right if shown.said[place] == label else wrong).append(told)
        text = f"Picture {place}, true class {self.class_name(label)}."
        text += f" Right: {listed(right)}." if right else ""
        return text + (f" Wrong: {listed(wrong)}." if wrong else "")

    def _answer(self, name: str, sure: np.ndarray, label: int) -> str:
        """Of (K,) probabilities: the class where it is wrong, how likely, and the teacher's second choice."""
        order = [int(c) for c in np.argsort(-sure, kind="stable")[:2]]
        teacher = name == self.study.teacher_name
        text = "the teacher" if teacher else name
        text += "" if order[0] == label else f" says {self.class_name(order[0])}"
        text += f" ({percent(sure[order[0]], 0)}"
        if teacher and len(order) > 1 and sure[order[1]] >= _SAID:
            text += f", then {self.class_name(order[1])}: {percent(sure[order[1]], 0)}"
        return f"{text})"

    # ---- the moment --------------------------------------------------------------------------------------

    def moment(self, epochs: Sequence[int] | None = None) -> tuple[int, int, tuple[str, ...]]:
        """Seed, epoch, and those of the shown students that have something to show there.

        Args:
            epochs: that are shown; the shown one alone if not given.

        Raises:
            StudyError: nothing has been trained yet.
            ConfigError: none of the chosen students was there at that epoch.
        """
        seed, epoch = self.seed(), self.epoch()
        if seed is None or epoch is None:
            raise StudyError(UNTRAINED)
        shown = {epoch} if epochs is None else set(epochs)
        names = tuple(name for name in self.students() if shown & set(self.epochs(name)))
        if not names:
            raise ConfigError(
                f"There is nothing of {listed(list(self.students()), 'or')} at epoch {epoch}; move the epoch "
                "slider, or choose other students."
            )
        return seed, epoch, names

    def arguments(self, seed: int, names: Sequence[str]) -> str:
        """`students=...` and `seed=...` for a line of Python, where they are not the ones taken anyway."""
        parts = [] if list(names) == list(self.study.names) else [f"students={list(names)!r}"]
        parts += [] if seed == next(iter(self.stock.seeds()), seed) else [f"seed={seed}"]
        return "".join(f", {part}" for part in parts)

"""How the points of a map look: colour and marker by class, by answers, by confidence, by network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdlab.errors import ConfigError, unknown_name
from kdlab.plots import theme
from kdlab.plots.points import NO, YES, categories
from kdlab.probes.embedding import Embedding
from kdlab.probes.logits import QUADRANTS

COLORS = ("class", "coarse", "correct", "agreement", "quadrant", "confidence", "network")
_QUADRANT_LOOKS = (YES, NO, (theme.OKABE_ITO[2], "triangle-up"), (theme.OKABE_ITO[3], "diamond"))
_ALL_COLOURED = 10  # with more classes only the first so many have a colour of their own
_OTHER = (theme.FAINT, "circle")


def colors_of(result: Embedding) -> tuple[str, ...]:
    """By what the points of a map can be coloured: some of `COLORS`, and the factors of the pictures."""
    answers = bool((result.predicted >= 0).any())
    compared = answers and bool(result.teachers) and bool((result.predicted[:, 0] >= 0).any())
    known = {
        "class": True,
        "coarse": result.coarse is not None,
        "correct": answers,
        "agreement": compared,
        "quadrant": compared,
        "confidence": result.top_share is not None and bool(np.isfinite(result.top_share).any()),
        "network": True,
    }
    return (*(name for name in COLORS if known[name]), *result.factors)


@dataclass(frozen=True)
class PointLooks:
    """Looks of all points of a map at one epoch.

    Args:
        result: a map. e: place of the epoch. shown: places of the networks that are drawn.
        color: one of `colors_of(result)`.
        classes: those in colour, the others are grey; () means all, or the first ten of more than ten.
        overlay: all networks in one plot, so that markers tell networks apart.

    Raises:
        ConfigError: another colour or class.
    """

    result: Embedding
    e: int
    shown: tuple[int, ...]
    color: str
    classes: tuple[int, ...] = ()
    overlay: bool = False

    def __post_init__(self) -> None:
        if self.color not in colors_of(self.result):
            raise unknown_name("way to colour a map", self.color, colors_of(self.result))
        known = len(self._class_names)
        for label in self.classes:
            if not 0 <= label < known:
                raise ConfigError(f"There is no class {label}; they are 0 to {known - 1}.")

    @property
    def _class_names(self) -> tuple[str, ...]:
        return categories(self.result, "class")[1]

    @property
    def _coloured(self) -> np.ndarray:
        """(n,) which pictures are in colour."""
        if self.classes:
            return np.isin(self.result.labels, self.classes)
        if self.color == "class":
            return np.asarray(self.result.labels < _ALL_COLOURED)
        return np.ones(len(self.result.labels), dtype=bool)

    def marker(self, n: int, size: float) -> dict[str, Any]:
        """Plotly's `marker` of the points of network n."""
        result, on = self.result, self._coloured
        own = theme.styles(result.students, result.teachers)[result.networks[n]]
        hollow = "-open" if result.networks[n] in result.teachers else ""
        sizes = np.full(len(on), float(size))
        marker: dict[str, Any] = {"line": {"width": 1.4 if self.overlay and hollow else 0}}
        if self.color == "confidence":
            assert result.top_share is not None
            marker |= {"color": np.round(result.top_share[self.e, n, :, 0], 3), "coloraxis": "coloraxis"}
            symbols = [own.symbol + hollow if self.overlay else "circle"] * len(on)
        else:
            kinds, looks = self._kinds(n)
            marker["color"] = [looks[k][0] if lit else _OTHER[0] for k, lit in zip(kinds, on, strict=True)]
            if self.overlay:
                symbols = [own.symbol + hollow] * len(on)
            else:
                symbols = [looks[k][1] if lit else _OTHER[1] for k, lit in zip(kinds, on, strict=True)]
            if self.color in ("correct", "agreement", "quadrant"):  # what is to be found among many is larger
                sizes += np.where(kinds > 0, 2.0, 0.0)
        if on.all():
            marker["opacity"] = 0.9
        else:
            marker["opacity"] = np.where(on, 0.95, 0.35)
            sizes = np.where(on, sizes, size - 1.5)
        one_size, one_symbol = len(set(sizes)) == 1, len(set(symbols)) == 1
        return marker | {
            "size": float(sizes[0]) if one_size else sizes,
            "symbol": symbols[0] if one_symbol else symbols,
        }

    def _kinds(self, n: int) -> tuple[np.ndarray, Sequence[tuple[str, str]]]:
        """(n,) kind of each picture for network n, and the looks of the kinds."""
        result = self.result
        if self.color == "network":
            own = theme.styles(result.students, result.teachers)[result.networks[n]]
            return np.zeros(len(result.labels), int), [(own.color, own.symbol)]
        if self.color == "quadrant":
            return self._quadrants(n), _QUADRANT_LOOKS
        if self.color in ("correct", "agreement"):
            goal = result.labels if self.color == "correct" else result.predicted[self.e, 0]
            n = n if self.color == "correct" else self._spoken_for(n)
            return np.where(result.predicted[self.e, n] == goal, 0, 1), (YES, NO)
        values, names = categories(result, self.color)
        numbers = list(range(len(names)))
        if self.color == "class" and len(names) > _ALL_COLOURED:
            for place, label in enumerate(self.classes):  # few of many: colours in the order of choice
                numbers[label] = place
        return values, [theme.class_style(number) for number in numbers]

    def _spoken_for(self, n: int) -> int:
        """The network that network n's points tell of: the teacher's tell of the student where one alone is
        shown."""
        students = [m for m in self.shown if self.result.networks[m] not in self.result.teachers]
        return students[0] if self.result.networks[n] in self.result.teachers and len(students) == 1 else n

    def _quadrants(self, n: int) -> np.ndarray:
        """(n,) places in `QUADRANTS`."""
        result, n = self.result, self._spoken_for(n)
        teacher, own = (result.predicted[self.e, m] == result.labels for m in (0, n))
        return np.asarray(2 * ~teacher + ~own)

    def legend(self) -> list[tuple[str, dict[str, Any]]]:
        """(text, marker) of what colours mean, and in an overlay also of what markers mean."""
        entries = [(text, look) for text, look in self._meanings()]
        if self.overlay and self.color != "network":
            entries = [(text, (color, "circle")) for text, (color, _) in entries]
        out = [(text, {"color": color, "symbol": symbol}) for text, (color, symbol) in entries]
        if not self.overlay:
            return out
        looks = theme.styles(self.result.students, self.result.teachers)
        networks = []
        for m in self.shown:
            name = self.result.networks[m]
            teacher = name in self.result.teachers
            marker: dict[str, Any] = {
                "color": looks[name].color if self.color == "network" else theme.MUTED,
                "symbol": looks[name].symbol + ("-open" if teacher else ""),
                "line": {"width": 1.4 if teacher else 0},
            }
            networks.append((theme.shortened(name, 22) + (" (teacher)" if teacher else ""), marker))
        return [*networks, *out]

    def _meanings(self) -> list[tuple[str, tuple[str, str]]]:
        if self.color in ("confidence", "network"):
            return []
        if self.color == "correct":
            return [("right", YES), ("wrong", NO)]
        if self.color == "agreement":
            return [("as the teacher", YES), ("another class", NO)]
        if self.color == "quadrant":
            return list(zip(QUADRANTS, _QUADRANT_LOOKS, strict=True))
        values, names = categories(self.result, self.color)
        _, looks = self._kinds(self.shown[0])
        there = [int(v) for v in np.unique(values[self._coloured])] if self._coloured.any() else []
        if self.color == "class" and self.classes:
            there = [label for label in self.classes if label in there]
        shown = [(theme.shortened(names[v], 18), looks[v]) for v in there]
        rest = len(names) - len(there) if self.color == "class" else 0
        return [*shown, (f"the other {rest} classes", _OTHER)] if rest > 0 else shown

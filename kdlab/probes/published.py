"""A study's own accuracies beside published ones, where data set and networks are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdlab.errors import ConfigError, UnknownNameError
from kdlab.models import canonical, names
from kdlab.probes.final import final_accuracies, plus_minus
from kdlab.probes.result import Result
from kdlab.probes.words import listed, percent, plural

if TYPE_CHECKING:
    import pandas as pd

PLAIN = {"ce": "student"}  # kdlab's key -> how papers call it: the student trained alone


@dataclass(frozen=True)
class BesidePublished(Result):
    """Own and published test accuracies, both 0..1.

    Attributes:
        data, teacher: of the study; several teachers as "a + b", "" for none or a network of one's own.
        networks: architectures of its students, "" for a network of one's own.
        students: of the whole study, from which figures take their colours.
        own: a mapping for each student shown: student, method (its key), network, changed (whether its
            loss is not as it comes), last, best, epoch (arrays over seeds, see `FinalAccuracies`).
        rows: published numbers with the same data, teacher and network, each a mapping: method, network,
            accuracy, source, venue, year, where, epoch, epochs, recipe, note. Method "student" is the
            network trained alone, "teacher" the teacher.
        differences: sentences on what else differs than the place where it was done.
        pairs: what has been published of networks that kdlab has: mappings of data, teacher, student,
            count, lowest, highest, sources.

    >>> found = kdlab.probes.beside_published(study)
    >>> found.data, found.teacher, found.networks
    ('digits', 'resnet8', ('resnet8',))
    >>> sorted(found.pairs[0])
    ['count', 'data', 'highest', 'lowest', 'sources', 'student', 'teacher']
    """

    figure: ClassVar[str] = "beside_published"

    data: str
    teacher: str
    networks: tuple[str, ...]
    students: tuple[str, ...]
    own: tuple[Mapping[str, Any], ...]
    rows: tuple[Mapping[str, Any], ...]
    differences: tuple[str, ...]
    pairs: tuple[Mapping[str, Any], ...]

    @property
    def protocol(self) -> str:
        """Where the numbers come from."""
        return (
            "Published numbers are quoted from their sources and were not measured here; they are put beside "
            "own ones where data set, teacher and student network are the same."
        )

    @property
    def comparable(self) -> bool:
        """Whether anything was published of these networks on these data."""
        return bool(self.rows)

    def matches(self, own: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Published numbers of a student's own method and network."""
        return [row for row in self.rows if _same(own, row)]

    def to_frame(self) -> pd.DataFrame:
        """Own numbers (mean over seeds) and published ones, told apart by the column "whose"."""
        import pandas as pd

        mine = [
            {
                "whose": "own",
                "student": one["student"],
                "method": one["method"],
                "network": one["network"],
                "accuracy": float(np.mean(one["last"])),
                "sd": float(np.std(one["last"], ddof=1)) if len(one["last"]) > 1 else np.nan,
                "seeds": len(one["last"]),
                "epoch": "last",
            }
            for one in self.own
        ]
        if self.comparable:
            return pd.DataFrame([*mine, *({"whose": "published", **row} for row in self.rows)])
        others = [{**pair, "sources": ", ".join(pair["sources"])} for pair in self.pairs]
        return pd.DataFrame([*mine, *({"whose": "published, of other networks", **pair} for pair in others)])

    @property
    def summary(self) -> str:
        """Own numbers and what is published of the same, or what would be comparable."""
        if not self.comparable:
            what = f"{self.teacher or 'no teacher'} → {listed(self.networks, 'or') or 'a network of its own'}"
            known = Counter(pair["data"] for pair in self.pairs)
            counts = listed([f"{plural(count, 'pair')} on {data}" for data, count in known.items()])
            return (
                f"No published number here can be compared with this study, which is {what} on {self.data}. "
                f"Shown is of which networks there are some: {counts}."
            )
        said = []
        for one in self.own:
            found = self.matches(one)
            quoted = listed([f"{percent(row['accuracy'], 2)} ({row['source']})" for row in found])
            value = f"{one['student']} {plus_minus(one['last'])} %"
            said.append(f"{value}, published {quoted}" if found else f"{value}, nothing published")
        differ = f" What differs: {' '.join(self.differences)}" if self.differences else ""
        return f"Own and published test accuracy on {self.data}: {'; '.join(said)}.{differ}"


def beside_published(study: Any, students: str | Iterable[str] | None = None) -> BesidePublished:
    """Hold the accuracies of a study against published ones (`kdlab.methods.published`).

    Only numbers of the same data set, teacher and student network are compared. The recipe may differ,
    and then the result says how.

    Args:
        study: a study, live, finished or killed.
        students: which; None means all.

    Raises:
        StudyError: no epoch has been finished yet.

    >>> found = kdlab.probes.beside_published(study)
    >>> found.comparable, len(found.own)  # nothing is published of these small scans
    (False, 2)
    """
    from kdlab.methods import published  # looked up, not depended on: other probes know no methods

    scores = final_accuracies(study, students)
    data, teacher = str(study.data.name), " + ".join(_network(t) or "?" for t in study.asked["teachers"])
    everything = published().to_dict("records")
    alone = _network({"architecture": study.asked["student"]})
    own: list[dict[str, Any]] = []
    for s, name in enumerate(scores.students):
        there = np.isfinite(scores.last[s])
        student = study.students[name]
        network = alone if student.network is None else _network({"architecture": student.network})
        if there.any():
            own.append(
                {
                    "student": name,
                    "method": student.method.key,
                    "network": network,
                    "changed": _changed(student.method),
                    "last": scores.last[s][there],
                    "best": scores.best[s][there],
                    "epoch": scores.epoch[s][there],
                }
            )
    networks = tuple(dict.fromkeys(one["network"] for one in own if one["network"]))
    rows = [_row(row) for row in everything if _fits(row, data, teacher, networks)]
    pairs = _pairs(everything)
    known = any(row["method"] != "teacher" for row in rows)
    return BesidePublished(
        data=data,
        teacher=teacher,
        networks=networks,
        students=scores.roster,
        own=tuple(own),
        rows=tuple(rows) if known else (),
        differences=tuple(_differences(study, scores.teachers, own, _quoted(own, rows))) if known else (),
        pairs=tuple(pairs),
    )


def _network(asked: Mapping[str, Any]) -> str:
    """The one spelling of an architecture; "" for what is no network of kdlab's own."""
    name = asked.get("architecture")
    try:
        known = canonical(name) if isinstance(name, str) and name else ""
    except UnknownNameError:
        return ""
    return known if known in names() else ""


def _changed(method: Any) -> bool:
    """Whether parameters, weights or switches of a method are not as it comes."""
    from kdlab.methods import make

    try:
        return bool(method.config() != make(method.key).config())
    except ConfigError:
        return True


def _fits(row: Mapping[str, Any], data: str, teacher: str, networks: Sequence[str]) -> bool:
    if row["data"] != data:
        return False
    if row["method"] == "teacher":
        return bool(row["teacher"] == teacher)
    if row["method"] == "student" or not row["teacher"]:
        return row["student"] in networks
    return row["student"] in networks and row["teacher"] == teacher


def _same(own: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    method = PLAIN.get(own["method"], own["method"])
    return bool((row["method"], row["network"]) == (method, own["network"]))


def _quoted(own: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those rows that stand beside a number of one's own."""
    return [row for row in rows if row["method"] == "teacher" or any(_same(one, row) for one in own)]


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("method", "source", "venue", "where", "epoch", "recipe", "note")
    return {
        **{key: str(row[key]) for key in kept},
        "network": str(row["student"]),
        "accuracy": row["accuracy"] / 100,
        **{key: int(row[key]) if row[key] == row[key] and row[key] else 0 for key in ("year", "epochs")},
    }


def _pairs(everything: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Pairs of networks that kdlab can build, of which something was published."""
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in everything:
        teachers = row["teacher"].split(" + ")
        if row["teacher"] and row["student"] and {*teachers, row["student"]} <= set(names()):
            found.setdefault((row["data"], row["teacher"], row["student"]), []).append(row)
    return [
        {
            "data": data,
            "teacher": teacher,
            "student": student,
            "count": len(rows),
            "lowest": min(row["accuracy"] for row in rows) / 100,
            "highest": max(row["accuracy"] for row in rows) / 100,
            "sources": tuple(dict.fromkeys(row["source"] for row in rows)),
        }
        for (data, teacher, student), rows in found.items()
    ]


def _differences(
    study: Any,
    teachers: Mapping[str, float],
    own: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
) -> list[str]:
    """What makes own and published numbers incomparable beyond networks and data, in sentences."""
    said = []
    recipes = {row["source"]: (row["recipe"], row["epochs"]) for row in rows if row["epochs"]}
    mine = (study.recipe.name, study.recipe.epochs)
    other = {source: recipe for source, recipe in recipes.items() if recipe != mine}
    if other:
        by_recipe: dict[tuple[str, int], list[str]] = {}
        for source, recipe in other.items():
            by_recipe.setdefault(recipe, []).append(source)
        theirs = [f"{listed(who)} {name}, {count} epochs" for (name, count), who in by_recipe.items()]
        said.append(f"The recipe: here {mine[0]}, {plural(mine[1], 'epoch')}; {'; '.join(theirs)}.")
    silent = sorted({row["source"] for row in rows} - set(recipes))
    if silent:
        said.append(f"The recipes of {listed(silent)} are not known here.")
    few = study.asked["labels_per_class"]
    if few:
        said.append(f"Trained here on {plural(few, 'picture')} of each class; in the papers on all.")
    elif len(study.data.val):
        said.append("Here a part of the training pictures is kept for validation; in the papers none is.")
    done = min((int(one["epoch"].min()) for one in own), default=0)
    if done < study.epochs:
        said.append(f"This study is at epoch {done} of {study.epochs}.")
    for row in rows:
        if row["method"] == "teacher" and len(teachers) == 1:
            accuracy = next(iter(teachers.values()))
            said.append(
                f"The teacher: here {percent(accuracy, 2)}, in {row['source']} {percent(row['accuracy'], 2)}."
            )
    best = sorted({row["source"] for row in rows if row["epoch"] == "best on test"})
    if best:
        said.append(
            f"{listed(best)}: the epoch that was best on test pictures, which is never below the last one."
        )
    changed = [one["student"] for one in own if one["changed"]]
    if changed:
        said.append(
            f"The loss of {listed(changed)} does not have the settings that kdlab takes from its paper."
        )
    return said

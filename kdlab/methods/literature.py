"""Accuracies that others have published, with their sources: what own numbers may be held against."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdlab.errors import UnknownNameError
from kdlab.models import canonical

if TYPE_CHECKING:
    import pandas as pd

ALONE = ("teacher", "student")
"""What stands in place of a method where a network was trained alone."""
COLUMNS = (
    *("data", "teacher", "student", "method", "accuracy", "source", "paper", "venue", "year", "where"),
    *("epoch", "epochs", "recipe", "note", "also_in"),
)


def published(
    data: str | None = None,
    teacher: str | Sequence[str] | None = None,
    student: str | None = None,
    method: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Published top-1 accuracies: a row for each number.

    Baselines differ between papers, so a number means little without its source; and a fair comparison
    has the same recipe, epochs and teacher. Of the five methods rebuilt from abstracts (cmkd, mtkd_ssr,
    dckd, gpac, skd) no number is known here.

    Args:
        data: "cifar100", "cifar10", "tiny_imagenet" or "imagenet"; None for all.
        teacher: a network; several names for several teachers at once. What students reached alone
            stays in.
        student: a network. What teachers reached alone stays in.
        method: a key such as "kd", or several; "student" and "teacher" are networks trained alone.

    Returns:
        A table, empty where nothing is known: data, teacher ("a + b" for several), student, method,
        accuracy (percent), source (whose table), paper, venue, year, where (it stands), epoch (which one
        is reported: "last" or "best on test", "" where the source does not say), epochs and recipe (of the
        training, the recipe by its name in kdlab; where known), note, also_in (sources with the same number).

    >>> found = kdlab.methods.published("cifar100", "resnet32x4", "resnet8x4", method="kd")
    >>> dict(zip(found["source"], found["accuracy"]))  # one pair of networks, two baselines
    {'RepDistiller': 73.33, 'SimKD': 74.42}
    """
    import pandas as pd

    rows = list(_rows())
    methods = None if method is None else {method} if isinstance(method, str) else set(method)
    if data is not None:
        rows = [row for row in rows if row["data"] == data]
    for role, asked in (("teacher", teacher), ("student", student)):
        if asked is not None:
            known = {row[role] for row in rows}
            name = _spelled(asked, known)
            other = ALONE[1 - ALONE.index(role)]
            rows = [row for row in rows if row[role] == name or row["method"] == other]
    if methods is not None:
        rows = [row for row in rows if row["method"] in methods]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows() -> Iterator[dict[str, Any]]:
    known = _file()
    for table in known["tables"]:
        source = known["sources"][table["source"]]
        for method, accuracy in table["accuracy"].items():
            yield {
                **dict.fromkeys(COLUMNS, ""),
                "epochs": None,
                **source,
                "data": table["data"],
                "teacher": together(table["teacher"]),
                "student": table["student"] or "",
                "method": method,
                "accuracy": float(accuracy),
                "source": table["source"],
                "note": table.get("note", ""),
                "also_in": ", ".join(table.get("also_in", {}).get(method, ())),
            }


@cache
def _file() -> dict[str, Any]:
    path = Path(__file__).with_name("published.json")
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read


def together(names: str | Sequence[str] | None) -> str:
    """How one or several teachers are written: "a + b"; "" for none."""
    return "" if names is None else names if isinstance(names, str) else " + ".join(names)


def _spelled(asked: str | Sequence[str], known: set[str]) -> str:
    """As it stands in the table: "WRN-40-2" is "wrn_40_2" there. Exact names come first, since kdlab's
    ResNet50 and the "resnet50" of some papers are two networks."""
    name = together(asked)
    if name in known:
        return name
    try:
        return together([canonical(one) for one in name.split(" + ")])
    except UnknownNameError:
        return name

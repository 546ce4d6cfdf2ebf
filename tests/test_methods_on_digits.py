"""The table of all methods: the script that makes it runs, and the committed one is what it says it is."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from bench_hands import Ended, run_benchmarks

import kdlab

BROKEN = """
import kdlab

@kdlab.methods.register
class Broken(kdlab.methods.KD):
    key = "broken"
    def __init__(self):
        super().__init__()
    def losses(self, step, active):
        raise RuntimeError("a fault in its losses")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("methods")


@pytest.fixture(scope="module")
def ended(checkout: Path, folder: Path) -> dict[str, Ended]:
    quick = ("methods.py", "--quick", "--json", "{json}")
    jobs = {
        "table": (*quick, "--out", str(folder)),
        "broken": (*quick, "--only", "kd,broken,dkd"),
        "speed": (*quick, "--speed", "--only", "kd,mlkd,aver"),
    }
    return run_benchmarks(checkout, folder, jobs, before=BROKEN)


@pytest.mark.slow
def test_quick_table_of_two_methods(ended: dict[str, Ended], folder: Path) -> None:
    assert ended["table"].status == 0, ended["table"].errors
    rows = list(csv.DictReader((folder / "methods_on_digits.csv").open()))
    assert [(r["method"], r["setting"]) for r in rows] == [
        ("ce", "default"),
        ("kd", "default"),
        ("at", "default"),
        ("at", "weight 62.5"),
    ]
    alone = float(rows[0]["last"])
    for row in rows:
        assert 0 <= float(row["last"]) <= 100 and row["seeds"] == "1" and row["last_sd"] == ""
        assert float(row["gain"]) == pytest.approx(float(row["last"]) - alone, abs=0.011)
        assert float(row["x_kd"]) > 0
        assert float(row["gain"]) > 0 or row["method"] == "ce" or "alone" in row["note"]
    assert {row["method"] for row in ended["table"].figures["speed"]} == {"ce", "kd", "at"}
    page = (folder / "methods_on_digits.md").read_text()
    assert "python benchmarks/methods.py --quick" in page and f"kdlab {kdlab.__version__}" in page
    assert "Chance is 10 %" in page and page.count("\n| ") == 5  # head and four rows
    assert page.count("%,") + page.count("%;") >= 3  # three teachers


@pytest.mark.slow
def test_a_method_that_fails_is_a_row_and_spares_the_others(ended: dict[str, Ended]) -> None:
    assert ended["broken"].status == 0, ended["broken"].errors
    rows = {row["method"]: row for row in ended["broken"].figures["rows"]}
    assert list(rows) == ["ce", "kd", "dkd", "broken"]
    assert "failed: RuntimeError: a fault in its losses" in rows["broken"]["note"]
    assert rows["broken"]["last"] is None and rows["broken"]["x_kd"] is None
    assert all(rows[key]["last"] > 0 and rows[key]["x_kd"] > 0 for key in ("ce", "kd", "dkd"))


@pytest.mark.slow
def test_quick_speed_flags_what_is_above_the_limit(ended: dict[str, Ended]) -> None:
    assert ended["speed"].status == 0, ended["speed"].errors
    rows = {row["method"]: row for row in ended["speed"].figures["speed"]}
    assert [rows[key]["teachers"] for key in ("kd", "mlkd", "aver")] == [1, 1, 3]
    for row in rows.values():
        assert row["x KD"] == pytest.approx(row["ms"] / row["KD ms"])  # one round
        assert ("over 2x" in row["note"]) == (row["x KD"] > 2)
    over = [key for key, row in rows.items() if row["x KD"] > 2]
    assert f"above 2 times KD: {', '.join(over) or 'none'}" in ended["speed"].out


def test_the_committed_table_holds_every_method(checkout: Path) -> None:
    path = checkout / "docs" / "methods_on_digits.csv"
    if not path.exists():
        pytest.skip("the table has not been made yet")
    rows = list(csv.DictReader(path.open()))
    assert {row["method"] for row in rows} == set(kdlab.methods.names())
    for row in rows:
        if "failed:" not in row["note"]:
            assert int(row["seeds"]) >= 3 and math.isfinite(float(row["last_sd"])), row["method"]
            assert 0 <= float(row["last"]) <= 100 and float(row["x_kd"]) > 0, row["method"]

"""The table of all methods: the script that makes it runs, and the committed one is what it says it is."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kdlab


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(checkout / "benchmarks" / "methods.py"), *arguments]
    environment = os.environ | {"KDLAB_DATA": str(checkout / "no data here"), "PYTHONPATH": str(checkout)}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


@pytest.mark.slow
def test_quick_table_of_two_methods(checkout: Path, tmp_path: Path) -> None:
    done = run(checkout, "--quick", "--out", str(tmp_path), "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "methods_on_digits.csv").open()))
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
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {row["method"] for row in figures["speed"]} == {"ce", "kd", "at"}
    page = (tmp_path / "methods_on_digits.md").read_text()
    assert "python benchmarks/methods.py --quick" in page and f"kdlab {kdlab.__version__}" in page
    assert "Chance is 10 %" in page and page.count("\n| ") == 5  # head and four rows
    assert page.count("%,") + page.count("%;") >= 3  # three teachers


@pytest.mark.slow
def test_a_method_that_fails_is_a_row_and_spares_the_others(checkout: Path, tmp_path: Path) -> None:
    broken = """
import sys
sys.path.insert(0, {benchmarks!r})
sys.argv = ["methods.py", "--quick", "--only", "kd,broken,dkd", "--json", {json!r}]
import kdlab, methods

@kdlab.methods.register
class Broken(kdlab.methods.KD):
    key = "broken"
    def __init__(self):
        super().__init__()
    def losses(self, step, active):
        raise RuntimeError("a fault in its losses")

methods.main()
"""
    path = tmp_path / "figures.json"
    code = broken.format(benchmarks=str(checkout / "benchmarks"), json=str(path))
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in json.loads(path.read_text())["rows"]}
    assert list(rows) == ["ce", "kd", "dkd", "broken"]
    assert "failed: RuntimeError: a fault in its losses" in rows["broken"]["note"]
    assert rows["broken"]["last"] is None and rows["broken"]["x_kd"] is None
    assert all(rows[key]["last"] > 0 and rows[key]["x_kd"] > 0 for key in ("ce", "kd", "dkd"))


@pytest.mark.slow
def test_quick_speed_flags_what_is_above_the_limit(checkout: Path, tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    done = run(checkout, "--speed", "--quick", "--only", "kd,mlkd,aver", "--json", str(path))
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in json.loads(path.read_text())["speed"]}
    assert [rows[key]["teachers"] for key in ("kd", "mlkd", "aver")] == [1, 1, 3]
    for row in rows.values():
        assert row["x KD"] == pytest.approx(row["ms"] / row["KD ms"])  # one round
        assert ("over 2x" in row["note"]) == (row["x KD"] > 2)
    over = [key for key, row in rows.items() if row["x KD"] > 2]
    assert f"above 2 times KD: {', '.join(over) or 'none'}" in done.stdout


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

"""The benchmarks run and print what they promise; how fast anything is, is not for tests to say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = {
    "throughput.py": ["--only", "resnet20"],
    "lockstep.py": ["--only", "resnet20", "--students", "2"],
    "overhead.py": [],
    "small_pictures.py": [],
    "accuracy_bf16.py": ["--seeds", "2"],
    "gpu.py": ["--device", "cpu"],
}

HELP = """
import contextlib, io, json, pathlib, runpy, sys
told, paths = {}, sys.argv[1:]
for path in paths:  # in one process, which imports torch once
    sys.argv, sys.path[0] = [path, "--help"], str(pathlib.Path(path).parent)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            told[pathlib.Path(path).name] = end.code, printed.getvalue()
print(json.dumps(told))
"""


def run(checkout: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(checkout / "benchmarks" / script), *arguments]
    environment = os.environ | {"KDLAB_DATA": str(checkout / "no data here")}
    return subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)


@pytest.fixture(scope="module")
def printed(checkout: Path, tmp_path_factory: pytest.TempPathFactory):
    """script -> what it printed, and what it wrote as JSON; each is run once."""
    known: dict[str, tuple[str, dict]] = {}

    def get(script: str) -> tuple[str, dict]:
        if script not in known:
            path = tmp_path_factory.mktemp("bench") / "figures.json"
            done = run(checkout, script, "--quick", "--json", str(path), *SCRIPTS[script])
            assert done.returncode == 0, done.stderr
            known[script] = done.stdout, json.loads(path.read_text())
        return known[script]

    return get


@pytest.mark.slow
def test_throughput_prints_ratios_and_proves_equal_losses(printed) -> None:
    text, figures = printed("throughput.py")
    (row,), (proof,) = figures["rows"], figures["proofs"]
    assert set(row["notes"]) <= {"bf16"}, row["notes"]
    assert row["fp32 x"] == pytest.approx(row["fp32"] / row["textbook"]) and row["views x"] > 0
    assert f"{row['fp32 x']:.2f} x the textbook loop" in text and "filling the cache" in text
    assert "bf16 x" in row or "no native bf16" in row["notes"]["bf16"]
    assert 0 <= proof["first"] < 1e-5 and proof["largest"] < 1e-3  # a wrong crop or weight is far beyond
    assert 0 < proof["rounding"] < 1e-3 and "on the same pictures" in text


@pytest.mark.slow
def test_lockstep_prints_ratio_limit_memory_and_growth(printed) -> None:
    text, figures = printed("lockstep.py")
    (speed,), (memory,) = figures["speed"], figures["memory"]
    t, s, k = speed["teacher GFLOP"], speed["student GFLOP"], speed["students"]
    assert t == pytest.approx(0.0816, rel=0.02) and s == pytest.approx(0.0743, rel=0.05)
    assert speed["limit"] == pytest.approx(k * (t + s) / (t + k * s)) and speed["ratio"] > 0
    assert memory["of the sum"] > 0 and figures["growth"]["steps"] >= 10
    assert "limit" in text and "memory over" in text


@pytest.mark.slow
def test_overhead_prints_percent_and_loads_what_was_written(printed) -> None:
    text, figures = printed("overhead.py")
    assert text.count("percent") and re.search(r"loaded, with history and table, in \d", text)
    assert figures["loaded"]["steps"] == 80 and figures["whole"]["full"] > 0


@pytest.mark.slow
def test_small_pictures_prints_the_ratio_of_the_medians(printed) -> None:
    text, figures = printed("small_pictures.py")
    assert [row["students"] for row in figures["rows"]] == [1, 3]
    for row in figures["rows"]:
        assert row["ratio"] == pytest.approx(row["default"] / row["every"]) and row["threads"] >= 1
        assert f"{row['ratio']:.2f}" in text


def test_every_benchmark_tells_its_options(checkout: Path) -> None:
    scripts = [*SCRIPTS, "imports.py", "textbook.py"]
    command = [sys.executable, "-c", HELP, *(str(checkout / "benchmarks" / name) for name in scripts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert {name: status for name, (status, _) in told.items()} == dict.fromkeys(scripts, 0)
    assert all(f"usage: {name}" in text for name, (_, text) in told.items())

"""The benchmarks run and print what they promise; how fast anything is, is not for tests to say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bench_hands import Ended, run_benchmarks

QUICK = ("--quick", "--json", "{json}")
JOBS = {
    "throughput": ("throughput.py", *QUICK, "--only", "resnet20"),
    "lockstep": ("lockstep.py", *QUICK, "--only", "resnet20", "--students", "2"),
    "overhead": ("overhead.py", *QUICK),
    "small pictures": ("small_pictures.py", *QUICK),
    "bf16": ("accuracy_bf16.py", *QUICK, "--seeds", "2"),
    "gpu": ("gpu.py", *QUICK, "--device", "cpu"),
    "no gpu": ("gpu.py",),
    "not quick": ("gpu.py", "--device", "cpu"),
}


@pytest.fixture(scope="module")
def ended(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    return run_benchmarks(checkout, tmp_path_factory.mktemp("bench"), JOBS)


def good(ended: dict[str, Ended], name: str) -> tuple[str, dict]:
    """What it printed, and what it wrote as JSON."""
    assert ended[name].status == 0, ended[name].errors
    return ended[name].out, ended[name].figures


@pytest.mark.slow
def test_throughput_prints_ratios_and_proves_equal_losses(ended: dict[str, Ended]) -> None:
    text, figures = good(ended, "throughput")
    (row,), (proof,) = figures["rows"], figures["proofs"]
    assert set(row["notes"]) <= {"bf16"}, row["notes"]
    assert row["fp32 x"] == pytest.approx(row["fp32"] / row["textbook"]) and row["views x"] > 0
    assert row["limit x"] == pytest.approx(row["limit"] / row["textbook"]) and row["limit"] > 0
    assert f"{row['fp32 x']:.2f} x the textbook loop" in text and "filling the cache" in text
    assert "bf16 x" in row or "no native bf16" in row["notes"]["bf16"]
    assert 0 <= proof["first"] < 1e-5 and proof["largest"] < 1e-3  # a wrong crop or weight is far beyond
    assert 0 < proof["rounding"] < 1e-3 and "on the same pictures" in text


@pytest.mark.slow
def test_lockstep_prints_ratio_limit_memory_and_growth(ended: dict[str, Ended]) -> None:
    text, figures = good(ended, "lockstep")
    (speed,), (memory,) = figures["speed"], figures["memory"]
    t, s, k = speed["teacher GFLOP"], speed["student GFLOP"], speed["students"]
    assert t == pytest.approx(0.0816, rel=0.02) and s == pytest.approx(0.0743, rel=0.05)
    assert speed["limit"] == pytest.approx(k * (t + s) / (t + k * s)) and speed["ratio"] > 0
    assert memory["of the sum"] > 0 and figures["growth"]["steps"] >= 10
    assert "limit" in text and "memory over" in text


@pytest.mark.slow
def test_overhead_prints_percent_and_loads_what_was_written(ended: dict[str, Ended]) -> None:
    text, figures = good(ended, "overhead")
    assert text.count("percent") and re.search(r"loaded, with history and table, in \d", text)
    assert figures["loaded"]["steps"] == 80 and figures["whole"]["full"] > 0


@pytest.mark.slow
def test_small_pictures_prints_the_ratio_of_the_medians(ended: dict[str, Ended]) -> None:
    text, figures = good(ended, "small pictures")
    assert [(row["pictures"], row["students"]) for row in figures["rows"]] == [("8x8", 1), ("16x16", 3)]
    for row in figures["rows"]:
        assert row["ratio"] == pytest.approx(row["default"] / row["every"]) and row["threads"] >= 1
        assert f"{row['ratio']:.2f}" in text


@pytest.mark.slow
def test_bf16_accuracies_are_paired_by_seed(ended: dict[str, Ended]) -> None:
    text, figures = good(ended, "bf16")
    assert "Fashion-MNIST is not at hand" in text
    assert [r["student"] for r in figures["rows"]] == ["alone", "KD"]
    for row in figures["rows"]:
        assert row["seeds"] == 2 and row["difference"] == pytest.approx(row["bf16 %"] - row["fp32 %"])


@pytest.mark.slow
def test_gpu_benchmark_can_be_tried_without_one(ended: dict[str, Ended]) -> None:
    text, figures = good(ended, "gpu")
    rows = {(r["what"], r.get("compile"), r.get("students")): r for r in figures["rows"]}
    assert rows["textbook", None, None]["rate"] > 0 and rows["study", "", 1]["x"] > 0
    assert "rate" not in rows["study", "graphs", 1] and "cpu" in rows["study", "graphs", 1]["note"]
    assert all("seconds" in row["whole"] for row in figures["epochs"]) and "240 epochs" in text


@pytest.mark.slow
def test_gpu_benchmark_refuses_clearly(ended: dict[str, Ended]) -> None:
    import torch

    if not torch.cuda.is_available():
        status, out, errors, _ = ended["no gpu"]
        assert status == 2 and "needs an NVIDIA GPU" in errors and not out
    assert ended["not quick"].status == 2 and "--quick" in ended["not quick"].errors


@pytest.mark.slow
def test_every_benchmark_tells_its_options(checkout: Path, tmp_path: Path) -> None:
    libraries = {"convolutions", "equality", "harness", "machine", "pace", "sides"}
    names = {path.stem for path in (checkout / "benchmarks").glob("*.py")} - libraries
    told = run_benchmarks(checkout, tmp_path, {name: (f"{name}.py", "--help") for name in sorted(names)})
    assert {name: one.status for name, one in told.items()} == dict.fromkeys(names, 0)
    assert all(f"usage: {name}.py" in one.out for name, one in told.items())

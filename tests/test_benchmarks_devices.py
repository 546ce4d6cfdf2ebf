"""The benchmarks of bf16 and of GPUs; a file of its own, so that another process can run it."""

from __future__ import annotations

import pytest

from tests.test_benchmarks import printed, run

__all__ = ["printed"]


@pytest.mark.slow
def test_bf16_accuracies_are_paired_by_seed(printed) -> None:
    text, figures = printed("accuracy_bf16.py")
    assert "Fashion-MNIST is not at hand" in text
    assert [r["student"] for r in figures["rows"]] == ["alone", "KD"]
    for row in figures["rows"]:
        assert row["seeds"] == 2 and row["difference"] == pytest.approx(row["bf16 %"] - row["fp32 %"])


@pytest.mark.slow
def test_gpu_benchmark_can_be_tried_without_one(printed) -> None:
    text, figures = printed("gpu.py")
    rows = {(r["what"], r.get("compile"), r.get("students")): r for r in figures["rows"]}
    assert rows["textbook", None, None]["rate"] > 0 and rows["study", "", 1]["x"] > 0
    assert "rate" not in rows["study", "graphs", 1] and "cpu" in rows["study", "graphs", 1]["note"]
    assert all("seconds" in row["whole"] for row in figures["epochs"]) and "240 epochs" in text


@pytest.mark.slow
def test_gpu_benchmark_refuses_clearly(checkout) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run(checkout, "gpu.py")
    assert done.returncode == 2 and "needs an NVIDIA GPU" in done.stderr and not done.stdout
    assert "--quick" in run(checkout, "gpu.py", "--device", "cpu").stderr

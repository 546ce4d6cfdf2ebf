"""Sweeps on a real Ray of this machine: same results, a failure kept apart, a stop that can be resumed."""

from __future__ import annotations

import _thread
import importlib.util
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kdlab
from kdlab.training.sweep_engines import require_ray, start_ray, train_ray
from kdlab.training.sweeps import prepare_sweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="the package ray is not installed (pip install ray)"
    ),
]
SMALL: dict[str, Any] = {
    "data": "digits",
    "student": "resnet8",
    "students": {"alone": "ce"},
    "labels_per_class": 4,
    "batch_size": 8,
    "probe_size": 40,
    "snapshots": "ends",
    "device": "cpu",
}


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """One Ray for all tests here, which reports nothing to anybody and stays on the loopback interface."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # so that it does not take this machine's address
    module = require_ray()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    start_ray(module, num_cpus=2)
    yield module
    module.shutdown()


def test_tasks_train_points_and_a_failure_is_kept_apart(ray: Any, tmp_path: Path) -> None:
    sweep = prepare_sweep({"lr": [0.05, 1e30]}, tmp_path / "s", epochs=1, **SMALL)
    sweep.run(engine="ray", num_cpus=1, progress=False)
    assert sweep.states() == {"lr=0.05_seed=0": "finished", "lr=1e+30_seed=0": "failed"}
    assert "finite" in sweep.errors["lr=1e+30_seed=0"]
    assert ray.is_initialized()  # the cluster of the one who asked is left alone
    alone = kdlab.Study(**SMALL, lr=0.05, epochs=1, folder=tmp_path / "alone")
    alone.fit(progress=False)
    (row,) = sweep.results()
    assert row["last"] == alone.results()["alone"]["last"][0]  # the very same study as without Ray


def test_a_machine_that_does_not_see_the_folder_says_so(ray: Any, tmp_path: Path) -> None:
    outcomes: list[dict[str, Any]] = []

    class Watch:
        def begun(self, name: str) -> None: ...
        def progress(self, name: str, progress: Any) -> None: ...
        def ended(self, outcome: dict[str, Any]) -> None:
            outcomes.append(outcome)

    done = train_ray(
        tmp_path / "nowhere", ["a"], workers=None, num_cpus=1, num_gpus=0, devices={}, watcher=Watch()
    )
    assert done and outcomes[0]["state"] == "failed"
    assert "all machines share" in outcomes[0]["error"]


def test_ctrl_c_leaves_studies_to_go_on_with(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = prepare_sweep({}, tmp_path / "s", epochs=2000, seeds=3, **SMALL)
    rows = sweep.folder / "seed=0" / "seed-0" / "epochs.jsonl"

    def interrupt() -> None:  # once the first study is under way
        while not rows.exists():
            if stop.wait(0.1):
                return
        _thread.interrupt_main()

    stop = threading.Event()
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        sweep.run(engine="ray", workers=1, num_cpus=2, progress=False)
    finally:
        stop.set()
        thread.join()
    assert sweep.states() == {"seed=0": "unfinished", "seed=1": "new", "seed=2": "new"}
    study = sweep.studies()["seed=0"]
    assert study.state == "stopped" and 1 <= study.history()["epoch"].max() < 2000
    assert (study.folder / "seed-0" / "last.safetensors").exists()

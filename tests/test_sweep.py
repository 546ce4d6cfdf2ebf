"""Sweeps: what a grid becomes, what is refused, how processes are driven, and what is read back."""

from __future__ import annotations

import _thread
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import kdlab
from kdlab.errors import ConfigError, StudyError, UnknownNameError
from kdlab.methods import CE, registry
from kdlab.training import sweep_engines
from kdlab.training.sweep_engines import child_environment, train_local
from kdlab.training.sweep_points import make_points, own_modules, plain_grid, study_arguments
from kdlab.training.sweep_progress import Reporter
from kdlab.training.sweep_worker import result_path, write_result
from kdlab.training.sweeps import Sweep, load_sweep, prepare_sweep

SMALL: dict[str, Any] = {
    "data": "digits",
    "student": "resnet8",
    "students": {"alone": "ce"},
    "epochs": 1,
    "labels_per_class": 4,
    "batch_size": 8,
    "probe_size": 40,
    "snapshots": "ends",
    "device": "cpu",
}
KD_CONFIG = kdlab.methods.KD().config()
NO_STUDENT = {key: value for key, value in SMALL.items() if key != "student"}


def points_of(grid: Mapping[str, Any], **fixed: Any) -> list[Any]:
    return make_points(*plain_grid(grid, fixed))


# ---- the grid ---------------------------------------------------------------------------------------


def test_every_combination_is_a_point_and_seeds_come_last() -> None:
    points = points_of({"lr": [0.05, 0.1], "student": ["resnet8", "resnet14"]}, seeds=2, data="digits")
    assert [p.name for p in points] == [
        "lr=0.05_student=resnet8_seed=0",
        "lr=0.05_student=resnet14_seed=0",
        "lr=0.1_student=resnet8_seed=0",
        "lr=0.1_student=resnet14_seed=0",
        "lr=0.05_student=resnet8_seed=1",
        "lr=0.05_student=resnet14_seed=1",
        "lr=0.1_student=resnet8_seed=1",
        "lr=0.1_student=resnet14_seed=1",
    ]
    assert points[-1].arguments == {"data": "digits", "lr": 0.1, "student": "resnet14", "seed": 1}
    assert points[-1].values == {"seed": 1, "lr": 0.1, "student": "resnet14"}
    assert points[-1].configuration == {"lr": 0.1, "student": "resnet14"}


@pytest.mark.parametrize(
    ("grid", "fixed", "seeds"),
    [
        ({}, {}, [0]),
        ({}, {"seed": 4}, [4]),
        ({}, {"seeds": 2, "seed": 3}, [3, 4]),
        ({}, {"seeds": [5, 1]}, [5, 1]),
        ({"seed": [2, 0]}, {}, [2, 0]),
        ({"seed": range(3)}, {}, [0, 1, 2]),
        ({"seeds": 2}, {}, [0, 1]),
        ({"seeds": [7, 8]}, {}, [7, 8]),
    ],
)
def test_seeds_are_points_however_they_are_given(
    grid: dict[str, Any], fixed: dict[str, Any], seeds: list[int]
) -> None:
    points = points_of(grid, **fixed)
    assert [p.arguments for p in points] == [{"seed": s} for s in seeds]
    assert [p.name for p in points] == [f"seed={s}" for s in seeds]


def test_a_list_is_swept_and_anything_else_is_the_same_for_all() -> None:
    both = {"alone": "ce", "KD": kdlab.methods.KD(temperature=2)}
    (same,) = points_of({"students": both})
    assert set(same.arguments["students"]) == {"alone", "KD"}
    assert same.values == {"seed": 0}
    first, second = points_of({"students": [both, {"AT": "at"}]})
    assert (first.name, second.name) == ("students=alone+KD_seed=0", "students=AT_seed=0")
    assert second.arguments["students"] == {"AT": "at"}


def test_methods_become_plain_and_plain_becomes_the_same_methods() -> None:
    given = {
        "soft": kdlab.methods.KD(temperature=8),
        "sum": kdlab.methods.KD() + kdlab.methods.AT(weight=5),
        "class": kdlab.methods.KD,
        "own": kdlab.Student("kd", network="resnet14", lr=0.2),
    }
    (point,) = points_of({}, students=given, recipe=kdlab.training.RECIPES["cifar_240"])
    back = study_arguments(json.loads(json.dumps(point.arguments)))
    made = {name: kdlab.methods.make(m).config() for name, m in back["students"].items() if name != "own"}
    assert made["soft"] == given["soft"].config()
    assert made["sum"] == given["sum"].config()
    assert made["class"] == kdlab.methods.KD().config()
    own = back["students"]["own"]
    assert (own.network, own.recipe, own.method.config()) == ("resnet14", {"lr": 0.2}, KD_CONFIG)
    assert back["recipe"]["milestones"] == [150, 180, 210]


def test_values_that_look_alike_are_told_apart() -> None:
    swept = [{"KD": kdlab.methods.KD(temperature=t)} for t in (2, 4)]
    assert [p.name for p in points_of({"students": swept})] == [
        "students=KD-1_seed=0",
        "students=KD-2_seed=0",
    ]
    names = [p.name for p in points_of({"student": ["a/b", "a b", "A-b"]})]
    assert len({name.lower() for name in names}) == 3
    assert all("/" not in name and " " not in name for name in names)
    long = [p.name for p in points_of({"student": ["x" * 300 + "1", "x" * 300 + "2"]})]
    assert len(set(long)) == 2 and max(map(len, long)) <= 100


def test_paths_are_absolute_and_names_stay_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pth").touch()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "digits").mkdir()
    (point,) = points_of({}, data="pictures", data_root="pictures", teacher=("vgg13", "w.pth"))
    assert point.arguments["data"] == point.arguments["data_root"] == str(tmp_path / "pictures")
    assert point.arguments["teacher"] == {"architecture": "vgg13", "checkpoint": str(tmp_path / "w.pth")}
    (point,) = points_of({"teacher": ("vgg13", "w.pth")}, data="digits")
    assert point.arguments["data"] == "digits"
    several = points_of({"teacher": ["resnet20", ["resnet20", ("vgg13", "w.pth")]]})
    assert [p.name for p in several] == ["teacher=resnet20_seed=0", "teacher=resnet20+vgg13_seed=0"]
    assert several[1].arguments["teacher"][1]["checkpoint"] == str(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("grid", "fixed", "said"),
    [
        ({"lr": []}, {}, "no value for lr"),
        ({"lr": [0.1, 0.1]}, {}, "lr twice"),
        ({"lr": [0.1]}, {"lr": 0.2}, "lr is given in the grid and again"),
        ({"seed": [0]}, {"seeds": 2}, "seed and seeds"),
        ({"seed": [-1]}, {}, "whole numbers"),
        ({"folder": ["a"]}, {}, "folder of its own"),
        ({"student": [nn.Linear(2, 2)]}, {}, "student holds a Linear"),
        ({}, {"teacher": nn.Linear(2, 2)}, "teacher holds a Linear"),
        ({}, {"data": {"x": np.zeros(3)}}, "data holds a ndarray"),
        ({"lr": [torch.tensor(0.1)]}, {}, "lr holds a Tensor"),
        ({"lr": [float("nan")]}, {}, "lr holds nan"),
        ({"student": [lambda: None]}, {}, "student holds a function"),
        ([("lr", [0.1])], {}, "A grid maps"),
    ],
)
def test_what_cannot_be_swept_is_refused(grid: Any, fixed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plain_grid(grid, fixed)


def test_unknown_arguments_name_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'epochs'"):
        plain_grid({"epoch": [1, 2]}, {})


# ---- the folder -------------------------------------------------------------------------------------


def test_every_point_is_checked_before_anything_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    with pytest.raises(ConfigError, match=r"Point lr=-1\.0_seed=0 cannot be trained: lr must be a positive"):
        prepare_sweep({"lr": [0.1, -1.0]}, folder, **SMALL)
    with pytest.raises(UnknownNameError, match=r"Point student=resnet9_seed=0 .*did you mean 'resnet8'"):
        prepare_sweep({"student": ["resnet8", "resnet9"]}, folder, **NO_STUDENT)
    assert not folder.exists()


def test_a_sweep_is_written_down_and_opened_again(tmp_path: Path) -> None:
    made = prepare_sweep({"lr": [0.05, 0.1]}, tmp_path / "s", seeds=2, **SMALL)
    again = load_sweep(tmp_path / "s")
    assert again.points == made.points and again.grid == {"seed": [0, 1], "lr": [0.05, 0.1]}
    assert set(made.states().values()) == {"new"} and made.state == "new"
    assert repr(again) == f"Sweep(2 seed x 2 lr: 0 of 4 finished; {tmp_path / 's'})"
    before = (tmp_path / "s" / "sweep.json").read_bytes()
    prepare_sweep({"lr": [0.05, 0.1]}, tmp_path / "s", seeds=2, **SMALL)
    assert (tmp_path / "s" / "sweep.json").read_bytes() == before
    assert made.table().empty and made.history().empty and made.studies() == {}


def test_a_folder_of_another_sweep_is_refused(tmp_path: Path) -> None:
    prepare_sweep({"lr": [0.05]}, tmp_path / "s", **SMALL)
    before = (tmp_path / "s" / "sweep.json").read_bytes()
    for grid, fixed, differing in (
        ({"lr": [0.1]}, SMALL, "lr"),
        ({"lr": [0.05]}, SMALL | {"epochs": 2}, "epochs"),
        ({"lr": [0.05]}, SMALL | {"seeds": 2}, "seed"),
        ({}, SMALL, "lr"),
    ):
        with pytest.raises(StudyError, match=f"another sweep .it differs in {differing}"):
            prepare_sweep(grid, tmp_path / "s", **fixed)
    assert (tmp_path / "s" / "sweep.json").read_bytes() == before
    moved = prepare_sweep({"lr": [0.05]}, tmp_path / "s", **SMALL | {"device": "auto"})
    assert moved.points[0].arguments["device"] == "auto"  # another machine, the same sweep


def test_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(StudyError, match="not empty"):
        prepare_sweep({}, tmp_path / "full", **SMALL)
    with pytest.raises(StudyError, match="holds no sweep"):
        load_sweep(tmp_path / "full")
    (tmp_path / "full" / "sweep.json").write_text('{"format": 99, "points": []}')
    with pytest.raises(StudyError, match="format 99"):
        load_sweep(tmp_path / "full")


def test_a_point_whose_folder_holds_another_study_is_refused(tmp_path: Path) -> None:
    prepare_sweep({}, tmp_path / "s", seeds=2, **SMALL)
    (tmp_path / "s" / "seed=1").mkdir()
    (tmp_path / "s" / "seed=1" / "mine.txt").touch()
    with pytest.raises(StudyError, match="Point seed=1 .*not empty"):
        prepare_sweep({}, tmp_path / "s", seeds=2, **SMALL)


class OwnCE(CE):
    """A method of somebody else's."""

    key = "own_ce"


def test_methods_of_ones_own_are_imported_by_the_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._METHODS, "own_ce", OwnCE)
    mine = {"students": {"mine": "own_ce", "sum": "ce + own_ce"}}
    made = prepare_sweep({}, tmp_path / "s", **{**SMALL, **mine})
    record = json.loads((made.folder / "sweep.json").read_text())
    assert record["imports"] == [{"module": OwnCE.__module__, "path": str(Path(__file__).resolve().parent)}]
    monkeypatch.setattr(OwnCE, "__module__", "__main__")
    with pytest.raises(ConfigError, match="file of its own"):
        own_modules(kdlab.Study(**{**SMALL, **mine}, folder=tmp_path / "study"))


# ---- results ----------------------------------------------------------------------------------------


def finish(sweep: Sweep, name: str, **last: float) -> None:
    """Write what a worker writes when a point is finished."""
    (sweep.folder / name).mkdir(exist_ok=True)
    (sweep.folder / name / "study.json").write_text("{}")
    first = next(iter(last.values()))
    rows = [
        {
            "student": student,
            "seed": 0,
            "epoch": 1,
            "last": value,
            "best": value + 0.01,
            "best_epoch": 1,
            "val": 0.5,
            "gain": value - first,
        }
        for student, value in last.items()
    ]
    write_result(sweep.folder, {"point": name, "state": "finished", "rows": rows, "notes": []})


def test_table_has_mean_and_spread_over_seeds(tmp_path: Path) -> None:
    sweep = prepare_sweep({"student": ["resnet8", "resnet14"]}, tmp_path / "s", seeds=3, **NO_STUDENT)
    finish(sweep, "student=resnet8_seed=0", alone=0.5, KD=0.6)
    finish(sweep, "student=resnet8_seed=1", alone=0.7, KD=0.9)
    finish(sweep, "student=resnet14_seed=1", alone=0.2, KD=0.1)
    table = sweep.table()
    assert list(table)[:4] == ["student", "network", "n", "epoch"]
    rows = table.set_index(["student", "network"])
    assert list(rows["n"]) == [2, 2, 1, 1]
    assert rows.loc[("resnet8", "alone"), "last"] == pytest.approx(60)
    assert rows.loc[("resnet8", "KD"), "last"] == pytest.approx(75)
    assert rows.loc[("resnet8", "KD"), "last_sd"] == pytest.approx(np.std([60, 90], ddof=1))
    assert rows.loc[("resnet8", "KD"), "best"] == pytest.approx(76)
    assert rows.loc[("resnet8", "KD"), "gain"] == pytest.approx(15)
    assert rows.loc[("resnet8", "KD"), "gain_sd"] == pytest.approx(np.std([10, 20], ddof=1))
    assert rows.loc[("resnet14", "KD"), "gain"] == pytest.approx(-10)
    assert np.isnan(rows.loc[("resnet14", "KD"), "last_sd"])
    assert {row["values"]["student"] for row in sweep.results()} == {"resnet8", "resnet14"}
    assert sweep.state == "unfinished"


def test_states_tell_what_is_left(tmp_path: Path) -> None:
    sweep = prepare_sweep({}, tmp_path / "s", seeds=4, **SMALL)
    finish(sweep, "seed=0", alone=0.5)
    (sweep.folder / "seed=1").mkdir()
    (sweep.folder / "seed=1" / "study.json").write_text("{}")
    write_result(sweep.folder, {"point": "seed=2", "state": "failed", "error": "No memory."})
    finish(sweep, "seed=3", alone=0.5)
    (sweep.folder / "seed=3" / "study.json").unlink()  # its folder was removed: it is to be done again
    assert sweep.states() == {
        "seed=0": "finished",
        "seed=1": "unfinished",
        "seed=2": "failed",
        "seed=3": "new",
    }
    assert sweep.errors == {"seed=2": "No memory."}
    assert [row["point"] for row in sweep.results()] == ["seed=0"]


# ---- processes --------------------------------------------------------------------------------------

ENDS = 'import json, sys; print(json.dumps({"outcome": {"point": sys.argv[2], "state": "finished"}}))'
TALKS = (
    'import json; print(json.dumps({"progress": {"epoch": 1, "epochs": 2}})); print("{half a li"); ' + ENDS
)
WAITS = """
import json, signal, sys
def stop(*_):
    print(json.dumps({"outcome": {"point": sys.argv[2], "state": "stopped"}}), flush=True)
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
print(json.dumps({"progress": {"epoch": 1, "epochs": 2}}), flush=True)
signal.pause()
"""


class Watch:
    """Notes what an engine tells."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.most = self.now = 0
        self.on_progress: Any = None

    def begun(self, name: str) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        self.seen.append(("begun", name))

    def progress(self, name: str, progress: Mapping[str, Any]) -> None:
        self.seen.append(("progress", name))
        if self.on_progress is not None:
            self.on_progress()

    def ended(self, outcome: dict[str, Any]) -> None:
        self.now -= 1
        self.outcomes[outcome["point"]] = outcome


def drive(
    monkeypatch: pytest.MonkeyPatch, folder: Path, scripts: Mapping[str, str], workers: int = 1, **how: Any
) -> tuple[bool, Watch]:
    """Run the local engine on small programs instead of trainings."""
    watch = how.pop("watch", Watch())
    monkeypatch.setattr(
        sweep_engines,
        "child_command",
        lambda folder, name: [sys.executable, "-S", "-c", scripts[name], str(folder), name],
    )
    done = train_local(folder, list(scripts), workers=workers, devices={}, watcher=watch)
    return done, watch


def test_points_are_trained_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, watch = drive(monkeypatch, tmp_path, {"a": TALKS, "b": ENDS, "c": ENDS})
    assert done and watch.most == 1
    assert [name for what, name in watch.seen if what == "begun"] == ["a", "b", "c"]
    assert ("progress", "a") in watch.seen
    assert {o["state"] for o in watch.outcomes.values()} == {"finished"}


def test_as_many_as_there_are_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = "import time; time.sleep(0.5); " + ENDS
    done, watch = drive(monkeypatch, tmp_path, dict.fromkeys("abcde", slow), workers=3)
    assert done and watch.most == 3 and set(watch.outcomes) == set("abcde")


def test_a_crash_loses_nothing_but_its_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = {
        "killed": "import os; os.kill(os.getpid(), 9)",
        "fails": "import sys; print('no such thing', file=sys.stderr); sys.exit(3)",
        "good": ENDS,
    }
    done, watch = drive(monkeypatch, tmp_path, scripts)
    assert done
    assert watch.outcomes["killed"]["state"] == watch.outcomes["fails"]["state"] == "failed"
    assert "signal 9" in watch.outcomes["killed"]["error"] and "memory" in watch.outcomes["killed"]["error"]
    assert "status 3" in watch.outcomes["fails"]["error"]
    assert "no such thing" in watch.outcomes["fails"]["error"]
    assert watch.outcomes["good"]["state"] == "finished"
    # what an earlier try said is not taken for the last words of this one
    _, watch = drive(monkeypatch, tmp_path, {"fails": "import sys; sys.exit(3)"})
    assert "no such thing" not in watch.outcomes["fails"]["error"]


def test_ctrl_c_stops_gently_and_begins_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch()
    ready: list[int] = []

    def interrupt() -> None:
        ready.append(1)
        if len(ready) == 2:
            threading.Timer(0.2, _thread.interrupt_main).start()

    watch.on_progress = interrupt
    done, _ = drive(monkeypatch, tmp_path, dict.fromkeys("abc", WAITS), workers=2, watch=watch)
    assert not done
    assert {name: o["state"] for name, o in watch.outcomes.items()} == {"a": "stopped", "b": "stopped"}


def test_the_second_ctrl_c_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = WAITS.replace(
        "signal.signal(signal.SIGTERM, stop)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    )
    stubborn = stubborn.replace("signal.pause()", "import time; time.sleep(60)")
    watch = Watch()

    def interrupt() -> None:
        threading.Timer(0.2, _thread.interrupt_main).start()
        threading.Timer(1.0, _thread.interrupt_main).start()

    watch.on_progress = interrupt
    started = time.monotonic()
    done, _ = drive(monkeypatch, tmp_path, {"a": stubborn}, watch=watch)
    assert not done and watch.outcomes["a"]["state"] == "stopped" and time.monotonic() - started < 30


def test_gpus_and_processors_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_engines, "visible_gpus", lambda: ["3", "5"])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    environments = [child_environment(slot, 3, None) for slot in range(3)]
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments] == ["3", "5", "3"]
    assert {e["OMP_NUM_THREADS"] for e in environments} == {"2"}
    assert "CUDA_VISIBLE_DEVICES" not in child_environment(0, 1, "cpu")
    assert "CUDA_VISIBLE_DEVICES" not in child_environment(0, 1, "cuda:1")  # means one of all of them
    assert child_environment(0, 99)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert child_environment(0, 3)["OMP_NUM_THREADS"] == "7"


def test_visible_gpus_are_those_the_user_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6")
    assert sweep_engines.visible_gpus() == ["4", "6"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert sweep_engines.visible_gpus() == ["0", "1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert sweep_engines.visible_gpus() == []


def test_reporter_prints_a_line_for_each_point_and_hands_it_on(capsys: pytest.CaptureFixture[str]) -> None:
    noted: list[str] = []
    with Reporter(3, 1, True, lambda o: noted.append(o["point"])) as reporter:
        reporter.begun("a")
        reporter.progress("a", {"phase": "students", "epoch": 1, "epochs": 2})
        rows = [{"student": "KD", "last": 0.5}]
        reporter.ended({"point": "a", "state": "finished", "rows": rows, "notes": ["One was stopped."]})
        reporter.begun("b")
        reporter.ended({"point": "b", "state": "failed", "error": "No memory."})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 of 3 points were finished before."
    assert lines[1].startswith("[2/3] a finished after") and lines[1].endswith(": KD 50.00%")
    assert lines[2] == "  One was stopped."
    assert lines[3].startswith("[2/3] b failed after") and lines[3].endswith(": No memory.")
    assert noted == ["a", "b"]
    with Reporter(1, 0, False, lambda o: None) as reporter:
        reporter.begun("a")
        reporter.ended({"point": "a", "state": "stopped"})
    assert capsys.readouterr().out == ""


def test_wrong_engines_and_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = prepare_sweep({}, tmp_path / "s", **SMALL)
    with pytest.raises(UnknownNameError, match="local"):
        sweep.run(engine="slurm")
    with pytest.raises(ConfigError, match="workers"):
        sweep.run(workers=0)
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not there
    with pytest.raises(ConfigError, match="pip install 'ray"):
        sweep.run(engine="ray")


# ---- real trainings ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_with_a_failing_point_keeps_the_others_and_goes_on(tmp_path: Path) -> None:
    """Two processes share one teacher; a rate that makes the loss overflow fails, and is tried again."""
    grid = {"lr": [0.05, 1e30]}
    fixed = {**SMALL, "teacher": "resnet8", "teacher_epochs": 1, "students": {"alone": "ce", "KD": "kd"}}
    with pytest.raises(StudyError, match=r"1 of 2 points failed.*lr=1e\+30_seed=0: ") as caught:
        kdlab.sweep(grid, tmp_path / "s", workers=2, progress=False, **fixed)
    assert "finite" in str(caught.value)
    sweep = kdlab.load_sweep(tmp_path / "s")
    assert sweep.states() == {"lr=0.05_seed=0": "finished", "lr=1e+30_seed=0": "failed"}
    assert sweep.state == "failed"
    table = sweep.table()
    assert list(table["network"]) == ["alone", "KD"] and set(table["lr"]) == {0.05} and set(table["n"]) == {1}

    alone = kdlab.load_study(sweep.folder / "lr=0.05_seed=0")
    assert alone.state == "finished"
    assert table["last"].tolist() == pytest.approx(alone.table()["last"].tolist()[1:])
    history = sweep.history()
    finished = history[history["point"] == "lr=0.05_seed=0"]
    assert list(history)[:2] == ["point", "grid/lr"] and set(finished["student"]) == {"alone", "KD"}
    assert set(sweep.studies()) <= set(sweep.states())
    cache = Path(os.environ["KDLAB_CACHE"]) / "teachers"
    assert len([f for f in cache.iterdir() if f.name.startswith("resnet8-digits")]) >= 1

    written = result_path(sweep.folder, "lr=0.05_seed=0").stat().st_mtime_ns
    with pytest.raises(StudyError, match="1 of 2 points failed"):
        kdlab.sweep(grid, tmp_path / "s", progress=False, **fixed)
    assert result_path(sweep.folder, "lr=0.05_seed=0").stat().st_mtime_ns == written  # not done again


@pytest.mark.slow
@pytest.mark.parametrize("how", ["terminated", "abandoned"])
def test_a_process_that_is_stopped_leaves_a_study_to_go_on_with(tmp_path: Path, how: str) -> None:
    """By a signal, or because the one who started it is gone."""
    sweep = prepare_sweep({}, tmp_path / "s", **SMALL | {"epochs": 400})
    child = subprocess.Popen(
        sweep_engines.child_command(sweep.folder, "seed=0"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdin is not None and child.stdout is not None
    with child:
        for line in child.stdout:
            if json.loads(line).get("progress", {}).get("step", 0) >= 2:
                break
        if how == "terminated":
            child.send_signal(signal.SIGTERM)
        else:
            child.stdin.close()
            child.stdin = None
        last = json.loads(child.stdout.read().splitlines()[-1])
        assert last["outcome"]["state"] == "stopped"
        assert child.wait(60) == 130
    assert sweep.states() == {"seed=0": "unfinished"}
    study = sweep.studies()["seed=0"]
    assert study.state == "stopped" and len(study.history()) >= 0
    assert (study.folder / "seed-0" / "last.safetensors").exists()


def test_options_of_the_engine_can_be_swept() -> None:
    points = make_points(*plain_grid({"precision": ["fp32", "bf16"]}, {"teacher_views": 2}))
    assert [point.name for point in points] == ["precision=fp32_seed=0", "precision=bf16_seed=0"]
    with pytest.raises(UnknownNameError, match="'options'"):
        plain_grid({"options": [1]}, {})

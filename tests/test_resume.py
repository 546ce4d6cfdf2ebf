"""Whatever happens to a training, it ends as if nothing had: kills, full disks, cut files, two writers."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import kdlab
from kdlab.errors import CheckpointError, StudyError
from kdlab.training.checkpoint import Checkpoints
from kdlab.training.meter import Meter
from kdlab.training.record import RunRecord
from tests.small_study import SMALL, run_to, same, small, weights

# Trains, with every change made to a file counted; the process is killed at the one asked for: before
# it, in its middle (half of what was to be appended; the new file whole but not yet in its place), or
# after it. Prints how many changes there were if it gets to the end. Every training is a process of its
# own, a fork of one that has imported all: that is much quicker than to import anew.
CHILD = """
import json, os, signal, sys, time, traceback
import sklearn.datasets, torch, torchvision
import kdlab
from kdlab.training import files, record, steering

small, students = eval(sys.argv[1]), eval(sys.argv[2])
count = 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def reached():
    global count
    count += 1
    return count == at

replace = os.replace
def replace_or_die(old, new):
    if reached():
        if at % 2:
            die()
        replace(old, new)
        die()
    replace(old, new)

append = files.append_bytes
def append_or_die(path, data):
    if reached():
        if at % 3:
            append(path, data[: len(data) // 2] if at % 3 == 1 else data)
        die()
    append(path, data)

def train():
    os.replace = replace_or_die
    for module in (files, record):
        module.append_bytes = append_or_die
    study = kdlab.Study(**small, students=students, folder=folder)
    if not study.record.commands:
        study.fork("KD", at_step=4, name="forked", method="srrl")
        study.set("KD", "kd", weight=0.5, at_step=5)
        study.drop("alone", at_step=11)
    study.fit(progress=False)

def leave():
    study = kdlab.Study(**small | {"epochs": 2000}, students={"KD": "kd"}, folder=folder).start()
    while study._run is None or study._run.position < 5:
        time.sleep(0.01)
    print(0, flush=True)
    sys.exit()  # and Python puts everything away

for line in sys.stdin:
    folder, at = json.loads(line)
    child = os.fork()
    if not child:
        if at == "leave":
            leave()
        try:
            train()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        print(count, flush=True)
        os._exit(0)
    print(child, flush=True)
    print("end", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
LONG = {**SMALL, "epochs": 4, "seeds": 2, "checkpoint_seconds": 0.05}
STUDENTS = {"alone": "ce", "KD": "kd", "CMKD": "cmkd"}


class Trainings:
    """Trainings in processes of their own, which are killed."""

    def __init__(self, log: Path) -> None:
        self.log = log
        command = [sys.executable, "-c", CHILD, repr(LONG), repr(STUDENTS)]
        with open(log, "wb") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )

    def run(self, folder: Path, at: int | str = -1, after: float = 240) -> int | None:
        """Train, killed at change `at` or after so many seconds; how many changes, if not killed.

        With at="leave" another study of many epochs begins, and Python ends in the midst of it.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([str(folder), at]) + "\n")
        self.process.stdin.flush()
        said = iter(self.process.stdout.readline, "")
        child = int(next(said))
        killer = threading.Timer(after, os.kill, [child, signal.SIGKILL])
        killer.start()
        changes = None
        for line in said:
            if line.startswith("end"):
                break
            changes = int(line)
        killer.cancel()
        status = int(line.split()[1])
        if status not in (0, -signal.SIGKILL):
            raise AssertionError(self.log.read_text()[-3000:])
        return changes if status == 0 else None


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    made = Trainings(tmp_path_factory.mktemp("trainings") / "errors.txt")
    yield made
    made.process.stdin.close()
    made.process.wait(20)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, trainings):
    """The same study, how many changes to files it made, and the seconds it took."""
    folder = tmp_path_factory.mktemp("undisturbed") / "study"
    kdlab.training.get_teacher("resnet8", kdlab.data.load("digits"), epochs=2, device="cpu", progress=False)
    start = time.monotonic()
    changes = trainings.run(folder)
    return kdlab.load_study(folder, device="cpu"), changes, time.monotonic() - start


def assert_equal(one, other):
    """Same weights, same record."""
    assert one.names == other.names
    for name in one.names:
        for seed in one.results()[name]["seed"]:
            seed = int(seed)
            assert same(weights(one, name, seed), weights(other, name, seed)), (name, seed)
            assert same(weights(one, name, seed, "best"), weights(other, name, seed, "best")), (name, seed)
            for key in ("loss", "lr", "grad_norm"):
                np.testing.assert_array_equal(
                    one.record.series(name, key, seed)[1], other.record.series(name, key, seed)[1]
                )
    key = ["seed", "epoch", "student"]
    rows = [s.history().drop(columns="seconds").sort_values(key).reset_index(drop=True) for s in (one, other)]
    pd.testing.assert_frame_equal(*rows, check_exact=True)
    for seed in one.seeds:
        assert one.snapshot_epochs(seed) == other.snapshot_epochs(seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(2))
def test_killed_at_any_change_to_a_file_again_and_again(tmp_path, trainings, undisturbed, start):
    whole, changes, _ = undisturbed
    draw = random.Random(start)
    folder = tmp_path / "killed"
    for _ in range(5):
        if trainings.run(folder, at=draw.randrange(1, changes // 2)) is not None:
            break
    else:
        assert trainings.run(folder) is not None
    assert_equal(whole, kdlab.load_study(folder, device="cpu"))
    assert not [p.name for p in folder.rglob(".*") if p.name != ".lock"]  # what killed writes left behind


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path, trainings, undisturbed):
    whole, _, seconds = undisturbed
    draw = random.Random(0)
    folder = tmp_path / "killed"
    for _ in range(3):
        if trainings.run(folder, after=0.5 * seconds * draw.random()) is not None:
            break
    kdlab.load_study(folder, device="cpu").fit(progress=False)  # in another process than the one killed
    assert_equal(whole, kdlab.load_study(folder, device="cpu"))


def test_a_run_that_ends_between_an_epoch_and_its_row_writes_the_same_row(tmp_path, monkeypatch):
    """The checkpoint then lies behind the epoch's last step, and nothing is trained before the row."""
    settings = dict(students={"CMKD": "cmkd"}, checkpoint_seconds=1e-6)
    whole = small(tmp_path, folder=tmp_path / "whole", **settings).fit(progress=False)
    study = small(tmp_path, **settings)
    with monkeypatch.context() as patched:
        patched.setattr(Meter, "epoch_rows", lambda *_: (_ for _ in ()).throw(OSError("pulled the plug")))
        with pytest.raises(OSError, match="plug"):
            study.fit(progress=False)
    position = Checkpoints(study.folder / "seed-0").load().students["CMKD"]
    assert (position["step"], position["epoch"]) == (3, 1) and not len(study.history())
    again = kdlab.load_study(study.folder, device="cpu").fit(progress=False)
    assert any(column.startswith("detail/") for column in whole.history())
    assert_equal(whole, again)


def test_steps_of_a_fork_that_no_checkpoint_knows_are_not_kept(tmp_path, monkeypatch):
    """Killed when the first values of the fork were written and the checkpoint with it was not yet."""
    settings = dict(students={"KD": "kd"}, checkpoint_seconds=1e-6)

    def forking(name):
        study = small(tmp_path, folder=tmp_path / name, **settings)
        study.fork("KD", at_step=4, name="forked", method="srrl")
        return study

    whole, study, save = forking("whole").fit(progress=False), forking("killed"), Checkpoints.save

    def save_or_die(self, students, *rest):
        if any(s.name == "forked" and s.step > 4 for s in students):
            raise OSError("pulled the plug")
        save(self, students, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", save_or_die)
        patched.setattr(Checkpoints, "keep", lambda *_: None)
        with pytest.raises(OSError, match="plug"):
            study.fit(progress=False)
    # as before its first checkpoint, the fork is unknown there
    assert list(Checkpoints(study.folder / "seed-0").load().students) == ["KD"]
    assert len(kdlab.load_study(study.folder).record.series("forked", "loss")[0])
    kdlab.load_study(study.folder, device="cpu").fit(progress=False)
    assert_equal(whole, kdlab.load_study(study.folder, device="cpu"))


def test_every_student_has_a_file_of_its_own(tmp_path):
    record = RunRecord(tmp_path)
    for name in ("a", "b", "c"):
        record.declare(name, ["loss"])
        record.add_steps(name, 0, np.full((2, 1), ord(name)))
    record.write_steps()
    record.go_back({"a": (2, 0), "c": (1, 0)})
    record.declare("d", ["loss"])
    record.add_steps("d", 0, np.full((1, 1), ord("d")))
    record.write_steps()
    again = RunRecord(tmp_path)
    again.load()
    held = {name: again.series(name, "loss")[1].tolist() for name in ("a", "b", "c", "d")}
    assert held == {"a": [97.0, 97.0], "b": [], "c": [99.0], "d": [100.0]}


def test_a_full_disk_stops_with_advice_and_loses_nothing(tmp_path):
    whole = small(tmp_path, folder=tmp_path / "whole", epochs=6).fit(progress=False)
    study = small(tmp_path, epochs=6)
    run_to(study, 7)
    study.stop()
    study.wait(20)
    before = (study.folder / "seed-0" / "last.safetensors").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    study.start(paused=True)
    study.call(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))).result(20)
    try:
        study.play()
        assert study.wait(60)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert study.state == "failed"
    assert isinstance(study.error, StudyError) and "Make room" in str(study.error)
    assert (study.folder / "seed-0" / "last.safetensors").read_bytes() == before
    again = kdlab.load_study(study.folder, device="cpu").fit(progress=False)
    assert same(weights(again, "KD"), weights(whole, "KD"))


def test_a_record_cut_short_costs_values_but_no_weights(tmp_path):
    whole = small(tmp_path, folder=tmp_path / "whole").fit(progress=False)
    study = small(tmp_path)
    run_to(study, 5)
    study.stop()
    study.wait(20)
    steps = study.folder / "seed-0" / "steps"
    index = json.loads((steps / "index.json").read_text())
    path = steps / index["KD"]["file"]
    width = len(index["KD"]["columns"])
    os.truncate(path, 4 * width * 2 + 7)  # two rows and a bit
    with open(study.folder / "seed-0" / "epochs.jsonl", "ab") as file:
        file.write(b'{"seed": 0, "epo')  # a last row that was never finished
    with pytest.warns(UserWarning, match=r"'KD'.*cut short.*from step 2 .*not affected"):
        again = kdlab.load_study(study.folder, device="cpu").fit(progress=False)
    values = again.record.series("KD", "loss")[1]
    assert np.isnan(values[2:5]).all() and np.isfinite(values[[0, 1, 5, 6, 7, 8]]).all()
    assert same(weights(again, "KD"), weights(whole, "KD"))
    assert len(again.history()) == 6 and len(kdlab.load_study(study.folder).history()) == 6


def test_other_formats_and_versions_are_named(tmp_path):
    study = small(tmp_path)
    run_to(study, 2)
    study.stop()
    study.wait(20)
    path = study.folder / "study.json"
    record = json.loads(path.read_text())
    record["environment"]["torch"] = "1.0"
    path.write_text(json.dumps(record))
    with pytest.warns(UserWarning, match=r"torch 1\.0 \(now .*use the versions of then"):
        kdlab.load_study(study.folder, device="cpu")
    for number in (1, 99):
        record["format"] = number
        path.write_text(json.dumps(record))
        with pytest.raises(StudyError, match=rf"format {number} .*the version of kdlab that wrote it"):
            kdlab.load_study(study.folder)


def test_another_checkpoint_format_is_refused_before_anything_is_changed(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    study = small(tmp_path)
    run_to(study, 2)
    study.stop()
    study.wait(20)
    path = study.folder / "seed-0" / "last.safetensors"
    with safe_open(path, framework="pt") as file:
        info = json.loads(file.metadata()["info"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={"info": json.dumps({**info, "format": 7})})
    held = {p: p.read_bytes() for p in study.folder.rglob("*") if p.is_file()}
    with pytest.raises(CheckpointError, match="checkpoint format 7"):
        kdlab.load_study(study.folder, device="cpu").fit(progress=False)
    assert {p: p.read_bytes() for p in study.folder.rglob("*") if p.is_file()} == held


def test_a_missing_teacher_is_named(tmp_path):
    study = small(tmp_path)
    run_to(study, 2)
    study.stop()
    study.wait(20)
    (study.folder / "teachers" / "0.safetensors").unlink()
    again = kdlab.load_study(study.folder, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.fit(progress=False)  # the cache has it
    assert again.state == "finished"


def test_python_that_ends_while_training_leaves_a_checkpoint(tmp_path, trainings):
    assert trainings.run(tmp_path / "s", at="leave") is not None, "it had to be killed"
    study = kdlab.load_study(tmp_path / "s", device="cpu")
    assert study.state == "stopped" and len(study.record.series("KD", "loss")[0]) >= 5

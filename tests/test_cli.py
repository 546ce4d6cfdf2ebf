"""The command line: what flags and study files become, what is printed, and the exit status."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import kdlab
from kdlab.cli import build_parser, dashboard, lab, main
from kdlab.cli.arguments import check_keys, study_arguments, sweep_arguments
from kdlab.cli.text import table
from kdlab.errors import ConfigError, DataError, UnknownNameError
from kdlab.training import Options
from tests.small_study import small

COMMANDS = (
    *("demo", "run", "sweep", "report", "show", "teacher", "methods", "models", "datasets", "doctor", "lab"),
    *("dashboard", "export"),
)


def arguments_of(*words: str) -> dict[str, Any]:
    return study_arguments(build_parser().parse_args(["run", *words]))


def fail_with(error: BaseException) -> Any:
    def function(*_: Any, **__: Any) -> None:
        raise error

    return function


def run_python(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=cwd)


# ---- help and exit status ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: kdlab {command}")
    assert command in build_parser().format_help()


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from kdlab.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print('HEAVY', {'torch', 'numpy', 'plotly', 'pandas'} & set(sys.modules))"
    result = run_python("-c", code)
    assert result.stdout.strip().endswith("HEAVY set()"), result.stdout + result.stderr


def test_no_command_prints_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "kdlab demo" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"kdlab {kdlab.__version__}"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (DataError("There is no file x.npz; give another."), 2, "kdlab: error: There is no file x.npz"),
        (
            PermissionError(13, "Permission denied", "/nowhere"),
            1,
            "kdlab: error: [Errno 13] Permission denied",
        ),
        (ModuleNotFoundError("No module named 'captum'", name="captum"), 1, "kdlab doctor"),
        (ZeroDivisionError("division by zero"), 1, "ZeroDivisionError: division by zero"),
        (KeyboardInterrupt(), 130, "kdlab: stopped"),
    ],
)
def test_errors_are_a_sentence_and_a_status(
    error: BaseException,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("kdlab.models.table", fail_with(error), raising=False)
    assert main(["models"]) == status
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err
    with pytest.raises(type(error)):
        main(["models", "--debug"])
    with pytest.raises(type(error)):
        main(["--debug", "models"])


def test_closed_pipe_is_no_error() -> None:
    command = f"'{sys.executable}' -m kdlab --help | head -n 1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in result.stderr
    assert result.stdout.startswith("usage: kdlab")


# ---- arguments of a study ---------------------------------------------------------------------------


def test_flags_become_arguments() -> None:
    found = arguments_of(
        *("--data", "cifar100", "--teacher", "resnet32x4", "--student", "resnet8x4"),
        *("--method", "alone=ce", "--method", "both = kd + at", "--method", "kd"),
        *("--epochs", "5", "--seeds", "3", "--lr", "0.1", "--batch-size", "32", "--labels-per-class", "10"),
        *("--recipe", "cmkd", "--device", "cpu", "--folder", "out", "--data-root", "sets"),
    )
    assert found == {
        "data": "cifar100",
        "teacher": "resnet32x4",
        "student": "resnet8x4",
        "students": {"alone": "ce", "both": "kd + at", "kd": "kd"},
        "epochs": 5,
        "seeds": 3,
        "lr": 0.1,
        "batch_size": 32,
        "labels_per_class": 10,
        "recipe": "cmkd",
        "device": "cpu",
        "folder": "out",
        "data_root": "sets",
    }
    check_keys(found, kdlab.Study)


def test_seeds_and_teachers_may_be_several() -> None:
    assert arguments_of("--seeds", "0,4,7")["seeds"] == [0, 4, 7]
    assert arguments_of("--teacher", "vgg13=w.pth")["teacher"] == ("vgg13", "w.pth")
    assert arguments_of("--teacher", "a", "--teacher", "b=w")["teacher"] == ["a", ("b", "w")]


STUDY_FILE = """
data = "digits"
teacher = "resnet20"
student = "resnet8"
seed = 4

[students]
alone = "ce"
soft = { key = "kd", params = { temperature = 8 } }
"""


def test_study_file_and_flags_on_top(tmp_path: Path) -> None:
    file = tmp_path / "first.toml"
    file.write_text(STUDY_FILE)
    plain = arguments_of(str(file))
    assert plain["folder"] == "runs/first"
    assert plain["seed"] == 4
    assert plain["students"] == {"alone": "ce", "soft": {"key": "kd", "params": {"temperature": 8}}}
    changed = arguments_of(
        str(file), "--data", "shapes", "--seeds", "2", "--method", "alone=kd", "--method", "at"
    )
    assert changed["data"] == "shapes"
    assert "seed" not in changed
    assert changed["seeds"] == 2
    assert changed["students"] == {**plain["students"], "alone": "kd", "at": "at"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('data = "digits"\nteacher resnet20', "line 2"),
        (b"\xff\xfe", "is not TOML"),
        (None, "cannot be read"),
    ],
)
def test_unreadable_study_files_are_named(tmp_path: Path, content: str | bytes | None, said: str) -> None:
    file = tmp_path / "broken.toml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=r"broken\.toml") as caught:
        arguments_of(str(file))
    assert said in str(caught.value)


def test_folder_given_as_study_file_names_resume(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kdlab run --resume"):
        arguments_of(str(tmp_path))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no study to run"),
        (["--resume", "x", "--epochs", "3"], "--resume takes the study from its folder"),
        (["--resume", "x", "--method", "kd"], "--resume takes the study from its folder"),
        (["--method", "=kd"], "NAME=METHOD"),
        (["--method", "KD=kd", "--method", "KD=at"], "Two students are named 'KD'"),
    ],
)
def test_wrong_combinations_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *words]) == 2
    assert said in capsys.readouterr().err


def test_unknown_key_of_a_study_file_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'epochs'"):
        check_keys({"epoch": 3}, kdlab.Study)


def test_resume_may_change_the_device() -> None:
    assert arguments_of("--resume", "x", "--device", "cpu", "--data-root", "d") == {
        "device": "cpu",
        "data_root": "d",
    }


@pytest.mark.parametrize("words", [["--seeds", "x"], ["--epochs", "1.5"], ["--lr", "fast"], ["--nonsense"]])
def test_argparse_refuses_what_is_no_number(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", *words])
    assert stop.value.code == 2
    assert "usage: kdlab" in capsys.readouterr().err


# ---- arguments of a sweep ---------------------------------------------------------------------------


def sweep_of(*words: str) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    return sweep_arguments(build_parser().parse_args(["sweep", *words]))


def test_flags_become_a_grid_and_arguments_of_all_points() -> None:
    words = ["--grid", "lr=0.05,0.1", "--grid", "labels-per-class=5,none", "--students", "alone=ce, KD=kd"]
    words += [
        "--students",
        "at",
        "--data",
        "digits",
        "--teacher",
        "resnet20",
        "--seeds",
        "3",
        "--epochs",
        "2",
    ]
    grid, same = sweep_of(*words)
    assert grid == {"lr": [0.05, 0.1], "labels_per_class": [5, None]}
    assert same == {
        "students": {"alone": "ce", "KD": "kd", "at": "at"},
        "data": "digits",
        "teacher": "resnet20",
        "seeds": 3,
        "epochs": 2,
    }
    assert sweep_of("--grid", "student=resnet8,wrn_16_1") == ({"student": ["resnet8", "wrn_16_1"]}, {})
    assert sweep_of("--grid", "deterministic=true,false")[0] == {"deterministic": [True, False]}


def test_study_file_may_hold_the_grid(tmp_path: Path) -> None:
    file = tmp_path / "rates.toml"
    file.write_text(STUDY_FILE + "\n[grid]\nlr = [0.05, 0.1]\nbatch_size = [32, 64]\n")
    grid, same = sweep_of("--study", str(file))
    assert grid == {"lr": [0.05, 0.1], "batch_size": [32, 64]}
    assert same["seed"] == 4 and same["folder"] == "runs/rates"
    assert same["students"]["soft"] == {"key": "kd", "params": {"temperature": 8}}
    grid, same = sweep_of("--study", str(file), "--grid", "lr=1", "--grid", "student=a,b", "--seeds", "2")
    assert grid == {"lr": [1], "batch_size": [32, 64], "student": ["a", "b"]}
    assert "student" not in same and same["seeds"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to sweep"),
        (["--grid", "lr"], "NAME=VALUE"),
        (["--grid", "lr="], "NAME=VALUE"),
        (["--grid", "lr=1", "--grid", "lr=2"], "names lr twice"),
        (["--grid", "lr=1", "--lr", "2"], "given in the grid and again beside it"),
        (["--grid", "rate=1,2"], "no argument of a study named 'rate'"),
        (["--grid", "lr=-1", "--data", "digits"], "Point lr=-1_seed=0 cannot be trained"),
        (["--students", "KD=kd,KD=at"], "Two students are named 'KD'"),
        (["--resume", "x", "--grid", "lr=1"], "--resume takes the sweep from its folder"),
        (["--resume", "x"], "holds no sweep"),
        (["show", "x"], "holds no sweep"),
    ],
)
def test_wrong_sweeps_are_refused(
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


class FakeSweep:
    """Stands for a sweep that ends in a given state."""

    def __init__(self, state: str, errors: dict[str, str] | None = None) -> None:
        self.folder, self.state, self.errors = Path("runs/my sweep"), state, errors or {}
        self.notes = {"seed=1": ["Student 'KD' was stopped."]}
        self.asked: dict[str, Any] = {}
        self.points = [type("Point", (), {"name": "seed=0"})]

    def run(self, **how: Any) -> None:
        self.asked = how

    def states(self) -> dict[str, str]:
        return {"seed=0": "finished", "seed=1": "finished", "seed=2": "new"}

    def table(self) -> Any:
        import pandas as pd

        return pd.DataFrame({"lr": [0.05], "network": ["KD"], "n": [2], "last": [61.25]})


@pytest.mark.parametrize(
    ("state", "errors", "status", "said"),
    [
        ("finished", {}, 0, ""),
        ("unfinished", {}, 130, "to go on: kdlab sweep --resume 'runs/my sweep'"),
        ("failed", {"seed=2": "No memory."}, 1, "seed=2 failed: No memory."),
    ],
)
def test_a_sweep_prints_its_table_and_tells_how_it_ended(
    state: str,
    errors: dict[str, str],
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from kdlab.training import sweeps

    fake = FakeSweep(state, errors)
    monkeypatch.setattr(sweeps, "load_sweep", lambda folder: fake)
    assert main(["sweep", "--resume", "x", "--workers", "3", "-q"]) == status
    assert fake.asked == {
        "engine": "local", "workers": 3, "num_cpus": 1, "num_gpus": None, "progress": False,
    }  # fmt: skip
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "Sweep: runs/my sweep"
    assert printed.out.splitlines()[-1].split() == ["0.0500", "KD", "2", "61.25"]
    assert said in printed.err and "seed=1: Student 'KD' was stopped." in printed.err


def test_a_sweep_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from kdlab.training import sweeps

    monkeypatch.setattr(sweeps, "load_sweep", lambda folder: FakeSweep("unfinished"))
    assert main(["sweep", "show", "x", "--debug"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "3 points: 2 finished, 1 new"


# ---- tables -----------------------------------------------------------------------------------------


def test_table_aligns_numbers_right_and_words_left() -> None:
    text = table([{"name": "a", "size": 7, "acc": 91.234}, {"name": "long", "size": 1234, "acc": 8.5}])
    assert text.splitlines() == [
        "name  size    acc",
        "----  ----  -----",
        "a        7  91.23",
        "long  1234   8.50",
    ]


def test_table_leaves_missing_values_blank() -> None:
    text = table([{"a": None, "b": float("nan"), "c": "x"}, {"a": 1, "b": 2.0, "c": ("y", "z")}])
    assert [line.split() for line in text.splitlines()[2:]] == [["x"], ["1", "2", "y,", "z"]]
    assert table([], ["a"]).splitlines() == ["a", "-"]


def test_table_wraps_its_last_column() -> None:
    text = table([{"key": "k", "text": "many words that do not fit on one line at all"}], width=30)
    assert max(map(len, text.splitlines())) <= 30
    assert (
        " ".join(line[5:] for line in text.splitlines()[2:])
        == "many words that do not fit on one line at all"
    )


# ---- lists ------------------------------------------------------------------------------------------


def test_lists_show_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    methods = capsys.readouterr()
    assert {line.split()[0] for line in methods.out.splitlines()[2:]} == set(kdlab.methods.names())
    assert methods.err == ""  # remarks are for terminals
    assert main(["models"]) == 0
    models = capsys.readouterr().out
    assert all(name in models for name in ("resnet8x4", "wrn_40_2"))
    assert main(["datasets"]) == 0
    datasets = capsys.readouterr().out
    assert all(name in datasets for name in ("digits", "cifar100"))


def test_one_method_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "cmkd"]) == 0
    text = capsys.readouterr().out
    assert all(term in text for term in kdlab.methods.make("cmkd").terms)
    assert main(["methods", "cmdk"]) == 2
    assert "'cmkd'" in capsys.readouterr().err


def test_download_of_an_unknown_set_names_the_nearest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["datasets", "--download", "cifar10O", "--root", str(tmp_path)]) == 2
    assert "cifar10" in capsys.readouterr().err


# ---- studies ----------------------------------------------------------------------------------------


class FakeStudy:
    """Stands for a study whose training ends in a given state, or with a given error."""

    def __init__(self, state: str = "finished", error: BaseException | None = None) -> None:
        self.folder, self.state, self.error = Path("runs/my study"), state, error
        self.notes, self.failed = ["", ""], list[int]()

    def fit(self, progress: bool, *, tensorboard: bool = False) -> None:
        if self.error is not None:
            raise self.error

    def table(self) -> Any:
        import pandas as pd

        return pd.DataFrame({"network": ["alone", "KD"], "note": self.notes, "last": [50.0, 61.25]})

    def failures(self) -> list[dict[str, Any]]:
        return [{"student": "KD", "seed": seed, "text": "Student 'KD' was stopped."} for seed in self.failed]


@pytest.mark.parametrize("study", [FakeStudy("stopped"), FakeStudy(error=KeyboardInterrupt())])
def test_stopped_study_says_how_to_go_on(
    study: FakeStudy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kdlab, "load_study", lambda folder, **_: study, raising=False)
    assert main(["run", "--resume", "anything"]) == 130
    assert "kdlab run --resume 'runs/my study'" in capsys.readouterr().err


def test_finished_study_prints_its_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kdlab, "load_study", lambda folder, **_: FakeStudy(), raising=False)
    assert main(["run", "--resume", "anything"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Study: runs/my study"
    assert [line.split() for line in lines[3:]] == [["alone", "50.00"], ["KD", "61.25"]]


def test_students_that_a_guard_stopped_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = FakeStudy()
    study.notes, study.failed = ["", "stopped by a guard in epoch 2"], [0, 1]
    monkeypatch.setattr(kdlab, "load_study", lambda folder, **_: study, raising=False)
    assert main(["run", "--resume", "anything", "--quiet"]) == 0
    told = capsys.readouterr()
    assert told.err.splitlines() == ["kdlab: Student 'KD' was stopped."]  # once, not for each seed
    assert "stopped by a guard in epoch 2" in told.out
    assert main(["run", "--resume", "anything"]) == 0
    assert "was stopped" not in capsys.readouterr().err  # a study that shows its progress tells it itself


def test_the_engines_options_reach_the_study(tmp_path: Path) -> None:
    words = ["run", "--data", "digits", "--precision", "bf16", "--teacher-precision", "fp32"]
    words += ["--teacher-views", "3", "--compile", "default", "--deterministic", "--keep", "2,5"]
    found = study_arguments(build_parser().parse_args(words))
    check_keys(found, kdlab.Study)
    options = {key: value for key, value in found.items() if key != "data"}
    assert options == {
        "precision": "bf16",
        "teacher_precision": "fp32",
        "teacher_views": 3,
        "compile": "default",
        "deterministic": True,
        "keep": [2, 5],
    }
    made = Options.of(options)
    assert (made.precision, made.keep, made.deterministic) == ("bf16", (2, 5), True)
    assert (
        study_arguments(build_parser().parse_args(["run", "--data", "a", "--keep", "all"]))["keep"] == "all"
    )
    assert study_arguments(build_parser().parse_args(["run", "--data", "a"])) == {"data": "a"}
    with pytest.raises(ConfigError, match="precision"):
        check_keys({"precison": "bf16"}, kdlab.Study)
    file = tmp_path / "study.toml"
    file.write_text('data = "digits"\nprecision = "bf16"\n')
    check_keys(study_arguments(build_parser().parse_args(["run", str(file)])), kdlab.Study)


@pytest.mark.slow
def test_a_study_with_notes_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = small(tmp_path, students={"alone": "ce", "KD": kdlab.Student("kd", lr=1e18)}, epochs=1)
    study.fork("alone", at_step=1, name="twin").result(10)
    study.fit(progress=False)
    assert main(["show", str(study.folder)]) == 0
    out = capsys.readouterr().out
    assert "finished, epoch 1 of 1" in out and "lr 1e+18" in out
    assert "By hand: twin: forked from alone (epoch 1, step 1, seed 0)" in out
    assert "Note: Student 'KD' was stopped at step" in out


@pytest.mark.slow
def test_a_real_study_is_run_resumed_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From flags to a folder to a report; the first time as a process of its own, as a user would."""
    monkeypatch.chdir(tmp_path)
    words = ["run", "--data", "digits", "--teacher", "resnet8", "--student", "resnet8", "--epochs", "1"]
    words += ["--labels-per-class", "10", "--method", "alone=ce", "--method", "KD=kd", "--folder", "study"]
    first = run_python("-m", "kdlab", *words, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "KD" in first.stdout

    assert main(["run", "--resume", "study", "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == first.stdout.splitlines()[-2:]
    assert main([*words, "--lr", "0.01"]) == 2
    assert "already holds another study" in capsys.readouterr().err
    assert main(["report", "study", "-o", "page.html"]) == 0
    assert capsys.readouterr().out.strip() == "page.html"
    assert "<html" in (tmp_path / "page.html").read_text(encoding="utf-8")[:2000]


@pytest.mark.slow
def test_a_real_sweep_is_stopped_and_gone_on_with(tmp_path: Path) -> None:
    """A process of its own gets Ctrl-C, stops with its children, and the same sweep goes on."""
    words = ["-m", "kdlab", "sweep", "--data", "digits", "--student", "resnet8", "--epochs", "15"]
    words += ["--students", "alone=ce", "--grid", "batch-size=8,16", "--labels-per-class", "20"]
    words += ["--folder", "sweep", "--device", "cpu", "--workers", "2"]
    first = subprocess.Popen(
        [sys.executable, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    rows = tmp_path / "sweep" / "batch_size=8_seed=0" / "seed-0" / "epochs.jsonl"
    deadline = time.monotonic() + 120
    while not rows.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=120)
    assert first.returncode == 130, out + err
    assert "kdlab sweep --resume" in err and "batch_size=8_seed=0 stopped after" in out
    last = run_python("-m", "kdlab", "sweep", "--resume", "sweep", "--workers", "2", "-q", cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    shown = run_python("-m", "kdlab", "sweep", "show", "sweep", cwd=tmp_path)
    assert shown.returncode == 0 and shown.stdout.splitlines()[0] == "2 points: 2 finished"
    assert shown.stdout.splitlines()[1:] == last.stdout.splitlines()[1:]
    assert [line.split()[:4] for line in shown.stdout.splitlines()[3:]] == [
        ["8", "alone", "1", "15"],
        ["16", "alone", "1", "15"],
    ]


@pytest.mark.slow
def test_teacher_is_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KDLAB_CACHE", str(tmp_path))
    words = ["teacher", "resnet8", "--data", "digits", "--epochs", "1"]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert "images/s" in first
    assert main(words) == 0
    again = capsys.readouterr().out
    assert "images/s" not in again
    assert again.splitlines()[-1] == first.splitlines()[-1]  # the hash of the weights
    assert main(["teacher", "resnet9", "--data", "digits"]) == 2
    assert "resnet8" in capsys.readouterr().err


# ---- lab --------------------------------------------------------------------------------------------


def test_lab_opens_the_checkouts_own_notebooks(checkout: Path) -> None:
    if not (checkout / "notebooks" / lab.FIRST).exists():
        pytest.skip("this checkout has no notebooks")
    assert lab.find_notebook(None) == checkout / "notebooks" / lab.FIRST
    assert lab.find_notebook("00_start_here") == checkout / "notebooks" / lab.FIRST
    with pytest.raises(UnknownNameError, match=r"00_start_here\.ipynb"):
        lab.find_notebook("00_start_her")


def test_lab_opens_any_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.ipynb"
    mine.write_text("{}")
    assert lab.find_notebook(str(mine)) == mine


def test_installed_notebooks_are_copied_and_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "_notebooks"
    (package / "images").mkdir(parents=True)
    (package / lab.FIRST).write_text("new")
    (package / "images" / "a.svg").write_text("picture")
    monkeypatch.setattr(lab, "notebook_folder", lambda: (package, True))
    monkeypatch.chdir(tmp_path)
    copied = lab.find_notebook(None)
    assert copied == tmp_path / "kdlab-notebooks" / lab.FIRST
    assert copied.read_text() == "new"
    assert (tmp_path / "kdlab-notebooks" / "images" / "a.svg").read_text() == "picture"
    copied.write_text("the user's work")
    assert lab.find_notebook(None).read_text() == "the user's work"


def test_lab_command_fits_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    command = lab.jupyter_command(Path("/c/notebooks/a.ipynb"), ["--port=9999"])
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert {"--allow-root", "--no-browser", "--port=9999", "--ServerApp.root_dir=/c"} <= set(command)
    assert "--LabApp.default_url=/lab/tree/notebooks/a.ipynb" in command
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("DISPLAY", ":0")
    command = lab.jupyter_command(Path("/c/mine/a.ipynb"), [])
    assert not {"--allow-root", "--no-browser"} & set(command)
    assert "--ServerApp.root_dir=/c/mine" in command


def test_lab_hands_the_rest_to_jupyter_and_outlives_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[list[str]] = []

    class FakeProcess(contextlib.nullcontext):
        """Gets Ctrl-C once, then ends with status 3."""

        def __init__(self, command: list[str], env: Any) -> None:
            super().__init__(self)
            asked.append(command)
            self.ends: list[Any] = [KeyboardInterrupt(), 3]

        def wait(self) -> int:
            end = self.ends.pop(0)
            if isinstance(end, BaseException):
                raise end
            return int(end)

    monkeypatch.setattr(lab.subprocess, "Popen", FakeProcess)
    monkeypatch.setattr(lab, "find_notebook", lambda name: tmp_path / (name or lab.FIRST))
    assert main(["lab", "--", "--no-browser"]) == 3
    assert main(["lab", "b.ipynb", "--", "--port=1"]) == 3
    assert asked[0][4].endswith(f"/{lab.FIRST}")
    assert asked[0][-1] == "--no-browser"
    assert asked[1][4].endswith("/b.ipynb")
    assert asked[1][-1] == "--port=1"


# ---- the dashboard -------------------------------------------------------------------------------------


def test_a_dashboard_is_a_page_with_the_lab_of_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small(tmp_path)
    folder = study.folder
    with pytest.raises(ConfigError, match="neither the folder of a study nor a study file"):
        dashboard.study_code(tmp_path / "nothing", None)
    (tmp_path / "mine.toml").write_text('data = "digits"\nepochs = 2\n[students]\nalone = "ce"\n')
    code = dashboard.study_code(tmp_path / "mine.toml", "cpu")
    space: dict[str, Any] = {"kdlab": kdlab}
    exec(code, space)
    assert space["study"].names == ["alone"] and space["study"].epochs == 2
    assert Path(space["study"].folder).is_absolute(), "the page runs elsewhere"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text("{}")
    page = dashboard.write_page(tmp_path, dashboard.study_code(folder, None), folder)
    source = "".join(json.loads(page.read_text())["cells"][0]["source"])
    assert f"load_study({str(folder)!r})" in source and source.endswith("study.lab()")
    asked: list[list[str]] = []
    monkeypatch.setattr(dashboard, "serve", lambda command, env: asked.append(command) or 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    options = ["--theme", "dark", "--port=9000", "--no-browser", "--", "--Voila.ip=0.0.0.0"]
    assert main(["dashboard", str(folder), *options]) == 0
    assert asked[0][1:3] == ["-m", "voila"] and asked[0][-1] == "--Voila.ip=0.0.0.0"
    assert {"--port=9000", "--theme=dark", "--no-browser"} <= set(asked[0])


def test_a_dashboard_without_voila_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["dashboard", str(tmp_path)]) == 2
    assert 'pip install "kdlab[dashboards]"' in capsys.readouterr().err

"""What TensorBoard is told: read back from the event files, also after a run was resumed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdlab.errors import ConfigError
from kdlab.training.tensorboard import TensorBoardListener, run_name

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="the package tensorboard is not installed"
)
COLUMNS = ["loss", "train_correct", "grad_norm", "lr", "term/ce", "term/kd", "factor/ce", "factor/kd"]


def block(first: int, count: int, **changes: float) -> np.ndarray:
    """Rows whose loss is the number of the step, counted from 1."""
    rows = np.tile(np.array([0.0, 0.5, 2.0, 0.05, 1.5, 0.25, 1.0, 4.0], dtype=np.float32), (count, 1))
    rows[:, 0] = np.arange(first + 1, first + count + 1)
    for name, value in changes.items():
        rows[:, COLUMNS.index(name.replace("__", "/"))] = value
    return rows


def epoch_row(student: str, epoch: int, step: int, **more: Any) -> dict[str, Any]:
    return {
        "seed": 0,
        "epoch": epoch,
        "step": step,
        "student": student,
        "seconds": 1.0,
        "lr": 0.05,
        "train_loss": 1.25,
        "train_accuracy": 0.5,
        "val_accuracy": 0.25,
        "test_accuracy": 0.75,
        "term/ce": 1.0,
        **more,
    }


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    return accumulator.Reload()


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(e.step, round(e.value, 5)) for e in events(folder).Scalars(tag)]


def texts(folder: Path, tag: str) -> list[tuple[int, str]]:
    found = events(folder).Tensors(f"{tag}/text_summary")
    return [(e.step, e.tensor_proto.string_val[0].decode()) for e in found]


@needs_tensorboard
def test_steps_and_epochs_of_each_student(tmp_path: Path) -> None:
    listener = TensorBoardListener(tmp_path / "seed-3")
    for student in ("alone", "KD"):
        listener.steps(student, COLUMNS, 0, block(0, 2))
        listener.steps(student, COLUMNS, 2, block(2, 1))
        listener.epoch(epoch_row(student, 1, 3, **{"side/pseudo": 0.125, "val_loss": 2.5}))
    listener.close()
    for student in ("alone", "KD"):
        run = tmp_path / "seed-3" / student
        assert scalars(run, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
        assert scalars(run, "term/kd") == [(1, 0.25), (2, 0.25), (3, 0.25)]
        assert scalars(run, "weighted/kd") == [(1, 1.0), (2, 1.0), (3, 1.0)]
        assert scalars(run, "grad_norm")[0] == (1, 2.0) and scalars(run, "lr")[0] == (1, 0.05)
        for tag, value in {
            "train/loss": 1.25,
            "train/accuracy": 0.5,
            "val/accuracy": 0.25,
            "val/loss": 2.5,
            "test/accuracy": 0.75,
            "side/pseudo": 0.125,
            "epoch": 1.0,
        }.items():
            assert scalars(run, tag) == [(3, value)], tag
        assert set(events(run).Tags()["scalars"]) == {
            "loss", "grad_norm", "lr", "term/ce", "term/kd", "weighted/ce", "weighted/kd", "train/loss",
            "train/accuracy", "val/accuracy", "val/loss", "test/accuracy", "side/pseudo", "epoch",
        }  # fmt: skip


@needs_tensorboard
@pytest.mark.parametrize("closed", [True, False], ids=["stopped", "killed"])
def test_a_resumed_run_shows_nothing_twice(tmp_path: Path, closed: bool) -> None:
    """The first process got to step 6, past its checkpoint at step 4, where epoch 2 ended."""
    first = TensorBoardListener(tmp_path)
    first.steps("KD", COLUMNS, 0, block(0, 4))
    first.epoch(epoch_row("KD", 1, 2))
    first.epoch(epoch_row("KD", 2, 4))
    first.steps("KD", COLUMNS, 4, block(4, 2, loss=-1.0))
    first.epoch(epoch_row("KD", 3, 6, val_accuracy=0.0))
    if closed:
        first.close()
    else:
        first._writers["KD"].flush()

    second = TensorBoardListener(tmp_path)
    second.steps("KD", COLUMNS, 4, block(4, 3))
    second.epoch(epoch_row("KD", 3, 6))
    second.close()
    run = tmp_path / "KD"
    assert len(list(run.iterdir())) == 2  # the files of both processes are there
    assert scalars(run, "loss") == [(n, float(n)) for n in range(1, 8)]
    assert scalars(run, "val/accuracy") == [(2, 0.25), (4, 0.25), (6, 0.25)]


@needs_tensorboard
def test_a_run_that_begins_again_hides_what_was(tmp_path: Path) -> None:
    """Killed before its first checkpoint; then, in one process, taken back to step 1."""
    first = TensorBoardListener(tmp_path)
    first.steps("KD", COLUMNS, 0, block(0, 5, loss=-1.0))
    first.close()
    second = TensorBoardListener(tmp_path)
    second.steps("KD", COLUMNS, 0, block(0, 3, loss=-2.0))
    second.steps("KD", COLUMNS, 1, block(1, 2))
    second.close()
    run = tmp_path / "KD"
    assert scalars(run, "loss") == [(1, -2.0), (2, 2.0), (3, 3.0)]


@needs_tensorboard
def test_a_term_that_is_off_leaves_a_gap(tmp_path: Path) -> None:
    listener = TensorBoardListener(tmp_path)
    listener.steps("KD", COLUMNS, 0, block(0, 1, term__kd=float("nan"), factor__kd=0.0))
    listener.steps("KD", COLUMNS, 1, block(1, 1))
    listener.close()
    run = tmp_path / "KD"
    assert scalars(run, "term/kd") == [(2, 0.25)] and scalars(run, "weighted/kd") == [(2, 1.0)]
    assert len(scalars(run, "loss")) == 2


@needs_tensorboard
def test_commands_are_texts_that_survive_a_resume(tmp_path: Path) -> None:
    def mark(step: int, text: str, student: str = "KD") -> dict[str, Any]:
        return {"kind": "set", "student": student, "seed": 0, "step": step, "epoch": 2, "text": text}

    first = TensorBoardListener(tmp_path)
    first.steps("KD", COLUMNS, 0, block(0, 8))
    first.command(mark(6, "kd weight 2"))
    first.command(mark(6, "kd off"))
    first.command(mark(6, "ce weight 3", "alone"))
    first.close()
    second = TensorBoardListener(tmp_path)
    second.steps("KD", COLUMNS, 4, block(4, 4))
    second.command(mark(7, "kd on"))
    second.close()
    run = tmp_path
    assert texts(run, "commands/KD") == [
        (7, "- epoch 2, step 7: kd weight 2"),
        (7, "- epoch 2, step 7: kd weight 2\n- epoch 2, step 7: kd off"),
        (8, "- epoch 2, step 8: kd on"),
    ]
    assert texts(run, "commands/alone") == [(7, "- epoch 2, step 7: ce weight 3")]
    assert len(scalars(run / "KD", "loss")) == 8


@needs_tensorboard
def test_long_runs_are_thinned_out(tmp_path: Path) -> None:
    listener = TensorBoardListener(tmp_path)
    listener.steps("KD", COLUMNS[:1], 0, block(0, 950)[:, :1])
    listener.steps("KD", COLUMNS[:1], 950, block(950, 200)[:, :1])
    listener.steps("KD", COLUMNS[:1], 9995, block(9995, 210)[:, :1])
    listener.steps("all", COLUMNS[:1], 0, np.zeros((0, 1)))  # makes no file
    listener.close()
    steps = [step for step, _ in scalars(tmp_path / "KD", "loss")]
    assert steps == [*range(1, 1001), *range(1010, 1151, 10), 10000, 10100, 10200]
    assert not (tmp_path / "all").exists()

    listener = TensorBoardListener(tmp_path / "seed-1", every=100)
    listener.steps("KD", COLUMNS, 0, block(0, 250))
    listener.close()
    assert scalars(tmp_path / "seed-1" / "KD", "loss") == [(100, 100.0), (200, 200.0)]


def test_names_that_are_no_folders_get_one_of_their_own() -> None:
    assert run_name("CMKD, pseudo-teacher detached") == "CMKD, pseudo-teacher detached"
    odd = ["a/b", "a:b", "../b", "..", "a\\b", "b."]
    names = [run_name(name) for name in odd]
    assert len(set(names)) == len(odd)
    assert all(Path(name).name == name and not name.startswith(".") for name in names)


@needs_tensorboard
@pytest.mark.parametrize("every", [0, -1, 2.5, True])
def test_every_is_checked(tmp_path: Path, every: Any) -> None:
    with pytest.raises(ConfigError, match="every"):
        TensorBoardListener(tmp_path, every=every)


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not there
    with pytest.raises(ConfigError, match="pip install 'tensorboard"):
        TensorBoardListener(tmp_path)
    assert not list(tmp_path.iterdir())

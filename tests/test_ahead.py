"""Teachers who look at coming batches while students train: the same bits, whoever the teacher is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kdlab
from kdlab.data import Batches
from kdlab.models import tap
from kdlab.training import teacher_pass
from kdlab.training.ahead import Ahead
from kdlab.training.crew import Crew
from kdlab.training.options import Options
from kdlab.training.teacher_pass import TeacherPass
from tests.small_study import run_to, same, small, wait_for, weights

STUDENTS = {"KD": "kd", "AT": "at", "SRRL": "srrl"}


class Foreign(nn.Module):
    """Somebody's network, with activations that are functions: it is watched while it works."""

    drop = False

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.out = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.two(F.relu(self.one(x))))
        if self.drop:
            x = F.dropout(x)  # in evaluation mode too, a common mistake
        return self.out(x.mean((2, 3)))


def foreign(drop: bool = False) -> Any:
    torch.manual_seed(0)
    net = tap(Foreign(), input_shape=(1, 8, 8)).eval()
    net.module.drop = drop  # type: ignore[union-attr]  # only now, as `tap` would refuse it
    return net


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for two beside each other, wherever these tests run."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_what_is_looked_at_early_is_what_would_be_seen_late(
    tmp_path: Path, lanes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()
    call = teacher_pass._Teacher.__call__

    def seen(self: Any, images: Tensor) -> Any:
        threads.add(threading.current_thread().name.split("_")[0])
        return call(self, images)

    monkeypatch.setattr(teacher_pass._Teacher, "__call__", seen)
    teachers = [foreign(), foreign()]
    asked: dict[str, Any] = dict(teacher=teachers, students=STUDENTS, epochs=2)
    early = small(tmp_path, folder=tmp_path / "early", **asked).fit(progress=False)
    assert threads == {"kdlab-lane"}
    threads.clear()
    monkeypatch.setattr(Crew, "of", lambda _: None)
    in_time = small(tmp_path, folder=tmp_path / "late", **asked).fit(progress=False)
    assert threads == {"kdlab-train"}
    for name in STUDENTS:
        assert same(weights(early, name), weights(in_time, name)), name


def test_one_student_and_many_are_computed_alike(tmp_path: Path, lanes: None) -> None:
    many = small(tmp_path, folder=tmp_path / "many", students=STUDENTS).fit(progress=False)
    one = small(tmp_path, folder=tmp_path / "one", students={"SRRL": "srrl"}).fit(progress=False)
    assert same(weights(many, "SRRL"), weights(one, "SRRL"))


def test_switching_while_teachers_are_ahead_is_exact(tmp_path: Path, lanes: None) -> None:
    def steered(folder: Path) -> kdlab.Study:
        study = small(tmp_path, folder=folder, students={"KD": "kd"})
        run_to(study, 2)
        study.set("KD", "kd", enabled=False)  # nobody reads the teacher now
        study.step(3)
        wait_for(study, 5)
        study.set("KD", "kd", enabled=True)
        return study.fit(progress=False)

    study = steered(tmp_path / "first")
    again = study.replay(tmp_path / "again")
    again.fit(progress=False)
    assert same(weights(study, "KD"), weights(again, "KD"))
    values = study.record.series("KD", "term/kd", study.seeds[0])[1]
    assert torch.isnan(torch.tensor(values)).nonzero().flatten().tolist() == [2, 3, 4]


def parts(teacher: Any, batch_size: int = 8, **options: Any) -> tuple[TeacherPass, Batches]:
    data, chosen = kdlab.data.load("digits", limit=64), Options(**options)
    batches = Batches(
        data.train,
        batch_size=batch_size,
        seed=0,
        mean=data.mean,
        std=data.std,
        memory_format=torch.channels_last,
        views=chosen.teacher_views,
    )
    return TeacherPass((teacher,), data, chosen, torch.device("cpu"), batches), batches


class Reader:
    """Of a student, what `Ahead` asks."""

    class method:
        second_view = ""

    def __init__(self) -> None:
        self.reads = True

    def needs_teacher(self) -> bool:
        return self.reads


@pytest.fixture
def crew() -> Iterator[Crew]:
    hands = Crew(2, 1)
    yield hands
    hands.close()


def test_no_more_than_the_lanes_are_looked_at_and_only_if_somebody_reads(crew: Crew) -> None:
    teachers, batches = parts(foreign())
    reader = Reader()
    ahead = Ahead(batches.epoch(1), teachers, [reader], 1, crew)  # type: ignore[list-item]
    steps = iter(ahead)
    first = next(steps)
    ahead.fill()
    assert [looking is not None for _, looking in ahead._coming] == [True, True]
    ahead.fill()
    assert len(ahead._coming) == 2
    reader.reads = False
    assert first().teachers == ()
    seen = next(steps)
    ahead.fill()
    assert [looking is not None for _, looking in ahead._coming] == [True, False]
    reader.reads = True  # again, and what was looked at meanwhile is not lost
    assert len(seen().teachers) == 1
    expected = [batch.index.tolist() for batch in batches.epoch(1)]
    rest = [inputs() for inputs in steps]
    assert [seen().index.tolist(), *(r.index.tolist() for r in rest)] == expected[1:]
    alone = Ahead(batches.epoch(1), teachers, [reader], 1, None)  # type: ignore[list-item]
    for one, other in zip(rest, [inputs() for inputs in alone][2:], strict=True):
        assert torch.equal(one.teachers[0].logits, other.teachers[0].logits)
        assert torch.equal(one.teachers[0].stages[0], other.teachers[0].stages[0])
    ahead.close()


def test_teachers_that_draw_or_are_kept_do_not_look_ahead(crew: Crew) -> None:
    teacher, state = foreign(drop=True), torch.get_rng_state()
    drawing, batches = parts(teacher)
    assert not drawing.steady
    assert torch.equal(torch.get_rng_state(), state)  # finding out left no trace
    assert not parts(foreign(), teacher_views=2)[0].steady
    steady, _ = parts(foreign())
    assert steady.steady
    ahead = Ahead(batches.epoch(1), drawing, [Reader()], 1, crew)  # type: ignore[list-item]
    next(iter(ahead))
    ahead.fill()
    assert not ahead._coming


def test_what_a_teacher_fails_with_is_told_where_its_step_is_due(tmp_path: Path, lanes: None) -> None:
    class Fragile(Foreign):
        passes = 0

        def forward(self, x: Tensor) -> Tensor:
            if threading.current_thread().name.startswith("kdlab-lane"):
                type(self).passes += 1
                if type(self).passes == 3:
                    raise RuntimeError("the teacher broke")
            return super().forward(x)

    torch.manual_seed(0)
    broken = tap(Fragile(), input_shape=(1, 8, 8)).eval()
    study = small(tmp_path, teacher=broken, students={"KD": "kd"})
    with pytest.raises(RuntimeError, match="the teacher broke"):
        study.fit(progress=False)
    assert not [t for t in threading.enumerate() if t.name.startswith("kdlab-lane")]
    study.fit(progress=False)  # goes on where it was
    whole = small(tmp_path, folder=tmp_path / "whole", teacher=foreign(), students={"KD": "kd"})
    assert same(weights(study, "KD"), weights(whole.fit(progress=False), "KD"))

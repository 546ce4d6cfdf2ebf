"""Students beside each other: the same bits as in turn, and nobody beside one who draws random numbers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kdlab
from kdlab.methods import CRD, KD, Method, register, registry
from kdlab.models import build, inspect_net, tap
from kdlab.training import crew
from tests.small_study import same, small, weights

STUDENTS = {"alone": "ce", "KD": "kd", "CRD": "crd", "CMKD": "cmkd", "sum": KD() + kdlab.methods.get("at")()}


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """A method of these tests alone."""
    before = dict(registry._METHODS)
    register(Noisy)
    Noisy.threads.clear()
    yield
    registry._METHODS.clear()
    registry._METHODS.update(before)


@pytest.fixture(autouse=True)
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for four beside each other, wherever these tests run."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_company_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = small(tmp_path, folder=tmp_path / "together", students=STUDENTS).fit(progress=False)
    monkeypatch.setattr(crew.Crew, "run", lambda *_: {})
    monkeypatch.setattr("kdlab.training.student.draws", lambda *_: True)
    in_turn = small(tmp_path, folder=tmp_path / "turn", students=STUDENTS).fit(progress=False)
    for name in STUDENTS:
        assert same(weights(together, name), weights(in_turn, name)), name
    one, other = (s.history().drop(columns="seconds") for s in (together, in_turn))
    assert one.equals(other)


def test_who_draws() -> None:
    specs = [inspect_net(build(name, 10, 1), (1, 8, 8)) for name in ("resnet8", "resnet14")]

    def drawing(net: nn.Module, method: Method) -> bool:
        method.build(specs[0], specs[1:])
        return crew.draws(net, method)

    net = build("resnet8", 10, 1)
    ours = [key for key in kdlab.methods.names() if kdlab.methods.get(key).__module__.startswith("kdlab.")]
    assert len(ours) == 36
    for key in set(ours) - {"gpac"}:  # which wants two teachers
        assert drawing(net, kdlab.methods.get(key)()) == (key == "crd"), key
    assert drawing(net, KD() + CRD())
    assert drawing(net, kdlab.methods.get("dckd")(feature_method="crd"))

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.out = nn.Linear(4, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(F.dropout(self.body(x), 0.5, self.training))

    assert drawing(tap(Dropping(), input_shape=(1, 8, 8)), KD())
    plain = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )
    assert not drawing(tap(plain, input_shape=(1, 8, 8)), KD())
    plain.insert(4, nn.Dropout())
    assert drawing(tap(plain, input_shape=(1, 8, 8)), KD())


class Noisy(KD):
    """KD with noise on the student's logits: it draws, and is not kdlab's own."""

    key = "noisy"
    threads: set[int] = set()

    def losses(self, step: Any, active: Any) -> dict[str, torch.Tensor]:
        self.threads.add(threading.get_ident())
        values = super().losses(step, active)
        return {name: value * (1 + 0.1 * torch.rand(())) for name, value in values.items()}


def test_one_who_draws_is_trained_alone_and_as_if_alone(tmp_path: Path) -> None:
    students = {"a": "kd", "noisy": Noisy(), "b": "ce", "too": Noisy()}
    study = small(tmp_path, folder=tmp_path / "all", students=students).fit(progress=False)
    assert len(Noisy.threads) == 1  # the training thread
    alone = small(tmp_path, folder=tmp_path / "alone", students={"noisy": Noisy()}).fit(progress=False)
    assert same(weights(study, "noisy"), weights(alone, "noisy"))
    assert same(weights(study, "noisy"), weights(study, "too"))


def test_others_finish_their_step_before_an_error_is_raised() -> None:
    done = []

    class Student:
        def __init__(self, name: str) -> None:
            self.name, self.draws = name, False

    def one(student: Any) -> torch.Tensor:
        if student.name == "bad":
            raise RuntimeError("broken")
        torch.randn(200, 200) @ torch.randn(200, 200)
        done.append((student.name, torch.get_num_threads()))
        return torch.zeros(1)

    group: Any = [Student(name) for name in ("bad", "a", "b", "c")]
    with pytest.raises(RuntimeError, match="broken"):
        hands = crew.Crew(2, 1)
        try:
            hands.run(group, one)
        finally:
            hands.close()
    assert hands.run(group[:1], one) == {}  # a single one is better off with the caller
    assert sorted(done) == [("a", 1), ("b", 1), ("c", 1)]


def test_large_pictures_and_wishes_of_users_have_no_crew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(crew.Crew, "__init__", lambda _, lanes, threads: made.append((lanes, threads)))
    monkeypatch.setattr(crew.Crew, "run", lambda *_: {})
    monkeypatch.setattr(crew.Crew, "close", lambda _: None)

    def crews(**changes: Any) -> list[tuple[int, int]]:
        made.clear()
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        small(tmp_path, folder=folder, students={"a": "ce"}, teacher=None, epochs=1, **changes).fit(
            progress=False
        )
        return list(made)

    assert crews() == [(4, 1)]
    assert crews(threads=2) == [(2, 2)]
    assert crews(threads=3) == []  # no room for a second
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert crews() == [(2, 1)]
    assert crews(threads=2) == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert crews(data="shapes") == []

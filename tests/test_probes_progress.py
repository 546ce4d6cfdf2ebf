"""Who watches a measurement hears how far it is, and may end it; nothing of this changes a result."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
import torch

import kdlab
from kdlab import probes
from kdlab.errors import KDLabError
from kdlab.probes import Cancelled, watched
from kdlab.probes.progress import check, measurement, parts, steps
from tests.small_study import small


class Told:
    """A listener that writes down what it hears, and ends the measurement at the call of that number."""

    def __init__(self, end_at: int | None = None) -> None:
        self.end_at = end_at
        self.heard: list[tuple[float, str]] = []

    def __call__(self, fraction: float, text: str) -> None:
        self.heard.append((fraction, text))
        if len(self.heard) - 1 == self.end_at:
            raise Cancelled("enough")

    @property
    def fractions(self) -> list[float]:
        return [fraction for fraction, _ in self.heard]


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit."""
    if is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return bool(a == b or (a != a and b != b))


# ---- loops -----------------------------------------------------------------------------------------------


def test_without_a_listener_a_loop_is_just_a_loop() -> None:
    assert list(steps("abc", "letter {}")) == ["a", "b", "c"]
    assert type(steps([1])) is type(iter([1])), "nothing in between"
    check()


def test_inner_loops_refine_the_fraction_of_outer_ones() -> None:
    told = Told()
    with watched(told):
        for _ in steps(["t-SNE", "PCA"], "{}"):
            for _ in steps((3, 8), lambda epoch: f"epoch {epoch}"):
                pass
    assert told.heard == [
        (0.0, "t-SNE"),
        (0.0, "t-SNE, epoch 3"),
        (0.25, "t-SNE, epoch 8"),
        (0.5, "PCA"),
        (0.5, "PCA, epoch 3"),
        (0.75, "PCA, epoch 8"),
        (1.0, ""),
    ]


def test_steps_may_take_unequal_time() -> None:
    told = Told()
    with watched(told):
        assert list(steps((n for n in "ab"), total=2, sizes=[3, 1])) == ["a", "b"]
    assert told.fractions == [0.0, 0.75, 1.0]


def test_loops_that_follow_each_other_share_a_measurement() -> None:
    @measurement
    def look() -> None:
        now = parts({"reading": 1, "nothing": 0, "fitting": 3})
        for name in ("reading", "nothing", "fitting"):
            with now(name):
                for _ in steps(range(0 if name == "nothing" else 2)):
                    check()

    told = Told()
    with watched(told):
        look()
        first = len(told.heard)
        look()  # begins anew
    assert told.heard[:first] == told.heard[first:]
    assert sorted(set(told.fractions[:first])) == [0.0, 0.125, 0.25, 0.625, 1.0]
    assert told.heard[0] == (0.0, "starting") and (0.625, "fitting") in told.heard
    outer = Told()
    with watched(outer):
        for _ in steps(range(2)):
            look()
    assert outer.fractions == sorted(outer.fractions) and 0.5 + 0.625 / 2 in outer.fractions


def test_a_loop_that_is_left_early_does_not_hold_the_others_up() -> None:
    told = Told()
    with watched(told):
        for _ in steps(range(2)):
            held = steps(range(10))  # still there when the next step is told
            next(held)
        assert told.fractions[-2:] == [0.5, 1.0]
        for _ in steps(range(4)):
            break
        for _ in steps(range(2)):
            pass
    assert told.fractions[-3:] == [0.0, 0.5, 1.0]


def test_threads_do_not_hear_each_other() -> None:
    def listen(told: Told, both: threading.Barrier) -> None:
        with watched(told):
            for _ in steps(range(3), "{}"):
                both.wait(10)

    one, two, both = Told(), Told(), threading.Barrier(3)
    threads = [threading.Thread(target=listen, args=(told, both)) for told in (one, two)]
    for thread in threads:
        thread.start()
    for _ in steps(range(3)):  # here nobody watches
        both.wait(10)
    for thread in threads:
        thread.join(10)
    assert one.heard == two.heard == [(0.0, "0"), (1 / 3, "1"), (2 / 3, "2"), (1.0, "")]


def test_what_was_ended_can_be_told_from_what_failed() -> None:
    assert issubclass(Cancelled, KDLabError)
    told = Told()
    with watched(told), pytest.raises(ValueError):
        for _ in steps(range(2)):
            raise ValueError
    with watched(told), pytest.raises(KeyboardInterrupt):
        for _ in steps(range(2)):
            raise KeyboardInterrupt
    list(steps(range(3)))
    assert told.fractions == [0.0, 0.0], "nobody is told after the block"


# ---- probes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> kdlab.Study:
    return small(tmp_path_factory.mktemp("watched"), seeds=2, epochs=2, keep="all").fit(progress=False)


def _modules() -> dict[str, Any]:
    torch.manual_seed(0)
    nets = {name: kdlab.models.build("resnet8", num_classes=4, in_channels=1) for name in "ab"}
    generator = torch.Generator().manual_seed(0)
    return {
        "source": nets,
        "images": torch.rand(600, 1, 8, 8, generator=generator),
        "target": np.arange(600) % 4,
    }


def _factors(study: kdlab.Study) -> dict[str, np.ndarray]:
    labels = np.asarray(study.probe_set.labels)
    return {"odd": labels % 2, "small": (labels < 5).astype(int)}


DEEP = ("layer2", "layer3")
PROBES: dict[str, Callable[[kdlab.Study], Any]] = {
    "linear_probe": lambda s: probes.linear_probe(s, control=True, untrained=True, purity=True, layers=DEEP),
    "factor_probe": lambda s: probes.factor_probe(s, factors=_factors(s), epochs="all", layers=DEEP),
    "similarity": lambda s: probes.similarity(s),
    "procrustes": lambda s: probes.similarity(s, "procrustes", against="students", epochs="last"),
    "geometry": lambda s: probes.geometry(s),
    "calibration": lambda s: probes.calibration(s),
    "fidelity": lambda s: probes.fidelity(s),
    "logit_history": lambda s: probes.logit_history(s),
    "attention_maps": lambda s: probes.attention_maps(s, epochs="all"),
    "grad-cam": lambda s: probes.attributions(s, range(40), epoch="all"),
    "integrated gradients": lambda s: probes.attributions(s, range(3), method="integrated_gradients"),
    "occlusion": lambda s: probes.attributions(s, range(3), method="occlusion", controls=False),
    "pull": lambda s: probes.pull(s, epochs="all", n=40),
    "embed": lambda s: probes.embed(s, n=20),
    "embed without a pull": lambda s: probes.embed(s, "lda", n=20, pull=0),
    "t-SNE": lambda s: probes.tsne(np.random.default_rng(0).normal(size=(60, 5))),
    "modules": lambda s: probes.geometry(**_modules()),
    "measure": lambda s: probes.measure(_modules()["source"]["a"], _modules()["images"]),
}
FEW = ("measure", "embed without a pull")  # quick, so that a few steps are enough


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_is_told_from_0_to_1_and_can_be_ended(study: kdlab.Study, name: str) -> None:
    probe = PROBES[name]
    plain = probe(study)
    told = Told()
    with watched(told):
        result = probe(study)
    assert same(plain, result), "a listener changes nothing"
    assert told.fractions == sorted(told.fractions)
    assert told.fractions[0] == 0.0 and told.fractions[-1] == 1.0
    assert len(set(told.fractions)) >= (3 if name in FEW else 8)
    if name not in FEW:
        assert np.diff(told.fractions).max() < 0.5, "no step hides half of the work"
    texts = {text for _, text in told.heard}
    assert all(len(text) < 80 for text in texts)
    if is_dataclass(plain) and name not in FEW:
        assert any(word in text for word in ("KD", "epoch 2", "showing pictures to a") for text in texts)

    end = Told(end_at=int(0.6 * len(told.heard)))
    with watched(end), pytest.raises(Cancelled, match="enough"):
        probe(study)
    assert len(end.heard) == end.end_at + 1, "nothing goes on after that"
    assert same(plain, probe(study)), "and nothing half-done is left"


def test_long_fits_hear_the_listener_often(study: kdlab.Study) -> None:
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(3, 200, 20, generator=generator), torch.arange(200) % 4
    told = Told()
    with watched(told):
        fit = probes.fit_softmax(x, target, 1e-2)
    assert len(told.heard) >= fit.iterations
    with watched(Told(end_at=3)), pytest.raises(Cancelled):
        probes.fit_softmax(x, target, 1e-2)
    with watched(Told(end_at=3)), pytest.raises(Cancelled):
        probes.LinearProbe().fit(x[0].numpy(), target.numpy())


def test_a_control_that_is_ended_does_not_count_as_missing(study: kdlab.Study) -> None:
    """Similarity goes on without a control that fails, but not when it was ended."""

    def listener(fraction: float, text: str) -> None:
        if text.startswith("untrained networks,"):
            raise Cancelled("enough")

    with watched(listener), pytest.raises(Cancelled):
        probes.similarity(study)

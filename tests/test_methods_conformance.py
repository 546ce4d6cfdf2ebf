"""`kdlab.methods.check`: every method passes it, and each property catches a method that breaks it."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdlab.errors import ConfigError
from kdlab.losses import cross_entropy, feature_mse, kd
from kdlab.methods import KD, Method, Report, Step, Term, check, make, names, registry
from kdlab.methods.practice import PAIRS, PracticeNet

LOGITS = ("student.logits", "teacher.logits")
LABELS = ("student.logits", "target")


# ---- the methods of kdlab -------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*names(), "skd + at", "ls_kd + fitnet"])
def test_every_method_conforms_on_three_pairs(key: str) -> None:
    report = check(key)
    assert report.ok, str(report)
    assert len(report.lines) == 11
    (build,) = [line for line in report.lines if line.name == "build"]
    assert build.note == "", "a method refused one of the pairs"


def slim_resnet(blocks: list[int]) -> nn.Module:
    """torchvision's ResNet with a quarter of its channels behind the stem."""
    from torchvision.models import resnet

    class Slim(resnet.ResNet):
        def _make_layer(self, block: Any, planes: int, *args: Any, **options: Any) -> nn.Sequential:
            return super()._make_layer(block, planes // 4, *args, **options)

    net = Slim(resnet.BasicBlock, blocks, num_classes=5)
    net.fc = nn.Linear(128, 5)
    return net


def foreign(teachers: int) -> tuple[nn.Module, list[nn.Module]]:
    """Networks of torchvision that have stages but none of kdlab's names."""
    from torchvision.models import ShuffleNetV2

    torch.manual_seed(1)
    student = ShuffleNetV2([1, 1, 1], [24, 16, 32, 64, 96], num_classes=5)
    blocks = [[1, 1, 1, 1], [1, 1, 1, 2]]
    return student, [slim_resnet(blocks[i]) for i in range(teachers)]


@pytest.mark.slow
@pytest.mark.parametrize("key", names())
def test_every_method_conforms_on_networks_of_torchvision(key: str) -> None:
    key = {"ofd": {"key": "ofd", "params": {"maps": "stages"}}}.get(key, key)  # type: ignore[assignment]
    student, teachers = foreign(2 if "multi-teacher" in make(key).family else 1)
    before = [p.clone() for p in student.parameters()]
    report = check(key, student, teachers, input_shape=(3, 32, 32), batch=6)
    assert report.ok, str(report)
    assert all(torch.equal(a, b) for a, b in zip(before, student.parameters()))
    assert student.training and all(p.requires_grad for net in teachers for p in net.parameters())


def test_the_pairs_differ_in_width_depth_and_size() -> None:
    assert len(PAIRS) >= 3
    deepest = [(own[-1], others[0][-1]) for own, others in PAIRS.values()]
    assert all(own[0] != other[0] for own, other in deepest)
    assert any(own[1] != other[1] for own, other in deepest)
    assert any(len(own) != len(others[0]) for own, others in PAIRS.values())
    for own, others in PAIRS.values():
        for stages in (own, *others):
            seen = PracticeNet(stages).features(torch.zeros(2, 3, 16, 16))
            assert [(s.shape[1], s.shape[2]) for s in seen.stages] == list(stages)


def test_the_method_given_is_not_touched() -> None:
    method = KD()
    method.term("kd").set(weight=0.5)
    random = torch.get_rng_state()
    assert check(method).ok
    assert not method.built and method.term("kd").weight == 0.5
    assert torch.equal(random, torch.get_rng_state())


def test_the_method_shown_in_contributing_conforms(checkout: Path) -> None:
    text = (checkout / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code, {"__name__": "shown"})
    report = check("logit_mse")
    assert report.ok, str(report)


# ---- methods that break one property ------------------------------------------------------------------


class Sound(Method):
    """CE, KD, and a hint through a part of its own; the others break one thing of it."""

    key, title = "sound", "Sound"

    def __init__(self, ce: float = 1.0, kd: float = 1.0, hint: float = 1.0) -> None:
        super().__init__(
            Term("ce", ce, LABELS),
            Term("kd", kd, LOGITS),
            Term("hint", hint, ("student.embedding", "teacher.embedding")),
        )

    def build(self, student: Any, teachers: Any) -> None:
        super().build(student, teachers)
        self.layer = nn.Linear(student.embedding_dim, teachers[0].embedding_dim)

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = {}
        if "ce" in active:
            values["ce"] = cross_entropy(step.student.logits, step.target)
        if "kd" in active:
            values["kd"] = kd(step.student.logits, step.teacher.logits)
        if "hint" in active:
            values["hint"] = feature_mse(self.layer(step.student.embedding), step.teacher.embedding)
        return values


class Nameless(Sound):
    key = ""


class Unrecordable(Sound):
    def __init__(self, thing: object = object()) -> None:
        super().__init__()


class Unbuildable(Sound):
    def build(self, student: Any, teachers: Any) -> None:
        raise RuntimeError("no such layer")


class Refusing(Sound):
    def build(self, student: Any, teachers: Any) -> None:
        raise ConfigError("never")


class Vectors(Sound):
    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        return {name: value.expand(3) for name, value in super().losses(step, active).items()}


class Talkative(Sound):
    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        return super().losses(step, active) | {"bonus": step.student.logits.mean()}


class Infinite(Sound):
    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        return {name: value / 0 for name, value in super().losses(step, active).items()}


class Normalising(Sound):
    """The value of a term depends on how many there are."""

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        return {name: value / len(active) for name, value in super().losses(step, active).items()}


class Boastful(Sound):
    """Declares a tap that it does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.terms["kd"].taps = (*LOGITS, "teacher.final")


class Secretive(Sound):
    """Reads a tap that it does not declare."""

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = super().losses(step, active)
        return {name: value + 0 * step.student.stages[0].mean() for name, value in values.items()}


class Eager(Sound):
    """Computes every term, whatever is active."""

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = super().losses(step, list(self.terms))
        return {name: values[name] for name in active}


class Busy(Sound):
    """Runs its part for nothing, on what it may read anyway."""

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        self.layer(torch.zeros(2, self.layer.in_features))
        return super().losses(step, active)


class Detached(Sound):
    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = super().losses(step, active)
        return values | ({"kd": values["kd"].detach()} if "kd" in values else {})


class Thawing(Sound):
    """Trains the teacher's classifier."""

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = super().losses(step, active)
        if "kd" in values:
            step.classifier.requires_grad_(True)
            values["kd"] = values["kd"] + step.classifier(step.teacher.embedding).square().mean()
        return values

    def __init__(self) -> None:
        super().__init__()
        self.terms["kd"].taps = (*LOGITS, "teacher.classifier", "teacher.embedding")


class Possessive(Sound):
    """Takes the teacher's classifier for its own."""

    def build(self, student: Any, teachers: Any) -> None:
        super().build(student, teachers)
        self.head = teachers[0].net.classifier.requires_grad_(True)


class Idle(Sound):
    """Has a part that nothing trains."""

    def build(self, student: Any, teachers: Any) -> None:
        super().build(student, teachers)
        self.scale = nn.Parameter(torch.ones(()))


class Compensating(Sound):
    """Same values, but CE pulls twice as hard when KD is off."""

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = super().losses(step, active)
        if "ce" in values and "kd" not in values:
            values["ce"] = 2 * values["ce"] - values["ce"].detach()
        return values


class Switching(Sound):
    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        self.layer.eval()
        return super().losses(step, active)


class Scribbling(Sound):
    """Changes the teacher's logits in place."""

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = super().losses(step, active)
        if "kd" in active:
            step.teacher.logits.clamp_(-0.01, 0.01)
        return values


class Learning(Sound):
    """Its running statistics follow what it is evaluated on."""

    def build(self, student: Any, teachers: Any) -> None:
        super().build(student, teachers)
        self.norm = nn.BatchNorm1d(teachers[0].embedding_dim, affine=False)

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        return super().losses(step, active)

    def project(self, step: Step) -> Tensor:
        return self.norm(self.layer(step.student.embedding))


class Coarse(Sound):
    """Leaves its arithmetic to autocast."""

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = super().losses(step, active)
        if "hint" in active:
            ones = torch.ones(step.student.embedding.shape[1], 1)
            values["hint"] = values["hint"] + (step.student.embedding @ ones).square().mean()
            values["hint"] = values["hint"].to((step.student.embedding @ ones).dtype)
        return values


class Unasked(Sound):
    """Reads a second view, but does not ask for one."""

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = super().losses(step, active)
        if "kd" in active:
            values["kd"] = values["kd"] + kd(step.second.student.logits, step.teacher.logits)  # type: ignore[union-attr]
        return values


class Naive(Sound):
    """The logarithm of a softmax, in two steps."""

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = super().losses(step, active)
        if "kd" in active:
            p_s, p_t = (z.float().softmax(1) for z in (step.student.logits, step.teacher.logits))
            values["kd"] = (p_t * (p_t.log() - p_s.log())).sum(1).mean()
        return values


class Plain(Sound):
    """Keeps what it learns in an ordinary attribute."""

    def build(self, student: Any, teachers: Any) -> None:
        super().build(student, teachers)
        self.weights = [torch.rand(())]

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = super().losses(step, active)
        return values | ({"kd": values["kd"] * self.weights[0]} if "kd" in values else {})


BROKEN: list[tuple[type[Method], str, str]] = [
    (Nameless, "declaration", "key or title is empty"),
    (Unrecordable, "declaration", "so that it can be recorded"),
    (Unbuildable, "build", "RuntimeError: no such layer"),
    (Refusing, "build", "equal sizes refused (never)"),
    (Vectors, "shapes", "ce is not a tensor of shape ()"),
    (Talkative, "shapes", "returned"),
    (Infinite, "shapes", "ce is inf"),
    (Normalising, "shapes", "alone and"),
    (Boastful, "taps", "declares teacher.final and does not read it"),
    (Secretive, "taps", "reads student.stages[0], which no term declares"),
    (Eager, "disabled terms", "with ce alone it reads"),
    (Busy, "disabled terms", "with ce alone it runs layer, which ce does not train"),
    (Detached, "gradient reach", "kd gives no gradient"),
    (Thawing, "gradient reach", "a teacher's parameters ask for gradient"),
    (Possessive, "gradient reach", "a teacher's parameters ask for gradient"),
    (Idle, "gradient reach", "no term gives gradient to its own scale"),
    (Compensating, "toggling", "kd off and kd at weight 0 give student"),
    (Switching, "modes", "losses changed a train or eval mode"),
    (Scribbling, "modes", "changed a tensor of the step in place"),
    (Learning, "modes", "evaluation changed the method's state"),
    (Coarse, "autocast", "hint is torch.bfloat16 under autocast"),
    (Naive, "large logits", "kd is"),
    (Plain, "state round trip", "when resumed"),
]


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods that a test registers are forgotten afterwards."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))


def test_a_sound_method_of_ones_own_conforms() -> None:
    report = check(Sound)
    assert report.ok, str(report)


@pytest.mark.parametrize(("broken", "name", "note"), BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_a_broken_method_is_caught(broken: type[Method], name: str, note: str) -> None:
    report = check(broken)
    assert not report.ok
    lines = {line.name: line for line in report.failures}
    assert name in lines, str(report)
    assert note in lines[name].note, str(report)


def test_every_property_has_a_method_that_breaks_it() -> None:
    assert {name for _, name, _ in BROKEN} == {line.name for line in check("kd").lines}


@pytest.mark.parametrize("broken", [Eager, Detached, Compensating, Coarse, Naive, Plain])
def test_other_properties_are_still_looked_at(broken: type[Method]) -> None:
    report = check(broken)
    assert len(report.lines) == 11 and len(report.failures) == 1, str(report)


# ---- the report -------------------------------------------------------------------------------------------


def test_the_report_has_one_line_for_each_property() -> None:
    report = check(Naive)
    text = str(report).splitlines()
    assert text[0] == "Sound: 10 of 11 properties hold"
    assert len(text) == 12 and sum(line.startswith("FAIL") for line in text) == 1
    assert repr(report) == str(report)
    (failed,) = report.failures
    assert failed.name == "large logits" and "equal sizes" in failed.note


def test_nothing_raises() -> None:
    for odd in ("kdd", 3, {"key": "kd", "params": {"temperature": -1}}):
        report = check(odd)  # type: ignore[arg-type]
        assert isinstance(report, Report) and not report.ok
        assert [line.name for line in report.lines] == ["making"]
    teacherless = check("kd", student=PracticeNet(PAIRS["equal sizes"][0]))
    assert "needs 1 teacher" in teacherless.failures[0].note
    assert "needs a student too" in check("kd", teachers=nn.Linear(2, 2)).failures[0].note
    assert not check("kd", student=nn.Identity(), teachers=nn.Identity()).ok


def test_a_refusal_of_some_pairs_is_a_note() -> None:
    class Square(Sound):
        def build(self, student: Any, teachers: Any) -> None:
            super().build(student, teachers)
            if len(student.stages) != len(teachers[0].stages):
                raise ConfigError("depths differ")

    report = check(Square)
    assert report.ok
    assert "build" in str(report) and "other depths refused (depths differ)" in str(report)


def test_a_second_view_that_was_not_asked_for_is_named() -> None:
    report = check(Unasked())
    assert not report.ok and "what reads `step.second` must set `second_view`" in str(report)
    Unasked.second_view = "crop"
    try:
        assert "second_view" not in str(check(Unasked()))
    finally:
        del Unasked.second_view

"""SimKD: worked values, the deployed predictor, and a student's classifier that is left alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from methods_nets import PAIRS, TinyNet, built, make_step, pair, ready, specs
from test_methods_values import Bench, fill
from torch import Tensor, nn
from torch.nn import functional as F

from kdlab import models
from kdlab.errors import ConfigError
from kdlab.methods import KD, SimKD, Step, describe
from kdlab.methods.projectors import Projector
from kdlab.models import inspect_net, tap

VALUES = {  # factor 2, factor 1
    "A": (0.6677329, 0.7003064),
    "B": (0.7310444, 0.7173165),
    "C": (0.4903671, 0.4598930),
    "E": (0.4336738, 0.4541068),
}


@pytest.mark.parametrize("case", VALUES)
def test_worked_values(case: str) -> None:
    for factor, expected in zip((2, 1), VALUES[case]):
        bench = Bench(case, SimKD(factor=factor))
        fill(bench.method.projector, 0)  # type: ignore[arg-type]
        assert bench.values({"feature"})["feature"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("nets", PAIRS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_value_written_out(nets: str, depth: int) -> None:
    student, teacher = pair(nets)
    method = built(SimKD(factor=1, depth=depth), student.double(), teacher.double()).double()
    step = make_step(student, teacher, dtype=torch.float64)
    s, t = step.student.stages[-1], step.teacher.stages[-1]
    size = min(s.shape[2], t.shape[2])
    s, t = F.adaptive_avg_pool2d(s, size), F.adaptive_avg_pool2d(t, size)
    convs = [m for m in method.projector.modules() if isinstance(m, nn.Conv2d)]  # type: ignore[union-attr]
    assert [c.kernel_size[0] for c in convs] == {1: [1], 2: [1, 1], 3: [1, 3, 1]}[depth]
    for conv in convs:
        assert conv.bias is None
        s = F.conv2d(s, conv.weight, padding=conv.kernel_size[0] // 2)
        variance, mean = torch.var_mean(s, (0, 2, 3), correction=0, keepdim=True)
        s = ((s - mean) / (variance + 1e-5).sqrt()).relu()
    expected = (s - t).square().mean().item()
    assert method.losses(step, ["feature"])["feature"].item() == pytest.approx(expected, rel=1e-9)


def test_identical_features_and_an_identity_give_zero() -> None:
    student, _ = pair()
    student.eval()
    teacher = copy.deepcopy(student).requires_grad_(False)
    method = built(SimKD(factor=1), student, teacher)
    method.projector.hidden, method.projector.out = nn.Identity(), nn.Identity()  # type: ignore[union-attr]
    step = make_step(student, teacher)
    assert method.losses(step, ["feature"])["feature"].item() == 0
    assert torch.allclose(method.predict(step), step.teacher.logits, atol=1e-6)


# ---- the predictor -----------------------------------------------------------------------------------------


def test_the_predictor_is_the_teachers_classifier_on_projected_features() -> None:
    for nets in PAIRS:
        method, student, teacher = ready("simkd", nets)
        step = make_step(student, teacher)
        method.losses(step, ["feature"])  # moves the running statistics
        projected = method.project(step)
        assert projected is not None and projected.shape == (6, teacher.fc.in_features)
        expected = projected @ teacher.fc.weight.T + teacher.fc.bias
        assert torch.allclose(method.predict(step), expected, atol=1e-6)
        assert method.training and not method.predict(step).requires_grad
        assert torch.equal(method.side_logits(step)["own head"], step.student.logits)
        whole, part = make_step(student.eval(), teacher), make_step(student, teacher, batch=2)
        assert torch.allclose(method.predict(whole)[:2], method.predict(part), atol=1e-5)


@pytest.mark.parametrize(("student_name", "teacher_name"), [("resnet8", "wrn_16_2"), ("MobileNetV2", "vgg8")])
def test_the_deployed_network_gives_what_the_predictor_gives(student_name: str, teacher_name: str) -> None:
    student, teacher = (models.build(n, num_classes=10) for n in (student_name, teacher_name))
    teacher.eval().requires_grad_(False)
    shape = (3, 32, 32)
    method = SimKD()
    method.build(inspect_net(student, shape), [inspect_net(teacher, shape)])
    x = torch.randn(4, *shape)
    with torch.no_grad():
        step = Step(student.features(x), torch.arange(4), (teacher.features(x),), (teacher.classifier,))
    method.losses(step, ["feature"])
    deployed = method.deployed(student, teacher.classifier).eval()
    with torch.no_grad():
        logits = deployed(x)
        step = Step(student.features(x), torch.arange(4), (teacher.features(x),), (teacher.classifier,))
    assert torch.allclose(logits, method.eval().predict(step), atol=1e-5)


def test_what_the_projector_costs() -> None:
    method = SimKD(factor=2)
    method.build(*specs(TinyNet([(12, 8)]), TinyNet([(20, 4)])))
    c, t, m = 12, 20, 10
    weights = c * m + 9 * m * m + m * t
    cost = method.inference_cost()
    assert cost == {"parameters": weights + 4 * m + 2 * t, "multiply_adds": 16 * weights}
    assert Projector(12, 20, 2)(torch.randn(2, 12, 4, 4)).shape == (2, 20, 4, 4)


# ---- what learns and what does not -------------------------------------------------------------------------


def test_the_students_classifier_is_left_alone() -> None:
    method, student, teacher = ready("simkd")
    own, reused = copy.deepcopy(student.fc.state_dict()), copy.deepcopy(teacher.fc.state_dict())
    parameters = [*student.parameters(), *method.parameters()]
    optimiser = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        method.losses(make_step(student, teacher), ["feature"])["feature"].backward()
        assert all(p.grad is None for p in student.fc.parameters())
        assert all(p.grad is None for p in teacher.parameters())
        trunk = [p for n, p in student.named_parameters() if not n.startswith("fc")]
        assert all(p.grad is not None for p in [*trunk, *method.parameters()])
        optimiser.step()
    assert all(torch.equal(v, own[k]) for k, v in student.fc.state_dict().items())
    assert all(torch.equal(v, reused[k]) for k, v in teacher.fc.state_dict().items())


@pytest.mark.parametrize("head", ["reused", "own"])
def test_where_the_optional_terms_go(head: str) -> None:
    student, teacher = pair()
    method = built(SimKD(factor=1, ce=1, kd=1, head=head), student, teacher)  # type: ignore[arg-type]
    for term in ("ce", "kd"):
        step = make_step(student, teacher)
        method.losses(step, [term])[term].backward()
        assert (student.fc.weight.grad is None) == (head == "reused")
        assert all((p.grad is not None) == (head == "reused") for p in method.parameters())
        student.zero_grad(set_to_none=True)
        method.zero_grad(set_to_none=True)
    step = make_step(student, teacher)
    gap: Tensor = method.projector(step.student.stages[-1]).mean((2, 3))  # type: ignore[operator]
    logits = teacher.fc(gap) if head == "reused" else step.student.logits
    expected = F.cross_entropy(logits, step.target).item()
    assert method.losses(step, ["ce"])["ce"].item() == pytest.approx(expected, rel=1e-6)


def test_a_sum_predicts_with_the_projector() -> None:
    student, teacher = pair()
    method = built(SimKD(factor=1) + KD(), student, teacher)
    step = make_step(student, teacher)
    assert not torch.equal(method.predict(step), step.student.logits)
    with pytest.raises(ConfigError, match="both replace the predictor"):
        SimKD() + SimKD()


def test_terms_and_taps() -> None:
    terms = SimKD().terms
    assert {name: term.weight for name, term in terms.items()} == {"ce": 0, "feature": 1, "kd": 0}
    method, *_ = ready("simkd")
    assert method.terms["feature"].taps == ("student.stages[2]", "teacher.final")
    assert method.terms["kd"].taps == ("student.stages[2]", "teacher.classifier", "teacher.logits")
    assert method.active(1) == ["feature"]


def test_the_card_says_that_the_projector_stays() -> None:
    assert "Trains besides the student (part of its predictor)" in describe("simkd")
    assert "(dropped from the exported student)" in describe("srrl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 0}, "at least 1"),
        ({"depth": 4}, "1, 2 or 3"),
        ({"head": "teacher"}, "'reused' or 'own'"),
        ({"stage": 0.5}, "whole number"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SimKD(**options)


def test_refused_networks() -> None:
    student, teacher = pair()
    with pytest.raises(ConfigError, match="factor 2 must divide the teacher's 9 channels"):
        SimKD().build(*specs(student, teacher))
    with pytest.raises(ConfigError, match="stage 3 of the student"):
        SimKD(stage=3).build(*specs(student, teacher))
    with pytest.raises(ConfigError, match="map whose average enters its classifier"):
        SimKD().build(*specs(student, TinyNet(PAIRS["equal sizes"][1], hidden=9)))
    teacher.fc = nn.Sequential(nn.Linear(9, 5), nn.Identity())  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="linear classifier, and teacher shows none"):
        SimKD().build(*specs(student, teacher))


def test_with_networks_of_torchvision() -> None:
    torchvision = pytest.importorskip("torchvision")
    teacher = tap(torchvision.models.resnet18(num_classes=5)).eval().requires_grad_(False)
    student = tap(torchvision.models.mobilenet_v3_small(num_classes=5)).train()
    shape = (3, 64, 64)
    method = SimKD()
    method.build(inspect_net(student, shape), [inspect_net(teacher, shape)])
    x = torch.randn(3, *shape)
    with torch.no_grad():
        seen = teacher.features(x)
    step = Step(student.features(x), torch.arange(3), (seen,), (teacher.classifier,))
    value = method.losses(step, ["feature"])["feature"]
    value.backward()
    assert value.isfinite() and method.predict(step).shape == (3, 5)

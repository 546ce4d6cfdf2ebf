"""MTKD-SSR: worked values, who gets gradient, and how the teacher comes by its exits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from methods_nets import PAIRS, SHAPE, TinyNet, built, make_step, pair, ready, specs, weighted
from methods_rehearsal import FACTS, Rehearsal
from torch import Tensor, nn

from kdlab import losses
from kdlab.errors import ConfigError, StudyError
from kdlab.methods import KD, MTKDSSR, Step
from kdlab.methods.exits import ExitPlan, scaled_epochs
from kdlab.methods.mtkd_ssr import review_pairs
from kdlab.models.features import Features, NetSpec, inspect_net


class Fixed(nn.Module):
    """An exit that says what it is told to."""

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.z = z

    def forward(self, stage_map: Tensor) -> Tensor:
        return self.z


class Sheet:
    """The sheet's tensors around the method."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        own, other = [(16, 32), (32, 16), (64, 8)], [(32, 32), (64, 16), (128, 8)]
        self.maps = [torch.randn(4, c, h, h).double().requires_grad_() for c, h in own]
        self.targets = [torch.randn(4, c, h, h).double() for c, h in other]
        weights = [torch.randn(t, s, 1, 1).double() * 0.1 for (s, _), (t, _) in zip(own, other)]
        self.z_s = [torch.randn(4, 100).double().requires_grad_() for _ in range(3)]
        self.z_t = [torch.randn(4, 100).double() for _ in range(3)]
        student = Features(self.z_s[2], self.maps[2].mean((2, 3)), tuple(self.maps), final=self.maps[2])
        teacher = Features(
            self.z_t[2], self.targets[2].mean((2, 3)), tuple(self.targets), final=self.targets[2]
        )
        self.method = method = MTKDSSR(**options)
        method.build(self._spec(student), [self._spec(teacher)])
        method.double().train()
        for adapter, weight in zip(method.adapters, weights):
            adapter[0].weight.data.copy_(weight)  # type: ignore[index]
        method.exits = nn.ModuleList(map(Fixed, self.z_s[:2]))
        method.teacher_exits.exits = nn.ModuleList(map(Fixed, self.z_t[:2]))
        self.step = Step(student, torch.arange(4), (teacher,))

    def _spec(self, f: Features) -> NetSpec:
        stages: Any = tuple(tuple(s.shape[1:]) for s in f.stages)
        names, net = ("stage1", "stage2", "stage3"), nn.Module()
        return NetSpec("net", (3, 32, 32), 100, stages[-1][0], stages, names, None, stages[-1], False, 0, net)

    def value(self, name: str) -> Tensor:
        return self.method.losses(self.step, [name])[name]

    def parts(self, name: str) -> list[float]:
        return [v.item() for k, v in self.method.details.items() if k.startswith(f"{name}/")]


# ---- worked values ------------------------------------------------------------------------------------


def test_scd() -> None:
    sheet = Sheet()
    assert sheet.value("scd").item() == pytest.approx(0.514348, rel=2e-6)
    assert sheet.parts("scd") == pytest.approx([0.164256, 0.166635, 0.183458], rel=4e-6)
    for adapter in sheet.method.adapters:
        adapter[2] = nn.Identity()  # type: ignore[index]
    assert sheet.value("scd").item() == pytest.approx(0.0380242, rel=2e-6)


def test_scd_with_relu_on_both_sides() -> None:
    sheet = Sheet()
    teacher = sheet.step.teachers[0]
    teacher.stages = tuple(F.relu(t) for t in teacher.stages)
    assert sheet.value("scd").item() == pytest.approx(0.0120796, rel=5e-6)


def test_srd() -> None:
    sheet = Sheet()
    assert sheet.value("srd").item() == pytest.approx(2.93953, rel=3e-6)
    assert sheet.parts("srd") == pytest.approx([0.918475, 1.00853, 1.01253], rel=5e-6)
    assert Sheet(tau=3).value("srd").item() == pytest.approx(2.92871, rel=3e-6)
    assert Sheet(srd_final=False).value("srd").item() == pytest.approx(0.918475 + 1.00853, rel=3e-6)


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({}, 1.00513),
        ({"crd_reduction": "sum"}, 3.0154),
        ({"crd_mode": "adjacent"}, 1.98759),
        ({"crd_mode": "final_only"}, 2.03922),
        ({"crd_mode": "final_only", "crd_reduction": "mean"}, 2.03922 / 2),
        ({"crd_mode": "shallow_to_deep"}, 1.00304),
        ({"crd_mode": "bidirectional"}, (1.00513 + 1.00304) / 2),
    ],
)
def test_crd_review(options: dict[str, Any], value: float) -> None:
    assert Sheet(**options).value("crd_review").item() == pytest.approx(value, rel=6e-6)


def test_review_pairs() -> None:
    sheet = Sheet()
    sheet.value("crd_review")
    assert [3 * v for v in sheet.parts("crd_review")] == pytest.approx([0.976187, 1.02782, 1.01140], rel=5e-6)
    counts = {mode: len(review_pairs(3, mode)) for mode in ("all", "adjacent", "final_only")}
    assert counts == {"all": 3, "adjacent": 2, "final_only": 2}
    assert review_pairs(3, "final_only") == [(3, 1), (3, 2)]
    assert review_pairs(1, "all") == []


def test_cross_entropies_and_total() -> None:
    sheet = Sheet(review_warmup=0)
    values = sheet.method.losses(sheet.step, list(sheet.method.terms))
    assert values["ce"].item() == pytest.approx(5.25539, rel=2e-6)
    assert (values["ce"] + values["aux_ce"]).item() == pytest.approx(16.1551, rel=5e-6)
    total = weighted(sheet.method, values, 1)
    assert total.item() == pytest.approx(23.1859, rel=3e-6)
    gradients = torch.autograd.grad(total, [*sheet.maps, *sheet.z_s])
    norms = [d.norm().item() for d in gradients]
    expected = [0.00434571, 0.00614098, 0.0107586, 0.514525, 0.520866, 0.513056]
    assert norms == pytest.approx(expected, rel=5e-6)


def test_gradient_of_the_review() -> None:
    sheet = Sheet()
    gradients = torch.autograd.grad(sheet.value("crd_review"), sheet.z_s, allow_unused=True)
    assert gradients[2] is None
    assert [d.norm().item() for d in gradients[:2]] == pytest.approx([0.0412769, 0.0241511], rel=5e-6)  # type: ignore[union-attr]
    other = Sheet(crd_mode="shallow_to_deep")
    upwards = torch.autograd.grad(other.value("crd_review"), other.z_s, allow_unused=True)
    assert upwards[0] is None and upwards[1] is not None and upwards[2] is not None


@pytest.mark.parametrize(
    ("net", "counts", "adapters"),
    [
        (((64, 32, 32), (128, 16, 16), (256, 8, 8)), [112_868, 67_812], [4_224, 16_640, 66_048]),
        (((32, 32, 32), (64, 16, 16), (128, 8, 8)), [34_980, 23_716], [1_088, 4_224, 16_640]),
    ],
)
def test_parameter_counts(net: Any, counts: list[int], adapters: list[int]) -> None:
    plan = ExitPlan(net, net[-1][0], 100, "byot")
    assert [sum(p.numel() for p in e.parameters()) for e in plan.make()] == counts
    widths = [c for c, _, _ in net]
    students = widths if counts[0] > 1e5 else [32, 64, 128]
    made = [c * s + 2 * c for c, s in zip(widths, students)]
    assert made == adapters


# ---- options ------------------------------------------------------------------------------------------


def test_scd_modes_are_their_losses() -> None:
    for mode, function in {
        "cwd": lambda a, t: losses.cwd(a, t, 4.0),
        "ickd": losses.ickd,
        "se_kl": lambda a, t: losses.kd(losses.gap(a), losses.gap(t), 1.0),
        "gap_mse": losses.channel_mse,
    }.items():
        for relation in (False, True):
            sheet = Sheet(scd_mode=mode, scd_relation=relation)
            adapted = [a(m) for a, m in zip(sheet.method.adapters, sheet.maps)]
            expected = sum(function(a, t) for a, t in zip(adapted, sheet.targets))
            if relation:
                expected += sum(
                    losses.rkd(losses.gap(a), losses.gap(t), 1.0, 2.0) for a, t in zip(adapted, sheet.targets)
                )
            assert sheet.value("scd").item() == pytest.approx(expected.item(), rel=1e-9)


def test_scd_does_not_see_where_things_are() -> None:
    sheet = Sheet()
    before = sheet.value("scd").item()
    turned = sheet.step.student
    turned.stages = tuple(m.flip(2).transpose(2, 3) for m in turned.stages)
    assert sheet.value("scd").item() == pytest.approx(before, rel=1e-12)


def test_schedules() -> None:
    method = MTKDSSR(decay=True)
    assert method.terms["crd_review"].factor(1) == pytest.approx(1 / 20)
    assert method.terms["crd_review"].factor(20) == 1
    assert [method.terms["scd"].factor(e) for e in (59, 60, 160)] == pytest.approx([6, 5.4, 4.86])
    assert MTKDSSR(review_warmup=0).terms["crd_review"].factor(1) == 1
    assert [scaled_epochs(100, e) for e in (1, 5, 30, 240, 500)] == [1, 2, 12, 100, 100]


def test_equal_exits_have_nothing_to_review_and_shifts_change_nothing() -> None:
    sheet = Sheet()
    before = sheet.value("crd_review").item()
    sheet.method.exits[0].z = sheet.z_s[0] + 7  # type: ignore[union-attr]
    assert sheet.value("crd_review").item() == pytest.approx(before, rel=1e-12)
    for exit_ in sheet.method.exits:
        exit_.z = sheet.z_s[2]  # type: ignore[union-attr]
    assert sheet.value("crd_review").item() == pytest.approx(0, abs=1e-12)


def test_alone_it_is_plain_training_and_with_one_stage_kd() -> None:
    plain = MTKDSSR(w_scd=0, w_srd=0, w_review=0, w_aux=0)
    assert plain.active(30) == ["ce"]
    student, teacher = TinyNet([(4, 8)]).train(), TinyNet([(6, 4)]).eval().requires_grad_(False)
    method = built(MTKDSSR(w_scd=0, w_review=0, w_aux=0), student, teacher)
    kd = built(KD(ce=1, kd=1), student, teacher)
    step = make_step(student, teacher)
    a, b = (weighted(m, m.losses(step, m.active(30)), 30).item() for m in (method, kd))
    assert a == pytest.approx(b, rel=1e-6)
    values = method.losses(step, ["aux_ce", "crd_review"])
    assert all(v.item() == 0 and v.requires_grad for v in values.values())


# ---- networks and gradient -----------------------------------------------------------------------------


@pytest.mark.parametrize("nets", PAIRS)
def test_gradient_reach(nets: str) -> None:
    for term, parts in {
        "scd": {"adapters"},
        "srd": {"exits"},
        "crd_review": {"exits"},
        "aux_ce": {"exits"},
        "ce": set(),
    }.items():
        method, student, teacher = ready("mtkd_ssr", nets)
        method.losses(make_step(student, teacher), [term])[term].backward()
        got = {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None}
        assert got == parts, term
        assert all(p.grad is None for p in teacher.parameters())
        assert (student.fc.weight.grad is not None) == (term in ("ce", "srd"))
        assert student.convs[0].weight.grad is not None


def test_stages_are_aligned_from_the_deep_end() -> None:
    method, *_ = ready("mtkd_ssr", "other depth")
    assert (method.own, method.other) == ((0, 1), (2, 3))
    assert method.terms["scd"].taps == (
        "student.stages[0]",
        "student.stages[1]",
        "teacher.stages[2]",
        "teacher.stages[3]",
    )
    assert len(method.exits) == 1  # type: ignore[arg-type]


def test_projects_where_the_teachers_last_map_is_classified() -> None:
    method, student, teacher = ready("mtkd_ssr")
    step = make_step(student, teacher)
    projected = method.project(step)
    assert projected is not None and projected.shape == (6, 9)
    student, teacher = pair()
    hidden = TinyNet(PAIRS["equal sizes"][1], hidden=9).eval().requires_grad_(False)
    assert built(MTKDSSR(), student, hidden).project(make_step(student, hidden)) is None


def test_a_torchvision_network() -> None:
    torchvision = pytest.importorskip("torchvision")
    from kdlab.models import tap

    student, _ = pair()
    big = tap(torchvision.models.resnet18(num_classes=5)).eval().requires_grad_(False)
    for nets in ((student, big), (big, student)):
        own, other = nets[0].train().requires_grad_(True), nets[1].eval().requires_grad_(False)
        method = built(MTKDSSR(exit_epochs=1), own, other)
        step = make_step(own, other)
        total = weighted(method, method.losses(step, list(method.terms)))
        total.backward()
        assert total.isfinite() and list(method.side_logits(step))[-1].startswith("teacher exit")


# ---- the teacher's exits ------------------------------------------------------------------------------


def prepared(option: str, **options: Any) -> tuple[MTKDSSR, Rehearsal, TinyNet, TinyNet]:
    student, teacher = pair()
    method = MTKDSSR(teacher_exits=option, **options)  # type: ignore[arg-type]
    torch.manual_seed(1)
    method.build(*specs(student, teacher))
    method.attach(FACTS)
    engine = Rehearsal([teacher])
    method.prepare(engine)
    return method.train(), engine, student, teacher  # type: ignore[return-value]


def exit_accuracy(method: MTKDSSR, engine: Rehearsal, teacher: TinyNet) -> float:
    with torch.no_grad():
        seen = (method.teacher_exits.backbone or teacher).features(engine.images[:40])
        return (
            (method.teacher_exits.speak(seen.stages)[0].argmax(1) == engine.labels[:40]).float().mean().item()
        )


@pytest.mark.parametrize("option", ["A", "B"])
def test_exits_learn_before_the_students_do_and_the_teacher_stays(option: str) -> None:
    student, teacher = pair()
    before = copy.deepcopy(teacher.state_dict())
    epochs = 30 if option == "A" else 80
    method, engine, _, same = prepared(option, exit_epochs=epochs)
    assert all(torch.equal(v, same.state_dict()[k]) for k, v in before.items())
    assert exit_accuracy(method, engine, same) > 0.6
    assert engine.asked == [("train", epoch) for epoch in range(1, epochs + 1)]
    assert all(not p.requires_grad for p in method.teacher_exits.parameters())
    assert not any(m.training for m in method.teacher_exits.modules()) and method.exits.training
    assert (method.teacher_exits.backbone is not None) == (option == "B")
    state = {k: v.clone() for k, v in method.teacher_exits.state_dict().items()}
    weighted(method, method.losses(make_step(student, same), list(method.terms))).backward()
    assert all(torch.equal(v, state[k]) for k, v in method.teacher_exits.state_dict().items())
    assert all(p.grad is None for p in method.teacher_exits.parameters())


def test_exits_are_trained_once_for_all_students() -> None:
    student, teacher = pair()
    engine = Rehearsal([teacher])
    methods = [MTKDSSR(), MTKDSSR(w_scd=20), MTKDSSR(crd_mode="adjacent"), MTKDSSR(head="mirror")]
    for number, method in enumerate(methods):
        torch.manual_seed(number)
        method.build(*specs(student, teacher))
        method.prepare(engine)
    assert len(engine.made) == 2  # the mirrored heads are others
    states = [m.teacher_exits.state_dict() for m in methods[:3]]
    for other in states[1:]:
        assert all(torch.equal(v, other[k]) for k, v in states[0].items())


def test_the_copy_of_the_teacher_speaks_in_its_place() -> None:
    method, _, student, teacher = prepared("B", exit_epochs=4)
    step = make_step(student, teacher)
    with torch.no_grad():
        copied = method.teacher_exits.backbone.features(step.images)  # type: ignore[union-attr]
    own = [
        losses.kd(z, t, 4.0)
        for z, t in zip(method._exits(step.student), method.teacher_exits.speak(copied.stages))
    ]
    expected = sum(own) + losses.kd(step.student.logits, copied.logits, 4.0)
    assert method.losses(step, ["srd"])["srd"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert not torch.allclose(copied.logits, step.teacher.logits)
    with pytest.raises(ConfigError, match="needs the pictures"):
        method.losses(Step(step.student, step.target, step.teachers), ["scd"])


def test_exits_may_learn_along_with_the_student() -> None:
    method, engine, student, teacher = prepared("C")
    assert engine.made == [] and method.terms["teacher_exit_ce"].weight == 1
    step = make_step(student, teacher)
    values = method.losses(step, ["srd", "teacher_exit_ce"])
    values["srd"].backward(retain_graph=True)
    assert all(p.grad is None for p in method.teacher_exits.parameters())
    values["teacher_exit_ce"].backward()
    assert all(p.grad is not None for p in method.teacher_exits.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert method.teacher_exits.training


def test_a_teacher_that_explodes_is_named() -> None:
    student, teacher = pair()
    teacher.convs[0].weight.fill_(float("inf"))
    method = MTKDSSR(exit_epochs=1)
    method.build(*specs(student, teacher))
    with pytest.raises(StudyError, match="not finite; look at the teacher"):
        method.prepare(Rehearsal([teacher]))


def test_state_carries_trained_exits() -> None:
    method, _, student, teacher = prepared("A", exit_epochs=3)
    again = MTKDSSR(exit_epochs=3)
    again.build(*specs(student, teacher))
    again.load_state_dict(method.state_dict())
    step = make_step(student, teacher)
    a, b = (m.train().losses(step, ["srd"])["srd"].item() for m in (method, again))
    assert a == b
    assert not any(key.startswith(("fc", "convs")) for key in method.state_dict())


def test_refusals() -> None:
    for bad, message in (
        ({"teacher_exits": "D"}, "'A' or 'B' or 'C'"),
        ({"crd_mode": "up"}, "'all' or 'adjacent'"),
        ({"crd_reduction": "max"}, "'mean' or 'sum'"),
        ({"scd_mode": "mse"}, "'gap_mse' or 'cwd'"),
        ({"exit_epochs": 0}, "at least 1"),
        ({"tau": 0}, "above 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            MTKDSSR(**bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs 1 teacher"):
        MTKDSSR(teacher_exits="B").build(inspect_net(pair()[0], SHAPE), [])
    with pytest.raises(ConfigError, match="must be built"):
        MTKDSSR().losses(make_step(*pair()), ["scd"])

"""Guards, micro-batches, precisions, fixed views, and the hooks that methods use."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kdlab
from kdlab.errors import ConfigError, StudyError
from kdlab.methods import Method, Term, register, registry
from kdlab.training.student import StudentRun
from tests.small_study import run_to, same, small, weights


@pytest.fixture(autouse=True)
def methods_of_these_tests():
    """Known here and nowhere else: other tests go through all methods there are."""
    before = dict(registry._METHODS)
    register(Exploding)
    register(Asking)
    yield
    registry._METHODS.clear()
    registry._METHODS.update(before)


class Exploding(Method):
    """Its second term turns infinite, or its gradient does, at one step of its life."""

    key = "exploding"

    def __init__(self, at: int = 5, gradient: bool = False) -> None:
        super().__init__(Term("ce", 1.0, ("student.logits", "target")), Term("bad", 1.0, ("student.logits",)))
        self.at, self.gradient = at, gradient
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def losses(self, step, active):
        self.calls += 1
        zero = step.student.logits.sum() * 0.0
        if int(self.calls) == self.at:
            zero = (zero + 0.0).sqrt() if self.gradient else zero + math.inf
        return {"ce": F.cross_entropy(step.student.logits, step.target), "bad": zero}


@pytest.mark.parametrize("gradient", [False, True])
def test_one_student_that_fails_is_stopped_and_the_others_go_on(tmp_path, gradient):
    plain = small(tmp_path, folder=tmp_path / "plain").fit(progress=False)
    students = {"alone": "ce", "boom": Exploding(5, gradient), "KD": "kd"}
    study = small(tmp_path, students=students, seeds=2, checkpoint_seconds=1e-6).fit(progress=False)
    assert study.state == "finished" and study.error is None
    for name in ("alone", "KD"):
        assert same(weights(study, name), weights(plain, name))
    failures = study.failures()
    assert [(f["student"], f["seed"], f["step"], f["epoch"]) for f in failures] == [
        ("boom", 0, 5, 2),
        ("boom", 1, 5, 2),
    ]
    what = "the gradient of its loss" if gradient else "term 'bad'"
    assert f"batch 2 of epoch 2): {what} is not finite" in failures[0]["text"]
    assert all(torch.isfinite(v).all() for v in weights(study, "boom").values() if v.is_floating_point())
    steps, norms = study.record.series("boom", "grad_norm", 0)
    assert len(steps) == 5 and np.isfinite(norms[:4]).all() and (not np.isfinite(norms[4])) == gradient
    row = study.table().set_index("network").loc["boom"]
    assert "stopped by a guard in epoch 2" in row["note"]
    again = kdlab.load_study(study.folder, device="cpu")
    assert again.state == "finished" and again.failures() == failures
    assert again.record.series("boom", "loss", 0)[0].tolist() == [1, 2, 3, 4, 5]


def test_where_all_fail_the_study_fails_and_says_why(tmp_path):
    study = small(tmp_path, students={"a": Exploding(2), "b": Exploding(4)})
    with pytest.raises(StudyError, match=r"'a' was stopped at step 2.*'b' was stopped at step 4 .*learning"):
        study.fit(progress=False)
    assert study.state == "failed"


def test_a_failed_student_can_be_forked_from_before_its_fault(tmp_path):
    study = small(tmp_path, students={"a": Exploding(7), "b": "ce"}).fit(progress=False)
    assert study.failures()[0]["step"] == 7
    with pytest.raises(StudyError, match="trained to step 7 only"):
        study.fork("a", at_step=8).result(5)
    study.fork("a", at_epoch=2, name="rescued", method="kd").result(5)
    study.fit(progress=False)
    assert study.record.series("rescued", "loss")[0].tolist() == [7, 8, 9] and study.state == "finished"


# ---- memory ---------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """Without batch normalisation, which would see the parts of a batch alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3, 2), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


def test_micro_batches_add_up_to_the_gradient_of_the_batch(tmp_path):
    runs = {
        name: small(
            tmp_path, student=Plain, folder=tmp_path / name, students={"KD": "kd"}, micro_batch=micro
        ).fit(progress=False)
        for name, micro in {"whole": None, "parts": 12}.items()
    }
    for key in ("loss", "grad_norm", "term/kd", "train_correct"):
        whole, parts = (runs[name].record.series("KD", key)[1] for name in ("whole", "parts"))
        np.testing.assert_allclose(parts, whole, rtol=2e-4)
    for a, b in zip(weights(runs["whole"], "KD").values(), weights(runs["parts"], "KD").values()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_out_of_memory_halves_what_goes_through_at_once_and_goes_back(tmp_path, monkeypatch):
    expected = small(tmp_path, folder=tmp_path / "expected", micro_batch=8).fit(progress=False)
    original, tried = StudentRun._backward, []

    def limited(self, inputs, share):
        tried.append(len(inputs.target))
        if len(inputs.target) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB.")
        return original(self, inputs, share)

    monkeypatch.setattr(StudentRun, "_backward", limited)
    study = small(tmp_path).fit(progress=False)
    assert list(dict.fromkeys(tried))[:3] == [32, 16, 8] and study.state == "finished"
    assert "parts of 8" in study.board.latest("note")
    assert same(weights(study, "KD"), weights(expected, "KD"))
    monkeypatch.setattr(
        StudentRun, "_backward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no"))
    )
    with pytest.raises(StudyError, match="memory is too small.*fewer students"):
        small(tmp_path, folder=tmp_path / "hopeless").fit(progress=False)


# ---- options --------------------------------------------------------------------------------------------


def test_bf16_students_learn_and_are_saved_in_full_precision(tmp_path):
    plain = small(tmp_path, folder=tmp_path / "plain").fit(progress=False)
    study = small(tmp_path, precision="bf16").fit(progress=False)
    assert all(v.dtype != torch.bfloat16 for v in weights(study, "KD").values())
    ours, theirs = study.record.series("KD", "loss")[1], plain.record.series("KD", "loss")[1]
    assert not np.array_equal(ours, theirs)
    np.testing.assert_allclose(ours[:3], theirs[:3], rtol=0.05)
    teacher_only = small(tmp_path, folder=tmp_path / "t", teacher_precision="bf16").fit(progress=False)
    assert same(weights(teacher_only, "alone"), weights(plain, "alone"))  # it reads no teacher
    assert not same(weights(teacher_only, "KD"), weights(plain, "KD"))


def test_fixed_views_are_exact_through_a_resume_and_said_in_the_code(tmp_path):
    settings = dict(students={"KD": "kd", "AT": "at"}, teacher_views=2, epochs=5)
    whole = small(tmp_path, folder=tmp_path / "whole", **settings).fit(progress=False)
    study = small(tmp_path, **settings)
    run_to(study, 7)
    study.stop()
    study.wait(20)
    again = kdlab.load_study(study.folder, device="cpu").fit(progress=False)
    for name in whole.names:
        assert same(weights(again, name), weights(whole, name))
    assert "teacher_views=2" in whole.code()
    usual = small(tmp_path, folder=tmp_path / "usual", students={"KD": "kd"}, epochs=5, augment="crop_flip")
    fixed = small(
        tmp_path,
        folder=tmp_path / "fixed",
        students={"KD": "kd"},
        epochs=5,
        augment="crop_flip",
        teacher_views=1,
    )
    assert not same(weights(usual.fit(progress=False), "KD"), weights(fixed.fit(progress=False), "KD"))


def test_fixed_views_go_with_micro_batches_and_teachers_of_unequal_depth(tmp_path):
    several = dict(teacher=["resnet8", "ShuffleV1"], students={"AT": "at", "GPAC": "gpac", "MLKD": "mlkd"})
    several["data"] = kdlab.data.load("digits", limit=200)  # the teachers need not be good
    direct = small(tmp_path, folder=tmp_path / "direct", epochs=1, micro_batch=16, **several)
    views = small(tmp_path, folder=tmp_path / "views", epochs=1, micro_batch=16, teacher_views=3, **several)
    direct.fit(progress=False)
    views.fit(progress=False)
    assert len(views.record.series("MLKD", "loss")[1]) == 3  # its second view is a fixed one, too
    for name in ("AT", "GPAC"):  # without augmentation the pictures are the same
        ours, theirs = (s.record.series(name, "loss")[1] for s in (views, direct))
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-3)


def test_deterministic_mode_is_put_back_afterwards(tmp_path):
    before = torch.are_deterministic_algorithms_enabled()
    study = small(tmp_path, deterministic=True, students={"a": "ce", "b": "at"})
    run_to(study, 2)
    assert study.call(torch.are_deterministic_algorithms_enabled).result(5) is True
    study.fit(progress=False)
    assert torch.are_deterministic_algorithms_enabled() == before


@pytest.mark.slow
def test_compiled_students_learn_what_the_others_learn(tmp_path):
    one = dict(student=Plain, students={"a": "ce"}, teacher=None, batch_size=40, epochs=2)
    plain = small(tmp_path, folder=tmp_path / "plain", **one).fit(progress=False)
    study = small(tmp_path, compile="default", **one).fit(progress=False)
    for key in ("loss", "grad_norm"):
        ours, theirs = (s.record.series("a", key)[1] for s in (study, plain))
        assert len(ours) == 4
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)


def test_options_that_cannot_work_are_refused_before_work(tmp_path):
    def refused(match, **options):
        with pytest.raises(ConfigError, match=match):
            small(tmp_path, **options)
        assert not (tmp_path / "study").exists()

    refused("use 'bf16'", precision="fp16")
    refused("precision", precision="int4")
    refused("CUDA graphs", compile="graphs")
    refused("teacher_views", teacher_views=0)
    refused("micro_batch", micro_batch=1)
    refused("epochs 1 to 3", keep=[2, 99])
    refused("kept checkpoints", keep="sometimes")
    refused("option named 'epoch'", epoch=3)
    refused("checkpoint_seconds", checkpoint_seconds=0)


# ---- what methods may ask for ---------------------------------------------------------------------------


class Asking(Method):
    """Asks for everything that the engine offers."""

    key = "asking"
    second_view = "crop_flip"
    trained = {"scale": "a number of its own"}
    prepared: list[int] = []

    def __init__(self) -> None:
        super().__init__(
            Term("ce", 1.0, ("student.logits", "target")),
            Term("views", 1.0, ("student.logits", "teacher.logits", "index")),
        )

    def build(self, student, teachers):
        super().build(student, teachers)
        self.scale = nn.Parameter(torch.ones(()))
        self.fixed = nn.Parameter(torch.ones(()))

    def parameter_groups(self):
        return [{"params": [self.scale], "weight_decay": 0.0, "lr_scale": 0.5}]

    def attach(self, data):
        self.register_buffer("bank", torch.zeros(data.size))
        self.register_buffer("table", torch.zeros(data.num_classes))
        self.register_buffer("mean", torch.zeros(()))
        self.facts = data

    def prepare(self, preparation):
        Asking.prepared.append(1)

        def table():
            Asking.prepared.append(2)
            right = torch.zeros(10)
            for images, labels, _ in preparation.batches("val"):
                guess = preparation.teachers[0](images).argmax(1)
                right += torch.bincount(labels[guess == labels], minlength=10)
            return {"right": right, "noise": torch.randn(3)}

        self.table.copy_(preparation.shared("table", table)["right"])
        seen = [index for _, _, index in preparation.batches("train")]
        again = [index for _, _, index in preparation.batches("train", epoch=1)]
        assert sorted(torch.cat(seen).tolist()) == sorted(torch.cat(again).tolist())
        self.mean.copy_(next(iter(preparation.batches("train", epoch=1)))[0].mean())

    def losses(self, step, active):
        assert step.second is not None and step.second.student.logits.shape == step.student.logits.shape
        assert not torch.equal(step.second.teacher.logits, step.teacher.logits)
        self.bank[step.index] += 1
        gap = (step.second.student.logits - step.second.teacher.logits).square().mean()
        values = {"ce": F.cross_entropy(step.student.logits, step.target), "views": gap * self.scale}
        return {name: values[name] for name in active}


def test_methods_get_data_facts_preparation_second_views_and_groups_of_their_own(tmp_path):
    Asking.prepared.clear()
    plain = small(tmp_path, folder=tmp_path / "plain", students={"KD": "kd"}, epochs=2).fit(progress=False)
    study = small(tmp_path, students={"a": Asking(), "KD": "kd", "b": Asking()}, epochs=2)
    run_to(study, 4)
    a = next(s for s in study._run.students if s.name == "a")
    seen = study.call(lambda: copy.deepcopy(a.method.state_dict())).result(5)
    assert Asking.prepared == [1, 2, 1]  # both prepared, the table made once
    assert seen["table"].sum() > 0 and seen["mean"] != 0
    counts = torch.bincount(study.data.train.index, minlength=len(seen["bank"]))
    assert seen["bank"].sum() == 3 * 0 + sum(len(b) for b in itertools.islice(_batches(study), 4))
    assert (seen["bank"] <= 2 * counts).all()
    assert a.method.facts.labels[study.data.train.index].equal(study.data.train.labels)
    assert seen["fixed"] == 1.0 and seen["scale"] != 1.0  # only what a group names is trained
    rates = [g["lr"] for g in a.optimizer.param_groups]
    assert rates[1] == pytest.approx(rates[0] / 2) and a.optimizer.param_groups[1]["weight_decay"] == 0.0
    study.stop()
    study.wait(20)
    again = kdlab.load_study(study.folder, device="cpu").fit(progress=False)
    assert Asking.prepared == [1, 2, 1]  # not again after a resume
    assert same(weights(again, "KD"), weights(plain, "KD"))  # another's second view changes nothing
    assert same(weights(again, "a"), weights(again, "b"))


def _batches(study):
    size, per = study.recipe.batch_size, study.steps_per_epoch
    count = len(study.data.train)
    for step in itertools.count():
        yield range(min(size, count - (step % per) * size))


def test_two_different_second_views_are_refused(tmp_path):
    @register
    class AskingOther(Asking):
        """Wants another view."""

        key = "asking_other"
        title = "AskingOther"
        second_view = "shift"

        def __init__(self) -> None:
            super().__init__()

    with pytest.raises(ConfigError, match="wants 'crop_flip'.*'b' has 'shift'.*two studies"):
        small(tmp_path, students={"a": Asking(), "b": AskingOther()})
    study = small(tmp_path, students={"a": Asking(), "plain": "kd"})
    for late in (lambda: study.add("b", AskingOther()), lambda: study.fork("plain", 1, method=AskingOther())):
        with pytest.raises(ConfigError, match="AskingOther wants 'shift'"):
            late()


# ---- the record -----------------------------------------------------------------------------------------


def test_history_by_epoch_and_by_step_agree(tmp_path):
    study = small(tmp_path, seeds=2)
    study.set("KD", "kd", weight=0.5, at_step=4)
    study.fit(progress=False)
    steps, epochs = study.history(per="step"), study.history()
    assert len(steps) == 2 * 2 * 9 and len(epochs) == 2 * 2 * 3
    kd = steps.query("student == 'KD' and seed == 1")
    assert kd["step"].tolist() == list(range(1, 10)) and kd["epoch"].tolist() == [1] * 3 + [2] * 3 + [3] * 3
    np.testing.assert_allclose(kd["weighted/kd"] / kd["term/kd"], [0.9] * 4 + [0.5] * 5, rtol=1e-6)
    np.testing.assert_allclose(kd["weighted/kd"] + kd["weighted/ce"], kd["loss"], rtol=1e-5)
    row = epochs.query("student == 'KD' and seed == 1 and epoch == 2").iloc[0]
    middle = kd.query("epoch == 2")
    for key, column in {"train_loss": "loss", "grad_norm": "grad_norm", "weighted/kd": "weighted/kd"}.items():
        assert row[key] == pytest.approx(middle[column].mean(), rel=1e-5)
    assert {"sample_accuracy", "sample_loss", "val_accuracy", "test_accuracy"} <= set(epochs)


def test_the_gradient_norm_is_that_of_the_weighted_loss(tmp_path):
    study = small(tmp_path, students={"KD": "kd"}, epochs=1)
    run_to(study, 2)
    student = study._run.students[0]
    norms = [p.grad.square().sum() for p in student.parameters]  # of the last step, still there
    assert study.record.series("KD", "grad_norm")[1][-1] == pytest.approx(math.sqrt(sum(norms)), rel=1e-5)
    study.stop()
    study.wait(20)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_footprint_said_in_advance_is_what_is_there_afterwards(tmp_path, optimizer):
    students = {"alone": "ce", "CMKD": "cmkd", "wide": kdlab.Student("kd", network="resnet8x4")}
    recipe = {"epochs": 3, "batch_size": 32, "optimizer": optimizer, "lr": 0.01}
    study = small(tmp_path, students=students, seeds=2, recipe=recipe, batch_size=None)
    said = study.footprint()
    study.fit(progress=False)
    there = sum(p.stat().st_size for p in study.folder.rglob("*.*") if p.name != "probe_set.safetensors")
    assert said.total == pytest.approx(there, rel=0.05)
    assert "kept" in str(said) and "MB" in str(said)


def test_tensorboard_gets_what_the_record_gets(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    study = small(tmp_path)
    study.set("KD", "kd", weight=0.5, at_step=4)
    study.fit(progress=False, tensorboard=True)
    events = EventAccumulator(str(study.folder / "tensorboard" / "seed-0" / "KD")).Reload()
    loss = [(e.step, e.value) for e in events.Scalars("loss")]
    steps, values = study.record.series("KD", "loss")
    assert loss == [(int(s), pytest.approx(float(v))) for s, v in zip(steps, values)]
    assert len(events.Scalars("test/accuracy")) == 3

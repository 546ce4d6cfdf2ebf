"""The lockstep study: fairness, exactness, steering, resuming, the folder, and refusals."""

from __future__ import annotations

import json
import math
import os
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kdlab
from kdlab.data import Batches
from kdlab.errors import CheckpointError, ConfigError, KDLabError, StudyError, UnknownNameError
from kdlab.methods import CE, KD
from kdlab.training.seeds import derive, seeded
from tests.small_study import run_to, same, small, weights

# ---- fairness and exactness -----------------------------------------------------------------------------


def test_a_student_in_lockstep_equals_the_same_student_alone_bit_for_bit(tmp_path):
    together = small(tmp_path, students={"alone": "ce", "CMKD": "cmkd", "KD": "kd"}).fit(progress=False)
    for name, method in {"KD": "kd", "CMKD": "cmkd"}.items():
        single = small(tmp_path, students={name: method}, folder=tmp_path / name).fit(progress=False)
        assert same(weights(together, name), weights(single, name))
    assert not same(weights(together, "alone"), weights(together, "KD"))


def test_a_study_of_one_is_the_textbook_loop(tmp_path):
    study = small(tmp_path, students={"KD": kdlab.methods.KD(temperature=3.0)}).fit(progress=False)
    data, recipe = study.data, study.recipe
    teacher = study.network(study.teacher_name)
    with seeded(derive(0, "student"), torch.device("cpu")):
        net = kdlab.models.build("resnet8", num_classes=10, in_channels=1)
    batches = Batches(
        data.train,
        batch_size=recipe.batch_size,
        seed=derive(0, "batches"),
        mean=data.mean,
        std=data.std,
        augment=recipe.augment or data.augment,
    )
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.1, momentum=0.9, nesterov=recipe.nesterov, weight_decay=5e-4
    )
    losses = []
    for epoch in range(1, 4):
        for number, batch in enumerate(batches.epoch(epoch)):
            done = ((epoch - 1) * batches.steps_per_epoch + number) / (3 * batches.steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * 0.5 * (1 + math.cos(math.pi * done))
            net.train()
            logits = net(batch.images)
            soft = F.kl_div(
                F.log_softmax(logits / 3, 1), F.softmax(teacher(batch.images) / 3, 1), reduction="batchmean"
            )
            loss = 0.1 * F.cross_entropy(logits, batch.labels) + 0.9 * 9 * soft
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    np.testing.assert_allclose(study.record.series("KD", "loss")[1], losses, rtol=1e-4)
    for key, value in weights(study, "KD").items():
        torch.testing.assert_close(value, net.state_dict()[key], rtol=1e-3, atol=1e-4)


def test_students_start_equal_and_the_teacher_is_untouched(tmp_path):
    study = small(tmp_path, students={"a": "ce", "b": "kd", "c": "fitnet"})
    study.start(paused=True)
    while study._run is None:
        time.sleep(0.02)
    a, b, c = study.call(lambda: [s.net.state_dict() for s in study._run.students]).result(20)
    assert same(a, b) and same(a, c)
    study.fit(progress=False)
    cached = kdlab.training.get_teacher("resnet8", study.whole_data, epochs=2, device="cpu", progress=False)
    assert kdlab.models.state_hash(study.teachers[0].net) == cached.hash == study.teachers[0].hash


def test_seeds_differ_and_the_table_gives_mean_and_spread(tmp_path):
    study = small(tmp_path, seeds=2).fit(progress=False)
    assert not same(weights(study, "KD", seed=0), weights(study, "KD", seed=1))
    table = study.table().set_index("network")
    last = [study.record.epoch_series("KD", "test_accuracy", seed)[1][-1] for seed in (0, 1)]
    assert table.loc["KD", "last"] == pytest.approx(100 * np.mean(last), abs=1e-3)
    assert table.loc["KD", "last_sd"] == pytest.approx(100 * np.std(last, ddof=1), abs=1e-3)
    assert table.loc["alone", "gain"] == 0.0 and table.loc["resnet8", "role"] == "teacher"
    assert len(study.history()) == 2 * 2 * 3


def test_recorded_accuracy_is_that_of_the_saved_network(tmp_path):
    study = small(tmp_path).fit(progress=False)
    net = study.network("KD")
    test = study.data.test
    right = (net(study.data.normalize(test.images)).argmax(1) == test.labels).float().mean().item()
    assert study.results()["KD"]["last"][0] == pytest.approx(right, abs=1e-6)
    best = study.network("KD", "best")
    right = (best(study.data.normalize(test.images)).argmax(1) == test.labels).float().mean().item()
    assert study.results()["KD"]["best"][0] == pytest.approx(right, abs=1e-6)


def test_snapshot_shows_what_the_network_shows(tmp_path):
    study = small(tmp_path, students={"KD": "kd", "CMKD": "cmkd"}).fit(progress=False)
    assert study.snapshot_epochs() == [0, 1, 2, 3]
    probe, net = study.probe_set, study.network("CMKD")
    seen = net.features(study.data.normalize(probe.images))
    snapshot = study.snapshot("CMKD")
    np.testing.assert_allclose(snapshot.logits, seen.logits.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(snapshot.embedding, seen.embedding.numpy(), rtol=2e-3, atol=2e-3)
    last = list(snapshot.stages)[-1]
    np.testing.assert_allclose(
        snapshot.stages[last], seen.stages[-1].mean((2, 3)).numpy(), rtol=2e-3, atol=2e-3
    )
    attention = seen.stages[-1][probe.attention_positions].square().mean(1).numpy()
    np.testing.assert_allclose(snapshot.attention[last], attention, rtol=1e-3, atol=1e-4)
    assert snapshot.projected.shape == study.snapshot("resnet8").embedding.shape
    assert study.snapshot("KD").projected is None and set(snapshot.side)
    assert probe.fit.sum() == (~probe.fit).sum() == 40
    assert len(set(probe.labels[~torch.from_numpy(probe.fit)][:10].tolist())) == 10  # classes take turns


# ---- steering -------------------------------------------------------------------------------------------


def test_a_change_by_hand_is_exact_recorded_and_repeatable_from_its_code(tmp_path):
    kdlab.training.get_teacher("resnet8", kdlab.data.load("digits"), epochs=2, device="cpu", progress=False)
    live = small(tmp_path, seeds=2)
    run_to(live, 4)
    live.set("KD", "kd", enabled=False).result(10)
    live.set("KD", "ce", weight=2.0).result(10)
    assert live.terms("KD")["kd"].enabled is False and live.terms("KD")["ce"].weight == 2.0
    live.fit(progress=False)
    marks = live.record.marks()
    assert [(m["step"], m["term"], m["text"]) for m in marks] == [
        (4, "kd", "kd off"),
        (4, "ce", "ce weight 2"),
    ]
    steps, values = live.record.series("KD", "term/kd", seed=0)
    assert np.isfinite(values[:4]).all() and np.isnan(values[4:]).all() and steps[0] == 1
    assert np.isnan(live.record.series("KD", "term/kd", seed=1)[1][4:]).all()  # later seeds repeat it
    assert np.isfinite(live.record.series("KD", "term/kd", seed=1)[1][:4]).all()
    code = live.code().replace("KD-again", "x").replace("'study-again'", repr(str(tmp_path / "again")))
    code = code.replace("kdlab.Study(", "kdlab.Study(device='cpu', ").replace("fit()", "fit(progress=False)")
    names: dict = {}
    exec(code, names)
    for seed in (0, 1):
        assert same(weights(live, "KD", seed), weights(names["study"], "KD", seed))
        assert same(weights(live, "alone", seed), weights(names["study"], "alone", seed))
    untouched = small(tmp_path, folder=tmp_path / "plain").fit(progress=False)
    assert not same(weights(live, "KD"), weights(untouched, "KD"))
    assert same(weights(live, "alone"), weights(untouched, "alone"))


def test_pause_holds_the_step_exactly_and_single_steps_count(tmp_path):
    study = small(tmp_path, epochs=200)
    run_to(study, 5)
    assert study.state == "paused"
    position = study.call(lambda: study._run.position).result(5)
    time.sleep(0.3)
    assert study.call(lambda: study._run.position).result(5) == position == 5
    study.step(3)
    deadline = time.monotonic() + 30
    while study.call(lambda: study._run.position).result(5) < 8 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    assert study.call(lambda: study._run.position).result(5) == 8
    study.stop()
    assert study.wait(10) and study.state == "stopped"


def test_a_term_that_is_off_equals_weight_zero_and_needs_no_teacher(tmp_path):
    off = kdlab.methods.KD()
    off.term("kd").set(enabled=False)
    zero = kdlab.methods.KD()
    zero.term("kd").set(weight=0.0)
    light = CE().apply_terms({"ce": {"weight": 0.1}})
    study = small(tmp_path, students={"off": off, "zero": zero, "ce": light}).fit(progress=False)
    assert same(weights(study, "off"), weights(study, "zero"))
    assert same(weights(study, "off"), weights(study, "ce"))


def test_live_snapshot_does_not_disturb_training(tmp_path):
    watched, plain = small(tmp_path), small(tmp_path, folder=tmp_path / "plain").fit(progress=False)
    run_to(watched, 3)
    seen = watched.live_snapshot(count=20).result(10)
    assert set(seen) == {"alone", "KD"} and seen["KD"].logits.shape == (20, 10)
    watched.fit(progress=False)
    assert same(weights(watched, "KD"), weights(plain, "KD"))


# ---- resuming -------------------------------------------------------------------------------------------


def test_stop_in_mid_epoch_and_resume_from_the_folder_is_exact(tmp_path):
    students = {"alone": "ce", "CMKD": "cmkd"}
    whole = small(tmp_path, students=students, folder=tmp_path / "whole").fit(progress=False)
    study = small(tmp_path, students=students)
    run_to(study, 4)
    study.set("alone", "ce", weight=1.0)
    study.stop()
    study.wait(10)
    again = kdlab.load_study(tmp_path / "study", device="cpu")
    assert again.state == "stopped" and len(again.record.series("CMKD", "loss")[0]) == 4
    again.fit(progress=False)
    assert again.state == "finished"
    for name in students:
        assert same(weights(again, name), weights(whole, name))
        for key in ("loss", "lr", "train_correct"):
            np.testing.assert_array_equal(
                again.record.series(name, key)[1], whole.record.series(name, key)[1]
            )
    drop = ["seconds"]
    assert again.history().drop(columns=drop).equals(whole.history().drop(columns=drop))
    assert same(weights(again, "alone", epoch="best"), weights(whole, "alone", epoch="best"))


def test_interrupted_teacher_training_goes_on_and_never_leaves_half_a_teacher(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLAB_CACHE", str(tmp_path / "cache"))
    study = small(tmp_path, teacher="resnet14", teacher_epochs=4)
    study.start()
    deadline = time.time() + 60
    while (study.board.latest("progress") or {}).get("step", 0) < 3 and time.time() < deadline:
        time.sleep(0.02)
    study.stop()
    assert study.wait(20) and study.state == "stopped" and study.error is None
    cache = tmp_path / "cache" / "teachers"
    assert not list(cache.rglob("teacher.json")) and not list(cache.rglob("teacher.safetensors"))
    study.fit(progress=False)
    interrupted = study.teachers[0].hash
    monkeypatch.setenv("KDLAB_CACHE", str(tmp_path / "other"))
    straight = kdlab.training.get_teacher(
        "resnet14", study.whole_data, epochs=4, device="cpu", progress=False
    )
    assert straight.hash == interrupted


def test_damaged_cached_teacher_is_refused_with_the_folder_to_delete(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLAB_CACHE", str(tmp_path / "cache"))
    data = kdlab.data.load("digits")
    kdlab.training.get_teacher("resnet8", data, epochs=1, device="cpu", progress=False)
    path = next((tmp_path / "cache").rglob("teacher.safetensors"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="delete the folder"):
        kdlab.training.get_teacher("resnet8", data, epochs=1, device="cpu", progress=False)
    path.write_bytes(whole[:-4] + b"\x00\x00\x00\x00")
    with pytest.raises(CheckpointError, match="delete the folder"):
        kdlab.training.get_teacher("resnet8", data, epochs=1, device="cpu", progress=False)


# ---- the folder -----------------------------------------------------------------------------------------


def test_same_study_in_its_folder_is_gone_on_with_and_another_is_refused(tmp_path):
    study = small(tmp_path).fit(progress=False)
    before = {p: p.read_bytes() for p in study.folder.rglob("*") if p.is_file()}
    assert small(tmp_path).state == "finished"
    with pytest.raises(StudyError, match=r"another study .*differs in recipe"):
        small(tmp_path, epochs=5)
    with pytest.raises(StudyError, match="differs in students"):
        small(tmp_path, students={"alone": "ce"})
    assert {p: p.read_bytes() for p in study.folder.rglob("*") if p.is_file()} == before


def test_views_of_a_loaded_study_need_only_the_folder(tmp_path):
    study = small(tmp_path).fit(progress=False)
    asked = json.loads((study.folder / "study.json").read_text())
    asked["asked"]["data"] = {"name": "my pictures"}  # as if made from arrays that are not here
    (study.folder / "study.json").write_text(json.dumps(asked))
    again = kdlab.load_study(study.folder, device="cpu")
    assert again.table()["last"].equals(study.table()["last"])
    np.testing.assert_array_equal(again.snapshot("KD").logits, study.snapshot("KD").logits)
    assert (
        again.data.class_names == study.data.class_names
        and again.teachers[0].accuracy == study.teachers[0].accuracy
    )
    assert again.probe_set.labels.equal(study.probe_set.labels)
    assert again.fit(progress=False).state == "finished"  # nothing left to do


def test_a_second_writer_is_told_and_harms_nothing(tmp_path):
    first = small(tmp_path, epochs=300)
    run_to(first, 3)
    second = kdlab.load_study(tmp_path / "study", device="cpu")
    with pytest.raises(StudyError, match="Another process"):
        second.fit(progress=False)
    first.stop()
    assert first.wait(20) and first.error is None


def test_damaged_files_are_named(tmp_path):
    study = small(tmp_path)
    run_to(study, 3)
    study.stop()
    study.wait(10)
    path = study.folder / "seed-0" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"last\.safetensors"):
        kdlab.load_study(study.folder, device="cpu")
    (study.folder / "study.json").write_text("{")
    with pytest.raises(StudyError, match=r"study\.json"):
        kdlab.load_study(study.folder)
    with pytest.raises(StudyError, match="holds no study"):
        kdlab.load_study(tmp_path)


# ---- own networks, methods, data ------------------------------------------------------------------------


class OwnNet(nn.Module):
    """What a user might bring: no kdlab in it."""

    def __init__(self, classes=10):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 16, 3, 2, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
        )
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


def test_modules_as_teacher_and_student_and_their_return(tmp_path):
    torch.manual_seed(0)
    teacher = OwnNet()
    study = small(tmp_path, teacher=teacher, student=OwnNet, students={"a": "kd", "b": "srrl"}).fit(
        progress=False
    )
    assert study.state == "finished" and study.teacher_name == "OwnNet"
    for value, before in zip(teacher.state_dict().values(), OwnNet().state_dict().values(), strict=True):
        assert value.shape == before.shape
    again = kdlab.load_study(study.folder, device="cpu", teacher=teacher, student=OwnNet)
    assert same(weights(again, "a"), weights(study, "a"))
    with pytest.raises(StudyError, match="student=..."):
        kdlab.load_study(study.folder, device="cpu").network("a")


def test_dropout_is_the_same_for_every_student(tmp_path):
    twin = small(tmp_path, student=OwnNet, students={"a": "ce", "b": "kd", "c": "ce"}).fit(progress=False)
    assert same(weights(twin, "a"), weights(twin, "c")) and not same(weights(twin, "a"), weights(twin, "b"))


def test_wrong_things_are_refused_before_work(tmp_path):
    def refused(error, match, **changes):
        with pytest.raises(error, match=match):
            small(tmp_path, **changes)
        assert not (tmp_path / "study").exists()

    refused(UnknownNameError, "resnet8'", student="resnet9")
    refused(UnknownNameError, "'cmkd'", students={"x": "cmdk"})
    refused(UnknownNameError, "digits", data="digit")
    refused(ConfigError, "teacher", teacher=None)
    refused(ConfigError, "classes", teacher=OwnNet(7))
    refused(ConfigError, "classes", student=OwnNet(7))
    refused(
        ConfigError,
        "does not take images of 1x8x8",
        teacher=nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 10)),
    )
    refused(ConfigError, "epochs", epochs=0)
    refused(ConfigError, "seeds", seeds=0)
    refused(ConfigError, "lr", lr=-1.0)
    refused(CheckpointError, "no file", teacher=("resnet8", "nowhere.pth"))
    refused(ConfigError, "student's name", students={"a|b": "ce"})
    refused(ConfigError, "rename", students={"resnet8": "ce"})
    refused(KDLabError, "class", labels_per_class=100000)
    if not torch.cuda.is_available():
        refused(ConfigError, "kdlab doctor", device="cuda")


def test_wrong_commands_are_refused_and_change_nothing(tmp_path):
    study = small(tmp_path)
    with pytest.raises(UnknownNameError, match="did you mean 'KD'"):
        study.set("KDD", "kd", weight=1.0)
    with pytest.raises(UnknownNameError, match="'kd'"):
        study.set("KD", "kdd", weight=1.0)
    with pytest.raises(ConfigError, match="finite"):
        study.set("KD", "kd", weight=float("nan"))
    with pytest.raises(ConfigError, match="no schedule"):
        study.set("KD", "kd", schedule="sometimes")
    with pytest.raises(ConfigError, match="at least one"):
        study.set("KD", "kd")
    assert study.record.marks() == [] and not study.folder.exists()
    study.set("KD", "kd", weight=0.5).result()
    assert study.terms("KD")["kd"].weight == 0.5 and study.methods["KD"].terms["kd"].weight == 0.9
    study.fit(progress=False)
    assert study.record.series("KD", "factor/kd")[1][0] == 0.5
    with pytest.raises(StudyError, match="finished"):
        study.set("KD", "kd", weight=1.0)


def test_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StudyError, match="is a file"):
        small(tmp_path, folder=tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    with pytest.raises(StudyError, match="not empty"):
        small(tmp_path, folder=tmp_path / "full")
    if os.geteuid() != 0:
        (tmp_path / "shut").mkdir(mode=0o500)
        with pytest.raises(StudyError, match="Cannot write"):
            small(tmp_path, folder=tmp_path / "shut" / "study")


def test_methods_given_twice_are_independent(tmp_path):
    kd = KD()
    study = small(tmp_path, students={"a": kd, "b": kd, "c": CE()})
    study.set("a", "kd", weight=0.1).result()
    assert study.terms("b")["kd"].weight == 0.9 and kd.terms["kd"].weight == 0.9

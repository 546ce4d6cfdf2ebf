"""Students that come, fork and go while training runs: exact, recorded, repeatable."""

from __future__ import annotations

import numpy as np
import pytest

import kdlab
from kdlab.errors import ConfigError, KDLabError, StudyError, UnknownNameError
from kdlab.methods import CE, KD
from tests.small_study import run_to, same, small, weights

STEPS = 3  # of an epoch of the small study


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Nobody interferes."""
    students = {"alone": "ce", "KD": "kd", "CMKD": "cmkd"}
    return small(tmp_path_factory.mktemp("plain"), students=students).fit(progress=False)


def test_one_who_is_added_ends_as_if_it_had_been_there_from_the_start(tmp_path, plain):
    study = small(tmp_path)
    assert study.steps_per_epoch == STEPS
    run_to(study, 4)
    study.add("CMKD", "cmkd").result(10)
    assert study.names == ["alone", "KD", "CMKD"] and next(iter(study.terms("CMKD"))) == "ce"
    study.fit(progress=False)
    for name in study.names:
        assert same(weights(study, name), weights(plain, name))
        for key in ("loss", "lr", "grad_norm"):
            np.testing.assert_array_equal(
                study.record.series(name, key)[1], plain.record.series(name, key)[1]
            )
        np.testing.assert_array_equal(study.snapshot(name, -1).logits, plain.snapshot(name, -1).logits)
        assert study.snapshot_epochs(network=name) == plain.snapshot_epochs(network=name)
    mark = study.record.marks()[0]
    assert (mark["kind"], mark["student"], mark["epoch"], mark["text"]) == ("add", "CMKD", 2, "added")
    assert study.table().set_index("network").loc["CMKD", "note"] == "added"


def test_a_finished_study_takes_another_student_at_the_price_of_that_student(tmp_path, plain):
    study = small(tmp_path, seeds=2).fit(progress=False)
    before = {seed: weights(study, "KD", seed) for seed in (0, 1)}
    loaded = kdlab.load_study(study.folder, device="cpu")
    loaded.add("CMKD", kdlab.methods.CMKD()).result(10)
    assert loaded.state == "stopped"
    loaded.fit(progress=False)
    assert loaded.state == "finished" and loaded.results()["CMKD"]["seed"].tolist() == [0, 1]
    assert same(weights(loaded, "CMKD", 0), weights(plain, "CMKD", 0))
    for seed in (0, 1):
        assert same(weights(loaded, "KD", seed), before[seed])
    trained = loaded.history().groupby("student")["step"].count()
    assert trained["KD"] == trained["CMKD"] == 6  # the others were not trained again


def test_a_fork_goes_on_from_its_parent(tmp_path, plain):
    study = small(tmp_path)
    run_to(study, 4)
    study.fork("KD", name="twin").result(10)
    study.fork("KD", name="CE from now on", method="ce").result(10)
    study.fit(progress=False)
    assert same(weights(study, "twin"), weights(plain, "KD"))  # nothing was changed, so nothing differs
    # what KD does with its kd switched off and ce at 1, CE does too
    by_hand = small(tmp_path, folder=tmp_path / "by hand")
    by_hand.set("KD", "kd", enabled=False, at_step=4)
    by_hand.set("KD", "ce", weight=1.0, at_step=4)
    by_hand.fit(progress=False)
    assert same(weights(study, "CE from now on"), weights(by_hand, "KD"))
    steps, _ = study.record.series("twin", "loss")
    assert steps[0] == 5 and steps[-1] == 9
    assert study.history().query("student == 'twin'")["epoch"].tolist() == [2, 3]


@pytest.mark.parametrize("keep", ["none", "geometric"])
def test_a_fork_from_the_past_does_again_what_its_parent_did(tmp_path, keep):
    def steer(study):
        study.set("KD", "kd", weight=0.5, at_step=1).result(10)
        study.set("KD", "ce", weight=0.7, at_step=5).result(10)

    early = small(tmp_path, folder=tmp_path / "early", keep=keep)
    steer(early)
    early.fork("KD", at_step=6, name="other", method="cmkd").result(10)  # planned beforehand
    early.fork("KD", at_epoch=1, name="same").result(10)
    early.fit(progress=False)
    assert same(weights(early, "same"), weights(early, "KD")) is False  # ce was changed after the fork
    late = small(tmp_path, folder=tmp_path / "late", keep=keep)
    steer(late)
    late.fit(progress=False)
    assert late.kept_epochs("KD") == ([] if keep == "none" else [1, 2])
    late.fork("KD", at_epoch=2, name="other", method="cmkd").result(10)
    late.fork("KD", at_epoch=1, name="same").result(10)
    late.fit(progress=False)
    for name in ("KD", "other", "same"):
        assert same(weights(early, name), weights(late, name))
    np.testing.assert_array_equal(
        early.record.series("other", "loss")[1], late.record.series("other", "loss")[1]
    )
    assert late.record.series("other", "loss")[0].tolist() == [7, 8, 9]  # the repetition is not recorded


def test_forks_of_forks_and_a_resume_in_the_middle(tmp_path):
    def steer(study):
        study.fork("KD", at_step=2, name="a", method="srrl")
        study.set("a", "ce", weight=0.5, at_step=3)
        study.fork("a", at_step=5, name="b")
        study.set("b", "ce", weight=0.1, at_step=7)

    whole = small(tmp_path, folder=tmp_path / "whole", seeds=2)
    steer(whole)
    whole.fit(progress=False)
    assert not same(weights(whole, "a"), weights(whole, "b"))
    study = small(tmp_path, folder=tmp_path / "study", seeds=2)
    run_to(study, 6)
    for _ in range(3):  # the forks are made of the past now, in pieces
        study.stop()
        study.wait(10)
        study = kdlab.load_study(study.folder, device="cpu")
        if "a" not in study.names:
            study.fork("KD", at_step=2, name="a", method="srrl").result(10)
            study.set("a", "ce", weight=0.5, at_step=3).result(10)
            study.fork("a", at_step=5, name="b").result(10)
            study.set("b", "ce", weight=0.1, at_step=7).result(10)
        study.start(paused=True)
        study.step(2)
    study.fit(progress=False)
    for seed in (0, 1):
        for name in whole.names:
            assert same(weights(whole, name, seed), weights(study, name, seed)), (name, seed)
    assert {k: t.state() for k, t in study.terms("b").items()} == {
        k: t.state() for k, t in whole.terms("b").items()
    }


def test_one_who_is_dropped_stays_as_it_was_and_the_others_go_on(tmp_path, plain):
    study = small(tmp_path, seeds=2)
    run_to(study, 4)
    study.drop("alone").result(10)
    assert study.ended("alone")["kind"] == "dropped"
    with pytest.raises(StudyError, match="only student left"):
        study.drop("KD")
    with pytest.raises(StudyError, match="not in training any more"):
        study.set("alone", "ce", weight=2.0).result(10)
    study.fit(progress=False)
    assert study.state == "finished" and same(weights(study, "KD"), weights(plain, "KD"))
    assert study.record.series("alone", "loss", seed=0)[0].tolist() == [1, 2, 3, 4]
    assert study.results()["alone"]["seed"].tolist() == [0]  # later seeds leave it out
    row = study.table().set_index("network").loc["alone"]
    assert row["note"] == "dropped in epoch 2" and row["epoch"] == 1
    four_steps = small(tmp_path, folder=tmp_path / "four")
    run_to(four_steps, 4)
    four_steps.stop()
    four_steps.wait(10)
    assert same(weights(study, "alone"), weights(four_steps, "alone"))


@pytest.mark.slow
def test_a_steered_study_is_replayed_to_the_same_weights(tmp_path):
    study = small(tmp_path, seeds=2, students={"alone": "ce", "KD": "kd", "AT": "at"})
    run_to(study, 2)
    study.set("KD", "kd", weight=0.3, schedule="warmup:2").result(10)
    study.fork("KD", name="KD, then SRRL", method="srrl").result(10)
    study.step(3)
    study.add("CMKD", kdlab.methods.CMKD(pseudo_detach=True)).result(10)
    study.drop("AT").result(10)
    study.play()
    study.wait(60)
    study.add("late", kdlab.Student("fitnet", lr=0.02)).result(10)
    study.fork("CMKD", at_epoch=1).result(10)
    study.fit(progress=False)
    assert len(study.names) == 7 and "CMKD, then again" in study.names
    again = study.replay(tmp_path / "replayed")
    assert again.state == "new" and again.names == study.names
    again.fit(progress=False)
    code = study.code().replace("'study-again'", repr(str(tmp_path / "by code")))
    code = code.replace("kdlab.Study(", "kdlab.Study(device='cpu', ").replace("fit()", "fit(progress=False)")
    names: dict = {}
    exec(code, names)
    for other in (again, names["study"]):
        for name in study.names:
            for seed in study.results()[name]["seed"]:
                assert same(weights(study, name, int(seed)), weights(other, name, int(seed))), name
    with pytest.raises(StudyError, match="already"):
        study.replay(tmp_path / "replayed")


def test_a_student_with_a_network_and_an_optimiser_of_its_own_is_labelled(tmp_path):
    students = {
        "KD": "kd",
        "wider": kdlab.Student("kd", network="resnet8x4"),
        "slow": kdlab.Student(KD(), lr=0.001, weight_decay=0.0, optimizer="adamw"),
    }
    study = small(tmp_path, students=students, epochs=2).fit(progress=False)
    table = study.table().set_index("network")
    assert table["differs"].to_dict() == {
        "resnet8": "",
        "KD": "",
        "wider": "resnet8x4",
        "slow": "lr 0.001, weight_decay 0.0, optimizer adamw",
    }
    single = small(tmp_path, student="resnet8x4", students={"KD": "kd"}, epochs=2, folder=tmp_path / "w")
    assert same(weights(single.fit(progress=False), "KD"), weights(study, "wider"))
    slow = small(
        tmp_path,
        students={"KD": "kd"},
        epochs=2,
        folder=tmp_path / "s",
        recipe={**study.recipe.to_dict(), "lr": 0.001, "weight_decay": 0.0, "optimizer": "adamw"},
    )
    assert same(weights(slow.fit(progress=False), "KD"), weights(study, "slow"))
    loaded = kdlab.load_study(study.folder, device="cpu")
    assert loaded.students["wider"].label() == "resnet8x4"
    assert loaded.network("wider").classifier.in_features == 256
    assert "kdlab.Student('kd', network='resnet8x4')" in loaded.code()
    lr = study.record.series("slow", "lr")[1]
    assert 0 < lr.max() <= 0.001 < study.record.series("KD", "lr")[1].max()


def test_wrong_commands_say_what_to_do_and_change_nothing(tmp_path):
    study = small(tmp_path)

    def refused(error, match, call):
        before = list(study.record.commands)
        with pytest.raises(error, match=match):
            future = call()
            future.result(10)
        assert study.record.commands == before

    refused(UnknownNameError, "'KD'", lambda: study.fork("KDD"))
    refused(ConfigError, r"1 to 2.*use add\(\)", lambda: study.fork("KD", at_epoch=0))
    refused(ConfigError, "1 to 2", lambda: study.fork("KD", at_epoch=3))
    refused(ConfigError, "1 to 2", lambda: study.fork("KD", at_epoch=True))
    refused(StudyError, r"nothing to fork; use add\(\)", lambda: study.fork("KD"))
    refused(ConfigError, "already", lambda: study.add("KD", "kd"))
    refused(ConfigError, "already", lambda: study.add("resnet8", "kd"))
    refused(UnknownNameError, "'srrl'", lambda: study.add("new", "srl"))
    refused(ConfigError, "same for all", lambda: study.add("new", kdlab.Student("kd", batch_size=2)))
    refused(UnknownNameError, "weight_decay", lambda: study.add("new", kdlab.Student("kd", wd=2)))
    refused(UnknownNameError, "resnet8'", lambda: study.add("new", kdlab.Student("kd", network="resnet9")))
    refused(KDLabError, "lr", lambda: study.add("new", kdlab.Student("kd", lr=-1)))
    refused(UnknownNameError, "'KD'", lambda: study.drop("KDD"))
    refused(StudyError, "behind the end", lambda: study.drop("KD", at_step=99))
    for wrong in (-1, 1.5, "now", True):
        refused(ConfigError, "at_step must be", lambda w=wrong: study.drop("KD", at_step=w))
        refused(ConfigError, "at_step must be", lambda w=wrong: study.set("KD", "kd", weight=1.0, at_step=w))
        refused(ConfigError, "at_step must be", lambda w=wrong: study.fork("KD", at_step=w, name="n"))
    refused(ConfigError, "True or False, not 'off'", lambda: study.set("KD", "kd", enabled="off"))
    refused(KDLabError, "there is none so far", lambda: study.network("KD", 1))
    refused(ConfigError, "from_seed", lambda: study.drop("KD", from_seed=7))
    refused(ConfigError, "at least one", lambda: study.set("KD", "kd"))
    assert study.state == "new"
    study.fit(progress=False)
    refused(StudyError, "finished", lambda: study.set("KD", "kd", weight=1.0))
    refused(StudyError, "finished", lambda: study.drop("KD"))
    refused(StudyError, "behind the end", lambda: study.fork("KD"))
    study.fork("KD", at_epoch=1, name="f").result(10)
    refused(StudyError, "is itself a fork, made at step 3", lambda: study.fork("f", at_step=2))
    own = CE()
    own.terms["ce"].weight = float("nan")
    refused(ConfigError, "finite", lambda: study.add("nan", own))


def test_gains_are_between_equals_and_planned_forks_may_never_be_made(tmp_path):
    study = small(tmp_path)
    study.fork("alone", at_epoch=2, name="too late", method="kd").result(10)
    study.drop("alone", at_step=5).result(10)
    study.fit(progress=False)
    table = study.table().set_index("network")
    assert np.isnan(table.loc["KD", "gain"])  # the first student ended in epoch 2
    assert table.loc["too late", "note"] == "never forked: alone ended before"

"""Probes, figures and reports of a study whose students came later, went earlier, or were stopped."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from fake_study import FakeStudy

import kdlab
from kdlab import plots, probes
from kdlab.errors import StudyError
from kdlab.report import build_report
from kdlab.report.facts import collect
from kdlab.report.verdict import cut_short
from tests.small_study import run_to, small

NAMES = ("alone", "KD", "late", "gone")


@pytest.fixture(scope="module")
def study() -> FakeStudy:
    """Snapshots at 0, 2, 4 and 6; `late` has those from 4 on, `gone` those up to 2."""
    return FakeStudy(
        students=NAMES, snapshots=(0, 2, 4, 6), seeds=(0, 1), per_class=12, late={"late": 2}, gone={"gone": 2}
    )


def own_text(page: Path) -> str:
    return re.sub(r"<script>.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.S)


# ---- probes ----------------------------------------------------------------------------------------


def test_linear_probes_have_gaps(study: FakeStudy) -> None:
    result = probes.linear_probe(study, probe="ridge", layers="stage3")
    assert result.epochs == (0, 2, 4, 6)
    known = np.isfinite(result.accuracy[:, :, 0, 0])
    names = list(result.networks)
    assert known[names.index("late")].tolist() == [False, False, True, True]
    assert known[names.index("gone")].tolist() == [True, True, False, False]
    assert known[names.index("KD")].all() and known[names.index("teacher")].all()
    assert not np.isfinite(result.accuracy[names.index("gone"), :, 0, 1]).any(), "left out of the second seed"
    assert "There is no snapshot of gone at that epoch" in result.summary
    plots.probe_depth(result)
    alone = probes.linear_probe(study, probe="ridge", layers="stage3", students="late")
    assert alone.epochs == (4, 6), "epochs of those who are asked for"


@pytest.mark.parametrize("method", ["tsne", "pca"])
@pytest.mark.parametrize("teacher", ["teacher", ""])
def test_maps_have_missing_frames(method: str, teacher: str) -> None:
    study = FakeStudy(
        students=NAMES,
        snapshots=(0, 2, 4, 6),
        seeds=(0,),
        late={"late": 2},
        gone={"gone": 2},
        teacher=teacher,
    )
    result = probes.embed(study, method, n=24)
    there = np.isfinite(result.coordinates).all(axis=(2, 3))
    names = list(result.networks)
    assert there[:, names.index("late")].tolist() == [False, False, True, True]
    assert there[:, names.index("gone")].tolist() == [True, True, False, False]
    assert there[:, names.index("KD")].all()
    for table in (result.purity, result.purity_map):
        assert (np.isfinite(table) == there).all()
    assert (np.isfinite(result.residual) == (there if teacher else False)).all()
    assert ((result.predicted >= 0).all(axis=2) == there).all()
    moved = np.isfinite(result.displacement)
    assert moved[:, names.index("late")].tolist() == [False, False, False, True]
    assert np.isfinite(result.trustworthiness).all()
    assert (
        "late only at epochs 4 and 6" in result.protocol and "gone only at epochs 0 and 2" in result.protocol
    )
    for color in ("class", "network", "correct"):
        figure = plots.embedding(result, color=color)
        low, high = figure.layout.xaxis.range
        assert np.isfinite([low, high]).all() and low < np.nanmin(result.coordinates[..., 0])


def test_networks_that_are_there_all_along_are_mapped_as_without_the_others() -> None:
    """PCA of the teacher's plane does not depend on who else is there."""
    options = dict(students=NAMES, snapshots=(0, 2, 4, 6), seeds=(0,))
    some = probes.embed(FakeStudy(**options, late={"late": 2}, gone={"gone": 2}), "pca", n=24)
    every = probes.embed(FakeStudy(**options), "pca", n=24)
    there = np.isfinite(some.coordinates)
    assert np.allclose(some.coordinates[there], every.coordinates[there])
    assert (~there).sum() == 4 * 24 * 2, "two networks at two epochs each"


def test_logits_and_attention_leave_out_who_is_not_there(study: FakeStudy) -> None:
    last = probes.logit_decomposition(study)
    assert last.students == ("alone", "KD", "late") and last.absent == ("gone",)
    assert "There is no snapshot of gone" in last.summary
    assert probes.logit_decomposition(study, epoch=0).absent == ("late",)
    with pytest.raises(StudyError, match="'gone' at epoch 6"):
        probes.logit_decomposition(study, students=["KD", "gone"])
    assert probes.logit_decomposition(study, students="gone").epoch == 2, "the last of its own"
    maps = probes.attention_maps(study, epochs="all")
    assert maps.networks_at(0) == ("teacher", "alone", "KD", "gone")
    assert maps.networks_at(6) == ("teacher", "alone", "KD", "late")
    assert (maps.predicted["late"][:2] == -1).all() and (maps.predicted["late"][2:] >= 0).all()
    assert "There is no snapshot of gone" in maps.summary
    for epoch in maps.epochs:
        figure = plots.attention(maps, epoch=epoch)
        heads = " ".join(note.text for note in figure.layout.annotations)
        assert all(name in heads for name in maps.networks_at(epoch))
    assert "gone" not in " ".join(note.text for note in plots.attention(maps).layout.annotations)
    assert probes.attention_maps(study).networks == ("teacher", "alone", "KD", "late")


def test_a_fork_without_a_snapshot_yet_is_said(study: FakeStudy) -> None:
    young = FakeStudy(students=("alone", "young"), snapshots=(0, 2), late={"young": 2})
    for probe in (probes.linear_probe, probes.embed, probes.attention_maps, probes.logit_decomposition):
        with pytest.raises(StudyError, match="no snapshot of 'young' yet"):
            probe(young, students="young")
    assert probes.logit_decomposition(young).students == ("alone",)


def test_curves_of_forks_begin_at_the_fork(study: FakeStudy) -> None:
    result = probes.learning_curves(study)
    known = np.isfinite(result.values[:, 0])
    assert known[2].tolist() == [False, False, True, True, True, True]
    assert known[3].tolist() == [True, True, False, False, False, False]
    figure = plots.curves(result)
    line = next(trace for trace in figure.data if trace.name == "late")
    assert line.x[0] == 3
    ring = next(trace for trace in figure.data if trace.name == "late forks")
    parent = next(trace for trace in figure.data if trace.name == "alone")
    assert (ring.x[0], ring.y[0]) == (2, parent.y[1]), "the ring stands on the parent's curve"
    assert (ring.x[1], ring.y[1]) == (3, line.y[0])
    marks = next(trace for trace in figure.data if trace.name == "changed by hand")
    assert any("late: forked from alone" in text for text in marks.text)
    assert any("gone: dropped" in text for text in marks.text)


# ---- the report ------------------------------------------------------------------------------------


def test_the_report_tells_who_came_and_went(tmp_path: Path, study: FakeStudy) -> None:
    text = own_text(build_report(study, tmp_path))
    assert "This part could not be made" not in text
    assert "forked from alone in epoch 3" in text and "dropped in epoch 3 of seed 0" in text
    assert "gone is not compared where it was cut short (dropped in epoch 3 of seed 0)." in text
    table = text[text.index("Commanded by hand") :]
    for kind, what in (
        ("set", "kd off"),
        ("fork", "forked from alone, with its method"),
        ("drop", "dropped"),
    ):
        assert f'<td class="text">{kind}</td><td class="text">{what}</td>' in table
    assert "gone (" not in text[text.index("In short.") : text.index("gone is not compared")]


def test_what_a_guard_stopped_is_named_and_is_no_result(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path, students=("alone", "KD", "CMKD"), per_class=8)
    study.fail("KD", 25, seed=1)
    facts = collect(study)
    assert set(facts.last["KD"]) == {0, 1, 2} and set(facts.counted["KD"]) == {0, 2}
    text = own_text(build_report(study))
    assert "KD was stopped by a guard in 1 of 3 seeds" in text and "those seeds do not count" in text
    assert (
        "says nothing about how well its method works" in text and "term &#x27;kd&#x27; is not finite" in text
    )
    assert "in 2 of 2 seeds" in text, "the verdict on KD rests on two seeds"
    assert "stopped by a guard in epoch 3, step 25 of seed 1" in text
    for seed in (0, 2):
        study.fail("KD", 5, seed=seed)
    text = own_text(build_report(study))
    assert "KD was stopped by a guard in all 3 seeds" in text and "it has no result" in text
    assert not re.search(
        r"\bKD (beat|did|was worse|\()", text.split("KD was stopped")[0].split("In short.")[1]
    )


def test_a_baseline_that_was_cut_short_is_no_baseline(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path, students=("alone", "KD", "CMKD"), per_class=8, gone={"alone": 2})
    facts = collect(study)
    assert facts.baseline == "KD" and "alone" not in facts.counted
    text = own_text(build_report(study))
    assert "KD reached" in text and "Plain training (KD)" not in text
    only = FakeStudy(tmp_path, students=("alone",), seeds=(0,), per_class=8)
    only.fail("alone", 25, seed=0)
    assert "No student went its whole way." in own_text(build_report(only))


def test_students_that_differ_in_more_than_their_loss_are_told(tmp_path: Path) -> None:
    text = own_text(build_report(FakeStudy(tmp_path, students=("alone", "KD", "wide"), per_class=8)))
    assert "one difference" not in text and "in nothing else" not in text
    assert "wide (resnet14) in more than that" in text and "differs: resnet14" in text
    alike = own_text(build_report(FakeStudy(tmp_path, per_class=8)))
    assert "one difference" in alike and "remarks" not in alike and "differs also" not in alike


def test_sentences_on_those_cut_short() -> None:
    said = cut_short(
        ["a", "b", "c"], {"b": ("Student 'b' was stopped.",)}, {"b": (0,), "c": (0,)}, {"c": "x"}, 1
    )
    assert said[0].startswith("b was stopped by a guard, because") and said[0].endswith("'b' was stopped.")
    assert said[1:] == ["c is not compared where it was cut short (x)."]


# ---- a real study ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_study_with_all_of_it(tmp_path: Path) -> None:
    study = small(
        tmp_path,
        students={"alone": "ce", "KD": "kd", "quits": "at", "wild": kdlab.Student("kd", lr=1e18)},
        epochs=4,
        seeds=2,
        snapshots="all",
    )
    run_to(study, 5)
    study.fork("KD", name="fork", method="srrl").result(10)
    study.drop("quits").result(10)
    study.add("late", "fitnet").result(10)
    study.fit(progress=False)
    source = probes.sources.as_source(study)
    assert source.presence(["fork", "quits", "wild", "late"], range(5), 0) == {
        "fork": (2, 3, 4),
        "quits": (0, 1),
        "wild": (0,),
        "late": (0, 1, 2, 3, 4),
    }
    assert source.presence(["quits"], range(5), 1) == {"quits": ()}
    depth = probes.linear_probe(study, probe="ridge", layers="layer3")
    fork = depth.accuracy[depth.networks.index("fork"), :, 0, 0]
    assert np.isfinite(fork).tolist() == [False, False, True, True, True]
    assert np.isnan(probes.embed(study, "pca", n=20).coordinates[-1, depth.networks.index("wild")]).all()
    assert probes.logit_decomposition(study).absent == ("quits", "wild")
    text = own_text(study.report())
    assert "This part could not be made" not in text
    for said in (
        "forked from KD in epoch 2",
        "dropped in epoch 2 of seed 0",
        "added in epoch 2",
        "wild was stopped by a guard in all 2 seeds",
        "differs: lr 1e+18",
        "quits is not compared where it was cut short",
        "study.fork(&#x27;KD&#x27;, at_step=5, name=&#x27;fork&#x27;",
    ):
        assert said in text, said
    loaded = kdlab.load_study(study.folder, device="cpu")
    assert probes.logit_decomposition(loaded).absent == ("quits", "wild")

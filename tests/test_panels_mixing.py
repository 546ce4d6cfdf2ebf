"""The gestures of the mixing desk: solo, reset, schedules, steps of an epoch, cards; and sparklines."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panels_fake import FakeStudy
from test_panels_roster import done
from test_panels_study import ask, make_panel, shown_step, until

import kdlab
from kdlab.errors import ConfigError
from kdlab.methods import make, parse_schedule
from kdlab.panels import StudyPanel, mixing, sparks, wording
from kdlab.training.variants import Student
from tests.small_study import small

__all__ = ["make_panel"]  # a fixture

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def mixed() -> Iterator[FakeStudy]:
    """A study with a student of three terms."""
    study = FakeStudy(4000, delay=0.001)
    study.students["CMKD"] = Student(make("cmkd"))
    study._live["CMKD"], study._first["CMKD"] = make("cmkd"), 0
    yield study
    study.stop()


def cells(panel: StudyPanel, student: str) -> dict[str, Any]:
    return panel.desk.live["cells"][student]


def on(panel: StudyPanel, student: str) -> set[str]:
    return {name for name, cell in cells(panel, student).items() if cell["enabled"]}


def states(study: Any) -> dict[str, Any]:
    return {name: {t: term.state() for t, term in study.terms(name).items()} for name in study.names}


def commands(study: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(c["term"], c["change"]) for c in study.record.commands]


# ---- solo ------------------------------------------------------------------------------------------


def test_solo_leaves_one_term_and_gives_back_what_was_on(
    mixed: FakeStudy, make_panel: Callable[..., StudyPanel]
) -> None:
    panel = make_panel(mixed)
    assert done(panel, "set", student="CMKD", term="kd", enabled=False)
    assert done(panel, "solo", student="CMKD", term="pseudo")
    assert until(lambda: on(panel, "CMKD") == {"pseudo"})
    assert [name for name, cell in cells(panel, "CMKD").items() if cell["solo"]] == ["pseudo"]
    assert commands(mixed)[1:] == [(name, {"enabled": False}) for name in ("ce", "stage_kd", "feature")]
    assert done(panel, "solo", student="CMKD", term="kd"), "the solo goes over to another term"
    assert until(lambda: on(panel, "CMKD") == {"kd"} and cells(panel, "CMKD")["kd"]["solo"])
    assert commands(mixed)[4:] == [("kd", {"enabled": True}), ("pseudo", {"enabled": False})]
    assert done(panel, "solo", student="CMKD", term="kd")
    assert until(lambda: on(panel, "CMKD") == {"ce", "pseudo", "stage_kd", "feature"})
    assert not any(cell["solo"] for cell in cells(panel, "CMKD").values())
    assert on(panel, "KD") == {"ce", "kd"} and not panel.desk.live["errors"]


def test_a_solo_made_by_switches_goes_back_to_the_defaults(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy()
    panel = make_panel(study)
    ask(panel, "set", student="KD", term="kd", enabled=False)
    until(lambda: cells(panel, "KD")["ce"]["solo"])
    assert done(panel, "solo", student="KD", term="ce")
    until(lambda: on(panel, "KD") == {"ce", "kd"})
    assert not cells(panel, "alone")["ce"]["solo"], "a term that has no others is not alone"


def test_the_python_line_does_the_same_again(mixed: FakeStudy, make_panel: Callable[..., StudyPanel]) -> None:
    """Every line that is shown while a student is changed, given to an untouched study."""
    panel = make_panel(mixed)
    other = FakeStudy(4000)
    other.students, other._live = mixed.students, {n: s.method.fresh() for n, s in mixed.students.items()}
    for gesture in (
        {"do": "set", "term": "feature", "weight": 1e-7 / 3},
        {"do": "set", "term": "kd", "schedule": "piecewise:2=0.5,3=0.1"},
        {"do": "solo", "term": "feature"},
        {"do": "solo", "term": "feature"},
        {"do": "set", "term": "ce", "enabled": False},
        {"do": "reset"},
    ):
        assert done(panel, gesture.pop("do"), student="CMKD", **gesture)
        exec(panel.desk.live["code"], {"study": other})
        want, got = states(mixed)["CMKD"], states(other)["CMKD"]
        for name in want:
            assert got[name].pop("weight") == pytest.approx(want[name].pop("weight"), rel=1e-11)
        assert got == want, panel.desk.live["code"]
    assert len(other.record.commands) == len(mixed.record.commands) == 2 + 4 + 4 + 1 + 3


def test_the_commands_of_a_solo_are_one_mark(mixed: FakeStudy, make_panel: Callable[..., StudyPanel]) -> None:
    panel = make_panel(mixed)
    ask(panel, "step", n=30)
    until(lambda: shown_step(panel) == 30)
    assert done(panel, "set", student="KD", term="kd", weight=1.0)
    assert done(panel, "solo", student="CMKD", term="ce")
    layout = panel.curves.figure.fig.layout
    until(lambda: len(layout.shapes) == 4)  # two marks, each in both plots
    labels = [note.text for note in layout.annotations[2:]]
    assert labels[0] == "KD: kd weight 1" or labels[0] == "KD: kd weight 1.0"
    assert labels[1].startswith("CMKD: pseudo enabled False, stage_kd") and labels[1].endswith("…")


# ---- reset -----------------------------------------------------------------------------------------


def test_reset_undoes_what_differs_and_nothing_else(
    mixed: FakeStudy, make_panel: Callable[..., StudyPanel]
) -> None:
    panel = make_panel(mixed)
    assert not any(cell["differs"] for cell in cells(panel, "CMKD").values())
    assert done(panel, "set", student="CMKD", term="feature", weight=3.0)
    assert done(panel, "set", student="CMKD", term="kd", enabled=False)
    assert done(panel, "set", student="CMKD", term="ce", schedule="warmup:3")
    assert done(panel, "set", student="KD", term="ce", weight=4.0)
    until(lambda: cells(panel, "CMKD")["ce"]["differs"] == ["schedule"])
    assert cells(panel, "CMKD")["feature"]["differs"] == ["weight"]
    assert cells(panel, "CMKD")["kd"]["differs"] == ["enabled"]
    count = len(mixed.record.commands)
    assert done(panel, "reset", student="CMKD")
    until(lambda: not any(cell["differs"] for cell in cells(panel, "CMKD").values()))
    assert sorted(commands(mixed)[count:]) == [
        ("ce", {"schedule": "constant"}),
        ("feature", {"weight": 15.0}),
        ("kd", {"enabled": True}),
    ]
    assert states(mixed)["CMKD"] == {n: t.state() for n, t in make("cmkd").terms.items()}
    assert mixed.terms("KD")["ce"].weight == 4.0
    assert done(panel, "reset", student="CMKD") and len(mixed.record.commands) == count + 3


def test_the_defaults_are_those_of_the_method_and_its_arguments() -> None:
    tuned = kdlab.methods.AT(weight=500)
    tuned.term("at").set(weight=7, enabled=False)
    assert mixing.defaults(tuned)["at"] == {"weight": 500.0, "enabled": True, "schedule": "constant"}
    assert {name: s["weight"] for name, s in mixing.defaults(make("kd + at")).items()} == {
        "ce": 0.1,
        "kd": 0.9,
        "at": 1000.0,
    }


def test_schedules_that_run_equally_do_not_differ() -> None:
    study = FakeStudy(600)
    state = {"schedule": "piecewise:1=1.0,11=0.5,21=0.1"}
    assert mixing.differing(study, state, {"schedule": "levels:1,0.5,0.1"}) == []
    assert mixing.differing(study, {"schedule": "cosine:30"}, {"schedule": "cosine"}) == []
    assert mixing.differing(study, {"schedule": "cosine:29"}, {"schedule": "cosine"}) == ["schedule"]


# ---- schedules -------------------------------------------------------------------------------------


def answers(panel: StudyPanel) -> list[dict[str, Any]]:
    """What the kernel answers to the page, from now on."""
    heard: list[dict[str, Any]] = []
    panel.desk.send = lambda content, buffers=None: heard.append(content)  # type: ignore[method-assign]
    return heard


def test_a_schedule_is_previewed_then_set(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(200)
    panel = make_panel(study)
    heard = answers(panel)
    ask(panel, "step", n=45)
    until(lambda: shown_step(panel) == 45)
    ask(panel, "preview", student="KD", term="kd", schedule="warmup:4")
    (one,) = heard
    assert one["factors"] == [0.25, 0.5, 0.75] + [1.0] * 7 and one["now"] == 3 and one["error"] == ""
    assert (one["do"], one["student"], one["term"], one["schedule"]) == ("preview", "KD", "kd", "warmup:4")
    assert not study.record.commands, "a look changes nothing"
    assert done(panel, "set", student="KD", term="kd", schedule="warmup:4")
    assert panel.desk.live["code"] == 'study.set("KD", "kd", schedule="warmup:4")'
    assert cells(panel, "KD")["kd"]["schedule"] == "warmup:4"


def test_a_schedule_that_cannot_be_says_why(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(200)
    panel = make_panel(study)
    heard = answers(panel)
    for text, why in (("warmup:0", "no schedule"), ("drops:1,0.1", "follows 1 drops"), ("?", "no schedule")):
        ask(panel, "preview", student="KD", term="kd", schedule=text)
        assert why in heard[-1]["error"] and heard[-1]["factors"] == []
    assert not done(panel, "set", student="KD", term="kd", schedule="warmup:x")
    assert "no schedule" in until(lambda: panel.desk.live["errors"])[0]
    assert cells(panel, "KD")["kd"]["schedule"] == "constant"


def test_the_editor_offers_every_schedule_and_begins_with_one_that_can_be() -> None:
    kinds = mixing.schedule_kinds(30)
    for one in kinds:
        text = one["kind"] + (":" + one["begin"].replace(" ", "") if one["begin"] else "")
        assert str(parse_schedule(text)).partition(":")[0] == one["kind"], text
    with pytest.raises(ConfigError) as refused:
        parse_schedule("nonsense")
    told = set(re.findall(r"'([a-z]+)", str(refused.value))) - {"nonsense"}
    assert {one["kind"] for one in kinds} == told, "what kdlab reads is what the editor offers"
    page = (ROOT / "kdlab" / "panels" / "desk_terms.js").read_text(encoding="utf-8")
    assert "kind.value}:${rest}" in page and "replace(/\\s/g" in page, "the page writes kind:numbers"


def test_a_real_study_refuses_a_schedule_that_could_not_be_replayed(tmp_path: Path) -> None:
    study = small(tmp_path)
    with pytest.raises(ConfigError, match="follows 2 drops of the learning rate, and this recipe has 0"):
        study.set("KD", "kd", schedule="drops:1,0.5,0.1")
    assert not study.record.commands
    study.set("KD", "kd", schedule="cosine").result(10)
    assert study.terms("KD")["kd"].state()["schedule"] == "cosine"


# ---- steps -----------------------------------------------------------------------------------------


def test_step_epoch_ends_with_the_epoch(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(200)
    panel = make_panel(study)
    ask(panel, "step", n="epoch")
    until(lambda: shown_step(panel) == 20 and panel.desk.live["code"] == "study.step(20)")
    ask(panel, "step", n=3)
    until(lambda: shown_step(panel) == 23)
    ask(panel, "step", n="epoch")
    until(lambda: shown_step(panel) == 40 and panel.desk.live["code"] == "study.step(17)")
    study.delay = 0.02
    ask(panel, "step", n=5)
    ask(panel, "step", n="epoch")  # while steps are still owed
    ask(panel, "step", n="epoch")
    until(lambda: shown_step(panel) == 80)
    until(lambda: study.control.owed == 0)
    assert study.step_number == 80 and panel.desk.live["state"] == "paused"


def test_step_epoch_of_a_real_study_with_one_that_lags(
    tmp_path: Path, make_panel: Callable[..., StudyPanel]
) -> None:
    study = small(tmp_path, epochs=4)
    per_epoch = study.steps_per_epoch
    panel = make_panel(study)
    ask(panel, "step", n=per_epoch + 1)
    until(lambda: len(study.record.series("KD", "loss")[0]) == per_epoch + 1, 60)
    study.add("late", "ce").result(10)
    ask(panel, "step", n="epoch")
    until(lambda: len(study.record.series("late", "loss")[0]) == per_epoch, 60)
    assert len(study.record.series("KD", "loss")[0]) == per_epoch + 1, "those behind go first"
    study.stop()
    assert study.wait(30)
    ask(panel, "step", n="epoch")  # goes on from the checkpoint
    until(lambda: study.control.owed == 0 and study.state == "paused", 60)
    assert not panel.desk.live["errors"]


# ---- cards -----------------------------------------------------------------------------------------


def test_the_method_card_comes_on_demand(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy()
    study.students["CMKD"] = Student(make("cmkd"))
    study._live["CMKD"], study._first["CMKD"] = make("cmkd"), 0
    panel = make_panel(study)
    heard = answers(panel)
    ask(panel, "card", student="CMKD")
    (card,) = heard
    assert card["student"] == "CMKD" and "stage_kd" in card["text"]
    assert card["diagrams"][0].startswith("<svg") and "projectors" in card["diagrams"][0]
    shown = eval(until(lambda: "describe" in panel.desk.live["code"] and panel.desk.live["code"]),
                 {"study": study, "kdlab": kdlab})  # fmt: skip
    assert str(shown) == card["text"] and list(shown.diagrams) == card["diagrams"]


def test_the_curve_in_python_is_the_one_that_is_drawn(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(60, delay=0.0)
    panel = make_panel(study)
    ask(panel, "play")
    until(lambda: panel.desk.live["state"] == "finished")
    panel.desk.curve = "weighted/kd"
    code = until(lambda: "series" in panel.desk.live["code"] and panel.desk.live["code"])
    steps, values = eval(code, {"study": study})["KD"]
    drawn = panel.curves.figure.fig.data[2]
    until(lambda: len(drawn.x) == 60 and np.allclose(drawn.y, values))
    assert np.array_equal(drawn.x, steps)


# ---- values and sparklines -------------------------------------------------------------------------


def test_a_value_is_shown_with_its_weight_and_what_it_adds(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(200)
    panel = make_panel(study)
    study.set("KD", "kd", schedule="warmup:4").result(1)
    ask(panel, "step", n=10)
    until(lambda: shown_step(panel) == 10)
    raw, factor, part = (study.record.series("KD", f"{k}/kd")[1][-1] for k in ("term", "factor", "weighted"))
    text = cells(panel, "KD")["kd"]["value"].replace("\N{THIN SPACE}", " ")
    assert text == f"{wording.number(raw)} × 0.5 = {wording.number(part)}" and factor == 0.5
    other = study.record.series("KD", "weighted/ce")[1][-1]
    assert cells(panel, "KD")["kd"]["share"] == pytest.approx(part / (part + other), abs=1e-3)
    assert wording.product(None, 1.0) == ""


def test_sparklines_show_the_latest_half_on_a_log_scale() -> None:
    falling = 10.0 ** -np.linspace(0, 4, 400)
    line = sparks.heights(falling)
    assert len(line) == 40 and line[0] == sparks.HEIGHT and line[-1] == 0
    steps = np.diff(line)
    assert steps.min() >= -1 and steps.max() <= 0, "straight where the value falls by a factor"
    falling[250:300] = math.nan
    assert sparks.heights(falling)[10:20] == [None] * 10
    assert sparks.heights(np.array([3.0])) == [10] and sparks.heights(np.array([math.nan])) == []
    signed = sparks.heights(np.array([-1.0, 0.0, 1.0]))
    assert signed == [0, 10, 20], "linear where a value is not positive"


def test_sparklines_follow_the_training_once_a_second(make_panel: Callable[..., StudyPanel]) -> None:
    study = FakeStudy(4000, delay=0.001)
    panel = make_panel(study)
    sent: list[Any] = []
    panel.desk.observe(lambda change: sent.append(change["new"]), "sparks")
    ask(panel, "play")
    until(lambda: len(sent) >= 2 and len(sent[-1].get("KD", {}).get("kd", [])) == sparks.POINTS)
    frames = panel.painter.frames
    until(lambda: panel.painter.frames > frames + 20)
    assert len(sent) < panel.painter.frames / 4
    ask(panel, "set", student="KD", term="kd", enabled=False)
    until(lambda: sent[-1]["KD"]["kd"][-1] is None)
    assert set(sent[-1]) == {"alone", "KD"} and set(sent[-1]["alone"]) == {"ce"}


def test_a_frame_of_many_students_is_small(make_panel: Callable[..., StudyPanel]) -> None:
    """Eight students of four terms: far below what a server lets through (1 MB/s at 8 frames/s)."""
    study = FakeStudy(4000, delay=0.0)
    for number in range(6):
        name = f"student number {number}"
        study.students[name] = Student(make("srrl"))
        study._live[name], study._first[name] = make("srrl"), 0
    panel = make_panel(study)
    ask(panel, "step", n=300)
    until(lambda: shown_step(panel) == 300)
    until(lambda: len(panel.desk.sparks.get("student number 5", {}).get("sr", [])) > 30)
    live, lines = (len(json.dumps(value)) for value in (panel.desk.live, panel.desk.sparks))
    assert live < 12_000 and lines < 8_000, (live, lines)

"""The report: honest words, complete parts, one file that opens offline."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_study import FakeStudy

from kdlab.errors import ConfigError
from kdlab.report import build_report
from kdlab.report.facts import collect
from kdlab.report.figures import safe_json
from kdlab.report.verdict import compare, in_short, method_note

# ---- the verdict -----------------------------------------------------------------------------------------


def runs(**values: list[float]) -> dict[str, dict[int, float]]:
    return {name: dict(enumerate(own)) for name, own in values.items()}


def test_interval_is_students_t_of_paired_differences() -> None:
    from scipy.stats import ttest_rel

    accuracies = runs(alone=[0.90, 0.91, 0.89, 0.92], KD=[0.92, 0.925, 0.925, 0.93])
    (one,) = compare(accuracies, "alone")
    reference = ttest_rel(
        list(accuracies["KD"].values()), list(accuracies["alone"].values())
    ).confidence_interval()
    assert (one.low, one.high) == pytest.approx((reference.low, reference.high))
    assert (one.wins, one.losses) == (4, 0)


@pytest.mark.parametrize(
    ("student", "kind", "says"),
    [
        ([0.920, 0.921, 0.922], "better", "KD beat alone by 2.1 points (in 3 of 3 seeds"),
        ([0.879, 0.880, 0.881], "worse", "worse than alone by 2.0 points (worse in 3 of 3 seeds"),
        (
            [0.905, 0.93, 0.96],
            "ahead",
            "ahead of alone in all 3 seeds, by 3.2 points on average, but 3 seeds are too few",
        ),
        ([0.895, 0.87, 0.84], "behind", "behind alone in all 3 seeds"),
        (
            [0.91, 0.89, 0.90],
            "level",
            "did not differ from alone beyond the spread over seeds (0.0 points on average",
        ),
    ],
)
def test_words_follow_the_numbers(student: list[float], kind: str, says: str) -> None:
    (one,) = compare(runs(alone=[0.90, 0.90, 0.90], KD=student), "alone")
    assert one.kind == kind
    assert says in one.sentence()


def test_one_seed_gives_no_verdict() -> None:
    accuracies = runs(alone=[0.9], KD=[0.95])
    (one,) = compare(accuracies, "alone")
    assert one.kind == "unknown" and "single seed" in one.sentence()
    text = in_short([one], accuracies, "alone", {"t": 0.97}, True)
    assert "its spread is not known" in text and "beat" not in text
    assert "train more seeds" in method_note(1)


def test_only_common_seeds_are_compared() -> None:
    accuracies = {"alone": {0: 0.9, 1: 0.8}, "KD": {1: 0.85, 2: 0.99}}
    (one,) = compare(accuracies, "alone")
    assert one.differences.tolist() == pytest.approx([0.05])
    assert compare({"alone": {0: 0.9}, "KD": {1: 0.9}}, "alone") == []


def test_in_short_names_every_group_once() -> None:
    accuracies = runs(
        alone=[0.90, 0.90, 0.90],
        A=[0.92, 0.921, 0.922],
        B=[0.91, 0.89, 0.9],
        C=[0.7, 0.7001, 0.7],
        D=[0.901, 0.93, 0.96],
    )
    text = in_short(compare(accuracies, "alone"), accuracies, "alone", {"t": 0.97}, True)
    assert text.startswith("Plain training (alone) reached 90.0 % test accuracy, the teacher t 97.0 %.")
    assert "A (+2.1 points) beat it" in text and "B (0.0 points) did not differ" in text
    assert (
        "C (−20.0 points) was worse" in text
        and "D (+3.0 points) was ahead in every seed, but 3 seeds" in text
    )


# ---- the page --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = build_report(FakeStudy(tmp_path_factory.mktemp("study")))
    assert path.name == "report.html"
    return path.read_text(encoding="utf-8")


FEW = {"per_class": 8, "snapshots": (0, 6)}
"""Pictures and snapshots of studies of which only a word is looked at."""


def own_text(page: str) -> str:
    """The page without plotly's own code."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.S)


def test_everything_is_inside(page: str) -> None:
    text = own_text(page)
    assert len(page) < 15e6
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text)
    assert "@import" not in text and "url(" not in text
    assert page.count("Plotly.newPlot") >= 1
    for key in (
        "compared",
        "results",
        "curves",
        "depth",
        "space",
        "attention",
        "logits",
        "likeness",
        "geometry",
        "calibration",
        "reproduce",
    ):
        assert f'<section id="{key}"' in text and f'href="#{key}"' in text
    assert "This part could not be made" not in text


def test_every_figure_has_words(page: str) -> None:
    figures = re.findall(r"<figure .*?</figure>", own_text(page), flags=re.S)
    assert len(figures) == 13
    for figure in figures:
        assert re.search(r'role="img" aria-label="[^"]{30,}"', figure)
        assert re.search(r'<p class="see">.{60,}?</p>', figure, flags=re.S)
        assert "<figcaption>" in figure and "<h3" in figure
    assert own_text(page).count('type="range"') == 7  # real sliders for the keyboard, with names
    assert len(re.findall(r'<label for="[^"]+-slider">', page)) == 7


def test_the_facts_are_told(page: str) -> None:
    text = own_text(page)
    facts = collect(FakeStudy())
    mean = np.mean(list(facts.last["KD"].values()))
    assert f"<strong>{100 * mean:.1f} " in text
    for said in (
        "fake digits: 192 pictures",
        "10 labelled pictures of each class",
        "Chance is 25.0 %",
        "reconstruction",
        "KD beat alone by",
        "kd off",
        "kdlab.Study(data=&quot;fake&quot;",
        "distances",
        "softmax regression fitted to convergence",
        "orthogonal Procrustes",
        "torch ",
    ):
        assert said in text, said
    assert '<html lang="en">' in text and "prefers-color-scheme: dark" in text and "@media print" in text


def test_a_study_without_snapshots_still_has_a_report(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path, trained=False)
    text = own_text(build_report(study).read_text(encoding="utf-8"))
    assert text.count("This part could not be made") == 3  # results, curves, and the probes
    assert "not been begun" in text or "not trained yet" in text
    assert "There is nothing to compare yet." in text
    assert "kdlab.Study(" in text


def test_a_part_that_breaks_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdlab.report import page as module

    def broken(*_: object) -> str:
        raise ZeroDivisionError("oops")

    parts = tuple((key, title, broken if key == "space" else make) for key, title, make in module._PROBES)
    monkeypatch.setattr(module, "_PROBES", parts)
    with pytest.warns(RuntimeWarning, match="ZeroDivisionError: oops"):
        text = own_text(build_report(FakeStudy(tmp_path, **FEW)).read_text(encoding="utf-8"))
    assert text.count("This part could not be made") == 1 and "fault of kdlab" in text
    assert 'id="attention-maps"' in text


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"teacher": ""}, 1),  # no logits to compare with
        ({"students": ("alone",)}, 0),
        ({"seeds": (4,), "snapshots": (0,)}, 2),  # no epoch yet, but the untrained networks can be probed
        ({"channels": 3, "classes": 25, "per_class": 4}, 0),
    ],
    ids=["no teacher", "one student", "one seed, untrained", "many classes in colour"],
)
def test_other_studies(tmp_path: Path, options: dict, missing: int) -> None:
    text = own_text(build_report(FakeStudy(tmp_path, **{**FEW, **options})).read_text(encoding="utf-8"))
    assert text.count("This part could not be made") == missing


def test_an_unfinished_study_says_so(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path, **FEW)
    study.state = "stopped"
    for key in list(study.record.series_of):
        if key[2] == 2:
            del study.record.series_of[key]
    text = own_text(build_report(study).read_text(encoding="utf-8"))
    assert "stopped before its end: the numbers are those recorded so far" in text
    assert "better in 2 of 2" in text or "in 2 of 2 seeds" in text


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    names = ("alone", "<b>&</b>", "</script><script>alert(1)</script>")
    text = build_report(FakeStudy(tmp_path, students=names, seeds=(0,), **FEW)).read_text(encoding="utf-8")
    assert "<script>alert(1)" not in text and "<b>&</b>" not in own_text(text)
    assert "</script" not in safe_json("</script>")


def test_where_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys.modules[build_report.__module__], "page", lambda study: f"of {study.epochs} epochs"
    )
    study = FakeStudy(tmp_path, seeds=(0,), snapshots=(0, 1))
    assert build_report(study, tmp_path / "new" / "a.html") == tmp_path / "new" / "a.html"
    assert build_report(study, tmp_path / "new") == tmp_path / "new" / "report.html"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.html", "report.html"]
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8") == "of 1 epochs"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Cannot write"):
        build_report(study, tmp_path / "file" / "b.html")

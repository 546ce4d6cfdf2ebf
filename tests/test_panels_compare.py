"""ComparePanel on a small trained study: every view, and everything in one file. No browser."""

from __future__ import annotations

import contextlib
import gzip
import io
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import kdlab
from kdlab import probes
from kdlab.errors import ConfigError
from kdlab.panels import ComparePanel, exports
from kdlab.panels.compare_panel import FORMS
from kdlab.probes.progress import steps
from kdlab.report import build_report, everything, save_everything
from tests.panels_hands import ask, choose, control, opened, options, same_figure, until
from tests.small_study import small

Make = Callable[..., ComparePanel]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> kdlab.Study:
    """Snapshots of epochs 0, 1 and 2 of two seeds."""
    folder = tmp_path_factory.mktemp("compared")
    return small(folder, epochs=2, seeds=2, snapshots=[1, 2]).fit(progress=False)


@pytest.fixture
def make(study: kdlab.Study) -> Iterator[Make]:
    with opened(ComparePanel, study) as panel:
        yield panel


def said(panel: ComparePanel) -> str:
    return str(panel.live["said"])


def maps(panel: ComparePanel) -> list[Any]:
    assert panel.fig is not None
    return [trace for trace in panel.fig.data if trace.type == "heatmap"]


# ---- views -----------------------------------------------------------------------------------------------


def test_where_they_ended_is_what_the_table_says(study: kdlab.Study, make: Make) -> None:
    panel, table = make(), study.table().set_index("network")
    last = f"{table['last']['KD']:.1f} ± {table['last_sd']['KD']:.1f}"
    texts = [text for trace in panel.fig.data for text in trace.text or ()]
    assert f"<b>{last}</b>" in texts and f"KD {last} %" in said(panel)
    assert f"{table['last']['resnet8']:.1f}" in texts, "the teacher"
    assert any("last epoch" in (trace.name or "") for trace in panel.fig.data)
    assert any("best on validation" in (trace.name or "") for trace in panel.fig.data)
    assert control(panel, "epoch")["hidden"]
    choose(panel, seeds="one", seed=1)
    own = 100 * study.results()["KD"]["last"][1]
    assert f"KD {own:.1f} %" in said(panel) and "only seed 1 is shown" in said(panel)


@pytest.mark.parametrize("view", [view for view in FORMS if view != "published"])
def test_every_form_is_drawn_and_the_python_gives_the_same(view: str, make: Make) -> None:
    panel = make()
    choose(panel, view=view)
    for form in options(panel, f"{view}_as"):
        choose(panel, **{f"{view}_as": form}, epoch=1 if panel.shared.epoch != 1 else 2)
        assert not panel.live["errors"] and not panel.live["hint"], (form, panel.live["hint"])
        assert same_figure(panel), (form, panel.live["code"])


def test_nothing_published_is_comparable_with_digits(make: Make) -> None:
    panel = make()
    choose(panel, view="published")
    assert "No published number here can be compared" in said(panel) and "digits" in said(panel)
    assert same_figure(panel) and "published_as" not in [c["name"] for c in panel.live["controls"]]
    assert control(panel, "seeds")["hidden"], "published numbers stand beside all seeds"


def test_similarity_by_any_measure_with_anyone(study: kdlab.Study, make: Make) -> None:
    panel = make()
    choose(panel, view="similarity", metric="procrustes", against="students", epoch=1)
    result = probes.similarity(study, "procrustes", against="students")
    assert np.allclose(maps(panel)[0].z, result.mean(("alone", "KD"))[1])
    assert "0 is equal" in said(panel) and "after epoch 1" in said(panel)
    choose(panel, students=["KD"])
    assert "nobody to compare with" in panel.live["hint"]
    choose(panel, against="teacher")
    assert "KD with resnet8" in said(panel) and "alone" not in said(panel)


@pytest.mark.parametrize("dark", [False, True])
def test_a_cell_of_two_layers_is_followed_over_the_epochs(make: Make, dark: bool) -> None:
    panel = make()
    panel.dark = dark
    choose(panel, view="similarity")
    layers = panel.result.layers["KD"]
    ask(panel, do="click", points=[[0, 1]])
    assert control(panel, "similarity_as")["value"] == "epochs"
    assert control(panel, "layer")["value"] == layers[1] and f"layer={layers[1]!r}" in panel.live["code"]
    ask(panel, do="click", points=[[0, 1]])
    assert panel.shared.epoch == 1


def test_geometry_of_chosen_measures_and_layers(study: kdlab.Study, make: Make) -> None:
    panel = make()
    choose(panel, view="geometry", measures="dimension", layer="layer1", epoch=1)
    assert "Drawn is layer1" in said(panel) and "after epoch 1" in said(panel)
    titles = [note.text for note in panel.fig.layout.annotations]
    assert titles[0] == "effective rank" and options(panel, "layer")[""] == "the deepest"
    result = probes.geometry(study)
    n = result.networks.index("KD")
    drawn = next(t for t in panel.fig.data if t.legendgroup == "KD" and t.y is not None)
    rank = result.values["effective_rank"][n, 1, result.layers.index("layer1"), :, 1].mean()
    assert np.allclose(drawn.y, rank)
    panel.dark = True
    choose(panel, geometry_as="layer")
    ask(panel, do="click", points=[[0, 1]])
    assert control(panel, "geometry_as")["value"] == "epoch" and control(panel, "layer")["value"] == "layer2"


def test_a_reliability_diagram_is_of_one_seed(study: kdlab.Study, make: Make) -> None:
    panel = make()
    choose(panel, view="calibration", seed=0)
    assert panel.result.seeds == (0,) and "only seed 0 is shown" in said(panel)
    assert control(panel, "seeds")["hidden"] and not control(panel, "seed")["hidden"]
    choose(panel, calibration_as="ece")
    assert panel.result.seeds == (0, 1) and "mean of 2 seeds" in said(panel)


def test_agreement_with_a_chosen_network_on_a_chosen_part(make: Make) -> None:
    panel = make()
    choose(panel, view="agreement", reference="alone", part="fitting part")
    titles = [note.text for note in panel.fig.layout.annotations]
    assert any("agreement with alone" in text for text in titles)
    r, k = panel.result.networks.index("alone"), panel.result.networks.index("KD")
    assert np.isclose(maps(panel)[0].z[r][k], 100 * panel.result.agreement[-1, :, 0, r, k].mean())


def test_new_and_lone_studies_say_what_is_missing(tmp_path: Path, make: Make) -> None:
    panel = make(small(tmp_path))
    assert "Nothing has been trained yet" in panel.live["hint"] and control(panel, "everything")["disabled"]
    folder = tmp_path / "lone"
    small(tmp_path, folder=folder, teacher=None, students={"alone": "ce"}, epochs=1).fit(progress=False)
    panel = make(kdlab.load_study(folder))
    assert "alone" in said(panel)
    for view in ("published", "similarity", "geometry", "calibration"):
        choose(panel, view=view)
        assert not panel.live["errors"] and not panel.live["hint"], view
    choose(panel, view="agreement")
    assert "at least two" in panel.live["hint"] and not panel.live["errors"]


# ---- everything in one file ------------------------------------------------------------------------------


def files(sent: list[tuple[Any, Any]]) -> tuple[str, bytes]:
    """What the page would save."""
    about = [content for content, _ in sent if content.get("do") == "file"]
    assert [one["place"] for one in about] == list(range(about[0]["pieces"]))
    return about[0]["name"], gzip.decompress(b"".join(b[0] for c, b in sent if c.get("do") == "file"))


def test_everything_comes_as_one_file(
    study: kdlab.Study, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(exports, "PAUSE", 0.0)
    monkeypatch.setattr(exports, "PIECE", 400_000)
    panel = make()
    sent: list[tuple[Any, Any]] = []
    panel.send = lambda content, buffers=None: sent.append((content, buffers))  # type: ignore[method-assign]
    ask(panel, do="control", name="everything", value=True)
    name, data = files(sent)
    assert name == "study-everything.zip" and len(sent) > 2 and not panel.live["errors"]
    archive = zipfile.ZipFile(io.BytesIO(data))
    archive.extractall(tmp_path)
    inside = set(archive.namelist())
    made = {p for p in everything.PARTS if p != "factor_probe"}
    assert inside == {
        *(f"results/{part}.{kind}" for part in made for kind in ("csv", "npz")),
        *("README.txt", "figures.html", "history.csv", "results.py", "study.py", "table.csv"),
    }
    about = (tmp_path / "README.txt").read_text()
    assert "factor_probe is not here. No factors" in about and probes.fidelity(study).summary in about
    table = pd.read_csv(tmp_path / "table.csv")
    assert np.allclose(table["last"], study.table()["last"])
    assert "kdlab.Study(" in (tmp_path / "study.py").read_text()
    page = (tmp_path / "figures.html").read_text()
    assert page.count("<figure>") >= 15 and "Reliability" in page
    kept = probes.Similarity.load(tmp_path / "results" / "similarity.npz")
    assert np.array_equal(kept.values[("resnet8", "KD")], probes.similarity(study).values[("resnet8", "KD")])


def test_the_readme_names_the_files_that_are_there(study: kdlab.Study, tmp_path: Path) -> None:
    new = small(tmp_path, teacher=None, students="ce")
    for made in (save_everything(new), save_everything(study, tmp_path / "all.zip")):
        with zipfile.ZipFile(made) as archive:
            about, inside = archive.read("README.txt").decode(), archive.namelist()
        for name in everything._FILES:
            assert (f"\n{name} " in about) == any(file.startswith(name) for file in inside), (made, name)


def test_a_place_that_cannot_be_is_refused_before_work(study: kdlab.Study, tmp_path: Path) -> None:
    mine = tmp_path / "notes.txt"
    mine.write_text("mine")
    for write, name in ((save_everything, "everything.zip"), (build_report, "report.html")):
        with pytest.raises(ConfigError, match=f"'notes.txt'; name a file such as '{name}'"):
            write(study, mine)
        with pytest.raises(ConfigError, match="Cannot write .*give another path"):
            write(study, mine / name)  # below a file
        with pytest.raises(ConfigError, match=r"'runs/new' is no study; open .* kdlab.load_study"):
            write("runs/new")
    assert mine.read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_its_code_measures_the_same(study: kdlab.Study, tmp_path: Path, monkeypatch: Any) -> None:
    few = {name: everything.PARTS[name] for name in ("fidelity", "final_accuracies")}
    monkeypatch.setattr(everything, "PARTS", few)
    written = save_everything(study, tmp_path / "all.zip")
    with zipfile.ZipFile(written) as archive:
        code = archive.read("results.py").decode()
    names: dict[str, Any] = {}
    with contextlib.chdir(tmp_path):
        exec(code, names)
    assert names["fidelity"].summary == probes.fidelity(study).summary
    assert {p.name for p in tmp_path.glob("*.html")} == {
        "fidelity.html",
        "fidelity_epochs-2.html",
        "final_accuracies.html",
    }


def test_saving_can_be_ended_and_does_not_hold_up_the_figure(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = threading.Event()

    def slow(study: Any, path: Any) -> None:
        for _ in steps(range(1000), "measuring"):
            going.wait(0.02)

    monkeypatch.setattr("kdlab.panels.compare_panel.save_everything", slow)
    panel = make(in_cell=False)
    sent: list[Any] = []
    panel.send = lambda content, buffers=None: sent.append(content)  # type: ignore[method-assign]
    until(lambda: said(panel))
    ask(panel, do="control", name="everything", value=True)
    until(lambda: control(panel, "everything")["label"].startswith("Cancel saving ("))
    until(lambda: control(panel, "everything")["label"] > "Cancel saving (1%")
    choose(panel, view="agreement")
    until(lambda: "Agreement with resnet8" in said(panel))
    ask(panel, do="control", name="everything", value=True)
    until(lambda: control(panel, "everything")["label"] == "Save everything")
    assert not sent and not panel.live["errors"]


def test_a_file_that_cannot_be_made_is_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(study: Any, path: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdlab.panels.compare_panel.save_everything", full)
    panel = make()
    ask(panel, do="control", name="everything", value=True)
    assert panel.live["errors"] == ["The file could not be made (No space left on device); free some room."]
    assert control(panel, "everything")["label"] == "Save everything"


def test_until_refuses_what_has_no_epochs(study: kdlab.Study) -> None:
    with pytest.raises(ConfigError, match="FinalAccuracies has no epochs"):
        probes.until(probes.final_accuracies(study), 1)

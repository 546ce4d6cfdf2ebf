"""ProbePanel on small trained studies: what is drawn and said, what is measured anew. No browser."""

from __future__ import annotations

import gzip
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import kdlab
from kdlab import probes
from kdlab.panels import ProbePanel, Shared
from tests.panels_hands import ask, choose, control, opened, options, same_figure, until
from tests.small_study import run_to, small

Make = Callable[..., ProbePanel]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> kdlab.Study:
    """Snapshots of epochs 0, 1, 2 and 3 of two seeds."""
    return small(tmp_path_factory.mktemp("probed"), seeds=2, snapshots=[1, 2, 3]).fit(progress=False)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> kdlab.Study:
    folder, data = tmp_path_factory.mktemp("shapes"), kdlab.data.shapes.make(400, 100)
    return small(folder, data=data, epochs=1, teacher_epochs=1, probe_size=160).fit(progress=False)


@pytest.fixture
def make(study: kdlab.Study) -> Iterator[Make]:
    with opened(ProbePanel, study) as panel:
        yield panel


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of every linear probe that is fitted from now on."""
    asked: list[dict[str, Any]] = []
    linear_probe = probes.linear_probe

    def counted(study: Any, **options: Any) -> Any:
        asked.append(options)
        return linear_probe(study, **options)

    monkeypatch.setattr(probes, "linear_probe", counted)
    return asked


def line(panel: ProbePanel, name: str) -> Any:
    assert panel.fig is not None
    return next(trace for trace in panel.fig.data if trace.name == name)


def names(panel: ProbePanel) -> list[str]:
    assert panel.fig is not None
    return [trace.name for trace in panel.fig.data]


def said(panel: ProbePanel) -> str:
    return str(panel.live["said"])


# ---- what is drawn ---------------------------------------------------------------------------------------


def test_accuracy_by_depth_is_the_mean_over_seeds_with_its_range(study: kdlab.Study, make: Make) -> None:
    panel, result = make(), probes.linear_probe(study, probe="ridge", control=True)
    own = 100 * result.accuracy[result.networks.index("KD"), -1]
    drawn = line(panel, "KD")
    assert np.allclose(drawn.y, own.mean(axis=1))
    assert np.allclose(drawn.y - drawn.error_y.arrayminus, own.min(axis=1))
    assert line(panel, "resnet8 (teacher)") and line(panel, "students before training")
    random = next(name for name in names(panel) if name.startswith("random labels"))
    assert np.allclose(line(panel, random).y, 100 * np.nanmean(result.control[:, -1], axis=(0, 2)))
    assert "closed-form ridge probe" in said(panel) and "after epoch 3" in said(panel)
    assert "mean of 2 seeds" in said(panel) and "chance is" in said(panel)


def test_the_python_gives_the_same_figures(make: Make) -> None:
    panel = make()
    views = [("depth", "accuracy"), ("depth", "purity"), ("epochs", "selectivity"), ("map", "accuracy")]
    for (view, value), epoch in zip(views, (1, 2, 3, 0), strict=True):
        choose(panel, view=view, value=value, epoch=epoch)
        assert same_figure(panel), (view, value, panel.live["code"])
    choose(panel, view="depth", seeds="one", seed=0, students=["KD"], narrow=True)
    assert same_figure(panel) and "seeds=[0]" in panel.live["code"] and "'narrowest'" in panel.live["code"]


def test_going_through_the_epochs_measures_nothing(study: kdlab.Study, make: Make, measured: list) -> None:
    panel = make()
    result = probes.linear_probe(study, probe="ridge", control=True)
    del measured[:]
    for epoch in (0, 2, 1):
        choose(panel, epoch=epoch)
        own = 100 * result.accuracy[result.networks.index("alone"), result.epochs.index(epoch)]
        assert np.allclose(line(panel, "alone").y, own.mean(axis=1))
        assert f"after epoch {epoch}," in said(panel)
    choose(panel, view="map")
    choose(panel, view="epochs", value="selectivity")
    assert measured == []


def test_each_control_is_shown_when_it_is_ticked(make: Make, measured: list) -> None:
    panel = make()
    choose(panel, untrained=True)
    assert {"students untrained", "teacher untrained"} <= set(names(panel))
    assert "same networks untrained give" in said(panel)
    choose(panel, untrained=False, control=False, levels=False)
    assert not any((name or "").startswith(("random", "students untrained")) for name in names(panel))
    assert not [note for note in panel.fig.layout.annotations if "chance" in note.text]
    choose(panel, narrow=True)
    assert "principal components" in said(panel) and panel.result.dimension == 16
    assert "16 components" in panel.fig.layout.yaxis.title.text


def test_one_seed_has_intervals_and_says_so(make: Make) -> None:
    panel = make()
    choose(panel, seeds="one", seed=0)
    result, drawn = panel.result, line(panel, "KD")
    n = result.networks.index("KD")
    assert np.allclose(drawn.y - drawn.error_y.arrayminus, 100 * result.low[n, -1, :, 0])
    assert "95 % interval" in said(panel) and "only seed 0 is shown" in said(panel)
    assert result.seeds == (0,)
    choose(panel, seed=1)
    assert panel.result.seeds == (1,) and not control(panel, "seed")["hidden"]


def test_it_says_which_probe_is_shown(make: Make) -> None:
    panel = make()
    quick = line(panel, "KD").y
    choose(panel, probe="softmax")
    assert "linear softmax probe" in said(panel) and panel.result.probe == "softmax"
    assert not np.array_equal(line(panel, "KD").y, quick)
    choose(panel, view="epochs")
    assert "a converged softmax probe" in said(panel)


def test_purity_and_selectivity_are_told_with_what_they_stand_beside(make: Make) -> None:
    panel = make()
    choose(panel, value="purity")
    n = panel.result.networks.index("KD")
    share = 100 * panel.result.purity[n, -1, -1].mean()
    assert f"KD {share:.1f} %" in said(panel) and "neighbours at random" in said(panel)
    assert control(panel, "probe")["hidden"], "no probe is fitted to neighbours"
    choose(panel, value="selectivity")
    gain = 100 * panel.result.selectivity[panel.result.networks.index("KD"), -1, -1].mean()
    assert f"KD {gain:+.1f} points".replace("-", "−") in said(panel) and "by heart" in said(panel)


def test_students_are_those_that_are_chosen(make: Make) -> None:
    panel = make(shared=Shared())
    panel.shared.students = ("KD",)
    assert "KD" in names(panel) and "alone" not in names(panel)


# ---- the pointer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True])
def test_clicks_go_to_layers_and_epochs(make: Make, dark: bool) -> None:
    panel = make()
    panel.dark = dark
    curve = names(panel).index("KD")
    ask(panel, do="click", points=[[curve, 1]])
    layer = panel.result.layers[1]
    assert control(panel, "view")["value"] == "epochs" and control(panel, "layer")["value"] == layer
    assert f"at {layer}, read by" in said(panel) and set(options(panel, "layer")) >= {"", layer}
    ask(panel, do="click", points=[[names(panel).index("KD"), 1]])
    assert panel.shared.epoch == 1
    choose(panel, view="map")
    maps = [place for place, trace in enumerate(panel.fig.data) if trace.type == "heatmap"]
    frames = [(shape.x0, shape.x1) for shape in panel.fig.layout.shapes]
    assert frames == [(0.5, 1.5)] * 2, "the shown epoch is framed in each student's map"
    ask(panel, do="click", points=[[maps[1], 4 + 2]])  # second layer, third epoch
    assert panel.shared.epoch == 2
    ask(panel, do="click", points=[[maps[0], 0]])
    assert panel.shared.epoch == 2, "a teacher has no epochs"


# ---- factors ---------------------------------------------------------------------------------------------


def test_factors_beside_another_network(shapes: kdlab.Study, make: Make) -> None:
    panel = make(shapes)
    choose(panel, view="factors")
    result = probes.factor_probe(shapes, epochs="all", probe="ridge", baseline="alone")
    maps = [trace for trace in panel.fig.data if trace.type == "heatmap"]
    titles = [note.text for note in panel.fig.layout.annotations]
    assert len(maps) == 2 and "KD" in titles[1] and not any("alone" in text for text in titles)
    change = result.difference[result.networks.index("KD"), -1, :, :, 0].T
    assert np.allclose(np.array(maps[1].z, dtype=float), change)
    assert "Above 0 a network shows more of a factor than alone" in said(panel) and same_figure(panel)
    choose(panel, beside="resnet8")
    assert "more of a factor than resnet8" in said(panel) and same_figure(panel)
    choose(panel, factor_value="decodability", epoch=0)
    assert "after epoch 0" in said(panel) and control(panel, "beside")["hidden"]
    assert same_figure(panel)


def test_factors_are_offered_where_they_are_known(make: Make, shapes: kdlab.Study) -> None:
    assert "factors" not in options(make(), "view") and "factors" in options(make(shapes), "view")


# ---- studies of all kinds --------------------------------------------------------------------------------


def test_a_new_study_says_what_to_do(tmp_path: Path, make: Make) -> None:
    panel = make(small(tmp_path))
    assert "Nothing has been trained yet" in panel.live["hint"] and not panel.live["errors"]


def test_one_student_without_a_teacher_and_a_loaded_study(tmp_path: Path, make: Make) -> None:
    small(tmp_path, teacher=None, students={"alone": "ce"}, epochs=1).fit(progress=False)
    panel = make(kdlab.load_study(tmp_path / "study"))
    assert "alone" in names(panel) and not panel.live["hint"]
    for view in ("epochs", "map", "depth"):
        choose(panel, view=view)
        assert same_figure(panel) and not panel.live["errors"]


def test_a_running_study_is_followed(tmp_path: Path, make: Make) -> None:
    study = small(tmp_path, epochs=2, snapshots=[1, 2])
    run_to(study, study.steps_per_epoch)
    until(lambda: 1 in study.snapshot_epochs())  # it is taken after the step
    panel = make(study)
    assert "after epoch 1" in said(panel)
    study.play()
    assert study.wait(60)
    choose(panel, control=True)
    assert "after epoch 2" in said(panel)


def test_snapshots_that_come_quickly_do_not_starve_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    count = itertools.count()
    monkeypatch.setattr(ProbePanel, "known", lambda self: next(count))  # always something newer
    panel = make(in_cell=False)
    until(lambda: said(panel))
    first = panel._shown.key
    until(lambda: panel._shown.key != first), "and what came later follows"


def test_files_hold_all_epochs(study: kdlab.Study, make: Make) -> None:
    panel = make()
    sent: list[tuple[Any, Any]] = []
    panel.send = lambda content, buffers=None: sent.append((content, buffers))  # type: ignore[method-assign]
    ask(panel, do="export", format="csv")
    table = pd.read_csv(io.BytesIO(gzip.decompress(sent[0][1][0])))
    result = probes.linear_probe(study, probe="ridge", control=True)
    expected = result.to_frame()
    assert len(table) == len(expected) and np.allclose(table["accuracy"], expected["accuracy"])
    assert set(table["epoch"]) == {0, 1, 2, 3} and "selectivity" in table

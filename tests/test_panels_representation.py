"""The panel of maps: what it measures, what it only redraws, and how pictures are selected. No browser."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import kdlab
from kdlab import plots, probes
from kdlab.errors import ConfigError
from kdlab.panels.maps import Maps
from kdlab.panels.representation import RepresentationPanel
from kdlab.panels.shared import Shared
from kdlab.plots.point_looks import PointLooks, colors_of
from kdlab.probes import Embedding
from tests.panels_hands import control, in_python, options, until, with_page
from tests.small_study import small


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> kdlab.Study:
    more: dict[str, Any] = dict(seeds=[0, 1], probe_size=300, keep="none")
    return small(tmp_path_factory.mktemp("mapped"), **more).fit(progress=False)


@pytest.fixture(scope="module")
def space(study: kdlab.Study) -> Embedding:
    return probes.embed(study, "pca", seed=1)


@pytest.fixture
def make() -> Iterator[Callable[..., RepresentationPanel]]:
    made: list[RepresentationPanel] = []

    def panel(study: Any, view: str = "pca", **options: Any) -> RepresentationPanel:
        how = {"in_cell": True} | options
        made.append(RepresentationPanel(study, values={"view": view}, **how))
        with_page(made[-1])
        return made[-1]

    yield panel
    for one in made:
        one.close()


@pytest.fixture
def known(study: kdlab.Study, space: Embedding, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Maps that were measured; that of the fixture is not measured again."""
    measured: list[str] = []

    def embed(source: Any, method: str, **options: Any) -> Embedding:
        measured.append(method)
        if source is study and method == "pca" and options["seed"] == 1:
            return space
        return real(source, method, **options)

    real = probes.embed
    monkeypatch.setattr(probes, "embed", embed)
    return measured


def clouds(panel: RepresentationPanel) -> dict[str, Any]:
    """Network -> its trace."""
    assert panel.fig is not None
    return dict(zip(panel.fig.layout.meta["clouds"], panel.fig.data))


def rows(panel: RepresentationPanel) -> dict[str, list[int]]:
    """Name of a row of small pictures -> their places."""
    out: dict[str, list[int]] = {}
    for one in panel.live["pictures"]:
        out.setdefault(one["row"], []).append(one["id"])
    return out


# ---- maps over the epochs ------------------------------------------------------------------------------


def test_epochs_colours_and_students_only_redraw(
    study: kdlab.Study, space: Embedding, known: list[str], make: Callable[..., RepresentationPanel]
) -> None:
    panel = make(study)
    assert list(clouds(panel)) == ["resnet8", "alone", "KD"] and panel.seed() == 1
    for epoch in (0, 2, 3):
        panel.set("epoch", epoch)
        at = space.epochs.index(epoch)
        for n, trace in enumerate(clouds(panel).values()):
            np.testing.assert_array_equal(np.stack([trace.x, trace.y], 1), space.coordinates[at, n])
        assert f"{space.purity[at, 2]:.2f} ({space.purity_map[at, 2]:.2f})" in panel.live["said"]
        assert f"keeps {100 * space.kept[at].mean():.0f} %" in panel.live["said"]
    axes = [*panel.fig.select_xaxes()]
    assert len({tuple(axis.range) for axis in axes}) == 1 and all(a.constrain == "domain" for a in axes)
    panel.set("students", ["KD"])
    assert list(clouds(panel)) == ["resnet8", "KD"]
    assert "alone" not in panel.live["said"]
    panel.set("layout", "overlay")
    assert len({trace.xaxis for trace in clouds(panel).values()}) == 1
    symbols = [trace.marker.symbol for trace in clouds(panel).values()]
    assert symbols[0] != symbols[1] and "open" in symbols[0], "told apart without colour"
    for color in options(panel, "color"):
        panel.set("color", color)
        assert panel.live["errors"] == [] and panel.live["hint"] == ""
    panel.dark = True
    assert known == ["pca"]


def test_the_line_of_python_draws_the_same(
    study: kdlab.Study, known: list[str], make: Callable[..., RepresentationPanel]
) -> None:
    panel = make(study)
    panel.set("epoch", 2)
    panel.set("color", "quadrant")
    panel.set("select", "class:4")
    panel.set("neighbours", True)
    panel.set("students", ["alone", "KD"])
    fig = in_python(panel)
    assert [t.name for t in fig.data] == [t.name for t in panel.fig.data]
    for own, drawn in zip(fig.data, panel.fig.data, strict=True):
        np.testing.assert_array_equal(own.x, drawn.x)
        assert own.selectedpoints == drawn.selectedpoints and own.marker == drawn.marker
    assert fig.layout.meta == panel.fig.layout.meta
    panel.set("view", "live")
    fig = in_python(panel)
    np.testing.assert_array_equal(fig.data[0].x, panel.fig.data[0].x)


def test_calming_is_measured_and_its_price_told(
    study: kdlab.Study, make: Callable[..., RepresentationPanel]
) -> None:
    panel = make(study, "tsne")
    space = panel.space()
    assert space is not None and space.pull == 1.0
    for e, epoch in ((1, 1), (3, 3)):
        panel.set("epoch", epoch)
        price = f"KL divergence {space.divergence[e]:.2f}, {space.divergence_free[e]:.2f} without"
        assert price in panel.live["said"] and "mean little in t-SNE" in panel.live["said"]
    panel.set("calm", 0)
    assert panel.space().pull == 0 and "without calming" in panel.live["said"]
    assert "pull=0.0" in panel.live["code"]
    panel.set("arrows", "ce")
    assert "interpolated" in panel.live["said"], "a t-SNE map is not linear"


# ---- selecting -----------------------------------------------------------------------------------------


def test_what_is_selected_in_one_plot_is_selected_everywhere(
    study: kdlab.Study, space: Embedding, known: list[str], make: Callable[..., RepresentationPanel]
) -> None:
    shared = Shared()
    panel = make(study, shared=shared)
    evaluation = np.flatnonzero(~study.probe_set.fit)
    on_map = [int(np.flatnonzero(study.probe_set.index[evaluation] == i)[0]) for i in space.index]
    ring = next(k for k, trace in enumerate(panel.fig.data) if trace.marker.symbol == "circle-open")
    panel.on_points("select", [(2, 5), (2, 70), (2, 71), (ring, 0)])
    assert shared.samples == tuple(sorted(on_map[i] for i in (5, 70, 71))) and shared.sample in shared.samples
    assert all(tuple(trace.selectedpoints) == (5, 70, 71) for trace in clouds(panel).values())
    assert rows(panel)["Selected: 3"] == [on_map[i] for i in (5, 70, 71)]
    assert "3 pictures selected" in panel.live["said"] and control(panel, "select")["value"] == "chosen"
    panel.on_points("click", [(0, 9)])
    assert shared.sample == on_map[9] and len(shared.samples) == 3, "a click looks closer, no more"
    assert f"Ringed: picture {on_map[9]}, true class {space.labels[9]}" in panel.live["said"]
    panel.on_points("select", None)
    assert shared.samples == () and clouds(panel)["KD"].selectedpoints is None
    shared.select([on_map[3]])  # from another panel
    assert tuple(clouds(panel)["alone"].selectedpoints) == (3,)
    assert known == ["pca"]


def test_the_menu_selects_by_class_by_error_and_by_disagreement(
    study: kdlab.Study, space: Embedding, known: list[str], make: Callable[..., RepresentationPanel]
) -> None:
    panel = make(study)
    panel.set("epoch", 2)
    said, at = space.predicted[space.epochs.index(2)], panel.on_map(space)
    goals = {
        "class:7": space.labels == 7,
        "wrong:KD": said[2] != space.labels,
        "wrong:resnet8": said[0] != space.labels,
        "differ:alone": said[1] != said[0],
    }
    for kind, goal in goals.items():
        panel.set("select", kind)
        assert panel.shared.samples == tuple(sorted(at[goal].tolist())), kind
        assert control(panel, "select")["value"] == kind or not goal.any()
    panel.set("select", "differ:alone")
    count = int(goals["differ:alone"].sum())
    assert count > 40, "the study is too good for this test"
    assert len(rows(panel)[f"Selected: {count}, the first 40 are shown"]) == 40
    panel.pressed("next")
    assert panel.sample() in panel.shared.samples
    panel.set("epoch", 0)
    assert len(panel.shared.samples) == count, "the same pictures are followed through the epochs"
    assert control(panel, "select")["value"] == "chosen"
    panel.set("select", "none")
    assert panel.shared.samples == ()


def test_neighbours_are_those_in_the_features(
    study: kdlab.Study, known: list[str], make: Callable[..., RepresentationPanel]
) -> None:
    panel = make(study)
    panel.set("neighbours", True)
    panel.set("sample", 12)
    found = rows(panel)
    evaluation = np.flatnonzero(~study.probe_set.fit)
    for name in ("resnet8", "alone", "KD"):
        own = study.snapshot(name, 3, 1).embedding[evaluation].astype(np.float64)
        order = np.argsort(np.square(own - own[12]).sum(axis=1), kind="stable")
        (row,) = [row for row in found if f" in {name}: " in row]
        assert found[row] == [int(j) for j in order[:9]], "itself and the nearest eight"
        same = int((study.probe_set.labels[evaluation][order[1:11]] == panel.labels[12]).sum())
        assert f": {same} of 10 are of its class" in row


def test_pictures_that_the_map_does_not_show_are_told(
    study: kdlab.Study, space: Embedding, make: Callable[..., RepresentationPanel], monkeypatch: Any
) -> None:
    few = probes.embed(study, "pca", seed=1, n=40)
    monkeypatch.setattr(probes, "embed", lambda *args, **options: few)
    panel = make(study)
    outside = sorted(set(range(len(panel.evaluation))) - set(panel.on_map(few).tolist()))
    panel.shared.select([*outside[:2], int(panel.on_map(few)[0])])
    assert "1 picture selected" in panel.live["said"] and "2 more are not on the map" in panel.live["said"]
    assert "not on map" in panel.live["pictures"][-1]["text"]
    panel.shared.sample = outside[5]
    assert f"Picture {outside[5]} is not on the map, which shows 40 of" in panel.live["said"]


# ---- arrows --------------------------------------------------------------------------------------------


def test_arrows_show_where_a_loss_pulls_at_epochs_with_weights(
    study: kdlab.Study, space: Embedding, known: list[str], make: Callable[..., RepresentationPanel]
) -> None:
    panel = make(study)
    panel.set("student", "KD")
    assert list(options(panel, "arrows")) == ["off", "each", "ce", "kd", "all together"]
    panel.set("arrows", "kd")
    assert "They are exact; of the gradient the plane shows: KD" in panel.live["said"]
    assert [t.name for t in panel.fig.data if t.name and "pull" in t.name] == ["pull of kd"]
    (arrows,) = [t for t in panel.fig.data if t.name == "pull of kd"]
    own = probes.pull_arrows(
        probes.pull(study, students="KD", epochs=3, seed=1, n=len(space.labels)), onto=space
    )
    start, end = (np.stack([arrows.x[k::3], arrows.y[k::3]], 1) for k in (0, 1))
    moved = {tuple(np.round(place, 4)): way for place, way in zip(own.base, own.arrows["kd"], strict=True)}
    way = np.array([moved[tuple(np.round(place, 4))] for place in start.astype(float)])
    scale = np.linalg.norm(end - start) / np.linalg.norm(way)
    np.testing.assert_allclose(end - start, scale * way, atol=1e-3 * np.abs(end - start).max())
    fig = in_python(panel)
    (again,) = [t for t in fig.data if t.name == "pull of kd"]
    np.testing.assert_allclose(again.x, arrows.x, atol=1e-4)
    panel.set("epoch", 2)
    assert "KD they were kept at epochs 0 and 3" in panel.live["said"], "weights of epoch 2 were not kept"
    panel.set("epoch", 0)
    assert [t for t in panel.fig.data if t.name == "pull of kd"]
    panel.set("arrows", "off")
    assert "Arrows" not in panel.live["said"] and known == ["pca", "pca"], "the second is of the line"


# ---- studies of all kinds ------------------------------------------------------------------------------


def test_live_follows_training_and_a_map_is_made_of_what_there_is(
    tmp_path: Any, make: Callable[..., RepresentationPanel]
) -> None:
    study = small(tmp_path, epochs=40, students={"alone": "ce", "KD": "kd"}, probe_size=60)
    panel = make(study, "live", in_cell=False)
    until(lambda: "Nothing has been trained yet" in panel.live["hint"])
    assert len(panel.live["controls"]) == 1
    study.start(paused=True)
    study.step(2)
    until(lambda: panel.figure and "as it is now" in panel.live["said"])
    before = clouds(panel)["KD"].x
    study.step(3)
    until(lambda: not np.array_equal(clouds(panel)["KD"].x, before), 10)
    assert control(panel, "epoch")["hidden"] and control(panel, "arrows")["hidden"]
    study.play()
    until(lambda: len(study.snapshot_epochs()) >= 3)
    panel.set("view", "pca")
    until(lambda: panel.space() is not None and panel.space().method == "pca" and panel.space().pull == 0)
    until(lambda: len(panel.space().epochs) >= 3 and "after epoch" in panel.live["said"])
    assert panel.live["errors"] == []
    study.stop()
    study.wait(30)


def test_a_quick_training_does_not_keep_a_map_from_being_finished() -> None:
    class Going:
        state = "training"

    maps = Maps(Going())
    assert maps.epochs("pca", [0, 1], busy=False) == (0, 1)
    assert maps.epochs("pca", [0, 1, 2], busy=True) == (0, 1), "let it end first"
    assert maps.epochs("lda", [0, 1, 2], busy=True) == (0, 1, 2), "another map was asked for"
    maps._rest_until = time.monotonic() + 60
    assert maps.epochs("lda", [0, 1, 2, 4], busy=False) == (0, 1, 2), "training comes first"
    Going.state = "finished"
    assert maps.epochs("lda", [0, 1, 2, 4], busy=False) == (0, 1, 2, 4)


def test_one_student_without_a_teacher_and_one_that_was_dropped(
    tmp_path: Any, make: Callable[..., RepresentationPanel]
) -> None:
    alone = small(tmp_path, teacher=None, students="ce", epochs=2, probe_size=60).fit(progress=False)
    panel = make(alone)
    assert len(clouds(panel)) == 1 and control(panel, "layout")["hidden"]
    assert "quadrant" not in options(panel, "color") and "agreement" not in options(panel, "color")
    panel.set("neighbours", True)
    assert len(rows(panel)) == 1 and panel.live["errors"] == []
    study = small(tmp_path, folder=tmp_path / "two", epochs=3, probe_size=60)
    study.drop("KD", at_step=study.steps_per_epoch)
    study.fit(progress=False)
    panel = make(kdlab.load_study(tmp_path / "two"))
    panel.set("epoch", 3)
    assert not np.isfinite(clouds(panel)["KD"].x).any() and np.isfinite(clouds(panel)["alone"].x).all()
    assert "There is no snapshot of KD at this epoch." in panel.live["said"]
    assert any("not there after epoch 3" in note.text for note in panel.fig.layout.annotations)
    panel.set("select", "wrong:alone")
    panel.set("view", "live")
    assert panel.live["errors"] == [] and "KD" in clouds(panel)


def test_too_few_pictures_are_a_hint(tmp_path: Any, make: Callable[..., RepresentationPanel]) -> None:
    study = small(tmp_path, teacher=None, students="ce", epochs=1, probe_size=12).fit(progress=False)
    panel = make(study)
    assert "at least 10 evaluation pictures" in panel.live["hint"] and panel.live["errors"] == []


def test_files_hold_the_map(
    study: kdlab.Study, space: Embedding, known: list[str], make: Callable[..., RepresentationPanel]
) -> None:
    panel = make(study)
    sent: list[dict[str, Any]] = []
    panel.send = lambda content, buffers=None: sent.append(content)  # type: ignore[method-assign]
    for kind in ("csv", "npz", "html"):
        panel._handle_custom_msg({"id": 1, "do": "export", "format": kind}, [])
    assert [one["name"] for one in sent] == [f"study-representations.{k}" for k in ("csv", "npz", "html")]
    assert panel.exported(panel.result).to_frame().equals(space.to_frame())


# ---- the figure ----------------------------------------------------------------------------------------


def test_colours_of_a_map(space: Embedding) -> None:
    n = len(space.labels)
    rich = replace(
        space,
        coarse=space.labels // 5,
        coarse_names=("low", "high"),
        factors={"shape": np.arange(n) % 3},
        factor_names={"shape": ("disc", "ring", "star")},
    )
    assert colors_of(rich) == (
        *("class", "coarse", "correct", "agreement", "quadrant", "confidence", "network", "shape"),
    )
    for color in ("coarse", "shape", "correct", "agreement", "quadrant"):
        looks = PointLooks(rich, len(rich.epochs) - 1, (0, 2), color)
        kinds = {
            "coarse": rich.coarse,
            "shape": rich.factors["shape"],
            "correct": rich.predicted[-1, 2] != rich.labels,
            "agreement": rich.predicted[-1, 2] != rich.predicted[-1, 0],
            "quadrant": 2 * (rich.predicted[-1, 0] != rich.labels) + (rich.predicted[-1, 2] != rich.labels),
        }[color]
        marker = looks.marker(2, 6.0)
        pairs = set(zip(kinds.tolist(), marker["color"], marker["symbol"], strict=True))
        assert len(pairs) == len({k for k, *_ in pairs}), "one look for each kind"
        assert len({symbol for _, _, symbol in pairs}) == len(pairs), "never colour alone"
    with pytest.raises(ConfigError, match="did you mean"):
        plots.embedding_at(space, color="quadrants")
    with pytest.raises(ConfigError, match="no place 999"):
        plots.embedding_at(space, selected=[999])
    fig = plots.embedding_at(space, 0, dark=True, selected=[1])
    assert json.loads(fig.to_json()) and "before training" in fig.layout.meta["summary"]

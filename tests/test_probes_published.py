"""Published accuracies: the table, what is comparable with a study, and how both are drawn apart."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import kdlab.methods
from kdlab import plots, probes
from kdlab.errors import UnknownNameError
from kdlab.methods.literature import COLUMNS
from kdlab.probes.published import beside_published
from tests.test_probes_final import trained


def own(
    data: str = "cifar100",
    teacher: str | None = "resnet32x4",
    student: str = "resnet8x4",
    students: dict[str, Any] | None = None,
    **more: Any,
) -> Any:
    """A stand-in for a finished study on these data."""
    methods = {"alone": "ce", "KD": "kd", "new": "cmkd"} if students is None else students
    last = {name: [0.70 + 0.01 * place, 0.72 + 0.01 * place] for place, name in enumerate(methods)}
    study = trained(last)
    study.data = SimpleNamespace(name=data, chance=0.01, val=range(more.get("val", 0)))
    study.asked = {
        "teachers": [] if teacher is None else [{"architecture": teacher}],
        "student": student,
        "labels_per_class": more.get("labels_per_class"),
    }
    study.recipe = SimpleNamespace(name=more.get("recipe", "cifar_240"), epochs=more.get("epochs", 240))
    study.epochs = 10
    study.students = {
        name: SimpleNamespace(method=kdlab.methods.make(method), network=None)
        for name, method in methods.items()
    }
    study.teachers = [SimpleNamespace(name=teacher, accuracy=0.79)] if teacher else []
    return study


# ---- the table -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teacher", "student", "method", "source", "accuracy"),
    [  # Tian, Krishnan and Isola, ICLR 2020, tables 1 and 2
        ("wrn_40_2", "wrn_16_2", "kd", "RepDistiller", 74.92),
        ("wrn_40_2", "wrn_16_2", "crd", "RepDistiller", 75.48),
        ("resnet32x4", "resnet8x4", "kd", "RepDistiller", 73.33),
        ("resnet32x4", "resnet8x4", "crd", "RepDistiller", 75.51),
        ("vgg13", "MobileNetV2", "kd", "RepDistiller", 67.37),
        # Zhao et al., CVPR 2022
        ("resnet32x4", "resnet8x4", "dkd", "mdistiller", 76.32),
    ],
)
def test_well_known_numbers(teacher: str, student: str, method: str, source: str, accuracy: float) -> None:
    table = kdlab.methods.published("cifar100", teacher, student, method)
    found = table[table["source"] == source]
    assert found["accuracy"].tolist() == [accuracy]


def test_every_number_has_its_source_and_could_be_one() -> None:
    table = kdlab.methods.published()
    assert tuple(table.columns) == COLUMNS and len(table) > 500
    assert (table["source"] != "").all() and (table["paper"] != "").all() and (table["where"] != "").all()
    assert table["accuracy"].between(10, 100).all()
    assert set(table["epoch"]) <= {"last", "best on test", ""}
    key = ["data", "teacher", "student", "method", "source", "note"]
    assert not table.duplicated(key).any()
    assert not set(table["method"]) & {"cmkd", "mtkd_ssr", "dckd", "gpac", "skd"}, "nobody published these"
    alone = table[table["method"] == "student"]
    assert (alone["student"] != "").all() and (table[table["method"] == "teacher"]["teacher"] != "").all()


def test_the_table_is_asked_for_in_any_spelling() -> None:
    ours = kdlab.methods.published("cifar100", "WRN-40-2", "WRN-16-2", ["kd", "student"])
    assert set(ours["method"]) == {"kd", "student"} and set(ours["student"]) == {"wrn_16_2"}
    assert len(kdlab.methods.published("cifar100", "no_such_net", method="kd")) == 0
    several = kdlab.methods.published(teacher=["vgg13"] * 3, student="MobileNetV2")
    assert "vgg13 + vgg13 + vgg13" in set(several["teacher"])


# ---- beside own numbers ----------------------------------------------------------------------------------


def test_only_the_same_data_and_networks_are_compared() -> None:
    result = beside_published(own())
    assert result.comparable and {row["network"] for row in result.rows if row["network"]} == {"resnet8x4"}
    alone, kd, new = (result.matches(one) for one in result.own)
    assert {row["method"] for row in alone} == {"student"} and {row["method"] for row in kd} == {"kd"}
    assert 0.7333 in [row["accuracy"] for row in kd] and new == []
    text = result.summary
    assert "KD 72.0 ± 1.4 %, published" in text and "73.33 % (RepDistiller)" in text
    assert "new 73.0 ± 1.4 %, nothing published" in text
    other = beside_published(own(teacher="vgg13"))
    assert {row["method"] for row in other.rows} == {"student", "teacher"}, "each trained alone"
    assert [len(other.matches(one)) > 0 for one in other.own] == [True, False, False]
    assert not beside_published(own("cifar10")).comparable
    apart = beside_published(own("digits"))
    assert "No published number here can be compared with this study" in apart.summary
    assert (
        apart.rows == () and apart.differences == () and "resnet32x4 → resnet8x4 on digits" in apart.summary
    )
    assert all(pair["count"] > 0 and pair["lowest"] <= pair["highest"] for pair in apart.pairs)


def test_what_else_differs_is_said() -> None:
    same = beside_published(own(students={"KD": "kd"})).differences
    assert not any("The recipe: here" in text for text in same)
    assert any("at epoch 10 of" in text for text in beside_published(_short()).differences)
    other = " ".join(
        beside_published(
            own(recipe="cifar_quick", epochs=10, val=500, students={"KD": kdlab.methods.KD(temperature=9.0)})
        ).differences
    )
    assert "here cifar_quick, 10 epochs" in other and "RepDistiller" in other and "240 epochs" in other
    assert "a part of the training pictures is kept for validation" in other
    assert "The loss of KD does not have the settings" in other
    assert "The teacher: here 79.00 %, in RepDistiller 79.42 %" in other
    few = " ".join(beside_published(own(labels_per_class=20)).differences)
    assert "20 pictures of each class" in few and "validation" not in few


def _short() -> Any:
    study = own()
    study.epochs = 20
    return study


def test_published_numbers_are_never_own_ones_in_table_file_and_figure(tmp_path: Path) -> None:
    result = beside_published(own())
    table = result.to_frame()
    assert set(table["whose"]) == {"own", "published"}
    mine = table[table["whose"] == "own"].set_index("student")
    assert np.isclose(mine["accuracy"]["KD"], 0.72) and mine["seeds"]["KD"] == 2
    assert table[table["whose"] == "published"]["source"].ne("").all()
    again = probes.load_result(result.save(tmp_path / "r.npz"))
    assert again.summary == result.summary
    fig = plots.beside_published(result)
    for trace in fig.data:
        if (trace.name or "").startswith("published"):
            assert trace.marker.symbol.endswith("-open")
    marks = [t.marker.symbol for t in fig.data if (t.hovertemplate or "").startswith("KD, here")]
    assert marks == ["square"]
    everything = plots.beside_published(result, methods="all")
    assert len(everything.layout.yaxis.ticktext) > len(fig.layout.yaxis.ticktext) == 3
    assert any("RepDistiller (ICLR 2020)" in (trace.name or "") for trace in fig.data)
    with pytest.raises(UnknownNameError, match="choice of methods"):
        plots.beside_published(result, methods="mine")


def test_where_nothing_fits_the_figure_shows_what_would(tmp_path: Path) -> None:
    result = beside_published(own("digits", teacher=None))
    assert "which is no teacher → resnet8x4 on digits" in result.summary
    fig = plots.beside_published(result)
    assert "wrn_40_2 → wrn_16_2" in fig.layout.yaxis.ticktext
    assert not any("here" in (trace.hovertemplate or "") for trace in fig.data)
    others = result.to_frame()["whose"]
    assert set(others) == {"own", "published, of other networks"}

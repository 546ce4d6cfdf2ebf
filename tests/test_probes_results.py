"""Results are kept in plain files, and sources serve studies, modules, arrays and data sets alike."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdlab
from kdlab import probes
from kdlab.errors import ConfigError, DataError
from tests.small_study import small


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> kdlab.Study:
    return small(tmp_path_factory.mktemp("probed"), students={"alone": "ce", "CMKD": "cmkd"}).fit(
        progress=False
    )


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b or (a != a and b != b))


MEASURES = {
    "linear_probe": lambda s: probes.linear_probe(s, control=True),
    "embed": lambda s: probes.embed(s, "pca"),
    "attention_maps": lambda s: probes.attention_maps(s, range(4)),
    "logit_decomposition": lambda s: probes.logit_decomposition(s),
    "learning_curves": lambda s: probes.learning_curves(s),
}


@pytest.mark.parametrize("name", MEASURES)
def test_a_result_comes_back_from_its_file_as_it_was(study: kdlab.Study, name: str, tmp_path: Path) -> None:
    result = MEASURES[name](study)
    path = result.save(tmp_path / "results" / name)
    assert path.name == f"{name}.npz"
    again = probes.load_result(path)
    assert type(again) is type(result)
    for field in dataclasses.fields(result):
        assert equal(getattr(again, field.name), getattr(result, field.name)), field.name
    assert again.summary == result.summary and again.to_frame().equals(result.to_frame())
    assert again.plot().layout.meta["summary"] == result.plot().layout.meta["summary"]
    assert type(result).load(path).summary == result.summary


def test_files_that_are_no_results_are_named(tmp_path: Path, study: kdlab.Study) -> None:
    with pytest.raises(DataError, match="no file"):
        probes.load_result(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(DataError, match="not a result"):
        probes.load_result(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("nothing")
    with pytest.raises(DataError, match="not a result"):
        probes.load_result(tmp_path / "text.npz")
    np.savez(tmp_path / "new.npz", about=np.array(json.dumps({"format": 99, "kind": "X", "fields": {}})))
    with pytest.raises(DataError, match="format 99"):
        probes.load_result(tmp_path / "new.npz")
    path = probes.embed(study, "pca").save(tmp_path / "map")
    with pytest.raises(DataError, match="holds Embedding, not AttentionMaps"):
        probes.AttentionMaps.load(path)


def test_networks_of_a_study_are_those_that_its_snapshots_show(study: kdlab.Study) -> None:
    source = probes.as_source(study)
    everything = np.arange(len(source.target))
    for name, epoch in (("resnet8", -1), ("CMKD", 0), ("CMKD", 2), ("alone", 3)):
        net = source.net(name, epoch, 0)
        with torch.no_grad():
            logits = net(source.inputs(everything)).numpy()
        view = source.view(name, epoch, 0)
        np.testing.assert_allclose(logits, view.logits, rtol=1e-4, atol=1e-4)
        weight, bias = view.classifier
        np.testing.assert_allclose(view.embedding @ weight.T + bias, view.logits, rtol=5e-3, atol=5e-3)


def test_modules_look_at_a_data_set_by_name() -> None:
    net = kdlab.models.build("resnet8", num_classes=10, in_channels=1)
    source = probes.as_source({"mine": net}, data="digits", n=80)
    data = kdlab.data.load("digits")
    assert source.class_names == data.class_names and source.fit.sum() == 40 and len(source.target) == 80
    with torch.no_grad():
        expected = net.eval()(data.normalize(torch.from_numpy(source.images))).numpy()
    np.testing.assert_allclose(source.view("mine", -1, 0).logits, expected, rtol=1e-5, atol=1e-5)
    assert source.net("mine", -1, 0) is net
    shapes = probes.as_source({"a": np.zeros((80, 3))}, data="shapes", n=80)
    assert set(shapes.factors) == set(kdlab.data.load("shapes").factor_names)
    assert all(len(values) == 80 for values in shapes.factors.values())


def test_networks_see_normalised_pictures_unrounded() -> None:
    torch.manual_seed(0)
    images, target = torch.randn(12, 1, 8, 8), torch.arange(12) % 3
    net = kdlab.models.build("resnet8", num_classes=3, in_channels=1).eval()
    source = probes.as_source({"net": net}, images=images, target=target)
    with torch.no_grad():
        np.testing.assert_allclose(source.view("net", -1, 0).logits, net(images).numpy(), atol=1e-6)
    assert torch.equal(source.inputs(np.array([3, 1])), images[[3, 1]])
    assert source.images is not None and source.images.dtype == np.uint8


def test_what_a_source_lacks_is_said() -> None:
    features = np.random.default_rng(0).normal(size=(12, 4))
    source = probes.as_source({"a": features, "b": features}, target=np.arange(12) % 3)
    with pytest.raises(ConfigError, match="'a' was given as features"):
        source.net("a", -1, 0)
    with pytest.raises(ConfigError, match="no pictures"):
        source.inputs(np.arange(2))
    with pytest.raises(ConfigError, match="at least one"):
        probes.as_source({}, target=np.arange(12) % 3)
    with pytest.raises(ConfigError, match="channels, height, width"):
        probes.as_source({"a": features}, target=np.arange(12) % 3, images=np.zeros((12, 4)))


def test_several_teachers_are_all_there(tmp_path: Path) -> None:
    study = small(tmp_path, teacher=["resnet8", "resnet14"], students={"AVER": "aver"}, epochs=1).fit(
        progress=False
    )
    assert probes.as_source(study).teachers == ("resnet8", "resnet14") == tuple(study.teacher_names)
    assert probes.linear_probe(study).networks == ("resnet8", "resnet14", "AVER")
    assert probes.embed(study, "pca").networks == ("resnet8", "resnet14", "AVER")
    assert probes.attention_maps(study).networks == ("resnet8", "resnet14", "AVER")
    assert probes.logit_decomposition(study).teacher == "resnet8"


def test_a_study_of_given_arrays_is_looked_into_without_them(tmp_path: Path) -> None:
    """What is known of its length comes from the record, not from the pictures that are at hand."""
    data = kdlab.data.load("digits", labels_per_class=12)
    whole = small(tmp_path, data=data, labels_per_class=None, students={"KD": "kd"}).fit(progress=False)
    views = kdlab.load_study(whole.folder)
    assert len(views.data.train) != len(whole.data.train)
    assert views.steps_per_epoch == whole.steps_per_epoch
    assert views.kept_epochs("KD") == whole.kept_epochs("KD") == [1, 2]
    assert views.history(per="step").equals(whole.history(per="step"))
    source = probes.as_source(views)
    with torch.no_grad():
        logits = source.net("KD", 1, 0)(source.inputs(np.arange(8))).numpy()
    np.testing.assert_allclose(logits, source.view("KD", 1, 0).logits[:8], rtol=1e-4, atol=1e-4)
    assert probes.pull(views, epochs="all", n=16).epochs == (0, 1, 2, 3)

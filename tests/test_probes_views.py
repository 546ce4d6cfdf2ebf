"""Attention maps, logit decomposition, learning curves, and the reading of sources."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from fake_study import FakeStudy

from kdlab import losses, models, probes
from kdlab.errors import ConfigError, StudyError, UnknownNameError

# ---- attention ---------------------------------------------------------------------------------------


def test_attention_of_a_study() -> None:
    study = FakeStudy()
    result = probes.attention_maps(study)
    assert result.networks == ("teacher", "alone", "KD", "CMKD")
    assert result.epochs == (6,)
    for maps in result.maps.values():
        assert np.allclose(np.square(maps).sum(axis=(1, 2)), 1.0, atol=1e-5)
    even = np.ones((1, 4, 4))
    assert result.relative("KD", 6, "stage1").shape == (6, 4, 4)
    assert np.isclose(np.square(result.relative("KD", 6, "stage1")).mean(), np.square(even).mean())
    assert all(c.min() > 0 and c.max() <= 1 + 1e-6 for c in result.cosine.values())
    assert result.labels.tolist() == [0, 1, 2, 3, 0, 1]
    assert result.images is not None and result.images.shape == (6, 1, 4, 4)
    assert np.array_equal(result.images[2], study.probe_set.images[96 + 2].numpy())  # the right pictures
    assert len(result.to_frame()) == 3 * 3 * 6
    assert "cosine" in result.summary


def test_at_loss_is_the_loss_of_training() -> None:
    generator = torch.Generator().manual_seed(0)
    net, other = models.build("resnet8", 10, 1).eval(), models.build("resnet20", 10, 1).eval()
    images = torch.randn(5, 1, 16, 16, generator=generator)
    result = probes.attention_maps({"s": net, "t": other}, images=images, target=[0, 1, 2, 3, 4], teacher="t")
    with torch.no_grad():
        own, theirs = net.features(images).stages, other.features(images).stages
    for name, a, b in zip(net.stage_names, own, theirs, strict=True):
        expected = float(losses.attention_transfer(a, b))
        assert float(result.at_loss["s", -1, name].mean()) == pytest.approx(expected, rel=1e-4)
    same = probes.attention_maps({"s": net, "t": net}, images=images, target=[0, 1, 2, 3, 4], teacher="t")
    assert all(np.allclose(c, 1.0, atol=1e-5) for c in same.cosine.values())


def test_attention_of_different_sizes_and_depths() -> None:
    generator = np.random.default_rng(0)

    def view(name: str, sizes: dict[str, int]) -> probes.Representation:
        maps = {stage: generator.random((3, size, size)).astype(np.float32) for stage, size in sizes.items()}
        return probes.Representation(name, attention=maps)

    student, teacher = view("s", {"a": 8, "b": 4}), view("t", {"x": 8, "y": 8, "z": 2})
    result = probes.attention_maps({"s": student, "t": teacher}, target=[0, 1, 2], teacher="t")
    assert result.partner == {("s", "a"): "y", ("s", "b"): "z"}  # the deepest stages correspond
    assert result.cosine["s", -1, "b"].shape == (3,)
    assert result.summary


def test_dead_maps_are_zero() -> None:
    dead = probes.Representation("s", attention={"a": np.zeros((2, 3, 3), np.float32)})
    result = probes.attention_maps({"s": dead}, target=[0, 1])
    assert (result.maps["s", -1, "a"] == 0).all()


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"samples": [6]}, ConfigError, "0 .. 5"),
        ({"stages": "stage7"}, UnknownNameError, "stage of teacher"),
        ({"students": "nobody"}, UnknownNameError, "student named"),
    ],
)
def test_attention_refuses(options: dict, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        probes.attention_maps(FakeStudy(), **options)


def test_attention_needs_maps() -> None:
    with pytest.raises(ConfigError, match="No attention maps of 'a' were kept"):
        probes.attention_maps({"a": np.zeros((4, 3))}, target=[0, 1, 0, 1])


# ---- logits ------------------------------------------------------------------------------------------

E1 = {
    "S": [[2, 1, 0, -1], [0.5, 1.5, 0, 1], [3, -1, 0.5, 0]],
    "T": [[4, 1, 0.5, -2], [0, 3, 1, 2], [1, 2, -0.5, 0]],
}
WORKED = {  # temperature: rows of p_t teacher, p_t student, TCKD, NCKD, product, KD
    1.0: [
        [0.923819, 0.643914, 0.215977, 0.056046, 0.004270, 0.220247],
        [0.643914, 0.455054, 0.072014, 0.137618, 0.049004, 0.121018],
        [0.232057, 0.869423, 1.054096, 1.304198, 1.001550, 2.055646],
    ],
    4.0: [
        [0.473404, 0.349932, 0.514302, 0.152828, 0.080478, 0.594780],
        [0.349932, 0.298633, 0.097550, 0.225961, 0.146890, 0.244440],
        [0.266658, 0.420963, 0.823972, 1.518010, 1.113220, 1.937192],
    ],
}


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_worked_samples(temperature: float) -> None:
    logits = {name: np.array(rows, dtype=float) for name, rows in E1.items()}
    result = probes.logit_decomposition(logits, target=[0, 1, 0], teacher="T", temperature=temperature)
    found = np.stack(
        [
            result.p_t_teacher,
            result.p_t_student[0],
            result.tckd[0],
            result.nckd[0],
            result.product[0],
            result.kd[0],
        ],
        1,
    )
    assert np.allclose(found, WORKED[temperature], atol=2e-6)
    assert result.quadrant.tolist() == [[0, 0, 2]]  # the teacher errs on the last, the student does not
    assert np.allclose(result.weight, 1 - result.p_t_teacher)


def test_temperature_is_a_hidden_weight() -> None:
    torch.manual_seed(7)
    zs, zt, y = torch.randn(16, 20), torch.randn(16, 20), torch.randint(0, 20, (16,))
    rows = torch.arange(16)
    zs[rows, y] += 2
    zt[rows, y] += 6
    result = probes.logit_decomposition({"S": zs, "T": zt}, target=y, teacher="T")
    assert result.sweep.tolist() == [1, 2, 4, 8, 16]
    assert np.allclose(result.sweep_share[0], [0.916405, 0.780449, 0.583976, 0.448742, 0.380537], atol=2e-5)
    assert np.allclose(result.sweep_kd[0], [1.272193, 2.254138, 1.807554, 1.501044, 1.374709], atol=2e-5)
    assert result.share[0] == pytest.approx(result.sweep_share[0, 2])


def test_decomposition_of_a_study() -> None:
    result = probes.logit_decomposition(FakeStudy(), temperature=2.0)
    assert result.students == ("alone", "KD", "CMKD")
    assert result.kd.shape == (3, 96)
    assert np.allclose(result.kd, result.tckd + result.product, atol=1e-9)
    assert result.kd[1].mean() < result.kd[0].mean()  # KD is nearer to the teacher by design
    places = result.interesting(5)
    assert len(set(places)) == 5
    by_class = result.by_class()
    assert len(by_class) == 3 * 4
    own = by_class[(by_class.network == "KD") & (by_class.label == 2)]
    assert own.kd.iloc[0] == pytest.approx(result.kd[1, result.target == 2].mean())
    teacher, students = result.confusion()
    assert np.allclose(teacher.sum(axis=1), 1.0) and (np.diagonal(teacher) == 0).all()
    assert students.shape == (3, 4, 4)
    assert "TCKD" in result.summary
    assert len(result.to_frame()) == 3 * 96


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: probes.logit_decomposition(FakeStudy(), temperature=0), "positive"),
        (lambda: probes.logit_decomposition(FakeStudy(), samples=[96]), "0 .. 95"),
        (lambda: probes.logit_decomposition(FakeStudy(teacher="")), "no teacher"),
        (
            lambda: probes.logit_decomposition(
                {"S": [[1.0, 2]], "T": [[1.0, 2, 3]]}, target=[0], teacher="T"
            ),
            "2 classes",
        ),
        (
            lambda: probes.logit_decomposition(
                {"S": [[np.nan, 2.0]], "T": [[1.0, 2]]}, target=[0], teacher="T"
            ),
            "diverged",
        ),
    ],
)
def test_decomposition_refuses(call, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        call()


# ---- curves and sources --------------------------------------------------------------------------------


def test_learning_curves() -> None:
    study = FakeStudy()
    result = probes.learning_curves(study)
    assert result.values.shape == (3, 3, 6)
    assert result.teachers == {"teacher": 0.97}
    assert result.marks[0]["text"] == "kd off"
    assert result.values[1, 0, -1] == pytest.approx(
        study.record.epoch_series("KD", "test_accuracy", 0)[1][-1]
    )
    assert "mean of 3 seeds" in result.summary
    assert len(result.to_frame()) == 3 * 3 * 6
    with pytest.raises(StudyError, match="recorded yet"):
        probes.learning_curves(study, "term/kd")
    with pytest.raises(UnknownNameError, match="student"):
        probes.learning_curves(study, students=["x"])


def test_curves_of_a_killed_study_have_gaps() -> None:
    study = FakeStudy()
    epochs, values = study.record.series_of["KD", "test_accuracy", 2]
    study.record.series_of["KD", "test_accuracy", 2] = (epochs[:2], values[:2])
    result = probes.learning_curves(study)
    assert np.isnan(result.values[1, 2, 2:]).all()
    assert np.isfinite(result.values[1, :2]).all()


def test_measure_leaves_the_network_as_it_was() -> None:
    net = models.build("resnet8", 10, 1).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    seen = probes.measure(net, torch.randn(7, 1, 8, 8), name="n", batch_size=3)
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert seen.logits is not None and seen.logits.shape == (7, 10)
    assert list(seen.stages) == list(net.stage_names)
    whole = probes.measure(net, torch.randn(7, 1, 8, 8), batch_size=7)
    assert whole.attention[net.stage_names[0]].ndim == 3


def test_snapshots_are_read_once() -> None:
    study = FakeStudy()
    read = []
    original = study.snapshot
    study.snapshot = lambda *a, **k: read.append(a) or original(*a, **k)
    source = probes.as_source(study)
    probes.linear_probe(source, probe="ridge")
    first = len(read)
    assert first == 3 * 3 * 3 + 1  # the teacher once
    probes.linear_probe(source, probe="ridge")
    probes.logit_decomposition(source)
    assert len(read) == first


def test_probes_are_cheap_to_import() -> None:
    code = (
        "import sys, torch, kdlab.probes, kdlab.plots, kdlab.report\n"
        "heavy = {'sklearn', 'scipy', 'pandas', 'plotly', 'captum', 'torchvision', 'openTSNE'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

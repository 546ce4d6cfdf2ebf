"""Factors read from layers: known answers by construction, chance, ties with the class, refusals, figures."""

from __future__ import annotations

import numpy as np
import pytest
from fake_study import FakeStudy
from small_study import small

from kdlab import plots
from kdlab.data import choose_probe_set
from kdlab.data.shapes import make
from kdlab.errors import ConfigError, StudyError, UnknownNameError
from kdlab.probes import load_result
from kdlab.probes.factors import CLASS, FactorProbe, factor_probe


def onehot(values: np.ndarray) -> np.ndarray:
    return np.eye(values.max() + 1)[values]


@pytest.fixture(scope="module")
def known() -> FactorProbe:
    """Two networks: one shows the colour alone, the other class and size; nobody shows the place."""
    rng = np.random.default_rng(0)
    n = 1200
    target, color, size, place = (rng.integers(0, k, n) for k in (5, 4, 3, 2))
    place[rng.random(n) < 0.5] = 0  # so that its chance is not one half

    def noisy(*parts: np.ndarray) -> np.ndarray:
        x = np.concatenate([onehot(part) for part in parts], axis=1)
        return x @ rng.normal(size=(x.shape[1], 12)) + 0.01 * rng.normal(size=(n, 12))

    networks = {"first": {"a": noisy(color), "b": noisy(target, size)}, "second": {"a": noisy(target)}}
    factors = {"color": color, "size": np.array(["small", "medium", "large"])[size], "place": place}
    return factor_probe(networks, target, factors=factors, probe="ridge", baseline="second")


def test_what_is_there_is_read_and_nothing_else(known: FactorProbe) -> None:
    assert known.factors == (CLASS, "color", "size", "place") and known.label == CLASS
    assert known.layers == ("a", "b") and known.accuracy.shape == (2, 1, 2, 4, 1)
    read = known.decodability[:, 0, :, :, 0]
    assert read[0, 0, 1] == 1.0 and (read[0, 1, [0, 2]] > 0.99).all() and read[1, 0, 0] == 1.0
    absent = [read[0, 0, [0, 2, 3]], read[0, 1, [1, 3]], read[1, 0, [1, 2, 3]]]
    assert np.abs(np.concatenate(absent)).max() < 0.12
    assert np.isnan(read[1, 1]).all()  # the second network has no layer b
    assert known.values.tolist() == [5, 4, 3, 2]


def test_chance_is_that_of_each_factor(known: FactorProbe) -> None:
    assert known.chance[3] == pytest.approx(0.75, abs=0.06)
    chance = known.chance[:, None]
    assert np.allclose(known.decodability * (1 - chance) + chance, known.accuracy, equal_nan=True)
    assert (known.noise > 0).all() and known.noise[3] > known.noise[0]  # a rarer miss is worth more


def test_differences_are_those_to_the_baseline(known: FactorProbe) -> None:
    change = known.difference
    assert change is not None
    read = known.decodability
    assert np.allclose(change[0, 0, 0, :, 0], read[0, 0, 0, :, 0] - read[1, 0, 0, :, 0])
    assert (change[1, 0, 0] == 0).all()
    frame = known.to_frame()
    assert len(frame) == 3 * 4 and "difference to second" in frame


def test_the_summary_tells_best_and_least(known: FactorProbe) -> None:
    assert "first size (1.00) best and" in known.summary
    assert "closed-form ridge" in known.summary and "Careful" not in known.summary


def test_ties_with_the_class_are_told() -> None:
    rng = np.random.default_rng(1)
    target = rng.integers(0, 4, 800)
    tied = np.where(rng.random(800) < 0.9, target % 3, rng.integers(0, 3, 800))
    free = rng.integers(0, 3, 800)
    x = onehot(target) + 0.01 * rng.normal(size=(800, 4))
    result = factor_probe({"net": x}, target, factors={"tied": tied, "free": free}, probe="ridge")
    assert result.factors == (CLASS, "tied", "free")
    assert result.tied[0].min() == pytest.approx(1.0) and result.tied[1].min() > 0.4
    assert np.abs(result.tied[2]).max() < 0.02  # adjusted for chance
    assert result.decodability[0, 0, 0, 1, 0] > 0.7  # read through the class
    assert "Careful: tied" in result.summary and "free (" not in result.summary.split("Careful")[1]
    assert "⚠" in "".join(result.plot().layout.yaxis.ticktext)


def test_the_test_part_of_correlated_shapes_stays_free() -> None:
    data = make(800, 400, correlate={"color": 1.0})
    x = np.random.default_rng(0).normal(size=(len(choose_probe_set(data, 400).labels), 4))
    result = factor_probe({"net": x}, data=data, n=400, factors=["color", "shape"], probe="ridge")
    assert result.label == "shape" and result.factors == ("shape", "color")  # the label is not told twice
    fit, test = result.tied[1]
    assert fit == pytest.approx(1.0) and abs(test) < 0.1
    assert "color" in result.summary.split("Careful")[1]


def test_features_without_anything_are_at_chance() -> None:
    rng = np.random.default_rng(2)
    n = 2000
    result = factor_probe(
        {"noise": rng.normal(size=(n, 10))}, rng.integers(0, 4, n), factors={"f": rng.integers(0, 6, n)}
    )
    assert np.abs(result.decodability).max() < 0.06
    assert result.probe == "softmax" and result.difference is None


def with_factors(study: FakeStudy) -> FakeStudy:
    labels = study.probe_set.labels.numpy()
    halves = np.arange(len(labels)) // 4 % 2
    study.probe_set.factors = {"class group": labels // 2, "half": halves}
    study.data.factor_names = {}
    return study


def test_a_study_with_gaps() -> None:
    study = FakeStudy(seeds=(0, 1), late={"KD": 0}, gone={"CMKD": 2})
    for name, one in study.students.items():
        one.method.needs_teacher = lambda name=name: name != "alone"
    result = factor_probe(with_factors(study), epochs="all", probe="ridge")
    assert result.baseline == "alone" and result.networks == ("teacher", "alone", "KD", "CMKD")
    there = np.isfinite(result.accuracy[:, :, 0, 0])
    assert there[0].all(axis=0).tolist() == [True, False]  # a teacher is one network
    assert not there[2, 0].any() and there[2, 1:].all()  # came later
    assert there[3, :2, 0].all() and not there[3, 2].any() and not there[3, :, 1].any()  # went earlier
    group = result.factors.index("class group")
    assert result.decodability[1, -1, -1, group].mean() > result.decodability[1, 0, -1, group].mean() + 0.1
    change = result.difference
    assert change is not None and np.isfinite(change[0, -1]).all()  # a teacher beside each seed
    assert "There is no snapshot of CMKD at that epoch" in result.summary
    plots.factors(result)


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> FactorProbe:
    study = small(
        tmp_path_factory.mktemp("factors"), data=make(160, 80), labels_per_class=None, probe_size=64
    )
    study.fit()
    return factor_probe(study, epochs=[0, -1], layers=["layer1", "layer3"], probe="ridge")


def test_a_real_study(real: FactorProbe, tmp_path) -> None:
    assert real.label == "shape" and "background" in real.factors and len(real.factors) == 8
    assert real.baseline == "alone" and real.networks == ("resnet8", "alone", "KD")
    assert np.isfinite(real.accuracy).all()
    background = real.factors.index("background")
    assert real.decodability[:, -1, 0, background].min() > 0.15  # plain to early layers
    again = load_result(real.save(tmp_path / "factors"))
    assert isinstance(again, FactorProbe) and np.array_equal(again.accuracy, real.accuracy)
    assert again.summary == real.summary


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("value", ["decodability", "accuracy", "difference"])
def test_figures(real: FactorProbe, value: str, dark: bool) -> None:
    figure = real.plot(value=value, dark=dark)
    shown = [n for n in real.networks if value != "difference" or n != "alone"]
    assert len(figure.data) == 2 * len(shown) and [frame.name for frame in figure.frames] == ["0", "3"]
    table = getattr(real, value) * (100 if value == "accuracy" else 1)
    kd = real.networks.index("KD")
    assert np.allclose(figure.data[len(shown) - 1].z, table[kd, -1].mean(axis=2).T)
    assert np.allclose(figure.frames[0].data[len(shown) - 1].z, table[kd, 0].mean(axis=2).T)
    digits = {"accuracy": "{:.0f}", "difference": "{:+.2f}", "decodability": "{:.2f}"}[value]
    cell = figure.data[-1].text[5]  # not by colour alone: the third factor in the second layer
    wanted = digits.format(figure.data[len(shown) - 1].z[2][1]).replace("-", "−")
    assert cell == wanted or float(cell) == 0.0 == float(wanted.replace("−", "-"))
    scale = figure.layout.coloraxis
    if value == "difference":
        assert scale.cmin == -scale.cmax
    assert real.summary in figure.layout.meta["summary"]
    assert any("shape" in text and "class" in text for text in figure.layout.yaxis.ticktext)


LABELS = np.arange(40) % 2
X = np.random.default_rng(0).normal(size=(40, 3))


@pytest.mark.parametrize(
    ("factors", "error", "says"),
    [
        (None, ConfigError, "No factors of these pictures are known"),
        ({"a": np.zeros(40, int)}, ConfigError, "'a' has 1 value"),
        ({"a": np.arange(39)}, ConfigError, "each of the 40 pictures"),
        ({"a": np.full(40, np.nan)}, ConfigError, "NaN"),
        ({"a": X[:, 0]}, ConfigError, "continuous"),
        ({"a": np.array([None] * 40)}, ConfigError, "whole numbers or text"),
        ({"a": (np.arange(40) == 0).astype(int)}, ConfigError, "single value in the evaluation part"),
        ({"class": np.arange(40) % 3}, ConfigError, "another name"),
        ("color", UnknownNameError, "factor named 'color'"),
    ],
)
def test_bad_factors_are_refused(factors, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        factor_probe({"net": X}, LABELS, factors=factors)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"baseline": "KDD"}, UnknownNameError, "did you mean 'KD'"),
        ({"factors": "hlf"}, UnknownNameError, "did you mean 'half'"),
        ({"layers": "stage9"}, UnknownNameError, "stage9"),
        ({"epochs": 5}, ConfigError, "no snapshot of epoch 5"),
        ({"probe": "svm"}, UnknownNameError, "softmax, ridge"),
    ],
)
def test_unknown_names_are_refused(options: dict, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        factor_probe(with_factors(FakeStudy()), **options)


def test_an_untrained_study_and_a_missing_baseline_are_refused() -> None:
    with pytest.raises(StudyError, match="no snapshot"):
        factor_probe(with_factors(FakeStudy(trained=False)))
    result = factor_probe({"net": X}, LABELS, factors={"a": np.arange(40) // 2 % 3}, probe="ridge")
    with pytest.raises(ConfigError, match="no baseline"):
        result.plot(value="difference")
    with pytest.raises(UnknownNameError, match="value"):
        result.plot(value="size")

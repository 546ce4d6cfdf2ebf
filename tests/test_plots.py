"""Figures: what they show, in which style, light and dark, with a text alternative."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from fake_study import FakeStudy

from kdlab import plots, probes
from kdlab.errors import ConfigError
from kdlab.plots import theme
from kdlab.plots.pictures import png


@pytest.fixture(scope="module")
def study() -> FakeStudy:
    return FakeStudy()


@pytest.fixture(scope="module")
def figures(study: FakeStudy) -> dict:
    depth = probes.linear_probe(study, probe="ridge")
    space = probes.embed(study, "pca", n=24)
    logits = probes.logit_decomposition(study)
    return {
        "curves": plots.curves(study),
        "loss": plots.curves(study, "train_loss"),
        "depth": plots.probe_depth(depth),
        "class": plots.embedding(space),
        "network": plots.embedding(space, color="network"),
        "correct": plots.embedding(space, color="correct"),
        "attention": plots.attention(probes.attention_maps(study)),
        "logits": plots.logits(logits),
        "sample": plots.logit_sample(logits, 3),
        "classes": plots.logit_classes(logits),
        "sweep": plots.logit_sweep(logits),
    }


NAMES = [
    "curves",
    "loss",
    "depth",
    "class",
    "network",
    "correct",
    "attention",
    "logits",
    "sample",
    "classes",
    "sweep",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_a_text_alternative_and_goes_dark_and_back(figures: dict, name: str) -> None:
    figure = figures[name]
    assert len(figure.layout.meta["summary"]) > 30
    dark = plots.recolour(figure, dark=True)
    assert dark.layout.paper_bgcolor == theme.DARK[theme.PAPER]
    assert dark.layout.font.color == theme.DARK[theme.INK]
    text = dark.to_json().lower()
    for day, night in theme.DARK.items():
        if (
            day not in theme.DARK.values()
            and night != day
            and day.lower() not in "".join(theme.DARK.values()).lower()
        ):
            assert f'"{day.lower()}"' not in text, day
    back = plots.recolour(dark, dark=False)
    assert json.loads(back.to_json()) == json.loads(plots.recolour(figure, dark=False).to_json())
    json.loads(figure.to_json())


def luminance(color: str) -> float:
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_text_is_readable_on_both_papers() -> None:
    for color in (theme.INK, theme.MUTED):
        assert contrast(color, theme.PAPER) >= 4.5
        assert contrast(theme.DARK[color], theme.DARK[theme.PAPER]) >= 4.5
    for color in theme.OKABE_ITO:
        assert contrast(theme.DARK.get(color, color), theme.DARK[theme.PAPER]) >= 3.0


def test_networks_differ_in_more_than_colour_and_keep_their_look() -> None:
    names = [f"s{i}" for i in range(8)]
    looks = theme.styles(names, ["t"])
    assert len({look.symbol for look in looks.values()}) == 9
    assert len({look.color for look in looks.values()}) == 9
    assert len({look.dash for look in list(looks.values())[1:7]}) == 6
    assert len({theme.class_style(i) for i in range(30)}) == 30
    some = FakeStudy()
    figure = plots.curves(probes.learning_curves(some, students=["CMKD"]))
    line = next(trace for trace in figure.data if trace.name == "CMKD")
    assert line.line.color == theme.styles(some.names)["CMKD"].color  # not that of the first student


def test_curves_show_mean_spread_teacher_chance_and_marks(figures: dict, study: FakeStudy) -> None:
    figure = figures["curves"]
    line = next(trace for trace in figure.data if trace.name == "KD")
    wanted = np.mean(
        [study.record.epoch_series("KD", "test_accuracy", seed)[1] for seed in study.seeds], axis=0
    )
    assert np.allclose(line.y, 100 * wanted)
    band = next(trace for trace in figure.data if trace.fill == "toself" and trace.legendgroup == "KD")
    assert max(band.y) > max(line.y) and min(band.y) < min(line.y)
    texts = " ".join(note.text for note in figure.layout.annotations)
    assert "teacher teacher 97.0 %" in texts and "chance 25.0 %" in texts
    mark = next(trace for trace in figure.data if trace.name == "changed by hand")
    assert list(mark.x) == [4] and "CMKD: kd off" in mark.text[0]


def test_one_seed_has_no_band() -> None:
    figure = plots.curves(FakeStudy(seeds=(0,)))
    assert not [trace for trace in figure.data if trace.fill == "toself"]


def test_probe_depth(figures: dict, study: FakeStudy) -> None:
    figure = figures["depth"]
    result = probes.linear_probe(study, probe="ridge")
    student = next(trace for trace in figure.data if trace.name == "KD")
    assert np.allclose(student.y, 100 * result.accuracy[2, -1].mean(axis=1))
    assert np.allclose(student.y + student.error_y.array, 100 * result.accuracy[2, -1].max(axis=1))
    assert [frame.name for frame in figure.frames] == ["0", "2", "6"]
    assert np.allclose(figure.frames[0].data[2].y, 100 * result.accuracy[2, 0].mean(axis=1))
    assert "closed-form ridge probe" in figure.layout.yaxis.title.text  # which probe is shown is said
    texts = " ".join(note.text for note in figure.layout.annotations)
    assert "chance" in texts and "raw pixels" in texts
    with pytest.raises(ConfigError, match="control=True"):
        plots.probe_depth(result, value="selectivity")


@pytest.mark.parametrize("name", ["class", "network", "correct"])
def test_maps_have_one_square_scale(figures: dict, name: str) -> None:
    figure = figures[name]
    x, y = list(figure.select_xaxes()), list(figure.select_yaxes())
    assert len({tuple(axis.range) for axis in x}) == 1 and len({tuple(axis.range) for axis in y}) == 1
    assert np.ptp(x[0].range) == pytest.approx(np.ptp(y[0].range))
    assert all(axis.scaleanchor for axis in y)
    low, high = x[0].range
    for frame in figure.frames:  # nothing leaves the plot at any epoch
        for trace in frame.data:
            assert np.nanmin(trace.x) >= low and np.nanmax(trace.x) <= high


def test_classes_and_errors_are_told_by_marker_too(figures: dict) -> None:
    points = figures["class"].data[0]
    assert len(set(points.marker.symbol)) == len(set(points.marker.color)) == 4
    wrong = figures["correct"].frames[0].data[1].marker
    assert set(zip(wrong.color, wrong.symbol, strict=True)) <= {("#0072B2", "circle"), ("#D55E00", "x")}
    with pytest.raises(ConfigError, match="color must be"):
        plots.embedding(probes.embed(FakeStudy(), "pca", n=20), color="seed")


def test_attention_has_one_scale_and_the_pictures(figures: dict) -> None:
    figure = figures["attention"]
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(maps) == 4 * 3
    assert {trace.coloraxis for trace in maps} == {"coloraxis"}
    assert len([trace for trace in figure.data if trace.type == "image"]) == 4
    assert len(figure.frames) == 6
    assert all(len(frame.data) == len(figure.data) for frame in figure.frames)
    texts = [note.text for note in figure.layout.annotations]
    assert sum(text.startswith("cos ") for text in texts) == 3 * 3
    assert any(text.startswith(("✓", "✗")) for text in texts)


def test_logit_figure_splits_the_loss(figures: dict, study: FakeStudy) -> None:
    result = probes.logit_decomposition(study)
    figure = figures["sample"]
    bars = [trace for trace in figure.data if trace.type == "bar" and trace.orientation == "h"]
    assert np.allclose(sum(np.asarray(bar.x) for bar in bars), result.kd[:, 3], atol=1e-4)
    assert bars[0].marker.pattern.shape != bars[1].marker.pattern.shape
    teacher = next(trace for trace in figure.data if trace.type == "bar" and trace.orientation is None)
    assert np.allclose(teacher.y, result.probabilities()[0][3], atol=1e-5)
    assert not figure.frames
    with pytest.raises(ConfigError, match="0 .. 95"):
        plots.logits(result, samples=[96])


def test_many_classes_show_the_likeliest_and_the_true_one() -> None:
    generator = np.random.default_rng(0)
    logits = {"S": generator.normal(size=(6, 40)), "T": generator.normal(size=(6, 40)) * 3}
    result = probes.logit_decomposition(logits, target=[0, 7, 39, 3, 4, 5], teacher="T")
    figure = plots.logit_sample(result, 2)
    shown = figure.data[0].x
    assert len(shown) <= 12 and "39 ★" in shown


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_png_is_a_true_picture(channels: int) -> None:
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (channels, 5, 7), dtype=np.uint8)
    address = png(image, least_side=20)
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))
    assert read.shape[:2] == (20, 28)
    small = read[::4, ::4]
    if channels == 1:
        assert np.array_equal(small, image[0])
    else:
        assert np.array_equal(small[..., :2], image[:2].transpose(1, 2, 0))


@pytest.mark.parametrize("factor", [1.5, 1e2, 1e9, 1e30])
def test_a_logarithmic_axis_has_room_for_its_labels(factor: float) -> None:
    axis = theme.log_axis([np.nan, 0.1, 0.1 * factor], factor=1)
    assert axis["type"] == "log"
    if axis["dtick"] == "D2":  # labels 1, 2 and 5
        assert factor < 10**1.5
    else:
        assert np.log10(factor) / axis["dtick"] <= 8
    assert ("tickformat" in axis) == (factor < 1e5)  # 10000000 has no room


@pytest.mark.parametrize("values", [[], [1.0, 20.0], [0.0, 100.0], [-1.0, 5.0], [np.nan]])
def test_a_linear_axis_stays_where_it_shows_all(values: list[float]) -> None:
    assert theme.log_axis(values) == {}

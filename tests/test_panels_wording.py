"""What panels say and compute, without widgets: texts, thinned series, the teacher's plane."""

from __future__ import annotations

import numpy as np
import pytest

from kdlab.panels import looks, wording
from kdlab.panels.plane import TeacherPlane
from kdlab.panels.series import last, thin
from kdlab.plots import theme


@pytest.mark.parametrize(
    ("state", "enabled"),
    [
        ("new", {"play", "step"}),
        ("preparing", {"pause", "stop"}),
        ("training", {"pause", "stop"}),
        ("paused", {"play", "step", "stop"}),
        ("stopped", {"play", "step"}),
        ("finished", set()),
        ("failed", {"play"}),
    ],
)
def test_buttons_fit_the_state(state: str, enabled: set[str]) -> None:
    assert {name for name, on in wording.buttons(state).items() if on} == enabled


def test_code_is_python_that_says_the_same() -> None:
    calls = []

    class Study:
        def set(self, *args: object, **kwargs: object) -> None:
            calls.append((args, kwargs))

    text = wording.set_code('the "best" \\ one', "kd", weight=0.5, enabled=None, schedule="warmup:3")
    eval(text, {"study": Study()})
    assert calls == [(('the "best" \\ one', "kd"), {"weight": 0.5, "schedule": "warmup:3"})]
    assert wording.set_code("KD", "kd", enabled=False) == 'study.set("KD", "kd", enabled=False)'
    assert wording.set_code("KD", "kd", weight=0.1 + 0.2) == 'study.set("KD", "kd", weight=0.3)'


def test_numbers_and_times_are_short() -> None:
    assert [wording.number(v) for v in (None, float("nan"), 0.0, 0.12345, 1234.5, 1e-5, 123456.0)] == [
        "–", "–", "0", "0.123", "1234", "1.0e-05", "1.2e+05",
    ]  # fmt: skip
    assert [wording.duration(v) for v in (None, 7.4, 80, 7500, float("inf"))] == [
        "",
        "7 s",
        "1 min 20 s",
        "2 h 5 min",
        "",
    ]
    assert wording.percent(0.8754) == "87.5 %" and wording.percent(None) == ""


def test_progress_text() -> None:
    progress = dict(
        phase="students", seed=7, seed_number=2, seeds=3, epoch=3, epochs=30, step=637, steps=3000
    )
    text = wording.progress_text("training", progress | dict(rate=1340.4, eta=80.0))
    assert text == "Seed 7 (2 of 3) · epoch 3 of 30 · step 637 of 3,000 · 1,340 images/s · 1 min 20 s left"
    assert "left" not in wording.progress_text("paused", progress | dict(eta=80.0))
    teacher = dict(phase="teacher", seed=0, epoch=1, epochs=5, step=2, steps=40)
    assert wording.progress_text("preparing", teacher, "resnet20").startswith(
        "Teacher resnet20 · epoch 1 of 5"
    )
    assert "Play" in wording.progress_text("new", {})


def test_thin_keeps_short_series_and_averages_long_ones() -> None:
    steps = np.arange(1, 1001, dtype=np.float32)
    x, y = thin(steps[:300], steps[:300])
    assert len(x) == 300 and (y == steps[:300]).all()
    x, y = thin(steps, 2 * steps, most=100)
    assert len(x) == 100 and x.dtype == y.dtype == np.float32
    np.testing.assert_allclose(x, steps.reshape(100, 10).mean(axis=1))
    np.testing.assert_allclose(y, 2 * x)


def test_thin_leaves_a_gap_where_a_term_was_off() -> None:
    values = np.ones(1000)
    values[200:405] = np.nan
    _, y = thin(np.arange(1000.0), values, most=100)
    gap = np.isnan(y)
    assert gap.sum() == 20 and not gap[:20].any() and not gap[41:].any()
    assert y[40] == 1.0  # half of its steps are known: their mean
    assert len(thin(np.zeros(0), np.zeros(0))[0]) == 0


def test_last_value() -> None:
    assert last((np.arange(3.0), np.asarray([1.0, 2.0, 3.0]))) == 3.0
    assert last((np.zeros(0), np.zeros(0))) is None
    assert last((np.arange(1.0), np.asarray([np.nan]))) is None


# ---- the teacher's plane ---------------------------------------------------------------------------


def clouds(n: int = 300, d: int = 32, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    return rng.normal(size=(classes, d))[labels] * 3 + rng.normal(size=(n, d)), labels


def separation(points: np.ndarray, labels: np.ndarray) -> float:
    """Share of the variance that lies between classes."""
    means = np.stack([points[labels == c].mean(axis=0) for c in range(labels.max() + 1)])
    return float(
        ((means[labels] - points.mean(axis=0)) ** 2).sum() / ((points - points.mean(axis=0)) ** 2).sum()
    )


def test_plane_is_that_of_the_first_two_principal_components() -> None:
    teacher, _ = clouds()
    points = TeacherPlane.of(teacher).points()
    values = np.linalg.svd(teacher - teacher.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(points, axis=0), values[:2], rtol=1e-4)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-4)


def test_a_turned_and_scaled_teacher_lands_on_the_teacher() -> None:
    teacher, _ = clouds()
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(32, 32)))
    plane = TeacherPlane.of(teacher)
    student = 0.2 * (teacher @ rotation) + 7.0
    np.testing.assert_allclose(plane.turn(student, dimensions=32), plane.points(), atol=1e-2)
    np.testing.assert_allclose(plane.project(teacher), plane.points(), atol=1e-4)


def test_turning_does_not_find_classes_that_are_not_there() -> None:
    """With all dimensions free, Procrustes would draw the teacher's classes into plain noise."""
    teacher, labels = clouds(d=256, classes=10)
    plane = TeacherPlane.of(teacher)
    noise = np.random.default_rng(2).normal(size=(300, 256))
    assert separation(plane.points(), labels) > 0.8
    assert separation(plane.turn(noise), labels) < 0.2
    assert separation(plane.turn(noise, dimensions=256), labels) > 0.3


def test_degenerate_clouds_are_drawn_too() -> None:
    teacher, _ = clouds()
    plane = TeacherPlane.of(teacher)
    assert (plane.turn(np.ones((300, 8))) == 0).all()
    assert TeacherPlane.of(np.random.default_rng(0).normal(size=(50, 1))).points().shape == (50, 2)


# ---- looks -----------------------------------------------------------------------------------------


def test_desk_has_a_picture_of_every_dash_and_marker_of_the_theme() -> None:
    styles = theme.styles([f"s{i}" for i in range(8)])
    drawn = [looks.for_desk(style) for style in styles.values()]
    assert len({(d["color"], d["dasharray"], d["marker"]) for d in drawn}) == 8
    assert all(style.symbol in looks._MARKERS for style in styles.values())
    assert all(style.dash == "solid" or style.dash in looks._DASHARRAYS for style in styles.values())


def test_many_classes_share_one_grey_look() -> None:
    names = [f"c{i}" for i in range(100)]
    legend = looks.class_legend(names)
    assert len(legend) == 11 and legend[-1][0] == "the other 90 classes"
    colors, symbols = looks.class_marks(np.asarray([0, 9, 10, 99]), dark=False)
    assert len(set(zip(colors, symbols))) == 3 and colors[2] == colors[3] == looks.OTHER_CLASSES[0]
    assert len(looks.class_legend(names[:10])) == 10

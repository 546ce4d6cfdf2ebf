"""Maps in a real JupyterLab and Chromium: selecting with the mouse, and what every plot shows of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page import LabPage, Panel

pytestmark = pytest.mark.browser

_OPEN = """
import kdlab.panels
panel = kdlab.panels.RepresentationPanel(kdlab.load_study(FOLDER), values={"view": "pca"})
panel
"""
_REPORT = 'print("CHOSEN", len(panel.shared.samples), panel.shared.sample, "END")'

# Of each cloud: how many points there are, how many are drawn as selected, and where they lie on the page.
_CLOUDS = """() => {
    const div = document.querySelector(".kd-plot"), full = div._fullLayout;
    const box = div.getBoundingClientRect();
    return (full?.meta?.clouds ?? []).map((name, number) => {
        const trace = div._fullData[number], kept = trace.selectedpoints;
        const [xa, ya] = [trace.xaxis, trace.yaxis].map((id) => full[id[0] + "axis" + id.slice(1)]);
        const place = (x, y) => [box.left + xa._offset + xa.c2p(x), box.top + ya._offset + ya.c2p(y)];
        const points = Array.from(trace.x, (x, i) => place(x, trace.y[i]));
        return { name, count: trace.x.length, selected: kept ? kept.length : null, points };
    });
}"""
_FADED = """() => [...document.querySelectorAll(".kd-plot .point")]
    .filter((point) => Number(point.style.opacity) > 0 && Number(point.style.opacity) < 0.3).length"""


class Map(Panel):
    """A panel of clouds of points."""

    def clouds(self) -> list[dict[str, Any]]:
        return self.page.evaluate(_CLOUDS)

    def selected(self) -> set[int | None]:
        """How many points are drawn as selected, in all plots; one number if they agree."""
        return {cloud["selected"] for cloud in self.clouds()}

    def pictures(self) -> int:
        """Thumbnails of the selection."""
        return (
            self.page.locator(".kd-picture-row:has-text('Selected')").count()
            and self.page.locator(".kd-picture-row:has-text('Selected') ~ .kd-picture").count()
        )

    def drag(self, corners: list[tuple[float, float]]) -> None:
        """Hold the mouse button along a way over the page."""
        self.page.mouse.move(*corners[0])
        self.page.mouse.down()
        for x, y in corners[1:]:
            self.page.mouse.move(x, y, steps=8)
        self.page.mouse.up()

    def until_selected(self, what: str, goal: Any) -> float:
        start = time.monotonic()
        self.lab.until(lambda: goal(self.selected()), 20, what)
        return time.monotonic() - start


def inside(points: list[list[float]], left: float, top: float, right: float, bottom: float) -> int:
    return sum(left < x < right and top < y < bottom for x, y in points)


def gap(places: list[float], share: float) -> float:
    """The middle of the widest gap near the point that this share of all lies before."""
    near = range(round((share - 0.1) * len(places)), round((share + 0.1) * len(places)))
    widest = max(near, key=lambda k: places[k + 1] - places[k])
    return (places[widest] + places[widest + 1]) / 2


def test_a_learner_selects_pictures_on_a_map(
    open_notebook: Callable[..., LabPage], trained: Path, pictures: Path
) -> None:
    page = open_notebook([_OPEN.replace("FOLDER", repr(str(trained))), _REPORT])
    page.run_all()
    shown = Map(page)
    page.until(lambda: page.page.locator(".kd-plot:not(.kd-stale) .point").count(), 90, "for the map")
    page.until(lambda: shown.said() and shown.clouds(), 20, "for the sentence")
    assert [cloud["name"] for cloud in shown.clouds()] == ["resnet8", "alone", "KD"]
    assert shown.selected() == {None}

    # a lasso around the middle of a student's cloud
    student = shown.clouds()[2]["points"]
    (left, right), (top, bottom) = (
        (gap(places, 0.25), gap(places, 0.75)) for places in (sorted(p[k] for p in student) for k in (0, 1))
    )
    count = inside(student, left, top, right, bottom)
    shown.drag([(left, top), (right, top), (right, bottom), (left, bottom), (left, top + 2)])
    seconds = shown.until_selected("for the lasso", lambda got: len(got) == 1 and None not in got)
    (chosen,) = shown.selected()
    assert chosen == count
    total = sum(cloud["count"] for cloud in shown.clouds())
    page.until(lambda: page.page.evaluate(_FADED) == total - 3 * chosen, 10, "for the others to fade")
    page.until(lambda: f"{chosen} pictures selected" in shown.said(), 10, "for the sentence")
    page.until(lambda: shown.pictures() == min(chosen, 40), 10, "for the thumbnails")
    print(f"\n{chosen} pictures are selected in all plots after {seconds:.2f} s.", end="")
    page.screenshot(pictures / "representations_lasso.png", ".kd-panel")

    # a box in the teacher's plot
    shown.choose("drag", "select, box")
    page.until(
        lambda: (
            page.page.evaluate("() => document.querySelector('.kd-plot')._fullLayout.dragmode") == "select"
        ),
        10,
        "for the box",
    )
    teacher = shown.clouds()[0]["points"]
    x, y = (sorted(p[k] for p in teacher)[len(teacher) // 2] for k in (0, 1))
    shown.drag([(x - 40, y - 40), (x + 40, y + 40)])
    count = inside(teacher, x - 40, y - 40, x + 40, y + 40)
    shown.until_selected("for the box", lambda got: len(got) == 1 and got != {chosen})
    (boxed,) = shown.selected()
    assert boxed is not None and abs(boxed - count) <= 2, "points on the line may go either way"

    # a click looks closer, and leaves the selection; the menu and a double click change it
    shown.click(1, 7)
    page.until(lambda: "Ringed: picture 0," not in shown.said(), 10, "for the picture that was clicked")
    shown.until_selected("for the figure, which follows the sentence", lambda got: got == {boxed})
    label = next(
        text
        for text in shown.control("select").locator("option").all_text_contents()
        if text.startswith("class 4")
    )
    shown.choose("select", label)
    of_class = int(label.partition("(")[2].rstrip(")"))
    shown.until_selected("for the class", lambda got: got == {of_class})
    shown.choose("select", "nothing")
    shown.until_selected("for nothing", lambda got: got == {None})
    assert shown.pictures() == 0

    # the epoch slider moves points in the same frame
    before = shown.clouds()[1]["points"]
    shown.control("epoch").locator("input").press("Home")
    page.until(lambda: shown.clouds()[1]["points"] != before, 20, "for epoch 0")
    page.until(lambda: "before training" in shown.said(), 10, "for the sentence")
    page.theme("JupyterLab Dark")
    page.screenshot(pictures / "representations_dark.png", ".kd-panel")
    page.run_last_cell()
    page.until(lambda: "CHOSEN 0" in page.text(".jp-OutputArea-output pre", last=True), 20, "the kernel")
    assert not page.page.locator(".kd-error:visible").all_text_contents()
    assert not page.problems

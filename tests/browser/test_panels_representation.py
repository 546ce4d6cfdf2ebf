"""Maps in a real JupyterLab and Chromium: selecting with the mouse, and what every plot shows of it.

Pictures go to the folder named by KDLAB_SCREENSHOTS, else to the test's own.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")
pytest.importorskip("nbformat")

from jupyter_lab import JupyterLab, write_notebook
from page import LabPage, launch
from playwright.sync_api import sync_playwright

pytestmark = pytest.mark.browser

_OPEN = """
import kdlab.panels
study = kdlab.Study(data="digits", teacher="resnet8", student="resnet8", students={"alone": "ce", "KD": "kd"},
                    epochs=3, batch_size=32, labels_per_class=8, teacher_epochs=2, probe_size=200,
                    device="cpu", folder="study").fit(progress=False)
panel = kdlab.panels.RepresentationPanel(study, values={"view": "pca"})
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


class Map:
    """The panel on the page."""

    def __init__(self, lab: LabPage) -> None:
        self.lab, self.page = lab, lab.page

    def clouds(self) -> list[dict[str, Any]]:
        return self.page.evaluate(_CLOUDS)

    def selected(self) -> set[int | None]:
        """How many points are drawn as selected, in all plots; one number if they agree."""
        return {cloud["selected"] for cloud in self.clouds()}

    def said(self) -> str:
        return self.page.locator(".kd-said").text_content() or ""

    def pictures(self) -> int:
        """Thumbnails of the selection."""
        return (
            self.page.locator(".kd-picture-row:has-text('Selected')").count()
            and self.page.locator(".kd-picture-row:has-text('Selected') ~ .kd-picture").count()
        )

    def choose(self, name: str, text: str) -> None:
        self.page.locator(f"[data-control={name}] select").select_option(label=text)

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


def test_a_learner_selects_pictures_on_a_map(browser_path: str, tmp_path: Path) -> None:
    pictures = Path(os.environ.get("KDLAB_SCREENSHOTS") or tmp_path)
    write_notebook(tmp_path / "map.ipynb", [_OPEN.strip(), _REPORT])
    with JupyterLab(tmp_path) as server, sync_playwright() as playwright:
        page = LabPage(launch(playwright, browser_path), server.url)
        page.open("map.ipynb")
        page.run_all()
        shown = Map(page)
        page.until(lambda: page.page.locator(".kd-plot:not(.kd-stale) .point").count(), 90, "for the map")
        page.until(lambda: shown.said() and shown.clouds(), 20, "for the sentence")
        assert [cloud["name"] for cloud in shown.clouds()] == ["resnet8", "alone", "KD"]
        assert shown.selected() == {None}

        # a lasso around the middle of a student's cloud
        student = shown.clouds()[2]["points"]
        xs, ys = (sorted(p[k] for p in student) for k in (0, 1))
        left, right = xs[len(xs) // 4], xs[3 * len(xs) // 4]
        top, bottom = ys[len(ys) // 4], ys[3 * len(ys) // 4]
        count = inside(student, left, top, right, bottom)
        shown.drag([(left, top), (right, top), (right, bottom), (left, bottom), (left, top + 2)])
        seconds = shown.until_selected("for the lasso", lambda got: len(got) == 1 and None not in got)
        (chosen,) = shown.selected()
        assert chosen is not None and abs(chosen - count) <= 2, "points on the line may go either way"
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
                page.page.evaluate("() => document.querySelector('.kd-plot')._fullLayout.dragmode")
                == "select"
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
        assert boxed is not None and abs(boxed - count) <= 2

        # a click looks closer, and leaves the selection; the menu and a double click change it
        x, y = shown.clouds()[1]["points"][7]
        page.page.mouse.move(x, y)
        page.page.wait_for_timeout(300)
        page.page.mouse.click(x, y)
        page.until(lambda: "Ringed: picture 0," not in shown.said(), 10, "for the picture that was clicked")
        assert shown.selected() == {boxed}
        label = next(
            text
            for text in page.page.locator("[data-control=select] option").all_text_contents()
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
        page.page.locator("[data-control=epoch] input").press("Home")
        page.until(lambda: shown.clouds()[1]["points"] != before, 20, "for epoch 0")
        page.until(lambda: "before training" in shown.said(), 10, "for the sentence")
        page.theme("JupyterLab Dark")
        page.screenshot(pictures / "representations_dark.png", ".kd-panel")
        page.run_last_cell()
        page.until(lambda: "CHOSEN 0" in page.text(".jp-OutputArea-output pre", last=True), 20, "the kernel")
        assert not page.page.locator(".kd-error:visible").all_text_contents()
        assert not page.problems

"""Make the pictures of the README from the real thing: `python docs/make_pictures.py`.

Opens notebooks in JupyterLab and a headless Chromium: one with a study panel, where a term is switched off
in mid-course as a user would, and one with a lab, of which every tab is shown. The animated picture is made
of what the page shows while the students train and the tabs are turned.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "browser"))

from jupyter_lab import JupyterLab, write_notebook  # noqa: E402
from page import LabPage, find_browser, launch  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

STUDY = """
import kdlab
study = kdlab.Study(
    data="digits", teacher="resnet20", student="resnet8", labels_per_class=10, batch_size=16, epochs=40,
    students={"alone": "ce", "KD": "kd", "FitNet": "fitnet", "SRRL": "srrl", "CMKD": "cmkd"}, folder="study",
)
study.set("KD", "kd", enabled=False, at_step=140)
study.panel()
"""
RUN = "study.fit(progress=False);"
LAB = """
import kdlab
study = kdlab.Study(
    data="digits", teacher="resnet20", student="resnet8", labels_per_class=10, batch_size=16, epochs=60,
    students={"alone": "ce", "KD": "kd", "CMKD": "cmkd"}, folder="lab",
)
study.lab()
"""
WIDTH, HEIGHT = 1180, 1330
SHOWN = ".jp-OutputArea:has(.kd-panel)"
FILM_WIDTH = 800


class Film:
    """Pictures of a page, one after another, for an animation."""

    def __init__(self, page: LabPage) -> None:
        self._page = page
        self._frames: list[Image.Image] = []
        self._times: list[int] = []

    def take(self, seconds: float) -> None:
        """A picture of what is seen now, to be shown for so long."""
        clip = self._page.page.locator(SHOWN).first.bounding_box()
        clip["height"] = min(clip["height"], HEIGHT - 120)
        shot = Image.open(io.BytesIO(self._page.page.screenshot(clip=clip))).convert("RGB")
        size = (FILM_WIDTH, round(shot.height * FILM_WIDTH / shot.width))
        self._frames.append(shot.resize(size, Image.Resampling.LANCZOS))
        self._times.append(round(1000 * seconds))

    def during(self, seconds: float, condition: Callable[[], Any] = lambda: False) -> None:
        """Pictures over so many seconds, or until the condition holds."""
        for _ in range(round(2 * seconds)):
            self.take(0.3)
            if condition():
                return
            self._page.page.wait_for_timeout(500)

    def save(self, path: Path) -> None:
        """An animated WebP; all pictures as high as the highest."""
        height = max(frame.height for frame in self._frames)
        even = [Image.new("RGB", (FILM_WIDTH, height), "white") for _ in self._frames]
        for whole, frame in zip(even, self._frames):
            whole.paste(frame)
        even[0].save(
            path, save_all=True, append_images=even[1:], duration=self._times, loop=0, quality=45, method=6
        )


def picture(page: LabPage, name: str, selector: str = SHOWN) -> None:
    """What is seen, without loss, as docs/NAME.webp."""
    shot = page.page.locator(selector).first.screenshot()
    Image.open(io.BytesIO(shot)).convert("RGB").save(HERE / f"{name}.webp", lossless=True, quality=100)


def study_panel(page: LabPage) -> None:
    """docs/panel.webp."""
    page.open("panel.ipynb")
    page.run_all()
    page.until(lambda: page.text(".kd-state") == "finished", 240, "the end of the training")
    page.page.wait_for_timeout(4000)
    picture(page, "panel")


def turn_to(page: LabPage, tab: str) -> None:
    """Turn to a tab of the lab and wait for its figure."""
    page.page.get_by_role("tab", name=tab).click()
    drawn = page.page.locator(".kd-plot:not(.kd-stale) .main-svg:visible")
    page.until(drawn.count, 120, f"the figure of {tab}")
    page.page.wait_for_timeout(1200)


def gather_a_class(page: LabPage) -> None:
    """t-SNE over the epochs, with the pictures of one class selected in all plots."""
    page.page.locator("[data-control=view] select:visible").select_option(label="over epochs: t-SNE")
    said = page.page.locator(".kd-said:visible").first
    page.until(lambda: (said.text_content() or "").startswith("t-SNE"), 120, "the map")
    page.page.locator("[data-control=select] select:visible").select_option(index=9)
    page.until(page.page.locator(".kd-picture:visible").nth(5).count, 20, "the selected pictures")
    page.page.wait_for_timeout(1200)


def whole_lab(page: LabPage) -> None:
    """docs/lab.webp and a picture of each tab."""
    film = Film(page)
    page.open("lab.ipynb")
    page.run_all()
    page.until(page.page.locator(".kd-panel").count, 90, "the lab")
    page.page.locator(SHOWN).first.scroll_into_view_if_needed()
    page.page.locator("button[data-do='Play']").click()
    step = page.page.locator(".kd-progress-text").first
    page.until(lambda: int(step.get_attribute("data-step") or 0) > 10, 120, "the first steps")
    film.during(8)
    page.page.get_by_label("kd of KD: on or off").click()
    film.during(8)
    page.until(lambda: page.text(".kd-state") == "finished", 240, "the end of the training")
    page.page.wait_for_timeout(2500)
    film.take(2.0)
    for tab in ("Representations", "Probes", "Attention", "Logits", "Compare"):
        turn_to(page, tab)
        if tab == "Representations":
            gather_a_class(page)
        film.take(2.5)
        page.page.set_viewport_size({"width": WIDTH, "height": 1900})  # the whole panel at once
        page.page.wait_for_timeout(1000)
        picture(page, tab.lower(), ".kd-panel:visible")
        page.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    film.save(HERE / "lab.webp")


def main() -> None:
    """Write the pictures into docs/."""
    browser = find_browser()
    if browser is None:
        sys.exit("No Chromium found; install one (Debian: apt-get install chromium).")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as kept:
        folder = Path(kept)
        write_notebook(folder / "panel.ipynb", [STUDY.strip(), RUN])
        write_notebook(folder / "lab.ipynb", [LAB.strip()])
        with JupyterLab(folder) as lab, sync_playwright() as playwright:
            chromium = launch(playwright, browser)
            study_panel(LabPage(chromium, lab.url, 1280, 1700))
            whole_lab(LabPage(chromium, lab.url, WIDTH, HEIGHT))


if __name__ == "__main__":
    main()

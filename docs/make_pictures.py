"""Make the pictures of the README from the real thing: `python docs/make_pictures.py`.

Opens a notebook with a study panel in JupyterLab and a headless Chromium, trains, switches a term off
in mid-course as a user would, and takes the picture when training has ended.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

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


def main() -> None:
    """Write docs/panel.png."""
    browser = find_browser()
    if browser is None:
        sys.exit("No Chromium found; install one (Debian: apt-get install chromium).")
    folder = Path(tempfile.mkdtemp())
    write_notebook(folder / "panel.ipynb", [STUDY.strip(), RUN])
    with JupyterLab(folder) as lab, sync_playwright() as playwright:
        page = LabPage(launch(playwright, browser), lab.url, 1280, 1700)
        page.open("panel.ipynb")
        page.run_all()
        page.until(lambda: page.text(".kd-state") == "finished", 240, "the end of the training")
        page.page.wait_for_timeout(4000)
        page.screenshot(HERE / "panel.png", ".jp-OutputArea:has(.kd-panel)")


if __name__ == "__main__":
    main()

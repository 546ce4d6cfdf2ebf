"""Probes and comparisons in a real JupyterLab and Chromium: what a learner changes, and what is saved.

Pictures go to the folder named by KDLAB_SCREENSHOTS, else to the test's own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("playwright")
pytest.importorskip("nbformat")

from jupyter_lab import JupyterLab, write_notebook
from page import LabPage, launch
from playwright.sync_api import sync_playwright

import kdlab

pytestmark = pytest.mark.browser

_TRAIN = """
import kdlab
kdlab.Study(data="digits", teacher="resnet8", student="resnet8", students={"alone": "ce", "KD": "kd"},
            epochs=3, batch_size=32, labels_per_class=8, teacher_epochs=2, probe_size=200, seeds=2,
            snapshots=[1, 2, 3], device="cpu", folder=FOLDER).fit(progress=False)
"""
_OPEN = """
import kdlab
from kdlab.panels import ComparePanel, ProbePanel, Shared
study, shared = kdlab.load_study(FOLDER), Shared()
ProbePanel(study, shared=shared)
"""
_WHERE = """([number, trace, point]) => {
    // where on the page a point of a trace (or [row, column] of a map) is
    const plot = document.querySelectorAll(".kd-analysis")[number].querySelector(".js-plotly-plot");
    const one = plot._fullData[trace], box = plot.getBoundingClientRect();
    const axis = (name) => plot._fullLayout[name.replace(/^[xy]/, "$&axis")];
    const x = axis(one.xaxis), y = axis(one.yaxis);
    const at = Array.isArray(point) ? [point[1], point[0]] : [one.x[point], one.y[point]];
    return [box.left + x._offset + x.d2p(at[0]), box.top + y._offset + y.d2p(at[1])];
}"""


class Panel:
    """The panel of a cell: its controls, its words, its plot."""

    def __init__(self, lab: LabPage, number: int) -> None:
        self.lab, self.number = lab, number
        self.root = lab.page.locator(".kd-analysis").nth(number)

    def said(self) -> str:
        return self.root.locator(".kd-said").text_content() or ""

    def control(self, name: str) -> Any:
        return self.root.locator(f"[data-control={name}]")

    def choose(self, name: str, text: str, tells: str) -> float:
        """Take a line of a menu; the seconds until the panel says so."""
        start = time.monotonic()
        self.control(name).locator("select").select_option(label=text)
        return self.tells(tells, start)

    def tells(self, text: str, start: float) -> float:
        def told() -> bool:
            drawn = self.root.locator(".kd-plot:not(.kd-stale) .main-svg").count()
            return bool(drawn) and text in self.said()

        self.lab.until(told, 30, f"for {text!r}, not {self.said()!r}")
        return time.monotonic() - start

    def click(self, trace: int, point: Any, tells: str) -> float:
        self.root.locator(".kd-plot").scroll_into_view_if_needed()
        x, y = self.lab.page.evaluate(_WHERE, [self.number, trace, point])
        self.lab.page.mouse.move(x - 3, y)
        self.lab.page.mouse.move(x, y, steps=3)
        self.lab.page.wait_for_timeout(300)  # plotly clicks on what is under the pointer
        self.lab.page.mouse.click(x, y)
        return self.tells(tells, time.monotonic())


def test_a_learner_probes_compares_and_saves(browser_path: str, tmp_path: Path) -> None:
    pictures = Path(os.environ.get("KDLAB_SCREENSHOTS") or tmp_path)
    folder = str(tmp_path / "study")
    subprocess.run([sys.executable, "-c", _TRAIN.replace("FOLDER", repr(folder))], check=True)
    cells = [_OPEN.replace("FOLDER", repr(folder)), "ComparePanel(study, shared=shared)"]
    write_notebook(tmp_path / "look.ipynb", cells)
    with JupyterLab(tmp_path) as server, sync_playwright() as playwright:
        page = LabPage(launch(playwright, browser_path), server.url, height=2000)
        page.open("look.ipynb")
        page.run_all()
        page.until(lambda: page.page.locator(".kd-analysis").count() == 2, 60, "for both panels")
        probe, compare = Panel(page, 0), Panel(page, 1)
        start = time.monotonic()
        probe.tells("Read by a linear closed-form ridge probe", start)
        compare.tells("Test accuracy after epoch 3 (mean ± s.d. of 2 seeds)", start)

        took = {"value": probe.choose("value", "purity of nearest neighbours", "neighbours at random")}
        took["map"] = probe.choose("view", "layers × epochs", "from epoch 0 to 3")
        page.screenshot(pictures / "probe_map.png", ".kd-analysis >> nth=0")
        took["depth"] = probe.choose("view", "layer by layer", "At the deepest layer")
        probe.choose("value", "what a linear probe reads", "after epoch 3, held-out")
        took["layer"] = probe.click(2, 1, "at layer2, read by")  # the second layer of a student
        assert probe.control("view").locator("select").input_value() == '"epochs"'
        probe.choose("view", "layers × epochs", "at layer3, read by")
        page.theme("JupyterLab Dark")
        probe.click(2, [1, 1], "at layer3, read by")  # the second map is a student's: its epoch 1
        chosen = probe.control("epoch").locator("output")
        page.until(lambda: chosen.text_content() == "1 of 3", 10, "for the epoch of the cell")

        took["view"] = compare.choose("view", "how alike their layers are", "after epoch 1")
        compare.click(0, [0, 1], "Linear CKA")
        page.until(
            lambda: compare.control("layer").locator("select").input_value() == '"layer2"', 10, "layer"
        )
        page.screenshot(pictures / "compare_similarity.png", ".kd-analysis >> nth=1")
        compare.choose("view", "beside published numbers", "No published number here can be compared")

        with page.page.expect_download(timeout=60_000) as waiting:
            compare.control("everything").click()
            page.until(lambda: "Cancel" in (compare.control("everything").text_content() or ""), 10, "saving")
            took["while it saves"] = compare.choose("view", "who agrees with whom", "Agreement with resnet8")
        assert waiting.value.suggested_filename == "study-everything.zip"
        with zipfile.ZipFile(waiting.value.path()) as archive:
            inside = archive.namelist()
            with archive.open("table.csv") as file:
                table = pd.read_csv(file)
            assert {"README.txt", "figures.html", "results.py", "results/similarity.npz"} <= set(inside)
            assert archive.testzip() is None and len(archive.read("figures.html")) > 4_000_000
        assert np.allclose(table["last"], kdlab.load_study(folder).table()["last"])
        label = compare.control("everything")
        page.until(lambda: label.text_content() == "Save everything", 10, "until it can be saved again")
        assert not page.page.locator(".kd-error:visible").count() and not page.problems
        print("\n" + ", ".join(f"{what} {seconds:.2f} s" for what, seconds in took.items()), end="")

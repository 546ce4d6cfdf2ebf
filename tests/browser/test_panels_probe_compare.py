"""Probes and comparisons in a real JupyterLab and Chromium: what a learner changes, and what is saved."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from page import LabPage, Panel

import kdlab

pytestmark = pytest.mark.browser

_OPEN = """
import kdlab
from kdlab.panels import ComparePanel, ProbePanel, Shared
study, shared = kdlab.load_study(FOLDER), Shared()
ProbePanel(study, shared=shared)
"""


def test_a_learner_probes_compares_and_saves(
    open_notebook: Callable[..., LabPage], trained: Path, pictures: Path
) -> None:
    cells = [_OPEN.replace("FOLDER", repr(str(trained))), "ComparePanel(study, shared=shared)"]
    page = open_notebook(cells, height=2000)
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
    page.until(lambda: compare.control("layer").locator("select").input_value() == '"layer2"', 10, "layer")
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
    assert np.allclose(table["last"], kdlab.load_study(trained).table()["last"])
    label = compare.control("everything")
    page.until(lambda: label.text_content() == "Save everything", 10, "until it can be saved again")
    assert not page.page.locator(".kd-error:visible").count() and not page.problems
    print("\n" + ", ".join(f"{what} {seconds:.2f} s" for what, seconds in took.items()), end="")

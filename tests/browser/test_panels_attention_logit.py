"""Attention and logits in a real JupyterLab and Chromium: what a learner touches, and what changes then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from page import LabPage, Panel

pytestmark = pytest.mark.browser

_OPEN = """
import kdlab
from kdlab.panels import AttentionPanel, LogitPanel, Shared
study, shared = kdlab.load_study(FOLDER), Shared()
attention = AttentionPanel(study, shared=shared)
attention
"""


def test_a_learner_looks_at_pictures(
    open_notebook: Callable[..., LabPage], trained: Path, pictures: Path
) -> None:
    cells = [_OPEN.replace("FOLDER", repr(str(trained))), "logits = LogitPanel(study, shared=shared)\nlogits"]
    page = open_notebook(cells, height=2600)
    page.run_all()
    attention, logits = Panel(page, 0), Panel(page, 1)
    page.until(lambda: attention.drawn() and logits.drawn(), 60, "for both panels")
    page.until(lambda: attention.settled() and logits.settled(), 30, "for the measurements")

    # another method: other maps, with their own words
    before = attention.drawn()
    assert [t["type"] for t in before] == ["heatmap"] * 9 and "active" in attention.said()
    attention.choose("method", "Grad-CAM")
    attention.changed(before, "for the maps of Grad-CAM")
    page.until(lambda: "Grad-CAM" in attention.said(), 10, "for the sentence")
    assert "untrained network" in attention.said()
    assert "none were kept of epoch 2" in attention.control("epoch").get_attribute("title")

    # opacity redraws
    before = attention.drawn()
    attention.control("opacity").locator("input").press("Home")
    attention.changed(before, "for the opacity")
    assert {t["opacity"] for t in attention.drawn()} == {0.1}

    # a thumbnail puts its picture under both microscopes
    before, other = attention.drawn(), logits.drawn()
    attention.root.locator(".kd-picture[data-id='5']").click()
    attention.changed(before, "for the maps of picture 5")
    logits.changed(other, "for the answers about picture 5")
    assert "Picture 5," in attention.said() and "Picture 5," in logits.said()
    attention.control("next").click()
    page.until(lambda: "Picture 6," in logits.said(), 20, "for the next picture")

    # temperature: the bars become more even, and stay a distribution
    before = logits.drawn()
    assert sum(before[0]["values"]) == pytest.approx(1, abs=1e-4)
    slider = logits.control("temperature").locator("input")
    slider.press("End")
    seconds = logits.changed(before, "for another temperature")
    after = logits.drawn()
    assert sum(after[0]["values"]) == pytest.approx(1, abs=1e-4)
    assert max(after[0]["values"]) < max(before[0]["values"]) and max(after[0]["values"]) < 0.3
    assert "temperature 16" in logits.said()
    print(f"\nA temperature is drawn after {seconds:.2f} s.", end="")

    # what each loss would do: arrows and pulls, for the student that is chosen
    before = logits.drawn()
    logits.choose("view", "what each loss would do")
    logits.changed(before, "for the gradients")
    page.until(lambda: "Nothing is trained here" in logits.said(), 10, "for the sentence")
    assert {"dkd", "dckd", "nkd", "skd: softened"} <= {t["name"] for t in logits.drawn()}
    assert logits.control("student").is_visible() and not logits.control("students").is_visible()

    # a click on a map among several pictures
    before = attention.drawn()
    attention.choose("layout", "several pictures")
    attention.changed(before, "for several pictures")
    attention.root.locator(".kd-plot .hm image").nth(7).click(force=True)
    page.until(lambda: "Picture 6," not in logits.said(), 20, "for the picture of the map")

    page.screenshot(pictures / "attention_light.png", ".kd-analysis >> nth=0")
    page.screenshot(pictures / "logits_light.png", ".kd-analysis >> nth=1")
    page.theme("JupyterLab Dark")
    page.until(lambda: attention.settled() and logits.settled(), 20, "for the dark figures")
    page.screenshot(pictures / "attention_dark.png", ".kd-analysis >> nth=0")
    page.screenshot(pictures / "logits_dark.png", ".kd-analysis >> nth=1")
    assert not page.page.locator(".kd-error:visible").all_text_contents()
    assert not page.problems

"""The panel in a real JupyterLab and a real Chromium: the gestures of a learner and what they change."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from jupyter_lab import REPOSITORY
from page import LabPage

pytestmark = pytest.mark.browser

_STUDY = """
import kdlab
study = kdlab.Study(data="digits", teacher="resnet8", student="resnet8", students={"alone": "ce", "KD": "kd"},
                    epochs=400, batch_size=16, labels_per_class=8, teacher_epochs=2, probe_size=300,
                    device="cpu", folder="study")
panel = study.panel()
panel
"""
_REPORT = """
marks = [(m["student"], m["kind"], *[tuple(v) for v in (m.get("change") or {}).items()])
         for m in study.record.marks()]
errors = panel.desk.live["errors"]
print("MARKS", marks, "STATE", study.state, "PAINTER", panel.painter.error, "ERRORS", errors, "END")
"""

_CLIPPED = """() => [...document.querySelectorAll(".kd-panel button, .kd-card, .kd-row, .kd-state")]
    .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.textContent)"""

_SIDEWAYS = """() => [...document.querySelectorAll(".jp-OutputArea-output, .kd-panel, .kd-figure")]
    .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => [e.className, e.scrollWidth])"""


class Desk:
    """The gestures and readings of a panel on the page."""

    def __init__(self, page: LabPage) -> None:
        self.lab, self.page = page, page.page

    def appear(self, timeout: float = 60) -> None:
        self.lab.until(lambda: self.page.locator(".kd-panel").count(), timeout, "for the desk")
        self.lab.until(lambda: self.page.locator(".kd-figure .xtick").count(), timeout, "for the figures")

    def step(self) -> int:
        return int(self.page.locator(".kd-progress-text").first.get_attribute("data-step") or 0)

    def label(self) -> str:
        return self.page.locator(".kd-state").text_content() or ""

    def code(self) -> str:
        return self.page.locator(".kd-python-text").text_content() or ""

    def press(self, button: str) -> None:
        """Click a button of the transport, once it can be clicked."""
        self.page.locator(f"button[data-do='{button}']").click()

    def switch(self, who: str) -> None:
        self.page.get_by_label(f"{who}: on or off").click()

    def curve(self, name: str) -> list[float]:
        """The loss curve of a student as the page has drawn it."""
        return self.page.evaluate(
            "name => Array.from(document.querySelector('.kd-figure')._fullData.find(t => t.name === name).y)",
            name,
        )

    def reach(self, name: str) -> float:
        """The last step of a student's loss curve as drawn; 0 where nothing is."""
        return self.page.evaluate(
            """name => Array.from(document.querySelector('.kd-figure')._fullData
                .find(t => t.name === name)?.x ?? []).at(-1) ?? 0""",
            name,
        )

    def points(self) -> int:
        """Marks in all small plots of the embedding."""
        return self.page.evaluate(
            "() => document.querySelectorAll('.kd-figure')[1].querySelectorAll('.point').length"
        )

    def legend(self) -> dict[str, str]:
        """Name -> colour of the students in the legend of the curves."""
        return self.page.evaluate(
            """() => Object.fromEntries(document.querySelector('.kd-figure')._fullData
                .filter(t => t.legendgroup && t.showlegend).map(t => [t.name, t.line.color]))"""
        )

    def titles(self) -> str:
        """Titles of the small plots of the embedding."""
        return " | ".join(self.page.locator(".kd-figure >> nth=1 >> .annotation-text").all_text_contents())

    def card(self, student: str) -> str:
        """All that a student's card says."""
        return self.page.locator(f"[data-name='{student}']").text_content() or ""

    def press_in(self, section: str, button: str) -> None:
        self.page.get_by_role("region", name=section, exact=True).get_by_role(
            "button", name=button, exact=True
        ).first.click()

    def notes(self) -> str:
        return " | ".join(self.page.locator(".kd-figure .annotation-text").all_text_contents())


def test_a_learners_session(open_notebook: Callable[..., LabPage], pictures: Path) -> None:
    page = open_notebook([_STUDY, _REPORT])
    panel = Desk(page)
    page.run_all()
    page.until(lambda: page.text(".jp-CodeCell .jp-InputPrompt") not in ("[ ]:", "[*]:"), 60)
    start = time.monotonic()
    panel.appear()
    print(f"\nfirst paint {time.monotonic() - start:.1f} s after the cell was done")
    assert panel.label() == "ready"

    # play: the teacher is trained, then curves grow and clouds appear
    panel.press("Play")
    page.until(lambda: panel.step() > 30 and "teacher" not in (page.text(".kd-progress-text").lower()), 60)
    page.until(lambda: len(panel.curve("KD")) > 20, what="for the curve")
    page.until(lambda: panel.points() > 300, what="for the embedding")

    # switch a term off: the desk answers at once, the mark and the end of its curve follow
    took = page.click_to_answer("kd of KD: on or off")
    print(
        f"\nswitch shown after {took['shown']:.0f} ms, answered by the kernel after {took['answered']:.0f} ms"
    )
    assert panel.code() == 'study.set("KD", "kd", enabled=False)'
    page.until(lambda: "KD: kd off" in panel.notes(), what="for the mark")
    at = page.page.evaluate("() => document.querySelector('.kd-figure').layout.shapes[0].x0")
    panel.page.get_by_label("Curve by step").select_option("kd: value")
    page.until(
        lambda: len(panel.curve("KD")) > at + 8 and "kd: value" in panel.notes(), what="for the term's curve"
    )
    off = [math.isnan(value) for value in panel.curve("KD")]
    assert off == [step + 1 > at for step in range(len(off))], (
        "the curve must end where the term was switched off"
    )
    panel.page.get_by_label("Curve by step").select_option("total loss")
    page.until(lambda: "total loss" in panel.notes())
    page.until(lambda: page.text('[data-student="KD"][data-term="kd"] .kd-value') == "off")

    # pause holds the step exactly; single steps count exactly
    panel.press("Pause")
    page.until(lambda: panel.label() == "paused")
    page.page.wait_for_timeout(800)
    held = panel.step()
    page.page.wait_for_timeout(800)
    assert panel.step() == held
    for _ in range(3):
        panel.press("Step 1")
    page.until(lambda: panel.step() == held + 3, what="for three steps")
    page.page.wait_for_timeout(500)
    assert panel.step() == held + 3

    # the keyboard: arrows move the slider and do not move Lab's cells; the weight follows
    cell = page.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.activeCellIndex")
    page.page.get_by_label("ce of KD: weight on a log scale").focus()
    page.page.keyboard.press("ArrowRight")
    page.until(
        lambda: re.fullmatch(r'study.set\("KD", "ce", weight=0.10\d\)', panel.code()), what="for the weight"
    )
    assert page.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.activeCellIndex") == cell

    # a schedule: the editor shows how it would run, or why it cannot; then a dot tells that it differs
    page.page.get_by_label("ce of KD: schedule").click()
    form = page.page.get_by_role("form", name="Schedule of ce of KD", exact=True)
    form.get_by_label("Kind of schedule").select_option("warmup")
    form.locator("input").fill("0")
    page.until(lambda: "no schedule" in (form.text_content() or ""), what="for the refusal")
    assert form.get_by_role("button", name="Set").is_disabled()
    form.locator("input").fill("400")
    page.until(lambda: "× 1 in the last" in (form.text_content() or ""), what="for the preview")
    page.screenshot(pictures / "study_panel_schedule.png")
    page.page.keyboard.press("Enter")
    page.until(lambda: not form.is_visible(), what="for the form to close")
    assert panel.code() == 'study.set("KD", "ce", schedule="warmup:400")'
    dotted = page.page.locator('[data-student="KD"][data-term="ce"] .kd-schedule.kd-changed')
    page.until(dotted.count, what="for the dot")

    # reset takes back the schedule, the weight and the switch; solo leaves one term and gives back the others
    page.page.get_by_role("button", name="Reset KD").click()
    page.until(lambda: not page.page.locator("[data-name='KD'] .kd-changed").count(), what="for the reset")
    assert panel.code().splitlines()[-1] == 'study.set("KD", "kd", enabled=True)'
    solo = page.page.get_by_label("kd of KD: solo")
    for alone in (True, False):
        solo.click()
        page.until(lambda a=alone: solo.get_attribute("aria-pressed") == str(a).lower(), what="for the solo")
        assert page.page.get_by_label("ce of KD: on or off").is_checked() is not alone
    panel.switch("kd of KD")

    # the method's card: by the keyboard, and Escape leads back to where it was opened
    opener = page.page.get_by_label("Method card of KD")
    opener.press("Enter")
    card = page.page.get_by_role("dialog", name="Method card")
    page.until(lambda: "Hinton" in (card.text_content() or ""), what="for the card")
    assert card.locator("svg[aria-label*='kd reads']").is_visible()
    page.page.screenshot(path=pictures / "study_panel_card.png")
    page.page.keyboard.press("Escape")
    assert not card.is_visible() and opener.evaluate("e => e === document.activeElement")

    # the rest of the epoch (five steps each), and play by the keyboard
    panel.press("Step epoch")
    held = page.until(
        lambda: panel.step() > held and panel.step() % 5 == 0 and panel.step(), what="for the epoch"
    )
    assert re.fullmatch(r"study.step\([1-5]\)", panel.code())
    page.page.locator("button[data-do='Play']").focus()
    page.page.keyboard.press("Space")
    page.until(lambda: panel.step() > held + 10, what="for play by keyboard")

    # light, dark, narrow
    page.screenshot(pictures / "study_panel_light.png")
    page.theme("JupyterLab Dark")
    page.until(lambda: panel.legend()["alone"] == "#3D9BE0", what="for curves on dark paper")
    page.screenshot(pictures / "study_panel_dark.png")
    page.theme("JupyterLab Light")
    page.page.set_viewport_size({"width": 900, "height": 1500})
    page.wait_still()
    page.screenshot(pictures / "study_panel_900.png")
    clipped = page.page.evaluate(_CLIPPED)
    assert not clipped, "labels are cut off at 900 pixels"

    # fork a student now with another method, by the keyboard: a card, a line in the legend, a plot
    page.page.set_viewport_size({"width": 1280, "height": 1900})
    colours = panel.legend()
    page.page.get_by_role("button", name="Fork KD", exact=True).focus()
    page.page.keyboard.press("Enter")
    form = page.page.get_by_role("form", name="Fork KD", exact=True)
    page.until(lambda: form.is_visible(), what="for the form")
    form.get_by_label("Method").select_option("srrl")
    form.get_by_label("Name").fill("branch")
    page.page.keyboard.press("Enter")
    page.until(lambda: page.page.locator("[data-name='branch']").count(), what="for the fork's card")
    page.until(lambda: not form.is_visible(), what="for the form to close")
    assert panel.code() == 'study.fork("KD", name="branch", method="srrl")'
    page.until(lambda: "branch" in panel.legend(), 60, "for the fork in the legend")
    assert {name: colour for name, colour in panel.legend().items() if name != "branch"} == colours
    assert panel.legend()["branch"] not in colours.values()
    page.until(lambda: len(panel.curve("branch")) > 5, what="for the fork's curve")
    assert "branch: forked from KD" in panel.notes() and "forked from KD" in panel.card("branch")
    page.until(lambda: "branch" in panel.titles(), what="for the fork's plot")
    page.until(lambda: panel.points() > 450, 60, "for the fork's cloud")
    panel.switch("sr of branch")
    page.until(
        lambda: panel.code() == 'study.set("branch", "sr", enabled=False)', what="for a switch of the fork"
    )

    # a name that is taken is refused in a sentence, and the form stays
    panel.press_in("New student", "Add a student")
    form = page.page.get_by_role("form", name="Add a student", exact=True)
    form.get_by_label("Name of the new student").fill("KD")
    page.page.keyboard.press("Enter")
    page.until(
        lambda: "There is a network named 'KD' already" in page.text(".kd-errors"), what="for the refusal"
    )
    assert form.is_visible()
    page.page.keyboard.press("Escape")
    page.until(lambda: not form.is_visible(), what="for the form to close")
    page.page.get_by_label("Dismiss this message").click()
    page.until(lambda: not page.text(".kd-errors"))

    # dropping asks once more; what was dropped stays, greyed, with its reason
    panel.press_in("Student branch", "Drop branch")
    question = page.page.get_by_role("form", name="Drop branch", exact=True)
    question.get_by_role("button", name="Cancel").click()
    assert not question.is_visible() and "drop" not in panel.code()
    panel.press_in("Student branch", "Drop branch")
    page.screenshot(pictures / "study_panel_drop.png")
    question.get_by_role("button", name="Yes, drop it").click()
    page.until(lambda: "dropped in epoch" in panel.card("branch"), what="for the badge")
    assert "Student 'branch' was dropped in epoch" in page.text(".kd-notes")
    page.until(lambda: "branch (dropped)" in panel.legend(), what="for the legend")
    assert page.page.get_by_label("ce of branch: on or off").is_disabled()
    seen, drawn = panel.step(), len(panel.curve("branch"))
    page.until(lambda: panel.step() > seen + 10, what="for the others to go on")
    assert len(panel.curve("branch")) <= drawn + 1
    page.wait_still()
    page.screenshot(pictures / "study_panel_forked_light.png")
    page.theme("JupyterLab Dark")
    page.until(lambda: panel.legend()["alone"] == "#3D9BE0", what="for curves on dark paper")
    page.screenshot(pictures / "study_panel_forked_dark.png")
    page.theme("JupyterLab Light")
    assert not page.page.evaluate(_CLIPPED), "labels are cut off at 1280 pixels"
    assert page.page.evaluate(_SIDEWAYS) == [], "the panel must not be scrolled sideways at 1280 pixels"
    # a page loaded again shows all of it, also who came and went, and goes on
    reached = {name: panel.reach(name) for name in ("KD", "branch")}
    assert min(reached.values()) > 0
    page.load_again(lambda: panel.appear(25))
    for name, last in reached.items():
        page.until(lambda n=name, s=last: panel.reach(n) >= s, what=f"for {name}'s curve after the reload")
    assert "branch: dropped" in panel.notes() and panel.points() > 450
    assert "branch (dropped)" in panel.legend() and "branch" in panel.titles()
    assert "dropped in epoch" in panel.card("branch")
    assert not page.page.get_by_label("kd of KD: on or off").is_checked()
    seen = panel.step()
    page.until(lambda: panel.step() > seen + 5, what="for training to go on after the reload")

    # stop ends it; what was done is on record
    panel.press("Stop")
    page.until(lambda: panel.label() == "stopped", what="for the stop")
    ended = panel.step()
    page.page.wait_for_timeout(700)
    assert panel.step() == ended
    page.run_last_cell()
    report = page.until(
        lambda: re.search(r"MARKS (.*) END", page.text(".jp-OutputArea-output pre", last=True))
    )[1]
    assert "('KD', 'set', ('enabled', False))" in report and "STATE stopped" in report
    assert "('KD', 'set', ('weight', 0.10" in report
    assert "('branch', 'fork')" in report and "('branch', 'drop')" in report
    assert "PAINTER None" in report and "ERRORS []" in report
    assert not page.problems


def test_the_first_notebook_and_its_panel_while_a_cell_waits(
    open_notebook: Callable[..., LabPage], pictures: Path
) -> None:
    """Run all: the cell with `study.fit()` keeps the kernel busy, and the panel must answer all the same."""
    page = open_notebook(REPOSITORY / "notebooks" / "00_start_here.ipynb")
    panel = Desk(page)
    page.run_all()
    panel.appear()
    panel.press("Pause")
    page.until(lambda: panel.label() == "paused", what="for the pause while a cell is busy")
    page.page.wait_for_timeout(500)
    held = panel.step()
    page.page.wait_for_timeout(500)
    assert panel.step() == held
    assert page.text(".jp-CodeCell:has-text('study.fit') .jp-InputPrompt") == "[*]:", "the cell still waits"
    panel.press("Play")
    page.until(
        lambda: "study.fit()" in page.text(".jp-OutputArea-output", last=True), 90, "for the last cell"
    )
    assert "The claim holds" in page.text(".jp-CodeCell:has-text('claim')")
    assert not page.page.locator(
        ".jp-OutputArea-output[data-mime-type*=error], .jp-RenderedText[data-mime-type*=stderr]"
    ).count()
    assert panel.label() == "finished" and panel.points() > 300
    # two live figures, and one figure each for probes, t-SNE, attention and logits
    page.until(lambda: page.page.locator(".js-plotly-plot .main-svg").count() >= 6, what="for all figures")
    page.page.set_viewport_size({"width": 1280, "height": 6000})
    page.wait_still()
    page.screenshot(pictures / "start_here.png")
    assert not page.problems

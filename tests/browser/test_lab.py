"""All panels of a study on their tabs, in JupyterLab and as a dashboard, in a real Chromium."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jupyter_lab import REPOSITORY, free_port
from page import LabPage

pytestmark = pytest.mark.browser

_TABS = ("Train", "Representations", "Probes", "Attention", "Logits", "Compare")


def turn_to(page: LabPage, tab: str) -> float:
    """Click on a tab; the seconds until its figure is there and nothing is being measured."""
    start = time.monotonic()
    page.page.get_by_role("tab", name=tab).click()
    figure = ".kd-figure" if tab == "Train" else ".kd-plot"
    drawn = page.page.locator(f"{figure}:not(.kd-stale) .main-svg:visible")
    page.until(drawn.count, 60, f"for the figure of {tab}")
    return time.monotonic() - start


def look_at_all(page: LabPage, pictures: Path, prefix: str) -> None:
    for tab in _TABS:
        seconds = turn_to(page, tab)
        page.wait_still()
        print(f"\n{prefix}: {tab} after {seconds:.1f} s", end="")
        page.page.screenshot(path=pictures / f"{prefix}_{tab.lower()}.png")
        assert not page.page.locator(".kd-error:visible").all_text_contents()
        if tab != "Train":
            said = page.page.locator(".kd-said:visible").first.text_content() or ""
            code = page.page.locator(".kd-python-text:visible").first.text_content() or ""
            assert said.endswith((".", ")")) and "kdlab" in code, (tab, said, code)


def test_the_lab_in_jupyterlab(open_notebook: Callable[..., LabPage], trained: Path, pictures: Path) -> None:
    cells = ["import kdlab", f"study = kdlab.load_study({str(trained)!r})\nstudy.lab()"]
    page = open_notebook(cells, height=1300)
    page.run_all()
    page.until(page.page.locator(".kd-panel").count, 60, "for the lab")
    look_at_all(page, pictures, "lab_light")
    page.theme("JupyterLab Dark")
    look_at_all(page, pictures, "lab_dark")
    assert not page.problems

    # a page that is loaded again, and a kernel that is connected to again, go on
    drawn = page.page.locator(".kd-plot .main-svg:visible")
    page.load_again(lambda: page.until(drawn.count, 30, "for the lab after a reload"))
    assert page.page.get_by_role("tab", name="Compare").get_attribute("aria-selected") == "true"
    page.command("notebook:reconnect-to-kernel")
    page.page.wait_for_timeout(1000)
    page.wait_idle()
    turn_to(page, "Logits")
    said = page.page.locator(".kd-said:visible")
    page.page.locator("input[aria-label=Temperature]:visible").first.fill("0")  # its logarithm
    page.until(lambda: "At temperature 1 " in (said.first.text_content() or ""), what="for the temperature")


@pytest.mark.skipif(importlib.util.find_spec("voila") is None, reason="needs kdlab[dashboards]")
def test_the_dashboard_is_a_web_page(trained: Path, browser: Any, pictures: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "kdlab", "dashboard", str(trained), f"--port={port}", "--no-browser"]
    with open(tmp_path / "voila.log", "wb") as log:
        server = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_up(f"http://127.0.0.1:{port}/voila/static/", server)
        page = LabPage(browser, f"http://127.0.0.1:{port}", height=1300)
        asked: list[str] = []
        page.page.on("request", lambda r: asked.append(r.url) if page.url not in r.url else None)
        page.page.goto(page.url, timeout=90_000)
        page.until(page.page.locator(".kd-panel").count, 90, "for the lab")
        assert not page.page.locator(".jp-CodeCell .cm-content").count(), "no code is shown"
        look_at_all(page, pictures, "dashboard")
        assert not page.problems and not asked, "the page is served from here alone"
        page.close()
    finally:
        server.terminate()
        server.wait(20)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)), "the server must end with the command"


def _wait_until_up(url: str, server: subprocess.Popen[bytes], timeout: float = 90.0) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError:  # it answers
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise AssertionError("the dashboard did not start")

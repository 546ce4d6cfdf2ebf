"""The report in a real browser: nothing from elsewhere, sliders by keyboard, both themes, narrow pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_study import FakeStudy

from kdlab.report import build_report


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(900, "light"), (1400, "dark")])
def test_in_a_browser(tmp_path: Path, browser: Any, width: int, scheme: str) -> None:
    path = build_report(FakeStudy(tmp_path))
    view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    faults: list[str] = []
    view.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    view.on("pageerror", lambda error: faults.append(str(error)))
    view.on(
        "request",
        lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else faults.append(r.url),
    )
    view.goto(path.as_uri())
    view.wait_for_selector("html[data-ready=true]", timeout=60_000)
    assert view.locator(".plot .main-svg").count() >= 9
    assert view.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
    paper = view.evaluate("document.getElementById('probe-depth').layout.paper_bgcolor")
    assert paper == ("#ffffff" if scheme == "light" else "#171a1f")

    first = view.evaluate("document.getElementById('map-class').data[1].x[0]")
    view.focus("#map-class-slider")
    view.keyboard.press("Home")
    view.wait_for_function(
        "before => document.getElementById('map-class').data[1].x[0] !== before",
        arg=first,
        timeout=10_000,
    )
    assert view.locator("[data-slider=map-class] output").text_content() == "0"
    assert view.locator("#map-class-slider").get_attribute("aria-valuetext") == "0"

    view.emulate_media(color_scheme="dark" if scheme == "light" else "light")
    other = "#171a1f" if scheme == "light" else "#ffffff"
    view.wait_for_function(
        "paper => document.getElementById('map-class').layout.paper_bgcolor === paper",
        arg=other,
        timeout=20_000,
    )
    view.close()
    assert faults == []

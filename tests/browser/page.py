"""A page of JupyterLab in headless Chromium, with the gestures that tests of panels need."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Messages of the page that say nothing about panels.
_HARMLESS = (
    "favicon",
    "Failed to load resource",  # optional parts of Lab that this server does not have
    "net::ERR",
    "WebGL",
    "GPU stall",
)
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


_CLICK_TO_ANSWER = """label => new Promise((resolve) => {
    const control = document.querySelector(`[aria-label="${label}"]`);
    const code = document.querySelector(".kd-python-text");
    const start = performance.now();
    let shown = null;
    new MutationObserver((_, observer) => {
        observer.disconnect();
        resolve({ shown, answered: performance.now() - start });
    }).observe(code, { childList: true, characterData: true, subtree: true });
    control.click();
    requestAnimationFrame(() => { shown = performance.now() - start; });
})"""
_INKS = """() => [...document.querySelectorAll(".kd-plot .js-plotly-plot")]
    .filter((plot) => plot.offsetParent && plot._fullLayout).map((plot) => plot._fullLayout.font.color)"""
_SIZES = """() => [...document.querySelectorAll(".kd-panel, .kd-panel .main-svg")]
    .map((e) => e.getBoundingClientRect()).flatMap((box) => [box.x, box.y, box.width, box.height])"""
_DRAWN = """(number) => {
    const plot = document.querySelectorAll(".kd-analysis")[number]?.querySelector(".js-plotly-plot");
    const row = (v) => v?.length === undefined ? v : Array.from(v);
    const flat = (values) => Array.from(values ?? [], row).flat();
    return plot?._fullData ? plot._fullData.map((t) => ({type: t.type, name: t.name, opacity: t.opacity,
        values: flat(t.z ?? t.y)})) : [];
}"""
_WHERE = """([number, trace, point]) => {
    const plot = document.querySelectorAll(".kd-analysis")[number].querySelector(".js-plotly-plot");
    const one = plot._fullData[trace], box = plot.getBoundingClientRect();
    const axis = (name) => plot._fullLayout[name.replace(/^[xy]/, "$&axis")];
    const x = axis(one.xaxis), y = axis(one.yaxis);
    const at = Array.isArray(point) ? [point[1], point[0]] : [one.x[point], one.y[point]];
    return [box.left + x._offset + x.d2p(at[0]), box.top + y._offset + y.d2p(at[1])];
}"""
_HOVERED = """([number, trace, point]) => {
    const plot = document.querySelectorAll(".kd-analysis")[number].querySelector(".js-plotly-plot");
    return (plot._hoverdata ?? []).some((one) => one.curveNumber === trace
        && String(one.pointNumber) === String(point));
}"""


def find_browser() -> str | None:
    """Path of a Chromium: KDLAB_CHROMIUM, else what kdlab makes pictures with."""
    from kdlab.plots import export

    return os.environ.get("KDLAB_CHROMIUM") or export.find_browser()


def launch(playwright: Any, executable: str) -> Any:
    """A headless browser."""
    return playwright.chromium.launch(executable_path=executable, args=_FLAGS)


class LabPage:
    """One notebook, open in Lab."""

    def __init__(self, browser: Any, url: str, width: int = 1280, height: int = 1500) -> None:
        self.page = browser.new_context(viewport={"width": width, "height": height}).new_page()
        self.page.set_default_timeout(30_000)
        self.problems: list[str] = []
        self.url = url
        self.page.on("pageerror", lambda error: self._complain(f"uncaught: {error}"))
        self.page.on("console", lambda m: self._complain(m.text) if m.type == "error" else None)

    def _complain(self, text: str) -> None:
        if not any(part in text for part in _HARMLESS):
            self.problems.append(text)

    def open(self, notebook: str) -> None:
        """Open a notebook and wait for its kernel."""
        self.page.goto(f"{self.url}/lab/tree/{notebook}?reset")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.command("application:toggle-left-area") if self._sidebar() else None
        self.wait_idle()

    def _sidebar(self) -> bool:
        return self.page.locator("#jp-left-stack").is_visible()

    def command(self, name: str, **arguments: Any) -> None:
        """Run one of Lab's commands."""
        self.page.evaluate(
            "([name, args]) => { window.jupyterapp.commands.execute(name, args); }", [name, arguments]
        )

    def wait_idle(self, timeout: float = 60.0) -> None:
        """Wait until the kernel is up and has nothing to do."""
        self.until(lambda: self.kernel_status() == "idle", timeout, "for an idle kernel")

    def kernel_status(self) -> str:
        """What Lab says of the notebook's kernel: "idle", "busy", ...; empty before it has one."""
        return self.page.evaluate(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status ?? ''"
        )

    def run_all(self) -> None:
        """Run all cells; does not wait."""
        self.command("notebook:run-all-cells")

    def run_last_cell(self) -> None:
        """Run the last cell of the notebook, as a user does it."""
        self.page.locator(".jp-CodeCell .cm-content").last.click()
        self.page.keyboard.press("Shift+Enter")

    def text(self, selector: str, last: bool = False) -> str:
        """The text of the first (or last) element that `selector` finds; empty if there is none."""
        found = self.page.locator(selector)
        if not found.count():
            return ""
        return (found.last if last else found.first).text_content() or ""

    def reload(self) -> None:
        """Save, then load the page again, as a user with F5."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        self.page.reload()
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")

    def load_again(self, appear: Callable[[], None]) -> None:
        """F5, up to three times, until `appear` finds what should be there and the console is quiet.

        JupyterLab gives up after four seconds on a kernel that does not tell its widgets, as on a
        machine that does much else. What a user does then is to press F5 again.
        """
        assert not self.problems
        for _ in range(3):
            self.problems.clear()
            self.reload()
            with contextlib.suppress(AssertionError):
                appear()
                self.page.wait_for_timeout(1500)
                if not self.problems:
                    return
        raise AssertionError(f"the widgets did not come back after three reloads: {self.problems}")

    def theme(self, name: str) -> None:
        """Switch Lab's theme to the other one, "JupyterLab Light" or "JupyterLab Dark"; figures follow."""
        light = "true" if name.endswith("Light") else "false"
        inks = set(self.page.evaluate(_INKS))
        self.command("apputils:change-theme", theme=name)
        self.page.wait_for_selector(f'body[data-jp-theme-light="{light}"]', state="attached")
        self.page.wait_for_selector("#jupyterlab-splash", state="detached")
        self.until(lambda: inks.isdisjoint(self.page.evaluate(_INKS)), what=f"for figures in {name}")

    def wait_still(self) -> None:
        """Wait until no panel and no plot has moved or changed its size for a fifth of a second."""
        sizes: list[Any] = []

        def still() -> bool:
            sizes.append(self.page.evaluate(_SIZES))
            return len(sizes) > 4 and all(size == sizes[-1] for size in sizes[-4:])

        self.until(still, 20, "for all to stand still")

    def until(self, condition: Callable[[], Any], timeout: float = 20.0, what: str = "") -> Any:
        """The first true value of `condition`; AssertionError after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                raise AssertionError(self._account(f"waited {timeout:g} s in vain {what}"))
            self.page.wait_for_timeout(60)

    def _account(self, text: str) -> str:
        """What is known of the page when something did not come."""
        picture = Path(tempfile.mkdtemp(prefix="kdlab-browser-")) / "page.png"
        self.page.screenshot(path=picture)
        errors = self.page.locator(".jp-RenderedText[data-mime-type*=stderr]").all_text_contents()
        return (
            f"{text}; kernel {self.kernel_status() or 'not there'}; page in {picture}; "
            f"console: {self.problems or 'quiet'}; errors of cells: {errors or 'none'}"
        )

    def click_to_answer(self, label: str) -> dict[str, float]:
        """Click a control; milliseconds until the page has "shown" it, and the kernel has "answered"."""
        return self.page.evaluate(_CLICK_TO_ANSWER, label)

    def screenshot(self, path: Path, selector: str = ".jp-Notebook") -> Path:
        """A picture of the first element that `selector` finds."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.locator(selector).first.screenshot(path=path)
        return path

    def close(self) -> None:
        """End all kernels of the server, and close the page."""
        self.page.evaluate("() => window.jupyterapp?.serviceManager.sessions.shutdownAll()")
        self.page.context.close()


class Panel:
    """One of the panels of analysis on a page: its controls, its words, its figure."""

    def __init__(self, lab: LabPage, number: int = 0) -> None:
        self.lab, self.page, self.number = lab, lab.page, number
        self.root = lab.page.locator(".kd-analysis").nth(number)

    def control(self, name: str) -> Any:
        """What holds a control."""
        return self.root.locator(f"[data-control={name}]")

    def choose(self, name: str, text: str, tells: str = "") -> float:
        """Take a line of a menu; with `tells`, the seconds until the panel says that (see `tells`)."""
        start = time.monotonic()
        self.control(name).locator("select").select_option(label=text)
        return self.tells(tells, start) if tells else 0.0

    def said(self) -> str:
        """The sentence under the figure."""
        return self.root.locator(".kd-said").text_content() or ""

    def drawn(self) -> list[dict[str, Any]]:
        """The traces as plotly shows them."""
        return self.page.evaluate(_DRAWN, self.number)

    def settled(self) -> bool:
        """Whether there is a figure, and it is not faded as one that waits for another."""
        return bool(self.root.locator(".kd-plot:not(.kd-stale) .main-svg").count())

    def changed(self, before: Any, what: str, timeout: float = 30.0) -> float:
        """Wait until the figure differs and is settled; the seconds."""
        start = time.monotonic()
        self.lab.until(lambda: self.settled() and self.drawn() not in ([], before), timeout, what)
        return time.monotonic() - start

    def tells(self, text: str, start: float) -> float:
        """Wait until the panel says `text` and is settled; the seconds since `start`."""
        self.lab.until(
            lambda: text in self.said() and self.settled(), 60, f"for {text!r}, not {self.said()!r}"
        )
        return time.monotonic() - start

    def click(self, trace: int, point: int | list[int], tells: str = "") -> float:
        """Click a point of a trace, or [row, column] of a map; see `choose`."""
        self.root.locator(".kd-plot").scroll_into_view_if_needed()
        x, y = self.page.evaluate(_WHERE, [self.number, trace, point])
        self.page.mouse.move(x - 3, y)
        self.page.mouse.move(x, y, steps=3)
        under = [self.number, trace, point]  # plotly clicks on what it has found under the pointer
        self.lab.until(lambda: self.page.evaluate(_HOVERED, under), 10, "for the pointer to be seen")
        start = time.monotonic()
        self.page.mouse.click(x, y)
        return self.tells(tells, start) if tells else 0.0

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
        """Switch Lab's theme: "JupyterLab Light" or "JupyterLab Dark"."""
        light = "true" if name.endswith("Light") else "false"
        self.command("apputils:change-theme", theme=name)
        self.page.wait_for_selector(f'body[data-jp-theme-light="{light}"]', state="attached")
        self.page.wait_for_timeout(700)

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

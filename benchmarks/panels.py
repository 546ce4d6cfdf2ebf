"""How fast do panels react while a study trains, and does memory grow, of the kernel and of the page?

Usage: python benchmarks/panels.py [--quick] [--minutes 2] [--json FILE]

A lab (all panels) is opened in a real JupyterLab and a headless Chromium, and a study of the digits is
played. Every twenty seconds the next tab is turned to; a moment later its control is used, or, on the
first, a switch is clicked. Told are

- the seconds until each tab's figure is there, at its first opening and later;
- the milliseconds from the change of a control that only redraws until the figure shows it;
- the milliseconds from a click on a switch to the page's own change, and to the kernel's answer;
- the memory of the kernel and of the page's JavaScript (after its garbage was collected), at the end over
  that after a fifth of the time, when all tabs have been seen.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import arguments, median, table, write
from machine import machine, machine_line

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "browser"))

STUDY = """
import os, kdlab
study = kdlab.Study(data="digits", teacher="resnet8", student="resnet8", students={"alone": "ce", "KD": "kd"},
                    epochs=3000, batch_size=32, labels_per_class=20, teacher_epochs=4, probe_size=600,
                    snapshots=[1, 2, 5, 10, 20, 50, 100, 200, 400, 800, 1600, 3000],
                    device="cpu", folder="study")
print("PID", os.getpid(), "END")
lab = study.lab()
lab
"""
TABS = ("Train", "Representations", "Probes", "Attention", "Logits", "Compare")

GESTURES = {  # tab -> a control that only redraws, and values to give it in turn
    "Representations": ("[data-control=color] select", ['"correct"', '"class"']),
    "Probes": ("[data-control=levels] input", []),
    "Attention": ("[data-control=opacity] input", ["0.3", "0.8"]),
    "Logits": ("[data-control=temperature] input", ["0", "1.4"]),
}
REDRAW = """([selector, value]) => new Promise((resolve) => {
    const panel = [...document.querySelectorAll(".kd-analysis")].find((e) => e.offsetWidth > 0);
    const control = panel.querySelector(selector), start = performance.now();
    panel.querySelector(".js-plotly-plot").once("plotly_afterplot", () => resolve(performance.now() - start));
    setTimeout(() => resolve(null), 10000);
    if (control.type === "checkbox") return control.click();
    control.value = value;
    for (const kind of ["input", "change"]) control.dispatchEvent(new Event(kind, { bubbles: true }));
})"""


class Watched:
    """The lab on a page: turns tabs, clicks, and reads memory."""

    def __init__(self, page: Any) -> None:
        self.lab, self.page = page, page.page
        self.browser = self.page.context.new_cdp_session(self.page)
        self.browser.send("Performance.enable")
        self.kernel = 0
        self.started = time.monotonic()
        self.turns: dict[str, list[float]] = {tab: [] for tab in TABS}
        self.redraws: dict[str, list[float]] = {}
        self.clicks: list[dict[str, float]] = []
        self.memory: list[dict[str, float]] = []

    def open(self) -> None:
        self.lab.open("panels.ipynb")
        self.lab.run_all()
        self.lab.until(self.page.locator(".kd-panel").count, 90, "for the lab")
        said = self.lab.until(
            lambda: self.lab.text(".jp-OutputArea-output pre"), 30, "for the kernel's number"
        )
        self.kernel = int(said.split("PID")[1].split("END")[0])
        self.page.locator("button[data-do='Play']").click()
        going = "document.querySelector('.kd-progress-text')?.getAttribute('data-step')"
        self.lab.until(lambda: int(self.page.evaluate(going) or 0) > 40, 120, "for the first steps")
        self.started = time.monotonic()

    def turn_to(self, tab: str) -> None:
        start = time.monotonic()
        self.page.get_by_role("tab", name=tab).click()
        drawn = self.page.locator(f"{'.kd-figure' if tab == 'Train' else '.kd-plot'} .main-svg:visible")
        self.lab.until(drawn.count, 120, f"for the figure of {tab}")
        self.turns[tab].append(time.monotonic() - start)

    def redraw(self, tab: str) -> None:
        """Give a control of the tab another value, several times, until the figure shows it."""
        selector, values = GESTURES[tab]
        for value in (values or [""]) * 2:
            took = self.page.evaluate(REDRAW, [selector, value])
            if took is not None:
                self.redraws.setdefault(tab, []).append(took)
            self.page.wait_for_timeout(700)

    def click(self) -> None:
        """Click the switch of a loss, several times."""
        for _ in range(4):
            self.clicks.append(self.lab.click_to_answer("kd of KD: on or off"))
            self.page.wait_for_timeout(700)

    def read(self) -> None:
        self.browser.send("HeapProfiler.collectGarbage")
        metrics = {m["name"]: m["value"] for m in self.browser.send("Performance.getMetrics")["metrics"]}
        pages = int(Path(f"/proc/{self.kernel}/statm").read_text().split()[1])
        self.memory.append(
            {
                "seconds": time.monotonic() - self.started,
                "kernel": pages * 4096 / 2**20,
                "page": metrics["JSHeapUsedSize"] / 2**20,
                "nodes": metrics["Nodes"],
            }
        )


def watch(minutes: float, every: float) -> Watched:
    """Let the lab live for so long."""
    from jupyter_lab import JupyterLab, write_notebook
    from page import LabPage, find_browser, launch
    from playwright.sync_api import sync_playwright

    found = find_browser()
    if found is None:
        sys.exit("No Chromium found; install one (Debian: apt-get install chromium).")
    with tempfile.TemporaryDirectory(prefix="kdlab-panels-", ignore_cleanup_errors=True) as kept:
        folder = Path(kept)
        write_notebook(folder / "panels.ipynb", [STUDY.strip()])
        with JupyterLab(folder) as server, sync_playwright() as playwright:
            watched = Watched(LabPage(launch(playwright, found), server.url, 1280, 1300))
            watched.open()
            number = 0
            while time.monotonic() - watched.started < 60 * minutes or number < len(TABS):
                tab = TABS[number % len(TABS)]
                watched.turn_to(tab)
                watched.page.wait_for_timeout(1500)
                if tab == "Train":
                    watched.click()
                if tab in GESTURES:
                    watched.redraw(tab)
                watched.page.wait_for_timeout(1000 * every)
                watched.read()
                number += 1
            if watched.lab.problems:
                print("The page complained:", *watched.lab.problems[:5], sep="\n  ")
    return watched


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, metavar="M", help="of live training")
    args = parser.parse_args()
    about = machine()
    print(machine_line(about))
    watched = watch(0.1 if args.quick else args.minutes, 1.0 if args.quick else 20.0)
    turns = [
        {"tab": tab, "first, s": times[0], "later, s": median(times[1:]) if times[1:] else None}
        for tab, times in watched.turns.items()
    ]
    print("\n" + table(turns))
    print("\nA control that only redraws, until the figure shows it, while training (ms):")
    for tab, took in watched.redraws.items():
        print(f"  {tab}: {median(took):.0f} ({min(took):.0f} to {max(took):.0f}, {len(took)} times)")
    shown, answered = ([c[key] for c in watched.clicks] for key in ("shown", "answered"))
    print(
        f"\nA click on a switch: shown after {median(shown):.0f} ms, answered by the kernel after "
        f"{median(answered):.0f} ms (most {max(answered):.0f}, {len(answered)} clicks)"
    )
    settled = watched.memory[len(watched.memory) // 5 :] or watched.memory
    growth = {key: settled[-1][key] / settled[0][key] for key in ("kernel", "page", "nodes")}
    for key, unit in (("kernel", "MiB"), ("page", "MiB of JavaScript"), ("nodes", "nodes in the page")):
        print(
            f"{key}: {settled[0][key]:.0f} {unit} after {settled[0]['seconds'] / 60:.1f} minutes, "
            f"{settled[-1][key]:.0f} after {settled[-1]['seconds'] / 60:.1f}: {growth[key]:.2f} x"
        )
    write(
        args.json,
        about,
        turns=watched.turns,
        redraws=watched.redraws,
        clicks=watched.clicks,
        memory=watched.memory,
        growth=growth,
    )


if __name__ == "__main__":
    main()

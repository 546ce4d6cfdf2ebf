"""What a panel shows as files that the page saves: a web page, the numbers, the whole result."""

from __future__ import annotations

import gzip
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from kdlab.errors import ConfigError
from kdlab.plots.export import to_csv, to_html
from kdlab.probes.progress import steps

PIECE = 1_500_000  # bytes
PAUSE = 2.0  # seconds
KINDS = {"html": "text/html", "csv": "text/csv", "npz": "application/octet-stream"}


def send(panel: Any, kind: str) -> None:
    """Hand the page a file to save.

    Args:
        panel: an `AnalysisPanel`.
        kind: "html" (the figure, self-contained), "csv" (the numbers behind it) or "npz" (the whole
            result, for `kdlab.probes.load_result`). Pictures are made by the page itself.

    Raises:
        ConfigError: nothing is shown yet, or another kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"A panel saves {', '.join(KINDS)}, not {kind!r}.")
    if panel.fig is None or panel.result is None:
        raise ConfigError("There is nothing to save yet; wait until the figure is there.")
    name = file_name(panel, kind)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if kind == "html":
            to_html(panel.fig, path, title=f"{panel.study.folder.name}: {panel.heading}")
        elif kind == "csv":
            to_csv(panel.exported(panel.result), path)
        else:
            panel.exported(panel.result).save(path)
        deliver(panel, name, KINDS[kind], path.read_bytes())


def deliver(panel: Any, name: str, mime: str, data: bytes) -> None:
    """Send a file to the page, which saves it; a large one in pieces.

    Jupyter's server drops what comes faster than 1 MB a second (over 3 seconds), so that pieces wait for
    each other.

    Args:
        panel: an `AnalysisPanel`.
        name: of the file; mime: its kind; data: what is in it.
    """
    packed = gzip.compress(data, 6)
    places = range(0, max(len(packed), 1), PIECE)
    for place in steps(places, "sending"):
        if place:
            time.sleep(PAUSE)
        about = {"do": "file", "name": name, "mime": mime, "place": place // PIECE, "pieces": len(places)}
        panel.send(about, [packed[place : place + PIECE]])


def file_name(panel: Any, kind: str) -> str:
    """Such as "digits-probes.csv"."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", f"{panel.study.folder.name} {panel.heading}".lower()).strip("-")
    return f"{plain}.{kind}"

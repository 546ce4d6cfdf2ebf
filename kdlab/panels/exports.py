"""What a panel shows as files that the page saves: a web page, the numbers, the whole result."""

from __future__ import annotations

import gzip
import re
import tempfile
from pathlib import Path
from typing import Any

from kdlab.errors import ConfigError
from kdlab.plots.export import to_csv, to_html

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
        data = gzip.compress(path.read_bytes(), 6)
    panel.send({"do": "file", "name": name, "mime": KINDS[kind]}, [data])


def file_name(panel: Any, kind: str) -> str:
    """Such as "digits-probes.csv"."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", f"{panel.study.folder.name} {panel.heading}".lower()).strip("-")
    return f"{plain}.{kind}"

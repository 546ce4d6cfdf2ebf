"""Runs benchmarks as from a shell, several of them in one process, since every process costs seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

PROGRAM = """
import contextlib, io, json, pathlib, runpy, sys, traceback
wanted, out, before = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
exec(before)
ended = {}
for name, (script, *arguments) in wanted.items():
    sys.argv, sys.path[0] = [script, *arguments], str(pathlib.Path(script).parent)
    status = 0
    said, wrong = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(wrong):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
            status = 1
    ended[name] = status, said.getvalue(), wrong.getvalue()
pathlib.Path(out).write_text(json.dumps(ended))
"""


class Ended(NamedTuple):
    """What a benchmark left: exit status, what it printed, its errors, and its figures if it wrote any."""

    status: int
    out: str
    errors: str
    figures: dict[str, Any]


def run_benchmarks(
    checkout: Path, folder: Path, jobs: Mapping[str, tuple[str, ...]], before: str = ""
) -> dict[str, Ended]:
    """name -> (script of benchmarks/, its arguments), run in that order, without real data.

    Each is told to write its figures ("{json}" in its arguments); `before` is Python to be run first.
    """
    wanted = {}
    for name, (script, *arguments) in jobs.items():
        own = [part.replace("{json}", str(folder / f"{name}.json")) for part in arguments]
        wanted[name] = [str(checkout / "benchmarks" / script), *own]
    environment = os.environ | {"KDLAB_DATA": str(checkout / "no data here"), "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", PROGRAM, json.dumps(wanted), str(folder / "ended.json"), before]
    subprocess.run(command, check=True, timeout=900, env=environment)
    ended = {}
    for name, (status, out, errors) in json.loads((folder / "ended.json").read_text()).items():
        path = folder / f"{name}.json"
        ended[name] = Ended(status, out, errors, json.loads(path.read_text()) if path.exists() else {})
    return ended

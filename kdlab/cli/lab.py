"""`kdlab lab`: start JupyterLab at a notebook."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kdlab.cli.parsing import add_command
from kdlab.errors import ConfigError, unknown_name

FIRST = "00_start_here.ipynb"
_EPILOG = """\
In a checkout its own notebooks are opened. Otherwise the notebooks that came with kdlab are first
copied to ./kdlab-notebooks; files that are already there are kept as they are.

Examples:
  kdlab lab
  kdlab lab mine.ipynb
  kdlab lab -- --no-browser --port 9999      the rest is handed to JupyterLab"""


def add(commands: Any) -> None:
    """Describe the command."""
    summary = "open JupyterLab at the first notebook"
    command = add_command(commands, "lab", summary, lab_command, epilog=_EPILOG)
    command.add_argument(
        "notebook", nargs="?", metavar="NOTEBOOK", help="a file, or the name of one of kdlab's"
    )
    command.set_defaults(rest=[])


def lab_command(args: argparse.Namespace) -> int:
    """Start JupyterLab and return its exit status when it ends."""
    return serve(jupyter_command(find_notebook(args.notebook), args.rest))


def serve(command: list[str], environment: dict[str, str] | None = None) -> int:
    """Run a server until it ends; its exit status. A request to end this process ends the server."""
    with subprocess.Popen(command, env=environment) as process:
        usual = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:  # the server gets the same Ctrl-C; JupyterLab asks before it ends
                    continue
        finally:
            signal.signal(signal.SIGTERM, usual)


def jupyter_command(notebook: Path, options: list[str]) -> list[str]:
    """The command that opens `notebook`: in this environment, file browser at the folder above."""
    root = notebook.parent.parent if notebook.parent.name == "notebooks" else notebook.parent
    address = f"/lab/tree/{quote(notebook.relative_to(root).as_posix())}"
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={root}",
        f"--LabApp.default_url={address}",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        command.append("--no-browser")  # it prints the address to open instead
    return command + options


def find_notebook(name: str | None) -> Path:
    """The notebook to open: a file of that name, else one of kdlab's own.

    Raises:
        ConfigError: there is none; the message lists kdlab's.
    """
    if name is not None and Path(name).is_file():
        return Path(name).absolute()
    source, is_copy = notebook_folder()
    names = sorted(path.name for path in source.glob("*.ipynb"))
    wanted = FIRST if name is None else name if name.endswith(".ipynb") else f"{name}.ipynb"
    if wanted not in names:
        raise unknown_name("notebook", wanted, names)
    if not is_copy:
        return source / wanted
    return copy_notebooks(source, Path("kdlab-notebooks").absolute()) / wanted


def notebook_folder() -> tuple[Path, bool]:
    """Where kdlab's notebooks lie, and whether they must be copied before they are worked in.

    Raises:
        ConfigError: they did not come with this installation.
    """
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "notebooks").is_dir():
        return checkout / "notebooks", False
    if (package / "_notebooks").is_dir():
        return package / "_notebooks", True
    raise ConfigError("The notebooks did not come with this installation; install it again, or name a file.")


def copy_notebooks(source: Path, target: Path) -> Path:
    """Copy what `target` does not have yet; a file that is there may hold the user's work."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.rglob("*")):
        there = target / path.relative_to(source)
        if path.is_dir():
            there.mkdir(parents=True, exist_ok=True)
        elif not there.exists():
            shutil.copyfile(path, there)
    return target

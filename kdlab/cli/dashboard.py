"""`kdlab dashboard`: the panels of a study as a web page without code."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from kdlab.cli.arguments import read_study_file
from kdlab.cli.lab import serve
from kdlab.cli.parsing import add_command
from kdlab.errors import ConfigError

_EPILOG = """\
The page has all panels of `study.lab()`: training, representations, probes, attention, logits, compare.
Each visitor has a process of their own, which ends when the page is closed; a training that was started
from the page goes on from its last checkpoint the next time.

Examples:
  kdlab dashboard runs/first                 the folder of a study, finished or not
  kdlab dashboard study.toml                 a study file, as for kdlab run
  kdlab dashboard runs/first --theme dark --port 9000 --no-browser
  kdlab dashboard runs/first -- --Voila.ip=0.0.0.0    the rest is handed to Voila

It needs Voila: pip install "kdlab[dashboards]"."""

_TEMPLATE = """\
{%- extends 'voila/templates/lab/index.html.j2' -%}
{%- block notebook_css -%}
{{ super().replace("https://cdn.jsdelivr.net/npm/", "data:text/css,") }}
{%- endblock notebook_css -%}
"""
_EXTENSIONS = [  # what widgets need; others have no place on the page
    "@jupyter-widgets/jupyterlab-manager",
    "@voila-dashboards/widgets-manager7",
    "@voila-dashboards/widgets-manager8",
    "anywidget",
]


def add(commands: Any) -> None:
    """Describe the command."""
    summary = "show a study's panels as a web page"
    command = add_command(commands, "dashboard", summary, dashboard_command, epilog=_EPILOG)
    command.add_argument("study", metavar="FOLDER|STUDY.toml", help="folder of a study, or a study file")
    command.add_argument(
        "--port", type=int, metavar="N", help="of the web server (default: 8866, or the next free one)"
    )
    command.add_argument(
        "--theme", choices=("light", "dark"), default="light", help="of the page (default: light)"
    )
    command.add_argument("--device", metavar="NAME", help="auto (default), cpu, cuda, cuda:1, mps")
    command.add_argument("--no-browser", action="store_true", help="only print the address")
    command.set_defaults(rest=[])


def dashboard_command(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C; Voila's exit status."""
    if importlib.util.find_spec("voila") is None:
        raise ConfigError('A dashboard needs Voila: pip install "kdlab[dashboards]".')
    code = study_code(Path(args.study), args.device)
    with tempfile.TemporaryDirectory(prefix="kdlab-dashboard-") as folder:
        notebook = write_page(Path(folder), code, Path(args.study))
        command = voila_command(notebook, args.port, args.theme, args.no_browser, args.rest)
        return serve(command, write_template(Path(folder)))


def study_code(path: Path, device: str | None) -> str:
    """Python that makes or opens the study.

    Raises:
        ConfigError: neither the folder of a study nor a study file.
    """
    more = "" if device is None else f", device={device!r}"
    if (path / "study.json").is_file():
        return f"study = kdlab.load_study({str(path.absolute())!r}{more})"
    if path.is_dir() or path.suffix != ".toml":
        raise ConfigError(
            f"{path} is neither the folder of a study nor a study file (.toml); kdlab run makes a study."
        )
    arguments = read_study_file(path)
    arguments["folder"] = str(Path(arguments["folder"]).absolute())
    return f"study = kdlab.Study(**{arguments!r}{more})"


def write_page(folder: Path, code: str, study: Path) -> Path:
    """The notebook that Voila shows: one cell with the lab."""
    import nbformat  # of JupyterLab

    cell = nbformat.v4.new_code_cell(f"import kdlab\n{code}\nstudy.lab()")
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    path = folder / f"{study.stem or 'study'}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel}), path)
    return path


def write_template(folder: Path) -> dict[str, str]:
    """Voila's own page without its links to a server of others; the environment in which it is found."""
    place = folder / "voila" / "templates" / "kdlab"
    place.mkdir(parents=True)
    (place / "conf.json").write_text('{"base_template": "lab"}', encoding="utf-8")
    (place / "index.html.j2").write_text(_TEMPLATE, encoding="utf-8")
    others = [os.environ["JUPYTER_PATH"]] if os.environ.get("JUPYTER_PATH") else []
    return {**os.environ, "JUPYTER_PATH": os.pathsep.join([str(folder), *others])}


def voila_command(
    notebook: Path, port: int | None, theme: str, no_browser: bool, options: list[str]
) -> list[str]:
    """The command that serves `notebook`, with this environment's Python."""
    command = [sys.executable, "-m", "voila", str(notebook), f"--theme={theme}", "--template=kdlab"]
    command.append(f"--VoilaConfiguration.extension_allowlist={_EXTENSIONS}")
    command += [] if port is None else [f"--port={port}"]
    command += ["--no-browser"] if no_browser else []
    return command + options

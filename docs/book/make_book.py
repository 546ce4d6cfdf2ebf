"""Make the book: the notebooks as they ran, a card of each method, the reference. `make book`.

Usage: python docs/book/make_book.py [--fast] [--out build/book] [--notebooks 00 09 ...]

The notebooks are run from first to last cell in a folder of their own, which takes some minutes each
(`--fast`: their shortest versions, for a trial); one that was run before, with the same text and the same
kdlab, is not run again. Then Sphinx writes the pages into OUT/html. Nothing is loaded from another server,
neither now nor by the pages.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import kdlab

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MODULES = (
    "kdlab", "kdlab.data", "kdlab.models", "kdlab.methods", "kdlab.losses", "kdlab.training", "kdlab.probes",
    "kdlab.probes.metrics", "kdlab.plots", "kdlab.panels", "kdlab.exercises", "kdlab.report",
)  # fmt: skip
PICTURES = {  # what stands in for a panel, by the name of its class
    "Lab": "lab", "StudyPanel": "panel", "RepresentationPanel": "representations", "ProbePanel": "probes",
    "AttentionPanel": "attention", "LogitPanel": "logits", "ComparePanel": "compare",
}  # fmt: skip
PLOTLY, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"


def main(argv: Sequence[str] | None = None) -> int:
    """Make the book; 0 if it was made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="run the shortest version of each notebook")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "book", metavar="FOLDER")
    parser.add_argument("--notebooks", nargs="+", metavar="NN", help="only these, by how their names begin")
    args = parser.parse_args(argv)
    notebooks = chosen(sorted((ROOT / "notebooks").glob("*.ipynb")), args.notebooks)
    source = args.out / "source"
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"{args.out} cannot be a folder ({error.strerror}); name another with --out.")
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(HERE, source, ignore=shutil.ignore_patterns("make_book.py", "__pycache__"))
    for picture in (ROOT / "docs").glob("*.webp"):
        shutil.copy(picture, source / "_static")
    write_plotly(source / "_static")
    (source / "notebooks").mkdir()
    for path in notebooks:
        book = run(path, args.out / "run", args.fast)
        showable(book)
        nbformat.write(book, source / "notebooks" / path.name)
    write_texts(source)
    write_methods(source / "methods")
    write_reference(source / "api")
    return build(source, args.out / "html")


def chosen(notebooks: list[Path], starts: Sequence[str] | None) -> list[Path]:
    """The notebooks whose names begin so; all of them for None."""
    if starts is None:
        return notebooks
    found = [path for path in notebooks if path.name.startswith(tuple(starts))]
    if not found:
        there = ", ".join(path.stem for path in notebooks)
        sys.exit(f"No notebook begins with {' or '.join(starts)}; there are {there}.")
    return found


def run(path: Path, folder: Path, fast: bool) -> Any:
    """The notebook with its outputs, from an earlier run where nothing has changed since."""
    book = nbformat.read(path, as_version=4)
    code = sorted((ROOT / "kdlab").rglob("*.py"))
    parts = [path.read_bytes(), *(file.read_bytes() for file in code), b"fast" if fast else b""]
    kept = folder / f"{path.stem}-{hashlib.sha256(b''.join(parts)).hexdigest()[:12]}.ipynb"
    if kept.exists():
        print(f"{path.stem}: as it was run before")
        return nbformat.read(kept, as_version=4)
    print(f"{path.stem}: running ...", end=" ", flush=True)
    work = folder / path.stem
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    os.environ["KDLAB_FAST"] = "1" if fast else "0"
    os.environ["KDLAB_ANSWERS"] = "off"  # nobody's answers go into the book
    start = time.monotonic()
    try:
        client = NotebookClient(
            book, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(work)}}
        )
        client.execute()
    except CellExecutionError as error:
        sys.exit(f"\n{path.name} cannot go into the book, because a cell of it failed:\n{error}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for old in folder.glob(f"{path.stem}-*.ipynb"):
        old.unlink()
    nbformat.write(book, kept)
    print(f"{time.monotonic() - start:.0f} s")
    return book


def showable(book: Any) -> None:
    """Outputs as a page without a kernel can show them: figures for book.js, pictures of panels."""
    for cell in book.cells:
        if cell.cell_type == "markdown":  # JupyterLab's anchors, as Sphinx makes them
            cell.source = re.sub(r"\]\(#([^)]+)\)", lambda link: f"](#{anchor(link[1])})", cell.source)
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            bundle = output.get("data", {})
            if PLOTLY in bundle:
                text = json.dumps(bundle.pop(PLOTLY)).replace("</", "<\\/")
                figure = json.loads(text)
                height = figure.get("layout", {}).get("height", 450)
                alt = figure.get("layout", {}).get("meta", {}).get("summary", "")
                output["data"] = {"text/html": figure_html(text, height, alt)}
            elif WIDGET in bundle:
                bundle.pop(WIDGET)
                bundle.setdefault("text/html", panel_html(bundle.get("text/plain", "")))


def anchor(name: str) -> str:
    """The anchor of a heading in Sphinx, from that in JupyterLab."""
    return re.sub(r"[^\w\- ]", "", unquote(name).lower().replace(" ", "-"))


def figure_html(text: str, height: int, alt: str) -> str:
    """A place for book.js to draw the figure in."""
    from html import escape

    head = f'<div class="kd-figure" role="img" aria-label="{escape(alt)}" style="min-height:{height}px">'
    return f'{head}<script type="application/json">{text}</script></div>'


def panel_html(plain: str) -> str:
    """What a reader sees where a panel would be."""
    name = re.match(r"\w*", plain).group()  # type: ignore[union-attr]
    said = "<p>Here stands a live panel when you run the notebook.</p>"
    picture = PICTURES.get(name)
    if picture:
        said += f'<img src="../_static/{picture}.webp" alt="The panel, in another run">'
    return f'<div class="kd-live">{said}</div>'


def write_plotly(folder: Path) -> None:
    """plotly.js, once for all pages."""
    from plotly.offline import get_plotlyjs

    (folder / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")


def write_texts(source: Path) -> None:
    """Texts of the project that are pages of the book too."""
    for name, target in (
        ("CHANGELOG", "changelog"),
        ("CONTRIBUTING", "contributing"),
        ("docs/methods_on_digits", None),
    ):
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8")
        (source / f"{target or Path(name).name}.md").write_text(text, encoding="utf-8")


def write_methods(folder: Path) -> None:
    """A page for each method card, and the table of all."""
    folder.mkdir()
    rows = []
    for row in kdlab.methods.table():
        key, title = row["key"], row["title"]
        card = kdlab.methods.describe(key)._repr_html_()
        card = re.sub(r"<pre>.*\n=+\n", "<pre>", card)  # the page has a heading of its own
        page = f'# {title}\n\n~~~{{raw}} html\n<div class="kd-card">{card}</div>\n~~~\n'
        (folder / f"{key}.md").write_text(page, encoding="utf-8")
        rows.append(
            f"| [{title}](methods/{key}.md) | `{key}` | {row['family']} | {row['paper']} | {row['status']} |"
        )
    pages = "\n".join(f"methods/{row['key']}" for row in kdlab.methods.table())
    text = (
        "# Method cards\n\nWhat each method computes, where that is from, and what is ours. "
        '`Study(students={"mine": key})` trains with it.\n\n'
        "| method | key | family | paper | status |\n|---|---|---|---|---|\n" + "\n".join(rows)
        + f"\n\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"
    )  # fmt: skip
    folder.with_suffix(".md").write_text(text, encoding="utf-8")


def write_reference(folder: Path) -> None:
    """A page for each public module: a table of its names, then each with its docstring."""
    folder.mkdir()
    seen: set[int] = set()
    for number, name in enumerate(MODULES):
        module = importlib.import_module(name)
        names = [n for n in module.__all__ if not isinstance(getattr(module, n), type(kdlab))]
        names = [n for n in names if not n.startswith("__")]
        listed = "\n".join(f"   ~{name}.{n}" for n in names if callable(getattr(module, n)))
        text = (
            f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n   :no-members:\n\n"
            f".. currentmodule:: {name}\n\n.. autosummary::\n   :nosignatures:\n\n{listed}\n\n"
        )
        for n in names:
            thing = getattr(module, n)
            if id(thing) in seen:  # described with the module above
                continue
            seen.add(id(thing))
            if not callable(thing):
                value = (
                    repr(thing) if len(repr(thing)) < 300 else f"{type(thing).__name__}, {len(thing)} entries"
                )
                text += f".. py:data:: {name}.{n}\n\n   ::\n\n      {value}\n\n"
                continue
            kind, members = ("class", "\n   :members:") if isinstance(thing, type) else ("function", "")
            text += f".. auto{kind}:: {name}.{n}{members}\n\n"
        (folder / f"{number:02d}_{name}.rst").write_text(text, encoding="utf-8")


def build(source: Path, html: Path) -> int:
    """Call Sphinx, which fails on any warning; in a process of its own, as autodoc changes what it reads."""
    options = ["-q", "-W", "--keep-going", "-b", "html"]
    status = subprocess.call([sys.executable, "-m", "sphinx", *options, str(source), str(html)])
    if status == 0:
        print(f"The book: {html / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main())

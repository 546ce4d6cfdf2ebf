"""The book: notebooks as they ran, method cards, the reference; all in the folder, nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kdlab

pytest.importorskip("sphinx", reason="the book needs: pip install 'kdlab[book]'")
pytest.importorskip("myst_nb", reason="the book needs: pip install 'kdlab[book]'")
nbformat = pytest.importorskip("nbformat")

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "book" / "make_book.py"
CELLS = [
    ("markdown", "# A page\n\n$$\\sum_i p_i$$\n\nIt has a [link](#2.-The-loss-of-KD), and $\\tau^2$ inside."),
    ("code", "import kdlab.exercises as e\ne.claim('a claim', [1.0, 2.0])"),
    ("code", "import plotly.express as px\npx.line(y=[1, 2], title='a</script>')"),
    ("code", "import ipywidgets\nclass StudyPanel(ipywidgets.VBox): pass\nStudyPanel()"),
    ("markdown", "## 2. The loss of KD\n\nText."),
]


def loaded(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"book_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def maker() -> Any:
    return loaded(SCRIPT)


def notebook() -> Any:
    new = nbformat.v4
    return new.new_notebook(
        cells=[
            new.new_markdown_cell(text) if kind == "markdown" else new.new_code_cell(text)
            for kind, text in CELLS
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what its tools say of each other
def test_the_whole_book(maker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sphinx, which fails on any warning, makes it of a notebook, all cards and the whole reference."""
    page = tmp_path / "01_page.ipynb"
    nbformat.write(notebook(), page)
    monkeypatch.setattr(maker, "chosen", lambda notebooks, starts: [page])
    assert maker.main(["--fast", "--out", str(tmp_path / "book")]) == 0
    html = tmp_path / "book" / "html"
    pages = sorted(html.rglob("*.html"))
    elsewhere = re.compile(r"<(?:script|link|img|iframe|source)[^>]*(?:src|href)=\"(?:https?:)?//[^\"]*")
    for one in pages:
        found = [tag for tag in elsewhere.findall(one.read_text()) if 'rel="canonical"' not in tag]
        assert not found, f"{one.name} asks another server: {found}"
    text = (html / "notebooks" / "01_page.html").read_text()
    assert text.count("<math") == 2
    assert 'href="#the-loss-of-kd"' in text or 'href="#2-the-loss-of-kd"' in text
    assert "a claim" in text and "above 0 in 2 of 2 seeds" in text
    assert "a<\\/script>" in text, "text of a figure cannot end the script that holds it"
    assert "_static/panel.webp" in text and (html / "_static" / "panel.webp").exists()
    assert (html / "_static" / "plotly.min.js").stat().st_size > 1e6
    for name in kdlab.methods.names():
        assert (html / "methods" / f"{name}.html").exists()
    reference = "".join(one.read_text() for one in (html / "api").glob("*.html"))
    for module in maker.MODULES:
        public = importlib.import_module(module)
        for name in public.__all__:
            if callable(getattr(public, name)):
                assert re.search(rf'id="[\w.]*\.{name}"', reference), (
                    f"{module}.{name} is not in the reference"
                )
    # the same notebook and the same code are not run again
    kept = list((tmp_path / "book" / "run").glob("*.ipynb"))
    monkeypatch.setattr(maker, "NotebookClient", None)
    assert maker.run(page, tmp_path / "book" / "run", True).cells[1].outputs
    assert kept == list((tmp_path / "book" / "run").glob("*.ipynb"))


def test_a_notebook_that_fails_is_named(maker: Any, tmp_path: Path) -> None:
    broken = notebook()
    broken.cells[1].source = "1 / 0"
    page = tmp_path / "02_broken.ipynb"
    nbformat.write(broken, page)
    with pytest.raises(SystemExit, match=r"02_broken.ipynb cannot go into the book(.|\n)*ZeroDivisionError"):
        maker.run(page, tmp_path / "run", True)
    assert not list((tmp_path / "run").glob("*.ipynb")), "and is tried again the next time"


def test_an_unknown_notebook_is_named() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--notebooks", "77"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "No notebook begins with 77; there are 00_start_here" in done.stderr


def test_a_file_is_no_folder_for_the_book(
    maker: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit):
        maker.main(["--notebooks", "00", "--out", str(tmp_path / "file")])
    assert "name another with --out" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_every_formula_of_the_notebooks_can_be_drawn() -> None:
    """Without a script, as MathML; a command that the converter does not know would stand there as text."""
    conf = loaded(SCRIPT.with_name("conf.py"))
    for twin in sorted((SCRIPT.parents[2] / "notebooks" / "text").glob("*.md")):
        text = re.sub(r"```.*?```|`[^`]*`", "", twin.read_text(encoding="utf-8"), flags=re.DOTALL)
        for block, inline in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", text, flags=re.DOTALL):
            assert "<math" in conf.formula(block or inline), twin.name
    with pytest.raises(Exception, match="cannot be written as MathML"):
        conf.formula(r"\Big\{ x \Big\}")

"""Notebooks: each runs from its first cell to its last, and is like its twin in text."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TUTORIALS = [path for path in NOTEBOOKS if not path.name.startswith("00")]  # 00 is a tour of the panels
LONGEST = 24  # lines of a cell: long code lives in the package

every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
tutorials = pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[str]:
    """The sources of the cells of a kind."""
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def calls(path: Path, *names: str) -> list[ast.Call]:
    """The calls of these functions."""
    tree = ast.parse("\n".join(re.sub(r"(?m)^[%!].*$", "", cell) for cell in cells(path, "code")))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [node for node in found if getattr(node.func, "attr", getattr(node.func, "id", "")) in names]


def key(call: ast.Call) -> Any:
    """The first argument, where it is written out."""
    return call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None


@every
def test_the_twin_in_text_is_the_same(path: Path) -> None:
    """Changes are read there: `jupytext --sync notebooks/*.ipynb` keeps both alike."""
    jupytext = pytest.importorskip("jupytext")
    twin = FOLDER / "text" / f"{path.stem}.md"
    assert twin.exists(), f"{path.name} has no twin; jupytext --sync {path.name} makes it"
    ours, theirs = nbformat.read(path, as_version=4).cells, jupytext.read(twin).cells
    assert [(c.cell_type, c.source) for c in ours] == [(c.cell_type, c.source) for c in theirs]
    assert len(list((FOLDER / "text").glob("*.md"))) == len(NOTEBOOKS)


@tutorials
def test_a_tutorial_says_where_it_leads(path: Path) -> None:
    """Goals, time, contents whose links lead to a heading, a summary, and what to read next."""
    texts = cells(path, "markdown")
    first = texts[0]
    assert first.startswith("# ")
    for part in ("Goals", "Time", "Contents"):
        assert f"**{part}" in first, f"the first cell has no {part}"
    headings = re.findall(r"(?m)^#{2,3} (.+)$", "\n".join(texts))
    anchors = {heading.strip().replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#([^)]+)\)", "\n".join(texts))
    assert len(links) >= 5
    assert not [link for link in links if link not in anchors]
    assert {"Summary", "Further reading"} <= {heading.strip() for heading in headings}


@tutorials
def test_a_tutorial_asks(path: Path) -> None:
    """Three exercises that check themselves, two predictions that are looked at again, and claims."""
    from kdlab import exercises

    asked = {key(call) for call in calls(path, "check", "check_value")}
    of_catalogue = set(exercises.names(notebook=int(path.name[:2])))
    assert len(of_catalogue) >= 3
    assert of_catalogue <= asked, "an exercise of the catalogue is in no notebook"
    expected, revisited = (sorted(map(key, calls(path, name))) for name in ("predict", "revisit"))
    assert len(expected) >= 2
    assert expected == revisited
    assert all(one.startswith(path.name[:2] + "-") for one in expected)
    assert calls(path, "claim"), "what the notebook says about its run is not computed"


@every
def test_code_is_short(path: Path) -> None:
    """Long code lives in the package."""
    assert not [cell for cell in cells(path, "code") if len(cell.splitlines()) > LONGEST]


@pytest.mark.slow
@every
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its shortest version; a cell that raises fails the test, and so does a claim that does not hold."""
    monkeypatch.setenv("KDLAB_FAST", "1")
    monkeypatch.setenv("KDLAB_STRICT", "1")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs, "the notebook shows nothing"
    assert not [o for o in outputs if o.output_type == "error"]
    complaints = [o.text for o in outputs if o.get("name") == "stderr" and "Warning" in o.text]
    assert not complaints, "a learner would see warnings"

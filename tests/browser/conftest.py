"""What the tests in a browser share: one JupyterLab and one trained study."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from jupyter_lab import JupyterLab, write_notebook
from page import LabPage

from tests.small_study import small


@pytest.fixture(scope="session")
def server(browser_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterLab]:
    """JupyterLab; every test has a folder of its own in it. Notebooks take their shortest form."""
    with JupyterLab(tmp_path_factory.mktemp("lab"), {"KDLAB_FAST": "1"}) as running:
        yield running


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a study of the digits: two seeds, kept after epochs 1 to 3, weights after 1 and 3."""
    folder = tmp_path_factory.mktemp("trained")
    study = small(folder, seeds=2, snapshots=[1, 2, 3], keep=[1], probe_size=200).fit(progress=False)
    return study.folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures of pages go: to the folder named by KDLAB_SCREENSHOTS, else to the test's own."""
    folder = Path(os.environ.get("KDLAB_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def open_notebook(server: JupyterLab, browser: Any, tmp_path: Path) -> Iterator[Callable[..., LabPage]]:
    """`open_notebook(cells or path, height=...)` shows it in Lab; its kernel ends with the test."""
    pages: list[LabPage] = []
    folder = server.folder / tmp_path.name

    def open_(content: Sequence[str] | Path, **size: int) -> LabPage:
        folder.mkdir(exist_ok=True)
        if isinstance(content, Path):
            notebook = Path(shutil.copy(content, folder))
        else:
            notebook = write_notebook(folder / "notebook.ipynb", [cell.strip() for cell in content])
        pages.append(LabPage(browser, server.url, **size))
        pages[-1].open(f"{folder.name}/{notebook.name}")
        return pages[-1]

    server.forget_theme()
    yield open_
    for page in pages:
        page.close()

"""What all tests share: one thread, fixed seeds, a cache of their own, no network, fast tests first."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
CHECKOUT = TESTS.parent

# Processes that tests start run this checkout, without a network, with one thread each.
_PATHS = [str(TESTS / "offline"), str(CHECKOUT), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _PATHS))
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nothing of the user's is read or changed; teachers are trained once for all tests (and all workers).
_OWNER = "PYTEST_XDIST_WORKER" not in os.environ
_SCRATCH = Path(tempfile.mkdtemp(prefix="kdlab-tests-") if _OWNER else os.environ["KDLAB_TEST_SCRATCH"])
os.environ["KDLAB_TEST_SCRATCH"] = str(_SCRATCH)
os.environ["KDLAB_CACHE"] = str(_SCRATCH / "cache")
os.environ["IPYTHONDIR"] = str(_SCRATCH / "ipython")
os.environ["JUPYTER_CONFIG_DIR"] = str(_SCRATCH / "jupyter")

sys.path[:0] = [str(TESTS / "offline"), str(TESTS / "browser")]
import sitecustomize as offline  # noqa: E402
from page import find_browser, launch  # noqa: E402

if not hasattr(offline, "attempts"):  # the environment has a sitecustomize of its own, imported before
    _spec = importlib.util.spec_from_file_location(
        "kdlab_tests_offline", TESTS / "offline" / "sitecustomize.py"
    )
    assert _spec is not None and _spec.loader is not None
    offline = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(offline)


def pytest_configure(config: pytest.Config) -> None:
    """Make property tests repeatable and free of deadlines: the machine may be busy."""
    try:
        from hypothesis import settings
    except ImportError:
        return
    settings.register_profile("kdlab", deadline=None, derandomize=True)
    settings.load_profile("kdlab")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the cache of this run."""
    if _OWNER:
        shutil.rmtree(_SCRATCH, ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Fast tests first, then slow ones, then the browser; skip what this machine cannot run."""

    def rank(item: pytest.Item) -> int:
        return 2 if item.get_closest_marker("browser") else 1 if item.get_closest_marker("slow") else 0

    items.sort(key=rank)  # stable: the order within files stays
    for item in items:
        reason = _missing(item)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Several processes: tests of a file stay together, as they share what it makes; notebooks do not.

    Neither `--dist loadfile`, for which all notebooks are one file, nor `--dist loadgroup`, whose groups
    pytest-xdist 3.8 silently forgets under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if "::test_notebook_runs[" in nodeid else nodeid.partition("::")[0]

    config.option.loadscopereorder = False  # the order of collection: what is slow comes last
    return Files(config, log)


def _missing(item: pytest.Item) -> str:
    if item.get_closest_marker("browser"):
        if find_browser() is None:
            return "no Chromium here (Debian: apt-get install chromium; elsewhere set KDLAB_CHROMIUM)"
        if importlib.util.find_spec("playwright") is None:
            return "the package playwright is not installed"
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            return "no CUDA device here"
    return ""


@pytest.fixture(autouse=True)
def same_start() -> Iterator[None]:
    """Every test begins with the same random numbers, and fails if anything reached for the network."""
    import numpy as np
    import torch

    torch.set_num_threads(1)  # results do not depend on the machine, and processes do not fight
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)  # torch.manual_seed takes a stack trace for each absent device
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)
    offline.attempts.clear()
    yield
    assert not offline.attempts, f"the test reached for the network: {offline.attempts}"


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder of this checkout."""
    return CHECKOUT


@pytest.fixture(scope="session")
def browser_path() -> str:
    """Path of the Chromium to drive; skips where there is none."""
    found = find_browser()
    if found is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium; elsewhere set KDLAB_CHROMIUM)")
    return found


@pytest.fixture(scope="session")
def browser(browser_path: str) -> Iterator[Any]:
    """Chromium; every test opens pages of its own. A process can have but one Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = launch(playwright, browser_path)
        yield opened
        opened.close()

"""Every public name is explained by an example, and every example in a docstring does what it says.

What an example begins with is told in the docstring of `kdlab`: kdlab, torch and np are imported, and there
are a small trained `study` and a seeded `generator`.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import kdlab
from kdlab.data import augment
from kdlab.exercises import answers
from kdlab.methods import registry
from tests.small_study import small

PACKAGE = Path(kdlab.__file__).parent
Documented = tuple[str, int, str]
"""Name, line and text of a docstring."""


# ---- what is public ---------------------------------------------------------------------------------


def public_modules() -> Iterator[ModuleType]:
    """kdlab, the packages in it that tell their names, and the modules that those name."""
    found = {"kdlab": kdlab}
    for info in pkgutil.walk_packages(kdlab.__path__, "kdlab."):
        if info.ispkg and "catalogue" not in info.name:
            found[info.name] = importlib.import_module(info.name)
    for module in list(found.values()):
        for name in getattr(module, "__all__", ()):
            if inspect.ismodule(part := getattr(module, name)):
                found[part.__name__] = part
    yield from found.values()


def public_names() -> dict[str, Any]:
    """Functions and classes by the shortest name under which a user finds them; each once, no errors."""
    names: dict[str, Any] = {}
    known: set[int] = set()
    for module in sorted(public_modules(), key=lambda m: m.__name__.count(".")):
        own = [n for n, v in vars(module).items() if n[0] != "_" and _made_in(v, module)]
        for name in getattr(module, "__all__", own):
            value = getattr(module, name)
            if id(value) in known or not (inspect.isclass(value) or inspect.isroutine(value)):
                continue
            if inspect.isclass(value) and issubclass(value, BaseException):
                continue
            known.add(id(value))
            names[f"{module.__name__}.{name}"] = value
    return names


def _made_in(value: Any, module: ModuleType) -> bool:
    return getattr(value, "__module__", None) == module.__name__ and callable(value)


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that kdlab's own class defines itself."""
    for name, value in vars(cls).items():
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if name[0] != "_" and (inspect.isfunction(function) or isinstance(function, property)):
            yield name, getattr(cls, name)


def test_every_public_name_has_an_example() -> None:
    names = public_names()
    assert len(names) > 300
    bare = [name for name, value in names.items() if ">>>" not in (value.__doc__ or "")]
    assert not bare, f"{len(bare)} of {len(names)} public names lack an example: {', '.join(bare)}"


def test_every_public_method_has_a_docstring() -> None:
    classes = {name: value for name, value in public_names().items() if inspect.isclass(value)}
    bare = [
        f"{c}.{n}" for c, cls in classes.items() for n, value in members(cls) if not inspect.getdoc(value)
    ]
    assert not bare, f"{len(bare)} methods lack a docstring: {', '.join(bare)}"


# ---- the examples -----------------------------------------------------------------------------------


def docstrings(path: Path) -> Iterator[Documented]:
    """All docstrings of a file that hold an example, wherever they stand."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text and ">>>" in text:
                yield getattr(node, "name", path.stem), node.body[0].lineno, text


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> kdlab.Study:
    return small(tmp_path_factory.mktemp("docstrings")).fit(progress=False)


@pytest.fixture
def namespace(
    study: kdlab.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], dict[str, Any]]:
    """What an example begins with; those of a file work in a folder of their own and leave nothing behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDLAB_ANSWERS", "off")
    monkeypatch.setattr(answers, "_MEMORY", {})
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    monkeypatch.setattr(augment, "_REGISTRY", dict(augment._REGISTRY))

    def fresh() -> dict[str, Any]:
        np.random.seed(0)
        generator = torch.Generator().manual_seed(torch.manual_seed(0).initial_seed())
        return {"kdlab": kdlab, "torch": torch, "np": np, "study": study, "generator": generator}

    return fresh


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_examples_do_what_they_say(path: Path, namespace: Callable[[], dict[str, Any]]) -> None:
    runner = doctest.DocTestRunner(verbose=False)
    said: list[str] = []
    for name, line, text in docstrings(path):
        document = doctest.DocTestParser().get_doctest(text, namespace(), name, str(path), line)
        for example in document.examples:
            skipped = example.options.get(doctest.SKIP)
            assert not skipped or example.source.count("#") > 1, f"{name}: say why it is skipped"
        runner.run(document, out=said.append)
    assert runner.tries, "no example was found"
    assert not runner.failures, "".join(said)

"""The project as a whole: what it declares, what it ships, and which part may know which."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import kdlab

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "kdlab"
MODULES = sorted(PACKAGE.rglob("*.py"))
CONDA_NAMES = {"torch": "pytorch"}


def tracked_files() -> list[Path]:
    """Files that git knows or would add; the test is skipped outside a checkout."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in listed if name and (path := ROOT / name).is_file()]


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


# ---- what is declared -------------------------------------------------------------------------------


def split_requirement(text: str) -> tuple[str, frozenset[str]]:
    match = re.match(r"[A-Za-z0-9_.-]+", text)
    assert match, text
    name, bounds = match.group(), text[match.end() :]
    return re.sub(r"[-_.]+", "-", name).lower(), frozenset(b.strip() for b in bounds.split(",") if b.strip())


def test_conda_and_pip_ask_for_the_same() -> None:
    project = pyproject()["project"]
    wanted = dict(split_requirement(text) for text in project["dependencies"])
    wanted = {CONDA_NAMES.get(name, name): bounds for name, bounds in wanted.items()}
    wanted["python"] = frozenset(project["requires-python"].split(","))
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    given = dict(split_requirement(text) for text in plain)
    assert given.pop("pip") == frozenset()
    assert given == wanted
    assert [entry for entry in environment["dependencies"] if isinstance(entry, dict)] == [{"pip": ["-e ."]}]


def test_dependencies_are_loose_but_bounded_below() -> None:
    for text in pyproject()["project"]["dependencies"]:
        name, bounds = split_requirement(text)
        assert any(bound.startswith(">=") for bound in bounds), f"{name} has no lower bound"
        assert not any(bound.startswith("==") for bound in bounds), f"{name} is pinned"


def test_changelog_tells_of_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## Unreleased" in text
    assert re.search(rf"^##+ \[?{re.escape(kdlab.__version__)}\b", text, re.MULTILINE)


def test_every_marker_in_use_is_declared() -> None:
    declared = {text.split(":")[0] for text in pyproject()["tool"]["pytest"]["ini_options"]["markers"]}
    assert declared == {"slow", "gpu", "browser"}


def test_makefile_targets_answer_a_dry_run() -> None:
    for target in ("help", "demo", "lab", "test", "lint", "bench", "clean"):
        result = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, f"{target}: {result.stderr}"
    assert (
        "kdlab demo"
        in subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True).stdout
    )


@pytest.mark.slow
def test_the_method_in_contributing_trains(tmp_path: Path) -> None:
    """The example is run as it stands there, and trains next to plain cross entropy."""
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL
    )
    script = tmp_path / "example.py"
    script.write_text(
        f"""{code}
import kdlab
study = kdlab.Study(
    teacher=kdlab.models.build("resnet8", num_classes=10, in_channels=1), student="resnet8",
    students={{"alone": "ce", "mine": "logit_mse", "both": "logit_mse + at"}},
    labels_per_class=4, epochs=1, probe_size=40, folder="study", device="cpu")
study.fit(progress=False)
steps, values = study.record.series("mine", "term/mse")
assert len(steps) == study.steps_per_epoch and (values > 0).all(), values
print(study.table().to_string())
"""
    )
    result = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "mine" in result.stdout


# ---- what is shipped --------------------------------------------------------------------------------


def test_notebooks_hold_no_outputs() -> None:
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            assert not cell.get("outputs"), f"{path.name}, cell {number}: run nbstripout {path.name}"
            assert cell.get("execution_count") is None, (
                f"{path.name}, cell {number}: run nbstripout {path.name}"
            )


def test_no_large_file_is_tracked() -> None:
    large = [
        f"{p.relative_to(ROOT)}: {p.stat().st_size:,} bytes"
        for p in tracked_files()
        if p.stat().st_size > 1e6
    ]
    assert not large, large


def test_no_study_or_data_set_is_tracked() -> None:
    names = {str(path.relative_to(ROOT)) for path in tracked_files()}
    assert not [name for name in names if name.startswith("runs/")]
    assert {name for name in names if name.startswith("data/")} <= {"data/README.md"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_says_what_it_is_for_and_stays_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source)), "no docstring at the top of the module"
    assert source.count("\n") <= 400, "too long to read in one sitting; split it"


# ---- who may import whom ----------------------------------------------------------------------------

# What a part may import of kdlab when it is loaded. Imports inside functions are checked below.
MAY_IMPORT = {
    "errors": set(),
    "losses": {"errors"},
    "data": {"errors"},
    "models": {"errors"},
    "methods": {"errors", "losses", "models"},
    "training": {"errors", "methods", "data", "models", "losses"},
    "probes": {"errors", "models", "data", "losses"},
    "plots": {"errors", "probes"},
    "exercises": {"errors", "losses", "probes", "methods"},
    "report": {"errors", "probes", "plots", "models", "data", "methods", "training"},
}
# What a bare GPU server has: enough to train and record.
LIGHT = {"torch", "numpy", "safetensors", "kdlab"} | set(sys.stdlib_module_names)
TRAINING_PATH = {"errors", "losses", "data", "models", "methods", "training"}
# The only places that may reach for panels, and only inside a function.
MAY_OPEN_PANELS = {"training/study.py"}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Names a file imports, "kdlab.data.catalog" or "torch", and whether at load time.

    `if TYPE_CHECKING:` blocks are left out: they cost nothing and load nothing.
    """
    package = ("kdlab", *path.relative_to(PACKAGE).parts[:-1])

    def visit(node: ast.AST, loading: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, loading) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            if module == "kdlab":
                yield from ((f"kdlab.{alias.name}", loading) for alias in node.names)
            else:
                yield module, loading
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                yield from visit(child, loading)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, loading and not inside)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), True)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_dependencies_point_one_way(part: str) -> None:
    wrong = []
    for path in MODULES:
        if part_of(path) != part:
            continue
        for name, loading in imports(path):
            pieces = name.split(".")
            if loading and pieces[0] == "kdlab" and len(pieces) > 1:
                target = pieces[1]
                if target in MAY_IMPORT | {"panels": 0, "cli": 0} and target not in MAY_IMPORT[part] | {part}:
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, wrong


def test_training_path_needs_little() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in MODULES
        if part_of(path) in TRAINING_PATH
        for name, loading in imports(path)
        if loading and name.split(".")[0] not in LIGHT
    ]
    assert not wrong, wrong


def test_nothing_needs_panels() -> None:
    wrong = []
    for path in MODULES:
        if part_of(path) in ("panels", "__init__"):
            continue
        for name, loading in imports(path):
            if name.startswith("kdlab.panels") and (
                loading or str(path.relative_to(PACKAGE)) not in MAY_OPEN_PANELS
            ):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, wrong


def loaded_after(statement: str) -> set[str]:
    """Top-level packages in a fresh Python after `statement`."""
    code = f"import sys; {statement}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


SLOW = {
    "plotly",
    "captum",
    "ipywidgets",
    "anywidget",
    "pandas",
    "sklearn",
    "scipy",
    "torchvision",
    "timm",
    "matplotlib",
}


@pytest.mark.parametrize(
    "statement",
    [
        "import kdlab",
        "import kdlab; kdlab.Study; kdlab.data; kdlab.models; kdlab.methods; kdlab.losses",
        "import kdlab; kdlab.probes; kdlab.plots",
        "import kdlab; kdlab.exercises",
    ],
    ids=["package", "training", "probes", "exercises"],
)
def test_imports_stay_quick(statement: str) -> None:
    assert not loaded_after(statement) & SLOW


def test_the_readme_lists_the_methods_as_they_describe_themselves() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from make_tables import with_table
    finally:
        sys.path.pop(0)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table(readme) == readme, "run: python docs/make_tables.py"
    assert readme.count("\n| `") == len(kdlab.methods.names())

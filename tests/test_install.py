"""`.ci/install.py`: what make runs first. Real environments and real pip, a tiny project, no network."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / ".ci" / "install.py"

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "tiny"
version = "{version}"

[tool.other]
setting = "{setting}"
"""

# A build backend of a few lines: an editable install is one .pth file that names the checkout.
BACKEND = """
import os, zipfile

def _write(folder, version="1"):
    name = f"tiny-{version}-py3-none-any.whl"
    info = f"tiny-{version}.dist-info"
    files = {
        "tiny.pth": os.getcwd(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\\nName: tiny\\nVersion: {version}\\n"
                            "Provides-Extra: test\\nProvides-Extra: dev\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{n},,\\n" for n in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
    return name

def build_editable(folder, settings=None, metadata=None):
    if os.path.exists("fail"):
        raise RuntimeError("the project said no")
    return _write(folder)

build_wheel = build_editable
"""


@pytest.fixture(scope="module")
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kdlab_ci_install", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_project(folder: Path, setting: str = "", version: str = "1") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "pyproject.toml").write_text(PROJECT.format(setting=setting, version=version))
    (folder / "backend.py").write_text(BACKEND)
    (folder / "tiny.py").write_text(f"place = {str(folder)!r}")
    return folder


def run_install(project: Path, environment: Path, *extras: str) -> subprocess.CompletedProcess[str]:
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    variables |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, str(SCRIPT), str(environment), *extras]
    return subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True)


def imported_from(environment: Path) -> str:
    command = [str(environment / "bin" / "python"), "-c", "import tiny; print(tiny.place)"]
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, env=variables).stdout.strip()


@pytest.mark.slow
def test_an_environment_is_made_reused_pointed_elsewhere_and_mended(tmp_path: Path) -> None:
    first, second = make_project(tmp_path / "first"), make_project(tmp_path / "second")
    environment = tmp_path / "deep" / "env"

    made = run_install(first, environment)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "Making the environment" in made.stdout
    assert imported_from(environment) == str(first)

    assert run_install(first, environment).stdout == ""  # nothing to do, nothing done

    make_project(first, setting="changed")  # settings of tools do not touch the environment
    assert run_install(first, environment).stdout == ""

    pointed = run_install(second, environment)
    assert pointed.stdout.startswith("Pointing")
    assert imported_from(environment) == str(second)
    assert run_install(first, environment).stdout.startswith("Pointing")

    extras = run_install(first, environment, "test", "dev")
    assert extras.stdout.startswith("Installing")
    assert json.loads((environment / "kdlab.json").read_text())["extras"] == ["dev", "test"]
    assert run_install(first, environment, "test").stdout == ""
    assert run_install(first, environment).stdout == ""

    make_project(first, version="2")  # new requirements
    (first / "fail").write_text("")
    failed = run_install(first, environment, "test")
    assert failed.returncode == 1
    assert "the project said no" in failed.stdout + failed.stderr
    assert "the installation failed" in failed.stderr
    assert "Traceback (most recent call last)\n" not in failed.stderr.split("make:")[-1]
    assert not (environment / "kdlab.json").exists()  # a failed installation does not pass for a whole one
    (first / "fail").unlink()
    assert run_install(first, environment, "test").stdout.startswith("Installing")

    (environment / "bin" / "python").unlink()
    (environment / "bin" / "python").write_text("no program")
    (environment / "bin" / "python").chmod(0o755)
    broken = run_install(first, environment)
    assert broken.returncode == 1
    assert f"remove {environment}" in broken.stderr


def test_an_old_python_is_refused_with_a_remedy(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(make_project(tmp_path / "p"))
    monkeypatch.setattr(install.sys, "version_info", (3, 9, 2))
    assert install.main([str(tmp_path / "env")]) == 1
    message = capsys.readouterr().err
    assert "3.11 or newer" in message
    assert "3.9" in message
    assert "PYTHON=" in message
    assert not (tmp_path / "env").exists()


def test_a_python_without_venv_is_refused_with_a_remedy(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(make_project(tmp_path / "p"))
    monkeypatch.setitem(sys.modules, "ensurepip", None)  # as on Debian without python3-venv
    assert install.main([str(tmp_path / "env")]) == 1
    assert "python3-venv" in capsys.readouterr().err


def test_a_second_process_waits(install: ModuleType, tmp_path: Path) -> None:
    code = f"""
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("i", {str(SCRIPT)!r})
i = importlib.util.module_from_spec(spec); spec.loader.exec_module(i)
from pathlib import Path
with i.only_one(Path({str(tmp_path / "env")!r})):
    print("has it", flush=True)
    sys.stdin.read()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as first:
        assert first.stdout is not None and first.stdin is not None
        assert first.stdout.readline() == "has it\n"
        with subprocess.Popen([sys.executable, "-c", code], **pipes) as second:
            assert second.stdout is not None and second.stdin is not None
            assert second.stdout.readline().startswith("Waiting for another installation")
            first.stdin.close()
            assert second.stdout.readline() == "has it\n"
            second.stdin.close()


def test_damaged_notes_count_as_none(install: ModuleType, tmp_path: Path) -> None:
    for text in ("", "[1]", "{"):
        (tmp_path / "kdlab.json").write_text(text)
        assert install.read_note(tmp_path / "kdlab.json") == {}


def test_usage_is_shown(install: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert install.main([]) == 2
    assert "Usage" in capsys.readouterr().out

"""`kdlab doctor`: each thing that can be wrong is found and has a remedy."""

from __future__ import annotations

import importlib.metadata as metadata
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdlab import checkup
from kdlab.checkup import Check
from kdlab.cli import main


def test_this_environment_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "Everything that kdlab needs works here." in text
    assert sys.executable in text


def test_a_broken_thing_gives_status_1_and_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkup, "check_packages", lambda: [Check("plotly", "broken", "5.0", "do this")])
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "broken  plotly  5.0" in text
    assert "-> do this" in text
    assert "Broken: 1." in text


@pytest.mark.parametrize(
    ("installed", "state", "said"),
    [
        ("7.0.1", "broken", "7.0 cannot update widgets from a thread"),
        ("7.4.0", "ok", "7.4.0"),
        ("8.0.0", "broken", ">=7.1"),
    ],
)
def test_versions_are_compared(
    installed: str, state: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: installed)
    (found,) = checkup.check_packages(["ipykernel>=7.1,<8"])
    assert (found.name, found.state) == ("ipykernel", state)
    assert said in found.found
    assert ("pip install" in found.fix) == (state == "broken")


def test_a_missing_package_is_named_and_extras_are_not_asked_for() -> None:
    found = checkup.check_packages(["no-such-package-kdlab>=2", 'also-not-here>=1; extra == "test"'])
    assert [(c.name, c.state, c.found) for c in found] == [
        ("no-such-package-kdlab", "broken", "not installed")
    ]
    assert found[0].fix == 'python -m pip install "no-such-package-kdlab>=2"'


def test_local_builds_count_as_their_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "2.13.0+cu130")
    assert checkup.check_packages(["torch>=2.11"])[0].state == "ok"


def extension(folder: Path, name: str, version: str) -> Path:
    place = folder / name
    place.mkdir(parents=True)
    (place / "package.json").write_text(json.dumps({"version": version}))
    return folder


def test_kernel_and_page_must_have_the_same_anywidget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "0.11.0")
    same = extension(tmp_path / "same", "anywidget", "0.11.3")
    old = extension(tmp_path / "old", "anywidget", "0.9.18")
    assert checkup.check_anywidget([str(same)]).state == "ok"
    found = checkup.check_anywidget([str(old), str(same)])  # the first one found is the one that is loaded
    assert found.state == "broken"
    assert "0.9.18" in found.found
    assert checkup.check_anywidget([str(tmp_path / "empty")]).state == "broken"


def test_widget_manager_must_be_there(tmp_path: Path) -> None:
    there = extension(tmp_path, "@jupyter-widgets/jupyterlab-manager", "5.0.1")
    assert checkup.check_widget_manager([str(there)]).state == "ok"
    assert "jupyterlab_widgets" in checkup.check_widget_manager([]).fix


@pytest.mark.parametrize(
    ("program", "state"),
    [("python", "ok"), (sys.executable, "ok"), ("/opt/other/bin/python", "broken")],
)
def test_kernel_must_be_this_python(program: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_client.kernelspec import KernelSpecManager

    spec = SimpleNamespace(argv=[program, "-m", "ipykernel_launcher"], resource_dir="/somewhere")
    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", lambda self, name: spec)
    assert checkup.check_kernel().state == state


def test_missing_kernel_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    def missing(self: Any, name: str) -> None:
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", missing)
    found = checkup.check_kernel()
    assert found.state == "broken"
    assert "ipykernel install" in found.fix


def test_torchvision_of_another_torch_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist\nmore")

    monkeypatch.setattr(checkup.importlib, "import_module", fail)
    found = checkup.check_torchvision()
    assert found.state == "broken"
    assert found.found.endswith("operator torchvision::nms does not exist")


def test_a_gpu_that_torch_cannot_use_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA X100, 500.1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = checkup.check_device()
    assert found.state == "note"
    assert "NVIDIA X100" in found.found
    tool.unlink()
    monkeypatch.setattr(checkup.shutil, "which", lambda name: None)
    assert checkup.check_device().state == "ok"


@pytest.mark.gpu
def test_a_working_gpu_is_named() -> None:
    found = checkup.check_device()
    assert found.state == "ok"
    assert "GiB" in found.found


def test_an_unwritable_cache_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(
        "KDLAB_CACHE", str(tmp_path / "file" / "cache")
    )  # below a file: even root cannot write
    by_name = {check.name: check for check in checkup.check_folders()}
    assert by_name["teacher cache"].state == "broken"
    assert "KDLAB_CACHE" in by_name["teacher cache"].fix
    assert by_name["temporary files"].state == "ok"
    assert not (tmp_path / "file" / "cache").exists()


def test_embedded_data_is_found() -> None:
    (found,) = checkup.check_data()
    assert "digits" in found.found
    assert found.state in ("ok", "note")

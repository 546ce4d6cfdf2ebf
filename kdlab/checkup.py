"""Is this installation sound? Each check says what it found and, if need be, what to do.

`kdlab.doctor()` and the command `kdlab doctor` show them. The traps behind the checks: ipykernel 7.0
cannot update widgets from a thread; plotly's live figures are drawn by anywidget, whose part in the
page must have the version of its part in the kernel; a GPU may be there that this torch cannot use.
"""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from packaging.requirements import Requirement


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: what was looked at.
        state: "ok"; "note" for something to know that stops nothing; "broken".
        found: what is there.
        fix: what to do about it; empty when `state` is "ok".
    """

    name: str
    state: Literal["ok", "note", "broken"]
    found: str
    fix: str = ""


def doctor() -> None:
    """Check this installation and print what was found and what to fix.

    >>> from kdlab import checkup
    >>> kdlab.doctor()  # starts a kernel and looks at all of this machine  # doctest: +SKIP
    >>> checkup.check_python().state  # one of its checks
    'ok'
    """
    print(format_checks(checks()))


def checks() -> list[Check]:
    """All checks, in the order in which one would mend things. Takes a few seconds; changes nothing."""
    found = [check_python(), *check_packages()]
    if broken(found):  # the further checks would stumble over what is missing
        return found
    found += [check_torchvision(), check_device()]
    found += [check_anywidget(), check_widget_manager(), check_kernel()]
    if broken(found[-5:-3]):
        return found
    return [*found, *check_folders(), *check_data()]


def broken(found: Iterable[Check]) -> list[Check]:
    """The checks that found something broken."""
    return [check for check in found if check.state == "broken"]


def format_checks(found: Sequence[Check]) -> str:
    """Checks as aligned lines with a closing sentence."""
    width = max((len(check.name) for check in found), default=0)
    lines = []
    for check in found:
        lines.append(f"{check.state:<6}  {check.name:<{width}}  {check.found}".rstrip())
        if check.fix:
            lines.append(f"{'':<6}  {'':<{width}}  -> {check.fix}")
    bad = len(broken(found))
    closing = f"Broken: {bad}. The lines that begin with -> say what to do."
    return "\n".join([*lines, "", closing if bad else "Everything that kdlab needs works here."])


# ---- packages ---------------------------------------------------------------------------------------

_REASONS = {
    "ipykernel": "7.0 cannot update widgets from a thread",
    "anywidget": "it draws plotly's live figures",
    "plotly": "live figures were tried with these versions",
}


def check_python() -> Check:
    """Version and place of the interpreter (an older one than 3.11 cannot even load kdlab)."""
    return Check("Python", "ok", f"{platform.python_version()} at {sys.executable}")


def check_packages(requirements: Iterable[str] | None = None) -> list[Check]:
    """One check per required package, against the bounds that kdlab was installed with.

    Args:
        requirements: such as "plotly>=6.9,<8"; kdlab's own, without extras, where it is None.
    """
    if requirements is None:
        try:
            requirements = metadata.requires("kdlab") or []
        except metadata.PackageNotFoundError:
            fix = "in the checkout: python -m pip install -e ."
            return [Check("kdlab", "note", "not installed, run from a folder; versions not checked", fix)]
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in requirements]
    return [_check_package(w) for w in wanted if w.marker is None or w.marker.evaluate({"extra": ""})]


def _check_package(wanted: Requirement) -> Check:
    name, bounds = wanted.name, str(wanted.specifier)
    fix = f'python -m pip install "{name}{bounds}"'
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, "broken", "not installed", fix)
    if wanted.specifier.contains(version, prereleases=True):
        return Check(name, "ok", version)
    reason = f" ({_REASONS[name]})" if name in _REASONS else ""
    return Check(name, "broken", f"{version}, but {bounds} is needed{reason}", fix)


def check_torchvision() -> Check:
    """Whether torchvision was built for the torch that is here."""
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # a wrong pair fails in many ways: missing symbols, operators, libraries
        first = (str(error).splitlines() or [type(error).__name__])[0]
        fix = "install both together, from the same place: python -m pip install --upgrade torch torchvision"
        return Check("torch and torchvision", "broken", f"do not fit each other: {first}", fix)
    return Check("torch and torchvision", "ok", "fit each other")


def check_device() -> Check:
    """What training will run on; a GPU that torch cannot use is pointed out."""
    import torch

    threads = f"{torch.get_num_threads()} CPU threads"
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        try:
            torch.ones(2, device="cuda").sum().item()
        except RuntimeError as error:
            fix = "install a torch built for this GPU and driver, or train with device='cpu'"
            return Check("GPU", "broken", f"{name} does not compute: {str(error).splitlines()[0]}", fix)
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Check("GPU", "ok", f"{name}, {memory:.0f} GiB, CUDA {torch.version.cuda}; {threads}")
    if torch.backends.mps.is_available():
        return Check("GPU", "ok", f"Apple GPU (device='mps'); {threads}")
    card = _nvidia_card()
    if card:
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
        fix = "update the NVIDIA driver, or install a torch built for the driver that is here"
        return Check("GPU", "note", f"{card} is here, but this torch (built for {built}) cannot use it", fix)
    return Check("GPU", "ok", f"none; {threads}")


def _nvidia_card() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    command = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return (result.stdout.splitlines() or [""])[0].strip()


# ---- the page and the kernel ------------------------------------------------------------------------


def check_anywidget(folders: Iterable[str] | None = None) -> Check:
    """Whether JupyterLab's part of anywidget has the version of the kernel's part.

    Args:
        folders: where JupyterLab looks for extensions; its own list where it is None.
    """
    kernel = metadata.version("anywidget")
    page, place = _extension_version("anywidget", folders)
    fix = "python -m pip install --force-reinstall --no-deps anywidget, then restart JupyterLab"
    if page is None:
        return Check("live figures", "broken", "JupyterLab does not have the extension anywidget", fix)
    if page.split(".")[:2] != kernel.split(".")[:2]:
        found = f"no figure would appear: anywidget is {kernel} in the kernel, {page} in JupyterLab ({place})"
        return Check("live figures", "broken", found, fix)
    return Check("live figures", "ok", f"anywidget {kernel} in kernel and JupyterLab")


def check_widget_manager(folders: Iterable[str] | None = None) -> Check:
    """Whether JupyterLab can show ipywidgets at all."""
    page, _ = _extension_version("@jupyter-widgets/jupyterlab-manager", folders)
    if page is None:
        fix = "python -m pip install --force-reinstall --no-deps jupyterlab_widgets, then restart JupyterLab"
        return Check("widgets", "broken", "JupyterLab does not have the extension jupyterlab-manager", fix)
    return Check("widgets", "ok", f"jupyterlab-manager {page} in JupyterLab")


def _extension_version(name: str, folders: Iterable[str] | None) -> tuple[str | None, str]:
    """Version and folder of the extension JupyterLab would load: the first found."""
    if folders is None:
        from jupyter_core.paths import jupyter_path

        folders = jupyter_path("labextensions")
    for folder in folders:
        description = Path(folder) / name / "package.json"
        try:
            version = json.loads(description.read_text(encoding="utf-8"))["version"]
            return str(version), str(description.parent)
        except (OSError, ValueError, KeyError):
            continue
    return None, ""


def check_kernel() -> Check:
    """Whether a notebook started here runs in this very Python."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    fix = "python -m ipykernel install --sys-prefix"
    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        return Check("notebook kernel", "broken", "there is no kernel 'python3'", fix)
    program = spec.argv[0] if spec.argv else ""
    # jupyter_client puts this very Python in the place of these names
    own = {"python", "python3", f"python{sys.version_info.major}.{sys.version_info.minor}"}
    if program in own or Path(program).absolute() == Path(sys.executable).absolute():
        return Check("notebook kernel", "ok", "python3 runs in this environment")
    found = f"python3 runs {program}, described in {spec.resource_dir}"
    return Check("notebook kernel", "broken", found, f"{fix}; or remove that folder")


# ---- folders and data -------------------------------------------------------------------------------


def check_folders() -> list[Check]:
    """Whether studies, trained teachers and temporary files can be written, and how much room there is."""
    from kdlab.training.teachers import cache_folder

    places = {
        "studies": (Path("runs"), "start from a folder you may write to, or give folder=..."),
        "teacher cache": (cache_folder(), "set KDLAB_CACHE to a folder you may write to"),
        "temporary files": (Path(tempfile.gettempdir()), "set TMPDIR to a folder you may write to"),
    }
    return [_check_folder(name, path.absolute(), fix) for name, (path, fix) in places.items()]


def _check_folder(name: str, path: Path, fix: str) -> Check:
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Check(name, "broken", f"{existing} cannot be written to", fix)
    free = shutil.disk_usage(existing).free / 2**30
    if free < 1:
        return Check(name, "note", f"{path}, only {free:.1f} GiB free", "make room: checkpoints need some")
    return Check(name, "ok", f"{path}, {free:.0f} GiB free")


def check_data() -> list[Check]:
    """Which data sets are here."""
    import kdlab.data

    rows = kdlab.data.table()
    here = [str(row["name"]) for row in rows if row.get("present")]
    missing = [str(row["name"]) for row in rows if not row.get("present")]
    fix = f"when you want one: kdlab datasets --download NAME ({', '.join(missing)})" if missing else ""
    return [Check("data sets", "note" if missing else "ok", f"here: {', '.join(here)}", fix)]

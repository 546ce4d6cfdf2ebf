"""Prepare the virtual environment that `make` works in; do nothing when it is ready.

Usage: python3 .ci/install.py VENV [EXTRA ...]

Installs the checkout in the present folder, editable, with its EXTRAs, by the plain `pip` of the
environment VENV, which is made if it is missing. What was installed is noted in VENV/kdlab.json, so
that pip runs again only when the requirements change. One environment can serve several checkouts:
it is pointed at the one that asks, without installing anything anew. A lock makes two processes that
ask at once wait for each other. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

OLDEST = (3, 11)


def main(argv: list[str]) -> int:
    """Prepare the environment named in `argv`; the exit status, 1 after a sentence on what is wrong."""
    if not argv or argv[0].startswith("-"):
        print(__doc__)
        return 2
    environment, extras, checkout = Path(argv[0]).expanduser().absolute(), argv[1:], Path.cwd()
    try:
        with only_one(environment):
            prepare(environment, extras, checkout)
    except (Trouble, OSError) as error:
        print(f"make: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError:
        print(
            "make: the installation failed; the lines above say why. It goes on where it stopped when you "
            "run the same command again.",
            file=sys.stderr,
        )
        return 1
    return 0


class Trouble(Exception):
    """The environment cannot be made; the text says what to do."""


def prepare(environment: Path, extras: list[str], checkout: Path) -> None:
    """Bring `environment` to hold `checkout` with its `extras`."""
    note = environment / "kdlab.json"
    python = environment / "bin" / "python"
    if not python.exists():
        make_environment(environment)
    check_version(python, environment)
    present = read_note(note)
    wanted = {"requirements": requirements_hash(checkout), "checkout": str(checkout)}
    same = present.get("requirements") == wanted["requirements"]
    have = set(present.get("extras", [])) if same else set()
    everything = sorted(have | set(extras))
    if same and set(extras) <= have:
        if present.get("checkout") == wanted["checkout"]:
            return
        print(f"Pointing {environment} at {checkout} ...", flush=True)
        arguments = ["--no-deps", "--quiet", "--editable", "."]
    else:
        print(
            f"Installing kdlab and what it needs into {environment} "
            "(PyTorch alone is several GB: the first time takes minutes) ...",
            flush=True,
        )
        arguments = ["--editable", f".[{','.join(everything)}]" if everything else "."]
    with contextlib.suppress(FileNotFoundError):
        note.unlink()  # an interrupted installation must not pass for a complete one
    quiet = [] if sys.stdout.isatty() else ["--progress-bar", "off"]
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *quiet, *arguments]
    subprocess.run(command, cwd=str(checkout), check=True)
    partial = note.with_suffix(".partial")
    partial.write_text(json.dumps({**wanted, "extras": everything}, indent=2))
    os.replace(partial, note)


def make_environment(environment: Path) -> None:
    """Make an empty virtual environment with pip.

    Raises:
        Trouble: this Python is too old or cannot make environments.
    """
    if sys.version_info < OLDEST:
        raise Trouble(
            "kdlab needs Python {}.{} or newer, and {} is Python {}.{}; name a newer one: "
            "make PYTHON=python3.12 ...".format(*OLDEST, sys.executable, *sys.version_info[:2])
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise Trouble(
            f"{sys.executable} cannot make virtual environments; install the missing part (Debian, Ubuntu: "
            "apt-get install python3-venv), name another Python (make PYTHON=...), or use conda: "
            "conda env create -f environment.yml"
        ) from None
    print(f"Making the environment {environment} ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)


def check_version(python: Path, environment: Path) -> None:
    """Refuse an environment whose Python does not start or is too old.

    Raises:
        Trouble: says which, and to remove the environment.
    """
    command = [str(python), "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        version = tuple(map(int, subprocess.check_output(command, text=True).split()))
    except (OSError, subprocess.CalledProcessError, ValueError):
        raise Trouble(f"{python} does not start; remove {environment} and run make again") from None
    if version < OLDEST:
        raise Trouble(
            "kdlab needs Python {}.{} or newer, and {} holds Python {}.{}; remove it, or choose another "
            "place: make VENV=...".format(*OLDEST, environment, *version)
        )


def requirements_hash(checkout: Path) -> str:
    """Hash of what decides an installation: build system and project, not the settings of tools."""
    try:
        import tomllib
    except ImportError:  # an older Python that drives an existing newer environment
        return hashlib.sha256((checkout / "pyproject.toml").read_bytes()).hexdigest()
    tables = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))
    relevant = {key: tables.get(key) for key in ("build-system", "project")}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def read_note(note: Path) -> dict[str, Any]:
    """What an earlier run installed, or nothing where that is not known."""
    try:
        present = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    return present if isinstance(present, dict) else {}


@contextlib.contextmanager
def only_one(environment: Path) -> Iterator[None]:
    """Hold the lock beside `environment`; wait while another process holds it."""
    environment.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{environment}.lock", "w") as lock:
        try:
            import fcntl
        except ImportError:  # no such lock on this system
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Waiting for another installation into {environment} ...", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

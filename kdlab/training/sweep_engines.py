"""Where the points of a sweep are trained: in processes of this machine, or by Ray on a cluster."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import sysconfig
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from kdlab.errors import ConfigError, StudyError
from kdlab.training.sweep_worker import say, train_point

ENGINES = ("local", "ray")
_PASSED_ON = ("KDLAB_CACHE", "KDLAB_DATA")  # to processes of Ray, whose environment is another
_RAY_TRIES = 3  # on a busy machine Ray gives up on its own processes, which is no reason to give up on it
_OWN_GPU = (None, "auto", "cuda")  # devices that mean "the GPU you are given"


class Watcher(Protocol):
    """Is told what happens; all calls come from the thread that runs the engine."""

    def begun(self, name: str) -> None:
        """A point is being trained."""

    def progress(self, name: str, progress: Mapping[str, Any]) -> None:
        """How far it is."""

    def ended(self, outcome: dict[str, Any]) -> None:
        """See `sweep_worker.train_point`."""


# ---- processes of this machine ----------------------------------------------------------------------


class _Child:
    """A point in a process of its own; what it says is put into `messages`."""

    def __init__(self, folder: Path, name: str, environment: dict[str, str], messages: queue.Queue) -> None:
        self.name, self.outcome = name, None
        self.log = folder / "logs" / f"{name}.txt"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            self.log_start = log.seek(0, os.SEEK_END)
            self.process = subprocess.Popen(
                child_command(folder, name),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then tells them
            )
        threading.Thread(target=self._listen, args=(messages,), daemon=True).start()

    def _listen(self, messages: queue.Queue) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            messages.put((self.name, line))
        self.process.wait()
        messages.put((self.name, None))

    def close(self, stopping: bool) -> dict[str, Any]:
        """The outcome of the process, which has ended; a made-up one where it crashed."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        if self.outcome is not None:
            return self.outcome
        if stopping:
            return {"point": self.name, "state": "stopped"}
        status = self.process.returncode
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        if status == -9:
            how += " (was there enough memory?)"
        return {"point": self.name, "state": "failed", "error": f"The process {how}.{self._last_words()}"}

    def _last_words(self) -> str:
        with open(self.log, "rb") as log:
            log.seek(self.log_start)
            lines = log.read()[-4000:].decode(errors="replace").strip().splitlines()
        return f" It said last: {lines[-1].strip()} ({self.log})" if lines else ""


def child_command(folder: Path, name: str) -> list[str]:
    """What trains one point; see `sweep_worker`."""
    return [sys.executable, "-m", "kdlab.training.sweep_worker", str(folder), name]


def train_local(
    folder: Path, names: Sequence[str], *, workers: int, devices: Mapping[str, Any], watcher: Watcher
) -> bool:
    """Train points in up to `workers` processes at once; True unless Ctrl-C stopped them.

    Args:
        folder: of the sweep.
        names: of the points to train.
        workers: processes at once; with GPUs, they take turns on them.
        devices: the argument `device` of each point.
        watcher: is told what happens.
    """
    waiting, free = deque(names), deque(range(min(workers, len(names))))
    running: dict[str, tuple[_Child, int]] = {}
    messages: queue.Queue[tuple[str, bytes | None]] = queue.Queue()
    slots = len(free)
    stops = 0
    while running or (waiting and not stops):
        try:
            while waiting and free and not stops:
                name, slot = waiting.popleft(), free.popleft()
                settings = child_environment(slot, slots, devices.get(name))
                running[name] = (_Child(folder, name, settings, messages), slot)
                watcher.begun(name)
            try:
                name, line = messages.get(timeout=0.5)
            except queue.Empty:
                continue
            child, slot = running[name]
            if line is not None:
                _heed(child, line, watcher)
                continue
            del running[name]
            free.append(slot)
            watcher.ended(child.close(bool(stops)))
        except KeyboardInterrupt:
            stops += 1
            for child, _ in running.values():  # first gently: a checkpoint, then the end
                child.process.terminate() if stops == 1 else child.process.kill()
    return not stops


def _heed(child: _Child, line: bytes, watcher: Watcher) -> None:
    try:
        said = json.loads(line)
    except ValueError:  # the half of a line of a process that crashed
        return
    if "outcome" in said:
        child.outcome = said["outcome"]
    elif "progress" in said:
        watcher.progress(child.name, said["progress"])


def child_environment(slot: int, slots: int, device: Any = None) -> dict[str, str]:
    """The environment of the process in one of `slots` places: its GPU, its share of the processors.

    What the user set stays: OMP_NUM_THREADS as it is, CUDA_VISIBLE_DEVICES as the list to choose from.
    """
    environment = dict(os.environ)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // slots)))
    gpus = visible_gpus()
    if gpus and device in _OWN_GPU:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    root = Path(__file__).resolve().parents[2]
    if root != Path(sysconfig.get_path("purelib")).resolve():  # a checkout: the process must find it, too
        before = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = str(root) + (os.pathsep + before if before else "")
    return environment


def visible_gpus() -> list[str]:
    """GPUs of this machine by the names that CUDA_VISIBLE_DEVICES takes."""
    import torch

    count = torch.cuda.device_count()
    named = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


# ---- Ray --------------------------------------------------------------------------------------------


def require_ray() -> Any:
    """The package ray.

    Raises:
        ConfigError: it is not installed here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody unless asked for
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "The package ray is not installed here; get it with: pip install 'ray>=2.40'"
        ) from error
    return ray


def train_ray(
    folder: Path,
    names: Sequence[str],
    *,
    workers: int | None,
    num_cpus: float,
    num_gpus: float | None,
    devices: Mapping[str, Any],
    watcher: Watcher,
) -> bool:
    """Train points as tasks of Ray; True unless Ctrl-C stopped them.

    The cluster is the one this program is connected to, else the one that RAY_ADDRESS names, else
    one of this machine alone, which ends with the sweep.

    Args:
        folder: of the sweep, shared by all machines.
        names: of the points to train.
        workers: tasks handed over at once; None for all.
        num_cpus, num_gpus: what each task takes; None is one GPU where the cluster has any.
        devices: the argument `device` of each point.
        watcher: is told what happens.
    """
    ray = require_ray()
    started = not ray.is_initialized()
    if started:
        start_ray(ray)
    try:
        if num_gpus is None:
            num_gpus = 1 if ray.cluster_resources().get("GPU") else 0
        passed_on = {key: os.path.abspath(os.environ[key]) for key in _PASSED_ON if os.environ.get(key)}
        task = ray.remote(_train_in_ray)

        def submit(name: str) -> Any:
            gpus = 0 if str(devices.get(name)) == "cpu" else num_gpus
            options = task.options(name=name, num_cpus=num_cpus, num_gpus=gpus, max_retries=0)
            return options.remote(str(folder), name, os.getcwd(), passed_on)

        return _drive_ray(ray, submit, names, workers or len(names), watcher)
    finally:
        if started:
            ray.shutdown()


def start_ray(ray: Any, **options: Any) -> None:
    """Connect to the cluster that RAY_ADDRESS names, else start Ray on this machine alone.

    Args:
        ray: the package.
        **options: of `ray.init`, for a new Ray.

    Raises:
        StudyError: neither works.
    """
    address = os.environ.get("RAY_ADDRESS")
    for left in reversed(range(1 if address else _RAY_TRIES)):
        try:
            if address:
                ray.init(log_to_driver=False)
            else:
                ray.init("local", include_dashboard=False, log_to_driver=False, **options)
            return
        except Exception as error:
            ray.shutdown()
            if not left:
                raise StudyError(
                    f"Ray could not be started or reached ({say(error)}); call ray.init yourself first, set "
                    "RAY_ADDRESS to a running cluster, or use engine='local'."
                ) from error


def _drive_ray(
    ray: Any, submit: Callable[[str], Any], names: Sequence[str], workers: int, watcher: Watcher
) -> bool:
    waiting = deque(names)
    running: dict[Any, str] = {}
    stops = 0
    while running or (waiting and not stops):
        try:
            while waiting and len(running) < workers and not stops:
                name = waiting.popleft()
                running[submit(name)] = name
                watcher.begun(name)
            done, _ = ray.wait(list(running), num_returns=1, timeout=0.5)
            for task in done:
                watcher.ended(_outcome(ray, task, running.pop(task), bool(stops)))
        except KeyboardInterrupt:
            stops += 1
            for task in running:  # the task is interrupted as by Ctrl-C, and leaves a checkpoint
                ray.cancel(task, force=stops > 1)
    return not stops


def _outcome(ray: Any, task: Any, name: str, stopping: bool) -> dict[str, Any]:
    try:
        return dict(ray.get(task))
    except Exception as error:  # a lost machine, a killed process, a cancelled task
        if stopping:
            return {"point": name, "state": "stopped"}
        return {"point": name, "state": "failed", "error": say(error)}


def _train_in_ray(folder: str, name: str, cwd: str, environment: dict[str, str]) -> dict[str, Any]:
    """One point as a task; runs on whatever machine Ray chooses."""
    os.environ.update(environment)
    if os.path.isdir(cwd):  # so that paths mean the same as for the one who asked
        os.chdir(cwd)
    return train_point(Path(folder), name)

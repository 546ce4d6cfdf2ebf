"""The machine that benchmarks run on: what it is, what memory a process uses, and whether others work on it.

A library; nothing happens when it is run.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def native_bf16() -> bool:
    """Whether the processor multiplies bf16 itself (AVX512-BF16, AMX, or ARM's extension)."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        asked = getattr(torch.cpu, name, None)
        if asked is not None and asked():
            return True
    flags = _cpuinfo("flags") or _cpuinfo("Features")
    return any(flag in flags.split() for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def machine(device: str = "cpu") -> dict[str, Any]:
    """Hardware and versions, as plain values."""
    import kdlab

    about: dict[str, Any] = {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "native_bf16": native_bf16(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kdlab": kdlab.__version__,
    }
    if device.startswith("cuda"):
        about["gpu"] = torch.cuda.get_device_name(0)
        about["cudnn"] = torch.backends.cudnn.version()
    return about


def machine_line(about: Mapping[str, Any]) -> str:
    """The same in one line, with a warning where other work is going on."""
    bf16 = "native bf16" if about["native_bf16"] else "no native bf16"
    line = (
        f"{about.get('gpu') or about['processor']}: {about['cores']} cores, {about['threads']} threads, "
        f"{bf16}; torch {about['torch']}, Python {about['python']}"
    )
    busy = about["load"] is not None and about["load"] > 0.5
    return line + (f"\nOther work is going on here (load {about['load']}); ratios vary more." if busy else "")


def _cpuinfo(key: str) -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    except OSError:
        pass
    return ""


def resident() -> int:
    """Bytes of this process in memory now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def forget_peak() -> bool:
    """Let `peak_resident` count from now on; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_resident() -> int:
    """The most bytes this process had in memory, ever or since `forget_peak`."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Others:
    """How much of the processors everybody else used since `begin`; zero where the system does not tell."""

    def __init__(self) -> None:
        self._start = (0.0, 0.0, 0.0)
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self._start = self._now()

    def share(self) -> float:
        """0 (nobody else) to 1 (all of it), over the time since `begin`."""
        whole, busy, mine = (b - a for a, b in zip(self._start, self._now()))
        return max(busy - mine, 0.0) / whole if whole > 0 else 0.0

    def _now(self) -> tuple[float, float, float]:
        """Ticks of all processors, those at work, and those of this process and its descendants."""
        try:
            ticks = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
            return sum(ticks), sum(ticks) - ticks[3] - ticks[4], _ticks_of_tree(os.getpid())
        except (OSError, ValueError, IndexError):
            return 0.0, 0.0, 0.0


def _ticks_of_tree(root: int) -> float:
    """Processor ticks of a process and all its descendants, ended ones (if waited for) included."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        pid = int(path.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), sum(int(n) for n in fields[11:15])
    total = 0
    for pid, own in ticks.items():
        above: int | None = pid
        while above is not None and above != root:
            above = parents.get(above)
        total += own if above == root else 0
    return float(total)

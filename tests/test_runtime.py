"""What is told to the C library and to OpenMP: memory that stays, threads that share it, helpers that go."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdlab.training.runtime import release_helpers

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library is not glibc")

FAULTS = """
import resource, threading, torch
from kdlab.training.runtime import give_back_memory, keep_freed_memory, start_thread

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def work():  # tensors that are larger than a part of a thread's heap
    for _ in range(6):
        before = faults()
        held = [torch.ones(18_000_000) for _ in range(3)]
        del held
    print("faults", faults() - before)

def others():  # who came earlier has other heaps
    bytearray(100_000)
    ready.release()
    enough.wait()

ready, enough = threading.Semaphore(0), threading.Event()
for _ in range(OTHERS):
    threading.Thread(target=others, daemon=True).start()
    ready.acquire()
"""


def run(script: str, others: int = 6, **environment: str) -> dict[str, int]:
    """Numbers that a process of its own prints: NAME NUMBER."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    code = FAULTS.replace("OTHERS", str(others)) + script
    done = subprocess.run(
        [sys.executable, "-c", code], env=plain | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return {name: int(value) for name, value in map(str.split, done.stdout.splitlines())}


@glibc
@pytest.mark.parametrize("others", [0, 6])
def test_a_thread_that_computes_gets_its_memory_once(others: int) -> None:
    plain = run("t = threading.Thread(target=work); t.start(); t.join()", others)
    ours = run("start_thread(work, 'ours').join()", others)
    pages = 3 * 18_000_000 * 4 // os.sysconf("SC_PAGE_SIZE")
    assert plain["faults"] > 0.9 * pages, "threads need no help any more"
    assert ours["faults"] < 0.01 * pages


@glibc
def test_memory_goes_back_at_the_end() -> None:
    seen = run(
        "start_thread(work, 'x').join(); print('held', resident()); give_back_memory(); "
        "print('left', resident())"
    )
    assert seen["held"] > 210_000_000
    assert seen["left"] < seen["held"] - 180_000_000


@glibc
def test_settings_of_the_environment_are_left_alone() -> None:
    script = "print('set', int(keep_freed_memory())); start_thread(lambda: print('ran', 1), 'x').join()"
    assert run(script, MALLOC_ARENA_MAX="4") == {"set": 0, "ran": 1}


def test_the_name_of_a_thread_and_that_it_ends_with_the_process() -> None:
    found = run("t = start_thread(threading.Event().wait, 'kdlab-x'); print(t.name[6:], int(t.daemon))")
    assert found == {"x": 1}


def test_helpers_are_let_go_and_come_back() -> None:
    threads = torch.get_num_threads()
    maps = torch.randn(64, 64, 32, 32)
    torch.set_num_threads(2)
    try:
        before = maps.relu()
        count = helpers()
        if not release_helpers():
            pytest.skip("this PyTorch does not use GNU's OpenMP")
        assert helpers() == count - 1
        assert torch.equal(maps.relu(), before)
        assert helpers() == count
    finally:
        release_helpers()
        torch.set_num_threads(threads)


def helpers() -> int:
    """Threads of this process."""
    return len(list(Path("/proc/self/task").iterdir()))

"""What the C library and OpenMP are told so that training on a CPU is faster."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h
_NEVER, _KEPT = -1, 1 << 30
_OTHERS_CHUNK = 2 | 4  # marks of a chunk that was mapped by itself, or lies in another heap than the main one
_TRIES = 32
_PAUSE_HARD = 2  # of omp.h


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep freed memory instead of handing it back to the kernel after every step.

    Activations are allocated and freed in each step; given back, each of their pages must be
    mapped and cleared anew. Done once per process; a setting in the environment
    (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_, ...) is left alone. New threads share heaps from
    then on, see `start_thread`.

    Returns:
        Whether the setting was made; False with another C library.
    """
    library = _glibc()
    if library is None or any(k.startswith(("MALLOC_", "GLIBC_TUNABLES")) for k in os.environ):
        return False
    settings = ((_M_MMAP_THRESHOLD, _KEPT), (_M_TRIM_THRESHOLD, _NEVER), (_M_ARENA_MAX, 1))
    return all([library.mallopt(option, value) for option, value in settings])


def give_back_memory() -> None:
    """Hand memory that is free back to the kernel, when a training is over."""
    library = _glibc()
    if library is not None and keep_freed_memory():
        library.malloc_trim(0)


def start_thread(work: Callable[[], object], name: str) -> threading.Thread:
    """Start a daemon thread that computes, with the main heap of the C library where there is a choice.

    glibc binds each thread to a heap. Those of other threads than the first consist of parts of 64 MB
    that go back to the kernel as soon as they are free, and what is larger is always mapped anew, so
    that `keep_freed_memory` does nothing for it. Which heap a thread gets cannot be asked for, so
    threads are started, and wait, until one of them has got the main one.

    Returns:
        The thread; with a heap of its own where the main one was not to be had.
    """
    choosy = keep_freed_memory()
    settled = threading.Event()

    def candidate(found: Future[bool]) -> None:
        found.set_result(not choosy or _in_main_heap())
        if found.result():
            work()
        else:
            settled.wait()  # a thread that ends leaves its heap to the next one

    try:
        for _ in range(_TRIES):
            found: Future[bool] = Future()
            thread = threading.Thread(target=candidate, args=(found,), daemon=True, name=name)
            thread.start()
            if found.result():
                return thread
    finally:
        settled.set()
    thread = threading.Thread(target=work, daemon=True, name=name)
    thread.start()
    return thread


def _in_main_heap() -> bool:
    """Whether what the calling thread allocates comes from the main heap of glibc."""
    library = _glibc()
    if library is None:
        return False
    place = library.malloc(1 << 14)  # more than what a thread keeps for itself
    if not place:
        return False
    size = ctypes.c_size_t.from_address(place - ctypes.sizeof(ctypes.c_size_t)).value
    library.free(place)
    return not size & _OTHERS_CHUNK


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    try:
        library = ctypes.CDLL(None)
        library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
        library.malloc_trim.argtypes = [ctypes.c_size_t]
        library.mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    except (OSError, AttributeError):
        return None
    return library


def release_helpers() -> bool:
    """Let the calling thread's helpers of OpenMP go, before another thread begins to compute.

    GNU's OpenMP gives each thread that computes helpers of its own, and counts them: where there are
    more than processors, all of them sleep between operations instead of waiting awake, and
    waking them takes longer than many an operation. They come back with the thread's next operation
    that asks for several.

    Returns:
        Whether they were let go; False with another OpenMP, whose threads are left alone.
    """
    pause = _pause()
    return pause is not None and pause(_PAUSE_HARD) == 0


@functools.cache
def _pause() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL(None)
        if hasattr(library, "__kmpc_fork_call"):  # LLVM's, whose call of this name stops other threads too
            return None
        pause: Callable[[int], int] = library.omp_pause_resource_all
    except (OSError, AttributeError):
        return None
    return pause

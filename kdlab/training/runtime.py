"""What the C library and OpenMP are told so that training on a CPU is faster."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from collections.abc import Callable

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_KEPT = 1 << 30
_PAUSE_HARD = 2  # of omp.h


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep freed memory instead of handing it back to the kernel after every step.

    Activations are allocated and freed in each step; given back, each of their pages must be
    mapped and cleared anew. Done once per process; a setting in the environment
    (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_) is left alone.

    Returns:
        Whether the setting was made; False with another C library.
    """
    if platform.libc_ver()[0] != "glibc" or any(k.startswith("MALLOC_") for k in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEPT) and mallopt(_M_TRIM_THRESHOLD, _KEPT))


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

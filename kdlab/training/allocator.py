"""One setting of the C library that makes training on a CPU faster."""

from __future__ import annotations

import ctypes
import functools
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_KEPT = 1 << 30


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

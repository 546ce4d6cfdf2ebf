"""Small numerical work without threads that wait for each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def single_thread(when: bool = True) -> Iterator[None]:
    """Let torch use one thread inside the block, where `when` is true.

    Threads that wait for each other after every operation of a fraction of a millisecond cost more
    than they give; on a machine that is busy otherwise they made such loops ten times slower.
    """
    before = torch.get_num_threads()
    if not when or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thin singular value decomposition u, s, vh; torch's, as its threads can be kept to one."""
    u, s, vh = torch.linalg.svd(torch.from_numpy(np.ascontiguousarray(matrix)), full_matrices=False)
    return u.numpy(), s.numpy(), vh.numpy()

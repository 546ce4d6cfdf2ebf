"""Bringing representations into one space: a student into the teacher's, one frame onto the next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdlab.errors import ConfigError
from kdlab.probes.threads import svd
from kdlab.probes.words import listed

ALIGNMENTS = {
    "projector": "the method's own projector",
    "procrustes": "orthogonal Procrustes (rotation, one scale, a shift; fitted on the validation pictures)",
    "ridge": "ridge regression onto the teacher's features (fitted on the validation pictures)",
    "none": "as they are",
}


def procrustes_map(x: np.ndarray, y: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """`x` (n, p) carried into the space of `y` (n, q) without changing its shape.

    Both are centred on the fitting part; x gets the size of y and the rotation that brings it
    nearest, so that distances between the samples of x keep their proportions (for p > q, those in
    the q best matching directions).

    Args:
        fit: (n,) bool, the samples that centre, size and rotation are taken from.

    Returns:
        (n, q), in the coordinates of y.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    mean_x, mean_y = x[fit].mean(axis=0), y[fit].mean(axis=0)
    cx, cy = x[fit] - mean_x, y[fit] - mean_y
    size = np.linalg.norm(cx)
    if size == 0:
        return np.broadcast_to(mean_y, y.shape).copy()  # a constant representation has no shape to keep
    u, _, vh = svd(cx.T @ cy)
    return (x - mean_x) @ (u @ vh) * (np.linalg.norm(cy) / size) + mean_y


def ridge_map(x: np.ndarray, y: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """`x` (n, p) mapped onto `y` (n, q) by ridge regression; the penalty has the least leave-one-out error.

    Unlike `procrustes_map` this changes the shape of x: it shows what of y can be predicted from x.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    mean_x, mean_y = x[fit].mean(axis=0), y[fit].mean(axis=0)
    spread = x[fit].std(axis=0)
    z = (x - mean_x) / np.where(spread > 0, spread, 1.0)
    known, wanted = z[fit], y[fit] - mean_y
    u, s, vh = svd(known)
    inner = u.T @ wanted
    best = (np.inf, vh.T @ np.zeros_like(inner))
    for l2 in np.logspace(-3, 5, 17):
        shrink = s**2 / (s**2 + l2)
        leverage = (u**2 * shrink).sum(axis=1) + 1.0 / len(known)
        residual = (wanted - u @ (shrink[:, None] * inner)) / np.maximum(1.0 - leverage, 1e-9)[:, None]
        error = float(np.square(residual).sum())
        if error < best[0]:
            best = (error, vh.T @ ((s / (s**2 + l2))[:, None] * inner))
    return z @ best[1] + mean_y


def into_teacher_space(
    align: str,
    embedding: np.ndarray,
    projected: np.ndarray | None,
    teacher: np.ndarray,
    fit: np.ndarray,
    name: str,
) -> tuple[np.ndarray, str]:
    """A student's (n, p) embedding in the teacher's space (n, q), and which of `ALIGNMENTS` was used.

    Args:
        align: "joint" takes the method's projector where it has one and Procrustes elsewhere; or
            "projector", "procrustes", "ridge", "none".

    Raises:
        ConfigError: no projector, or widths that differ where nothing is to be mapped.
    """
    own = projected is not None and projected.shape == teacher.shape
    kind = ("projector" if own else "procrustes") if align == "joint" else align
    if kind == "projector":
        if projected is None or not own:
            raise ConfigError(
                f"The method of {name!r} does not project into the teacher's space; use align='joint'."
            )
        return np.asarray(projected, np.float64), kind
    if kind == "none":
        if embedding.shape != teacher.shape:
            raise ConfigError(
                f"{name!r} has {embedding.shape[1]} features and the teacher {teacher.shape[1]}; they "
                "share no space without an alignment, use align='joint'."
            )
        return np.asarray(embedding, np.float64), kind
    return (procrustes_map if kind == "procrustes" else ridge_map)(embedding, teacher, fit), kind


def rigid(frame: np.ndarray, onto: np.ndarray, anchor: np.ndarray | slice = slice(None)) -> np.ndarray:
    """`frame` (n, 2) shifted, rotated and perhaps mirrored, never scaled, nearest to `onto` (n, 2).

    Args:
        anchor: the points that decide; all if not given.
    """
    centre, goal = frame[anchor].mean(axis=0), onto[anchor].mean(axis=0)
    u, _, vh = svd((frame[anchor] - centre).T @ (onto[anchor] - goal))
    return (frame - centre) @ (u @ vh) + goal


def residual(x: np.ndarray, y: np.ndarray) -> float:
    """||x - y|| / ||y - mean y||: 0 is equal, 1 as far as the mean of y is; Frobenius norms."""
    size = np.linalg.norm(y - y.mean(axis=0))
    return float(np.linalg.norm(x - y) / size) if size > 0 else float("nan")


def alignment_words(networks: Sequence[str], used: Sequence[str], teachers: Sequence[str]) -> str:
    """In words, how each network came into the teacher's space; nothing without a teacher.

    Args:
        used: for each of `networks` a key of `ALIGNMENTS`.
    """
    ways = []
    for kind, text in ALIGNMENTS.items():
        names = [n for n, way in zip(networks, used, strict=True) if way == kind and n not in teachers]
        if names:
            ways.append(f"{listed(names)} by {text}" if kind != "none" else f"{listed(names)} {text}")
    return f"; in the space of {teachers[0]}: {'; '.join(ways)}" if teachers and ways else ""

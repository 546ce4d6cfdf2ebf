"""One plane for teacher and students: the teacher's two main directions, students turned into them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MATCHED_DIMENSIONS = 10


@dataclass(frozen=True)
class TeacherPlane:
    """The plane in which the teacher's embedding varies most.

    Attributes:
        mean: (d,) of the teacher's embedding.
        axes: (d, 2), orthonormal: its first two principal directions.
        centred: (n, d) the teacher's embedding without its mean; what students are turned towards.
    """

    mean: np.ndarray
    axes: np.ndarray
    centred: np.ndarray

    @staticmethod
    def of(embedding: np.ndarray) -> TeacherPlane:
        """The plane of an (n, d) embedding; n at least 3."""
        mean = embedding.mean(axis=0)
        centred = embedding - mean
        axes = _directions(centred, 2)
        if axes.shape[1] < 2:
            axes = np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))
        # A principal direction has no sign of its own: let its largest entry be positive.
        signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(2)])
        return TeacherPlane(mean, axes * np.where(signs == 0, 1, signs), centred)

    def points(self) -> np.ndarray:
        """(n, 2) float32: where the teacher's own samples lie."""
        return (self.centred @ self.axes).astype(np.float32)

    def project(self, projected: np.ndarray) -> np.ndarray:
        """(n, 2) of features that are already in the teacher's space, such as a method's projector gives."""
        return ((projected - self.mean) @ self.axes).astype(np.float32)

    def turn(self, embedding: np.ndarray, dimensions: int = MATCHED_DIMENSIONS) -> np.ndarray:
        """(n, 2) of a student's own embedding, turned into the teacher's space and scaled as a whole.

        Orthogonal Procrustes between the leading principal components of both (a rotation or
        reflection, so the shape of the cloud is kept), then one factor that gives the student the
        teacher's total spread. Only a few components are matched, because with many the rotation
        would find a likeness even between unrelated clouds.

        Args:
            embedding: (n, q) of the same samples in the same order.
            dimensions: how many leading components of each are matched.
        """
        own = embedding - embedding.mean(axis=0)
        ours, theirs = _directions(own, dimensions), _directions(self.centred, dimensions)
        left, right = own @ ours, self.centred @ theirs
        u, _, vt = np.linalg.svd(left.T @ right, full_matrices=False)
        turned = left @ u @ vt @ theirs.T
        spread = np.linalg.norm(left)
        scale = np.linalg.norm(right) / spread if spread > 0 else 0.0
        return (scale * turned @ self.axes).astype(np.float32)


def _directions(centred: np.ndarray, count: int) -> np.ndarray:
    """(d, k) leading principal directions, k at most `count` and at most the rank's bound."""
    _, _, vt = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    return vt[: min(count, len(vt))].T

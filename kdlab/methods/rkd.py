"""RKD: the distances and the angles among the pictures of a batch."""

from __future__ import annotations

from torch import Tensor

from kdlab.losses import rkd_angle, rkd_distance
from kdlab.methods.checks import whole
from kdlab.methods.registry import register
from kdlab.methods.relating import BatchRelation


@register
class RKD(BatchRelation):
    """Relational knowledge distillation: pairs keep their distance, triplets their angle.

        D_ij     = ||v_i - v_j|| / mean of the positive ones
        distance = smooth-L1(D_s, D_t), mean over all B^2 entries
        e_ij     = (v_i - v_j) / ||v_i - v_j||,   cos psi_jik = <e_ij, e_kj>
        angle    = smooth-L1 of the cosines, mean over all B^3 entries
        L        = CE(z_s, y) + 25 distance + 50 angle

    v: embeddings (B, d_s), (B, d_t). Blind to rotation, translation and scale of either space; gradient
    passes through the student's mean distance. Identical rows have distance 0, stay out of the mean, and
    have no gradient. A batch of one gives 0. `angle` costs B^3 (in chunks; see `angle_subsample`).
    Nothing is trained besides the student.

    Look at the teacher's distances against the student's, and at the angles likewise.

    Args:
        distance, angle: weights of the two terms.
        squared: compare squared distances.
        angle_subsample: take the angles among the first so many pictures of each (shuffled) batch alone.
        stage: a stage whose pooled map is compared in place of the embedding, counted from 0 or, if
            negative, from the deepest (ours).
        teacher_stage: the teacher's stage; None: the same number.
        ce, kd: weights of the cross-entropy and of an optional KD term.
        temperature: tau of the KD term.

    >>> kdlab.methods.RKD()
    RKD[ce=1, distance=25, angle=50, kd=0]
    >>> kdlab.methods.RKD(angle=0).active(epoch=1)  # pairs alone
    ['ce', 'distance']
    """

    key = "rkd"
    title = "RKD"
    paper = "Park, Kim, Lu, Cho, CVPR 2019, arXiv 1904.05068"
    family = "relation"
    status = "paper"
    status_note = "in the form of RepDistiller"
    samples = 2

    def __init__(
        self,
        distance: float = 25.0,
        angle: float = 50.0,
        squared: bool = False,
        angle_subsample: int | None = None,
        stage: int | None = None,
        teacher_stage: int | None = None,
        ce: float = 1.0,
        kd: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        terms = [
            ("distance", distance, "keep the relative distances among the pictures of a batch"),
            ("angle", angle, "keep the angles among them"),
        ]
        super().__init__(terms, stage, teacher_stage, ce, kd, temperature)
        self.squared = bool(squared)
        self.few = (
            None if angle_subsample is None else whole(self, "angle_subsample", angle_subsample, minimum=3)
        )

    def relate(self, term: str, student: Tensor, teacher: Tensor) -> Tensor:
        if term == "distance":
            return rkd_distance(student, teacher, self.squared)
        return rkd_angle(student[: self.few], teacher[: self.few])

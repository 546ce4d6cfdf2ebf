"""CC: what student and teacher disagree on is the same from one picture to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from kdlab.losses import correlation_congruence, kernel_congruence
from kdlab.methods.checks import choice, number, whole
from kdlab.methods.registry import register
from kdlab.methods.relating import BatchRelation
from kdlab.models.features import NetSpec


@register
class CC(BatchRelation):
    """Correlation congruence between consecutive pictures of a batch.

        e  = W v + b                        one linear embedding to 128 for each network
        d  = |e_s - e_t|                    elementwise, (B, 128)
        cc = mean over b = 1..B-1 of sum_j d[b, j] d[b+1, j]
        L  = CE(z_s, y) + 0.02 cc

    v: embeddings (B, d_s), (B, d_t). Both linear embeddings are trained, the teacher's too; the teacher
    itself is not. Depends on the order of the batch; a batch of one gives 0. The paper's own
    formulation compares Taylor-expanded kernel matrices of the two batches: `form="kernel"` takes
    mean over B^2 of (K_s - K_t)^2 with the exact kernel K = exp(-gamma |u_i - u_j|^2) of the
    L2-normalised e (ours).

    Look at d of consecutive pictures, and at what a shuffled batch changes.

    Args:
        weight: weight of `cc`.
        form: "consecutive" as in the public code, or "kernel".
        width: of the embeddings.
        gamma: of the kernel (ours).
        stage: a stage whose pooled map is embedded in place of the embedding, counted from 0 or, if
            negative, from the deepest (ours).
        teacher_stage: the teacher's stage; None: the same number.
        ce, kd: weights of the cross-entropy and of an optional KD term.
        temperature: tau of the KD term.

    >>> kdlab.methods.CC()
    CC[ce=1, cc=0.02, kd=0]
    >>> sorted(kdlab.methods.CC.trained)  # what is trained along with the student
    ['embed_student', 'embed_teacher']
    """

    key = "cc"
    title = "CC"
    paper = "Peng et al., ICCV 2019, arXiv 1904.01802"
    family = "relation"
    status = "paper"
    status_note = "in the form of RepDistiller, made with the authors' help; form='kernel' is ours"
    trained = {
        "embed_student": "linear layer from the student's vector to the common width",
        "embed_teacher": "the same for the teacher's vector",
    }
    samples = 2

    def __init__(
        self,
        weight: float = 0.02,
        form: Literal["consecutive", "kernel"] = "consecutive",
        width: int = 128,
        gamma: float = 0.4,
        stage: int | None = None,
        teacher_stage: int | None = None,
        ce: float = 1.0,
        kd: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        asks = "differ from the teacher in the same way from picture to picture"
        super().__init__([("cc", weight, asks)], stage, teacher_stage, ce, kd, temperature)
        self.form = choice(self, "form", form, ("consecutive", "kernel"))
        self.dimensions = whole(self, "width", width, minimum=1)
        self.gamma = number(self, "gamma", gamma, above=0)

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        self.embed_student = nn.Linear(self.width(student, self.stage), self.dimensions)
        self.embed_teacher = nn.Linear(self.width(teachers[0], self.teacher_stage), self.dimensions)

    def relate(self, term: str, student: Tensor, teacher: Tensor) -> Tensor:
        e_s, e_t = self.embed_student(student), self.embed_teacher(teacher)
        if self.form == "kernel":
            return kernel_congruence(e_s, e_t, self.gamma)
        return correlation_congruence(e_s, e_t)

"""SRRL: student features must be right in the eyes of the teacher's own classifier."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from torch import Tensor

from kdlab.losses import feature_mse, gap, kd
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.ce_kd import ce_and_kd, ce_term, kd_term
from kdlab.methods.checks import choice, linear_classifier, number, require_built, same_classes
from kdlab.methods.projectors import Connector, evaluating
from kdlab.methods.registry import register
from kdlab.models.features import Features, NetSpec


@register
class SRRL(Method):
    """Softmax regression representation learning: feature matching, also as the teacher's classifier sees it.

        h_s = GAP(A(S))                                 S: last student map (B, c, h, w)
        fm  = mean (h_s - h_t)^2                        over B and channels
        sr  = mean (W h_s + b - z_t)^2                  over B and classes
        L   = CE(z_s, y) + fm + sr

    A: connector 1x1 convolution + BN + ReLU to the teacher's width, before pooling, so sizes may differ.
    h_t: the teacher's embedding, the true input of its linear classifier (W, b); z_t its logits. (W, b)
    is frozen, and gradient flows through it. Since sr = mean_b (h_s-h_t)' W'W (h_s-h_t) / C, what W
    ignores costs nothing in sr but does in fm. The student keeps its own classifier at test.

    Args:
        fm, sr, ce: weights.
        kd: weight of an optional KD term.
        temperature: tau of the KD term, and of `sr` in its "kl" form.
        sr_form: "mse" as published, or "kl": KL at `temperature` in place of the squared difference.
        connector: "map" (before pooling, as published) or "pooled" (after it: the re-implementation in
            SimKD's code, to which that paper's SRRL numbers belong).

    >>> kdlab.methods.SRRL()
    SRRL[ce=1, fm=1, sr=1, kd=0]
    >>> kdlab.methods.SRRL().term("sr").taps
    ('student.final', 'teacher.classifier', 'teacher.logits')
    """

    key = "srrl"
    title = "SRRL"
    paper = "Yang, Martinez, Bulat, Tzimiropoulos, ICLR 2021"
    family = "classifier-reuse"
    status = "code"
    status_note = "weights 1 and 1 for CIFAR are our choice"
    trained = {"connector": "1x1 convolution, BN, ReLU to the teacher's width"}

    def __init__(
        self,
        fm: float = 1.0,
        sr: float = 1.0,
        ce: float = 1.0,
        kd: float = 0.0,
        temperature: float = 4.0,
        sr_form: Literal["mse", "kl"] = "mse",
        connector: Literal["map", "pooled"] = "map",
    ) -> None:
        super().__init__(
            ce_term(ce),
            Term("fm", fm, ("student.final", "teacher.embedding"), "match the teacher's embedding"),
            Term(
                "sr",
                sr,
                ("student.final", "teacher.classifier", "teacher.logits"),
                "give the teacher's logits when sent through the teacher's classifier",
            ),
            kd_term(kd, optional=True),
        )
        self.temperature = number(self, "temperature", temperature, above=0)
        self.sr_form = choice(self, "sr_form", sr_form, ("mse", "kl"))
        self.pooled = choice(self, "connector", connector, ("map", "pooled")) == "pooled"
        self.last: int | None = None

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        teacher = teachers[0]
        same_classes(self, student, teacher)
        linear_classifier(self, teacher)
        # A student whose embedding is no average of a map gives its deepest stage instead.
        self.last = None if student.final else len(student.stages) - 1
        source = student.final or student.stages[-1]
        self.connector = Connector(source[0], teacher.embedding_dim)
        tap = "student.final" if self.last is None else f"student.stages[{self.last}]"
        for name in ("fm", "sr"):
            self.terms[name].taps = (tap, *self.terms[name].taps[1:])

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = ce_and_kd(step, active, self.temperature)
        if "fm" in active or "sr" in active:
            h_s = self._embed(step.student)
            if "fm" in active:
                values["fm"] = feature_mse(h_s, step.teacher.embedding)
            if "sr" in active:
                values["sr"] = self._regression(step.classifier(h_s), step.teacher.logits)
        return values

    def _regression(self, logits: Tensor, z_t: Tensor) -> Tensor:
        return feature_mse(logits, z_t) if self.sr_form == "mse" else kd(logits, z_t, self.temperature)

    def _embed(self, student: Features) -> Tensor:
        """(B, d_t) the student's features in the teacher's embedding space."""
        require_built(self)
        last_map = student.final if self.last is None else student.stages[self.last]
        assert last_map is not None  # `build` looked at the same network
        if self.pooled:
            return self.connector(gap(last_map)[:, :, None, None]).flatten(1)
        return gap(self.connector(last_map))

    def project(self, step: Step) -> Tensor | None:
        """(B, d_t) GAP(A(S)), if a term trains A."""
        if not self._weighs("fm", "sr"):
            return None
        with evaluating(self):
            return self._embed(step.student)

    def side_logits(self, step: Step) -> dict[str, Tensor]:
        """The "reused head": the teacher's classifier on the student's projected features."""
        with evaluating(self):
            return {"reused head": step.classifier(self._embed(step.student))}

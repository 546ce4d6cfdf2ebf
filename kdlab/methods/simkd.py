"""SimKD: the student keeps its trunk, learns the teacher's last map, and borrows the teacher's classifier."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from torch import Tensor, nn

from kdlab.errors import ConfigError
from kdlab.losses import cross_entropy, feature_mse, gap, kd, pool_to
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.checks import (
    choice,
    final_map,
    linear_classifier,
    number,
    require_built,
    same_classes,
    stage_index,
    whole,
)
from kdlab.methods.projectors import Projector, evaluating
from kdlab.methods.registry import register
from kdlab.models.features import Features, NetSpec, StagedNet


class Deployed(nn.Module):
    """A student as SimKD deploys it: `deployed(images)` gives W GAP(P(S^)) + b, (B, K).

    Args:
        net: the student; of it only the trunk is used.
        method: the trained method, which owns P.
        classifier: the teacher's linear classifier (W, b).
    """

    def __init__(self, net: StagedNet, method: SimKD, classifier: nn.Module) -> None:
        super().__init__()
        self.net, self.projector, self.classifier = net, method.projector, classifier
        self.stage, self.size = method.own, method.size

    def forward(self, images: Tensor) -> Tensor:
        last = self.net.features(images).stages[self.stage]
        return self.classifier(gap(self.projector(pool_to(last, self.size))))


@register
class SimKD(Method):
    """Knowledge distillation with the reused teacher classifier: one squared difference, no labels.

        S^, T^  = S, T, the larger average-pooled to the smaller
        feature = mean (P(S^) - T^)^2          over all elements
        L       = feature                      no cross-entropy, no KD

    S (B, c, h, w): the student's last stage; T (B, C, H, W): the teacher's map whose average enters its
    linear classifier (W, b). P: projector 1x1 (c -> C/f), 3x3, 1x1 (C/f -> C), each with BN and ReLU.

    **The predictor is student trunk + P + (W, b)**: W GAP(P(S^)) + b, with P in eval mode (`predict`,
    `deployed`). The student's own classifier is not trained: it gets no gradient, and so no optimiser step
    and no weight decay; its accuracy, shown as "own head", is chance. What P costs at inference,
    c C/f + 9 (C/f)^2 + C^2/f weights and its BN, is told by `inference_cost()`.

    Look at the three predictors: own head, reused head, teacher; at CKA of P(S) and T; and at the squared
    difference of each channel, sorted by the norm of its column of W.

    Args:
        weight: weight of `feature`.
        factor: f, how much narrower the projector's middle is; must divide C.
        depth: convolutions of the projector: 3; 2 leaves out the 3x3; 1 is one 1x1.
        stage: the student's stage, counted from 0 or, if negative, from the deepest.
        head: which classifier the optional terms `ce` and `kd` go through: "reused", the deployed one
            (ours), or the student's "own", as in the released code, which the predictor does not use.
        ce, kd: weights of optional terms.
        temperature: tau of the KD term.

    >>> kdlab.methods.SimKD()
    SimKD[ce=0, feature=1, kd=0]
    >>> kdlab.methods.SimKD().overrides("predict")  # what is deployed is not the student's own head
    True
    """

    key = "simkd"
    title = "SimKD"
    paper = "Chen et al., CVPR 2022, arXiv 2203.14001"
    family = "classifier-reuse"
    status = "code"
    status_note = "optional terms through the reused classifier are ours"
    trained = {"projector": "1x1, 3x3, 1x1 convolutions with BN and ReLU; kept for inference"}

    def __init__(
        self,
        weight: float = 1.0,
        factor: int = 2,
        depth: int = 3,
        stage: int = -1,
        head: Literal["reused", "own"] = "reused",
        ce: float = 0.0,
        kd: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        self.stage = whole(self, "stage", stage, minimum=-99)
        self.reused = choice(self, "head", head, ("reused", "own")) == "reused"
        super().__init__(
            Term("ce", ce, (), "give the labelled class a high probability", optional=True),
            Term("feature", weight, (), "project its last map onto the teacher's"),
            Term("kd", kd, (), "match the teacher's softened probabilities", optional=True),
        )
        self.factor = whole(self, "factor", factor, minimum=1)
        self.depth = whole(self, "depth", depth, minimum=1)
        if self.depth > 3:
            raise ConfigError(f"SimKD(depth=...) must be 1, 2 or 3, not {depth!r}.")
        self.temperature = number(self, "temperature", temperature, above=0)
        self._declare(self.stage)

    def _declare(self, stage: int) -> None:
        last = f"student.stages[{stage}]"
        heard = (last, "teacher.classifier") if self.reused else ("student.logits",)
        self.terms["ce"].taps = (*heard, "target")
        self.terms["feature"].taps = (last, "teacher.final")
        self.terms["kd"].taps = (*heard, "teacher.logits")

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        teacher = teachers[0]
        same_classes(self, student, teacher)
        linear_classifier(self, teacher)
        channels, height, width = final_map(self, teacher)
        self.own = stage_index(self, student, self.stage, "student")
        inputs, own_height, own_width = student.stages[self.own]
        self.size = (min(height, own_height), min(width, own_width))
        self.projector = Projector(inputs, channels, self.factor, depth=self.depth)
        self._declare(self.own)

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        heard = {"ce", "kd"} & set(active)
        logits = None
        if "feature" in active or (heard and self.reused):
            projected = self._project(step.student)
            if "feature" in active:
                assert step.teacher.final is not None  # `build` refuses teachers without one
                values["feature"] = feature_mse(projected, step.teacher.final)
            if heard and self.reused:
                logits = step.classifier(gap(projected))
        if heard and not self.reused:
            logits = step.student.logits
        if logits is not None and "ce" in active:
            values["ce"] = cross_entropy(logits, step.target)
        if logits is not None and "kd" in active:
            values["kd"] = kd(logits, step.teacher.logits, self.temperature)
        return values

    def _project(self, student: Features) -> Tensor:
        """P(S^), (B, C, h, w)."""
        require_built(self)
        return self.projector(pool_to(student.stages[self.own], self.size))

    def predict(self, step: Step) -> Tensor:
        """(B, K) W GAP(P(S^)) + b, with P in eval mode and without gradient."""
        return step.classifier(self.project(step))

    def project(self, step: Step) -> Tensor:
        """(B, C) GAP(P(S^))."""
        with evaluating(self):
            return gap(self._project(step.student))

    def side_logits(self, step: Step) -> dict[str, Tensor]:
        """The student's "own head", which this method does not train."""
        return {"own head": step.student.logits.detach()}

    def deployed(self, net: StagedNet, classifier: nn.Module) -> Deployed:
        """The network that predicts: the student's trunk, the projector, the teacher's classifier."""
        require_built(self)
        return Deployed(net, self, classifier)

    def inference_cost(self) -> dict[str, int]:
        """What the projector adds to the student: parameters, and multiply-adds for one picture."""
        require_built(self)
        convs = [m for m in self.projector.modules() if isinstance(m, nn.Conv2d)]
        places = self.size[0] * self.size[1]
        return {
            "parameters": sum(p.numel() for p in self.projector.parameters()),
            "multiply_adds": places * sum(conv.weight.numel() for conv in convs),
        }

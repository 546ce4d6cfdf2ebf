"""CMKD: student stages speak through the teacher's classifier, and the deepest becomes a pseudo-teacher."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from kdlab.errors import ConfigError
from kdlab.losses import feature_mse, gap, kd, pool_to
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.ce_kd import ce_and_kd, ce_term, kd_term
from kdlab.methods.checks import (
    choice,
    final_map,
    linear_classifier,
    number,
    require_built,
    same_classes,
    stage_index,
    stage_list,
    whole,
)
from kdlab.methods.projectors import Projector, evaluating
from kdlab.methods.registry import register
from kdlab.methods.schedules import Warmup
from kdlab.models.features import Features, NetSpec


@dataclass(frozen=True)
class Branch:
    """One tapped student stage.

    Attributes:
        stage: its number, from 0.
        name: its name.
        size: (h, w) of the map it is matched to; a larger student map is pooled to it.
        target: the teacher's stage whose map it is matched to, or None for the final map.
    """

    stage: int
    name: str
    size: tuple[int, int]
    target: int | None


@register
class CMKD(Method):
    """Collaborative multi-knowledge distillation under the influence of softmax regression representation.

    S_i: map (B, c_i, h_i, w_i) of a tapped student stage, i = 1 the deepest; T: the teacher's final map
    (B, c, H, W), whose average enters its linear classifier (W, b). The larger of two maps is
    average-pooled to the smaller: (A_i, T_i) = align(S_i, T).

        Q_i = P_i(A_i)                  projected map, c channels
        p_i = W GAP(Q_i) + b            stage logits (B, C); p_1 is the pseudo-teacher

        pseudo   = KL_3(z_s <- p_1)
        stage_kd = sum_i KL_4(p_i <- z_t)
        kd       = KL_4(z_s <- z_t)
        feature  = sum_i mean (Q_i - T_i)^2
        L = CE(z_s, y) + beta { w_pseudo pseudo + alpha stage_kd + w_kd kd + gamma feature }

    KL_tau(a <- t) = tau^2 mean_b KL(softmax(t/tau) || softmax(a/tau)). (W, b) is frozen, and gradient
    flows through it. p_1 is *not* detached as a target: the pseudo term pulls the projector too. At
    inference the student is used alone, with its own classifier.

    Published in the authors' code: the loss, its weights and temperatures, two stage logits, the
    target that is not detached. Our choice: the projector (SimKD's, 1x1-3x3-1x1 with BN and ReLU), pooling
    for alignment, the stages tapped, the final map as target of both, separate weights w_pseudo and w_kd.

    Args:
        alpha, beta, gamma: 0.5, 1, 15 (default of the published code); 3, 1, 3 in its command for
            wrn_40_2 -> wrn_16_2 (see `presets`).
        tau: temperature of `stage_kd` and `kd`.
        tau_pseudo: temperature of `pseudo`.
        w_pseudo, w_kd: 1 in the published loss.
        ce: weight of the cross-entropy.
        taps: the student's stages, counted from 0 or, if negative, from the deepest.
        factor: the projector's middle is c / factor wide.
        branch2_target: "final", or "stage": all branches but the deepest match the teacher's stage of
            the same depth, through an output layer of their own; their stage logits stay as they are.
        pseudo_detach: cut the pseudo-teacher's gradient (ablation).
        warmup: epochs of a linear warm-up of all terms but `ce`; 0: none, as published.

    >>> kdlab.methods.CMKD()
    CMKD[ce=1, pseudo=1, stage_kd=0.5, kd=1, feature=15]
    >>> kdlab.methods.CMKD(**kdlab.methods.CMKD.presets["wrn_40_2 -> wrn_16_2"])
    CMKD[ce=1, pseudo=1, stage_kd=3, kd=1, feature=3]
    """

    key = "cmkd"
    title = "CMKD"
    paper = (
        "Collaborative multi-knowledge distillation under the influence of softmax regression "
        "representation, Multimedia Systems 2024, doi 10.1007/s00530-024-01537-z"
    )
    family = "classifier-reuse + logit"
    status = "recon"
    status_note = "loss, weights and temperatures published in code; projector, taps and alignment are ours"
    trained = {"projectors": "one per tapped stage: 1x1, 3x3, 1x1 convolutions with BN and ReLU"}
    presets = {
        "resnet32x4 -> resnet8x4": {"alpha": 0.5, "beta": 1.0, "gamma": 15.0},
        "wrn_40_2 -> wrn_16_2": {"alpha": 3.0, "beta": 1.0, "gamma": 3.0},
    }

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 1.0,
        gamma: float = 15.0,
        tau: float = 4.0,
        tau_pseudo: float = 3.0,
        w_pseudo: float = 1.0,
        w_kd: float = 1.0,
        ce: float = 1.0,
        taps: Sequence[int] = (-1, -2),
        factor: int = 1,
        branch2_target: Literal["final", "stage"] = "final",
        pseudo_detach: bool = False,
        warmup: int = 0,
    ) -> None:
        beta = number(self, "beta", beta)
        super().__init__(
            ce_term(ce),
            Term(
                "pseudo",
                beta * number(self, "w_pseudo", w_pseudo),
                (),
                "learn from the pseudo-teacher, and pull it along",
            ),
            Term(
                "stage_kd",
                beta * number(self, "alpha", alpha),
                (),
                "make each tapped stage give the teacher's logits through the teacher's classifier",
            ),
            kd_term(beta * number(self, "w_kd", w_kd)),
            Term(
                "feature",
                beta * number(self, "gamma", gamma),
                (),
                "project each tapped stage onto the teacher's map",
            ),
        )
        self.taps = stage_list(self, "taps", taps)
        self.tau = number(self, "tau", tau, above=0)
        self.tau_pseudo = number(self, "tau_pseudo", tau_pseudo, above=0)
        self.factor = whole(self, "factor", factor, minimum=1)
        self.own_stage = choice(self, "branch2_target", branch2_target, ("final", "stage")) == "stage"
        self.pseudo_detach = bool(pseudo_detach)
        if epochs := whole(self, "warmup", warmup, minimum=0):
            for name in ("pseudo", "stage_kd", "kd", "feature"):
                self.terms[name].schedule = Warmup(epochs)
        self.branches: list[Branch] = []
        deepest_first = sorted(self.taps, key=lambda tap: (tap < 0, tap), reverse=True)
        self._declare(deepest_first, ["teacher.final"] + ["teacher.stages"] * self.own_stage)

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        teacher = teachers[0]
        same_classes(self, student, teacher)
        linear_classifier(self, teacher)
        channels, *size = final_map(self, teacher)
        stages = sorted({stage_index(self, student, t, "student") for t in self.taps}, reverse=True)
        if len(stages) < len(self.taps):
            raise ConfigError(
                f"CMKD(taps={self.taps!r}) names a stage of {student.name} twice; name it once."
            )
        self.branches, projectors = [], []
        for stage in stages:
            target, also = None, None
            goal = (size[0], size[1])
            if self.own_stage and stage != stages[0]:
                target = stage_index(self, teacher, stage - len(student.stages), "teacher")
                also, *goal_size = teacher.stages[target]
                goal = (goal_size[0], goal_size[1])
            self.branches.append(Branch(stage, student.stage_names[stage], goal, target))
            projectors.append(Projector(student.stages[stage][0], channels, self.factor, also))
        self.projectors = nn.ModuleList(projectors)
        own = [f"teacher.stages[{b.target}]" for b in self.branches if b.target is not None]
        self._declare(stages, ["teacher.final", *own])  # the deepest is matched to the final map

    def _declare(self, stages: Sequence[int], targets: Sequence[str]) -> None:
        """Say what the terms read: the student's `stages`, deepest first, and the teacher's maps."""
        maps = [f"student.stages[{stage}]" for stage in stages]
        self.terms["pseudo"].taps = ("student.logits", maps[0], "teacher.classifier")
        self.terms["stage_kd"].taps = (*maps, "teacher.classifier", "teacher.logits")
        self.terms["feature"].taps = (*maps, *targets)

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        self.details = {}
        values = ce_and_kd(step, active, self.tau)
        if not {"pseudo", "stage_kd", "feature"} & set(active):
            return values
        require_built(self)
        speaking = self.branches if "stage_kd" in active else self.branches[: "pseudo" in active]
        matched = self.branches if "feature" in active else []
        hidden = {b: self._hidden(step.student, b) for b in self.branches if b in speaking or b in matched}
        q = {b: self._projector(b).out(h) for b, h in hidden.items() if b in speaking or b.target is None}
        p = {b: step.classifier(gap(q[b])) for b in speaking}

        if "pseudo" in active:
            pseudo_teacher = p[self.branches[0]]
            if self.pseudo_detach:
                pseudo_teacher = pseudo_teacher.detach()
            values["pseudo"] = kd(step.student.logits, pseudo_teacher, self.tau_pseudo)
        if "stage_kd" in active:
            values["stage_kd"] = self._total(
                "stage_kd", {b: kd(p[b], step.teacher.logits, self.tau) for b in speaking}
            )
        if "feature" in active:
            values["feature"] = self._total(
                "feature", {b: self._feature(step.teacher, b, q, hidden) for b in matched}
            )
        return values

    def _feature(
        self, teacher: Features, branch: Branch, q: dict[Branch, Tensor], hidden: dict[Branch, Tensor]
    ) -> Tensor:
        """MSE(Q_i, T_i), or with the teacher's own stage in place of its final map."""
        if branch.target is None:
            assert teacher.final is not None  # `build` refuses teachers without one
            return feature_mse(q[branch], teacher.final)
        return feature_mse(self._projector(branch).match(hidden[branch]), teacher.stages[branch.target])

    def _total(self, name: str, per_stage: dict[Branch, Tensor]) -> Tensor:
        """The sum over the tapped stages, each of which is shown in `details`."""
        self.details.update({f"{name}/{b.name}": value.detach() for b, value in per_stage.items()})
        return torch.stack(list(per_stage.values())).sum()

    def _projector(self, branch: Branch) -> Projector:
        return self.projectors[self.branches.index(branch)]  # type: ignore[return-value]

    def _hidden(self, student: Features, branch: Branch) -> Tensor:
        """The projector's middle map, on the student's map aligned with its target's size."""
        return self._projector(branch).hidden(pool_to(student.stages[branch.stage], branch.size))

    def _embed(self, student: Features, branch: Branch) -> Tensor:
        """(B, c) GAP(Q_i)."""
        return gap(self._projector(branch).out(self._hidden(student, branch)))

    def project(self, step: Step) -> Tensor | None:
        """(B, c) GAP(Q_1): the deepest stage in the teacher's embedding space, if a term trains P_1."""
        require_built(self)
        if not self._weighs("stage_kd", "feature") and (self.pseudo_detach or not self._weighs("pseudo")):
            return None
        with evaluating(self):
            return self._embed(step.student, self.branches[0])

    def side_logits(self, step: Step) -> dict[str, Tensor]:
        """p_1 as "pseudo-teacher", and "stage logits N" of the other tapped stages, N counted from 1."""
        require_built(self)
        with evaluating(self):
            logits = {b.stage + 1: step.classifier(self._embed(step.student, b)) for b in self.branches}
        deepest = self.branches[0].stage + 1
        return {"pseudo-teacher" if n == deepest else f"stage logits {n}": p for n, p in logits.items()}

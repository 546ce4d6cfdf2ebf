"""MTKD-SSR: features and responses of every stage, and a student that reviews its own earlier stages."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdlab.errors import ConfigError
from kdlab.losses import align, channel_mse, cross_entropy, cwd, gap, ickd, kd, rkd
from kdlab.methods.base import Method, Preparation, Step, Term
from kdlab.methods.ce_kd import ce_term
from kdlab.methods.checks import choice, number, require_built, same_classes, whole
from kdlab.methods.exits import HEADS, ExitPlan, TeacherExits, scaled_epochs, trained_once
from kdlab.methods.projectors import conv_bn_relu, evaluating
from kdlab.methods.registry import register
from kdlab.methods.schedules import Piecewise, Warmup
from kdlab.models.features import Features, NetSpec

REVIEWS = ("all", "adjacent", "final_only", "shallow_to_deep", "bidirectional")


def review_pairs(count: int, mode: str) -> list[tuple[int, int]]:
    """(who teaches, who learns) among exits 1..count."""
    deep_to_shallow = [(k, j) for k in range(2, count + 1) for j in range(1, k)]
    shallow_to_deep = [(j, k) for k, j in deep_to_shallow]
    return {
        "all": deep_to_shallow,
        "adjacent": [(k, j) for k, j in deep_to_shallow if k == j + 1],
        "final_only": [(k, j) for k, j in deep_to_shallow if k == count],
        "shallow_to_deep": shallow_to_deep,
        "bidirectional": deep_to_shallow + shallow_to_deep,
    }[mode]


@register
class MTKDSSR(Method):
    """Multi-target KD via student self-reflection (reconstructed): three kinds of knowledge, stage by stage.

    K stages, aligned from the deep end; F_k^S (B, c, h, w), F_k^T: the maps of stage k; z_k (B, C): logits of
    an exit after stage k, z_K the network's own. phi_k: adapter (1x1 convolution,
    BN, ReLU) to the teacher's width.

        scd        = sum_k mean_{b,c} (GAP(phi_k(F_k^S)) - GAP(F_k^T))^2          channels
        srd        = sum_k KD_tau(z_k^S, z_k^T)                                  responses
        crd_review = 2/(K(K-1)) sum_{k>j} KD_tau(z_j^S, sg z_k^S)                deep exits teach shallow ones
        aux_ce     = sum_{k<K} CE(z_k^S, y)
        L = CE(z_K^S, y) + aux_ce + 6 scd + srd + w(e) crd_review,    w(e) = min(e/20, 1)

    KD_tau(a, t) = tau^2 mean_b KL(softmax(t/tau) || softmax(a/tau)); sg: stop-gradient. Exits are dropped
    after training.

    Published in the abstract: the three targets (stage-wise channel and response distillation, cross-stage
    review by self-distillation of responses). Everything else is ours: that a stage is a depth, the exits
    and how the teacher gets its own (below), the pairing, temperatures, weights but the 6 of the same
    group's channel distillation, the ramp, `aux_ce`.

    The teacher's exits, `teacher_exits`: "A": trained before the students, on the frozen teacher, once for
    all students; its own logits stay what they are. "B": trained along with a copy of the teacher, which then
    takes its place (no longer comparable with other methods). "C": trained along with the student by a term
    `teacher_exit_ce` of their own (poor targets early on).

    Look at: the accuracy of every exit of both networks over the epochs; which of the K x K divergences among
    the student's exits the review closes; the balance of the terms (6 scd is the largest at first).

    Args:
        w_scd, w_srd, w_review, w_aux, ce: weights.
        tau: of `srd` and `crd_review`.
        review_warmup: epochs of the ramp of `crd_review`; 0: none.
        decay: weaken `scd` by 0.9 from epoch 60 and 0.81 from 160.
        scd_mode: "gap_mse"; "cwd" or "ickd" on the adapted maps; "se_kl": KL over the channels of GAP.
        scd_relation: add RKD-distance + 2 RKD-angle of the GAP vectors.
        srd_final: whether `srd` includes k = K, which is ordinary KD.
        crd_mode: who teaches whom: "all"; "adjacent" (k teaches k-1); "final_only" (K teaches all, as in
            BYOT); "shallow_to_deep"; "bidirectional".
        crd_reduction: "mean" or "sum" over these pairs; None: the sum for "adjacent" and "final_only", else
            the mean.
        head: "byot" (1x1, r x r, 1x1 convolutions) or "mirror" (a residual block per remaining stage).
        teacher_exits: "A", "B" or "C".
        exit_epochs: length of the exits' training (A, B); None: 100 for 240 epochs of the students, in
            proportion for fewer.
        exit_lr: its learning rate, a tenth after 30, 60 and 90 %.

    >>> kdlab.methods.MTKDSSR()
    MTKDSSR[ce=1, scd=6, srd=1, crd_review=1 warmup:20, aux_ce=1]
    >>> kdlab.methods.MTKDSSR(w_review=0).active(epoch=1)
    ['ce', 'scd', 'srd', 'aux_ce']
    """

    key = "mtkd_ssr"
    title = "MTKD-SSR (reconstructed)"
    paper = "Gou, Xiong, Yu, Du, Zhan, Tao, IJCV 131 (2023) 1857-1874, doi 10.1007/s11263-023-01792-z"
    family = "feature + logit + self"
    status = "recon"
    status_note = "three targets published in the abstract; exits, pairing, weights and schedules are ours"
    trained = {
        "adapters": "one per stage: 1x1 convolution, BN, ReLU to the teacher's width",
        "exits": "the student's: bottleneck and linear layer after each stage but the deepest",
        "teacher_exits": "the teacher's, trained before the students (option C: along with them)",
    }
    presets = {"200 epochs, as the same group's channel distillation": {"decay": True}}

    def __init__(
        self,
        w_scd: float = 6.0,
        w_srd: float = 1.0,
        w_review: float = 1.0,
        w_aux: float = 1.0,
        ce: float = 1.0,
        tau: float = 4.0,
        review_warmup: int = 20,
        decay: bool = False,
        scd_mode: Literal["gap_mse", "cwd", "ickd", "se_kl"] = "gap_mse",
        scd_relation: bool = False,
        srd_final: bool = True,
        crd_mode: Literal["all", "adjacent", "final_only", "shallow_to_deep", "bidirectional"] = "all",
        crd_reduction: Literal["mean", "sum"] | None = None,
        head: Literal["byot", "mirror"] = "byot",
        teacher_exits: Literal["A", "B", "C"] = "A",
        exit_epochs: int | None = None,
        exit_lr: float = 0.05,
    ) -> None:
        self.option = choice(self, "teacher_exits", teacher_exits, ("A", "B", "C"))
        both = ("student.stages", "teacher.stages")
        logits = ("student.logits", "teacher.logits") if srd_final else ()
        terms = [
            ce_term(ce),
            Term("scd", w_scd, both, "give the teacher's channel averages at every stage"),
            Term("srd", w_srd, both + logits, "give the response of the teacher's exit at every stage"),
            Term(
                "crd_review",
                w_review,
                ("student.stages", "student.logits"),
                "review: make exits of the student agree with each other",
            ),
            Term("aux_ce", w_aux, ("student.stages", "target"), "be right at every exit"),
        ]
        if self.option == "C":
            own = Term("teacher_exit_ce", 1.0, ("teacher.stages", "target"), "train the teacher's exits")
            terms.append(own)
        super().__init__(*terms)
        self.tau = number(self, "tau", tau, above=0)
        if epochs := whole(self, "review_warmup", review_warmup, minimum=0):
            self.terms["crd_review"].schedule = Warmup(epochs)
        if decay:
            self.terms["scd"].schedule = Piecewise(((60, 0.9), (160, 0.81)))
        self.scd_mode = choice(self, "scd_mode", scd_mode, ("gap_mse", "cwd", "ickd", "se_kl"))
        self.scd_relation, self.srd_final = bool(scd_relation), bool(srd_final)
        self.crd_mode = choice(self, "crd_mode", crd_mode, REVIEWS)
        summed = crd_mode in ("adjacent", "final_only")
        self.crd_sum = summed if crd_reduction is None else self._reduction(crd_reduction) == "sum"
        self.head = choice(self, "head", head, HEADS)
        self.exit_epochs = None if exit_epochs is None else whole(self, "exit_epochs", exit_epochs, minimum=1)
        self.exit_lr = number(self, "exit_lr", exit_lr, above=0)
        self.own: tuple[int, ...] = ()
        self.other: tuple[int, ...] = ()
        self.names: list[str] = []
        self.deepest_is_final = False

    def _reduction(self, value: str) -> str:
        return choice(self, "crd_reduction", value, ("mean", "sum"))

    # ---- before training ----------------------------------------------------------------------------

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        teacher = teachers[0]
        same_classes(self, student, teacher)
        count = min(len(student.stages), len(teacher.stages))
        self.own = tuple(range(len(student.stages) - count, len(student.stages)))
        self.other = tuple(range(len(teacher.stages) - count, len(teacher.stages)))
        self.names = [student.stage_names[stage] for stage in self.own]
        self.deepest_is_final = teacher.final == teacher.stages[-1]
        self.adapters = nn.ModuleList(
            nn.Sequential(*conv_bn_relu(student.stages[s][0], teacher.stages[t][0]))
            for s, t in zip(self.own, self.other)
        )
        self.exits = ExitPlan.of(student, self.own, self.head).make()
        self.plan = ExitPlan.of(teacher, self.other, self.head)
        self.teacher_exits = TeacherExits(self.plan, self.other, self._copy(teacher.net))
        self.teacher_exits.requires_grad_(self.option == "C")
        self._declare()

    def _copy(self, net: nn.Module) -> Any:
        """A network that may train in the teacher's place, if that is asked for."""
        return copy.deepcopy(net) if self.option == "B" else None

    def _declare(self) -> None:
        """Say what the terms read, now that the stages are known."""
        own = [f"student.stages[{stage}]" for stage in self.own]
        other = [f"teacher.stages[{stage}]" for stage in self.other]
        mine, yours = ["student.logits"], ["teacher.logits"]
        final = self.srd_final
        taps = {
            "scd": own + other,
            "srd": own[:-1] + other[:-1] + (mine + yours) * final,
            "crd_review": own[:-1] + mine,
            "aux_ce": [*own[:-1], "target"] if len(own) > 1 else mine,
            "teacher_exit_ce": [*other[:-1], "target"] if len(own) > 1 else mine,
        }
        if self.option == "B":  # the copy looks at the pictures itself
            for name in ("scd", "srd"):
                taps[name] = [tap for tap in taps[name] if not tap.startswith("teacher")] + ["images"]
        for name, term in self.terms.items():
            term.taps = tuple(taps.get(name, term.taps)) or tuple(mine)

    def prepare(self, preparation: Preparation) -> None:
        """Train the teacher's exits (options A and B)."""
        require_built(self)
        if self.option == "C" or (self.option == "A" and len(self.own) == 1):
            return
        epochs = self.exit_epochs or scaled_epochs(100, preparation.epochs)
        setting = f"{self.option} {self.head} {self.other} {epochs} epochs lr {self.exit_lr:g}"
        make = partial(_fresh, self.plan, self.other, self.teacher_exits.backbone)
        trained_once(self.teacher_exits, preparation, f"teacher exits: {setting}", make, epochs, self.exit_lr)

    def train(self, mode: bool = True) -> MTKDSSR:
        """As of every module, but the teacher's exits stay as they are once they are trained."""
        super().train(mode)
        if self.built and self.option != "C":
            self.teacher_exits.eval()
        return self

    # ---- the losses ---------------------------------------------------------------------------------

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        self.details = {}
        wanted = set(active)
        values = {}
        if "ce" in wanted:
            values["ce"] = cross_entropy(step.student.logits, step.target)
        if not wanted - {"ce"}:
            return values
        require_built(self)
        nothing = [] if len(self.own) > 1 else [step.student.logits.float().sum() * 0.0]
        seen = self._teacher_features(step) if wanted & {"scd", "srd", "teacher_exit_ce"} else None
        shallow = self._exits(step.student) if wanted & {"srd", "crd_review", "aux_ce"} else []
        if "scd" in wanted:
            assert seen is not None
            values["scd"] = self._total("scd", self._channels(step.student, seen))
        if seen is not None and wanted & {"srd", "teacher_exit_ce"}:
            taught = self._teacher_exits(seen)
            if "srd" in wanted:
                values["srd"] = self._total("srd", self._responses(step, shallow, taught, seen) or nothing)
            if "teacher_exit_ce" in wanted:
                errors = [cross_entropy(z, step.target) for z in taught]
                values["teacher_exit_ce"] = self._total("teacher_exit_ce", errors or nothing)
        if "crd_review" in wanted:
            values["crd_review"] = self._review([*shallow, step.student.logits]) if shallow else nothing[0]
        if "aux_ce" in wanted:
            errors = [cross_entropy(z, step.target) for z in shallow]
            values["aux_ce"] = self._total("aux_ce", errors or nothing)
        return values

    def _channels(self, student: Features, teacher: Features) -> list[Tensor]:
        """`scd` of each stage."""
        per_stage = []
        for adapter, own, other in zip(self.adapters, self.own, self.other):
            adapted, target = adapter(student.stages[own]), teacher.stages[other]
            if self.scd_mode == "gap_mse":
                value = channel_mse(adapted, target)
            elif self.scd_mode == "cwd":
                value = cwd(*align(adapted, target), self.tau)
            elif self.scd_mode == "ickd":
                value = ickd(adapted, target)
            else:
                value = kd(gap(adapted), gap(target), 1.0)
            if self.scd_relation:
                value = value + rkd(gap(adapted), gap(target), 1.0, 2.0)
            per_stage.append(value)
        return per_stage

    def _responses(
        self, step: Step, own: Sequence[Tensor], taught: Sequence[Tensor], teacher: Features
    ) -> list[Tensor]:
        """`srd` of each exit."""
        per_exit = [kd(z_s, z_t.detach(), self.tau) for z_s, z_t in zip(own, taught)]
        if self.srd_final:
            per_exit.append(kd(step.student.logits, teacher.logits, self.tau))
        return per_exit

    def _review(self, exits: Sequence[Tensor]) -> Tensor:
        """`crd_review` among all exits, shallow to deep."""
        pairs = review_pairs(len(exits), self.crd_mode)
        share = 1.0 if self.crd_sum else 1 / len(pairs)
        values = [share * kd(exits[j - 1], exits[k - 1].detach(), self.tau) for k, j in pairs]
        titles = [f"{self.names[k - 1]} to {self.names[j - 1]}" for k, j in pairs]
        return self._total("crd_review", values, titles)

    def _total(self, name: str, values: Sequence[Tensor], titles: Sequence[str] | None = None) -> Tensor:
        """The sum, whose parts are shown in `details` by stage."""
        named = zip(titles or self.names, values)
        self.details |= {f"{name}/{title}": value.detach() for title, value in named}
        return torch.stack(list(values)).sum()

    def _exits(self, student: Features) -> list[Tensor]:
        """z_k of the student's exits before the deepest."""
        return [exit_(student.stages[stage]) for stage, exit_ in zip(self.own, self.exits)]

    def _teacher_features(self, step: Step) -> Features:
        """Those of the teacher, or of the copy that was trained with its exits."""
        if self.teacher_exits.backbone is None:
            return step.teacher
        if step.images is None:
            raise ConfigError("MTKD-SSR(teacher_exits='B') needs the pictures themselves: Step(images=...).")
        with torch.no_grad():
            return self.teacher_exits.backbone.features(step.images)

    def _teacher_exits(self, teacher: Features) -> list[Tensor]:
        """z_k of the teacher's exits before the deepest; with gradient to themselves in option C."""
        with torch.set_grad_enabled(self.option == "C" and torch.is_grad_enabled()):
            return self.teacher_exits.speak(teacher.stages)

    # ---- what panels look at ------------------------------------------------------------------------

    def project(self, step: Step) -> Tensor | None:
        """(B, c) GAP(phi_K(F_K)), if the teacher's deepest map is the one whose average it classifies.

        None too where `scd` has no weight, as nothing else trains the adapters.
        """
        require_built(self)
        if not self.deepest_is_final or not self._weighs("scd"):
            return None
        with evaluating(self):
            return gap(self.adapters[-1](step.student.stages[self.own[-1]]))

    def side_logits(self, step: Step) -> dict[str, Tensor]:
        """ "exit K" of the student and "teacher exit K", K counted from 1; without the networks' own."""
        require_built(self)
        with evaluating(self):
            side = {f"exit {k}": z for k, z in enumerate(self._exits(step.student), start=1)}
            blind = self.teacher_exits.backbone is not None and step.images is None
            if step.teachers and not blind:
                taught = self.teacher_exits.speak(self._teacher_features(step).stages)
                side |= {f"teacher exit {k}": z for k, z in enumerate(taught, start=1)}
        return side


def _fresh(plan: ExitPlan, stages: Sequence[int], backbone: Any) -> TeacherExits:
    """Untrained exits, in option B with a copy of the teacher as it is."""
    return TeacherExits(plan, stages, copy.deepcopy(backbone))

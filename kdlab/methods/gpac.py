"""GPAC: probes choose a teacher for each stage, and a learnt scale makes each teacher easier to follow."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.losses import attention_transfer, cross_entropy
from kdlab.methods.base import DataFacts, Method, Preparation, Step, Term
from kdlab.methods.ce_kd import ce_term
from kdlab.methods.checks import choice, number, require_built, same_classes, whole
from kdlab.methods.choosing import RULES, ProbedTeachers
from kdlab.methods.corrector import FORMS, Corrector, corrected, reweighted
from kdlab.methods.registry import register
from kdlab.methods.schedules import Drops, Levels, Piecewise, Schedule, WholeCosine
from kdlab.methods.several import teacher_logits
from kdlab.models.features import NetSpec, StagedNet

LEVELS = (1.0, 0.5, 0.1)
"""Of beta, over the three parts of the training."""


@register
class GPAC(Method):
    """Joint guidance of probe and adaptive corrector (reconstructed), for M frozen teachers.

    Before training, a linear probe on each stage j of each teacher k: a[k, j] is its accuracy on pictures
    held out of training. The best teacher of a stage gives its attention maps there:

        k*(j)     = argmax_k a[k, j]
        attention = sum_j mean_{b,h,w} (A(F_s^j) - A(F_{k*(j)}^j))^2,   A(F) = vec(mean_c F^2) / ||.||_2

    Every teacher k has a scale w_k = softplus(u_k) > 0 of its own, which stretches the student's logits
    without changing the class it predicts, so that this teacher is easier to follow:

        kd_k = tau^2 mean_b KL(softmax(z_k/tau) || softmax(w_k z_s/tau)),   kd = (1/M) sum_k kd_k
        L    = CE(z_s, y) + kd + beta(e) attention
        beta(e) = 1000 {1 for e <= E/3; 1/2 for E/3 < e <= 2E/3; 1/10 then}

    u_k learns from kd_k alone: dkd_k/dw_k = tau (E_{p_s}[z_s] - E_{p_k}[z_s]), 0 where both moments agree.
    w_k is 1 in the first epochs, stays within 0.1 and 10 and is not decayed. Stages are aligned from the
    deep end; F (B, c, h, w), the larger map pooled to the smaller; z (B, C). Accuracy and CE use the plain
    logits.

    Published in the abstract: teachers of middle layers chosen by probe accuracy, a guiding scheme for each
    teacher from its own KL divergence in the student's predicted direction, a weight of the spatial
    attention loss in three levels of the epoch. Everything else is ours: the formula of the corrector,
    choice by stage, probe inputs, breakpoints and levels, all weights.

    Look at: the probe table with the chosen cells; w_k over the epochs; "worst" and a constant beta of the
    same mean, the controls that make both claims falsifiable.

    Args:
        attention, kd, ce: weights; `attention` is beta_0.
        tau: temperature.
        selection: "best_per_stage"; "one_for_all_stages" (best on average); "top_m_mean" (mean of the
            losses to the best `top`); "better_than_student_probe" (all whose probe beats the student's,
            which is probed again every `probe_every` epochs); "random"; "worst"; "all".
        corrector: "scale" (above); "none"; "kl_weight" (w = 1, kd_k times 1 + sg(kd_k)/tau^2);
            "softmax_weight" (weights softmax_k(-sg kd_k)); "argmax_bonus" (a sample counts double for a
            teacher that predicts the student's class).
        schedule: of beta: "down", "up" (the levels reversed), "constant" (with the same mean), "cosine".
        breakpoints: "thirds" of the training; "milestones": where the learning rate drops; "gap": where a
            third, and two thirds, of the student's gap to the chosen teachers' probes is closed (the level
            is then part of the term's value); or two epochs, the last ones of the first two levels.
        granularity: one scale per "teacher", or for each "class" or "sample" of it.
        corrector_warmup: epochs with w = 1.
        corrector_lr: factor on the learning rate of u.
        probe_pool: a map is averaged over this many places per side: 1, 2 or 4.
        probe_split: pictures that judge a probe: "held-out", or "train" (too optimistic).
        probe_every, top, selection_seed: see `selection`.

    >>> kdlab.methods.GPAC()
    GPAC[ce=1, kd=1, attention=1000 levels:1.0,0.5,0.1]
    >>> beta = kdlab.methods.GPAC().term("attention").schedule.over(epochs=30)
    >>> [1000 * beta.factor(epoch) for epoch in (10, 11, 21)]
    [1000.0, 500.0, 100.0]
    """

    key = "gpac"
    title = "GPAC (reconstructed)"
    paper = (
        "Multi-teacher knowledge distillation based on joint Guidance of Probe and Adaptive Corrector, "
        "Neural Networks 164 (2023) 345-356, doi 10.1016/j.neunet.2023.04.015"
    )
    family = "multi-teacher"
    status = "recon"
    status_note = (
        "the three ideas are published in the abstract; every formula, weight and breakpoint is ours"
    )
    trained = {"corrector": "one logit scale per teacher"}

    level: Tensor
    corrector: Corrector

    def __init__(
        self,
        attention: float = 1000.0,
        kd: float = 1.0,
        ce: float = 1.0,
        tau: float = 4.0,
        selection: str = "best_per_stage",
        corrector: Literal["scale", "none", "kl_weight", "softmax_weight", "argmax_bonus"] = "scale",
        schedule: Literal["down", "up", "constant", "cosine"] = "down",
        breakpoints: str | Sequence[int] = "thirds",
        granularity: Literal["teacher", "class", "sample"] = "teacher",
        corrector_warmup: int = 5,
        corrector_lr: float = 1.0,
        probe_pool: int = 1,
        probe_split: Literal["held-out", "train"] = "held-out",
        probe_every: int = 10,
        top: int = 2,
        selection_seed: int = 0,
    ) -> None:
        self.form = choice(self, "corrector", corrector, FORMS)
        self.granularity = choice(self, "granularity", granularity, ("teacher", "class", "sample"))
        by_sample = ("index",) * (self.form == "scale" and self.granularity == "sample")
        look = Term(
            "attention",
            attention,
            ("student.stages", "teacher.stages"),
            "look, at every stage, where the teacher looks that can be read best there",
        )
        super().__init__(
            ce_term(ce),
            Term(
                "kd",
                kd,
                ("student.logits", "teacher.logits", *by_sample),
                "match the softened probabilities of each teacher, as far as a scale can bring them near",
            ),
            look,
        )
        self.tau = number(self, "tau", tau, above=0)
        self.rule = choice(self, "selection", selection, RULES)
        shape = choice(self, "schedule", schedule, ("down", "up", "constant", "cosine"))
        self.by_gap = breakpoints == "gap" and shape in ("down", "up")
        look.schedule = self._schedule(shape, breakpoints)
        self.levels = LEVELS if schedule == "down" else LEVELS[::-1]
        self.warmup = whole(self, "corrector_warmup", corrector_warmup, minimum=0)
        self.corrector_lr = number(self, "corrector_lr", corrector_lr, above=0)
        if probe_pool not in (1, 2, 4):
            raise ConfigError(f"GPAC(probe_pool=...) must be 1, 2 or 4 places per side, not {probe_pool!r}.")
        self.pool = int(probe_pool)
        self.split = choice(self, "probe_split", probe_split, ("held-out", "train"))
        self.every = whole(self, "probe_every", probe_every, minimum=1)
        self.top = whole(self, "top", top, minimum=1)
        self.selection_seed = whole(self, "selection_seed", selection_seed, minimum=0)
        # One teacher leaves nothing to choose; without that choice the method is defined for it.
        self.min_teachers = 1 if look.weight == 0 or self.rule == "all" else 2
        if self.form != "scale":
            self.trained = {}
        self.own: tuple[int, ...] = ()
        self.other: list[tuple[int, ...]] = []
        self.names: list[str] = []

    def _schedule(self, shape: str, breakpoints: str | Sequence[int]) -> Schedule:
        """The schedule of beta; what follows the length of the training is settled in `attach`."""
        if isinstance(breakpoints, str):
            choice(self, "breakpoints", breakpoints, ("thirds", "milestones", "gap"))
        elif not (
            isinstance(breakpoints, list | tuple)
            and len(breakpoints) == 2
            and all(isinstance(e, int) and not isinstance(e, bool) for e in breakpoints)
            and 1 <= breakpoints[0] < breakpoints[1]
        ):
            raise ConfigError(
                "GPAC(breakpoints=...) must be 'thirds', 'milestones', 'gap' or two epochs such as "
                f"(80, 160), not {breakpoints!r}."
            )
        if shape == "cosine":
            return WholeCosine()
        if shape == "constant":
            return Piecewise(((1, sum(LEVELS) / len(LEVELS)),))
        if self.by_gap:
            return Schedule()
        levels = LEVELS if shape == "down" else LEVELS[::-1]
        if breakpoints == "thirds":
            return Levels(levels)
        if breakpoints == "milestones":
            return Drops(levels)
        return Drops(levels).over(0, [int(epoch) for epoch in breakpoints])

    # ---- before training ----------------------------------------------------------------------------

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        for teacher in teachers:
            same_classes(self, student, teacher)
        if self.rule == "top_m_mean" and self.top > len(teachers):
            raise ConfigError(
                f"GPAC(top={self.top}) asks for more teachers than the {len(teachers)} there are."
            )
        count = min(len(net.stages) for net in (student, *teachers))
        self.own = _deepest(student, count)
        self.other = [_deepest(teacher, count) for teacher in teachers]
        self.names = [student.stage_names[stage] for stage in self.own]
        chosen = (self.rule, self.top, self.selection_seed, self.pool, self.split)
        self.probes = ProbedTeachers(self.own, self.other, student.num_classes, *chosen)
        self.register_buffer("level", torch.tensor(self.levels[0] if self.by_gap else 1.0))
        if self.form == "scale":
            shape = {"teacher": (), "class": (student.num_classes,), "sample": (0,)}[self.granularity]
            self.corrector = Corrector(len(teachers), shape)
        self._declare({f"teacher.stages[{stage}]" for stages in self.other for stage in stages})

    def _declare(self, teacher_maps: Collection[str]) -> None:
        mine = [f"student.stages[{stage}]" for stage in self.own]
        self.terms["attention"].taps = (*mine, *sorted(teacher_maps))

    def attach(self, data: DataFacts) -> None:
        super().attach(data)
        if self.form == "scale" and self.granularity == "sample":
            self.corrector = Corrector(len(self.other), (data.size,)).to(self.level.device)

    def prepare(self, preparation: Preparation) -> None:
        """Probe the teachers, once for all students."""
        require_built(self)
        if self.probes.needs_table or self.by_gap:
            self.probes.probe_teachers(preparation)
        if self.rule != "better_than_student_probe":  # whose choice changes: all maps must be at hand
            chosen = enumerate(self.probes.chosen())
            self._declare({f"teacher.stages[{self.other[k][j]}]" for j, some in chosen for k, _ in some})

    def revisits(self, epoch: int) -> bool:
        watches = self.rule == "better_than_student_probe" or self.by_gap
        return watches and (epoch - 1) % self.every == 0

    def revisit(self, preparation: Preparation, student: StagedNet, epoch: int) -> None:
        """Probe the student as the teachers were."""
        self.probes.probe_student(preparation, student)
        if self.by_gap:
            closed, count = self.probes.closed(), len(self.levels)
            self.level.fill_(self.levels[sum(closed >= part / count for part in range(1, count))])

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The scales, not decayed."""
        if self.form != "scale":
            return []
        return [{"params": [self.corrector.u], "weight_decay": 0.0, "lr_scale": self.corrector_lr}]

    # ---- the losses ---------------------------------------------------------------------------------

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        self.details = {}
        values = {}
        if "ce" in active:
            values["ce"] = cross_entropy(step.student.logits, step.target)
        if "kd" in active:
            require_built(self)
            values["kd"] = self._kd(step)
        if "attention" in active:
            require_built(self)
            values["attention"] = self._attention(step)
        return values

    def _kd(self, step: Step) -> Tensor:
        student, teachers = step.student.logits, teacher_logits(step)
        if self.form == "scale" and step.epoch > self.warmup:
            scales = self.corrector(self._index(step))
            parts = corrected(student, teachers, scales, self.tau)
            self._tell("scale", [w.detach().mean() for w in scales])
        else:
            parts = reweighted(student, teachers, self.form, self.tau)
        self._tell("kd", list(parts.detach()))
        return parts.sum()

    def _tell(self, name: str, per_teacher: Sequence[Tensor]) -> None:
        self.details |= {f"{name}/teacher {k}": value for k, value in enumerate(per_teacher, start=1)}

    def _index(self, step: Step) -> Tensor | None:
        """Which picture each sample is, where that decides on its scale."""
        if self.granularity != "sample":
            return None
        if step.index is None or not self.corrector.u.shape[1]:
            raise ConfigError(
                "GPAC(granularity='sample') keeps a scale by picture; it needs attach(...) and Step.index."
            )
        return step.index

    def _attention(self, step: Step) -> Tensor:
        per_stage = []
        for j, chosen in enumerate(self.probes.chosen()):
            student = step.student.stages[self.own[j]]
            values = [
                share * attention_transfer(student, step.teachers[k].stages[self.other[k][j]])
                for k, share in chosen
            ]
            # Nobody may be better than the student any more: 0, but with a gradient to speak of.
            value = torch.stack(values).sum() if values else 0.0 * student.float().mean()
            per_stage.append(self.level * value)
        self.details |= {f"attention/{n}": value.detach() for n, value in zip(self.names, per_stage)}
        return torch.stack(per_stage).sum()

    def scales(self) -> Tensor | None:
        """(M, ...) the scales w as they are, for panels; None without a learnt corrector."""
        return self.corrector.scales().detach() if self.form == "scale" and self.built else None


def _deepest(net: NetSpec, count: int) -> tuple[int, ...]:
    """Numbers of the `count` deepest stages."""
    return tuple(range(len(net.stages) - count, len(net.stages)))

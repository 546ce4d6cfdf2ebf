"""BYOT: a network is its own teacher; its deepest exit teaches the exits before it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.losses import active_difference, cross_entropy, soft_cross_entropy
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.ce_kd import ce_term
from kdlab.methods.checks import choice, number, require_built
from kdlab.methods.exits import HEADS, Exit, ExitPlan
from kdlab.methods.projectors import evaluating
from kdlab.methods.registry import register
from kdlab.models.features import NetSpec


@register
class BYOT(Method):
    """Be your own teacher: every stage has an exit, which learns from the labels and the deepest one.

    Exit k = 1..K-1 turns the map of stage k into features g_k (B, d) of the embedding's width and logits
    z_k (B, C); z_K, g_K are the network's own logits and embedding. There is no other teacher.

        exit_ce = sum_{k<K} CE(z_k, y)
        exit_kd = tau^2 sum_{k<K} CE(softmax(sg z_K / tau), softmax(z_k / tau))
        hint    = sum_{k<K} sum_{b,d} (g_k - sg g_K)^2  where g_k > 0 or g_K > 0
        L       = (1 - alpha) (CE(z_K, y) + exit_ce) + alpha exit_kd + beta hint

    sg: stop-gradient; the deepest exit learns from the labels alone, and what it teaches reaches the trunk
    through the shallow exits. `exit_kd` is a soft cross-entropy, so a perfect student keeps the
    teacher's entropy as its value. `hint` is a sum, hence the tiny beta. After training the exits are
    dropped, unless stopping early is wanted.

    Form of a public reproduction: alpha = 0.1, beta = 1e-6, tau = 3, 200 epochs (recipe `byot_200`). The
    exit's layers (1x1, r x r with stride r, 1x1, each with BN and ReLU) are those of MTKD-SSR here.

    Look at: the accuracy of every exit over the epochs, a staircase whose lower steps are pulled up;
    accuracy against the cost of stopping at an exit.

    Args:
        alpha: share of the deepest exit's teaching, 0..1.
        beta: weight of `hint`.
        temperature: tau.
        head: layers of the exits: "byot", or "mirror": a residual block for each remaining stage.

    >>> kdlab.methods.BYOT()
    BYOT[ce=0.9, exit_ce=0.9, exit_kd=0.1, hint=1e-06]
    >>> kdlab.methods.BYOT().needs_teacher()
    False
    """

    key = "byot"
    title = "BYOT"
    paper = "Zhang et al., ICCV 2019, arXiv 1905.08094"
    family = "self"
    status = "paper"
    status_note = "in the form of a public reproduction"
    trained = {"exits": "bottleneck and linear layer after each stage but the deepest"}

    def __init__(
        self,
        alpha: float = 0.1,
        beta: float = 1e-6,
        temperature: float = 3.0,
        head: Literal["byot", "mirror"] = "byot",
    ) -> None:
        share = number(self, "alpha", alpha, minimum=0)
        if share > 1:
            raise ConfigError(f"BYOT(alpha=...) is a share from 0 to 1, not {alpha!r}.")
        super().__init__(
            ce_term(1 - share),
            Term("exit_ce", 1 - share, ("student.stages", "target"), "be right at every exit"),
            Term(
                "exit_kd",
                share,
                ("student.stages", "student.logits"),
                "make every exit match the deepest one's softened probabilities",
            ),
            Term(
                "hint",
                beta,
                ("student.stages", "student.embedding"),
                "make every exit's features like the embedding, wherever one of them is active",
            ),
        )
        self.temperature = number(self, "temperature", temperature, above=0)
        self.head = choice(self, "head", head, HEADS)
        self.names: tuple[str, ...] = ()

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        count = len(student.stages)
        if count < 2:
            raise ConfigError(
                f"BYOT puts exits before the deepest stage, and {student.name} shows only one; "
                "name more of them with kdlab.models.tap(module, stages=[...])."
            )
        self.names = student.stage_names[: count - 1]
        self.exits = ExitPlan.of(student, range(count), self.head, student.embedding_dim).make()
        maps = tuple(f"student.stages[{stage}]" for stage in range(count - 1))
        for name in ("exit_ce", "exit_kd", "hint"):
            self.terms[name].taps = (*maps, self.terms[name].taps[-1])

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        self.details = {}
        values = {}
        if "ce" in active:
            values["ce"] = cross_entropy(step.student.logits, step.target)
        if not {"exit_ce", "exit_kd", "hint"} & set(active):
            return values
        require_built(self)
        exits: list[Exit] = list(self.exits)  # type: ignore[arg-type]
        g = [exit_.embed(step.student.stages[stage]) for stage, exit_ in enumerate(exits)]
        z = [exit_.fc(g_k) for exit_, g_k in zip(exits, g)] if {"exit_ce", "exit_kd"} & set(active) else []
        if "exit_ce" in active:
            values["exit_ce"] = self._total("exit_ce", [cross_entropy(z_k, step.target) for z_k in z])
        if "exit_kd" in active:
            deepest = step.student.logits.detach()
            taught = [soft_cross_entropy(z_k, deepest, self.temperature) for z_k in z]
            values["exit_kd"] = self._total("exit_kd", taught)
        if "hint" in active:
            embedding = step.student.embedding.detach()
            values["hint"] = self._total("hint", [active_difference(g_k, embedding) for g_k in g])
        return values

    def _total(self, name: str, per_exit: Sequence[Tensor]) -> Tensor:
        """The sum over the exits, each of which is shown in `details`."""
        self.details |= {f"{name}/{stage}": value.detach() for stage, value in zip(self.names, per_exit)}
        return torch.stack(list(per_exit)).sum()

    def side_logits(self, step: Step) -> dict[str, Tensor]:
        """ "exit K" for each exit but the deepest, K counted from 1."""
        require_built(self)
        with evaluating(self):
            return {f"exit {k + 1}": exit_(step.student.stages[k]) for k, exit_ in enumerate(self.exits)}

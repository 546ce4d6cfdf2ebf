"""DCKD: the student is pulled up to the teacher, never down, and a feature method does the rest."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdlab.errors import ConfigError
from kdlab.losses import cross_entropy, gated_nckd, hybrid_target, nckd, surer_teacher
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.ce_kd import ce_term
from kdlab.methods.checks import (
    choice,
    enough_classes,
    linear_classifier,
    number,
    require_built,
    same_classes,
    whole,
)
from kdlab.methods.hosting import LOGIT_TAPS, Around
from kdlab.methods.projectors import evaluating
from kdlab.methods.registry import make, register
from kdlab.methods.schedules import Schedule, Warmup
from kdlab.models.features import NetSpec

TAPS = ("student.logits", "teacher.logits", "target")
REUSED = ("student.embedding", "teacher.classifier", "teacher.logits", "target")


@register
class DCKD(Around):
    """Decoupled classifier knowledge distillation: what the student has got right is kept.

    p_t = softmax(z/tau)_y, phat_i = p_i / (1 - p_t) for i != y; z^S, z^T (B, C). With the fused mass m,
    without gradient, the hybrid target is q_y = m, q_i = (1 - m) phat_i^S:

        m         = max(p_t^T, p_t^S)                       or teacher, mean, logit
        target    = tau^2 mean_b KL([m, 1-m] || [p_t^S, 1-p_t^S])
        nontarget = tau^2 mean_b 1[argmax z^S != y] KL(phat^T || phat^S)
        feature   = the terms of a feature method but `ce`, times their own weights
        L = CE(z^S, y) + w(e) (alpha target + beta nontarget + lambda_f feature),  w(e) = min(e / warmup, 1)

    `max`: where p_t^S >= p_t^T loss and gradient are exactly 0 (KD and DKD would pull the student down);
    elsewhere the gradient is TCKD's. `teacher` is TCKD, `mean` has half its gradient, `logit` puts the
    teacher's z_y among the student's other logits. The target term carries no knowledge of the other
    classes, hence the feature partner (or beta > 0). Gradient rows sum to 0 unless `freeze`.

    Published (abstract): the output is split into non-target classes of the student and target classes
    of both networks; what the student already knows is fixed; combines with feature methods. Ours: the
    hybrid target, the rule `max`, temperature, weights, warm-up, the partner.

    Look at: p_t^S against p_t^T with the inactive half-plane, the share of active samples per epoch
    (`details["fusion/active"]`) beside how often KD would pull a better student down.

    Args:
        fusion: how m is made: "max", "teacher", "mean", "logit".
        freeze: gradient of `target` reaches z_y^S alone; nothing then holds the other logits, and trainings
            that were tried on the digits diverged.
        gate: `nontarget` acts on samples that the student gets wrong; False: DKD's plain NCKD.
        tau: temperature; ImageNet 1.
        alpha, beta, lambda_f, ce: weights of `target`, `nontarget`, `feature`, `ce`. beta 2, 6 or 8 as
            in DKD when used.
        feature_method: the partner, a feature or relation method by name, mapping or as a `Method`;
            None: none. Its warm-up gives way to this one's.
        reading: "hybrid"; or "classifier": the student's target probability is that of the teacher's frozen
            classifier on the projected student embedding, z^C = W_T r(f_S) + b_T.
        connector: r of that reading: "conv" (1x1 convolution and BN of the pooled feature) or "linear".
        warmup: epochs; 20, on ImageNet 1; 0: none.

    >>> kdlab.methods.DCKD()
    DCKD[ce=1, target=1 warmup:20, nontarget=0 warmup:20, feature=1 warmup:20]
    >>> kdlab.methods.DCKD(feature_method=None, beta=8, warmup=0)  # logits alone
    DCKD[ce=1, target=1, nontarget=8]
    """

    key = "dckd"
    title = "DCKD (reconstructed)"
    paper = "Wang, Dong, Zhu, Li, PLoS ONE 20(2) e0314267 (2025), doi 10.1371/journal.pone.0314267"
    family = "logit + feature"
    status = "recon"
    status_note = (
        "the split at the labelled class and what is kept are in the abstract; all formulas are ours"
    )
    trained = {"partner": "the parts of the feature method"}
    presets = {
        "CIFAR-100, CIFAR-10, Tiny-ImageNet": {"alpha": 1.0, "tau": 4.0, "warmup": 20},
        "ImageNet, ResNet-18": {
            "tau": 1.0,
            "warmup": 1,
            "feature_method": {"key": "reviewkd", "params": {"weight": 1.0}},
        },
        "ImageNet, MobileNet": {
            "tau": 1.0,
            "warmup": 1,
            "feature_method": {"key": "reviewkd", "params": {"weight": 8.0}},
        },
    }

    def __init__(
        self,
        fusion: Literal["max", "teacher", "mean", "logit"] = "max",
        freeze: bool = False,
        gate: bool = True,
        tau: float = 4.0,
        alpha: float = 1.0,
        beta: float = 0.0,
        feature_method: str | Mapping[str, Any] | Method | None = "reviewkd",
        lambda_f: float = 1.0,
        reading: Literal["hybrid", "classifier"] = "hybrid",
        connector: Literal["conv", "linear"] = "conv",
        ce: float = 1.0,
        warmup: int = 20,
    ) -> None:
        partner = None if feature_method is None else self._partner(feature_method)
        self.reused = choice(self, "reading", reading, ("hybrid", "classifier")) == "classifier"
        terms = [
            ce_term(ce),
            Term("target", alpha, REUSED if self.reused else TAPS, "be no less sure than the teacher"),
            Term("nontarget", beta, TAPS, "rank the other classes as the teacher does, where wrong"),
        ]
        if partner is not None:
            doc = f"what {partner.title} asks for"
            terms.append(Term("feature", lambda_f, _taps(partner), doc))
        super().__init__(*terms)
        recorded = self.params.get("feature_method")
        if isinstance(recorded, Method):
            self.params["feature_method"] = recorded.config()
        if epochs := whole(self, "warmup", warmup, minimum=0):
            for term in terms[1:]:
                term.schedule = Warmup(epochs)
        self.fusion: Any = choice(self, "fusion", fusion, ("max", "teacher", "mean", "logit"))
        self.freeze, self.gate = bool(freeze), bool(gate)
        self.tau = number(self, "tau", tau, above=0)
        self.linear = choice(self, "connector", connector, ("conv", "linear")) == "linear"
        self.connector: nn.Module | None = None
        self.partner: Method | None = partner
        parts = {"connector": "student embedding to the teacher's width"} if self.reused else {}
        if partner is not None:
            every = [m for m in partner.modules() if isinstance(m, Method)]
            what = ", ".join(text for m in every for text in m.trained.values())
            parts["partner"] = f"{partner.title}: {what or 'nothing'}"
            self.min_teachers, self.second_view = partner.min_teachers, partner.second_view
        self.trained = parts

    def _partner(self, spec: str | Mapping[str, Any] | Method) -> Method:
        """A copy of the feature method, without its warm-up.

        Raises:
            ConfigError: it compares logits alone, or replaces the predictor.
        """
        partner = make(spec).fresh()
        if partner.overrides("predict"):
            raise ConfigError(
                f"DCKD(feature_method=...) distils the student's own classifier, which {partner.title} "
                "replaces; choose another feature method."
            )
        if not {tap for name in _used(partner) for tap in partner.terms[name].taps} - LOGIT_TAPS:
            raise ConfigError(
                f"DCKD(feature_method=...) must be a feature or relation method, and {partner.title} reads "
                f"no features; choose one such as 'reviewkd', or add it: DCKD() + {partner.code()}."
            )
        for term in partner.terms.values():
            if isinstance(term.schedule, Warmup):
                term.schedule = Schedule()
        return partner

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        same_classes(self, student, teachers[0])
        if self.terms["nontarget"].weight:
            enough_classes(self, student, 3, "one other class has nothing to rank; use beta=0.")
        if self.reused:
            linear_classifier(self, teachers[0])
            width = teachers[0].embedding_dim
            layer = nn.Linear(student.embedding_dim, width, bias=self.linear)
            self.connector = layer if self.linear else nn.Sequential(layer, nn.BatchNorm1d(width))
        if self.partner is not None:
            try:
                self.partner.build(student, teachers)
            except ConfigError as error:
                raise ConfigError(f"DCKD's feature_method cannot work here: {error}") from error
            self.settle()

    def inner(self) -> Method | None:
        return self.partner

    def settle(self) -> None:
        if self.partner is not None:
            self.terms["feature"].taps = _taps(self.partner)

    def parameter_groups(self) -> list[dict[str, Any]]:
        own = [] if self.connector is None else [{"params": list(self.connector.parameters())}]
        return own + ([] if self.partner is None else self.partner.parameter_groups())

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        self.details = {}
        values = {}
        if "ce" in active:
            values["ce"] = cross_entropy(step.student.logits, step.target)
        if "target" in active:
            logits = self._reused_logits(step) if self.reused else step.student.logits
            given = (logits, step.teacher.logits, step.target)
            values["target"] = hybrid_target(*given, self.fusion, self.tau, self.freeze)
            self.details["fusion/active"] = surer_teacher(*given, self.tau).float().mean()
        if "nontarget" in active:
            part = gated_nckd if self.gate else nckd
            values["nontarget"] = part(step.student.logits, step.teacher.logits, step.target, self.tau)
        if "feature" in active:
            values["feature"] = self._feature(step)
        return values

    def _feature(self, step: Step) -> Tensor:
        """The partner's terms times their weights (and schedules other than a warm-up)."""
        require_built(self)
        assert self.partner is not None  # there is no term "feature" without one
        self.partner.details = {}
        raw = self.partner.losses(step, _used(self.partner))
        parts = {name: self.partner.terms[name].factor(step.epoch) * value for name, value in raw.items()}
        self.details |= {f"feature/{name}": value.detach() for name, value in parts.items()}
        return torch.stack(list(parts.values())).sum()

    def _embed(self, step: Step) -> Tensor:
        require_built(self)
        assert self.connector is not None
        return self.connector(step.student.embedding)

    def _reused_logits(self, step: Step) -> Tensor:
        """z^C: (B, C) what the teacher's classifier makes of the student's embedding."""
        return step.classifier(self._embed(step))

    # ---- further outputs: those of reading "classifier", and of the partner -----------------------

    def overrides(self, name: str) -> bool:
        own = self.reused and name in ("project", "side_logits")
        return own or (self.partner is not None and self.partner.overrides(name))

    def project(self, step: Step) -> Tensor | None:
        """(B, d_t) r(f_S) in the reading "classifier", else what the partner projects."""
        if self.reused:
            with evaluating(self):
                return self._embed(step)
        return None if self.partner is None else self.partner.project(step)

    def side_logits(self, step: Step) -> dict[str, Tensor]:
        """ "reused head" in the reading "classifier", and the partner's."""
        side = {} if self.partner is None else self.partner.side_logits(step)
        if self.reused:
            with evaluating(self):
                side = {"reused head": self._reused_logits(step)} | side
        return side


def _used(partner: Method) -> list[str]:
    """The partner's terms that count: all but `ce` and those that are switched off."""
    return [n for n, term in partner.terms.items() if n != "ce" and term.enabled and term.weight]


def _taps(partner: Method) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tap for name in _used(partner) for tap in partner.terms[name].taps))

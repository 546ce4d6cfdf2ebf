"""LSKD: logits are standardised before any logit method compares them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

from kdlab.losses import standardize_logits
from kdlab.methods.base import Method, Step
from kdlab.methods.checks import enough_classes, same_classes
from kdlab.methods.hosting import Around, HostSpec, configured, copies, logit_host, record_host, with_logits
from kdlab.methods.registry import register
from kdlab.models.features import NetSpec

PUBLISHED: dict[str, dict[str, float]] = {
    "kd": {"temperature": 2.0, "ce": 0.1, "kd": 9.0},
    "dkd": {"temperature": 2.0, "ce": 1.0, "alpha": 9.0, "beta": 72.0},
}
"""What a host that is given by its name alone is set to."""


@register
class LSKD(Around):
    """Logit standardisation: what counts is the order and spacing of the logits, not their range.

        zhat = (z - mean(z)) / (std(z) + 1e-7)      per row of z_s and z_t (B, C), std unbiased
        L    = the host's, with zhat in place of z wherever the teacher takes part

    KD is the host unless another is named: L = 0.1 CE(z_s, y) + 9 KD_2(zhat_s, zhat_t). Nothing is
    detached: gradient flows through the student's mean and std, and so is orthogonal to z_s - mean.
    The same as a temperature tau std(z) for each sample and network: a small student need not reach the
    range of a large teacher's logits. Terms without a teacher (`ce`) keep the raw logits.

    Look at: histograms of tau std(z) of both networks, which are the temperatures in effect.

    Args:
        host: "kd", or any method that compares logits, by name, mapping or as a `Method`:
            `LSKD("dkd")`, `LSKD(DKD(alpha=9, beta=72, temperature=2))`. By name alone KD and DKD get the
            published weights for z-scores; other hosts keep their own, which are made for raw logits.
        temperature, ce, kd: of the host "kd"; 2 (3 or 4 for some pairs), 0.1 and 9 (1 to 18, by pair)
            are published. Any other host is configured itself.

    >>> kdlab.methods.LSKD()
    LSKD[ce=0.1, kd=9]
    >>> kdlab.methods.LSKD("dkd")
    LSKD[ce=1, tckd=9 warmup:20, nckd=72 warmup:20]
    """

    key = "ls_kd"
    title = "LSKD"
    paper = "Sun, Ren, Li, Wang, Cao, CVPR 2024, arXiv 2403.01427"
    family = "logit"
    status = "code"
    status_note = "published with KD, DKD, MLKD and CTKD as hosts"
    presets = {
        "KD": {"host": "kd", "temperature": 2.0, "ce": 0.1, "kd": 9.0},
        "DKD": {"host": {"key": "dkd", "params": PUBLISHED["dkd"]}},
        "ImageNet": {"temperature": 2.0, "ce": 1.0, "kd": 9.0},
    }

    def __init__(
        self,
        host: HostSpec = "kd",
        temperature: float | None = None,
        ce: float | None = None,
        kd: float | None = None,
    ) -> None:
        given = {"temperature": temperature, "ce": ce, "kd": kd}
        chosen = logit_host(self, configured(self, host, PUBLISHED, given))
        super().__init__(*copies(chosen))
        record_host(self, host, chosen)
        self.host = chosen
        self.min_teachers, self.second_view = chosen.min_teachers, chosen.second_view
        self.trained = {"host": f"what {chosen.title} trains"} if chosen.trained else {}

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        same_classes(self, student, teachers[0])
        enough_classes(self, student, 3, "two z-scores are always 0.71 and -0.71; use the host alone.")
        self.host.build(student, teachers)

    def inner(self) -> Method:
        return self.host

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self.host.parameter_groups()

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        self.host.details = {}
        plain = [name for name in active if not self.terms[name].needs_teacher]
        values = self.host.losses(step, plain) if plain else {}
        if others := [name for name in active if name not in plain]:
            seen = with_logits(step, standardize_logits, standardize_logits)
            values |= self.host.losses(seen, others)
        self.details = self.host.details
        return values

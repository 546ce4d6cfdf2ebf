"""SKD: the teacher's output is softened, then simplified by a part that learns together with the student."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlab.errors import ConfigError
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.checks import choice, number, same_classes, whole
from kdlab.methods.hosting import Around, HostSpec, configured, copies, logit_host, record_host, with_logits
from kdlab.methods.ls_kd import LSKD
from kdlab.methods.registry import register
from kdlab.methods.simplifier import Axis, Simplifier, guards
from kdlab.models.features import NetSpec


@register
class SKD(Around):
    """Student-friendly knowledge distillation: a target that adapts to this student.

    z_t, z_s (B, C) logits of teacher and student; phi: the simplifier.

        u   = log_softmax(z_t / tau)            softening, (B, C)
        D   = phi(u)                            attention over the samples of the batch, see `Simplifier`
        zt~ = u + D                             simplified teacher logits; D = 0 before training
        kd  = T^2 mean_b KL(softmax(zt~/T) || softmax(z_s/T))
        L   = 0.1 CE(z_s, y) + 0.9 kd

    z_t is detached, zt~ is *not*: kd trains phi as well as the student, and both move towards each other.
    The KL must keep its p~ log p~ part, or phi sharpens its output to one class and both collapse. CE never
    reaches phi; without CE student and simplifier can agree on anything.

    Any logit method can be the host: it reads zt~ wherever it would read z_t, labels stay labels. NKD and
    WTTM have no full KL, so watch the guards there. Feature methods are added: `SKD() + AT()`.

    Look at: teacher, softened teacher, p~ and student of one picture, over epochs; the guards in `details`
    ("simplifier/entropy", "simplifier/batch variance", "simplifier/agreement", "simplifier/distance").

    Published (abstract): softening, then a simplifier with attention, trained jointly by the unchanged
    distillation loss. Ours: everything else, attention over samples, one head, log-softmax, LayerNorm,
    the residual path with an output that starts at 0, tau = 2, the width, the anchor.

    Args:
        tau: softening temperature; None: 2, or 1 behind logit standardisation, which undoes it.
        soften: False: tau = 1.
        softening: "log_softmax", or "scale": u = z_t / tau, the same target.
        simplifier: False: u is the target.
        axis: "samples", "classes", or "mlp" (control without attention).
        width: d of the attention; None: C for up to 200 classes, else 128.
        residual: False: zt~ = D, from an ordinary start.
        input_norm: False: phi sees u itself; then use lr_scale=0.1.
        detach: cut the target's gradient, so that phi does not learn (ablation).
        divergence: "kl", or "soft_ce": without the p~ log p~ part (ablation, host "kd"): collapses.
        anchor: weight of mean_b KL(softmax(z_t/T) || softmax(zt~/T)), a guard.
        lr_scale: factor on the learning rate of phi.
        host: "kd", or any method that compares logits, by name, mapping or as a `Method`.
        temperature, ce, kd: of the host "kd": T 4, 0.1, 0.9 (ImageNet: 1, 0.5, 0.5). Any other host is
            configured itself.

    >>> kdlab.methods.SKD()
    SKD[ce=0.1, kd=0.9, anchor=0]
    >>> kdlab.methods.SKD(host="dkd", simplifier=False)  # softening alone
    SKD[ce=1, tckd=1 warmup:20, nckd=8 warmup:20]
    """

    key = "skd"
    title = "SKD (reconstructed)"
    paper = (
        "Yuan, Lang, Quan, Knowledge-Based Systems 296 (2024) 111915, doi 10.1016/j.knosys.2024.111915, "
        "arXiv 2305.10893"
    )
    family = "logit"
    status = "recon"
    status_note = "softening and a jointly trained attention layer are in the abstract; their form is ours"
    trained = {"simplifier": "attention over the samples of a batch: Q, K, V and an output layer"}
    presets = {
        "CIFAR-100, CIFAR-10, Tiny-ImageNet": {"temperature": 4.0, "ce": 0.1, "kd": 0.9},
        "ImageNet": {"temperature": 1.0, "ce": 0.5, "kd": 0.5, "width": 128},
    }

    def __init__(
        self,
        tau: float | None = None,
        soften: bool = True,
        softening: Literal["log_softmax", "scale"] = "log_softmax",
        simplifier: bool = True,
        axis: Axis = "samples",
        width: int | None = None,
        residual: bool = True,
        input_norm: bool = True,
        detach: bool = False,
        divergence: Literal["kl", "soft_ce"] = "kl",
        anchor: float = 0.0,
        lr_scale: float = 1.0,
        host: HostSpec = "kd",
        temperature: float | None = None,
        ce: float | None = None,
        kd: float | None = None,
    ) -> None:
        given = {"temperature": temperature, "ce": ce, "kd": kd}
        chosen = logit_host(self, configured(self, host, {}, given))
        weight = number(self, "anchor", anchor)
        guard = Term("anchor", weight, ("teacher.logits",), "keep the target near the teacher", optional=True)
        super().__init__(*copies(chosen), *([guard] if simplifier else []))
        record_host(self, host, chosen)
        self.tau = _softening_temperature(self, tau, bool(soften), chosen)
        self.scale = choice(self, "softening", softening, ("log_softmax", "scale")) == "scale"
        self.axis = choice(self, "axis", axis, ("samples", "classes", "mlp"))
        self.width = None if width is None else whole(self, "width", width, minimum=1)
        self.residual, self.input_norm, self.detach = bool(residual), bool(input_norm), bool(detach)
        self.soft_ce = choice(self, "divergence", divergence, ("kl", "soft_ce")) == "soft_ce"
        self.lr_scale = number(self, "lr_scale", lr_scale, above=0)
        self.simplifies = bool(simplifier)
        self.host = chosen
        self.min_teachers, self.second_view = chosen.min_teachers, chosen.second_view
        self.temperature = float(getattr(chosen, "temperature", 1.0))
        self.simplifier: nn.Module | None = None
        self._refuse()
        parts = {"simplifier": self._describe()} if self.simplifies else {}
        self.trained = parts | ({"host": f"what {chosen.title} trains"} if chosen.trained else {})

    def _refuse(self) -> None:
        """Say no to combinations without meaning, and warn of the one that has lost its anchor."""
        if self.min_teachers > 1 or "multi-teacher" in self.host.family:
            raise ConfigError(f"SKD simplifies one teacher's logits, and {self.host.title} has several.")
        if self.soft_ce and self.host.key != "kd":
            raise ConfigError("SKD(divergence='soft_ce') is an ablation of the host 'kd'; leave it at 'kl'.")
        if not self.residual and not self.simplifies:
            raise ConfigError("SKD(simplifier=False, residual=False) has no target; switch one of them on.")
        if self.simplifies and not self.detach and "ce" in self.terms and self.terms["ce"].weight == 0:
            warnings.warn(
                "SKD without ce: student and simplifier can agree on anything; give ce a weight.",
                stacklevel=4,
            )

    def _describe(self) -> str:
        what = {"samples": "attention over the samples of a batch", "classes": "attention over the classes"}
        name = what.get(self.axis, "a hidden layer")
        return f"{name}, and an output layer that starts at 0" if self.residual else f"{name}, output layer"

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        classes = same_classes(self, student, teachers[0])
        if self.simplifies:
            width = self.width or (classes if classes <= 200 else 128)
            axis: Any = self.axis
            self.simplifier = Simplifier(classes, width, axis, self.input_norm, zero=self.residual)
        self.host.build(student, teachers)

    def inner(self) -> Method:
        return self.host

    def parameter_groups(self) -> list[dict[str, Any]]:
        own = [] if self.simplifier is None else list(self.simplifier.parameters())
        groups = [{"params": own, "lr_scale": self.lr_scale}] if own else []
        return groups + [group for group in self.host.parameter_groups() if group["params"]]

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        self.details, self.host.details = {}, {}
        seen: list[tuple[Tensor, Tensor]] = []

        def target(teacher_logits: Tensor) -> Tensor:
            teacher_logits = teacher_logits.detach()
            seen.append((self.simplify(teacher_logits), teacher_logits))
            return seen[-1][0].detach() if self.detach else seen[-1][0]

        changed = with_logits(step, teacher=target)
        values = self.host.losses(changed, [name for name in active if name != "anchor"])
        if "anchor" in active:
            if not seen:  # the host had no use for them
                target(step.teacher.logits)
            log_p, log_t = (F.log_softmax(z.float() / self.temperature, dim=1) for z in seen[0])
            values["anchor"] = F.kl_div(log_p, log_t, reduction="batchmean", log_target=True)
        if self.soft_ce and "kd" in values:
            entropy = _entropy(changed.teacher.logits, self.temperature)
            values["kd"] = values["kd"] + self.temperature**2 * entropy
        self.details = dict(self.host.details)
        if seen and self.simplifies:
            self.details |= guards(*seen[0], self.temperature)
        return values

    def simplify(self, teacher_logits: Tensor) -> Tensor:
        """(B, C) zt~, at least in float32; gradient reaches the simplifier's weights."""
        with torch.autocast(teacher_logits.device.type, enabled=False):
            z_t = teacher_logits.float() if teacher_logits.dtype.itemsize < 4 else teacher_logits
            softened = z_t / self.tau if self.scale else F.log_softmax(z_t / self.tau, dim=1)
            if not self.simplifies:
                return softened
            if self.simplifier is None:
                raise ConfigError("SKD must be built for a student and its teachers first: SKD.build(...).")
            correction = self.simplifier(softened)
            return softened + correction if self.residual else correction


def _softening_temperature(method: Method, tau: float | None, soften: bool, host: Method) -> float:
    """tau, refused where it would be a dead knob."""
    standardised = any(isinstance(part, LSKD) for part in host.modules())
    if tau is not None and number(method, "tau", tau, above=0) != 1:
        if standardised:
            raise ConfigError(
                "SKD(tau=...) has no effect behind logit standardisation, which undoes any scale; drop it."
            )
        if not soften:
            raise ConfigError(
                f"SKD(soften=False) means tau = 1, and tau={tau!r} was given; drop one of them."
            )
    if standardised or not soften:
        return 1.0
    return 2.0 if tau is None else float(tau)


def _entropy(logits: Tensor, temperature: float) -> Tensor:
    """Mean entropy of softmax(logits / temperature), with gradient."""
    log_p = F.log_softmax(logits / temperature, dim=1)
    return -(log_p.exp() * log_p).sum(1).mean()

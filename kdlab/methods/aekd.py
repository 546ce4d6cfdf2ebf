"""AEKD: follow the direction that suits all teachers at once, found from their gradients."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor, nn

from kdlab.errors import ConfigError
from kdlab.losses import gap, gradient_weighted_features, gradient_weights
from kdlab.losses.simplex import MOST
from kdlab.methods.base import Step, Term
from kdlab.methods.checks import final_map, number, require_built
from kdlab.methods.projectors import evaluating
from kdlab.methods.registry import register
from kdlab.methods.several import LastMap, WeighedTeachers, final_of, teacher_logits
from kdlab.models.features import NetSpec


@register
class AEKD(WeighedTeachers):
    """Agree to disagree: adaptive ensemble knowledge distillation in gradient space.

        g_k = mean_b dKD_k / dz_s(b)                      (C,), KD_k the mean KD loss to teacher k
        a   = argmin_a ||sum_k a_k g_k||^2   over sum a = 1, 0 <= a_k <= C_max
        kd  = sum_k a_k KD_k,  a constant
        L   = CE(z_s, y) + 0.9 kd

    One weight per teacher and batch. C_max = 1/M gives the mean of all teachers; C_max >= 1 the common
    descent direction of multiple-gradient descent, which one odd teacher can turn; in between, no
    teacher decides alone. g_k = mean_b tau (softmax(z_s/tau) - softmax(z_k/tau)), so no backward pass is
    needed. The program is solved exactly, on the device.

    `feature` adds the same idea for the last map: one connector r (1x1 convolution, BN, ReLU), for
    teachers whose final maps have one shape; F_k is that map of teacher k:

        f_k     = mean (r(F_s) - F_k)^2,   g_k = df_k / dr(F_s), mean over b
        feature = sum_k a'_k f_k

    Published in code: the program, C_max = 0.6, the weight 0.9. Ours: the exact solver in place of
    scikit-learn's, the case M = 1, the connector and the form of the feature variant.

    Look at: the cosines between the teachers' gradients and the direction that was found; "weight/teacher
    N" in the details.

    Args:
        cap: C_max.
        normalise_gradients: compare directions alone: gradients of length 1, and the weights divided by
            the lengths afterwards (they may then exceed `cap`).
        temperature: tau.
        ce, kd: weights.
        feature: weight of the feature variant; 0: there is no such term and no connector.

    >>> kdlab.methods.AEKD()
    AEKD[ce=1, kd=0.9]
    >>> kdlab.methods.AEKD(feature=1)
    AEKD[ce=1, kd=0.9, feature=1]
    """

    key = "aekd"
    title = "AEKD"
    paper = "Du et al., NeurIPS 2020"
    family = "multi-teacher"
    status = "code"
    status_note = "exact solver and the connector of the optional feature variant are ours"
    trained = {"connectors": "1x1 convolution, BN, ReLU to the teachers' final map (feature variant alone)"}
    presets = {"CA-MKD's re-run": {"kd": 1.0}}

    def __init__(
        self,
        cap: float = 0.6,
        normalise_gradients: bool = False,
        temperature: float = 4.0,
        ce: float = 1.0,
        kd: float = 0.9,
        feature: float = 0.0,
    ) -> None:
        reads = ("student.final", "teacher.final")
        variant = Term("feature", feature, reads, "match the last maps along a direction that suits all")
        more = [variant] if variant.weight else []
        super().__init__(ce, kd, temperature, more)
        self.cap = number(self, "cap", cap, above=0)
        self.normalise_gradients = bool(normalise_gradients)
        self.connectors = nn.ModuleList()
        if not more:
            self.trained = {}

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        count = len(teachers)
        if count > MOST:
            raise ConfigError(f"AEKD weighs at most {MOST} teachers, not {count}; leave some of them out.")
        if count > 1 and self.cap * count < 1 - 1e-9:
            raise ConfigError(
                f"AEKD(cap={self.cap:g}) leaves {count} teachers no weights that sum to 1; "
                f"give a cap of at least 1/{count}."
            )
        if "feature" not in self.terms:
            return
        shapes = [final_map(self, teacher) for teacher in teachers]
        if len(set(shapes)) > 1:
            raise ConfigError(
                f"AEKD(feature=...) compares gradients of one map, but the teachers' final maps differ: "
                f"{', '.join('x'.join(map(str, s)) for s in shapes)}; leave `feature` at 0 for them."
            )
        connector = LastMap(student, shapes[0])
        self.connectors.append(connector)
        self.terms["feature"].taps = (connector.tap, "teacher.final")

    def weights(self, step: Step) -> Tensor:
        a = gradient_weights(
            step.student.logits, teacher_logits(step), self.temperature, self.cap, self.normalise_gradients
        )
        return a[:, None].expand(-1, len(step.student.logits))

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = super().losses(step, active)
        if "feature" in active:
            require_built(self)
            connector: LastMap = self.connectors[0]  # type: ignore[assignment]
            maps = [final_of(teacher) for teacher in step.teachers]
            parts = gradient_weighted_features(
                connector.of(step.student), maps, self.cap, self.normalise_gradients
            )
            values["feature"] = self.total("feature", parts)
        return values

    def project(self, step: Step) -> Tensor | None:
        """(B, d) GAP(r(F_s)): the student in the first teacher's embedding space; feature variant alone."""
        if not self.connectors:
            return None
        with evaluating(self):
            return gap(self.connectors[0].of(step.student))  # type: ignore[operator, union-attr]

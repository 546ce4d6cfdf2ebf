"""CA-MKD: of several teachers, the one that is right about a picture counts most for it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor, nn

from kdlab.losses import confidence_feature, confidence_weights, gap
from kdlab.losses.teachers import released_confidence_scale
from kdlab.methods.base import Step, Term
from kdlab.methods.checks import final_map, linear_classifier, require_built
from kdlab.methods.projectors import evaluating
from kdlab.methods.registry import register
from kdlab.methods.schedules import Piecewise
from kdlab.methods.several import LastMap, WeighedTeachers, final_of, teacher_logits
from kdlab.models.features import Features, NetSpec


@register
class CAMKD(WeighedTeachers):
    """Confidence-aware multi-teacher KD: each teacher's cross-entropy on a sample says how much it counts.

        w_k(b)  = (1 - softmax_k(CE(z_k(b), y_b))) / (M - 1)
        kd      = mean_b sum_k w_k(b) tau^2 KL(softmax(z_k(b)/tau) || softmax(z_s(b)/tau))
        v_k(b)  = (1 - softmax_k(CE(head_k(GAP(r_k(F_s)))(b), y_b))) / (M - 1)
        feature = mean_b sum_k v_k(b) mean_{c,h,w} (r_k(F_s) - F_k)^2
        L       = CE(z_s, y) + kd + 50 feature            (feature from the second epoch on)

    z_s, z_k: (B, C) logits. F_s (B, c, h, w): the student's last map before pooling, resized to each
    teacher's size and regressed to its width by a connector r_k (1x1 convolution, BN, ReLU); F_k: the
    teacher's final map; head_k: its linear classifier, frozen. So a teacher counts in `feature` as far as
    *its classifier can read the student's features*. All weights are at least 0 and sum to 1 over teachers.
    A teacher that is certain and right counts most, one that is certain and wrong least.

    Published in code: all of it, in sums that are divided by M once more, with v not detached (descent
    then makes a teacher look less confident where its features are hard to match). Ours: the scale, so that
    strengths compare across methods; v detached; the resizing from the original map for each teacher (the
    released loop overwrites it, so that the order of teachers matters).

    Look at: the weights of the samples that teachers disagree about; a deliberately bad teacher among good
    ones; the accuracy of "teacher N's classifier" on the student's features.

    Args:
        as_released: divide both terms by M once more.
        detach_weights: let no gradient into v; False as released.
        temperature: tau.
        ce, kd, feature: weights.

    >>> kdlab.methods.CAMKD()
    CAMKD[ce=1, kd=1, feature=50 piecewise:1=0.0,2=1.0]
    >>> kdlab.methods.CAMKD().active(epoch=1)
    ['ce', 'kd']
    """

    key = "ca_mkd"
    title = "CA-MKD"
    paper = "Zhang, Chen, Wang, ICASSP 2022, arXiv 2201.00007"
    family = "multi-teacher"
    status = "code"
    status_note = "weights that sum to 1, detached in the feature term, are ours (preset: as released)"
    trained = {"connectors": "one per teacher: 1x1 convolution, BN, ReLU to its final map"}
    presets = {"released code": {"as_released": True, "detach_weights": False}}

    def __init__(
        self,
        as_released: bool = False,
        detach_weights: bool = True,
        temperature: float = 4.0,
        ce: float = 1.0,
        kd: float = 1.0,
        feature: float = 50.0,
    ) -> None:
        match = Term(
            "feature",
            feature,
            ("student.final", "teacher.final", "teacher.classifier", "target"),
            "match each teacher's last map, most where its classifier can read it already",
            Piecewise(((1, 0.0), (2, 1.0))),
        )
        super().__init__(ce, kd, temperature, [match], taps=("target",))
        self.as_released, self.detach_weights = bool(as_released), bool(detach_weights)

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        for teacher in teachers:
            linear_classifier(self, teacher)
        connectors = [LastMap(student, final_map(self, teacher)) for teacher in teachers]
        self.connectors = nn.ModuleList(connectors)
        match = self.terms["feature"]
        match.taps = (connectors[0].tap, *match.taps[1:])

    def weights(self, step: Step) -> Tensor:
        return confidence_weights(teacher_logits(step), step.target).detach()

    def scale(self, teachers: int) -> float:
        return released_confidence_scale(teachers, not self.as_released)

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = super().losses(step, active)
        if "feature" in active:
            require_built(self)
            regressed = self._regressed(step.student)
            scores = self._scores(step, regressed)
            if self.detach_weights:
                scores = [score.detach() for score in scores]
            maps = [final_of(teacher) for teacher in step.teachers]
            parts = confidence_feature(regressed, maps, scores, step.target)
            values["feature"] = self.total("feature", self.scale(len(parts)) * parts)
        return values

    def _regressed(self, student: Features) -> list[Tensor]:
        return [connector.of(student) for connector in self.connectors]  # type: ignore[operator, union-attr]

    def _scores(self, step: Step, regressed: Sequence[Tensor]) -> list[Tensor]:
        """(B, C) what each teacher's classifier makes of the student's regressed map."""
        return [head(gap(r)) for head, r in zip(step.classifiers, regressed)]

    def project(self, step: Step) -> Tensor:
        """(B, d) GAP(r_1(F_s)): the student in the first teacher's embedding space."""
        require_built(self)
        with evaluating(self):
            return gap(self.connectors[0].of(step.student))  # type: ignore[operator, union-attr]

    def side_logits(self, step: Step) -> dict[str, Tensor]:
        """ "teacher N's classifier" on the student's features, N counted from 1."""
        require_built(self)
        with evaluating(self):
            scores = self._scores(step, self._regressed(step.student))
        return {f"teacher {k}'s classifier": score for k, score in enumerate(scores, start=1)}

"""FitNet: a map in the middle of the student is regressed onto a map in the middle of the teacher."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from kdlab.losses import feature_mse, gap
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.ce_kd import ce_and_kd, ce_term, kd_term
from kdlab.methods.checks import number, require_built, same_classes, stage_index, whole
from kdlab.methods.projectors import Regressor, evaluating
from kdlab.methods.registry import register
from kdlab.methods.schedules import parse_schedule
from kdlab.models.features import NetSpec


@register
class FitNet(Method):
    """Hint training: a regressor r turns a student map into the teacher's map of the same depth.

        hint = mean (r(F_s) - F_t)^2        over all elements
        L    = CE(z_s, y) + 100 * hint

    F_s (B, c_s, h_s, w_s), F_t (B, c_t, h_t, w_t); r is a convolution with bias, BN, ReLU whose kernel
    follows the sizes (see `Regressor`), trained along with the student. The form of the public code:
    one phase, all terms from the first epoch. `init_epochs=n` gives the paper's two phases: n epochs
    with the hint alone, then the other terms without it (seen as schedules on the terms).

    Args:
        weight: weight of `hint`.
        stage: the student's stage, counted from 0 or, if negative, from the deepest; the second one.
        teacher_stage: the teacher's; None: the same number.
        init_epochs: length of a first phase with the hint alone; 0: joint training.
        ce, kd: weights of the cross-entropy and of an optional KD term.
        temperature: tau of the KD term.

    >>> kdlab.methods.FitNet()
    FitNet[ce=1, hint=100, kd=0]
    >>> two = kdlab.methods.FitNet(init_epochs=5)
    >>> two.active(epoch=5), two.active(epoch=6)
    (['hint'], ['ce'])
    """

    key = "fitnet"
    title = "FitNet"
    paper = "Romero et al., ICLR 2015, arXiv 1412.6550"
    family = "feature"
    status = "paper"
    status_note = "in the one-phase form of the public code"
    trained = {"regressor": "convolution, BN, ReLU to the shape of the teacher's map"}

    def __init__(
        self,
        weight: float = 100.0,
        stage: int = 1,
        teacher_stage: int | None = None,
        init_epochs: int = 0,
        ce: float = 1.0,
        kd: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        # Bounds are those of a network and known to `build`; here only the kind of value is checked.
        own = whole(self, "stage", stage, minimum=-99)
        other = own if teacher_stage is None else whole(self, "teacher_stage", teacher_stage, minimum=-99)
        hint = Term("hint", weight, _taps(own, other), "make one middle map predict the teacher's")
        super().__init__(ce_term(ce), hint, kd_term(kd, optional=True))
        self.stage, self.teacher_stage = own, other
        self.temperature = number(self, "temperature", temperature, above=0)
        if after := whole(self, "init_epochs", init_epochs, minimum=0):
            hint.schedule = parse_schedule(f"piecewise:{after + 1}=0")
            for name in ("ce", "kd"):
                self.terms[name].schedule = parse_schedule(f"piecewise:1=0,{after + 1}=1")

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        teacher = teachers[0]
        same_classes(self, student, teacher)
        self.own = stage_index(self, student, self.stage, "student")
        self.other = stage_index(self, teacher, self.teacher_stage, "teacher")
        self.deepest = self.own == len(student.stages) - 1
        self.regressor = Regressor(student.stages[self.own], teacher.stages[self.other])
        self.terms["hint"].taps = _taps(self.own, self.other)

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        values = ce_and_kd(step, active, self.temperature)
        if "hint" in active:
            require_built(self)
            regressed = self.regressor(step.student.stages[self.own])
            values["hint"] = feature_mse(regressed, step.teacher.stages[self.other])
        return values

    def project(self, step: Step) -> Tensor | None:
        """(B, d_t) GAP(r(F_s)) if the hint leads from the deepest stage to the teacher's final map."""
        if not self.built or not self.deepest or not step.teachers:
            return None
        hinted, final = step.teacher.stages[self.other], step.teacher.final
        if final is None or hinted.shape != final.shape or hinted.data_ptr() != final.data_ptr():
            return None
        with evaluating(self):
            return gap(self.regressor(step.student.stages[self.own]))


def _taps(own: int, other: int) -> tuple[str, ...]:
    return (f"student.stages[{own}]", f"teacher.stages[{other}]")

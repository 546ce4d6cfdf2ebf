"""Exercises on logits with labels: the target and non-target parts of KD, DKD and NKD."""

from __future__ import annotations

import torch
from torch import Tensor

from kdlab import losses
from kdlab.exercises.cases import SHIFT_STUDENT, SHIFT_TEACHER, Options, logit_cases, normal
from kdlab.exercises.exercise import Case, Exercise, wrong


def _cases(options: Options) -> list[Case]:
    two: tuple[Tensor, ...] = (normal(4, 2, seed=20), normal(4, 2, seed=21), torch.tensor([0, 1, 1, 0]))
    other = (normal(6, 5, seed=22), normal(6, 5, seed=23, scale=4), torch.tensor([4, 0, 1, 2, 3, 4]))
    more = (
        Case("a sure teacher", (*other, *options(3.0)), {"B": 6, "C": 5, "tau": 3.0}),
        Case("two classes", (*two, *options(4.0)), {"B": 4, "C": 2, "tau": 4.0}, False, "masking"),
    )
    return logit_cases(options, target=True, more=more)


_TEACHER = wrong(
    "teacher",
    "A gradient reaches `teacher_logits`. The teacher gives and is not changed: use "
    "`teacher_logits.detach()`.",
    ("teacher_logits.detach()", "teacher_logits"),
)
_SWAPPED = (
    "Teacher and student are swapped in the KL. The teacher stands first: sum of p_t (log p_t - log p_s)."
)

_TCKD = Exercise(
    name="tckd",
    notebook=2,
    title="The target part of KD",
    task="With p = softmax(z / tau) each network makes a pair: [p of the true class, 1 - that]. Return "
    "tau^2 times the mean over the batch of KL(pair of the teacher || pair of the student). (Zhao et al., "
    "CVPR 2022)",
    reference=lambda s, t, y, tau: losses.tckd(s, t.detach(), y, tau),
    public=losses.tckd,
    cases=lambda: _cases(lambda tau: (tau,)),
    learns=(0,),
    frozen=(1,),
    invariances=(SHIFT_STUDENT, SHIFT_TEACHER),
    source="""
def tckd(student_logits, teacher_logits, target, temperature):
    true_class = F.one_hot(target, student_logits.shape[1]).bool()

    def pair(logits):
        logs = F.log_softmax(logits / temperature, dim=1)
        hit = logs[true_class]
        miss = logs.masked_fill(true_class, -torch.inf).logsumexp(dim=1)
        return torch.stack([hit, miss], dim=1)

    student, teacher = pair(student_logits), pair(teacher_logits.detach())
    divergence = (teacher.exp() * (teacher - student)).sum(dim=1)
    return temperature**2 * divergence.mean()
""",
    hints=(
        "Only one question is asked here: how sure is each network of the true class? Two numbers answer "
        "it, and they sum to 1.",
        "The log of the first is `F.log_softmax(z / tau, 1)` at the true class (`gather`, or a mask from "
        "`F.one_hot`). The log of the second is the logsumexp of all the other classes.",
        "Mask the true class by `masked_fill(mask, -torch.inf)` and take `logsumexp(1)`: this is log(1 - p) "
        "without ever computing 1 - p. Stack both to (B, 2), take the KL of the rows, the mean, and tau^2.",
    ),
    mistakes=(
        _TEACHER,
        wrong("temperature", "The factor tau^2 is missing.", ("temperature**2 * ", "")),
        wrong(
            "reduction",
            "You average over the two entries of the pair too, so the value is half. Sum over the pair.",
            (".sum(dim=1)\n", ".mean(dim=1)\n"),
        ),
        wrong(
            "order", _SWAPPED, ("teacher.exp() * (teacher - student)", "student.exp() * (student - teacher)")
        ),
        wrong(
            "masking",
            "Half of the pair is missing: besides `the true class` there is `not the true class`, 1 - p.",
            ("(teacher - student)).sum(dim=1)", "(teacher - student))[:, 0]"),
        ),
        wrong(
            "masking",
            "You took the class that the teacher finds most likely. The true class is the label, `target`.",
            ("F.one_hot(target, ", "F.one_hot(teacher_logits.argmax(dim=1), "),
        ),
        wrong(
            "masking",
            "You compare all classes: this is the whole KD loss. Bring the others together to one entry "
            "first.",
            ("return torch.stack([hit, miss], dim=1)", "return logs"),
        ),
        wrong(
            "stability",
            "log(1 - p) is infinite where p is rounded to 1. Take the logsumexp of the other classes "
            "instead.",
            ("logs.masked_fill(true_class, -torch.inf).logsumexp(dim=1)", "(1 - hit.exp()).log()"),
        ),
    ),
)

_NCKD = Exercise(
    name="nckd",
    notebook=2,
    title="The non-target part of KD",
    task="Take the true class out of the logits, soften the other C - 1 so that they sum to 1, and return "
    "tau^2 times the mean over the batch of KL(teacher || student) of these. (Zhao et al., CVPR 2022)",
    reference=lambda s, t, y, tau: losses.nckd(s, t.detach(), y, tau),
    public=losses.nckd,
    cases=lambda: _cases(lambda tau: (tau,)),
    learns=(0,),
    frozen=(1,),
    invariances=(SHIFT_STUDENT, SHIFT_TEACHER),
    source="""
def nckd(student_logits, teacher_logits, target, temperature):
    batch, classes = student_logits.shape
    others = ~F.one_hot(target, classes).bool()

    def softened(logits):
        kept = logits[others].reshape(batch, classes - 1)
        return F.log_softmax(kept / temperature, dim=1)

    student, teacher = softened(student_logits), softened(teacher_logits.detach())
    divergence = (teacher.exp() * (teacher - student)).sum(dim=1)
    return temperature**2 * divergence.mean()
""",
    hints=(
        "The logit of the true class must not matter at all here: change it in your head, and the value "
        "stays.",
        "Keep C - 1 logits of each picture (a mask from `F.one_hot`, then `reshape(B, C - 1)`), and take "
        "the softmax of these alone, so that they sum to 1 again.",
        "`kept = logits[~F.one_hot(target, C).bool()].reshape(B, C - 1)` for both networks; what follows is "
        "the KD loss of `kept`.",
    ),
    mistakes=(
        _TEACHER,
        wrong("temperature", "The factor tau^2 is missing.", ("temperature**2 * ", "")),
        wrong(
            "reduction",
            "You average over the other classes too (`reduction='mean'`). Sum over classes, average over "
            "the batch.",
            (".sum(dim=1)", ""),
        ),
        wrong(
            "reduction", "You sum over the batch: take the mean.", ("divergence.mean()", "divergence.sum()")
        ),
        wrong(
            "order", _SWAPPED, ("teacher.exp() * (teacher - student)", "student.exp() * (student - teacher)")
        ),
        wrong(
            "masking",
            "You set the true class's logit to 0. It still has a share in the softmax: exp(0) = 1. Take it "
            "out.",
            ("kept = logits[others].reshape(batch, classes - 1)", "kept = logits * others"),
        ),
        wrong(
            "masking",
            "The probabilities of the others do not sum to 1: take the true class out before the softmax.",
            ("kept = logits[others].reshape(batch, classes - 1)", "kept = logits"),
            ("dim=1)\n\n    student", "dim=1)[others].reshape(batch, classes - 1)\n\n    student"),
        ),
        wrong(
            "masking",
            "The true class still takes part: this is the whole KD loss.",
            ("kept = logits[others].reshape(batch, classes - 1)", "kept = logits"),
        ),
        wrong(
            "masking",
            "You took out the class that the teacher finds most likely, not the label `target`.",
            ("F.one_hot(target, ", "F.one_hot(teacher_logits.argmax(dim=1), "),
        ),
        wrong(
            "stability",
            "Subtracting 1000 from the true class's logit is too little where logits are large. Take it out.",
            ("kept = logits[others].reshape(batch, classes - 1)", "kept = logits - 1000 * ~others"),
        ),
        wrong(
            "finite",
            "You fill the true class with -inf: its log-probability is then -inf for both networks, and "
            "0 times the difference of two infinities is no number. Take the class out, so that C - 1 are "
            "left.",
            ("logits[others].reshape(batch, classes - 1)", "logits.masked_fill(~others, -torch.inf)"),
        ),
        wrong(
            "value",
            "You weigh each picture by 1 - p of its true class, as KD does. NCKD itself has no such weight.",
            (
                "divergence.mean()",
                "(divergence * (1 - F.softmax(teacher_logits.detach() / temperature, dim=1)"
                ".gather(1, target[:, None])[:, 0])).mean()",
            ),
        ),
    ),
)

_DKD_SOURCE = """
def dkd(student_logits, teacher_logits, target, alpha, beta, temperature):
    true_class = F.one_hot(target, student_logits.shape[1]).bool()

    def parts(logits):
        scaled = logits / temperature
        logs = F.log_softmax(scaled, dim=1)
        miss = logs.masked_fill(true_class, -torch.inf).logsumexp(dim=1)
        pair = torch.stack([logs[true_class], miss], dim=1)
        others = scaled[~true_class].reshape(len(scaled), -1)
        return pair, F.log_softmax(others, dim=1)

    def divergence(teacher, student):
        return (teacher.exp() * (teacher - student)).sum(dim=1).mean()

    pair_s, others_s = parts(student_logits)
    pair_t, others_t = parts(teacher_logits.detach())
    target_part = divergence(pair_t, pair_s)
    other_part = divergence(others_t, others_s)
    return temperature**2 * (alpha * target_part + beta * other_part)
"""

_DKD = Exercise(
    name="dkd",
    notebook=2,
    title="Decoupled knowledge distillation",
    task="Return alpha * TCKD + beta * NCKD, both with tau^2 and averaged over the batch. (Zhao et al., "
    "CVPR 2022)",
    reference=lambda s, t, y, alpha, beta, tau: losses.dkd(s, t.detach(), y, alpha, beta, tau),
    public=losses.dkd,
    cases=lambda: _cases(lambda tau: (1.5, 6.0, tau)),
    learns=(0,),
    frozen=(1,),
    invariances=(SHIFT_STUDENT, SHIFT_TEACHER),
    source=_DKD_SOURCE,
    hints=(
        "You have written both parts already (`tckd` and `nckd`): DKD is a sum of the two, with weights of "
        "its own.",
        "The target part compares [p, 1 - p] of the true class; the other part the softmax over the other "
        "classes alone. Neither is multiplied by 1 - p any more: this is what `decoupled` means.",
        "tau^2 (alpha KL(pair_t || pair_s) + beta KL(others_t || others_s)), means over the batch, the "
        "teacher detached; log(1 - p) as the logsumexp of the other classes.",
    ),
    mistakes=(
        _TEACHER,
        wrong("temperature", "The factor tau^2 is missing.", ("temperature**2 * ", "")),
        wrong(
            "temperature",
            "tau^2 multiplies the target part alone. Both parts have it.",
            (
                "temperature**2 * (alpha * target_part + beta * other_part)",
                "temperature**2 * alpha * target_part + beta * other_part",
            ),
        ),
        wrong(
            "reduction",
            "You average over the classes too. Sum over them, and average over the batch alone.",
            (".sum(dim=1).mean()", ".mean()"),
        ),
        wrong("reduction", "You sum over the batch: take the mean.", (".sum(dim=1).mean()", ".sum()")),
        wrong(
            "order", _SWAPPED, ("teacher.exp() * (teacher - student)", "student.exp() * (student - teacher)")
        ),
        wrong(
            "masking",
            "The true class still takes part in the second term. Take it out before the softmax.",
            ("others = scaled[~true_class].reshape(len(scaled), -1)", "others = scaled"),
        ),
        wrong(
            "masking",
            "You set the true class's logit to 0 in the second term; it keeps a share of the softmax. Take "
            "it out.",
            ("others = scaled[~true_class].reshape(len(scaled), -1)", "others = scaled * ~true_class"),
        ),
        wrong(
            "masking",
            "You took the class that the teacher finds most likely. The true class is the label, `target`.",
            ("F.one_hot(target, ", "F.one_hot(teacher_logits.argmax(dim=1), "),
        ),
        wrong(
            "stability",
            "log(1 - p) is infinite where p is rounded to 1. Take the logsumexp of the other classes "
            "instead.",
            (
                "logs.masked_fill(true_class, -torch.inf).logsumexp(dim=1)",
                "(1 - logs[true_class].exp()).log()",
            ),
        ),
        wrong(
            "value",
            "alpha and beta are swapped: alpha weighs the target part, beta the others.",
            ("alpha * target_part + beta * other_part", "beta * target_part + alpha * other_part"),
        ),
        wrong(
            "value",
            "The second part is still multiplied by 1 - p of the teacher, as in KD. DKD has the constant "
            "beta alone.",
            (
                "other_part = divergence(others_t, others_s)",
                "each = (others_t.exp() * (others_t - others_s)).sum(dim=1)\n"
                "    other_part = (pair_t[:, 1].exp() * each).mean()",
            ),
        ),
    ),
)

_NKD = Exercise(
    name="nkd",
    notebook=2,
    title="Normalised knowledge distillation",
    task="Return - mean_b p_t log p_s of the true class (both at temperature 1) - gamma tau^2 mean_b sum "
    "over the other classes of q_t log q_s, with q the softmax at tau over the other classes alone. Both "
    "are soft cross-entropies, so equal logits do not give 0. (Yang et al., ICCV 2023)",
    reference=lambda s, t, y, gamma, tau: losses.nkd(s, t.detach(), y, gamma, tau),
    public=losses.nkd,
    cases=lambda: _cases(lambda tau: (1.5, tau)),
    learns=(0,),
    frozen=(1,),
    invariances=(SHIFT_STUDENT, SHIFT_TEACHER),
    source="""
def nkd(student_logits, teacher_logits, target, gamma, temperature):
    true_class = F.one_hot(target, student_logits.shape[1]).bool()
    teacher_logits = teacher_logits.detach()

    p_t = F.softmax(teacher_logits, dim=1)[true_class]
    log_p_s = F.log_softmax(student_logits, dim=1)[true_class]
    target_part = -(p_t * log_p_s).mean()

    def others(logits):
        return logits[~true_class].reshape(len(logits), -1) / temperature

    q_t, log_q_s = F.softmax(others(teacher_logits), dim=1), F.log_softmax(others(student_logits), dim=1)
    other_part = -(q_t * log_q_s).sum(dim=1).mean()
    return target_part + gamma * temperature**2 * other_part
""",
    hints=(
        "Two soft cross-entropies: one of a single number, the probability of the true class, and one of "
        "the other classes among themselves.",
        "The target part has no temperature: p_t = softmax(z_t) and log p_s = log_softmax(z_s) at the true "
        "class. For the others take the true class out, divide by tau, and use softmax and log_softmax.",
        "-(p_t * log_p_s).mean() - gamma * tau^2 * (q_t * log_q_s).sum(1).mean(), the teacher detached.",
    ),
    mistakes=(
        wrong(
            "teacher",
            "A gradient reaches `teacher_logits`: use `teacher_logits.detach()`.",
            ("teacher_logits.detach()", "teacher_logits"),
        ),
        wrong("temperature", "The factor tau^2 is missing in the second part.", ("temperature**2 * ", "")),
        wrong(
            "temperature",
            "The target part is softened too. It is taken at temperature 1.",
            ("F.softmax(teacher_logits, dim=1)", "F.softmax(teacher_logits / temperature, dim=1)"),
            ("F.log_softmax(student_logits, dim=1)", "F.log_softmax(student_logits / temperature, dim=1)"),
        ),
        wrong(
            "reduction",
            "You average over the other classes too. Sum over them, and average over the batch.",
            ("(q_t * log_q_s).sum(dim=1).mean()", "(q_t * log_q_s).mean()"),
        ),
        wrong(
            "masking",
            "The true class still takes part in the second part. Take it out before the softmax.",
            ("logits[~true_class].reshape(len(logits), -1)", "logits"),
        ),
        wrong(
            "masking",
            "You set the true class's logit to 0 in the second part; it keeps a share of the softmax. Take "
            "it out.",
            ("logits[~true_class].reshape(len(logits), -1)", "(logits * ~true_class)"),
        ),
        wrong(
            "value",
            "The target part is plain cross-entropy: weigh it by the teacher's own probability p_t.",
            ("(p_t * log_p_s)", "log_p_s"),
        ),
        wrong(
            "value",
            "The second part is a KL. NKD takes the soft cross-entropy, without the teacher's entropy.",
            ("(q_t * log_q_s)", "(q_t * (log_q_s - F.log_softmax(others(teacher_logits), dim=1)))"),
        ),
        wrong("value", "gamma is not used: it weighs the second part.", ("gamma * ", "")),
        wrong(
            "value",
            "The sign of both parts is turned: logs are negative, so a loss has a minus in front.",
            ("-(p_t", "(p_t"),
            ("-(q_t", "(q_t"),
        ),
    ),
)

EXERCISES = (_TCKD, _NCKD, _DKD, _NKD)

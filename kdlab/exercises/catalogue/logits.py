"""Exercises on logits without labels: softmax with temperature, KD, standardisation, DIST."""

from __future__ import annotations

import torch

from kdlab import losses
from kdlab.exercises.cases import SHIFT_STUDENT, SHIFT_TEACHER, logit_cases, normal, scaled, shifted
from kdlab.exercises.exercise import Case, Exercise, Invariance, wrong


def _softmax_cases() -> list[Case]:
    found = []
    for case in logit_cases():
        student, _, tau = case.args
        found.append(Case(case.label, (student, tau), case.sizes, case.plain, case.property))
    return found


def _row_cases() -> list[Case]:
    def case(label: str, x: torch.Tensor, plain: bool = True, property: str = "value") -> Case:
        return Case(label, (x,), {"B": x.shape[0], "C": x.shape[1]}, plain, property)

    constant = normal(3, 4, seed=6)
    constant[1] = 2.0
    return [
        case("two pictures of four classes", torch.tensor([[2.0, 1.0, 0.0, -1.0], [8.0, 0.0, 4.0, 4.0]])),
        case("random logits", normal(5, 7, seed=1)),
        case("large random logits", normal(3, 10, seed=2, scale=30)),
        case("one picture", torch.tensor([[3.0, 1.0, -1.0]]), plain=False),
        case("tensors of float64", normal(4, 6, seed=3).double(), plain=False),
        case("tensors that are not contiguous", normal(6, 4, seed=3).T, plain=False),
        case("a picture whose logits are all equal", constant, plain=False, property="stability"),
        case("logits of 10000", normal(3, 5, seed=5, scale=1e4), plain=False, property="stability"),
    ]


_SOFTMAX_T = Exercise(
    name="softmax_t",
    notebook=1,
    title="Softmax with a temperature",
    task="Turn logits (B, C) into probabilities at a temperature: p_c = exp(z_c / tau) / sum_k exp(z_k / "
    "tau).",
    reference=lambda logits, temperature: torch.softmax(logits / temperature, dim=1),
    cases=_softmax_cases,
    kind="tensor",
    learns=(0,),
    invariances=(SHIFT_STUDENT,),
    source="""
def softmax_t(logits, temperature):
    scaled = logits / temperature
    scaled = scaled - scaled.max(dim=1, keepdim=True).values
    powers = scaled.exp()
    return powers / powers.sum(dim=1, keepdim=True)
""",
    hints=(
        "The temperature acts on the logits, before the exponential. What must each row sum to?",
        "Divide the logits by the temperature, take `exp`, and divide each row by its own sum. What does "
        "`exp` of 10000 give? Subtracting the row's largest number first changes nothing else.",
        "`torch.softmax(z, dim=1)` does all of it but one division. Which z do you give it?",
    ),
    mistakes=(
        wrong(
            "invariance",
            "The softmax runs over the batch (dim=0). The probabilities of one picture must sum to 1: use "
            "dim=1.",
            ("max(dim=1, keepdim=True)", "max(dim=0, keepdim=True)"),
            ("powers.sum(dim=1, keepdim=True)", "powers.sum(dim=0, keepdim=True)"),
        ),
        wrong(
            "temperature",
            "You multiply by the temperature. A higher temperature must make the probabilities flatter: "
            "divide.",
            ("logits / temperature", "logits * temperature"),
        ),
        wrong("temperature", "The temperature is not used.", ("logits / temperature", "logits")),
        wrong(
            "temperature",
            "You divide the probabilities by the temperature, so they no longer sum to 1. Divide the logits.",
            ("logits / temperature", "logits"),
            (
                "powers / powers.sum(dim=1, keepdim=True)",
                "powers / powers.sum(dim=1, keepdim=True) / temperature",
            ),
        ),
        wrong(
            "stability",
            "`exp` of large logits is infinite. Subtract the row's largest logit first: the result is the "
            "same.",
            ("scaled - scaled.max(dim=1, keepdim=True).values", "scaled"),
        ),
        wrong(
            "value",
            "You return log-probabilities. Probabilities are asked for: `softmax`, not `log_softmax`.",
            ("powers / powers.sum(dim=1, keepdim=True)", "scaled - powers.sum(dim=1, keepdim=True).log()"),
        ),
    ),
)

_KD = Exercise(
    name="kd",
    notebook=1,
    title="The distillation loss",
    task="Write the loss of Hinton, Vinyals and Dean (2015): tau^2 times the mean over the batch of "
    "KL(softmax(z_t / tau) || softmax(z_s / tau)). Logits are (B, C); the teacher is not changed by it.",
    reference=lambda s, t, tau: losses.kd(s, t.detach(), tau),
    public=losses.kd,
    cases=logit_cases,
    learns=(0,),
    frozen=(1,),
    invariances=(SHIFT_STUDENT, SHIFT_TEACHER),
    source="""
def kd(student_logits, teacher_logits, temperature):
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    divergence = (teacher.exp() * (teacher - student)).sum(dim=1)
    return temperature**2 * divergence.mean()
""",
    hints=(
        "Soften both: logits divided by the temperature, then softmax. KL(a || b) asks how badly b explains "
        "what comes from a: which of the two is the teacher?",
        "KL(a || b) = sum over classes of a (log a - log b). Sum over the classes, average over the "
        "pictures, and think of tau^2. Take logarithms by `F.log_softmax`, never by `log(softmax)`.",
        "`F.kl_div(log_student, log_teacher, reduction='batchmean', log_target=True)` is the mean KL: the "
        "student goes in first, though it stands second in the formula. Multiply it by tau^2 and detach the "
        "teacher.",
    ),
    mistakes=(
        wrong(
            "result",
            "You return one value for each picture. A loss is one number: take their mean.",
            ("divergence.mean()", "divergence"),
        ),
        wrong(
            "gradient",
            "You detach the student, so it would learn nothing. Detach the teacher instead.",
            ("student_logits / temperature", "student_logits.detach() / temperature"),
            ("teacher_logits.detach()", "teacher_logits"),
        ),
        wrong(
            "gradient",
            "You detach both. Only the teacher stays as it is: a gradient must reach the student.",
            ("student_logits / temperature", "student_logits.detach() / temperature"),
        ),
        wrong(
            "teacher",
            "A gradient reaches `teacher_logits`. The teacher gives and is not changed: use "
            "`teacher_logits.detach()`.",
            ("teacher_logits.detach()", "teacher_logits"),
        ),
        wrong(
            "invariance",
            "The softmax runs over the batch (dim=0). The classes of one picture compete: use dim=1.",
            ("temperature, dim=1)", "temperature, dim=0)"),
        ),
        wrong(
            "reduction",
            "You divided by the number of classes too: `reduction='mean'` averages over pictures and "
            "classes. Use `reduction='batchmean'`, or sum over the classes and average over the batch.",
            (".sum(dim=1)", ""),
        ),
        wrong(
            "reduction",
            "You summed over the batch. Take the mean, or the loss grows with the batch size.",
            ("divergence.mean()", "divergence.sum()"),
        ),
        wrong(
            "temperature",
            "The factor tau^2 is missing. Softening makes the gradient tau^2 times smaller; the factor "
            "brings it back, so that the temperature does not change the strength of the loss.",
            ("temperature**2 * ", ""),
        ),
        wrong(
            "temperature",
            "You multiply by tau. It must be tau^2: the gradient shrinks with tau twice.",
            ("temperature**2", "temperature"),
        ),
        wrong(
            "temperature",
            "Only the teacher is softened. Divide the student's logits by the temperature too.",
            ("student_logits / temperature", "student_logits"),
        ),
        wrong(
            "temperature",
            "Only the student is softened. Divide the teacher's logits by the temperature too.",
            ("teacher_logits.detach() / temperature", "teacher_logits.detach()"),
        ),
        wrong(
            "order",
            "Teacher and student are swapped: this is KL(student || teacher). The teacher stands first. "
            "`F.kl_div(input, target)` means KL(target || input): give the student as input.",
            ("teacher.exp() * (teacher - student)", "student.exp() * (student - teacher)"),
        ),
        wrong(
            "stability",
            "You take the log of a softmax: where a probability is rounded to 0 its log is infinite. "
            "`F.log_softmax` does both at once and stays finite.",
            (
                "F.log_softmax(student_logits / temperature, dim=1)",
                "F.softmax(student_logits / temperature, dim=1).log()",
            ),
            (
                "F.log_softmax(teacher_logits.detach() / temperature, dim=1)",
                "F.softmax(teacher_logits.detach() / temperature, dim=1).log()",
            ),
        ),
        wrong(
            "stability",
            "A small number inside the log hides the infinity and gives a wrong value and no gradient for "
            "sure predictions. Use `F.log_softmax`.",
            (
                "F.log_softmax(student_logits / temperature, dim=1)",
                "(F.softmax(student_logits / temperature, dim=1) + 1e-8).log()",
            ),
        ),
        wrong(
            "value",
            "This is the cross-entropy to the teacher, not KL: the teacher's entropy is missing. The "
            "gradient is the same, but the loss does not end at 0. KL = sum p_t (log p_t - log p_s).",
            ("(teacher - student)", "(-student)"),
        ),
        wrong(
            "value",
            "You gave probabilities where `F.kl_div` takes log-probabilities: its first argument must be "
            "`F.log_softmax` of the student.",
            ("student = F.log_softmax", "student = F.softmax"),
        ),
    ),
)

_STANDARDISED = Exercise(
    name="logit_standardisation",
    notebook=2,
    title="Logits as z-scores",
    task="For each picture subtract the mean of its logits and divide by their standard deviation (the "
    "unbiased one, with C - 1) plus 1e-7. Input and result are (B, C). (Sun et al., CVPR 2024)",
    reference=losses.standardize_logits,
    public=losses.standardize_logits,
    cases=_row_cases,
    kind="tensor",
    learns=(0,),
    invariances=(
        SHIFT_STUDENT,
        Invariance("Multiplying all logits by a number does not change their z-scores", scaled(0)),
    ),
    source="""
def logit_standardisation(logits):
    mean = logits.mean(dim=1, keepdim=True)
    deviation = logits.std(dim=1, keepdim=True)
    return (logits - mean) / (deviation + 1e-7)
""",
    hints=(
        "Each picture is brought to mean 0 and deviation 1 by itself. Along which dimension is that?",
        "`mean` and `std` take `dim=1, keepdim=True`; `std` of torch is the unbiased one by itself.",
        "(z - mean) / (std + 1e-7). Detach nothing: the gradient passes through mean and std.",
    ),
    mistakes=(
        wrong(
            "invariance",
            "You standardise over the batch (dim=0). Each picture is standardised over its own classes: "
            "dim=1.",
            ("mean(dim=1", "mean(dim=0"),
            ("std(dim=1", "std(dim=0"),
        ),
        wrong("invariance", "The mean is not subtracted.", ("(logits - mean)", "logits")),
        wrong("invariance", "You do not divide by the standard deviation.", (" / (deviation + 1e-7)", "")),
        wrong(
            "invariance",
            "You divide by the variance. Divide by its root, `std`.",
            ("logits.std", "logits.var"),
        ),
        wrong(
            "value",
            "You use the biased deviation (divided by C); here it is the unbiased one (divided by C - 1), "
            "which is what `std` of torch gives by itself.",
            ("std(dim=1, keepdim=True)", "std(dim=1, keepdim=True, correction=0)"),
        ),
        wrong(
            "value",
            "You divide by the length (the norm) of the centred logits. Divide by their standard deviation.",
            ("(deviation + 1e-7)", "((logits - mean).norm(dim=1, keepdim=True) + 1e-7)"),
        ),
        wrong(
            "stability",
            "For a picture whose logits are all equal you divide 0 by 0. Add 1e-7 to the deviation.",
            ("(deviation + 1e-7)", "deviation"),
        ),
        wrong(
            "slope",
            "The deviation is detached. The gradient must pass through it: it is a function of the logits "
            "too.",
            ("(deviation + 1e-7)", "(deviation.detach() + 1e-7)"),
        ),
    ),
)

_DIST = Exercise(
    name="dist",
    notebook=2,
    title="DIST: correlations in place of a divergence",
    task="With P = softmax(z / tau): inter = 1 - mean over pictures of the Pearson correlation of the rows "
    "of P_s and P_t; intra = 1 - mean over classes of the correlation of the columns. Return tau^2 (beta "
    "inter + gamma intra). Add 1e-8 to the denominator of the correlation. (Huang et al., NeurIPS 2022)",
    reference=lambda s, t, beta, gamma, tau: losses.dist(s, t.detach(), beta, gamma, tau),
    public=losses.dist,
    cases=lambda: logit_cases(lambda tau: (2.0, 0.5, tau)),
    learns=(0,),
    frozen=(1,),
    invariances=(SHIFT_STUDENT, Invariance(SHIFT_TEACHER.says, shifted(1))),
    atol=1e-3,  # how the small constant enters the correlation is left open
    source="""
def dist(student_logits, teacher_logits, beta, gamma, temperature):
    student = F.softmax(student_logits / temperature, dim=1)
    teacher = F.softmax(teacher_logits.detach() / temperature, dim=1)

    def correlation(a, b):
        a = a - a.mean(dim=1, keepdim=True)
        b = b - b.mean(dim=1, keepdim=True)
        return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)

    inter = 1 - correlation(student, teacher).mean()
    intra = 1 - correlation(student.T, teacher.T).mean()
    return temperature**2 * (beta * inter + gamma * intra)
""",
    hints=(
        "Write one function for the Pearson correlation of the rows of two matrices. The columns of a "
        "matrix are the rows of what?",
        "Pearson: subtract each row's mean, then it is the cosine: (a * b).sum(1) / (|a| |b| + 1e-8). Use "
        "it on the probabilities, and on both of them transposed.",
        "inter = 1 - rho(P_s, P_t).mean(); intra = 1 - rho(P_s.T, P_t.T).mean(); then tau^2 (beta inter + "
        "gamma intra), with the teacher detached.",
    ),
    mistakes=(
        wrong(
            "teacher",
            "A gradient reaches `teacher_logits`: use `teacher_logits.detach()`.",
            (".detach()", ""),
        ),
        wrong("temperature", "The factor tau^2 is missing.", ("temperature**2 * ", "")),
        wrong(
            "reduction",
            "You sum the correlations. Take their mean over the pictures, and over the classes.",
            ("correlation(student, teacher).mean()", "correlation(student, teacher).sum()"),
            ("correlation(student.T, teacher.T).mean()", "correlation(student.T, teacher.T).sum()"),
        ),
        wrong(
            "value",
            "This is the cosine, not the correlation: subtract the mean of each row first.",
            ("a = a - a.mean(dim=1, keepdim=True)", "pass"),
            ("b = b - b.mean(dim=1, keepdim=True)", "pass"),
        ),
        wrong(
            "value",
            "The sign is turned: a high correlation is what the student shall reach, so the loss is 1 minus "
            "it.",
            ("inter = 1 - ", "inter = "),
            ("intra = 1 - ", "intra = "),
        ),
        wrong(
            "value",
            "beta and gamma are swapped: beta weighs inter (rows), gamma weighs intra (columns).",
            ("beta * inter + gamma * intra", "gamma * inter + beta * intra"),
        ),
        wrong(
            "value",
            "The second part uses the rows again. Within a class means over the batch: correlate the "
            "columns.",
            ("correlation(student.T, teacher.T)", "correlation(student, teacher)"),
        ),
        wrong(
            "temperature",
            "You correlate logits. DIST correlates probabilities: softmax at the temperature first.",
            ("F.softmax(student_logits / temperature, dim=1)", "student_logits / temperature"),
            (
                "F.softmax(teacher_logits.detach() / temperature, dim=1)",
                "teacher_logits.detach() / temperature",
            ),
        ),
    ),
)

EXERCISES = (_SOFTMAX_T, _KD, _STANDARDISED, _DIST)

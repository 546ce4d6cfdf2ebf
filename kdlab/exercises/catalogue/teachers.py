"""Exercises on several teachers: their mean, and weights from their entropy."""

from __future__ import annotations

from kdlab import losses
from kdlab.exercises.cases import SHIFT_STUDENT, teacher_cases
from kdlab.exercises.exercise import Exercise, wrong

_TEACHER_AVERAGE = Exercise(
    name="teacher_average",
    notebook=8,
    title="The mean of several teachers",
    task="teacher_logits is a list of M tensors (B, C). Return the mean over the teachers of the KD loss of "
    "each, as in `kd`. (You et al., KDD 2017)",
    reference=lambda s, ts, tau: losses.average_teachers(s, [t.detach() for t in ts], temperature=tau),
    public=losses.average_teachers,
    cases=lambda: teacher_cases(student=True),
    learns=(0,),
    frozen=(1,),
    invariances=(SHIFT_STUDENT,),
    source="""
def teacher_average(student_logits, teacher_logits, temperature):
    def kd(teacher):
        log_t = F.log_softmax(teacher.detach() / temperature, dim=1)
        log_s = F.log_softmax(student_logits / temperature, dim=1)
        return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(dim=1).mean()

    return torch.stack([kd(teacher) for teacher in teacher_logits]).mean()
""",
    hints=(
        "You have the loss for one teacher. What is the mean of a list of numbers that carry a gradient?",
        "One KD loss for each teacher of the list, `torch.stack` them, `.mean()`. Not the loss of the mean "
        "of the logits: that is another teacher.",
        "`torch.stack([kd(student_logits, t.detach(), temperature) for t in teacher_logits])` and one more "
        "call.",
    ),
    mistakes=(
        wrong(
            "teacher", "A gradient reaches the teachers: use `teacher.detach()` for each.", (".detach()", "")
        ),
        wrong(
            "gradient",
            "Gathering the losses with `torch.tensor` or `.item()` cuts the gradient off. Use `torch.stack`.",
            ("return torch.stack([kd(teacher) for", "return torch.stack([kd(teacher).detach() for"),
        ),
        wrong(
            "reduction",
            "You sum over the teachers. Take the mean.",
            ("teacher_logits]).mean()", "teacher_logits]).sum()"),
        ),
        wrong(
            "reduction",
            "You averaged over the classes too. Sum over them.",
            (".sum(dim=1).mean()", ".mean()"),
        ),
        wrong("temperature", "The factor tau^2 is missing.", ("temperature**2 * ", "")),
        wrong(
            "order",
            "Teacher and student are swapped in the KL: the teacher stands first.",
            ("log_t.exp() * (log_t - log_s)", "log_s.exp() * (log_s - log_t)"),
        ),
        wrong(
            "value",
            "You averaged the logits first and distilled once. The mean of the losses is asked for.",
            ("[kd(teacher) for teacher in teacher_logits]", "[kd(torch.stack(teacher_logits).mean(dim=0))]"),
        ),
        wrong(
            "value",
            "You averaged the teachers' probabilities and distilled once. The gradient is the same, the "
            "value is lower: how much the teachers disagree is lost.",
            (
                "[kd(teacher) for teacher in teacher_logits]",
                "[kd(temperature * torch.stack([F.softmax(t / temperature, dim=1) for t in teacher_logits])"
                ".mean(dim=0).log())]",
            ),
        ),
        wrong(
            "value",
            "Only the first teacher counts.",
            ("for teacher in teacher_logits]", "for teacher in teacher_logits[:1]]"),
        ),
    ),
)

_ENTROPY_WEIGHT = Exercise(
    name="entropy_weight",
    notebook=8,
    title="Sure teachers count more",
    task="teacher_logits is a list of M >= 2 tensors (B, C). For each picture take the entropy H_k of "
    "softmax(z_k / tau) of each teacher, and return the (M, B) weights (1 - H_k / sum_j H_j) / (M - 1). "
    "Where all entropies are 0 the weights are equal. They are constants: no gradient. (Kwon et al., ICASSP "
    "2020)",
    reference=losses.entropy_weights,
    public=losses.entropy_weights,
    cases=lambda: teacher_cases(student=False),
    kind="tensor",
    frozen=(0,),
    source="""
def entropy_weight(teacher_logits, temperature):
    logs = F.log_softmax(torch.stack(teacher_logits).detach() / temperature, dim=2)
    entropy = -(logs.exp() * logs).sum(dim=2)
    total = entropy.sum(dim=0)
    count = len(teacher_logits)
    share = torch.where(total > 0, entropy / total.clamp_min(1e-30), 1 / count)
    return (1 - share) / (count - 1)
""",
    hints=(
        "High entropy means unsure. Which teacher shall have the larger weight, and to what must the M "
        "weights of a picture sum?",
        "`torch.stack` the teachers to (M, B, C). H = -(p log p) summed over the last dimension is (M, B). "
        "The sum over the teachers is along dim 0.",
        "(1 - H / H.sum(0)) / (M - 1), with log p from `F.log_softmax`, all detached; where H.sum(0) is 0, "
        "use 1 / M in place of H / H.sum(0).",
    ),
    mistakes=(
        wrong(
            "teacher",
            "A gradient reaches the teachers. The weights are constants: detach the logits.",
            (".detach()", ""),
        ),
        wrong(
            "result",
            "You return one weight for each teacher, (M,). Each picture has weights of its own: (M, B).",
            (".sum(dim=2)\n", ".sum(dim=2).mean(dim=1)\n"),
        ),
        wrong(
            "reduction",
            "The weights sum to M - 1. Divide by M - 1, so that they sum to 1.",
            (" / (count - 1)", ""),
        ),
        wrong(
            "reduction",
            "You divide by M. The 1 - share sum to M - 1: divide by that.",
            ("(count - 1)", "count"),
        ),
        wrong("temperature", "The temperature is not used.", (" / temperature", "")),
        wrong(
            "value",
            "It is the other way round: your weights favour the teacher with the higher entropy, the unsure "
            "one.",
            ("(1 - share) / (count - 1)", "share"),
        ),
        wrong(
            "value",
            "You use a softmax of the negative entropies. The weights are (1 - H / sum of H) / (M - 1) here.",
            ("(1 - share) / (count - 1)", "F.softmax(-entropy, dim=0)"),
        ),
        wrong(
            "value",
            "You divide by the sum over the pictures. The teachers compete for each picture: sum over dim 0.",
            ("total = entropy.sum(dim=0)", "total = entropy.sum(dim=1, keepdim=True)"),
        ),
        wrong(
            "stability",
            "Where all teachers are certain, 0 is divided by 0. Give them equal weights there.",
            ("torch.where(total > 0, entropy / total.clamp_min(1e-30), 1 / count)", "entropy / total"),
        ),
    ),
)

EXERCISES = (_TEACHER_AVERAGE, _ENTROPY_WEIGHT)

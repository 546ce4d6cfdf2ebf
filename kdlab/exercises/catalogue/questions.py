"""Numbers and choices to work out: what `check_value` knows by itself."""

from kdlab.exercises.exercise import Question

_ONE_PICTURE = """
from kdlab import losses

student = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
teacher = torch.tensor([[4.0, 1.0, 0.5, -2.0]])
target = torch.tensor([0])
parts = losses.decompose(student, teacher, target, temperature={tau})
"""
_LOGITS = "A student says [2, 1, 0, -1], a teacher [4, 1, 0.5, -2], and the true class is the first. "

QUESTIONS = (
    Question(
        name="kd_one_picture",
        notebook=1,
        title="The KD loss of one picture",
        task=_LOGITS + "What is the KD loss at temperature 4, with its factor tau^2?",
        source=_ONE_PICTURE.format(tau=4.0) + "answer = float(parts.kd)\n",
        hints=(
            "Three steps: soften both, KL from teacher to student, the factor.",
            "`kdlab.losses.kd` takes tensors of shape (1, 4): one picture, four classes.",
            "losses.kd(torch.tensor([[2., 1, 0, -1]]), torch.tensor([[4., 1, 0.5, -2]]), the temperature)",
        ),
        mistakes=(
            ("answer / 16", "The factor tau^2 = 16 is missing."),
            (
                "answer / 4",
                "It is 4 times too small: multiply by tau^2 = 16 and not by tau, and sum over the "
                "four classes.",
            ),
            ("float(losses.kd(student, teacher, 1.0))", "This is the loss at temperature 1."),
            (
                "float(losses.kd(teacher, student, 4.0))",
                "Teacher and student are swapped: the student stands "
                "first "
                "in kdlab's losses, and the teacher first in the KL.",
            ),
        ),
    ),
    Question(
        name="uniform_entropy",
        notebook=1,
        title="The most unsure answer",
        task="What is the entropy, in nats, of a teacher that finds 10 classes equally likely?",
        source="answer = float(torch.special.entr(torch.full((10,), 0.1)).sum())\n",
        hints=(
            "Entropy is - sum of p log p. All ten terms are the same.",
            "That is 10 times -0.1 * log(0.1): what is left of it?",
            "The entropy of C equally likely classes is log C.",
        ),
        mistakes=(("0.1", "This is the probability of each class. The entropy is - sum of p log p."),),
    ),
    Question(
        name="nckd_weight",
        notebook=2,
        title="How much KD listens to the other classes",
        task=_LOGITS + "By what does KD multiply the non-target part (NCKD) of this picture at temperature "
        "1?",
        source=_ONE_PICTURE.format(tau=1.0) + "answer = float(parts.weight)\n",
        hints=(
            "KD = TCKD + weight * NCKD. The weight depends on the teacher alone.",
            "A teacher that is sure of the true class gives the other classes little weight.",
            "1 - softmax(teacher)[true class], at temperature 1.",
        ),
        mistakes=(
            (
                "float(parts.teacher_target)",
                "This is the teacher's probability of the true class. The weight is 1 minus it.",
            ),
            ("1 - float(parts.student_target)", "This is the student's. The weight comes from the teacher."),
            ("float(parts.product)", "This is weight times NCKD. The weight alone is asked for."),
        ),
    ),
    Question(
        name="target_share",
        notebook=2,
        title="What part of KD is about the true class",
        task=_LOGITS + "What share of the KD loss at temperature 4 is its target part (TCKD)? From 0 to 1.",
        source=_ONE_PICTURE.format(tau=4.0) + "answer = float(parts.tckd / parts.kd)\n",
        hints=(
            "Two losses at the same temperature, one divided by the other.",
            "`kdlab.losses.decompose(student, teacher, target, temperature=4.0)` has the fields tckd and kd.",
            "parts.tckd / parts.kd",
        ),
        mistakes=(
            (
                "float(parts.product / parts.kd)",
                "This is the share of the other classes. The target part is the rest.",
            ),
            ("float(parts.tckd)", "This is the target part itself. Divide it by the whole loss."),
            ("float(parts.tckd / parts.nckd)", "You divided by NCKD. Divide by the whole KD loss."),
        ),
    ),
    Question(
        name="nckd_gradient",
        notebook=2,
        title="Who is not moved",
        task="Which of the student's logits gets no gradient at all from NCKD? 'true class', 'largest' or "
        "'none'",
        source='answer = "true class"\n',
        options=("true class", "largest", "none"),
        hints=(
            "Which logit does the formula of NCKD not contain?",
            "NCKD is a softmax over C - 1 classes. One class was taken out before.",
            "Change the logit of the label: does NCKD change?",
        ),
        mistakes=(
            ("largest", "The largest logit takes part unless it is the label's. Which one is taken out?"),
            ("none", "One logit does not enter NCKD at all, so its gradient is 0. Which one?"),
        ),
    ),
)

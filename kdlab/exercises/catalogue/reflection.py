"""Exercises on students that teach themselves: exits, the lessons among them, channels of a stage."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdlab import losses
from kdlab.exercises.cases import SHIFT_STUDENT, SHIFT_TEACHER, Args, logit_cases, map_cases, normal
from kdlab.exercises.exercise import Case, Exercise, Invariance, Question, wrong


def _hint_cases() -> list[Case]:
    def case(label: str, g: Tensor, deepest: Tensor, **kind: Any) -> Case:
        return Case(label, (g, deepest), {"B": g.shape[0], "D": g.shape[1]}, **kind)

    small, other = torch.tensor([[1.0, 0.0, -1.0, -2.0]]), torch.tensor([[0.0, 2.0, 1.0, -1.0]])
    wide = normal(4, 3, seed=5)
    return [
        case("one picture with four features", small, other),
        case("five pictures", normal(5, 6, seed=1), normal(5, 6, seed=2)),
        case("features behind a ReLU", normal(3, 7, seed=3).relu(), normal(3, 7, seed=4).relu()),
        case("equal features", wide, wide.clone(), plain=False),
        case("features that are all negative", -wide.abs(), -wide.flip(0).abs(), plain=False),
        case("tensors of float64", wide.double(), wide.flip(0).double(), plain=False),
        case("tensors that are not contiguous", normal(3, 5, seed=6).T, normal(3, 5, seed=7).T, plain=False),
    ]


def _scd_cases() -> list[Case]:
    """Maps of equal width: the adapter has done its work."""
    found = []
    for case in map_cases(pair=True, sizes_differ=True):
        student, teacher = case.args
        channels = min(student.shape[1], teacher.shape[1])
        student, teacher = student[:, :channels], teacher[:, :channels]
        sizes = {"B": student.shape[0], "D": channels}
        found.append(Case(case.label, (student, teacher), sizes, case.plain))
    return found


def _mixed(place: int) -> Invariance:
    def change(args: Args) -> Args:
        flat = args[place].flatten(2)
        return (*args[:place], flat.flip(2).reshape(args[place].shape), *args[place + 1 :])

    return Invariance("Where in the map a channel is active does not matter: only its average counts", change)


def _review(exit_logits: list[Tensor], temperature: float) -> Tensor:
    count = len(exit_logits)
    pairs = [
        losses.kd(exit_logits[j], exit_logits[k].detach(), temperature)
        for k in range(1, count)
        for j in range(k)
    ]
    return torch.stack(pairs).mean()


def _review_cases() -> list[Case]:
    def case(label: str, exits: list[Tensor], tau: float, **kind: object) -> Case:
        sizes = {"B": exits[0].shape[0], "C": exits[0].shape[1], "tau": tau}
        return Case(label, (exits, tau), sizes, **kind)  # type: ignore[arg-type]

    small = [torch.tensor([row]) for row in ([1.0, 0.5, 0.0], [2.0, 1.0, 0.0], [4.0, 1.0, -1.0])]
    wide = [normal(5, 7, seed=k, scale=k) for k in (1, 2, 3)]
    huge = [1e4 * torch.tensor([row]) for row in ([1.0, -1.0, 0.0], [0.0, 1.0, -1.0], [-1.0, 0.0, 1.0])]
    return [
        case("one picture and three exits", small, 4.0),
        case("five pictures and three exits", wide, 1.0),
        case("four exits", [normal(3, 4, seed=k) for k in (4, 5, 6, 7)], 2.0),
        case("two exits", wide[1:], 3.0),
        case("exits that agree", [wide[0], wide[0].clone(), wide[0].clone()], 4.0, plain=False),
        case("tensors of float64", [z.double() for z in wide], 4.0, plain=False),
        case("logits of 10000", huge, 4.0, plain=False, property="stability"),
    ]


_EXIT_KD = Exercise(
    name="exit_kd",
    notebook=6,
    title="The deepest exit as a teacher",
    task="Return the soft cross-entropy with which BYOT teaches an exit: tau^2 times the mean over the "
    "pictures of - sum_c p_c log q_c, with p = softmax(deepest / tau) and q = softmax(exit / tau). The "
    "deepest exit teaches and is not moved. (Zhang et al., ICCV 2019)",
    reference=lambda s, t, tau: losses.soft_cross_entropy(s, t.detach(), tau),
    public=losses.soft_cross_entropy,
    cases=logit_cases,
    learns=(0,),
    frozen=(1,),
    invariances=(SHIFT_STUDENT, SHIFT_TEACHER),
    source="""
def exit_kd(exit_logits, deepest_logits, temperature):
    p = F.softmax(deepest_logits.detach() / temperature, dim=1)
    log_q = F.log_softmax(exit_logits / temperature, dim=1)
    return -(temperature**2) * (p * log_q).sum(dim=1).mean()
""",
    hints=(
        "It is the cross-entropy that you know, with soft labels in place of hard ones. Who makes them?",
        "p from `F.softmax` of the detached deepest exit, log q from `F.log_softmax` of the exit; both sides "
        "are divided by tau before.",
        "Multiply p by log q, `.sum(dim=1)`, `.mean()`, then the minus and tau squared.",
    ),
    mistakes=(
        wrong(
            "teacher",
            "A gradient reaches `deepest_logits`: a network that may move both sides would make its deepest "
            "exit as poor as the shallow one. Detach it.",
            (".detach()", ""),
        ),
        wrong(
            "reduction",
            "You average over the classes too. Sum over them, and take the mean over the pictures.",
            (".sum(dim=1).mean()", ".mean()"),
        ),
        wrong("reduction", "You sum over the pictures. Take their mean.", (".sum(dim=1).mean()", ".sum()")),
        wrong("temperature", "The factor tau^2 is missing.", ("(temperature**2) * ", "")),
        wrong(
            "temperature",
            "The exit is not softened: divide its logits by tau too.",
            ("F.log_softmax(exit_logits / temperature, dim=1)", "F.log_softmax(exit_logits, dim=1)"),
        ),
        wrong(
            "order",
            "The two exits are exchanged: the deepest one's probabilities weigh the logarithms of the other.",
            (
                "p = F.softmax(deepest_logits.detach() / temperature, dim=1)",
                "p = F.softmax(exit_logits / temperature, dim=1)",
            ),
            (
                "F.log_softmax(exit_logits / temperature, dim=1)",
                "F.log_softmax(deepest_logits.detach() / temperature, dim=1)",
            ),
        ),
        wrong(
            "value",
            "This is the KL divergence. The soft cross-entropy is larger, by tau^2 times the entropy of p. "
            "(For the gradient it makes no difference.)",
            ("(p * log_q)", "(p * (log_q - F.log_softmax(deepest_logits.detach() / temperature, dim=1)))"),
        ),
        wrong("value", "The minus is missing.", ("-(temperature**2)", "(temperature**2)")),
        wrong(
            "value",
            "You use the deepest exit's most likely class as a hard label. Keep all its probabilities.",
            (
                "F.softmax(deepest_logits.detach() / temperature, dim=1)",
                "F.one_hot(deepest_logits.detach().argmax(dim=1), deepest_logits.shape[1])",
            ),
        ),
        wrong(
            "stability",
            "The log of a softmax is -inf where a probability is 0. Use `F.log_softmax`.",
            (
                "F.log_softmax(exit_logits / temperature, dim=1)",
                "F.softmax(exit_logits / temperature, dim=1).log()",
            ),
        ),
    ),
)

_EXIT_HINT = Exercise(
    name="exit_hint",
    notebook=6,
    title="BYOT's hint: look where something is active",
    task="Return the sum of (exit - deepest)^2 over all pictures and features, but only of those elements "
    "where the exit's or the deepest features are above 0. A sum, no mean; the deepest features teach and "
    "are not moved. (Zhang et al., ICCV 2019)",
    reference=lambda s, t: losses.active_difference(s, t.detach()),
    public=losses.active_difference,
    cases=_hint_cases,
    learns=(0,),
    frozen=(1,),
    source="""
def exit_hint(exit_features, deepest_features):
    deepest = deepest_features.detach()
    active = (exit_features > 0) | (deepest > 0)
    return ((exit_features - deepest).square() * active).sum()
""",
    hints=(
        "Which of the four cases (both active, one of two, none) is left out?",
        "`(a > 0) | (b > 0)` is True where at least one is active. True counts as 1 in a product.",
        "((exit - deepest) squared, times the mask).sum(), with `deepest_features.detach()`.",
    ),
    mistakes=(
        wrong("teacher", "A gradient reaches `deepest_features`: detach them.", (".detach()", "")),
        wrong(
            "reduction",
            "You take the mean over all elements. BYOT's hint is a sum, which is why its weight is so small.",
            (" * active).sum()", " * active).mean()"),
        ),
        wrong(
            "reduction",
            "You take the mean over the pictures. BYOT's hint is a sum over them too.",
            (" * active).sum()", " * active).sum(dim=1).mean()"),
        ),
        wrong(
            "value",
            "Both features must be active in yours. One of them is enough: `|` in place of `&`.",
            ("(exit_features > 0) | (deepest > 0)", "(exit_features > 0) & (deepest > 0)"),
        ),
        wrong("value", "The mask is missing: elements where both are inactive count too.", (" * active", "")),
        wrong(
            "value",
            "You look at the deepest features alone. An exit that is active where the deepest is not is "
            "wrong too, and must hear it.",
            ("(exit_features > 0) | (deepest > 0)", "deepest > 0"),
        ),
        wrong("value", "The difference is not squared.", (".square()", ".abs()")),
    ),
)

_SCD = Exercise(
    name="scd",
    notebook=6,
    title="The channels of one stage",
    task="MTKD-SSR's SCD for one stage, behind the adapter: average both maps (B, c, h, w) over their own "
    "positions and return the mean squared difference over pictures and channels. Heights and widths may "
    "differ.",
    reference=lambda s, t: losses.channel_mse(s, t.detach()),
    public=losses.channel_mse,
    cases=_scd_cases,
    learns=(0,),
    frozen=(1,),
    invariances=(_mixed(0), _mixed(1)),
    source="""
def scd(student_map, teacher_map):
    student = student_map.mean(dim=(2, 3))
    teacher = teacher_map.detach().mean(dim=(2, 3))
    return (student - teacher).square().mean()
""",
    hints=(
        "What is left of a map if you forget where in the picture something was?",
        "The mean over dims 2 and 3 turns (B, c, h, w) into (B, c), whatever h and w are. Compare these.",
        "(GAP(student) - GAP(teacher)).square().mean(), the teacher detached.",
    ),
    mistakes=(
        wrong("teacher", "A gradient reaches `teacher_map`: use `teacher_map.detach()`.", (".detach()", "")),
        wrong(
            "reduction",
            "You sum over the channels. Take the mean over pictures and channels.",
            (".square().mean()", ".square().sum(dim=1).mean()"),
        ),
        wrong(
            "reduction",
            "You sum over pictures and channels. Take the mean.",
            (".square().mean()", ".square().sum()"),
        ),
        wrong("value", "The difference is not squared.", (".square()", ".abs()")),
        wrong(
            "value",
            "You take the largest value of each channel. Take its average.",
            ("student_map.mean(dim=(2, 3))", "student_map.amax(dim=(2, 3))"),
            ("teacher_map.detach().mean(dim=(2, 3))", "teacher_map.detach().amax(dim=(2, 3))"),
        ),
        wrong(
            "value",
            "You average the channels, which leaves the positions. Average over the positions: dims 2 and 3.",
            ("student_map.mean(dim=(2, 3))", "student_map.mean(dim=1).mean(dim=(1, 2))"),
            ("teacher_map.detach().mean(dim=(2, 3))", "teacher_map.detach().mean(dim=1).mean(dim=(1, 2))"),
        ),
    ),
)

_CRD_REVIEW = Exercise(
    name="crd_review",
    notebook=6,
    title="Deep exits teach shallow ones",
    task="`exit_logits` is a list of the K exits' logits (B, C) of one student, from shallow to deep. Return "
    "the mean over all pairs (shallow j, deep k), j < k, of the KD loss (as in `kd`) with exit k as the "
    "teacher of exit j. In each pair the deeper one is the teacher and gets no gradient.",
    reference=_review,
    cases=_review_cases,
    learns=(0,),
    source="""
def crd_review(exit_logits, temperature):
    def kd(learner, teacher):
        log_t = F.log_softmax(teacher.detach() / temperature, dim=1)
        log_s = F.log_softmax(learner / temperature, dim=1)
        return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(dim=1).mean()

    count = len(exit_logits)
    pairs = [(j, k) for k in range(count) for j in range(k)]
    return torch.stack([kd(exit_logits[j], exit_logits[k]) for j, k in pairs]).mean()
""",
    hints=(
        "With exits 1, 2 and 3: who teaches whom? Write the pairs down before you write the code.",
        "The pairs are 2 -> 1, 3 -> 1 and 3 -> 2. Two loops make them: k over all exits, j below k. In each, "
        "the teacher is detached.",
        "torch.stack([...]).mean() over `for k in range(K) for j in range(k)` of the KD loss of exit j with "
        "exit k detached as its teacher.",
    ),
    mistakes=(
        wrong(
            "gradient",
            "Gathering the losses cuts the gradient off (as `torch.tensor` or `.item()` do). Use "
            "`torch.stack`.",
            (
                "torch.stack([kd(exit_logits[j], exit_logits[k]) for",
                "torch.stack([kd(exit_logits[j], exit_logits[k]).detach() for",
            ),
        ),
        wrong(
            "reduction",
            "You sum over the pairs. Take their mean.",
            ("for j, k in pairs]).mean()", "for j, k in pairs]).sum()"),
        ),
        wrong(
            "reduction",
            "You average over the classes too. Sum over them.",
            (".sum(dim=1).mean()", ".mean()"),
        ),
        wrong("temperature", "The factor tau^2 is missing.", ("temperature**2 * ", "")),
        wrong(
            "order",
            "Shallow exits teach deep ones in yours. It is the other way round.",
            ("kd(exit_logits[j], exit_logits[k])", "kd(exit_logits[k], exit_logits[j])"),
        ),
        wrong(
            "value",
            "Only neighbours meet in yours (the mode 'adjacent'). All pairs are asked for.",
            ("for j in range(k)]", "for j in range(k) if j == k - 1]"),
        ),
        wrong(
            "value",
            "Only the deepest exit teaches in yours (BYOT's way, the mode 'final_only'). All pairs are asked "
            "for.",
            ("for k in range(count)", "for k in [count - 1]"),
        ),
        wrong(
            "value",
            "Only the deepest exit teaches in yours, and you sum. Let all deeper exits teach; take the mean.",
            ("for k in range(count)", "for k in [count - 1]"),
            ("for j, k in pairs]).mean()", "for j, k in pairs]).sum()"),
        ),
        wrong(
            "value",
            "Both directions count in yours (the mode 'bidirectional'). Only deep exits teach.",
            ("for j in range(k)]", "for j in range(count) if j != k]"),
        ),
        wrong(
            "slope",
            "The value is right, but the teacher of a pair gets a gradient too, and would come down to meet "
            "its learner. Detach the deeper exit.",
            (".detach()", ""),
        ),
    ),
)

_FLOOR = Question(
    name="exit_kd_floor",
    notebook=6,
    title="The value of a perfect exit",
    task="BYOT's exit_kd is a soft cross-entropy with the factor tau^2. The deepest exit finds all 10 "
    "classes equally likely, and an exit agrees with it perfectly. What is exit_kd at temperature 3?",
    source="""
from kdlab import losses

unsure = torch.zeros(1, 10)
answer = float(losses.soft_cross_entropy(unsure, unsure, temperature=3.0))
""",
    hints=(
        "A divergence of two equal distributions is 0. Is a cross-entropy of two equal distributions 0?",
        "It is then the entropy of the distribution, times tau^2. The entropy of 10 equally likely classes "
        "is log 10.",
        "9 * log(10)",
    ),
    mistakes=(
        ("answer / 9", "The factor tau^2 = 9 is missing."),
        ("answer / 3", "The factor is tau^2 = 9, and not tau."),
        ("0.0", "The KL divergence would be 0. A cross-entropy keeps the entropy of the target."),
    ),
)

_PAIRS = Question(
    name="review_pairs",
    notebook=6,
    title="How many lessons a review has",
    task="An ImageNet ResNet has four stages, and so four exits with the network's own. How many pairs (deep "
    "teaches shallow) has the review of MTKD-SSR in its default mode?",
    source="""
exits = 4
answer = sum(1 for deep in range(exits) for shallow in range(deep))
""",
    hints=(
        "The deepest exit teaches three others. Whom does the one before it teach?",
        "3 + 2 + 1: write the pairs down.",
        "K exits have K (K - 1) / 2 pairs.",
    ),
    mistakes=(
        ("12", "You counted each pair in both directions. Only the deeper one teaches."),
        ("3", "These are the neighbours alone, or the deepest exit's pupils alone. All pairs count."),
        ("16", "An exit does not teach itself, and a shallow one does not teach a deep one."),
    ),
)

EXERCISES = (_EXIT_KD, _EXIT_HINT, _SCD, _CRD_REVIEW)
QUESTIONS = (_FLOOR, _PAIRS)

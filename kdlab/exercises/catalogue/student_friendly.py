"""Exercises on a target that learns: SKD's simplifier, its loss, and the guards against a collapse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from kdlab import losses
from kdlab.exercises.cases import SHIFT_STUDENT, SHIFT_TEACHER, logit_cases, normal
from kdlab.exercises.exercise import Case, Exercise, Question, wrong
from kdlab.methods.simplifier import Simplifier, guards


def _simplified(logits: Tensor, tau: float, query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> Tensor:
    width, classes = query.shape
    part = Simplifier(classes, width).to(logits.dtype)
    weights = dict(zip(("query", "key", "value", "out"), (query, key, value, out)))
    given = {f"{name}.weight": w for name, w in weights.items()}
    given |= {f"{name}.bias": w.new_zeros(w.shape[0]) for name, w in weights.items()}
    softened = torch.log_softmax(logits.detach() / tau, dim=1)
    return softened + functional_call(part, given, (softened,))


def _simplifier_cases() -> list[Case]:
    def case(label: str, z: Tensor, tau: float, width: int, seed: int = 0, **kind: Any) -> Case:
        batch, classes = z.shape
        shapes = [(width, classes)] * 3 + [(classes, width)]
        weights = [normal(*shape, seed=seed + n, scale=0.7).to(z.dtype) for n, shape in enumerate(shapes)]
        return Case(label, (z, tau, *weights), {"B": batch, "C": classes, "tau": tau}, **kind)

    small = torch.tensor([[4.0, 1.0, 0.5], [0.0, 3.0, 1.0]])
    wide = normal(5, 7, seed=1, scale=3)
    zero = case("an output layer of zeros", wide, 2.0, 7, 30)
    zero = Case(zero.label, (*zero.args[:5], 0 * zero.args[5]), zero.sizes)
    return [
        case("two pictures of three classes, width 2", small, 2.0, 2, 1),
        case("five pictures of seven classes, width 4", wide, 2.0, 4, 10),
        zero,
        case("softening 4", normal(4, 6, seed=3, scale=4), 4.0, 6, 20),
        case("a batch of one", normal(1, 6, seed=4), 2.0, 5, 40),
        case("tensors of float64", wide.double(), 2.0, 4, 10, plain=False),
    ]


_SIMPLIFY = Exercise(
    name="simplify",
    notebook=7,
    title="The learning simplifier",
    task="W_q, W_k, W_v are (d, C), W_o is (C, d); there are no biases. With u = log_softmax(z_t / tau) of "
    "shape (B, C) and h = F.layer_norm(u, (C,)), the B pictures look at one another: A = softmax over each "
    "row of (h W_q') (h W_k')' / sqrt(d), shape (B, B). Return u + (A (h W_v')) W_o', shape (B, C). The "
    "teacher gets no gradient, the four matrices do. (SKD as reconstructed by kdlab)",
    reference=_simplified,
    cases=_simplifier_cases,
    kind="tensor",
    learns=(2, 3, 4, 5),
    frozen=(0,),
    source="""
def simplify(teacher_logits, tau, W_q, W_k, W_v, W_o):
    u = F.log_softmax(teacher_logits.detach() / tau, dim=1)
    h = F.layer_norm(u, (u.shape[1],))
    Q, K, V = h @ W_q.T, h @ W_k.T, h @ W_v.T
    A = torch.softmax(Q @ K.T / Q.shape[1] ** 0.5, dim=1)
    return u + (A @ V) @ W_o.T
""",
    hints=(
        "It is ordinary attention; the unusual thing is what a token is: a picture of the batch. So how "
        "large is the table of attention weights?",
        "Four steps: u, then h, then Q, K, V = `h @ W_q.T` and so on with (B, d) each, then A from "
        "`Q @ K.T`. Do not forget to add u at the end.",
        "A = torch.softmax(Q @ K.T / d ** 0.5, dim=1), and the result is u plus (A @ V) @ W_o.T; "
        "d is the number of rows of W_q.",
    ),
    mistakes=(
        wrong(
            "teacher",
            "A gradient reaches the teacher: use `teacher_logits.detach()`.",
            ("teacher_logits.detach()", "teacher_logits"),
        ),
        wrong(
            "gradient",
            "No gradient reaches the matrices: the correction is detached, so the simplifier never learns.",
            ("(A @ V) @ W_o.T", "((A @ V) @ W_o.T).detach()"),
        ),
        wrong(
            "value",
            "The correction alone is returned. Add u: without this residual path the student gets a target "
            "that knows nothing of the teacher at the start.",
            ("return u + ", "return "),
        ),
        wrong(
            "value",
            "tau is not used: soften with u = log_softmax(z_t / tau).",
            (" / tau", ""),
        ),
        wrong(
            "value",
            "The LayerNorm of the attention input is missing: h = F.layer_norm(u, (C,)).",
            ("F.layer_norm(u, (u.shape[1],))", "u"),
        ),
        wrong(
            "value",
            "u is z_t / tau in your function. Its softmax is the same, but log_softmax is asked for.",
            ("F.log_softmax(teacher_logits.detach() / tau, dim=1)", "teacher_logits.detach() / tau"),
        ),
        wrong(
            "value",
            "The factor 1 / sqrt(d) is missing in the attention.",
            (" / Q.shape[1] ** 0.5", ""),
        ),
        wrong(
            "value",
            "You divide by sqrt(C), C the number of classes. Divide by sqrt(d), d the number of rows of W_q.",
            ("Q.shape[1] ** 0.5", "u.shape[1] ** 0.5"),
        ),
        wrong(
            "value",
            "Your softmax runs over the columns. Each *row* of A must sum to 1: dim=1.",
            ("** 0.5, dim=1)", "** 0.5, dim=0)"),
        ),
        wrong(
            "value",
            "The normalised h is what attention reads; what is corrected is u itself.",
            ("return u + ", "return h + "),
        ),
    ),
)

_JOINT_KD = Exercise(
    name="joint_kd",
    notebook=7,
    title="A loss that both sides descend",
    task="SKD's loss: tau^2 mean_b KL(softmax(target / tau) || softmax(student / tau)), target the "
    "*simplified* logits. Here the target learns too: gradient must reach both arguments, through every "
    "place where it matters. (SKD as reconstructed by kdlab)",
    reference=losses.kd,
    public=losses.kd,
    cases=logit_cases,
    learns=(0, 1),
    invariances=(SHIFT_STUDENT, SHIFT_TEACHER),
    source="""
def joint_kd(student_logits, target_logits, temperature):
    log_p = F.log_softmax(target_logits / temperature, dim=1)
    log_s = F.log_softmax(student_logits / temperature, dim=1)
    return temperature**2 * (log_p.exp() * (log_p - log_s)).sum(dim=1).mean()
""",
    hints=(
        "The formula is KD's. What is unusual is what is *not* there: which `detach` do you have to omit?",
        "The part sum p log p is a constant for a fixed teacher, so some code drops it (cross-entropy with "
        "soft labels). Here it is not constant: keep it.",
        "log_p, log_s from F.log_softmax; T^2 times the batch mean of sum over classes of p (log p - log s), "
        "nothing detached.",
    ),
    mistakes=(
        wrong(
            "gradient",
            "No gradient reaches the target: it is detached, so the simplifier behind it never learns.",
            ("target_logits / temperature", "target_logits.detach() / temperature"),
        ),
        wrong("temperature", "The factor tau^2 is missing.", ("temperature**2 * ", "")),
        wrong(
            "reduction",
            "You averaged over the classes too. Sum over them.",
            (".sum(dim=1).mean()", ".mean()"),
        ),
        wrong(
            "reduction",
            "You summed over the batch. Take the mean over the pictures.",
            (".sum(dim=1).mean()", ".sum()"),
        ),
        wrong(
            "order",
            "Target and student are swapped in the KL: the target stands first.",
            ("log_p.exp() * (log_p - log_s)", "log_s.exp() * (log_s - log_p)"),
        ),
        wrong(
            "value",
            "The part p log p is missing: this is a cross-entropy with soft labels. With a fixed teacher the "
            "gradients are the same; a target that learns makes itself one-hot here, and both collapse.",
            ("log_p.exp() * (log_p - log_s)", "log_p.exp() * -log_s"),
        ),
        wrong(
            "stability",
            "`F.kl_div` on probabilities takes their logarithm itself, which is minus infinity for a sharp "
            "target: give it log p, and `log_target=True`.",
            (
                "(log_p.exp() * (log_p - log_s)).sum(dim=1).mean()",
                "F.kl_div(log_s, log_p.exp(), reduction='batchmean')",
            ),
        ),
        wrong(
            "slope",
            "The value is right, but the probabilities are detached where they are weights. What is left of "
            "the target's gradient is 0, because sum p d(log p) = 0.",
            ("log_p.exp() *", "log_p.exp().detach() *"),
        ),
    ),
)


_COLLAPSE_GUARDS = Exercise(
    name="collapse_guards",
    notebook=7,
    title="Does the target still say anything?",
    task="With p = softmax(target_logits / T), shape (B, C), return a tensor of two numbers: the mean "
    "entropy of the rows of p divided by log C (1: uniform, 0: one-hot), and the variance of p over the "
    "batch (dividing by B), summed over the classes (0: the same answer for every picture).",
    reference=lambda target, T: torch.stack(list(guards(target, target, T).values())[:2]),
    cases=lambda: [
        Case("two pictures of two classes", (torch.tensor([[2.0, 0.0], [0.0, 1.0]]), 1.0)),
        Case("five pictures of seven classes", (normal(5, 7, seed=1), 4.0), {"B": 5, "C": 7, "tau": 4.0}),
        Case("sharp answers", (normal(6, 4, seed=2, scale=8), 2.0), {"B": 6, "C": 4, "tau": 2.0}),
        Case("the same answer for all", (normal(1, 5, seed=3).expand(4, 5).contiguous(), 1.0), plain=False),
        Case("a batch of one", (normal(1, 5, seed=4), 1.0), plain=False),
        Case(
            "logits of 10000",
            (1e4 * torch.eye(3), 1.0),
            plain=False,
            property="stability",
        ),
    ],
    kind="tensor",
    source="""
def collapse_guards(target_logits, temperature):
    log_p = F.log_softmax(target_logits / temperature, dim=1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(dim=1).mean() / torch.tensor(float(p.shape[1])).log()
    variance = p.var(dim=0, correction=0).sum()
    return torch.stack([entropy, variance])
""",
    hints=(
        "One number looks along a row of p (is this answer sharp?), the other along a column (do the answers "
        "of different pictures differ?).",
        "Entropy: minus the sum of p log p over dim 1, then the mean; the largest possible value is log C. "
        "Variance: along dim 0 with `correction=0`.",
        "torch.stack([H / math.log(C), p.var(dim=0, correction=0).sum()]), with log p from F.log_softmax.",
    ),
    mistakes=(
        wrong("temperature", "The temperature is not used.", (" / temperature", "")),
        wrong(
            "reduction",
            "You divided by B - 1, as `.var()` does by itself. Use `correction=0`: then one picture has "
            "variance 0 and not NaN.",
            (", correction=0", ""),
        ),
        wrong(
            "reduction",
            "The variance is averaged over the classes. Sum it.",
            ("correction=0).sum()", "correction=0).mean()"),
        ),
        wrong(
            "reduction",
            "You took the variance along the classes. Do answers differ *between pictures*? That is dim=0.",
            ("p.var(dim=0, correction=0).sum()", "p.var(dim=1, correction=0).sum()"),
        ),
        wrong(
            "value",
            "The entropy is not divided by log C, so it cannot be compared between data sets.",
            (" / torch.tensor(float(p.shape[1])).log()", ""),
        ),
        wrong("value", "The entropy has the wrong sign.", ("-(p * log_p)", "(p * log_p)")),
        wrong(
            "stability",
            "0 times log 0 is NaN for a sharp answer. Take log p from `F.log_softmax`.",
            ("(p * log_p)", "(p * p.log())"),
        ),
    ),
)

EXERCISES = (_SIMPLIFY, _JOINT_KD, _COLLAPSE_GUARDS)

QUESTIONS = (
    Question(
        name="softened_twice",
        notebook=7,
        title="Softened twice",
        task="SKD divides the teacher's logits by 2 and takes log_softmax. KD then softens this with its "
        "temperature 4. Before the simplifier has learnt anything: at which temperature do the teacher's "
        "probabilities stand?",
        source="softening, temperature = 2.0, 4.0\nanswer = softening * temperature\n",
        hints=(
            "log_softmax subtracts one number from all logits of a picture. What does that change in a "
            "softmax?",
            "So the target is softmax((z_t / 2) / 4).",
            "Two divisions, one after the other, are one division by the product.",
        ),
        mistakes=(
            ("6.0", "Temperatures are not added: (z / 2) / 4 = z / 8."),
            ("4.0", "This is the student's temperature. The teacher's logits were divided by 2 before."),
            ("2.0", "This is the softening alone; KD's temperature comes on top of it."),
        ),
    ),
)

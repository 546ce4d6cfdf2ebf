"""Exercises on relations within a batch: similarity matrices, SP, RKD, PKT."""

from __future__ import annotations

from torch import Tensor

from kdlab import losses
from kdlab.exercises.cases import embedding_cases, moved, rotated, scaled
from kdlab.exercises.exercise import Case, Exercise, Invariance, wrong
from kdlab.losses._inputs import unit

_ROTATION = "Rotating the feature space changes no similarity"
_SCALE = "Multiplying all features of a network by a number changes nothing"


def _rows_of_similarities(x: Tensor) -> Tensor:
    rows = x.flatten(1)
    return unit(rows @ rows.T, dim=1)


def _single_cases() -> list[Case]:
    return [Case(c.label, c.args[:1], c.sizes, c.plain, c.property) for c in embedding_cases(maps=True)]


_SIMILARITY_MATRIX = Exercise(
    name="similarity_matrix",
    notebook=4,
    title="Which pictures of a batch are alike",
    task="From features (B, ...) make the B x B matrix G = X X' with X the batch flattened to (B, D), and "
    "divide each row of G by its L2 norm. This is what SP compares. (Tung, Mori, ICCV 2019)",
    reference=_rows_of_similarities,
    cases=_single_cases,
    kind="tensor",
    learns=(0,),
    invariances=(Invariance(_SCALE, scaled(0)), Invariance(_ROTATION, rotated(0))),
    source="""
def similarity_matrix(features):
    rows = features.flatten(1)
    gram = rows @ rows.T
    return F.normalize(gram, dim=1)
""",
    hints=(
        "Two pictures are alike if their features point the same way. How do you get all B x B products at "
        "once?",
        "`flatten(1)`, then a matrix product with its own transpose. Row i then says how alike picture i is "
        "to all.",
        "`F.normalize(x @ x.T, dim=1)` with x = features.flatten(1): the rows of the product are "
        "normalised, not those of x.",
    ),
    mistakes=(
        wrong(
            "invariance",
            "The rows of G are not normalised, so a network with larger features counts as another one.",
            ("F.normalize(gram, dim=1)", "gram"),
        ),
        wrong(
            "value",
            "This is the cosine similarity: you normalised the features. Here the rows of G are normalised.",
            ("rows = features.flatten(1)", "rows = F.normalize(features.flatten(1), dim=1)"),
            ("F.normalize(gram, dim=1)", "gram"),
        ),
        wrong(
            "value",
            "You normalise the columns (dim=0). It is the rows: dim=1.",
            ("F.normalize(gram, dim=1)", "F.normalize(gram, dim=0)"),
        ),
        wrong(
            "result",
            "You compare features with features, (D, D). It is pictures with pictures: X X', not X' X.",
            ("rows @ rows.T", "rows.T @ rows"),
        ),
        wrong(
            "value",
            "You divide by the norm of the whole matrix. Each row has a norm of its own.",
            ("F.normalize(gram, dim=1)", "gram / gram.norm()"),
        ),
        wrong(
            "value",
            "You divide the rows by their sums. Divide by the L2 norm (the root of the sum of squares).",
            ("F.normalize(gram, dim=1)", "gram / gram.sum(dim=1, keepdim=True)"),
        ),
    ),
)

_SP = Exercise(
    name="sp",
    notebook=4,
    title="Similarity-preserving distillation",
    task="Make the row-normalised similarity matrices G of both networks (as in `similarity_matrix`) and "
    "return the sum of their squared differences divided by B^2. Features are (B, ...), of any shape.",
    reference=lambda s, t: losses.similarity_preserving(s, t.detach()),
    public=losses.similarity_preserving,
    cases=lambda: embedding_cases(maps=True),
    learns=(0,),
    frozen=(1,),
    invariances=(
        Invariance(_SCALE, scaled(0)),
        Invariance(_ROTATION, rotated(0)),
        Invariance(_SCALE, scaled(1)),
    ),
    atol=1e-6,
    source="""
def sp(student, teacher):
    def similarity(features):
        rows = features.flatten(1)
        return F.normalize(rows @ rows.T, dim=1)

    difference = similarity(student) - similarity(teacher.detach())
    return difference.square().sum() / len(student) ** 2
""",
    hints=(
        "Neither the width nor the shape of the features matters: what is compared has B x B entries for "
        "both.",
        "Make G of both, normalise the rows, subtract. A matrix of B x B has B^2 entries: what is sum / B^2 "
        "then?",
        "(G_s - G_t).square().mean(), with G = F.normalize(X @ X.T, dim=1) and the teacher detached.",
    ),
    mistakes=(
        wrong("teacher", "A gradient reaches `teacher`: use `teacher.detach()`.", (".detach()", "")),
        wrong(
            "reduction",
            "You divide by B. The matrix has B^2 entries: divide by B^2.",
            ("len(student) ** 2", "len(student)"),
        ),
        wrong(
            "reduction",
            "You do not divide by B^2: take the mean over the matrix.",
            (" / len(student) ** 2", ""),
        ),
        wrong(
            "invariance",
            "The rows of G are not normalised: a student with larger features would have a larger loss.",
            ("F.normalize(rows @ rows.T, dim=1)", "rows @ rows.T"),
        ),
        wrong(
            "value",
            "You normalise the features (cosine similarity). SP normalises the rows of G.",
            ("rows = features.flatten(1)", "rows = F.normalize(features.flatten(1), dim=1)"),
            ("F.normalize(rows @ rows.T, dim=1)", "rows @ rows.T"),
        ),
        wrong(
            "value",
            "You divide each matrix by its whole norm. SP normalises each row of G by itself.",
            ("return F.normalize(rows @ rows.T, dim=1)", "return rows @ rows.T / (rows @ rows.T).norm()"),
        ),
        wrong("value", "The differences are not squared.", ("difference.square()", "difference.abs()")),
    ),
)

_RKD_DISTANCE = Exercise(
    name="rkd_distance",
    notebook=4,
    title="Relational KD: distances",
    task="Make the B x B matrix of Euclidean distances of each network's embeddings, divide each by the "
    "mean of its positive entries (not the zeros on the diagonal), and return the smooth-L1 loss of the two "
    "(mean over all B^2 entries). The gradient passes through the mean. (Park et al., CVPR 2019)",
    reference=lambda s, t: losses.rkd_distance(s, t.detach()),
    public=losses.rkd_distance,
    cases=lambda: embedding_cases(samples=2),
    learns=(0,),
    frozen=(1,),
    invariances=(
        Invariance(_SCALE, scaled(0)),
        Invariance("Moving all embeddings by one vector changes no distance", moved(0)),
        Invariance("Rotating the feature space changes no distance", rotated(0)),
    ),
    atol=1e-6,
    source="""
def rkd_distance(student_embedding, teacher_embedding):
    def distances(x):
        d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        return d / d[d > 0].mean()

    return F.smooth_l1_loss(distances(student_embedding), distances(teacher_embedding.detach()))
""",
    hints=(
        "The two spaces have different scales. Which division makes their distances comparable?",
        "`torch.cdist(x, x)` has all distances, with zeros on the diagonal. Divide by the mean of the "
        "others, for each network by itself.",
        "d / d[d > 0].mean() for both, then `F.smooth_l1_loss(d_s, d_t)`; detach the teacher, not the mean.",
    ),
    mistakes=(
        wrong("teacher", "A gradient reaches `teacher_embedding`: detach it.", (".detach()", "")),
        wrong(
            "invariance",
            "You do not divide by the mean distance, so the student is asked for the teacher's scale too.",
            (" / d[d > 0].mean()", ""),
        ),
        wrong(
            "value",
            "The mean takes the zeros on the diagonal in. Leave them out: `d[d > 0].mean()`.",
            ("d[d > 0].mean()", "d.mean()"),
        ),
        wrong(
            "value",
            "You compare squared distances. Take the distances themselves.",
            (
                'd = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")',
                'd = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") ** 2',
            ),
        ),
        wrong(
            "value",
            "You use the squared error. RKD uses the smooth L1 loss (Huber), `F.smooth_l1_loss`.",
            ("F.smooth_l1_loss", "F.mse_loss"),
        ),
        wrong(
            "value",
            "You use the plain absolute error. RKD uses `F.smooth_l1_loss`.",
            ("F.smooth_l1_loss", "F.l1_loss"),
        ),
        wrong(
            "reduction",
            "You sum over all entries. Take the mean over the B^2 entries.",
            (
                "distances(teacher_embedding.detach()))",
                "distances(teacher_embedding.detach()), reduction='sum')",
            ),
        ),
        wrong(
            "reduction",
            "You divide by the largest distance. Divide by the mean of the positive ones.",
            ("d[d > 0].mean()", "d.max()"),
        ),
        wrong(
            "slope",
            "The mean distance is detached. The gradient passes through it: the mean depends on the "
            "embeddings too.",
            ("d[d > 0].mean()", "d[d > 0].mean().detach()"),
        ),
    ),
)

_PKT = Exercise(
    name="pkt",
    notebook=4,
    title="Probabilistic knowledge transfer",
    task="Normalise the rows of each embedding, make the cosines of all pairs, bring them from -1..1 to "
    "0..1 by (k + 1) / 2, divide each row by its sum: P. Return the mean over all B^2 entries of P_t "
    "(log(P_t + 1e-7) - log(P_s + 1e-7)). (Passalis, Tefas, ECCV 2018, in the form of the public code)",
    reference=lambda s, t: losses.pkt(s, t.detach()),
    public=losses.pkt,
    cases=embedding_cases,
    learns=(0,),
    frozen=(1,),
    invariances=(Invariance(_SCALE, scaled(0)), Invariance(_ROTATION, rotated(0))),
    rtol=3e-3,
    atol=1e-7,
    source="""
def pkt(student_embedding, teacher_embedding):
    def probabilities(embedding):
        rows = F.normalize(embedding, dim=1)
        kernel = (rows @ rows.T + 1) / 2
        return kernel / kernel.sum(dim=1, keepdim=True)

    student, teacher = probabilities(student_embedding), probabilities(teacher_embedding.detach())
    return (teacher * ((teacher + 1e-7).log() - (student + 1e-7).log())).mean()
""",
    hints=(
        "For each picture this asks: if I had to draw another picture of the batch that is like this one, "
        "which?",
        "Cosines: normalised rows times their transpose. Then (k + 1) / 2, and each row divided by its own "
        "sum. The KL of the rows follows, here as the mean over all entries.",
        "P = k / k.sum(1, keepdim=True) with k = (u @ u.T + 1) / 2 and u = F.normalize(x, dim=1); then (P_t "
        "* (log P_t - log P_s)).mean(), 1e-7 inside both logs.",
    ),
    mistakes=(
        wrong("teacher", "A gradient reaches `teacher_embedding`: detach it.", (".detach()", "")),
        wrong(
            "order",
            "Teacher and student are swapped: the teacher's P stands first, P_t (log P_t - log P_s).",
            (
                "(teacher * ((teacher + 1e-7).log() - (student + 1e-7).log()))",
                "(student * ((student + 1e-7).log() - (teacher + 1e-7).log()))",
            ),
        ),
        wrong(
            "reduction",
            "You sum over each row and average over the pictures. The form here is the mean over all B^2 "
            "entries.",
            (".log())).mean()", ".log())).sum(dim=1).mean()"),
        ),
        wrong("reduction", "You sum over all entries. Take the mean.", (".log())).mean()", ".log())).sum()")),
        wrong(
            "finite",
            "The embeddings are not normalised: products of plain features depend on their length. Use "
            "cosines.",
            ("rows = F.normalize(embedding, dim=1)", "rows = embedding"),
        ),
        wrong(
            "value",
            "You use a softmax of the cosines. PKT shifts them, (k + 1) / 2, and divides the rows by their "
            "sums.",
            ("kernel / kernel.sum(dim=1, keepdim=True)", "F.softmax(rows @ rows.T, dim=1)"),
        ),
        wrong(
            "value",
            "The rows do not sum to 1: divide each row of the kernel by its sum.",
            ("kernel / kernel.sum(dim=1, keepdim=True)", "kernel"),
        ),
        wrong(
            "value",
            "You divide by the sums of the columns, or by that of the whole matrix. Each row has a sum of "
            "its own.",
            ("kernel / kernel.sum(dim=1, keepdim=True)", "kernel / kernel.sum()"),
        ),
    ),
)

EXERCISES = (_SIMILARITY_MATRIX, _SP, _RKD_DISTANCE, _PKT)

"""Relation losses: they compare how a batch is arranged, so student and teacher widths may differ.

Source of the forms: the public re-implementations of RepDistiller.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kdlab.losses._inputs import check_batches, full_precision, unit

ANGLE_ELEMENTS = 2**24
"""Largest tensor (in elements) `rkd_angle` keeps for its backward pass; beyond it works in chunks."""


@full_precision
def similarity_preserving(
    student: Tensor, teacher: Tensor, normalise: Literal["rows", "matrix"] = "rows"
) -> Tensor:
    """SP: sum (G_s - G_t)^2 / B^2, G = X X' with L2-normalised rows, X = the batch flattened to (B, D).

    Args:
        student: (B, ...), usually the last map.
        teacher: (B, ...), of any other shape.
        normalise: "rows" of G as published, or the whole "matrix" by its Frobenius norm.

    Source: Tung, Mori, ICCV 2019, arXiv 1907.09682.

    Raises:
        ValueError: unequal batches, or an unknown `normalise`.

    >>> alike, unlike = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> kdlab.losses.similarity_preserving(unlike, torch.cat([5 * unlike, unlike], dim=1))  # any width
    tensor(0.)
    >>> kdlab.losses.similarity_preserving(unlike, alike)  # (0.2929^2 + 0.7071^2) 2 / 2^2
    tensor(0.2929)
    """
    check_batches(student, teacher, ndim=None)
    if normalise not in ("rows", "matrix"):
        raise ValueError(f"normalise must be 'rows' or 'matrix', not {normalise!r}.")

    g_s, g_t = (similarities_within(x, normalise) for x in (student, teacher))
    return (g_s - g_t).square().sum() / student.shape[0] ** 2


def similarities_within(x: Tensor, normalise: str = "rows") -> Tensor:
    """(B, B) what SP compares: X X' of a batch (B, ...) with rows of norm 1, or as a whole of norm 1."""
    rows = x.flatten(1)
    gram = rows @ rows.T
    return unit(gram, dim=1) if normalise == "rows" else unit(gram.flatten(), dim=0).reshape(gram.shape)


@full_precision
def rkd(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Tensor:
    """RKD: distance_weight * rkd_distance + angle_weight * rkd_angle; a weight of 0 skips its part.

    Raises:
        ValueError: fewer than two samples.

    Source: Park, Kim, Lu, Cho, CVPR 2019, arXiv 1904.05068.

    >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> turned = 3 * points @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]]) + 7
    >>> kdlab.losses.rkd(points, turned) < 1e-6  # moved, turned and enlarged
    tensor(True)
    """
    check_batches(student_embedding, teacher_embedding, samples=2)
    total = student_embedding.new_zeros(())
    if distance_weight != 0:
        total = total + distance_weight * rkd_distance(student_embedding, teacher_embedding)
    if angle_weight != 0:
        total = total + angle_weight * rkd_angle(student_embedding, teacher_embedding)
    return total


@full_precision
def rkd_distance(student_embedding: Tensor, teacher_embedding: Tensor, squared: bool = False) -> Tensor:
    """Smooth-L1 mean over all B^2 entries of the distances, each net's divided by its positive mean.

    `squared` compares squared distances instead.

    Embeddings (B, d), B >= 2. Gradient passes through the student's mean. Invariant to rotation,
    translation and scale. Identical rows have distance 0, no gradient, and stay out of the mean.

    Raises:
        ValueError: not two (B, d) tensors of one batch, or fewer than two samples.

    >>> student, teacher = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [2.0], [3.0]])
    >>> kdlab.losses.rkd_distance(student, 10 * student) < 1e-6
    tensor(True)
    >>> kdlab.losses.rkd_distance(student, teacher)  # 4 of 9 distances differ by 0.5: 4/9 0.5^2 / 2
    tensor(0.0556)
    """
    check_batches(student_embedding, teacher_embedding, samples=2)

    d_s, d_t = (relative_distances(x, squared) for x in (student_embedding, teacher_embedding))
    return F.smooth_l1_loss(d_s, d_t)


def relative_distances(x: Tensor, squared: bool = False) -> Tensor:
    """(B, B) what RKD compares: Euclidean distances within (B, d), divided by the mean of the positive."""
    # Direct differences: the faster Gram form loses the digits of close points.
    d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    d = d.square() if squared else d
    return d / (d.sum() / (d > 0).sum().clamp_min(1)).clamp_min(torch.finfo(d.dtype).tiny)


@full_precision
def rkd_angle(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Smooth-L1 mean over all B^3 angle cosines <e_ij, e_kj>, e_ij = (v_i - v_j) / ||v_i - v_j||.

    Embeddings (B, d), B >= 2. Identical rows have e = 0 and no gradient. Large batches are computed in
    chunks of vertices j that are recomputed in the backward pass, so memory stays bounded.

    Raises:
        ValueError: not two (B, d) tensors of one batch, or fewer than two samples.

    >>> line = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    >>> kdlab.losses.rkd_angle(line, corner)  # 2/27 (1^2 / 2 + 2 * 0.2929^2 / 2)
    tensor(0.0434)
    """
    check_batches(student_embedding, teacher_embedding, samples=2)
    batch = student_embedding.shape[0]
    width = max(batch, student_embedding.shape[1], teacher_embedding.shape[1])
    vertices = max(1, ANGLE_ELEMENTS // (batch * width))
    if vertices >= batch:
        return _angles(student_embedding, teacher_embedding, 0, batch) / batch**3
    total = student_embedding.new_zeros(())
    for start in range(0, batch, vertices):
        chunk = (student_embedding, teacher_embedding, start, start + vertices)
        total = total + checkpoint(_angles, *chunk, use_reentrant=False, preserve_rng_state=False)
    return total / batch**3


def _angles(student: Tensor, teacher: Tensor, start: int, stop: int) -> Tensor:
    """Sum of the smooth-L1 differences of all angles at vertices start..stop-1."""

    def cosines(x: Tensor) -> Tensor:
        difference = x[None, :, :] - x[start:stop, None, :]
        norm = torch.linalg.vector_norm(difference, dim=2, keepdim=True)
        unit = difference / norm.masked_fill(norm == 0, torch.inf)
        return unit @ unit.mT

    return F.smooth_l1_loss(cosines(student), cosines(teacher), reduction="sum")


@full_precision
def pkt(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    form: Literal["mean", "rows"] = "mean",
    diagonal: bool = True,
) -> Tensor:
    """PKT: mean over B^2 of P_t log((P_t + 1e-7) / (P_s + 1e-7)).

    u = v / (||v|| + 1e-7), k = (u u' + 1) / 2, P = rows of k divided by their sums.

    Args:
        student_embedding: (B, d_s).
        teacher_embedding: (B, d_t).
        form: "mean" over B^2 as in the public code, or "rows": the KL divergence of each row, mean over
            the B rows (B times as large).
        diagonal: whether a sample's similarity to itself, which is 1, takes part.

    Source: Passalis, Tefas, ECCV 2018, arXiv 1803.10837.

    Raises:
        ValueError: not two (B, d) tensors of one batch, or an unknown `form`.

    >>> alike, unlike = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> kdlab.losses.pkt(unlike, 9 * unlike) < 1e-6
    tensor(True)
    >>> kdlab.losses.pkt(unlike, alike, form="rows")  # 1/2 log(3/4) + 1/2 log(3/2)
    tensor(0.0589)
    """
    check_batches(student_embedding, teacher_embedding)
    if form not in ("mean", "rows"):
        raise ValueError(f"form must be 'mean' or 'rows', not {form!r}.")

    student, teacher = (neighbour_probabilities(v, diagonal) for v in (student_embedding, teacher_embedding))
    entries = teacher * ((teacher + 1e-7).log() - (student + 1e-7).log())
    return entries.mean() if form == "mean" else entries.sum(1).mean()


def neighbour_probabilities(v: Tensor, diagonal: bool = True) -> Tensor:
    """(B, B) what PKT compares: cosines within (B, d), moved to 0..1, as rows that sum to 1."""
    norm = torch.linalg.vector_norm(v, dim=1, keepdim=True)
    u = v / (norm + 1e-7).masked_fill(norm == 0, torch.inf)
    kernel = (u @ u.T + 1) / 2
    if not diagonal:
        kernel = kernel - torch.diag(kernel.diagonal())
    return kernel / kernel.sum(1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)


@full_precision
def correlation_congruence(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """CC: mean over consecutive pairs b of sum_j d[b, j] d[b+1, j], d = |e_s - e_t|.

    Equal widths, so both nets are usually embedded first. Depends on the order of the batch.

    Raises:
        ValueError: fewer than two samples, or unequal widths.

    Source: Peng et al., ICCV 2019, arXiv 1904.01802.

    >>> teacher = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> kdlab.losses.correlation_congruence(torch.zeros(2, 2), teacher)  # 1 * 3 + 2 * 4
    tensor(11.)
    """
    check_batches(student_embedding, teacher_embedding, samples=2)
    if student_embedding.shape != teacher_embedding.shape:
        raise ValueError(
            "correlation congruence needs embeddings of equal width, not "
            f"{tuple(student_embedding.shape)} and {tuple(teacher_embedding.shape)}."
        )
    difference = (student_embedding - teacher_embedding).abs()
    return (difference[:-1] * difference[1:]).sum(1).mean()


@full_precision
def kernel_congruence(student_embedding: Tensor, teacher_embedding: Tensor, gamma: float = 0.4) -> Tensor:
    """CC as a comparison of kernels: mean over B^2 of (K_s - K_t)^2, K = exp(-gamma |u_i - u_j|^2).

    u are the rows, L2-normalised. The exact kernel in place of the paper's Taylor expansion of it: ours.
    Widths may differ; does not depend on the order of the batch.

    Raises:
        ValueError: not two (B, d) tensors of one batch.

    >>> alike, unlike = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> kdlab.losses.kernel_congruence(unlike, alike)  # 2 of 4 entries differ by 1 - exp(-0.8)
    tensor(0.1516)
    """
    check_batches(student_embedding, teacher_embedding)

    def kernel(x: Tensor) -> Tensor:
        u = unit(x, dim=1)
        square = u.square().sum(1)
        return torch.exp(-gamma * (square[:, None] + square[None] - 2 * u @ u.T).clamp_min(0))

    return F.mse_loss(kernel(student_embedding), kernel(teacher_embedding))

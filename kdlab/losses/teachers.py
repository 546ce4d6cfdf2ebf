"""Logit losses with several teachers: how much each teacher counts, for each sample or for a batch.

M teachers with logits z_k (B, C); kd_k(b) = tau^2 KL(softmax(z_k/tau) || softmax(z_s/tau)) of sample b.
The weights carry no gradient. `normalise=True`: they sum to 1 for each sample and the sum is divided
by B, so strengths compare across methods. `normalise=False`: as released by the CA-MKD code (divided
by B*M, and EBKD's weights sum to M-1). One teacher gives plain KD in both modes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.losses._inputs import check_logits, check_maps, check_temperature, full_precision
from kdlab.losses.logits import kd, kd_per_sample
from kdlab.losses.simplex import min_norm_weights

Aim = Literal["losses", "probabilities", "logits"]


@full_precision
def kd_per_teacher(
    student_logits: Tensor, teacher_logits: Sequence[Tensor], temperature: float = 4.0
) -> Tensor:
    """(M, B) kd_k(b): the divergence of each sample from each teacher.

    Raises:
        ValueError: unequal shapes, no teacher, or a temperature that is not positive.

    >>> student, teachers = torch.zeros(1, 2), [torch.tensor([[3.0, 1.0]]).log(), torch.zeros(1, 2)]
    >>> kdlab.losses.kd_per_teacher(student, teachers, temperature=1)  # the second one says the same
    tensor([[0.1308],
            [0.0000]])
    """
    _check(student_logits, teacher_logits, None)
    return torch.stack([kd_per_sample(student_logits, t, temperature) for t in teacher_logits])


# ---- aver -------------------------------------------------------------------------------------------


@full_precision
def average_teachers(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    target: Tensor | None = None,
    temperature: float = 4.0,
    normalise: bool = True,
    aim: Aim = "losses",
) -> Tensor:
    """Mean of the M losses KD_k. `target` and `normalise` are here for a common signature alone.

    Args:
        aim: "losses"; "probabilities": one KD loss to the mean of the softened probabilities (the same
            gradient, a value that is lower by a constant); "logits": KD to the mean of the logits.

    Source: You, Xu, Xu, Tao, KDD 2017, doi 10.1145/3097983.3098135, in the form of the CA-MKD code.

    >>> one, other = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 3.0]]).log()
    >>> kdlab.losses.average_teachers(torch.zeros(1, 2), [one, other], temperature=1)
    tensor(0.1308)
    >>> kdlab.losses.average_teachers(torch.zeros(1, 2), [one, other], aim="logits")  # 1/2 each
    tensor(0.)
    """
    _check(student_logits, teacher_logits, None)
    if aim == "losses":
        return kd_per_teacher(student_logits, teacher_logits, temperature).mean()
    logits = torch.stack(list(teacher_logits))
    if aim == "logits":
        return kd(student_logits, logits.mean(0), temperature)
    if aim != "probabilities":
        raise ValueError(f"aim must be 'losses', 'probabilities' or 'logits', not {aim!r}.")
    # Log-probabilities are logits of themselves: tau times them, softened by tau.
    mean = F.log_softmax(logits / temperature, dim=2).logsumexp(0)
    return kd(student_logits, temperature * mean, temperature)


# ---- ebkd -------------------------------------------------------------------------------------------


@torch.no_grad()
@full_precision
def entropy_weights(teacher_logits: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    """(M, B) weights (1 - H_k / sum_j H_j) / (M - 1), which sum to 1: a sure teacher counts more.

    H_k is the entropy of softmax(z_k / temperature). Uniform for samples that all teachers are certain of.

    Raises:
        ValueError: unequal shapes, no teacher, or a temperature that is not positive.

    >>> sure, unsure = torch.tensor([[50.0, 0.0]]), torch.zeros(1, 2)
    >>> kdlab.losses.entropy_weights([sure, unsure])
    tensor([[1.],
            [0.]])
    """
    logits, count = _stack(teacher_logits), len(teacher_logits)
    check_temperature(temperature)
    if count == 1:
        return logits.new_ones(logits.shape[:2])
    logs = F.log_softmax(logits / temperature, dim=2)
    entropy = -(logs.exp() * logs).sum(2)
    total = entropy.sum(0)
    share = torch.where(total > 0, entropy / total.clamp_min(torch.finfo(total.dtype).tiny), 1 / count)
    return (1 - share) / (count - 1)


@full_precision
def entropy_weighted(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    target: Tensor | None = None,
    temperature: float = 4.0,
    normalise: bool = True,
    entropy_temperature: float = 1.0,
) -> Tensor:
    """EBKD: KD losses weighed by `entropy_weights`. `target` is not used.

    Source: Kwon, Na, Lee, Kim, ICASSP 2020, in the form of the CA-MKD code.

    >>> student, sure, unsure = torch.zeros(1, 2), torch.tensor([[50.0, 0.0]]), torch.zeros(1, 2)
    >>> kdlab.losses.entropy_weighted(student, [sure, unsure], temperature=1)  # the sure one alone: log 2
    tensor(0.6931)
    """
    divergences = kd_per_teacher(student_logits, teacher_logits, temperature)
    weights = entropy_weights(teacher_logits, entropy_temperature)
    return released_entropy_scale(len(weights), normalise) * (weights * divergences).sum(0).mean()


def released_entropy_scale(teachers: int, normalise: bool) -> float:
    """Strength of EBKD as released relative to weights that sum to 1: (M - 1) / M."""
    return 1.0 if normalise or teachers == 1 else (teachers - 1) / teachers


# ---- ca_mkd -----------------------------------------------------------------------------------------


@full_precision
def confidence_weights(teacher_logits: Sequence[Tensor], target: Tensor) -> Tensor:
    """(M, B) weights (1 - softmax_k(l)) / (M - 1), l_k = CE(z_k, y), which sum to 1.

    A teacher that is right about a sample counts more for it. Gradient flows into logits that ask for it.

    >>> right, wrong = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 3.0]]).log()
    >>> kdlab.losses.confidence_weights([right, wrong], torch.tensor([0]))
    tensor([[0.7500],
            [0.2500]])
    """
    logits, count = _stack(teacher_logits), len(teacher_logits)
    check_logits(logits[0], logits[0], target)
    if count == 1:
        return logits.new_ones(logits.shape[:2])
    errors = torch.stack([F.cross_entropy(z, target, reduction="none") for z in logits])
    return (1 - F.softmax(errors, dim=0)) / (count - 1)


@full_precision
def confidence_weighted(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    target: Tensor,
    temperature: float = 4.0,
    normalise: bool = True,
) -> Tensor:
    """CA-MKD's logit term: KD losses weighed by `confidence_weights`.

    Source: Zhang, Chen, Wang, ICASSP 2022, arXiv 2201.00007.

    >>> right, wrong = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 3.0]]).log()
    >>> kdlab.losses.confidence_weighted(right, [right, wrong], torch.tensor([0]), temperature=1)
    tensor(0.1373)
    >>> kdlab.losses.kd(right, wrong, temperature=1) / 4  # the wrong one has weight 1/4
    tensor(0.1373)
    """
    divergences = kd_per_teacher(student_logits, teacher_logits, temperature)
    weights = confidence_weights(teacher_logits, target).detach()
    return released_confidence_scale(len(weights), normalise) * (weights * divergences).sum(0).mean()


def released_confidence_scale(teachers: int, normalise: bool) -> float:
    """Strength of CA-MKD as released relative to weights that sum to 1: 1 / M."""
    return 1.0 if normalise else 1 / teachers


@full_precision
def confidence_feature(
    student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], scores: Sequence[Tensor], target: Tensor
) -> Tensor:
    """(M,) CA-MKD's feature term by teacher: mean_b w_k(b) mean_{c,h,w} (r_k - F_k)^2; their sum is the term.

    Args:
        student_maps: r_k (B, c_k, h_k, w_k), the student's map as regressed to each teacher's shape.
        teacher_maps: F_k of the same shapes.
        scores: (B, C) logits of each teacher's classifier on r_k; w = `confidence_weights` of them. Pass
            them detached unless gradient shall flow into the weights, as in the released code (where
            descent then makes a teacher with a large error look less confident).
        target: (B,) labels.

    Source: Zhang, Chen, Wang, ICASSP 2022, arXiv 2201.00007.

    >>> student, teachers = torch.zeros(1, 1, 2, 2), [torch.ones(1, 1, 2, 2), 2 * torch.ones(1, 1, 2, 2)]
    >>> scores = [torch.zeros(1, 3), torch.zeros(1, 3)]  # nobody surer: weights of 1/2
    >>> kdlab.losses.confidence_feature([student, student], teachers, scores, torch.tensor([0]))
    tensor([0.5000, 2.0000])
    """
    if not len(student_maps) == len(teacher_maps) == len(scores):
        raise ValueError("there must be one student map, one teacher map and one set of scores per teacher.")
    for student, teacher in zip(student_maps, teacher_maps):
        check_maps(student, teacher, channels=True, size=True)
    errors = [(s - t).square().mean((1, 2, 3)) for s, t in zip(student_maps, teacher_maps)]
    return (confidence_weights(scores, target) * torch.stack(errors)).mean(1)


# ---- aekd -------------------------------------------------------------------------------------------


@torch.no_grad()
@full_precision
def gradient_weights(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    temperature: float = 4.0,
    cap: float = 0.6,
    normalise_gradients: bool = False,
) -> Tensor:
    """(M,) AEKD's weights a: the average of the teachers' gradients that is shortest.

    min_a ||sum_k a_k g_k||^2 over sum a = 1, 0 <= a_k <= cap, with g_k = mean_b dKD_k/dz_s(b)
    = mean_b tau (softmax(z_s/tau) - softmax(z_k/tau)), in closed form: no backward pass.

    Args:
        cap: C_max; 1/M gives equal weights, 1 or more the descent direction common to all teachers.
        normalise_gradients: see `shortest_mix`.

    Raises:
        ValueError: unequal shapes, no teacher, more than 8 teachers, or a cap below 1/M.

    Source: Du et al., NeurIPS 2020, and its official code.

    >>> one, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    >>> kdlab.losses.gradient_weights(torch.zeros(1, 2), [one, other])  # opposite gradients cancel
    tensor([0.5000, 0.5000])
    >>> kdlab.losses.gradient_weights(torch.zeros(1, 2), [one, 2 * one])  # 0.6 is the most one may have
    tensor([0.6000, 0.4000])
    """
    _check(student_logits, teacher_logits, None)
    student = F.softmax(student_logits / temperature, dim=1)
    teachers = F.softmax(_stack(teacher_logits) / temperature, dim=2)
    return shortest_mix(temperature * (student - teachers).mean(1), cap, normalise_gradients)


@torch.no_grad()
@full_precision
def shortest_mix(gradients: Tensor, cap: float = 0.6, normalise_gradients: bool = False) -> Tensor:
    """(M,) weights of the shortest average of M gradients (M, d); see `min_norm_weights`.

    Args:
        normalise_gradients: average gradients of length 1; the weights are then divided by the lengths
            and made to sum to 1 again, so that they may exceed `cap`.

    >>> gradients = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    >>> kdlab.losses.shortest_mix(gradients, cap=1)  # minimum of a^2 + 9 (1 - a)^2
    tensor([0.9000, 0.1000])
    >>> kdlab.losses.shortest_mix(gradients)
    tensor([0.6000, 0.4000])
    """
    rows = gradients if gradients.device.type == "mps" else gradients.double()
    if not normalise_gradients:
        return min_norm_weights(rows @ rows.T, cap).to(gradients.dtype)
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    length = length.clamp_min(1e-12 * length.amax()).clamp_min(torch.finfo(rows.dtype).tiny)
    unit = rows / length
    weights = min_norm_weights(unit @ unit.T, cap) / length[:, 0]
    return (weights / weights.sum()).to(gradients.dtype)


@full_precision
def gradient_weighted_features(
    student_map: Tensor, teacher_maps: Sequence[Tensor], cap: float = 0.6, normalise_gradients: bool = False
) -> Tensor:
    """(M,) AEKD on one map: a_k mean (r - F_k)^2, a from the gradients with respect to r; sum them up.

    Args:
        student_map: r (B, c, h, w), the student's map as regressed to the teachers' shape.
        teacher_maps: F_k of the same shape.
        cap, normalise_gradients: see `gradient_weights`.

    >>> student, teacher = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    >>> kdlab.losses.gradient_weighted_features(student, [teacher, -teacher])  # 1/2 of an error of 1 each
    tensor([0.5000, 0.5000])
    """
    for teacher in teacher_maps:
        check_maps(student_map, teacher, channels=True, size=True)
    differences = torch.stack([student_map - teacher for teacher in teacher_maps])
    gradients = 2 / student_map[0].numel() * differences.detach().mean(1).flatten(1)
    return shortest_mix(gradients, cap, normalise_gradients) * differences.square().mean((1, 2, 3, 4))


# ---- gpac -------------------------------------------------------------------------------------------


@full_precision
def corrected_kd(
    student_logits: Tensor, teacher_logits: Tensor, scale: float | Tensor, temperature: float = 4.0
) -> Tensor:
    """GPAC's kd_k: tau^2 mean_b KL(softmax(z_k/tau) || softmax(w z_s/tau)), w > 0 the scale.

    A positive scale keeps the student's predicted class. Its gradient is the gap of two moments,
    d/dw = tau (E_{p_s}[z_s] - E_{p_k}[z_s]), mean over the batch: at the best w it is 0.

    Args:
        scale: number, scalar tensor, (B, 1) by sample or (C,) by class.

    >>> student = torch.tensor([[1.0, 0.0]])
    >>> kdlab.losses.corrected_kd(student, 3 * student, scale=3)  # the student, three times as sure
    tensor(0.)
    >>> kdlab.losses.corrected_kd(student, 3 * student, scale=1) > 0
    tensor(True)
    """
    return kd(scale * student_logits, teacher_logits, temperature)


def _stack(logits: Sequence[Tensor]) -> Tensor:
    """(M, B, C); raises ValueError unless all are (B, C)."""
    if isinstance(logits, Tensor) or not logits:
        raise ValueError("teacher_logits must be a list of at least one (batch, classes) tensor.")
    _check(logits[0], logits, None)
    return torch.stack(list(logits))


def _check(student: Tensor, teachers: Sequence[Tensor], target: Tensor | None) -> None:
    """At least one teacher, all of the student's shape; raises ValueError otherwise."""
    if isinstance(teachers, Tensor) or not teachers:
        raise ValueError("teacher_logits must be a list of at least one (batch, classes) tensor.")
    for teacher in teachers:
        check_logits(student, teacher, target)

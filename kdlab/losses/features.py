"""Feature losses: two maps (B, c, h, w) of one batch in, scalar out; and how maps are brought together.

Where sizes may differ, the larger map is average-pooled to the smaller, before anything else is done
to it (pooling afterwards would be another loss).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.losses._inputs import check_maps, check_temperature, full_precision, unit


def pool_to(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool a map down to at most `size` (height, width); a map that fits is returned as it is.

    >>> kdlab.losses.pool_to(torch.zeros(1, 3, 8, 8), (4, 4)).shape
    torch.Size([1, 3, 4, 4])
    >>> kdlab.losses.pool_to(torch.zeros(1, 3, 2, 8), (4, 4)).shape  # never larger
    torch.Size([1, 3, 2, 4])
    """
    height, width = feature_map.shape[2:]
    smaller = (min(height, size[0]), min(width, size[1]))
    return feature_map if smaller == (height, width) else F.adaptive_avg_pool2d(feature_map, smaller)


def align(student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller of their two sizes; equal sizes are passed on untouched.

    Raises:
        ValueError: not two (B, c, h, w) maps of one batch.

    >>> student, teacher = kdlab.losses.align(torch.zeros(1, 16, 4, 4), torch.zeros(1, 64, 8, 8))
    >>> student.shape, teacher.shape
    (torch.Size([1, 16, 4, 4]), torch.Size([1, 64, 4, 4]))
    """
    check_maps(student_map, teacher_map)
    height = min(student_map.shape[2], teacher_map.shape[2])
    width = min(student_map.shape[3], teacher_map.shape[3])
    return pool_to(student_map, (height, width)), pool_to(teacher_map, (height, width))


def gap(feature_map: Tensor) -> Tensor:
    """Global average pooling: (B, c, h, w) -> (B, c).

    >>> kdlab.losses.gap(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]))
    tensor([[3.]])
    """
    return feature_map.mean((2, 3))


@full_precision
def feature_mse(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Mean of the squared difference over all elements; maps of unequal size are aligned first.

    The hint of FitNet, the feature terms of SRRL (embeddings) and CMKD (maps).

    Args:
        student_features: (B, c, h, w) or (B, d).
        teacher_features: the same number of channels.

    Raises:
        ValueError: shapes that cannot be compared.

    >>> kdlab.losses.feature_mse(torch.ones(1, 2, 4, 4), 3 * torch.ones(1, 2, 8, 8))
    tensor(4.)
    """
    if student_features.ndim == 4:
        check_maps(student_features, teacher_features, channels=True)
        student_features, teacher_features = align(student_features, teacher_features)
    if student_features.shape != teacher_features.shape:
        shapes = f"{tuple(student_features.shape)} and {tuple(teacher_features.shape)}"
        raise ValueError(f"features must have one shape, not {shapes}; project one of them first.")
    return F.mse_loss(student_features, teacher_features)


@full_precision
def attention_map(
    feature_map: Tensor, exponent: float = 2.0, channels: Literal["mean", "max"] = "mean"
) -> Tensor:
    """(B, h*w) where a map is active: A = vec(mean_c |F|^p) / max(||.||_2, 1e-12); a zero map gives zeros.

    Args:
        feature_map: (B, c, h, w).
        exponent: p >= 1; larger p looks at the strongest channels.
        channels: how channels are put together.

    Raises:
        ValueError: an exponent below 1 (its gradient is infinite at 0), or an unknown `channels`.

    >>> feature_map = torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 0.0]]]])  # (1, 3, 1, 2), on the left
    >>> kdlab.losses.attention_map(feature_map)
    tensor([[1., 0.]])
    """
    if not exponent >= 1:
        raise ValueError(f"exponent must be at least 1, not {exponent!r}.")
    energy = feature_map.square() if exponent == 2 else feature_map.abs().pow(exponent)
    if channels == "mean":
        energy = energy.mean(1)
    elif channels == "max":
        energy = energy.amax(1)
    else:
        raise ValueError(f"channels must be 'mean' or 'max', not {channels!r}.")
    return F.normalize(energy.flatten(1), dim=1, eps=1e-12)


@full_precision
def attention_transfer(
    student_map: Tensor,
    teacher_map: Tensor,
    exponent: float = 2.0,
    channels: Literal["mean", "max"] = "mean",
    form: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Attention transfer for one pair of maps: mean over B, h, w of (A_s - A_t)^2.

    Channels may differ, sizes too (the larger map is pooled *before* it is squared). `form="sum"` sums
    over h, w and averages over B alone, so every size counts the same.

    Args:
        student_map, teacher_map: (B, c, h, w).
        exponent, channels: see `attention_map`.
        form: "mean" over B, h, w, or "sum".

    Raises:
        ValueError: not two maps of one batch, an exponent below 1, or an unknown `channels` or `form`.

    Source: Zagoruyko, Komodakis, ICLR 2017, arXiv 1612.03928, in the form of its official code.

    >>> left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
    >>> kdlab.losses.attention_transfer(left, 7 * left)  # how strong a map is does not matter
    tensor(0.)
    >>> kdlab.losses.attention_transfer(left, right, form="sum")
    tensor(2.)
    """
    student_map, teacher_map = align(student_map, teacher_map)
    student = attention_map(student_map, exponent, channels)
    squared = (student - attention_map(teacher_map, exponent, channels)).square()
    if form not in ("mean", "sum"):
        raise ValueError(f"form must be 'mean' or 'sum', not {form!r}.")
    return squared.mean() if form == "mean" else squared.sum(1).mean()


@full_precision
def nst(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Neuron selectivity transfer: squared MMD between the channels of two maps.

    f_c = vec(map_c) / ||.||_2, k(a, b) = (a'b)^2, value = mean k(f_t, f_t) + mean k(f_s, f_s)
    - 2 mean k(f_s, f_t) over B and all channel pairs. Channels and sizes may differ.

    Raises:
        ValueError: not two (B, c, h, w) maps of one batch.

    Source: Huang, Wang, 2017, arXiv 1707.01219.

    >>> left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
    >>> kdlab.losses.nst(left, right)  # 1 + 1 - 2 * 0
    tensor(2.)
    >>> kdlab.losses.nst(left, -3 * left)  # neither size nor sign of a channel counts
    tensor(0.)
    """
    student_map, teacher_map = align(student_map, teacher_map)
    student, teacher = unit(student_map.flatten(2), dim=2), unit(teacher_map.flatten(2), dim=2)

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.mT).square().mean()

    return mean_kernel(teacher, teacher) + mean_kernel(student, student) - 2 * mean_kernel(student, teacher)


@full_precision
def vid(student_map: Tensor, teacher_map: Tensor, variance: Tensor) -> Tensor:
    """Variational information distillation: mean 0.5 [(mu - F_t)^2 / s_c + log s_c] over all elements.

    The negative log-likelihood, up to a constant, of the teacher's map under a Gaussian whose mean is
    regressed from the student; it may be negative.

    Args:
        student_map: mu (B, c, h, w), the student's map as sent through its mean network.
        teacher_map: F_t of the same shape.
        variance: s (c,), positive.

    Raises:
        ValueError: not two (B, c, h, w) maps of one shape.

    Source: Ahn et al., CVPR 2019, arXiv 1904.05835, in the form of RepDistiller.

    >>> student, teacher = torch.zeros(1, 1, 2, 2), 2 * torch.ones(1, 1, 2, 2)
    >>> kdlab.losses.vid(student, teacher, variance=torch.ones(1))  # 2^2 / 2
    tensor(2.)
    """
    check_maps(student_map, teacher_map, channels=True, size=True)
    s = variance[:, None, None]
    return 0.5 * ((student_map - teacher_map).square() / s + s.log()).mean()


@full_precision
def ofd(student_map: Tensor, teacher_map: Tensor, margin: Tensor) -> Tensor:
    """Overhaul of feature distillation, one pair: sum of partial squared differences / (1000 B).

    t' = max(F_t, margin); (s - t')^2 counts where s > t' or t' > 0: what both leave to be cut off by the
    next ReLU costs nothing.

    Args:
        student_map: s (B, c, h, w), before the activation, connected to the teacher's width.
        teacher_map: F_t of the same shape, before the activation.
        margin: (c,), of each channel, not above 0; see `expected_negative`.

    Raises:
        ValueError: not two (B, c, h, w) maps of one shape.

    Source: Heo et al., ICCV 2019, arXiv 1904.01866, in the form of its official code.

    >>> one = torch.ones(1, 1, 1, 1)
    >>> kdlab.losses.ofd(0 * one, 2 * one, margin=torch.tensor([-0.5]))  # 2^2 / 1000
    tensor(0.0040)
    >>> kdlab.losses.ofd(-3 * one, -1 * one, margin=torch.tensor([-0.5]))  # cut off by both
    tensor(0.)
    """
    check_maps(student_map, teacher_map, channels=True, size=True)
    target = torch.maximum(teacher_map, margin[:, None, None])
    counts = (student_map > target) | (target > 0)
    return ((student_map - target).square() * counts).sum() / (1000 * student_map.shape[0])


@full_precision
def expected_negative(mean: Tensor, deviation: Tensor) -> Tensor:
    """E[x | x < 0] of Gaussians: m - s phi(m/s) / Phi(-m/s); where Phi(-m/s) <= 1e-3, that is -3 s.

    OFD's margins, from the shift `mean` and the scale `deviation` (its size counts) of a BatchNorm.
    All of one shape. A channel of scale 0 gives its mean if that is negative, else 0.

    Source: Heo et al., ICCV 2019, in the form of the official code.

    >>> kdlab.losses.expected_negative(torch.zeros(1), torch.ones(1))  # half a bell: -sqrt(2 / pi)
    tensor([-0.7979])
    """
    s = deviation.abs()
    ratio = mean / s.clamp_min(torch.finfo(s.dtype).tiny)
    below = 0.5 * torch.erfc(ratio / math.sqrt(2))
    density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
    return torch.where(below > 1e-3, mean - s * density / below.clamp_min(1e-3), -3 * s)


@full_precision
def hcl(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Hierarchical context loss of one ReviewKD level: mean squared errors of a pooling pyramid.

    Full size and average pools to l x l for l in (4, 2, 1), l < h, weighted 1, 1/2, 1/4, 1/8 in the
    order of the levels used, divided by the sum of those weights. Equal shapes. Symmetric.

    Raises:
        ValueError: not two (B, c, h, w) maps of one shape.

    Source: Chen, Liu, Zhao, Jia, CVPR 2021, arXiv 2104.09044.

    >>> kdlab.losses.hcl(torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8))  # an error of 1 at every level
    tensor(1.)
    """
    check_maps(student_map, teacher_map, channels=True, size=True)
    total = F.mse_loss(student_map, teacher_map)
    weight, weights = 1.0, 1.0
    for level in (4, 2, 1):
        if level < student_map.shape[2]:
            weight /= 2
            weights += weight
            student = F.adaptive_avg_pool2d(student_map, level)
            total = total + weight * F.mse_loss(student, F.adaptive_avg_pool2d(teacher_map, level))
    return total / weights


@full_precision
def ickd(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Inter-channel correlation: sum (G_s - G_t)^2 / (B c), G = rows of F F' L2-normalised, F = (c, h*w).

    Equal channels; sizes may differ, since G is c x c.

    Raises:
        ValueError: not two (B, c, h, w) maps of one batch with equal channels.

    Source: Liu et al., ICCV 2021, arXiv 2202.03680.

    >>> same = torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]]]])  # two channels that agree
    >>> unlike = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    >>> kdlab.losses.ickd(unlike, 5 * unlike)  # how strong a map is does not matter
    tensor(0.)
    >>> kdlab.losses.ickd(unlike, same)  # (1 - 0.7071)^2 + 0.7071^2
    tensor(0.5858)
    """
    check_maps(student_map, teacher_map, channels=True)

    def correlation(feature_map: Tensor) -> Tensor:
        rows = feature_map.flatten(2)
        return unit(rows @ rows.mT, dim=2)

    squared = (correlation(student_map) - correlation(teacher_map)).square()
    return squared.sum() / (student_map.shape[0] * student_map.shape[1])


@full_precision
def cwd(student_map: Tensor, teacher_map: Tensor, temperature: float = 4.0) -> Tensor:
    """Channel-wise distillation: tau^2/(B c) sum_{b,c} KL(softmax_hw(F_t/tau) || softmax_hw(F_s/tau)).

    Each channel is a distribution over the h*w places. Equal shapes.

    Raises:
        ValueError: not two (B, c, h, w) maps of one shape, or a temperature that is not positive.

    Source: Shu et al., ICCV 2021, arXiv 2011.13256.

    >>> teacher = torch.tensor([[[[3.0, 1.0]]]]).log()  # one channel, 3/4 of it on the left
    >>> kdlab.losses.cwd(torch.zeros(1, 1, 1, 2), teacher, temperature=1)  # 3/4 log(3/2) + 1/4 log(1/2)
    tensor(0.1308)
    """
    check_maps(student_map, teacher_map, channels=True, size=True)
    check_temperature(temperature)
    student = F.log_softmax(student_map.flatten(2) / temperature, dim=2)
    teacher = F.log_softmax(teacher_map.flatten(2) / temperature, dim=2)
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(2).mean()


@full_precision
def channel_mse(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Channel distillation for one pair: mean over B, c of (GAP(F_s) - GAP(F_t))^2; sizes may differ.

    Raises:
        ValueError: not two (B, c, h, w) maps of one batch with equal channels.

    Source: Zhou, Zhuge, Guan, Liu, 2020, arXiv 2006.01683.

    >>> kdlab.losses.channel_mse(torch.zeros(1, 2, 4, 4), 3 * torch.ones(1, 2, 2, 2))
    tensor(9.)
    """
    check_maps(student_map, teacher_map, channels=True)
    return F.mse_loss(gap(student_map), gap(teacher_map))

"""Contrastive CRD: a sample of one network is told apart from other samples of the other network.

Source: Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699, in the form of its official code.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.losses._inputs import full_precision, unit

EPS = 1e-7


@full_precision
def unit_rows(vectors: Tensor) -> Tensor:
    """(B, d) rows of length 1; a row of zeros stays zero, without gradient.

    >>> kdlab.losses.unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    return unit(vectors, dim=1)


@full_precision
def similarities(anchors: Tensor, others: Tensor) -> Tensor:
    """(B, n) inner products of anchors (B, d) with others (n, d).

    >>> kdlab.losses.similarities(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    tensor([[0.6000, 0.0000]])
    """
    return anchors @ others.T


@full_precision
def noise_contrastive(
    positive: Tensor,
    negative: Tensor,
    normaliser: Tensor,
    noise: float | Tensor,
    counts: Tensor | None = None,
    temperature: float = 0.07,
) -> Tensor:
    """One side of CRD: -(1/B) [sum log(o_0 / (o_0 + c + eps)) + sum_neg log(c / (o_k + c + eps))].

    o = exp(similarity / temperature) / Z, c = K / n_data, eps = 1e-7; in log space, so that nothing
    overflows.

    Args:
        positive: (B,) similarity of each anchor to its own sample in the other network.
        negative: (B, K) to samples of other classes.
        normaliser: Z, a positive scalar.
        noise: c, or one for each anchor as (B, 1).
        counts: (B, K) which of `negative` count; None: all.
        temperature: 0.07 as published.

    Returns:
        scalar >= 0.

    >>> nothing = torch.zeros(1, 1)  # o = c = 1: a positive and a negative, log 2 each
    >>> kdlab.losses.noise_contrastive(nothing[0], nothing, normaliser=torch.tensor(1.0), noise=1.0)
    tensor(1.3863)
    >>> kdlab.losses.noise_contrastive(nothing[0] + 1, nothing - 1, torch.tensor(1.0), 1.0) < 1e-5
    tensor(True)
    """
    log_z = normaliser.log()
    # log((c + eps) / c) is what eps adds to every negative
    log_c: float | Tensor
    extra: float | Tensor
    if isinstance(noise, Tensor):
        log_c, extra = (noise + EPS).log(), torch.log1p(EPS / noise)
    else:
        log_c, extra = math.log(noise + EPS), math.log1p(EPS / noise)
    hit = F.softplus(log_c - (positive[:, None] / temperature - log_z))
    missed = F.softplus(negative / temperature - log_z - log_c) + extra
    if counts is not None:
        missed = torch.where(counts, missed, 0.0)
    return hit.mean() + missed.sum(1).mean()

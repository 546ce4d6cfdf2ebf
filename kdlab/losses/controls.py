"""Teachers with something taken out: controls that show what of a teacher's answer a student needs.

Each function takes logits (B, C) and labels (B,), and gives logits that go where the teacher's would, so
that a student can be trained with `kd` on them. p_t = softmax(z/tau)_y is the probability of the labelled
class, and the other C - 1 classes share 1 - p_t.

    what is left            of one picture                  of the data
    smoothed_labels         -                               the mean of p_t
    even_others             p_t                             p_t
    reversed_others         p_t, the shares, not whose      p_t, and a false ranking
    the teacher itself      p_t, and which classes are like which

Source: the ideas are those of label smoothing (Szegedy et al., CVPR 2016) and of confidence weighting and
permuted predictions (Furlanello et al., ICML 2018); these forms of them are ours.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlab.losses._inputs import check_logits, check_temperature, full_precision
from kdlab.losses.decomposition import _margin


@full_precision
def smoothed_labels(logits: Tensor, target: Tensor, temperature: float = 4.0) -> Tensor:
    """(B, C) logits with one p_t for all pictures, the batch mean of the given ones, and even others.

    This is label smoothing whose strength comes from the teacher.

    Raises:
        ValueError: shapes that do not fit, one class, or a temperature that is not positive.

    >>> z = torch.tensor([[4.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    >>> kdlab.losses.smoothed_labels(z, torch.tensor([0, 1]), 1.0).softmax(1)
    tensor([[0.8007, 0.0996, 0.0996],
            [0.0996, 0.8007, 0.0996]])
    """
    check_logits(logits, logits, target, classes=2)
    check_temperature(temperature)
    margin = _margin(logits, target, temperature)
    hit, miss = (F.logsigmoid(m).logsumexp(0) - math.log(len(logits)) for m in (margin, -margin))
    own = F.one_hot(target, logits.shape[1]).bool()
    return temperature * torch.where(own, hit, miss - math.log(logits.shape[1] - 1))


@full_precision
def even_others(logits: Tensor, target: Tensor, temperature: float = 4.0) -> Tensor:
    """(B, C) logits with the same p_t for every picture at `temperature`, all other classes equally likely.

    z_y stays, and every other logit becomes tau log(mean_{i != y} exp(z_i / tau)).

    Raises:
        ValueError: shapes that do not fit, one class, or a temperature that is not positive.

    >>> z = torch.tensor([[4.0, 1.0, 0.0]])
    >>> z.softmax(1), kdlab.losses.even_others(z, torch.tensor([0]), 1.0).softmax(1)
    (tensor([[0.9362, 0.0466, 0.0171]]), tensor([[0.9362, 0.0319, 0.0319]]))
    """
    check_logits(logits, logits, target, classes=2)
    check_temperature(temperature)
    own = F.one_hot(target, logits.shape[1]).bool()
    rest = (logits / temperature).masked_fill(own, -torch.inf).logsumexp(1, keepdim=True)
    return torch.where(own, logits, temperature * (rest - math.log(logits.shape[1] - 1)))


@full_precision
def reversed_others(logits: Tensor, target: Tensor) -> Tensor:
    """(B, C) logits in which the other classes have changed places: the likeliest with the unlikeliest, ...

    p_t, and the entropy of the answer, stay at every temperature; what is false is which class is like
    which.

    Raises:
        ValueError: shapes that do not fit, or one class.

    >>> kdlab.losses.reversed_others(torch.tensor([[4.0, 1.0, 0.0, -3.0]]), torch.tensor([0]))
    tensor([[ 4., -3.,  0.,  1.]])
    """
    check_logits(logits, logits, target, classes=2)
    own = F.one_hot(target, logits.shape[1]).bool()
    others = logits[~own].reshape(len(logits), -1)
    rank = others.argsort(1).argsort(1)
    return logits.masked_scatter(~own, others.sort(1, descending=True).values.gather(1, rank))

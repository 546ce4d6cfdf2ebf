"""SKD's learning simplifier, which corrects softened teacher logits, and signs of its collapse."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Axis = Literal["samples", "classes", "mlp"]


class Simplifier(nn.Module):
    """u (B, C) softened teacher logits -> D (B, C), what is added to them.

        h = LayerNorm(u) over C, no affine parameters, eps 1e-5

    axis "samples": a sample is a token. Q, K, V = h W' + b, (B, d); A = softmax(Q K' / sqrt(d)), (B, B);
    D = (A V) W_o' + b_o. A sample's correction depends on its batch mates; with one sample A = [1].

    axis "classes": a class of a sample is a token, h_c w + e_c with a learnt e_c (C, d); attention over
    the C tokens, D_c = (A V)_c w_o + b_o. Independent of the batch. This form of the tokens is ours.

    axis "mlp": D = relu(h W_1' + b_1) W_o' + b_o for each sample by itself (control without attention).

    Args:
        classes: C.
        width: d, of the attention or of the hidden layer.
        axis: what attention runs over.
        normalise: whether h is u normalised, or u itself.
        zero: whether the output layer starts at 0, so that D does.
    """

    def __init__(
        self, classes: int, width: int, axis: Axis = "samples", normalise: bool = True, zero: bool = True
    ) -> None:
        super().__init__()
        self.axis, self.normalise = axis, normalise
        inputs = classes
        if axis == "classes":
            inputs = width
            self.tokens = ClassTokens(classes, width)
        if axis == "mlp":
            self.hidden = nn.Linear(inputs, width)
        else:
            self.query, self.key, self.value = (nn.Linear(inputs, width) for _ in range(3))
        self.out = nn.Linear(width, 1 if axis == "classes" else classes)
        if zero:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, softened: Tensor) -> Tensor:
        h = F.layer_norm(softened, softened.shape[-1:], eps=1e-5) if self.normalise else softened
        if self.axis == "mlp":
            return self.out(torch.relu(self.hidden(h)))
        if self.axis == "classes":
            return self.out(self._mix(self.tokens(h))).squeeze(-1)
        return self.out(self._mix(h))

    def attention(self, tokens: Tensor) -> Tensor:
        """(..., n, n) the weights with which each token looks at the others; rows sum to 1."""
        query, key = self.query(tokens), self.key(tokens)
        return F.softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]), dim=-1)

    def _mix(self, tokens: Tensor) -> Tensor:
        return self.attention(tokens) @ self.value(tokens)


class ClassTokens(nn.Module):
    """(B, C) values -> (B, C, d) tokens h_c w + e_c, which know their value and their class."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.randn(width))
        self.identity = nn.Parameter(torch.randn(classes, width))

    def forward(self, values: Tensor) -> Tensor:
        return values.unsqueeze(-1) * self.value + self.identity


@torch.no_grad()
def guards(simplified: Tensor, teacher_logits: Tensor, temperature: float) -> dict[str, Tensor]:
    """Signs of a collapse; p~ = softmax(simplified / T), p_t = softmax(z_t / T), (B, C) each.

    Returns:
        "entropy": mean entropy of p~ over log C, 1 where uniform; "batch variance": variance of p~ over
        the batch, summed over the classes; "agreement": share of samples whose largest class is the
        teacher's; "distance": mean KL(p_t || p~). Entropy and batch variance that go to 0 together are
        the failure.
    """
    log_p = F.log_softmax(simplified.detach() / temperature, dim=1)
    p = log_p.exp()
    log_t = F.log_softmax(teacher_logits / temperature, dim=1)
    return {
        "simplifier/entropy": -(p * log_p).sum(1).mean() / math.log(p.shape[1]),
        "simplifier/batch variance": p.var(0, correction=0).sum(),
        "simplifier/agreement": (simplified.argmax(1) == teacher_logits.argmax(1)).to(p.dtype).mean(),
        "simplifier/distance": F.kl_div(log_p, log_t, reduction="batchmean", log_target=True),
    }

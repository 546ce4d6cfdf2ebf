"""ReviewKD: deep student stages look back at shallow ones before they are compared with the teacher."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlab.losses import feature_mse, hcl
from kdlab.methods.base import Method, Step, Term
from kdlab.methods.ce_kd import ce_and_kd, ce_term, kd_term
from kdlab.methods.checks import choice, number, require_built, same_classes, whole
from kdlab.methods.pairing import found_pairs, given_pairs, pair_taps, require_preacts
from kdlab.methods.projectors import evaluating
from kdlab.methods.registry import register
from kdlab.methods.schedules import Warmup
from kdlab.models.features import Features, NetSpec


class FusionAttention(nn.Conv2d):
    """(B, 2, h, w) sigmoid(conv1x1([x, y])) of x (B, mid, h, w) and y, a deeper map resized to (h, w).

    Computed in two parts, as that of the deeper map is cheaper in its own size, and nothing is put together.
    """

    def __init__(self, middle: int) -> None:
        super().__init__(2 * middle, 2, 1)

    def forward(self, x: Tensor, deeper: Tensor) -> Tensor:  # type: ignore[override]
        """`x` (B, mid, h, w) and `deeper` (B, mid, h', w')."""
        own, other = self.weight.split(x.shape[1], dim=1)
        told = F.interpolate(F.conv2d(deeper, other), x.shape[2:], mode="nearest")
        return (F.conv2d(x, own, self.bias) + told).sigmoid()


class FusionBlock(nn.Module):
    """One level of the chain: its map, fused with what comes from the deeper level, in the teacher's shape.

        x   = BN(conv1x1(F))                                  (B, mid, h, w)
        y   = deeper, nearest-neighbour resized to (h, w)
        a   = sigmoid(conv1x1([x, y]))                        (B, 2, h, w)
        x   = a_1 x + a_2 y,   resized to (h_t, w_t)          passed on
        out = BN(conv3x3(x))                                  (B, c_t, h_t, w_t)

    No ReLU, no convolution bias but the attention's; both convolutions kaiming-uniform (a = 1).

    Args:
        inputs, middle, outputs: channels of F, of x, and of the teacher's map.
        size: (h_t, w_t).
        fuse: "attention" as above, "sum": x + y, or "none": x alone (as at the deepest level).
    """

    def __init__(self, inputs: int, middle: int, outputs: int, size: tuple[int, int], fuse: str) -> None:
        super().__init__()
        reduce = nn.Conv2d(inputs, middle, 1, bias=False)
        expand = nn.Conv2d(middle, outputs, 3, padding=1, bias=False)
        for conv in (reduce, expand):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        self.reduce = nn.Sequential(reduce, nn.BatchNorm2d(middle))
        self.expand = nn.Sequential(expand, nn.BatchNorm2d(outputs))
        self.attention = FusionAttention(middle) if fuse == "attention" else None
        self.size, self.fuse = size, fuse

    def forward(self, feature_map: Tensor, deeper: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`feature_map` (B, inputs, h, w) and what the deeper level passed on; returns (out, x)."""
        x = self.reduce(feature_map)
        if deeper is not None and self.fuse != "none":
            y = F.interpolate(deeper, x.shape[2:], mode="nearest")
            if self.attention is not None:
                a = self.attention(x, deeper)
                x = a[:, :1] * x + a[:, 1:] * y
            else:
                x = x + y
        if x.shape[2:] != self.size:
            x = F.interpolate(x, self.size, mode="nearest")
        return self.expand(x), x


@register
class ReviewKD(Method):
    """Knowledge review: every level of the student, fused with all deeper ones, matches the teacher's level.

        levels: the paired stages and, deepest of all, the pooled vector as a 1x1 map
        o_l, x_l = fusion block of level l on (F_s, x of the next deeper level)
        review   = sum over levels of HCL(o_l, F_t)
        HCL(o, t) = sum_k w_k MSE(pool_k(o), pool_k(t)) / sum_k w_k,  full size and l x l pools, l in
                    (4, 2, 1) below it, w = 1, 1/2, 1/4, 1/8 in the order of the levels used
        L = CE(z_s, y) + w min(e / 20, 1) review

    F_s (B, c_s, h_s, w_s) *after*, F_t (B, c_t, h_t, w_t) *before* the activation; the pooled vectors
    are the embeddings (B, d_s), (B, d_t). Sizes, widths and depths may differ: stages are paired from
    the deepest, and each level takes the teacher's size. Gradient reaches the student's stages and its
    embedding and the blocks; a shallow level also trains the deeper ones that it is fused with.

    Look at: `fusion_weights` (where a level trusts itself, where the deeper one), and `review/STAGE`.

    Args:
        weight: weight of `review`: 5 for WRN pairs, resnet32x4 -> resnet8x4 and ShuffleV1; see `presets`.
        warmup: epochs of the linear warm-up of `review`; 0: none.
        stages: the student's stages, counted from 0 or, if negative, from the deepest; None: as many as
            both networks have, paired from the deepest.
        teacher_stages: the teacher's stages in the same order; None: the same numbers.
        pooled: whether the pooled vector is a level.
        fuse: "attention", "sum" (x + y without attention maps; ours) or "none" (levels by themselves).
        distance: "hcl", or "mse" without the pooling pyramid.
        teacher_maps: "preacts" as published, or "stages" (after the activation).
        ce, kd: weights of the cross-entropy and of an optional KD term.
        temperature: tau of the KD term.

    >>> kdlab.methods.ReviewKD()
    ReviewKD[ce=1, review=5 warmup:20, kd=0]
    >>> kdlab.methods.ReviewKD.presets["resnet56 -> resnet20"]
    {'weight': 0.6}
    """

    key = "reviewkd"
    title = "ReviewKD"
    paper = "Chen, Liu, Zhao, Jia, CVPR 2021, arXiv 2104.09044"
    family = "feature"
    status = "code"
    trained = {"blocks": "one fusion block per level: 1x1 and 3x3 convolutions with BN, attention maps"}
    presets = {
        "resnet32x4 -> resnet8x4": {"weight": 5.0},
        "WRN pairs, and students ShuffleV1": {"weight": 5.0},
        "resnet32x4 -> ShuffleV2": {"weight": 8.0},
        "resnet56 -> resnet20": {"weight": 0.6},
        "resnet110 -> resnet32": {"weight": 1.0},
        "ImageNet, ResNet-18": {"weight": 1.0},
        "ImageNet, MobileNet": {"weight": 8.0},
    }

    def __init__(
        self,
        weight: float = 5.0,
        warmup: int = 20,
        stages: Sequence[int] | None = None,
        teacher_stages: Sequence[int] | None = None,
        pooled: bool = True,
        fuse: Literal["attention", "sum", "none"] = "attention",
        distance: Literal["hcl", "mse"] = "hcl",
        teacher_maps: Literal["preacts", "stages"] = "preacts",
        ce: float = 1.0,
        kd: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        self.given = given_pairs(self, stages, teacher_stages)
        self.pooled = bool(pooled)
        self.teacher_maps = choice(self, "teacher_maps", teacher_maps, ("preacts", "stages"))
        review = Term("review", weight, self._taps(*self.given), "match every level after looking back")
        if epochs := whole(self, "warmup", warmup, minimum=0):
            review.schedule = Warmup(epochs)
        super().__init__(ce_term(ce), review, kd_term(kd, optional=True))
        self.fuse = choice(self, "fuse", fuse, ("attention", "sum", "none"))
        self.hcl = choice(self, "distance", distance, ("hcl", "mse")) == "hcl"
        self.temperature = number(self, "temperature", temperature, above=0)
        self.pairs: list[tuple[int, int]] = []
        self.names: list[str] = []

    def build(self, student: NetSpec, teachers: Sequence[NetSpec]) -> None:
        super().build(student, teachers)
        teacher = teachers[0]
        same_classes(self, student, teacher)
        if self.teacher_maps == "preacts":
            require_preacts(self, teacher, "teacher", "choose teacher_maps='stages'")
        self.pairs = sorted(found_pairs(self, student, teacher, *self.given), reverse=True)
        own = [student.stages[s] for s, _ in self.pairs]
        other = [teacher.stages[t] for _, t in self.pairs]
        self.names = [student.stage_names[s] for s, _ in self.pairs]
        if self.pooled:
            own.insert(0, (student.embedding_dim, 1, 1))
            other.insert(0, (teacher.embedding_dim, 1, 1))
            self.names.insert(0, "pooled")
        middle = min(512, own[0][0])
        self.blocks = nn.ModuleList(
            FusionBlock(c_s, middle, c_t, (h, w), self.fuse if level else "none")
            for level, ((c_s, _, _), (c_t, h, w)) in enumerate(zip(own, other))
        )
        self.terms["review"].taps = self._taps([s for s, _ in self.pairs], [t for _, t in self.pairs])

    def _taps(self, own: Sequence[int] | None, other: Sequence[int] | None) -> tuple[str, ...]:
        vectors = ("student.embedding", "teacher.embedding") if self.pooled else ()
        return pair_taps(own, other, teacher=self.teacher_maps) + vectors

    def losses(self, step: Step, active: Collection[str]) -> dict[str, Tensor]:
        self.details = {}
        values = ce_and_kd(step, active, self.temperature)
        if "review" in active:
            require_built(self)
            compare = hcl if self.hcl else feature_mse
            levels = [compare(o, t) for o, t in zip(self._chain(step.student), self._targets(step.teacher))]
            self.details = {f"review/{name}": value.detach() for name, value in zip(self.names, levels)}
            values["review"] = torch.stack(levels).sum()
        return values

    def _chain(self, student: Features) -> list[Tensor]:
        """The outputs o of all levels, deepest first."""
        outputs: list[Tensor] = []
        x: Tensor | None = None
        for block, level in zip(self.blocks, self._levels(student)):
            out, x = block(level, x)
            outputs.append(out)
        return outputs

    def _levels(self, student: Features) -> list[Tensor]:
        """The student's maps, deepest first."""
        maps = [student.stages[s] for s, _ in self.pairs]
        return [student.embedding[:, :, None, None], *maps] if self.pooled else maps

    def _targets(self, teacher: Features) -> list[Tensor]:
        """The teacher's maps in the same order."""
        shown = getattr(teacher, self.teacher_maps)
        maps = [shown[t] for _, t in self.pairs]
        return [teacher.embedding[:, :, None, None], *maps] if self.pooled else maps

    def fusion_weights(self, step: Step) -> dict[str, Tensor]:
        """Level -> (B, 2, h, w): a_1, the weight of its own map, and a_2, of the deeper level's."""
        require_built(self)
        found: dict[str, Tensor] = {}
        with evaluating(self):
            x: Tensor | None = None
            for name, block, level in zip(self.names, self.blocks, self._levels(step.student)):
                assert isinstance(block, FusionBlock)
                if block.attention is not None and x is not None:
                    found[name] = block.attention(block.reduce(level), x)
                _, x = block(level, x)
        return found

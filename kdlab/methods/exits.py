"""Exits: classifiers after the inner stages of a network, which methods train along with it or beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from kdlab.errors import StudyError
from kdlab.losses import cross_entropy, gap
from kdlab.methods.step import Preparation
from kdlab.models.features import NetSpec, StagedNet
from kdlab.models.resnet import BasicBlock

Shape = tuple[int, int, int]
Head = Literal["byot", "mirror"]
HEADS = ("byot", "mirror")


class Exit(nn.Module):
    """One exit: a stack of convolutions, global average pooling, and a linear layer.

    Attributes:
        bottleneck: map -> map of the common width.
        fc: (B, width) -> (B, K) logits.
    """

    def __init__(self, bottleneck: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        self.fc = nn.Linear(width, classes)

    def embed(self, stage_map: Tensor) -> Tensor:
        """(B, width) what the linear layer is given."""
        return gap(self.bottleneck(stage_map))

    def forward(self, stage_map: Tensor) -> Tensor:
        return self.fc(self.embed(stage_map))


def byot_bottleneck(stage: Shape, deepest: Shape, width: int) -> nn.Sequential:
    """1x1 (c -> m), r x r with stride r (m -> m), 1x1 (m -> width), each with bias, BN and ReLU; m = width/4.

    r = H_k / H_K brings the map to the size of the deepest stage (rounded down where it is no whole number).
    """
    middle = max(1, width // 4)
    r = (max(1, stage[1] // deepest[1]), max(1, stage[2] // deepest[2]))

    def with_bn(conv: nn.Conv2d) -> list[nn.Module]:
        return [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU()]

    return nn.Sequential(
        *with_bn(nn.Conv2d(stage[0], middle, 1)),
        *with_bn(nn.Conv2d(middle, middle, r, stride=r)),
        *with_bn(nn.Conv2d(middle, width, 1)),
    )


def mirror_bottleneck(stages: Sequence[Shape], width: int) -> nn.Sequential:
    """A residual block (two 3x3 convolutions) for each stage that comes after the first of `stages`.

    Each has that stage's channels and stride, the last one `width` channels: the network's remaining
    stages at a depth of one block, as a network shows its maps and not the modules between them.
    """
    blocks: list[nn.Module] = []
    channels = stages[0][0]
    for number, (before, after) in enumerate(pairwise(stages), start=2):
        out = width if number == len(stages) else after[0]
        blocks.append(BasicBlock(channels, out, max(1, round(before[1] / after[1]))))
        channels = out
    return nn.Sequential(*blocks)


@dataclass(frozen=True)
class ExitPlan:
    """What the exits of a network look like, from its shapes alone.

    Attributes:
        stages: (c, h, w) of the stages up to the deepest, which needs no exit of its own.
        width: d, of what the linear layers are given.
        classes: K.
        head: "byot" or "mirror".
    """

    stages: tuple[Shape, ...]
    width: int
    classes: int
    head: str

    @classmethod
    def of(cls, net: NetSpec, stages: Sequence[int], head: str, width: int | None = None) -> ExitPlan:
        """Exits after all but the last of `stages`; `width` None: the channels of the deepest."""
        shapes = tuple(net.stages[stage] for stage in stages)
        return cls(shapes, shapes[-1][0] if width is None else width, net.num_classes, head)

    def make(self) -> nn.ModuleList:
        """Untrained exits, one per stage but the deepest."""
        return nn.ModuleList(
            Exit(self._bottleneck(stage), self.width, self.classes) for stage in range(len(self.stages) - 1)
        )

    def _bottleneck(self, stage: int) -> nn.Module:
        if self.head == "mirror":
            return mirror_bottleneck(self.stages[stage:], self.width)
        return byot_bottleneck(self.stages[stage], self.stages[-1], self.width)


class TeacherExits(nn.Module):
    """Exits of a teacher, and the backbone they were trained with if it was trained along.

    Attributes:
        exits: one per stage of `stages` but the deepest.
        backbone: a copy of the teacher that trains with its exits, or None: the teacher itself is used.
    """

    def __init__(self, plan: ExitPlan, stages: Sequence[int], backbone: StagedNet | None = None) -> None:
        super().__init__()
        self.exits = plan.make()
        self.stages = tuple(stages)
        self.backbone = backbone

    def speak(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """(B, K) logits of each exit, from the teacher's maps."""
        return [exit_(stages[stage]) for stage, exit_ in zip(self.stages, self.exits)]


def train_teacher_exits(
    part: TeacherExits, preparation: Preparation, epochs: int, lr: float = 0.05, weight_decay: float = 5e-4
) -> None:
    """Train `part` with sum_k CE(z_k, y), on the first teacher's detached maps; afterwards it is frozen.

    SGD with momentum 0.9; the rate drops to a tenth after 30, 60 and 90 % of `epochs`. A backbone of
    `part` trains along, with its own cross-entropy too; the teacher itself never changes.

    Raises:
        StudyError: the loss is not finite.
    """
    part.to(preparation.device).train().requires_grad_(True)
    optimizer = torch.optim.SGD(part.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)
    total = torch.zeros(())
    for epoch in range(1, epochs + 1):
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.1 ** sum(epoch > share * epochs for share in (0.3, 0.6, 0.9))
        for images, labels, _ in preparation.batches("train", epoch):
            logits = []
            if part.backbone is None:
                with torch.no_grad():
                    seen = preparation.teachers[0].features(images)
            else:
                seen = part.backbone.features(images)
                logits = [seen.logits]
            logits += part.speak(seen.stages)
            total = torch.stack([cross_entropy(z, labels) for z in logits]).sum()
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
    part.eval().requires_grad_(False)
    for parameter in part.parameters():
        parameter.grad = None
    if not total.isfinite():
        raise StudyError(
            "Training the teacher's exits gave a loss that is not finite; look at the teacher (an untrained "
            "one has BatchNorm statistics that fit nothing), or lower exit_lr."
        )


def scaled_epochs(epochs: int, students: int) -> int:
    """`epochs` of the 240-epoch tables, in proportion where the students train for fewer; at least one."""
    return max(1, min(epochs, round(epochs * students / 240)))


def trained_once(
    part: TeacherExits,
    preparation: Preparation,
    key: str,
    make: Callable[[], TeacherExits],
    epochs: int,
    lr: float,
) -> None:
    """Load into `part` what training `make()` gives, once for all students that ask under this key."""

    def work() -> dict[str, Tensor]:
        fresh = make()
        train_teacher_exits(fresh, preparation, epochs, lr)
        return {name: value.detach() for name, value in fresh.state_dict().items()}

    part.load_state_dict(preparation.shared(key, work))

"""The training loop as public distillation repositories write it: what kdlab's speed is compared with.

A `DataLoader` with worker processes, transforms of one PIL picture at a time, the teacher in eval
mode under `no_grad`, `loss.backward()`, and meters that read a number from the device at every step;
after RepDistiller and mdistiller, with kdlab's networks in place of theirs (the same ones). It is kept
plain on purpose: neither memory format nor allocator nor thread settings are touched.

Usage: python benchmarks/textbook.py [--teacher resnet20] [--student resnet8] [--method kd] [--quick]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kdlab.models import Features, StagedNet, inspect_net


class Pictures(Dataset[tuple[Any, int]]):
    """A data set as torchvision has them: `transform(PIL picture)` and label of one sample."""

    def __init__(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], transform: Callable[[Any], Any]
    ) -> None:
        self.data, self.targets, self.transform = images, labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        picture = Image.fromarray(self.data[index])
        return self.transform(picture), self.targets[index]


def train_transform(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Any], Any]:
    """The usual augmentation of CIFAR pictures."""
    return transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )


class AverageMeter:
    """Latest value and running mean."""

    def __init__(self) -> None:
        self.val = self.avg = self.sum = 0.0
        self.count = 0

    def update(self, val: float, n: int = 1) -> None:
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count


def accuracy(output: Tensor, target: Tensor, topk: tuple[int, ...]) -> list[Tensor]:
    """Percentage of samples whose label is among the k highest logits, for each k."""
    with torch.no_grad():
        _, pred = output.topk(max(topk), 1, True, True)
        correct = pred.t().eq(target.view(1, -1).expand_as(pred.t()))
        return [correct[:k].reshape(-1).float().sum(0).mul_(100.0 / target.size(0)) for k in topk]


def kd_loss(logits_student: Tensor, logits_teacher: Tensor, temperature: float) -> Tensor:
    """tau^2 KL(teacher || student) of the softened probabilities, mean over the batch."""
    log_pred_student = F.log_softmax(logits_student / temperature, dim=1)
    pred_teacher = F.softmax(logits_teacher / temperature, dim=1)
    loss = F.kl_div(log_pred_student, pred_teacher, reduction="none").sum(1).mean()
    return loss * temperature**2


class Distiller(nn.Module):
    """Student, frozen teacher and the loss between them."""

    def __init__(self, student: StagedNet, teacher: StagedNet) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher
        for parameter in self.teacher.parameters():
            parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Distiller:
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, image: Tensor, target: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Logits of the student, and the loss."""
        raise NotImplementedError


class KD(Distiller):
    """Hinton's distillation with the weights of the public CIFAR-100 code."""

    temperature, ce_weight, kd_weight = 4.0, 0.1, 0.9

    def forward(self, image: Tensor, target: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        logits_student = self.student(image)
        with torch.no_grad():
            logits_teacher = self.teacher(image)
        loss_ce = self.ce_weight * F.cross_entropy(logits_student, target)
        loss_kd = self.kd_weight * kd_loss(logits_student, logits_teacher, self.temperature)
        return logits_student, loss_ce + loss_kd


class ABF(nn.Module):
    """Attention-based fusion of a student's map with what came from the deeper level."""

    def __init__(self, in_channel: int, mid_channel: int, out_channel: int, fuse: bool) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channel, mid_channel, kernel_size=1, bias=False), nn.BatchNorm2d(mid_channel)
        )
        self.conv2 = nn.Sequential(
            nn.Conv2d(mid_channel, out_channel, kernel_size=3, stride=1, padding=1, bias=False),
            nn.BatchNorm2d(out_channel),
        )
        self.att_conv = (
            nn.Sequential(nn.Conv2d(mid_channel * 2, 2, kernel_size=1), nn.Sigmoid()) if fuse else None
        )
        for conv in (self.conv1[0], self.conv2[0]):
            nn.init.kaiming_uniform_(conv.weight, a=1)  # type: ignore[arg-type]

    def forward(self, x: Tensor, y: Tensor | None, out_shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        n, _, h, w = x.shape
        x = self.conv1(x)
        if self.att_conv is not None and y is not None:
            y = F.interpolate(y, (h, w), mode="nearest")
            z = self.att_conv(torch.cat([x, y], dim=1))
            x = x * z[:, 0].view(n, 1, h, w) + y * z[:, 1].view(n, 1, h, w)
        if x.shape[-2:] != out_shape:
            x = F.interpolate(x, out_shape, mode="nearest")
        return self.conv2(x), x


def hcl_loss(fstudent: list[Tensor], fteacher: list[Tensor]) -> Tensor:
    """Hierarchical context loss: squared differences at full size and of pools of 4, 2 and 1."""
    loss_all = fstudent[0].new_zeros(())
    for fs, ft in zip(fstudent, fteacher):
        h = fs.shape[2]
        loss = F.mse_loss(fs, ft)
        cnt = tot = 1.0
        for size in (4, 2, 1):
            if size >= h:
                continue
            cnt /= 2.0
            pooled = F.adaptive_avg_pool2d(fs, (size, size)), F.adaptive_avg_pool2d(ft, (size, size))
            loss = loss + F.mse_loss(*pooled) * cnt
            tot += cnt
        loss_all = loss_all + loss / tot
    return loss_all


class ReviewKD(Distiller):
    """Knowledge review (Chen et al., CVPR 2021): stages 1 to 3 and the pooled vector, deepest first."""

    ce_weight, review_weight, warmup_epochs = 1.0, 5.0, 20

    def __init__(
        self, student: StagedNet, teacher: StagedNet, input_shape: tuple[int, int, int] = (3, 32, 32)
    ) -> None:
        super().__init__(student, teacher)
        mine, its = inspect_net(student, input_shape), inspect_net(teacher, input_shape)
        ins = [c for c, _, _ in mine.stages] + [mine.embedding_dim]
        outs = [c for c, _, _ in its.stages] + [its.embedding_dim]
        mid = min(512, ins[-1])
        deepest = len(ins) - 1
        abfs = [ABF(a, mid, b, i < deepest) for i, (a, b) in enumerate(zip(ins, outs))]
        self.abfs = nn.ModuleList(abfs[::-1])

    def forward(self, image: Tensor, target: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        seen: Features = self.student.features(image)
        with torch.no_grad():
            told: Features = self.teacher.features(image)
        x = [*seen.stages, seen.embedding[:, :, None, None]][::-1]
        features_teacher = [*(told.preacts or ()), told.embedding[:, :, None, None]]
        sizes = [(t.shape[2], t.shape[3]) for t in features_teacher][::-1]
        results: list[Tensor] = []
        passed: Tensor | None = None
        for feature, abf, size in zip(x, self.abfs, sizes):
            out, passed = abf(feature, passed, size)
            results.insert(0, out)
        loss_ce = self.ce_weight * F.cross_entropy(seen.logits, target)
        weight = self.review_weight * min(epoch / self.warmup_epochs, 1.0)
        return seen.logits, loss_ce + weight * hcl_loss(results, features_teacher)


DISTILLERS: dict[str, type[Distiller]] = {"kd": KD, "reviewkd": ReviewKD}


class Trainer:
    """Runs a distiller over a loader, one step at a time.

    Args:
        distiller: student, teacher and loss.
        loader: gives (images, labels) on the CPU.
        device: where training happens.
        lr: the rest is that of the public CIFAR recipe.
    """

    def __init__(
        self,
        distiller: Distiller,
        loader: Iterable[Any],
        device: str | torch.device = "cpu",
        lr: float = 0.05,
    ) -> None:
        self.device = torch.device(device)
        self.distiller = distiller.to(self.device)
        self.loader = loader
        learnable = [p for p in self.distiller.parameters() if p.requires_grad]
        self.optimizer = optim.SGD(learnable, lr=lr, momentum=0.9, weight_decay=5e-4)
        self.meters = {name: AverageMeter() for name in ("data", "train", "loss", "top1", "top5")}
        self.losses: list[float] = []

    def steps(self) -> Iterator[int]:
        """Train for ever; hands back the size of each batch when its step is done."""
        epoch = 1
        while True:
            self.distiller.train()
            start = time.perf_counter()
            for image, target in self.loader:
                self.meters["data"].update(time.perf_counter() - start)
                self.step(image, target, epoch)
                self.meters["train"].update(time.perf_counter() - start)
                yield len(target)
                start = time.perf_counter()
            epoch += 1

    def step(self, image: Tensor, target: Tensor, epoch: int) -> None:
        """One update, and what the meters want to know of it."""
        image = image.float().to(self.device, non_blocking=True)
        target = target.to(self.device, non_blocking=True)
        self.optimizer.zero_grad()
        logits, loss = self.distiller(image, target, epoch)
        loss.backward()
        self.optimizer.step()
        size = image.size(0)
        top1, top5 = accuracy(logits, target, (1, 5))
        self.meters["loss"].update(loss.item(), size)
        self.meters["top1"].update(top1.item(), size)
        self.meters["top5"].update(top5.item(), size)
        self.losses.append(self.meters["loss"].val)


def make_loader(data: Any, batch_size: int, workers: int, device: str | torch.device = "cpu") -> Any:
    """The loader of the training part of a `kdlab.data.ImageData`."""
    arrays = data.train.images.permute(0, 2, 3, 1).contiguous().numpy()
    dataset = Pictures(arrays, data.train.labels.numpy(), train_transform(data.mean, data.std))
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=torch.device(device).type == "cuda",
    )


def main() -> None:
    """The loop alone, for a look at it; `throughput.py` compares."""
    from machine import machine, machine_line
    from sides import TextbookSide

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--method", default="kd", choices=sorted(DISTILLERS))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a second only")
    args = parser.parse_args()
    print(machine_line(machine()))
    side = TextbookSide((args.teacher, args.student), args.method, workers=args.workers, quick=args.quick)
    side.run(1.0 if args.quick else 3.0)
    rate = side.run(1.0 if args.quick else args.seconds).rate
    print(f"{args.teacher} -> {args.student}, {args.method}, on {side.source}: {rate:.0f} images/s")
    side.close()


if __name__ == "__main__":
    main()

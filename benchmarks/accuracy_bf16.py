"""Does training in bf16 change what students reach? Accuracies in bf16 minus fp32, paired over 3 seeds.

Usage: python benchmarks/accuracy_bf16.py [--quick] [--seeds 3] [--json FILE]

On the digits, and on a part of Fashion-MNIST where it is at hand (at half its size on processors
without bf16 of their own, where PyTorch computes it at a tenth of the speed of fp32). Students,
batches, seeds and the teacher, trained in fp32, are the same; only `precision` differs, for students
and the teacher's pass. Whether bf16 is faster is asked by `throughput.py`.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from harness import arguments, table, write
from machine import machine, machine_line, native_bf16

import kdlab
from kdlab.data import ImageData, Split
from kdlab.errors import DataError

STUDENTS = {"alone": "ce", "KD": "kd"}


def sets(quick: bool) -> list[tuple[ImageData, int, int]]:
    """Data, epochs, and epochs of the teacher; less of it where bf16 is emulated, at a tenth of the speed."""
    native = native_bf16()
    digits = kdlab.data.load("digits", limit=100 if quick else None)
    found = [(digits, 1 if quick else 12 if native else 6, 1 if quick else 8)]
    try:
        part = {"train": 100, "val": 50, "test": 100} if quick else {"train": 2000, "val": 200, "test": 2000}
        garments = kdlab.data.load("fashion_mnist", limit=part)
    except DataError:
        print("Fashion-MNIST is not at hand: left out.")
        return found
    if not native:
        train, val, test = map(halved, (garments.train, garments.val, garments.test))
        garments = replace(garments, name=f"{garments.name} at 14x14", train=train, val=val, test=test)
    return [*found, (garments, 1 if quick else 6 if native else 4, 1 if quick else 6)]


def halved(split: Split) -> Split:
    """The same pictures with half the height and width."""
    return replace(split, images=F.avg_pool2d(split.images.float(), 2).round().byte())


def accuracies(
    data: ImageData, epochs: int, teacher_epochs: int, precision: str, args: Any
) -> dict[str, Any]:
    """Test accuracy in percent after the last epoch, by student, over the seeds."""
    with tempfile.TemporaryDirectory(prefix="kdlab-bench-") as folder:
        study = kdlab.Study(
            data,
            "resnet14",
            "resnet8",
            STUDENTS,
            recipe="lab_small",
            epochs=epochs,
            teacher_recipe="lab_small",
            teacher_epochs=teacher_epochs,
            seeds=args.seeds,
            device="cpu",
            snapshots="ends",
            probe_size=16,
            evaluate_every=epochs,
            precision=precision,
            folder=Path(folder) / "study",
        ).fit(progress=False)
        return {name: 100 * found["last"] for name, found in study.results().items()}


def main() -> None:
    """Train, compare, print."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    about = machine()
    print(machine_line(about))
    rows = []
    with tempfile.TemporaryDirectory(prefix="kdlab-bench-") as cache:
        os.environ["KDLAB_CACHE"] = cache  # the teachers are of no use to anybody else
        for data, epochs, teacher_epochs in sets(args.quick):
            found = {p: accuracies(data, epochs, teacher_epochs, p, args) for p in ("fp32", "bf16")}
            for name in STUDENTS:
                a, b = found["fp32"][name], found["bf16"][name]
                row = {"data": data.name, "student": name, "seeds": len(a), "fp32 %": float(a.mean())}
                row |= {"bf16 %": float(b.mean()), "difference": float((b - a).mean())}
                row["its s.d."] = float(np.std(b - a, ddof=1)) if len(a) > 1 else None
                rows.append(row)
    print("\ntest accuracy after the last epoch; difference bf16 - fp32 in points, paired by seed")
    print(table(rows))
    write(args.json, about, rows=rows)


if __name__ == "__main__":
    main()

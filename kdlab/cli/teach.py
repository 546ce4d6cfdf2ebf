"""`kdlab teacher`: train a teacher once, so that later studies find it ready."""

from __future__ import annotations

import argparse
from typing import Any

from kdlab.cli.parsing import add_command

_EPILOG = """\
A teacher is trained with plain cross entropy on all training images and kept in the cache
(KDLAB_CACHE, else ~/.cache/kdlab). Studies train missing teachers themselves; this command
does it ahead of time, or shows the one that is there.

Examples:
  kdlab teacher resnet20 --data digits
  kdlab teacher resnet32x4 --data cifar100 --recipe cifar_240 --device cuda"""


def add(commands: Any) -> None:
    """Describe the command."""
    summary = "train a teacher, or show the one already trained"
    command = add_command(commands, "teacher", summary, teacher_command, epilog=_EPILOG)
    command.add_argument("name", metavar="NAME", help="network (kdlab models)")
    command.add_argument(
        "--data", required=True, metavar="DATA", help="data set (kdlab datasets), folder, or .npz"
    )
    command.add_argument(
        "--data-root", metavar="FOLDER", help="where data sets lie (default: KDLAB_DATA, then data/)"
    )
    command.add_argument(
        "--epochs", type=int, metavar="N", help="length of the training (default: the recipe's)"
    )
    command.add_argument("--recipe", metavar="NAME", help="optimiser and schedule by name")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="seed (default: 0)")
    command.add_argument(
        "--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda, cuda:1, mps"
    )
    command.add_argument("-q", "--quiet", action="store_true", help="show no progress")


def teacher_command(args: argparse.Namespace) -> int:
    """Train or find the teacher and print what is known of it."""
    import kdlab.data
    from kdlab.training.teachers import get_teacher

    data = kdlab.data.load(args.data, root=args.data_root)
    teacher = get_teacher(
        args.name,
        data,
        device=args.device,
        epochs=args.epochs,
        recipe=args.recipe,
        seed=args.seed,
        progress=not args.quiet,
    )
    facts = {
        "teacher": teacher.name,
        "data": data.describe(),
        "test accuracy": f"{teacher.accuracy:.2%} (chance {data.chance:.2%})",
        "validation": f"{teacher.val_accuracy:.2%}",
        "recipe": f"{teacher.recipe.get('name', '')}, {teacher.recipe.get('epochs', '?')} epochs",
        "weights": teacher.hash,
    }
    width = max(map(len, facts))
    for key, value in facts.items():
        print(f"{key:<{width}}  {value}")
    return 0

"""`kdlab show`, `methods`, `models`, `datasets` and `doctor`: what there is, and whether it works here."""

from __future__ import annotations

import argparse
from typing import Any

from kdlab.cli.parsing import add_command
from kdlab.cli.run import result_rows
from kdlab.cli.text import remark, show, table, terminal_width

_SHOW_EPILOG = """\
Examples:
  kdlab show runs/first"""

_METHODS_EPILOG = """\
Examples:
  kdlab methods
  kdlab methods cmkd"""

_DATASETS_EPILOG = """\
Nothing is downloaded unless asked for.

Examples:
  kdlab datasets
  kdlab datasets --download cifar100"""

_DOCTOR_EPILOG = "Exit status: 0 when everything needed works, 1 when something is broken."


def add(commands: Any) -> None:
    """Describe the five commands."""
    summary = "show the results of a study so far"
    command = add_command(commands, "show", summary, show_command, epilog=_SHOW_EPILOG)
    command.add_argument("folder", metavar="FOLDER", help="folder of a study")
    summary = "list the losses, or explain one"
    methods = add_command(commands, "methods", summary, methods_command, epilog=_METHODS_EPILOG)
    methods.add_argument(
        "key", nargs="?", metavar="KEY", help="explain this one: its terms, defaults and paper"
    )
    add_command(commands, "models", "list the networks", models_command)
    summary = "list the data sets, or download one"
    datasets = add_command(commands, "datasets", summary, datasets_command, epilog=_DATASETS_EPILOG)
    datasets.add_argument("--download", metavar="NAME", help="fetch this data set into the data folder")
    datasets.add_argument(
        "--root", metavar="FOLDER", help="the data folder (default: KDLAB_DATA, then data/)"
    )
    summary = "check this installation and say what to fix"
    add_command(commands, "doctor", summary, doctor_command, epilog=_DOCTOR_EPILOG)


def show_command(args: argparse.Namespace) -> int:
    """Print the state of a study, its table, and what was commanded by hand or stopped by a guard."""
    import kdlab

    study = kdlab.load_study(args.folder)
    done = max((row["epoch"] for run in study.record.runs.values() for row in run.rows), default=0)
    print(f"Study: {study.folder}: {study.state}, epoch {done} of {study.epochs}, seeds {show(study.seeds)}")
    print(table(result_rows(study)))
    for mark in study.record.marks():
        when = f"epoch {mark['epoch']}, step {mark['step']}, seed {mark['seed']}"
        print(f"By hand: {mark['student']}: {mark['text']} ({when})")
    for why in dict.fromkeys(failure["text"] for failure in study.failures()):
        print(f"Note: {why}")
    return 0


def methods_command(args: argparse.Namespace) -> int:
    """List all methods, or explain one."""
    import kdlab.methods

    if args.key is not None:
        print(kdlab.methods.describe(args.key))
        return 0
    print(table(kdlab.methods.table(), ["key", "title", "terms", "status"], width=terminal_width()))
    remark('\nMore on one: kdlab methods KEY.  Methods add up: "kd + at".')
    return 0


def models_command(args: argparse.Namespace) -> int:
    """List all networks."""
    import kdlab.models

    print(table(kdlab.models.table(), width=terminal_width()))
    remark("\nFurther networks by name: torchvision/resnet18, timm/NAME (needs the package timm).")
    return 0


def datasets_command(args: argparse.Namespace) -> int:
    """List all data sets, or download one."""
    import kdlab.data

    if args.download is not None:
        print(kdlab.data.download(args.download, root=args.root))
        return 0
    rows = [
        {**row, "here": row["where"] if row["present"] else ""} for row in kdlab.data.table(root=args.root)
    ]
    print(table(rows, ["name", "size", "classes", "train", "test", "here", "title"], width=terminal_width()))
    remark(
        "\nGet one: kdlab datasets --download NAME.\n"
        "Your own: a folder of images (one folder per class), or a .npz file."
    )
    return 0


def doctor_command(args: argparse.Namespace) -> int:
    """Print all checks; status 1 when one of them found something broken."""
    from kdlab.checkup import broken, checks, format_checks

    found = checks()
    print(format_checks(found))
    return 1 if broken(found) else 0

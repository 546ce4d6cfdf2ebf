"""`kdlab demo`, `kdlab run` and `kdlab report`: make a study, go on with one, look at one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from kdlab.cli.arguments import add_option_flags, add_study_flags, check_keys, quoted, study_arguments
from kdlab.cli.parsing import add_command
from kdlab.cli.text import remark, table

_RUN_HELP = """\
Train students that differ only in their loss, in lockstep, and record everything in a folder.
The study comes from a TOML file, from flags, or from both (flags win)."""

_RUN_EPILOG = """\
A study file names the arguments of kdlab.Study:

  data = "digits"
  teacher = "resnet20"
  student = "resnet8"
  epochs = 30
  seeds = 3

  [students]
  alone = "ce"
  KD = "kd"
  "KD and AT" = "kd + at"
  soft = { key = "kd", params = { temperature = 8 } }

Examples:
  kdlab run study.toml
  kdlab run study.toml --data fashion_mnist --folder runs/fashion
  kdlab run --data digits --teacher resnet20 --student resnet8 --method alone=ce --method kd
  kdlab run study.toml --precision bf16 --tensorboard
  kdlab run --resume runs/fashion            go on with a study that was stopped or killed

Ctrl-C is safe: the study goes on from its last checkpoint when it is resumed."""

_DEMO_EPILOG = """\
Examples:
  kdlab demo                                 about a minute on two processor cores
  kdlab demo --seeds 1 --folder runs/demo --open"""

_REPORT_EPILOG = """\
Examples:
  kdlab report runs/first --open
  kdlab report runs/first -o first.html"""


def add(commands: Any) -> None:
    """Describe the three commands."""
    summary = "a whole study on small real images, with a report"
    demo = add_command(commands, "demo", summary, demo_command, epilog=_DEMO_EPILOG)
    demo.add_argument("--folder", metavar="FOLDER", help="where the study goes (default: a new folder)")
    demo.add_argument("--seeds", type=int, default=3, metavar="N", help="repeat with N seeds (default: 3)")
    demo.add_argument("--epochs", type=int, metavar="N", help="train the students for N epochs")
    demo.add_argument("--data", default="digits", metavar="NAME", help="another data set (default: digits)")
    demo.add_argument(
        "--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda, cuda:1, mps"
    )
    demo.add_argument("--open", action="store_true", help="open the report in the browser")
    demo.add_argument("-q", "--quiet", action="store_true", help="show no progress")

    summary = "train a study from a file or from flags"
    run = add_command(commands, "run", summary, run_command, description=_RUN_HELP, epilog=_RUN_EPILOG)
    run.add_argument("study", nargs="?", metavar="STUDY.toml", help="file that describes the study")
    run.add_argument(
        "--resume",
        metavar="FOLDER",
        help="go on with the study in FOLDER (only with --device, --data-root, --tensorboard)",
    )
    what = add_study_flags(run, "where the study goes (default: a new folder in runs/)")
    what.add_argument(
        "--method",
        action="append",
        metavar="[NAME=]METHOD",
        help='a student and its loss, such as kd, or "both=kd + at" (kdlab methods); repeat for each student',
    )
    add_option_flags(run)
    run.add_argument("-q", "--quiet", action="store_true", help="show no progress")

    summary = "write a study's report as one web page"
    report = add_command(commands, "report", summary, report_command, epilog=_REPORT_EPILOG)
    report.add_argument("folder", metavar="FOLDER", help="folder of a study")
    report.add_argument(
        "-o", "--output", metavar="FILE", help="name of the page (default: report.html in FOLDER)"
    )
    report.add_argument("--open", action="store_true", help="open it in the browser")


def demo_command(args: argparse.Namespace) -> int:
    """Run the demonstration study and say where its report lies."""
    from kdlab.demo import run_demo

    path = run_demo(
        folder=args.folder,
        seeds=args.seeds,
        epochs=args.epochs,
        data=args.data,
        device=args.device,
        open_report=args.open,
        progress=not args.quiet,
    )
    if args.quiet:  # otherwise the demonstration has told it
        print(path)
    return 0


def run_command(args: argparse.Namespace) -> int:
    """Train a study to its end, or go on with one, then print its table."""
    arguments = study_arguments(args)
    import kdlab

    if args.resume is not None:
        study = kdlab.load_study(args.resume, **arguments)
    else:
        check_keys(arguments, kdlab.Study)
        study = kdlab.Study(**arguments)
    print(f"Study: {study.folder}", flush=True)
    try:
        study.fit(progress=not args.quiet, tensorboard=args.tensorboard)
        stopped = study.state == "stopped"
    except KeyboardInterrupt:
        if args.debug:
            raise
        stopped = True
    if args.quiet:  # otherwise `fit` has told it
        print_failures(study)
    if stopped:
        print(f"kdlab: stopped; to go on: kdlab run --resume {quoted(study.folder)}", file=sys.stderr)
        return 130
    print(table(result_rows(study)))
    remark(f"\nLook at it: kdlab report {quoted(study.folder)} --open")
    return 0


def report_command(args: argparse.Namespace) -> int:
    """Write the report of a study and print its path."""
    import kdlab

    path = Path(kdlab.load_study(args.folder).report(args.output))
    print(path)
    if args.open:
        open_page(path)
    return 0


def open_page(path: Path) -> None:
    """Show a page in the user's browser, or say that there is none."""
    import webbrowser

    if not webbrowser.open(path.absolute().as_uri()):
        print(f"kdlab: no browser could be started here; open {path} yourself", file=sys.stderr)


def print_failures(study: Any) -> None:
    """Say which students a guard stopped; beside the results, so that a pipe gets these alone."""
    for why in dict.fromkeys(failure["text"] for failure in study.failures()):
        print(f"kdlab: {why}", file=sys.stderr)


def result_rows(study: Any) -> list[dict[str, Any]]:
    """The rows of a study's table, without the columns of remarks that nobody needs."""
    rows = frame_rows(study.table())
    idle = [key for key in ("differs", "note") if not any(row.get(key) for row in rows)]
    return [{key: value for key, value in row.items() if key not in idle} for row in rows]


def frame_rows(frame: Any) -> list[dict[str, Any]]:
    """The rows of a DataFrame, its named index as a first column."""
    if frame.index.name is not None:
        frame = frame.reset_index()
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]

"""`kdlab sweep`: many studies, one for each point of a grid, and what came of them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from kdlab.cli.arguments import add_study_flags, quoted, sweep_arguments
from kdlab.cli.parsing import add_command
from kdlab.cli.run import frame_rows
from kdlab.cli.text import remark, table
from kdlab.errors import ConfigError

_HELP = """\
Train one study for every combination of values, several at once, each in a folder of its own.
Students of one study are trained in lockstep; seeds are points of the sweep, so that they spread."""

_EPILOG = """\
The same command goes on with a sweep that was stopped or killed, and with points that failed.
A study file (--study) may hold the grid as well:  [grid]  lr = [0.05, 0.1]

Examples:
  kdlab sweep --data digits --teacher resnet20 --student resnet8 --students "alone=ce,KD=kd" \\
      --grid lr=0.05,0.1 --seeds 3 --workers 2 --folder runs/rates
  kdlab sweep --study study.toml --grid student=resnet8,resnet14 --engine ray --folder /shared/sizes
  kdlab sweep --resume runs/rates --workers 4
  kdlab sweep show runs/rates

GPUs are taken in turn by the processes of --workers; Ray gives each point one of its own. With
several machines (RAY_ADDRESS) the folder and KDLAB_CACHE must be on a drive that all of them share."""


def add(commands: Any) -> None:
    """Describe the command."""
    summary = "train many studies over a grid of values, on this machine or with Ray"
    command = add_command(commands, "sweep", summary, sweep_command, description=_HELP, epilog=_EPILOG)
    command.add_argument(
        "--grid",
        action="append",
        metavar="NAME=A,B,..",
        help="values of an argument of kdlab.Study, such as lr=0.05,0.1; repeat for several",
    )
    command.add_argument("--study", metavar="STUDY.toml", help="file that describes the study (kdlab run)")
    command.add_argument("--resume", metavar="FOLDER", help="go on with the sweep in FOLDER")
    what = add_study_flags(command, "where the sweep goes (default: runs/sweep)")
    what.add_argument(
        "--students",
        action="append",
        metavar="[NAME=]METHOD,..",
        help='students of every point and their losses, such as "alone=ce,KD=kd" (kdlab methods)',
    )
    where = command.add_argument_group("where it is trained")
    where.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="processes of this machine, or Ray",
    )
    where.add_argument(
        "--workers", type=int, metavar="N", help="points at once (default: 1; with Ray as many as it takes)"
    )
    where.add_argument(
        "--num-cpus", type=float, default=1, metavar="N", help="processors of a point (Ray; default: 1)"
    )
    where.add_argument(
        "--num-gpus", type=float, metavar="N", help="GPUs of a point (Ray; default: 1 where there are any)"
    )
    command.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    parts = command.add_subparsers(title="or", metavar="show FOLDER", dest="part")
    summary = "show how far a sweep is and what came of it"
    show = add_command(parts, "show", summary, show_command)
    show.add_argument("folder", metavar="FOLDER", help="folder of a sweep")
    show.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def sweep_command(args: argparse.Namespace) -> int:
    """Run a sweep to its end and print its table; 1 where points failed, 130 where it was stopped."""
    from kdlab.training.sweeps import load_sweep, prepare_sweep

    if args.resume is not None:
        if args.grid or args.study or args.students:
            raise ConfigError("--resume takes the sweep from its folder; leave the rest out.")
        sweep = load_sweep(args.resume)
    else:
        grid, arguments = sweep_arguments(args)
        named = arguments.pop("folder", None)  # of the study, where it comes from a file
        folder = args.folder or (f"{named}-sweep" if named else "runs/sweep")
        sweep = prepare_sweep(grid, folder, **arguments)
    print(f"Sweep: {sweep.folder}", flush=True)
    sweep.run(
        engine=args.engine,
        workers=args.workers,
        num_cpus=args.num_cpus,
        num_gpus=args.num_gpus,
        progress=not args.quiet,
    )
    _print_results(sweep)
    if sweep.errors:
        return 1
    if sweep.state != "finished":
        print(f"kdlab: stopped; to go on: kdlab sweep --resume {quoted(sweep.folder)}", file=sys.stderr)
        return 130
    remark(f"\nLook at one: kdlab report {quoted(sweep.folder / sweep.points[0].name)} --open")
    return 0


def show_command(args: argparse.Namespace) -> int:
    """Print the state of a sweep and its table so far."""
    from kdlab.training.sweeps import load_sweep

    sweep = load_sweep(args.folder)
    states = sweep.states()
    counts = [f"{list(states.values()).count(state)} {state}" for state in dict.fromkeys(states.values())]
    print(f"{len(states)} points: {', '.join(counts)}")
    _print_results(sweep)
    return 1 if sweep.errors else 0


def _print_results(sweep: Any) -> None:
    rows = frame_rows(sweep.table())
    if rows:
        print(table(rows))
    for name, notes in sweep.notes.items():
        for note in notes:
            print(f"kdlab: {name}: {note}", file=sys.stderr)
    for name, error in sweep.errors.items():
        print(f"kdlab: {name} failed: {error}", file=sys.stderr)

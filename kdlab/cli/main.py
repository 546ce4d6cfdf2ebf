"""Parse the command line, run one command, and turn what goes wrong into a sentence and an exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import kdlab
from kdlab.cli import dashboard, export, lab, run, show, sweep, teach
from kdlab.errors import KDLabError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

_DESCRIPTION = """\
A laboratory for knowledge distillation: compare students that differ only in their loss,
and watch how each loss reshapes what they have learnt."""

_EPILOG = """\
Begin here:
  kdlab demo                               a whole study on small real images, with a report
  kdlab lab                                the same by hand, in JupyterLab
  kdlab run --data cifar100 --teacher resnet32x4 --student resnet8x4 \\
      --method alone=ce --method KD=kd --seeds 3 --folder runs/first
  kdlab report runs/first --open           look at it

Each command tells more: kdlab run --help

Exit status: 0 done, 1 failed, 2 asked for something that cannot work, 130 stopped by Ctrl-C."""

_HANDING_ON = ("lab", "dashboard")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line.

    Returns:
        a parser; the function that does the work is `arguments.function`.

    >>> from kdlab.cli import build_parser
    >>> args = build_parser().parse_args(["run", "--data", "digits", "--method", "KD=kd", "--seeds", "3"])
    >>> args.command, args.data, args.seeds
    ('run', 'digits', 3)
    """
    parser = argparse.ArgumentParser(
        prog="kdlab",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kdlab {kdlab.__version__}")
    parser.add_argument(
        "--debug", action="store_true", help="show the whole traceback when something goes wrong"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for module in (run, sweep, teach, show, export, lab, dashboard):
        module.add(commands)
    for command in commands.choices.values():
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; what stands behind "--" is handed on as `rest` by commands that start a program."""
    command = next((word for word in argv if not word.startswith("-")), None)
    if command not in _HANDING_ON or "--" not in argv:
        return parser.parse_args(argv)
    cut = argv.index("--")
    args = parser.parse_args(argv[:cut])
    args.rest = list(argv[cut + 1 :])
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: this process's own) and return the exit status.

    Returns:
        0 done, 1 failed, 2 asked for something that cannot work, 130 stopped by Ctrl-C.

    Raises:
        SystemExit: by argparse, for --help, --version and arguments that there are not.

    >>> from kdlab.cli import main
    >>> main(["show", "runs/nothing-there"])  # and a sentence on stderr
    2
    """
    parser = build_parser()
    args = parse(parser, sys.argv[1:] if argv is None else argv)
    if args.command is None:
        parser.print_help()
        return USAGE
    try:
        status = args.function(args)
        sys.stdout.flush()  # a reader that went away shows here and not at exit
        return int(status)
    except KeyboardInterrupt:
        if args.debug:
            raise
        _complain("stopped before it was done", "")
        return INTERRUPTED
    except BrokenPipeError:  # as in `kdlab models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KDLabError as error:
        if args.debug:
            raise
        _complain(str(error))
        return USAGE
    except ModuleNotFoundError as error:
        if args.debug or (error.name or "").startswith("kdlab"):
            raise
        _complain(f"the package {error.name!r} is not installed here; `kdlab doctor` tells how to get it")
        return FAILED
    except OSError as error:
        if args.debug:
            raise
        _complain(str(error))
        return FAILED
    except Exception as error:
        if args.debug:
            raise
        _complain(
            f"{type(error).__name__}: {error}\n"
            "This is a fault of kdlab, not of what you asked for; please report it with the output of "
            "the same command and --debug."
        )
        return FAILED


def _complain(sentence: str, kind: str = "error: ") -> None:
    print(f"kdlab: {kind}{sentence}", file=sys.stderr)

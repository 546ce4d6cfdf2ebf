"""What all commands of `kdlab` share in their description."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def add_command(
    commands: Any,
    name: str,
    summary: str,
    function: Callable[[argparse.Namespace], int],
    *,
    description: str | None = None,
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    """A subcommand whose help keeps the line breaks of `description` and `epilog`.

    Args:
        commands: what `ArgumentParser.add_subparsers` returned.
        name: of the command.
        summary: one line for the list of commands; also the description where none is given.
        function: runs the command and returns its exit status.
        description, epilog: text before and behind the flags in the command's own help.
    """
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description or summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(function=function)
    return command

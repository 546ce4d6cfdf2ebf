"""The command `kdlab`: everything a study needs, from a shell.

Each command is a module here with `add(commands)`, which describes it to argparse, and a function
that runs it and returns an exit status. Heavy imports happen inside those functions, so that
`kdlab --help` answers at once.
"""

from kdlab.cli.main import build_parser, main

__all__ = ["build_parser", "main"]

"""`kdlab export`: a trained network as a file for use elsewhere."""

from __future__ import annotations

import argparse
from typing import Any

from kdlab.cli.parsing import add_command

_HELP = """\
Write a network of a study as one file, and compare the file's answers with PyTorch's.
A file named .onnx takes pictures from 0 to 1 and runs without PyTorch; one named .safetensors
holds the weights alone, for kdlab.models.load_checkpoint."""

_EPILOG = """\
ONNX needs: pip install "kdlab[onnx]"

Examples:
  kdlab export runs/first KD kd.onnx
  kdlab export runs/first KD kd.safetensors --epoch best --seed 2
  kdlab export runs/first resnet20 teacher.onnx"""


def add(commands: Any) -> None:
    """Describe the command."""
    summary = "write a trained network as an ONNX or safetensors file"
    command = add_command(commands, "export", summary, export_command, description=_HELP, epilog=_EPILOG)
    command.add_argument("folder", metavar="FOLDER", help="folder of a study")
    command.add_argument("name", metavar="NAME", help="of a student or teacher")
    command.add_argument("file", metavar="FILE", help="ends in .onnx or .safetensors")
    command.add_argument(
        "--epoch",
        type=_epoch,
        default="last",
        metavar="WHICH",
        help="last (default), best (highest validation accuracy), or the number of a kept epoch",
    )
    command.add_argument("--seed", type=int, metavar="N", help="of the run (default: the first)")


def _epoch(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def export_command(args: argparse.Namespace) -> int:
    """Write the file and say how well it agrees."""
    import kdlab

    print(kdlab.load_study(args.folder).export(args.name, args.file, args.epoch, args.seed))
    return 0

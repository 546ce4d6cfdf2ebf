"""ONNX files: networks for use without PyTorch, and what such a file answers.

Needs the packages of `pip install "kdlab[onnx]"`, which are imported on first use.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kdlab.errors import CheckpointError, ConfigError
from kdlab.files import whole_file

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUT, OUTPUT = "pictures", "logits"


def available() -> bool:
    """Whether the packages for ONNX files are here."""
    return not _missing()


def _missing() -> list[str]:
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def require_onnx() -> None:
    """Refuse to go on where the packages for ONNX files are missing.

    Raises:
        ConfigError: names what is missing and how to get it.
    """
    if missing := _missing():
        raise ConfigError(
            f'An ONNX file needs {", ".join(missing)}: pip install "kdlab[onnx]"; or write .safetensors, '
            "which needs nothing more."
        )


def write_onnx(
    net: nn.Module,
    path: str | Path,
    input_shape: Sequence[int],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a network as one ONNX file with the input "pictures" and the output "logits".

    The batch may have any size. The network is written as it is in eval mode, and is left as it was found.

    Args:
        net: `net(pictures)` gives logits, (B, C, H, W) -> (B, K), both float32.
        path: should end in .onnx; its folder is made if needed.
        input_shape: (C, H, W) of one picture.
        metadata: text to text, kept in the file.

    Raises:
        ConfigError: packages are missing.
        CheckpointError: the network holds something that ONNX cannot express, or the file cannot be written.
    """
    require_onnx()
    path = Path(path)
    example = next(net.parameters()).new_zeros(2, *input_shape)  # one picture would fix the size of the batch
    before = net.training
    try:
        net.eval()
        with _quiet():
            program = torch.onnx.export(
                net,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    except Exception as error:  # the exporter has many error classes, with pages of advice
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise CheckpointError(f"This {type(net).__name__} cannot be written as ONNX: {reason}") from error
    finally:
        net.train(before)
    assert program is not None
    program.model.metadata_props.update(metadata or {})
    try:
        with whole_file(path) as temporary:
            program.save(str(temporary), external_data=False)
    except OSError as error:
        raise CheckpointError(f"Cannot write {path}: {error}; choose a folder you may write to.") from error
    return path


def run_onnx(path: str | Path, pictures: Tensor, batch_size: int = 256) -> Tensor:
    """What an ONNX file answers on the CPU, by onnxruntime.

    Args:
        path: of a file with one input and one output, as `write_onnx` makes it.
        pictures: (B, C, H, W) float32.
        batch_size: pictures at a time.

    Returns:
        (B, K) float32 on the CPU.

    Raises:
        ConfigError: onnxruntime is missing.
        CheckpointError: the file is missing or damaged.
    """
    require_onnx()
    import onnxruntime

    if not Path(path).is_file():
        raise CheckpointError(f"There is no file {path}; check the path.")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its error classes share no other base
        raise CheckpointError(f"{path} cannot be read: it is damaged or no ONNX file.") from error
    name = session.get_inputs()[0].name
    found = [session.run(None, {name: part.cpu().numpy()})[0] for part in pictures.split(batch_size)]
    return torch.cat([torch.from_numpy(part) for part in found])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, the exporter keeps its remarks about its own working to itself."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

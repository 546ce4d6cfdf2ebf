"""Options of the engine: precision, compilation, determinism, fixed views, micro-batches, checkpoints.

They change how fast or how exactly a study is computed, and what it keeps; with the values below,
not what it learns (`teacher_views` and the precisions say where they do).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from kdlab.errors import ConfigError, unknown_name

PRECISIONS: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
COMPILES = ("", "default", "graphs")
KEEPS = ("geometric", "all", "none")
_SMALL = 300  # pixels; measured with narrow residual networks: 64 and 256 gain, 1024 loses
_MOST_THREADS = 1024  # OpenMP ends the process where it cannot start as many as were asked for
_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@dataclass(frozen=True)
class Options:
    """How the engine computes, as plain values.

    Attributes:
        precision: of the students: "fp32"; "tf32" (products in 19 bits on NVIDIA GPUs; elsewhere the
            same as fp32); "bf16" or "fp16" (mixed precision: weights stay float32).
        teacher_precision: of the teachers; None is that of the students.
        compile: "", or "default" or "graphs" to have networks compiled by torch.compile; "graphs" replays
            them as CUDA graphs.
        deterministic: only algorithms that give the same bits in every run.
        teacher_views: None draws a new augmentation of every picture in every epoch, as recipes
            ask. A number V lets each picture appear in V fixed augmented views, in turn, whose
            teacher outputs are computed once and kept: much faster, and **a departure from the recipe**.
        micro_batch: pictures per forward and backward pass; their gradients are added up to those of
            the whole batch. None takes the batch as one.
        keep: of which epochs checkpoints are kept: "geometric" (1, 2, 4, ...), "all", "none", or epochs.
        threads: of the processor for each operation. None is one for small pictures (below 300 pixels),
            where handing work over takes longer than doing it, and PyTorch's own choice for others.
            With fewer than there are processors, students, and teachers a step ahead of them, are
            computed beside each other; `threads=1` asks for that with larger pictures, too, which pays
            for several narrow students. OMP_NUM_THREADS in the environment limits all of it.

    Raises:
        ConfigError: a value that cannot work.

    >>> options = kdlab.training.Options(teacher_precision="bf16", keep=[10, 20])
    >>> options.teachers, options.keep
    ('bf16', (10, 20))
    >>> kdlab.training.Options.of(options.to_dict()) == options
    True
    """

    precision: str = "fp32"
    teacher_precision: str | None = None
    compile: str = ""
    deterministic: bool = False
    teacher_views: int | None = None
    micro_batch: int | None = None
    keep: str | Sequence[int] = "geometric"
    threads: int | None = None

    def __post_init__(self) -> None:
        for key in ("precision", "teacher_precision"):
            value = getattr(self, key)
            if value not in PRECISIONS and not (value is None and key == "teacher_precision"):
                raise unknown_name("precision", value, PRECISIONS)
        if self.compile not in COMPILES:
            raise unknown_name("way to compile", self.compile, ["''", *COMPILES[1:]])
        if not isinstance(self.deterministic, bool):
            raise ConfigError(f"deterministic must be True or False, not {self.deterministic!r}.")
        _whole("teacher_views", self.teacher_views, 1, "views per picture")
        _whole("micro_batch", self.micro_batch, 2, "pictures (batch normalisation needs two)")
        _whole("threads", self.threads, 1, "of the processor")
        if self.threads is not None and self.threads > _MOST_THREADS:
            raise ConfigError(
                f"threads={self.threads} is more than any processor has; use at most {_MOST_THREADS}."
            )
        object.__setattr__(self, "keep", _keep(self.keep))

    @property
    def teachers(self) -> str:
        """The precision of the teachers."""
        return self.teacher_precision or self.precision

    def check(self, device: torch.device | str) -> Options:
        """These options, if they can work on `device`.

        Raises:
            ConfigError: half precision ("fp16") on a CPU, or CUDA graphs without a GPU of NVIDIA.
        """
        device = torch.device(device)
        for key in ("precision", "teacher_precision"):
            if getattr(self, key) == "fp16" and device.type == "cpu":
                raise ConfigError(
                    f"{key}='fp16' does not work on a CPU; use 'bf16', which needs no scaling of the loss"
                    f"{'' if native_bf16(device) else ' (this CPU computes it no faster than fp32)'}."
                )
        if self.compile == "graphs" and device.type != "cuda":
            raise ConfigError(
                f"compile='graphs' replays CUDA graphs, and the device is {device.type!r}; use "
                "compile='default' or ''."
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON gives them back; `Options(**options.to_dict())` is equal."""
        values = {key: getattr(self, key) for key in self.__dataclass_fields__}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @staticmethod
    def of(values: Mapping[str, Any]) -> Options:
        """Options from keyword arguments or from what `to_dict` gave; what is left out has its default.

        Raises:
            UnknownNameError: a name that is no option; the nearest are listed.
            ConfigError: a value that cannot work.
        """
        for key in values:
            if key not in Options.__dataclass_fields__:
                raise unknown_name("option", key, Options.__dataclass_fields__)
        return Options(**values)


def _whole(key: str, value: Any, least: int, what: str) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ConfigError(f"{key} must be None or a whole number of at least {least} {what}, not {value!r}.")


def _keep(value: Any) -> str | tuple[int, ...]:
    if isinstance(value, str):
        if value not in KEEPS:
            raise unknown_name("plan for kept checkpoints", value, KEEPS)
        return value
    if not isinstance(value, Sequence) or any(
        isinstance(e, bool) or not isinstance(e, int) or e < 0 for e in value
    ):
        raise ConfigError(f"keep must be one of {', '.join(KEEPS)} or a list of epochs, not {value!r}.")
    return tuple(sorted(set(value)))


def native_bf16(device: torch.device | str) -> bool:
    """Whether the device computes with bf16 itself, so that it pays; without, it is slower than fp32."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    known = getattr(torch.cpu, "get_capabilities", None)  # since PyTorch 2.12
    if known is None:
        return bool(torch.cpu._is_avx512_bf16_supported())
    abilities = known()
    return any(bool(abilities.get(key)) for key in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def autocast(precision: str, device: torch.device | str) -> AbstractContextManager[Any]:
    """The context in which networks compute in `precision`: autocast for "bf16" and "fp16", else nothing."""
    dtype = PRECISIONS[precision]
    if dtype is torch.float32:
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=dtype)


@contextmanager
def numerics(options: Options, device: torch.device | str) -> Iterator[None]:
    """The process-wide switches of PyTorch as `options` ask; put back as they were at the end.

    On a GPU: TF32 on for "tf32" and off otherwise (PyTorch's own default lets convolutions use it),
    and cuDNN free to try out algorithms where determinism is not asked for. With `deterministic`,
    an operation that has no reproducible algorithm raises a RuntimeError that names it.
    """
    device = torch.device(device)
    cudnn = torch.backends.cudnn
    before = (cudnn.benchmark, cudnn.deterministic, os.environ.get(_CUBLAS))
    strict = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    try:
        with tf32(options.precision == "tf32", device):
            if device.type == "cuda":
                cudnn.benchmark = not options.deterministic
            if options.deterministic:
                os.environ.setdefault(_CUBLAS, ":4096:8")  # cuBLAS is reproducible with a workspace alone
                cudnn.deterministic = True
                torch.use_deterministic_algorithms(True)
            yield
    finally:
        torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])
        cudnn.benchmark, cudnn.deterministic = before[:2]
        if before[2] is None:
            os.environ.pop(_CUBLAS, None)


@contextmanager
def processor_threads(options: Options, pixels: int, device: torch.device | str) -> Iterator[int | None]:
    """Let operations on the processor use as many threads as `options` ask; as before afterwards.

    Gives that number, or None where it is PyTorch's own choice or the device is another.

    Waiting for the helpers of OpenMP takes longer than a small operation where others use the processor,
    such as a browser. The rule looks at the pictures alone, so that a student is computed alike in any
    company.

    Args:
        pixels: of a picture.
    """
    wanted = options.threads or (1 if pixels < _SMALL else None)
    if wanted is None or torch.device(device).type != "cpu":
        yield None
        return
    before = torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        yield wanted
    finally:
        torch.set_num_threads(before)


@contextmanager
def tf32(on: bool, device: torch.device | str) -> Iterator[None]:
    """TF32 in the products and convolutions of NVIDIA GPUs on or off inside; as before afterwards."""
    if torch.device(device).type != "cuda":
        yield
        return
    # PyTorch has an old and a new set of switches and refuses to read the old where they disagree,
    # so both are set, and the old are put back only where they could be read.
    backends = torch.backends
    new: list[Any] = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]  # type: ignore[attr-defined]
    new.append(backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [part.fp32_precision for part in new]
    try:
        old = (torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32)
    except RuntimeError:
        old = None
    try:
        torch.set_float32_matmul_precision("high" if on else "highest")
        backends.cudnn.allow_tf32 = on
        for part in new[:3]:
            part.fp32_precision = "tf32" if on else "ieee"
        yield
    finally:
        if old is not None:
            torch.set_float32_matmul_precision(old[0])
            backends.cudnn.allow_tf32 = old[1]
        for part, value in zip(new, before):
            part.fp32_precision = value

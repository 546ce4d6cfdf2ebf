"""Options of the engine: what is refused, and switches of PyTorch that are put back."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch

from kdlab.errors import ConfigError, UnknownNameError
from kdlab.training.options import Options, autocast, native_bf16, numerics, processor_threads, tf32

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"precision": "bf61"}, "did you mean 'bf16'"),
        ({"precision": None}, "no precision named 'None'"),
        ({"teacher_precision": "half"}, "no precision named 'half'"),
        ({"compile": "graph"}, "did you mean 'graphs'"),
        ({"compile": True}, "no way to compile named 'True'"),
        ({"deterministic": 1}, "deterministic must be True or False"),
        ({"teacher_views": 0}, "teacher_views must be None or a whole number of at least 1"),
        ({"teacher_views": True}, "teacher_views must be"),
        ({"teacher_views": 2.0}, "teacher_views must be"),
        ({"micro_batch": 1}, "at least 2 pictures .batch normalisation"),
        ({"threads": 0}, "threads must be None or a whole number of at least 1"),
        ({"threads": 10**6}, "threads=1000000 is more than any processor has; use at most 1024"),
        ({"keep": "geometrical"}, "did you mean 'geometric'"),
        ({"keep": [1, -2]}, "keep must be one of geometric, all, none or a list of epochs"),
        ({"keep": 3}, "keep must be one of"),
        ({"precison": "fp32"}, "did you mean 'precision'"),
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Options.of(wrong)


def test_names_are_errors_of_names() -> None:
    with pytest.raises(UnknownNameError):
        Options(precision="fp8")
    with pytest.raises(UnknownNameError):
        Options.of({"speed": 11})


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"precision": "bf16", "teacher_precision": "tf32", "compile": "graphs", "deterministic": True},
        {"teacher_views": 3, "micro_batch": 2, "keep": [9, 3, 3]},
    ],
)
def test_plain_values_go_through_json_and_back(given: dict[str, Any]) -> None:
    options = Options(**given)
    plain = options.to_dict()
    read = json.loads(json.dumps(plain))
    assert read == plain
    assert Options.of(read) == options
    assert Options.of(read).to_dict() == plain


def test_epochs_to_keep_are_put_in_order() -> None:
    assert Options(keep=[9, 3, 3]).to_dict()["keep"] == [3, 9]


def test_teachers_follow_the_students() -> None:
    assert Options(precision="bf16").teachers == "bf16"
    assert Options(precision="fp32", teacher_precision="bf16").teachers == "bf16"
    assert Options(precision="bf16", teacher_precision="fp32").teachers == "fp32"


def test_what_a_device_cannot_do() -> None:
    for given in ({"precision": "fp16"}, {"teacher_precision": "fp16"}):
        with pytest.raises(
            ConfigError, match=f"{next(iter(given))}='fp16' does not work on a CPU; use 'bf16'"
        ):
            Options(**given).check("cpu")
        assert Options(**given).check("cuda").teachers == "fp16"
    with pytest.raises(ConfigError, match="use compile='default'"):
        Options(compile="graphs").check("cpu")
    for precision in ("fp32", "tf32", "bf16"):
        assert Options(precision=precision, compile="default").check("cpu").precision == precision


def test_native_bf16_reads_the_abilities_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(native_bf16("cpu"), bool)
    for abilities, expected in (
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, False),
        ({"architecture": "x86_64", "avx512_bf16": True}, True),
        ({"architecture": "x86_64", "amx_bf16": True}, True),
        ({"architecture": "aarch64", "bf16": True}, True),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda a=abilities: a, raising=False)
        assert native_bf16("cpu") == expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert native_bf16(CPU)


def test_autocast_is_for_low_precision_alone() -> None:
    a = torch.randn(4, 4)
    for precision, dtype in (("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(precision, CPU):
            assert (a @ a).dtype is dtype
    assert (a @ a).dtype is torch.float32


def switches() -> tuple[Any, ...]:
    b = torch.backends
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        b.cudnn.benchmark,
        b.cudnn.deterministic,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        b.cuda.matmul.fp32_precision,
        b.cudnn.conv.fp32_precision,
        b.cudnn.rnn.fp32_precision,
        b.cuda.matmul.allow_tf32,
        b.cudnn.allow_tf32,
        torch.get_float32_matmul_precision(),
    )


@pytest.fixture
def kept_switches() -> Any:
    yield
    b = torch.backends
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    b.cudnn.allow_tf32 = True
    for part, value in ((b.cuda.matmul, "none"), (b.cudnn.conv, "tf32"), (b.cudnn.rnn, "tf32")):
        part.fp32_precision = value
    b.cudnn.benchmark = b.cudnn.deterministic = False


@pytest.mark.parametrize("kind", ["cpu", "cuda"])  # the switches are there without a GPU too
@pytest.mark.parametrize("start", ["plain", "strict", "tf32"])
def test_numerics_puts_every_switch_back(
    kind: str, start: str, monkeypatch: pytest.MonkeyPatch, kept_switches: None
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if start == "strict":
        torch.use_deterministic_algorithms(True, warn_only=True)
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    if start == "tf32":
        torch.set_float32_matmul_precision("high")
    before = switches()
    for given in ({}, {"precision": "tf32"}, {"precision": "bf16", "deterministic": True}):
        options = Options(**given)
        with pytest.raises(KeyError), numerics(options, kind):
            now = switches()
            assert now[0] == (options.deterministic or before[0])
            if options.deterministic:
                assert now[1] is False and now[3] is True
                assert now[4] == (":16:8" if start == "strict" else ":4096:8")
            if kind == "cuda":
                on = options.precision == "tf32"
                assert now[2] == (not options.deterministic)
                assert now[5:10] == (*["tf32" if on else "ieee"] * 3, on, on)
            else:
                assert now[5:] == before[5:]
            raise KeyError
        assert switches() == before


def test_tf32_bears_switches_that_disagree(kept_switches: None) -> None:
    """PyTorch refuses to read the old switch after the new one was set to something else."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    with pytest.raises(RuntimeError, match="mix"):
        _ = torch.backends.cuda.matmul.allow_tf32
    with tf32(True, "cuda"):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"


def test_deterministic_names_what_cannot_be_reproduced() -> None:
    with numerics(Options(deterministic=True), CPU), pytest.raises(RuntimeError, match="deterministic"):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))  # the order of writes decides
    torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))


@pytest.mark.parametrize(
    "threads, pixels, inside",
    [(None, 64, 1), (None, 256, 1), (None, 784, 2), (None, 1024, 2), (3, 64, 3), (1, 1024, 1)],
)
def test_threads_of_the_processor_follow_the_pictures(threads: int | None, pixels: int, inside: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with processor_threads(Options(threads=threads), pixels, CPU):
            assert torch.get_num_threads() == inside
        assert torch.get_num_threads() == 2
        with processor_threads(Options(threads=threads), pixels, "cuda"):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

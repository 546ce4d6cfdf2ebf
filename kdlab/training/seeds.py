"""Random numbers as functions of where training is, so that nothing has to be stored to resume."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_GENERATORS = threading.RLock()


def derive(seed: int, *words: object) -> int:
    """A 63-bit seed for one purpose, such as derive(seed, "step", 12); equal input, equal seed."""
    text = "|".join(map(str, (seed, *words)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's generator of the CPU (and of `device`) set to `seed` inside, and put back afterwards.

    One thread at a time: the generators belong to the whole process.
    """
    with _GENERATORS, _seeded(seed, device):
        yield


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        gpu_state = torch.cuda.get_rng_state(device)
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)
        if device.type == "cuda":
            torch.cuda.set_rng_state(gpu_state, device)


def choose_device(device: str | torch.device) -> torch.device:
    """The device asked for; "auto" takes the GPU where there is one.

    Raises:
        ConfigError: the device is not there.
    """
    from kdlab.errors import ConfigError

    if str(device) == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"{device!r} is no device; use 'auto', 'cpu' or 'cuda'.") from error
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= count:
            found = f"only {count} GPU(s) are visible" if count else "no usable GPU is visible to torch"
            raise ConfigError(
                f"Device {str(device)!r} was asked for, but {found}; use device='auto' or 'cpu' "
                "(`kdlab doctor` tells what is wrong)."
            )
        return torch.device("cuda", chosen.index or 0)
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(
            "Device 'mps' was asked for, but this machine has none; use device='auto' or 'cpu'."
        )
    return chosen

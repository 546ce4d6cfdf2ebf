"""A network as it would be without training: the control of every measurement made through networks."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from kdlab.errors import ConfigError, unknown_name
from kdlab.probes.progress import steps


def untrained_twin(
    net: nn.Module,
    images: Tensor,
    seed: int = 0,
    *,
    parts: Iterable[str] | None = None,
    batch_size: int = 256,
) -> nn.Module:
    """A copy of `net` with new random weights, its BatchNorm statistics calibrated on `images`.

    What a random network of the same architecture shows is the floor that a trained one must beat:
    random convolutions are already useful features (Saxe et al., ICML 2011; Adebayo et al., NeurIPS
    2018, for attributions). Weights are drawn by each layer's own `reset_parameters`, that is, by
    PyTorch's defaults, not by a scheme the builder of the network may have used. Running means and
    variances are averages over batches of `images`, so that activations have their usual size.

    Args:
        net: left as it is.
        images: (n, C, H, W), n >= 2, normalised as the network takes them; pictures on which probes
            may be fitted.
        seed: of the new weights; torch's own random state is left as it is.
        parts: names of modules inside `net` ("fc", "layer3") that alone are drawn anew and calibrated; None
            is everything. Taking in one part after the other from the end is the cascade of Adebayo et al.
        batch_size: pictures at a time.

    Returns:
        The twin, on the device of `net`, in eval mode, its parameters frozen.

    Raises:
        UnknownNameError: there is no such part.
        ConfigError: fewer than 2 pictures, or a parameter that no `reset_parameters` draws anew.

    >>> net = kdlab.models.build("resnet8", num_classes=10, in_channels=1)
    >>> twin = kdlab.probes.untrained_twin(net, torch.randn(8, 1, 8, 8, generator=generator))
    >>> twin.training, kdlab.models.state_hash(twin) == kdlab.models.state_hash(net)
    (False, False)
    """
    if len(images) < 2:
        raise ConfigError("An untrained twin needs at least 2 pictures for its BatchNorm statistics.")
    parameter = next(net.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    twin = copy.deepcopy(net).cpu()
    known = dict(twin.named_modules())
    for name in () if parts is None else (parts := tuple(parts)):
        if name not in known:
            raise unknown_name("part of the network", name, [key for key in known if key])
    anew = list(twin.modules() if parts is None else nn.ModuleList(known[name] for name in parts).modules())
    with torch.no_grad():
        for value in (value for module in anew for value in module.parameters(recurse=False)):
            if value.is_floating_point():
                value.fill_(torch.nan)  # so that what is not drawn anew is found
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in reversed(anew):  # what a whole decides goes over its parts
                reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
                if callable(reset):
                    reset()
    kept = [name for name, value in twin.named_parameters() if not torch.isfinite(value).all()]
    if kept:
        more = f" and {len(kept) - 1} more" if len(kept) > 1 else ""
        raise ConfigError(
            f"An untrained twin cannot draw {kept[0]!r}{more} anew: no layer's reset_parameters does; give "
            "the module that holds it a method reset_parameters, or leave this control out."
        )
    twin.to(device).requires_grad_(False)
    _calibrate(twin, [m for m in anew if isinstance(m, _NormBase)], images, device, batch_size)
    return twin


@torch.no_grad()
def _calibrate(
    net: nn.Module, norms: Sequence[_NormBase], images: Tensor, device: torch.device, batch_size: int
) -> None:
    """Set the running statistics of `norms` to averages over `images`; leaves `net` in eval mode."""
    net.eval()
    norms = [norm for norm in norms if norm.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # type: ignore[assignment]  # the plain average over batches
        norm.train()
    # parts of even size, as a last batch of one picture has no variance
    batches = np.array_split(np.arange(len(images)), max(len(images) // max(batch_size, 2), 1))
    for places in steps(batches, share=0.5):
        net(images[torch.from_numpy(places)].to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()

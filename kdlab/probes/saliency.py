"""Where in a picture the evidence for a class lies: one network, one batch of pictures, one map each.

Grad-CAM (Selvaraju et al., ICCV 2017), integrated gradients (Sundararajan, Taly, Yan, ICML 2017),
occlusion (Zeiler, Fergus, ECCV 2014) and activation attention (Zagoruyko, Komodakis, ICLR 2017). What
is explained is the logit of the class, before the softmax. `attributions` compares networks by them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from kdlab.errors import ConfigError
from kdlab.probes import progress

if TYPE_CHECKING:
    from kdlab.models.features import StagedNet

METHODS = {
    "gradcam": "Grad-CAM",
    "integrated_gradients": "integrated gradients",
    "occlusion": "occlusion maps",
    "attention": "attention maps",
}
BASELINES = ("mean", "blur", "black")
LEAST_STEPS = 50


@dataclass(frozen=True)
class Path:
    """Integrated gradients of B pictures.

    Attributes:
        maps: (B, H, W) attributions summed over the channels; signed, in logits.
        delta: (B,) sum of the attributions minus (f(x) - f(baseline)): 0 for an exact integral.
        change: (B,) f(x) - f(baseline), what the attributions are to add up to.
    """

    maps: Tensor
    delta: Tensor
    change: Tensor


def ready(net: nn.Module, name: str = "network") -> nn.Module:
    """A frozen copy of `net` in eval mode whose activations do not work in place.

    In-place activations overwrite the maps that hooks have seen. The copy gives the same logits.

    Raises:
        ConfigError: the module cannot be copied.
    """
    try:
        twin = copy.deepcopy(net)
    except Exception as error:
        raise ConfigError(
            f"{name!r} cannot be copied ({error}), and attributions are taken through a copy; give a module "
            "that copy.deepcopy accepts."
        ) from error
    for module in twin.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return twin.eval().requires_grad_(False)


def staged(net: nn.Module, images: Tensor) -> StagedNet:
    """`net` with its stages shown.

    Raises:
        ConfigError: they cannot be found.
    """
    from kdlab.models import tap

    return tap(net, input_shape=tuple(images.shape[1:]))


@torch.no_grad()
def logits_of(net: nn.Module, images: Tensor, batch_size: int = 64) -> Tensor:
    """(n, K) logits on the CPU, in float32."""
    device = _device(net)
    return torch.cat([net(part.to(device).clone()).float().cpu() for part in images.split(batch_size)])


def grad_cam(net: StagedNet, images: Tensor, target: Tensor, stage: int = -1, *, relu: bool = True) -> Tensor:
    """(B, h, w) Grad-CAM on the map of a stage: sum_c (mean_hw dy/dF_c) F_c, then ReLU.

    The gradient comes from one forward pass through `net.features`, without hooks; the stage's map is
    the one behind its activation. For a module that gives this map it equals captum's `LayerGradCam`.

    Args:
        net: shows its stages. images: (B, C, H, W). target: (B,) classes y.
        stage: number of the stage, negative from the deep end.
        relu: evidence for the class alone, as in the paper; False keeps what speaks against it.
    """
    with torch.enable_grad():
        seen = net.features(images.detach().clone().requires_grad_(True).clone())
        maps = seen.stages[stage]
        score = seen.logits.gather(1, target[:, None]).sum()
        (slope,) = torch.autograd.grad(score, maps)
    cam = (slope.mean(dim=(2, 3), keepdim=True) * maps.detach()).sum(dim=1)
    return cam.relu() if relu else cam


@torch.no_grad()
def attention(net: StagedNet, images: Tensor, stage: int = -1) -> Tensor:
    """(B, h, w) mean over channels of the squared map of a stage: no class, no gradient."""
    return net.features(images).stages[stage].square().mean(dim=1)


def integrated_gradients(
    net: nn.Module,
    images: Tensor,
    target: Tensor,
    baseline: Tensor,
    *,
    steps: int = LEAST_STEPS,
    at_once: int = 64,
) -> Path:
    """(x - x') times the mean gradient between baseline x' and picture x; needs captum.

    Args:
        net: logits of pictures. images, baseline: (B, C, H, W). target: (B,) classes.
        steps: points of the Gauss-Legendre rule, at least 50.
        at_once: pictures that go through the network together, which bounds the memory.
    """
    captum = _captum()
    together = max(at_once, len(images))
    passes = -(-steps // max(1, together // len(images)))
    explain = captum.IntegratedGradients(_forward(net, passes))
    values = explain.attribute(
        images,
        baselines=baseline,
        target=target,
        n_steps=steps,
        internal_batch_size=together,
    ).detach()
    with torch.no_grad():
        change = [net(x.clone()).gather(1, target[:, None])[:, 0] for x in (images, baseline)]
    difference = change[0] - change[1]
    return Path(
        maps=values.sum(dim=1),
        delta=values.flatten(1).double().sum(dim=1) - difference.double(),
        change=difference,
    )


def occlusion(
    net: nn.Module, images: Tensor, target: Tensor, baseline: Tensor, *, window: int, stride: int
) -> Tensor:
    """(B, H, W) mean drop of the logit over the square windows that cover a pixel; signed; needs captum.

    Args:
        net, images, target, baseline: as in `integrated_gradients`; a window shows the baseline.
        window, stride: in pixels, 1 <= stride <= window.
    """
    captum = _captum()
    channels, height, width = images.shape[1:]
    passes = 1 + int(np.prod([1 + -(-max(size - window, 0) // stride) for size in (height, width)]))
    values = captum.Occlusion(_forward(net, passes)).attribute(
        images,
        sliding_window_shapes=(channels, min(window, height), min(window, width)),
        strides=(channels, min(stride, height), min(stride, width)),
        baselines=baseline,
        target=target,
    )
    return values.detach().mean(dim=1)  # the same for all channels, which are covered together


def blurred(images: Tensor, sigma: float) -> Tensor:
    """(B, C, H, W) under a Gaussian of `sigma` pixels; at the borders the weights inside add up to 1."""

    def weights(size: int) -> Tensor:
        at = torch.arange(size, dtype=images.dtype, device=images.device)
        kernel = torch.exp(-0.5 * ((at[:, None] - at[None]) / sigma) ** 2)
        return kernel / kernel.sum(dim=1, keepdim=True)

    return weights(images.shape[2]) @ images @ weights(images.shape[3]).T


@contextmanager
def in_words(name: str) -> Iterator[None]:
    """Turn what autograd says of tensors changed in place into a sentence."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not any(word in text for word in ("inplace", "in-place", "modified", "not have been used")):
            raise
        reason = text.splitlines()[0].split(":")[0]
        raise ConfigError(
            f"Gradients do not get through {name!r}: it changes tensors in place ({reason}); "
            "write x = x + y instead of x += y in it, or use method='occlusion', which needs no gradient."
        ) from error


def _forward(net: nn.Module, passes: int) -> Callable[[Tensor], Tensor]:
    """`net` as captum may call it; each of so many passes is told to who watches."""
    marks = progress.steps(range(passes))

    def logits(x: Tensor) -> Tensor:
        next(marks, None)
        return net(x.clone())  # type: ignore[no-any-return]  # a network may change its input in place

    return logits


def _captum() -> Any:
    try:
        import captum.attr as found
    except ImportError as error:
        raise ConfigError(
            "This attribution is computed by captum, which is not installed; pip install captum, or use "
            "method='gradcam' or 'attention', which do without."
        ) from error
    return found


def _device(net: nn.Module) -> torch.device:
    parameter = next(net.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device

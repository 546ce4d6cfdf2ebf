"""Any classifier as a `StagedNet`, without rewriting it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdlab.errors import ConfigError
from kdlab.models.discover import Tap, find_classifier, find_final, find_stages, named_stages
from kdlab.models.features import Features, StagedNet
from kdlab.models.trace import Trace, check_logits, left_as_found, submodule, trace
from kdlab.models.watch import Watch


class ConvClassifier(nn.Module):
    """A 1x1 convolution as the linear layer it is: (B, d) to (B, K). Shares the weights."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.in_features, self.out_features = conv.in_channels, conv.out_channels

    @property
    def weight(self) -> Tensor:
        """(K, d)."""
        return self.conv.weight.flatten(1)

    @property
    def bias(self) -> Tensor | None:
        """(K,)."""
        return self.conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class Tapped(StagedNet):
    """A network of someone else with its stages shown; made by `tap`.

    `net(x)` is the module's own forward. `net.features(x)` is one forward of it with hooks that are
    there for this call only. Names in the state dictionary are the module's behind "module.", which
    `save_checkpoint`, `load_checkpoint` and `state_hash` leave out.

    Attributes:
        module: the network itself, not copied.
        stage_names: paths of the modules the stages are named after.
        classifier_name: path of the classifier.

    >>> from torch import nn
    >>> own = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    >>> net = kdlab.models.tap(own, input_shape=(1, 8, 8))
    >>> net.stage_names, net.classifier_name, net.module is own
    (('0',), '3', True)
    """

    def __init__(
        self,
        module: nn.Module,
        stages: Sequence[tuple[str, Tap]],
        classifier: tuple[str, int],
        stem: Tap | None = None,
        final: Tap | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.stage_names = tuple(name for name, _ in stages)
        self.classifier_name, self._classifier_call = classifier
        self._stages = tuple(t for _, t in stages)
        self._stem, self._final = stem, final
        self._shows_preacts = bool(stages) and all(t.activation for t in self._stages)
        self.training = module.training

    @property
    def classifier(self) -> nn.Linear:
        layer = submodule(self.module, self.classifier_name)
        return ConvClassifier(layer) if isinstance(layer, nn.Conv2d) else layer  # type: ignore[return-value]

    def extra_repr(self) -> str:
        return f"stages={self.stage_names}, classifier={self.classifier_name!r}"

    def forward(self, x: Tensor) -> Tensor:
        logits = self.module(x)
        check_logits(self.module, logits, x.shape[0])
        return logits

    def features(self, x: Tensor) -> Features:
        taps = [t for t in (*self._stages, self._stem, self._final) if t is not None]
        before = self._stages if self._shows_preacts else ()
        classifier = (self.classifier_name, self._classifier_call)
        with Watch(self.module, taps, before, classifier, (x.shape[2], x.shape[3])) as watch:
            logits = self.module(x)
        check_logits(self.module, logits, x.shape[0])
        preacts = None
        if self._shows_preacts:
            preacts = tuple(watch.get(watch.before, t, n) for t, n in zip(self._stages, self.stage_names))
        return Features(
            logits=logits,
            embedding=watch.embedding(),
            stages=tuple(watch.get(watch.after, t, n) for t, n in zip(self._stages, self.stage_names)),
            preacts=preacts,
            stem=None if self._stem is None else watch.get(watch.after, self._stem, "stem"),
            final=None if self._final is None else watch.get(watch.after, self._final, "final map"),
        )


def tap(
    module: nn.Module,
    stages: Sequence[str] | None = None,
    classifier: str | None = None,
    input_shape: Sequence[int] | None = None,
) -> StagedNet:
    """Show the stages of any image classifier. The module is neither changed nor copied.

    Stages are shown *after* the activation that directly follows them (over a norm). Where every
    stage has one, `Features.preacts` are known too. Tokens of a transformer become maps, without
    the class token. The embedding is what the classifier is given (in training mode: behind
    dropout), `final` the map whose global average it is in evaluation mode, if there is one.

    Args:
        module: takes (B, C, H, W) and returns (B, K) logits. A `StagedNet` is returned as it is
            unless stages or a classifier are named.
        stages: paths as in `module.named_modules()`, in any order. Otherwise they are found: the
            last map of each resolution on the way that everything goes through.
        classifier: path of the last linear layer; otherwise it is found.
        input_shape: (C, H, W) of the images, needed where the network fits one size only.

    Raises:
        ConfigError: an unknown path (the nearest are listed), a module that returns something else
            than logits, has no linear classifier, or does not take such images.

    >>> from torch import nn
    >>> maps = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 1))
    >>> own = nn.Sequential(maps, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    >>> net = kdlab.models.tap(own, input_shape=(1, 8, 8))
    >>> [tuple(stage.shape) for stage in net.features(torch.zeros(2, 1, 8, 8)).stages]
    [(2, 4, 8, 8), (2, 8, 4, 4)]
    """
    if isinstance(module, StagedNet) and stages is None and classifier is None:
        return module
    if not isinstance(module, nn.Module):
        raise ConfigError(f"tap needs a torch.nn.Module, not {type(module).__name__}.")
    if isinstance(stages, str):
        stages = [stages]
    seen, shape = _first_trace(module, input_shape)
    head = find_classifier(seen, classifier)
    if stages is None:
        found, stem = find_stages(seen)
    else:
        found, stem = named_stages(seen, stages), None
    given = head.input
    assert given is not None
    final = find_final(seen, given.mean((2, 3)) if given.dim() == 4 else given, [call for _, call in found])
    # Dropout in place overwrites in training mode only, which the pass in evaluation mode does not show.
    careful = any(getattr(m, "inplace", False) and "Drop" in type(m).__name__ for m in module.modules())

    net = Tapped(
        module,
        [(name, Tap.of(call, careful)) for name, call in found],
        (head.path, head.number),
        stem=None if stem is None else Tap.of(stem, careful),
        final=None if final is None else Tap.of(final, careful),
    )
    _verify(net, shape)
    return net


def _first_trace(module: nn.Module, input_shape: Sequence[int] | None) -> tuple[Trace, tuple[int, int, int]]:
    """A recorded pass on the first size the network takes, and that size."""
    for shape in _trial_shapes(module, input_shape):
        try:
            return trace(module, shape), shape
        except ConfigError:
            raise
        except Exception as error:  # whatever a network raises on a size it does not take
            problem, size = error, "x".join(map(str, shape))
    reason = (str(problem).strip() or type(problem).__name__).splitlines()[0]
    remedy = "check input_shape" if input_shape is not None else "give tap(..., input_shape=(C, H, W))"
    raise ConfigError(
        f"{type(module).__name__} does not take images of {size}: {reason}; {remedy}."
    ) from problem


def _trial_shapes(module: nn.Module, input_shape: Sequence[int] | None) -> list[tuple[int, int, int]]:
    """Sizes to look at the network with; large maps first, as on small ones stages shrink to one pixel."""
    if input_shape is not None:
        if len(input_shape) != 3 or any(int(n) != n or n < 1 for n in input_shape):
            raise ConfigError(f"input_shape is (channels, height, width), not {tuple(input_shape)!r}.")
        c, h, w = (int(n) for n in input_shape)
        factor = -(-64 // min(h, w))
        return list(dict.fromkeys([(c, h * factor, w * factor), (c, h, w)]))
    channels = next((m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d)), 3)
    hints = getattr(module, "default_cfg", None) or {}
    own = getattr(module, "image_size", None) or (hints.get("input_size") or (0,))[-1]
    sizes = dict.fromkeys([64, 32, 28, 224, *([own] if isinstance(own, int) and own > 0 else [])])
    return [(channels, n, n) for n in sizes]


def _verify(net: Tapped, shape: tuple[int, int, int]) -> None:
    """Tapping must not change what the network computes; compare once.

    Raises:
        ConfigError: it does, as for a network that calls in-place functions for their effect alone.
    """
    first = next(net.parameters())
    images = torch.linspace(-1, 1, 2 * shape[0] * shape[1] * shape[2]).view(2, *shape)
    images = images.to(first.device, first.dtype)
    with left_as_found(net.module), torch.no_grad():
        given = images.clone()
        plain = net(given)
        if not torch.equal(given, images):
            raise ConfigError(
                f"{type(net.module).__name__} changes its input in place, and other networks look at the "
                "same pictures; let it work on a copy (x = x.clone())."
            )
        seen = net.features(images)
        again = net.classifier(seen.embedding)
    scale = 1e-4 * float(plain.abs().max())
    for value, what in ((seen.logits, "its logits"), (again, "its classifier's output")):
        if not torch.allclose(value.float(), plain.float(), rtol=1e-3, atol=scale):
            raise ConfigError(
                f"{type(net.module).__name__} cannot be tapped at {', '.join(net.stage_names)}: {what} would "
                "change; name other stages with tap(net, stages=[...])."
            )

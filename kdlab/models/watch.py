"""Forward passes of a foreign network with some of its tensors kept, in the graph and unharmed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from kdlab.errors import ConfigError
from kdlab.models.discover import Tap
from kdlab.models.maps import from_map, to_map
from kdlab.models.trace import WatchActivations, submodule


class Watch(ExitStack):
    """Hooks for one forward pass of `module`, and what they saw. Gone when the `with` block ends.

    Args:
        module: the network.
        taps: whose outputs to keep.
        before: those of `taps` whose inputs are kept too.
        classifier: path of the classifier, and which of its calls counts.
        image: height and width of the images.
    """

    def __init__(
        self,
        module: nn.Module,
        taps: Iterable[Tap],
        before: Iterable[Tap],
        classifier: tuple[str, int],
        image: tuple[int, int],
    ) -> None:
        super().__init__()
        self.module, self.image = module, image
        self.taps, self.wants_before = list(dict.fromkeys(taps)), set(before)
        self.classifier_name, self.classifier_call = classifier
        self.before: dict[Tap, Tensor] = {}
        self.after: dict[Tap, Tensor] = {}
        self._embedding: Tensor | None = None

    def __enter__(self) -> Watch:
        super().__enter__()
        try:
            modules = [t for t in self.taps if not t.function]
            for path in dict.fromkeys(t.path for t in modules):
                self._hook_module(path, {t.number: t for t in modules if t.path == path})
            self._hook_classifier()
            functions = {t.number: t for t in self.taps if t.function}
            if functions:
                self._hook_functions(functions)
        except BaseException:
            self.close()
            raise
        return self

    def _hook_module(self, path: str, taps: dict[int, Tap]) -> None:
        module = submodule(self.module, path)
        calls = 0

        def enter(_m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tap = taps.get(calls)
            if tap in self.wants_before:
                self._keep_before(tap, args[0] if args else next(iter(kwargs.values())))

        def leave(_m: nn.Module, _args: Any, out: Tensor) -> Tensor | None:
            nonlocal calls
            calls += 1
            return self._keep(taps[calls - 1], out) if calls - 1 in taps else None

        if self.wants_before.intersection(taps.values()):
            self.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        self.callback(module.register_forward_hook(leave).remove)

    def _hook_functions(self, taps: dict[int, Tap]) -> None:
        def enter(number: int, given: Tensor) -> None:
            if taps.get(number) in self.wants_before:
                self._keep_before(taps[number], given)

        def leave(number: int, out: Tensor) -> Tensor | None:
            return self._keep(taps[number], out) if number in taps else None

        self.enter_context(WatchActivations(leave, enter))

    def _hook_classifier(self) -> None:
        calls = 0

        def enter(_m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal calls
            calls += 1
            if calls - 1 != self.classifier_call:
                return None
            given = args[0] if args else next(iter(kwargs.values()))
            if given.dim() == 2:
                self._embedding = given
                return None
            if given.shape[2:] != (1, 1):  # averaging before a 1x1 convolution or behind it is the same
                self._embedding = given.mean((2, 3))
                return None
            self._embedding = given.flatten(1)
            return (self._embedding[:, :, None, None],), {}

        layer = submodule(self.module, self.classifier_name)
        self.callback(layer.register_forward_pre_hook(enter, with_kwargs=True).remove)

    def _keep_before(self, tap: Tap, given: Tensor) -> None:
        maps = to_map(given, self.image)
        if maps is not None:
            self.before[tap] = maps.clone() if tap.overwrites else maps

    def _keep(self, tap: Tap, out: Tensor) -> Tensor | None:
        """Note a map; the network goes on from the map itself, so that gradients reach it."""
        maps = to_map(out, self.image)
        if maps is None:
            return None
        self.after[tap] = maps
        if tap.overwritten:
            return from_map(maps.clone(), out, self.image)
        return from_map(maps, out, self.image) if maps is not out and maps.requires_grad else None

    def embedding(self) -> Tensor:
        """What the classifier was given."""
        if self._embedding is None:
            raise ConfigError(
                f"The classifier {self.classifier_name!r} was not called in this forward pass, which seems "
                "to depend on the mode or the data; name another one with tap(net, classifier=...)."
            )
        return self._embedding

    def get(self, kept: dict[Tap, Tensor], tap: Tap, name: str) -> Tensor:
        """The map of a tap."""
        if tap not in kept:
            raise ConfigError(
                f"{name!r} was not reached, or gave no maps, for images of {self.image[0]}x{self.image[1]} "
                "pixels; name other stages with tap(net, stages=[...])."
            )
        return kept[tap]

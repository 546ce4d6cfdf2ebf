"""The teachers' side of a step: frozen and folded, in low precision or cached where that is asked for."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdlab.data import Batch, Batches, ImageData
from kdlab.errors import ConfigError
from kdlab.models.features import Features, StagedNet
from kdlab.models.folding import fold_batchnorm
from kdlab.training.options import PRECISIONS, Options, tf32
from kdlab.training.teacher_cache import Layout, Shelf, free_memory, named_tensors, require_room, wanted

# Pictures per pass when a view is cached. Fixed: values must not depend on the batch size of a study.
_BLOCK = 256


class TeacherPass:
    """What teachers show of a batch, without gradient: computed at once, or taken from a cache.

    Works on folded copies (`fold_batchnorm`) in `options.teacher_precision`; the teachers themselves are
    left alone. Logits and embedding are always float32: the head is computed in float32 from the last
    maps. Maps are float32, or, where teachers and students both compute in low precision, in that.

    With `options.teacher_views` the outputs for a whole view are computed when its first batch comes, in
    the order of the split and in blocks of fixed size, so that a resumed run reads the same bits
    as one that was never interrupted. Only what `reads` names is kept, and reading anything else
    raises a StudyError.

    Args:
        teachers: as given by the user; on any device.
        data: gives the size of the images.
        options: of the engine.
        device: where to compute and to keep.
        batches: the training batches; made with `views=options.teacher_views`.

    Raises:
        ConfigError: the batches have other views than the options, or a teacher cannot be copied.

    Attributes:
        batches: those that views are taken from; may be replaced by others that differ in `second` alone.
        classifiers: of the teachers as given.
        nets: the folded copies.
        steady: whether passes can be made at any time and on any thread: outputs are not kept, and no
            teacher draws random numbers.
        watch: called after each block of a view that is being cached, with the numbers of pictures done
            and in all; what it raises ends the work, and the view is started anew at its next use.
    """

    def __init__(
        self,
        teachers: Sequence[StagedNet],
        data: ImageData,
        options: Options,
        device: torch.device | str,
        batches: Batches,
    ) -> None:
        if batches.views != options.teacher_views:
            raise ConfigError(
                f"teacher_views is {options.teacher_views} and the batches have views={batches.views}; "
                "make both the same."
            )
        self.options, self.device, self.batches = options, torch.device(device), batches
        self.classifiers: tuple[nn.Module, ...] = tuple(teacher.classifier for teacher in teachers)
        self.watch: Callable[[int, int], None] | None = None
        self._low = PRECISIONS[options.teachers] if PRECISIONS[options.teachers].itemsize < 4 else None
        shape = data.input_shape
        compiled = "" if options.teacher_views else options.compile  # a view is computed once only
        self._teachers = [_Teacher(net, shape, self._low, self.device, compiled) for net in teachers]
        self._here = threading.local()  # a network that is watched can be passed by one thread at a time
        self._here.teachers = self._teachers
        self.nets: tuple[StagedNet, ...] = tuple(teacher.net for teacher in self._teachers)
        # low maps would not go with the float32 weights of a method where students are in float32
        both = self._low is not None and PRECISIONS[options.precision].itemsize < 4
        self._maps = None if both or self._low is None else torch.float32
        self._layouts: list[Layout] | None = None
        self._names: list[set[str]] = [set() for _ in teachers]
        self._shelves: dict[tuple[int, bool], list[Shelf]] = {}
        with self._numerics():
            drawing = self.device.type == "cpu" and any(t.draws() for t in self._teachers)
        self.steady = options.teacher_views is None and not drawing

    # ---- what the loop asks for -------------------------------------------------------------------------

    def features(self, batch: Batch) -> tuple[Features, ...]:
        """What each teacher shows of the batch."""
        return self._of(batch, batch.images, second=False)

    def second(self, batch: Batch) -> tuple[Features, ...]:
        """What each teacher shows of the second view of the batch's pictures.

        Raises:
            ConfigError: the batches have no second view.
        """
        if batch.second is None:
            raise ConfigError("These batches have no second view; make them with Batches(second=...).")
        return self._of(batch, batch.second, second=True)

    def reads(self, taps: Collection[str]) -> None:
        """Say what will be read: the union of the taps that all terms declare.

        More than before has the cache computed anew when it is next needed; without fixed views, this
        only checks that the taps exist.

        Raises:
            ConfigError: a tap that a teacher does not show.
            StudyError: keeping so much would take more than half of the free memory.
        """
        names = wanted(taps, self._known_layouts())
        if self.options.teacher_views is None or all(n <= o for n, o in zip(names, self._names)):
            return
        held = sum(t.nbytes for row in self._shelves.values() for s in row for t in s.tensors.values())
        what = f"{self.options.teacher_views} fixed view(s) of {len(self.batches.split):,} pictures"
        require_room(self._bytes(names), free_memory(self.device) + held, what, self.device)
        self._names = names
        self._shelves.clear()

    def cache_bytes(self, taps: Collection[str]) -> int:
        """What the cache of all fixed views would take for these taps; 0 without fixed views."""
        return self._bytes(wanted(taps, self._known_layouts()))

    # ---- how it is made ---------------------------------------------------------------------------------

    @torch.no_grad()
    def _of(self, batch: Batch, images: Tensor, second: bool) -> tuple[Features, ...]:
        if self.options.teacher_views is None:
            with self._numerics():
                return tuple(_with_maps(teacher(images), self._maps) for teacher in self._own())
        shelves = self._shelves.get((batch.view, second))
        if shelves is None:
            shelves = self._shelves[batch.view, second] = self._fill(batch.view, second)
        return tuple(shelf.take(batch.rows, self._maps) for shelf in shelves)

    def _own(self) -> list[_Teacher]:
        """The teachers, or copies of them, that belong to the thread that asks."""
        if not hasattr(self._here, "teachers"):
            self._here.teachers = [teacher.twin() for teacher in self._teachers]
        teachers: list[_Teacher] = self._here.teachers
        return teachers

    def _fill(self, view: int, second: bool) -> list[Shelf]:
        """The outputs for all pictures of a view."""
        layouts, count = self._known_layouts(), len(self.batches.split)
        shelves = [Shelf(la, n, count, self.device) for la, n in zip(layouts, self._names)]
        busy = [(t, s) for t, s in zip(self._teachers, shelves) if s.tensors]
        if not busy:
            return shelves
        for number, batch in enumerate(self.batches.whole_view(view, _BLOCK)):
            images = batch.second if second else batch.images
            if images is None:
                raise ConfigError("TeacherPass.batches has no second view, and the batch that was given has.")
            with self._numerics(), _settled_algorithms():
                for teacher, shelf in busy:
                    shelf.put(number * _BLOCK, teacher(images))
            if self.watch is not None:
                self.watch(min((number + 1) * _BLOCK, count), count)
        return shelves

    def _bytes(self, names: Sequence[Collection[str]]) -> int:
        views = (self.options.teacher_views or 0) * (1 if self.batches.second_augment is None else 2)
        each = sum(la.bytes(n) for la, n in zip(self._known_layouts(), names))
        return views * len(self.batches.split) * each

    @torch.no_grad()
    def _known_layouts(self) -> list[Layout]:
        if self._layouts is None:
            with self._numerics():
                self._layouts = [Layout.of(teacher.eager(teacher.example)) for teacher in self._teachers]
        return self._layouts

    @contextmanager
    def _numerics(self) -> Iterator[None]:
        """The teachers' precision, whatever is set around."""
        asked = self.options.teachers == "tf32"
        with ExitStack() as stack:
            if asked != (self.options.precision == "tf32"):
                stack.enter_context(tf32(asked, self.device))
            low, kind = self._low, self.device.type
            stack.enter_context(torch.autocast(kind, dtype=low or torch.bfloat16, enabled=low is not None))
            yield


class _Teacher:
    """One frozen teacher: images in, features out, with head and maps of the right types."""

    def __init__(
        self,
        net: StagedNet,
        shape: tuple[int, int, int],
        low: torch.dtype | None,
        device: torch.device,
        compiled: str,
    ) -> None:
        self.net = fold_batchnorm(net, shape).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.low = low
        self.example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(device)
        self.pooled = self.headed = False
        if low is not None:
            self._look_at_head()
            self._cast_weights(low)
        self.graphs = compiled == "graphs"
        self._compiled: Any = None
        if compiled:
            mode = "reduce-overhead" if self.graphs else None
            self._compiled = torch.compile(lambda images: named_tensors(self.eager(images)), mode=mode)

    def __call__(self, images: Tensor) -> Features:
        if self._compiled is None:
            return self.eager(images)
        seen = self._compiled(images)
        if self.graphs:  # the graph's own memory is written over when it is next replayed
            seen = {name: t.clone() for name, t in seen.items()}
        return _rebuilt(seen)

    def eager(self, images: Tensor) -> Features:
        """One pass, not compiled."""
        seen = self.net.features(images)
        if self.low is None:
            return seen
        embedding = seen.embedding.float()
        if self.pooled and seen.final is not None:
            embedding = seen.final.float().mean((2, 3))
        logits = seen.logits.float()
        if self.headed:
            with torch.autocast(images.device.type, enabled=False):
                logits = self.net.classifier(embedding)
        return _with_maps(
            Features(logits, embedding, seen.stages, seen.preacts, seen.stem, seen.final), self.low
        )

    def twin(self) -> _Teacher:
        """A copy with the same weights, for another thread. Not for compiled ones."""
        twin = copy.copy(self)
        weights = (*self.net.parameters(), *self.net.buffers())
        twin.net = copy.deepcopy(self.net, {id(t): t for t in weights})
        return twin

    @torch.no_grad()
    def draws(self) -> bool:
        """Whether a pass draws random numbers (such as dropout that does not know of evaluation mode)."""
        before = torch.get_rng_state()
        try:
            self.eager(self.example)
            return not torch.equal(before, torch.get_rng_state())
        finally:
            torch.set_rng_state(before)

    @torch.no_grad()
    def _look_at_head(self) -> None:
        """Whether embedding and logits can be computed again from the final map, in float32."""
        with torch.autocast(self.example.device.type, enabled=False):
            seen = self.net.features(self.example)
            again = self.net.classifier(seen.embedding)
        self.headed = torch.allclose(again, seen.logits, rtol=1e-3, atol=1e-3)
        pooled = None if seen.final is None else seen.final.mean((2, 3))
        self.pooled = pooled is not None and torch.allclose(pooled, seen.embedding, rtol=1e-3, atol=1e-4)

    def _cast_weights(self, low: torch.dtype) -> None:
        """Do once what autocast would do in every pass; norms and the classifier stay in float32."""
        head = {id(p) for p in self.net.classifier.parameters()} if self.headed else set()
        for m in self.net.modules():
            if type(m) in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear) and not head & set(
                map(id, m.parameters())
            ):
                m.to(low)


def _with_maps(features: Features, dtype: torch.dtype | None) -> Features:
    """The same features with their maps as `dtype` (None: as they are); what was one tensor stays one."""
    if dtype is None:
        return features
    done: dict[int, Tensor] = {}

    def cast(t: Tensor) -> Tensor:
        if id(t) not in done:
            done[id(t)] = t.to(dtype)
        return done[id(t)]

    return Features(
        features.logits,
        features.embedding,
        tuple(map(cast, features.stages)),
        None if features.preacts is None else tuple(map(cast, features.preacts)),
        None if features.stem is None else cast(features.stem),
        None if features.final is None else cast(features.final),
    )


def _rebuilt(tensors: dict[str, Tensor]) -> Features:
    """The inverse of `named_tensors`."""

    def listed(name: str) -> tuple[Tensor, ...]:
        return tuple(t for key, t in tensors.items() if key.startswith(f"{name}["))

    return Features(
        tensors["logits"],
        tensors["embedding"],
        listed("stages"),
        listed("preacts") or None,
        tensors.get("stem"),
        tensors.get("final"),
    )


@contextmanager
def _settled_algorithms() -> Iterator[None]:
    """cuDNN chooses by rule and not by timing, which could choose otherwise in a resumed run."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before

"""Gradients of each weighted term of a method, picture by picture, at every place of a network."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.probes.progress import check, measurement, steps

if TYPE_CHECKING:
    from kdlab.methods import Method, Step
    from kdlab.models.features import Features, StagedNet

EMBEDDING, LOGITS = "embedding", "logits"


@dataclass(frozen=True)
class TermGradients:
    """Weighted gradients of T terms at P places, picture by picture.

    Attributes:
        terms, places: names. factors, values: (T,) weight times schedule, raw value (NaN while off).
        gradients: (term, place) -> (n, ...) or nothing where a term does not reach a place.
        embedding: (n, d).

    >>> net = kdlab.models.build("resnet8", num_classes=3, in_channels=1)
    >>> images, target = torch.randn(6, 1, 8, 8, generator=generator), torch.arange(6) % 3
    >>> found = kdlab.probes.term_gradients(net, kdlab.methods.CE(), images, target)
    >>> found.at("ce", "logits").shape, found.norms().shape
    ((6, 3), (1, 5))
    >>> np.allclose(found.shares(), 1)  # a single term is the whole
    True
    """

    terms: tuple[str, ...]
    places: tuple[str, ...]
    factors: np.ndarray
    values: np.ndarray
    gradients: Mapping[tuple[str, str], np.ndarray]
    embedding: np.ndarray

    def at(self, term: str, place: str) -> np.ndarray:
        """(n, ...) gradients; zeros at the embedding where the term does not reach it."""
        found = self.gradients.get((term, place))
        return np.zeros_like(self.embedding) if found is None else found

    def _flat(self, place: str) -> np.ndarray | None:
        """(T, n, size) of one place, None where no term reaches it."""
        there = [self.gradients.get((term, place)) for term in self.terms]
        known = next((g for g in there if g is not None), None)
        if known is None:
            return None
        flat = [np.zeros_like(known) if g is None else g for g in there]
        return np.stack([g.reshape(len(g), -1) for g in flat]).astype(np.float64)

    def norms(self) -> np.ndarray:
        """(T, P) mean over pictures of the 2-norm."""
        out = np.zeros((len(self.terms), len(self.places)))
        for p, place in enumerate(self.places):
            flat = self._flat(place)
            if flat is not None:
                out[:, p] = np.linalg.norm(flat, axis=2).mean(axis=1)
        return out

    def cosines(self) -> np.ndarray:
        """(P, T, T) cosines between the gradients of all pictures together; NaN where one is 0."""
        count = len(self.terms)
        out = np.full((len(self.places), count, count), np.nan)
        for p, place in enumerate(self.places):
            flat = self._flat(place)
            if flat is not None:
                table = flat.reshape(count, -1)
                length = np.linalg.norm(table, axis=1)
                with np.errstate(divide="ignore", invalid="ignore"):
                    out[p] = (table @ table.T) / np.outer(length, length)
        return np.where(np.isfinite(out), np.clip(out, -1.0, 1.0), np.nan)

    def shares(self) -> np.ndarray:
        """(T, P) <g_t, g> / <g, g> with g the sum over terms; NaN where nothing pulls."""
        out = np.full((len(self.terms), len(self.places)), np.nan)
        for p, place in enumerate(self.places):
            flat = self._flat(place)
            if flat is not None:
                table = flat.reshape(len(flat), -1)
                total = table.sum(axis=0)
                power = float(total @ total)
                if power > 0:
                    out[:, p] = table @ total / power
        return out


@measurement
def term_gradients(
    net: StagedNet,
    method: Method,
    images: Tensor,
    target: Any,
    *,
    teachers: Sequence[StagedNet] = (),
    index: Any = None,
    epoch: int = 1,
    batch_size: int = 64,
    second: Tensor | None = None,
) -> TermGradients:
    """Gradients of each weighted term of a built method at the stages, embedding and logits of a network.

    Everything runs in eval mode on copies, so that neither statistics nor banks change.

    Args:
        net: of the student. method: built for it.
        images: (n, C, H, W), normalised. target: (n,) labels.
        teachers: networks that the method reads. index: (n,) positions in the training data.
        epoch: from 1, for schedules.
        batch_size: pictures at a time; terms that compare pictures see those of their batch.
        second: (n, C, H, W) second views, for methods that ask for them.

    Returns:
        the gradients, of pictures in the order given.

    Raises:
        ConfigError: the method needs something that was not given, or a value that is not finite.

    >>> net = kdlab.models.build("resnet8", num_classes=3, in_channels=1)
    >>> images, target = torch.randn(6, 1, 8, 8, generator=generator), torch.arange(6) % 3
    >>> found = kdlab.probes.term_gradients(net, kdlab.methods.CE(), images, target)
    >>> found.terms, found.places
    (('ce',), ('layer1', 'layer2', 'layer3', 'embedding', 'logits'))
    """
    from kdlab.methods import Step

    labels = torch.as_tensor(np.asarray(target), dtype=torch.int64)
    where = None if index is None else torch.as_tensor(np.asarray(index), dtype=torch.int64)
    net, method = copy.deepcopy(net).eval(), copy.deepcopy(method).eval()
    net.requires_grad_(True)  # some layers cut the graph where nothing could be trained
    terms = tuple(method.terms)
    active = method.active(epoch)
    places = (*net.stage_names, EMBEDDING, LOGITS)
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    sums, embedding, count = dict.fromkeys(active, 0.0), [], 0
    classifiers = tuple(teacher.classifier for teacher in teachers)
    needs = any(method.terms[name].needs_teacher for name in active)

    def look(rows: slice, pictures: Tensor, beside: Step | None = None) -> Step:
        with torch.no_grad():
            seen = tuple(t.eval().features(pictures[rows]) for t in teachers) if needs else ()
        own = net.features(pictures[rows])
        at = None if where is None else where[rows]
        return Step(own, labels[rows], seen, classifiers, at, epoch, beside, pictures[rows])

    for start in steps(range(0, len(labels), batch_size)):
        rows = slice(start, min(start + batch_size, len(labels)))
        if rows.stop - rows.start < 2 <= len(labels):
            break  # many terms compare pictures; a last one alone is left out
        beside = look(rows, second) if second is not None and method.second_view else None
        step = look(rows, images, beside)
        values = method.losses(step, active)
        size = rows.stop - rows.start
        tensors = _tensors(step.student, places)
        for name in active:
            check()
            if not torch.isfinite(values[name]):
                raise ConfigError(f"Term {name!r} is not finite on these pictures; the network has diverged.")
            factor = method.terms[name].factor(epoch) * size
            found = _gradient(values[name] * factor, tensors)
            for place, gradient in zip(places, found, strict=True):
                if gradient is not None:
                    parts.setdefault((name, place), []).append(gradient.float().numpy())
            sums[name] += float(values[name].detach()) * size
        embedding.append(step.student.embedding.detach().float().numpy())
        count += size
    return TermGradients(
        terms,
        places,
        np.array([method.terms[name].factor(epoch) for name in terms]),
        np.array([sums[name] / count if name in sums else np.nan for name in terms]),
        {key: np.concatenate(found) for key, found in parts.items()},
        np.concatenate(embedding),
    )


def _tensors(features: Features, places: Sequence[str]) -> list[Tensor]:
    return [*features.stages, features.embedding, features.logits][: len(places)]


def _gradient(value: Tensor, tensors: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not value.requires_grad:
        return [None] * len(tensors)
    return torch.autograd.grad(value, tensors, retain_graph=True, allow_unused=True)

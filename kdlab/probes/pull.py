"""The pull of each term: where every loss wants to move every picture, and which losses fight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.probes.result import Result
from kdlab.probes.sources import Source, as_source
from kdlab.probes.words import listed, percent

if TYPE_CHECKING:
    import pandas as pd

    from kdlab.methods import Method
    from kdlab.models.features import Features, StagedNet

EMBEDDING, LOGITS = "embedding", "logits"


@dataclass(frozen=True)
class Pull(Result):
    """Gradients of the weighted terms of S students at E epochs, on n fixed pictures.

    A term pulls a picture along its negative gradient. Networks are in eval mode, so that a picture's
    gradient depends on its own batch only where the term itself compares pictures. Gradients are
    those of one picture (the batch's mean times its size), weighted as in training.

    Attributes:
        students: shown here; roster: all of the study, from which figures take their colours.
        epochs: of the weights looked at; seed: of the run.
        terms: student -> its terms, as its method lists them. places: student -> where gradients were
            taken: its stages, "embedding" and "logits".
        factor: (student, epoch, term) -> weight times schedule in the epoch to come; 0 while off.
        value: (student, epoch, term) -> the raw value of the term; NaN while off.
        norm: (student, epoch) -> (T, P) mean over pictures of the gradient's 2-norm.
        cosine: (student, epoch) -> (P, T, T) between the gradients of all pictures together; NaN where
            one of them is 0.
        share: (student, epoch) -> (T, P) part of the total: <g_t, g> / <g, g>. They add up to 1; a
            negative one works against the rest.
        features: (student, epoch) -> (n, d) embeddings.
        direction: (student, epoch, term) -> (n, d) negative gradients at the embedding.
        labels, index: (n,). class_names: one a class. pictures: "test", "validation" or "training".
        missing: (student, epoch) pairs of which no weights were kept.
    """

    figure: ClassVar[str] = "pull"

    students: tuple[str, ...]
    roster: tuple[str, ...]
    epochs: tuple[int, ...]
    seed: int
    terms: Mapping[str, tuple[str, ...]]
    places: Mapping[str, tuple[str, ...]]
    factor: Mapping[tuple[str, int, str], float]
    value: Mapping[tuple[str, int, str], float]
    norm: Mapping[tuple[str, int], np.ndarray]
    cosine: Mapping[tuple[str, int], np.ndarray]
    share: Mapping[tuple[str, int], np.ndarray]
    features: Mapping[tuple[str, int], np.ndarray]
    direction: Mapping[tuple[str, int, str], np.ndarray]
    labels: np.ndarray
    index: np.ndarray
    class_names: tuple[str, ...]
    pictures: str
    missing: tuple[tuple[str, int], ...] = ()

    def last(self, student: str) -> int:
        """The last of the epochs at which this student was looked at."""
        return max(epoch for name, epoch in self.norm if name == student)

    def deepest(self, student: str) -> str:
        """The last stage of a student, which most terms reach; the embedding where there is no stage."""
        stages = [place for place in self.places[student] if place not in (EMBEDDING, LOGITS)]
        return stages[-1] if stages else EMBEDDING

    def to_frame(self) -> pd.DataFrame:
        """One row for each student, epoch, term and place: norm, share, and cosine to the other terms."""
        import pandas as pd

        rows = []
        for (name, epoch), norms in self.norm.items():
            for t, term in enumerate(self.terms[name]):
                for p, place in enumerate(self.places[name]):
                    row = {
                        "student": name,
                        "epoch": epoch,
                        "term": term,
                        "place": place,
                        "factor": self.factor[name, epoch, term],
                        "value": self.value[name, epoch, term],
                        "norm": norms[t, p],
                        "share": self.share[name, epoch][t, p],
                    }
                    cosines = self.cosine[name, epoch][p, t]
                    row |= {f"cosine/{o}": cosines[k] for k, o in enumerate(self.terms[name]) if k != t}
                    rows.append(row)
        return pd.DataFrame(rows)

    @property
    def summary(self) -> str:
        """Which terms move the last stage most, and which pair pulls the hardest against each other."""
        said, worst = [], (0.0, "")
        for name in self.students:
            epoch, at = self.last(name), self.places[name].index(self.deepest(name))
            share, terms = self.share[name, epoch][:, at], self.terms[name]
            if np.isfinite(share).any():
                most = int(np.nanargmax(share))
                said.append(f"{name} {terms[most]} ({percent(float(share[most]), 0)})")
            cosine = self.cosine[name, epoch][at]
            for i in range(len(terms)):
                for j in range(i):
                    if np.isfinite(cosine[i, j]) and cosine[i, j] < worst[0]:
                        worst = (float(cosine[i, j]), f"{terms[j]} and {terms[i]} of {name}")
        fight = (
            f" The hardest fight is between {worst[1]} (cosine {worst[0]:.2f})."
            if worst[1]
            else " No two terms of a student pull against each other there."
        )
        return (
            f"On {len(self.labels)} {self.pictures} pictures, the loss with the largest share of the pull on "
            f"the last stage is: {listed(said)}.{fight}"
        )


def pull(
    source: Any,
    *,
    students: str | Iterable[str] | None = None,
    epochs: str | int | Iterable[int] = "last",
    seed: int | None = None,
    n: int = 256,
    pictures: str = "test",
) -> Pull:
    """Per-term gradients at every stage, the embedding and the logits, on a fixed set of pictures.

    Args:
        source: a study, live, finished or killed. Of a student without the study use `term_gradients`.
        students: which; None means all.
        epochs: "last" (the last checkpoint), "all" (0, every epoch of which the weights were kept, and the
            last), an epoch or several. `Study(keep=...)` says which are kept.
        seed: of the run; None is the first.
        n: pictures, the same share of each class.
        pictures: "test" or "validation" (of the probe set, which never are trained on), or "training"
            (without augmentation): what methods that keep a bank of training pictures need.

    Raises:
        ConfigError: unknown names, a method that needs training pictures, or too few pictures.
        CheckpointError: nothing was kept of an epoch asked for.
        StudyError: the training has not begun.
    """
    study = source.study if isinstance(source, Source) else source
    if not hasattr(study, "revive"):
        raise ConfigError(
            "The pull of terms needs a study; for a network and a method of your own use term_gradients(...)."
        )
    src = as_source(source)
    chosen = src.choose_networks(students, teachers=False)
    own_seed = study.seeds[0] if seed is None else src.choose_seeds(seed)[0]
    labels, index, raw = _pictures(study, pictures, n)
    images = study.data.normalize(raw)
    nets = [study.network(name) for name in study.teacher_names]
    size = min(study.recipe.batch_size, len(labels))
    out: dict[str, dict[Any, Any]] = {
        key: {} for key in ("factor", "value", "norm", "cosine", "share", "features", "direction")
    }
    terms: dict[str, tuple[str, ...]] = {}
    places: dict[str, tuple[str, ...]] = {}
    missing: list[tuple[str, int]] = []
    wanted = {name: _epochs(study, name, epochs, own_seed) for name in chosen}
    every = sorted({epoch for own in wanted.values() for epoch in own})
    for name in chosen:
        missing += [(name, epoch) for epoch in every if epoch not in wanted[name]]
        for epoch, kept in wanted[name].items():
            revived = study.revive(name, kept, own_seed)
            seen = term_gradients(
                revived.net,
                revived.method,
                images,
                labels,
                teachers=nets,
                index=index,
                epoch=min(epoch + 1, study.epochs),
                batch_size=size,
                second=_second(study, revived.method, raw),
            )
            terms[name], places[name] = seen.terms, seen.places
            for t, term in enumerate(seen.terms):
                out["factor"][name, epoch, term] = float(seen.factors[t])
                out["value"][name, epoch, term] = float(seen.values[t])
                out["direction"][name, epoch, term] = -seen.at(term, EMBEDDING)
            out["norm"][name, epoch] = seen.norms()
            out["cosine"][name, epoch] = seen.cosines()
            out["share"][name, epoch] = seen.shares()
            out["features"][name, epoch] = seen.embedding
    return Pull(
        students=chosen,
        roster=src.students,
        epochs=tuple(every),
        seed=own_seed,
        terms=terms,
        places=places,
        labels=labels,
        index=index,
        class_names=src.class_names,
        pictures=pictures,
        missing=tuple(missing),
        **out,
    )


@dataclass(frozen=True)
class TermGradients:
    """Weighted gradients of T terms at P places, picture by picture.

    Attributes:
        terms, places: names. factors, values: (T,) weight times schedule, raw value (NaN while off).
        gradients: (term, place) -> (n, ...) or nothing where a term does not reach a place.
        embedding: (n, d).
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

    Raises:
        ConfigError: the method needs something that was not given, or a value that is not finite.
    """
    import copy

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

    for start in range(0, len(labels), batch_size):
        rows = slice(start, min(start + batch_size, len(labels)))
        if rows.stop - rows.start < 2 <= len(labels):
            break  # many terms compare pictures; a last one alone is left out
        beside = look(rows, second) if second is not None and method.second_view else None
        step = look(rows, images, beside)
        values = method.losses(step, active)
        size = rows.stop - rows.start
        tensors = _tensors(step.student, places)
        for name in active:
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


def _epochs(study: Any, name: str, epochs: str | int | Iterable[int], seed: int) -> dict[int, int | str]:
    """Epoch -> how `revive` calls it, of those asked for that this student has."""
    if isinstance(epochs, str) and epochs not in ("last", "all"):
        raise ConfigError(f"epochs must be 'last', 'all' or a list of epochs, not {epochs!r}.")
    last = int(study.revive(name, "last", seed).epoch)
    if epochs == "last":
        return {last: "last"}
    known: dict[int, int | str] = {0: 0, **{e: e for e in study.kept_epochs(name, seed)}}
    known.setdefault(last, "last")
    if isinstance(epochs, str):
        return dict(sorted(known.items()))
    asked = [int(epochs)] if isinstance(epochs, int) else [int(e) for e in epochs]
    asked = [last if epoch == -1 else epoch for epoch in asked]
    for epoch in asked:
        if epoch not in known:
            raise ConfigError(
                f"No weights of {name!r} were kept after epoch {epoch}; there are those of epochs "
                f"{listed([str(e) for e in sorted(known)])} (Study(keep=...) chooses which are kept)."
            )
    return {epoch: known[epoch] for epoch in sorted(asked)}


def _pictures(study: Any, pictures: str, n: int) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Labels, positions in the data set and uint8 pictures."""
    from kdlab.data.probe_set import stratified

    if pictures not in ("test", "validation", "training"):
        raise ConfigError(f"pictures must be 'test', 'validation' or 'training', not {pictures!r}.")
    if n < 4:
        raise ConfigError(f"At least 4 pictures are needed, not {n}.")
    if pictures == "training":
        part = stratified(study.data.train, n)
        images, labels, index = part.images, part.labels, part.index
    else:
        probe = study.probe_set
        keep = torch.from_numpy(np.flatnonzero(probe.fit == (pictures == "validation"))[:n])
        images, labels, index = probe.images[keep], probe.labels[keep], probe.index[keep]
    return labels.cpu().numpy(), index.cpu().numpy(), images.cpu()


def _second(study: Any, method: Method, raw: Tensor) -> Tensor | None:
    """Second views of uint8 pictures, drawn once and for all, normalised."""
    if not method.second_view:
        return None
    from kdlab.data import augment

    how = augment.get(method.second_view)
    drawn = how.draw(len(raw), torch.Generator().manual_seed(0))
    view: Tensor = study.data.normalize(how.apply(raw, drawn))
    return view

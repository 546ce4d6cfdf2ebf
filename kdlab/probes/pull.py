"""The pull of each term: where every loss wants to move every picture, and which losses fight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.probes.inputs import whole, whole_numbers
from kdlab.probes.progress import measurement, steps
from kdlab.probes.result import Result
from kdlab.probes.sources import Source, as_source
from kdlab.probes.term_gradients import EMBEDDING, LOGITS, term_gradients
from kdlab.probes.words import at_epoch, listed, percent

if TYPE_CHECKING:
    import pandas as pd

    from kdlab.methods import Method

_FIGHT = -0.1  # cosine of two gradients from which on they are said to fight


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

    >>> found = kdlab.probes.pull(study, n=20, students="KD")
    >>> found.norm["KD", 3].shape, np.allclose(found.share["KD", 3].sum(0), 1)  # terms, places
    ((2, 5), True)
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
        fight = " No two terms of a student pull against each other there."
        if worst[0] <= _FIGHT:
            fight = f" The hardest fight is between {worst[1]} (cosine {worst[0]:.2f})."
        elif worst[1]:
            fight = f" No two terms fight there: the lowest cosine is {worst[0]:.2f}, of {worst[1]}."
        return (
            f"On {len(self.labels)} {self.pictures} pictures, the loss with the largest share of the pull on "
            f"the last stage is: {listed(said)}.{fight}"
        )


@measurement
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

    >>> found = kdlab.probes.pull(study, n=20)
    >>> found.terms, found.places["KD"]
    ({'alone': ('ce',), 'KD': ('ce', 'kd')}, ('layer1', 'layer2', 'layer3', 'embedding', 'logits'))
    """
    study = source.study if isinstance(source, Source) else source
    if not hasattr(study, "revive"):
        raise ConfigError(
            "The pull of terms needs a study; for a network and a method of your own use term_gradients(...)."
        )
    src = as_source(source)
    chosen = src.choose_networks(students, teachers=False)
    own_seed = study.seeds[0] if seed is None else src.choose_seed(seed)
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
    wanted = {name: _epochs(study, name, epochs, own_seed) for name in steps(chosen, share=0.1)}
    every = sorted({epoch for own in wanted.values() for epoch in own})
    for name in steps(chosen, "{}"):
        missing += [(name, epoch) for epoch in every if epoch not in wanted[name]]
        for epoch, kept in steps(wanted[name].items(), lambda one: at_epoch(one[0])):
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
    asked = [last if epoch == -1 else epoch for epoch in whole_numbers(epochs, "epochs")]
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
    whole(n, "n, the number of pictures,", 4)
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

"""What a map shows, in words, and the small pictures that belong to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kdlab.plots.theme import shortened
from kdlab.probes import Embedding
from kdlab.probes.embedding import METHODS
from kdlab.probes.words import listed, percent, plural

MOST_PICTURES = 40
_MOST_CLASSES = 4  # named of a selection
_NEIGHBOURS = 8  # shown in a row


def at_words(space: Embedding, e: int, live: bool) -> str:
    """When a map was: "after epoch 8, seed 0"."""
    epoch = space.epochs[e]
    when = (
        f"in epoch {epoch}, as it is now"
        if live
        else "before training"
        if epoch == 0
        else f"after epoch {epoch}"
    )
    return f"{when}, seed {space.seed}"


def seen(space: Embedding, e: int, shown: Sequence[int], live: bool) -> str:
    """What the map is, how far classes lie apart in the features and on it, and how far to trust it.

    Args:
        space: a map. e: place of the epoch. shown: places of the networks that are drawn.
        live: whether it is of this moment, made by `live_map`.
    """
    said = [
        f"{METHODS[space.method]} of {plural(len(space.labels), 'test picture')} {at_words(space, e, live)}."
    ]
    told = [n for n in shown if np.isfinite(space.purity[e, n])]
    if told:
        pairs = [f"{space.networks[n]} {space.purity[e, n]:.2f} ({space.purity_map[e, n]:.2f})" for n in told]
        said.append(
            f"Of a picture's {space.k} nearest in the features, this share is of its class (in brackets: on "
            f"the map): {listed(pairs)}."
        )
    limits = {
        "tsne": "distances between groups and sizes of groups mean little in t-SNE",
        "pca": "a plane hides all other directions",
        "lda": "the plane was chosen with labels, so classes look their best",
    }[space.method]
    kept = space.kept
    if kept is not None and told:
        share = float(np.mean([kept[e, n] for n in told]))
        chance = percent(space.chance_kept, 0)
        limits = f"the map keeps {percent(share, 0)} of these neighbours (chance {chance}); {limits}"
    said.append(f"{limits[0].upper()}{limits[1:]}.")
    if space.method == "tsne":
        said.append(_price(space, e))
    gone = [space.networks[n] for n in shown if not np.isfinite(space.coordinates[e, n, 0, 0])]
    if gone:
        said.append(f"There is no snapshot of {listed(gone, 'or')} at this epoch.")
    return " ".join(said)


def _price(space: Embedding, e: int) -> str:
    """What calming costs at an epoch, in KL divergence; lower is a truer map."""
    if space.pull == 0 or space.divergence_free is None:
        return f"KL divergence {space.divergence[e]:.2f}, without calming."
    if e == 0:
        return f"KL divergence {space.divergence[e]:.2f}; calming begins with the second frame."
    cost = space.divergence[e] / space.divergence_free[e] - 1
    return (
        f"Calm {space.pull:g} costs {percent(max(float(cost), 0.0), 0)}: KL divergence "
        f"{space.divergence[e]:.2f}, {space.divergence_free[e]:.2f} without."
    )


def selection(space: Embedding, inside: Sequence[int], outside: int) -> str:
    """How many pictures are selected, of which classes, and how many of them the map does not show."""
    if not inside and not outside:
        return ""
    if not inside:
        return f"{plural(outside, 'picture')} selected, none of which the map shows."
    labels, counts = np.unique(space.labels[list(inside)], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    pairs = [f"{counts[i]} of class {space.class_names[labels[i]]}" for i in order[:_MOST_CLASSES]]
    if len(order) > _MOST_CLASSES:
        pairs.append(f"{int(counts[order[_MOST_CLASSES:]].sum())} of other classes")
    rest = f"; {outside} more are not on the map" if outside else ""
    return f"{plural(len(inside), 'picture')} selected: {listed(pairs)}{rest}."


def answers(space: Embedding, e: int, shown: Sequence[int], i: int, place: int) -> str:
    """What the networks answer for the i-th picture of the map, which is picture `place`."""
    start = f"picture {place}, true class {_class(space, int(space.labels[i]))}"
    said = []
    for n in shown:
        best = int(space.predicted[e, n, i])
        if best < 0:
            continue
        sure = np.nan if space.top_share is None else float(space.top_share[e, n, i, 0])
        share = f" ({percent(sure, 0)})" if np.isfinite(sure) else ""
        wrong = "" if best == space.labels[i] else ", which is wrong"
        said.append(f"{_who(space, n)} says {_class(space, best)}{share}{wrong}")
    return f"{start}: {'; '.join(said)}." if said else f"{start}."


def _who(space: Embedding, n: int) -> str:
    name = space.networks[n]
    return "the teacher" if space.teachers[:1] == (name,) else name


def _class(space: Embedding, label: int) -> str:
    """Name of a class, or of a logit beyond the classes its number."""
    return space.class_names[label] if label < len(space.class_names) else str(label)


# ---- small pictures ----------------------------------------------------------------------------------------

Source = Callable[[int], str]  # place among the evaluation pictures -> data address


def thumbnail(
    space: Embedding, e: int, shown: Sequence[int], i: int, place: int, source: Source
) -> dict[str, Any]:
    """The i-th picture of a map with its class and who is wrong about it."""
    label = int(space.labels[i])
    wrong = [
        f"{'teacher' if space.networks[n] in space.teachers else shortened(space.networks[n], 8)}: "
        f"{shortened(_class(space, int(said)), 8)}"
        for n, said in zip(shown, space.predicted[e, list(shown), i], strict=True)
        if said >= 0 and said != label
    ]
    if len(wrong) > 2:
        wrong = [wrong[0], f"+{len(wrong) - 1} wrong"]
    known = (space.predicted[e, list(shown), i] >= 0).any()
    return {
        "id": place,
        "src": source(place),
        "text": "\n".join([shortened(_class(space, label), 11), *(wrong or ["all correct"] * int(known))]),
        "title": answers(space, e, shown, i, place),
    }


def unseen(place: int, label: str, source: Source) -> dict[str, Any]:
    """A selected picture that the map does not show."""
    text = f"{shortened(label, 11)}\nnot on map"
    return {"id": place, "src": source(place), "text": text, "title": f"picture {place}, class {label}"}


def neighbour_rows(
    space: Embedding, e: int, shown: Sequence[int], i: int, places: np.ndarray, source: Source
) -> list[dict[str, Any]]:
    """The i-th picture and the nearest to it in each network's own features, a row for each network.

    Args:
        places: (n,) of the map's pictures among the evaluation pictures.
    """
    if space.nearest is None:
        return []
    out: list[dict[str, Any]] = []
    of_teacher = set(space.nearest[e, 0, i].tolist()) if space.teachers else set()
    for n in shown:
        near = [int(j) for j in space.nearest[e, n, i] if j >= 0]
        if not near:
            continue
        same = sum(int(space.labels[j] == space.labels[i]) for j in near)
        row = f"Nearest to picture {places[i]} in {space.networks[n]}: "
        row += f"{same} of {len(near)} are of its class (✓)"
        if of_teacher and space.networks[n] not in space.teachers:
            row += f", {len(of_teacher.intersection(near))} are also among the teacher's"
        for j in [i, *near[:_NEIGHBOURS]]:
            mark = "" if j == i else " ✓" if space.labels[j] == space.labels[i] else " ✗"
            text = shortened(_class(space, int(space.labels[j])), 11) + mark
            title = answers(space, e, shown, j, int(places[j]))
            one = {"id": int(places[j]), "src": source(int(places[j])), "text": text, "title": title}
            out.append(one | {"row": row, "chosen": j == i})
    return out

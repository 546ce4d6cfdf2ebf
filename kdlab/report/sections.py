"""The parts of a report that are figures; each is made on its own, so that one that fails leaves the rest."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from kdlab import plots, probes
from kdlab.errors import KDLabError
from kdlab.probes.sources import Source
from kdlab.probes.words import listed
from kdlab.report import tables
from kdlab.report.figures import FigurePart
from kdlab.report.html import missing, small

_EPOCHS_SHOWN = 6
_PICTURES = 6  # on a wall of maps
_FINE_STAGE = 0  # the first stage has the finest map; on small pictures the last is a few cells


@dataclass(frozen=True)
class Section:
    """A chapter of the page: its id, heading and body."""

    key: str
    title: str
    body: str

    def html(self) -> str:
        """The section element."""
        heading = f"{self.key}-heading"
        return (
            f'<section id="{self.key}" aria-labelledby="{heading}"><h2 '
            f'id="{heading}">{escape(self.title)}</h2>'
            f"{self.body}</section>"
        )


def attempt(key: str, title: str, make: Callable[[], str]) -> Section:
    """The section, or one that says in a sentence why it could not be made."""
    try:
        return Section(key, title, make())
    except KDLabError as error:
        reason = str(error)
    except Exception as error:  # the rest of the report is worth more than a traceback
        warnings.warn(
            f"The report's part {title!r} failed: {type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        reason = f"{type(error).__name__}: {error} This is a fault of kdlab; please report it."
    return Section(key, title, missing(reason))


def choose_epochs(src: Source, count: int = _EPOCHS_SHOWN) -> list[int]:
    """At most `count` snapshot epochs, evenly placed among those kept, with the first and the last."""
    known = src.choose_epochs("all", src.choose_seeds())
    places = np.unique(np.round(np.linspace(0, len(known) - 1, count)).astype(int))
    return [known[place] for place in places]


def curves(study: Any) -> str:
    """Accuracy and loss over the epochs."""
    accuracy = probes.learning_curves(study, "test_accuracy")
    several = len(accuracy.seeds) > 1
    seeds = (
        "Lines are means over seeds, bands go from the lowest to the highest seed"
        if several
        else "One seed only"
    )
    hand = " Triangles mark commands given by hand." if accuracy.marks else ""
    if any(mark.get("kind") == "fork" for mark in accuracy.marks):
        hand += " A fork begins at the ring on its parent's curve."
    parts = [
        FigurePart(
            "curve-accuracy",
            "Test accuracy over the epochs",
            plots.curves(accuracy),
            "See who learns faster early on, and whether the gap stays. "
            f"{seeds}; the teacher and chance are drawn in.{hand}",
        )
    ]
    try:
        loss = probes.learning_curves(study, "train_loss")
    except KDLabError:  # a record without losses still has its accuracies
        return _join(parts)
    parts.append(
        FigurePart(
            "curve-loss",
            "Training loss over the epochs",
            plots.curves(loss),
            "The total loss that each student minimises. The students add up different terms, so only the "
            "shapes can be compared, not the heights.",
        )
    )
    return _join(parts)


def depth(src: Source, epochs: Sequence[int]) -> str:
    """Linear probes."""
    result = probes.linear_probe(src, epochs=epochs)
    see = (
        "Each point asks: how well can a linear classifier name the class from this layer alone, for "
        "pictures "
        "it has not seen? Compare a student with the teacher and with the same student before training "
        "(grey), which is what an untrained network gives for nothing. Move the slider to see when "
        "each layer becomes readable. "
        f"{small(f'{escape(result.protocol)} Bars go from the lowest to the highest seed.')}"
    )
    return _join([FigurePart("probe-depth", "Linear probes by depth", plots.probe_depth(result), see)])


def space(src: Source, epochs: Sequence[int]) -> str:
    """Teacher and students in one map."""
    result = probes.embed(src, "tsne", align="joint", epochs=epochs)
    trust = f"{np.nanmin(result.trustworthiness):.2f} to {np.nanmax(result.trustworthiness):.2f}"
    which = f"Seed {result.seed} is shown. " if len(src.seeds) > 1 else ""
    how = (
        f"{which}{escape(result.protocol)} Trustworthiness of the maps {trust} (1: all neighbours are true)."
    )
    see = (
        "All networks were mapped together, so the same place means the same features in every plot. "
        "Move the "
        "slider and watch which student's classes part, and which come to lie where the teacher's do. t-SNE "
        "keeps neighbours, not distances: gaps between clusters and their sizes carry no meaning, so "
        f"read the table below for numbers. {small(how)}"
    )
    by_class = plots.embedding(result, color="class")
    parts = [FigurePart("map-class", "Teacher and students in one space, by class", by_class, see)]
    if result.teachers and len(result.networks) > 1:
        parts.append(
            FigurePart(
                "map-network",
                "The same map, networks over each other",
                plots.embedding(result, color="network"),
                "Faint lines join a student's picture with the teacher's. Short lines: the student "
                "places this "
                "picture as the teacher does. A click on a name in the legend hides it, a double click shows "
                "it alone.",
            )
        )
    return _join(parts) + tables.space(result)


def attention(src: Source) -> str:
    """Attention maps."""
    result = probes.attention_maps(src)
    see = (
        "Where is each network active? Every cell is one position of a stage's map, the mean of its squared "
        "channels. One colour scale holds for all maps, so bright means the same everywhere; under a "
        "student's "
        "map stands its cosine to the teacher's (1 is equal). A similar map does not prove similar reasoning."
    )
    return _join([FigurePart("attention-maps", "Attention maps side by side", plots.attention(result), see)])


def decomposition(src: Source) -> str:
    """The KD loss taken apart."""
    result = probes.logit_decomposition(src)
    missed, found = (
        listed(
            [
                f"{name} {n}"
                for name, n in zip(result.students, (result.quadrant == q).sum(axis=1), strict=True)
            ]
        )
        for q in (1, 2)
    )
    count = (
        f"Of {len(result.target)} test pictures, the teacher is right and the student wrong on: "
        f"{escape(missed)}; the teacher wrong and the student right on: {escape(found)}."
    )
    parts = [
        FigurePart(
            "logit-samples",
            "A few pictures under the microscope",
            plots.logits(result, samples=result.interesting(6)),
            "In the middle, the probabilities of the teacher (bars) and the students (markers). "
            "Right, what KD "
            "would ask of each student here: the part about the true class (★), and the part about the other "
            "classes, which counts only as far as the teacher doubts the true class (weight 1 − "
            f"p<sub>t</sub>). {small(count)}",
        ),
        FigurePart(
            "logit-classes",
            "Which classes cost most",
            plots.logit_classes(result),
            "Means over the test pictures of each class. High points above: the student is not as "
            "sure of the "
            "true class as the teacher. High points below: it orders the wrong classes differently, which is "
            "where knowledge about similar classes sits.",
        ),
        FigurePart(
            "logit-sweep",
            "Temperature decides what KD is about",
            plots.logit_sweep(result),
            "The higher the temperature, the less of the loss is about the true class and the more about the "
            "others: temperature is a hidden weight between the two parts.",
        ),
    ]
    return _join(parts)


def pull(src: Source) -> str:
    """Gradients of the terms, at the last epoch."""
    result = probes.pull(src)
    parts = [
        FigurePart(
            "pull-norm",
            "How strongly each loss pulls, from the first stage to the logits",
            plots.pull(result),
            "Every loss has a gradient: the direction in which it would change what the student shows of a "
            "picture. A line that ends early belongs to a loss that reads an early stage and says nothing "
            "about what comes after it. The scale is logarithmic: one grid line is a factor of ten.",
        )
    ]
    if any(len(terms) > 1 for terms in result.terms.values()):
        parts.append(
            FigurePart(
                "pull-conflicts",
                "Which losses agree, and which fight",
                plots.pull_conflicts(result),
                "Cosine between the gradients of two losses at the last stage: +1 both want the same, 0 "
                "they do not touch each other, -1 what one gains the other loses. Losses that do not reach "
                "it are left out.",
            )
        )
    return _join(parts)


def gradcam(src: Source) -> str:
    """Grad-CAM of the first evaluation pictures, with its controls."""
    result = probes.attributions(src, range(_PICTURES), stage=_FINE_STAGE)
    return _join(
        [
            FigurePart(
                "gradcam-wall",
                "Grad-CAM side by side",
                plots.attribution(result),
                "Where, in an early stage, would more activity speak for the true class? All "
                "networks are asked "
                "about the same class and drawn on one scale. ρ is the rank correlation with the "
                "teacher's map.",
            ),
            FigurePart(
                "gradcam-agreement",
                "Is the likeness more than chance?",
                plots.attribution_agreement(result),
                "A student's map may be like the teacher's because both react to the same strokes, "
                "whatever they "
                "have learned. So compare the first box with the others: the teacher's map of "
                "another picture, "
                "that of a network that learned nothing, and other students. Likeness of maps is no "
                "evidence of "
                "equal reasoning.",
            ),
        ]
    )


def likeness(src: Source) -> str:
    """Similarity of representations and agreement of answers."""
    parts = []
    if src.teachers:
        similar = probes.similarity(src, epochs="last")
        parts.append(
            FigurePart(
                "likeness-layers",
                "Which layers show the same? (CKA)",
                plots.similarity(similar),
                "Every cell compares a layer of a student with one of the teacher, over the same "
                "test pictures: 1 "
                "is the same geometry, up to rotation and scale. Layers of untrained networks are "
                "alike too, so "
                f"look at how far a value is above its control. {small(escape(similar.protocol))}",
            )
        )
    answers = probes.fidelity(src)
    parts.append(
        FigurePart(
            "likeness-answers",
            "Who gives the same answers?",
            plots.fidelity(answers),
            "On how many test pictures do two networks name the same class? A student that copied "
            "its teacher "
            "would also make the teacher's mistakes: look at the crosses, the pictures on which the "
            "teacher is "
            "wrong.",
        )
    )
    return _join(parts)


def geometry(src: Source, epochs: Sequence[int]) -> str:
    """Class geometry."""
    result = probes.geometry(src, epochs=epochs)
    return _join(
        [
            FigurePart(
                "geometry-epochs",
                "Do the classes collapse to points?",
                plots.geometry(result),
                "Networks that are trained for long draw each class together (NC1), spread the "
                "class means evenly "
                "(NC2), align the classifier with them (NC3) and then decide as the nearest mean "
                "would (NC4). A "
                "teacher's soft answers can speed this up or hold it back. "
                f"{small(escape(result.protocol))}",
            )
        ]
    )


def calibration(src: Source) -> str:
    """Reliability diagrams."""
    result = probes.calibration(src)
    return _join(
        [
            FigurePart(
                "calibration-reliability",
                "Are they as often right as they are sure?",
                plots.reliability(result),
                "Of the pictures on which a network is, say, 70 % sure, 70 % should be right: then "
                "points lie on "
                "the diagonal. Below it, the network is too sure. The bars say how many pictures a "
                "point stands "
                "for, the whiskers how far chance alone could move it.",
            )
        ]
    )


def _join(parts: Sequence[FigurePart]) -> str:
    return "".join(part.html() for part in parts)

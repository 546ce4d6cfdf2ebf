"""Attributions: which places of a picture speak for a class, teacher and students side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdlab.errors import CheckpointError, ConfigError, unknown_name
from kdlab.probes import progress, saliency
from kdlab.probes.agreement import TEACHER, MapAgreement, relative, same_grid
from kdlab.probes.attributing import Asking, Explained, agreement_of, pictures_of
from kdlab.probes.inputs import chosen_places, whole
from kdlab.probes.progress import measurement, parts
from kdlab.probes.result import Result
from kdlab.probes.saliency import BASELINES, LEAST_STEPS, METHODS
from kdlab.probes.sources import Source, as_source
from kdlab.probes.words import absent, at_epoch, commas, listed, percent, plural

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 24  # pictures, if none are named


@dataclass(frozen=True)
class Attributions(Result):
    """Attributions of m pictures: N networks x E epochs, for the same class in all of them.

    Attributes:
        networks: shown here, teachers first; teachers, students: which is which, students those of the
            whole source, from which figures take their colours.
        epochs: -1 for networks given without a training. seed: of the run shown.
        method: "gradcam", "integrated_gradients", "occlusion" or "attention".
        stages: network -> the stage whose map is looked at; "" for methods that look at pixels.
        maps: (network, epoch) -> (m, h, w) on the method's own grid. In logits for all but "attention":
            Grad-CAM is not negative; integrated gradients and occlusion are signed, negative where
            a place speaks against the class.
        asked: (m,) the class that is explained. asked_for: in words, whose class that is.
        logit: (network, epoch) -> (m,) the logit of that class.
        probability: (network, epoch) -> (m,) its softmax.
        predicted: (network, epoch) -> (m,) classes.
        labels, index: (m,). class_names: one a class. images: (m, C, H, W) uint8.
        baseline: "mean", "blur" or "black"; "" for methods without one. steps: of the path, or 0.
        delta: (network, epoch) -> (m,) convergence delta of integrated gradients, in logits.
        change: (network, epoch) -> (m,) f(x) - f(baseline), what they are to add up to.
        missing: (student, epoch) pairs of which no weights were kept.
        agreement: with the teacher, and its controls; None without a teacher or a student.

    >>> options = dict(method="integrated_gradients", students="KD", controls=False)
    >>> found = kdlab.probes.attributions(study, [0], **options)
    >>> found.networks, found.signed, found.maps["KD", 3].shape
    (('resnet8', 'KD'), True, (1, 8, 8))
    >>> total = found.maps["KD", 3].sum((1, 2))  # of all pixels: what the logit rose by from the baseline
    >>> np.allclose(total, found.change["KD", 3] + found.delta["KD", 3], atol=1e-4)
    True
    """

    figure: ClassVar[str] = "attribution"

    networks: tuple[str, ...]
    teachers: tuple[str, ...]
    students: tuple[str, ...]
    epochs: tuple[int, ...]
    seed: int
    method: str
    stages: Mapping[str, str]
    maps: Mapping[tuple[str, int], np.ndarray]
    asked: np.ndarray
    asked_for: str
    logit: Mapping[tuple[str, int], np.ndarray]
    probability: Mapping[tuple[str, int], np.ndarray]
    predicted: Mapping[tuple[str, int], np.ndarray]
    labels: np.ndarray
    index: np.ndarray
    class_names: tuple[str, ...]
    images: np.ndarray
    baseline: str = ""
    steps: int = 0
    delta: Mapping[tuple[str, int], np.ndarray] = field(default_factory=dict)
    change: Mapping[tuple[str, int], np.ndarray] = field(default_factory=dict)
    missing: tuple[tuple[str, int], ...] = ()
    agreement: MapAgreement | None = None

    @property
    def signed(self) -> bool:
        """Whether negative values occur, which speak against the class."""
        return any(bool((maps < 0).any()) for maps in self.maps.values())

    def networks_at(self, epoch: int) -> tuple[str, ...]:
        """Those who have maps of an epoch, teachers first."""
        return tuple(name for name in self.networks if (name, epoch) in self.maps)

    def relative(self, network: str, epoch: int) -> np.ndarray:
        """(m, h, w) each map in units of its own root mean square, so that networks can be compared."""
        return relative(self.maps[network, epoch])

    def difference(self, student: str, epoch: int) -> np.ndarray:
        """(m, h, w) student minus (first) teacher, both in units of their root mean square.

        Raises:
            ConfigError: there is no teacher.
        """
        if not self.teachers:
            raise ConfigError("There is no teacher whose maps could be taken off; give one: teacher=...")
        own, theirs = same_grid(self.maps[student, epoch], self.maps[self.teachers[0], epoch])
        return relative(own) - relative(theirs)

    def to_frame(self) -> pd.DataFrame:
        """One row for each network, epoch and picture: class, logit, convergence, agreement."""
        import pandas as pd

        rows = []
        nothing = np.full(len(self.labels), np.nan)
        for name, epoch in self.maps:
            key = name, epoch
            scores = {
                measure: values
                for (who, when, comparison, measure), values in (
                    self.agreement.scores if self.agreement else {}
                ).items()
                if (who, when, comparison) == (name, epoch, TEACHER)
            }
            for i in range(len(self.labels)):
                rows.append(
                    {
                        "network": name,
                        "epoch": epoch,
                        "method": self.method,
                        "index": int(self.index[i]),
                        "label": int(self.labels[i]),
                        "class": int(self.asked[i]),
                        "predicted": int(self.predicted[key][i]),
                        "logit": float(self.logit[key][i]),
                        "probability": float(self.probability[key][i]),
                        "delta": float(self.delta.get(key, nothing)[i]),
                        **{measure: float(values[i]) for measure, values in scores.items()},
                    }
                )
        return pd.DataFrame(rows)

    @property
    def summary(self) -> str:
        """What was attributed to what, how exact it is, and how far teacher and students agree."""
        where = sorted({stage for stage in self.stages.values() if stage})
        at = f" at {listed(where)}" if where else ""
        what = f" for {self.asked_for}" if self.method != "attention" else ""
        exact = ""
        if self.delta:
            error = np.concatenate([np.abs(self.delta[key]) for key in self.delta])
            size = np.concatenate([np.abs(self.change[key]) for key in self.delta])
            share = float(error.mean() / max(float(size.mean()), 1e-12))
            exact = (
                f" With {self.steps} steps from the baseline ({self.baseline}), the attributions miss the "
                f"change of the logit by {percent(share)} on average."
            )
        gone = [name for name in self.networks if name not in self.networks_at(self.epochs[-1])]
        told = f" {self.agreement.summary}" if self.agreement else ""
        return (
            f"{METHODS[self.method][0].upper()}{METHODS[self.method][1:]}{at} of "
            f"{plural(len(self.labels), 'picture')}{what}.{exact}{told}{absent(gone)}"
        )


@measurement
def attributions(
    source: Any,
    samples: Sequence[int] | None = None,
    *,
    method: str = "gradcam",
    class_: str | int = "label",
    stage: int | str | Mapping[str, int | str] = -1,
    target: Any = None,
    images: Any = None,
    data: Any = None,
    n: int = 2000,
    teacher: str | Iterable[str] | None = None,
    students: str | Iterable[str] | None = None,
    epoch: str | int | Iterable[int] = "last",
    seed: int | None = None,
    baseline: str = "mean",
    steps: int = LEAST_STEPS,
    window: int | None = None,
    stride: int | None = None,
    controls: bool = True,
) -> Attributions:
    """Explain the same class of the same pictures by teacher and students, and compare the maps.

    Networks are copied, put into eval mode and shown the pictures without augmentation. Nothing is
    fitted but the BatchNorm statistics of the untrained control.

    Args:
        source: a study; or name -> module (with `target`, and `images`, normalised, or with `data`).
        samples: places among the evaluation pictures; None means the first 24. Agreement wants more.
        method: "gradcam" (evidence on a stage's map, ReLU), "integrated_gradients", "occlusion" (both on
            pixels, signed), or "attention" (where a stage is active, for no class).
        class_: which class, the same for all networks: "label", "teacher" or "student" (what the first of
            them predicts at the last epoch shown), the name of a network (likewise), or a class number.
        stage: for "gradcam" and "attention": number (-1 is the deepest of each network), name, or network
            -> number or name.
        n: pictures of `data`, of which half are for evaluation.
        teacher: which names are teachers, for everything but a study; the first is compared with.
        students: which; None means all.
        epoch: "last" and "all" (of those of which weights were kept), one (negative counts from the last)
            or several.
        seed: of the run; None is the first that has a snapshot.
        baseline: what stands for "nothing": the "mean" colour of the pictures, the picture under a "blur"
            of an eighth of its side, or "black". For integrated gradients and occlusion.
        steps: of the integral, at least 50.
        window, stride: of the occluding square, in pixels; a quarter of the side, and half of that.
        controls: also measure agreement for an untrained network, another seed and the other students.

    Raises:
        ConfigError: unknown names, places, classes, stages or options; features instead of networks; a
            network that gradients do not get through.
        CheckpointError: no weights were kept of an epoch asked for.
        StudyError: the study has no snapshot yet.

    >>> found = kdlab.probes.attributions(study, [0, 1], method="gradcam", controls=False)
    >>> found.stages["KD"], found.maps["KD", 3].shape, bool((found.maps["KD", 3] >= 0).all())
    ('layer3', (2, 2, 2), True)
    """
    _check(method, baseline, steps, window, stride)
    src = as_source(
        source,
        target=target,
        images=images,
        data=data,
        n=n,
        teacher=teacher,
        judged=True,
    )
    networks = src.choose_networks(students)
    for name in stage if isinstance(stage, Mapping) else ():
        if name not in networks:
            raise unknown_name("network", name, networks)
    own_seed = src.choose_seed(seed, networks)
    epochs = src.choose_epochs("all" if epoch == "last" else epoch, [own_seed], networks)
    if epoch == "last":
        epochs = _last_with_weights(src, networks, epochs, own_seed)
    evaluation = np.flatnonzero(~src.fit)
    count = len(evaluation)
    places = chosen_places(samples, count, min(_SHOWN, count), "evaluation pictures")
    shown = evaluation[places]
    inputs = src.inputs(shown)
    asking = Asking(src, shown, inputs, method, stage, baseline, steps, window, stride)
    asked, asked_for = _classes(src, class_, networks, epochs, own_seed, inputs, shown)

    explained: dict[tuple[str, int], Explained] = {}
    missing: list[tuple[str, int]] = []
    there = src.presence(networks, epochs, own_seed)
    now = parts({METHODS[method]: len(epochs), "agreement": 1 + 2 * controls})
    with now(METHODS[method]):
        for name, when in progress.steps([(n, e) for n in networks for e in there[n]], _words):
            if name in src.teachers and when != there[name][0]:
                explained[name, when] = explained[name, there[name][0]]
                continue
            try:
                net = src.net(name, when, own_seed)
            except CheckpointError:
                if epoch != "all":
                    raise
                missing.append((name, when))
                continue
            explained[name, when] = asking(name, net, asked)
    left = tuple(
        when for when in epochs if any(key[1] == when and key[0] in src.students for key in explained)
    )
    epochs = left or epochs[-1:]
    explained = {key: value for key, value in explained.items() if key[1] in epochs}
    networks = tuple(name for name in networks if any(key[0] == name for key in explained))
    with now("agreement"):
        agreement = agreement_of(asking, explained, asked, networks, epochs, own_seed, controls)

    def every(name: str) -> dict[tuple[str, int], Any]:
        found = {key: getattr(value, name) for key, value in explained.items()}
        return {key: value for key, value in found.items() if value is not None}

    return Attributions(
        networks=networks,
        teachers=tuple(name for name in src.teachers if name in networks),
        students=src.students,
        epochs=epochs,
        seed=own_seed,
        method=method,
        stages={name: next(v.stage for k, v in explained.items() if k[0] == name) for name in networks},
        maps=every("maps"),
        asked=asked,
        asked_for=asked_for,
        logit=every("logit"),
        probability=every("probability"),
        predicted=every("predicted"),
        labels=src.target[shown],
        index=src.index[shown],
        class_names=_names(src.class_names, explained),
        images=pictures_of(src, shown),
        baseline=baseline if method in ("integrated_gradients", "occlusion") else "",
        steps=steps if method == "integrated_gradients" else 0,
        delta=every("delta"),
        change=every("change"),
        missing=tuple(missing),
        agreement=agreement,
    )


def _words(key: tuple[str, int]) -> str:
    return commas(key[0], at_epoch(key[1]))


def _classes(
    src: Source,
    class_: str | int,
    networks: Sequence[str],
    epochs: Sequence[int],
    seed: int,
    inputs: Any,
    shown: np.ndarray,
) -> tuple[np.ndarray, str]:
    """(m,) the class that every network is asked about, and whose it is in words."""
    if isinstance(class_, bool) or not isinstance(class_, str | int | np.integer):
        raise ConfigError(
            f"class_ must be 'label', 'teacher', 'student', a network or a number, not {class_!r}."
        )
    if not isinstance(class_, str):
        if int(class_) < 0:
            raise ConfigError(f"Classes are numbered from 0; there is no class {class_}.")
        known = len(src.class_names)
        said = src.class_names[int(class_)] if int(class_) < known else str(class_)
        return np.full(len(shown), int(class_), dtype=np.int64), f"the class {said}"
    if class_ == "label":
        return np.asarray(src.target[shown], dtype=np.int64), "the true class"
    groups = {"teacher": src.teachers, "student": [n for n in networks if n in src.students]}
    name = class_ if class_ in networks else next(iter(groups.get(class_, ())), None)
    if name is None:
        if class_ in groups:
            raise ConfigError(
                f"There is no {class_} whose prediction could be explained; use class_='label'."
            )
        raise unknown_name("class to explain", class_, ("label", *groups, *networks))
    own = src.presence([name], epochs, seed)[name]
    if not own:
        raise ConfigError(f"{name!r} has no snapshot at the epochs asked for; explain another one's class.")
    net = saliency.ready(src.net(name, own[-1], seed), name)
    return saliency.logits_of(net, inputs).argmax(dim=1).numpy(), f"the class that {name} predicts"


def _last_with_weights(
    src: Source, networks: Sequence[str], epochs: Sequence[int], seed: int
) -> tuple[int, ...]:
    """The last epoch at which the weights of all students are there that have a snapshot of it.

    A study that trains, or was killed, may have a later snapshot than checkpoint.
    """
    problem: CheckpointError | None = None
    for when in reversed(epochs):
        try:
            for name, there in src.presence(networks, [when], seed).items():
                if there:
                    src.net(name, when, seed)
        except CheckpointError as error:
            problem = problem or error
            continue
        return (when,)
    raise problem or CheckpointError("No weights of the students were kept; train the study first.")


def _check(method: str, baseline: str, steps: int, window: int | None, stride: int | None) -> None:
    if method not in METHODS:
        raise unknown_name("method of attribution", method, METHODS)
    if baseline not in BASELINES:
        raise unknown_name("baseline", baseline, BASELINES)
    whole(steps, "steps of integrated gradients", LEAST_STEPS)
    for what, value in (("window", window), ("stride", stride)):
        if value is not None:
            whole(value, f"The {what} of an occlusion, in pixels,", 1)
    if window is not None and stride is not None and stride > window:
        raise ConfigError(
            f"With a stride of {stride}, windows of {window} would leave pixels out; make it smaller."
        )


def _names(known: tuple[str, ...], explained: Mapping[Any, Explained]) -> tuple[str, ...]:
    """Names of all classes that a network can predict, also of those without a picture."""
    count = max(value.classes for value in explained.values())
    return known + tuple(str(c) for c in range(len(known), count))

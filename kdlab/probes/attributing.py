"""Putting one question to several networks: the maps behind `attributions`, and the controls of agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdlab.errors import CheckpointError, ConfigError, unknown_name
from kdlab.probes import saliency
from kdlab.probes.agreement import (
    COMPARISONS,
    SEED,
    SHUFFLED,
    STUDENTS,
    TEACHER,
    UNTRAINED,
    MapAgreement,
    chance_levels,
    compare_maps,
    merge,
    pointing_hits,
)
from kdlab.probes.progress import parts, steps
from kdlab.probes.saliency import METHODS
from kdlab.probes.sources import Source

_AT_ONCE = 32  # pictures of 64 x 64 in a batch; fewer larger ones, as memory goes with the pixels


@dataclass(frozen=True)
class Explained:
    """What one network says of all pictures."""

    maps: np.ndarray
    stage: str
    logit: np.ndarray
    probability: np.ndarray
    predicted: np.ndarray
    classes: int
    delta: np.ndarray | None = None
    change: np.ndarray | None = None


@dataclass(frozen=True)
class Asking:
    """The question that is put to every network."""

    src: Source
    shown: np.ndarray
    inputs: Tensor
    method: str
    stage: int | str | Mapping[str, int | str]
    baseline: str
    steps: int
    window: int | None
    stride: int | None

    def __call__(self, name: str, net: nn.Module, asked: np.ndarray) -> Explained:
        net = saliency.ready(net, name)
        parameter = next(net.parameters(), self.inputs)
        classes = torch.from_numpy(asked)
        logits = saliency.logits_of(net, self.inputs).double()
        if int(classes.max()) >= logits.shape[1]:
            raise ConfigError(
                f"Class {int(classes.max())} cannot be explained: {name!r} has {logits.shape[1]} classes."
            )
        if not torch.isfinite(logits).all():
            raise ConfigError(f"Some logits of {name!r} are NaN or infinite; the network has diverged.")
        stage, stage_name = 0, ""
        if self.method in ("gradcam", "attention"):
            net = saliency.staged(net, self.inputs)
            stage = _stage(name, net.stage_names, self.stage)
            stage_name = net.stage_names[stage]
        start = self._start()
        parts: list[Tensor] = []
        deltas: list[Tensor] = []
        changes: list[Tensor] = []
        size = max(1, min(_AT_ONCE, _AT_ONCE * 64 * 64 // int(np.prod(self.inputs.shape[2:]))))
        for low in steps(range(0, len(self.inputs), size)):
            rows = slice(low, low + size)
            batch, wanted = self.inputs[rows].to(parameter.device), classes[rows].to(parameter.device)
            with saliency.in_words(name):
                if self.method == "gradcam":
                    parts.append(saliency.grad_cam(net, batch, wanted, stage))  # type: ignore[arg-type]
                elif self.method == "attention":
                    parts.append(saliency.attention(net, batch, stage))  # type: ignore[arg-type]
                elif self.method == "occlusion":
                    window, stride = self._squares()
                    nothing = start[rows].to(parameter.device)
                    parts.append(
                        saliency.occlusion(net, batch, wanted, nothing, window=window, stride=stride)
                    )
                else:
                    nothing = start[rows].to(parameter.device)
                    path = saliency.integrated_gradients(
                        net, batch, wanted, nothing, steps=self.steps, at_once=2 * size
                    )
                    parts.append(path.maps)
                    deltas.append(path.delta)
                    changes.append(path.change)
        maps = torch.cat([part.cpu() for part in parts]).float().numpy()
        if not np.isfinite(maps).all():
            raise ConfigError(f"The attributions of {name!r} are not finite; the network has diverged.")

        def joined(values: list[Tensor]) -> np.ndarray | None:
            return torch.cat([value.cpu() for value in values]).double().numpy() if values else None

        own = classes[:, None]
        return Explained(
            maps=maps,
            stage=stage_name,
            logit=logits.gather(1, own)[:, 0].numpy(),
            probability=logits.softmax(dim=1).gather(1, own)[:, 0].numpy(),
            predicted=logits.argmax(dim=1).numpy(),
            classes=logits.shape[1],
            delta=joined(deltas),
            change=joined(changes),
        )

    def _squares(self) -> tuple[int, int]:
        window = self.window or max(1, min(self.inputs.shape[2:]) // 4)
        return window, self.stride or max(1, window // 2)

    def _start(self) -> Tensor:
        """(m, C, H, W) the baseline of every picture."""
        if self.baseline == "blur":
            return saliency.blurred(self.inputs, max(self.inputs.shape[2:]) / 8)
        if self.baseline == "black":
            color = _black(self.src, self.shown, self.inputs)
        else:
            few = np.linspace(0, len(self.src.target) - 1, min(len(self.src.target), 512)).astype(np.int64)
            color = self.src.inputs(few).mean(dim=(0, 2, 3))
        return color[None, :, None, None].expand_as(self.inputs).contiguous()


def agreement_of(
    asking: Asking,
    explained: Mapping[tuple[str, int], Explained],
    asked: np.ndarray,
    networks: Sequence[str],
    epochs: tuple[int, ...],
    seed: int,
    controls: bool,
) -> MapAgreement | None:
    """Agreement with the first teacher, and its controls; None without a teacher or a student."""
    src = asking.src
    students = tuple(name for name in networks if name in src.students)
    if not src.teachers or not students:
        return None
    teacher = src.teachers[0]
    scores: dict[tuple[str, int, str, str], np.ndarray] = {}
    chance: dict[tuple[str, str], float] = {}

    def keep(name: str, epoch: int, comparison: str, found: Mapping[str, np.ndarray]) -> None:
        scores.update({(name, epoch, comparison, measure): values for measure, values in found.items()})

    last = {name: max(when for who, when in explained if who == name) for name in students}
    twins: dict[str, np.ndarray] = {}
    if controls:
        with parts({"untrained networks": 1, "": 1})("untrained networks"):
            twins = _untrained(asking, asked, last, seed)
    for (name, epoch), own in steps(explained.items(), lambda one: one[0][0], share=0.5):
        if name not in students:
            continue
        theirs = explained[teacher, epoch].maps
        keep(name, epoch, TEACHER, compare_maps(own.maps, theirs))
        levels = chance_levels(own.maps, theirs)
        chance.update({(name, measure): value for measure, value in levels.items()})
        if len(theirs) > 1:
            keep(name, epoch, SHUFFLED, compare_maps(own.maps, np.roll(theirs, 1, axis=0)))
        if name in twins:
            keep(name, epoch, UNTRAINED, compare_maps(twins[name], theirs))
        others = [
            v.maps
            for (who, when), v in explained.items()
            if when == epoch and who in students and who != name
        ]
        if controls and others:
            keep(name, epoch, STUDENTS, merge([compare_maps(own.maps, other) for other in others]))
    if controls:
        for name, when in steps(last.items(), lambda one: f"another seed, {one[0]}"):
            again = _other_seed(asking, asked, name, when, seed)
            if again is not None:
                keep(name, when, SEED, compare_maps(explained[name, when].maps, again))
    truth = _objects(src, asking.shown)
    used = {comparison for _, _, comparison, _ in scores}
    what = METHODS[asking.method]
    return MapAgreement(
        students=students,
        roster=src.students,
        teacher=teacher,
        method=what,
        epochs=epochs,
        seed=seed,
        comparisons=tuple(comparison for comparison in COMPARISONS if comparison in used),
        scores=scores,
        chance=chance,
        hits={}
        if truth is None
        else {key: pointing_hits(value.maps, truth[0], truth[1]) for key, value in explained.items()},
        hit_chance=float("nan") if truth is None else float(truth[2]),
    )


def _untrained(
    asking: Asking, asked: np.ndarray, last: Mapping[str, int], seed: int
) -> dict[str, np.ndarray]:
    """Maps of an untrained network of each student's kind; made once for those of one architecture."""
    from kdlab.probes.untrained import untrained_twin

    src = asking.src
    fit = np.flatnonzero(src.fit)[:256]
    pictures = src.inputs(fit) if len(fit) > 1 else asking.inputs
    if len(pictures) < 2:
        return {}
    known: dict[Any, np.ndarray] = {}
    out = {}
    for name, when in steps(last.items(), lambda one: one[0]):
        net = saliency.ready(src.net(name, when, seed), name)
        kind = (type(net).__name__, tuple((k, tuple(v.shape)) for k, v in net.state_dict().items()))
        if kind not in known:
            try:
                twin = untrained_twin(net, pictures, seed)
            except ConfigError:  # a module of the user's that cannot be drawn anew: no such control
                continue
            known[kind] = asking(name, twin, asked).maps
        out[name] = known[kind]
    return out


def _other_seed(asking: Asking, asked: np.ndarray, name: str, epoch: int, seed: int) -> np.ndarray | None:
    """Maps of the same student of the next seed, at the same epoch; None where there are none."""
    src = asking.src
    for other in src.seeds:
        if other != seed and epoch in src.epochs(other, name):
            try:
                net = src.net(name, epoch, other)
            except CheckpointError:
                continue
            return asking(name, net, asked).maps
    return None


def _objects(src: Source, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Centre (m, 2), radius (m,) and mean covered share of the objects of `shapes`; None for other data."""
    if not {"position_x", "position_y", "size"} <= set(src.factors):
        return None
    from kdlab.data.shapes import FACTORS, places

    if any(src.factor_names.get(name) != FACTORS[name] for name in ("position_x", "position_y", "size")):
        return None
    centre, radius = places({name: np.asarray(values)[shown] for name, values in src.factors.items()})
    return centre, radius, float((np.pi * radius**2).mean())  # the discs never leave the picture


def _stage(name: str, names: Sequence[str], stage: int | str | Mapping[str, int | str]) -> int:
    """Number of the stage to look at."""
    wanted = stage.get(name, -1) if isinstance(stage, Mapping) else stage
    if isinstance(wanted, str):
        if wanted not in names:
            raise unknown_name(f"stage of {name}", wanted, names)
        return list(names).index(wanted)
    if isinstance(wanted, bool) or not -len(names) <= int(wanted) < len(names):
        raise ConfigError(
            f"There is no stage {wanted!r} of {name!r}, which has {len(names)}; count from 0, or from -1 at "
            "the deep end."
        )
    return int(wanted) % len(names)


def pictures_of(src: Source, shown: np.ndarray) -> np.ndarray:
    """(m, C, H, W) uint8."""
    if src.images is None:
        raise ConfigError("There are no pictures to look at; give images=... or data=...")
    return src.images[shown]


def _black(src: Source, shown: np.ndarray, inputs: Tensor) -> Tensor:
    """(C,) what black is as networks see it: the line that turns bytes into inputs, read at byte 0."""
    x, y = pictures_of(src, shown).astype(np.float64), inputs.double().numpy()
    out = []
    for channel in range(x.shape[1]):
        own, seen = x[:, channel].ravel(), y[:, channel].ravel()
        spread = own.var()
        slope = float(((own - own.mean()) * (seen - seen.mean())).mean() / spread) if spread > 0 else 0.0
        out.append(seen.mean() - slope * own.mean())
    return torch.tensor(out, dtype=inputs.dtype)

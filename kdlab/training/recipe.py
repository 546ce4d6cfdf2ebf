"""What a training recipe is: optimiser, learning-rate schedule, batch size, augmentation, length.

The recipes that are known by name stand in `kdlab.training.recipes`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn, optim

from kdlab.errors import ConfigError, unknown_name

_SHAPES = ("constant", "multistep", "cosine", "onecycle")
_OPTIMIZERS = ("sgd", "adamw")
_ONECYCLE_RISE = 0.2  # share of the steps, unless `warmup_epochs` says how many epochs


@dataclass(frozen=True)
class Recipe:
    """How one network is trained.

    Attributes:
        name: for records and messages.
        epochs: the full length.
        batch_size: images per step.
        lr: peak learning rate.
        shape: "constant"; "multistep" (times `gamma` after each of `milestones`); "cosine" (from
            `lr` to 0 over all steps); "onecycle" (linear up over the first fifth, cosine down).
        milestones: epochs after which the rate drops, for the full length `epochs`, ascending.
        gamma: factor at each milestone.
        optimizer: "sgd" or "adamw".
        momentum, nesterov, weight_decay: of the optimiser (momentum of SGD alone).
        augment: name of an augmentation in `kdlab.data`; None takes the data set's own default.
        drop_last: skip the last, smaller batch of an epoch.
        source: where the recipe is published, or "kdlab".
        warmup_epochs: the rate rises linearly over so many epochs at the beginning. A cosine starts
            where the rise ends; of "onecycle" this is the length of the rise itself; milestones are
            counted from the first epoch all the same.
        note: what was changed, for the record.

    Raises:
        ConfigError: a value that cannot work.

    >>> recipe = kdlab.training.Recipe("mine", epochs=10, lr=0.1, milestones=(5, 8))
    >>> [round(recipe.rate(epoch, step=0, steps_per_epoch=1), 4) for epoch in (5, 6, 9)]
    [0.1, 0.01, 0.001]
    >>> recipe.with_epochs(20).milestones
    (10, 16)
    """

    name: str
    epochs: int
    batch_size: int = 64
    lr: float = 0.05
    shape: str = "multistep"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    augment: str | None = None
    drop_last: bool = False
    source: str = "kdlab"
    warmup_epochs: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        if self.shape not in _SHAPES:
            raise unknown_name("learning-rate shape", self.shape, _SHAPES)
        if self.optimizer not in _OPTIMIZERS:
            raise unknown_name("optimizer", self.optimizer, _OPTIMIZERS)
        for key in ("epochs", "batch_size"):
            _require_whole(key, getattr(self, key), 1)
        if self.batch_size < 2:
            raise ConfigError("batch_size must be at least 2, because BatchNorm needs two images.")
        for key, fits, what in (
            ("lr", lambda v: v > 0, "a positive number"),
            ("gamma", lambda v: 0 < v <= 1, "a number above 0 and at most 1"),
            ("momentum", lambda v: 0 <= v < 1, "a number from 0 to below 1"),
            ("weight_decay", lambda v: v >= 0, "a number of at least 0"),
        ):
            value = getattr(self, key)
            if not (_is_number(value) and fits(value)):
                raise ConfigError(f"{key} must be {what}, not {value!r}.")
        for key in ("nesterov", "drop_last"):
            if not isinstance(getattr(self, key), bool):
                raise ConfigError(f"{key} must be True or False, not {getattr(self, key)!r}.")
        if self.optimizer == "sgd" and self.nesterov and not self.momentum:
            raise ConfigError("nesterov needs momentum above 0; set momentum=0.9 or nesterov=False.")
        if not (self.augment is None or isinstance(self.augment, str)):
            raise ConfigError(
                f"augment must be the name of an augmentation, not {self.augment!r}; give one of your own a "
                "name with kdlab.data.augment.register."
            )
        self._check_schedule()

    def _check_schedule(self) -> None:
        if not isinstance(self.milestones, list | tuple):
            raise ConfigError(f"milestones must be a list of epochs, not {self.milestones!r}.")
        object.__setattr__(self, "milestones", tuple(self.milestones))
        for milestone in self.milestones:
            _require_whole("each of the milestones", milestone, 1)
        if list(self.milestones) != sorted(self.milestones):
            raise ConfigError(f"milestones must be ascending epochs, not {self.milestones!r}.")
        if self.milestones and self.milestones[-1] > self.epochs:
            raise ConfigError(
                f"Milestone {self.milestones[-1]} lies behind the last epoch ({self.epochs}), so it would "
                "never come; leave it out, or give the length it is meant for as the recipe's epochs."
            )
        _require_whole("warmup_epochs", self.warmup_epochs, 0)
        if self.warmup_epochs >= self.epochs:
            raise ConfigError(
                f"warmup_epochs={self.warmup_epochs} leaves nothing of {self.epochs} epochs to train at the "
                "full rate; make it shorter."
            )

    @property
    def drops(self) -> tuple[int, ...]:
        """Epochs after which the learning rate drops; none for shapes that change it smoothly."""
        return tuple(self.milestones) if self.shape == "multistep" else ()

    # ---- changes --------------------------------------------------------------------------------------

    def with_epochs(self, epochs: int) -> Recipe:
        """The same recipe made shorter or longer; milestones and warm-up keep their share of the length.

        However short the run, no two milestones coincide and each comes before the last epoch; a run
        with fewer epochs than that takes leaves out the latest drops.

        Raises:
            ConfigError: `epochs` is no whole number of at least 1.
        """
        _require_whole("epochs", epochs, 1)
        if epochs == self.epochs:
            return self
        scale = epochs / self.epochs
        room = epochs - 1  # a drop after the last epoch would not be one
        count = min(len(self.milestones), room)
        scaled: list[int] = []
        for number, milestone in enumerate(self.milestones[:count]):
            first = scaled[-1] + 1 if scaled else 1
            last = room - (count - 1 - number)
            scaled.append(min(max(round(milestone * scale), first), last))
        warmup = min(max(round(self.warmup_epochs * scale), 1), room) if self.warmup_epochs else 0
        return replace(self, epochs=epochs, milestones=tuple(scaled), warmup_epochs=warmup)

    def with_batch_size(self, batch_size: int, scale_lr: bool = True) -> Recipe:
        """The same recipe with another batch size, and the rate changed by the same factor.

        The linear scaling rule (Goyal et al., arXiv:1706.02677); `note` tells that it was applied.

        Args:
            batch_size: images per step.
            scale_lr: False leaves the rate as it is.

        Raises:
            ConfigError: `batch_size` is no whole number of at least 2.
        """
        changed = replace(self, batch_size=batch_size)
        if batch_size == self.batch_size or not scale_lr:
            return changed
        rate = self.lr * batch_size / self.batch_size
        said = f"lr {self.lr:g} -> {rate:g}, scaled with batch_size {self.batch_size} -> {batch_size}"
        return replace(changed, lr=rate, note="; ".join(filter(None, [self.note, said])))

    # ---- use ------------------------------------------------------------------------------------------

    def rate(self, epoch: int, step: int, steps_per_epoch: int) -> float:
        """Learning rate of step `step` (from 0) of epoch `epoch` (from 1)."""
        total = self.epochs * steps_per_epoch
        at = (epoch - 1) * steps_per_epoch + step
        warmup = self.warmup_epochs * steps_per_epoch
        rise = min(1.0, (at + 1) / (warmup + 1))
        if self.shape == "constant":
            return self.lr * rise
        if self.shape == "multistep":
            return self.lr * self.gamma ** sum(epoch > m for m in self.milestones) * rise
        if rise < 1.0:
            return self.lr * rise
        done = (at - warmup) / (total - warmup)
        if self.shape == "onecycle" and not warmup:
            if done < _ONECYCLE_RISE:
                return self.lr * max(done / _ONECYCLE_RISE, 1 / max(total, 2))
            done = (done - _ONECYCLE_RISE) / (1 - _ONECYCLE_RISE)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * done))

    def make_optimizer(
        self, parameters: Iterable[nn.Parameter] | Sequence[Mapping[str, Any]]
    ) -> optim.Optimizer:
        """The optimiser; unless a group says otherwise all is decayed, as the public CIFAR code does.

        Args:
            parameters: parameters, or groups of them: mappings of "params" and, where they differ,
                "weight_decay" (the value) and "lr_scale" (a factor on the rate). Each group of the
                optimiser has its "lr_scale" (1 unless given), for whoever sets "lr" before each step.

        Raises:
            ConfigError: a group has no "params", another key, or a value that cannot work.
        """
        given: list[Any] = list(parameters)
        grouped = bool(given) and isinstance(given[0], Mapping)
        groups = [self._group(group) for group in (given if grouped else [{"params": given}])]
        every = [p for group in groups for p in group["params"]]
        fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in every)
        if self.optimizer == "adamw":
            return optim.AdamW(groups, lr=self.lr, weight_decay=self.weight_decay, fused=fused)
        return optim.SGD(
            groups,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=fused,
        )

    def _group(self, group: Mapping[str, Any]) -> dict[str, Any]:
        for key in group:
            if key not in ("params", "weight_decay", "lr_scale"):
                raise unknown_name("entry of a parameter group", key, ("params", "weight_decay", "lr_scale"))
        if "params" not in group:
            raise ConfigError("A parameter group needs its parameters under 'params'.")
        given = group["params"]
        full = {**group, "params": [given] if isinstance(given, nn.Parameter) else list(given)}
        full.setdefault("lr_scale", 1.0)
        for key in ("weight_decay", "lr_scale"):
            if key in full and not (_is_number(full[key]) and full[key] >= 0):
                raise ConfigError(
                    f"{key} of a parameter group must be a number of at least 0, not {full[key]!r}."
                )
        return full | {"lr": self.lr * full["lr_scale"]}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the record; `warmup_epochs` and `note` only where they say something."""
        plain = asdict(self) | {"milestones": list(self.milestones)}
        # older records do not have these two, and a teacher in the cache is found by these values
        return {k: v for k, v in plain.items() if v or k not in ("warmup_epochs", "note")}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require_whole(key: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{key} must be a whole number of at least {least}, not {value!r}.")

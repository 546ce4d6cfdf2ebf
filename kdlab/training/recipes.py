"""Training recipes by name: optimiser, learning-rate schedule, batch size, augmentation, length.

Sources are given with each recipe; where the length is changed, milestones move with it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch import nn, optim

from kdlab.errors import ConfigError, unknown_name

_SHAPES = ("constant", "multistep", "cosine", "onecycle")


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
        milestones: epochs after which the rate drops, for the full length `epochs`.
        gamma: factor at each milestone.
        optimizer: "sgd" or "adamw".
        momentum, nesterov, weight_decay: of the optimiser (momentum of SGD alone).
        augment: name of an augmentation in `kdlab.data`; None takes the data set's own default.
        drop_last: skip the last, smaller batch of an epoch.
        source: where the recipe is published, or "kdlab".
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        if self.shape not in _SHAPES:
            raise unknown_name("learning-rate shape", self.shape, _SHAPES)
        if self.optimizer not in ("sgd", "adamw"):
            raise unknown_name("optimizer", self.optimizer, ("sgd", "adamw"))
        for key in ("epochs", "batch_size"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{key} must be a whole number of at least 1, not {value!r}.")
        if self.batch_size < 2:
            raise ConfigError("batch_size must be at least 2, because BatchNorm needs two images.")
        if not (isinstance(self.lr, int | float) and math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"lr must be a positive number, not {self.lr!r}.")

    def with_epochs(self, epochs: int) -> Recipe:
        """The same recipe made shorter or longer; milestones keep their share of the length."""
        scale = epochs / self.epochs
        scaled = tuple(max(1, round(m * scale)) for m in self.milestones)
        return replace(self, epochs=epochs, milestones=scaled if epochs != self.epochs else self.milestones)

    def rate(self, epoch: int, step: int, steps_per_epoch: int) -> float:
        """Learning rate of step `step` (from 0) of epoch `epoch` (from 1)."""
        if self.shape == "constant":
            return self.lr
        if self.shape == "multistep":
            return self.lr * self.gamma ** sum(epoch > m for m in self.milestones)
        total = self.epochs * steps_per_epoch
        done = ((epoch - 1) * steps_per_epoch + step) / total
        if self.shape == "onecycle":
            if done < 0.2:
                return self.lr * max(done / 0.2, 1 / max(total, 2))
            done = (done - 0.2) / 0.8
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * done))

    def make_optimizer(self, parameters: list[nn.Parameter]) -> optim.Optimizer:
        """The optimiser over `parameters`; all of them are decayed, as the public CIFAR code does."""
        fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
        if self.optimizer == "adamw":
            return optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=fused)
        return optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=fused,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the record."""
        return asdict(self) | {"milestones": list(self.milestones)}


_CIFAR = dict(milestones=(150, 180, 210), augment="crop_flip")

RECIPES: dict[str, Recipe] = {
    r.name: r
    for r in (
        Recipe("cifar_240", 240, 64, 0.05, source="RepDistiller, mdistiller", **_CIFAR),  # type: ignore[arg-type]
        Recipe(
            "cifar_240_nesterov",
            240,
            64,
            0.05,
            nesterov=True,
            drop_last=True,
            source="CA-MKD, MMKD",
            **_CIFAR,  # type: ignore[arg-type]
        ),
        Recipe("reviewkd_240", 240, 128, 0.1, nesterov=True, source="ReviewKD", **_CIFAR),  # type: ignore[arg-type]
        Recipe(
            "ccskd_200",
            200,
            128,
            0.1,
            milestones=(60, 120, 160),
            gamma=0.2,
            augment="crop_flip_reflect",
            source="CCSKD",
        ),
        Recipe(
            "at_200",
            200,
            128,
            0.1,
            milestones=(60, 120, 160),
            gamma=0.2,
            augment="crop_flip_reflect",
            source="attention-transfer",
        ),
        Recipe(
            "ofd_200",
            200,
            128,
            0.1,
            milestones=(100, 150),
            nesterov=True,
            augment="crop_flip",
            source="overhaul-distillation",
        ),
        # CMKD lowers the rate *at* epochs 150 and 180, so after 149 and 179
        Recipe("cmkd", 200, 64, 0.05, milestones=(149, 179), augment="crop_flip", source="CMKD"),
        Recipe(
            "byot_200",
            200,
            128,
            0.1,
            milestones=(75, 130, 180),
            augment="crop_flip",
            source="public reproduction of BYOT",
        ),
        Recipe("cifar_quick", 30, 128, 0.1, "onecycle", nesterov=True, augment="crop_flip"),
        Recipe("lab_demo", 5, 128, 0.05, "cosine", nesterov=True, augment="none"),
        Recipe(
            "lab_small", 20, 64, 0.05, "cosine", nesterov=True, augment="none"
        ),  # for a thousand pictures or so
    )
}

_BY_DATA = {
    "cifar10": "cifar_quick",
    "cifar100": "cifar_quick",
    "svhn": "cifar_quick",
    "stl10": "cifar_quick",
    "digits": "lab_small",
}


def get_recipe(
    recipe: str | Recipe | dict[str, Any] | None,
    *,
    data_name: str = "",
    epochs: int | None = None,
    **changes: Any,
) -> Recipe:
    """A recipe by name, from plain values, or the default of a data set; then changed.

    Args:
        recipe: name, `Recipe`, mapping of its fields, or None for the default of `data_name`
            (`cifar_quick` for colour
            photographs, `lab_small` for digits, `lab_demo` otherwise).
        epochs: another length; milestones are scaled with it.
        **changes: other fields to replace; None leaves a field as it is.

    Raises:
        ConfigError: an unknown name or a value that cannot work.
    """
    if recipe is None:
        recipe = _BY_DATA.get(data_name, "lab_demo")
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise unknown_name("recipe", recipe, RECIPES)
        recipe = RECIPES[recipe]
    elif isinstance(recipe, dict):
        known = {f.name for f in fields(Recipe)}
        for key in recipe:
            if key not in known:
                raise unknown_name("field of a recipe", key, sorted(known))
        given: dict[str, Any] = {"name": "own", "epochs": 30} | recipe
        recipe = Recipe(**given)
    changed = {key: value for key, value in changes.items() if value is not None}
    if changed:
        recipe = replace(recipe, **changed)
    if epochs is not None:
        if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
            raise ConfigError(f"epochs must be a whole number of at least 1, not {epochs!r}.")
        recipe = recipe.with_epochs(epochs)
    return recipe

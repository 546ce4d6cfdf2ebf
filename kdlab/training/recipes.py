"""Training recipes by name, each with its source, and the way from what a user gives to a recipe."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from kdlab.data import augment as augmentations
from kdlab.errors import ConfigError, unknown_name
from kdlab.training.recipe import Recipe

__all__ = ["RECIPES", "Recipe", "get_recipe"]

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
        Recipe(
            "mlkd_240",
            240,
            64,
            0.025,
            source="Multi-Level-Logit-Distillation",  # the method brings the strong view along
            **_CIFAR,  # type: ignore[arg-type]
        ),
        # published as "constant for 120 epochs, then a step every 30": the first drop is after 150
        Recipe("dist_240", 240, 64, 0.05, source="DIST (image_classification_sota)", **_CIFAR),  # type: ignore[arg-type]
        Recipe(
            "tiny_imagenet",
            200,
            256,
            0.2,
            milestones=(60, 120, 160),
            augment="crop_flip_8",
            source="mdistiller, DOT; the crop is kdlab's",
        ),
        Recipe(
            "imagenet",
            100,
            512,
            0.2,
            milestones=(30, 60, 90),
            weight_decay=1e-4,
            augment="resized_crop_flip",
            source="mdistiller",
        ),
        Recipe(
            "imagenet_simkd",
            120,
            256,
            0.1,
            milestones=(30, 60, 90),
            weight_decay=1e-4,
            augment="resized_crop_flip",
            source="SimKD",
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
            (`cifar_quick` for colour photographs, `lab_small` for digits, `lab_demo` otherwise).
        epochs: another length; milestones are scaled with it.
        **changes: other fields to replace; None leaves a field as it is.

    Returns:
        the recipe.

    Raises:
        ConfigError: an unknown name or a value that cannot work.

    >>> kdlab.training.get_recipe("cifar_240").milestones
    (150, 180, 210)
    >>> kdlab.training.get_recipe("cifar_240", epochs=24).milestones
    (15, 18, 21)
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
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"A recipe is a name, a Recipe or a mapping of its fields, not {recipe!r}.")
    changed = {key: value for key, value in changes.items() if value is not None}
    if changed:
        recipe = replace(recipe, **changed)
    if recipe.augment is not None:
        augmentations.get(recipe.augment)  # known, or refused here and not in the middle of a study
    return recipe if epochs is None else recipe.with_epochs(epochs)

"""Learning rates and recipes as the sheets publish them."""

from __future__ import annotations

import pytest

from kdlab.errors import ConfigError, UnknownNameError
from kdlab.training.recipes import RECIPES, Recipe, get_recipe


def rates(recipe, epochs):
    return [round(recipe.rate(epoch, 0, 100), 10) for epoch in epochs]


def test_published_drops():
    assert rates(RECIPES["cifar_240"], [1, 150, 151, 180, 181, 210, 211, 240]) == [
        0.05, 0.05, 0.005, 0.005, 0.0005, 0.0005, 0.00005, 0.00005
    ]  # fmt: skip
    assert rates(RECIPES["cmkd"], [149, 150, 179, 180, 200]) == [0.05, 0.005, 0.005, 0.0005, 0.0005]
    assert rates(RECIPES["at_200"], [60, 61, 121, 161]) == [0.1, 0.02, 0.004, 0.0008]


def test_shorter_runs_keep_the_shares_of_the_milestones():
    short = get_recipe("cifar_240", epochs=24)
    assert short.milestones == (15, 18, 21) and rates(short, [15, 16]) == [0.05, 0.005]
    assert get_recipe("cifar_240", epochs=240) == RECIPES["cifar_240"]


def test_cosine_and_onecycle_run_from_start_to_end():
    cosine = get_recipe("lab_demo", epochs=10)
    steps = [cosine.rate(e, s, 5) for e in range(1, 11) for s in range(5)]
    assert steps[0] == 0.05 and steps == sorted(steps, reverse=True) and steps[-1] < 1e-4
    one = get_recipe("cifar_quick", epochs=10)
    steps = [one.rate(e, s, 5) for e in range(1, 11) for s in range(5)]
    assert (
        max(steps) == pytest.approx(0.1, rel=0.01) and steps.index(max(steps)) == 10 and 0 < steps[0] < 0.02
    )


def test_defaults_by_data_and_changes():
    assert get_recipe(None, data_name="cifar100").name == "cifar_quick"
    assert get_recipe(None, data_name="digits").name == "lab_small"
    changed = get_recipe("cifar_240", batch_size=32, lr=None)
    assert changed.batch_size == 32 and changed.lr == 0.05
    assert get_recipe({"lr": 0.3, "epochs": 4}).rate(1, 0, 1) == 0.3


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"epochs": 2.5},
        {"batch_size": True},
    ],
)
def test_values_that_cannot_work(bad):
    with pytest.raises(ConfigError):
        get_recipe(Recipe("own", 5).to_dict() | bad)


def test_unknown_names_list_the_nearest():
    with pytest.raises(UnknownNameError, match="cifar_240"):
        get_recipe("cifar_24")
    with pytest.raises(UnknownNameError, match="momentum"):
        get_recipe({"momentun": 0.9})
    with pytest.raises(UnknownNameError, match="multistep"):
        get_recipe({"shape": "multi"})

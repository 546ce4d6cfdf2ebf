"""Learning rates and recipes as the sheets publish them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kdlab
from kdlab.data import augment
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
    assert rates(RECIPES["mlkd_240"], [150, 151, 181, 211]) == [0.025, 0.0025, 0.00025, 0.000025]
    assert rates(RECIPES["dist_240"], [120, 150, 151, 211]) == [0.05, 0.05, 0.005, 0.00005]
    assert rates(RECIPES["tiny_imagenet"], [60, 61, 121, 161]) == [0.2, 0.02, 0.002, 0.0002]
    assert rates(RECIPES["imagenet"], [30, 31, 61, 91]) == [0.2, 0.02, 0.002, 0.0002]
    assert rates(RECIPES["imagenet_simkd"], [30, 31, 61, 120]) == [0.1, 0.01, 0.001, 0.0001]


def test_published_sizes_and_optimisers():
    table = {
        name: (r.epochs, r.batch_size, r.weight_decay, r.nesterov, r.momentum) for name, r in RECIPES.items()
    }
    assert table["mlkd_240"] == table["dist_240"] == table["cifar_240"] == (240, 64, 5e-4, False, 0.9)
    assert table["tiny_imagenet"] == (200, 256, 5e-4, False, 0.9)
    assert table["imagenet"] == (100, 512, 1e-4, False, 0.9)
    assert table["imagenet_simkd"] == (120, 256, 1e-4, False, 0.9)


def test_every_recipe_can_be_used():
    for name, recipe in RECIPES.items():
        assert recipe.name == name and recipe.source
        assert augment.get(recipe.augment)
        assert Recipe(**recipe.to_dict()) == recipe
        assert get_recipe(name) is recipe


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


# ---- short runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "epochs", "milestones"),
    [
        ("cifar_240", 1, ()),
        ("cifar_240", 2, (1,)),
        ("cifar_240", 3, (1, 2)),
        ("cifar_240", 4, (1, 2, 3)),
        ("cifar_240", 5, (2, 3, 4)),
        ("cifar_240", 10, (6, 8, 9)),
        ("at_200", 5, (2, 3, 4)),
        ("at_200", 10, (3, 6, 8)),
        ("cmkd", 2, (1,)),
        ("cmkd", 3, (1, 2)),
        ("cmkd", 10, (7, 9)),
        ("cifar_240", 480, (300, 360, 420)),
    ],
)
def test_milestones_of_other_lengths(name, epochs, milestones):
    assert get_recipe(name, epochs=epochs).milestones == milestones


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.milestones])
def test_short_runs_drop_once_at_a_time_and_inside_the_run(name):
    full = RECIPES[name]
    for epochs in range(1, 40):
        short = full.with_epochs(epochs)
        assert len(short.milestones) == min(len(full.milestones), epochs - 1)
        assert len(set(short.milestones)) == len(short.milestones)
        assert all(1 <= m < epochs for m in short.milestones)
        by_epoch = rates(short, range(1, epochs + 1))
        for before, after in itertools.pairwise(by_epoch):
            assert after == pytest.approx(before) or after == pytest.approx(before * full.gamma, rel=1e-3)


# ---- warm-up ----------------------------------------------------------------------------------------


def every_rate(recipe, steps_per_epoch=5):
    return [recipe.rate(e, s, steps_per_epoch) for e in range(1, recipe.epochs + 1) for s in range(5)]


@pytest.mark.parametrize("shape", ["constant", "multistep", "cosine", "onecycle"])
def test_warm_up_rises_linearly_to_the_full_rate(shape):
    recipe = Recipe("own", 10, lr=0.1, shape=shape, milestones=(6,), warmup_epochs=2)
    seen = every_rate(recipe)
    assert seen[:10] == pytest.approx([0.1 * (i + 1) / 11 for i in range(10)])
    assert seen[10] == max(seen) == pytest.approx(0.1)
    later = {
        "constant": [0.1] * 40,
        "multistep": [0.1] * 20 + [0.01] * 20,
        "cosine": every_rate(Recipe("own", 8, lr=0.1, shape="cosine")),
        "onecycle": every_rate(Recipe("own", 8, lr=0.1, shape="cosine")),
    }
    assert seen[10:] == pytest.approx(later[shape])


def test_warm_up_is_scaled_with_the_length():
    recipe = Recipe("own", 100, warmup_epochs=5, milestones=(50,))
    lengths = {n: recipe.with_epochs(n).warmup_epochs for n in (1, 2, 3, 10, 40, 200)}
    assert lengths == {1: 0, 2: 1, 3: 1, 10: 1, 40: 2, 200: 10}
    assert recipe.with_epochs(100) is recipe


def test_new_fields_stay_out_of_records_that_do_not_need_them():
    """A teacher in the cache, and a study made before there was a warm-up, are found by these values."""
    plain = RECIPES["cifar_240"].to_dict()
    assert "warmup_epochs" not in plain and "note" not in plain
    warm = get_recipe("cifar_240", warmup_epochs=3).to_dict()
    assert warm["warmup_epochs"] == 3 and Recipe(**warm).warmup_epochs == 3


# ---- batch size and optimiser -----------------------------------------------------------------------


def test_batch_size_scales_the_rate_and_says_so():
    recipe = RECIPES["cifar_240"]
    twice = recipe.with_batch_size(128)
    assert (twice.batch_size, twice.lr) == (128, pytest.approx(0.1))
    assert twice.note == "lr 0.05 -> 0.1, scaled with batch_size 64 -> 128"
    assert twice.to_dict()["note"] == twice.note
    assert recipe.with_batch_size(128, scale_lr=False).to_dict() == recipe.to_dict() | {"batch_size": 128}
    assert recipe.with_batch_size(64) == recipe
    back = twice.with_batch_size(64)
    assert back.lr == pytest.approx(0.05) and back.note.count("scaled") == 2
    with pytest.raises(ConfigError, match="at least 2"):
        recipe.with_batch_size(1)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": -0.1}, "momentum"),
        ({"weight_decay": -1e-4}, "weight_decay"),
        ({"weight_decay": "5e-4"}, "weight_decay"),
        ({"gamma": 0.0}, "gamma"),
        ({"gamma": 1.5}, "gamma"),
        ({"milestones": [3, 2]}, "ascending"),
        ({"milestones": [0]}, "milestones"),
        ({"milestones": [1.5]}, "milestones"),
        ({"milestones": "12"}, "list of epochs"),
        ({"milestones": [6]}, "behind the last epoch"),
        ({"warmup_epochs": 5}, "leaves nothing"),
        ({"warmup_epochs": -1}, "warmup_epochs"),
        ({"warmup_epochs": 0.5}, "warmup_epochs"),
        ({"nesterov": 1}, "nesterov"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs momentum"),
        ({"augment": 3}, "augment"),
        ({"augment": "crop_flop"}, "crop_flip"),
    ],
)
def test_fields_are_checked(bad, said):
    with pytest.raises(ConfigError, match=said):
        get_recipe(Recipe("own", 5).to_dict() | bad)


def test_what_is_no_recipe():
    with pytest.raises(ConfigError, match="a name, a Recipe or a mapping"):
        get_recipe(3)


def parameters():
    return [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_parameter_groups_have_their_own_decay_and_rate(optimizer):
    first, second = parameters()
    recipe = Recipe("own", 5, lr=0.1, weight_decay=0.01, optimizer=optimizer)
    made = recipe.make_optimizer(
        [{"params": iter([first])}, {"params": [second], "weight_decay": 0.0, "lr_scale": 5.0}]
    )
    assert [g["lr_scale"] for g in made.param_groups] == [1.0, 5.0]
    assert [g["lr"] for g in made.param_groups] == [pytest.approx(0.1), pytest.approx(0.5)]
    assert [g["weight_decay"] for g in made.param_groups] == [0.01, 0.0]
    first.grad, second.grad = torch.zeros(3), torch.zeros(2)
    made.step()
    assert (first < 1).all() and (second == 1).all()  # no gradient: only what is decayed moves
    assert [g["lr_scale"] for g in made.state_dict()["param_groups"]] == [1.0, 5.0]


def test_plain_parameters_make_one_group():
    given = parameters()
    (group,) = Recipe("own", 5).make_optimizer(given).param_groups
    assert all(a is b for a, b in zip(group["params"], given, strict=True))
    assert (group["lr"], group["lr_scale"], group["momentum"]) == (0.05, 1.0, 0.9)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ({"params": [], "lr": 0.1}, "no entry of a parameter group named 'lr'"),
        ({"weight_decay": 0.1}, "under 'params'"),
        ({"params": [], "lr_scale": -1.0}, "lr_scale"),
        ({"params": [], "weight_decay": float("nan")}, "weight_decay"),
    ],
)
def test_wrong_groups_are_refused(group, said):
    with pytest.raises(ConfigError, match=said):
        Recipe("own", 5).make_optimizer([group])


@pytest.mark.parametrize(
    ("recipe", "shown"),
    [
        ({"recipe": "cifar_240"}, ["recipe='cifar_240'", "epochs=240"]),
        ({"recipe": "cifar_240", "epochs": 24}, ["recipe='cifar_240'", "epochs=24"]),
        (
            {"recipe": "lab_small", "epochs": 7, "batch_size": 16, "augment": "none"},
            ["recipe='lab_small'", "epochs=7", "batch_size=16"],
        ),
        ({"recipe": "lab_demo", "lr": 0.3}, ["recipe='lab_demo'", "lr=0.3"]),
        (
            {"recipe": Recipe("lab_demo", epochs=10, lr=0.1, milestones=(5, 8), shape="multistep")},
            [
                "    recipe={\n        'name': 'lab_demo',\n        'epochs': 10,\n",
                "\n    },\n    epochs=10,",
            ],
        ),
    ],
    ids=["named", "shorter", "changed", "rate", "own"],
)
def test_the_code_of_a_study_tells_its_recipe_briefly(
    recipe: dict[str, Any], shown: list[str], tmp_path: Path
) -> None:
    study = kdlab.Study("digits", student="resnet8", students={"alone": "ce"}, folder=tmp_path, **recipe)
    code = study.code()
    assert [text for text in shown if text not in code] == []
    assert max(map(len, code.splitlines())) < 100
    names: dict[str, Any] = {}
    exec(
        code.replace(repr(f"{tmp_path.name}-again"), repr(str(tmp_path / "a"))).replace("study.fit()", ""),
        names,
    )
    assert names["study"].recipe == study.recipe

"""Every published reference value of kdlab.losses (tests/reference_values.json says how a case is run)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdlab import losses

CASES = json.loads(Path(__file__).with_name("reference_values.json").read_text())["cases"]
CASES = [case for case in CASES if case["function"].startswith("kdlab.losses.")]


def function(path: str) -> Any:
    return getattr(losses, path.removeprefix("kdlab.losses."))


def draw(spec: dict[str, Any], dtype: torch.dtype) -> Tensor:
    shape = spec["shape"]
    if spec["kind"] == "randint":
        return torch.randint(spec["low"], spec["high"], shape)
    if spec["kind"] == "closed_form":
        i = torch.arange(math.prod(shape), dtype=torch.float64)
        values = spec["scale"] * torch.sin(spec["a"] * i + spec["b"] + 0.1 * i * i) + spec["shift"]
        return values.reshape(shape).to(dtype)
    values = {"randn": torch.randn, "rand": torch.rand}[spec["kind"]](shape)
    return values.to(dtype) * spec["scale"] + spec["shift"]


def inputs(case: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(case["seed"])
    values: dict[str, Any] = {}
    for spec in case["inputs"]:
        name, _, listed = spec["name"].partition("[")
        value = draw(spec, getattr(torch, case["dtype"]))
        if listed:
            values.setdefault(name, []).append(value)
        else:
            values[name] = value
    return values


def test_every_function_of_the_functional_api_has_a_reference_value() -> None:
    helpers = {"align", "attention_map", "cross_entropy", "decompose", "feature_mse", "gap", "kd_per_sample"}
    helpers |= {"nckd", "pool_to", "rkd_angle", "rkd_distance", "tckd", "Decomposition"}
    helpers |= {"dist_inter", "dist_intra", "nkd_target", "nkd_non_target"}  # parts of what is checked here
    # DCKD and MLKD have worked values in their sheets: tests/test_methods_dckd.py, test_methods_mlkd.py
    helpers |= {"hybrid_target", "gated_nckd", "surer_teacher", "instance_alignment", "batch_alignment"}
    helpers |= {"class_alignment", "unsure_samples", "rare_classes"}
    # several teachers and exits: worked values in tests/test_methods_teachers.py, _gpac.py and _byot.py
    helpers |= {"kd_per_teacher", "entropy_weights", "confidence_weights", "confidence_feature"}
    helpers |= {
        "gradient_weights",
        "gradient_weighted_features",
        "shortest_mix",
        "min_norm_weights",
        "corrected_kd",
    }
    helpers |= {"soft_cross_entropy", "active_difference"}
    # worked values in tests/test_methods_features.py, _ofd.py, _crd.py; options in _relations.py
    helpers |= {"vid", "ofd", "expected_negative", "noise_contrastive", "similarities", "unit_rows"}
    helpers |= {"guided_kd", "kernel_congruence"}
    helpers |= {"smoothed_labels", "even_others", "reversed_others"}  # test_losses_controls.py
    checked = {case["function"].removeprefix("kdlab.losses.") for case in CASES} | {"standardize_logits"}
    assert checked == set(losses.__all__) - helpers


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_reference_value(case: dict[str, Any]) -> None:
    values = inputs(case)
    first = next(iter(values))
    values[first].requires_grad_()
    given = dict(values)
    for name in case.get("pre", {}).get("apply_to", ()):
        given[name] = function(case["pre"]["function"])(given[name], **case["pre"]["kwargs"])
    result = function(case["function"])(*given.values(), **case["kwargs"])
    assert result.shape == ()
    if case["quantity"] == "grad_norm_student":
        (gradient,) = torch.autograd.grad(result, values[first])
        result = gradient.norm()
    tolerance = max(case["rtol"] * abs(case["value"]), case["atol"])
    assert abs(result.item() - case["value"]) <= tolerance

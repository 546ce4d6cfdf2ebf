"""Attributions against captum and hand-made networks; agreement of maps against closed forms; the figures."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_study import FakeStudy
from torch import Tensor, nn

import kdlab
from kdlab import models, plots
from kdlab.errors import CheckpointError, ConfigError, UnknownNameError
from kdlab.probes import saliency
from kdlab.probes.agreement import (
    SEED,
    SHUFFLED,
    STUDENTS,
    TEACHER,
    UNTRAINED,
    MapAgreement,
    chance_levels,
    compare_maps,
    expected_iou,
    pointing_hits,
    relative,
    resized,
    strongest,
)
from kdlab.probes.attention import attention_maps
from kdlab.probes.attribution import Attributions, attributions
from kdlab.probes.result import load_result
from kdlab.probes.sources import as_source
from tests.small_study import small


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> kdlab.Study:
    folder = tmp_path_factory.mktemp("explained")
    return small(folder, seeds=2, keep="none").fit(progress=False)


@pytest.fixture(scope="module")
def result(study: kdlab.Study) -> Attributions:
    return attributions(study, range(12), stage="layer1")


class Linear(nn.Module):
    """Logits linear in the pixels: attributions are known in closed form."""

    def __init__(self, classes: int = 3, size: int = 8) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * size * size, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


class Steps(nn.Module):
    """A module that works in place wherever it can."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x += 0.1
        x = self.act(x)
        x = self.act(self.second(x))
        return self.fc(x.mean((2, 3)))


def pictures(n: int = 6, channels: int = 3, size: int = 32) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def explain(nets: Mapping[str, nn.Module], images: Tensor, classes: int, **options: Any) -> Attributions:
    labels = np.arange(len(images)) % classes
    return attributions(dict(nets), images=images, target=labels, **options)


# ---- single networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layer"),
    [("resnet18", "layer4"), ("mobilenet_v2", "features.17"), ("vgg11", "features.19")],
)
def test_grad_cam_equals_captum_on_networks_with_in_place_activations(name: str, layer: str) -> None:
    from captum.attr import LayerGradCam
    from torchvision.models import get_model

    net = get_model(name, weights=None, num_classes=5).eval()
    images, target = pictures(3, size=48), torch.tensor([0, 1, 2])
    found = explain({"net": net}, images, 5)
    copy = saliency.ready(net)
    wanted = LayerGradCam(copy, copy.get_submodule(layer)).attribute(
        images, target=target, relu_attributions=True
    )
    own = found.maps["net", -1]
    size = float(wanted.detach().max())
    np.testing.assert_allclose(own, wanted[:, 0].detach().numpy(), atol=1e-5 * size)
    assert size > 0 and (own >= 0).all()
    assert not any(p.grad is not None for p in net.parameters())  # the user's network is left alone


def test_grad_cam_of_a_kdlab_network_equals_captum_at_every_stage() -> None:
    from captum.attr import LayerGradCam

    net = models.build("resnet8", 4, 3).eval()
    images, target = pictures(4, size=16), torch.arange(4)
    for number, stage in enumerate(net.stage_names):
        found = explain({"net": net}, images, 4, stage=stage)
        assert found.stages == {"net": stage}
        layer = LayerGradCam(lambda x: net(x), net.get_submodule(stage))
        wanted = layer.attribute(images, target=target, relu_attributions=True)[:, 0].detach().numpy()
        np.testing.assert_allclose(found.maps["net", -1], wanted, atol=1e-6 * max(wanted.max(), 1e-3))
        both = saliency.grad_cam(net, images, target, number, relu=False)
        np.testing.assert_allclose(both.relu().numpy(), found.maps["net", -1], atol=1e-6)


def test_the_deepest_stage_before_the_average_explains_the_logit() -> None:
    """Where the classifier reads the average of the map, Grad-CAM without ReLU adds up to logit less bias."""
    net = models.build("resnet8", 4, 3).eval()
    images, target = pictures(4, size=16), torch.arange(4)
    cam = saliency.grad_cam(net, images, target, -1, relu=False)
    with torch.no_grad():
        logit = net(images).gather(1, target[:, None])[:, 0] - net.classifier.bias[target]
    torch.testing.assert_close(cam.sum((1, 2)), logit, rtol=1e-4, atol=1e-5)


def test_integrated_gradients_and_occlusion_of_a_linear_network() -> None:
    torch.manual_seed(0)
    net, images = Linear(), pictures(6, 2, 8)
    classes = torch.arange(6) % 3
    weight = net.fc.weight.detach()[classes].reshape(6, 2, 8, 8)
    mean = images.mean(dim=(0, 2, 3))[None, :, None, None]
    own = {"mean": mean.expand_as(images), "black": images.amin(dim=(0, 2, 3), keepdim=True)}
    for baseline, start in own.items():
        found = explain({"net": net}, images, 3, method="integrated_gradients", baseline=baseline)
        wanted = (weight * (images - start)).sum(1).numpy()
        np.testing.assert_allclose(found.maps["net", -1], wanted, atol=2e-2 if baseline == "black" else 1e-5)
        assert np.abs(found.delta["net", -1]).max() < 1e-5
        np.testing.assert_allclose(found.change["net", -1], wanted.sum((1, 2)), atol=0.2)
    pixel = explain({"net": net}, images, 3, method="occlusion", window=1, stride=1)
    np.testing.assert_allclose(pixel.maps["net", -1], (weight * (images - mean)).sum(1).numpy(), atol=1e-5)
    whole = explain({"net": net}, images, 3, method="occlusion", window=8)
    drop = (weight * (images - mean)).sum((1, 2, 3)).numpy()
    np.testing.assert_allclose(whole.maps["net", -1], drop[:, None, None] * np.ones((1, 8, 8)), atol=1e-4)


def test_integrated_gradients_equal_captum_and_tell_their_error() -> None:
    from captum.attr import IntegratedGradients

    net = models.build("resnet8", 4, 3).eval()
    images, target = pictures(3, size=16), torch.arange(3)
    blur = saliency.blurred(images, 2.0)
    found = explain({"net": net}, images, 4, method="integrated_gradients", baseline="blur", steps=60)
    values, delta = IntegratedGradients(net).attribute(
        images, blur, target=target, n_steps=60, return_convergence_delta=True
    )
    np.testing.assert_allclose(found.maps["net", -1], values.sum(1).detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(found.delta["net", -1], delta.numpy(), atol=1e-4)
    total = found.maps["net", -1].astype(np.float64).sum((1, 2))
    np.testing.assert_allclose(total - found.change["net", -1], found.delta["net", -1], atol=1e-4)
    assert "60 steps from the baseline (blur)" in found.summary


def test_blur_keeps_even_pictures_and_the_mean_inside() -> None:
    even = torch.full((1, 2, 9, 7), 0.3)
    torch.testing.assert_close(saliency.blurred(even, 2.0), even)
    dot = torch.zeros(1, 1, 41, 41)
    dot[..., 20, 20] = 1
    out = saliency.blurred(dot, 2.0)[0, 0]
    assert float(out.sum()) == pytest.approx(1.0, abs=1e-4)
    assert float(out[20, 22] / out[20, 20]) == pytest.approx(np.exp(-0.5), rel=1e-4)


def test_black_and_mean_are_those_of_the_data_set() -> None:
    from kdlab.probes.attributing import _black

    src = as_source({"net": models.build("resnet8", 10, 1)}, data="digits", n=40)
    shown = np.flatnonzero(~src.fit)[:8]
    data = kdlab.data.load("digits")
    wanted = data.normalize(torch.zeros(1, 1, 1, 1, dtype=torch.uint8)).flatten()
    torch.testing.assert_close(_black(src, shown, src.inputs(shown)), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", sorted(saliency.METHODS))
def test_in_place_networks_are_explained_and_left_as_they_were(method: str) -> None:
    torch.manual_seed(0)
    net, images = Steps().train(), pictures(4, size=8)
    kept, before = images.clone(), {k: v.clone() for k, v in net.state_dict().items()}
    found = explain({"net": net}, images, 4, method=method)
    assert torch.equal(images, kept) and net.training and net.act.inplace
    assert all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    with torch.no_grad():
        logits = Steps.forward(net, images.clone()).numpy()
    np.testing.assert_allclose(found.logit["net", -1], logits[np.arange(4), np.arange(4)], atol=1e-5)
    assert found.signed == (method in ("integrated_gradients", "occlusion"))


def test_what_gradients_cannot_pass_is_said() -> None:
    class Breaks(Steps):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.sigmoid(self.first(x))
            x *= 2  # autograd needed the values of before
            return self.fc(torch.sigmoid(self.second(x)).mean((2, 3)))

    images = pictures(4, size=8)
    with pytest.raises(ConfigError, match=r"in place .* use method='occlusion'"):
        explain({"net": Breaks()}, images, 4, method="integrated_gradients")
    assert explain({"net": Breaks()}, images, 4, method="occlusion").maps["net", -1].shape == (4, 8, 8)


# ---- which class, which pictures ---------------------------------------------------------------------------


def test_all_networks_are_asked_about_one_class(study: kdlab.Study) -> None:
    views = {name: study.snapshot(name).logits[~study.probe_set.fit][:6] for name in ("resnet8", "alone")}
    label = attributions(study, range(6), controls=False)
    assert (label.asked == label.labels).all() and "for the true class" in label.summary
    teacher = attributions(study, range(6), class_="teacher", controls=False)
    assert (teacher.asked == views["resnet8"].argmax(1)).all()
    student = attributions(study, range(6), class_="student", controls=False)
    assert (student.asked == views["alone"].argmax(1)).all() and "alone predicts" in student.summary
    named = attributions(study, range(6), class_="KD", controls=False)
    assert (named.asked == named.predicted["KD", 3]).all()
    fixed = attributions(study, range(6), class_=7, controls=False)
    assert (fixed.asked == 7).all() and fixed.asked_for == "the class 7"
    assert np.abs(fixed.maps["KD", 3] - label.maps["KD", 3]).max() > 0
    places = np.flatnonzero(~study.probe_set.fit)[[3, 0]]
    some = attributions(study, [3, 0], controls=False)
    assert (some.index == study.probe_set.index.numpy()[places]).all()
    np.testing.assert_allclose(some.maps["KD", 3], label.maps["KD", 3][[3, 0]], atol=1e-6)


def test_probabilities_are_those_of_the_snapshots(result: Attributions, study: kdlab.Study) -> None:
    logits = study.snapshot("KD").logits[~study.probe_set.fit][:12].astype(np.float64)
    rows = np.arange(12)
    np.testing.assert_allclose(result.logit["KD", 3], logits[rows, result.asked], atol=1e-3)
    p = np.exp(logits - logits.max(1, keepdims=True))
    wanted = (p / p.sum(1, keepdims=True))[rows, result.asked]
    np.testing.assert_allclose(result.probability["KD", 3], wanted, atol=1e-3)
    assert len(result.to_frame()) == 3 * 12


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"method": "lime"}, UnknownNameError, "method of attribution"),
        ({"samples": [999]}, ConfigError, "samples must lie in"),
        ({"samples": []}, ConfigError, "samples is empty"),
        ({"class_": 10}, ConfigError, "has 10 classes"),
        ({"class_": -1}, ConfigError, "numbered from 0"),
        ({"class_": "nobody"}, UnknownNameError, "class to explain"),
        ({"class_": 1.5}, ConfigError, "class_ must be"),
        ({"stage": "layer9"}, UnknownNameError, "stage of resnet8"),
        ({"stage": 3}, ConfigError, "which has 3"),
        ({"steps": 20}, ConfigError, "from 50 on"),
        ({"baseline": "white"}, UnknownNameError, "baseline"),
        ({"window": 2, "stride": 4}, ConfigError, "leave pixels out"),
        ({"window": 0}, ConfigError, "in pixels, must be a whole number"),
        ({"students": "nobody"}, UnknownNameError, "student named"),
        ({"epoch": 9}, ConfigError, "no snapshot of epoch 9"),
        ({"epoch": 1}, CheckpointError, "No checkpoint"),
    ],
)
def test_attributions_refuse(
    study: kdlab.Study, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        attributions(study, **options)


def test_features_are_refused() -> None:
    with pytest.raises(ConfigError, match="features"):
        attributions({"a": np.zeros((4, 3))}, target=[0, 1, 0, 1], images=np.zeros((4, 1, 8, 8), np.uint8))
    with pytest.raises(ConfigError, match="no class|no teacher"):
        explain({"net": Steps()}, pictures(4, size=8), 4, class_="teacher")


def test_epochs_without_weights_are_left_out(study: kdlab.Study) -> None:
    found = attributions(study, range(4), epoch="all")
    assert found.epochs == (0, 3)
    assert found.missing == (("alone", 1), ("alone", 2), ("KD", 1), ("KD", 2))
    assert found.maps["resnet8", 0] is found.maps["resnet8", 3]  # a teacher is asked once
    start = found.agreement
    assert start is not None
    same = start.scores["alone", 0, STUDENTS, "cosine"]
    np.testing.assert_allclose(same[np.isfinite(same)], 1.0)  # all students start from the same weights
    assert [frame.name for frame in plots.attribution(found).frames] == ["0", "3"]
    assert [frame.name for frame in plots.attribution_agreement(found).frames] == ["0", "3"]


def test_a_snapshot_later_than_the_last_checkpoint_is_passed_over(study: kdlab.Study) -> None:
    src = as_source(study)
    whole = src.read_net

    def read(network: str, epoch: int, seed: int) -> nn.Module:
        if epoch == 3:
            raise CheckpointError("No checkpoint was kept after epoch 3.")
        assert whole is not None
        return whole(network, epoch, seed)

    src.read_net = read
    found = attributions(src, range(3), controls=False)
    assert found.epochs == (0,) and found.networks == ("resnet8", "alone", "KD")
    with pytest.raises(CheckpointError, match="epoch 3"):
        attributions(src, range(3), epoch=3)
    assert attributions(src, range(3), epoch="all", controls=False).epochs == (0,)


# ---- agreement ---------------------------------------------------------------------------------------------


def test_measures_agree_with_scipy_and_plain_counting() -> None:
    from scipy.stats import spearmanr

    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 5, 6, 6))
    a[0] = np.round(a[0])  # ties
    found = compare_maps(a, b)
    for i in range(5):
        assert found["spearman"][i] == pytest.approx(spearmanr(a[i].ravel(), b[i].ravel()).statistic)
        wanted = (a[i] * b[i]).sum() / np.linalg.norm(a[i]) / np.linalg.norm(b[i])
        assert found["cosine"][i] == pytest.approx(wanted)
        if i:  # without ties the strongest fifth of 36 cells are 7
            top = [set(np.argsort(-x[i].ravel())[:7].tolist()) for x in (a, b)]
            assert found["iou"][i] == pytest.approx(len(top[0] & top[1]) / len(top[0] | top[1]))
    same = compare_maps(a, 3 * a)
    for measure, value in (
        ("spearman", 1),
        ("cosine", 1),
        ("iou", 1),
        ("same_peak", 1),
        ("peak_distance", 0),
    ):
        np.testing.assert_allclose(same[measure], value, atol=1e-12, err_msg=measure)
    against = compare_maps(a, -a)
    np.testing.assert_allclose(against["spearman"], -1)
    assert (against["iou"][1:] == 0).all()


def test_shifts_and_scales() -> None:
    a, b = np.random.default_rng(1).random((2, 4, 5, 5))
    plain, moved = compare_maps(a, b), compare_maps(7 * a + 2, np.exp(b))
    for measure in ("spearman", "iou", "same_peak", "peak_distance"):  # of ranks alone
        np.testing.assert_allclose(plain[measure], moved[measure], err_msg=measure)
    np.testing.assert_allclose(compare_maps(7 * a, b)["cosine"], plain["cosine"])
    np.testing.assert_allclose(np.sqrt(np.square(relative(5 * a)).mean((1, 2))), 1.0)


def test_even_and_dead_maps_are_not_compared() -> None:
    a = np.random.default_rng(2).random((3, 4, 4))
    dead = a.copy()
    dead[1], dead[2] = 0, 0.25
    found = compare_maps(a, dead)
    for values in found.values():
        assert np.isfinite(values[0]) and np.isnan(values[1:]).all()
    assert (relative(dead)[1] == 0).all()


def test_zeros_do_not_count_as_strong() -> None:
    a, b = np.zeros((2, 1, 5, 5))
    a[0, 0, 0], b[0, 4, 4] = 1, 1  # one spot each, at opposite corners; the rest are ties at 0
    found = compare_maps(a, b)
    assert found["iou"] == 0 and found["peak_distance"][0] == pytest.approx(0.8)
    assert strongest(a.reshape(1, -1)).sum() == 1


def test_chance_is_exact() -> None:
    cells, k = 6, 2
    sets = [set(c) for c in itertools.combinations(range(cells), k)]
    wanted = np.mean([len(p & q) / len(p | q) for p in sets for q in sets])
    assert expected_iou(cells, k, k) == pytest.approx(wanted)
    assert expected_iou(10000, 2000, 2000) == pytest.approx(0.2 / 1.8, abs=1e-3)
    generator = np.random.default_rng(3)
    a, b = generator.random((2, 4000, 5, 4))
    found, chance = compare_maps(a, b), chance_levels(a, b)
    for measure, level in chance.items():
        error = found[measure].std() / np.sqrt(4000)
        assert abs(found[measure].mean() - level) < 4 * error, measure
    assert "cosine" not in chance


def test_grids_are_averaged_down_and_grown() -> None:
    fine = np.arange(16.0).reshape(1, 4, 4)
    np.testing.assert_allclose(resized(fine, (2, 2)), [[[2.5, 4.5], [10.5, 12.5]]])
    assert compare_maps(fine, resized(fine, (2, 2)))["spearman"] == pytest.approx(1.0)
    coarse = np.random.default_rng(0).random((2, 3, 3)).astype(np.float32)
    from captum.attr import LayerAttribution

    wanted = LayerAttribution.interpolate(torch.from_numpy(coarse)[:, None], (12, 12), "bilinear")[:, 0]
    np.testing.assert_allclose(resized(coarse, (12, 12)), wanted.numpy(), atol=1e-6)


def test_maps_that_cannot_be_compared() -> None:
    a = np.random.default_rng(0).random((3, 4, 4))
    bad = a.copy()
    bad[0, 0, 0] = np.nan
    with pytest.raises(ConfigError, match="NaN"):
        compare_maps(a, bad)
    with pytest.raises(ConfigError, match="Two maps of each picture"):
        compare_maps(a, a[:2])
    with pytest.raises(ConfigError, match="share"):
        compare_maps(a, a, share=1.0)


def test_pointing_game() -> None:
    maps = np.zeros((3, 8, 8))
    maps[0, 2, 5], maps[1, 7, 0] = 1, 1
    centre = np.array([[2.5 / 8, 5.5 / 8]] * 3)
    np.testing.assert_array_equal(pointing_hits(maps, centre, np.full(3, 0.1)), [1, 0, np.nan])


def test_objects_of_shapes_lie_where_the_factors_say() -> None:
    from kdlab.probes.attributing import _objects

    net = models.build("resnet8", 8, 3)
    src = as_source({"net": net}, data=kdlab.data.shapes.make(64, 64, seed=2), n=64)
    shown = np.flatnonzero((~src.fit) & (src.factors["background"] <= 1))  # even backgrounds
    found = _objects(src, shown)
    assert found is not None and src.images is not None
    line = (np.arange(32) + 0.5) / 32
    for i, place in enumerate(shown):
        image = src.images[place].astype(float)
        mask = np.abs(image - image[:, :1, :1]).max(axis=0) > 30  # what is not background
        rows, columns = np.nonzero(mask)
        # the circle holds the object; a triangle's middle is not that of its box
        assert (
            abs(line[rows].mean() - found[0][i, 0]) < 3 / 32
            and abs(line[columns].mean() - found[0][i, 1]) < 3 / 32
        )
        inside = np.hypot(line[rows] - found[0][i, 0], line[columns] - found[0][i, 1]) <= found[1][i]
        assert inside.mean() > 0.7
    assert 0.1 < found[2] < 0.3
    explained = attributions({"net": net}, data=kdlab.data.shapes.make(64, 64, seed=2), method="attention")
    assert explained.agreement is None  # nobody to compare with
    pair = attributions(
        {"net": net, "t": net}, data=kdlab.data.shapes.make(64, 64, seed=2), method="attention", teacher="t"
    )
    assert pair.agreement is not None and set(pair.agreement.hits) == {("net", -1), ("t", -1)}
    assert "lies on the object" in pair.summary
    assert as_source({"n": np.zeros((40, 2))}, data="digits", n=40).factors == {}


def test_controls_stand_beside_the_agreement(result: Attributions, study: kdlab.Study) -> None:
    found = result.agreement
    assert found is not None
    assert found.comparisons == (TEACHER, SHUFFLED, UNTRAINED, SEED, STUDENTS)
    own, theirs = result.maps["KD", 3], result.maps["resnet8", 3]
    wanted = compare_maps(own, theirs)
    for measure, values in wanted.items():
        np.testing.assert_array_equal(found.scores["KD", 3, TEACHER, measure], values)
    np.testing.assert_array_equal(
        found.scores["KD", 3, SHUFFLED, "iou"], compare_maps(own, np.roll(theirs, 1, axis=0))["iou"]
    )
    other = attributions(study, range(12), stage="layer1", seed=1, controls=False)
    np.testing.assert_allclose(
        found.scores["KD", 3, SEED, "cosine"], compare_maps(own, other.maps["KD", 3])["cosine"], atol=1e-6
    )
    alone = compare_maps(own, result.maps["alone", 3])
    np.testing.assert_allclose(found.scores["KD", 3, STUDENTS, "cosine"], alone["cosine"])
    # both students are of one kind, and so share the untrained twin
    np.testing.assert_array_equal(
        found.scores["KD", 3, UNTRAINED, "cosine"], found.scores["alone", 3, UNTRAINED, "cosine"]
    )
    assert "not evidence of equal reasoning" in result.summary and "untrained network" in result.summary
    plain = attributions(study, range(4), controls=False).agreement
    assert plain is not None and plain.comparisons == (TEACHER, SHUFFLED)


def test_a_network_agrees_with_itself_wholly() -> None:
    net = models.build("resnet8", 4, 3)
    found = explain({"s": net, "t": net}, pictures(5, size=16), 4, teacher="t", method="attention", stage=0)
    assert found.agreement is not None
    for measure, value in (("spearman", 1), ("iou", 1), ("same_peak", 1), ("peak_distance", 0)):
        assert found.agreement.mean("s", TEACHER, measure) == pytest.approx(value)
        assert found.agreement.mean("s", SHUFFLED, measure) != pytest.approx(value, abs=0.02)
    np.testing.assert_allclose(found.difference("s", -1), 0, atol=1e-12)
    with pytest.raises(UnknownNameError):
        found.agreement.mean("s", measure="ssim")


def test_networks_of_different_size_and_depth_are_compared() -> None:
    from torchvision.models import resnet18

    nets = {"small": models.build("resnet8", 4, 3), "big": resnet18(weights=None, num_classes=4)}
    found = explain(nets, pictures(4, size=32), 4, teacher="big", stage={"big": "layer2"})
    assert found.stages == {"big": "layer2", "small": "layer3"}
    assert found.maps["big", -1].shape[1:] == (4, 4) and found.maps["small", -1].shape[1:] == (8, 8)
    assert found.agreement is not None and np.isfinite(found.agreement.mean("small"))
    assert found.difference("small", -1).shape == (4, 4, 4)


# ---- attention maps ----------------------------------------------------------------------------------------


def test_attention_of_pictures_whose_maps_were_not_kept(study: kdlab.Study) -> None:
    kept = int(study.probe_set.attention_count)
    evaluation = np.flatnonzero(~study.probe_set.fit)
    if kept >= len(evaluation):
        src = as_source(study)
        src.read = _shortened(src.read, 5)
        kept = 5
    else:
        src = as_source(study)
    stored, asked = attention_maps(src, range(kept)), attention_maps(src, [0, 2, kept])
    np.testing.assert_allclose(
        asked.maps["KD", 3, "layer2"][:2], stored.maps["KD", 3, "layer2"][[0, 2]], atol=2e-3
    )
    assert asked.index[2] == study.probe_set.index.numpy()[evaluation[kept]]
    assert (asked.predicted["KD"][0, :2] == stored.predicted["KD"][0, [0, 2]]).all()
    with pytest.raises(ConfigError, match=f"0 .. {len(evaluation) - 1}"):
        attention_maps(src, [len(evaluation)])


def _shortened(read: Any, kept: int) -> Any:
    """Views as they would be had maps been kept of fewer pictures."""
    from dataclasses import replace

    def take(network: str, epoch: int, seed: int) -> Any:
        view = read(network, epoch, seed)
        return replace(view, attention={name: maps[:kept] for name, maps in view.attention.items()})

    return take


def test_attention_of_a_data_set_shows_the_evaluation_pictures() -> None:
    net = models.build("resnet8", 10, 1)
    src = as_source({"net": net}, data="digits", n=40)
    found = attention_maps(src)
    evaluation = np.flatnonzero(~src.fit)
    assert (found.labels == src.target[evaluation]).all()
    raw = src.view("net", -1, 0).attention["layer1"][evaluation]
    unit = raw / np.linalg.norm(raw.reshape(len(raw), -1), axis=1)[:, None, None]
    np.testing.assert_allclose(found.maps["net", -1, "layer1"], unit, atol=1e-5)


def test_attention_scores_are_those_of_agreement() -> None:
    found = attention_maps(FakeStudy())
    own, theirs = found.maps["KD", 6, "stage2"], found.maps["teacher", 6, "stage2"]
    wanted = compare_maps(own, theirs)
    for measure in ("spearman", "iou", "same_peak", "peak_distance"):
        np.testing.assert_array_equal(found.scores["KD", 6, "stage2", measure], wanted[measure])
        assert found.chance["KD", "stage2", measure] == pytest.approx(chance_levels(own, theirs)[measure])
    np.testing.assert_allclose(found.cosine["KD", 6, "stage2"], wanted["cosine"], atol=1e-6)
    gap = found.relative("KD", 6, "stage2") - found.relative("teacher", 6, "stage2")
    np.testing.assert_allclose(found.difference("KD", 6, "stage2"), gap, atol=1e-5)
    figure = plots.attention(found, show="difference", dark=True)
    json.loads(figure.to_json())
    figure = plots.attention(found, show="difference")
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(maps) == 9 and figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax
    np.testing.assert_allclose(maps[0].z, found.difference("alone", 6, "stage1")[0], atol=1e-3)
    with pytest.raises(ConfigError, match="difference needs a teacher"):
        plots.attention(attention_maps(FakeStudy(teacher="")), show="difference")
    with pytest.raises(UnknownNameError):
        plots.attention(found, show="both")


# ---- figures and files ------------------------------------------------------------------------------------


def test_the_wall_has_one_scale_and_says_what_is_explained(result: Attributions) -> None:
    figure = plots.attribution(result, samples=[0, 5])
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(maps) == 2 * 3 and {trace.coloraxis for trace in maps} == {"coloraxis"}
    assert len([trace for trace in figure.data if trace.type == "image"]) == 2 * 4
    wanted = resized(result.relative("resnet8", 3)[[0]], (8, 8))[0]
    np.testing.assert_allclose(maps[0].z, wanted, atol=1e-3)
    assert figure.layout.coloraxis.cmin == 0
    texts = [note.text for note in figure.layout.annotations]
    assert sum("explained" in text for text in texts) == 2
    assert sum("ρ" in text for text in texts) == 4  # of each student and picture
    raw = plots.attribution(result, samples=[0, 5], scale="raw")
    first = next(trace for trace in raw.data if trace.type == "heatmap")
    np.testing.assert_allclose(first.z, resized(result.maps["resnet8", 3][[0]], (8, 8))[0], atol=1e-3)
    gap = plots.attribution(result, show="difference", dark=True)
    assert gap.layout.coloraxis.cmin == -gap.layout.coloraxis.cmax
    assert len([trace for trace in gap.data if trace.type == "heatmap"]) == 4 * 2
    json.loads(gap.to_json())
    for options, says in (({"samples": [12]}, "0 .. 11"), ({"show": "x"}, "show"), ({"scale": "x"}, "scale")):
        with pytest.raises(ConfigError, match=says):
            plots.attribution(result, **options)


def test_the_strip_shows_every_picture_and_chance(result: Attributions) -> None:
    found = result.agreement
    assert found is not None
    figure = plots.attribution_agreement(result, measure="iou")
    assert [trace.name for trace in figure.data][:2] == [
        "student and teacher",
        "student and teacher, another picture",
    ]
    assert len({trace.marker.symbol for trace in figure.data if trace.type == "box"}) == 5
    assert figure.data[-1].name == "chance"
    values = np.concatenate([found.scores[name, 3, TEACHER, "iou"] for name in ("alone", "KD")])
    np.testing.assert_allclose(figure.data[0].y, values[np.isfinite(values)], atol=1e-4)
    line = next(shape for shape in figure.layout.shapes if shape.type == "line")
    levels = [found.chance[name, "iou"] for name in ("alone", "KD")]
    assert line.y0 == pytest.approx(np.mean(levels))
    assert not plots.attribution_agreement(found, measure="cosine").layout.shapes  # no chance level is known
    with pytest.raises(UnknownNameError):
        plots.attribution_agreement(result, measure="ssim")


def test_attributions_come_back_from_their_file(result: Attributions, tmp_path: Path) -> None:
    again = load_result(result.save(tmp_path / "maps"))
    assert isinstance(again, Attributions) and isinstance(again.agreement, MapAgreement)
    assert again.summary == result.summary and again.to_frame().equals(result.to_frame())
    assert again.plot().layout.meta["summary"] == result.summary
    assert again.agreement.plot().layout.meta["summary"] == again.agreement.summary
    assert len(again.agreement.to_frame()) == len(again.agreement.scores) * 12

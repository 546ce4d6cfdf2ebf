"""Maps at every stage, the target that SKD has learnt, and the epochs of which weights are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdlab
from kdlab import plots, probes
from kdlab.errors import ConfigError, UnknownNameError
from kdlab.plots.map_reading import MapReading
from kdlab.probes.agreement import TEACHER, UNTRAINED, compare_maps
from kdlab.probes.result import load_result
from tests.small_study import run_to, small


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> kdlab.Study:
    """A teacher with more stages than its students; weights of epochs 0, 1 and 3."""
    return small(
        tmp_path_factory.mktemp("stages"),
        teacher="vgg8",
        students={"KD": "kd", "SKD": "skd"},
        keep=[1],
        snapshots=[1, 2, 3],
    ).fit(progress=False)


def pictures(study: kdlab.Study, places: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised evaluation pictures and their classes."""
    rows = np.flatnonzero(~study.probe_set.fit)[list(places)]
    images = study.probe_set.images[torch.from_numpy(rows)]
    return study.data.normalize(images), torch.as_tensor(study.probe_set.labels)[rows]


def logits(study: kdlab.Study, name: str) -> np.ndarray:
    return np.asarray(study.snapshot(name, 3).logits, dtype=np.float64)[~study.probe_set.fit]


def test_every_depth_is_grad_cam_of_that_stage(study: kdlab.Study) -> None:
    from captum.attr import LayerGradCam

    places = (0, 3, 8)
    result = probes.stage_attributions(study, places, epoch=1, controls=False)
    images, target = pictures(study, places)
    for name in ("vgg8", "KD"):
        net = study.network(name, 1)
        count = len(net.stage_names)
        assert result.counts[name] == count
        for depth, part in result.parts.items():
            stage = net.stage_names[max(depth, -count)]
            assert part.stages[name] == stage
            if name == "vgg8":  # a stage of it ends with a ReLU that is no module, which captum cannot name
                seen = net.features(images.requires_grad_(True))
                own = seen.stages[net.stage_names.index(stage)]
                score = seen.logits.gather(1, target[:, None]).sum()
                slope = torch.autograd.grad(score, own)[0].mean((2, 3), keepdim=True)
                wanted = (slope * own).sum(1).relu().detach().numpy()
            else:
                cam = LayerGradCam(lambda x, net=net: net(x), net.get_submodule(stage))
                wanted = cam.attribute(images, target=target, relu_attributions=True)[:, 0].detach().numpy()
            found = part.maps[name, 1]
            np.testing.assert_allclose(found, wanted, atol=1e-5 * max(float(wanted.max()), 1e-3))
    assert list(result.parts) == list(range(-max(result.counts.values()), 0))


def test_shallower_networks_have_no_cell_there(study: kdlab.Study) -> None:
    result = probes.stage_attributions(study, [1, 2], epoch=3)
    counts = result.counts
    assert counts["vgg8"] > counts["KD"], "the test needs a deeper teacher"
    read = MapReading.of(result)
    first = -counts["vgg8"]
    assert read.stage("KD", first) is None and read.stage("vgg8", first) is not None
    figure = plots.map_wall(result, sample=1)
    assert len(figure.data) == counts["vgg8"] + counts["KD"] + counts["SKD"]
    missing = [note for note in figure.layout.annotations if "no such" in note.text]
    assert len(missing) == 2 * (counts["vgg8"] - counts["KD"])
    with pytest.raises(ConfigError, match="stage must be one of"):
        plots.map_wall(result, layout="pictures", stage=-99)


def test_agreement_at_every_depth_with_its_control(study: kdlab.Study, tmp_path: Path) -> None:
    result = probes.stage_attributions(study, range(5), epoch=3)
    part = result.deepest
    own, theirs = part.maps["KD", 3], part.maps["vgg8", 3]
    if own.shape == theirs.shape:
        wanted = compare_maps(own, theirs)["spearman"]
        np.testing.assert_allclose(part.agreement.scores["KD", 3, TEACHER, "spearman"], wanted)
    read = MapReading.of(result)
    control = read.score("KD", -1, "spearman", UNTRAINED)
    assert control is not None and control.shape == (5,)
    table = result.to_frame()
    assert set(table["depth"]) == set(result.parts) and {"stage", "network"} <= set(table.columns)
    result.save(tmp_path / "stages.npz")
    again = load_result(tmp_path / "stages.npz")
    assert again.counts == result.counts and list(again.parts) == list(result.parts)
    np.testing.assert_array_equal(again.parts[-2].maps["KD", 3], result.parts[-2].maps["KD", 3])


def test_before_training_is_the_control_of_activation_maps(study: kdlab.Study) -> None:
    result = probes.attention_maps(study, epochs=[0, 3])
    read = MapReading.of(result)
    stage = result.stages["KD"][-1]
    np.testing.assert_array_equal(
        read.score("KD", -1, "spearman", UNTRAINED), result.scores["KD", 0, stage, "spearman"]
    )
    assert MapReading.of(result, 0).score("KD", -1, "spearman", UNTRAINED) is None
    alone = probes.attention_maps(study, epochs=3)
    assert MapReading.of(alone).score("KD", -1, "spearman", UNTRAINED) is None


def test_a_wall_refuses_what_it_cannot_draw(study: kdlab.Study) -> None:
    result = probes.attention_maps(study, epochs=3)
    for options, says in (
        ({"epoch": 9}, "no epoch 9"),
        ({"sample": 99}, "samples must lie"),
        ({"opacity": 2}, "between 0 and 1"),
        ({"layout": "heap"}, "layout"),
        ({"show": "all"}, "value of show"),
    ):
        with pytest.raises((ConfigError, UnknownNameError), match=says):
            plots.map_wall(result, **options)
    lonely = probes.attention_maps(study, epochs=3, students=["KD"])
    dark = plots.map_wall(lonely, layout="pictures", samples=[2, 0], dark=True)
    assert len(dark.to_dict()["data"]) == 4


def test_the_target_that_skd_has_learnt(study: kdlab.Study) -> None:
    """By the formulas of the method, from the weights of its simplifier."""
    held = study.revive("SKD", 3).method.simplifier
    z, own = torch.from_numpy(logits(study, "vgg8")).float(), torch.from_numpy(logits(study, "KD"))
    u = (z / 2).log_softmax(1)
    h = (u - u.mean(1, keepdim=True)) / (u.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    found = probes.simplified_loss(study, "SKD", epoch=3, temperature=4.0)
    batch = study.recipe.batch_size
    targets = []
    with torch.no_grad():
        for part, begin in ((slice(i, i + batch), i) for i in range(0, len(z), batch)):
            q, k, v = (layer(h[part]) for layer in (held.query, held.key, held.value))
            mixed = (q @ k.T / q.shape[1] ** 0.5).softmax(1) @ v
            targets.append(u[part] + held.out(mixed))
            assert begin == part.start
    p = (torch.cat(targets).double() / 4).softmax(1)
    wanted = 16 * (p * (p.log() - (own / 4).log_softmax(1))).sum(1).mean()
    y = torch.as_tensor(study.probe_set.labels)[~study.probe_set.fit]
    assert float(found(own, z.double(), y)) == pytest.approx(float(wanted), rel=1e-4)
    some = probes.simplified_loss(study, "SKD", [9, 2], epoch=3)
    pair = 16 * (p * (p.log() - (own / 4).log_softmax(1))).sum(1)[[9, 2]].mean()
    assert float(some(own[[9, 2]], z[[9, 2]].double(), y[[9, 2]])) == pytest.approx(float(pair), rel=1e-4)
    with pytest.raises(ConfigError, match="2 pictures and 3 are looked at"):
        some(own[:3], z[:3].double(), y[:3])
    with pytest.raises(ConfigError, match="learnt no simplifier"):
        probes.simplified_loss(study, "KD")
    assert float((held.out.weight.abs()).max()) > 0, "it has learnt something"


def test_epochs_of_which_weights_are_there(study: kdlab.Study, tmp_path: Path) -> None:
    assert study.weight_epochs("KD") == [0, 1, 3]
    for epoch in study.weight_epochs("KD"):
        study.network("KD", epoch)
    going = small(tmp_path, keep=[1])
    assert going.weight_epochs("KD") == [0], "before training"
    run_to(going, going.steps_per_epoch + 2)
    assert going.weight_epochs("KD") == [0, 1], "an epoch under way is none"
    going.stop()
    going.wait()
    assert going.weight_epochs("KD") == [0, 1]
    again = kdlab.load_study(going.folder)
    assert again.weight_epochs("KD") == [0, 1]

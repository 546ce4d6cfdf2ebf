"""The pull of each term: gradients as training takes them, at every place, and arrows in a plane."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import kdlab
from kdlab import plots, probes
from kdlab.errors import ConfigError, UnknownNameError
from kdlab.probes.alignment import procrustes_map
from kdlab.probes.arrows import TOTAL
from tests.small_study import small


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> kdlab.Study:
    students = {
        "alone": "ce",
        "KD": kdlab.methods.KD(temperature=4, weight=0.9),
        "AT": "at",
        "SRRL": "srrl",
    }
    return small(tmp_path_factory.mktemp("pulled"), students=students).fit(progress=False)


def untrained() -> tuple[torch.nn.Module, torch.nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    net, teacher = (
        kdlab.models.build(n, num_classes=5, in_channels=1).eval() for n in ("resnet8", "resnet14")
    )
    return net, teacher, torch.randn(12, 1, 8, 8), torch.arange(12) % 5


def built(
    method: kdlab.methods.Method, net: torch.nn.Module, teacher: torch.nn.Module
) -> kdlab.methods.Method:
    specs = [kdlab.models.inspect_net(n, (1, 8, 8)) for n in (net, teacher)]
    method.build(specs[0], specs[1:])
    return method


# ---- gradients -----------------------------------------------------------------------------------------


def test_gradients_at_the_logits_are_those_of_the_formulas() -> None:
    net, teacher, images, target = untrained()
    method = built(kdlab.methods.KD(temperature=4, weight=0.9, ce=0.1), net, teacher)
    seen = probes.term_gradients(net, method, images, target, teachers=[teacher], batch_size=12)
    with torch.no_grad():
        s, t = net(images), teacher(images)
    ce = F.softmax(s, dim=1) - F.one_hot(target, 5)
    kd = 4.0 * (F.softmax(s / 4, dim=1) - F.softmax(t / 4, dim=1))  # tau^2 times 1/tau
    np.testing.assert_allclose(seen.at("ce", "logits"), 0.1 * ce, atol=1e-6)
    np.testing.assert_allclose(seen.at("kd", "logits"), 0.9 * kd, atol=1e-6)
    weight = net.classifier.weight.detach()
    np.testing.assert_allclose(seen.at("kd", "embedding"), 0.9 * kd @ weight, atol=1e-6)
    np.testing.assert_allclose(seen.factors, [0.1, 0.9])
    assert seen.places == (*net.stage_names, "embedding", "logits")


def test_the_batch_size_changes_nothing_for_terms_that_look_at_one_picture() -> None:
    net, teacher, images, target = untrained()
    method = built(kdlab.methods.KD(), net, teacher)
    one, other = (
        probes.term_gradients(net, method, images, target, teachers=[teacher], batch_size=b) for b in (4, 12)
    )
    for key, value in one.gradients.items():
        np.testing.assert_allclose(value, other.gradients[key], rtol=1e-4, atol=1e-6)


def test_a_hint_does_not_reach_what_lies_behind_it() -> None:
    net, teacher, images, target = untrained()
    method = built(kdlab.methods.get("at")(), net, teacher)
    seen = probes.term_gradients(net, method, images, target, teachers=[teacher])
    assert ("at", "logits") not in seen.gradients and ("at", "embedding") not in seen.gradients
    assert ("at", net.stage_names[0]) in seen.gradients
    norms, places = seen.norms(), list(seen.places)
    assert norms[1, places.index("logits")] == 0 and norms[1, 0] > 0
    assert np.isnan(seen.cosines()[places.index("logits")][0, 1])


def test_shares_add_up_and_the_total_is_the_gradient_of_training() -> None:
    net, teacher, images, target = untrained()
    method = built(kdlab.methods.KD(), net, teacher) + built(kdlab.methods.get("at")(), net, teacher)
    method = built(method, net, teacher)
    seen = probes.term_gradients(net, method, images, target, teachers=[teacher], batch_size=12)
    np.testing.assert_allclose(seen.shares().sum(axis=0), 1.0, atol=1e-9)
    with torch.no_grad():
        theirs = teacher.features(images)
    own = net.features(images)
    values = method.losses(
        kdlab.methods.Step(own, target, (theirs,), (teacher.classifier,)), method.active(1)
    )
    total = sum(value * method.terms[name].factor(1) for name, value in values.items())
    stage = torch.autograd.grad(total, own.stages[1])[0] * len(images)
    summed = sum(seen.gradients[term, net.stage_names[1]] for term in seen.terms)
    np.testing.assert_allclose(summed, stage, rtol=1e-3, atol=1e-5)


def test_nothing_that_was_given_changes() -> None:
    net, teacher, images, target = untrained()
    method = built(kdlab.methods.get("srrl")(), net, teacher).train()
    before = {k: v.clone() for m in (net, method) for k, v in m.state_dict().items()}
    net.requires_grad_(False)
    probes.term_gradients(net.train(), method, images, target, teachers=[teacher])
    after = {k: v for m in (net, method) for k, v in m.state_dict().items()}
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert net.training and method.training and not any(p.requires_grad for p in net.parameters())


# ---- of a study ----------------------------------------------------------------------------------------


def test_of_a_study_at_every_kept_epoch(study: kdlab.Study) -> None:
    result = probes.pull(study, epochs="all", n=40)
    assert result.epochs == (0, 1, 2, 3) and not result.missing
    assert result.students == ("alone", "KD", "AT", "SRRL") and result.pictures == "test"
    for name in result.students:
        assert result.last(name) == 3
        assert result.norm[name, 3].shape == (len(result.terms[name]), len(result.places[name]))
    one = probes.pull(study, students="KD", n=40)
    np.testing.assert_array_equal(one.norm["KD", 3], result.norm["KD", 3])
    frame = result.to_frame()
    assert set(frame["epoch"]) == {0, 1, 2, 3} and {"cosine/ce", "cosine/kd"} <= set(frame.columns)
    assert "alone ce (100 %)" in result.summary
    again = probes.load_result(result.save(study.folder / "pull"))
    assert again.to_frame().equals(frame)


def test_a_students_features_and_logits_are_those_of_its_snapshot(study: kdlab.Study) -> None:
    result = probes.pull(study, students="SRRL", n=40)
    snapshot = study.snapshot("SRRL", 3)
    shown = snapshot.embedding[~study.probe_set.fit][:40]
    np.testing.assert_allclose(result.features["SRRL", 3], shown, rtol=5e-3, atol=5e-3)
    np.testing.assert_array_equal(result.index, study.probe_set.index[~study.probe_set.fit][:40])
    trained = study.revive("SRRL").method.state_dict()
    fresh = study.revive("SRRL", 0).method.state_dict()
    assert any(not torch.equal(trained[k], fresh[k]) for k in trained)


def test_terms_switched_off_do_not_pull(tmp_path) -> None:
    study = small(tmp_path, students={"KD": "kd"}, epochs=1).fit(progress=False)
    fitted = probes.pull(study, n=40)
    changed = small(tmp_path, folder=tmp_path / "off", students={"KD": "kd"}, epochs=1)
    changed.set("KD", "kd", enabled=False, at_step=0)
    off = probes.pull(changed.fit(progress=False), n=40)
    kd = off.terms["KD"].index("kd")
    assert fitted.norm["KD", 1][kd, -1] > 0 and off.norm["KD", 1][kd].max() == 0
    assert off.factor["KD", 1, "kd"] == 0 and np.isnan(off.value["KD", 1, "kd"])


@pytest.mark.parametrize("key", ["mlkd", "crd", "gpac", "mtkd_ssr", "simkd", "skd"])
def test_methods_with_banks_views_teachers_and_parts_of_their_own(tmp_path, key: str) -> None:
    teachers = ["resnet8", "resnet14"] if key == "gpac" else "resnet8"
    study = small(tmp_path, teacher=teachers, students={"it": key}, epochs=1).fit(progress=False)
    result = probes.pull(kdlab.load_study(study.folder), n=40, pictures="training")
    on = [t for t in result.terms["it"] if result.factor["it", 1, t]]
    assert on and all(np.isfinite(result.value["it", 1, t]) for t in on)
    assert result.norm["it", 1].max() > 0


def test_what_cannot_be_measured_is_said(study: kdlab.Study) -> None:
    with pytest.raises(ConfigError, match="kept after epoch 7.*0, 1, 2 and 3"):
        probes.pull(study, epochs=7)
    with pytest.raises(ConfigError, match="'last', 'all' or a list"):
        probes.pull(study, epochs="every")
    with pytest.raises(UnknownNameError, match="'KD'"):
        probes.pull(study, students="KDD")
    with pytest.raises(ConfigError, match="'test', 'validation' or 'training'"):
        probes.pull(study, pictures="none")
    with pytest.raises(ConfigError, match="term_gradients"):
        probes.pull({"a": np.zeros((4, 4))})
    with pytest.raises(ConfigError, match="from 4 on"):
        probes.pull(study, n=2)


# ---- arrows ----------------------------------------------------------------------------------------------


def test_arrows_in_the_plane_are_projections(study: kdlab.Study) -> None:
    result = probes.pull(study, n=60)
    arrows = probes.pull_arrows(result, "KD")
    assert arrows.exact and arrows.terms == ("ce", "kd", TOTAL)
    np.testing.assert_allclose(arrows.arrows["ce"] + arrows.arrows["kd"], arrows.arrows[TOTAL], atol=1e-6)
    x = result.features["KD", 3].astype(np.float64)
    x = x - x.mean(axis=0)
    axes = np.linalg.svd(x, full_matrices=False)[2][:2]
    np.testing.assert_allclose(
        np.abs(x @ axes.T).sum(axis=0), np.abs(arrows.base).sum(axis=0), rtol=1e-6
    )  # up to sign
    moved = -result.direction["KD", 3, "kd"].astype(np.float64)
    scale = np.linalg.norm(moved @ axes.T) / np.linalg.norm(arrows.arrows["kd"])
    np.testing.assert_allclose(np.abs(moved @ axes.T), scale * np.abs(arrows.arrows["kd"]), atol=1e-6)
    assert 0 < arrows.visible[TOTAL] <= 1 and 0 < arrows.variance <= 1
    classes, base, by_class = arrows.by_class()
    first = arrows.labels == classes[0]
    np.testing.assert_allclose(base[0], arrows.base[first].mean(axis=0))
    np.testing.assert_allclose(by_class["kd"][0], arrows.arrows["kd"][first].mean(axis=0))


def test_arrows_in_a_map_follow_the_neighbours(study: kdlab.Study) -> None:
    result = probes.pull(study, students="KD", n=300)
    space = probes.embed(study, "pca", students="KD", epochs="last", n=40)
    rough = probes.pull_arrows(result, onto=space)
    assert not rough.exact and len(rough.base) == 40 and "interpolated" in rough.summary
    np.testing.assert_allclose(rough.base, space.coordinates[0, 1], atol=1e-6)
    assert np.isfinite(rough.arrows[TOTAL]).all() and np.abs(rough.arrows[TOTAL]).max() > 0


def test_arrows_in_a_linear_map_are_exact(study: kdlab.Study) -> None:
    """Pictures that are moved a little and mapped again lie at the ends of their arrows."""
    draw = np.random.default_rng(0)
    labels = np.arange(200) % 4
    teacher = (draw.normal(size=(4, 6)) * 3)[labels] + draw.normal(size=(200, 6))
    student = np.maximum(teacher @ draw.normal(size=(6, 20)) + draw.normal(size=(200, 20)), 0)
    moves = 0.3 * draw.normal(size=(200, 20))
    fit = np.arange(200) < 80
    given = {"target": labels, "fit": fit, "teacher": "teacher"}
    space = probes.embed({"teacher": teacher, "KD": student}, "pca", n=120, **given)
    names = {int(index): place for place, index in enumerate(space.index)}
    at = np.array([names[index] for index in range(80, 200)])  # of the map's pictures in ours
    result = replace(
        probes.pull(study, students="KD", n=40),
        features={("KD", -1): student[~fit]},
        direction={("KD", -1, "ce"): moves[~fit], ("KD", -1, "kd"): -0.5 * moves[~fit]},
        factor={("KD", -1, "ce"): 1.0, ("KD", -1, "kd"): 1.0},
        labels=labels[~fit],
        index=np.arange(80, 200),
        seed=space.seed,
    )
    arrows = probes.pull_arrows(result, "KD", epoch=-1, onto=space)
    assert arrows.exact and "interpolated" not in arrows.summary
    moved = procrustes_map(np.where(fit[:, None], student, student + moves), teacher, fit)[~fit]
    centre = teacher[space.index].mean(axis=0)
    axes = np.linalg.lstsq(teacher[~fit] - centre, space.coordinates[0, 0][at], rcond=None)[0]
    way = (moved - centre) @ axes - space.coordinates[0, 1][at]
    scale = np.linalg.norm(way) / np.linalg.norm(arrows.arrows["ce"])
    np.testing.assert_allclose(arrows.arrows["ce"] * scale, way, atol=1e-3 * np.abs(way).max())
    np.testing.assert_allclose(arrows.arrows["kd"], -0.5 * arrows.arrows["ce"], rtol=1e-6)
    few = probes.embed({"teacher": teacher, "KD": student}, "pca", n=30, **given)
    assert not probes.pull_arrows(result, "KD", epoch=-1, onto=few).exact, "30 pictures do not tell 20 axes"


def test_interpolated_arrows_of_a_linear_map() -> None:
    from kdlab.probes.arrows import _interpolated

    draw = np.random.default_rng(0)
    features = draw.normal(size=(400, 2))
    turn = np.array([[0.0, 2.0], [-2.0, 0.0]])
    moves = {"a": 0.2 * draw.normal(size=(400, 2))}
    found = _interpolated(features, features @ turn, moves, 15)["a"]
    inside = np.linalg.norm(features, axis=1) < 1.0
    expected = moves["a"] @ turn
    cosine = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert np.median(cosine[inside]) > 0.95


def test_arrows_refuse_what_does_not_fit(study: kdlab.Study) -> None:
    result = probes.pull(study, students=["KD", "AT"], n=40)
    with pytest.raises(UnknownNameError, match="'KD'"):
        probes.pull_arrows(result, "KDD")
    with pytest.raises(ConfigError, match="only at 3"):
        probes.pull_arrows(result, "KD", epoch=1)
    with pytest.raises(UnknownNameError, match="term of KD"):
        probes.pull_arrows(result, "KD", terms="at")
    with pytest.raises(UnknownNameError, match="network of the map"):
        probes.pull_arrows(result, "KD", onto=probes.embed(study, "pca", students="AT", n=40))
    with pytest.raises(ConfigError, match="other pictures"):
        held = probes.pull(study, students="KD", n=40, pictures="validation")
        probes.pull_arrows(held, "KD", onto=probes.embed(study, "pca", students="KD", n=40))


@pytest.mark.parametrize(
    ("cosine", "said"),
    [
        (-0.5, "hardest fight is between ce and kd of KD (cosine -0.50)"),
        (-0.02, "No two terms fight there: the lowest cosine is -0.02, of ce and kd of KD"),
        (0.3, "No two terms of a student pull against each other"),
    ],
)
def test_the_summary_calls_a_fight_only_what_is_one(study: kdlab.Study, cosine: float, said: str) -> None:
    result = probes.pull(study, students="KD", epochs=[3], n=40)
    result.cosine["KD", 3][:] = np.where(np.eye(2), 1.0, cosine)  # type: ignore[index]
    assert said in result.summary


# ---- figures -----------------------------------------------------------------------------------------------


def test_figures_show_every_term_epoch_and_summary(study: kdlab.Study) -> None:
    result = probes.pull(study, epochs="all", n=40)
    for value in ("norm", "share"):
        fig = plots.pull(result, value=value)
        assert len(fig.frames) == 4 and len(fig.data) == sum(len(result.terms[n]) for n in result.students)
        assert fig.layout.meta["summary"] == result.summary
    assert result.plot().layout.meta["summary"] == result.summary
    fights = plots.pull_conflicts(result)
    assert len(fights.data) == 3 and len(fights.frames) == 4  # "alone" has nothing to fight with
    assert len(plots.pull_conflicts(result, place="logits").data) == 1  # hints do not reach the logits
    kd = next(trace for trace in fights.data if "KD" in trace.hovertemplate)
    at = result.places["KD"].index("layer3")
    assert float(kd.z[0][1]) == pytest.approx(result.cosine["KD", 3][at][0, 1])
    arrows = probes.pull_arrows(result, "KD")
    for by in ("class", "picture"):
        fig = plots.pull_arrows(arrows, by=by, dark=True)
        assert {t.name for t in fig.data[1:]} == set(arrows.terms)
    with pytest.raises(UnknownNameError):
        plots.pull_conflicts(result, place="layer9")
    with pytest.raises(UnknownNameError):
        plots.pull(result, value="size")

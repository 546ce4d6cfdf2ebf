"""What probes say to a user who asks for what cannot be: one sentence that names the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fake_study import FakeStudy

from kdlab import probes
from kdlab.errors import ConfigError, StudyError

GENERATOR = np.random.default_rng(0)
LABELS = np.arange(80) % 4
FEATURES = GENERATOR.normal(size=(80, 6))
LOGITS = GENERATOR.normal(size=(80, 4))
PICTURES = torch.rand(80, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BOTH = {"T": LOGITS, "S": LOGITS + 1}


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))


@pytest.fixture(scope="module")
def study() -> FakeStudy:
    return FakeStudy()


def diverged() -> np.ndarray:
    table = FEATURES.copy()
    table[3, 2] = np.nan
    return table


ASKED: list[tuple[Callable[[Any], Any], str]] = [
    # whose
    (lambda s: probes.linear_probe("runs/mine"), "open a study folder by kdlab.load_study"),
    (lambda s: probes.geometry(None), "None is no study"),
    (lambda s: probes.linear_probe(s, students=3), "students must be a name or a list of names, not 3"),
    (lambda s: probes.similarity(s, students=[]), "students names nobody; name at least one"),
    (lambda s: probes.logit_decomposition(s, students=()), "students names nobody"),
    (lambda s: probes.logit_history(s, students=()), "students names nobody"),
    (lambda s: probes.embed(FakeStudy(teacher=""), students=()), "students names nobody"),
    (
        lambda s: probes.logit_gradients({"T": LOGITS}, target=LABELS, teacher="T"),
        "no student beside the teacher 'T'; give one more network",
    ),
    # when
    (
        lambda s: probes.linear_probe(s, epochs=1.5),
        "epochs must be a whole number or a list of them, not 1.5",
    ),
    (lambda s: probes.calibration(s, epochs=[]), "epochs is empty; give at least one, or leave it out"),
    (lambda s: probes.geometry(s, epochs=None), "epochs must be a whole number or a list of them, not None"),
    (
        lambda s: probes.linear_probe(s, seeds=["a"]),
        r"seeds must be a whole number or a list of them, not \[",
    ),
    (lambda s: probes.fidelity(s, seeds=[]), "seeds is empty"),
    (lambda s: probes.logit_decomposition(s, epoch="all"), "epoch must be a whole number, not 'all'"),
    # which pictures and layers
    (lambda s: probes.linear_probe(s, layers=[]), "layers is empty; name at least one, or take 'all'"),
    (lambda s: probes.similarity(s, layers=()), "layers is empty"),
    (lambda s: probes.attention_maps(s, stages=[]), "stages is empty"),
    (lambda s: probes.logit_history(s, samples=[0.5]), "samples must be a whole number or a list"),
    (
        lambda s: probes.attention_maps(s, samples=99),
        "6 pictures with attention maps; samples must lie in 0 .. 5",
    ),
    (lambda s: probes.neighbours(s, 1.5), "place must be a whole number, not 1.5"),
    (
        lambda s: probes.embed(FEATURES[:12], target=LABELS[:12]),
        "at least 10 evaluation pictures, and there are 4",
    ),
    (
        lambda s: probes.linear_probe(Linear(), LABELS, images=PICTURES[:50]),
        "50 images and 80 labels; give one label for each image",
    ),
    (
        lambda s: probes.measure(Linear(), PICTURES, batch_size=0),
        "batch_size must be a whole number from 1 on",
    ),
    # labels
    (lambda s: probes.linear_probe(FEATURES, ["a", "b"] * 40), "class numbers 0, 1, 2, .*numpy.unique"),
    (lambda s: probes.geometry(FEATURES, target=LABELS - 1), "target must hold class numbers"),
    (lambda s: probes.geometry(FEATURES, target=LABELS + 0.5), "target must hold class numbers"),
    (lambda s: probes.linear_probe(FEATURES, LABELS, control="yes"), "control must hold class numbers"),
    (lambda s: probes.linear_probe(FEATURES, LABELS, control=[1]), "one label for each of the 80 samples"),
    (lambda s: probes.geometry(FEATURES, target=LABELS * 0), "needs two; give pictures of more classes"),
    # values
    (
        lambda s: probes.linear_probe({"a": diverged()}, LABELS),
        "features of a, embedding are NaN .* leave it out",
    ),
    (lambda s: probes.embed({"a": diverged()}, target=LABELS), "features of a are NaN .* leave it out"),
    (lambda s: probes.similarity({"a": diverged(), "b": FEATURES}), "'embedding' of a has NaN"),
    (lambda s: probes.fidelity({"a": LOGITS, "b": FEATURES}, target=LABELS), "leave one of them out"),
    # numbers
    (
        lambda s: probes.logit_decomposition(s, temperature="4"),
        "temperature must be a positive number, not '4'",
    ),
    (lambda s: probes.fidelity(s, temperatures="hot"), "temperature must be a positive number, not 'hot'"),
    (lambda s: probes.fidelity(s, temperatures=None), "temperature must be a positive number, not None"),
    (lambda s: probes.logit_decomposition(s, sweep=[]), "Give at least one temperature"),
    (lambda s: probes.calibration(s, bins=2.5), "bins must be a whole number from 1 on, not 2.5"),
    (lambda s: probes.similarity(s, permutations=1.5), "permutations must be a whole number from 1 on"),
    (lambda s: probes.similarity(s, "cka_rbf", sigma_scale=-1), "sigma_scale must be a positive number"),
    (lambda s: probes.embed(s, k=2.5), "k must be a whole number from 1 on"),
    (lambda s: probes.embed(s, perplexity=0), r"perplexity must be a number above 1 \(5 to 50 is usual\)"),
    (lambda s: probes.tsne(FEATURES, start=FEATURES), r"start must be \(points, 2\), here \(80, 2\)"),
    (lambda s: probes.tsne(FEATURES, iterations=-1), "iterations must be a whole number from 1 on"),
    (lambda s: probes.tsne(FEATURES[:, 0]), r"x must be \(points, features\)"),
    # functions and results
    (lambda s: probes.logit_gradients(s, more={"m": lambda one: one.sum()}), "'m' must be a function of"),
    (lambda s: probes.pull_arrows(s), "give that result"),
]


@pytest.mark.parametrize("number", range(len(ASKED)))
def test_what_cannot_be_is_refused_in_words(study: FakeStudy, number: int) -> None:
    ask, says = ASKED[number]
    with pytest.raises((ConfigError, StudyError), match=says) as caught:
        ask(study)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")


def test_what_is_meant_is_understood(study: FakeStudy) -> None:
    one = probes.logit_decomposition(study, 3)
    assert np.array_equal(one.kd, probes.logit_decomposition(study, [3]).kd)
    assert probes.logit_decomposition(study, epoch="last").epoch == 6
    assert probes.calibration(study, seeds=None).seeds == (0, 1, 2)
    assert probes.geometry(study, students=(), epochs=np.int64(6)).networks == ("teacher",)
    net = Linear()
    seen = [probes.measure(net, pictures).logits for pictures in (PICTURES, PICTURES.numpy())]
    assert np.array_equal(*seen)
    places = probes.logit_history(study, torch.tensor([1, 5]), students="KD")
    assert np.array_equal(places.kd, probes.logit_history(study, [1, 5], students="KD").kd)
    flat = probes.similarity({"a": FEATURES * 0, "b": FEATURES})
    assert flat.summary == "No two layers could be compared; the protocol says why."
    assert "the same for every picture" in flat.protocol

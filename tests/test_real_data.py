"""The same study on real photographs and garments: one word changed, a small stratified part used."""

from __future__ import annotations

import numpy as np
import pytest

import kdlab
from kdlab.errors import DataError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "teacher", "student"),
    [("fashion_mnist", "resnet8", "vgg8"), ("cifar100", "wrn_16_1", "resnet8")],
)
def test_the_same_study_runs_on_real_sets(tmp_path, name, teacher, student):
    try:
        data = kdlab.data.load(name, limit={"train": 200, "val": 100, "test": 100})
    except DataError as error:
        pytest.skip(f"{name} is not at hand: {error}")
    study = kdlab.Study(
        data=data,
        teacher=teacher,
        student=student,
        students={"alone": "ce", "CMKD": "cmkd", "AT": "at"},
        epochs=2,
        batch_size=32,
        teacher_epochs=2,
        device="cpu",
        probe_size=50,
        folder=tmp_path / "study",
    ).fit(progress=False)
    results = study.results()
    assert study.state == "finished" and set(results) == {"alone", "CMKD", "AT"}
    assert all(0.0 <= r["last"][0] <= 1.0 for r in results.values())
    loss = study.record.series("CMKD", "loss")[1]
    assert np.isfinite(loss).all() and loss[-3:].mean() < loss[:3].mean()
    snapshot = study.snapshot("CMKD")
    assert snapshot.logits.shape == (50, data.num_classes)
    assert snapshot.projected.shape[1] == study.snapshot(teacher).embedding.shape[1]
    again = kdlab.load_study(study.folder, device="cpu")  # the part was given as an object
    assert again.table()["last"].equals(study.table()["last"]) and again.data.name == name

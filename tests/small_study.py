"""A small study on digits, and what tests ask of it."""

from __future__ import annotations

import time

import torch

import kdlab

SMALL = dict(
    data="digits",
    teacher="resnet8",
    student="resnet8",
    epochs=3,
    batch_size=32,
    labels_per_class=8,
    teacher_epochs=2,
    device="cpu",
    probe_size=80,
)


def small(tmp_path, **changes):
    return kdlab.Study(
        **{**SMALL, "folder": tmp_path / "study", "students": {"alone": "ce", "KD": "kd"}, **changes}
    )


def weights(study, name, seed=None, epoch="last"):
    """The saved weights of a student."""
    return study.network(name, epoch, seed).state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def run_to(study, step):
    """Start a study holding, and do exactly `step` steps."""
    study.start(paused=True)
    study.step(step)
    wait_for(study, step)


def wait_for(study, step):
    """Wait until that step is done."""
    deadline = time.time() + 60
    while study._run is None or study._run.position < step:
        assert time.time() < deadline and study.error is None, study.error
        time.sleep(0.02)

"""SKD's target as a trained student's simplifier makes it, as a loss for `logit_gradients`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdlab import losses as pure
from kdlab.errors import ConfigError
from kdlab.probes.gradients import Loss
from kdlab.probes.logits import evaluation_places, logit_source, read_logits


@torch.no_grad()
def simplified_loss(
    study: Any,
    student: str,
    samples: Sequence[int] | None = None,
    *,
    epoch: int | str = "last",
    seed: int | None = None,
    temperature: float = 4.0,
) -> Loss:
    """tau^2 KL(softmax(zt~ / tau) || softmax(z_s / tau)) with the target zt~ that SKD has learnt.

    The simplifier is kdlab's reconstruction of the paper's, as in the method. Its attention looks at the
    batch. Here batches are the evaluation pictures in their order, as many at a time as in training; a
    picture's target is that of its batch.

    Args:
        study: with a student that was trained with SKD.
        student: its name.
        samples: the very places that `logit_gradients` is given; None means all.
        epoch: "last", 0, or an epoch of which weights were kept.
        seed: of the run; None is the first.
        temperature: tau.

    Raises:
        ConfigError: the student's method has no simplifier.
        CheckpointError: no weights of that epoch were kept.

    >>> kdlab.probes.simplified_loss(study, "KD")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    kdlab.errors.ConfigError: 'KD' has learnt no simplifier; name a student that was trained with SKD, or...
    """
    parts = study.revive(student, epoch, seed).method.modules()
    method = next((part for part in parts if hasattr(part, "simplify")), None)
    if method is None:
        raise ConfigError(
            f"{student!r} has learnt no simplifier; name a student that was trained with SKD, or use the "
            "loss 'skd: softened'."
        )
    src = logit_source(study, target=None, images=None, data=None, teacher=None)
    every, shown = np.flatnonzero(~src.fit), evaluation_places(src, samples)
    theirs = read_logits(src, src.teachers[0], 0, src.choose_seed(seed), every)
    batches = torch.from_numpy(theirs).float().split(study.recipe.batch_size)
    target = torch.cat([method.simplify(batch) for batch in batches])[
        torch.from_numpy(np.searchsorted(every, shown))
    ].double()

    def loss(student_logits: Tensor, teacher_logits: Tensor, _labels: Tensor) -> Tensor:
        if len(student_logits) != len(target):
            raise ConfigError(
                f"The target was made for {len(target)} pictures and {len(student_logits)} are looked at; "
                "give both the same samples."
            )
        return pure.kd(student_logits, target, temperature)

    return loss

"""How a network's predictions behave: calibration and agreement."""

from __future__ import annotations

from typing import Any

import torch

from kdlab.errors import ConfigError
from kdlab.probes.metrics.checks import as_matrix, as_pair, as_target


def expected_calibration_error(logits: Any, target: Any, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over `bins` bins, in [0, 1].

    Confidence is the largest softmax probability. The bins have equal width and are closed on the
    right; 0 belongs to the first, 1 to the last. (Guo et al., ICML 2017.) Depends on `bins` and n.

    Args:
        logits: (n, K).
        target: (n,) labels 0 .. K - 1.

    Raises:
        ConfigError: bad logits or labels, or no bin.
    """
    scores = as_matrix(logits, "logits")
    if bins < 1:
        raise ConfigError(f"bins is {bins}; at least one bin is needed.")
    labels = as_target(target, *scores.shape)
    confidence, predicted = scores.softmax(dim=1).max(dim=1)
    correct = (predicted == labels).double()
    inner_edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    position = torch.bucketize(confidence, inner_edges)  # edge itself goes to the bin on its left
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, position, correct - confidence)
    return float(gap.abs().sum() / scores.shape[0])


def top1_agreement(student_logits: Any, teacher_logits: Any) -> float:
    """Share of samples on which both networks give the same class, in [0, 1].

    Raises:
        ConfigError: bad logits, different n, or different numbers of classes.
    """
    student, teacher = as_pair(student_logits, teacher_logits, ("student_logits", "teacher_logits"))
    if student.shape[1] != teacher.shape[1]:
        raise ConfigError(f"The student has {student.shape[1]} classes and the teacher {teacher.shape[1]}.")
    return float((student.argmax(dim=1) == teacher.argmax(dim=1)).double().mean())

"""How a network's predictions behave: calibration and agreement."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kdlab.errors import ConfigError
from kdlab.probes.metrics.checks import as_matrix, as_pair, as_target

TEMPERATURES = (0.01, 100.0)
"""Where `optimal_temperature` looks."""


def expected_calibration_error(logits: Any, target: Any, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over `bins` bins, in [0, 1].

    Confidence is the largest softmax probability. The bins have equal width and are closed on the
    right; 0 belongs to the first, 1 to the last. (Guo et al., ICML 2017.) Depends on `bins` and n.

    Args:
        logits: (n, K).
        target: (n,) labels 0 .. K - 1.

    Raises:
        ConfigError: fewer than 4 samples, bad logits or labels, or no bin.

    >>> logits = np.log([[3, 1]] * 4)  # a confidence of 3/4, and two of four are right
    >>> round(kdlab.probes.metrics.expected_calibration_error(logits, [0, 0, 1, 1]), 4)
    0.25
    """
    confidence, correct = _top(logits, target)
    position = bucket(confidence, bins)
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, position, correct - confidence)
    return float(gap.abs().sum() / len(correct))


def _top(logits: Any, target: Any) -> tuple[Tensor, Tensor]:
    """The largest probability of each sample, and 1.0 where its class is right."""
    scores = as_matrix(logits, "logits")
    labels = as_target(target, *scores.shape)
    confidence, predicted = scores.softmax(dim=1).max(dim=1)
    return confidence, (predicted == labels).double()


def reliability_bins(logits: Any, target: Any, bins: int = 15) -> tuple[Tensor, Tensor, Tensor]:
    """What a reliability diagram shows, in the bins of `expected_calibration_error`.

    Args:
        logits: (n, K).
        target: (n,) labels 0 .. K - 1.
        bins: at least 1.

    Returns:
        samples (bins,) int64; mean accuracy and mean confidence (bins,) float64 in [0, 1], NaN in an
        empty bin. The counts and gaps give back the ECE.

    Raises:
        ConfigError: as `expected_calibration_error`.

    >>> logits = np.log([[3, 1], [3, 1], [1, 9], [1, 9]])  # confidences 3/4, 3/4, 9/10, 9/10
    >>> count, accuracy, confidence = kdlab.probes.metrics.reliability_bins(logits, [0, 1, 1, 1], bins=5)
    >>> count.tolist(), accuracy[3].item(), round(confidence[4].item(), 4)
    ([0, 0, 0, 2, 2], 0.5, 0.9)
    """
    confidence, correct = _top(logits, target)
    position = bucket(confidence, bins)
    counts = torch.bincount(position, minlength=bins)

    def mean(values: Tensor) -> Tensor:
        return torch.zeros(bins, dtype=torch.float64).index_add_(0, position, values) / counts

    return counts, mean(correct), mean(confidence)


def bucket(confidence: Tensor, bins: int) -> Tensor:
    """The bin of each confidence: equal widths, closed on the right, 0 in the first.

    Raises:
        ConfigError: no bin.
    """
    if bins < 1:
        raise ConfigError(f"bins is {bins}; at least one bin is needed.")
    inner_edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    return torch.bucketize(confidence, inner_edges)  # an edge itself goes to the bin on its left


def adaptive_calibration_error(logits: Any, target: Any, bins: int = 15) -> float:
    """ECE over bins of equal numbers of samples instead of equal width, in [0, 1].

    Samples are sorted by confidence and cut into `bins` groups whose sizes differ by one at most, so
    that no bin is nearly empty; samples of equal confidence share their mean accuracy, so that their
    order does not count. (Equal-mass bins: Nguyen and O'Connor, EMNLP 2015; Nixon et al., CVPR
    Workshops 2019, average over classes too.)

    Args:
        logits: (n, K).
        target: (n,) labels 0 .. K - 1.
        bins: at least 1; of fewer than `bins` samples each is a bin of its own.

    Raises:
        ConfigError: fewer than 4 samples, bad logits or labels, or no bin.

    >>> logits = np.log([[3, 1], [3, 1], [1, 1], [1, 1]])  # confidences 3/4, 3/4, 1/2, 1/2
    >>> error = kdlab.probes.metrics.adaptive_calibration_error(logits, [0, 0, 0, 1], bins=2)
    >>> round(error, 4)  # |1 - 3/4| and |1/2 - 1/2|, each for half of the samples
    0.125
    """
    confidence, correct = _top(logits, target)
    if bins < 1:
        raise ConfigError(f"bins is {bins}; at least one bin is needed.")
    _, place, counts = confidence.unique(return_inverse=True, return_counts=True)
    shared = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, place, correct) / counts
    gap = (shared[place] - confidence)[confidence.argsort()]
    return float(sum(part.sum().abs() for part in gap.tensor_split(min(bins, len(gap)))) / len(gap))


def negative_log_likelihood(logits: Any, target: Any, temperature: float = 1.0) -> float:
    """Mean of -log of the true class's probability, in nats; log K for a uniform prediction.

    Args:
        logits: (n, K); divided by `temperature`.
        target: (n,) labels 0 .. K - 1.

    Raises:
        ConfigError: fewer than 4 samples, bad logits or labels, or a temperature that is not positive.

    >>> round(kdlab.probes.metrics.negative_log_likelihood(np.zeros((4, 4)), [0, 1, 2, 3]), 4)  # log 4
    1.3863
    """
    scores = as_matrix(logits, "logits") / _positive(temperature)
    labels = as_target(target, *scores.shape)
    return 0.0 - float(scores.log_softmax(dim=1).gather(1, labels[:, None]).mean())


def brier_score(logits: Any, target: Any) -> float:
    """Mean squared distance of the probabilities from the one-hot label, summed over classes, in [0, 2].

    1 - 1/K for a uniform prediction. (Brier, Monthly Weather Review 1950.)

    Args:
        logits: (n, K).
        target: (n,) labels 0 .. K - 1.

    Raises:
        ConfigError: fewer than 4 samples, bad logits or labels.

    >>> round(kdlab.probes.metrics.brier_score(np.zeros((5, 4)), [0, 1, 2, 3, 0]), 4)  # uniform: 1 - 1/4
    0.75
    """
    scores = as_matrix(logits, "logits")
    labels = as_target(target, *scores.shape)
    error = scores.softmax(dim=1)
    error[torch.arange(len(labels)), labels] -= 1.0
    return float(error.square().sum(dim=1).mean())


def optimal_temperature(logits: Any, target: Any) -> float:
    """The temperature T that minimises the NLL of softmax(logits / T), within 0.01 .. 100.

    The NLL is convex in 1/T, so Newton's method kept inside a bracket finds the one minimum. An end of
    the range means that there is none inside: every sample is right (T -> 0), or the logits say
    nothing of the labels (T -> infinity). (Guo et al., ICML 2017.)

    Args:
        logits: (n, K) of pictures that are not those on which calibration is judged.
        target: (n,) labels 0 .. K - 1.

    Raises:
        ConfigError: fewer than 4 samples, bad logits or labels.

    >>> logits = 2 * np.log([[3, 1]] * 4)  # a confidence of 9/10 where 3 of 4 are right
    >>> round(kdlab.probes.metrics.optimal_temperature(logits, [0, 0, 0, 1]), 3)  # makes it 3/4
    2.0
    """
    scores = as_matrix(logits, "logits")
    labels = as_target(target, *scores.shape)
    scores = scores - scores.max(dim=1, keepdim=True).values
    own = scores.gather(1, labels[:, None])[:, 0]

    def slopes(beta: float) -> tuple[float, float]:
        p = (beta * scores).softmax(dim=1)
        mean = (p * scores).sum(dim=1)
        return float((mean - own).mean()), float(((p * scores.square()).sum(dim=1) - mean.square()).mean())

    low, high = 1.0 / TEMPERATURES[1], 1.0 / TEMPERATURES[0]
    if slopes(low)[0] >= 0:
        return TEMPERATURES[1]
    if slopes(high)[0] <= 0:
        return TEMPERATURES[0]
    beta = 1.0
    for _ in range(200):
        slope, curve = slopes(beta)
        low, high = (low, beta) if slope > 0 else (beta, high)
        step = beta - slope / curve if curve > 0 else low
        new = step if low < step < high else math.sqrt(low * high)
        if abs(new - beta) <= 1e-12 * beta:
            break
        beta = new
    return 1.0 / beta


def wilson_interval(successes: Any, n: Any, z: float = 1.959964) -> tuple[Tensor, Tensor]:
    """Wilson's score interval of a share: low and high, in [0, 1]; NaN where n is 0.

    Unlike the normal approximation it holds for few samples and for shares of 0 and 1. (Wilson, JASA
    1927.)

    Args:
        successes: numbers of hits, of any shape.
        n: numbers of samples, of the same shape.
        z: quantile of the normal distribution; 1.96 for 95 %.

    Returns:
        the lower and the upper end, of the shape given.

    >>> low, high = kdlab.probes.metrics.wilson_interval(5, 10)
    >>> round(low.item(), 3), round(high.item(), 3)
    (0.237, 0.763)
    >>> [round(end.item(), 3) for end in kdlab.probes.metrics.wilson_interval(10, 10)]
    [0.722, 1.0]
    """
    count = torch.as_tensor(n, dtype=torch.float64)
    share = torch.as_tensor(successes, dtype=torch.float64) / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)).sqrt()
    return (centre - half).clamp(min=0.0), (centre + half).clamp(max=1.0)


def top1_agreement(student_logits: Any, teacher_logits: Any) -> float:
    """Share of samples on which both networks give the same class, in [0, 1].

    Args:
        student_logits, teacher_logits: (n, K).

    Raises:
        ConfigError: fewer than 4 samples, bad logits, different n, or different numbers of classes.

    >>> kdlab.probes.metrics.top1_agreement(np.eye(2)[[0, 0, 1, 1]], np.eye(2)[[0, 0, 0, 1]])
    0.75
    """
    student, teacher = _same_classes(student_logits, teacher_logits)
    return float((student.argmax(dim=1) == teacher.argmax(dim=1)).double().mean())


def agreement_by_correctness(student_logits: Any, teacher_logits: Any, target: Any) -> dict[str, float]:
    """Top-1 agreement split by whether the teacher is right, and who is right how often.

    Args:
        student_logits, teacher_logits: (n, K).
        target: (n,) labels 0 .. K - 1.

    Returns:
        agreement: share of equal predictions; teacher_right, teacher_wrong: the same among the samples
        that the teacher has right, or wrong (NaN if there are none); both_right, student_wrong (teacher
        right), student_right (teacher wrong), both_wrong: shares of all samples, which sum to 1;
        same_error: share of all samples on which both give the same wrong class.

    Raises:
        ConfigError: fewer than 4 samples, bad logits or labels, different n, or different numbers of classes.

    >>> teacher, student = np.eye(2)[[0, 0, 0, 0]], np.eye(2)[[0, 0, 1, 1]]
    >>> found = kdlab.probes.metrics.agreement_by_correctness(student, teacher, [0, 0, 0, 1])
    >>> round(found["teacher_right"], 4), found["teacher_wrong"], found["student_right"]
    (0.6667, 0.0, 0.25)
    """
    student, teacher = _same_classes(student_logits, teacher_logits)
    labels = as_target(target, *student.shape)
    own, theirs = student.argmax(dim=1), teacher.argmax(dim=1)
    equal, right, taught = own == theirs, own == labels, theirs == labels

    def share(of: Tensor, among: Tensor | None = None) -> float:
        chosen = of if among is None else of[among]
        return float(chosen.double().mean()) if len(chosen) else float("nan")

    return {
        "agreement": share(equal),
        "teacher_right": share(equal, taught),
        "teacher_wrong": share(equal, ~taught),
        "both_right": share(right & taught),
        "student_wrong": share(~right & taught),
        "student_right": share(right & ~taught),
        "both_wrong": share(~right & ~taught),
        "same_error": share(equal & ~taught),
    }


def fidelity_kl(student_logits: Any, teacher_logits: Any, temperature: float = 1.0) -> float:
    """Mean over samples of KL(p_T || p_S) at a temperature, in nats, without the factor temperature^2.

    0 where both give the same probabilities. (Stanton et al., NeurIPS 2021.)

    Args:
        student_logits, teacher_logits: (n, K).
        temperature: above 0.

    Raises:
        ConfigError: fewer than 4 samples, bad logits, different n or classes, or a temperature that is not
            positive.

    >>> student, teacher = np.zeros((4, 2)), np.log([[3, 1]] * 4)
    >>> round(kdlab.probes.metrics.fidelity_kl(student, teacher), 4)  # 3/4 log(3/2) + 1/4 log(1/2)
    0.1308
    """
    student, teacher = _same_classes(student_logits, teacher_logits)
    tau = _positive(temperature)
    log_q = (student / tau).log_softmax(dim=1)
    log_p = (teacher / tau).log_softmax(dim=1)
    return float((log_p.exp() * (log_p - log_q)).sum(dim=1).mean())


def topk_overlap(student_logits: Any, teacher_logits: Any, k: int = 5) -> float:
    """Mean share of the k highest classes that both networks have in common, in [0, 1].

    The order within the k does not count; ties go to the lower class. Chance is k / K.

    Args:
        student_logits, teacher_logits: (n, K).
        k: how many classes, from 1 to K - 1.

    Raises:
        ConfigError: fewer than 4 samples, bad logits, different n or classes, or k not in 1 .. K - 1.

    >>> student, teacher = np.array([[3, 2, 1, 0]] * 4), np.array([[2, 3, 0, 1]] * 2 + [[3, 0, 2, 1]] * 2)
    >>> kdlab.probes.metrics.topk_overlap(student, teacher, k=2)  # both of two, then one of two
    0.75
    """
    student, teacher = _same_classes(student_logits, teacher_logits)
    n, classes = student.shape
    if not 1 <= k < classes:
        raise ConfigError(f"k is {k}; with {classes} classes it must lie between 1 and {classes - 1}.")
    member = torch.zeros(2, n, classes, dtype=torch.bool)
    for side, scores in enumerate((student, teacher)):
        member[side].scatter_(1, scores.argsort(dim=1, descending=True, stable=True)[:, :k], True)
    return float((member[0] & member[1]).sum(dim=1).double().mean() / k)


def _same_classes(student_logits: Any, teacher_logits: Any) -> tuple[Tensor, Tensor]:
    student, teacher = as_pair(student_logits, teacher_logits, ("student_logits", "teacher_logits"))
    if student.shape[1] != teacher.shape[1]:
        raise ConfigError(f"The student has {student.shape[1]} classes and the teacher {teacher.shape[1]}.")
    return student, teacher


def _positive(temperature: float) -> float:
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"A temperature must be positive, not {temperature!r}.")
    return float(temperature)

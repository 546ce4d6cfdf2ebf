"""What probes read, in words, where the result's own summary tells of something else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdlab.plots.probe_depth import table_of
from kdlab.probes import FactorProbe, LinearProbeResult
from kdlab.probes.words import listed, mean_over_seeds, percent, signed

_WHAT = {
    "accuracy": "held-out accuracy",
    "selectivity": "selectivity",
    "purity": "the share of the nearest neighbours that have a picture's class",
}


def at_depth(result: LinearProbeResult, value: str) -> str:
    """What the deepest layers show at the last epoch of the result."""
    if value == "accuracy":
        return f"{result.summary}{_single_seed(result)}"
    table, said, layers = table_of(result, value)[:, -1], [], []
    for name, own in zip(result.networks, table, strict=True):
        there = np.flatnonzero(np.isfinite(own).any(axis=1))
        if len(there):
            layers.append(result.layers[there[-1]])
            said.append(f"{name} {_share(mean_over_seeds(own[there[-1]]), value)}")
    if not said:
        return f"No network shows a layer at epoch {result.epochs[-1]}."
    where = f"the deepest layer{f' ({layers[0]})' if len(set(layers)) == 1 else ''}"
    start = f"At {where} after epoch {result.epochs[-1]}{_seeds(result)}, {_WHAT[value]} is {listed(said)}"
    if value == "purity":
        return f"{start}; of neighbours at random it would be {percent(result.purity_chance)}."
    return (
        f"{start}: accuracy of {_kind(result)} minus that of the same probe on random labels, one for each "
        "cluster of similar pictures. Where it is low, the probe learns by heart more than it reads."
    )


def over_epochs(result: LinearProbeResult, value: str, layer: str | None) -> str:
    """How a layer changes from the first epoch to the last; the deepest one if not given."""
    table, said, still = table_of(result, value), [], []
    k = len(result.layers) - 1 if layer is None else result.layers.index(layer)
    for name, own in zip(result.networks, table[:, :, k], strict=True):
        there = np.flatnonzero(np.isfinite(own).any(axis=1))
        if not len(there):
            continue
        first, last = (mean_over_seeds(own[e]) for e in (there[0], there[-1]))
        if name in result.teachers:
            still.append(f"{name} {_share(last, value)}")
        else:
            said.append(f"{name} from {_share(first, value)} to {_share(last, value)}")
    kind = "" if value == "purity" else f", read by {_kind(result)}"
    teachers = f" Teacher: {listed(still)} throughout." if still else ""
    chance = "" if value != "accuracy" else f" Chance is {percent(result.chance)}."
    return (
        f"{_WHAT[value][0].upper()}{_WHAT[value][1:]} at {result.layers[k]}{kind}, from epoch "
        f"{result.epochs[0]} to {result.epochs[-1]}{_seeds(result)}: {listed(said)}.{teachers}{chance}"
        f"{_single_seed(result) if value == 'accuracy' else ''}"
    )


def factors(result: FactorProbe, value: str) -> str:
    """The result's summary, and how to read the map of differences."""
    if value != "difference":
        return result.summary
    return (
        f"Above 0 a network shows more of a factor than {result.baseline} (it kept it), below 0 less (it "
        f"dropped it). {result.summary}"
    )


def _share(value: float, kind: str) -> str:
    return f"{signed(value)} points" if kind == "selectivity" else percent(value)


def _kind(result: LinearProbeResult) -> str:
    kind = "a converged softmax probe" if result.probe == "softmax" else "the quick closed-form ridge probe"
    return f"{kind} on {result.dimension} principal components" if result.dimension else kind


def _seeds(result: LinearProbeResult) -> str:
    return f" (mean of {len(result.seeds)} seeds)" if len(result.seeds) > 1 else ""


def _single_seed(result: LinearProbeResult) -> str:
    if len(result.seeds) > 1:
        return ""
    return (
        f" One seed: bars are the 95 % interval over {result.n_test} test pictures, and say nothing of how "
        "far other seeds would lie."
    )


def names(layers: Sequence[str]) -> list[tuple[str, str]]:
    """Options of a menu of layers, all of them first."""
    return [("", "all layers"), *((layer, layer) for layer in layers)]

"""Snapshots: what every network shows for a fixed set of held-out pictures at chosen epochs.

Probes and views read snapshots, so an epoch slider costs no training time and works after the
process is gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdlab.data import ImageData, ProbeSet
from kdlab.errors import ConfigError
from kdlab.methods import Method, Step
from kdlab.models.features import Features, StagedNet
from kdlab.training.files import merge_tensors, read_info, read_tensors, write_tensors

_FP16_MAX = 6e4
_LINEAR = ("weight", "bias")


@dataclass(frozen=True)
class Snapshot:
    """What one network shows of the probe set at one epoch; n pictures.

    Attributes:
        network: name of the student or teacher.
        epoch: 0 is before training.
        seed: of the run.
        stages: stage name -> (n, c) averages of the stage's map over its pixels.
        embedding: (n, d), the input of the classifier.
        logits: (n, K) of the deployed predictor.
        projected: (n, d_teacher) the embedding in the teacher's space, where the method makes one.
        attention: stage name -> (m, h, w), mean over channels of the squared map, for the pictures
            at `ProbeSet.attention_positions`.
        side: name -> (n, K) logits of further predictors of the method.
        classifier: weight (K, d) and bias (K,) of the linear classifier that reads the embedding; None
            where a method predicts in another way.

    >>> shown = study.snapshot("KD", epoch=3)
    >>> shown.logits.shape, shown.embedding.shape, shown.projected
    ((80, 10), (80, 64), None)
    >>> {name: table.shape for name, table in shown.stages.items()}
    {'layer1': (80, 16), 'layer2': (80, 32), 'layer3': (80, 64)}
    """

    network: str
    epoch: int
    seed: int
    stages: dict[str, np.ndarray]
    embedding: np.ndarray
    logits: np.ndarray
    projected: np.ndarray | None = None
    attention: dict[str, np.ndarray] = field(default_factory=dict)
    side: dict[str, np.ndarray] = field(default_factory=dict)
    classifier: tuple[np.ndarray, np.ndarray] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Half-precision tensors for the file (logits and attention stay in single precision)."""
        out: dict[str, Tensor] = {"logits": torch.from_numpy(self.logits)}
        half = {f"stage|{k}": v for k, v in self.stages.items()} | {"embedding": self.embedding}
        if self.projected is not None:
            half["projected"] = self.projected
        for key, value in half.items():
            fits = bool(np.abs(value).max(initial=0.0) < _FP16_MAX)
            out[key] = torch.from_numpy(value.astype(np.float16 if fits else np.float32))
        out.update({f"attention|{k}": torch.from_numpy(v) for k, v in self.attention.items()})
        out.update({f"side|{k}": torch.from_numpy(v) for k, v in self.side.items()})
        if self.classifier is not None:
            out |= {f"classifier|{k}": torch.from_numpy(v) for k, v in zip(_LINEAR, self.classifier)}
        return out

    @staticmethod
    def from_tensors(network: str, epoch: int, seed: int, tensors: Mapping[str, Tensor]) -> Snapshot:
        """Read back what `tensors` gave; all arrays are float32."""
        arrays = {key: value.float().numpy() for key, value in tensors.items()}

        def group(kind: str) -> dict[str, np.ndarray]:
            return {k.split("|", 1)[1]: v for k, v in arrays.items() if k.startswith(f"{kind}|")}

        return Snapshot(
            network,
            epoch,
            seed,
            stages=group("stage"),
            embedding=arrays["embedding"],
            logits=arrays["logits"],
            projected=arrays.get("projected"),
            attention=group("attention"),
            side=group("side"),
            classifier=_pair(group("classifier")),
        )


def save_probe_set(path: Path, probe: ProbeSet) -> None:
    """Write pictures, labels and what else a probe set has."""
    tensors = {"images": probe.images, "labels": probe.labels, "index": probe.index}
    tensors |= {f"factor|{name}": values for name, values in probe.factors.items()}
    tensors["fit"] = torch.from_numpy(probe.fit)
    write_tensors(path, tensors, {"attention": probe.attention_count})


def load_probe_set(path: Path) -> ProbeSet:
    """Read what `save_probe_set` wrote."""
    t, info = read_tensors(path)
    factors = {k.removeprefix("factor|"): v for k, v in t.items() if k.startswith("factor|")}
    return ProbeSet(t["images"], t["labels"], t["index"], t["fit"].numpy(), info["attention"], factors)


def _pair(linear: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    return (linear["weight"], linear["bias"]) if linear else None


def save_snapshots(path: Path, snapshots: Sequence[Snapshot]) -> None:
    """Write the snapshots of networks at one epoch into one file, beside those it holds of others."""
    tensors = {f"{s.network}|{key}": t for s in snapshots for key, t in s.tensors().items()}
    entries = {s.network: {"epoch": s.epoch, "seed": s.seed} for s in snapshots}
    merge_tensors(path, tensors, "snapshots", entries)


def load_snapshot(path: Path, network: str) -> Snapshot | None:
    """The snapshot of one network in a file, or None where it has none."""
    prefix = f"{network}|"
    tensors, info = read_tensors(path, prefix)
    if network not in info["snapshots"]:
        return None
    entry = info["snapshots"][network]
    own = {k[len(prefix) :]: t for k, t in tensors.items()}
    return Snapshot.from_tensors(network, entry["epoch"], entry["seed"], own)


def snapshot_names(path: Path) -> set[str]:
    """The networks of which a file holds a snapshot."""
    return set(read_info(path)["snapshots"])


def snapshot_epochs(plan: str | Sequence[int], epochs: int) -> list[int]:
    """Epochs at which snapshots are taken, always with 0 (before training) and the last.

    Args:
        plan: "geometric" (0, 1, 2, 4, 8, ...), "all", "ends", or epochs listed by hand.
        epochs: the length of the training.
    """
    if isinstance(plan, str):
        if plan == "geometric":
            chosen = [2**k for k in range(20)]
        elif plan in ("all", "ends"):
            chosen = list(range(epochs + 1)) if plan == "all" else []
        else:
            raise ConfigError(
                f"snapshots must be 'geometric', 'all', 'ends' or a list of epochs, not {plan!r}."
            )
    else:
        chosen = [int(epoch) for epoch in plan]
    return sorted({0, epochs, *(e for e in chosen if 0 <= e <= epochs)})


@torch.no_grad()
def measure(
    nets: Mapping[str, tuple[StagedNet, Method | None]],
    teachers: Sequence[StagedNet],
    data: ImageData,
    probe: ProbeSet,
    *,
    device: torch.device,
    epoch: int,
    seed: int,
    batch_size: int = 256,
) -> list[Snapshot]:
    """Snapshots of several networks on the probe set, in eval mode; the modes found are put back.

    Args:
        nets: name -> (network, its built method, or None for a teacher).
        teachers: frozen teachers, whose features methods may read to project.
        data: gives the normalisation.
        probe: the pictures.
        device: where the networks are.
        epoch, seed: to be written into the snapshots.
        batch_size: pictures at a time.
    """
    modules = [m for net, method in nets.values() for m in (net, method) if m is not None]
    modes = [(m, m.training) for m in modules]
    for module in modules:
        module.eval()
    parts: dict[str, list[dict[str, Tensor]]] = {name: [] for name in nets}
    attention = torch.zeros(len(probe.labels), dtype=torch.bool)
    attention[torch.from_numpy(probe.attention_positions)] = True
    needs_teachers = any(
        method is not None and _overrides(method, "project", "side_logits", "predict")
        for _, method in nets.values()
    )
    for start in range(0, len(probe.labels), batch_size):
        rows = slice(start, start + batch_size)
        images = data.normalize(probe.images[rows].to(device))
        target, index = probe.labels[rows].to(device), probe.index[rows].to(device)
        seen = tuple(t.features(images) for t in teachers) if needs_teachers else ()
        for name, (net, method) in nets.items():
            features = net.features(images)
            step = Step(features, target, seen, tuple(t.classifier for t in teachers), index, max(epoch, 1))
            parts[name].append(_read(features, step, method, net.stage_names, attention[rows].to(device)))
    for module, mode in modes:
        module.train(mode)
    out = []
    for name, part in parts.items():
        tensors = {k: torch.cat([p[k] for p in part]) for k in part[0]} | _linear(*nets[name])
        out.append(Snapshot.from_tensors(name, epoch, seed, tensors))
    return out


def _linear(net: StagedNet, method: Method | None) -> dict[str, Tensor]:
    """The classifier that reads the embedding, where it is what predicts."""
    if method is not None and method.overrides("predict"):
        return {}
    layer = net.classifier
    bias = layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
    return {
        f"classifier|{k}": v.detach().float().cpu()
        for k, v in zip(_LINEAR, (layer.weight, bias), strict=True)
    }


def _overrides(method: Method, *names: str) -> bool:
    return any(method.overrides(name) for name in names)


def _read(
    features: Features, step: Step, method: Method | None, names: Sequence[str], attention: Tensor
) -> dict[str, Tensor]:
    out = {"embedding": features.embedding}
    out["logits"] = features.logits if method is None else method.predict(step)
    for name, stage in zip(names, features.stages, strict=True):
        out[f"stage|{name}"] = stage.mean(dim=(2, 3))
        out[f"attention|{name}"] = stage[attention].square().mean(dim=1)
    if method is not None:
        projected = method.project(step)
        if projected is not None:
            out["projected"] = projected
        out.update({f"side|{k}": v for k, v in method.side_logits(step).items()})
    return {key: value.float().cpu() for key, value in out.items()}

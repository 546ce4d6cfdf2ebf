"""How many times faster are steady t-SNE maps than scikit-learn's, and CKA than by Gram matrices?

Three tables, each with both sides in the same run:

- t-SNE backends on one set of points: seconds, KL divergence, trustworthiness;
- a map of six epochs, as `kdlab.probes.embed` makes it, against six independent fits of scikit-learn;
- linear CKA of all layer pairs in feature space against centred Gram matrices in float64.

Points are features of small networks that are really trained on the digits for a second, so that epochs
differ as epochs do.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from harness import Row, arguments, table, write
from machine import machine, machine_line
from torch import Tensor, nn

from kdlab.probes.alignment import procrustes_map, rigid
from kdlab.probes.maps import movement, steady_tsne, trustworthiness
from kdlab.probes.metrics import similarity_matrix

tsne_module = importlib.import_module("kdlab.probes.tsne")  # the package hands on the function of that name

EPOCHS = (0, 1, 2, 4, 10, 20)
K = 10
STARTS = ("pca", "random")  # scikit-learn's default, and its former one


def features(points: int) -> list[np.ndarray]:
    """Per epoch (2, points / 2, 128): a teacher, and a student brought into its space, of held-out scans."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(scans.target), generator=generator)
    x, y = torch.tensor(scans.data / 16.0).float()[order], torch.tensor(scans.target)[order]
    shown = points // 2
    held = min(shown, 1200)  # of 1,797 scans; beyond, scans are shown again with noise
    teacher = _trained(128, 1, (30,), x[held:], y[held:], x, generator)[0]
    students = _trained(48, 2, EPOCHS, x[held:], y[held:], x, generator)
    fit = np.arange(len(y)) >= held
    again = np.resize(np.arange(held), shown)
    noise = np.random.default_rng(0).normal(size=(shown, teacher.shape[1])) * 0.05 * teacher.std()
    noise[:held] = 0.0
    both = [(teacher, procrustes_map(own, teacher, fit)) for own in students]
    return [np.stack([table[again] + noise for table in pair]) for pair in both]


def _trained(
    width: int, seed: int, epochs: Sequence[int], x: Tensor, y: Tensor, every: Tensor, order: torch.Generator
) -> list[np.ndarray]:
    """Features of all scans after some epochs of training on (x, y)."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )
    step = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    out = []
    for epoch in range(max(epochs) + 1):
        if epoch in epochs:
            with torch.no_grad():
                out.append(net[:4](every).double().numpy())
        for places in torch.randperm(len(y), generator=order).split(32):
            step.zero_grad()
            nn.functional.cross_entropy(net(x[places]), y[places]).backward()
            step.step()
    return out


# ---- t-SNE ------------------------------------------------------------------------------------------


def backend_rows(sizes: Sequence[int], backends: Sequence[str] | None = None) -> list[Row]:
    """A row for each number of points and backend: a fit from scratch with each one's own defaults."""
    rows: list[Row] = []
    tables = [features(points)[-1].reshape(points, -1) for points in sizes]
    for points, x in zip(sizes, tables, strict=True):
        for name in backends or ("sklearn", "torch", "opentsne"):
            steps = 400 if name == "torch" else 750 if name == "opentsne" else 1000
            try:
                seconds, (flat, divergence) = _timed(
                    partial(tsne_module.tsne, x, backend=name, iterations=steps)
                )
            except Exception as error:  # an optional library that is not there
                rows.append({"points": points, "backend": name, "note": str(error).split(";")[0]})
                continue
            rows.append(
                {
                    "points": points,
                    "backend": name,
                    "iterations": steps,
                    "s": seconds,
                    "KL": divergence,
                    "trust": f"{trustworthiness(x, flat, K):.4f}",
                }
            )
    return rows


def aligned_rows(points: int = 2000, pulls: Sequence[float] = (1.0, 0.0)) -> list[Row]:
    """Six epochs: `embed`'s way, and six fits of scikit-learn from its two starts; ratios to its default."""
    frames = features(points)
    tables = [frame.reshape(points, -1) for frame in frames]
    present = [[0, 1]] * len(frames)
    made: list[tuple[str, float, list[np.ndarray], np.ndarray]] = []
    for pull in pulls:
        seconds, maps = _timed(partial(steady_tsne, frames, present, True, 30.0, "auto", 0, pull))
        made.append((f"kdlab, pull {pull:g}", seconds, maps.frames, maps.divergence))
    for start in STARTS:
        seconds, fitted = _timed(partial(_all_independent, tables, start))
        flat = [one.reshape((*frames[0].shape[:2], 2)) for one, _ in fitted]
        made.append((f"scikit-learn, init={start}", seconds, flat, np.array([kl for _, kl in fitted])))
        turned = [flat[0]]
        for frame in flat[1:]:
            turned.append(rigid(frame.reshape(-1, 2), turned[-1].reshape(-1, 2)).reshape(frame.shape))
        made.append(("  the same, turned onto each other", seconds, turned, made[-1][3]))
    base = next(seconds for name, seconds, _, _ in made if name.endswith("init=pca"))
    trusts = {
        name: np.mean(
            [trustworthiness(x, f.reshape(points, 2), K) for x, f in zip(tables, flat, strict=True)]
        )
        for name, _, own, _ in made
    }
    drifts = {name: float(np.nanmean(movement(np.stack(flat), flat))) for name, _, flat, _ in made}
    return [
        {
            "maps": name,
            "s": seconds,
            "x faster": base / seconds,
            "KL": float(divergence.mean()),
            "trust": f"{trusts[name]:.4f}",
            "drift": f"{drifts[name]:.3f}",
        }
        for name, seconds, flat, divergence in made
    ]


def _all_independent(tables: Sequence[np.ndarray], start: str) -> list[tuple[np.ndarray, float]]:
    return [_independent(x, start, seed) for seed, x in enumerate(tables)]


def _independent(x: np.ndarray, start: str, seed: int) -> tuple[np.ndarray, float]:
    """What a user would run: scikit-learn's t-SNE with another seed each time."""
    from sklearn.manifold import TSNE

    model = TSNE(2, init=start, random_state=seed)
    return model.fit_transform(x).astype(np.float64), float(model.kl_divergence_)


# ---- CKA --------------------------------------------------------------------------------------------


def cka_rows(sizes: Sequence[int], layers: int = 4, rounds: int = 3) -> list[Row]:
    """All pairs of `layers` by `layers`, against Gram matrices made for each pair, and once."""
    rows: list[Row] = []
    for n in sizes:
        generator = np.random.default_rng(0)
        count = layers if n <= 5000 else min(layers, 2)  # two are enough of minutes of Gram matrices
        widths = [32, 64, 128, 256][-count:]
        signal = generator.normal(size=(n, 20))
        left, right = ([_layer(signal, width, generator) for width in widths] for _ in range(2))
        quick = min(_timed(partial(similarity_matrix, left, right))[0] for _ in range(rounds))
        found = similarity_matrix(left, right)
        slow, gram = _timed(partial(_by_gram, left, right))
        naive = sum(_timed(partial(_by_gram, [x], [y]))[0] for x in left for y in right)
        rows.append(
            {
                "n": n,
                "pairs": count * count,
                "pair by pair s": naive,
                "Gram once s": slow,
                "kdlab s": f"{quick:.4f}",
                "x pair by pair": naive / quick,
                "x Gram once": slow / quick,
                "largest difference": f"{np.abs(found - gram).max():.0e}",
            }
        )
    return rows


def _layer(signal: np.ndarray, width: int, generator: np.random.Generator) -> np.ndarray:
    mixed = signal @ generator.normal(size=(signal.shape[1], width)) + generator.normal(
        size=(len(signal), width)
    )
    return np.maximum(mixed, 0.0)


def _by_gram(lefts: Sequence[np.ndarray], rights: Sequence[np.ndarray]) -> np.ndarray:
    """Linear CKA as <HKH, HLH> / (||HKH|| ||HLH||), a Gram matrix for each layer."""
    n = len(lefts[0])
    keep = n * n * 8 * len(rights) < 4 * 2**30
    kept = [_centred_gram(table) for table in rights] if keep else None
    out = np.empty((len(lefts), len(rights)))
    for i, left in enumerate(lefts):
        k = _centred_gram(left)
        for j, right in enumerate(rights):
            m = kept[j] if kept is not None else _centred_gram(right)
            out[i, j] = float((k * m).sum() / (torch.linalg.norm(k) * torch.linalg.norm(m)))
    return out


def _centred_gram(x: np.ndarray) -> Tensor:
    gram = torch.from_numpy(x) @ torch.from_numpy(x).T
    rows = gram.mean(dim=0)
    return gram.sub_(rows).sub_(rows[:, None]).add_(rows.mean())


# ---- from the command line --------------------------------------------------------------------------


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    found = call()
    return time.perf_counter() - started, found


def maps_report(quick: bool = False) -> dict[str, list[Row]]:
    """All tables, printed as they come."""
    sizes = (200,) if quick else (500, 1000, 2000, 5000)
    results: dict[str, list[Row]] = {}
    print("\nt-SNE from scratch, each backend with its usual number of iterations")
    results["backends"] = backend_rows(sizes)
    print(table(results["backends"]))
    points = 200 if quick else 2000
    print(
        f"\nmaps of {len(EPOCHS)} epochs of {points} points; drift: mean way of a point, in radii of the map"
    )
    results["aligned"] = aligned_rows(points)
    print(table(results["aligned"]))
    print("\nlinear CKA of all layer pairs, widths 32 to 256")
    results["cka"] = cka_rows((500,) if quick else (2000, 5000, 10_000))
    print(table(results["cka"]))
    return results


def main() -> None:
    """Measure and print."""
    args = arguments(__doc__).parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    about = machine()
    print(machine_line(about))
    write(args.json, about, **maps_report(args.quick))


if __name__ == "__main__":
    main()

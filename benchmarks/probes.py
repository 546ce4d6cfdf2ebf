"""How many times faster than scikit-learn, or than the naive way, are probes, at equal quality?

Usage: python benchmarks/probes.py [--quick] [--only linear,maps] [--threads N] [--json FILE]

Every part is a function that takes `quick`, prints its tables as they come and gives them by name. Both
sides of a row are timed in the same run, in turn, and what they reach stands beside the ratio. Features
of the linear part are synthetic: class means and noise with decaying spectra, mixed and bent like those
behind a ReLU, harder to read in narrow (early) layers than in wide ones.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from harness import Row, arguments, median, table, write
from machine import machine, machine_line

Tables = Mapping[str, Sequence[Row]]

WIDTHS = (32, 32, 64, 64, 128, 128, 256, 256)
CLASSES = 100
L2 = 1.0
TOLERANCE = 1e-4  # of the softmax probe: share of the objective; scikit-learn's default stops further off


def features(
    n: int, width: int, depth: int, drift: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(n, width) float32 features of a layer and (n,) labels; with `drift`, those of the next epoch."""
    labels = np.random.default_rng(seed).permutation(np.arange(n) % CLASSES)
    random = np.random.default_rng([seed, depth])
    places = np.arange(1, width + 1)
    basis = np.linalg.qr(random.normal(size=(width, width)))[0]
    means = random.normal(size=(CLASSES, width)) / places
    z = (0.45 + 0.07 * depth) * means[labels] + random.normal(size=(n, width)) * places**-0.7
    x = np.logaddexp(0, 3 * z @ basis.T)
    if drift:
        change = np.random.default_rng([seed, depth, 1])
        turn = np.eye(width) + drift * change.normal(size=(width, width)) / np.sqrt(width)
        x = x @ turn + drift * x.std(axis=0) * change.normal(size=x.shape)
    return x.astype(np.float32), labels


def linear(quick: bool) -> Tables:
    """Closed form and softmax at one penalty, cold and warm, against LogisticRegression with its defaults."""
    from sklearn.linear_model import LogisticRegression

    from kdlab.probes.ridge import fit_discriminant
    from kdlab.probes.softmax import fit_softmax

    n, rounds = (2000, 1) if quick else (10_000, 3)
    rows: list[dict[str, Any]] = []
    for depth, width in enumerate(WIDTHS[::2] if quick else WIDTHS, 1):
        (x, labels), (later, _) = (features(n + 4000, width, depth, drift) for drift in (0.0, 0.01))
        x, later = ((one - one[:n].mean(axis=0)) / one[:n].std(axis=0) for one in (x, later))
        known, after, test = torch.from_numpy(x[:n]), torch.from_numpy(later[:n]), torch.from_numpy(x[n:])
        y, truth = torch.from_numpy(labels[:n]), labels[n:]
        options: dict[str, Any] = {"classes": CLASSES, "tolerance": TOLERANCE}
        first = fit_softmax(known, y, L2, **options)
        reference = LogisticRegression(C=1 / L2)
        sides: dict[str, Callable[[], Any]] = {
            "sklearn": lambda: reference.fit(x[:n], labels[:n]),  # noqa: B023
            "closed": lambda: fit_discriminant(known[None], y, CLASSES),  # noqa: B023
            "cold": lambda: fit_softmax(known, y, L2, **options),  # noqa: B023
            "next cold": lambda: fit_softmax(after, y, L2, **options),  # noqa: B023
            "next warm": lambda: fit_softmax(after, y, L2, start=first, **options),  # noqa: B023
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        found = {}
        for _ in range(rounds):
            for name, work in sides.items():
                began = time.perf_counter()
                found[name] = work()
                seconds[name].append(time.perf_counter() - began)
        weight, bias, _ = found["closed"]
        closed = (test.double() @ weight[0] + bias[0]).argmax(dim=1).numpy()
        softmax = first.logits(test[None].double())[0].argmax(dim=1).numpy()
        best = {name: median(times) for name, times in seconds.items()}
        rows.append(
            {
                "features": width,
                "sklearn s": best["sklearn"],
                "closed x": best["sklearn"] / best["closed"],
                "softmax x": best["sklearn"] / best["cold"],
                "warm x cold": best["next cold"] / best["next warm"],
                "sklearn %": 100 * reference.score(x[n:], truth),
                "closed %": 100 * float((closed == truth).mean()),
                "softmax %": 100 * float((softmax == truth).mean()),
                "gap": float(found["next warm"].objective / found["next cold"].objective) - 1,
                "times": best,
            }
        )
    total = {name: sum(row["times"][name] for row in rows) for name in rows[0]["times"]}
    rows.append(
        {
            "features": "all",
            "sklearn s": total["sklearn"],
            "closed x": total["sklearn"] / total["closed"],
            "softmax x": total["sklearn"] / total["cold"],
            "warm x cold": total["next cold"] / total["next warm"],
            "times": total,
        }
    )
    print("\nlinear probes against LogisticRegression with its defaults; gap: objective, warm over cold")
    print(table(rows, [key for key in rows[0] if key != "times"]))
    return {"layers": rows}


def maps(quick: bool) -> Tables:
    """t-SNE and CKA."""
    from probe_maps import maps_report

    return maps_report(quick)


PARTS: dict[str, Callable[[bool], Tables]] = {"linear": linear, "maps": maps}


def main() -> None:
    """Run the parts and print their rows."""
    parser = arguments(__doc__)
    parser.add_argument("--only", metavar="PARTS", help=f"some of: {', '.join(PARTS)}")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    chosen = args.only.split(",") if args.only else list(PARTS)
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    about = machine()
    print(machine_line(about))
    results: dict[str, Any] = {}
    for name in chosen:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn stops before it has converged, and says so
            results[name] = PARTS[name](args.quick)
    write(args.json, about, **results)


if __name__ == "__main__":
    main()

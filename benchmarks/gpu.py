"""How fast does one GPU train the pairs of the CIFAR-100 recipe, and how long would 240 epochs take?

Usage: python benchmarks/gpu.py [--budget 450] [--json FILE]
       python benchmarks/gpu.py --device cpu --quick      (tries all of the code on a machine without a GPU)

For each pair of networks the textbook loop, then studies of one student and of 8 in lockstep, eager and
compiled (`compile="default"`, `compile="graphs"`), in fp32, tf32 and bf16, on the same card one after
another. What tells most comes first; what does not fit into the budget of seconds is named at the end.
An epoch is 50,000 pictures, as in the recipe. The best settings of the first pair are then run for
whole epochs, evaluation, checkpoints and snapshots included.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from harness import Child, SideFailed, arguments, median, table, write
from machine import machine, machine_line
from sides import BATCH, EPOCHS, PAIRS, StudySide, TextbookSide

EPOCH = 50_000
TRAIN = 44_800  # pictures in 700 whole batches; CIFAR-100 has 45,000 without the validation part
WORKERS = 8  # of the public code on machines with a GPU
MAIN = "resnet32x4 -> resnet8x4"
TINY = "resnet8 -> resnet8"
NETS = {**PAIRS, TINY: ("resnet8", "resnet8")}

Setting = dict[str, Any]


def settings(quick: bool, many: int) -> list[Setting]:
    """What to measure, the most telling first."""
    pairs = [TINY] if quick else [MAIN, *(name for name in PAIRS if name != MAIN)]
    if quick:  # graphs are refused without a GPU, which must end in a note
        tried = [(1, "", "fp32"), (many, "", "fp32"), (1, "", "bf16"), (1, "graphs", "tf32")]
        tried.append((many, "default", "fp32"))
        return [{"pair": TINY, "what": "textbook"}, *(_study(TINY, *one) for one in tried)]
    first = [(1, "", "bf16"), (1, "graphs", "bf16"), (many, "graphs", "bf16"), (many, "", "bf16")]
    first += [(1, "", "tf32"), (1, "graphs", "tf32"), (many, "graphs", "tf32"), (1, "default", "bf16")]
    then = [(1, "", "fp32"), (many, "", "tf32"), (many, "default", "bf16"), (1, "graphs", "fp32")]
    last = [(many, "", "fp32"), (many, "graphs", "fp32")]
    last += [(k, "default", p) for p in ("tf32", "fp32") for k in (1, many)]
    plan: list[Setting] = [{"pair": name, "what": "textbook"} for name in pairs]
    for part in (first, then, last):
        for name in pairs:
            plan += [_study(name, *one) for one in part]
    return plan


def _study(pair: str, students: int, compiled: str, precision: str) -> Setting:
    options = {"precision": precision, "compile": compiled}
    return {"pair": pair, "what": "study", "students": students, **options}


class Bench:
    """Makes one side after another in one process, since every process costs seconds of start."""

    def __init__(self, device: str, quick: bool) -> None:
        self.device, self.quick = device, quick
        self.common: dict[str, Any] = {"device": device, "quick": quick, "batch": 8 if quick else BATCH}
        if device.startswith("cuda"):
            torch.zeros(1, device=device)

    def measure(self, setting: Setting, seconds: float) -> dict[str, Any]:
        """Rate, seconds until the first windows, and the most memory on the device."""
        torch.compiler.reset()  # a network compiled for the last setting must not count against this one
        began = time.perf_counter()
        with self._fresh() as facts, contextlib.closing(self._side(setting)) as side:
            side.run(0.1)
            if isinstance(side, StudySide):
                side.until(2 if self.quick else 30)
            facts["start_seconds"] = time.perf_counter() - began
            facts["rate"] = median([side.run(seconds).rate for _ in range(1 if self.quick else 3)])
        return facts

    def whole_epoch(self, setting: Setting) -> dict[str, Any]:
        """Seconds of an epoch with its evaluation, checkpoint and snapshot: the second and the third."""
        torch.compiler.reset()
        size = {"train": 128, "held_out": 100} if self.quick else {"train": TRAIN, "held_out": 5_000}
        setup = {"evaluate_every": 1, "snapshots": "geometric", "probe_size": 64 if self.quick else 2000}
        side = self._study(setting, setup=setup, **size)
        with contextlib.closing(side):
            side.until(side.steps_per_epoch, 0.5)
            before, start = side.steps, time.perf_counter()
            side.until(3 * side.steps_per_epoch, 0.5)
            spent, done = time.perf_counter() - start, side.steps - before
        return {"seconds": spent / done * side.steps_per_epoch, "pictures": len(side.study.data.train)}

    def _side(self, setting: Setting) -> TextbookSide | StudySide:
        if setting["what"] == "study":
            return self._study(setting)
        workers = 2 if self.quick else WORKERS
        pair = NETS[setting["pair"]]
        return TextbookSide(pair, workers=workers, **self.common)

    def _study(self, setting: Setting, **more: Any) -> StudySide:
        options = {k: setting[k] for k in ("precision", "compile")}
        students, pair = setting["students"], NETS[setting["pair"]]
        size = {"train": TRAIN, **more}
        return StudySide(pair, students=students, options=options, **self.common, **size)

    @contextlib.contextmanager
    def _fresh(self) -> Iterator[dict[str, Any]]:
        """Memory of the device counted from here."""
        facts: dict[str, Any] = {}
        gpu = self.device.startswith("cuda")
        gc.collect()
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        yield facts
        if gpu:
            facts["peak_mb"] = torch.cuda.max_memory_allocated() / 2**20

    def close(self) -> None:
        pass


class Session:
    """Runs settings while there is time, in a process that is replaced when it dies."""

    def __init__(self, args: Any, about: dict[str, Any]) -> None:
        self.args, self.about = args, about
        self.rows: list[dict[str, Any]] = []
        self.skipped: list[str] = []
        self.epochs: list[dict[str, Any]] = []
        self._end = time.monotonic() + args.budget
        self._child: Child | None = None

    def left(self) -> float:
        """Seconds that remain."""
        return self._end - time.monotonic()

    def ask(self, method: str, *given: Any) -> dict[str, Any]:
        """A method of `Bench`; what goes wrong becomes a note."""
        try:
            if self._child is None:
                self._child = Child(Bench, device=self.args.device, quick=self.args.quick)
            return dict(self._child.ask(method, *given))
        except SideFailed as failure:
            if self._child is not None:
                self._child.close()
            self._child = None
            return {"note": str(failure)}

    def measure(self, setting: Setting, reserve: float) -> None:
        """One row, if there is time for it."""
        slow = 60.0 if setting.get("compile") else 15.0
        if not self.args.quick and self.left() - reserve < slow:
            self.skipped.append(describe(setting))
            return
        row = {**setting, **self.ask("measure", setting, 0.2 if self.args.quick else 1.5)}
        if "rate" in row:
            row["epoch s"] = EPOCH * setting.get("students", 1) / row["rate"]
            row[f"{EPOCHS} epochs min"] = EPOCHS * row["epoch s"] / 60
            row["x"] = self._times(row)
        self.rows.append(row)
        print(f"  {describe(setting):<60} {_rate(row)}", flush=True)
        self.write()

    def _times(self, row: dict[str, Any]) -> float | None:
        base = [r for r in self.rows if r["what"] == "textbook" and r["pair"] == row["pair"] and "rate" in r]
        return row["rate"] / base[0]["rate"] if base else None

    def whole_epochs(self, pair: str) -> None:
        """Whole epochs with the fastest setting for one student and for many."""
        for many in (False, True):
            tried = [r for r in self.rows if r["pair"] == pair and "rate" in r and r["what"] == "study"]
            tried = [r for r in tried if (r["students"] > 1) == many]
            if self.args.quick:  # compiling again would take longer than all the rest
                tried = [r for r in tried if not r["compile"]]
            if tried and (self.args.quick or self.left() > 20):
                best = max(tried, key=lambda r: r["rate"])
                self.epochs.append({**best, "whole": self.ask("whole_epoch", best)})

    def write(self) -> None:
        """All that is known so far, so that a killed run has told something."""
        write(self.args.json, self.about, rows=self.rows, skipped=self.skipped, epochs=self.epochs)

    def close(self) -> None:
        if self._child is not None:
            self._child.close()


def describe(setting: Setting) -> str:
    """A setting in words."""
    if setting["what"] == "textbook":
        return f"{setting['pair']}: textbook loop"
    how = {"": "eager", "default": "compiled", "graphs": "CUDA graphs"}[setting["compile"]]
    return f"{setting['pair']}: {setting['students']} student(s), {how}, {setting['precision']}"


def _rate(row: dict[str, Any]) -> str:
    if "rate" not in row:
        return f"not measured: {row.get('note', '')}"
    times = f" = {row['x']:.1f} x textbook" if row.get("x") and row["what"] == "study" else ""
    minutes = row[f"{EPOCHS} epochs min"]
    length = f"{EPOCHS} epochs in {minutes:.1f} min (start {row['start_seconds']:.0f} s)"
    return f"{row['rate']:8.0f} images/s{times}; {length}"


def main() -> int:
    """Measure what fits into the budget, print it as it comes, then a table."""
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, default=450.0, metavar="S", help="seconds for everything")
    parser.add_argument("--students", type=int, default=8, metavar="K")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print(
            "benchmarks/gpu.py needs an NVIDIA GPU, and PyTorch sees none here (`kdlab doctor` tells why). "
            "Its code can be tried without one: --device cpu --quick.",
            file=sys.stderr,
        )
        return 2
    if not args.device.startswith("cuda") and not args.quick:
        parser.error("without a GPU only a trial of the code makes sense: add --quick.")
    many = 2 if args.quick else args.students
    about = machine(args.device)
    print(machine_line(about))
    session = Session(args, about)
    plan = settings(args.quick, many)
    try:
        for setting in plan:
            session.measure(setting, reserve=0.0 if args.quick else 60.0)
        session.whole_epochs(plan[0]["pair"])
    finally:
        session.close()
        session.write()
    finish(session)
    return 0


def finish(session: Session) -> None:
    """The table, the whole epochs, and what was left out."""
    columns = [
        "pair",
        "what",
        "students",
        "compile",
        "precision",
        "rate",
        "x",
        "epoch s",
        f"{EPOCHS} epochs min",
    ]
    print("\nstudent-images/s; epochs of 50,000 pictures; x: times the textbook loop on this card")
    print(table([row for row in session.rows if "rate" in row], [*columns, "peak_mb"]))
    for row in session.epochs:
        whole = row["whole"]
        if "seconds" in whole:
            minutes = EPOCHS * whole["seconds"] * EPOCH / whole["pictures"] / 60
            print(
                f"{describe(row)}: {whole['seconds']:.1f} s for a whole epoch of "
                f"{whole['pictures']} pictures with evaluation, "
                f"so {EPOCHS} epochs of {EPOCH} in {minutes:.1f} min"
            )
        else:
            print(f"{describe(row)}: whole epochs not measured: {whole['note']}")
    if session.skipped:
        print(f"No time was left for: {'; '.join(session.skipped)}.")


if __name__ == "__main__":
    sys.exit(main())

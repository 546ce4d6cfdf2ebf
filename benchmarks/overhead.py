"""What do recording, snapshots and live control cost a study, and how fast is a long history read back?

Usage: python benchmarks/overhead.py [--quick] [--rounds 3] [--json FILE]

1. A whole study of the digits with everything at its default, against the same training without folder,
   probe set and control, each from its start to its end.
2. Steps of resnet20 -> resnet8 on 32x32 pictures with and without them; with the time of one snapshot
   of the default probe set this tells the cost for a study of usual length.
3. A finished study of 200 epochs of 703 steps is written by the writers themselves and loaded.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import Child, Window, arguments, in_turn, median, ratio, table, write
from machine import machine, machine_line
from sides import EPOCHS, PAIRS, StudySide, networks

import kdlab
from kdlab.training import worker
from kdlab.training.control import Control
from kdlab.training.record import RunRecord
from kdlab.training.snapshots import save_snapshots, snapshot_epochs

STUDENTS = {"alone": "ce", "KD": "kd", "AT": "at"}
PICTURES, SHORT = 45_000, 30  # training pictures of CIFAR-100, epochs of its quick recipe
WHOLE = 12  # epochs of the digits


class Free(Control):
    """A control that nobody can reach: each step begins at once."""

    def tick(self, count: bool = True) -> bool:
        return True


@contextlib.contextmanager
def nothing_kept() -> Iterator[None]:
    """Inside, new runs have no folder and no probe set, so nothing is written and no snapshot taken."""
    plan, record = worker.RunPlan, worker.RunRecord

    def bare_plan(**given: Any) -> Any:
        return plan(**{**given, "folder": None, "probe": None, "snapshot_epochs": ()})

    worker.RunPlan, worker.RunRecord = bare_plan, lambda folder: record(None)  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        worker.RunPlan, worker.RunRecord = plan, record  # type: ignore[misc]


class Whole:
    """Trains a study of the digits from start to end, every time it is asked to run."""

    def __init__(self, bare: bool, quick: bool = False) -> None:
        self.bare = bare
        self.data = kdlab.data.load("digits", limit=200 if quick else None)
        self.teacher, _ = networks(("resnet20", "resnet8"), self.data)
        self.epochs = 2 if quick else WHOLE

    def run(self, seconds: float) -> Window:
        """One training; its length is what it is."""
        with tempfile.TemporaryDirectory(prefix="kdlab-bench-") as folder:
            study = kdlab.Study(
                self.data,
                self.teacher,
                "resnet8",
                STUDENTS,
                recipe="lab_small",
                epochs=self.epochs,
                device="cpu",
                folder=Path(folder) / "study",
            )
            start = time.perf_counter()
            if self.bare:
                with nothing_kept():
                    study.control = Free()
                    study._prepare()
                    study._make_run(study.seeds[0]).train()
            else:
                study.fit(progress=False)
            spent = time.perf_counter() - start
        return Window(self.epochs * len(self.data.train) * len(STUDENTS), spent)

    def close(self) -> None:
        pass


class Steps(StudySide):
    """Steps at the size of CIFAR-100, with everything at its default or without folder and probe set."""

    def __init__(self, bare: bool, quick: bool = False) -> None:
        with nothing_kept() if bare else contextlib.nullcontext():
            setup = {"snapshots": "geometric", "probe_size": 200 if quick else 2000}
            super().__init__(PAIRS["resnet20 -> resnet8"], students=2, setup=setup, quick=quick)

    def snapshot(self) -> float:
        """Seconds to take and write one snapshot of all students."""
        start = time.perf_counter()
        taken = self.study.live_snapshot().result()
        save_snapshots(self.study.folder / "again.safetensors", list(taken.values()))
        return time.perf_counter() - start


def whole_study(args: Any) -> dict[str, Any]:
    """Percent more time for a whole study."""
    with contextlib.ExitStack() as stack:
        sides = {
            key: stack.enter_context(
                contextlib.closing(Child(Whole, bare=key == "bare", quick=args.quick, threads=args.threads))
            )
            for key in ("bare", "full")
        }
        rates = in_turn(sides, args.rounds, 0.0, args.patience)
    return {"full": median(rates["full"]), "bare": median(rates["bare"]), "rates": rates} | {
        "percent": 100 * (ratio(rates, "bare", "full") - 1)
    }


def usual_study(args: Any) -> dict[str, Any]:
    """Percent more time for steps, and with snapshots for the lengths of two recipes."""
    with contextlib.ExitStack() as stack:
        sides = {
            key: stack.enter_context(
                contextlib.closing(Child(Steps, bare=key == "bare", quick=args.quick, threads=args.threads))
            )
            for key in ("bare", "full")
        }
        rates = in_turn(sides, args.rounds, 0.2 if args.quick else 2.5, args.patience)
        seconds = median([sides["full"].ask("snapshot") for _ in range(1 if args.quick else 3)])
    steps = 100 * (ratio(rates, "bare", "full") - 1)
    epoch = 2 * PICTURES / median(rates["bare"])
    out: dict[str, Any] = {
        "steps percent": steps,
        "snapshot seconds": seconds,
        "epoch seconds": epoch,
        "rates": rates,
    }
    for epochs in (SHORT, EPOCHS):
        count = len(snapshot_epochs("geometric", epochs))
        out[f"{epochs} epochs percent"] = steps + 100 * count * seconds / (epochs * epoch)
        out[f"{epochs} epochs snapshots"] = count
    return out


def history(args: Any) -> dict[str, Any]:
    """Seconds to load a study of 200 epochs and to ask for its history and table."""
    epochs, per_epoch = (8, 10) if args.quick else (200, 703)
    with tempfile.TemporaryDirectory(prefix="kdlab-bench-") as temporary:
        folder = Path(temporary) / "study"
        data = kdlab.data.load("digits", labels_per_class=4)
        teacher, _ = networks(("resnet8", "resnet8"), data)
        study = kdlab.Study(
            data,
            teacher,
            "resnet8",
            STUDENTS,
            recipe="lab_small",
            epochs=epochs,
            evaluate_every=epochs,
            device="cpu",
            folder=folder,
        ).fit(progress=False)
        rows = grow(study, epochs, per_epoch)
        seconds, size = [], sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        for _ in range(3):
            start = time.perf_counter()
            again = kdlab.load_study(folder, teacher=teacher, device="cpu")
            frame, results = again.history(), again.table()
            values = again.record.series("KD", "loss")[1]
            seconds.append(time.perf_counter() - start)
        if len(frame) != rows or len(values) != epochs * per_epoch or len(results) != 1 + len(STUDENTS):
            raise ValueError(
                f"{len(frame)} rows and {len(values)} steps came back, not {rows} and {epochs * per_epoch}."
            )
    return {"epochs": epochs, "steps": epochs * per_epoch, "MB": size / 2**20, "seconds": median(seconds)}


def grow(study: kdlab.Study, epochs: int, per_epoch: int) -> int:
    """Write the record of a finished study anew, with epochs of a usual length. Returns the rows."""
    old = study.record.runs[study.seeds[0]]
    assert old.folder is not None
    measured = {row["student"]: row for row in old.rows if row["epoch"] == epochs}
    columns = {name: old.columns(name) for name in study.names}
    shutil.rmtree(old.folder / "steps")
    (old.folder / "epochs.jsonl").unlink()
    record, random = RunRecord(old.folder), np.random.default_rng(0)
    for name in study.names:
        record.declare(name, columns[name])
    for epoch in range(1, epochs + 1):
        for name in study.names:
            block = random.random((per_epoch, len(columns[name])), dtype=np.float32)
            record.add_steps(name, (epoch - 1) * per_epoch, block)
        record.add_epoch(
            [{**measured[name], "epoch": epoch, "step": epoch * per_epoch} for name in study.names]
        )
    return epochs * len(study.names)


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__, rounds=3)
    args = parser.parse_args()
    args.rounds = 1 if args.quick else args.rounds
    about = machine()
    print(machine_line(about))
    whole, usual, loaded = whole_study(args), usual_study(args), history(args)
    print("\ncost of recording, snapshots and live control (goal: under 5 % together)")
    rows: list[dict[str, Any]] = [
        {"what": f"whole study of digits, 3 students, {WHOLE} epochs", "percent": whole["percent"]},
        {"what": "steps of 2 students on 32x32 pictures", "percent": usual["steps percent"]},
    ]
    for epochs in (SHORT, EPOCHS):
        text = (
            f"with {usual[f'{epochs} epochs snapshots']} snapshots in {epochs} epochs of {PICTURES} pictures"
        )
        rows.append({"what": text, "percent": usual[f"{epochs} epochs percent"]})
    print(table(rows))
    print(
        f"one snapshot of 2 students takes {usual['snapshot seconds']:.2f} s, "
        f"an epoch {usual['epoch seconds']:.0f} s"
    )
    print(
        f"\na study of {loaded['epochs']} epochs, {loaded['steps']} steps and {len(STUDENTS)} students "
        f"({loaded['MB']:.1f} MB) is loaded, with history and table, "
        f"in {loaded['seconds']:.2f} s (goal: under 2 s)"
    )
    write(args.json, about, whole=whole, usual=usual, loaded=loaded)


if __name__ == "__main__":
    main()

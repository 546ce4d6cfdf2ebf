"""How much faster do the defaults train small pictures than all processors in each operation?

Usage: python benchmarks/small_pictures.py [--quick] [--rounds 3] [--json FILE]

A whole study of the digits (8x8 pixels) as `kdlab.Study` trains it, one thread for each operation and
students beside each other, against the same study with `threads=` the number of processors, for one
student and for three; each from its start to its end, in turn.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import Child, Window, arguments, in_turn, median, ratio, spread, table, write
from machine import machine, machine_line
from sides import networks

import kdlab

STUDENTS = ({"KD": "kd"}, {"alone": "ce", "KD": "kd", "AT": "at"})
EPOCHS = 4


class Digits:
    """Trains a study of the digits from start to end, every time it is asked to run."""

    def __init__(self, study_threads: int | None, students: dict[str, str], quick: bool = False) -> None:
        self.study_threads, self.students = study_threads, students
        self.data = kdlab.data.load("digits", limit=60 if quick else None)
        self.teacher, _ = networks(("resnet20", "resnet8"), self.data)
        self.epochs = 1 if quick else EPOCHS

    def run(self, seconds: float) -> Window:
        """One training; its length is what it is."""
        with tempfile.TemporaryDirectory(prefix="kdlab-bench-") as folder:
            study = kdlab.Study(
                self.data,
                self.teacher,
                "resnet8",
                self.students,
                recipe="lab_small",
                epochs=self.epochs,
                device="cpu",
                threads=self.study_threads,
                folder=Path(folder) / "study",
            )
            start = time.perf_counter()
            study.fit(progress=False)
            spent = time.perf_counter() - start
        return Window(self.epochs * len(self.data.train) * len(self.students), spent)

    def close(self) -> None:
        pass


def compared(students: dict[str, str], args: Any) -> dict[str, Any]:
    """Student-images a second of both, and their ratio."""
    every = os.cpu_count() or 1
    with contextlib.ExitStack() as stack:
        sides = {
            key: stack.enter_context(
                contextlib.closing(
                    Child(
                        Digits,
                        threads=args.threads,
                        study_threads=threads,
                        students=students,
                        quick=args.quick,
                    )
                )
            )
            for key, threads in (("every", every), ("default", None))
        }
        rates = in_turn(sides, args.rounds, 0.0, args.patience)
    return {
        "students": len(students),
        "threads": every,
        "every": median(rates["every"]),
        "default": median(rates["default"]),
        "ratio": ratio(rates, "default", "every"),
        "rounds": spread(rates, "default", "every"),
        "rates": rates,
    }


def main() -> None:
    """Measure and print."""
    args = arguments(__doc__, rounds=3).parse_args()
    args.rounds = 1 if args.quick else args.rounds
    about = machine()
    print(machine_line(about))
    rows = [compared(students, args) for students in STUDENTS]
    print(f"\nstudent-images/s of a study of the digits, {rows[0]['threads']} threads each and default")
    print(table(rows, ["students", "every", "default", "ratio", "rounds"]))
    write(args.json, about, rows=rows)


if __name__ == "__main__":
    main()

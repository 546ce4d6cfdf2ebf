"""Do the defaults train small pictures as fast as all processors in each operation?

Usage: python benchmarks/small_pictures.py [--quick] [--rounds 3] [--json FILE]

A whole study of the digits (8x8 pixels) and one of shapes of 16x16 as `kdlab.Study` trains them, one
thread for each operation and students beside each other, against the same study with `threads=` the
number of processors, for one student and for three; each from its start to its end, in turn.
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

ONE, THREE = {"KD": "kd"}, {"alone": "ce", "KD": "kd", "AT": "at"}
CASES = [(8, ONE), (8, THREE), (16, ONE), (16, THREE)]  # side of the pictures, students
QUICK = [(8, ONE), (16, THREE)]
EPOCHS = 4


class Small:
    """Trains a study from start to end, every time it is asked to run."""

    def __init__(
        self, study_threads: int | None, side: int, students: dict[str, str], quick: bool = False
    ) -> None:
        self.study_threads, self.students = study_threads, students
        if side == 8:
            self.data = kdlab.data.load("digits", limit=60 if quick else None)
        else:
            self.data = kdlab.data.shapes.make(*((64, 16) if quick else (1200, 300)), side=side)
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


def compared(side: int, students: dict[str, str], args: Any) -> dict[str, Any]:
    """Student-images a second of both, and their ratio."""
    every = os.cpu_count() or 1
    with contextlib.ExitStack() as stack:
        sides = {
            key: stack.enter_context(
                contextlib.closing(
                    Child(
                        Small,
                        threads=args.threads,
                        study_threads=threads,
                        side=side,
                        students=students,
                        quick=args.quick,
                    )
                )
            )
            for key, threads in (("every", every), ("default", None))
        }
        rates = in_turn(sides, args.rounds, 0.0, args.patience)
    return {
        "pictures": f"{side}x{side}",
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
    rows = [compared(side, students, args) for side, students in (QUICK if args.quick else CASES)]
    print(f"\nstudent-images/s of a study, {rows[0]['threads']} threads in each operation and default")
    print(table(rows, ["pictures", "students", "every", "default", "ratio", "rounds"]))
    write(args.json, about, rows=rows)


if __name__ == "__main__":
    main()

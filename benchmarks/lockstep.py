"""How much less do 8 students in lockstep cost than 8 studies of one, in time and memory?

Usage: python benchmarks/lockstep.py [--quick] [--students 8] [--rounds 4] [--json FILE]

Lockstep shares batches and the teacher's pass. With t the teacher's arithmetic for a picture and s
the student's (forward and backward), 8 studies of one cost 8 (t + s) and a lockstep of 8 costs
t + 8 s: their quotient is the arithmetic limit printed beside the measured ratio. Memory is counted
in processes of their own, from the level of one that has only loaded libraries, pictures and networks.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from harness import Child, arguments, in_turn, median, ratio, spread, table, write
from machine import machine, machine_line
from sides import PAIRS, Idle, Pair, StudySide, networks, pictures
from torch.utils.flop_counter import FlopCounterMode

from kdlab.losses import cross_entropy, kd

CASES = [("resnet20 -> resnet8", 1.6, 2.0), ("resnet32x4 -> resnet8x4", 2.2, 4.0)]  # goal, seconds

FEW = 2_000  # pictures, where memory is measured: they would hide the rest


def flops(pair: Pair) -> tuple[float, float]:
    """GFLOP a picture of the teacher's forward pass, and of the student's step (multiply-add = 2)."""
    data, _ = pictures(2_000)
    teacher, student = networks(pair, data)
    images = data.normalize(data.train.images[:8])
    with FlopCounterMode(display=False) as of_teacher, torch.no_grad():
        told = teacher(images)
    with FlopCounterMode(display=False) as of_student:
        seen = copy.deepcopy(student).train()(images)
        (cross_entropy(seen, data.train.labels[:8]) + kd(seen, told)).backward()
    return of_teacher.get_total_flops() / 8e9, of_student.get_total_flops() / 8e9


def speed(case: tuple[str, float, float], args: Any) -> dict[str, Any]:
    """Student-pictures a second of one study of many against a study of one."""
    name, goal, seconds = case
    t, s = flops(PAIRS[name])
    k = args.students
    with contextlib.ExitStack() as stack:
        sides = {
            key: stack.enter_context(
                contextlib.closing(
                    Child(StudySide, pair=PAIRS[name], students=count, quick=args.quick, threads=args.threads)
                )
            )
            for key, count in (("single", 1), ("lockstep", k))
        }
        rates = in_turn(sides, args.rounds, args.seconds or (0.2 if args.quick else seconds), args.patience)
    return {
        "pair": name,
        "students": k,
        "teacher GFLOP": t,
        "student GFLOP": s,
        "single": median(rates["single"]),
        "lockstep": median(rates["lockstep"]),
        "ratio": ratio(rates, "lockstep", "single"),
        "range": spread(rates, "lockstep", "single"),
        "limit": k * (t + s) / (t + k * s),
        "goal": goal,
        "rates": rates,
    }


def needs(name: str, args: Any) -> dict[str, Any]:
    """Peak memory of one student and of many, above a process that only loaded its libraries and data."""
    pair, peaks = PAIRS[name], {}
    with contextlib.closing(Child(Idle, pair=pair, train=FEW, threads=args.threads)) as side:
        level = side.ask("memory")[0]
    for count in (1, args.students):
        with contextlib.closing(
            Child(StudySide, pair=pair, students=count, train=FEW, threads=args.threads)
        ) as side:
            side.ask("until", 2 if args.quick else 3)
            peaks[count] = side.ask("memory")[1]
    one, many = peaks[1] - level, peaks[args.students] - level
    return {
        "pair": name,
        "level MB": level / 2**20,
        "one MB": one / 2**20,
        "many MB": many / 2**20,
        "of the sum": many / (args.students * one),
    }


def growth(args: Any) -> dict[str, Any]:
    """Memory of all students before and after 1,000 steps, of small batches to save time."""
    first, more = (2, 10) if args.quick else (100, 1000)
    with contextlib.closing(
        Child(
            StudySide,
            pair=PAIRS["resnet20 -> resnet8"],
            students=args.students,
            batch=4,
            train=FEW,
            threads=args.threads,
        )
    ) as side:
        side.ask("until", first)
        before, began = side.ask("memory")[0], side.ask("steps")
        side.ask("until", began + more)
        after, ended = side.ask("memory")[0], side.ask("steps")
    return {"steps": ended - began, "before MB": before / 2**20, "after MB": after / 2**20}


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__, rounds=4, windows=True)
    parser.add_argument("--students", type=int, default=8, metavar="K")
    parser.add_argument("--only", metavar="TEXT", help="only pairs whose name contains this")
    args = parser.parse_args()
    args.rounds = 1 if args.quick else args.rounds
    about = machine()
    print(machine_line(about))
    cases = [c for c in CASES if not args.only or args.only in c[0]]
    speeds = [speed(case, args) for case in cases]
    print(f"\nstudent-images/s, medians of {args.rounds} rounds; limit: by arithmetic alone")
    print(table(speeds, ["pair", "students", "single", "lockstep", "ratio", "range", "limit", "goal"]))
    memory = [needs(case[0], args) for case in cases]
    print(f"\npeak memory above a process that trains nothing; {args.students} students against the sum of")
    print(f"{args.students} times one (goal: at most 1.5 times the sum)")
    print(table(memory))
    grown = growth(args)
    print(
        f"\nmemory over {grown['steps']} steps of {args.students} students: "
        f"{grown['before MB']:.0f} MB before, {grown['after MB']:.0f} MB after "
        f"({grown['after MB'] - grown['before MB']:+.1f} MB)"
    )
    write(args.json, about, speed=speeds, memory=memory, growth=grown)


if __name__ == "__main__":
    main()

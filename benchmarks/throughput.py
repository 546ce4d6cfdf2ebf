"""How many times the pictures a second of the textbook loop does a study train, at equal losses?

Usage: python benchmarks/throughput.py [--quick] [--rounds 4] [--seconds S] [--json FILE]

For each pair of networks: the textbook loop with 2 workers; a study in fp32; a study with
`teacher_views`, which sees V fixed augmented views of each picture and keeps the teacher's outputs for
them (a departure from the recipe), once they are all kept; a study in bf16 where the processor
multiplies bf16 itself; and the pictures a second that the fp32 study would reach if nothing but its
convolutions, which are those of PyTorch's library, took time. Beside it, proof that textbook and study
do the same: the largest relative difference of their losses over 20 steps (of 16 pictures) on the same
pictures, and how far rounding alone leads apart.
"""

from __future__ import annotations

import contextlib
from typing import Any

from convolutions import ConvolutionSide
from equality import EqualitySide
from harness import Child, SideFailed, arguments, in_turn, median, ratio, spread, table, write
from machine import machine, machine_line, native_bf16
from sides import BATCH, PAIRS, StudySide, TextbookSide

VIEWS = 2
# name, method, goals for (fp32, views, bf16), seconds of a window, training pictures of the cached study
CASES: list[tuple[str, str, tuple[float, float, float], float, int]] = [
    ("resnet20 -> resnet8", "kd", (2.0, 2.3, 2.2), 2.0, 2048),
    ("resnet32x4 -> resnet8x4", "kd", (1.3, 2.3, 2.2), 3.5, 256),
    ("wrn_40_2 -> wrn_16_2", "kd", (1.4, 2.3, 2.2), 2.5, 256),
    ("resnet32x4 -> resnet8x4", "reviewkd", (1.8, 2.3, 2.2), 4.0, 256),
]


def measure(case: Any, args: Any) -> dict[str, Any]:
    """One row of figures."""
    name, method, _, seconds, few = case
    few = 128 if args.quick else few
    common: dict[str, Any] = {
        "pair": PAIRS[name],
        "method": method,
        "quick": args.quick,
        "threads": args.threads,
    }
    wanted: dict[str, dict[str, Any]] = {
        "fp32": {},
        "views": {"options": {"teacher_views": VIEWS}, "train": few},
        "bf16": {"options": {"precision": "bf16"}},
    }
    row: dict[str, Any] = {"pair": name, "method": method, "notes": {}}
    if not native_bf16() and not args.bf16:
        del wanted["bf16"]
        row["notes"]["bf16"] = "this processor has no native bf16"
    with contextlib.ExitStack() as stack:
        sides = {"textbook": stack.enter_context(contextlib.closing(Child(TextbookSide, **common)))}
        for key, options in wanted.items():
            try:
                side = Child(StudySide, **{**common, **options})
                sides[key] = stack.enter_context(contextlib.closing(side))
                if key == "views":
                    row["fill"] = fill(side)
            except SideFailed as failure:
                row["notes"][key] = str(failure)
        alone = Child(ConvolutionSide, args.threads, pair=PAIRS[name], method=method, quick=args.quick)
        sides["limit"] = stack.enter_context(contextlib.closing(alone))
        rates = in_turn(sides, args.rounds, args.seconds or (0.2 if args.quick else seconds), args.patience)
    row["rates"] = rates
    for key in sides:
        row[key] = median(rates[key])
        if key != "textbook":
            row[f"{key} x"] = ratio(rates, key, "textbook")
            row[f"{key} range"] = spread(rates, key, "textbook")
    if "fill" in row and "views" in rates:
        row["fill"]["extra_seconds"] = row["fill"]["seconds"] - row["fill"]["pictures"] / row["views"]
    return row


def fill(side: Child) -> dict[str, float]:
    """What the first V epochs of a study with `teacher_views` cost: the cache is filled in them."""
    steps = VIEWS * side.ask("steps_per_epoch")
    side.ask("until", steps)
    return {"seconds": side.ask("since_start"), "pictures": steps * BATCH, "views": VIEWS}


def compare(case: Any, args: Any) -> dict[str, Any]:
    """The proof that both train the same."""
    name, method, *_ = case
    if method != "kd":  # the smallest pair will do for the loss; the networks are compared with KD
        name = next(iter(PAIRS))
    steps = 2 if args.quick else 20
    try:
        with contextlib.closing(
            Child(EqualitySide, pair=PAIRS[name], method=method, steps=steps, threads=args.threads)
        ) as side:
            return {"pair": name, "method": method, "steps": steps, **side.ask("differences")}
    except SideFailed as failure:
        return {"pair": name, "method": method, "steps": steps, "note": str(failure)}


def main() -> None:
    """Measure, compare, print."""
    parser = arguments(__doc__, rounds=4, windows=True)
    parser.add_argument("--only", metavar="TEXT", help="only cases whose pair or method contains this")
    parser.add_argument("--bf16", action="store_true", help="measure bf16 without native bf16 too")
    parser.add_argument("--no-proof", action="store_true", help="skip the comparison of losses")
    args = parser.parse_args()
    args.rounds = 1 if args.quick else args.rounds
    about = machine()
    print(machine_line(about))
    cases = [c for c in CASES if not args.only or args.only in c[0] + " " + c[1]]
    rows, proofs = [], []
    for case in cases:
        rows.append(row := measure(case, args))
        proofs.append({} if args.no_proof else compare(case, args))
        report(row, proofs[-1], case[2])
    print("\nimages/s, medians of", args.rounds, "rounds; x: times the textbook loop")
    columns = [
        "pair",
        "method",
        "textbook",
        "fp32",
        "fp32 x",
        "limit x",
        "views",
        "views x",
        "bf16",
        "bf16 x",
    ]
    print(table(rows, columns))
    write(args.json, about, rows=rows, proofs=proofs)


def report(row: dict[str, Any], proof: dict[str, Any], goals: tuple[float, float, float]) -> None:
    """What was found out about one case, as it comes."""
    print(f"\n{row['pair']}, {row['method']}: textbook loop {row['textbook']:.0f} images/s")
    names = ("study, fp32", f"study, teacher_views={VIEWS}, kept", "study, bf16")
    limit = f"{row['limit']:6.0f} images/s = {row['limit x']:.2f} x"
    print(f"  convolutions of fp32 alone     {limit}: no study in fp32 can be faster")
    for key, text, goal in zip(("fp32", "views", "bf16"), names, goals):
        if key in row:
            ratios = f"{row[f'{key} x']:.2f} x the textbook loop (rounds {row[f'{key} range']}; goal {goal})"
            print(f"  {text:<30} {row[key]:6.0f} images/s = {ratios}")
        else:
            print(f"  {text:<30} not measured: {row['notes'].get(key, '')}")
    if "extra_seconds" in row.get("fill", {}):
        fill = row["fill"]
        each = 1000 * fill["extra_seconds"] / fill["pictures"]
        print(
            f"  filling the cache took {fill['extra_seconds']:.1f} s more than as many kept pictures: "
            f"{each:.2f} ms a picture and view, once"
        )
    if "largest" in proof:
        print(
            f"  losses of both over {proof['steps']} steps of {proof['pair']} on the same pictures:\n"
            f"    apart by {proof['first']:.1e} of their value at the first, at most {proof['largest']:.1e}; "
            f"two textbook loops, one begun off by a bit: {proof['rounding']:.1e}"
        )
    elif proof:
        print(f"  losses not compared: {proof['note']}")


if __name__ == "__main__":
    main()

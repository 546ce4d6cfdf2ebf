"""What does every method reach on the digits, and what does a step of it cost relative to plain KD?

Usage: python benchmarks/methods.py [--only kd,dkd] [--epochs 40] [--seeds 3] [--out docs] [--json FILE]
       python benchmarks/methods.py --speed [--only kd,dkd] [--rounds 5] [--json FILE]

All methods are trained with their defaults in one study, in lockstep: the same start, the same ten
pictures of each class, the same three teachers, of which a method for one teacher reads the first. If
one makes the study fail, the study is split until the others are through. Then steps are timed, one
student at a time, in turn with KD. `--out` gets methods_on_digits.csv and .md.

`--speed` times steps alone, on 32x32 pictures, where networks and not small costs decide, and says of
each method above twice KD why it is.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from harness import arguments, table, write
from machine import machine, machine_line
from pace import LIMIT, Bench, bases, flag, relative, several
from sides import networks, pictures

import kdlab
from kdlab.training.guards import StudentsFailed

TEACHERS, STUDENT = ["resnet20", "wrn_16_2", "vgg8"], "resnet8"
LIGHT = ["resnet20", "wrn_16_1", "resnet14"]  # of --speed: heavy ones would hide what methods cost
LABELS, ALONE = 10, "alone"
COLUMNS = ["method", "setting", "title", "status", "teachers", "last", "last_sd", "best", "best_sd", "gain"]
COLUMNS += ["gain_sd", "seeds", "x_kd", "note"]
EASED: dict[str, tuple[str, Any]] = {
    "at": ("weight 62.5", {"key": "at", "terms": {"at": {"weight": 62.5}}}),  # as 1000 on 32x32 maps: / (h w)
    "ttm": ("lr 0.01", kdlab.Student("ttm", lr=0.01)),  # 45 times a KL without warm-up is much at 0.05
    # its published weight beside CRD; samples that the teacher is unsure of count several times
    "wttm": ("weight 4, lr 0.01", kdlab.Student(kdlab.methods.WTTM(weight=4.0, gamma=0.2), lr=0.01)),
    "gpac": ("attention 62.5", kdlab.methods.GPAC(attention=62.5)),  # as that of AT
}
"""A second student of methods whose defaults are far too strong here: what differs, and the student."""
WHY = {
    "mlkd": "student and teacher see two views of each picture",
    "reviewkd": "it fuses the student's maps at full size, which costs as much as a small student itself",
    "dckd": "its feature term is that of ReviewKD",
}
"""Why a step must cost more than twice that of KD."""

Row = dict[str, Any]


# ---- accuracy ---------------------------------------------------------------------------------------


def train(keys: Sequence[str], args: argparse.Namespace, root: Path) -> tuple[list[kdlab.Study], Row]:
    """Studies in which all methods went through, as few as can be; and method -> error of the others."""
    name = f"study-{len(list(root.iterdir()))}"
    study: kdlab.Study | None = None
    eased = {f"{key}, {EASED[key][0]}": EASED[key][1] for key in keys if key in EASED}
    try:
        study = kdlab.Study(
            "digits",
            TEACHERS,
            STUDENT,
            {ALONE: "ce", **{key: key for key in keys}, **eased},
            labels_per_class=LABELS,
            epochs=args.epochs,
            seeds=args.seeds,
            teacher_epochs=args.teacher_epochs,
            evaluate_every=min(args.evaluate_every, args.epochs),
            snapshots="ends",
            probe_size=100,
            keep="none",
            device="cpu",
            folder=root / name,
        )
        study.fit(progress=not args.quick)
    except Exception as error:  # whatever it is belongs into the table
        if study is not None and isinstance(error, StudentsFailed):  # in one seed; its rows say so
            return [study], {}
        if len(keys) <= 1:
            return [], dict.fromkeys(keys, f"{type(error).__name__}: {str(error).splitlines()[0]}")
        half = len(keys) // 2
        parts = [train(part, args, root) for part in (keys[:half], keys[half:])]
        return parts[0][0] + parts[1][0], parts[0][1] | parts[1][1]
    return [study], {}


def outcomes(studies: Sequence[kdlab.Study], failed: Mapping[str, str]) -> list[Row]:
    """A row for "alone" and for each method, in the order in which methods are registered."""
    found: dict[str, Row] = {}
    for study in studies:
        chance = 100 / study.data.num_classes
        rows = study.table()
        for row in rows[rows["role"] == "student"].to_dict("records"):
            known = {column: row[column] for column in COLUMNS if row.get(column) == row.get(column, "")}
            found.setdefault(row["network"], known | {"note": verdict(row, chance)})
    out = []
    for about in kdlab.methods.table():
        key = about["key"]
        number = len(TEACHERS) if several(key) else 0 if key in ("ce", "byot") else 1
        facts = {"method": key, "title": about["title"], "status": about["status"].split(":")[0]}
        eased = f"{key}, {EASED[key][0]}" if key in EASED else ""
        for name in (ALONE if key == "ce" else key, eased):
            if name in found:
                setting = EASED[key][0] if name == eased else "default"
                out.append({**found[name], **facts, "teachers": number, "setting": setting})
        if key in failed:
            note = f"failed: {failed[key]}"
            out.append({**facts, "teachers": number, "setting": "default", "seeds": 0, "note": note})
    return out


def verdict(row: Mapping[str, Any], chance: float) -> str:
    """What must not be overlooked in a row of `Study.table`."""
    notes = [row["note"]] if row["note"] else []
    if row["seeds"] == 0:
        return "; ".join([*notes, "no accuracy was measured"])
    if row["last"] < 2 * chance:
        notes.append("near chance")
    if row["network"] != ALONE:
        spread = row["gain_sd"] if row["seeds"] > 1 else 0.0
        if row["gain"] <= 0:
            notes.append("not helped" if row["gain"] > -spread else "worse than alone")
        elif row["gain"] < spread:
            notes.append("gain within its spread")
    return "; ".join(notes)


# ---- speed ------------------------------------------------------------------------------------------


def paces(keys: Sequence[str], bench: Bench, args: argparse.Namespace, seconds: float) -> list[Row]:
    """What a step of each method costs; see `pace.relative`."""
    rows = []
    with bases(bench, keys) as base:
        for key in keys:
            row = relative(key, bench, base[several(key)], args.rounds, seconds)
            rows.append(row | {"note": flag(row, WHY)})
            if not args.quick:
                print(f"\r{len(rows)} of {len(keys)} timed", end="", file=sys.stderr, flush=True)
    if not args.quick:
        print(file=sys.stderr)
    return rows


def speed_bench(quick: bool) -> Bench:
    """Light untrained networks on 32x32 colour pictures."""
    data, _ = pictures(600 if quick else 2000)
    pairs = [networks((name, STUDENT), data) for name in LIGHT]
    return Bench(data, [teacher for teacher, _ in pairs], pairs[0][1])


# ---- printing ---------------------------------------------------------------------------------------


def to_csv(rows: Sequence[Row], path: Path) -> None:
    """Accuracies in percent with two digits, ratios with two, nothing where there is nothing."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow([_text(row.get(column)) for column in COLUMNS])


def to_markdown(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """The same as a page: what was done, by which command, and the table."""
    teachers = ", ".join(f"{name} {accuracy:.1f} %" for name, accuracy in facts["teachers"].items())
    lines = [
        "# All methods on the digits",
        "",
        "Every method with its default settings, and a few with gentler ones too, on the digits (8x8 "
        f"pictures): a {STUDENT} learns from {LABELS} labelled pictures of each class, {facts['epochs']} "
        f"epochs, {facts['seeds']} seed(s), all in lockstep (same start, same batches). Teachers, trained "
        f"on all training pictures: {teachers}; methods for one teacher read the first. "
        f"Chance is {facts['chance']:.0f} %.",
        "",
        "So few pictures of so small a size say how methods behave when there is little to learn from, not "
        "which is best: many defaults are tuned for 240 epochs of CIFAR-100. Failures are left in.",
        "",
        f"Made by `{facts['command']}` with {facts['versions']}, in {facts['minutes']:.0f} minutes.",
        "",
        "*last*: test accuracy in percent after the last epoch, mean and standard deviation over seeds. "
        "*best*: that of the epoch with the highest validation accuracy. *gain*: last minus that of `ce` "
        "(the student alone), paired by seed. *step*: time of a step relative to KD beside the same "
        "teachers, one student at a time; without what a method does before its first step.",
        "",
        "| method | status | last | best | gain | step | note |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        values = [_spread(row, key) for key in ("last", "best", "gain")]
        step = f"{row['x_kd']:.2f}" if row.get("x_kd") is not None else ""
        other = "" if row["setting"] == "default" else f", {row['setting']}"
        name = f"{row['title']} (`{row['method']}`{other})"
        note = str(row["note"]).replace("|", "/")
        lines.append(f"| {name} | {row['status']} | {' | '.join(values)} | {step} | {note} |")
    return "\n".join(lines) + "\n"


def _spread(row: Mapping[str, Any], key: str) -> str:
    mean, spread = _text(row.get(key)), _text(row.get(f"{key}_sd"))
    short = [f"{float(text):.1f}" for text in (mean, spread) if text]
    return " ± ".join(short)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.2f}"
    return "" if value is None else str(value)


# ---- from the command line --------------------------------------------------------------------------


def chosen(only: str | None) -> list[str]:
    """Keys of the methods to look at; an unknown one is refused."""
    if not only:
        return [key for key in kdlab.methods.names() if key != "ce"]
    return [kdlab.methods.get(key).key for key in only.split(",")]


def digits(keys: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """The table of all methods on the digits; printed, and written where that was asked for."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kdlab-bench-", ignore_cleanup_errors=True) as folder:
        studies, failed = train(keys, args, Path(folder))
        if not studies:
            sys.exit(f"No method could be trained: {failed}")
        rows, first = outcomes(studies, failed), studies[0]
        known = {teacher.name: 100 * teacher.accuracy for teacher in first.teachers}
        nets = [first.network(name) for name in known]
        bench = Bench(first.whole_data, nets, kdlab.models.build(STUDENT, num_classes=10, in_channels=1))
        timed = paces(list(dict.fromkeys(row["method"] for row in rows)), bench, args, args.seconds or 0.3)
    ratios = {pace["method"]: pace.get("x KD") for pace in timed}
    for row in rows:
        row["x_kd"] = ratios[row["method"]]
    facts = {
        "command": _command(args),
        "versions": f"kdlab {kdlab.__version__}, torch {torch.__version__}",
        "minutes": (time.monotonic() - started) / 60,
        "teachers": known,
        "chance": 100 / first.data.num_classes,
        "epochs": args.epochs,
        "seeds": args.seeds,
    }
    rows = [{column: row.get(column) for column in COLUMNS} for row in rows]
    print(
        f"\nteachers: {', '.join(f'{k} {v:.1f} %' for k, v in known.items())}; chance {facts['chance']:.0f} %"
    )
    print(table(rows, [c for c in COLUMNS if c not in ("title", "teachers")]))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        to_csv(rows, args.out / "methods_on_digits.csv")
        (args.out / "methods_on_digits.md").write_text(to_markdown(rows, facts), encoding="utf-8")
    return {"rows": rows, "facts": facts, "speed": timed}


def _command(args: argparse.Namespace) -> str:
    """What makes the same table, wherever it was written to this time."""
    places = {str(args.out): "docs", str(args.json): "FILE"}
    return shlex.join(["python", "benchmarks/methods.py", *(places.get(word, word) for word in sys.argv[1:])])


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = arguments(__doc__, rounds=5, windows=True)
    parser.add_argument("--speed", action="store_true", help="time steps only, on 32x32 pictures")
    parser.add_argument("--only", metavar="KEYS", help="some methods only, such as kd,dkd")
    parser.add_argument("--epochs", type=int, default=40, metavar="N")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--teacher-epochs", type=int, default=20, metavar="N")
    parser.add_argument("--evaluate-every", type=int, default=4, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write CSV and Markdown there")
    args = parser.parse_args()
    if args.quick:
        args.epochs = args.seeds = args.teacher_epochs = args.rounds = 1
        args.only, args.seconds = args.only or "kd,at", args.seconds or 0.05
    if args.threads:
        torch.set_num_threads(args.threads)
    with contextlib.suppress(BrokenPipeError):
        about, keys = machine(), chosen(args.only)
        print(machine_line(about))
        if not args.speed:
            write(args.json, about, **digits(keys, args))
            return
        rows = paces(keys, speed_bench(args.quick), args, args.seconds or 0.6)
        print(
            f"\nsteps of {LIGHT[0]} -> {STUDENT} (all of {', '.join(LIGHT)} where several teachers are read)"
        )
        print(table(rows, ["method", "teachers", "ms", "KD ms", "x KD", "range", "x CPU", "note"]))
        over = [row["method"] for row in rows if row.get("x KD", 0) > LIMIT]
        print(f"\nabove {LIMIT:g} times KD: {', '.join(over) or 'none'}")
        write(args.json, about, speed=rows)


if __name__ == "__main__":
    main()

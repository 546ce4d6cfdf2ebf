"""Train one point of a sweep, in a process of its own: `python -m kdlab.training.sweep_worker FOLDER POINT`.

The process says how far it is on its standard output, a line of JSON each time; whatever else is
printed goes to standard error. It stops with a checkpoint when it is interrupted or terminated, and
also when its standard input ends, for then the process that started it is gone.
"""

from __future__ import annotations

import _thread
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdlab.errors import KDLabError, StudyError
from kdlab.training.files import read_json, write_json

RESULT_FORMAT = 1
STATUS = {"finished": 0, "failed": 1, "stopped": 130}
_REPORT_EVERY = 0.5  # seconds


def train_point(folder: Path, name: str, begun: Callable[[Any], None] | None = None) -> dict[str, Any]:
    """Train one point to its end, or go on with it, and write down its results.

    Args:
        folder: of the sweep.
        name: of the point.
        begun: is handed the study before it trains.

    Returns:
        Plain values: "point", "state" ("finished", "stopped" or "failed"), "error" (a sentence, where it
        failed), "seconds", and where it is finished "rows", one for each student, and "notes", what is
        to be said of students that had to be stopped.
    """
    started = time.monotonic()
    outcome: dict[str, Any] = {"format": RESULT_FORMAT, "point": name, "state": "stopped"}
    try:
        study = open_study(folder, name)
        if begun is not None:
            begun(study)
        study.fit(progress=False)
        if study.state == "finished":
            notes = list(dict.fromkeys(entry["text"] for entry in study.failures()))
            rows = result_rows(study)
            if rows:
                outcome |= {"state": "finished", "rows": rows, "notes": notes}
            else:  # it failed when it was trained before, and cannot get further
                outcome |= {"state": "failed", "error": " ".join(notes) or "No student reached the end."}
    except KeyboardInterrupt:
        pass
    except Exception as error:
        traceback.print_exc()
        outcome |= {"state": "failed", "error": say(error)}
    outcome["seconds"] = round(time.monotonic() - started, 2)
    if outcome["state"] == "finished":
        write_result(folder, outcome)
    return outcome


def open_study(folder: Path, name: str) -> Any:
    """The study of a point, new or as it lies there.

    Raises:
        StudyError: this machine does not see the folder, or the sweep has no such point.
        KDLabError: see `Study`.
    """
    if not (folder / "sweep.json").exists():
        raise StudyError(
            f"There is no sweep in {folder} on this machine; the folder of a sweep must be one that all "
            "machines share, such as a network drive."
        )
    record = read_json(folder / "sweep.json")
    for one in record["imports"]:
        if one["path"] not in sys.path:
            sys.path.append(one["path"])
        importlib.import_module(one["module"])
    from kdlab.training.study import Study
    from kdlab.training.sweep_points import study_arguments

    for point in record["points"]:
        if point["name"] == name:
            return Study(**study_arguments(point["arguments"]), folder=folder / name)
    raise StudyError(f"The sweep in {folder} has no point named {name!r}.")


def result_rows(study: Any) -> list[dict[str, Any]]:
    """One row of plain values for each student of a finished study; see `StudyResults.results`.

    A student that had to be stopped before the end has none: it cannot be compared with the others.
    """
    rows = []
    for student, arrays in study.results().items():
        for number in range(len(arrays["seed"])):
            row = {key: values[number].item() for key, values in arrays.items()}
            row |= {key: int(row[key]) for key in ("seed", "epoch", "best_epoch")}
            if row["epoch"] >= study.epochs:
                rows.append({"student": student, **row})
    first = {row["seed"]: row["last"] for row in rows if row["student"] == study.names[0]}
    for row in rows:
        row["gain"] = row["last"] - first[row["seed"]] if row["seed"] in first else None
    return rows


def result_path(folder: Path, name: str) -> Path:
    """Where the outcome of a point is written down."""
    return folder / "results" / f"{name}.json"


def write_result(folder: Path, outcome: Mapping[str, Any]) -> None:
    """Write down the outcome of a point that finished or failed."""
    write_json(result_path(folder, outcome["point"]), dict(outcome))


def say(error: BaseException) -> str:
    """An error in one line; kdlab's own speak for themselves."""
    text = " ".join(str(error).split())
    return text if isinstance(error, KDLabError) else f"{type(error).__name__}: {text}"


# ---- the process ------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Train the point named on the command line; the exit status is one of `STATUS`."""
    folder, name = Path(arguments[0]), arguments[1]
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    interrupts = 0

    def interrupt(*_: Any) -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts == 1:  # the stop takes a while, and must not be stopped itself
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    threading.Thread(target=_stop_with_parent, daemon=True, name="kdlab-parent").start()

    def report(**values: Any) -> None:
        with suppress(OSError):  # nobody listens any more; the other thread sees to that
            reports.write(json.dumps(values) + "\n")
            reports.flush()

    def begun(study: Any) -> None:
        threading.Thread(target=_follow, args=(study.board, report), daemon=True, name="kdlab-report").start()

    try:
        outcome = train_point(folder, name, begun)
    except KeyboardInterrupt:  # while the results were written
        outcome = {"point": name, "state": "stopped"}
    report(outcome=outcome)
    return STATUS[outcome["state"]]


def _stop_with_parent() -> None:
    # not sys.stdin.read: a thread that waits there would keep the process from ending in peace
    with suppress(OSError):
        while os.read(0, 1024):
            pass
    _thread.interrupt_main()


def _follow(board: Any, report: Callable[..., None]) -> None:
    subscription = board.subscribe()
    while True:
        progress = subscription.take(None).get("progress")
        if progress is not None:
            keys = ("phase", "teacher", "epoch", "epochs", "step", "steps")
            report(progress={key: progress[key] for key in keys if key in progress})
        time.sleep(_REPORT_EVERY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Sweeps: many studies, one for each point of a grid, spread over processes, GPUs or machines."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdlab.errors import ConfigError, DataError, StudyError, unknown_name
from kdlab.training import config
from kdlab.training.files import locked, read_json, write_json
from kdlab.training.study import Study, load_study
from kdlab.training.sweep_engines import ENGINES, require_ray, train_local, train_ray
from kdlab.training.sweep_points import Point, make_points, own_modules, plain_grid, study_arguments
from kdlab.training.sweep_progress import Reporter
from kdlab.training.sweep_worker import result_path, write_result

if TYPE_CHECKING:
    import pandas as pd

SWEEP_FORMAT = 1
_WHERE = ("device", "data_root")  # say where a sweep is computed, not what


def sweep(
    grid: Mapping[str, Any],
    folder: str | Path = "runs/sweep",
    *,
    engine: str = "local",
    workers: int | None = None,
    num_cpus: float = 1,
    num_gpus: float | None = None,
    progress: bool = True,
    **fixed: Any,
) -> Sweep:
    """Train one study for every combination of arguments, several at once; go on where it was stopped.

        kdlab.sweep({"lr": [0.05, 0.1], "student": ["resnet8", "resnet14"]}, "runs/rates", workers=2,
                    data="digits", teacher="resnet20", students={"alone": "ce", "KD": "kd"}, seeds=3).table()

    In the grid **a list is swept over, anything else is the same for all**. So `students` as a mapping
    is trained in lockstep in every point, as in one `Study`, which is the cheapest way to compare
    losses; a list of such mappings makes a point of each. Seeds are points as well, so that they
    spread too. Only plain values can be swept: numbers, names, files, methods, recipes.

    Every point is checked before any is trained. Each is an ordinary study in `folder/NAME`. A point
    that fails does not keep the others from finishing. The same call goes on with what was stopped,
    killed or failed (from its last checkpoint; to try a point anew, delete its folder), and leaves alone
    what is finished. Teachers are trained once.

    Args:
        grid: argument of `Study` -> list of values.
        folder: of the sweep; one that holds another sweep is refused. With Ray on several machines it
            must be a folder that all of them share, and so must the cache of teachers (KDLAB_CACHE).
        engine: "local", processes of this machine, which take turns on its GPUs and share its
            processors; or "ray", tasks on a Ray cluster (the one this program is connected to, else
            the one of RAY_ADDRESS, else this machine).
        workers: points at once; None is 1 for "local", and as many as the cluster takes for "ray".
        num_cpus, num_gpus: what a point takes from Ray; None is one GPU where there is any.
        progress: tell how far it is.
        **fixed: arguments of `Study` that are the same for all points.

    Returns:
        The sweep; stopped by Ctrl-C, it is incomplete, and the same call goes on.

    Raises:
        ConfigError: a point that cannot work, or a value that cannot be swept; nothing was trained.
        StudyError: the folder holds something else, or points failed, with what each of them said.

    >>> grid = {"lr": [0.05, -1.0]}  # every point is checked before any is trained
    >>> kdlab.sweep(grid, data="digits", students={"alone": "ce"})
    Traceback (most recent call last):
        ...
    kdlab.errors.ConfigError: Point lr=-1.0_seed=0 cannot be trained: lr must be a positive number, not -1.0.
    """
    made = prepare_sweep(grid, folder, **fixed)
    made.run(engine=engine, workers=workers, num_cpus=num_cpus, num_gpus=num_gpus, progress=progress)
    if made.errors:
        raise StudyError(
            f"{len(made.errors)} of {len(made.points)} points failed, the others are kept "
            f"(kdlab.load_sweep({str(made.folder)!r})); the same call goes on with them. "
            + " ".join(f"{name}: {error}" for name, error in made.errors.items())
        )
    return made


def prepare_sweep(grid: Mapping[str, Any], folder: str | Path = "runs/sweep", **fixed: Any) -> Sweep:
    """The sweep that `sweep` would run: every point checked, the folder made, nothing trained."""
    axes, same = plain_grid(grid, fixed)
    points = make_points(axes, same)
    folder = Path(folder).absolute()
    asked = json.loads(json.dumps({"grid": axes, "fixed": same}))
    held = _held(folder, asked)
    record = {
        "format": SWEEP_FORMAT,
        **asked,
        "imports": _check_points(points, folder),
        "points": [point.to_dict() for point in points],
        "created": held.get("created") or time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    if record != held:
        write_json(folder / "sweep.json", record)
    return Sweep(folder, record)


def load_sweep(folder: str | Path) -> Sweep:
    """Open a sweep that is finished, under way or was stopped; `.run()` goes on with it.

    Raises:
        StudyError: the folder holds no sweep, or one of another version.

    >>> from kdlab.training.sweeps import prepare_sweep  # what `sweep` does before it trains
    >>> made = prepare_sweep({"lr": [0.05, 0.1]}, "runs/rates", data="digits", students={"alone": "ce"})
    >>> kdlab.load_sweep("runs/rates").state
    'new'
    """
    folder = Path(folder).absolute()
    return Sweep(folder, config.read_record(folder / "sweep.json", "sweep", "points", SWEEP_FORMAT))


class Sweep:
    """Many studies in one folder; everything is read from there anew, so it can be watched from elsewhere.

    Attributes:
        folder: of the sweep.
        grid: axis -> values, "seed" among them.
        fixed: arguments of all points.
        points: one a study.

    >>> from kdlab.training.sweeps import prepare_sweep  # what `sweep` does before it trains
    >>> made = prepare_sweep({"lr": [0.05, 0.1]}, "runs/rates", data="digits", students={"alone": "ce"})
    >>> made.grid
    {'seed': [0], 'lr': [0.05, 0.1]}
    >>> made.states()
    {'lr=0.05_seed=0': 'new', 'lr=0.1_seed=0': 'new'}
    """

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        self.folder = folder
        self.grid: dict[str, list[Any]] = record["grid"]
        self.fixed: dict[str, Any] = record["fixed"]
        self.points = [Point(**point) for point in record["points"]]

    # ---- training ------------------------------------------------------------------------------------

    def run(
        self,
        *,
        engine: str = "local",
        workers: int | None = None,
        num_cpus: float = 1,
        num_gpus: float | None = None,
        progress: bool = True,
    ) -> Sweep:
        """Train what is not finished; see `sweep`. Points that failed are told by `errors`, not raised.

        Raises:
            ConfigError: an unknown engine or a number that cannot be, or Ray is not installed.
            StudyError: another process is running this sweep.
        """
        if engine not in ENGINES:
            raise unknown_name("engine", engine, ENGINES)
        if workers is not None:
            config.positive("workers", workers)
        if engine == "ray":
            require_ray()
        with locked(self.folder, "this sweep"):
            states = self.states()
            todo = [name for name, state in states.items() if state != "finished"]
            devices = {point.name: point.arguments.get("device") for point in self.points}
            with Reporter(len(states), len(states) - len(todo), progress, self._note) as watcher:
                if not todo:
                    return self
                if engine == "local":
                    done = train_local(
                        self.folder, todo, workers=workers or 1, devices=devices, watcher=watcher
                    )
                else:
                    done = train_ray(
                        self.folder,
                        todo,
                        workers=workers,
                        num_cpus=num_cpus,
                        num_gpus=num_gpus,
                        devices=devices,
                        watcher=watcher,
                    )
        if not done and progress:
            print(f"Stopped; kdlab.load_sweep({str(self.folder)!r}).run() goes on from here.")
        return self

    def _note(self, outcome: dict[str, Any]) -> None:
        if outcome["state"] == "failed":  # a point that finished has written it itself
            write_result(self.folder, outcome)

    # ---- reading -------------------------------------------------------------------------------------

    def states(self) -> dict[str, str]:
        """Name of each point -> "new", "unfinished", "finished" or "failed"."""
        out = {}
        for point in self.points:
            begun = (self.folder / point.name / "study.json").exists()
            state = self._result(point.name).get("state")
            if state == "failed" or (state == "finished" and begun):
                out[point.name] = state
            else:
                out[point.name] = "unfinished" if begun else "new"
        return out

    @property
    def state(self) -> str:
        """ "new", "unfinished", "finished", or "failed" where all is done and something failed."""
        found = set(self.states().values())
        if len(found) == 1:
            return found.pop()
        return "failed" if found == {"finished", "failed"} else "unfinished"

    @property
    def errors(self) -> dict[str, str]:
        """What the points said that failed when they were last tried."""
        return {
            name: self._result(name)["error"] for name, state in self.states().items() if state == "failed"
        }

    @property
    def notes(self) -> dict[str, list[str]]:
        """What finished points said of students that had to be stopped before the end."""
        said = {name: self._result(name).get("notes") for name in self.states()}
        return {name: list(notes) for name, notes in said.items() if notes}

    def results(self) -> list[dict[str, Any]]:
        """Plain rows, one for each finished point and student that reached the end.

        Keys: "point", "values" (axis -> value), "student" (its name), "seed", "epoch" (last), "last" (test
        accuracy there, 0..1), "best" (test accuracy at the epoch with the highest validation accuracy),
        "best_epoch", "val" (last validation accuracy) and "gain" ("last" minus that of the first student;
        None where that one was stopped).
        """
        rows = []
        states = self.states()
        for point in self.points:
            if states[point.name] == "finished":
                place = {"point": point.name, "values": point.values}
                rows += [{**place, **row} for row in self._result(point.name)["rows"]]
        return rows

    def table(self) -> pd.DataFrame:
        """Results in percent: a row for each grid point (without its seed) and student.

        Columns: the axes; network (the student's name); n (seeds in which it reached the end); epoch;
        "last" and "last_sd": test accuracy after the last epoch, mean and sample standard deviation over
        seeds; "best" and "best_sd": at the epoch with the highest *validation* accuracy; "gain" and
        "gain_sd": `last` minus that of the first student of the same point, paired by seed. Standard
        deviations are NaN for one seed.
        """
        import numpy as np
        import pandas as pd

        axes = [axis for axis in self.grid if axis != "seed"]
        groups: dict[tuple[Any, ...], dict[str, list[float]]] = {}
        for row in self.results():
            place = tuple(row["values"][axis] for axis in axes)
            group = groups.setdefault((*place, row["student"]), {})
            group.setdefault("epoch", []).append(row["epoch"])
            for key in ("last", "best", "gain"):
                group.setdefault(key, []).append(np.nan if row[key] is None else 100 * row[key])
        rows = []
        for place, group in groups.items():
            row = dict(zip([*axes, "network"], place, strict=True))
            row |= {"n": len(group["last"]), "epoch": int(min(group["epoch"]))}
            for key in ("last", "best", "gain"):
                values = np.asarray(group[key])
                row[key] = values.mean()
                row[f"{key}_sd"] = values.std(ddof=1) if len(values) > 1 else np.nan
            rows.append(row)
        measured = [f"{key}{sd}" for key in ("last", "best", "gain") for sd in ("", "_sd")]
        return pd.DataFrame(rows, columns=[*axes, "network", "n", "epoch", *measured])

    def history(self) -> pd.DataFrame:
        """`Study.history` of all points that have begun; in front "point" and each axis as "grid/AXIS"."""
        import pandas as pd

        tables = []
        places = {point.name: point.configuration for point in self.points}
        for name, study in self.studies().items():
            table = study.history()
            columns = {"point": name} | {f"grid/{axis}": value for axis, value in places[name].items()}
            for number, (column, value) in enumerate(columns.items()):
                table.insert(number, column, [value] * len(table))
            tables.append(table)
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def studies(self) -> dict[str, Study]:
        """All points that have begun, by name, each opened as by `load_study`."""
        known: dict[str, Any] = {}
        out = {}
        for point in self.points:
            if (self.folder / point.name / "study.json").exists():
                key = json.dumps([point.arguments.get("data"), point.arguments.get("data_root")])
                out[point.name] = study = self._open(point, known.get(key))
                if not study._views_only:
                    known[key] = study.whole_data  # read once for all
        return out

    def _open(self, point: Point, data: Any) -> Study:
        folder, device = self.folder / point.name, point.arguments.get("device") or "auto"
        root = point.arguments.get("data_root")
        if data is None and root is not None:
            try:
                return load_study(folder, data_root=root, device=device)
            except DataError:  # the data is not there any more, or not on this machine
                pass
        return load_study(folder, data=data, device=device)

    def _result(self, name: str) -> dict[str, Any]:
        path = result_path(self.folder, name)
        return dict(read_json(path)) if path.exists() else {}

    def __repr__(self) -> str:
        axes = " x ".join(f"{len(values)} {axis}" for axis, values in self.grid.items())
        states = list(self.states().values())
        return f"Sweep({axes}: {states.count('finished')} of {len(states)} finished; {self.folder})"


# ---- the folder -------------------------------------------------------------------------------------


def _held(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The record of the very same sweep, if the folder holds it already; nothing for a new folder."""
    if not (folder / "sweep.json").exists():
        config.check_folder(folder, {})  # nothing else lies there, and it can be written to
        return {}
    held = config.read_record(folder / "sweep.json", "sweep", "points", SWEEP_FORMAT)
    now, then = ({**one["fixed"], **one["grid"]} for one in (asked, held))
    differing = sorted(k for k in {*now, *then} - {*_WHERE} if now.get(k) != then.get(k))
    if differing or list(asked["grid"]) != list(held["grid"]):
        raise StudyError(
            f"{folder} already holds another sweep (it differs in {', '.join(differing) or 'its grid'}); "
            f"choose another folder, or open that one with kdlab.load_sweep({str(folder)!r})."
        )
    return held


def _check_points(points: list[Point], folder: Path) -> list[dict[str, str]]:
    """Construct the study of every configuration, and compare every folder with what it should hold.

    Returns:
        The modules that processes must import for its methods.
    """
    checked: dict[str, Study] = {}
    imports: dict[str, dict[str, str]] = {}
    for point in points:
        place = folder / point.name
        key = json.dumps(point.configuration, sort_keys=True)
        try:
            if key not in checked:
                checked[key] = Study(**study_arguments(point.arguments), folder=place)
                imports |= {one["module"]: one for one in own_modules(checked[key])}
            config.check_folder(place, {**checked[key].asked, "seeds": [point.arguments["seed"]]})
        except (ConfigError, DataError, StudyError) as error:
            raise type(error)(f"Point {point.name} cannot be trained: {error}") from error
    return list(imports.values())

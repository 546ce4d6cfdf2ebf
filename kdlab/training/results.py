"""Reading a study: snapshots, networks, history and the table of results."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from kdlab import models
from kdlab.errors import CheckpointError, StudyError, unknown_name
from kdlab.models.features import StagedNet
from kdlab.training.files import read_tensors
from kdlab.training.snapshots import Snapshot, load_snapshots
from kdlab.training.state import StudyState
from kdlab.training.teachers import freeze

if TYPE_CHECKING:
    import pandas as pd


class StudyResults(StudyState):
    """The reading half of a `Study`; everything here works on a live, finished or killed one."""

    # ---- snapshots ----------------------------------------------------------------------------------

    def snapshot_epochs(self, seed: int | None = None) -> list[int]:
        """Epochs of which snapshots exist; `seed` None is the first seed. 0 is before training."""
        folder = self._seed_folder(self._seed(seed)) / "snapshots"
        found = [re.fullmatch(r"epoch-(\d+)\.safetensors", path.name) for path in folder.glob("epoch-*")]
        return sorted(int(match.group(1)) for match in found if match)

    def snapshot(self, network: str, epoch: int = -1, seed: int | None = None) -> Snapshot:
        """What a student or teacher showed of the probe set.

        Args:
            network: its name. A teacher is the same at every epoch.
            epoch: one of `snapshot_epochs()`; negative counts from the last.
            seed: of the run; None is the first.

        Raises:
            StudyError: there is no such snapshot (yet).
        """
        if network in [spec.name for spec in self._specs]:
            path = self.folder / "teachers" / "snapshots.safetensors"
            if not path.exists():
                raise StudyError("There is no snapshot of the teacher yet; it is still in training.")
            return load_snapshots(path)[network]
        self._require_network(network)
        epochs = self.snapshot_epochs(seed)
        if not epochs:
            raise StudyError("There is no snapshot yet; the training of the students has not begun.")
        if epoch < 0:
            if -epoch > len(epochs):
                raise StudyError(f"There are only {len(epochs)} snapshots (epochs {epochs}).")
            epoch = epochs[epoch]
        if epoch not in epochs:
            raise StudyError(
                f"There is no snapshot of epoch {epoch}; there are snapshots of epochs {epochs}."
            )
        folder = self._seed_folder(self._seed(seed)) / "snapshots"
        return load_snapshots(folder / f"epoch-{epoch:05d}.safetensors")[network]

    # ---- networks -----------------------------------------------------------------------------------

    def network(self, name: str, epoch: str = "last", seed: int | None = None) -> StagedNet:
        """A trained network, frozen and in eval mode, rebuilt from the folder.

        Args:
            name: of a student or teacher.
            epoch: "last" (the last checkpoint) or "best" (highest validation accuracy).
            seed: of the run; None is the first.

        Raises:
            CheckpointError: nothing has been saved yet.
        """
        self._require_network(name)
        for number, spec in enumerate(self._specs):
            if spec.name == name:
                teacher = spec.untrained(self.data)
                if spec.module is None:
                    models.load_checkpoint(teacher, self.folder / "teachers" / f"{number}.safetensors")
                return freeze(teacher)
        if epoch not in ("last", "best"):
            raise unknown_name("kept epoch", epoch, ("last", "best"))
        path = self._seed_folder(self._seed(seed)) / f"{epoch}.safetensors"
        if not path.exists():
            raise CheckpointError(f"No weights of {name!r} have been saved yet ({path} does not exist).")
        tensors, _ = read_tensors(path)
        prefix = f"{name}|net|" if epoch == "last" else f"{name}|"
        own = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        net = self._new_student()
        net.load_state_dict({k: v for k, v in own.items() if not k.startswith("method|")})
        return freeze(net)

    # ---- tables -------------------------------------------------------------------------------------

    def history(self, seed: int | None = None) -> pd.DataFrame:
        """A row for each seed, epoch and student: losses, accuracies (0..1), mean raw value of each term."""
        import pandas as pd

        runs = self.record.runs.items()
        return pd.DataFrame([row for s, run in runs if seed is None or s == seed for row in run.rows])

    def results(self) -> dict[str, dict[str, np.ndarray]]:
        """Per student, arrays over the seeds that have a finished epoch.

        Keys: "seed", "epoch" (last recorded), "last" (test accuracy there, 0..1), "best" (test
        accuracy at the epoch with the highest validation accuracy), "best_epoch", "val".
        """
        out = {}
        for name in self.names:
            columns: dict[str, list[float]] = {
                k: [] for k in ("seed", "epoch", "last", "best", "best_epoch", "val")
            }
            for seed, run in self.record.runs.items():
                rows = [row for row in run.rows if row["student"] == name and "test_accuracy" in row]
                if not rows:
                    continue
                best = max(rows, key=lambda row: (row.get("val_accuracy", 0.0), -row["epoch"]))
                values = (
                    seed,
                    rows[-1]["epoch"],
                    rows[-1]["test_accuracy"],
                    best["test_accuracy"],
                    best["epoch"],
                )
                for key, value in zip(columns, (*values, rows[-1]["val_accuracy"]), strict=True):
                    columns[key].append(value)
            out[name] = {key: np.asarray(values) for key, values in columns.items()}
        return out

    def table(self) -> pd.DataFrame:
        """Results in percent: a row for each teacher and student.

        Columns: network, role, method, status; seeds (how many); epoch (last recorded, the smallest
        over seeds); "last" and "last_sd": test accuracy after the last epoch, mean and sample
        standard deviation over seeds; "best" and "best_sd": test accuracy at the epoch with the
        highest *validation* accuracy; "gain" and "gain_sd": `last` minus that of the first student,
        paired by seed. Standard deviations are NaN for one seed.
        """
        import pandas as pd

        from kdlab.methods.base import STATUS_TEXT

        rows: list[dict[str, Any]] = []
        for teacher in self.teachers:
            rows.append(
                {
                    "network": teacher.name,
                    "role": "teacher",
                    "method": teacher.source,
                    "status": "",
                    "seeds": 1,
                    "last": 100 * teacher.accuracy,
                    "last_sd": np.nan,
                }
            )
        results = self.results()
        first = results[self.names[0]]
        for name, method in self.methods.items():
            mine = results[name]
            paired = (
                100 * (mine["last"] - first["last"])
                if len(mine["last"]) == len(first["last"])
                else np.zeros(0)
            )
            row: dict[str, Any] = {
                "network": name,
                "role": "student",
                "method": _label(method),
                "status": STATUS_TEXT[method.status],
                "seeds": len(mine["seed"]),
            }
            if len(mine["seed"]):
                row["epoch"] = int(mine["epoch"].min())
            for key, values in (("last", 100 * mine["last"]), ("best", 100 * mine["best"]), ("gain", paired)):
                row[key] = values.mean() if len(values) else np.nan
                row[f"{key}_sd"] = values.std(ddof=1) if len(values) > 1 else np.nan
            rows.append(row)
        columns = [
            "network",
            "role",
            "method",
            "status",
            "seeds",
            "epoch",
            "last",
            "last_sd",
            "best",
            "best_sd",
            "gain",
            "gain_sd",
        ]
        return pd.DataFrame(rows, columns=columns)

    # ---- small helps --------------------------------------------------------------------------------

    def _seed(self, seed: int | None) -> int:
        if seed is None:
            return self.seeds[0]
        if seed not in self.seeds:
            raise StudyError(f"This study has the seeds {self.seeds}, not {seed!r}.")
        return seed

    def _require_network(self, name: str) -> None:
        known = [*self.names, *(spec.name for spec in self._specs)]
        if name not in known:
            raise unknown_name("network", name, known)


def _label(method: Any) -> str:
    return method.title or type(method).__name__

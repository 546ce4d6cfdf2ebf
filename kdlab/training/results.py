"""Reading a study: snapshots, networks, history and the table of results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from kdlab import models
from kdlab.errors import CheckpointError, StudyError, unknown_name
from kdlab.models.features import StagedNet
from kdlab.training.checkpoint import Checkpoints
from kdlab.training.files import read_info, read_tensors
from kdlab.training.seeds import derive, seeded
from kdlab.training.snapshots import Snapshot, load_snapshot, snapshot_names
from kdlab.training.state import StudyState
from kdlab.training.teachers import freeze

if TYPE_CHECKING:
    import pandas as pd

    from kdlab.training.deploy import Exported, Predictor
    from kdlab.training.revive import Revived
    from kdlab.training.study import Study


class StudyResults(StudyState):
    """The reading half of a `Study`; everything here works on a live, finished or killed one."""

    # ---- snapshots ----------------------------------------------------------------------------------

    def snapshot_epochs(self, seed: int | None = None, network: str | None = None) -> list[int]:
        """Epochs of which snapshots exist (of one student, if named); 0 is before training.

        Args:
            seed: of the run; None is the first.
            network: a student, which may have come later or gone earlier than others.
        """
        folder = self._seed_folder(self._seed(seed)) / "snapshots"
        found = {
            int(match.group(1)): path
            for path in folder.glob("epoch-*")
            if (match := re.fullmatch(r"epoch-(\d+)\.safetensors", path.name))
        }
        return sorted(e for e, path in found.items() if network is None or network in snapshot_names(path))

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
            return self._loaded(path, network)
        self._require_network(network)
        epochs = self.snapshot_epochs(seed, network)
        if not epochs:
            raise StudyError(f"There is no snapshot of {network!r} yet; its training has not begun.")
        if epoch < 0:
            if -epoch > len(epochs):
                raise StudyError(f"There are only {len(epochs)} snapshots (epochs {epochs}).")
            epoch = epochs[epoch]
        if epoch not in epochs:
            raise StudyError(
                f"There is no snapshot of {network!r} at epoch {epoch}; there are those of epochs {epochs}."
            )
        folder = self._seed_folder(self._seed(seed)) / "snapshots"
        return self._loaded(folder / f"epoch-{epoch:05d}.safetensors", network)

    @staticmethod
    def _loaded(path: Path, network: str) -> Snapshot:
        snapshot = load_snapshot(path, network)
        if snapshot is None:
            raise StudyError(f"{path} holds no snapshot of {network!r}.")
        return snapshot

    # ---- networks -----------------------------------------------------------------------------------

    def network(self, name: str, epoch: str | int = "last", seed: int | None = None) -> StagedNet:
        """A trained network, frozen and in eval mode, rebuilt from the folder.

        Args:
            name: of a student or teacher.
            epoch: "last" (the last checkpoint), "best" (highest validation accuracy), one of the
                epochs whose checkpoints were kept (`kept_epochs`), or 0 (a student before training).
            seed: of the run; None is the first.

        Raises:
            CheckpointError: nothing has been saved yet, or not of that epoch.
        """
        self._require_network(name)
        for number, spec in enumerate(self._specs):
            if spec.name == name:
                teacher = spec.untrained(self.data)
                if spec.module is None:
                    models.load_checkpoint(teacher, self.folder / "teachers" / f"{number}.safetensors")
                return freeze(teacher)
        if epoch == 0 and not isinstance(epoch, bool):
            with seeded(derive(self._seed(seed), "student"), torch.device("cpu")):  # as the roster does
                return freeze(self._new_student(self.students[name].network))
        own = self._weights(name, epoch, self._seed_folder(self._seed(seed)))
        net = self._new_student(self.students[name].network)
        net.load_state_dict({k: v for k, v in own.items() if not k.startswith("method|")})
        return freeze(net)

    def revive(self, name: str, epoch: int | str = "last", seed: int | None = None) -> Revived:
        """A student's network and its method with all trained parts, as they were; to be looked into.

        See `kdlab.training.revive.revive`.
        """
        from kdlab.training.revive import revive

        return revive(cast("Study", self), name, epoch, seed)

    def predictor(self, name: str, epoch: str | int = "last", seed: int | None = None) -> Predictor:
        """What would be deployed, as a module: float pictures (B, C, H, W) from 0 to 1 in, logits out.

        The normalisation is inside, and so is what a method adds to its predictor (SimKD's projector).

        Args:
            name, epoch, seed: as of `network`.

        Raises:
            CheckpointError: nothing has been saved yet, or not of that epoch.
            ConfigError: a method that cannot predict without its teacher.

        >>> pictures = study.data.test.images[:2].float() / 255
        >>> study.predictor("KD")(pictures).shape
        torch.Size([2, 10])
        """
        from kdlab.training.deploy import predictor

        return predictor(cast("Study", self), name, epoch, seed)

    def export(
        self, name: str, path: str | Path, epoch: str | int = "last", seed: int | None = None
    ) -> Exported:
        """Write a network for use elsewhere, and compare the file's answers with PyTorch's.

        A file named .onnx holds the `predictor`: it takes pictures from 0 to 1 (input "pictures", any
        number of them) and gives "logits"; it needs `pip install "kdlab[onnx]"`. One named .safetensors
        holds the weights, for `kdlab.models.load_checkpoint`; normalise the pictures yourself. Mean,
        deviation, names of the classes and the origin are in the metadata of both.

        Args:
            name, epoch, seed: as of `network`.
            path: of the file; one that is there is replaced.

        Raises:
            ConfigError: another ending, packages are missing, or the file could not hold the predictor.
            CheckpointError: it cannot be written, or answers otherwise than the network.

        >>> done = study.export("KD", "kd.safetensors")
        >>> done.path.exists(), done.difference
        (True, 0.0)
        """
        from kdlab.training.deploy import export

        return export(cast("Study", self), name, path, epoch, seed)

    def _weights(self, name: str, epoch: str | int, folder: Path) -> dict[str, Tensor]:
        if isinstance(epoch, int) and not isinstance(epoch, bool):
            kept = self._kept(name, folder)
            if epoch not in kept and epoch == self._last_whole_epoch(name, folder):
                return self._weights(name, "last", folder)
            if epoch not in kept:
                there = f"there are those of epochs {sorted(kept)}" if kept else "there is none so far"
                raise CheckpointError(
                    f"No checkpoint of {name!r} was kept after epoch {epoch}; {there} "
                    "(Study(keep=...) chooses which are kept)."
                )
            tensors, _ = Checkpoints(folder).kept(name, kept[epoch])
            return {k.removeprefix("net|"): v for k, v in tensors.items() if k.startswith("net|")}
        if epoch not in ("last", "best"):
            raise unknown_name("kept epoch", str(epoch), ("last", "best"))
        path = folder / f"{epoch}.safetensors"
        prefix = f"{name}|net|" if epoch == "last" else f"{name}|"
        tensors, _ = read_tensors(path, prefix) if path.exists() else ({}, None)
        if not tensors:
            raise CheckpointError(f"No weights of {name!r} have been saved yet ({path} has none).")
        return {k.removeprefix(prefix): v for k, v in tensors.items()}

    def _last_whole_epoch(self, name: str, folder: Path) -> int | None:
        """The epoch at whose end the last checkpoint of a student lies, if it lies at one's."""
        path = folder / "last.safetensors"
        place = read_info(path)["students"].get(name) if path.exists() else None
        if place is None or place["step"] % self.steps_per_epoch:
            return None
        return int(place["step"] // self.steps_per_epoch)

    def kept_epochs(self, student: str, seed: int | None = None) -> list[int]:
        """Epochs of a student whose checkpoints were kept; for `network` and quick forks."""
        self._require_student(student)
        return sorted(self._kept(student, self._seed_folder(self._seed(seed))))

    def weight_epochs(self, student: str, seed: int | None = None) -> list[int]:
        """Epochs at which `network` knows a student: 0 (before training), those kept, and the last one.

        The last one while no epoch is under way: a checkpoint in the middle of an epoch belongs to none.
        """
        folder = self._seed_folder(self._seed(seed))
        last = self._last_whole_epoch(student, folder)
        return sorted({0, *self.kept_epochs(student, seed), *(() if last is None else (last,))})

    def _kept(self, name: str, folder: Path) -> dict[int, int]:
        """Epoch -> step of the kept states at the end of epochs."""
        per = self.steps_per_epoch
        return {step // per: step for step in Checkpoints(folder).kept_steps(name) if step % per == 0}

    # ---- tables -------------------------------------------------------------------------------------

    def history(self, seed: int | None = None, *, per: str = "epoch") -> pd.DataFrame:
        """What was recorded, as a table.

        Args:
            seed: one seed only; None for all.
            per: "epoch": a row for each seed, epoch and student with losses, accuracies (0..1; "sample"
                is a fixed part of the training images, without augmentation), mean gradient norm, and
                means of each term, raw ("term/NAME") and weighted, and what methods say of themselves
                at the end of the epoch ("detail/NAME", such as guards against a collapse). "step": a row
                for each step instead, with loss, share of right answers, gradient norm, rate and terms.
        """
        import pandas as pd

        if per not in ("epoch", "step"):
            raise unknown_name("unit of a history", per, ("epoch", "step"))
        runs = {s: run for s, run in self.record.runs.items() if seed is None or s == seed}
        if per == "epoch":
            return pd.DataFrame([row for run in runs.values() for row in run.rows])
        parts = [self._steps(s, name) for s in runs for name in self.names]
        return pd.concat([p for p in parts if len(p)] or parts[:1] or [pd.DataFrame()], ignore_index=True)

    def _steps(self, seed: int, student: str) -> pd.DataFrame:
        import pandas as pd

        run = self.record.runs[seed]
        columns = run.columns(student)
        weighted = [f"weighted/{c.removeprefix('term/')}" for c in columns if c.startswith("term/")]
        steps = run.series(student, "loss")[0].astype(int)
        frame = pd.DataFrame({"seed": seed, "student": student, "step": steps})
        frame["epoch"] = (steps - 1) // self.steps_per_epoch + 1
        return frame.assign(**{key: run.series(student, key)[1] for key in (*columns, *weighted)})

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
                with_score = [row for row in run.rows if row["student"] == name and "test_accuracy" in row]
                rows = sorted(with_score, key=lambda row: row["epoch"])
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

        Columns: network, role, method, status; differs: what else than the loss is its own; note:
        whether it was forked, dropped or stopped by a guard; seeds (how many); epoch (last recorded, the
        smallest over seeds); "last" and "last_sd": test accuracy after the last epoch, mean and sample
        standard deviation over seeds; "best" and "best_sd": test accuracy at the epoch with the
        highest *validation* accuracy; "gain" and "gain_sd": `last` minus that of the first student,
        paired by seed, where both were trained equally long. Standard deviations are NaN for one seed.
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
                    "differs": "",
                    "note": "",
                    "seeds": 1,
                    "last": 100 * teacher.accuracy,
                    "last_sd": np.nan,
                }
            )
        results = self.results()
        first = results[self.names[0]]
        for name, student in self.students.items():
            mine, method = results[name], student.method
            common, here, there = np.intersect1d(mine["seed"], first["seed"], return_indices=True)
            paired = 100 * (mine["last"][here] - first["last"][there]) if len(common) else np.zeros(0)
            paired = paired[mine["epoch"][here] == first["epoch"][there]] if len(common) else paired
            row: dict[str, Any] = {
                "network": name,
                "role": "student",
                "method": _label(method),
                "status": STATUS_TEXT[method.status],
                "differs": student.label(),
                "note": self._note(name),
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
            "differs",
            "note",
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

    def _note(self, name: str) -> str:
        """What happened to a student by hand or by a guard."""
        notes = []
        for command in self.record.marks():
            if command["student"] == name and command["kind"] == "fork" and self._never_made(name):
                notes.append(f"never forked: {command['parent']} ended before")
            elif command["student"] == name and command["kind"] in ("fork", "drop", "add"):
                when = "" if command["kind"] == "add" else f" in epoch {command['epoch']}"
                notes.append(f"{command['text']}{when}")
        for failure in self.failures():
            if failure["student"] == name:
                notes.append(f"stopped by a guard in epoch {failure['epoch']} (seed {failure['seed']})")
        return "; ".join(notes)

    def _never_made(self, name: str) -> bool:
        """Whether a fork was planned, and everything ended before it could be made."""
        return self._state == "finished" and not any(run.columns(name) for run in self.record.runs.values())

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

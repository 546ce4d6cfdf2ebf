"""The training thread of a study: teachers first, then one run for each seed."""

from __future__ import annotations

import atexit
import time
import warnings
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from kdlab import models
from kdlab.errors import StudyError
from kdlab.files import remove_leftovers
from kdlab.models.features import inspect_net
from kdlab.training import config
from kdlab.training.commands import upgraded
from kdlab.training.files import locked, read_json, read_json_lines, write_json
from kdlab.training.guards import StudentsFailed
from kdlab.training.loop import Run
from kdlab.training.plan import RunPlan
from kdlab.training.record import RunRecord
from kdlab.training.results import StudyResults
from kdlab.training.snapshots import load_probe_set, measure, save_probe_set, save_snapshots
from kdlab.training.steering import Steering
from kdlab.training.teacher_specs import TeacherSpec
from kdlab.training.teachers import TeacherInfo, freeze

_AT_WORK: weakref.WeakSet[Worker] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """When Python ends, trainings end with a checkpoint instead of being torn down in a step."""
    working = list(_AT_WORK)
    for study in working:
        study.stop()
    for study in working:
        study.wait(30.0)


class Worker(Steering, StudyResults):
    """The half of a `Study` that does the work, and keeps the folder."""

    checkpoint_seconds: float
    _tensorboard: bool = False

    def _work(self) -> None:
        state = "failed"
        _AT_WORK.add(self)
        try:
            with locked(self.folder, "this study"):
                remove_leftovers(self.folder)
                state = self._train_all()
        except BaseException as error:
            self.error = error if isinstance(error, Exception) else StudyError(str(error))
            if self.control.stopping and isinstance(error, StudyError):
                self.error, state = None, "stopped"  # a stop in the middle of a teacher's training
            else:
                self.board.post(error=f"{type(error).__name__}: {error}")
        finally:
            _AT_WORK.discard(self)
            with self._lock:
                self._run = None
                self._state = state
                self.board.post(state=state)
                self.control.close()
            self.board.post(done=True)

    def _train_all(self) -> str:
        self._write_asked()
        if not self._prepare():
            return "stopped"
        failure: StudyError | None = None
        while undone := [seed for seed in self.seeds if not self._seed_done(seed)]:  # an add may reopen some
            run = self._make_run(undone[0])
            self._run = run
            self.board.post(state=self.state)
            try:
                if not run.train():
                    return "stopped"
            except StudentsFailed as error:  # the other seeds may fare better
                failure = error
        if failure is not None:
            raise failure
        return "finished"

    def _make_run(self, seed: int) -> Run:
        number = self.seeds.index(seed) + 1
        record = RunRecord(self._seed_folder(seed))
        plan = RunPlan(
            data=self.data,
            make_student=self._new_student,
            students=self.students,
            recipe=self.recipe,
            seed=seed,
            device=self.device,
            teachers=[t.net for t in self.teachers if t.net is not None],
            folder=self._seed_folder(seed),
            probe=self.probe_set,
            snapshot_epochs=self.asked["snapshots"],
            keep=config.kept_epochs(self.options.keep, self.epochs),
            checkpoint_seconds=self.checkpoint_seconds,
            evaluate_every=self.asked["evaluate_every"],
            options=self.options,
            commands=self.record.commands,
            number=number,
            progress={"seed_number": number, "seeds": len(self.seeds)},
        )
        run = Run(plan, record, self.control, self.board)
        run.resume()
        if self._tensorboard:
            from kdlab.training.tensorboard import TensorBoardListener

            listener = TensorBoardListener(self.folder / "tensorboard" / f"seed-{seed}")
            record.listeners.append(listener)
            for command in self.record.marks(seed):  # those given before this run
                if command["step"] >= run.position:
                    listener.command(command)
        self.record.runs[seed] = record
        self.record.runs = {s: self.record.runs[s] for s in self.seeds if s in self.record.runs}
        self.record.latest = seed
        return run

    def _listen(self, tensorboard: bool) -> None:
        if tensorboard:
            from kdlab.training.tensorboard import require_tensorboard

            require_tensorboard()
        self._tensorboard = tensorboard

    def _prepare(self) -> bool:
        """Teachers at hand and measured, their snapshot taken; False if stopped meanwhile."""
        if len(self.teachers) < len(self._specs) or any(t.net is None for t in self.teachers):
            known = {t.name: t for t in self.teachers}
            loaded = [self._load_teacher(spec, known.get(spec.name)) for spec in self._specs]
            self.teachers = loaded
            facts = [t.facts() for t in loaded]
            write_json(self.folder / "teachers" / "teachers.json", facts)
        path = self.folder / "teachers" / "snapshots.safetensors"
        if self.teachers and not path.exists():
            nets: dict[str, Any] = {t.name: (t.net, None) for t in self.teachers}
            taken = measure(
                nets, (), self.data, self.probe_set, device=self.device, epoch=0, seed=self.seeds[0]
            )
            save_snapshots(path, taken)
        return not self.control.stopping

    def _load_teacher(self, spec: TeacherSpec, known: TeacherInfo | None) -> TeacherInfo:
        kept = self.folder / "teachers" / f"{self._specs.index(spec)}.safetensors"
        if known is not None and kept.exists() and spec.module is None:
            net = spec.untrained(self.data)
            models.load_checkpoint(net, kept)
            if models.state_hash(net) != known.hash:
                raise StudyError(
                    f"The weights in {kept} are not those the study began with; restore the file."
                )
            known.net = freeze(net, self.device)
            return known
        info = spec.load(self.whole_data, self.device, **self._watching(spec))
        if known is not None and info.hash != known.hash:
            raise StudyError(
                f"Teacher {spec.name!r} has other weights than the one the study began with; "
                "give the same one."
            )
        assert info.net is not None
        models.save_checkpoint(info.net, kept, {"architecture": info.architecture})
        return info

    def _watching(self, spec: TeacherSpec) -> dict[str, Any]:
        trains = spec.module is None and spec.checkpoint is None
        return {"progress": False, "control": self.control, "board": self.board} if trains else {}

    def live_snapshot(
        self, networks: Sequence[str] | None = None, count: int | None = None
    ) -> Future[dict[str, Any]]:
        """Snapshots of students as they are now, taken between two steps.

        Args:
            networks: students to look at; None for all.
            count: so many evaluation pictures only; None for the whole probe set.

        Returns:
            A future of name -> `Snapshot`; the last ones on disk where no training is at work.
        """
        return self.control.call(self._measure_now, networks, count)

    def _measure_now(self, networks: Sequence[str] | None, count: int | None) -> dict[str, Any]:
        if self._run is not None and self._run.plan.phase == "students":
            return self._run.measure_now(networks, count)
        if not self.snapshot_epochs():
            raise StudyError("There is no snapshot yet; the training of the students has not begun.")
        return {name: self.snapshot(name) for name in networks or self.names}

    def _write_asked(self) -> None:
        if (self.folder / "study.json").exists():
            return
        save_probe_set(self.folder / "probe_set.safetensors", self.probe_set)
        facts = {
            "class_names": list(self.data.class_names),
            "description": self.data.describe(),
            "mean": list(self.data.mean),
            "std": list(self.data.std),
            "coarse_names": self.data.coarse_names and list(self.data.coarse_names),
            "fine_to_coarse": self.data.fine_to_coarse and list(self.data.fine_to_coarse),
            "factor_names": {name: list(values) for name, values in self.data.factor_names.items()},
            "train_images": len(self.data.train),
            "student_parameters": inspect_net(self._new_student(), self.data.input_shape).parameters,
        }
        record = {
            "format": config.STUDY_FORMAT,
            "asked": self.asked,
            "facts": facts,
            "environment": config.environment(),
            "created": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        write_json(self.folder / "study.json", record)  # last: its presence says the folder is a study

    def _warn_of_other_versions(self, then: dict[str, Any]) -> None:
        """Say so where going on would mix versions: exact resumption needs the code it began with."""
        now = config.environment()
        changed = [f"{k} {then.get(k)} (now {now[k]})" for k in ("kdlab", "torch") if then.get(k) != now[k]]
        if changed and self._state != "finished":
            warnings.warn(
                f"The study in {self.folder} was begun with {' and '.join(changed)}. It can be gone on with, "
                "but may not end with the very same weights; use the versions of then if that matters.",
                stacklevel=3,
            )

    def _read_folder(self) -> None:
        """Take up what lies in the folder: probe set, teachers' facts, records, commands."""
        self._probe_set = load_probe_set(self.folder / "probe_set.safetensors")
        path = self.folder / "teachers" / "teachers.json"
        if path.exists():
            self.teachers = [TeacherInfo(net=None, **facts) for facts in read_json(path)]
        self.record.commands = [upgraded(c) for c in read_json_lines(self.folder / "commands.jsonl")]
        for seed in self.seeds:
            folder = self._seed_folder(seed)
            if folder.exists():
                self.record.runs[seed] = RunRecord(folder)
                self.record.runs[seed].load()
        self._state = "finished" if all(map(self._seed_done, self.seeds)) else "stopped"
        self.board.post(state=self._state, done=True, curves=-1)
